//! Rescue copies of directories: when they are written, what they do not disturb, and what a repair makes of them, planted ones
//! as well.

use super::check::{checked, found};
use super::repair::{in_dir, read, remove, repaired, try_repair};
use super::times::Hands;
use super::*;
use crate::backing::{FileKind, RenameMode, TempFile as _};
use crate::format::{RESCUE_LEN, RescueCopy, seal_entry, seal_rescue};
use crate::store::check::read_rescue;
use crate::store::repair::{Deed, DeedKind};

/// Longer than the interval of commits, and than a directory must last.
const A_WHILE: u64 = 6_000_000_000;

/// A vault on a disk with a clock that the test moves.
struct Bench {
    disk: SimDisk,
    clock: Arc<Hands>,
}

impl Bench {
    fn new() -> Bench {
        let clock = Arc::new(Hands(AtomicU64::new(1_700_000_000_000_000_000)));
        let disk = SimDisk::with_clock(clock.clone());
        vault_on(&disk);
        Bench { disk, clock }
    }

    /// The same on a disk that a power cut left.
    fn on(&self, disk: SimDisk) -> Bench {
        Bench { disk, clock: Arc::clone(&self.clock) }
    }

    fn mount(&self, options: StoreOptions) -> Arc<Store<SimDisk>> {
        let open = unlocked(&self.disk);
        let entropy = SeededEntropy::new(MOUNTS.fetch_add(1, Ordering::Relaxed));
        let (disk, clock) = (Arc::new(self.disk.clone()), self.clock.clone());
        Store::open(disk, open, options, Arc::new(entropy), clock).unwrap()
    }

    fn wait(&self, store: &Store<SimDisk>) {
        self.clock.0.fetch_add(A_WHILE, Ordering::Relaxed);
        store.tick();
    }
}

/// The directories of a vault that have a copy, as backing paths.
fn copies(disk: &SimDisk) -> Vec<Vec<u8>> {
    let paths = disk.paths().into_iter().map(|(path, ..)| path);
    let mut found: Vec<_> =
        paths.filter_map(|path| Some(path.strip_suffix(b"/.dir")?.to_vec())).collect();
    found.sort();
    found
}

/// What the copy in a backing directory says.
fn copy_in(disk: &SimDisk, dir: &[u8]) -> Option<RescueCopy> {
    let mut at = disk.root().unwrap();
    for name in dir.split(|byte| *byte == b'/') {
        at = disk.open_dir(&at, name).unwrap();
    }
    read_rescue(disk, &VaultKeys::of(&unlocked(disk)), &at).unwrap()
}

/// `a/b/c` with a file in `c`, and `d` beside `a`, empty; every directory has its copy.
struct Tree {
    bench: Bench,
    /// Backing paths of `a`, `a/b`, `a/b/c` and `d`.
    paths: [Vec<u8>; 4],
}

const DIRS: [&str; 4] = ["a", "a/b", "a/b/c", "d"];

impl Tree {
    fn new() -> Tree {
        let bench = Bench::new();
        let store = bench.mount(StoreOptions::default());
        let root = store.root();
        let mut nodes: Vec<TestNode> = Vec::new();
        for (parent, name) in [(None, b"a"), (Some(0), b"b"), (Some(1), b"c"), (None, b"d")] {
            let parent = parent.map_or(&root, |at: usize| &nodes[at]);
            nodes.push(store.mkdir(parent, name, &NEW).unwrap());
        }
        put(&store, &nodes[2], b"file", b"content");
        assert!(names(&store, &nodes[3]).is_empty());
        bench.wait(&store);
        bench.wait(&store);
        store.close().unwrap();
        let paths = [0, 1, 2, 3].map(|at: usize| backing_path(&bench.disk, DIRS[at]));
        let mut all = paths.to_vec();
        all.sort();
        assert_eq!(copies(&bench.disk), all);
        assert_eq!(found(&bench.disk), []);
        Tree { bench, paths }
    }

    fn disk(&self) -> &SimDisk {
        &self.bench.disk
    }

    fn bytes(&self, dir: usize) -> Vec<u8> {
        self.disk().read_path(&[&self.paths[dir][..], b"/.dir"].concat()).unwrap()
    }

    fn put_copy(&self, dir: usize, bytes: &[u8]) {
        let path = [&self.paths[dir][..], b"/.dir"].concat();
        remove(self.disk(), &path);
        put_file(self.disk(), &path, bytes);
    }

