//! The format from outside: layers and names that were sealed properly and then cut, moved, mixed or flipped, and a vault that
//! was frozen when format 1 was. What only somebody with the keys could write is tested beside the parsers in src/format.

// Tests may panic: that is how they fail.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use akasha::backing::OsDisk;
use akasha::clock::SystemClock;
use akasha::crypto::{Cipher, KeyTree, MasterKey, TAG_LEN};
use akasha::entropy::{OsEntropy, SeededEntropy};
use akasha::format::{
    Entry, EntryId, EntryKind, Extent, Form, FormatError, Geometry, HEADER_LEN, LayerKey, LayerMap,
    LayerSealer, LengthClass, MODE_ATTRIBUTE, NameClass, Parent, Role, SideRef, Source, TAIL_LEN,
    Tail, TailFields, TailTag, XattrMap, classify_name, config, is_sealed_xattr, is_temp_name,
    layer_file_name, long_name, open_entry, open_side, open_xattr, open_xattr_name,
    parse_layer_file_name, seal_entry, seal_side, seal_xattr, side_len, temp_file_name, xattr_name,
    xattr_name_len,
};
use akasha::store::{Node, Store, StoreOptions, vault};

const BLOCK: usize = 4096;
const SLOT: usize = BLOCK + TAG_LEN;
/// A sealed page of a map.
const PAGE: usize = 65_536;
/// Extents whose map takes two pages.
const TWO_PAGES: u64 = 2100;

fn geometry() -> Geometry {
    Geometry::new(12).unwrap()
}

fn id(raw: u64) -> EntryId {
    EntryId::from_raw(raw).unwrap()
}

fn keys(seed: u64) -> KeyTree {
    KeyTree::derive(&MasterKey::random(&SeededEntropy::new(seed)), &[3; 16], 0)
}

fn fields(form: Form, size: u64) -> TailFields {
    TailFields {
        form,
        role: Role::Version,
        entry_id: id(42),
        commit: 1,
        size,
        home: EntryId::ROOT,
        stamp: 1,
        previous: TailTag::default(),
        birth: 1,
        mode: 0o644,
        uid: 0,
        gid: 0,
    }
}

fn plain(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i % 251) as u8).collect()
}

/// A simple layer's file.
fn simple(keys: &KeyTree, cipher: Cipher, size: usize, seed: u64) -> Vec<u8> {
    let sealer = LayerSealer::new(keys, cipher, geometry(), &SeededEntropy::new(seed));
    let mut bytes = sealer.header().to_vec();
    let slots = size.div_ceil(BLOCK);
    if slots > 0 {
        let mut sealed = vec![0; size + slots * TAG_LEN];
        sealer.seal(sealer.reserve(slots as u64), &plain(size), &mut sealed);
        bytes.extend_from_slice(&sealed);
    }
    let last = geometry().last_block_len(size as u64) as u32;
    let end = sealer.finish(&fields(Form::Simple, size as u64), last, None);
    bytes.extend_from_slice(&end.bytes);
    bytes
}

/// Two slots, a hole after each block, two pages of map.
fn map() -> LayerMap {
    let mut extents = vec![
        Extent { block: 0, count: 1, source: Source::Own, slot: 1 },
        Extent { block: 2, count: 1, source: Source::Own, slot: 0 },
    ];
    extents.extend((2..TWO_PAGES).map(|i| Extent {
        block: 2 * i,
        count: 1,
        source: Source::Hole,
        slot: 0,
    }));
    LayerMap { extents, parents: Vec::new() }
}

fn mapped(keys: &KeyTree, seed: u64, map: &LayerMap) -> Vec<u8> {
    let sealer = LayerSealer::new(keys, CIPHER, geometry(), &SeededEntropy::new(seed));
    let mut bytes = sealer.header().to_vec();
    let mut sealed = vec![0; 2 * SLOT];
    sealer.seal(sealer.reserve(2), &plain(2 * BLOCK), &mut sealed);
    bytes.extend_from_slice(&sealed);
    let size = 2 * TWO_PAGES * BLOCK as u64;
    // The parents that a test names are older.
    let fields = TailFields { commit: 9, ..fields(Form::Mapped, size) };
    let end = sealer.finish(&fields, BLOCK as u32, Some(map));
    bytes.extend_from_slice(&end.bytes);
    bytes
}

const CIPHER: Cipher = Cipher::ChaCha20Poly1305;

/// What a reader gets out of a layer's file.
#[derive(Debug)]
struct Opened {
    tail: Tail,
    map: Option<LayerMap>,
    content: Vec<u8>,
}

