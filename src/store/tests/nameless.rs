//! Files made without a name.

use super::times::clocked;
use super::*;

/// What lies in `.akasha/tmp`, with its lengths.
fn kept(disk: &SimDisk) -> Vec<(String, u64)> {
    let inside = |path: &[u8]| path.starts_with(b".akasha/tmp/");
    let paths = disk.paths().into_iter().filter(|(path, ..)| inside(path));
    paths.map(|(path, _, len)| (String::from_utf8_lossy(&path).into_owned(), len)).collect()
}

fn nameless(store: &Store<SimDisk>, content: &[u8]) -> TestNode {
    let node = store.create_nameless(&NEW, true).unwrap();
    store.write(&node, 0, content).unwrap();
    node
}

fn content(store: &Store<SimDisk>, node: &TestNode) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(store.attr(node).unwrap().size).unwrap()];
    assert_eq!(store.read(node, 0, &mut out).unwrap(), out.len());
    out
}

fn is_refused(store: &Store<SimDisk>, node: &TestNode) -> bool {
    let refused = store.link(node, &store.root(), b"never");
    matches!(refused, Err(StoreError::NotFound)) && store.lookup(&store.root(), b"never").is_err()
}

#[test]
fn a_file_without_a_name_does_all_and_leaves_nothing() {
    for size in [100, 5000, 300 << 10] {
        for may_be_named in [false, true] {
            let disk = vault();
            let store = mount(&disk);
            let empty = kept(&disk);
            let node = store.create_nameless(&NEW, may_be_named).unwrap();
            let mut now = noise(size, 1);
            store.write(&node, 0, &now).unwrap();
            store.fsync(&node).unwrap();
            store.write(&node, 50, b"written later").unwrap();
            now[50..63].copy_from_slice(b"written later");
            store.truncate(&node, size as u64 + 5000).unwrap();
            now.resize(size + 5000, 0);
            store.set_xattr(&node, b"user.kept", b"kept", SetXattr::Any).unwrap();
            let change = SetAttr { mode: Some(0o600), uid: Some(7), ..SetAttr::default() };
            let attr = store.set_attr(&node, &change).unwrap();
            assert_eq!(
                (attr.nlink, attr.mode, attr.uid, attr.size),
                (0, 0o600, 7, now.len() as u64)
            );
            store.open_file(&node, false).unwrap();
            store.flush(&node).unwrap();
            store.fsync(&node).unwrap();
            assert_eq!(store.get_xattr(&node, b"user.kept").unwrap(), b"kept");
            assert_eq!(content(&store, &node), now);
            store.fsync_dir(&store.root()).unwrap();
            assert!(names(&store, &store.root()).is_empty());
            for (rule, after) in crashes(&disk) {
                let store = mount(&after);
                assert!(names(&store, &store.root()).is_empty(), "{rule:?}");
                assert_eq!(kept(&after), [], "{rule:?}");
            }
            store.close_file(&node, true);
            store.close_file(&node, false);
            drop(node);
            assert_eq!(kept(&disk), empty, "{size} {may_be_named}");
            store.close().unwrap();
        }
    }
}

#[test]
fn what_is_to_have_no_name_gets_none() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    assert!(is_refused(&store, &store.create_nameless(&NEW, false).unwrap()));
    // Lost its only name: never committed, committed, and after it was linked as a file without one.
    let new = store.create(&root, b"new", &NEW).unwrap();
    store.unlink(&root, b"new").unwrap();
    assert!(is_refused(&store, &new));
    let old = put(&store, &root, b"old", b"old");
    store.open_file(&old, true).unwrap();
    store.unlink(&root, b"old").unwrap();
    assert!(is_refused(&store, &old));
    let late = nameless(&store, b"late");
    store.link(&late, &root, b"late").unwrap();
    store.unlink(&root, b"late").unwrap();
    assert_eq!(content(&store, &late), b"late");
    assert!(is_refused(&store, &late));
}

