//! What a mount does before it serves: removes what an earlier daemon left unpublished, finishes an exchange.
//!
//! Only two kinds of things are ever removed: names of our own grammar in `.akasha/tmp`, and, after an unclean end, what
//! nothing refers to, neither by its name nor by what it authenticates as. Anything that cannot be read stays where it is.

use std::collections::HashSet;
use std::rc::Rc;

use log::{info, warn};

use crate::backing::{At, Backing, FileKind, PublishedFile};
use crate::format::{
    Entry, EntryId, EntryKind, HEADER_LEN, LayerKey, NameClass, ObjectId, Parent, SIDE_ATTRIBUTE,
    STUB_LEN, SideRef, TAIL_LEN, Tail, classify_name, inode_file_name, is_temp_name,
    layer_file_name, open_entry, open_xattr, parse_inode_name, parse_layer_file_name, xattr_name,
};

use super::core::{ControlDirs, VaultKeys};
use super::dir::{read_sidecar, settle_names};
use super::error::{Attempt, Result};
use super::intent::Intent;
use super::sync_all::sync_all_names;

/// Sweeps; returns how many leftovers were removed.
pub(crate) fn sweep<B: Backing>(backing: &B, dirs: &ControlDirs<B>) -> Result<usize> {
    Intent::replay(backing, dirs)?;
    let mut swept = 0;
    for raw in backing.list(&dirs.tmp).attempt("read .akasha/tmp")? {
        if raw.kind == FileKind::File && is_temp_name(&raw.name) {
            backing.unlink(&dirs.tmp, &raw.name).attempt("sweep .akasha/tmp")?;
            swept += 1;
        } else {
            warn!("something strange in .akasha/tmp is left alone");
        }
    }
    if swept > 0 {
        info!("swept {swept} leftovers of an earlier mount");
    }
    Ok(swept)
}

/// After an unclean end: removes older layers that no version refers to any more (their file was replaced or
/// removed, and the daemon ended before they followed), and files in `.akasha/inodes` that no name is of. It reads every
/// directory, and concludes only if it saw all of them and every top that could refer to a layer; whatever cannot be
/// read keeps everything.
///
/// Returns the names of files with several that something else took the place of, after their files: they are still counted
/// by the backing filesystem.
///
/// Runs before the first operation or after the last: nothing moves meanwhile.
pub(crate) fn hunt<B: Backing>(
    backing: &B,
    dirs: &ControlDirs<B>,
    vault: &VaultKeys,
) -> Result<Vec<(EntryId, EntryId)>> {
    let mut layers = Vec::new();
    for raw in backing.list(&dirs.layers).attempt("read .akasha/layers")? {
        match parse_layer_file_name(&raw.name) {
            Some(parsed) => layers.push(parsed),
            None => warn!("something strange in .akasha/layers is left alone"),
        }
    }
    let mut inodes = Vec::new();
    for raw in backing.list(&dirs.inodes).attempt("read .akasha/inodes")? {
        if let Some(inode) = parse_inode_name(&raw.name).filter(|_| raw.kind == FileKind::File) {
            inodes.push((inode, raw.name));
        }
    }
    let mut sides = Vec::new();
    for raw in backing.list(&dirs.xattrs).attempt("read .akasha/xattrs")? {
        sides.extend(parse_layer_file_name(&raw.name).filter(|_| raw.kind == FileKind::File));
    }
    if layers.is_empty() && inodes.is_empty() && sides.is_empty() {
        return Ok(Vec::new());
    }
    let owners = Owners {
        layers: layers.iter().map(|(owner, _)| *owner).collect(),
        sides: sides.iter().map(|(owner, _)| *owner).collect(),
    };
    let kept = Look { backing, dirs, vault, owners, seen: Referred::default() }.at_everything();
    if kept.is_partial {
        warn!("something in the vault cannot be read: layers that may be orphaned are kept");
        return Ok(kept.dead);
    }
    layers.retain(|layer| !kept.layers.contains(layer));
    inodes.retain(|(inode, _)| !kept.inodes.contains(inode));
    sides.retain(|side| !kept.sides.contains(side));
    if layers.is_empty() && inodes.is_empty() && sides.is_empty() {
        return Ok(kept.dead);
    }
    // What was seen may be what an earlier daemon changed last, and not be durable: a cut would bring back tops that
    // refer to what is removed now.
    sync_all_names(backing, dirs)?;
    let mut removed = 0;
    for layer in &layers {
        let name = layer_file_name(layer.0, layer.1);
        // Only what is certainly a layer of ours, and not one that is missed elsewhere: what an exchange that never happened
        // leaves has another id than its name.
        let is_orphan = identity_of(backing, &dirs.layers, vault, &name)
            .is_some_and(|(id, entry)| entry == layer.0 && !kept.layers.contains(&(entry, id)));
        if is_orphan {
            backing.unlink(&dirs.layers, &name).attempt("remove an orphaned layer")?;
            removed += 1;
        }
    }
    for (entry, side) in &sides {
        let name = layer_file_name(*entry, *side);
        backing.unlink(&dirs.xattrs, &name).attempt("remove an orphaned side object")?;
        removed += 1;
    }
    for (inode, name) in &inodes {
        if is_inode_object(backing, dirs, vault, *inode, name) {
            backing.unlink(&dirs.inodes, name).attempt("remove a file without names")?;
            removed += 1;
        }
    }
    if removed > 0 {
        info!("removed {removed} layers, files and side objects that nothing refers to");
    }
    Ok(kept.dead)
}

