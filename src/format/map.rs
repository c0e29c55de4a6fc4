//! The map of a mapped layer: what the layer holds, and which layers lie below it (FORMAT.md, "Map").

use super::FormatError;
use super::geometry::SLOTS_MAX;
use super::ids::{EntryId, ObjectId, TailTag};

/// Length of an extent record in bytes.
pub(super) const EXTENT_LEN: usize = 32;
/// Length of a parent record in bytes.
pub(super) const PARENT_LEN: usize = 96;
/// Plaintext bytes of a map page at most: 64 KiB sealed. (With 64 KiB of plaintext a page would be as long as a
/// slot of 64 KiB blocks, and no map could have the length class of mapped layers.)
pub(super) const PAGE_LEN: usize = 65_520;

const SOURCE_OWN: u32 = 0;
const SOURCE_HOLE: u32 = 0xFFFF_FFFF;
const SOURCE_UNWRITTEN: u32 = 0xFFFF_FFFE;

/// Where the blocks of an extent are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In this layer's slots.
    Own,
    /// Nowhere: zeros, whatever lies below.
    Hole,
    /// Allocated but never written: zeros.
    Unwritten,
}

/// A run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block.
    pub block: u64,
    /// Number of blocks, at least 1.
    pub count: u64,
    /// Where they are.
    pub source: Source,
    /// First slot for [`Source::Own`], else 0.
    pub slot: u64,
}

/// A layer below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its object id.
    pub layer: ObjectId,
    /// Its tail's tag, which stands for all of its content.
    pub tag: TailTag,
    /// The entry it belongs to.
    pub owner: EntryId,
    /// Its commit number.
    pub commit: u64,
    /// The file's size at that commit.
    pub size: u64,
    /// The epoch of its key.
    pub epoch: u32,
}

/// What a mapped layer says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerMap {
    /// Sorted, disjoint, maximal.
    pub extents: Vec<Extent>,
    /// Newest first.
    pub parents: Vec<Parent>,
}

impl LayerMap {
    /// The records, without padding. How many parents there are is the tail's to say.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(self.parents.len() * PARENT_LEN + self.extents.len() * EXTENT_LEN);
        for parent in &self.parents {
            bytes.extend_from_slice(&parent.layer.0);
            bytes.extend_from_slice(&parent.tag.0);
            bytes.extend_from_slice(&parent.owner.get().to_le_bytes());
            bytes.extend_from_slice(&parent.commit.to_le_bytes());
            bytes.extend_from_slice(&parent.size.to_le_bytes());
            bytes.extend_from_slice(&parent.epoch.to_le_bytes());
            bytes.extend_from_slice(&[0; 20]);
        }
        for extent in &self.extents {
            let (source, slot) = match extent.source {
                Source::Own => (SOURCE_OWN, extent.slot),
                Source::Hole => (SOURCE_HOLE, 0),
                Source::Unwritten => (SOURCE_UNWRITTEN, 0),
            };
            bytes.extend_from_slice(&extent.block.to_le_bytes());
            bytes.extend_from_slice(&extent.count.to_le_bytes());
            bytes.extend_from_slice(&source.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&slot.to_le_bytes());
        }
        bytes
    }

    /// Parses an opened map of a layer with `slots` slots in a file of `blocks` blocks.
    ///
    /// # Errors
    /// Whatever is not exactly what [`LayerMap::encode`] and zero padding give.
    pub(super) fn parse(
        bytes: &[u8],
        parents: u32,
        slots: u64,
        blocks: u64,
    ) -> Result<LayerMap, FormatError> {
        let parents_len = (parents as usize)
            .checked_mul(PARENT_LEN)
            .filter(|len| *len <= bytes.len())
            .ok_or(FormatError::Map("more parents than bytes"))?;
        let (parent_bytes, rest) = bytes.split_at(parents_len);
        let mut map = LayerMap::default();
        for record in parent_bytes.chunks_exact(PARENT_LEN) {
            map.parents.push(parse_parent(record)?);
        }
        let mut records = rest.chunks_exact(EXTENT_LEN);
        let mut before: Option<Extent> = None;
        let mut padding = false;
        for record in records.by_ref() {
            if record.iter().all(|byte| *byte == 0) {
                padding = true;
                continue;
            }
            if padding {
                return Err(FormatError::Map("an extent after the padding"));
            }
            let extent = parse_extent(record, slots, blocks)?;
            if let Some(before) = before {
                check_order(&before, &extent)?;
            }
            map.extents.push(extent);
            before = Some(extent);
        }
        if records.remainder().iter().any(|byte| *byte != 0) {
            return Err(FormatError::Map("padding that is not zero"));
        }
        Ok(map)
    }
}

fn parse_parent(record: &[u8]) -> Result<Parent, FormatError> {
    if record[76..].iter().any(|byte| *byte != 0) {
        return Err(FormatError::Map("reserved bytes of a parent"));
    }
    Ok(Parent {
        layer: ObjectId(array(record, 0)),
        tag: TailTag(array(record, 32)),
        owner: EntryId::from_raw(u64_at(record, 48)).ok_or(FormatError::Map("a parent's owner"))?,
        commit: u64_at(record, 56),
        size: u64_at(record, 64),
        epoch: u32_at(record, 72),
    })
}

fn parse_extent(record: &[u8], slots: u64, blocks: u64) -> Result<Extent, FormatError> {
    let (block, count, slot) = (u64_at(record, 0), u64_at(record, 8), u64_at(record, 24));
    let source = match u32_at(record, 16) {
        SOURCE_OWN => Source::Own,
        SOURCE_HOLE => Source::Hole,
        SOURCE_UNWRITTEN => Source::Unwritten,
        _ => return Err(FormatError::Map("an unknown source")),
    };
    if u32_at(record, 20) != 0 {
        return Err(FormatError::Map("unknown flags of an extent"));
    }
    if count == 0 || block.checked_add(count).is_none_or(|end| end > blocks) {
        return Err(FormatError::Map("an extent outside the file"));
    }
    match source {
        Source::Own if slot.checked_add(count).is_none_or(|end| end > slots.min(SLOTS_MAX)) => {
            Err(FormatError::Map("an extent outside the slots"))
        }
        Source::Hole | Source::Unwritten if slot != 0 => {
            Err(FormatError::Map("a hole with a slot"))
        }
        _ => Ok(Extent { block, count, source, slot }),
    }
}

/// Extents are sorted, disjoint, and maximal: two that could be one are not canonical.
fn check_order(before: &Extent, extent: &Extent) -> Result<(), FormatError> {
    let end = before.block + before.count;
    if extent.block < end {
        return Err(FormatError::Map("extents out of order"));
    }
    let continues = match (before.source, extent.source) {
        (Source::Own, Source::Own) => before.slot + before.count == extent.slot,
        (a, b) => a == b,
    };
    if extent.block == end && continues {
        return Err(FormatError::Map("two extents that are one"));
    }
    Ok(())
}

pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}
