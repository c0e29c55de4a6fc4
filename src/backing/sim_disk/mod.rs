//! A disk in memory that forgets what was not synced, fails on demand and can lie: the power cut as an
//! ordinary unit test.
//!
//! [`SimDisk::crash`] gives the disk that a machine would find after a power cut, under a
//! [`CrashRule`]. A test runs its workload once to learn [`SimDisk::operations`], then again for each `n`
//! with [`SimDisk::cut_at`], and opens what survived. Everything is deterministic: no clock, no
//! randomness but the seed of the rule.
//!
//! What is modelled beyond the promises of [`Backing`](crate::backing::Backing), because filesystems do it: an fsync that
//! carries other names along ([`CrashRule::Journal`]), or only one inode's
//! ([`CrashRule::PerDirectory`]); names that are durable before the bytes of their file; a length
//! apart from its bytes; a torn page; a failed sync after which the pages are clean and lost, and who is told of that
//! (`errseq_t`). Not modelled: bit rot, and versions of a page between two writes without a sync.

mod calls;
mod crash;
mod faults;
mod handles;
mod log;
mod names;
mod pages;
#[cfg(test)]
mod tests;
mod tree;

use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

pub use crash::CrashRule;
pub use faults::{CallKind, Counters};
pub use handles::{SimDir, SimFile, SimLock, SimMapping, SimTemp};

use self::faults::{Answer, Faults};
use self::pages::{FileBytes, PAGE_LEN};
pub use self::tree::HardLinks;
use self::tree::{Body, ROOT, Tree};
use super::FileKind;
use crate::clock::{Clock, Timestamp};

/// The first time that a disk without a clock shows; a millisecond passes with each call.
const FIRST_SECOND: i64 = 1_700_000_000;

/// Length limit of files, as on ext4 with 4 KiB blocks.
const FILE_LEN_MAX: u64 = 1 << 44;

/// A simulated disk. Clones are handles of the same one.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// What another thread does right after the next sync of a directory.
    after_sync_dir: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    clock: Option<Arc<dyn Clock>>,
}

struct State {
    tree: Tree,
    faults: Faults,
    ticks: u64,
}

