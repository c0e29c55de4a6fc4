//! Attributes that do not fit beside the vault's files: all of them old or new, whatever happens.

use super::*;
use crate::backing::{At, PublishedFile, TempFile};
use crate::format::XattrMap;

const KEY: &[u8] = b"user.key";

/// A vault on a disk that takes as much beside a file as ext4, and its keys, made once: there are many cuts.
fn made() -> &'static (SimDisk, OpenVault) {
    static MADE: OnceLock<(SimDisk, OpenVault)> = OnceLock::new();
    MADE.get_or_init(|| {
        let disk = vault();
        disk.set_xattr_limit(4000);
        let open = config::open(&vault::read_config(&disk).unwrap(), b"p").unwrap();
        (disk, open)
    })
}

fn tight_vault() -> SimDisk {
    made().0.crash(&CrashRule::Everything)
}

fn mount(disk: &SimDisk) -> Arc<Store<SimDisk>> {
    let OpenVault { config, keys } = &made().1;
    let open = OpenVault { config: config.clone(), keys: Arc::clone(keys) };
    let entropy = Arc::new(SeededEntropy::new(MOUNTS.fetch_add(1, Ordering::Relaxed)));
    let (options, clock) = (StoreOptions::default(), Arc::new(SystemClock::new()));
    Store::open(Arc::new(disk.clone()), open, options, entropy, clock).unwrap()
}

fn set(store: &Store<SimDisk>, node: &TestNode, name: &[u8], value: &[u8]) {
    store.set_xattr(node, name, value, SetXattr::Any).unwrap();
}

fn all(store: &Store<SimDisk>, node: &TestNode) -> Result<XattrMap> {
    let names = store.list_xattrs(node)?;
    names.into_iter().map(|name| Ok((name.clone(), store.get_xattr(node, &name)?))).collect()
}

fn rewrite(store: &Store<SimDisk>, node: &TestNode, content: &[u8]) {
    store.open_file(node, true).unwrap();
    store.write(node, 0, content).unwrap();
    store.fsync(node).unwrap();
    store.close_file(node, true);
}

fn long_name(letter: u8) -> Vec<u8> {
    [&b"user."[..], &[letter; 250]].concat()
}

/// The side objects in the vault.
fn sides(disk: &SimDisk) -> Vec<Vec<u8>> {
    let paths = disk.paths().into_iter().map(|(path, ..)| path);
    paths.filter_map(|path| Some(path.strip_prefix(b".akasha/xattrs/")?.to_vec())).collect()
}

