//! Hard links under power cuts. The other scripts' oracle knows one place of each object; this one keeps the whole tree, as it
//! was after each operation, and asks of what a cut left:
//!
//! - every name shows a file that it had, whole, since the name was last made durable;
//! - all names of a file show the same, and as many as it says it has;
//! - a file that was once durable, and had a name ever since, has one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use akasha::backing::{CrashRule, SimDisk};
use akasha::entropy::{Entropy, SeededEntropy};
use akasha::format::EntryKind;
use akasha::store::{NewAttr, Node, RenameFlags, Store, StoreError};

use super::vault::{self, TestClock};
use super::{SKELETON, mount, remove_all};

const NEW: NewAttr = NewAttr { mode: 0o644, uid: 0, gid: 0 };
const PATHS: [&str; 7] = ["a", "b", "d/a", "d/b", "e/a", "e/b", "e/c"];
const DIRS: [&str; 3] = ["", "d", "e"];

pub(super) type Path = &'static str;
type Tree = Arc<Node<SimDisk>>;
pub(super) type Names = BTreeMap<Path, usize>;

#[derive(Clone, Debug)]
pub enum Op {
    /// Written anew, of this length.
    Save(Path, usize),
    /// A few bytes in the middle.
    Change(Path),
    Link(Path, Path),
    Unlink(Path),
    Rename(Path, Path),
    /// Renamed while it is open for writing, and closed then.
    RenameOpen(Path, Path),
    /// Opened, changed, renamed, and closed then.
    RenameDirty(Path, Path),
    Exchange(Path, Path),
    Fsync(Path),
    FsyncDir(Path),
    Tick,
    Remount,
    /// The daemon is killed, and the vault mounted again.
    Kill,
}

#[derive(Clone)]
pub(super) struct File {
    pub id: Option<u64>,
    pub contents: Vec<Vec<u8>>,
    pub floor: usize,
    /// The state after which it was durable.
    pub promised: Option<usize>,
    /// Who took its last name.
    taken_by: Option<usize>,
}

/// What was done, and what of it is promised.
#[derive(Clone)]
pub struct Oracle {
    pub(super) files: Vec<File>,
    states: Vec<Names>,
    floors: BTreeMap<Path, usize>,
}

/// What a mount shows of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub id: u64,
    nlink: u32,
    pub content: Vec<u8>,
}

pub(super) type View = BTreeMap<Path, Seen>;

impl Oracle {
    fn new() -> Self {
        Oracle { files: Vec::new(), states: vec![Names::new()], floors: BTreeMap::new() }
    }

    pub(super) fn now(&self) -> &Names {
        self.states.last().expect("there is one from the start")
    }

    pub(super) fn becomes(&mut self, change: impl FnOnce(&mut Names)) {
        let mut next = self.now().clone();
        change(&mut next);
        for (path, file) in self.now().clone() {
            if let Some(other) = next.get(path)
                && !next.values().any(|held| *held == file)
            {
                self.files[file].taken_by = Some(*other);
            }
        }
        // What a mount after a failure shows again was not taken, or two could be each other's takers.
        for file in next.values() {
            self.files[*file].taken_by = None;
        }
        self.states.push(next);
    }

    /// Whether a file that was durable under a name is to be found, or who took its last name, or who took that one's.
    fn is_missed(&self, file: usize, is_found: impl Fn(usize) -> bool) -> bool {
        let mut next = Some(file);
        while let Some(file) = next {
            if is_found(file) {
                return false;
            }
            if self.now().values().any(|held| *held == file) {
                return true;
            }
            next = self.files[file].taken_by;
        }
        // Somebody removed the last of them.
        false
    }

    fn fsynced(&mut self, file: usize) {
        let latest = self.states.len() - 1;
        let held: Vec<Path> =
            self.now().iter().filter(|(_, held)| **held == file).map(|(path, _)| *path).collect();
        if held.is_empty() {
            return;
        }
        self.files[file].promised = Some(latest);
        self.files[file].floor = self.files[file].contents.len() - 1;
        for path in held {
            self.floors.insert(path, latest);
        }
    }

