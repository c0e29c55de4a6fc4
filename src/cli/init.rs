//! `akasha init`: a new, empty vault, whole or not at all.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::backing::OsDisk;
use crate::clock::{Clock, SystemClock};
use crate::crypto::Cipher;
use crate::entropy::OsEntropy;
use crate::format::Geometry;
use crate::format::config::{self, ConfigParams, KdfParams};
use crate::store::vault;

use super::args::InitArgs;
use super::error::{CliError, Result, shell};
use super::open::{check_cost, config_error, disk_error, harden};
use super::password::{PasswordReader, PasswordSource, Purpose};
use super::plan::{self, KdfPlan};

/// Runs the command.
///
/// # Errors
/// The place is taken; no password; the disk refuses.
pub fn run(args: InitArgs) -> Result<()> {
    let params = ConfigParams {
        cipher: parse_cipher(&args.cipher)?,
        geometry: Geometry::new(plan::block_log2(args.block_size)?)
            .expect("plan and format agree on block sizes"),
        kdf: KdfPlan::new(&args.kdf)?.over(KdfParams::default()),
    };
    check_cost(params.kdf, args.cost.allow_costly_kdf)?;
    check_target(&args.vault)?;
    harden();
    let source = PasswordSource::from(args.password);
    let password = PasswordReader::new().read(&source, Purpose::New)?;
    let now = SystemClock::new().now().secs;
    let created = u64::try_from(now).unwrap_or(0);
    let (config, _) = config::create(password.expose(), &params, created, &OsEntropy)
        .map_err(|error| config_error(&args.vault, error))?;
    let is_new = make_directory(&args.vault)?;
    let made = open(&args.vault).and_then(|disk| {
        vault::create(&disk, &config).map_err(|error| disk_error(&args.vault, error))
    });
    if made.is_err() && is_new {
        // Only succeeds if it is empty.
        let _ = fs::remove_dir(&args.vault);
    }
    made
}

fn parse_cipher(name: &str) -> Result<Cipher> {
    name.parse().map_err(|_| {
        CliError::usage(
            format!("there is no cipher {name:?}"),
            "use chacha20-poly1305, aes-256-gcm or aes-256-gcm-siv",
        )
    })
}

/// What would make [`vault::create`] fail later, told before a password is asked for.
fn check_target(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            vault::check_vacant(&open(path)?).map_err(|error| disk_error(path, error))
        }
        Ok(_) => Err(CliError::TargetNotDirectory(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => check_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(CliError::TargetNotDirectory(parent_of(path)))
        }
        Err(error) => Err(CliError::io(format!("cannot look at {path:?}"), error)),
    }
}

fn check_parent(path: &Path) -> Result<()> {
    let parent = parent_of(path);
    match fs::metadata(&parent) {
        Ok(_) => Ok(()),
        Err(_) => Err(CliError::usage(
            format!("there is no directory {parent:?} to make the vault in"),
            format!("make it first: mkdir -p {}", shell(&parent)),
        )),
    }
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes the vault's directory, durably, if it is not there. Whether it was made.
fn make_directory(path: &Path) -> Result<bool> {
    let cannot = |error| CliError::io(format!("cannot make the directory {path:?}"), error);
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(cannot(error)),
    }
    // Its name is the parent's; a vault that is reported as made must not vanish with the power.
    File::open(parent_of(path)).and_then(|parent| parent.sync_all()).map_err(cannot)?;
    Ok(true)
}

fn open(path: &Path) -> Result<OsDisk> {
    OsDisk::open(path).map_err(|error| CliError::io(format!("cannot open {path:?}"), error))
}
