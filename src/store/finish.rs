//! Making an edit into a layer: what is still in memory is sealed, small older layers are folded in, map and tail are
//! written. Nothing is synced or published here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::backing::{AttrChange, Backing, TempFile};
use crate::clock::Timestamp;
use crate::format::{
    Extent, Form, HEADER_LEN, LayerMap, LayerSealer, ObjectId, Parent, Role, Source, TAIL_LEN,
    TailFields, TailTag,
};

use super::core::Core;
use super::edit::{Block, Edit, Zeros};
use super::error::{Attempt, Result};
use super::file::{Generation, write_runs};
use super::layer::{Layer, Spot};
use super::node::Node;
use super::runs::RunMap;
use super::snapshot::{Piece, Snapshot};
use super::temp::LayerTemp;
use super::xattr::GivenXattrs;

/// Plaintext bytes that one commit folds in from older layers at most.
const FOLD_LEN: u64 = 16 << 20;
/// Plaintext bytes that are folded at a time: what folding takes of memory.
const FOLD_STEP_LEN: u64 = 1 << 20;
/// Older layers that a version keeps at most, but for what the size of the newest makes cheap to leave.
const LAYERS_MAX: usize = 8;
/// As many while the disk is full, and nothing is folded in for less.
const LAYERS_MAX_SHORT: usize = 64;
/// Plaintext bytes that may be dead in a file's layers beyond as many as are live.
const DEAD_LEN_ALLOWED: u64 = 1 << 20;
/// Layers that weigh no more than this are always folded into the next commit.
const ALWAYS_FOLD_LEN: u64 = 64 << 10;
/// What a run of a layer's map weighs in the next map that must repeat it.
const RECORD_LEN: u64 = 32;

/// A sealed layer, ready to be synced and published.
pub(crate) struct Finished<B: Backing> {
    pub layer: Arc<LayerTemp<B>>,
    /// The version that it will be.
    pub snapshot: Arc<Snapshot<B>>,
    /// Whether the top that it replaces stays, as an older layer.
    pub keeps_top: bool,
    /// Older layers that nothing refers to once this is published.
    pub dropped: Vec<ObjectId>,
    /// The attributes that the file was given.
    pub attr: AttrChange,
    /// The extended attributes that it was given.
    pub xattrs: GivenXattrs,
    /// What is sealed but not written yet: a failed write is repeated with the same bytes.
    unwritten: Mutex<Option<(u64, Vec<u8>)>>,
}

impl<B: Backing> Finished<B> {
    /// Writes what is not written yet, and then the attributes. Idempotent.
    pub fn write(&self) -> Result<()> {
        let mut unwritten = self.unwritten.lock();
        if let Some((offset, bytes)) = &*unwritten {
            let file = self.layer.file()?;
            file.write_at(*offset, bytes).attempt("write a layer")?;
            self.layer.set_attr(&file, &self.attr, self.snapshot.top().tail.entry_id)?;
            *unwritten = None;
        }
        Ok(())
    }
}

/// Whether an edit is written as one new simple layer whatever it changed.
pub(crate) fn is_small<B: Backing>(core: &Core<B>, edit: &Edit<B>) -> bool {
    edit.layer.is_none() && edit.size <= core.small_len()
}

/// The room that finishing an edit will take beyond what it already wrote, in bytes: never too little
/// as long as nothing is folded in.
pub(crate) fn rest_len<B: Backing>(core: &Core<B>, edit: &Edit<B>) -> u64 {
    let apart = edit.sealed.len() + 2 * edit.zeroed.len() + 2 * edit.buffered_blocks();
    let runs = 2 * apart as u64 + 64;
    let map = runs * 32 + 2 * core.geometry.slot_len();
    edit.buffered_blocks() as u64 * core.geometry.slot_len() + map + TAIL_LEN as u64
}

