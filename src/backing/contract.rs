//! What every [`Backing`] does, as tests that run on the real disk and on the simulated one.
//!
//! Durability is not here: the real disk cannot show it. The simulated one does in `sim_disk`.

#![allow(clippy::unwrap_used)]

use std::io;

use super::{
    At, AttrChange, Backing, FileKind, Mapping, OsDisk, PublishedFile, RenameMode, SimDisk,
    TempFile, check_name,
};
use crate::clock::Timestamp;
use crate::entropy::{Entropy, SeededEntropy};

/// Runs each test on both disks.
macro_rules! contract {
    ($($name:ident)*) => {
        mod on_the_real_disk {
            $(#[test]
            fn $name() {
                let dir = tempfile::tempdir().unwrap();
                super::$name(&super::OsDisk::open(dir.path()).unwrap());
            })*
        }
        mod on_the_simulated_disk {
            $(#[test]
            fn $name() {
                super::$name(&super::SimDisk::new());
            })*
        }
    };
}

contract! {
    a_temporary_file_is_written_published_and_read
    every_call_refuses_what_is_not_one_name
    missing_names_are_enoent
    taken_names_are_eexist
    objects_of_the_wrong_kind_are_refused
    modes_are_exact
    a_listing_has_every_name_once_with_its_kind
    rename_replaces
    rename_without_replacing
    rename_exchanges
    rename_refuses_what_posix_refuses
    rename_of_two_names_of_one_file_does_nothing
    rename_moves_directories_with_what_they_hold
    a_second_name_is_the_same_file
    a_handle_outlives_its_name
    a_removed_directory_takes_no_names
    a_directory_is_removed_when_empty
    lengths_and_holes
    reading_beyond_the_end_is_unexpected_eof
    reserve_keeps_the_length
    syncs_succeed_and_change_nothing
    stat_agrees_by_name_and_by_handle
    a_change_of_names_moves_the_times_of_the_directory
    attributes_change_by_name_and_by_handle
    the_mode_wins_over_the_owner
    extended_attributes
    a_mapping_copies_what_was_published
    a_mapping_cut_under_the_reader_is_eio
    locks_exclude
    a_note_replaces_the_one_before
    handles_serve_many_threads
    space_is_told
}

fn code<T>(result: io::Result<T>) -> Option<i32> {
    result.err().expect("the call should have failed").raw_os_error()
}

/// Creates a file with this content.
fn put<B: Backing>(disk: &B, dir: &B::Dir, name: &[u8], bytes: &[u8]) {
    let temp = disk.create_temp(dir, name, 0o600).unwrap();
    temp.write_at(0, bytes).unwrap();
}

fn get<B: Backing>(disk: &B, dir: &B::Dir, name: &[u8]) -> Vec<u8> {
    let file = disk.open(dir, name).unwrap();
    let mut bytes = vec![0; file.stat().unwrap().len as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn names<B: Backing>(disk: &B, dir: &B::Dir) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = disk.list(dir).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

/// A directory `name` in the root.
fn make_dir<B: Backing>(disk: &B, name: &[u8]) -> B::Dir {
    let root = disk.root().unwrap();
    disk.mkdir(&root, name, 0o700).unwrap();
    disk.open_dir(&root, name).unwrap()
}

fn a_temporary_file_is_written_published_and_read<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let tmp = make_dir(disk, b"tmp");
    let temp = disk.create_temp(&tmp, b"new", 0o600).unwrap();
    // Out of order, over page borders.
    let bytes: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
    temp.write_at(7_000, &bytes[7_000..]).unwrap();
    temp.write_at(0, &bytes[..7_000]).unwrap();
    temp.write_at(3, b"").unwrap();
    let mut read = vec![0; 20_000];
    temp.read_at(0, &mut read).unwrap();
    assert_eq!(read, bytes);
    temp.sync().unwrap();
    disk.rename(&tmp, b"new", &root, b"file", RenameMode::NoReplace).unwrap();
    disk.sync_dir(&root).unwrap();
    assert_eq!(get(disk, &root, b"file"), bytes);
    assert!(names(disk, &tmp).is_empty());
    let mut middle = vec![0; 5_000];
    disk.open(&root, b"file").unwrap().read_at(4_000, &mut middle).unwrap();
    assert_eq!(middle, bytes[4_000..9_000]);
    let again = disk.open_temp(&root, b"file").unwrap();
    again.write_at(1, b"!").unwrap();
    assert_eq!(get(disk, &root, b"file")[..3], [bytes[0], b'!', bytes[2]]);
}

fn every_call_refuses_what_is_not_one_name<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    disk.mkdir(&root, b"dir", 0o700).unwrap();
    put(disk, &root, b"file", b"x");
    let long = vec![b'n'; 256];
    for (name, expected) in [
        (&b""[..], libc::EINVAL),
        (b".", libc::EINVAL),
        (b"..", libc::EINVAL),
        (b"dir/file", libc::EINVAL),
        (b"/", libc::EINVAL),
        (b"dir/", libc::EINVAL),
        (b"nul\0", libc::EINVAL),
        (&long, libc::ENAMETOOLONG),
    ] {
        assert_eq!(code(check_name(name)), Some(expected));
        let at = At::Name(name);
        let replace = RenameMode::Replace;
        let results = [
            disk.open_dir(&root, name).map(drop),
            disk.stat(&root, at).map(drop),
            disk.set_attr(&root, at, &AttrChange::default()),
            disk.get_xattr(&root, at, b"user.akasha.x").map(drop),
            disk.list_xattrs(&root, at).map(drop),
            disk.set_xattr(&root, at, b"user.akasha.x", None),
            disk.open(&root, name).map(drop),
            disk.create_temp(&root, name, 0o600).map(drop),
            disk.open_temp(&root, name).map(drop),
            disk.mkdir(&root, name, 0o700),
            disk.rename(&root, name, &root, b"other", replace),
            disk.rename(&root, b"file", &root, name, replace),
            disk.link(&root, name, &root, b"other"),
            disk.link(&root, b"file", &root, name),
            disk.unlink(&root, name),
            disk.rmdir(&root, name),
            disk.lock(&root, name, true).map(drop),
        ];
        for (call, result) in results.into_iter().enumerate() {
            assert_eq!(code(result), Some(expected), "call {call} with {name:?}");
        }
    }
    let longest = vec![b'n'; 255];
    put(disk, &root, &longest, b"");
    disk.unlink(&root, &longest).unwrap();
}

