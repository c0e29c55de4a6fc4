//! A machine that is snapshotted while a vault is mounted, and resumed twice, draws the same random numbers twice: two
//! timelines seal different plaintexts under one object id. What each cipher then loses, as docs/THREAT-MODEL.md says.
//!
//! `forgery` does to a file what somebody could do who has both timelines' vaults and knows the plaintexts, without any key.
#![allow(clippy::unwrap_used)]

#[path = "timelines/forgery.rs"]
mod forgery;

use std::sync::Arc;

use akasha::backing::{CrashRule, SimDisk};
use akasha::clock::{Clock, Timestamp};
use akasha::crypto::Cipher;
use akasha::entropy::SeededEntropy;
use akasha::format::config::{self, ConfigParams, KdfParams};
use akasha::format::{Geometry, OpenVault};
use akasha::store::{NewAttr, Store, StoreOptions, vault};

/// The state of the random numbers when the machine was snapshotted.
const SNAPSHOT: u64 = 77;

/// A clock that stands: both timelines resume at one moment.
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp { secs: 1_700_000_000, nanos: 0 }
    }

    fn elapsed(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

/// A vault at the snapshot.
struct Past {
    disk: SimDisk,
    open: OpenVault,
}

impl Past {
    fn new(cipher: Cipher) -> Past {
        let params = ConfigParams {
            cipher,
            geometry: Geometry::new(12).unwrap(),
            kdf: KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 },
        };
        let (bytes, open) = config::create(b"p", &params, 0, &SeededEntropy::new(1)).unwrap();
        let disk = SimDisk::new();
        vault::create(&disk, &bytes).unwrap();
        Past { disk, open }
    }

    fn mount(&self, disk: &SimDisk, seed: u64) -> Arc<Store<SimDisk>> {
        let open =
            OpenVault { config: self.open.config.clone(), keys: Arc::clone(&self.open.keys) };
        let entropy = Arc::new(SeededEntropy::new(seed));
        let disk = Arc::new(disk.clone());
        Store::open(disk, open, StoreOptions::default(), entropy, Arc::new(Still)).unwrap()
    }

    /// What becomes of an edit that was open at the snapshot when `content` is what is written after it. The random
    /// numbers go on from `seed`.
    fn resume(&self, seed: u64, content: &[u8]) -> Timeline {
        let disk = self.disk.crash(&CrashRule::Everything);
        let store = self.mount(&disk, seed);
        let new = NewAttr { mode: 0o644, uid: 0, gid: 0 };
        let node = store.create(&store.root(), b"file", &new).unwrap();
        store.write(&node, 0, content).unwrap();
        store.fsync(&node).unwrap();
        store.close_file(&node, true);
        store.close().unwrap();
        let mut paths = disk.paths().into_iter().map(|(path, _, _)| path);
        let path = paths.find(|path| path.starts_with(b"A")).unwrap();
        let bytes = disk.read_path(&path).unwrap();
        Timeline { disk, path, bytes }
    }

    /// The file as a mount shows it: `None` is damage.
    fn read(&self, timeline: &Timeline, bytes: &[u8]) -> Option<Vec<u8>> {
        let disk = timeline.disk.crash(&CrashRule::Everything);
        assert!(disk.replace_path(&timeline.path, bytes));
        let store = self.mount(&disk, 5);
        let node = store.lookup(&store.root(), b"file").unwrap();
        store.open_file(&node, false).ok()?;
        let mut content = vec![0; 10_000];
        let len = store.read(&node, 0, &mut content);
        store.close_file(&node, false);
        content.truncate(len.ok()?);
        Some(content)
    }
}

/// One of the two futures: the vault, and the file in it.
struct Timeline {
    disk: SimDisk,
    path: Vec<u8>,
    bytes: Vec<u8>,
}

impl Timeline {
    fn header(&self) -> &[u8] {
        &self.bytes[..64]
    }

