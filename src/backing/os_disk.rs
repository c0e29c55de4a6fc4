//! [`Backing`] in system calls: no policy, no cache, no retry but after EINTR.
//!
//! A call that an interruption leaves undone, or that is the same when done twice, is made again. One that changes a name may
//! have happened (on a network filesystem), and after a sync that ended early nothing is known: those are errors.
//!
//! Invariants: every object is reached by one name relative to a held descriptor, through
//! openat2(2) with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV` (openat(2) with
//! `O_NOFOLLOW` where the kernel has no openat2), with `O_NONBLOCK` so that a planted fifo cannot
//! hang the daemon, and its kind is checked on the open descriptor. Contents go through pread(2) and
//! pwrite(2) only. No call uses a descriptor's file position, so all handles serve many threads.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags, RawDir, RenameFlags,
    XattrFlags,
};
use rustix::io::{Errno, retry_on_intr};

use super::mapping::FileMapping;
use super::os_calls::{
    Owner, change_open, checked_owner, chmod_nofollow, has_file_capabilities, kernel_is_at_least,
    open_beneath, owner_of, pread_exact, probe_openat2, pwrite_all, stat_at, stat_of, times_of,
};
use super::{
    At, AttrChange, Backing, FileKind, PublishedFile, RawEntry, RenameMode, SpaceStat, Stat,
    TempFile, check_name,
};

const EXT4_MAGIC: u64 = 0xEF53;
const XFS_MAGIC: u64 = 0x5846_5342;
const BTRFS_MAGIC: u64 = 0x9123_683E;
const TMPFS_MAGIC: u64 = 0x0102_1994;
const OVERLAYFS_MAGIC: u64 = 0x794C_7630;

const ROOT_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Enough for some 400 sealed names a call.
const LIST_BUFFER_LEN: usize = 64 * 1024;

/// Most xattr values are far shorter; longer ones cost a second call.
const XATTR_FIRST_TRY_LEN: usize = 256;
/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of the kernel.
const XATTR_LEN_MAX: usize = 64 * 1024;

/// A vault directory of the operating system.
#[derive(Debug)]
pub struct OsDisk {
    root: Arc<OwnedFd>,
    has_openat2: bool,
    is_btrfs: bool,
    /// The vault's directory once more where fsync does not do for names: what syncfs tells this descriptor of files that could not be
    /// written, it tells that of [`OsDisk::sync_all`] as well.
    to_sync_names: Option<OwnedFd>,
    sync_all_is_sound: bool,
    keeps_name_order: bool,
    is_privileged: bool,
}

/// An open directory of an [`OsDisk`].
#[derive(Debug)]
pub struct OsDir {
    fd: Arc<OwnedFd>,
}

/// An open published file of an [`OsDisk`].
#[derive(Debug)]
pub struct OsFile {
    fd: OwnedFd,
}

/// An open temporary file of an [`OsDisk`].
#[derive(Debug)]
pub struct OsTemp {
    fd: OwnedFd,
    can_reserve: bool,
}

/// A flock(2) held on an open file.
#[derive(Debug)]
pub struct OsLock {
    fd: OwnedFd,
}

impl OsDisk {
    /// Opens the vault directory at `path` (which may itself lie behind symbolic links) and holds it.
    ///
    /// # Errors
    /// Those of open(2) and statfs(2); `ENOTDIR` if it is no directory.
    pub fn open(path: &Path) -> io::Result<OsDisk> {
        let root = retry_on_intr(|| rustix::fs::openat(CWD, path, ROOT_FLAGS, Mode::empty()))?;
        OsDisk::from_fd(root)
    }

