//! What a call that fails once must not be taken for.

use super::*;

fn long_name() -> Vec<u8> {
    vec![b'n'; 240]
}

/// Runs `scene` for the first stat that is to fail, the second and so on, until it makes no more of them: it says how many it made
/// since one was to fail.
fn for_each_stat(scene: impl Fn(u64) -> u64) {
    let last = (1..999).find(|nth| scene(*nth) < *nth);
    assert!(last > Some(1), "there was nothing to fail");
}

fn stats(disk: &SimDisk) -> u64 {
    disk.counters().of(CallKind::Stat)
}

/// A vault with one closed file of two layers, mounted anew.
fn with_mapped_file(name: &[u8]) -> (SimDisk, Arc<Store<SimDisk>>, Vec<u8>) {
    let disk = vault();
    let store = mount(&disk);
    let mut content = noise(400 << 10, 1);
    let node = put(&store, &store.root(), name, &content);
    store.open_file(&node, true).unwrap();
    store.write(&node, 8192, b"changed").unwrap();
    content[8192..8199].copy_from_slice(b"changed");
    store.fsync(&node).unwrap();
    store.close_file(&node, true);
    store.close().unwrap();
    drop((node, store));
    let store = mount(&disk);
    (disk, store, content)
}

#[test]
fn a_long_name_that_no_descriptor_is_left_for_is_no_damage() {
    let (disk, store, content) = with_mapped_file(&long_name());
    for code in [libc::EMFILE, libc::ENFILE] {
        disk.fail(1, code, |call| call == CallKind::Open);
        assert!(store.lookup(&store.root(), &long_name()).is_err());
    }
    assert_eq!(names(&store, &store.root()), [String::from_utf8(long_name()).unwrap()]);
    assert_eq!(get(&store, &store.root(), &long_name()).unwrap(), content);
}

#[test]
fn a_size_that_no_descriptor_is_left_for_is_not_0() {
    let (disk, store, content) = with_mapped_file(b"f");
    let node = store.lookup(&store.root(), b"f").unwrap();
    for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
        disk.fail(1, code, |call| call == CallKind::Open);
        assert!(store.attr(&node).is_err());
    }
    assert_eq!(store.attr(&node).unwrap().size, content.len() as u64);
}

#[test]
fn a_size_that_the_disk_did_not_tell_is_asked_for_again() {
    let (disk, store, content) = with_mapped_file(b"f");
    let node = store.lookup(&store.root(), b"f").unwrap();
    disk.fail(1, libc::EIO, |call| call == CallKind::Open);
    // It can be looked at and removed, and the kernel does not keep what it was told.
    assert_eq!(store.attr(&node).unwrap().size, 0);
    assert_eq!(store.take_invalid(), [node.id()]);
    assert_eq!(store.attr(&node).unwrap().size, content.len() as u64);
    assert_eq!(store.take_invalid(), []);
}

/// A stat that failed said that there was no such file in `.akasha/inodes`, and its layers went with its first name.
#[test]
fn a_failed_look_takes_no_layers_from_a_file_that_got_a_second_name() {
    let scene = |nth, is_changed| {
        let (disk, store, mut content) = with_mapped_file(b"f");
        let root = store.root();
        let node = store.lookup(&root, b"f").unwrap();
        store.link(&node, &root, b"g").unwrap();
        if is_changed {
            store.open_file(&node, true).unwrap();
            store.write(&node, 300 << 10, b"again").unwrap();
            store.close_file(&node, true);
            content[300 << 10..][..5].copy_from_slice(b"again");
        }
        let before = stats(&disk);
        disk.fail(nth, libc::EIO, |call| call == CallKind::Stat);
        let _ = store.fsync(&node);
        let _ = store.close();
        disk.heal();
        let made = stats(&disk) - before;
        drop((node, root, store));
        let store = mount(&disk);
        let root = store.root();
        let f = get(&store, &root, b"f").unwrap();
        assert!(f == content, "stat {nth}, changed {is_changed}: its content is lost");
        made
    };
    for_each_stat(|nth| scene(nth, false));
    for_each_stat(|nth| scene(nth, true));
}