#[test]
fn with_its_first_name_it_is_a_new_file_like_any_other() {
    for size in [5, 300 << 10] {
        let disk = vault();
        let store = mount(&disk);
        let root = store.root();
        let dir = store.mkdir(&root, b"dir", &NEW).unwrap();
        put(&store, &root, b"there", b"there");
        let (one, two) = (noise(size, 1), noise(size, 2));
        let node = nameless(&store, &one);
        store.set_xattr(&node, b"user.kept", b"kept", SetXattr::Any).unwrap();
        assert!(matches!(store.link(&node, &root, b"there"), Err(StoreError::AlreadyExists)));
        store.link(&node, &root, b"a").unwrap();
        assert_eq!(store.attr(&node).unwrap().nlink, 1);
        assert!(Arc::ptr_eq(&store.lookup(&root, b"a").unwrap(), &node));
        // One more, before the first commit; of another one after it; and one that takes the place of another file.
        store.link(&node, &dir, b"b").unwrap();
        let other = nameless(&store, &two);
        store.link(&other, &dir, b"c").unwrap();
        store.fsync(&other).unwrap();
        store.link(&other, &root, b"d").unwrap();
        let third = nameless(&store, &one);
        store.link(&third, &root, b"e").unwrap();
        for node in [&node, &other, &third] {
            store.close_file(node, true);
        }
        store.rename(&root, b"e", &root, b"there", RenameFlags::Replace).unwrap();
        for (rule, after) in crashes(&disk) {
            let store = mount(&after);
            let there = get(&store, &store.root(), b"there").unwrap();
            assert!(there == b"there" || there == one, "{rule:?}");
            let dir = store.lookup(&store.root(), b"dir").unwrap();
            assert_eq!(get(&store, &dir, b"c").unwrap(), two, "{rule:?}");
        }
        store.close().unwrap();
        drop((node, other, third, dir, root, store));
        let store = mount(&disk);
        let root = store.root();
        assert_eq!(names(&store, &root), ["a", "d", "dir", "there"]);
        let dir = store.lookup(&root, b"dir").unwrap();
        let found = [(&root, "a", &one), (&dir, "b", &one), (&dir, "c", &two), (&root, "d", &two)];
        for (dir, name, content) in found.into_iter().chain([(&root, "there", &one)]) {
            assert_eq!(get(&store, dir, name.as_bytes()).unwrap(), *content, "{name}");
        }
        let a = store.lookup(&root, b"a").unwrap();
        assert!(Arc::ptr_eq(&a, &store.lookup(&dir, b"b").unwrap()));
        assert_eq!(store.attr(&a).unwrap().nlink, 2);
        assert_eq!(store.get_xattr(&a, b"user.kept").unwrap(), b"kept");
    }
}

/// The first name needs no hard links: where the vault's filesystem has none, it works all the same.
#[test]
fn the_first_name_needs_no_hard_links() {
    let disk = vault();
    let store = mount(&disk);
    disk.fail_from(1, libc::EPERM, |call| call == CallKind::Link);
    let node = nameless(&store, b"content");
    store.link(&node, &store.root(), b"a").unwrap();
    store.fsync(&node).unwrap();
    assert!(matches!(store.link(&node, &store.root(), b"b"), Err(StoreError::NotSupported)));
    disk.heal();
    store.close_file(&node, true);
    store.close().unwrap();
    drop(store);
    let store = mount(&disk);
    assert_eq!(get(&store, &store.root(), b"a").unwrap(), b"content");
}

#[test]
fn what_was_synced_before_it_had_a_name_is_durable_once_its_directory_is() {
    for size in [5, 5000, 300 << 10] {
        for goes_on in [false, true] {
            let disk = vault();
            let store = mount(&disk);
            let root = store.root();
            let before = noise(size, 1);
            let node = nameless(&store, &before);
            store.fsync(&node).unwrap();
            if goes_on {
                store.write(&node, size as u64, b"more").unwrap();
            }
            store.link(&node, &root, b"a").unwrap();
            if goes_on {
                store.write(&node, size as u64 + 4, b"and more").unwrap();
            }
            store.fsync_dir(&root).unwrap();
            for (rule, after) in crashes(&disk) {
                let store = mount(&after);
                let now = get(&store, &store.root(), b"a").unwrap();
                assert_eq!(now[..size], before, "{rule:?}");
            }
            store.close_file(&node, true);
        }
    }
}