    /// A character of the sealed name of a directory changes.
    fn damage_name(&self, dir: usize) {
        in_dir(self.disk(), &self.paths[dir], |parent, name| {
            let mut other = name.to_vec();
            other[20] = if other[20] == b'x' { b'y' } else { b'x' };
            self.disk().rename(parent, name, parent, &other, RenameMode::NoReplace).unwrap();
        });
    }
}

/// The backing path of a directory of the mount.
fn backing_path(disk: &SimDisk, path: &str) -> Vec<u8> {
    let keys = unlocked(disk).keys;
    let (mut at, mut id, mut found) = (disk.root().unwrap(), EntryId::ROOT, Vec::new());
    for part in path.split('/') {
        let listing = disk.list(&at).unwrap();
        let named = listing.iter().find_map(|raw| {
            let entry = crate::format::open_entry(&keys, id, &raw.name).ok()?;
            (entry.name == part.as_bytes()).then(|| (raw.name.clone(), entry.id))
        });
        let (name, below) = named.unwrap_or_else(|| panic!("{part} of {path}"));
        at = disk.open_dir(&at, &name).unwrap();
        id = below;
        found.push(name);
    }
    found.join(&b'/')
}

fn put_file(disk: &SimDisk, path: &[u8], bytes: &[u8]) {
    in_dir(disk, path, |dir, name| {
        let file = disk.create_temp(dir, name, 0o600).unwrap();
        file.write_at(0, bytes).unwrap();
    });
}

fn kinds(deeds: &[Deed]) -> Vec<&'static str> {
    let mut kinds: Vec<_> = deeds.iter().map(|deed| deed.kind.key()).collect();
    kinds.sort_unstable();
    kinds
}

#[test]
fn a_directory_in_use_has_a_copy_after_a_while_and_shows_nothing_of_it() {
    let bench = Bench::new();
    let store = bench.mount(StoreOptions::default());
    let root = store.root();
    let dir = store.mkdir(&root, b"dir", &NEW).unwrap();
    put(&store, &dir, b"file", b"content");
    store.tick();
    let before = (store.attr(&dir).unwrap(), names(&store, &dir));
    assert!(copies(&bench.disk).is_empty(), "not at once");
    bench.wait(&store);
    let path = backing_path(&bench.disk, "dir");
    assert_eq!(copies(&bench.disk), std::slice::from_ref(&path), "and none in the root");
    let copy = copy_in(&bench.disk, &path).unwrap();
    assert_eq!((copy.id, copy.parent, &copy.name[..]), (dir.id(), EntryId::ROOT, &b"dir"[..]));
    assert!(copy.stamp > 0);
    assert_eq!((store.attr(&dir).unwrap(), names(&store, &dir)), before);
    assert_eq!(found(&bench.disk), []);
    bench.disk.reset_counters();
    bench.wait(&store);
    assert_eq!(bench.disk.counters().of(CallKind::CreateTemp), 0, "written once");
    store.close().unwrap();
    drop((root, dir, store));
    let store = bench.mount(StoreOptions::default());
    let dir = store.lookup(&store.root(), b"dir").unwrap();
    assert_eq!(store.attr(&dir).unwrap().mtime, before.0.mtime);
    assert_eq!(names(&store, &dir), ["file"]);
    bench.disk.reset_counters();
    bench.wait(&store);
    let calls = bench.disk.counters();
    assert_eq!((calls.of(CallKind::Open), calls.of(CallKind::CreateTemp)), (0, 0));
}

#[test]
fn a_directory_of_an_older_vault_gets_its_copy_when_it_is_used_and_not_from_a_reader() {
    let bench = Bench::new();
    let store = bench.mount(StoreOptions::default());
    let long = [b'l'; 250];
    let dir = store.mkdir(&store.root(), &long, &NEW).unwrap();
    store.mkdir(&dir, b"below", &NEW).unwrap();
    store.close().unwrap();
    drop((dir, store));
    for (read_only, count) in [(true, 0), (false, 1)] {
        let store = bench.mount(StoreOptions { read_only, ..StoreOptions::default() });
        let dir = store.lookup(&store.root(), &long).unwrap();
        assert_eq!(names(&store, &dir), ["below"]);
        bench.wait(&store);
        assert_eq!(copies(&bench.disk).len(), count, "what nobody looked into has none");
        store.close().unwrap();
    }
    let of = copies(&bench.disk).remove(0);
    assert_eq!(copy_in(&bench.disk, &of).unwrap().name, long);
}

