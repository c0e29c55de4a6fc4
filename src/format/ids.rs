//! Identities: of objects, entries and vaults. None of them is a secret.

use std::fmt;

use data_encoding::HEXLOWER;

use crate::entropy::Entropy;

/// The number of a file, directory or symbolic link: random, 63 bits, never changed and never reused. The mount's st_ino.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(u64);

impl EntryId {
    /// The root directory.
    pub const ROOT: EntryId = EntryId(1);

    /// A new one: never 0, never the root's.
    pub fn random(entropy: &dyn Entropy) -> EntryId {
        loop {
            let id = entropy.next_u64() >> 1;
            if id > Self::ROOT.0 {
                return EntryId(id);
            }
        }
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The entry of this number; `None` for 0 and for what is longer than 63 bits.
    pub fn from_raw(id: u64) -> Option<EntryId> {
        (id != 0 && id >> 63 == 0).then_some(EntryId(id))
    }
}

/// The random 256-bit id of a sealed object, the second half of its header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub(super) [u8; 32]);

impl ObjectId {
    /// A new one.
    pub(super) fn random(entropy: &dyn Entropy) -> ObjectId {
        let mut id = [0; 32];
        entropy.fill(&mut id);
        ObjectId(id)
    }

    /// The id that `hex` (64 lower-case digits) spells.
    pub fn from_hex(hex: &[u8]) -> Option<ObjectId> {
        let bytes = HEXLOWER.decode(hex).ok()?;
        Some(ObjectId(bytes.try_into().ok()?))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The tag of a sealed tail: since one object id admits one ciphertext, it stands for the whole layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TailTag(pub(super) [u8; 16]);

/// The random id of a vault, the salt of its key tree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VaultId(pub(super) [u8; 16]);

impl VaultId {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for VaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for VaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
