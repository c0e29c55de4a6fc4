//! Reading and changing one file: what a caller sees is the open edit, over the frozen one, over the
//! committed version.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::backing::{Backing, TempFile};
use crate::clock::Timestamp;

use super::core::Core;
use super::edit::{Block, Edit, Held, Zeros};
use super::error::{Attempt, Result, StoreError};
use super::finish;
use super::node::{FileBody, FileState, Home, Node};
use super::runs::Run;
use super::snapshot::{Piece, Snapshot, Window};
use super::temp::LayerTemp;

/// Full blocks of this many bytes in one request are sealed at once instead of waiting in memory.
const DIRECT_LEN: u64 = 128 << 10;
/// Bytes of one file that wait in memory before they are sealed.
const SPILL_LEN: u64 = 1 << 20;
/// By how many bytes a new file's block may lie beyond the last used slot and still take the slot of its
/// own number. Farther ones would leave a large gap in the backing file.
const IDENTITY_GAP_LEN: u64 = 16 << 20;
/// Between a version's rename and its being known.
const PUBLISHING: Duration = Duration::from_millis(1);
/// How often a reader follows a file whose version is replaced under it.
const VERSIONS_FOLLOWED: usize = 64;

/// Where some blocks come from; holds what it refers to.
pub(super) enum Origin<B: Backing> {
    Memory(Arc<Block>),
    Temp { layer: Arc<LayerTemp<B>>, slot: u64 },
    Committed { snapshot: Arc<Snapshot<B>>, piece: Piece },
    Zeros,
}

impl<B: Backing> Origin<B> {
    fn is_zeros(&self) -> bool {
        match self {
            Origin::Memory(_) | Origin::Temp { .. } => false,
            Origin::Committed { piece, .. } => !matches!(piece, Piece::Slot { .. }),
            Origin::Zeros => true,
        }
    }
}

pub(super) struct Part<B: Backing> {
    pub block: u64,
    pub count: u64,
    pub origin: Origin<B>,
}