fn missing_names_are_enoent<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let (no, at) = (b"missing", At::Name(b"missing"));
    let results = [
        disk.open_dir(&root, no).map(drop),
        disk.stat(&root, at).map(drop),
        disk.set_attr(&root, at, &AttrChange { mode: Some(0o600), ..Default::default() }),
        disk.get_xattr(&root, at, b"user.akasha.x").map(drop),
        disk.list_xattrs(&root, at).map(drop),
        disk.set_xattr(&root, at, b"user.akasha.x", Some(b"")),
        disk.open(&root, no).map(drop),
        disk.open_temp(&root, no).map(drop),
        disk.rename(&root, no, &root, b"other", RenameMode::Replace),
        disk.rename(&root, no, &root, b"other", RenameMode::NoReplace),
        disk.rename(&root, no, &root, b"other", RenameMode::Exchange),
        disk.link(&root, no, &root, b"other"),
        disk.unlink(&root, no),
        disk.rmdir(&root, no),
    ];
    for (call, result) in results.into_iter().enumerate() {
        assert_eq!(code(result), Some(libc::ENOENT), "call {call}");
    }
    put(disk, &root, b"file", b"");
    let exchange = disk.rename(&root, b"file", &root, no, RenameMode::Exchange);
    assert_eq!(code(exchange), Some(libc::ENOENT));
}

fn taken_names_are_eexist<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    disk.mkdir(&root, b"dir", 0o700).unwrap();
    put(disk, &root, b"file", b"kept");
    for taken in [&b"dir"[..], b"file"] {
        assert_eq!(code(disk.create_temp(&root, taken, 0o600)), Some(libc::EEXIST));
        assert_eq!(code(disk.mkdir(&root, taken, 0o700)), Some(libc::EEXIST));
        assert_eq!(code(disk.link(&root, b"file", &root, taken)), Some(libc::EEXIST));
    }
    assert_eq!(get(disk, &root, b"file"), b"kept");
}

fn objects_of_the_wrong_kind_are_refused<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    disk.mkdir(&root, b"dir", 0o700).unwrap();
    put(disk, &root, b"file", b"");
    assert_eq!(code(disk.open(&root, b"dir")), Some(libc::EISDIR));
    assert_eq!(code(disk.open_temp(&root, b"dir")), Some(libc::EISDIR));
    assert_eq!(code(disk.unlink(&root, b"dir")), Some(libc::EISDIR));
    assert_eq!(code(disk.lock(&root, b"dir", true)), Some(libc::EISDIR));
    assert_eq!(code(disk.open_dir(&root, b"file")), Some(libc::ENOTDIR));
    assert_eq!(code(disk.rmdir(&root, b"file")), Some(libc::ENOTDIR));
    assert_eq!(code(disk.link(&root, b"dir", &root, b"other")), Some(libc::EPERM));
}

fn modes_are_exact<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    for mode in [0o600, 0o644, 0o666, 0o777, 0o000, 0o4755, 0o2711] {
        let name = format!("f{mode:o}").into_bytes();
        let temp = disk.create_temp(&root, &name, mode).unwrap();
        assert_eq!(temp.stat().unwrap().mode, mode, "file {mode:o}");
        assert_eq!(disk.stat(&root, At::Name(&name)).unwrap().mode, mode);
        let name = format!("d{mode:o}").into_bytes();
        disk.mkdir(&root, &name, mode).unwrap();
        assert_eq!(disk.stat(&root, At::Name(&name)).unwrap().mode, mode, "directory {mode:o}");
    }
    disk.mkdir(&root, b"sticky", 0o1777).unwrap();
    assert_eq!(disk.stat(&root, At::Name(b"sticky")).unwrap().mode, 0o1777);
    // What a set-group-id parent hands down is not the disk's business.
    disk.mkdir(&root, b"group", 0o2770).unwrap();
    let group = disk.open_dir(&root, b"group").unwrap();
    disk.mkdir(&group, b"plain", 0o750).unwrap();
    assert_eq!(disk.stat(&group, At::Name(b"plain")).unwrap().mode, 0o750);
}

