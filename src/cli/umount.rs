//! `akasha umount`: unmount, then wait until the daemon has committed everything and let go of the vault.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::backing::OsDisk;
use crate::backing::unmount::unmount;
use crate::store::vault::{self, VaultError};

use super::args::UmountArgs;
use super::error::{CliError, Result};
use super::mountinfo::{self, Mount};
use super::mountpoint;

/// After which time a terminal is told what is being waited for.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_POLL: Duration = Duration::from_millis(2);
const LONGEST_POLL: Duration = Duration::from_millis(100);

/// Runs the command.
///
/// # Errors
/// [`CliError::NotMounted`], [`CliError::Busy`], [`CliError::FuseMissing`]; `NotAllowed` for somebody else's mount.
pub fn run(args: &UmountArgs) -> Result<()> {
    let (path, mount) = find(&args.mountpoint)?;
    take_down(&path, args.lazy)?;
    match mount.vault() {
        // A lazy unmount ends with the last open file, which may be never; a read-only one leaves nothing to commit,
        // and others may share the vault.
        Some(vault) if !args.lazy && !mount.read_only => wait_until_released(&vault),
        _ => Ok(()),
    }
}

/// The akasha mount at that path.
fn find(path: &Path) -> Result<(PathBuf, Mount)> {
    let resolved = mountpoint::resolve(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CliError::MountpointMissing(path.to_owned()),
        io::ErrorKind::NotADirectory => CliError::NotMounted(path.to_owned()),
        _ => CliError::io(format!("cannot look at {path:?}"), error),
    })?;
    let mounts = mountinfo::all().map_err(|e| CliError::io("cannot read the mount table", e))?;
    match mountinfo::at(&mounts, &resolved) {
        Some(mount) if mount.vault().is_some() => Ok((resolved, mount.clone())),
        _ => Err(CliError::NotMounted(path.to_owned())),
    }
}

/// As root by the system call, else by fusermount3.
fn take_down(path: &Path, is_lazy: bool) -> Result<()> {
    match unmount(path, is_lazy) {
        Ok(()) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM) => ask_fusermount(path, is_lazy),
            Some(libc::EBUSY) => Err(CliError::Busy(path.to_owned())),
            Some(libc::EINVAL) => Err(CliError::NotMounted(path.to_owned())),
            _ => Err(CliError::io(format!("cannot unmount {path:?}"), error)),
        },
    }
}

fn ask_fusermount(path: &Path, is_lazy: bool) -> Result<()> {
    let helper = mountpoint::fusermount().ok_or_else(mountpoint::no_helper)?;
    let mut command = Command::new(helper);
    command.arg("-u");
    if is_lazy {
        command.arg("-z");
    }
    let output = command
        .arg("--")
        .arg(path)
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| CliError::io("cannot run fusermount3", error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(refusal(path, &String::from_utf8_lossy(&output.stderr)))
}

/// What fusermount3's sentence means; it has one exit code for everything.
fn refusal(path: &Path, said: &str) -> CliError {
    if said.contains("busy") {
        CliError::Busy(path.to_owned())
    } else if said.contains("not found in")
        || said.contains("not permitted")
        || said.contains("denied")
    {
        CliError::NotAllowed {
            what: format!("{path:?} was mounted by somebody else"),
            hint: "unmount it as that user, or as root".to_owned(),
        }
    } else {
        let said: String = said.trim().chars().filter(|c| !c.is_control()).collect();
        CliError::io(format!("cannot unmount {path:?}"), io::Error::other(said))
    }
}

/// The daemon holds the vault's lock until its last commit is done.
fn wait_until_released(vault: &Path) -> Result<()> {
    let start = Instant::now();
    let mut progress = Progress::new();
    let mut poll = FIRST_POLL;
    while is_held(vault)? {
        progress.tell(start.elapsed());
        thread::sleep(poll);
        poll = (poll * 2).min(LONGEST_POLL);
    }
    Ok(())
}

fn is_held(path: &Path) -> Result<bool> {
    let unknown = |error| {
        CliError::io(
            format!("it is unmounted, but whether the vault {path:?} is released cannot be seen"),
            error,
        )
    };
    let disk = OsDisk::open(path).map_err(unknown)?;
    match vault::is_held(&disk, true) {
        Ok(is_held) => Ok(is_held),
        Err(VaultError::Io { source, .. }) => Err(unknown(source)),
        Err(error) => Err(unknown(io::Error::other(error.to_string()))),
    }
}

/// One line on a terminal, rewritten; nothing elsewhere.
struct Progress {
    is_terminal: bool,
    shown_s: Option<u64>,
}

impl Progress {
    fn new() -> Self {
        Progress { is_terminal: io::stderr().is_terminal(), shown_s: None }
    }

    fn tell(&mut self, elapsed: Duration) {
        let now_s = elapsed.as_secs();
        if !self.is_terminal || elapsed < PATIENCE || self.shown_s == Some(now_s) {
            return;
        }
        self.shown_s = Some(now_s);
        let mut out = io::stderr();
        let _ = write!(
            out,
            "\rwaiting until everything is committed … {now_s} s (Ctrl-C stops the waiting only)"
        );
        let _ = out.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown_s.is_some() {
            // Clears the line: ECMA-48 EL.
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    #[test]
    fn what_fusermount_says_becomes_a_code() {
        let path = Path::new("/m");
        for (said, exit) in [
            ("fusermount3: failed to unmount /m: Device or resource busy\n", Exit::Busy),
            ("fusermount3: entry for /m not found in /etc/mtab\n", Exit::NoPermission),
            ("umount: /m: Operation not permitted\n", Exit::NoPermission),
            ("fusermount3: something else\n", Exit::Internal),
        ] {
            assert_eq!(refusal(path, said).exit(), exit, "{said}");
        }
    }
}
