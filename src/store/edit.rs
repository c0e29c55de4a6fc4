//! The uncommitted next version of a file: what it changes, over whatever lies below it.
//!
//! Blocks wait in memory (partial, or likely to change again) or are sealed in slots of a temporary layer. A slot is
//! written once: a block that changes again goes back to memory and its slot is burnt.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use zeroize::Zeroize;

use crate::backing::Backing;
use crate::clock::Timestamp;

use super::core::Core;
use super::finish::Finished;
use super::runs::{Along, RunMap};
use super::temp::LayerTemp;

/// One block of plaintext in memory, wiped on drop.
#[derive(Clone)]
pub(crate) struct Block(Box<[u8]>);

impl Block {
    pub fn zeroed(len: usize) -> Self {
        Block(vec![0; len].into_boxed_slice())
    }

    pub fn copy_of(bytes: &[u8]) -> Self {
        Block(bytes.into())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A slot of the edit's own layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnSlot(pub u64);

impl Along for OwnSlot {
    fn advance(self, count: u64) -> Self {
        OwnSlot(self.0 + count)
    }
}

/// Zeros that an edit lays over what is below, or in an edit's own part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zeros {
    /// Nothing is allocated.
    Hole,
    /// Allocated and never written.
    Unwritten,
}

impl Along for Zeros {
    fn advance(self, _count: u64) -> Self {
        self
    }
}

/// Where a block of an edit is.
pub(crate) enum Held {
    Memory(Arc<Block>),
    Slot(OwnSlot),
    /// Not here: below.
    Below,
    Zeros(Zeros),
}

/// See the module's text.
pub(crate) struct Edit<B: Backing> {
    core: Arc<Core<B>>,
    /// When the first change was made.
    pub begun: Duration,
    /// Blocks from here on do not show what lies below; they are holes unless the edit holds them.
    pub base_blocks: u64,
    pub size: u64,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// The temporary layer, once something was sealed.
    pub layer: Option<Arc<LayerTemp<B>>>,
    /// Blocks sealed in the layer. Disjoint from `buffer` and `zeroed`.
    pub sealed: RunMap<OwnSlot>,
    /// Blocks made zeros, over whatever is below; holes only under `base_blocks`, where something may show. Disjoint from
    /// `buffer`.
    pub zeroed: RunMap<Zeros>,
    buffer: BTreeMap<u64, Arc<Block>>,
    /// Whether block b still takes slot b.
    pub identity: bool,
    /// The whole layer, ready to publish, if nothing changed since it was sealed (small files).
    pub complete: Mutex<Option<Finished<B>>>,
}

impl<B: Backing> Edit<B> {
    /// A change of a file of `base_size` bytes; nothing is changed yet.
    pub fn begin(core: &Arc<Core<B>>, base_size: u64) -> Self {
        let base_blocks = core.geometry.block_count(base_size);
        let now = core.now();
        Edit {
            core: Arc::clone(core),
            begun: core.clock.elapsed(),
            base_blocks,
            size: base_size,
            mtime: now,
            ctime: now,
            layer: None,
            sealed: RunMap::default(),
            zeroed: RunMap::default(),
            buffer: BTreeMap::new(),
            identity: base_blocks == 0,
            complete: Mutex::new(None),
        }
    }

    /// Where `block` is.
    pub fn find(&self, block: u64) -> Held {
        if let Some(held) = self.buffer.get(&block) {
            Held::Memory(Arc::clone(held))
        } else if let Some(slot) = self.sealed.get(block) {
            Held::Slot(slot)
        } else if let Some(zeros) = self.zeroed.get(block) {
            Held::Zeros(zeros)
        } else if block < self.base_blocks {
            Held::Below
        } else {
            Held::Zeros(Zeros::Hole)
        }
    }

