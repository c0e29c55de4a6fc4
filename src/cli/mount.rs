//! `akasha mount`. The order is a matter of safety: look at the vault and the mountpoint, read the password (a
//! command may run for it), leave for the background, and only then derive keys, so that no other process ever
//! holds them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backing::Backing;
use crate::backing::inherited::Inherited;
use crate::backing::process::{self, Fork, Outcome, Reporter};
use crate::clock::SystemClock;
use crate::entropy::OsEntropy;
use crate::fuse::{self, MountError, MountOptions, ServeError};
use crate::secret::Password;
use crate::store::{CommitPolicy, Store, StoreError, StoreOptions, vault};

use super::args::MountArgs;
use super::error::{CliError, Result};
use super::open::{Found, harden};
use super::password::{PasswordReader, Purpose};
use super::plan::MountPlan;
use super::remount::{self, RemountPlan};
use super::{log, mountinfo, mountpoint, relay};

/// Of the process's descriptors the store gets half; the rest is for the kernel's connections, the mountpoint, log and
/// what is opened in passing.
const STORE_DESCRIPTORS_MIN: u64 = 64;
const STORE_DESCRIPTORS_MAX: u64 = 8192;

/// Runs the command; in the foreground until the mount ends.
///
/// # Errors
/// Each way in which a mount can fail before it answers. Later ones are logged, and returned in the foreground.
pub fn run(args: MountArgs) -> Result<()> {
    // Before anything is opened; closed after the password is read, which may come through one (`<(…)` of a shell).
    let inherited = Inherited::note();
    if let Some(plan) = RemountPlan::new(&args) {
        return remount::run(&plan);
    }
    let plan = MountPlan::new(args)?;
    log::to_stderr(plan.log_level);
    let found = Found::at(&plan.vault)?;
    found.check_cost(plan.allow_costly_kdf)?;
    let mountpoint = mountpoint::check(&plan.mountpoint, &found.real_path, &plan.flags)?;
    mountpoint::check_fuse(found.disk.is_privileged(), &plan.flags)?;
    check_free(&found, plan.flags.is_read_only)?;
    harden();
    let password = PasswordReader::new().read(&plan.password, Purpose::Open)?;
    let mount = Mount { plan, found, mountpoint };
    if mount.plan.is_foreground {
        return mount.serve(password, || {});
    }
    match process::fork_daemon().map_err(|e| CliError::io("cannot go to the background", e))? {
        Fork::Parent(waiter) => {
            drop(password);
            match waiter.wait() {
                Outcome::Ready => Ok(()),
                Outcome::Failed { code, message } => relay::receive(code, &message),
            }
        }
        Fork::Child(reporter) => {
            inherited.close();
            mount.serve_in_background(&password, reporter);
            Ok(())
        }
    }
}

/// Told before the password is asked for. The store, which takes the lock, has the last word.
fn check_free(found: &Found, is_read_only: bool) -> Result<()> {
    match vault::is_held(&found.disk, !is_read_only) {
        Ok(true) => Err(CliError::InUse {
            vault: found.path.clone(),
            holder: vault::lock_note(&found.disk),
        }),
        // What else is wrong with the lock, such as a read-only disk, is for the store to judge.
        Ok(false) | Err(_) => Ok(()),
    }
}

/// Everything but the key.
struct Mount {
    plan: MountPlan,
    found: Found,
    /// Absolute, without symbolic links.
    mountpoint: PathBuf,
}

impl Mount {
    /// The life of the daemon. Whoever waits is told how the start went; what happens later is logged.
    fn serve_in_background(self, inherited: &Password, reporter: Reporter) {
        // Locks on memory are not inherited (mlock(2)): the copy gets its own.
        let Some(password) = Password::new(inherited.expose()) else { return };
        let mut reporter = Some(reporter);
        let waiting = &mut reporter;
        let served = self.serve(password, || {
            let told = waiting.take().map_or(Ok(()), Reporter::ready);
            log::to_syslog();
            if let Err(error) = told {
                ::log::error!("cannot let go of the terminal: {error}");
            }
        });
        match (served, reporter) {
            (Err(error), Some(reporter)) => relay::send(reporter, &error),
            (Err(error), None) => ::log::error!("{error}"),
            // It answered nobody and ended without an error: dropping the reporter says so.
            (Ok(()), _) => {}
        }
    }

    /// Derives the key, opens the store and serves it until the mount ends.
    fn serve(self, password: Password, on_ready: impl FnOnce()) -> Result<()> {
        harden();
        let descriptors = process::raise_descriptor_limit()
            .map_err(|error| CliError::io("cannot raise the limit of open files", error))?;
        let opened = self.found.unlock(&password)?;
        drop(password);
        let Mount { plan, found, mountpoint } = self;
        let options = mount_options(&plan, &found.real_path);
        let store = Store::open(
            Arc::new(found.disk),
            opened,
            store_options(&plan, descriptors),
            Arc::new(OsEntropy),
            Arc::new(SystemClock::new()),
        )
        .map_err(|error| store_error(&found.path, error))?;
        let mode = if plan.flags.is_read_only { "read-only" } else { "read-write" };
        let announce = || {
            on_ready();
            ::log::info!("mounted {mode}");
        };
        fuse::serve(store, &mountpoint, &options, announce)
            .map_err(|error| serve_error(&found.path, &plan.mountpoint, error))?;
        ::log::info!("unmounted, everything is committed");
        Ok(())
    }
}