fn a_listing_has_every_name_once_with_its_kind<B: Backing>(disk: &B) {
    let dir = make_dir(disk, b"dir");
    assert!(disk.list(&dir).unwrap().is_empty());
    // Long names, so that the real listing takes several calls.
    let mut expected = Vec::new();
    for i in 0..700 {
        let mut name = format!("{i:03}").into_bytes();
        name.resize(200, if i % 2 == 0 { b'a' } else { 0xFE });
        if i % 10 == 0 {
            disk.mkdir(&dir, &name, 0o700).unwrap();
            expected.push((name, FileKind::Dir));
        } else {
            put(disk, &dir, &name, b"");
            expected.push((name, FileKind::File));
        }
    }
    for _ in 0..2 {
        let listed = disk.list(&dir).unwrap();
        let mut listed: Vec<_> = listed.into_iter().map(|entry| (entry.name, entry.kind)).collect();
        listed.sort_by(|left, right| left.0.cmp(&right.0));
        assert_eq!(listed, expected);
    }
}

fn rename_replaces<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let dir = make_dir(disk, b"dir");
    put(disk, &root, b"a", b"one");
    put(disk, &root, b"b", b"two");
    disk.rename(&root, b"a", &root, b"b", RenameMode::Replace).unwrap();
    assert_eq!(get(disk, &root, b"b"), b"one");
    assert_eq!(names(disk, &root), [&b"b"[..], b"dir"]);
    disk.rename(&root, b"b", &dir, b"c", RenameMode::Replace).unwrap();
    assert_eq!(get(disk, &dir, b"c"), b"one");
    assert_eq!(names(disk, &root), [b"dir"]);
    disk.mkdir(&root, b"empty", 0o700).unwrap();
    disk.rename(&root, b"dir", &root, b"empty", RenameMode::Replace).unwrap();
    let moved = disk.open_dir(&root, b"empty").unwrap();
    assert_eq!(names(disk, &moved), [b"c"]);
}

fn rename_without_replacing<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    put(disk, &root, b"a", b"one");
    put(disk, &root, b"b", b"two");
    let refused = disk.rename(&root, b"a", &root, b"b", RenameMode::NoReplace);
    assert_eq!(code(refused), Some(libc::EEXIST));
    assert_eq!(get(disk, &root, b"a"), b"one");
    assert_eq!(get(disk, &root, b"b"), b"two");
    disk.rename(&root, b"a", &root, b"c", RenameMode::NoReplace).unwrap();
    assert_eq!(names(disk, &root), [b"b", b"c"]);
}

fn rename_exchanges<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let dir = make_dir(disk, b"dir");
    put(disk, &root, b"a", b"one");
    put(disk, &dir, b"b", b"two");
    disk.rename(&root, b"a", &dir, b"b", RenameMode::Exchange).unwrap();
    assert_eq!(get(disk, &root, b"a"), b"two");
    assert_eq!(get(disk, &dir, b"b"), b"one");
    // A directory with a file.
    disk.mkdir(&root, b"other", 0o700).unwrap();
    disk.rename(&root, b"other", &root, b"a", RenameMode::Exchange).unwrap();
    assert_eq!(disk.stat(&root, At::Name(b"a")).unwrap().kind, FileKind::Dir);
    assert_eq!(get(disk, &root, b"other"), b"two");
}

fn rename_refuses_what_posix_refuses<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let full = make_dir(disk, b"full");
    put(disk, &full, b"x", b"");
    disk.mkdir(&root, b"dir", 0o700).unwrap();
    put(disk, &root, b"file", b"");
    let rename =
        |from: &[u8], to: &[u8]| code(disk.rename(&root, from, &root, to, RenameMode::Replace));
    assert_eq!(rename(b"file", b"dir"), Some(libc::EISDIR));
    assert_eq!(rename(b"dir", b"file"), Some(libc::ENOTDIR));
    assert_eq!(rename(b"dir", b"full"), Some(libc::ENOTEMPTY));
    for mode in [RenameMode::Replace, RenameMode::NoReplace] {
        let into_itself = disk.rename(&root, b"full", &full, b"y", mode);
        assert_eq!(code(into_itself), Some(libc::EINVAL), "{mode:?}");
    }
    let with_its_child = disk.rename(&root, b"full", &full, b"x", RenameMode::Exchange);
    assert_eq!(code(with_its_child), Some(libc::EINVAL));
    let with_its_parent = disk.rename(&full, b"x", &root, b"full", RenameMode::Exchange);
    assert_eq!(code(with_its_parent), Some(libc::EINVAL));
}

