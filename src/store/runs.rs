//! A map from block numbers to places, kept as runs: what 500 GB in sequence cost is one entry.

use std::collections::BTreeMap;
use std::ops::Range;

/// A value that continues along a run: block `b + n` of a run that starts at `b` with `v` has
/// `v.advance(n)`.
pub trait Along: Copy + PartialEq {
    /// The value `count` blocks further on.
    fn advance(self, count: u64) -> Self;
}

/// One run of a [`RunMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<V> {
    /// First block.
    pub block: u64,
    /// Blocks in the run, at least 1.
    pub count: u64,
    /// The value at `block`.
    pub value: V,
}

impl<V: Along> Run<V> {
    /// One past the last block.
    pub fn end(&self) -> u64 {
        self.block + self.count
    }

    /// The part inside `range`, if any.
    fn clip(&self, range: &Range<u64>) -> Option<Run<V>> {
        let start = self.block.max(range.start);
        let end = self.end().min(range.end);
        (start < end).then(|| Run {
            block: start,
            count: end - start,
            value: self.value.advance(start - self.block),
        })
    }
}

/// Disjoint, maximal runs, sorted by block.
#[derive(Clone, Debug)]
pub struct RunMap<V> {
    runs: BTreeMap<u64, (u64, V)>,
}

impl<V> Default for RunMap<V> {
    fn default() -> Self {
        RunMap { runs: BTreeMap::new() }
    }
}

impl<V: Along> RunMap<V> {
    /// Whether no block has a value.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Number of runs.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// The runs in order.
    pub fn iter(&self) -> impl Iterator<Item = Run<V>> + '_ {
        self.runs.iter().map(|(&block, &(count, value))| Run { block, count, value })
    }

    /// The value of one block.
    pub fn get(&self, block: u64) -> Option<V> {
        let (&start, &(count, value)) = self.runs.range(..=block).next_back()?;
        (block < start + count).then(|| value.advance(block - start))
    }

    /// The run that holds `block`, from `block` on.
    pub fn run_at(&self, block: u64) -> Option<Run<V>> {
        let (&start, &(count, value)) = self.runs.range(..=block).next_back()?;
        (block < start + count).then(|| Run {
            block,
            count: start + count - block,
            value: value.advance(block - start),
        })
    }

    /// The first block at or after `block` that has a value.
    pub fn next_from(&self, block: u64) -> Option<u64> {
        if self.run_at(block).is_some() {
            return Some(block);
        }
        self.runs.range(block..).next().map(|(&start, _)| start)
    }

    /// The runs, clipped to `range`, in order.
    pub fn range(&self, range: Range<u64>) -> impl Iterator<Item = Run<V>> + '_ {
        let first = self.runs.range(..=range.start).next_back().map_or(range.start, |(&b, _)| b);
        self.runs
            .range(first..range.end.max(first))
            .filter_map(move |(&block, &(count, value))| Run { block, count, value }.clip(&range))
    }

    /// Blocks that have a value.
    pub fn blocks(&self) -> u64 {
        self.runs.values().map(|&(count, _)| count).sum()
    }

    /// Takes every value in `range` away.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let overlapping: Vec<Run<V>> = {
            let first =
                self.runs.range(..=range.start).next_back().map_or(range.start, |(&b, _)| b);
            self.runs
                .range(first..range.end.max(first))
                .map(|(&block, &(count, value))| Run { block, count, value })
                .filter(|run| run.end() > range.start)
                .collect()
        };
        for run in overlapping {
            self.runs.remove(&run.block);
            for kept in [run.block..range.start, range.end..run.end()] {
                if let Some(part) = run.clip(&kept) {
                    self.runs.insert(part.block, (part.count, part.value));
                }
            }
        }
    }

    /// Gives `count` blocks from `block` on the values that start with `value`.
    pub fn insert(&mut self, block: u64, count: u64, value: V) {
        if count == 0 {
            return;
        }
        self.remove(block..block + count);
        let (mut block, mut count, mut value) = (block, count, value);
        if let Some((&start, &(before, first))) = self.runs.range(..block).next_back()
            && start + before == block
            && first.advance(before) == value
        {
            self.runs.remove(&start);
            (block, count, value) = (start, before + count, first);
        }
        if let Some(&(after, next)) = self.runs.get(&(block + count))
            && value.advance(count) == next
        {
            self.runs.remove(&(block + count));
            count += after;
        }
        self.runs.insert(block, (count, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Place {
        Slot(u64),
        Hole,
    }

    impl Along for Place {
        fn advance(self, count: u64) -> Self {
            match self {
                Place::Slot(slot) => Place::Slot(slot + count),
                Place::Hole => Place::Hole,
            }
        }
    }

    #[test]
    fn a_sequence_is_one_run_whatever_the_order_of_its_pieces() {
        let mut map = RunMap::default();
        for block in [4u64, 0, 2, 3, 1] {
            map.insert(block, 1, Place::Slot(block + 10));
        }
        assert_eq!(map.len(), 1);
        assert_eq!(map.iter().next(), Some(Run { block: 0, count: 5, value: Place::Slot(10) }));
    }

    proptest! {
        #[test]
        fn it_behaves_like_an_array(
            ops in prop::collection::vec((0u64..64, 1u64..20, 0u64..100, 0u8..3), 1..80)
        ) {
            let mut map = RunMap::default();
            let mut model = [None; 96];
            for (block, count, slot, kind) in ops {
                match kind {
                    0 => map.insert(block, count, Place::Slot(slot)),
                    1 => map.insert(block, count, Place::Hole),
                    _ => map.remove(block..block + count),
                }
                for i in 0..count {
                    model[(block + i) as usize] = match kind {
                        0 => Some(Place::Slot(slot + i)),
                        1 => Some(Place::Hole),
                        _ => None,
                    };
                }
                for (b, expected) in model.iter().enumerate() {
                    prop_assert_eq!(map.get(b as u64), *expected);
                }
                let runs: Vec<_> = map.iter().collect();
                for pair in runs.windows(2) {
                    prop_assert!(pair[0].end() <= pair[1].block);
                    let joined = pair[0].end() == pair[1].block
                        && pair[0].value.advance(pair[0].count) == pair[1].value;
                    prop_assert!(!joined, "runs are maximal");
                }
                let clipped: u64 = map.range(10..30).map(|run| run.count).sum();
                prop_assert_eq!(clipped, model[10..30].iter().flatten().count() as u64);
            }
        }
    }
}
