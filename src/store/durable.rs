//! The durability of names: of the path that leads to a file, and of many directories at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use log::warn;

use crate::backing::Backing;
use crate::format::EntryId;

use super::Store;
use super::error::{Attempt, Result, chain};
use super::node::{Home, Node};

/// From this many directories on one syncfs is cheaper than one fsync each.
const SYNC_ALL_DIRS: usize = 8;

/// Directories by id, each with the change that must become durable.
type Changes<B> = HashMap<EntryId, (Arc<Node<B>>, u64)>;

impl<B: Backing> Store<B> {
    /// The names that lead to `node` are durable on return, its own and those of all parents.
    pub(super) fn sync_path(&self, node: &Arc<Node<B>>) -> Result<()> {
        if node.file().is_ok() {
            self.sync_layer_names()?;
        }
        if node.has_names() {
            self.sync_inode_names()?;
            let recent = node.recent_names();
            for (dir, change) in &recent {
                dir.sync_names(&self.core, *change)?;
                self.sync_path(dir)?;
            }
            node.forget_recent(&recent);
            self.sync_moved_dirs()?;
        }
        let mut at = Arc::clone(node);
        while let Some((dir, change)) = name_of(&at) {
            dir.sync_names(&self.core, change)?;
            at = dir;
        }
        Ok(())
    }

    /// Notes that `node` moved natively, if it is a directory: names of files with several may be below it, known to nobody.
    pub(super) fn note_moved_dir(&self, node: &Arc<Node<B>>) {
        if node.dir().is_ok() {
            self.moved_dirs.lock().insert(node.id(), Arc::clone(node));
        }
    }

    /// The moves of all directories are durable on return.
    pub(super) fn sync_moved_dirs(&self) -> Result<()> {
        let moved: Vec<_> = self.moved_dirs.lock().values().cloned().collect();
        let mut changes = Changes::new();
        for (dir, change) in moved.iter().filter_map(name_of) {
            note(&mut changes, dir, change);
        }
        self.sync_dirs(changes.into_values().collect())?;
        // Those that moved again meanwhile stay.
        let may_move_back = |dir: &mut Arc<Node<B>>| {
            name_of(dir).is_some_and(|(parent, change)| !is_durable(&parent, change))
        };
        self.moved_dirs.lock().retain(|_, dir| may_move_back(dir));
        Ok(())
    }

    /// As [`Store::sync_path`] for many files: directories that many paths share are synced once, and many
    /// directories together.
    pub(super) fn sync_paths(&self, nodes: &[Arc<Node<B>>]) -> Result<()> {
        let mut changes = Changes::new();
        for node in nodes {
            let names = node.recent_names().into_iter().chain(name_of(node));
            for (dir, change) in names {
                note(&mut changes, dir, change);
            }
        }
        self.sync_layer_names()?;
        self.sync_inode_names()?;
        self.sync_dirs(changes.into_values().collect())?;
        if nodes.iter().any(|node| node.has_names()) { self.sync_moved_dirs() } else { Ok(()) }
    }

    /// Makes the changes of these directories durable, all at once where they are many.
    pub(super) fn sync_dirs(&self, mut dirs: Vec<(Arc<Node<B>>, u64)>) -> Result<()> {
        dirs.retain(|(dir, change)| dir.dir().is_ok_and(|body| body.names.upto() < *change));
        if dirs.len() >= SYNC_ALL_DIRS
            && self.core.backing.sync_all_is_sound()
            && let Err(error) = self.sync_dirs_together(&dirs)
        {
            warn!("directories are synced one by one: {}", chain(&error));
        }
        for (dir, change) in &dirs {
            dir.sync_names(&self.core, *change)?;
        }
        Ok(())
    }

    fn sync_dirs_together(&self, dirs: &[(Arc<Node<B>>, u64)]) -> Result<()> {
        // What is counted from here on may miss the sync.
        let mut covered = Vec::new();
        for (dir, _) in dirs {
            let body = dir.dir()?;
            let state = body.state.lock();
            covered.push((body.names.latest(), state.sync_first.clone()));
        }
        self.core.sync_all_names()?;
        for ((dir, _), (latest, first)) in dirs.iter().zip(&covered) {
            dir.dir()?.names.cover(*latest);
            dir.forget_durable(first);
        }
        Ok(())
    }

    /// The names of files that have several, and of their stubs.
    pub(super) fn sync_inode_names(&self) -> Result<()> {
        let upto = self.inode_names.latest();
        if self.inode_names.upto() >= upto {
            return Ok(());
        }
        self.core.touch()?;
        self.inode_names.sync(upto, |has_departures| {
            let synced = self.core.sync_dir(&self.core.inodes, has_departures);
            synced.attempt("sync .akasha/inodes")
        })
    }

    /// The names of older layers that exchanges made.
    pub(super) fn sync_layer_names(&self) -> Result<()> {
        let upto = self.layer_names.latest();
        if self.layer_names.upto() >= upto {
            return Ok(());
        }
        self.core.touch()?;
        self.layer_names.sync(upto, |has_departures| {
            self.core.sync_dir(&self.core.layers, has_departures).attempt("sync the layers")
        })
    }
}

/// Adds a change of names, and those that lead to the directory.
fn note<B: Backing>(changes: &mut Changes<B>, dir: Arc<Node<B>>, change: u64) {
    let mut next = Some((dir, change));
    while let Some((dir, change)) = next {
        match changes.entry(dir.id()) {
            Entry::Vacant(entry) => entry.insert((Arc::clone(&dir), change)),
            Entry::Occupied(mut entry) => {
                // Whoever came this way before has noted all parents.
                entry.get_mut().1 = change.max(entry.get().1);
                return;
            }
        };
        next = name_of(&dir);
    }
}

/// The directory that the backing entry of `node` is in, and the change that put it there.
fn name_of<B: Backing>(node: &Arc<Node<B>>) -> Option<(Arc<Node<B>>, u64)> {
    let place = node.place.lock();
    match &place.home {
        Home::Tree(spot) => Some((Arc::clone(&spot.dir), place.link_seq)),
        _ => None,
    }
}

/// Whether the names of `dir` are known to be durable as of `change`.
pub(super) fn is_durable<B: Backing>(dir: &Node<B>, change: u64) -> bool {
    dir.dir().is_ok_and(|body| body.names.upto() >= change)
}

/// Whether every name that leads to `dir` is known to be durable.
pub(super) fn has_durable_path<B: Backing>(dir: &Arc<Node<B>>) -> bool {
    let mut at = Arc::clone(dir);
    while let Some((parent, change)) = name_of(&at) {
        if !is_durable(&parent, change) {
            return false;
        }
        at = parent;
    }
    true
}
