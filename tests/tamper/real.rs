//! The same on a directory of the host, where symbolic links, fifos, sockets and devices are real: none is followed, none
//! is waited for.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use akasha::backing::OsDisk;
use akasha::clock::SystemClock;
use akasha::crypto::Cipher;
use akasha::entropy::SeededEntropy;
use akasha::format::{OpenVault, config};
use akasha::fs::{Errno, FsError};
use akasha::store::{NewAttr, Store, StoreOptions};

use super::gallery::{PASSWORD, build_with_links};
use super::judge::{Allowed, judge};
use super::subject::Truth;
use super::{every, seed};

/// Puts something in the place of the file or directory that was moved to the second path.
pub type Plant = fn(&Path, &Path) -> bool;

fn made(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

pub const THINGS: [(&str, Plant); 8] = [
    ("a symlink to the very object, outside", |place, aside| symlink(aside, place).is_ok()),
    ("a symlink to /etc/passwd", |place, _| symlink("/etc/passwd", place).is_ok()),
    ("a symlink to /", |place, _| symlink("/", place).is_ok()),
    ("a symlink to itself", |place, _| symlink(place.file_name().unwrap(), place).is_ok()),
    ("a fifo", |place, _| made(Command::new("mkfifo").arg(place))),
    ("a socket", |place, _| std::os::unix::net::UnixListener::bind(place).is_ok()),
    ("a device that never ends", |place, _| {
        made(Command::new("mknod").arg(place).args(["c", "1", "5"]))
    }),
    ("an empty directory", |place, _| fs::create_dir(place).is_ok()),
];

fn objects(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            objects(&entry.path(), found);
        }
    }
}

/// Bytes that change while they are read are checked and used as one copy: never the garbage that was there in between.
#[test]
fn what_changes_under_a_mapping_is_checked_and_used_as_one_copy() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("v");
    build_with_links(&dir, Cipher::Aes256Gcm, 12, 104);
    fs::create_dir(dir.join(".akasha/tmp")).unwrap();
    let keys = config::open(&fs::read(dir.join(".akasha/vault.toml")).unwrap(), PASSWORD).unwrap();
    let disk = Arc::new(OsDisk::open(&dir).unwrap());
    let (entropy, clock) = (Arc::new(SeededEntropy::new(3)), Arc::new(SystemClock::new()));
    let store = Store::open(disk, keys, StoreOptions::default(), entropy, clock).unwrap();
    let new = NewAttr { mode: 0o644, uid: 0, gid: 0 };
    let node = store.create(&store.root(), b"mapped long", &new).unwrap();
    let mut before = BTreeSet::new();
    collect_files(&dir, &mut before);
    let content: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    store.write(&node, 0, &content).unwrap();
    store.fsync(&node).unwrap();
    store.close_file(&node, true);
    let mut after = BTreeSet::new();
    collect_files(&dir, &mut after);
    let top = after.difference(&before).find(|path| path.metadata().unwrap().len() > 300_000);
    let top = fs::File::options().read(true).write(true).open(top.unwrap()).unwrap();
    let (slot, at) = (30_u64, 64 + 30 * 4112);
    let mut honest = vec![0; 4112];
    top.read_exact_at(&mut honest, at).unwrap();
    let garbage: Vec<u8> = honest.iter().map(|byte| !byte).collect();
    store.open_file(&node, false).unwrap();
    let stop = AtomicBool::new(false);
    let (mut right, mut refused) = (0_u64, 0_u64);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // In halves, so that a copy may find one of each.
                for (from, bytes) in
                    [(0, &garbage), (2056, &garbage), (0, &honest), (2056, &honest)]
                {
                    top.write_all_at(&bytes[from..from + 2056], at + from as u64).unwrap();
                }
            }
        });
        let start = Instant::now();
        let mut piece = vec![0; 4096];
        while (right < 2000 || refused < 2000) && start.elapsed() < Duration::from_mins(2) {
            let offset = slot * 4096;
            match store.read(&node, offset, &mut piece) {
                Ok(len) => {
                    let from = offset as usize;
                    assert!(piece[..len] == content[from..from + len], "garbage was shown");
                    right += 1;
                }
                Err(error) => {
                    assert_eq!(FsError::Store(error).errno(), Errno::EIO);
                    refused += 1;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("read while it changed: {right} times right, {refused} times EIO, wrong 0");
    assert!(right > 0 && refused > 0);
    top.write_all_at(&honest, at).unwrap();
    store.close_file(&node, false);
    store.close().unwrap();
}

fn collect_files(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    let mut all = Vec::new();
    objects(dir, &mut all);
    found.extend(all.into_iter().filter(|path| path.is_file()));
}

#[test]
fn nothing_planted_on_a_real_disk_is_followed_or_waited_for() {
    let place = tempfile::tempdir().unwrap();
    // Short, for the sockets' sake.
    let dir = place.path().join("v");
    let tree = build_with_links(&dir, Cipher::ChaCha20Poly1305, 12, 104);
    let truth = Truth { tree, ..Truth::default() };
    fs::create_dir(dir.join(".akasha/tmp")).unwrap();
    fs::create_dir(dir.join(".akasha/xattrs")).unwrap();
    let bytes = fs::read(dir.join(".akasha/vault.toml")).unwrap();
    let keys = config::open(&bytes, PASSWORD).unwrap();
    let again = || OpenVault { config: keys.config.clone(), keys: Arc::clone(&keys.keys) };
    let disk = Arc::new(OsDisk::open(&dir).unwrap());
    let look = |allowed| judge(&disk, &again(), true, &truth, allowed);
    assert!(look(Allowed::default()).is_harmless());
    let mut all = Vec::new();
    objects(&dir, &mut all);
    all.retain(|path| !path.ends_with(".akasha") && !path.ends_with("vault.toml"));
    let aside = place.path().join("aside");
    let (mut tried, mut noticed) = (0, 0);
    let share = if every() { 1 } else { 24 };
    let mut n = seed() % share;
    for object in &all {
        for (what, plant) in THINGS {
            n += 1;
            if !n.is_multiple_of(share) {
                continue;
            }
            fs::rename(object, &aside).unwrap();
            if plant(object, &aside) {
                let allowed = Allowed { absence: true, unseen: true, ..Allowed::default() };
                let verdict = look(allowed);
                let shown = object.strip_prefix(&dir).unwrap().as_os_str().as_bytes();
                assert!(
                    verdict.wrong.is_empty(),
                    "{what} at {}: {verdict:?}",
                    shown.escape_ascii()
                );
                tried += 1;
                noticed += u64::from(!verdict.is_harmless());
                let removed = fs::remove_file(object).or_else(|_| fs::remove_dir(object));
                removed.unwrap();
            }
            fs::rename(&aside, object).unwrap();
        }
    }
    assert!(look(Allowed::default()).is_harmless());
    println!(
        "planted on a real disk: {tried}, noticed {noticed}, the rest in places that mean nothing, wrong 0"
    );
}