fn key_of(keys: &KeyTree, cipher: Cipher, bytes: &[u8]) -> Result<LayerKey, FormatError> {
    LayerKey::open(keys, cipher, geometry(), bytes[..HEADER_LEN].try_into().unwrap())
}

fn tail_of(key: &LayerKey, bytes: &[u8]) -> Result<(Tail, TailTag), FormatError> {
    key.open_tail(bytes[bytes.len() - TAIL_LEN..].try_into().unwrap(), bytes.len() as u64)
}

/// Reads all of a layer.
fn open(keys: &KeyTree, cipher: Cipher, bytes: &[u8]) -> Result<Opened, FormatError> {
    let key = key_of(keys, cipher, bytes)?;
    let (tail, _) = tail_of(&key, bytes)?;
    let map_at = bytes.len() - TAIL_LEN - usize::try_from(tail.map_len).unwrap();
    let mut content = Vec::new();
    for (slot, sealed) in (0..).zip(bytes[HEADER_LEN..map_at].chunks(SLOT)) {
        let mut sealed = sealed.to_vec();
        let len = key.open_slot(slot, &mut sealed)?;
        content.extend_from_slice(&sealed[..len]);
    }
    let map = match tail.form {
        Form::Simple => None,
        _ => Some(key.open_map(&tail, bytes[map_at..bytes.len() - TAIL_LEN].to_vec())?),
    };
    Ok(Opened { tail, map, content })
}

#[test]
fn layers_open_under_every_cipher_with_the_sizes_of_the_text() {
    let keys = keys(1);
    for cipher in Cipher::ALL {
        for (size, len) in [(0, 320), (1, 337), (4096, 4432), (4097, 4449), (5000, 5352)] {
            let bytes = simple(&keys, cipher, size, 1);
            assert_eq!(bytes.len(), len);
            let opened = open(&keys, cipher, &bytes).unwrap();
            assert_eq!(opened.content, plain(size));
            assert_eq!(opened.tail.size, size as u64);
        }
    }
    let bytes = mapped(&keys, 1, &map());
    assert_eq!(geometry().classify(bytes.len() as u64), LengthClass::Mapped);
    let opened = open(&keys, CIPHER, &bytes).unwrap();
    assert_eq!(opened.map, Some(map()));
    assert_eq!(opened.tail.map_pages, 2);
}

