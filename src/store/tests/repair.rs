//! Repairs of each kind of damage, whole and cut short.

use super::check::{checked, files, flip, found, gallery, long_name};
use super::*;
use crate::backing::{At, FileKind, RawEntry, RenameMode, TempFile as _};
use crate::store::check::{Effort, Kind};
use crate::store::repair::{Deed, DeedKind, Means, Told, repair};

pub(super) fn try_repair(disk: &SimDisk) -> Result<Vec<Deed>> {
    let open = unlocked(disk);
    let read_bytes = AtomicU64::new(0);
    let seed = MOUNTS.fetch_add(1, Ordering::Relaxed);
    let means = Means {
        effort: Effort { threads: 1, read_bytes: &read_bytes },
        options: StoreOptions::default(),
        entropy: Arc::new(SeededEntropy::new(seed)),
        clock: Arc::new(SystemClock::new()),
    };
    let mut deeds = Vec::new();
    repair(&Arc::new(disk.clone()), &open, &means, &mut |told| {
        if let Told::Deed(deed) = told {
            deeds.push(deed.clone());
        }
    })?;
    Ok(deeds)
}

/// Kinds and paths before and after, in order.
fn short(deeds: &[Deed]) -> Vec<(&'static str, String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut short: Vec<_> =
        deeds.iter().map(|d| (d.kind.key(), text(&d.path), text(&d.to))).collect();
    short.sort();
    short
}

/// The bytes of all objects that can hold something of the user's: layers, attributes, what is not akasha's.
fn contents(disk: &SimDisk) -> Vec<Vec<u8>> {
    let is_content = |path: &[u8], len: u64| {
        let is_sidecar = path.ends_with(b".name") || path.ends_with(b".name~");
        let is_stub = len == crate::format::STUB_LEN as u64;
        let is_copy = path.ends_with(b"/.dir");
        !is_sidecar && !is_stub && !is_copy && !path.starts_with(b".akasha/tmp/t")
    };
    let all = files(disk).into_iter().filter(|(path, len)| is_content(path, *len));
    all.map(|(path, _)| disk.read_path(&path).unwrap()).collect()
}

fn nothing_is_deleted(before: &[Vec<u8>], after: &SimDisk) {
    let now = contents(after);
    for bytes in before {
        assert!(now.contains(bytes), "an object of {} bytes is gone", bytes.len());
    }
}

/// Repairs, and holds what every repair promises.
pub(super) fn repaired(disk: &SimDisk) -> Vec<Deed> {
    let before = contents(disk);
    let deeds = try_repair(disk).unwrap();
    nothing_is_deleted(&before, disk);
    let (summary, found) = checked(disk);
    assert_eq!(summary.damaged, 0, "{found:?}");
    assert_eq!(try_repair(disk).unwrap(), [], "a second repair finds nothing to do");
    nothing_is_deleted(&before, disk);
    deeds
}

fn listing(disk: &SimDisk) -> Vec<RawEntry> {
    let root = disk.root().unwrap();
    let mut listing = disk.list(&root).unwrap();
    listing.retain(|raw| raw.name != b".akasha");
    listing.sort_by(|a, b| a.name.cmp(&b.name));
    listing
}

/// The backing path of the directory `dir`.
fn dir_path(disk: &SimDisk) -> Vec<u8> {
    listing(disk).into_iter().find(|raw| raw.kind == FileKind::Dir).unwrap().name
}

/// The one file below `start` whose length is in `len`.
fn file_of(disk: &SimDisk, start: &[u8], len: std::ops::Range<u64>) -> Vec<u8> {
    let mut found = files(disk);
    found.retain(|(path, l)| path.starts_with(start) && len.contains(l));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0).0
}

/// `dir/small`, of 9000 bytes.
fn small(disk: &SimDisk) -> Vec<u8> {
    file_of(disk, &dir_path(disk), 9000..9999)
}

