//! A file with several names: hard links.
//!
//! Its versions are published as `.akasha/inodes/<id>`. Each of its names is an entry of its own, made, moved and removed as
//! every other one; the backing file under it is a native link of one stub, `.akasha/inodes/<id>.stub`, so that the
//! backing filesystem counts the names. What the mount shows for a name is the file that its entry says.
//!
//! link(2) changes memory alone, as making a file does. A file with one name gets two then: its own becomes a pending one
//! that covers it, the new one waits beside it. If all but one are gone before the next commit, it is again a file with
//! one name, moved. Else the commit does, each step durable before the next:
//!
//! ```text
//! inode    stub and file appear in `.akasha/inodes` (of a published file: a second native link)
//! cover    the entry of the first name takes the place of the file's own
//! names    the others appear
//! ```
//!
//! So whatever a cut leaves, every name that is there shows the whole file.

use std::sync::{Arc, Weak};

use crate::backing::{At, Backing, PublishedFile};
use crate::format::{
    EntryId, EntryKind, ObjectId, STUB_LEN, Stub, inode_file_name, open_stub, stub_file_name,
    temp_file_name,
};

use super::Store;
use super::dir::{DirState, Doom, Under};
use super::dirmap::MapEntry;
use super::durable::{has_durable_path, is_durable};
use super::error::{Attempt, Result, StoreError};
use super::node::{Body, Home, Link, Node, Place};
use super::tree::{Blocked, Locked, Tried, clone_home, has_handles};

/// Names that a file can have: ext4 counts to 65,000, and the stub has one of its own.
const NAMES_MAX: u32 = 64_000;

/// What is known of a file's names.
pub(crate) struct Names<B: Backing> {
    /// Names that are to appear, or to move, at the next commit. The directories that show them hold them.
    pub waiting: Vec<Weak<Node<B>>>,
    /// Directories where names of it appeared by changes that may not be durable.
    pub recent: Vec<(Arc<Node<B>>, u64)>,
    /// The change by which a name took the place of the file's own, as long as that may not be durable.
    pub covered: Option<(Arc<Node<B>>, u64)>,
    /// Whether the stub is at its place.
    pub has_stub: bool,
    /// Older layers to remove once no cut can bring a version back that needs them.
    pub dropped: Vec<ObjectId>,
    /// No name is left: the directory of the last one, and the change that removed it.
    pub gone: Option<(Arc<Node<B>>, u64)>,
}

/// The names of a file, counted at one moment.
struct Count {
    /// To appear at the next commit.
    waiting: usize,
    /// In backing directories; `None` if the stub that counts them is missing, or does not count.
    published: Option<usize>,
    /// Of the published ones those that the mount does not show.
    hidden: usize,
}

impl Count {
    fn shown(&self) -> u32 {
        // What cannot be counted is taken for one.
        let shown = (self.published.unwrap_or(1) + self.waiting).saturating_sub(self.hidden);
        shown.try_into().unwrap_or(u32::MAX)
    }
}

impl<B: Backing> Names<B> {
    fn new(has_stub: bool) -> Self {
        Names {
            waiting: Vec::new(),
            recent: Vec::new(),
            covered: None,
            has_stub,
            dropped: Vec::new(),
            gone: None,
        }
    }

    pub fn waiting(&self) -> Vec<Arc<Node<B>>> {
        self.waiting.iter().filter_map(Weak::upgrade).collect()
    }

    pub fn waits_no_more(&mut self, name: &Arc<Node<B>>) {
        self.waiting.retain(|waiting| waiting.upgrade().is_some_and(|w| !Arc::ptr_eq(&w, name)));
    }
}

impl<B: Backing> Node<B> {
    /// Whether it is a file that has, or is to have, several names.
    pub(crate) fn has_names(&self) -> bool {
        self.place.lock().names.is_some()
    }

    /// Runs `with` on what is known of its names, if it has several.
    pub(super) fn with_names<T>(&self, with: impl FnOnce(&mut Names<B>) -> T) -> Option<T> {
        self.place.lock().names.as_mut().map(|names| with(names))
    }

