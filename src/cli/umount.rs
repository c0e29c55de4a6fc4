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
/// After which time everybody else is.
const LONG_PATIENCE: Duration = Duration::from_secs(30);
const FIRST_POLL: Duration = Duration::from_millis(2);
const LONGEST_POLL: Duration = Duration::from_millis(10);
/// How long the daemon gets to end once it has let go of the vault.
const LONGEST_GOODBYE: Duration = Duration::from_millis(500);

/// Runs the command.
///
/// # Errors
/// [`CliError::NotMounted`], [`CliError::Busy`], [`CliError::FuseMissing`]; `NotAllowed` for somebody else's mount.
pub fn run(args: &UmountArgs) -> Result<()> {
    let (path, mount) = find(&args.mountpoint)?;
    // A lazy unmount ends with the last open file, which may be never; a read-only one leaves nothing to commit,
    // and others may share the vault.
    let awaited = mount.vault().filter(|vault| {
        // One that was remounted read-only still has its writer.
        !args.lazy && (!mount.read_only || has_writer(vault).unwrap_or(false))
    });
    // Looked at before: afterwards somebody else may hold it.
    let holder = awaited.as_deref().and_then(holder_of);
    take_down(&path, args.lazy)?;
    match (awaited, mount.vault()) {
        (Some(vault), _) => wait_until_released(&vault, holder.as_deref()),
        (None, Some(vault)) if !args.lazy => {
            wait_for_reader(&vault);
            Ok(())
        }
        (None, _) => Ok(()),
    }
}

/// The daemon of a read-only mount has nothing to do any more: it ends at once, and with it its part of the lock, which would
/// be in the way of whoever mounts the vault next. Where others share the lock one cannot see it end.
fn wait_for_reader(vault: &Path) {
    let is_shared =
        |mounts: Vec<Mount>| mounts.iter().any(|mount| mount.vault().as_deref() == Some(vault));
    let start = Instant::now();
    while start.elapsed() < LONGEST_GOODBYE
        && !mountinfo::all().is_ok_and(is_shared)
        && is_held(vault).unwrap_or(false)
    {
        thread::sleep(FIRST_POLL);
    }
}

/// The akasha mount at that path.
pub(super) fn find(path: &Path) -> Result<(PathBuf, Mount)> {
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

/// The daemon holds the vault's lock until its last commit is done. A lock that has another holder's note by then is a
/// new mount, not what is waited for.
fn wait_until_released(vault: &Path, holder: Option<&str>) -> Result<()> {
    let start = Instant::now();
    let mut progress = Progress::new(holder.unwrap_or("the daemon"));
    let mut poll = FIRST_POLL;
    while is_held(vault)? && holder_of(vault).as_deref() == holder {
        progress.tell(start.elapsed());
        thread::sleep(poll);
        poll = (poll * 2).min(LONGEST_POLL);
    }
    // A new holder has taken the mark of a clean end away already, and will have found what there was to find.
    if holder_of(vault).as_deref() == holder && !ended_cleanly(vault) {
        return Err(CliError::io(
            format!("the mount of {vault:?} ended before everything was committed"),
            io::Error::other("the daemon was killed, or its last commit failed"),
        ));
    }
    wait_until_gone(holder);
    Ok(())
}

/// A process that ends still has the vault's directories open for a moment, and with them the filesystem under the vault.
/// The note that names it is nothing to rely on, so nobody waits long.
fn wait_until_gone(holder: Option<&str>) {
    let pid = holder.and_then(|note| note.strip_prefix("process ")?.parse::<u32>().ok());
    let Some(pid) = pid else { return };
    let start = Instant::now();
    while is_running(pid) && start.elapsed() < LONGEST_GOODBYE {
        thread::sleep(FIRST_POLL);
    }
}

/// Whether a process is there and has not ended; one that nobody has waited for holds nothing (proc_pid_stat(5)).
fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with(['Z', 'X'])))
        .unwrap_or(false)
}

/// Whether the last mount left the mark of a clean end; true where that cannot be seen.
fn ended_cleanly(path: &Path) -> bool {
    OsDisk::open(path).map_or(true, |disk| vault::ended_cleanly(&disk))
}

fn holder_of(path: &Path) -> Option<String> {
    vault::lock_note(&OsDisk::open(path).ok()?)
}

/// Whether a daemon holds the vault for writing: where it is mounted, the daemon of that mount. One that was mounted
/// read-only shares the lock with whoever asks, or holds none.
pub(super) fn has_writer(path: &Path) -> Result<bool> {
    let cannot = |error| CliError::io(format!("cannot look at the vault {path:?}"), error);
    let disk = OsDisk::open(path).map_err(cannot)?;
    vault::is_held(&disk, false).map_err(|error| cannot(io::Error::other(error.to_string())))
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

/// On a terminal one line, rewritten; elsewhere one line, once, when it takes very long.
struct Progress<'a> {
    holder: &'a str,
    is_terminal: bool,
    shown_s: Option<u64>,
}

impl<'a> Progress<'a> {
    fn new(holder: &'a str) -> Self {
        Progress { holder, is_terminal: io::stderr().is_terminal(), shown_s: None }
    }

    fn tell(&mut self, elapsed: Duration) {
        let now_s = elapsed.as_secs();
        let holder = self.holder;
        let mut out = io::stderr();
        if self.is_terminal && elapsed >= PATIENCE && self.shown_s != Some(now_s) {
            let _ = write!(
                out,
                "\rwaiting until {holder} has committed everything … {now_s} s (Ctrl-C stops the waiting only)"
            );
            let _ = out.flush();
            self.shown_s = Some(now_s);
        } else if !self.is_terminal && elapsed >= LONG_PATIENCE && self.shown_s.is_none() {
            let _ = writeln!(
                out,
                "akasha: still waiting until {holder} has committed everything; a mount that is still visible in \
                 another mount namespace does not end"
            );
            self.shown_s = Some(now_s);
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if self.is_terminal && self.shown_s.is_some() {
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
