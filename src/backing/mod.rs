//! The disk under a vault, as the engine above may use it: directories, published files (read-only
//! by type), temporary files, names, and the duties of each call towards a power cut.
//!
//! Two implementations: [`OsDisk`] is the table below in system calls, with no policy of its own;
//! [`SimDisk`] forgets what was not synced. One contract suite runs on both. This floor knows no
//! cryptography and no format: names and contents are bytes.
//!
//! | call | visible on return | durable on return |
//! |---|---|---|
//! | `create_temp`, `mkdir`, `rename`, `link`, `unlink`, `rmdir` | yes | nothing |
//! | `Temp::write_at`, `set_len`, `set_attr` | yes | nothing |
//! | `Temp::sync` | | its bytes, length and attributes; not its name |
//! | `sync_dir` | | every earlier change of names in that directory, and its attributes |
//! | `sync_arrivals` | | the names that appeared in that directory, and its attributes; what left it may come back |
//! | `sync_all` | | everything on the filesystem |
//!
//! Every object is opened relative to a held directory and never through a symbolic link; whatever
//! is not of the expected kind is an error (`ELOOP`, `ENOTDIR`, `EISDIR`, or `EIO` for fifos and devices). A failed
//! sync is final: the caller abandons the file, no call here retries one.

#[cfg(test)]
mod contract;
pub mod inherited;
mod mapping;
mod os_calls;
mod os_disk;
pub mod process;
pub mod remount;
mod sim_disk;
pub mod unmount;

use std::io;

use crate::clock::Timestamp;

pub use os_disk::OsDisk;
pub use sim_disk::{
    CallKind, Counters, CrashRule, HardLinks, SimDir, SimDisk, SimFile, SimLock, SimMapping,
    SimTemp,
};

/// What kind of thing a name in a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// Anything else. A vault holds only files and directories; others are damage.
    Other,
}

/// One name of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// The name's bytes.
    pub name: Vec<u8>,
    /// The kind, from the listing or from a stat where the listing does not tell.
    pub kind: FileKind,
}

/// What stat(2) says of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The kind.
    pub kind: FileKind,
    /// Length in bytes.
    pub len: u64,
    /// Allocated 512-byte units.
    pub blocks_512: u64,
    /// Permission bits, 0..=0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// The backing filesystem's inode number.
    pub ino: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last modification.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
}

/// Attributes to change; `None` leaves one as it is. Order of application: owner, mode, times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttrChange {
    /// Permission bits, 0..=0o7777.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last modification.
    pub mtime: Option<Timestamp>,
}

/// What statvfs(3) says of the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceStat {
    /// Unit of the three block counts, in bytes.
    pub unit_len: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for unprivileged users.
    pub blocks_avail: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name in bytes.
    pub name_max: u64,
}

/// What a rename does about a name that exists at its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it, atomically.
    Replace,
    /// Fail with EEXIST.
    NoReplace,
    /// Swap the two names, atomically; ENOENT if the target does not exist. EINVAL where the
    /// filesystem cannot.
    Exchange,
}

/// Which object of a directory an attribute call is about.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    /// The directory itself.
    This,
    /// The file or directory of that name in it.
    Name(&'a [u8]),
}

/// A published file: read-only by type, since published bytes never change.
pub trait PublishedFile: Send + Sync + 'static {
    /// The mapping that [`PublishedFile::map`] makes.
    type Mapping: Mapping;
    /// Attributes of the open file.
    fn stat(&self) -> io::Result<Stat>;
    /// Fills `out` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before `out` is full.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Maps the first `len` bytes for reading; the file may be closed afterwards.
    fn map(&self, len: u64) -> io::Result<Self::Mapping>;
}

/// A mapped published file. Somebody may still cut or rewrite the file under it: what is copied out is untrusted until
/// authenticated, and a copy from beyond a cut yields zeros and poisons the mapping.
pub trait Mapping: Send + Sync + 'static {
    /// Mapped length in bytes.
    fn len(&self) -> u64;
    /// Whether nothing is mapped.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copies `out.len()` bytes from `offset` out of the mapping, exactly once.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the mapped length; `EIO` once a fault (SIGBUS) was met inside it.
    fn copy_out(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Whether `offset..offset + len` is resident, so that copying will not wait for the disk. A
    /// hint: true where the system cannot tell.
    fn resident(&self, offset: u64, len: u64) -> bool;
}

/// A temporary file being written.
pub trait TempFile: Send + Sync + 'static {
    /// Writes all of `bytes` at `offset`, extending the file as needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Fills `out` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before `out` is full.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Sets the length.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes sure that writes to `offset..offset + len` will not fail for want of space, without changing
    /// the length. A no-op where the filesystem cannot promise it.
    ///
    /// # Errors
    /// `ENOSPC`, `EDQUOT`.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Allocates `len` bytes from the start on without changing the length, for a file that is never written: to have
    /// them free again when it is removed.
    ///
    /// # Errors
    /// `ENOSPC`, `EDQUOT`; `EOPNOTSUPP` where the filesystem cannot.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Attributes of the open file.
    fn stat(&self) -> io::Result<Stat>;
    /// Changes attributes.
    fn set_attr(&self, change: &AttrChange) -> io::Result<()>;
    /// Starts writing dirty pages out without waiting. A hint.
    fn start_writeback(&self) -> io::Result<()>;
    /// Bytes, length and attributes are durable on return. After an error the file must be abandoned.
    fn sync(&self) -> io::Result<()>;
}

