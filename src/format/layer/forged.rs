//! Layers that no honest writer makes, each named after what is wrong with it. They are forged with the vault's key: what
//! only fails to authenticate would prove nothing about the parsers.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::crypto::MasterKey;
use crate::entropy::{OsEntropy, SeededEntropy};
use crate::format::{Extent, Parent, Source};

const CIPHER: Cipher = Cipher::Aes256GcmSiv;

fn keys() -> KeyTree {
    KeyTree::derive(&MasterKey::random(&SeededEntropy::new(1)), &[5; 16], 0)
}

fn geometry() -> Geometry {
    Geometry::new(12).unwrap()
}

fn sealer() -> LayerSealer {
    LayerSealer::new(&keys(), CIPHER, geometry(), &OsEntropy)
}

fn id(n: u64) -> EntryId {
    EntryId::from_raw(n).unwrap()
}

fn fields(form: Form, size: u64) -> TailFields {
    TailFields {
        form,
        role: Role::Version,
        entry_id: id(77),
        commit: 9,
        size,
        home: EntryId::ROOT,
        stamp: 11,
        previous: TailTag([3; 16]),
        birth: 12,
        mode: 0o640,
        uid: 1000,
        gid: 100,
    }
}

/// A whole simple layer.
fn simple(content: &[u8]) -> Vec<u8> {
    let sealer = sealer();
    let blocks = geometry().block_count(content.len() as u64);
    let mut bytes = sealer.header().to_vec();
    let at = bytes.len();
    bytes.resize(at + content.len() + TAG_LEN * blocks as usize, 0);
    sealer.seal(sealer.reserve(blocks), content, &mut bytes[at..]);
    let size = content.len() as u64;
    let last = geometry().last_block_len(size) as u32;
    bytes.extend(sealer.finish(&fields(Form::Simple, size), last, None).bytes);
    bytes
}

/// A whole mapped layer of `slots` slots in a file of `size` bytes.
fn mapped(slots: u64, size: u64, map: &LayerMap) -> Vec<u8> {
    let sealer = sealer();
    let content = vec![0xAB; usize::try_from(slots * 4096).unwrap()];
    let mut bytes = sealer.header().to_vec();
    bytes.resize(bytes.len() + usize::try_from(slots * 4112).unwrap(), 0);
    sealer.seal(sealer.reserve(slots), &content, &mut bytes[HEADER_LEN..]);
    let last = if slots == 0 { 0 } else { 4096 };
    bytes.extend(sealer.finish(&fields(Form::Mapped, size), last, Some(map)).bytes);
    bytes
}

/// Header, tail and map of a layer, opened; slots are not looked at.
fn open(bytes: &[u8]) -> Result<(LayerKey, Tail, Option<LayerMap>), FormatError> {
    let tail_at = bytes.len() - TAIL_LEN;
    let header = bytes[..HEADER_LEN].try_into().unwrap();
    let key = LayerKey::open(&keys(), CIPHER, geometry(), header)?;
    let sealed = bytes[tail_at..].try_into().unwrap();
    let (tail, _) = key.open_tail(sealed, bytes.len() as u64)?;
    let map_at = tail_at - tail.map_len as usize;
    let map = match tail.form {
        Form::Mapped => Some(key.open_map(&tail, bytes[map_at..tail_at].to_vec())?),
        Form::Simple | Form::Link => None,
    };
    Ok((key, tail, map))
}

/// The layer `bytes` with its tail's plaintext edited and sealed again.
fn with_tail(mut bytes: Vec<u8>, edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let at = bytes.len() - TAIL_LEN;
    reseal(&mut bytes, Domain::Tail, 0, at, TAIL_LEN, edit);
    bytes
}

/// The mapped layer `bytes` (with a map of one page) with its map's plaintext edited and sealed again.
fn with_map(mut bytes: Vec<u8>, edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let (_, tail, _) = open(&bytes).unwrap();
    assert_eq!(tail.map_pages, 1);
    let at = bytes.len() - TAIL_LEN - tail.map_len as usize;
    reseal(&mut bytes, Domain::MapPage, 0, at, tail.map_len as usize, edit);
    bytes
}

