//! The end of a file that lost its last name: who may still have it, and what is left to tell about it.
//!
//! The kernel looks a name up and opens what it found in two requests. In between the file may be unlinked or replaced, and
//! nobody has it open: then the opener is told that it is stale, and the kernel looks the name up again. So an open never
//! fails with "no such file" on a name that was there all the time.

use std::sync::Arc;

use crate::backing::{At, Backing, RenameMode, Stat};
use crate::format::temp_file_name;

use super::Store;
use super::core::Core;
use super::dir::{DirState, Doom, left_behind};
use super::error::{Attempt, Result};
use super::finish::is_small;
use super::node::{Ghost, Home, Node, PendingAttr};
use super::tree::has_handles;

/// What [`Node::unbury`] needs.
pub(crate) struct Buried<B: Backing> {
    home: Home<B>,
    /// Attributes were kept that the node did not hold before.
    kept: bool,
}

impl<B: Backing> Node<B> {
    /// Marks a file as gone whose backing entry the caller is about to remove; `None` if somebody has it open. Whoever opens it
    /// counts himself first and then looks here, so that one of the two sees the other.
    ///
    /// Its attributes stay in memory: the kernel may hold it without a handle of ours (a fifo that is open, O_PATH) and goes
    /// on asking.
    pub(crate) fn bury(self: &Arc<Self>, core: &Core<B>) -> Option<Buried<B>> {
        // What cannot be had now is not missed before somebody asks.
        let last = self.stat_home(core).ok();
        let mut place = self.place.lock();
        if has_handles(self) {
            return None;
        }
        let kept = last.is_some_and(|stat| self.keep_attr(core, &stat));
        Some(Buried { home: std::mem::replace(&mut place.home, Home::Gone), kept })
    }

    /// The backing entry could not be removed: it is where it was.
    pub(crate) fn unbury(&self, buried: Buried<B>) {
        self.place.lock().home = buried.home;
        if let Ok(body) = self.file()
            && buried.kept
        {
            body.state.write().attr = None;
        }
    }

    /// Takes the ghost of a file that nobody has open any more: the caller removes it, and nobody else.
    fn take_ghost(self: &Arc<Self>, core: &Core<B>) -> Option<Ghost<B>> {
        let last = self.stat_home(core).ok();
        let mut place = self.place.lock();
        if has_handles(self) {
            return None;
        }
        let Home::Ghost(ghost) = &place.home else { return None };
        let ghost = ghost.clone();
        if let Some(stat) = last {
            self.keep_attr(core, &stat);
        }
        place.home = Home::Gone;
        Some(ghost)
    }

    /// Takes what is left of a file that lost its last name, if nobody has it open: the caller has it removed, and nobody else.
    /// Returns where and when the name was removed.
    pub(super) fn take_inode(self: &Arc<Self>, core: &Core<B>) -> Option<(Arc<Node<B>>, u64)> {
        let last = self.stat_home(core).ok();
        let mut place = self.place.lock();
        if has_handles(self) || !matches!(place.home, Home::Inode) {
            return None;
        }
        let gone = place.names.as_ref()?.gone.clone()?;
        if let Some(stat) = last {
            self.keep_attr(core, &stat);
        }
        place.home = Home::Gone;
        place.names = None;
        Some(gone)
    }

    /// Keeps the attributes of a file that is about to be gone; false if it holds some already.
    fn keep_attr(&self, core: &Core<B>, stat: &Stat) -> bool {
        let Ok(body) = self.file() else { return false };
        let mut state = body.state.write();
        if state.attr.is_some() {
            return false;
        }
        let edit = state.open.as_ref().or(state.frozen.as_deref());
        let mtime = edit.map(|edit| state.set_mtime.unwrap_or(edit.mtime));
        state.attr = Some(PendingAttr {
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            atime: stat.atime,
            mtime: mtime.unwrap_or(stat.mtime),
            ctime: core.now(),
        });
        true
    }

    /// Whether it was never published, has no name, and nobody has it open: nothing more of it is looked for.
    pub(crate) fn is_forsaken(&self) -> bool {
        let place = self.place.lock();
        place.is_nowhere() && !has_handles(self)
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.place.lock().home, Home::Gone)
    }
}