    /// This name, which was published, waits for the commit to be moved.
    pub(super) fn note_waits(self: &Arc<Self>) {
        self.inode().with_names(|names| {
            names.waits_no_more(self);
            names.waiting.push(Arc::downgrade(self));
        });
    }

    /// It is one of several names and has appeared, or moved. Whoever renamed it since has it wait again: `away` is set before
    /// the name is noted.
    pub(super) fn has_appeared(self: &Arc<Self>) {
        self.inode().with_names(|names| {
            let waits = {
                let place = self.place.lock();
                place.away || matches!(place.home, Home::Pending)
            };
            if !waits {
                names.waits_no_more(self);
            }
        });
    }

    /// It is one of several names and does not wait any more, or is none of them.
    pub(super) fn waits_no_more(self: &Arc<Self>) {
        self.inode().with_names(|names| names.waits_no_more(self));
    }

    /// The directories that must be synced for its names to be durable, each with the change.
    pub(super) fn recent_names(&self) -> Vec<(Arc<Node<B>>, u64)> {
        self.with_names(|names| names.recent.clone()).unwrap_or_default()
    }

    /// These changes are durable.
    pub(super) fn forget_recent(&self, durable: &[(Arc<Node<B>>, u64)]) {
        self.with_names(|names| {
            names.recent.retain(|(dir, change)| {
                !durable.iter().any(|(d, upto)| Arc::ptr_eq(d, dir) && change <= upto)
            });
        });
    }
}

/// The name `name` of a file with several, if it is still to appear over an entry: then it may not go before it has. Under it
/// is its own file, or one that the file is to replace, and a cut could lose both while the other names are not there yet.
pub(super) fn must_appear<B: Backing>(state: &DirState<B>, name: &[u8]) -> Option<Arc<Node<B>>> {
    let entry = state.map().get(name)?;
    let going = state.pending.get(&entry.id).filter(|node| matches!(node.body, Body::Name(_)))?;
    matches!(state.under.get(name), Some(Under::Replaced { .. })).then(|| Arc::clone(going))
}

/// Whether the pending name `name` stands over the entry of its own file.
pub(super) fn covers_itself<B: Backing>(state: &DirState<B>, name: &[u8], id: EntryId) -> bool {
    matches!(state.under.get(name), Some(Under::Replaced { id: under, .. })
        if state.links.get(&id) == Some(under))
}

impl<B: Backing> Store<B> {
    /// link(2): gives a file one more name, or one that was made without any its first. It exists in memory until the file is
    /// committed.
    ///
    /// # Errors
    /// `IsADirectory`; `NotFound` of what lost its last name; `NotSupported` if the backing filesystem has no hard links; EMLINK.
    pub fn link(&self, node: &Arc<Node<B>>, dir: &Arc<Node<B>>, name: &[u8]) -> Result<()> {
        self.check_change(name)?;
        node.file()?;
        if !self.name_first(node, dir, name)? {
            if !self.has_native_links()? {
                return Err(StoreError::NotSupported);
            }
            match node.has_names().then(|| self.link_count(node)).transpose()? {
                // Its names are all hidden by others that wait.
                Some(0) => return Err(StoreError::NotFound),
                Some(NAMES_MAX..) => {
                    let source = std::io::Error::from_raw_os_error(libc::EMLINK);
                    return Err(StoreError::Io { what: "count the names of a file", source });
                }
                _ => {}
            }
            self.try_until(|| self.try_link(node, dir, name))?;
        }
        node.note_changed(self.core.now());
        self.note_waiting(node);
        Ok(())
    }