fn reseal(
    bytes: &mut [u8],
    domain: Domain,
    index: u64,
    at: usize,
    len: usize,
    edit: impl FnOnce(&mut [u8]),
) {
    let header = bytes[..HEADER_LEN].try_into().unwrap();
    let key = LayerKey::open(&keys(), CIPHER, geometry(), header).unwrap();
    let sealed = &mut bytes[at..at + len];
    let plain_len = key.key.open(domain, index, b"", sealed).unwrap();
    edit(&mut sealed[..plain_len]);
    key.key.seal(domain, index, b"", sealed);
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

fn parent(n: u8) -> Parent {
    Parent {
        layer: ObjectId([n; 32]),
        tag: TailTag([n; 16]),
        owner: id(77),
        commit: u64::from(9 - n),
        size: 5000,
        epoch: 0,
    }
}

fn own(block: u64, count: u64, slot: u64) -> Extent {
    Extent { block, count, source: Source::Own, slot }
}

fn hole(block: u64, count: u64) -> Extent {
    Extent { block, count, source: Source::Hole, slot: 0 }
}

/// Two parents and four extents over the 40 blocks of a file, five slots.
fn good_map() -> LayerMap {
    let unwritten = Extent { block: 20, count: 1, source: Source::Unwritten, slot: 0 };
    LayerMap {
        extents: vec![own(3, 2, 0), own(10, 3, 2), hole(13, 7), unwritten],
        parents: vec![parent(1), parent(2)],
    }
}

fn good_mapped() -> Vec<u8> {
    mapped(5, 40 * 4096 - 96, &good_map())
}

/// Where the records of [`good_map`] begin.
const EXTENT_0: usize = 192;
const EXTENT_1: usize = EXTENT_0 + 32;
const HOLE: usize = EXTENT_0 + 64;
const PADDING: usize = EXTENT_0 + 128;

#[test]
fn a_mapped_layer_opens_as_it_was_sealed() {
    let bytes = good_mapped();
    let (key, tail, map) = open(&bytes).unwrap();
    assert_eq!(map, Some(good_map()));
    assert_eq!((tail.slots, tail.last_slot_len, tail.parents), (5, 4096, 2));
    let mut slot = bytes[64 + 4112..64 + 2 * 4112].to_vec();
    assert_eq!(key.open_slot(1, &mut slot), Ok(4096));
    assert!(slot[..4096].iter().all(|byte| *byte == 0xAB));
}

#[test]
fn worked_sizes_of_mapped_layers() {
    let map = LayerMap { extents: vec![own(7, 1, 0)], parents: vec![parent(1)] };
    assert_eq!(mapped(1, 1 << 20, &map).len(), 8552);
    for (parents, extents, map_len) in
        [(0, 1, 4120), (1, 1, 4120), (2, 130, 8232), (1, 2048, 65_800)]
    {
        let records = parents * 96 + extents * 32;
        let padded = records + geometry().map_padding(records, PAGE_LEN as u64);
        assert_eq!(sealed_map_len(padded, PAGE_LEN as u64), map_len);
    }
}

#[test]
fn maps_of_several_pages_open() {
    // Holes of one block with gaps between them: no two are one.
    let extents: Vec<Extent> = (0..5000).map(|i| hole(2 * i, 1)).collect();
    let map = LayerMap { extents, parents: vec![parent(1)] };
    let (_, tail, opened) = open(&mapped(1, 10_000 * 4096, &map)).unwrap();
    assert_eq!(opened, Some(map));
    assert_eq!(tail.map_pages, 3);
}

#[test]
fn no_bit_of_a_layer_can_be_flipped() {
    for bytes in [
        simple(&[7; 100]),
        mapped(0, 4096, &LayerMap { extents: vec![hole(0, 1)], parents: vec![] }),
    ] {
        let (key, tail, _) = open(&bytes).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let in_slots = HEADER_LEN * 8..(HEADER_LEN + 116) * 8;
            if tail.slots == 1 && in_slots.contains(&bit) {
                let slot = &mut flipped[HEADER_LEN..HEADER_LEN + 116];
                assert_eq!(key.open_slot(0, slot), Err(FormatError::Auth("slot")), "bit {bit}");
            } else {
                assert!(open(&flipped).is_err(), "bit {bit}");
            }
        }
    }
}

#[test]
fn pages_of_a_map_cannot_be_swapped() {
    let extents: Vec<Extent> = (0..5000).map(|i| hole(2 * i, 1)).collect();
    let bytes = mapped(0, 10_000 * 4096, &LayerMap { extents, parents: vec![] });
    let mut swapped = bytes.clone();
    let (first, second) = (HEADER_LEN, HEADER_LEN + PAGE_LEN + TAG_LEN);
    swapped.copy_within(second..second + PAGE_LEN + TAG_LEN, first);
    swapped[second..second + PAGE_LEN + TAG_LEN].copy_from_slice(&bytes[first..second]);
    assert_eq!(open(&swapped).err(), Some(FormatError::Auth("map")));
}

