//! From a path to a vault: what `mount`, `passwd` and `info` have in common.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::backing::{OsDisk, process};
use crate::format::config::{self, ConfigError, KdfParams, OpenVault, PublicInfo};
use crate::secret::Password;
use crate::store::vault::{self, VaultError};

use super::error::{CliError, Result};
use super::size;

/// Memory times passes up to which nobody is asked, in KiB: 16 GiB.
const UNASKED_COST_KIB: u64 = 16 << 20;

/// A directory that claims to be a vault; nothing of it is proved.
pub struct Found {
    /// As it was written.
    pub path: PathBuf,
    /// Absolute, without symbolic links.
    pub real_path: PathBuf,
    /// The disk under it.
    pub disk: OsDisk,
    /// The bytes of `vault.toml`.
    pub config: Vec<u8>,
    /// What they claim.
    pub claims: PublicInfo,
}

impl Found {
    /// The vault at `path`.
    ///
    /// # Errors
    /// [`CliError::NoSuchVault`], [`CliError::NotAVault`], [`CliError::Damaged`], [`CliError::Unsupported`].
    pub fn at(path: &Path) -> Result<Found> {
        let real_path = fs::canonicalize(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CliError::NoSuchVault(path.to_owned()),
            io::ErrorKind::NotADirectory => CliError::NotAVault(path.to_owned()),
            _ => CliError::io(format!("cannot open the vault {path:?}"), error),
        })?;
        let disk = OsDisk::open(&real_path).map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory => CliError::NotAVault(path.to_owned()),
            _ => CliError::io(format!("cannot open the vault {path:?}"), error),
        })?;
        let config = vault::read_config(&disk).map_err(|error| disk_error(path, error))?;
        let claims = config::public_info(&config).map_err(|error| config_error(path, error))?;
        Ok(Found { path: path.to_owned(), real_path, disk, config, claims })
    }

    /// Refuses what would cost too much, before a password is asked for.
    pub fn check_cost(&self, allow_costly_kdf: bool) -> Result<()> {
        for slot in &self.claims.slots {
            check_cost(slot.kdf, allow_costly_kdf)?;
        }
        Ok(())
    }

    /// Derives the key and proves the configuration.
    ///
    /// # Errors
    /// [`CliError::WrongPassword`]; as [`Found::at`].
    pub fn unlock(&self, password: &Password) -> Result<OpenVault> {
        config::open(&self.config, password.expose()).map_err(|e| config_error(&self.path, e))
    }
}

/// Keeps what follows, passwords and keys, out of core dumps and other processes' reach.
pub fn harden() {
    if let Err(error) = process::harden() {
        log::warn!("core dumps cannot be turned off: {error}");
    }
}

/// Key derivation within half of the machine's memory and, unless `is_allowed`, 16 GiB of traffic.
pub fn check_cost(kdf: KdfParams, is_allowed: bool) -> Result<()> {
    judge_cost(kdf, is_allowed, memory_total_kib())
}

fn judge_cost(kdf: KdfParams, is_allowed: bool, machine_kib: Option<u64>) -> Result<()> {
    let memory_kib = u64::from(kdf.memory_kib);
    if let Some(machine_kib) = machine_kib.filter(|machine_kib| memory_kib > machine_kib / 2) {
        return Err(CliError::TooMuchMemory {
            need: size::show(memory_kib << 10),
            have: format!("{} MiB", machine_kib >> 10),
        });
    }
    let cost_kib = memory_kib * u64::from(kdf.passes);
    if cost_kib > UNASKED_COST_KIB && !is_allowed {
        return Err(CliError::TooCostly(format!("{} GiB", cost_kib >> 20)));
    }
    Ok(())
}

/// proc_meminfo(5), MemTotal.
fn memory_total_kib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What the disk floor says about the vault at `path`.
pub fn disk_error(path: &Path, error: VaultError) -> CliError {
    match error {
        VaultError::NotAVault => CliError::NotAVault(path.to_owned()),
        VaultError::Exists => CliError::TargetIsVault(path.to_owned()),
        VaultError::NotEmpty => CliError::TargetNotEmpty(path.to_owned()),
        VaultError::Busy => CliError::BeingChanged(path.to_owned()),
        VaultError::Damaged(why) => {
            CliError::Damaged { vault: path.to_owned(), why: why.to_owned() }
        }
        VaultError::Io { what, source } => CliError::io(format!("{path:?}: cannot {what}"), source),
    }
}

/// What the configuration of the vault at `path` says to us.
pub fn config_error(path: &Path, error: ConfigError) -> CliError {
    let vault = path.to_owned();
    match error {
        ConfigError::WrongPassword => CliError::WrongPassword(vault),
        ConfigError::Unsupported(why) => CliError::Unsupported { vault, why },
        ConfigError::NotAConfig(_) | ConfigError::Damaged(_) | ConfigError::KdfOutOfBounds => {
            // One line: the parser's text may quote several.
            let why = error.to_string().replace('\n', " ");
            CliError::Damaged { vault, why }
        }
        ConfigError::Kdf(why) => CliError::KdfFailed(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    fn judged(memory_mib: u32, passes: u32, is_allowed: bool, machine_mib: u64) -> Option<Exit> {
        let kdf = KdfParams { memory_kib: memory_mib << 10, passes, lanes: 1 };
        judge_cost(kdf, is_allowed, Some(machine_mib << 10)).err().map(|error| error.exit())
    }

    #[test]
    fn a_key_derivation_stays_within_half_of_the_machine() {
        assert_eq!(judged(256, 3, false, 512), None);
        assert_eq!(judged(257, 3, false, 512), Some(Exit::TooCostly));
        assert_eq!(judged(257, 3, true, 512), Some(Exit::TooCostly));
    }

    #[test]
    fn more_than_16_gib_of_traffic_needs_a_word() {
        assert_eq!(judged(1024, 16, false, 1 << 16), None);
        assert_eq!(judged(1024, 17, false, 1 << 16), Some(Exit::TooCostly));
        assert_eq!(judged(1024, 17, true, 1 << 16), None);
    }

    #[test]
    fn this_machine_tells_its_memory() {
        assert!(memory_total_kib().is_some_and(|kib| kib > 1 << 16));
    }
}
