//! The commit: the one place where the next version of a file becomes the file.
//!
//! ```text
//! freeze   the open edit becomes the frozen one; new writes go to a new edit, based on it
//! seal     what waits in memory is sealed, map and tail are written: the temporary layer is complete
//! sync     its bytes are durable; until here nobody can see anything of it
//! publish  one rename shows it, whole: to a new name without replacing, over the old top,
//!          or exchanged with the old top, which stays as an older layer under its right name
//! sync     the directories that were touched: now the version is durable
//! ```
//!
//! A cut before `publish` leaves the old version and a temporary file, which the next mount sweeps; a cut after it leaves
//! the new one, or the old one if the rename was not durable yet. docs/DURABILITY.md goes through the cases.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use log::{error, warn};
use parking_lot::MutexGuard;

use crate::backing::{Backing, RenameMode, TempFile};
use crate::format::{EntryId, layer_file_name};

use super::Store;
use super::core::CommitPolicy;
use super::dir::{Doom, Under};
use super::dirmap::MapEntry;
use super::error::{Attempt, Result, StoreError, chain};
use super::finish::{self, Finished, older_spot};
use super::node::{CommitState, FileBody, FileState, Ghost, Home, Link, Node, TreeSpot};
use super::tree::{Blocked, Locked, Tried};

/// From this many layers on one syncfs is cheaper than one fsync each.
const SYNC_ALL_LAYERS: usize = 8;
/// Files in one batch of the interval's commit: whoever syncs one of them waits for all.
const BATCH: usize = 512;
/// Files in one batch when nobody waits any more.
const LAST_BATCH: usize = 8192;
/// How often a file is committed again because it changed meanwhile, before a waiter is answered.
const ROUNDS: usize = 16;

/// Which open edits a commit takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// All: somebody asked for what these files hold now.
    All,
    /// Those whose writers are done, or have been at it for too long. Whoever begins to write meanwhile keeps his.
    Done,
    /// These, and those whose writers have handed over all that they wrote by a close. They may be done: the kernel tells of
    /// the end of a handle (RELEASE) after close(2) has returned, and does not wait for an answer.
    HandedOver,
}

/// A file on its way through a commit.
pub(super) struct Work<'a, B: Backing> {
    pub node: &'a Arc<Node<B>>,
    pub guard: MutexGuard<'a, CommitState<B>>,
    /// Changes that the frozen edit covers.
    pub covers: u64,
}

impl<B: Backing> Store<B> {
    /// Commits the changes of these files made before the call, as far as `take` says, and the names they wait to take.
    /// Their bytes are durable on return, their names after [`Store::sync_path`].
    pub(super) fn commit(&self, nodes: &[Arc<Node<B>>], take: Take) -> Result<()> {
        let nodes = nodes.iter().map(Node::inode);
        let targets: Vec<(Arc<Node<B>>, u64)> =
            nodes.map(|node| (Arc::clone(node), changes(node))).collect();
        let mut first: Vec<Arc<Node<B>>> = Vec::new();
        for _ in 0..ROUNDS {
            let in_the_way: HashSet<EntryId> = first.iter().map(|node| node.id()).collect();
            let mut waiting: Vec<Arc<Node<B>>> = targets
                .iter()
                .filter(|(node, target)| self.needs_commit(node, *target, take))
                .map(|(node, _)| Arc::clone(node))
                .chain(first.drain(..))
                .collect();
            if waiting.is_empty() {
                for (node, _) in &targets {
                    self.queue.remove_if_done(node);
                }
                return Ok(());
            }
            for node in &waiting {
                self.await_removal(node)?;
            }
            waiting.sort_by_key(|node| node.id());
            waiting.dedup_by_key(|node| node.id());
            // Whoever is in the way of one of these is committed along with them in the next round.
            first = match self.commit_once(&waiting, &in_the_way, take) {
                Err(error) if error.is_full() => {
                    // What is small gets the room that is kept for it; the rest is told in the next round.
                    let small = self.relieved(&waiting);
                    if small.is_empty() {
                        return Err(error);
                    }
                    self.commit_once(&small, &in_the_way, take)?
                }
                committed => committed?,
            };
        }
        Err(StoreError::Io {
            what: "commit files that keep changing places",
            source: std::io::Error::from_raw_os_error(libc::EAGAIN),
        })
    }

