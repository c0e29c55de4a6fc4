//! Rescue copies: what a directory's sealed name says, once more inside it, from which a repair gives the directory its name
//! back (FORMAT.md, "Rescue copies").
//!
//! They are written by the maintenance, some in a turn, for directories that have been in use for a while and have none, or
//! were moved since. Nobody waits for one, and nothing depends on it: it is not missed where it is absent, a mount never
//! reads it, and what fails is tried again or left for another mount. Its bytes are durable before its name appears; its
//! name becomes durable with the next sync of the directory, whoever asks for that.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use log::debug;
use parking_lot::Mutex;

use crate::backing::{AttrChange, Backing, RenameMode, TempFile};
use crate::entropy::Entropy;
use crate::format::{
    EntryId, EntryKind, RESCUE_LEN, RESCUE_NAME, RescueCopy, seal_rescue, temp_file_name,
};

use super::Store;
use super::core::CommitPolicy;
use super::error::{Attempt, Result, StoreError};
use super::node::{Home, Node};
use super::reserve::has_room;

/// Directories that are kept in memory for it. Others are noted when they are used again.
const DUE_MAX: usize = 4096;
/// Copies that one turn writes: the commits wait for it.
const TURN_MAX: usize = 64;
/// From this many on one syncfs is cheaper than one fsync each.
const SYNC_ALL_COPIES: usize = 8;
/// A directory that does not last so long needs none, if commits are not further apart.
const AGE_MIN: Duration = Duration::from_secs(5);

/// The directories of a mount that are to get a copy.
pub(crate) struct Rescues<B: Backing>(Mutex<HashMap<EntryId, Due<B>>>);

struct Due<B: Backing> {
    dir: Arc<Node<B>>,
    since: Duration,
}

impl<B: Backing> Due<B> {
    fn is_due(&self, now: Duration, age: Duration) -> bool {
        now.saturating_sub(self.since) >= age
    }
}

impl<B: Backing> Default for Rescues<B> {
    fn default() -> Self {
        Rescues(Mutex::new(HashMap::new()))
    }
}

impl<B: Backing> Rescues<B> {
    /// `dir` has no copy, or has one that is outdated from `now` on. `false` if there are too many to remember it.
    fn note(&self, dir: &Arc<Node<B>>, now: Duration) -> bool {
        let mut due = self.0.lock();
        let has_room = due.len() < DUE_MAX || due.contains_key(&dir.id());
        if has_room {
            due.insert(dir.id(), Due { dir: Arc::clone(dir), since: now });
        }
        has_room
    }

    /// Whether any was noted `age` ago or earlier.
    fn is_due(&self, now: Duration, age: Duration) -> bool {
        self.0.lock().values().any(|due| due.is_due(now, age))
    }

    /// Some of those.
    fn take(&self, now: Duration, age: Duration) -> Vec<Arc<Node<B>>> {
        let mut due = self.0.lock();
        let ids = due.iter().filter(|(_, due)| due.is_due(now, age)).map(|(id, _)| *id);
        let ids: Vec<EntryId> = ids.take(TURN_MAX).collect();
        ids.iter().filter_map(|id| Some(due.remove(id)?.dir)).collect()
    }
}

/// A sealed copy in `.akasha/tmp`.
pub(super) struct TempCopy {
    name: Vec<u8>,
}

impl TempCopy {
    /// Writes one, given to `owner` if there is one, and syncs it if asked to.
    pub fn write<B: Backing>(
        backing: &B,
        tmp: &B::Dir,
        sealed: &[u8; RESCUE_LEN],
        owner: Option<(u32, u32)>,
        sync: bool,
        entropy: &dyn Entropy,
    ) -> io::Result<TempCopy> {
        let temp = TempCopy { name: temp_file_name(entropy) };
        let written = (|| {
            let file = backing.create_temp(tmp, &temp.name, 0o600)?;
            if let Some((uid, gid)) = owner {
                // Its owner's own daemon must be able to read it, too.
                let owner = AttrChange { uid: Some(uid), gid: Some(gid), ..AttrChange::default() };
                file.set_attr(&owner)?;
            }
            file.write_at(0, sealed)?;
            if sync { file.sync() } else { Ok(()) }
        })();
        match written {
            Ok(()) => Ok(temp),
            Err(error) => {
                temp.discard(backing, tmp);
                Err(error)
            }
        }
    }