impl Shared {
    /// Counts the call; fails it if the power is off or a fault is planned.
    fn enter(&self, kind: CallKind, name: &[u8]) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        state.ticks += 1;
        state.faults.enter(kind, name)?;
        Ok(state)
    }

    /// As [`Shared::enter`] for the syncs: `None` if the disk lies. A failure that is not the power's
    /// runs `lose`.
    fn enter_sync(
        &self,
        kind: CallKind,
        lose: impl FnOnce(&mut Tree),
    ) -> io::Result<Option<MutexGuard<'_, State>>> {
        let mut state = self.state.lock();
        state.ticks += 1;
        match state.faults.enter(kind, b"") {
            Ok(Answer::Honest) => Ok(Some(state)),
            Ok(Answer::Lie) => Ok(None),
            Err(error) => {
                if !state.faults.is_off {
                    lose(&mut state.tree);
                }
                Err(error)
            }
        }
    }

    fn now(&self, state: &State) -> Timestamp {
        self.clock.as_ref().map_or_else(
            || Timestamp {
                secs: FIRST_SECOND + (state.ticks / 1000).cast_signed(),
                nanos: (state.ticks % 1000) as u32 * 1_000_000,
            },
            |clock| clock.now(),
        )
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk: privileged, with exchange, without limits, honest.
    pub fn new() -> SimDisk {
        SimDisk::build(None)
    }

    /// An empty disk whose times are those of `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> SimDisk {
        SimDisk::build(Some(clock))
    }

    fn build(clock: Option<Arc<dyn Clock>>) -> SimDisk {
        let start = Timestamp { secs: FIRST_SECOND, nanos: 0 };
        let now = clock.as_ref().map_or(start, |clock| clock.now());
        SimDisk::of(State { tree: Tree::new(now), faults: Faults::default(), ticks: 0 }, clock)
    }

    fn of(state: State, clock: Option<Arc<dyn Clock>>) -> SimDisk {
        let (state, after_sync_dir) = (Mutex::new(state), Mutex::default());
        SimDisk { shared: Arc::new(Shared { state, after_sync_dir, clock }) }
    }

    /// The disk that is found after a power cut now. It keeps limits, privileges and lies; it has no
    /// planned faults, no cut, no locks, and counts from 0. This disk goes on as it was.
    #[must_use]
    pub fn crash(&self, rule: &CrashRule) -> SimDisk {
        let state = self.shared.state.lock();
        let faults = Faults::lying(state.faults.lies.clone());
        let tree = crash::survivors(&state.tree, *rule);
        let state = State { tree, faults, ticks: state.ticks };
        let clock = self.shared.clock.clone();
        SimDisk::of(state, clock)
    }

    /// Changing calls so far ([`CallKind::changes`]), failed ones included.
    pub fn operations(&self) -> u64 {
        self.shared.state.lock().faults.operations
    }

    /// The power goes off when changing call number `operations` + 1 (of this disk's life) is tried: it and every
    /// call after it fail with EIO.
    pub fn cut_at(&self, operations: u64) {
        self.shared.state.lock().faults.cut = Some(operations);
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.shared.state.lock().faults.is_off
    }

    /// Changes of names that no fsync has committed even on a journalling filesystem: useful values of
    /// `prefix` in [`CrashRule::Journal`] go from 0 to this.
    pub fn pending_changes(&self) -> usize {
        self.shared.state.lock().tree.log.uncommitted_changes().len()
    }

    /// The rules worth trying on what is pending now: a [`CrashRule::battery`]. Of a disk that keeps the order of names
    /// only those rules that do.
    pub fn rules(&self, seeds: std::ops::Range<u64>) -> Vec<CrashRule> {
        let mut rules = CrashRule::battery(self.pending_changes(), seeds);
        if self.shared.state.lock().tree.keeps_name_order {
            rules.retain(|rule| matches!(rule, CrashRule::Everything | CrashRule::Journal { .. }));
        }
        rules
    }

    /// Fails the `nth` (from 1) of the calls that `matches` selects, once, with `code`. A failed sync
    /// drops the bytes that were to be synced: they stay visible and are never written. A failed write
    /// writes its first half.
    pub fn fail(
        &self,
        nth: u64,
        code: i32,
        matches: impl Fn(CallKind) -> bool + Send + Sync + 'static,
    ) {
        self.shared.state.lock().faults.plan(nth, code, true, Box::new(matches));
    }

    /// As [`SimDisk::fail`], and every such call after it too, until [`SimDisk::heal`].
    pub fn fail_from(
        &self,
        nth: u64,
        code: i32,
        matches: impl Fn(CallKind) -> bool + Send + Sync + 'static,
    ) {
        self.shared.state.lock().faults.plan(nth, code, false, Box::new(matches));
    }

    /// The journal fails in the background, as ext4 and xfs do: nothing unsynced becomes durable any more, changes are refused, and
    /// whoever syncs is told nothing.
    pub fn abort_journal(&self) {
        self.shared.state.lock().faults.is_aborted = true;
    }

    /// Runs `then` once, right after the next sync of a directory, as another thread might.
    pub fn after_sync_dir(&self, then: impl FnOnce() + Send + 'static) {
        *self.shared.after_sync_dir.lock() = Some(Box::new(then));
    }

    /// Forgets all planned failures.
    pub fn heal(&self) {
        self.shared.state.lock().faults.heal();
    }

    /// How many bytes of extended attributes a file or directory can have, names and values together.
    pub fn set_xattr_limit(&self, bytes: usize) {
        self.shared.state.lock().tree.xattr_limit = bytes;
    }

    /// Makes a kind of sync do nothing and say ok, or (with [`CallKind::Rename`]) renames survive by
    /// halves, in any order. A suite that proves durability must fail on such a disk.
    ///
    /// # Panics
    /// For other kinds.
    pub fn lie(&self, kind: CallKind) {
        let mut state = self.shared.state.lock();
        match kind {
            CallKind::Rename => state.tree.tears_renames = true,
            CallKind::Sync | CallKind::SyncDir | CallKind::SyncAll => {
                state.faults.lies.insert(kind);
            }
            other => panic!("no lie is defined for {other:?}"),
        }
    }

    /// Limits the bytes that files and directories can take, in whole pages of 4 KiB; `None`: no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.state.lock().tree.capacity_pages = bytes.map(|bytes| bytes / PAGE_LEN as u64);
    }

    /// Whether [`RenameMode::Exchange`](crate::backing::RenameMode::Exchange) works; else it is EINVAL, as on many network filesystems.
    pub fn set_exchange(&self, has_exchange: bool) {
        self.shared.state.lock().tree.has_exchange = has_exchange;
    }

    /// Whether files can have several names, and tell how many.
    pub fn set_hard_links(&self, hard_links: HardLinks) {
        self.shared.state.lock().tree.hard_links = hard_links;
    }

    /// Whether it is a disk that keeps the order in which names were changed, as ext4 and xfs do
    /// ([`Backing::keeps_name_order`](crate::backing::Backing::keeps_name_order)): crash it under [`SimDisk::rules`] then.
    pub fn set_name_order(&self, keeps: bool) {
        self.shared.state.lock().tree.keeps_name_order = keeps;
    }

    /// Whether the process is root. If not, the owner's permission bits bind it.
    pub fn set_privileged(&self, is_privileged: bool) {
        self.shared.state.lock().tree.is_privileged = is_privileged;
    }

    /// What was asked so far.
    pub fn counters(&self) -> Counters {
        self.shared.state.lock().faults.counters.clone()
    }

    /// Counts from 0 again; [`SimDisk::operations`] goes on.
    pub fn reset_counters(&self) {
        self.shared.state.lock().faults.counters = Counters::default();
    }

    /// The last changing calls, oldest first: number, kind, and the name where there is one.
    pub fn last_calls(&self) -> Vec<(u64, CallKind, Vec<u8>)> {
        self.shared.state.lock().faults.last_calls.iter().cloned().collect()
    }

    // ---- behind the back of the process: for tests that tamper or look on --------------------------

    /// Every path (components joined by `/`, none for the root) with its kind and length, sorted.
    pub fn paths(&self) -> Vec<(Vec<u8>, FileKind, u64)> {
        let state = self.shared.state.lock();
        let mut found = Vec::new();
        let mut open = vec![(Vec::new(), ROOT)];
        while let Some((prefix, dir)) = open.pop() {
            for (name, kind) in state.tree.list(dir) {
                let path = if prefix.is_empty() {
                    name.clone()
                } else {
                    [prefix.as_slice(), b"/", &name].concat()
                };
                let Some(ino) = state.tree.child(dir, &name) else { continue };
                found.push((path.clone(), kind, state.tree.stat(ino).len));
                if kind == FileKind::Dir {
                    open.push((path, ino));
                }
            }
        }
        found.sort_by(|left, right| left.0.cmp(&right.0));
        found
    }

    /// The bytes of the file at `path`, `None` if there is none.
    pub fn read_path(&self, path: &[u8]) -> Option<Vec<u8>> {
        let state = self.shared.state.lock();
        let ino = state.tree.walk(path)?;
        let Body::File(bytes) = &state.tree.inode(ino).body else { return None };
        let mut out = vec![0; usize::try_from(bytes.now.len).ok()?];
        bytes.now.read(0, &mut out);
        Some(out)
    }

    /// Replaces the bytes of the file at `path` in place, durably, under every open handle and
    /// mapping. False if there is no such file.
    pub fn replace_path(&self, path: &[u8], bytes: &[u8]) -> bool {
        let mut state = self.shared.state.lock();
        let Some(ino) = state.tree.walk(path) else { return false };
        if state.tree.kind(ino) != FileKind::File {
            return false;
        }
        state.tree.with_bytes(ino, |file, _| file.replace(bytes));
        true
    }

    /// Puts something that is neither file nor directory at `path`, durably: opening it gives `code`,
    /// `ELOOP` for a symbolic link, `EIO` for a fifo or device. What is there already is displaced.
    /// False if there is no such directory.
    pub fn plant(&self, path: &[u8], code: i32) -> bool {
        let mut state = self.shared.state.lock();
        let now = self.shared.now(&state);
        state.tree.plant(path, Body::Other(code), now)
    }
}
