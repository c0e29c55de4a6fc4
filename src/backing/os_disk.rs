//! The real disk: [`Backing`] in system calls, with no policy of its own.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    self, AtFlags, FallocateFlags, FileType, FlockOperation, Gid, Mode, OFlags, RawDir,
    RenameFlags, ResolveFlags, Timestamps, Uid, XattrFlags,
};

use crate::clock::Timestamp;

use super::mapping::FileMapping;
use super::{
    At, AttrChange, Backing, FileKind, PublishedFile, RawEntry, RenameMode, SpaceStat, Stat,
    TempFile,
};

/// Opened once, then everything is relative to it.
pub struct OsDisk {
    root: Arc<OwnedFd>,
    is_privileged: bool,
    sync_all_is_sound: bool,
    /// btrfs gains nothing from preallocation and loses much.
    reserves: bool,
}

/// An open directory.
pub struct OsDir(OwnedFd);

/// An open published file.
pub struct OsFile(OwnedFd);

/// An open temporary file.
pub struct OsTemp {
    fd: OwnedFd,
    reserves: bool,
}

/// A held lock.
pub struct OsLock(OwnedFd);

const EXT4_MAGIC: u64 = 0xEF53;
const XFS_MAGIC: u64 = 0x5846_5342;
const BTRFS_MAGIC: u64 = 0x9123_683E;
const TMPFS_MAGIC: u64 = 0x0102_1994;

impl OsDisk {
    /// The vault directory at `path`, which may be reached through symbolic links.
    ///
    /// # Errors
    /// The system's; `ENOTDIR` if it is no directory.
    pub fn open(path: &Path) -> io::Result<OsDisk> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty())?;
        let magic = fs::fstatfs(&root)?.f_type.cast_unsigned() & 0xFFFF_FFFF;
        Ok(OsDisk {
            root: Arc::new(root),
            is_privileged: rustix::process::geteuid().is_root(),
            sync_all_is_sound: matches!(magic, EXT4_MAGIC | XFS_MAGIC | BTRFS_MAGIC | TMPFS_MAGIC),
            reserves: magic != BTRFS_MAGIC,
        })
    }

    /// Opens `name` in `dir`, never through a symbolic link, and never waiting for a fifo.
    fn open_at(dir: &OwnedFd, name: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(fs::openat(dir, name, flags, mode)?)
    }

    /// Opens a regular file; anything else in its place is an error.
    fn open_regular(dir: &OwnedFd, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let fd = Self::open_at(dir, name, flags, Mode::empty())?;
        match FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) {
            FileType::RegularFile => Ok(fd),
            FileType::Directory => Err(errno(libc::EISDIR)),
            _ => Err(errno(libc::EIO)),
        }
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn stat_of(stat: &fs::Stat) -> Stat {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Dir,
        _ => FileKind::Other,
    };
    let time = |secs: i64, nanos: u64| Timestamp { secs, nanos: nanos as u32 };
    Stat {
        kind,
        len: stat.st_size.cast_unsigned(),
        blocks_512: stat.st_blocks.cast_unsigned(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        ino: stat.st_ino,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
    }
}

/// The two times as the system wants them, `None` if neither changes.
fn timestamps(change: &AttrChange) -> Option<Timestamps> {
    if change.atime.is_none() && change.mtime.is_none() {
        return None;
    }
    let spec = |time: Option<Timestamp>| match time {
        Some(time) => fs::Timespec { tv_sec: time.secs, tv_nsec: i64::from(time.nanos) },
        None => fs::Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
    };
    Some(Timestamps { last_access: spec(change.atime), last_modification: spec(change.mtime) })
}

fn owner(change: &AttrChange) -> Option<(Option<Uid>, Option<Gid>)> {
    (change.uid.is_some() || change.gid.is_some())
        .then(|| (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw)))
}

fn set_fd_attr(fd: &OwnedFd, change: &AttrChange) -> io::Result<()> {
    if let Some((uid, gid)) = owner(change) {
        fs::fchown(fd, uid, gid)?;
    }
    if let Some(mode) = change.mode {
        fs::fchmod(fd, Mode::from_raw_mode(mode))?;
    }
    if let Some(times) = timestamps(change) {
        fs::futimens(fd, &times)?;
    }
    Ok(())
}

