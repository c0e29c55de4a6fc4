//! `vault.toml`: parameters and key slots, sealed as a whole (FORMAT.md, "vault.toml").
//!
//! Order on open: length, strict parse, bounds, key derivation, commitment, unwrapping, seal over the whole file; only
//! then is any other field believed.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::crypto::{Cipher, KdfCost, KeyTree, MasterKey, SlotKeys, WRAPPED_LEN, derive_slot_keys};
use crate::entropy::Entropy;

use super::geometry::Geometry;
use super::ids::VaultId;

/// The longest `vault.toml`, in bytes.
pub const CONFIG_LEN_MAX: usize = 64 << 10;
/// The format that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;
const SLOTS_MAX: usize = 16;
const OPAQUE_LEN_MAX: usize = 1024;
const LABEL_LEN_MAX: usize = 255;
const SEAL_PREFIX: &str = "seal = \"";

/// What deriving a key from a password costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfParams {
    /// Memory in KiB, 19 MiB..=4 GiB.
    pub memory_kib: u32,
    /// Passes, 2..=64.
    pub passes: u32,
    /// Lanes, 1..=64.
    pub lanes: u32,
}

impl Default for KdfParams {
    fn default() -> Self {
        KdfParams { memory_kib: 256 << 10, passes: 3, lanes: 4 }
    }
}

impl KdfParams {
    /// Least memory, in KiB.
    pub const MEMORY_KIB_MIN: u32 = 19 << 10;
    /// Most memory, in KiB.
    pub const MEMORY_KIB_MAX: u32 = 4 << 20;
    /// Fewest and most passes.
    pub const PASSES: std::ops::RangeInclusive<u32> = 2..=64;
    /// Fewest and most lanes.
    pub const LANES: std::ops::RangeInclusive<u32> = 1..=64;

    /// Whether the cost is one that a vault may ask for: neither too weak nor a trap.
    pub fn is_in_bounds(self) -> bool {
        (Self::MEMORY_KIB_MIN..=Self::MEMORY_KIB_MAX).contains(&self.memory_kib)
            && Self::PASSES.contains(&self.passes)
            && Self::LANES.contains(&self.lanes)
    }
}

/// Parameters of a new vault.
#[derive(Clone, Copy, Debug)]
pub struct ConfigParams {
    /// The content cipher.
    pub cipher: Cipher,
    /// The block length.
    pub geometry: Geometry,
    /// The cost of the first password slot.
    pub kdf: KdfParams,
}

/// A vault's parameters, verified.
#[derive(Clone, Debug)]
pub struct VaultConfig {
    /// The vault's id.
    pub vault_id: VaultId,
    /// Counts the writes of `vault.toml`.
    pub serial: u64,
    /// When the vault was made, seconds since 1970.
    pub created: u64,
    /// The content cipher.
    pub cipher: Cipher,
    /// The block length.
    pub geometry: Geometry,
    /// The epoch of the master key.
    pub epoch: u32,
    /// The key slots.
    pub slots: Vec<SlotInfo>,
    /// The slot that the password opened.
    pub opened_slot: u32,
}

/// What can be shown of a key slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// Its number.
    pub id: u32,
    /// `password`; others come later.
    pub kind: String,
    /// The user's word for it.
    pub label: String,
    /// What it costs.
    pub kdf: KdfParams,
}

/// A vault that a password opened.
pub struct OpenVault {
    /// Verified parameters.
    pub config: VaultConfig,
    /// The keys of the current epoch.
    pub keys: Arc<KeyTree>,
}

/// What `vault.toml` says before anything of it is verified.
#[derive(Clone, Debug)]
pub struct PublicInfo {
    /// Format version.
    pub format: u32,
    /// The vault's id.
    pub vault_id: VaultId,
    /// Counts the writes of the file.
    pub serial: u64,
    /// When the vault was made, seconds since 1970.
    pub created: u64,
    /// The content cipher.
    pub cipher: Cipher,
    /// The block length.
    pub geometry: Geometry,
    /// The key slots.
    pub slots: Vec<SlotInfo>,
}

