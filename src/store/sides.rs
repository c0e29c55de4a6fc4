//! Side objects: all extended attributes of an entry that do not fit beside its backing object, sealed as one file in
//! `.akasha/xattrs` (FORMAT.md, "Side objects").
//!
//! A side object is written once, and durable before an internal attribute of the entry refers to it; from then on it has
//! all attributes, whatever stands beside the entry. Every change writes another one. What is superfluous then, the
//! object before and the attributes beside the entry, goes when the reference is durable in the version that is
//! ([`Store::finish_sides`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::backing::{At, AttrChange, Backing, PublishedFile, RenameMode, TempFile};
use crate::crypto::KeyTree;
use crate::format::{
    EntryId, FormatError, ObjectId, SIDE_ATTRIBUTE, SIDE_LEN_MAX, SideRef, XattrMap,
    layer_file_name, open_side, open_xattr, open_xattr_name, parse_layer_file_name, seal_side,
    seal_xattr, side_len, temp_file_name, xattr_name,
};

use super::Store;
use super::core::Core;
use super::dir::{DirState, Doom, left_behind};
use super::error::{Attempt, Result, StoreError};
use super::node::{Body, Home, Node};
use super::xattr::{Sealed, is_no_room, too_big};

/// How often a side object is looked for again that a change replaced meanwhile.
const CHANGES_FOLLOWED: usize = 64;
/// The longest listing of names that listxattr(2) gives, in bytes.
const LIST_LEN_MAX: usize = 65536;

/// Which side objects there are, whatever refers to them: so that nobody asks the disk who has none.
#[derive(Debug, Default)]
pub(crate) struct Sides {
    by_entry: Mutex<BTreeMap<EntryId, Vec<ObjectId>>>,
}

impl Sides {
    /// Whether there are any of `entry`.
    pub fn has(&self, entry: EntryId) -> bool {
        self.by_entry.lock().contains_key(&entry)
    }

    fn add(&self, entry: EntryId, id: ObjectId) {
        self.by_entry.lock().entry(entry).or_default().push(id);
    }

    fn of(&self, entry: EntryId) -> Vec<ObjectId> {
        self.by_entry.lock().get(&entry).cloned().unwrap_or_default()
    }

    fn forget(&self, entry: EntryId, id: ObjectId) {
        let mut all = self.by_entry.lock();
        if let Some(ids) = all.get_mut(&entry) {
            ids.retain(|known| *known != id);
            if ids.is_empty() {
                all.remove(&entry);
            }
        }
    }
}

/// The side object of a published entry, as a node remembers it.
#[derive(Clone, Debug)]
pub(crate) struct KnownSide {
    side: SideRef,
    /// The names in it, once it was read.
    names: Option<Arc<BTreeSet<Vec<u8>>>>,
}

/// What a node knows of its side object.
#[derive(Clone, Debug, Default)]
pub(crate) enum Looked {
    /// Nobody asked, or it changed.
    #[default]
    No,
    /// It has none.
    None,
    /// It has this one.
    Side(KnownSide),
}

impl Looked {
    pub(super) fn at(side: Option<KnownSide>) -> Looked {
        side.map_or(Looked::None, Looked::Side)
    }
}

/// What of side objects waits to be removed.
#[derive(Debug, Default)]
pub(crate) struct SideWork {
    /// Side objects that a later one took the place of.
    retired: Vec<ObjectId>,
    /// Attributes may stand beside an entry that has a side object.
    inline: bool,
}

impl<B: Backing> Core<B> {
    /// Learns which side objects there are.
    pub fn find_sides(&self) -> Result<()> {
        for raw in self.backing.list(&self.xattrs).attempt("read .akasha/xattrs")? {
            if let Some((entry, id)) = parse_layer_file_name(&raw.name) {
                self.sides.add(entry, id);
            }
        }
        Ok(())
    }

