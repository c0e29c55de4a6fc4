//! What of a damaged file still authenticates, and where in the file it belongs.

use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicU64;

use crate::backing::{At, Backing, PublishedFile};
use crate::format::{
    EntryId, Form, HEADER_LEN, LayerKey, LengthClass, Parent, Role, SideRef, TAIL_LEN, Tail,
    TailTag, XattrMap, layer_file_name, parse_layer_file_name,
};

use super::super::check::{Event, Look, Opened, assemble, open_layer, read_pieces, says_nothing};
use super::super::core::{ControlDirs, VaultKeys};
use super::super::error::{Attempt, Result};
use super::super::sides::read_side;

/// So many bytes behind the end of a file are looked through for its end.
const GROWN_LEN_MAX: u64 = 64 << 10;

/// Progress is shown of the checks only.
static NOBODY_LOOKS: AtomicU64 = AtomicU64::new(0);

/// What was found in a damaged file.
pub(super) struct Salvaged {
    /// The size of the file, as far as it is known.
    pub size: u64,
    /// Bytes that authenticate.
    pub good: u64,
    /// What does not, in bytes, ascending.
    pub holes: Vec<Range<u64>>,
    /// How far the places of the bytes can be trusted, if not wholly.
    pub doubt: Option<String>,
}

/// What salvaging needs of the vault.
pub(super) struct Salvage<'a, B: Backing> {
    pub backing: &'a B,
    pub dirs: &'a ControlDirs<B>,
    pub vault: &'a VaultKeys,
}

/// A stack of layers, the top first; `None` is a lost one.
struct Stack<F> {
    layers: Vec<Option<Opened<F>>>,
    size: u64,
    doubt: Option<String>,
}

