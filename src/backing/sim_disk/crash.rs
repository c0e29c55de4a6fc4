//! What is left after a power cut.

use std::collections::{BTreeMap, BTreeSet};

use super::log::Log;
use super::pages::{Content, Fate, FileBytes};
use super::tree::{Attr, Body, Ino, Inode, Locked, Names, ROOT, Tree, WriteBack};
use crate::clock::Timestamp;
use crate::entropy::{Entropy, SeededEntropy};

/// How much of what was never synced survives a power cut. `Debug` prints what replays it.
///
/// What was synced survives under every rule. Beyond that:
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashRule {
    /// Nothing more: the least that [`crate::backing::Backing`] promises.
    NothingUnsynced,
    /// All of it, as if the power had lasted a minute longer.
    Everything,
    /// ext4 and xfs: changes of names and attributes survive as a prefix of their order. An fsync of
    /// any file or directory has committed all that came before; of the rest the first `prefix`
    /// changes of names survive. Unsynced bytes and lengths survive as `seed` has it.
    Journal {
        /// Changes of names that survive beyond the last fsync.
        prefix: usize,
        /// Decides about unsynced bytes.
        seed: u64,
    },
    /// btrfs: an fsync makes one inode safe, with its names and their new parents; other changes survive
    /// or not, in order for each name only. A file moved between directories may keep both names.
    PerDirectory {
        /// Decides about all that was not synced.
        seed: u64,
    },
    /// Anything that the promises allow: a prefix or a per-name subset, each extended attribute by itself, with no favour to what
    /// other fsyncs carried along.
    Random {
        /// Decides about all that was not synced.
        seed: u64,
    },
}

impl CrashRule {
    /// The rules worth trying on a disk with so many pending changes of names
    /// ([`super::SimDisk::pending_changes`]): both extremes, every prefix, and the other
    /// rules once for each of `seeds`.
    pub fn battery(pending_changes: usize, seeds: std::ops::Range<u64>) -> Vec<CrashRule> {
        let mut rules = vec![CrashRule::NothingUnsynced, CrashRule::Everything];
        let first = seeds.start;
        rules.extend(
            (0..=pending_changes)
                .map(|prefix| CrashRule::Journal { prefix, seed: first + prefix as u64 }),
        );
        for seed in seeds {
            rules.push(CrashRule::PerDirectory { seed });
            rules.push(CrashRule::Random { seed });
        }
        rules
    }
}

/// What a rule decided: the items that survive, the number up to which attributes do, and the bytes.
struct Verdict {
    items: BTreeSet<u64>,
    attrs: AttrVerdict,
    bytes: BytesVerdict,
}

enum AttrVerdict {
    Safe,
    Latest,
    Before(u64),
    AnyPrefix,
    /// Those in the inode as a prefix of their changes, and each extended attribute by itself.
    AnyOrder,
}

enum BytesVerdict {
    Old,
    New,
    PerFile,
}

/// The tree after a crash under `rule`, settled: nothing in it is pending.
pub(super) fn survivors(tree: &Tree, rule: CrashRule) -> Tree {
    let entropy = SeededEntropy::new(match rule {
        CrashRule::NothingUnsynced | CrashRule::Everything => 0,
        CrashRule::Journal { seed, .. }
        | CrashRule::PerDirectory { seed }
        | CrashRule::Random { seed } => seed,
    });
    let verdict = judge(&tree.log, rule, &entropy);
    let (names, touched) = surviving_names(tree, &verdict.items);
    let mut inodes = BTreeMap::new();
    let mut open = vec![ROOT];
    let mut counts: BTreeMap<Ino, u32> = [(ROOT, 1)].into();
    while let Some(ino) = open.pop() {
        let Some(inode) = tree.inodes.get(&ino) else { continue };
        if inodes.contains_key(&ino) {
            continue;
        }
        let body = match &inode.body {
            Body::File(bytes) => {
                Body::File(FileBytes::settled(surviving_bytes(bytes, &verdict.bytes, &entropy)))
            }
            Body::Dir(_) => {
                let now = names.get(&ino).cloned().unwrap_or_default();
                for child in now.values() {
                    *counts.entry(*child).or_default() += 1;
                    open.push(*child);
                }
                Body::Dir(Names { safe: now.clone(), now })
            }
            Body::Other(code) => Body::Other(*code),
        };
        let (number, mut attr) = surviving_attr(inode, &verdict.attrs, &entropy);
        if let Some((changed, time)) = touched.get(&ino)
            && *changed > number
        {
            (attr.mtime, attr.ctime) = (*time, *time);
        }
        let settled = Inode {
            body,
            safe_attr: attr.clone(),
            attr,
            pending_attr: Vec::new(),
            names: 0,
            handles: 0,
            write_back: WriteBack::default(),
            locked: Locked::No,
        };
        inodes.insert(ino, settled);
    }
    let mut used_pages = 0;
    for (ino, inode) in &mut inodes {
        inode.names = counts.get(ino).copied().unwrap_or_default();
        used_pages += match &inode.body {
            Body::File(bytes) => bytes.pages(),
            Body::Dir(_) => 1,
            Body::Other(_) => 0,
        };
    }
    tree.succeed(inodes, used_pages)
}

