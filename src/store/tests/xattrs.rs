//! Extended attributes: kept by every rewrite, durable with fsync, never another's.

use super::*;
use crate::backing::At;

const KEY: &[u8] = b"user.key";

fn set(store: &Store<SimDisk>, node: &TestNode, name: &[u8], value: &[u8]) {
    store.set_xattr(node, name, value, SetXattr::Any).unwrap();
}

fn value(store: &Store<SimDisk>, node: &TestNode, name: &[u8]) -> Option<Vec<u8>> {
    match store.get_xattr(node, name) {
        Ok(value) => Some(value),
        Err(StoreError::NoAttribute) => None,
        Err(error) => panic!("{error:?}"),
    }
}

fn rewrite(store: &Store<SimDisk>, node: &TestNode, content: &[u8]) {
    store.open_file(node, true).unwrap();
    store.write(node, 0, content).unwrap();
    store.fsync(node).unwrap();
    store.close_file(node, true);
}

#[test]
fn attributes_of_everything_survive_rewrites_renames_and_remounts() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let dir = store.mkdir(&root, b"dir", &NewAttr { mode: 0o755, ..NEW }).unwrap();
    let file = put(&store, &dir, b"file", b"one");
    let big = put(&store, &root, b"big", &noise(600 << 10, 1));
    let fifo = store.make_special(&root, b"fifo", EntryKind::Fifo, 0, &NEW).unwrap();
    let link = store.symlink(&root, b"link", b"target", &NEW).unwrap();
    let pending = store.create(&root, b"pending", &NEW).unwrap();
    let all = [&root, &dir, &file, &big, &fifo, &link, &pending];
    for (at, node) in all.iter().enumerate() {
        set(&store, node, KEY, &[at as u8; 40]);
        set(&store, node, b"trusted.gone", b"");
        set(&store, node, b"security.empty", b"");
        store.remove_xattr(node, b"trusted.gone").unwrap();
    }
    store.close_file(&pending, true);
    rewrite(&store, &file, b"two");
    rewrite(&store, &big, b"changed");
    store.rename(&dir, b"file", &root, b"moved", RenameFlags::Replace).unwrap();
    let names: [&[u8]; 7] = [b"", b"dir", b"moved", b"big", b"fifo", b"link", b"pending"];
    let check = |store: &Store<SimDisk>| {
        let root = store.root();
        for (at, name) in names.iter().enumerate() {
            let node =
                if name.is_empty() { root.clone() } else { store.lookup(&root, name).unwrap() };
            let listed = store.list_xattrs(&node).unwrap();
            assert_eq!(listed, [b"security.empty".to_vec(), KEY.to_vec()], "{at}");
            assert_eq!(value(store, &node, KEY), Some(vec![at as u8; 40]));
            assert_eq!(value(store, &node, b"security.empty"), Some(Vec::new()));
            assert_eq!(value(store, &node, b"trusted.gone"), None);
        }
    };
    check(&store);
    store.close().unwrap();
    drop((root, dir, file, big, fifo, link, pending, store));
    let store = mount(&disk);
    check(&store);
    let big = store.lookup(&store.root(), b"big").unwrap();
    rewrite(&store, &big, b"again");
    check(&store);
    store.close().unwrap();
    drop((big, store));
    check(&mount(&disk));
}

#[test]
fn create_and_replace_are_told_what_is_there() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let pending = store.create(&root, b"p", &NEW).unwrap();
    let file = put(&store, &root, b"f", b"x");
    for node in [&root, &pending, &file] {
        let how = |how| store.set_xattr(node, KEY, b"v", how);
        assert!(matches!(how(SetXattr::Replace), Err(StoreError::NoAttribute)));
        how(SetXattr::Create).unwrap();
        assert!(matches!(how(SetXattr::Create), Err(StoreError::AlreadyExists)));
        how(SetXattr::Replace).unwrap();
        store.remove_xattr(node, KEY).unwrap();
        assert!(matches!(store.remove_xattr(node, KEY), Err(StoreError::NoAttribute)));
        assert_eq!(value(&store, node, &[b'n'; 250]), None);
    }
    store.close_file(&pending, true);
    store.close().unwrap();
}

