//! A committed version of a file, readable without locks for as long as anybody holds it.

use std::sync::Arc;

use crate::backing::Backing;
use crate::format::{Extent, LayerMap, Parent, Role, Source, TailTag};

use super::core::Core;
use super::error::{Result, StoreError};
use super::layer::{Layer, Spot, describe};
use super::node::Node;
use super::runs::{Along, Run, RunMap};

/// Where a block of a committed version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// In `slot` of the layer with this index (0 is the top).
    Slot { layer: u32, slot: u64 },
    /// Nowhere: it reads as zeros. The layer with this index says so.
    Hole { layer: u32 },
    /// Allocated and never written: it reads as zeros. The layer with this index says so.
    Unwritten { layer: u32 },
}

impl Along for Piece {
    fn advance(self, count: u64) -> Self {
        match self {
            Piece::Slot { layer, slot } => Piece::Slot { layer, slot: slot + count },
            Piece::Hole { .. } | Piece::Unwritten { .. } => self,
        }
    }
}

/// See the module's text.
pub(crate) struct Snapshot<B: Backing> {
    pub size: u64,
    pub tag: TailTag,
    /// The top first, then the older ones, newest first.
    pub layers: Vec<Arc<Layer<B>>>,
    /// Every block of the file.
    pub pieces: RunMap<Piece>,
    /// Plaintext bytes that count as allocated: all but the holes.
    pub allocated: u64,
}

impl<B: Backing> Snapshot<B> {
    /// Opens and verifies the published version of `node`, all its layers.
    pub fn open(core: &Core<B>, node: &Node<B>) -> Result<Arc<Self>> {
        let top = Layer::open(core, node, Spot::Top)?;
        if top.layer.tail.role != Role::Version {
            return Err(StoreError::broken(describe(node, Spot::Top), "is no version of a file"));
        }
        let mut layers = vec![top.layer];
        let mut maps = vec![top.map];
        let parents: Vec<Parent> =
            maps[0].as_ref().map(|map| map.parents.clone()).unwrap_or_default();
        for parent in &parents {
            let spot = Spot::Older { entry: parent.owner, name: parent.layer };
            let opened = Layer::open(core, node, spot)?;
            if opened.layer.key.id() != parent.layer || opened.layer.tag != parent.tag {
                return Err(StoreError::broken(
                    describe(node, spot),
                    "is not what its top refers to",
                ));
            }
            layers.push(opened.layer);
            maps.push(opened.map);
        }
        Self::assemble(core, layers, &maps).ok_or_else(|| {
            StoreError::broken(describe(node, Spot::Top), "its layers do not cover the file")
        })
    }

    /// Puts layers together; `None` if they do not cover the file exactly.
    fn assemble(
        core: &Core<B>,
        layers: Vec<Arc<Layer<B>>>,
        maps: &[Option<LayerMap>],
    ) -> Option<Arc<Self>> {
        let blocks = core.geometry.block_count(layers[0].tail.size);
        let mut pieces = RunMap::default();
        for (index, (layer, map)) in layers.iter().zip(maps).enumerate().rev() {
            let index = u32::try_from(index).expect("a map holds fewer parents than that");
            match map {
                None => {
                    pieces.insert(0, layer.tail.slots, Piece::Slot { layer: index, slot: 0 });
                }
                Some(map) => {
                    for Extent { block, count, source, slot } in &map.extents {
                        let piece = match source {
                            Source::Own => Piece::Slot { layer: index, slot: *slot },
                            Source::Hole => Piece::Hole { layer: index },
                            Source::Unwritten => Piece::Unwritten { layer: index },
                        };
                        pieces.insert(*block, *count, piece);
                    }
                }
            }
        }
        pieces.remove(blocks..u64::MAX);
        (pieces.blocks() == blocks).then(|| Self::sealed(core, layers, pieces))
    }

    /// A version that this process just sealed.
    pub fn sealed(core: &Core<B>, layers: Vec<Arc<Layer<B>>>, pieces: RunMap<Piece>) -> Arc<Self> {
        let (size, tag) = (layers[0].tail.size, layers[0].tag);
        let runs = pieces.iter().filter(|run| !matches!(run.value, Piece::Hole { .. }));
        let allocated = runs.map(|run| core.allocated_len(run.block, run.count, size)).sum();
        Arc::new(Snapshot { size, tag, layers, pieces, allocated })
    }

    /// The top.
    pub fn top(&self) -> &Arc<Layer<B>> {
        &self.layers[0]
    }