impl<B: Backing> Node<B> {
    /// The committed version, opened and verified if it was not yet; `None` if there is none.
    pub(crate) fn load_top(&self, core: &Core<B>) -> Result<Option<Arc<Snapshot<B>>>> {
        let body = self.file()?;
        for _ in 0..VERSIONS_FOLLOWED {
            if let Some(top) = &body.state.read().top {
                return Ok(Some(Arc::clone(top)));
            }
            let is_gone = match self.place.lock().home {
                Home::Gone => Some(true),
                Home::Pending => Some(false),
                Home::Root
                | Home::Tree(_)
                | Home::Inode
                | Home::Ghost(_)
                | Home::Damaged { .. } => None,
            };
            if let Some(is_gone) = is_gone {
                // Published meanwhile, or truly nothing there.
                let top = body.state.read().top.clone();
                return if is_gone && top.is_none() { Err(StoreError::NotFound) } else { Ok(top) };
            }
            match Snapshot::open(core, self) {
                Ok(opened) => {
                    let mut state = body.state.write();
                    return Ok(Some(Arc::clone(state.top.get_or_insert(opened))));
                }
                // A commit published the first version that this process knows: use that.
                Err(_) if body.state.read().top.is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::NotFound)
    }

    /// As [`Node::load_top`], for reading and changing: what does not authenticate is not missed while it does not show.
    pub(super) fn load_base(&self, core: &Core<B>) -> Result<Option<Arc<Snapshot<B>>>> {
        self.load_top(core).or_else(|error| {
            let state = self.file()?.state.read();
            let frozen = state.frozen.as_deref();
            let hidden = state.open.as_ref().into_iter().chain(frozen).any(|e| e.base_blocks == 0);
            if hidden { Ok(None) } else { Err(error) }
        })
    }

    /// The current size in bytes.
    pub(crate) fn size(&self, core: &Core<B>) -> Result<u64> {
        if let Some(size) = self.file()?.state.read().size() {
            return Ok(size);
        }
        Ok(self.load_top(core)?.map_or(0, |top| top.size))
    }

    /// Reads from `offset`; returns how many bytes there were, less than asked only at the end.
    pub(crate) fn read_file(&self, core: &Core<B>, offset: u64, out: &mut [u8]) -> Result<usize> {
        let body = self.file()?;
        for attempt in 0.. {
            let top = self.load_base(core)?;
            let (parts, len) = {
                let state = body.state.read();
                if state.lost {
                    return Err(StoreError::Lost);
                }
                let size = state.size().unwrap_or(0);
                let len = size.saturating_sub(offset).min(out.len() as u64);
                let blocks = Window::new(offset, &mut out[..as_index(len)]).blocks(core);
                (plan(&state, blocks.start, blocks.end), as_index(len))
            };
            if len == 0 {
                return Ok(0);
            }
            match show(core, self, &parts, &mut Window::new(offset, &mut out[..len])) {
                Ok(()) => return Ok(len),
                Err(error) => {
                    // The version that was read may have been replaced meanwhile: that is no damage.
                    if !is_moving(body, top.as_ref(), attempt) {
                        out.fill(0);
                        return Err(error);
                    }
                }
            }
        }
        unreachable!("the loop returns")
    }

    /// Whether a read will not wait for the disk.
    pub(crate) fn read_is_cheap(&self, core: &Core<B>, offset: u64, len: u64) -> bool {
        let Ok(body) = self.file() else { return true };
        let state = body.state.read();
        let Some(size) = state.size() else { return false };
        let end = offset.saturating_add(len).min(size);
        if offset >= end {
            return true;
        }
        let block_len = core.geometry.block_len();
        let (first, last) = (offset / block_len, end.div_ceil(block_len));
        match (&state.open, &state.frozen, &state.top) {
            (None, None, Some(top)) => top.resident(core, first, last),
            // What is in an edit was written lately: memory or the page cache.
            _ => true,
        }
    }

    /// Writes `data` at `offset`. Visible on return; durable after a commit.
    pub(crate) fn write_file(
        self: &Arc<Self>,
        core: &Arc<Core<B>>,
        offset: u64,
        data: &[u8],
        time: WriteTime,
    ) -> Result<()> {
        let body = self.file()?;
        let end = offset.checked_add(data.len() as u64).ok_or(StoreError::FileTooBig)?;
        if end > max_size(core) {
            return Err(StoreError::FileTooBig);
        }
        if data.is_empty() {
            return Ok(());
        }
        self.load_base(core)?;
        {
            let _shared = body.gate.read();
            let kept = match time {
                WriteTime::Now => None,
                WriteTime::Kept => self.begin_mtime(core, body),
            };
            begin_edit(core, body, kept)?;
            let (done, result) = self.write_blocks(core, body, offset, data);
            if done > 0 {
                // What was written before an error is part of the file: nothing may lie beyond its end.
                let mut state = body.state.write();
                let now = core.now();
                let edit = state.open.as_mut().expect("the gate keeps the open edit");
                edit.size = edit.size.max(offset + done as u64);
                edit.ctime = now;
                if time == WriteTime::Now {
                    edit.mtime = now;
                    state.set_mtime = None;
                }
                state.changes += 1;
            }
            result?;
        }
        self.relieve(core)
    }

    /// The modification time that is shown while there is no open edit, for the edit that is about to begin; `None`
    /// if it has begun already.
    fn begin_mtime(self: &Arc<Self>, core: &Arc<Core<B>>, body: &FileBody<B>) -> Option<Timestamp> {
        {
            let state = body.state.read();
            if state.open.is_some() {
                return None;
            }
            if let Some(frozen) = &state.frozen {
                return Some(state.set_mtime.unwrap_or(frozen.mtime));
            }
            if let Some(attr) = state.attr {
                return Some(attr.mtime);
            }
        }
        // Where it cannot be told, the time is that of the write.
        self.stat_home(core).ok().map(|stat| stat.mtime)
    }

    /// Returns how many bytes were written, also before an error.
    fn write_blocks(
        self: &Arc<Self>,
        core: &Arc<Core<B>>,
        body: &FileBody<B>,
        offset: u64,
        data: &[u8],
    ) -> (usize, Result<()>) {
        let block_len = core.geometry.block_len();
        let mut at = 0;
        while at < data.len() {
            let position = offset + at as u64;
            let (block, skip) = (position / block_len, as_index(position % block_len));
            let rest = &data[at..];
            let (len, written) = if skip == 0 && rest.len() as u64 >= block_len {
                let len = rest.len() / core.block_len() * core.block_len();
                (len, write_full(core, body, block, &rest[..len]))
            } else {
                let len = rest.len().min(core.block_len() - skip);
                (len, self.write_partial(core, body, block, skip, &rest[..len]))
            };
            if written.is_err() {
                return (at, written);
            }
            at += len;
        }
        (at, Ok(()))
    }

    /// Part of a block: the rest of it comes from wherever the block is now.
    fn write_partial(
        self: &Arc<Self>,
        core: &Arc<Core<B>>,
        body: &FileBody<B>,
        block: u64,
        skip: usize,
        part: &[u8],
    ) -> Result<()> {
        for attempt in 0.. {
            let (parts, top) = {
                let mut state = body.state.write();
                let edit = state.open.as_mut().expect("the gate keeps the open edit");
                if let Some(held) = edit.patch(block) {
                    held[skip..skip + part.len()].copy_from_slice(part);
                    return Ok(());
                }
                if matches!(edit.find(block), Held::Zeros(_)) {
                    let mut fresh = Block::zeroed(core.block_len());
                    fresh.bytes_mut()[skip..skip + part.len()].copy_from_slice(part);
                    edit.put(block, fresh);
                    return Ok(());
                }
                (plan(&state, block, block + 1), state.top.clone())
            };
            let mut content = Block::zeroed(core.block_len());
            let start = block * core.geometry.block_len();
            match show(core, self, &parts, &mut Window::new(start, content.bytes_mut())) {
                Err(_) if is_moving(body, top.as_ref(), attempt) => continue,
                shown => shown?,
            }
            let mut state = body.state.write();
            let now = plan(&state, block, block + 1);
            // Another writer may have changed the block meanwhile: then once more, on that.
            if same_origin(&parts, &now) {
                let edit = state.open.as_mut().expect("the gate keeps the open edit");
                edit.put(block, content);
            }
        }
        unreachable!("the loop returns")
    }

    /// Seals what waits in memory when there is too much of it.
    pub(super) fn relieve(self: &Arc<Self>, core: &Arc<Core<B>>) -> Result<()> {
        let body = self.file()?;
        let spill = {
            let state = body.state.read();
            let Some(edit) = &state.open else { return Ok(()) };
            let own = edit.buffered_blocks() as u64 * core.geometry.block_len();
            let pressed = core.buffered.load(Ordering::Relaxed) > core.options.memory_budget;
            own > SPILL_LEN || (pressed && own > 0)
        };
        if spill {
            self.spill(core)?;
        }
        self.renew_layer_if_dead(core)
    }

    /// Seals every block that waits in memory into the edit's temporary layer, but a partial last one (which is likely to
    /// be appended to).
    pub(crate) fn spill(self: &Arc<Self>, core: &Arc<Core<B>>) -> Result<()> {
        let body = self.file()?;
        let _alone = body.gate.write();
        let waiting: Vec<(u64, Arc<Block>)> = {
            let state = body.state.read();
            let Some(edit) = &state.open else { return Ok(()) };
            let whole = edit.size / core.geometry.block_len();
            edit.buffered()
                .filter(|(block, _)| *block < whole)
                .map(|(block, held)| (block, Arc::clone(held)))
                .collect()
        };
        if waiting.is_empty() {
            return Ok(());
        }
        *body.state.read().open.as_ref().expect("the gate keeps the open edit").complete.lock() =
            None;
        let (layer, mut identity) = edit_layer(core, body)?;
        let placed = write_runs(core, &layer, &mut identity, &waiting)?;
        let mut state = body.state.write();
        let edit = state.open.as_mut().expect("the gate keeps the open edit");
        edit.identity &= identity;
        for run in placed {
            edit.set_sealed(run.0, run.1, run.2);
        }
        Ok(())
    }

    /// Sets the size. Growing adds zeros; nothing of what was cut off ever shows again.
    pub(crate) fn truncate_file(self: &Arc<Self>, core: &Arc<Core<B>>, size: u64) -> Result<()> {
        let body = self.file()?;
        if size > max_size(core) {
            return Err(StoreError::FileTooBig);
        }
        if size == 0 {
            // A fresh start: what was lost is no longer missed.
            body.state.write().lost = false;
        }
        // Cutting to nothing needs no look at what is cut: a damaged file can be overwritten.
        if size > 0 {
            self.load_base(core)?;
        }
        let _alone = body.gate.write();
        begin_edit(core, body, None)?;
        let block_len = core.geometry.block_len();
        let (old, boundary) = self.boundary(core, body, size)?;
        let mut state = body.state.write();
        let edit = state.open.as_mut().expect("the gate keeps the open edit");
        if size < old || size == 0 {
            edit.cut(size.div_ceil(block_len));
        }
        if let Some((block, content)) = boundary {
            edit.put(block, content);
        }
        edit.size = size;
        edit.mtime = core.now();
        edit.ctime = edit.mtime;
        state.set_mtime = None;
        state.changes += 1;
        Ok(())
    }

    /// The size, and the block through which a cut to `size` goes, as it is after the cut. The caller holds the gate.
    fn boundary(
        &self,
        core: &Core<B>,
        body: &FileBody<B>,
        size: u64,
    ) -> Result<(u64, Option<(u64, Block)>)> {
        let block_len = core.geometry.block_len();
        let last = size / block_len;
        for attempt in 0.. {
            let old = body.state.read().open.as_ref().map_or(0, |edit| edit.size);
            let (parts, top) = {
                let state = body.state.read();
                if size >= old || size.is_multiple_of(block_len) {
                    return Ok((old, None));
                }
                (plan(&state, last, last + 1), state.top.clone())
            };
            // Zeros need no block of their own.
            if parts.iter().all(|part| part.origin.is_zeros()) {
                return Ok((old, None));
            }
            let mut content = Block::zeroed(core.block_len());
            match show(core, self, &parts, &mut Window::new(last * block_len, content.bytes_mut()))
            {
                Err(_) if is_moving(body, top.as_ref(), attempt) => continue,
                shown => shown?,
            }
            content.bytes_mut()[as_index(size % block_len)..].fill(0);
            return Ok((old, Some((last, content))));
        }
        unreachable!("the loop returns")
    }

    /// Makes sure that what was written can be committed: a small file is sealed whole, for a large one
    /// the room for the rest is reserved. Idempotent.
    ///
    /// # Errors
    /// ENOSPC and EIO reach the application here, before close.
    pub(crate) fn complete_edit(self: &Arc<Self>, core: &Arc<Core<B>>) -> Result<()> {
        let body = self.file()?;
        let _alone = body.gate.write();
        let (small, rest) = {
            let state = body.state.read();
            if state.lost {
                return Err(StoreError::Lost);
            }
            let Some(edit) = &state.open else { return Ok(()) };
            if edit.complete.lock().is_some() {
                return Ok(());
            }
            // Under a frozen edit the next version's predecessor is not known yet: reserve only.
            let small = state.frozen.is_none() && finish::is_small(core, edit);
            (small, finish::rest_len(core, edit))
        };
        if small {
            let finished = finish::small(core, self, Generation::Open)?;
            finished.write()?;
            let state = body.state.read();
            let edit = state.open.as_ref().expect("the gate keeps the open edit");
            *edit.complete.lock() = Some(finished);
            return Ok(());
        }
        let (layer, _) = edit_layer(core, body)?;
        let end = layer.with(|sealer| core.geometry.slot_offset(sealer.slots_reserved()));
        layer.file()?.reserve(end, rest).attempt("reserve room for a layer")
    }

    /// The whole content of one uncommitted generation, block-padded. The caller keeps that generation from
    /// changing.
    pub(crate) fn gather(
        &self,
        core: &Core<B>,
        which: Generation,
        blocks: std::ops::Range<u64>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let body = self.file()?;
        let parts = {
            let state = body.state.read();
            let edit = match which {
                Generation::Open => state.open.as_ref(),
                Generation::Frozen => state.frozen.as_deref(),
            };
            let mut parts = Vec::new();
            plan_edit(&state, edit, blocks.start, blocks.end, &mut parts);
            parts
        };
        let count = as_index(blocks.end - blocks.start);
        let mut content = Zeroizing::new(vec![0; count * core.block_len()]);
        let start = blocks.start * core.geometry.block_len();
        show(core, self, &parts, &mut Window::new(start, &mut content))?;
        Ok(content)
    }
}

/// Which uncommitted version of a file is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// The one that takes writes.
    Open,
    /// The one that is being committed.
    Frozen,
}

