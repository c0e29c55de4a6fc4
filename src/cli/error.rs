//! What can go wrong, as a person is told: one sentence saying what is wrong, one saying what to do,
//! and an exit code. The floors below give causes; hints are only given here. No message holds a secret or
//! a plaintext name.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::exit::Exit;

/// The results of this floor.
pub type Result<T> = std::result::Result<T, CliError>;

/// Why the program cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line asks for something that does not exist or does not fit together.
    #[error("{what}")]
    Usage {
        /// What is wrong with it.
        what: String,
        /// The right way.
        hint: String,
    },
    /// No key slot opens with the password.
    #[error("wrong password for {0:?}")]
    WrongPassword(PathBuf),
    /// No password could be read.
    #[error("{what}")]
    NoPassword {
        /// Why.
        what: String,
        /// A way that works.
        hint: String,
    },
    /// There is no vault in that directory.
    #[error("{0:?} is not a vault")]
    NotAVault(PathBuf),
    /// The vault's directory does not exist.
    #[error("there is no directory {0:?}")]
    NoSuchVault(PathBuf),
    /// The vault does not hold together.
    #[error("the vault {vault:?} is damaged: {why}")]
    Damaged {
        /// Where it is.
        vault: PathBuf,
        /// What does not hold.
        why: String,
    },
    /// `check` found damage.
    #[error("the vault {vault:?} is damaged in {damaged} place{}", if *.damaged == 1 { "" } else { "s" })]
    DamageFound {
        /// Where it is.
        vault: PathBuf,
        /// How many findings.
        damaged: u64,
    },
    /// The vault needs another version of akasha.
    #[error("the vault {vault:?} needs another version of akasha: {why}")]
    Unsupported {
        /// Where it is.
        vault: PathBuf,
        /// What is not known here.
        why: String,
    },
    /// The key derivation asks for too much memory for this machine.
    #[error("deriving the key needs {need} of memory, more than half of this machine's {have}")]
    TooMuchMemory {
        /// What it takes, with its unit.
        need: String,
        /// What the machine has, with its unit.
        have: String,
    },
    /// The key derivation is beyond what is done without being asked.
    #[error("deriving the key means {0} of memory traffic (memory times passes)")]
    TooCostly(String),
    /// The key derivation did not run.
    #[error("deriving the key failed: {0}")]
    KdfFailed(String),
    /// The vault is mounted read-write, or is about to be.
    #[error("the vault {vault:?} is mounted already{}", by(.holder.as_deref()))]
    InUse {
        /// Where it is.
        vault: PathBuf,
        /// Who says to hold it, as the lock file tells.
        holder: Option<String>,
    },
    /// Another process is making this vault or changing its password.
    #[error("another akasha is changing the vault {0:?} right now")]
    BeingChanged(PathBuf),
    /// `init` found files in the directory.
    #[error("{0:?} is not empty")]
    TargetNotEmpty(PathBuf),
    /// `init` found a vault.
    #[error("{0:?} is a vault already")]
    TargetIsVault(PathBuf),
    /// `init` found something that is not a directory.
    #[error("{0:?} exists and is not a directory")]
    TargetNotDirectory(PathBuf),
    /// The mountpoint does not exist.
    #[error("the mountpoint {0:?} does not exist")]
    MountpointMissing(PathBuf),
    /// The mountpoint is something else.
    #[error("the mountpoint {0:?} is not a directory")]
    MountpointNotDirectory(PathBuf),
    /// The mountpoint has entries.
    #[error("the mountpoint {0:?} is not empty")]
    MountpointNotEmpty(PathBuf),
    /// Something is mounted there.
    #[error("something is already mounted on {mountpoint:?}: {source_name:?}")]
    MountpointInUse {
        /// Where.
        mountpoint: PathBuf,
        /// What, as the mount table names it.
        source_name: PathBuf,
    },
    /// The mountpoint lies inside the vault.
    #[error("the mountpoint {mountpoint:?} lies inside the vault {vault:?}")]
    MountpointInVault {
        /// Where it should go.
        mountpoint: PathBuf,
        /// The vault.
        vault: PathBuf,
    },
    /// `umount` found no akasha mount.
    #[error("no akasha vault is mounted on {0:?}")]
    NotMounted(PathBuf),
    /// `umount` found the mount in use.
    #[error("{0:?} is in use: a program has a file open in it, or works in it")]
    Busy(PathBuf),
    /// What FUSE needs is not installed.
    #[error("{what}")]
    FuseMissing {
        /// What is missing.
        what: String,
        /// How to get it.
        hint: String,
    },
    /// The system or a rule of ours refuses this user.
    #[error("{what}")]
    NotAllowed {
        /// What was refused.
        what: String,
        /// Who could.
        hint: String,
    },
    /// A system call failed.
    #[error("{what}: {}", errno_text(.source))]
    Io {
        /// What was attempted, on which object.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// What the background process reported to the one that started it.
    #[error("{what}")]
    Relayed {
        /// The exit code it asked for.
        exit: Exit,
        /// Its sentence.
        what: String,
        /// Its hint.
        hint: String,
    },
}