    /// Ciphertext of `len` bytes of slot `n`.
    fn slot(&self, n: usize, len: usize) -> &[u8] {
        &self.bytes[64 + n * 4112..64 + n * 4112 + len]
    }
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

/// Two contents of two blocks, the first of which is the same.
fn contents() -> (Vec<u8>, Vec<u8>) {
    let one: Vec<u8> = (0..5000_u32).map(|n| (n % 251) as u8).collect();
    let other =
        one.iter().enumerate().map(|(at, byte)| if at < 4096 { *byte } else { byte ^ 0x5A });
    let other = other.collect();
    (one, other)
}

#[test]
fn one_state_of_the_random_numbers_gives_one_id_and_one_key() {
    for cipher in Cipher::ALL {
        let past = Past::new(cipher);
        let (one, other) = contents();
        let (a, b) = (past.resume(SNAPSHOT, &one), past.resume(SNAPSHOT, &other));
        assert_eq!(a.header(), b.header(), "{cipher}: the id and all that enters the key");
        assert_eq!(a.path, b.path);
        // Equal blocks are seen to be equal, whatever the cipher.
        assert_eq!(a.slot(0, 4112), b.slot(0, 4112), "{cipher}");
        assert_ne!(a.slot(1, 904), b.slot(1, 904), "{cipher}");
    }
}

#[test]
fn stream_ciphers_show_how_the_plaintexts_differ() {
    for cipher in [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm] {
        let past = Past::new(cipher);
        let (one, other) = contents();
        let (a, b) = (past.resume(SNAPSHOT, &one), past.resume(SNAPSHOT, &other));
        let seen = xor(a.slot(1, 904), b.slot(1, 904));
        assert_eq!(seen, xor(&one[4096..], &other[4096..]), "{cipher}");
        // Who knows one plaintext has the other.
        assert_eq!(xor(&seen, &one[4096..]), other[4096..], "{cipher}");
    }
}

#[test]
fn aes_gcm_siv_shows_that_blocks_are_equal_and_no_more() {
    let past = Past::new(Cipher::Aes256GcmSiv);
    let (one, other) = contents();
    let (a, b) = (past.resume(SNAPSHOT, &one), past.resume(SNAPSHOT, &other));
    let seen = xor(a.slot(1, 904), b.slot(1, 904));
    let difference = xor(&one[4096..], &other[4096..]);
    let alike = seen.iter().zip(&difference).filter(|(seen, plain)| seen == plain).count();
    // 904 bytes that have nothing to do with each other: 3.5 of them are equal by chance.
    assert!(alike < 30, "{alike} of 904 bytes show the difference");
}

/// One block of 16 bytes in each timeline, both known: enough to make up a third.
const KNOWN: [&[u8; 16]; 2] = [b"pay 10 to Alice.", b"pay 20 to Bob..."];
const WANTED: &[u8; 16] = b"pay 99 to Mallet";

#[test]
fn stream_ciphers_lose_authenticity_too() {
    for cipher in [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm] {
        let past = Past::new(cipher);
        let timelines = KNOWN.map(|content| past.resume(SNAPSHOT, content));
        let parts = [0, 1].map(|n| forgery::Sealed {
            plain: *KNOWN[n],
            cipher: timelines[n].slot(0, 16).try_into().unwrap(),
            tag: timelines[n].bytes[80..96].try_into().unwrap(),
        });
        let forged = match cipher {
            Cipher::Aes256Gcm => forgery::gcm(&parts, WANTED),
            _ => forgery::poly1305(&parts, WANTED),
        };
        let accepted = forged.iter().filter(|slot| {
            let mut bytes = timelines[0].bytes.clone();
            bytes[64..96].copy_from_slice(&slot[..]);
            past.read(&timelines[0], &bytes).is_some_and(|found| found == WANTED)
        });
        assert_eq!(accepted.count(), 1, "{cipher}, of {} tries", forged.len());
    }
}

#[test]
fn aes_gcm_siv_keeps_authenticity() {
    let past = Past::new(Cipher::Aes256GcmSiv);
    let timelines = KNOWN.map(|content| past.resume(SNAPSHOT, content));
    // The arithmetic that works for the others, and every mix of what was sealed.
    let parts = [0, 1].map(|n| forgery::Sealed {
        plain: *KNOWN[n],
        cipher: timelines[n].slot(0, 16).try_into().unwrap(),
        tag: timelines[n].bytes[80..96].try_into().unwrap(),
    });
    let mut tries = forgery::gcm(&parts, WANTED);
    tries.extend(forgery::poly1305(&parts, WANTED));
    for (one, other) in [(0, 1), (1, 0)] {
        let mut slot = [0; 32];
        slot[..16].copy_from_slice(&parts[one].cipher);
        slot[16..].copy_from_slice(&parts[other].tag);
        tries.push(slot);
    }
    for slot in tries {
        let mut bytes = timelines[0].bytes.clone();
        bytes[64..96].copy_from_slice(&slot);
        assert_eq!(past.read(&timelines[0], &bytes), None);
    }
}

/// Under every cipher a whole slot of the other timeline fits, and the tail with it: two versions can be mixed, as nothing
/// else ever allows.
#[test]
fn slots_of_two_timelines_can_be_mixed_under_every_cipher() {
    for cipher in Cipher::ALL {
        let past = Past::new(cipher);
        let (one, _) = contents();
        let both: Vec<u8> = one.iter().map(|byte| byte ^ 1).collect();
        let (a, b) = (past.resume(SNAPSHOT, &one), past.resume(SNAPSHOT, &both));
        let mut mixed = a.bytes.clone();
        mixed[64..64 + 4112].copy_from_slice(b.slot(0, 4112));
        let expected = [&both[..4096], &one[4096..]].concat();
        assert_eq!(past.read(&a, &mixed), Some(expected), "{cipher}");
    }
}

#[test]
fn other_random_numbers_share_nothing() {
    for cipher in Cipher::ALL {
        let past = Past::new(cipher);
        let (one, _) = contents();
        let (a, b) = (past.resume(SNAPSHOT, &one), past.resume(SNAPSHOT + 1, &one));
        assert_ne!(a.header(), b.header(), "{cipher}");
        let alike = a.slot(0, 4112).iter().zip(b.slot(0, 4112)).filter(|(a, b)| a == b).count();
        // One plaintext under two keys: 16 of 4112 bytes are equal by chance.
        assert!(alike < 80, "{cipher}: {alike} of 4112 bytes are equal");
        let mut mixed = a.bytes.clone();
        mixed[64..64 + 4112].copy_from_slice(b.slot(0, 4112));
        assert_eq!(past.read(&a, &mixed), None, "{cipher}");
    }
}
