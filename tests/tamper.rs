//! Whoever can write the vault can take things away, but never make a reader see wrong bytes: every edit of
//! `tamper/edits.rs` is done to a vault with every form of file, in every cipher, and everything is read (docs/THREAT-MODEL.md,
//! "Edits tried").
//!
//! The short form samples, and prints its seed (`AKASHA_SEED` replays). `scripts/tamper` runs the long one: every bit of
//! every file, every length, every pair; `AKASHA_EDITS` (families of edits, with commas between) leaves the others out. The real kernel is in `mounted/tamper.rs`.
#![allow(clippy::unwrap_used)]

#[path = "tamper/config.rs"]
mod config;
#[path = "tamper/edits.rs"]
mod edits;
#[path = "reader/gallery.rs"]
#[allow(dead_code)]
mod gallery;
#[path = "tamper/hand.rs"]
mod hand;
#[path = "tamper/judge.rs"]
mod judge;
#[path = "tamper/real.rs"]
mod real;
#[path = "tamper/rescue.rs"]
mod rescue;
#[path = "reader/shown.rs"]
#[allow(dead_code)]
mod shown;
#[path = "tamper/subject.rs"]
mod subject;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use akasha::backing::SimDisk;
use akasha::crypto::Cipher;
use akasha::entropy::SeededEntropy;

use edits::Edit;
use hand::Step;
use judge::{Allowed, Verdict, judge};
use subject::{Subject, copy};

/// No edit may take longer: then something hangs.
const PATIENCE: Duration = Duration::from_mins(2);

/// What became of the edits of one family.
#[derive(Clone, Default)]
struct Count {
    tried: u64,
    noticed: u64,
    refused: u64,
    absent: u64,
    harmless: u64,
    older: u64,
}

/// How the tampered vault is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    ReadOnly,
    ReadWrite,
    /// Without the mark of a clean end: the mount looks for orphans first.
    AfterAKill,
}

type Counts = BTreeMap<&'static str, Count>;

fn seed() -> u64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("the clock is past 1970");
    let seed = std::env::var("AKASHA_SEED")
        .map_or(u64::from(now.subsec_nanos()), |seed| seed.parse().expect("a number"));
    println!("AKASHA_SEED={seed}");
    seed
}

/// Whether everything is tried instead of a sample.
fn every() -> bool {
    std::env::var_os("AKASHA_TAMPER").is_some_and(|value| value == "all")
}

/// The share of everything that is wanted, `AKASHA_PART=K/N`: how many to leave out first, and each how manieth to take.
fn part() -> (usize, usize) {
    let Ok(part) = std::env::var("AKASHA_PART") else { return (0, 1) };
    let (number, count) = part.split_once('/').expect("AKASHA_PART is K/N");
    let (number, count): (usize, usize) = (number.parse().unwrap(), count.parse().unwrap());
    assert!((1..=count).contains(&number), "AKASHA_PART is K/N, K from 1 to N");
    (number - 1, count)
}

/// Does one edit to a copy and judges what is left; then takes it back, where bytes were changed, and wants everything
/// back that was there.
fn try_edit(subject: &Subject, edit: &Edit, how: How, check: bool) -> Option<Verdict> {
    let disk = copy(&subject.disk);
    if how == How::AfterAKill {
        hand::remove(&disk, b".akasha/clean");
    }
    let read_only = how == How::ReadOnly;
    if !edit.steps.iter().all(|step| step.take(&disk)) {
        return None;
    }
    let allowed = Allowed { check, older: edit.older, absence: edit.removes, unseen: edit.unseen };
    let shared = Arc::new(disk.clone());
    let mut verdict = judge(&shared, &subject.open(), read_only, &subject.truth, allowed);
    let changes_bytes = verdict.older == 0
        && edit
            .steps
            .iter()
            .all(|s| matches!(s, Step::Put(path, _) if subject.disk.read_path(path).is_some()));
    if !read_only && changes_bytes {
        for step in &edit.steps {
            let Step::Put(path, _) = step else { continue };
            if is_swept(path) {
                continue;
            }
            let bytes = subject.disk.read_path(path).expect("it was there");
            if !disk.replace_path(path, &bytes) {
                verdict.wrong.push(format!("the mount removed {}", path.escape_ascii()));
            }
        }
        let again = judge(&shared, &subject.open(), true, &subject.truth, Allowed::default());
        if !again.is_harmless() {
            verdict.wrong.push(format!("it does not come back: {again:?}"));
        }
    }
    Some(verdict)
}

/// What a mount for writing removes, damaged or not: a layer of nobody, and an entry that another replaced.
fn is_swept(path: &[u8]) -> bool {
    path.ends_with(&[b'e'; 64])
}