/// A directory that is still to be read. Kept as its path: open ones would cost a descriptor each.
pub(super) struct Ahead {
    parent: Option<Rc<Ahead>>,
    name: Vec<u8>,
    pub(super) id: EntryId,
}

impl Ahead {
    pub(super) fn root() -> Ahead {
        Ahead { parent: None, name: Vec::new(), id: EntryId::ROOT }
    }

    pub(super) fn below(parent: &Rc<Ahead>, name: Vec<u8>, id: EntryId) -> Ahead {
        Ahead { parent: Some(Rc::clone(parent)), name, id }
    }

    pub(super) fn open<B: Backing>(&self, backing: &B) -> Option<B::Dir> {
        let mut names = Vec::new();
        let mut at = Some(self);
        while let Some(ahead) = at.filter(|ahead| ahead.parent.is_some()) {
            names.push(&ahead.name);
            at = ahead.parent.as_deref();
        }
        let root = backing.root().ok()?;
        names.iter().rev().try_fold(root, |dir, name| backing.open_dir(&dir, name).ok())
    }
}

/// Entries of which there are older layers, and side objects.
struct Owners {
    layers: HashSet<EntryId>,
    sides: HashSet<EntryId>,
}

/// What the entries of the whole tree refer to.
#[derive(Default)]
struct Referred {
    layers: HashSet<(EntryId, ObjectId)>,
    sides: HashSet<(EntryId, ObjectId)>,
    inodes: HashSet<EntryId>,
    /// Names of such files that something else took the place of, after their files.
    dead: Vec<(EntryId, EntryId)>,
    /// Something could not be read, and may refer to anything.
    is_partial: bool,
}

impl Referred {
    /// Takes note of what could not be read.
    fn must<T>(&mut self, read: Option<T>) -> Option<T> {
        self.is_partial |= read.is_none();
        read
    }
}

/// A look at all entries, for what they refer to of what `owners` have.
struct Look<'a, B: Backing> {
    backing: &'a B,
    dirs: &'a ControlDirs<B>,
    vault: &'a VaultKeys,
    owners: Owners,
    seen: Referred,
}

impl<B: Backing> Look<'_, B> {
    fn at_everything(mut self) -> Referred {
        let mut ahead = vec![Rc::new(Ahead::root())];
        while let Some(here) = ahead.pop() {
            let dir = here.open(self.backing);
            let listing = dir.and_then(|dir| Some((self.backing.list(&dir).ok()?, dir)));
            let Some((listing, dir)) = self.seen.must(listing) else { continue };
            let side = self.at_side(here.id, &dir, At::This);
            self.seen.must(side);
            let mut entries = Vec::new();
            for raw in listing {
                let sealed = match classify_name(&raw.name) {
                    NameClass::Control | NameClass::Rescue | NameClass::Sidecar => continue,
                    NameClass::Entry => Some(raw.name.clone()),
                    NameClass::Long => read_sidecar(self.backing, &dir, &raw.name).ok().flatten(),
                    NameClass::Foreign => None,
                };
                let opened = |sealed: Vec<u8>| open_entry(&self.vault.keys, here.id, &sealed).ok();
                let Some(entry) = self.seen.must(sealed.and_then(opened)) else { continue };
                if raw.kind == FileKind::Dir {
                    ahead.push(Rc::new(Ahead::below(&here, raw.name.clone(), entry.id)));
                }
                entries.push((entry, raw.name));
            }
            for (entry, name) in &entries {
                let told = self.at_entry(&dir, entry, name);
                self.seen.must(told);
            }
            let dead = settle_names(&mut entries).replaced.into_iter();
            self.seen.dead.extend(dead.filter_map(|(entry, _)| Some((entry.inode?, entry.id))));
        }
        self.seen
    }

    /// `None` if it cannot be told what an entry in `dir` refers to.
    fn at_entry(&mut self, dir: &B::Dir, entry: &Entry, name: &[u8]) -> Option<()> {
        let (id, place, name) = match entry.inode {
            Some(inode) if !self.seen.inodes.insert(inode) => return Some(()),
            Some(inode) => (inode, &self.dirs.inodes, inode_file_name(inode)),
            None if entry.kind == EntryKind::Dir => return Some(()),
            None => (entry.id, dir, name.to_vec()),
        };
        self.at_side(id, place, At::Name(&name))?;
        if self.owners.layers.contains(&id) {
            let file = self.backing.open(place, &name).ok()?;
            let parents = parents_of(&file, self.vault)?;
            let layers = parents.iter().map(|parent| (parent.owner, parent.layer));
            self.seen.layers.extend(layers);
        }
        Some(())
    }

    /// `None` if it cannot be told which side object an entry refers to.
    fn at_side(&mut self, id: EntryId, dir: &B::Dir, at: At<'_>) -> Option<()> {
        if self.owners.sides.contains(&id)
            && let Some(side) = side_of(self.backing, self.vault, id, dir, at)?
        {
            self.seen.sides.insert((id, side));
        }
        Some(())
    }
}

