//! Removal, deferred: what died by a change of names goes once that change is durable.

use std::collections::HashSet;
use std::sync::Arc;

use crate::backing::Backing;
use crate::format::{BackingName, EntryId, EntryKind};

use super::Store;
use super::dir::{DirState, Doom, Doomed, left_behind};
use super::error::{Attempt, Result};
use super::node::{Node, TreeSpot};
use super::tree::{TRIES, remove_empty_dir};

impl<B: Backing> Store<B> {
    /// Does what is due in a directory: syncs it and removes what died by now durable changes.
    pub(super) fn settle(&self, dir: &Arc<Node<B>>) -> Result<()> {
        let body = dir.dir()?;
        let mut first = true;
        // Removing an entry may leave a sidecar or layers, which wait for the removal in turn.
        for _ in 0..TRIES {
            let latest = {
                let state = body.state.lock();
                let waits = !state.doomed.is_empty() || (first && state.remembers());
                if !waits || state.removed {
                    break;
                }
                body.names.latest()
            };
            first = false;
            dir.sync_names(&self.core, latest)?;
            self.sync_inode_names()?;
            let mut state = body.state.lock();
            if state.removed {
                break;
            }
            let upto = body.names.upto();
            let mut seen: HashSet<Box<[u8]>> = HashSet::new();
            let mut due = Vec::new();
            for doomed in std::mem::take(&mut state.doomed) {
                let is_entry = matches!(doomed.what, Doom::Entry { .. });
                // Of two dead entries of one name the later one hides the earlier one: the earlier
                // must be gone for good before.
                if doomed.change > upto || (is_entry && seen.contains(&doomed.name)) {
                    state.doomed.push(doomed);
                    continue;
                }
                if is_entry {
                    seen.insert(doomed.name.clone());
                }
                due.push(doomed);
            }
            if due.is_empty() {
                continue;
            }
            if let Err(error) = dir.hold_times(&self.core, &mut state) {
                state.doomed.splice(..0, due);
                return Err(error);
            }
            self.touched.lock().push(Arc::clone(dir));
            let (mut failed, mut stay) = (None, Vec::new());
            for doomed in due {
                let removed = self.with_reserve(|| self.remove_doomed(dir, &mut state, &doomed));
                if let Err(error) = removed {
                    stay.push(doomed);
                    failed = Some(error);
                }
            }
            // Their successors must not leave the names before they are gone: they are first again.
            state.doomed.splice(..0, stay);
            drop(state);
            if let Some(error) = failed {
                self.restore_touched();
                return Err(error);
            }
        }
        self.restore_touched();
        // Under the lock: what is doomed from now on counts the directory in again.
        let state = body.state.lock();
        if state.removed || (state.doomed.is_empty() && !state.remembers()) {
            self.queue.settled(dir.id());
        }
        drop(state);
        Ok(())
    }

    /// Removes one dead object.
    ///
    /// # Errors
    /// If it is an entry and stays: it still owns its name. What else stays is garbage that nobody sees.
    fn remove_doomed(
        &self,
        dir: &Arc<Node<B>>,
        state: &mut DirState<B>,
        doomed: &Doomed,
    ) -> Result<()> {
        let core = &self.core;
        let done = match &doomed.what {
            Doom::Entry { id, kind, backing } => {
                match self.remove_dead(dir, state, &doomed.name, *id, *kind, backing) {
                    // Somebody else removed it; or it is elsewhere, and may come back.
                    Err(error) if error.is_missing() => {
                        left_behind("a replaced entry that is not where it was", &error);
                        return Ok(());
                    }
                    removed => return removed,
                }
            }
            Doom::Sidecar(name) => dir
                .dir_fd(core)
                .and_then(|fd| core.backing.unlink(&fd, name).attempt("remove a sidecar")),
            Doom::AllLayers(entry) => self.remove_layers(*entry, None),
            Doom::Inode(inode) => self.remove_inode(*inode),
            Doom::Sides(entry) => self.core.remove_sides(*entry),
            Doom::Layers(entry, ids) => self.remove_layers(*entry, Some(ids)),
        };
        match done {
            Err(error) if !error.is_missing() => left_behind("a replaced object", &error),
            _ => {}
        }
        Ok(())
    }

    fn remove_dead(
        &self,
        dir: &Arc<Node<B>>,
        state: &mut DirState<B>,
        name: &[u8],
        id: EntryId,
        kind: EntryKind,
        backing: &BackingName,
    ) -> Result<()> {
        let core = &self.core;
        let fd = dir.dir_fd(core)?;
        if kind == EntryKind::Dir {
            remove_empty_dir(core, &fd, &backing.name)?;
        } else {
            let spot = TreeSpot { dir: Arc::clone(dir), name: name.into(), replaces: None };
            let live = self.living_at(id, &spot);
            let buried = live.as_ref().map(|node| (node, node.bury(core)));
            if let Some((node, None)) = buried {
                self.make_ghost(node, dir, state, &backing.name)?;
            } else {
                let layered = self.takes_layers_along(&fd, &backing.name, id, kind, live.as_ref());
                let sided = self.takes_sides_along(&fd, &backing.name, id, live.as_ref());
                let removed = self.unlink_entry(state, &fd, &backing.name, id);
                match (buried, removed.is_ok()) {
                    (Some((node, Some(home))), false) => node.unbury(home),
                    (Some((node, _)), true) => self.discard(node),
                    _ => {}
                }
                removed.attempt("remove a replaced file")?;
                if layered {
                    let change = dir.dir()?.names.latest() + 1;
                    self.doom(dir, state, change, name, Doom::AllLayers(id));
                }
                if sided {
                    let change = dir.dir()?.names.latest() + 1;
                    self.doom(dir, state, change, name, Doom::Sides(id));
                }
            }
        }
        let change = dir.dir()?.names.count_departure();
        state.buried.insert(name.into(), change);
        if let Some(inode) = state.take_link(id) {
            self.name_removed(inode, dir, state, change);
        }
        if let Some(sidecar) = &backing.sidecar {
            self.doom(dir, state, change, name, Doom::Sidecar(sidecar.name.clone()));
        }
        Ok(())
    }

    /// Removes older layers of a file: all of them, or these.
    pub(super) fn remove_layers(
        &self,
        entry: EntryId,
        only: Option<&[crate::format::ObjectId]>,
    ) -> Result<()> {
        let core = &self.core;
        let names: Vec<Vec<u8>> = match only {
            Some(ids) => ids.iter().map(|id| crate::format::layer_file_name(entry, *id)).collect(),
            None => core
                .backing
                .list(&core.layers)
                .attempt("read the layers")?
                .into_iter()
                .map(|raw| raw.name)
                .filter(|name| {
                    crate::format::parse_layer_file_name(name).is_some_and(|(of, _)| of == entry)
                })
                .collect(),
        };
        for name in names {
            match core.backing.unlink(&core.layers, &name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).attempt("remove an older layer");
                }
                _ => {}
            }
        }
        Ok(())
    }
}
