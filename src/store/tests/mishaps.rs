//! Operations that fail between two steps, and rarer ways through the changes of names: each failed once.

use super::*;
use crate::store::RenameFlags;
use crate::store::commit::Take;

/// A pending file that was renamed over a committed one; removing that one fails for a while.
#[test]
fn a_failed_unlink_of_what_replaces_can_be_tried_again() {
    for code in [libc::EIO, libc::ENOSPC] {
        let disk = vault();
        let store = mount(&disk);
        let root = store.root();
        put(&store, &root, b"a", b"old");
        let new = store.create(&root, b"b", &NEW).unwrap();
        store.write(&new, 0, b"new").unwrap();
        store.close_file(&new, true);
        store.rename(&root, b"b", &root, b"a", RenameFlags::Replace).unwrap();
        disk.fail_from(1, code, |call| call == CallKind::Unlink);
        store.unlink(&root, b"a").unwrap_err();
        disk.heal();
        assert_eq!(get(&store, &root, b"a").unwrap(), b"new");
        store.unlink(&root, b"a").unwrap();
        assert!(names(&store, &root).is_empty());
        drop((root, new));
        store.close().unwrap();
        drop(store);
        let store = mount(&disk);
        assert!(names(&store, &store.root()).is_empty());
    }
}

/// As above, of what was renamed while it is open: the first removal fails, then the second.
#[test]
fn a_failed_unlink_of_what_moved_over_can_be_tried_again() {
    for nth in 1..=2 {
        let disk = vault();
        let store = mount(&disk);
        let root = store.root();
        put(&store, &root, b"a", b"old");
        let x = put(&store, &root, b"x", b"xxx");
        store.open_file(&x, true).unwrap();
        store.rename(&root, b"x", &root, b"a", RenameFlags::Replace).unwrap();
        store.close_file(&x, true);
        disk.fail(nth, libc::EIO, |call| call == CallKind::Unlink || call == CallKind::Rename);
        store.unlink(&root, b"a").unwrap_err();
        disk.heal();
        assert_eq!(get(&store, &root, b"a").unwrap(), b"xxx", "{nth}");
        store.unlink(&root, b"a").unwrap();
        put(&store, &root, b"a", b"newer");
        drop((root, x));
        store.close().unwrap();
        drop(store);
        let store = mount(&disk);
        assert_eq!(names(&store, &store.root()), ["a"], "{nth}");
        assert_eq!(get(&store, &store.root(), b"a").unwrap(), b"newer", "{nth}");
    }
}

/// The target was renamed while it is open and changed, and is still where it was.
#[test]
fn a_rename_that_does_not_wait_syncs_nothing() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let dir = store.mkdir(&root, b"d", &NEW).unwrap();
    store.fsync_dir(&root).unwrap();
    let x = put(&store, &dir, b"x", b"1");
    put(&store, &root, b"y", b"2");
    store.fsync_dir(&root).unwrap();
    store.settle_all();
    store.open_file(&x, true).unwrap();
    store.write(&x, 0, b"3").unwrap();
    store.rename(&dir, b"x", &root, b"x", RenameFlags::Replace).unwrap();
    let (may_wait, before) = (store.rename_may_wait(&root, b"y", &root, b"x"), syncs(&disk));
    store.rename(&root, b"y", &root, b"x", RenameFlags::Replace).unwrap();
    assert!(may_wait || syncs(&disk) == before, "{may_wait} {before:?} {:?}", syncs(&disk));
}

/// What moves needs layers whose names somebody else's commit made and has not synced yet.
#[test]
fn a_rename_while_a_layer_is_not_durable_says_that_it_may_wait() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let dir = store.mkdir(&root, b"d", &NEW).unwrap();
    store.fsync_dir(&root).unwrap();
    let content = noise(300 << 10, 1);
    let big = put(&store, &dir, b"big", &content);
    put(&store, &root, b"y", b"2");
    store.fsync_dir(&root).unwrap();
    store.settle_all();
    // A mapped version, committed by somebody who has not synced the layers yet: an unlink's or a rename's Blocked::Commit.
    store.open_file(&big, true).unwrap();
    store.write(&big, 9000, b"3").unwrap();
    store.close_file(&big, true);
    store.commit(std::slice::from_ref(&big), crate::store::commit::Take::All).unwrap();
    let (may_wait, before) = (store.rename_may_wait(&dir, b"big", &dir, b"big2"), syncs(&disk));
    store.rename(&dir, b"big", &dir, b"big2", RenameFlags::Replace).unwrap();
    assert!(may_wait || syncs(&disk) == before, "{may_wait} {before:?} {:?}", syncs(&disk));
}

