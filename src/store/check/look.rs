//! One file as often as it takes, and several files at once. The store starts no threads; these live only as long as a call
//! of a check, which no mount makes.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::backing::{At, Backing, Stat};
use crate::format::{
    Entry, EntryId, ObjectId, SIDE_ATTRIBUTE, SideRef, is_sealed_xattr, open_xattr, open_xattr_name,
};

use super::super::core::VaultKeys;
use super::super::error::chain;
use super::super::sides::read_side;
use super::Kind;
use super::content::{Fault, read_file};
use super::walk::TRIES;

/// What reading a file takes.
pub(in crate::store) struct Look<'a, B: Backing> {
    pub backing: &'a B,
    pub vault: &'a VaultKeys,
    pub layers: Option<&'a B::Dir>,
    /// `.akasha/xattrs`
    pub sides: Option<&'a B::Dir>,
    /// Bytes of ciphertext read so far.
    pub read_bytes: &'a AtomicU64,
}

/// What reading a file gave.
#[derive(Default)]
pub(in crate::store) struct Seen {
    pub bytes: u64,
    pub faults: Vec<Fault>,
    pub referred: HashSet<(EntryId, ObjectId)>,
    /// It disappeared meanwhile.
    pub is_gone: bool,
}

impl<B: Backing> Look<'_, B> {
    /// Reads files of one directory, in up to `threads` threads; in the order of `files`.
    pub fn files(&self, dir: &B::Dir, files: &[(Entry, Vec<u8>)], threads: usize) -> Vec<Seen> {
        let threads = threads.min(files.len());
        if threads < 2 {
            return files.iter().map(|(entry, name)| self.file(dir, name, entry.id)).collect();
        }
        let next = AtomicUsize::new(0);
        let all: Vec<Mutex<Seen>> = files.iter().map(|_| Mutex::default()).collect();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some((entry, name)) = files.get(at) else { return };
                        *all[at].lock() = self.file(dir, name, entry.id);
                    }
                });
            }
        });
        all.into_iter().map(Mutex::into_inner).collect()
    }

    /// Reads a file; of one that changes meanwhile, another time.
    pub fn file(&self, dir: &B::Dir, name: &[u8], id: EntryId) -> Seen {
        let mut seen = Seen::default();
        for _ in 0..TRIES {
            let before = self.backing.stat(dir, At::Name(name));
            (seen.bytes, seen.faults) = match self.backing.open(dir, name) {
                Ok(top) => {
                    let referred = &mut seen.referred;
                    read_file(
                        self.backing,
                        self.layers,
                        self.vault,
                        id,
                        top,
                        referred,
                        self.read_bytes,
                    )
                }
                Err(error) => (0, vec![Fault::io(Kind::File, "cannot open it", &error)]),
            };
            if !seen.faults.iter().any(|fault| fault.kind == Kind::Unchecked) {
                seen.faults.extend(self.attributes(dir, At::Name(name), id));
            }
            let after = self.backing.stat(dir, At::Name(name));
            if let Err(error) = &after
                && error.kind() == std::io::ErrorKind::NotFound
            {
                seen.is_gone = true;
                return seen;
            }
            let is_same = matches!((&before, &after), (Ok(a), Ok(b)) if same(a, b));
            if seen.faults.is_empty() || is_same || (before.is_err() && after.is_err()) {
                return seen;
            }
        }
        let why = format!("it changed {TRIES} times while it was read");
        seen.bytes = 0;
        seen.faults = vec![Fault::new(Kind::Changing, why)];
        seen
    }

    /// The first attribute that does not authenticate. One whose name does not open is not ours to judge by value.
    pub fn attributes(&self, dir: &B::Dir, at: At<'_>, id: EntryId) -> Option<Fault> {
        let keys = match self.backing.list_xattrs(dir, at) {
            Ok(keys) => keys,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                let what = "its attributes cannot be listed";
                return Some(Fault::io(Kind::Attribute, what, &error));
            }
        };
        let mut ours = keys.iter().filter(|key| is_sealed_xattr(key));
        let why = ours.find_map(|key| self.sealed_attribute(dir, at, id, key).transpose());
        Some(match why? {
            Ok(why) => Fault::new(Kind::Attribute, why),
            Err(error) => Fault::io(Kind::Attribute, "an attribute cannot be read", &error),
        })
    }

    /// What is wrong with the attribute behind `key`, if it is there.
    pub fn sealed_attribute(
        &self,
        dir: &B::Dir,
        at: At<'_>,
        id: EntryId,
        key: &[u8],
    ) -> io::Result<Option<String>> {
        let Ok(name) = open_xattr_name(&self.vault.keys, id, key) else {
            return Ok(Some("an attribute's name does not authenticate".to_owned()));
        };
        match self.attribute(dir, at, id, &name, key) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => other,
        }
    }

    /// What is wrong with the attribute `name`, if it is there, and with the side object that it may refer to.
    fn attribute(
        &self,
        dir: &B::Dir,
        at: At<'_>,
        id: EntryId,
        name: &[u8],
        key: &[u8],
    ) -> io::Result<Option<String>> {
        let mut sealed = self.backing.get_xattr(dir, at, key)?;
        for _ in 0..TRIES {
            let Some(before) = sealed else { return Ok(None) };
            let Ok(value) = open_xattr(&self.vault.keys, id, name, &before) else {
                let name = String::from_utf8_lossy(name).replace('\0', " ");
                return Ok(Some(format!("the attribute {name:?} does not authenticate")));
            };
            if name != SIDE_ATTRIBUTE {
                return Ok(None);
            }
            let Some(why) = self.side(id, &value) else { return Ok(None) };
            // On a mounted vault the object goes once another reference stands here.
            sealed = self.backing.get_xattr(dir, at, key)?;
            if sealed.as_ref() == Some(&before) {
                return Ok(Some(why));
            }
        }
        Ok(None)
    }

    /// What is wrong with the side object that `reference` is of.
    fn side(&self, id: EntryId, reference: &[u8]) -> Option<String> {
        let Ok(side) = SideRef::from_bytes(reference) else {
            return Some("the reference to its attributes has the wrong length".into());
        };
        let Some(dir) = self.sides else {
            return Some("there is no .akasha/xattrs, which held its attributes".into());
        };
        let read = read_side(self.backing, dir, &self.vault.keys, id, side);
        read.err().map(|error| format!("its attributes in .akasha/xattrs: {}", chain(&error)))
    }
}

/// Whether nothing was published over it, nor any attribute changed, in between.
fn same(a: &Stat, b: &Stat) -> bool {
    (a.ino, a.len, a.ctime) == (b.ino, b.len, b.ctime)
}