/// The disk under a vault.
pub trait Backing: Send + Sync + 'static {
    /// An open directory; closed on drop.
    type Dir: Send + Sync + 'static;
    /// An open published file; closed on drop.
    type File: PublishedFile;
    /// An open temporary file; closed (not removed) on drop.
    type Temp: TempFile;
    /// A held lock; released on drop.
    type Lock: Send + Sync + 'static;

    /// The vault directory.
    fn root(&self) -> io::Result<Self::Dir>;
    /// Opens a subdirectory.
    fn open_dir(&self, dir: &Self::Dir, name: &[u8]) -> io::Result<Self::Dir>;
    /// All names but `.` and `..`, in no particular order.
    fn list(&self, dir: &Self::Dir) -> io::Result<Vec<RawEntry>>;
    /// Attributes without opening; never follows a symbolic link.
    fn stat(&self, dir: &Self::Dir, at: At<'_>) -> io::Result<Stat>;
    /// Changes attributes of a file or directory by name; never follows a symbolic link.
    fn set_attr(&self, dir: &Self::Dir, at: At<'_>, change: &AttrChange) -> io::Result<()>;
    /// The value of an extended attribute, `None` if there is none (or the filesystem has none at all).
    fn get_xattr(&self, dir: &Self::Dir, at: At<'_>, key: &[u8]) -> io::Result<Option<Vec<u8>>>;
    /// The names of all extended attributes, in no particular order; empty where the filesystem has none at all.
    fn list_xattrs(&self, dir: &Self::Dir, at: At<'_>) -> io::Result<Vec<Vec<u8>>>;
    /// Sets (`Some`) or removes (`None`, also if absent) an extended attribute.
    fn set_xattr(
        &self,
        dir: &Self::Dir,
        at: At<'_>,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> io::Result<()>;
    /// Opens a published regular file for reading.
    fn open(&self, dir: &Self::Dir, name: &[u8]) -> io::Result<Self::File>;
    /// Creates a temporary file, exclusively, with these permission bits (the umask does not apply).
    fn create_temp(&self, dir: &Self::Dir, name: &[u8], mode: u32) -> io::Result<Self::Temp>;
    /// Opens a temporary file again for reading and writing.
    fn open_temp(&self, dir: &Self::Dir, name: &[u8]) -> io::Result<Self::Temp>;
    /// Makes a directory with these permission bits (the umask does not apply).
    fn mkdir(&self, dir: &Self::Dir, name: &[u8], mode: u32) -> io::Result<()>;
    /// Renames; one atomic step whatever the mode.
    fn rename(
        &self,
        from_dir: &Self::Dir,
        from: &[u8],
        to_dir: &Self::Dir,
        to: &[u8],
        mode: RenameMode,
    ) -> io::Result<()>;
    /// Gives a file a second name.
    fn link(
        &self,
        from_dir: &Self::Dir,
        from: &[u8],
        to_dir: &Self::Dir,
        to: &[u8],
    ) -> io::Result<()>;
    /// Removes a file's name.
    fn unlink(&self, dir: &Self::Dir, name: &[u8]) -> io::Result<()>;
    /// Removes an empty directory.
    fn rmdir(&self, dir: &Self::Dir, name: &[u8]) -> io::Result<()>;
    /// Every earlier change of names in `dir` is durable on return, and its attributes.
    fn sync_dir(&self, dir: &Self::Dir) -> io::Result<()>;
    /// As [`Backing::sync_dir`] of names that appeared in `dir` or stand for something else now, and cheaper on some filesystems:
    /// what was removed or moved away may come back.
    fn sync_arrivals(&self, dir: &Self::Dir) -> io::Result<()>;
    /// Everything on the filesystem that holds `dir` is durable on return.
    fn sync_all(&self, dir: &Self::Dir) -> io::Result<()>;
    /// Whether `sync_all` reports write-back errors and is cheap for batches (a known local filesystem).
    fn sync_all_is_sound(&self) -> bool;
    /// Whether of two changes of names the later one never survives a power cut without the earlier one: a journal has them
    /// in order (ext4, xfs).
    fn keeps_name_order(&self) -> bool;
    /// Free space.
    fn space(&self, dir: &Self::Dir) -> io::Result<SpaceStat>;
    /// Locks the file `name` (created if absent), exclusively or shared, without waiting.
    ///
    /// # Errors
    /// `EWOULDBLOCK` if somebody else holds a lock that conflicts.
    fn lock(&self, dir: &Self::Dir, name: &[u8], exclusive: bool) -> io::Result<Self::Lock>;
    /// Replaces the text of a locked file: a note for people about who holds it.
    fn write_note(&self, lock: &Self::Lock, note: &[u8]) -> io::Result<()>;
    /// Whether files can be given to other owners and modes do not bind this process (it is root).
    fn is_privileged(&self) -> bool;
}

/// `NAME_MAX` of Linux, in bytes.
const NAME_LEN_MAX: usize = 255;

/// One name is one component: no call takes a path.
///
/// # Errors
/// `EINVAL` for the empty name, `.`, `..`, a slash or a NUL; `ENAMETOOLONG`.
fn check_name(name: &[u8]) -> io::Result<()> {
    let errno = match name {
        b"" | b"." | b".." => libc::EINVAL,
        name if name.iter().any(|byte| matches!(byte, b'/' | 0)) => libc::EINVAL,
        name if name.len() > NAME_LEN_MAX => libc::ENAMETOOLONG,
        _ => return Ok(()),
    };
    Err(io::Error::from_raw_os_error(errno))
}

/// `UnexpectedEof` unless `offset..offset + len` is within `total`.
fn check_range(total: u64, offset: u64, len: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= total => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
