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

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::backing::{At, Backing, PublishedFile, RenameMode, TempFile};
use crate::format::{
    EntryId, EntryKind, ObjectId, STUB_LEN, Stub, inode_file_name, layer_file_name, open_stub,
    seal_stub, stub_file_name, temp_file_name,
};

use super::Store;
use super::commit::Work;
use super::dir::{DirState, Doom, Under};
use super::dirmap::MapEntry;
use super::error::{Attempt, Result, StoreError};
use super::finish::older_spot;
use super::node::{Body, CommitState, Home, Link, Node, Place, TreeSpot};
use super::rename::has_durable_path;
use super::tree::{Blocked, Locked, Tried, clone_home, has_handles};

/// Names that a file can have: ext4 counts to 65,000, and the stub has one of its own.
const NAMES_MAX: u32 = 64_000;

/// What is known of a file's names.
pub(crate) struct Names<B: Backing> {
    /// Names that are to appear, or to move, at the next commit. The directories that show them hold them.
    pub waiting: Vec<Weak<Node<B>>>,
    /// Directories where names of it appeared by changes that may not be durable.
    recent: Vec<(Arc<Node<B>>, u64)>,
    /// The change by which a name took the place of the file's own, as long as that may not be durable.
    covered: Option<(Arc<Node<B>>, u64)>,
    /// Whether the stub is at its place.
    has_stub: bool,
    /// Older layers to remove once no cut can bring a version back that needs them.
    dropped: Vec<ObjectId>,
    /// No name is left: the directory of the last one, and the change that removed it.
    pub gone: Option<(Arc<Node<B>>, u64)>,
}

impl<B: Backing> Names<B> {
    fn new(has_stub: bool) -> Box<Self> {
        Box::new(Names {
            waiting: Vec::new(),
            recent: Vec::new(),
            covered: None,
            has_stub,
            dropped: Vec::new(),
            gone: None,
        })
    }

    pub fn waiting(&self) -> Vec<Arc<Node<B>>> {
        self.waiting.iter().filter_map(Weak::upgrade).collect()
    }

    fn waits_no_more(&mut self, name: &Arc<Node<B>>) {
        self.waiting.retain(|waiting| waiting.upgrade().is_some_and(|w| !Arc::ptr_eq(&w, name)));
    }
}

/// A stub on its way.
pub(crate) struct StubTemp<B: Backing> {
    name: Vec<u8>,
    pub file: B::Temp,
}

impl<B: Backing> Node<B> {
    /// Whether it is a file that has, or is to have, several names.
    pub(crate) fn has_names(&self) -> bool {
        self.place.lock().names.is_some()
    }

    /// Runs `with` on what is known of its names, if it has several.
    fn with_names<T>(&self, with: impl FnOnce(&mut Names<B>) -> T) -> Option<T> {
        self.place.lock().names.as_mut().map(|names| with(names))
    }

