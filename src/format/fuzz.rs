//! Bodies of the fuzz targets of this floor: bytes of somebody else's choice go in, and what must hold of every answer is
//! asserted. `fuzz/` runs them under libFuzzer (`scripts/fuzz`), the test below over the kept corpus and mutations of it.
//!
//! What is sealed is fuzzed below the seal: the bytes are the plaintext of somebody who has the keys.

use std::sync::OnceLock;

use crate::crypto::{Cipher, Domain, KeyTree, MasterKey, ObjectClass, TAG_LEN};
use crate::entropy::{Entropy, SeededEntropy};

use super::config;
use super::entry::{encode_entry, parse_entry};
use super::geometry::{Geometry, HEADER_LEN, LengthClass, SLOTS_MAX, TAIL_LEN};
use super::ids::{EntryId, ObjectId};
use super::layer::{KIND_LAYER, KIND_STUB, LayerKey, TAIL_PLAIN_LEN, Tail, header};
use super::map::{LayerMap, u32_at, u64_at};
use super::rescue::{self, RESCUE_LEN, open_rescue};
use super::stub::{STUB_LEN, open_stub};
use super::xattr::{encode_records, parse_records, seal_side};
use super::{
    classify_name, inode_file_name, is_temp_name, layer_file_name, open_entry, open_side,
    parse_inode_name, parse_layer_file_name, seal_entry, stub_file_name,
};

/// A body.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 10] = [
    ("config", config),
    ("tail", tail),
    ("map", map),
    ("layer", layer),
    ("entry", entry),
    ("name", name),
    ("stub", stub),
    ("rescue", rescue),
    ("side", side),
    ("file_name", file_name),
];

const CIPHER: Cipher = Cipher::ChaCha20Poly1305;

fn keys() -> &'static KeyTree {
    static KEYS: OnceLock<KeyTree> = OnceLock::new();
    KEYS.get_or_init(|| KeyTree::derive(&MasterKey::random(&SeededEntropy::new(1)), &[3; 16], 0))
}

fn geometry() -> Geometry {
    Geometry::new(12).expect("4 KiB is a block length")
}

/// `vault.toml` before the password: what is accepted is within its bounds, so that nothing absurd is paid or allocated.
pub fn config(bytes: &[u8]) {
    let Ok(info) = config::public_info(bytes) else { return };
    assert!(bytes.len() <= config::CONFIG_LEN_MAX && bytes.ends_with(b"\"\n"));
    assert_eq!(info.format, config::FORMAT_VERSION);
    assert!((1..=16).contains(&info.slots.len()));
    assert!((12..=20).contains(&info.geometry.block_log2()));
    for (at, slot) in info.slots.iter().enumerate() {
        assert!(slot.kdf.is_in_bounds() && slot.label.len() <= 255);
        assert!(info.slots[..at].iter().all(|other| other.id != slot.id));
    }
}

/// A tail, opened: it is what would be written, and its check adds up without overflow.
pub fn tail(bytes: &[u8]) {
    let Some((plain, rest)) = bytes.split_at_checked(TAIL_PLAIN_LEN) else { return };
    let Ok(tail) = Tail::parse(plain) else { return };
    assert_eq!(tail.encode(), plain, "there is one way to write a tail");
    let claimed = rest.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
    let slots = tail.slots.min(SLOTS_MAX);
    let fitting = (slots.saturating_sub(1) * geometry().slot_len())
        .saturating_add(u64::from(tail.last_slot_len))
        .saturating_add(16 * slots.min(1) + tail.map_len.min(1 << 41) + 320);
    for len in [claimed, fitting] {
        if tail.check(geometry(), len).is_ok() {
            assert_eq!(len, fitting, "the length is exact");
            assert!(tail.slots <= SLOTS_MAX && tail.size <= i64::MAX.cast_unsigned());
            assert!(tail.map_len < len && geometry().classify(len) != LengthClass::Stub);
        }
    }
}

