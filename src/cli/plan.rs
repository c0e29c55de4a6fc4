//! What is meant by the arguments: defaults filled in, options merged, contradictions refused. Nothing here
//! touches the disk.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::format::config::KdfParams;
use crate::fs::View;
use crate::store::CommitPolicy;

use super::args::{KdfArgs, MountArgs, NewPasswordArgs, PasswordArgs};
use super::error::{CliError, Result};
use super::password::PasswordSource;
use super::size;

/// Costs of key derivation as asked for; `None` is what it is without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KdfPlan {
    memory_kib: Option<u32>,
    passes: Option<u32>,
    lanes: Option<u32>,
}

/// What `akasha mount` shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPlan {
    /// The vault, as written.
    pub vault: PathBuf,
    /// The mountpoint, as written.
    pub mountpoint: PathBuf,
    /// Where the password comes from.
    pub password: PasswordSource,
    /// Stay in the foreground.
    pub is_foreground: bool,
    /// What is logged.
    pub log_level: LevelFilter,
    /// Accept any key derivation within the format's bounds.
    pub allow_costly_kdf: bool,
    /// When closed files are committed.
    pub commit: CommitPolicy,
    /// When files that stay open are committed.
    pub commit_open: Duration,
    /// How the kernel shall mount it.
    pub flags: MountFlags,
    /// What of owners, modes and access times is shown.
    pub view: View,
}

/// How the kernel shall mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// Nothing can be written.
    pub is_read_only: bool,
    /// Other users may enter.
    pub allow_other: bool,
    /// root may enter too.
    pub allow_root: bool,
    /// Set-user-id bits count. Only root may ask.
    pub suid: bool,
    /// Device nodes work. Only root may ask.
    pub dev: bool,
    /// No program can be run from it.
    pub noexec: bool,
    /// Every write is synchronous.
    pub sync: bool,
    /// Every change of names is synchronous.
    pub dirsync: bool,
    /// The mountpoint may have entries, which are hidden then.
    pub nonempty: bool,
}

/// The source that a pair of options names.
pub fn password_source(file: Option<PathBuf>, command: Option<OsString>) -> PasswordSource {
    match (file, command) {
        // clap refuses both at once.
        (Some(path), _) => PasswordSource::File(path),
        (None, Some(command)) => PasswordSource::Command(command),
        (None, None) => PasswordSource::Ask,
    }
}

impl From<PasswordArgs> for PasswordSource {
    fn from(args: PasswordArgs) -> Self {
        password_source(args.password_file, args.password_command)
    }
}

impl From<NewPasswordArgs> for PasswordSource {
    fn from(args: NewPasswordArgs) -> Self {
        password_source(args.new_password_file, args.new_password_command)
    }
}

impl KdfPlan {
    /// Costs within the format's bounds.
    ///
    /// # Errors
    /// [`CliError::Usage`] for what is out of bounds.
    pub fn new(args: &KdfArgs) -> Result<Self> {
        let wrong = |option: &str, bounds: &str| {
            CliError::usage(
                format!("--argon2-{option} must be {bounds}"),
                "leave it out for the default (256MiB, 3 passes, 4 lanes)",
            )
        };
        let memory_kib = match args.argon2_memory {
            Some(bytes) if !bytes.is_multiple_of(1024) => {
                return Err(wrong("memory", "a multiple of 1KiB"));
            }
            Some(bytes) => {
                let bounds = KdfParams::MEMORY_KIB_MIN..=KdfParams::MEMORY_KIB_MAX;
                let kib = u32::try_from(bytes >> 10).ok().filter(|kib| bounds.contains(kib));
                Some(kib.ok_or_else(|| wrong("memory", "from 19MiB to 4GiB"))?)
            }
            None => None,
        };
        if args.argon2_passes.is_some_and(|count| !KdfParams::PASSES.contains(&count)) {
            return Err(wrong("passes", "from 2 to 64"));
        }
        if args.argon2_lanes.is_some_and(|count| !KdfParams::LANES.contains(&count)) {
            return Err(wrong("lanes", "from 1 to 64"));
        }
        Ok(KdfPlan { memory_kib, passes: args.argon2_passes, lanes: args.argon2_lanes })
    }

