//! Extended attributes: sealed beside the backing entry, carried from each version of a file to the next.
//!
//! A file that is not published yet has them in memory. Every later version is a new backing file: it is given all of them
//! before its sync, and once more, if they changed, under the locks of the rename that publishes it. Who changes one holds
//! the same locks ([`Store::hold_home`]), so a change meets either the old file before it was copied or the new one.
//! More of them than [`INLINE_LEN_MAX`], and what the backing filesystem does not take, are in a side object
//! (`store/sides.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::backing::{At, Backing, TempFile};
use crate::format::{
    EntryKind, MODE_ATTRIBUTE, SIDE_ATTRIBUTE, is_sealed_xattr, open_xattr, open_xattr_name,
    seal_xattr, temp_file_name, xattr_name, xattr_name_len,
};

use super::Store;
use super::core::Core;
use super::error::{Attempt, Result, StoreError};
use super::finish::Finished;
use super::node::{Body, Home, Node};
use super::sides::{KnownSide, Looked, Side, SideWork, check_total, open_all, open_reference};

/// Longest name of a backing attribute in bytes, as of the kernel.
const BACKING_NAME_LEN_MAX: usize = 255;

/// Backing attributes of one object take no more than this, names and values together, in bytes. Beside them there is
/// always room for the reference to a side object: ext4 with blocks of 4 KiB has twice as much.
const INLINE_LEN_MAX: usize = 2048;

/// Attributes by backing name, sealed as they are stored.
pub(crate) type Sealed = BTreeMap<Vec<u8>, Vec<u8>>;

/// Whether an attribute may, or must, exist when it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattr {
    /// Made or replaced.
    Any,
    /// Only made.
    Create,
    /// Only replaced.
    Replace,
}

/// What a node knows of its attributes. A leaf in the order of locks.
#[derive(Debug, Default)]
pub(crate) struct HeldXattrs {
    /// Of what is not published: all of them.
    waiting: Sealed,
    /// Counts changes, before and after each.
    pub(super) version: u64,
    /// The backing entry has none. Looked up once, since the kernel asks before writes (for file capabilities).
    pub(super) none: bool,
    /// Changes of attributes of the published entry, these and the other ones, and how many of them are durable.
    changed: u64,
    synced: u64,
    /// The side object of the published entry, once somebody asked.
    pub(super) side: Looked,
    /// What later ones took the place of.
    pub(super) work: SideWork,
}

/// What the layer of a next version was given.
#[derive(Debug, Default)]
pub(crate) struct GivenXattrs(Mutex<(Option<u64>, Sealed)>);