#[test]
fn the_map_is_padded_into_its_class_whatever_it_holds() {
    let keys = keys(1);
    for block_log2 in [12, 16, 20] {
        let geometry = Geometry::new(block_log2).unwrap();
        for count in [0, 1, 127, 128, 129, 2046, 2047, 2048, 2049, 4094, 4095] {
            let extents = (0..count).map(|i| Extent {
                block: 2 * i,
                count: 1,
                source: Source::Unwritten,
                slot: 0,
            });
            let map = LayerMap { extents: extents.collect(), parents: Vec::new() };
            let sealer = LayerSealer::new(&keys, CIPHER, geometry, &SeededEntropy::new(1));
            let (header, key) = (sealer.header(), Arc::clone(sealer.key()));
            let end = sealer.finish(&fields(Form::Mapped, 1 << 40), 0, Some(&map));
            let len = (header.len() + end.bytes.len()) as u64;
            assert_eq!(geometry.classify(len), LengthClass::Mapped, "{count} extents");
            let sealed = end.bytes[..end.bytes.len() - TAIL_LEN].to_vec();
            assert_eq!(key.open_map(&end.tail, sealed), Ok(map));
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_layer() {
    let keys = keys(1);
    let small = simple(&keys, CIPHER, 300, 1);
    for at in 0..small.len() {
        for bit in [1, 128] {
            let mut bad = small.clone();
            bad[at] ^= bit;
            assert!(open(&keys, CIPHER, &bad).is_err(), "byte {at}");
        }
    }
    let large = mapped(&keys, 1, &map());
    for at in (0..large.len()).step_by(997) {
        let mut bad = large.clone();
        bad[at] ^= 1;
        assert!(open(&keys, CIPHER, &bad).is_err(), "byte {at}");
    }
}

#[test]
fn a_flipped_byte_of_the_header_is_another_key() {
    let keys = keys(1);
    let good = simple(&keys, CIPHER, 300, 1);
    for at in 0..HEADER_LEN {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        let is_id = (24..56).contains(&at);
        match key_of(&keys, CIPHER, &bad) {
            // Only the id is free, and it leads to a key under which nothing opens.
            Ok(key) => {
                assert!(is_id, "byte {at} is not part of the id");
                assert_eq!(tail_of(&key, &bad), Err(FormatError::Auth("tail")));
                let mut slot = bad[HEADER_LEN..HEADER_LEN + 316].to_vec();
                assert_eq!(key.open_slot(0, &mut slot), Err(FormatError::Auth("slot")));
            }
            Err(error) => {
                assert!(matches!(error, FormatError::Header(_)) && !is_id, "byte {at}: {error}");
            }
        }
    }
}

#[test]
fn a_layer_of_another_vault_cipher_or_block_length() {
    let (ours, theirs) = (keys(1), keys(2));
    let bytes = simple(&theirs, CIPHER, 300, 1);
    assert_eq!(open(&ours, CIPHER, &bytes).unwrap_err(), FormatError::Auth("tail"));
    for cipher in [Cipher::Aes256Gcm, Cipher::Aes256GcmSiv] {
        let error = key_of(&theirs, cipher, &bytes).err();
        assert!(matches!(error, Some(FormatError::Header(_))));
        // Written into the header, it still is another key.
        let mut bad = bytes.clone();
        bad[11] = cipher as u8;
        assert_eq!(open(&theirs, cipher, &bad).unwrap_err(), FormatError::Auth("tail"));
    }
    let header: &[u8; HEADER_LEN] = bytes[..HEADER_LEN].try_into().unwrap();
    let other = Geometry::new(13).unwrap();
    assert!(matches!(
        LayerKey::open(&theirs, CIPHER, other, header).err(),
        Some(FormatError::Header(_))
    ));
    // The same master key in a vault of another id.
    let master = || MasterKey::random(&SeededEntropy::new(1));
    let elsewhere = KeyTree::derive(&master(), &[4; 16], 0);
    let bytes = simple(&keys(1), CIPHER, 300, 1);
    assert_eq!(open(&elsewhere, CIPHER, &bytes).unwrap_err(), FormatError::Auth("tail"));
}

#[test]
fn a_layer_that_is_cut_or_extended() {
    let keys = keys(1);
    for good in [simple(&keys, CIPHER, 5000, 1), mapped(&keys, 1, &map())] {
        let (body, tail) = good.split_at(good.len() - TAIL_LEN);
        for cut in [1, 16, 17, 904, 920, 4112, 5000 - 64] {
            // The end is gone.
            assert!(open(&keys, CIPHER, &good[..good.len() - cut]).is_err(), "{cut} off the end");
            // Bytes before the tail are gone, or more than there were.
            let shorter = [&body[..body.len() - cut], tail].concat();
            assert!(open(&keys, CIPHER, &shorter).is_err(), "{cut} off the body");
            let longer = [body, &vec![0; cut], tail].concat();
            assert!(open(&keys, CIPHER, &longer).is_err(), "{cut} more in the body");
            let longer = [&good[..], &vec![0; cut]].concat();
            assert!(open(&keys, CIPHER, &longer).is_err(), "{cut} more at the end");
        }
    }
}

#[test]
fn a_tail_beside_a_length_that_is_not_its_own() {
    let keys = keys(1);
    for good in [simple(&keys, CIPHER, 5000, 1), mapped(&keys, 1, &map())] {
        let key = key_of(&keys, CIPHER, &good).unwrap();
        let sealed = good[good.len() - TAIL_LEN..].try_into().unwrap();
        let len = good.len() as u64;
        for other in [0, 320, 336, len - SLOT as u64, len - 1, len + 1, len + 4112, u64::MAX] {
            let error = key.open_tail(sealed, other).unwrap_err();
            assert_eq!(error, FormatError::Tail("length of the file"), "{other}");
        }
    }
}

#[test]
fn the_tail_of_another_layer() {
    let keys = keys(1);
    let (one, other) = (simple(&keys, CIPHER, 5000, 1), simple(&keys, CIPHER, 5000, 2));
    let at = one.len() - TAIL_LEN;
    let mixed = [&one[..at], &other[at..]].concat();
    assert_eq!(open(&keys, CIPHER, &mixed).unwrap_err(), FormatError::Auth("tail"));
}

#[test]
fn a_slot_of_another_layer_or_another_place() {
    let keys = keys(1);
    let (one, other) = (simple(&keys, CIPHER, 8192, 1), simple(&keys, CIPHER, 8192, 2));
    let (first, second) = (HEADER_LEN..HEADER_LEN + SLOT, HEADER_LEN + SLOT..HEADER_LEN + 2 * SLOT);
    let mut mixed = one.clone();
    mixed[second.clone()].copy_from_slice(&other[second.clone()]);
    assert_eq!(open(&keys, CIPHER, &mixed).unwrap_err(), FormatError::Auth("slot"));
    let mut swapped = one.clone();
    swapped[first.clone()].copy_from_slice(&one[second.clone()]);
    swapped[second].copy_from_slice(&one[first]);
    assert_eq!(open(&keys, CIPHER, &swapped).unwrap_err(), FormatError::Auth("slot"));
}

#[test]
fn a_slot_map_page_or_tail_in_the_place_of_another_kind() {
    let keys = keys(1);
    let good = mapped(&keys, 1, &map());
    let key = key_of(&keys, CIPHER, &good).unwrap();
    let (tail, _) = tail_of(&key, &good).unwrap();
    let map_at = good.len() - TAIL_LEN - usize::try_from(tail.map_len).unwrap();
    let mut page = good[map_at..map_at + PAGE].to_vec();
    assert!(key.open_slot(0, &mut page).is_err(), "a map page is no slot");
    let mut sealed_tail = good[good.len() - TAIL_LEN..].to_vec();
    assert!(key.open_slot(0, &mut sealed_tail).is_err(), "a tail is no slot");
    // A writer of the vault has plaintext blocks made for it: they must not become tails.
    let block = simple(&keys, CIPHER, TAIL_LEN - TAG_LEN, 1);
    let slot = block[HEADER_LEN..HEADER_LEN + TAIL_LEN].try_into().unwrap();
    let key = key_of(&keys, CIPHER, &block).unwrap();
    assert_eq!(key.open_tail(slot, 320).unwrap_err(), FormatError::Auth("tail"));
}

#[test]
fn map_pages_that_are_swapped_dropped_or_another_layers() {
    let keys = keys(1);
    let (good, other) = (mapped(&keys, 1, &map()), mapped(&keys, 2, &map()));
    let key = key_of(&keys, CIPHER, &good).unwrap();
    let (tail, _) = tail_of(&key, &good).unwrap();
    let map_at = good.len() - TAIL_LEN - usize::try_from(tail.map_len).unwrap();
    let sealed = &good[map_at..good.len() - TAIL_LEN];
    assert_eq!(key.open_map(&tail, sealed.to_vec()), Ok(map()));
    let (first, second) = sealed.split_at(PAGE);
    let auth = Err(FormatError::Auth("map"));
    assert_eq!(key.open_map(&tail, [second, first].concat()), auth);
    let theirs = &other[map_at..map_at + PAGE];
    assert_eq!(key.open_map(&tail, [theirs, second].concat()), auth);
    let length = Err(FormatError::Map("length"));
    assert_eq!(key.open_map(&tail, first.to_vec()), length);
    assert_eq!(key.open_map(&tail, second.to_vec()), length);
    assert_eq!(key.open_map(&tail, [sealed, first].concat()), length);
    assert_eq!(key.open_map(&tail, Vec::new()), length);
}

#[test]
fn a_map_that_no_reader_would_take_is_not_sealed() {
    let keys = keys(1);
    let wrong = |extents: &[(u64, u64, Source, u64)]| {
        let extents = extents
            .iter()
            .map(|&(block, count, source, slot)| Extent { block, count, source, slot })
            .collect();
        let map = LayerMap { extents, parents: Vec::new() };
        let sealed = std::panic::catch_unwind(AssertUnwindSafe(|| mapped(&keys, 1, &map)));
        assert!(sealed.is_err(), "{map:?}");
    };
    let blocks = 2 * TWO_PAGES;
    wrong(&[(0, 1, Source::Own, 2)]);
    wrong(&[(0, 3, Source::Own, 0)]);
    wrong(&[(0, 2, Source::Own, u64::MAX)]);
    wrong(&[(0, 0, Source::Own, 1)]);
    wrong(&[(blocks, 1, Source::Hole, 0)]);
    wrong(&[(u64::MAX, 2, Source::Hole, 0)]);
    wrong(&[(1, u64::MAX, Source::Hole, 0)]);
    wrong(&[(0, 2, Source::Hole, 0), (1, 1, Source::Own, 0)]);
    wrong(&[(1, 1, Source::Hole, 0), (0, 1, Source::Own, 0)]);
    wrong(&[(0, 1, Source::Own, 0), (1, 1, Source::Own, 1)]);
    wrong(&[(0, 1, Source::Hole, 0), (1, 1, Source::Hole, 0)]);
}

#[test]
fn parents_come_back_as_they_were_named() {
    let keys = keys(1);
    let below = simple(&keys, CIPHER, 5000, 2);
    let key = key_of(&keys, CIPHER, &below).unwrap();
    let (tail, tag) = tail_of(&key, &below).unwrap();
    let parent = Parent {
        layer: key.id(),
        tag,
        owner: tail.entry_id,
        commit: tail.commit,
        size: tail.size,
        epoch: 0,
    };
    let older = |commit, seed| {
        let another = key_of(&keys, CIPHER, &simple(&keys, CIPHER, 1, seed)).unwrap().id();
        Parent { layer: another, commit, ..parent }
    };
    let parents = vec![older(7, 4), older(2, 3), parent];
    let map = LayerMap { parents, ..map() };
    let opened = open(&keys, CIPHER, &mapped(&keys, 1, &map)).unwrap();
    assert_eq!(opened.map, Some(map));
    assert_eq!(opened.tail.parents, 3);
}

#[test]
fn a_slot_is_handed_out_once() {
    let sealer = LayerSealer::new(&keys(1), CIPHER, geometry(), &SeededEntropy::new(1));
    assert_eq!(sealer.reserve(3).first(), 0);
    assert!(sealer.reserve_at(2, 1).is_none());
    assert!(sealer.reserve_at(0, 9).is_none());
    let far = sealer.reserve_at(10, 2).unwrap();
    assert_eq!((far.first(), far.count()), (10, 2));
    assert!(sealer.reserve_at(9, 2).is_none());
    assert!(sealer.reserve_at(11, 1).is_none());
    assert!(sealer.reserve_at(3, 7).is_some());
    assert_eq!(sealer.reserve(1).first(), 12);
    // A run that is not used does not come back.
    assert!(sealer.reserve_at(10, 1).is_none());
    assert_eq!(sealer.slots_reserved(), 13);
}

#[test]
#[should_panic(expected = "what is sealed can be opened")]
fn a_tail_that_contradicts_its_layer_is_not_sealed() {
    let sealer = LayerSealer::new(&keys(1), CIPHER, geometry(), &SeededEntropy::new(1));
    assert_eq!(sealer.reserve(2).count(), 2);
    sealer.finish(&fields(Form::Simple, 4096), BLOCK as u32, None);
}

fn entry(name: &[u8]) -> Entry {
    Entry {
        kind: EntryKind::File,
        id: id(77),
        inode: None,
        replaces: None,
        rdev: None,
        name: name.to_vec(),
    }
}

/// What an entry's sealed form is, wherever it stands.
fn sealed(keys: &KeyTree, parent: EntryId, entry: &Entry) -> Vec<u8> {
    let backing = seal_entry(keys, parent, entry);
    backing.sidecar.map_or(backing.name, |sidecar| sidecar.content)
}

#[test]
fn names_are_long_from_where_the_text_says() {
    let keys = keys(1);
    let device = |name: &[u8]| Entry { kind: EntryKind::BlockDevice, rdev: Some(5), ..entry(name) };
    for len in 1..=255 {
        let name = vec![b'n'; len];
        for (entry, short) in [(entry(&name), 140), (device(&name), 132)] {
            let backing = seal_entry(&keys, EntryId::ROOT, &entry);
            assert!(backing.name.len() <= 255);
            assert_eq!(backing.sidecar.is_some(), len > short, "{len} bytes");
            if let Some(sidecar) = &backing.sidecar {
                assert_eq!(classify_name(&backing.name), NameClass::Long);
                assert_eq!(classify_name(&sidecar.name), NameClass::Sidecar);
                assert_eq!(long_name(&sidecar.content), backing.name);
            } else {
                assert_eq!(classify_name(&backing.name), NameClass::Entry);
            }
            let sealed = sealed(&keys, EntryId::ROOT, &entry);
            assert_eq!(open_entry(&keys, EntryId::ROOT, &sealed).as_ref(), Ok(&entry));
        }
    }
}

#[test]
fn an_entry_in_another_directory_or_vault() {
    let (ours, theirs) = (keys(1), keys(2));
    let name = sealed(&ours, id(5), &entry(b"name"));
    assert_eq!(open_entry(&ours, id(6), &name), Err(FormatError::Auth("name")));
    assert_eq!(open_entry(&ours, EntryId::ROOT, &name), Err(FormatError::Auth("name")));
    assert_eq!(open_entry(&theirs, id(5), &name), Err(FormatError::Auth("name")));
}

#[test]
fn a_changed_cut_or_extended_name() {
    let keys = keys(1);
    for len in [1, 20, 200] {
        let name = sealed(&keys, EntryId::ROOT, &entry(&vec![b'n'; len]));
        let refused = |name: &[u8]| open_entry(&keys, EntryId::ROOT, name).is_err();
        for at in 0..name.len() {
            let mut bad = name.clone();
            // Another digit of base64url; in the last place that may be one whose spare bits are set.
            bad[at] = if bad[at] == b'B' { b'C' } else { b'B' };
            assert!(refused(&bad), "byte {at}");
            assert!(refused(&name[..at]), "cut at {at}");
        }
        for more in [&b"A"[..], b"AA", b"AAAA", b"=", b"\n", b" "] {
            assert!(refused(&[&name[..], more].concat()), "{more:?} behind it");
        }
        assert!(refused(&[b"B", &name[1..]].concat()), "another epoch");
        assert!(refused(&name[1..]), "no epoch");
    }
    assert!(open_entry(&keys, EntryId::ROOT, b"").is_err());
}

#[test]
fn two_spellings_of_one_base64() {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let keys = keys(1);
    let name = sealed(&keys, EntryId::ROOT, &entry(b"name"));
    // 48 bytes leave no spare bits, 64 bytes leave two digits with four.
    let name = if (name.len() - 1).is_multiple_of(4) {
        sealed(&keys, EntryId::ROOT, &entry(&[b'n'; 20]))
    } else {
        name
    };
    assert_ne!((name.len() - 1) % 4, 0);
    let (last, rest) = name.split_last().unwrap();
    let value = DIGITS.iter().position(|digit| digit == last).unwrap();
    assert_eq!(value & 3, 0, "spare bits are zero");
    for spare in 1..4 {
        let other = [rest, &[DIGITS[value + spare]]].concat();
        let error = open_entry(&keys, EntryId::ROOT, &other);
        assert_eq!(error, Err(FormatError::Entry("base64")));
    }
}

#[test]
fn an_entry_that_no_reader_would_take_is_not_sealed() {
    let keys = keys(1);
    let refused = |entry: &Entry| {
        let seal = || seal_entry(&keys, EntryId::ROOT, entry);
        assert!(std::panic::catch_unwind(AssertUnwindSafe(seal)).is_err(), "{entry:?}");
    };
    for name in [&b""[..], b".", b"..", b"/", b"a/b", b"\0", b"a\0", &[b'x'; 256]] {
        refused(&entry(name));
    }
    refused(&Entry { id: EntryId::ROOT, ..entry(b"a") });
    refused(&Entry { replaces: Some(EntryId::ROOT), ..entry(b"a") });
    refused(&Entry { replaces: Some(entry(b"a").id), ..entry(b"a") });
    refused(&Entry { rdev: Some(1), ..entry(b"a") });
    refused(&Entry { inode: Some(EntryId::ROOT), ..entry(b"a") });
    refused(&Entry { inode: Some(entry(b"a").id), ..entry(b"a") });
    refused(&Entry { inode: Some(id(5)), kind: EntryKind::Dir, ..entry(b"a") });
    refused(&Entry { kind: EntryKind::CharDevice, ..entry(b"a") });
}

#[test]
fn names_of_files_in_the_control_directory() {
    let layer = LayerSealer::new(&keys(1), CIPHER, geometry(), &SeededEntropy::new(1));
    let layer = layer.key().id();
    let name = layer_file_name(id(0xAB), layer);
    assert_eq!(parse_layer_file_name(&name), Some((id(0xAB), layer)));
    let text = String::from_utf8(name.clone()).unwrap();
    for bad in [
        text.to_uppercase(),
        text.trim_start_matches('0').to_owned(),
        format!("0{text}"),
        format!("+{}", &text[1..]),
        text.replace('.', "-"),
        text.replacen("00000000000000ab", "0000000000000000", 1),
        text.replacen("00000000000000ab", "8000000000000000", 1),
        text[..text.len() - 1].to_owned(),
        format!("{text}0"),
        format!("{text}.name"),
    ] {
        assert_eq!(parse_layer_file_name(bad.as_bytes()), None, "{bad}");
    }
    let temp = temp_file_name(&SeededEntropy::new(1));
    assert!(is_temp_name(&temp));
    assert!(!is_temp_name(&temp[..32]) && !is_temp_name(&temp.to_ascii_uppercase()));
    for (name, class) in [
        (&b".akasha"[..], NameClass::Control),
        (b".akasha.new", NameClass::Control),
        (b".dir", NameClass::Rescue),
        (b"lost+found", NameClass::Foreign),
        (b"L", NameClass::Foreign),
        (b"B", NameClass::Foreign),
        (b"", NameClass::Foreign),
        (b"A", NameClass::Entry),
    ] {
        assert_eq!(classify_name(name), class, "{name:?}");
    }
}

#[test]
fn an_attribute_of_another_entry_name_or_vault() {
    let (ours, theirs) = (keys(1), keys(2));
    let value = seal_xattr(&ours, id(5), MODE_ATTRIBUTE, b"mode", &SeededEntropy::new(1));
    assert_eq!(open_xattr(&ours, id(5), MODE_ATTRIBUTE, &value), Ok(b"mode".to_vec()));
    assert!(open_xattr(&ours, id(6), MODE_ATTRIBUTE, &value).is_err());
    assert!(open_xattr(&ours, id(5), b"user.other", &value).is_err());
    assert!(open_xattr(&theirs, id(5), MODE_ATTRIBUTE, &value).is_err());
    for at in 0..value.len() {
        let mut bad = value.clone();
        bad[at] ^= 1;
        assert!(open_xattr(&ours, id(5), MODE_ATTRIBUTE, &bad).is_err(), "byte {at}");
        assert!(open_xattr(&ours, id(5), MODE_ATTRIBUTE, &value[..at]).is_err(), "cut at {at}");
    }
    let name = xattr_name(&ours, id(5), MODE_ATTRIBUTE);
    assert!(name.starts_with(b"user.akasha.") && name.len() <= 255);
    assert_ne!(name, xattr_name(&ours, id(6), MODE_ATTRIBUTE));
    assert_ne!(name, xattr_name(&theirs, id(5), MODE_ATTRIBUTE));
}

#[test]
fn a_side_object_of_another_entry_reference_or_vault() {
    let (ours, theirs) = (keys(1), keys(2));
    let map = XattrMap::from([
        (b"user.a".to_vec(), vec![1; 300]),
        (b"user.b".to_vec(), Vec::new()),
        (vec![b'c'; 255], b"long".to_vec()),
    ]);
    let (side, sealed) = seal_side(&ours, id(5), &map, &SeededEntropy::new(1));
    assert_eq!(sealed.len(), side_len(&map));
    assert_eq!(open_side(&ours, id(5), side, &sealed), Ok(map.clone()));
    assert_eq!(SideRef::from_bytes(&side.to_bytes()), Ok(side));
    assert!(SideRef::from_bytes(&side.to_bytes()[1..]).is_err());
    let (other, others) = seal_side(&ours, id(5), &map, &SeededEntropy::new(2));
    assert!(open_side(&ours, id(5), side, &others).is_err());
    assert!(open_side(&ours, id(5), other, &sealed).is_err());
    assert!(open_side(&ours, id(6), side, &sealed).is_err());
    assert!(open_side(&theirs, id(5), side, &sealed).is_err());
    for at in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[at] ^= 1;
        assert!(open_side(&ours, id(5), side, &bad).is_err(), "byte {at}");
        assert!(open_side(&ours, id(5), side, &sealed[..at]).is_err(), "cut at {at}");
    }
    let (none, empty) = seal_side(&ours, id(5), &XattrMap::new(), &SeededEntropy::new(3));
    assert_eq!(open_side(&ours, id(5), none, &empty), Ok(XattrMap::new()));
}

#[test]
fn an_attributes_name_opens_only_for_its_entry_and_as_it_was_sealed() {
    let ours = keys(1);
    for len in [0, 1, 14, 15, 16, 31, 159, 160, 255] {
        let plain = vec![0x80; len];
        let sealed = xattr_name(&ours, id(5), &plain);
        assert_eq!(sealed.len(), xattr_name_len(len));
        assert_eq!(sealed.len() <= 255, len < 160, "{len}");
        assert!(is_sealed_xattr(&sealed));
        assert_eq!(open_xattr_name(&ours, id(5), &sealed), Ok(plain));
        assert!(open_xattr_name(&ours, id(6), &sealed).is_err());
        assert!(open_xattr_name(&keys(2), id(5), &sealed).is_err());
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(open_xattr_name(&ours, id(5), &bad).is_err(), "byte {at}");
            assert!(open_xattr_name(&ours, id(5), &sealed[..at]).is_err(), "cut at {at}");
        }
    }
}

// --- the frozen vault -------------------------------------------------------------------------

const FROZEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/v1/vault");
const PASSWORD: &[u8] = b"correct horse";

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A copy of the frozen vault, with the empty directories that Git does not keep.
fn frozen() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_tree(Path::new(FROZEN), copy.path());
    for name in ["tmp", "layers", "inodes", "xattrs"] {
        fs::create_dir_all(copy.path().join(".akasha").join(name)).unwrap();
    }
    copy
}

