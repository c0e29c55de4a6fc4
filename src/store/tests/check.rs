//! Checks of clean vaults of every form, and of each kind of damage.

use super::*;
use crate::backing::{At, FileKind};
use crate::store::check::{self, Finding, Kind, Summary};

pub(super) fn checked(disk: &SimDisk) -> (Summary, Vec<Finding>) {
    let open = unlocked(disk);
    let mut found = Vec::new();
    let summary = {
        let effort = check::Effort { threads: 3, read_bytes: &AtomicU64::new(0) };
        check::check(disk, &open, effort, &mut |finding| found.push(finding.clone())).unwrap()
    };
    let damaged = found.iter().filter(|finding| finding.kind.is_damage()).count();
    assert_eq!((summary.damaged, summary.notes), (damaged as u64, (found.len() - damaged) as u64));
    (summary, found)
}

/// Kinds and paths of what is found, in order of both.
pub(super) fn found(disk: &SimDisk) -> Vec<(&'static str, String)> {
    let text = |f: Finding| (f.kind.key(), String::from_utf8_lossy(&f.path).into_owned());
    let mut found: Vec<_> = checked(disk).1.into_iter().map(text).collect();
    found.sort();
    found
}

pub(super) fn long_name() -> Vec<u8> {
    vec![b'l'; 250]
}

/// Every form of a file, unmounted cleanly.
pub(super) fn gallery() -> SimDisk {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let dir = store.mkdir(&root, b"dir", &NewAttr { mode: 0o755, ..NEW }).unwrap();
    put(&store, &dir, b"empty", b"");
    put(&store, &dir, &long_name(), b"long");
    let small = put(&store, &dir, b"small", &noise(9000, 1));
    store.set_xattr(&small, b"user.key", b"value", SetXattr::Any).unwrap();
    let mapped = put(&store, &root, b"mapped", &noise(600 << 10, 2));
    store.open_file(&mapped, true).unwrap();
    store.write(&mapped, 8192, &[7; 4096]).unwrap();
    store.fsync(&mapped).unwrap();
    store.close_file(&mapped, true);
    // Too large to stand beside the file: a side object.
    store.set_xattr(&mapped, b"user.large", &noise(60_000, 4), SetXattr::Any).unwrap();
    let linked = put(&store, &root, b"linked", &noise(5000, 3));
    store.link(&linked, &dir, b"other").unwrap();
    store.fsync(&linked).unwrap();
    store.symlink(&root, b"symlink", b"target", &NEW).unwrap();
    store.make_special(&root, b"fifo", EntryKind::Fifo, 0, &NEW).unwrap();
    store.close().unwrap();
    disk
}

/// Where the tree's files are in the vault, by length, and those of the control directories.
pub(super) fn files(disk: &SimDisk) -> Vec<(Vec<u8>, u64)> {
    let is_private = |path: &[u8]| {
        [&b".akasha/vault.toml"[..], b".akasha/lock", b".akasha/clean", b".akasha/reserve"]
            .contains(&path)
    };
    let files = disk
        .paths()
        .into_iter()
        .filter(|(path, kind, _)| *kind == FileKind::File && !is_private(path));
    files.map(|(path, _, len)| (path, len)).collect()
}

pub(super) fn flip(disk: &SimDisk, path: &[u8], at: usize) {
    let mut bytes = disk.read_path(path).unwrap();
    bytes[at] ^= 0x10;
    assert!(disk.replace_path(path, &bytes));
}

#[test]
fn a_clean_vault_of_every_form_is_clean() {
    let disk = gallery();
    let (summary, found) = checked(&disk);
    assert_eq!(found, []);
    assert_eq!((summary.files, summary.directories), (7, 2));
    assert_eq!(summary.bytes, 4 + 9000 + (600 << 10) + 5000 + 6);
}

