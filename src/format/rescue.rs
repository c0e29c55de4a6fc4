//! The rescue copy of a directory: what its own sealed name says, sealed once more inside it, for the day that name no longer
//! opens (FORMAT.md, "Rescue copies"). Of constant length, so that it tells nothing of the name.

use crate::crypto::{Cipher, Domain, KeyTree, ObjectClass, TAG_LEN};
use crate::entropy::Entropy;

use super::FormatError;
use super::entry::{PAD, is_name};
use super::geometry::{Geometry, HEADER_LEN};
use super::ids::{EntryId, ObjectId};
use super::layer::header;
use super::map::{array, u32_at, u64_at};

/// The name of a rescue copy in its directory.
pub const RESCUE_NAME: &[u8] = b".dir";
/// Length of every rescue copy in bytes: header, sealed body.
pub const RESCUE_LEN: usize = HEADER_LEN + PLAIN_LEN + TAG_LEN;

pub(super) const KIND_RESCUE: u8 = 4;
pub(super) const PLAIN_LEN: usize = NAME_AT + NAME_FIELD_LEN;
/// Where the name stands in the body.
const NAME_AT: usize = 128;
/// The longest name, and one byte of padding.
const NAME_FIELD_LEN: usize = 256;

/// What a rescue copy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RescueCopy {
    /// The directory that it is the copy of.
    pub id: EntryId,
    /// The directory that this one was in when the copy was written.
    pub parent: EntryId,
    /// When that was: hybrid clock in microseconds.
    pub stamp: u64,
    /// Its plaintext name then.
    pub name: Vec<u8>,
}

/// Seals a copy under an id drawn here.
///
/// # Panics
/// If no reader would accept it.
pub fn seal_rescue(
    keys: &KeyTree,
    cipher: Cipher,
    geometry: Geometry,
    copy: &RescueCopy,
    entropy: &dyn Entropy,
) -> [u8; RESCUE_LEN] {
    let plain = encode(copy, keys.epoch());
    assert!(parse(&plain, keys.epoch()).as_ref() == Ok(copy), "what is sealed can be opened");
    let head = header(KIND_RESCUE, cipher, geometry, keys.epoch(), ObjectId::random(entropy));
    let key = keys.object_key(ObjectClass::Dir, cipher, &head);
    let mut bytes = [0; RESCUE_LEN];
    bytes[..HEADER_LEN].copy_from_slice(&head);
    bytes[HEADER_LEN..HEADER_LEN + PLAIN_LEN].copy_from_slice(&plain);
    key.seal(Domain::Body, 0, b"", &mut bytes[HEADER_LEN..]);
    bytes
}

/// Opens and checks a copy.
///
/// # Errors
/// [`FormatError::Header`], [`FormatError::Auth`], [`FormatError::Rescue`].
pub fn open_rescue(
    keys: &KeyTree,
    cipher: Cipher,
    geometry: Geometry,
    bytes: &[u8; RESCUE_LEN],
) -> Result<RescueCopy, FormatError> {
    let head: [u8; HEADER_LEN] = array(bytes, 0);
    let id = ObjectId(array(bytes, 24));
    if head != header(KIND_RESCUE, cipher, geometry, keys.epoch(), id) {
        return Err(FormatError::Header("no rescue copy of this vault"));
    }
    let key = keys.object_key(ObjectClass::Dir, cipher, &head);
    let mut body: [u8; RESCUE_LEN - HEADER_LEN] = array(bytes, HEADER_LEN);
    key.open(Domain::Body, 0, b"", &mut body).map_err(|_| FormatError::Auth("rescue copy"))?;
    parse(&array(&body, 0), keys.epoch())
}

pub(super) fn encode(copy: &RescueCopy, epoch: u32) -> [u8; PLAIN_LEN] {
    let mut plain = [0; PLAIN_LEN];
    let mut put = |at: usize, field: &[u8]| plain[at..at + field.len()].copy_from_slice(field);
    put(0, &copy.id.get().to_le_bytes());
    put(8, &copy.parent.get().to_le_bytes());
    put(16, &epoch.to_le_bytes());
    put(24, &copy.stamp.to_le_bytes());
    put(NAME_AT, &copy.name);
    put(NAME_AT + copy.name.len(), &[PAD]);
    plain
}

