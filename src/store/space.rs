//! What of a file is allocated: holes, ranges that are allocated and not written, and copies of ranges.
//!
//! A hole costs one record of a map whatever its length. Files that are kept in simple form because they are small have
//! no holes: their zeros are data. Nothing here writes to the disk, but for the copying of data.

use std::sync::Arc;

use crate::backing::Backing;
use crate::format::{EntryKind, LengthClass};

use super::core::Core;
use super::edit::{Block, Edit, Held, Zeros};
use super::error::{Attempt, Result, StoreError};
use super::file::{WriteTime, as_index, begin_edit, is_moving, max_size, plan, show};
use super::finish;
use super::node::{FileBody, FileState, Node};
use super::snapshot::{Piece, Window};
use super::{Store, has_handles};

/// Bytes of data that one call of [`Store::copy`] copies at most, so that no worker is busy for long.
const COPY_LEN: u64 = 8 << 20;
/// Bytes that are copied at a time: what copying takes of memory.
const COPY_STEP_LEN: u64 = 1 << 20;
/// Bytes that one call of [`Store::copy`] gets over at most, holes included: the answer has 32 bits.
const COPY_ANSWER_MAX: u64 = 1 << 31;

/// What fallocate(2) is to do with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Have it allocated; what is there stays, holes read as zeros as before.
    Allocate,
    /// Make it a hole. What is zeroed beyond the end of the file is no change.
    Punch,
    /// Make it zeros that are allocated.
    Zero,
}

/// What lseek(2) is to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// SEEK_DATA
    Data,
    /// SEEK_HOLE; there is one at the end of every file.
    Hole,
}

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Zeros(Zeros),
}

impl<B: Backing> Store<B> {
    /// fallocate(2). Without `keep_size` the file grows to hold the range.
    ///
    /// # Errors
    /// `FileTooBig`; ENOSPC if the vault's filesystem has not the room for what is newly allocated.
    pub fn fallocate(
        &self,
        node: &Arc<Node<B>>,
        (offset, len): (u64, u64),
        room: Room,
        keep_size: bool,
    ) -> Result<()> {
        if self.core.options.read_only {
            return Err(StoreError::ReadOnly);
        }
        node.change_room(&self.core, (offset, len), room, keep_size)?;
        self.note_room(node);
        Ok(())
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE: the first such place at or after `offset`, `None` if `offset` is not in the file or no
    /// data follows.
    pub fn seek(&self, node: &Arc<Node<B>>, offset: u64, seek: Seek) -> Result<Option<u64>> {
        node.seek(&self.core, offset, seek)
    }

    /// copy_file_range(2): returns how many bytes were copied, fewer than asked at the end of the source and of a long
    /// range. Holes stay holes.
    pub fn copy(
        &self,
        from: (&Arc<Node<B>>, u64),
        to: (&Arc<Node<B>>, u64),
        len: u64,
    ) -> Result<u64> {
        if self.core.options.read_only {
            return Err(StoreError::ReadOnly);
        }
        let copied = copy(&self.core, from, to, len);
        self.note_room(to.0);
        copied
    }

    /// Whether a handle is open for writing.
    pub fn has_writers(&self, node: &Arc<Node<B>>) -> bool {
        node.file().is_ok_and(|body| body.state.read().writers > 0)
    }

    fn note_room(&self, node: &Arc<Node<B>>) {
        if !node.waits() {
            return;
        }
        if has_handles(node) {
            self.queue.add(node);
        } else {
            self.queue.make_eligible(node, self.core.clock.elapsed());
        }
    }

    /// Bytes that count as allocated in a published file of `backing_len` bytes of ciphertext of which nothing is in memory.
    pub(super) fn allocated_unopened(&self, node: &Arc<Node<B>>, backing_len: u64) -> u64 {
        let core = &self.core;
        match core.geometry.classify(backing_len) {
            LengthClass::Simple { size } => {
                core.allocated_len(0, core.geometry.block_count(size), size)
            }
            // Its size was asked for, which opened it; unless it is damaged.
            LengthClass::Mapped => node.allocated(core).unwrap_or(0),
            LengthClass::Stub | LengthClass::Invalid => 0,
        }
    }
}

impl<B: Backing> Node<B> {
    /// Bytes of plaintext that are allocated in the version that readers see; `None` if it was not opened yet.
    pub(crate) fn allocated(&self, core: &Core<B>) -> Option<u64> {
        let state = self.file().ok()?.state.read();
        let size = state.size()?;
        if state.open.is_none() && state.frozen.is_none() {
            return state.top.as_ref().map(|top| top.allocated);
        }
        let blocks = core.geometry.block_count(size);
        let mut allocated = 0;
        let mut block = 0;
        while block < blocks {
            let (count, kind) = state.run(core, block, blocks);
            if kind != Kind::Zeros(Zeros::Hole) {
                allocated += core.allocated_len(block, count, size);
            }
            block += count;
        }
        Some(allocated)
    }

