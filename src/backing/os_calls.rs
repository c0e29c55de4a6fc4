//! The system calls of [`super::OsDisk`] that need more than a line: conversions, opens that follow
//! nothing, whole reads and writes, and what the kernel offers.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Timespec, Timestamps, Uid,
};
use rustix::io::{Errno, retry_on_intr};

use super::{AttrChange, FileKind, Stat};
use crate::clock::Timestamp;

/// How often an open is tried again that the kernel found raced (openat2(2), EAGAIN).
const OPEN_RACES_MAX: usize = 64;

/// The exact kind of an object, to choose the error by where it is refused.
#[derive(Clone, Copy)]
pub(super) struct RawKind(FileType);

impl RawKind {
    /// The error for using this object as a `wanted`; `None` if it is one. Wanting
    /// [`FileKind::Other`] refuses everything that a vault does not hold.
    pub(super) fn refuse(self, wanted: FileKind) -> Option<io::Error> {
        let errno = match (self.0, wanted) {
            (FileType::RegularFile, FileKind::File) | (FileType::Directory, FileKind::Dir) => {
                return None;
            }
            (FileType::Symlink, _) => Errno::LOOP,
            (_, FileKind::Dir) => Errno::NOTDIR,
            (FileType::Directory, _) => Errno::ISDIR,
            _ => Errno::IO,
        };
        Some(errno.into())
    }
}

/// Whose an open object is, and who may do what with it.
pub(super) struct Owner {
    /// Permission bits, 0..=0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The owner and mode of an open object that must be a `wanted`.
///
/// No times: a look at a file's mtime or ctime makes the kernel give the next change of it, and then every
/// change on the machine until the next tick, a finer time than [`crate::clock::SystemClock`] tells (multigrain
/// timestamps, `ktime_get_coarse_real_ts64_mg` in the kernel's timekeeping.c). A file of the mount that is
/// created by the one and written by the other costs a SETATTR more.
pub(super) fn checked_owner(fd: &OwnedFd, wanted: FileKind) -> io::Result<Owner> {
    let mask = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::UID | StatxFlags::GID;
    let raw = retry_on_intr(|| rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, mask))?;
    let mode = u32::from(raw.stx_mode);
    match RawKind(FileType::from_raw_mode(mode)).refuse(wanted) {
        Some(refusal) => Err(refusal),
        None => Ok(Owner { mode: mode & 0o7777, uid: raw.stx_uid, gid: raw.stx_gid }),
    }
}

pub(super) fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<(Stat, RawKind)> {
    let raw = retry_on_intr(|| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW))?;
    Ok((stat_of(&raw), RawKind(FileType::from_raw_mode(raw.st_mode))))
}

// The widths of `struct stat` differ between architectures.
#[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, clippy::useless_conversion)]
pub(super) fn stat_of(raw: &rustix::fs::Stat) -> Stat {
    let timestamp = |secs, nanos| Timestamp { secs, nanos };
    Stat {
        kind: match FileType::from_raw_mode(raw.st_mode) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Dir,
            _ => FileKind::Other,
        },
        len: raw.st_size as u64,
        blocks_512: raw.st_blocks as u64,
        mode: raw.st_mode as u32 & 0o7777,
        uid: raw.st_uid,
        gid: raw.st_gid,
        nlink: raw.st_nlink as u32,
        ino: raw.st_ino,
        atime: timestamp(raw.st_atime as i64, raw.st_atime_nsec as u32),
        mtime: timestamp(raw.st_mtime as i64, raw.st_mtime_nsec as u32),
        ctime: timestamp(raw.st_ctime as i64, raw.st_ctime_nsec as u32),
    }
}

pub(super) fn change_open(fd: BorrowedFd<'_>, change: &AttrChange) -> io::Result<()> {
    // The owner first: chown(2) clears set-id bits.
    if change.uid.is_some() || change.gid.is_some() {
        let (uid, gid) = owner_of(change);
        retry_on_intr(|| rustix::fs::fchown(fd, uid, gid))?;
    }
    if let Some(mode) = change.mode {
        retry_on_intr(|| rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)))?;
    }
    if let Some(times) = times_of(change) {
        retry_on_intr(|| rustix::fs::futimens(fd, &times))?;
    }
    Ok(())
}

pub(super) fn owner_of(change: &AttrChange) -> (Option<Uid>, Option<Gid>) {
    (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw))
}

pub(super) fn times_of(change: &AttrChange) -> Option<Timestamps> {
    if change.atime.is_none() && change.mtime.is_none() {
        return None;
    }
    let spec = |time: Option<Timestamp>| match time {
        Some(time) => Timespec { tv_sec: time.secs, tv_nsec: i64::from(time.nanos) },
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
    };
    Some(Timestamps { last_access: spec(change.atime), last_modification: spec(change.mtime) })
}

