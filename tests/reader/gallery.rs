//! A vault of every form that format 1 has, written by hand through `format`: what an honest writer leaves, and what sync
//! tools and accidents leave around it. Everything follows from the seed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use akasha::crypto::{Cipher, KeyTree, sha256};
use akasha::entropy::{Entropy, SeededEntropy};
use akasha::format::config::{self, ConfigParams, KdfParams};
use akasha::format::{
    Entry, EntryId, EntryKind, Extent, Form, Geometry, HEADER_LEN, LayerMap, LayerSealer, ObjectId,
    Parent, RescueCopy, Role, Source, Stub, TailFields, TailTag, inode_file_name, layer_file_name,
    seal_entry, seal_rescue, seal_stub, stub_file_name,
};

use data_encoding::HEXLOWER;

use super::shown::{Shown, Tree};

pub const PASSWORD: &[u8] = b"open sesame";

const CREATED: u64 = 1_790_000_000;
const MICROS: u64 = CREATED * 1_000_000;

/// What a sync tool left under a name that is none.
const STRAY: &[u8] = b"notes (conflicted copy).txt";
/// Lies in `.akasha/layers`, and nothing refers to it.
const ORPHAN: [u8; 32] = [0xEE; 32];

/// A directory under construction.
#[derive(Clone)]
struct Dir {
    backing: PathBuf,
    path: Vec<u8>,
    id: EntryId,
}

impl Dir {
    fn inside(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() {
            name.to_vec()
        } else {
            [self.path.as_slice(), b"/", name].concat()
        }
    }
}

/// A sealed layer, and what a layer above says of it.
struct Sealed {
    bytes: Vec<u8>,
    parent: Parent,
}

struct Builder<'a> {
    vault: &'a Path,
    keys: Arc<KeyTree>,
    cipher: Cipher,
    geometry: Geometry,
    entropy: SeededEntropy,
    tree: &'a mut Tree,
    past: Past,
}

/// Writes a vault into the new directory `vault`; what it must show.
pub fn build(vault: &Path, cipher: Cipher, block_log2: u8, seed: u64) -> Tree {
    build_with_past(vault, cipher, block_log2, seed).0
}

/// What its files show where an older layer of theirs is in the place of the newest.
pub type Past = Vec<(Vec<u8>, Shown)>;

fn build_with_past(vault: &Path, cipher: Cipher, block_log2: u8, seed: u64) -> (Tree, Past) {
    let mut tree = Tree::new();
    let mut builder = begin(vault, cipher, block_log2, seed, &mut tree);
    builder.fill();
    let past = builder.past;
    (tree, past)
}

/// Writes an empty vault into the new directory `vault`.
fn begin<'a>(
    vault: &'a Path,
    cipher: Cipher,
    block_log2: u8,
    seed: u64,
    tree: &'a mut Tree,
) -> Builder<'a> {
    let entropy = SeededEntropy::new(seed);
    let geometry = Geometry::new(block_log2).unwrap();
    let kdf = KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 };
    let params = ConfigParams { cipher, geometry, kdf };
    let (config, open) = config::create(PASSWORD, &params, CREATED, &entropy).unwrap();
    fs::create_dir(vault).unwrap();
    for dir in [".akasha", ".akasha/layers"] {
        fs::create_dir(vault.join(dir)).unwrap();
    }
    fs::write(vault.join(".akasha/vault.toml"), config).unwrap();
    fs::write(vault.join(".akasha/lock"), b"").unwrap();
    Builder { vault, keys: open.keys, cipher, geometry, entropy, tree, past: Past::new() }
}

/// Writes a vault of directories with rescue copies: below each other, with a long name, and one that has moved since.
pub fn build_with_rescues(vault: &Path, cipher: Cipher, block_log2: u8, seed: u64) -> Tree {
    let mut tree = Tree::new();
    let mut builder = begin(vault, cipher, block_log2, seed, &mut tree);
    let root = Dir { backing: vault.to_owned(), path: Vec::new(), id: EntryId::ROOT };
    let outer = builder.dir(&root, b"outer");
    let long = [b'd'; 255];
    let inner = builder.dir(&outer, &long);
    builder.file(&inner, b"file", b"content".to_vec());
    let moved = builder.dir(&root, b"moved");
    builder.rescue(&outer, root.id, b"outer");
    builder.rescue(&inner, outer.id, &long);
    builder.rescue(&moved, outer.id, b"former name");
    tree
}