/// mkdir is refused after it made its entry, over a name whose removal is not durable.
#[test]
fn a_refused_mkdir_forgets_no_removal() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    put(&store, &root, b"a", b"old");
    store.unlink(&root, b"a").unwrap();
    disk.fail(1, libc::EIO, |call| call == CallKind::SetAttr);
    assert!(store.mkdir(&root, b"a", &NEW).is_err());
    disk.heal();
    let new = store.create(&root, b"a", &NEW).unwrap();
    store.write(&new, 0, b"new").unwrap();
    store.commit(std::slice::from_ref(&new), crate::store::commit::Take::All).unwrap();
    let rules = CrashRule::battery(disk.pending_changes(), 0..200);
    for rule in rules {
        let after = disk.crash(&rule);
        let store = mount(&after);
        let seen = names(&store, &store.root());
        assert!(seen.len() <= 1, "{rule:?}: {seen:?}");
    }
}

/// An exchange below a directory whose move is not durable.
#[test]
fn an_exchange_in_a_moved_directory_is_whole() {
    for linked in [false, true] {
        for cut in 0..40 {
            let disk = vault();
            let store = mount(&disk);
            let root = store.root();
            let from = store.mkdir(&root, b"p", &NEW).unwrap();
            let to = store.mkdir(&root, b"q", &NEW).unwrap();
            let moved = store.mkdir(&from, b"d", &NEW).unwrap();
            let a = put(&store, &moved, b"a", b"first");
            put(&store, &root, b"b", b"second");
            if linked {
                store.link(&a, &root, b"x").unwrap();
            }
            store.fsync(&a).unwrap();
            store.rename(&from, b"d", &to, b"d", RenameFlags::Replace).unwrap();
            disk.cut_at(disk.operations() + cut);
            let _ = store.rename(&moved, b"a", &root, b"b", RenameFlags::Exchange);
            let mut seen = Vec::new();
            for rule in CrashRule::battery(disk.pending_changes(), 0..16) {
                let after = disk.crash(&rule);
                let store = mount(&after);
                let root = store.root();
                let top = names(&store, &root);
                let mut inside = Vec::new();
                for dir in [b"p", b"q"] {
                    let dir = store.lookup(&root, dir).unwrap();
                    if let Ok(d) = store.lookup(&dir, b"d") {
                        inside.extend(names(&store, &d));
                    }
                }
                let b = get(&store, &root, b"b").ok();
                seen.push((format!("{rule:?}"), top, inside, b));
            }
            let expected = if linked { vec!["b", "p", "q", "x"] } else { vec!["b", "p", "q"] };
            for (rule, top, inside, b) in seen {
                assert!(
                    top == expected && inside == ["a"] && b.is_some(),
                    "linked {linked} cut {cut} {rule}: {top:?} {inside:?}"
                );
            }
        }
    }
}

/// A file that has no shown name any more is not given one: its hidden names would wait for it.
#[test]
fn a_file_without_shown_names_gets_none() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let a = put(&store, &root, b"a", b"aa");
    store.link(&a, &root, b"b").unwrap();
    store.fsync(&a).unwrap();
    put(&store, &root, b"c", b"cc");
    put(&store, &root, b"d", b"dd");
    store.rename(&root, b"c", &root, b"a", RenameFlags::Replace).unwrap();
    store.rename(&root, b"d", &root, b"b", RenameFlags::Replace).unwrap();
    assert_eq!(store.attr(&a).unwrap().nlink, 0);
    let linked = store.link(&a, &root, b"e");
    assert!(linked.is_err(), "{:?} {:?}", names(&store, &root), store.attr(&a).unwrap().nlink);
}

