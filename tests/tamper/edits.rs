//! All that the hand does, one edit after the other: of the bytes of each file, of the names, of the attributes.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::sync::Arc;

use akasha::backing::{FileKind, SimDisk};
use akasha::entropy::{Entropy as _, SeededEntropy};

use super::hand::{self, Change, Step};
use super::subject::{Subject, files};

/// One edit.
pub struct Edit {
    pub family: &'static str,
    pub what: String,
    pub steps: Vec<Step>,
    /// Whole objects of the older state come back: they may show.
    pub older: bool,
    /// Backing names are taken away.
    pub removes: bool,
    /// Nothing is left of it that a check could find.
    pub unseen: bool,
}

impl Edit {
    fn new(family: &'static str, what: String, steps: Vec<Step>) -> Edit {
        Edit { family, what, steps, older: false, removes: false, unseen: false }
    }

    fn removing(self) -> Edit {
        Edit { removes: true, ..self }
    }

    fn older(self) -> Edit {
        Edit { older: true, ..self }
    }

    fn unseen(self) -> Edit {
        Edit { unseen: true, ..self }
    }
}

type Edits<'a> = Box<dyn Iterator<Item = Edit> + Send + 'a>;

/// Files above this are sampled even where every bit of the others is flipped.
const SMALL: usize = 64 << 10;

/// A file of the vault.
struct Target {
    path: Vec<u8>,
    bytes: Arc<[u8]>,
}

impl Target {
    fn edit(&self, family: &'static str, change: &Change) -> Edit {
        let mut bytes = self.bytes.to_vec();
        change.apply(&mut bytes);
        let what = format!("{change} of {} ({})", self.path.escape_ascii(), self.bytes.len());
        Edit::new(family, what, vec![Step::Put(self.path.clone(), bytes)])
    }

    /// Where the parts are: header, slots, what is behind them.
    fn slots(&self) -> Vec<std::ops::Range<usize>> {
        let end = self.bytes.len().saturating_sub(256);
        (64..end).step_by(4112).map(|at| at..(at + 4112).min(end)).collect()
    }
}

/// Everything but bits: about as many edits as there are slots and pairs of files.
pub fn shapes<'a>(subject: &'a Subject, every: bool, random: &'a SeededEntropy) -> Edits<'a> {
    let targets = Arc::new(targets(&subject.disk));
    let old: BTreeMap<Vec<u8>, Vec<u8>> = files(&subject.old_disk).into_iter().collect();
    let all: Vec<Edits> = vec![
        Box::new(cuts(&targets, every, random)),
        Box::new(growths(&targets)),
        Box::new(zeros(&targets)),
        Box::new(moved_slots(&targets, every, random)),
        Box::new(pieces_of_the_past(&targets, old)),
        Box::new(swaps(&targets, every, random)),
        Box::new(names(&subject.disk, every, random)),
        Box::new(things(&subject.disk)),
        Box::new(the_past(subject)),
        Box::new(attributes(&subject.disk, &subject.old_disk)),
        Box::new(control(&subject.disk)),
    ];
    Box::new(all.into_iter().flatten())
}

/// Bit flips: every bit of every file that is small, or `sample` of each file.
pub fn bits<'a>(disk: &SimDisk, sample: Option<u64>, random: &'a SeededEntropy) -> Edits<'a> {
    Box::new(targets(disk).into_iter().flat_map(move |target| {
        let bits = target.bytes.len() as u64 * 8;
        let chosen: Vec<u64> = match sample {
            None => (0..bits).collect(),
            // Headers, maps and tails are small beside the blocks: half of the flips go there.
            Some(count) => (0..count)
                .map(|_| match random.next_u64() % 4 {
                    0 => random.next_u64() % bits.min(64 * 8),
                    1 => bits - 1 - random.next_u64() % bits.min(600 * 8),
                    _ => random.next_u64() % bits,
                })
                .collect(),
        };
        chosen.into_iter().map(move |bit| target.edit("bit flipped", &Change::Flip(bit)))
    }))
}

