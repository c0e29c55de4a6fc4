//! chmod(2), chown(2), utimensat(2) and truncate(2): one request of the kernel each, or several in one.

use std::sync::Arc;

use crate::backing::Backing;
use crate::clock::Timestamp;
use crate::format::{EntryId, EntryKind};
use crate::store::{Attr, Node, SetAttr, TimeChange};

use super::caller::{Caller, PERMISSION_BITS, without_set_id};
use super::errno::of_inode;
use super::{FileSystem, FsError, Handle, Result};

/// What to change; `None` leaves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttrRequest {
    /// Permission bits; type bits are ignored.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<TimeChange>,
    /// Last modification.
    pub mtime: Option<TimeChange>,
    /// Last change: the kernel keeps it itself while it caches writes.
    pub ctime: Option<Timestamp>,
}

impl<B: Backing> FileSystem<B> {
    /// Changes attributes, the size first; returns them all. `handle` is the open file of ftruncate(2).
    ///
    /// A change of owner and a truncation clear set-id bits. A truncation without a write handle is a
    /// whole edit of its own.
    pub fn setattr(
        &self,
        ino: EntryId,
        handle: Option<Handle>,
        request: &AttrRequest,
        caller: Caller,
    ) -> Result<Attr> {
        let node = self.node(ino)?;
        self.note_change();
        if let Some(size) = request.size {
            self.set_size(&node, handle, size, caller)?;
        }
        let mut change = SetAttr {
            mode: request.mode.map(|mode| mode & PERMISSION_BITS),
            uid: request.uid,
            gid: request.gid,
            atime: request.atime,
            mtime: request.mtime,
            ctime: request.ctime,
        };
        change = self.view.unshow(change, || of_inode(self.store.attr(&node)))?;
        let new_owner = request.uid.is_some() || request.gid.is_some();
        if new_owner && change.mode.is_none() && node.kind() != EntryKind::Dir {
            let mode = of_inode(self.store.attr(&node))?.mode;
            let cleared = without_set_id(mode);
            change.mode = (cleared != mode).then_some(cleared);
        }
        if change == SetAttr::default() {
            return self.getattr(ino);
        }
        let attr = of_inode(self.store.set_attr(&node, &change))?;
        if let (Some(_), Some(mode)) = (request.mode, change.mode) {
            self.chmod_acl(&node, mode)?;
        }
        Ok(self.view.show(attr))
    }

    fn set_size(
        &self,
        node: &Arc<Node<B>>,
        handle: Option<Handle>,
        size: u64,
        caller: Caller,
    ) -> Result<()> {
        match node.kind() {
            EntryKind::File => {}
            EntryKind::Dir => return Err(FsError::IsADirectory),
            EntryKind::Symlink
            | EntryKind::Fifo
            | EntryKind::Socket
            | EntryKind::CharDevice
            | EntryKind::BlockDevice => return Err(FsError::InvalidArgument),
        }
        let open = handle.map(|handle| self.files.get(handle)).transpose()?;
        if open.is_some_and(|file| file.access.writes()) {
            self.store.truncate(node, size)?;
        } else {
            self.as_writer(node, |store| store.truncate(node, size))?;
        }
        if !caller.keeps_set_id() {
            self.clear_set_id(node)?;
        }
        Ok(())
    }

    /// Clears the set-id bits that a write must clear.
    pub(super) fn clear_set_id(&self, node: &Arc<Node<B>>) -> Result<()> {
        let mode = self.store.attr(node)?.mode;
        let cleared = without_set_id(mode);
        if cleared != mode {
            let change = SetAttr { mode: Some(cleared), ..SetAttr::default() };
            self.store.set_attr(node, &change)?;
            // Under HANDLE_KILLPRIV_V2 the kernel leaves it to us, and keeps the mode that it knows.
            self.note_stale(node.id());
        }
        Ok(())
    }
}
