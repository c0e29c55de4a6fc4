//! The name changes that are seen and not yet safe, and which of them depend on which.
//!
//! A change is one atomic [`Item`], but for a file's move between two directories, which is two: the new
//! name, and the removal of the old one. A crash may keep the first without the second (btrfs then
//! shows both names) and never the second without the first (no filesystem loses a moved file). Further,
//! an item survives only with every earlier item on the same name; the removal of a directory only with
//! every earlier change in it; a move of a directory only with every earlier one.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::Ino;
use crate::clock::Timestamp;

/// A name gets a new meaning.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) dir: Ino,
    pub(super) name: Vec<u8>,
    pub(super) to: Option<Ino>,
}

/// Edits that survive together or not at all.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Which call this belongs to; a journal keeps whole calls.
    pub(super) change: u64,
    pub(super) edits: Vec<Edit>,
    pub(super) time: Timestamp,
    needs: Vec<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    items: BTreeMap<u64, Item>,
    by_dir: BTreeMap<Ino, BTreeSet<u64>>,
    by_target: BTreeMap<Ino, BTreeSet<u64>>,
    last_touch: BTreeMap<(Ino, Vec<u8>), u64>,
    last_dir_move: u64,
    next: u64,
    changes: u64,
    /// Everything before this number is safe on a journalling filesystem.
    journal_end: u64,
    /// Items that are safe on a filesystem whose fsync logs an inode with its names and ancestors.
    inode_logged: BTreeSet<u64>,
}

impl Log {
    /// The number of whatever is recorded next; attribute changes take one too.
    pub(super) fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Begins a new change.
    pub(super) fn begin(&mut self) {
        self.changes += 1;
    }

    /// Appends an item to the current change; `needs` beside what the names imply.
    pub(super) fn push(&mut self, time: Timestamp, edits: Vec<Edit>, mut needs: Vec<u64>) -> u64 {
        let number = self.take_number();
        for edit in &edits {
            let touched = self.last_touch.insert((edit.dir, edit.name.clone()), number);
            needs.extend(touched);
            self.by_dir.entry(edit.dir).or_default().insert(number);
            if let Some(ino) = edit.to {
                self.by_target.entry(ino).or_default().insert(number);
            }
        }
        self.items.insert(number, Item { change: self.changes, edits, time, needs });
        number
    }

    /// Every pending item in `dir`: what its removal depends on.
    pub(super) fn in_dir(&self, dir: Ino) -> Vec<u64> {
        self.by_dir.get(&dir).map_or_else(Vec::new, |items| items.iter().copied().collect())
    }

    /// Those of them that give a name in `dir` to something.
    pub(super) fn arrivals_in_dir(&self, dir: Ino) -> Vec<u64> {
        let arrives = |edit: &Edit| edit.dir == dir && edit.to.is_some();
        self.in_dir(dir)
            .into_iter()
            .filter(|item| self.items[item].edits.iter().any(arrives))
            .collect()
    }

    /// The last move of a directory, and the number of the one that is about to be pushed.
    pub(super) fn order_dir_move(&mut self) -> Vec<u64> {
        let previous = std::mem::replace(&mut self.last_dir_move, self.next + 1);
        vec![previous]
    }

    pub(super) fn items(&self) -> &BTreeMap<u64, Item> {
        &self.items
    }

    /// `from` and all that it depends on.
    pub(super) fn closure(&self, from: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
        let mut open: Vec<u64> = from.into_iter().collect();
        let mut closed = BTreeSet::new();
        while let Some(number) = open.pop() {
            if let Some(item) = self.items.get(&number)
                && closed.insert(number)
            {
                open.extend(&item.needs);
            }
        }
        closed
    }

    /// Takes items out (they are safe now), with all they depend on, in order.
    pub(super) fn settle(&mut self, from: impl IntoIterator<Item = u64>) -> Vec<Item> {
        let settled = self.closure(from);
        settled.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    fn remove(&mut self, number: u64) -> Option<Item> {
        let item = self.items.remove(&number)?;
        self.inode_logged.remove(&number);
        for edit in &item.edits {
            forget(&mut self.by_dir, edit.dir, number);
            if let Some(ino) = edit.to {
                forget(&mut self.by_target, ino, number);
            }
            let key = (edit.dir, edit.name.clone());
            if self.last_touch.get(&key) == Some(&number) {
                self.last_touch.remove(&key);
            }
        }
        Some(item)
    }

    /// Some fsync succeeded: a journal has everything recorded so far.
    pub(super) fn commit_journal(&mut self) {
        self.journal_end = self.next + 1;
    }

    pub(super) fn journal_end(&self) -> u64 {
        self.journal_end
    }

    /// Items that give `ino` a name, oldest first.
    pub(super) fn naming(&self, ino: Ino) -> Vec<u64> {
        self.by_target.get(&ino).map_or_else(Vec::new, |items| items.iter().copied().collect())
    }

    pub(super) fn log_inode(&mut self, items: BTreeSet<u64>) {
        self.inode_logged.extend(items);
    }

    pub(super) fn inode_logged(&self) -> &BTreeSet<u64> {
        &self.inode_logged
    }

    /// Changes of names that a journal has not committed, each with the number it begins with.
    pub(super) fn uncommitted_changes(&self) -> Vec<u64> {
        let mut starts = Vec::new();
        let mut last = None;
        for (number, item) in self.items.range(self.journal_end..) {
            if last != Some(item.change) {
                starts.push(*number);
                last = Some(item.change);
            }
        }
        starts
    }
}

fn forget(index: &mut BTreeMap<Ino, BTreeSet<u64>>, ino: Ino, number: u64) {
    if let Some(numbers) = index.get_mut(&ino) {
        numbers.remove(&number);
        if numbers.is_empty() {
            index.remove(&ino);
        }
    }
}