    fn seek(&self, core: &Core<B>, offset: u64, seek: Seek) -> Result<Option<u64>> {
        self.load_base(core)?;
        let state = self.file()?.state.read();
        if state.lost {
            return Err(StoreError::Lost);
        }
        let size = state.size().unwrap_or(0);
        if offset >= size {
            return Ok(None);
        }
        let block_len = core.geometry.block_len();
        let blocks = core.geometry.block_count(size);
        let mut block = offset / block_len;
        while block < blocks {
            let (count, kind) = state.run(core, block, blocks);
            if (kind == Kind::Data) == (seek == Seek::Data) {
                return Ok(Some((block * block_len).max(offset)));
            }
            block += count;
        }
        Ok((seek == Seek::Hole).then_some(size))
    }

    fn change_room(
        self: &Arc<Self>,
        core: &Arc<Core<B>>,
        (offset, len): (u64, u64),
        room: Room,
        keep_size: bool,
    ) -> Result<()> {
        if self.kind() != EntryKind::File {
            return Err(StoreError::InvalidArgument);
        }
        let end = offset.saturating_add(len);
        if end > max_size(core) && room != Room::Punch {
            return Err(StoreError::FileTooBig);
        }
        self.load_base(core)?;
        let body = self.file()?;
        {
            let _alone = body.gate.write();
            let Some(plan) = self.plan_room(core, body, (offset, end), room, keep_size)? else {
                return Ok(());
            };
            begin_edit(core, body, None)?;
            let mut state = body.state.write();
            let edit = state.open.as_mut().expect("the gate keeps the open edit");
            edit.size = plan.size;
            for (first, end, zeros) in plan.zeros {
                edit.zero(first, end, zeros);
            }
            for (block, content) in plan.edges {
                edit.put(block, content);
            }
            edit.mtime = core.now();
            edit.ctime = edit.mtime;
            state.set_mtime = None;
            state.changes += 1;
        }
        self.relieve(core)
    }

    /// What a change of the range `offset..end` comes to; `None` if nothing changes. The caller holds the gate.
    fn plan_room(
        &self,
        core: &Core<B>,
        body: &FileBody<B>,
        (offset, end): (u64, u64),
        room: Room,
        keep_size: bool,
    ) -> Result<Option<Plan>> {
        let block_len = core.geometry.block_len();
        let mut plan = Plan::default();
        let mut edges = Vec::new();
        {
            let state = body.state.read();
            if state.lost {
                return Err(StoreError::Lost);
            }
            let size = state.size().unwrap_or(0);
            plan.size = if keep_size { size } else { size.max(end) };
            let end = end.min(plan.size);
            if offset >= end && plan.size == size {
                return Ok(None);
            }
            let up_to = end.div_ceil(block_len);
            let holes = state.holes(core, offset / block_len, up_to);
            if room != Room::Punch {
                let fresh = holes.iter().map(|(first, end)| end - first).sum();
                need_room(core, fresh)?;
                plan.zeros.extend(holes.iter().map(|&(first, end)| (first, end, Zeros::Unwritten)));
            }
            if room != Room::Allocate {
                let first = offset.div_ceil(block_len);
                let last = if end == plan.size { up_to } else { end / block_len };
                let zeros = if room == Room::Punch { Zeros::Hole } else { Zeros::Unwritten };
                if first < last {
                    plan.zeros.push((first, last, zeros));
                }
                edges = edges_of(block_len, (offset, end), (first, last));
                // What is zeros already stays what it is.
                edges.retain(|edge| state.run(core, edge.block, edge.block + 1).1 == Kind::Data);
            }
            if plan.zeros.is_empty() && edges.is_empty() && plan.size == size {
                return Ok(None);
            }
        }
        for Edge { block, from, to } in edges {
            let mut content = self.block_now(core, body, block)?;
            content.bytes_mut()[from..to].fill(0);
            plan.edges.push((block, content));
        }
        Ok(Some(plan))
    }