fn rename_of_two_names_of_one_file_does_nothing<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    put(disk, &root, b"a", b"one");
    disk.link(&root, b"a", &root, b"b").unwrap();
    disk.rename(&root, b"a", &root, b"b", RenameMode::Replace).unwrap();
    assert_eq!(names(disk, &root), [b"a", b"b"]);
    disk.rename(&root, b"a", &root, b"a", RenameMode::Replace).unwrap();
    assert_eq!(get(disk, &root, b"a"), b"one");
}

fn rename_moves_directories_with_what_they_hold<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let (from, to) = (make_dir(disk, b"from"), make_dir(disk, b"to"));
    disk.mkdir(&from, b"dir", 0o700).unwrap();
    let dir = disk.open_dir(&from, b"dir").unwrap();
    put(disk, &dir, b"file", b"inside");
    let links = |dir: &B::Dir| disk.stat(dir, At::This).unwrap().nlink;
    let before = links(&from);
    disk.rename(&from, b"dir", &to, b"moved", RenameMode::NoReplace).unwrap();
    // btrfs keeps 1 as the link count of every directory.
    assert!(links(&from) + 1 == before || before == 1);
    let moved = disk.open_dir(&to, b"moved").unwrap();
    assert_eq!(get(disk, &moved, b"file"), b"inside");
    put(disk, &dir, b"later", b"through the old handle");
    assert_eq!(names(disk, &moved), [&b"file"[..], b"later"]);
    assert_eq!(names(disk, &root), [&b"from"[..], b"to"]);
}

fn a_second_name_is_the_same_file<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let dir = make_dir(disk, b"dir");
    put(disk, &root, b"a", b"one");
    disk.link(&root, b"a", &dir, b"b").unwrap();
    let (a, b) =
        (disk.stat(&root, At::Name(b"a")).unwrap(), disk.stat(&dir, At::Name(b"b")).unwrap());
    assert_eq!((a.ino, a.nlink), (b.ino, 2));
    disk.open_temp(&dir, b"b").unwrap().write_at(0, b"O").unwrap();
    assert_eq!(get(disk, &root, b"a"), b"One");
    disk.unlink(&root, b"a").unwrap();
    assert_eq!(disk.stat(&dir, At::Name(b"b")).unwrap().nlink, 1);
    assert_eq!(get(disk, &dir, b"b"), b"One");
}

fn a_handle_outlives_its_name<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    put(disk, &root, b"a", b"old");
    put(disk, &root, b"b", b"new");
    let file = disk.open(&root, b"a").unwrap();
    let mapping = disk.open(&root, b"a").unwrap().map(3).unwrap();
    disk.rename(&root, b"b", &root, b"a", RenameMode::Replace).unwrap();
    let mut bytes = [0; 3];
    file.read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"old");
    mapping.copy_out(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"old");
    assert_eq!(file.stat().unwrap().nlink, 0);
    assert_eq!(get(disk, &root, b"a"), b"new");
    let temp = disk.create_temp(&root, b"t", 0o600).unwrap();
    disk.unlink(&root, b"t").unwrap();
    temp.write_at(0, b"still here").unwrap();
    temp.sync().unwrap();
    assert_eq!(temp.stat().unwrap().len, 10);
}

fn a_removed_directory_takes_no_names<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let dir = make_dir(disk, b"dir");
    put(disk, &root, b"file", b"");
    disk.rmdir(&root, b"dir").unwrap();
    assert_eq!(code(disk.create_temp(&dir, b"x", 0o600)), Some(libc::ENOENT));
    assert_eq!(code(disk.mkdir(&dir, b"x", 0o700)), Some(libc::ENOENT));
    assert_eq!(code(disk.link(&root, b"file", &dir, b"x")), Some(libc::ENOENT));
    let into = disk.rename(&root, b"file", &dir, b"x", RenameMode::Replace);
    assert_eq!(code(into), Some(libc::ENOENT));
    assert_eq!(code(disk.list(&dir)), Some(libc::ENOENT));
}

fn a_directory_is_removed_when_empty<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let dir = make_dir(disk, b"dir");
    put(disk, &dir, b"x", b"");
    assert_eq!(code(disk.rmdir(&root, b"dir")), Some(libc::ENOTEMPTY));
    disk.unlink(&dir, b"x").unwrap();
    disk.rmdir(&root, b"dir").unwrap();
    assert_eq!(code(disk.open_dir(&root, b"dir")), Some(libc::ENOENT));
}