    /// The vault directory behind an open descriptor.
    ///
    /// # Errors
    /// Those of statfs(2).
    pub fn from_fd(root: OwnedFd) -> io::Result<OsDisk> {
        let magic = rustix::fs::fstatfs(&root)?.f_type.cast_unsigned() & 0xFFFF_FFFF;
        let known = [EXT4_MAGIC, XFS_MAGIC, BTRFS_MAGIC, TMPFS_MAGIC].contains(&magic);
        // What moved out of a directory comes back after its fsync and a power cut (Linux 6.18, `scripts/faults filesystems
        // btrfs`): fsync writes a log that may still have it. Who knows what an overlay lies over.
        let fsync_forgets_departures = [BTRFS_MAGIC, OVERLAYFS_MAGIC].contains(&magic);
        let reopened = || rustix::fs::openat(&root, c".", ROOT_FLAGS, Mode::empty());
        Ok(OsDisk {
            has_openat2: probe_openat2(&root),
            is_btrfs: magic == BTRFS_MAGIC,
            to_sync_names: fsync_forgets_departures.then(reopened).transpose()?,
            sync_all_is_sound: known && kernel_is_at_least(5, 8),
            keeps_name_order: [EXT4_MAGIC, XFS_MAGIC, TMPFS_MAGIC].contains(&magic),
            is_privileged: has_file_capabilities(),
            root: Arc::new(root),
        })
    }

    /// Opens one name in `dir`, never through a symbolic link nor onto another filesystem.
    fn open_at(&self, dir: &OsDir, name: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        check_name(name)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened = if self.has_openat2 {
            open_beneath(dir.fd.as_fd(), name, flags, mode)
        } else {
            retry_on_intr(|| rustix::fs::openat(&dir.fd, name, flags, mode))
        };
        opened.map_err(|errno| match errno {
            // A socket, or a device without a driver.
            Errno::NXIO | Errno::NODEV => Errno::IO.into(),
            errno => errno.into(),
        })
    }

    fn open_temp_with(&self, dir: &OsDir, name: &[u8], flags: OFlags, mode: Mode) -> OpenedTemp {
        let fd = self.open_at(dir, name, OFlags::RDWR | flags, mode)?;
        let owner = checked_owner(&fd, FileKind::File)?;
        // btrfs writes elsewhere even into reserved room, so its fallocate promises nothing.
        Ok((OsTemp { fd, can_reserve: !self.is_btrfs }, owner))
    }
}

type OpenedTemp = io::Result<(OsTemp, Owner)>;

impl Backing for OsDisk {
    type Dir = OsDir;
    type File = OsFile;
    type Temp = OsTemp;
    type Lock = OsLock;

    fn root(&self) -> io::Result<OsDir> {
        Ok(OsDir { fd: Arc::clone(&self.root) })
    }