/// What a write does to the modification time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteTime {
    /// It becomes now.
    Now,
    /// It stays as it is shown: whoever caches writes says itself when they were.
    Kept,
}

/// Opens an edit if there is none, changed at `mtime` or else now. The caller holds the gate.
pub(super) fn begin_edit<B: Backing>(
    core: &Arc<Core<B>>,
    body: &FileBody<B>,
    mtime: Option<Timestamp>,
) -> Result<()> {
    let mut state = body.state.write();
    if state.lost {
        return Err(StoreError::Lost);
    }
    if let Some(edit) = &state.open {
        // Whatever was ready to publish no longer is.
        *edit.complete.lock() = None;
    } else {
        let base = state.size().unwrap_or(0);
        let mut edit = Edit::begin(core, base);
        edit.mtime = mtime.unwrap_or(edit.mtime);
        state.open = Some(edit);
        // Even if what follows fails: an edit that counts as no change would wait for ever.
        state.changes += 1;
    }
    Ok(())
}

/// The open edit's temporary layer, made if there is none. The caller holds the gate.
fn edit_layer<B: Backing>(
    core: &Arc<Core<B>>,
    body: &FileBody<B>,
) -> Result<(Arc<LayerTemp<B>>, bool)> {
    {
        let state = body.state.read();
        let edit = state.open.as_ref().expect("the gate keeps the open edit");
        if let Some(layer) = &edit.layer {
            return Ok((Arc::clone(layer), edit.identity));
        }
    }
    let fresh = LayerTemp::create(core, 0o600)?;
    let mut state = body.state.write();
    let edit = state.open.as_mut().expect("the gate keeps the open edit");
    let layer = Arc::clone(edit.layer.get_or_insert(fresh));
    Ok((layer, edit.identity))
}

