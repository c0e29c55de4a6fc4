//! Open files: reading, writing, and the ends of writing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::backing::Backing;
use crate::format::{EntryId, EntryKind};
use crate::store::{Accessed, Attr, Node, Store};

use super::caller::Caller;
use super::errno::of_inode;
use super::handles::FileHandle;
use super::{FileSystem, FsError, Handle, NewMode, Result};

/// A flush of at most this many written bytes is no more than one short write to the vault.
const SMALL_FLUSH_BYTES: u64 = 128 * 1024;

/// What a handle was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// O_RDONLY.
    Read,
    /// O_WRONLY. The kernel reads through it all the same, to complete partial pages.
    Write,
    /// O_RDWR.
    ReadWrite,
}

impl Access {
    /// Whether the handle may write.
    pub fn writes(self) -> bool {
        match self {
            Access::Read => false,
            Access::Write | Access::ReadWrite => true,
        }
    }
}

/// The flags of open(2) that have a meaning here. O_APPEND has none: the kernel sends offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlags {
    /// O_RDONLY, O_WRONLY or O_RDWR.
    pub access: Access,
    /// O_TRUNC.
    pub truncate: bool,
    /// O_EXCL, with O_CREAT.
    pub exclusive: bool,
    /// O_NOATIME.
    pub no_atime: bool,
}

impl OpenFlags {
    /// Reads the bits of open(2).
    pub fn from_bits(bits: i32) -> Self {
        let access = match bits & libc::O_ACCMODE {
            libc::O_WRONLY => Access::Write,
            libc::O_RDWR => Access::ReadWrite,
            // The fourth value is reserved for ioctl-only opens of devices.
            _ => Access::Read,
        };
        OpenFlags {
            access,
            truncate: bits & libc::O_TRUNC != 0,
            exclusive: bits & libc::O_EXCL != 0,
            no_atime: bits & libc::O_NOATIME != 0,
        }
    }
}

/// What a write does beside the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// Nothing.
    Plain,
    /// It clears set-id bits: the kernel found that the writer has no CAP_FSETID.
    ClearSetId,
    /// It comes from the kernel's write-back cache, possibly long after the program wrote: the kernel itself tells
    /// when that was, by a change of attributes.
    FromCache,
}

impl<B: Backing> FileSystem<B> {
    /// open(2) of a known inode.
    ///
    /// # Errors
    /// [`FsError::IsADirectory`], [`FsError::IsASymlink`], [`FsError::NoDevice`] by kind; what the store
    /// finds when it verifies the file.
    pub fn open(&self, ino: EntryId, flags: OpenFlags, caller: Caller) -> Result<Handle> {
        let node = self.node(ino)?;
        self.open_node(node, flags, caller)
    }

    /// open(2) with O_CREAT: makes the file and opens it; counts a lookup. A file that is there already (the
    /// kernel's negative entry was stale) is opened, unless O_EXCL.
    pub fn create(
        &self,
        parent: EntryId,
        name: &[u8],
        mode: NewMode,
        flags: OpenFlags,
        caller: Caller,
    ) -> Result<(Attr, Handle)> {
        let dir = self.node(parent)?;
        let (node, made) = self.make_file(&dir, name, mode, flags.exclusive, caller)?;
        let handle = if made {
            self.open_made(Arc::clone(&node), flags.access)?
        } else {
            self.open_node(Arc::clone(&node), flags, caller)?
        };
        self.remember_opened(&node, handle)
    }

    /// open(2) with O_TMPFILE: makes a file without a name, of which `parent` decides what it inherits, and opens it; counts a
    /// lookup. With O_EXCL it never gets a name.
    pub fn create_nameless(
        &self,
        parent: EntryId,
        mode: NewMode,
        flags: OpenFlags,
        caller: Caller,
    ) -> Result<(Attr, Handle)> {
        let dir = self.node(parent)?;
        let (new, acls) = self.heritage(&dir, mode, EntryKind::File, caller)?;
        let node = self.store.create_nameless(&new, !flags.exclusive)?;
        self.give(&node, &acls, || {
            self.store.close_file(&node, true);
            Ok(())
        })?;
        let handle = self.open_made(Arc::clone(&node), flags.access)?;
        self.remember_opened(&node, handle)
    }

    /// Counts the lookup of what was opened with `handle`.
    fn remember_opened(&self, node: &Arc<Node<B>>, handle: Handle) -> Result<(Attr, Handle)> {
        match self.remember(node) {
            Ok(attr) => Ok((attr, handle)),
            Err(error) => {
                self.release(handle)?;
                Err(error)
            }
        }
    }

    /// Does ahead what the close of a file that was just created with `attr` will need. To be called once that is answered.
    pub fn was_created(&self, attr: &Attr) {
        self.store.make_spare(attr.mode);
    }

    fn open_node(&self, node: Arc<Node<B>>, flags: OpenFlags, caller: Caller) -> Result<Handle> {
        match node.kind() {
            EntryKind::File => {}
            EntryKind::Dir => return Err(FsError::IsADirectory),
            EntryKind::Symlink => return Err(FsError::IsASymlink),
            EntryKind::Fifo
            | EntryKind::Socket
            | EntryKind::CharDevice
            | EntryKind::BlockDevice => return Err(FsError::NoDevice),
        }
        let writes = flags.access.writes();
        of_inode(self.store.open_file(&node, writes))?;
        if flags.truncate {
            let truncated = if writes {
                self.store.truncate(&node, 0).map_err(FsError::from)
            } else {
                self.as_writer(&node, |store| store.truncate(&node, 0))
            };
            let cleared = truncated.and_then(|()| {
                if caller.keeps_set_id() { Ok(()) } else { self.clear_set_id(&node) }
            });
            self.note_change();
            if let Err(error) = cleared {
                self.store.close_file(&node, writes);
                return Err(error);
            }
        }
        // What the kernel has in its cache is read without a request: opening counts.
        let moves_atime = !flags.no_atime && flags.access != Access::Write;
        if moves_atime {
            self.note_access(&node, Accessed::Opened);
        }
        Ok(self.files.add(FileHandle::new(node, flags.access, moves_atime)))
    }