#[test]
fn a_directory_that_moved_gets_another_copy() {
    let tree = Tree::new();
    let store = tree.bench.mount(StoreOptions::default());
    let (root, before) = (store.root(), tree.bytes(3));
    let a = store.lookup(&root, b"a").unwrap();
    store.rename(&root, b"d", &a, b"moved", RenameFlags::Replace).unwrap();
    assert_eq!(found(tree.disk()), [("outdated", "a/moved".to_owned())]);
    tree.bench.wait(&store);
    assert_eq!(found(tree.disk()), []);
    let b = store.lookup(&a, b"b").unwrap();
    store.rename(&a, b"b", &a, b"moved", RenameFlags::Exchange).unwrap();
    assert_eq!(found(tree.disk()).len(), 2);
    tree.bench.wait(&store);
    assert_eq!(found(tree.disk()), []);
    let path = backing_path(tree.disk(), "a/b");
    assert_ne!(tree.disk().read_path(&[&path[..], b"/.dir"].concat()).unwrap(), before);
    assert_eq!(copy_in(tree.disk(), &path).unwrap().parent, a.id());
    drop(b);
    store.close().unwrap();
}

#[test]
fn a_repair_writes_a_copy_anew_that_a_move_outdated() {
    let tree = Tree::new();
    let store = tree.bench.mount(StoreOptions::default());
    store.rename(&store.root(), b"d", &store.root(), b"e", RenameFlags::Replace).unwrap();
    store.close().unwrap();
    drop(store);
    let deeds = repaired(tree.disk());
    assert_eq!(kinds(&deeds), ["copied"]);
    assert_eq!(deeds[0].path, b"e");
    assert_eq!(found(tree.disk()), []);
}

#[test]
fn a_directory_is_removed_whatever_is_in_the_place_of_its_copy() {
    for planted in 0..5 {
        let tree = Tree::new();
        let copy = [&tree.paths[3][..], b"/.dir"].concat();
        match planted {
            0 => {}
            1 => remove(tree.disk(), &copy),
            2 => tree.put_copy(3, b"not a copy"),
            3 => {
                remove(tree.disk(), &copy);
                assert!(tree.disk().plant(&copy, libc::EIO));
            }
            _ => {
                remove(tree.disk(), &copy);
                in_dir(tree.disk(), &copy, |dir, name| {
                    tree.disk().mkdir(dir, name, 0o700).unwrap();
                });
                put_file(tree.disk(), &[&copy[..], b"/inside"].concat(), b"something");
            }
        }
        let store = tree.bench.mount(StoreOptions::default());
        let root = store.root();
        let b = store.lookup(&store.lookup(&root, b"a").unwrap(), b"b").unwrap();
        let c = store.lookup(&b, b"c").unwrap();
        assert!(matches!(store.rmdir(&b, b"c"), Err(StoreError::NotEmpty)));
        store.rmdir(&root, b"d").unwrap();
        store.unlink(&c, b"file").unwrap();
        store.rmdir(&b, b"c").unwrap();
        // Another way for a directory to go.
        let e = store.mkdir(&root, b"e", &NEW).unwrap();
        store
            .rename(&root, b"e", &store.lookup(&root, b"a").unwrap(), b"b", RenameFlags::Replace)
            .unwrap();
        store.rmdir(&store.lookup(&root, b"a").unwrap(), b"b").unwrap();
        store.rmdir(&root, b"a").unwrap();
        tree.bench.wait(&store);
        store.close().unwrap();
        drop(e);
        let left = tree.disk().paths();
        assert!(left.iter().all(|(path, ..)| path.starts_with(b".akasha")), "{planted}: {left:?}");
    }
}

/// What was noted for a directory that is gone by the time that its turn comes, also between writing and placing.
#[test]
fn a_directory_that_goes_first_leaves_nothing() {
    let bench = Bench::new();
    let store = bench.mount(StoreOptions::default());
    let dir = store.mkdir(&store.root(), b"dir", &NEW).unwrap();
    assert!(names(&store, &dir).is_empty());
    store.rmdir(&store.root(), b"dir").unwrap();
    bench.wait(&store);
    assert!(bench.disk.paths().iter().all(|(path, ..)| path.starts_with(b".akasha")));
    let temps = bench.disk.paths();
    assert!(temps.iter().all(|(path, ..)| !path.starts_with(b".akasha/tmp/t")), "{temps:?}");
}

