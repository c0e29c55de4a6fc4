//! What is made whole and never opened here: symbolic links, fifos, sockets and devices. Each is a sealed file of its
//! kind in the vault: the kind and a device's number stand in the sealed entry, a link's target in the layer. The
//! kernel follows links and opens fifos and devices by itself, so nobody ever closes one: what makes it completes it.

use std::sync::Arc;

use crate::backing::Backing;
use crate::format::EntryKind;

use super::error::{Result, StoreError};
use super::file::WriteTime;
use super::node::{Link, Node};
use super::{NewAttr, Store};

/// symlink(2): a path, without its NUL.
const TARGET_LEN_MAX: usize = 4095;
/// rename(2), RENAME_WHITEOUT: "a character device with a {0,0} device number".
const WHITEOUT_DEVICE: u64 = 0;

impl<B: Backing> Store<B> {
    /// Makes a symbolic link. It exists in memory until it is committed.
    pub fn symlink(
        &self,
        dir: &Arc<Node<B>>,
        name: &[u8],
        target: &[u8],
        new: &NewAttr,
    ) -> Result<Arc<Node<B>>> {
        if target.is_empty() || target.len() > TARGET_LEN_MAX {
            return Err(StoreError::NameTooLong);
        }
        let node = self.make_pending(dir, name, EntryKind::Symlink, None, new)?;
        self.complete_made(dir, name, node, |node| {
            node.write_file(&self.core, 0, target, WriteTime::Now)
        })
    }

    /// Makes a fifo, a socket or a device. It exists in memory until it is committed.
    ///
    /// # Errors
    /// `InvalidArgument` for a kind that is made otherwise.
    pub fn make_special(
        &self,
        dir: &Arc<Node<B>>,
        name: &[u8],
        kind: EntryKind,
        rdev: u64,
        new: &NewAttr,
    ) -> Result<Arc<Node<B>>> {
        let rdev = match kind {
            EntryKind::Fifo | EntryKind::Socket => None,
            EntryKind::CharDevice | EntryKind::BlockDevice => Some(rdev),
            EntryKind::File | EntryKind::Dir | EntryKind::Symlink => {
                return Err(StoreError::InvalidArgument);
            }
        };
        let node = self.make_pending(dir, name, kind, rdev, new)?;
        self.complete_made(dir, name, node, |_| Ok(()))
    }

    /// The device that a rename is to leave under `name`, complete and not shown yet.
    pub(super) fn new_whiteout(
        &self,
        dir: &Arc<Node<B>>,
        name: &[u8],
        new: &NewAttr,
    ) -> Result<Arc<Node<B>>> {
        let link = Link { dir: Arc::clone(dir), name: name.into() };
        let node =
            self.new_pending(Some(link), EntryKind::CharDevice, Some(WHITEOUT_DEVICE), new)?;
        node.complete_edit(&self.core)?;
        Ok(node)
    }

    /// Makes a whiteout durable together with the rename that left it, or forgets it if nothing was renamed.
    pub(super) fn finish_whiteout(
        &self,
        whiteout: &Arc<Node<B>>,
        is_renamed: bool,
        dir: &Arc<Node<B>>,
        to_dir: &Arc<Node<B>>,
    ) -> Result<()> {
        if !is_renamed || self.nodes.get(whiteout.id()).is_none() {
            self.discard(whiteout);
            return Ok(());
        }
        self.queue.make_eligible(whiteout, self.core.clock.elapsed());
        self.fsync_dir(dir)?;
        self.fsync_dir(to_dir)
    }

    /// Nobody closes it: that it fits the disk is known now or never.
    fn complete_made(
        &self,
        dir: &Arc<Node<B>>,
        name: &[u8],
        node: Arc<Node<B>>,
        fill: impl FnOnce(&Arc<Node<B>>) -> Result<()>,
    ) -> Result<Arc<Node<B>>> {
        if let Err(error) = fill(&node).and_then(|()| node.complete_edit(&self.core)) {
            self.unlink(dir, name)?;
            return Err(error);
        }
        self.queue.make_eligible(&node, self.core.clock.elapsed());
        Ok(node)
    }
}

/// Whether an entry of this kind has content: a size, and blocks.
pub(crate) fn has_content(kind: EntryKind) -> bool {
    match kind {
        EntryKind::File | EntryKind::Dir | EntryKind::Symlink => true,
        EntryKind::Fifo | EntryKind::Socket | EntryKind::CharDevice | EntryKind::BlockDevice => {
            false
        }
    }
}
