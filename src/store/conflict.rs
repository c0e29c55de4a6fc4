//! Two entries of one name, as a sync tool leaves them: the second is shown under a name of its own (`dir.rs`, the
//! scan), and its backing entry is sealed with the first one's name for as long as nobody takes its place.

use std::sync::Arc;

use crate::backing::Backing;

use super::Store;
use super::error::Result;
use super::node::Node;
use super::tree::{Locked, Tried};

impl<B: Backing> Store<B> {
    /// Before something takes the place of an entry that is shown under another name than it is sealed with, its
    /// backing entry gets the shown one: what replaces it says so under its own name, and would not hide it.
    pub(super) fn keep_shown_name(&self, dir: &Arc<Node<B>>, name: &[u8]) -> Result<()> {
        if self.lock_dir(dir)?.sealed_as.is_empty() {
            return Ok(());
        }
        // It may be a directory, and those stay while others exchange names.
        let _stays = self.exchanges.read();
        self.try_until(|| {
            let mut locked = Locked::lock(self, dir, dir)?;
            let state = locked.of(dir);
            let Some(entry) = state.map().get(name) else { return Ok(Tried::Done(())) };
            if entry.damaged || !state.sealed_as.contains_key(&entry.id) {
                return Ok(Tried::Done(()));
            }
            let node = self.node_of(dir, state, name, &entry)?;
            dir.hold_times(&self.core, state)?;
            self.touched.lock().push(Arc::clone(dir));
            self.move_home(&mut locked, &node, dir, name)
        })
    }
}
