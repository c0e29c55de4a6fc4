//! Files with several names.

use super::*;
use crate::backing::{At, HardLinks, PublishedFile, RenameMode, TempFile};

fn nlink(store: &Store<SimDisk>, node: &TestNode) -> u32 {
    store.attr(node).unwrap().nlink
}

/// What lies in `.akasha/inodes` and `.akasha/layers`.
fn kept(disk: &SimDisk) -> Vec<String> {
    let paths = disk.paths();
    let inside =
        |path: &[u8]| path.starts_with(b".akasha/inodes/") || path.starts_with(b".akasha/layers/");
    let paths = paths.iter().filter(|(path, ..)| inside(path));
    paths.map(|(path, ..)| String::from_utf8_lossy(path).into_owned()).collect()
}

/// Has all of these names, of one file, with this content.
fn assert_one(store: &Store<SimDisk>, names: &[(&TestNode, &[u8])], content: &[u8]) {
    let first = store.lookup(names[0].0, names[0].1).unwrap();
    for (dir, name) in names {
        let node = store.lookup(dir, name).unwrap();
        assert!(Arc::ptr_eq(&node, &first));
        assert_eq!(get(store, dir, name).unwrap(), content);
        assert_eq!(
            nlink(store, &node) as usize,
            names.len(),
            "{:?}",
            String::from_utf8_lossy(name)
        );
        let mut listed = None;
        let list = |entry: &ListEntry<'_>| {
            listed = (entry.name == *name).then_some(entry.id).or(listed);
            true
        };
        let mut list = list;
        store.list(dir, 0, &mut list).unwrap();
        assert_eq!(listed, Some(node.id()), "d_ino is st_ino");
    }
}

fn write_over(store: &Store<SimDisk>, node: &TestNode, content: &[u8]) {
    store.open_file(node, true).unwrap();
    store.truncate(node, 0).unwrap();
    store.write(node, 0, content).unwrap();
    store.close_file(node, true);
}

#[test]
fn all_names_show_one_file_before_and_after_every_commit() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let dir = store.mkdir(&root, b"dir", &NEW).unwrap();
    for content in [b"small".to_vec(), noise(300 << 10, 7)] {
        let new = store.create(&root, b"new", &NEW).unwrap();
        store.write(&new, 0, &content).unwrap();
        store.close_file(&new, true);
        let old = put(&store, &root, b"old", &content);
        for (node, name) in [(&new, b"new".as_slice()), (&old, b"old")] {
            let (second, third) = ([name, b"2"].concat(), [name, b"3"].concat());
            store.link(node, &dir, &second).unwrap();
            assert_one(&store, &[(&root, name), (&dir, &second)], &content);
            store.link(node, &root, &third).unwrap();
            let names = [(&root, name), (&dir, second.as_slice()), (&root, third.as_slice())];
            assert_one(&store, &names, &content);
            assert!(matches!(store.link(node, &root, b"dir"), Err(StoreError::AlreadyExists)));
            store.fsync(node).unwrap();
            assert_one(&store, &names, &content);
            for (rule, after) in crashes(&disk) {
                let store = mount(&after);
                let root = store.root();
                let dir = store.lookup(&root, b"dir").unwrap();
                let names = [(&root, name), (&dir, second.as_slice()), (&root, third.as_slice())];
                assert_one(&store, &names, &content);
                let found = store.lookup(&root, name).unwrap();
                assert_eq!(found.id(), node.id(), "{rule:?}");
            }
            // Every kind of rewrite, in the middle and as a whole.
            store.open_file(node, true).unwrap();
            store.write(node, 2, b"XX").unwrap();
            store.fsync(node).unwrap();
            store.close_file(node, true);
            let mut changed = content.clone();
            changed[2..4].copy_from_slice(b"XX");
            assert_one(&store, &names, &changed);
            write_over(&store, node, b"other");
            assert_one(&store, &names, b"other");
            store.fsync(node).unwrap();
            let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
            store.set_attr(node, &set).unwrap();
            for (place, name) in names {
                let node = store.lookup(place, name).unwrap();
                assert_eq!(store.attr(&node).unwrap().mode, 0o600);
                store.unlink(place, name).unwrap();
            }
            assert_eq!(nlink(&store, node), 0);
        }
        drop((new, old));
        store.settle_all();
        assert_eq!(kept(&disk), [""; 0]);
    }
    drop((dir, root));
    store.close().unwrap();
    assert_eq!(tree_names(&disk), 1);
}

