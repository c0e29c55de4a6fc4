//! Other flags for a mount that stands: mount(2) with `MS_REMOUNT`.

use std::io;
use std::path::Path;

use rustix::mount::MountFlags;

/// The flags of a mount that the kernel can change without its daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemountFlags {
    /// Nothing can be written.
    pub read_only: bool,
    /// Set-id bits do not count.
    pub no_suid: bool,
    /// Device files are no devices.
    pub no_dev: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
    /// Every write is synchronous.
    pub sync: bool,
}

/// Gives the mount on `path` these flags. What it says of access times stays as it is (path_mount() in
/// fs/namespace.c), and so does what the daemon was told when it was mounted: FUSE takes no options here.
///
/// # Errors
/// `EPERM` for an unprivileged process; `EBUSY` if it is to become read-only and a file is open for writing; `EINVAL`
/// if nothing is mounted there.
pub fn remount(path: &Path, flags: RemountFlags) -> io::Result<()> {
    let mut bits = MountFlags::empty();
    bits.set(MountFlags::RDONLY, flags.read_only);
    bits.set(MountFlags::NOSUID, flags.no_suid);
    bits.set(MountFlags::NODEV, flags.no_dev);
    bits.set(MountFlags::NOEXEC, flags.no_exec);
    bits.set(MountFlags::SYNCHRONOUS, flags.sync);
    Ok(rustix::mount::mount_remount(path, bits, c"")?)
}