pub(super) fn in_dir(
    disk: &SimDisk,
    path: &[u8],
    what: impl FnOnce(&<SimDisk as Backing>::Dir, &[u8]),
) {
    let (mut dir, mut rest) = (disk.root().unwrap(), path);
    while let Some(at) = rest.iter().position(|byte| *byte == b'/') {
        dir = disk.open_dir(&dir, &rest[..at]).unwrap();
        rest = &rest[at + 1..];
    }
    what(&dir, rest);
}

pub(super) fn remove(disk: &SimDisk, path: &[u8]) {
    in_dir(disk, path, |dir, name| disk.unlink(dir, name).unwrap());
}

fn rename(disk: &SimDisk, path: &[u8], to: &[u8]) {
    in_dir(disk, path, |dir, name| {
        disk.rename(dir, name, dir, to, RenameMode::NoReplace).unwrap();
    });
}

fn cut(disk: &SimDisk, path: &[u8], len: usize) {
    let mut bytes = disk.read_path(path).unwrap();
    bytes.resize(len, 0xee);
    assert!(disk.replace_path(path, &bytes));
}

/// Reads a file through a mount, by its path.
pub(super) fn read(disk: &SimDisk, path: &str) -> Result<Vec<u8>> {
    let store = mount(disk);
    let mut dir = store.root();
    let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
    for part in parents.split('/').filter(|part| !part.is_empty()) {
        dir = store.lookup(&dir, part.as_bytes())?;
    }
    let read = get(&store, &dir, name.as_bytes());
    store.close().unwrap();
    read
}

fn with_zeros(mut bytes: Vec<u8>, hole: std::ops::Range<usize>) -> Vec<u8> {
    bytes[hole].fill(0);
    bytes
}

#[test]
fn a_vault_without_damage_is_left_as_it_is() {
    let disk = gallery();
    let before = disk.paths();
    assert_eq!(try_repair(&disk).unwrap(), []);
    assert_eq!(disk.paths(), before);
}

#[test]
fn a_file_with_a_bad_block_is_salvaged_beside_and_kept_in_lost_found() {
    let disk = gallery();
    flip(&disk, &small(&disk), 64 + 4112 + 7);
    let deeds = repaired(&disk);
    let salvaged = deeds.iter().find(|deed| deed.kind == DeedKind::Salvaged).unwrap();
    assert_eq!(salvaged.holes, vec![4096..8192; 1]);
    let kept = |name: &str| ("moved", "dir/small".to_owned(), format!("lost+found/{name}"));
    let beside = "dir/small (salvaged)".to_owned();
    assert_eq!(short(&deeds), [kept("small"), ("salvaged", beside.clone(), beside)]);
    let content = with_zeros(noise(9000, 1), 4096..8192);
    assert!(read(&disk, "dir/small (salvaged)").unwrap() == content);
    assert!(matches!(read(&disk, "dir/small"), Err(StoreError::NotFound)));
    let report = read(&disk, "dir/small (salvaged) report.txt").unwrap();
    let report = String::from_utf8(report).unwrap();
    assert!(report.contains("what: dir/small\n"), "{report}");
    assert!(report.contains("\n  4096-8191\n"), "{report}");
    assert!(report.contains(": lost+found/small\n"), "{report}");
    let store = mount(&disk);
    let lost = store.lookup(&store.root(), b"lost+found").unwrap();
    let kept = store.lookup(&lost, b"small").unwrap();
    let mut out = [0; 8192];
    assert_eq!(store.read(&kept, 0, &mut out[..4096]).unwrap(), 4096);
    assert!(store.read(&kept, 4096, &mut out[..4096]).is_err(), "the kept one is as it was");
    let dir = store.lookup(&store.root(), b"dir").unwrap();
    let node = store.lookup(&dir, b"small (salvaged)").unwrap();
    assert_eq!(store.get_xattr(&node, b"user.key").unwrap(), b"value");
    assert_eq!(found(&disk).into_iter().map(|f| f.0).collect::<Vec<_>>(), ["kept"]);
}