    fn open_dir(&self, dir: &OsDir, name: &[u8]) -> io::Result<OsDir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.open_at(dir, name, flags, Mode::empty()) {
            Ok(fd) => Ok(OsDir { fd: Arc::new(fd) }),
            // Without openat2, O_DIRECTORY hides that it is a symbolic link.
            Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => {
                Err(stat_at(dir.fd.as_fd(), name)?.1.refuse(FileKind::Dir).unwrap_or(error))
            }
            Err(error) => Err(error),
        }
    }

    fn list(&self, dir: &OsDir) -> io::Result<Vec<RawEntry>> {
        // A descriptor of its own: the position of a shared one would be another thread's too.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let reopen =
            |flags| retry_on_intr(|| rustix::fs::openat(&dir.fd, c".", flags, Mode::empty()));
        // As for files: reading through the mount must not write to the vault.
        let own = match reopen(flags | OFlags::NOATIME) {
            Err(Errno::PERM) => reopen(flags)?,
            opened => opened?,
        };
        let mut buffer = vec![MaybeUninit::uninit(); LIST_BUFFER_LEN];
        let mut raw = RawDir::new(own, &mut buffer);
        let mut entries = Vec::new();
        while let Some(entry) = raw.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::RegularFile => FileKind::File,
                FileType::Directory => FileKind::Dir,
                FileType::Unknown => match stat_at(dir.fd.as_fd(), name) {
                    Ok((stat, _)) => stat.kind,
                    // Removed since the listing was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                },
                _ => FileKind::Other,
            };
            entries.push(RawEntry { name: name.to_vec(), kind });
        }
        Ok(entries)
    }

    fn stat(&self, dir: &OsDir, at: At<'_>) -> io::Result<Stat> {
        match at {
            At::This => Ok(stat_of(&retry_on_intr(|| rustix::fs::fstat(&dir.fd))?)),
            At::Name(name) => {
                check_name(name)?;
                Ok(stat_at(dir.fd.as_fd(), name)?.0)
            }
        }
    }

    fn set_attr(&self, dir: &OsDir, at: At<'_>, change: &AttrChange) -> io::Result<()> {
        let name = match at {
            At::This => return change_open(dir.fd.as_fd(), change),
            At::Name(name) => name,
        };
        check_name(name)?;
        let (stat, kind) = stat_at(dir.fd.as_fd(), name)?;
        if let Some(refusal) = kind.refuse(stat.kind) {
            return Err(refusal);
        }
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = owner_of(change);
            retry_on_intr(|| rustix::fs::chownat(&dir.fd, name, uid, gid, nofollow))?;
        }
        if let Some(mode) = change.mode {
            chmod_nofollow(dir.fd.as_fd(), name, mode)?;
        }
        if let Some(times) = times_of(change) {
            retry_on_intr(|| rustix::fs::utimensat(&dir.fd, name, &times, nofollow))?;
        }
        Ok(())
    }

    fn get_xattr(&self, dir: &OsDir, at: At<'_>, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let object = self.open_any(dir, at)?;
        let fd = object.as_fd();
        let mut len = XATTR_FIRST_TRY_LEN;
        loop {
            let mut value = vec![0; len];
            match retry_on_intr(|| rustix::fs::fgetxattr(fd, key, value.as_mut_slice())) {
                Ok(filled) => {
                    value.truncate(filled);
                    return Ok(Some(value));
                }
                Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
                Err(Errno::RANGE) if len < XATTR_LEN_MAX => len = XATTR_LEN_MAX,
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn list_xattrs(&self, dir: &OsDir, at: At<'_>) -> io::Result<Vec<Vec<u8>>> {
        let object = self.open_any(dir, at)?;
        let fd = object.as_fd();
        let mut len = XATTR_FIRST_TRY_LEN;
        loop {
            let mut names = vec![0; len];
            match retry_on_intr(|| rustix::fs::flistxattr(fd, names.as_mut_slice())) {
                Ok(filled) => {
                    let names = names[..filled].split(|byte| *byte == 0);
                    return Ok(names.filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect());
                }
                Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
                Err(Errno::RANGE) if len < XATTR_LEN_MAX => len = XATTR_LEN_MAX,
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn set_xattr(
        &self,
        dir: &OsDir,
        at: At<'_>,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> io::Result<()> {
        let object = self.open_any(dir, at)?;
        let fd = object.as_fd();
        match value {
            Some(value) => {
                let set = || rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty());
                Ok(retry_on_intr(set)?)
            }
            None => match retry_on_intr(|| rustix::fs::fremovexattr(fd, key)) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
        }
    }

    fn open(&self, dir: &OsDir, name: &[u8]) -> io::Result<OsFile> {
        // Reading through the mount must not write to the vault; allowed to the owner and to root.
        let quiet = OFlags::RDONLY | OFlags::NOATIME;
        let fd = match self.open_at(dir, name, quiet, Mode::empty()) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                self.open_at(dir, name, OFlags::RDONLY, Mode::empty())?
            }
            opened => opened?,
        };
        checked_owner(&fd, FileKind::File)?;
        Ok(OsFile { fd })
    }

    fn create_temp(&self, dir: &OsDir, name: &[u8], mode: u32) -> io::Result<OsTemp> {
        let bits = Mode::from_raw_mode(mode);
        let (temp, owner) = self.open_temp_with(dir, name, OFlags::CREATE | OFlags::EXCL, bits)?;
        if owner.mode != mode {
            // The umask or a default ACL had a say.
            retry_on_intr(|| rustix::fs::fchmod(&temp.fd, bits))?;
        }
        Ok(temp)
    }

    fn open_temp(&self, dir: &OsDir, name: &[u8]) -> io::Result<OsTemp> {
        Ok(self.open_temp_with(dir, name, OFlags::empty(), Mode::empty())?.0)
    }

    fn mkdir(&self, dir: &OsDir, name: &[u8], mode: u32) -> io::Result<()> {
        check_name(name)?;
        rustix::fs::mkdirat(&dir.fd, name, Mode::from_raw_mode(mode))?;
        if stat_at(dir.fd.as_fd(), name)?.0.mode != mode {
            chmod_nofollow(dir.fd.as_fd(), name, mode)?;
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
        check_name(from)?;
        check_name(to)?;
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        let renamed = match rustix::fs::renameat_with(&from_dir.fd, from, &to_dir.fd, to, flags) {
            // A filesystem without the flag (NFS). The vault has one mounter, which orders its own
            // changes of a name, so nobody takes the target between these two calls.
            Err(Errno::INVAL) if mode == RenameMode::NoReplace => {
                if stat_at(to_dir.fd.as_fd(), to).is_ok() {
                    return Err(Errno::EXIST.into());
                }
                rustix::fs::renameat(&from_dir.fd, from, &to_dir.fd, to)
            }
            renamed => renamed,
        };
        match renamed {
            // POSIX leaves the choice of the two.
            Err(Errno::EXIST) if mode == RenameMode::Replace => Err(Errno::NOTEMPTY.into()),
            renamed => Ok(renamed?),
        }
    }

    fn link(&self, from_dir: &OsDir, from: &[u8], to_dir: &OsDir, to: &[u8]) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        // Without AT_SYMLINK_FOLLOW a symbolic link would itself get the second name.
        Ok(rustix::fs::linkat(&from_dir.fd, from, &to_dir.fd, to, AtFlags::empty())?)
    }

    fn unlink(&self, dir: &OsDir, name: &[u8]) -> io::Result<()> {
        check_name(name)?;
        Ok(rustix::fs::unlinkat(&dir.fd, name, AtFlags::empty())?)
    }

    fn rmdir(&self, dir: &OsDir, name: &[u8]) -> io::Result<()> {
        check_name(name)?;
        match rustix::fs::unlinkat(&dir.fd, name, AtFlags::REMOVEDIR) {
            // POSIX leaves the choice of the two.
            Err(Errno::EXIST) => Err(Errno::NOTEMPTY.into()),
            removed => Ok(removed?),
        }
    }

    fn sync_dir(&self, dir: &OsDir) -> io::Result<()> {
        if let Some(root) = &self.to_sync_names {
            match rustix::fs::syncfs(root) {
                // May be of a file of anybody's, and concern no name. If it does, the filesystem takes no changes any more, and fsync
                // says so: what it was to write is not written.
                Err(Errno::IO | Errno::NOSPC | Errno::DQUOT) => {}
                synced => synced?,
            }
        }
        self.sync_arrivals(dir)
    }

    fn sync_arrivals(&self, dir: &OsDir) -> io::Result<()> {
        Ok(rustix::fs::fsync(&dir.fd)?)
    }

    fn sync_all(&self, dir: &OsDir) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&dir.fd)?)
    }

    fn sync_all_is_sound(&self) -> bool {
        self.sync_all_is_sound
    }

    fn keeps_name_order(&self) -> bool {
        self.keeps_name_order
    }

    fn space(&self, dir: &OsDir) -> io::Result<SpaceStat> {
        let space = retry_on_intr(|| rustix::fs::fstatvfs(&dir.fd))?;
        Ok(SpaceStat {
            // f_frsize is the unit of the counts; some filesystems leave it 0 and mean f_bsize.
            unit_len: if space.f_frsize == 0 { space.f_bsize } else { space.f_frsize },
            blocks: space.f_blocks,
            blocks_free: space.f_bfree,
            blocks_avail: space.f_bavail,
            files: space.f_files,
            files_free: space.f_ffree,
            name_max: space.f_namemax,
        })
    }

    fn lock(&self, dir: &OsDir, name: &[u8], exclusive: bool) -> io::Result<OsLock> {
        let mode = Mode::from_raw_mode(0o600);
        let fd = match self.open_at(dir, name, OFlags::RDWR | OFlags::CREATE, mode) {
            // Read-only media or somebody else's vault: a lock needs no write permission.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES)) => {
                let read_only = self.open_at(dir, name, OFlags::RDONLY, Mode::empty());
                read_only.map_err(|_| error)?
            }
            opened => opened?,
        };
        checked_owner(&fd, FileKind::File)?;
        let operation = if exclusive {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        retry_on_intr(|| rustix::fs::flock(&fd, operation))?;
        Ok(OsLock { fd })
    }

    fn write_note(&self, lock: &OsLock, note: &[u8]) -> io::Result<()> {
        retry_on_intr(|| rustix::fs::ftruncate(&lock.fd, 0))?;
        pwrite_all(lock.fd.as_fd(), 0, note)
    }

    fn is_privileged(&self) -> bool {
        self.is_privileged
    }
}