/// What the tail says of the version that comes next.
fn tail_fields<B: Backing>(
    core: &Core<B>,
    node: &Node<B>,
    top: Option<&Arc<Snapshot<B>>>,
    form: Form,
    size: u64,
    attr: &AttrChange,
) -> TailFields {
    let tail = top.map(|top| &top.top().tail);
    let home = node.place.lock().link.as_ref().map(|link| link.dir.id());
    TailFields {
        form,
        role: Role::Version,
        entry_id: node.id(),
        commit: tail.map_or(1, |tail| tail.commit + 1),
        size,
        home: home.unwrap_or(crate::format::EntryId::ROOT),
        stamp: core.next_stamp(),
        previous: top.map_or(TailTag::default(), |top| top.tag),
        birth: tail.map_or_else(|| core.now().as_micros(), |tail| tail.birth),
        mode: attr.mode.unwrap_or(0),
        uid: attr.uid.unwrap_or(0),
        gid: attr.gid.unwrap_or(0),
    }
}

/// The attributes that the next version's file must carry, with the modification time `mtime`, or that
/// of the file now.
pub(crate) fn attributes<B: Backing>(
    core: &Core<B>,
    node: &Arc<Node<B>>,
    mtime: Option<Timestamp>,
) -> Result<AttrChange> {
    let (pending, set) = {
        let state = node.file()?.state.read();
        (state.attr, state.set_mtime)
    };
    let mtime = set.or(mtime);
    // An access time that the vault does not have yet comes along.
    let read = node.held_atime();
    let change = if let Some(attr) = pending {
        AttrChange {
            mode: Some(attr.mode),
            uid: Some(attr.uid),
            gid: Some(attr.gid),
            atime: read.or(Some(attr.atime)),
            mtime: mtime.or(Some(attr.mtime)),
        }
    } else {
        let stat = node.stat_home(core)?;
        AttrChange {
            mode: Some(stat.mode),
            uid: Some(stat.uid),
            gid: Some(stat.gid),
            atime: read.or(Some(stat.atime)),
            mtime: mtime.or(Some(stat.mtime)),
        }
    };
    Ok(change)
}

/// The modification time that an uncommitted version has.
fn edit_mtime<B: Backing>(node: &Node<B>, which: Generation) -> Result<Option<Timestamp>> {
    let state = node.file()?.state.read();
    let edit = match which {
        Generation::Open => state.open.as_ref(),
        Generation::Frozen => state.frozen.as_deref(),
    };
    Ok(edit.map(|edit| edit.mtime))
}

/// Seals a small edit whole, as a simple layer under a fresh id, with one write still to be done.
pub(crate) fn small<B: Backing>(
    core: &Arc<Core<B>>,
    node: &Arc<Node<B>>,
    which: Generation,
) -> Result<Finished<B>> {
    let body = node.file()?;
    let (size, top) = {
        let state = body.state.read();
        let edit = match which {
            Generation::Open => state.open.as_ref(),
            Generation::Frozen => state.frozen.as_deref(),
        };
        (edit.map_or(0, |edit| edit.size), state.top.clone())
    };
    let blocks = core.geometry.block_count(size);
    let content = node.gather(core, which, 0..blocks)?;
    let plain = &content[..usize::try_from(size).expect("a small file")];
    let attr = attributes(core, node, edit_mtime(node, which)?)?;
    let sealer = LayerSealer::new(&core.keys, core.cipher, core.geometry, &*core.entropy);
    let mut bytes = vec![0; HEADER_LEN + plain.len() + 16 * usize::try_from(blocks).expect("few")];
    bytes[..HEADER_LEN].copy_from_slice(&sealer.header());
    if blocks > 0 {
        sealer.seal(sealer.reserve(blocks), plain, &mut bytes[HEADER_LEN..]);
    }
    let fields = tail_fields(core, node, top.as_ref(), Form::Simple, size, &attr);
    let last = u32::try_from(core.geometry.last_block_len(size)).expect("a block fits");
    let layer = LayerTemp::with_sealer(core, sealer, attr.mode.unwrap_or(0o600))?;
    let end = layer.finish(&fields, last, None)?;
    bytes.extend_from_slice(&end.bytes);
    let len = bytes.len() as u64;
    let sealed = Layer::sealed(Arc::clone(layer.key()), end.tail, end.tag, len);
    let mut pieces = RunMap::default();
    pieces.insert(0, blocks, Piece::Slot { layer: 0, slot: 0 });
    Ok(Finished {
        layer,
        snapshot: Snapshot::sealed(core, vec![sealed], pieces),
        keeps_top: false,
        dropped: top.map(|top| older_ids(&top)).unwrap_or_default(),
        attr,
        xattrs: GivenXattrs::default(),
        unwritten: Mutex::new(Some((0, bytes))),
    })
}