#[test]
fn what_is_left_of_a_file_without_its_end_is_salvaged() {
    let plain = noise(9000, 1);
    let salvaged = |damage: &dyn Fn(&SimDisk, &[u8])| {
        let disk = gallery();
        let small = small(&disk);
        damage(&disk, &small);
        repaired(&disk);
        read(&disk, "dir/small (salvaged)").unwrap()
    };
    assert!(salvaged(&|disk, path| flip(disk, path, 9000 + 64 + 48 + 100)) == plain, "tail");
    assert!(salvaged(&|disk, path| cut(disk, path, 9000 + 64 + 48 + 256 + 4111)) == plain, "grown");
    // Cut to a length that a file of 5648 bytes has, and to one that no file has.
    let of_cut = salvaged(&|disk, path| cut(disk, path, 6000));
    assert!(of_cut.len() == 5648 && of_cut[..4096] == plain[..4096], "cut");
    assert!(salvaged(&|disk, path| cut(disk, path, 64 + 4112 + 261)) == plain[..4096], "cut");
    let disk = gallery();
    flip(&disk, &small(&disk), 30);
    let kinds: Vec<_> = repaired(&disk).iter().map(|deed| deed.kind).collect();
    assert_eq!(kinds, [DeedKind::Moved], "nothing can be read without the header");
    let report = read(&disk, "lost+found/small report.txt").unwrap();
    assert!(String::from_utf8(report).unwrap().contains("salvaged: nothing"));
}

#[test]
fn of_a_file_with_a_lost_layer_only_the_newer_blocks_are_given() {
    let disk = gallery();
    let older = file_of(&disk, b".akasha/layers/", 0..u64::MAX);
    remove(&disk, &older);
    repaired(&disk);
    let mut want = vec![0; 600 << 10];
    want[8192..12288].fill(7);
    assert!(read(&disk, "mapped (salvaged)").unwrap() == want);
    // With a layer whose end is damaged, all of it.
    let disk = gallery();
    let older = file_of(&disk, b".akasha/layers/", 0..u64::MAX);
    let len = disk.read_path(&older).unwrap().len();
    flip(&disk, &older, len - 20);
    repaired(&disk);
    let mut want = noise(600 << 10, 2);
    want[8192..12288].fill(7);
    assert!(read(&disk, "mapped (salvaged)").unwrap() == want);
}

#[test]
fn of_a_file_without_its_newest_layer_the_version_before_is_given() {
    let disk = gallery();
    let top = file_of(&disk, b"A", 8000..9000);
    let len = disk.read_path(&top).unwrap().len();
    flip(&disk, &top, len - 1);
    repaired(&disk);
    assert!(read(&disk, "mapped (salvaged)").unwrap() == noise(600 << 10, 2));
    let report = read(&disk, "mapped (salvaged) report.txt").unwrap();
    assert!(String::from_utf8(report).unwrap().contains("beware: this is an older version"));
}

#[test]
fn a_directory_without_its_name_comes_back_with_all_that_is_in_it() {
    let disk = gallery();
    rename(&disk, &dir_path(&disk), b"ANotTheNameOfIt");
    let deeds = repaired(&disk);
    assert_eq!((deeds.len(), deeds[0].kind), (1, DeedKind::Named));
    let dir = String::from_utf8(deeds[0].to.clone()).unwrap();
    assert!(dir.starts_with("lost+found/directory-"), "{dir}");
    assert!(read(&disk, &format!("{dir}/small")).unwrap() == noise(9000, 1));
    let long = String::from_utf8(long_name()).unwrap();
    assert!(read(&disk, &format!("{dir}/{long}")).unwrap() == b"long");
    assert!(read(&disk, &format!("{dir}/other")).unwrap() == noise(5000, 3));
}