impl PublishedFile for OsFile {
    type Mapping = FileMapping;

    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&retry_on_intr(|| rustix::fs::fstat(&self.fd))?))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        pread_exact(self.fd.as_fd(), offset, out)
    }

    fn map(&self, len: u64) -> io::Result<FileMapping> {
        FileMapping::new(self.fd.as_fd(), len)
    }
}

impl TempFile for OsTemp {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        pwrite_all(self.fd.as_fd(), offset, bytes)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        pread_exact(self.fd.as_fd(), offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::ftruncate(&self.fd, len))?)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mode = FallocateFlags::KEEP_SIZE;
        Ok(retry_on_intr(|| rustix::fs::fallocate(&self.fd, mode, 0, len))?)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        if !self.can_reserve || len == 0 {
            return Ok(());
        }
        let mode = FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| rustix::fs::fallocate(&self.fd, mode, offset, len)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            reserved => Ok(reserved?),
        }
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&retry_on_intr(|| rustix::fs::fstat(&self.fd))?))
    }

    fn set_attr(&self, change: &AttrChange) -> io::Result<()> {
        // A temporary file mostly has its owner and mode already, and a journal writes even what does not change.
        let now = checked_owner(&self.fd, FileKind::File)?;
        let mut change = *change;
        change.uid = change.uid.filter(|uid| *uid != now.uid);
        change.gid = change.gid.filter(|gid| *gid != now.gid);
        if change.uid.is_none() && change.gid.is_none() {
            change.mode = change.mode.filter(|mode| *mode != now.mode);
        }
        change_open(self.fd.as_fd(), &change)
    }

    fn start_writeback(&self) -> io::Result<()> {
        // SAFETY: no memory is passed; the descriptor is open for as long as `self`.
        let rc = unsafe {
            libc::sync_file_range(self.fd.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE)
        };
        match rc {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
                error => Err(error),
            },
        }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }
}

