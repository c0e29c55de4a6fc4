//! Backing names: sealed entries, long names, control names (FORMAT.md, "Names").

use data_encoding::BASE64URL_NOPAD;

use crate::crypto::{KeyTree, sha256};
use crate::entropy::Entropy;

use super::FormatError;
use super::ids::{EntryId, ObjectId};
use super::map::u64_at;
use super::rescue::RESCUE_NAME;

/// First letter of a sealed entry under the first epoch's key.
const EPOCH_LETTER: u8 = b'A';
/// First letter of a long name.
const LONG_LETTER: u8 = b'L';
/// What a sidecar's name has behind the long name.
const SIDECAR_SUFFIX: &[u8] = b".name";
/// The longest backing name that is used as it is, in bytes.
const BACKING_NAME_MAX: usize = 255;
const VERSION: u8 = 1;
/// version, kind, flags, entry id, replaces.
const FIXED_LEN: usize = 19;
const FLAG_DEVICE: u8 = 1;
const FLAG_LINK: u8 = 2;
/// Ends a name that zeros follow.
pub(super) const PAD: u8 = 0x80;
const STEP: usize = 16;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A regular file.
    File = 1,
    /// A directory.
    Dir = 2,
    /// A symbolic link; its layer holds the target.
    Symlink = 3,
    /// A named pipe.
    Fifo = 4,
    /// A socket.
    Socket = 5,
    /// A character device.
    CharDevice = 6,
    /// A block device.
    BlockDevice = 7,
}

impl EntryKind {
    const ALL: [EntryKind; 7] = [
        EntryKind::File,
        EntryKind::Dir,
        EntryKind::Symlink,
        EntryKind::Fifo,
        EntryKind::Socket,
        EntryKind::CharDevice,
        EntryKind::BlockDevice,
    ];

    /// Whether its entry has a device number.
    pub fn is_device(self) -> bool {
        matches!(self, EntryKind::CharDevice | EntryKind::BlockDevice)
    }
}

/// A directory entry in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// The object; of one of several names of a file, the name itself.
    pub id: EntryId,
    /// The file in `.akasha/inodes`, if this is one of its names.
    pub inode: Option<EntryId>,
    /// A sibling of the same plaintext name that this one takes the place of.
    pub replaces: Option<EntryId>,
    /// Device number, of devices only.
    pub rdev: Option<u64>,
    /// The plaintext name, 1..=255 bytes.
    pub name: Vec<u8>,
}

/// The name of an entry in the backing directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingName {
    /// The name.
    pub name: Vec<u8>,
    /// For long names, the file beside it that holds the sealed entry.
    pub sidecar: Option<Sidecar>,
}

/// The file that holds a long name's sealed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// Its name.
    pub name: Vec<u8>,
    /// Its content.
    pub content: Vec<u8>,
}

/// What a backing name can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameClass {
    /// `.akasha`, or its predecessor while a vault is made.
    Control,
    /// `.dir`, a directory's rescue copy.
    Rescue,
    /// A hash; the sealed entry is in the sidecar.
    Long,
    /// A long name's sidecar.
    Sidecar,
    /// A sealed entry.
    Entry,
    /// Nothing of ours.
    Foreign,
}

/// Seals an entry of the directory `parent`. Deterministic.
///
/// # Panics
/// If no reader would accept the entry: under such a name its file would be lost.
pub fn seal_entry(keys: &KeyTree, parent: EntryId, entry: &Entry) -> BackingName {
    let plain = encode_entry(entry);
    let parsed = parse_entry(&plain);
    assert!(parsed.as_ref() == Ok(entry), "what is sealed can be opened: {:?}", parsed.err());
    let sealed = keys.names().seal([b"entry", &parent.get().to_le_bytes()], &plain);
    let mut name = vec![EPOCH_LETTER];
    name.extend_from_slice(BASE64URL_NOPAD.encode(&sealed).as_bytes());
    if name.len() <= BACKING_NAME_MAX {
        return BackingName { name, sidecar: None };
    }
    let long = long_name(&name);
    let mut sidecar = long.clone();
    sidecar.extend_from_slice(SIDECAR_SUFFIX);
    BackingName { name: long, sidecar: Some(Sidecar { name: sidecar, content: name }) }
}

pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut plain = Vec::with_capacity(FIXED_LEN + 16 + entry.name.len() + STEP);
    plain.push(VERSION);
    plain.push(entry.kind as u8);
    let device = if entry.rdev.is_some() { FLAG_DEVICE } else { 0 };
    plain.push(device | if entry.inode.is_some() { FLAG_LINK } else { 0 });
    plain.extend_from_slice(&entry.id.get().to_le_bytes());
    plain.extend_from_slice(&entry.replaces.map_or(0, EntryId::get).to_le_bytes());
    if let Some(inode) = entry.inode {
        plain.extend_from_slice(&inode.get().to_le_bytes());
    }
    if let Some(rdev) = entry.rdev {
        plain.extend_from_slice(&rdev.to_le_bytes());
    }
    plain.extend_from_slice(&entry.name);
    plain.push(PAD);
    plain.resize(plain.len().next_multiple_of(STEP), 0);
    plain
}