#[test]
fn large_attributes_of_everything_survive_rewrites_renames_and_remounts() {
    for privileged in [true, false] {
        let disk = tight_vault();
        disk.set_privileged(privileged);
        let store = mount(&disk);
        let root = store.root();
        let dir = store.mkdir(&root, b"dir", &NewAttr { mode: 0o755, ..NEW }).unwrap();
        let file = put(&store, &dir, b"file", b"one");
        let big = put(&store, &root, b"big", &noise(600 << 10, 1));
        let linked = put(&store, &root, b"linked", b"x");
        store.link(&linked, &root, b"second").unwrap();
        let fifo = store.make_special(&root, b"fifo", EntryKind::Fifo, 0, &NEW).unwrap();
        let link = store.symlink(&root, b"link", b"target", &NEW).unwrap();
        let pending = store.create(&root, b"pending", &NEW).unwrap();
        let nodes = [&root, &dir, &file, &big, &linked, &fifo, &link, &pending];
        let mut wanted = Vec::new();
        for (at, node) in nodes.iter().enumerate() {
            set(&store, node, KEY, b"small");
            set(&store, node, b"user.large", &noise(65536, at as u64));
            set(&store, node, &long_name(b'n'), &[at as u8; 300]);
            set(&store, node, b"user.gone", &noise(5000, 3));
            store.remove_xattr(node, b"user.gone").unwrap();
            assert!(matches!(store.remove_xattr(node, b"user.gone"), Err(StoreError::NoAttribute)));
            assert!(matches!(
                store.set_xattr(node, KEY, b"", SetXattr::Create),
                Err(StoreError::AlreadyExists)
            ));
            assert!(store.has_xattrs(node).unwrap());
            wanted.push(XattrMap::from([
                (KEY.to_vec(), b"small".to_vec()),
                (b"user.large".to_vec(), noise(65536, at as u64)),
                (long_name(b'n'), vec![at as u8; 300]),
            ]));
            let mode = SetAttr { mode: Some(0o451), ..SetAttr::default() };
            if node.kind() == EntryKind::File {
                store.set_attr(node, &mode).unwrap();
            }
            assert_eq!(all(&store, node).unwrap(), wanted[at], "{at}");
        }
        store.close_file(&pending, true);
        rewrite(&store, &file, b"two");
        rewrite(&store, &big, b"changed");
        rewrite(&store, &linked, b"changed");
        store.rename(&dir, b"file", &root, b"moved", RenameFlags::Replace).unwrap();
        let names: [&[u8]; 8] =
            [b"", b"dir", b"moved", b"big", b"second", b"fifo", b"link", b"pending"];
        let check = |store: &Store<SimDisk>| {
            let root = store.root();
            for (at, name) in names.iter().enumerate() {
                let node =
                    if name.is_empty() { root.clone() } else { store.lookup(&root, name).unwrap() };
                assert_eq!(all(store, &node).unwrap(), wanted[at], "{at}");
                assert!(matches!(
                    store.get_xattr(&node, b"user.gone"),
                    Err(StoreError::NoAttribute)
                ));
                if node.kind() == EntryKind::File {
                    assert_eq!(store.attr(&node).unwrap().mode, 0o451);
                }
            }
        };
        check(&store);
        store.close().unwrap();
        drop((root, dir, file, big, linked, fifo, link, pending, store));
        assert_eq!(sides(&disk).len(), 8);
        let store = mount(&disk);
        check(&store);
        for name in [&b"big"[..], b"moved", b"second"] {
            rewrite(&store, &store.lookup(&store.root(), name).unwrap(), b"again");
        }
        check(&store);
        store.close().unwrap();
        drop(store);
        let store = mount(&disk);
        check(&store);
        // All that is removed takes its own along.
        let root = store.root();
        for name in [&b"moved"[..], b"big", b"linked", b"second", b"fifo", b"link", b"pending"] {
            store.unlink(&root, name).unwrap();
        }
        store.rmdir(&root, b"dir").unwrap();
        for name in wanted[0].keys() {
            store.remove_xattr(&root, name).unwrap();
        }
        assert!(!store.has_xattrs(&root).unwrap());
        store.close().unwrap();
        assert_eq!(sides(&disk), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn attributes_are_moved_as_their_number_grows_and_nothing_stays_behind() {
    let disk = tight_vault();
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"f", b"x");
    let dir = store.mkdir(&root, b"d", &NEW).unwrap();
    for node in [&file, &dir] {
        let mut wanted = XattrMap::new();
        for at in 0..40_u8 {
            let (name, value) = (format!("user.{at}").into_bytes(), vec![at; 200]);
            set(&store, node, &name, &value);
            wanted.insert(name, value);
            assert_eq!(all(&store, node).unwrap(), wanted);
            if at % 7 == 0 {
                store.tick();
                store.finish_sides();
                assert_eq!(all(&store, node).unwrap(), wanted);
            }
        }
        store.finish_sides();
        assert_eq!(sides(&disk).len(), 1);
        // Nothing is left beside it but the reference.
        let keys = node.xattr_keys(&store.core).unwrap();
        assert_eq!(keys.len(), 0);
        for name in wanted.keys() {
            store.remove_xattr(node, name).unwrap();
        }
        assert_eq!(all(&store, node).unwrap(), XattrMap::new());
        set(&store, node, KEY, b"beside it again");
        store.finish_sides();
        assert_eq!(sides(&disk), Vec::<Vec<u8>>::new());
        assert_eq!(all(&store, node).unwrap().len(), 1);
    }
    store.close().unwrap();
}

#[test]
fn more_than_an_object_can_have_is_refused_and_changes_nothing() {
    let disk = tight_vault();
    let store = mount(&disk);
    let root = store.root();
    for (len, most) in [(65536, 15), (0, 256)] {
        let pending = store.create(&root, format!("p{len}").as_bytes(), &NEW).unwrap();
        let file = put(&store, &root, format!("f{len}").as_bytes(), b"x");
        for node in [&pending, &file] {
            let mut wanted = XattrMap::new();
            let full = loop {
                let number = format!("{:03}", wanted.len());
                let name = [&long_name(b'a')[..252], number.as_bytes()].concat();
                match store.set_xattr(node, &name, &vec![7; len], SetXattr::Any) {
                    Ok(()) => wanted.insert(name, vec![7; len]),
                    Err(error) => break error,
                };
            };
            let StoreError::Io { source, .. } = full else { panic!("{full:?}") };
            assert_eq!(source.raw_os_error(), Some(libc::ENOSPC));
            assert_eq!(wanted.len(), most);
            assert_eq!(
                store.list_xattrs(node).unwrap(),
                wanted.keys().cloned().collect::<Vec<_>>()
            );
            let last = wanted.keys().next_back().unwrap();
            assert_eq!(store.get_xattr(node, last).unwrap(), wanted[last]);
        }
        store.close_file(&pending, true);
    }
    store.close().unwrap();
}

#[test]
fn an_unlinked_open_file_keeps_large_attributes() {
    let disk = tight_vault();
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"f", b"one");
    let new = store.create(&root, b"n", &NEW).unwrap();
    store.open_file(&file, true).unwrap();
    for (node, name) in [(&file, b"f"), (&new, b"n")] {
        set(&store, node, KEY, &noise(9000, 1));
        store.unlink(&root, name).unwrap();
        assert_eq!(all(&store, node).unwrap()[KEY], noise(9000, 1));
        store.write(node, 0, b"two").unwrap();
        set(&store, node, b"user.more", &noise(9000, 2));
        store.fsync(node).unwrap();
        store.remove_xattr(node, KEY).unwrap();
        store.finish_sides();
        assert_eq!(all(&store, node).unwrap()[&b"user.more"[..]], noise(9000, 2));
        store.close_file(node, true);
    }
    drop((file, new));
    store.close().unwrap();
    assert_eq!(sides(&disk), Vec::<Vec<u8>>::new());
}

/// An object of the script below, and what its attributes were.
struct Watched {
    name: &'static [u8],
    /// What may be found: all attributes after each change, the first of them before any.
    states: Vec<XattrMap>,
    /// The first that may be found after a cut.
    durable: usize,
    /// Whether the object itself is durable.
    exists: bool,
}

/// Runs a script until the disk fails; the last state of each object is one that was perhaps not reached.
fn script(store: &Arc<Store<SimDisk>>, seen: &mut Vec<Watched>) -> Result<()> {
    let root = store.root();
    let watched = |name| Watched { name, states: vec![XattrMap::new()], durable: 0, exists: false };
    seen.extend([watched(b"f"), watched(b"d"), watched(b"h"), watched(b"p")]);
    let create = |name: &[u8]| -> Result<TestNode> {
        let node = store.create(&root, name, &NEW)?;
        store.write(&node, 0, b"content")?;
        Ok(node)
    };
    let change = |seen: &mut Watched, node: &TestNode, name: &[u8], value: Option<&[u8]>| {
        let mut next = seen.states.last().unwrap().clone();
        match value {
            Some(value) => next.insert(name.to_vec(), value.to_vec()),
            None => next.remove(name),
        };
        seen.states.push(next);
        match value {
            Some(value) => store.set_xattr(node, name, value, SetXattr::Any),
            None => store.remove_xattr(node, name),
        }
    };
    let file = create(b"f")?;
    store.fsync(&file)?;
    store.close_file(&file, true);
    let dir = store.mkdir(&root, b"d", &NEW)?;
    let linked = create(b"h")?;
    store.link(&linked, &root, b"h2")?;
    store.fsync(&linked)?;
    store.close_file(&linked, true);
    store.fsync(&dir)?;
    store.fsync(&root)?;
    for seen in &mut seen[..3] {
        seen.exists = true;
    }
    let pending = create(b"p")?;
    let nodes = [file, dir, linked, pending];
    let synced = |seen: &mut Watched, node: &TestNode| -> Result<()> {
        store.fsync(node)?;
        seen.durable = seen.states.len() - 1;
        seen.exists = true;
        Ok(())
    };
    for (at, node) in nodes.iter().enumerate() {
        let seen = &mut seen[at];
        change(seen, node, KEY, Some(b"small"))?;
        change(seen, node, b"user.b", Some(&noise(1500, 1)))?;
        change(seen, node, b"user.c", Some(&noise(1500, 2)))?;
        change(seen, node, b"user.c", Some(&noise(2500, 3)))?;
        if at != 1 {
            store.open_file(node, true)?;
            store.write(node, 0, b"next")?;
            store.flush(node)?;
            store.close_file(node, true);
        }
        if at == 2 {
            synced(seen, node)?;
        }
        change(seen, node, &long_name(b'l'), Some(b"1"))?;
        store.finish_sides();
        if at == 0 {
            store.rename(&root, b"f", &root, b"f", RenameFlags::Replace)?;
            store.open_file(node, true)?;
            store.write(node, 0, b"more")?;
            store.close_file(node, true);
        }
        synced(seen, node)?;
        change(seen, node, KEY, None)?;
        store.finish_sides();
        change(seen, node, b"user.b", None)?;
        change(seen, node, b"user.c", None)?;
        change(seen, node, &long_name(b'l'), None)?;
        change(seen, node, KEY, Some(b"beside it"))?;
        store.finish_sides();
        change(seen, node, b"user.last", Some(&noise(4000, 9)))?;
    }
    store.close_file(&nodes[3], true);
    store.close()
}

/// What a disk that keeps no order of attributes may leave of these states: each attribute as one of them has it.
fn is_mixed_of(now: &XattrMap, states: &[XattrMap]) -> bool {
    let names = states.iter().chain([now]).flat_map(XattrMap::keys);
    names.into_iter().all(|name| states.iter().any(|state| state.get(name) == now.get(name)))
}

fn judge(disk: &SimDisk, rule: CrashRule, seen: &[Watched], why: &str) {
    let store = mount(disk);
    let root = store.root();
    for seen in seen {
        let node = match store.lookup(&root, seen.name) {
            Ok(node) => node,
            Err(error) => {
                assert!(!seen.exists, "{why}: {error:?}");
                continue;
            }
        };
        let name = String::from_utf8_lossy(seen.name);
        let now = all(&store, &node).unwrap_or_else(|error| panic!("{why}: {name}: {error:?}"));
        let allowed = &seen.states[seen.durable..];
        let is_allowed = match rule {
            CrashRule::Random { .. } => is_mixed_of(&now, allowed),
            _ => allowed.contains(&now),
        };
        assert!(is_allowed, "{why}: {name} has {:?}", now.keys());
        // It can be changed and rewritten.
        store.set_xattr(&node, b"user.new", &[1; 3000], SetXattr::Any).unwrap();
        if node.kind() == EntryKind::File {
            rewrite(&store, &node, b"again");
        }
        let mut next = now;
        next.insert(b"user.new".to_vec(), vec![1; 3000]);
        assert_eq!(all(&store, &node).unwrap(), next, "{why}: {name}");
    }
    store.close().unwrap();
    drop((root, store));
    // One side object each, and no others.
    let store = mount(disk);
    let found = seen.iter().filter(|seen| store.lookup(&store.root(), seen.name).is_ok());
    assert_eq!(sides(disk).len(), found.count(), "{why}");
    store.close().unwrap();
}

#[test]
fn a_cut_at_any_point_leaves_the_old_attributes_or_the_new_ones() {
    let full = tight_vault();
    let store = mount(&full);
    let start = full.operations();
    script(&store, &mut Vec::new()).unwrap();
    let end = full.operations();
    drop(store);
    assert!(end - start > 250, "{}", end - start);
    // All of them with AKASHA_CUTS=all: some minutes.
    let step = if std::env::var("AKASHA_CUTS").is_ok_and(|cuts| cuts == "all") { 1 } else { 7 };
    for cut in (0..end - start).step_by(step) {
        let disk = tight_vault();
        let store = mount(&disk);
        disk.cut_at(disk.operations() + cut);
        let mut seen = Vec::new();
        let done = script(&store, &mut seen);
        assert!(done.is_err() || disk.is_off(), "{cut}");
        let rules = CrashRule::battery(disk.pending_changes(), cut..cut + 2);
        let journals = rules.len() - 6;
        for (at, rule) in rules.into_iter().enumerate() {
            // Of the prefixes of the journal one.
            if (2..2 + journals).contains(&at) && (at - 2) as u64 != cut % journals as u64 {
                continue;
            }
            judge(&disk.crash(&rule), rule, &seen, &format!("cut {cut}, {rule:?}"));
        }
    }
}

#[test]
fn setting_and_committing_at_once_loses_nothing() {
    let disk = tight_vault();
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"f", b"x");
    store.open_file(&file, true).unwrap();
    std::thread::scope(|scope| {
        let (setter, file_of) = (&store, &file);
        scope.spawn(move || {
            for at in 0..200_u32 {
                let name = format!("user.{}", at % 50);
                let value = at.to_le_bytes().repeat(1 + 40 * (at as usize % 3));
                set(setter, file_of, name.as_bytes(), &value);
            }
        });
        scope.spawn(move || {
            for _ in 0..100 {
                setter.list_xattrs(file_of).unwrap();
                setter.finish_sides();
            }
        });
        for at in 0..200_u32 {
            store.write(&file, 0, &at.to_le_bytes()).unwrap();
            store.fsync(&file).unwrap();
        }
    });
    let check = |store: &Arc<Store<SimDisk>>| {
        let file = store.lookup(&store.root(), b"f").unwrap();
        for at in 150..200_u32 {
            let name = format!("user.{}", at % 50);
            let value = at.to_le_bytes().repeat(1 + 40 * (at as usize % 3));
            assert_eq!(store.get_xattr(&file, name.as_bytes()).unwrap(), value);
        }
    };
    check(&store);
    store.close_file(&file, true);
    store.close().unwrap();
    drop((root, file, store));
    check(&mount(&disk));
    assert_eq!(sides(&disk).len(), 1);
}