fn tree_names(disk: &SimDisk) -> usize {
    disk.paths().iter().filter(|(path, ..)| !path.starts_with(b".akasha")).count()
}

#[test]
fn a_second_name_and_no_first_one_is_a_rename() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let (tmp, new) =
        (store.mkdir(&root, b"tmp", &NEW).unwrap(), store.mkdir(&root, b"new", &NEW).unwrap());
    let mail = put(&store, &tmp, b"mail", b"dear you");
    store.link(&mail, &new, b"mail").unwrap();
    store.unlink(&tmp, b"mail").unwrap();
    assert_one(&store, &[(&new, b"mail")], b"dear you");
    assert!(store.lookup(&tmp, b"mail").is_err());
    // Before the commit: in its first place.
    for (rule, after) in crashes(&disk) {
        let store = mount(&after);
        let tmp = store.lookup(&store.root(), b"tmp").unwrap();
        assert_eq!(get(&store, &tmp, b"mail").unwrap(), b"dear you", "{rule:?}");
    }
    store.fsync(&mail).unwrap();
    for (rule, after) in crashes(&disk) {
        let store = mount(&after);
        let new = store.lookup(&store.root(), b"new").unwrap();
        assert_one(&store, &[(&new, b"mail")], b"dear you");
        let tmp = store.lookup(&store.root(), b"tmp").unwrap();
        assert!(store.lookup(&tmp, b"mail").is_err(), "{rule:?}");
    }
    assert_eq!(kept(&disk), [""; 0]);
    // The other way round: the second name goes, nothing happened. And of a file that was never committed.
    store.link(&mail, &tmp, b"lock").unwrap();
    store.unlink(&tmp, b"lock").unwrap();
    assert_one(&store, &[(&new, b"mail")], b"dear you");
    let fresh = store.create(&tmp, b"fresh", &NEW).unwrap();
    store.write(&fresh, 0, b"words").unwrap();
    store.close_file(&fresh, true);
    store.link(&fresh, &new, b"fresh").unwrap();
    store.unlink(&tmp, b"fresh").unwrap();
    assert_one(&store, &[(&new, b"fresh")], b"words");
    store.close().unwrap();
    drop((mail, fresh, tmp, new, root, store));
    assert_eq!(kept(&disk), [""; 0]);
    let store = mount(&disk);
    let new = store.lookup(&store.root(), b"new").unwrap();
    assert_one(&store, &[(&new, b"mail")], b"dear you");
    assert_one(&store, &[(&new, b"fresh")], b"words");
}

