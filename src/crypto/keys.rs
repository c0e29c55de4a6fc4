//! The key tree: `K_label = HKDF-SHA256(salt = vault id, ikm = master key, info = "akasha v1 " || label)` (RFC 5869).

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
        }
    }

    /// The epoch of the master key.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The key of sealed entries.
    pub fn names(&self) -> &NameKey {
        &self.names
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
        ObjectKey::new(cipher, &key)
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