/// Puts the rescue copy of one directory of [`build_with_rescues`] into another, or into the root: two wrong ones.
pub fn swap_rescues(vault: &Path) -> [PathBuf; 2] {
    let dirs = fs::read_dir(vault).unwrap().map(|entry| entry.unwrap().path());
    let dirs: Vec<_> = dirs.filter(|path| path.join(".dir").exists()).collect();
    let target = vault.join(".dir");
    fs::copy(dirs[0].join(".dir"), &target).unwrap();
    fs::copy(dirs[0].join(".dir"), dirs[1].join(".dir")).unwrap();
    [target, dirs[1].join(".dir")]
}

/// Opens the vault of [`build`] again to add to it.
fn reopen<'a>(
    vault: &'a Path,
    cipher: Cipher,
    block_log2: u8,
    seed: u64,
    tree: &'a mut Tree,
) -> Builder<'a> {
    let config = fs::read(vault.join(".akasha/vault.toml")).unwrap();
    let keys = config::open(&config, PASSWORD).unwrap().keys;
    let geometry = Geometry::new(block_log2).unwrap();
    // Another sequence than the one that the vault was made with.
    let entropy = SeededEntropy::new(!seed);
    Builder { vault, keys, cipher, geometry, entropy, tree, past: Past::new() }
}

/// Whether a file of the gallery may change without anybody noticing.
pub fn is_spare(file: &Path) -> bool {
    let name = file.file_name().unwrap().as_bytes();
    file.ends_with(".akasha/lock") || name == STRAY || name.ends_with(&[b'e'; 64])
}