#[test]
fn a_tail_of_another_layer_does_not_authenticate() {
    let (mut one, other) = (simple(b"one"), simple(b"two"));
    let at = one.len() - TAIL_LEN;
    one[at..].copy_from_slice(&other[at..]);
    assert_eq!(open(&one).err(), Some(FormatError::Auth("tail")));
}

#[test]
fn a_layer_of_another_vault_does_not_authenticate() {
    let bytes = simple(b"mine");
    let keys = KeyTree::derive(&MasterKey::random(&SeededEntropy::new(1)), &[6; 16], 0);
    let header = bytes[..HEADER_LEN].try_into().unwrap();
    let key = LayerKey::open(&keys, CIPHER, geometry(), header).unwrap();
    let tail = bytes[bytes.len() - TAIL_LEN..].try_into().unwrap();
    assert_eq!(key.open_tail(tail, bytes.len() as u64), Err(FormatError::Auth("tail")));
}

/// Each: a header byte that is not what a writer of this vault puts there.
macro_rules! refused_headers {
    ($($name:ident: $at:expr, $byte:expr;)*) => { $(
        #[test]
        fn $name() {
            let mut bytes = simple(b"x");
            assert_ne!(bytes[$at], $byte);
            bytes[$at] = $byte;
            let refused = open(&bytes).map(|_| ());
            assert!(matches!(refused, Err(FormatError::Header(_))), "{refused:?}");
        }
    )* };
}

refused_headers! {
    a_header_with_another_magic: 0, b'b';
    a_header_whose_line_end_was_translated: 6, b'\n';
    a_header_of_a_newer_format: 8, 2;
    a_header_of_a_much_newer_format: 9, 1;
    a_header_of_a_stub: 10, 2;
    a_header_of_a_log: 10, 3;
    a_header_of_a_rescue_copy: 10, 4;
    a_header_of_no_kind: 10, 0;
    a_header_of_another_cipher: 11, 1;
    a_header_of_an_unknown_cipher: 11, 4;
    a_header_of_another_block_length: 12, 13;
    a_header_with_a_reserved_byte: 13, 1;
    a_header_with_an_incompatible_flag: 14, 1;
    a_header_with_a_high_incompatible_flag: 15, 0x80;
    a_header_of_another_epoch: 16, 1;
    a_header_with_reserved_bytes_before_the_id: 20, 1;
    a_header_with_reserved_bytes_after_the_id: 56, 1;
    a_header_with_a_last_reserved_byte: 63, 1;
}

/// Each: an authentic tail that does not parse or contradicts itself or the file.
macro_rules! refused_tails {
    ($($name:ident: $layer:expr, $edit:expr;)*) => { $(
        #[test]
        fn $name() {
            let layer = $layer;
            assert!(open(&layer).is_ok());
            let refused = open(&with_tail(layer, $edit)).map(|_| ());
            assert!(matches!(refused, Err(FormatError::Tail(_))), "{refused:?}");
        }
    )* };
}

