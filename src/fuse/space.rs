//! Requests about holes, allocation and copies of ranges.
//!
//! The kernel hands its dirty pages over before it asks for a copy, a hole or zeros (`fuse_copy_file_range`,
//! `fuse_file_fallocate`), but not before it asks where data is (`fuse_lseek`). A hole that it was told of could then
//! hold data that only it knows, so it is made to write first.

use std::sync::{Arc, OnceLock};

use fuser::{Errno, FileHandle, INodeNo, Notifier, ReplyEmpty, ReplyLseek, ReplyWrite};

use crate::backing::Backing;
use crate::fs::{Caller, FileSystem, FsError, Handle, Result};
use crate::store::Seek;

use super::adapter::{empty, refuse};

/// How the kernel is told something; there once the session is.
pub(super) type Line = Arc<OnceLock<Notifier>>;

/// fallocate(2).
pub(super) fn fallocate<B: Backing>(
    fs: &FileSystem<B>,
    (inode, handle): (INodeNo, FileHandle),
    range: (u64, u64),
    mode: i32,
    caller: Caller,
    reply: ReplyEmpty,
) {
    let done = fs.fallocate(Handle(handle.0), range, mode, caller);
    empty("fallocate", inode, done, reply);
}

/// SEEK_DATA and SEEK_HOLE of lseek(2). Waits for the kernel's write-back, so it must not run in an event loop.
pub(super) fn lseek<B: Backing>(
    fs: &FileSystem<B>,
    line: &Line,
    (inode, handle): (INodeNo, FileHandle),
    offset: i64,
    whence: i32,
    reply: ReplyLseek,
) {
    let handle = Handle(handle.0);
    let found = seek_of(whence).and_then(|seek| {
        // lseek(2): ENXIO for what is not in the file, also before its start.
        let offset = u64::try_from(offset).map_err(|_| FsError::NoDevice)?;
        if fs.may_be_ahead(handle)
            && let Some(notifier) = line.get()
            // All pages, from 0 to the end (fuse_reverse_inval_inode): dirty ones are written before they go.
            && let Err(error) = notifier.inval_inode(inode, 0, 0)
        {
            log::debug!("the kernel did not write inode {:016x} back: {error}", inode.0);
        }
        fs.seek(handle, offset, seek)
    });
    match found.map(i64::try_from) {
        Ok(Ok(place)) => reply.offset(place),
        Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
        Err(error) => reply.error(refuse("lseek", inode, &error)),
    }
}

fn seek_of(whence: i32) -> Result<Seek> {
    match whence {
        libc::SEEK_DATA => Ok(Seek::Data),
        libc::SEEK_HOLE => Ok(Seek::Hole),
        _ => Err(FsError::InvalidArgument),
    }
}

/// copy_file_range(2).
pub(super) fn copy_range<B: Backing>(
    fs: &FileSystem<B>,
    (inode, from, from_offset): (INodeNo, FileHandle, u64),
    (to, to_offset): (FileHandle, u64),
    len: u64,
    caller: Caller,
    reply: ReplyWrite,
) {
    let (from, to) = ((Handle(from.0), from_offset), (Handle(to.0), to_offset));
    match fs.copy_range(from, to, len, caller).map(u32::try_from) {
        Ok(Ok(copied)) => reply.written(copied),
        Ok(Err(_)) => reply.error(Errno::EIO),
        Err(error) => reply.error(refuse("copy from", inode, &error)),
    }
}
