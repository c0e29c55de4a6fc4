//! syncfs for everybody, and what one that failed means for files that were written before it.
//!
//! It says that something on the filesystem could not be written, not what, and says it once. Each file is then asked itself:
//! its fsync fails if it is concerned, since the system keeps the error with the file for each open descriptor (fsync(2), Linux
//! 4.13). Once the last descriptor is closed, the system may have forgotten.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::backing::{Backing, TempFile};
use crate::format::temp_file_name;

use super::core::Core;
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
        if self.sync_all().is_ok() {
            return Ok(());
        }
        // If that was a file, names are well. If it was the journal of the filesystem, the next syncfs may be a success that means
        // nothing (ext4, turned read-only), but nothing new can be made durable any more.
        self.sync_all()?;
        let name = temp_file_name(&*self.entropy);
        let made = self.backing.create_temp(&self.tmp, &name, 0o600);
        let synced = made.and_then(|file| file.sync()).attempt("sync a new file");
        // The next mount sweeps what cannot be removed now.
        let _ = self.backing.unlink(&self.tmp, &name);
        synced
    }

    /// How many syncfs calls failed. If that was another number when a file was made, one that succeeds says nothing about it.
    pub fn failed_syncs(&self) -> u64 {
        self.whole_syncs.failed.load(Ordering::Acquire)
    }
}
