//! A directory in memory: names to entries, about 40 bytes plus the name for each.
//!
//! Every entry gets a sequence number that never changes while the entry stays; it is the readdir
//! cookie, so that a listing continues at the right place whatever was removed or added meanwhile.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::format::{EntryId, EntryKind};

/// First cookie handed out: 1 and 2 are `.` and `..`.
const FIRST_COOKIE: u64 = 3;

/// What a directory knows of one of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// The object's id.
    pub id: EntryId,
    /// Its kind.
    pub kind: EntryKind,
    /// Whether the backing directory holds it under this name (else it is pending).
    pub published: bool,
    /// Whether it is a stand-in for something that does not decrypt.
    pub damaged: bool,
}

struct Slot {
    entry: MapEntry,
    cookie: u64,
    name_at: u32,
    name_len: u8,
    live: bool,
}

/// The map. See the module's text.
pub struct DirMap {
    slots: Vec<Slot>,
    names: Vec<u8>,
    index: HashTable<u32>,
    hasher: RandomState,
    next_cookie: u64,
    live: usize,
    dirs: usize,
}

impl DirMap {
    /// An empty directory.
    pub fn new() -> Self {
        DirMap {
            slots: Vec::new(),
            names: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            next_cookie: FIRST_COOKIE,
            live: 0,
            dirs: 0,
        }
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Number of names of directories.
    pub fn dirs(&self) -> usize {
        self.dirs
    }

    fn name_of(slots: &[Slot], names: &[u8], index: u32) -> (u32, u8) {
        let slot = &slots[index as usize];
        debug_assert!(slot.name_at as usize + slot.name_len as usize <= names.len());
        (slot.name_at, slot.name_len)
    }

    fn find(&self, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        self.index
            .find(hash, |&i| {
                let (at, len) = Self::name_of(&self.slots, &self.names, i);
                &self.names[at as usize..at as usize + len as usize] == name
            })
            .copied()
    }

    /// The entry of `name`.
    pub fn get(&self, name: &[u8]) -> Option<MapEntry> {
        self.find(name).map(|i| self.slots[i as usize].entry)
    }

    /// Marks the entry of `name` as held by the backing directory, or not.
    pub fn set_published(&mut self, name: &[u8], published: bool) {
        if let Some(i) = self.find(name) {
            self.slots[i as usize].entry.published = published;
        }
    }

    /// Adds `name`, replacing what had it.
    ///
    /// # Panics
    /// If the name is longer than 255 bytes: callers check names where they enter.
    pub fn insert(&mut self, name: &[u8], entry: MapEntry) {
        self.remove(name);
        let name_at = u32::try_from(self.names.len()).expect("a directory's names fit 4 GiB");
        let name_len = u8::try_from(name.len()).expect("names are at most 255 bytes");
        self.names.extend_from_slice(name);
        let index = u32::try_from(self.slots.len()).expect("a directory has under 2^32 entries");
        self.slots.push(Slot { entry, cookie: self.next_cookie, name_at, name_len, live: true });
        self.next_cookie += 1;
        self.live += 1;
        self.dirs += usize::from(entry.kind == EntryKind::Dir);
        let (slots, names, hasher) = (&self.slots, &self.names, &self.hasher);
        self.index.insert_unique(hasher.hash_one(name), index, |&i| {
            let (at, len) = Self::name_of(slots, names, i);
            hasher.hash_one(&names[at as usize..at as usize + len as usize])
        });
    }

    /// Gives `name` to another entry; a listing shows it where it was.
    pub fn reassign(&mut self, name: &[u8], entry: MapEntry) {
        match self.find(name) {
            Some(i) => {
                let slot = &mut self.slots[i as usize].entry;
                self.dirs -= usize::from(slot.kind == EntryKind::Dir);
                self.dirs += usize::from(entry.kind == EntryKind::Dir);
                *slot = entry;
            }
            None => self.insert(name, entry),
        }
    }

    /// Takes `name` away.
    pub fn remove(&mut self, name: &[u8]) -> Option<MapEntry> {
        let hash = self.hasher.hash_one(name);
        let (slots, names) = (&self.slots, &self.names);
        let found = self
            .index
            .find_entry(hash, |&i| {
                let (at, len) = Self::name_of(slots, names, i);
                &names[at as usize..at as usize + len as usize] == name
            })
            .ok()?;
        let (index, _) = found.remove();
        let slot = &mut self.slots[index as usize];
        slot.live = false;
        let entry = slot.entry;
        self.live -= 1;
        self.dirs -= usize::from(entry.kind == EntryKind::Dir);
        if self.slots.len() > 64 && self.slots.len() > self.live * 2 {
            self.compact();
        }
        Some(entry)
    }

    /// Drops the dead slots and their names; cookies stay.
    fn compact(&mut self) {
        let mut names = Vec::new();
        self.slots.retain(|slot| slot.live);
        self.index.clear();
        for (i, slot) in self.slots.iter_mut().enumerate() {
            let at = slot.name_at as usize;
            let name = &self.names[at..at + slot.name_len as usize];
            slot.name_at = u32::try_from(names.len()).expect("no longer than before");
            names.extend_from_slice(name);
            let index = u32::try_from(i).expect("no more than before");
            // Re-hashing on growth cannot happen: the table keeps its capacity.
            self.index.insert_unique(self.hasher.hash_one(name), index, |_| {
                unreachable!("a cleared table has room for what it held")
            });
        }
        self.names = names;
    }

    /// Calls `visit(cookie, entry, name)` for every entry whose cookie is greater than `after`, in
    /// order, until it returns false.
    pub fn visit(&self, after: u64, visit: &mut dyn FnMut(u64, &MapEntry, &[u8]) -> bool) {
        let start = self.slots.partition_point(|slot| slot.cookie <= after);
        for slot in &self.slots[start..] {
            let at = slot.name_at as usize;
            let name = &self.names[at..at + slot.name_len as usize];
            if slot.live && !visit(slot.cookie, &slot.entry, name) {
                return;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entry(id: u64) -> MapEntry {
        MapEntry {
            id: EntryId::from_raw(id).unwrap(),
            kind: if id.is_multiple_of(3) { EntryKind::Dir } else { EntryKind::File },
            published: true,
            damaged: false,
        }
    }

    #[test]
    fn a_listing_continues_where_it_stood_while_entries_come_and_go() {
        let mut map = DirMap::new();
        for id in 2..1002 {
            map.insert(format!("name {id}").as_bytes(), entry(id));
        }
        let (mut after, mut seen) = (0, Vec::new());
        while {
            let mut last = None;
            map.visit(after, &mut |cookie, e, _| {
                seen.push(e.id.get());
                last = Some(cookie);
                seen.len() % 10 != 0
            });
            after = last.unwrap_or(after);
            last.is_some()
        } {
            // Remove what was just seen, and add strangers, in the middle of the listing.
            let id = *seen.last().unwrap();
            map.remove(format!("name {id}").as_bytes());
            if seen.len() < 500 {
                map.insert(format!("new {id}").as_bytes(), entry(id + 10_000));
            }
        }
        let old: Vec<u64> = seen.iter().copied().filter(|id| *id < 1002).collect();
        assert_eq!(old, (2..1002).collect::<Vec<_>>());
    }

    #[test]
    fn removed_names_are_gone_and_counts_hold_through_compaction() {
        let mut map = DirMap::new();
        for id in 2..3002 {
            map.insert(format!("{id}").as_bytes(), entry(id));
        }
        for id in 2..2902 {
            assert_eq!(map.remove(format!("{id}").as_bytes()), Some(entry(id)));
        }
        assert_eq!(map.len(), 100);
        assert_eq!(map.dirs(), (2902..3002).filter(|id| id % 3 == 0).count());
        assert!(map.slots.len() < 300, "dead slots are dropped");
        for id in 2..3002 {
            assert_eq!(map.get(format!("{id}").as_bytes()).is_some(), id >= 2902);
        }
        map.insert(b"2950", entry(7));
        assert_eq!(map.get(b"2950"), Some(entry(7)), "a name is replaced");
        assert_eq!(map.len(), 100);
    }
}
