//! One directory: its map, what the backing directory holds that the map does not show, and what is to be removed
//! once a sync has made its replacement durable.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use log::warn;
use parking_lot::MutexGuard;

use crate::backing::{At, AttrChange, Backing, FileKind, PublishedFile, RawEntry};
use crate::clock::Timestamp;
use crate::crypto::sha256;
use crate::format::{
    BackingName, Entry, EntryId, EntryKind, NameClass, RESCUE_NAME, classify_name, open_entry,
};

use super::core::Core;
use super::dirmap::{DirMap, MapEntry};
use super::error::{Attempt, Result, StoreError};
use super::node::{Node, TreeSpot, backing_name};

/// Shortest sealed entry that is too long for a backing name, in bytes.
const SIDECAR_LEN_MIN: u64 = 256;
/// Longest sealed entry that a sidecar can hold, in bytes.
const SIDECAR_LEN_MAX: u64 = 4096;

/// Everything a directory knows besides its open descriptor. Guarded by the directory's lock.
pub(crate) struct DirState<B: Backing> {
    /// `None` until the directory was read.
    pub map: Option<DirMap>,
    /// What published entries say they replace, by the name that is shown: a cut may leave one id under two.
    pub replaces: HashMap<Box<[u8]>, EntryId>,
    /// The files that names here are of: those that have several.
    pub links: HashMap<EntryId, EntryId>,
    /// Those of them that a cut left here twice, under two names.
    pub doubled: HashSet<EntryId>,
    /// The backing names behind the stand-ins for what does not decrypt.
    pub damaged: HashMap<EntryId, Vec<u8>>,
    /// Entries shown under another name than they are sealed under (conflicts).
    pub sealed_as: HashMap<EntryId, Box<[u8]>>,
    /// What the backing directory holds under a plaintext name that the map gives to somebody else, or to nobody.
    pub under: HashMap<Box<[u8]>, Under<B>>,
    /// Names that were removed or moved away by changes that may not be durable yet.
    pub vacated: HashMap<Box<[u8]>, Vacated>,
    /// Backing objects to remove, once this directory is synced beyond a change.
    pub doomed: Vec<Doomed>,
    /// Names under which entries were removed that their successors there replace, by a change that may not be durable yet.
    pub buried: HashMap<Box<[u8]>, u64>,
    /// Nodes shown here whose backing entry is not (yet) under that name.
    pub pending: HashMap<EntryId, Arc<Node<B>>>,
    /// Directories to sync before this one: sources of moves into it.
    pub sync_first: Vec<(Arc<Node<B>>, u64)>,
    /// The modification and change times that the mount shows while the backing directory's are disturbed by commits.
    pub times: Option<(Timestamp, Timestamp)>,
    /// The change time that the mount shows once `times` were given back: the vault's is that of giving them.
    pub ctime: Option<Timestamp>,
    /// It was read and held no rescue copy, and nobody has noted yet that it is to get one.
    pub lacks_rescue: bool,
    /// The directory was removed.
    pub removed: bool,
}

/// See [`DirState::under`].
pub(crate) enum Under<B: Backing> {
    /// A committed entry that a pending one replaces: it dies when that one is published.
    Replaced { id: EntryId, kind: EntryKind, replaces: Option<EntryId> },
    /// The entry of a node that the mount shows elsewhere: it moves when that node is committed.
    MovedAway(Arc<Node<B>>),
}

/// See [`DirState::vacated`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vacated {
    /// The change that vacated it.
    pub change: u64,
    pub by: VacatedBy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VacatedBy {
    /// The entry was removed. Whoever takes the name says that it replaces it.
    Removed(EntryId),
    /// The entry, or what it held, lives on elsewhere: the name is free only once that is durable.
    Moved,
}

/// Something to remove once the directory is synced beyond `change`.
pub(crate) struct Doomed {
    pub change: u64,
    /// The plaintext name, so that two dead entries of one name go one sync apart.
    pub name: Box<[u8]>,
    pub what: Doom,
}

