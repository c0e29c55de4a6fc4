//! One file: its layers, its map, every block of it.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backing::{Backing, PublishedFile};
use crate::format::{
    EntryId, Form, HEADER_LEN, LayerKey, LayerMap, LengthClass, ObjectId, Role, Source, TAIL_LEN,
    Tail, TailTag, layer_file_name,
};

use super::super::core::VaultKeys;
use super::super::runs::{Run, RunMap};
use super::super::snapshot::Piece;
use super::Kind;

/// Ciphertext read at once, in bytes.
const CHUNK_LEN: u64 = 1 << 20;

/// Why a file, or a part of it, cannot be read.
#[derive(Debug)]
pub(in crate::store) struct Fault {
    pub kind: Kind,
    pub why: String,
    pub ranges: Vec<Range<u64>>,
}

impl Fault {
    pub fn new(kind: Kind, why: impl Into<String>) -> Self {
        Fault { kind, why: why.into(), ranges: Vec::new() }
    }

    /// A call on the vault failed. Who may not look, or has no room to, learns nothing about the vault.
    pub fn io(kind: Kind, what: &str, error: &io::Error) -> Self {
        Fault::new(
            if says_nothing(error) { Kind::Unchecked } else { kind },
            format!("{what}: {error}"),
        )
    }
}

/// Whether an error is about who checks, not about the vault.
pub(in crate::store) fn says_nothing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
        || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// A verified layer.
pub(in crate::store) struct Opened<F> {
    pub file: F,
    pub key: LayerKey,
    pub tail: Tail,
    pub tag: TailTag,
    pub map: Option<LayerMap>,
}

/// Opens the layer `file` of the entry `id` (of whatever entry, if `None`), as a mount does.
pub(in crate::store) fn open_layer<F: PublishedFile>(
    vault: &VaultKeys,
    id: Option<EntryId>,
    file: F,
) -> Result<Opened<F>, Fault> {
    let broken = |why: &str| Fault::new(Kind::File, why);
    let len = file.stat().map_err(|e| Fault::io(Kind::File, "cannot stat it", &e))?.len;
    if matches!(vault.geometry.classify(len), LengthClass::Invalid | LengthClass::Stub) {
        return Err(broken(&format!("no version of a file has {len} bytes: it was cut or grown")));
    }
    let read = |at: u64, out: &mut [u8]| {
        file.read_at(at, out).map_err(|e| Fault::io(Kind::File, "cannot read it", &e))
    };
    let mut header = [0; HEADER_LEN];
    read(0, &mut header)?;
    let key = LayerKey::open(&vault.keys, vault.cipher, vault.geometry, &header)
        .map_err(|e| broken(&e.to_string()))?;
    let tail_at = len - TAIL_LEN as u64;
    let mut sealed = [0; TAIL_LEN];
    read(tail_at, &mut sealed)?;
    let (tail, tag) = key.open_tail(&sealed, len).map_err(|e| broken(&e.to_string()))?;
    if id.is_some_and(|id| tail.entry_id != id) {
        return Err(broken("it holds another file's content"));
    }
    let map = match tail.form {
        Form::Simple => None,
        Form::Link => return Err(broken("it is a link where a file was expected")),
        Form::Mapped => {
            let map_len =
                usize::try_from(tail.map_len).map_err(|_| broken("its map is too long"))?;
            let map_at =
                tail_at.checked_sub(tail.map_len).ok_or_else(|| broken("its map is too long"))?;
            let mut sealed = vec![0; map_len];
            read(map_at, &mut sealed)?;
            Some(key.open_map(&tail, sealed).map_err(|e| broken(&e.to_string()))?)
        }
    };
    Ok(Opened { file, key, tail, tag, map })
}

