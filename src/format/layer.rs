//! A layer's bytes: header, slots, map, tail (FORMAT.md, "Layer").
//!
//! The rule that everything rests on: an object id is drawn here, at random, and under its key each slot, map page
//! and the tail are sealed once, ever. [`LayerSealer`] hands slots out once and is consumed by the tail.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::crypto::{Cipher, Domain, KeyTree, ObjectClass, ObjectKey, TAG_LEN, UsedIndexes};
use crate::entropy::Entropy;

use super::FormatError;
use super::geometry::{Geometry, HEADER_LEN, LengthClass, SLOTS_MAX, TAIL_LEN, sealed_map_len};
use super::ids::{EntryId, ObjectId, TailTag};
use super::map::{LayerMap, PAGE_LEN, array, u16_at, u32_at, u64_at};

const MAGIC: [u8; 8] = *b"akasha\r\n";
const FORMAT: u16 = 1;
pub(super) const KIND_LAYER: u8 = 1;
pub(super) const KIND_STUB: u8 = 2;
pub(super) const TAIL_PLAIN_LEN: usize = TAIL_LEN - TAG_LEN;

/// How a layer's blocks are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Form {
    /// Block b is in slot b, and nothing else is there.
    Simple = 1,
    /// A map says what the layer holds and which layers lie below.
    Mapped = 2,
    /// A stub that names another object (hard links).
    Link = 3,
}

/// What a layer is to its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// A version of the file: may stand in the tree.
    Version = 1,
    /// A base made by folding: only ever below a version.
    Base = 2,
    /// A version of a file with several hard links.
    Inode = 3,
}

/// What a verified tail says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// How blocks are found.
    pub form: Form,
    /// What the layer is to its file.
    pub role: Role,
    /// Plaintext bytes in the highest slot; 0 if there are no slots.
    pub last_slot_len: u32,
    /// The file.
    pub entry_id: EntryId,
    /// Counts the versions of the file.
    pub commit: u64,
    /// Plaintext size in bytes.
    pub size: u64,
    /// Number of slots.
    pub slots: u64,
    /// Sealed length of the map in bytes.
    pub map_len: u64,
    /// Pages of the map.
    pub map_pages: u32,
    /// Parents in the map.
    pub parents: u32,
    /// The directory that the file was in.
    pub home: EntryId,
    /// Hybrid clock in microseconds.
    pub stamp: u64,
    /// The tail tag of the version before, or zeros.
    pub previous: TailTag,
    /// When the file was made, in microseconds since 1970.
    pub birth: u64,
    /// Advisory permission bits.
    pub mode: u32,
    /// Advisory owner.
    pub uid: u32,
    /// Advisory group.
    pub gid: u32,
}

/// What the caller of [`LayerSealer::finish`] knows.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // As in `Tail`.
pub struct TailFields {
    pub form: Form,
    pub role: Role,
    pub entry_id: EntryId,
    pub commit: u64,
    pub size: u64,
    pub home: EntryId,
    pub stamp: u64,
    pub previous: TailTag,
    pub birth: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Header of an object (FORMAT.md): all of it enters the key.
pub(super) fn header(
    kind: u8,
    cipher: Cipher,
    geometry: Geometry,
    epoch: u32,
    id: ObjectId,
) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    header[10] = kind;
    header[11] = cipher as u8;
    header[12] = geometry.block_log2();
    header[16..20].copy_from_slice(&epoch.to_le_bytes());
    header[24..56].copy_from_slice(&id.0);
    header
}

/// Opens what one object id sealed.
pub struct LayerKey {
    id: ObjectId,
    epoch: u32,
    geometry: Geometry,
    key: ObjectKey,
}