    fn try_link(
        &self,
        node: &Arc<Node<B>>,
        dir: &Arc<Node<B>>,
        name: &[u8],
    ) -> Result<Tried<B, ()>> {
        let own = {
            let place = node.place.lock();
            if place.is_nameless() {
                return Err(StoreError::NotFound);
            }
            place.link.clone()
        };
        let Some(own) = own else {
            let mut state = self.lock_dir(dir)?;
            return self.add_name(node, dir, &mut state, name);
        };
        // What covers an entry must be sealed with its name.
        self.keep_shown_name(&own.dir, &own.name)?;
        let mut locked = Locked::lock(self, &own.dir, dir)?;
        if locked.of(dir).map().get(name).is_some() {
            return Err(StoreError::AlreadyExists);
        }
        {
            let mut place = node.place.lock();
            let same = place.link.as_ref().is_some_and(|now| is_same(now, &own));
            if !same || !matches!(place.home, Home::Pending | Home::Tree(_)) {
                return Ok(Tried::Blocked(Blocked::Again));
            }
            if place.away {
                return Ok(Tried::Blocked(Blocked::Commit(Arc::clone(node))));
            }
            place.link = None;
            place.names = Some(Box::new(Names::new(false)));
        }
        let cover = self.wait(node, &own.dir, &own.name);
        let state = locked.of(&own.dir);
        if state.map().get(&own.name).is_some_and(|entry| entry.published) {
            let replaces = state.replaces.get(&own.name).copied();
            let under = Under::Replaced { id: node.id(), kind: node.kind(), replaces };
            state.under.insert(own.name.clone(), under);
        }
        state.pending.remove(&node.id());
        state.map_mut().reassign(&own.name, pending_entry(&cover));
        state.links.insert(cover.id(), node.id());
        state.pending.insert(cover.id(), cover);
        self.add_name(node, dir, locked.of(dir), name)
    }

    /// Shows one more name of a file that has several.
    fn add_name(
        &self,
        node: &Arc<Node<B>>,
        dir: &Arc<Node<B>>,
        state: &mut DirState<B>,
        name: &[u8],
    ) -> Result<Tried<B, ()>> {
        if state.map().get(name).is_some() {
            return Err(StoreError::AlreadyExists);
        }
        match node.with_names(|names| names.gone.is_some()) {
            None => return Ok(Tried::Blocked(Blocked::Again)),
            Some(true) => return Err(StoreError::NotFound),
            Some(false) => {}
        }
        let new = self.wait(node, dir, name);
        let now = self.core.now();
        state.map_mut().insert(name, pending_entry(&new));
        state.links.insert(new.id(), node.id());
        state.pending.insert(new.id(), new);
        state.times = Some((now, now));
        Ok(Tried::Done(()))
    }

    /// A new name of `node` that waits for the commit.
    fn wait(&self, node: &Arc<Node<B>>, dir: &Arc<Node<B>>, name: &[u8]) -> Arc<Node<B>> {
        let link = Link { dir: Arc::clone(dir), name: name.into() };
        let place = Place::new(Some(link), Home::Pending, 0);
        let new = Node::new_name(EntryId::random(&*self.core.entropy), node, place);
        self.nodes.insert(&new);
        node.with_names(|names| names.waiting.push(Arc::downgrade(&new)));
        new
    }

    /// Notes that a name of the file that `node` is, or is a name of, appeared in `dir` by `change`.
    pub(super) fn note_recent(&self, node: &Arc<Node<B>>, dir: &Arc<Node<B>>, change: u64) {
        let node = node.inode();
        node.with_names(|names| {
            match names.recent.iter_mut().find(|(known, _)| Arc::ptr_eq(known, dir)) {
                Some(known) => known.1 = change,
                None => names.recent.push((Arc::clone(dir), change)),
            }
        });
        // Whoever forgot it would not know what must be durable before another name of it goes.
        self.newly_named.lock().insert(node.id(), Arc::clone(node));
    }

    /// Makes the names durable that somebody else's commit published, and lets go of their files; and the moves of directories.
    pub(super) fn sync_newly_named(&self) {
        self.forget_newly_named();
        let left: Vec<_> = self.newly_named.lock().values().cloned().collect();
        if let Err(error) = self.sync_paths(&left).and_then(|()| self.sync_moved_dirs()) {
            log::warn!("names are not durable: {}", super::error::chain(&error));
        }
        self.forget_newly_named();
    }