fn lengths_and_holes<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let temp = disk.create_temp(&root, b"t", 0o600).unwrap();
    temp.write_at(10_000, b"end").unwrap();
    assert_eq!(temp.stat().unwrap().len, 10_003);
    let mut bytes = vec![1; 10_003];
    temp.read_at(0, &mut bytes).unwrap();
    assert!(bytes[..10_000].iter().all(|byte| *byte == 0));
    temp.write_at(0, &[7; 10_003]).unwrap();
    temp.set_len(5_000).unwrap();
    assert_eq!(temp.stat().unwrap().len, 5_000);
    temp.set_len(9_000).unwrap();
    let mut bytes = vec![1; 9_000];
    temp.read_at(0, &mut bytes).unwrap();
    assert!(bytes[..5_000].iter().all(|byte| *byte == 7));
    assert!(bytes[5_000..].iter().all(|byte| *byte == 0), "what was cut does not come back");
    // A hole of a terabyte costs nothing.
    temp.set_len(1 << 40).unwrap();
    assert_eq!(temp.stat().unwrap().len, 1 << 40);
    assert!(temp.stat().unwrap().blocks_512 < 1000);
    temp.set_len(0).unwrap();
    assert_eq!(temp.stat().unwrap().len, 0);
}

fn reading_beyond_the_end_is_unexpected_eof<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    put(disk, &root, b"a", &[1; 100]);
    let (file, temp) = (disk.open(&root, b"a").unwrap(), disk.open_temp(&root, b"a").unwrap());
    for (offset, len) in [(0, 101), (100, 1), (5_000, 1), (99, 2)] {
        let mut out = vec![0; len];
        let errors = [file.read_at(offset, &mut out), temp.read_at(offset, &mut out)];
        for error in errors {
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{offset} {len}");
        }
    }
    file.read_at(50, &mut [0; 50]).unwrap();
    file.read_at(7_000, &mut []).unwrap();
}

fn reserve_keeps_the_length<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let temp = disk.create_temp(&root, b"t", 0o600).unwrap();
    temp.write_at(0, b"abc").unwrap();
    temp.reserve(3, 100_000).unwrap();
    temp.reserve(0, 0).unwrap();
    temp.reserve(0, 10).unwrap();
    assert_eq!(temp.stat().unwrap().len, 3);
    temp.write_at(3, &[9; 1000]).unwrap();
    assert_eq!(get(disk, &root, b"t")[..4], [b'a', b'b', b'c', 9]);
}

fn syncs_succeed_and_change_nothing<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let dir = make_dir(disk, b"dir");
    let temp = disk.create_temp(&dir, b"t", 0o600).unwrap();
    temp.write_at(0, &[1; 9_000]).unwrap();
    temp.start_writeback().unwrap();
    temp.sync().unwrap();
    temp.sync().unwrap();
    disk.sync_dir(&dir).unwrap();
    disk.sync_arrivals(&dir).unwrap();
    disk.sync_dir(&root).unwrap();
    disk.sync_all(&root).unwrap();
    assert_eq!(get(disk, &dir, b"t"), [1; 9_000]);
    // Also of what has no name any more.
    disk.unlink(&dir, b"t").unwrap();
    temp.sync().unwrap();
    disk.rmdir(&root, b"dir").unwrap();
    disk.sync_dir(&dir).unwrap();
    disk.sync_arrivals(&dir).unwrap();
}

fn stat_agrees_by_name_and_by_handle<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let temp = disk.create_temp(&root, b"t", 0o640).unwrap();
    temp.write_at(0, &[1; 5_000]).unwrap();
    temp.sync().unwrap();
    let stat = temp.stat().unwrap();
    assert_eq!((stat.kind, stat.len, stat.mode, stat.nlink), (FileKind::File, 5_000, 0o640, 1));
    assert!(stat.blocks_512 >= 8);
    assert_eq!(disk.stat(&root, At::Name(b"t")).unwrap(), stat);
    let opened = disk.open(&root, b"t").unwrap().stat().unwrap();
    assert_eq!((opened.ino, opened.len), (stat.ino, stat.len));
    disk.mkdir(&root, b"d", 0o700).unwrap();
    let dir = disk.open_dir(&root, b"d").unwrap();
    let stat = disk.stat(&dir, At::This).unwrap();
    assert_eq!(stat.kind, FileKind::Dir);
    assert_eq!(disk.stat(&root, At::Name(b"d")).unwrap(), stat);
    assert_eq!(disk.stat(&root, At::This).unwrap().kind, FileKind::Dir);
}

fn a_change_of_names_moves_the_times_of_the_directory<B: Backing>(disk: &B) {
    let (dir, other) = (make_dir(disk, b"dir"), make_dir(disk, b"other"));
    let past = Timestamp { secs: 1_000_000_000, nanos: 0 };
    let back = AttrChange { mtime: Some(past), ..Default::default() };
    let moved = |dirs: &[&B::Dir], change: &dyn Fn()| {
        for dir in dirs {
            disk.set_attr(dir, At::This, &back).unwrap();
            assert_eq!(disk.stat(dir, At::This).unwrap().mtime, past);
        }
        change();
        dirs.iter().all(|dir| disk.stat(dir, At::This).unwrap().mtime > past)
    };
    assert!(moved(&[&dir], &|| put(disk, &dir, b"a", b"")));
    assert!(moved(&[&dir], &|| disk.link(&dir, b"a", &dir, b"b").unwrap()));
    assert!(moved(&[&dir], &|| disk.unlink(&dir, b"b").unwrap()));
    assert!(moved(&[&dir], &|| disk.mkdir(&dir, b"d", 0o700).unwrap()));
    assert!(moved(&[&dir], &|| disk.rmdir(&dir, b"d").unwrap()));
    assert!(moved(&[&dir, &other], &|| {
        disk.rename(&dir, b"a", &other, b"a", RenameMode::Replace).unwrap();
    }));
    assert!(!moved(&[&other], &|| {
        disk.open_temp(&other, b"a").unwrap().write_at(0, b"x").unwrap();
    }));
}