/// Why a `vault.toml` does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not a configuration of akasha's at all.
    #[error("vault.toml cannot be read: {0}")]
    NotAConfig(String),
    /// A format or a flag of a newer program.
    #[error("the vault needs a newer akasha: {0}")]
    Unsupported(String),
    /// No slot opens with this password.
    #[error("wrong password")]
    WrongPassword,
    /// The password fits, but the file was changed by somebody without it.
    #[error("vault.toml was changed or damaged: {0}")]
    Damaged(&'static str),
    /// A cost outside the bounds.
    #[error("the key derivation's cost is out of bounds")]
    KdfOutOfBounds,
    /// The key derivation could not run.
    #[error("the key derivation failed: {0}")]
    Kdf(String),
}

/// What every format has.
#[derive(Deserialize)]
struct Version {
    format: u32,
    min_reader: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    min_reader: u32,
    vault_id: String,
    serial: u64,
    previous_seal: String,
    created: u64,
    cipher: String,
    block_size: u64,
    epoch: u32,
    epoch_min: u32,
    keyring: Vec<String>,
    incompat: Vec<String>,
    ro_compat: Vec<String>,
    compat: Vec<String>,
    placement: String,
    slot: Vec<Slot>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    id: u32,
    kind: String,
    label: String,
    kdf: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
    nonce: String,
    commitment: String,
    wrapped: String,
    opaque: String,
}

impl Slot {
    fn params(&self) -> KdfParams {
        KdfParams { memory_kib: self.memory_kib, passes: self.passes, lanes: self.lanes }
    }

    fn info(&self) -> SlotInfo {
        SlotInfo {
            id: self.id,
            kind: self.kind.clone(),
            label: self.label.clone(),
            kdf: self.params(),
        }
    }

    /// Every other field of the slot, length-prefixed, and the vault: associated data of the wrapped key.
    fn associated_data(&self, vault_id: &VaultId) -> Vec<u8> {
        let mut aad = Vec::new();
        let mut put = |field: &[u8]| {
            aad.extend_from_slice(&(field.len() as u32).to_le_bytes());
            aad.extend_from_slice(field);
        };
        put(b"akasha slot");
        put(vault_id.as_bytes());
        put(&self.id.to_le_bytes());
        put(self.kind.as_bytes());
        put(self.label.as_bytes());
        put(self.kdf.as_bytes());
        put(&self.memory_kib.to_le_bytes());
        put(&self.passes.to_le_bytes());
        put(&self.lanes.to_le_bytes());
        put(self.salt.as_bytes());
        put(self.nonce.as_bytes());
        put(self.commitment.as_bytes());
        put(self.opaque.as_bytes());
        aad
    }

    fn derive(&self, password: &[u8]) -> Result<SlotKeys, ConfigError> {
        let salt: [u8; 32] = hex(&self.salt, "salt")?;
        let cost = KdfCost { memory_kib: self.memory_kib, passes: self.passes, lanes: self.lanes };
        derive_slot_keys(password, &salt, cost).map_err(ConfigError::Kdf)
    }

    /// A password slot that holds `master`.
    fn make(
        master: &MasterKey,
        epoch: u32,
        vault_id: &VaultId,
        password: &[u8],
        about: SlotInfo,
        entropy: &dyn Entropy,
    ) -> Result<Slot, ConfigError> {
        if !about.kdf.is_in_bounds() {
            return Err(ConfigError::KdfOutOfBounds);
        }
        let (mut salt, mut nonce) = ([0; 32], [0; 24]);
        entropy.fill(&mut salt);
        entropy.fill(&mut nonce);
        let mut slot = Slot {
            id: about.id,
            kind: about.kind,
            label: about.label,
            kdf: "argon2id".to_owned(),
            memory_kib: about.kdf.memory_kib,
            passes: about.kdf.passes,
            lanes: about.kdf.lanes,
            salt: HEXLOWER.encode(&salt),
            nonce: HEXLOWER.encode(&nonce),
            commitment: String::new(),
            wrapped: String::new(),
            opaque: String::new(),
        };
        let keys = slot.derive(password)?;
        slot.commitment = HEXLOWER.encode(keys.commitment());
        let aad = slot.associated_data(vault_id);
        slot.wrapped = HEXLOWER.encode(&keys.wrap(master, epoch, &nonce, &aad));
        Ok(slot)
    }
}