/// Every file with something in it. `vault.toml` is told apart: it is read before anything is mounted.
fn targets(disk: &SimDisk) -> Vec<Target> {
    files(disk)
        .into_iter()
        .filter(|(path, bytes)| !bytes.is_empty() && path != b".akasha/vault.toml")
        .map(|(path, bytes)| Target { path, bytes: bytes.into() })
        .collect()
}

fn collect(mut make: impl FnMut(&mut Vec<Edit>)) -> std::vec::IntoIter<Edit> {
    let mut edits = Vec::new();
    make(&mut edits);
    edits.into_iter()
}

fn cuts(
    targets: &Arc<Vec<Target>>,
    every: bool,
    random: &SeededEntropy,
) -> impl Iterator<Item = Edit> + Send + use<> {
    let mut chosen = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        let len = target.bytes.len();
        if every && len <= SMALL {
            chosen.extend((0..len).map(|cut| (index, cut)));
            continue;
        }
        let slots = target.slots();
        let edges = slots.iter().flat_map(|slot| [slot.start, slot.end]);
        let near = edges
            .chain([0, 64, 320, 336, len])
            .flat_map(|edge| [edge.wrapping_sub(1), edge, edge + 1]);
        let some = (0..4).map(|_| (random.next_u64() % len as u64) as usize);
        let mut cuts: Vec<usize> = near.chain(some).filter(|cut| *cut < len).collect();
        cuts.sort_unstable();
        cuts.dedup();
        chosen.extend(cuts.into_iter().map(|cut| (index, cut)));
    }
    let targets = Arc::clone(targets);
    chosen.into_iter().map(move |(index, cut)| targets[index].edit("cut", &Change::Cut(cut)))
}

fn growths(targets: &Arc<Vec<Target>>) -> impl Iterator<Item = Edit> + Send + use<> {
    let targets = Arc::clone(targets);
    (0..targets.len()).flat_map(move |index| {
        let bytes = &targets[index].bytes;
        let tail = bytes[bytes.len().saturating_sub(256)..].to_vec();
        let mut grown: Vec<Vec<u8>> =
            [1, 8, 16, 256, 4096, 4112].into_iter().map(|more| vec![0; more]).collect();
        grown.push(tail);
        grown.push(bytes[..bytes.len().min(4112)].to_vec());
        grown.push(bytes.to_vec());
        let target = &targets[index];
        let edits = grown.into_iter().map(|more| target.edit("grown", &Change::Grow(more)));
        edits.collect::<Vec<_>>()
    })
}

fn zeros(targets: &Arc<Vec<Target>>) -> impl Iterator<Item = Edit> + Send + use<> {
    let targets = Arc::clone(targets);
    (0..targets.len()).flat_map(move |index| {
        let target = &targets[index];
        let len = target.bytes.len();
        let mut ranges = vec![0..len.min(64), len.saturating_sub(256)..len, 0..len];
        ranges.extend(target.slots());
        ranges.extend(target.slots().into_iter().map(|slot| slot.end.saturating_sub(16)..slot.end));
        ranges.extend((0..len).step_by(4096).map(|at| at..(at + 4096).min(len)));
        ranges.retain(|range| target.bytes[range.clone()].iter().any(|byte| *byte != 0));
        let edits = ranges.into_iter().map(|range| target.edit("zeroed", &Change::Zero(range)));
        edits.collect::<Vec<_>>()
    })
}

/// A slot in another slot's place, of the same file or of another; two exchanged.
fn moved_slots(
    targets: &[Target],
    every: bool,
    random: &SeededEntropy,
) -> impl Iterator<Item = Edit> + use<> {
    collect(|edits| {
        let full = |target: &Target| -> Vec<_> {
            target.slots().into_iter().filter(|slot| slot.len() == 4112).collect()
        };
        for target in targets {
            let slots = full(target);
            for (a, b) in pairs(slots.len()) {
                let far = !random.next_u64().is_multiple_of(16);
                if !every && far && b != a + 1 {
                    continue;
                }
                let (one, other) = (slots[a].clone(), slots[b].clone());
                let part = target.bytes[one.clone()].to_vec();
                edits.push(target.edit("slot moved", &Change::Splice(other.start, part.clone())));
                let mut both = target.edit("slot moved", &Change::Splice(other.start, part));
                let Some(Step::Put(_, bytes)) = both.steps.first_mut() else { continue };
                bytes[one.clone()].copy_from_slice(&target.bytes[other.clone()]);
                both.what =
                    format!("slots {a} and {b} of {} exchanged", target.path.escape_ascii());
                edits.push(both);
            }
            // From other files, at the same place.
            for other in targets.iter().filter(|other| other.path != target.path) {
                for (slot, theirs) in slots.iter().zip(full(other)).take(if every { 9 } else { 1 })
                {
                    let part = other.bytes[theirs].to_vec();
                    edits.push(
                        target.edit("slot of another file", &Change::Splice(slot.start, part)),
                    );
                }
            }
        }
    })
}

fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |a| (a + 1..count).map(move |b| (a, b)))
}

/// Header, slots, map and tail of the older version of a file, each alone and all but each, in the newer one.
fn pieces_of_the_past(
    targets: &[Target],
    old: BTreeMap<Vec<u8>, Vec<u8>>,
) -> impl Iterator<Item = Edit> + use<> {
    collect(move |edits| {
        for target in targets {
            let Some(old) = old.get(&target.path).filter(|old| ***old != *target.bytes) else {
                continue;
            };
            let len = old.len().min(target.bytes.len());
            let end = target.bytes.len().saturating_sub(256);
            let slots = target.slots().into_iter().filter(|slot| slot.end <= len);
            let parts: Vec<_> = iter::once(0..64).chain(slots).collect();
            for part in parts {
                let piece = old[part.clone()].to_vec();
                edits.push(
                    target.edit("part of an older version", &Change::Splice(part.start, piece)),
                );
                let mut rest = old.clone();
                if rest.len() == target.bytes.len() {
                    rest[part.clone()].copy_from_slice(&target.bytes[part.clone()]);
                    let what =
                        format!("all but {part:?} of an older {}", target.path.escape_ascii());
                    // The older version with one part of the newer: what is read of it is old, none of it new.
                    let steps = vec![Step::Put(target.path.clone(), rest)];
                    edits.push(Edit::new("part of an older version", what, steps).older());
                }
            }
            let tail = old[old.len().saturating_sub(256)..].to_vec();
            if tail.len() == 256 && end > 0 {
                edits.push(target.edit("part of an older version", &Change::Splice(end, tail)));
            }
            // A map and a tail, 4120 + 256 bytes, of the older version behind the slots of the newer one.
            if old.len() > 4376 && target.bytes.len() > 4376 {
                let map = old[old.len() - 4376..].to_vec();
                edits.push(target.edit(
                    "part of an older version",
                    &Change::Splice(target.bytes.len() - 4376, map.clone()),
                ));
                edits.push(target.edit(
                    "part of an older version",
                    &Change::Splice(target.bytes.len() - 4376, map[..4120].to_vec()),
                ));
            }
        }
    })
}

/// Two files change places: by their bytes, the names stay.
fn swaps(
    targets: &[Target],
    every: bool,
    random: &SeededEntropy,
) -> impl Iterator<Item = Edit> + use<> {
    collect(|edits| {
        for (a, b) in pairs(targets.len()) {
            if !every && !random.next_u64().is_multiple_of(12) {
                continue;
            }
            let (one, other) = (&targets[a], &targets[b]);
            if one.bytes == other.bytes {
                continue;
            }
            let what =
                format!("{} and {} swapped", one.path.escape_ascii(), other.path.escape_ascii());
            let put = |to: &Target, from: &Target| Step::Put(to.path.clone(), from.bytes.to_vec());
            edits.push(
                Edit::new("contents swapped", what.clone(), vec![put(one, other), put(other, one)])
                    .older(),
            );
            edits.push(Edit::new("content copied", what, vec![put(one, other)]).older());
        }
    })
}

