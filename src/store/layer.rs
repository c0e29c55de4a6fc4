//! A published layer: opened by its place, verified once, then read from a mapping.
//!
//! What is remembered is the key, and a layer id admits one ciphertext per slot: when the file is opened again after
//! its mapping was given back, whatever stands there can only authenticate if it is the same layer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::backing::{Backing, Mapping, PublishedFile};
use crate::format::{
    EntryId, Form, HEADER_LEN, LayerKey, LayerMap, LengthClass, ObjectId, TAIL_LEN, Tail, TailTag,
    layer_file_name,
};

use super::core::Core;
use super::error::{Attempt, Result, StoreError};
use super::node::Node;
use super::residents::Evictable;

/// Layers up to this backing length are read whole instead of mapped: one read costs less than
/// mapping and unmapping.
const INLINE_LEN: u64 = 64 << 10;

type MappingOf<B> = <<B as Backing>::File as PublishedFile>::Mapping;

/// Where a layer's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    /// It is a top: wherever the file's entry is.
    Top,
    /// `.akasha/layers/<entry>.<name>`
    Older { entry: EntryId, name: ObjectId },
}

/// The bytes of an open layer.
pub(crate) enum Content<B: Backing> {
    Inline(Arc<[u8]>),
    Mapped(Arc<MappingOf<B>>),
    /// Neither read whole nor mapped (no room in the table of mappings): read from the descriptor.
    Plain(Arc<B::File>),
}

impl<B: Backing> Clone for Content<B> {
    fn clone(&self) -> Self {
        match self {
            Content::Inline(bytes) => Content::Inline(Arc::clone(bytes)),
            Content::Mapped(map) => Content::Mapped(Arc::clone(map)),
            Content::Plain(file) => Content::Plain(Arc::clone(file)),
        }
    }
}

impl<B: Backing> Content<B> {
    /// Copies ciphertext out, once; what is authenticated is the copy.
    pub fn copy_out(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        match self {
            Content::Inline(bytes) => {
                let start = usize::try_from(offset).ok();
                let part = start.and_then(|s| bytes.get(s..s.checked_add(out.len())?));
                let part =
                    part.ok_or_else(|| StoreError::broken("a layer", "shorter than it says"))?;
                out.copy_from_slice(part);
                Ok(())
            }
            Content::Mapped(map) => map.copy_out(offset, out).attempt("read a mapped layer"),
            Content::Plain(file) => file.read_at(offset, out).attempt("read a layer"),
        }
    }

    fn resident(&self, offset: u64, len: u64) -> bool {
        match self {
            Content::Inline(_) => true,
            Content::Mapped(map) => map.resident(offset, len),
            Content::Plain(_) => false,
        }
    }
}

/// A layer whose tail was verified.
pub(crate) struct Layer<B: Backing> {
    pub key: Arc<LayerKey>,
    pub tail: Tail,
    pub tag: TailTag,
    len: u64,
    /// Changes when a top becomes an older layer.
    spot: Mutex<Spot>,
    content: RwLock<Option<Content<B>>>,
    used: AtomicBool,
}

/// A layer and, in mapped form, its map.
pub(crate) struct Opened<B: Backing> {
    pub layer: Arc<Layer<B>>,
    pub map: Option<LayerMap>,
}

impl<B: Backing> Layer<B> {
    /// A layer that this process just sealed.
    pub fn sealed(key: Arc<LayerKey>, tail: Tail, tag: TailTag, len: u64) -> Arc<Self> {
        Arc::new(Layer {
            key,
            tail,
            tag,
            len,
            spot: Mutex::new(Spot::Top),
            content: RwLock::new(None),
            used: AtomicBool::new(false),
        })
    }

