//! Renaming: natively where what moves is committed, in memory where it is not; and the exchange of two names.

use std::sync::Arc;

use crate::backing::{At, Backing, RenameMode};
use crate::format::{EntryId, EntryKind, LengthClass};

use super::claim::{Claim, must_bury};
use super::commit::Take;
use super::dir::{DirState, Doom, Under, VacatedBy, left_behind};
use super::dirmap::MapEntry;
use super::durable::has_durable_path;
use super::error::{Attempt, Result, StoreError};
use super::names::must_appear;
use super::node::{Body, Home, Link, Node, TreeSpot};
use super::tree::{Blocked, Locked, TRIES, Tried, check_empty, check_name, clone_home};
use super::{RenameFlags, Store};

impl<B: Backing> Store<B> {
    /// Renames. One atomic step in the mount; after a power cut the target is the old or the new
    /// one, whole.
    pub fn rename(
        &self,
        dir: &Arc<Node<B>>,
        name: &[u8],
        to_dir: &Arc<Node<B>>,
        to_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        self.check_change(name)?;
        check_name(to_name)?;
        self.keep_shown_name(to_dir, to_name)?;
        if flags == RenameFlags::Exchange {
            self.keep_shown_name(dir, name)?;
            // Not with the reserve: done twice it would be undone, and its last steps are syncs.
            self.exchange(dir, name, to_dir, to_name)?;
            self.note_moved(dir, name);
            self.note_moved(to_dir, to_name);
            return Ok(());
        }
        let no_replace = flags == RenameFlags::NoReplace;
        let whiteout = match flags {
            RenameFlags::Whiteout(new) => {
                Some(self.with_reserve(|| self.new_whiteout(dir, name, &new))?)
            }
            _ => None,
        };
        let left = whiteout.as_ref();
        let rename = || self.try_rename(dir, name, to_dir, to_name, no_replace, left);
        let done = self.with_reserve(|| self.try_until(rename));
        if done.is_ok() {
            self.note_moved(to_dir, to_name);
        }
        if let Some(whiteout) = &whiteout {
            self.finish_whiteout(whiteout, done.is_ok(), dir, to_dir)?;
        }
        done
    }

