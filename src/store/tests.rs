//! Cases found by reading: each one failed once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::backing::{CallKind, CrashRule, FileKind, SimDisk};
use crate::clock::SystemClock;
use crate::crypto::Cipher;
use crate::entropy::SeededEntropy;
use crate::format::Geometry;
use crate::format::config::{self, ConfigParams, KdfParams};

mod check;
mod doubles;
mod faults;
mod full_disk;
mod mishaps;
mod nameless;
mod names;
mod repair;
mod rescue;
mod sides;
mod space;
mod special;
mod threads;
mod times;
mod xattrs;

const NEW: NewAttr = NewAttr { mode: 0o644, uid: 0, gid: 0 };

fn vault() -> SimDisk {
    let disk = SimDisk::new();
    vault_on(&disk);
    disk
}

fn vault_on(disk: &SimDisk) {
    let params = ConfigParams {
        cipher: Cipher::Aes256Gcm,
        geometry: Geometry::new(12).unwrap(),
        kdf: KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 },
    };
    let (bytes, _) = config::create(b"p", &params, 0, &SeededEntropy::new(1)).unwrap();
    vault::create(disk, &bytes).unwrap();
}

/// Opens a vault; its key is derived once for all tests.
fn unlocked(disk: &SimDisk) -> OpenVault {
    type Known = (Vec<u8>, config::VaultConfig, Arc<crate::crypto::KeyTree>);
    static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());
    let bytes = vault::read_config(disk).unwrap();
    let mut known = KNOWN.lock();
    if !known.iter().any(|(of, ..)| *of == bytes) {
        let open = config::open(&bytes, b"p").unwrap();
        known.push((bytes.clone(), open.config, open.keys));
    }
    let (_, config, keys) = known.iter().find(|(of, ..)| *of == bytes).unwrap();
    OpenVault { config: config.clone(), keys: Arc::clone(keys) }
}

static MOUNTS: AtomicU64 = AtomicU64::new(100);

fn try_mount(disk: &SimDisk, options: StoreOptions) -> Result<Arc<Store<SimDisk>>> {
    let open = unlocked(disk);
    let entropy = SeededEntropy::new(MOUNTS.fetch_add(1, Ordering::Relaxed));
    let clock = Arc::new(SystemClock::new());
    Store::open(Arc::new(disk.clone()), open, options, Arc::new(entropy), clock)
}

fn mount_with(disk: &SimDisk, options: StoreOptions) -> Arc<Store<SimDisk>> {
    try_mount(disk, options).unwrap()
}

fn mount(disk: &SimDisk) -> Arc<Store<SimDisk>> {
    mount_with(disk, StoreOptions::default())
}

type TestNode = Arc<Node<SimDisk>>;

/// A new committed, closed file.
fn put(store: &Store<SimDisk>, dir: &TestNode, name: &[u8], content: &[u8]) -> TestNode {
    let node = store.create(dir, name, &NEW).unwrap();
    store.write(&node, 0, content).unwrap();
    store.fsync(&node).unwrap();
    store.close_file(&node, true);
    node
}

fn get(store: &Store<SimDisk>, dir: &TestNode, name: &[u8]) -> Result<Vec<u8>> {
    let node = store.lookup(dir, name)?;
    let size = store.attr(&node)?.size;
    let mut out = vec![0; usize::try_from(size).unwrap()];
    let len = store.read(&node, 0, &mut out)?;
    assert_eq!(len, out.len());
    Ok(out)
}

fn names(store: &Store<SimDisk>, dir: &TestNode) -> Vec<String> {
    let mut names = Vec::new();
    store
        .list(dir, 0, &mut |entry| {
            names.push(String::from_utf8_lossy(entry.name).into_owned());
            true
        })
        .unwrap();
    names.sort();
    names
}

/// How often each kind of sync was asked for.
fn syncs(disk: &SimDisk) -> [u64; 3] {
    let counters = disk.counters();
    [CallKind::Sync, CallKind::SyncDir, CallKind::SyncAll].map(|kind| counters.of(kind))
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    use crate::entropy::Entropy;
    let mut bytes = vec![0; len];
    SeededEntropy::new(seed).fill(&mut bytes);
    bytes
}

