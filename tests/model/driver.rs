//! Applies operations to the filesystem and to the model, and compares.
//!
//! It stands where the kernel stands: it walks paths, counts lookups and gives them back, so that at
//! the end nothing may be known but the root.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use akasha::clock::Timestamp;
use akasha::format::{EntryId, EntryKind};
use akasha::fs::{
    Access, AttrRequest, Caller, FileSystem, FsError, Handle, NewMode, OpenFlags, View, WriteKind,
};
use akasha::store::{Attr, NewAttr, RenameFlags, TimeChange};

use super::op::{Mode, Op};
use super::reference::{Body, NodeIndex, ROOT, Reference, Refusal};
use super::vault::{Disk, TestVault};

pub(super) const CALLER: Caller = Caller { uid: 0, gid: 0 };

pub(super) struct Open {
    pub handle: Handle,
    pub ino: EntryId,
    pub node: NodeIndex,
    pub writes: bool,
}

/// See the module's text.
pub struct Driver {
    pub(super) vault: TestVault,
    pub(super) fs: FileSystem<Disk>,
    pub(super) model: Reference,
    /// st_ino of every node that was ever made: it never changes.
    pub(super) inos: HashMap<NodeIndex, EntryId>,
    open: Vec<Open>,
    /// Directories on the paths that the current operation walked.
    walked: RefCell<Vec<EntryId>>,
}

/// What differs.
pub(super) type Different = String;

/// Compares the outcomes; gives back both where both are successes.
pub(super) fn both<A, B>(
    real: Result<A, FsError>,
    model: Result<B, Refusal>,
) -> Result<Option<(A, B)>, Different> {
    match (real, model) {
        (Ok(real), Ok(model)) => Ok(Some((real, model))),
        (Err(real), Err(model)) if model.contains(&real.errno().get()) => Ok(None),
        (Err(real), Err(model)) => {
            Err(format!("failed with {} ({real}), expected one of {model:?}", real.errno().get()))
        }
        (Err(real), Ok(_)) => Err(format!("failed with {} ({real})", real.errno().get())),
        (Ok(_), Err(model)) => Err(format!("succeeded, expected one of {model:?}")),
    }
}

#[allow(clippy::needless_pass_by_value)]
pub(super) fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    real: T,
    model: T,
) -> Result<(), Different> {
    if real == model { Ok(()) } else { Err(format!("{what} is {real:?}, expected {model:?}")) }
}

/// Where two contents differ first.
fn same_bytes(what: &str, real: &[u8], model: &[u8]) -> Result<(), Different> {
    same(&format!("length of {what}"), real.len(), model.len())?;
    if real == model {
        return Ok(());
    }
    let at = real.iter().zip(model).take_while(|(real, model)| real == model).count();
    Err(format!("{what} differs at {at}: {:#x}, expected {:#x}", real[at], model[at]))
}

impl Driver {
    pub fn new(mut vault: TestVault) -> Self {
        let fs = FileSystem::new(vault.mount(), View::default());
        let inos = HashMap::from([(ROOT, EntryId::ROOT)]);
        Driver {
            vault,
            fs,
            model: Reference::new(),
            inos,
            open: Vec::new(),
            walked: RefCell::default(),
        }
    }

    /// A directory of the model and the same in the filesystem, with its lookups counted.
    fn dir(&self, pick: usize) -> Result<(NodeIndex, EntryId), Different> {
        let dirs = self.model.dirs();
        let (node, path) = &dirs[pick % dirs.len()];
        Ok((*node, self.walk(path)?))
    }

    /// Looks a path up as the kernel does: every directory on it stays counted.
    pub(super) fn walk(&self, path: &[Vec<u8>]) -> Result<EntryId, Different> {
        let mut at = EntryId::ROOT;
        for name in path {
            let next = self
                .fs
                .lookup(at, name)
                .map_err(|error| format!("cannot walk to {:?}: {error}", lossy(name)))?;
            at = next.id;
            self.walked.borrow_mut().push(at);
        }
        Ok(at)
    }

    /// Gives the lookups of all paths back.
    pub(super) fn forget_paths(&self) {
        for ino in self.walked.take() {
            self.fs.forget(ino, 1);
        }
    }

    fn note(&mut self, node: NodeIndex, ino: EntryId) -> Result<(), Different> {
        match self.inos.insert(node, ino) {
            Some(before) => same("st_ino", ino, before),
            None => Ok(()),
        }
    }