/// A map, opened: canonical, sorted, inside the file and the slots, and no larger than its bytes.
pub fn map(bytes: &[u8]) {
    let Some((numbers, plain)) = bytes.split_at_checked(20) else { return };
    let (parents, slots, blocks) = (u32_at(numbers, 0), u64_at(numbers, 4), u64_at(numbers, 12));
    let Ok(map) = LayerMap::parse(plain, parents, slots, blocks) else { return };
    let encoded = map.encode();
    let (records, padding) = plain.split_at(encoded.len());
    assert!(records == encoded && padding.iter().all(|byte| *byte == 0), "one way to write a map");
    assert_eq!(map.parents.len(), parents as usize);
    let mut end = 0;
    for extent in &map.extents {
        assert!(extent.block >= end && extent.count > 0);
        end = extent.block.checked_add(extent.count).expect("inside the file");
        assert!(end <= blocks);
        assert!(
            extent.slot == 0 || extent.slot.checked_add(extent.count).is_some_and(|e| e <= slots)
        );
    }
}

/// Map and tail of a layer, sealed by somebody with the keys, through everything that a reader does. The first two bytes
/// say how long the map is.
pub fn layer(bytes: &[u8]) {
    let Some((map_len, rest)) = bytes.split_first_chunk() else { return };
    let map_len = usize::from(u16::from_le_bytes(*map_len));
    let Some((plain_tail, rest)) = rest.split_at_checked(TAIL_PLAIN_LEN) else { return };
    let mut plain_map = rest.to_vec();
    plain_map.resize(map_len, 0);
    let head = header(KIND_LAYER, CIPHER, geometry(), 0, ObjectId([9; 32]));
    // As the sealer does it, but for its checks.
    let sealing = keys().object_key(ObjectClass::Content, CIPHER, &head);
    let mut sealed_map = Vec::new();
    for (page, plain) in plain_map.chunks(super::map::PAGE_LEN).enumerate() {
        let at = sealed_map.len();
        sealed_map.extend_from_slice(plain);
        sealed_map.resize(at + plain.len() + TAG_LEN, 0);
        sealing.seal(Domain::MapPage, page as u64, b"", &mut sealed_map[at..]);
    }
    let mut sealed_tail = [0; TAIL_LEN];
    sealed_tail[..TAIL_PLAIN_LEN].copy_from_slice(plain_tail);
    sealing.seal(Domain::Tail, 0, b"", &mut sealed_tail);
    let key = LayerKey::open(keys(), CIPHER, geometry(), &head).expect("an honest header");
    // Of every length that the tail could ask for, the one that it does.
    let (slots, last) = (u64_at(plain_tail, 32), u64::from(u32_at(plain_tail, 4)));
    let slots_len = slots
        .checked_sub(1)
        .and_then(|full| full.checked_mul(geometry().slot_len())?.checked_add(last + 16));
    let len =
        slots_len.unwrap_or(0).saturating_add((HEADER_LEN + TAIL_LEN + sealed_map.len()) as u64);
    let Ok((tail, _)) = key.open_tail(&sealed_tail, len) else { return };
    assert_eq!(tail.encode(), plain_tail);
    if let Ok(map) = key.open_map(&tail, sealed_map) {
        assert!(map.parents.iter().all(|p| p.owner == tail.entry_id && p.commit < tail.commit));
    }
}

/// A sealed entry, opened: there is one way to write it, and it opens only in its directory.
pub fn entry(bytes: &[u8]) {
    let Ok(entry) = parse_entry(bytes) else { return };
    assert_eq!(encode_entry(&entry), bytes, "there is one way to write an entry");
    let sealed = seal_entry(keys(), EntryId::ROOT, &entry);
    assert!(sealed.name.len() <= 255 && !sealed.name.contains(&b'/'));
    let text = sealed.sidecar.map_or(sealed.name, |sidecar| sidecar.content);
    assert_eq!(open_entry(keys(), EntryId::ROOT, &text), Ok(entry));
    let elsewhere = EntryId::from_raw(2).expect("a good id");
    assert!(open_entry(keys(), elsewhere, &text).is_err());
}

