//! Making and ending the mount: mount(2) where that is allowed, else the set-uid helper `fusermount3`
//! (fusermount3(1); its protocol: the descriptor of /dev/fuse comes over the socket named in
//! `_FUSE_COMMFD`).

use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::process::{getegid, geteuid};

use super::options::MountOptions;

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
/// Where else than in PATH the helper is looked for.
const HELPER_PLACES: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"];
const FS_TYPE: &str = "fuse.akasha";
const SUBTYPE: &str = "akasha";

/// Why a mount could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mountpoint does not exist.
    #[error("the mountpoint {} does not exist", .0.display())]
    Missing(PathBuf),
    /// The mountpoint is no directory.
    #[error("the mountpoint {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The mountpoint cannot be looked at or entered.
    #[error("cannot access the mountpoint {}", .path.display())]
    Inaccessible {
        /// The mountpoint.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Another mount of this filesystem stands on the mountpoint and is alive.
    #[error("{} is a mounted vault already", .0.display())]
    Occupied(PathBuf),
    /// The mountpoint is a FUSE mount whose daemon has died, and it cannot be detached.
    #[error("the mountpoint {} is a dead mount", .0.display())]
    Dead(PathBuf),
    /// There is no /dev/fuse: the kernel has no FUSE, or its module is not loaded.
    #[error("{DEVICE} does not exist")]
    NoDevice,
    /// /dev/fuse cannot be opened.
    #[error("cannot open {DEVICE}")]
    Device(#[source] io::Error),
    /// Ordinary users mount through `fusermount3`, which is not installed.
    #[error("{HELPER} was not found")]
    NoHelper,
    /// `fusermount3` refused; its words.
    #[error("{HELPER}: {0}")]
    Refused(String),
    /// `fusermount3` refused: `allow_other` and `allow_root` need `user_allow_other` in /etc/fuse.conf.
    #[error("allow_other is not allowed to users")]
    AllowOtherRefused,
    /// mount(2) failed.
    #[error("cannot mount on {}", .path.display())]
    Failed {
        /// The mountpoint.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// A mount that was made: the device to serve it through, and how to end it.
pub(super) struct Mounted {
    /// The open /dev/fuse.
    pub device: OwnedFd,
    pub point: MountPoint,
}

/// The absolute path of a mountpoint, without symbolic links.
#[derive(Clone, Debug)]
pub(super) struct MountPoint(PathBuf);

/// What stands on a mountpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// No mount of this filesystem.
    Free,
    /// One whose daemon is gone.
    Dead,
    /// One that answers.
    Alive,
}

impl MountPoint {
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes the mount out of the tree. A busy one is an error (`EBUSY`) unless `lazy`: then it is detached
    /// and ends with its last user.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        let flags = UnmountFlags::NOFOLLOW
            | if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        match rustix::mount::unmount(&self.0, flags) {
            Ok(()) => Ok(()),
            Err(Errno::PERM) => self.unmount_by_helper(lazy),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Detaches the mount if it is one of this filesystem's that nobody serves any more.
    pub fn detach_if_dead(&self) {
        if self.state() == Standing::Dead
            && let Err(error) = self.unmount(true)
        {
            log::warn!("the dead mount cannot be detached: {error}");
        }
    }

    /// What stands on the path.
    fn state(&self) -> Standing {
        if top_mount_type(&self.0).as_deref() != Some(FS_TYPE) {
            return Standing::Free;
        }
        // Unlike stat, which the kernel may answer from memory, this asks the daemon.
        match rustix::fs::statfs(&self.0) {
            Err(Errno::NOTCONN | Errno::CONNABORTED) => Standing::Dead,
            Ok(_) | Err(_) => Standing::Alive,
        }
    }

    fn unmount_by_helper(&self, lazy: bool) -> io::Result<()> {
        let helper = find_helper().ok_or(io::ErrorKind::NotFound)?;
        let mut command = Command::new(helper);
        command.arg("-u").arg("-q").args(lazy.then_some("-z")).arg("--").arg(&self.0);
        let output = command.stdin(Stdio::null()).stdout(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(());
        }
        // The helper tells in words only; busy is what it is about when the mount is ours.
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }
}

/// Mounts on `point`. Nothing answers there until the device is served.
///
/// A dead mount of this filesystem that an earlier daemon left on `point` is detached first.
pub(super) fn mount(point: &Path, options: &MountOptions) -> Result<Mounted, MountError> {
    let point = checked_mountpoint(point)?;
    match mount_directly(&point, options)? {
        Some(device) => Ok(Mounted { device, point }),
        None => mount_by_helper(&point, options).map(|device| Mounted { device, point }),
    }
}

/// Whether another event loop can open its own clone of the device.
pub(super) fn can_open_device() -> bool {
    open_device().is_ok()
}

fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(DEVICE)
}

fn checked_mountpoint(path: &Path) -> Result<MountPoint, MountError> {
    let inaccessible = |source| Err(MountError::Inaccessible { path: path.to_owned(), source });
    let point = match resolved(path) {
        Ok(point) => point,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::Missing(path.to_owned()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(MountError::NotADirectory(path.to_owned()));
        }
        Err(error) => return inaccessible(error),
    };
    match point.state() {
        Standing::Free => {}
        Standing::Dead => detach_dead(&point)?,
        Standing::Alive => return Err(MountError::Occupied(path.to_owned())),
    }
    match std::fs::metadata(point.path()) {
        Ok(found) if found.is_dir() => Ok(point),
        Ok(_) => Err(MountError::NotADirectory(path.to_owned())),
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            Err(MountError::Dead(path.to_owned()))
        }
        Err(error) => inaccessible(error),
    }
}

/// The path without symbolic links. Of a dead mount the name itself cannot be resolved, its parent can.
fn resolved(path: &Path) -> io::Result<MountPoint> {
    match (path.canonicalize(), path.file_name()) {
        (Err(error), Some(name)) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            Ok(MountPoint(parent.unwrap_or(Path::new(".")).canonicalize()?.join(name)))
        }
        (real, _) => Ok(MountPoint(real?)),
    }
}