pub(crate) enum Doom {
    /// A replaced entry.
    Entry { id: EntryId, kind: EntryKind, backing: BackingName },
    /// The sidecar of a long name that is gone.
    Sidecar(Vec<u8>),
    /// Every older layer of a file that is gone.
    AllLayers(EntryId),
    /// A file that lost the last of its several names.
    Inode(EntryId),
    /// The side objects with the attributes of what is gone.
    Sides(EntryId),
    /// Older layers that the published version no longer refers to.
    Layers(EntryId, Vec<crate::format::ObjectId>),
}

impl<B: Backing> DirState<B> {
    pub fn unloaded() -> Self {
        DirState {
            map: None,
            replaces: HashMap::new(),
            links: HashMap::new(),
            doubled: HashSet::new(),
            damaged: HashMap::new(),
            sealed_as: HashMap::new(),
            under: HashMap::new(),
            vacated: HashMap::new(),
            doomed: Vec::new(),
            buried: HashMap::new(),
            pending: HashMap::new(),
            sync_first: Vec::new(),
            times: None,
            ctime: None,
            lacks_rescue: false,
            removed: false,
        }
    }

    /// The map. Callers load the directory first.
    pub fn map(&self) -> &DirMap {
        self.map.as_ref().expect("the directory was loaded by the caller")
    }

    pub fn map_mut(&mut self) -> &mut DirMap {
        self.map.as_mut().expect("the directory was loaded by the caller")
    }

    /// Whether forgetting the map would lose something.
    pub fn is_pinned(&self) -> bool {
        !(self.under.is_empty()
            && self.vacated.is_empty()
            && self.doomed.is_empty()
            && self.buried.is_empty()
            && self.pending.is_empty()
            && self.sync_first.is_empty()
            && self.times.is_none())
    }

    /// Whether it remembers names only until they are durable.
    pub fn remembers(&self) -> bool {
        !(self.vacated.is_empty() && self.buried.is_empty())
    }

    /// Forgets the map; it is read again when needed.
    pub fn unload(&mut self) {
        self.map = None;
        self.replaces.clear();
        self.links.clear();
        self.doubled.clear();
        self.damaged.clear();
        self.sealed_as.clear();
        self.lacks_rescue = false;
    }

    /// Where the published entry of `name` is.
    pub fn spot(&self, dir: &Arc<Node<B>>, name: &[u8], id: EntryId) -> TreeSpot<B> {
        TreeSpot {
            dir: Arc::clone(dir),
            name: self.sealed_as.get(&id).cloned().unwrap_or_else(|| name.into()),
            replaces: self.replaces.get(name).copied(),
        }
    }

    /// The backing name of the entry `id` at `spot`, which is in this directory.
    pub fn backing_name(
        &self,
        core: &Core<B>,
        spot: &TreeSpot<B>,
        id: EntryId,
        kind: EntryKind,
    ) -> BackingName {
        let what = Entry {
            kind,
            id,
            inode: self.links.get(&id).copied(),
            replaces: spot.replaces,
            rdev: None,
            name: spot.name.to_vec(),
        };
        backing_name(core, spot.dir.id(), what)
    }

    /// The file that the name `id` is of, of which an entry leaves the directory.
    pub fn take_link(&mut self, id: EntryId) -> Option<EntryId> {
        if self.doubled.contains(&id) {
            self.links.get(&id).copied()
        } else {
            self.links.remove(&id)
        }
    }

    /// Somebody took `name`. What was removed under it is dead by what its successor says, for as long as that one has the name.
    pub fn take_vacated(&mut self, name: &[u8]) {
        if let Some(vacated) = self.vacated.remove(name)
            && matches!(vacated.by, VacatedBy::Removed(_))
        {
            self.buried.insert(name.into(), vacated.change);
        }
    }

    /// The backing entry of `node`, which the mount showed elsewhere, has left.
    pub fn forget_moved(&mut self, node: &Arc<Node<B>>) {
        self.under.retain(
            |_, under| !matches!(under, Under::MovedAway(moved) if Arc::ptr_eq(moved, node)),
        );
    }