/// Whole blocks: sealed at once when they are many, else kept in memory.
fn write_full<B: Backing>(
    core: &Arc<Core<B>>,
    body: &FileBody<B>,
    block: u64,
    plain: &[u8],
) -> Result<()> {
    let count = (plain.len() / core.block_len()) as u64;
    let whole_is_small = {
        let state = body.state.read();
        let edit = state.open.as_ref().expect("the gate keeps the open edit");
        edit.layer.is_none()
            && edit.size.max((block + count) * core.geometry.block_len()) <= core.small_len()
    };
    if (plain.len() as u64) < DIRECT_LEN || whole_is_small {
        let mut state = body.state.write();
        let edit = state.open.as_mut().expect("the gate keeps the open edit");
        for (i, content) in plain.chunks(core.block_len()).enumerate() {
            edit.put(block + i as u64, Block::copy_of(content));
        }
        return Ok(());
    }
    let (layer, identity) = edit_layer(core, body)?;
    let slot = seal_blocks(&layer, identity, block, plain)?;
    let mut state = body.state.write();
    let edit = state.open.as_mut().expect("the gate keeps the open edit");
    edit.identity &= slot == block;
    edit.set_sealed(block, count, slot);
    Ok(())
}

/// Seals runs of consecutive blocks; returns (block, count, slot) of each.
pub(crate) fn write_runs<B: Backing>(
    core: &Core<B>,
    layer: &Arc<LayerTemp<B>>,
    identity: &mut bool,
    blocks: &[(u64, Arc<Block>)],
) -> Result<Vec<(u64, u64, u64)>> {
    let mut placed = Vec::new();
    let mut rest = blocks;
    while let Some((first, _)) = rest.first() {
        let count = rest
            .iter()
            .enumerate()
            .take(as_index(SPILL_LEN) / core.block_len())
            .take_while(|(i, (block, _))| *block == first + *i as u64)
            .count();
        let (run, later) = rest.split_at(count);
        let mut plain = Zeroizing::new(Vec::with_capacity(count * core.block_len()));
        for (_, content) in run {
            plain.extend_from_slice(content.bytes());
        }
        let slot = seal_blocks(layer, *identity, *first, &plain)?;
        *identity &= slot == *first;
        placed.push((*first, count as u64, slot));
        rest = later;
    }
    Ok(placed)
}