    fn remove_side(&self, entry: EntryId, id: ObjectId) -> Result<()> {
        match self.backing.unlink(&self.xattrs, &layer_file_name(entry, id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).attempt("remove a side object");
            }
            _ => {}
        }
        self.sides.forget(entry, id);
        Ok(())
    }

    /// Removes every side object of an entry that is gone.
    pub fn remove_sides(&self, entry: EntryId) -> Result<()> {
        self.sides.of(entry).into_iter().try_for_each(|id| self.remove_side(entry, id))
    }

    /// Writes a side object, durable with its name on return, and the sealed reference to it.
    fn write_side(&self, entry: EntryId, map: &XattrMap) -> Result<(SideRef, Vec<u8>)> {
        let (side, bytes) = seal_side(&self.keys, entry, map, &*self.entropy);
        let temp = temp_file_name(&*self.entropy);
        let name = layer_file_name(entry, side.id);
        let written = (|| {
            let file = self.backing.create_temp(&self.tmp, &temp, 0o600)?;
            file.write_at(0, &bytes)?;
            if let Some((uid, gid)) = self.guest_of {
                // Its owner's own daemon must be able to read it, too.
                let owner = AttrChange { uid: Some(uid), gid: Some(gid), ..AttrChange::default() };
                file.set_attr(&owner)?;
            }
            file.sync()?;
            self.backing.rename(&self.tmp, &temp, &self.xattrs, &name, RenameMode::NoReplace)
        })();
        if written.is_err() {
            // The next mount sweeps what cannot be removed now.
            let _ = self.backing.unlink(&self.tmp, &temp);
            written.attempt("write a side object")?;
        }
        self.sides.add(entry, side.id);
        let synced = self.sync_sides();
        if synced.is_err() {
            let _ = self.remove_side(entry, side.id);
            synced?;
        }
        let reference = side.to_bytes();
        let sealed = seal_xattr(&self.keys, entry, SIDE_ATTRIBUTE, &reference, &*self.entropy);
        Ok((side, sealed))
    }

    fn sync_sides(&self) -> Result<()> {
        self.backing.sync_arrivals(&self.xattrs).attempt("sync .akasha/xattrs")
    }

    fn read_side(&self, entry: EntryId, side: SideRef) -> Result<XattrMap> {
        read_side(&*self.backing, &self.xattrs, &self.keys, entry, side)
    }
}

/// Reads the side object that `entry` refers to from `.akasha/xattrs`.
pub(crate) fn read_side<B: Backing>(
    backing: &B,
    xattrs: &B::Dir,
    keys: &KeyTree,
    entry: EntryId,
    side: SideRef,
) -> Result<XattrMap> {
    let file =
        backing.open(xattrs, &layer_file_name(entry, side.id)).attempt("open a side object")?;
    let len = file.stat().attempt("stat a side object")?.len.min(SIDE_LEN_MAX as u64 + 1);
    let mut bytes = vec![0; usize::try_from(len).expect("about 1 MiB")];
    file.read_at(0, &mut bytes).attempt("read a side object")?;
    open_side(keys, entry, side, &bytes).map_err(|error| damaged(entry, &error))
}

impl<B: Backing> Node<B> {
    /// The side object that the published entry refers to.
    fn side(self: &Arc<Self>, core: &Core<B>) -> Result<Option<KnownSide>> {
        let version = {
            let held = self.xattrs.lock();
            if held.none {
                return Ok(None);
            }
            match &held.side {
                Looked::No => {}
                Looked::None => return Ok(None),
                Looked::Side(known) => return Ok(Some(known.clone())),
            }
            held.version
        };
        let key = xattr_name(&core.keys, self.id(), SIDE_ATTRIBUTE);
        let read = |dir: &B::Dir, at: At<'_>| core.backing.get_xattr(dir, at, &key);
        let side = match self.at_entry(core, read, "read an attribute")? {
            None => None,
            Some(sealed) => {
                let side = open_reference(core, self.id(), &sealed)
                    .map_err(|error| damaged(self.id(), &error))?;
                Some(KnownSide { side, names: None })
            }
        };
        let mut held = self.xattrs.lock();
        if held.version == version {
            held.side = Looked::at(side.clone());
        }
        Ok(side)
    }

    /// All attributes of a published entry that has a side object.
    pub(super) fn side_map(self: &Arc<Self>, core: &Core<B>) -> Result<Option<XattrMap>> {
        for _ in 0..CHANGES_FOLLOWED {
            let version = self.xattrs.lock().version;
            let Some(known) = self.side(core)? else { return Ok(None) };
            let read = core.read_side(self.id(), known.side);
            let mut held = self.xattrs.lock();
            match read {
                // A change replaced it.
                Err(error) if error.is_missing() && held.version != version => {}
                Err(error) if error.is_missing() => {
                    return Err(StoreError::broken(
                        format!("the attributes of entry {:016x}", self.id().get()),
                        "their side object is missing",
                    ));
                }
                Err(error) => return Err(error),
                Ok(map) => {
                    if held.version == version {
                        let names = Some(Arc::new(map.keys().cloned().collect()));
                        held.side = Looked::Side(KnownSide { names, ..known });
                    }
                    return Ok(Some(map));
                }
            }
        }
        Err(StoreError::Io {
            what: "read attributes that keep changing",
            source: std::io::Error::from_raw_os_error(libc::EAGAIN),
        })
    }