    pub(super) fn handle(&self, pick: usize) -> Option<&Open> {
        if self.open.is_empty() { None } else { Some(&self.open[pick % self.open.len()]) }
    }

    /// Looks `name` up in both; `Some` if it is there.
    fn find(
        &mut self,
        (node, ino): (NodeIndex, EntryId),
        name: &[u8],
    ) -> Result<Option<(NodeIndex, EntryId)>, Different> {
        let found = both(self.fs.lookup(ino, name), self.model.lookup(node, name))?;
        let Some((attr, node)) = found else { return Ok(None) };
        self.note(node, attr.id)?;
        Ok(Some((node, attr.id)))
    }

    pub fn apply(&mut self, op: &Op) -> Result<(), Different> {
        self.dispatch(op)?;
        self.forget_paths();
        Ok(())
    }

    fn dispatch(&mut self, op: &Op) -> Result<(), Different> {
        match op {
            Op::Create { dir, name, mode, exclusive } => {
                let (node, ino) = self.dir(*dir)?;
                self.create((node, ino), &name.bytes(), *mode, *exclusive)?;
            }
            Op::CreateNameless { dir, mode, exclusive } => {
                let (node, ino) = self.dir(*dir)?;
                self.create_nameless((node, ino), *mode, *exclusive)?;
            }
            Op::LinkOpen { handle, to } => {
                let (to_node, to_ino) = self.dir(to.0)?;
                let Some(open) = self.handle(*handle) else { return Ok(()) };
                let (ino, node, name) = (open.ino, open.node, to.1.bytes());
                let real = self.fs.link(ino, to_ino, &name);
                let model = self.model.link(node, to_node, &name);
                self.made(real, model)?;
            }
            Op::Mknod { dir, name, mode } => {
                let (node, ino) = self.dir(*dir)?;
                let mode = NewMode { mode: *mode, umask: 0 };
                let real = self.fs.mknod(ino, &name.bytes(), mode, 0, CALLER);
                let model = self.model.make(node, &name.bytes(), Body::File(vec![]), mode.mode);
                self.made(real, model)?;
            }
            Op::Special { dir, name, mode, rdev } => {
                let (node, ino) = self.dir(*dir)?;
                let name = name.bytes();
                let (kind, number) = match mode & libc::S_IFMT {
                    libc::S_IFIFO => (EntryKind::Fifo, 0),
                    libc::S_IFSOCK => (EntryKind::Socket, 0),
                    libc::S_IFCHR => (EntryKind::CharDevice, u64::from(*rdev)),
                    _ => (EntryKind::BlockDevice, u64::from(*rdev)),
                };
                let asked = NewMode { mode: *mode, umask: 0 };
                let real = self.fs.mknod(ino, &name, asked, u64::from(*rdev), CALLER);
                let body = Body::Special(kind, number);
                let model = self.model.make(node, &name, body, mode & 0o7777);
                self.made(real, model)?;
            }
            Op::Mkdir { dir, name, mode } => {
                let (node, ino) = self.dir(*dir)?;
                let mode = NewMode { mode: *mode, umask: 0 };
                let real = self.fs.mkdir(ino, &name.bytes(), mode, CALLER);
                let body = Body::Dir(BTreeMap::new());
                let model = self.model.make(node, &name.bytes(), body, mode.mode);
                self.made(real, model)?;
            }
            Op::Symlink { dir, name, len } => {
                let (node, ino) = self.dir(*dir)?;
                let target = vec![b't'; *len];
                let real = self.fs.symlink(ino, &name.bytes(), &target, CALLER);
                let model = self.model.make(node, &name.bytes(), Body::Symlink(target), 0o777);
                self.made(real, model)?;
            }
            Op::Unlink { dir, name } => {
                let (node, ino) = self.dir(*dir)?;
                let name = name.bytes();
                both(self.fs.unlink(ino, &name), self.model.unlink(node, &name))?;
            }
            Op::Rmdir { dir, name } => {
                let (node, ino) = self.dir(*dir)?;
                let name = name.bytes();
                both(self.fs.rmdir(ino, &name), self.model.rmdir(node, &name))?;
            }
            Op::Rename { from, to, mode } => {
                let (from_node, from_ino) = self.dir(from.0)?;
                let (to_node, to_ino) = self.dir(to.0)?;
                let (from_name, to_name) = (from.1.bytes(), to.1.bytes());
                let flags = match mode {
                    Mode::Replace => RenameFlags::Replace,
                    Mode::NoReplace => RenameFlags::NoReplace,
                    Mode::Exchange => RenameFlags::Exchange,
                    Mode::Whiteout => {
                        RenameFlags::Whiteout(NewAttr { mode: 0, uid: CALLER.uid, gid: CALLER.gid })
                    }
                };
                let real = self.fs.rename((from_ino, &from_name), (to_ino, &to_name), flags);
                let model = self.model.rename((from_node, &from_name), (to_node, &to_name), *mode);
                if both(real, model)?.is_some() && *mode == Mode::Whiteout {
                    let left = self.model.lookup(from_node, &from_name);
                    self.made(self.fs.lookup(from_ino, &from_name), left)?;
                }
            }
            Op::Link { from, to } => {
                let (to_node, to_ino) = self.dir(to.0)?;
                let to_name = to.1.bytes();
                self.on_name(from.0, &from.1.bytes(), |driver, node, ino| {
                    let real = driver.fs.link(ino, to_ino, &to_name);
                    let model = driver.model.link(node, to_node, &to_name);
                    driver.made(real, model)?;
                    Ok(Lookup::Forget)
                })?;
            }
            Op::List { dir } => {
                let (node, ino) = self.dir(*dir)?;
                self.compare_listing(node, ino)?;
            }
            Op::FsyncDir { dir } => {
                let (_, ino) = self.dir(*dir)?;
                let handle = self.fs.opendir(ino).map_err(text)?;
                let synced = self.fs.fsyncdir(handle);
                self.fs.releasedir(handle).map_err(text)?;
                synced.map_err(text)?;
            }
            Op::DirTime { dir, secs } => {
                let (node, ino) = self.dir(*dir)?;
                let time = Timestamp { secs: *secs, nanos: 0 };
                let change =
                    AttrRequest { mtime: Some(TimeChange::At(time)), ..Default::default() };
                self.fs.setattr(ino, None, &change, CALLER).map_err(text)?;
                self.model.node_mut(node).mtime = Some(time);
            }
            Op::Open { dir, name, write, truncate } => {
                self.on_name(*dir, &name.bytes(), |driver, node, ino| {
                    driver.open(node, ino, *write, *truncate)
                })?;
            }
            Op::Truncate { dir, name, size } => {
                self.on_name(*dir, &name.bytes(), |driver, node, ino| {
                    let change = AttrRequest { size: Some(*size), ..Default::default() };
                    let real = driver.fs.setattr(ino, None, &change, CALLER);
                    let model = match &driver.model.node(node).body {
                        Body::File(_) => Ok(()),
                        Body::Dir(_) => Err(vec![libc::EISDIR]),
                        Body::Symlink(_) | Body::Special(..) => Err(vec![libc::EINVAL]),
                    };
                    if let Some((attr, ())) = both(real, model)? {
                        driver.model.content_mut(node).resize(*size as usize, 0);
                        same("size", attr.size, *size)?;
                    }
                    Ok(Lookup::Forget)
                })?;
            }
            Op::Readlink { dir, name } => {
                self.on_name(*dir, &name.bytes(), |driver, node, ino| {
                    let model = match &driver.model.node(node).body {
                        Body::Symlink(target) => Ok(target.clone()),
                        _ => Err(vec![libc::EINVAL]),
                    };
                    if let Some((real, model)) = both(driver.fs.readlink(ino), model)? {
                        same_bytes("target", &real, &model)?;
                    }
                    Ok(Lookup::Forget)
                })?;
            }
            Op::Chmod { dir, name, mode } => {
                let change = AttrRequest { mode: Some(*mode), ..Default::default() };
                self.change(*dir, &name.bytes(), &change)?;
            }
            Op::Chown { dir, name, uid, gid } => {
                let change = AttrRequest { uid: Some(*uid), gid: Some(*gid), ..Default::default() };
                self.change(*dir, &name.bytes(), &change)?;
            }
            Op::Utimens { dir, name, secs, nanos } => {
                let time = TimeChange::At(Timestamp { secs: *secs, nanos: *nanos });
                let change =
                    AttrRequest { atime: Some(time), mtime: Some(time), ..Default::default() };
                self.change(*dir, &name.bytes(), &change)?;
            }
            Op::SetXattr { dir, name, which, len, flags } => {
                self.on_name(*dir, &name.bytes(), |driver, node, ino| {
                    driver.set_xattr((node, ino), *which, *len, *flags)?;
                    Ok(Lookup::Forget)
                })?;
            }
            Op::RemoveXattr { dir, name, which } => {
                self.on_name(*dir, &name.bytes(), |driver, node, ino| {
                    driver.remove_xattr((node, ino), *which)?;
                    Ok(Lookup::Forget)
                })?;
            }
            Op::Tick { secs } => {
                self.vault.pass_time(*secs);
                self.fs.maintain();
            }
            Op::Remount => self.remount()?,
            Op::Close { handle } => {
                if !self.open.is_empty() {
                    let at = handle % self.open.len();
                    let open = self.open.swap_remove(at);
                    self.fs.flush(open.handle).map_err(text)?;
                    self.fs.release(open.handle).map_err(text)?;
                    self.fs.forget(open.ino, 1);
                }
            }
            Op::CopyRange { from, from_offset, to, to_offset, len } => {
                self.copy_range((*from, *from_offset), (*to, *to_offset), *len)?;
            }
            Op::Flush { .. }
            | Op::Fallocate { .. }
            | Op::Seek { .. }
            | Op::Write { .. }
            | Op::Append { .. }
            | Op::Read { .. }
            | Op::HandleTruncate { .. }
            | Op::Fsync { .. } => self.apply_to_handle(op)?,
        }
        Ok(())
    }