/// Reads the published version `top` of the entry `id`, all of it. Returns how many plaintext bytes authenticate, and
/// what does not. Notes which older layers it refers to.
pub(in crate::store) fn read_file<B: Backing>(
    backing: &B,
    layers_dir: Option<&B::Dir>,
    vault: &VaultKeys,
    id: EntryId,
    top: B::File,
    referred: &mut HashSet<(EntryId, ObjectId)>,
    read_bytes: &AtomicU64,
) -> (u64, Vec<Fault>) {
    let layers = match open_layers(backing, layers_dir, vault, id, top, referred) {
        Ok(layers) => layers,
        Err(fault) => return (0, vec![fault]),
    };
    let size = layers[0].tail.size;
    let layers: Vec<_> = layers.into_iter().map(Some).collect();
    let pieces = assemble(vault, size, &layers);
    if pieces.blocks() != vault.geometry.block_count(size) {
        return (0, vec![Fault::new(Kind::File, "its layers do not cover it")]);
    }
    let mut good = 0;
    let (bad, _) = read_pieces(vault, size, &layers, &pieces, &mut |event| match event {
        Event::Read(bytes) => _ = read_bytes.fetch_add(bytes, Ordering::Relaxed),
        Event::Good(_, plain) => good += plain.len() as u64,
    });
    let fault = (!bad.ranges.is_empty()).then_some(Fault {
        kind: Kind::Content,
        why: bad.why,
        ranges: bad.ranges,
    });
    (good, fault.into_iter().collect())
}

fn open_layers<B: Backing>(
    backing: &B,
    layers_dir: Option<&B::Dir>,
    vault: &VaultKeys,
    id: EntryId,
    top: B::File,
    referred: &mut HashSet<(EntryId, ObjectId)>,
) -> Result<Vec<Opened<B::File>>, Fault> {
    let top = open_layer(vault, Some(id), top)?;
    if top.tail.role != Role::Version {
        return Err(Fault::new(Kind::File, "it is no version of a file"));
    }
    let parents = top.map.as_ref().map(|map| map.parents.clone()).unwrap_or_default();
    referred.extend(parents.iter().map(|parent| (parent.owner, parent.layer)));
    let mut layers = vec![top];
    for parent in parents {
        let name = layer_file_name(parent.owner, parent.layer);
        let shown = String::from_utf8_lossy(&name).into_owned();
        let at = format!("its older layer {shown}");
        let wrong = |why: &str| Fault::new(Kind::Layer, format!("{at}: {why}"));
        let dir = layers_dir.ok_or_else(|| wrong("there is no .akasha/layers"))?;
        let file = backing.open(dir, &name).map_err(|e| Fault::io(Kind::Layer, &at, &e))?;
        let layer = open_layer(vault, Some(id), file).map_err(|fault| match fault.kind {
            Kind::Unchecked => fault,
            _ => wrong(&fault.why),
        })?;
        if layer.key.id() != parent.layer || layer.tag != parent.tag {
            return Err(wrong("another one than the file refers to"));
        }
        layers.push(layer);
    }
    Ok(layers)
}

/// As `Snapshot::open` puts layers together. What a layer that is lost (`None`), or one below it, may have held has no piece:
/// the lost one could have replaced it.
pub(in crate::store) fn assemble<F>(
    vault: &VaultKeys,
    size: u64,
    layers: &[Option<Opened<F>>],
) -> RunMap<Piece> {
    let mut pieces = RunMap::default();
    for (layer, opened) in (0_u32..).zip(layers).collect::<Vec<_>>().into_iter().rev() {
        let Some(opened) = opened else {
            pieces = RunMap::default();
            continue;
        };
        let Some(map) = &opened.map else {
            if opened.tail.slots > 0 {
                pieces.insert(0, opened.tail.slots, Piece::Slot { layer, slot: 0 });
            }
            continue;
        };
        for extent in &map.extents {
            let piece = match extent.source {
                Source::Own => Piece::Slot { layer, slot: extent.slot },
                Source::Hole => Piece::Hole { layer },
                Source::Unwritten => Piece::Unwritten { layer },
            };
            pieces.insert(extent.block, extent.count, piece);
        }
    }
    pieces.remove(vault.geometry.block_count(size)..u64::MAX);
    pieces
}

/// What reading blocks tells of.
pub(in crate::store) enum Event<'a> {
    /// So many bytes of ciphertext were read.
    Read(u64),
    /// These plaintext bytes authenticate, at this offset of the file.
    Good(u64, &'a [u8]),
}

