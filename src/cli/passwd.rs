//! `akasha passwd`: another password for the slot that the old one opens.

use crate::entropy::OsEntropy;
use crate::format::config;
use crate::store::vault::{self, ReplaceError};

use super::args::PasswdArgs;
use super::error::Result;
use super::open::{Found, check_cost, config_error, disk_error, harden};
use super::password::{PasswordReader, PasswordSource, Purpose};
use super::plan::KdfPlan;

/// Runs the command. Both passwords are read before any key exists.
///
/// # Errors
/// [`CliError::WrongPassword`](super::error::CliError::WrongPassword), `BeingChanged`; what finding a vault and reading a
/// password give.
pub fn run(args: PasswdArgs) -> Result<()> {
    let asked = KdfPlan::new(&args.kdf)?;
    let found = Found::at(&args.vault)?;
    found.check_cost(args.cost.allow_costly_kdf)?;
    for slot in &found.claims.slots {
        check_cost(asked.over(slot.kdf), args.cost.allow_costly_kdf)?;
    }
    harden();
    let mut reader = PasswordReader::new();
    let old = reader.read(&PasswordSource::from(args.password), Purpose::Current)?;
    let new = reader.read(&PasswordSource::from(args.new_password), Purpose::New)?;
    let cost = |present| asked.over(present);
    let replaced = vault::replace_config(&found.disk, |bytes| {
        config::change_password(bytes, old.expose(), new.expose(), cost, &OsEntropy)
    });
    replaced.map_err(|error| match error {
        ReplaceError::Vault(error) => disk_error(&found.path, error),
        ReplaceError::Change(error) => config_error(&found.path, error),
    })
}
