//! The vault under the hand: every form that a file can have, with a past. What it shows was written down when it was
//! written, never read back.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use akasha::backing::{Backing, SimDisk, TempFile as _};
use akasha::clock::{Clock, SystemClock, Timestamp};
use akasha::crypto::Cipher;
use akasha::entropy::{Entropy, SeededEntropy};
use akasha::format::{EntryKind, OpenVault, config};
use akasha::store::{ListEntry, NewAttr, Node, RenameFlags, SetXattr, Store, StoreOptions};

use super::gallery::{PASSWORD, build_with_links_and_past};
use super::hand;
use super::shown::{Shown, Tree};

/// Attributes by path, then by name.
pub type Attributes = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

/// What a vault shows.
#[derive(Clone, Default)]
pub struct Truth {
    pub tree: Tree,
    pub attributes: Attributes,
    /// What it showed before: every committed version of a file, and every value of an attribute.
    pub past: BTreeMap<Vec<u8>, Vec<Shown>>,
    pub past_values: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
}

impl Truth {
    /// A new version of the file at `path`.
    fn commit(&mut self, path: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
        let Some(Shown::File(content)) = self.tree.get_mut(path) else { panic!("no file") };
        self.past.entry(path.to_vec()).or_default().push(Shown::File(content.clone()));
        change(content);
    }
}

/// A vault as it is, and as it was at one moment before.
pub struct Subject {
    pub disk: SimDisk,
    pub truth: Truth,
    pub old_disk: SimDisk,
    pub old_truth: Truth,
    vault: OpenVault,
}

/// Length of the file in several layers: more than is ever rewritten whole, and than is read whole.
const BIG: usize = 200 << 10;

impl Subject {
    /// A vault of this cipher with blocks of 4 KiB; with `big` files in layers that the store made, else of some 150 KB.
    pub fn new(cipher: Cipher, seed: u64, big: bool) -> Subject {
        let place = tempfile::tempdir().expect("temporary directories can be made");
        let dir = place.path().join("vault");
        let (tree, past) = build_with_links_and_past(&dir, cipher, 12, seed);
        let mut truth = Truth { tree, ..Truth::default() };
        for (path, shown) in past {
            truth.past.entry(path).or_default().push(shown);
        }
        let disk = SimDisk::new();
        import(&disk, &dir, b"");
        hand::mkdir(&disk, b".akasha/tmp");
        let bytes = disk.read_path(b".akasha/vault.toml").expect("it was imported");
        let vault = config::open(&bytes, PASSWORD).expect("the gallery's password");
        let mut subject = Subject {
            old_disk: disk.clone(),
            old_truth: Truth::default(),
            disk,
            truth: Truth::default(),
            vault,
        };
        let random = SeededEntropy::new(seed ^ 0xdead);
        subject.change(seed, |m| first_changes(m, &mut truth, &random, big));
        subject.old_disk = copy(&subject.disk);
        subject.old_truth = truth.clone();
        subject.change(seed + 1, |m| second_changes(m, &mut truth, &random, big));
        subject.truth = truth;
        subject
    }

    /// What the rescue copy of `dir` was while the directory had another name.
    pub fn former_rescue(&self, dir: &[u8], backing: &[u8]) -> Vec<u8> {
        let other = Subject {
            disk: copy(&self.disk),
            old_disk: copy(&self.old_disk),
            truth: Truth::default(),
            old_truth: Truth::default(),
            vault: self.open(),
        };
        let (moved, copy) = ([dir, b" moved"].concat(), [backing, b"/.dir"].concat());
        let rename = |from: &[u8], to: &[u8], seed| {
            other.change(seed, |m| {
                let ((from, old), (to, new)) = (m.parent(from), m.parent(to));
                m.0.rename(&from, old, &to, new, RenameFlags::Replace).expect("an honest disk");
            });
        };
        rename(dir, &moved, 1);
        let paths = other.disk.paths().into_iter().map(|(path, ..)| path);
        let paths: Vec<_> = paths.filter(|path| path.ends_with(b"/.dir")).collect();
        let known = self.disk.paths();
        let fresh = paths.iter().find(|path| known.iter().all(|(known, ..)| known != *path));
        let former = other.disk.read_path(fresh.expect("it moved")).expect("it is there");
        assert_ne!(self.disk.read_path(&copy), Some(former.clone()));
        former
    }