/// Every kind of power cut now.
fn crashes(disk: &SimDisk) -> Vec<(CrashRule, SimDisk)> {
    let rules = CrashRule::battery(disk.pending_changes(), 0..5);
    rules.into_iter().map(|rule| (rule, disk.crash(&rule))).collect()
}

/// One rule of each kind.
fn each_rule(seed: u64) -> [CrashRule; 5] {
    [
        CrashRule::NothingUnsynced,
        CrashRule::Everything,
        CrashRule::Journal { prefix: (seed % 4) as usize, seed },
        CrashRule::PerDirectory { seed },
        CrashRule::Random { seed },
    ]
}

#[test]
fn a_write_that_fails_halfway_leaves_a_version_that_can_be_read() {
    let disk = vault();
    let store = mount(&disk);
    let old = noise(400 << 10, 1);
    let node = put(&store, &store.root(), b"f", &old);
    store.open_file(&node, true).unwrap();
    // The first part of the write goes to memory, the rest to the disk, which is full.
    disk.fail(1, libc::ENOSPC, |call| call == CallKind::Write || call == CallKind::CreateTemp);
    let data = noise(300 << 10, 2);
    let at = (400 << 10) + 100;
    assert!(store.write(&node, at, &data).is_err());
    disk.heal();
    store.fsync(&node).unwrap();
    store.close_file(&node, true);
    store.close().unwrap();
    drop((node, store));
    let store = mount(&disk);
    let now = get(&store, &store.root(), b"f").unwrap();
    assert_eq!(now[..old.len()], old[..]);
    assert!(now.len() <= old.len() + 100 + data.len());
    if now.len() > old.len() {
        assert_eq!(now[old.len() + 100..], data[..now.len() - old.len() - 100]);
    }
}

#[test]
fn a_failed_sync_of_what_is_still_in_memory_is_made_good() {
    let disk = vault();
    let store = mount(&disk);
    let old = noise(400 << 10, 1);
    let node = put(&store, &store.root(), b"f", &old);
    store.open_file(&node, true).unwrap();
    store.write(&node, 8192, b"changed").unwrap();
    store.flush(&node).unwrap();
    disk.fail(1, libc::EIO, |call| call == CallKind::Sync);
    assert!(store.fsync(&node).is_err());
    store.fsync(&node).unwrap();
    store.close_file(&node, true);
    let mut now = old;
    now[8192..8199].copy_from_slice(b"changed");
    assert_eq!(get(&store, &store.root(), b"f").unwrap(), now);
}

/// A large file is not in memory any more when it is committed.
#[test]
fn the_end_tells_what_was_lost_when_nobody_could_be_told() {
    for is_open in [true, false] {
        let disk = vault();
        let store = mount(&disk);
        let file = store.create(&store.root(), b"f", &NEW).unwrap();
        store.write(&file, 0, &noise(400 << 10, 1)).unwrap();
        store.flush(&file).unwrap();
        if !is_open {
            store.close_file(&file, true);
        }
        disk.fail(1, libc::EIO, |call| call == CallKind::Sync);
        assert!(store.commit(std::slice::from_ref(&file), commit::Take::All).is_err());
        if is_open {
            assert!(matches!(store.flush(&file), Err(StoreError::Lost)));
            store.close_file(&file, true);
        }
        drop(file);
        let closed = store.close();
        assert_eq!(closed.is_ok(), is_open, "{closed:?}");
        // What `akasha umount` looks at.
        assert_eq!(disk.read_path(b".akasha/clean").is_some(), is_open);
        drop(store);
        mount(&disk).close().unwrap();
    }
}

#[test]
fn a_write_that_wrote_nothing_does_not_keep_the_store_from_closing() {
    let disk = vault();
    let store = mount(&disk);
    let old = noise(400 << 10, 1);
    let node = put(&store, &store.root(), b"f", &old);
    store.open_file(&node, true).unwrap();
    disk.fail(1, libc::ENOSPC, |call| call == CallKind::Write || call == CallKind::CreateTemp);
    assert!(store.write(&node, 0, &noise(300 << 10, 2)).is_err());
    disk.heal();
    store.close_file(&node, true);
    store.close().unwrap();
    drop((node, store));
    let store = mount(&disk);
    assert_eq!(get(&store, &store.root(), b"f").unwrap(), old);
}

