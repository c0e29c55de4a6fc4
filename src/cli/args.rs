//! The command line as it is written: types for clap, and nothing decided. `plan` turns it into
//! what is meant.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use super::exit;
use super::size;

const ABOUT: &str = "An encrypted filesystem that never tears a file.

A directory of ciphertext, the vault, is mounted as an ordinary directory. After a crash or a power \
cut every file is wholly its last committed version, or wholly the next one.";

const EXAMPLES: &str = "Example:
  akasha init ~/vault
  akasha mount ~/vault ~/plain
  cp report.odt ~/plain/
  akasha umount ~/plain
";

const PASSWORDS: &str = "Passwords:
  A password comes from the terminal, or from --password-file, or from
  --password-command, or from standard input when that is no terminal: never
  from an argument or an environment variable, which other users can see. It is
  a string of 1 to 4096 bytes, not necessarily UTF-8. One newline at the end of
  a file or of a command's output is not part of it; on standard input it ends
  at the first newline.
";

const TWO_PASSWORDS: &str =
    "  Where both come from standard input, the first line is the current one and
  the second line the new one.
";

/// `akasha …`
#[derive(Debug, Parser)]
#[command(
    name = "akasha",
    version,
    about = "An encrypted filesystem that never tears a file",
    long_about = ABOUT,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n{PASSWORDS}\n{}", exit::table()),
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new, empty vault
    #[command(after_long_help = PASSWORDS)]
    Init(InitArgs),
    /// Mount a vault as a directory
    #[command(after_long_help = PASSWORDS)]
    Mount(MountArgs),
    /// Unmount, and wait until everything is committed
    #[command(visible_alias = "unmount")]
    Umount(UmountArgs),
    /// Change the password
    ///
    /// Only the key slot that the old password opens is written, in one atomic step; no file is encrypted anew.
    /// Whoever knew the old password and kept a copy of the old vault.toml can still open the vault with it.
    #[command(after_long_help = format!("{PASSWORDS}{TWO_PASSWORDS}"))]
    Passwd(PasswdArgs),
    /// Show what a vault is made of
    ///
    /// Without the password these are the claims of a file that anybody with access to the vault could have written;
    /// with it (--verify, --password-file or --password-command) they are proved.
    #[command(after_long_help = PASSWORDS)]
    Info(InfoArgs),
    /// Check that everything in a vault authenticates
    ///
    /// Reads all of it and changes nothing; the vault may be mounted. Prints a line for each finding, with the plaintext
    /// path, and a summary.
    #[command(after_long_help = PASSWORDS)]
    Check(CheckArgs),
}

/// Where the password comes from.
#[derive(Args, Debug, Default)]
pub struct PasswordArgs {
    /// Read the password from FILE
    #[arg(long, value_name = "FILE", help_heading = "Password")]
    pub password_file: Option<PathBuf>,
    /// Read the password from what the shell command CMD prints
    #[arg(long, value_name = "CMD", conflicts_with = "password_file", help_heading = "Password")]
    pub password_command: Option<OsString>,
}

/// Where the new password comes from.
#[derive(Args, Debug, Default)]
pub struct NewPasswordArgs {
    /// Read the new password from FILE
    #[arg(long, value_name = "FILE", help_heading = "Password")]
    pub new_password_file: Option<PathBuf>,
    /// Read the new password from what the shell command CMD prints
    #[arg(
        long,
        value_name = "CMD",
        conflicts_with = "new_password_file",
        help_heading = "Password"
    )]
    pub new_password_command: Option<OsString>,
}

/// What guessing a password shall cost (Argon2id, RFC 9106).
#[derive(Args, Debug, Default)]
pub struct KdfArgs {
    /// Memory that deriving the key takes, 19MiB to 4GiB [default: 256MiB, for passwd as it is]
    #[arg(long, value_name = "SIZE", value_parser = size::parse, help_heading = "Key derivation")]
    pub argon2_memory: Option<u64>,
    /// Passes over that memory, 2 to 64 [default: 3, for passwd as it is]
    #[arg(long, value_name = "N", help_heading = "Key derivation")]
    pub argon2_passes: Option<u32>,
    /// Lanes computed in parallel, 1 to 64 [default: 4, for passwd as it is]
    #[arg(long, value_name = "N", help_heading = "Key derivation")]
    pub argon2_lanes: Option<u32>,
}