    /// Whether a published entry has a side object, and perhaps an attribute `name` in it.
    pub(super) fn may_have_in_side(self: &Arc<Self>, core: &Core<B>, name: &[u8]) -> Result<Side> {
        Ok(match self.side(core)? {
            None => Side::None,
            Some(KnownSide { names: Some(names), .. }) if !names.contains(name) => Side::Without,
            Some(_) => Side::Perhaps,
        })
    }
}

/// What a node's side object, if it has one, has of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    None,
    Without,
    Perhaps,
}

/// The reference that the sealed value of the internal attribute is.
pub(super) fn open_reference<B: Backing>(
    core: &Core<B>,
    entry: EntryId,
    sealed: &[u8],
) -> std::result::Result<SideRef, FormatError> {
    SideRef::from_bytes(&open_xattr(&core.keys, entry, SIDE_ATTRIBUTE, sealed)?)
}

fn damaged(entry: EntryId, error: &FormatError) -> StoreError {
    StoreError::damaged(format!("the attributes of entry {:016x}", entry.get()), error)
}

/// Attributes that are sealed one by one, opened.
pub(super) fn open_all<B: Backing>(
    core: &Core<B>,
    entry: EntryId,
    all: &Sealed,
) -> Result<XattrMap> {
    let mut map = XattrMap::new();
    for (key, sealed) in all {
        // One whose name does not open is no attribute.
        if let Ok(name) = open_xattr_name(&core.keys, entry, key) {
            let value = open_xattr(&core.keys, entry, &name, sealed)
                .map_err(|error| damaged(entry, &error))?;
            map.insert(name, value);
        }
    }
    Ok(map)
}

/// # Errors
/// `ENOSPC` if these are more attributes than an object can have.
pub(super) fn check_total(map: &XattrMap) -> Result<()> {
    let names: usize = map.keys().map(|name| name.len() + 1).sum();
    if side_len(map) > SIDE_LEN_MAX || names > LIST_LEN_MAX {
        return Err(StoreError::Io {
            what: "keep so many attributes",
            source: std::io::Error::from_raw_os_error(libc::ENOSPC),
        });
    }
    Ok(())
}

impl<B: Backing> Store<B> {
    /// Gives a published entry, whose attributes the caller may change, these instead of what it has.
    pub(super) fn put_side(&self, node: &Arc<Node<B>>, map: &XattrMap) -> Result<()> {
        check_total(map)?;
        let core = &self.core;
        let key = xattr_name(&core.keys, node.id(), SIDE_ATTRIBUTE);
        let before = node.side(core)?;
        if map.is_empty() {
            self.remove_inline(node)?;
            // Also of what was removed before: without the side object it would be all there is.
            self.sync_attr(node)?;
            node.put_backing(core, &key, None, None)?;
        } else {
            let (side, sealed) = core.write_side(node.id(), map)?;
            let names = Some(Arc::new(map.keys().cloned().collect()));
            let known = KnownSide { side, names };
            if let Err(error) = node.put_backing(core, &key, Some(&sealed), Some(known)) {
                if is_no_room(&error) {
                    // Certainly not referred to.
                    let _ = core.remove_side(node.id(), side.id);
                }
                return Err(too_big(error));
            }
        }
        let mut held = node.xattrs.lock();
        held.work.inline |= before.is_none();
        held.work.retired.extend(before.map(|known| known.side.id));
        drop(held);
        self.note_unfinished_sides(node);
        Ok(())
    }

    /// Writes a side object with the attributes of what is not published. Returns the sealed reference.
    pub(super) fn make_side_of_pending(
        &self,
        node: &Arc<Node<B>>,
        all: &Sealed,
    ) -> Result<Vec<u8>> {
        let (_, sealed) =
            self.core.write_side(node.id(), &open_all(&self.core, node.id(), all)?)?;
        // If it never appears, nothing else removes it.
        self.note_unfinished_sides(node);
        Ok(sealed)
    }