/// The backing name that stands for a sealed entry which is too long for one.
pub fn long_name(sealed: &[u8]) -> Vec<u8> {
    let mut name = vec![LONG_LETTER];
    name.extend_from_slice(BASE64URL_NOPAD.encode(&sha256(sealed)).as_bytes());
    name
}

/// Opens a sealed entry (a backing name, or a sidecar's content) of the directory `parent`.
///
/// # Errors
/// [`FormatError::Auth`], [`FormatError::Entry`].
pub fn open_entry(keys: &KeyTree, parent: EntryId, sealed: &[u8]) -> Result<Entry, FormatError> {
    let text = sealed.strip_prefix(&[EPOCH_LETTER]).ok_or(FormatError::Entry("epoch letter"))?;
    let sealed = BASE64URL_NOPAD.decode(text).map_err(|_| FormatError::Entry("base64"))?;
    let plain = keys
        .names()
        .open([b"entry", &parent.get().to_le_bytes()], &sealed)
        .map_err(|_| FormatError::Auth("name"))?;
    parse_entry(&plain)
}

pub(super) fn parse_entry(plain: &[u8]) -> Result<Entry, FormatError> {
    if plain.len() < FIXED_LEN || !plain.len().is_multiple_of(STEP) {
        return Err(FormatError::Entry("length"));
    }
    if plain[0] != VERSION {
        return Err(FormatError::Entry("version"));
    }
    let kind = EntryKind::ALL
        .into_iter()
        .find(|kind| *kind as u8 == plain[1])
        .ok_or(FormatError::Entry("kind"))?;
    let is_link = plain[2] & FLAG_LINK != 0 && kind != EntryKind::Dir;
    let flags = |set: bool, flag| if set { flag } else { 0 };
    if plain[2] != flags(kind.is_device(), FLAG_DEVICE) | flags(is_link, FLAG_LINK) {
        return Err(FormatError::Entry("flags"));
    }
    let id = EntryId::from_raw(u64_at(plain, 3))
        .filter(|id| *id != EntryId::ROOT)
        .ok_or(FormatError::Entry("id"))?;
    let replaces = match u64_at(plain, 11) {
        0 => None,
        raw => {
            let replaced = EntryId::from_raw(raw).filter(|r| *r != EntryId::ROOT && *r != id);
            Some(replaced.ok_or(FormatError::Entry("replaces"))?)
        }
    };
    let mut rest = &plain[FIXED_LEN..];
    let mut number = |is_there: bool| {
        if !is_there {
            return Ok(None);
        }
        let (number, behind) = rest.split_first_chunk().ok_or(FormatError::Entry("length"))?;
        rest = behind;
        Ok(Some(u64::from_le_bytes(*number)))
    };
    let inode = match number(is_link)? {
        None => None,
        Some(raw) => {
            let inode =
                EntryId::from_raw(raw).filter(|inode| *inode != EntryId::ROOT && *inode != id);
            Some(inode.ok_or(FormatError::Entry("inode"))?)
        }
    };
    let rdev = number(kind.is_device())?;
    let end = rest.iter().rposition(|byte| *byte != 0).ok_or(FormatError::Entry("padding"))?;
    if rest[end] != PAD || rest.len() - end > STEP {
        return Err(FormatError::Entry("padding"));
    }
    let name = &rest[..end];
    if !is_name(name) {
        return Err(FormatError::Entry("name"));
    }
    Ok(Entry { kind, id, inode, replaces, rdev, name: name.to_vec() })
}

/// Whether a file can have this plaintext name.
pub(super) fn is_name(name: &[u8]) -> bool {
    (1..=255).contains(&name.len())
        && !name.contains(&0)
        && !name.contains(&b'/')
        && name != b"."
        && name != b".."
}

/// What a name found in the tree is.
pub fn classify_name(name: &[u8]) -> NameClass {
    let is_hash = |text: &[u8]| text.len() == 44 && text[0] == LONG_LETTER;
    match name {
        b".akasha" | b".akasha.new" => NameClass::Control,
        RESCUE_NAME => NameClass::Rescue,
        _ if name.strip_suffix(SIDECAR_SUFFIX).is_some_and(is_hash) => NameClass::Sidecar,
        _ if is_hash(name) => NameClass::Long,
        [EPOCH_LETTER, ..] => NameClass::Entry,
        _ => NameClass::Foreign,
    }
}

/// `<entry id, 16 hex digits>.<layer id, 64 hex digits>`
pub fn layer_file_name(entry: EntryId, layer: ObjectId) -> Vec<u8> {
    format!("{:016x}.{layer}", entry.get()).into_bytes()
}

/// The parts of a layer's file name.
pub fn parse_layer_file_name(name: &[u8]) -> Option<(EntryId, ObjectId)> {
    let text = std::str::from_utf8(name).ok()?;
    let (entry, layer) = text.split_once('.')?;
    let entry = EntryId::from_raw(u64::from_str_radix(entry, 16).ok()?)?;
    let layer = ObjectId::from_hex(layer.as_bytes())?;
    (layer_file_name(entry, layer) == name).then_some((entry, layer))
}

