//! Names: looking up, making, removing and renaming entries. What is committed moves natively, at once; what is pending
//! moves in memory, and appears in the backing tree when it is committed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use crate::backing::{AttrChange, Backing, FileKind, RenameMode, TempFile};
use crate::format::{
    BackingName, Entry, EntryId, EntryKind, LengthClass, NameClass, classify_name, temp_file_name,
};

use super::claim::{Claim, must_bury};
use super::commit::Take;
use super::core::Core;
use super::dir::{DirState, Doom, Doomed, Under, Vacated, VacatedBy, remove_tree};
use super::dirmap::MapEntry;
use super::edit::Edit;
use super::error::{Attempt, Result, StoreError};
use super::node::{Body, Home, Link, Node, PendingAttr, Place, TreeSpot, backing_name};
use super::{ListEntry, NewAttr, Store};

/// How often an operation tries again after making room for itself.
pub(super) const TRIES: usize = 32;

/// What an operation on names must do first, without the directories' locks.
pub(super) enum Blocked<B: Backing> {
    /// A name was vacated by a move that is not durable yet.
    Sync(Arc<Node<B>>, u64),
    /// The backing name belongs to a node that moves at its next commit.
    Commit(Arc<Node<B>>),
    /// A directory still holds dead entries.
    Settle(Arc<Node<B>>),
    /// The path of a directory that something durable is to move into is not durable itself.
    Path(Arc<Node<B>>),
    /// What is to move needs older layers whose names may not be durable.
    Layers,
    /// Something moved meanwhile.
    Again,
    /// Whether it would lose something cannot be found out now.
    Unknown(StoreError),
}

pub(super) enum Tried<B: Backing, T> {
    Done(T),
    Blocked(Blocked<B>),
}

type LockedDir<'a, B> = (&'a Arc<Node<B>>, MutexGuard<'a, DirState<B>>);

/// One or two locked directories.
pub(super) struct Locked<'a, B: Backing> {
    first: LockedDir<'a, B>,
    second: Option<LockedDir<'a, B>>,
}

impl<'a, B: Backing> Locked<'a, B> {
    /// Locks both, in the order of their ids.
    pub fn lock(store: &Store<B>, a: &'a Arc<Node<B>>, b: &'a Arc<Node<B>>) -> Result<Self> {
        if Arc::ptr_eq(a, b) {
            return Ok(Locked { first: (a, store.lock_dir(a)?), second: None });
        }
        let (low, high) = if a.id() < b.id() { (a, b) } else { (b, a) };
        let first = (low, store.lock_dir(low)?);
        Ok(Locked { first, second: Some((high, store.lock_dir(high)?)) })
    }

    /// The state of one of the two.
    ///
    /// # Panics
    /// If `dir` is neither.
    pub fn of(&mut self, dir: &Arc<Node<B>>) -> &mut DirState<B> {
        if Arc::ptr_eq(self.first.0, dir) {
            return &mut self.first.1;
        }
        let second = self.second.as_mut().filter(|(node, _)| Arc::ptr_eq(node, dir));
        &mut second.expect("the directory is one of the two that were locked").1
    }
}

impl<B: Backing> Store<B> {
    /// The entry of `name` in `dir`.
    pub fn lookup(&self, dir: &Arc<Node<B>>, name: &[u8]) -> Result<Arc<Node<B>>> {
        check_name(name)?;
        let state = self.lock_dir(dir)?;
        let entry = state.map().get(name).ok_or(StoreError::NotFound)?;
        Ok(Arc::clone(self.node_of(dir, &state, name, &entry)?.inode()))
    }

    /// As [`Store::lookup`], but of a file with several names the name.
    pub(super) fn lookup_name(&self, dir: &Arc<Node<B>>, name: &[u8]) -> Result<Arc<Node<B>>> {
        let state = self.lock_dir(dir)?;
        let entry = state.map().get(name).ok_or(StoreError::NotFound)?;
        self.node_of(dir, &state, name, &entry)
    }