    /// Waits for whoever is just removing the name of a node that was to move, or one of its names, to say that it is gone, or is
    /// not: until then there is nothing to publish, and it waits all the same.
    fn await_removal(&self, node: &Arc<Node<B>>) -> Result<()> {
        let mut names = node.with_names(|names| names.waiting()).unwrap_or_default();
        names.push(Arc::clone(node));
        for name in names {
            let dir = {
                let place = name.place.lock();
                match &place.home {
                    Home::Tree(spot) if place.away && place.link.is_none() => Arc::clone(&spot.dir),
                    _ => continue,
                }
            };
            // It is done under the lock of the directory where the entry is.
            drop(self.lock_dir(&dir)?);
        }
        Ok(())
    }

    /// One round. Returns the nodes that hold a name which one of `nodes` wants.
    fn commit_once(
        &self,
        nodes: &[Arc<Node<B>>],
        in_the_way: &HashSet<EntryId>,
        take: Take,
    ) -> Result<Vec<Arc<Node<B>>>> {
        let mut first_error = None;
        let mut works = Vec::new();
        for node in nodes {
            let Ok(body) = node.file() else { continue };
            let mut guard = body.commit.lock();
            let must_go = in_the_way.contains(&node.id());
            let sealed = self.freeze_and_seal(node, body, (take, must_go), &mut guard);
            let sealed = sealed.and_then(|covers| {
                if covers.is_some() {
                    self.prepare_stub(node, &mut guard)?;
                }
                Ok(covers)
            });
            match sealed {
                Ok(Some(covers)) => works.push(Work { node, guard, covers }),
                Ok(None) => {}
                Err(error) if has_lost_its_name(node, &error) => {}
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        self.sync_layers(&mut works, &mut first_error);
        let mut in_the_way = Vec::new();
        let mut works = VecDeque::from(works);
        self.publish_inodes(&mut works, &mut first_error);
        let mut stuck = 0;
        while let Some(mut work) = works.pop_front() {
            match self.publish(work.node, &mut work.guard, work.covers) {
                Ok(None) => stuck = 0,
                // It may be one of those that are still to be published.
                Ok(Some(_)) if stuck < works.len() => {
                    stuck += 1;
                    works.push_back(work);
                }
                Ok(Some(other)) => in_the_way.push(Arc::clone(other.inode())),
                Err(error) if has_lost_its_name(work.node, &error) => {}
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(in_the_way), Err)
    }

    /// Freezes the open edit, if no frozen one waits and `take` says so, and completes the frozen one's layer. `None` if the file is
    /// to be left alone, with the names that it waits to take: it need not go from where it is.
    fn freeze_and_seal(
        &self,
        node: &Arc<Node<B>>,
        body: &FileBody<B>,
        (take, must_go): (Take, bool),
        guard: &mut CommitState<B>,
    ) -> Result<Option<u64>> {
        // What the frozen edit changes is based on: without it nothing can be folded in.
        let is_new = matches!(node.place.lock().home, Home::Pending);
        if !is_new {
            node.load_top(&self.core).or_else(|error| {
                let state = body.state.read();
                let next = state.frozen.as_deref().or(state.open.as_ref());
                let whole = next.is_some_and(|edit| edit.base_blocks == 0);
                if whole { Ok(None) } else { Err(error) }
            })?;
        }
        // What moves is moved with what it holds: a half-written file whose name somebody syncs is somebody's wish. Nobody asked the
        // interval's commit: then it stays, or, if it is in somebody's way, goes with what was committed of it, if anything was.
        let moves = node.is_to_move();
        let (frozen, covers) = {
            let _alone = body.gate.write();
            let mut state = body.state.write();
            if state.lost {
                return Err(StoreError::Lost);
            }
            let leaves_alone =
                guard.finished.is_none() && !(is_new && must_go) && self.leaves_alone(&state, take);
            if moves && leaves_alone && !must_go {
                return Ok(None);
            }
            if state.frozen.is_none()
                && !leaves_alone
                && (moves || self.takes(&state, take))
                && let Some(open) = state.open.take()
            {
                guard.finished = open.complete.lock().take();
                guard.covers = state.changes;
                state.frozen = Some(Arc::new(open));
            }
            (state.frozen.clone(), guard.covers)
        };
        if let Some(frozen) = frozen {
            if guard.finished.is_none() {
                guard.finished = Some(finish::frozen(&self.core, node, &frozen)?);
            }
            if let Some(finished) = &guard.finished {
                finished.write()?;
                self.carry_xattrs(node, finished)?;
            }
        }
        Ok(Some(covers))
    }

    /// Makes the bytes of all layers durable: one by one, or all at once.
    fn sync_layers(&self, works: &mut Vec<Work<'_, B>>, first_error: &mut Option<StoreError>) {
        let synced_all = self.prefers_sync_all(works) && self.sync_all_layers(works);
        works.retain_mut(|work| {
            let stub = work.guard.stub.as_ref().map(|stub| stub.sync(&self.core, synced_all));
            let finished = work.guard.finished.as_ref();
            let finished = finished.map(|finished| finished.layer.sync(synced_all));
            match stub.into_iter().chain(finished).collect::<Result<()>>() {
                Ok(()) => true,
                Err(error) => {
                    self.sync_failed(work.node, &mut work.guard);
                    first_error.get_or_insert(error);
                    false
                }
            }
        });
    }

    fn prefers_sync_all(&self, works: &[Work<'_, B>]) -> bool {
        let finished = works.iter().filter(|work| work.guard.finished.is_some()).count();
        let stubs = works.iter().filter(|work| work.guard.stub.is_some()).count();
        finished + stubs >= SYNC_ALL_LAYERS && self.core.backing.sync_all_is_sound()
    }

    /// `false` if that failed: each layer must be asked.
    fn sync_all_layers(&self, works: &[Work<'_, B>]) -> bool {
        for work in works {
            if let Some(finished) = &work.guard.finished
                && finished.layer.is_open()
                && let Ok(file) = finished.layer.file()
            {
                // A hint; the sync that follows is what counts.
                let _ = file.start_writeback();
            }
        }
        let synced = self.core.sync_all();
        if let Err(error) = &synced {
            warn!("files are synced one by one: {}", chain(error));
        }
        synced.is_ok()
    }

    /// After a failed sync nothing of the layer can be trusted: it is built again under another id if
    /// everything is still in memory, else the changes are lost and every handle is told so.
    fn sync_failed(&self, node: &Arc<Node<B>>, guard: &mut CommitState<B>) {
        self.discard_stub(guard);
        if guard.finished.take().is_none() {
            return;
        }
        let Ok(body) = node.file() else { return };
        let lost = {
            let _alone = body.gate.write();
            let mut state = body.state.write();
            if state.frozen.as_ref().is_none_or(|frozen| frozen.in_memory()) {
                None
            } else {
                state.lost = true;
                if state.readers + state.writers == 0 {
                    self.lost_unseen.store(true, Ordering::Relaxed);
                }
                Some((state.frozen.take(), state.open.take()))
            }
        };
        if lost.is_some() {
            error!("entry {:016x}: a sync failed, uncommitted changes are lost", node.id().get());
            self.invalid.lock().insert(node.id());
            self.queue.remove_if_done(node);
        }
    }

    /// Shows the committed version: the one rename. Returns the node that must be committed first, if there is one.
    fn publish(
        &self,
        node: &Arc<Node<B>>,
        guard: &mut CommitState<B>,
        covers: u64,
    ) -> Result<Option<Arc<Node<B>>>> {
        for _ in 0..ROUNDS {
            let (home, link, named) = {
                let place = node.place.lock();
                (place.home.clone(), place.link.clone(), place.names.is_some())
            };
            let tried = match (home, link) {
                _ if named => self.publish_names(node)?,
                (Home::Gone | Home::Root | Home::Inode | Home::Damaged { .. }, _) => {
                    guard.finished = None;
                    self.discard(node);
                    return Ok(None);
                }
                (Home::Pending, None) if node.is_forsaken() => {
                    guard.finished = None;
                    return Ok(None);
                }
                (Home::Pending | Home::Ghost(_), None) => {
                    self.publish_ghost(node, guard, covers)?;
                    // Who closed it meanwhile saw no ghost yet.
                    self.drop_unlinked(node);
                    return Ok(None);
                }
                (Home::Pending | Home::Ghost(_), Some(link)) => {
                    self.publish_new(node, &link, guard, covers)?
                }
                (Home::Tree(spot), link) => {
                    self.publish_over(node, &spot, link.as_ref(), guard, covers)?
                }
            };
            match tried {
                Tried::Done(()) => return Ok(None),
                Tried::Blocked(Blocked::Commit(other)) => return Ok(Some(other)),
                Tried::Blocked(Blocked::Sync(dir, change)) => dir.sync_names(&self.core, change)?,
                Tried::Blocked(Blocked::Settle(dir)) => self.settle(&dir)?,
                Tried::Blocked(Blocked::Path(dir)) => self.sync_path(&dir)?,
                Tried::Blocked(Blocked::Layers) => self.sync_layer_names()?,
                Tried::Blocked(Blocked::Again) => {}
                Tried::Blocked(Blocked::Unknown(error)) => return Err(error),
            }
        }
        Err(StoreError::Io {
            what: "publish a file that keeps moving",
            source: std::io::Error::from_raw_os_error(libc::EAGAIN),
        })
    }

    /// An unlinked file that is still open: its version stays in `.akasha/tmp`.
    fn publish_ghost(
        &self,
        node: &Arc<Node<B>>,
        guard: &mut CommitState<B>,
        covers: u64,
    ) -> Result<()> {
        let _alone = self.inode_lock.lock();
        if let Some(finished) = &guard.finished {
            self.carry_xattrs(node, finished)?;
        }
        let Some(finished) = guard.finished.take() else { return Ok(()) };
        let core = &self.core;
        let before = {
            let mut place = node.place.lock();
            let from = match &place.home {
                Home::Ghost(ghost) => ghost.from.clone(),
                _ => None,
            };
            let next = Ghost { name: finished.layer.name().to_vec(), from };
            std::mem::replace(&mut place.home, Home::Ghost(next))
        };
        finished.layer.set_published();
        if let Home::Ghost(Ghost { name: old, .. }) = before {
            let top = node.file()?.state.read().top.clone();
            match top.filter(|_| finished.keeps_top) {
                Some(top) => {
                    let name = layer_file_name(node.id(), top.top().key.id());
                    core.backing
                        .rename(&core.tmp, &old, &core.layers, &name, RenameMode::NoReplace)
                        .attempt("keep an older layer")?;
                    top.top().set_spot(older_spot(node, top.top()));
                }
                None => core.backing.unlink(&core.tmp, &old).attempt("remove an old version")?,
            }
        }
        self.committed(node, finished, covers)
    }

    /// A file's first version: its name appears.
    fn publish_new(
        &self,
        node: &Arc<Node<B>>,
        link: &Link<B>,
        guard: &mut CommitState<B>,
        covers: u64,
    ) -> Result<Tried<B, ()>> {
        let core = &self.core;
        let mut state = self.lock_dir(&link.dir)?;
        let (still, place_pending) = {
            let place = node.place.lock();
            let still = place
                .link
                .as_ref()
                .is_some_and(|now| Arc::ptr_eq(&now.dir, &link.dir) && now.name == link.name);
            (still, matches!(place.home, Home::Pending))
        };
        if !still || !place_pending {
            return Ok(Tried::Blocked(Blocked::Again));
        }
        let Some(finished) = guard.finished.as_ref() else { return Ok(Tried::Done(())) };
        let claim = match self.claim(&link.dir, &mut state, &link.name) {
            Ok(claim) => claim,
            Err(blocked) => return Ok(Tried::Blocked(blocked)),
        };
        let spot = TreeSpot {
            dir: Arc::clone(&link.dir),
            name: link.name.clone(),
            replaces: claim.replaces,
        };
        let backing = node.entry_at(core, &spot);
        let fd = link.dir.dir_fd(core)?;
        self.ensure_sidecar(&link.dir, &fd, &mut state, &backing)?;
        self.refresh_attr(node, finished)?;
        link.dir.hold_times(core, &mut state)?;
        core.backing
            .rename(&core.tmp, finished.layer.name(), &fd, &backing.name, RenameMode::NoReplace)
            .attempt("publish a new file")?;
        finished.layer.set_published();
        let change = link.dir.dir()?.names.count();
        {
            let mut place = node.place.lock();
            place.home = Home::Tree(spot);
            place.link_seq = change;
        }
        self.claimed(&mut state, &link.dir, &link.name, &claim, change);
        state.map_mut().set_published(&link.name, true);
        state.pending.remove(&node.id());
        let finished = guard.finished.take().expect("looked at above");
        drop(state);
        self.touched.lock().push(Arc::clone(&link.dir));
        self.committed(node, finished, covers)?;
        Ok(Tried::Done(()))
    }

    /// The next version of a published file; and the rename that waited for it, if one did.
    fn publish_over(
        &self,
        node: &Arc<Node<B>>,
        spot: &TreeSpot<B>,
        link: Option<&Link<B>>,
        guard: &mut CommitState<B>,
        covers: u64,
    ) -> Result<Tried<B, ()>> {
        let core = &self.core;
        let target = link.map_or(&spot.dir, |link| &link.dir);
        let mut locked = Locked::lock(self, &spot.dir, target)?;
        {
            let place = node.place.lock();
            let same_home = matches!(&place.home, Home::Tree(now)
                if Arc::ptr_eq(&now.dir, &spot.dir) && now.name == spot.name && now.replaces == spot.replaces);
            let same_link = match (&place.link, link) {
                (Some(now), Some(link)) => {
                    Arc::ptr_eq(&now.dir, &link.dir) && now.name == link.name
                }
                (None, None) => true,
                _ => false,
            };
            if !same_home || !same_link {
                return Ok(Tried::Blocked(Blocked::Again));
            }
        }
        if let Some(finished) = guard.finished.as_ref() {
            let backing = node.sealed_name(core, spot);
            let fd = spot.dir.dir_fd(core)?;
            self.refresh_attr(node, finished)?;
            spot.dir.hold_times(core, locked.of(&spot.dir))?;
            // As `takes_layers_along`: a second name of the old version needs its layers, and if that cannot be told it has one.
            let shared = !finished.dropped.is_empty()
                && !core
                    .backing
                    .stat(&fd, crate::backing::At::Name(&backing))
                    .is_ok_and(|stat| stat.nlink < 2);
            let top = node.file()?.state.read().top.clone();
            match top.filter(|_| finished.keeps_top) {
                Some(top) => {
                    let older = layer_file_name(node.id(), top.top().key.id());
                    self.replace_keeping(finished, &older, &fd, &backing)?;
                    top.top().set_spot(older_spot(node, top.top()));
                }
                None => core
                    .backing
                    .rename(&core.tmp, finished.layer.name(), &fd, &backing, RenameMode::Replace)
                    .attempt("publish a version")?,
            }
            finished.layer.set_published();
            let change = spot.dir.dir()?.names.count();
            node.place.lock().link_seq = change;
            let finished = guard.finished.take().expect("looked at above");
            if !finished.dropped.is_empty() && !shared {
                let doom = Doom::Layers(node.id(), finished.dropped.clone());
                self.doom(&spot.dir, locked.of(&spot.dir), change, &spot.name, doom);
            }
            self.touched.lock().push(Arc::clone(&spot.dir));
            self.committed(node, finished, covers)?;
        }
        match link {
            Some(link) if !spot.is_at(link) => {
                spot.dir.hold_times(core, locked.of(&spot.dir))?;
                link.dir.hold_times(core, locked.of(&link.dir))?;
                let moved = self.move_home(&mut locked, node, &link.dir, &link.name)?;
                if let Tried::Blocked(blocked) = moved {
                    return Ok(Tried::Blocked(blocked));
                }
                self.moved_at_last(&mut locked, node, spot, link);
            }
            _ => {}
        }
        Ok(Tried::Done(()))
    }

    /// Book-keeping after a rename that waited for a commit was done natively.
    pub(super) fn moved_at_last(
        &self,
        locked: &mut Locked<'_, B>,
        node: &Arc<Node<B>>,
        from: &TreeSpot<B>,
        link: &Link<B>,
    ) {
        let left = locked.of(&from.dir);
        left.forget_moved(node);
        let state = locked.of(&link.dir);
        state.pending.remove(&node.id());
        let entry = MapEntry { id: node.id(), kind: node.kind(), published: true, damaged: false };
        // Keep the cookie that the name already has.
        if state.map().get(&link.name).is_some_and(|now| now.id == entry.id) {
            state.map_mut().set_published(&link.name, true);
        }
        let mut touched = self.touched.lock();
        touched.push(Arc::clone(&from.dir));
        touched.push(Arc::clone(&link.dir));
        drop(touched);
        self.queue.remove_if_done(node);
    }

    /// Attributes may have changed since the layer was completed.
    pub(super) fn refresh_attr(&self, node: &Arc<Node<B>>, finished: &Finished<B>) -> Result<()> {
        self.carry_xattrs(node, finished)?;
        let now = finish::attributes(&self.core, node, finished.attr.mtime)?;
        if now == finished.attr {
            return Ok(());
        }
        finished.layer.change_attr(&now, node.id())?;
        node.note_unsynced_attr();
        Ok(())
    }

    /// The new version is the file from now on.
    pub(super) fn committed(
        &self,
        node: &Arc<Node<B>>,
        finished: Finished<B>,
        covers: u64,
    ) -> Result<()> {
        let body = node.file()?;
        let is_ghost = matches!(node.place.lock().home, Home::Ghost(_));
        let frozen = {
            let mut state = body.state.write();
            state.top = Some(Arc::clone(&finished.snapshot));
            let created = state.attr.map(|attr| attr.ctime);
            if let Some(ctime) = state.frozen.as_ref().map(|edit| edit.ctime).max(created) {
                node.note_published(ctime);
            }
            state.committed = state.committed.max(covers);
            if !is_ghost {
                state.attr = None;
            }
            state.promised = false;
            if state.open.is_none() {
                state.eligible_since = None;
                state.set_mtime = None;
            }
            state.frozen.take()
        };
        node.note_published_xattrs(&finished.xattrs);
        drop((frozen, finished));
        self.queue.remove_if_done(node);
        Ok(())
    }

    /// Gives the directories touched by publishing the times that the mount shows.
    pub(super) fn restore_touched(&self) {
        let mut touched = std::mem::take(&mut *self.touched.lock());
        touched.sort_by_key(|dir| dir.id());
        touched.dedup_by_key(|dir| dir.id());
        for dir in touched {
            if let Err(error) = dir.restore_times(&self.core)
                && !error.is_missing()
            {
                log::warn!("entry {:016x}: its times could not be kept: {error}", dir.id().get());
            }
        }
    }

    /// Everything written to `node` before the call is durable on return, under the path it then has.
    pub fn fsync(&self, node: &Arc<Node<B>>) -> Result<()> {
        if node.dir().is_ok() {
            return self.fsync_dir(node);
        }
        if node.file()?.state.read().lost {
            return Err(StoreError::Lost);
        }
        if self.core.options.read_only {
            return Ok(());
        }
        if node.is_nowhere() {
            self.fsync_nowhere(node)?;
            // Unless it got a name meanwhile, which then is to be durable.
            if node.is_nowhere() {
                return Ok(());
            }
        }
        self.commit(std::slice::from_ref(node), Take::All)?;
        self.restore_touched();
        self.sync_attr(node)?;
        self.sync_path(node)
    }

    /// The names in `dir`, and those that lead to it, are durable on return; files that wait to appear in it are committed. A
    /// new file that is still being written is not, unless all of it was handed over by a close: its first version is its
    /// writer's to publish, by fsync or close.
    pub fn fsync_dir(&self, dir: &Arc<Node<B>>) -> Result<()> {
        if self.core.options.read_only {
            return Ok(());
        }
        let pending: Vec<Arc<Node<B>>> = {
            let state = dir.dir()?.state.lock();
            let shown = state.pending.values();
            // What the mount shows elsewhere already must leave this directory.
            let left = state.under.values().filter_map(|under| match under {
                Under::MovedAway(node) => Some(node),
                Under::Replaced { .. } => None,
            });
            shown.chain(left).cloned().collect()
        };
        // What was published although another file could not be waits for nothing any more: nobody else would sync it.
        let committed = self.commit(&pending, Take::HandedOver);
        self.restore_touched();
        let latest = dir.dir()?.names.latest();
        if !dir.dir()?.state.lock().removed {
            dir.sync_names(&self.core, latest)?;
        }
        self.sync_attr(dir)?;
        self.sync_path(dir)?;
        committed
    }

    /// Commits what is due, removes what is dead; returns when to come again.
    pub fn tick(&self) -> Duration {
        let interval = match self.core.options.commit {
            CommitPolicy::Interval(interval) => interval,
            CommitPolicy::OnClose => Duration::ZERO,
        };
        if self.core.options.read_only {
            return Duration::from_secs(1);
        }
        let now = self.core.clock.elapsed();
        let due = self.due(now, interval);
        self.commit_batches(&due, BATCH, Take::Done);
        // What died waits as long as a commit may: names change often and settle together.
        let settle = {
            let mut last = self.settled_last.lock();
            let due = now >= *last + interval;
            if due {
                *last = now;
            }
            due
        };
        if settle {
            self.restore_touched();
            self.sync_newly_named();
            self.sync_gone_names();
            self.finish_sides();
            self.settle_all();
            self.core.spares.clear(&self.core);
            self.reserve.fill(&self.core);
            self.write_rescues();
        }
        self.cache.trim();
        // Whoever changes something wakes this up before its time.
        if self.queue.len() == 0 && self.queue.unsettled().is_empty() {
            return Duration::from_secs(1);
        }
        (interval / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    /// Commits everything that waits, when nobody can change or sync it any more.
    pub(super) fn commit_the_last(&self) -> bool {
        let mut clean = true;
        // What one round leaves to the next is committed there.
        for _ in 0..3 {
            let dirty = self.queue.dirty();
            if dirty.is_empty() {
                break;
            }
            clean = self.commit_batches(&dirty, LAST_BATCH, Take::All);
        }
        clean && self.queue.len() == 0
    }

    /// Makes every replacement durable and removes what died by it.
    pub(super) fn settle_all(&self) -> bool {
        let mut clean = true;
        let unsettled = self.queue.unsettled();
        let latest = |dir: &Arc<Node<B>>| dir.dir().map_or(0, |body| body.names.latest());
        let together = unsettled.iter().map(|dir| (Arc::clone(dir), latest(dir))).collect();
        // Which of them it hit is told below, one by one.
        let _ = self.sync_dirs(together);
        for dir in unsettled {
            if let Err(error) = self.settle(&dir) {
                super::dir::left_behind("what a directory replaced", &error);
                self.queue.put_off(&dir);
                clean = false;
            }
        }
        clean
    }

    /// The files that the interval's commit takes now.
    fn due(&self, now: Duration, interval: Duration) -> Vec<Arc<Node<B>>> {
        let core = &self.core;
        // Under pressure closed files go at once, and then open ones too.
        let buffered = core.buffered.load(Ordering::Relaxed);
        let pressed = buffered > core.options.memory_budget / 2 || self.queue.len() > 2048;
        self.queue
            .dirty()
            .into_iter()
            .filter(|node| {
                let Ok(body) = node.file() else { return false };
                let state = body.state.read();
                let eligible = state
                    .eligible_since
                    .is_some_and(|since| pressed || now.saturating_sub(since) >= interval);
                (state.writers == 0 && eligible)
                    || self.is_overdue(&state)
                    || state.frozen.is_some()
            })
            .collect()
    }

    /// Commits and makes durable, many files at a time.
    fn commit_batches(&self, nodes: &[Arc<Node<B>>], batch: usize, take: Take) -> bool {
        let mut clean = true;
        for batch in nodes.chunks(batch) {
            if let Err(error) = self.commit(batch, take) {
                log::warn!(
                    "a commit failed and will be tried again: {}",
                    super::error::chain(&error)
                );
                clean = false;
            }
        }
        self.restore_touched();
        if let Err(error) = self.sync_paths(nodes) {
            log::warn!("names are not durable: {}", super::error::chain(&error));
            clean = false;
        }
        clean
    }

    /// Whether a commit that takes `take` freezes the open edit. Looked at under the state's lock, at the freeze itself: a
    /// file may have been opened and cut since somebody found that it was due.
    fn takes(&self, state: &FileState<B>, take: Take) -> bool {
        let is_handed_over =
            take == Take::HandedOver && (state.handed_over == state.changes || state.promised);
        take == Take::All || state.writers == 0 || is_handed_over || self.is_overdue(state)
    }

    /// Whether a commit that nobody asked for finds writers at work, and nothing that they were done with before.
    fn leaves_alone(&self, state: &FileState<B>, take: Take) -> bool {
        take == Take::Done && state.frozen.is_none() && !self.takes(state, take)
    }

    /// Whether it has been written for so long that its writers' end is not waited for.
    fn is_overdue(&self, state: &FileState<B>) -> bool {
        let begun = state.open.as_ref().map(|edit| edit.begun);
        let now = self.core.clock.elapsed();
        begun.is_some_and(|begun| now.saturating_sub(begun) >= self.core.options.open_commit)
    }

    /// Whether a change of `node` up to `target`, or a name that it waits to take, is still to be committed.
    fn needs_commit(&self, node: &Arc<Node<B>>, target: u64, take: Take) -> bool {
        let Ok(body) = node.file() else { return false };
        if node.is_nowhere() {
            return false;
        }
        {
            let state = body.state.read();
            let taken = state.frozen.is_some() || state.open.is_some() && self.takes(&state, take);
            if state.lost || (taken && state.committed < target) {
                return true;
            }
            let is_left_alone = self.leaves_alone(&state, take);
            drop(state);
            if is_left_alone && node.is_to_move() {
                return false;
            }
        }
        let place = node.place.lock();
        let is_going =
            |name: &Arc<Node<B>>| matches!(name.place.lock().home, Home::Gone | Home::Ghost(_));
        let named = place
            .names
            .as_ref()
            .is_some_and(|names| names.waiting().iter().any(|name| !is_going(name)));
        // Names wait until there is something to name. What somebody is removing just now, and is about to say so, waits for
        // nothing.
        match place.home {
            Home::Gone => false,
            Home::Pending => place.away,
            Home::Ghost(_) => named,
            _ => place.away || named,
        }
    }
}

/// Whether `error` says no more than that the file was unlinked meanwhile: the next round knows that.
pub(super) fn has_lost_its_name<B: Backing>(node: &Node<B>, error: &StoreError) -> bool {
    error.is_missing() && node.place.lock().is_nameless()
}

fn changes<B: Backing>(node: &Arc<Node<B>>) -> u64 {
    node.file().map_or(0, |body| body.state.read().changes)
}