/// A stat that failed said that a file had lost its last name.
#[test]
fn a_failed_count_of_names_takes_no_file_that_keeps_one() {
    for_each_stat(|nth| {
        let (disk, store, content) = with_mapped_file(b"f");
        let root = store.root();
        let node = store.lookup(&root, b"f").unwrap();
        store.link(&node, &root, b"g").unwrap();
        store.fsync(&node).unwrap();
        drop(node);
        let before = stats(&disk);
        disk.fail(nth, libc::EIO, |call| call == CallKind::Stat);
        let removed = store.unlink(&root, b"f");
        let _ = store.close();
        disk.heal();
        let made = stats(&disk) - before;
        drop((root, store));
        let store = mount(&disk);
        let root = store.root();
        let g = get(&store, &root, b"g");
        assert!(g.is_ok_and(|g| g == content), "stat {nth}: lost, and unlink said {removed:?}");
        made
    });
}

/// A tick that could not remove what a rename replaced put it out of mind, and the end of the mount called itself clean.
#[test]
fn a_close_does_not_pass_over_what_could_not_be_removed() {
    let disk = vault();
    let options =
        StoreOptions { commit: CommitPolicy::Interval(Duration::ZERO), ..StoreOptions::default() };
    let store = mount_with(&disk, options);
    let root = store.root();
    put(&store, &root, b"a", b"old");
    put(&store, &root, b"b", b"new");
    store.rename(&root, b"b", &root, b"a", RenameFlags::Replace).unwrap();
    disk.fail(1, libc::EIO, |call| call == CallKind::SyncDir);
    store.tick();
    disk.heal();
    assert!(store.close().is_err());
    assert!(!disk.paths().iter().any(|(path, ..)| path == b".akasha/clean"));
}

/// Every sync and removal of an exchange fails once: it is done or told, and not done again or undone by anybody: not by a
/// second try with the reserve, nor by the intent that the next mount finds.
#[test]
fn an_exchange_whose_steps_fail_is_done_once_or_not_at_all() {
    for (kind, count) in [(CallKind::SyncDir, 7), (CallKind::Unlink, 2), (CallKind::Rename, 3)] {
        for (nth, code) in (1..=count).flat_map(|nth| [(nth, libc::EIO), (nth, libc::ENOSPC)]) {
            let disk = vault();
            let store = mount(&disk);
            let root = store.root();
            let dir = store.mkdir(&root, b"d", &NEW).unwrap();
            put(&store, &root, b"a", b"was a");
            put(&store, &dir, b"b", b"was b");
            disk.fail(nth, code, move |call| call == kind);
            let done = store.rename(&root, b"a", &dir, b"b", RenameFlags::Exchange);
            disk.heal();
            let shown = [get(&store, &root, b"a").unwrap(), get(&store, &dir, b"b").unwrap()];
            let about = format!("{kind:?} {nth} fails with {code}: {done:?}");
            let swapped = [b"was b".to_vec(), b"was a".to_vec()];
            assert!(done.is_err() || shown == swapped, "{about}");
            assert!(shown == swapped || shown[0] == b"was a", "{about}");
            let again = store.rename(&root, b"a", &dir, b"b", RenameFlags::Exchange);
            let shown = [get(&store, &root, b"a").unwrap(), get(&store, &dir, b"b").unwrap()];
            let closed = store.close();
            drop((root, dir, store));
            let store = mount(&disk);
            let root = store.root();
            let dir = store.lookup(&root, b"d").unwrap();
            assert_eq!(names(&store, &root), ["a", "d"], "{about}");
            assert_eq!(names(&store, &dir), ["b"], "{about}");
            let found = [get(&store, &root, b"a").unwrap(), get(&store, &dir, b"b").unwrap()];
            assert!(closed.is_err() || found == shown, "{about}; then {again:?}, {closed:?}");
        }
    }
}

