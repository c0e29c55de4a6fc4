//! The format, seen by three: vaults that `reader/gallery.rs` writes by hand through `format` must show the same to
//! the store and to `scripts/akasha_reader.py`, which was written from docs/FORMAT.md; and those of them in `tests/vectors`, written when the format was fixed, must show it forever.
//!
//! `AKASHA_PYTHON` names a Python with argon2-cffi and cryptography (`scripts/setup reader`).
#![allow(clippy::unwrap_used)]

#[path = "reader/gallery.rs"]
mod gallery;
#[path = "reader/shown.rs"]
mod shown;

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};

use akasha::backing::{At, Backing, OsDisk};
use akasha::clock::SystemClock;
use akasha::crypto::Cipher;
use akasha::entropy::OsEntropy;
use akasha::format::OpenVault;
use akasha::store::{SetXattr, Store, StoreError, StoreOptions};

use gallery::{PASSWORD, build, build_with_links, build_with_rescues};
use shown::{Shown, Tree, by_store, on_disk};

/// Makes a vault at a place and says what it shows.
type Build = fn(&Path, Cipher, u8, u64) -> Tree;

/// Vaults that every later version must open: how they are made, cipher, log2 of the block length, seed.
const FROZEN: [(&str, Build, Cipher, u8, u64); 5] = [
    ("v1-chacha20-poly1305", build, Cipher::ChaCha20Poly1305, 12, 101),
    ("v1-aes-256-gcm", build, Cipher::Aes256Gcm, 13, 102),
    ("v1-aes-256-gcm-siv", build, Cipher::Aes256GcmSiv, 12, 103),
    ("v1-links", build_with_links, Cipher::ChaCha20Poly1305, 12, 104),
    ("v1-rescues", build_with_rescues, Cipher::Aes256Gcm, 12, 105),
];

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/akasha_reader.py")
}

/// A Python that has what the script needs, if there is one.
fn python() -> Option<&'static str> {
    static PYTHON: OnceLock<Option<String>> = OnceLock::new();
    let python = PYTHON.get_or_init(|| {
        let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python3");
        let named = std::env::var("AKASHA_PYTHON").ok();
        let candidates = named.into_iter().chain([venv.to_str()?.to_owned(), "python3".to_owned()]);
        candidates.into_iter().find(|python| {
            let mut command = Command::new(python);
            command.args(["-c", "import argon2, cryptography, tomllib"]);
            command.output().is_ok_and(|output| output.status.success())
        })
    });
    if python.is_none() {
        // Past libtest's capture: scripts/test counts it.
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        let why = "no Python with argon2-cffi and cryptography; scripts/setup reader gets them";
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
    }
    python.as_deref()
}

fn run_reader(
    python: &str,
    args: &[&str],
    vault: &Path,
    rest: &[&Path],
    password: &[u8],
) -> Output {
    let mut command = Command::new(python);
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(script()).args(args).arg(vault).args(rest);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    // It may refuse before it asks.
    let _ = child.stdin.take().unwrap().write_all(password);
    child.wait_with_output().unwrap()
}

/// What an export leaves, and its exit code; the reader must not have crashed.
fn export(python: &str, vault: &Path) -> (Tree, i32, String) {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("out");
    let output = run_reader(python, &["export"], vault, &[&target], PASSWORD);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("Traceback"), "{said}");
    let tree = if target.exists() { on_disk(&target) } else { Tree::new() };
    (tree, output.status.code().expect("it was not killed"), said)
}