impl Builder<'_> {
    fn fill(&mut self) {
        let root = Dir { backing: self.vault.to_owned(), path: Vec::new(), id: EntryId::ROOT };
        let block = usize::try_from(self.geometry.block_len()).unwrap();
        let dir = self.dir(&root, b"directory");
        for size in [0, 1, block - 1, block, block + 1, 5000, 3 * block] {
            let content = self.random(size);
            self.file(&dir, size.to_string().as_bytes(), content);
        }
        // Names of every length class, of bytes that are no UTF-8, and that look like ours.
        let names = self.dir(&root, b"names");
        for len in [1, 12, 13, 140, 141, 255] {
            self.file(&names, &b"n".repeat(len), vec![b'x'; len]);
        }
        for name in [b"\xFF\xFE\x80".as_slice(), b"line\nfeed", b".akasha", b"L", b".dir", b" "] {
            self.file(&names, name, name.to_vec());
        }
        let long = self.dir(&names, &b"d".repeat(200));
        self.file(&long, &b"f".repeat(200), b"deep down".to_vec());
        self.entry(&root, EntryKind::Symlink, b"link", b"directory/5000".to_vec());
        self.entry(&root, EntryKind::Fifo, b"pipe", Vec::new());
        self.mapped(&root);
        self.scattered(&root);
        self.cut(&root);
        self.replaced(&root);
        self.conflicts(&root);
        self.stray(&root, STRAY, b"foreign");
        let orphan = self.simple(EntryId::from_raw(99).unwrap(), 1, b"of nobody");
        let name = layer_file_name(EntryId::from_raw(99).unwrap(), object_id(ORPHAN));
        self.put_layer(&name, &orphan.bytes);
    }

    fn random(&self, len: usize) -> Vec<u8> {
        let mut content = vec![0; len];
        self.entropy.fill(&mut content);
        content
    }

    fn sealer(&self) -> LayerSealer {
        LayerSealer::new(&self.keys, self.cipher, self.geometry, &self.entropy)
    }

    /// Slots with the given contents (the last may be short; `None`: burnt), then map and tail.
    fn layer(
        &self,
        slots: &[Option<&[u8]>],
        fields: &TailFields,
        map: Option<&LayerMap>,
    ) -> Sealed {
        let sealer = self.sealer();
        let slot_len = usize::try_from(self.geometry.slot_len()).unwrap();
        let mut bytes = sealer.header().to_vec();
        let mut last = 0;
        for plain in slots {
            let run = sealer.reserve(1);
            let at = bytes.len();
            last = plain.map_or(slot_len - 16, <[u8]>::len);
            bytes.resize(at + last + 16, 0xBB);
            if let Some(plain) = plain {
                sealer.seal(run, plain, &mut bytes[at..]);
            }
        }
        let layer = sealer.key().id();
        let end = sealer.finish(fields, u32::try_from(last).unwrap(), map);
        bytes.extend_from_slice(&end.bytes);
        let parent = Parent {
            layer,
            tag: end.tag,
            owner: fields.entry_id,
            commit: fields.commit,
            size: fields.size,
            epoch: 0,
        };
        Sealed { bytes, parent }
    }

    fn simple(&self, id: EntryId, commit: u64, content: &[u8]) -> Sealed {
        let block = usize::try_from(self.geometry.block_len()).unwrap();
        let slots: Vec<Option<&[u8]>> = content.chunks(block).map(Some).collect();
        self.layer(&slots, &fields(Form::Simple, id, commit, content.len() as u64), None)
    }

    /// Seals a name; returns where the object goes.
    fn name(&self, dir: &Dir, entry: &Entry) -> PathBuf {
        let backing = seal_entry(&self.keys, dir.id, entry);
        if let Some(sidecar) = backing.sidecar {
            fs::write(dir.backing.join(OsStr::from_bytes(&sidecar.name)), sidecar.content).unwrap();
        }
        dir.backing.join(OsStr::from_bytes(&backing.name))
    }

    fn new_entry(&self, kind: EntryKind, name: &[u8], replaces: Option<EntryId>) -> Entry {
        let id = EntryId::random(&self.entropy);
        Entry { kind, id, inode: None, replaces, rdev: None, name: name.to_vec() }
    }

    fn dir(&mut self, parent: &Dir, name: &[u8]) -> Dir {
        let entry = self.new_entry(EntryKind::Dir, name, None);
        let backing = self.name(parent, &entry);
        fs::create_dir(&backing).unwrap();
        let path = parent.inside(name);
        self.tree.insert(path.clone(), Shown::Dir);
        Dir { backing, path, id: entry.id }
    }

    fn file(&mut self, dir: &Dir, name: &[u8], content: Vec<u8>) {
        self.entry(dir, EntryKind::File, name, content);
    }

    fn entry(&mut self, dir: &Dir, kind: EntryKind, name: &[u8], content: Vec<u8>) {
        let entry = self.new_entry(kind, name, None);
        fs::write(self.name(dir, &entry), self.simple(entry.id, 1, &content).bytes).unwrap();
        let shown = match kind {
            EntryKind::Symlink => Shown::Link(content),
            EntryKind::Fifo => Shown::Fifo,
            _ => Shown::File(content),
        };
        self.tree.insert(dir.inside(name), shown);
    }

    fn put_layer(&self, name: &[u8], bytes: &[u8]) {
        fs::write(self.vault.join(".akasha/layers").join(OsStr::from_bytes(name)), bytes).unwrap();
    }

    fn put_parent(&self, sealed: &Sealed) {
        self.put_layer(&layer_file_name(sealed.parent.owner, sealed.parent.layer), &sealed.bytes);
    }

    /// Three layers: a simple one with a short end, a mapped one with a hole, a mapped top that grows the file.
    fn mapped(&mut self, root: &Dir) {
        let entry = self.new_entry(EntryKind::File, b"mapped", None);
        let block = usize::try_from(self.geometry.block_len()).unwrap();
        let (size, new_size) = (6 * block - 100, 10 * block - 5);
        let oldest = self.random(size);
        let base = self.simple(entry.id, 1, &oldest);
        let (one, four, zero) = (self.random(block), self.random(block), self.random(block));
        let map = LayerMap {
            extents: vec![own(1, 1, 0), hole(2, 1), own(4, 1, 1)],
            parents: vec![base.parent],
        };
        let about = fields(Form::Mapped, entry.id, 2, size as u64);
        let middle = self.layer(&[Some(&one), Some(&four)], &about, Some(&map));
        // The first slot is burnt; the old end of the file is short and reads on as zeros.
        let map = LayerMap {
            extents: vec![own(0, 1, 1), hole(6, 4)],
            parents: vec![middle.parent, base.parent],
        };
        let about = fields(Form::Mapped, entry.id, 3, new_size as u64);
        let top = self.layer(&[None, Some(&zero)], &about, Some(&map));
        self.put_parent(&base);
        self.put_parent(&middle);
        fs::write(self.name(root, &entry), top.bytes).unwrap();
        let mut content = oldest;
        self.past.push((root.inside(b"mapped"), Shown::File(content.clone())));
        content[block..2 * block].copy_from_slice(&one);
        content[2 * block..3 * block].fill(0);
        content[4 * block..5 * block].copy_from_slice(&four);
        self.past.push((root.inside(b"mapped"), Shown::File(content.clone())));
        content.resize(new_size, 0);
        content[..block].copy_from_slice(&zero);
        self.tree.insert(root.inside(b"mapped"), Shown::File(content));
    }

    /// One mapped layer with its blocks out of order, and one that was allocated but never written.
    fn scattered(&mut self, root: &Dir) {
        let entry = self.new_entry(EntryKind::File, b"scattered", None);
        let block = usize::try_from(self.geometry.block_len()).unwrap();
        let slots: Vec<Vec<u8>> = (0..3).map(|_| self.random(block)).collect();
        let unwritten = Extent { source: Source::Unwritten, ..hole(3, 2) };
        let map =
            LayerMap { extents: vec![own(0, 1, 2), own(1, 2, 0), unwritten], parents: vec![] };
        let about = fields(Form::Mapped, entry.id, 1, 5 * block as u64);
        let sealed: Vec<Option<&[u8]>> = slots.iter().map(|slot| Some(slot.as_slice())).collect();
        fs::write(self.name(root, &entry), self.layer(&sealed, &about, Some(&map)).bytes).unwrap();
        let content = [slots[2].clone(), slots[0].clone(), slots[1].clone(), vec![0; 2 * block]];
        self.tree.insert(root.inside(b"scattered"), Shown::File(content.concat()));
    }

    /// A file that was cut: a top that holds nothing, over a longer version.
    fn cut(&mut self, root: &Dir) {
        let entry = self.new_entry(EntryKind::File, b"cut", None);
        let block = usize::try_from(self.geometry.block_len()).unwrap();
        let mut content = self.random(3 * block + 7);
        let base = self.simple(entry.id, 1, &content);
        let map = LayerMap { extents: vec![], parents: vec![base.parent] };
        self.past.push((root.inside(b"cut"), Shown::File(content.clone())));
        content.truncate(block + 10);
        let about = fields(Form::Mapped, entry.id, 2, content.len() as u64);
        self.put_parent(&base);
        fs::write(self.name(root, &entry), self.layer(&[], &about, Some(&map)).bytes).unwrap();
        self.tree.insert(root.inside(b"cut"), Shown::File(content));
    }

    /// A name whose old entry is still there, and one that claims to replace what was never there.
    fn replaced(&mut self, root: &Dir) {
        let old = self.new_entry(EntryKind::File, b"replaced", None);
        let new = self.new_entry(EntryKind::File, b"replaced", Some(old.id));
        let bold = self.new_entry(EntryKind::File, b"bold", Some(old.id));
        for (entry, content) in [(&old, b"old".as_slice()), (&new, b"new"), (&bold, b"bold")] {
            fs::write(self.name(root, entry), self.simple(entry.id, 1, content).bytes).unwrap();
        }
        self.tree.insert(root.inside(b"replaced"), Shown::File(b"new".to_vec()));
        self.tree.insert(root.inside(b"bold"), Shown::File(b"bold".to_vec()));
    }

    /// Names that two devices made apart, one of them as long as a name can be.
    fn conflicts(&mut self, root: &Dir) {
        for name in [b"twice".to_vec(), vec![b'y'; 255]] {
            let one = self.new_entry(EntryKind::File, &name, None);
            let two = self.new_entry(EntryKind::File, &name, None);
            self.conflict(root, [one, two]);
        }
    }

    /// Two living entries of one name.
    fn conflict(&mut self, dir: &Dir, pair: [Entry; 2]) {
        let first = pair[0].id.min(pair[1].id);
        for entry in pair {
            let content = entry.id.get().to_string().into_bytes();
            fs::write(self.name(dir, &entry), self.simple(entry.id, 1, &content).bytes).unwrap();
            let mark = format!(" (conflict {:08x})", entry.id.get() & 0xFFFF_FFFF);
            let cut = entry.name.len().min(255 - mark.len());
            let shown_as = if entry.id == first {
                entry.name
            } else {
                [&entry.name[..cut], mark.as_bytes()].concat()
            };
            self.tree.insert(dir.inside(&shown_as), Shown::File(content));
        }
    }

    /// Puts a file under a backing name that must show as damage.
    fn stray(&mut self, dir: &Dir, backing: &[u8], content: &[u8]) {
        fs::write(dir.backing.join(OsStr::from_bytes(backing)), content).unwrap();
        self.show_damaged(dir, backing);
    }

    fn show_damaged(&mut self, dir: &Dir, backing: &[u8]) {
        let digest = HEXLOWER.encode(&sha256(backing)[..8]);
        self.tree.insert(dir.inside(format!("akasha-damaged-{digest}").as_bytes()), Shown::Damaged);
    }
}

