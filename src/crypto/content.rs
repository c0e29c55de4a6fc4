//! AEAD of an object's parts: `seal[key, (domain, index)](aad, plaintext) = ciphertext || tag`.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{
    AES_256_GCM, AES_256_GCM_SIV, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};

use super::AuthError;
#[cfg(debug_assertions)]
use super::{SealRecord, UsedIndexes};

/// Length of an authentication tag in bytes, for every cipher.
pub const TAG_LEN: usize = 16;

/// A content cipher of 256-bit keys and 96-bit nonces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cipher {
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305 = 1,
    /// AES-256-GCM (NIST SP 800-38D).
    Aes256Gcm = 2,
    /// AES-256-GCM-SIV (RFC 8452).
    Aes256GcmSiv = 3,
}

impl Cipher {
    /// Every cipher.
    pub const ALL: [Cipher; 3] =
        [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm, Cipher::Aes256GcmSiv];

    /// The cipher that a header's byte names.
    pub fn from_byte(byte: u8) -> Option<Cipher> {
        Self::ALL.into_iter().find(|cipher| *cipher as u8 == byte)
    }

    /// The name on the command line and in `vault.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Cipher::ChaCha20Poly1305 => "chacha20-poly1305",
            Cipher::Aes256Gcm => "aes-256-gcm",
            Cipher::Aes256GcmSiv => "aes-256-gcm-siv",
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Cipher {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|cipher| cipher.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|cipher| cipher.name()).collect();
            format!("no cipher of that name (there are {})", names.join(", "))
        })
    }
}

/// What kind of part of an object is sealed: the first byte of its nonce (FORMAT.md, "Objects").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Domain {
    /// A slot of a layer.
    Slot = 1,
    /// A page of a map.
    MapPage = 2,
    /// The tail.
    Tail = 3,
    /// A record of a log.
    LogRecord = 4,
    /// The body of a stub or rescue copy.
    Body = 5,
}

/// The key of one object.
pub struct ObjectKey {
    key: LessSafeKey,
    /// What was sealed, by domain: debug builds hold the callers to their promise.
    #[cfg(debug_assertions)]
    sealed: [parking_lot::Mutex<UsedIndexes>; 6],
    /// Who else is told of it, and under which name.
    #[cfg(debug_assertions)]
    record: Option<(std::sync::Arc<SealRecord>, [u8; 32])>,
}

impl ObjectKey {
    /// The key with these bytes; the caller wipes them.
    pub fn new(cipher: Cipher, key: &[u8; 32]) -> ObjectKey {
        let algorithm = match cipher {
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::Aes256GcmSiv => &AES_256_GCM_SIV,
        };
        let key = UnboundKey::new(algorithm, key).expect("every cipher takes 32-byte keys");
        ObjectKey {
            key: LessSafeKey::new(key),
            #[cfg(debug_assertions)]
            sealed: Default::default(),
            #[cfg(debug_assertions)]
            record: None,
        }
    }

    /// The same key; `record` learns of what it seals.
    #[cfg(debug_assertions)]
    pub(super) fn recorded(
        self,
        record: Option<&std::sync::Arc<SealRecord>>,
        key: &[u8; 32],
    ) -> Self {
        let record = record.map(|record| (std::sync::Arc::clone(record), super::sha256(key)));
        ObjectKey { record, ..self }
    }