#[test]
fn names_move_replace_and_swap_like_those_of_other_files() {
    for committed in [false, true] {
        let disk = vault();
        let store = mount(&disk);
        let root = store.root();
        let dir = store.mkdir(&root, b"dir", &NEW).unwrap();
        let file = put(&store, &root, b"a", b"file");
        let sync = |store: &Store<SimDisk>| {
            if committed {
                store.fsync(&file).unwrap();
                store.settle_all();
            }
        };
        store.link(&file, &dir, b"b").unwrap();
        store.link(&file, &root, b"c").unwrap();
        sync(&store);
        // Two names of one file: nothing happens.
        store.rename(&root, b"a", &root, b"c", RenameFlags::Replace).unwrap();
        store.rename(&root, b"a", &dir, b"b", RenameFlags::Exchange).unwrap();
        assert_one(&store, &[(&root, b"a"), (&dir, b"b"), (&root, b"c")], b"file");
        store.rename(&root, b"a", &dir, b"moved", RenameFlags::Replace).unwrap();
        assert_one(&store, &[(&dir, b"moved"), (&dir, b"b"), (&root, b"c")], b"file");
        sync(&store);
        // Over another file, and another file over it.
        let other = put(&store, &root, b"other", b"other");
        store.rename(&dir, b"b", &root, b"other", RenameFlags::Replace).unwrap();
        assert_eq!(nlink(&store, &other), 0);
        assert_one(&store, &[(&dir, b"moved"), (&root, b"other"), (&root, b"c")], b"file");
        let next = put(&store, &root, b"next", b"next");
        store.rename(&root, b"next", &root, b"c", RenameFlags::Replace).unwrap();
        assert_one(&store, &[(&dir, b"moved"), (&root, b"other")], b"file");
        assert_one(&store, &[(&root, b"c")], b"next");
        sync(&store);
        // While it is being written.
        store.open_file(&file, true).unwrap();
        store.write(&file, 0, b"FILE").unwrap();
        store.rename(&root, b"other", &root, b"c", RenameFlags::Replace).unwrap();
        store.close_file(&file, true);
        assert_one(&store, &[(&dir, b"moved"), (&root, b"c")], b"FILE");
        assert_eq!(nlink(&store, &next), 0);
        let swap = put(&store, &dir, b"swap", b"swap");
        store.rename(&dir, b"swap", &root, b"c", RenameFlags::Exchange).unwrap();
        assert_one(&store, &[(&dir, b"moved"), (&dir, b"swap")], b"FILE");
        assert_one(&store, &[(&root, b"c")], b"swap");
        store.fsync_dir(&dir).unwrap();
        store.fsync(&file).unwrap();
        drop((other, next, swap));
        for (rule, after) in crashes(&disk) {
            let store = mount(&after);
            let root = store.root();
            assert_eq!(names(&store, &root), ["c", "dir"], "{rule:?}");
            let dir = store.lookup(&root, b"dir").unwrap();
            assert_eq!(names(&store, &dir), ["moved", "swap"], "{rule:?}");
            assert_one(&store, &[(&dir, b"moved"), (&dir, b"swap")], b"FILE");
            assert_one(&store, &[(&root, b"c")], b"swap");
        }
        store.unlink(&dir, b"swap").unwrap();
        store.unlink(&dir, b"moved").unwrap();
        drop(file);
        store.settle_all();
        assert_eq!(kept(&disk), [""; 0]);
    }
}

#[test]
fn a_file_without_names_lives_as_long_as_it_is_open() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    for committed in [false, true] {
        let file = put(&store, &root, b"a", &noise(300 << 10, 3));
        store.link(&file, &root, b"b").unwrap();
        if committed {
            store.fsync(&file).unwrap();
        }
        store.open_file(&file, true).unwrap();
        store.unlink(&root, b"a").unwrap();
        assert_eq!(nlink(&store, &file), 1);
        store.unlink(&root, b"b").unwrap();
        assert_eq!(nlink(&store, &file), 0);
        store.settle_all();
        store.write(&file, 5, b"open").unwrap();
        store.fsync(&file).unwrap();
        let mut out = [0; 4];
        store.read(&file, 5, &mut out).unwrap();
        assert_eq!(&out, b"open");
        let set = SetAttr { mode: Some(0o400), ..SetAttr::default() };
        assert_eq!(store.set_attr(&file, &set).unwrap().mode, 0o400);
        assert!(matches!(store.link(&file, &root, b"c"), Err(StoreError::NotFound)));
        for (rule, after) in crashes(&disk) {
            let store = mount(&after);
            let left = names(&store, &store.root());
            store.close().unwrap();
            assert!(!left.is_empty() || kept(&after).is_empty(), "{rule:?}: {:?}", kept(&after));
        }
        store.close_file(&file, true);
        drop(file);
        store.settle_all();
        assert_eq!(kept(&disk), [""; 0]);
        assert_eq!(tree_names(&disk), 0);
    }
}

