//! Scripts, and how they run: on the store and on the oracle at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use akasha::backing::{HardLinks, SimDisk};
use akasha::format::EntryKind;
use akasha::store::{
    CommitPolicy, NewAttr, Node, RenameFlags, Room, Store, StoreError, StoreOptions,
};

use super::oracle::{Oracle, ROOT, Seen, Spot, View};
use super::vault::{self, TestClock};

/// One operation. Paths are relative to the root; handles have numbers.
#[derive(Clone, Debug)]
pub enum Op {
    Create(u8, String),
    /// A file without a name, and the first name of the file that a handle is of.
    CreateNameless(u8),
    Name(u8, String),
    Open(u8, String),
    Write(u8, usize, usize),
    Append(u8, usize),
    Truncate(u8, usize),
    /// fallocate(2) of (offset, length); whether it keeps the size.
    Room(u8, Room, (usize, usize), bool),
    /// copy_file_range(2) from (handle, offset) to the same, so many bytes.
    Copy((u8, usize), (u8, usize), usize),
    TruncatePath(String, usize),
    Flush(u8),
    Fsync(u8),
    FsyncDir(String),
    Close(u8),
    Mkdir(String),
    Symlink(String),
    Rename(String, String),
    Exchange(String, String),
    Unlink(String),
    Rmdir(String),
    /// Time passes, and then there is a tick.
    Tick(u64),
    /// A clean unmount, and a mount.
    Remount,
}

#[derive(Clone)]
pub struct Script {
    pub name: String,
    pub ops: Vec<Op>,
    pub options: StoreOptions,
    pub has_exchange: bool,
    pub hard_links: HardLinks,
    /// Whether the disk keeps the order of changes of names.
    pub in_order: bool,
}

type Fallible<T> = Result<T, StoreError>;
type Tree = Arc<Node<SimDisk>>;

/// A script on its way.
pub struct Run {
    pub disk: SimDisk,
    pub clock: Arc<TestClock>,
    pub oracle: Oracle,
    pub store: Option<Arc<Store<SimDisk>>>,
    options: StoreOptions,
    handles: BTreeMap<u8, Tree>,
    mounts: u64,
    /// Prints every operation: for a replay.
    pub talks: bool,
    /// Whether ticks are believed: not where a fault may have struck one.
    pub trusts_ticks: bool,
}

const NEW: NewAttr = NewAttr { mode: 0o644, uid: 0, gid: 0 };

impl Run {
    pub fn new(script: &Script) -> Run {
        let clock = Arc::new(TestClock::default());
        let disk = vault::disk(&clock);
        disk.set_exchange(script.has_exchange);
        disk.set_hard_links(script.hard_links);
        disk.set_name_order(script.in_order);
        Run {
            disk,
            clock,
            oracle: Oracle::default(),
            store: None,
            options: script.options.clone(),
            handles: BTreeMap::new(),
            mounts: 0,
            talks: false,
            trusts_ticks: true,
        }
    }

    pub fn mount(&mut self) -> Fallible<()> {
        self.mounts += 1;
        let seed = 0x5eed ^ (self.mounts << 32);
        self.store = Some(vault::mount(&self.disk, &self.clock, seed, &self.options)?);
        Ok(())
    }

    pub fn store(&self) -> Arc<Store<SimDisk>> {
        Arc::clone(self.store.as_ref().expect("mounted"))
    }

    /// Runs all, until the power goes off. An operation that fails before that is a failure of the store.
    pub fn run(&mut self, ops: &[Op]) -> Result<(), String> {
        if let Err(error) = self.mount() {
            return self.unless_off("mount", &error);
        }
        for (index, op) in ops.iter().enumerate() {
            let done = self.apply(op);
            if self.talks {
                eprintln!("{index} {op:?}: {done:?}, then at call {}", self.disk.operations());
            }
            if self.disk.is_off() {
                // Of an operation that failed the oracle does not know how far it came.
                if matches!(op, Op::Fsync(_) | Op::FsyncDir(_) | Op::Flush(_) | Op::Tick(_)) {
                    self.ask_again();
                }
                return Ok(());
            }
            if let Err(error) = done {
                return self.unless_off(&format!("operation {index}, {op:?}"), &error);
            }
        }
        Ok(())
    }

    fn unless_off(&self, what: &str, error: &StoreError) -> Result<(), String> {
        if self.disk.is_off() { Ok(()) } else { Err(format!("{what} failed: {error:?}")) }
    }

