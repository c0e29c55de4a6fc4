//! What a simulated disk counts, and when it fails or lies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;

use super::tree::errno;

/// Changing calls that [`super::SimDisk::last_calls`] remembers.
const REMEMBERED_CALLS: usize = 64;

/// The calls of [`crate::backing::Backing`] and of its handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // each is the call of that name
pub enum CallKind {
    Root,
    OpenDir,
    List,
    Stat,
    GetXattr,
    ListXattrs,
    Open,
    OpenTemp,
    Space,
    Lock,
    Read,
    Map,
    CopyOut,
    CreateTemp,
    Mkdir,
    Rename,
    Link,
    Unlink,
    Rmdir,
    SetAttr,
    SetXattr,
    Write,
    SetLen,
    Reserve,
    StartWriteback,
    WriteNote,
    Sync,
    SyncDir,
    SyncAll,
}

impl CallKind {
    /// Whether the call changes what a crash would leave: an operation of [`super::SimDisk::cut_at`].
    pub fn changes(self) -> bool {
        self >= CallKind::CreateTemp
    }

    fn syncs(self) -> bool {
        matches!(self, CallKind::Sync | CallKind::SyncDir | CallKind::SyncAll)
    }
}

/// What the disk was asked to do so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of each kind, failed ones included.
    pub calls: BTreeMap<CallKind, u64>,
    /// Bytes written into temporary files.
    pub bytes_written: u64,
    /// Bytes read from files and copied out of mappings.
    pub bytes_read: u64,
}

impl Counters {
    /// Calls of one kind.
    pub fn of(&self, kind: CallKind) -> u64 {
        self.calls.get(&kind).copied().unwrap_or_default()
    }

    /// Calls of [`CallKind::Sync`], [`CallKind::SyncDir`] and [`CallKind::SyncAll`].
    pub fn syncs(&self) -> u64 {
        self.of(CallKind::Sync) + self.of(CallKind::SyncDir) + self.of(CallKind::SyncAll)
    }
}

type Matcher = Box<dyn Fn(CallKind) -> bool + Send + Sync>;

/// A planned failure.
struct Fault {
    /// Matching calls still to let pass.
    pass: u64,
    code: i32,
    once: bool,
    matches: Matcher,
}

/// What the disk does with a call.
pub(super) enum Answer {
    Honest,
    /// Say ok, do nothing.
    Lie,
}

#[derive(Default)]
pub(super) struct Faults {
    pub(super) counters: Counters,
    pub(super) operations: u64,
    pub(super) cut: Option<u64>,
    pub(super) is_off: bool,
    /// Whether the journal failed: changes are refused, and syncs say that all is well.
    pub(super) is_aborted: bool,
    planned: Vec<Fault>,
    pub(super) lies: BTreeSet<CallKind>,
    pub(super) last_calls: VecDeque<(u64, CallKind, Vec<u8>)>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("operations", &self.operations)
            .field("cut", &self.cut)
            .field("is_off", &self.is_off)
            .field("planned", &self.planned.len())
            .field("lies", &self.lies)
            .finish_non_exhaustive()
    }
}

impl Faults {
    /// No failures planned, nothing counted.
    pub(super) fn lying(lies: BTreeSet<CallKind>) -> Faults {
        Faults { lies, ..Faults::default() }
    }

    pub(super) fn plan(&mut self, nth: u64, code: i32, once: bool, matches: Matcher) {
        assert!(nth > 0, "calls are counted from 1");
        self.planned.push(Fault { pass: nth - 1, code, once, matches });
    }

    pub(super) fn heal(&mut self) {
        self.planned.clear();
    }

    /// Counts a call and decides about it. `name` is for the record only.
    pub(super) fn enter(&mut self, kind: CallKind, name: &[u8]) -> io::Result<Answer> {
        if kind.changes() && self.cut.is_some_and(|cut| self.operations >= cut) {
            self.is_off = true;
        }
        if self.is_off {
            return Err(errno(libc::EIO));
        }
        *self.counters.calls.entry(kind).or_default() += 1;
        if kind.changes() {
            self.operations += 1;
            if self.last_calls.len() == REMEMBERED_CALLS {
                self.last_calls.pop_front();
            }
            self.last_calls.push_back((self.operations, kind, name.to_vec()));
        }
        self.fail(kind)?;
        if self.is_aborted && kind.changes() {
            return if kind.syncs() { Ok(Answer::Lie) } else { Err(errno(libc::EROFS)) };
        }
        if self.lies.contains(&kind) { Ok(Answer::Lie) } else { Ok(Answer::Honest) }
    }

    /// Every matching fault counts the call; the first that is due strikes.
    fn fail(&mut self, kind: CallKind) -> io::Result<()> {
        let mut struck = None;
        self.planned.retain_mut(|fault| {
            if !(fault.matches)(kind) {
                return true;
            }
            if fault.pass > 0 {
                fault.pass -= 1;
                return true;
            }
            struck = struck.or(Some(fault.code));
            !fault.once
        });
        struck.map_or(Ok(()), |code| Err(errno(code)))
    }
}