/// Adds what hostile hands and accidents leave.
pub fn add_damage(vault: &Path, cipher: Cipher, block_log2: u8, seed: u64, tree: &mut Tree) {
    let mut builder = reopen(vault, cipher, block_log2, seed.wrapping_add(33), tree);
    let root = Dir { backing: vault.to_owned(), path: Vec::new(), id: EntryId::ROOT };
    let dir = builder.dir(&root, b"damage");
    let file_name = |path: &Path| path.file_name().unwrap().as_bytes().to_vec();
    builder.stray(&dir, b"A", b"");
    builder.stray(&dir, &[b"A".as_slice(), &[b'x'; 64]].concat(), b"");
    builder.stray(&dir, &[b"L".as_slice(), &[b'x'; 43]].concat(), b"a long name without a sidecar");
    builder.stray(&dir, b"tmp", b"");
    // A long name whose sidecar is another's.
    let long = builder.new_entry(EntryKind::File, &[b'l'; 200], None);
    let path = builder.name(&dir, &long);
    let other =
        seal_entry(&builder.keys, dir.id, &builder.new_entry(EntryKind::File, &[b'm'; 200], None));
    let sidecar = [&file_name(&path), b".name".as_slice()].concat();
    fs::write(dir.backing.join(OsStr::from_bytes(&sidecar)), other.sidecar.unwrap().content)
        .unwrap();
    fs::write(&path, builder.simple(long.id, 1, b"lost").bytes).unwrap();
    builder.show_damaged(&dir, &file_name(&path));
    // A directory where the name says file, and a file where it says directory.
    let entry = builder.new_entry(EntryKind::File, b"a directory", None);
    let path = builder.name(&dir, &entry);
    fs::create_dir(&path).unwrap();
    builder.show_damaged(&dir, &file_name(&path));
    let entry = builder.new_entry(EntryKind::Dir, b"a file", None);
    let path = builder.name(&dir, &entry);
    fs::write(&path, b"").unwrap();
    builder.show_damaged(&dir, &file_name(&path));
    // A link of the host.
    std::os::unix::fs::symlink("/etc/passwd", dir.backing.join("Alink")).unwrap();
    builder.show_damaged(&dir, b"Alink");
    // An entry of another directory.
    let entry = builder.new_entry(EntryKind::File, b"moved by hand", None);
    let path = file_name(&builder.name(&root, &entry));
    builder.stray(&dir, &path, b"");
    // Names that open, over content that does not.
    let mut contents: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
    let mine = builder.new_entry(EntryKind::File, b"x", None).id;
    contents.insert(b"empty", Vec::new());
    contents.insert(b"of another file", builder.simple(mine, 1, b"theirs").bytes);
    for (name, content) in contents {
        let entry = builder.new_entry(EntryKind::File, name, None);
        fs::write(builder.name(&dir, &entry), content).unwrap();
        builder.tree.insert(dir.inside(name), Shown::Unreadable);
    }
    for (name, damage) in [
        (
            b"cut".as_slice(),
            (|bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1)) as fn(&mut Vec<u8>),
        ),
        (b"grown", |bytes| bytes.push(0)),
        (b"zeroed", |bytes| bytes.fill(0)),
        (b"flipped", |bytes| bytes[HEADER_LEN + 5] ^= 4),
        (b"a stub by length", |bytes| bytes.resize(336, 7)),
    ] {
        let entry = builder.new_entry(EntryKind::File, name, None);
        let mut bytes = builder.simple(entry.id, 1, &[1; 6000]).bytes;
        damage(&mut bytes);
        fs::write(builder.name(&dir, &entry), bytes).unwrap();
        builder.tree.insert(dir.inside(name), Shown::Unreadable);
    }
    builder.broken_stacks(&dir);
}