    /// The keys: deriving them costs more than anything done with them.
    pub fn open(&self) -> OpenVault {
        OpenVault { config: self.vault.config.clone(), keys: Arc::clone(&self.vault.keys) }
    }

    fn change(&self, seed: u64, make: impl FnOnce(&Hands)) {
        let clock = Arc::new(LaterClock::default());
        let store = Store::open(
            Arc::new(self.disk.clone()),
            self.open(),
            StoreOptions::default(),
            Arc::new(SeededEntropy::new(seed ^ 0x5eed)),
            Arc::clone(&clock) as Arc<dyn Clock>,
        )
        .expect("an untouched vault opens");
        let hands = Hands(&store);
        make(&hands);
        // Every directory has been in use for a while: it has its rescue copy.
        hands.look_into_everything();
        clock.later.store(60, Ordering::Relaxed);
        store.tick();
        store.close().expect("an honest disk");
    }
}

/// The system's, a while later.
#[derive(Default)]
struct LaterClock {
    later: AtomicU64,
}

impl Clock for LaterClock {
    fn now(&self) -> Timestamp {
        SystemClock::new().now()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.later.load(Ordering::Relaxed))
    }
}

/// A disk with the same on it.
pub fn copy(disk: &SimDisk) -> SimDisk {
    disk.crash(&akasha::backing::CrashRule::Everything)
}

/// Copies a directory of the host.
fn import(disk: &SimDisk, from: &Path, to: &[u8]) {
    for entry in fs::read_dir(from).expect("the gallery is readable") {
        let entry = entry.expect("the gallery is readable");
        let path = hand::join(to, entry.file_name().as_bytes());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            hand::mkdir(disk, &path);
            import(disk, &entry.path(), &path);
        } else {
            hand::put(disk, &path, &fs::read(entry.path()).expect("the gallery is readable"));
        }
    }
}

/// A mounted vault, used by path.
struct Hands<'a>(&'a Arc<Store<SimDisk>>);

type Inode = Arc<Node<SimDisk>>;

const NEW: NewAttr = NewAttr { mode: 0o644, uid: 0, gid: 0 };

impl Hands<'_> {
    fn look_into_everything(&self) {
        let mut ahead = vec![self.0.root()];
        while let Some(dir) = ahead.pop() {
            let mut names = Vec::new();
            let note = &mut |entry: &ListEntry<'_>| {
                names.extend((entry.kind == EntryKind::Dir).then(|| entry.name.to_vec()));
                true
            };
            self.0.list(&dir, 0, note).expect("an honest disk");
            let below = names.iter().map(|name| self.0.lookup(&dir, name));
            ahead.extend(below.map(|node| node.expect("it is there")));
        }
    }

    fn at(&self, path: &[u8]) -> Inode {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        names.fold(self.0.root(), |dir, name| self.0.lookup(&dir, name).expect("it is there"))
    }

    fn parent<'p>(&self, path: &'p [u8]) -> (Inode, &'p [u8]) {
        let (dir, name) = hand::split(path);
        (self.at(dir), name)
    }

    fn write(&self, truth: &mut Truth, path: &[u8], at: usize, bytes: &[u8]) {
        let node = self.at(path);
        self.0.open_file(&node, true).expect("an untouched file opens");
        self.0.write(&node, at as u64, bytes).expect("an honest disk");
        self.0.fsync(&node).expect("an honest disk");
        self.0.close_file(&node, true);
        truth.commit(path, |content| {
            content.resize(content.len().max(at + bytes.len()), 0);
            content[at..at + bytes.len()].copy_from_slice(bytes);
        });
    }

    fn cut(&self, truth: &mut Truth, path: &[u8], size: usize) {
        let node = self.at(path);
        self.0.open_file(&node, true).expect("an untouched file opens");
        self.0.truncate(&node, size as u64).expect("an honest disk");
        self.0.fsync(&node).expect("an honest disk");
        self.0.close_file(&node, true);
        truth.commit(path, |content| content.resize(size, 0));
    }

    fn create(&self, truth: &mut Truth, path: &[u8], bytes: &[u8]) {
        let (dir, name) = self.parent(path);
        let node = self.0.create(&dir, name, &NEW).expect("an honest disk");
        self.0.close_file(&node, true);
        truth.tree.insert(path.to_vec(), Shown::File(Vec::new()));
        self.write(truth, path, 0, bytes);
    }

    fn attribute(&self, truth: &mut Truth, path: &[u8], name: &[u8], value: &[u8]) {
        self.0.set_xattr(&self.at(path), name, value, SetXattr::Any).expect("an honest disk");
        let values = truth.attributes.entry(path.to_vec()).or_default();
        if let Some(old) = values.insert(name.to_vec(), value.to_vec()) {
            truth.past_values.entry(path.to_vec()).or_default().push(old);
        }
    }
}