#[test]
fn what_the_disk_does_not_take_is_refused_at_once_and_no_commit_fails_for_it() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let pending = store.create(&root, b"p", &NEW).unwrap();
    let file = put(&store, &root, b"f", b"x");
    for (code, all) in [(libc::EDQUOT, false), (libc::EOPNOTSUPP, false), (libc::ENOSPC, true)] {
        for (node, is_published) in [(&pending, false), (&file, true)] {
            if all && is_published {
                disk.fail_from(1, code, |call| call == CallKind::SetXattr);
            } else {
                disk.fail(1, code, |call| call == CallKind::SetXattr);
            }
            // One that has no room beside the file may have some in a side object.
            let refused = store.set_xattr(node, KEY, b"v", SetXattr::Any).is_err();
            assert_eq!(refused, !all || is_published, "{code}");
            disk.heal();
            let kept = value(&store, node, KEY);
            assert_eq!(kept.is_none(), refused);
            if !refused {
                store.remove_xattr(node, KEY).unwrap();
            }
        }
    }
    store.fsync(&pending).unwrap();
    store.close_file(&pending, true);
    store.close().unwrap();
}

#[test]
fn fsync_makes_attributes_durable_and_a_cut_takes_no_others() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let dir = store.mkdir(&root, b"d", &NewAttr { mode: 0o755, ..NEW }).unwrap();
    let file = put(&store, &root, b"f", b"one");
    store.link(&file, &root, b"g").unwrap();
    // No name has changed since when only an attribute has.
    store.fsync(&dir).unwrap();
    store.fsync(&root).unwrap();
    let new = store.create(&root, b"n", &NEW).unwrap();
    for node in [&root, &dir, &file, &new] {
        set(&store, node, KEY, b"kept");
        let mode = SetAttr { mode: Some(0o751), ..SetAttr::default() };
        store.set_attr(node, &mode).unwrap();
        store.fsync(node).unwrap();
    }
    // A new version that is cut on its way keeps or brings the attributes.
    store.open_file(&file, true).unwrap();
    store.write(&file, 0, b"two").unwrap();
    store.flush(&file).unwrap();
    set(&store, &file, b"user.late", b"perhaps");
    let check = |disk: &SimDisk, why: &str| {
        let store = mount(disk);
        let root = store.root();
        for name in [&b""[..], b"d", b"f", b"g", b"n"] {
            let node =
                if name.is_empty() { root.clone() } else { store.lookup(&root, name).unwrap() };
            assert_eq!(value(&store, &node, KEY).as_deref(), Some(&b"kept"[..]), "{why}");
            assert_eq!(store.attr(&node).unwrap().mode, 0o751, "{why}");
            let late = value(&store, &node, b"user.late");
            assert!(late.is_none_or(|late| late == b"perhaps"), "{why}");
        }
        get(&store, &root, b"f").unwrap()
    };
    for (rule, disk) in crashes(&disk) {
        assert_eq!(check(&disk, &format!("{rule:?}")), b"one");
    }
    store.fsync(&file).unwrap();
    for (rule, disk) in crashes(&disk) {
        assert_eq!(check(&disk, &format!("{rule:?}")), b"two");
        let store = mount(&disk);
        let file = store.lookup(&store.root(), b"f").unwrap();
        assert_eq!(value(&store, &file, b"user.late").as_deref(), Some(&b"perhaps"[..]));
    }
    store.close_file(&file, true);
    store.close_file(&new, true);
    store.close().unwrap();
}