    /// Decrypts the blocks of `run`, which is in one layer or a hole, into `window`.
    pub fn read_run(
        &self,
        core: &Core<B>,
        node: &Node<B>,
        run: Run<Piece>,
        window: &mut Window<'_>,
    ) -> Result<()> {
        let Piece::Slot { layer, slot } = run.value else {
            window.zero(core, run.block, run.count);
            return Ok(());
        };
        let layer = &self.layers[layer as usize];
        let content = layer.content(core, node)?;
        let (slots, last_len) = (layer.tail.slots, u64::from(layer.tail.last_slot_len));
        for i in 0..run.count {
            let at = slot + i;
            let plain_len = if at + 1 == slots { last_len } else { core.geometry.block_len() };
            window.open_block(core, run.block + i, plain_len, |cipher| {
                content.copy_out(core.geometry.slot_offset(at), cipher)?;
                layer.key.open_slot(at, cipher).map_err(|e| {
                    StoreError::damaged(format!("{} slot {at}", describe(node, layer.spot())), &e)
                })
            })?;
        }
        Ok(())
    }

    /// Whether reading the blocks will not wait for the disk.
    pub fn resident(&self, core: &Core<B>, first: u64, end: u64) -> bool {
        self.pieces.range(first..end).all(|run| match run.value {
            Piece::Slot { layer, slot } => {
                self.layers[layer as usize].resident(core, slot, run.count)
            }
            Piece::Hole { .. } | Piece::Unwritten { .. } => true,
        })
    }
}

/// A caller's buffer as a window on the file: `out[0]` is the byte at `offset`.
pub(crate) struct Window<'a> {
    pub offset: u64,
    pub out: &'a mut [u8],
    scratch: Vec<u8>,
}

impl<'a> Window<'a> {
    pub fn new(offset: u64, out: &'a mut [u8]) -> Self {
        Window { offset, out, scratch: Vec::new() }
    }

    /// The blocks that the window touches.
    pub fn blocks<B: Backing>(&self, core: &Core<B>) -> std::ops::Range<u64> {
        let block_len = core.geometry.block_len();
        let end = self.offset + self.out.len() as u64;
        self.offset / block_len..end.div_ceil(block_len)
    }

    /// The part of `block` that the window shows: bytes `from..to` of the block at `out[at..]`.
    fn part(&self, block_start: u64, len: u64) -> (usize, usize, usize) {
        let end = self.offset + self.out.len() as u64;
        let from = self.offset.max(block_start) - block_start;
        let to = (end.min(block_start + len)).saturating_sub(block_start).max(from);
        let at = (block_start + from).saturating_sub(self.offset);
        let index = |n: u64| usize::try_from(n).expect("inside a buffer");
        (index(from), index(to), index(at))
    }

    /// Shows zeros for `count` blocks.
    pub fn zero<B: Backing>(&mut self, core: &Core<B>, block: u64, count: u64) {
        let block_len = core.geometry.block_len();
        let start = (block * block_len).max(self.offset);
        let end = ((block + count) * block_len).min(self.offset + self.out.len() as u64);
        if start < end {
            let index = |n: u64| usize::try_from(n - self.offset).expect("inside a buffer");
            self.out[index(start)..index(end)].fill(0);
        }
    }

    /// Shows a block that is in memory.
    pub fn copy<B: Backing>(&mut self, core: &Core<B>, block: u64, plain: &[u8]) {
        let (from, to, at) = self.part(block * core.geometry.block_len(), plain.len() as u64);
        self.out[at..at + (to - from)].copy_from_slice(&plain[from..to]);
    }

    /// Shows a block of `plain_len` bytes that `open` decrypts in a buffer of ciphertext length; what
    /// the block has no bytes for is zeros. Decrypts in place in the caller's buffer where that has
    /// room for the whole block and its tag.
    pub fn open_block<B: Backing>(
        &mut self,
        core: &Core<B>,
        block: u64,
        plain_len: u64,
        open: impl FnOnce(&mut [u8]) -> Result<usize>,
    ) -> Result<()> {
        let block_len = core.geometry.block_len();
        let start = block * block_len;
        let cipher_len = usize::try_from(plain_len).expect("a block fits memory") + 16;
        if plain_len == block_len && start >= self.offset {
            let at = usize::try_from(start - self.offset).expect("inside a buffer");
            // The tag lands on the next block's first bytes, which are shown after this one.
            if let Some(place) = self.out.get_mut(at..at + cipher_len) {
                if let Err(error) = open(place) {
                    place.fill(0);
                    return Err(error);
                }
                return Ok(());
            }
        }
        self.scratch.resize(cipher_len, 0);
        open(&mut self.scratch)?;
        self.scratch.truncate(cipher_len - 16);
        self.scratch.resize(core.block_len(), 0);
        let scratch = std::mem::take(&mut self.scratch);
        self.copy(core, block, &scratch);
        self.scratch = scratch;
        Ok(())
    }
}