impl CliError {
    /// A failed system call: `what` was attempted.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        CliError::Io { what: what.into(), source }
    }

    /// A wrong command line.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        CliError::Usage { what: what.into(), hint: hint.into() }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            CliError::Usage { .. } | CliError::MountpointInVault { .. } => Exit::Usage,
            CliError::WrongPassword(_) => Exit::WrongPassword,
            CliError::NoPassword { .. } => Exit::NoPassword,
            CliError::NotAVault(_) | CliError::NoSuchVault(_) => Exit::NotAVault,
            CliError::Damaged { .. } => Exit::Damaged,
            CliError::DamageFound { .. } => Exit::DamageFound,
            CliError::Unsupported { .. } => Exit::Unsupported,
            CliError::TooMuchMemory { .. } | CliError::TooCostly(_) | CliError::KdfFailed(_) => {
                Exit::TooCostly
            }
            CliError::InUse { .. } | CliError::BeingChanged(_) => Exit::InUse,
            CliError::TargetNotEmpty(_)
            | CliError::TargetIsVault(_)
            | CliError::TargetNotDirectory(_) => Exit::Taken,
            CliError::MountpointMissing(_) => Exit::MountpointMissing,
            CliError::MountpointNotDirectory(_) => Exit::MountpointNotDirectory,
            CliError::MountpointNotEmpty(_) => Exit::MountpointNotEmpty,
            CliError::MountpointInUse { .. } => Exit::MountpointInUse,
            CliError::NotMounted(_) => Exit::NotMounted,
            CliError::Busy(_) => Exit::Busy,
            CliError::FuseMissing { .. } => Exit::FuseMissing,
            CliError::NotAllowed { .. } => Exit::NoPermission,
            CliError::Io { source, .. } => io_exit(source),
            CliError::Relayed { exit, .. } => *exit,
        }
    }

    /// What to do about it, one sentence.
    pub fn hint(&self) -> String {
        match self {
            CliError::Usage { hint, .. }
            | CliError::NoPassword { hint, .. }
            | CliError::FuseMissing { hint, .. }
            | CliError::NotAllowed { hint, .. }
            | CliError::Relayed { hint, .. } => hint.clone(),
            CliError::WrongPassword(_) => {
                "check caps lock and keyboard layout, and try again".to_owned()
            }
            CliError::NotAVault(path) => {
                format!("name the directory that holds \".akasha\", or make a vault: akasha init {}", shell(path))
            }
            CliError::NoSuchVault(path) => {
                format!("check the path, or make a vault there: akasha init {}", shell(path))
            }
            CliError::Damaged { .. } => {
                "restore \".akasha\" from a backup; do not write to the vault before".to_owned()
            }
            CliError::DamageFound { .. } => {
                "restore what is named above from a backup; keep a copy of the vault as it is now".to_owned()
            }
            CliError::Unsupported { .. } => {
                "use the version of akasha that last wrote this vault, or a newer one".to_owned()
            }
            CliError::TooMuchMemory { .. } => {
                "lower --argon2-memory; for a vault that exists akasha passwd does it, on a machine with more memory"
                    .to_owned()
            }
            CliError::TooCostly(_) => {
                "add --allow-costly-kdf if you trust this vault and have the time".to_owned()
            }
            CliError::KdfFailed(_) => "free some memory and try again".to_owned(),
            CliError::InUse { .. } => {
                "unmount it there first; findmnt -t fuse.akasha lists what is mounted".to_owned()
            }
            CliError::BeingChanged(_) => "wait for it to end, and try again".to_owned(),
            CliError::TargetNotEmpty(_) => "choose an empty directory or a new name".to_owned(),
            CliError::TargetIsVault(_) => {
                "mount it with akasha mount, or choose another place for a new vault".to_owned()
            }
            CliError::TargetNotDirectory(_) => "choose a directory or a new name".to_owned(),
            CliError::MountpointMissing(path) => format!("make it first: mkdir {}", shell(path)),
            CliError::MountpointNotDirectory(_) => "name an empty directory".to_owned(),
            CliError::MountpointNotEmpty(_) => {
                "name an empty directory, or hide what is in this one with -o nonempty".to_owned()
            }
            CliError::MountpointInUse { mountpoint, .. } => {
                format!("name another directory, or unmount this one first: akasha umount {}", shell(mountpoint))
            }
            CliError::MountpointInVault { .. } => {
                "name a directory outside the vault".to_owned()
            }
            CliError::NotMounted(_) => {
                "name the mountpoint, not the vault; findmnt -t fuse.akasha lists what is mounted".to_owned()
            }
            CliError::Busy(path) => {
                format!(
                    "close what fuser -vm {0} lists and try again, or akasha umount --lazy {0}",
                    shell(path)
                )
            }
            CliError::Io { source, .. } => io_hint(source),
        }
    }

    /// What is printed: the sentence and the hint, a line each.
    pub fn report(&self) -> String {
        format!("error: {self}\nhint: {}", self.hint())
    }
}