    fn apply_to_handle(&mut self, op: &Op) -> Result<(), Different> {
        let (Op::Flush { handle: pick }
        | Op::Write { handle: pick, .. }
        | Op::Append { handle: pick, .. }
        | Op::Read { handle: pick, .. }
        | Op::HandleTruncate { handle: pick, .. }
        | Op::Fallocate { handle: pick, .. }
        | Op::Seek { handle: pick, .. }
        | Op::Fsync { handle: pick }) = op
        else {
            return Ok(());
        };
        let Some(open) = self.handle(*pick) else { return Ok(()) };
        let (handle, node, ino, writes) = (open.handle, open.node, open.ino, open.writes);
        match op {
            Op::Flush { .. } => self.fs.flush(handle).map_err(text),
            Op::Fsync { .. } => self.fsync(handle, ino),
            Op::Fallocate { offset, len, mode, .. } => {
                let open = Open { handle, ino, node, writes };
                self.fallocate(&open, (*offset, *len), *mode)
            }
            Op::Seek { offset, .. } => self.compare_seek(handle, node, *offset),
            Op::Write { offset, len, fill, .. } => {
                self.write(handle, node, writes, *offset, &pattern(*fill, *len))
            }
            Op::Append { len, fill, .. } => {
                let offset = self.model.content(node).len() as u64;
                self.write(handle, node, writes, offset, &pattern(*fill, *len))
            }
            Op::Read { offset, len, .. } => {
                let mut out = vec![0xa5; *len as usize];
                let read = self.fs.read(handle, *offset, &mut out).map_err(text)?;
                same_bytes("what was read", &out[..read], self.model.read(node, *offset, *len))
            }
            Op::HandleTruncate { size, .. } => {
                let change = AttrRequest { size: Some(*size), ..Default::default() };
                let attr = self.fs.setattr(ino, Some(handle), &change, CALLER).map_err(text)?;
                self.model.content_mut(node).resize(*size as usize, 0);
                same("size", attr.size, *size)
            }
            _ => Ok(()),
        }
    }