    /// The block as readers see it. The caller holds the gate.
    fn block_now(&self, core: &Core<B>, body: &FileBody<B>, block: u64) -> Result<Block> {
        for attempt in 0.. {
            let (parts, top) = {
                let state = body.state.read();
                (plan(&state, block, block + 1), state.top.clone())
            };
            let mut content = Block::zeroed(core.block_len());
            let start = block * core.geometry.block_len();
            match show(core, self, &parts, &mut Window::new(start, content.bytes_mut())) {
                Err(_) if is_moving(body, top.as_ref(), attempt) => {}
                shown => return shown.map(|()| content),
            }
        }
        unreachable!("the loop returns")
    }
}

/// What a change of allocation comes to.
#[derive(Default)]
struct Plan {
    size: u64,
    /// First block, one past the last, and what they become.
    zeros: Vec<(u64, u64, Zeros)>,
    /// Blocks of which a part becomes zeros.
    edges: Vec<(u64, Block)>,
}

/// A part of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edge {
    block: u64,
    from: usize,
    to: usize,
}

/// The parts of the bytes `offset..end` that the whole blocks `first..last` leave over.
fn edges_of(block_len: u64, (offset, end): (u64, u64), (first, last): (u64, u64)) -> Vec<Edge> {
    let part = |block: u64| Edge {
        block,
        from: as_index(offset.saturating_sub(block * block_len)),
        to: as_index((end - block * block_len).min(block_len)),
    };
    let (head, tail) = (offset / block_len, end / block_len);
    let mut edges = Vec::new();
    if offset < end && head < first {
        edges.push(part(head));
    }
    if offset < end
        && tail >= last
        && !end.is_multiple_of(block_len)
        && (tail > head || head >= first)
    {
        edges.push(part(tail));
    }
    edges
}

/// Whether the disk has room for `blocks` more blocks.
///
/// # Errors
/// ENOSPC.
fn need_room<B: Backing>(core: &Core<B>, blocks: u64) -> Result<()> {
    if blocks == 0 {
        return Ok(());
    }
    let space = core.backing.space(&core.root).attempt("ask for free space")?;
    let free = if core.backing.is_privileged() { space.blocks_free } else { space.blocks_avail };
    if blocks.saturating_mul(core.geometry.slot_len()) <= free.saturating_mul(space.unit_len) {
        return Ok(());
    }
    Err(StoreError::Io {
        what: "allocate room",
        source: std::io::Error::from_raw_os_error(libc::ENOSPC),
    })
}

impl<B: Backing> FileState<B> {
    /// What `block` is in the version that readers see, and how many blocks before `end` certainly are the same.
    fn run(&self, core: &Core<B>, block: u64, end: u64) -> (u64, Kind) {
        match self.open.as_ref().or(self.frozen.as_deref()) {
            Some(edit) => self.run_in(Some(core), edit, block, end),
            None => self.run_committed(block, end),
        }
    }

    /// As [`FileState::run`], but by what was written and not by what a commit would make of it.
    fn run_written(&self, block: u64, end: u64) -> (u64, Kind) {
        match self.open.as_ref().or(self.frozen.as_deref()) {
            Some(edit) => self.run_in(None, edit, block, end),
            None => self.run_committed(block, end),
        }
    }

    /// What `block` is in `edit`, also by what a commit will make of it if there is a `core` to ask.
    fn run_in(&self, core: Option<&Core<B>>, edit: &Edit<B>, block: u64, end: u64) -> (u64, Kind) {
        // Its commit makes it one whole simple layer, which has no holes.
        if core.is_some_and(|core| finish::is_small(core, edit)) {
            return (end - block, Kind::Data);
        }
        let count = edit.run_len(block, end - block);
        match edit.find(block) {
            Held::Memory(_) => (1, Kind::Data),
            Held::Slot(_) => (count, Kind::Data),
            Held::Zeros(zeros) => (count, Kind::Zeros(zeros)),
            Held::Below => match &self.frozen {
                Some(frozen) if !std::ptr::eq(Arc::as_ptr(frozen), edit) => {
                    self.run_in(core, frozen, block, block + count)
                }
                _ => self.run_committed(block, block + count),
            },
        }
    }

    fn run_committed(&self, block: u64, end: u64) -> (u64, Kind) {
        let run = self.top.as_ref().and_then(|top| top.pieces.run_at(block));
        let Some(run) = run else { return (end - block, Kind::Zeros(Zeros::Hole)) };
        let kind = match run.value {
            Piece::Slot { .. } => Kind::Data,
            Piece::Hole { .. } => Kind::Zeros(Zeros::Hole),
            Piece::Unwritten { .. } => Kind::Zeros(Zeros::Unwritten),
        };
        (run.count.min(end - block), kind)
    }

