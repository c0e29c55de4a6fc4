//! The half of a round that writes: salvaged files, reports, records, through an ordinary store.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::backing::{At, Backing};
use crate::format::{
    Entry, EntryId, EntryKind, SIDE_ATTRIBUTE, inode_file_name, is_sealed_xattr, open_xattr,
    open_xattr_name,
};

use super::super::check::{Ahead, Place};
use super::super::core::{ControlDirs, VaultKeys};
use super::super::dir::free_name;
use super::super::error::{Attempt, Result, StoreError};
use super::super::node::Node;
use super::super::{LOST_FOUND, NewAttr, SetAttr, SetXattr, Store, TimeChange};
use super::nameless::Identity;
use super::plan::{Damaged, Move, Nameless, Plan, damaged_name, in_lost_found, open_place};
use super::plan::{path_in, shown_backing};
use super::salvage::{Salvage, Salvaged};
use super::{Deed, DeedKind};

/// Behind the name of a file, for what was salvaged of it.
const SALVAGED: &str = " (salvaged)";
/// Behind the name of what it is about.
const REPORT: &str = " report.txt";

/// Writes what a plan asks for, and completes the plan with its moves. Returns the id of `lost+found`.
pub(super) fn write<B: Backing>(
    store: &Store<B>,
    dirs: &ControlDirs<B>,
    vault: &VaultKeys,
    plan: &mut Plan,
    deeds: &mut Vec<Deed>,
) -> Result<EntryId> {
    let lost_found = lost_found(store)?;
    let mut taken = HashSet::new();
    store.list(&lost_found, 0, &mut |entry| taken.insert(entry.name.to_vec()))?;
    let salvage = Salvage { backing: &*store.core.backing, dirs, vault };
    let given = HashSet::new();
    let mut writer = Writer { store, salvage, lost_found, taken, given, deeds };
    let mut moves = Vec::new();
    for damaged in &plan.damaged {
        writer.damaged(damaged, &mut moves)?;
    }
    for dangling in &plan.dangling {
        let to = writer.move_names(dangling, &mut moves);
        writer.report(None, &Report::of(&dangling.path(), &dangling.why, &to), None)?;
    }
    for nameless in &plan.nameless {
        writer.nameless(nameless, &mut moves)?;
    }
    for attributes in &mut plan.attributes {
        let text = attributes.describe(&*store.core.backing, dirs, vault)?;
        let name = writer.claim(&attributes.plain_name(), " attributes.txt");
        let header = format!("of: {}\n", String::from_utf8_lossy(&attributes.path()));
        writer.text(&Arc::clone(&writer.lost_found), &name, &(header + &text), None)?;
        attributes.recorded(name);
    }
    plan.moves = moves;
    Ok(writer.lost_found.id())
}

/// `lost+found`, made if it is not there.
fn lost_found<B: Backing>(store: &Store<B>) -> Result<Arc<Node<B>>> {
    let root = store.root();
    match store.lookup(&root, LOST_FOUND) {
        Ok(node) if node.kind() == EntryKind::Dir => Ok(node),
        Ok(_) => Err(StoreError::AlreadyExists),
        Err(StoreError::NotFound) => {
            let owner = store.attr(&root)?;
            let new = NewAttr { mode: 0o700, uid: owner.uid, gid: owner.gid };
            store.mkdir(&root, LOST_FOUND, &new)
        }
        Err(error) => Err(error),
    }
}

/// What a report says.
struct Report {
    what: Vec<u8>,
    why: String,
    kept: Vec<u8>,
    salvaged: Option<(Vec<u8>, Salvaged)>,
}

impl Report {
    fn of(what: &[u8], why: &str, kept: &[u8]) -> Self {
        Report { what: what.to_vec(), why: why.to_owned(), kept: kept.to_vec(), salvaged: None }
    }

    fn text(&self) -> String {
        let shown = |path: &[u8]| path.escape_ascii().to_string();
        let shown = |path: &[u8]| match std::str::from_utf8(path) {
            Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
            _ => shown(path),
        };
        let mut text = format!(
            "akasha check --repair\n\nwhat: {}\nwhy: {}\nunchanged, as it was in the vault: {}\n",
            shown(&self.what),
            self.why,
            shown(&self.kept)
        );
        let Some((to, salvaged)) = &self.salvaged else {
            text.push_str("salvaged: nothing of it authenticates\n");
            return text;
        };
        let (good, size) = (salvaged.good, salvaged.size);
        let _ = writeln!(text, "salvaged: {}\nauthentic bytes: {good} of {size}", shown(to));
        if let Some(doubt) = &salvaged.doubt {
            let _ = writeln!(text, "beware: {doubt}");
        }
        if !salvaged.holes.is_empty() {
            text.push_str("missing bytes, zero in the salvaged file:\n");
        }
        for hole in &salvaged.holes {
            let _ = writeln!(text, "  {}-{}", hole.start, hole.end - 1);
        }
        text
    }
}