    /// Lets go of the files whose names are durable.
    pub(super) fn forget_newly_named(&self) {
        let durable = |node: &Arc<Node<B>>| {
            node.recent_names()
                .iter()
                .all(|(dir, change)| is_durable(dir, *change) && has_durable_path(dir))
        };
        let gone: Vec<_> = self.newly_named.lock().extract_if(|_, node| durable(node)).collect();
        drop(gone);
    }

    /// Has the interval's commit take names that wait.
    pub(super) fn note_waiting(&self, node: &Arc<Node<B>>) {
        if has_handles(node) {
            self.queue.add(node);
        } else {
            self.queue.make_eligible(node, self.core.clock.elapsed());
        }
    }

    /// The node of a name that the backing directory holds, and with it that of its file.
    pub(super) fn name_node(
        &self,
        id: EntryId,
        inode: EntryId,
        kind: EntryKind,
        place: Place<B>,
    ) -> Result<Arc<Node<B>>> {
        let node = self.nodes.get_or_insert(inode, || {
            let mut place = Place::new(None, Home::Inode, 0);
            place.names = Some(Box::new(Names::new(true)));
            Node::new(inode, kind, place)
        });
        let found = self.nodes.get_or_insert(id, || Node::new_name(id, &node, place));
        let fits = matches!(&found.body, Body::Name(of) if Arc::ptr_eq(of, &node))
            && node.kind() == kind
            && (node.has_names() || node.is_gone());
        if fits {
            Ok(found)
        } else {
            // Somebody put a file and a name of it, or names of two kinds, into the vault.
            Err(StoreError::broken(format!("entry {:016x}", inode.get()), "found in two places"))
        }
    }

    /// The number of names that the mount shows.
    ///
    /// # Errors
    /// If the disk does not tell it now. Nothing may be concluded from that.
    pub(super) fn link_count(&self, node: &Arc<Node<B>>) -> Result<u32> {
        Ok(self.count_names(node)?.shown())
    }

    fn count_names(&self, node: &Arc<Node<B>>) -> Result<Count> {
        let _still = self.core.counting.read();
        let (waiting, has_stub) = {
            let place = node.place.lock();
            let Some(names) = &place.names else {
                let waiting = usize::from(place.link.is_some());
                return Ok(Count { waiting, published: Some(0), hidden: 0 });
            };
            let is_new = |name: &&Arc<Node<B>>| {
                let place = name.place.lock();
                place.link.is_some() && matches!(place.home, Home::Pending)
            };
            let waiting = names.waiting().iter().filter(is_new).count();
            (waiting, names.has_stub && names.gone.is_none())
        };
        let published = match has_stub.then(|| self.counted_links(node.id())) {
            None => Some(0),
            Some(Ok(links)) => links.map(|links| links as usize - 1),
            Some(Err(error)) if error.is_missing() => None,
            Some(Err(error)) => return Err(error),
        };
        Ok(Count { waiting, published, hidden: self.core.hidden_names(node.id()) })
    }

    /// Removes the backing entry of the file, or of the name of a file, `id`.
    pub(super) fn unlink_entry(
        &self,
        state: &DirState<B>,
        dir: &B::Dir,
        backing: &[u8],
        id: EntryId,
    ) -> std::io::Result<()> {
        let Some(inode) = state.links.get(&id) else {
            return self.core.backing.unlink(dir, backing);
        };
        let _counting = self.core.counting.write();
        self.core.backing.unlink(dir, backing)?;
        self.core.forget_name(*inode, id);
        Ok(())
    }

    /// As [`Store::stub_links`]; `None` where that does not count the names.
    fn counted_links(&self, inode: EntryId) -> Result<Option<u32>> {
        let links = self.stub_links(inode)?;
        let is_counted = links > 1 || self.stub_counts(inode)?;
        Ok(is_counted.then_some(links))
    }