#[test]
fn files_without_their_names_get_others() {
    let disk = gallery();
    rename(&disk, &small(&disk), b"small (conflicted copy)");
    let sidecar = files(&disk).into_iter().find(|(path, _)| path.ends_with(b".name")).unwrap();
    remove(&disk, &sidecar.0);
    let stub = file_of(&disk, &dir_path(&disk), 336..337);
    rename(&disk, &stub, b"AAAA");
    let deeds = repaired(&disk);
    assert!(deeds.iter().all(|deed| deed.kind == DeedKind::Named), "{deeds:?}");
    let mut got: Vec<_> = deeds
        .iter()
        .map(|deed| read(&disk, std::str::from_utf8(&deed.to).unwrap()).unwrap().len())
        .collect();
    got.sort_unstable();
    assert_eq!(got, [4, 5000, 9000]);
    assert!(read(&disk, "linked").unwrap() == noise(5000, 3));
    assert_eq!(found(&disk), []);
}

#[test]
fn a_copy_that_a_sync_tool_made_is_read_out() {
    let disk = gallery();
    let small = small(&disk);
    in_dir(&disk, &small, |dir, name| {
        let bytes = disk.read_path(&small).unwrap();
        let copy = disk.create_temp(dir, b"copy", 0o600).unwrap();
        copy.write_at(0, &bytes).unwrap();
        assert_ne!(name, b"copy");
    });
    let deeds = repaired(&disk);
    let copied = deeds.iter().find(|deed| deed.kind == DeedKind::Salvaged).unwrap();
    assert!(read(&disk, std::str::from_utf8(&copied.to).unwrap()).unwrap() == noise(9000, 1));
    assert!(read(&disk, "dir/small").unwrap() == noise(9000, 1));
}

#[test]
fn what_is_not_akashas_is_moved_as_it_is() {
    let disk = gallery();
    assert!(disk.plant(b"readme.txt", libc::EIO));
    assert!(disk.plant(b".akasha/layers/x", libc::EIO));
    let root = disk.root().unwrap();
    disk.mkdir(&root, b"strange", 0o700).unwrap();
    let strange = disk.open_dir(&root, b"strange").unwrap();
    disk.create_temp(&strange, b"note", 0o600).unwrap().write_at(0, b"note").unwrap();
    let deeds = repaired(&disk);
    assert_eq!(deeds.iter().filter(|deed| deed.kind == DeedKind::Moved).count(), 3);
    let kept = disk.paths().into_iter().filter(|(path, ..)| path.starts_with(b"A"));
    let kept: Vec<_> = kept.map(|(path, ..)| path).collect();
    for name in [&b"/readme.txt"[..], b"/x", b"/strange/note"] {
        assert!(kept.iter().any(|path| path.ends_with(name)), "{kept:?}");
    }
    // What is kept can be deleted through the mount, and nothing stays.
    let store = mount(&disk);
    let lost = store.lookup(&store.root(), b"lost+found").unwrap();
    for name in names(&store, &lost) {
        store.unlink(&lost, name.as_bytes()).unwrap();
    }
    store.rmdir(&store.root(), b"lost+found").unwrap();
    store.close().unwrap();
    assert_eq!(checked(&disk).1, []);
}

#[test]
fn names_of_a_missing_file_are_kept() {
    let disk = gallery();
    let inode = file_of(&disk, b".akasha/inodes/", 5000..6000);
    remove(&disk, &inode);
    let moved = |from: &str, to: &str| ("moved", from.to_owned(), format!("lost+found/{to}"));
    assert_eq!(short(&repaired(&disk)), [moved("dir/other", "other"), moved("linked", "linked")]);
}