impl Builder<'_> {
    /// Mapped files whose layers are missing, exchanged, or leave a gap.
    fn broken_stacks(&mut self, dir: &Dir) {
        let block = self.geometry.block_len();
        for name in
            [b"no parent".as_slice(), b"another version below", b"a gap", b"a base as a top"]
        {
            let entry = self.new_entry(EntryKind::File, name, None);
            let base = self.simple(entry.id, 1, &[1; 100]);
            let other = self.simple(entry.id, 1, &[2; 100]);
            let mut about = fields(Form::Mapped, entry.id, 2, 100);
            match name {
                b"a gap" => about.size = 2 * block,
                b"a base as a top" => about.role = Role::Base,
                _ => {}
            }
            let map = LayerMap { extents: vec![], parents: vec![base.parent] };
            let top = self.layer(&[], &about, Some(&map));
            fs::write(self.name(dir, &entry), top.bytes).unwrap();
            match name {
                b"no parent" => {}
                b"another version below" => {
                    let place = layer_file_name(entry.id, base.parent.layer);
                    self.put_layer(&place, &other.bytes);
                }
                _ => self.put_parent(&base),
            }
            self.tree.insert(dir.inside(name), Shown::Unreadable);
        }
    }
}

/// Adds conflicts between entries that replaced something: a file saved on two devices apart, and two entries that replace
/// each other.
pub fn add_conflicts_of_saves(
    vault: &Path,
    cipher: Cipher,
    block_log2: u8,
    seed: u64,
    tree: &mut Tree,
) {
    let mut builder = reopen(vault, cipher, block_log2, seed, tree);
    let root = Dir { backing: vault.to_owned(), path: Vec::new(), id: EntryId::ROOT };
    let gone = EntryId::random(&builder.entropy);
    let pair = [(); 2].map(|()| builder.new_entry(EntryKind::File, b"saved twice", Some(gone)));
    builder.conflict(&root, pair);
    let mut pair = [(); 2].map(|()| builder.new_entry(EntryKind::File, b"circle", None));
    pair[0].replaces = Some(pair[1].id);
    pair[1].replaces = Some(pair[0].id);
    builder.conflict(&root, pair);
}

