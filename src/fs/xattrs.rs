//! Extended attributes (xattr(7)). Who may read and change them is the kernel's to check, but for the listing of
//! `trusted.*`.

use crate::backing::Backing;
use crate::format::{EntryId, EntryKind};
use crate::store::SetXattr;

use super::acl::{ACCESS, DEFAULT};
use super::caller::Caller;
use super::errno::of_inode;
use super::{FileSystem, FsError, NAME_MAX, Result};

/// Longest value, and longest listing of names, in bytes: the kernel's.
const XATTR_LEN_MAX: usize = 65536;

/// The namespaces that are kept. Of `system.*`, which is the kernel's own to fill, only the access control lists are.
const NAMESPACES: [&[u8]; 3] = [USER, b"security.", TRUSTED];
const USER: &[u8] = b"user.";
const TRUSTED: &[u8] = b"trusted.";

impl<B: Backing> FileSystem<B> {
    /// Whether attributes of `ino` are answered from memory.
    pub fn xattrs_are_held(&self, ino: EntryId) -> bool {
        self.inodes.get(ino).map_or(true, |node| self.store.xattrs_are_held(&node))
    }

    /// getxattr(2): the whole value.
    pub fn getxattr(&self, ino: EntryId, name: &[u8]) -> Result<Vec<u8>> {
        check_xattr_name(name)?;
        of_inode(self.store.get_xattr(&self.node(ino)?, name))
    }

    /// listxattr(2): every name, ended by a NUL.
    pub fn listxattr(&self, ino: EntryId, caller: Caller) -> Result<Vec<u8>> {
        let names = of_inode(self.store.list_xattrs(&self.node(ino)?))?;
        let shown = names.iter().filter(|name| {
            check_xattr_name(name).is_ok() && (caller.uid == 0 || !name.starts_with(TRUSTED))
        });
        let mut list = Vec::new();
        for name in shown {
            list.extend_from_slice(name);
            list.push(0);
        }
        if list.len() > XATTR_LEN_MAX {
            return Err(FsError::TooBig);
        }
        Ok(list)
    }

    /// setxattr(2) with its flags.
    pub fn setxattr(
        &self,
        ino: EntryId,
        name: &[u8],
        value: &[u8],
        flags: i32,
        caller: Caller,
    ) -> Result<()> {
        check_xattr_name(name)?;
        if is_acl(name) {
            return self.set_acl(&self.node(ino)?, name, value, caller);
        }
        if value.len() > XATTR_LEN_MAX {
            return Err(FsError::TooBig);
        }
        let how = match flags {
            0 => SetXattr::Any,
            libc::XATTR_CREATE => SetXattr::Create,
            libc::XATTR_REPLACE => SetXattr::Replace,
            _ => return Err(FsError::InvalidArgument),
        };
        let node = self.node(ino)?;
        if name.starts_with(USER) && !matches!(node.kind(), EntryKind::File | EntryKind::Dir) {
            return Err(FsError::NotPermitted);
        }
        of_inode(self.store.set_xattr(&node, name, value, how))
    }

    /// removexattr(2).
    pub fn removexattr(&self, ino: EntryId, name: &[u8]) -> Result<()> {
        check_xattr_name(name)?;
        if is_acl(name) {
            return self.remove_acl(&self.node(ino)?, name);
        }
        of_inode(self.store.remove_xattr(&self.node(ino)?, name))
    }
}

fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

fn check_xattr_name(name: &[u8]) -> Result<()> {
    if is_acl(name) {
        return Ok(());
    }
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(FsError::OutOfRange);
    }
    let namespace = NAMESPACES.iter().find(|namespace| name.starts_with(namespace));
    match namespace {
        Some(namespace) if name.len() == namespace.len() => Err(FsError::InvalidArgument),
        Some(_) if name.contains(&0) => Err(FsError::InvalidArgument),
        Some(_) => Ok(()),
        None => Err(FsError::NotSupported),
    }
}
