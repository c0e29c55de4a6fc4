//! Is this directory one to mount on, and is there what mounting needs? Asked before any password, so that what
//! can be told early is. The kernel has the last word.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::backing::unmount::is_dead_mount;

use super::error::{CliError, Result};
use super::mountinfo;
use super::plan::MountFlags;

const FUSE_DEVICE: &str = "/dev/fuse";
const FUSE_CONF: &str = "/etc/fuse.conf";
/// Where fusermount3 is looked for after `PATH`.
const SYSTEM_DIRS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// `path` as the mount table names it: absolute, without symbolic links. Also for a mountpoint whose daemon has died,
/// which cannot be asked anything.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let error = match fs::canonicalize(path) {
        Ok(resolved) => return Ok(resolved),
        Err(error) => error,
    };
    // The dead mount is the last component: its parent still answers.
    let is_dead = matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::EIO | libc::EACCES));
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if is_dead => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(fs::canonicalize(parent)?.join(name))
        }
        _ => Err(error),
    }
}

/// The mountpoint, resolved, if a vault (resolved too) can be mounted on it.
pub fn check(path: &Path, vault: &Path, flags: &MountFlags) -> Result<PathBuf> {
    let resolved = resolve(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CliError::MountpointMissing(path.to_owned()),
        io::ErrorKind::NotADirectory => CliError::MountpointNotDirectory(path.to_owned()),
        _ => CliError::io(format!("cannot look at the mountpoint {path:?}"), error),
    })?;
    if resolved.starts_with(vault) {
        return Err(CliError::MountpointInVault {
            mountpoint: path.to_owned(),
            vault: vault.to_owned(),
        });
    }
    let mounts = mountinfo::all().map_err(|e| CliError::io("cannot read the mount table", e))?;
    if let Some(mount) = mountinfo::at(&mounts, &resolved) {
        // What a killed daemon left is detached when mounting: no manual step (G5).
        if mount.vault().is_some() && is_dead_mount(&resolved) {
            return Ok(resolved);
        }
        // An empty volume, say of a container, may be mounted over when asked to; another vault's plaintext may not.
        if mount.vault().is_some() || !flags.nonempty {
            return Err(CliError::MountpointInUse {
                mountpoint: path.to_owned(),
                source_name: PathBuf::from(&mount.source),
            });
        }
    }
    let cannot = |error| CliError::io(format!("cannot look at the mountpoint {path:?}"), error);
    if !fs::metadata(&resolved).map_err(cannot)?.is_dir() {
        return Err(CliError::MountpointNotDirectory(path.to_owned()));
    }
    if !flags.nonempty && fs::read_dir(&resolved).map_err(cannot)?.next().is_some() {
        return Err(CliError::MountpointNotEmpty(path.to_owned()));
    }
    Ok(resolved)
}

/// What this user needs for mounting with these flags is there and allowed.
pub fn check_fuse(is_root: bool, flags: &MountFlags) -> Result<()> {
    match fs::metadata(FUSE_DEVICE) {
        Ok(metadata) if metadata.file_type().is_char_device() => {}
        Ok(_) => return Err(no_fuse()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_fuse()),
        Err(error) => return Err(CliError::io(format!("cannot look at {FUSE_DEVICE}"), error)),
    }
    if !is_root {
        check_user(flags)?;
    }
    match OpenOptions::new().read(true).write(true).open(FUSE_DEVICE) {
        Ok(_) => Ok(()),
        Err(error) => Err(device_error(error)),
    }
}

/// What ordinary users need beside the device.
fn check_user(flags: &MountFlags) -> Result<()> {
    if flags.suid || flags.dev {
        return Err(CliError::NotAllowed {
            what: "only root may mount with suid or dev".to_owned(),
            hint: "leave these options out".to_owned(),
        });
    }
    if fusermount().is_none() {
        return Err(no_helper());
    }
    if (flags.allow_other || flags.allow_root) && !others_are_allowed(FUSE_CONF) {
        return Err(others_refused());
    }
    Ok(())
}

/// /dev/fuse is there and cannot be opened.
pub fn device_error(error: io::Error) -> CliError {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => no_fuse(),
        Some(libc::EACCES | libc::EPERM) => CliError::NotAllowed {
            what: format!("{FUSE_DEVICE} may not be opened here"),
            hint: format!(
                "have root allow it (chmod 666 {FUSE_DEVICE}), or give this container the device"
            ),
        },
        _ => CliError::io(format!("cannot open {FUSE_DEVICE}"), error),
    }
}