    /// Renames; `left` is what takes the old name in the same step.
    fn try_rename(
        &self,
        dir: &Arc<Node<B>>,
        name: &[u8],
        to_dir: &Arc<Node<B>>,
        to_name: &[u8],
        no_replace: bool,
        left: Option<&Arc<Node<B>>>,
    ) -> Result<Tried<B, ()>> {
        let source = self.lock_dir(dir)?.map().get(name);
        let stays = source
            .filter(|source| source.kind == EntryKind::Dir)
            .map(|source| (source, self.exchanges.read()));
        // A directory that is replaced must be known to be empty: it is locked on its own, before.
        if let Some((source, _)) = &stays
            && !no_replace
            && let Some(blocked) = self.prepare_target(source.id, to_dir, to_name)?
        {
            return Ok(Tried::Blocked(blocked));
        }
        let mut locked = Locked::lock(self, dir, to_dir)?;
        let source = locked.of(dir).map().get(name).ok_or(StoreError::NotFound)?;
        if source.kind == EntryKind::Dir && stays.is_none() {
            return Ok(Tried::Blocked(Blocked::Again));
        }
        let target = locked.of(to_dir).map().get(to_name);
        if target.is_some() && no_replace {
            return Err(StoreError::AlreadyExists);
        }
        let of = |locked: &mut Locked<'_, B>, dir: &Arc<Node<B>>, entry: MapEntry| {
            locked.of(dir).links.get(&entry.id).copied().unwrap_or(entry.id)
        };
        let inode = of(&mut locked, dir, source);
        if target.is_some_and(|target| of(&mut locked, to_dir, target) == inode) {
            return Ok(Tried::Done(()));
        }
        if source.damaged || target.is_some_and(|target| target.damaged) {
            return Err(StoreError::NotSupported);
        }
        match target.map(|target| target.kind == EntryKind::Dir) {
            Some(true) if source.kind != EntryKind::Dir => return Err(StoreError::IsADirectory),
            Some(false) if source.kind == EntryKind::Dir => return Err(StoreError::NotADirectory),
            _ => {}
        }
        let node = self.node_of(dir, locked.of(dir), name, &source)?;
        // A pending entry that covers a committed one may not leave it bare: commit it here first. If what it covers only waits
        // to move out, that one goes, or a file of which the kernel has handed over nothing yet would appear empty.
        if !source.published
            && let Some(under) = locked.of(dir).under.get(name)
        {
            let first = if let Under::MovedAway(other) = under { other } else { &node };
            return Ok(Tried::Blocked(Blocked::Commit(Arc::clone(first))));
        }
        // What is replaced must be where it is replaced, or its old place would be vacated before its successor is there.
        if let Some(target) = target
            && let Some(node) = locked.of(to_dir).pending.get(&target.id)
            && node.place.lock().away
        {
            return Ok(Tried::Blocked(Blocked::Commit(Arc::clone(node))));
        }
        // While a name of a file waits, one that is published is shown: hidden behind names that wait themselves, they would wait
        // for each other.
        if let Some(target) = target.filter(|target| target.published)
            && let Some(blocked @ (Blocked::Commit(_) | Blocked::Unknown(_))) =
                self.must_keep(locked.of(to_dir), target.id)
        {
            return Ok(Tried::Blocked(blocked));
        }
        if let Some(name) = must_appear(locked.of(to_dir), to_name) {
            return Ok(Tried::Blocked(Blocked::Commit(name)));
        }
        // Whoever still has the target's backing name moves out first, or two could wait for each other.
        if let Some(Under::MovedAway(other)) = locked.of(to_dir).under.get(to_name) {
            return Ok(Tried::Blocked(Blocked::Commit(Arc::clone(other))));
        }
        let native = if source.published {
            let covers = target.is_some_and(|target| target.published)
                || locked.of(to_dir).under.contains_key(to_name);
            match may_move_now(&node, covers) {
                MoveNow::Yes => true,
                MoveNow::AfterCommit => return Ok(Tried::Blocked(Blocked::Commit(node))),
                MoveNow::WithCommit => false,
            }
        } else {
            false
        };
        let done = if native {
            self.rename_natively(&mut locked, &node, dir, name, to_dir, to_name, target)?
        } else {
            self.rename_in_memory(&mut locked, &node, dir, name, to_dir, to_name, target)?;
            Tried::Done(())
        };
        if let (Tried::Done(()), Some(left)) = (&done, left) {
            self.show_pending(locked.of(dir), name, left);
        }
        Ok(done)
    }

    /// What must be done before the directory `source` may replace one.
    fn prepare_target(
        &self,
        source: EntryId,
        to_dir: &Arc<Node<B>>,
        to_name: &[u8],
    ) -> Result<Option<Blocked<B>>> {
        let target = {
            let state = self.lock_dir(to_dir)?;
            match state.map().get(to_name) {
                Some(entry) if entry.kind == EntryKind::Dir && entry.id != source => {
                    self.node_of(to_dir, &state, to_name, &entry)?
                }
                _ => return Ok(None),
            }
        };
        let state = self.lock_dir(&target)?;
        must_clear(&target, &state)
    }

    #[allow(clippy::too_many_arguments)]
    fn rename_natively(
        &self,
        locked: &mut Locked<'_, B>,
        node: &Arc<Node<B>>,
        dir: &Arc<Node<B>>,
        name: &[u8],
        to_dir: &Arc<Node<B>>,
        to_name: &[u8],
        target: Option<MapEntry>,
    ) -> Result<Tried<B, ()>> {
        // A directory that is replaced is a third one to lock, in no order with the two: not waited for.
        let replaced = target
            .filter(|target| target.published && target.kind == EntryKind::Dir)
            .map(|target| self.node_of(to_dir, locked.of(to_dir), to_name, &target))
            .transpose()?;
        let mut replaced_state = None;
        if let Some(node) = &replaced {
            let Some(mut state) = node.dir()?.state.try_lock() else {
                return Ok(Tried::Blocked(Blocked::Again));
            };
            node.ensure_loaded(&self.core, &mut state)?;
            if let Some(blocked) = must_clear(node, &state)? {
                return Ok(Tried::Blocked(blocked));
            }
            replaced_state = Some(state);
        }
        // The target's own backing entry is what the claim replaces.
        if let Some(target) = target.filter(|target| target.published) {
            let to = locked.of(to_dir);
            let replaces = to.replaces.get(to_name).copied();
            let under = Under::Replaced { id: target.id, kind: target.kind, replaces };
            to.under.insert(to_name.into(), under);
        }
        let moved = self.move_home(locked, node, to_dir, to_name);
        if target.is_some_and(|target| target.published) && !matches!(moved, Ok(Tried::Done(()))) {
            locked.of(to_dir).under.remove(to_name);
        }
        match moved? {
            Tried::Blocked(blocked) => return Ok(Tried::Blocked(blocked)),
            Tried::Done(()) => {}
        }
        if let Some(state) = &mut replaced_state {
            // Nobody may put anything into it any more.
            state.removed = true;
        }
        if let Some(target) = target {
            self.target_replaced(locked, to_dir, to_name, target)?;
        }
        locked.of(dir).map_mut().remove(name);
        let entry = MapEntry { id: node.id(), kind: node.kind(), published: true, damaged: false };
        locked.of(to_dir).map_mut().insert(to_name, entry);
        node.place.lock().link = Some(Link { dir: Arc::clone(to_dir), name: to_name.into() });
        self.changed_names(locked.of(dir));
        self.changed_names(locked.of(to_dir));
        Ok(Tried::Done(()))
    }

    /// Book-keeping for an entry of the mount whose name was given to another.
    fn target_replaced(
        &self,
        locked: &mut Locked<'_, B>,
        to_dir: &Arc<Node<B>>,
        to_name: &[u8],
        target: MapEntry,
    ) -> Result<()> {
        if target.published {
            if let Some(node) = self.nodes.get(target.id) {
                node.place.lock().link = None;
            }
            self.name_hidden(locked.of(to_dir), target.id);
        } else if let Some(node) = locked.of(to_dir).pending.get(&target.id).cloned() {
            self.drop_pending(to_dir, locked.of(to_dir), &node)?;
        }
        let _ = to_name;
        Ok(())
    }

    /// Moves a published node's backing entry to a name of `to_dir`, natively; both directories are locked.
    pub(super) fn move_home(
        &self,
        locked: &mut Locked<'_, B>,
        node: &Arc<Node<B>>,
        to_dir: &Arc<Node<B>>,
        to_name: &[u8],
    ) -> Result<Tried<B, ()>> {
        let core = &self.core;
        let Home::Tree(from) = clone_home(node) else { return Err(StoreError::NotFound) };
        if let Some(blocked) = must_bury(&from.dir, locked.of(&from.dir), &from.name) {
            return Ok(Tried::Blocked(blocked));
        }
        // Or a cut could keep the move and lose the directory that it went into.
        if !Arc::ptr_eq(&from.dir, to_dir) && !has_durable_path(to_dir) {
            return Ok(Tried::Blocked(Blocked::Path(Arc::clone(to_dir))));
        }
        let (from_fd, to_fd) = (from.dir.dir_fd(core)?, to_dir.dir_fd(core)?);
        let old = node.entry_at(core, &from);
        // Nor may it keep what moves and lose the name of a layer below.
        if self.layer_names.upto() < self.layer_names.latest() {
            let stat = core.backing.stat(&from_fd, At::Name(&old.name)).attempt("stat a file")?;
            let has_layers = core.geometry.classify(stat.len) == LengthClass::Mapped;
            if node.kind() == EntryKind::File && has_layers {
                return Ok(Tried::Blocked(Blocked::Layers));
            }
        }
        let claim = match self.claim(to_dir, locked.of(to_dir), to_name) {
            Ok(claim) => claim,
            Err(blocked) => return Ok(Tried::Blocked(blocked)),
        };
        let to =
            TreeSpot { dir: Arc::clone(to_dir), name: to_name.into(), replaces: claim.replaces };
        let new = node.entry_at(core, &to);
        self.ensure_sidecar(to_dir, &to_fd, locked.of(to_dir), &new)?;
        core.backing
            .rename(&from_fd, &old.name, &to_fd, &new.name, RenameMode::NoReplace)
            .attempt("rename")?;
        let left = from.dir.dir()?.names.count_departure();
        let change = to_dir.dir()?.names.count();
        {
            let mut place = node.place.lock();
            place.home = Home::Tree(to);
            place.link_seq = change;
            place.away = false;
        }
        self.note_rescue(node);
        self.note_moved_dir(node);
        if !Arc::ptr_eq(&from.dir, to_dir) {
            // btrfs would otherwise show the entry in both after a power cut, or in none.
            locked.of(to_dir).sync_before(&from.dir, left);
        }
        let state = locked.of(&from.dir);
        // Kept by the name that is shown, which is not the sealed one for the second of two with one name.
        match (state.sealed_as.remove(&node.id()), node.place.lock().link.as_ref()) {
            (Some(_), Some(shown)) => state.replaces.remove(&shown.name),
            _ => state.replaces.remove(&from.name),
        };
        let inode = state.take_link(node.id());
        self.vacate(state, &from, old, left, VacatedBy::Moved);
        if let Some(inode) = inode {
            locked.of(to_dir).links.insert(node.id(), inode);
            self.note_recent(node, to_dir, change);
        }
        self.claimed(locked.of(to_dir), to_dir, to_name, &claim, change);
        Ok(Tried::Done(()))
    }

    /// Book-keeping after a claim was used: what died by it goes once that is durable.
    pub(super) fn claimed(
        &self,
        state: &mut DirState<B>,
        dir: &Arc<Node<B>>,
        name: &[u8],
        claim: &Claim,
        change: u64,
    ) {
        state.take_vacated(name);
        match claim.replaces {
            Some(replaced) => state.replaces.insert(name.into(), replaced),
            None => state.replaces.remove(name),
        };
        if let Some((dead, kind, replaces)) = claim.dies {
            state.under.remove(name);
            let spot = TreeSpot { dir: Arc::clone(dir), name: name.into(), replaces };
            let backing = state.backing_name(&self.core, &spot, dead, kind);
            self.doom(dir, state, change, name, Doom::Entry { id: dead, kind, backing });
        }
    }

    /// Renames a node whose backing entry stays where it is until it is committed.
    #[allow(clippy::too_many_arguments)]
    fn rename_in_memory(
        &self,
        locked: &mut Locked<'_, B>,
        node: &Arc<Node<B>>,
        dir: &Arc<Node<B>>,
        name: &[u8],
        to_dir: &Arc<Node<B>>,
        to_name: &[u8],
        target: Option<MapEntry>,
    ) -> Result<()> {
        if let Some(target) = target {
            if target.published {
                let to = locked.of(to_dir);
                let replaces = to.replaces.get(to_name).copied();
                let under = Under::Replaced { id: target.id, kind: target.kind, replaces };
                to.under.insert(to_name.into(), under);
            }
            self.target_replaced(locked, to_dir, to_name, target)?;
        }
        let now = self.core.now();
        let was = locked.of(dir).map_mut().remove(name);
        if was.is_some_and(|entry| entry.published) {
            node.place.lock().away = true;
            locked.of(dir).under.insert(name.into(), Under::MovedAway(Arc::clone(node)));
        }
        let from = locked.of(dir);
        from.pending.remove(&node.id());
        let inode = from.links.get(&node.id()).copied();
        // Its backing entry, which says of which file it is, may still be here, under this name or an earlier one.
        if !matches!(&node.place.lock().home, Home::Tree(spot) if Arc::ptr_eq(&spot.dir, dir)) {
            from.take_link(node.id());
        }
        let entry = MapEntry { id: node.id(), kind: node.kind(), published: false, damaged: false };
        let to = locked.of(to_dir);
        if let Some(inode) = inode {
            to.links.insert(node.id(), inode);
            node.note_waits();
        }
        to.map_mut().insert(to_name, entry);
        to.pending.insert(node.id(), Arc::clone(node));
        to.times = Some((now, now));
        locked.of(dir).times = Some((now, now));
        self.touched.lock().push(Arc::clone(dir));
        node.place.lock().link = Some(Link { dir: Arc::clone(to_dir), name: to_name.into() });
        self.queue.add(node);
        Ok(())
    }

    /// Swaps two names. A small synced intent makes the two native renames one step.
    fn exchange(
        &self,
        dir: &Arc<Node<B>>,
        name: &[u8],
        to_dir: &Arc<Node<B>>,
        to_name: &[u8],
    ) -> Result<()> {
        let mut is_taken = self.exchanges.write();
        if *is_taken {
            return Err(StoreError::Io {
                what: "exchange names after an exchange that could not be synced",
                source: std::io::Error::from_raw_os_error(libc::EIO),
            });
        }
        for _ in 0..TRIES {
            // Both must be where the backing tree shows them.
            let (a, b) = (self.lookup_name(dir, name)?, self.lookup_name(to_dir, to_name)?);
            if a.inode().id() == b.inode().id() {
                return Ok(());
            }
            if matches!(a.body, Body::Damaged) || matches!(b.body, Body::Damaged) {
                return Err(StoreError::NotSupported);
            }
            for node in [&a, &b] {
                self.commit(std::slice::from_ref(node), Take::All)?;
                // With all that leads to it: the intent names the directories by their paths, which a cut must leave.
                self.sync_path(node.inode())?;
            }
            for dir in [dir, to_dir] {
                self.settle(dir)?;
            }
            let mut locked = Locked::lock(self, dir, to_dir)?;
            let here = locked.of(dir).map().get(name);
            let there = locked.of(to_dir).map().get(to_name);
            let (Some(here), Some(there)) = (here, there) else { continue };
            // What settling removed is gone for good, or it could come back under a name that its successor left: else once more.
            let mut is_bare = |dir: &Arc<Node<B>>, name: &[u8]| {
                let state = locked.of(dir);
                !state.under.contains_key(name) && must_bury(dir, state, name).is_none()
            };
            let bare = is_bare(dir, name) && is_bare(to_dir, to_name);
            if here.id != a.id()
                || there.id != b.id()
                || !here.published
                || !there.published
                || !bare
            {
                continue;
            }
            return self.exchange_locked(&mut locked, &a, &b, &mut is_taken);
        }
        Err(StoreError::Io {
            what: "exchange two names that keep changing",
            source: std::io::Error::from_raw_os_error(libc::EAGAIN),
        })
    }

    fn exchange_locked(
        &self,
        locked: &mut Locked<'_, B>,
        a: &Arc<Node<B>>,
        b: &Arc<Node<B>>,
        intent_is_taken: &mut bool,
    ) -> Result<()> {
        let core = &self.core;
        let (Home::Tree(from), Home::Tree(to)) = (clone_home(a), clone_home(b)) else {
            return Err(StoreError::NotFound);
        };
        let a_new = TreeSpot { dir: Arc::clone(&to.dir), name: to.name.clone(), replaces: None };
        let b_new =
            TreeSpot { dir: Arc::clone(&from.dir), name: from.name.clone(), replaces: None };
        let names = [
            a.entry_at(core, &from),
            a.entry_at(core, &a_new),
            b.entry_at(core, &to),
            b.entry_at(core, &b_new),
        ];
        let (from_fd, to_fd) = (from.dir.dir_fd(core)?, to.dir.dir_fd(core)?);
        self.ensure_sidecar(&to.dir, &to_fd, locked.of(&to.dir), &names[1])?;
        self.ensure_sidecar(&from.dir, &from_fd, locked.of(&from.dir), &names[3])?;
        let intent = super::intent::Intent {
            from_path: self.backing_path(&from.dir),
            to_path: self.backing_path(&to.dir),
            a_old: names[0].name.clone(),
            a_new: names[1].name.clone(),
            b_old: names[2].name.clone(),
            b_new: names[3].name.clone(),
        };
        if let Err(error) = intent.write(core) {
            // It may have its name, and the next mount would do what was refused here.
            match super::intent::Intent::clear(core) {
                Err(stays) if !stays.is_missing() => left_behind("a refused exchange", &stays),
                _ => {}
            }
            return Err(error);
        }
        // Or the next mount would do what was refused here.
        let refused = |error| super::intent::Intent::clear(core).and(Err(error));
        let rename = |fd: &B::Dir, old: &[u8], fd2: &B::Dir, new: &[u8]| {
            core.backing.rename(fd, old, fd2, new, RenameMode::NoReplace).attempt("exchange names")
        };
        let sync_both = |intent_is_taken: &mut bool| -> Result<()> {
            for (dir, fd) in [(&from.dir, &from_fd), (&to.dir, &to_fd)] {
                let synced = core.backing.sync_dir(fd).attempt("sync a directory");
                if let Err(error) = synced {
                    dir.names_failed();
                    // The next mount finishes what a cut may leave of it.
                    *intent_is_taken = true;
                    return Err(error);
                }
            }
            Ok(())
        };
        rename(&from_fd, &names[0].name, &to_fd, &names[1].name).or_else(refused)?;
        if let Err(error) = rename(&to_fd, &names[2].name, &from_fd, &names[3].name) {
            if let Err(stays) = rename(&to_fd, &names[1].name, &from_fd, &names[0].name) {
                // The next mount finishes it.
                left_behind("half an exchange", &stays);
                *intent_is_taken = true;
                return Err(error);
            }
            // A cut could keep the first rename and lose the way back, and nobody would know what two of one name are.
            sync_both(intent_is_taken)?;
            return refused(error);
        }
        for (node, spot) in [(a, &a_new), (b, &b_new)] {
            // A name came to each directory, and one left.
            let change = spot.dir.dir()?.names.count_departure();
            let mut place = node.place.lock();
            place.home = Home::Tree(spot.clone());
            place.link = Some(Link { dir: Arc::clone(&spot.dir), name: spot.name.clone() });
            place.link_seq = change;
            drop(place);
            self.note_rescue(node);
            self.note_recent(node, &spot.dir, change);
        }
        for (node, old, new, at) in [(a, &from, &a_new, 0), (b, &to, &b_new, 2)] {
            let state = locked.of(&old.dir);
            state.replaces.remove(&old.name);
            state.sealed_as.remove(&node.id());
            if let Some(inode) = state.take_link(node.id()) {
                locked.of(&new.dir).links.insert(node.id(), inode);
            }
            let state = locked.of(&old.dir);
            if let Some(sidecar) = &names[at].sidecar {
                let change = old.dir.dir()?.names.latest();
                let doom = Doom::Sidecar(sidecar.name.clone());
                self.doom(&old.dir, state, change, &old.name, doom);
            }
            let entry =
                MapEntry { id: node.id(), kind: node.kind(), published: true, damaged: false };
            locked.of(&new.dir).map_mut().insert(&new.name, entry);
            self.changed_names(locked.of(&new.dir));
        }
        sync_both(intent_is_taken)?;
        super::intent::Intent::clear(core)
    }

    /// The backing names that lead from the vault to `dir`.
    fn backing_path(&self, dir: &Arc<Node<B>>) -> Vec<Vec<u8>> {
        let mut path = Vec::new();
        let mut at = Arc::clone(dir);
        while let Home::Tree(spot) = clone_home(&at) {
            path.push(at.sealed_name(&self.core, &spot));
            at = spot.dir;
        }
        path.reverse();
        path
    }
}