#[test]
fn the_stub_of_a_file_with_several_names_is_made_anew() {
    for missing in [true, false] {
        let disk = gallery();
        let is_stub = |(path, _): &(Vec<u8>, u64)| path.ends_with(b".stub");
        let stub = files(&disk).into_iter().find(is_stub).unwrap().0;
        if missing {
            remove(&disk, &stub);
        } else {
            flip(&disk, &stub, 300);
        }
        let deeds = repaired(&disk);
        assert_eq!(deeds.iter().map(|deed| deed.kind).collect::<Vec<_>>(), [DeedKind::Rebuilt]);
        assert_eq!(found(&disk), []);
        let store = mount(&disk);
        let linked = store.lookup(&store.root(), b"linked").unwrap();
        assert_eq!(store.attr(&linked).unwrap().nlink, 2);
        assert_eq!(get(&store, &store.root(), b"linked").unwrap(), noise(5000, 3));
    }
}

#[test]
fn all_names_of_a_damaged_file_are_dealt_with() {
    let disk = gallery();
    flip(&disk, &file_of(&disk, b".akasha/inodes/", 5000..6000), 70);
    repaired(&disk);
    let want = with_zeros(noise(5000, 3), 0..4096);
    for name in ["linked (salvaged)", "dir/other (salvaged)"] {
        assert!(read(&disk, name).unwrap() == want, "{name}");
    }
    for name in ["linked", "dir/other"] {
        assert!(matches!(read(&disk, name), Err(StoreError::NotFound)), "{name}");
    }
}

#[test]
fn a_damaged_attribute_is_written_down_and_taken_off() {
    let disk = gallery();
    let small = small(&disk);
    let mut was = Vec::new();
    in_dir(&disk, &small, |dir, name| {
        let key = disk.list_xattrs(dir, At::Name(name)).unwrap().remove(0);
        was = disk.get_xattr(dir, At::Name(name), &key).unwrap().unwrap();
        was[26] ^= 1;
        disk.set_xattr(dir, At::Name(name), &key, Some(&was)).unwrap();
    });
    let deeds = repaired(&disk);
    let to = "lost+found/small attributes.txt".to_owned();
    assert_eq!(short(&deeds), [("detached", "dir/small".to_owned(), to.clone())]);
    let record = String::from_utf8(read(&disk, &to).unwrap()).unwrap();
    assert!(record.contains(&data_encoding::HEXLOWER.encode(&was)), "{record}");
    assert!(read(&disk, "dir/small").unwrap() == noise(9000, 1));
    // Of a side object, too: it is kept as it is.
    let disk = gallery();
    let side = file_of(&disk, b".akasha/xattrs/", 0..u64::MAX);
    flip(&disk, &side, 1000);
    let deeds = repaired(&disk);
    assert_eq!(deeds.iter().map(|deed| deed.kind).collect::<Vec<_>>(), [DeedKind::Detached]);
}

#[test]
fn a_file_without_names_comes_back_if_its_name_may_be_unreadable() {
    let disk = gallery();
    // Both names are lost, one of them inside a directory of which nothing is left to know it by.
    let linked = listing(&disk).into_iter().find(|raw| {
        let root = disk.root().unwrap();
        raw.kind == FileKind::File && disk.stat(&root, At::Name(&raw.name)).unwrap().len == 336
    });
    remove(&disk, &linked.unwrap().name);
    remove(&disk, &file_of(&disk, &dir_path(&disk), 336..337));
    assert!(disk.plant(b"readme.txt", libc::EIO));
    remove(&disk, b".akasha/clean");
    let deeds = repaired(&disk);
    let named = deeds.iter().find(|deed| deed.kind == DeedKind::Named).unwrap();
    assert!(read(&disk, std::str::from_utf8(&named.to).unwrap()).unwrap() == noise(5000, 3));
}