    /// The native links of a file's stub: one of its own, and one for each name.
    fn stub_links(&self, inode: EntryId) -> Result<u32> {
        let stub = stub_file_name(inode);
        let stat = self.core.backing.stat(&self.core.inodes, At::Name(&stub));
        Ok(stat.attempt("count the names of a file")?.nlink.max(1))
    }

    /// Whether the native link count of a file's stub counts its names: not if the vault was copied without its
    /// hard links, nor on a filesystem that says 1 of every file (sshfs).
    fn stub_counts(&self, inode: EntryId) -> Result<bool> {
        let core = &self.core;
        if !core.options.read_only && !self.has_native_links()? {
            return Ok(false);
        }
        let read = || -> std::io::Result<bool> {
            let file = core.backing.open(&core.inodes, &stub_file_name(inode))?;
            let stat = file.stat()?;
            let mut bytes = [0; STUB_LEN];
            if stat.len == STUB_LEN as u64 {
                file.read_at(0, &mut bytes)?;
            }
            let stub = open_stub(&core.keys, core.cipher, core.geometry, &bytes).ok();
            Ok(stub == Some(Stub { inode, native: stat.ino }))
        };
        read().attempt("read what counts the names of a file")
    }

    /// Whether `.akasha/inodes` may have a file of this id: what cannot be looked at may be there.
    pub(super) fn may_be_inode(&self, id: EntryId) -> bool {
        let found = self.core.backing.stat(&self.core.inodes, At::Name(&inode_file_name(id)));
        !found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    }

    /// Whether files can have several names in the backing filesystem, and it tells at once how many; tried once. sshfs says 1 of
    /// every file, and others over FUSE say for a second what they said before.
    fn has_native_links(&self) -> Result<bool> {
        if let Some(known) = self.native_links.get() {
            return Ok(*known);
        }
        let (backing, tmp) = (&self.core.backing, &self.core.tmp);
        let names: [Vec<u8>; 3] = std::array::from_fn(|_| temp_file_name(&*self.core.entropy));
        let mut made = 0;
        let mut attempt = || -> std::io::Result<bool> {
            drop(backing.create_temp(tmp, &names[0], 0o600)?);
            made = 1;
            let count = || backing.stat(tmp, At::Name(&names[0])).map(|stat| stat.nlink as usize);
            let mut is_counted = count()? == made;
            for name in &names[1..] {
                match backing.link(tmp, &names[0], tmp, name) {
                    Err(error) if has_no_links(&error) => return Ok(false),
                    linked => linked?,
                }
                made += 1;
                is_counted &= count()? == made;
            }
            Ok(is_counted)
        };
        let tried = attempt();
        for name in &names[..made] {
            backing.unlink(tmp, name).attempt("try hard links")?;
        }
        let can = tried.attempt("try hard links")?;
        Ok(*self.native_links.get_or_init(|| can))
    }
}

// ---- Names that go.

impl<B: Backing> Store<B> {
    /// unlink(2) of a name that is still to appear; `None` if it is none. The file is again one with a single name, if
    /// one other is left.
    pub(super) fn unlink_waiting(
        &self,
        dir: &Arc<Node<B>>,
        name: &[u8],
    ) -> Result<Option<Tried<B, ()>>> {
        let (going, other) = {
            let state = self.lock_dir(dir)?;
            let Some(entry) = state.map().get(name) else { return Ok(None) };
            let going = state.pending.get(&entry.id).filter(|node| {
                matches!(node.body, Body::Name(_))
                    && matches!(node.place.lock().home, Home::Pending)
            });
            let Some(going) = going else { return Ok(None) };
            let first = must_appear(&state, name);
            match only_other(going) {
                // Over its own file it is moved with that.
                Some(other) if first.is_none() || covers_itself(&state, name, entry.id) => {
                    (Arc::clone(going), other)
                }
                _ => return Ok(first.map(|first| Tried::Blocked(Blocked::Commit(first)))),
            }
        };
        let Some(at) = other.place.lock().link.clone() else {
            return Ok(Some(Tried::Blocked(Blocked::Again)));
        };
        let mut locked = Locked::lock(self, dir, &at.dir)?;
        let _alone = self.inode_lock.lock();
        let state = locked.of(dir);
        let shown = state.map().get(name).is_some_and(|entry| entry.id == going.id())
            && (covers_itself(state, name, going.id()) || must_appear(state, name).is_none());
        let still = only_other(&going).is_some_and(|now| Arc::ptr_eq(&now, &other))
            && other.place.lock().link.as_ref().is_some_and(|now| is_same(now, &at));
        if !shown || !still {
            return Ok(Some(Tried::Blocked(Blocked::Again)));
        }
        self.collapse(&mut locked, dir, name, &going, &other, &at);
        drop(locked);
        let node = going.inode();
        node.note_changed(self.core.now());
        if node.waits() {
            self.note_waiting(node);
        }
        self.queue.remove_if_done(node);
        Ok(Some(Tried::Done(())))
    }

