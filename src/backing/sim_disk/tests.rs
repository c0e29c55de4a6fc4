//! What each crash rule must and must not lose, and that a lying disk is found out.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::*;
use crate::backing::{At, AttrChange, Backing, Mapping, PublishedFile, RenameMode, TempFile};
use crate::entropy::{Entropy, SeededEntropy};
use std::io;

const SEEDS: std::ops::Range<u64> = 0..200;

fn put(disk: &SimDisk, dir: &SimDir, name: &[u8], bytes: &[u8]) -> SimTemp {
    let temp = disk.create_temp(dir, name, 0o600).unwrap();
    temp.write_at(0, bytes).unwrap();
    temp
}

fn make_dir(disk: &SimDisk, name: &[u8]) -> SimDir {
    let root = disk.root().unwrap();
    disk.mkdir(&root, name, 0o700).unwrap();
    disk.open_dir(&root, name).unwrap()
}

/// A durable directory.
fn safe_dir(disk: &SimDisk, name: &[u8]) -> SimDir {
    let dir = make_dir(disk, name);
    disk.sync_all(&dir).unwrap();
    dir
}

fn names(disk: &SimDisk) -> Vec<String> {
    let paths = disk.paths().into_iter();
    paths.map(|(path, _, _)| String::from_utf8(path).unwrap()).collect()
}

fn rules(disk: &SimDisk) -> Vec<CrashRule> {
    CrashRule::battery(disk.pending_changes(), SEEDS)
}

/// Every tree of names that some rule leaves.
fn outcomes(disk: &SimDisk) -> BTreeSet<Vec<String>> {
    rules(disk).iter().map(|rule| names(&disk.crash(rule))).collect()
}

fn code<T>(result: io::Result<T>) -> Option<i32> {
    result.err().expect("the call should have failed").raw_os_error()
}

// ---- what is promised ----------------------------------------------------------------------

#[test]
fn what_was_synced_survives_every_rule() {
    let disk = SimDisk::new();
    let (dir, root) = (make_dir(&disk, b"dir"), disk.root().unwrap());
    put(&disk, &dir, b"file", b"bytes").sync().unwrap();
    disk.sync_dir(&dir).unwrap();
    disk.sync_dir(&root).unwrap();
    for rule in rules(&disk) {
        let crashed = disk.crash(&rule);
        assert_eq!(crashed.read_path(b"dir/file").unwrap(), b"bytes", "{rule:?}");
        assert_eq!(names(&crashed), ["dir", "dir/file"], "{rule:?}");
    }
}

#[test]
fn nothing_more_than_promised_survives_the_worst_rule() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    let worst = |disk: &SimDisk| disk.crash(&CrashRule::NothingUnsynced);
    let temp = put(&disk, &root, b"file", b"bytes");
    temp.sync().unwrap();
    assert!(names(&worst(&disk)).is_empty(), "a sync of the file keeps no name");
    disk.sync_dir(&root).unwrap();
    assert_eq!(worst(&disk).read_path(b"file").unwrap(), b"bytes");
    temp.write_at(5, b" and more").unwrap();
    assert_eq!(worst(&disk).read_path(b"file").unwrap(), b"bytes");
    put(&disk, &root, b"unsynced", b"bytes");
    disk.sync_dir(&root).unwrap();
    assert_eq!(worst(&disk).read_path(b"unsynced").unwrap(), b"", "a name without its bytes");
    let dir = make_dir(&disk, b"dir");
    put(&disk, &dir, b"deep", b"bytes").sync().unwrap();
    disk.sync_dir(&dir).unwrap();
    assert!(worst(&disk).read_path(b"dir/deep").is_none(), "the directory has no durable name");
}

#[test]
fn everything_is_what_the_process_saw() {
    for seed in 0..50 {
        let disk = SimDisk::new();
        churn(&disk, seed, 300);
        let crashed = disk.crash(&CrashRule::Everything);
        assert_eq!(disk.paths(), crashed.paths(), "seed {seed}");
        for (path, kind, _) in disk.paths() {
            if kind == FileKind::File {
                assert_eq!(disk.read_path(&path), crashed.read_path(&path), "seed {seed}");
            }
        }
    }
}

#[test]
fn after_a_sync_of_all_every_rule_leaves_the_same() {
    for seed in 0..20 {
        let disk = SimDisk::new();
        churn(&disk, seed, 300);
        disk.sync_all(&disk.root().unwrap()).unwrap();
        for rule in CrashRule::battery(3, 0..5) {
            assert_eq!(disk.crash(&rule).paths(), disk.paths(), "seed {seed} {rule:?}");
        }
    }
}