    /// Whether `view` is what may be found. A filesystem may keep both names of a file that was moved (`doubles`).
    pub(super) fn check(&self, view: &View, doubles: bool) -> Result<(), String> {
        let mut counts: BTreeMap<u64, (u32, &Seen)> = BTreeMap::new();
        for (path, seen) in view {
            let floor = self.floors.get(path).copied().unwrap_or(0);
            let held = self.states[floor..].iter().filter_map(|state| state.get(path));
            let is_it = |file: &&usize| self.files[**file].id.is_none_or(|id| id == seen.id);
            let Some(file) = held.into_iter().find(is_it) else {
                return Err(format!("{path} shows {:016x}, which it did not hold", seen.id));
            };
            let file = &self.files[*file];
            if !file.contents[file.floor..].contains(&seen.content) {
                let len = seen.content.len();
                return Err(format!("{path} shows {len} bytes that it did not hold"));
            }
            let entry = counts.entry(seen.id).or_insert((0, seen));
            entry.0 += 1;
            // The name that a filesystem kept keeps the version that it had.
            if entry.1.content != seen.content && !(doubles && seen.nlink == 1) {
                return Err(format!("{path} shows something else than another name of it"));
            }
        }
        for (count, seen) in counts.values() {
            if seen.nlink != *count && !(doubles && seen.nlink < *count) {
                return Err(format!("{:016x} says {} names, has {count}", seen.id, seen.nlink));
            }
        }
        for path in PATHS {
            let floor = self.floors.get(path).copied().unwrap_or(0);
            let may_lack = self.states[floor..].iter().any(|state| !state.contains_key(path));
            if !view.contains_key(path) && !may_lack {
                return Err(format!("{path} is gone"));
            }
        }
        for (number, file) in self.files.iter().enumerate() {
            let (Some(since), Some(id)) = (file.promised, file.id) else { continue };
            let was_held = self.states[since].values().any(|held| *held == number);
            let is_found =
                |file: usize| self.files[file].id.is_none_or(|id| counts.contains_key(&id));
            if was_held && self.is_missed(number, is_found) {
                return Err(format!("file {number}, {id:016x}, is lost"));
            }
        }
        Ok(())
    }
}

pub struct Run {
    pub disk: SimDisk,
    pub clock: Arc<TestClock>,
    pub oracle: Oracle,
    pub(super) store: Option<Arc<Store<SimDisk>>>,
    mounts: u64,
    serial: u8,
    /// Prints every operation: for a replay.
    pub talks: bool,
}

pub(super) fn split(path: Path) -> (Path, &'static [u8]) {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    (dir, name.as_bytes())
}

pub(super) fn dir_of(store: &Arc<Store<SimDisk>>, dir: &str) -> Result<Tree, StoreError> {
    let root = store.root();
    if dir.is_empty() { Ok(root) } else { store.lookup(&root, dir.as_bytes()) }
}

impl Run {
    /// A vault on a disk that keeps the order of names, or on one that does not.
    pub fn new(in_order: bool) -> Run {
        let clock = Arc::new(TestClock::default());
        let disk = vault::disk(&clock);
        disk.set_name_order(in_order);
        let (oracle, store) = (Oracle::new(), None);
        let mut run = Run { disk, clock, oracle, store, mounts: 0, serial: 0, talks: false };
        let made = run.mount().and_then(|()| {
            let store = run.store();
            for dir in &DIRS[1..] {
                store.mkdir(&store.root(), dir.as_bytes(), &NEW)?;
            }
            store.fsync_dir(&store.root())
        });
        made.expect("an honest disk takes three directories");
        run
    }

    pub(super) fn mount(&mut self) -> Result<(), StoreError> {
        self.mounts += 1;
        self.store =
            Some(vault::mount(&self.disk, &self.clock, self.mounts << 32, &<_>::default())?);
        Ok(())
    }

    pub(super) fn store(&self) -> Arc<Store<SimDisk>> {
        Arc::clone(self.store.as_ref().expect("mounted"))
    }

