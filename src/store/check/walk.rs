//! The tree: every directory, every name in it, what each name is of.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::backing::{At, Backing, FileKind, RawEntry};
use crate::format::{
    Entry, EntryId, EntryKind, NameClass, ObjectId, RESCUE_NAME, classify_name, open_entry,
    parse_layer_file_name,
};

use super::super::core::VaultKeys;
use super::super::dir::{kind_agrees, read_sidecar, settle_names, stray_sidecars};
use super::super::error::{Attempt, Result, chain};
use super::super::{CONTROL_DIR, LOST_FOUND};
use super::case::{Case, Place};
use super::content::{Fault, says_nothing};
use super::look::{Look, Seen};
use super::{Effort, Finding, Kind, Summary};

/// How often something that changes while it is looked at is looked at.
pub(super) const TRIES: usize = 5;
/// Files that are looked at before what was found is told.
const BATCH_LEN: usize = 256;

/// A check under way.
pub(super) struct Check<'a, B: Backing> {
    pub backing: &'a B,
    pub vault: &'a VaultKeys,
    pub control: B::Dir,
    pub layers: Option<B::Dir>,
    sides: Option<B::Dir>,
    pub inodes: Option<B::Dir>,
    pub report: &'a mut dyn FnMut(&Finding),
    effort: Effort<'a>,
    pub summary: Summary,
    /// Findings that are what a repair put aside.
    pub kept: u64,
    /// What a repair can do something about.
    pub cases: Vec<Case>,
    /// The files with several names: how many backing directories hold.
    pub named: HashMap<EntryId, u32>,
    /// The older layers that were there at first, and those that files refer to.
    pub layers_before: Vec<(EntryId, ObjectId)>,
    pub referred: HashSet<(EntryId, ObjectId)>,
}

/// A directory that is still to be read, as its path: open ones would cost a descriptor each.
pub(in crate::store) struct Ahead {
    pub parent: Option<Rc<Ahead>>,
    pub backing: Vec<u8>,
    pub plain: Vec<u8>,
    pub id: EntryId,
}

impl Ahead {
    pub fn root() -> Rc<Ahead> {
        let (backing, plain) = (Vec::new(), Vec::new());
        Rc::new(Ahead { parent: None, backing, plain, id: EntryId::ROOT })
    }

    pub fn open<B: Backing>(&self, backing: &B) -> std::io::Result<B::Dir> {
        let mut names = Vec::new();
        let mut at = Some(self);
        while let Some(ahead) = at.filter(|ahead| ahead.parent.is_some()) {
            names.push(&ahead.backing);
            at = ahead.parent.as_deref();
        }
        names.iter().rev().try_fold(backing.root()?, |dir, name| backing.open_dir(&dir, name))
    }

    /// The plaintext path of `name` in it; of itself if that is empty.
    pub fn path(&self, name: &[u8]) -> Vec<u8> {
        let mut parts = vec![name];
        let mut at = Some(self);
        while let Some(ahead) = at {
            parts.push(&ahead.plain);
            at = ahead.parent.as_deref();
        }
        parts.retain(|part| !part.is_empty());
        parts.reverse();
        parts.join(&b'/')
    }
}

impl<'a, B: Backing> Check<'a, B> {
    pub fn open(
        backing: &'a B,
        vault: &'a VaultKeys,
        effort: Effort<'a>,
        report: &'a mut dyn FnMut(&Finding),
    ) -> Result<Self> {
        let root = backing.root().attempt("open the vault")?;
        let control = backing.open_dir(&root, CONTROL_DIR).attempt("open .akasha")?;
        Ok(Check {
            layers: backing.open_dir(&control, b"layers").ok(),
            sides: backing.open_dir(&control, b"xattrs").ok(),
            inodes: backing.open_dir(&control, b"inodes").ok(),
            backing,
            vault,
            control,
            report,
            effort,
            summary: Summary::default(),
            kept: 0,
            cases: Vec::new(),
            named: HashMap::new(),
            layers_before: Vec::new(),
            referred: HashSet::new(),
        })
    }

    pub fn find(&mut self, path: Vec<u8>, name: Option<&[u8]>, fault: Fault) {
        let Fault { mut kind, why, ranges } = fault;
        if is_kept(kind, &path, name.is_some()) {
            kind = Kind::Kept;
            self.kept += 1;
        }
        if kind.is_damage() {
            self.summary.damaged += 1;
        } else if kind == Kind::Unchecked {
            self.summary.unchecked += 1;
        } else {
            self.summary.notes += 1;
        }
        (self.report)(&Finding { path, name: name.map(<[u8]>::to_vec), kind, why, ranges });
    }