impl LayerKey {
    /// The key of the layer with this header.
    ///
    /// # Errors
    /// [`FormatError::Header`] for everything that is not a layer of this vault's format, cipher and block length.
    pub fn open(
        keys: &KeyTree,
        cipher: Cipher,
        geometry: Geometry,
        bytes: &[u8; HEADER_LEN],
    ) -> Result<LayerKey, FormatError> {
        if bytes[..8] != MAGIC {
            return Err(FormatError::Header("no layer of akasha"));
        }
        if u16_at(bytes, 8) != FORMAT {
            return Err(FormatError::Header("another format version"));
        }
        let id = ObjectId(array(bytes, 24));
        // Every other byte has one allowed value: compare with what we would write.
        if *bytes != header(KIND_LAYER, cipher, geometry, keys.epoch(), id) {
            return Err(FormatError::Header("not this vault's kind, cipher, block or epoch"));
        }
        Ok(Self::new(keys, cipher, geometry, id, bytes))
    }

    fn new(
        keys: &KeyTree,
        cipher: Cipher,
        geometry: Geometry,
        id: ObjectId,
        bytes: &[u8; HEADER_LEN],
    ) -> LayerKey {
        let key = keys.object_key(ObjectClass::Content, cipher, bytes);
        LayerKey { id, epoch: keys.epoch(), geometry, key }
    }

    /// The object id.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Whether a header names this layer. Says nothing of what follows it.
    pub fn is_of(&self, header: &[u8; HEADER_LEN]) -> bool {
        header[24..56] == self.id.0
    }

    /// The epoch of the key.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Opens a slot in place: `buffer` is its ciphertext and tag; returns the plaintext's length.
    ///
    /// # Errors
    /// [`FormatError::Auth`].
    pub fn open_slot(&self, slot: u64, buffer: &mut [u8]) -> Result<usize, FormatError> {
        self.key.open(Domain::Slot, slot, b"", buffer).map_err(|_| FormatError::Auth("slot"))
    }

    /// Opens and checks the tail of a layer whose file is `backing_len` bytes long.
    ///
    /// # Errors
    /// [`FormatError::Auth`], [`FormatError::Tail`].
    pub fn open_tail(
        &self,
        sealed: &[u8; TAIL_LEN],
        backing_len: u64,
    ) -> Result<(Tail, TailTag), FormatError> {
        let mut bytes = *sealed;
        self.key.open(Domain::Tail, 0, b"", &mut bytes).map_err(|_| FormatError::Auth("tail"))?;
        let tail = Tail::parse(&bytes[..TAIL_PLAIN_LEN])?;
        tail.check(self.geometry, backing_len)?;
        Ok((tail, TailTag(array(sealed, TAIL_PLAIN_LEN))))
    }

    /// Opens and checks the map of a layer with this tail.
    ///
    /// # Errors
    /// [`FormatError::Auth`], [`FormatError::Map`].
    pub fn open_map(&self, tail: &Tail, mut sealed: Vec<u8>) -> Result<LayerMap, FormatError> {
        if sealed.len() as u64 != tail.map_len {
            return Err(FormatError::Map("length"));
        }
        let mut plain = Vec::with_capacity(sealed.len());
        for (page, bytes) in sealed.chunks_mut(PAGE_LEN + TAG_LEN).enumerate() {
            let len = self
                .key
                .open(Domain::MapPage, page as u64, b"", bytes)
                .map_err(|_| FormatError::Auth("map"))?;
            plain.extend_from_slice(&bytes[..len]);
        }
        let blocks = self.geometry.block_count(tail.size);
        let map = LayerMap::parse(&plain, tail.parents, tail.slots, blocks)?;
        self.check_parents(tail.entry_id, tail.commit, &map)?;
        Ok(map)
    }