    fn write(
        &mut self,
        handle: Handle,
        node: NodeIndex,
        writes: bool,
        offset: u64,
        data: &[u8],
    ) -> Result<(), Different> {
        if data.is_empty() {
            // The kernel sends no such thing.
            return Ok(());
        }
        let real = self.fs.write(handle, offset, data, WriteKind::Plain);
        let model = if writes { Ok(()) } else { Err(vec![libc::EBADF]) };
        if both(real, model)?.is_some() {
            self.model.write(node, offset, data);
        }
        Ok(())
    }

    fn made(
        &mut self,
        real: Result<Attr, FsError>,
        model: Result<NodeIndex, Refusal>,
    ) -> Result<(), Different> {
        if let Some((attr, node)) = both(real, model)? {
            self.note(node, attr.id)?;
            self.compare_attr(node, &attr)?;
            self.fs.forget(attr.id, 1);
        }
        Ok(())
    }

    fn create(
        &mut self,
        (node, ino): (NodeIndex, EntryId),
        name: &[u8],
        mode: u32,
        exclusive: bool,
    ) -> Result<(), Different> {
        let flags =
            OpenFlags { access: Access::ReadWrite, truncate: false, exclusive, no_atime: false };
        let real = self.fs.create(ino, name, NewMode { mode, umask: 0 }, flags, CALLER);
        let model = match self.model.make(node, name, Body::File(vec![]), mode) {
            Err(why) if why == [libc::EEXIST] && !exclusive => {
                let there = self.model.entries(node)[name];
                match &self.model.node(there).body {
                    Body::File(_) => Ok(there),
                    Body::Dir(_) => Err(vec![libc::EISDIR]),
                    Body::Symlink(_) => Err(vec![libc::ELOOP]),
                    Body::Special(..) => Err(vec![libc::ENXIO]),
                }
            }
            other => other,
        };
        if let Some(((attr, handle), node)) = both(real, model)? {
            self.note(node, attr.id)?;
            self.open.push(Open { handle, ino: attr.id, node, writes: true });
            self.compare_attr(node, &attr)?;
        }
        Ok(())
    }