fn attributes_change_by_name_and_by_handle<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let dir = make_dir(disk, b"dir");
    put(disk, &root, b"file", b"x");
    let temp = disk.open_temp(&root, b"file").unwrap();
    let time = |secs| Some(Timestamp { secs, nanos: 123_456_789 });
    let changes = |secs| AttrChange {
        mode: Some(0o640),
        atime: time(secs),
        mtime: time(secs + 1),
        ..Default::default()
    };
    disk.set_attr(&root, At::Name(b"file"), &changes(1_000_000_000)).unwrap();
    disk.set_attr(&root, At::Name(b"dir"), &changes(1_100_000_000)).unwrap();
    let file = temp.stat().unwrap();
    assert_eq!(
        (file.mode, Some(file.atime), Some(file.mtime)),
        (0o640, time(1_000_000_000), time(1_000_000_001))
    );
    let stat = disk.stat(&dir, At::This).unwrap();
    assert_eq!((stat.mode, Some(stat.mtime)), (0o640, time(1_100_000_001)));
    // One of the times, by handle; the other and the mode stay.
    let only_mtime = AttrChange { mtime: time(5), ..Default::default() };
    temp.set_attr(&only_mtime).unwrap();
    let file = disk.stat(&root, At::Name(b"file")).unwrap();
    assert_eq!(
        (file.mode, Some(file.atime), Some(file.mtime)),
        (0o640, time(1_000_000_000), time(5))
    );
    let before = Timestamp { secs: -5, nanos: 1 };
    disk.set_attr(&dir, At::This, &AttrChange { atime: Some(before), ..Default::default() })
        .unwrap();
    let stat = disk.stat(&root, At::Name(b"dir")).unwrap();
    assert_eq!((stat.atime, Some(stat.mtime)), (before, time(1_100_000_001)));
    disk.set_attr(&root, At::Name(b"file"), &AttrChange::default()).unwrap();
}

fn the_mode_wins_over_the_owner<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    put(disk, &root, b"file", b"x");
    let own = disk.stat(&root, At::Name(b"file")).unwrap();
    // chown clears set-id bits, so the mode must come after it.
    let change = AttrChange {
        mode: Some(0o4755),
        uid: Some(own.uid),
        gid: Some(own.gid),
        ..Default::default()
    };
    disk.set_attr(&root, At::Name(b"file"), &change).unwrap();
    assert_eq!(disk.stat(&root, At::Name(b"file")).unwrap().mode, 0o4755);
    if disk.is_privileged() {
        let given = AttrChange { uid: Some(12_345), gid: Some(54_321), ..Default::default() };
        disk.open_temp(&root, b"file").unwrap().set_attr(&given).unwrap();
        let stat = disk.stat(&root, At::Name(b"file")).unwrap();
        assert_eq!((stat.uid, stat.gid), (12_345, 54_321));
    }
}

fn extended_attributes<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let dir = make_dir(disk, b"dir");
    put(disk, &root, b"file", b"x");
    let key = b"user.akasha.test";
    let long: Vec<u8> = (0..1500_u32).map(|i| i as u8).collect();
    if let Err(error) = disk.set_xattr(&dir, At::This, key, Some(b"v"))
        && error.raw_os_error() == Some(libc::EOPNOTSUPP)
    {
        println!("SKIPPED: the filesystem of the temporary directory has no extended attributes");
        return;
    }
    for at in [At::Name(b"file"), At::Name(b"dir")] {
        disk.set_xattr(&root, at, key, None).unwrap();
        assert_eq!(disk.get_xattr(&root, at, key).unwrap(), None);
        for value in [&b"one"[..], b"", &long, b"two"] {
            disk.set_xattr(&root, at, key, Some(value)).unwrap();
            assert_eq!(disk.get_xattr(&root, at, key).unwrap().as_deref(), Some(value));
        }
        assert_eq!(disk.get_xattr(&root, at, b"user.akasha.other").unwrap(), None);
        let ours = |names: Vec<Vec<u8>>| -> std::collections::BTreeSet<Vec<u8>> {
            // A system may add its own (security.selinux).
            names.into_iter().filter(|name| name.starts_with(b"user.")).collect()
        };
        let second = [&b"user.akasha."[..], &[b'x'; 240]].concat();
        disk.set_xattr(&root, at, &second, Some(b"")).unwrap();
        let both = [key.to_vec(), second.clone()].into();
        assert_eq!(ours(disk.list_xattrs(&root, at).unwrap()), both);
        disk.set_xattr(&root, at, &second, None).unwrap();
        assert_eq!(ours(disk.list_xattrs(&root, at).unwrap()), [key.to_vec()].into());
    }
    assert_eq!(disk.get_xattr(&dir, At::This, key).unwrap().as_deref(), Some(&b"two"[..]));
    disk.rename(&root, b"file", &dir, b"moved", RenameMode::Replace).unwrap();
    let at = At::Name(b"moved");
    assert_eq!(disk.get_xattr(&dir, at, key).unwrap().as_deref(), Some(&b"two"[..]));
    disk.set_xattr(&dir, at, key, None).unwrap();
    disk.set_xattr(&dir, at, key, None).unwrap();
    assert!(!disk.list_xattrs(&dir, at).unwrap().contains(&key.to_vec()));
    assert_eq!(disk.get_xattr(&dir, at, key).unwrap(), None);
}