refused_tails! {
    a_tail_of_no_form: simple(b"x"), |t| t[0] = 0;
    a_tail_of_an_unknown_form: simple(b"x"), |t| t[0] = 4;
    a_link_where_a_layer_stands: simple(b"x"), |t| t[0] = 3;
    a_tail_of_no_role: simple(b"x"), |t| t[1] = 0;
    a_tail_of_an_unknown_role: simple(b"x"), |t| t[1] = 4;
    a_tail_with_an_incompatible_flag: simple(b"x"), |t| t[2] = 1;
    a_tail_of_entry_zero: simple(b"x"), |t| put(t, 8, &[0; 8]);
    a_tail_of_an_entry_of_64_bits: simple(b"x"), |t| t[15] = 0x80;
    a_tail_without_a_home: simple(b"x"), |t| put(t, 56, &[0; 8]);
    a_tail_with_a_next_directory: simple(b"x"), |t| t[64] = 1;
    a_tail_with_a_log: simple(b"x"), |t| t[96] = 1;
    a_tail_with_a_log_sequence: simple(b"x"), |t| t[128] = 1;
    a_tail_with_padding: simple(b"x"), |t| t[144] = 1;
    a_tail_of_a_copy: simple(b"x"), |t| t[152] = 1;
    a_tail_with_a_reserved_byte: simple(b"x"), |t| t[172] = 1;
    a_tail_with_a_digest: simple(b"x"), |t| t[176] = 1;
    a_tail_with_a_last_reserved_byte: simple(b"x"), |t| t[239] = 1;
    a_simple_tail_of_a_longer_file: simple(b"x"), |t| t[24] = 2;
    a_simple_tail_of_a_shorter_file: simple(b"x"), |t| t[24] = 0;
    a_tail_of_a_size_beyond_63_bits: simple(b"x"), |t| t[31] = 0x80;
    a_tail_of_the_largest_size: simple(b"x"), |t| put(t, 24, &[0xFF; 8]);
    a_simple_tail_with_a_slot_too_many: simple(b"x"), |t| t[32] = 2;
    a_simple_tail_without_its_slot: simple(b"x"), |t| t[32] = 0;
    a_tail_of_too_many_slots: simple(b"x"), |t| put(t, 32, &((1_u64 << 32) + 1).to_le_bytes());
    a_tail_of_the_most_slots: simple(b"x"), |t| put(t, 32, &[0xFF; 8]);
    a_tail_with_a_shorter_last_slot: simple(b"xy"), |t| t[4] = 1;
    a_tail_with_an_empty_last_slot: simple(b"x"), |t| t[4] = 0;
    a_tail_with_an_oversized_last_slot: simple(b"x"), |t| put(t, 4, &4097_u32.to_le_bytes());
    a_tail_of_no_slots_with_a_last_one: simple(b""), |t| t[4] = 1;
    a_simple_tail_with_a_map: simple(b"x"), |t| t[40] = 17;
    a_simple_tail_with_map_pages: simple(b"x"), |t| t[48] = 1;
    a_simple_tail_with_parents: simple(b"x"), |t| t[52] = 1;
    a_simple_layer_that_says_it_is_mapped: simple(b"x"), |t| t[0] = 2;
    a_mapped_layer_that_says_it_is_simple: good_mapped(), |t| t[0] = 1;
    a_mapped_layer_with_a_short_last_slot: good_mapped(), |t| {
        // The slot gives what the map takes, so that the length still fits.
        put(t, 4, &4080_u32.to_le_bytes());
        put(t, 40, &(4120_u64 + 16).to_le_bytes());
    };
    a_map_of_an_endless_length: good_mapped(), |t| put(t, 40, &[0xFF; 8]);
    a_map_of_a_terabyte: good_mapped(), |t| put(t, 40, &(1_u64 << 41).to_le_bytes());
    a_map_of_no_pages: good_mapped(), |t| t[48] = 0;
    a_map_of_a_page_too_many: good_mapped(), |t| t[48] = 2;
    a_map_of_countless_pages: good_mapped(), |t| put(t, 48, &[0xFF; 4]);
}

#[test]
fn a_layer_that_was_cut_or_has_grown() {
    for bytes in [simple(&[7; 5000]), good_mapped()] {
        let tail: [u8; TAIL_LEN] = bytes[bytes.len() - TAIL_LEN..].try_into().unwrap();
        let (key, _, _) = open(&bytes).unwrap();
        let len = bytes.len() as u64;
        for wrong in [0, 1, 319, 320, 336, len - 4112, len - 1, len + 1, len + 4112, u64::MAX] {
            let refused = key.open_tail(&tail, wrong).map(|_| ());
            assert!(matches!(refused, Err(FormatError::Tail(_))), "{wrong}: {refused:?}");
        }
    }
}

#[test]
fn a_map_shorter_or_longer_than_its_tail_says() {
    let bytes = good_mapped();
    let (key, tail, _) = open(&bytes).unwrap();
    let at = bytes.len() - TAIL_LEN - tail.map_len as usize;
    let sealed = &bytes[at..bytes.len() - TAIL_LEN];
    let shorter = sealed[..sealed.len() - 1].to_vec();
    assert_eq!(key.open_map(&tail, shorter), Err(FormatError::Map("length")));
    let longer = [sealed, b"x"].concat();
    assert_eq!(key.open_map(&tail, longer), Err(FormatError::Map("length")));
}

/// Each: an authentic map that no writer makes, and what the parser says of it.
macro_rules! refused_maps {
    ($($name:ident: $why:literal, $edit:expr;)*) => { $(
        #[test]
        fn $name() {
            let refused = open(&with_map(good_mapped(), $edit)).map(|_| ());
            assert_eq!(refused, Err(FormatError::Map($why)));
        }
    )* };
}