fn mount(dir: &Path) -> Arc<Store<OsDisk>> {
    let disk = OsDisk::open(dir).unwrap();
    let open = config::open(&vault::read_config(&disk).unwrap(), PASSWORD).unwrap();
    assert_eq!(open.config.cipher, CIPHER);
    assert_eq!(open.config.serial, 1);
    let options = StoreOptions { read_only: true, ..StoreOptions::default() };
    let clock = Arc::new(SystemClock::new());
    Store::open(Arc::new(disk), open, options, Arc::new(OsEntropy), clock).unwrap()
}

/// The whole of a file, or why it cannot be read.
fn content(store: &Store<OsDisk>, node: &Arc<Node<OsDisk>>) -> akasha::store::Result<Vec<u8>> {
    let size = usize::try_from(store.attr(node)?.size).unwrap();
    let mut bytes = vec![0xAA; size + 1];
    store.open_file(node, false)?;
    let read = store.read(node, 0, &mut bytes);
    store.close_file(node, false);
    bytes.truncate(read?);
    assert_eq!(bytes.len(), size);
    Ok(bytes)
}

/// The bytes `at..` of the pattern that the frozen files were filled with.
fn pattern(at: usize, len: usize, salt: usize) -> impl Iterator<Item = u8> {
    (at..at + len).map(move |i| (i * 7 + (i >> 12) * 13 + salt) as u8)
}