/// A backing name, whole: none that was not sealed opens.
pub fn name(bytes: &[u8]) {
    if let Ok(entry) = open_entry(keys(), EntryId::ROOT, bytes) {
        let sealed = seal_entry(keys(), EntryId::ROOT, &entry);
        assert_eq!(sealed.sidecar.map_or(sealed.name, |sidecar| sidecar.content), bytes);
    }
}

/// A stub: its record sealed by somebody with the keys, and as a whole.
pub fn stub(bytes: &[u8]) {
    if let Ok(whole) = bytes.try_into() {
        assert!(open_stub(keys(), CIPHER, geometry(), whole).is_err(), "nobody sealed this");
    }
    let Some(plain) = bytes.first_chunk::<TAIL_PLAIN_LEN>() else { return };
    let head = header(KIND_STUB, CIPHER, geometry(), 0, ObjectId([8; 32]));
    let key = keys().object_key(ObjectClass::Stub, CIPHER, &head);
    let mut sealed = [0; STUB_LEN];
    sealed[..HEADER_LEN].copy_from_slice(&head);
    key.seal(Domain::Body, 0, b"", &mut sealed[HEADER_LEN..HEADER_LEN + TAG_LEN]);
    let at = HEADER_LEN + TAG_LEN;
    sealed[at..at + TAIL_PLAIN_LEN].copy_from_slice(plain);
    key.seal(Domain::Tail, 0, b"", &mut sealed[at..]);
    if let Ok(stub) = open_stub(keys(), CIPHER, geometry(), &sealed) {
        let tail = Tail::parse(plain).expect("a stub's record is a tail");
        assert_eq!((tail.entry_id, tail.commit), (stub.inode, stub.native));
    }
}

/// A rescue copy: its body sealed by somebody with the keys, and as a whole.
pub fn rescue(bytes: &[u8]) {
    if let Ok(whole) = bytes.try_into() {
        assert!(open_rescue(keys(), CIPHER, geometry(), whole).is_err(), "nobody sealed this");
    }
    let Some(plain) = bytes.first_chunk::<{ rescue::PLAIN_LEN }>() else { return };
    let head = header(rescue::KIND_RESCUE, CIPHER, geometry(), 0, ObjectId([7; 32]));
    let key = keys().object_key(ObjectClass::Dir, CIPHER, &head);
    let mut sealed = [0; RESCUE_LEN];
    sealed[..HEADER_LEN].copy_from_slice(&head);
    sealed[HEADER_LEN..HEADER_LEN + plain.len()].copy_from_slice(plain);
    key.seal(Domain::Body, 0, b"", &mut sealed[HEADER_LEN..]);
    if let Ok(copy) = open_rescue(keys(), CIPHER, geometry(), &sealed) {
        assert_eq!(&rescue::encode(&copy, 0), plain, "there is one way to write a copy");
        assert!(copy.id != EntryId::ROOT && (1..=255).contains(&copy.name.len()));
    }
}

/// The records of a side object: there is one way to write them. Sealed, they open, and only as they were sealed.
pub fn side(bytes: &[u8]) {
    let Some(map) = parse_records(bytes) else { return };
    assert_eq!(encode_records(&map), bytes, "there is one way to write records");
    let id = EntryId::from_raw(5).expect("a good id");
    let (side, mut sealed) = seal_side(keys(), id, &map, &SeededEntropy::new(6));
    assert_eq!(open_side(keys(), id, side, &sealed).as_ref(), Ok(&map));
    let at = bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>() % sealed.len();
    sealed[at] ^= 1;
    assert!(open_side(keys(), id, side, &sealed).is_err());
}

/// Names in the control directories: each is written in one way.
pub fn file_name(bytes: &[u8]) {
    let _ = (classify_name(bytes), is_temp_name(bytes));
    if let Some((entry, layer)) = parse_layer_file_name(bytes) {
        assert_eq!(layer_file_name(entry, layer), bytes);
    }
    if let Some(inode) = parse_inode_name(bytes) {
        assert!(inode_file_name(inode) == bytes || stub_file_name(inode) == bytes);
    }
}

