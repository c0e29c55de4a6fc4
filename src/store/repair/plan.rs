//! What a round is to do about the cases that its check found, and the native half of it.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::rc::Rc;

use crate::backing::{At, Backing, FileKind};
use crate::crypto::sha256;
use crate::entropy::Entropy;
use crate::format::{Entry, EntryId, RescueCopy, inode_file_name, parse_inode_name};

use super::super::LOST_FOUND;
use super::super::check::{Ahead, Case, Kind, Place};
use super::super::core::{ControlDirs, VaultKeys};
use super::super::error::Result;
use super::attributes::BadAttributes;
use super::links::rebuild_stub;
use super::moves::Mover;
use super::nameless::{Identity, Named, names_of};
use super::rescue::WrongRescue;
use super::salvage::Salvage;
use super::{Deed, DeedKind};

/// A file of a known name that cannot be read whole.
pub(super) struct Damaged {
    pub place: Place,
    pub name: Vec<u8>,
    pub entry: Entry,
    /// The file, which is another id than the name's if it has several.
    pub id: EntryId,
    pub why: String,
    /// Further names of it.
    pub other_names: Vec<Named>,
}

/// Something whose name does not open.
pub(super) struct Nameless {
    pub place: Place,
    pub name: Vec<u8>,
    pub identity: Identity,
    /// Of a directory: what its rescue copy says, if that is believed.
    pub copy: Option<RescueCopy>,
    /// How many names in it say that it is the directory that it is taken for.
    pub witnesses: usize,
    pub is_file: bool,
    pub why: String,
    /// Another name of the same file, which tells its kind.
    pub sibling: Option<Entry>,
}

/// A move to `lost+found`, or to a new name.
pub(super) struct Move {
    pub place: Place,
    pub name: Vec<u8>,
    /// As what; under its own backing name if that is not known.
    pub entry: Option<Entry>,
    /// The directory that it is in, if it is to have its new name there instead.
    pub stays_in: Option<EntryId>,
    pub deed: Deed,
}

#[derive(Default)]
pub(super) struct Plan {
    pub damaged: Vec<Damaged>,
    pub nameless: Vec<Nameless>,
    /// Names of files that are missing.
    pub dangling: Vec<Damaged>,
    pub attributes: Vec<BadAttributes>,
    /// Files with several names and a stub that is not right, with their names.
    stubs: Vec<(EntryId, Vec<Named>)>,
    /// Directories with rescue copies that are not right.
    rescues: Vec<WrongRescue>,
    /// Filled in once names in `lost+found` are known.
    pub moves: Vec<Move>,
}

/// Opens the directory that a case is in.
pub(super) fn open_place<B: Backing>(
    backing: &B,
    dirs: &ControlDirs<B>,
    place: &Place,
) -> std::io::Result<B::Dir> {
    match place {
        Place::Tree(here) => here.open(backing),
        Place::Control(name) => backing.open_dir(&dirs.control, name),
    }
}

/// The plaintext path of what is called `name` in a place; of the place itself if that is empty.
pub(super) fn path_in(place: &Place, name: &[u8]) -> Vec<u8> {
    match place {
        Place::Tree(here) => here.path(name),
        Place::Control(_) => name.to_vec(),
    }
}

/// The backing name as findings show it.
pub(super) fn shown_backing(place: &Place, name: &[u8]) -> Vec<u8> {
    match place {
        Place::Tree(_) => name.to_vec(),
        Place::Control(dir) => [b".akasha/", *dir, b"/", name].concat(),
    }
}

/// What the mount calls a backing object whose name does not open.
pub(super) fn damaged_name(backing: &[u8]) -> Vec<u8> {
    let digest = data_encoding::HEXLOWER.encode(&sha256(backing)[..8]);
    [b"akasha-damaged-", digest.as_bytes()].concat()
}

/// A path in `lost+found`.
pub(super) fn in_lost_found(name: &[u8]) -> Vec<u8> {
    [LOST_FOUND, b"/", name].concat()
}