/// The ids of the older layers of a version.
fn older_ids<B: Backing>(version: &Snapshot<B>) -> Vec<ObjectId> {
    version.layers[1..].iter().map(|layer| layer.key.id()).collect()
}

/// Seals the frozen edit of `node`.
///
/// # Errors
/// Before map and tail are sealed nothing is lost: the edit can be finished again.
pub(crate) fn frozen<B: Backing>(
    core: &Arc<Core<B>>,
    node: &Arc<Node<B>>,
    edit: &Arc<Edit<B>>,
) -> Result<Finished<B>> {
    if is_small(core, edit) {
        return small(core, node, Generation::Frozen);
    }
    let top = node.file()?.state.read().top.clone();
    let attr = attributes(core, node, Some(edit.mtime))?;
    let layer = match &edit.layer {
        // One that was sealed to its end and then not synced is done with.
        Some(layer) if !layer.is_finished() => Arc::clone(layer),
        _ => LayerTemp::create(core, attr.mode.unwrap_or(0o600))?,
    };
    let blocks = core.geometry.block_count(edit.size);
    let simple = seal_as_simple(core, edit, &layer, blocks)?;
    let (form, view) = match simple {
        Some(own) => (Form::Simple, View { own, ..View::default() }),
        None => (Form::Mapped, seal_as_mapped(core, node, edit, &layer, top.as_ref(), blocks)?),
    };
    let slots = layer.with(LayerSealer::slots_reserved);
    let fields = tail_fields(core, node, top.as_ref(), form, edit.size, &attr);
    let last = match form {
        Form::Simple => core.geometry.last_block_len(edit.size),
        Form::Mapped | Form::Link => core.geometry.block_len(),
    };
    let last = if slots == 0 { 0 } else { u32::try_from(last).expect("a block fits") };
    let map = (form == Form::Mapped).then(|| view.map(top.as_ref(), blocks));
    let end = layer.finish(&fields, last, map.as_ref())?;
    let at = core.geometry.slot_offset(slots) - short_by(core, form, edit.size);
    let sealed =
        Layer::sealed(Arc::clone(layer.key()), end.tail, end.tag, at + end.bytes.len() as u64);
    let mut layers = vec![sealed];
    let mut pieces = RunMap::default();
    for run in view.own.iter() {
        pieces.insert(run.block, run.count, Piece::Slot { layer: 0, slot: run.value.0 });
    }
    for run in view.below.iter() {
        let piece = match run.value {
            Piece::Slot { layer, slot } => Piece::Slot { layer: view.index_of(layer), slot },
            Piece::Hole { layer } => Piece::Hole { layer: view.index_of(layer) },
            Piece::Unwritten { layer } => Piece::Unwritten { layer: view.index_of(layer) },
        };
        pieces.insert(run.block, run.count, piece);
    }
    let mut dropped = Vec::new();
    if let Some(top) = &top {
        for (index, old) in top.layers.iter().enumerate() {
            if view.kept.contains(&(index as u32)) {
                layers.push(Arc::clone(old));
            } else if index > 0 {
                dropped.push(old.key.id());
            }
        }
    }
    Ok(Finished {
        layer,
        snapshot: Snapshot::sealed(core, layers, pieces),
        keeps_top: view.kept.contains(&0),
        dropped,
        attr,
        xattrs: GivenXattrs::default(),
        unwritten: Mutex::new(Some((at, end.bytes))),
    })
}