/// Inputs to begin with: one of each kind that is accepted.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let id = |n| EntryId::from_raw(n).expect("a good id");
    let random = SeededEntropy::new(11);
    let new_tail = |simple: bool, map_len: u64, parents| Tail {
        form: if simple { super::Form::Simple } else { super::Form::Mapped },
        role: super::Role::Version,
        last_slot_len: if simple { 904 } else { 4096 },
        entry_id: id(7),
        commit: 5,
        size: if simple { 5000 } else { 100_000 },
        slots: 2,
        map_len,
        map_pages: u32::from(!simple),
        parents,
        home: EntryId::ROOT,
        stamp: 3,
        previous: super::TailTag::default(),
        birth: 4,
        mode: 0o644,
        uid: 5,
        gid: 6,
    };
    let parent = super::Parent {
        layer: ObjectId([4; 32]),
        tag: super::TailTag([5; 16]),
        owner: id(7),
        commit: 4,
        size: 90_000,
        epoch: 0,
    };
    let hole = super::Extent { block: 2, count: 3, source: super::Source::Hole, slot: 0 };
    let own = super::Extent { block: 5, count: 2, source: super::Source::Own, slot: 0 };
    let records = LayerMap { extents: vec![hole, own], parents: vec![parent] }.encode();
    let new_entry = |kind, inode, rdev, name: &[u8]| super::Entry {
        kind,
        id: id(9),
        inode,
        replaces: Some(id(10)),
        rdev,
        name: name.to_vec(),
    };
    let entries = [
        new_entry(super::EntryKind::File, None, None, b"name"),
        new_entry(super::EntryKind::File, Some(id(12)), None, &[b'n'; 255]),
        new_entry(super::EntryKind::BlockDevice, Some(id(12)), Some(77), b"device"),
    ];
    match target {
        "config" => {
            let kdf = config::KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 };
            let params = config::ConfigParams { cipher: CIPHER, geometry: geometry(), kdf };
            let made = config::create(b"p", &params, 0, &random).expect("good parameters");
            vec![made.0]
        }
        "tail" => [new_tail(true, 0, 0), new_tail(false, 4120, 1)]
            .map(|tail| [&tail.encode()[..], &12_664_u64.to_le_bytes()].concat())
            .to_vec(),
        "map" => {
            let mut numbers = 1_u32.to_le_bytes().to_vec();
            numbers.extend_from_slice(&2_u64.to_le_bytes());
            numbers.extend_from_slice(&25_u64.to_le_bytes());
            vec![[&numbers[..], &records, &[0; 40]].concat()]
        }
        "layer" => {
            let simple = [&[0, 0][..], &new_tail(true, 0, 0).encode()].concat();
            let len = 4104_u16.to_le_bytes();
            let mapped = [&len[..], &new_tail(false, 4120, 1).encode(), &records].concat();
            vec![simple, mapped]
        }
        "entry" => entries.iter().map(encode_entry).collect(),
        "name" => entries
            .iter()
            .map(|entry| {
                let sealed = seal_entry(keys(), EntryId::ROOT, entry);
                sealed.sidecar.map_or(sealed.name, |sidecar| sidecar.content)
            })
            .collect(),
        "stub" => {
            let mut tail = new_tail(true, 0, 0);
            (tail.form, tail.role) = (super::Form::Link, super::Role::Inode);
            (tail.last_slot_len, tail.size, tail.slots) = (0, 0, 0);
            vec![tail.encode().to_vec(), vec![0; STUB_LEN]]
        }
        "rescue" => {
            let copies = [&b"name"[..], &[b'n'; 255]].map(|name| {
                let (id, parent) = (id(9), EntryId::ROOT);
                rescue::encode(&super::RescueCopy { id, parent, stamp: 3, name: name.to_vec() }, 0)
            });
            let mut seeds: Vec<_> = copies.iter().map(|copy| copy.to_vec()).collect();
            seeds.push(vec![0; RESCUE_LEN]);
            seeds
        }
        "side" => {
            let map = [(b"user.a".to_vec(), vec![1; 40]), (b"user.b".to_vec(), Vec::new())];
            vec![encode_records(&map.into())]
        }
        "file_name" => vec![
            layer_file_name(id(3), ObjectId([2; 32])),
            inode_file_name(id(3)),
            stub_file_name(id(3)),
            super::temp_file_name(&random),
            [b"L".as_slice(), &[b'x'; 43], b".name"].concat(),
        ],
        other => panic!("no target {other}"),
    }
}