/// Names taken away, exchanged, carried into other directories, made up.
fn names(
    disk: &SimDisk,
    every: bool,
    random: &SeededEntropy,
) -> impl Iterator<Item = Edit> + use<> {
    let paths = disk.paths();
    let dirs: Vec<Vec<u8>> = paths
        .iter()
        .filter(|(path, kind, _)| *kind == FileKind::Dir && !path.starts_with(b".akasha"))
        .map(|(path, _, _)| path.clone())
        .chain([Vec::new()])
        .collect();
    let all_dirs: BTreeSet<Vec<u8>> = paths
        .iter()
        .filter(|(_, kind, _)| *kind == FileKind::Dir)
        .map(|(path, _, _)| path.clone())
        .collect();
    let objects: Vec<Vec<u8>> = paths
        .into_iter()
        .map(|(path, _, _)| path)
        .filter(|path| path != b".akasha" && path != b".akasha/vault.toml")
        .collect();
    collect(|edits| {
        for path in &objects {
            let shown = path.escape_ascii();
            let name = hand::split(path).1;
            let gone = Edit::new(
                "name taken away",
                format!("{shown} removed"),
                vec![Step::Remove(path.clone())],
            );
            edits.push(gone.removing().unseen());
            for dir in dirs.iter().filter(|dir| !dir.starts_with(path.as_slice())) {
                let to = hand::join(dir, name);
                if to == *path || path.starts_with(b".akasha") && name.len() < 16 {
                    continue;
                }
                let what = format!("{shown} moved to {}", to.escape_ascii());
                edits.push(
                    Edit::new(
                        "moved to another directory",
                        what,
                        vec![Step::Rename(path.clone(), to.clone())],
                    )
                    .removing(),
                );
                if let Some(bytes) = disk.read_path(path) {
                    let what = format!("{shown} copied to {}", to.escape_ascii());
                    edits.push(Edit::new(
                        "copied to another directory",
                        what,
                        vec![Step::Put(to, bytes)],
                    ));
                }
            }
            // A sealed name with one letter changed, and one cut.
            if name.len() > 20 {
                for at in [1, name.len() / 2, name.len() - 1] {
                    let mut other = path.clone();
                    let at = path.len() - name.len() + at;
                    other[at] = if other[at] == b'a' { b'b' } else { b'a' };
                    let what = format!("{shown} renamed, letter {at}");
                    edits.push(
                        Edit::new("name changed", what, vec![Step::Rename(path.clone(), other)])
                            .removing(),
                    );
                }
                let cut = path[..path.len() - 4].to_vec();
                edits.push(
                    Edit::new(
                        "name changed",
                        format!("{shown} cut"),
                        vec![Step::Rename(path.clone(), cut)],
                    )
                    .removing(),
                );
            }
        }
        for (a, b) in pairs(objects.len()) {
            let (one, other) = (&objects[a], &objects[b]);
            let nested = other.starts_with(one) || one.starts_with(other);
            if nested || !every && !random.next_u64().is_multiple_of(12) {
                continue;
            }
            let what = format!("{} and {} exchanged", one.escape_ascii(), other.escape_ascii());
            let swap = Edit::new(
                "names exchanged",
                what.clone(),
                vec![Step::Swap(one.clone(), other.clone())],
            );
            // A directory of the control directory that takes another's place takes what is in it along.
            let carries = all_dirs.contains(one) || all_dirs.contains(other);
            edits.push(Edit { removes: carries, unseen: carries, ..swap }.older());
            // Into a directory, out of it: what was there is lost.
            edits.push(
                Edit::new(
                    "name over another",
                    what,
                    vec![Step::Rename(one.clone(), other.clone())],
                )
                .older()
                .removing()
                .unseen(),
            );
        }
    })
}

/// What is no file of ours, in the place of each.
fn things(disk: &SimDisk) -> impl Iterator<Item = Edit> + use<> {
    let paths = disk.paths();
    collect(|edits| {
        for (path, kind, _) in &paths {
            if path == b".akasha" || path == b".akasha/vault.toml" {
                continue;
            }
            let shown = path.escape_ascii().to_string();
            let plant = |code| vec![Step::Plant(path.clone(), code)];
            edits.push(
                Edit::new("symlink in its place", shown.clone(), plant(libc::ELOOP)).removing(),
            );
            edits.push(Edit::new("fifo in its place", shown.clone(), plant(libc::EIO)).removing());
            let (family, step) = match kind {
                FileKind::Dir => {
                    ("file in a directory's place", Step::Put(path.clone(), b"file".to_vec()))
                }
                _ => ("directory in its place", Step::Mkdir(path.clone())),
            };
            edits.push(Edit::new(family, shown, vec![Step::Remove(path.clone()), step]).removing());
        }
    })
}