fn a_mapping_copies_what_was_published<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let bytes: Vec<u8> = (0..30_000_u32).map(|i| (i % 253) as u8).collect();
    put(disk, &root, b"file", &bytes);
    let file = disk.open(&root, b"file").unwrap();
    let mapping = file.map(30_000).unwrap();
    let short = file.map(100).unwrap();
    let empty = file.map(0).unwrap();
    assert_eq!(file.map(30_001).err().unwrap().kind(), io::ErrorKind::UnexpectedEof);
    drop(file);
    assert_eq!((mapping.len(), short.len(), empty.len()), (30_000, 100, 0));
    assert!(empty.is_empty() && !mapping.is_empty());
    let mut out = vec![0; 20_000];
    mapping.copy_out(5_000, &mut out).unwrap();
    assert_eq!(out, bytes[5_000..25_000]);
    empty.copy_out(0, &mut []).unwrap();
    for (mapping, offset, len) in
        [(&short, 0, 101), (&short, u64::MAX, 1), (&mapping, 29_999, 2), (&empty, 0, 1)]
    {
        let error = mapping.copy_out(offset, &mut vec![0; len]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
    mapping.copy_out(0, &mut out).unwrap();
    assert!(mapping.resident(0, 20_000), "it was just read");
    let _ = mapping.resident(20_000, 10_000);
}

fn a_mapping_cut_under_the_reader_is_eio<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    put(disk, &root, b"file", &vec![5; 100_000]);
    let mapping = disk.open(&root, b"file").unwrap().map(100_000).unwrap();
    disk.open_temp(&root, b"file").unwrap().set_len(0).unwrap();
    let mut out = vec![1; 50_000];
    assert_eq!(code(mapping.copy_out(10_000, &mut out)), Some(libc::EIO));
    assert!(out.iter().all(|byte| *byte == 0));
    assert_eq!(code(mapping.copy_out(0, &mut out[..1])), Some(libc::EIO), "it stays poisoned");
    let again = disk.open(&root, b"file").unwrap().map(100_000);
    assert_eq!(again.err().unwrap().kind(), io::ErrorKind::UnexpectedEof);
}

fn locks_exclude<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let held = disk.lock(&root, b"lock", true).unwrap();
    assert_eq!(disk.stat(&root, At::Name(b"lock")).unwrap().mode, 0o600);
    assert_eq!(code(disk.lock(&root, b"lock", true)), Some(libc::EWOULDBLOCK));
    assert_eq!(code(disk.lock(&root, b"lock", false)), Some(libc::EWOULDBLOCK));
    let _other = disk.lock(&root, b"other", true).unwrap();
    drop(held);
    let shared =
        [disk.lock(&root, b"lock", false).unwrap(), disk.lock(&root, b"lock", false).unwrap()];
    assert_eq!(code(disk.lock(&root, b"lock", true)), Some(libc::EWOULDBLOCK));
    let [first, second] = shared;
    drop(first);
    assert_eq!(code(disk.lock(&root, b"lock", true)), Some(libc::EWOULDBLOCK));
    drop(second);
    disk.lock(&root, b"lock", true).unwrap();
}

fn a_note_replaces_the_one_before<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let lock = disk.lock(&root, b"lock", true).unwrap();
    disk.write_note(&lock, b"a longer note").unwrap();
    disk.write_note(&lock, b"short").unwrap();
    assert_eq!(get(disk, &root, b"lock"), b"short");
}

fn handles_serve_many_threads<B: Backing>(disk: &B) {
    let root = disk.root().unwrap();
    let temp = disk.create_temp(&root, b"shared", 0o600).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (root, temp) = (&root, &temp);
            scope.spawn(move || {
                for i in 0..50_u8 {
                    let name = format!("{thread}-{i}").into_bytes();
                    put(disk, root, &name, &[i]);
                    assert_eq!(get(disk, root, &name), [i]);
                    assert!(names(disk, root).contains(&name), "a listing is one thread's own");
                    temp.write_at(u64::from(thread) * 50 + u64::from(i), &[thread]).unwrap();
                }
            });
        }
    });
    assert_eq!(disk.list(&root).unwrap().len(), 201);
    let all = get(disk, &root, b"shared");
    assert!(all.iter().enumerate().all(|(at, byte)| at / 50 == usize::from(*byte)));
}

