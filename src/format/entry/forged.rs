//! Names that no honest writer makes, each named after what is wrong with it, sealed with the vault's key.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::crypto::MasterKey;
use crate::entropy::SeededEntropy;
use proptest::prelude::*;

fn keys() -> KeyTree {
    KeyTree::derive(&MasterKey::random(&SeededEntropy::new(1)), &[5; 16], 0)
}

fn id(n: u64) -> EntryId {
    EntryId::from_raw(n).unwrap()
}

fn file(name: &[u8]) -> Entry {
    Entry {
        kind: EntryKind::File,
        id: id(9),
        inode: None,
        replaces: None,
        rdev: None,
        name: name.to_vec(),
    }
}

/// A backing name of the root over this plaintext, whatever it says.
fn forge(plain: &[u8]) -> Vec<u8> {
    let sealed = keys().names().seal([b"entry", &1_u64.to_le_bytes()], plain);
    [b"A".as_slice(), BASE64URL_NOPAD.encode(&sealed).as_bytes()].concat()
}

fn open(sealed: &[u8]) -> Result<Entry, FormatError> {
    open_entry(&keys(), EntryId::ROOT, sealed)
}

/// The plaintext of a file of id 9 called "ab": 19 bytes, the name, 0x80, zeros up to 32.
fn plain() -> Vec<u8> {
    let mut plain = vec![1, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', 0x80];
    plain.resize(32, 0);
    plain
}

#[test]
fn the_record_is_laid_out_as_written() {
    assert_eq!(open(&forge(&plain())), Ok(file(b"ab")));
    assert_eq!(seal_entry(&keys(), EntryId::ROOT, &file(b"ab")).name, forge(&plain()));
    let mut device = plain();
    device[1] = 7;
    device[2] = 1;
    device[11] = 5;
    device.splice(19..19, 0x0801_u64.to_le_bytes());
    device.resize(32, 0);
    let mut expected = Entry {
        kind: EntryKind::BlockDevice,
        replaces: Some(id(5)),
        rdev: Some(0x0801),
        ..file(b"ab")
    };
    assert_eq!(open(&forge(&device)), Ok(expected.clone()));
    device[2] = 3;
    device.splice(19..19, 0x0707_u64.to_le_bytes());
    device.truncate(19 + 16 + 3);
    device.resize(48, 0);
    expected.inode = Some(id(0x0707));
    assert_eq!(open(&forge(&device)), Ok(expected));
}

/// Each: an authentic record that no writer makes.
macro_rules! refused_entries {
    ($($name:ident: $why:literal, $edit:expr;)*) => { $(
        #[test]
        fn $name() {
            let mut plain = plain();
            let edit: fn(&mut Vec<u8>) = $edit;
            edit(&mut plain);
            assert_eq!(open(&forge(&plain)), Err(FormatError::Entry($why)));
        }
    )* };
}

refused_entries! {
    an_empty_record: "length", |p| p.clear();
    a_record_of_one_step: "length", |p| p.truncate(16);
    a_record_that_ends_between_steps: "length", |p| p.truncate(31);
    a_record_of_no_version: "version", |p| p[0] = 0;
    a_record_of_a_newer_version: "version", |p| p[0] = 2;
    a_record_of_no_kind: "kind", |p| p[1] = 0;
    a_record_of_an_unknown_kind: "kind", |p| p[1] = 8;
    a_file_with_a_device_number: "flags", |p| p[2] = 1;
    a_device_without_a_number: "flags", |p| p[1] = 6;
    a_record_with_an_unknown_flag: "flags", |p| p[2] = 4;
    a_directory_of_several_names: "flags", |p| (p[1], p[2]) = (2, 2);
    a_name_of_no_file: "inode", |p| {
        p[2] = 2;
        p.splice(19..19, [0; 8]);
        p.resize(32, 0);
    };
    a_name_of_the_root: "inode", |p| {
        p[2] = 2;
        p.splice(19..19, 1_u64.to_le_bytes());
        p.resize(32, 0);
    };
    a_name_of_itself: "inode", |p| {
        p[2] = 2;
        p.splice(19..19, 9_u64.to_le_bytes());
        p.resize(32, 0);
    };
    a_device_without_a_name: "padding", |p| {
        p[1] = 7;
        p[2] = 1;
    };
    entry_zero: "id", |p| p[3] = 0;
    an_entry_that_says_it_is_the_root: "id", |p| p[3] = 1;
    an_entry_of_64_bits: "id", |p| p[10] = 0x80;
    an_entry_that_replaces_the_root: "replaces", |p| p[11] = 1;
    an_entry_that_replaces_itself: "replaces", |p| p[11] = 9;
    an_entry_that_replaces_one_of_64_bits: "replaces", |p| p[18] = 0x80;
    no_padding: "padding", |p| p[21..].fill(b'x');
    nothing_but_zeros_for_a_name: "padding", |p| p[19..].fill(0);
    a_byte_behind_the_padding: "padding", |p| p[31] = 1;
    a_step_of_padding_too_many: "padding", |p| p.resize(48, 0);
    a_name_of_no_bytes: "name", |p| p[19..].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    a_name_with_a_nul: "name", |p| p[19] = 0;
    a_name_with_a_slash: "name", |p| p[20] = b'/';
    the_name_dot: "name", |p| p[19..22].copy_from_slice(b".\x80\0");
    the_name_dot_dot: "name", |p| p[19..21].copy_from_slice(b"..");
    a_name_of_256_bytes: "name", |p| {
        p.truncate(19);
        p.extend([b'x'; 256]);
        p.push(0x80);
        p.resize(p.len().next_multiple_of(16), 0);
    };
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|b| if matches!(b, 0 | b'/') { 0x80 } else { b });
    prop::collection::vec(byte, 1..=255).prop_filter("dots", |name| name != b"." && name != b"..")
}

