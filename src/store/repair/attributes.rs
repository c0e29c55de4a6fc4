//! Attributes that do not authenticate: written down in `lost+found` as they are, then taken off, so that the others can be used.

use std::fmt::Write as _;

use crate::backing::{At, Backing};
use crate::format::{
    Entry, EntryId, SIDE_ATTRIBUTE, SideRef, inode_file_name, is_sealed_xattr, layer_file_name,
    open_xattr, open_xattr_name,
};

use super::super::check::Place;
use super::super::core::{ControlDirs, VaultKeys};
use super::super::error::{Attempt, Result};
use super::moves::Mover;
use super::plan::{in_lost_found, open_place, path_in};
use super::salvage::Salvage;
use super::{Deed, DeedKind};

/// An object with such attributes.
pub(super) struct BadAttributes {
    place: Place,
    /// Empty for the directory itself.
    name: Vec<u8>,
    entry: Option<Entry>,
    id: EntryId,
    /// Those to be taken off.
    keys: Vec<Vec<u8>>,
    /// Side objects that they referred to.
    sides: Vec<Vec<u8>>,
    /// The name in `lost+found` of what is written down of them.
    record: Vec<u8>,
}

impl BadAttributes {
    pub fn new(place: Place, name: Vec<u8>, entry: Option<Entry>, id: EntryId) -> Self {
        let (keys, sides, record) = (Vec::new(), Vec::new(), Vec::new());
        BadAttributes { place, name, entry, id, keys, sides, record }
    }

    pub fn path(&self) -> Vec<u8> {
        path_in(&self.place, self.entry.as_ref().map_or(&b""[..], |entry| &entry.name))
    }

    /// The plaintext name, for the record's.
    pub fn plain_name(&self) -> Vec<u8> {
        match (&self.entry, &self.place) {
            (Some(entry), _) => entry.name.clone(),
            (None, Place::Tree(here)) if !here.plain.is_empty() => here.plain.clone(),
            (None, _) => b"root".to_vec(),
        }
    }

    /// Where the object is: with several names, in `.akasha/inodes`.
    fn object<B: Backing>(&self, backing: &B, dirs: &ControlDirs<B>) -> Result<(B::Dir, Vec<u8>)> {
        let is_inode = self.entry.as_ref().is_some_and(|entry| entry.inode.is_some());
        let (place, name) = if is_inode {
            (Place::Control(b"inodes"), inode_file_name(self.id))
        } else {
            (self.place.clone(), self.name.clone())
        };
        let dir = open_place(backing, dirs, &place).attempt("open a directory")?;
        Ok((dir, name))
    }

    /// Finds them; returns a text that has all of them as they are.
    pub fn describe<B: Backing>(
        &mut self,
        backing: &B,
        dirs: &ControlDirs<B>,
        vault: &VaultKeys,
    ) -> Result<String> {
        let (dir, name) = self.object(backing, dirs)?;
        let at = if name.is_empty() { At::This } else { At::Name(&name) };
        let salvage = Salvage { backing, dirs, vault };
        let mut text = String::from(
            "akasha: attributes that do not authenticate, as they stood in the vault (hexadecimal)\n\n",
        );
        for key in backing.list_xattrs(&dir, at).attempt("list attributes")? {
            if !is_sealed_xattr(&key) {
                continue;
            }
            let Some(why) = salvage.bad_attribute(&dir, at, self.id, &key) else { continue };
            let sealed = backing.get_xattr(&dir, at, &key).attempt("read an attribute")?;
            let sealed = sealed.unwrap_or_default();
            let hex = data_encoding::HEXLOWER.encode(&sealed);
            let _ = writeln!(text, "{why}\n  {} = {hex}", String::from_utf8_lossy(&key));
            let plain = open_xattr_name(&vault.keys, self.id, &key).ok();
            if plain.as_deref() == Some(SIDE_ATTRIBUTE)
                && let Ok(reference) = open_xattr(&vault.keys, self.id, SIDE_ATTRIBUTE, &sealed)
                && let Ok(side) = SideRef::from_bytes(&reference)
            {
                self.sides.push(layer_file_name(self.id, side.id));
            }
            self.keys.push(key);
        }
        Ok(text)
    }

    /// The record of them was written, under this name.
    pub fn recorded(&mut self, record: Vec<u8>) {
        self.record = record;
    }

    /// Takes them off.
    pub fn take_off<B: Backing>(
        &self,
        mover: &mut Mover<'_, B>,
        backing: &B,
        dirs: &ControlDirs<B>,
    ) -> Result<Option<Deed>> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        for side in &self.sides {
            mover.raw(&dirs.xattrs, side)?;
        }
        let (dir, name) = self.object(backing, dirs)?;
        let at = if name.is_empty() { At::This } else { At::Name(&name) };
        for key in &self.keys {
            backing.set_xattr(&dir, at, key, None).attempt("take an attribute off")?;
        }
        let (path, to) = (self.path(), in_lost_found(&self.record));
        Ok(Some(Deed { kind: DeedKind::Detached, path, name: None, to, holes: Vec::new() }))
    }
}