    /// Runs all, until the power goes off.
    pub fn run(&mut self, ops: &[Op]) -> Result<(), String> {
        for (index, op) in ops.iter().enumerate() {
            let done = self.apply(op);
            if self.talks {
                eprintln!("{index} {op:?}: {done:?}, then at call {}", self.disk.operations());
            }
            if self.disk.is_off() {
                return Ok(());
            }
            done.map_err(|error| format!("operation {index}, {op:?}: {error:?}"))?;
            let view = view(&self.store())?;
            let now: Vec<&Path> = self.oracle.now().keys().collect();
            if !now.iter().eq(&view.keys().collect::<Vec<_>>()) {
                return Err(format!("operation {index}, {op:?}: shown {:?}", view.keys()));
            }
            self.oracle
                .check(&view, false)
                .map_err(|what| format!("operation {index}, {op:?}: {what}"))?;
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, op: &Op) -> Result<(), StoreError> {
        let store = self.store();
        let place = |path: Path| {
            let (dir, name) = split(path);
            dir_of(&store, dir).map(|dir| (dir, name))
        };
        let node = |path: Path| place(path).and_then(|(dir, name)| store.lookup(&dir, name));
        let held = |oracle: &Oracle, path: Path| oracle.now().get(path).copied();
        match *op {
            Op::Save(path, len) => {
                self.serial += 1;
                let content = vec![self.serial; len];
                let (dir, name) = place(path)?;
                let node = if let Some(file) = held(&self.oracle, path) {
                    self.oracle.files[file].contents.push(content.clone());
                    let node = store.lookup(&dir, name)?;
                    store.open_file(&node, true)?;
                    node
                } else {
                    let contents = vec![content.clone()];
                    let file =
                        File { id: None, contents, floor: 0, promised: None, taken_by: None };
                    self.oracle.files.push(file);
                    let file = self.oracle.files.len() - 1;
                    self.oracle.becomes(|names| {
                        names.insert(path, file);
                    });
                    let node = store.create(&dir, name, &NEW)?;
                    self.oracle.files[file].id = Some(node.id().get());
                    node
                };
                let done = store
                    .truncate(&node, 0)
                    .and_then(|()| store.write(&node, 0, &content))
                    .and_then(|()| store.flush(&node));
                store.close_file(&node, true);
                done
            }
            Op::Change(path) => {
                let Some(file) = held(&self.oracle, path) else { return Ok(()) };
                self.serial += 1;
                let file = &mut self.oracle.files[file];
                let mut next = file.contents.last().expect("it was saved").clone();
                let at = next.len() / 2;
                let end = (at + 10).min(next.len());
                next[at..end].fill(self.serial);
                file.contents.push(next.clone());
                let node = node(path)?;
                store.open_file(&node, true)?;
                let done = store.write(&node, at as u64, &next[at..end]);
                let done = done.and_then(|()| store.flush(&node));
                store.close_file(&node, true);
                done
            }
            Op::Link(from, to) => {
                let Some(file) = held(&self.oracle, from) else { return Ok(()) };
                if held(&self.oracle, to).is_some() {
                    return Ok(());
                }
                self.oracle.becomes(|names| {
                    names.insert(to, file);
                });
                let (dir, name) = place(to)?;
                store.link(&node(from)?, &dir, name)
            }
            Op::Unlink(path) => {
                if held(&self.oracle, path).is_none() {
                    return Ok(());
                }
                self.oracle.becomes(|names| {
                    names.remove(path);
                });
                let (dir, name) = place(path)?;
                store.unlink(&dir, name)
            }
            Op::Rename(from, to) | Op::RenameOpen(from, to) => {
                let Some(file) = held(&self.oracle, from) else { return Ok(()) };
                if held(&self.oracle, to) != Some(file) {
                    self.oracle.becomes(|names| {
                        names.remove(from);
                        names.insert(to, file);
                    });
                }
                let ((dir, name), (to_dir, to_name)) = (place(from)?, place(to)?);
                let open = matches!(op, Op::RenameOpen(..)).then(|| node(from)).transpose()?;
                if let Some(open) = &open {
                    store.open_file(open, true)?;
                }
                let done = store.rename(&dir, name, &to_dir, to_name, RenameFlags::Replace);
                if let Some(open) = &open {
                    store.close_file(open, true);
                }
                done
            }
            Op::RenameDirty(from, to) => {
                let Some(file) = held(&self.oracle, from) else { return Ok(()) };
                self.serial += 1;
                let (serial, f) = (self.serial, &mut self.oracle.files[file]);
                let mut next = f.contents.last().expect("it was saved").clone();
                let at = next.len() / 2;
                let end = (at + 10).min(next.len());
                next[at..end].fill(serial);
                f.contents.push(next.clone());
                let ((dir, name), (to_dir, to_name)) = (place(from)?, place(to)?);
                let open = node(from)?;
                store.open_file(&open, true)?;
                let mut done = store.write(&open, at as u64, &next[at..end]).map(drop);
                if done.is_ok() {
                    if held(&self.oracle, to) != Some(file) {
                        self.oracle.becomes(|names| {
                            names.remove(from);
                            names.insert(to, file);
                        });
                    }
                    done = store.rename(&dir, name, &to_dir, to_name, RenameFlags::Replace);
                }
                let done = done.and_then(|()| store.flush(&open));
                store.close_file(&open, true);
                done
            }
            Op::Kill => {
                self.store = None;
                drop(store);
                self.mount()?;
                let Ok(seen) = view(&self.store()) else { return Ok(()) };
                if self.disk.is_off() {
                    return Ok(());
                }
                let mut next = Names::new();
                for (path, seen) in &seen {
                    let file = self
                        .oracle
                        .files
                        .iter()
                        .position(|f| f.id == Some(seen.id))
                        .expect("known");
                    self.oracle.files[file].contents.push(seen.content.clone());
                    next.insert(path, file);
                }
                self.oracle.check(&seen, false).expect("after a kill");
                self.oracle.becomes(|names| *names = next);
                Ok(())
            }
            Op::Exchange(from, to) => {
                let (Some(a), Some(b)) = (held(&self.oracle, from), held(&self.oracle, to)) else {
                    return Ok(());
                };
                self.oracle.becomes(|names| {
                    names.insert(from, b);
                    names.insert(to, a);
                });
                let ((dir, name), (to_dir, to_name)) = (place(from)?, place(to)?);
                store.rename(&dir, name, &to_dir, to_name, RenameFlags::Exchange)
            }
            Op::Fsync(path) => {
                let Some(file) = held(&self.oracle, path) else { return Ok(()) };
                store.fsync(&node(path)?)?;
                self.oracle.fsynced(file);
                Ok(())
            }
            Op::FsyncDir(dir) => {
                store.fsync_dir(&dir_of(&store, dir)?)?;
                let latest = self.oracle.states.len() - 1;
                for path in PATHS.iter().filter(|path| split(path).0 == dir) {
                    self.oracle.floors.insert(path, latest);
                }
                Ok(())
            }
            Op::Tick => {
                self.clock.pass(6);
                store.tick();
                if !self.disk.is_off() {
                    for file in 0..self.oracle.files.len() {
                        self.oracle.fsynced(file);
                    }
                }
                Ok(())
            }
            Op::Remount => {
                store.close()?;
                for file in 0..self.oracle.files.len() {
                    self.oracle.fsynced(file);
                }
                let latest = self.oracle.states.len() - 1;
                for path in PATHS {
                    self.oracle.floors.insert(path, latest);
                }
                self.store = None;
                drop(store);
                self.mount()
            }
        }
    }
}

pub(super) fn view(store: &Arc<Store<SimDisk>>) -> Result<View, String> {
    let mut view = View::new();
    let mut held = Vec::new();
    let mut seen = 0;
    for dir in DIRS {
        let node = dir_of(store, dir).map_err(|error| format!("{dir:?}: {error:?}"))?;
        let mut listed = Vec::new();
        let each = &mut |entry: &akasha::store::ListEntry<'_>| {
            listed.push((entry.name.to_vec(), entry.id.get(), entry.kind));
            true
        };
        store.list(&node, 0, each).map_err(|error| format!("{dir:?}: {error:?}"))?;
        for (name, ino, kind) in listed {
            if kind == EntryKind::Dir {
                continue;
            }
            let known = PATHS.iter().find(|path| split(path).0 == dir && *split(path).1 == *name);
            let path = *known.ok_or_else(|| format!("a stray name in {dir:?}"))?;
            let fail = |error: StoreError| format!("{path}: {error:?}");
            let node = store.lookup(&node, split(path).1).map_err(fail)?;
            store.open_file(&node, false).map_err(fail)?;
            let attr = store.attr(&node).map_err(fail)?;
            let mut content = vec![0; attr.size as usize];
            let read = store.read(&node, 0, &mut content).map_err(fail);
            store.close_file(&node, false);
            if read? as u64 != attr.size || ino != node.id().get() {
                return Err(format!("{path}: its size, or the id in the listing, is wrong"));
            }
            view.insert(path, Seen { id: ino, nlink: attr.nlink, content });
            // As the kernel holds it.
            held.push(node);
            seen += 1;
        }
    }
    if seen == view.len() { Ok(view) } else { Err("a name is there twice".into()) }
}

