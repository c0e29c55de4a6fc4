//! The key tree: `K_label = HKDF-SHA256(salt = vault id, ikm = master key, info = "akasha v1 " || label)` (RFC 5869).

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, Payload};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::entropy::Entropy;
use crate::secret::Secret;

use super::content::{Cipher, ObjectKey};
use super::names::NameKey;
use super::{AuthError, constant_time_eq};

/// The random key that everything in a vault is derived from.
pub struct MasterKey(Secret<32>);

impl MasterKey {
    /// A new one.
    pub fn random(entropy: &dyn Entropy) -> MasterKey {
        MasterKey(Secret::filled(|bytes| entropy.fill(bytes)))
    }

    pub(super) fn from_secret(secret: Secret<32>) -> MasterKey {
        MasterKey(secret)
    }

    pub(super) fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

/// Which label's key an object's key is derived from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectClass {
    /// Layers.
    Content,
    /// Stubs of hard links.
    Stub,
    /// Rescue copies of directories.
    Dir,
    /// Logs.
    Log,
}

/// Every key of one epoch. Wiped on drop.
pub struct KeyTree {
    epoch: u32,
    content: Secret<32>,
    stub: Secret<32>,
    dir: Secret<32>,
    log: Secret<32>,
    config_seal: Secret<32>,
    names: NameKey,
    xattr_names: NameKey,
    xattr_values: Secret<32>,
    #[cfg(debug_assertions)]
    record: std::sync::OnceLock<std::sync::Arc<super::SealRecord>>,
}

impl KeyTree {
    /// The tree of `master`, in the vault `vault_id`.
    pub fn derive(master: &MasterKey, vault_id: &[u8; 16], epoch: u32) -> KeyTree {
        let root = Hkdf::<Sha256>::new(Some(vault_id), master.expose());
        KeyTree {
            epoch,
            content: expand(&root, "content"),
            stub: expand(&root, "stub"),
            dir: expand(&root, "dir"),
            log: expand(&root, "log"),
            config_seal: expand(&root, "config-seal"),
            names: NameKey::new(&expand(&root, "names")),
            xattr_names: NameKey::new(&expand(&root, "xattr-name")),
            xattr_values: expand(&root, "xattr-value"),
            #[cfg(debug_assertions)]
            record: std::sync::OnceLock::new(),
        }
    }

    /// From now on every seal of an object is written down, for tests: see [`SealRecord`](super::SealRecord).
    #[cfg(debug_assertions)]
    pub fn record_seals(&self) -> std::sync::Arc<super::SealRecord> {
        std::sync::Arc::clone(self.record.get_or_init(std::sync::Arc::default))
    }

    /// The epoch of the master key.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The key of sealed entries.
    pub fn names(&self) -> &NameKey {
        &self.names
    }

    /// The key of the names of extended attributes.
    pub fn xattr_names(&self) -> &NameKey {
        &self.xattr_names
    }

    /// `XChaCha20-Poly1305[K_xattr-value, nonce](aad, value)`; the nonce is random.
    pub fn seal_xattr_value(&self, nonce: &[u8; 24], aad: &[u8], value: &[u8]) -> Vec<u8> {
        XChaCha20Poly1305::new(self.xattr_values.expose().into())
            .encrypt(nonce.into(), Payload { msg: value, aad })
            .expect("far below the length limit")
    }

    /// Opens [`KeyTree::seal_xattr_value`].
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn open_xattr_value(
        &self,
        nonce: &[u8; 24],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, AuthError> {
        XChaCha20Poly1305::new(self.xattr_values.expose().into())
            .decrypt(nonce.into(), Payload { msg: sealed, aad })
            .map_err(|_| AuthError)
    }

    /// `HKDF-Expand(K_class, "object" || header)`: any flip in the header changes the key.
    pub fn object_key(&self, class: ObjectClass, cipher: Cipher, header: &[u8; 64]) -> ObjectKey {
        let prk = match class {
            ObjectClass::Content => &self.content,
            ObjectClass::Stub => &self.stub,
            ObjectClass::Dir => &self.dir,
            ObjectClass::Log => &self.log,
        };
        let hkdf = Hkdf::<Sha256>::from_prk(prk.expose()).expect("a key is as long as a hash");
        let mut key = Zeroizing::new([0; 32]);
        hkdf.expand_multi_info(&[b"object", header], &mut *key).expect("one block of output");
        let object = ObjectKey::new(cipher, &key);
        #[cfg(debug_assertions)]
        let object = object.recorded(self.record.get(), &key);
        object
    }

    /// `HMAC-SHA256(K_config-seal, bytes)` (RFC 2104).
    pub fn config_seal(&self, bytes: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.config_seal.expose())
            .expect("HMAC takes keys of any length");
        mac.update(bytes);
        mac.finalize().into_bytes().into()
    }

    /// Checks [`KeyTree::config_seal`] in constant time.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn check_config_seal(&self, bytes: &[u8], seal: &[u8]) -> Result<(), AuthError> {
        if constant_time_eq(&self.config_seal(bytes), seal) { Ok(()) } else { Err(AuthError) }
    }
}

fn expand<const N: usize>(root: &Hkdf<Sha256>, label: &str) -> Secret<N> {
    Secret::filled(|key| {
        root.expand_multi_info(&[b"akasha v1 ", label.as_bytes()], key)
            .expect("far below 255 blocks of output");
    })
}