#[test]
fn attributes_follow_an_open_file_without_a_name() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"f", b"one");
    let new = store.create(&root, b"n", &NEW).unwrap();
    store.open_file(&file, true).unwrap();
    for (node, name) in [(&file, b"f"), (&new, b"n")] {
        set(&store, node, KEY, b"kept");
        store.unlink(&root, name).unwrap();
        assert_eq!(value(&store, node, KEY).as_deref(), Some(&b"kept"[..]));
        store.write(node, 0, b"two").unwrap();
        set(&store, node, b"user.more", b"1");
        store.fsync(node).unwrap();
        store.remove_xattr(node, KEY).unwrap();
        assert_eq!(store.list_xattrs(node).unwrap(), [b"user.more".to_vec()]);
        store.close_file(node, true);
    }
    store.close().unwrap();
}

#[test]
fn sealed_values_moved_or_changed_on_the_vault_are_never_shown() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    for (name, text) in [(b"a", b"va"), (b"b", b"vb")] {
        let file = put(&store, &root, name, b"x");
        set(&store, &file, KEY, text);
        set(&store, &file, b"user.other", text);
    }
    store.close().unwrap();
    drop((root, store));
    let raw = disk.root().unwrap();
    let files: Vec<Vec<u8>> = disk
        .list(&raw)
        .unwrap()
        .into_iter()
        .filter(|entry| entry.kind == crate::backing::FileKind::File)
        .map(|entry| entry.name)
        .collect();
    let sealed: Vec<Vec<(Vec<u8>, Vec<u8>)>> = files
        .iter()
        .map(|file| {
            let at = At::Name(file);
            let keys = disk.list_xattrs(&raw, at).unwrap();
            let value = |key: &[u8]| disk.get_xattr(&raw, at, key).unwrap().unwrap();
            keys.into_iter().map(|key| (key.clone(), value(&key))).collect()
        })
        .filter(|sealed: &Vec<_>| !sealed.is_empty())
        .collect();
    let files: Vec<_> = files
        .into_iter()
        .filter(|file| !disk.list_xattrs(&raw, At::Name(file)).unwrap().is_empty())
        .collect();
    assert_eq!((files.len(), sealed[0].len(), sealed[1].len()), (2, 2, 2));
    // Swapped within a file, changed, and taken from another.
    let put = |file: &[u8], key: &[u8], value: &[u8]| {
        disk.set_xattr(&raw, At::Name(file), key, Some(value)).unwrap();
    };
    put(&files[0], &sealed[0][0].0, &sealed[0][1].1);
    let mut flipped = sealed[0][1].1.clone();
    flipped[30] ^= 1;
    put(&files[0], &sealed[0][1].0, &flipped);
    put(&files[1], &sealed[0][0].0, &sealed[0][0].1);
    put(&files[1], &sealed[1][0].0, b"short");
    let store = mount(&disk);
    let root = store.root();
    let mut failures = 0;
    for name in [b"a", b"b"] {
        let file = store.lookup(&root, name).unwrap();
        assert_eq!(store.list_xattrs(&file).unwrap(), [KEY.to_vec(), b"user.other".to_vec()]);
        for key in [KEY, b"user.other"] {
            match store.get_xattr(&file, key) {
                Ok(value) => assert_eq!(value, [b'v', name[0]]),
                Err(StoreError::Damaged { .. }) => failures += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        // Nor does damage of attributes keep a file from its next version.
        rewrite(&store, &file, b"new");
    }
    assert_eq!(failures, 3);
    store.close().unwrap();
}

#[test]
fn setting_and_committing_at_once_loses_nothing() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"f", b"x");
    store.open_file(&file, true).unwrap();
    std::thread::scope(|scope| {
        let (setter, file_of) = (&store, &file);
        scope.spawn(move || {
            for at in 0..200_u32 {
                let name = format!("user.{}", at % 50);
                set(setter, file_of, name.as_bytes(), &at.to_le_bytes());
            }
        });
        for at in 0..200_u32 {
            store.write(&file, 0, &at.to_le_bytes()).unwrap();
            store.fsync(&file).unwrap();
        }
    });
    for at in 150..200_u32 {
        let name = format!("user.{}", at % 50);
        assert_eq!(value(&store, &file, name.as_bytes()), Some(at.to_le_bytes().to_vec()));
    }
    store.close_file(&file, true);
    store.close().unwrap();
}

