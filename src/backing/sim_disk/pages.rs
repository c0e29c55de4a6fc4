//! The bytes of one simulated file: what the process sees, what is safe, and which pages differ.
//!
//! A crash decides page by page (4 KiB) and, in a torn page, sector by sector (512 bytes); the length is
//! decided apart. Only what changed since the last sync can change in a crash: a sector that was
//! safe and not written again keeps its bytes ("powersafe overwrite").

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::entropy::{Entropy, SeededEntropy};

pub(super) const PAGE_LEN: usize = 4096;
const SECTOR_LEN: usize = 512;
const SECTORS: usize = PAGE_LEN / SECTOR_LEN;
const ZERO_PAGE: [u8; PAGE_LEN] = [0; PAGE_LEN];

/// Sparse bytes. Invariants: no page at or beyond `len`, zeros beyond `len` in the last page.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE_LEN]>>,
}

impl Content {
    fn page(&self, index: u64) -> &[u8; PAGE_LEN] {
        self.pages.get(&index).map_or(&ZERO_PAGE, |page| page)
    }

    /// Fills `out` from `offset`, zeros beyond the length; true if all of it is within the length.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> bool {
        let mut at = offset;
        let mut rest = &mut *out;
        while !rest.is_empty() {
            let (index, skip) = split(at);
            let len = rest.len().min(PAGE_LEN - skip);
            let (head, tail) = rest.split_at_mut(len);
            head.copy_from_slice(&self.page(index)[skip..skip + len]);
            rest = tail;
            at = at.saturating_add(len as u64);
        }
        offset.checked_add(out.len() as u64).is_some_and(|end| end <= self.len)
    }

    /// Restores the invariants after `len` became smaller than the pages.
    fn trim(&mut self) {
        self.pages.split_off(&self.len.div_ceil(PAGE_LEN as u64));
        let (last, used) = split(self.len);
        if used > 0
            && let Some(page) = self.pages.get_mut(&last)
        {
            Arc::make_mut(page)[used..].fill(0);
        }
    }
}

/// Page index and offset in the page.
fn split(offset: u64) -> (u64, usize) {
    (offset / PAGE_LEN as u64, (offset % PAGE_LEN as u64) as usize)
}

/// What happens to the unsynced bytes of a file in a crash.
pub(super) enum Fate<'a> {
    /// None of them was written.
    Old,
    /// All of them were.
    New,
    /// Length, pages and sectors each for themselves.
    Mixed(&'a SeededEntropy),
}

/// The bytes of a file, as seen and as safe.
#[derive(Clone, Debug, Default)]
pub(super) struct FileBytes {
    pub(super) now: Content,
    safe: Content,
    /// Pages that were written or cut since the last sync.
    dirty: BTreeSet<u64>,
    /// Smallest length since the last sync: sectors from here on may come back as zeros.
    floor_len: u64,
    /// Pages set aside by `reserve` and not written yet.
    reserved: BTreeSet<u64>,
}

impl FileBytes {
    /// A file whose bytes are safe as they are.
    pub(super) fn settled(content: Content) -> FileBytes {
        let floor_len = content.len;
        FileBytes { safe: content.clone(), now: content, floor_len, ..FileBytes::default() }
    }

    /// Pages that occupy space.
    pub(super) fn pages(&self) -> u64 {
        (self.now.pages.len() + self.reserved.len()) as u64
    }