/// Detaches a mount of ours whose daemon is gone (G5: an unclean end needs no manual step).
fn detach_dead(point: &MountPoint) -> Result<(), MountError> {
    log::warn!("detaching the dead mount that an earlier daemon left on the mountpoint");
    point.unmount(true).map_err(|_| MountError::Dead(point.0.clone()))
}

/// The type of the topmost mount on exactly `path`, from /proc/self/mountinfo (proc_pid_mountinfo(5)).
fn top_mount_type(path: &Path) -> Option<String> {
    let table = std::fs::read("/proc/self/mountinfo").ok()?;
    let mut found = None;
    for line in table.split(|&byte| byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let Some(dash) = fields.iter().position(|field| *field == b"-") else { continue };
        if fields.len() > 4
            && unescape(fields[4]).as_bytes() == path.as_os_str().as_bytes()
            && let Some(kind) = fields.get(dash + 1)
        {
            found = Some(String::from_utf8_lossy(kind).into_owned());
        }
    }
    found
}

/// Undoes the octal escapes of a mount table (`\040` for a space).
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\').and_then(|digits| {
            digits.iter().try_fold(0u32, |sum, digit| {
                matches!(digit, b'0'..=b'7').then(|| sum * 8 + u32::from(digit - b'0'))
            })
        });
        if let Some(byte) = octal.and_then(|sum| u8::try_from(sum).ok()) {
            plain.push(byte);
            at += 4;
        } else {
            plain.push(field[at]);
            at += 1;
        }
    }
    OsString::from_vec(plain)
}

/// mount(2). `None` where only the helper may mount.
fn mount_directly(
    point: &MountPoint,
    options: &MountOptions,
) -> Result<Option<OwnedFd>, MountError> {
    let device = match open_device() {
        Ok(device) => device,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(MountError::NoDevice),
        // The helper opens it with its own rights.
        Err(_) if !geteuid().is_root() => return Ok(None),
        Err(error) => return Err(MountError::Device(error)),
    };
    let failed = |source| MountError::Failed { path: point.0.clone(), source };
    let root_mode = std::fs::metadata(&point.0).map_err(failed)?.mode() & libc::S_IFMT;
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        root_mode,
        geteuid().as_raw(),
        getegid().as_raw(),
    );
    if options.allow_other || options.allow_root {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).expect("numbers and words hold no NUL");
    let source = OsString::from(format!("akasha:{}", options.source));
    match rustix::mount::mount(&source, &point.0, FS_TYPE, flags(options), Some(data.as_c_str())) {
        Ok(()) => Ok(Some(device.into())),
        Err(Errno::PERM) => Ok(None),
        Err(errno) => Err(failed(errno.into())),
    }
}