/// Seals whole blocks: in the slots of their own numbers where the edit still does that, else in the
/// next free ones. Returns the first slot.
pub(super) fn seal_blocks<B: Backing>(
    layer: &Arc<LayerTemp<B>>,
    identity: bool,
    block: u64,
    plain: &[u8],
) -> Result<u64> {
    let gap_blocks = IDENTITY_GAP_LEN / layer.block_len();
    if identity
        && block <= layer.with(crate::format::LayerSealer::slots_reserved) + gap_blocks
        && let Some(slot) = layer.write_slots(Some(block), plain)?
    {
        return Ok(slot);
    }
    let slot = layer.write_slots(None, plain)?;
    Ok(slot.expect("the next free slots are free"))
}

/// Where the blocks `first..end` are, in order.
pub(super) fn plan<B: Backing>(state: &FileState<B>, first: u64, end: u64) -> Vec<Part<B>> {
    let mut parts = Vec::new();
    plan_edit(state, state.open.as_ref(), first, end, &mut parts);
    parts
}

/// Plans over `edit` (or, `None`, over what lies below the open edit).
fn plan_edit<B: Backing>(
    state: &FileState<B>,
    edit: Option<&Edit<B>>,
    first: u64,
    end: u64,
    parts: &mut Vec<Part<B>>,
) {
    let Some(edit) = edit else { return plan_below(state, first, end, parts) };
    let mut block = first;
    while block < end {
        let run = edit.run_len(block, end - block);
        let (count, origin) = match edit.find(block) {
            Held::Memory(held) => (1, Origin::Memory(held)),
            Held::Slot(slot) => {
                let layer = edit.layer.as_ref().expect("a sealed block has a layer");
                (run, Origin::Temp { layer: Arc::clone(layer), slot: slot.0 })
            }
            Held::Zeros(Zeros::Hole | Zeros::Unwritten) => (run, Origin::Zeros),
            Held::Below => {
                let is_open = state.open.as_ref().is_some_and(|open| std::ptr::eq(open, edit));
                if is_open {
                    plan_below(state, block, block + run, parts);
                } else {
                    plan_committed(state, block, block + run, parts);
                }
                block += run;
                continue;
            }
        };
        parts.push(Part { block, count, origin });
        block += count;
    }
}