    /// Every directory, without recursion: a tree may be deep.
    pub fn tree(&mut self) {
        let layers = self.layers.as_ref().and_then(|dir| self.backing.list(dir).ok());
        let layers = layers.unwrap_or_default();
        self.layers_before =
            layers.iter().filter_map(|raw| parse_layer_file_name(&raw.name)).collect();
        let mut ahead = vec![Ahead::root()];
        while let Some(here) = ahead.pop() {
            match here.open(self.backing) {
                Ok(dir) => self.directory(&here, &dir, &mut ahead),
                // It was moved or removed meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    self.summary.vanished += 1;
                }
                Err(error) => {
                    let fault = Fault::io(Kind::Directory, "cannot open it", &error);
                    self.find(here.path(b""), None, fault);
                }
            }
        }
    }

    fn directory(&mut self, here: &Rc<Ahead>, dir: &B::Dir, ahead: &mut Vec<Rc<Ahead>>) {
        self.summary.directories += 1;
        if let Some(fault) = self.look().attributes(dir, At::This, here.id) {
            self.note_case(&Place::Tree(Rc::clone(here)), b"", None, here.id, &fault);
            self.find(here.path(b""), None, fault);
        }
        let mut seen: HashSet<Vec<u8>> = HashSet::new();
        for _ in 0..TRIES {
            let listing = match self.backing.list(dir) {
                Ok(listing) => listing,
                // It was removed after it was opened (the vault itself may not be).
                Err(error)
                    if error.kind() == std::io::ErrorKind::NotFound && here.parent.is_some() =>
                {
                    self.summary.vanished += 1;
                    return;
                }
                Err(error) => {
                    let fault = Fault::io(Kind::Directory, "cannot list it", &error);
                    return self.find(here.path(b""), None, fault);
                }
            };
            let vanished = self.summary.vanished;
            let has_copy = listing.iter().any(|raw| classify_name(&raw.name) == NameClass::Rescue);
            if has_copy && seen.insert(RESCUE_NAME.to_vec()) {
                self.rescue_copy(here, dir);
            }
            self.listed(here, dir, listing, &mut seen, ahead);
            // What was renamed meanwhile is there under another name.
            if self.summary.vanished == vanished {
                return;
            }
        }
    }

    /// What a listing shows that was not `seen` yet.
    fn listed(
        &mut self,
        here: &Rc<Ahead>,
        dir: &B::Dir,
        listing: Vec<RawEntry>,
        seen: &mut HashSet<Vec<u8>>,
        ahead: &mut Vec<Rc<Ahead>>,
    ) {
        for stray in stray_sidecars(&listing) {
            if seen.insert(stray.clone()) {
                let why = "a long name without its file: the next mount removes it";
                self.find(here.path(b""), Some(&stray), Fault::new(Kind::Leftover, why));
            }
        }
        let mut entries = Vec::with_capacity(listing.len());
        let mut kinds = HashMap::new();
        for raw in listing {
            match self.named_entry(here, dir, &raw) {
                Ok(Some(entry)) => {
                    kinds.insert(raw.name.clone(), raw.kind);
                    entries.push((entry, raw.name));
                }
                Ok(None) => {}
                Err(_) if seen.contains(&raw.name) => {}
                Err(fault) => {
                    if self.backing.stat(dir, At::Name(&raw.name)).is_err() {
                        self.summary.vanished += 1;
                    } else {
                        let place = Place::Tree(Rc::clone(here));
                        self.note_case(&place, &raw.name, None, None, &fault);
                        self.find(here.path(b""), Some(&raw.name), fault);
                    }
                    seen.insert(raw.name);
                }
            }
        }
        let losers = settle_names(&mut entries);
        for (entry, backing_name) in &losers.replaced {
            if let Some(inode) = entry.inode
                && seen.insert(backing_name.clone())
            {
                *self.named.entry(inode).or_default() += 1;
            }
        }
        for (entry, backing_name) in &losers.conflicts {
            if !seen.contains(backing_name) {
                let why =
                    "two devices made this name: the mount shows one of the two as a conflict";
                self.find(
                    here.path(&entry.name),
                    Some(backing_name),
                    Fault::new(Kind::Conflict, why),
                );
            }
        }
        let mut files = Vec::new();
        for (entry, backing_name) in entries.into_iter().chain(losers.conflicts) {
            if !seen.insert(backing_name.clone()) {
                continue;
            }
            if entry.kind == EntryKind::Dir {
                let parent = Some(Rc::clone(here));
                let ahead_of =
                    Ahead { parent, backing: backing_name, plain: entry.name, id: entry.id };
                ahead.push(Rc::new(ahead_of));
            } else if let Some(inode) = entry.inode {
                self.one_of_several(here, dir, &backing_name, &entry, inode);
            } else {
                files.push((entry, backing_name));
            }
        }
        for batch in files.chunks(BATCH_LEN) {
            let all = self.look().files(dir, batch, self.effort.threads);
            for ((entry, name), seen) in batch.iter().zip(all) {
                let place = Place::Tree(Rc::clone(here));
                self.tell(&here.path(&entry.name), &place, name, entry, entry.id, seen);
            }
        }
    }

    /// The entry that a backing name is; `None` of what is none of the tree's.
    fn named_entry(
        &self,
        here: &Ahead,
        dir: &B::Dir,
        raw: &RawEntry,
    ) -> std::result::Result<Option<Entry>, Fault> {
        let unreadable = |why: &str| Fault::new(Kind::Name, why);
        let entry = match classify_name(&raw.name) {
            NameClass::Control | NameClass::Rescue | NameClass::Sidecar => return Ok(None),
            NameClass::Foreign => {
                return Err(Fault::new(Kind::Foreign, "not made by akasha"));
            }
            NameClass::Entry => open_entry(&self.vault.keys, here.id, &raw.name)
                .map_err(|_| unreadable("the name does not authenticate in this directory"))?,
            NameClass::Long => match read_sidecar(self.backing, dir, &raw.name) {
                Ok(Some(sealed)) => open_entry(&self.vault.keys, here.id, &sealed)
                    .map_err(|_| unreadable("the name does not authenticate in this directory"))?,
                Ok(None) => return Err(self.no_sidecar(dir, &raw.name)),
                Err(error) => {
                    return Err(Fault::new(Kind::Unchecked, chain(&error)));
                }
            },
        };
        if kind_agrees(entry.kind, raw.kind) {
            Ok(Some(entry))
        } else {
            let is = if raw.kind == FileKind::Dir { "a directory" } else { "no directory" };
            Err(unreadable(&format!("it is {is} in the vault, and its name says otherwise")))
        }
    }

    /// Why a long name cannot be told.
    fn no_sidecar(&self, dir: &B::Dir, long: &[u8]) -> Fault {
        match self.backing.open(dir, &[long, &b".name"[..]].concat()) {
            Err(error) if says_nothing(&error) => {
                Fault::io(Kind::Name, "cannot open the file that holds its long name", &error)
            }
            _ => Fault::new(Kind::Name, "the file that holds its long name is missing or damaged"),
        }
    }

    pub fn look(&self) -> Look<'_, B> {
        let (layers, sides) = (self.layers.as_ref(), self.sides.as_ref());
        let read_bytes = self.effort.read_bytes;
        Look { backing: self.backing, vault: self.vault, layers, sides, read_bytes }
    }

    /// What reading the file `id` gave, whose name in `place` is `name`.
    pub fn tell(
        &mut self,
        path: &[u8],
        place: &Place,
        name: &[u8],
        entry: &Entry,
        id: EntryId,
        seen: Seen,
    ) {
        self.referred.extend(seen.referred);
        if seen.is_gone {
            self.summary.vanished += 1;
            return;
        }
        self.summary.files += 1;
        self.summary.bytes += seen.bytes;
        for fault in seen.faults {
            self.note_case(place, name, Some(entry), id, &fault);
            self.find(path.to_vec(), None, fault);
        }
    }

    /// Remembers where damage is.
    pub fn note_case(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: Option<&Entry>,
        id: impl Into<Option<EntryId>>,
        fault: &Fault,
    ) {
        let in_kept = match place {
            Place::Tree(here) => is_kept(fault.kind, &here.path(b""), true) && !name.is_empty(),
            Place::Control(_) => false,
        };
        let is_note =
            !fault.kind.is_damage() && !matches!(fault.kind, Kind::LinkCount | Kind::Outdated);
        if in_kept || is_note {
            return;
        }
        self.cases.push(Case {
            kind: fault.kind,
            why: fault.why.clone(),
            place: place.clone(),
            name: name.to_vec(),
            entry: entry.cloned(),
            id: id.into(),
        });
    }
}

