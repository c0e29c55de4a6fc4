//! Rescue copies under the hand: no mount shows anything else for it, and a check tells every one that is not the directory's.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use akasha::backing::{Backing, OsDisk};
use akasha::clock::SystemClock;
use akasha::crypto::Cipher;
use akasha::entropy::{Entropy as _, SeededEntropy};
use akasha::format::{OpenVault, RESCUE_LEN, config};
use akasha::store::check::{self, Kind};
use akasha::store::{Store, StoreOptions};

use super::edits::Edit;
use super::gallery::{PASSWORD, build_with_rescues};
use super::hand::{Change, Step};
use super::real::THINGS;
use super::subject::{Subject, copy, files};
use super::{How, every, seed, try_edit};

/// The findings of a check that there are beside those of an untouched vault.
fn told<B: Backing>(vault: &OpenVault, disk: &B) -> Vec<Kind> {
    let effort = check::Effort { threads: 1, read_bytes: &AtomicU64::new(0) };
    let mut kinds = Vec::new();
    check::check(disk, vault, effort, &mut |finding| kinds.push(finding.kind)).unwrap();
    kinds.retain(|kind| !matches!(kind, Kind::Foreign | Kind::Conflict | Kind::Leftover));
    kinds
}

#[test]
fn no_edit_of_a_rescue_copy_shows_and_a_check_tells_of_each() {
    let seed = seed();
    let random = SeededEntropy::new(seed);
    for cipher in Cipher::ALL {
        let subject = Subject::new(cipher, 104, false);
        let copies: Vec<(Vec<u8>, Vec<u8>)> =
            files(&subject.disk).into_iter().filter(|(path, _)| path.ends_with(b"/.dir")).collect();
        assert!(copies.len() >= 4, "every directory has one: {}", copies.len());
        let untouched = told(&subject.open(), &subject.disk);
        let mut tried = 0;
        let mut try_one = |what: String, steps: Vec<Step>, kind: Option<Kind>| {
            let mut expected = untouched.clone();
            expected.extend(kind);
            let disk = copy(&subject.disk);
            assert!(steps.iter().all(|step| step.take(&disk)), "{what}");
            let mut kinds = told(&subject.open(), &disk);
            kinds.sort_by_key(|kind| kind.key());
            expected.sort_by_key(|kind| kind.key());
            assert_eq!(kinds, expected, "{what}");
            let ways = [How::ReadOnly, How::ReadWrite, How::AfterAKill];
            let (older, removes, unseen) = (false, false, false);
            let edit = Edit { family: "rescue copy", what, steps, older, removes, unseen };
            let ways = if every() { &ways[..] } else { &ways[tried % 3..=tried % 3] };
            for how in ways {
                let verdict = try_edit(&subject, &edit, *how, false).unwrap();
                assert!(verdict.is_harmless(), "{} ({how:?}): {verdict:?}", edit.what);
            }
            tried += 1;
        };
        for (at, (path, bytes)) in copies.iter().enumerate() {
            let shown = path.escape_ascii();
            assert_eq!(bytes.len(), RESCUE_LEN);
            let bits = if every() { 0..RESCUE_LEN as u64 * 8 } else { 0..6 };
            let bits = bits.map(|n| {
                Change::Flip(if every() { n } else { random.next_u64() % (RESCUE_LEN as u64 * 8) })
            });
            let cuts: Vec<usize> =
                if every() { (0..RESCUE_LEN).collect() } else { vec![0, 63, 64, RESCUE_LEN - 1] };
            let zeros = [0..64, 64..192, 192..448, 448..RESCUE_LEN, 0..RESCUE_LEN];
            let grown = [vec![0], vec![0; 16], bytes.clone()];
            let changes = bits
                .chain(cuts.into_iter().map(Change::Cut))
                .chain(zeros.into_iter().map(Change::Zero))
                .chain(grown.into_iter().map(Change::Grow));
            for change in changes {
                let mut changed = bytes.clone();
                change.apply(&mut changed);
                let what = format!("{change} of {shown}");
                try_one(what, vec![Step::Put(path.clone(), changed)], Some(Kind::Rescue));
            }
            for (other, theirs) in copies.iter().filter(|(other, _)| other != path) {
                let what = format!("{} copied to {shown}", other.escape_ascii());
                try_one(what, vec![Step::Put(path.clone(), theirs.clone())], Some(Kind::Rescue));
            }
            try_one(format!("{shown} removed"), vec![Step::Remove(path.clone())], None);
            for code in [libc::ELOOP, libc::EIO, libc::ENXIO] {
                let steps = vec![Step::Plant(path.clone(), code)];
                try_one(format!("no file ({code}) at {shown}"), steps, Some(Kind::Rescue));
            }
            let steps = vec![Step::Remove(path.clone()), Step::Mkdir(path.clone())];
            try_one(format!("a directory at {shown}"), steps, Some(Kind::Rescue));
            if at == 0 {
                let steps = vec![Step::Put(b".dir".to_vec(), bytes.clone())];
                try_one(format!("{shown} copied to the root"), steps, Some(Kind::Rescue));
            }
        }
        // Of the same directory, under the name that it once had: authentic, and no damage.
        let (path, _) = copies
            .iter()
            .find(|(path, _)| {
                let former = subject.former_rescue(b"links", path.strip_suffix(b"/.dir").unwrap());
                let disk = copy(&subject.disk);
                Step::Put(path.clone(), former).take(&disk)
                    && told(&subject.open(), &disk).contains(&Kind::Outdated)
            })
            .expect("one of them is that directory's");
        let former = subject.former_rescue(b"links", path.strip_suffix(b"/.dir").unwrap());
        let steps = vec![Step::Put(path.clone(), former)];
        try_one("a former copy".to_owned(), steps, Some(Kind::Outdated));
        println!("{}: {tried} edits of {} rescue copies, wrong 0", cipher.name(), copies.len());
    }
}

/// What no simulated disk has: links that lead out, fifos, sockets, devices in a copy's place.
#[test]
fn nothing_in_the_place_of_a_rescue_copy_is_followed_waited_for_or_in_the_way() {
    for (what, plant) in THINGS {
        let place = tempfile::tempdir().unwrap();
        // Short, for the sockets' sake.
        let dir = place.path().join("v");
        build_with_rescues(&dir, Cipher::Aes256Gcm, 12, 9);
        fs::create_dir(dir.join(".akasha/tmp")).unwrap();
        let bytes = fs::read(dir.join(".akasha/vault.toml")).unwrap();
        let vault = config::open(&bytes, PASSWORD).unwrap();
        let holds_copy = |path: &Path| path.join(".dir").exists();
        let dirs = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
        let (mut dirs, aside): (Vec<_>, _) =
            (dirs.filter(|path| holds_copy(path)).collect(), place.path().join("aside"));
        // The one with nothing in it.
        dirs.retain(|path| fs::read_dir(path).unwrap().count() == 1);
        fs::rename(dirs[0].join(".dir"), &aside).unwrap();
        if !plant(&dirs[0].join(".dir"), &aside) {
            continue;
        }
        let disk = Arc::new(OsDisk::open(&dir).unwrap());
        assert_eq!(told(&vault, &*disk), [Kind::Rescue], "{what}");
        let (entropy, clock) = (Arc::new(SeededEntropy::new(3)), Arc::new(SystemClock::new()));
        let store = Store::open(disk, vault, StoreOptions::default(), entropy, clock).unwrap();
        store.rmdir(&store.root(), b"moved").unwrap_or_else(|error| panic!("{what}: {error}"));
        store.close().unwrap();
        assert!(!dirs[0].exists() && aside.exists(), "{what}");
    }
}