/// How much key derivation is accepted.
#[derive(Args, Debug, Default)]
pub struct CostArgs {
    /// Accept a key derivation of more than 16 GiB (memory times passes)
    #[arg(long, help_heading = "Key derivation")]
    pub allow_costly_kdf: bool,
}

/// `akasha init`
#[derive(Args, Debug)]
pub struct InitArgs {
    /// The vault: a directory that is empty or does not exist yet
    pub vault: PathBuf,
    /// How contents are encrypted: chacha20-poly1305, aes-256-gcm (fastest on most machines), or
    /// aes-256-gcm-siv (for virtual machines that are snapshotted while the vault is mounted)
    #[arg(long, value_name = "CIPHER", default_value = "chacha20-poly1305")]
    pub cipher: String,
    /// Unit of encryption: a power of two, 4KiB to 1MiB
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = size::parse)]
    pub block_size: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub kdf: KdfArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cost: CostArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub password: PasswordArgs,
}

/// `akasha mount`
#[derive(Args, Debug)]
pub struct MountArgs {
    /// The vault's directory
    pub vault: PathBuf,
    /// Where its plaintext shall appear: an empty directory
    pub mountpoint: PathBuf,
    /// Stay in the foreground and log to standard error
    #[arg(short, long)]
    pub foreground: bool,
    /// Change nothing, neither in the mount nor in the vault
    #[arg(short, long)]
    pub read_only: bool,
    /// Let other users in (needs user_allow_other in /etc/fuse.conf unless root mounts)
    #[arg(long)]
    pub allow_other: bool,
    /// Commit a closed file within SECONDS (fractions such as 0.1 are fine), or make close itself durable
    /// [default: 5]
    #[arg(long, value_name = "SECONDS|close")]
    pub commit: Option<String>,
    /// Commit a file that stays open for writing SECONDS after its first uncommitted change [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub commit_open: Option<String>,
    /// Mount options as mount(8) passes them, separated by commas
    ///
    /// ro, rw, atime, noatime, relatime, strictatime, diratime, nodiratime, suid, nosuid, dev, nodev, exec, noexec, sync,
    /// async, dirsync, allow_other, allow_root, default_permissions, nonempty, foreground, commit=, commit-open=,
    /// password-file=, log-level=. uid=, gid=, umask=, fmask= and dmask= show everything with this owner and group and
    /// without these permission bits. What only concerns mount(8) and fstab is ignored: defaults, auto, noauto, user, users,
    /// nouser, owner, group, nofail, lazytime, _netdev, comment=, x-*. With remount, root changes ro, rw, suid, dev, exec
    /// and sync of a mount that stands, as mount -o remount does.
    #[arg(short, value_name = "OPTIONS", num_args = 1, allow_hyphen_values = true)]
    pub options: Vec<OsString>,
    /// The options are all that mount(8) has, and lack those that it takes for the usual ones.
    #[arg(long, hide = true)]
    pub by_mount_8: bool,
    /// What is logged: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: log::LevelFilter,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cost: CostArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub password: PasswordArgs,
}

/// `akasha umount`
#[derive(Args, Debug)]
pub struct UmountArgs {
    /// Where the vault is mounted
    pub mountpoint: PathBuf,
    /// Take the mount out of the tree at once, and let it end when its last file is closed; does not wait for that
    #[arg(short, long, short_alias = 'z')]
    pub lazy: bool,
}

/// `akasha passwd`
#[derive(Args, Debug)]
pub struct PasswdArgs {
    /// The vault's directory; it may be mounted
    pub vault: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub kdf: KdfArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cost: CostArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub password: PasswordArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub new_password: NewPasswordArgs,
}

/// `akasha info`
#[derive(Args, Debug)]
pub struct InfoArgs {
    /// The vault's directory
    pub vault: PathBuf,
    /// Ask for the password and prove what is shown
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cost: CostArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub password: PasswordArgs,
}

/// `akasha check`
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The vault's directory; it may be mounted, but not to be repaired
    pub vault: PathBuf,
    /// Move what cannot be read to lost+found, save what can be of it, mend what can be mended; delete nothing
    #[arg(long)]
    pub repair: bool,
    /// Print one JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
    /// Print what was found and nothing else: no progress, no summary
    #[arg(long, short)]
    pub quiet: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cost: CostArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub password: PasswordArgs,
}