impl Plan {
    pub fn new<B: Backing>(
        backing: &B,
        dirs: &ControlDirs<B>,
        vault: &VaultKeys,
        cases: Vec<Case>,
    ) -> Plan {
        let mut plan = Plan::default();
        let salvage = Salvage { backing, dirs, vault };
        let mut seen = HashSet::new();
        let mut stubs = HashSet::new();
        // Files without names may be of names that cannot be read, so these come first.
        let waits = cases.iter().any(|case| matches!(case.kind, Kind::Name | Kind::Foreign));
        for case in cases {
            match (case.kind, case.entry, case.id) {
                (Kind::File | Kind::Layer | Kind::Content, Some(entry), Some(id))
                    if seen.insert(id) =>
                {
                    plan.damaged.push(Damaged::new(case.place, case.name, entry, id, case.why));
                }
                (Kind::Link, Some(entry), Some(id)) => {
                    if backing.stat(&dirs.inodes, At::Name(&inode_file_name(id))).is_ok() {
                        stubs.insert(id);
                    } else if seen.insert(entry.id) {
                        plan.dangling
                            .push(Damaged::new(case.place, case.name, entry, id, case.why));
                    }
                }
                (Kind::LinkCount, _, Some(id)) => _ = stubs.insert(id),
                (Kind::Name | Kind::Foreign, ..) => {
                    plan.nameless.extend(salvage.nameless(case.place, case.name, case.why));
                }
                (Kind::Leftover, _, Some(_)) if !waits => {
                    plan.nameless.extend(salvage.nameless(case.place, case.name, case.why));
                }
                (Kind::Attribute, entry, Some(id)) => {
                    plan.attributes.push(BadAttributes::new(case.place, case.name, entry, id));
                }
                (Kind::Rescue | Kind::Outdated, ..) => {
                    plan.rescues.extend(WrongRescue::new(&case.place, case.kind));
                }
                _ => {}
            }
        }
        // Nor does a count mean anything while names cannot be read; the stub of a damaged file does not matter until it is moved.
        stubs.retain(|id| !waits && !seen.contains(id));
        plan.settle(backing, dirs, vault, &stubs);
        plan
    }

    pub fn is_empty(&self) -> bool {
        self.damaged.is_empty()
            && self.nameless.is_empty()
            && self.dangling.is_empty()
            && self.attributes.is_empty()
            && self.stubs.is_empty()
            && self.rescues.is_empty()
    }

    /// Looks for what else has the ids that are dealt with.
    fn settle<B: Backing>(
        &mut self,
        backing: &B,
        dirs: &ControlDirs<B>,
        vault: &VaultKeys,
        stubs: &HashSet<EntryId>,
    ) {
        let mut wanted = stubs.clone();
        wanted.extend(self.damaged.iter().filter(|d| d.entry.inode.is_some()).map(|d| d.id));
        wanted.extend(self.nameless.iter().filter_map(|nameless| match nameless.identity {
            Identity::NameOf(inode) => Some(inode),
            other => other.id(),
        }));
        let mut named = names_of(&Salvage { backing, dirs, vault }, &wanted);
        // Of two directories that claim an id it is the one with more in it that opens.
        self.nameless.sort_by_key(|nameless| Reverse(nameless.witnesses));
        let mut taken: HashSet<EntryId> = HashSet::new();
        for nameless in &mut self.nameless {
            if let Identity::NameOf(inode) = nameless.identity {
                let sibling = named.get(&inode).and_then(|names| names.first());
                nameless.sibling = sibling.map(|named| named.entry.clone());
            }
            let Some(id) = nameless.identity.id() else { continue };
            let is_itself = parse_inode_name(&nameless.name) == Some(id);
            let has_inode = backing.stat(&dirs.inodes, At::Name(&inode_file_name(id))).is_ok();
            // A second one would not be opened.
            if named.contains_key(&id) || (has_inode && !is_itself) || !taken.insert(id) {
                nameless.identity = Identity::Unknown;
                nameless.copy = None;
            }
        }
        for damaged in &mut self.damaged {
            if damaged.entry.inode.is_some() {
                let names = named.remove(&damaged.id).unwrap_or_default();
                let others = names.into_iter().filter(|name| name.entry.id != damaged.entry.id);
                damaged.other_names = others.collect();
            }
        }
        for id in stubs {
            if let Some(names) = named.remove(id) {
                self.stubs.push((*id, names));
            }
        }
    }