#[test]
fn a_crashed_disk_is_settled_and_its_space_is_right() {
    for seed in 0..50 {
        let disk = SimDisk::new();
        disk.set_capacity(Some(1 << 30));
        churn(&disk, seed, 300);
        for rule in CrashRule::battery(disk.pending_changes().min(5), seed..seed + 3) {
            let once = disk.crash(&rule);
            let used = |disk: &SimDisk| {
                let space = disk.space(&disk.root().unwrap()).unwrap();
                space.blocks - space.blocks_free
            };
            for again in CrashRule::battery(0, 0..3) {
                let twice = once.crash(&again);
                assert_eq!(once.paths(), twice.paths(), "seed {seed} {rule:?} {again:?}");
                assert_eq!(used(&once), used(&twice), "seed {seed} {rule:?} {again:?}");
            }
        }
    }
}

#[test]
fn one_seed_has_one_outcome() {
    let run = || {
        let disk = SimDisk::new();
        churn(&disk, 7, 300);
        CrashRule::battery(disk.pending_changes(), 0..20)
            .iter()
            .map(|rule| {
                let crashed = disk.crash(rule);
                let paths = crashed.paths();
                let bytes: Vec<_> =
                    paths.iter().map(|(path, ..)| crashed.read_path(path)).collect();
                (paths, bytes)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

// ---- names ---------------------------------------------------------------------------------

#[test]
fn a_journal_keeps_a_prefix_of_the_names() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    put(&disk, &root, b"a", b"");
    disk.mkdir(&root, b"b", 0o700).unwrap();
    disk.rename(&root, b"a", &root, b"c", RenameMode::Replace).unwrap();
    disk.unlink(&root, b"c").unwrap();
    assert_eq!(disk.pending_changes(), 4);
    let expected: [&[&str]; 5] = [&[], &["a"], &["a", "b"], &["b", "c"], &["b"]];
    for (prefix, expected) in expected.into_iter().enumerate() {
        let rule = CrashRule::Journal { prefix, seed: 0 };
        assert_eq!(names(&disk.crash(&rule)), expected, "{rule:?}");
    }
}

#[test]
fn on_a_journal_any_fsync_commits_all_earlier_names_but_not_their_bytes() {
    let disk = SimDisk::new();
    let (dir, root) = (make_dir(&disk, b"dir"), disk.root().unwrap());
    put(&disk, &dir, b"helper", b"never synced");
    put(&disk, &root, b"other", b"synced").sync().unwrap();
    put(&disk, &root, b"later", b"");
    let mut lost = 0;
    for seed in SEEDS {
        let crashed = disk.crash(&CrashRule::Journal { prefix: 0, seed });
        assert_eq!(names(&crashed), ["dir", "dir/helper", "other"]);
        assert_eq!(crashed.read_path(b"other").unwrap(), b"synced");
        lost += usize::from(crashed.read_path(b"dir/helper").unwrap() != b"never synced");
    }
    assert!(lost > 0, "some seed loses the bytes of the durable name");
}

#[test]
fn a_logged_inode_takes_its_name_and_parents_along_and_no_others() {
    let disk = SimDisk::new();
    let dir = make_dir(&disk, b"dir");
    disk.mkdir(&dir, b"sub", 0o700).unwrap();
    let sub = disk.open_dir(&dir, b"sub").unwrap();
    put(&disk, &sub, b"sibling", b"");
    let temp = put(&disk, &sub, b"temporary", b"bytes");
    disk.rename(&sub, b"temporary", &sub, b"file", RenameMode::Replace).unwrap();
    temp.sync().unwrap();
    let mut without_sibling = 0;
    for seed in SEEDS {
        let crashed = disk.crash(&CrashRule::PerDirectory { seed });
        assert_eq!(crashed.read_path(b"dir/sub/file").unwrap(), b"bytes", "seed {seed}");
        without_sibling += usize::from(crashed.read_path(b"dir/sub/sibling").is_none());
    }
    assert!(without_sibling > 0);
}

#[test]
fn a_rename_in_one_directory_and_an_exchange_are_never_seen_by_halves() {
    let disk = SimDisk::new();
    let (dir, root) = (make_dir(&disk, b"dir"), disk.root().unwrap());
    put(&disk, &root, b"a", b"old");
    put(&disk, &root, b"new", b"new");
    put(&disk, &dir, b"spare", b"spare");
    disk.sync_all(&root).unwrap();
    disk.rename(&root, b"new", &root, b"a", RenameMode::Replace).unwrap();
    disk.rename(&root, b"a", &dir, b"spare", RenameMode::Exchange).unwrap();
    let seen: BTreeSet<_> = rules(&disk)
        .iter()
        .map(|rule| {
            let crashed = disk.crash(rule);
            let read = |path: &[u8]| {
                crashed.read_path(path).map(|bytes| String::from_utf8(bytes).unwrap())
            };
            let new = read(b"new").unwrap_or_default();
            format!("{} {} {new}", read(b"a").unwrap(), read(b"dir/spare").unwrap())
        })
        .collect();
    assert_eq!(seen, ["old spare new", "new spare ", "spare new "].map(str::to_owned).into());
}

#[test]
fn a_moved_file_may_have_both_names_and_never_none() {
    let disk = SimDisk::new();
    let (from, to) = (make_dir(&disk, b"from"), safe_dir(&disk, b"to"));
    put(&disk, &from, b"file", b"bytes");
    disk.sync_all(&from).unwrap();
    disk.rename(&from, b"file", &to, b"moved", RenameMode::NoReplace).unwrap();
    let has = |outcome: &[String], name: &str| outcome.iter().any(|path| path == name);
    let count = |outcomes: BTreeSet<Vec<String>>, both: bool| {
        for outcome in &outcomes {
            let (old, new) = (has(outcome, "from/file"), has(outcome, "to/moved"));
            assert!(old || new, "a moved file is never lost: {outcome:?}");
        }
        let is_both = |outcome: &&Vec<String>| {
            (has(outcome, "from/file") && has(outcome, "to/moved")) == both
        };
        outcomes.iter().filter(is_both).count()
    };
    assert!(count(outcomes(&disk), true) > 0, "btrfs may show both");
    assert!(count(outcomes(&disk), false) > 0);
    // Source, then target: never both.
    disk.sync_dir(&from).unwrap();
    disk.sync_dir(&to).unwrap();
    assert_eq!(count(outcomes(&disk), true), 0);
}

#[test]
fn names_in_one_directory_survive_each_for_itself_and_in_order() {
    let disk = SimDisk::new();
    let dir = safe_dir(&disk, b"d");
    put(&disk, &dir, b"a", b"");
    put(&disk, &dir, b"b", b"");
    disk.unlink(&dir, b"a").unwrap();
    disk.mkdir(&dir, b"a", 0o700).unwrap();
    let seen = outcomes(&disk);
    let expected: [&[&str]; 4] = [&["d"], &["d", "d/a"], &["d", "d/b"], &["d", "d/a", "d/b"]];
    let expected = expected.map(|names| names.iter().map(ToString::to_string).collect());
    assert_eq!(seen, BTreeSet::from(expected));
}

#[test]
fn a_directory_is_not_gone_before_what_left_it_arrived() {
    let disk = SimDisk::new();
    let (dir, root) = (make_dir(&disk, b"dir"), disk.root().unwrap());
    put(&disk, &dir, b"file", b"bytes");
    disk.sync_all(&root).unwrap();
    let to = safe_dir(&disk, b"to");
    disk.rename(&dir, b"file", &to, b"file", RenameMode::Replace).unwrap();
    disk.rmdir(&root, b"dir").unwrap();
    for rule in rules(&disk) {
        let crashed = disk.crash(&rule);
        let is_there = |path: &[u8]| crashed.read_path(path).is_some();
        assert!(is_there(b"dir/file") || is_there(b"to/file"), "{rule:?}");
    }
    disk.sync_dir(&root).unwrap();
    let worst = disk.crash(&CrashRule::NothingUnsynced);
    assert_eq!(worst.read_path(b"to/file").unwrap(), b"bytes");
}

#[test]
fn a_sync_of_arrivals_leaves_what_left_to_chance() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    let (dir, to) = (make_dir(&disk, b"dir"), make_dir(&disk, b"to"));
    for name in [&b"moved"[..], b"unlinked", b"replaced", b"again"] {
        put(&disk, &dir, name, b"old").sync().unwrap();
    }
    disk.sync_all(&root).unwrap();
    put(&disk, &dir, b"new", b"new").sync().unwrap();
    disk.rename(&dir, b"new", &dir, b"replaced", RenameMode::Replace).unwrap();
    disk.rename(&dir, b"moved", &to, b"moved", RenameMode::Replace).unwrap();
    disk.unlink(&dir, b"unlinked").unwrap();
    disk.unlink(&dir, b"again").unwrap();
    put(&disk, &dir, b"again", b"new").sync().unwrap();
    disk.sync_arrivals(&dir).unwrap();
    disk.sync_arrivals(&to).unwrap();
    let worst = disk.crash(&CrashRule::NothingUnsynced);
    let found = |path: &str| worst.read_path(path.as_bytes()).unwrap();
    assert_eq!((found("dir/moved"), found("to/moved")), (b"old".to_vec(), b"old".to_vec()));
    assert_eq!(found("dir/unlinked"), b"old");
    assert_eq!((found("dir/replaced"), found("dir/again")), (b"new".to_vec(), b"new".to_vec()));
    disk.sync_dir(&dir).unwrap();
    let worst = disk.crash(&CrashRule::NothingUnsynced);
    assert!(worst.read_path(b"dir/moved").is_none() && worst.read_path(b"dir/unlinked").is_none());
}

#[test]
fn moved_directories_never_hang_in_the_air() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    let (a, b) = (make_dir(&disk, b"a"), make_dir(&disk, b"b"));
    put(&disk, &a, b"in-a", b"");
    put(&disk, &b, b"in-b", b"");
    disk.sync_all(&root).unwrap();
    // a into b, then out again, then b into a: by halves this would be a ring.
    disk.rename(&root, b"a", &b, b"a", RenameMode::Replace).unwrap();
    disk.rename(&b, b"a", &root, b"a", RenameMode::Replace).unwrap();
    disk.rename(&root, b"b", &a, b"b", RenameMode::Replace).unwrap();
    for rule in rules(&disk) {
        let found = names(&disk.crash(&rule));
        for leaf in ["in-a", "in-b"] {
            let count = found.iter().filter(|path| path.ends_with(leaf)).count();
            assert_eq!(count, 1, "{rule:?}: {found:?}");
        }
    }
}

// ---- bytes ---------------------------------------------------------------------------------

#[test]
fn unsynced_bytes_are_kept_old_zero_or_torn_and_the_length_goes_its_own_way() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    let temp = put(&disk, &root, b"file", &[1; 3 * PAGE_LEN]);
    disk.sync_all(&root).unwrap();
    temp.set_len(0).unwrap();
    temp.write_at(0, &[2; 4 * PAGE_LEN]).unwrap();
    let (mut lens, mut first_pages) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..2000 {
        let crashed = disk.crash(&CrashRule::Random { seed });
        let bytes = crashed.read_path(b"file").unwrap();
        lens.insert(bytes.len());
        let sectors: Vec<u8> = bytes.chunks(512).take(8).map(|sector| sector[0]).collect();
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        first_pages.insert(sectors);
    }
    let (old, new) = (3 * PAGE_LEN, 4 * PAGE_LEN);
    assert!(lens.contains(&old) && lens.contains(&new) && lens.len() > 10, "{lens:?}");
    for page in [[0; 8], [1; 8], [2; 8]] {
        assert!(first_pages.contains(page.as_slice()));
    }
    assert!(first_pages.len() > 20, "torn in many ways");
}