/// Tries edits in two threads and prints what became of them.
fn try_all(name: &str, subject: &Subject, edits: impl Iterator<Item = Edit> + Send, writes: u64) {
    let edits = Mutex::new(edits);
    let number = AtomicU64::new(0);
    let counts = Mutex::new(Counts::new());
    let wrong = Mutex::new(Vec::new());
    let (alive, watch) = mpsc::channel::<String>();
    let watcher = thread::spawn(move || {
        let mut last = String::from("the first edit");
        loop {
            match watch.recv_timeout(PATIENCE) {
                Ok(what) => last = what,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    eprintln!("hangs near: {last}");
                    std::process::exit(70);
                }
            }
        }
    });
    thread::scope(|scope| {
        for _ in 0..2 {
            let alive = alive.clone();
            let (edits, counts, wrong, number) = (&edits, &counts, &wrong, &number);
            scope.spawn(move || {
                loop {
                    let Some(edit) = edits.lock().unwrap().next() else { return };
                    let n = number.fetch_add(1, Ordering::Relaxed);
                    if n % 64 == 0 {
                        let _ = alive.send(edit.what.clone());
                    }
                    let ways: &[How] = match n % writes {
                        0 => &[How::ReadOnly, How::ReadWrite],
                        1 => &[How::ReadOnly, How::AfterAKill],
                        _ => &[How::ReadOnly],
                    };
                    for how in ways {
                        let Some(verdict) = try_edit(subject, &edit, *how, n % writes < 4) else {
                            continue;
                        };
                        note(&mut counts.lock().unwrap(), &edit, &verdict);
                        if !verdict.wrong.is_empty() {
                            let mut wrong = wrong.lock().unwrap();
                            wrong.push(format!(
                                "{}: {} ({how:?}): {:?}",
                                edit.family, edit.what, verdict.wrong
                            ));
                        }
                    }
                }
            });
        }
    });
    drop(alive);
    watcher.join().unwrap();
    print_counts(name, &counts.into_inner().unwrap(), wrong.lock().unwrap().len());
    let wrong = wrong.into_inner().unwrap();
    let some = wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} edits went wrong:\n{some}", wrong.len());
}

fn note(counts: &mut Counts, edit: &Edit, verdict: &Verdict) {
    let count = counts.entry(edit.family).or_default();
    count.tried += 1;
    if verdict.refused {
        count.refused += 1;
    } else if verdict.older > 0 {
        count.older += 1;
    } else if verdict.errors > 0 {
        count.noticed += 1;
    } else if verdict.absent > 0 {
        count.absent += 1;
    } else {
        count.harmless += 1;
    }
}

fn print_counts(name: &str, counts: &Counts, wrong: usize) {
    println!(
        "{name}: edit | tried | EIO | refused mount | absent | older whole | no effect | wrong"
    );
    let mut sum = Count::default();
    for (family, count) in counts {
        let Count { tried, noticed, refused, absent, harmless, older } = count;
        println!(
            "  {family} | {tried} | {noticed} | {refused} | {absent} | {older} | {harmless} | 0"
        );
        sum.tried += tried;
        sum.noticed += noticed;
        sum.refused += refused;
        sum.absent += absent;
        sum.older += older;
        sum.harmless += harmless;
    }
    let Count { tried, noticed, refused, absent, harmless, older } = sum;
    println!("  all | {tried} | {noticed} | {refused} | {absent} | {older} | {harmless} | {wrong}");
}

fn every_bit(cipher: Cipher) {
    let random = SeededEntropy::new(seed());
    let (first, step) = part();
    let try_bits = |big, sample, writes| {
        let subject = Subject::new(cipher, 104, big);
        let bits = edits::bits(&subject.disk, sample, &random).skip(first).step_by(step);
        try_all(cipher.name(), &subject, bits, writes);
    };
    if every() {
        try_bits(false, None, 64);
    }
    // Of the big files, and of all the others beside them, some.
    try_bits(true, Some(if every() { 200 } else { 1 }), 16);
}

fn every_shape(cipher: Cipher) {
    let seed = seed();
    let subject = Subject::new(cipher, 104, true);
    let random = SeededEntropy::new(seed);
    let share = if every() { part().1 as u64 } else { 300 };
    // The short form takes one of some, others each time.
    let edits = edits::shapes(&subject, every(), &random);
    let mut n = if every() { part().0 as u64 } else { seed % share };
    let wanted = std::env::var("AKASHA_EDITS").ok();
    let is_wanted = move |family: &str| {
        wanted.as_ref().is_none_or(|all| all.split(',').any(|one| one == family))
    };
    let some = edits.filter(move |edit| {
        n += u64::from(is_wanted(edit.family));
        n.is_multiple_of(share) && is_wanted(edit.family)
    });
    try_all(cipher.name(), &subject, some, 2);
}

#[test]
fn no_flipped_bit_shows_wrong_bytes_under_chacha20_poly1305() {
    every_bit(Cipher::ChaCha20Poly1305);
}

#[test]
fn no_flipped_bit_shows_wrong_bytes_under_aes_256_gcm() {
    every_bit(Cipher::Aes256Gcm);
}

#[test]
fn no_flipped_bit_shows_wrong_bytes_under_aes_256_gcm_siv() {
    every_bit(Cipher::Aes256GcmSiv);
}

