//! Types of `fs` as types of `fuser`, and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::clock::Timestamp;
use crate::format::{EntryId, EntryKind};
use crate::fs::{self, FsError};
use crate::store::{Attr, TimeChange};

/// st_blksize: programs read and write in such pieces.
const PREFERRED_IO_BYTES: u32 = 128 * 1024;

/// # Errors
/// [`FsError::UnknownInode`] for numbers that no inode can have.
pub(super) fn entry_id(ino: INodeNo) -> fs::Result<EntryId> {
    EntryId::from_raw(ino.0).ok_or(FsError::UnknownInode)
}

pub(super) fn ino(id: EntryId) -> INodeNo {
    INodeNo(id.get())
}

pub(super) fn errno(error: &FsError) -> fuser::Errno {
    fuser::Errno::from_i32(error.errno().get())
}

pub(super) fn file_type(kind: EntryKind) -> FileType {
    match kind {
        EntryKind::File => FileType::RegularFile,
        EntryKind::Dir => FileType::Directory,
        EntryKind::Symlink => FileType::Symlink,
        EntryKind::Fifo => FileType::NamedPipe,
        EntryKind::Socket => FileType::Socket,
        EntryKind::CharDevice => FileType::CharDevice,
        EntryKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: ino(attr.id),
        size: attr.size,
        blocks: attr.blocks_512,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // The kernel's own form (new_encode_dev), as it came with MKNOD.
        rdev: attr.rdev as u32,
        blksize: PREFERRED_IO_BYTES,
        flags: 0,
    }
}

/// What stands for an object whose attributes cannot be had: to be looked up again at once.
pub(super) fn unknown_attr(id: EntryId, kind: EntryKind) -> FileAttr {
    let zero = Timestamp::default();
    file_attr(&Attr {
        id,
        kind,
        size: 0,
        blocks_512: 0,
        mode: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
    })
}

/// The attributes that say "no such name, and you may remember that": a reply with node 0
/// (struct fuse_entry_out in linux/fuse.h).
pub(super) fn no_entry() -> FileAttr {
    FileAttr { ino: INodeNo(0), ..unknown_attr(EntryId::ROOT, EntryKind::File) }
}

pub(super) fn time_change(time: TimeOrNow) -> TimeChange {
    match time {
        TimeOrNow::Now => TimeChange::Now,
        TimeOrNow::SpecificTime(time) => TimeChange::At(timestamp(time)),
    }
}

/// A time out of a SETATTR. Before 1970 `fuser` 0.18 subtracts the nanoseconds where they are to be
/// added (`system_time_from_time`), so that here the same mistake is made backwards.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp { secs: since.as_secs().cast_signed(), nanos: since.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Timestamp {
                secs: before.as_secs().cast_signed().wrapping_neg(),
                nanos: before.subsec_nanos(),
            }
        }
    }
}

/// A time for a reply: there `fuser` gets both signs right.
fn system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let whole = if time.secs >= 0 {
        UNIX_EPOCH.checked_add(Duration::from_secs(time.secs.unsigned_abs()))
    } else {
        UNIX_EPOCH.checked_sub(Duration::from_secs(time.secs.unsigned_abs()))
    };
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive_both_directions() {
        // What fuser makes of a SETATTR with -2 s + 800,000,000 ns.
        let from_kernel = UNIX_EPOCH - Duration::new(2, 800_000_000);
        let time = timestamp(from_kernel);
        assert_eq!(time, Timestamp { secs: -2, nanos: 800_000_000 });
        // And what it must be given so that the kernel reads the same.
        assert_eq!(system_time(time), UNIX_EPOCH - Duration::new(1, 200_000_000));
    }

    #[test]
    fn extreme_times_do_not_panic() {
        for secs in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX] {
            let _ = system_time(Timestamp { secs, nanos: 999_999_999 });
        }
        let earliest = UNIX_EPOCH - Duration::from_secs(1 << 63);
        assert_eq!(timestamp(earliest).secs, i64::MIN);
    }
}
