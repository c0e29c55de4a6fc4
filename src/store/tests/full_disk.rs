//! A disk that is full to the last page.

use super::*;

const LARGE: usize = 3 << 20;

/// A disk with some files on it and no free page.
struct Full {
    disk: SimDisk,
    store: Arc<Store<SimDisk>>,
}

impl Full {
    fn new() -> Full {
        let disk = vault();
        disk.set_capacity(Some(64 << 20));
        let store = mount(&disk);
        let root = store.root();
        put(&store, &root, b"large", &noise(LARGE, 1));
        put(&store, &root, b"small", &noise(5000, 2));
        put(&store, &root, b"other", &noise(50_000, 3));
        store.mkdir(&root, b"dir", &NEW).unwrap();
        store.fsync_dir(&root).unwrap();
        let space = store.statfs().unwrap();
        disk.set_capacity(Some((space.blocks - space.blocks_free) * 4096));
        Full { disk, store }
    }

    fn has_reserve(&self) -> bool {
        self.disk.paths().iter().any(|(path, ..)| path == b".akasha/reserve")
    }

    fn take_reserve_away(&self) {
        assert!(self.has_reserve());
        let used = self.store.statfs().unwrap();
        assert!(self.store.reserve.give_up(&self.store.core));
        let left = self.store.statfs().unwrap();
        let freed = left.blocks_free - used.blocks_free;
        assert!(freed >= 100, "only {freed} pages were in reserve");
        self.disk.set_capacity(Some((left.blocks - left.blocks_free) * 4096));
    }

    /// Writes in the middle of a file and syncs it.
    fn edit(&self, name: &[u8], at: u64) -> Result<()> {
        let store = &self.store;
        let node = store.lookup(&store.root(), name)?;
        store.open_file(&node, true)?;
        let done = store
            .write(&node, at, &[7; 4096])
            .and_then(|()| store.flush(&node))
            .and_then(|()| store.fsync(&node));
        store.close_file(&node, true);
        done
    }

    fn truncate(&self, name: &[u8], size: u64) -> Result<()> {
        let node = self.store.lookup(&self.store.root(), name)?;
        self.store.truncate(&node, size)?;
        self.store.fsync(&node)
    }

    /// What a cut leaves now at the least.
    fn after_a_cut(&self) -> Arc<Store<SimDisk>> {
        mount(&self.disk.crash(&CrashRule::NothingUnsynced))
    }
}

fn shows(store: &Store<SimDisk>, name: &[u8], content: &[u8]) {
    let now = get(store, &store.root(), name).unwrap();
    assert!(now == content, "{} shows something else", String::from_utf8_lossy(name));
}

fn edited(mut content: Vec<u8>, at: usize) -> Vec<u8> {
    content.resize(content.len().max(at + 4096), 0);
    content[at..at + 4096].fill(7);
    content
}

#[test]
fn a_small_change_of_a_small_and_of_a_large_file_has_room() {
    for (name, content) in [(&b"large"[..], noise(LARGE, 1)), (b"small", noise(5000, 2))] {
        let full = Full::new();
        full.edit(name, 900).unwrap();
        assert!(!full.has_reserve());
        shows(&full.store, name, &edited(content.clone(), 900));
        shows(&full.after_a_cut(), name, &edited(content, 900));
        shows(&full.store, b"other", &noise(50_000, 3));
    }
}

#[test]
fn what_is_cut_on_a_full_disk_is_cut_durably() {
    // The last two would be folded where there is room for it: more would be dead than alive.
    for size in [0, 3000, 200_000, 500_001, 1_000_000, 1_500_000] {
        let full = Full::new();
        full.truncate(b"large", size).unwrap();
        shows(&full.after_a_cut(), b"large", &noise(LARGE, 1)[..size as usize]);
    }
}