    /// Has `dir` synced up to `change` before this directory is.
    pub fn sync_before(&mut self, dir: &Arc<Node<B>>, change: u64) {
        match self.sync_first.iter_mut().find(|(known, _)| Arc::ptr_eq(known, dir)) {
            Some(known) => known.1 = change.max(known.1),
            None => self.sync_first.push((Arc::clone(dir), change)),
        }
    }

    /// Shows a new modification time from now on.
    pub fn touch(&mut self, now: Timestamp) {
        if let Some(times) = &mut self.times {
            *times = (now, now);
        }
        self.touch_attr(now);
    }

    /// Shows a new change time from now on.
    pub fn touch_attr(&mut self, now: Timestamp) {
        if let Some(times) = &mut self.times {
            times.1 = now;
        }
        if let Some(ctime) = &mut self.ctime {
            *ctime = now;
        }
    }
}

impl<B: Backing> Node<B> {
    /// Locks the directory, reading it first if it was not. Waits for the disk if it was not.
    pub(crate) fn lock_dir<'a>(
        self: &'a Arc<Self>,
        core: &Core<B>,
    ) -> Result<MutexGuard<'a, DirState<B>>> {
        let mut state = self.dir()?.state.lock();
        self.ensure_loaded(core, &mut state)?;
        Ok(state)
    }

    /// Whether using the directory will not wait for a scan.
    pub(crate) fn is_dir_loaded(&self) -> bool {
        self.dir().is_ok_and(|dir| dir.state.try_lock().is_some_and(|state| state.map.is_some()))
    }

    /// Reads the directory if it was not.
    pub(super) fn ensure_loaded(
        self: &Arc<Self>,
        core: &Core<B>,
        state: &mut DirState<B>,
    ) -> Result<()> {
        if state.removed {
            return Err(StoreError::NotFound);
        }
        if state.map.is_none() {
            self.scan(core, state)?;
        }
        Ok(())
    }

    /// Reads the backing directory into the map.
    fn scan(self: &Arc<Self>, core: &Core<B>, state: &mut DirState<B>) -> Result<()> {
        let fd = self.dir_fd(core)?;
        let listing = core.backing.list(&fd).attempt("read a directory")?;
        let mut entries: Vec<(Entry, Vec<u8>)> = Vec::with_capacity(listing.len());
        let mut damaged = Vec::new();
        let strays = stray_sidecars(&listing);
        state.lacks_rescue = listing.iter().all(|raw| raw.name != RESCUE_NAME);
        for raw in listing {
            let opened = match classify_name(&raw.name) {
                NameClass::Control | NameClass::Rescue | NameClass::Sidecar => continue,
                NameClass::Entry => open_entry(&core.keys, self.id(), &raw.name).ok(),
                NameClass::Long => read_sidecar(&*core.backing, &fd, &raw.name)?
                    .and_then(|sealed| open_entry(&core.keys, self.id(), &sealed).ok()),
                NameClass::Foreign => None,
            };
            match opened {
                Some(entry) if kind_agrees(entry.kind, raw.kind) => {
                    if let Some(rdev) = entry.rdev {
                        core.see_device(entry.inode.unwrap_or(entry.id), rdev);
                    }
                    if let Some(inode) = entry.inode
                        && state.links.insert(entry.id, inode).is_some()
                    {
                        state.doubled.insert(entry.id);
                    }
                    entries.push((entry, raw.name));
                }
                Some(_) | None => damaged.push(raw.name),
            }
        }
        let dead = settle_names(&mut entries);
        let mut map = DirMap::new();
        for (entry, _) in &entries {
            if let Some(replaced) = entry.replaces {
                state.replaces.insert(entry.name.as_slice().into(), replaced);
            }
            map.insert(&entry.name, shown(entry.id, entry.kind, false));
        }
        for (entry, _) in dead.conflicts {
            // Two devices made one name: both are shown, the second under a mark, for the user to decide.
            let mark = format!(" (conflict {:08x})", entry.id.get() as u32);
            let shown_as = free_name(|name| map.get(name).is_some(), &entry.name, &mark);
            map.insert(&shown_as, shown(entry.id, entry.kind, false));
            // Its backing name is sealed with what it once replaced.
            if let Some(replaced) = entry.replaces {
                state.replaces.insert(shown_as.as_slice().into(), replaced);
            }
            state.sealed_as.insert(entry.id, entry.name.into());
        }
        for backing in damaged {
            let digest = sha256(&backing);
            let mut id = [0; 8];
            id.copy_from_slice(&digest[..8]);
            let id = EntryId::from_raw(u64::from_le_bytes(id) >> 1 | 2).expect("not 0 and not 1");
            let name = format!("akasha-damaged-{}", hex8(&digest));
            let name = free_name(|name| map.get(name).is_some(), name.as_bytes(), "");
            state.damaged.insert(id, backing);
            map.insert(&name, shown(id, EntryKind::File, true));
        }
        if !core.options.read_only {
            let change = self.dir()?.names.latest();
            for sidecar in strays {
                let what = Doom::Sidecar(sidecar);
                state.doomed.push(Doomed { change, name: Box::default(), what });
            }
            for (entry, backing) in dead.replaced {
                if let Some(inode) = entry.inode {
                    core.hide_name(inode, entry.id);
                }
                let backing =
                    BackingName { name: backing, sidecar: sidecar_of(core, self.id(), &entry) };
                state.doomed.push(Doomed {
                    change,
                    name: entry.name.into(),
                    what: Doom::Entry { id: entry.id, kind: entry.kind, backing },
                });
            }
        }
        state.map = Some(map);
        Ok(())
    }

    /// Keeps what the mount shows as the directory's times from being changed by the commit that
    /// follows.
    pub(crate) fn hold_times(
        self: &Arc<Self>,
        core: &Core<B>,
        state: &mut DirState<B>,
    ) -> Result<()> {
        if state.times.is_none() {
            let stat = self.stat_home(core)?;
            state.times = Some((stat.mtime, state.ctime.unwrap_or(stat.ctime)));
        }
        Ok(())
    }

    /// Gives the backing directory the times that the mount shows.
    pub(crate) fn restore_times(self: &Arc<Self>, core: &Core<B>) -> Result<()> {
        let mut state = self.dir()?.state.lock();
        if let Some((mtime, ctime)) = state.times
            && !state.removed
        {
            self.change_home(core, &AttrChange { mtime: Some(mtime), ..AttrChange::default() })?;
            if state.pending.is_empty() {
                state.times = None;
                state.ctime = Some(ctime);
            }
        }
        Ok(())
    }

    /// Every change of names up to `change` is durable on return: shared with whoever waits for
    /// the same, and preceded by the directories that entries were moved from.
    pub(crate) fn sync_names(self: &Arc<Self>, core: &Core<B>, change: u64) -> Result<()> {
        let dir = self.dir()?;
        let first = dir.state.lock().sync_first.clone();
        // A sync that began before a move was noted says nothing about the move's source.
        if first.is_empty() && dir.names.upto() >= change {
            self.forget_durable(&first);
            return Ok(());
        }
        let chained = first.iter().any(|(source, _)| {
            source.dir().is_ok_and(|body| {
                let state = body.state.lock();
                state.removed || !state.sync_first.is_empty()
            })
        });
        if chained {
            // A source that is gone cannot be synced itself, and with moves into sources as well, perhaps in a circle, there is no
            // order but everything at once.
            core.sync_all_names()?;
        } else {
            for (source, change) in &first {
                source.sync_names_plainly(core, *change)?;
            }
        }
        self.sync_names_plainly(core, change)?;
        self.forget_durable(&first);
        Ok(())
    }

    /// Forgets what had to be remembered of names until now, and the moves whose sources `first` are durable.
    pub(super) fn forget_durable(&self, first: &[(Arc<Self>, u64)]) {
        let Ok(dir) = self.dir() else { return };
        let mut state = dir.state.lock();
        let upto = dir.names.upto();
        state.vacated.retain(|_, vacated| vacated.change > upto);
        state.buried.retain(|_, change| *change > upto);
        state.sync_first.retain(|(s, c)| !first.iter().any(|(t, d)| Arc::ptr_eq(s, t) && c <= d));
    }

    /// A sync of its names failed: no later one proves anything.
    pub(crate) fn names_failed(&self) {
        if let Ok(dir) = self.dir() {
            dir.names.fail();
        }
    }

    /// Syncs this directory alone.
    fn sync_names_plainly(self: &Arc<Self>, core: &Core<B>, change: u64) -> Result<()> {
        let dir = self.dir()?;
        if dir.names.upto() >= change {
            return Ok(());
        }
        let fd = match self.dir_fd(core) {
            // A directory that was removed since has nothing left to lose.
            Err(error) if error.is_missing() => return Ok(()),
            other => other?,
        };
        core.touch()?;
        dir.names.sync(change, |has_departures| {
            core.sync_dir(&fd, has_departures).attempt("sync a directory")
        })
    }
}