/// Exit codes that a failed system call deserves whatever it was for.
fn io_exit(source: &io::Error) -> Exit {
    match source.raw_os_error() {
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => Exit::NoPermission,
        Some(libc::ENOSPC | libc::EDQUOT) => Exit::DiskFull,
        _ => match source.kind() {
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Exit::DiskFull,
            _ => Exit::Internal,
        },
    }
}

fn io_hint(source: &io::Error) -> String {
    match source.raw_os_error() {
        Some(libc::EROFS) => {
            "the filesystem is mounted read-only: remount it for writing".to_owned()
        }
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n)".to_owned(),
        Some(libc::ENOMEM) => "free some memory and try again".to_owned(),
        _ => match io_exit(source) {
            Exit::NoPermission => {
                "check the owner and the mode of it and of its parent directories".to_owned()
            }
            Exit::DiskFull => {
                "free some space on the filesystem of the vault and try again".to_owned()
            }
            _ => "see the kernel's log (dmesg) if the disk is at fault, and try again".to_owned(),
        },
    }
}

fn by(holder: Option<&str>) -> String {
    holder.map(|holder| format!(", by {holder}")).unwrap_or_default()
}

/// The system's text without Rust's " (os error 13)".
fn errno_text(source: &io::Error) -> String {
    let text = source.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

/// `path` as one would type it in a shell, quoted only where it must be.
pub fn shell(path: &Path) -> impl fmt::Display + use<> {
    let text = path.to_string_lossy();
    let is_plain = !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+,@%".contains(c));
    if is_plain {
        text.into_owned()
    } else {
        // Control characters would act on the terminal.
        let shown: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        format!("'{}'", shown.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_refusal_have_their_own_codes_wherever_they_happen() {
        for (errno, exit) in [
            (libc::ENOSPC, Exit::DiskFull),
            (libc::EDQUOT, Exit::DiskFull),
            (libc::EACCES, Exit::NoPermission),
            (libc::EROFS, Exit::NoPermission),
            (libc::EIO, Exit::Internal),
        ] {
            let error = CliError::io("write it", io::Error::from_raw_os_error(errno));
            assert_eq!(error.exit(), exit);
            assert!(!error.hint().is_empty());
        }
    }

    #[test]
    fn a_report_is_two_lines_whatever_the_path_holds() {
        let error = CliError::MountpointMissing(PathBuf::from("a\n\x1b[31m'b"));
        let report = error.report();
        assert_eq!(report.lines().count(), 2, "{report}");
        assert!(!report.contains('\x1b'));
    }

    #[test]
    fn the_systems_text_is_given_without_rusts_suffix() {
        let error = CliError::io("open it", io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(error.to_string(), "open it: permission denied");
    }
}
