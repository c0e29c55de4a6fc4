//! What can be improved from outside once the mount stands. All of it may fail without harm.

use std::fs;

/// Raises the kernel's read-ahead of the mount on device `dev` (st_dev) to `kib`: 128 KiB, the most that the
/// protocol can negotiate, costs a third of the sequential speed. Only root may.
pub(super) fn raise_read_ahead(dev: u64, kib: u32) {
    let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", libc::major(dev), libc::minor(dev));
    match fs::write(&path, kib.to_string()) {
        Ok(()) => log::debug!("read-ahead raised to {kib} KiB"),
        Err(error) => log::debug!("read-ahead stays as it is: {error}"),
    }
}

/// Ends the kernel's connection of the mount on device `dev` at once: whoever still waits in it gets
/// `ENOTCONN`. The owner of the mount may.
pub(super) fn abort_connection(dev: u64) {
    let path = format!("/sys/fs/fuse/connections/{}/abort", libc::minor(dev));
    if let Err(error) = fs::write(&path, "1") {
        log::debug!("the connection is not aborted by hand: {error}");
    }
}