    /// Opens and verifies the layer at `spot` of `node`.
    pub fn open(core: &Core<B>, node: &Node<B>, spot: Spot) -> Result<Opened<B>> {
        let file = Self::open_file(core, node, spot)?;
        let what = || describe(node, spot);
        let len = file.stat().attempt("stat a layer")?.len;
        let class = core.geometry.classify(len);
        if matches!(class, LengthClass::Invalid | LengthClass::Stub) {
            return Err(StoreError::broken(what(), format!("no layer has {len} bytes")));
        }
        let content = Self::content_of(file, len)?;
        let mut header = [0; HEADER_LEN];
        content.copy_out(0, &mut header)?;
        let key = LayerKey::open(&core.keys, core.cipher, core.geometry, &header)
            .map_err(|e| StoreError::damaged(what(), &e))?;
        let mut sealed_tail = [0; TAIL_LEN];
        content.copy_out(len - TAIL_LEN as u64, &mut sealed_tail)?;
        let (tail, tag) =
            key.open_tail(&sealed_tail, len).map_err(|e| StoreError::damaged(what(), &e))?;
        if tail.entry_id != node.id() {
            return Err(StoreError::broken(what(), "holds another entry's content"));
        }
        core.see_stamp(tail.stamp);
        let map = match tail.form {
            Form::Simple => None,
            Form::Link => {
                return Err(StoreError::broken(what(), "a link where a layer was expected"));
            }
            Form::Mapped => {
                let map_len = usize::try_from(tail.map_len)
                    .map_err(|_| StoreError::broken(what(), "map too long"))?;
                let mut sealed = vec![0; map_len];
                content.copy_out(len - TAIL_LEN as u64 - tail.map_len, &mut sealed)?;
                Some(key.open_map(&tail, sealed).map_err(|e| StoreError::damaged(what(), &e))?)
            }
        };
        let layer = Arc::new(Layer {
            key: Arc::new(key),
            tail,
            tag,
            len,
            spot: Mutex::new(spot),
            content: RwLock::new(Some(content)),
            used: AtomicBool::new(true),
        });
        core.open_layers.admit(&layer);
        Ok(Opened { layer, map })
    }

    /// Where it is now.
    pub fn spot(&self) -> Spot {
        *self.spot.lock()
    }

    /// It became an older layer.
    pub fn set_spot(&self, spot: Spot) {
        *self.spot.lock() = spot;
    }

    /// The layer's bytes, opened again if they were given back.
    pub fn content(self: &Arc<Self>, core: &Core<B>, node: &Node<B>) -> Result<Content<B>> {
        self.used.store(true, Ordering::Relaxed);
        if let Some(content) = &*self.content.read() {
            return Ok(content.clone());
        }
        let file = Self::open_file(core, node, self.spot())?;
        let len = file.stat().attempt("stat a layer")?.len;
        if len != self.len {
            return Err(StoreError::broken(describe(node, self.spot()), "its length changed"));
        }
        let content = Self::content_of(file, len)?;
        let mut header = [0; HEADER_LEN];
        content.copy_out(0, &mut header)?;
        // Perhaps its successor, just published: that must not be kept for this one.
        if !self.key.is_of(&header) {
            return Err(StoreError::broken(describe(node, self.spot()), "another layer's header"));
        }
        *self.content.write() = Some(content.clone());
        core.open_layers.admit(self);
        Ok(content)
    }

    /// Whether reading these slots will not wait for the disk.
    pub fn resident(&self, core: &Core<B>, slot: u64, count: u64) -> bool {
        match &*self.content.read() {
            Some(content) => {
                content.resident(core.geometry.slot_offset(slot), count * core.geometry.slot_len())
            }
            None => false,
        }
    }

    fn open_file(core: &Core<B>, node: &Node<B>, spot: Spot) -> Result<B::File> {
        match spot {
            Spot::Top => node.open_home(core),
            Spot::Older { entry, name } => core
                .backing
                .open(&core.layers, &layer_file_name(entry, name))
                .attempt("open an older layer"),
        }
    }

    fn content_of(file: B::File, len: u64) -> Result<Content<B>> {
        if len <= INLINE_LEN {
            let mut bytes = vec![0; usize::try_from(len).expect("checked against INLINE_LEN")];
            file.read_at(0, &mut bytes).attempt("read a layer")?;
            return Ok(Content::Inline(bytes.into()));
        }
        match file.map(len) {
            Ok(map) => Ok(Content::Mapped(Arc::new(map))),
            Err(_) => Ok(Content::Plain(Arc::new(file))),
        }
    }
}

impl<B: Backing> Evictable for Layer<B> {
    fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    fn evict(&self) {
        *self.content.write() = None;
    }
}

/// Names a layer in messages.
pub(crate) fn describe<B: Backing>(node: &Node<B>, spot: Spot) -> String {
    match spot {
        Spot::Top => format!("entry {:016x}", node.id().get()),
        Spot::Older { entry, name } => format!("layer {:016x}.{name}", entry.get()),
    }
}
