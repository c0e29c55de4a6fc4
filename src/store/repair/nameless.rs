//! What a backing object is whose name does not open: files and stubs say which file they are of, directories are known by
//! what is in them.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::backing::{Backing, FileKind, PublishedFile, RawEntry};
use crate::format::{
    Entry, EntryId, EntryKind, NameClass, RescueCopy, STUB_LEN, classify_name, inode_file_name,
    open_entry, open_stub,
};

use super::super::check::{Ahead, read_rescue};
use super::super::core::VaultKeys;
use super::super::dir::{kind_agrees, read_sidecar};
use super::salvage::Salvage;

/// Homes of files that are tried as the id of the directory that they are in.
const HOMES_MAX: usize = 64;

/// What a nameless object turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// The whole, authentic file of this id.
    File(EntryId),
    /// A name of the file with several names of this id.
    NameOf(EntryId),
    /// The directory of this id.
    Dir(EntryId),
    Unknown,
}

impl Identity {
    /// The id that nothing else in the tree may have.
    pub fn id(self) -> Option<EntryId> {
        match self {
            Identity::File(id) | Identity::Dir(id) => Some(id),
            Identity::NameOf(_) | Identity::Unknown => None,
        }
    }
}

/// A directory whose name does not open.
pub(super) struct KnownDir {
    pub id: EntryId,
    /// What its rescue copy says, where that is of the same directory.
    pub copy: Option<RescueCopy>,
    /// How many names in it say the same.
    pub witnesses: usize,
}

impl<B: Backing> Salvage<'_, B> {
    /// What the file `name` in `dir` is.
    pub fn identify_file(&self, dir: &B::Dir, name: &[u8]) -> Identity {
        let identity = match self.stub_of(dir, name) {
            Some(inode) => Some(Identity::NameOf(inode)),
            None => self.whole_id(dir, name).ok().flatten().map(Identity::File),
        };
        identity.unwrap_or(Identity::Unknown)
    }

    /// Which directory the directory `name` in `parent` is: what its rescue copy says, or else the home of a file in it. Either
    /// is believed if something in it says the same, and the copy if there is nothing in it that could.
    pub fn identify_dir(&self, parent: &B::Dir, name: &[u8]) -> Option<KnownDir> {
        let dir = self.backing.open_dir(parent, name).ok()?;
        let listing = self.backing.list(&dir).ok()?;
        if let Ok(Some(copy)) = read_rescue(self.backing, self.vault, &dir) {
            let witnesses = self.witnesses(&dir, &listing, copy.id);
            let has_names = |raw: &RawEntry| {
                matches!(classify_name(&raw.name), NameClass::Entry | NameClass::Long)
            };
            if witnesses > 0 || !listing.iter().any(has_names) {
                return Some(KnownDir { id: copy.id, copy: Some(copy), witnesses });
            }
        }
        let mut tried = HashSet::new();
        for raw in listing.iter().filter(|raw| raw.kind == FileKind::File) {
            let home = match self.stub_of(&dir, &raw.name) {
                Some(inode) => self.home_of(&self.dirs.inodes, &inode_file_name(inode)),
                None => self.home_of(&dir, &raw.name),
            };
            if let Some(id) = home.filter(|home| *home != EntryId::ROOT)
                && tried.insert(id)
            {
                let witnesses = self.witnesses(&dir, &listing, id);
                if witnesses > 0 {
                    return Some(KnownDir { id, copy: None, witnesses });
                }
                if tried.len() == HOMES_MAX {
                    break;
                }
            }
        }
        None
    }

    /// How many names in `dir` open if it is the directory `id`, or are of directories whose own rescue copies say that they
    /// are in that.
    fn witnesses(&self, dir: &B::Dir, listing: &[RawEntry], id: EntryId) -> usize {
        let says_so = |raw: &&RawEntry| {
            entry_of(self.backing, self.vault, dir, id, &raw.name).is_some()
                || raw.kind == FileKind::Dir
                    && self
                        .backing
                        .open_dir(dir, &raw.name)
                        .ok()
                        .and_then(|below| read_rescue(self.backing, self.vault, &below).ok()?)
                        .is_some_and(|copy| copy.parent == id)
        };
        listing.iter().filter(says_so).count()
    }

    /// The file in `.akasha/inodes` that a stub is of.
    fn stub_of(&self, dir: &B::Dir, name: &[u8]) -> Option<EntryId> {
        let file = self.backing.open(dir, name).ok()?;
        let mut bytes = [0; STUB_LEN];
        if file.stat().ok()?.len != STUB_LEN as u64 {
            return None;
        }
        file.read_at(0, &mut bytes).ok()?;
        let vault = self.vault;
        let stub = open_stub(&vault.keys, vault.cipher, vault.geometry, &bytes).ok()?;
        self.backing.open(&self.dirs.inodes, &inode_file_name(stub.inode)).ok()?;
        Some(stub.inode)
    }
}

/// The entry that a backing name is, in the directory of the id `parent`.
pub(super) fn entry_of<B: Backing>(
    backing: &B,
    vault: &VaultKeys,
    dir: &B::Dir,
    parent: EntryId,
    name: &[u8],
) -> Option<Entry> {
    let sealed = match classify_name(name) {
        NameClass::Entry => name.to_vec(),
        NameClass::Long => read_sidecar(backing, dir, name).ok()??,
        NameClass::Control | NameClass::Rescue | NameClass::Sidecar | NameClass::Foreign => {
            return None;
        }
    };
    open_entry(&vault.keys, parent, &sealed).ok()
}

/// A name in the tree.
pub(super) struct Named {
    pub dir: Rc<Ahead>,
    pub backing: Vec<u8>,
    pub entry: Entry,
}

/// The names of the files and directories `ids` in the whole tree, by id; one of several names of a file by both. What is in
/// a directory without a name, which will have one, is in the tree.
pub(super) fn names_of<B: Backing>(
    salvage: &Salvage<'_, B>,
    ids: &HashSet<EntryId>,
) -> HashMap<EntryId, Vec<Named>> {
    let Salvage { backing, vault, .. } = *salvage;
    let mut found: HashMap<EntryId, Vec<Named>> = HashMap::new();
    if ids.is_empty() {
        return found;
    }
    let mut ahead = vec![Ahead::root()];
    while let Some(here) = ahead.pop() {
        let Ok(dir) = here.open(backing) else { continue };
        for raw in backing.list(&dir).unwrap_or_default() {
            let Some(entry) = entry_of(backing, vault, &dir, here.id, &raw.name) else {
                let is_control = classify_name(&raw.name) == NameClass::Control;
                if raw.kind == FileKind::Dir
                    && !is_control
                    && let Some(known) = salvage.identify_dir(&dir, &raw.name)
                {
                    let (parent, plain) = (Some(Rc::clone(&here)), Vec::new());
                    ahead.push(Rc::new(Ahead { parent, backing: raw.name, plain, id: known.id }));
                }
                continue;
            };
            for id in [Some(entry.id), entry.inode].into_iter().flatten() {
                if ids.contains(&id) {
                    let (dir, backing) = (Rc::clone(&here), raw.name.clone());
                    let named = Named { dir, backing, entry: entry.clone() };
                    found.entry(id).or_default().push(named);
                }
            }
            if entry.kind == EntryKind::Dir && kind_agrees(entry.kind, raw.kind) {
                let (parent, plain) = (Some(Rc::clone(&here)), entry.name);
                ahead.push(Rc::new(Ahead { parent, backing: raw.name, plain, id: entry.id }));
            }
        }
    }
    found
}