/// Names may survive in any order: what a name held before it was replaced, durably, must not come back when the
/// replacement goes.
#[test]
fn what_was_replaced_for_good_stays_dead() {
    for how in 0..2 {
        let disk = vault();
        let store = mount(&disk);
        let root = store.root();
        put(&store, &root, b"x", b"old");
        put(&store, &root, b"new", b"new");
        store.rename(&root, b"new", &root, b"x", RenameFlags::Replace).unwrap();
        store.fsync_dir(&root).unwrap();
        match how {
            0 => store.unlink(&root, b"x").unwrap(),
            _ => store.rename(&root, b"x", &root, b"y", RenameFlags::Replace).unwrap(),
        }
        for (rule, after) in crashes(&disk) {
            let store = mount(&after);
            if let Ok(content) = get(&store, &store.root(), b"x") {
                assert_eq!(content, b"new", "{how} {rule:?}");
            }
            assert!(names(&store, &store.root()).len() < 2, "{how} {rule:?}");
        }
    }
}

#[test]
fn a_clean_end_makes_every_name_durable() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    put(&store, &root, b"a", b"a");
    store.fsync_dir(&root).unwrap();
    let dir = store.mkdir(&root, b"dir", &NEW).unwrap();
    store.rename(&root, b"a", &dir, b"b", RenameFlags::Replace).unwrap();
    store.close().unwrap();
    for (rule, after) in crashes(&disk) {
        let store = mount(&after);
        assert_eq!(names(&store, &store.root()), ["dir"], "{rule:?}");
        let dir = store.lookup(&store.root(), b"dir").unwrap();
        assert_eq!(get(&store, &dir, b"b").unwrap(), b"a", "{rule:?}");
    }
}

/// A name that was moved away in memory only is not free, whatever came and went under it meanwhile.
#[test]
fn a_name_whose_owner_has_yet_to_move_is_not_given_away() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let moved = put(&store, &root, b"x", b"moved");
    put(&store, &root, b"y", b"target");
    store.open_file(&moved, true).unwrap();
    store.rename(&root, b"x", &root, b"y", RenameFlags::Replace).unwrap();
    let passing = store.create(&root, b"x", &NEW).unwrap();
    store.close_file(&passing, true);
    store.unlink(&root, b"x").unwrap();
    put(&store, &root, b"x", b"fresh");
    for (rule, after) in crashes(&disk) {
        let store = mount(&after);
        assert_eq!(names(&store, &store.root()), ["x", "y"], "{rule:?}");
        assert_eq!(get(&store, &store.root(), b"x").unwrap(), b"fresh", "{rule:?}");
    }
}

#[test]
fn a_long_name_never_appears_without_its_sidecar() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let long = vec![b'n'; 250];
    put(&store, &root, b"short", b"content");
    store.fsync_dir(&root).unwrap();
    store.rename(&root, b"short", &root, &long, RenameFlags::Replace).unwrap();
    for (rule, after) in crashes(&disk) {
        let store = mount(&after);
        let root = store.root();
        let name = if store.lookup(&root, b"short").is_ok() { &b"short"[..] } else { &long };
        assert_eq!(get(&store, &root, name).unwrap(), b"content", "{rule:?}");
    }
}

#[test]
fn fsync_of_a_directory_covers_what_was_renamed_out_of_it() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let dir = store.mkdir(&root, b"dir", &NEW).unwrap();
    let moved = put(&store, &dir, b"x", b"moved");
    put(&store, &root, b"y", b"target");
    store.open_file(&moved, true).unwrap();
    store.rename(&dir, b"x", &root, b"y", RenameFlags::Replace).unwrap();
    store.fsync_dir(&dir).unwrap();
    let after = disk.crash(&CrashRule::NothingUnsynced);
    let store = mount(&after);
    let dir = store.lookup(&store.root(), b"dir").unwrap();
    assert!(store.lookup(&dir, b"x").is_err());
}