#[test]
fn a_safe_sector_keeps_its_bytes_while_its_neighbours_are_written() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    let temp = put(&disk, &root, b"log", &[0; 4 * PAGE_LEN]);
    temp.write_at(0, &[1; 1024]).unwrap();
    disk.sync_all(&root).unwrap();
    temp.write_at(512, &[2; 1536]).unwrap();
    for seed in 0..500 {
        for rule in [CrashRule::Random { seed }, CrashRule::PerDirectory { seed }] {
            let bytes = disk.crash(&rule).read_path(b"log").unwrap();
            assert_eq!(bytes.len(), 4 * PAGE_LEN, "{rule:?}");
            assert_eq!(bytes[..512], [1; 512], "{rule:?}");
            let second = &bytes[512..1024];
            assert!(second == [1; 512] || second == [2; 512], "old or new, never zeros: {rule:?}");
            assert!(bytes[2048..].iter().all(|byte| *byte == 0), "{rule:?}");
        }
    }
}

#[test]
fn a_failed_sync_drops_the_bytes_and_a_later_one_proves_nothing() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    let temp = put(&disk, &root, b"file", b"bytes");
    disk.sync_dir(&root).unwrap();
    disk.fail(1, libc::EIO, |kind| kind == CallKind::Sync);
    assert_eq!(code(temp.sync()), Some(libc::EIO));
    temp.sync().unwrap();
    let mut seen = [0; 5];
    temp.read_at(0, &mut seen).unwrap();
    assert_eq!(&seen, b"bytes", "the page cache goes on showing them");
    let crashed = disk.crash(&CrashRule::Everything);
    assert_eq!(crashed.read_path(b"file").unwrap(), [0; 5]);
}