    fn create_nameless(
        &mut self,
        (node, ino): (NodeIndex, EntryId),
        mode: u32,
        exclusive: bool,
    ) -> Result<(), Different> {
        let flags =
            OpenFlags { access: Access::ReadWrite, truncate: false, exclusive, no_atime: false };
        let real = self.fs.create_nameless(ino, NewMode { mode, umask: 0 }, flags, CALLER);
        let model = Ok(self.model.make_nameless(node, Body::File(vec![]), mode, !exclusive));
        if let Some(((attr, handle), node)) = both(real, model)? {
            self.note(node, attr.id)?;
            self.open.push(Open { handle, ino: attr.id, node, writes: true });
            self.compare_attr(node, &attr)?;
        }
        Ok(())
    }

    fn open(
        &mut self,
        node: NodeIndex,
        ino: EntryId,
        write: bool,
        truncate: bool,
    ) -> Result<Lookup, Different> {
        let access = if write { Access::ReadWrite } else { Access::Read };
        let flags = OpenFlags { access, truncate, exclusive: false, no_atime: false };
        let model = match &self.model.node(node).body {
            Body::File(_) => Ok(()),
            Body::Dir(_) => Err(vec![libc::EISDIR]),
            Body::Symlink(_) => Err(vec![libc::ELOOP]),
            Body::Special(..) => Err(vec![libc::ENXIO]),
        };
        if let Some((handle, ())) = both(self.fs.open(ino, flags, CALLER), model)? {
            if truncate {
                self.model.content_mut(node).clear();
            }
            self.open.push(Open { handle, ino, node, writes: write });
            return Ok(Lookup::Keep);
        }
        Ok(Lookup::Forget)
    }

    /// Runs `with` on what `name` names in the directory, if it names something.
    fn on_name(
        &mut self,
        dir: usize,
        name: &[u8],
        with: impl FnOnce(&mut Self, NodeIndex, EntryId) -> Result<Lookup, Different>,
    ) -> Result<(), Different> {
        let (dir_node, dir_ino) = self.dir(dir)?;
        if let Some((node, ino)) = self.find((dir_node, dir_ino), name)?
            && with(self, node, ino)? == Lookup::Forget
        {
            self.fs.forget(ino, 1);
        }
        Ok(())
    }

    /// chmod, chown or utimensat, as root.
    fn change(&mut self, dir: usize, name: &[u8], change: &AttrRequest) -> Result<(), Different> {
        self.on_name(dir, name, |driver, node, ino| {
            let model = driver.model.node_mut(node);
            let is_dir = matches!(model.body, Body::Dir(_));
            if change.mode.is_some() && matches!(model.body, Body::Symlink(_)) {
                // No system call does that.
                return Ok(Lookup::Forget);
            }
            model.mode = change.mode.unwrap_or(model.mode);
            if change.uid.is_some() && !is_dir {
                model.mode &= !0o4000;
                if model.mode & 0o010 != 0 {
                    model.mode &= !0o2000;
                }
            }
            model.uid = change.uid.unwrap_or(model.uid);
            model.gid = change.gid.unwrap_or(model.gid);
            if let Some(TimeChange::At(time)) = change.mtime {
                model.mtime = Some(time);
            }
            let attr = driver.fs.setattr(ino, None, change, CALLER).map_err(text)?;
            driver.compare_attr(node, &attr)?;
            Ok(Lookup::Forget)
        })
    }