/// Another input, made of `from` by some of what fuzzers do.
pub fn mutate(from: &[u8], random: &dyn Entropy) -> Vec<u8> {
    let mut bytes = from.to_vec();
    let below = |bound: usize| (random.next_u64() % bound.max(1) as u64) as usize;
    for _ in 0..=below(3) {
        let at = below(bytes.len());
        match below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][below(5)],
            2 if bytes.len() >= 8 => {
                let at = below(bytes.len() - 7);
                let number = [0, 1, u64::MAX, 1 << 63, 1 << 32, u64::from(u32::MAX)][below(6)];
                bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            }
            3 => bytes.truncate(at),
            4 => bytes.insert(at, below(256) as u8),
            5 if !bytes.is_empty() => drop(bytes.remove(at)),
            _ => {
                // A part of it again, elsewhere.
                let end = (at + below(64)).min(bytes.len());
                let part = bytes[at.min(end)..end].to_vec();
                let to = below(bytes.len() + 1);
                bytes.splice(to..to, part);
            }
        }
    }
    bytes
}

/// Runs `target` over its seeds, what is kept of earlier runs in `fuzz/corpus`, and `count` mutations of those.
#[cfg(test)]
pub fn run_briefly(name: &str, target: Target, mut inputs: Vec<Vec<u8>>, count: u64) {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let kept = std::fs::read_dir(corpus).into_iter().flatten().flatten();
    let mut kept: Vec<_> = kept.map(|entry| entry.path()).collect();
    kept.sort();
    inputs.extend(kept.iter().map(|path| std::fs::read(path).expect("the corpus is readable")));
    assert!(!inputs.is_empty());
    let random = SeededEntropy::new(inputs.len() as u64);
    for input in &inputs {
        target(input);
    }
    for _ in 0..count {
        let from = &inputs[(random.next_u64() % inputs.len() as u64) as usize];
        let mutated = mutate(from, &random);
        let run = std::panic::catch_unwind(|| target(&mutated));
        if let Err(panic) = run {
            eprintln!("{name}: {}", mutated.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    }
    println!("{name}: {} inputs kept, {count} mutations", inputs.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::map::array;

    #[test]
    fn no_bytes_break_what_the_parsers_promise() {
        for (name, target) in TARGETS {
            let count = if name == "config" { 3000 } else { 20_000 };
            run_briefly(name, target, seeds(name), count);
        }
    }

    /// Seeds that nothing accepts would let everything pass.
    #[test]
    fn the_seeds_are_accepted() {
        assert!(seeds("config").iter().all(|seed| config::public_info(seed).is_ok()));
        assert!(seeds("tail").iter().all(|seed| Tail::parse(&seed[..TAIL_PLAIN_LEN]).is_ok()));
        assert!(seeds("map").iter().all(|s| LayerMap::parse(&s[20..], 1, 2, 25).is_ok()));
        assert!(seeds("entry").iter().all(|seed| parse_entry(seed).is_ok()));
        assert!(seeds("name").iter().all(|n| open_entry(keys(), EntryId::ROOT, n).is_ok()));
        let whole = seeds("rescue");
        let copies = whole.iter().filter_map(|seed| seed.as_slice().try_into().ok());
        assert_eq!(copies.filter(|copy| rescue::parse(copy, 0).is_ok()).count(), 2);
        assert!(seeds("side").iter().all(|seed| parse_records(seed).is_some()));
        let tail = array::<TAIL_PLAIN_LEN>(&seeds("layer")[1], 2);
        assert!(Tail::parse(&tail).is_ok_and(|tail| tail.check(geometry(), 12_664).is_ok()));
    }
}