fn shown(id: EntryId, kind: EntryKind, damaged: bool) -> MapEntry {
    MapEntry { id, kind, published: true, damaged }
}

/// Whether the backing object can be what the sealed entry says.
pub(super) fn kind_agrees(kind: EntryKind, backing: FileKind) -> bool {
    match backing {
        FileKind::Dir => kind == EntryKind::Dir,
        FileKind::File => kind != EntryKind::Dir,
        FileKind::Other => false,
    }
}

/// Sidecars without their long name: it was never published, or its removal was cut short.
pub(super) fn stray_sidecars(listing: &[RawEntry]) -> Vec<Vec<u8>> {
    let class = |raw: &&RawEntry, class| classify_name(&raw.name) == class;
    let long: HashSet<&[u8]> = listing
        .iter()
        .filter(|raw| class(raw, NameClass::Long))
        .map(|raw| raw.name.as_slice())
        .collect();
    listing
        .iter()
        .filter(|raw| class(raw, NameClass::Sidecar) && raw.kind == FileKind::File)
        .filter(|raw| raw.name.strip_suffix(b".name").is_some_and(|stem| !long.contains(stem)))
        .map(|raw| raw.name.clone())
        .collect()
}

/// Entries that lost their name.
pub(super) struct Losers {
    /// A sibling says that it replaces them. Of one name each is before the one that replaces it: removed in another order, it
    /// would not be known for dead.
    pub replaced: Vec<(Entry, Vec<u8>)>,
    /// A sibling has the same name and neither replaces the other.
    pub conflicts: Vec<(Entry, Vec<u8>)>,
}

