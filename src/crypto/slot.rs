//! A key slot: password -> Argon2id (RFC 9106) -> HKDF -> (wrapping key, commitment); the wrapping key opens the
//! master key (XChaCha20-Poly1305).

use argon2::{Algorithm, Argon2, Block, Params, Version};
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroize;

use crate::secret::Secret;

use super::keys::MasterKey;
use super::{AuthError, TAG_LEN, constant_time_eq};

/// Length of a wrapped master key: {key 32, epoch 4, 12 zero} and a tag.
pub const WRAPPED_LEN: usize = 48 + TAG_LEN;

/// What Argon2id costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes computed in parallel.
    pub lanes: u32,
}

/// What a password and a salt lead to.
pub struct SlotKeys {
    wrap: Secret<32>,
    commitment: [u8; 32],
}

/// Runs Argon2id. The memory it used is wiped.
///
/// # Errors
/// If Argon2 does not take the cost, or the memory cannot be had.
pub fn derive_slot_keys(
    password: &[u8],
    salt: &[u8; 32],
    cost: KdfCost,
) -> Result<SlotKeys, String> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .map_err(|error| error.to_string())?;
    let blocks = params.block_count();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut memory: Vec<Block> = Vec::new();
    memory.try_reserve_exact(blocks).map_err(|_| "not enough memory".to_owned())?;
    memory.resize(blocks, Block::default());
    let mut hash = Secret::<32>::zeroed();
    let result =
        argon2.hash_password_into_with_memory(password, salt, hash.expose_mut(), &mut memory[..]);
    for block in &mut memory {
        block.zeroize();
    }
    result.map_err(|error| error.to_string())?;
    let hkdf = Hkdf::<Sha256>::from_prk(hash.expose()).expect("a key is as long as a hash");
    let mut commitment = [0; 32];
    hkdf.expand(b"slot commit", &mut commitment).expect("one block of output");
    let wrap = Secret::filled(|key| {
        hkdf.expand(b"slot wrap", key).expect("one block of output");
    });
    Ok(SlotKeys { wrap, commitment })
}

impl SlotKeys {
    /// Says which password (and salt, and cost) was used, without helping to find it: an AEAD alone does
    /// not commit to its key.
    pub fn commitment(&self) -> &[u8; 32] {
        &self.commitment
    }

    /// Whether the slot was made with the same password.
    pub fn matches(&self, commitment: &[u8]) -> bool {
        constant_time_eq(&self.commitment, commitment)
    }

    /// `XChaCha20-Poly1305[wrap, nonce](aad, master || epoch || zeros)`.
    pub fn wrap(
        &self,
        master: &MasterKey,
        epoch: u32,
        nonce: &[u8; 24],
        aad: &[u8],
    ) -> [u8; WRAPPED_LEN] {
        let mut wrapped = [0; WRAPPED_LEN];
        wrapped[..32].copy_from_slice(master.expose());
        wrapped[32..36].copy_from_slice(&epoch.to_le_bytes());
        let (text, tag) = wrapped.split_at_mut(48);
        let sealed = XChaCha20Poly1305::new(self.wrap.expose().into())
            .encrypt_inout_detached(nonce.into(), aad, text.into())
            .expect("far below the length limit");
        tag.copy_from_slice(&sealed);
        wrapped
    }

    /// The master key and its epoch.
    ///
    /// # Errors
    /// [`AuthError`], also if the reserved bytes are not zero.
    pub fn unwrap(
        &self,
        wrapped: &[u8; WRAPPED_LEN],
        nonce: &[u8; 24],
        aad: &[u8],
    ) -> Result<(MasterKey, u32), AuthError> {
        let mut text = Secret::<48>::filled(|text| text.copy_from_slice(&wrapped[..48]));
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&wrapped[48..]);
        XChaCha20Poly1305::new(self.wrap.expose().into())
            .decrypt_inout_detached(
                nonce.into(),
                aad,
                text.expose_mut().as_mut_slice().into(),
                &tag.into(),
            )
            .map_err(|_| AuthError)?;
        let plain = text.expose();
        if plain[36..].iter().any(|byte| *byte != 0) {
            return Err(AuthError);
        }
        let mut epoch = [0; 4];
        epoch.copy_from_slice(&plain[32..36]);
        let master = Secret::filled(|key| key.copy_from_slice(&plain[..32]));
        Ok((MasterKey::from_secret(master), u32::from_le_bytes(epoch)))
    }
}