#[test]
fn a_damaged_file_can_be_cut_and_overwritten() {
    let disk = vault();
    let store = mount(&disk);
    put(&store, &store.root(), b"f", b"content");
    store.close().unwrap();
    drop(store);
    let (path, ..) = disk
        .paths()
        .into_iter()
        .find(|(path, kind, _)| {
            *kind == crate::backing::FileKind::File && !path.starts_with(b".akasha")
        })
        .unwrap();
    let mut bytes = disk.read_path(&path).unwrap();
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    disk.replace_path(&path, &bytes);
    let store = mount(&disk);
    let root = store.root();
    assert!(get(&store, &root, b"f").is_err());
    let node = store.lookup(&root, b"f").unwrap();
    store.open_file(&node, true).unwrap();
    store.truncate(&node, 0).unwrap();
    store.write(&node, 0, b"mended").unwrap();
    let mut out = [0; 6];
    store.read(&node, 0, &mut out).unwrap();
    assert_eq!(&out, b"mended");
    store.fsync(&node).unwrap();
    store.close_file(&node, true);
    assert_eq!(get(&store, &root, b"f").unwrap(), b"mended");
}

#[test]
fn readers_and_writers_never_notice_a_commit() {
    let disk = vault();
    let options = StoreOptions { max_mappings: 1, max_descriptors: 16, ..StoreOptions::default() };
    let store = mount_with(&disk, options);
    let len = 400 << 10;
    let node = put(&store, &store.root(), b"f", &noise(len, 1));
    let other = put(&store, &store.root(), b"other", &noise(len, 2));
    store.open_file(&node, true).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut out = vec![0; len];
                while !stop.load(Ordering::Relaxed) {
                    store.read(&node, 0, &mut out).unwrap();
                    // Evicts the file's layers.
                    store.read(&other, 0, &mut out[..4096]).unwrap();
                }
            });
        }
        scope.spawn(|| {
            let mut at = 0;
            while !stop.load(Ordering::Relaxed) {
                at = (at + 4096 * 7) % len as u64;
                store.write(&node, at + 10, b"part of a block").unwrap();
            }
        });
        for turn in 0..300 {
            store.write(&node, 0, &noise(200 << 10, turn)).unwrap();
            store.fsync(&node).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// The last daemon was killed: what it removed last is not seen any more, and may come back. The power goes off at any call of the
/// next mount, or of a repair.
#[test]
fn the_hunt_for_orphans_removes_nothing_that_a_cut_could_bring_back() {
    let scene = |is_repair, cut| {
        let disk = vault();
        let store = mount(&disk);
        let mut content = noise(300 << 10, 1);
        let node = put(&store, &store.root(), b"f", &content);
        store.open_file(&node, true).unwrap();
        store.write(&node, 8192, b"changed").unwrap();
        content[8192..8199].copy_from_slice(b"changed");
        store.fsync(&node).unwrap();
        store.close_file(&node, true);
        assert!(disk.paths().iter().any(|(path, ..)| path.starts_with(b".akasha/layers/")));
        store.unlink(&store.root(), b"f").unwrap();
        drop((node, store));
        disk.cut_at(disk.operations() + cut);
        if is_repair {
            let _ = repair::try_repair(&disk);
        } else {
            let _ = try_mount(&disk, StoreOptions::default());
        }
        for (rule, after) in crashes(&disk) {
            let what = format!("repair {is_repair}, cut at {cut}, {rule:?}");
            let store = mount(&after);
            match get(&store, &store.root(), b"f") {
                Ok(now) => assert!(now == content, "{what}"),
                Err(error) => assert!(matches!(error, StoreError::NotFound), "{what}: {error}"),
            }
        }
        disk.is_off()
    };
    for is_repair in [false, true] {
        let last = (0..9999).find(|cut| !scene(is_repair, *cut));
        assert!(last > Some(3), "there was little to cut");
    }
}

/// The daemon was killed after it had published and before it had synced: what the next mount shows is durable once it is synced there,
/// though nothing is left to be committed.
#[test]
fn fsync_makes_durable_what_a_killed_daemon_has_published() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"a", b"old");
    store.link(&file, &root, b"b").unwrap();
    put(&store, &root, b"c", b"moved");
    store.fsync_dir(&root).unwrap();
    store.fsync(&file).unwrap();
    store.write(&file, 0, b"new").unwrap();
    store.commit(std::slice::from_ref(&file), commit::Take::All).unwrap();
    store.rename(&root, b"c", &root, b"d", RenameFlags::Replace).unwrap();
    drop((file, root, store));
    let store = mount(&disk);
    for name in [b"a", b"d"] {
        store.fsync(&store.lookup(&store.root(), name).unwrap()).unwrap();
    }
    for (rule, after) in crashes(&disk) {
        let store = mount(&after);
        let now = |name| get(&store, &store.root(), name);
        assert_eq!(now(b"a").unwrap(), b"new", "{rule:?}");
        assert_eq!(now(b"b").unwrap(), b"new", "{rule:?}");
        assert_eq!(now(b"d").unwrap_or_else(|e| panic!("{rule:?}: {e}")), b"moved", "{rule:?}");
    }
}