#[test]
fn what_fails_while_a_copy_is_written_hurts_nobody() {
    let kinds = [CallKind::CreateTemp, CallKind::Write, CallKind::Sync, CallKind::Rename];
    for (kind, code) in kinds.into_iter().flat_map(|k| [(k, libc::EIO), (k, libc::ENOSPC)]) {
        let bench = Bench::new();
        let store = bench.mount(StoreOptions::default());
        let dir = store.mkdir(&store.root(), b"dir", &NEW).unwrap();
        put(&store, &dir, b"file", b"content");
        bench.clock.0.fetch_add(A_WHILE, Ordering::Relaxed);
        bench.disk.fail_from(1, code, move |call| call == kind);
        store.tick();
        bench.disk.heal();
        let about = format!("{kind:?} fails with {code}");
        assert!(copies(&bench.disk).is_empty(), "{about}");
        let temps = bench.disk.paths();
        assert!(temps.iter().all(|(path, ..)| !path.starts_with(b".akasha/tmp/t")), "{about}");
        assert_eq!(get(&store, &dir, b"file").unwrap(), b"content", "{about}");
        bench.wait(&store);
        // On a full disk it is tried again; what else is wrong waits until somebody uses the directory.
        assert_eq!(copies(&bench.disk).len(), usize::from(code == libc::ENOSPC), "{about}");
        put(&store, &dir, b"more", b"more");
        store.close().unwrap();
        assert_eq!(found(&bench.disk), [], "{about}");
    }
}

#[test]
fn the_last_room_on_a_disk_is_not_for_copies() {
    let bench = Bench::new();
    let store = bench.mount(StoreOptions::default());
    let dir = store.mkdir(&store.root(), b"dir", &NEW).unwrap();
    put(&store, &dir, b"file", b"content");
    let space = bench.disk.space(&bench.disk.root().unwrap()).unwrap();
    let used = (space.blocks - space.blocks_free) * space.unit_len;
    // Enough for a copy.
    bench.disk.set_capacity(Some(used + (64 << 10)));
    bench.wait(&store);
    assert!(copies(&bench.disk).is_empty());
    bench.disk.set_capacity(None);
    bench.wait(&store);
    assert_eq!(copies(&bench.disk).len(), 1);
    store.close().unwrap();
}

/// The power goes at each operation of a turn that writes copies, one by one and all together.
#[test]
fn a_cut_while_copies_are_written_leaves_no_damage() {
    for dirs in [2, 9] {
        let bench = Bench::new();
        let store = bench.mount(StoreOptions::default());
        for n in 0..dirs {
            let dir = store.mkdir(&store.root(), format!("dir {n}").as_bytes(), &NEW).unwrap();
            put(&store, &dir, b"file", b"content");
        }
        store.close().unwrap();
        drop(store);
        let (mut cuts, mut whole, mut none) = (0, 0, 0);
        for operations in 0.. {
            let disk = SimDisk::crash(&bench.disk, &CrashRule::Everything);
            let bench = bench.on(disk);
            let store = bench.mount(StoreOptions::default());
            for n in 0..dirs {
                let dir = store.lookup(&store.root(), format!("dir {n}").as_bytes()).unwrap();
                assert_eq!(names(&store, &dir), ["file"]);
            }
            bench.clock.0.fetch_add(A_WHILE, Ordering::Relaxed);
            bench.disk.cut_at(operations);
            store.tick();
            if !bench.disk.is_off() {
                assert_eq!(copies(&bench.disk).len(), dirs);
                break;
            }
            cuts += 1;
            for (rule, after) in crashes(&bench.disk) {
                let about = format!("{dirs} directories, operation {operations}, {rule:?}");
                let (summary, found) = checked(&after);
                assert_eq!(summary.damaged, 0, "{about}: {found:?}");
                whole += copies(&after).len();
                none += dirs - copies(&after).len();
                let store = mount(&after);
                for n in 0..dirs {
                    let dir = store.lookup(&store.root(), format!("dir {n}").as_bytes()).unwrap();
                    assert_eq!(get(&store, &dir, b"file").unwrap(), b"content", "{about}");
                }
                store.close().unwrap();
                assert!(after.paths().iter().all(|(path, ..)| !path.starts_with(b".akasha/tmp/t")));
            }
        }
        println!("{dirs} directories: {cuts} cuts, {whole} copies there, {none} not");
        assert!(cuts > 5 && whole > 0 && none > 0);
    }
}