    /// A handle of what was just created, which is open for writing: a reader gives that up for his own, so that the file
    /// is complete, too.
    fn open_made(&self, node: Arc<Node<B>>, access: Access) -> Result<Handle> {
        self.note_change();
        if !access.writes() {
            let opened = self.store.open_file(&node, false);
            self.store.close_file(&node, true);
            opened?;
        }
        Ok(self.files.add(FileHandle::new(node, access, access != Access::Write)))
    }

    /// Runs `change` as one who opens the file for writing, flushes and closes it, so that the store sees
    /// where the change ends.
    pub(super) fn as_writer(
        &self,
        node: &Arc<Node<B>>,
        change: impl FnOnce(&Store<B>) -> std::result::Result<(), crate::store::StoreError>,
    ) -> Result<()> {
        of_inode(self.store.open_file(node, true))?;
        self.finish_as_writer(node, change)
    }

    /// As [`FileSystem::as_writer`], by one who has it open for writing: closes it.
    pub(super) fn finish_as_writer(
        &self,
        node: &Arc<Node<B>>,
        change: impl FnOnce(&Store<B>) -> std::result::Result<(), crate::store::StoreError>,
    ) -> Result<()> {
        let was_clean = !self.store.is_dirty(node);
        let done = change(&self.store).and_then(|()| self.store.flush(node));
        if done.is_err() && was_clean {
            // The caller is told that nothing happened: then nothing must have.
            self.store.abandon(node);
        }
        self.store.close_file(node, true);
        self.note_change();
        Ok(done?)
    }

    /// pread(2): fills `out` from `offset` up to the end of the file; returns how many bytes. Every handle
    /// reads, whatever it was opened for: the kernel completes partial pages of O_WRONLY files.
    pub fn read(&self, handle: Handle, offset: u64, out: &mut [u8]) -> Result<usize> {
        let file = self.files.get(handle)?;
        let len = self.store.read(&file.node, offset, out)?;
        if file.moves_atime {
            self.note_access(&file.node, Accessed::Read);
        }
        Ok(len)
    }

    /// Whether [`FileSystem::read`] will not wait for the disk.
    pub fn read_is_cheap(&self, handle: Handle, offset: u64, len: u64) -> bool {
        // An unknown handle fails at once, which is cheap.
        self.files
            .get(handle)
            .map_or(true, |file| self.store.read_is_cheap(&file.node, offset, len))
    }

    /// pwrite(2) of all of `data`. On return it is visible to every reader; not durable.
    ///
    /// # Errors
    /// [`FsError::BadHandle`] for handles opened for reading.
    pub fn write(&self, handle: Handle, offset: u64, data: &[u8], kind: WriteKind) -> Result<()> {
        let file = self.files.get(handle)?;
        if !file.access.writes() {
            return Err(FsError::BadHandle);
        }
        match kind {
            WriteKind::FromCache => self.store.write_back(&file.node, offset, data)?,
            WriteKind::Plain | WriteKind::ClearSetId => {
                self.store.write(&file.node, offset, data)?;
            }
        }
        file.unflushed.fetch_add(data.len() as u64, Ordering::Relaxed);
        file.uncounted.store(true, Ordering::Relaxed);
        self.note_change();
        match kind {
            WriteKind::Plain | WriteKind::FromCache => Ok(()),
            WriteKind::ClearSetId => self.clear_set_id(&file.node),
        }
    }

    /// Whether [`FileSystem::flush`] and [`FileSystem::release`] are short: the handle wrote nothing, or little.
    pub fn flush_is_cheap(&self, handle: Handle) -> bool {
        self.files.get(handle).map_or(true, |file| {
            !file.access.writes() || file.unflushed.load(Ordering::Relaxed) <= SMALL_FLUSH_BYTES
        })
    }

    /// One close(2) of a descriptor of this handle, of which duplicates may remain: hands what was written to
    /// the vault and reports what failed. Idempotent.
    pub fn flush(&self, handle: Handle) -> Result<()> {
        let file = self.files.get(handle)?;
        if !file.access.writes() {
            return Ok(());
        }
        file.unflushed.store(0, Ordering::Relaxed);
        self.note_change();
        Ok(self.store.flush(&file.node)?)
    }

    /// The last descriptor of this handle is gone.
    pub fn release(&self, handle: Handle) -> Result<()> {
        let file = self.files.remove(handle)?;
        let writes = file.access.writes();
        self.store.close_file(&file.node, writes);
        if writes {
            self.note_change();
        }
        Ok(())
    }

    /// fsync(2), fdatasync(2): content, attributes and name are durable on return (G2).
    pub fn fsync(&self, handle: Handle) -> Result<()> {
        let file = self.files.get(handle)?;
        let synced = self.store.fsync(&file.node);
        if synced.is_err() {
            // Maintenance has the kernel forget what was lost.
            self.note_change();
        }
        // Pages may have been written through any handle.
        self.note_stale(file.node.id());
        Ok(synced?)
    }
}