/// The daemon that was killed knew which removal was not durable. What takes the name after it does not share it with what a cut
/// brings back.
#[test]
fn what_a_killed_daemon_removed_does_not_come_back_under_a_name_that_was_taken_again() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    put(&store, &root, b"a", b"removed");
    put(&store, &root, b"b", b"kept");
    store.fsync_dir(&root).unwrap();
    store.unlink(&root, b"a").unwrap();
    drop((root, store));
    let store = mount(&disk);
    let root = store.root();
    store.rename(&root, b"b", &root, b"a", RenameFlags::Replace).unwrap();
    for seed in 0..40 {
        let rule = CrashRule::PerDirectory { seed };
        let store = mount(&disk.crash(&rule));
        let found = names(&store, &store.root());
        assert!(found == ["a"] || found == ["b"], "{rule:?}: {found:?}");
        assert_eq!(get(&store, &store.root(), found[0].as_bytes()).unwrap(), b"kept", "{rule:?}");
    }
}

/// Else a mount after a power cut would look for nothing that the cut left.
#[test]
fn the_mark_of_a_clean_end_does_not_come_back() {
    let disk = vault();
    mount(&disk).close().unwrap();
    let is_marked = |disk: &SimDisk| disk.paths().iter().any(|(path, ..)| path == b".akasha/clean");
    assert!(is_marked(&disk));
    let store = mount(&disk);
    for (rule, after) in crashes(&disk) {
        assert!(!is_marked(&after), "{rule:?}");
    }
    drop(store);
}

#[test]
fn a_vault_that_cannot_be_read_everywhere_can_be_mounted_after_an_unclean_end() {
    let disk = vault();
    let store = mount(&disk);
    let node = put(&store, &store.root(), b"f", &noise(2 << 20, 1));
    store.open_file(&node, true).unwrap();
    store.write(&node, 8192, b"changed").unwrap();
    store.fsync(&node).unwrap();
    store.mkdir(&store.root(), b"dir", &NEW).unwrap();
    drop((node, store));
    // The control directories (for the configuration, and five to mount), and then the first of the tree.
    disk.fail_from(7, libc::EACCES, |call| call == CallKind::OpenDir);
    drop(mount(&disk));
}

#[test]
fn an_exchange_that_fails_halfway_did_not_happen() {
    for nth in 1..6 {
        let disk = vault();
        let store = mount(&disk);
        let root = store.root();
        put(&store, &root, b"a", b"a");
        put(&store, &root, b"b", b"b");
        disk.fail(nth, libc::ENOSPC, |call| call == CallKind::Rename);
        let done = store.rename(&root, b"a", &root, b"b", RenameFlags::Exchange).is_ok();
        disk.heal();
        let is = |store: &Store<SimDisk>| {
            let root = store.root();
            assert_eq!(get(store, &root, b"a").unwrap(), if done { b"b" } else { b"a" }, "{nth}");
            assert_eq!(get(store, &root, b"b").unwrap(), if done { b"a" } else { b"b" }, "{nth}");
        };
        is(&store);
        drop((root, store));
        is(&mount(&disk));
    }
}