/// One that was not synced is its writer's to publish, like every new file.
#[test]
fn fsync_of_the_directory_leaves_a_half_written_one_to_its_writer() {
    let disk = vault();
    let store = mount(&disk);
    let node = nameless(&store, b"half");
    store.link(&node, &store.root(), b"a").unwrap();
    store.fsync_dir(&store.root()).unwrap();
    let after = mount(&disk.crash(&CrashRule::Everything));
    assert!(names(&after, &after.root()).is_empty());
    store.close_file(&node, true);
    store.fsync_dir(&store.root()).unwrap();
    let after = mount(&disk.crash(&CrashRule::NothingUnsynced));
    assert_eq!(get(&after, &after.root(), b"a").unwrap(), b"half");
}

/// The kernel may hold most of what was written, for half a minute more.
#[test]
fn a_name_given_late_leaves_its_writer_as_much_time_as_an_early_one() {
    let (store, clock, disk) = clocked();
    let root = store.root();
    let node = nameless(&store, &noise(300 << 10, 1));
    clock.pass(100);
    store.tick();
    assert_eq!(disk.paths().iter().filter(|(path, ..)| !path.starts_with(b".akasha")).count(), 0);
    store.write(&node, 0, b"more").unwrap();
    store.link(&node, &root, b"a").unwrap();
    let is_published = || disk.paths().iter().any(|(path, ..)| !path.starts_with(b".akasha"));
    for _ in 0..5 {
        clock.pass(10);
        store.tick();
        assert!(!is_published(), "its writer is at it since it has a name");
    }
    clock.pass(11);
    store.tick();
    assert!(is_published(), "its writer does not come to an end");
    store.close_file(&node, true);
}

/// Time alone does nothing with it: there is nothing to commit, and no call of the disk is made for it.
#[test]
fn no_commit_works_on_a_file_without_a_name() {
    let (store, clock, disk) = clocked();
    let node = nameless(&store, &noise(300 << 10, 1));
    store.fsync(&node).unwrap();
    let mut calls = None;
    for _ in 0..10 {
        store.write(&node, 5, b"x").unwrap();
        clock.pass(100);
        store.tick();
        store.fsync_dir(&store.root()).unwrap();
        // The first round reads the block, and syncs what came before.
        assert_eq!(disk.operations(), *calls.get_or_insert(disk.operations()));
    }
    store.close_file(&node, true);
}

#[test]
fn who_holds_it_without_a_handle_may_still_give_it_a_name() {
    for size in [5, 300 << 10] {
        let (store, clock, disk) = clocked();
        let content = noise(size, 1);
        let node = nameless(&store, &content);
        store.close_file(&node, true);
        store.link(&node, &store.root(), b"a").unwrap();
        drop(node);
        clock.pass(6);
        store.tick();
        let after = mount(&disk.crash(&CrashRule::NothingUnsynced));
        assert_eq!(get(&after, &after.root(), b"a").unwrap(), content);
        // Nobody does: it goes with the last who holds it.
        let node = nameless(&store, &content);
        let held = kept(&disk);
        store.close_file(&node, true);
        assert_eq!(kept(&disk), held);
        drop(node);
        assert_eq!(kept(&disk), []);
    }
}

