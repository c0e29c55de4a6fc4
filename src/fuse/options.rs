//! How to mount: what `-o` may say, in this filesystem's own words.

use std::time::Duration;

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
    /// Access times are not updated.
    pub no_atime: bool,
    /// Every write is synchronous.
    pub sync: bool,
    /// Every change of names is synchronous.
    pub dir_sync: bool,
    /// close(2) waits until the file is committed: flushes go to workers.
    pub commit_on_close: bool,
    /// Event loops, at least 1.
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
            no_atime: false,
            sync: false,
            dir_sync: false,
            commit_on_close: false,
            event_loops: 2,
            read_ahead_kib: 4096,
            cache_time: Duration::from_hours(24),
            grace: Duration::from_secs(10),
        }
    }
}

/// An option that `-o` does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown mount option {0:?}")]
pub struct UnknownOption(pub String);

impl MountOptions {
    /// Applies what stands after `-o`: mount(8)'s words, separated by commas; a later one wins.
    ///
    /// # Errors
    /// The first word that is not known. Words that mount(8) and systemd pass on for themselves (`x-...`,
    /// `nofail`, `_netdev`, ...) are known and do nothing.
    pub fn apply(&mut self, words: &str) -> Result<(), UnknownOption> {
        for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            self.apply_word(word)?;
        }
        Ok(())
    }

    fn apply_word(&mut self, word: &str) -> Result<(), UnknownOption> {
        match word {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = true,
            "allow_root" => self.allow_root = true,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "exec" => self.no_exec = false,
            "noexec" => self.no_exec = true,
            "atime" | "relatime" | "strictatime" => self.no_atime = false,
            "noatime" => self.no_atime = true,
            "sync" => self.sync = true,
            "async" => self.sync = false,
            "dirsync" => self.dir_sync = true,
            // Always so, or nothing to do with the kernel's side.
            "defaults"
            | "default_permissions"
            | "auto"
            | "noauto"
            | "user"
            | "users"
            | "nouser"
            | "nofail"
            | "_netdev" => {}
            word if word.starts_with("x-") || word.starts_with("comment=") => {}
            word => return Err(UnknownOption(word.to_owned())),
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn later_words_win_and_unknown_ones_are_named() {
        let mut options = MountOptions::default();
        options.apply("ro,allow_other,noexec,rw,x-gvfs-hide,,noatime").unwrap();
        assert!(options.allow_other && options.no_exec && options.no_atime);
        assert!(!options.read_only && !options.suid && !options.dev);
        assert_eq!(options.apply("ro,bogus=1"), Err(UnknownOption("bogus=1".to_owned())));
    }
}
