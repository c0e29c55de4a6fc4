//! Whether everything in a vault authenticates. Reads all of it; takes no lock and changes nothing, so that a mounted
//! vault can be checked too.
//!
//! What is published is never written again, and older layers go only after the version that no longer refers to them is
//! durable. So a fault is real if the file is still the same one after it was found; else the file is looked at again.
//! Nothing here uses the live tree of a mount: it reads what a mount would find.

mod content;
mod inodes;
mod look;
mod walk;

use std::ops::Range;

use crate::backing::Backing;
use crate::format::OpenVault;

use super::core::VaultKeys;
use super::error::Result;

/// What kind of finding it is. The texts of [`Kind::key`] are API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A backing name that is none of this directory's.
    Name,
    /// Something in the vault that akasha did not make.
    Foreign,
    /// A directory that cannot be read.
    Directory,
    /// A file of which nothing can be trusted: its header, its map or its end do not authenticate.
    File,
    /// An older layer of a file is missing, or another one than its top refers to.
    Layer,
    /// Blocks of a file do not authenticate.
    Content,
    /// One of several names of a file: the file or the stub is missing or wrong.
    Link,
    /// An extended attribute does not authenticate.
    Attribute,
    /// Note: two devices made one name.
    Conflict,
    /// Note: what an interrupted mount left.
    Leftover,
    /// Note: the backing filesystem counts other names of a file than there are.
    LinkCount,
    /// Note: it changed every time it was looked at.
    Changing,
}

impl Kind {
    /// Its stable name.
    pub fn key(self) -> &'static str {
        match self {
            Kind::Name => "name",
            Kind::Foreign => "foreign",
            Kind::Directory => "directory",
            Kind::File => "file",
            Kind::Layer => "layer",
            Kind::Content => "content",
            Kind::Link => "link",
            Kind::Attribute => "attribute",
            Kind::Conflict => "conflict",
            Kind::Leftover => "leftover",
            Kind::LinkCount => "link-count",
            Kind::Changing => "changing",
        }
    }

    /// Whether something is lost or was tampered with; else it is a note.
    pub fn is_damage(self) -> bool {
        !matches!(self, Kind::Conflict | Kind::Leftover | Kind::LinkCount | Kind::Changing)
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The plaintext path, without a slash before it; empty for the vault's root. Of what has no plaintext name, the path
    /// of its directory and `name` tells which.
    pub path: Vec<u8>,
    /// The backing name, where there is no plaintext one.
    pub name: Option<Vec<u8>>,
    /// What kind.
    pub kind: Kind,
    /// What does not hold.
    pub why: String,
    /// Plaintext bytes that cannot be read, ascending; only for [`Kind::Content`].
    pub ranges: Vec<Range<u64>>,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files, symbolic links, fifos, sockets and devices; of files with several names each once.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Plaintext bytes that authenticated.
    pub bytes: u64,
    /// Findings that are damage.
    pub damaged: u64,
    /// Findings that are notes.
    pub notes: u64,
    /// Names that disappeared while they were looked at: the vault is in use.
    pub vanished: u64,
}

/// Reads and authenticates everything in a vault, telling `report` of each finding as it is met. Files of one
/// directory are read by up to `threads` threads.
///
/// # Errors
/// If the vault's root or control directory cannot be opened; everything else is a finding.
pub fn check<B: Backing>(
    backing: &B,
    vault: &OpenVault,
    threads: usize,
    report: &mut dyn FnMut(&Finding),
) -> Result<Summary> {
    let keys = VaultKeys {
        cipher: vault.config.cipher,
        geometry: vault.config.geometry,
        keys: vault.keys.clone(),
    };
    let mut check = walk::Check::open(backing, keys, threads, report)?;
    check.tree();
    check.control();
    Ok(check.summary)
}