/// Whole files, directories, names of the older state, and all of it: authentic, so that they may show.
fn the_past(subject: &Subject) -> impl Iterator<Item = Edit> + use<> {
    let now: BTreeMap<Vec<u8>, Vec<u8>> = files(&subject.disk).into_iter().collect();
    let old: BTreeMap<Vec<u8>, Vec<u8>> = files(&subject.old_disk).into_iter().collect();
    collect(move |edits| {
        let mut all = Vec::new();
        for (path, bytes) in &old {
            if now.get(path) == Some(bytes) {
                continue;
            }
            let step = Step::Put(path.clone(), bytes.clone());
            let what = format!("{} as it once was", path.escape_ascii());
            edits.push(
                Edit::new("whole file from the past", what, vec![step.clone()]).older().unseen(),
            );
            all.push(step);
        }
        for path in now.keys().filter(|path| !old.contains_key(*path)) {
            all.push(Step::Remove(path.clone()));
        }
        edits.push(
            Edit::new("whole vault from the past", "all".to_owned(), all)
                .older()
                .removing()
                .unseen(),
        );
    })
}

/// Attributes of the backing objects: taken away, changed, carried to others, from the past, made up.
fn attributes(disk: &SimDisk, old_disk: &SimDisk) -> impl Iterator<Item = Edit> + use<> {
    let paths: Vec<Vec<u8>> = disk.paths().into_iter().map(|(path, _, _)| path).collect();
    let mut all = Vec::new();
    for path in &paths {
        all.extend(
            hand::attributes(disk, path).into_iter().map(|(key, value)| (path.clone(), key, value)),
        );
    }
    let old: Vec<_> = paths
        .iter()
        .flat_map(|path| {
            hand::attributes(old_disk, path).into_iter().map(|(k, v)| (path.clone(), k, v))
        })
        .collect();
    collect(move |edits| {
        let set = |path: &[u8], key: &[u8], value: Option<Vec<u8>>| {
            Step::Attribute(path.to_vec(), key.to_vec(), value)
        };
        for (path, key, value) in &all {
            let shown = format!("attribute {} of {}", key.escape_ascii(), path.escape_ascii());
            // A missing reference to a side object is what removing an attribute leaves.
            edits.push(
                Edit::new("attribute taken away", shown.clone(), vec![set(path, key, None)])
                    .removing(),
            );
            for bit in 0..value.len() * 8 {
                let mut other = value.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                edits.push(Edit::new(
                    "attribute's bit flipped",
                    format!("bit {bit} of {shown}"),
                    vec![set(path, key, Some(other))],
                ));
            }
            for cut in 0..value.len() {
                let step = set(path, key, Some(value[..cut].to_vec()));
                edits.push(Edit::new("attribute cut", format!("{shown} cut to {cut}"), vec![step]));
            }
            for to in paths.iter().filter(|to| *to != path && *to != b".akasha") {
                let what = format!("{shown} on {}", to.escape_ascii());
                edits.push(Edit::new(
                    "attribute on another object",
                    what,
                    vec![set(to, key, Some(value.clone()))],
                ));
            }
            for (_, other_key, other) in all.iter().filter(|(_, k, _)| k != key) {
                let what = format!("{shown} with the value of {}", other_key.escape_ascii());
                edits.push(Edit::new(
                    "attribute with another's value",
                    what,
                    vec![set(path, key, Some(other.clone()))],
                ));
            }
        }
        for (path, key, value) in &old {
            if all.iter().any(|(p, k, v)| (p, k, v) == (path, key, value)) {
                continue;
            }
            let what = format!("attribute {} of {}", key.escape_ascii(), path.escape_ascii());
            edits.push(
                Edit::new(
                    "attribute from the past",
                    what,
                    vec![set(path, key, Some(value.clone()))],
                )
                .older()
                .removing(),
            );
        }
    })
}

