//! Names: finding, making, moving and removing them.

use std::sync::Arc;

use crate::backing::Backing;
use crate::format::{EntryId, EntryKind};
use crate::store::{Accessed, Attr, Node, RenameFlags, StoreError};

use super::caller::Caller;
use super::errno::of_inode;
use super::{FileSystem, FsError, NewMode, Result, check_name};

/// The file type bits of a mode.
const S_IFMT: u32 = libc::S_IFMT;

/// An ancestor walk longer than any path is a loop.
const DEEPEST: usize = 1 << 16;

impl<B: Backing> FileSystem<B> {
    /// Finds `name`; counts a lookup.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] is an answer that the kernel may keep.
    pub fn lookup(&self, parent: EntryId, name: &[u8]) -> Result<Attr> {
        check_name(name)?;
        let dir = self.node(parent)?;
        let node = self.store.lookup(&dir, name)?;
        self.remember(&node)
    }

    /// mkdir(2); counts a lookup.
    pub fn mkdir(
        &self,
        parent: EntryId,
        name: &[u8],
        mode: NewMode,
        caller: Caller,
    ) -> Result<Attr> {
        check_name(name)?;
        let dir = self.node(parent)?;
        let (new, acls) = self.heritage(&dir, mode, EntryKind::Dir, caller)?;
        let node = self.store.mkdir(&dir, name, &new)?;
        self.give(&node, &acls, || self.store.rmdir(&dir, name))?;
        self.names_changed(&dir)?;
        self.remember(&node)
    }

    /// mknod(2), and bind(2) of a socket; counts a lookup. The bits of the type say what to make; that devices are for
    /// root is the kernel's to check (CAP_MKNOD).
    ///
    /// # Errors
    /// [`FsError::NotPermitted`] for a directory or a symbolic link, [`FsError::InvalidArgument`] for no type at all.
    pub fn mknod(
        &self,
        parent: EntryId,
        name: &[u8],
        mode: NewMode,
        rdev: u64,
        caller: Caller,
    ) -> Result<Attr> {
        let kind = match mode.mode & S_IFMT {
            0 | libc::S_IFREG => {
                let dir = self.node(parent)?;
                let (node, _) = self.make_file(&dir, name, mode, true, caller)?;
                self.finish_as_writer(&node, |_| Ok(()))?;
                return self.remember(&node);
            }
            libc::S_IFIFO => EntryKind::Fifo,
            libc::S_IFSOCK => EntryKind::Socket,
            libc::S_IFCHR => EntryKind::CharDevice,
            libc::S_IFBLK => EntryKind::BlockDevice,
            libc::S_IFDIR | libc::S_IFLNK => return Err(FsError::NotPermitted),
            _ => return Err(FsError::InvalidArgument),
        };
        check_name(name)?;
        let dir = self.node(parent)?;
        let (new, acls) = self.heritage(&dir, mode, kind, caller)?;
        let node = self.store.make_special(&dir, name, kind, rdev, &new)?;
        self.give(&node, &acls, || self.store.unlink(&dir, name))?;
        self.names_changed(&dir)?;
        self.remember(&node)
    }

    /// symlink(2); counts a lookup.
    pub fn symlink(
        &self,
        parent: EntryId,
        name: &[u8],
        target: &[u8],
        caller: Caller,
    ) -> Result<Attr> {
        check_name(name)?;
        // symlink(2): an empty target is ENOENT, a longer one than PATH_MAX cannot be followed.
        if target.is_empty() {
            return Err(FsError::Store(StoreError::NotFound));
        }
        if target.len() >= libc::PATH_MAX as usize {
            return Err(FsError::Store(StoreError::NameTooLong));
        }
        let dir = self.node(parent)?;
        let mode = NewMode { mode: 0o777, umask: 0 };
        let (new, _) = self.heritage(&dir, mode, EntryKind::Symlink, caller)?;
        let node = self.store.symlink(&dir, name, target, &new)?;
        self.names_changed(&dir)?;
        self.remember(&node)
    }

    /// link(2): one more name for a file of any kind, or the first one of a file that was made without; counts a lookup.
    ///
    /// # Errors
    /// [`FsError::NotPermitted`] for directories, and where the vault's filesystem has no hard links.
    pub fn link(&self, ino: EntryId, parent: EntryId, name: &[u8]) -> Result<Attr> {
        check_name(name)?;
        let node = self.node(ino)?;
        let dir = self.node(parent)?;
        let is_first = self.sync_names && self.store.attr(&node)?.nlink == 0;
        match self.store.link(&node, &dir, name) {
            Err(StoreError::IsADirectory | StoreError::NotSupported) => {
                return Err(FsError::NotPermitted);
            }
            linked => linked?,
        }
        if is_first {
            // As of a file that is created: the one that its writer goes on with is another version.
            self.store.fsync(&node)?;
        }
        self.names_changed(&dir)?;
        self.remember(&node)
    }

