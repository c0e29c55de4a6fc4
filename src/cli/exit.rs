//! Exit codes. They are API: a number keeps its meaning for ever, new ones are appended.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | a system call failed, or a bug |
//! | 2 | the command line is wrong |
//! | 3 | wrong password |
//! | 4 | no usable password could be read |
//! | 5 | no vault there |
//! | 6 | the vault is damaged |
//! | 7 | the vault has a format that this akasha does not know |
//! | 8 | deriving the key would cost too much here |
//! | 9 | the vault is in use: mounted, or being changed |
//! | 10 | init: the place is taken |
//! | 11 | the mountpoint does not exist |
//! | 12 | the mountpoint is not a directory |
//! | 13 | the mountpoint is not empty |
//! | 14 | something is mounted on the mountpoint already |
//! | 15 | umount: no akasha mount there |
//! | 16 | umount: the mount is in use |
//! | 17 | FUSE is missing: fusermount3 or /dev/fuse |
//! | 18 | no permission |
//! | 19 | no space left |
//! | 20 | check: something in the vault is damaged |

use std::fmt::Write;

/// How the program ends. The discriminant is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// A system call failed, or a bug.
    Internal = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No key slot opens with this password.
    WrongPassword = 3,
    /// No usable password could be read.
    NoPassword = 4,
    /// There is no vault in that place.
    NotAVault = 5,
    /// The vault's configuration or skeleton does not hold together.
    Damaged = 6,
    /// The vault needs another version of akasha.
    Unsupported = 7,
    /// The key derivation asks for more than this machine should give.
    TooCostly = 8,
    /// The vault is mounted, or its configuration is being changed, by somebody else.
    InUse = 9,
    /// `init` found something in the place of the vault.
    Taken = 10,
    /// The mountpoint does not exist.
    MountpointMissing = 11,
    /// The mountpoint is not a directory.
    MountpointNotDirectory = 12,
    /// The mountpoint has entries.
    MountpointNotEmpty = 13,
    /// Something is mounted there already.
    MountpointInUse = 14,
    /// `umount` found no akasha mount.
    NotMounted = 15,
    /// `umount` found open files or working directories.
    Busy = 16,
    /// fusermount3 or /dev/fuse is missing.
    FuseMissing = 17,
    /// The system refused for want of permission.
    NoPermission = 18,
    /// No space, or no quota, left.
    DiskFull = 19,
    /// `check` found damage.
    DamageFound = 20,
}

/// Every code with its meaning, in order.
const TABLE: [(Exit, &str); 20] = [
    (Exit::Internal, "a system call failed, or a bug"),
    (Exit::Usage, "the command line is wrong"),
    (Exit::WrongPassword, "wrong password"),
    (Exit::NoPassword, "no usable password could be read"),
    (Exit::NotAVault, "no vault there"),
    (Exit::Damaged, "the vault is damaged"),
    (Exit::Unsupported, "the vault has a format that this akasha does not know"),
    (Exit::TooCostly, "deriving the key would cost too much here"),
    (Exit::InUse, "the vault is in use: mounted, or being changed"),
    (Exit::Taken, "init: the place is taken"),
    (Exit::MountpointMissing, "the mountpoint does not exist"),
    (Exit::MountpointNotDirectory, "the mountpoint is not a directory"),
    (Exit::MountpointNotEmpty, "the mountpoint is not empty"),
    (Exit::MountpointInUse, "something is mounted on the mountpoint already"),
    (Exit::NotMounted, "umount: no akasha mount there"),
    (Exit::Busy, "umount: the mount is in use"),
    (Exit::FuseMissing, "FUSE is missing: fusermount3 or /dev/fuse"),
    (Exit::NoPermission, "no permission"),
    (Exit::DiskFull, "no space left"),
    (Exit::DamageFound, "check: something in the vault is damaged"),
];

impl Exit {
    /// The process exit code, 1..=20.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The exit of that code, `None` for 0 and for codes without a meaning.
    pub fn from_code(code: u8) -> Option<Exit> {
        TABLE.iter().map(|&(exit, _)| exit).find(|exit| exit.code() == code)
    }
}

/// The table of all codes, one a line, for `--help`.
pub fn table() -> String {
    let mut text = String::from("Exit codes:\n   0  done\n");
    for (exit, meaning) in TABLE {
        let _ = writeln!(text, "  {:>2}  {meaning}", exit.code());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_frozen_and_have_no_gaps() {
        let codes: Vec<u8> = TABLE.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!(codes, (1..=20).collect::<Vec<u8>>());
        for code in codes {
            assert_eq!(Exit::from_code(code).map(Exit::code), Some(code));
        }
        assert_eq!(Exit::from_code(0), None);
        assert_eq!(Exit::from_code(21), None);
    }

    #[test]
    fn the_module_text_and_the_help_say_the_same() {
        let source = include_str!("exit.rs");
        for (exit, meaning) in TABLE {
            let row = format!("//! | {} | {meaning} |", exit.code());
            assert!(source.lines().any(|line| line == row), "missing: {row}");
        }
    }
}
