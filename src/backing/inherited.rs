//! Descriptors that this process was started with and never asked for: a lock that a script holds (flock(1)), a pipe that
//! somebody waits on. A daemon must not keep them for as long as it lives.

#![allow(unsafe_code)]

use std::os::fd::RawFd;

/// The descriptors beyond the standard three that were open when the program began.
#[derive(Debug)]
pub struct Inherited(Vec<RawFd>);

impl Inherited {
    /// Takes note of what is open. To be called before the program opens anything itself.
    pub fn note() -> Inherited {
        let listed = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
        let open: Vec<RawFd> = listed
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|&fd| fd > 2)
            .collect();
        // The listing had a descriptor of its own, which is closed by now.
        Inherited(open.into_iter().filter(|&fd| is_open(fd)).collect())
    }

    /// Closes them.
    pub fn close(self) {
        for fd in self.0 {
            // SAFETY: the descriptor was open before this program opened its first one, so no object here
            // owns it; that nothing took it over by number since is the caller's duty, as nothing here does.
            unsafe { libc::close(fd) };
        }
    }
}

fn is_open(fd: RawFd) -> bool {
    std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok()
}
