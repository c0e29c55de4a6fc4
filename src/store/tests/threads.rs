//! Threads that change the same few names at once. What each is told is what somebody could be told who comes before or after the
//! others; at the end, when all is quiet, the names, their files and the numbers of names fit, and the next mount shows the same.
//!
//! The order in which threads run is not the seed's: a failure prints what each did, and may take many runs to come again.
//! `AKASHA_RUNS`, `AKASHA_FIRST` and `AKASHA_OPS` say how many seeds, from which on, and how many operations for each thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use super::*;
use crate::entropy::Entropy;

const THREADS: u64 = 4;
/// How long a run may take before it is said to hang.
const PATIENCE: Duration = Duration::from_mins(2);
/// Directories as one finds them from the root: `s` is made, moved and removed.
const DIRS: [&[&[u8]]; 4] = [&[], &[b"d"], &[b"s"], &[b"d", b"s"]];
const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"s"];
/// Of every version.
const LEN: usize = 40;

type Place = (usize, &'static [u8]);

#[derive(Clone, Copy, Debug)]
enum Op {
    Create(Place),
    Write(Place),
    Link(Place, Place),
    Unlink(Place),
    Rename(Place, Place),
    /// Opened, written, renamed, and closed then.
    RenameDirty(Place, Place),
    Exchange(Place, Place),
    Fsync(Place),
    FsyncDir(usize),
    /// Unlinked while it is open, and written.
    UnlinkOpen(Place),
    List(usize),
    Mkdir(Place),
    Rmdir(Place),
    Tick,
}

/// What the threads of a run share.
struct Shared {
    store: Arc<Store<SimDisk>>,
    /// The kernel's s_vfs_rename_mutex: a move between directories, or of a directory, is alone, and a directory is never moved
    /// into itself or below.
    moves: Mutex<()>,
    /// The kernel's i_rwsem: who changes names in a directory is alone there, and with the file that he gives a name, takes one
    /// from, or renames. Commits, syncs and writes are not held back.
    inodes: Mutex<BTreeMap<u64, Arc<Mutex<()>>>>,
    /// Whether the threads heed all that but the first.
    is_locked: bool,
    /// What each thread did, when it began and ended among all, and what it was told.
    done: Vec<Mutex<Vec<String>>>,
    steps: AtomicU64,
    /// Somebody was told what nobody may be: the others leave all as it is.
    has_failed: AtomicBool,
}

/// An operation. It is drawn so that it can mostly be done, if nobody comes before.
fn draw(dice: &SeededEntropy, shared: &Shared) -> Op {
    let below = |n: usize| (dice.next_u64() >> 16) as usize % n;
    let place = || ([0, 0, 1, 1, 2, 3][below(6)], NAMES[below(3)]);
    let dir_place = || (below(2), NAMES[3]);
    // A directory among them, now and then.
    let any = || if below(8) == 0 { dir_place() } else { place() };
    let some = |draw: &dyn Fn() -> Place, is_there: bool| {
        let mut drawn = (0..4).map(|_| draw());
        let fits = drawn.find(|(dir, name)| {
            let dir = shared.dir(*dir);
            dir.is_ok_and(|dir| shared.store.lookup(&dir, name).is_ok() == is_there)
        });
        fits.unwrap_or_else(draw)
    };
    let there = |draw| some(draw, true);
    let free = |draw| some(draw, false);
    match below(100) {
        0..=13 => Op::Create(free(&place)),
        14..=20 => Op::Write(there(&place)),
        21..=41 => Op::Link(there(&place), free(&place)),
        42..=53 => Op::Unlink(there(&any)),
        54..=65 => Op::Rename(there(&any), any()),
        66..=72 => Op::RenameDirty(there(&place), any()),
        73..=76 => Op::Exchange(there(&any), there(&any)),
        77..=81 => Op::Fsync(there(&place)),
        82..=84 => Op::FsyncDir(below(DIRS.len())),
        85 | 86 => Op::UnlinkOpen(there(&place)),
        87 => Op::List(below(DIRS.len())),
        88..=94 => Op::Mkdir(free(&dir_place)),
        95 | 96 => Op::Rmdir(there(&dir_place)),
        _ => Op::Tick,
    }
}

impl Shared {
    fn dir(&self, dir: usize) -> Result<TestNode> {
        DIRS[dir].iter().try_fold(self.store.root(), |at, name| self.store.lookup(&at, name))
    }

    fn file(&self, place: Place) -> Result<TestNode> {
        let node = self.store.lookup(&self.dir(place.0)?, place.1)?;
        if node.kind() == EntryKind::Dir { Err(StoreError::IsADirectory) } else { Ok(node) }
    }

    /// A version of its own, whole.
    fn write(&self, node: &TestNode, byte: u8) -> Result<()> {
        self.store.write(node, 0, &[byte; LEN])?;
        self.store.flush(node)
    }

    /// Runs `change` while nobody else changes names in these directories, or those of the files that these names show, or of
    /// `linked`.
    fn alone<T>(
        &self,
        dirs: &[&TestNode],
        shown: &[(&TestNode, &[u8])],
        linked: Option<&TestNode>,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if !self.is_locked {
            return change();
        }
        let locks_of = |ids: &BTreeSet<u64>| -> Vec<Arc<Mutex<()>>> {
            let mut inodes = self.inodes.lock();
            ids.iter().map(|id| Arc::clone(inodes.entry(*id).or_default())).collect()
        };
        let outer: BTreeSet<u64> = dirs.iter().map(|dir| dir.id().get()).collect();
        let locks = locks_of(&outer);
        loop {
            // All or none: directories that move have no order of their own.
            let held: Option<Vec<_>> = locks.iter().map(|lock| lock.try_lock()).collect();
            if held.is_some() {
                let found =
                    shown.iter().filter_map(|(dir, name)| self.store.lookup(dir, name).ok());
                let found = found.chain(linked.cloned()).map(|node| node.id().get());
                let locks = locks_of(&found.filter(|id| !outer.contains(id)).collect());
                let inner: Option<Vec<_>> = locks.iter().map(|lock| lock.try_lock()).collect();
                if inner.is_some() {
                    return change();
                }
            }
            drop(held);
            thread::sleep(Duration::from_micros(5));
        }
    }

    fn unlink(&self, (dir, name): Place) -> Result<()> {
        let dir = self.dir(dir)?;
        self.alone(&[&dir], &[(&dir, name)], None, || self.store.unlink(&dir, name))
    }

    fn rename(&self, from: Place, to: Place, flags: RenameFlags) -> Result<()> {
        let _alone = self.moves.lock();
        let (dir, to_dir) = (self.dir(from.0)?, self.dir(to.0)?);
        let moves_into_itself = |at: Place, into: usize| {
            let moved = [DIRS[at.0], &[at.1]].concat();
            DIRS[into].starts_with(&moved)
        };
        let is_exchange = flags == RenameFlags::Exchange;
        if moves_into_itself(from, to.0) || is_exchange && moves_into_itself(to, from.0) {
            return Err(StoreError::InvalidArgument);
        }
        // rename(2): a directory is not empty if what is to take its place is in it.
        if !is_exchange && moves_into_itself(to, from.0) {
            return Err(StoreError::NotEmpty);
        }
        let rename = || self.store.rename(&dir, from.1, &to_dir, to.1, flags);
        self.alone(&[&dir, &to_dir], &[(&dir, from.1), (&to_dir, to.1)], None, rename)
    }

    fn apply(&self, op: Op, byte: u8) -> Result<()> {
        let store = &self.store;
        match op {
            Op::Create((dir, name)) => {
                let dir = self.dir(dir)?;
                let node = self.alone(&[&dir], &[], None, || store.create(&dir, name, &NEW))?;
                let done = self.write(&node, byte);
                store.close_file(&node, true);
                done
            }
            Op::Write(place) => {
                let node = self.file(place)?;
                store.open_file(&node, true)?;
                let done = self.write(&node, byte);
                store.close_file(&node, true);
                done
            }
            Op::Link(from, (dir, name)) => {
                let (node, dir) = (self.file(from)?, self.dir(dir)?);
                self.alone(&[&dir], &[], Some(&node), || store.link(&node, &dir, name))
            }
            Op::Unlink(place) => self.unlink(place),
            Op::Rename(from, to) => self.rename(from, to, RenameFlags::Replace),
            Op::Exchange(from, to) => self.rename(from, to, RenameFlags::Exchange),
            Op::RenameDirty(from, to) => {
                let node = self.file(from)?;
                store.open_file(&node, true)?;
                let done = self.write(&node, byte);
                let done = done.and_then(|()| self.rename(from, to, RenameFlags::Replace));
                store.close_file(&node, true);
                done
            }
            Op::Fsync(place) => store.fsync(&self.file(place)?),
            Op::FsyncDir(dir) => store.fsync_dir(&self.dir(dir)?),
            Op::UnlinkOpen(place) => {
                let node = self.file(place)?;
                store.open_file(&node, true)?;
                let unlinked = self.unlink(place);
                let done = self.write(&node, byte).and_then(|()| store.fsync(&node));
                store.close_file(&node, true);
                unlinked.and(done)
            }
            Op::List(dir) => store.list(&self.dir(dir)?, 0, &mut |_| true),
            Op::Mkdir((dir, name)) => {
                let dir = self.dir(dir)?;
                self.alone(&[&dir], &[], None, || store.mkdir(&dir, name, &NEW).map(drop))
            }
            Op::Rmdir((dir, name)) => {
                let dir = self.dir(dir)?;
                self.alone(&[&dir], &[(&dir, name)], None, || store.rmdir(&dir, name))
            }
            Op::Tick => {
                store.tick();
                Ok(())
            }
        }
    }

    fn told(&self) -> String {
        let list = |(number, done): (usize, &Mutex<Vec<String>>)| {
            format!("thread {number}:\n  {}", done.lock().join("\n  "))
        };
        self.done.iter().enumerate().map(list).collect::<Vec<_>>().join("\n")
    }
}

/// Whether somebody may be told this who shares names with others.
fn is_expected(error: &StoreError) -> bool {
    // What was looked up may have gone before it is opened.
    error.is_missing()
        || matches!(
            error,
            StoreError::AlreadyExists
                | StoreError::NotEmpty
                | StoreError::IsADirectory
                | StoreError::NotADirectory
                | StoreError::InvalidArgument
        )
}

/// What a mount shows: each path's id, number of names and content; of a directory the number and nothing.
type Tree = BTreeMap<String, (u64, u32, Vec<u8>)>;

fn tree(store: &Store<SimDisk>) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut open = vec![(store.root(), String::new())];
    while let Some((dir, path)) = open.pop() {
        for name in names(store, &dir) {
            let node = store.lookup(&dir, name.as_bytes())?;
            let attr = store.attr(&node)?;
            let path = format!("{path}/{name}");
            let content = if node.kind() == EntryKind::Dir {
                open.push((Arc::clone(&node), path.clone()));
                Vec::new()
            } else {
                get(store, &dir, name.as_bytes())?
            };
            tree.insert(path, (node.id().get(), attr.nlink, content));
        }
    }
    Ok(tree)
}