    /// The node of a map entry. The caller holds the directory's lock.
    pub(super) fn node_of(
        &self,
        dir: &Arc<Node<B>>,
        state: &DirState<B>,
        name: &[u8],
        entry: &MapEntry,
    ) -> Result<Arc<Node<B>>> {
        if let Some(node) = state.pending.get(&entry.id) {
            return Ok(Arc::clone(node));
        }
        let place = || {
            let home = match state.damaged.get(&entry.id) {
                Some(backing) => Home::Damaged { dir: Arc::clone(dir), name: backing.clone() },
                None => Home::Tree(state.spot(dir, name, entry.id)),
            };
            let link = Link { dir: Arc::clone(dir), name: name.into() };
            Place::new(Some(link), home, dir.dir().map_or(0, |d| d.names.latest()))
        };
        let node = match state.links.get(&entry.id) {
            Some(inode) => self.name_node(entry.id, *inode, entry.kind, place())?,
            None => self.nodes.get_or_insert(entry.id, || Node::new(entry.id, entry.kind, place())),
        };
        let here = {
            let place = node.place.lock();
            place.link.as_ref().is_some_and(|link| {
                Arc::ptr_eq(&link.dir, dir) && &*link.name == name && node.kind() == entry.kind
            })
        };
        if here {
            Ok(node)
        } else {
            // Somebody put a second entry with the id of a live one into the vault.
            Err(StoreError::broken(format!("entry {:016x}", entry.id.get()), "found in two places"))
        }
    }