#[test]
fn a_conflict_that_is_renamed_while_open_leaves_its_name() {
    let disk = vault();
    let entry = |disk: &SimDisk| {
        let raw = disk.list(&disk.root().unwrap()).unwrap();
        raw.into_iter().map(|raw| raw.name).find(|name| name[0] != b'.').unwrap()
    };
    let store = mount(&disk);
    put(&store, &store.root(), b"a", b"1");
    store.close().unwrap();
    drop(store);
    let (top, first) = (disk.root().unwrap(), entry(&disk));
    let control = disk.open_dir(&top, CONTROL_DIR).unwrap();
    disk.rename(&top, &first, &control, b"keep", crate::backing::RenameMode::NoReplace).unwrap();
    let store = mount(&disk);
    put(&store, &store.root(), b"a", b"2");
    store.close().unwrap();
    drop(store);
    disk.rename(&control, b"keep", &top, &first, crate::backing::RenameMode::NoReplace).unwrap();
    let store = mount(&disk);
    let root = store.root();
    let all = names(&store, &root);
    assert_eq!(all.len(), 2, "{all:?}");
    let shown = all[1].as_bytes();
    let x = store.lookup(&root, shown).unwrap();
    store.open_file(&x, true).unwrap();
    store.write(&x, 0, b"3").unwrap();
    store.rename(&root, shown, &root, b"b", RenameFlags::Replace).unwrap();
    store.close_file(&x, true);
    store.fsync(&x).unwrap();
    assert_eq!(names(&store, &root), ["a", "b"]);
    let new = store.create(&root, shown, &NEW).unwrap();
    store.close_file(&new, true);
    store.fsync(&new).unwrap();
}

/// A directory to be synced first is synced up to the latest change that asked for it.
#[test]
fn a_directory_to_sync_first_keeps_its_latest_change() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let d = store.mkdir(&root, b"d", &NEW).unwrap();
    store.fsync_dir(&root).unwrap();
    let dir = root.dir().unwrap();
    dir.state.lock().sync_before(&d, 10);
    dir.state.lock().sync_before(&d, 7);
    assert_eq!(dir.state.lock().sync_first[0].1, 10);
}

/// fsync of a file with several names: a directory above them moved, by a way that the file knows nothing of.
#[test]
fn fsync_of_a_file_with_several_names_keeps_the_moves_above_them() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let from = store.mkdir(&root, b"p", &NEW).unwrap();
    let to = store.mkdir(&root, b"q", &NEW).unwrap();
    let dir = store.mkdir(&from, b"d", &NEW).unwrap();
    let file = put(&store, &dir, b"a", b"old");
    store.link(&file, &dir, b"b").unwrap();
    store.fsync(&file).unwrap();
    store.fsync_dir(&to).unwrap();
    store.rename(&from, b"d", &to, b"d", RenameFlags::Replace).unwrap();
    store.rename(&root, b"q", &root, b"r", RenameFlags::Replace).unwrap();
    store.write(&file, 0, b"new").unwrap();
    store.fsync(&file).unwrap();
    for (rule, disk) in crashes(&disk) {
        let store = mount(&disk);
        let moved = store.lookup(&store.root(), b"r").unwrap_or_else(|e| panic!("{rule:?}: {e}"));
        let dir = store.lookup(&moved, b"d").unwrap_or_else(|e| panic!("{rule:?}: {e}"));
        for name in [b"a", b"b"] {
            assert_eq!(get(&store, &dir, name).unwrap(), b"new", "{rule:?}");
        }
    }
    // What became durable in another way is not remembered.
    assert!(store.moved_dirs.lock().is_empty());
}

/// As above: the name is in a new directory, and durable there before what leads to it is. Nobody has the file meanwhile.
#[test]
fn fsync_of_a_file_with_several_names_keeps_the_making_of_what_is_above_them() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"a", b"old");
    let new = store.mkdir(&root, b"n", &NEW).unwrap();
    let dir = store.mkdir(&new, b"d", &NEW).unwrap();
    store.link(&file, &dir, b"b").unwrap();
    store.commit(std::slice::from_ref(&file), Take::All).unwrap();
    dir.sync_names(&store.core, dir.dir().unwrap().names.latest()).unwrap();
    store.forget_newly_named();
    drop(file);
    let file = store.lookup(&root, b"a").unwrap();
    store.fsync(&file).unwrap();
    for (rule, disk) in crashes(&disk) {
        let store = mount(&disk);
        let new = store.lookup(&store.root(), b"n").unwrap_or_else(|e| panic!("{rule:?}: {e}"));
        let dir = store.lookup(&new, b"d").unwrap_or_else(|e| panic!("{rule:?}: {e}"));
        assert_eq!(get(&store, &dir, b"b").unwrap(), b"old", "{rule:?}");
    }
}