/// As [`build`], and files with several names: of every form and in every place.
pub fn build_with_links(vault: &Path, cipher: Cipher, block_log2: u8, seed: u64) -> Tree {
    build_with_links_and_past(vault, cipher, block_log2, seed).0
}

/// As [`build_with_links`], and what its files were.
pub fn build_with_links_and_past(
    vault: &Path,
    cipher: Cipher,
    block_log2: u8,
    seed: u64,
) -> (Tree, Past) {
    let (mut tree, mut past) = build_with_past(vault, cipher, block_log2, seed);
    let mut builder = reopen(vault, cipher, block_log2, seed, &mut tree);
    let root = Dir { backing: vault.to_owned(), path: Vec::new(), id: EntryId::ROOT };
    let dir = builder.dir(&root, b"links");
    let long = vec![b'n'; 133];
    let block = usize::try_from(builder.geometry.block_len()).unwrap();
    fs::create_dir_all(vault.join(".akasha/inodes")).unwrap();
    for (kind, name, content) in [
        (EntryKind::File, b"small".as_slice(), builder.random(5000)),
        (EntryKind::File, &long, Vec::new()),
        (EntryKind::Symlink, b"symlink", b"target".to_vec()),
        (EntryKind::Fifo, b"fifo", Vec::new()),
    ] {
        let inode = EntryId::random(&builder.entropy);
        let sealed = builder.simple(inode, 3, &content);
        let shown = match kind {
            EntryKind::Symlink => Shown::Link(content),
            EntryKind::Fifo => Shown::Fifo,
            _ => Shown::File(content),
        };
        builder.linked(&[&root, &dir], kind, name, inode, &sealed, &shown);
    }
    // In two layers.
    let inode = EntryId::random(&builder.entropy);
    let (mut content, first) = (builder.random(2 * block), builder.random(block));
    let base = builder.simple(inode, 1, &content);
    let map = LayerMap { extents: vec![own(0, 1, 0)], parents: vec![base.parent] };
    let about = fields(Form::Mapped, inode, 2, content.len() as u64);
    let top = builder.layer(&[Some(&first)], &about, Some(&map));
    for place in [&root, &dir] {
        past.push((place.inside(b"link to layers"), Shown::File(content.clone())));
    }
    content[..block].copy_from_slice(&first);
    builder.put_parent(&base);
    builder.linked(&[&root, &dir], EntryKind::File, b"layers", inode, &top, &Shown::File(content));
    assert!(past.iter().all(|(path, _)| tree.contains_key(path)), "the past of what is not there");
    (tree, past)
}