struct Writer<'a, B: Backing> {
    store: &'a Store<B>,
    salvage: Salvage<'a, B>,
    lost_found: Arc<Node<B>>,
    /// Names in it.
    taken: HashSet<Vec<u8>>,
    /// Names elsewhere that were given back, with their directories.
    given: HashSet<(EntryId, Vec<u8>)>,
    deeds: &'a mut Vec<Deed>,
}

impl<B: Backing> Writer<'_, B> {
    /// A free name in `lost+found`.
    fn claim(&mut self, name: &[u8], mark: &str) -> Vec<u8> {
        let name = free_name(|name| self.taken.contains(name), name, mark);
        self.taken.insert(name.clone());
        name
    }

    /// The directory of a place, if the store finds the same one under its path; else `lost+found`.
    fn dir(&self, place: &Place) -> Arc<Node<B>> {
        let found = match place {
            Place::Tree(here) => self.dir_node(here),
            Place::Control(_) => None,
        };
        found.unwrap_or_else(|| Arc::clone(&self.lost_found))
    }

    fn dir_node(&self, here: &Ahead) -> Option<Arc<Node<B>>> {
        let Some(parent) = &here.parent else { return Some(self.store.root()) };
        // As deep as the tree is: iterative would need the same list.
        let mut chain = vec![here];
        let mut at = parent.as_ref();
        while let Some(next) = &at.parent {
            chain.push(at);
            at = next;
        }
        chain.iter().rev().try_fold(self.store.root(), |dir, ahead| {
            let node = self.store.lookup(&dir, &ahead.plain).ok()?;
            (node.id() == ahead.id && node.kind() == EntryKind::Dir).then_some(node)
        })
    }

    /// A name in `dir` that is free.
    fn free(&mut self, dir: &Arc<Node<B>>, name: &[u8], mark: &str) -> Vec<u8> {
        if Arc::ptr_eq(dir, &self.lost_found) {
            return self.claim(name, mark);
        }
        let is_taken =
            |name: &[u8]| !matches!(self.store.lookup(dir, name), Err(StoreError::NotFound));
        free_name(is_taken, name, mark)
    }

    /// The path of `name` in the directory of `place`, or in `lost+found` instead.
    fn path(&self, place: &Place, dir: &Arc<Node<B>>, name: &[u8]) -> Vec<u8> {
        if Arc::ptr_eq(dir, &self.lost_found) { in_lost_found(name) } else { path_in(place, name) }
    }

    fn damaged(&mut self, damaged: &Damaged, moves: &mut Vec<Move>) -> Result<()> {
        let is_inode = damaged.entry.inode.is_some();
        let (place, name) = if is_inode {
            (Place::Control(b"inodes"), inode_file_name(damaged.id))
        } else {
            (damaged.place.clone(), damaged.name.clone())
        };
        let from = open_place(self.salvage.backing, self.salvage.dirs, &place)
            .attempt("open the directory of a damaged file")?;
        let dir = self.dir(&damaged.place);
        let as_name = self.free(&dir, &damaged.entry.name, SALVAGED);
        let salvaged = match damaged.entry.kind {
            EntryKind::File => self.salvage_to(&from, &name, Some(damaged.id), &dir, &as_name)?,
            _ => None,
        };
        let to = self.move_names(damaged, moves);
        let mut report = Report::of(&damaged.path(), &damaged.why, &to);
        if let Some(salvaged) = salvaged {
            let to = self.path(&damaged.place, &dir, &as_name);
            for named in &damaged.other_names {
                self.link_beside(&dir, &as_name, named)?;
            }
            report.salvaged = Some((to, salvaged));
        }
        let beside = report.salvaged.is_some().then_some((&dir, as_name.as_slice()));
        self.report(beside, &report, Some((&from, &name)))
    }

    /// Gives what was salvaged a second name beside another name of the damaged file.
    fn link_beside(
        &mut self,
        dir: &Arc<Node<B>>,
        name: &[u8],
        other: &super::nameless::Named,
    ) -> Result<()> {
        let Some(other_dir) = self.dir_node(&other.dir) else { return Ok(()) };
        let node = self.store.lookup(dir, name)?;
        let other_name = self.free(&other_dir, &other.entry.name, SALVAGED);
        match self.store.link(&node, &other_dir, &other_name) {
            Err(StoreError::NotSupported) => Ok(()),
            other => other,
        }
    }

    /// Plans the moves of all names; returns the path that the first one gets.
    fn move_names(&mut self, damaged: &Damaged, moves: &mut Vec<Move>) -> Vec<u8> {
        let mut first = None;
        for (place, name, entry) in damaged.names() {
            let claimed = self.claim(&entry.name, "");
            let to = in_lost_found(&claimed);
            first.get_or_insert_with(|| to.clone());
            let path = path_in(&place, &entry.name);
            let deed = Deed { kind: DeedKind::Moved, path, name: None, to, holes: Vec::new() };
            let entry = Some(Entry { name: claimed, replaces: None, ..entry });
            moves.push(Move { place, name, entry, stays_in: None, deed });
        }
        first.unwrap_or_default()
    }

    fn nameless(&mut self, nameless: &Nameless, moves: &mut Vec<Move>) -> Result<()> {
        let (place, name) = (nameless.place.clone(), nameless.name.clone());
        let path = path_in(&place, b"");
        let shown = shown_backing(&place, &name);
        let stays_in = self.old_place(nameless);
        let entry = self.new_entry(nameless, stays_in.is_some());
        let (kind, to) = match (&entry, stays_in) {
            (Some(entry), Some(_)) => (DeedKind::Named, path_in(&place, &entry.name)),
            (Some(entry), None) => (DeedKind::Named, in_lost_found(&entry.name)),
            (None, _) => (DeedKind::Moved, in_lost_found(&damaged_name(&name))),
        };
        if entry.is_none() {
            let from = open_place(self.salvage.backing, self.salvage.dirs, &place)
                .attempt("open the directory of something damaged")?;
            let what = [path.as_slice(), b" [", &shown, b"]"].concat();
            let mut report = Report::of(&what, &nameless.why, &to);
            let lost_found = Arc::clone(&self.lost_found);
            if nameless.is_file {
                let as_name = self.claim(&damaged_name(&name), SALVAGED);
                let salvaged = self.salvage_to(&from, &name, None, &lost_found, &as_name)?;
                report.salvaged = salvaged.map(|salvaged| (in_lost_found(&as_name), salvaged));
            }
            self.report(None, &report, None)?;
        }
        let deed = Deed { kind, path, name: Some(shown), to, holes: Vec::new() };
        moves.push(Move { place, name, entry, stays_in, deed });
        Ok(())
    }

    /// The directory that something nameless is in, if its rescue copy says that it is there, and its name is free there.
    fn old_place(&mut self, nameless: &Nameless) -> Option<EntryId> {
        let (copy, Place::Tree(here)) = (nameless.copy.as_ref()?, &nameless.place) else {
            return None;
        };
        let dir = self.dir_node(here).filter(|dir| dir.id() == copy.parent)?;
        let is_free = matches!(self.store.lookup(&dir, &copy.name), Err(StoreError::NotFound));
        (is_free && self.given.insert((copy.parent, copy.name.clone()))).then_some(copy.parent)
    }

    /// The entry that something nameless gets, if it is known what it is.
    fn new_entry(&mut self, nameless: &Nameless, stays: bool) -> Option<Entry> {
        let (word, id, kind) = match nameless.identity {
            Identity::File(id) => ("file", id, EntryKind::File),
            Identity::Dir(id) => ("directory", id, EntryKind::Dir),
            Identity::NameOf(id) => {
                let kind = nameless.sibling.as_ref().map_or(EntryKind::File, |entry| entry.kind);
                ("file", id, kind)
            }
            Identity::Unknown => return None,
        };
        let name = match &nameless.copy {
            Some(copy) if stays => copy.name.clone(),
            Some(copy) => self.claim(&copy.name, ""),
            None => self.claim(format!("{word}-{:016x}", id.get()).as_bytes(), ""),
        };
        let rdev = nameless.sibling.as_ref().and_then(|entry| entry.rdev);
        let (id, inode) = match nameless.identity {
            Identity::NameOf(inode) => (EntryId::random(&*self.store.core.entropy), Some(inode)),
            _ => (id, None),
        };
        Some(Entry { kind, id, inode, replaces: None, rdev, name })
    }

    /// Writes what authenticates of a file to a new one, with the attributes that can be read. `None`, and no file, if it is
    /// nothing.
    fn salvage_to(
        &mut self,
        from: &B::Dir,
        name: &[u8],
        id: Option<EntryId>,
        dir: &Arc<Node<B>>,
        as_name: &[u8],
    ) -> Result<Option<Salvaged>> {
        let (store, backing) = (self.store, self.salvage.backing);
        let stat = backing.stat(from, At::Name(name)).attempt("stat a damaged file")?;
        let new = NewAttr { mode: stat.mode, uid: stat.uid, gid: stat.gid };
        let mut made = None;
        let written = self.salvage.file(id, &|| backing.open(from, name), &mut |at, plain| {
            let node = match &made {
                Some(node) => node,
                None => made.insert(store.create(dir, as_name, &new)?),
            };
            store.write(node, at, plain)
        });
        let Some(node) = made else { return written.map(|_| None) };
        let finished = written.and_then(|salvaged| {
            if let Some(salvaged) = &salvaged {
                store.truncate(&node, salvaged.size)?;
            }
            if let Some(id) = id {
                self.copy_attributes(from, name, id, &node)?;
            }
            let mtime = Some(TimeChange::At(stat.mtime));
            store.set_attr(&node, &SetAttr { mtime, ..SetAttr::default() })?;
            store.fsync(&node)?;
            Ok(salvaged)
        });
        store.close_file(&node, true);
        let salvaged = finished?;
        if let Some(salvaged) = &salvaged {
            let path = Self::plain_path(dir, as_name);
            let holes = salvaged.holes.clone();
            let (kind, name) = (DeedKind::Salvaged, None);
            self.deeds.push(Deed { kind, path: path.clone(), name, to: path, holes });
        }
        Ok(salvaged)
    }

    /// The path of a name that the store shows.
    fn plain_path(dir: &Arc<Node<B>>, name: &[u8]) -> Vec<u8> {
        let mut parts = vec![name.to_vec()];
        let mut at = Arc::clone(dir);
        loop {
            let place = at.place.lock();
            let Some(link) = &place.link else { break };
            parts.push(link.name.to_vec());
            let next = Arc::clone(&link.dir);
            drop(place);
            at = next;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    fn copy_attributes(
        &self,
        from: &B::Dir,
        name: &[u8],
        id: EntryId,
        node: &Arc<Node<B>>,
    ) -> Result<()> {
        let (backing, vault) = (self.salvage.backing, self.salvage.vault);
        let at = At::Name(name);
        for key in backing.list_xattrs(from, at).unwrap_or_default() {
            if !is_sealed_xattr(&key) {
                continue;
            }
            let Ok(plain) = open_xattr_name(&vault.keys, id, &key) else { continue };
            let Ok(Some(sealed)) = backing.get_xattr(from, at, &key) else { continue };
            let Ok(value) = open_xattr(&vault.keys, id, &plain, &sealed) else { continue };
            if plain == SIDE_ATTRIBUTE {
                for (name, value) in self.salvage.side(id, &value) {
                    self.store.set_xattr(node, &name, &value, SetXattr::Any)?;
                }
            } else if !plain.starts_with(b"akasha\0") {
                self.store.set_xattr(node, &plain, &value, SetXattr::Any)?;
            }
        }
        Ok(())
    }

    /// Writes a report beside what was salvaged, or into `lost+found`.
    fn report(
        &mut self,
        beside: Option<(&Arc<Node<B>>, &[u8])>,
        report: &Report,
        owner: Option<(&B::Dir, &[u8])>,
    ) -> Result<()> {
        let (dir, name) = if let Some((dir, name)) = beside {
            (Arc::clone(dir), self.free(dir, name, REPORT))
        } else {
            let kept = report.kept.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            (Arc::clone(&self.lost_found), self.claim(kept, REPORT))
        };
        self.text(&dir, &name, &report.text(), owner)
    }

    fn text(
        &self,
        dir: &Arc<Node<B>>,
        name: &[u8],
        text: &str,
        owner: Option<(&B::Dir, &[u8])>,
    ) -> Result<()> {
        let of_dir = self.store.attr(dir)?;
        let (mut uid, mut gid) = (of_dir.uid, of_dir.gid);
        if let Some((from, name)) = owner
            && let Ok(stat) = self.salvage.backing.stat(from, At::Name(name))
        {
            (uid, gid) = (stat.uid, stat.gid);
        }
        let node = self.store.create(dir, name, &NewAttr { mode: 0o600, uid, gid })?;
        let written =
            self.store.write(&node, 0, text.as_bytes()).and_then(|()| self.store.fsync(&node));
        self.store.close_file(&node, true);
        written
    }
}