    /// The native half, after everything written is durable.
    pub fn carry_out<B: Backing>(
        self,
        mover: &mut Mover<'_, B>,
        backing: &B,
        vault: &VaultKeys,
        dirs: &ControlDirs<B>,
        (entropy, stamp): (&dyn Entropy, u64),
        deeds: &mut Vec<Deed>,
    ) -> Result<()> {
        for attributes in &self.attributes {
            deeds.extend(attributes.take_off(mover, backing, dirs)?);
        }
        for planned in self.moves {
            let Ok(from) = open_place(backing, dirs, &planned.place) else { continue };
            let moved = match (&planned.entry, planned.stays_in) {
                (Some(entry), Some(id)) => mover.in_place(&from, id, &planned.name, entry)?,
                (Some(entry), None) => mover.sealed(&from, &planned.name, entry)?,
                (None, _) => mover.raw(&from, &planned.name)?,
            };
            if moved {
                let is_moved = planned.entry.is_some() && planned.stays_in.is_none();
                if is_moved && planned.deed.name.is_some() {
                    mover.sidecar(&from, &planned.name)?;
                }
                deeds.push(planned.deed);
            }
        }
        for wrong in self.rescues {
            wrong.right(mover, backing, vault, dirs, (entropy, stamp), deeds)?;
        }
        for (inode, names) in self.stubs {
            let path = names.first().map(|named| named.dir.path(&named.entry.name));
            if rebuild_stub(backing, vault, dirs, &mover.lost_found, entropy, inode, &names)? {
                let path = path.unwrap_or_default();
                let to = path.clone();
                let holes = Vec::new();
                deeds.push(Deed { kind: DeedKind::Rebuilt, path, name: None, to, holes });
            }
        }
        Ok(())
    }
}

impl Damaged {
    fn new(place: Place, name: Vec<u8>, entry: Entry, id: EntryId, why: String) -> Self {
        Damaged { place, name, entry, id, why, other_names: Vec::new() }
    }

    pub fn path(&self) -> Vec<u8> {
        path_in(&self.place, &self.entry.name)
    }

    /// All its names: where, under which backing name, as what.
    pub fn names(&self) -> Vec<(Place, Vec<u8>, Entry)> {
        let first = (self.place.clone(), self.name.clone(), self.entry.clone());
        let others = self.other_names.iter().map(|named| {
            let dir: &Rc<Ahead> = &named.dir;
            (Place::Tree(Rc::clone(dir)), named.backing.clone(), named.entry.clone())
        });
        std::iter::once(first).chain(others).collect()
    }
}

impl<B: Backing> Salvage<'_, B> {
    fn nameless(&self, place: Place, name: Vec<u8>, why: String) -> Option<Nameless> {
        let dir = open_place(self.backing, self.dirs, &place).ok()?;
        let kind = self.backing.stat(&dir, At::Name(&name)).ok()?.kind;
        let is_file = kind == FileKind::File;
        let (identity, copy, witnesses) = match kind {
            FileKind::Dir => match self.identify_dir(&dir, &name) {
                Some(known) => (Identity::Dir(known.id), known.copy, known.witnesses),
                None => (Identity::Unknown, None, 0),
            },
            FileKind::File => (self.identify_file(&dir, &name), None, 0),
            FileKind::Other => (Identity::Unknown, None, 0),
        };
        Some(Nameless { place, name, identity, copy, witnesses, is_file, why, sibling: None })
    }
}