    /// What was asked for, and `base` where nothing was.
    pub fn over(self, base: KdfParams) -> KdfParams {
        KdfParams {
            memory_kib: self.memory_kib.unwrap_or(base.memory_kib),
            passes: self.passes.unwrap_or(base.passes),
            lanes: self.lanes.unwrap_or(base.lanes),
        }
    }
}

/// The binary logarithm of a block size, 12..=20.
///
/// # Errors
/// [`CliError::Usage`] if it is no power of two in bounds.
pub fn block_log2(block_size: u64) -> Result<u8> {
    if block_size.is_power_of_two() && (4096..=1 << 20).contains(&block_size) {
        Ok(u8::try_from(block_size.trailing_zeros()).expect("at most 20"))
    } else {
        Err(CliError::usage(
            format!("a block size of {} is not possible", size::show(block_size)),
            "give a power of two from 4KiB to 1MiB; 4KiB is right for nearly everything",
        ))
    }
}

impl MountPlan {
    /// Merges flags and `-o` options; where two contradict, the later one counts, as with mount(8).
    ///
    /// # Errors
    /// [`CliError::Usage`] naming the option that is unknown or has a wrong value.
    pub fn new(args: MountArgs) -> Result<Self> {
        let mut plan = MountPlan {
            vault: args.vault,
            mountpoint: args.mountpoint,
            password: args.password.into(),
            is_foreground: args.foreground,
            log_level: args.log_level,
            allow_costly_kdf: args.cost.allow_costly_kdf,
            commit: CommitPolicy::Interval(Duration::from_secs(5)),
            commit_open: Duration::from_mins(1),
            flags: MountFlags {
                is_read_only: args.read_only,
                allow_other: args.allow_other,
                ..MountFlags::default()
            },
            view: View::default(),
        };
        for list in &args.options {
            for option in list.as_bytes().split(|&byte| byte == b',') {
                plan.apply(option)?;
            }
        }
        if let Some(text) = &args.commit {
            plan.commit = parse_commit(text)?;
        }
        if let Some(text) = &args.commit_open {
            plan.commit_open = parse_commit_open(text)?;
        }
        if args.read_only {
            plan.flags.is_read_only = true;
        }
        if plan.flags.allow_other && plan.flags.allow_root {
            return Err(CliError::usage(
                "allow_other and allow_root exclude each other",
                "allow_other lets everybody in, root included: give one of them",
            ));
        }
        Ok(plan)
    }

    fn apply(&mut self, option: &[u8]) -> Result<()> {
        let (key, value) = match option.iter().position(|&byte| byte == b'=') {
            Some(at) => (&option[..at], Some(&option[at + 1..])),
            None => (option, None),
        };
        let flags = &mut self.flags;
        match (key, value) {
            (b"ro", None) => flags.is_read_only = true,
            (b"rw", None) => flags.is_read_only = false,
            (b"atime" | b"relatime" | b"strictatime", None) => self.view.no_atime = false,
            (b"noatime", None) => self.view.no_atime = true,
            (b"diratime", None) => self.view.no_dir_atime = false,
            (b"nodiratime", None) => self.view.no_dir_atime = true,
            (b"uid", Some(value)) => self.view.uid = Some(parse_id(key, value)?),
            (b"gid", Some(value)) => self.view.gid = Some(parse_id(key, value)?),
            (b"umask", Some(value)) => {
                self.view.file_mask = parse_mask(key, value)?;
                self.view.dir_mask = self.view.file_mask;
            }
            (b"fmask", Some(value)) => self.view.file_mask = parse_mask(key, value)?,
            (b"dmask", Some(value)) => self.view.dir_mask = parse_mask(key, value)?,
            (b"sync", None) => flags.sync = true,
            (b"async", None) => flags.sync = false,
            (b"dirsync", None) => flags.dirsync = true,
            (b"suid", None) => flags.suid = true,
            (b"nosuid", None) => flags.suid = false,
            (b"dev", None) => flags.dev = true,
            (b"nodev", None) => flags.dev = false,
            (b"exec", None) => flags.noexec = false,
            (b"noexec", None) => flags.noexec = true,
            (b"allow_other", None) => flags.allow_other = true,
            (b"allow_root", None) => flags.allow_root = true,
            (b"nonempty", None) => flags.nonempty = true,
            (b"foreground", None) => self.is_foreground = true,
            (b"commit", Some(value)) => self.commit = parse_commit(&text_of(key, value)?)?,
            (b"commit-open", Some(value)) => {
                self.commit_open = parse_commit_open(&text_of(key, value)?)?;
            }
            (b"log-level", Some(value)) => {
                self.log_level = text_of(key, value)?.parse().map_err(|_| {
                    CliError::usage(
                        "there is no such log level",
                        "use off, error, warn, info, debug or trace",
                    )
                })?;
            }
            (b"password-file", Some(value)) if !value.is_empty() => {
                if self.password != PasswordSource::Ask {
                    return Err(CliError::usage(
                        "two sources of the password are given",
                        "keep one of --password-file, --password-command and -o password-file=",
                    ));
                }
                self.password =
                    PasswordSource::File(PathBuf::from(OsString::from_vec(value.to_vec())));
            }
            // The kernel checks permissions always; what only mount(8) and fstab(5) look at; empty list items.
            (
                b"default_permissions"
                | b""
                | b"defaults"
                | b"auto"
                | b"noauto"
                | b"user"
                | b"nouser"
                | b"users"
                | b"owner"
                | b"group"
                | b"nofail"
                | b"lazytime"
                | b"nolazytime"
                | b"_netdev",
                None,
            )
            | (b"user" | b"comment", Some(_)) => {}
            _ if key.starts_with(b"x-") || key.starts_with(b"X-") => {}
            _ => {
                let name = OsStr::from_bytes(option);
                return Err(CliError::usage(
                    format!("mount option {name:?} is unknown, or has or lacks a value"),
                    "akasha mount --help lists the options after -o",
                ));
            }
        }
        Ok(())
    }
}