/// Reads the blocks of a file of `size` bytes. Returns what does not authenticate, and how many bytes have no piece; those are
/// among the former.
pub(in crate::store) fn read_pieces<F: PublishedFile>(
    vault: &VaultKeys,
    size: u64,
    layers: &[Option<Opened<F>>],
    pieces: &RunMap<Piece>,
    tell: &mut dyn FnMut(Event<'_>),
) -> (Bad, u64) {
    let mut bad = Bad { size, ranges: Vec::new(), why: String::new() };
    let mut buffer = Vec::new();
    let (mut next, mut uncovered) = (0, 0);
    let block_len = vault.geometry.block_len();
    let blocks = vault.geometry.block_count(size);
    let mut skip = |bad: &mut Bad, from: u64, to: u64| {
        if from < to {
            bad.add(from * block_len..to * block_len, || {
                "the layer that held blocks is lost".into()
            });
            uncovered += (to * block_len).min(size) - from * block_len;
        }
    };
    for run in pieces.iter() {
        skip(&mut bad, next, run.block);
        next = run.end();
        if let Piece::Slot { layer, slot } = run.value
            && let Some(layer) = &layers[layer as usize]
        {
            read_run(vault, layer, run, slot, &mut buffer, &mut bad, tell);
        }
    }
    skip(&mut bad, next, blocks);
    (bad, uncovered)
}

/// The bytes of a file that do not authenticate, ascending.
pub(in crate::store) struct Bad {
    size: u64,
    pub ranges: Vec<Range<u64>>,
    pub why: String,
}

impl Bad {
    fn add(&mut self, bytes: Range<u64>, why: impl FnOnce() -> String) {
        let bytes = bytes.start..bytes.end.min(self.size);
        match self.ranges.last_mut() {
            Some(last) if last.end == bytes.start => last.end = bytes.end,
            Some(_) => self.ranges.push(bytes),
            None => {
                self.why = why();
                self.ranges.push(bytes);
            }
        }
    }
}

/// Authenticates a run of slots.
fn read_run<F: PublishedFile>(
    vault: &VaultKeys,
    layer: &Opened<F>,
    run: Run<Piece>,
    first_slot: u64,
    buffer: &mut Vec<u8>,
    bad: &mut Bad,
    tell: &mut dyn FnMut(Event<'_>),
) {
    let geometry = vault.geometry;
    let (block_len, slot_len) = (geometry.block_len(), geometry.slot_len());
    let len_of = |slot: u64| {
        if slot + 1 == layer.tail.slots {
            u64::from(layer.tail.last_slot_len) + (slot_len - block_len)
        } else {
            slot_len
        }
    };
    let at_once = (CHUNK_LEN / slot_len).max(1);
    let mut done = 0;
    while done < run.count {
        let count = at_once.min(run.count - done);
        let slot = first_slot + done;
        let last = slot + count - 1;
        let start = geometry.slot_offset(slot);
        let len = geometry.slot_offset(last) - start + len_of(last);
        buffer.resize(usize::try_from(len).unwrap_or(0), 0);
        // A disk that cannot read one sector cannot read the chunk: then each slot by itself.
        let whole = layer.file.read_at(start, buffer).is_ok();
        for at in slot..slot + count {
            let from = usize::try_from(geometry.slot_offset(at) - start).unwrap_or(0);
            let cipher_len = len_of(at);
            let cipher = &mut buffer[from..from + usize::try_from(cipher_len).unwrap_or(0)];
            let block = run.block + (at - first_slot);
            let bytes = block * block_len..(block + 1) * block_len;
            if !whole && let Err(error) = layer.file.read_at(geometry.slot_offset(at), cipher) {
                bad.add(bytes, || format!("blocks cannot be read: {error}"));
                continue;
            }
            match layer.key.open_slot(at, cipher) {
                Ok(plain_len) => {
                    let len = plain_len as u64;
                    let len = len.min(bad.size.saturating_sub(bytes.start));
                    tell(Event::Good(bytes.start, &cipher[..usize::try_from(len).unwrap_or(0)]));
                }
                Err(_) => bad.add(bytes, || "blocks do not authenticate".to_owned()),
            }
        }
        tell(Event::Read(len));
        done += count;
    }
}