    /// Calls `visit` for every entry whose cookie is greater than `after`, in order, until it returns false.
    pub fn list(
        &self,
        dir: &Arc<Node<B>>,
        after: u64,
        visit: &mut dyn FnMut(&ListEntry<'_>) -> bool,
    ) -> Result<()> {
        let state = self.lock_dir(dir)?;
        state.map().visit(after, &mut |cookie, entry, name| {
            let id = state.links.get(&entry.id).copied().unwrap_or(entry.id);
            visit(&ListEntry { cookie, id, kind: entry.kind, name })
        });
        Ok(())
    }

    /// The directory that holds `dir`; the root holds itself.
    pub fn parent_id(&self, dir: &Arc<Node<B>>) -> EntryId {
        dir.place.lock().link.as_ref().map_or(EntryId::ROOT, |link| link.dir.id())
    }

    /// Makes an empty regular file, open for writing: whoever made it ends that with [`Store::close_file`], and until then no
    /// commit takes it unasked. It exists in memory until it is committed.
    pub fn create(&self, dir: &Arc<Node<B>>, name: &[u8], new: &NewAttr) -> Result<Arc<Node<B>>> {
        self.make_pending(dir, name, EntryKind::File, None, new)
    }

    pub(super) fn make_pending(
        &self,
        dir: &Arc<Node<B>>,
        name: &[u8],
        kind: EntryKind,
        rdev: Option<u64>,
        new: &NewAttr,
    ) -> Result<Arc<Node<B>>> {
        self.check_change(name)?;
        let mut state = self.lock_dir(dir)?;
        if state.map().get(name).is_some() {
            return Err(StoreError::AlreadyExists);
        }
        let link = Link { dir: Arc::clone(dir), name: name.into() };
        let node = self.new_pending(Some(link), kind, rdev, new)?;
        self.show_pending(&mut state, name, &node);
        Ok(node)
    }

    /// A node that is to have this name, if any, which nothing shows yet.
    pub(super) fn new_pending(
        &self,
        link: Option<Link<B>>,
        kind: EntryKind,
        rdev: Option<u64>,
        new: &NewAttr,
    ) -> Result<Arc<Node<B>>> {
        let id = EntryId::random(&*self.core.entropy);
        if let Some(rdev) = rdev {
            self.core.see_device(id, rdev);
        }
        let now = self.core.now();
        let place = Place::new(link, Home::Pending, 0);
        let node = Node::new(id, kind, place);
        {
            let mut file = node.file()?.state.write();
            file.attr = Some(PendingAttr {
                mode: new.mode,
                uid: new.uid,
                gid: new.gid,
                atime: now,
                mtime: now,
                ctime: now,
            });
            file.open = Some(Edit::begin(&self.core, 0));
            file.changes = 1;
            file.writers = u32::from(kind == EntryKind::File);
        }
        Ok(node)
    }

    /// Shows a new node under its name, which is free.
    pub(super) fn show_pending(&self, state: &mut DirState<B>, name: &[u8], node: &Arc<Node<B>>) {
        let (id, kind, now) = (node.id(), node.kind(), self.core.now());
        self.nodes.insert(node);
        state.map_mut().insert(name, MapEntry { id, kind, published: false, damaged: false });
        state.pending.insert(id, Arc::clone(node));
        state.times = Some((now, now));
        self.queue.add(node);
    }

    /// Makes a directory, at once.
    pub fn mkdir(&self, dir: &Arc<Node<B>>, name: &[u8], new: &NewAttr) -> Result<Arc<Node<B>>> {
        self.check_change(name)?;
        self.try_until(|| {
            let mut state = self.lock_dir(dir)?;
            if state.map().get(name).is_some() {
                return Err(StoreError::AlreadyExists);
            }
            let claim = match self.claim(dir, &mut state, name) {
                Ok(claim) => claim,
                Err(blocked) => return Ok(Tried::Blocked(blocked)),
            };
            let id = EntryId::random(&*self.core.entropy);
            let kind = EntryKind::Dir;
            let what = Entry {
                kind,
                id,
                inode: None,
                replaces: claim.replaces,
                rdev: None,
                name: name.to_vec(),
            };
            let backing = backing_name(&self.core, dir.id(), what);
            let fd = dir.dir_fd(&self.core)?;
            self.ensure_sidecar(dir, &fd, &mut state, &backing)?;
            let privileged = self.core.backing.is_privileged();
            let mode = if privileged { new.mode } else { new.mode | 0o700 };
            self.core.backing.mkdir(&fd, &backing.name, mode).attempt("make a directory")?;
            let spot =
                TreeSpot { dir: Arc::clone(dir), name: name.into(), replaces: claim.replaces };
            let link = Link { dir: Arc::clone(dir), name: name.into() };
            let link_seq = dir.dir()?.names.count();
            let place = Place::new(Some(link), Home::Tree(spot), link_seq);
            let node = Node::new(id, kind, place);
            let owner = AttrChange {
                uid: privileged.then_some(new.uid),
                gid: privileged.then_some(new.gid),
                // Changing the owner clears set-id bits; a set-group-id directory keeps its own.
                mode: Some(new.mode),
                ..AttrChange::default()
            };
            let changed = node.change_home(&self.core, &owner);
            // Whoever is refused must not find it, nor a second one when trying again.
            if changed.is_err() && self.core.backing.rmdir(&fd, &backing.name).is_ok() {
                let spot =
                    TreeSpot { dir: Arc::clone(dir), name: name.into(), replaces: claim.replaces };
                let change = dir.dir()?.names.count_departure();
                // Whose removal is not durable is forgotten by who takes the name after this one: he waits for that.
                let by = if claim.replaces.is_some() {
                    VacatedBy::Moved
                } else {
                    VacatedBy::Removed(id)
                };
                self.vacate(&mut state, &spot, backing, change, by);
            } else {
                self.nodes.insert(&node);
                self.entry_made(&mut state, name, id, kind, &claim, link_seq);
            }
            changed?;
            Ok(Tried::Done(node))
        })
    }

    /// Book-keeping after a backing entry was put under `name`.
    fn entry_made(
        &self,
        state: &mut DirState<B>,
        name: &[u8],
        id: EntryId,
        kind: EntryKind,
        claim: &Claim,
        change: u64,
    ) {
        state.map_mut().insert(name, MapEntry { id, kind, published: true, damaged: false });
        match claim.replaces {
            Some(replaced) => state.replaces.insert(name.into(), replaced),
            None => state.replaces.remove(name),
        };
        state.take_vacated(name);
        let _ = change;
        state.touch(self.core.now());
    }

    /// Removes a file's name.
    pub fn unlink(&self, dir: &Arc<Node<B>>, name: &[u8]) -> Result<()> {
        self.check_change(name)?;
        let unlink = || {
            if let Some(tried) = self.unlink_waiting(dir, name)? {
                return Ok(tried);
            }
            match self.unlink_away(dir, name)? {
                Some(tried) => Ok(tried),
                None => self.try_unlink(dir, name),
            }
        };
        self.with_reserve(|| self.try_until(unlink))
    }

    /// unlink of what the mount moved here and the backing tree still holds elsewhere; `None` if it is not like that.
    fn unlink_away(&self, dir: &Arc<Node<B>>, name: &[u8]) -> Result<Option<Tried<B, ()>>> {
        let (node, spot) = {
            let state = self.lock_dir(dir)?;
            let entry = state.map().get(name);
            let Some(node) = entry.and_then(|entry| state.pending.get(&entry.id)) else {
                return Ok(None);
            };
            match clone_home(node) {
                Home::Tree(spot) => (Arc::clone(node), spot),
                _ => return Ok(None),
            }
        };
        let mut locked = Locked::lock(self, dir, &spot.dir)?;
        let shown = locked.of(dir).map().get(name).is_some_and(|entry| entry.id == node.id());
        let still = matches!(&node.place.lock().home, Home::Tree(now)
            if Arc::ptr_eq(&now.dir, &spot.dir) && now.name == spot.name);
        if !shown || !still || !locked.of(dir).pending.contains_key(&node.id()) {
            return Ok(Some(Tried::Blocked(Blocked::Again)));
        }
        let mut first = self.must_precede(&spot.dir, locked.of(&spot.dir), &spot.name, node.id());
        if let Some(&Under::Replaced { id, .. }) = locked.of(dir).under.get(name) {
            first = first.or_else(|| self.must_precede(dir, locked.of(dir), name, id));
        }
        if let Some(blocked) = first {
            return Ok(Some(Tried::Blocked(blocked)));
        }
        self.remove_replaced(dir, locked.of(dir), name)?;
        let left = locked.of(&spot.dir);
        spot.dir.hold_times(&self.core, left)?;
        let link = node.place.lock().link.take();
        let removed = self.remove_entry(left, Some(&node), &spot, node.id(), node.kind());
        if removed.is_err() {
            node.place.lock().link = link;
        }
        removed?;
        left.forget_moved(&node);
        node.place.lock().away = false;
        node.waits_no_more();
        let change = spot.dir.dir()?.names.latest();
        let state = locked.of(dir);
        state.map_mut().remove(name);
        state.pending.remove(&node.id());
        state.links.remove(&node.id());
        if !Arc::ptr_eq(&spot.dir, dir) {
            // Who has `dir` synced wants it gone.
            state.sync_before(&spot.dir, change);
        }
        self.changed_names(state);
        let mut touched = self.touched.lock();
        touched.push(Arc::clone(dir));
        touched.push(Arc::clone(&spot.dir));
        drop(touched);
        drop(locked);
        self.queue.remove_if_done(&node);
        Ok(Some(Tried::Done(())))
    }

    fn try_unlink(&self, dir: &Arc<Node<B>>, name: &[u8]) -> Result<Tried<B, ()>> {
        let mut state = self.lock_dir(dir)?;
        let entry = state.map().get(name).ok_or(StoreError::NotFound)?;
        if entry.kind == EntryKind::Dir {
            return Err(StoreError::IsADirectory);
        }
        let under = match state.under.get(name) {
            Some(Under::Replaced { id, .. }) => Some(*id),
            Some(Under::MovedAway(_)) | None => None,
        };
        let mut going = entry.published.then_some(entry.id).into_iter().chain(under);
        if let Some(blocked) = going.find_map(|id| self.must_precede(dir, &state, name, id)) {
            return Ok(Tried::Blocked(blocked));
        }
        if entry.damaged {
            return self.remove_damaged(dir, &mut state, name, entry.id).map(Tried::Done);
        }
        self.remove_replaced(dir, &mut state, name)?;
        if entry.published {
            let spot = state.spot(dir, name, entry.id);
            let live = self.living_at(entry.id, &spot);
            self.remove_entry(&mut state, live.as_ref(), &spot, entry.id, entry.kind)?;
        } else {
            let node = state.pending.get(&entry.id).cloned().ok_or(StoreError::NotFound)?;
            self.drop_pending(dir, &mut state, &node)?;
        }
        state.map_mut().remove(name);
        if entry.published {
            state.replaces.remove(name);
        }
        state.sealed_as.remove(&entry.id);
        self.changed_names(&mut state);
        Ok(Tried::Done(()))
    }

    /// What the entry of `name`, which is about to be removed, was to replace goes with it, and before it: if this fails, the
    /// name shows what it did. One that is to move away keeps its claim to the name.
    fn remove_replaced(
        &self,
        dir: &Arc<Node<B>>,
        state: &mut DirState<B>,
        name: &[u8],
    ) -> Result<()> {
        if let Some(&Under::Replaced { id, kind, replaces }) = state.under.get(name) {
            let spot = TreeSpot { dir: Arc::clone(dir), name: name.into(), replaces };
            let live = self.living_at(id, &spot);
            self.remove_entry(state, live.as_ref(), &spot, id, kind)?;
            state.under.remove(name);
        }
        Ok(())
    }

    /// The mount's times of a directory after its names changed.
    pub(super) fn changed_names(&self, state: &mut DirState<B>) {
        let now = self.core.now();
        state.touch(now);
        if state.times.is_none() && !state.pending.is_empty() {
            state.times = Some((now, now));
        }
    }

    /// Takes a node that is shown in `dir`, and has no backing entry anywhere, out of the mount.
    pub(super) fn drop_pending(
        &self,
        dir: &Arc<Node<B>>,
        state: &mut DirState<B>,
        node: &Arc<Node<B>>,
    ) -> Result<()> {
        state.pending.remove(&node.id());
        state.times = Some((self.core.now(), self.core.now()));
        // Nothing is published here that would have the times given to the backing directory.
        self.touched.lock().push(Arc::clone(dir));
        node.place.lock().link = None;
        if let Body::Name(_) = &node.body {
            self.waiting_dropped(dir, state, node)?;
        } else if !has_handles(node) {
            self.let_go(node);
        }
        Ok(())
    }

    /// Forgets the uncommitted content of a node that no name and no handle leads to.
    pub(super) fn discard(&self, node: &Arc<Node<B>>) {
        if let Ok(body) = node.file() {
            let (open, frozen) = {
                // Whoever changes the open edit just now finds it until he is done.
                let _alone = body.gate.write();
                let mut state = body.state.write();
                (state.open.take(), state.frozen.take())
            };
            drop((open, frozen));
            let mut place = node.place.lock();
            if matches!(place.home, Home::Pending) {
                place.home = Home::Gone;
            }
        }
        self.queue.remove(node.id());
    }

    /// Removes the backing entry at `spot` natively; the caller holds the directory's lock, and has found that nothing must
    /// precede it. A file that is open becomes a ghost.
    pub(super) fn remove_entry(
        &self,
        state: &mut DirState<B>,
        live: Option<&Arc<Node<B>>>,
        spot: &TreeSpot<B>,
        id: EntryId,
        kind: EntryKind,
    ) -> Result<()> {
        debug_assert!(must_bury(&spot.dir, state, &spot.name).is_none());
        let core = &self.core;
        let fd = spot.dir.dir_fd(core)?;
        let backing = state.backing_name(core, spot, id, kind);
        let buried = live.map(|node| (node, node.bury(core)));
        if let Some((node, None)) = buried {
            self.make_ghost(node, &spot.dir, state, &backing.name)?;
            let mut place = node.place.lock();
            if place.link.as_ref().is_some_and(|link| spot.is_at(link)) {
                place.link = None;
            }
        } else {
            let layered = self.takes_layers_along(&fd, &backing.name, id, kind, live);
            let sided = self.takes_sides_along(&fd, &backing.name, id, live);
            let removed = self.unlink_entry(state, &fd, &backing.name, id);
            if let (Some((node, Some(home))), false) = (buried, removed.is_ok()) {
                node.unbury(home);
            }
            removed.attempt("remove a file")?;
            if let Some(node) = live {
                let mut place = node.place.lock();
                if place.link.as_ref().is_some_and(|link| spot.is_at(link)) {
                    place.link = None;
                }
            }
            if layered {
                let change = spot.dir.dir()?.names.latest() + 1;
                self.doom(&spot.dir, state, change, &spot.name, Doom::AllLayers(id));
            }
            if sided {
                let change = spot.dir.dir()?.names.latest() + 1;
                self.doom(&spot.dir, state, change, &spot.name, Doom::Sides(id));
            }
        }
        let change = spot.dir.dir()?.names.count_departure();
        self.vacate(state, spot, backing, change, VacatedBy::Removed(id));
        if let Some(node) = live.filter(|node| node.is_gone()) {
            self.discard(node);
        }
        if let Some(inode) = state.take_link(id) {
            self.name_removed(inode, &spot.dir, state, change);
        }
        Ok(())
    }

    /// The live node of `id`, if `spot` is where its entry is: a cut on btrfs, or somebody who merges backups, may leave an
    /// entry in two places, and what happens to the other one is none of its business.
    pub(super) fn living_at(&self, id: EntryId, spot: &TreeSpot<B>) -> Option<Arc<Node<B>>> {
        self.nodes.get(id).filter(|node| {
            matches!(&node.place.lock().home, Home::Tree(at)
                if Arc::ptr_eq(&at.dir, &spot.dir) && at.name == spot.name)
        })
    }

    /// Whether the older layers of the file that is about to be removed are no longer needed then: not if there are none,
    /// and not if the same file stands elsewhere as well.
    pub(super) fn takes_layers_along(
        &self,
        fd: &B::Dir,
        backing: &[u8],
        id: EntryId,
        kind: EntryKind,
        live: Option<&Arc<Node<B>>>,
    ) -> bool {
        let elsewhere = live.is_none()
            && self.nodes.get(id).is_some_and(|n| matches!(n.place.lock().home, Home::Tree(_)));
        kind == EntryKind::File
            && !elsewhere
            && !self.may_be_inode(id)
            && self.core.backing.stat(fd, crate::backing::At::Name(backing)).is_ok_and(|stat| {
                stat.nlink < 2 && self.core.geometry.classify(stat.len) == LengthClass::Mapped
            })
    }

    /// Notes that `spot` no longer holds an entry.
    pub(super) fn vacate(
        &self,
        state: &mut DirState<B>,
        spot: &TreeSpot<B>,
        backing: BackingName,
        change: u64,
        by: VacatedBy,
    ) {
        state.vacated.insert(spot.name.clone(), Vacated { change, by });
        // Forgotten again once it is durable.
        self.queue.unsettle(&spot.dir);
        if let Some(sidecar) = backing.sidecar {
            self.doom(&spot.dir, state, change, &spot.name, Doom::Sidecar(sidecar.name));
        }
    }

    /// Has `what` removed once `dir` is synced beyond `change`.
    pub(super) fn doom(
        &self,
        dir: &Arc<Node<B>>,
        state: &mut DirState<B>,
        change: u64,
        name: &[u8],
        what: Doom,
    ) {
        state.doomed.push(Doomed { change, name: name.into(), what });
        self.queue.unsettle(dir);
    }

    fn remove_damaged(
        &self,
        dir: &Arc<Node<B>>,
        state: &mut DirState<B>,
        name: &[u8],
        id: EntryId,
    ) -> Result<()> {
        let fd = dir.dir_fd(&self.core)?;
        if let Some(backing) = state.damaged.remove(&id) {
            remove_tree(&self.core, &fd, &backing)?;
            // Nobody knows what it referred to: the end of the mount looks.
            self.core.note_orphans();
        }
        if let Some(node) = self.nodes.get(id) {
            node.place.lock().link = None;
        }
        dir.dir()?.names.count_departure();
        state.map_mut().remove(name);
        self.changed_names(state);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, dir: &Arc<Node<B>>, name: &[u8]) -> Result<()> {
        self.check_change(name)?;
        let rmdir = || {
            let child = {
                let state = self.lock_dir(dir)?;
                let entry = state.map().get(name).ok_or(StoreError::NotFound)?;
                if entry.kind != EntryKind::Dir {
                    return Err(StoreError::NotADirectory);
                }
                self.node_of(dir, &state, name, &entry)?
            };
            let mut locked = Locked::lock(self, dir, &child)?;
            if let Some(blocked) = must_bury(dir, locked.of(dir), name) {
                return Ok(Tried::Blocked(blocked));
            }
            let still = locked.of(dir).map().get(name).is_some_and(|entry| entry.id == child.id());
            if !still {
                return Err(StoreError::NotFound);
            }
            if let Some(blocked) = check_empty(&child, locked.of(&child))? {
                return Ok(Tried::Blocked(blocked));
            }
            let spot = locked.of(dir).spot(dir, name, child.id());
            self.remove_dir_at(&mut locked, &spot, &child)?;
            let state = locked.of(dir);
            state.map_mut().remove(name);
            state.replaces.remove(name);
            self.changed_names(state);
            Ok(Tried::Done(()))
        };
        self.with_reserve(|| self.try_until(rmdir))
    }

    /// Removes the empty directory `child` natively from `spot`.
    fn remove_dir_at(
        &self,
        locked: &mut Locked<'_, B>,
        spot: &TreeSpot<B>,
        child: &Arc<Node<B>>,
    ) -> Result<()> {
        let core = &self.core;
        let fd = spot.dir.dir_fd(core)?;
        let backing = child.entry_at(core, spot);
        remove_empty_dir(core, &fd, &backing.name)?;
        let change = spot.dir.dir()?.names.count_departure();
        // What waits for the child's names to be gone waits for the child to be gone.
        let orphans: Vec<Doomed> = std::mem::take(&mut locked.of(child).doomed);
        locked.of(child).removed = true;
        let mut place = child.place.lock();
        place.home = Home::Gone;
        place.link = None;
        drop(place);
        let state = locked.of(&spot.dir);
        for orphan in orphans {
            self.doom(&spot.dir, state, change, &spot.name, orphan.what);
        }
        self.doom_sides(&spot.dir, state, change, child.id());
        // A cut may bring the directory back with what was moved out of it, which a new one of its name would hide.
        let by = if core.backing.keeps_name_order() {
            VacatedBy::Removed(child.id())
        } else {
            VacatedBy::Moved
        };
        self.vacate(state, spot, backing, change, by);
        Ok(())
    }

    /// Writes the sidecar of a long name, if it has one, and makes it durable under its own name: before the long name
    /// itself appears, which says nothing without it.
    pub(super) fn ensure_sidecar(
        &self,
        dir: &Arc<Node<B>>,
        fd: &B::Dir,
        state: &mut DirState<B>,
        backing: &BackingName,
    ) -> Result<()> {
        let Some(sidecar) = &backing.sidecar else { return Ok(()) };
        state
            .doomed
            .retain(|doomed| !matches!(&doomed.what, Doom::Sidecar(name) if *name == sidecar.name));
        let core = &self.core;
        let temp_name = temp_file_name(&*core.entropy);
        let temp =
            core.backing.create_temp(&core.tmp, &temp_name, 0o600).attempt("create a sidecar")?;
        temp.write_at(0, &sidecar.content).attempt("write a sidecar")?;
        temp.sync().attempt("sync a sidecar")?;
        core.backing
            .rename(&core.tmp, &temp_name, fd, &sidecar.name, RenameMode::Replace)
            .attempt("place a sidecar")?;
        // The one sync under a directory's lock: long names are rare.
        core.backing
            .sync_arrivals(fd)
            .attempt("sync a sidecar's name")
            .inspect_err(|_| dir.names_failed())
    }

    /// Repeats `op` until it is done, making room for it in between.
    pub(super) fn try_until<T>(&self, mut op: impl FnMut() -> Result<Tried<B, T>>) -> Result<T> {
        for _ in 0..TRIES {
            match op()? {
                Tried::Done(done) => return Ok(done),
                Tried::Blocked(Blocked::Sync(dir, change)) => dir.sync_names(&self.core, change)?,
                Tried::Blocked(Blocked::Commit(node)) => {
                    self.commit(std::slice::from_ref(&node), Take::All)?;
                }
                Tried::Blocked(Blocked::Settle(dir)) => self.settle(&dir)?,
                Tried::Blocked(Blocked::Path(dir)) => self.sync_path(&dir)?,
                Tried::Blocked(Blocked::Layers) => self.sync_layer_names()?,
                Tried::Blocked(Blocked::Again) => {
                    std::thread::sleep(std::time::Duration::from_micros(200));
                }
                Tried::Blocked(Blocked::Unknown(error)) => return Err(error),
            }
        }
        Err(StoreError::Io {
            what: "change a name that keeps changing",
            source: std::io::Error::from_raw_os_error(libc::EAGAIN),
        })
    }

    pub(super) fn lock_dir<'a>(
        &self,
        dir: &'a Arc<Node<B>>,
    ) -> Result<MutexGuard<'a, DirState<B>>> {
        let fresh = dir.dir()?.handles.load(Ordering::Relaxed) == 0 && !dir.is_dir_loaded();
        let mut state = dir.lock_dir(&self.core)?;
        if state.lacks_rescue {
            state.lacks_rescue = !self.note_rescue(dir);
        }
        if fresh {
            self.cache.note_loaded(dir, state.map().len());
            if !state.doomed.is_empty() {
                self.queue.unsettle(dir);
            }
        }
        Ok(state)
    }

    pub(super) fn check_change(&self, name: &[u8]) -> Result<()> {
        if self.core.options.read_only {
            return Err(StoreError::ReadOnly);
        }
        check_name(name)
    }
}