#[test]
fn links_and_special_files_have_several_names_too() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let link = store.symlink(&root, b"link", b"target", &NEW).unwrap();
    let device = store.make_special(&root, b"dev", EntryKind::CharDevice, 0x0105, &NEW).unwrap();
    let dir = store.mkdir(&root, b"dir", &NEW).unwrap();
    store.link(&link, &dir, b"link").unwrap();
    store.link(&device, &dir, b"dev").unwrap();
    assert!(matches!(store.link(&dir, &root, b"no"), Err(StoreError::IsADirectory)));
    store.close().unwrap();
    drop((link, device, dir, root, store));
    let store = mount(&disk);
    let dir = store.lookup(&store.root(), b"dir").unwrap();
    for place in [&store.root(), &dir] {
        let link = store.lookup(place, b"link").unwrap();
        assert_eq!(store.readlink(&link).unwrap(), b"target");
        let device = store.lookup(place, b"dev").unwrap();
        assert_eq!(
            (device.kind(), store.attr(&device).unwrap().rdev),
            (EntryKind::CharDevice, 0x0105)
        );
        assert_eq!((nlink(&store, &link), nlink(&store, &device)), (2, 2));
    }
}

#[test]
fn a_vault_copied_without_its_hard_links_loses_nothing() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"a", b"content");
    store.link(&file, &root, b"b").unwrap();
    store.fsync(&file).unwrap();
    let stub = stub_path(&disk);
    store.close().unwrap();
    drop((file, root, store));
    // As a tool does that knows no hard links: everything under its name, each a file of its own.
    let top = disk.root().unwrap();
    let control = disk.open_dir(&top, CONTROL_DIR).unwrap();
    let (tmp, inodes) =
        (disk.open_dir(&control, b"tmp").unwrap(), disk.open_dir(&control, b"inodes").unwrap());
    let mut bytes = vec![0; 336];
    disk.open(&inodes, &stub).unwrap().read_at(0, &mut bytes).unwrap();
    let stubs: Vec<Vec<u8>> = disk
        .list(&top)
        .unwrap()
        .into_iter()
        .map(|raw| raw.name)
        .filter(|name| name[0] != b'.')
        .collect();
    for (dir, name) in stubs.iter().map(|name| (&top, name)).chain([(&inodes, &stub)]) {
        disk.create_temp(&tmp, b"copy", 0o600).unwrap().write_at(0, &bytes).unwrap();
        disk.rename(&tmp, b"copy", dir, name, RenameMode::Replace).unwrap();
    }
    assert_eq!(disk.stat(&inodes, At::Name(&stub)).unwrap().nlink, 1);
    let store = mount(&disk);
    let root = store.root();
    // It gets new names as before.
    let file = store.lookup(&root, b"a").unwrap();
    store.link(&file, &root, b"c").unwrap();
    store.fsync(&file).unwrap();
    for (rule, after) in crashes(&disk) {
        let store = mount(&after);
        assert_eq!(names(&store, &store.root()), ["a", "b", "c"], "{rule:?}");
        assert_eq!(get(&store, &store.root(), b"c").unwrap(), b"content", "{rule:?}");
    }
    store.unlink(&root, b"c").unwrap();
    drop(file);
    store.unlink(&root, b"a").unwrap();
    store.settle_all();
    assert_eq!(get(&store, &root, b"b").unwrap(), b"content");
    // The last one goes as well; what is left goes with the next look at everything.
    store.unlink(&root, b"b").unwrap();
    drop((root, store));
    let store = mount(&disk);
    assert_eq!(kept(&disk), [""; 0]);
    drop(store);
}