/// What must be done before the empty directory `target` may be replaced. Once it is dead nobody looks into it any more: what
/// was removed from it must not come back.
fn must_clear<B: Backing>(
    target: &Arc<Node<B>>,
    state: &DirState<B>,
) -> Result<Option<Blocked<B>>> {
    let blocked = check_empty(target, state)?;
    let names = &target.dir()?.names;
    let unsynced = names.upto() < names.latest();
    let sync = || Blocked::Sync(Arc::clone(target), names.latest());
    Ok(blocked.or_else(|| unsynced.then(sync)))
}

/// Whether a published node can be renamed natively, now.
pub(super) fn may_move_now<B: Backing>(node: &Arc<Node<B>>, replaces: bool) -> MoveNow {
    let Ok(body) = node.inode().file() else { return MoveNow::Yes };
    let state = body.state.read();
    match (state.is_dirty(), state.writers > 0) {
        // The new name must never show the version before the one that its writer completed.
        (true, false) => MoveNow::AfterCommit,
        (true, true) => MoveNow::WithCommit,
        // The kernel may hold pages of it that were written before the rename.
        (false, true) if replaces => MoveNow::WithCommit,
        (false, _) => MoveNow::Yes,
    }
}

pub(super) enum MoveNow {
    Yes,
    AfterCommit,
    WithCommit,
}
