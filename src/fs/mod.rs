//! POSIX meaning over the store: which inodes the kernel knows, what is open, what a new file
//! inherits, which mode bits a change clears, and the one table of error numbers.
//!
//! It knows no FUSE: requests come as numbers and bytes, answers go as [`Attr`] or [`FsError`], so
//! everything here runs in a test without a kernel. It checks no permissions either (the kernel does,
//! `default_permissions`) and holds no content.
//!
//! Invariants owned here:
//! - a node stays known exactly as long as the kernel counts lookups of it, or a handle is open;
//! - every handle that was opened at the store is closed there once, at the latest by
//!   [`FileSystem::close_all`];
//! - a change made without a write handle (truncate(2), mknod) is bracketed by one, so that the store
//!   sees an end of writing after which it may commit.
//!
//! Locks: the tables lock for a lookup or an insertion, never across a call into the store.

mod acl;
mod acls;
mod attr;
mod caller;
mod dirs;
mod errno;
mod files;
mod handles;
mod inodes;
mod names;
mod space;
mod view;
mod xattrs;

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::backing::Backing;
use crate::format::EntryId;
use crate::store::{Accessed, Attr, Node, Store, StoreError};

pub use attr::AttrRequest;
pub use caller::{Caller, NewMode};
pub use dirs::{DirItem, DirItemPlus, FIRST_STORE_COOKIE};
pub use errno::{Errno, FsError};
pub use files::{Access, OpenFlags, WriteKind};
pub use handles::Handle;
pub use view::View;

use errno::of_inode;
use handles::{DirHandle, FileHandle, Handles};
use inodes::Inodes;

/// The results of this floor.
pub type Result<T> = std::result::Result<T, FsError>;

/// Longest name in bytes, as on every Linux filesystem.
pub const NAME_MAX: usize = 255;

/// A mounted store as POSIX sees it.
pub struct FileSystem<B: Backing> {
    store: Arc<Store<B>>,
    view: View,
    /// Every change of names is durable before it is answered (`dirsync`).
    sync_names: bool,
    inodes: Inodes<B>,
    files: Handles<FileHandle<B>>,
    dirs: Handles<DirHandle<B>>,
    /// Something changed since the maintenance last looked.
    changed: AtomicBool,
    on_change: OnceLock<Box<dyn Fn() + Send + Sync>>,
    on_stale: OnceLock<Box<dyn Fn(EntryId) + Send + Sync>>,
}

impl<B: Backing> FileSystem<B> {
    /// A filesystem whose kernel side knows only the root.
    pub fn new(store: Arc<Store<B>>, view: View) -> Self {
        let root = store.root();
        FileSystem {
            store,
            view,
            sync_names: false,
            inodes: Inodes::new(&root),
            files: Handles::new(),
            dirs: Handles::new(),
            changed: AtomicBool::new(false),
            on_change: OnceLock::new(),
            on_stale: OnceLock::new(),
        }
    }

    /// The same; with `wanted` every change of names is durable before it is answered (mount(8), `dirsync`). The kernel's
    /// FUSE leaves this to us.
    #[must_use]
    pub fn syncing_names(self, wanted: bool) -> Self {
        FileSystem { sync_names: wanted, ..self }
    }

    /// The store beneath.
    pub fn store(&self) -> &Arc<Store<B>> {
        &self.store
    }

    /// Free space, as of the filesystem that holds the vault.
    pub fn space(&self) -> Result<crate::backing::SpaceStat> {
        Ok(self.store.statfs()?)
    }

    /// Attributes of a known inode.
    pub fn getattr(&self, ino: EntryId) -> Result<Attr> {
        Ok(self.view.show(of_inode(self.store.attr(&self.inodes.get(ino)?))?))
    }

    /// The kernel lost `count` references to `ino`. Unknown numbers are ignored.
    pub fn forget(&self, ino: EntryId, count: u64) {
        // What the store still needs of the node, it holds itself.
        drop(self.inodes.forget(ino, count));
    }

    /// How many inodes the kernel knows, the root included.
    pub fn known_inodes(&self) -> usize {
        self.inodes.len()
    }

    /// How many file and directory handles are open.
    pub fn open_handles(&self) -> usize {
        self.files.len() + self.dirs.len()
    }

    /// Whether `dir` answers lookups and listings without reading the vault. False for what is
    /// not known.
    pub fn is_loaded(&self, dir: EntryId) -> bool {
        self.inodes.get(dir).is_ok_and(|node| self.store.is_loaded(&node))
    }

    /// Whether every change of names is durable before it is answered.
    pub fn syncs_names(&self) -> bool {
        self.sync_names
    }

    /// Whether names of `dir` can be changed without waiting for the disk. False for what is not known.
    pub fn is_settled(&self, dir: EntryId) -> bool {
        !self.sync_names && self.inodes.get(dir).is_ok_and(|node| self.store.is_settled(&node))
    }

