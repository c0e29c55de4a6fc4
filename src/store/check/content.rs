//! One file: its layers, its map, every block of it.

use std::collections::HashSet;
use std::io;
use std::ops::Range;

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
pub(super) struct Fault {
    pub kind: Kind,
    pub why: String,
    pub ranges: Vec<Range<u64>>,
}

impl Fault {
    pub fn new(kind: Kind, why: impl Into<String>) -> Self {
        Fault { kind, why: why.into(), ranges: Vec::new() }
    }

    fn io(what: &str, error: &io::Error) -> Self {
        Fault::new(Kind::File, format!("{what}: {error}"))
    }
}

/// A verified layer.
struct Opened<F> {
    file: F,
    key: LayerKey,
    tail: Tail,
    tag: TailTag,
    map: Option<LayerMap>,
}

/// Opens the layer `file` of the entry `id`, as a mount does.
fn open_layer<F: PublishedFile>(
    vault: &VaultKeys,
    id: EntryId,
    file: F,
) -> Result<Opened<F>, Fault> {
    let broken = |why: &str| Fault::new(Kind::File, why);
    let len = file.stat().map_err(|e| Fault::io("cannot stat it", &e))?.len;
    if matches!(vault.geometry.classify(len), LengthClass::Invalid | LengthClass::Stub) {
        return Err(broken(&format!("no version of a file has {len} bytes: it was cut or grown")));
    }
    let read = |at: u64, out: &mut [u8]| {
        file.read_at(at, out).map_err(|e| Fault::io("cannot read it", &e))
    };
    let mut header = [0; HEADER_LEN];
    read(0, &mut header)?;
    let key = LayerKey::open(&vault.keys, vault.cipher, vault.geometry, &header)
        .map_err(|e| broken(&e.to_string()))?;
    let tail_at = len - TAIL_LEN as u64;
    let mut sealed = [0; TAIL_LEN];
    read(tail_at, &mut sealed)?;
    let (tail, tag) = key.open_tail(&sealed, len).map_err(|e| broken(&e.to_string()))?;
    if tail.entry_id != id {
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
pub(super) fn read_file<B: Backing>(
    backing: &B,
    layers_dir: Option<&B::Dir>,
    vault: &VaultKeys,
    id: EntryId,
    top: B::File,
    referred: &mut HashSet<(EntryId, ObjectId)>,
) -> (u64, Vec<Fault>) {
    let layers = match open_layers(backing, layers_dir, vault, id, top, referred) {
        Ok(layers) => layers,
        Err(fault) => return (0, vec![fault]),
    };
    let Some(pieces) = assemble(vault, &layers) else {
        return (0, vec![Fault::new(Kind::File, "its layers do not cover it")]);
    };
    let mut bad = Bad { size: layers[0].tail.size, ranges: Vec::new(), why: String::new() };
    let mut good = 0;
    let mut buffer = Vec::new();
    for run in pieces.iter() {
        if let Piece::Slot { layer, slot } = run.value {
            good += read_run(vault, &layers[layer as usize], run, slot, &mut buffer, &mut bad);
        }
    }
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
    let top = open_layer(vault, id, top)?;
    if top.tail.role != Role::Version {
        return Err(Fault::new(Kind::File, "it is no version of a file"));
    }
    let parents = top.map.as_ref().map(|map| map.parents.clone()).unwrap_or_default();
    referred.extend(parents.iter().map(|parent| (parent.owner, parent.layer)));
    let mut layers = vec![top];
    for parent in parents {
        let name = layer_file_name(parent.owner, parent.layer);
        let shown = String::from_utf8_lossy(&name).into_owned();
        let wrong = |why: &str| Fault::new(Kind::Layer, format!("its older layer {shown}: {why}"));
        let dir = layers_dir.ok_or_else(|| wrong("there is no .akasha/layers"))?;
        let file = backing.open(dir, &name).map_err(|e| wrong(&e.to_string()))?;
        let layer = open_layer(vault, id, file).map_err(|fault| wrong(&fault.why))?;
        if layer.key.id() != parent.layer || layer.tag != parent.tag {
            return Err(wrong("another one than the file refers to"));
        }
        layers.push(layer);
    }
    Ok(layers)
}

/// As `Snapshot::open` puts layers together.
fn assemble<F>(vault: &VaultKeys, layers: &[Opened<F>]) -> Option<RunMap<Piece>> {
    let blocks = vault.geometry.block_count(layers[0].tail.size);
    let mut pieces = RunMap::default();
    for (index, opened) in layers.iter().enumerate().rev() {
        let layer = u32::try_from(index).ok()?;
        let Some(map) = &opened.map else {
            pieces.insert(0, opened.tail.slots, Piece::Slot { layer, slot: 0 });
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
    pieces.remove(blocks..u64::MAX);
    (pieces.blocks() == blocks).then_some(pieces)
}

/// The bytes of a file that do not authenticate, ascending.
struct Bad {
    size: u64,
    ranges: Vec<Range<u64>>,
    why: String,
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

/// Authenticates a run of slots; returns how many plaintext bytes are good.
fn read_run<F: PublishedFile>(
    vault: &VaultKeys,
    layer: &Opened<F>,
    run: Run<Piece>,
    first_slot: u64,
    buffer: &mut Vec<u8>,
    bad: &mut Bad,
) -> u64 {
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
    let (mut done, mut good) = (0, 0);
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
            } else if layer.key.open_slot(at, cipher).is_err() {
                bad.add(bytes, || "blocks do not authenticate".to_owned());
            } else {
                good += bytes.end.min(bad.size).saturating_sub(bytes.start);
            }
        }
        done += count;
    }
    good
}