#[test]
fn a_directory_whose_name_is_damaged_is_given_it_back_with_everything_below() {
    for (dir, path) in DIRS.iter().enumerate() {
        let tree = Tree::new();
        tree.damage_name(dir);
        assert!(read(tree.disk(), "a/b/c/file").is_err() || dir == 3);
        let deeds = repaired(tree.disk());
        assert_eq!(kinds(&deeds), ["named"], "{dir}");
        assert_eq!(deeds[0].to, path.as_bytes());
        assert_eq!(read(tree.disk(), "a/b/c/file").unwrap(), b"content");
        assert_eq!(backing_path(tree.disk(), path), tree.paths[dir], "as it was");
        assert_eq!(found(tree.disk()), []);
    }
}

#[test]
fn directories_below_each_other_are_all_given_their_names_back() {
    let tree = Tree::new();
    // From below: the paths of those above are those of before.
    for dir in [2, 1, 0] {
        tree.damage_name(dir);
    }
    let deeds = repaired(tree.disk());
    assert_eq!(kinds(&deeds), ["named"; 3]);
    assert_eq!(read(tree.disk(), "a/b/c/file").unwrap(), b"content");
}

#[test]
fn a_long_name_is_given_back_whether_it_lost_itself_or_its_sidecar() {
    for lost in ["name", "sidecar", "content of the sidecar"] {
        let bench = Bench::new();
        let store = bench.mount(StoreOptions::default());
        let long = [b'l'; 250];
        let dir = store.mkdir(&store.root(), &long, &NEW).unwrap();
        store.mkdir(&dir, b"below", &NEW).unwrap();
        bench.wait(&store);
        store.close().unwrap();
        drop((dir, store));
        let path = copies(&bench.disk).remove(0);
        let sidecar = [&path[..], b".name"].concat();
        match lost {
            "name" => in_dir(&bench.disk, &path, |dir, name| {
                let mut other = name.to_vec();
                other[20] ^= 1;
                bench.disk.rename(dir, name, dir, &other, RenameMode::NoReplace).unwrap();
            }),
            "sidecar" => remove(&bench.disk, &sidecar),
            _ => super::check::flip(&bench.disk, &sidecar, 100),
        }
        let deeds = repaired(&bench.disk);
        assert_eq!(kinds(&deeds), ["named"], "{lost}");
        assert_eq!(deeds[0].to, long, "{lost}");
        let store = mount(&bench.disk);
        let dir = store.lookup(&store.root(), &long).unwrap();
        assert_eq!(names(&store, &dir), ["below"], "{lost}");
        store.close().unwrap();
    }
}

#[test]
fn a_name_that_is_taken_or_of_another_place_is_given_in_lost_found() {
    for moved in [false, true] {
        let tree = Tree::new();
        let store = tree.bench.mount(StoreOptions::default());
        let root = store.root();
        if moved {
            // The mount ends before another copy is written.
            let d = store.lookup(&root, b"d").unwrap();
            store.rename(&root, b"a", &d, b"elsewhere", RenameFlags::Replace).unwrap();
        } else {
            store.lookup(&root, b"a").unwrap();
        }
        store.close().unwrap();
        drop((root, store));
        let path = backing_path(tree.disk(), if moved { "d/elsewhere" } else { "a" });
        in_dir(tree.disk(), &path, |dir, name| {
            let other = [name, b"x"].concat();
            tree.disk().rename(dir, name, dir, &other, RenameMode::NoReplace).unwrap();
        });
        let store = tree.bench.mount(StoreOptions::default());
        if !moved {
            put(&store, &store.root(), b"a", b"another");
        }
        store.close().unwrap();
        drop(store);
        let deeds = repaired(tree.disk());
        let named = deeds.iter().find(|deed| deed.kind == DeedKind::Named).unwrap();
        assert_eq!(named.to, b"lost+found/a", "{moved}");
        assert_eq!(read(tree.disk(), "lost+found/a/b/c/file").unwrap(), b"content");
        if !moved {
            assert_eq!(read(tree.disk(), "a").unwrap(), b"another");
        }
    }
}