/// Whether the names of each file are as many as it says, and show the same whole version.
fn judge(tree: &Tree) -> std::result::Result<(), String> {
    let is_file = |seen: &(u64, u32, Vec<u8>)| !seen.2.is_empty();
    for (path, seen) in tree {
        let (id, nlink, content) = seen;
        if is_file(seen) && (content.len() != LEN || content.iter().any(|b| *b != content[0])) {
            return Err(format!("{path} shows what nobody wrote: {content:?}"));
        }
        let same: Vec<&String> =
            tree.iter().filter(|(_, other)| other.0 == *id).map(|(path, _)| path).collect();
        let wanted = if is_file(seen) {
            same.len()
        } else {
            let below = |other: &&String| {
                other.strip_prefix(path.as_str()).is_some_and(|rest| rest.rfind('/') == Some(0))
            };
            2 + tree.iter().filter(|(other, seen)| !is_file(seen) && below(other)).count()
        };
        if *nlink as usize != wanted {
            return Err(format!("{path} says {nlink} names, and there are {same:?}"));
        }
        if tree.values().any(|other| other.0 == *id && other.2 != *content) {
            return Err(format!("{same:?} show different versions"));
        }
    }
    Ok(())
}

fn work(shared: &Shared, seed: u64, number: u64, ops: usize) -> std::result::Result<(), String> {
    let dice = SeededEntropy::new(seed * THREADS + number);
    for at in 0..ops {
        if shared.has_failed.load(Ordering::Relaxed) {
            break;
        }
        let op = draw(&dice, shared);
        let now = || shared.steps.fetch_add(1, Ordering::Relaxed);
        shared.done[number as usize].lock().push(format!("{} {op:?}", now()));
        // Versions differ, as far as bytes go.
        let byte = 1 + ((number as usize * ops + at) % 255) as u8;
        let done = shared.apply(op, byte);
        let (said, is_wrong) = match done {
            Ok(()) => ("ok".to_owned(), false),
            Err(error) if is_expected(&error) => (error.to_string(), false),
            Err(error) => (format!("{error:?}"), true),
        };
        let mut list = shared.done[number as usize].lock();
        let last = list.last_mut().unwrap();
        *last = format!("{last} {} {said}", now());
        if is_wrong {
            shared.has_failed.store(true, Ordering::Relaxed);
            return Err(format!("thread {number} is told {said} by {op:?}"));
        }
    }
    Ok(())
}