/// Plans over what lies below the open edit.
fn plan_below<B: Backing>(state: &FileState<B>, first: u64, end: u64, parts: &mut Vec<Part<B>>) {
    match &state.frozen {
        Some(frozen) => plan_edit(state, Some(frozen), first, end, parts),
        None => plan_committed(state, first, end, parts),
    }
}

fn plan_committed<B: Backing>(
    state: &FileState<B>,
    first: u64,
    end: u64,
    parts: &mut Vec<Part<B>>,
) {
    let mut block = first;
    if let Some(top) = &state.top {
        for run in top.pieces.range(first..end) {
            let origin = Origin::Committed { snapshot: Arc::clone(top), piece: run.value };
            parts.push(Part { block: run.block, count: run.count, origin });
            block = run.end();
        }
    }
    if block < end {
        parts.push(Part { block, count: end - block, origin: Origin::Zeros });
    }
}

/// Whether a failed read may be no damage: the version that was planned on was replaced meanwhile, or is just being
/// published, so that its file or temporary layer is no longer where it was.
pub(super) fn is_moving<B: Backing>(
    body: &FileBody<B>,
    before: Option<&Arc<Snapshot<B>>>,
    attempt: usize,
) -> bool {
    let publishing = {
        let state = body.state.read();
        match (before, &state.top) {
            (Some(before), Some(now)) if !Arc::ptr_eq(before, now) => {
                return attempt < 4 * VERSIONS_FOLLOWED;
            }
            (None, Some(_)) => return attempt < 4 * VERSIONS_FOLLOWED,
            _ => state.frozen.is_some() && attempt < VERSIONS_FOLLOWED,
        }
    };
    if publishing {
        std::thread::sleep(PUBLISHING);
    }
    publishing
}