fn text_of(key: &[u8], value: &[u8]) -> Result<String> {
    String::from_utf8(value.to_vec()).map_err(|_| {
        CliError::usage(
            format!("the value of mount option {:?} is not text", OsStr::from_bytes(key)),
            "akasha mount --help lists the options after -o",
        )
    })
}

/// The number of a user or group. The last one means "unchanged" to chown(2) and is nobody's.
fn parse_id(key: &[u8], value: &[u8]) -> Result<u32> {
    let id = text_of(key, value)?.parse().ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| {
        CliError::usage(
            format!("{} needs the number of a user or group", OsStr::from_bytes(key).display()),
            "id -u and id -g tell your own",
        )
    })
}

/// Permission bits in octal, as umask(1) takes them.
fn parse_mask(key: &[u8], value: &[u8]) -> Result<u32> {
    let mask = u32::from_str_radix(&text_of(key, value)?, 8).ok().filter(|mask| *mask <= 0o777);
    mask.ok_or_else(|| {
        CliError::usage(
            format!("{} needs permission bits in octal", OsStr::from_bytes(key).display()),
            "for example umask=077, which shows everything without rights for group and others",
        )
    })
}

/// `close`, or seconds from 0.01 to a day.
fn parse_commit(text: &str) -> Result<CommitPolicy> {
    if text == "close" {
        return Ok(CommitPolicy::OnClose);
    }
    match parse_seconds(text) {
        Some(interval) => Ok(CommitPolicy::Interval(interval)),
        None => Err(CliError::usage(
            format!(
                "commit={text:?} is neither \"close\" nor a number of seconds from 0.01 to 86400"
            ),
            "use commit=close to have each close wait until the file is durable",
        )),
    }
}

fn parse_commit_open(text: &str) -> Result<Duration> {
    parse_seconds(text).ok_or_else(|| {
        CliError::usage(
            format!("commit-open={text:?} is no number of seconds from 0.01 to 86400"),
            "leave it out to commit files that stay open every 60 s",
        )
    })
}