impl<B: Backing> Store<B> {
    /// Takes the backing entry `backing` of an open file out of `dir`, whose lock the caller holds, and keeps it in
    /// `.akasha/tmp` until its last handle is closed.
    pub(super) fn make_ghost(
        &self,
        node: &Arc<Node<B>>,
        dir: &Arc<Node<B>>,
        state: &mut DirState<B>,
        backing: &[u8],
    ) -> Result<()> {
        let core = &self.core;
        let name = temp_file_name(&*core.entropy);
        let fd = dir.dir_fd(core)?;
        core.backing
            .rename(&fd, backing, &core.tmp, &name, RenameMode::NoReplace)
            .attempt("keep a file that is open")?;
        let left = dir.dir()?.names.latest() + 1;
        {
            let mut place = node.place.lock();
            place.home = Home::Ghost(Ghost { name, from: Some((Arc::clone(dir), left)) });
        }
        // Whoever closed it just now saw no ghost yet.
        if let Some(ghost) = node.take_ghost(core) {
            self.remove_ghost_file(node, &ghost, |doom| self.doom(dir, state, left, b"", doom));
        }
        Ok(())
    }

    /// Removes what an unlinked file still held when its last handle went.
    pub(super) fn drop_unlinked(&self, node: &Arc<Node<B>>) {
        if let Some(ghost) = node.take_ghost(&self.core) {
            self.remove_ghost_file(node, &ghost, |doom| {
                if let Some((dir, change)) = &ghost.from
                    && let Ok(body) = dir.dir()
                {
                    let mut state = body.state.lock();
                    if !state.removed {
                        self.doom(dir, &mut state, *change, b"", doom);
                    }
                    // Of a removed directory the next mount's hunt finds what is left.
                } else if let Err(error) = match doom {
                    Doom::Sides(entry) => self.core.remove_sides(entry),
                    _ => self.remove_layers(node.id(), None),
                } {
                    left_behind("what an unlinked file had", &error);
                }
            });
            return;
        }
        if let Some((dir, change)) = node.take_inode(&self.core) {
            if let Ok(body) = dir.dir() {
                let mut state = body.state.lock();
                if !state.removed {
                    self.doom(&dir, &mut state, change, b"", Doom::Inode(node.id()));
                }
                // Of a removed directory the next mount's hunt finds what is left.
            }
            self.discard(node);
            return;
        }
        if has_handles(node) {
            return;
        }
        let (pending, keeps) = {
            let place = node.place.lock();
            if place.may_be_named || !place.is_nameless() {
                // Who holds it without a handle (O_PATH) may give it a name, or has just done so: its content goes with the node.
                drop(place);
                self.queue.remove_if_done(node);
                return;
            }
            let home = &place.home;
            // An entry that is dead settles with its directory; a ghost belongs to who opened it meanwhile.
            (
                matches!(home, Home::Pending),
                matches!(home, Home::Tree(_) | Home::Inode | Home::Ghost(_)),
            )
        };
        if pending {
            self.let_go(node);
        } else if !keeps {
            self.discard(node);
        }
    }

    /// An unlinked file that was never published and that nobody has open. Somebody may have looked it up and be about to
    /// open it, so that its content goes with the node, unless it takes room on the disk: that is free at once.
    pub(super) fn let_go(&self, node: &Arc<Node<B>>) {
        self.queue.remove(node.id());
        let takes_room = node.file().is_ok_and(|body| {
            let state = body.state.read();
            let mut edits = state.open.iter().chain(state.frozen.as_deref());
            edits.any(|edit| !is_small(&self.core, edit))
        });
        if !takes_room {
            return;
        }
        {
            // Whoever opens it counts himself first and then looks whether it is gone.
            let mut place = node.place.lock();
            if has_handles(node) || !matches!(place.home, Home::Pending) {
                return;
            }
            place.home = Home::Gone;
        }
        self.discard(node);
    }

    /// Removes a ghost's file; `doom` has its older layers removed once its name is durably gone.
    fn remove_ghost_file(&self, node: &Arc<Node<B>>, ghost: &Ghost<B>, mut doom: impl FnMut(Doom)) {
        let (backing, tmp) = (&self.core.backing, &self.core.tmp);
        // A cut on btrfs may have left the file a second name: its layers stay with that, and where it cannot be told.
        let shared = !backing.stat(tmp, At::Name(&ghost.name)).is_ok_and(|stat| stat.nlink < 2);
        if let Err(error) = backing.unlink(tmp, &ghost.name)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!("an unlinked file stays behind until the next mount: {error}");
        }
        let layered = node.file().is_ok_and(|body| {
            body.state.read().top.as_ref().is_none_or(|top| top.layers.len() > 1)
        });
        if !shared && layered {
            doom(Doom::AllLayers(node.id()));
        }
        if !shared && self.core.sides.has(node.id()) {
            doom(Doom::Sides(node.id()));
        }
        self.discard(node);
    }
}