impl<B: Backing> Salvage<'_, B> {
    /// Gives every block of a file that authenticates to `sink`, with its offset. The file is what `open` opens, of the entry `id`
    /// if that is known. `None` if there is nothing at all to go by.
    ///
    /// # Errors
    /// Those of `sink`.
    pub fn file(
        &self,
        id: Option<EntryId>,
        open: &dyn Fn() -> io::Result<B::File>,
        sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<Option<Salvaged>> {
        let Some(stack) = self.stack(id, open) else { return Ok(None) };
        let pieces = assemble(self.vault, stack.size, &stack.layers);
        let (mut good, mut written) = (0, Ok(()));
        let (bad, _) = read_pieces(self.vault, stack.size, &stack.layers, &pieces, &mut |event| {
            if let Event::Good(at, plain) = event
                && !plain.is_empty()
                && written.is_ok()
            {
                good += plain.len() as u64;
                written = sink(at, plain);
            }
        });
        written?;
        Ok(Some(Salvaged { size: stack.size, good, holes: bad.ranges, doubt: stack.doubt }))
    }

    fn stack(
        &self,
        id: Option<EntryId>,
        open: &dyn Fn() -> io::Result<B::File>,
    ) -> Option<Stack<B::File>> {
        let sure = |top| Some(self.under(top, None));
        if let Ok(top) = open_layer(self.vault, id, open().ok()?)
            && top.tail.role == Role::Version
        {
            return sure(top);
        }
        if let Ok(top) = open_layer(self.vault, None, open().ok()?)
            && top.tail.role == Role::Version
        {
            let doubt = format!("it is the content of the entry {:016x}", top.tail.entry_id.get());
            return Some(self.under(top, Some(doubt)));
        }
        if let Some(top) = self.grown(open().ok()?) {
            return Some(self.under(top, Some("bytes were added behind its end".to_owned())));
        }
        let class = self.vault.geometry.classify(open().ok()?.stat().ok()?.len);
        if let LengthClass::Simple { .. } = class
            && let Some(top) = self.by_length(open().ok()?)
        {
            let doubt = "its end does not authenticate: its size is taken from its length";
            let size = top.tail.size;
            let stack = Stack { layers: vec![Some(top)], size, doubt: Some(doubt.to_owned()) };
            if self.has_a_slot(&stack) {
                return Some(stack);
            }
        }
        if let Some(older) = id.and_then(|id| self.newest_older(id)) {
            let doubt = format!("this is an older version of it, number {}", older.tail.commit);
            return Some(self.under(older, Some(doubt)));
        }
        let top = self.in_order(open().ok()?)?;
        let doubt = "its end is lost: its blocks are in the order in which they were written";
        let size = top.tail.size;
        Some(Stack { layers: vec![Some(top)], size, doubt: Some(doubt.to_owned()) })
    }

    /// Whether anything of a stack authenticates.
    fn has_a_slot(&self, stack: &Stack<B::File>) -> bool {
        let pieces = assemble(self.vault, stack.size, &stack.layers);
        let mut any = false;
        read_pieces(self.vault, stack.size, &stack.layers, &pieces, &mut |event| {
            any |= matches!(event, Event::Good(..));
        });
        any
    }

    /// A top and the layers that it names.
    fn under(&self, top: Opened<B::File>, mut doubt: Option<String>) -> Stack<B::File> {
        let size = top.tail.size;
        let parents = top.map.as_ref().map(|map| map.parents.clone()).unwrap_or_default();
        let mut layers = vec![Some(top)];
        for parent in parents {
            let layer = self.parent(&parent, &mut doubt);
            layers.push(layer);
        }
        Stack { layers, size, doubt }
    }

    /// The layer that a top names, if it is that one.
    fn parent(&self, parent: &Parent, doubt: &mut Option<String>) -> Option<Opened<B::File>> {
        let name = layer_file_name(parent.owner, parent.layer);
        let open = || self.backing.open(&self.dirs.layers, &name);
        let whole = open_layer(self.vault, Some(parent.owner), open().ok()?);
        if let Ok(layer) = whole
            && layer.key.id() == parent.layer
        {
            return (layer.tag == parent.tag).then_some(layer);
        }
        let layer = self.by_length(open().ok()?).filter(|layer| layer.key.id() == parent.layer)?;
        let why =
            "the end of an older layer does not authenticate: its form is taken from its length";
        doubt.get_or_insert_with(|| why.to_owned());
        Some(layer)
    }

    /// The newest whole version of `id` among the older layers.
    fn newest_older(&self, id: EntryId) -> Option<Opened<B::File>> {
        let listing = self.backing.list(&self.dirs.layers).ok()?;
        let of_it = listing
            .into_iter()
            .filter(|raw| parse_layer_file_name(&raw.name).is_some_and(|(owner, _)| owner == id));
        let opened = of_it.filter_map(|raw| {
            let file = self.backing.open(&self.dirs.layers, &raw.name).ok()?;
            open_layer(self.vault, Some(id), file).ok()
        });
        opened
            .filter(|layer| layer.tail.role == Role::Version)
            .max_by_key(|layer| layer.tail.commit)
    }

    /// A layer with something behind its end.
    fn grown(&self, file: B::File) -> Option<Opened<B::File>> {
        let key = self.key_of(&file)?;
        let len = file.stat().ok()?.len;
        let window = (GROWN_LEN_MAX + TAIL_LEN as u64).min(len.checked_sub(HEADER_LEN as u64)?);
        let mut bytes = vec![0; usize::try_from(window).ok()?];
        file.read_at(len - window, &mut bytes).ok()?;
        let (at, (tail, tag)) =
            bytes.windows(TAIL_LEN).enumerate().rev().find_map(|(at, sealed)| {
                let end = len - window + at as u64 + TAIL_LEN as u64;
                let opened = key.open_tail(sealed.try_into().ok()?, end).ok()?;
                Some((at, opened))
            })?;
        let map = match tail.form {
            Form::Simple => None,
            Form::Link => return None,
            Form::Mapped => {
                let map_at = (len - window + at as u64).checked_sub(tail.map_len)?;
                let mut sealed = vec![0; usize::try_from(tail.map_len).ok()?];
                file.read_at(map_at, &mut sealed).ok()?;
                Some(key.open_map(&tail, sealed).ok()?)
            }
        };
        Some(Opened { file, key, tail, tag, map })
    }

    /// A layer whose length is that of one in simple form.
    fn by_length(&self, file: B::File) -> Option<Opened<B::File>> {
        let LengthClass::Simple { size } = self.vault.geometry.classify(file.stat().ok()?.len)
        else {
            return None;
        };
        self.assumed(file, size)
    }

    /// A layer of which nothing but the header is known: as many whole slots as its length has room for.
    fn in_order(&self, file: B::File) -> Option<Opened<B::File>> {
        let geometry = self.vault.geometry;
        let len = file.stat().ok()?.len.checked_sub(HEADER_LEN as u64)?;
        let size = len / geometry.slot_len() * geometry.block_len();
        self.assumed(file, size)
    }

    /// A layer of simple form, as if its tail said so.
    fn assumed(&self, file: B::File, size: u64) -> Option<Opened<B::File>> {
        let geometry = self.vault.geometry;
        let key = self.key_of(&file)?;
        let slots = geometry.block_count(size);
        let last = if slots == 0 { 0 } else { geometry.last_block_len(size) };
        let tail = Tail {
            form: Form::Simple,
            role: Role::Version,
            last_slot_len: u32::try_from(last).ok()?,
            entry_id: EntryId::ROOT,
            commit: 0,
            size,
            slots,
            map_len: 0,
            map_pages: 0,
            parents: 0,
            home: EntryId::ROOT,
            stamp: 0,
            previous: TailTag::default(),
            birth: 0,
            mode: 0,
            uid: 0,
            gid: 0,
        };
        Some(Opened { file, key, tail, tag: TailTag::default(), map: None })
    }

    fn key_of(&self, file: &B::File) -> Option<LayerKey> {
        let mut header = [0; HEADER_LEN];
        file.read_at(0, &mut header).ok()?;
        LayerKey::open(&self.vault.keys, self.vault.cipher, self.vault.geometry, &header).ok()
    }

    /// Whether all of a nameless file authenticates, as the file that its end says; which one.
    pub fn whole_id(&self, dir: &B::Dir, name: &[u8]) -> Result<Option<EntryId>> {
        let open = || self.backing.open(dir, name);
        let Ok(file) = open() else { return Ok(None) };
        let Ok(top) = open_layer(self.vault, None, file) else { return Ok(None) };
        if top.tail.role != Role::Version {
            return Ok(None);
        }
        let id = top.tail.entry_id;
        let read = self.file(Some(id), &open, &mut |_, _| Ok(()));
        Ok(read?.filter(|read| read.holes.is_empty() && read.doubt.is_none()).map(|_| id))
    }

    /// The directory in which a file was at its last commit, as its end says.
    pub fn home_of(&self, dir: &B::Dir, name: &[u8]) -> Option<EntryId> {
        let file = self.backing.open(dir, name).attempt("open a file").ok()?;
        Some(open_layer(self.vault, None, file).ok()?.tail.home)
    }

    fn look(&self) -> Look<'_, B> {
        Look {
            backing: self.backing,
            vault: self.vault,
            layers: Some(&self.dirs.layers),
            sides: Some(&self.dirs.xattrs),
            read_bytes: &NOBODY_LOOKS,
        }
    }

    /// What is wrong with an attribute, if anything is.
    pub fn bad_attribute(
        &self,
        dir: &B::Dir,
        at: At<'_>,
        id: EntryId,
        key: &[u8],
    ) -> Option<String> {
        match self.look().sealed_attribute(dir, at, id, key) {
            Ok(why) => why,
            Err(error) if says_nothing(&error) => None,
            Err(error) => Some(format!("it cannot be read: {error}")),
        }
    }

    /// The attributes in the side object that `reference` is of, if it can be read.
    pub fn side(&self, id: EntryId, reference: &[u8]) -> XattrMap {
        let side = SideRef::from_bytes(reference).ok();
        let read = side.and_then(|side| {
            read_side(self.backing, &self.dirs.xattrs, &self.vault.keys, id, side).ok()
        });
        read.unwrap_or_default()
    }
}
