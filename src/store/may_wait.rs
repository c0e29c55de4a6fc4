//! What an event loop asks before it changes names itself: whether that may have to wait for a scan, a sync or a commit. A
//! yes that turns out to be needless costs a change of threads; a no must hold, but for what others do meanwhile.

use std::sync::Arc;

use crate::backing::Backing;
use crate::format::{EntryId, EntryKind};

use super::Store;
use super::dir::VacatedBy;
use super::dirmap::MapEntry;
use super::durable::has_durable_path;
use super::node::{Home, Node};
use super::rename::{MoveNow, may_move_now};
use super::tree::check_empty;

/// What a directory shows under a name, looked at without waiting.
struct Glance {
    entry: MapEntry,
    /// The file: of a name of several another than the entry.
    file: EntryId,
    /// It moved here in the mount, and is to leave another place.
    is_away: bool,
    /// It is sealed under another name than the one that is shown.
    is_conflict: bool,
}

/// `Err` if somebody has the directory, or it was not read yet.
fn glance<B: Backing>(dir: &Arc<Node<B>>, name: &[u8]) -> Result<Option<Glance>, ()> {
    let state = dir.dir().map_err(drop)?.state.try_lock().ok_or(())?;
    let Some(entry) = state.map.as_ref().ok_or(())?.get(name) else { return Ok(None) };
    let is_away = |node: &Arc<Node<B>>| matches!(node.place.lock().home, Home::Tree(_));
    Ok(Some(Glance {
        entry,
        file: state.links.get(&entry.id).copied().unwrap_or(entry.id),
        is_away: state.pending.get(&entry.id).is_some_and(is_away),
        is_conflict: state.sealed_as.contains_key(&entry.id),
    }))
}

impl<B: Backing> Store<B> {
    /// Whether names of `dir` can be changed without waiting for a scan or a sync.
    pub fn is_settled(&self, dir: &Arc<Node<B>>) -> bool {
        let Ok(body) = dir.dir() else { return true };
        let Some(state) = body.state.try_lock() else { return false };
        state.map.is_some()
            && state.doomed.is_empty()
            && state.buried.is_empty()
            && state.under.is_empty()
            && state.vacated.values().all(|vacated| vacated.by != VacatedBy::Moved)
    }

    /// Whether [`Store::unlink`] of this name may have to wait.
    pub fn unlink_may_wait(&self, dir: &Arc<Node<B>>, name: &[u8]) -> bool {
        if !self.is_settled(dir) {
            return true;
        }
        match glance(dir, name) {
            Err(()) => true,
            Ok(None) => false,
            // Of a file with other names one must be durable; what is to move here leaves a directory that may not be settled.
            Ok(Some(seen)) => seen.file != seen.entry.id || seen.is_away,
        }
    }

    /// Whether [`Store::rmdir`] of this name may have to wait.
    pub fn rmdir_may_wait(&self, dir: &Arc<Node<B>>, name: &[u8]) -> bool {
        if !self.is_settled(dir) {
            return true;
        }
        match glance(dir, name) {
            Err(()) => true,
            Ok(Some(seen)) if seen.entry.kind == EntryKind::Dir => {
                !self.is_plainly_empty_or_full(&seen)
            }
            Ok(_) => false,
        }
    }

    /// Whether nothing has to be done to tell that a directory is empty, or that it is not.
    fn is_plainly_empty_or_full(&self, seen: &Glance) -> bool {
        let Some(node) = self.nodes.get(seen.entry.id) else { return false };
        let Ok(body) = node.dir() else { return true };
        let Some(state) = body.state.try_lock() else { return false };
        state.map.is_some() && !matches!(check_empty(&node, &state), Ok(Some(_)))
    }

    /// Whether [`Store::rename`] of these names, without flags, may have to wait.
    pub fn rename_may_wait(
        &self,
        dir: &Arc<Node<B>>,
        name: &[u8],
        to_dir: &Arc<Node<B>>,
        to_name: &[u8],
    ) -> bool {
        if !self.is_settled(dir) || !self.is_settled(to_dir) {
            return true;
        }
        if !Arc::ptr_eq(dir, to_dir) && !has_durable_path(to_dir) {
            return true;
        }
        if self.layer_names.upto() < self.layer_names.latest() {
            return true;
        }
        let (Ok(source), Ok(target)) = (glance(dir, name), glance(to_dir, to_name)) else {
            return true;
        };
        let Some(source) = source else { return false };
        // An empty directory that is replaced must be scanned, of a file with other names one must be durable, and others leave
        // their places first.
        let may_block = |target: &Glance| {
            target.entry.kind == EntryKind::Dir
                || target.file != target.entry.id
                || target.is_away
                || target.is_conflict
        };
        if target.as_ref().is_some_and(may_block) {
            return true;
        }
        // An exchange lets no directory move.
        if source.entry.kind == EntryKind::Dir {
            return self.exchanges.is_locked_exclusive();
        }
        // A changed file that replaces is committed.
        source.entry.published
            && self
                .nodes
                .get(source.file)
                .is_some_and(|node| matches!(may_move_now(&node, true), MoveNow::AfterCommit))
    }
}
