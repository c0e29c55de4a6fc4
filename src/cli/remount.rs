//! `akasha mount … -o remount,…`, which is what mount(8) calls for `mount -o remount,ro MOUNTPOINT`. The kernel's own flags
//! can change while the mount stands; what the daemon goes by (owners, masks, access times, intervals) cannot.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::backing::remount::{RemountFlags, remount};

use super::args::MountArgs;
use super::error::{CliError, Result};
use super::mountinfo::Mount;
use super::umount;

/// What is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemountPlan {
    /// The vault, or what the mount table names as the source.
    source: PathBuf,
    mountpoint: PathBuf,
    /// The words of all `-o`, in their order.
    words: Vec<OsString>,
    read_only: bool,
    by_mount_8: bool,
}

impl RemountPlan {
    /// `None` if the options do not hold `remount`.
    pub fn new(args: &MountArgs) -> Option<Self> {
        let lists = args.options.iter().map(|list| list.as_bytes());
        let words: Vec<OsString> = lists
            .flat_map(|list| list.split(|&byte| byte == b','))
            .map(|word| std::ffi::OsStr::from_bytes(word).to_owned())
            .collect();
        words.iter().any(|word| word == "remount").then(|| RemountPlan {
            source: args.vault.clone(),
            mountpoint: args.mountpoint.clone(),
            words,
            read_only: args.read_only,
            by_mount_8: args.by_mount_8,
        })
    }

    /// The flags that `mount` shall have. mount(8) gives all options of fstab or of the mount table and then those that
    /// were asked for, so what is no flag is passed over; what is and cannot be changed must be as it is. It leaves `exec`,
    /// `async`, `suid` and `dev` out: the first two are meant by that, but nobody gets set-id programs and devices for it.
    ///
    /// # Errors
    /// [`CliError::Usage`] for another kind of access times.
    fn flags(&self, mount: &Mount) -> Result<RemountFlags> {
        let mut flags = RemountFlags {
            read_only: mount.read_only,
            no_suid: mount.has("nosuid"),
            no_dev: mount.has("nodev"),
            no_exec: !self.by_mount_8 && mount.has("noexec"),
            sync: !self.by_mount_8 && mount.has("sync"),
        };
        let (mut no_atime, mut no_dir_atime) = (mount.has("noatime"), mount.has("nodiratime"));
        let before = (no_atime, no_dir_atime);
        for word in &self.words {
            match word.as_bytes() {
                b"ro" => flags.read_only = true,
                b"rw" => flags.read_only = false,
                b"suid" => flags.no_suid = false,
                b"nosuid" => flags.no_suid = true,
                b"dev" => flags.no_dev = false,
                b"nodev" => flags.no_dev = true,
                b"exec" => flags.no_exec = false,
                b"noexec" => flags.no_exec = true,
                b"sync" => flags.sync = true,
                b"async" => flags.sync = false,
                b"atime" | b"relatime" | b"strictatime" => no_atime = false,
                b"noatime" => no_atime = true,
                b"diratime" => no_dir_atime = false,
                b"nodiratime" => no_dir_atime = true,
                _ => {}
            }
        }
        flags.read_only |= self.read_only;
        if before != (no_atime, no_dir_atime) {
            return Err(CliError::usage(
                "how access times are kept cannot change while the vault is mounted",
                "unmount it, and mount it with the other option",
            ));
        }
        Ok(flags)
    }
}

/// Changes the flags of a mount that stands.
///
/// # Errors
/// [`CliError::NotMounted`]; [`CliError::Busy`] if it is to become read-only and files are open for writing;
/// [`CliError::Usage`] for what cannot change; `NotAllowed` for who is not root.
pub fn run(plan: &RemountPlan) -> Result<()> {
    let (path, mount) = umount::find(&plan.mountpoint)?;
    let vault = mount.vault().ok_or_else(|| CliError::NotMounted(plan.mountpoint.clone()))?;
    if plan.source.as_os_str() != mount.source
        && fs::canonicalize(&plan.source).ok() != Some(vault.clone())
    {
        return Err(CliError::usage(
            format!("what is mounted on {:?} is not {:?}", plan.mountpoint, plan.source),
            format!("it is {vault:?}"),
        ));
    }
    let flags = plan.flags(&mount)?;
    if mount.read_only && !flags.read_only && !umount::has_writer(&vault)? {
        return Err(CliError::usage(
            format!("{vault:?} was mounted read-only and cannot be made writable as it is"),
            "unmount it, and mount it without ro",
        ));
    }
    remount(&path, flags).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => CliError::NotAllowed {
            what: "only root may change the flags of a mount".to_owned(),
            hint: "unmount it, and mount it with the other options".to_owned(),
        },
        Some(libc::EBUSY) => CliError::Busy(plan.mountpoint.clone()),
        _ => CliError::io(format!("cannot remount {:?}", plan.mountpoint), error),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Command, CommandLine, normalise};

    fn plan(args: &[&str]) -> Option<RemountPlan> {
        let line = normalise(args.iter().map(OsString::from));
        match CommandLine::try_parse_from(line).unwrap().command {
            Command::Mount(args) => RemountPlan::new(&args),
            _ => panic!("not a mount"),
        }
    }

    fn mount(options: &str, read_only: bool) -> Mount {
        Mount {
            mountpoint: "/m".into(),
            fs_type: "fuse.akasha".to_owned(),
            source: "akasha:/v".into(),
            read_only,
            options: options.to_owned(),
        }
    }

    #[test]
    fn what_mount_8_calls_is_understood() {
        let all = "rw,nosuid,nodev,relatime,user_id=0,group_id=0,default_permissions,remount,ro";
        for args in [
            &["mount.fuse.akasha", "akasha:/v", "/m", "-n", "-o", all, "-t", "fuse.akasha"][..],
            &["akasha", "akasha:/v", "/m", "-o", all],
            &["akasha", "mount", "/v", "/m", "-o", "remount", "-o", "ro"],
            &["akasha", "mount", "/v", "/m", "-o", "remount", "--read-only"],
        ] {
            let flags = plan(args).unwrap().flags(&mount("rw,nosuid,nodev,relatime", false));
            let expected =
                RemountFlags { read_only: true, no_suid: true, no_dev: true, ..Default::default() };
            assert_eq!(flags.unwrap(), expected, "{args:?}");
        }
        assert_eq!(plan(&["akasha", "mount", "/v", "/m", "-o", "ro,x-remount"]), None);
    }

    #[test]
    fn flags_that_are_not_named_stay_and_the_last_word_counts() {
        let flags = |words: &str, mount: &Mount| {
            let words = format!("remount,{words}");
            plan(&["akasha", "mount", "/v", "/m", "-o", &words]).unwrap().flags(mount)
        };
        let standing = mount("ro,noexec,nosuid,noatime rw,sync", true);
        let now = flags("", &standing).unwrap();
        assert!(now.read_only && now.no_exec && now.no_suid && now.sync && !now.no_dev);
        let called = ["mount.akasha", "/v", "/m", "-o", "rw,nosuid,noatime,remount"];
        let now = plan(&called).unwrap().flags(&standing).unwrap();
        assert_eq!(now, RemountFlags { no_suid: true, ..RemountFlags::default() });
        let now = flags("rw,exec,suid,nodev,dev,async,noatime,commit=1", &standing).unwrap();
        assert_eq!(now, RemountFlags::default());
        for word in ["relatime", "atime", "nodiratime", "rw,strictatime"] {
            assert!(flags(word, &standing).is_err(), "{word}");
        }
    }
}