impl<B: Backing> Node<B> {
    /// Runs `with` where the backing entry is now.
    pub(super) fn at_entry<T>(
        self: &Arc<Self>,
        core: &Core<B>,
        mut with: impl FnMut(&B::Dir, At<'_>) -> io::Result<T>,
        what: &'static str,
    ) -> Result<T> {
        if let Body::Dir(_) = &self.body {
            return with(&*self.dir_fd(core)?, At::This).attempt(what);
        }
        self.at_home(core, |dir, name| with(dir, At::Name(name)), what)
    }

    /// The attributes of what is not published; `None` of what is.
    fn waiting_xattrs(&self) -> Option<Sealed> {
        let place = self.place.lock();
        let in_memory = matches!(place.home, Home::Pending | Home::Gone);
        in_memory.then(|| self.xattrs.lock().waiting.clone())
    }

    fn sealed_xattr(self: &Arc<Self>, core: &Core<B>, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if let Some(waiting) = self.waiting_xattrs() {
            return Ok(waiting.get(key).cloned());
        }
        if self.xattrs.lock().none {
            return Ok(None);
        }
        self.at_entry(core, |dir, at| core.backing.get_xattr(dir, at, key), "read an attribute")
    }

    /// The backing names of its attributes, but for the internal ones.
    pub(super) fn xattr_keys(self: &Arc<Self>, core: &Core<B>) -> Result<BTreeSet<Vec<u8>>> {
        if let Some(waiting) = self.waiting_xattrs() {
            return Ok(waiting.into_keys().collect());
        }
        let version = {
            let held = self.xattrs.lock();
            if held.none {
                return Ok(BTreeSet::new());
            }
            held.version
        };
        let all =
            self.at_entry(core, |dir, at| core.backing.list_xattrs(dir, at), "list attributes")?;
        let mut keys: BTreeSet<_> = all.into_iter().filter(|key| is_sealed_xattr(key)).collect();
        let mut sided = false;
        if !keys.is_empty() {
            keys.remove(&xattr_name(&core.keys, self.id(), MODE_ATTRIBUTE));
            sided = keys.remove(&xattr_name(&core.keys, self.id(), SIDE_ATTRIBUTE));
        }
        let mut held = self.xattrs.lock();
        held.none = keys.is_empty() && !sided && held.version == version;
        Ok(keys)
    }

    fn all_sealed_xattrs(self: &Arc<Self>, core: &Core<B>) -> Result<Sealed> {
        if let Some(waiting) = self.waiting_xattrs() {
            return Ok(waiting);
        }
        let mut all = Sealed::new();
        let side = xattr_name(&core.keys, self.id(), SIDE_ATTRIBUTE);
        if let Some(sealed) = self.sealed_xattr(core, &side)? {
            let readable = open_reference(core, self.id(), &sealed).is_ok();
            all.insert(side, sealed);
            if readable {
                return Ok(all);
            }
        }
        for key in self.xattr_keys(core)? {
            if let Some(sealed) = self.sealed_xattr(core, &key)? {
                all.insert(key, sealed);
            }
        }
        Ok(all)
    }

    /// Sets or removes a backing attribute of the published entry; `side` is its side object from then on.
    pub(super) fn put_backing(
        self: &Arc<Self>,
        core: &Core<B>,
        key: &[u8],
        sealed: Option<&[u8]>,
        side: Option<KnownSide>,
    ) -> Result<()> {
        let count = |side: Looked| {
            let mut held = self.xattrs.lock();
            held.version += 1;
            held.none = false;
            held.changed += 1;
            held.side = side;
        };
        // Before and after: who lists meanwhile must not take note that there are none.
        count(Looked::No);
        let put = self.at_entry(
            core,
            |dir, at| core.backing.set_xattr(dir, at, key, sealed),
            "change an attribute",
        );
        count(if put.is_ok() { Looked::at(side) } else { Looked::No });
        put
    }

    /// Attributes of the published entry changed: the next fsync makes them durable.
    pub(crate) fn note_unsynced_attr(&self) {
        self.xattrs.lock().changed += 1;
    }

    /// The version with the attributes `given` is published.
    pub(crate) fn note_published_xattrs(&self, given: &GivenXattrs) {
        let given = given.0.lock();
        let mut held = self.xattrs.lock();
        held.waiting.clear();
        held.side = Looked::No;
        held.none |= given.0 == Some(held.version) && given.1.is_empty();
    }
}

impl<B: Backing> Store<B> {
    /// Whether attributes of `node` can be read without waiting for the disk.
    pub fn xattrs_are_held(&self, node: &Arc<Node<B>>) -> bool {
        let node = node.inode();
        node.xattrs.lock().none || matches!(node.place.lock().home, Home::Pending)
    }