/// What the file `mapped` holds: its layers lie over each other, with holes.
fn mapped_content() -> Vec<u8> {
    let mut bytes = vec![0; 1_000_001];
    for (at, len, salt) in [(0, 20 * BLOCK, 2), (10 * BLOCK - 100, 300, 3), (700_000, 5, 4)] {
        bytes.splice(at..at + len, pattern(at, len, salt));
    }
    bytes
}

#[test]
fn the_frozen_vault_reads_as_ever() {
    let copy = frozen();
    let store = mount(copy.path());
    let root = store.root();
    let long = b"long name ".repeat(20);
    let mut names = Vec::new();
    store
        .list(&root, 0, &mut |entry| {
            names.push((entry.name.to_vec(), entry.kind));
            true
        })
        .unwrap();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        (&b"dir"[..], EntryKind::Dir),
        (b"link", EntryKind::Symlink),
        (b"mapped", EntryKind::File),
        (b"plain", EntryKind::File),
    ];
    assert_eq!(names, expected.map(|(name, kind)| (name.to_vec(), kind)));
    let plain = store.lookup(&root, b"plain").unwrap();
    assert_eq!(content(&store, &plain).unwrap(), pattern(0, 5000, 1).collect::<Vec<_>>());
    let mapped = store.lookup(&root, b"mapped").unwrap();
    assert!(content(&store, &mapped).unwrap() == mapped_content());
    let link = store.lookup(&root, b"link").unwrap();
    assert_eq!(store.readlink(&link).unwrap(), [b"dir/", &long[..]].concat());
    let dir = store.lookup(&root, b"dir").unwrap();
    let deep = store.lookup(&dir, &long).unwrap();
    assert_eq!(content(&store, &deep).unwrap(), b"long");
    store.close().unwrap();
}