    /// Writes at most until `free` pages were newly taken; returns how many bytes were written.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], free: u64) -> usize {
        let mut free = free;
        let mut done = 0;
        while done < bytes.len() {
            let (index, skip) = split(offset + done as u64);
            if !self.now.pages.contains_key(&index) && !self.reserved.remove(&index) {
                if free == 0 {
                    break;
                }
                free -= 1;
            }
            let len = (bytes.len() - done).min(PAGE_LEN - skip);
            let page = self.now.pages.entry(index).or_insert_with(|| Arc::new(ZERO_PAGE));
            Arc::make_mut(page)[skip..skip + len].copy_from_slice(&bytes[done..done + len]);
            self.dirty.insert(index);
            done += len;
        }
        if done > 0 {
            self.now.len = self.now.len.max(offset + done as u64);
        }
        done
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.now.len {
            let first = len / PAGE_LEN as u64;
            self.dirty.extend(self.now.pages.range(first..).map(|(index, _)| *index));
            self.floor_len = self.floor_len.min(len);
        }
        if len <= self.now.len {
            // As ext4: cutting to the same length gives back what was reserved beyond it.
            self.reserved.split_off(&len.div_ceil(PAGE_LEN as u64));
        }
        self.now.len = len;
        self.now.trim();
    }

    /// Sets pages aside, all or none; false if more than `free` would be needed.
    pub(super) fn reserve(&mut self, offset: u64, len: u64, free: u64) -> bool {
        let first = offset / PAGE_LEN as u64;
        let end = offset.saturating_add(len).div_ceil(PAGE_LEN as u64);
        let taken =
            self.now.pages.range(first..end).count() + self.reserved.range(first..end).count();
        if end - first - taken as u64 > free {
            return false;
        }
        let missing = (first..end).filter(|index| !self.now.pages.contains_key(index));
        self.reserved.extend(missing);
        true
    }

    /// What is seen becomes safe.
    pub(super) fn sync(&mut self) {
        for index in std::mem::take(&mut self.dirty) {
            match self.now.pages.get(&index) {
                Some(page) => self.safe.pages.insert(index, Arc::clone(page)),
                None => self.safe.pages.remove(&index),
            };
        }
        self.safe.len = self.now.len;
        self.safe.trim();
        self.floor_len = self.now.len;
    }

    /// A failed sync: the system forgets that these pages were to be written, and goes on showing them. `false` if
    /// there were none.
    pub(super) fn lose_pending(&mut self) -> bool {
        !std::mem::take(&mut self.dirty).is_empty()
    }

    /// Changes bytes behind everybody's back, seen and safe alike.
    pub(super) fn replace(&mut self, bytes: &[u8]) {
        self.set_len(0);
        self.write(0, bytes, u64::MAX);
        self.sync();
    }

    /// The bytes after a crash.
    pub(super) fn resolve(&self, fate: &Fate<'_>) -> Content {
        match fate {
            Fate::Old => self.safe.clone(),
            Fate::New => {
                let mut synced = self.clone();
                synced.sync();
                synced.safe
            }
            Fate::Mixed(entropy) => self.mix(entropy),
        }
    }

    fn mix(&self, entropy: &SeededEntropy) -> Content {
        let mut content = self.safe.clone();
        let (low, high) = (self.safe.len.min(self.now.len), self.safe.len.max(self.now.len));
        content.len = match entropy.next_u64() % 4 {
            0 => self.safe.len,
            1 | 2 => self.now.len,
            _ => low + entropy.next_u64() % (high - low + 1),
        };
        for index in &self.dirty {
            let fate = entropy.next_u64();
            let sectors = entropy.next_u64();
            let mut page = *self.safe.page(*index);
            for sector in 0..SECTORS {
                let range = sector * SECTOR_LEN..(sector + 1) * SECTOR_LEN;
                let new = &self.now.page(*index)[range.clone()];
                let start = index * PAGE_LEN as u64 + range.start as u64;
                // A sector that holds safe bytes and was not cut is overwritten or not, never zeroed.
                let may_vanish = start >= self.floor_len;
                let choice = match fate % 4 {
                    0 => 0,
                    1 => 1,
                    2 => 2,
                    _ => sectors >> (sector * 2) & 3,
                };
                match choice {
                    0 => page[range].copy_from_slice(new),
                    2 if may_vanish && page[range.clone()] != *new => page[range].fill(0),
                    _ => {}
                }
            }
            if page == ZERO_PAGE {
                content.pages.remove(index);
            } else {
                content.pages.insert(*index, Arc::new(page));
            }
        }
        content.trim();
        content
    }
}
