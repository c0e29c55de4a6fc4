//! Moves backing objects into `lost+found`, whole and unchanged, by native renames. No store is open meanwhile.

use std::collections::HashMap;
use std::io::ErrorKind;

use crate::backing::{At, Backing, FileKind, RenameMode, TempFile};
use crate::entropy::Entropy;
use crate::format::{
    BackingName, Entry, EntryId, EntryKind, NameClass, RESCUE_NAME, classify_name, seal_entry,
    temp_file_name,
};

use super::super::core::{ControlDirs, VaultKeys};
use super::super::error::{Attempt, Result, StoreError};
use super::nameless::entry_of;

/// Behind the name of a sidecar that is kept: so it is no sidecar any more.
const KEPT_MARK: &[u8] = b"~";

pub(super) struct Mover<'a, B: Backing> {
    backing: &'a B,
    vault: &'a VaultKeys,
    dirs: &'a ControlDirs<B>,
    entropy: &'a dyn Entropy,
    /// The backing directory of `lost+found`.
    pub lost_found: B::Dir,
    id: EntryId,
    /// What is in it, by id: a cut may have left the source of a move beside its target.
    held: HashMap<EntryId, Vec<u8>>,
}

impl<'a, B: Backing> Mover<'a, B> {
    /// Opens `lost+found`, the directory `id` in the root.
    pub fn open(
        backing: &'a B,
        vault: &'a VaultKeys,
        dirs: &'a ControlDirs<B>,
        entropy: &'a dyn Entropy,
        id: EntryId,
    ) -> Result<Self> {
        let listing = backing.list(&dirs.root).attempt("read the vault")?;
        let is_it = |name: &[u8]| {
            entry_of(backing, vault, &dirs.root, EntryId::ROOT, name)
                .is_some_and(|entry| entry.id == id && entry.kind == EntryKind::Dir)
        };
        let name = listing.into_iter().find(|raw| is_it(&raw.name)).ok_or(StoreError::NotFound)?;
        let lost_found = backing.open_dir(&dirs.root, &name.name).attempt("open lost+found")?;
        let mut held = HashMap::new();
        for raw in backing.list(&lost_found).attempt("read lost+found")? {
            if let Some(entry) = entry_of(backing, vault, &lost_found, id, &raw.name) {
                held.insert(entry.id, raw.name);
            }
        }
        Ok(Mover { backing, vault, dirs, entropy, lost_found, id, held })
    }

    /// Moves an object to `lost+found` as `entry`.
    pub fn sealed(&mut self, from: &B::Dir, name: &[u8], entry: &Entry) -> Result<bool> {
        if let Some(held) = self.held.get(&entry.id)
            && self.is_same(from, name, held)
        {
            return self.finish(from, name);
        }
        let target = seal_entry(&self.vault.keys, self.id, entry);
        self.place_sidecar(&self.lost_found, &target)?;
        let moved = self.rename(from, name, &target.name)?;
        self.held.insert(entry.id, target.name);
        Ok(moved)
    }

    /// Gives an object the name `entry` in the directory where it is, which is `dir` and has the id `id`.
    pub fn in_place(&self, dir: &B::Dir, id: EntryId, name: &[u8], entry: &Entry) -> Result<bool> {
        let target = seal_entry(&self.vault.keys, id, entry);
        self.sidecar(dir, name)?;
        self.place_sidecar(dir, &target)?;
        if target.name == name {
            // A long name that had lost nothing but its sidecar.
            return Ok(true);
        }
        match self.backing.rename(dir, name, dir, &target.name, RenameMode::NoReplace) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            other => other.attempt("give something a name").map(|()| true),
        }
    }

    /// Moves what stands in the place of a rescue copy to `lost+found`; returns the name that it has there. `None` if there is
    /// nothing.
    pub fn rescue(&self, from: &B::Dir) -> Result<Option<Vec<u8>>> {
        let mut target = [RESCUE_NAME, KEPT_MARK].concat();
        while self.backing.stat(&self.lost_found, At::Name(&target)).is_ok() {
            target.extend_from_slice(KEPT_MARK);
        }
        Ok(self.rename(from, RESCUE_NAME, &target)?.then_some(target))
    }

    /// Writes the sidecar of a long name, durable with its own name on return.
    fn place_sidecar(&self, dir: &B::Dir, of: &BackingName) -> Result<()> {
        let Some(sidecar) = &of.sidecar else { return Ok(()) };
        let (tmp, temp_name) = (&self.dirs.tmp, temp_file_name(self.entropy));
        let made = self.backing.create_temp(tmp, &temp_name, 0o600);
        let temp = made.attempt("create a sidecar")?;
        temp.write_at(0, &sidecar.content).attempt("write a sidecar")?;
        temp.sync().attempt("sync a sidecar")?;
        self.backing
            .rename(tmp, &temp_name, dir, &sidecar.name, RenameMode::Replace)
            .attempt("place a sidecar")?;
        self.backing.sync_dir(dir).attempt("sync a sidecar's name")
    }

    /// Moves an object of unknown name to `lost+found` under the backing name that it has, with the sidecar that may belong to it.
    pub fn raw(&mut self, from: &B::Dir, name: &[u8]) -> Result<bool> {
        if self.is_same(from, name, name) {
            return self.finish(from, name);
        }
        let mut target = name.to_vec();
        while self.backing.stat(&self.lost_found, At::Name(&target)).is_ok() {
            target.truncate(250);
            target.extend_from_slice(KEPT_MARK);
        }
        let moved = self.rename(from, name, &target)?;
        self.sidecar(from, name)?;
        Ok(moved)
    }

    /// Moves the sidecar of a long name away that does not open.
    pub fn sidecar(&self, from: &B::Dir, name: &[u8]) -> Result<()> {
        if classify_name(name) != NameClass::Long {
            return Ok(());
        }
        let sidecar = [name, b".name"].concat();
        if self.backing.stat(from, At::Name(&sidecar)).is_ok() {
            self.rename(from, &sidecar, &[&sidecar, KEPT_MARK].concat())?;
        }
        Ok(())
    }

    /// Whether the rename from `name` to `held` happened, and a cut left both.
    fn is_same(&self, from: &B::Dir, name: &[u8], held: &[u8]) -> bool {
        let here = self.backing.stat(from, At::Name(name));
        let there = self.backing.stat(&self.lost_found, At::Name(held));
        matches!((here, there), (Ok(a), Ok(b)) if a.ino == b.ino && a.kind == FileKind::File && a.kind == b.kind)
    }

    fn finish(&self, from: &B::Dir, name: &[u8]) -> Result<bool> {
        self.backing.unlink(from, name).attempt("end a move to lost+found")?;
        Ok(true)
    }

    /// `false` if the source is gone.
    fn rename(&self, from: &B::Dir, name: &[u8], to: &[u8]) -> Result<bool> {
        let mode = RenameMode::NoReplace;
        match self.backing.rename(from, name, &self.lost_found, to, mode) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            other => other.attempt("move something to lost+found").map(|()| true),
        }
    }
}