    /// What of a map depends on whose it is: parents are older versions of the same file, newest first.
    fn check_parents(&self, file: EntryId, commit: u64, map: &LayerMap) -> Result<(), FormatError> {
        let mut seen = HashSet::from([self.id]);
        let mut newer = commit;
        for parent in &map.parents {
            if parent.owner != file {
                return Err(FormatError::Map("a parent of another file"));
            }
            if parent.epoch != self.epoch {
                return Err(FormatError::Map("a parent of another epoch"));
            }
            if !seen.insert(parent.layer) {
                return Err(FormatError::Map("a parent that is there twice"));
            }
            if parent.commit >= newer {
                return Err(FormatError::Map("parents out of order"));
            }
            newer = parent.commit;
        }
        Ok(())
    }
}

impl Tail {
    pub(super) fn encode(&self) -> [u8; TAIL_PLAIN_LEN] {
        let mut bytes = [0; TAIL_PLAIN_LEN];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &[self.form as u8, self.role as u8]);
        put(4, &self.last_slot_len.to_le_bytes());
        put(8, &self.entry_id.get().to_le_bytes());
        put(16, &self.commit.to_le_bytes());
        put(24, &self.size.to_le_bytes());
        put(32, &self.slots.to_le_bytes());
        put(40, &self.map_len.to_le_bytes());
        put(48, &self.map_pages.to_le_bytes());
        put(52, &self.parents.to_le_bytes());
        put(56, &self.home.get().to_le_bytes());
        put(72, &self.stamp.to_le_bytes());
        put(80, &self.previous.0);
        put(136, &self.birth.to_le_bytes());
        put(160, &self.mode.to_le_bytes());
        put(164, &self.uid.to_le_bytes());
        put(168, &self.gid.to_le_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Tail, FormatError> {
        let form = [Form::Simple, Form::Mapped, Form::Link]
            .into_iter()
            .find(|form| *form as u8 == bytes[0])
            .ok_or(FormatError::Tail("form"))?;
        let role = [Role::Version, Role::Base, Role::Inode]
            .into_iter()
            .find(|role| *role as u8 == bytes[1])
            .ok_or(FormatError::Tail("role"))?;
        let id =
            |at: usize, what| EntryId::from_raw(u64_at(bytes, at)).ok_or(FormatError::Tail(what));
        let tail = Tail {
            form,
            role,
            last_slot_len: u32_at(bytes, 4),
            entry_id: id(8, "entry id")?,
            commit: u64_at(bytes, 16),
            size: u64_at(bytes, 24),
            slots: u64_at(bytes, 32),
            map_len: u64_at(bytes, 40),
            map_pages: u32_at(bytes, 48),
            parents: u32_at(bytes, 52),
            home: id(56, "home")?,
            stamp: u64_at(bytes, 72),
            previous: TailTag(array(bytes, 80)),
            birth: u64_at(bytes, 136),
            mode: u32_at(bytes, 160),
            uid: u32_at(bytes, 164),
            gid: u32_at(bytes, 168),
        };
        // Everything reserved is zero: the tail is what we would write, or it is not ours.
        if tail.encode() != *bytes {
            return Err(FormatError::Tail("reserved bytes or unknown flags"));
        }
        Ok(tail)
    }

    /// Whether the fields agree with each other and with the file's length.
    pub(super) fn check(&self, geometry: Geometry, backing_len: u64) -> Result<(), FormatError> {
        let block_len = geometry.block_len();
        let last = u64::from(self.last_slot_len);
        let sane = self.slots <= SLOTS_MAX
            && self.size <= i64::MAX.cast_unsigned()
            && self.map_len <= 1 << 40
            && match self.slots {
                0 => last == 0,
                _ => (1..=block_len).contains(&last),
            };
        if !sane {
            return Err(FormatError::Tail("sizes out of bounds"));
        }
        let slots_len = match self.slots {
            0 => 0,
            slots => (slots - 1) * geometry.slot_len() + last + TAG_LEN as u64,
        };
        if HEADER_LEN as u64 + slots_len + self.map_len + TAIL_LEN as u64 != backing_len {
            return Err(FormatError::Tail("length of the file"));
        }
        let agrees = match self.form {
            Form::Simple => {
                geometry.classify(backing_len) == LengthClass::Simple { size: self.size }
                    && self.slots == geometry.block_count(self.size)
                    && last == geometry.last_block_len(self.size)
                    && self.map_len == 0
                    && self.map_pages == 0
                    && self.parents == 0
            }
            Form::Mapped => {
                let pages = u64::from(self.map_pages);
                let plain = self.map_len.checked_sub(pages * TAG_LEN as u64);
                geometry.classify(backing_len) == LengthClass::Mapped
                    && (self.slots == 0 || last == block_len)
                    && plain.is_some_and(|plain| {
                        plain.div_ceil(PAGE_LEN as u64) == pages
                            && sealed_map_len(plain, PAGE_LEN as u64) == self.map_len
                    })
            }
            // Stubs are another kind of object.
            Form::Link => false,
        };
        if agrees { Ok(()) } else { Err(FormatError::Tail("form and lengths disagree")) }
    }
}

/// Slots of a layer that nobody else has or will have. Sealing consumes them.
///
/// ```compile_fail
/// fn twice(run: akasha::format::SlotRun) -> (akasha::format::SlotRun, akasha::format::SlotRun) {
///     (run.clone(), run)
/// }
/// ```
#[derive(Debug)]
pub struct SlotRun {
    /// The layer whose slots they are.
    layer: ObjectId,
    first: u64,
    count: u64,
}

impl SlotRun {
    /// The first slot.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Number of slots.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first `count` slots, and the rest if there is one.
    ///
    /// # Panics
    /// If the run is shorter.
    pub fn split(self, count: u64) -> (SlotRun, Option<SlotRun>) {
        assert!((1..=self.count).contains(&count), "a run is split inside itself");
        let SlotRun { layer, first, count: all } = self;
        let rest = SlotRun { layer, first: first + count, count: all - count };
        (SlotRun { layer, first, count }, (rest.count > 0).then_some(rest))
    }
}

/// Seals a new layer, under an id that it draws itself. Many threads may seal slots at once.
pub struct LayerSealer {
    header: [u8; HEADER_LEN],
    key: Arc<LayerKey>,
    /// Every slot that was handed out.
    burnt: Mutex<UsedIndexes>,
}

/// What [`LayerSealer::finish`] leaves.
pub struct SealedEnd {
    /// Sealed map and tail; they go right behind the last slot.
    pub bytes: Vec<u8>,
    /// The tail's tag.
    pub tag: TailTag,
    /// The tail.
    pub tail: Tail,
}

impl LayerSealer {
    /// A new layer.
    pub fn new(
        keys: &KeyTree,
        cipher: Cipher,
        geometry: Geometry,
        entropy: &dyn Entropy,
    ) -> LayerSealer {
        let id = ObjectId::random(entropy);
        let header = header(KIND_LAYER, cipher, geometry, keys.epoch(), id);
        let key = Arc::new(LayerKey::new(keys, cipher, geometry, id, &header));
        LayerSealer { header, key, burnt: Mutex::new(UsedIndexes::default()) }
    }