/// What was published along with a file that could not be was synced by nobody: the interval's commit knew nothing of it any more.
#[test]
fn what_a_failed_sync_of_a_directory_has_published_is_durable_within_the_interval() {
    for nth in 1..3 {
        let disk = vault();
        let options = StoreOptions {
            commit: CommitPolicy::Interval(Duration::ZERO),
            ..StoreOptions::default()
        };
        let store = mount_with(&disk, options);
        let root = store.root();
        for name in [b"a", b"b"] {
            let node = store.create(&root, name, &NEW).unwrap();
            store.write(&node, 0, name).unwrap();
            store.flush(&node).unwrap();
            store.close_file(&node, true);
        }
        disk.fail(nth, libc::EIO, |call| call == CallKind::Rename);
        assert!(store.fsync_dir(&root).is_err());
        let is_waiting = |name: &[u8]| store.is_dirty(&store.lookup(&root, name).unwrap());
        let (failed, other) = if is_waiting(b"a") { (b"a", b"b") } else { (b"b", b"a") };
        assert!(is_waiting(failed) && !is_waiting(other));
        store.unlink(&root, failed).unwrap();
        store.tick();
        let store = mount(&disk.crash(&CrashRule::NothingUnsynced));
        assert_eq!(get(&store, &store.root(), other).unwrap(), other, "rename {nth}");
    }
}

/// The way back of an exchange was not durable when its intent was gone: a cut left two entries of one name.
#[test]
fn an_exchange_that_goes_back_leaves_no_conflict() {
    for (nth, code) in (1..=3).flat_map(|nth| [(nth, libc::EIO), (nth, libc::ENOSPC)]) {
        let disk = vault();
        let store = mount(&disk);
        let root = store.root();
        let dir = store.mkdir(&root, b"d", &NEW).unwrap();
        put(&store, &root, b"a", b"was a");
        put(&store, &dir, b"b", b"was b");
        disk.fail(nth, code, |call| call == CallKind::Rename);
        let done = store.rename(&root, b"a", &dir, b"b", RenameFlags::Exchange);
        disk.heal();
        for (rule, after) in crashes(&disk) {
            let store = mount(&after);
            let root = store.root();
            let dir = store.lookup(&root, b"d").unwrap();
            let found = (names(&store, &root), names(&store, &dir));
            let about = format!("rename {nth} fails with {code}: {done:?}, {rule:?}");
            assert_eq!(found, (vec!["a".into(), "d".into()], vec!["b".into()]), "{about}");
        }
    }
}

/// A stat that failed said that a file had lost its other names: one that waited could be moved over the last that was shown, and
/// waited for itself ever after; one could go before another was durable.
#[test]
fn a_failed_count_of_names_holds_a_name_back() {
    for_each_stat(|nth| {
        let disk = vault();
        let store = mount(&disk);
        let root = store.root();
        let f = put(&store, &root, b"a", b"linked");
        store.link(&f, &root, b"b").unwrap();
        store.fsync(&f).unwrap();
        let fresh = |name: &[u8]| {
            let node = store.create(&root, name, &NEW).unwrap();
            store.write(&node, 0, b"new").unwrap();
            store.close_file(&node, true);
        };
        fresh(b"x");
        store.rename(&root, b"x", &root, b"b", RenameFlags::Replace).unwrap();
        store.link(&f, &root, b"c").unwrap();
        fresh(b"y");
        let before = stats(&disk);
        disk.fail(nth, libc::EIO, |call| call == CallKind::Stat);
        let renamed = store.rename(&root, b"y", &root, b"a", RenameFlags::Replace);
        disk.heal();
        let made = stats(&disk) - before;
        if renamed.is_err() {
            store.rename(&root, b"y", &root, b"a", RenameFlags::Replace).unwrap();
        }
        store.rename(&root, b"c", &root, b"b", RenameFlags::Replace).unwrap();
        let synced = store.fsync(&f);
        assert!(synced.is_ok(), "stat {nth}: rename said {renamed:?}, fsync {synced:?}");
        store.close().unwrap();
        made
    });
}