    fn compare_attr(&self, node: NodeIndex, attr: &Attr) -> Result<(), Different> {
        let model = self.model.node(node);
        same("st_ino", Some(&attr.id), self.inos.get(&node))?;
        match &model.body {
            Body::File(content) => {
                same("kind", attr.kind, EntryKind::File)?;
                same("size", attr.size, content.len() as u64)?;
            }
            Body::Dir(_) => same("kind", attr.kind, EntryKind::Dir)?,
            Body::Symlink(target) => {
                same("kind", attr.kind, EntryKind::Symlink)?;
                same("size", attr.size, target.len() as u64)?;
            }
            Body::Special(kind, rdev) => {
                same("kind and device", (attr.kind, attr.rdev), (*kind, *rdev))?;
                same("size and blocks", (attr.size, attr.blocks_512), (0, 0))?;
            }
        }
        if attr.kind != EntryKind::Dir {
            same("number of names", attr.nlink, model.links)?;
        }
        same("mode", format!("{:o}", attr.mode), format!("{:o}", model.mode))?;
        same("owner", (attr.uid, attr.gid), (model.uid, model.gid))?;
        match model.mtime {
            Some(time) => same("mtime", attr.mtime, time),
            None => Ok(()),
        }
    }

    /// Compares the names of a directory, listed in both ways and from every place in between.
    fn compare_listing(&self, node: NodeIndex, ino: EntryId) -> Result<(), Different> {
        let expected: BTreeSet<Vec<u8>> = self.model.entries(node).keys().cloned().collect();
        let handle = self.fs.opendir(ino).map_err(text)?;
        let mut listed = BTreeSet::new();
        let mut after = 0;
        loop {
            // Two at a time, so that every listing is resumed often.
            let mut some = Vec::new();
            self.fs
                .readdir(handle, after, &mut |item| {
                    if some.len() == 2 {
                        return false;
                    }
                    some.push((item.cookie, item.ino, item.name.to_vec()));
                    true
                })
                .map_err(text)?;
            let Some((last, _, _)) = some.last() else { break };
            after = *last;
            for (_, ino, name) in some {
                if name == b"." || name == b".." {
                    continue;
                }
                let child = self.model.entries(node).get(&name);
                let child = child.ok_or_else(|| format!("{:?} is listed", lossy(&name)))?;
                same("listed st_ino", Some(&ino), self.inos.get(child))?;
                if !listed.insert(name.clone()) {
                    return Err(format!("{:?} is listed twice", lossy(&name)));
                }
            }
        }
        same("listing", &listed, &expected)?;
        self.compare_listing_plus(node, handle, &expected)?;
        self.fs.releasedir(handle).map_err(text)
    }

    fn compare_listing_plus(
        &self,
        node: NodeIndex,
        handle: Handle,
        expected: &BTreeSet<Vec<u8>>,
    ) -> Result<(), Different> {
        let mut listed = BTreeSet::new();
        let mut after = 0;
        loop {
            let mut some = Vec::new();
            self.fs
                .readdirplus(handle, after, &mut |plus| {
                    if some.len() == 3 {
                        return false;
                    }
                    some.push((plus.item.cookie, plus.item.name.to_vec(), plus.attr.copied()));
                    true
                })
                .map_err(text)?;
            let Some((last, _, _)) = some.last() else { break };
            after = *last;
            for (_, name, attr) in some {
                if name == b"." || name == b".." {
                    continue;
                }
                let attr = attr.ok_or_else(|| format!("{:?} has no attributes", lossy(&name)))?;
                let child = self.model.entries(node).get(&name).copied();
                let child = child.ok_or_else(|| format!("{:?} is listed", lossy(&name)))?;
                self.compare_attr(child, &attr)
                    .map_err(|what| format!("of {:?}: {what}", lossy(&name)))?;
                self.fs.forget(attr.id, 1);
                listed.insert(name);
            }
        }
        same("listing with attributes", &listed, expected)
    }

