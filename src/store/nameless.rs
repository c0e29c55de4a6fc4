//! Files made without a name (open(2), O_TMPFILE): like new files that were unlinked at once, but that link(2) may give one a name.
//! It is then a new file that waits in its directory, as any other.
//!
//! Nothing of a file that was never published and has no name survives a cut, so that there is nothing to commit: it stays an edit
//! whatever happens. What its fsync returns success for can be made durable once it has a name (`FileState::promised`), and is made
//! so with the name.

use std::sync::Arc;

use crate::backing::Backing;
use crate::format::EntryKind;

use super::core::Core;
use super::edit::OwnSlot;
use super::error::{Result, StoreError};
use super::file::{Generation, seal_blocks};
use super::node::{FileState, Home, Link, Node, Place};
use super::runs::RunMap;
use super::temp::LayerTemp;
use super::{NewAttr, Store};

/// Dead plaintext bytes that the temporary layer of such a file may hold beyond as many as are live.
const DEAD_LEN_ALLOWED: u64 = 8 << 20;
/// Plaintext bytes that are copied at a time.
const COPY_LEN: u64 = 1 << 20;

impl<B: Backing> Place<B> {
    /// Whether neither a name nor anything in the vault leads to it: nothing of it is to be committed.
    pub fn is_nowhere(&self) -> bool {
        self.is_nameless() && matches!(self.home, Home::Pending)
    }
}

impl<B: Backing> Store<B> {
    /// Makes an empty regular file that has no name, open for writing as by [`Store::create`]. Unless `may_be_named`, it
    /// never gets one.
    ///
    /// # Errors
    /// `ReadOnly`.
    pub fn create_nameless(&self, new: &NewAttr, may_be_named: bool) -> Result<Arc<Node<B>>> {
        if self.core.options.read_only {
            return Err(StoreError::ReadOnly);
        }
        let node = self.new_pending(None, EntryKind::File, None, new)?;
        node.place.lock().may_be_named = may_be_named;
        Ok(node)
    }

    /// Gives a file its first name; false if it is none that may get one so.
    pub(super) fn name_first(
        &self,
        node: &Arc<Node<B>>,
        dir: &Arc<Node<B>>,
        name: &[u8],
    ) -> Result<bool> {
        if !node.place.lock().may_be_named {
            return Ok(false);
        }
        let mut state = self.lock_dir(dir)?;
        if state.map().get(name).is_some() {
            return Err(StoreError::AlreadyExists);
        }
        {
            let mut place = node.place.lock();
            if !std::mem::take(&mut place.may_be_named) {
                return Ok(false);
            }
            place.link = Some(Link { dir: Arc::clone(dir), name: name.into() });
        }
        let sealed = node.file()?.state.write().open.as_mut().and_then(|open| {
            // The kernel may hold pages that were written before: its writers have as much time as those of a file made now.
            open.begun = self.core.clock.elapsed();
            open.complete.lock().take()
        });
        self.show_pending(&mut state, name, node);
        drop(state);
        // Its end names another directory.
        drop(sealed);
        Ok(true)
    }

    /// fsync(2) of what is nowhere: if it may get a name, whether the disk has room for it is told now, and what it holds
    /// goes with its name.
    pub(super) fn fsync_nowhere(&self, node: &Arc<Node<B>>) -> Result<()> {
        if node.place.lock().may_be_named {
            self.complete(node)?;
            node.file()?.state.write().promised = true;
        }
        Ok(())
    }
}

impl<B: Backing> Node<B> {
    /// Whether nothing of it is to be committed, see [`Place::is_nowhere`].
    pub(crate) fn is_nowhere(&self) -> bool {
        self.place.lock().is_nowhere()
    }

    /// Gives the room of dead slots back, where no commit does: a slot is written once, so that a file that is written over and
    /// over, and never committed, would grow without end.
    pub(super) fn renew_layer_if_dead(self: &Arc<Self>, core: &Arc<Core<B>>) -> Result<()> {
        let body = self.file()?;
        let is_due = is_mostly_dead(core, &body.state.read());
        if !is_due || !self.is_nowhere() {
            return Ok(());
        }
        let _alone = body.gate.write();
        let (runs, mut identity) = {
            let state = body.state.read();
            let Some(edit) = state.open.as_ref().filter(|_| is_mostly_dead(core, &state)) else {
                return Ok(());
            };
            let runs: Vec<_> = edit.sealed.iter().map(|run| (run.block, run.count)).collect();
            (runs, edit.base_blocks == 0)
        };
        let fresh = LayerTemp::create(core, 0o600)?;
        let mut sealed = RunMap::default();
        let step = (COPY_LEN / core.geometry.block_len()).max(1);
        for (first, count) in runs {
            let end = first + count;
            for block in (first..end).step_by(usize::try_from(step).expect("a few blocks")) {
                let blocks = block..end.min(block + step);
                let plain = self.gather(core, Generation::Open, blocks.clone())?;
                let slot = seal_blocks(&fresh, identity, block, &plain)?;
                identity &= slot == block;
                sealed.insert(block, blocks.end - block, OwnSlot(slot));
            }
        }
        let mut state = body.state.write();
        let edit = state.open.as_mut().expect("the gate keeps the open edit");
        (edit.layer, edit.sealed, edit.identity) = (Some(fresh), sealed, identity);
        Ok(())
    }
}

/// Whether the open edit's layer holds more dead slots than live ones, and many.
fn is_mostly_dead<B: Backing>(core: &Core<B>, state: &FileState<B>) -> bool {
    let Some(edit) = &state.open else { return false };
    let Some(layer) = &edit.layer else { return false };
    let live = edit.sealed.blocks();
    let dead = layer.blocks_written().saturating_sub(live);
    dead > live + DEAD_LEN_ALLOWED / core.geometry.block_len()
}