#[test]
fn an_exchange_is_not_repeated_by_a_cut() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    put(&store, &root, b"a", b"a");
    put(&store, &root, b"b", b"b");
    store.rename(&root, b"a", &root, b"b", RenameFlags::Exchange).unwrap();
    for (from, to) in [(b"a", b"t"), (b"b", b"a"), (b"t", b"b")] {
        store.rename(&root, from, &root, to, RenameFlags::Replace).unwrap();
    }
    store.fsync_dir(&root).unwrap();
    for (rule, after) in crashes(&disk) {
        let store = mount(&after);
        assert_eq!(get(&store, &store.root(), b"a").unwrap(), b"a", "{rule:?}");
    }
}

#[test]
fn a_deep_directory_is_opened_again_from_the_root() {
    let disk = vault();
    let options = StoreOptions { max_descriptors: 16, ..StoreOptions::default() };
    let store = mount_with(&disk, options);
    let mut deep = store.root();
    // As deep as who makes directories in directories, each from the last one, gets.
    for _ in 0..20_000 {
        deep = store.mkdir(&deep, b"d", &NEW).unwrap();
    }
    // Evicts all of them.
    for n in 0..40 {
        let name = format!("{n}");
        let dir = store.mkdir(&store.root(), name.as_bytes(), &NEW).unwrap();
        store.mkdir(&dir, b"in", &NEW).unwrap();
    }
    store.attr(&deep).unwrap();
    drop(store);
    // The last thing that holds all of them.
    drop(deep);
}

#[test]
fn a_directory_where_a_file_came_and_went_is_not_kept_in_memory() {
    let disk = vault();
    let store = mount(&disk);
    let dir = store.mkdir(&store.root(), b"dir", &NEW).unwrap();
    let passing = store.create(&dir, b"f", &NEW).unwrap();
    store.close_file(&passing, true);
    store.unlink(&dir, b"f").unwrap();
    store.close().unwrap();
    assert!(!dir.dir().unwrap().state.lock().is_pinned());
}

#[test]
fn no_commit_takes_an_attribute_back() {
    let disk = vault();
    let store = mount(&disk);
    let node = put(&store, &store.root(), b"f", b"content");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.write(&node, 0, b"changed").unwrap();
                store.fsync(&node).unwrap();
            }
        });
        let mut lost = 0;
        for turn in 0..3000 {
            let mode = 0o600 | (turn & 0o77);
            store.set_attr(&node, &SetAttr { mode: Some(mode), ..SetAttr::default() }).unwrap();
            std::thread::sleep(std::time::Duration::from_micros(50));
            lost += u32::from(store.attr(&node).unwrap().mode != mode);
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(lost, 0);
    });
}

#[test]
fn what_an_interval_commits_in_many_directories_is_durable_with_one_sync() {
    let disk = vault();
    let commit = CommitPolicy::Interval(Duration::ZERO);
    let store = mount_with(&disk, StoreOptions { commit, ..StoreOptions::default() });
    let dirs: Vec<TestNode> = (0..20)
        .map(|n| store.mkdir(&store.root(), format!("d{n}").as_bytes(), &NEW).unwrap())
        .collect();
    for (n, dir) in dirs.iter().enumerate() {
        let node = store.create(dir, b"f", &NEW).unwrap();
        store.write(&node, 0, &[u8::try_from(n).unwrap(); 100]).unwrap();
        store.flush(&node).unwrap();
        store.close_file(&node, true);
    }
    // One that was moved, and whose old place must be durable before the new one.
    store.rename(&dirs[3], b"f", &dirs[4], b"moved", RenameFlags::Replace).unwrap();
    disk.reset_counters();
    store.tick();
    assert!(disk.counters().of(CallKind::SyncDir) < 5, "{:?}", disk.counters());
    for (rule, after) in crashes(&disk) {
        let store = mount(&after);
        for n in 0..20_u8 {
            let (dir, name) = if n == 3 { (4, "moved") } else { (n, "f") };
            let dir = store.lookup(&store.root(), format!("d{dir}").as_bytes()).unwrap();
            let content = get(&store, &dir, name.as_bytes());
            assert_eq!(content.unwrap(), [n; 100], "{rule:?}");
        }
    }
    drop(dirs);
}