    /// Whether `node` has extended attributes at all. Asked of the disk once, where it has none.
    pub fn has_xattrs(&self, node: &Arc<Node<B>>) -> Result<bool> {
        let node = node.inode();
        if let Body::Damaged = &node.body {
            return Ok(false);
        }
        if !node.xattr_keys(&self.core)?.is_empty() {
            return Ok(true);
        }
        Ok(node.waiting_xattrs().is_none() && node.may_have_in_side(&self.core, b"")? != Side::None)
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`.
    pub fn get_xattr(&self, node: &Arc<Node<B>>, name: &[u8]) -> Result<Vec<u8>> {
        let node = node.inode();
        if let Body::Damaged = &node.body {
            return Err(StoreError::NoAttribute);
        }
        let core = &self.core;
        let in_memory = node.waiting_xattrs().is_some();
        if !in_memory {
            match node.may_have_in_side(core, name)? {
                Side::None if xattr_name_len(name.len()) > BACKING_NAME_LEN_MAX => {
                    return Err(StoreError::NoAttribute);
                }
                Side::None => {}
                Side::Without => return Err(StoreError::NoAttribute),
                Side::Perhaps => {
                    if let Some(mut map) = node.side_map(core)? {
                        return map.remove(name).ok_or(StoreError::NoAttribute);
                    }
                }
            }
        }
        let key = xattr_name(&core.keys, node.id(), name);
        let Some(sealed) = node.sealed_xattr(core, &key)? else {
            return Err(StoreError::NoAttribute);
        };
        open_xattr(&self.core.keys, node.id(), name, &sealed).map_err(|error| {
            StoreError::damaged(format!("an attribute of entry {:016x}", node.id().get()), &error)
        })
    }

    /// The names of all extended attributes, sorted. What is no attribute of this entry is left out.
    pub fn list_xattrs(&self, node: &Arc<Node<B>>) -> Result<Vec<Vec<u8>>> {
        let node = node.inode();
        if let Body::Damaged = &node.body {
            return Ok(Vec::new());
        }
        if node.waiting_xattrs().is_none()
            && let Some(map) = node.side_map(&self.core)?
        {
            return Ok(map.into_keys().collect());
        }
        let keys = node.xattr_keys(&self.core)?;
        let mut names: Vec<_> = keys
            .iter()
            .filter_map(|key| open_xattr_name(&self.core.keys, node.id(), key).ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `AlreadyExists`, `NoAttribute` as `how` says; `AttributeTooBig` for what the backing filesystem does not take.
    pub fn set_xattr(
        &self,
        node: &Arc<Node<B>>,
        name: &[u8],
        value: &[u8],
        how: SetXattr,
    ) -> Result<()> {
        let node = node.inode();
        self.change_xattr(node, name, Some(value), |exists| match how {
            SetXattr::Create if exists => Err(StoreError::AlreadyExists),
            SetXattr::Replace if !exists => Err(StoreError::NoAttribute),
            SetXattr::Any | SetXattr::Create | SetXattr::Replace => Ok(()),
        })
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`.
    pub fn remove_xattr(&self, node: &Arc<Node<B>>, name: &[u8]) -> Result<()> {
        let node = node.inode();
        self.change_xattr(node, name, None, |exists| {
            if exists { Ok(()) } else { Err(StoreError::NoAttribute) }
        })
    }

    /// Sets or removes the attribute `name` if `check` has nothing against it, told whether it exists.
    fn change_xattr(
        &self,
        node: &Arc<Node<B>>,
        name: &[u8],
        value: Option<&[u8]>,
        check: impl Fn(bool) -> Result<()>,
    ) -> Result<()> {
        if self.core.options.read_only {
            return Err(StoreError::ReadOnly);
        }
        self.hold_attributes(node, true, || {
            self.put_xattr(node, name, value, &check)?;
            let Body::File(body) = &node.body else { return Ok(()) };
            let now = self.core.now();
            let mut state = body.state.write();
            node.note_changed(now);
            if let Some(open) = &mut state.open {
                open.ctime = now;
            }
            if let Some(attr) = &mut state.attr {
                attr.ctime = now;
            }
            Ok(())
        })
    }

    /// Runs `with` while nobody else changes attributes of `node` and no commit copies them. The time of change of a directory
    /// is set, if `touches`.
    pub(super) fn hold_attributes(
        &self,
        node: &Arc<Node<B>>,
        touches: bool,
        with: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if let Body::Dir(body) = &node.body {
            let mut state = body.state.lock();
            with()?;
            if touches {
                state.touch_attr(self.core.now());
            }
            return Ok(());
        }
        self.hold_home(node, with)
    }

    fn put_xattr(
        &self,
        node: &Arc<Node<B>>,
        name: &[u8],
        value: Option<&[u8]>,
        check: &impl Fn(bool) -> Result<()>,
    ) -> Result<()> {
        let core = &*self.core;
        let key = xattr_name(&core.keys, node.id(), name);
        let seal = |value: &[u8]| seal_xattr(&core.keys, node.id(), name, value, &*core.entropy);
        if let Some(mut waiting) = node.waiting_xattrs() {
            check(waiting.contains_key(&key))?;
            if let Some(value) = value {
                waiting.insert(key, seal(value));
                self.try_on(node, &waiting)?;
            } else {
                waiting.remove(&key);
            }
            let mut held = node.xattrs.lock();
            held.version += 1;
            held.waiting = waiting;
            held.none = false;
            return Ok(());
        }
        if let Some(mut map) = node.side_map(core)? {
            check(map.contains_key(name))?;
            match value {
                Some(value) => map.insert(name.to_vec(), value.to_vec()),
                None => map.remove(name),
            };
            return self.put_side(node, &map);
        }
        let fits = key.len() <= BACKING_NAME_LEN_MAX;
        check(fits && node.sealed_xattr(core, &key)?.is_some())?;
        let Some(value) = value else {
            return node.put_backing(core, &key, None, None);
        };
        let mut all = node.all_sealed_xattrs(core)?;
        all.insert(key.clone(), seal(value));
        if fits_inline(&all) {
            match node.put_backing(core, &key, all.get(&key).map(Vec::as_slice), None) {
                Err(error) if !is_no_room(&error) => return Err(too_big(error)),
                Err(_) => {}
                Ok(()) => return Ok(()),
            }
        }
        self.put_side(node, &open_all(core, node.id(), &all)?)
    }

    /// Whether the backing filesystem takes these attributes is to be known when they are set: a commit that fails for
    /// them would fail for ever.
    fn try_on(&self, node: &Arc<Node<B>>, all: &Sealed) -> Result<()> {
        let (core, name) = (&*self.core, temp_file_name(&*self.core.entropy));
        let inline = fits_inline(all);
        if !inline {
            check_total(&open_all(core, node.id(), all)?)?;
        }
        drop(core.backing.create_temp(&core.tmp, &name, 0o600).attempt("try attributes")?);
        let at = At::Name(&name);
        let set = |key: &[u8], value| core.backing.set_xattr(&core.tmp, at, key, Some(value));
        let mut tried = if inline {
            all.iter().try_for_each(|(key, value)| set(key, value))
        } else {
            // As long as a reference to a side object.
            let key = xattr_name(&core.keys, node.id(), SIDE_ATTRIBUTE);
            set(&key, &[0; 128])
        };
        if tried.as_ref().is_err_and(has_no_room) && inline {
            // It will have a side object.
            tried = Ok(());
        }
        if tried.is_ok() {
            // It will be there, too, if the mode is one that the daemon's own files cannot have.
            tried = core.keep_mode(&core.tmp, at, node.id(), EntryKind::File, 0);
        }
        let removed = core.backing.unlink(&core.tmp, &name);
        tried.attempt("change an attribute").map_err(too_big)?;
        removed.attempt("try attributes")
    }

    /// Runs `with` while no commit can copy the attributes of the file `node` and rename: a change in between would be lost.
    pub(super) fn hold_home<T>(
        &self,
        node: &Arc<Node<B>>,
        with: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let dir_of = || {
            let place = node.place.lock();
            let dir = match (&place.home, &place.link) {
                (Home::Tree(spot), _) => Some(Arc::clone(&spot.dir)),
                (Home::Pending, Some(link)) => Some(Arc::clone(&link.dir)),
                _ => None,
            };
            (dir, place.names.is_some())
        };
        loop {
            let (dir, named) = dir_of();
            let _names = match &dir {
                Some(dir) => Some(dir.dir()?.state.lock()),
                None => None,
            };
            // What has no name is published under this lock, too.
            let _inode = (named || dir.is_none()).then(|| self.inode_lock.lock());
            let now = dir_of();
            if (now.0.map(|dir| dir.id()), now.1) == (dir.as_ref().map(|dir| dir.id()), named) {
                return with();
            }
        }
    }

    /// Gives the layer of the next version the attributes that the file has now.
    pub(super) fn carry_xattrs(&self, node: &Arc<Node<B>>, finished: &Finished<B>) -> Result<()> {
        let mut given = finished.xattrs.0.lock();
        let version = {
            let held = node.xattrs.lock();
            if given.0 == Some(held.version) {
                return Ok(());
            }
            held.version
        };
        let now = node.all_sealed_xattrs(&self.core)?;
        let carried = self.give_all_xattrs(node, finished, &given.1, &now);
        *given = match carried {
            Ok(now) => (Some(version), now),
            // Nobody knows what it has of them: as if all, and all to be set again.
            Err(error) => {
                let keys = given.1.keys().chain(now.keys());
                *given = (None, keys.map(|key| (key.clone(), Vec::new())).collect());
                return Err(error);
            }
        };
        Ok(())
    }

    /// Gives the layer of the next version of `node`, which has the backing attributes `before`, the attributes `now`; returns
    /// the backing attributes that it has then.
    fn give_all_xattrs(
        &self,
        node: &Arc<Node<B>>,
        finished: &Finished<B>,
        before: &Sealed,
        now: &Sealed,
    ) -> Result<Sealed> {
        let side_key = xattr_name(&self.core.keys, node.id(), SIDE_ATTRIBUTE);
        if node.waiting_xattrs().is_none() {
            self.give_xattrs(finished, before, now)?;
            return Ok(now.clone());
        }
        let mut before = before.clone();
        let mut given = now.clone();
        let mut inline = fits_inline(now);
        if inline {
            match self.give_xattrs(finished, &before, now) {
                Err(error) if is_no_room(&error) => {
                    before.extend(now.keys().map(|key| (key.clone(), Vec::new())));
                    inline = false;
                }
                other => other?,
            }
        }
        if !inline {
            let side = self.make_side_of_pending(node, now)?;
            given = Sealed::from([(side_key.clone(), side)]);
            self.give_xattrs(finished, &before, &given)
                .inspect_err(|_| self.retire_side(node, &given[&side_key]))?;
        }
        if let Some(old) = before.get(&side_key) {
            self.retire_side(node, old);
        }
        Ok(given)
    }

    /// Gives a layer that has the backing attributes `before` these.
    fn give_xattrs(&self, finished: &Finished<B>, before: &Sealed, now: &Sealed) -> Result<()> {
        let (backing, tmp) = (&self.core.backing, &self.core.tmp);
        let at = At::Name(finished.layer.name());
        for key in before.keys().filter(|key| !now.contains_key(*key)) {
            backing.set_xattr(tmp, at, key, None).attempt("carry attributes over")?;
        }
        for (key, value) in now.iter().filter(|(key, value)| before.get(*key) != Some(*value)) {
            backing.set_xattr(tmp, at, key, Some(value)).attempt("carry attributes over")?;
        }
        Ok(())
    }

    /// Makes the attributes of the published entry durable, if they changed since it was published.
    pub(super) fn sync_attr(&self, node: &Arc<Node<B>>) -> Result<()> {
        let node = node.inode();
        let covers = {
            let held = node.xattrs.lock();
            if held.synced == held.changed {
                return Ok(());
            }
            held.changed
        };
        let core = &self.core;
        core.touch()?;
        let synced = node.at_entry(
            core,
            |dir, at| match at {
                At::This => core.backing.sync_arrivals(dir),
                At::Name(name) => core.backing.open_temp(dir, name)?.sync(),
            },
            "sync attributes",
        );
        match synced {
            // Not published, or gone.
            Err(error) if error.is_missing() => {}
            other => other?,
        }
        let mut held = node.xattrs.lock();
        held.synced = held.synced.max(covers);
        Ok(())
    }
}

/// Whether these may be tried as backing attributes.
fn fits_inline(all: &Sealed) -> bool {
    let lens = all.iter().map(|(key, value)| key.len() + value.len());
    lens.sum::<usize>() <= INLINE_LEN_MAX && all.keys().all(|key| key.len() <= BACKING_NAME_LEN_MAX)
}

/// What the backing filesystem says of attributes that it has no room for beside an object. A full disk says so, too.
fn has_no_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::E2BIG | libc::ERANGE))
}

pub(super) fn is_no_room(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if has_no_room(source))
}

/// What the backing filesystem says of an attribute that it has no room for, whatever room is free.
pub(super) fn too_big(error: StoreError) -> StoreError {
    match &error {
        StoreError::Io { source, .. }
            if matches!(source.raw_os_error(), Some(libc::E2BIG | libc::ERANGE)) =>
        {
            StoreError::AttributeTooBig
        }
        StoreError::Io { source, .. } if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            StoreError::NotSupported
        }
        _ => error,
    }
}
