//! No (object, domain, index) is ever sealed twice: not under failed writes and syncs, not when they are tried again, not by
//! cutting and growing, not by writers that race, not after failed commits, kills and power cuts. A recorder in the sealing
//! layer watches over all mounts of a vault.
//!
//! `AKASHA_SEED` replays the random parts.
#![cfg(debug_assertions)] // The recorder is not in release builds.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use akasha::backing::{CallKind, CrashRule, SimDisk};
use akasha::clock::SystemClock;
use akasha::crypto::{Cipher, SealRecord};
use akasha::entropy::{Entropy, SeededEntropy};
use akasha::format::config::{self, ConfigParams, KdfParams};
use akasha::format::{Geometry, OpenVault};
use akasha::store::{NewAttr, Node, RenameFlags, Result, SetXattr, Store, StoreOptions, vault};

const NEW: NewAttr = NewAttr { mode: 0o644, uid: 0, gid: 0 };
const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];

type Inode = Arc<Node<SimDisk>>;

/// A vault of whose keys every use is recorded.
struct Watched {
    open: OpenVault,
    config: Vec<u8>,
    record: Arc<SealRecord>,
    mounts: AtomicU64,
}

impl Watched {
    fn new() -> Watched {
        let params = ConfigParams {
            cipher: Cipher::ChaCha20Poly1305,
            geometry: Geometry::new(12).unwrap(),
            kdf: KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 },
        };
        let (config, open) = config::create(b"p", &params, 0, &SeededEntropy::new(1)).unwrap();
        let record = open.keys.record_seals();
        Watched { open, config, record, mounts: AtomicU64::new(0) }
    }

    fn disk(&self) -> SimDisk {
        let disk = SimDisk::new();
        vault::create(&disk, &self.config).unwrap();
        disk
    }

    /// Every mount draws other numbers, as a real one does.
    fn mount(&self, disk: &SimDisk) -> Result<Arc<Store<SimDisk>>> {
        let seed = 1000 + self.mounts.fetch_add(1, Ordering::Relaxed);
        self.mount_with(disk, seed)
    }

    fn mount_with(&self, disk: &SimDisk, seed: u64) -> Result<Arc<Store<SimDisk>>> {
        let open =
            OpenVault { config: self.open.config.clone(), keys: Arc::clone(&self.open.keys) };
        // So little that blocks are sealed long before the commit, and change again after it.
        let options = StoreOptions { memory_budget: 32 << 10, ..StoreOptions::default() };
        let (entropy, clock) = (Arc::new(SeededEntropy::new(seed)), Arc::new(SystemClock::new()));
        Store::open(Arc::new(disk.clone()), open, options, entropy, clock)
    }

    fn hold(&self, what: &str) {
        let twice = self.record.sealed_twice();
        assert!(twice.is_empty(), "{what}: sealed twice: {twice:?}");
    }
}

/// Whatever may seal something; what fails is tried again once, and then let be.
fn work(store: &Arc<Store<SimDisk>>, random: &SeededEntropy, steps: u64) {
    let below = |bound: u64| random.next_u64() % bound;
    let root = store.root();
    let again = |act: &dyn Fn() -> Result<()>| act().or_else(|_| act()).is_ok();
    for _ in 0..steps {
        let name = NAMES[below(4) as usize];
        let other = NAMES[below(4) as usize];
        let found: Result<Inode> = store.lookup(&root, name);
        let Ok(node) = found else {
            let made = match below(6) {
                0 => store.symlink(&root, name, b"target", &NEW).is_ok(),
                _ => store.create(&root, name, &NEW).map(|n| store.close_file(&n, true)).is_ok(),
            };
            let _ = made;
            continue;
        };
        if store.open_file(&node, true).is_err() {
            let _ = store.unlink(&root, name);
            continue;
        }
        let size = store.attr(&node).map_or(0, |attr| attr.size);
        match below(12) {
            0..4 => {
                let data = vec![below(256) as u8; 1 + below(90_000) as usize];
                let at = below(size + 1).min(600_000);
                again(&|| store.write(&node, at, &data));
            }
            // The same block over and over: sealed early, changed again, sealed elsewhere.
            4 => {
                for round in 0..4_u8 {
                    again(&|| store.write(&node, 4096 * 3, &[round; 5000]));
                    again(&|| store.write(&node, below(20) * 4096, &vec![round; 40_000]));
                }
            }
            // Cut and grown.
            5 => {
                let cut = below(size + 1);
                again(&|| store.truncate(&node, cut));
                again(&|| store.truncate(&node, cut + below(200_000)));
                again(&|| store.write(&node, cut, &[7; 9000]));
            }
            6 => {
                again(&|| store.truncate(&node, 0));
                again(&|| store.write(&node, 0, &vec![9; 60_000]));
            }
            7 | 8 => {
                again(&|| store.fsync(&node));
            }
            9 => {
                let _ = store.link(&node, &root, other);
            }
            10 => {
                let _ = store.rename(&root, name, &root, other, RenameFlags::Replace);
            }
            _ => {
                let value = vec![1; [10, 5000][below(2) as usize]];
                again(&|| store.set_xattr(&node, b"user.x", &value, SetXattr::Any));
            }
        }
        store.close_file(&node, true);
        if below(10) == 0 {
            store.tick();
        }
    }
}