#[test]
fn what_was_cut_stays_cut_after_a_failed_sync() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    let temp = put(&disk, &root, b"file", b"old bytes");
    disk.sync_all(&root).unwrap();
    temp.set_len(0).unwrap();
    disk.fail(1, libc::EIO, |kind| kind == CallKind::Sync);
    temp.sync().unwrap_err();
    temp.sync().unwrap();
    temp.set_len(9).unwrap();
    let crashed = disk.crash(&CrashRule::Everything);
    assert_eq!(crashed.read_path(b"file").unwrap(), [0; 9]);
}

#[test]
fn a_failed_sync_of_all_drops_the_bytes_of_all() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    let temps = [put(&disk, &root, b"a", b"bytes"), put(&disk, &root, b"b", b"bytes")];
    disk.fail(1, libc::EIO, |kind| kind == CallKind::SyncAll);
    assert_eq!(code(disk.sync_all(&root)), Some(libc::EIO));
    for temp in &temps {
        assert_eq!(code(temp.sync()), Some(libc::EIO));
        temp.sync().unwrap();
    }
    let crashed = disk.crash(&CrashRule::Everything);
    for name in [b"a", b"b"] {
        assert_eq!(crashed.read_path(name).unwrap(), [0; 5]);
    }
}

#[test]
fn attributes_survive_with_their_file_or_each_in_its_order() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    let temp = put(&disk, &root, b"file", b"");
    disk.sync_all(&root).unwrap();
    let at = At::Name(b"file");
    for mode in [0o640, 0o644] {
        let change = AttrChange { mode: Some(mode), ..Default::default() };
        disk.set_attr(&root, at, &change).unwrap();
    }
    disk.set_xattr(&root, at, b"user.k", Some(b"v")).unwrap();
    disk.set_xattr(&root, at, b"user.l", Some(b"v")).unwrap();
    let found = |disk: &SimDisk| {
        let root = disk.root().unwrap();
        let has = |name| disk.get_xattr(&root, at, name).unwrap().is_some();
        (disk.stat(&root, at).unwrap().mode, has(b"user.k"), has(b"user.l"))
    };
    let in_order = [
        (0o600, false, false),
        (0o640, false, false),
        (0o644, false, false),
        (0o644, true, false),
        (0o644, true, true),
    ];
    let (any, rules_in_order): (Vec<_>, Vec<_>) =
        rules(&disk).into_iter().partition(|rule| matches!(rule, CrashRule::Random { .. }));
    let seen: BTreeSet<_> = rules_in_order.iter().map(|rule| found(&disk.crash(rule))).collect();
    assert_eq!(seen, in_order.into());
    let seen: BTreeSet<_> = any.iter().map(|rule| found(&disk.crash(rule))).collect();
    assert!(seen.contains(&(0o644, false, true)), "no attribute overtook another: {seen:?}");
    assert!(seen.iter().all(|(mode, ..)| in_order.iter().any(|(known, ..)| known == mode)));
    temp.sync().unwrap();
    for rule in rules(&disk) {
        assert_eq!(found(&disk.crash(&rule)), (0o644, true, true), "{rule:?}");
    }
    let change = AttrChange { mode: Some(0o711), ..Default::default() };
    disk.set_attr(&root, At::This, &change).unwrap();
    disk.sync_dir(&root).unwrap();
    let worst = disk.crash(&CrashRule::NothingUnsynced);
    assert_eq!(worst.stat(&worst.root().unwrap(), At::This).unwrap().mode, 0o711);
}