    /// The header's bytes.
    pub fn header(&self) -> [u8; HEADER_LEN] {
        self.header
    }

    /// What opens the layer.
    pub fn key(&self) -> &Arc<LayerKey> {
        &self.key
    }

    /// `count` slots behind every slot that was ever reserved.
    ///
    /// # Panics
    /// Beyond the 2^32 slots of a layer: a single edit would have to write 16 TiB or more.
    pub fn reserve(&self, count: u64) -> SlotRun {
        let mut burnt = self.burnt.lock();
        let first = burnt.end();
        let fits = first.checked_add(count).is_some_and(|end| end <= SLOTS_MAX);
        assert!(fits && burnt.take(first, count), "a layer has at most 2^32 slots");
        SlotRun { layer: self.key.id, first, count }
    }

    /// Exactly these slots; `None` if any of them was reserved before, or is beyond a layer's 2^32.
    pub fn reserve_at(&self, first: u64, count: u64) -> Option<SlotRun> {
        let fits = first.checked_add(count).is_some_and(|end| end <= SLOTS_MAX);
        let taken = fits && self.burnt.lock().take(first, count);
        taken.then_some(SlotRun { layer: self.key.id, first, count })
    }

    /// Whether `slot` was never reserved.
    pub fn is_free(&self, slot: u64) -> bool {
        self.burnt.lock().is_free(slot, 1)
    }