#[test]
fn a_bit_that_changed_in_any_file_is_found_with_its_path() {
    let disk = gallery();
    for (path, len) in files(&disk) {
        let len = usize::try_from(len).unwrap();
        let shown = String::from_utf8_lossy(&path).into_owned();
        // Header, first slot, end of the last one, map or body, tail. Of an older layer a block in the middle.
        let mut spots = vec![0, 30, len / 2, len - 200, len - 1];
        spots.retain(|at| *at < len);
        for at in spots {
            flip(&disk, &path, at);
            let (summary, found) = checked(&disk);
            // The stub of the control directory is the file of its names: one native file.
            assert!(summary.damaged >= 1, "{shown} at {at} of {len}: {found:?}");
            flip(&disk, &path, at);
        }
    }
    assert_eq!(checked(&disk).1, []);
}

#[test]
fn blocks_that_do_not_authenticate_are_named_by_their_bytes() {
    let disk = gallery();
    let older = files(&disk).into_iter().find(|(path, _)| path.starts_with(b".akasha/layers/"));
    let (older, _) = older.unwrap();
    // Blocks 5 and 6, and the last one; block 2 was changed since and is read from elsewhere.
    for slot in [2, 5, 6, 149] {
        flip(&disk, &older, 64 + slot * (4096 + 16) + 9);
    }
    let (_, found) = checked(&disk);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].kind, found[0].path.as_slice()), (Kind::Content, &b"mapped"[..]));
    assert_eq!(found[0].ranges, [20480..28672, 149 * 4096..150 * 4096]);
}

#[test]
fn what_is_missing_or_foreign_is_found() {
    let disk = gallery();
    let control = disk.open_dir(&disk.root().unwrap(), b".akasha").unwrap();
    let missing = |sub: &[u8], is_it: &dyn Fn(&[u8]) -> bool| {
        let disk = disk.crash(&CrashRule::Everything);
        let control = disk.open_dir(&disk.root().unwrap(), b".akasha").unwrap();
        let dir = disk.open_dir(&control, sub).unwrap();
        let name = disk.list(&dir).unwrap().into_iter().find(|raw| is_it(&raw.name)).unwrap();
        disk.unlink(&dir, &name.name).unwrap();
        found(&disk)
    };
    assert_eq!(missing(b"xattrs", &|_| true), [("attribute", "mapped".to_owned())]);
    let is_stub = |name: &[u8]| name.ends_with(b".stub");
    assert_eq!(missing(b"layers", &|_| true), [("layer", "mapped".to_owned())]);
    let without = missing(b"inodes", &|name| !is_stub(name));
    assert_eq!(without, [("link", "dir/other".to_owned()), ("link", "linked".to_owned())]);
    assert_eq!(missing(b"inodes", &is_stub), [("link-count", String::new())]);
    let foreign = |plant: &[u8]| {
        let disk = disk.crash(&CrashRule::Everything);
        assert!(disk.plant(plant, libc::EIO));
        found(&disk)
    };
    assert_eq!(foreign(b"readme.txt"), [("foreign", String::new())]);
    assert_eq!(foreign(b".akasha/tmp/x"), [("foreign", String::new())]);
    let tmp = disk.open_dir(&control, b"tmp").unwrap();
    let name = crate::format::temp_file_name(&SeededEntropy::new(5));
    drop(disk.create_temp(&tmp, &name, 0o600).unwrap());
    assert_eq!(found(&disk), [("leftover", String::new())]);
}

#[test]
fn a_layer_without_its_file_is_a_note() {
    let disk = gallery();
    let root = disk.root().unwrap();
    let mapped = |raw: &crate::backing::RawEntry| {
        raw.kind == FileKind::File && disk.stat(&root, At::Name(&raw.name)).unwrap().len < 100 << 10
    };
    for raw in disk.list(&root).unwrap() {
        if mapped(&raw) {
            disk.unlink(&root, &raw.name).unwrap();
        }
    }
    let found = checked(&disk).1;
    let layer =
        found.iter().filter(|f| f.name.as_ref().is_some_and(|n| n.starts_with(b".akasha/layers/")));
    assert_eq!(layer.map(|f| f.kind).collect::<Vec<_>>(), [Kind::Leftover]);
}