/// Whether a finding is about what a repair put aside: directly in `lost+found`, and not readable. What of `lost+found` can be read
/// is as good as everything else.
fn is_kept(kind: Kind, path: &[u8], is_nameless: bool) -> bool {
    let is_unreadable =
        kind.is_damage() && !matches!(kind, Kind::Directory | Kind::Attribute | Kind::Rescue);
    let inside = path.strip_prefix(LOST_FOUND);
    is_unreadable
        && inside.is_some_and(|rest| match rest.split_first() {
            None => is_nameless,
            Some((slash, name)) => *slash == b'/' && !name.contains(&b'/') && !is_nameless,
        })
}

/// The length of all files in a vault; of what cannot be looked at none.
pub(super) fn len_of_tree<B: Backing>(backing: &B) -> u64 {
    let mut len = 0;
    let mut ahead = vec![Ahead::root()];
    while let Some(here) = ahead.pop() {
        let Ok(dir) = here.open(backing) else { continue };
        for raw in backing.list(&dir).unwrap_or_default() {
            if raw.kind == FileKind::Dir {
                let (parent, plain) = (Some(Rc::clone(&here)), Vec::new());
                ahead.push(Rc::new(Ahead { parent, backing: raw.name, plain, id: here.id }));
            } else if let Ok(stat) = backing.stat(&dir, At::Name(&raw.name)) {
                len += stat.len;
            }
        }
    }
    len
}
