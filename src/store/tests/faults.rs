//! What a call that fails once must not be taken for.

use super::*;

fn long_name() -> Vec<u8> {
    vec![b'n'; 240]
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
    for nth in 1..16 {
        let (disk, store, content) = with_mapped_file(b"f");
        let root = store.root();
        let node = store.lookup(&root, b"f").unwrap();
        store.link(&node, &root, b"g").unwrap();
        disk.fail(nth, libc::EIO, |call| call == CallKind::Stat);
        let _ = store.fsync(&node);
        let _ = store.close();
        disk.heal();
        drop((node, root, store));
        let store = mount(&disk);
        let root = store.root();
        let f = get(&store, &root, b"f").unwrap();
        assert!(f == content, "stat {nth}: its content is lost");
    }
}

/// A stat that failed said that a file had lost its last name.
#[test]
fn a_failed_count_of_names_takes_no_file_that_keeps_one() {
    for nth in 1..12 {
        let (disk, store, content) = with_mapped_file(b"f");
        let root = store.root();
        let node = store.lookup(&root, b"f").unwrap();
        store.link(&node, &root, b"g").unwrap();
        store.fsync(&node).unwrap();
        drop(node);
        disk.fail(nth, libc::EIO, |call| call == CallKind::Stat);
        let removed = store.unlink(&root, b"f");
        let _ = store.close();
        disk.heal();
        drop((root, store));
        let store = mount(&disk);
        let root = store.root();
        let g = get(&store, &root, b"g");
        assert!(g.is_ok_and(|g| g == content), "stat {nth}: lost, and unlink said {removed:?}");
    }
}