/// The arguments that clap shall see. Called as `mount.akasha` or `mount.fuse.akasha` (a link that mount(8) looks for),
/// the program is `akasha mount`, and mount(8)'s own flags are dropped: `-n` and `-v` mean nothing here, `-s`
/// asks for tolerance that would hide a misspelt option, `-t` repeats the type. mount.fuse3(8), which mount(8) calls for the type
/// `fuse.akasha` where there is no such link, names no command: what it gives first is a path.
pub fn normalise(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let is_helper = is_helper(&args);
    if is_helper {
        args.retain(|arg| !matches!(arg.to_str(), Some("-n" | "-v" | "-s")));
        if let Some(at) = args.iter().position(|arg| arg == "-t") {
            args.drain(at..args.len().min(at + 2));
        }
    }
    let is_called_by_fuse =
        !is_helper && args.get(1).is_some_and(|first| first.as_bytes().contains(&b'/'));
    if is_called_by_fuse {
        args = args.iter().map(|arg| without_appended(arg)).collect();
    }
    if is_helper || is_called_by_fuse {
        args.splice(1..1, ["mount", "--by-mount-8"].map(OsString::from));
    }
    args
}

/// Called by the name of one of the links that mount(8) looks for.
fn is_helper(args: &[OsString]) -> bool {
    let name = args.first().and_then(|name| Path::new(name).file_name()?.to_str());
    matches!(name, Some("mount.akasha" | "mount.fuse.akasha"))
}

/// Whether mount(8) only rehearses (`mount --fake`): nothing is to be done then.
pub fn is_rehearsal(args: &[OsString]) -> bool {
    is_helper(args) && args.iter().any(|arg| arg == "-f")
}

/// An option list without the `dev` and `suid` that mount.fuse3(8) puts at the end where it was not told nodev and nosuid:
/// nobody asked for them. Those that somebody did ask for stand there once more.
fn without_appended(list: &OsStr) -> OsString {
    let mut bytes = list.as_bytes();
    for word in [&b"suid"[..], b"dev"] {
        if let Some(before) = bytes.strip_suffix(word)
            && (before.is_empty() || before.ends_with(b","))
        {
            bytes = before.strip_suffix(b",").unwrap_or(before);
        }
    }
    OsStr::from_bytes(bytes).to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn called_by_mount_8_it_mounts() {
        let args = ["/sbin/mount.akasha", "/v", "/m", "-n", "-v", "-o", "rw,noauto"];
        let line = normalise(args.iter().map(OsString::from));
        let parsed = CommandLine::try_parse_from(line).unwrap();
        let Command::Mount(mount) = parsed.command else { panic!("not a mount") };
        assert_eq!(mount.mountpoint, PathBuf::from("/m"));
        assert_eq!(mount.options, ["rw,noauto"]);
        let rehearsal =
            |args: &[&str]| is_rehearsal(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(rehearsal(&["/sbin/mount.akasha", "/v", "/m", "-f", "-o", "rw"]));
        assert!(!rehearsal(&args) && !rehearsal(&["akasha", "mount", "-f", "/v", "/m"]));
    }

    #[test]
    fn called_by_mount_fuse_it_mounts_and_is_given_no_devices_unasked() {
        for (given, meant) in [
            ("ro,dev,suid", "ro"),
            ("dev,suid", ""),
            ("suid,dev,suid", "suid"),
            ("dev,suid,dev,suid", "dev,suid"),
            ("noexec,suid", "noexec"),
            ("ro,dev", "ro"),
            ("ro,nosuid,nodev", "ro,nosuid,nodev"),
        ] {
            let args = ["akasha", "/v", "/m", "-o", given];
            let line = normalise(args.iter().map(OsString::from));
            let parsed = CommandLine::try_parse_from(line).unwrap();
            let Command::Mount(mount) = parsed.command else { panic!("not a mount") };
            assert_eq!((mount.vault, mount.mountpoint), ("/v".into(), "/m".into()));
            assert_eq!(mount.options, [meant]);
        }
    }

    #[test]
    fn no_option_takes_a_password_itself() {
        let mut all = CommandLine::command();
        all.build();
        for sub in all.get_subcommands() {
            assert!(sub.get_arguments().all(|arg| arg.get_long() != Some("password")));
        }
    }
}
