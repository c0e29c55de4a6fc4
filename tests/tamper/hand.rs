//! Who can write the vault's files: steps that anybody can take with a file manager and an editor.

use std::fmt;
use std::ops::Range;

use akasha::backing::{At, Backing, RenameMode, SimDir, SimDisk};

use super::subject::put_new;

/// One step of the hand.
#[derive(Clone)]
pub enum Step {
    /// Other bytes in place of a file's; the file is made if it is not there.
    Put(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    Rename(Vec<u8>, Vec<u8>),
    Swap(Vec<u8>, Vec<u8>),
    Mkdir(Vec<u8>),
    /// Something that is neither file nor directory; the number is what opening it says.
    Plant(Vec<u8>, i32),
    /// Sets or removes an attribute of the backing object.
    Attribute(Vec<u8>, Vec<u8>, Option<Vec<u8>>),
}

/// A change of a file's bytes.
#[derive(Clone)]
pub enum Change {
    Flip(u64),
    Cut(usize),
    Grow(Vec<u8>),
    Zero(Range<usize>),
    /// These bytes at this place.
    Splice(usize, Vec<u8>),
}

impl Change {
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Flip(bit) => bytes[(bit / 8) as usize] ^= 1 << (bit % 8),
            Change::Cut(len) => bytes.truncate(*len),
            Change::Grow(more) => bytes.extend_from_slice(more),
            Change::Zero(range) => bytes[range.clone()].fill(0),
            Change::Splice(at, part) => bytes[*at..*at + part.len()].copy_from_slice(part),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Flip(bit) => write!(f, "bit {} of byte {}", bit % 8, bit / 8),
            Change::Cut(len) => write!(f, "cut to {len}"),
            Change::Grow(more) => write!(f, "grown by {}", more.len()),
            Change::Zero(range) => write!(f, "zeros at {range:?}"),
            Change::Splice(at, part) => write!(f, "{} other bytes at {at}", part.len()),
        }
    }
}

impl Step {
    /// Takes it; false if the disk refuses, as for a name that an earlier step took away.
    pub fn take(&self, disk: &SimDisk) -> bool {
        match self {
            Step::Put(path, bytes) => {
                if !disk.replace_path(path, bytes) {
                    put(disk, path, bytes);
                }
                true
            }
            Step::Remove(path) => remove(disk, path),
            Step::Rename(from, to) => rename(disk, from, to, RenameMode::Replace),
            Step::Swap(from, to) => rename(disk, from, to, RenameMode::Exchange),
            Step::Mkdir(path) => mkdir(disk, path),
            Step::Plant(path, code) => {
                remove(disk, path);
                disk.plant(path, *code)
            }
            Step::Attribute(path, key, value) => {
                with(disk, path, |dir, at| disk.set_xattr(dir, at, key, value.as_deref()).is_ok())
            }
        }
    }
}

/// Attributes of the backing object at `path`: names and values.
pub fn attributes(disk: &SimDisk, path: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    with(disk, path, |dir, at| {
        for key in disk.list_xattrs(dir, at).unwrap_or_default() {
            if let Ok(Some(value)) = disk.get_xattr(dir, at, &key) {
                found.push((key, value));
            }
        }
        true
    });
    found
}

pub fn put(disk: &SimDisk, path: &[u8], bytes: &[u8]) {
    let (dir, name) = split(path);
    put_new(disk, &open_dir(disk, dir).expect("the directory is there"), name, bytes);
}

pub fn mkdir(disk: &SimDisk, path: &[u8]) -> bool {
    let (dir, name) = split(path);
    open_dir(disk, dir).is_some_and(|dir| disk.mkdir(&dir, name, 0o755).is_ok())
}

/// Directories with all that is in them.
pub fn remove(disk: &SimDisk, path: &[u8]) -> bool {
    let (dir, name) = split(path);
    let Some(parent) = open_dir(disk, dir) else { return false };
    if disk.unlink(&parent, name).is_ok() {
        return true;
    }
    let Ok(inside) = disk.open_dir(&parent, name) else { return false };
    for entry in disk.list(&inside).unwrap_or_default() {
        remove(disk, &join(path, &entry.name));
    }
    disk.rmdir(&parent, name).is_ok()
}

fn rename(disk: &SimDisk, from: &[u8], to: &[u8], mode: RenameMode) -> bool {
    let ((from_dir, from), (to_dir, to)) = (split(from), split(to));
    let (Some(from_dir), Some(to_dir)) = (open_dir(disk, from_dir), open_dir(disk, to_dir)) else {
        return false;
    };
    disk.rename(&from_dir, from, &to_dir, to, mode).is_ok()
}

fn with(disk: &SimDisk, path: &[u8], act: impl FnOnce(&SimDir, At<'_>) -> bool) -> bool {
    let (dir, name) = split(path);
    let at = if name.is_empty() { At::This } else { At::Name(name) };
    open_dir(disk, dir).is_some_and(|dir| act(&dir, at))
}

fn open_dir(disk: &SimDisk, path: &[u8]) -> Option<SimDir> {
    let mut dir = disk.root().ok()?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        dir = disk.open_dir(&dir, name).ok()?;
    }
    Some(dir)
}

/// The directory of a path, and the name in it.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}