/// Whether two plans of one block mean the same bytes.
pub(super) fn same_origin<B: Backing>(before: &[Part<B>], now: &[Part<B>]) -> bool {
    match (before, now) {
        ([before], [now]) => match (&before.origin, &now.origin) {
            (Origin::Memory(a), Origin::Memory(b)) => Arc::ptr_eq(a, b),
            (Origin::Temp { layer: a, slot: s }, Origin::Temp { layer: b, slot: t }) => {
                Arc::ptr_eq(a, b) && s == t
            }
            // A commit does not change content: what was frozen or committed before may be planned
            // through the version that was published meanwhile.
            (
                Origin::Committed { .. } | Origin::Memory(_) | Origin::Temp { .. },
                Origin::Committed { .. },
            )
            | (Origin::Zeros, Origin::Zeros) => true,
            _ => false,
        },
        _ => false,
    }
}

/// Shows the planned blocks in the window, in order.
pub(super) fn show<B: Backing>(
    core: &Core<B>,
    node: &Node<B>,
    parts: &[Part<B>],
    window: &mut Window<'_>,
) -> Result<()> {
    for part in parts {
        match &part.origin {
            Origin::Zeros => window.zero(core, part.block, part.count),
            Origin::Memory(held) => window.copy(core, part.block, held.bytes()),
            Origin::Committed { snapshot, piece } => {
                let run = Run { block: part.block, count: part.count, value: *piece };
                snapshot.read_run(core, node, run, window)?;
            }
            Origin::Temp { layer, slot } => {
                for i in 0..part.count {
                    let at = slot + i;
                    window.open_block(
                        core,
                        part.block + i,
                        core.geometry.block_len(),
                        |cipher| {
                            layer.read_at(core.geometry.slot_offset(at), cipher)?;
                            layer.key().open_slot(at, cipher).map_err(|e| {
                                StoreError::damaged(format!("a temporary layer, slot {at}"), &e)
                            })
                        },
                    )?;
                }
            }
        }
    }
    Ok(())
}

/// The largest size a file can have: what 2^32 slots hold, and what an offset can say.
pub(super) fn max_size<B: Backing>(core: &Core<B>) -> u64 {
    (core.geometry.block_len() << 32).min(i64::MAX.cast_unsigned())
}

pub(super) fn as_index(n: u64) -> usize {
    usize::try_from(n).expect("the target has 64-bit indexes")
}