    /// The highest slot ever reserved, plus 1.
    pub fn slots_reserved(&self) -> u64 {
        self.burnt.lock().end()
    }

    /// Seals `plain` (one block per slot, the last may be short) into `out`: slot after slot. Taking the run makes
    /// sure that nobody seals into it again.
    ///
    /// # Panics
    /// If the lengths do not fit the run, or the run is another layer's.
    #[allow(clippy::needless_pass_by_value)]
    pub fn seal(&self, run: SlotRun, plain: &[u8], out: &mut [u8]) {
        let block_len = usize::try_from(self.key.geometry.block_len()).expect("at most 1 MiB");
        let slots = plain.len().div_ceil(block_len);
        let SlotRun { layer, first, count } = run;
        assert!(slots as u64 == count && out.len() == plain.len() + slots * TAG_LEN);
        assert!(layer == self.key.id, "slots of another layer");
        let places = out.chunks_mut(block_len + TAG_LEN);
        for (slot, (text, place)) in (first..).zip(plain.chunks(block_len).zip(places)) {
            place[..text.len()].copy_from_slice(text);
            self.key.key.seal(Domain::Slot, slot, b"", place);
        }
    }

    /// Seals map and tail. `last_slot_len` is the plaintext length in the highest slot (0 without slots);
    /// a simple layer has no map.
    ///
    /// # Panics
    /// If what it is told contradicts the format: map and tail are parsed again before they are sealed, since a top
    /// that cannot be opened would cost the file.
    pub fn finish(
        self,
        fields: &TailFields,
        last_slot_len: u32,
        map: Option<&LayerMap>,
    ) -> SealedEnd {
        let geometry = self.key.geometry;
        let slots = self.burnt.into_inner().end();
        let mut bytes = Vec::new();
        let (mut map_pages, mut parents) = (0, 0);
        if let Some(map) = map {
            parents = u32::try_from(map.parents.len()).expect("few parents");
            let mut plain = map.encode();
            let padding = geometry.map_padding(plain.len() as u64, PAGE_LEN as u64);
            plain.resize(plain.len() + usize::try_from(padding).expect("two slots at most"), 0);
            let blocks = geometry.block_count(fields.size);
            let parsed = LayerMap::parse(&plain, parents, slots, blocks);
            assert!(parsed.as_ref() == Ok(map), "what is sealed can be opened: {parsed:?}");
            let parents_fit = self.key.check_parents(fields.entry_id, fields.commit, map);
            parents_fit.expect("what is sealed can be opened");
            for (page, text) in plain.chunks(PAGE_LEN).enumerate() {
                let at = bytes.len();
                bytes.extend_from_slice(text);
                bytes.resize(bytes.len() + TAG_LEN, 0);
                self.key.key.seal(Domain::MapPage, page as u64, b"", &mut bytes[at..]);
                map_pages += 1;
            }
        }
        let tail = Tail {
            form: fields.form,
            role: fields.role,
            last_slot_len,
            entry_id: fields.entry_id,
            commit: fields.commit,
            size: fields.size,
            slots,
            map_len: bytes.len() as u64,
            map_pages,
            parents,
            home: fields.home,
            stamp: fields.stamp,
            previous: fields.previous,
            birth: fields.birth,
            mode: fields.mode,
            uid: fields.uid,
            gid: fields.gid,
        };
        let slots_len = match slots {
            0 => 0,
            slots => (slots - 1) * geometry.slot_len() + u64::from(last_slot_len) + TAG_LEN as u64,
        };
        let len = HEADER_LEN as u64 + slots_len + tail.map_len + TAIL_LEN as u64;
        tail.check(geometry, len).expect("what is sealed can be opened");
        let plain = tail.encode();
        assert!(Tail::parse(&plain).as_ref() == Ok(&tail), "what is sealed can be opened");
        let at = bytes.len();
        bytes.extend_from_slice(&plain);
        bytes.resize(at + TAIL_LEN, 0);
        self.key.key.seal(Domain::Tail, 0, b"", &mut bytes[at..]);
        let tag = TailTag(array(&bytes, at + TAIL_PLAIN_LEN));
        SealedEnd { bytes, tag, tail }
    }
}

#[cfg(test)]
mod forged;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LAST_PLACE: u64 = 1 << 63;

