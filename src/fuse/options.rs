//! How to mount. The words of `-o` are read by `cli::plan`.

use std::time::Duration;

use crate::fs::View;

/// The options of a mount that concern the kernel's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// What the mount table shows as the source, after `akasha:`; the vault's path.
    pub source: String,
    /// No changes through this mount.
    pub read_only: bool,
    /// Every user may enter (mode bits decide what they may do).
    pub allow_other: bool,
    /// Root may enter beside the owner.
    pub allow_root: bool,
    /// Set-id bits of the mount's files count. Only root may ask.
    pub suid: bool,
    /// Device files of the mount are devices. Only root may ask.
    pub dev: bool,
    /// Nothing in the mount may be executed.
    pub no_exec: bool,
    /// What of owners, modes and access times is shown.
    pub view: View,
    /// Every write is synchronous.
    pub sync: bool,
    /// Every change of names is synchronous.
    pub dir_sync: bool,
    /// close(2) waits until the file is committed: flushes go to workers.
    pub commit_on_close: bool,
    /// Event loops, at least 1: as many requests as may be busy at once with more than a moment's work.
    pub event_loops: usize,
    /// Read-ahead to ask of the kernel, in KiB; 0 leaves the kernel's 128. Works for root only.
    pub read_ahead_kib: u32,
    /// How long the kernel may keep names and attributes. Everything changes through the mount, so long.
    pub cache_time: Duration,
    /// How long a busy mount may go on after a signal asked it to end.
    pub grace: Duration,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            source: String::new(),
            read_only: false,
            allow_other: false,
            allow_root: false,
            suid: false,
            dev: false,
            no_exec: false,
            view: View::default(),
            sync: false,
            dir_sync: false,
            commit_on_close: false,
            event_loops: 4,
            read_ahead_kib: 4096,
            cache_time: Duration::from_hours(24),
            grace: Duration::from_secs(10),
        }
    }
}