refused_maps! {
    a_parent_with_flags: "reserved bytes of a parent", |m| m[76] = 1;
    a_parent_with_reserved_bytes: "reserved bytes of a parent", |m| m[95] = 1;
    a_parent_of_nobody: "a parent's owner", |m| put(m, 48, &[0; 8]);
    a_parent_of_another_file: "a parent of another file", |m| m[48] = 78;
    a_parent_of_another_epoch: "a parent of another epoch", |m| m[72] = 1;
    one_parent_twice: "a parent that is there twice", |m| m.copy_within(0..96, 96);
    parents_that_are_not_newest_first: "parents out of order", |m| put(m, 56, &7_u64.to_le_bytes());
    a_parent_as_new_as_the_layer: "parents out of order", |m| put(m, 56, &9_u64.to_le_bytes());
    an_extent_of_no_blocks: "an extent outside the file", |m| put(m, EXTENT_0 + 8, &[0; 8]);
    an_extent_beyond_the_file: "an extent outside the file", |m| put(m, HOLE, &34_u64.to_le_bytes());
    an_extent_whose_end_overflows: "an extent outside the file", |m| put(m, EXTENT_0, &[0xFF; 8]);
    an_extent_whose_count_overflows: "an extent outside the file", |m| put(m, EXTENT_0 + 8, &[0xFF; 8]);
    an_extent_beyond_the_slots: "an extent outside the slots", |m| m[EXTENT_1 + 24] = 3;
    an_extent_whose_slots_overflow: "an extent outside the slots", |m| put(m, EXTENT_1 + 24, &[0xFF; 8]);
    a_hole_with_a_slot: "a hole with a slot", |m| m[HOLE + 24] = 1;
    an_extent_of_an_unknown_source: "an unknown source", |m| m[EXTENT_0 + 16] = 1;
    an_extent_with_flags: "unknown flags of an extent", |m| m[EXTENT_0 + 20] = 1;
    extents_out_of_order: "extents out of order", |m| m[EXTENT_0] = 30;
    extents_that_overlap: "extents out of order", |m| m[EXTENT_1] = 4;
    two_extents_that_are_one: "two extents that are one", |m| m[EXTENT_1] = 5;
    two_holes_that_are_one: "two extents that are one", |m| put(m, HOLE + 48, &[0xFF; 4]);
    an_extent_behind_the_padding: "an extent after the padding", |m| m[PADDING + 32] = 1;
    a_last_byte_behind_the_padding: "padding that is not zero", |m| m[m.len() - 1] = 1;
    a_padding_that_is_not_zero: "an extent outside the file", |m| m[PADDING] = 1;
}

#[test]
fn a_parent_that_is_the_layer_itself() {
    let layer = good_mapped();
    let own_id: [u8; 32] = layer[24..56].try_into().unwrap();
    let refused = open(&with_map(layer, |m| put(m, 0, &own_id))).map(|_| ());
    assert_eq!(refused, Err(FormatError::Map("a parent that is there twice")));
}

#[test]
fn more_parents_than_the_map_has_room_for() {
    for count in [43, u32::MAX] {
        let layer = with_tail(good_mapped(), |t| put(t, 52, &count.to_le_bytes()));
        let refused = open(&layer).map(|_| ());
        assert_eq!(refused, Err(FormatError::Map("more parents than bytes")), "{count}");
    }
}

#[test]
fn fewer_parents_than_the_map_has() {
    let refused = open(&with_tail(good_mapped(), |t| t[52] = 1)).map(|_| ());
    assert!(matches!(refused, Err(FormatError::Map(_))), "{refused:?}");
}

#[test]
#[should_panic(expected = "what is sealed can be opened")]
fn a_writer_cannot_seal_a_map_that_does_not_open() {
    mapped(2, 40 * 4096, &LayerMap { extents: vec![own(1, 1, 0), own(2, 1, 1)], parents: vec![] });
}

#[test]
#[should_panic(expected = "what is sealed can be opened")]
fn a_writer_cannot_seal_a_tail_that_does_not_open() {
    let sealer = sealer();
    let run = sealer.reserve(1);
    sealer.seal(run, b"x", &mut [0; 17]);
    sealer.finish(&fields(Form::Simple, 2), 1, None);
}

#[test]
#[should_panic(expected = "slots of another layer")]
fn a_run_of_one_layer_is_not_sealed_in_another() {
    let (one, other) = (sealer(), sealer());
    let run = one.reserve(1);
    other.seal(run, b"x", &mut [0; 17]);
}