#[test]
fn no_name_goes_before_another_is_durable_though_a_count_fails() {
    for_each_stat(|nth| {
        let disk = vault();
        let store = mount(&disk);
        let root = store.root();
        let dir = store.mkdir(&root, b"d", &NEW).unwrap();
        let f = put(&store, &root, b"a", b"linked");
        store.fsync_dir(&root).unwrap();
        store.link(&f, &dir, b"b").unwrap();
        let node = store.create(&root, b"x", &NEW).unwrap();
        store.close_file(&node, true);
        drop(node);
        let before = stats(&disk);
        disk.fail(nth, libc::EIO, |call| call == CallKind::Stat);
        let renamed = store.rename(&root, b"x", &root, b"a", RenameFlags::Replace);
        let removed = store.unlink(&root, b"a");
        let synced = store.fsync_dir(&root);
        disk.heal();
        let made = stats(&disk) - before;
        for (rule, after) in crashes(&disk) {
            let store = mount(&after);
            let root = store.root();
            let dir = store.lookup(&root, b"d").unwrap();
            let found = [get(&store, &root, b"a"), get(&store, &dir, b"b")];
            let is_there = found.iter().flatten().any(|content| content == b"linked");
            assert!(is_there, "stat {nth}, {rule:?}: {renamed:?}, {removed:?}, {synced:?}");
        }
        made
    });
}

#[test]
fn names_that_the_disk_did_not_count_are_counted_again() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let f = put(&store, &root, b"a", b"linked");
    store.link(&f, &root, b"b").unwrap();
    store.fsync(&f).unwrap();
    for nth in 1..3 {
        disk.fail(nth, libc::EIO, |call| call == CallKind::Stat);
        // It can be looked at and removed, and the kernel does not keep what it was told.
        let told = store.attr(&f);
        disk.heal();
        let is_kept = store.take_invalid().is_empty();
        assert!(told.is_err() || told.is_ok_and(|attr| attr.nlink == 2) || !is_kept, "stat {nth}");
        assert_eq!(store.attr(&f).unwrap().nlink, 2);
        assert_eq!(store.take_invalid(), []);
    }
}

/// A syncfs that failed, for whatever it was called, has taken bytes of layers that were on their way, and says so once.
#[test]
fn a_failed_syncfs_is_not_forgotten_by_the_layers_it_concerns() {
    for (given_back, together) in [(false, false), (false, true), (true, false), (true, true)] {
        let what = format!("descriptor given back: {given_back}, many layers: {together}");
        let disk = vault();
        let store = mount_with(&disk, StoreOptions { max_descriptors: 0, ..Default::default() });
        let root = store.root();
        let large = store.create(&root, b"large", &NEW).unwrap();
        store.write(&large, 0, &noise(400 << 10, 1)).unwrap();
        store.flush(&large).unwrap();
        let mut all = vec![Arc::clone(&large)];
        if given_back {
            for n in 0..8_u8 {
                let other = store.create(&root, &[b'o', b'a' + n], &NEW).unwrap();
                store.write(&other, 0, &noise(400 << 10, 1)).unwrap();
                store.flush(&other).unwrap();
            }
        }
        disk.fail(1, libc::EIO, |call| call == CallKind::SyncAll);
        store.core.sync_all().unwrap_err();
        for n in 0..10_u8 {
            if together {
                let small = store.create(&root, &[b's', b'a' + n], &NEW).unwrap();
                store.write(&small, 0, &[n; 100]).unwrap();
                store.flush(&small).unwrap();
                all.push(small);
            }
        }
        assert!(store.commit(&all, commit::Take::All).is_err(), "{what}");
        assert!(matches!(store.flush(&large), Err(StoreError::Lost)), "{what}");
        for small in &all[1..] {
            store.fsync(small).unwrap();
        }
        for (rule, after) in crashes(&disk) {
            let store = mount(&after);
            assert!(matches!(get(&store, &store.root(), b"large"), Err(StoreError::NotFound)));
            for n in 0..u8::try_from(all.len() - 1).unwrap() {
                let small = get(&store, &store.root(), &[b's', b'a' + n]);
                assert_eq!(small.unwrap(), [n; 100], "{what}, {rule:?}");
            }
        }
    }
}