/// Adds names of files that are not there, that are something else, or that have a name of their own.
pub fn add_broken_links(vault: &Path, cipher: Cipher, block_log2: u8, seed: u64, tree: &mut Tree) {
    let mut builder = reopen(vault, cipher, block_log2, seed.wrapping_add(77), tree);
    let root = Dir { backing: vault.to_owned(), path: Vec::new(), id: EntryId::ROOT };
    let dir = builder.dir(&root, b"broken links");
    let lost = EntryId::random(&builder.entropy);
    let entry = builder.name_of(lost, EntryKind::File, b"lost");
    fs::write(builder.name(&dir, &entry), builder.stub(lost)).unwrap();
    builder.tree.insert(dir.inside(b"lost"), Shown::Unreadable);
    // What lies there is another file's.
    let inode = EntryId::random(&builder.entropy);
    let theirs = builder.simple(EntryId::random(&builder.entropy), 1, b"theirs");
    builder.linked(&[&dir], EntryKind::File, b"other", inode, &theirs, &Shown::Unreadable);
    // A stub there, too.
    let inode = EntryId::random(&builder.entropy);
    let stub = Sealed { bytes: builder.stub(inode), ..builder.simple(inode, 1, b"") };
    builder.linked(&[&dir], EntryKind::File, b"stub", inode, &stub, &Shown::Unreadable);
}

impl Builder<'_> {
    fn rescue(&self, dir: &Dir, parent: EntryId, name: &[u8]) {
        let copy = RescueCopy { id: dir.id, parent, stamp: MICROS, name: name.to_vec() };
        let (keys, entropy) = (&self.keys, &self.entropy);
        let sealed = seal_rescue(keys, self.cipher, self.geometry, &copy, entropy);
        fs::write(dir.backing.join(".dir"), sealed).unwrap();
    }

    fn stub(&self, inode: EntryId) -> Vec<u8> {
        let said = Stub { inode, native: 7 };
        seal_stub(&self.keys, self.cipher, self.geometry, said, &self.entropy).to_vec()
    }

    fn name_of(&self, inode: EntryId, kind: EntryKind, name: &[u8]) -> Entry {
        Entry { inode: Some(inode), ..self.new_entry(kind, name, None) }
    }

    /// A file with a name in each of `dirs`.
    fn linked(
        &mut self,
        dirs: &[&Dir],
        kind: EntryKind,
        name: &[u8],
        inode: EntryId,
        top: &Sealed,
        shown: &Shown,
    ) {
        let inodes = self.vault.join(".akasha/inodes");
        let place = |name: Vec<u8>| inodes.join(OsStr::from_bytes(&name));
        fs::write(place(inode_file_name(inode)), &top.bytes).unwrap();
        let stub = self.stub(inode);
        fs::write(place(stub_file_name(inode)), &stub).unwrap();
        for dir in dirs {
            let name = [b"link to ", name].concat();
            let entry = self.name_of(inode, kind, &name);
            // Copied, as git has it: nobody looks into it.
            fs::write(self.name(dir, &entry), &stub).unwrap();
            self.tree.insert(dir.inside(&name), shown.clone());
        }
    }
}

fn fields(form: Form, id: EntryId, commit: u64, size: u64) -> TailFields {
    TailFields {
        form,
        role: Role::Version,
        entry_id: id,
        commit,
        size,
        home: EntryId::ROOT,
        stamp: MICROS + commit,
        previous: TailTag::default(),
        birth: MICROS,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
    }
}

fn own(block: u64, count: u64, slot: u64) -> Extent {
    Extent { block, count, source: Source::Own, slot }
}

fn hole(block: u64, count: u64) -> Extent {
    Extent { block, count, source: Source::Hole, slot: 0 }
}

fn object_id(bytes: [u8; 32]) -> ObjectId {
    ObjectId::from_hex(HEXLOWER.encode(&bytes).as_bytes()).unwrap()
}
