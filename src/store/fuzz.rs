//! Bodies of the fuzz targets of this floor: intents, and sequences of operations with failures and remounts between them,
//! held against what a plain table says. See [`crate::format::fuzz`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;

use crate::backing::{CallKind, SimDisk};
use crate::clock::SystemClock;
use crate::crypto::Cipher;
use crate::entropy::SeededEntropy;
use crate::format::config::{self, ConfigParams, KdfParams};
use crate::format::fuzz::Target;
use crate::format::{Geometry, OpenVault};

use super::intent::Intent;
use super::{NewAttr, RenameFlags, Store, StoreError, StoreOptions, vault};

/// All of them, by name.
pub const TARGETS: [(&str, Target); 2] = [("intent", intent), ("operations", operations)];

/// The intent of an exchange: one way to write it, and every part one component.
pub fn intent(bytes: &[u8]) {
    let Some(intent) = Intent::parse(bytes) else { return };
    assert_eq!(intent.encode().as_bytes(), bytes, "there is one way to write an intent");
    let names = [&intent.a_old, &intent.a_new, &intent.b_old, &intent.b_new];
    for part in intent.from_path.iter().chain(&intent.to_path).chain(names) {
        let climbs = part == b"." || part == b".." || part.contains(&b'/') || part.contains(&0);
        assert!(!part.is_empty() && !climbs);
    }
}

const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
const NEW: NewAttr = NewAttr { mode: 0o644, uid: 0, gid: 0 };

fn made() -> &'static (Vec<u8>, OpenVault) {
    static MADE: OnceLock<(Vec<u8>, OpenVault)> = OnceLock::new();
    MADE.get_or_init(|| {
        let params = ConfigParams {
            cipher: Cipher::Aes256Gcm,
            geometry: Geometry::new(12).expect("4 KiB is a block length"),
            kdf: KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 },
        };
        config::create(b"p", &params, 0, &SeededEntropy::new(1)).expect("good parameters")
    })
}

fn mount(disk: &SimDisk, seed: u64) -> Arc<Store<SimDisk>> {
    let known = &made().1;
    let open = OpenVault { config: known.config.clone(), keys: Arc::clone(&known.keys) };
    let options = StoreOptions { memory_budget: 64 << 10, ..StoreOptions::default() };
    let (entropy, clock) = (Arc::new(SeededEntropy::new(seed)), Arc::new(SystemClock::new()));
    Store::open(Arc::new(disk.clone()), open, options, entropy, clock).expect("an honest disk")
}

/// Operations on four names: an operation is four bytes (what, which name, and a number). The files must hold what was
/// written, also after a remount.
pub fn operations(bytes: &[u8]) {
    let disk = SimDisk::new();
    vault::create(&disk, &made().0).expect("an honest disk");
    let mut store = mount(&disk, 100);
    let mut files: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
    for (step, op) in bytes.chunks_exact(4).take(64).enumerate() {
        let (name, other) = (NAMES[usize::from(op[1] % 4)], NAMES[usize::from(op[1] / 4 % 4)]);
        let number = u64::from(op[2]) << 8 | u64::from(op[3]);
        let root = store.root();
        match op[0] % 10 {
            0 => {
                store.close().expect("an honest disk");
                store = mount(&disk, 101 + step as u64);
                hold(&store, &files);
            }
            1 => match store.create(&root, name, &NEW) {
                Ok(node) => {
                    store.close_file(&node, true);
                    assert!(files.insert(name, Vec::new()).is_none());
                }
                Err(error) => {
                    assert!(matches!(error, StoreError::AlreadyExists), "{error}");
                    assert!(files.contains_key(name));
                }
            },
            2 => {
                let gone = files.remove(name).is_some();
                assert_eq!(store.unlink(&root, name).is_ok(), gone);
            }
            3 => {
                let renamed = store.rename(&root, name, &root, other, RenameFlags::Replace);
                assert_eq!(renamed.is_ok(), files.contains_key(name));
                if let Some(content) = files.remove(name) {
                    files.insert(other, content);
                }
            }
            4 if name != other => {
                let both = files.contains_key(name) && files.contains_key(other);
                let done = store.rename(&root, name, &root, other, RenameFlags::Exchange);
                assert_eq!(done.is_ok(), both);
                if both {
                    let (a, b) = (files[name].clone(), files[other].clone());
                    files.insert(name, b);
                    files.insert(other, a);
                }
            }
            _ => change(&disk, &store, &mut files, name, op[0], number),
        }
    }
    hold(&store, &files);
    store.close().expect("an honest disk");
    hold(&mount(&disk, 99), &files);
}

