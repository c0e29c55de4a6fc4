//! Which numbers of a key were used up: the memory behind "each (domain, index) is sealed once, ever".

use std::collections::BTreeMap;

/// A set of numbers, kept as runs: what is used up in sequence costs one entry.
#[derive(Debug, Default)]
pub struct UsedIndexes {
    /// First number to count; sorted, disjoint, not touching.
    runs: BTreeMap<u64, u64>,
}

impl UsedIndexes {
    /// One past the highest number in the set.
    pub fn end(&self) -> u64 {
        self.runs.last_key_value().map_or(0, |(first, count)| first + count)
    }

    /// Whether none of `count` numbers from `first` on is in the set. What does not fit a u64 is not free.
    pub fn is_free(&self, first: u64, count: u64) -> bool {
        let Some(end) = first.checked_add(count) else { return false };
        let before = self.runs.range(..end).next_back();
        count == 0 || before.is_none_or(|(at, len)| at + len <= first)
    }

    /// Uses up `count` numbers from `first` on; whether all of them were free. If not, nothing changes.
    #[must_use]
    pub fn take(&mut self, first: u64, count: u64) -> bool {
        if !self.is_free(first, count) {
            return false;
        }
        if count == 0 {
            return true;
        }
        let (mut first, mut count) = (first, count);
        if let Some((&at, &len)) = self.runs.range(..first).next_back()
            && at + len == first
        {
            self.runs.remove(&at);
            first = at;
            count += len;
        }
        if let Some(len) = self.runs.remove(&(first + count)) {
            count += len;
        }
        self.runs.insert(first, count);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_number_is_taken_once(takes in prop::collection::vec((0_u64..60, 0_u64..8), 0..60)) {
            let (mut used, mut plain) = (UsedIndexes::default(), BTreeSet::new());
            for (first, count) in takes {
                let free = (first..first + count).all(|n| !plain.contains(&n));
                prop_assert_eq!(used.is_free(first, count), free);
                prop_assert_eq!(used.take(first, count), free);
                if free {
                    plain.extend(first..first + count);
                }
                prop_assert_eq!(used.end(), plain.last().map_or(0, |last| last + 1));
                let joined: Vec<u64> = used.runs.iter().flat_map(|(f, c)| *f..f + c).collect();
                prop_assert!(joined.iter().eq(plain.iter()));
                let ends = used.runs.iter().map(|(first, count)| first + count);
                prop_assert!(ends.clone().all(|end| !used.runs.contains_key(&end)), "runs touch");
            }
        }
    }

    #[test]
    fn what_overflows_is_not_free() {
        let mut used = UsedIndexes::default();
        assert!(!used.take(u64::MAX, 2));
        assert!(used.take(u64::MAX - 1, 1));
        assert!(!used.is_free(u64::MAX - 1, 1));
    }
}
