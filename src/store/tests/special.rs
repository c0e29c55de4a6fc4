//! Special files, missing control directories, attributes of what is gone.

use super::*;
use crate::backing::{PublishedFile, RenameMode, TempFile};

#[test]
fn a_device_keeps_its_number_through_commit_rename_replacement_and_remount() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let made = store.make_special(&root, b"d", EntryKind::BlockDevice, 0x0801, &NEW).unwrap();
    assert_eq!(store.attr(&made).unwrap().rdev, 0x0801);
    store.fsync_dir(&root).unwrap();
    store.rename(&root, b"d", &root, b"e", RenameFlags::Replace).unwrap();
    store.make_special(&root, b"f", EntryKind::CharDevice, 7, &NEW).unwrap();
    store.fsync_dir(&root).unwrap();
    store.rename(&root, b"f", &root, b"e", RenameFlags::Replace).unwrap();
    store
        .make_special(&root, &[b'l'; 255], EntryKind::CharDevice, u64::from(u32::MAX), &NEW)
        .unwrap();
    store.close().unwrap();
    drop((made, root, store));
    let store = mount(&disk);
    let root = store.root();
    let attr = store.attr(&store.lookup(&root, b"e").unwrap()).unwrap();
    assert_eq!(
        (attr.kind, attr.rdev, attr.size, attr.blocks_512),
        (EntryKind::CharDevice, 7, 0, 0)
    );
    let long = store.attr(&store.lookup(&root, &[b'l'; 255]).unwrap()).unwrap();
    assert_eq!(long.rdev, u64::from(u32::MAX));
    for name in [b"e".as_slice(), &[b'l'; 255]] {
        store.unlink(&root, name).unwrap();
    }
    store.close().unwrap();
    assert_eq!(tree_files(&disk), Vec::<Vec<u8>>::new());
}

/// What the vault holds beside the control directory.
fn tree_files(disk: &SimDisk) -> Vec<Vec<u8>> {
    let paths = disk.paths().into_iter().map(|(path, ..)| path);
    paths.filter(|path| !path.starts_with(b".akasha")).collect()
}

#[test]
fn a_fifo_is_absent_or_whole_after_a_cut() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    store.make_special(&root, b"early", EntryKind::Fifo, 0, &NEW).unwrap();
    store.fsync_dir(&root).unwrap();
    store.make_special(&root, b"late", EntryKind::Socket, 0, &NEW).unwrap();
    for (rule, disk) in crashes(&disk) {
        let store = mount(&disk);
        let root = store.root();
        let early = store.attr(&store.lookup(&root, b"early").unwrap()).unwrap();
        assert_eq!((early.kind, early.mode), (EntryKind::Fifo, 0o644), "{rule:?}");
        assert!(store.lookup(&root, b"late").is_err(), "{rule:?}");
    }
}

#[test]
fn a_file_that_is_gone_still_has_attributes_for_who_holds_it() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let fifo = store.make_special(&root, b"p", EntryKind::Fifo, 0, &NEW).unwrap();
    let file = put(&store, &root, b"f", b"content");
    store.fsync_dir(&root).unwrap();
    for (node, name) in [(&fifo, b"p"), (&file, b"f")] {
        store.unlink(&root, name).unwrap();
        let attr = store.attr(node).unwrap();
        assert_eq!((attr.mode, attr.nlink), (0o644, 0));
        let set = SetAttr { mode: Some(0o400), ..SetAttr::default() };
        assert_eq!(store.set_attr(node, &set).unwrap().mode, 0o400);
    }
    store.close().unwrap();
}

#[test]
fn a_read_only_mount_does_without_empty_control_directories() {
    let disk = vault();
    let store = mount(&disk);
    put(&store, &store.root(), b"f", b"content");
    store.close().unwrap();
    drop(store);
    let control = disk.open_dir(&disk.root().unwrap(), CONTROL_DIR).unwrap();
    for name in [b"tmp".as_slice(), b"layers", b"inodes"] {
        disk.rmdir(&control, name).unwrap();
    }
    let store = mount_with(&disk, StoreOptions { read_only: true, ..StoreOptions::default() });
    assert_eq!(get(&store, &store.root(), b"f").unwrap(), b"content");
    drop(store);
    // And the next one that writes makes them again.
    let store = mount(&disk);
    put(&store, &store.root(), b"g", b"more");
    store.close().unwrap();
}