    /// The holes among the blocks `first..end`, also beyond the end of the file: first and one past the last of each.
    fn holes(&self, core: &Core<B>, first: u64, end: u64) -> Vec<(u64, u64)> {
        let inside = core.geometry.block_count(self.size().unwrap_or(0)).clamp(first.min(end), end);
        let mut holes: Vec<(u64, u64)> = Vec::new();
        let mut add = |first: u64, end: u64| match holes.last_mut() {
            Some(last) if last.1 == first => last.1 = end,
            _ if first < end => holes.push((first, end)),
            _ => {}
        };
        let mut block = first;
        while block < inside {
            let (count, kind) = self.run_written(block, inside);
            if kind == Kind::Zeros(Zeros::Hole) {
                add(block, block + count);
            }
            block += count;
        }
        add(block, end);
        holes
    }
}

fn copy<B: Backing>(
    core: &Arc<Core<B>>,
    (from, from_offset): (&Arc<Node<B>>, u64),
    (to, to_offset): (&Arc<Node<B>>, u64),
    len: u64,
) -> Result<u64> {
    let size = from.size(core)?;
    let len = len.min(size.saturating_sub(from_offset)).min(COPY_ANSWER_MAX);
    if to_offset.checked_add(len).is_none_or(|end| end > max_size(core)) {
        return Err(StoreError::FileTooBig);
    }
    let mut buffer = zeroize::Zeroizing::new(Vec::new());
    let (mut done, mut read) = (0, 0);
    while done < len && read < COPY_LEN {
        let step = copy_some(
            core,
            (from, from_offset + done),
            (to, to_offset + done),
            len - done,
            &mut buffer,
        );
        match step {
            // The source was cut meanwhile.
            Ok((0, _)) => break,
            Ok((count, is_data)) => {
                done += count;
                read += if is_data { count } else { 0 };
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Copies one hole, or some data; tells how many bytes, and whether they were data.
fn copy_some<B: Backing>(
    core: &Arc<Core<B>>,
    (from, from_offset): (&Arc<Node<B>>, u64),
    (to, to_offset): (&Arc<Node<B>>, u64),
    len: u64,
    buffer: &mut Vec<u8>,
) -> Result<(u64, bool)> {
    let data = from.seek(core, from_offset, Seek::Data)?.unwrap_or(u64::MAX);
    if data > from_offset {
        let size = from.size(core)?;
        let count = (data.min(size).saturating_sub(from_offset)).min(len);
        if count > 0 {
            to.change_room(core, (to_offset, count), Room::Punch, false)?;
        }
        return Ok((count, false));
    }
    let hole = from.seek(core, from_offset, Seek::Hole)?.unwrap_or(from_offset);
    let mut count = (hole - from_offset).min(len).min(COPY_STEP_LEN);
    // Whole blocks of the target are sealed as they come: end where one ends.
    let past = (to_offset + count) % core.geometry.block_len();
    if count == COPY_STEP_LEN && past < count {
        count -= past;
    }
    buffer.resize(as_index(count), 0);
    let count = from.read_file(core, from_offset, buffer)?;
    to.write_file(core, to_offset, &buffer[..count], WriteTime::Now)?;
    Ok((count as u64, true))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Every range of a few small blocks: whole blocks and edges cover it once, and nothing else.
    #[test]
    fn whole_blocks_and_edges_cover_a_range() {
        const BLOCK_LEN: u64 = 4;
        const SIZE: u64 = 18;
        for (offset, end) in (0..SIZE).flat_map(|o| (o + 1..=SIZE).map(move |e| (o, e))) {
            let first = offset.div_ceil(BLOCK_LEN);
            let last = if end == SIZE { end.div_ceil(BLOCK_LEN) } else { end / BLOCK_LEN };
            let mut covered = [0; 24];
            for byte in first * BLOCK_LEN..last.max(first) * BLOCK_LEN {
                covered[as_index(byte)] += 1;
            }
            for Edge { block, from, to } in edges_of(BLOCK_LEN, (offset, end), (first, last)) {
                assert!(from < to && to <= as_index(BLOCK_LEN));
                for byte in from..to {
                    covered[as_index(block * BLOCK_LEN) + byte] += 1;
                }
            }
            for (byte, times) in (0..).zip(covered).take(as_index(SIZE)) {
                let inside = (offset..end).contains(&byte);
                assert_eq!(times, i32::from(inside), "byte {byte} of {offset}..{end}");
            }
        }
    }
}
