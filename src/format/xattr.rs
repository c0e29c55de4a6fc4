//! Sealed extended attributes: names deterministic, values randomised (FORMAT.md, "Extended attributes").

use data_encoding::BASE64URL_NOPAD;

use crate::crypto::KeyTree;
use crate::entropy::Entropy;

use super::FormatError;
use super::ids::EntryId;

/// What every backing attribute of ours begins with.
const PREFIX: &[u8] = b"user.akasha.";
/// The internal attribute that holds the permission bits which an unprivileged daemon cannot give a backing
/// object. No attribute of a mount has such a name.
pub const MODE_ATTRIBUTE: &[u8] = b"akasha\0mode";

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

fn associated(id: EntryId, name: &[u8]) -> Vec<u8> {
    let mut aad = id.get().to_le_bytes().to_vec();
    aad.extend_from_slice(name);
    aad
}
