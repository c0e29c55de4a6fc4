//! The ciphers, the key tree and the password hash. No I/O, no layout of any file: `format` says what is sealed,
//! this floor says how.
//!
//! Nonces cross no interface: an [`ObjectKey`] takes (domain, index) and is made for one object id, so that
//! a nonce can be used twice only by sealing the same place of the same object twice. Debug builds, and so all tests, abort
//! at that.

mod content;
mod keys;
mod names;
#[cfg(debug_assertions)]
mod recorder;
mod slot;
mod used;

pub use content::{Cipher, Domain, ObjectKey, TAG_LEN};
pub use keys::{KeyTree, MasterKey, ObjectClass};
pub use names::NameKey;
#[cfg(debug_assertions)]
pub use recorder::SealRecord;
pub use slot::{KdfCost, SlotKeys, WRAPPED_LEN, derive_slot_keys};
pub use used::UsedIndexes;

use sha2::{Digest, Sha256};

/// Bytes that do not authenticate under this key and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("does not authenticate")]
pub struct AuthError;

/// SHA-256 (FIPS 180-4).
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Whether two byte strings are equal, in time that depends on their lengths only.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    a.len() == b.len() && bool::from(a.ct_eq(b))
}