/// The end, when all threads are done.
fn finish(disk: &SimDisk, shared: &Shared) -> std::result::Result<(), String> {
    let store = &shared.store;
    let fail = |what: &'static str| move |error: StoreError| format!("{what}: {error:?}");
    let shown = tree(store).map_err(fail("what is shown cannot be read"))?;
    judge(&shown)?;
    store.close().map_err(fail("the end"))?;
    for (disk, when) in [
        (disk.crash(&CrashRule::NothingUnsynced), "after the end and a cut"),
        (disk.clone(), "after the end"),
    ] {
        let store = mount(&disk);
        let found = tree(&store).map_err(|error| format!("{when}: {error:?}"))?;
        if found != shown {
            return Err(format!("{when} {found:?}, before it {shown:?}"));
        }
        store.close().map_err(fail("the end of a mount that only looks"))?;
    }
    Ok(())
}

/// Has threads change places while one of them is at the disk, at calls that the seed says: else most operations would be done
/// before another thread gets its turn.
fn shuffle(disk: &SimDisk, seed: u64) {
    let dice = SeededEntropy::new(seed ^ 0x5eed);
    let often = 2 + seed % 15;
    disk.fail_from(u64::MAX, libc::EIO, move |_| {
        if dice.next_u64().is_multiple_of(often) {
            thread::sleep(Duration::from_micros(20));
        }
        false
    });
}