/// There is no /dev/fuse.
pub fn no_fuse() -> CliError {
    CliError::FuseMissing {
        what: format!("the kernel offers no FUSE: {FUSE_DEVICE} is missing"),
        hint: "load it (modprobe fuse), or give this container the device".to_owned(),
    }
}

/// There is no fusermount3.
pub fn no_helper() -> CliError {
    CliError::FuseMissing {
        what: "fusermount3 is not installed, and only root can do without it".to_owned(),
        hint: "install it (Debian: apt install fuse3), or be root".to_owned(),
    }
}

/// Users may not use allow_other and allow_root.
pub fn others_refused() -> CliError {
    CliError::NotAllowed {
        what: format!("{FUSE_CONF} does not let users open their mounts to others"),
        hint: format!("ask root to put the line user_allow_other into {FUSE_CONF}"),
    }
}

/// The set-user-id helper that mounts and unmounts for ordinary users.
pub fn fusermount() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_in(std::env::split_paths(&path).chain(SYSTEM_DIRS.map(PathBuf::from)), "fusermount3")
}

/// Relative directories of `PATH` would be the current directory's choice.
fn find_in(dirs: impl Iterator<Item = PathBuf>, name: impl AsRef<OsStr>) -> Option<PathBuf> {
    dirs.filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name.as_ref()))
        .find(|file| fs::metadata(file).is_ok_and(|metadata| metadata.is_file()))
}

/// mount.fuse3(8): a line `user_allow_other`. Where the file cannot be read, fusermount3 decides.
fn others_are_allowed(conf: &str) -> bool {
    match fs::read_to_string(conf) {
        Ok(text) => text.lines().any(|line| line.trim() == "user_allow_other"),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    fn exit_of(path: &Path, vault: &Path, flags: MountFlags) -> Option<Exit> {
        check(path, vault, &flags).err().map(|error| error.exit())
    }

    #[test]
    fn each_unfit_mountpoint_has_its_own_code() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let vault = root.join("vault");
        for name in ["vault", "vault/inside", "empty", "full", "full/x"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        fs::write(root.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("empty", root.join("link")).unwrap();
        let none = MountFlags::default();
        let nonempty = MountFlags { nonempty: true, ..none };
        for (name, flags, exit) in [
            ("empty", none, None),
            ("link", none, None),
            ("missing", none, Some(Exit::MountpointMissing)),
            ("missing/deep", none, Some(Exit::MountpointMissing)),
            ("file", none, Some(Exit::MountpointNotDirectory)),
            ("file/x", none, Some(Exit::MountpointNotDirectory)),
            ("full", none, Some(Exit::MountpointNotEmpty)),
            ("full", nonempty, None),
            ("vault", none, Some(Exit::Usage)),
            ("vault/inside", none, Some(Exit::Usage)),
        ] {
            assert_eq!(exit_of(&root.join(name), &vault, flags), exit, "{name}");
        }
        assert_eq!(check(&root.join("link"), &vault, &none).unwrap(), root.join("empty"));
    }

    #[test]
    fn a_mounted_place_is_in_use() {
        assert_eq!(
            exit_of(Path::new("/proc"), Path::new("/nonexistent"), MountFlags::default()),
            Some(Exit::MountpointInUse)
        );
    }

    #[test]
    fn a_helper_is_looked_for_in_absolute_directories_only() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tool"), "").unwrap();
        let found = find_in([PathBuf::from("."), dir.path().to_owned()].into_iter(), "tool");
        assert_eq!(found.unwrap(), dir.path().join("tool"));
        assert_eq!(find_in([PathBuf::new()].into_iter(), "tool"), None);
    }

    #[test]
    fn others_are_allowed_by_a_line_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("fuse.conf");
        let path = conf.to_str().unwrap();
        assert!(!others_are_allowed(path));
        for (text, is_allowed) in [
            ("user_allow_other\n", true),
            ("# user_allow_other\n", false),
            ("mount_max = 5\n", false),
        ] {
            fs::write(&conf, text).unwrap();
            assert_eq!(others_are_allowed(path), is_allowed, "{text}");
        }
    }
}
