//! Who watches over "each (object, domain, index) is sealed once, ever" beyond one [`ObjectKey`](super::ObjectKey): over all
//! keys of a vault, so over mounts, crashes and threads of one process. Debug builds only, and only where a test asks for it.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::content::Domain;
use super::used::UsedIndexes;

/// What was sealed under one key tree since [`KeyTree::record_seals`](super::KeyTree::record_seals).
#[derive(Default)]
pub struct SealRecord {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the hash of the object's key, then by domain.
    objects: HashMap<[u8; 32], [UsedIndexes; 6]>,
    seals: u64,
    twice: Vec<(Domain, u64)>,
}

impl SealRecord {
    /// One place of an object is being sealed.
    pub(super) fn note(&self, object: &[u8; 32], domain: Domain, index: u64) {
        let mut state = self.state.lock();
        state.seals += 1;
        if !state.objects.entry(*object).or_default()[domain as usize].take(index, 1) {
            state.twice.push((domain, index));
        }
    }

    /// How many objects there were, and how many places of them were sealed.
    pub fn counts(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.objects.len(), state.seals)
    }

    /// Places that were sealed when they had been sealed before.
    pub fn sealed_twice(&self) -> Vec<(Domain, u64)> {
        self.state.lock().twice.clone()
    }
}
