//! The end of a mount: umount2(2), and whether its daemon still lives.

use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// Unmounts what is mounted on `path`, never through a symbolic link in its last component. What the kernel
/// holds dirty has been handed to the filesystem's daemon on return, if `is_lazy` is false; what the daemon makes of it
/// is not waited for. Lazily: out of the tree at once, gone with its last user.
///
/// # Errors
/// `EPERM` for an unprivileged process; `EBUSY` if it is in use; `EINVAL` if nothing is mounted there.
pub fn unmount(path: &Path, is_lazy: bool) -> io::Result<()> {
    let lazy = if is_lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    Ok(rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | lazy)?)
}

/// Whether `path` is a FUSE mount whose daemon is gone. Asked by statfs, which the kernel never answers from memory,
/// as it may stat.
pub fn is_dead_mount(path: &Path) -> bool {
    matches!(rustix::fs::statfs(path), Err(Errno::NOTCONN | Errno::CONNABORTED))
}