    /// How many blocks from `block` on, at most `limit`, are found at the same kind of place as `block`, for kinds that
    /// come in runs.
    pub fn run_len(&self, block: u64, limit: u64) -> u64 {
        let next_buffered = self.buffer.range(block..).next().map_or(u64::MAX, |(&b, _)| b) - block;
        let len = if let Some(run) = self.sealed.run_at(block) {
            run.count
        } else if let Some(run) = self.zeroed.run_at(block) {
            run.count
        } else {
            let next_sealed = self.sealed.next_from(block).map_or(u64::MAX, |b| b - block);
            let next_zeroed = self.zeroed.next_from(block).map_or(u64::MAX, |b| b - block);
            let base = if block < self.base_blocks { self.base_blocks - block } else { u64::MAX };
            next_sealed.min(next_zeroed).min(base)
        };
        len.min(next_buffered).min(limit).max(1)
    }

    /// Puts a block in memory, in place of wherever it was.
    pub fn put(&mut self, block: u64, content: Block) {
        let len = content.0.len() as u64;
        self.sealed.remove(block..block + 1);
        self.zeroed.remove(block..block + 1);
        if self.buffer.insert(block, Arc::new(content)).is_none() {
            self.core.buffered.fetch_add(len, Ordering::Relaxed);
        }
    }

    /// The block in memory, to be changed.
    pub fn patch(&mut self, block: u64) -> Option<&mut [u8]> {
        self.buffer.get_mut(&block).map(|held| Arc::make_mut(held).bytes_mut())
    }

    /// Notes that `count` blocks from `block` on are in `slot` and on of the layer.
    pub fn set_sealed(&mut self, block: u64, count: u64, slot: u64) {
        for b in self.buffered_in(block, block + count) {
            self.drop_buffered(b);
        }
        self.zeroed.remove(block..block + count);
        self.sealed.insert(block, count, OwnSlot(slot));
    }

    /// Makes the blocks `first..end` zeros, wherever they were.
    pub fn zero(&mut self, first: u64, end: u64, zeros: Zeros) {
        if first >= end {
            return;
        }
        for block in self.buffered_in(first, end) {
            self.drop_buffered(block);
        }
        self.sealed.remove(first..end);
        self.zeroed.remove(first..end);
        let end = match zeros {
            Zeros::Unwritten => end,
            // Beyond the base everything is a hole unless the edit holds it.
            Zeros::Hole => end.min(self.base_blocks),
        };
        self.zeroed.insert(first, end.saturating_sub(first), zeros);
    }

    fn buffered_in(&self, first: u64, end: u64) -> Vec<u64> {
        self.buffer.range(first..end).map(|(&b, _)| b).collect()
    }

    fn drop_buffered(&mut self, block: u64) {
        if let Some(held) = self.buffer.remove(&block) {
            self.core.buffered.fetch_sub(held.0.len() as u64, Ordering::Relaxed);
        }
    }

    /// Forgets every block from `first` on, also those below.
    pub fn cut(&mut self, first: u64) {
        for block in self.buffered_in(first, u64::MAX) {
            self.drop_buffered(block);
        }
        self.sealed.remove(first..u64::MAX);
        self.zeroed.remove(first..u64::MAX);
        self.base_blocks = self.base_blocks.min(first);
        if first == 0 {
            // Nothing refers to the layer any more: start over under a new id.
            self.layer = None;
            self.identity = true;
        }
    }

    /// The blocks in memory, in order.
    pub fn buffered(&self) -> impl Iterator<Item = (u64, &Arc<Block>)> + '_ {
        self.buffer.iter().map(|(&block, held)| (block, held))
    }

    /// Number of blocks in memory.
    pub fn buffered_blocks(&self) -> usize {
        self.buffer.len()
    }

    /// Number of blocks that this edit holds.
    pub fn held_blocks(&self) -> u64 {
        self.buffer.len() as u64 + self.sealed.blocks()
    }

    /// Whether every block that this edit holds is in memory, so that it can be sealed again under another id.
    pub fn in_memory(&self) -> bool {
        self.sealed.is_empty()
    }
}

impl<B: Backing> Drop for Edit<B> {
    fn drop(&mut self) {
        let bytes: u64 = self.buffer.values().map(|held| held.0.len() as u64).sum();
        self.core.buffered.fetch_sub(bytes, Ordering::Relaxed);
    }
}
