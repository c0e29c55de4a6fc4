//! Extended attributes, beside the model.

use akasha::format::EntryId;

use super::driver::{CALLER, Different, Driver, both, same, text};
use super::reference::{Body, NodeIndex};

/// The names that operations use: of every kept namespace, short, as long as fits beside a file and longer, and one not offered.
fn name_of(which: usize) -> Vec<u8> {
    match which {
        0 => b"user.a".to_vec(),
        1 => [&b"user."[..], &[b'n'; 150]].concat(),
        6 => [&b"user."[..], &[b'l'; 250]].concat(),
        2 => b"security.b".to_vec(),
        3 => b"trusted.c".to_vec(),
        4 => [&b"user."[..], &[0xff, b'/', b' ']].concat(),
        _ => b"system.d".to_vec(),
    }
}

impl Driver {
    pub(super) fn set_xattr(
        &mut self,
        (node, ino): (NodeIndex, EntryId),
        which: usize,
        len: usize,
        flags: i32,
    ) -> Result<(), Different> {
        let name = name_of(which);
        let value = vec![len as u8; len];
        let real = self.fs.setxattr(ino, &name, &value, flags, super::driver::CALLER);
        let model = self.model.node_mut(node);
        let mut refusal = Vec::new();
        if name.starts_with(b"system.") {
            refusal.push(libc::EOPNOTSUPP);
        }
        if len > 65536 {
            refusal.push(libc::E2BIG);
        }
        if name.starts_with(b"user.") && matches!(model.body, Body::Symlink(_) | Body::Special(..))
        {
            refusal.push(libc::EPERM);
        }
        match (flags, model.xattrs.contains_key(&name)) {
            (libc::XATTR_CREATE, true) => refusal.push(libc::EEXIST),
            (libc::XATTR_REPLACE, false) => refusal.push(libc::ENODATA),
            _ => {}
        }
        let allowed = if refusal.is_empty() { Ok(()) } else { Err(refusal) };
        if both(real, allowed)?.is_some() {
            self.model.node_mut(node).xattrs.insert(name, value);
        }
        self.compare_xattrs(node, ino)
    }

    pub(super) fn remove_xattr(
        &mut self,
        (node, ino): (NodeIndex, EntryId),
        which: usize,
    ) -> Result<(), Different> {
        let name = name_of(which);
        let real = self.fs.removexattr(ino, &name);
        let removed = self.model.node_mut(node).xattrs.remove(&name);
        let model = match removed {
            Some(_) => Ok(()),
            None if name.starts_with(b"system.") => Err(vec![libc::EOPNOTSUPP]),
            None => Err(vec![libc::ENODATA]),
        };
        both(real, model)?;
        self.compare_xattrs(node, ino)
    }

    pub(super) fn compare_xattrs(&self, node: NodeIndex, ino: EntryId) -> Result<(), Different> {
        let model = &self.model.node(node).xattrs;
        let names: Vec<u8> = model.keys().flat_map(|name| [name, &b"\0"[..]].concat()).collect();
        same("attributes", self.fs.listxattr(ino, CALLER).map_err(text)?, names)?;
        for (name, value) in model {
            same("an attribute", &self.fs.getxattr(ino, name).map_err(text)?, value)?;
        }
        Ok(())
    }
}