/// The control directory: what lies there, what never should, and intents.
fn control(disk: &SimDisk) -> impl Iterator<Item = Edit> + use<> {
    let names: Vec<Vec<u8>> = disk
        .paths()
        .into_iter()
        .filter(|(path, kind, _)| *kind == FileKind::File && !path.starts_with(b".akasha"))
        .map(|(path, _, _)| path)
        .collect();
    let layer = files(disk).into_iter().find(|(path, _)| path.starts_with(b".akasha/layers/"));
    let dirs = disk
        .paths()
        .into_iter()
        .filter(|(_, kind, _)| *kind == FileKind::Dir)
        .map(|(path, _, _)| path);
    let dirs: Vec<Vec<u8>> = dirs.collect();
    collect(move |edits| {
        let mut put = |path: &[u8], bytes: &[u8]| {
            let what = format!("{} planted", path.escape_ascii());
            edits.push(Edit::new(
                "planted in the control directory",
                what,
                vec![Step::Put(path.to_vec(), bytes.to_vec())],
            ));
        };
        let zeros = vec![0; 100_000];
        for bytes in [b"".as_slice(), b"garbage", &zeros] {
            for name in ["lock", "clean", "vault.toml.new", "exchange", "unknown"] {
                put(&[b".akasha/", name.as_bytes()].concat(), bytes);
            }
            put(b".akasha/tmp/t00000000000000000000000000000000", bytes);
            put(b".akasha/tmp/else", bytes);
            put(b".akasha/layers/0000000000000063.00", bytes);
            put(b".akasha/inodes/0000000000000063", bytes);
            put(b".akasha/inodes/0000000000000063.stub", bytes);
            put(b".akasha/inodes/else", bytes);
            put(b".akasha/xattrs/else", bytes);
        }
        let (path, bytes) = layer.clone().expect("there are older layers");
        let name = hand::split(&path).1;
        put(&[b".akasha/tmp/".as_slice(), name].concat(), &bytes);
        put(&[b".akasha/xattrs/".as_slice(), name].concat(), &bytes);
        put(&[b".akasha/layers/".as_slice(), &name[..name.len() - 1], b"0"].concat(), &bytes);
        // Rescue copies have a place and no meaning.
        for dir in &dirs {
            put(&hand::join(dir, b".dir"), b"a rescue copy of another directory");
        }
        for intent in intents(&names) {
            let what = format!("intent {:?}", String::from_utf8_lossy(&intent));
            let step = Step::Put(b".akasha/exchange".to_vec(), intent);
            edits.push(Edit::new("planted intent", what, vec![step]).removing());
        }
    })
}

/// Intents that no exchange leaves: with paths that lead out, into the control directory, to what is there.
fn intents(names: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let text = |d1: &str, d2: &str, a: [&str; 2], b: [&str; 2]| {
        format!("akasha exchange 1\n{d1}\n{d2}\n{}\n{}\n{}\n{}\nend\n", a[0], a[1], b[0], b[1])
            .into_bytes()
    };
    let name = |n: usize| String::from_utf8_lossy(&names[n % names.len()]).into_owned();
    let mut all = Vec::new();
    for dir in
        ["/..", "/../..", "/.akasha", "/.", "//", "/x/../..", "", "..", "/.akasha/../..", "/\0"]
    {
        all.push(text(dir, "/", ["x", "y"], ["y", "x"]));
        all.push(text("/", dir, [&name(0), "gone"], ["x", "y"]));
    }
    for other in
        ["..", ".", "", "a/b", ".akasha", "/etc/passwd", ".akasha/vault.toml", "vault.toml"]
    {
        all.push(text("/", "/", [other, "x"], ["y", "z"]));
        all.push(text("/", "/", [&name(1), other], ["y", "z"]));
        all.push(text("/.akasha", "/", [other, "x"], ["y", "z"]));
    }
    // Well-formed: somebody renames by our hand what he could rename by his own.
    all.push(text("/", "/", [&name(2), "renamed"], ["y", "z"]));
    for cut in [0, 1, 17, 18, 30] {
        let whole = text("/", "/", ["a", "b"], ["c", "d"]);
        all.push(whole[..cut].to_vec());
    }
    all
}