    /// Takes the name `going` away and gives the file, which has not left its own place, the other one.
    fn collapse(
        &self,
        locked: &mut Locked<'_, B>,
        dir: &Arc<Node<B>>,
        name: &[u8],
        going: &Arc<Node<B>>,
        other: &Arc<Node<B>>,
        at: &Link<B>,
    ) {
        let node = going.inode();
        let home = clone_home(node);
        let stays = matches!(&home, Home::Tree(spot) if spot.is_at(at));
        let away = matches!(home, Home::Tree(_)) && !stays;
        let left = locked.of(dir);
        left.map_mut().remove(name);
        left.pending.remove(&going.id());
        left.links.remove(&going.id());
        if away {
            left.under.insert(name.into(), Under::MovedAway(Arc::clone(node)));
        }
        let state = locked.of(&at.dir);
        state.pending.remove(&other.id());
        state.links.remove(&other.id());
        if stays {
            state.under.remove(&at.name);
        } else {
            state.pending.insert(node.id(), Arc::clone(node));
        }
        let entry = MapEntry { id: node.id(), kind: node.kind(), published: stays, damaged: false };
        state.map_mut().reassign(&at.name, entry);
        for name in [going, other] {
            let mut place = name.place.lock();
            (place.link, place.home) = (None, Home::Gone);
        }
        {
            let mut place = node.place.lock();
            (place.link, place.away, place.names) = (Some(at.clone()), away, None);
        }
        let left = locked.of(dir);
        self.changed_names(left);
        self.touched.lock().push(Arc::clone(dir));
    }

    /// A name that was still to appear, in `dir`, is not to appear any more.
    pub(super) fn waiting_dropped(
        &self,
        dir: &Arc<Node<B>>,
        state: &mut DirState<B>,
        name: &Arc<Node<B>>,
    ) -> Result<()> {
        let node = name.inode();
        name.place.lock().home = Home::Gone;
        state.links.remove(&name.id());
        node.note_changed(self.core.now());
        let unlinked = {
            let mut place = node.place.lock();
            let Some(names) = &mut place.names else { return Ok(()) };
            names.waits_no_more(name);
            let last = names.waiting.is_empty();
            let never_published = last && matches!(place.home, Home::Pending);
            if never_published {
                place.names = None;
            }
            never_published
        };
        if unlinked {
            if !has_handles(node) {
                self.let_go(node);
            }
            return Ok(());
        }
        if node.with_names(|names| names.waiting.is_empty()) == Some(true) {
            let change = dir.dir()?.names.latest();
            self.name_removed(node.id(), dir, state, change);
        }
        self.queue.remove_if_done(node);
        Ok(())
    }

    /// The mount shows another entry in the place of this published name.
    pub(super) fn name_hidden(&self, state: &DirState<B>, name: EntryId) {
        let Some(inode) = state.links.get(&name) else { return };
        self.core.hide_name(*inode, name);
        if let Some(node) = self.nodes.get(*inode) {
            node.note_changed(self.core.now());
        }
    }