    fn geometry() -> Geometry {
        Geometry::new(12).unwrap()
    }

    /// The tail of a simple layer of 5000 bytes.
    fn simple() -> Tail {
        Tail {
            form: Form::Simple,
            role: Role::Version,
            last_slot_len: 904,
            entry_id: EntryId::from_raw(7).unwrap(),
            commit: 1,
            size: 5000,
            slots: 2,
            map_len: 0,
            map_pages: 0,
            parents: 0,
            home: EntryId::ROOT,
            stamp: 3,
            previous: TailTag::default(),
            birth: 4,
            mode: 0o644,
            uid: 5,
            gid: 6,
        }
    }

    /// The tail of a mapped layer with two slots.
    fn mapped() -> Tail {
        Tail {
            form: Form::Mapped,
            last_slot_len: 4096,
            size: 100_000,
            map_len: 4120,
            map_pages: 1,
            ..simple()
        }
    }

    /// The length of a layer that has what its tail says.
    fn len_of(tail: &Tail) -> u64 {
        let slots = match tail.slots {
            0 => 0,
            slots => (slots - 1) * 4112 + u64::from(tail.last_slot_len) + 16,
        };
        320 + slots + tail.map_len
    }

    fn check(tail: &Tail) -> Result<(), FormatError> {
        tail.check(geometry(), len_of(tail))
    }

    #[test]
    fn tails_are_read_as_they_were_written() {
        for tail in [simple(), mapped()] {
            assert_eq!(Tail::parse(&tail.encode()), Ok(tail.clone()));
            assert_eq!(check(&tail), Ok(()));
        }
    }