proptest! {
    #[test]
    fn every_entry_opens_where_it_was_sealed_and_nowhere_else(
        name in name(), entry in 2..1_u64 << 63, replaces in 0..1_u64 << 63, kind in 0..7_usize,
        inode in prop::option::of(2..1_u64 << 63), rdev in any::<u64>(), parent in 1..1_u64 << 63, flip in any::<usize>()
    ) {
        let kind = EntryKind::ALL[kind];
        let replaces = EntryId::from_raw(replaces).filter(|r| r.get() != 1 && r.get() != entry);
        let rdev = kind.is_device().then_some(rdev);
        let inode = inode.filter(|inode| *inode != entry && kind != EntryKind::Dir).map(id);
        let entry = Entry { kind, id: id(entry), inode, replaces, rdev, name };
        let (keys, parent) = (keys(), id(parent));
        let backing = seal_entry(&keys, parent, &entry);
        prop_assert!(backing.name.len() <= 255);
        let numbers = usize::from(rdev.is_some()) + usize::from(inode.is_some());
        let long = entry.name.len() + 8 * numbers > 140;
        prop_assert_eq!(backing.sidecar.is_some(), long);
        let sealed = match &backing.sidecar {
            None => {
                prop_assert_eq!(classify_name(&backing.name), NameClass::Entry);
                backing.name
            }
            Some(sidecar) => {
                prop_assert_eq!(classify_name(&backing.name), NameClass::Long);
                prop_assert_eq!(classify_name(&sidecar.name), NameClass::Sidecar);
                prop_assert_eq!(long_name(&sidecar.content), backing.name);
                sidecar.content.clone()
            }
        };
        prop_assert_eq!(open_entry(&keys, parent, &sealed), Ok(entry));
        let elsewhere = id(parent.get() % ((1 << 63) - 1) + 1);
        prop_assert_eq!(open_entry(&keys, elsewhere, &sealed), Err(FormatError::Auth("name")));
        let mut flipped = sealed.clone();
        flipped[flip % sealed.len()] ^= 1 << (flip % 7);
        prop_assert!(open_entry(&keys, parent, &flipped).is_err());
        prop_assert!(open_entry(&keys, parent, &sealed[..flip % sealed.len()]).is_err());
    }

    #[test]
    fn no_record_panics_the_parser(
        bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(0x80), Just(1), any::<u8>()], 0..320)
    ) {
        let _ = parse_entry(&bytes);
        let _ = open(&forge(&bytes));
        let _ = open(&bytes);
    }
}

#[test]
fn base64_with_bits_that_mean_nothing_is_another_name() {
    let sealed = forge(&plain());
    assert_eq!(sealed.len(), 65);
    let mut name = seal_entry(&keys(), EntryId::ROOT, &file(&[b'x'; 13])).name;
    // 64 bytes end in a character that holds two bits.
    let last = name.len() - 1;
    name[last] = match name[last] {
        b'A' => b'B',
        b'Q' => b'R',
        b'g' => b'h',
        other => other + 1,
    };
    assert_eq!(open(&name), Err(FormatError::Entry("base64")));
}

#[test]
#[should_panic(expected = "what is sealed can be opened")]
fn a_writer_cannot_seal_a_name_that_does_not_open() {
    seal_entry(&keys(), EntryId::ROOT, &file(b"a/b"));
}

#[test]
fn a_layers_file_name_has_one_spelling() {
    let layer = ObjectId([0xAB; 32]);
    let name = layer_file_name(id(0x1F), layer);
    assert_eq!(parse_layer_file_name(&name), Some((id(0x1F), layer)));
    let text = String::from_utf8(name).unwrap();
    for wrong in [
        text.to_uppercase(),
        text.replacen("00", "", 1),
        text.replacen('0', "+", 1),
        format!("{text}0"),
        format!("{text}."),
        text.replace('.', ""),
        text.replacen("000000000000001f", "0000000000000000", 1),
    ] {
        assert_eq!(parse_layer_file_name(wrong.as_bytes()), None, "{wrong}");
    }
}

#[test]
fn temporary_names_are_told_from_all_others() {
    let name = temp_file_name(&SeededEntropy::new(3));
    assert!(is_temp_name(&name));
    assert!(!is_temp_name(&name[1..]) && !is_temp_name(&name[..32]) && !is_temp_name(b""));
    assert!(!is_temp_name(&name.to_ascii_uppercase()));
    assert_eq!(classify_name(&name), NameClass::Foreign);
    for (name, class) in [
        (b".akasha".as_slice(), NameClass::Control),
        (b".akasha.new", NameClass::Control),
        (b".dir", NameClass::Rescue),
        (b".Akasha", NameClass::Foreign),
        (b"", NameClass::Foreign),
        (b"L", NameClass::Foreign),
        (b"A", NameClass::Entry),
    ] {
        assert_eq!(classify_name(name), class, "{name:?}");
    }
}