/// What an attribute or xattr call works on: the held directory or a file opened for the call.
enum Object<'a> {
    Held(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl Object<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Object::Held(fd) => *fd,
            Object::Opened(fd) => fd.as_fd(),
        }
    }
}

impl OsDisk {
    /// An `O_PATH` descriptor will not do for f*xattr, and l*xattr by path needs /proc.
    fn open_any<'a>(&self, dir: &'a OsDir, at: At<'_>) -> io::Result<Object<'a>> {
        let name = match at {
            At::This => return Ok(Object::Held(dir.fd.as_fd())),
            At::Name(name) => name,
        };
        let fd = self.open_at(dir, name, OFlags::RDONLY, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => Ok(Object::Opened(fd)),
            _ => Err(Errno::IO.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A vault directory with what an attacker may put in it, opened with and without openat2.
    fn hostile() -> (tempfile::TempDir, [OsDisk; 2]) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("outside")).unwrap();
        std::fs::write(path("outside/file"), b"secret").unwrap();
        let vault = path("vault");
        std::fs::create_dir(&vault).unwrap();
        symlink("../outside/file", vault.join("file-link")).unwrap();
        symlink("../outside", vault.join("dir-link")).unwrap();
        symlink("nowhere", vault.join("dangling")).unwrap();
        rustix::fs::mkfifoat(CWD, vault.join("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        UnixListener::bind(vault.join("socket")).unwrap();
        let new = OsDisk::open(&vault).unwrap();
        let old = OsDisk { has_openat2: false, ..OsDisk::open(&vault).unwrap() };
        (dir, [new, old])
    }

    fn code<T>(result: io::Result<T>) -> Option<i32> {
        result.err().expect("the call should have failed").raw_os_error()
    }

    #[test]
    fn links_fifos_and_sockets_are_refused_at_once() {
        let (_dir, disks) = hostile();
        for disk in disks {
            let root = disk.root().unwrap();
            for (name, expected) in [
                (&b"file-link"[..], libc::ELOOP),
                (b"dir-link", libc::ELOOP),
                (b"dangling", libc::ELOOP),
                (b"fifo", libc::EIO),
                (b"socket", libc::EIO),
            ] {
                let at = At::Name(name);
                let change = AttrChange { mode: Some(0o777), ..Default::default() };
                let results = [
                    disk.open(&root, name).map(drop),
                    disk.open_temp(&root, name).map(drop),
                    disk.lock(&root, name, true).map(drop),
                    disk.set_attr(&root, at, &change),
                    disk.get_xattr(&root, at, b"user.akasha.x").map(drop),
                    disk.set_xattr(&root, at, b"user.akasha.x", Some(b"v")),
                ];
                for (call, result) in results.into_iter().enumerate() {
                    let about = format!("call {call} on {:?}", String::from_utf8_lossy(name));
                    assert_eq!(code(result), Some(expected), "{about}");
                }
                assert_eq!(disk.stat(&root, at).unwrap().kind, FileKind::Other);
                let is_link = expected == libc::ELOOP;
                let expected = if is_link { libc::ELOOP } else { libc::ENOTDIR };
                assert_eq!(code(disk.open_dir(&root, name)), Some(expected));
                assert_eq!(code(disk.create_temp(&root, name, 0o600)), Some(libc::EEXIST));
            }
            let kinds = disk.list(&root).unwrap();
            assert!(kinds.iter().all(|entry| entry.kind == FileKind::Other));
            assert_eq!(kinds.len(), 5);
        }
    }

    #[test]
    fn a_link_swapped_in_before_chmod_is_not_followed() {
        let (dir, [disk, _]) = hostile();
        let target = dir.path().join("outside/file");
        std::fs::set_permissions(&target, PermissionsExt::from_mode(0o600)).unwrap();
        let root = disk.root().unwrap();
        let refused = chmod_nofollow(root.fd.as_fd(), b"file-link", 0o777);
        assert_eq!(code(refused), Some(libc::ELOOP));
        let mode = std::fs::metadata(&target).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn damage_can_be_moved_and_removed() {
        let (dir, [disk, _]) = hostile();
        let root = disk.root().unwrap();
        for name in [&b"file-link"[..], b"dir-link", b"dangling", b"fifo", b"socket"] {
            disk.rename(&root, name, &root, b"moved", RenameMode::NoReplace).unwrap();
            disk.unlink(&root, b"moved").unwrap();
        }
        assert!(disk.list(&root).unwrap().is_empty());
        assert_eq!(std::fs::read(dir.path().join("outside/file")).unwrap(), b"secret");
    }

    #[test]
    fn the_vault_itself_may_lie_behind_a_link() {
        let (dir, _) = hostile();
        symlink("vault", dir.path().join("link")).unwrap();
        let disk = OsDisk::open(&dir.path().join("link")).unwrap();
        assert_eq!(disk.list(&disk.root().unwrap()).unwrap().len(), 5);
        let file = OsDisk::open(&dir.path().join("outside/file"));
        assert_eq!(code(file), Some(libc::ENOTDIR));
    }

    #[test]
    fn the_umask_does_not_apply() {
        // The umask is the process's: a child of its own, as the other tests make files too.
        let test = "backing::os_disk::tests::the_umask_does_not_apply";
        if std::env::var("AKASHA_TEST_CHILD").is_err() {
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test])
                .env("AKASHA_TEST_CHILD", test)
                .status();
            assert!(child.unwrap().success());
            return;
        }
        rustix::process::umask(Mode::from_raw_mode(0o777));
        let (_dir, [disk, _]) = {
            let dir = tempfile::tempdir().unwrap();
            std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
            let open = || OsDisk::open(dir.path()).unwrap();
            let disks = [open(), open()];
            (dir, disks)
        };
        let root = disk.root().unwrap();
        assert_eq!(disk.create_temp(&root, b"f", 0o666).unwrap().stat().unwrap().mode, 0o666);
        disk.mkdir(&root, b"d", 0o1777).unwrap();
        assert_eq!(disk.stat(&root, At::Name(b"d")).unwrap().mode, 0o1777);
    }
}