#[test]
fn slots_are_handed_out_once() {
    let sealer = sealer();
    assert_eq!(sealer.reserve_at(4, 2).map(|run| (run.first(), run.count())), Some((4, 2)));
    assert!(sealer.reserve_at(5, 1).is_none());
    assert!(sealer.reserve_at(3, 2).is_none());
    assert!(sealer.reserve_at(0, 100).is_none());
    assert!(sealer.is_free(3) && !sealer.is_free(4) && sealer.is_free(6));
    assert_eq!(sealer.reserve(3).first(), 6);
    assert_eq!(sealer.slots_reserved(), 9);
    let (head, rest) = sealer.reserve_at(0, 4).unwrap().split(1);
    assert_eq!((head.first(), head.count()), (0, 1));
    assert_eq!(rest.map(|run| (run.first(), run.count())), Some((1, 3)));
}

#[test]
fn slots_beyond_what_a_layer_can_have_are_not_handed_out() {
    let sealer = sealer();
    assert!(sealer.reserve_at(1 << 32, 1).is_none());
    assert!(sealer.reserve_at((1 << 32) - 1, 2).is_none());
    assert!(sealer.reserve_at(u64::MAX, 2).is_none());
    assert!(sealer.reserve_at((1 << 32) - 1, 1).is_some());
}

fn extents(blocks: u64) -> impl Strategy<Value = Vec<Extent>> {
    // Gaps and lengths; slots are dense, so every gap in the blocks keeps neighbours apart.
    prop::collection::vec((1..9_u64, 1..9_u64, 0..3_u8), 0..40).prop_map(move |runs| {
        let (mut block, mut slot) = (0, 0);
        let mut extents = Vec::new();
        for (gap, count, source) in runs {
            block += gap;
            if block + count > blocks {
                break;
            }
            extents.push(match source {
                0 => own(block, count, slot),
                1 => hole(block, count),
                _ => Extent { block, count, source: Source::Unwritten, slot: 0 },
            });
            slot += if source == 0 { count } else { 0 };
            block += count;
        }
        extents
    })
}

proptest! {
    #[test]
    fn every_simple_layer_opens_as_it_was_sealed(content in prop::collection::vec(any::<u8>(), 0..13_000)) {
        let bytes = simple(&content);
        let (key, tail, _) = open(&bytes).unwrap();
        prop_assert_eq!(bytes.len() as u64, geometry().simple_len(content.len() as u64));
        prop_assert_eq!(tail.size, content.len() as u64);
        let mut plain = Vec::new();
        for (slot, sealed) in (0..).zip(bytes[HEADER_LEN..bytes.len() - TAIL_LEN].chunks(4112)) {
            let mut buffer = sealed.to_vec();
            let len = key.open_slot(slot, &mut buffer).unwrap();
            plain.extend_from_slice(&buffer[..len]);
        }
        prop_assert_eq!(plain, content);
    }

    #[test]
    fn every_map_opens_as_it_was_sealed(extents in extents(200), parents in 0..4_u8) {
        let slots: u64 = extents.iter().filter(|e| e.source == Source::Own).map(|e| e.count).sum();
        let map = LayerMap { extents, parents: (1..=parents).map(parent).collect() };
        let (_, tail, opened) = open(&mapped(slots, 200 * 4096, &map)).unwrap();
        prop_assert_eq!(tail.slots, slots);
        prop_assert_eq!(opened, Some(map));
    }

    /// Whatever a key holder seals: the parsers answer, and what they accept is what would be written.
    #[test]
    fn no_map_panics_the_parser(
        bytes in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..700),
        parents in 0..9_u32, slots in any::<u64>(), blocks in any::<u64>()
    ) {
        if let Ok(map) = LayerMap::parse(&bytes, parents, slots, blocks) {
            let encoded = map.encode();
            prop_assert_eq!(&bytes[..encoded.len()], &encoded[..]);
            prop_assert!(bytes[encoded.len()..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn no_tail_panics_the_parser(
        fill in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], TAIL_PLAIN_LEN),
        form in 1..3_u8, len in any::<u64>()
    ) {
        let mut bytes = fill;
        put(&mut bytes, 0, &[form, 1, 0, 0]);
        bytes[15] &= 0x7F;
        bytes[63] &= 0x7F;
        for reserved in [64..72, 96..136, 144..160, 172..240] {
            bytes[reserved].fill(0);
        }
        if let Ok(tail) = Tail::parse(&bytes) {
            prop_assert_eq!(&tail.encode()[..], &bytes[..]);
            let _ = tail.check(geometry(), len);
        }
    }
}
