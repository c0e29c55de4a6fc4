//! syncfs for everybody, what one that failed means for files that were written before it, and what a success is worth.
//!
//! A failed syncfs says that something on the filesystem could not be written, not what, and says it once. Each file is then asked
//! itself: its fsync fails if it is concerned, since the system keeps the error with the file for each open descriptor (fsync(2),
//! Linux 4.13). Once the last descriptor is closed, the system may have forgotten.
//!
//! A journal that failed in the background is not told to who syncs a directory afterwards: ext4 and xfs say that all is well, until
//! something is changed (`tests/faults/failing.py`, `journal_fails_unseen`). So something is changed first.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::backing::{At, AttrChange, Backing};

use super::core::{ControlDirs, Core};
use super::error::{Attempt, Result};

/// The syncfs calls of a mount.
#[derive(Default)]
pub(crate) struct WholeSyncs {
    /// One at a time: the error goes to one of them, and the others would say that all is well.
    alone: Mutex<()>,
    failed: AtomicU64,
}

impl<B: Backing> Core<B> {
    /// Everything in the vault is durable on return, but for files that were written before a syncfs that failed
    /// ([`Core::failed_syncs`]).
    pub fn sync_all(&self) -> Result<()> {
        let _alone = self.whole_syncs.alone.lock();
        let synced = self.backing.sync_all(&self.root).attempt("sync the vault");
        if synced.is_err() {
            self.whole_syncs.failed.fetch_add(1, Ordering::AcqRel);
        }
        synced
    }

    /// As [`Core::sync_all`] for names alone: they are durable on return also if some file could not be written.
    pub fn sync_all_names(&self) -> Result<()> {
        sync_names(&*self.backing, &self.tmp, || self.sync_all())
    }

    /// The changes of names in one directory are durable on return, which is cheaper if none of them was a departure.
    pub fn sync_dir(&self, dir: &B::Dir, has_departures: bool) -> io::Result<()> {
        if has_departures { self.backing.sync_dir(dir) } else { self.backing.sync_arrivals(dir) }
    }

    /// How many syncfs calls failed. If that was another number when a file was made, one that succeeds says nothing about it.
    pub fn failed_syncs(&self) -> u64 {
        self.whole_syncs.failed.load(Ordering::Acquire)
    }

    /// A change of no consequence, which comes before names are synced that may have changed a while ago: it is refused, or the
    /// sync then fails, if the journal failed meanwhile.
    pub fn touch(&self) -> Result<()> {
        touch(&*self.backing, &self.tmp)
    }
}

/// As [`Core::sync_all_names`], before there is a core.
pub(super) fn sync_all_names<B: Backing>(backing: &B, dirs: &ControlDirs<B>) -> Result<()> {
    sync_names(backing, &dirs.tmp, || backing.sync_all(&dirs.root).attempt("sync the vault"))
}

fn sync_names<B: Backing>(
    backing: &B,
    tmp: &B::Dir,
    sync_all: impl Fn() -> Result<()>,
) -> Result<()> {
    // A file of anybody's that could not be written concerns no name, and is told of once.
    sync_all().or_else(|_| sync_all())?;
    touch(backing, tmp)?;
    backing.sync_arrivals(tmp).attempt("sync the vault")
}

fn touch<B: Backing>(backing: &B, tmp: &B::Dir) -> Result<()> {
    let touched = backing.stat(tmp, At::This).and_then(|stat| {
        let change = AttrChange { mtime: Some(stat.mtime), ..AttrChange::default() };
        backing.set_attr(tmp, At::This, &change)
    });
    match touched {
        Err(error) if is_the_end(&error) => Err(error).attempt("change the vault"),
        // No room, or not ours to change: no sign of anything.
        _ => Ok(()),
    }
}

/// What a filesystem says that takes no changes any more.
fn is_the_end(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EROFS | libc::EUCLEAN | libc::ESHUTDOWN))
}
