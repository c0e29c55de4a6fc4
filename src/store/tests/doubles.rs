//! What a cut left in two places (`store/doubles.rs`), and a name that is taken again before its last holder has moved out.

use super::*;

/// In states that a cut may leave with the file in both places the mount shows one, now and from then on. When that one is gone
/// for good, so is the other.
fn shows_one_of(disk: &SimDisk, places: [(&[u8], &[u8]); 2], contents: &[&[u8]]) {
    let files = |disk: &SimDisk| {
        let in_tree = |path: &[u8]| path.contains(&b'/') && !path.starts_with(b".akasha");
        disk.paths().iter().filter(|(path, ..)| in_tree(path)).count()
    };
    let rules = (0..48).map(|seed| CrashRule::PerDirectory { seed });
    let doubled: Vec<_> = rules
        .map(|rule| (rule, disk.crash(&rule)))
        .filter(|(_, after)| files(after) > 1)
        .take(4)
        .collect();
    assert!(!doubled.is_empty(), "no cut left two names");
    for (rule, after) in doubled {
        for turn in 0..2 {
            let store = mount(&after);
            let held = held(&store, places);
            assert_eq!(held.len(), 1, "{rule:?}, {turn}: places");
            let (dir, name) = &held[0];
            let now = get(&store, dir, name).unwrap();
            assert!(contents.contains(&now.as_slice()), "{rule:?}, {turn}: content");
        }
        let after = disk.crash(&rule);
        let store = mount(&after);
        let (dir, name) = held(&store, places).swap_remove(0);
        store.unlink(&dir, name).unwrap();
        store.fsync_dir(&dir).unwrap();
        for (second, left) in crashes(&after) {
            assert!(held(&mount(&left), places).is_empty(), "{rule:?}, {second:?}: it is back");
        }
    }
}

/// Those of `places` where something is.
fn held<'a>(store: &Store<SimDisk>, places: [(&[u8], &'a [u8]); 2]) -> Vec<(TestNode, &'a [u8])> {
    let mut held = Vec::new();
    for (dir, name) in places {
        let dir = store.lookup(&store.root(), dir).unwrap();
        match store.lookup(&dir, name) {
            Ok(_) => held.push((dir, name)),
            Err(error) => assert!(matches!(error, StoreError::NotFound), "{error}"),
        }
    }
    held
}

/// The same backing file under both names, with layers that it shares with itself.
#[test]
fn a_moved_file_that_a_cut_left_in_two_places_has_one_again() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let (a, b) = (store.mkdir(&root, b"a", &NEW).unwrap(), store.mkdir(&root, b"b", &NEW).unwrap());
    let mut content = noise(2 << 20, 1);
    let node = put(&store, &a, b"f", &content);
    store.fsync_dir(&b).unwrap();
    store.open_file(&node, true).unwrap();
    store.write(&node, 8192, b"changed").unwrap();
    content[8192..8199].copy_from_slice(b"changed");
    store.fsync(&node).unwrap();
    store.close_file(&node, true);
    assert!(disk.paths().iter().any(|(path, ..)| path.starts_with(b".akasha/layers/")));
    store.rename(&a, b"f", &b, b"f", RenameFlags::Replace).unwrap();
    shows_one_of(&disk, [(b"a", b"f"), (b"b", b"f")], &[&content]);
}

/// The old name holds the version before: the change was committed under it on the way.
#[test]
fn of_two_versions_that_a_cut_left_in_two_places_the_newer_stays() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let (a, b) = (store.mkdir(&root, b"a", &NEW).unwrap(), store.mkdir(&root, b"b", &NEW).unwrap());
    let (old, new) = (noise(9000, 1), noise(5000, 2));
    let node = put(&store, &a, b"f", &old);
    store.fsync_dir(&b).unwrap();
    store.open_file(&node, true).unwrap();
    store.truncate(&node, 0).unwrap();
    store.write(&node, 0, &new).unwrap();
    store.close_file(&node, true);
    store.rename(&a, b"f", &b, b"f", RenameFlags::Replace).unwrap();
    shows_one_of(&disk, [(b"a", b"f"), (b"b", b"f")], &[&new]);
}

/// A temporary name is used again while the file that had it before waits to move out: the kernel sends the rename before
/// it hands over what was written, and an empty file may not be committed for the sake of the rename.
#[test]
fn a_temporary_name_that_is_used_again_never_shows_an_empty_file() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let first = store.create(&root, b"t", &NEW).unwrap();
    store.write(&first, 0, b"first").unwrap();
    store.fsync(&first).unwrap();
    store.write(&first, 5, b", more").unwrap();
    // It is open and changed: it moves with its next commit.
    store.rename(&root, b"t", &root, b"f", RenameFlags::Replace).unwrap();
    store.close_file(&first, true);
    let second = store.create(&root, b"t", &NEW).unwrap();
    store.rename(&root, b"t", &root, b"f", RenameFlags::Replace).unwrap();
    let after = disk.crash(&CrashRule::Everything);
    let cut = mount(&after);
    assert_eq!(names(&cut, &cut.root()), ["f"]);
    assert_eq!(get(&cut, &cut.root(), b"f").unwrap(), b"first, more");
    store.write(&second, 0, b"second").unwrap();
    store.close_file(&second, true);
    store.fsync(&second).unwrap();
    assert_eq!(get(&store, &root, b"f").unwrap(), b"second");
}

/// On a disk that keeps the order of names several may be dead under one of them. They go first to last, also after a mount
/// that reads them in the order of their ids.
#[test]
fn the_dead_of_a_name_that_a_cut_left_go_in_their_order() {
    let disk = vault();
    disk.set_name_order(true);
    let store = mount(&disk);
    let root = store.root();
    let versions: Vec<Vec<u8>> = (0..6).map(|version| vec![version; 30]).collect();
    let files = [b"a", b"b", b"c"];
    for version in &versions {
        for name in files {
            put(&store, &root, b"new", version);
            store.rename(&root, b"new", &root, name, RenameFlags::Replace).unwrap();
        }
    }
    let of_names = disk.paths().iter().filter(|(path, ..)| !path.contains(&b'.')).count();
    assert_eq!(of_names, files.len() * versions.len(), "all that died is still there");
    let after = disk.crash(&CrashRule::Everything);
    for cut in 0.. {
        let disk = after.crash(&CrashRule::Everything);
        let store = mount(&disk);
        let begun = disk.operations();
        disk.cut_at(begun + cut);
        let settled = store.unlink(&store.root(), b"a").is_ok() && store.settle_all();
        for rule in disk.rules(0..1) {
            let left = mount(&disk.crash(&rule));
            let shown = names(&left, &left.root());
            assert!(shown == ["a", "b", "c"] || shown == ["b", "c"], "{cut}, {rule:?}: {shown:?}");
            for name in shown {
                let content = get(&left, &left.root(), name.as_bytes()).unwrap();
                assert_eq!(Some(&content), versions.last(), "{cut}, {rule:?}: {name}");
            }
        }
        if settled && !disk.is_off() {
            break;
        }
    }
}
