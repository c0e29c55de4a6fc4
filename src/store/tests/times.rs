//! Which times the mount shows, whatever commits do to the vault's.

use super::*;

/// A clock that the test moves.
pub(super) struct Hands(pub(super) AtomicU64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        let nanos = self.0.fetch_add(1, Ordering::Relaxed);
        Timestamp {
            secs: (nanos / 1_000_000_000).cast_signed(),
            nanos: (nanos % 1_000_000_000) as u32,
        }
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl Hands {
    pub fn pass(&self, secs: u64) {
        self.0.fetch_add(secs * 1_000_000_000, Ordering::Relaxed);
    }
}

pub(super) fn clocked() -> (Arc<Store<SimDisk>>, Arc<Hands>, SimDisk) {
    let clock = Arc::new(Hands(AtomicU64::new(1_700_000_000_000_000_000)));
    let disk = SimDisk::with_clock(clock.clone());
    let params = ConfigParams {
        cipher: Cipher::Aes256Gcm,
        geometry: Geometry::new(12).unwrap(),
        kdf: KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 },
    };
    let (bytes, _) = config::create(b"p", &params, 0, &SeededEntropy::new(1)).unwrap();
    vault::create(&disk, &bytes).unwrap();
    let store = clocked_mount(&disk, &clock);
    (store, clock, disk)
}

fn clocked_mount(disk: &SimDisk, clock: &Arc<Hands>) -> Arc<Store<SimDisk>> {
    let open = config::open(&vault::read_config(disk).unwrap(), b"p").unwrap();
    let entropy = SeededEntropy::new(MOUNTS.fetch_add(1, Ordering::Relaxed));
    let options = StoreOptions::default();
    Store::open(Arc::new(disk.clone()), open, options, Arc::new(entropy), clock.clone()).unwrap()
}

/// Whether reading moves the access time.
fn accessed(store: &Store<SimDisk>, node: &TestNode) -> bool {
    let before = times(store, node);
    store.note_access(node, Accessed::Read).unwrap();
    let after = times(store, node);
    assert_eq!((before.1, before.2), (after.1, after.2));
    before.0 != after.0
}

fn times(store: &Store<SimDisk>, node: &TestNode) -> (Timestamp, Timestamp, Timestamp) {
    let attr = store.attr(node).unwrap();
    (attr.atime, attr.mtime, attr.ctime)
}

#[test]
fn a_commit_moves_no_time_that_the_mount_shows() {
    let (store, clock, _disk) = clocked();
    let root = store.root();
    let dir = store.mkdir(&root, b"d", &NEW).unwrap();
    let file = store.create(&dir, b"f", &NEW).unwrap();
    store.open_file(&file, true).unwrap();
    store.write(&file, 0, b"content").unwrap();
    store.close_file(&file, true);
    let link = store.symlink(&dir, b"l", b"target", &NEW).unwrap();
    // Moved before its first commit.
    clock.pass(1);
    let created = times(&store, &file);
    store.rename(&dir, b"f", &dir, b"moved", RenameFlags::Replace).unwrap();
    assert!(times(&store, &file).2 > created.2);
    store.rename(&dir, b"moved", &dir, b"f", RenameFlags::Replace).unwrap();
    let nodes = [&root, &dir, &file, &link];
    let shown: Vec<_> = nodes.iter().map(|node| times(&store, node)).collect();
    for _ in 0..3 {
        clock.pass(20);
        store.tick();
        let now: Vec<_> = nodes.iter().map(|node| times(&store, node)).collect();
        assert_eq!(now, shown);
    }
    // Nor does that of a change.
    clock.pass(1);
    store.open_file(&file, true).unwrap();
    store.write(&file, 3, b"!").unwrap();
    store.close_file(&file, true);
    let changed = times(&store, &file);
    assert!(changed.2 > shown[2].2);
    clock.pass(20);
    store.tick();
    assert_eq!(times(&store, &file), changed);
    // Changes of attributes and moves are changes, of the moved one alone.
    for step in 0..4 {
        let (_, mtime, ctime) = times(&store, &file);
        let of_link = times(&store, &link);
        clock.pass(5);
        match step {
            0 => {
                let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
                store.set_attr(&file, &set).unwrap();
            }
            1 => store.rename(&dir, b"f", &root, b"g", RenameFlags::Replace).unwrap(),
            2 => {
                store.create(&dir, b"other", &NEW).unwrap();
                store.rename(&root, b"g", &dir, b"other", RenameFlags::Exchange).unwrap();
            }
            _ => store.rename(&root, b"d", &root, b"e", RenameFlags::Replace).unwrap(),
        }
        let now = times(&store, &file);
        assert_eq!(now.1, mtime);
        assert_eq!(now.2 > ctime, step < 3, "step {step}");
        clock.pass(20);
        store.tick();
        assert_eq!(times(&store, &file), now);
        assert_eq!(times(&store, &link), of_link);
    }
}