/// From 0.01 to a day.
fn parse_seconds(text: &str) -> Option<Duration> {
    let seconds = text.parse::<f64>().ok()?;
    (0.01..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Command, CommandLine};

    fn plan(args: &[&str]) -> Result<MountPlan> {
        let line = ["akasha", "mount", "/v", "/m"].iter().chain(args);
        match CommandLine::try_parse_from(line).unwrap().command {
            Command::Mount(args) => MountPlan::new(args),
            _ => panic!("not a mount"),
        }
    }

    #[test]
    fn a_mount_is_safe_by_default() {
        let plan = plan(&[]).unwrap();
        assert_eq!(plan.flags, MountFlags::default());
        assert!(!plan.flags.suid && !plan.flags.dev && !plan.flags.allow_other);
        assert_eq!(plan.commit, CommitPolicy::Interval(Duration::from_secs(5)));
        assert_eq!(plan.password, PasswordSource::Ask);
        assert!(!plan.is_foreground);
    }

    #[test]
    fn option_lists_merge_and_the_later_one_counts() {
        let plan = plan(&[
            "-o",
            "ro,noatime,user=me,x-systemd.automount,X-a=b,_netdev,nofail,defaults,async,comment=c",
            "-o",
            "rw,nosuid,suid,noexec,,commit=0.1,commit-open=3,password-file=/p,foreground",
        ])
        .unwrap();
        assert!(!plan.flags.is_read_only);
        assert!(plan.flags.suid && plan.flags.noexec && !plan.flags.dev);
        assert!(plan.view.no_atime && !plan.view.no_dir_atime);
        assert_eq!(plan.commit, CommitPolicy::Interval(Duration::from_millis(100)));
        assert_eq!(plan.commit_open, Duration::from_secs(3));
        assert_eq!(plan.password, PasswordSource::File("/p".into()));
        assert!(plan.is_foreground);
    }

    #[test]
    fn owners_and_masks_are_numbers() {
        let plan = plan(&["-o", "uid=1000,gid=100,umask=077,fmask=0137"]).unwrap();
        assert_eq!((plan.view.uid, plan.view.gid), (Some(1000), Some(100)));
        assert_eq!((plan.view.file_mask, plan.view.dir_mask), (0o137, 0o077));
    }

    #[test]
    fn a_flag_beats_an_option() {
        let plan = plan(&["--read-only", "--commit", "close", "-o", "rw,commit=7"]).unwrap();
        assert!(plan.flags.is_read_only);
        assert_eq!(plan.commit, CommitPolicy::OnClose);
        assert_eq!(plan.commit_open, Duration::from_mins(1));
    }

    #[test]
    fn unknown_or_misshapen_options_are_named() {
        for option in [
            "sparkle",
            "ro=1",
            "commit",
            "commit=",
            "commit=-1",
            "commit-open=close",
            "commit-open=0",
            "commit=nan",
            "commit=inf",
            "commit=0",
            "commit=1e9",
            "log-level=loud",
            "password-file",
            "password-file=",
            "suid=yes",
            "uid=me",
            "uid=4294967295",
            "gid=-1",
            "umask",
            "umask=8",
            "dmask=1000",
            "fmask=",
        ] {
            let error = plan(&["-o", option]).unwrap_err();
            assert_eq!(error.exit(), crate::cli::exit::Exit::Usage, "{option}");
        }
        assert!(plan(&["-o", "rw,sparkle"]).unwrap_err().to_string().contains("sparkle"));
    }

    #[test]
    fn two_password_sources_are_refused() {
        assert!(plan(&["--password-file", "/a", "-o", "password-file=/b"]).is_err());
        assert!(plan(&["-o", "allow_other,allow_root"]).is_err());
    }

    #[test]
    fn block_sizes_are_powers_of_two_in_bounds() {
        for (size, log2) in [
            (4096, Some(12)),
            (1 << 20, Some(20)),
            (2048, None),
            (1 << 21, None),
            (5000, None),
            (0, None),
        ] {
            assert_eq!(block_log2(size).ok(), log2, "{size}");
        }
    }

    #[test]
    fn key_derivation_costs_have_bounds_on_both_sides() {
        let kdf = |memory, passes, lanes| {
            KdfPlan::new(&KdfArgs {
                argon2_memory: memory,
                argon2_passes: passes,
                argon2_lanes: lanes,
            })
        };
        assert!(kdf(None, None, None).is_ok());
        assert!(kdf(Some(19 << 20), Some(2), Some(1)).is_ok());
        assert_eq!(kdf(Some(4 << 30), Some(64), Some(64)).unwrap().memory_kib, Some(1 << 22));
        for (memory, passes, lanes) in [
            ((19 << 20) - 1024, 2, 1),
            ((4 << 30) + 1024, 2, 1),
            ((19 << 20) + 1, 2, 1),
            (19 << 20, 1, 1),
            (19 << 20, 65, 1),
            (19 << 20, 2, 0),
            (19 << 20, 2, 65),
        ] {
            assert!(kdf(Some(memory), Some(passes), Some(lanes)).is_err());
        }
    }
}