/// chmod by name without following a symbolic link. The system call `fchmodat` follows always;
/// libc's goes through fchmodat2 (Linux 6.6) or an `O_PATH` descriptor in /proc.
pub(super) fn chmod_nofollow(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: `name` is a live string that ends in NUL; the descriptor is open for the call.
    let rc =
        unsafe { libc::fchmodat(dir.as_raw_fd(), name.as_ptr(), mode, libc::AT_SYMLINK_NOFOLLOW) };
    match rc {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // The name has just become a symbolic link.
            error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Err(Errno::LOOP.into()),
            error => Err(error),
        },
    }
}

pub(super) fn open_beneath(
    dir: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let mut races = 0;
    loop {
        match rustix::fs::openat2(dir, name, flags, mode, resolve) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if races < OPEN_RACES_MAX => races += 1,
            opened => return opened,
        }
    }
}

/// Whether the kernel (5.6) and the sandbox offer openat2.
pub(super) fn probe_openat2(root: &OwnedFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let probe = open_beneath(root.as_fd(), b".", flags, Mode::empty());
    !matches!(probe, Err(Errno::NOSYS | Errno::PERM))
}

/// Since Linux 5.8 syncfs(2) reports write-back errors.
pub(super) fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") else { return false };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(this_major)), Some(Ok(this_minor))) => (this_major, this_minor) >= (major, minor),
        _ => false,
    }
}

pub(super) fn has_file_capabilities() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    let wanted = CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
    rustix::process::geteuid().is_root()
        && capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted))
}

pub(super) fn pread_exact(fd: BorrowedFd<'_>, offset: u64, out: &mut [u8]) -> io::Result<()> {
    fill(offset, out, |out, offset| rustix::io::pread(fd, out, offset))
}

pub(super) fn pwrite_all(fd: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> io::Result<()> {
    drain(offset, bytes, |bytes, offset| rustix::io::pwrite(fd, bytes, offset))
}

/// Fills `out` by as many calls of `read` as it takes.
fn fill(
    mut offset: u64,
    mut out: &mut [u8],
    mut read: impl FnMut(&mut [u8], u64) -> Result<usize, Errno>,
) -> io::Result<()> {
    while !out.is_empty() {
        let filled = retry_on_intr(|| read(out, offset))?;
        if filled == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out = &mut out[filled..];
        offset += filled as u64;
    }
    Ok(())
}

/// Hands all of `bytes` to as many calls of `write` as it takes.
fn drain(
    mut offset: u64,
    mut bytes: &[u8],
    mut write: impl FnMut(&[u8], u64) -> Result<usize, Errno>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match retry_on_intr(|| write(bytes, offset))? {
            0 => return Err(Errno::NOSPC.into()),
            written => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"in pieces of one, two and three bytes, with interruptions";

    /// What a call gives next: an interruption, or at most so many bytes.
    fn answers() -> impl FnMut() -> Result<usize, Errno> {
        let mut calls = 0;
        move || {
            calls += 1;
            if calls % 4 == 0 { Err(Errno::INTR) } else { Ok(calls % 4) }
        }
    }

    #[test]
    fn short_and_interrupted_reads_are_continued() {
        let mut next = answers();
        let mut out = vec![0; TEXT.len() - 5];
        fill(5, &mut out, |out, offset| {
            let at = offset as usize;
            let len = next()?.min(out.len());
            out[..len].copy_from_slice(&TEXT[at..at + len]);
            Ok(len)
        })
        .unwrap();
        assert_eq!(out, TEXT[5..]);
        let ended = fill(0, &mut out, |_, _| Ok(0)).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn short_and_interrupted_writes_are_continued() {
        let mut next = answers();
        let mut file = vec![0; 5 + TEXT.len()];
        drain(5, TEXT, |bytes, offset| {
            let at = offset as usize;
            let len = next()?.min(bytes.len());
            file[at..at + len].copy_from_slice(&bytes[..len]);
            Ok(len)
        })
        .unwrap();
        assert_eq!(file[5..], *TEXT);
        let full = drain(0, TEXT, |_, _| Ok(0)).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn a_short_write_that_then_fails_is_an_error() {
        let mut calls = 0;
        let failed = drain(0, TEXT, |bytes, _| {
            calls += 1;
            if calls == 1 { Ok(bytes.len() / 2) } else { Err(Errno::DQUOT) }
        });
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::EDQUOT));
    }
}