fn random_bytes(random: &dyn Entropy, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// Up to the older moment.
fn first_changes(m: &Hands, truth: &mut Truth, random: &dyn Entropy, big: bool) {
    if big {
        m.create(truth, b"layered", &random_bytes(random, BIG));
        m.write(truth, b"layered", 40_000, &random_bytes(random, 5000));
        m.create(truth, b"growing", &random_bytes(random, BIG));
    }
    // A file of the store's own with two names, one stub under both.
    let (dir, name) = m.parent(b"names/hard");
    m.0.link(&m.at(b"directory/4095"), &dir, name).expect("an honest disk");
    truth.tree.insert(b"names/hard".to_vec(), truth.tree[&b"directory/4095"[..]].clone());
    for (path, name, len) in [
        (b"directory/4097".as_slice(), b"user.small".as_slice(), 20),
        (b"directory/4097", b"user.empty", 0),
        (b"directory", b"user.of a directory", 11),
        (b"directory/12288", b"user.large", 3000),
        (b"link", b"trusted.of a link", 9),
    ] {
        m.attribute(truth, path, name, &random_bytes(random, len));
    }
}

/// From there to now.
fn second_changes(m: &Hands, truth: &mut Truth, random: &dyn Entropy, big: bool) {
    if big {
        m.write(truth, b"layered", 120_000, &random_bytes(random, 4096));
        m.write(truth, b"layered", 7, &random_bytes(random, 30));
        m.cut(truth, b"growing", BIG / 2 + 77);
        m.cut(truth, b"growing", BIG + 70_000);
    }
    m.write(truth, b"directory/5000", 0, &random_bytes(random, 5000));
    m.write(truth, b"links/link to small", 0, &random_bytes(random, 5000));
    // The same file under its other name.
    for name in [b"link to small".as_slice(), b"links/link to small"] {
        truth.tree.insert(name.to_vec(), truth.tree[&b"links/link to small"[..]].clone());
        truth.past.insert(name.to_vec(), truth.past[&b"links/link to small"[..]].clone());
    }
    let (from, to) = (m.parent(b"directory/4096"), m.parent(b"names/moved"));
    m.0.rename(&from.0, from.1, &to.0, to.1, RenameFlags::Replace).expect("an honest disk");
    let moved = truth.tree.remove(b"directory/4096".as_slice()).expect("it was there");
    truth.past.entry(b"directory/4096".to_vec()).or_default().push(moved.clone());
    truth.tree.insert(b"names/moved".to_vec(), moved);
    let (dir, name) = m.parent(b"directory/1");
    m.0.unlink(&dir, name).expect("an honest disk");
    let gone = truth.tree.remove(b"directory/1".as_slice()).expect("it was there");
    truth.past.entry(b"directory/1".to_vec()).or_default().push(gone);
    m.attribute(truth, b"directory/4097", b"user.small", &random_bytes(random, 20));
    m.attribute(truth, b"directory/12288", b"user.large", &random_bytes(random, 3000));
}

/// The bytes of every file that is neither empty nor spare, with its path.
pub fn files(disk: &SimDisk) -> Vec<(Vec<u8>, Vec<u8>)> {
    let paths = disk.paths().into_iter();
    paths
        .filter_map(|(path, _, _)| disk.read_path(&path).map(|bytes| (path, bytes)))
        .filter(|(path, _)| path != b".akasha/lock" && path != b".akasha/clean")
        .collect()
}

/// Writes `bytes` into a file that is not there.
pub fn put_new(disk: &SimDisk, dir: &<SimDisk as Backing>::Dir, name: &[u8], bytes: &[u8]) {
    let file = disk.create_temp(dir, name, 0o644).expect("an honest disk");
    file.write_at(0, bytes).expect("an honest disk");
}
