//! Room for the day on which the disk is full: `.akasha/reserve`, an empty file to which blocks are allocated.
//!
//! Everything here is copied on write, so that even to delete may take room: an open file that is unlinked is moved, a file
//! that is cut gets a new version. A change that finds no room, and is small enough, has the reserve given up and is tried
//! once more. It is allocated again when there is room for twice as much.
//!
//! It is a convenience, of which nothing depends: a vault without it, or with one that a backup restored without its blocks,
//! is a vault like any other. A read-only mount does not touch it. docs/FORMAT.md, "Control directory".

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use log::{debug, info, warn};
use parking_lot::Mutex;

use crate::backing::{At, AttrChange, Backing, FileKind, SpaceStat, TempFile};

use super::Store;
use super::core::Core;
use super::error::Result;
use super::finish;
use super::node::Node;

/// The file's name in `.akasha`.
const NAME: &[u8] = b"reserve";
/// Its room on a filesystem that is large enough, in bytes.
const LEN: u64 = 4 << 20;
/// Of a small one it takes this part.
const PART: u64 = 100;
/// Less is not worth having, in bytes.
const LEN_MIN: u64 = 64 << 10;
/// What a commit may still have to write to be given the reserve, in bytes: the whole of a small file, or a small change of
/// a large one with its map.
const CHANGE_LEN_MAX: u64 = 256 << 10;

/// The reserve of a mount.
#[derive(Default)]
pub(crate) struct Reserve {
    /// Whether it is there.
    held: Mutex<bool>,
}

impl Reserve {
    /// Allocates it, unless it is there or there is too little room. What fails is tried again later.
    pub fn fill<B: Backing>(&self, core: &Core<B>) {
        let mut held = self.held.lock();
        if !*held || core.is_short.load(Ordering::Relaxed) {
            match make(core) {
                Ok(made) => *held = made,
                Err(error) => debug!("no room is kept in reserve: {error}"),
            }
        }
    }

    /// Gives it up; whether there is more room now.
    pub(super) fn give_up<B: Backing>(&self, core: &Core<B>) -> bool {
        let mut held = self.held.lock();
        if !std::mem::take(&mut *held) {
            return false;
        }
        match core.backing.unlink(&core.control, NAME) {
            Ok(()) => {
                info!("the disk is full: the reserve is given up");
                true
            }
            Err(error) => {
                warn!("the disk is full, and the reserve cannot be given up: {error}");
                false
            }
        }
    }
}

/// Whether there is room for the reserve and as much again.
pub(super) fn has_room<B: Backing>(core: &Core<B>) -> bool {
    core.backing.space(&core.control).is_ok_and(|space| has_room_on(&space))
}

fn has_room_on(space: &SpaceStat) -> bool {
    space.blocks_avail.saturating_mul(space.unit_len) >= 2 * len_on(space).max(LEN_MIN)
}

/// Whether it is there on return.
fn make<B: Backing>(core: &Core<B>) -> io::Result<bool> {
    let space = core.backing.space(&core.control)?;
    let len = len_on(&space);
    let has_room = has_room_on(&space);
    if has_room {
        core.is_short.store(false, Ordering::Relaxed);
    }
    if len < LEN_MIN {
        return Ok(false);
    }
    match core.backing.stat(&core.control, At::Name(NAME)) {
        Ok(found) if found.kind != FileKind::File => {
            warn!("something strange in the place of .akasha/reserve is left alone");
            return Ok(false);
        }
        Ok(found) if found.blocks_512 * 512 >= len => return Ok(true),
        // Smaller than it should be, or restored without its blocks.
        Ok(_) => core.backing.unlink(&core.control, NAME)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if !has_room {
        return Ok(false);
    }
    let file = core.backing.create_temp(&core.control, NAME, 0o600)?;
    let allocated = allocate(core, &file, len);
    if allocated.is_err() {
        drop(file);
        let _ = core.backing.unlink(&core.control, NAME);
    }
    allocated.map(|()| true)
}

fn allocate<B: Backing>(core: &Core<B>, file: &B::Temp, len: u64) -> io::Result<()> {
    if let Some((uid, gid)) = core.guest_of {
        // It counts against the quota that it is to make room in.
        let owner = AttrChange { uid: Some(uid), gid: Some(gid), ..AttrChange::default() };
        file.set_attr(&owner)?;
    }
    file.allocate(len)
}

/// How much room is kept on a filesystem, in bytes.
fn len_on(space: &SpaceStat) -> u64 {
    (space.blocks / PART).saturating_mul(space.unit_len).min(LEN)
}

impl<B: Backing> Store<B> {
    /// Does a change that deletes, moves or is small; once more where only the reserve has room for it.
    pub(super) fn with_reserve<T>(&self, mut change: impl FnMut() -> Result<T>) -> Result<T> {
        match change() {
            Err(error) if error.is_full() && self.reserve.give_up(&self.core) => change(),
            done => done,
        }
    }

    /// After a commit that found no room: those of `nodes` that are small enough for the reserve, if trying them again may help.
    /// Then they are sealed with nothing but what changed, and the reserve is given up.
    pub(super) fn relieved(&self, nodes: &[Arc<Node<B>>]) -> Vec<Arc<Node<B>>> {
        let is_small = |node: &&Arc<Node<B>>| self.is_small_change(node);
        let small: Vec<_> = nodes.iter().filter(is_small).cloned().collect();
        if small.is_empty() {
            return small;
        }
        let was_short = self.core.is_short.swap(true, Ordering::Relaxed);
        if self.reserve.give_up(&self.core) || !was_short { small } else { Vec::new() }
    }

    /// Whether what is still to be written of a file's next version is little.
    pub(super) fn is_small_change(&self, node: &Arc<Node<B>>) -> bool {
        node.file().is_ok_and(|body| {
            let state = body.state.read();
            state.frozen.as_deref().into_iter().chain(state.open.as_ref()).all(|edit| {
                finish::is_small(&self.core, edit)
                    || finish::rest_len(&self.core, edit) <= CHANGE_LEN_MAX
            })
        })
    }
}