/// Leaves one entry per plaintext name in `entries`.
pub(super) fn settle_names(entries: &mut Vec<(Entry, Vec<u8>)>) -> Losers {
    let mut losers = Losers { replaced: Vec::new(), conflicts: Vec::new() };
    entries.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
    let mut kept: Vec<(Entry, Vec<u8>)> = Vec::with_capacity(entries.len());
    let mut group: Vec<(Entry, Vec<u8>)> = Vec::new();
    let mut settle = |group: &mut Vec<(Entry, Vec<u8>)>, kept: &mut Vec<_>| {
        let replaced: Vec<EntryId> = group.iter().filter_map(|(e, _)| e.replaces).collect();
        let mut live = Vec::new();
        let first_dead = losers.replaced.len();
        for one in group.drain(..) {
            if replaced.contains(&one.0.id) { losers.replaced.push(one) } else { live.push(one) }
        }
        // Nobody wins a circle, which no honest history makes: show all of it, remove nothing.
        if live.is_empty() {
            live.extend(losers.replaced.drain(first_dead..));
        }
        first_to_last(&mut losers.replaced[first_dead..]);
        let mut live = live.into_iter();
        kept.extend(live.next());
        losers.conflicts.extend(live);
    };
    for one in entries.drain(..) {
        if group.first().is_some_and(|(first, _)| first.name != one.0.name) {
            settle(&mut group, &mut kept);
        }
        group.push(one);
    }
    settle(&mut group, &mut kept);
    *entries = kept;
    losers
}