    /// readlink(2).
    pub fn readlink(&self, ino: EntryId) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        let target = of_inode(self.store.readlink(&node))?;
        self.note_access(&node, Accessed::Read);
        Ok(target)
    }

    /// unlink(2). Who has the file open keeps it.
    pub fn unlink(&self, parent: EntryId, name: &[u8]) -> Result<()> {
        check_name(name)?;
        let dir = self.node(parent)?;
        self.store.unlink(&dir, name)?;
        self.names_changed(&dir)
    }

    /// rmdir(2).
    pub fn rmdir(&self, parent: EntryId, name: &[u8]) -> Result<()> {
        check_name(name)?;
        let dir = self.node(parent)?;
        self.store.rmdir(&dir, name)?;
        self.names_changed(&dir)
    }

    /// renameat2(2).
    ///
    /// # Errors
    /// [`FsError::InvalidArgument`] if a directory would move beneath itself.
    pub fn rename(
        &self,
        from: (EntryId, &[u8]),
        to: (EntryId, &[u8]),
        flags: RenameFlags,
    ) -> Result<()> {
        check_name(from.1)?;
        check_name(to.1)?;
        let from_dir = self.node(from.0)?;
        let to_dir = self.node(to.0)?;
        let flags = match flags {
            // It gets its group as everything that is made in this directory.
            RenameFlags::Whiteout(by) => {
                let caller = Caller { uid: by.uid, gid: by.gid };
                let mode = NewMode { mode: by.mode, umask: 0 };
                let (new, _) = self.heritage(&from_dir, mode, EntryKind::CharDevice, caller)?;
                RenameFlags::Whiteout(new)
            }
            other => other,
        };
        if from.0 != to.0 {
            let moved = self.store.lookup(&from_dir, from.1)?;
            self.check_not_beneath(&moved, &to_dir)?;
            if flags == RenameFlags::Exchange {
                let back = self.store.lookup(&to_dir, to.1)?;
                self.check_not_beneath(&back, &from_dir)?;
            }
        }
        self.store.rename(&from_dir, from.1, &to_dir, to.1, flags)?;
        self.names_changed(&to_dir)?;
        if from.0 == to.0 { Ok(()) } else { self.names_changed(&from_dir) }
    }

    /// Refuses `dir` as the new parent of `moved` if it is `moved` or beneath it. The kernel checks
    /// this under its own lock (s_vfs_rename_mutex); here it is for callers without a kernel.
    fn check_not_beneath(&self, moved: &Arc<Node<B>>, dir: &Arc<Node<B>>) -> Result<()> {
        let mut at = Arc::clone(dir);
        if moved.kind() != EntryKind::Dir {
            return Ok(());
        }
        for _ in 0..DEEPEST {
            if at.id() == moved.id() {
                return Err(FsError::InvalidArgument);
            }
            if at.id() == EntryId::ROOT {
                return Ok(());
            }
            // The parents of a directory in use are in use, too: the kernel holds their entries.
            match self.node(self.store.parent_id(&at)) {
                Ok(parent) => at = parent,
                Err(_) => return Ok(()),
            }
        }
        Err(FsError::InvalidArgument)
    }

    /// Makes a regular file, open for writing, or finds the one that is there unless `exclusive`; tells whether it made it.
    pub(super) fn make_file(
        &self,
        dir: &Arc<Node<B>>,
        name: &[u8],
        mode: NewMode,
        exclusive: bool,
        caller: Caller,
    ) -> Result<(Arc<Node<B>>, bool)> {
        check_name(name)?;
        let (new, acls) = self.heritage(dir, mode, EntryKind::File, caller)?;
        match self.store.create(dir, name, &new) {
            Ok(node) => {
                self.give(&node, &acls, || {
                    self.store.close_file(&node, true);
                    self.store.unlink(dir, name)
                })?;
                if self.sync_names {
                    // The file that its writer goes on with is another version.
                    self.store.fsync(&node)?;
                }
                Ok((node, true))
            }
            Err(StoreError::AlreadyExists) if !exclusive => {
                Ok((self.store.lookup(dir, name)?, false))
            }
            Err(error) => Err(error.into()),
        }
    }
}