    /// This name, which was published, waits for the commit to be moved.
    pub(super) fn note_waits(self: &Arc<Self>) {
        self.inode().with_names(|names| {
            names.waits_no_more(self);
            names.waiting.push(Arc::downgrade(self));
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

/// Whether the pending name `name` stands over the entry of its own file.
pub(super) fn covers_itself<B: Backing>(state: &DirState<B>, name: &[u8], id: EntryId) -> bool {
    matches!(state.under.get(name), Some(Under::Replaced { id: under, .. })
        if state.links.get(&id) == Some(under))
}

impl<B: Backing> Store<B> {
    /// link(2): gives a file one more name. It exists in memory until the file is committed.
    ///
    /// # Errors
    /// `IsADirectory`; `NotSupported` if the backing filesystem has no hard links; EMLINK.
    pub fn link(&self, node: &Arc<Node<B>>, dir: &Arc<Node<B>>, name: &[u8]) -> Result<()> {
        self.check_change(name)?;
        node.file()?;
        if !self.has_native_links()? {
            return Err(StoreError::NotSupported);
        }
        if node.has_names() && self.link_count(node) >= NAMES_MAX {
            let source = std::io::Error::from_raw_os_error(libc::EMLINK);
            return Err(StoreError::Io { what: "count the names of a file", source });
        }
        self.try_until(|| self.try_link(node, dir, name))?;
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
            place.names = Some(Names::new(false));
        }
        let cover = self.wait(node, &own.dir, &own.name);
        let state = locked.of(&own.dir);
        if state.map().get(&own.name).is_some_and(|entry| entry.published) {
            let replaces = state.replaces.get(&node.id()).copied();
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

    /// Makes the names durable that somebody else's commit published, and lets go of their files.
    pub(super) fn sync_newly_named(&self) {
        self.forget_newly_named();
        let left: Vec<_> = self.newly_named.lock().values().cloned().collect();
        if let Err(error) = self.sync_paths(&left) {
            log::warn!("names are not durable: {}", super::error::chain(&error));
        }
        self.forget_newly_named();
    }

    /// Lets go of the files whose names are durable.
    fn forget_newly_named(&self) {
        let durable = |node: &Arc<Node<B>>| {
            node.recent_names()
                .iter()
                .all(|(dir, change)| dir.dir().is_ok_and(|body| body.names.upto() >= *change))
        };
        let gone: Vec<_> =
            self.newly_named.lock().extract_if(|_, node| durable(node)).collect();
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
            place.names = Some(Names::new(true));
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
    pub(super) fn link_count(&self, node: &Arc<Node<B>>) -> u32 {
        let (new, has_stub) = {
            let place = node.place.lock();
            let Some(names) = &place.names else { return u32::from(place.link.is_some()) };
            let waiting = names.waiting();
            let is_new = |name: &&Arc<Node<B>>| {
                let place = name.place.lock();
                place.link.is_some() && matches!(place.home, Home::Pending)
            };
            let new = waiting.iter().filter(is_new).count();
            (new, names.has_stub && names.gone.is_none())
        };
        let native = if has_stub { self.stub_links(node.id()).unwrap_or(2) - 1 } else { 0 };
        let hidden = self.core.hidden_names(node.id());
        (native as usize + new).saturating_sub(hidden).try_into().unwrap_or(u32::MAX)
    }

    /// The native links of a file's stub: one of its own, and one for each name.
    fn stub_links(&self, inode: EntryId) -> Result<u32> {
        let stub = stub_file_name(inode);
        let stat = self.core.backing.stat(&self.core.inodes, At::Name(&stub));
        Ok(stat.attempt("count the names of a file")?.nlink.max(1))
    }

    /// Whether the native link count of a file's stub counts its names: not if the vault was copied without its
    /// hard links.
    fn stub_counts(&self, inode: EntryId) -> bool {
        let core = &self.core;
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
        read().unwrap_or(false)
    }

    /// Whether `.akasha/inodes` has a file of this id.
    pub(super) fn is_inode(&self, id: EntryId) -> bool {
        self.core.backing.stat(&self.core.inodes, At::Name(&inode_file_name(id))).is_ok()
    }

    /// Whether files can have several names in the backing filesystem; tried once.
    fn has_native_links(&self) -> Result<bool> {
        if let Some(known) = self.native_links.get() {
            return Ok(*known);
        }
        let (backing, tmp) = (&self.core.backing, &self.core.tmp);
        let names = [temp_file_name(&*self.core.entropy), temp_file_name(&*self.core.entropy)];
        drop(backing.create_temp(tmp, &names[0], 0o600).attempt("try hard links")?);
        let linked = backing.link(tmp, &names[0], tmp, &names[1]);
        for name in &names[..=usize::from(linked.is_ok())] {
            backing.unlink(tmp, name).attempt("try hard links")?;
        }
        let can = match linked {
            Ok(()) => true,
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EMLINK)
                ) =>
            {
                false
            }
            Err(error) => return Err(error).attempt("try hard links"),
        };
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
            match only_other(going) {
                Some(other) => (Arc::clone(going), other),
                None if covers_itself(&state, name, entry.id) => {
                    // The file itself is under it, and may not go with it.
                    return Ok(Some(Tried::Blocked(Blocked::Commit(Arc::clone(going)))));
                }
                None => return Ok(None),
            }
        };
        let Some(at) = other.place.lock().link.clone() else {
            return Ok(Some(Tried::Blocked(Blocked::Again)));
        };
        let mut locked = Locked::lock(self, dir, &at.dir)?;
        let _alone = self.inode_lock.lock();
        let shown = locked.of(dir).map().get(name).is_some_and(|entry| entry.id == going.id());
        let still = only_other(&going).is_some_and(|now| Arc::ptr_eq(&now, &other))
            && other.place.lock().link.as_ref().is_some_and(|now| is_same(now, &at));
        if !shown || !still {
            return Ok(Some(Tried::Blocked(Blocked::Again)));
        }
        self.collapse(&mut locked, dir, name, &going, &other, &at)?;
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
    ) -> Result<()> {
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
        // What the name was to replace dies with it.
        if let Some(&Under::Replaced { id, kind, replaces }) = left.under.get(name) {
            left.under.remove(name);
            let spot = TreeSpot { dir: Arc::clone(dir), name: name.into(), replaces };
            let live = self.living_at(id, &spot);
            self.remove_entry(left, live.as_ref(), &spot, id, kind)?;
        }
        self.changed_names(left);
        self.touched.lock().push(Arc::clone(dir));
        Ok(())
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
            self.name_removed(node.id(), name.id(), dir, state, change);
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
        if self.link_count(&node) <= shown {
            return None;
        }
        let waiting = node.with_names(|names| names.waiting())?;
        if waiting.iter().any(|name| matches!(name.place.lock().home, Home::Pending)) {
            return Some(Blocked::Commit(node));
        }
        for (dir, change) in node.recent_names() {
            if dir.dir().is_ok_and(|body| body.names.upto() < change) {
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
        name: EntryId,
        dir: &Arc<Node<B>>,
        state: &mut DirState<B>,
        change: u64,
    ) {
        self.core.forget_name(inode, name);
        let live = self.nodes.get(inode);
        let waiting = live.as_ref().and_then(|node| {
            node.note_changed(self.core.now());
            node.with_names(|names| !names.waiting.is_empty())
        });
        if waiting == Some(true) || self.stub_links(inode).is_ok_and(|links| links > 1) {
            return;
        }
        if !self.stub_counts(inode) {
            // Other names may be copies. The hunt after an unclean end looks at all of them.
            log::warn!("entry {:016x}: its names cannot be counted; it is kept", inode.get());
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
        self.remove_layers(inode, None)
    }
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

fn inodes_unsynced() -> StoreError {
    let source = std::io::Error::from_raw_os_error(libc::EIO);
    StoreError::Io { what: "sync .akasha/inodes", source }
}

fn is_same<B: Backing>(a: &Link<B>, b: &Link<B>) -> bool {
    Arc::ptr_eq(&a.dir, &b.dir) && a.name == b.name
}

fn pending_entry<B: Backing>(name: &Node<B>) -> MapEntry {
    MapEntry { id: name.id(), kind: name.kind(), published: false, damaged: false }
}

// ---- The commit's part.

impl<B: Backing> Store<B> {
    /// Writes the stub of a file that is to have several names and has none yet.
    pub(super) fn prepare_stub(
        &self,
        node: &Arc<Node<B>>,
        guard: &mut CommitState<B>,
    ) -> Result<()> {
        let wanted = {
            let place = node.place.lock();
            let pending = matches!(place.home, Home::Pending);
            let names = place.names.as_ref();
            names.is_some_and(|names| !names.has_stub) && (!pending || guard.finished.is_some())
        };
        if !wanted || guard.stub.is_some() {
            return Ok(());
        }
        let core = &self.core;
        let name = temp_file_name(&*core.entropy);
        let file = core.backing.create_temp(&core.tmp, &name, 0o600).attempt("create a stub")?;
        let native = core.backing.stat(&core.tmp, At::Name(&name)).attempt("create a stub")?.ino;
        let stub = Stub { inode: node.id(), native };
        let bytes = seal_stub(&core.keys, core.cipher, core.geometry, stub, &*core.entropy);
        file.write_at(0, &bytes).attempt("write a stub")?;
        guard.stub = Some(StubTemp { name, file });
        Ok(())
    }

    /// Forgets a stub that did not come to its place.
    pub(super) fn discard_stub(&self, guard: &mut CommitState<B>) {
        if let Some(stub) = guard.stub.take()
            && let Err(error) = self.core.backing.unlink(&self.core.tmp, &stub.name)
        {
            log::warn!("a stub stays behind until the next mount: {error}");
        }
    }

    /// The first two steps of publishing files with several names, for all of `works` at a time.
    pub(super) fn publish_inodes(
        &self,
        works: &mut VecDeque<Work<'_, B>>,
        first_error: &mut Option<StoreError>,
    ) {
        let mut touched = false;
        let mut attempt =
            |works: &mut VecDeque<Work<'_, B>>,
             step: &mut dyn FnMut(&mut Work<'_, B>) -> Result<()>| {
                works.retain_mut(|work| match step(work) {
                    Ok(()) => true,
                    Err(error) => {
                        first_error.get_or_insert(error);
                        false
                    }
                });
            };
        attempt(works, &mut |work| {
            if work.node.has_names() || work.guard.stub.is_some() {
                touched = true;
                self.publish_inode(work)?;
            }
            Ok(())
        });
        if !touched {
            return;
        }
        // A version that a cut leaves there must find its layers.
        let synced = self.sync_layer_names().and_then(|()| self.sync_inode_names());
        let is_durable = synced.is_ok();
        let mut failed = synced.err();
        let mut covered = Vec::new();
        attempt(works, &mut |work| {
            if !work.node.has_names() {
                return Ok(());
            }
            if !is_durable {
                return Err(failed.take().unwrap_or_else(inodes_unsynced));
            }
            // What is in the way of it is dealt with later, file by file.
            self.publish_cover(work.node)?;
            covered.extend(work.node.with_names(|names| names.covered.clone()).flatten());
            Ok(())
        });
        // If this fails, so does the sync that each of them asks for later.
        let _ = self.sync_dirs(covered);
    }

    /// Gives the file its place in `.akasha/inodes`, with its stub, and its next version there.
    fn publish_inode(&self, work: &mut Work<'_, B>) -> Result<()> {
        let core = &self.core;
        let (node, guard, covers) = (work.node, &mut work.guard, work.covers);
        let home_dir = match clone_home(node) {
            Home::Tree(spot) => Some(spot.dir),
            _ => None,
        };
        let _names = home_dir.as_ref().map(|dir| self.lock_dir(dir)).transpose()?;
        let _alone = self.inode_lock.lock();
        if !node.has_names() {
            // All names but one are gone again.
            self.discard_stub(guard);
            return Ok(());
        }
        let inode = inode_file_name(node.id());
        if let Some(stub) = &guard.stub {
            let name = stub_file_name(node.id());
            core.backing
                .rename(&core.tmp, &stub.name, &core.inodes, &name, RenameMode::Replace)
                .attempt("place a stub")?;
            node.with_names(|names| names.has_stub = true);
            guard.stub = None;
            self.inode_names.count();
        }
        if node.with_names(|names| names.has_stub) != Some(true) {
            // It got its second name a moment ago: the next round is for it.
            return Ok(());
        }
        match clone_home(node) {
            Home::Tree(spot) => {
                if !home_dir.as_ref().is_some_and(|dir| Arc::ptr_eq(dir, &spot.dir)) {
                    return Ok(());
                }
                let fd = spot.dir.dir_fd(core)?;
                // What an earlier try left there is not this version.
                match core.backing.unlink(&core.inodes, &inode) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(error).attempt("make room for a file with several names");
                    }
                    _ => {}
                }
                core.backing
                    .link(&fd, &node.sealed_name(core, &spot), &core.inodes, &inode)
                    .attempt("publish a file with several names")?;
                self.inode_names.count();
                node.place.lock().home = Home::Inode;
            }
            Home::Pending if guard.finished.is_some() => {}
            Home::Inode => {}
            _ => return Ok(()),
        }
        let Some(finished) = guard.finished.as_ref() else { return Ok(()) };
        self.refresh_attr(node, finished)?;
        let top = node.file()?.state.read().top.clone();
        match top.filter(|_| finished.keeps_top) {
            Some(top) => {
                let older = layer_file_name(node.id(), top.top().key.id());
                self.replace_keeping(finished, &older, &core.inodes, &inode)?;
                top.top().set_spot(older_spot(node, top.top()));
            }
            None => core
                .backing
                .rename(&core.tmp, finished.layer.name(), &core.inodes, &inode, RenameMode::Replace)
                .attempt("publish a version")?,
        }
        finished.layer.set_published();
        self.inode_names.count();
        let finished = guard.finished.take().expect("looked at above");
        {
            let mut place = node.place.lock();
            place.home = Home::Inode;
            if let Some(names) = &mut place.names {
                names.dropped.extend_from_slice(&finished.dropped);
            }
        }
        self.committed(node, finished, covers)
    }

    /// Publishes the name that takes the place of the file's own entry, if that is still to be done.
    fn publish_cover(&self, node: &Arc<Node<B>>) -> Result<Tried<B, ()>> {
        if !matches!(node.place.lock().home, Home::Inode) {
            return Ok(Tried::Done(()));
        }
        for name in node.with_names(|names| names.waiting()).unwrap_or_default() {
            let Some(link) = name.place.lock().link.clone() else { continue };
            let covers = {
                let state = self.lock_dir(&link.dir)?;
                covers_itself(&state, &link.name, name.id())
            };
            if covers {
                return self.publish_name(node, &name);
            }
        }
        Ok(Tried::Done(()))
    }

    /// The last step: every name that waits.
    pub(super) fn publish_names(&self, node: &Arc<Node<B>>) -> Result<Tried<B, ()>> {
        if !matches!(node.place.lock().home, Home::Inode) {
            return Ok(Tried::Done(()));
        }
        if let Tried::Blocked(blocked) = self.publish_cover(node)? {
            return Ok(Tried::Blocked(blocked));
        }
        // A cut must not show the file in its own place and by another name.
        if let Some((dir, change)) = node.with_names(|names| names.covered.clone()).flatten() {
            if dir.dir()?.names.upto() < change {
                return Ok(Tried::Blocked(Blocked::Sync(dir, change)));
            }
            node.with_names(|names| names.covered = None);
        }
        for name in node.with_names(|names| names.waiting()).unwrap_or_default() {
            if let Tried::Blocked(blocked) = self.publish_name(node, &name)? {
                return Ok(Tried::Blocked(blocked));
            }
        }
        let dropped = node.with_names(|names| {
            // Those that nobody holds any more were dropped.
            names.waiting.retain(|name| name.strong_count() > 0);
            std::mem::take(&mut names.dropped)
        });
        if let Some(dropped) = dropped.filter(|dropped| !dropped.is_empty()) {
            // Every sync of names before a removal takes `.akasha/inodes` along, wherever it is.
            let body = self.root.dir()?;
            let mut state = body.state.lock();
            let change = body.names.latest();
            self.doom(&self.root, &mut state, change, b"", Doom::Layers(node.id(), dropped));
        }
        {
            let mut state = node.file()?.state.write();
            if state.open.is_none() {
                state.eligible_since = None;
            }
        }
        self.queue.remove_if_done(node);
        Ok(Tried::Done(()))
    }

    /// Makes one name appear, move, or go.
    fn publish_name(&self, node: &Arc<Node<B>>, name: &Arc<Node<B>>) -> Result<Tried<B, ()>> {
        let (home, link, away) = {
            let link = name.place.lock().link.clone();
            (clone_home(name), link, name.place.lock().away)
        };
        match (home, link) {
            (Home::Pending, Some(link)) => {
                if let Tried::Blocked(blocked) = self.publish_new_name(node, name, &link)? {
                    return Ok(Tried::Blocked(blocked));
                }
            }
            (Home::Tree(spot), Some(link)) if away => {
                let mut locked = Locked::lock(self, &spot.dir, &link.dir)?;
                let same = {
                    let place = name.place.lock();
                    place.away
                        && place.link.as_ref().is_some_and(|now| is_same(now, &link))
                        && matches!(&place.home, Home::Tree(now)
                            if Arc::ptr_eq(&now.dir, &spot.dir) && now.name == spot.name)
                };
                if !same {
                    return Ok(Tried::Blocked(Blocked::Again));
                }
                spot.dir.hold_times(&self.core, locked.of(&spot.dir))?;
                link.dir.hold_times(&self.core, locked.of(&link.dir))?;
                let moved = self.move_home(&mut locked, name, &link.dir, &link.name)?;
                if let Tried::Blocked(blocked) = moved {
                    return Ok(Tried::Blocked(blocked));
                }
                self.moved_at_last(&mut locked, name, &spot, &link);
            }
            (Home::Tree(spot), None) if away => {
                // Unlinked while its rename was waiting: the old name goes too.
                let mut state = self.lock_dir(&spot.dir)?;
                if matches!(state.under.get(&spot.name), Some(Under::MovedAway(_))) {
                    state.under.remove(&spot.name);
                }
                name.place.lock().away = false;
                node.with_names(|names| names.waits_no_more(name));
                self.remove_entry(&mut state, Some(name), &spot, name.id(), name.kind())?;
            }
            _ => {}
        }
        node.with_names(|names| names.waits_no_more(name));
        Ok(Tried::Done(()))
    }

    fn publish_new_name(
        &self,
        node: &Arc<Node<B>>,
        name: &Arc<Node<B>>,
        link: &Link<B>,
    ) -> Result<Tried<B, ()>> {
        let core = &self.core;
        let mut state = self.lock_dir(&link.dir)?;
        let same = {
            let place = name.place.lock();
            matches!(place.home, Home::Pending)
                && place.link.as_ref().is_some_and(|now| is_same(now, link))
        };
        if !same {
            return Ok(Tried::Blocked(Blocked::Again));
        }
        let claim = match self.claim(&link.dir, &mut state, &link.name) {
            Ok(claim) => claim,
            Err(blocked) => return Ok(Tried::Blocked(blocked)),
        };
        let spot = TreeSpot {
            dir: Arc::clone(&link.dir),
            name: link.name.clone(),
            replaces: claim.replaces,
        };
        let backing = name.entry_at(core, &spot);
        let fd = link.dir.dir_fd(core)?;
        link.dir.hold_times(core, &mut state)?;
        self.ensure_sidecar(&link.dir, &fd, &mut state, &backing)?;
        core.backing
            .link(&core.inodes, &stub_file_name(node.id()), &fd, &backing.name)
            .attempt("publish a name")?;
        let change = link.dir.dir()?.names.count();
        {
            let mut place = name.place.lock();
            place.home = Home::Tree(spot);
            place.link_seq = change;
        }
        let covers = claim.dies.is_some_and(|(dead, ..)| dead == node.id());
        self.claimed(&mut state, &link.dir, &link.name, name.id(), &claim, change);
        state.map_mut().set_published(&link.name, true);
        state.pending.remove(&name.id());
        drop(state);
        self.note_recent(node, &link.dir, change);
        if covers {
            node.with_names(|names| names.covered = Some((Arc::clone(&link.dir), change)));
        }
        self.touched.lock().push(Arc::clone(&link.dir));
        Ok(Tried::Done(()))
    }
}
