//! What is done about what a check finds (docs/CHECK.md, "Repairing"). Nothing of the user's is deleted: what cannot be read is moved,
//! whole, to `lost+found` in the root of the mount; what still authenticates of it is written beside it as a new file; what a name was
//! lost of gets another one.
//!
//! It works in rounds, under the writer's lock: sweep as a mount does, check, write what is to be written through an ordinary store, close
//! it, move by native renames. Everything written is durable before anything is moved, and each move is one rename: a cut at any point
//! leaves a vault that mounts, and another repair goes on. The last round finds nothing to do.

mod attributes;
mod links;
mod moves;
mod nameless;
mod plan;
mod rescue;
mod salvage;
mod write;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crate::backing::Backing;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::format::OpenVault;

use super::check::{self, Effort, Finding, Summary};
use super::core::{ControlDirs, StoreOptions, VaultKeys};
use super::error::{Attempt, Result, StoreError};
use super::sync_all::sync_all_names;
use super::{CONTROL_DIR, Store, lock, recover};
use moves::Mover;
use plan::Plan;

/// A directory that is found again shows what is damaged in it to the next round only.
const ROUNDS_MAX: usize = 64;

/// What a repair may use.
#[derive(Clone)]
pub struct Means<'a> {
    /// For the checks.
    pub effort: Effort<'a>,
    /// Settings of the store that writes; its note is shown to whoever finds the vault in use.
    pub options: StoreOptions,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// What was done. The texts of [`DeedKind::key`] are API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeedKind {
    /// What cannot be read is in `lost+found` now.
    Moved,
    /// What authenticates of a damaged file was written to a new one.
    Salvaged,
    /// What had lost its name has another one.
    Named,
    /// The stub of a file with several names was made anew.
    Rebuilt,
    /// The rescue copy of a directory was written anew.
    Copied,
    /// An attribute that does not authenticate was written down and taken off.
    Detached,
}

impl DeedKind {
    /// Its stable name.
    pub fn key(self) -> &'static str {
        match self {
            DeedKind::Moved => "moved",
            DeedKind::Salvaged => "salvaged",
            DeedKind::Named => "named",
            DeedKind::Rebuilt => "rebuilt",
            DeedKind::Copied => "copied",
            DeedKind::Detached => "detached",
        }
    }
}

/// One thing that a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// What kind.
    pub kind: DeedKind,
    /// The plaintext path of what it was done to; of what had none, of its directory.
    pub path: Vec<u8>,
    /// The backing name, where there was no plaintext one.
    pub name: Option<Vec<u8>>,
    /// The plaintext path of what there is now.
    pub to: Vec<u8>,
    /// Of a salvaged file: bytes that are not in it, ascending.
    pub holes: Vec<Range<u64>>,
}

/// What a repair tells as it goes.
#[derive(Debug)]
pub enum Told<'a> {
    /// What a check says; nothing twice.
    Finding(&'a Finding),
    /// What was done.
    Deed(&'a Deed),
}

/// Repairs a vault. Returns what the last check of it says: damage in it is what could not be repaired.
///
/// # Errors
/// `InUse` if it is mounted; `AlreadyExists` if `lost+found` is something else than a directory; what the disk says.
pub fn repair<B: Backing>(
    backing: &Arc<B>,
    vault: &OpenVault,
    means: &Means<'_>,
    tell: &mut dyn FnMut(Told<'_>),
) -> Result<Summary> {
    let keys = VaultKeys::of(vault);
    let control = || -> Result<_> {
        let root = Arc::new(backing.root().attempt("open the vault")?);
        let control = backing.open_dir(&root, CONTROL_DIR).attempt("open .akasha")?;
        Ok((root, control))
    };
    let (root, control_dir) = control()?;
    let mut held = lock::take(&**backing, &control_dir, &means.options)?;
    let mut told = HashSet::new();
    let mut dirs = lock::control_dirs(&**backing, root, control_dir, &means.options)?;
    for _ in 0..ROUNDS_MAX {
        // Until the end of it, whoever mounts looks for orphans.
        lock::begin(&**backing, &dirs.control)?;
        recover::sweep(&**backing, &dirs)?;
        recover::hunt(&**backing, &dirs, &keys)?;
        let mut fresh = |finding: &Finding| {
            if told.insert((finding.path.clone(), finding.name.clone(), finding.kind)) {
                tell(Told::Finding(finding));
            }
        };
        let (summary, cases) = check::cases(&**backing, &keys, means.effort, &mut fresh)?;
        let plan = Plan::new(&**backing, &dirs, &keys, cases);
        let mut deeds = Vec::new();
        if !plan.is_empty() {
            let round = Round { backing, keys: &keys, means };
            let (root, control_dir) = control()?;
            let for_store = lock::control_dirs(&**backing, root, control_dir, &means.options)?;
            deeds = round.run(plan, &dirs, for_store, &mut held)?;
        }
        for deed in &deeds {
            tell(Told::Deed(deed));
        }
        if deeds.is_empty() {
            sync_all_names(&**backing, &dirs)?;
            lock::end(&**backing, &dirs.control);
            return Ok(summary);
        }
        let (root, control_dir) = control()?;
        dirs = lock::control_dirs(&**backing, root, control_dir, &means.options)?;
    }
    Err(StoreError::broken("the vault", "every repair found more to do"))
}

/// One round of a repair.
struct Round<'a, B: Backing> {
    backing: &'a Arc<B>,
    keys: &'a VaultKeys,
    means: &'a Means<'a>,
}

impl<B: Backing> Round<'_, B> {
    /// Does what is planned; returns what was done.
    fn run(
        &self,
        mut plan: Plan,
        dirs: &ControlDirs<B>,
        for_store: ControlDirs<B>,
        held: &mut Option<B::Lock>,
    ) -> Result<Vec<Deed>> {
        let mut deeds = Vec::new();
        let lost_found = {
            let given = (Arc::clone(&self.means.entropy), Arc::clone(&self.means.clock));
            let options = self.means.options.clone();
            let keys = VaultKeys {
                keys: Arc::clone(&self.keys.keys),
                cipher: self.keys.cipher,
                geometry: self.keys.geometry,
            };
            let backing = Arc::clone(self.backing);
            let store = Store::open_held(backing, keys, for_store, held.take(), options, given)?;
            let written = write::write(&store, dirs, self.keys, &mut plan, &mut deeds);
            *held = store.lock.lock().take();
            // What was written is durable, or nothing is moved.
            let closed = store.close();
            let lost_found = written?;
            closed?;
            lost_found
        };
        let entropy = &*self.means.entropy;
        let mut mover = Mover::open(&**self.backing, self.keys, dirs, entropy, lost_found)?;
        let given = (entropy, self.means.clock.now().as_micros());
        plan.carry_out(&mut mover, &**self.backing, self.keys, dirs, given, &mut deeds)?;
        sync_all_names(&**self.backing, dirs)?;
        Ok(deeds)
    }
}
