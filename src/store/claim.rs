//! Who may take a name, and when an entry may leave one: what was there before must not come back, whatever a cut leaves.

use std::sync::Arc;

use crate::backing::Backing;
use crate::format::{EntryId, EntryKind};

use super::Store;
use super::dir::{DirState, Doom, Doomed, Under, Vacated, VacatedBy};
use super::node::Node;
use super::tree::Blocked;

/// The right to put a backing entry under a plaintext name.
pub(super) struct Claim {
    /// Whom the new entry says that it replaces.
    pub replaces: Option<EntryId>,
    /// The committed entry that dies by it.
    pub dies: Option<(EntryId, EntryKind, Option<EntryId>)>,
}

impl<B: Backing> Store<B> {
    /// The right to `name` in `dir`, or what must be done before anybody can have it.
    pub(super) fn claim(
        &self,
        dir: &Arc<Node<B>>,
        state: &mut DirState<B>,
        name: &[u8],
    ) -> std::result::Result<Claim, Blocked<B>> {
        let claim = claim(dir, state, name)?;
        // Of three in a row a cut could take the middle one, and nobody would say that the first is dead.
        if claim.dies.is_some()
            && !self.core.backing.keeps_name_order()
            && let Some(blocked) = must_bury(dir, state, name)
        {
            return Err(blocked);
        }
        match claim.dies.and_then(|(dead, ..)| self.must_keep(state, dead)) {
            Some(blocked) => Err(blocked),
            None => Ok(claim),
        }
    }

    /// What must be done before the backing entry `id` of `name` may be removed.
    pub(super) fn must_precede(
        &self,
        dir: &Arc<Node<B>>,
        state: &DirState<B>,
        name: &[u8],
        id: EntryId,
    ) -> Option<Blocked<B>> {
        must_bury(dir, state, name).or_else(|| self.must_keep(state, id))
    }
}

/// What must be done before the entry of `name` may leave it: an entry that it replaced must be gone, durably, or it
/// would come back.
pub(super) fn must_bury<B: Backing>(
    dir: &Arc<Node<B>>,
    state: &DirState<B>,
    name: &[u8],
) -> Option<Blocked<B>> {
    let is_dead =
        |doomed: &Doomed| *doomed.name == *name && matches!(doomed.what, Doom::Entry { .. });
    if state.doomed.iter().any(is_dead) {
        return Some(Blocked::Settle(Arc::clone(dir)));
    }
    let upto = dir.dir().map_or(0, |body| body.names.upto());
    let buried = state.buried.get(name).filter(|change| **change > upto);
    buried.map(|change| Blocked::Sync(Arc::clone(dir), *change))
}

/// The right to `name` in `dir`, or what must be done before anybody can have it, whoever dies by it.
fn claim<B: Backing>(
    dir: &Arc<Node<B>>,
    state: &mut DirState<B>,
    name: &[u8],
) -> std::result::Result<Claim, Blocked<B>> {
    match state.under.get(name) {
        Some(Under::MovedAway(node)) => return Err(Blocked::Commit(Arc::clone(node))),
        Some(Under::Replaced { id, kind, replaces }) => {
            return Ok(Claim { replaces: Some(*id), dies: Some((*id, *kind, *replaces)) });
        }
        None => {}
    }
    let upto = dir.dir().map_or(0, |body| body.names.upto());
    match state.vacated.get(name).filter(|vacated| vacated.change > upto) {
        Some(Vacated { by: VacatedBy::Removed(id), .. }) => {
            Ok(Claim { replaces: Some(*id), dies: None })
        }
        Some(Vacated { by: VacatedBy::Moved, change }) => {
            Err(Blocked::Sync(Arc::clone(dir), *change))
        }
        None => Ok(Claim { replaces: None, dies: None }),
    }
}