/// The older layers of a file with several names go when the version without them is durable in `.akasha/inodes`.
#[test]
fn layers_of_a_file_with_several_names_stay_until_a_version_without_them_is_durable() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let mut versions = vec![noise(400 << 10, 1)];
    let file = put(&store, &root, b"a", &versions[0]);
    store.link(&file, &root, b"b").unwrap();
    store.fsync(&file).unwrap();
    store.open_file(&file, true).unwrap();
    for (offset, bytes) in [(8192, noise(7, 2)), (0, noise(400 << 10, 3))] {
        let mut next = versions.last().unwrap().clone();
        next[offset..][..bytes.len()].copy_from_slice(&bytes);
        versions.push(next);
        store.write(&file, offset as u64, &bytes).unwrap();
        if offset > 0 {
            store.fsync(&file).unwrap();
        }
    }
    let layers = || disk.paths().iter().filter(|(p, ..)| p.starts_with(b".akasha/layers/")).count();
    assert_eq!(layers(), 1);
    store.commit(std::slice::from_ref(&file), commit::Take::All).unwrap();
    assert!(store.settle_all());
    assert_eq!(layers(), 0);
    for rule in (0..200).map(|seed| CrashRule::Random { seed }) {
        let store = mount(&disk.crash(&rule));
        for name in [b"a", b"b"] {
            let now = get(&store, &store.root(), name).unwrap_or_else(|e| panic!("{rule:?}: {e}"));
            assert!(versions[1..].contains(&now), "{rule:?}");
        }
    }
}

fn stub_path(disk: &SimDisk) -> Vec<u8> {
    let paths = disk.paths();
    let stub = paths.iter().find(|(path, ..)| path.ends_with(b".stub")).unwrap();
    stub.0.strip_prefix(b".akasha/inodes/").unwrap().to_vec()
}

#[test]
fn what_is_left_of_a_file_whose_names_never_appeared_is_removed() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"a", b"content");
    store.link(&file, &root, b"b").unwrap();
    // The file is in its new place, and the names cannot be made.
    disk.fail(2, libc::EIO, |call| call == CallKind::Link);
    assert!(store.fsync(&file).is_err());
    disk.heal();
    assert!(!kept(&disk).is_empty());
    for (rule, after) in crashes(&disk) {
        let store = mount(&after);
        assert_eq!(names(&store, &store.root()), ["a"], "{rule:?}");
        assert_one(&store, &[(&store.root(), b"a")], b"content");
        assert_eq!(kept(&after), [""; 0], "{rule:?}");
    }
    // It is tried again, also by who wants the first name away.
    store.unlink(&root, b"a").unwrap();
    assert_one(&store, &[(&root, b"b")], b"content");
    store.fsync_dir(&root).unwrap();
    for (_, after) in crashes(&disk) {
        let store = mount(&after);
        assert_one(&store, &[(&store.root(), b"b")], b"content");
    }
}

/// Counts the names of `node` again and again while it is committed and what was replaced is removed.
fn assert_steady(store: &Store<SimDisk>, node: &TestNode, expected: u32) {
    for _ in 0..50 {
        assert_eq!(nlink(store, node), expected);
    }
}

#[test]
fn nobody_who_counts_the_names_of_a_file_sees_a_commit_at_work() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"0", b"content");
    let at_work = std::sync::atomic::AtomicBool::new(true);
    let counted = std::thread::scope(|scope| {
        scope.spawn(|| {
            while at_work.load(Ordering::Relaxed) {
                store.fsync(&file).unwrap();
                store.settle_all();
            }
        });
        // Whatever it finds, the other thread must end.
        let counted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let names: Vec<Vec<u8>> = (0..400).map(|number| number.to_string().into()).collect();
            for (number, name) in (1..).zip(&names[1..]) {
                store.link(&file, &root, name).unwrap();
                assert_steady(&store, &file, number + 1);
            }
            for (number, name) in (1..).zip(&names[1..]) {
                put(&store, &root, b"other", b"of one name");
                store.rename(&root, b"other", &root, name, RenameFlags::Replace).unwrap();
                assert_steady(&store, &file, 400 - number);
            }
        }));
        at_work.store(false, Ordering::Relaxed);
        counted
    });
    if let Err(panic) = counted {
        std::panic::resume_unwind(panic);
    }
}