/// The side object that an entry refers to: `Some(None)` if none, `None` if that cannot be told.
#[allow(clippy::option_option)]
fn side_of<B: Backing>(
    backing: &B,
    vault: &VaultKeys,
    id: EntryId,
    dir: &B::Dir,
    at: At<'_>,
) -> Option<Option<ObjectId>> {
    let key = xattr_name(&vault.keys, id, SIDE_ATTRIBUTE);
    let Some(sealed) = backing.get_xattr(dir, at, &key).ok()? else { return Some(None) };
    let bytes = open_xattr(&vault.keys, id, SIDE_ATTRIBUTE, &sealed).ok()?;
    Some(Some(SideRef::from_bytes(&bytes).ok()?.id))
}

/// The layers below a top; none for a simple one, `None` if it does not authenticate.
fn parents_of<F: PublishedFile>(file: &F, vault: &VaultKeys) -> Option<Vec<Parent>> {
    let len = file.stat().ok()?.len;
    let tail_at = len.checked_sub(TAIL_LEN as u64)?;
    let mut header = [0; HEADER_LEN];
    file.read_at(0, &mut header).ok()?;
    let key = LayerKey::open(&vault.keys, vault.cipher, vault.geometry, &header).ok()?;
    let mut sealed = [0; TAIL_LEN];
    file.read_at(tail_at, &mut sealed).ok()?;
    let (tail, _) = key.open_tail(&sealed, len).ok()?;
    let mut map = vec![0; usize::try_from(tail.map_len).ok()?];
    file.read_at(tail_at.checked_sub(tail.map_len)?, &mut map).ok()?;
    Some(key.open_map(&tail, map).ok()?.parents)
}

/// Whether a file in `.akasha/inodes` is what its name says.
fn is_inode_object<B: Backing>(
    backing: &B,
    dirs: &ControlDirs<B>,
    vault: &VaultKeys,
    inode: EntryId,
    name: &[u8],
) -> bool {
    if name == inode_file_name(inode) {
        return identity_of(backing, &dirs.inodes, vault, name).is_some_and(|(_, id)| id == inode);
    }
    // A stub holds nothing but the id that its name says: one that is damaged is worth no more than a whole one.
    let Ok(file) = backing.open(&dirs.inodes, name) else { return false };
    file.stat().is_ok_and(|stat| stat.len == STUB_LEN as u64)
}

/// The ids of itself and of its file with which a layer authenticates, if it does.
fn identity_of<B: Backing>(
    backing: &B,
    dir: &B::Dir,
    vault: &VaultKeys,
    name: &[u8],
) -> Option<(ObjectId, EntryId)> {
    tail_of(backing, dir, vault, name).map(|(id, tail)| (id, tail.entry_id))
}

/// The id and the tail of a layer, if it authenticates.
pub(super) fn tail_of<B: Backing>(
    backing: &B,
    dir: &B::Dir,
    vault: &VaultKeys,
    name: &[u8],
) -> Option<(ObjectId, Tail)> {
    let file = backing.open(dir, name).ok()?;
    let len = file.stat().ok()?.len;
    let tail_at = len.checked_sub(TAIL_LEN as u64)?;
    let mut header = [0; HEADER_LEN];
    file.read_at(0, &mut header).ok()?;
    let key = LayerKey::open(&vault.keys, vault.cipher, vault.geometry, &header).ok()?;
    let mut tail = [0; TAIL_LEN];
    file.read_at(tail_at, &mut tail).ok()?;
    let (tail, _) = key.open_tail(&tail, len).ok()?;
    Some((key.id(), tail))
}
