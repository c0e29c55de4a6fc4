//! Deterministic authenticated encryption of names: AES-256-SIV (RFC 5297).

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;

use crate::secret::Secret;

use super::AuthError;

/// K_names.
pub struct NameKey(Secret<64>);

impl NameKey {
    pub(super) fn new(key: &Secret<64>) -> NameKey {
        NameKey(Secret::filled(|bytes| bytes.copy_from_slice(key.expose())))
    }

    fn cipher(&self) -> Aes256Siv {
        Aes256Siv::new(self.0.expose().into())
    }

    /// `SIV || ciphertext`, 16 bytes longer than `plain`.
    pub fn seal(&self, aad: [&[u8]; 2], plain: &[u8]) -> Vec<u8> {
        self.cipher().encrypt(aad, plain).expect("two headers are below SIV's limit")
    }

    /// The plaintext.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn open(&self, aad: [&[u8]; 2], sealed: &[u8]) -> Result<Vec<u8>, AuthError> {
        self.cipher().decrypt(aad, sealed).map_err(|_| AuthError)
    }
}