/// close(2) returns before the kernel tells of the end of the handle.
#[test]
fn who_syncs_a_directory_finds_a_file_that_was_just_closed() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    for (name, content) in [(&b"closed"[..], &b"whole"[..]), (b"empty", b""), (b"open", b"half")] {
        let node = store.create(&root, name, &NEW).unwrap();
        store.write(&node, 0, content).unwrap();
        store.flush(&node).unwrap();
        if name == b"open" {
            store.write(&node, 4, b"!").unwrap();
        }
    }
    store.rename(&root, b"closed", &root, b"saved", RenameFlags::Replace).unwrap();
    store.fsync_dir(&root).unwrap();
    let store = mount(&disk.crash(&CrashRule::NothingUnsynced));
    assert_eq!(names(&store, &store.root()), ["empty", "saved"]);
    assert_eq!(get(&store, &store.root(), b"saved").unwrap(), b"whole");
}

#[test]
fn no_commit_that_nobody_asked_for_takes_what_is_being_written() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let saved = put(&store, &root, b"saved", b"old");
    // Found to be due while it was closed; opened and cut before its turn came.
    store.open_file(&saved, true).unwrap();
    store.truncate(&saved, 0).unwrap();
    store.commit(std::slice::from_ref(&saved), commit::Take::Done).unwrap();
    // New, and its maker has written nothing yet.
    let made = store.create(&root, b"made", &NEW).unwrap();
    store.fsync_dir(&root).unwrap();
    let shown = |expected: &[(&str, &[u8])]| {
        let store = mount(&disk.crash(&CrashRule::Everything));
        let root = store.root();
        let found = names(&store, &root);
        assert_eq!(found, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        for (name, content) in expected {
            assert_eq!(get(&store, &root, name.as_bytes()).unwrap(), *content);
        }
    };
    shown(&[("saved", b"old")]);
    store.write(&saved, 0, b"new").unwrap();
    store.close_file(&saved, true);
    store.close_file(&made, true);
    store.commit(&[saved, made], commit::Take::Done).unwrap();
    shown(&[("made", b""), ("saved", b"new")]);
}

/// A rename over a file that is open for writing waits for a commit. One that nobody asked for found a writer at work, and took the
/// file half-written since it was to move.
#[test]
fn no_commit_that_nobody_asked_for_moves_what_is_being_written() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    put(&store, &root, b"a", b"old");
    let new = put(&store, &root, b"a.tmp", b"new");
    store.open_file(&new, true).unwrap();
    store.rename(&root, b"a.tmp", &root, b"a", RenameFlags::Replace).unwrap();
    store.close_file(&new, true);
    // Found to be due, and opened before its turn came.
    store.open_file(&new, true).unwrap();
    store.truncate(&new, 0).unwrap();
    store.commit(std::slice::from_ref(&new), commit::Take::Done).unwrap();
    let shown = |name: &[u8]| {
        let store = mount(&disk.crash(&CrashRule::Everything));
        get(&store, &store.root(), name).unwrap()
    };
    assert_eq!((shown(b"a"), shown(b"a.tmp")), (b"old".to_vec(), b"new".to_vec()));
    // A new file under the name that it leaves: it goes, with what is committed of it.
    let next = store.create(&root, b"a.tmp", &NEW).unwrap();
    store.write(&next, 0, b"next").unwrap();
    store.close_file(&next, true);
    let all = [Arc::clone(&new), Arc::clone(&next)];
    store.commit(&all, commit::Take::Done).unwrap();
    assert_eq!((shown(b"a"), shown(b"a.tmp")), (b"new".to_vec(), b"next".to_vec()));
    store.write(&new, 0, b"newer").unwrap();
    store.close_file(&new, true);
    store.commit(&all, commit::Take::Done).unwrap();
    store.fsync_dir(&root).unwrap();
    assert_eq!((shown(b"a"), shown(b"a.tmp")), (b"newer".to_vec(), b"next".to_vec()));
}