/// A path that reaches `name` in `dir` for calls that know no *at form. The last component is not followed by
/// the l-calls it is used with.
fn proc_path(dir: &OwnedFd, at: At<'_>) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}", dir.as_raw_fd()).into_bytes();
    if let At::Name(name) = at {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

impl Backing for OsDisk {
    type Dir = OsDir;
    type File = OsFile;
    type Temp = OsTemp;
    type Lock = OsLock;

    fn root(&self) -> io::Result<OsDir> {
        Ok(OsDir(Self::open_at(&self.root, b".", OFlags::DIRECTORY, Mode::empty())?))
    }

    fn open_dir(&self, dir: &OsDir, name: &[u8]) -> io::Result<OsDir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        match fs::openat2(&dir.0, name, flags, Mode::empty(), resolve) {
            Ok(fd) => Ok(OsDir(fd)),
            // Before Linux 5.6, or forbidden in a sandbox: one component, not followed, is as good.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                Ok(OsDir(Self::open_at(&dir.0, name, flags, Mode::empty())?))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn list(&self, dir: &OsDir) -> io::Result<Vec<RawEntry>> {
        // A descriptor of its own: the offset of a shared one would be shared too.
        let fd = Self::open_at(&dir.0, b".", OFlags::DIRECTORY, Mode::empty())?;
        let mut buffer = vec![MaybeUninit::uninit(); 64 << 10];
        let mut entries = RawDir::new(&fd, &mut buffer);
        let mut list = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::RegularFile => FileKind::File,
                FileType::Directory => FileKind::Dir,
                FileType::Unknown => self.stat(dir, At::Name(name))?.kind,
                _ => FileKind::Other,
            };
            list.push(RawEntry { name: name.to_vec(), kind });
        }
        Ok(list)
    }

    fn stat(&self, dir: &OsDir, at: At<'_>) -> io::Result<Stat> {
        let stat = match at {
            At::This => fs::fstat(&dir.0)?,
            At::Name(name) => fs::statat(&dir.0, name, AtFlags::SYMLINK_NOFOLLOW)?,
        };
        Ok(stat_of(&stat))
    }

    fn set_attr(&self, dir: &OsDir, at: At<'_>, change: &AttrChange) -> io::Result<()> {
        let name = match at {
            At::This => return set_fd_attr(&dir.0, change),
            At::Name(name) => name,
        };
        if let Some((uid, gid)) = owner(change) {
            fs::chownat(&dir.0, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(mode) = change.mode {
            // fchmodat follows links: check that it is none. Who could swap it in between can change modes anyway.
            if self.stat(dir, at)?.kind == FileKind::Other {
                return Err(errno(libc::EIO));
            }
            fs::chmodat(&dir.0, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        if let Some(times) = timestamps(change) {
            fs::utimensat(&dir.0, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn get_xattr(&self, dir: &OsDir, at: At<'_>, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let (path, key) = (proc_path(&dir.0, at), OsStr::from_bytes(key));
        let mut value = vec![0; 64 << 10];
        let got = match at {
            At::This => fs::getxattr(&path[..], key, &mut value[..]),
            At::Name(_) => fs::lgetxattr(&path[..], key, &mut value[..]),
        };
        match got {
            Ok(len) => {
                value.truncate(len);
                Ok(Some(value))
            }
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn set_xattr(
        &self,
        dir: &OsDir,
        at: At<'_>,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> io::Result<()> {
        let (path, key) = (proc_path(&dir.0, at), OsStr::from_bytes(key));
        let done = match (value, at) {
            (Some(value), At::This) => fs::setxattr(&path[..], key, value, XattrFlags::empty()),
            (Some(value), At::Name(_)) => fs::lsetxattr(&path[..], key, value, XattrFlags::empty()),
            (None, At::This) => fs::removexattr(&path[..], key),
            (None, At::Name(_)) => fs::lremovexattr(&path[..], key),
        };
        match done {
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) if value.is_none() => {
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn open(&self, dir: &OsDir, name: &[u8]) -> io::Result<OsFile> {
        // Reading through the mount must not write to the vault; allowed to the file's owner and root.
        let quiet = OFlags::RDONLY | OFlags::NOATIME;
        match Self::open_regular(&dir.0, name, quiet) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                Ok(OsFile(Self::open_regular(&dir.0, name, OFlags::RDONLY)?))
            }
            other => Ok(OsFile(other?)),
        }
    }

    fn create_temp(&self, dir: &OsDir, name: &[u8], mode: u32) -> io::Result<OsTemp> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let fd = Self::open_at(&dir.0, name, flags, Mode::from_raw_mode(mode & 0o777))?;
        // The umask may have cut it, and set-id bits are not for open.
        if fs::fstat(&fd)?.st_mode & 0o7777 != mode {
            fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
        }
        Ok(OsTemp { fd, reserves: self.reserves })
    }

    fn open_temp(&self, dir: &OsDir, name: &[u8]) -> io::Result<OsTemp> {
        let fd = Self::open_regular(&dir.0, name, OFlags::RDWR)?;
        Ok(OsTemp { fd, reserves: self.reserves })
    }

    fn mkdir(&self, dir: &OsDir, name: &[u8], mode: u32) -> io::Result<()> {
        fs::mkdirat(&dir.0, name, Mode::from_raw_mode(mode))?;
        let made = fs::statat(&dir.0, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode & 0o7777;
        // A set-group-id parent adds that bit on its own: what a parent hands down is the caller's business.
        if made != mode {
            fs::chmodat(&dir.0, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        Ok(())
    }

    fn rename(
        &self,
        from_dir: &OsDir,
        from: &[u8],
        to_dir: &OsDir,
        to: &[u8],
        mode: RenameMode,
    ) -> io::Result<()> {
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        match fs::renameat_with(&from_dir.0, from, &to_dir.0, to, flags) {
            // A filesystem without flags (NFS): look first. The vault has one writer, who asks one at a time for a name.
            Err(rustix::io::Errno::INVAL) if mode == RenameMode::NoReplace => {
                if fs::statat(&to_dir.0, to, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                    return Err(errno(libc::EEXIST));
                }
                Ok(fs::renameat(&from_dir.0, from, &to_dir.0, to)?)
            }
            other => Ok(other?),
        }
    }

    fn link(&self, from_dir: &OsDir, from: &[u8], to_dir: &OsDir, to: &[u8]) -> io::Result<()> {
        Ok(fs::linkat(&from_dir.0, from, &to_dir.0, to, AtFlags::empty())?)
    }

    fn unlink(&self, dir: &OsDir, name: &[u8]) -> io::Result<()> {
        Ok(fs::unlinkat(&dir.0, name, AtFlags::empty())?)
    }

    fn rmdir(&self, dir: &OsDir, name: &[u8]) -> io::Result<()> {
        match fs::unlinkat(&dir.0, name, AtFlags::REMOVEDIR) {
            // POSIX allows either name for a directory that has entries.
            Err(rustix::io::Errno::EXIST) => Err(errno(libc::ENOTEMPTY)),
            other => Ok(other?),
        }
    }

    fn sync_dir(&self, dir: &OsDir) -> io::Result<()> {
        Ok(fs::fsync(&dir.0)?)
    }

    fn sync_all(&self, dir: &OsDir) -> io::Result<()> {
        Ok(fs::syncfs(&dir.0)?)
    }

    fn sync_all_is_sound(&self) -> bool {
        self.sync_all_is_sound
    }

    fn space(&self, dir: &OsDir) -> io::Result<SpaceStat> {
        let stat = fs::fstatvfs(&dir.0)?;
        Ok(SpaceStat {
            unit_len: stat.f_frsize,
            blocks: stat.f_blocks,
            blocks_free: stat.f_bfree,
            blocks_avail: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            name_max: stat.f_namemax,
        })
    }

    fn lock(&self, dir: &OsDir, name: &[u8], exclusive: bool) -> io::Result<OsLock> {
        let create = OFlags::RDWR | OFlags::CREATE;
        let fd = match Self::open_at(&dir.0, name, create, Mode::from_raw_mode(0o600)) {
            Err(error)
                if !exclusive
                    && matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES)) =>
            {
                Self::open_regular(&dir.0, name, OFlags::RDONLY)?
            }
            other => other?,
        };
        if FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(errno(libc::EIO));
        }
        let operation = if exclusive {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        fs::flock(&fd, operation)?;
        Ok(OsLock(fd))
    }

    fn write_note(&self, lock: &OsLock, note: &[u8]) -> io::Result<()> {
        fs::ftruncate(&lock.0, 0)?;
        write_all(&lock.0, 0, note)
    }

    fn is_privileged(&self) -> bool {
        self.is_privileged
    }
}

fn write_all(fd: &OwnedFd, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(errno(libc::ENOSPC)),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_all(fd: &OwnedFd, mut offset: u64, out: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < out.len() {
        match rustix::io::pread(fd, &mut out[done..], offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                done += read;
                offset += read as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl PublishedFile for OsFile {
    type Mapping = FileMapping;

    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&fs::fstat(&self.0)?))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_all(&self.0, offset, out)
    }

    fn map(&self, len: u64) -> io::Result<FileMapping> {
        FileMapping::new(self.0.as_fd(), len)
    }
}

impl TempFile for OsTemp {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        write_all(&self.fd, offset, bytes)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_all(&self.fd, offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(fs::ftruncate(&self.fd, len)?)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        if !self.reserves || len == 0 {
            return Ok(());
        }
        match fs::fallocate(&self.fd, FallocateFlags::KEEP_SIZE, offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&fs::fstat(&self.fd)?))
    }

    fn set_attr(&self, change: &AttrChange) -> io::Result<()> {
        set_fd_attr(&self.fd, change)
    }

    fn start_writeback(&self) -> io::Result<()> {
        // SAFETY: a system call on a descriptor that this struct owns; no memory is involved.
        #[allow(unsafe_code)]
        let done = unsafe {
            libc::sync_file_range(self.fd.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.fd)?)
    }
}
