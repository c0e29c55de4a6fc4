//! Access control lists of the tree: kept with the permission bits, handed down to what is made, changed by chmod. What a
//! list means is in `acl`; who may do what by it, the kernel decides.

use std::sync::Arc;

use crate::backing::Backing;
use crate::format::EntryKind;
use crate::store::{NewAttr, Node, SetAttr, SetXattr, StoreError};

use super::acl::{ACCESS, Acl, DEFAULT};
use super::caller::{Caller, NewMode, PERMISSION_BITS, S_ISGID};
use super::errno::of_inode;
use super::{FileSystem, FsError, Result};

/// The lists that a new object gets, as the values of their xattrs.
#[derive(Debug, Default)]
pub(super) struct NewAcls {
    access: Option<Vec<u8>>,
    default: Option<Vec<u8>>,
}

impl<B: Backing> FileSystem<B> {
    /// What a new object of this kind in `dir` starts with. Under a default list the umask does not count.
    pub(super) fn heritage(
        &self,
        dir: &Arc<Node<B>>,
        mode: NewMode,
        kind: EntryKind,
        caller: Caller,
    ) -> Result<(NewAttr, NewAcls)> {
        let (parent, is_dir) = (self.store.attr(dir)?, kind == EntryKind::Dir);
        let default = if kind == EntryKind::Symlink { None } else { self.acl(dir, DEFAULT)? };
        let Some(default) = default else {
            return Ok((mode.inherit(caller, &parent, is_dir), NewAcls::default()));
        };
        let handed_on = is_dir.then(|| default.to_bytes());
        let access = default.inherited(mode.mode);
        let bits = mode.mode & PERMISSION_BITS & !0o777 | access.mode();
        let acls =
            NewAcls { access: (!access.is_mode()).then(|| access.to_bytes()), default: handed_on };
        Ok((NewMode { mode: bits, umask: 0 }.inherit(caller, &parent, is_dir), acls))
    }

    /// Gives a new object its lists; `undo` takes it away again if that cannot be.
    pub(super) fn give(
        &self,
        node: &Arc<Node<B>>,
        acls: &NewAcls,
        undo: impl FnOnce() -> std::result::Result<(), StoreError>,
    ) -> Result<()> {
        let lists = [(ACCESS, &acls.access), (DEFAULT, &acls.default)];
        for (name, list) in lists {
            let Some(list) = list else { continue };
            if let Err(error) = self.store.set_xattr(node, name, list, SetXattr::Any) {
                // Without its list it would be open to others than it should.
                undo()?;
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// A list of an object, if it has one.
    fn acl(&self, node: &Arc<Node<B>>, name: &[u8]) -> Result<Option<Acl>> {
        match self.store.has_xattrs(node) {
            Ok(true) => {}
            Ok(false) | Err(StoreError::NotSupported) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        match self.store.get_xattr(node, name) {
            // What authenticates and is no list was never set through a mount.
            Ok(bytes) => Acl::parse(&bytes),
            Err(StoreError::NoAttribute | StoreError::NotSupported) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// After a chmod: the list says what the bits say.
    pub(super) fn chmod_acl(&self, node: &Arc<Node<B>>, mode: u32) -> Result<()> {
        if node.kind() == EntryKind::Symlink {
            return Ok(());
        }
        let Some(acl) = self.acl(node, ACCESS)? else { return Ok(()) };
        let changed = acl.clone().with_mode(mode);
        if changed != acl {
            self.store.set_xattr(node, ACCESS, &changed.to_bytes(), SetXattr::Any)?;
        }
        Ok(())
    }

    /// setxattr(2) of a list. A list that permission bits can say becomes them, and an empty one no list.
    ///
    /// # Errors
    /// [`FsError::AccessDenied`] for a default list of anything but a directory, [`FsError::InvalidArgument`] for no list.
    pub(super) fn set_acl(
        &self,
        node: &Arc<Node<B>>,
        name: &[u8],
        value: &[u8],
        caller: Caller,
    ) -> Result<()> {
        if node.kind() == EntryKind::Symlink {
            return Err(FsError::NotSupported);
        }
        let acl = Acl::parse(value)?;
        if name == DEFAULT {
            return match acl {
                Some(_) if node.kind() != EntryKind::Dir => Err(FsError::AccessDenied),
                Some(acl) => {
                    of_inode(self.store.set_xattr(node, DEFAULT, &acl.to_bytes(), SetXattr::Any))
                }
                None => self.remove_acl(node, DEFAULT),
            };
        }
        let Some(acl) = acl else { return self.remove_acl(node, ACCESS) };
        let now = of_inode(self.store.attr(node))?;
        let mut mode = now.mode & !0o777 | acl.mode();
        // The kernel's rule (posix_acl_update_mode), but for groups that only it knows the caller is in.
        if caller.uid != 0 && caller.gid != now.gid {
            mode &= !S_ISGID;
        }
        if acl.is_mode() {
            self.remove_acl(node, ACCESS)?;
        } else {
            self.store.set_xattr(node, ACCESS, &acl.to_bytes(), SetXattr::Any)?;
        }
        if mode != now.mode {
            let change = SetAttr { mode: Some(mode), ..SetAttr::default() };
            of_inode(self.store.set_attr(node, &change))?;
        }
        self.note_change();
        Ok(())
    }

    /// removexattr(2) of a list; that there is none is fine.
    pub(super) fn remove_acl(&self, node: &Arc<Node<B>>, name: &[u8]) -> Result<()> {
        match self.store.remove_xattr(node, name) {
            Err(StoreError::NoAttribute) => Ok(()),
            done => of_inode(done),
        }
    }
}
