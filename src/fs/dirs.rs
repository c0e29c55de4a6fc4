//! Open directories and their listings.
//!
//! Cookies are the store's, which begin at 3 and only ever grow, so a listing goes on correctly after
//! any change; `.` and `..` have 1 and 2.

use std::sync::Arc;

use crate::backing::Backing;
use crate::format::{EntryId, EntryKind};
use crate::store::{Accessed, Attr, Node, StoreError};

use super::handles::DirHandle;
use super::{FileSystem, FsError, Handle, Result};

/// The smallest cookie that the store gives.
pub const FIRST_STORE_COOKIE: u64 = 3;
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// Names collected under the store's lock before their attributes are looked up without it: about what
/// one 32 KiB reply (getdents(2) by glibc) holds.
const BATCH: usize = 128;

/// One name of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirItem<'a> {
    /// Where a listing that stopped here goes on.
    pub cookie: u64,
    /// st_ino.
    pub ino: EntryId,
    /// The type.
    pub kind: EntryKind,
    /// The name.
    pub name: &'a [u8],
}

/// One name of a listing with attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirItemPlus<'a> {
    /// The name.
    pub item: DirItem<'a>,
    /// Its attributes, with one lookup counted; `None` for `.` and `..` and where they cannot be had, which
    /// the lookup that follows will report.
    pub attr: Option<&'a Attr>,
}

impl<B: Backing> FileSystem<B> {
    /// opendir(3).
    pub fn opendir(&self, ino: EntryId) -> Result<Handle> {
        let node = self.node(ino)?;
        if node.kind() != EntryKind::Dir {
            return Err(FsError::Store(StoreError::NotADirectory));
        }
        self.store.open_dir(&node)?;
        self.note_access(&node, Accessed::Opened);
        Ok(self.dirs.add(DirHandle { node }))
    }

    /// closedir(3).
    pub fn releasedir(&self, handle: Handle) -> Result<()> {
        let dir = self.dirs.remove(handle)?;
        self.store.close_dir(&dir.node);
        Ok(())
    }

    /// fsync(2) of a directory: its names are durable on return, and what they name (G2).
    pub fn fsyncdir(&self, handle: Handle) -> Result<()> {
        let synced = self.store.fsync_dir(&self.dirs.get(handle)?.node);
        if synced.is_err() {
            self.note_change();
        }
        Ok(synced?)
    }

    /// Lists from after the cookie `after` (0: from the start) until `emit` says that it took no more.
    /// `emit` runs under the store's lock of the directory: it must not call back.
    pub fn readdir(
        &self,
        handle: Handle,
        after: u64,
        emit: &mut dyn FnMut(&DirItem<'_>) -> bool,
    ) -> Result<()> {
        let dir = self.dirs.get(handle)?;
        for dot in self.dots(&dir.node, after) {
            if !emit(&dot) {
                return Ok(());
            }
        }
        self.store.list(&dir.node, after.max(DOT_DOT), &mut |entry| {
            emit(&DirItem {
                cookie: entry.cookie,
                ino: entry.id,
                kind: entry.kind,
                name: entry.name,
            })
        })?;
        Ok(())
    }

    /// Lists with attributes. A lookup stays counted for each item with attributes that `emit` took (it
    /// returns false for one that it did not).
    pub fn readdirplus(
        &self,
        handle: Handle,
        after: u64,
        emit: &mut dyn FnMut(&DirItemPlus<'_>) -> bool,
    ) -> Result<()> {
        let dir = self.dirs.get(handle)?;
        for dot in self.dots(&dir.node, after) {
            if !emit(&DirItemPlus { item: dot, attr: None }) {
                return Ok(());
            }
        }
        let mut after = after.max(DOT_DOT);
        loop {
            let names = self.some_names(&dir.node, after)?;
            for name in &names {
                after = name.cookie;
                let known = match self.store.lookup(&dir.node, &name.bytes) {
                    // Gone since it was collected, or another node by now, whose cookie comes later.
                    Err(StoreError::NotFound) => continue,
                    Ok(node) if node.id() != name.ino => continue,
                    Ok(node) => self.remember(&node).ok(),
                    Err(_) => None,
                };
                let taken = emit(&DirItemPlus { item: name.item(), attr: known.as_ref() });
                if !taken {
                    if known.is_some() {
                        self.forget(name.ino, 1);
                    }
                    return Ok(());
                }
            }
            if names.len() < BATCH {
                return Ok(());
            }
        }
    }

    fn dots(&self, dir: &Arc<Node<B>>, after: u64) -> impl Iterator<Item = DirItem<'static>> {
        let dot = DirItem { cookie: DOT, ino: dir.id(), kind: EntryKind::Dir, name: b"." };
        let parent = self.store.parent_id(dir);
        let dot_dot = DirItem { cookie: DOT_DOT, ino: parent, kind: EntryKind::Dir, name: b".." };
        [dot, dot_dot].into_iter().filter(move |item| item.cookie > after)
    }

    fn some_names(&self, dir: &Arc<Node<B>>, after: u64) -> Result<Vec<Collected>> {
        let mut names = Vec::with_capacity(BATCH);
        self.store.list(dir, after, &mut |entry| {
            names.push(Collected {
                cookie: entry.cookie,
                ino: entry.id,
                kind: entry.kind,
                bytes: entry.name.to_vec(),
            });
            names.len() < BATCH
        })?;
        Ok(names)
    }
}

/// A name copied out of a listing.
struct Collected {
    cookie: u64,
    ino: EntryId,
    kind: EntryKind,
    bytes: Vec<u8>,
}

impl Collected {
    fn item(&self) -> DirItem<'_> {
        DirItem { cookie: self.cookie, ino: self.ino, kind: self.kind, name: &self.bytes }
    }
}
