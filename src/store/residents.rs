//! A bounded set of things that cost a descriptor or a mapping while they are resident: second
//! chance, not strict LRU, so that a use is one relaxed store.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Something that can give its resource back and take it again later.
pub trait Evictable {
    /// Whether it was used since this was last asked.
    fn take_used(&self) -> bool;
    /// Gives the resource back; users that hold it keep it until they are done.
    fn evict(&self);
}

/// At most `limit` resident things.
pub struct Residents<T> {
    queue: Mutex<VecDeque<Weak<T>>>,
    limit: usize,
}

impl<T: Evictable> Residents<T> {
    /// A set of at most `limit` (at least 1).
    pub fn new(limit: usize) -> Self {
        Residents { queue: Mutex::new(VecDeque::new()), limit: limit.max(1) }
    }

    /// Counts `item` as resident; evicts others that were not used lately while there are too many.
    /// Call it holding none of the items' locks.
    pub fn admit(&self, item: &Arc<T>) {
        let mut victims = Vec::new();
        {
            let mut queue = self.queue.lock();
            queue.push_back(Arc::downgrade(item));
            let mut chances = queue.len();
            while queue.len() > self.limit {
                let Some(oldest) = queue.pop_front() else { break };
                let Some(candidate) = oldest.upgrade() else { continue };
                if chances > 0 && (Arc::ptr_eq(&candidate, item) || candidate.take_used()) {
                    chances -= 1;
                    queue.push_back(oldest);
                } else {
                    victims.push(candidate);
                }
            }
        }
        for victim in victims {
            victim.evict();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Thing {
        used: AtomicBool,
        resident: AtomicBool,
    }

    impl Evictable for Thing {
        fn take_used(&self) -> bool {
            self.used.swap(false, Ordering::Relaxed)
        }
        fn evict(&self) {
            self.resident.store(false, Ordering::Relaxed);
        }
    }

    fn thing(used: bool) -> Arc<Thing> {
        Arc::new(Thing { used: AtomicBool::new(used), resident: AtomicBool::new(true) })
    }

    #[test]
    fn what_was_used_stays_and_the_rest_goes() {
        let set = Residents::new(10);
        let hot: Vec<_> = (0..5).map(|_| thing(true)).collect();
        for item in &hot {
            set.admit(item);
        }
        let cold: Vec<_> = (0..100).map(|_| thing(false)).collect();
        for item in &cold {
            set.admit(item);
            for item in &hot {
                item.used.store(true, Ordering::Relaxed);
            }
        }
        assert!(hot.iter().all(|item| item.resident.load(Ordering::Relaxed)));
        let left = cold.iter().filter(|item| item.resident.load(Ordering::Relaxed)).count();
        assert_eq!(left, 5);
    }
}