/// What cuts under `rules` left is what the oracle allows, can be used, and leaves nothing behind.
pub fn judge(run: &Run, disk: &SimDisk, rules: &[CrashRule]) -> Result<(), String> {
    let store = mount(disk, &run.clock, 0xaa)?;
    let first = view(&store)?;
    // A journal commits both ends of a move at once; elsewhere the sync of one directory is that of its end alone.
    let is_whole = |rule| matches!(rule, &CrashRule::Journal { .. } | &CrashRule::Everything);
    let doubles = !rules.iter().all(is_whole);
    run.oracle.check(&first, doubles)?;
    drop(store);
    let store = mount(disk, &run.clock, 0xbb)?;
    if view(&store)? != first {
        return Err("a second mount shows something else".into());
    }
    // What is left of every file can be changed, by any of its names.
    for (path, seen) in &first {
        let (dir, name) = split(path);
        let node = dir_of(&store, dir).and_then(|dir| store.lookup(&dir, name));
        let node = node.map_err(|error| format!("{path}: {error:?}"))?;
        store.open_file(&node, true).map_err(|error| format!("{path}: {error:?}"))?;
        let written = store.write(&node, seen.content.len() as u64, b"more");
        let written = written.and_then(|()| store.fsync(&node));
        store.close_file(&node, true);
        written.map_err(|error| format!("{path} cannot be written: {error:?}"))?;
    }
    remove_all(&store).map_err(|error| format!("nothing can be removed: {error}"))?;
    store.close().map_err(|error| format!("cannot be closed: {error:?}"))?;
    let mut left = String::new();
    for (path, _, len) in disk.paths() {
        if !SKELETON.contains(&path.as_slice()) {
            write!(left, " {} ({len})", String::from_utf8_lossy(&path)).expect("memory");
        }
    }
    if left.is_empty() { Ok(()) } else { Err(format!("left behind:{left}")) }
}

