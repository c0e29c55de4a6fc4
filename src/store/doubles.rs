//! Entries that a power cut left in two places, found and settled at the mount after an unclean end.
//!
//! A backing filesystem that keeps no order of names (btrfs) may keep the old name of what was moved when it has the
//! new one already, and under the old name the version before, if a commit preceded the move. Both were never promised:
//! a move is durable only when the removal of the old name is ([`super::dir`], `sync_first`). One has to go, for an
//! entry id is in one place: the mount would answer EIO for the second name, and later changes would be made under one
//! name only, so that the next mount could take the other one for the file.
//!
//! The newest version stays (`commit` of its tail). A place goes only if it is a name of the same backing file, or if it
//! authenticates as an older version of the same entry; anything else is not the work of a cut and stays as it is.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use log::info;

use crate::backing::{At, Backing, FileKind};
use crate::format::{
    Entry, EntryId, EntryKind, NameClass, classify_name, inode_file_name, open_entry,
};

use super::core::{ControlDirs, VaultKeys};
use super::dir::{kind_agrees, read_sidecar, settle_names};
use super::error::{Attempt, Result};
use super::recover::{Ahead, tail_of};
use super::sync_all::sync_all_names;

/// Where an entry is.
struct Found {
    dir: Rc<Ahead>,
    name: Vec<u8>,
    /// The number of the backing file, and of the version in it where it has one.
    ino: u64,
    commit: Option<u64>,
    /// A sibling replaces it.
    is_dead: bool,
    replaces: bool,
}

/// Leaves one place to each entry. What was removed is durable on return.
///
/// Runs before the first operation: nothing moves meanwhile. Takes 8 bytes of memory for each entry of the vault.
pub(crate) fn settle<B: Backing>(
    backing: &B,
    dirs: &ControlDirs<B>,
    vault: &VaultKeys,
) -> Result<()> {
    if backing.keeps_name_order() {
        return Ok(());
    }
    let mut ids = Vec::new();
    let mut inodes = HashSet::new();
    walk(backing, vault, &mut |_, _, entries, dead| {
        ids.extend(entries.iter().chain(dead).map(|(entry, _)| entry.id.get()));
        inodes.extend(entries.iter().filter_map(|(entry, _)| entry.inode));
    });
    ids.extend(inodes.iter().map(|id| id.get()));
    ids.sort_unstable();
    let doubled: HashSet<u64> =
        ids.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    drop(ids);
    if doubled.is_empty() {
        return Ok(());
    }
    let mut places: HashMap<EntryId, Vec<Found>> = HashMap::new();
    walk(backing, vault, &mut |here, dir, entries, dead| {
        let all = entries.iter().map(|one| (one, false)).chain(dead.iter().map(|one| (one, true)));
        for ((entry, name), is_dead) in all.filter(|((e, _), _)| doubled.contains(&e.id.get())) {
            let Ok(stat) = backing.stat(dir, At::Name(name)) else { continue };
            let commit = commit_of(backing, dir, vault, name, entry.id);
            let (dir, name) = (Rc::clone(here), name.clone());
            let replaces = entry.replaces.is_some();
            let found = Found { dir, name, ino: stat.ino, commit, is_dead, replaces };
            places.entry(entry.id).or_default().push(found);
        }
    });
    let mut removed = 0;
    for (id, found) in places {
        let inode = inodes.contains(&id).then(|| inode_file_name(id));
        for one in losers(backing, dirs, vault, id, found, inode.as_deref()) {
            let Some(dir) = one.dir.open(backing) else { continue };
            backing.unlink(&dir, &one.name).attempt("remove a name that a power cut left")?;
            removed += 1;
        }
    }
    if removed > 0 {
        // Before anything is changed under the names that stay: the others may not come back with what they hold now.
        sync_all_names(backing, dirs)?;
        info!("removed {removed} old names of moved files, which a power cut had left");
    }
    Ok(())
}

/// The places of an entry that have to go. A file that has several names by now (`inode`) is none of them.
fn losers<B: Backing>(
    backing: &B,
    dirs: &ControlDirs<B>,
    vault: &VaultKeys,
    id: EntryId,
    mut found: Vec<Found>,
    inode: Option<&[u8]>,
) -> Vec<Found> {
    let (ino, commit) = if let Some(name) = inode {
        let Ok(stat) = backing.stat(&dirs.inodes, At::Name(name)) else { return Vec::new() };
        (stat.ino, commit_of(backing, &dirs.inodes, vault, name, id))
    } else {
        // What replaced something is the later of two names of one version.
        let best = |one: &Found| (!one.is_dead, one.commit, one.replaces);
        let Some(at) = (0..found.len()).max_by_key(|at| best(&found[*at])) else { return found };
        let winner = found.swap_remove(at);
        (winner.ino, winner.commit)
    };
    found.retain(|one| one.ino == ino || (one.commit.is_some() && one.commit < commit));
    found
}

/// Which version of `id` a backing file is, if it is one.
fn commit_of<B: Backing>(
    backing: &B,
    dir: &B::Dir,
    vault: &VaultKeys,
    name: &[u8],
    id: EntryId,
) -> Option<u64> {
    let (_, tail) = tail_of(backing, dir, vault, name)?;
    (tail.entry_id == id).then_some(tail.commit)
}

/// What `walk` calls: the directory, its entries but the directories, and those of them that a sibling replaces.
type Visit<'a, D> = &'a mut dyn FnMut(&Rc<Ahead>, &D, &[(Entry, Vec<u8>)], &[(Entry, Vec<u8>)]);

/// Visits every directory that can be read.
fn walk<B: Backing>(backing: &B, vault: &VaultKeys, visit: Visit<'_, B::Dir>) {
    let mut ahead = vec![Rc::new(Ahead::root())];
    while let Some(here) = ahead.pop() {
        let Some(dir) = here.open(backing) else { continue };
        let Ok(listing) = backing.list(&dir) else { continue };
        let mut entries = Vec::new();
        for raw in listing {
            let sealed = match classify_name(&raw.name) {
                NameClass::Entry => Some(raw.name.clone()),
                NameClass::Long => read_sidecar(backing, &dir, &raw.name).ok().flatten(),
                _ => None,
            };
            let opened = sealed.and_then(|sealed| open_entry(&vault.keys, here.id, &sealed).ok());
            let Some(entry) = opened.filter(|entry| kind_agrees(entry.kind, raw.kind)) else {
                continue;
            };
            if raw.kind == FileKind::Dir {
                ahead.push(Rc::new(Ahead::below(&here, raw.name.clone(), entry.id)));
            }
            entries.push((entry, raw.name));
        }
        let mut losers = settle_names(&mut entries);
        entries.append(&mut losers.conflicts);
        entries.retain(|(entry, _)| entry.kind != EntryKind::Dir);
        losers.replaced.retain(|(entry, _)| entry.kind != EntryKind::Dir);
        visit(&here, &dir, &entries, &losers.replaced);
    }
}