#[test]
fn the_frozen_vault_is_not_changed_by_reading() {
    let copy = frozen();
    let store = mount(copy.path());
    store.lookup(&store.root(), b"plain").unwrap();
    store.close().unwrap();
    drop(store);
    let same = |relative: &str| {
        let (there, here) = (Path::new(FROZEN).join(relative), copy.path().join(relative));
        assert_eq!(fs::read(there).unwrap(), fs::read(here).unwrap(), "{relative}");
    };
    same(".akasha/vault.toml");
    same(".akasha/clean");
    same(".akasha/lock");
}

/// The files of the frozen vault that hold layers.
fn layers(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for place in [dir.to_owned(), dir.join(".akasha/layers")] {
        for entry in fs::read_dir(place).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_flipped_byte_in_the_frozen_vault_is_an_error_of_one_file() {
    let copy = frozen();
    let paths = layers(copy.path());
    assert_eq!(paths.len(), 4, "plain, link, mapped and its older layer");
    for path in &paths {
        let good = fs::read(path).unwrap();
        let len = good.len();
        // Header, tail, and a byte of content that shows: slot 0 of the older layer is the file's first block.
        for at in [0, 11, 30, HEADER_LEN, len - TAIL_LEN, len - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(path, &bad).unwrap();
            let store = mount(copy.path());
            let root = store.root();
            let failed = [&b"plain"[..], b"mapped", b"link"].map(|name| {
                // A damaged top may fail to be looked up or only to be read.
                let node = store.lookup(&root, name);
                node.and_then(|node| match node.kind() {
                    EntryKind::Symlink => store.readlink(&node),
                    _ => content(&store, &node),
                })
                .is_err()
            });
            let count = failed.iter().filter(|failed| **failed).count();
            assert_eq!(count, 1, "byte {at} of {len}: {failed:?}");
            store.close().unwrap();
        }
        fs::write(path, good).unwrap();
    }
}
