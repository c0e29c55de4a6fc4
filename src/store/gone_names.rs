//! Names of files with several whose removal is not durable: what such a file has in `.akasha/inodes` outlives all of them.
//!
//! The last name's directory removes the file when its own change is durable. A cut could still bring back a name in
//! another directory, and it would lead nowhere: that directory is synced before.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::backing::Backing;
use crate::format::EntryId;

use super::Store;
use super::dir::DirState;
use super::durable::is_durable;
use super::error::{Result, chain};
use super::node::Node;

/// Directories, each with a change in it.
type Changes<B> = Vec<(Arc<Node<B>>, u64)>;

/// The directories that each file lost names in, with the last change that took one away.
pub(crate) struct GoneNames<B: Backing>(Mutex<HashMap<EntryId, Changes<B>>>);

impl<B: Backing> Default for GoneNames<B> {
    fn default() -> Self {
        GoneNames(Mutex::new(HashMap::new()))
    }
}

impl<B: Backing> GoneNames<B> {
    /// A name of `inode` was removed from `dir`, by `change`, and there may be others.
    pub fn add(&self, inode: EntryId, dir: &Arc<Node<B>>, change: u64) {
        let mut gone = self.0.lock();
        let dirs = gone.entry(inode).or_default();
        match dirs.iter_mut().find(|(known, _)| Arc::ptr_eq(known, dir)) {
            Some((_, last)) => *last = change.max(*last),
            None => dirs.push((Arc::clone(dir), change)),
        }
    }

    /// The last name of `inode` was removed from the directory of `state`, which is synced after all the others.
    pub fn hand_over(&self, inode: EntryId, dir: &Arc<Node<B>>, state: &mut DirState<B>) {
        for (other, change) in self.0.lock().remove(&inode).unwrap_or_default() {
            if !Arc::ptr_eq(&other, dir) && !is_durable(&other, change) {
                state.sync_before(&other, change);
            }
        }
    }

    fn all(&self) -> Changes<B> {
        self.0.lock().values().flatten().cloned().collect()
    }

    /// Forgets what is durable, and what `synced` says is.
    fn forget(&self, synced: &[(Arc<Node<B>>, u64)]) {
        let is_synced = |dir: &Arc<Node<B>>, change: u64| {
            synced.iter().any(|(known, last)| Arc::ptr_eq(known, dir) && change <= *last)
        };
        let mut left = Vec::new();
        self.0.lock().retain(|_, dirs| {
            left.extend(dirs.extract_if(.., |(dir, change)| {
                is_durable(dir, *change) || is_synced(dir, *change)
            }));
            !dirs.is_empty()
        });
    }
}

impl<B: Backing> Store<B> {
    /// Makes the removals durable, so that they need not be remembered.
    pub(super) fn sync_gone_names(&self) {
        self.gone_names.forget(&[]);
        let left = self.gone_names.all();
        if left.is_empty() {
            return;
        }
        let removed =
            left.iter().any(|(dir, _)| dir.dir().is_ok_and(|body| body.state.lock().removed));
        let synced: Result<()> = if removed {
            // Nothing is left to sync of it but its own removal.
            self.core.sync_all_names()
        } else {
            self.sync_dirs(left.clone())
        };
        match synced {
            Ok(()) => self.gone_names.forget(&left),
            Err(error) => log::warn!("removed names are not durably gone: {}", chain(&error)),
        }
    }
}
