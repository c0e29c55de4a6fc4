//! Moves backing objects into `lost+found`, whole and unchanged, by native renames. No store is open meanwhile.

use std::collections::HashMap;
use std::io::ErrorKind;

use crate::backing::{At, Backing, FileKind, RenameMode, TempFile};
use crate::entropy::Entropy;
use crate::format::{
    Entry, EntryId, EntryKind, NameClass, classify_name, seal_entry, temp_file_name,
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
        if let Some(sidecar) = &target.sidecar {
            let temp_name = temp_file_name(self.entropy);
            let made = self.backing.create_temp(&self.dirs.tmp, &temp_name, 0o600);
            let temp = made.attempt("create a sidecar")?;
            temp.write_at(0, &sidecar.content).attempt("write a sidecar")?;
            temp.sync().attempt("sync a sidecar")?;
            self.backing
                .rename(
                    &self.dirs.tmp,
                    &temp_name,
                    &self.lost_found,
                    &sidecar.name,
                    RenameMode::Replace,
                )
                .attempt("place a sidecar")?;
            self.backing.sync_dir(&self.lost_found).attempt("sync lost+found")?;
        }
        let moved = self.rename(from, name, &target.name)?;
        self.held.insert(entry.id, target.name);
        Ok(moved)
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
    pub fn sidecar(&mut self, from: &B::Dir, name: &[u8]) -> Result<()> {
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
