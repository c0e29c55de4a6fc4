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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SLOTS: u64 = 100;
    const BLOCKS: u64 = 1000;

    fn raw(block: u64, count: u64, source: u32, flags: u32, slot: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&block.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&source.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&slot.to_le_bytes());
        bytes
    }

    fn own(block: u64, count: u64, slot: u64) -> Vec<u8> {
        raw(block, count, SOURCE_OWN, 0, slot)
    }

    fn hole(block: u64, count: u64) -> Vec<u8> {
        raw(block, count, SOURCE_HOLE, 0, 0)
    }

    fn parse(records: &[Vec<u8>]) -> Result<LayerMap, FormatError> {
        LayerMap::parse(&records.concat(), 0, SLOTS, BLOCKS)
    }

    fn refused(records: &[Vec<u8>]) -> &'static str {
        match parse(records) {
            Err(FormatError::Map(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    fn parent() -> Parent {
        Parent {
            layer: ObjectId([7; 32]),
            tag: TailTag([8; 16]),
            owner: EntryId::from_raw(9).unwrap(),
            commit: 10,
            size: 11,
            epoch: 0,
        }
    }

    #[test]
    fn a_map_is_read_as_it_was_written() {
        let extents = vec![
            Extent { block: 0, count: 4, source: Source::Own, slot: 0 },
            Extent { block: 4, count: 4, source: Source::Own, slot: 50 },
            Extent { block: 8, count: 1, source: Source::Hole, slot: 0 },
            Extent { block: 9, count: 1, source: Source::Unwritten, slot: 0 },
            Extent { block: 11, count: 989, source: Source::Hole, slot: 0 },
        ];
        let map = LayerMap { extents, parents: vec![parent(), parent()] };
        for padding in [0, 1, 31, 32, 33, 5000] {
            let mut bytes = map.encode();
            bytes.resize(bytes.len() + padding, 0);
            assert_eq!(LayerMap::parse(&bytes, 2, SLOTS, BLOCKS).as_ref(), Ok(&map), "{padding}");
        }
    }

    #[test]
    fn extents_that_overlap_or_go_backwards() {
        assert_eq!(refused(&[own(0, 2, 0), own(1, 1, 5)]), "extents out of order");
        assert_eq!(refused(&[own(0, 2, 0), own(0, 2, 5)]), "extents out of order");
        assert_eq!(refused(&[own(5, 1, 0), own(1, 1, 5)]), "extents out of order");
        assert_eq!(refused(&[hole(0, 9), own(8, 1, 5)]), "extents out of order");
    }

    #[test]
    fn extents_that_touch_and_are_one() {
        assert_eq!(refused(&[own(0, 2, 0), own(2, 1, 2)]), "two extents that are one");
        assert_eq!(refused(&[hole(0, 2), hole(2, 1)]), "two extents that are one");
        let unwritten = |block| raw(block, 1, SOURCE_UNWRITTEN, 0, 0);
        assert_eq!(refused(&[unwritten(0), unwritten(1)]), "two extents that are one");
        // Touching in the file alone, or in the slots alone, is no reason.
        assert!(parse(&[own(0, 2, 0), own(2, 1, 7)]).is_ok());
        assert!(parse(&[own(0, 2, 0), own(3, 1, 2)]).is_ok());
        assert!(parse(&[hole(0, 2), unwritten(2)]).is_ok());
    }

    #[test]
    fn an_extent_without_blocks() {
        assert_eq!(refused(&[own(1, 0, 0)]), "an extent outside the file");
        assert_eq!(refused(&[hole(1, 0)]), "an extent outside the file");
    }

    #[test]
    fn extents_beyond_the_file_or_the_slots_even_past_the_last_number() {
        assert!(parse(&[hole(BLOCKS - 1, 1)]).is_ok());
        for bad in [hole(BLOCKS, 1), hole(0, BLOCKS + 1), hole(u64::MAX, 1), hole(1, u64::MAX)] {
            assert_eq!(refused(&[bad]), "an extent outside the file");
        }
        assert!(parse(&[own(0, 1, SLOTS - 1)]).is_ok());
        for (count, slot) in [(1, SLOTS), (SLOTS + 1, 0), (2, u64::MAX - 1), (2, u64::MAX)] {
            assert_eq!(refused(&[own(0, count, slot)]), "an extent outside the slots");
        }
        // A tail that claims more slots than a layer may have does not widen the bound.
        let far = own(0, 1, SLOTS_MAX);
        assert!(LayerMap::parse(&far, 0, u64::MAX, u64::MAX).is_err());
    }

    #[test]
    fn a_source_or_a_flag_that_is_unknown() {
        for source in [1, 2, 0xFFFF_FFFD, 0x8000_0000] {
            assert_eq!(refused(&[raw(0, 1, source, 0, 0)]), "an unknown source");
        }
        for flags in [1, 0x8000_0000] {
            assert_eq!(refused(&[raw(0, 1, 0, flags, 0)]), "unknown flags of an extent");
        }
        assert_eq!(refused(&[raw(0, 1, SOURCE_HOLE, 0, 1)]), "a hole with a slot");
        assert_eq!(refused(&[raw(0, 1, SOURCE_UNWRITTEN, 0, 1)]), "a hole with a slot");
    }

    #[test]
    fn padding_with_something_in_it() {
        assert_eq!(
            refused(&[own(0, 1, 0), vec![0; 32], hole(5, 1)]),
            "an extent after the padding"
        );
        for len in 1..EXTENT_LEN {
            let mut rest = vec![0; len];
            rest[len - 1] = 1;
            assert_eq!(refused(&[own(0, 1, 0), rest]), "padding that is not zero");
        }
    }

    #[test]
    fn parents_that_no_writer_names() {
        let map = LayerMap { parents: vec![parent()], ..LayerMap::default() };
        let bytes = map.encode();
        assert_eq!(bytes.len(), PARENT_LEN);
        for at in 76..PARENT_LEN {
            let mut bad = bytes.clone();
            bad[at] = 1;
            assert!(LayerMap::parse(&bad, 1, SLOTS, BLOCKS).is_err(), "reserved byte {at}");
        }
        for owner in [0, 1 << 63, u64::MAX] {
            let mut bad = bytes.clone();
            bad[48..56].copy_from_slice(&owner.to_le_bytes());
            assert!(LayerMap::parse(&bad, 1, SLOTS, BLOCKS).is_err(), "owner {owner}");
        }
        for parents in [2, u32::MAX] {
            let error = LayerMap::parse(&bytes, parents, SLOTS, BLOCKS);
            assert_eq!(error, Err(FormatError::Map("more parents than bytes")));
        }
        // What the tail does not count as parents is not a map of extents either.
        assert!(LayerMap::parse(&bytes, 0, SLOTS, BLOCKS).is_err());
    }
}