#[test]
fn an_ordinary_users_sealed_mode_is_no_attribute() {
    let disk = vault();
    disk.set_privileged(false);
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"f", b"x");
    store.set_attr(&file, &SetAttr { mode: Some(0o004), ..SetAttr::default() }).unwrap();
    assert_eq!(store.list_xattrs(&file).unwrap(), Vec::<Vec<u8>>::new());
    set(&store, &file, KEY, b"v");
    rewrite(&store, &file, b"y");
    assert_eq!(store.list_xattrs(&file).unwrap(), [KEY.to_vec()]);
    assert_eq!(store.attr(&file).unwrap().mode, 0o004);
    store.close().unwrap();
}

#[test]
fn root_and_an_ordinary_user_show_and_keep_the_same_modes_in_the_users_vault() {
    let disk = SimDisk::new();
    disk.set_privileged(false);
    vault_on(&disk);
    let names: [&[u8]; 3] = [b"f", b"d", b"l"];
    let modes = |store: &Store<SimDisk>| {
        names.map(|name| {
            let node = store.lookup(&store.root(), name).unwrap();
            store.attr(&node).unwrap().mode
        })
    };
    let chmod = |store: &Store<SimDisk>, wanted: [u32; 3]| {
        for (name, mode) in names.iter().zip(wanted) {
            let node = store.lookup(&store.root(), name).unwrap();
            store.set_attr(&node, &SetAttr { mode: Some(mode), ..SetAttr::default() }).unwrap();
        }
    };
    let store = mount(&disk);
    let root = store.root();
    put(&store, &root, b"f", b"x");
    store.mkdir(&root, b"d", &NEW).unwrap();
    let linked = put(&store, &root, b"l", b"y");
    store.link(&linked, &root, b"l2").unwrap();
    chmod(&store, [0o444, 0o555, 0o044]);
    store.close().unwrap();
    drop((root, linked, store));
    let mut expected = [0o444, 0o555, 0o044];
    for (privileged, next) in [
        (true, [0o004, 0o550, 0o640]),
        (false, [0o751, 0o700, 0o400]),
        (true, [0o400, 0o070, 0o644]),
        (false, [0o600, 0o777, 0o000]),
    ] {
        disk.set_privileged(privileged);
        let store = mount(&disk);
        assert_eq!(modes(&store), expected, "{privileged}");
        chmod(&store, next);
        assert_eq!(modes(&store), next, "{privileged}");
        for name in [b"f", b"l"] {
            let node = store.lookup(&store.root(), name).unwrap();
            rewrite(&store, &node, b"again");
            // A side object of either is the other's to read.
            set(&store, &node, b"user.large", &[u8::from(privileged); 5000]);
        }
        store.close().unwrap();
        expected = next;
        drop(store);
        disk.set_privileged(!privileged);
        let store = mount(&disk);
        assert_eq!(modes(&store), next, "{privileged}");
        let node = store.lookup(&store.root(), b"l").unwrap();
        let large = value(&store, &node, b"user.large");
        assert_eq!(large, Some(vec![u8::from(privileged); 5000]));
        store.close().unwrap();
    }
}

#[test]
fn roots_own_vault_has_modes_as_they_are() {
    let disk = vault();
    let store = mount(&disk);
    let file = put(&store, &store.root(), b"f", b"x");
    store.set_attr(&file, &SetAttr { mode: Some(0o004), ..SetAttr::default() }).unwrap();
    store.close().unwrap();
    let found = disk.paths().into_iter().find(|(path, ..)| !path.starts_with(b".akasha")).unwrap();
    let stat = disk.stat(&disk.root().unwrap(), At::Name(&found.0)).unwrap();
    assert_eq!(stat.mode, 0o004);
}