/// An rmdir that must let something move out of the directory first, or remove what is dead in it, says so.
#[test]
fn an_rmdir_that_does_not_wait_syncs_nothing() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let dir = store.mkdir(&root, b"d", &NEW).unwrap();
    let x = put(&store, &dir, b"x", b"1");
    store.fsync_dir(&root).unwrap();
    store.settle_all();
    store.open_file(&x, true).unwrap();
    store.write(&x, 0, b"2").unwrap();
    store.rename(&dir, b"x", &root, b"x", RenameFlags::Replace).unwrap();
    assert!(store.rmdir_may_wait(&root, b"d"));
    store.rmdir(&root, b"d").unwrap();
    // Nor does one that has nothing to wait for.
    store.mkdir(&root, b"e", &NEW).unwrap();
    store.fsync_dir(&root).unwrap();
    store.settle_all();
    names(&store, &store.lookup(&root, b"e").unwrap());
    let (may_wait, before) = (store.rmdir_may_wait(&root, b"e"), syncs(&disk));
    store.rmdir(&root, b"e").unwrap();
    assert_eq!((may_wait, before), (false, syncs(&disk)));
}

/// The second rename of an exchange fails, and so does taking back the first: the next mount finishes what the intent says.
#[test]
fn an_exchange_that_cannot_be_taken_back_is_finished_by_the_next_mount() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    put(&store, &root, b"a", b"first");
    put(&store, &root, b"b", b"second");
    // The first two renames place the intent and move the first entry.
    disk.fail_from(3, libc::EIO, |call| call == CallKind::Rename);
    store.rename(&root, b"a", &root, b"b", RenameFlags::Exchange).unwrap_err();
    disk.heal();
    let again = store.rename(&root, b"a", &root, b"b", RenameFlags::Exchange);
    assert!(again.is_err());
    drop(root);
    drop(store);
    let store = mount(&disk);
    assert_eq!(names(&store, &store.root()), ["a", "b"]);
    assert_eq!(get(&store, &store.root(), b"a").unwrap(), b"second");
    assert_eq!(get(&store, &store.root(), b"b").unwrap(), b"first");
}

/// An exchange commits both files and is durable when it returns: all that fsync of each would have kept is there.
#[test]
fn an_exchange_is_durable_with_all_names_and_layers_of_its_files() {
    for (linked, committed) in [(false, false), (false, true), (true, false), (true, true)] {
        let disk = vault();
        let store = mount(&disk);
        let root = store.root();
        let dirs = [b"d", b"e"].map(|name| {
            let outer = store.mkdir(&root, name, &NEW).unwrap();
            store.mkdir(&outer, b"inner", &NEW).unwrap()
        });
        let other = store.mkdir(&root, b"o", &NEW).unwrap();
        let mut contents = [noise(2 << 20, 1), noise(2 << 20, 2)];
        for ((dir, content), name) in dirs.iter().zip(&mut contents).zip([b"a", b"b"]) {
            let node = put(&store, dir, b"f", content);
            if committed {
                store.fsync(&node).unwrap();
            }
            if linked {
                store.link(&node, &other, name).unwrap();
            }
            store.open_file(&node, true).unwrap();
            store.write(&node, 8192, b"changed").unwrap();
            store.close_file(&node, true);
            content[8192..8199].copy_from_slice(b"changed");
        }
        store.rename(&dirs[0], b"f", &dirs[1], b"f", RenameFlags::Exchange).unwrap();
        for (rule, disk) in crashes(&disk) {
            let what = format!("linked {linked}, committed {committed}, {rule:?}");
            let store = mount(&disk);
            let get = |outer: &[u8], inner: Option<&[u8]>, name: &[u8]| {
                let mut dir = store.lookup(&store.root(), outer)?;
                if let Some(inner) = inner {
                    dir = store.lookup(&dir, inner)?;
                }
                get(&store, &dir, name)
            };
            assert!(get(b"d", Some(b"inner"), b"f").unwrap() == contents[1], "{what}");
            assert!(get(b"e", Some(b"inner"), b"f").unwrap() == contents[0], "{what}");
            if linked {
                assert!(get(b"o", None, b"a").unwrap() == contents[0], "{what}");
                assert!(get(b"o", None, b"b").unwrap() == contents[1], "{what}");
            }
        }
    }
}