/// Names that change between the sync of a directory and the look at what died in it are not covered by that sync.
#[test]
fn what_dies_right_after_a_sync_stays_until_the_next() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    for name in [b"a", b"b", b"c", b"d"] {
        put(&store, &root, name, name);
    }
    store.rename(&root, b"b", &root, b"a", RenameFlags::Replace).unwrap();
    let other = Arc::clone(&store);
    disk.after_sync_dir(move || {
        other.rename(&other.root(), b"c", &other.root(), b"d", RenameFlags::Replace).unwrap();
    });
    store.settle(&root).unwrap();
    assert_eq!(names(&store, &root), ["a", "d"], "the rename after the sync was not done");
    for (rule, after) in crashes(&disk) {
        let store = mount(&after);
        let d = get(&store, &store.root(), b"d");
        assert!(d.as_ref().is_ok_and(|d| d == b"c" || d == b"d"), "{rule:?}: {d:?}");
    }
}

/// Whichever way it left, and although nothing had left the directory before its last sync.
#[test]
fn what_left_a_directory_does_not_come_back_after_its_sync() {
    type Leave = fn(&SimDisk, &Store<SimDisk>, &TestNode);
    let ways: [(&str, Leave); 8] = [
        ("unlinked", |_, store, dir| store.unlink(dir, b"file").unwrap()),
        ("unlinked while open", |_, store, dir| {
            let node = store.lookup_name(dir, b"file").unwrap();
            store.open_file(&node, false).unwrap();
            store.unlink(dir, b"file").unwrap();
        }),
        ("moved", |_, store, dir| {
            store.rename(dir, b"file", &store.root(), b"moved", RenameFlags::Replace).unwrap();
        }),
        ("moved within", |_, store, dir| {
            store.rename(dir, b"file", dir, b"moved", RenameFlags::Replace).unwrap();
        }),
        ("replaced", |_, store, dir| {
            put(store, dir, b"other", b"other");
            store.rename(dir, b"other", dir, b"file", RenameFlags::Replace).unwrap();
        }),
        ("removed", |_, store, dir| store.rmdir(dir, b"dir").unwrap()),
        ("refused", |disk, store, dir| {
            disk.fail(1, libc::EIO, |call| call == CallKind::SetAttr);
            assert!(store.mkdir(dir, b"refused", &NEW).is_err());
            disk.heal();
        }),
        ("damaged", |_, store, dir| {
            let damaged = names(store, dir).into_iter().find(|name| name.contains("damaged"));
            store.unlink(dir, damaged.unwrap().as_bytes()).unwrap();
        }),
    ];
    for (way, leave) in ways {
        let disk = vault();
        let store = mount(&disk);
        let dir = store.mkdir(&store.root(), b"d", &NEW).unwrap();
        store.mkdir(&dir, b"dir", &NEW).unwrap();
        put(&store, &dir, b"file", b"file");
        store.close().unwrap();
        drop((store, dir));
        let backing = disk.root().unwrap();
        let shown = disk.list(&backing).unwrap();
        let inside = shown.into_iter().find(|raw| raw.name.len() > 20 && raw.kind == FileKind::Dir);
        let inside = String::from_utf8(inside.unwrap().name).unwrap();
        assert!(disk.plant(format!("{inside}/damaged").as_bytes(), libc::EIO));
        let store = mount(&disk);
        let dir = store.lookup_name(&store.root(), b"d").unwrap();
        assert_eq!(names(&store, &dir).len(), 3);
        put(&store, &dir, b"kept", b"kept");
        store.fsync_dir(&dir).unwrap();
        leave(&disk, &store, &dir);
        store.fsync_dir(&dir).unwrap();
        let expected = names(&store, &dir);
        for (rule, after) in crashes(&disk) {
            let store = mount(&after);
            let dir = store.lookup_name(&store.root(), b"d").unwrap();
            assert_eq!(names(&store, &dir), expected, "{way}, {rule:?}");
        }
    }
}