#[test]
fn no_other_edit_shows_wrong_bytes_under_chacha20_poly1305() {
    every_shape(Cipher::ChaCha20Poly1305);
}

#[test]
fn no_other_edit_shows_wrong_bytes_under_aes_256_gcm() {
    every_shape(Cipher::Aes256Gcm);
}

#[test]
fn no_other_edit_shows_wrong_bytes_under_aes_256_gcm_siv() {
    every_shape(Cipher::Aes256GcmSiv);
}

#[test]
fn an_untouched_vault_shows_the_truth() {
    for cipher in Cipher::ALL {
        let subject = Subject::new(cipher, 104, true);
        for (disk, truth) in
            [(&subject.disk, &subject.truth), (&subject.old_disk, &subject.old_truth)]
        {
            for read_only in [true, false] {
                let disk = Arc::new(copy(disk));
                let verdict = judge(&disk, &subject.open(), read_only, truth, Allowed::default());
                assert!(verdict.is_harmless(), "{verdict:?}");
            }
        }
    }
}

/// A mount that looks for orphans once removed a layer that lay under another layer's name: what cannot be read any more, but
/// would be if somebody put it back.
#[test]
fn a_mount_keeps_layers_that_lie_under_the_names_of_others() {
    let subject = Subject::new(Cipher::ChaCha20Poly1305, 104, true);
    let is_layer = |path: &[u8]| path.starts_with(b".akasha/layers/") && !is_swept(path);
    let layers: Vec<_> =
        subject::files(&subject.disk).into_iter().filter(|(path, _)| is_layer(path)).collect();
    assert!(layers.len() > 3);
    for how in [How::ReadWrite, How::AfterAKill] {
        for shift in 1..layers.len() {
            let steps = (0..layers.len()).map(|n| {
                let other = &layers[(n + shift) % layers.len()];
                Step::Put(layers[n].0.clone(), other.1.clone())
            });
            let edit = Edit {
                family: "layers turned",
                what: format!("by {shift}"),
                steps: steps.collect(),
                older: true,
                removes: false,
                unseen: false,
            };
            let verdict = try_edit(&subject, &edit, how, true).unwrap();
            assert!(verdict.wrong.is_empty() && verdict.errors > 0, "{how:?} {shift}: {verdict:?}");
        }
    }
}

/// An older layer is what its file was once: in the place of the newest version it is the whole file from the past (THREAT-MODEL,
/// "Freshness").
#[test]
fn a_layer_in_the_place_of_its_file_is_an_older_version() {
    let subject = Subject::new(Cipher::ChaCha20Poly1305, 104, true);
    let inodes: Vec<_> = subject::files(&subject.disk)
        .into_iter()
        .filter_map(|(path, _)| Some(path.strip_prefix(b".akasha/inodes/")?.to_vec()))
        .collect();
    let mut tried = 0;
    for (layer, bytes) in subject::files(&subject.disk) {
        let Some(name) = layer.strip_prefix(b".akasha/layers/") else { continue };
        let Some(inode) = inodes.iter().find(|inode| name.starts_with(inode)) else { continue };
        let edit = Edit {
            family: "layer as a file",
            what: layer.escape_ascii().to_string(),
            steps: vec![Step::Put([b".akasha/inodes/", inode.as_slice()].concat(), bytes)],
            older: true,
            removes: false,
            unseen: false,
        };
        let verdict = try_edit(&subject, &edit, How::ReadOnly, true).unwrap();
        assert!(verdict.wrong.is_empty() && verdict.older > 0, "{}: {verdict:?}", edit.what);
        tried += 1;
    }
    assert!(tried > 0, "no file with several names has an older layer");
}

/// The judge sees what he is there for: a vault that shows something else than it is held against.
#[test]
fn the_judge_sees_wrong_bytes_and_what_vanished() {
    let subject = Subject::new(Cipher::ChaCha20Poly1305, 104, true);
    let disk: Arc<SimDisk> = Arc::new(copy(&subject.disk));
    let look = |truth| judge(&disk, &subject.open(), true, truth, Allowed::default());
    let mut truth = subject.truth.clone();
    let Some(shown::Shown::File(content)) = truth.tree.get_mut(b"layered".as_slice()) else {
        panic!()
    };
    content[150_000] ^= 1;
    assert_eq!(look(&truth).wrong.len(), 1);
    let mut truth = subject.truth.clone();
    truth.tree.insert(b"more".to_vec(), shown::Shown::Dir);
    assert_eq!(look(&truth).wrong, ["more vanished"]);
    let mut truth = subject.truth.clone();
    truth.tree.remove(b"layered".as_slice());
    assert_eq!(look(&truth).wrong, ["layered: from nowhere"]);
    let mut truth = subject.truth.clone();
    truth.attributes.get_mut(b"directory".as_slice()).unwrap().clear();
    assert_eq!(look(&truth).wrong.len(), 1);
}