/// Everything that can stand in the place of a copy and is none of this directory.
#[test]
fn a_wrong_copy_is_told_and_kept_and_written_anew() {
    type Wrong = fn(&Tree);
    let wrongs: [(&str, Wrong); 8] = [
        ("flipped", |tree| {
            let mut bytes = tree.bytes(1);
            bytes[200] ^= 4;
            tree.put_copy(1, &bytes);
        }),
        ("cut", |tree| tree.put_copy(1, &tree.bytes(1)[..RESCUE_LEN - 1])),
        ("emptied", |tree| tree.put_copy(1, b"")),
        ("grown", |tree| tree.put_copy(1, &[&tree.bytes(1)[..], &[0]].concat())),
        ("zeroed", |tree| tree.put_copy(1, &[0; RESCUE_LEN])),
        ("another's", |tree| tree.put_copy(1, &tree.bytes(3))),
        ("no file", |tree| {
            let path = [&tree.paths[1][..], b"/.dir"].concat();
            remove(tree.disk(), &path);
            assert!(tree.disk().plant(&path, libc::ELOOP));
        }),
        ("a directory", |tree| {
            let path = [&tree.paths[1][..], b"/.dir"].concat();
            remove(tree.disk(), &path);
            in_dir(tree.disk(), &path, |dir, name| tree.disk().mkdir(dir, name, 0o700).unwrap());
        }),
    ];
    for (what, wrong) in wrongs {
        let tree = Tree::new();
        wrong(&tree);
        assert_eq!(found(tree.disk()), [("rescue", "a/b".to_owned())], "{what}");
        assert_eq!(read(tree.disk(), "a/b/c/file").unwrap(), b"content", "{what}: nobody asks it");
        let deeds = repaired(tree.disk());
        assert_eq!(kinds(&deeds), ["copied", "moved"], "{what}");
        assert_eq!(copy_in(tree.disk(), &tree.paths[1]).unwrap().name, b"b", "{what}");
        let kept: Vec<_> = found(tree.disk()).into_iter().map(|finding| finding.0).collect();
        assert_eq!(kept, ["kept"], "{what}");
        // Twice in one place, and that of `lost+found` itself.
        wrong(&tree);
        put_file(
            tree.disk(),
            &[&backing_path(tree.disk(), "lost+found")[..], b"/.dir"].concat(),
            b"",
        );
        repaired(tree.disk());
        assert_eq!(copies(tree.disk()).len(), 5, "{what}");
    }
    let tree = Tree::new();
    put_file(tree.disk(), b".dir", &tree.bytes(0));
    assert_eq!(found(tree.disk()), [("rescue", String::new())]);
    assert_eq!(kinds(&repaired(tree.disk())), ["moved"], "the root has none");
}

/// The copy of a directory that is elsewhere in the vault under its own name, in one that lost its name.
#[test]
fn the_copy_of_another_directory_gives_no_second_one_of_its_id() {
    for (victim, of) in [(0, 3), (3, 0), (3, 1), (3, 2), (2, 1), (2, 3)] {
        let tree = Tree::new();
        let bytes = tree.bytes(of);
        tree.put_copy(victim, &bytes);
        tree.damage_name(victim);
        let deeds = repaired(tree.disk());
        let named = deeds.iter().filter(|deed| deed.kind == DeedKind::Named).count();
        // `c` has a file that tells where it is.
        assert_eq!(named, usize::from(victim == 2), "{victim} as {of}: {deeds:?}");
        let other = DIRS[of];
        let store = mount(tree.disk());
        let mut dir = store.root();
        if victim != 0 {
            for part in other.split('/') {
                dir = store.lookup(&dir, part.as_bytes()).unwrap();
            }
        }
        store.close().unwrap();
        assert_no_id_twice(tree.disk());
    }
}

/// The real directory is below one that lost its name as well: it is seen there.
#[test]
fn a_directory_below_one_without_a_name_keeps_its_id_from_another() {
    let tree = Tree::new();
    let bytes = tree.bytes(2);
    tree.put_copy(3, &bytes);
    tree.damage_name(3);
    tree.damage_name(1);
    tree.damage_name(0);
    repaired(tree.disk());
    assert_eq!(read(tree.disk(), "a/b/c/file").unwrap(), b"content");
    assert_no_id_twice(tree.disk());
}