fn space_is_told<B: Backing>(disk: &B) {
    let space = disk.space(&disk.root().unwrap()).unwrap();
    assert!(space.unit_len.is_power_of_two());
    assert!(space.blocks >= space.blocks_free && space.blocks_free >= space.blocks_avail);
    assert!(space.name_max >= 255);
}

// ---- the two disks beside each other ---------------------------------------------------------

/// What a random call said: its errno, or what it read.
type Said = Result<Vec<u8>, Option<i32>>;

/// Random calls on a handful of names in a few directories, through handles that grow stale.
fn random_calls<B: Backing>(disk: &B, seed: u64, calls: usize) -> Vec<(u64, Said)> {
    let entropy = SeededEntropy::new(seed);
    let draw = |count: u64| entropy.next_u64() % count;
    let name = || vec![b'a' + draw(6) as u8];
    let mut dirs = vec![disk.root().unwrap()];
    let mut temps: Vec<B::Temp> = Vec::new();
    let mut said = Vec::new();
    for _ in 0..calls {
        let (first, second) = (draw(dirs.len() as u64), draw(dirs.len() as u64));
        let (dir, other) = (&dirs[first as usize], &dirs[second as usize]);
        let call = draw(20);
        let result = match call {
            0..=2 => disk.create_temp(dir, &name(), 0o600 + draw(0o100) as u32).map(|temp| {
                temps.push(temp);
                Vec::new()
            }),
            3 => disk.mkdir(dir, &name(), 0o700).map(|()| Vec::new()),
            4 => disk.open_dir(dir, &name()).map(|opened| {
                dirs.push(opened);
                Vec::new()
            }),
            5 | 6 => {
                let mode = match draw(3) {
                    0 => RenameMode::Replace,
                    1 => RenameMode::NoReplace,
                    _ => RenameMode::Exchange,
                };
                disk.rename(dir, &name(), other, &name(), mode).map(|()| Vec::new())
            }
            7 => disk.link(dir, &name(), other, &name()).map(|()| Vec::new()),
            8 => disk.unlink(dir, &name()).map(|()| Vec::new()),
            9 => disk.rmdir(dir, &name()).map(|()| Vec::new()),
            10 => disk.open_temp(dir, &name()).map(|temp| {
                temps.push(temp);
                Vec::new()
            }),
            11 => disk.open(dir, &name()).and_then(|file| {
                let mut bytes = vec![0; file.stat()?.len as usize];
                file.read_at(0, &mut bytes)?;
                Ok(bytes)
            }),
            12 => disk.stat(dir, At::Name(&name())).map(|stat| {
                let nlink = if stat.kind == FileKind::File { stat.nlink } else { 0 };
                format!("{:?} {:o} {nlink}", stat.kind, stat.mode).into_bytes()
            }),
            13 => disk.list(dir).map(|mut entries| {
                entries.sort_by(|left, right| left.name.cmp(&right.name));
                format!("{entries:?}").into_bytes()
            }),
            14 => {
                let change =
                    AttrChange { mode: Some(0o700 + draw(0o100) as u32), ..Default::default() };
                disk.set_attr(dir, At::Name(&name()), &change).map(|()| Vec::new())
            }
            15 => disk.sync_dir(dir).map(|()| Vec::new()),
            call => {
                if temps.is_empty() {
                    continue;
                }
                let temp = &temps[draw(temps.len() as u64) as usize];
                match call {
                    16 | 17 => {
                        let bytes = vec![draw(256) as u8; draw(6000) as usize];
                        temp.write_at(draw(20_000), &bytes).map(|()| Vec::new())
                    }
                    18 => temp.set_len(draw(30_000)).map(|()| Vec::new()),
                    _ => temp.stat().and_then(|stat| {
                        let mut bytes = vec![0; stat.len as usize];
                        temp.read_at(0, &mut bytes)?;
                        bytes.push(stat.nlink as u8);
                        Ok(bytes)
                    }),
                }
            }
        };
        said.push((call, result.map_err(|error| error.raw_os_error())));
    }
    said
}

#[test]
fn both_disks_say_the_same_to_random_calls() {
    for seed in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let real = random_calls(&OsDisk::open(dir.path()).unwrap(), seed, 400);
        let simulated = random_calls(&SimDisk::new(), seed, 400);
        for (at, (real, simulated)) in real.iter().zip(&simulated).enumerate() {
            assert!(real == simulated, "seed={seed} call={at}: {real:?} but {simulated:?}");
        }
        assert_eq!(real.len(), simulated.len(), "seed={seed}");
    }
}
