//! What a vault shows, as seen by the store and in an export.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use akasha::backing::OsDisk;
use akasha::clock::SystemClock;
use akasha::crypto::sha256;
use akasha::entropy::OsEntropy;
use akasha::format::config::{self, ConfigError};
use akasha::format::{EntryKind, OpenVault};
use akasha::store::{Node, Store, StoreOptions, vault};

use data_encoding::HEXLOWER;

use super::gallery::PASSWORD;

/// Path below the root, without a slash in front.
pub type Tree = BTreeMap<Vec<u8>, Shown>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    Dir,
    File(Vec<u8>),
    Link(Vec<u8>),
    Fifo,
    /// A stand-in for a backing name that does not open.
    Damaged,
    /// A name that opens, over content that does not.
    Unreadable,
}

/// A line for each, sorted: kind, size, SHA-256, path.
pub fn list(tree: &Tree) -> String {
    let mut text = String::new();
    for (path, shown) in tree {
        let content = |bytes: &[u8]| format!("{} {}", bytes.len(), HEXLOWER.encode(&sha256(bytes)));
        let what = match shown {
            Shown::Dir => "dir".to_owned(),
            Shown::File(bytes) => format!("file {}", content(bytes)),
            Shown::Link(target) => format!("link {}", content(target)),
            Shown::Fifo => "fifo".to_owned(),
            Shown::Damaged => "damaged".to_owned(),
            Shown::Unreadable => "unreadable".to_owned(),
        };
        let _ = writeln!(text, "{what} {}", path.escape_ascii());
    }
    text
}

pub fn try_open(dir: &Path) -> Result<OpenVault, ConfigError> {
    let disk = OsDisk::open(dir).unwrap();
    config::open(&vault::read_config(&disk).unwrap(), PASSWORD)
}

/// The vault through a store that may not write.
pub fn by_store(dir: &Path) -> Tree {
    by_store_of(dir, try_open(dir).unwrap())
}

/// The same with keys that are there already: Argon2 is slow.
pub fn by_store_of(dir: &Path, vault: OpenVault) -> Tree {
    // Git keeps no empty directories.
    let _ = fs::create_dir(dir.join(".akasha/tmp"));
    let disk = Arc::new(OsDisk::open(dir).unwrap());
    let options = StoreOptions { read_only: true, ..StoreOptions::default() };
    let entropy = Arc::new(OsEntropy);
    let store = Store::open(disk, vault, options, entropy, Arc::new(SystemClock::new())).unwrap();
    let mut tree = Tree::new();
    below(&store, &store.root(), b"", &mut tree);
    store.close().unwrap();
    tree
}

fn below(store: &Arc<Store<OsDisk>>, dir: &Arc<Node<OsDisk>>, path: &[u8], tree: &mut Tree) {
    let mut names = Vec::new();
    store.open_dir(dir).unwrap();
    store
        .list(dir, 0, &mut |entry| {
            names.push(entry.name.to_vec());
            true
        })
        .unwrap();
    for name in names {
        let inside = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
        let Ok(node) = store.lookup(dir, &name) else {
            tree.insert(inside, Shown::Unreadable);
            continue;
        };
        let shown = match node.kind() {
            EntryKind::Dir => Shown::Dir,
            EntryKind::Symlink => store.readlink(&node).map_or(Shown::Unreadable, Shown::Link),
            EntryKind::File if name.starts_with(b"akasha-damaged-") => {
                assert_eq!(store.attr(&node).unwrap().mode & 0o777, 0);
                assert!(store.open_file(&node, false).is_err());
                Shown::Damaged
            }
            EntryKind::File => read(store, &node).map_or(Shown::Unreadable, Shown::File),
            _ => Shown::Fifo,
        };
        let is_dir = shown == Shown::Dir;
        tree.insert(inside.clone(), shown);
        if is_dir {
            below(store, &node, &inside, tree);
        }
    }
    store.close_dir(dir);
}

fn read(store: &Arc<Store<OsDisk>>, node: &Arc<Node<OsDisk>>) -> Option<Vec<u8>> {
    store.open_file(node, false).ok()?;
    let content = store.attr(node).ok().and_then(|attr| {
        let mut content = vec![0; usize::try_from(attr.size).ok()? + 1];
        let len = store.read(node, 0, &mut content).ok()?;
        content.truncate(len);
        (len as u64 == attr.size).then_some(content)
    });
    store.close_file(node, false);
    content
}

/// A directory of the host, as an export leaves it.
pub fn on_disk(root: &Path) -> Tree {
    fn collect(dir: &Path, path: &[u8], tree: &mut Tree) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let inside = match path {
                b"" => name.as_bytes().to_vec(),
                path => [path, b"/", name.as_bytes()].concat(),
            };
            let kind = entry.file_type().unwrap();
            let shown = if kind.is_dir() {
                collect(&entry.path(), &inside, tree);
                Shown::Dir
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).unwrap();
                Shown::Link(target.as_os_str().as_bytes().to_vec())
            } else if kind.is_file() {
                Shown::File(fs::read(entry.path()).unwrap())
            } else {
                Shown::Fifo
            };
            tree.insert(inside, shown);
        }
    }
    let mut tree = Tree::new();
    collect(root, b"", &mut tree);
    tree
}
