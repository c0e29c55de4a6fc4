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
    /// The last change by which a name left the directory.
    departure: u64,
    running: bool,
    /// A sync failed: nothing can be promised any more.
    failed: bool,
}

impl SyncGate {
    /// A directory of which nothing is known: what is there may have been left unsynced by an earlier daemon.
    pub fn new() -> Self {
        SyncGate {
            changes: AtomicU64::new(1),
            state: Mutex::new(State { departure: 1, ..State::default() }),
            changed: Condvar::new(),
        }
    }

    /// Counts a change that was just made, by which a name appeared or stands for something else now; returns its number.
    pub fn count(&self) -> u64 {
        self.changes.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Counts a change that was just made, by which a name left the directory; returns its number.
    pub fn count_departure(&self) -> u64 {
        let mut state = self.state.lock();
        state.departure = self.count();
        state.departure
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

    /// Returns once every change up to `change` is durable: waits for a sync that covers it, or runs `sync`, which is told whether
    /// a name has left since the last one ([`crate::backing::Backing::sync_arrivals`] will do if none has).
    ///
    /// # Errors
    /// What `sync` says; after a failed sync, EIO for ever, since a later one would prove nothing.
    pub fn sync(&self, change: u64, sync: impl FnOnce(bool) -> Result<()>) -> Result<()> {
        let (covered, has_departures) = {
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
            // Under the lock: what is covered and left is known to have left.
            (self.latest(), state.departure > state.upto)
        };
        let result = sync(has_departures);
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
        gate.sync(first, |_| {
            later = gate.count();
            Ok(())
        })
        .unwrap();
        assert_eq!(gate.upto(), first);
        gate.sync(first, |_| panic!("already durable")).unwrap();
        let mut ran = false;
        gate.sync(later, |_| {
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
        gate.sync(change, |_| Err(StoreError::NotFound)).unwrap_err();
        gate.sync(change, |_| panic!("must not be tried again")).unwrap_err();
    }

    #[test]
    fn a_sync_is_told_of_departures_until_one_has_covered_them() {
        let gate = SyncGate::new();
        let told = |change: u64| {
            let mut told = None;
            gate.sync(change, |has_departures| {
                told = Some(has_departures);
                Ok(())
            })
            .unwrap();
            told
        };
        assert_eq!(told(gate.latest()), Some(true), "of what an earlier daemon did");
        assert_eq!(told(gate.count()), Some(false));
        let departure = gate.count_departure();
        assert_eq!(told(gate.count()), Some(true));
        assert_eq!(told(departure), None);
        assert_eq!(told(gate.count()), Some(false));
        // One that leaves while a sync runs may have missed it.
        gate.sync(gate.count(), |has_departures| {
            assert!(!has_departures);
            gate.count_departure();
            Ok(())
        })
        .unwrap();
        assert_eq!(told(gate.latest()), Some(true));
    }
}