pub(super) fn parse(plain: &[u8; PLAIN_LEN], epoch: u32) -> Result<RescueCopy, FormatError> {
    let refused = FormatError::Rescue;
    let id = EntryId::from_raw(u64_at(plain, 0)).filter(|id| *id != EntryId::ROOT);
    let id = id.ok_or(refused("id"))?;
    let parent = EntryId::from_raw(u64_at(plain, 8)).filter(|parent| *parent != id);
    let parent = parent.ok_or(refused("parent"))?;
    if u32_at(plain, 16) != epoch {
        return Err(refused("epoch"));
    }
    if plain[20..24].iter().chain(&plain[32..NAME_AT]).any(|byte| *byte != 0) {
        return Err(refused("reserved bytes"));
    }
    let field = &plain[NAME_AT..];
    let end = field.iter().rposition(|byte| *byte != 0).filter(|end| field[*end] == PAD);
    let name = &field[..end.ok_or(refused("padding"))?];
    if !is_name(name) {
        return Err(refused("name"));
    }
    Ok(RescueCopy { id, parent, stamp: u64_at(plain, 24), name: name.to_vec() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::crypto::MasterKey;
    use crate::entropy::SeededEntropy;

    fn copy(name: &[u8]) -> RescueCopy {
        let id = |n| EntryId::from_raw(n).unwrap();
        RescueCopy { id: id(7), parent: EntryId::ROOT, stamp: 5, name: name.to_vec() }
    }

    #[test]
    fn a_copy_opens_as_it_was_sealed_and_no_bit_of_it_can_change() {
        let entropy = SeededEntropy::new(1);
        let keys = KeyTree::derive(&MasterKey::random(&entropy), &[7; 16], 0);
        let geometry = Geometry::new(12).unwrap();
        for cipher in Cipher::ALL {
            for name in [&b"n"[..], b"\x80", &[b'x'; 255]] {
                let said = copy(name);
                let sealed = seal_rescue(&keys, cipher, geometry, &said, &entropy);
                assert_eq!(open_rescue(&keys, cipher, geometry, &sealed).as_ref(), Ok(&said));
                assert_ne!(
                    sealed,
                    seal_rescue(&keys, cipher, geometry, &said, &entropy),
                    "a fresh id"
                );
            }
            let sealed = seal_rescue(&keys, cipher, geometry, &copy(b"name"), &entropy);
            for bit in 0..RESCUE_LEN * 8 {
                let mut changed = sealed;
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(open_rescue(&keys, cipher, geometry, &changed).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn bodies_that_no_writer_makes() {
        let honest = encode(&copy(b"name"), 0);
        assert_eq!(parse(&honest, 0).unwrap(), copy(b"name"));
        let refused = |at: usize, bytes: &[u8], why: &'static str| {
            let mut plain = honest;
            plain[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(parse(&plain, 0), Err(FormatError::Rescue(why)), "{bytes:?} at {at}");
        };
        for id in [0, 1, 1 << 63, u64::MAX] {
            refused(0, &u64::to_le_bytes(id), "id");
        }
        for parent in [0, 7, 1 << 63] {
            refused(8, &u64::to_le_bytes(parent), "parent");
        }
        refused(16, &[1], "epoch");
        for at in [20, 23, 32, 127] {
            refused(at, &[1], "reserved bytes");
        }
        refused(PLAIN_LEN - 1, &[1], "padding");
        refused(NAME_AT, &[0; 5], "padding");
        for name in [&b"\x80\0\0\0\0"[..], b".\x80\0\0\0", b"..\x80\0\0", b"a/b", b"a\0b"] {
            refused(NAME_AT, name, "name");
        }
    }
}