    /// After the cut: an fsync that says ok nevertheless is believed.
    fn ask_again(&mut self) {
        let Some(store) = self.store.clone() else { return };
        for node in self.handles.values().cloned().collect::<Vec<_>>() {
            if store.fsync(&node).is_ok() {
                self.fsynced(node.id().get());
            }
        }
    }

    fn fsynced(&mut self, id: u64) {
        // Without a name nobody can look for it, now.
        if self.oracle.place(id).is_none() {
            if self.oracle.was_never_named(id) {
                self.oracle.keep_content(id);
                self.oracle.object(id).promised = true;
            }
            return;
        }
        self.oracle.keep_content(id);
        self.oracle.keep_path(id);
    }

    // ---- paths -----------------------------------------------------------------------------

    fn dir_id(&self, path: &str) -> Option<u64> {
        let mut at = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = self.oracle.holder(&(at, name.as_bytes().to_vec()))?;
            if self.oracle.objects[&at].kind != EntryKind::Dir {
                return None;
            }
        }
        Some(at)
    }

    pub fn spot(&self, path: &str) -> Option<Spot> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Some((self.dir_id(dir)?, name.as_bytes().to_vec()))
    }

    fn dir_node(&self, path: &str) -> Fallible<Tree> {
        let store = self.store();
        let mut at = store.root();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = store.lookup(&at, name.as_bytes())?;
        }
        Ok(at)
    }

    pub fn parent(&self, path: &str) -> Fallible<Tree> {
        self.dir_node(path.rsplit_once('/').map_or("", |(dir, _)| dir))
    }

    pub fn node(&self, path: &str) -> Fallible<Tree> {
        self.dir_node(path)
    }

    pub fn handle_node(&self, handle: u8) -> Option<Tree> {
        self.handles.get(&handle).cloned()
    }

    pub fn forget_handles(&mut self) {
        let Some(store) = self.store.clone() else { return self.handles.clear() };
        for node in std::mem::take(&mut self.handles).into_values() {
            store.close_file(&node, true);
        }
    }

    /// Closes all handles of a file, whatever flush may say.
    pub fn drop_handles_of(&mut self, id: u64) {
        let store = self.store();
        let handles: Vec<u8> = self.handles.keys().copied().collect();
        for handle in handles {
            if self.handles[&handle].id().get() == id {
                store.close_file(&self.handles[&handle], true);
                self.handles.remove(&handle);
                self.oracle.object(id).writers -= 1;
            }
        }
    }

    /// A directory of the mount, by its id.
    pub fn node_by_id(&self, id: u64) -> Option<Tree> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            let (dir, name) = self.oracle.place(at)?.clone();
            names.push(name);
            at = dir;
        }
        let store = self.store();
        let mut node = store.root();
        for name in names.iter().rev() {
            node = store.lookup(&node, name).ok()?;
        }
        Some(node)
    }

    /// What a file shows.
    pub fn content_of(&self, node: &Tree) -> Result<Vec<u8>, String> {
        let store = self.store();
        let fail = |error: StoreError| format!("{error:?}");
        let size = store.attr(node).map_err(fail)?.size;
        let mut out = vec![0; size as usize];
        let len = store.read(node, 0, &mut out).map_err(fail)?;
        out.truncate(len);
        Ok(out)
    }

    fn kind(&self, id: u64) -> EntryKind {
        self.oracle.objects[&id].kind
    }

    // ---- operations ------------------------------------------------------------------------

    /// Does one operation; one that makes no sense here is left out.
    ///
    /// # Panics
    /// If nothing is mounted.
    pub fn apply(&mut self, op: &Op) -> Fallible<()> {
        let store = self.store();
        match op {
            Op::Create(handle, path) => {
                let Some(spot) = self.spot(path).filter(|spot| self.oracle.holder(spot).is_none())
                else {
                    return Ok(());
                };
                self.close(*handle)?;
                let node = store.create(&self.parent(path)?, &spot.1, &NEW)?;
                self.oracle.made(node.id().get(), EntryKind::File, &spot, b"");
                let opened = self.open(*handle, Arc::clone(&node));
                // Its maker's own.
                store.close_file(&node, true);
                opened
            }
            Op::CreateNameless(handle) => {
                self.close(*handle)?;
                let node = store.create_nameless(&NEW, true)?;
                self.oracle.made_nameless(node.id().get(), EntryKind::File, b"");
                let opened = self.open(*handle, Arc::clone(&node));
                store.close_file(&node, true);
                opened
            }
            Op::Name(handle, path) => {
                let Some(node) = self.handles.get(handle).cloned() else { return Ok(()) };
                let spot = self.spot(path).filter(|spot| self.oracle.holder(spot).is_none());
                let id = node.id().get();
                let Some(spot) = spot.filter(|_| self.oracle.was_never_named(id)) else {
                    return Ok(());
                };
                self.oracle.named(id, &spot);
                // Its writer has as much time as that of a file made now.
                self.oracle.object(id).opened_at = self.clock.secs();
                store.link(&node, &self.parent(path)?, &spot.1)
            }
            Op::Open(handle, path) => {
                let found = self.spot(path).and_then(|spot| self.oracle.holder(&spot));
                if found.is_none_or(|id| self.kind(id) != EntryKind::File) {
                    return Ok(());
                }
                self.close(*handle)?;
                self.open(*handle, self.node(path)?)
            }
            Op::Write(handle, offset, len) => self.write(*handle, Some(*offset), *len),
            Op::Append(handle, len) => self.write(*handle, None, *len),
            Op::Truncate(handle, size) => {
                let Some(node) = self.handles.get(handle).cloned() else { return Ok(()) };
                let id = node.id().get();
                self.oracle.cut_to(id, *size);
                store.truncate(&node, *size as u64)
            }
            Op::Room(handle, room, range, keeps_size) => {
                self.change_room(*handle, *room, *range, *keeps_size)
            }
            Op::Copy(from, to, len) => self.copy(*from, *to, *len),
            Op::TruncatePath(path, size) => {
                let Some(id) = self.spot(path).and_then(|spot| self.oracle.holder(&spot)) else {
                    return Ok(());
                };
                if self.kind(id) != EntryKind::File {
                    return Ok(());
                }
                let node = self.node(path)?;
                self.oracle.cut_to(id, *size);
                if self.oracle.object(id).writers == 0 {
                    self.oracle.allow(id);
                }
                store.truncate(&node, *size as u64)?;
                if self.oracle.object(id).writers == 0 {
                    self.oracle.object(id).closed_at = Some(self.clock.secs());
                }
                Ok(())
            }
            Op::Flush(handle) => {
                let Some(node) = self.handles.get(handle).cloned() else { return Ok(()) };
                let id = node.id().get();
                let commits = self.options.commit == CommitPolicy::OnClose;
                let is_dirty = self.oracle.is_dirty(id);
                if commits {
                    self.oracle.allow(id);
                }
                store.flush(&node)?;
                if commits && self.commits_at_close(id, is_dirty) {
                    self.fsynced(id);
                }
                Ok(())
            }
            Op::Fsync(handle) => {
                let Some(node) = self.handles.get(handle).cloned() else { return Ok(()) };
                let id = node.id().get();
                self.oracle.allow(id);
                store.fsync(&node)?;
                self.fsynced(id);
                Ok(())
            }
            Op::FsyncDir(path) => {
                let Some(dir) = self.dir_id(path) else { return Ok(()) };
                let inside: Vec<u64> = self.oracle.objects.keys().copied().collect();
                for id in inside {
                    if self.oracle.place(id).is_some_and(|spot| spot.0 == dir) {
                        self.oracle.allow(id);
                    }
                }
                store.fsync_dir(&self.dir_node(path)?)?;
                self.oracle.keep_names(dir);
                Ok(())
            }
            Op::Close(handle) => self.close(*handle),
            Op::Mkdir(path) => {
                let Some(spot) = self.spot(path).filter(|spot| self.oracle.holder(spot).is_none())
                else {
                    return Ok(());
                };
                let node = match store.mkdir(
                    &self.parent(path)?,
                    &spot.1,
                    &NewAttr { mode: 0o755, ..NEW },
                ) {
                    Ok(node) => node,
                    Err(error) => {
                        // Its id is not known, and it may be there.
                        self.note_half_made(path, &spot);
                        return Err(error);
                    }
                };
                self.oracle.made(node.id().get(), EntryKind::Dir, &spot, b"");
                Ok(())
            }
            Op::Symlink(path) => {
                let Some(spot) = self.spot(path).filter(|spot| self.oracle.holder(spot).is_none())
                else {
                    return Ok(());
                };
                let target = format!("to {path}");
                let node = store.symlink(&self.parent(path)?, &spot.1, target.as_bytes(), &NEW)?;
                let id = node.id().get();
                self.oracle.made(id, EntryKind::Symlink, &spot, target.as_bytes());
                self.oracle.allow(id);
                self.oracle.object(id).closed_at = Some(self.clock.secs());
                Ok(())
            }
            Op::Rename(from, to) => {
                let (Some(a), Some(b)) = (self.spot(from), self.spot(to)) else { return Ok(()) };
                let Some(source) = self.oracle.holder(&a) else { return Ok(()) };
                let is_dir = self.kind(source) == EntryKind::Dir;
                if let Some(target) = self.oracle.holder(&b)
                    && ((self.kind(target) == EntryKind::Dir) != is_dir
                        || self.oracle.has_children(target))
                {
                    return Ok(());
                }
                if is_dir && self.oracle.is_below(b.0, source) {
                    return Ok(());
                }
                let (dir, to_dir) = (self.parent(from)?, self.parent(to)?);
                self.oracle.renamed(&a, &b);
                store.rename(&dir, &a.1, &to_dir, &b.1, RenameFlags::Replace)
            }
            Op::Exchange(from, to) => {
                let (Some(a), Some(b)) = (self.spot(from), self.spot(to)) else { return Ok(()) };
                let (Some(x), Some(y)) = (self.oracle.holder(&a), self.oracle.holder(&b)) else {
                    return Ok(());
                };
                if self.oracle.is_below(b.0, x) || self.oracle.is_below(a.0, y) {
                    return Ok(());
                }
                let (dir, to_dir) = (self.parent(from)?, self.parent(to)?);
                self.oracle.exchanged(&a, &b);
                store.rename(&dir, &a.1, &to_dir, &b.1, RenameFlags::Exchange)
            }
            Op::Unlink(path) => {
                let Some(spot) = self.spot(path) else { return Ok(()) };
                let found = self.oracle.holder(&spot);
                if found.is_none_or(|id| self.kind(id) == EntryKind::Dir) {
                    return Ok(());
                }
                let dir = self.parent(path)?;
                self.oracle.unlinked(&spot);
                store.unlink(&dir, &spot.1)
            }
            Op::Rmdir(path) => {
                let Some(spot) = self.spot(path) else { return Ok(()) };
                let found = self.oracle.holder(&spot);
                if found.is_none_or(|id| {
                    self.kind(id) != EntryKind::Dir || self.oracle.has_children(id)
                }) {
                    return Ok(());
                }
                let dir = self.parent(path)?;
                self.oracle.unlinked(&spot);
                store.rmdir(&dir, &spot.1)
            }
            Op::Tick(secs) => {
                self.clock.pass(*secs);
                self.tick();
                Ok(())
            }
            Op::Remount => {
                let handles: Vec<u8> = self.handles.keys().copied().collect();
                for handle in handles {
                    self.close(handle)?;
                }
                drop(store);
                let store = self.store.take().expect("mounted");
                store.close()?;
                drop(store);
                self.oracle.keep_all();
                self.mount()
            }
        }
    }

    /// A directory that was made, but whose making failed half-way.
    fn note_half_made(&mut self, path: &str, spot: &Spot) {
        if let Ok(node) = self.node(path) {
            self.oracle.made(node.id().get(), EntryKind::Dir, spot, b"");
        } else {
            self.oracle.half_made(spot);
        }
    }

    fn open(&mut self, handle: u8, node: Tree) -> Fallible<()> {
        self.store().open_file(&node, true)?;
        let now = self.clock.secs();
        let object = self.oracle.object(node.id().get());
        if object.writers == 0 {
            object.opened_at = now;
        }
        object.writers += 1;
        self.handles.insert(handle, node);
        Ok(())
    }

    fn write(&mut self, handle: u8, offset: Option<usize>, len: usize) -> Fallible<()> {
        let Some(node) = self.handles.get(&handle).cloned() else { return Ok(()) };
        let id = node.id().get();
        let data = self.oracle.pattern(id, len);
        let offset = offset.unwrap_or(self.oracle.object(id).live.len());
        self.oracle.wrote(id, offset, &data);
        self.store().write(&node, offset as u64, &data)
    }

    fn change_room(
        &mut self,
        handle: u8,
        room: Room,
        (offset, len): (usize, usize),
        keeps_size: bool,
    ) -> Fallible<()> {
        let Some(node) = self.handles.get(&handle).cloned() else { return Ok(()) };
        let id = node.id().get();
        let size = self.oracle.object(id).live.len();
        let end = if keeps_size { size } else { size.max(offset + len) };
        if room != Room::Allocate && offset < end {
            let len = len.min(end - offset);
            self.oracle.wrote(id, offset, &vec![0; len]);
        } else if end > size {
            self.oracle.cut_to(id, end);
        }
        self.store().fallocate(&node, (offset as u64, len as u64), room, keeps_size)
    }

    fn copy(&mut self, from: (u8, usize), to: (u8, usize), len: usize) -> Fallible<()> {
        let (Some(source), Some(target)) = (self.handle_node(from.0), self.handle_node(to.0))
        else {
            return Ok(());
        };
        let (source_id, target_id) = (source.id().get(), target.id().get());
        let (from, to) = (from.1, to.1);
        let available = self.oracle.object(source_id).live.len().saturating_sub(from);
        let len = len.min(available);
        // The kernel refuses what overlaps.
        if len == 0 || source_id == target_id && from < to + len && to < from + len {
            return Ok(());
        }
        let data = self.oracle.object(source_id).live[from..from + len].to_vec();
        self.oracle.wrote(target_id, to, &data);
        let mut done = 0;
        while done < len {
            let (from, to) = ((from + done) as u64, (to + done) as u64);
            let rest = (len - done) as u64;
            done += self.store().copy((&source, from), (&target, to), rest)? as usize;
        }
        Ok(())
    }

    fn close(&mut self, handle: u8) -> Fallible<()> {
        let Some(node) = self.handles.remove(&handle) else { return Ok(()) };
        let now = self.clock.secs();
        let id = node.id().get();
        let is_on_close = self.options.commit == CommitPolicy::OnClose;
        let is_dirty = self.oracle.is_dirty(id);
        if is_on_close {
            self.oracle.allow(id);
        }
        let object = self.oracle.object(id);
        object.writers -= 1;
        if object.writers == 0 {
            if is_dirty || object.closed_at.is_some() {
                object.closed_at = Some(now);
            }
            self.oracle.allow(id);
        }
        let flushed = self.store().flush(&node);
        self.store().close_file(&node, true);
        flushed?;
        if is_on_close && self.commits_at_close(id, is_dirty) {
            self.fsynced(id);
        }
        Ok(())
    }

    /// Whether a flush commits, where a close is to: without a change nothing is, and its path may be newer than the last commit; an
    /// empty version is right after its last close, not by it.
    fn commits_at_close(&mut self, id: u64, was_dirty: bool) -> bool {
        was_dirty && !self.oracle.object(id).live.is_empty()
    }

    fn tick(&mut self) {
        let now = self.clock.secs();
        let ids: Vec<u64> = self.oracle.objects.keys().copied().collect();
        for id in &ids {
            let object = self.oracle.object(*id);
            let overdue = object.writers > 0 && now >= object.opened_at + 60;
            let loose = object.loose;
            if (overdue && !self.oracle.was_never_named(*id)) || loose {
                self.oracle.allow(*id);
            }
        }
        self.store().tick();
        if self.disk.is_off() || !self.trusts_ticks {
            return;
        }
        for id in ids {
            let object = self.oracle.object(id);
            if object.writers == 0 && object.closed_at.is_some_and(|at| now >= at + 5) {
                (object.closed_at, object.loose) = (None, false);
                self.fsynced(id);
            }
        }
    }
}