/// By how many bytes a simple layer's last slot is shorter than a full one.
fn short_by<B: Backing>(core: &Core<B>, form: Form, size: u64) -> u64 {
    match form {
        Form::Simple if size > 0 => core.geometry.block_len() - core.geometry.last_block_len(size),
        Form::Simple | Form::Mapped | Form::Link => 0,
    }
}

/// Seals what is left so that block b is in slot b and nothing else is in the layer; `None` if that cannot be.
/// Slots that were used in a failed try are burnt, which costs room and nothing else.
fn seal_as_simple<B: Backing>(
    core: &Arc<Core<B>>,
    edit: &Edit<B>,
    layer: &Arc<LayerTemp<B>>,
    blocks: u64,
) -> Result<Option<RunMap<super::edit::OwnSlot>>> {
    let complete = edit.base_blocks == 0 && edit.held_blocks() == blocks;
    let reserved = layer.with(LayerSealer::slots_reserved);
    if !edit.identity || !complete || reserved > blocks || blocks == 0 {
        return Ok(None);
    }
    // The slots that are still to be filled must all be fresh: those below `reserved` that are not
    // sealed blocks are burnt.
    let waiting: Vec<(u64, Arc<Block>)> =
        edit.buffered().map(|(block, held)| (block, Arc::clone(held))).collect();
    if waiting.iter().any(|(block, _)| !layer.with(|sealer| sealer.is_free(*block))) {
        return Ok(None);
    }
    let short = !edit.size.is_multiple_of(core.geometry.block_len());
    if short && waiting.last().is_none_or(|(block, _)| *block != blocks - 1) {
        return Ok(None);
    }
    let (full, last) = waiting.split_at(waiting.len() - usize::from(short));
    let mut own = edit.sealed.clone();
    let mut identity = true;
    for (block, count, slot) in write_runs(core, layer, &mut identity, full)? {
        own.insert(block, count, super::edit::OwnSlot(slot));
    }
    if !identity {
        return Ok(None);
    }
    if let [(block, content)] = last {
        let len = usize::try_from(core.geometry.last_block_len(edit.size)).expect("a block fits");
        layer.write_short(*block, &content.bytes()[..len])?;
        own.insert(*block, 1, super::edit::OwnSlot(*block));
    }
    let whole = own.len() == 1 && own.blocks() == blocks;
    Ok((whole && layer.with(LayerSealer::slots_reserved) == blocks).then_some(own))
}

/// What a mapped layer will show: its own blocks, and what stays visible below.
#[derive(Default)]
struct View {
    own: RunMap<super::edit::OwnSlot>,
    /// In terms of the old top's layers; [`NEW_TOP`] for zeros that the new top says itself.
    below: RunMap<Piece>,
    /// Indexes of the old top's layers that stay.
    kept: Vec<u32>,
}

/// Stands for the index of the new top where the old layers are counted.
const NEW_TOP: u32 = u32::MAX;

impl View {
    /// The index that an old layer has among the new ones.
    fn index_of(&self, old: u32) -> u32 {
        if old == NEW_TOP {
            return 0;
        }
        let at = self.kept.iter().position(|kept| *kept == old).expect("only kept layers show");
        u32::try_from(at).expect("few layers") + 1
    }

    /// Has the new top repeat the zeros that only layers say which go.
    fn adopt_zeros(&mut self) {
        let gone = |layer: u32| layer != NEW_TOP && !self.kept.contains(&layer);
        let adopted: Vec<_> = self
            .below
            .iter()
            .filter_map(|run| match run.value {
                Piece::Hole { layer } if gone(layer) => Some((run, Piece::Hole { layer: NEW_TOP })),
                Piece::Unwritten { layer } if gone(layer) => {
                    Some((run, Piece::Unwritten { layer: NEW_TOP }))
                }
                _ => None,
            })
            .collect();
        for (run, zeros) in adopted {
            self.below.insert(run.block, run.count, zeros);
        }
    }