#[test]
fn what_is_removed_on_a_full_disk_is_removed_and_makes_room() {
    let full = Full::new();
    let (store, root) = (&full.store, full.store.root());
    // One that is open, too: it is moved.
    let open = store.lookup(&root, b"other").unwrap();
    store.open_file(&open, false).unwrap();
    for name in [&b"large"[..], b"other"] {
        store.unlink(&root, name).unwrap();
    }
    store.rmdir(&root, b"dir").unwrap();
    store.fsync_dir(&root).unwrap();
    let mut out = vec![0; 50_000];
    store.read(&open, 0, &mut out).unwrap();
    assert!(out == noise(50_000, 3));
    store.close_file(&open, false);
    assert_eq!(names(store, &root), ["small"]);
    assert_eq!(names(&full.after_a_cut(), &root), ["small"]);
    full.store.tick();
    put(store, &root, b"new", &noise(400 << 10, 9));
}

#[test]
fn a_save_by_rename_has_room() {
    let full = Full::new();
    let (store, root) = (&full.store, full.store.root());
    let node = store.create(&root, b"small.tmp", &NEW).unwrap();
    store.write(&node, 0, &noise(6000, 8)).unwrap();
    store.flush(&node).unwrap();
    store.close_file(&node, true);
    store.rename(&root, b"small.tmp", &root, b"small", RenameFlags::Replace).unwrap();
    store.fsync(&node).unwrap();
    shows(&full.after_a_cut(), b"small", &noise(6000, 8));
}

#[test]
fn what_is_too_large_for_the_reserve_leaves_it_alone_and_the_old_version_readable() {
    let full = Full::new();
    let (store, root) = (&full.store, full.store.root());
    let node = store.lookup(&root, b"large").unwrap();
    store.open_file(&node, true).unwrap();
    let written = store.write(&node, 0, &noise(4 << 20, 5)).and_then(|()| store.fsync(&node));
    assert!(written.is_err_and(|error| error.is_full()));
    assert!(full.has_reserve());
    shows(&full.after_a_cut(), b"large", &noise(LARGE, 1));
    full.edit(b"small", 10).unwrap();
}

#[test]
fn without_the_reserve_a_change_is_refused_and_committed_once_there_is_room() {
    let full = Full::new();
    full.take_reserve_away();
    let (store, root) = (&full.store, full.store.root());
    let node = store.lookup(&root, b"small").unwrap();
    store.open_file(&node, true).unwrap();
    store.write(&node, 900, &[7; 4096]).unwrap();
    assert!(store.fsync(&node).is_err_and(|error| error.is_full()));
    assert!(store.fsync(&node).is_err_and(|error| error.is_full()));
    shows(&full.after_a_cut(), b"small", &noise(5000, 2));
    shows(store, b"small", &edited(noise(5000, 2), 900));
    // Removing what is closed needs no room, and makes some.
    store.unlink(&root, b"other").unwrap();
    store.fsync(&node).unwrap();
    store.close_file(&node, true);
    shows(&full.after_a_cut(), b"small", &edited(noise(5000, 2), 900));
}

#[test]
fn the_reserve_is_filled_again_when_there_is_room() {
    let full = Full::new();
    full.edit(b"small", 900).unwrap();
    assert!(!full.has_reserve());
    full.store.reserve.fill(&full.store.core);
    assert!(!full.has_reserve(), "it takes the last room");
    full.disk.set_capacity(Some(64 << 20));
    full.store.reserve.fill(&full.store.core);
    assert!(full.has_reserve());
}

#[test]
fn a_reserve_without_blocks_is_allocated_anew_and_a_strange_one_left_alone() {
    let disk = vault();
    disk.set_capacity(Some(64 << 20));
    let used = |store: &Store<SimDisk>| {
        let space = store.statfs().unwrap();
        space.blocks - space.blocks_free
    };
    let first = mount(&disk);
    let with_reserve = used(&first);
    first.close().unwrap();
    drop(first);
    // As a backup would have it.
    let copy = disk.crash(&CrashRule::Everything);
    let store = mount(&copy);
    assert!(used(&store) >= with_reserve);
    drop(store);
    for code in [libc::ELOOP, libc::EIO] {
        assert!(copy.plant(b".akasha/reserve", code));
        let store = mount(&copy);
        assert!(used(&store) < with_reserve);
        store.close().unwrap();
    }
}

#[test]
fn a_read_only_mount_makes_no_reserve() {
    let disk = vault();
    let options = StoreOptions { read_only: true, ..StoreOptions::default() };
    drop(mount_with(&disk, options));
    assert!(!disk.paths().iter().any(|(path, ..)| path == b".akasha/reserve"));
}