/// Of two that claim one id it is the one that holds what the id opens.
#[test]
fn a_copy_beside_an_empty_name_does_not_take_the_id_of_the_real_directory() {
    for order in [b'!', b'~'] {
        let tree = Tree::new();
        let bytes = tree.bytes(0);
        tree.put_copy(3, &bytes);
        // Before or after it in any order of names.
        in_dir(tree.disk(), &tree.paths[3], |dir, name| {
            let other = [&[order][..], b"planted"].concat();
            tree.disk().rename(dir, name, dir, &other, RenameMode::NoReplace).unwrap();
        });
        tree.damage_name(0);
        repaired(tree.disk());
        assert_eq!(read(tree.disk(), "a/b/c/file").unwrap(), b"content", "{order}");
        assert_no_id_twice(tree.disk());
    }
}

/// An authentic copy of a directory that is gone does not take what another one holds.
#[test]
fn a_copy_that_nothing_in_the_directory_bears_out_is_not_believed() {
    let tree = Tree::new();
    let open = unlocked(tree.disk());
    let gone = RescueCopy {
        id: EntryId::from_raw(12345).unwrap(),
        parent: EntryId::ROOT,
        stamp: 1,
        name: b"gone".to_vec(),
    };
    let config = &open.config;
    let entropy = SeededEntropy::new(3);
    let sealed = seal_rescue(&open.keys, config.cipher, config.geometry, &gone, &entropy);
    tree.put_copy(2, &sealed);
    tree.damage_name(2);
    let deeds = repaired(tree.disk());
    let named = deeds.iter().find(|deed| deed.kind == DeedKind::Named).unwrap();
    assert!(named.to.starts_with(b"lost+found/directory-"), "{deeds:?}");
    let store = mount(tree.disk());
    assert!(matches!(store.lookup(&store.root(), b"gone"), Err(StoreError::NotFound)));
    let path = String::from_utf8(named.to.clone()).unwrap();
    store.close().unwrap();
    drop(store);
    assert_eq!(read(tree.disk(), &format!("{path}/file")).unwrap(), b"content");
    // In one that is empty there is nothing to contradict it, and nothing to lose.
    let tree = Tree::new();
    tree.put_copy(3, &sealed);
    tree.damage_name(3);
    let deeds = repaired(tree.disk());
    assert_eq!((kinds(&deeds), &deeds[0].to[..]), (vec!["named"], &b"gone"[..]));
}

/// No entry id is in two places of the tree.
fn assert_no_id_twice(disk: &SimDisk) {
    let keys = unlocked(disk).keys;
    let mut seen = HashSet::new();
    let mut ahead = vec![(disk.root().unwrap(), EntryId::ROOT)];
    while let Some((dir, id)) = ahead.pop() {
        for raw in disk.list(&dir).unwrap() {
            let Ok(entry) = crate::format::open_entry(&keys, id, &raw.name) else { continue };
            assert!(seen.insert(entry.id), "{:?} is there twice", entry.name);
            assert_eq!(seal_entry(&keys, id, &entry).name, raw.name);
            if raw.kind == FileKind::Dir {
                ahead.push((disk.open_dir(&dir, &raw.name).unwrap(), entry.id));
            }
        }
    }
}

#[test]
fn a_repair_of_names_that_is_cut_short_can_be_repeated() {
    let start = Tree::new();
    start.damage_name(2);
    start.damage_name(0);
    let wrong = [&start.paths[3][..], b"/.dir"].concat();
    super::check::flip(start.disk(), &wrong, 100);
    let mut cuts = 0;
    for operations in 0.. {
        let disk = SimDisk::crash(start.disk(), &CrashRule::Everything);
        disk.cut_at(operations);
        let ended = try_repair(&disk);
        if !disk.is_off() {
            ended.unwrap();
            break;
        }
        cuts += 1;
        let rules = each_rule(operations);
        let rule = &rules[usize::try_from(operations % 5).unwrap()];
        let after = disk.crash(rule);
        try_repair(&after).unwrap_or_else(|error| panic!("{operations} {rule:?}: {error}"));
        let about = format!("{operations} {rule:?}");
        assert_eq!(read(&after, "a/b/c/file").unwrap(), b"content", "{about}");
        assert_eq!(checked(&after).0.damaged, 0, "{about}");
        assert_eq!(try_repair(&after).unwrap(), [], "{about}");
    }
    println!("{cuts} cuts");
    assert!(cuts > 10);
}
