//! Sealed extended attributes: names deterministic, values randomised (FORMAT.md, "Extended attributes"). What does not fit
//! beside a backing object is sealed as a side object, whole.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;

use crate::crypto::{KeyTree, TAG_LEN};
use crate::entropy::Entropy;

use super::FormatError;
use super::ids::{EntryId, ObjectId};

/// What every backing attribute of ours begins with.
const PREFIX: &[u8] = b"user.akasha.";
/// The internal attribute that holds the permission bits which an unprivileged daemon cannot give a backing
/// object. No attribute of a mount has such a name.
pub const MODE_ATTRIBUTE: &[u8] = b"akasha\0mode";
/// The internal attribute that says in which side object all others are ([`SideRef`]).
pub const SIDE_ATTRIBUTE: &[u8] = b"akasha\0side";
/// Longest side object in bytes.
pub const SIDE_LEN_MAX: usize = 1 << 20;
/// Nonce and tag of a side object.
const SIDE_OVERHEAD_LEN: usize = 24 + TAG_LEN;

/// Attributes by name.
pub type XattrMap = BTreeMap<Vec<u8>, Vec<u8>>;

/// Which side object holds the attributes of an entry. The tag is that of its one ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SideRef {
    /// Drawn for it.
    pub id: ObjectId,
    tag: [u8; TAG_LEN],
}

impl SideRef {
    /// The value of [`SIDE_ATTRIBUTE`].
    pub fn to_bytes(self) -> Vec<u8> {
        [&self.id.0[..], &self.tag].concat()
    }

    /// What such a value says.
    ///
    /// # Errors
    /// [`FormatError::Auth`] for another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<SideRef, FormatError> {
        let parts = bytes.split_first_chunk::<32>();
        let Some((id, Ok(tag))) = parts.map(|(id, tag)| (*id, tag.try_into())) else {
            return Err(FormatError::Auth("reference to a side object"));
        };
        Ok(SideRef { id: ObjectId(id), tag })
    }
}

/// The backing name of the attribute `name` of an entry.
pub fn xattr_name(keys: &KeyTree, id: EntryId, name: &[u8]) -> Vec<u8> {
    let mut padded = name.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(16), 0);
    let sealed = keys.xattr_names().seal([b"xattr", &id.get().to_le_bytes()], &padded);
    let mut backing = PREFIX.to_vec();
    backing.extend_from_slice(BASE64URL_NOPAD.encode(&sealed).as_bytes());
    backing
}

/// The length of [`xattr_name`] for a name of `len` bytes.
pub fn xattr_name_len(len: usize) -> usize {
    PREFIX.len() + BASE64URL_NOPAD.encode_len(16 + (len + 1).next_multiple_of(16))
}

/// Whether a backing attribute is one of ours, by its name.
pub fn is_sealed_xattr(backing: &[u8]) -> bool {
    backing.starts_with(PREFIX)
}

/// The name that a backing attribute of an entry stands for.
///
/// # Errors
/// [`FormatError::Auth`] for what [`xattr_name`] did not make for this entry.
pub fn open_xattr_name(
    keys: &KeyTree,
    id: EntryId,
    backing: &[u8],
) -> Result<Vec<u8>, FormatError> {
    let forged = FormatError::Auth("attribute name");
    let Some(sealed) =
        backing.strip_prefix(PREFIX).and_then(|text| BASE64URL_NOPAD.decode(text).ok())
    else {
        return Err(forged);
    };
    let Ok(mut name) = keys.xattr_names().open([b"xattr", &id.get().to_le_bytes()], &sealed) else {
        return Err(forged);
    };
    match name.iter().rposition(|byte| *byte != 0) {
        Some(end) if name[end] == 0x80 => name.truncate(end),
        _ => return Err(forged),
    }
    Ok(name)
}

/// Seals a value: nonce, ciphertext, tag.
pub fn seal_xattr(
    keys: &KeyTree,
    id: EntryId,
    name: &[u8],
    value: &[u8],
    entropy: &dyn Entropy,
) -> Vec<u8> {
    let mut nonce = [0; 24];
    entropy.fill(&mut nonce);
    let mut sealed = nonce.to_vec();
    sealed.extend_from_slice(&keys.seal_xattr_value(&nonce, &associated(id, name), value));
    sealed
}