    #[test]
    fn reserved_bytes_of_a_tail_are_zero() {
        let reserved = [2..4, 64..72, 96..136, 144..160, 172..240];
        for at in reserved.into_iter().flatten() {
            for bit in [1, 128] {
                let mut bytes = simple().encode();
                bytes[at] |= bit;
                assert!(Tail::parse(&bytes).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn forms_roles_and_ids_that_are_unknown() {
        for (at, allowed) in [(0, 1..=3), (1, 1..=3)] {
            for value in (0..=255).filter(|value| !allowed.contains(value)) {
                let mut bytes = simple().encode();
                bytes[at] = value;
                assert!(Tail::parse(&bytes).is_err(), "{value} at {at}");
            }
        }
        for at in [8, 56] {
            for id in [0, LAST_PLACE, u64::MAX] {
                let mut bytes = simple().encode();
                bytes[at..at + 8].copy_from_slice(&id.to_le_bytes());
                assert!(Tail::parse(&bytes).is_err(), "{id} at {at}");
            }
        }
    }

    #[test]
    fn the_length_is_exact() {
        for tail in [simple(), mapped()] {
            let len = len_of(&tail);
            for other in [0, 319, 320, len - 4112, len - 1, len + 1, len + 4112, u64::MAX] {
                let error = FormatError::Tail("length of the file");
                assert_eq!(tail.check(geometry(), other), Err(error), "{other}");
            }
        }
    }

    #[test]
    fn a_simple_tail_contradicts_itself() {
        for bad in [
            Tail { size: 4999, ..simple() },
            Tail { size: 5001, ..simple() },
            Tail { size: 904, ..simple() },
            Tail { size: 5000 + 4096, ..simple() },
            Tail { size: 0, ..simple() },
            Tail { slots: 1, ..simple() },
            Tail { slots: 3, ..simple() },
            Tail { slots: 0, last_slot_len: 0, ..simple() },
            Tail { last_slot_len: 903, ..simple() },
            Tail { map_pages: 1, ..simple() },
            Tail { parents: 1, ..simple() },
            Tail { map_len: 16, ..simple() },
            Tail { map_len: 4112, ..simple() },
            Tail { map_len: 4112, map_pages: 1, ..simple() },
            Tail { form: Form::Mapped, ..simple() },
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_mapped_tail_contradicts_itself() {
        for bad in [
            // Not the length class of mapped layers.
            Tail { map_len: 4119, ..mapped() },
            Tail { map_len: 4121, ..mapped() },
            Tail { map_len: 4128, ..mapped() },
            Tail { map_len: 0, map_pages: 0, ..mapped() },
            // No map has this length in this number of pages.
            Tail { map_len: 8, ..mapped() },
            Tail { map_len: 8, map_pages: 0, ..mapped() },
            Tail { map_pages: 0, ..mapped() },
            Tail { map_pages: 2, ..mapped() },
            Tail { map_pages: u32::MAX, ..mapped() },
            // A short last slot.
            Tail { last_slot_len: 4095, ..mapped() },
            Tail { last_slot_len: 4096 - 16, map_len: 4120 + 16, ..mapped() },
            Tail { form: Form::Simple, ..mapped() },
            Tail { form: Form::Link, ..mapped() },
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
        let slotless = Tail { slots: 0, last_slot_len: 0, ..mapped() };
        assert_eq!(check(&slotless), Ok(()), "nothing but holes");
    }

    #[test]
    fn numbers_out_of_bounds_are_refused_before_they_are_added() {
        let bounds = FormatError::Tail("sizes out of bounds");
        for bad in [
            Tail { size: LAST_PLACE, ..mapped() },
            Tail { size: u64::MAX, ..mapped() },
            Tail { slots: SLOTS_MAX + 1, ..mapped() },
            Tail { slots: u64::MAX, ..mapped() },
            Tail { map_len: (1 << 40) + 1, ..mapped() },
            Tail { map_len: u64::MAX, ..mapped() },
            Tail { last_slot_len: 0, ..mapped() },
            Tail { last_slot_len: 4097, ..mapped() },
            Tail { last_slot_len: u32::MAX, ..mapped() },
            Tail { slots: 0, ..mapped() },
        ] {
            assert_eq!(bad.check(geometry(), 12_664), Err(bounds), "{bad:?}");
        }
    }

    #[test]
    fn a_header_has_no_free_byte_but_its_id() {
        let id = ObjectId([9; 32]);
        let bytes = header(KIND_LAYER, Cipher::Aes256Gcm, geometry(), 0, id);
        let master = crate::crypto::MasterKey::random(&crate::entropy::SeededEntropy::new(1));
        let keys = KeyTree::derive(&master, &[1; 16], 0);
        let open =
            |bytes: &[u8; HEADER_LEN]| LayerKey::open(&keys, Cipher::Aes256Gcm, geometry(), bytes);
        assert_eq!(open(&bytes).unwrap().id(), id);
        for at in (0..24).chain(56..64) {
            for bit in 0..8 {
                let mut bad = bytes;
                bad[at] ^= 1 << bit;
                assert!(matches!(open(&bad), Err(FormatError::Header(_))), "byte {at}");
            }
        }
    }
}