    /// Gives it its name in `dir`, whatever stood under that.
    pub fn place<B: Backing>(self, backing: &B, tmp: &B::Dir, dir: &B::Dir) -> io::Result<()> {
        let placed = backing.rename(tmp, &self.name, dir, RESCUE_NAME, RenameMode::Replace);
        placed.inspect_err(|_| self.discard(backing, tmp))
    }

    /// The next mount sweeps what cannot be removed now.
    fn discard<B: Backing>(&self, backing: &B, tmp: &B::Dir) {
        let _ = backing.unlink(tmp, &self.name);
    }
}

impl<B: Backing> Store<B> {
    /// Has a copy of `dir` written when it is due. `false` if it must be noted again.
    pub(super) fn note_rescue(&self, dir: &Arc<Node<B>>) -> bool {
        let is_wanted = dir.kind() == EntryKind::Dir && dir.id() != EntryId::ROOT;
        if self.core.options.read_only || !is_wanted {
            return true;
        }
        self.rescues.note(dir, self.core.clock.elapsed())
    }

    /// Writes some of the copies that are due.
    pub(super) fn write_rescues(&self) {
        let core = &self.core;
        let interval = match core.options.commit {
            CommitPolicy::Interval(interval) => interval,
            CommitPolicy::OnClose => Duration::ZERO,
        };
        let (now, age) = (core.clock.elapsed(), interval.max(AGE_MIN));
        // The last room on a disk is not for these.
        let is_due = self.rescues.is_due(now, age);
        if !is_due || core.is_short.load(Ordering::Relaxed) || !has_room(core) {
            return;
        }
        let due = self.rescues.take(now, age);
        let together = due.len() >= SYNC_ALL_COPIES && core.backing.sync_all_is_sound();
        let failed_syncs = core.failed_syncs();
        let mut written = Vec::new();
        for dir in due {
            match self.write_rescue(&dir, !together) {
                Ok(temp) => written.extend(temp.map(|temp| (dir, temp))),
                Err(error) => self.rescue_failed(&dir, &error),
            }
        }
        if together && (core.sync_all().is_err() || core.failed_syncs() != failed_syncs) {
            debug!("rescue copies are not durable and are not used");
            written.drain(..).for_each(|(_, temp)| temp.discard(&*core.backing, &core.tmp));
        }
        for (dir, temp) in written {
            if let Err(error) = self.place_rescue(&dir, temp) {
                self.rescue_failed(&dir, &error);
            }
        }
        self.restore_touched();
    }

    /// `None` if the directory is not in the tree any more.
    fn write_rescue(&self, dir: &Arc<Node<B>>, sync: bool) -> Result<Option<TempCopy>> {
        let core = &self.core;
        // Whoever moves it from here on notes it again.
        let (parent, name) = match &dir.place.lock().home {
            Home::Tree(spot) => (spot.dir.id(), spot.name.to_vec()),
            _ => return Ok(None),
        };
        let copy = RescueCopy { id: dir.id(), parent, stamp: core.next_stamp(), name };
        let sealed = seal_rescue(&core.keys, core.cipher, core.geometry, &copy, &*core.entropy);
        let (backing, tmp, entropy) = (&*core.backing, &core.tmp, &*core.entropy);
        let written = TempCopy::write(backing, tmp, &sealed, core.guest_of, sync, entropy);
        written.attempt("write a rescue copy").map(Some)
    }

    fn place_rescue(&self, dir: &Arc<Node<B>>, temp: TempCopy) -> Result<()> {
        let core = &self.core;
        let mut state = dir.dir()?.state.lock();
        let ready = if state.removed {
            Err(StoreError::NotFound)
        } else {
            dir.dir_fd(core).and_then(|fd| dir.hold_times(core, &mut state).map(|()| fd))
        };
        let fd = ready.inspect_err(|_| temp.discard(&*core.backing, &core.tmp))?;
        let placed = temp.place(&*core.backing, &core.tmp, &fd);
        self.touched.lock().push(Arc::clone(dir));
        placed.attempt("place a rescue copy")
    }

    /// On a full disk it is tried again later; whatever else is wrong is found by whoever uses the directory.
    fn rescue_failed(&self, dir: &Arc<Node<B>>, error: &StoreError) {
        debug!("entry {:016x} gets no rescue copy now: {error}", dir.id().get());
        if error.is_full() {
            self.note_rescue(dir);
        }
    }
}