/// A slot is written once, and here no commit comes that would give the dead ones back.
#[test]
fn one_that_is_written_over_and_over_does_not_grow_in_the_vault() {
    let disk = vault();
    let store = mount(&disk);
    // With a hole before it, and a block that is not whole at either end.
    let (at, size) = (12_295, (1 << 20) + 123);
    for may_be_named in [false, true] {
        let node = store.create_nameless(&NEW, may_be_named).unwrap();
        let mut last = vec![0; at + size];
        let mut most = 0;
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut out = vec![0; 100_000];
                while !stop.load(Ordering::Relaxed) {
                    store.read(&node, 300_000, &mut out).unwrap();
                }
            });
            for round in 0..40 {
                last[at..].copy_from_slice(&noise(size, round));
                store.write(&node, at as u64, &last[at..]).unwrap();
                most = kept(&disk).iter().map(|(_, len)| len).sum::<u64>().max(most);
            }
            stop.store(true, Ordering::Relaxed);
        });
        // The reader may still have had the layer before.
        assert!(most < 24 << 20, "{most} bytes");
        assert_eq!(content(&store, &node), last);
        if may_be_named {
            store.link(&node, &store.root(), b"a").unwrap();
            store.close_file(&node, true);
            store.close().unwrap();
            let after = mount(&disk);
            assert_eq!(get(&after, &after.root(), b"a").unwrap(), last);
        } else {
            store.close_file(&node, true);
        }
    }
}

/// Slots that are left out for holes take no room, and are no reason to copy what is there again and again.
#[test]
fn a_sparse_one_is_not_copied_for_its_holes() {
    let disk = vault();
    let store = mount(&disk);
    let node = store.create_nameless(&NEW, true).unwrap();
    let piece = noise(300 << 10, 1);
    disk.reset_counters();
    for round in 0..100 {
        store.write(&node, round << 20, &piece).unwrap();
    }
    let layers = disk.counters().calls[&CallKind::CreateTemp];
    assert!(layers < 4, "{layers} layers were made");
    let mut out = vec![0; piece.len()];
    store.read(&node, 57 << 20, &mut out).unwrap();
    assert_eq!(out, piece);
    store.close_file(&node, true);
}

/// A disk that is full is told at fsync, where the application still can do something about it.
#[test]
fn fsync_tells_that_there_is_no_room() {
    let disk = vault();
    let store = mount(&disk);
    let node = nameless(&store, &noise(5000, 1));
    disk.fail_from(1, libc::ENOSPC, |call| call == CallKind::Write || call == CallKind::CreateTemp);
    assert!(store.fsync(&node).is_err());
    disk.heal();
    store.fsync(&node).unwrap();
    store.link(&node, &store.root(), b"a").unwrap();
    store.close_file(&node, true);
    store.close().unwrap();
    let after = mount(&disk);
    assert_eq!(get(&after, &after.root(), b"a").unwrap(), noise(5000, 1));
}

/// Whoever names it and whoever closes it at the same time: it is committed, or refused and gone.
#[test]
fn a_first_name_and_the_last_close_at_once_lose_nothing() {
    for seed in 0..50 {
        let (store, clock, disk) = clocked();
        let node = nameless(&store, &noise(2000, seed));
        std::thread::scope(|scope| {
            scope.spawn(|| store.link(&node, &store.root(), b"a").unwrap());
            scope.spawn(|| store.close_file(&node, true));
        });
        drop(node);
        clock.pass(6);
        store.tick();
        let after = mount(&disk.crash(&CrashRule::NothingUnsynced));
        assert_eq!(get(&after, &after.root(), b"a").unwrap(), noise(2000, seed), "{seed}");
    }
}

#[test]
fn a_mount_ends_cleanly_while_one_is_open() {
    let disk = vault();
    let store = mount(&disk);
    let node = nameless(&store, &noise(300 << 10, 1));
    store.close().unwrap();
    store.close_file(&node, true);
    drop((node, store));
    assert_eq!(kept(&disk), []);
}

/// A repair looks there for the directory of what lost its name in the vault.
#[test]
fn its_first_version_says_in_which_directory_it_is() {
    for size in [5, 300 << 10] {
        let disk = vault();
        let store = mount(&disk);
        let dir = store.mkdir(&store.root(), b"dir", &NEW).unwrap();
        let node = nameless(&store, &noise(size, 1));
        store.fsync(&node).unwrap();
        store.link(&node, &dir, b"a").unwrap();
        store.fsync(&node).unwrap();
        let top = node.file().unwrap().state.read().top.clone().unwrap();
        assert_eq!(top.top().tail.home, dir.id());
        store.close_file(&node, true);
    }
}