/// Opens a value.
///
/// # Errors
/// [`FormatError::Auth`].
pub fn open_xattr(
    keys: &KeyTree,
    id: EntryId,
    name: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, FormatError> {
    let (nonce, text) = sealed.split_first_chunk::<24>().ok_or(FormatError::Auth("attribute"))?;
    keys.open_xattr_value(nonce, &associated(id, name), text)
        .map_err(|_| FormatError::Auth("attribute"))
}

/// The length of a side object that holds these attributes.
pub fn side_len(map: &XattrMap) -> usize {
    let records = map.iter().map(|(name, value)| 6 + name.len() + value.len());
    SIDE_OVERHEAD_LEN + records.sum::<usize>()
}

/// Seals all attributes of an entry as a side object under an id drawn here.
///
/// # Panics
/// If a name is longer than 65535 bytes or a value than 4 GiB.
pub fn seal_side(
    keys: &KeyTree,
    id: EntryId,
    map: &XattrMap,
    entropy: &dyn Entropy,
) -> (SideRef, Vec<u8>) {
    let object = ObjectId::random(entropy);
    let plain = encode_records(map);
    let mut nonce = [0; 24];
    entropy.fill(&mut nonce);
    let mut sealed = nonce.to_vec();
    sealed.extend_from_slice(&keys.seal_xattr_value(&nonce, &associated_side(id, object), &plain));
    let tag = *sealed.last_chunk::<TAG_LEN>().expect("it ends with its tag");
    (SideRef { id: object, tag }, sealed)
}

/// Opens the side object that an entry refers to.
///
/// # Errors
/// [`FormatError::Auth`] for everything but what was sealed with that reference.
pub fn open_side(
    keys: &KeyTree,
    id: EntryId,
    side: SideRef,
    sealed: &[u8],
) -> Result<XattrMap, FormatError> {
    let forged = FormatError::Auth("side object of attributes");
    if sealed.last_chunk() != Some(&side.tag) {
        return Err(forged);
    }
    let (nonce, text) = sealed.split_first_chunk::<24>().ok_or(forged)?;
    let plain = keys
        .open_xattr_value(nonce, &associated_side(id, side.id), text)
        .map_err(|_| FormatError::Auth("side object of attributes"))?;
    parse_records(&plain).ok_or(forged)
}

/// Records, sorted by name, each name once.
pub(super) fn parse_records(plain: &[u8]) -> Option<XattrMap> {
    let mut map = XattrMap::new();
    let mut rest = plain;
    while !rest.is_empty() {
        let (name, value, after) = split_record(rest)?;
        if map.last_key_value().is_some_and(|(last, _)| last.as_slice() >= name) {
            return None;
        }
        map.insert(name.to_vec(), value.to_vec());
        rest = after;
    }
    Some(map)
}

pub(super) fn encode_records(map: &XattrMap) -> Vec<u8> {
    let mut plain = Vec::with_capacity(side_len(map));
    for (name, value) in map {
        plain.extend_from_slice(&u16::try_from(name.len()).expect("a short name").to_le_bytes());
        plain.extend_from_slice(&u32::try_from(value.len()).expect("a value").to_le_bytes());
        plain.extend_from_slice(name);
        plain.extend_from_slice(value);
    }
    plain
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name_len, rest) = bytes.split_first_chunk()?;
    let (value_len, rest) = rest.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(u16::from_le_bytes(*name_len).into())?;
    let value_len = usize::try_from(u32::from_le_bytes(*value_len)).ok()?;
    let (value, rest) = rest.split_at_checked(value_len)?;
    Some((name, value, rest))
}

fn associated_side(id: EntryId, object: ObjectId) -> Vec<u8> {
    let mut aad = associated(id, b"akasha\0attributes\0");
    aad.extend_from_slice(&object.0);
    aad
}

fn associated(id: EntryId, name: &[u8]) -> Vec<u8> {
    let mut aad = id.get().to_le_bytes().to_vec();
    aad.extend_from_slice(name);
    aad
}
