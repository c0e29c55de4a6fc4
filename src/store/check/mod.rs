//! Whether everything in a vault authenticates. Reads all of it; takes no lock and changes nothing, so that a mounted
//! vault can be checked too.
//!
//! What is published is never written again, and older layers go only after the version that no longer refers to them is
//! durable. So a fault is real if the file is still the same one after it was found; else the file is looked at again.
//! Nothing here uses the live tree of a mount: it reads what a mount would find.

mod case;
mod content;
mod inodes;
mod look;
mod rescue;
mod walk;

use std::ops::Range;
use std::sync::atomic::AtomicU64;

use crate::backing::Backing;
use crate::format::OpenVault;

pub(super) use case::{Case, Place};
pub(super) use content::{Event, Opened, assemble, open_layer, read_pieces, says_nothing};
pub(super) use look::Look;
pub(super) use rescue::read_rescue;
pub(super) use walk::Ahead;

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
    /// The rescue copy of a directory does not authenticate, or is another directory's.
    Rescue,
    /// Note: two devices made one name.
    Conflict,
    /// Note: what an interrupted mount left.
    Leftover,
    /// Note: the backing filesystem counts other names of a file than there are.
    LinkCount,
    /// Note: the rescue copy of a directory has a name that the directory had before.
    Outdated,
    /// Note: it changed every time it was looked at.
    Changing,
    /// Note: what a repair moved to `lost+found` because it cannot be read.
    Kept,
    /// It could not be looked at, for want of permission, descriptors or memory: nothing is known of it.
    Unchecked,
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
            Kind::Rescue => "rescue",
            Kind::Conflict => "conflict",
            Kind::Leftover => "leftover",
            Kind::LinkCount => "link-count",
            Kind::Outdated => "outdated",
            Kind::Changing => "changing",
            Kind::Kept => "kept",
            Kind::Unchecked => "unchecked",
        }
    }

    /// Whether something is lost or was tampered with; else it is a note.
    pub fn is_damage(self) -> bool {
        let is_note = matches!(self, Kind::Conflict | Kind::Leftover | Kind::LinkCount)
            || matches!(self, Kind::Outdated | Kind::Changing);
        !is_note && !matches!(self, Kind::Kept | Kind::Unchecked)
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
    /// What could not be looked at for reasons that are not the vault's.
    pub unchecked: u64,
    /// Names that disappeared while they were looked at: the vault is in use.
    pub vanished: u64,
}

/// What a check may use, and how far it came.
#[derive(Clone, Copy)]
pub struct Effort<'a> {
    /// Files of one directory are read by up to so many threads.
    pub threads: usize,
    /// Bytes of ciphertext read so far; for whoever shows progress.
    pub read_bytes: &'a AtomicU64,
}

/// Reads and authenticates everything in a vault, telling `report` of each finding as it is met.
///
/// # Errors
/// If the vault's root or control directory cannot be opened; everything else is a finding.
pub fn check<B: Backing>(
    backing: &B,
    vault: &OpenVault,
    effort: Effort<'_>,
    report: &mut dyn FnMut(&Finding),
) -> Result<Summary> {
    let keys = VaultKeys::of(vault);
    let mut check = walk::Check::open(backing, &keys, effort, report)?;
    check.tree();
    check.control();
    Ok(check.summary)
}

/// As [`check`]; returns what a repair can do something about as well.
pub(super) fn cases<B: Backing>(
    backing: &B,
    keys: &VaultKeys,
    effort: Effort<'_>,
    report: &mut dyn FnMut(&Finding),
) -> Result<(Summary, Vec<Case>)> {
    let mut check = walk::Check::open(backing, keys, effort, report)?;
    check.tree();
    check.control();
    Ok((check.summary, check.cases))
}

/// How many bytes the files of a vault have in all: what a check reads, about. For whoever shows progress.
pub fn len_of_vault<B: Backing>(backing: &B) -> u64 {
    walk::len_of_tree(backing)
}