/// Puts each of the dead entries of one name before the one that replaces it.
fn first_to_last(dead: &mut [(Entry, Vec<u8>)]) {
    for at in 0..dead.len() {
        let left = &dead[at..];
        let is_first = |(entry, _): &(Entry, Vec<u8>)| {
            left.iter().all(|(other, _)| Some(other.id) != entry.replaces)
        };
        // In a circle, which no honest history makes, nobody is.
        let Some(first) = left.iter().position(is_first) else { return };
        dead.swap(at, at + first);
    }
}

/// A name that is not taken: `name` with `mark`, cut and numbered as needed.
pub(super) fn free_name(is_taken: impl Fn(&[u8]) -> bool, name: &[u8], mark: &str) -> Vec<u8> {
    for number in 0_u32.. {
        let mark = if number == 0 { mark.to_owned() } else { format!("{mark}-{number}") };
        let mut candidate = name[..name.len().min(255 - mark.len())].to_vec();
        candidate.extend_from_slice(mark.as_bytes());
        if !is_taken(&candidate) {
            return candidate;
        }
    }
    unreachable!("a directory has fewer entries than there are numbers")
}

fn hex8(digest: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&digest[..8])
}

/// The sealed entry of a long name; `None` if its sidecar is damaged or missing.
///
/// # Errors
/// If that cannot be told now.
pub(super) fn read_sidecar<B: Backing>(
    backing: &B,
    fd: &B::Dir,
    long: &[u8],
) -> Result<Option<Vec<u8>>> {
    let mut name = long.to_vec();
    name.extend_from_slice(b".name");
    let read = || -> std::io::Result<Option<Vec<u8>>> {
        let file = backing.open(fd, &name)?;
        let len = file.stat()?.len;
        // What fits a backing name has no sidecar: a second way to spell one entry is none of ours.
        if !(SIDECAR_LEN_MIN..=SIDECAR_LEN_MAX).contains(&len) {
            return Ok(None);
        }
        let mut sealed = vec![0; usize::try_from(len).expect("a few hundred bytes")];
        file.read_at(0, &mut sealed)?;
        // The name is the hash of the content: a sidecar that was swapped is damage.
        Ok((crate::format::long_name(&sealed) == long).then_some(sealed))
    };
    match read().attempt("read a sidecar") {
        Err(error) if error.is_passing() => Err(error),
        read => Ok(read.ok().flatten()),
    }
}

fn sidecar_of<B: Backing>(
    core: &Core<B>,
    parent: EntryId,
    entry: &Entry,
) -> Option<crate::format::Sidecar> {
    crate::format::seal_entry(&core.keys, parent, entry).sidecar
}

/// Removes a backing object that does not decrypt, with everything in it.
pub(crate) fn remove_tree<B: Backing>(core: &Core<B>, dir: &B::Dir, name: &[u8]) -> Result<()> {
    let stat = core.backing.stat(dir, At::Name(name)).attempt("stat a damaged entry")?;
    if stat.kind != FileKind::Dir {
        return core.backing.unlink(dir, name).attempt("remove a damaged entry");
    }
    // Iterative: damage may be deep.
    let mut open = vec![(
        core.backing.open_dir(dir, name).attempt("open a damaged directory")?,
        None::<Vec<u8>>,
    )];
    while let Some((top, _)) = open.last() {
        let mut deeper = None;
        for raw in core.backing.list(top).attempt("read a damaged directory")? {
            if raw.kind == FileKind::Dir {
                deeper = Some(raw.name);
                break;
            }
            core.backing.unlink(top, &raw.name).attempt("remove a damaged entry")?;
        }
        if let Some(name) = deeper {
            let next = core.backing.open_dir(top, &name).attempt("open a damaged directory")?;
            open.push((next, Some(name)));
        } else if let Some((_, Some(name))) = open.pop() {
            let (parent, _) = open.last().expect("a named one has a parent");
            core.backing.rmdir(parent, &name).attempt("remove a damaged directory")?;
        }
    }
    core.backing.rmdir(dir, name).attempt("remove a damaged directory")
}

/// Logs what could not be removed; it stays as garbage that the next sweep finds.
pub(crate) fn left_behind(what: &str, error: &StoreError) {
    warn!("{what} stays behind: {error}");
}