    /// Compares everything that has a path, and everything that is open.
    pub fn compare_trees(&self) -> Result<(), Different> {
        for (node, path) in self.model.dirs() {
            let shown: Vec<String> = path.iter().map(|name| lossy(name)).collect();
            let place = |what: Different| format!("in /{}: {what}", shown.join("/"));
            let ino = self.walk(&path)?;
            self.compare_dir(node, ino).map_err(place)?;
            self.forget_paths();
        }
        for open in &self.open {
            let expected = self.model.content(open.node);
            self.compare_content(open.handle, expected, "an open file")?;
            self.compare_xattrs(open.node, open.ino)?;
        }
        Ok(())
    }

    fn compare_dir(&self, node: NodeIndex, ino: EntryId) -> Result<(), Different> {
        self.compare_attr(node, &self.fs.getattr(ino).map_err(text)?)?;
        self.compare_xattrs(node, ino)?;
        self.compare_listing(node, ino)?;
        for (name, &child) in self.model.entries(node) {
            let what = lossy(name);
            let attr = self.fs.lookup(ino, name).map_err(|error| format!("{what}: {error}"))?;
            self.compare_attr(child, &attr).map_err(|why| format!("{what}: {why}"))?;
            self.compare_xattrs(child, attr.id).map_err(|why| format!("{what}: {why}"))?;
            match &self.model.node(child).body {
                Body::Dir(_) | Body::Special(..) => {}
                Body::File(content) => {
                    let flags = OpenFlags::from_bits(libc::O_RDONLY);
                    let handle = self.fs.open(attr.id, flags, CALLER).map_err(text)?;
                    self.compare_content(handle, content, &what)?;
                    self.fs.release(handle).map_err(text)?;
                }
                Body::Symlink(target) => {
                    let real = self.fs.readlink(attr.id).map_err(text)?;
                    same_bytes(&what, &real, target)?;
                }
            }
            self.fs.forget(attr.id, 1);
        }
        Ok(())
    }

    fn compare_content(
        &self,
        handle: Handle,
        expected: &[u8],
        what: &str,
    ) -> Result<(), Different> {
        // More room than there should be bytes, so that too many show.
        let mut out = vec![0xa5; expected.len() + 5000];
        let mut len = 0;
        while len < out.len() {
            // The kernel asks for at most this much.
            let end = out.len().min(len + (1 << 20));
            match self.fs.read(handle, len as u64, &mut out[len..end]).map_err(text)? {
                0 => break,
                read => len += read,
            }
        }
        same_bytes(what, &out[..len], expected)
    }

    /// The kernel's side ends at once; what it had open ends with it.
    fn remount(&mut self) -> Result<(), Different> {
        self.open.clear();
        let before = self.blocks()?;
        self.fs.close_all();
        same("open handles", self.fs.open_handles(), 0)?;
        self.fs.store().close().map_err(|error| format!("close failed: {error}"))?;
        self.fs = FileSystem::new(self.vault.mount(), View::default());
        self.compare_trees()?;
        same("st_blocks after mounting again", self.blocks()?, before)
    }

    /// Closes everything and looks for what was left behind.
    pub fn finish(mut self) -> Result<(), Different> {
        while !self.open.is_empty() {
            self.apply(&Op::Close { handle: 0 })?;
        }
        self.compare_trees()?;
        same("known inodes", self.fs.known_inodes(), 1)?;
        same("open handles", self.fs.open_handles(), 0)?;
        self.remount()?;
        self.fs.store().close().map_err(|error| format!("close failed: {error}"))
    }
}

#[allow(clippy::needless_pass_by_value)]
pub(super) fn text(error: FsError) -> Different {
    match std::error::Error::source(&error) {
        Some(source) => format!("failed with {error}: {source}"),
        None => format!("failed with {error}"),
    }
}

/// What becomes of the lookup that found an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lookup {
    /// An open file holds it now.
    Keep,
    Forget,
}

/// Bytes in which neighbouring blocks differ.
fn pattern(fill: u8, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    for (at, piece) in bytes.chunks_mut(509).enumerate() {
        piece.fill(fill.wrapping_add(at as u8));
    }
    bytes
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