/// Scripts that were thought of.
pub fn written() -> Vec<(&'static str, Vec<Op>)> {
    use Op::{
        Change, Exchange, Fsync, FsyncDir, Kill, Link, Remount, Rename, RenameDirty, RenameOpen,
        Save, Tick, Unlink,
    };
    let big = 300 << 10;
    vec![
        ("links", vec![Save("a", 5000), Fsync("a"), Link("a", "d/a"), Link("a", "b"), Fsync("b")]),
        ("new links", vec![Save("a", 70), Link("a", "d/a"), Tick, Change("d/a"), Tick]),
        ("mail", vec![Save("d/a", 500), Fsync("d/a"), Link("d/a", "e/a"), Unlink("d/a"), Tick]),
        ("lock", vec![Save("a", 9), Tick, Link("a", "b"), Unlink("b"), Fsync("a"), Unlink("a")]),
        (
            "rewrites",
            vec![
                Save("a", big),
                Link("a", "e/b"),
                Fsync("a"),
                Change("e/b"),
                Fsync("a"),
                Change("a"),
                Tick,
                Save("e/b", 100),
                Fsync("e/b"),
                Save("a", big),
                Tick,
                Change("a"),
                Link("a", "d/b"),
                Fsync("d/b"),
            ],
        ),
        (
            "snapshot",
            vec![
                Save("d/a", 5000),
                Save("d/b", big),
                Tick,
                Link("d/a", "e/a"),
                Link("d/b", "e/b"),
                Tick,
                Unlink("d/a"),
                Save("d/a", 300),
                Tick,
                Change("d/b"),
                Tick,
                Unlink("e/a"),
                Unlink("e/b"),
                FsyncDir("e"),
            ],
        ),
        // The last name's directory was synced, the other name's was not: what a cut brought back there led nowhere.
        (
            "all names go",
            vec![
                Save("e/a", 40),
                Save("a", big),
                Tick,
                Link("a", "d/a"),
                Fsync("a"),
                Unlink("d/a"),
                Rename("e/a", "a"),
                Unlink("a"),
                Save("a", 40),
                Fsync("a"),
                Unlink("a"),
            ],
        ),
        (
            "the first name goes",
            vec![
                Save("a", 5000),
                Fsync("a"),
                Link("a", "d/a"),
                Link("a", "e/a"),
                Unlink("a"),
                Unlink("d/a"),
                FsyncDir("d"),
            ],
        ),
        (
            "something takes its place",
            vec![
                Save("a", 5000),
                Save("b", 600),
                Fsync("a"),
                Fsync("b"),
                Link("a", "e/a"),
                Rename("b", "a"),
                FsyncDir(""),
                Save("d/b", 10),
                Fsync("d/b"),
                Link("e/a", "e/b"),
                Rename("d/b", "e/a"),
                Fsync("e/a"),
                Rename("e/b", "a"),
                Tick,
            ],
        ),
        // What is under a name that goes must not go before the file that is to replace it is there by another name.
        (
            "replaced, linked, unlinked",
            vec![
                Save("a", 40),
                Fsync("a"),
                Save("b", 300),
                Rename("b", "a"),
                Link("a", "d/a"),
                Unlink("a"),
                Tick,
            ],
        ),
        (
            "replaced, linked twice, unlinked",
            vec![
                Save("a", 40),
                Fsync("a"),
                Save("b", 300),
                Rename("b", "a"),
                Link("a", "d/a"),
                Link("a", "e/a"),
                Unlink("a"),
                FsyncDir(""),
            ],
        ),
        (
            "replaced, linked, replaced",
            vec![
                Save("a", 40),
                Fsync("a"),
                Save("b", 300),
                Rename("b", "a"),
                Link("a", "d/a"),
                Save("e/b", 50),
                Rename("e/b", "a"),
                Fsync("a"),
            ],
        ),
        // Two are dead under a name, and who was to take it from the second is removed before he does.
        (
            "replaced twice, unlinked",
            vec![
                Save("a", 40),
                Link("a", "d/b"),
                Tick,
                Save("d/a", 300),
                Fsync("d/a"),
                RenameOpen("d/a", "d/b"),
                FsyncDir("d"),
                Save("d/a", 50),
                Fsync("d/a"),
                RenameOpen("d/a", "d/b"),
                Unlink("d/b"),
                Fsync("a"),
            ],
        ),
        // The first name of a file goes while who was there before is dead and not gone.
        (
            "replaces, linked, unlinked",
            vec![
                Save("a", 40),
                Fsync("a"),
                Save("b", 300),
                Rename("b", "a"),
                Fsync("a"),
                Link("a", "d/a"),
                Unlink("a"),
                FsyncDir("d"),
            ],
        ),
        // Every published name of a file is hidden, and the one that waits goes over one of them.
        (
            "over a name of its own",
            vec![
                Save("a", 40),
                Link("a", "b"),
                Fsync("a"),
                Save("d/b", 10),
                Rename("d/b", "b"),
                Link("a", "e/a"),
                Save("e/b", 20),
                Rename("e/b", "a"),
                Rename("e/a", "b"),
                Fsync("b"),
                Tick,
            ],
        ),
        // Two files that take each other's last published name.
        (
            "each over the other",
            vec![
                Save("a", 40),
                Save("b", 50),
                Link("a", "d/a"),
                Link("b", "d/b"),
                Tick,
                Link("a", "e/a"),
                Link("b", "e/b"),
                Save("e/c", 10),
                Rename("e/c", "d/a"),
                Save("e/c", 20),
                Rename("e/c", "d/b"),
                Rename("e/b", "a"),
                Rename("e/a", "b"),
                Fsync("a"),
                Tick,
            ],
        ),
        // A name that was renamed twice before it moves, once within its directory and once out of it.
        (
            "renamed twice, unlinked",
            vec![
                Save("e/b", 40),
                Link("e/b", "d/b"),
                FsyncDir("e"),
                Save("e/b", 40),
                RenameOpen("e/b", "e/a"),
                RenameOpen("e/a", "d/a"),
                Unlink("d/a"),
                Tick,
            ],
        ),
        // A name of a file appears where another name of it moves out.
        (
            "in the place of its own",
            vec![
                Save("b", 40),
                Link("b", "a"),
                Tick,
                Save("a", 40),
                Unlink("b"),
                RenameOpen("a", "d/b"),
                Link("d/b", "a"),
                Rename("d/b", "e/b"),
                Unlink("e/b"),
                Tick,
            ],
        ),
        // What was removed or moved by a daemon that was killed may not be durable: the next one must know.
        (
            "removed, killed",
            vec![Save("a", 40), Fsync("a"), Unlink("a"), Kill, Save("a", 50), Tick],
        ),
        (
            "moved, killed",
            vec![
                Save("d/a", 40),
                Fsync("d/a"),
                Rename("d/a", "e/a"),
                Kill,
                Save("d/a", 50),
                Fsync("d/a"),
            ],
        ),
        // The names of two files, each to appear where another of the other one moves out.
        (
            "in each other's place",
            vec![
                Save("a", 40),
                Link("a", "b"),
                Save("d/a", 50),
                Link("d/a", "d/b"),
                Tick,
                RenameDirty("d/a", "e/a"),
                Link("b", "d/a"),
                RenameDirty("a", "e/b"),
                Link("d/b", "a"),
                Rename("e/a", "e/c"),
                Fsync("d/b"),
            ],
        ),
        // A name that was renamed twice before it moved is durable with its file.
        (
            "renamed twice, synced",
            vec![
                Save("d/a", 40),
                Link("d/a", "a"),
                Tick,
                RenameDirty("d/a", "d/b"),
                Rename("d/b", "e/a"),
                Fsync("a"),
            ],
        ),
        (
            "changed, then moved",
            vec![
                Save("b", big),
                Save("a", 10),
                Tick,
                Change("b"),
                Rename("b", "d/b"),
                Rename("d/b", "e/b"),
                Save("a", 40),
                Remount,
            ],
        ),
        (
            "moves",
            vec![
                Save("a", 5000),
                Link("a", "b"),
                Fsync("a"),
                Rename("a", "d/a"),
                Fsync("b"),
                Rename("b", "d/a"),
                Rename("b", "e/b"),
                FsyncDir("e"),
                Change("d/a"),
                Rename("d/a", "a"),
                Fsync("a"),
                Save("d/b", 100),
                Exchange("d/b", "a"),
                Exchange("d/b", "e/b"),
                Tick,
                Remount,
                Unlink("e/b"),
                Tick,
            ],
        ),
    ]
}