#[test]
fn a_sidecar_of_what_fits_a_name_is_none_of_ours() {
    let disk = vault();
    let store = mount(&disk);
    put(&store, &store.root(), b"f", b"content");
    store.close().unwrap();
    drop(store);
    // The same sealed entry, spelled as a long name.
    let root = disk.root().unwrap();
    let sealed = tree_files(&disk).pop().unwrap();
    let long = crate::format::long_name(&sealed);
    disk.rename(&root, &sealed, &root, &long, RenameMode::NoReplace).unwrap();
    let control = disk.open_dir(&root, CONTROL_DIR).unwrap();
    let tmp = disk.open_dir(&control, b"tmp").unwrap();
    disk.create_temp(&tmp, b"side", 0o600).unwrap().write_at(0, &sealed).unwrap();
    let sidecar = [long.as_slice(), b".name"].concat();
    disk.rename(&tmp, b"side", &root, &sidecar, RenameMode::NoReplace).unwrap();
    assert!(disk.open(&root, &sidecar).unwrap().stat().unwrap().len < 256);
    let store = mount(&disk);
    let shown = names(&store, &store.root());
    assert!(shown.len() == 1 && shown[0].starts_with("akasha-damaged-"), "{shown:?}");
}

#[test]
fn what_was_looked_up_before_it_lost_its_name_is_whole_or_stale() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    // Never committed: its content goes with the node, however often it is opened.
    let pending = store.create(&root, b"f", &NEW).unwrap();
    store.write(&pending, 0, b"pending").unwrap();
    store.close_file(&pending, true);
    let next = store.create(&root, b"g", &NEW).unwrap();
    store.close_file(&next, true);
    store.rename(&root, b"g", &root, b"f", RenameFlags::Replace).unwrap();
    for _ in 0..2 {
        store.open_file(&pending, false).unwrap();
        let mut out = [0; 20];
        assert_eq!(store.read(&pending, 0, &mut out).unwrap(), 7);
        store.close_file(&pending, false);
    }
    // Committed, and nobody has it open.
    store.fsync(&next).unwrap();
    for content in [b"first".as_slice(), &vec![5; 300 << 10]] {
        let node = put(&store, &root, b"h", content);
        store.unlink(&root, b"h").unwrap();
        for write in [false, true] {
            assert!(matches!(store.open_file(&node, write), Err(StoreError::NotFound)));
        }
    }
    // A removal that fails leaves everything as it was.
    let node = put(&store, &root, b"i", b"stays");
    disk.fail(1, libc::EIO, |call| call == CallKind::Unlink);
    assert!(store.unlink(&root, b"i").is_err());
    disk.heal();
    assert_eq!(get(&store, &root, b"i").unwrap(), b"stays");
    store.open_file(&node, true).unwrap();
    store.close_file(&node, true);
    drop((pending, next, node));
    store.close().unwrap();
    assert_eq!(tree_files(&disk).len(), 2);
}

/// A whiteout and the rename that leaves it are durable when it returns. Before that a cut may leave the rename without it,
/// but never a whiteout in the place of a file that did not get its new name.
#[test]
fn a_whiteout_is_left_durably_and_never_instead_of_the_file() {
    let whiteout = RenameFlags::Whiteout(NewAttr { mode: 0, ..NEW });
    let (before, after) = (noise(9000, 1), noise(5000, 2));
    for across in [false, true] {
        let start = vault();
        let store = mount(&start);
        let root = store.root();
        let dir = store.mkdir(&root, b"dir", &NewAttr { mode: 0o755, ..NEW }).unwrap();
        put(&store, &dir, b"target", &before);
        put(&store, if across { &root } else { &dir }, b"file", &after);
        store.close().unwrap();
        let (mut cut, mut is_over) = (0, false);
        while !is_over {
            let disk = start.crash(&CrashRule::Everything);
            let store = mount(&disk);
            let root = store.root();
            let dir = store.lookup(&root, b"dir").unwrap();
            let from = if across { &root } else { &dir };
            disk.cut_at(disk.operations() + cut);
            is_over = store.rename(from, b"file", &dir, b"target", whiteout).is_ok();
            for rule in CrashRule::battery(0, 0..1) {
                let disk = disk.crash(&rule);
                let store = mount(&disk);
                let root = store.root();
                let dir = store.lookup(&root, b"dir").unwrap();
                let from = if across { &root } else { &dir };
                let target = get(&store, &dir, b"target").unwrap();
                let left = store.lookup(from, b"file").map(|node| node.kind());
                let place = format!("across {across}, cut {cut}, {rule:?}: {left:?}");
                match left {
                    Ok(EntryKind::File) => {
                        assert_eq!(get(&store, from, b"file").unwrap(), after, "{place}");
                        // btrfs may show what moves between directories in both.
                        let is_old = target == before || across && target == after;
                        assert!(!is_over && is_old, "{place}");
                    }
                    Ok(EntryKind::CharDevice) => assert_eq!(target, after, "{place}"),
                    Err(_) => assert!(!is_over && target == after, "{place}"),
                    Ok(_) => panic!("{place}"),
                }
            }
            cut += 1;
        }
        assert!(cut > 5, "{cut}");
    }
}