    /// The map of the new top: its own blocks, the zeros that it says itself, and the layers below. Zeros that a layer
    /// says which stays are visible through it, and not repeated.
    fn map<B: Backing>(&self, top: Option<&Arc<Snapshot<B>>>, blocks: u64) -> LayerMap {
        let mut extents: Vec<Extent> = self
            .own
            .iter()
            .map(|run| Extent {
                block: run.block,
                count: run.count,
                source: Source::Own,
                slot: run.value.0,
            })
            .collect();
        extents.extend(self.below.iter().filter_map(|run| {
            let source = match run.value {
                Piece::Hole { layer: NEW_TOP } => Source::Hole,
                Piece::Unwritten { layer: NEW_TOP } => Source::Unwritten,
                _ => return None,
            };
            Some(Extent { block: run.block, count: run.count, source, slot: 0 })
        }));
        extents.sort_by_key(|extent| extent.block);
        debug_assert!(extents.last().is_none_or(|extent| extent.block + extent.count <= blocks));
        let parents = self
            .kept
            .iter()
            .map(|index| {
                let layer =
                    &top.expect("only an old top's layers are kept").layers[*index as usize];
                Parent {
                    layer: layer.key.id(),
                    tag: layer.tag,
                    owner: layer.tail.entry_id,
                    commit: layer.tail.commit,
                    size: layer.tail.size,
                    epoch: layer.key.epoch(),
                }
            })
            .collect();
        LayerMap { extents, parents }
    }
}

/// Seals what is in memory and the small older layers, anywhere in the layer.
fn seal_as_mapped<B: Backing>(
    core: &Arc<Core<B>>,
    node: &Arc<Node<B>>,
    edit: &Edit<B>,
    layer: &Arc<LayerTemp<B>>,
    top: Option<&Arc<Snapshot<B>>>,
    blocks: u64,
) -> Result<View> {
    let mut identity = false;
    let mut view = View { own: edit.sealed.clone(), ..View::default() };
    let waiting: Vec<(u64, Arc<Block>)> =
        edit.buffered().map(|(block, held)| (block, Arc::clone(held))).collect();
    for (block, count, slot) in write_runs(core, layer, &mut identity, &waiting)? {
        view.own.insert(block, count, super::edit::OwnSlot(slot));
    }
    // What shows below: the old version as far as the edit lets it, zeros elsewhere.
    view.below.insert(0, blocks, Piece::Hole { layer: NEW_TOP });
    if let Some(top) = top {
        for run in top.pieces.range(0..edit.base_blocks.min(blocks)) {
            view.below.insert(run.block, run.count, run.value);
        }
    }
    for run in edit.zeroed.range(0..blocks) {
        let zeros = match run.value {
            Zeros::Hole => Piece::Hole { layer: NEW_TOP },
            Zeros::Unwritten => Piece::Unwritten { layer: NEW_TOP },
        };
        view.below.insert(run.block, run.count, zeros);
    }
    for run in view.own.iter() {
        view.below.remove(run.block..run.end());
    }
    let mut live = vec![Live::default(); top.map_or(0, |top| top.layers.len())];
    for run in view.below.iter() {
        match run.value {
            Piece::Slot { layer, .. } => live[layer as usize].blocks += run.count,
            Piece::Hole { layer: NEW_TOP } | Piece::Unwritten { layer: NEW_TOP } => {}
            Piece::Hole { layer } | Piece::Unwritten { layer } => live[layer as usize].zeros += 1,
        }
    }
    let (kept, folded) = choose(core, view.own.blocks(), &live, top);
    view.kept = kept;
    view.adopt_zeros();
    fold(core, node, edit, layer, &folded, &mut view)?;
    Ok(view)
}

/// What of an old layer still shows.
#[derive(Clone, Copy, Default)]
struct Live {
    blocks: u64,
    /// Runs of zeros that it says.
    zeros: u64,
}