fn store_options(plan: &MountPlan, descriptors: u64) -> StoreOptions {
    let share = (descriptors / 2).clamp(STORE_DESCRIPTORS_MIN, STORE_DESCRIPTORS_MAX);
    StoreOptions {
        read_only: plan.flags.is_read_only,
        commit: plan.commit,
        open_commit: plan.commit_open,
        max_descriptors: usize::try_from(share).expect("a few thousand"),
        owner_note: format!("process {}\n", std::process::id()),
        ..StoreOptions::default()
    }
}

fn mount_options(plan: &MountPlan, vault: &Path) -> MountOptions {
    MountOptions {
        source: mountinfo::escape(vault),
        read_only: plan.flags.is_read_only,
        allow_other: plan.flags.allow_other,
        allow_root: plan.flags.allow_root,
        suid: plan.flags.suid,
        dev: plan.flags.dev,
        no_exec: plan.flags.noexec,
        view: plan.view,
        sync: plan.flags.sync,
        dir_sync: plan.flags.dirsync,
        commit_on_close: plan.commit == CommitPolicy::OnClose,
        ..MountOptions::default()
    }
}

/// What the store says to opening or closing the vault at `path`.
fn store_error(path: &Path, error: StoreError) -> CliError {
    let vault = path.to_owned();
    match error {
        StoreError::InUse(holder) => CliError::InUse { vault, holder },
        StoreError::Damaged { what, why } => {
            CliError::Damaged { vault, why: format!("{what}: {why}") }
        }
        StoreError::Io { what, source } => CliError::io(format!("{path:?}: cannot {what}"), source),
        other => CliError::io(format!("cannot open {path:?}"), io::Error::other(other.to_string())),
    }
}

/// What the kernel's side says to mounting on `mountpoint`.
fn serve_error(vault: &Path, mountpoint: &Path, error: ServeError) -> CliError {
    match error {
        ServeError::Mount(error) => mount_error(mountpoint, error),
        ServeError::Handshake(source) => {
            CliError::io("the kernel's FUSE does not understand akasha", source)
        }
        ServeError::EndedEarly => CliError::io(
            format!("cannot mount on {mountpoint:?}"),
            io::Error::other("it was unmounted before it was ready"),
        ),
        ServeError::Connection(source) => {
            CliError::io("the connection to the kernel's FUSE failed", source)
        }
        ServeError::Thread(source) => CliError::io("cannot start a thread", source),
        ServeError::Close(error) => store_error(vault, error),
    }
}

fn mount_error(mountpoint: &Path, error: MountError) -> CliError {
    match error {
        MountError::Missing(path) => CliError::MountpointMissing(path),
        MountError::NotADirectory(path) => CliError::MountpointNotDirectory(path),
        MountError::Inaccessible { path, source } => {
            CliError::io(format!("cannot look at the mountpoint {path:?}"), source)
        }
        MountError::Dead(path) => {
            CliError::MountpointInUse { mountpoint: path, source_name: "a dead mount".into() }
        }
        MountError::Occupied(path) => {
            CliError::MountpointInUse { mountpoint: path, source_name: "another mount".into() }
        }
        MountError::NoDevice => mountpoint::no_fuse(),
        MountError::NoHelper => mountpoint::no_helper(),
        MountError::AllowOtherRefused => mountpoint::others_refused(),
        MountError::Device(source) => mountpoint::device_error(source),
        MountError::Refused(said) => refusal(mountpoint, &said),
        MountError::Failed { path, source } => {
            CliError::io(format!("cannot mount on {path:?}"), source)
        }
    }
}

/// What fusermount3's sentence means; it has one exit code for everything.
fn refusal(mountpoint: &Path, said: &str) -> CliError {
    let is_denied = ["no write access", "not permitted", "denied", "sticky", "not owned"];
    if is_denied.iter().any(|word| said.contains(word)) {
        CliError::NotAllowed {
            what: format!("you may not mount on {mountpoint:?}"),
            hint: "name a directory that you own and may write to".to_owned(),
        }
    } else {
        let said: String = said.chars().filter(|c| !c.is_control()).collect();
        CliError::io(format!("cannot mount on {mountpoint:?}"), io::Error::other(said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    #[test]
    fn a_refused_mountpoint_is_a_matter_of_permission() {
        let path = Path::new("/m");
        for (said, exit) in [
            ("user has no write access to mountpoint /m", Exit::NoPermission),
            ("mountpoint /m not owned by user", Exit::NoPermission),
            ("mount failed: Operation not permitted", Exit::NoPermission),
            ("unknown option 'x'", Exit::Internal),
        ] {
            assert_eq!(refusal(path, said).exit(), exit, "{said}");
        }
    }

    #[test]
    fn a_full_disk_keeps_its_code_through_the_floors() {
        let full = StoreError::Io {
            what: "lock the vault",
            source: io::Error::from_raw_os_error(libc::ENOSPC),
        };
        let error = serve_error(Path::new("/v"), Path::new("/m"), ServeError::Close(full));
        assert_eq!(error.exit(), Exit::DiskFull);
    }
}