/// The name in `.akasha/inodes` of a file that has several names.
pub fn inode_file_name(inode: EntryId) -> Vec<u8> {
    format!("{:016x}", inode.get()).into_bytes()
}

/// The name in `.akasha/inodes` of the stub that all names of a file are native links of.
pub fn stub_file_name(inode: EntryId) -> Vec<u8> {
    format!("{:016x}.stub", inode.get()).into_bytes()
}

/// The file that a name in `.akasha/inodes` belongs to.
pub fn parse_inode_name(name: &[u8]) -> Option<EntryId> {
    let text = std::str::from_utf8(name).ok()?;
    let hex = text.strip_suffix(".stub").unwrap_or(text);
    let inode = EntryId::from_raw(u64::from_str_radix(hex, 16).ok()?)?;
    (inode_file_name(inode) == hex.as_bytes()).then_some(inode)
}

/// A fresh name in `.akasha/tmp`: `t` and 32 hex digits.
pub fn temp_file_name(entropy: &dyn Entropy) -> Vec<u8> {
    format!("t{:016x}{:016x}", entropy.next_u64(), entropy.next_u64()).into_bytes()
}

/// Whether a name is one that [`temp_file_name`] makes.
pub fn is_temp_name(name: &[u8]) -> bool {
    name.len() == 33
        && name[0] == b't'
        && name[1..].iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod forged;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A plaintext of an entry, canonically padded.
    fn plain(version: u8, kind: u8, flags: u8, id: u64, replaces: u64, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![version, kind, flags];
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&replaces.to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes.push(PAD);
        bytes.resize(bytes.len().next_multiple_of(STEP), 0);
        bytes
    }

    fn named(name: &[u8]) -> Vec<u8> {
        plain(1, 1, 0, 2, 0, name)
    }

    #[track_caller]
    fn refused(bytes: &[u8], why: &'static str) {
        assert_eq!(parse_entry(bytes), Err(FormatError::Entry(why)));
    }

    #[test]
    fn names_of_every_length_are_read() {
        for len in 1..=255 {
            assert_eq!(parse_entry(&named(&vec![b'x'; len])).unwrap().name.len(), len);
        }
        // Bytes that look like padding are the name's if more of it follows.
        for name in [&b"\x80"[..], b"a\x80", b"\x80\x80\x80", b"...", b" "] {
            assert_eq!(parse_entry(&named(name)).unwrap().name, name);
        }
    }

    #[test]
    fn names_that_no_file_can_have() {
        for name in [&b""[..], b".", b"..", b"/", b"a/b", b"a\0b", &[b'x'; 256]] {
            refused(&named(name), "name");
        }
        refused(&plain(1, 6, 1, 2, 0, &[0; 8]), "name");
    }

    #[test]
    fn padding_that_is_not_canonical() {
        let mut more = named(b"a");
        more.resize(more.len() + STEP, 0);
        refused(&more, "padding");
        let mut none = named(b"a");
        none[FIXED_LEN + 1] = b'b';
        refused(&none, "padding");
        let mut behind = named(b"a");
        *behind.last_mut().unwrap() = 1;
        refused(&behind, "padding");
        refused(&[&named(b"a")[..=FIXED_LEN], &[0; 12]].concat(), "padding");
    }

    #[test]
    fn lengths_that_no_entry_has() {
        for len in (0..32).chain([33, 47]) {
            refused(&vec![0; len], "length");
        }
        refused(&[&named(b"a")[..], &[0]].concat(), "length");
    }

    #[test]
    fn versions_kinds_and_flags_that_are_unknown() {
        for version in [0, 2, 255] {
            refused(&plain(version, 1, 0, 2, 0, b"a"), "version");
        }
        for kind in [0, 8, 255] {
            refused(&plain(1, kind, 0, 2, 0, b"a"), "kind");
        }
        for flags in [1, 3, 4, 128] {
            refused(&plain(1, 1, flags, 2, 0, b"a"), "flags");
        }
        for flags in [0, 2, 4, 5] {
            refused(&plain(1, 7, flags, 2, 0, b"12345678a"), "flags");
        }
    }

    #[test]
    fn ids_that_no_entry_has() {
        for id in [0, 1, 1 << 63, u64::MAX] {
            refused(&plain(1, 1, 0, id, 0, b"a"), "id");
        }
        for replaces in [1 << 63, u64::MAX] {
            refused(&plain(1, 1, 0, 2, replaces, b"a"), "replaces");
        }
        let entry = parse_entry(&plain(1, 1, 0, (1 << 63) - 1, 3, b"a")).unwrap();
        assert_eq!(entry.replaces.map(EntryId::get), Some(3));
    }

    #[test]
    fn a_device_has_its_number_before_the_name() {
        let entry = parse_entry(&plain(1, 6, 1, 2, 0, b"\x01\0\0\0\0\0\0\0a")).unwrap();
        assert_eq!((entry.rdev, entry.name), (Some(1), b"a".to_vec()));
    }
}