/// Whether the directory has no entries, shown or hidden; what hides is settled first.
pub(super) fn check_empty<B: Backing>(
    child: &Arc<Node<B>>,
    state: &DirState<B>,
) -> Result<Option<Blocked<B>>> {
    if state.map().len() > 0 {
        return Err(StoreError::NotEmpty);
    }
    let away = state.under.values().find_map(|under| match under {
        Under::MovedAway(node) => Some(Arc::clone(node)),
        Under::Replaced { .. } => None,
    });
    if let Some(node) = away {
        return Ok(Some(Blocked::Commit(node)));
    }
    let hides = state
        .doomed
        .iter()
        .any(|doomed| matches!(doomed.what, Doom::Entry { .. } | Doom::Sidecar(_)));
    Ok(hides.then(|| Blocked::Settle(Arc::clone(child))))
}

/// A copy of where the node's entry is.
pub(super) fn clone_home<B: Backing>(node: &Node<B>) -> Home<B> {
    node.place.lock().home.clone()
}

/// Removes the backing directory `name`, which shows nothing, with what it may hold that is not the user's: its rescue copy, and
/// sidecars of names that are gone.
///
/// # Errors
/// [`StoreError::NotEmpty`] if it holds anything else.
pub(super) fn remove_empty_dir<B: Backing>(
    core: &Core<B>,
    parent: &B::Dir,
    name: &[u8],
) -> Result<()> {
    match core.backing.rmdir(parent, name) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTEMPTY) => {}
        done => return done.attempt("remove a directory"),
    }
    let inside = core.backing.open_dir(parent, name).attempt("open a directory")?;
    for raw in core.backing.list(&inside).attempt("read a directory")? {
        match classify_name(&raw.name) {
            // Whatever somebody put in its place.
            NameClass::Rescue => remove_tree(core, &inside, &raw.name)?,
            NameClass::Sidecar if raw.kind == FileKind::File => {
                core.backing.unlink(&inside, &raw.name).attempt("remove a sidecar")?;
            }
            _ => return Err(StoreError::NotEmpty),
        }
    }
    core.backing.rmdir(parent, name).attempt("remove a directory")
}

/// Whether anybody has the file open.
pub(super) fn has_handles<B: Backing>(node: &Node<B>) -> bool {
    node.file().is_ok_and(|body| {
        let state = body.state.read();
        state.readers + state.writers > 0
    })
}

pub(super) fn check_name(name: &[u8]) -> Result<()> {
    match name.len() {
        1..=255 if !name.contains(&0) && !name.contains(&b'/') && name != b"." && name != b".." => {
            Ok(())
        }
        256.. => Err(StoreError::NameTooLong),
        _ => Err(StoreError::InvalidArgument),
    }
}