// ---- the net has no hole -------------------------------------------------------------------

/// The commit of the store in small: old or new, whatever happens.
fn replace(disk: &SimDisk, bytes: &[u8], mode: RenameMode) -> io::Result<()> {
    let root = disk.root()?;
    let tmp = disk.open_dir(&root, b"tmp")?;
    let temp = disk.create_temp(&tmp, b"t", 0o600)?;
    for (index, chunk) in bytes.chunks(3000).enumerate() {
        temp.write_at(index as u64 * 3000, chunk)?;
    }
    temp.sync()?;
    disk.rename(&tmp, b"t", &root, b"file", mode)?;
    disk.sync_dir(&root)
}

/// Cuts [`replace`] after each operation, under each rule; returns the first loss.
fn first_loss(mode: RenameMode, prepare: impl Fn(&SimDisk)) -> Option<String> {
    let (old, new) = (vec![1; 10_000], vec![2; 12_000]);
    for operations in 0.. {
        let disk = SimDisk::new();
        let root = disk.root().unwrap();
        disk.mkdir(&root, b"tmp", 0o700).unwrap();
        put(&disk, &root, b"file", &old);
        disk.sync_all(&root).unwrap();
        prepare(&disk);
        disk.cut_at(disk.operations() + operations);
        let done = replace(&disk, &new, mode).is_ok();
        for rule in rules(&disk) {
            let crashed = disk.crash(&rule);
            let found = crashed.read_path(b"file");
            let is_old = found.as_ref() == Some(&old);
            // An exchange keeps what was displaced: the old layer under the new top.
            let keeps_old =
                mode != RenameMode::Exchange || crashed.read_path(b"tmp/t").as_ref() == Some(&old);
            let is_new = found.as_ref() == Some(&new) && keeps_old;
            if !(is_new || is_old && !done) {
                return Some(format!("cut={operations} rule={rule:?} done={done}"));
            }
        }
        if !disk.is_off() {
            return None;
        }
    }
    unreachable!("the loop ends when the power stays on");
}

#[test]
fn a_right_commit_loses_nothing_at_any_cut() {
    for mode in [RenameMode::Replace, RenameMode::Exchange] {
        assert_eq!(first_loss(mode, |_| {}), None, "{mode:?}");
    }
}

#[test]
fn every_lie_is_found_out() {
    for kind in [CallKind::Sync, CallKind::SyncDir] {
        for mode in [RenameMode::Replace, RenameMode::Exchange] {
            assert!(first_loss(mode, |disk| disk.lie(kind)).is_some(), "{kind:?} {mode:?}");
        }
    }
    // A rename over a name never loses that name, but an exchange by halves loses what was displaced.
    let torn = |disk: &SimDisk| disk.lie(CallKind::Rename);
    assert!(first_loss(RenameMode::Exchange, torn).is_some());
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    put(&disk, &root, b"a", b"x");
    disk.sync_all(&root).unwrap();
    disk.lie(CallKind::Rename);
    disk.rename(&root, b"a", &root, b"b", RenameMode::NoReplace).unwrap();
    assert!(outcomes(&disk).contains(&Vec::new()), "a torn rename loses the file");
}