fn run(seed: u64, ops: usize) -> std::result::Result<(), String> {
    let disk = vault();
    disk.set_name_order(seed.is_multiple_of(2));
    let store = mount_with(
        &disk,
        StoreOptions { commit: CommitPolicy::Interval(Duration::ZERO), ..StoreOptions::default() },
    );
    store.mkdir(&store.root(), b"d", &NEW).map_err(|error| format!("{error:?}"))?;
    shuffle(&disk, seed);
    let done = (0..THREADS).map(|_| Mutex::new(Vec::new())).collect();
    let shared = Arc::new(Shared {
        store,
        moves: Mutex::new(()),
        inodes: Mutex::default(),
        is_locked: std::env::var_os("AKASHA_UNLOCKED").is_none(),
        done,
        steps: AtomicU64::new(0),
        has_failed: AtomicBool::new(false),
    });
    let (tell, hear) = mpsc::channel();
    for number in 0..THREADS {
        let (shared, tell) = (Arc::clone(&shared), tell.clone());
        // Not scoped: one that hangs must not keep the test from saying so.
        thread::spawn(move || {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                work(&shared, seed, number, ops)
            }));
            let done = done.unwrap_or_else(|_| Err(format!("thread {number} panics")));
            // Nobody hears it when another has failed.
            let _ = tell.send(done);
        });
    }
    let told = |what: String| format!("seed {seed}: {what}\n{}", shared.told());
    let mut failed = None;
    for _ in 0..THREADS {
        match hear.recv_timeout(PATIENCE) {
            Ok(Ok(())) => {}
            Ok(Err(what)) => {
                failed.get_or_insert(what);
            }
            Err(RecvTimeoutError::Timeout) => return Err(told("a thread hangs".to_owned())),
            Err(RecvTimeoutError::Disconnected) => unreachable!("this thread holds one end"),
        }
    }
    disk.heal();
    let end = finish(&disk, &shared);
    match failed {
        // Whether it passes when all is quiet tells what to look for.
        Some(what) => Err(told(format!("{what}; at the end: {end:?}"))),
        None => end.map_err(told),
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

#[test]
fn threads_that_change_the_same_names_are_told_what_is_so() {
    let first = number("AKASHA_FIRST").unwrap_or(1);
    let ops = number("AKASHA_OPS").unwrap_or(60) as usize;
    for seed in first..first + number("AKASHA_RUNS").unwrap_or(30) {
        if let Err(what) = run(seed, ops) {
            panic!("{what}");
        }
    }
}

/// Whoever renamed a name between its appearance and the commit's note that it waits no more had it wait for ever: fsync
/// returned, and the name stayed where it was in the vault. Seldom hit where each thread has a processor of its own.
#[test]
fn a_name_that_is_renamed_while_it_appears_waits_again() {
    let disk = vault();
    let store = mount(&disk);
    let root = store.root();
    let file = put(&store, &root, b"other", b"linked");
    store.link(&file, &root, b"0").unwrap();
    store.fsync(&file).unwrap();
    let rename = |from: u32| {
        let (from, to) = (from.to_string(), (from + 1).to_string());
        let (from, to) = (from.as_bytes(), to.as_bytes());
        store.rename(&root, from, &root, to, RenameFlags::Replace).unwrap();
    };
    for turn in 0..400 {
        // Open and changed, it moves in memory alone.
        store.open_file(&file, true).unwrap();
        store.write(&file, 0, b"again").unwrap();
        rename(2 * turn);
        let (begins, begun) = mpsc::channel();
        disk.fail_from(1, libc::EIO, move |call| {
            if call == CallKind::Rename {
                let _ = begins.send(());
                thread::sleep(Duration::from_micros(50));
            }
            false
        });
        thread::scope(|scope| {
            scope.spawn(|| store.fsync(&file).unwrap());
            // The first one is of the content, the next one of the name.
            let _ = begun.recv();
            store.write(&file, 0, b"more!").unwrap();
            let _ = begun.recv();
            rename(2 * turn + 1);
        });
        disk.heal();
        store.close_file(&file, true);
        store.fsync(&file).unwrap();
        let name = store.lookup_name(&root, (2 * turn + 2).to_string().as_bytes()).unwrap();
        assert!(!name.place.lock().away, "turn {turn}: fsync has returned, and it has not moved");
    }
}