#[test]
fn a_syncfs_that_fails_for_somebody_else_fails_no_commit() {
    for nth in [1, 2] {
        let disk = vault();
        let commit = CommitPolicy::Interval(Duration::ZERO);
        let store = mount_with(&disk, StoreOptions { commit, ..StoreOptions::default() });
        let dirs: Vec<TestNode> = (0..20_u8)
            .map(|n| store.mkdir(&store.root(), &[b'd', b'a' + n], &NEW).unwrap())
            .collect();
        for dir in &dirs {
            let file = store.create(dir, b"f", &NEW).unwrap();
            store.write(&file, 0, b"content").unwrap();
            store.flush(&file).unwrap();
            store.close_file(&file, true);
        }
        disk.fail(nth, libc::EIO, |call| call == CallKind::SyncAll);
        disk.fail(nth + 1, libc::EIO, |call| call == CallKind::SyncAll);
        for _ in 0..3 {
            store.tick();
        }
        assert!(disk.counters().of(CallKind::SyncAll) >= nth, "{:?}", disk.counters());
        for (rule, after) in crashes(&disk) {
            let store = mount(&after);
            for n in 0..20_u8 {
                let dir = store.lookup(&store.root(), &[b'd', b'a' + n]).unwrap();
                assert_eq!(get(&store, &dir, b"f").unwrap(), b"content", "{nth}, {rule:?}");
            }
        }
    }
}

/// Bytes that could not be written back are told to the descriptors that are open, and to the next syncfs.
#[test]
fn a_loss_that_was_forgotten_with_a_descriptor_is_still_told() {
    use super::residents::Evictable;
    use crate::backing::TempFile;
    let disk = vault();
    let store = mount(&disk);
    let large = store.create(&store.root(), b"large", &NEW).unwrap();
    store.write(&large, 0, &noise(400 << 10, 1)).unwrap();
    store.flush(&large).unwrap();
    let layer = {
        let state = large.file().unwrap().state.read();
        Arc::clone(state.open.as_ref().unwrap().layer.as_ref().unwrap())
    };
    disk.fail(1, libc::EIO, |call| call == CallKind::StartWriteback);
    layer.file().unwrap().start_writeback().unwrap_err();
    layer.evict();
    assert!(store.fsync(&large).is_err());
    assert!(matches!(store.flush(&large), Err(StoreError::Lost)));
    for (rule, after) in crashes(&disk) {
        let store = mount(&after);
        let found = get(&store, &store.root(), b"large");
        assert!(matches!(found, Err(StoreError::NotFound)), "{rule:?}: {found:?}");
    }
}

/// A stub that waits in `.akasha/tmp` for its commit to be tried again was written before the syncfs that failed.
#[test]
fn a_stub_from_before_a_failed_syncfs_is_not_believed() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"a", b"linked");
    store.link(&file, &root, b"b").unwrap();
    store.prepare_stub(&file, &mut file.file().unwrap().commit.lock()).unwrap();
    disk.fail(1, libc::EIO, |call| call == CallKind::SyncAll);
    store.core.sync_all().unwrap_err();
    let mut all = vec![Arc::clone(&file)];
    for n in 0..10_u8 {
        let other = store.create(&root, &[b'o', b'a' + n], &NEW).unwrap();
        store.write(&other, 0, &[n; 100]).unwrap();
        store.flush(&other).unwrap();
        all.push(other);
    }
    let committed = store.commit(&all, commit::Take::All);
    assert!(committed.is_err(), "the stub was believed");
    store.fsync(&file).unwrap();
    for (rule, after) in crashes(&disk) {
        let store = mount(&after);
        for name in [b"a", b"b"] {
            let found = get(&store, &store.root(), name);
            assert!(found.as_ref().is_ok_and(|found| found == b"linked"), "{rule:?}: {found:?}");
        }
    }
}

/// The interval's commit of a file with several names shows its version before that is durable, and has nobody to tell.
#[test]
fn an_fsync_with_nothing_to_commit_tells_of_a_sync_that_failed_before() {
    let mut told = 0;
    for nth in 1..6 {
        let disk = vault();
        let commit = CommitPolicy::Interval(Duration::ZERO);
        let store = mount_with(&disk, StoreOptions { commit, ..StoreOptions::default() });
        let root = store.root();
        let file = put(&store, &root, b"a", b"old");
        store.link(&file, &root, b"b").unwrap();
        store.fsync(&file).unwrap();
        store.open_file(&file, true).unwrap();
        store.write(&file, 0, b"new").unwrap();
        store.flush(&file).unwrap();
        store.close_file(&file, true);
        disk.fail(nth, libc::EIO, |call| call == CallKind::SyncDir);
        store.tick();
        disk.heal();
        if store.fsync(&file).is_err() {
            told += 1;
            continue;
        }
        for (rule, after) in crashes(&disk) {
            let store = mount(&after);
            for name in [b"a", b"b"] {
                assert_eq!(get(&store, &store.root(), name).unwrap(), b"new", "{nth}, {rule:?}");
            }
        }
    }
    assert!(told > 0, "no sync of a tick failed");
}