#[test]
fn a_disk_that_lies_about_syncing_all_is_found_out() {
    let disk = SimDisk::new();
    disk.lie(CallKind::SyncAll);
    put(&disk, &disk.root().unwrap(), b"file", b"");
    disk.sync_all(&disk.root().unwrap()).unwrap();
    assert!(outcomes(&disk).contains(&Vec::new()));
}

// ---- cuts, faults, limits ------------------------------------------------------------------

#[test]
fn after_the_cut_every_call_fails() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    let temp = put(&disk, &root, b"file", b"x");
    let file = disk.open(&root, b"file").unwrap();
    let mapping = file.map(1).unwrap();
    assert_eq!(disk.operations(), 2);
    disk.cut_at(3);
    disk.mkdir(&root, b"last", 0o700).unwrap();
    assert!(disk.stat(&root, At::This).is_ok() && !disk.is_off());
    assert_eq!(code(disk.mkdir(&root, b"never", 0o700)), Some(libc::EIO));
    assert!(disk.is_off());
    assert_eq!(code(disk.root()), Some(libc::EIO));
    assert_eq!(code(disk.list(&root)), Some(libc::EIO));
    assert_eq!(code(file.read_at(0, &mut [0])), Some(libc::EIO));
    assert_eq!(code(mapping.copy_out(0, &mut [0])), Some(libc::EIO));
    assert_eq!(code(temp.sync()), Some(libc::EIO));
    assert_eq!(code(disk.sync_all(&root)), Some(libc::EIO));
    let crashed = disk.crash(&CrashRule::Everything);
    assert_eq!(names(&crashed), ["file", "last"]);
    assert_eq!(crashed.read_path(b"file").unwrap(), b"x", "a cut is no failed sync");
    assert!(!crashed.is_off() && crashed.operations() == 0);
}

#[test]
fn planned_failures_strike_once_or_until_healed() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    disk.fail(2, libc::EMFILE, |kind| kind == CallKind::Open);
    disk.fail_from(1, libc::EDQUOT, |kind| kind == CallKind::Mkdir);
    put(&disk, &root, b"file", b"x");
    disk.open(&root, b"file").unwrap();
    assert_eq!(code(disk.open(&root, b"file")), Some(libc::EMFILE));
    disk.open(&root, b"file").unwrap();
    for _ in 0..3 {
        assert_eq!(code(disk.mkdir(&root, b"dir", 0o700)), Some(libc::EDQUOT));
    }
    disk.heal();
    disk.mkdir(&root, b"dir", 0o700).unwrap();
    let counters = disk.counters();
    assert_eq!((counters.of(CallKind::Open), counters.of(CallKind::Mkdir)), (3, 4));
    assert_eq!((counters.bytes_written, counters.syncs()), (1, 0));
    disk.reset_counters();
    assert_eq!(disk.counters(), Counters::default());
    assert_eq!(disk.last_calls().last().unwrap().1, CallKind::Mkdir);
}

#[test]
fn a_failed_write_may_have_written_some() {
    let disk = SimDisk::new();
    let temp = put(&disk, &disk.root().unwrap(), b"file", b"");
    disk.fail(1, libc::EIO, |kind| kind == CallKind::Write);
    assert_eq!(code(temp.write_at(0, b"four")), Some(libc::EIO));
    assert_eq!(temp.stat().unwrap().len, 2);
}

#[test]
fn a_full_disk_is_enospc_and_what_was_reserved_still_fits() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    // One page for the root.
    disk.set_capacity(Some(6 * PAGE_LEN as u64));
    let reserved = disk.create_temp(&root, b"reserved", 0o600).unwrap();
    reserved.reserve(0, 2 * PAGE_LEN as u64).unwrap();
    assert_eq!(code(reserved.reserve(0, 20 * PAGE_LEN as u64)), Some(libc::ENOSPC));
    let big = disk.create_temp(&root, b"big", 0o600).unwrap();
    assert_eq!(code(big.write_at(0, &vec![1; 5 * PAGE_LEN])), Some(libc::ENOSPC));
    assert_eq!(big.stat().unwrap().len, 3 * PAGE_LEN as u64, "as much as fits");
    assert_eq!(code(disk.mkdir(&root, b"dir", 0o700)), Some(libc::ENOSPC));
    assert_eq!(disk.space(&root).unwrap().blocks_free, 0);
    reserved.write_at(0, &[2; 2 * PAGE_LEN]).unwrap();
    big.write_at(0, &[3; PAGE_LEN]).unwrap();
    disk.unlink(&root, b"big").unwrap();
    assert_eq!(disk.space(&root).unwrap().blocks_free, 0, "the handle keeps the space");
    drop(big);
    assert_eq!(disk.space(&root).unwrap().blocks_free, 3);
    reserved.set_len(0).unwrap();
    assert_eq!(disk.space(&root).unwrap().blocks_free, 5);
    reserved.reserve(0, 2 * PAGE_LEN as u64).unwrap();
    assert_eq!(disk.space(&root).unwrap().blocks_free, 3);
    reserved.set_len(0).unwrap();
    assert_eq!(disk.space(&root).unwrap().blocks_free, 5);
    disk.mkdir(&root, b"dir", 0o700).unwrap();
}