/// All that a mount shows, every file read whole.
///
/// All of it is held until the end, as the kernel holds what it has looked up.
pub fn view(store: &Arc<Store<SimDisk>>) -> Result<View, String> {
    let mut view = View::new();
    let mut held = Vec::new();
    let mut open = vec![store.root()];
    while let Some(dir) = open.pop() {
        let mut names = Vec::new();
        store
            .list(&dir, 0, &mut |entry| {
                names.push(entry.name.to_vec());
                true
            })
            .map_err(|error| format!("a directory cannot be listed: {error:?}"))?;
        for name in names {
            let shown = String::from_utf8_lossy(&name).into_owned();
            let fail = |error: StoreError| format!("{shown:?} cannot be read: {error:?}");
            let node = store.lookup(&dir, &name).map_err(fail)?;
            let content = match node.kind() {
                EntryKind::Dir => {
                    open.push(Arc::clone(&node));
                    Vec::new()
                }
                EntryKind::Symlink => store.readlink(&node).map_err(fail)?,
                _ => {
                    store.open_file(&node, false).map_err(fail)?;
                    let size = store.attr(&node).map_err(fail)?.size;
                    let mut out = vec![0; size as usize + 1];
                    let len = store.read(&node, 0, &mut out).map_err(fail)?;
                    store.close_file(&node, false);
                    out.truncate(len);
                    if len as u64 != size {
                        return Err(format!("{shown:?} has {len} bytes, its size is {size}"));
                    }
                    out
                }
            };
            let seen = Seen { id: node.id().get(), kind: node.kind(), content };
            held.push(node);
            view.insert((dir.id().get(), name), seen);
        }
    }
    Ok(view)
}