#[test]
fn entries_that_were_swapped_moved_or_lost_their_long_name_are_found() {
    let disk = gallery();
    let root = disk.root().unwrap();
    let names = disk.list(&root).unwrap();
    let dir_name = names.iter().find(|r| r.kind == FileKind::Dir && r.name != b".akasha").unwrap();
    let file_name = names.iter().find(|r| r.kind == FileKind::File).unwrap();
    let again = || disk.crash(&CrashRule::Everything);
    let moved = again();
    let (root, replace) = (moved.root().unwrap(), crate::backing::RenameMode::NoReplace);
    let dir = moved.open_dir(&root, &dir_name.name).unwrap();
    moved.rename(&root, &file_name.name, &dir, &file_name.name, replace).unwrap();
    let found_now = checked(&moved).1;
    let damage: Vec<_> = found_now.iter().filter(|finding| finding.kind.is_damage()).collect();
    assert_eq!((damage.len(), damage[0].kind, &damage[0].path[..]), (1, Kind::Name, &b"dir"[..]));
    assert_eq!(damage[0].name.as_deref(), Some(file_name.name.as_slice()));
    let nameless = again();
    let dir = nameless.open_dir(&nameless.root().unwrap(), &dir_name.name).unwrap();
    let sidecar = nameless.list(&dir).unwrap().into_iter().find(|r| r.name.ends_with(b".name"));
    nameless.unlink(&dir, &sidecar.unwrap().name).unwrap();
    assert_eq!(found(&nameless), [("name", "dir".to_owned())]);
}

#[test]
fn an_attribute_that_does_not_authenticate_is_found() {
    let disk = gallery();
    let root = disk.root().unwrap();
    let is_dir = |r: &&crate::backing::RawEntry| r.kind == FileKind::Dir && r.name != b".akasha";
    let name = disk.list(&root).unwrap().iter().find(is_dir).unwrap().name.clone();
    let dir = disk.open_dir(&root, &name).unwrap();
    for raw in disk.list(&dir).unwrap() {
        let at = At::Name(&raw.name);
        for key in disk.list_xattrs(&dir, at).unwrap() {
            let mut value = disk.get_xattr(&dir, at, &key).unwrap().unwrap();
            value[26] ^= 1;
            disk.set_xattr(&dir, at, &key, Some(&value)).unwrap();
        }
    }
    assert_eq!(found(&disk), [("attribute", "dir/small".to_owned())]);
}

#[test]
fn what_a_power_cut_leaves_is_no_damage() {
    let disk = gallery();
    let store = mount(&disk);
    let root = store.root();
    let mapped = store.lookup(&root, b"mapped").unwrap();
    store.open_file(&mapped, true).unwrap();
    store.write(&mapped, 0, &noise(300 << 10, 9)).unwrap();
    store.fsync(&mapped).unwrap();
    store.unlink(&root, b"linked").unwrap();
    store.rename(&root, b"mapped", &root, b"symlink", RenameFlags::Replace).unwrap();
    put(&store, &root, b"fresh", b"fresh");
    for (rule, after) in crashes(&disk) {
        let (summary, found) = checked(&after);
        assert_eq!(summary.damaged, 0, "{rule:?}: {found:?}");
    }
}

/// A directory that is removed under a check answers ENOENT to whoever still has it open.
#[test]
fn a_directory_that_goes_while_it_is_checked_is_no_damage() {
    let disk = gallery();
    disk.reset_counters();
    checked(&disk);
    let (mut gone, mut refused) = (Vec::new(), 0);
    for nth in 1..=disk.counters().of(CallKind::List) {
        disk.fail(nth, libc::ENOENT, |kind| kind == CallKind::List);
        let (summary, found) = checked(&disk);
        disk.heal();
        if summary.vanished > 0 {
            assert!(
                found.iter().all(|finding| !finding.kind.is_damage()),
                "listing {nth}: {found:?}"
            );
            gone.push((summary.vanished, summary.directories));
        }
        refused += found.iter().filter(|finding| finding.name.is_none()).count();
    }
    assert_eq!(gone, [(1, 2)]);
    assert_eq!(refused, 1, "the vault's own directory does not come and go");
}