/// What an export of a tree must leave.
fn exportable(tree: &Tree) -> Tree {
    let readable = |shown: &&Shown| !matches!(shown, Shown::Damaged | Shown::Unreadable);
    tree.iter()
        .filter(|(_, shown)| readable(shown))
        .map(|(path, shown)| (path.clone(), shown.clone()))
        .collect()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Every file below `dir`, relative.
fn files(dir: &Path) -> Vec<PathBuf> {
    fn collect(root: &Path, inside: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(root.join(inside)).unwrap() {
            let entry = entry.unwrap();
            let path = inside.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                collect(root, &path, out);
            } else {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    collect(dir, Path::new(""), &mut out);
    out.sort();
    out
}

/// A copy of a frozen vault to work on, and what it must show.
fn frozen(name: &str) -> (tempfile::TempDir, PathBuf, String) {
    let place = tempfile::tempdir().unwrap();
    let vault = place.path().join("vault");
    copy_tree(&vectors().join(name).join("vault"), &vault);
    let expected = fs::read_to_string(vectors().join(name).join("expected.txt")).unwrap();
    (place, vault, expected)
}

#[test]
fn frozen_vaults_open_forever() {
    for (name, ..) in FROZEN {
        let (_place, vault, expected) = frozen(name);
        assert_eq!(shown::list(&by_store(&vault)), expected, "{name}");
    }
}

/// New writers may write otherwise, as long as all can be read; but not by accident.
#[test]
fn the_frozen_vaults_are_what_this_program_writes() {
    let write = std::env::var_os("AKASHA_WRITE_VECTORS").is_some();
    for (name, build, cipher, block_log2, seed) in FROZEN {
        let place = tempfile::tempdir().unwrap();
        let built = place.path().join("vault");
        let tree = build(&built, cipher, block_log2, seed);
        let kept = vectors().join(name);
        if write {
            assert!(!kept.exists(), "{name} is frozen: remove it if you really mean to replace it");
            fs::create_dir_all(&kept).unwrap();
            copy_tree(&built, &kept.join("vault"));
            fs::write(kept.join("expected.txt"), shown::list(&tree)).unwrap();
        }
        let expected = fs::read_to_string(kept.join("expected.txt")).unwrap();
        assert_eq!(shown::list(&tree), expected, "{name}");
        let kept = kept.join("vault");
        assert_eq!(files(&built), files(&kept), "{name}");
        for file in files(&built) {
            let same = fs::read(built.join(&file)).unwrap() == fs::read(kept.join(&file)).unwrap();
            assert!(same, "{name}: {}", file.display());
        }
    }
}

#[test]
fn the_independent_reader_reads_the_frozen_vaults() {
    let Some(python) = python() else { return };
    for (name, ..) in FROZEN {
        let (_place, vault, expected) = frozen(name);
        let (tree, code, said) = export(python, &vault);
        let damage = expected.lines().any(|line| line.starts_with("damaged"));
        assert_eq!(code, i32::from(damage), "{name}: {said}");
        let readable: Vec<&str> =
            expected.lines().filter(|line| !line.starts_with("damaged")).collect();
        assert_eq!(shown::list(&tree).lines().collect::<Vec<_>>(), readable, "{name}: {said}");
    }
}

#[test]
fn store_and_reader_agree_on_every_form() {
    let Some(python) = python() else { return };
    for (seed, block_log2) in [(1, 12), (2, 14), (3, 16), (4, 20)] {
        // Megabyte blocks make large vaults: one cipher is enough.
        for cipher in &Cipher::ALL[..if block_log2 == 20 { 1 } else { 3 }] {
            let cipher = *cipher;
            let place = tempfile::tempdir().unwrap();
            let vault = place.path().join("vault");
            let mut tree = build_with_links(&vault, cipher, block_log2, seed);
            gallery::add_damage(&vault, cipher, block_log2, seed, &mut tree);
            gallery::add_broken_links(&vault, cipher, block_log2, seed, &mut tree);
            let about = format!("seed {seed}, {cipher}, 2^{block_log2}");
            assert_eq!(shown::list(&by_store(&vault)), shown::list(&tree), "{about}");
            let (exported, code, said) = export(python, &vault);
            assert_eq!(code, 1, "{about}: {said}");
            assert_eq!(shown::list(&exported), shown::list(&exportable(&tree)), "{about}: {said}");
        }
    }
}

#[test]
fn the_independent_reader_lists_and_shows_single_files() {
    let Some(python) = python() else { return };
    let (_place, vault, expected) = frozen(FROZEN[0].0);
    let listed = run_reader(python, &["ls"], &vault, &[], PASSWORD);
    let listed = String::from_utf8(listed.stdout).unwrap();
    let readable = expected.lines().filter(|line| !line.starts_with("damaged")).count();
    assert_eq!(listed.lines().count(), readable, "{listed}");
    assert!(listed.lines().any(|line| line.ends_with(" 5000  directory/5000")), "{listed}");
    let (tree, ..) = export(python, &vault);
    let Some(Shown::File(content)) = tree.get(b"mapped".as_slice()) else { panic!("a file") };
    let password = vault.parent().unwrap().join("password");
    fs::write(&password, [PASSWORD, b"\n"].concat()).unwrap();
    let args = ["cat", "--password-file", password.to_str().unwrap()];
    let shown = run_reader(python, &args, &vault, &[Path::new("mapped")], b"");
    assert_eq!(shown.status.code(), Some(0));
    assert!(&shown.stdout == content);
    for (path, password, code) in [
        ("directory", PASSWORD, 1),
        ("no/such", PASSWORD, 1),
        ("mapped/x", PASSWORD, 1),
        ("mapped", b"wrong".as_slice(), 3),
    ] {
        let output = run_reader(python, &["cat"], &vault, &[Path::new(path)], password);
        assert_eq!(output.status.code(), Some(code), "{path}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.stdout.is_empty() && !said.is_empty() && !said.contains("Traceback"));
    }
}

/// Rescue copies are needed to read nothing. The reader tells of one that is wrong, and shows everything.
#[test]
fn the_independent_reader_opens_rescue_copies() {
    let Some(python) = python() else { return };
    for cipher in Cipher::ALL {
        let place = tempfile::tempdir().unwrap();
        let vault = place.path().join("vault");
        let tree = build_with_rescues(&vault, cipher, 12, 9);
        let (exported, code, said) = export(python, &vault);
        assert_eq!((shown::list(&exported), code), (shown::list(&tree), 0), "{said}");
        let wrong = gallery::swap_rescues(&vault);
        let (exported, code, said) = export(python, &vault);
        assert_eq!((shown::list(&exported), code), (shown::list(&tree), 1), "{said}");
        assert_eq!(said.matches("the rescue copy of another directory").count(), wrong.len());
        for wrong in wrong {
            fs::remove_file(wrong).unwrap();
        }
        let copies: Vec<_> =
            files(&vault).into_iter().filter(|path| path.ends_with(".dir")).collect();
        assert_eq!(copies.len(), 2);
        for copy in copies {
            let (path, bytes) = (vault.join(&copy), fs::read(vault.join(&copy)).unwrap());
            for at in [0, 11, 24, 63, 64, 191, 192, 447, 463] {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                fs::write(&path, &changed).unwrap();
                let (exported, code, said) = export(python, &vault);
                assert_eq!((shown::list(&exported), code), (shown::list(&tree), 1), "{at}: {said}");
            }
            fs::write(&path, &bytes[..463]).unwrap();
            assert_eq!(export(python, &vault).1, 1);
            fs::write(&path, &bytes).unwrap();
        }
    }
}

#[test]
fn conflicts_of_files_that_replaced_others_are_readable() {
    let place = tempfile::tempdir().unwrap();
    let vault = place.path().join("vault");
    let mut tree = build(&vault, Cipher::Aes256Gcm, 12, 8);
    gallery::add_conflicts_of_saves(&vault, Cipher::Aes256Gcm, 12, 8, &mut tree);
    assert_eq!(shown::list(&by_store(&vault)), shown::list(&tree));
    let Some(python) = python() else { return };
    let (exported, _, said) = export(python, &vault);
    assert_eq!(shown::list(&exported), shown::list(&exportable(&tree)), "{said}");
}

#[test]
fn the_independent_reader_exports_extended_attributes() {
    let Some(python) = python() else { return };
    let (place, vault, _) = frozen(FROZEN[0].0);
    let value: Vec<u8> = (0..=255).collect();
    let names = [&b"user.a"[..], b"user.\xff/ b", b"user.empty"];
    let paths: [&[&[u8]]; 3] = [&[b"mapped"], &[b"directory"], &[b"directory", b"5000"]];
    {
        let (disk, keys) = (OsDisk::open(&vault).unwrap(), shown::try_open(&vault).unwrap());
        let (entropy, clock) = (Arc::new(OsEntropy), Arc::new(SystemClock::new()));
        let options = StoreOptions::default();
        let store = Store::open(Arc::new(disk), keys, options, entropy, clock).unwrap();
        for path in paths {
            let mut node = store.root();
            for name in path {
                node = store.lookup(&node, name).unwrap();
            }
            for (at, name) in names.iter().enumerate() {
                match store.set_xattr(&node, name, &value[..at * 128 % 256], SetXattr::Any) {
                    Err(StoreError::NotSupported) => {
                        println!("SKIPPED: no extended attributes here");
                        return;
                    }
                    set => set.unwrap(),
                }
            }
            // So large that all of them are in a side object.
            if path.len() == 2 || path[0] == b"directory" {
                store.set_xattr(&node, b"user.large", &[7; 2500], SetXattr::Any).unwrap();
            }
        }
        store.close().unwrap();
    }
    let out = place.path().join("exported");
    run_reader(python, &["export"], &vault, &[&out], PASSWORD);
    for path in paths {
        let inside = path.iter().map(|name| std::ffi::OsStr::from_bytes(name));
        let object = out.join(inside.collect::<PathBuf>());
        let (dir, name) = (object.parent().unwrap(), object.file_name().unwrap());
        let disk = OsDisk::open(dir).unwrap();
        for (at, key) in names.iter().enumerate() {
            let found = disk.get_xattr(&disk.root().unwrap(), At::Name(name.as_bytes()), key);
            assert_eq!(found.unwrap().as_deref(), Some(&value[..at * 128 % 256]), "{object:?}");
        }
        let large = disk.get_xattr(&disk.root().unwrap(), At::Name(name.as_bytes()), b"user.large");
        assert_eq!(large.unwrap(), (path != paths[0]).then(|| vec![7; 2500]), "{object:?}");
    }
}

/// One bit in each file of a vault, in turn and in several places: right bytes or a complaint.
#[test]
fn store_and_reader_refuse_every_changed_file() {
    let (_place, vault, _) = frozen(FROZEN[2].0);
    let open = shown::try_open(&vault).unwrap();
    let before = by_store(&vault);
    let readable = exportable(&before);
    let is_right = |now: &Tree, what: &str| {
        for (path, shown) in now {
            let fine = match shown {
                Shown::Damaged | Shown::Unreadable => true,
                // Of two that claim one name, one may be lost; then the other has it.
                shown if path.starts_with(b"yyy") => before.values().any(|other| other == shown),
                shown => before.get(path) == Some(shown),
            };
            assert!(fine, "{what}: {} shows something else", path.escape_ascii());
        }
    };
    let mut unnoticed = (0, 0);
    for (number, file) in files(&vault).into_iter().enumerate() {
        let path = vault.join(&file);
        let original = fs::read(&path).unwrap();
        if gallery::is_spare(&file) {
            continue;
        }
        let len = original.len();
        // Slots, some of which nothing refers to any more; then header and tail.
        for at in [70, len / 2, len.saturating_sub(257), 0, 24, len - 200.min(len), len - 1] {
            let mut changed = original.clone();
            let Some(byte) = changed.get_mut(at) else { continue };
            *byte ^= 1 << (number % 8);
            fs::write(&path, &changed).unwrap();
            let what = format!("{} byte {at}", file.display());
            if file.ends_with("vault.toml") {
                assert!(shown::try_open(&vault).is_err(), "{what}");
            } else {
                let again = OpenVault { config: open.config.clone(), keys: Arc::clone(&open.keys) };
                let now = shown::by_store_of(&vault, again);
                is_right(&now, &what);
                unnoticed.0 += u32::from(at == len - 1 && now == before);
            }
        }
        if let Some(python) = python() {
            let (now, code, said) = export(python, &vault);
            let what = format!("{} byte {}: {said}", file.display(), len - 1);
            assert_ne!(code, 0, "{what}");
            is_right(&now, &what);
            unnoticed.1 += u32::from(now == readable);
        }
        fs::write(&path, &original).unwrap();
    }
    // Nobody looks into the entry that was replaced; the store has no reason to look into a pipe either.
    assert_eq!(unnoticed, (2, u32::from(python().is_some())));
}
