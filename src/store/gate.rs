//! One sync for everybody who waits for it: changes are counted, a sync covers those counted before it began.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use super::error::{Result, StoreError};

/// The durability of one directory's names.
pub(crate) struct SyncGate {
    changes: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Every change up to this one is durable.
    upto: u64,
    running: bool,
    /// A sync failed: nothing can be promised any more.
    failed: bool,
}

impl SyncGate {
    /// A directory of which nothing is known: what is there may have been left unsynced by an earlier daemon.
    pub fn new() -> Self {
        SyncGate {
            changes: AtomicU64::new(1),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        }
    }

    /// Counts a change that was just made; returns its number.
    pub fn count(&self) -> u64 {
        self.changes.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The latest change.
    pub fn latest(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The latest change that is known to be durable.
    pub fn upto(&self) -> u64 {
        self.state.lock().upto
    }

    /// Every change up to `change` is durable by a sync that was not asked for here.
    pub fn cover(&self, change: u64) {
        let mut state = self.state.lock();
        // After a failed sync a later one proves nothing.
        if !state.failed {
            state.upto = state.upto.max(change);
        }
    }

    /// A sync failed that was not asked for here.
    pub fn fail(&self) {
        self.state.lock().failed = true;
    }

    /// Returns once every change up to `change` is durable: waits for a sync that covers it, or runs `sync`.
    ///
    /// # Errors
    /// What `sync` says; after a failed sync, EIO for ever, since a later one would prove nothing.
    pub fn sync(&self, change: u64, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        {
            let mut state = self.state.lock();
            loop {
                if state.upto >= change {
                    return Ok(());
                }
                if state.failed {
                    return Err(StoreError::Io {
                        what: "sync a directory whose sync failed before",
                        source: std::io::Error::from_raw_os_error(libc::EIO),
                    });
                }
                if !state.running {
                    break;
                }
                self.changed.wait(&mut state);
            }
            state.running = true;
        }
        let covered = self.latest();
        let result = sync();
        let mut state = self.state.lock();
        state.running = false;
        match &result {
            Ok(()) => state.upto = state.upto.max(covered),
            Err(_) => state.failed = true,
        }
        self.changed.notify_all();
        result
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_covers_what_was_counted_before_it_and_nothing_later() {
        let gate = SyncGate::new();
        let first = gate.count();
        let mut later = 0;
        gate.sync(first, || {
            later = gate.count();
            Ok(())
        })
        .unwrap();
        assert_eq!(gate.upto(), first);
        gate.sync(first, || panic!("already durable")).unwrap();
        let mut ran = false;
        gate.sync(later, || {
            ran = true;
            Ok(())
        })
        .unwrap();
        assert!(ran);
    }

    #[test]
    fn a_failed_sync_is_final() {
        let gate = SyncGate::new();
        let change = gate.count();
        gate.sync(change, || Err(StoreError::NotFound)).unwrap_err();
        gate.sync(change, || panic!("must not be tried again")).unwrap_err();
    }
}