/// Changes a file's content, in one way of several.
fn change(
    disk: &SimDisk,
    store: &Arc<Store<SimDisk>>,
    files: &mut BTreeMap<&[u8], Vec<u8>>,
    name: &[u8],
    what: u8,
    number: u64,
) {
    let Ok(node) = store.lookup(&store.root(), name) else {
        return assert!(!files.contains_key(name));
    };
    let content = files.get_mut(name).expect("what is found was made");
    store.open_file(&node, true).expect("an honest disk");
    match what % 10 {
        5 | 6 => {
            let at = (number * 13 % 400_000) as usize;
            let data = vec![what; 1 + (number * 7 % 60_000) as usize];
            store.write(&node, at as u64, &data).expect("an honest disk");
            content.resize(content.len().max(at + data.len()), 0);
            content[at..at + data.len()].copy_from_slice(&data);
        }
        7 => {
            store.truncate(&node, number * 9).expect("an honest disk");
            content.resize((number * 9) as usize, 0);
        }
        8 => store.fsync(&node).expect("an honest disk"),
        _ => {
            // A write that fails changes nothing or all of what it was to change; the error is told.
            disk.fail(1, libc::ENOSPC, |call| call == CallKind::Reserve);
            let data = vec![what; 1 + (number % 5000) as usize];
            if store.write(&node, 0, &data).is_ok() {
                content.resize(content.len().max(data.len()), 0);
                content[..data.len()].copy_from_slice(&data);
            }
            disk.heal();
        }
    }
    store.close_file(&node, true);
}

fn read(store: &Arc<Store<SimDisk>>, name: &[u8]) -> Option<Vec<u8>> {
    let node = store.lookup(&store.root(), name).ok()?;
    store.open_file(&node, false).expect("an honest disk");
    let size = store.attr(&node).expect("an honest disk").size;
    let mut content = vec![0; size as usize + 1];
    let len = store.read(&node, 0, &mut content).expect("an honest disk");
    content.truncate(len);
    store.close_file(&node, false);
    Some(content)
}

fn hold(store: &Arc<Store<SimDisk>>, files: &BTreeMap<&[u8], Vec<u8>>) {
    for name in NAMES {
        let found = read(store, name);
        let same = found.as_ref() == files.get(name);
        assert!(same, "{}: {:?} bytes", name.escape_ascii(), found.map(|found| found.len()));
    }
}

/// Inputs to begin with.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "intent" => {
            let intent = Intent {
                from_path: vec![b"AQx".to_vec(), b"AQy".to_vec()],
                to_path: vec![],
                a_old: b"A1".to_vec(),
                a_new: b"A2".to_vec(),
                b_old: b"B1".to_vec(),
                b_new: b"B2".to_vec(),
            };
            vec![intent.encode().into_bytes()]
        }
        "operations" => vec![
            vec![
                1, 0, 0, 0, 5, 0, 200, 9, 8, 0, 0, 0, 5, 0, 3, 3, 0, 0, 0, 0, 3, 4, 0, 0, 7, 1, 9,
                9,
            ],
            vec![
                1, 0, 0, 0, 1, 1, 0, 0, 6, 0, 255, 1, 5, 1, 40, 1, 4, 4, 0, 0, 2, 0, 0, 0, 9, 1, 9,
                9,
            ],
        ],
        other => panic!("no target {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fuzz::run_briefly;

    #[test]
    fn no_bytes_break_intents_and_no_operations_break_files() {
        for (name, target) in TARGETS {
            let count = if name == "operations" { 60 } else { 20_000 };
            run_briefly(name, target, seeds(name), count);
        }
    }

    #[test]
    fn the_seeds_are_accepted() {
        assert!(seeds("intent").iter().all(|seed| Intent::parse(seed).is_some()));
    }
}