/// Which of the old layers stay and which are folded in, newest first, by how much of each still shows.
///
/// What weighs no more than twice what is already gathered is folded: each block is folded a logarithmic number
/// of times, and a file has a logarithmic number of layers. A run of zeros weighs what its record does, so that ten
/// thousand holes are not repeated in the map of every small change. Beyond that, more than [`LAYERS_MAX`] layers are
/// not kept, and everything is folded where dead blocks would outweigh the live ones. A layer of which nothing shows
/// is neither. While the disk is full nothing is folded that need not be.
fn choose<B: Backing>(
    core: &Core<B>,
    own: u64,
    live: &[Live],
    top: Option<&Arc<Snapshot<B>>>,
) -> (Vec<u32>, Vec<u32>) {
    let block_len = core.geometry.block_len();
    let (mut kept, mut folded) = (Vec::new(), Vec::new());
    if core.is_short.load(Ordering::Relaxed) && live.len() < LAYERS_MAX_SHORT {
        let shows = |live: &Live| live.blocks + live.zeros > 0;
        kept.extend((0_u32..).zip(live).filter(|(_, live)| shows(live)).map(|(index, _)| index));
        return (kept, folded);
    }
    let mut gathered = own * block_len;
    let mut folding = true;
    for (index, live_here) in (0_u32..).zip(live) {
        let weight = live_here.blocks * block_len + live_here.zeros * RECORD_LEN;
        if weight == 0 {
            continue;
        }
        let later = &live[index as usize + 1..];
        let later = later.iter().filter(|live| live.blocks + live.zeros > 0).count();
        let fits = weight <= (2 * gathered).max(ALWAYS_FOLD_LEN) && gathered + weight <= FOLD_LEN;
        folding &= fits || later >= LAYERS_MAX;
        if folding {
            gathered += weight;
            folded.push(index);
        } else {
            kept.push(index);
        }
    }
    let held = top.map_or(0, |top| {
        kept.iter().map(|index| top.layers[*index as usize].tail.slots).sum::<u64>()
    });
    let shown = kept.iter().map(|index| live[*index as usize].blocks).sum::<u64>();
    if (held - shown) * block_len > gathered + shown * block_len + DEAD_LEN_ALLOWED {
        folded.append(&mut kept);
    }
    (kept, folded)
}

/// Seals the visible blocks of the layers `folded` again, in this layer.
fn fold<B: Backing>(
    core: &Arc<Core<B>>,
    node: &Arc<Node<B>>,
    edit: &Edit<B>,
    layer: &Arc<LayerTemp<B>>,
    folded: &[u32],
    view: &mut View,
) -> Result<()> {
    let runs: Vec<_> = view
        .below
        .iter()
        .filter(|run| matches!(run.value, Piece::Slot { layer, .. } if folded.contains(&layer)))
        .collect();
    debug_assert!(runs.iter().all(|run| run.end() <= edit.base_blocks));
    let mut identity = false;
    for run in runs {
        let mut block = run.block;
        while block < run.end() {
            let end = run.end().min(block + (FOLD_STEP_LEN / core.geometry.block_len()).max(1));
            let content = node.gather(core, Generation::Frozen, block..end)?;
            for (block, count, slot) in
                write_runs(core, layer, &mut identity, &split(core, block, &content))?
            {
                view.own.insert(block, count, super::edit::OwnSlot(slot));
            }
            view.below.remove(block..end);
            block = end;
        }
    }
    Ok(())
}

/// Consecutive blocks, each on its own.
fn split<B: Backing>(core: &Core<B>, first: u64, content: &[u8]) -> Vec<(u64, Arc<Block>)> {
    (first..).zip(content.chunks(core.block_len()).map(|c| Arc::new(Block::copy_of(c)))).collect()
}

/// Where the layer of a file goes when its top stays as an older layer.
pub(crate) fn older_spot<B: Backing>(node: &Node<B>, top: &Layer<B>) -> Spot {
    Spot::Older { entry: node.id(), name: top.key.id() }
}
