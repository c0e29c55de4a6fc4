//! Extended attributes: sealed beside the backing entry, carried from each version of a file to the next.
//!
//! A file that is not published yet has them in memory. Every later version is a new backing file: it is given all of them
//! before its sync, and once more, if they changed, under the locks of the rename that publishes it. Who changes one holds
//! the same locks ([`Store::hold_home`]), so a change meets either the old file before it was copied or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::backing::{At, Backing, TempFile};
use crate::format::{
    EntryKind, MODE_ATTRIBUTE, is_sealed_xattr, open_xattr, open_xattr_name, seal_xattr,
    temp_file_name, xattr_name, xattr_name_len,
};

use super::Store;
use super::core::Core;
use super::error::{Attempt, Result, StoreError};
use super::finish::Finished;
use super::node::{Body, Home, Node};

/// Longest name of a backing attribute in bytes, as of the kernel.
const BACKING_NAME_LEN_MAX: usize = 255;

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
    version: u64,
    /// The backing entry has none. Looked up once, since the kernel asks before writes (for file capabilities).
    none: bool,
    /// Changes of attributes of the published entry, these and the other ones, and how many of them are durable.
    changed: u64,
    synced: u64,
}

/// What the layer of a next version was given.
#[derive(Debug, Default)]
pub(crate) struct GivenXattrs(Mutex<(Option<u64>, Sealed)>);

impl<B: Backing> Node<B> {
    /// Runs `with` where the backing entry is now.
    fn at_entry<T>(
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

    /// The backing names of its attributes, but for the internal one.
    fn xattr_keys(self: &Arc<Self>, core: &Core<B>) -> Result<BTreeSet<Vec<u8>>> {
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
        if !keys.is_empty() {
            keys.remove(&xattr_name(&core.keys, self.id(), MODE_ATTRIBUTE));
        }
        let mut held = self.xattrs.lock();
        held.none = keys.is_empty() && held.version == version;
        Ok(keys)
    }

    fn all_sealed_xattrs(self: &Arc<Self>, core: &Core<B>) -> Result<Sealed> {
        if let Some(waiting) = self.waiting_xattrs() {
            return Ok(waiting);
        }
        let mut all = Sealed::new();
        for key in self.xattr_keys(core)? {
            if let Some(sealed) = self.sealed_xattr(core, &key)? {
                all.insert(key, sealed);
            }
        }
        Ok(all)
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
        Ok(!node.xattr_keys(&self.core)?.is_empty())
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
        if xattr_name_len(name.len()) > BACKING_NAME_LEN_MAX {
            return Err(StoreError::NoAttribute);
        }
        let key = xattr_name(&self.core.keys, node.id(), name);
        let Some(sealed) = node.sealed_xattr(&self.core, &key)? else {
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
        if xattr_name_len(name.len()) > BACKING_NAME_LEN_MAX {
            return Err(StoreError::AttributeTooBig);
        }
        let key = xattr_name(&self.core.keys, node.id(), name);
        let sealed = seal_xattr(&self.core.keys, node.id(), name, value, &*self.core.entropy);
        self.change_xattr(node, &key, Some(&sealed), |exists| match how {
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
        if xattr_name_len(name.len()) > BACKING_NAME_LEN_MAX {
            return Err(StoreError::NoAttribute);
        }
        let key = xattr_name(&self.core.keys, node.id(), name);
        self.change_xattr(node, &key, None, |exists| {
            if exists { Ok(()) } else { Err(StoreError::NoAttribute) }
        })
    }

    /// Sets or removes the backing attribute `key` if `check` has nothing against it, told whether it exists.
    fn change_xattr(
        &self,
        node: &Arc<Node<B>>,
        key: &[u8],
        sealed: Option<&[u8]>,
        check: impl Fn(bool) -> Result<()>,
    ) -> Result<()> {
        if self.core.options.read_only {
            return Err(StoreError::ReadOnly);
        }
        if let Body::Dir(body) = &node.body {
            let mut state = body.state.lock();
            check(node.sealed_xattr(&self.core, key)?.is_some())?;
            self.put_xattr(node, key, sealed)?;
            state.touch_attr(self.core.now());
            return Ok(());
        }
        self.hold_home(node, || {
            check(node.sealed_xattr(&self.core, key)?.is_some())?;
            self.put_xattr(node, key, sealed)?;
            let now = self.core.now();
            let mut state = node.file()?.state.write();
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

    fn put_xattr(&self, node: &Arc<Node<B>>, key: &[u8], sealed: Option<&[u8]>) -> Result<()> {
        if let Some(mut waiting) = node.waiting_xattrs() {
            if let Some(sealed) = sealed {
                waiting.insert(key.to_vec(), sealed.to_vec());
                self.try_on(node, &waiting)?;
            } else {
                waiting.remove(key);
            }
            let mut held = node.xattrs.lock();
            held.version += 1;
            held.waiting = waiting;
            held.none = false;
            return Ok(());
        }
        let count = || {
            let mut held = node.xattrs.lock();
            held.version += 1;
            held.none = false;
            held.changed += 1;
        };
        // Before and after: who lists meanwhile must not take note that there are none.
        count();
        let put = node.at_entry(
            &self.core,
            |dir, at| self.core.backing.set_xattr(dir, at, key, sealed),
            "change an attribute",
        );
        count();
        put.map_err(too_big)
    }

    /// Whether the backing filesystem takes these attributes is to be known when they are set: a commit that fails for
    /// them would fail for ever.
    fn try_on(&self, node: &Arc<Node<B>>, all: &Sealed) -> Result<()> {
        let (core, name) = (&*self.core, temp_file_name(&*self.core.entropy));
        drop(core.backing.create_temp(&core.tmp, &name, 0o600).attempt("try attributes")?);
        let at = At::Name(&name);
        let mut tried = all
            .iter()
            .try_for_each(|(key, value)| core.backing.set_xattr(&core.tmp, at, key, Some(value)));
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
        let (backing, tmp) = (&self.core.backing, &self.core.tmp);
        let at = At::Name(finished.layer.name());
        for key in given.1.keys().filter(|key| !now.contains_key(*key)) {
            backing.set_xattr(tmp, at, key, None).attempt("carry attributes over")?;
        }
        for (key, value) in now.iter().filter(|(key, value)| given.1.get(*key) != Some(*value)) {
            backing.set_xattr(tmp, at, key, Some(value)).attempt("carry attributes over")?;
        }
        *given = (Some(version), now);
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
        let synced = node.at_entry(
            core,
            |dir, at| match at {
                At::This => core.backing.sync_dir(dir),
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

/// What the backing filesystem says of an attribute that it has no room for, whatever room is free.
fn too_big(error: StoreError) -> StoreError {
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