#[test]
fn reading_moves_the_access_time_once_a_day_or_after_a_change() {
    let (store, clock, disk) = clocked();
    let root = store.root();
    let file = put(&store, &root, b"f", b"content");
    let start = times(&store, &file);
    clock.pass(1);
    assert!(accessed(&store, &file));
    let read = times(&store, &file);
    assert!(read.0 > start.0 && (read.1, read.2) == (start.1, start.2));
    clock.pass(3600);
    assert!(!accessed(&store, &file));
    assert_eq!(times(&store, &file), read);
    // After a change, once.
    store.open_file(&file, true).unwrap();
    store.write(&file, 0, b"C").unwrap();
    store.close_file(&file, true);
    clock.pass(1);
    assert!(accessed(&store, &file) && !accessed(&store, &file));
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    store.set_attr(&file, &set).unwrap();
    clock.pass(1);
    assert!(accessed(&store, &file) && !accessed(&store, &file));
    clock.pass(24 * 3600);
    assert!(accessed(&store, &file));
    // A day later it was committed, with this.
    let read = times(&store, &file);
    store.open_file(&file, true).unwrap();
    store.write(&file, 0, b"D").unwrap();
    store.fsync(&file).unwrap();
    store.close_file(&file, true);
    // Set by hand it stays until the next reading that counts.
    let dir = store.mkdir(&root, b"d", &NEW).unwrap();
    assert!(accessed(&store, &dir) && !accessed(&store, &dir));
    let at = Timestamp { secs: 4_000_000_000, nanos: 7 };
    let set = SetAttr { atime: Some(TimeChange::At(at)), ..SetAttr::default() };
    assert_eq!(store.set_attr(&dir, &set).unwrap().atime, at);
    assert!(!accessed(&store, &dir));
    store.close().unwrap();
    drop((file, dir, root, store));
    let store = clocked_mount(&disk, &clock);
    let root = store.root();
    let file = store.lookup(&root, b"f").unwrap();
    assert_eq!(times(&store, &file).0, read.0);
    assert_eq!(times(&store, &store.lookup(&root, b"d").unwrap()).0, at);
}

#[test]
fn opening_counts_where_the_kernel_may_have_the_content() {
    let (store, clock, disk) = clocked();
    put(&store, &store.root(), b"f", b"content");
    store.close().unwrap();
    drop(store);
    let store = clocked_mount(&disk, &clock);
    let file = store.lookup(&store.root(), b"f").unwrap();
    let start = times(&store, &file);
    // Nothing was read yet: what the kernel shows it will have asked for.
    assert!(!store.note_access(&file, Accessed::Opened).unwrap());
    assert_eq!(times(&store, &file), start);
    // The kernel asks for attributes again after reading: it need not be told.
    assert!(!store.note_access(&file, Accessed::Read).unwrap());
    let read = times(&store, &file);
    assert!(read.0 > start.0);
    assert!(!store.note_access(&file, Accessed::Opened).unwrap());
    clock.pass(24 * 3600);
    assert!(store.note_access(&file, Accessed::Opened).unwrap());
    assert!(times(&store, &file).0 > read.0);
}

#[test]
fn a_write_from_a_cache_leaves_the_modification_time_to_whoever_caches() {
    let (store, clock, _disk) = clocked();
    let root = store.root();
    // Created, and written back only later: the time is that of the creation.
    let file = store.create(&root, b"f", &NEW).unwrap();
    store.open_file(&file, true).unwrap();
    let created = times(&store, &file).1;
    clock.pass(1);
    store.write_back(&file, 0, b"content").unwrap();
    assert_eq!(times(&store, &file).1, created);
    store.fsync(&file).unwrap();
    assert_eq!(times(&store, &file).1, created);
    // A change of a committed file, and one while a time is set already.
    clock.pass(1);
    store.write_back(&file, 0, b"C").unwrap();
    assert_eq!(times(&store, &file).1, created);
    let at = Timestamp { secs: 1_000_000_000, nanos: 7 };
    let set = SetAttr { mtime: Some(TimeChange::At(at)), ..SetAttr::default() };
    store.set_attr(&file, &set).unwrap();
    store.write_back(&file, 1, b"O").unwrap();
    assert_eq!(times(&store, &file).1, at);
    store.fsync(&file).unwrap();
    store.write_back(&file, 2, b"N").unwrap();
    store.close_file(&file, true);
    clock.pass(20);
    store.tick();
    assert_eq!(times(&store, &file).1, at);
    // Any other write is a change now.
    store.open_file(&file, true).unwrap();
    store.write(&file, 0, b"c").unwrap();
    assert!(times(&store, &file).1 > at);
    store.close_file(&file, true);
}

#[test]
fn no_time_is_behind_what_the_kernel_has_told() {
    let (store, clock, _disk) = clocked();
    let root = store.root();
    let file = put(&store, &root, b"file", b"content");
    let other = put(&store, &root, b"other", b"content");
    let later = |nanos: u64| {
        let nanos = clock.0.load(Ordering::Relaxed) + nanos;
        Timestamp {
            secs: (nanos / 1_000_000_000).cast_signed(),
            nanos: (nanos % 1_000_000_000) as u32,
        }
    };
    let tell = |time: Timestamp| {
        let mtime = Some(TimeChange::At(time));
        let set = SetAttr { mtime, ctime: Some(time), ..SetAttr::default() };
        store.set_attr(&file, &set).unwrap();
    };
    let told = later(3_000_000);
    tell(told);
    for node in [&file, &other] {
        store.truncate(node, 0).unwrap();
        assert_eq!(store.attr(node).unwrap().mtime, told);
    }
    // One that came late takes nothing back.
    tell(Timestamp { nanos: told.nanos - 1_000_000, ..told });
    store.truncate(&other, 1).unwrap();
    assert_eq!(store.attr(&other).unwrap().mtime, told);
    clock.pass(1);
    store.truncate(&other, 2).unwrap();
    assert!(store.attr(&other).unwrap().mtime > told);
    // As before a clock that was wrong is set back.
    tell(later(3600 * 1_000_000_000));
    store.truncate(&other, 3).unwrap();
    assert!(store.attr(&other).unwrap().mtime < later(0));
}