fn flags(options: &MountOptions) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::NODEV, !options.dev);
    flags.set(MountFlags::NOEXEC, options.no_exec);
    flags.set(MountFlags::NOATIME, options.view.no_atime);
    flags.set(MountFlags::NODIRATIME, options.view.no_dir_atime);
    flags.set(MountFlags::SYNCHRONOUS, options.sync);
    flags.set(MountFlags::DIRSYNC, options.dir_sync);
    flags
}

/// The words for the helper. It refuses what an ordinary user may not have.
fn helper_words(options: &MountOptions) -> String {
    let escaped = options.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut words = format!("fsname=akasha:{escaped},subtype={SUBTYPE},default_permissions");
    let chosen = [
        (options.allow_other || options.allow_root, "allow_other"),
        (options.read_only, "ro"),
        (options.suid, "suid"),
        (!options.suid, "nosuid"),
        (options.dev, "dev"),
        (!options.dev, "nodev"),
        (options.no_exec, "noexec"),
        (options.view.no_atime, "noatime"),
        (options.sync, "sync"),
        (options.dir_sync, "dirsync"),
    ];
    for (_, word) in chosen.iter().filter(|(wanted, _)| *wanted) {
        words.push(',');
        words.push_str(word);
    }
    words
}

fn find_helper() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(HELPER_PLACES.iter().map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(HELPER))
        .find(|file| file.is_file())
}

fn mount_by_helper(point: &MountPoint, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let helper = find_helper().ok_or(MountError::NoHelper)?;
    let failed = |source| MountError::Failed { path: point.0.clone(), source };
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| failed(errno.into()))?;
    let child = Command::new(helper)
        .arg("-o")
        .arg(helper_words(options))
        .arg("--")
        .arg(&point.0)
        // The socket is the helper's standard input, so that no other descriptor has to be inherited.
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let received = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(failed)?;
    match received {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Ok(_) => {
            let said = String::from_utf8_lossy(&output.stderr);
            if said.contains("user_allow_other") {
                return Err(MountError::AllowOtherRefused);
            }
            if said.contains(DEVICE) && said.contains("Permission denied") {
                return Err(MountError::Device(io::ErrorKind::PermissionDenied.into()));
            }
            let said = said.trim();
            let said = said.split_once("fusermount3: ").map_or(said, |(_, words)| words);
            Err(MountError::Refused(said.to_owned()))
        }
        Err(error) => Err(failed(error)),
    }
}

/// The descriptor that the helper sends (unix(7), SCM_RIGHTS); `None` if it ends without.
fn receive_descriptor(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    loop {
        match rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut byte)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let mut received = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            received = descriptors.last().or(received);
        }
    }
    Ok(received)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_that_is_missing_or_a_file_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(matches!(checked_mountpoint(&missing), Err(MountError::Missing(_))));
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(checked_mountpoint(&file), Err(MountError::NotADirectory(_))));
        let beneath = file.join("x");
        assert!(matches!(checked_mountpoint(&beneath), Err(MountError::NotADirectory(_))));
        assert!(checked_mountpoint(dir.path()).is_ok());
    }

    #[test]
    fn mount_table_escapes_are_undone() {
        assert_eq!(unescape(b"/a\\040b\\134c\\"), "/a b\\c\\");
        assert_eq!(unescape(b"\\777\\09"), "\\777\\09");
    }

    #[test]
    fn the_helper_gets_commas_of_the_source_escaped() {
        let options = MountOptions { source: "/a,b\\c".to_owned(), ..MountOptions::default() };
        assert!(helper_words(&options).starts_with("fsname=akasha:/a\\,b\\\\c,subtype=akasha,"));
        assert!(helper_words(&options).ends_with("nosuid,nodev"));
    }
}
