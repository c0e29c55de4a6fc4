//! The stub of a file with several names: an object of constant length that says which file in `.akasha/inodes` it stands for
//! (FORMAT.md, "Stubs"). Hard links of the plaintext are native hard links of one stub, so that the backing filesystem counts them.

use crate::crypto::{Cipher, Domain, KeyTree, ObjectClass, TAG_LEN};
use crate::entropy::Entropy;

use super::FormatError;
use super::geometry::{Geometry, HEADER_LEN, TAIL_LEN};
use super::ids::{EntryId, ObjectId, TailTag};
use super::layer::{Form, KIND_STUB, Role, TAIL_PLAIN_LEN, Tail, header};
use super::map::array;

/// Length of every stub in bytes: header, empty sealed body, tail.
pub const STUB_LEN: usize = HEADER_LEN + TAG_LEN + TAIL_LEN;

/// What a stub says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stub {
    /// The file that it stands for.
    pub inode: EntryId,
    /// The number that the backing filesystem gave the stub itself (st_ino) when it was made. A copy has another one, and
    /// its native link count says nothing about the names of the file.
    pub native: u64,
}

/// Seals a stub under an id drawn here.
pub fn seal_stub(
    keys: &KeyTree,
    cipher: Cipher,
    geometry: Geometry,
    stub: Stub,
    entropy: &dyn Entropy,
) -> [u8; STUB_LEN] {
    let id = ObjectId::random(entropy);
    let head = header(KIND_STUB, cipher, geometry, keys.epoch(), id);
    let key = keys.object_key(ObjectClass::Stub, cipher, &head);
    let tail = Tail {
        form: Form::Link,
        role: Role::Inode,
        last_slot_len: 0,
        entry_id: stub.inode,
        commit: stub.native,
        size: 0,
        slots: 0,
        map_len: 0,
        map_pages: 0,
        parents: 0,
        home: EntryId::ROOT,
        stamp: 0,
        previous: TailTag::default(),
        birth: 0,
        mode: 0,
        uid: 0,
        gid: 0,
    };
    let mut bytes = [0; STUB_LEN];
    bytes[..HEADER_LEN].copy_from_slice(&head);
    key.seal(Domain::Body, 0, b"", &mut bytes[HEADER_LEN..HEADER_LEN + TAG_LEN]);
    let at = HEADER_LEN + TAG_LEN;
    bytes[at..at + TAIL_PLAIN_LEN].copy_from_slice(&tail.encode());
    key.seal(Domain::Tail, 0, b"", &mut bytes[at..]);
    bytes
}

/// Opens and checks a stub.
///
/// # Errors
/// [`FormatError::Header`], [`FormatError::Auth`], [`FormatError::Tail`].
pub fn open_stub(
    keys: &KeyTree,
    cipher: Cipher,
    geometry: Geometry,
    bytes: &[u8; STUB_LEN],
) -> Result<Stub, FormatError> {
    let head: [u8; HEADER_LEN] = array(bytes, 0);
    let id = ObjectId(array(bytes, 24));
    if head != header(KIND_STUB, cipher, geometry, keys.epoch(), id) {
        return Err(FormatError::Header("no stub of this vault"));
    }
    let key = keys.object_key(ObjectClass::Stub, cipher, &head);
    let mut body: [u8; TAG_LEN] = array(bytes, HEADER_LEN);
    key.open(Domain::Body, 0, b"", &mut body).map_err(|_| FormatError::Auth("stub"))?;
    let mut sealed: [u8; TAIL_LEN] = array(bytes, HEADER_LEN + TAG_LEN);
    key.open(Domain::Tail, 0, b"", &mut sealed).map_err(|_| FormatError::Auth("stub"))?;
    let tail = Tail::parse(&sealed[..TAIL_PLAIN_LEN])?;
    let plain = tail.form == Form::Link
        && tail.role == Role::Inode
        && (tail.last_slot_len, tail.size, tail.slots) == (0, 0, 0)
        && (tail.map_len, tail.map_pages, tail.parents) == (0, 0, 0);
    if !plain {
        return Err(FormatError::Tail("a stub with content"));
    }
    Ok(Stub { inode: tail.entry_id, native: tail.commit })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::crypto::MasterKey;
    use crate::entropy::SeededEntropy;
    use crate::format::LengthClass;

    #[test]
    fn a_stub_opens_as_it_was_sealed_and_no_bit_of_it_can_change() {
        let entropy = SeededEntropy::new(1);
        let keys = KeyTree::derive(&MasterKey::random(&entropy), &[7; 16], 0);
        let geometry = Geometry::new(12).unwrap();
        let said = Stub { inode: EntryId::random(&entropy), native: 3 };
        for cipher in Cipher::ALL {
            let stub = seal_stub(&keys, cipher, geometry, said, &entropy);
            assert_eq!(geometry.classify(stub.len() as u64), LengthClass::Stub);
            assert_eq!(open_stub(&keys, cipher, geometry, &stub), Ok(said));
            for bit in 0..STUB_LEN * 8 {
                let mut changed = stub;
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(open_stub(&keys, cipher, geometry, &changed).is_err(), "bit {bit}");
            }
        }
    }
}
