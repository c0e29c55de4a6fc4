//! Access and change times as the mount shows them, where the vault's inodes say something else.
//!
//! Access times move by the rule of `relatime` (mount(8)) and are kept in memory: writing one into the vault would move the
//! change time of the vault's file, and a backup that goes by change times would take every file that was read for a
//! changed one. They reach the vault with the file's next commit or change of attributes, which move it anyway.
//!
//! The change time of a vault's file is that of its publishing. What the mount shows is the change itself, as long as the
//! kernel knows the node.

use std::sync::Arc;

use crate::backing::Backing;
use crate::clock::Timestamp;

use super::error::Result;
use super::node::Node;
use super::{Attr, Store};

/// mount(8), `relatime`: an access time older than this moves whatever happened since.
const DAY_SECS: i64 = 24 * 60 * 60;

/// See the module's text. A leaf among the locks.
#[derive(Default)]
pub(crate) struct HeldTimes {
    atime: Option<Timestamp>,
    ctime: Option<Timestamp>,
    /// The access time that was last found to be younger than all changes of the file, and their count at that time.
    seen: Option<(u64, Timestamp)>,
    /// How often the access time was set by hand.
    sets: u32,
}

/// What a program did that counts as reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accessed {
    /// The kernel asked for content, and will ask for the access time when somebody wants to know.
    Read,
    /// A file was opened for reading. What the kernel has in its cache is then read without a request.
    Opened,
}

impl<B: Backing> Node<B> {
    /// The access time that the vault does not have yet.
    pub(crate) fn held_atime(&self) -> Option<Timestamp> {
        self.times.lock().atime
    }

    /// When it was last changed, if the vault says something else.
    pub(crate) fn held_ctime(&self) -> Option<Timestamp> {
        self.times.lock().ctime
    }

    /// The node was changed at `now`, or at the time that the kernel noted.
    pub(crate) fn note_changed(&self, at: Timestamp) {
        let mut times = self.times.lock();
        times.ctime = Some(at);
        times.seen = None;
    }

    /// A version that was changed at `ctime` was published.
    pub(crate) fn note_published(&self, ctime: Timestamp) {
        let mut times = self.times.lock();
        times.ctime = Some(times.ctime.map_or(ctime, |held| held.max(ctime)));
    }

    /// The access time was set by hand: the vault has it. No commit may come in between.
    pub(crate) fn note_atime_set(&self) {
        let mut times = self.times.lock();
        times.sets = times.sets.wrapping_add(1);
        times.atime = None;
        times.seen = None;
    }

    /// `attr` as the vault has it, with the times that are held here.
    pub(crate) fn with_held_times(&self, attr: Attr) -> Attr {
        let times = self.times.lock();
        Attr {
            atime: times.atime.unwrap_or(attr.atime),
            ctime: times.ctime.unwrap_or(attr.ctime),
            ..attr
        }
    }
}

impl<B: Backing> Store<B> {
    /// `node` was read: moves its access time where `relatime` says so; tells whether the kernel knows another one now.
    pub fn note_access(&self, node: &Arc<Node<B>>, how: Accessed) -> Result<bool> {
        if self.core.options.read_only {
            return Ok(false);
        }
        let now = self.core.now();
        let is_old = |atime: Timestamp| now.secs.saturating_sub(atime.secs) >= DAY_SECS;
        let changes = node.file().ok().map(|body| body.state.read().changes);
        let (sets, is_fresh) = {
            let mut times = node.times.lock();
            if let (Some((seen, atime)), Some(changes)) = (times.seen, changes) {
                if seen == changes && !is_old(atime) {
                    return Ok(false);
                }
                // Written since: no need to look at the vault, which costs more than the reading.
                if seen != changes && atime <= now {
                    times.atime = Some(now);
                    times.seen = Some((changes, now));
                    return Ok(how == Accessed::Opened);
                }
            }
            let untouched = times.atime.is_none() && times.ctime.is_none() && times.seen.is_none();
            (times.sets, untouched && changes.unwrap_or(0) == 0)
        };
        // The kernel has no page of it: what is read will be asked for, and if nothing is, nothing was read.
        if is_fresh && how == Accessed::Opened && changes.is_some() {
            return Ok(false);
        }
        let attr = self.attr(node)?;
        let due = attr.atime <= attr.mtime.max(attr.ctime) || is_old(attr.atime);
        let atime = if due { now } else { attr.atime };
        let mut times = node.times.lock();
        // What was set meanwhile stays.
        if times.sets == sets {
            if due {
                times.atime = Some(now);
            }
            times.seen = changes.map(|changes| (changes, atime));
        }
        Ok(due && how == Accessed::Opened && !is_fresh)
    }

    /// What is now called `name` in `dir` was moved there: that is a change of it.
    pub(super) fn note_moved(&self, dir: &Arc<Node<B>>, name: &[u8]) {
        let Ok(body) = dir.dir() else { return };
        let moved = {
            let state = body.state.lock();
            let entry = state.map.as_ref().and_then(|map| map.get(name));
            entry.and_then(|entry| {
                self.nodes.get(state.links.get(&entry.id).copied().unwrap_or(entry.id))
            })
        };
        let Some(node) = moved else { return };
        let now = self.core.now();
        match node.dir() {
            Ok(body) => body.state.lock().touch_attr(now),
            Err(_) => node.note_changed(now),
        }
    }
}
