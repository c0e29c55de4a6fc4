//! Cases found by reading: each one failed once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::backing::{CallKind, CrashRule, SimDisk};
use crate::clock::SystemClock;
use crate::crypto::Cipher;
use crate::entropy::SeededEntropy;
use crate::format::Geometry;
use crate::format::config::{self, ConfigParams, KdfParams};

const NEW: NewAttr = NewAttr { mode: 0o644, uid: 0, gid: 0 };

fn vault() -> SimDisk {
    let disk = SimDisk::new();
    let params = ConfigParams {
        cipher: Cipher::Aes256Gcm,
        geometry: Geometry::new(12).unwrap(),
        kdf: KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 },
    };
    let (bytes, _) = config::create(b"p", &params, 0, &SeededEntropy::new(1)).unwrap();
    vault::create(&disk, &bytes).unwrap();
    disk
}

static MOUNTS: AtomicU64 = AtomicU64::new(100);

fn mount_with(disk: &SimDisk, options: StoreOptions) -> Arc<Store<SimDisk>> {
    let open = config::open(&vault::read_config(disk).unwrap(), b"p").unwrap();
    let entropy = SeededEntropy::new(MOUNTS.fetch_add(1, Ordering::Relaxed));
    let clock = Arc::new(SystemClock::new());
    Store::open(Arc::new(disk.clone()), open, options, Arc::new(entropy), clock).unwrap()
}

fn mount(disk: &SimDisk) -> Arc<Store<SimDisk>> {
    mount_with(disk, StoreOptions::default())
}

type TestNode = Arc<Node<SimDisk>>;

/// A new committed, closed file.
fn put(store: &Store<SimDisk>, dir: &TestNode, name: &[u8], content: &[u8]) -> TestNode {
    let node = store.create(dir, name, &NEW).unwrap();
    store.open_file(&node, true).unwrap();
    store.write(&node, 0, content).unwrap();
    store.fsync(&node).unwrap();
    store.close_file(&node, true);
    node
}

fn get(store: &Store<SimDisk>, dir: &TestNode, name: &[u8]) -> Result<Vec<u8>> {
    let node = store.lookup(dir, name)?;
    let size = store.attr(&node)?.size;
    let mut out = vec![0; usize::try_from(size).unwrap()];
    let len = store.read(&node, 0, &mut out)?;
    assert_eq!(len, out.len());
    Ok(out)
}

fn names(store: &Store<SimDisk>, dir: &TestNode) -> Vec<String> {
    let mut names = Vec::new();
    store
        .list(dir, 0, &mut |entry| {
            names.push(String::from_utf8_lossy(entry.name).into_owned());
            true
        })
        .unwrap();
    names.sort();
    names
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    use crate::entropy::Entropy;
    let mut bytes = vec![0; len];
    SeededEntropy::new(seed).fill(&mut bytes);
    bytes
}

/// Every kind of power cut now.
fn crashes(disk: &SimDisk) -> Vec<(CrashRule, SimDisk)> {
    let rules = CrashRule::battery(disk.pending_changes(), 0..12);
    rules.into_iter().map(|rule| (rule, disk.crash(&rule))).collect()
}

#[test]
fn a_write_that_fails_halfway_leaves_a_version_that_can_be_read() {
    let disk = vault();
    let store = mount(&disk);
    let old = noise(400 << 10, 1);
    let node = put(&store, &store.root(), b"f", &old);
    store.open_file(&node, true).unwrap();
    // The first part of the write goes to memory, the rest to the disk, which is full.
    disk.fail(1, libc::ENOSPC, |call| call == CallKind::Write || call == CallKind::CreateTemp);
    let data = noise(300 << 10, 2);
    let at = (400 << 10) + 100;
    assert!(store.write(&node, at, &data).is_err());
    disk.heal();
    store.fsync(&node).unwrap();
    store.close_file(&node, true);
    store.close().unwrap();
    drop((node, store));
    let store = mount(&disk);
    let now = get(&store, &store.root(), b"f").unwrap();
    assert_eq!(now[..old.len()], old[..]);
    assert!(now.len() <= old.len() + 100 + data.len());
    if now.len() > old.len() {
        assert_eq!(now[old.len() + 100..], data[..now.len() - old.len() - 100]);
    }
}

#[test]
fn a_failed_sync_of_what_is_still_in_memory_is_made_good() {
    let disk = vault();
    let store = mount(&disk);
    let old = noise(400 << 10, 1);
    let node = put(&store, &store.root(), b"f", &old);
    store.open_file(&node, true).unwrap();
    store.write(&node, 8192, b"changed").unwrap();
    store.flush(&node).unwrap();
    disk.fail(1, libc::EIO, |call| call == CallKind::Sync);
    assert!(store.fsync(&node).is_err());
    store.fsync(&node).unwrap();
    store.close_file(&node, true);
    let mut now = old;
    now[8192..8199].copy_from_slice(b"changed");
    assert_eq!(get(&store, &store.root(), b"f").unwrap(), now);
}

#[test]
fn a_write_that_wrote_nothing_does_not_keep_the_store_from_closing() {
    let disk = vault();
    let store = mount(&disk);
    let old = noise(400 << 10, 1);
    let node = put(&store, &store.root(), b"f", &old);
    store.open_file(&node, true).unwrap();
    disk.fail(1, libc::ENOSPC, |call| call == CallKind::Write || call == CallKind::CreateTemp);
    assert!(store.write(&node, 0, &noise(300 << 10, 2)).is_err());
    disk.heal();
    store.close_file(&node, true);
    store.close().unwrap();
    drop((node, store));
    let store = mount(&disk);
    assert_eq!(get(&store, &store.root(), b"f").unwrap(), old);
}