#[test]
fn without_exchange_it_is_einval() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    put(&disk, &root, b"a", b"1");
    put(&disk, &root, b"b", b"2");
    disk.set_exchange(false);
    let refused = disk.rename(&root, b"a", &root, b"b", RenameMode::Exchange);
    assert_eq!(code(refused), Some(libc::EINVAL));
    assert_eq!(disk.read_path(b"a").unwrap(), b"1");
}

#[test]
fn modes_bind_whoever_is_not_root() {
    let disk = SimDisk::new();
    disk.set_privileged(false);
    let set = |dir: &SimDir, at: At<'_>, mode: u32| {
        disk.set_attr(dir, at, &AttrChange { mode: Some(mode), ..Default::default() })
    };
    let root = disk.root().unwrap();
    // The root directory is root's in this story, and open to all.
    set(&root, At::This, 0o777).unwrap();
    let dir = make_dir(&disk, b"dir");
    put(&disk, &dir, b"file", b"x");
    set(&dir, At::Name(b"file"), 0o400).unwrap();
    disk.open(&dir, b"file").unwrap();
    assert_eq!(code(disk.open_temp(&dir, b"file")), Some(libc::EACCES));
    assert_eq!(
        code(disk.set_xattr(&dir, At::Name(b"file"), b"user.k", Some(b""))),
        Some(libc::EACCES)
    );
    set(&dir, At::Name(b"file"), 0o000).unwrap();
    assert_eq!(code(disk.open(&dir, b"file")), Some(libc::EACCES));
    set(&dir, At::This, 0o500).unwrap();
    assert_eq!(code(disk.unlink(&dir, b"file")), Some(libc::EACCES));
    assert_eq!(code(disk.create_temp(&dir, b"new", 0o600)), Some(libc::EACCES));
    let out = disk.rename(&dir, b"file", &root, b"file", RenameMode::Replace);
    assert_eq!(code(out), Some(libc::EACCES));
    set(&dir, At::This, 0o000).unwrap();
    assert_eq!(code(disk.stat(&dir, At::Name(b"file"))), Some(libc::EACCES));
    assert_eq!(code(disk.list(&dir)), Some(libc::EACCES));
    assert_eq!(code(disk.open_dir(&root, b"dir")), Some(libc::EACCES));
    let owner = AttrChange { uid: Some(1), ..Default::default() };
    assert_eq!(code(disk.set_attr(&root, At::Name(b"dir"), &owner)), Some(libc::EPERM));
    disk.set_privileged(true);
    disk.open(&dir, b"file").unwrap();
}

#[test]
fn planted_objects_are_refused() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    disk.mkdir(&root, b"dir", 0o700).unwrap();
    assert!(disk.plant(b"dir/link", libc::ELOOP) && disk.plant(b"fifo", libc::EIO));
    assert!(!disk.plant(b"missing/link", libc::ELOOP));
    let dir = disk.open_dir(&root, b"dir").unwrap();
    assert_eq!(disk.list(&dir).unwrap()[0].kind, FileKind::Other);
    assert_eq!(disk.stat(&dir, At::Name(b"link")).unwrap().kind, FileKind::Other);
    for (dir, name, expected) in [(&dir, b"link", libc::ELOOP), (&root, b"fifo", libc::EIO)] {
        assert_eq!(code(disk.open(dir, name)), Some(expected));
        assert_eq!(code(disk.open_temp(dir, name)), Some(expected));
        let refused = disk.set_attr(dir, At::Name(name), &AttrChange::default());
        assert_eq!(code(refused), Some(expected));
        assert_eq!(code(disk.get_xattr(dir, At::Name(name), b"user.k")), Some(expected));
    }
    assert_eq!(code(disk.open_dir(&dir, b"link")), Some(libc::ELOOP));
    assert_eq!(code(disk.open_dir(&root, b"fifo")), Some(libc::ENOTDIR));
    disk.unlink(&root, b"fifo").unwrap();
    let worst = disk.crash(&CrashRule::NothingUnsynced);
    assert_eq!(names(&worst), ["fifo"], "planted durably, unlike the rest");
}

#[test]
fn tampering_shows_under_handles_and_mappings() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    put(&disk, &root, b"file", b"bytes");
    let mapping = disk.open(&root, b"file").unwrap().map(5).unwrap();
    assert!(disk.replace_path(b"file", b"BYTES"));
    let mut seen = [0; 5];
    mapping.copy_out(0, &mut seen).unwrap();
    assert_eq!(&seen, b"BYTES");
    assert!(!disk.replace_path(b"missing", b""));
    assert!(disk.replace_path(b"file", b"cut"));
    assert_eq!(code(mapping.copy_out(0, &mut seen)), Some(libc::EIO));
}