fn seed() -> u64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("the clock is past 1970");
    let seed = std::env::var("AKASHA_SEED")
        .map_or(u64::from(now.subsec_nanos()), |seed| seed.parse().expect("a number"));
    println!("AKASHA_SEED={seed}");
    seed
}

#[test]
fn nothing_is_sealed_twice_whatever_call_fails() {
    let seed = seed();
    let watched = Watched::new();
    let mut faults = 0;
    for (kind, code) in [
        (CallKind::Write, libc::EIO),
        (CallKind::Write, libc::ENOSPC),
        (CallKind::Sync, libc::EIO),
        (CallKind::SyncDir, libc::EIO),
        (CallKind::SyncAll, libc::EIO),
        (CallKind::Rename, libc::EIO),
        (CallKind::Rename, libc::ENOSPC),
        (CallKind::CreateTemp, libc::ENOSPC),
        (CallKind::OpenTemp, libc::EMFILE),
        (CallKind::Reserve, libc::ENOSPC),
        (CallKind::SetLen, libc::EIO),
        (CallKind::Link, libc::EIO),
        (CallKind::Unlink, libc::EIO),
        (CallKind::Open, libc::EIO),
        (CallKind::Read, libc::EIO),
    ] {
        for nth in [1, 3, 8, 21] {
            for once in [true, false] {
                let disk = watched.disk();
                let store = watched.mount(&disk).unwrap();
                let random = SeededEntropy::new(seed ^ nth << 8);
                work(&store, &random, 10);
                if once {
                    disk.fail(nth, code, move |call| call == kind);
                } else {
                    disk.fail_from(nth, code, move |call| call == kind);
                }
                work(&store, &random, 15);
                store.tick();
                disk.heal();
                work(&store, &random, 10);
                let _ = store.close();
                faults += 1;
                watched.hold(&format!("{kind:?} {code} from {nth}, once: {once}, seed {seed}"));
            }
        }
    }
    println!("{faults} faults, (objects, seals) = {:?}, none twice", watched.record.counts());
}

#[test]
fn nothing_is_sealed_twice_across_power_cuts_and_mounts() {
    let seed = seed();
    let watched = Watched::new();
    for round in 0..25 {
        let random = SeededEntropy::new(seed.wrapping_add(round));
        let mut disk = watched.disk();
        for cut in 0..5 {
            let Ok(store) = watched.mount(&disk) else { break };
            disk.cut_at(disk.operations() + 5 + random.next_u64() % 80);
            work(&store, &random, 25);
            drop(store);
            let rule = match cut % 3 {
                0 => CrashRule::Random { seed: random.next_u64() },
                1 => CrashRule::Everything,
                _ => CrashRule::NothingUnsynced,
            };
            disk = disk.crash(&rule);
        }
        watched.hold(&format!("round {round}, seed {seed}"));
    }
    println!("125 cuts, (objects, seals) = {:?}, none twice", watched.record.counts());
}

#[test]
fn nothing_is_sealed_twice_by_writers_that_race() {
    let seed = seed();
    let watched = Watched::new();
    for round in 0..12 {
        let disk = watched.disk();
        let store = watched.mount(&disk).unwrap();
        if round % 3 > 0 {
            let fails = if round % 3 == 1 { CallKind::Sync } else { CallKind::Write };
            disk.fail_from(20, libc::EIO, move |call| call == fails);
        }
        thread::scope(|scope| {
            for writer in 0..4 {
                let store = &store;
                let random = SeededEntropy::new(seed ^ round << 20 ^ writer << 40);
                scope.spawn(move || work(store, &random, 40));
            }
            scope.spawn(|| (0..20).for_each(|_| _ = store.tick()));
        });
        disk.heal();
        let _ = store.close();
        watched.hold(&format!("round {round}, seed {seed}"));
    }
    println!("48 racing writers, (objects, seals) = {:?}, none twice", watched.record.counts());
}

/// The recorder sees what it is there for: two mounts that draw the same numbers, which no real ones do.
#[test]
fn the_recorder_sees_numbers_that_were_drawn_twice() {
    let watched = Watched::new();
    let base = watched.disk();
    for timeline in 0..2 {
        let disk = base.crash(&CrashRule::Everything);
        let store = watched.mount_with(&disk, 4).unwrap();
        let node = store.create(&store.root(), b"file", &NEW).unwrap();
        store.write(&node, 0, &[timeline; 9000]).unwrap();
        store.fsync(&node).unwrap();
        store.close_file(&node, true);
        store.close().unwrap();
        assert_eq!(watched.record.sealed_twice().is_empty(), timeline == 0);
    }
    // Three slots and the tail.
    assert_eq!(watched.record.sealed_twice().len(), 4);
}