pub fn random(seed: u64, len: usize) -> Vec<Op> {
    let dice = SeededEntropy::new(seed);
    let below = |n: usize| (dice.next_u64() >> 16) as usize % n;
    let path = || PATHS[below(PATHS.len())];
    let mixed = || match below(100) {
        0..=14 => Op::Save(path(), [0, 40, 5000, 9000, 200 << 10][below(5)]),
        15..=24 => Op::Change(path()),
        25..=49 => Op::Link(path(), path()),
        50..=64 => Op::Unlink(path()),
        65..=71 => Op::Rename(path(), path()),
        72..=76 => Op::RenameOpen(path(), path()),
        77..=79 => Op::Exchange(path(), path()),
        80..=88 => Op::Fsync(path()),
        89..=92 => Op::FsyncDir(DIRS[below(3)]),
        93..=97 => Op::Tick,
        _ => Op::Remount,
    };
    // Much is dead, hidden or on its way at a time.
    let crowded = || match below(100) {
        0..=19 => Op::Save(path(), 40),
        20..=44 => Op::Link(path(), path()),
        45..=57 => Op::Unlink(path()),
        58..=72 => Op::Rename(path(), path()),
        73..=80 => Op::RenameOpen(path(), path()),
        81..=88 => Op::RenameDirty(path(), path()),
        89..=93 => Op::Fsync(path()),
        94..=96 => Op::FsyncDir(DIRS[below(3)]),
        97 | 98 => Op::Tick,
        _ => Op::Exchange(path(), path()),
    };
    let op = || if seed.is_multiple_of(2) { mixed() } else { crowded() };
    std::iter::repeat_with(op).take(len).collect()
}