#[test]
fn locks_and_space_of_what_is_gone_are_given_back() {
    let disk = SimDisk::new();
    let root = disk.root().unwrap();
    let lock = disk.lock(&root, b"lock", true).unwrap();
    let crashed = disk.crash(&CrashRule::Everything);
    crashed.lock(&crashed.root().unwrap(), b"lock", true).unwrap();
    drop(lock);
    // Thousands of files come and go: the table of inodes does not keep them.
    for _ in 0..5000 {
        drop(put(&disk, &root, b"t", &[1; 100]));
        disk.unlink(&root, b"t").unwrap();
        disk.sync_dir(&root).unwrap();
    }
    assert!(disk.shared.state.lock().tree.inodes.len() < 3000);
    assert_eq!(disk.shared.state.lock().tree.log.items().len(), 0);
}

// ---- random sequences ----------------------------------------------------------------------

/// Random calls on a handful of names in three directories; refusals are part of it.
fn churn(disk: &SimDisk, seed: u64, calls: usize) {
    let entropy = SeededEntropy::new(seed);
    let draw = |count: u64| entropy.next_u64() % count;
    let root = disk.root().unwrap();
    let mut dirs = vec![disk.root().unwrap()];
    for name in [b"p", b"q"] {
        disk.mkdir(&root, name, 0o700).unwrap();
        dirs.push(disk.open_dir(&root, name).unwrap());
    }
    let name = || vec![b'a' + draw(5) as u8];
    for _ in 0..calls {
        let (dir, other) = (&dirs[draw(3) as usize], &dirs[draw(3) as usize]);
        let _ = match draw(12) {
            0 | 1 => disk.create_temp(dir, &name(), 0o600).and_then(|temp| {
                temp.write_at(draw(9000), &vec![draw(255) as u8; draw(9000) as usize])
            }),
            2 => disk.mkdir(dir, &name(), 0o700),
            3 => disk.rename(dir, &name(), other, &name(), RenameMode::Replace),
            4 => disk.rename(dir, &name(), other, &name(), RenameMode::Exchange),
            5 => disk.link(dir, &name(), other, &name()),
            6 => disk.unlink(dir, &name()),
            7 => disk.rmdir(dir, &name()),
            8 => disk.open_temp(dir, &name()).and_then(|temp| temp.set_len(draw(12_000))),
            9 => disk.open_temp(dir, &name()).and_then(|temp| {
                temp.write_at(draw(9000), &vec![draw(255) as u8; draw(900) as usize])
            }),
            10 => disk.open_temp(dir, &name()).and_then(|temp| temp.sync()),
            _ => disk.sync_dir(dir),
        };
    }
}

// ---- what is told of bytes that could not be written ------------------------------------------

/// As `errseq_t` of Linux: every descriptor is told once, also one that is opened before anybody was.
#[test]
fn each_descriptor_is_told_once_of_bytes_that_were_lost() {
    for by_hint in [false, true] {
        let disk = SimDisk::new();
        let dir = safe_dir(&disk, b"dir");
        let clean = put(&disk, &dir, b"clean", b"synced");
        clean.sync().unwrap();
        let first = put(&disk, &dir, b"file", b"bytes");
        let second = disk.open_temp(&dir, b"file").unwrap();
        disk.fail(1, libc::EIO, |call| {
            matches!(call, CallKind::SyncAll | CallKind::StartWriteback)
        });
        assert!(if by_hint { first.start_writeback() } else { disk.sync_all(&dir) }.is_err());
        let third = disk.open_temp(&dir, b"file").unwrap();
        for temp in [&first, &second, &third] {
            assert_eq!(code(temp.sync()), Some(libc::EIO));
            temp.sync().unwrap();
        }
        clean.sync().unwrap();
        disk.open_temp(&dir, b"file").unwrap().sync().unwrap();
    }
}

#[test]
fn what_was_lost_may_be_forgotten_with_the_last_descriptor() {
    let disk = SimDisk::new();
    let dir = safe_dir(&disk, b"dir");
    let temp = put(&disk, &dir, b"file", b"bytes");
    disk.fail(1, libc::EIO, |call| call == CallKind::StartWriteback);
    assert!(temp.start_writeback().is_err());
    drop(temp);
    disk.open_temp(&dir, b"file").unwrap().sync().unwrap();
    assert_eq!(code(disk.sync_all(&dir)), Some(libc::EIO));
    disk.sync_all(&dir).unwrap();
    for rule in rules(&disk) {
        assert_ne!(disk.crash(&rule).read_path(b"dir/file").as_deref(), Some(&b"bytes"[..]));
    }
}

#[test]
fn a_failed_journal_tells_nobody_who_syncs() {
    let disk = SimDisk::new();
    let dir = safe_dir(&disk, b"dir");
    disk.mkdir(&dir, b"new", 0o700).unwrap();
    disk.abort_journal();
    disk.sync_dir(&dir).unwrap();
    disk.sync_all(&dir).unwrap();
    assert_eq!(code(disk.mkdir(&dir, b"refused", 0o700)), Some(libc::EROFS));
    assert_eq!(outcomes(&disk).len(), 2, "what was not durable may be lost");
}
