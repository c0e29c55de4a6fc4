//! fallocate(2), SEEK_DATA and SEEK_HOLE of lseek(2), copy_file_range(2).

use std::sync::atomic::Ordering;

use crate::backing::Backing;
use crate::store::{Accessed, Room, Seek};

use super::caller::Caller;
use super::{FileSystem, FsError, Handle, Result};

impl<B: Backing> FileSystem<B> {
    /// fallocate(2) with the bits of its `mode`.
    ///
    /// # Errors
    /// [`FsError::NotSupported`] for other modes than plain, punch and zero; [`FsError::InvalidArgument`] for an empty range;
    /// [`FsError::BadHandle`] for handles opened for reading.
    pub fn fallocate(
        &self,
        handle: Handle,
        (offset, len): (u64, u64),
        mode: i32,
        caller: Caller,
    ) -> Result<()> {
        let file = self.files.get(handle)?;
        if !file.access.writes() {
            return Err(FsError::BadHandle);
        }
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let room = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Room::Allocate,
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => Room::Punch,
            libc::FALLOC_FL_ZERO_RANGE => Room::Zero,
            _ => return Err(FsError::NotSupported),
        };
        if len == 0 {
            return Err(FsError::InvalidArgument);
        }
        self.store.fallocate(&file.node, (offset, len), room, keep_size)?;
        self.note_change();
        // The kernel leaves that to us, and says nothing of CAP_FSETID.
        if caller.keeps_set_id() { Ok(()) } else { self.clear_set_id(&file.node) }
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    ///
    /// # Errors
    /// [`FsError::NoDevice`] (`ENXIO`) from the end of the file on, and where no data follows.
    pub fn seek(&self, handle: Handle, offset: u64, seek: Seek) -> Result<u64> {
        let file = self.files.get(handle)?;
        self.store.seek(&file.node, offset, seek)?.ok_or(FsError::NoDevice)
    }

    /// Whether the kernel may hold changes of the file that it has not handed over.
    pub fn may_be_ahead(&self, handle: Handle) -> bool {
        self.files.get(handle).is_ok_and(|file| self.store.has_writers(&file.node))
    }

    /// copy_file_range(2): returns how many bytes were copied, at least one unless the source ends.
    ///
    /// # Errors
    /// [`FsError::BadHandle`] if `to` was opened for reading.
    pub fn copy_range(
        &self,
        (from, from_offset): (Handle, u64),
        (to, to_offset): (Handle, u64),
        len: u64,
        caller: Caller,
    ) -> Result<u64> {
        let (from, to) = (self.files.get(from)?, self.files.get(to)?);
        if !to.access.writes() {
            return Err(FsError::BadHandle);
        }
        let copied = self.store.copy((&from.node, from_offset), (&to.node, to_offset), len)?;
        if from.moves_atime {
            self.note_access(&from.node, Accessed::Read);
        }
        to.unflushed.fetch_add(copied, Ordering::Relaxed);
        to.uncounted.store(true, Ordering::Relaxed);
        self.note_change();
        if copied > 0 && !caller.keeps_set_id() {
            self.clear_set_id(&to.node)?;
        }
        Ok(copied)
    }

    /// Has the kernel ask for the blocks of what was written through open handles: it does so by itself after close, and
    /// not after it wrote pages back.
    pub(super) fn count_open_blocks(&self) {
        for file in self.files.all() {
            if file.uncounted.swap(false, Ordering::Relaxed) {
                self.note_stale(file.node.id());
            }
        }
    }
}