#[test]
fn changed_moved_missing_and_older_side_objects_are_errors_and_the_content_stays() {
    let disk = tight_vault();
    let store = mount(&disk);
    let root = store.root();
    let mut versions = Vec::new();
    for name in [b"a", b"b"] {
        let file = put(&store, &root, name, b"content");
        set(&store, &file, KEY, &noise(5000, name[0].into()));
    }
    let control = disk.open_dir(&disk.root().unwrap(), CONTROL_DIR).unwrap();
    let dir = disk.open_dir(&control, b"xattrs").unwrap();
    let read = |name: &[u8]| {
        let file = disk.open(&dir, name).unwrap();
        let mut bytes = vec![0; usize::try_from(file.stat().unwrap().len).unwrap()];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    };
    for name in sides(&disk) {
        versions.push((name.clone(), read(&name)));
    }
    let older = versions.clone();
    for name in [b"a", b"b"] {
        let file = store.lookup(&root, name).unwrap();
        set(&store, &file, KEY, &noise(5000, u64::from(name[0]) + 1));
    }
    store.close().unwrap();
    drop((root, store));
    versions = sides(&disk).into_iter().map(|name| (name.clone(), read(&name))).collect();
    assert_eq!((older.len(), versions.len()), (2, 2));
    let write = |name: &[u8], bytes: Option<&[u8]>| {
        let _ = disk.unlink(&dir, name);
        if let Some(bytes) = bytes {
            let file = disk.create_temp(&dir, name, 0o600).unwrap();
            file.write_at(0, bytes).unwrap();
            file.sync().unwrap();
        }
    };
    let (name, good) = versions[0].clone();
    let mut bad: Vec<Option<Vec<u8>>> = vec![
        None,
        Some(Vec::new()),
        Some(good[..good.len() - 1].to_vec()),
        Some([&good[..], b"x"].concat()),
        Some(versions[1].1.clone()),
    ];
    bad.extend(older.iter().map(|(_, bytes)| Some(bytes.clone())));
    for at in (0..good.len()).step_by(617) {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        bad.push(Some(flipped));
    }
    for bytes in bad {
        write(&name, bytes.as_deref());
        let store = mount(&disk);
        let root = store.root();
        let mut damaged = 0;
        for file in [b"a", b"b"] {
            assert_eq!(get(&store, &root, file).unwrap(), b"content");
            let node = store.lookup(&root, file).unwrap();
            match all(&store, &node) {
                Ok(map) => assert_eq!(map[KEY], noise(5000, u64::from(file[0]) + 1)),
                Err(StoreError::Damaged { .. }) => {
                    damaged += 1;
                    for done in [
                        store.get_xattr(&node, KEY).map(drop),
                        store.set_xattr(&node, b"user.x", b"", SetXattr::Any),
                        store.remove_xattr(&node, KEY),
                    ] {
                        assert!(matches!(done, Err(StoreError::Damaged { .. })), "{done:?}");
                    }
                    // Nor does it keep the file from its next version.
                    rewrite(&store, &node, b"content");
                    assert!(matches!(all(&store, &node), Err(StoreError::Damaged { .. })));
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(damaged, 1);
        store.close().unwrap();
        drop((root, store));
    }
    write(&name, Some(&good));
    let store = mount(&disk);
    for file in [b"a", b"b"] {
        let node = store.lookup(&store.root(), file).unwrap();
        assert_eq!(all(&store, &node).unwrap()[KEY], noise(5000, u64::from(file[0]) + 1));
        // A reference of another file is no reference.
        assert!(disk.list_xattrs(&disk.root().unwrap(), At::This).unwrap().is_empty());
    }
    store.close().unwrap();
}

/// A backup tool may skip empty directories. They are made again when the vault is mounted, and a cut does not take them away with what
/// is in them.
#[test]
fn control_directories_that_a_backup_left_out_are_made_again_for_good() {
    for is_marked in [true, false] {
        let disk = tight_vault();
        mount(&disk).close().unwrap();
        let root = disk.root().unwrap();
        let control = disk.open_dir(&root, CONTROL_DIR).unwrap();
        for name in [&b"tmp"[..], b"layers", b"inodes", b"xattrs"] {
            disk.rmdir(&control, name).unwrap();
        }
        if !is_marked {
            disk.unlink(&control, b"clean").unwrap();
        }
        disk.sync_all(&root).unwrap();
        let store = mount(&disk);
        let mut content = noise(400 << 10, 1);
        let file = put(&store, &store.root(), b"f", &content);
        store.link(&file, &store.root(), b"g").unwrap();
        store.fsync(&file).unwrap();
        set(&store, &file, KEY, &[7; 5000]);
        store.open_file(&file, true).unwrap();
        store.write(&file, 8192, b"changed").unwrap();
        content[8192..8199].copy_from_slice(b"changed");
        store.fsync(&file).unwrap();
        for inside in [&b".akasha/layers/"[..], b".akasha/inodes/", b".akasha/xattrs/"] {
            assert!(disk.paths().iter().any(|(path, ..)| path.starts_with(inside)));
        }
        for (rule, after) in crashes(&disk) {
            let store = mount(&after);
            for name in [b"f", b"g"] {
                let now = get(&store, &store.root(), name);
                assert!(now.is_ok_and(|now| now == content), "marked {is_marked}, {rule:?}");
            }
            let file = store.lookup(&store.root(), b"f").unwrap();
            assert_eq!(store.get_xattr(&file, KEY).unwrap(), [7; 5000], "{is_marked}, {rule:?}");
        }
    }
}

/// What stood beside an entry before its attributes went to a side object does not come back when those are removed.
#[test]
fn attributes_from_before_a_side_object_do_not_come_back() {
    for is_finished in [false, true] {
        let disk = tight_vault();
        let store = mount(&disk);
        let root = store.root();
        let file = put(&store, &root, b"f", b"one");
        set(&store, &file, KEY, b"beside");
        store.fsync(&file).unwrap();
        set(&store, &file, b"user.large", &noise(9000, 1));
        set(&store, &file, KEY, b"in it");
        store.fsync(&file).unwrap();
        if is_finished {
            store.finish_sides();
        }
        let durable = all(&store, &file).unwrap();
        store.remove_xattr(&file, KEY).unwrap();
        store.remove_xattr(&file, b"user.large").unwrap();
        for seed in 0..60 {
            let rule = CrashRule::Random { seed };
            let store = mount(&disk.crash(&rule));
            let file = store.lookup(&store.root(), b"f").unwrap();
            let now = all(&store, &file).unwrap();
            let may_be = is_mixed_of(&now, &[durable.clone(), XattrMap::new()]);
            assert!(may_be, "{is_finished}, {rule:?}: {:?}", now.get(KEY));
        }
    }
}

/// A new version with attributes of its own was published, and is not durable: a cut brings back the one before, which needs its own.
#[test]
fn attributes_of_a_version_that_a_cut_brings_back_are_there() {
    let disk = tight_vault();
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"f", b"one");
    set(&store, &file, KEY, &noise(9000, 1));
    store.fsync(&file).unwrap();
    store.finish_sides();
    store.fsync(&file).unwrap();
    store.open_file(&file, true).unwrap();
    store.write(&file, 0, b"two").unwrap();
    set(&store, &file, KEY, &noise(9000, 2));
    store.close_file(&file, true);
    store.commit(std::slice::from_ref(&file), commit::Take::All).unwrap();
    store.finish_sides();
    for seed in 0..400 {
        let store = mount(&disk.crash(&CrashRule::Random { seed }));
        let file = store.lookup(&store.root(), b"f").unwrap();
        let value = store.get_xattr(&file, KEY).unwrap_or_else(|e| panic!("{seed}: {e}"));
        assert!(value == noise(9000, 1) || value == noise(9000, 2), "{seed}");
    }
}
