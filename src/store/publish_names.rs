//! The commit of files with several names (`names.rs`): file and stub, covering name, other names, each durable before
//! the next.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::backing::{At, Backing, RenameMode, TempFile};
use crate::format::{
    Stub, inode_file_name, layer_file_name, seal_stub, stub_file_name, temp_file_name,
};

use super::Store;
use super::commit::{Work, has_lost_its_name};
use super::core::Core;
use super::dir::Doom;
use super::error::{Attempt, Result, StoreError};
use super::finish::older_spot;
use super::names::{covers_itself, is_same};
use super::node::{CommitState, Home, Link, Node, TreeSpot};
use super::tree::{Blocked, Locked, Tried, clone_home};

/// A stub on its way.
pub(crate) struct StubTemp<B: Backing> {
    name: Vec<u8>,
    file: B::Temp,
    /// [`Core::failed_syncs`] before it was written.
    failed_syncs: u64,
}

impl<B: Backing> StubTemp<B> {
    /// It is durable on return, by a syncfs that just succeeded or by an fsync of its own.
    pub fn sync(&self, core: &Core<B>, synced_all: bool) -> Result<()> {
        if synced_all && self.failed_syncs == core.failed_syncs() {
            return Ok(());
        }
        self.file.sync().attempt("sync a stub")
    }
}

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
        let failed_syncs = core.failed_syncs();
        let file = core.backing.create_temp(&core.tmp, &name, 0o600).attempt("create a stub")?;
        let native = core.backing.stat(&core.tmp, At::Name(&name)).attempt("create a stub")?.ino;
        let stub = Stub { inode: node.id(), native };
        let bytes = seal_stub(&core.keys, core.cipher, core.geometry, stub, &*core.entropy);
        file.write_at(0, &bytes).attempt("write a stub")?;
        guard.stub = Some(StubTemp { name, file, failed_syncs });
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
                    Err(error) if has_lost_its_name(work.node, &error) => false,
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
        let mut waiting = node.with_names(|names| names.waiting()).unwrap_or_default();
        // One of them may be to appear where another moves out.
        waiting.sort_by_key(|name| !name.place.lock().away);
        // Nor must those wait for it that others wait for.
        let mut in_the_way = None;
        for name in waiting {
            match self.publish_name(node, &name)? {
                Tried::Done(()) => {}
                Tried::Blocked(Blocked::Commit(other)) => in_the_way = Some(other),
                Tried::Blocked(blocked) => return Ok(Tried::Blocked(blocked)),
            }
        }
        if let Some(other) = in_the_way {
            return Ok(Tried::Blocked(Blocked::Commit(other)));
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
            let waits = node.with_names(|names| !names.waiting.is_empty()) == Some(true);
            let mut state = node.file()?.state.write();
            if state.open.is_none() && !waits {
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
            _ => {}
        }
        name.has_appeared();
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
        let change = {
            let _counting = core.counting.write();
            core.backing
                .link(&core.inodes, &stub_file_name(node.id()), &fd, &backing.name)
                .attempt("publish a name")?;
            let change = link.dir.dir()?.names.count();
            let mut place = name.place.lock();
            place.home = Home::Tree(spot);
            place.link_seq = change;
            drop(place);
            // Who counts it must find that it may not be durable.
            self.note_recent(node, &link.dir, change);
            change
        };
        let covers = claim.dies.is_some_and(|(dead, ..)| dead == node.id());
        self.claimed(&mut state, &link.dir, &link.name, &claim, change);
        state.map_mut().set_published(&link.name, true);
        state.pending.remove(&name.id());
        drop(state);
        if covers {
            node.with_names(|names| names.covered = Some((Arc::clone(&link.dir), change)));
        }
        self.touched.lock().push(Arc::clone(&link.dir));
        Ok(Tried::Done(()))
    }
}

fn inodes_unsynced() -> StoreError {
    let source = std::io::Error::from_raw_os_error(libc::EIO);
    StoreError::Io { what: "sync .akasha/inodes", source }
}