    /// What must be done before the published entry `name` in the directory of `state` may go: a file that keeps other names
    /// must be found under one of them whatever a cut leaves.
    pub(super) fn must_keep(&self, state: &DirState<B>, name: EntryId) -> Option<Blocked<B>> {
        let node = self.nodes.get(*state.links.get(&name)?)?;
        let shown = u32::from(!self.core.is_hidden_name(node.id(), name));
        let count = match self.count_names(&node) {
            Ok(count) => count,
            Err(error) => return Some(Blocked::Unknown(error)),
        };
        if count.shown() <= shown {
            return None;
        }
        if count.published.unwrap_or(0) <= count.hidden + shown as usize {
            // All the others are still to appear.
            return Some(Blocked::Commit(node));
        }
        for (dir, change) in node.recent_names() {
            if !is_durable(&dir, change) {
                return Some(Blocked::Sync(dir, change));
            }
            if !has_durable_path(&dir) {
                return Some(Blocked::Path(dir));
            }
        }
        None
    }

    /// A published name was removed from the backing directory `dir`, by `change`. The file goes with its last one.
    pub(super) fn name_removed(
        &self,
        inode: EntryId,
        dir: &Arc<Node<B>>,
        state: &mut DirState<B>,
        change: u64,
    ) {
        let live = self.nodes.get(inode);
        let waiting = live.as_ref().and_then(|node| {
            node.note_changed(self.core.now());
            node.with_names(|names| !names.waiting.is_empty())
        });
        // What cannot be counted may have other names.
        if waiting == Some(true) || !self.stub_links(inode).is_ok_and(|links| links < 2) {
            self.gone_names.add(inode, dir, change);
            return;
        }
        self.gone_names.hand_over(inode, dir, state);
        if !self.stub_counts(inode).unwrap_or(false) {
            // Other names may be copies. The end of the mount looks at all of them.
            log::warn!("entry {:016x}: its names cannot be counted; it is kept", inode.get());
            self.core.note_orphans();
            return;
        }
        let Some(node) = live else {
            self.doom(dir, state, change, b"", Doom::Inode(inode));
            return;
        };
        node.with_names(|names| names.gone = Some((Arc::clone(dir), change)));
        if node.take_inode(&self.core).is_some() {
            self.doom(dir, state, change, b"", Doom::Inode(inode));
            self.discard(&node);
        }
    }

    /// Removes what is left of a file that lost its last name.
    pub(super) fn remove_inode(&self, inode: EntryId) -> Result<()> {
        let core = &self.core;
        for name in [inode_file_name(inode), stub_file_name(inode)] {
            match core.backing.unlink(&core.inodes, &name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).attempt("remove a file that lost its last name");
                }
                _ => {}
            }
        }
        core.remove_sides(inode)?;
        self.remove_layers(inode, None)
    }
}

/// Whether a refused link(2) says that the filesystem has no hard links.
pub(super) fn has_no_links(error: &std::io::Error) -> bool {
    let code = error.raw_os_error();
    matches!(code, Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EMLINK))
}

/// The other name of a file that has not left its own place and has two names, both still to appear.
fn only_other<B: Backing>(going: &Arc<Node<B>>) -> Option<Arc<Node<B>>> {
    let place = going.inode().place.lock();
    let names = place.names.as_ref()?;
    if !matches!(place.home, Home::Pending | Home::Tree(_)) {
        return None;
    }
    let mut waiting = names.waiting();
    waiting.retain(|name| !Arc::ptr_eq(name, going));
    (waiting.len() == 1).then(|| waiting.remove(0))
}

pub(super) fn is_same<B: Backing>(a: &Link<B>, b: &Link<B>) -> bool {
    Arc::ptr_eq(&a.dir, &b.dir) && a.name == b.name
}

fn pending_entry<B: Backing>(name: &Node<B>) -> MapEntry {
    MapEntry { id: name.id(), kind: name.kind(), published: false, damaged: false }
}