    /// Nonce (12 bytes): domain, three zero bytes, index as a little-endian u64.
    fn nonce(domain: Domain, index: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[0] = domain as u8;
        nonce[4..].copy_from_slice(&index.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals in place: all but the last [`TAG_LEN`] bytes of `buffer` are plaintext on entry and ciphertext on
    /// return, the last ones become the tag. The caller answers for sealing each (domain, index) of an object once.
    ///
    /// # Panics
    /// If `buffer` is shorter than a tag. In debug builds, if the place was sealed before.
    pub fn seal(&self, domain: Domain, index: u64, aad: &[u8], buffer: &mut [u8]) {
        #[cfg(debug_assertions)]
        assert!(
            self.sealed[domain as usize].lock().take(index, 1),
            "{domain:?} {index} of an object is sealed twice"
        );
        #[cfg(debug_assertions)]
        if let Some((record, object)) = &self.record {
            record.note(object, domain, index);
        }
        let (text, tag) = buffer.split_at_mut(buffer.len() - TAG_LEN);
        let sealed = self
            .key
            .seal_in_place_separate_tag(Self::nonce(domain, index), Aad::from(aad), text)
            .expect("far below every cipher's length limit");
        tag.copy_from_slice(sealed.as_ref());
    }

    /// Opens in place; returns the plaintext's length, `buffer.len() - TAG_LEN`.
    ///
    /// # Errors
    /// [`AuthError`]; what is in `buffer` then means nothing.
    pub fn open(
        &self,
        domain: Domain,
        index: u64,
        aad: &[u8],
        buffer: &mut [u8],
    ) -> Result<usize, AuthError> {
        let nonce = Self::nonce(domain, index);
        match self.key.open_in_place(nonce, Aad::from(aad), buffer) {
            Ok(plain) => Ok(plain.len()),
            Err(_) => Err(AuthError),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use chacha20poly1305::aead::{AeadInOut, KeyInit};
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_fast_and_the_portable_chacha_are_equal(
            key in any::<[u8; 32]>(), index in any::<u64>(),
            plain in prop::collection::vec(any::<u8>(), 0..5000), aad in prop::collection::vec(any::<u8>(), 0..40)
        ) {
            let mut fast = plain.clone();
            fast.resize(plain.len() + TAG_LEN, 0);
            ObjectKey::new(Cipher::ChaCha20Poly1305, &key).seal(Domain::Slot, index, &aad, &mut fast);
            let portable = chacha20poly1305::ChaCha20Poly1305::new(&key.into());
            let mut nonce = [0; 12];
            nonce[0] = 1;
            nonce[4..].copy_from_slice(&index.to_le_bytes());
            let mut slow = plain.clone();
            let tag = portable
                .encrypt_inout_detached(&nonce.into(), &aad, slow.as_mut_slice().into())
                .unwrap();
            slow.extend_from_slice(&tag);
            prop_assert_eq!(fast, slow);
        }

        #[test]
        fn what_is_sealed_opens_only_in_its_place(
            key in any::<[u8; 32]>(), index in any::<u64>(), other in any::<u64>(),
            plain in prop::collection::vec(any::<u8>(), 0..300), flip in any::<usize>()
        ) {
            for cipher in Cipher::ALL {
                let object = ObjectKey::new(cipher, &key);
                let mut sealed = plain.clone();
                sealed.resize(plain.len() + TAG_LEN, 0);
                object.seal(Domain::Slot, index, b"", &mut sealed);
                let mut copy = sealed.clone();
                prop_assert_eq!(object.open(Domain::Slot, index, b"", &mut copy), Ok(plain.len()));
                prop_assert_eq!(&copy[..plain.len()], &plain[..]);
                let mut copy = sealed.clone();
                prop_assert_eq!(object.open(Domain::Tail, index, b"", &mut copy), Err(AuthError));
                if other != index {
                    let mut copy = sealed.clone();
                    prop_assert_eq!(object.open(Domain::Slot, other, b"", &mut copy), Err(AuthError));
                }
                let mut copy = sealed.clone();
                let bit = flip % (copy.len() * 8);
                copy[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(object.open(Domain::Slot, index, b"", &mut copy), Err(AuthError));
            }
        }
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "sealed twice")]
    fn a_place_is_sealed_once() {
        let object = ObjectKey::new(Cipher::Aes256Gcm, &[7; 32]);
        object.seal(Domain::Slot, 3, b"", &mut [0; 20]);
        object.seal(Domain::Tail, 3, b"", &mut [0; 20]);
        object.seal(Domain::Slot, 3, b"", &mut [0; 20]);
    }

    #[test]
    fn what_is_shorter_than_a_tag_does_not_open() {
        for cipher in Cipher::ALL {
            let object = ObjectKey::new(cipher, &[7; 32]);
            for len in 0..=TAG_LEN {
                assert_eq!(object.open(Domain::Slot, 0, b"", &mut vec![0; len]), Err(AuthError));
            }
        }
    }

    /// Known answers from OpenSSL, through Python: key, nonce layout and tag place of every cipher.
    #[test]
    fn every_cipher_seals_as_it_always_did() {
        let key: [u8; 32] = std::array::from_fn(|i| i as u8);
        for (cipher, expected) in [
            (Cipher::ChaCha20Poly1305, "fc3512a02ad971eab47f03ec38c41df7a86cdb443e5f4698974d9af2"),
            (Cipher::Aes256Gcm, "67b501062173e7639ab01a38ce5219c5a6582548052ccc02e962d8b2"),
            (Cipher::Aes256GcmSiv, "84c5b5da8bccad1f54e5695f5112e301619dedda2f13f0fdd4b728f6"),
        ] {
            let mut buffer = b"akasha block".to_vec();
            buffer.resize(buffer.len() + TAG_LEN, 0);
            ObjectKey::new(cipher, &key).seal(Domain::Slot, 0x0102_0304, b"", &mut buffer);
            assert_eq!(HEXLOWER.encode(&buffer), expected, "{cipher}");
        }
    }

    #[test]
    fn a_cipher_is_read_by_its_name_and_byte_only() {
        for cipher in Cipher::ALL {
            assert_eq!(cipher.name().parse(), Ok(cipher));
            assert_eq!(Cipher::from_byte(cipher as u8), Some(cipher));
        }
        assert!("AES-256-GCM".parse::<Cipher>().is_err());
        assert_eq!(Cipher::from_byte(0), None);
        assert_eq!(Cipher::from_byte(4), None);
    }
}