    /// Whether an unlink may have to wait for the disk.
    pub fn unlink_may_wait(&self, dir: EntryId, name: &[u8]) -> bool {
        self.inodes
            .get(dir)
            .is_ok_and(|dir| self.sync_names || self.store.unlink_may_wait(&dir, name))
    }

    /// Whether an rmdir may have to wait for the disk.
    pub fn rmdir_may_wait(&self, dir: EntryId, name: &[u8]) -> bool {
        self.inodes
            .get(dir)
            .is_ok_and(|dir| self.sync_names || self.store.rmdir_may_wait(&dir, name))
    }

    /// Whether a rename may have to wait for the disk.
    pub fn rename_may_wait(&self, from: (EntryId, &[u8]), to: (EntryId, &[u8])) -> bool {
        match (self.inodes.get(from.0), self.inodes.get(to.0)) {
            (Ok(dir), Ok(to_dir)) => {
                self.sync_names || self.store.rename_may_wait(&dir, from.1, &to_dir, to.1)
            }
            _ => false,
        }
    }

    /// One turn of the store's maintenance: commits what is due, settles removals. Returns how long
    /// to wait for the next turn unless something changes before.
    pub fn maintain(&self) -> Duration {
        self.changed.store(false, Ordering::Relaxed);
        self.count_open_blocks();
        self.store.tick()
    }

    /// Inodes whose cached pages show changes that were lost to a failed sync: the kernel must forget
    /// those pages. Each is told once.
    pub fn take_invalid(&self) -> Vec<EntryId> {
        self.store.take_invalid()
    }

    /// `notify` runs at the first change after each [`FileSystem::maintain`], in the thread that
    /// makes the change: it must be short. Only the first call counts.
    pub fn on_change(&self, notify: Box<dyn Fn() + Send + Sync>) {
        // A second notifier would be a second session on one filesystem, which does not exist.
        let _ = self.on_change.set(notify);
    }

    /// `forget` runs whenever attributes changed that the kernel goes on showing, since the answer that it gets does not
    /// tell them: in the thread of the request, before it is answered, so that whoever asks next sees them. Only the first
    /// call counts.
    pub fn on_stale_attr(&self, forget: Box<dyn Fn(EntryId) + Send + Sync>) {
        let _ = self.on_stale.set(forget);
    }

    /// The kernel's attributes of `ino` are out of date.
    fn note_stale(&self, ino: EntryId) {
        if let Some(forget) = self.on_stale.get() {
            forget(ino);
        }
    }

    /// Closes every handle that is still open and forgets every inode but the root: the kernel sends no release and no
    /// forget for what was in flight when the mount ended.
    pub fn close_all(&self) {
        for file in self.files.take_all() {
            self.store.close_file(&file.node, file.access.writes());
        }
        for dir in self.dirs.take_all() {
            self.store.close_dir(&dir.node);
        }
        // What was unlinked and never committed goes with its node, while the vault is still ours.
        self.inodes.forget_all();
    }

    /// Marks that maintenance has something to look at.
    fn note_change(&self) {
        // The load keeps the shared cache line clean on the path of every write.
        if !self.changed.load(Ordering::Relaxed)
            && !self.changed.swap(true, Ordering::Relaxed)
            && let Some(notify) = self.on_change.get()
        {
            notify();
        }
    }

    /// Names of `dir` changed; makes that durable where it was asked for.
    fn names_changed(&self, dir: &Arc<Node<B>>) -> Result<()> {
        self.note_change();
        if self.sync_names {
            self.store.fsync_dir(dir)?;
        }
        Ok(())
    }

    /// `node` was read, or opened for it: moves its access time if it is due. What goes wrong is not the reader's.
    fn note_access(&self, node: &Arc<Node<B>>, how: Accessed) {
        let is_dir = node.kind() == crate::format::EntryKind::Dir;
        if self.view.no_atime || (is_dir && self.view.no_dir_atime) {
            return;
        }
        if self.store.note_access(node, how).unwrap_or(false) {
            self.note_stale(node.id());
        }
    }

    fn node(&self, ino: EntryId) -> Result<Arc<Node<B>>> {
        self.inodes.get(ino)
    }

    /// Attributes of `node`, which the kernel is about to learn of: counts the lookup.
    fn remember(&self, node: &Arc<Node<B>>) -> Result<Attr> {
        let attr = self.store.attr(node)?;
        self.inodes.remember(node);
        Ok(self.view.show(attr))
    }
}

/// Refuses names that no directory can hold: length (path_resolution(7)), NUL and '/'.
fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(FsError::Store(StoreError::NameTooLong));
    }
    if name.is_empty() || name == b"." || name == b".." {
        return Err(FsError::InvalidName);
    }
    if name.iter().any(|&byte| byte == 0 || byte == b'/') {
        return Err(FsError::InvalidName);
    }
    Ok(())
}