/// A syncfs tells of any file on the filesystem, also of other programs'; a filesystem that was turned read-only by an error tells once.
#[test]
fn the_end_is_clean_if_only_some_file_could_not_be_written() {
    for is_aborted in [false, true] {
        let disk = vault();
        let store = mount(&disk);
        store.mkdir(&store.root(), b"dir", &NEW).unwrap();
        disk.fail(1, libc::EIO, |call| call == CallKind::SyncAll);
        if is_aborted {
            disk.abort_journal();
        }
        assert_eq!(store.close().is_ok(), !is_aborted);
    }
}

/// ext4 and xfs answer an fsync of a directory with success after their journal failed in the background.
#[test]
fn names_are_not_called_durable_after_the_journal_failed_unseen() {
    type Sync = fn(&Store<SimDisk>) -> Result<()>;
    let syncs: [(&str, Sync); 5] = [
        ("fsync of the directory", |store| store.fsync(&store.root())),
        ("fsync of a moved file", |store| store.fsync(&store.lookup(&store.root(), b"moved")?)),
        ("fsync of a linked file", |store| store.fsync(&store.lookup(&store.root(), b"c")?)),
        ("syncs of many directories", |store| {
            let dirs = (0..20_u8).map(|n| store.lookup(&store.root(), &[b'd', b'a' + n]));
            let dirs = dirs.collect::<Result<Vec<_>>>()?;
            let latest = |dir: &TestNode| dir.dir().unwrap().names.latest();
            store.sync_dirs(dirs.iter().map(|dir| (Arc::clone(dir), latest(dir))).collect())
        }),
        ("the end", Store::close),
    ];
    for (what, sync) in syncs {
        let disk = vault();
        let store = mount(&disk);
        let root = store.root();
        let file = put(&store, &root, b"file", b"content");
        let linked = put(&store, &root, b"a", b"linked");
        store.link(&linked, &root, b"b").unwrap();
        store.fsync(&linked).unwrap();
        store.mkdir(&root, b"dir", &NEW).unwrap();
        store.rename(&root, b"file", &root, b"moved", RenameFlags::Replace).unwrap();
        store.rename(&root, b"a", &root, b"c", RenameFlags::Replace).unwrap();
        for n in 0..20_u8 {
            let dir = store.mkdir(&root, &[b'd', b'a' + n], &NEW).unwrap();
            store.mkdir(&dir, b"in", &NEW).unwrap();
        }
        drop((file, linked));
        disk.abort_journal();
        assert!(sync(&store).is_err(), "{what} says that all is well");
    }
}

#[test]
fn attributes_are_not_called_durable_after_the_journal_failed_unseen() {
    let disk = vault();
    let store = mount(&disk);
    let file = put(&store, &store.root(), b"file", b"content");
    store.fsync(&file).unwrap();
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    store.set_attr(&file, &mode).unwrap();
    disk.abort_journal();
    assert!(store.fsync(&file).is_err());
}

/// fsync of a file that was removed has nothing to make durable: it succeeded also where what was written was lost.
#[test]
fn fsync_of_a_removed_file_tells_what_was_lost() {
    for unlinked in [false, true] {
        let disk = vault();
        let store = mount(&disk);
        let root = store.root();
        let file = store.create(&root, b"f", &NEW).unwrap();
        store.write(&file, 0, &noise(400 << 10, 1)).unwrap();
        disk.fail(1, libc::EIO, |call| call == CallKind::Sync);
        assert!(store.fsync(&file).is_err());
        if unlinked {
            store.unlink(&root, b"f").unwrap();
        }
        for _ in 0..2 {
            assert!(matches!(store.fsync(&file), Err(StoreError::Lost)), "unlinked {unlinked}");
        }
        store.truncate(&file, 0).unwrap();
        store.write(&file, 0, b"new").unwrap();
        store.fsync(&file).unwrap();
        store.close_file(&file, true);
    }
}