#[test]
fn a_mounted_vault_is_not_repaired() {
    let disk = gallery();
    let store = mount(&disk);
    assert!(matches!(try_repair(&disk), Err(StoreError::InUse(_))));
    drop(store);
    let store = mount(&disk);
    put(&store, &store.root(), b"lost+found", b"mine");
    store.close().unwrap();
    drop(store);
    flip(&disk, &small(&disk), 64);
    assert!(matches!(try_repair(&disk), Err(StoreError::AlreadyExists)));
    assert_eq!(checked(&disk).1.iter().map(|f| f.kind).collect::<Vec<_>>(), [Kind::Content]);
}

/// `AKASHA_REPAIR_CUTS=all` cuts at every operation and under each rule; else at every third one, under one of them.
#[test]
fn a_repair_that_is_cut_short_can_be_repeated() {
    type Damage = fn(&SimDisk);
    let all = std::env::var_os("AKASHA_REPAIR_CUTS").is_some_and(|value| value == "all");
    let damages: [(&str, Damage); 4] = [
        ("block", |disk| flip(disk, &small(disk), 64 + 4112)),
        ("directory", |disk| rename(disk, &dir_path(disk), b"ANotTheNameOfIt")),
        ("stub and layer", |disk| {
            let is_stub = |(path, _): &(Vec<u8>, u64)| path.ends_with(b".stub");
            flip(disk, &files(disk).into_iter().find(is_stub).unwrap().0, 300);
            remove(disk, &file_of(disk, b".akasha/layers/", 0..u64::MAX));
        }),
        ("foreign and attribute", |disk| {
            assert!(disk.plant(b"readme.txt", libc::EIO));
            flip(disk, &file_of(disk, b".akasha/xattrs/", 0..u64::MAX), 1000);
        }),
    ];
    let gallery = gallery();
    for (what, damage) in damages {
        let start = gallery.crash(&CrashRule::Everything);
        damage(&start);
        let start = start.crash(&CrashRule::Everything);
        let before = contents(&start);
        let mut cuts = 0;
        for operations in (0..).step_by(if all { 1 } else { 3 }) {
            let disk = start.crash(&CrashRule::Everything);
            disk.cut_at(operations);
            let ended = try_repair(&disk);
            if !disk.is_off() {
                assert!(ended.is_ok(), "{what}: {ended:?}");
                break;
            }
            cuts += 1;
            let rules = each_rule(operations);
            let one = usize::try_from(operations / 3 % 5).unwrap();
            for rule in if all { &rules[..] } else { &rules[one..=one] } {
                let after = disk.crash(rule);
                let store = mount(&after);
                names(&store, &store.root());
                store.close().unwrap();
                drop(store);
                nothing_is_deleted(&before, &after);
                try_repair(&after).unwrap_or_else(|e| panic!("{what} {operations} {rule:?}: {e}"));
                nothing_is_deleted(&before, &after);
                let (summary, found) = checked(&after);
                assert_eq!(summary.damaged, 0, "{what} {operations} {rule:?}: {found:?}");
                assert_eq!(try_repair(&after).unwrap(), [], "{what} {operations} {rule:?}");
            }
        }
        println!("{what}: {cuts} cuts");
        assert!(cuts > 3, "{what}: {cuts}");
    }
}

#[test]
fn what_lies_below_a_lost_layer_is_not_given_for_what_was_there() {
    let disk = vault();
    let store = mount(&disk);
    let node = put(&store, &store.root(), b"f", &noise(800 << 10, 1));
    store.open_file(&node, true).unwrap();
    for (at, bytes) in [(0, noise(200 << 10, 2)), (8192, vec![7; 4096])] {
        store.write(&node, at, &bytes).unwrap();
        store.fsync(&node).unwrap();
    }
    store.close_file(&node, true);
    store.close().unwrap();
    drop((node, store));
    let between = file_of(&disk, b".akasha/layers/", 200 << 10..300 << 10);
    remove(&disk, &between);
    repaired(&disk);
    let mut want = vec![0; 800 << 10];
    want[8192..12288].fill(7);
    assert!(read(&disk, "f (salvaged)").unwrap() == want);
}