impl File {
    /// Length, seal line, strict parse, bounds. Nothing is verified yet.
    fn parse(bytes: &[u8]) -> Result<(File, &[u8], [u8; 32]), ConfigError> {
        let bad = |why: &str| ConfigError::NotAConfig(why.to_owned());
        if bytes.len() > CONFIG_LEN_MAX {
            return Err(bad("too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| bad("not text"))?;
        let body_len = text
            .trim_end_matches('\n')
            .rfind('\n')
            .map(|at| at + 1)
            .ok_or_else(|| bad("no seal"))?;
        let (body, last) = text.split_at(body_len);
        let seal = last
            .strip_prefix(SEAL_PREFIX)
            .and_then(|rest| rest.strip_suffix("\"\n"))
            .ok_or_else(|| bad("no seal in the last line"))?;
        // A newer format may have fields that this one does not know: say so, not that it is broken.
        let version: Version = toml::from_str(body).map_err(|_| bad("no format version"))?;
        if version.format != FORMAT_VERSION || version.min_reader > FORMAT_VERSION {
            return Err(ConfigError::Unsupported(format!("format {}", version.format)));
        }
        let file: File = toml::from_str(body).map_err(|error| bad(error.message()))?;
        file.check()?;
        Ok((file, body.as_bytes(), hex(seal, "seal")?))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let bad = |why: &str| Err(ConfigError::NotAConfig(why.to_owned()));
        // `ro_compat` flags would allow reading, but nothing here could hold the mount to that.
        if let Some(flag) = self.incompat.iter().chain(&self.ro_compat).next() {
            return Err(ConfigError::Unsupported(format!("flag {flag:?}")));
        }
        if !self.keyring.is_empty() || self.epoch != 0 || self.epoch_min != 0 {
            return Err(ConfigError::Unsupported("rotated keys".to_owned()));
        }
        if self.placement != "loose" {
            return Err(ConfigError::Unsupported(format!("placement {:?}", self.placement)));
        }
        if self.slot.is_empty() || self.slot.len() > SLOTS_MAX {
            return bad("between 1 and 16 key slots");
        }
        for (i, slot) in self.slot.iter().enumerate() {
            if self.slot[..i].iter().any(|other| other.id == slot.id) {
                return bad("two slots with one id");
            }
            if slot.kdf != "argon2id" {
                return Err(ConfigError::Unsupported(format!("kdf {:?}", slot.kdf)));
            }
            if slot.opaque.len() > OPAQUE_LEN_MAX || slot.label.len() > LABEL_LEN_MAX {
                return bad("an oversized slot");
            }
            // Before anything is paid for: a key derivation that nothing could come of is a trap.
            hex::<32>(&slot.salt, "salt")?;
            hex::<24>(&slot.nonce, "nonce")?;
            hex::<32>(&slot.commitment, "commitment")?;
            hex::<WRAPPED_LEN>(&slot.wrapped, "wrapped")?;
            if !slot.params().is_in_bounds() {
                return Err(ConfigError::KdfOutOfBounds);
            }
        }
        self.geometry()?;
        self.cipher()?;
        self.vault_id()?;
        if !self.previous_seal.is_empty() {
            hex::<32>(&self.previous_seal, "previous_seal")?;
        }
        Ok(())
    }

    fn cipher(&self) -> Result<Cipher, ConfigError> {
        self.cipher
            .parse()
            .map_err(|_| ConfigError::Unsupported(format!("cipher {:?}", self.cipher)))
    }

    fn geometry(&self) -> Result<Geometry, ConfigError> {
        let log2 = self.block_size.checked_ilog2().filter(|_| self.block_size.is_power_of_two());
        log2.and_then(|log2| Geometry::new(u8::try_from(log2).ok()?))
            .ok_or_else(|| ConfigError::NotAConfig("an impossible block size".to_owned()))
    }

    fn vault_id(&self) -> Result<VaultId, ConfigError> {
        Ok(VaultId(hex(&self.vault_id, "vault_id")?))
    }

    /// The bytes, sealed.
    fn seal(&self, keys: &KeyTree) -> Vec<u8> {
        let body = toml::to_string(self).expect("plain strings and numbers");
        let seal = HEXLOWER.encode(&keys.config_seal(body.as_bytes()));
        format!("{body}{SEAL_PREFIX}{seal}\"\n").into_bytes()
    }

    /// Tries every slot with `password`; then the seal.
    fn unlock(
        &self,
        password: &[u8],
        body: &[u8],
        seal: &[u8; 32],
    ) -> Result<(MasterKey, Arc<KeyTree>, usize), ConfigError> {
        let vault_id = self.vault_id()?;
        for (index, slot) in self.slot.iter().enumerate().filter(|(_, s)| s.kind == "password") {
            let keys = slot.derive(password)?;
            let commitment: [u8; 32] = hex(&slot.commitment, "commitment")?;
            if !keys.matches(&commitment) {
                continue;
            }
            let wrapped: [u8; WRAPPED_LEN] = hex(&slot.wrapped, "wrapped")?;
            let nonce: [u8; 24] = hex(&slot.nonce, "nonce")?;
            let aad = slot.associated_data(&vault_id);
            let (master, epoch) = keys
                .unwrap(&wrapped, &nonce, &aad)
                .map_err(|_| ConfigError::Damaged("a key slot does not authenticate"))?;
            if epoch != self.epoch {
                return Err(ConfigError::Damaged("a key slot of another epoch"));
            }
            let tree = KeyTree::derive(&master, vault_id.as_bytes(), epoch);
            tree.check_config_seal(body, seal)
                .map_err(|_| ConfigError::Damaged("its seal does not fit"))?;
            return Ok((master, Arc::new(tree), index));
        }
        Err(ConfigError::WrongPassword)
    }

    fn slots(&self) -> Vec<SlotInfo> {
        self.slot.iter().map(Slot::info).collect()
    }
}

/// A new vault's `vault.toml`, and the vault, open. `created` is in seconds since 1970.
///
/// # Errors
/// [`ConfigError::KdfOutOfBounds`], [`ConfigError::Kdf`].
pub fn create(
    password: &[u8],
    params: &ConfigParams,
    created: u64,
    entropy: &dyn Entropy,
) -> Result<(Vec<u8>, OpenVault), ConfigError> {
    let mut id = [0; 16];
    entropy.fill(&mut id);
    let vault_id = VaultId(id);
    let master = MasterKey::random(entropy);
    let about =
        SlotInfo { id: 1, kind: "password".to_owned(), label: String::new(), kdf: params.kdf };
    let slot = Slot::make(&master, 0, &vault_id, password, about, entropy)?;
    let file = File {
        format: FORMAT_VERSION,
        min_reader: FORMAT_VERSION,
        vault_id: vault_id.to_string(),
        serial: 1,
        previous_seal: String::new(),
        created,
        cipher: params.cipher.name().to_owned(),
        block_size: params.geometry.block_len(),
        epoch: 0,
        epoch_min: 0,
        keyring: Vec::new(),
        incompat: Vec::new(),
        ro_compat: Vec::new(),
        compat: Vec::new(),
        placement: "loose".to_owned(),
        slot: vec![slot],
    };
    let keys = Arc::new(KeyTree::derive(&master, vault_id.as_bytes(), 0));
    let bytes = file.seal(&keys);
    let config = verified(&file, 0)?;
    Ok((bytes, OpenVault { config, keys }))
}

/// Opens a vault.
///
/// # Errors
/// See [`ConfigError`].
pub fn open(bytes: &[u8], password: &[u8]) -> Result<OpenVault, ConfigError> {
    let (file, body, seal) = File::parse(bytes)?;
    let (_, keys, slot) = file.unlock(password, body, &seal)?;
    Ok(OpenVault { config: verified(&file, slot)?, keys })
}

fn verified(file: &File, slot: usize) -> Result<VaultConfig, ConfigError> {
    Ok(VaultConfig {
        vault_id: file.vault_id()?,
        serial: file.serial,
        created: file.created,
        cipher: file.cipher()?,
        geometry: file.geometry()?,
        epoch: file.epoch,
        slots: file.slots(),
        opened_slot: file.slot[slot].id,
    })
}

/// The same vault with another password in the slot that the old one opens. `cost` gets the slot's present cost.
///
/// # Errors
/// See [`ConfigError`].
pub fn change_password(
    bytes: &[u8],
    old: &[u8],
    new: &[u8],
    cost: impl FnOnce(KdfParams) -> KdfParams,
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, ConfigError> {
    let (mut file, body, seal) = File::parse(bytes)?;
    let (master, keys, index) = file.unlock(old, body, &seal)?;
    let vault_id = file.vault_id()?;
    let mut about = file.slot[index].info();
    about.kdf = cost(about.kdf);
    file.slot[index] = Slot::make(&master, file.epoch, &vault_id, new, about, entropy)?;
    // What TOML has no number for could not be written.
    file.serial = (file.serial + 1).min(i64::MAX.cast_unsigned());
    file.previous_seal = HEXLOWER.encode(&seal);
    Ok(file.seal(&keys))
}

/// What the file claims, without a password. Nothing of it is verified.
///
/// # Errors
/// [`ConfigError::NotAConfig`], [`ConfigError::Unsupported`], [`ConfigError::KdfOutOfBounds`].
pub fn public_info(bytes: &[u8]) -> Result<PublicInfo, ConfigError> {
    let (file, _, _) = File::parse(bytes)?;
    Ok(PublicInfo {
        format: file.format,
        vault_id: file.vault_id()?,
        serial: file.serial,
        created: file.created,
        cipher: file.cipher()?,
        geometry: file.geometry()?,
        slots: file.slots(),
    })
}

fn hex<const N: usize>(text: &str, what: &str) -> Result<[u8; N], ConfigError> {
    let bytes = HEXLOWER.decode(text.as_bytes()).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| ConfigError::NotAConfig(format!("{what} is not {N} bytes in hex")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    fn params() -> ConfigParams {
        ConfigParams {
            cipher: Cipher::ChaCha20Poly1305,
            geometry: Geometry::new(12).unwrap(),
            kdf: KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 },
        }
    }

    #[test]
    fn a_vault_opens_with_its_password_only() {
        let entropy = SeededEntropy::new(1);
        let (bytes, _) = create(b"right", &params(), 7, &entropy).unwrap();
        let opened = open(&bytes, b"right").unwrap();
        assert_eq!(opened.config.created, 7);
        assert_eq!(open(&bytes, b"wrong").err(), Some(ConfigError::WrongPassword));
        let changed = change_password(&bytes, b"right", b"new", |kdf| kdf, &entropy).unwrap();
        assert_eq!(open(&changed, b"right").err(), Some(ConfigError::WrongPassword));
        let again = open(&changed, b"new").unwrap();
        assert_eq!(again.config.serial, 2);
        assert_eq!(again.config.vault_id, opened.config.vault_id);
        assert_eq!(again.keys.config_seal(b"x"), opened.keys.config_seal(b"x"));
    }

    #[test]
    fn no_byte_can_be_changed_unnoticed() {
        let (bytes, _) = create(b"p", &params(), 7, &SeededEntropy::new(2)).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        // Every line, each edited in a way that still parses where one exists.
        for (from, to) in [
            ("serial = 1", "serial = 2"),
            ("created = 7", "created = 8"),
            ("block_size = 4096", "block_size = 8192"),
            ("chacha20-poly1305", "aes-256-gcm"),
            ("label = \"\"", "label = \"x\""),
            ("memory_kib = 19456", "memory_kib = 19457"),
            ("passes = 2", "passes = 3"),
            ("lanes = 1", "lanes = 2"),
            ("compat = []\nplacement", "compat = [\"x\"]\nplacement"),
        ] {
            assert!(text.contains(from), "{from}");
            let edited = text.replacen(from, to, 1);
            assert!(open(edited.as_bytes(), b"p").is_err(), "{from} -> {to}");
        }
        for at in (0..bytes.len()).step_by(37) {
            let mut edited = bytes.clone();
            edited[at] ^= 1;
            assert!(open(&edited, b"p").is_err(), "bit at {at}");
        }
        for end in (0..bytes.len()).step_by(41) {
            assert!(open(&bytes[..end], b"p").is_err(), "cut at {end}");
        }
    }

    #[test]
    fn weak_and_absurd_costs_are_refused_before_they_are_paid() {
        let (bytes, _) = create(b"p", &params(), 7, &SeededEntropy::new(3)).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        for (from, to) in [
            ("memory_kib = 19456", "memory_kib = 19455"),
            ("memory_kib = 19456", "memory_kib = 4194305"),
            ("passes = 2", "passes = 1"),
            ("passes = 2", "passes = 65"),
            ("lanes = 1", "lanes = 0"),
        ] {
            let edited = text.replacen(from, to, 1);
            assert_eq!(
                open(edited.as_bytes(), b"p").err(),
                Some(ConfigError::KdfOutOfBounds),
                "{to}"
            );
        }
    }

    #[test]
    fn a_newer_format_or_flag_is_named() {
        let (bytes, _) = create(b"p", &params(), 7, &SeededEntropy::new(4)).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        for (from, to) in
            [("format = 1", "format = 2"), ("incompat = []", "incompat = [\"shared\"]")]
        {
            let edited = text.replacen(from, to, 1);
            let error = open(edited.as_bytes(), b"p").err();
            assert!(matches!(error, Some(ConfigError::Unsupported(_))), "{to}: {error:?}");
        }
    }

    /// Each: a file that is refused before any password is tried.
    macro_rules! refused_files {
        ($($name:ident: $variant:ident, $edit:expr;)*) => { $(
            #[test]
            fn $name() {
                let edit: fn(&str) -> String = $edit;
                let edited = edit(fixture());
                assert_ne!(edited, fixture());
                let refused = public_info(edited.as_bytes()).map(|info| info.serial);
                assert!(matches!(refused, Err(ConfigError::$variant { .. })), "{refused:?}");
            }
        )* };
    }

    fn fixture() -> &'static str {
        static FIXTURE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        FIXTURE.get_or_init(|| {
            let (bytes, _) = create(b"p", &params(), 7, &SeededEntropy::new(5)).unwrap();
            assert!(public_info(&bytes).is_ok());
            String::from_utf8(bytes).unwrap()
        })
    }

    /// The value of `key` in the fixture, replaced by what `change` makes of it.
    fn with(text: &str, key: &str, change: impl Fn(&str) -> String) -> String {
        let start = text.find(&format!("\n{key} = ")).unwrap() + key.len() + 4;
        let end = start + text[start..].find('\n').unwrap();
        format!("{}{}{}", &text[..start], change(&text[start..end]), &text[end..])
    }

    /// The fixture with its slot written `count` times, under numbers from 1 on.
    fn slots(text: &str, count: u32) -> String {
        let slot_at = text.find("[[slot]]").unwrap();
        let seal_at = text.rfind("\nseal = ").unwrap() + 1;
        let slot = &text[slot_at..seal_at];
        let all: Vec<String> =
            (1..=count).map(|id| slot.replacen("id = 1", &format!("id = {id}"), 1)).collect();
        format!("{}{}\n{}", &text[..slot_at], all.join("\n"), &text[seal_at..])
    }

    refused_files! {
        an_empty_file: NotAConfig, |_| String::new();
        a_file_of_line_feeds: NotAConfig, |_| "\n\n\n".to_owned();
        a_file_longer_than_64_kib: NotAConfig, |t| format!("#{}\n{t}", "x".repeat(64 << 10));
        a_file_without_a_seal: NotAConfig, |t| t[..t.rfind("seal = ").unwrap()].to_owned();
        a_seal_without_its_line_feed: NotAConfig, |t| t[..t.len() - 1].to_owned();
        a_line_behind_the_seal: NotAConfig, |t| format!("{t}\n");
        a_comment_behind_the_seal: NotAConfig, |t| format!("{t}#\n");
        a_seal_that_is_too_short: NotAConfig, |t| with(t, "seal", |s| s.replacen('"', "\"0", 1)[..64].to_owned() + "\"");
        a_seal_in_capitals: NotAConfig, |t| with(t, "seal", str::to_uppercase);
        line_ends_of_windows: NotAConfig, |t| t.replace('\n', "\r\n");
        a_key_that_nobody_knows: NotAConfig, |t| format!("extra = 1\n{t}");
        a_key_of_a_slot_that_nobody_knows: NotAConfig, |t| t.replacen("[[slot]]\n", "[[slot]]\nrun = \"sh\"\n", 1);
        a_key_that_is_missing: NotAConfig, |t| t.replacen("placement = \"loose\"\n", "", 1);
        a_key_that_is_there_twice: NotAConfig, |t| format!("serial = 1\n{t}");
        a_newer_format: Unsupported, |t| t.replacen("format = 1", "format = 2", 1);
        a_format_zero: Unsupported, |t| t.replacen("format = 1", "format = 0", 1);
        a_newer_least_reader: Unsupported, |t| with(t, "min_reader", |_| "2".to_owned());
        an_incompatible_flag: Unsupported, |t| with(t, "incompat", |_| "[\"x\"]".to_owned());
        a_flag_that_forbids_writing: Unsupported, |t| with(t, "ro_compat", |_| "[\"x\"]".to_owned());
        a_keyring: Unsupported, |t| with(t, "keyring", |_| "[\"x\"]".to_owned());
        another_epoch: Unsupported, |t| with(t, "epoch", |_| "1".to_owned());
        another_least_epoch: Unsupported, |t| with(t, "epoch_min", |_| "1".to_owned());
        strict_placement: Unsupported, |t| with(t, "placement", |_| "\"strict\"".to_owned());
        an_unknown_cipher: Unsupported, |t| with(t, "cipher", |_| "\"none\"".to_owned());
        another_key_derivation: Unsupported, |t| with(t, "kdf", |_| "\"scrypt\"".to_owned());
        a_block_that_is_no_power_of_two: NotAConfig, |t| with(t, "block_size", |_| "5000".to_owned());
        a_block_too_small: NotAConfig, |t| with(t, "block_size", |_| "2048".to_owned());
        a_block_too_large: NotAConfig, |t| with(t, "block_size", |_| "2097152".to_owned());
        a_block_of_nothing: NotAConfig, |t| with(t, "block_size", |_| "0".to_owned());
        a_negative_serial: NotAConfig, |t| with(t, "serial", |_| "-1".to_owned());
        a_short_vault_id: NotAConfig, |t| with(t, "vault_id", |v| v.replacen('"', "\"0", 1));
        a_previous_seal_that_is_none: NotAConfig, |t| with(t, "previous_seal", |_| "\"00\"".to_owned());
        a_slot_with_a_short_salt: NotAConfig, |t| with(t, "salt", |_| "\"00\"".to_owned());
        a_slot_with_a_short_nonce: NotAConfig, |t| with(t, "nonce", |_| "\"00\"".to_owned());
        a_slot_with_a_short_commitment: NotAConfig, |t| with(t, "commitment", |_| "\"\"".to_owned());
        a_slot_with_a_short_key: NotAConfig, |t| with(t, "wrapped", |_| "\"00\"".to_owned());
        a_slot_with_a_salt_in_capitals: NotAConfig, |t| with(t, "salt", str::to_uppercase);
        a_slot_with_a_long_label: NotAConfig, |t| with(t, "label", |_| format!("\"{}\"", "x".repeat(256)));
        a_slot_with_a_long_challenge: NotAConfig, |t| with(t, "opaque", |_| format!("\"{}\"", "x".repeat(1025)));
        a_slot_of_little_memory: KdfOutOfBounds, |t| with(t, "memory_kib", |_| "19455".to_owned());
        a_slot_of_too_much_memory: KdfOutOfBounds, |t| with(t, "memory_kib", |_| "4194305".to_owned());
        a_slot_of_one_pass: KdfOutOfBounds, |t| with(t, "passes", |_| "1".to_owned());
        a_slot_of_too_many_passes: KdfOutOfBounds, |t| with(t, "passes", |_| "65".to_owned());
        a_slot_of_no_lanes: KdfOutOfBounds, |t| with(t, "lanes", |_| "0".to_owned());
        a_slot_of_too_many_lanes: KdfOutOfBounds, |t| with(t, "lanes", |_| "65".to_owned());
        a_slot_of_more_than_32_bits: NotAConfig, |t| with(t, "memory_kib", |_| "4294986752".to_owned());
        no_slots: NotAConfig, |t| slots(t, 0);
        two_slots_of_one_number: NotAConfig, |t| slots(t, 2).replacen("id = 2", "id = 1", 1);
        seventeen_slots: NotAConfig, |t| slots(t, 17);
        tables_nested_without_end: NotAConfig, |t| format!("a = {}1\n{t}", "[".repeat(60_000));
    }

    #[test]
    fn sixteen_slots_and_unknown_harmless_flags_are_fine() {
        assert_eq!(public_info(slots(fixture(), 16).as_bytes()).unwrap().slots.len(), 16);
        let flagged = with(fixture(), "compat", |_| "[\"x\"]".to_owned());
        assert!(public_info(flagged.as_bytes()).is_ok());
    }

    #[test]
    fn a_slot_of_another_kind_is_not_tried() {
        let edited = with(fixture(), "kind", |_| "\"token\"".to_owned());
        assert_eq!(open(edited.as_bytes(), b"p").err(), Some(ConfigError::WrongPassword));
    }

    #[test]
    fn a_slot_of_another_vault_does_not_open() {
        let (other, _) = create(b"p", &params(), 7, &SeededEntropy::new(6)).unwrap();
        let other = String::from_utf8(other).unwrap();
        let id = with(fixture(), "vault_id", |_| {
            let at = other.find("\nvault_id = ").unwrap() + 12;
            other[at..at + 34].to_owned()
        });
        let refused = open(id.as_bytes(), b"p").err();
        assert_eq!(refused, Some(ConfigError::Damaged("a key slot does not authenticate")));
    }

    #[test]
    fn the_seal_of_another_vault_does_not_fit() {
        let edited = with(fixture(), "seal", |_| format!("\"{}\"", "0".repeat(64)));
        let refused = open(edited.as_bytes(), b"p").err();
        assert_eq!(refused, Some(ConfigError::Damaged("its seal does not fit")));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_the_parser(text in ".{0,300}", at in proptest::prelude::any::<usize>()) {
            let _ = public_info(text.as_bytes());
            let mut at = at % fixture().len();
            while !fixture().is_char_boundary(at) { at -= 1; }
            let _ = public_info(format!("{}{text}{}", &fixture()[..at], &fixture()[at..]).as_bytes());
        }
    }
}