/// Where unlink says that it will not wait, it makes no sync; it says so of files with one name.
#[test]
fn an_unlink_that_does_not_wait_syncs_nothing() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let dir = store.mkdir(&root, b"d", &NEW).unwrap();
    store.fsync_dir(&root).unwrap();
    let unlink = |dir: &TestNode, name: &[u8]| {
        let (may_wait, before) = (store.unlink_may_wait(dir, name), syncs(&disk));
        store.unlink(dir, name).unwrap();
        (may_wait, syncs(&disk) != before)
    };
    put(&store, &root, b"one", b"1");
    let pending = store.create(&root, b"new", &NEW).unwrap();
    store.close_file(&pending, true);
    for name in [b"one", b"new"] {
        assert_eq!(unlink(&root, name), (false, false), "{}", String::from_utf8_lossy(name));
    }
    // One name is published, the other waits for the commit: it is made first.
    let linked = put(&store, &root, b"a", b"2");
    store.link(&linked, &dir, b"a").unwrap();
    store.fsync(&linked).unwrap();
    store.link(&linked, &root, b"b").unwrap();
    store.unlink(&dir, b"a").unwrap();
    assert_eq!(unlink(&root, b"a"), (true, true));
    // It was renamed while it was open, over a dead entry's successor in another directory.
    let moving = put(&store, &dir, b"c", b"3");
    store.open_file(&moving, true).unwrap();
    put(&store, &root, b"c", b"4");
    store.rename(&dir, b"c", &root, b"c", RenameFlags::Replace).unwrap();
    store.close_file(&moving, true);
    assert!(unlink(&root, b"c").0);
}

/// A filesystem that says of every file that it has one name (sshfs): nothing is concluded from that, and no second name given.
#[test]
fn where_names_are_not_counted_none_is_taken_for_the_last() {
    for read_only in [false, true] {
        let disk = vault();
        let store = mount(&disk);
        let root = store.root();
        let file = put(&store, &root, b"a", b"content");
        store.link(&file, &root, b"b").unwrap();
        store.fsync(&file).unwrap();
        put(&store, &root, b"c", b"single");
        store.close().unwrap();
        drop((file, root, store));
        disk.set_hard_links(HardLinks::Uncounted);
        let store = mount_with(&disk, StoreOptions { read_only, ..StoreOptions::default() });
        let root = store.root();
        if !read_only {
            let single = store.lookup(&root, b"c").unwrap();
            let refused = store.link(&single, &root, b"d").unwrap_err();
            assert!(matches!(refused, StoreError::NotSupported), "{refused}");
            assert_eq!(nlink(&store, &store.lookup(&root, b"a").unwrap()), 1);
            store.unlink(&root, b"a").unwrap();
            store.settle_all();
        }
        assert_eq!(get(&store, &root, b"b").unwrap(), b"content");
        drop(root);
        store.close().unwrap();
        drop(store);
        let store = mount(&disk);
        assert_eq!(get(&store, &store.root(), b"b").unwrap(), b"content");
    }
}

/// A name that something else took the place of is not counted after an unclean end, though what is in another directory cannot
/// be read.
#[test]
fn what_cannot_be_read_elsewhere_counts_no_dead_names() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let dir = store.mkdir(&root, b"d", &NEW).unwrap();
    let file = put(&store, &root, b"a", b"content");
    store.link(&file, &dir, b"b").unwrap();
    store.fsync(&file).unwrap();
    put(&store, &root, b"c", b"other");
    store.rename(&root, b"c", &dir, b"b", RenameFlags::Replace).unwrap();
    let disk = disk.crash(&CrashRule::Everything);
    assert!(disk.plant(b"readme.txt", libc::EIO));
    let store = mount(&disk);
    let root = store.root();
    let file = store.lookup(&root, b"a").unwrap();
    assert_eq!(nlink(&store, &file), 1);
    assert_eq!(get(&store, &root, b"a").unwrap(), b"content");
}