fn judge(log: &Log, rule: CrashRule, entropy: &SeededEntropy) -> Verdict {
    let all = || log.items().keys().copied().collect::<BTreeSet<u64>>();
    let before = |end: u64| log.items().range(..end).map(|(number, _)| *number).collect();
    match rule {
        CrashRule::NothingUnsynced => {
            Verdict { items: BTreeSet::new(), attrs: AttrVerdict::Safe, bytes: BytesVerdict::Old }
        }
        CrashRule::Everything => {
            Verdict { items: all(), attrs: AttrVerdict::Latest, bytes: BytesVerdict::New }
        }
        CrashRule::Journal { prefix, .. } => {
            let starts = log.uncommitted_changes();
            let end = starts.get(prefix).copied().unwrap_or(u64::MAX);
            let end = if prefix == 0 { log.journal_end() } else { end };
            Verdict {
                items: before(end),
                attrs: AttrVerdict::Before(end),
                bytes: BytesVerdict::PerFile,
            }
        }
        CrashRule::PerDirectory { .. } => Verdict {
            items: log.closure(log.inode_logged().iter().copied().chain(draw(log, entropy))),
            attrs: AttrVerdict::AnyPrefix,
            bytes: BytesVerdict::PerFile,
        },
        CrashRule::Random { .. } => {
            let (items, attrs) = if entropy.next_u64().is_multiple_of(2) {
                let numbers: Vec<u64> = all().into_iter().collect();
                let count = entropy.next_u64() % (numbers.len() as u64 + 1);
                let end = numbers.get(count as usize).copied().unwrap_or(u64::MAX);
                // A prefix of items may part the two halves of a move.
                (before(end), AttrVerdict::Before(end))
            } else {
                (log.closure(draw(log, entropy)), AttrVerdict::AnyOrder)
            };
            Verdict { items, attrs, bytes: BytesVerdict::PerFile }
        }
    }
}

/// A random set of items: few, half or most.
fn draw(log: &Log, entropy: &SeededEntropy) -> Vec<u64> {
    let of_eight = [1, 4, 7][(entropy.next_u64() % 3) as usize];
    log.items().keys().copied().filter(|_| entropy.next_u64() % 8 < of_eight).collect()
}

type SurvivingNames = BTreeMap<Ino, BTreeMap<Vec<u8>, Ino>>;
/// The last surviving change of names in each directory: its number and when it was.
type Touched = BTreeMap<Ino, (u64, Timestamp)>;

fn surviving_names(tree: &Tree, items: &BTreeSet<u64>) -> (SurvivingNames, Touched) {
    let mut names = SurvivingNames::new();
    let mut touched = Touched::new();
    for (ino, inode) in &tree.inodes {
        if let Body::Dir(dir) = &inode.body {
            names.insert(*ino, dir.safe.clone());
        }
    }
    for number in items {
        let item = &tree.log.items()[number];
        for edit in &item.edits {
            touched.insert(edit.dir, (*number, item.time));
            let dir = names.entry(edit.dir).or_default();
            match edit.to {
                Some(ino) => dir.insert(edit.name.clone(), ino),
                None => dir.remove(&edit.name),
            };
        }
    }
    (names, touched)
}

/// The attributes, and the number of the change that made them (0: they were safe).
fn surviving_attr(inode: &Inode, verdict: &AttrVerdict, entropy: &SeededEntropy) -> (u64, Attr) {
    let pending = &inode.pending_attr;
    let any = || (entropy.next_u64() % (pending.len() as u64 + 1)) as usize;
    let after = |kept: usize| match kept {
        0 => (0, &inode.safe_attr),
        kept => (pending[kept - 1].0, &pending[kept - 1].1),
    };
    let kept = match verdict {
        AttrVerdict::Safe => 0,
        AttrVerdict::Latest => return (u64::MAX, inode.attr.clone()),
        AttrVerdict::Before(end) => pending.partition_point(|(number, _)| number < end),
        AttrVerdict::AnyPrefix | AttrVerdict::AnyOrder => any(),
    };
    let (number, attr) = after(kept);
    let mut attr = attr.clone();
    if matches!(verdict, AttrVerdict::AnyOrder) && !pending.is_empty() {
        let all = (0..=pending.len()).flat_map(|kept| after(kept).1.xattrs.keys());
        let names: BTreeSet<&Vec<u8>> = all.collect();
        let value = |name: &Vec<u8>| Some((name.clone(), after(any()).1.xattrs.get(name)?.clone()));
        attr.xattrs = names.into_iter().filter_map(value).collect();
    }
    (number, attr)
}

fn surviving_bytes(bytes: &FileBytes, verdict: &BytesVerdict, entropy: &SeededEntropy) -> Content {
    match verdict {
        BytesVerdict::Old => bytes.resolve(&Fate::Old),
        BytesVerdict::New => bytes.resolve(&Fate::New),
        BytesVerdict::PerFile => match entropy.next_u64() % 4 {
            0 => bytes.resolve(&Fate::Old),
            1 => bytes.resolve(&Fate::New),
            _ => bytes.resolve(&Fate::Mixed(entropy)),
        },
    }
}