    /// The layer of a next version no longer refers to the side object that this is the reference to.
    pub(super) fn retire_side(&self, node: &Arc<Node<B>>, sealed: &[u8]) {
        if let Ok(side) = open_reference(&self.core, node.id(), sealed) {
            node.xattrs.lock().work.retired.push(side.id);
            self.note_unfinished_sides(node);
        }
    }

    fn note_unfinished_sides(&self, node: &Arc<Node<B>>) {
        let mut unfinished = self.unfinished_sides.lock();
        if !unfinished.iter().any(|known| Arc::ptr_eq(known, node)) {
            unfinished.push(Arc::clone(node));
        }
    }

    /// Removes the attributes that stand beside an entry with a side object.
    fn remove_inline(&self, node: &Arc<Node<B>>) -> Result<()> {
        for key in &node.xattr_keys(&self.core)? {
            node.at_entry(
                &self.core,
                |dir, at| self.core.backing.set_xattr(dir, at, key, None),
                "remove an attribute",
            )?;
            node.note_unsynced_attr();
        }
        Ok(())
    }

    /// Makes references to side objects durable and removes what they took the place of. What fails is tried again.
    pub(super) fn finish_sides(&self) {
        let unfinished = std::mem::take(&mut *self.unfinished_sides.lock());
        for node in unfinished {
            match self.finish_sides_of(&node) {
                Ok(true) => {}
                Ok(false) => self.note_unfinished_sides(&node),
                Err(error) => {
                    left_behind("attributes that others took the place of", &error);
                    self.note_unfinished_sides(&node);
                }
            }
        }
    }

    /// False if it cannot be done yet.
    fn finish_sides_of(&self, node: &Arc<Node<B>>) -> Result<bool> {
        if node.is_forsaken() {
            // Never published, and never will be.
            self.core.remove_sides(node.id())?;
            return Ok(true);
        }
        // A commit that is under way may still refer to what was retired.
        let commit = match &node.body {
            Body::File(body) => {
                let guard = body.commit.lock();
                let complete = |edit: &super::edit::Edit<B>| edit.complete.lock().is_some();
                if guard.finished.is_some() || body.state.read().open.as_ref().is_some_and(complete)
                {
                    return Ok(false);
                }
                Some(guard)
            }
            _ => None,
        };
        match node.place.lock().home {
            Home::Pending => return Ok(false),
            // Of what lost its last name all goes together, when that is durable.
            Home::Ghost(_) | Home::Gone | Home::Damaged { .. } => return Ok(true),
            Home::Root | Home::Tree(_) | Home::Inode => {}
        }
        let work = std::mem::take(&mut node.xattrs.lock().work);
        let done = self.do_side_work(node, &work);
        drop(commit);
        match done {
            Err(error) if error.is_missing() => Ok(true),
            Err(error) => {
                let mut held = node.xattrs.lock();
                held.work.inline |= work.inline;
                held.work.retired.extend(work.retired);
                Err(error)
            }
            Ok(()) => Ok(true),
        }
    }

    fn do_side_work(&self, node: &Arc<Node<B>>, work: &SideWork) -> Result<()> {
        if !work.inline && work.retired.is_empty() {
            return Ok(());
        }
        self.sync_attr(node)?;
        self.sync_path(node)?;
        if work.inline {
            self.hold_attributes(node, false, || match node.side(&self.core)? {
                Some(_) => self.remove_inline(node),
                None => Ok(()),
            })?;
        }
        work.retired.iter().try_for_each(|id| self.core.remove_side(node.id(), *id))
    }

    /// Whether the side objects of the entry that is about to be removed are no longer needed then: not if the same one
    /// stands elsewhere as well.
    pub(super) fn takes_sides_along(
        &self,
        fd: &B::Dir,
        backing: &[u8],
        id: EntryId,
        live: Option<&Arc<Node<B>>>,
    ) -> bool {
        self.core.sides.has(id)
            && (live.is_some()
                || self.nodes.get(id).is_none_or(|n| !matches!(n.place.lock().home, Home::Tree(_))))
            && !self.may_be_inode(id)
            && self.core.backing.stat(fd, At::Name(backing)).is_ok_and(|stat| stat.nlink < 2)
    }

    /// Has the side objects of what was removed from `dir` by `change` removed once that is durable.
    pub(super) fn doom_sides(
        &self,
        dir: &Arc<Node<B>>,
        state: &mut DirState<B>,
        change: u64,
        entry: EntryId,
    ) {
        if self.core.sides.has(entry) {
            self.doom(dir, state, change, b"", Doom::Sides(entry));
        }
    }
}
