//! Holes, allocation and copies of ranges, below the filesystem.

use super::*;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

fn open(store: &Store<SimDisk>, name: &[u8], content: &[u8]) -> TestNode {
    let node = put(store, &store.root(), name, content);
    store.open_file(&node, true).unwrap();
    node
}

fn allocated(store: &Store<SimDisk>, node: &TestNode) -> u64 {
    store.attr(node).unwrap().blocks_512 * 512
}

fn punch(store: &Store<SimDisk>, node: &TestNode, offset: u64, len: u64) {
    store.fallocate(node, (offset, len), Room::Punch, true).unwrap();
}

fn content(store: &Store<SimDisk>, node: &TestNode) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(store.attr(node).unwrap().size).unwrap()];
    assert_eq!(store.read(node, 0, &mut out).unwrap(), out.len());
    out
}

/// Lengths of the vault's files, older layers included.
fn lengths(disk: &SimDisk) -> Vec<u64> {
    let is_layer =
        |path: &[u8]| !path.starts_with(b".akasha") || path.starts_with(b".akasha/layers");
    let files = disk.paths().into_iter();
    let files =
        files.filter(|(path, kind, _)| *kind == crate::backing::FileKind::File && is_layer(path));
    files.map(|(path, ..)| disk.read_path(&path).unwrap().len() as u64).collect()
}

fn is_full(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.raw_os_error() == Some(libc::ENOSPC))
}

#[test]
fn what_cannot_fit_is_not_allocated() {
    let disk = vault();
    let store = mount(&disk);
    let node = open(&store, b"f", b"text");
    disk.set_capacity(Some(10 * MIB));
    let full = store.fallocate(&node, (0, 11 * MIB), Room::Allocate, false).unwrap_err();
    assert!(is_full(&full), "{full:?}");
    let full = store.fallocate(&node, (MIB, 20 * MIB), Room::Zero, false).unwrap_err();
    assert!(is_full(&full), "{full:?}");
    let size = max_size(&store);
    for room in [Room::Allocate, Room::Zero] {
        for (offset, len) in [(size, 1), (0, size + 1), (u64::MAX - 5, 100)] {
            let error = store.fallocate(&node, (offset, len), room, true).unwrap_err();
            assert!(matches!(error, StoreError::FileTooBig), "{error:?}");
        }
    }
    // Beyond the end there is nothing to make a hole.
    punch(&store, &node, u64::MAX - 5, 100);
    assert_eq!((content(&store, &node), allocated(&store, &node)), (b"text".to_vec(), BLOCK));
    assert!(!store.is_dirty(&node));
    store.fallocate(&node, (0, 5 * MIB), Room::Allocate, false).unwrap();
    assert_eq!(allocated(&store, &node), 5 * MIB);
    // What is there already needs no room.
    store.fallocate(&node, (0, 5 * MIB), Room::Allocate, false).unwrap();
    store.fsync(&node).unwrap();
    assert_eq!((store.attr(&node).unwrap().size, allocated(&store, &node)), (5 * MIB, 5 * MIB));
    assert!(
        lengths(&disk)[0] < 20_000,
        "what was never written takes no room: {:?}",
        lengths(&disk)
    );
}

fn max_size(store: &Store<SimDisk>) -> u64 {
    super::super::file::max_size(&store.core)
}

#[test]
fn keeping_the_size_allocates_nothing_beyond_it() {
    let store = mount(&vault());
    let node = open(&store, b"f", &noise(300_000, 1));
    let before = store.attr(&node).unwrap();
    store.fallocate(&node, (300_000, 100 * MIB), Room::Allocate, true).unwrap();
    store.fallocate(&node, (1000, 1000), Room::Allocate, true).unwrap();
    assert_eq!(store.attr(&node).unwrap(), before);
    assert!(!store.is_dirty(&node), "nothing changed");
}

#[test]
fn a_punched_terabyte_is_one_record() {
    let disk = vault();
    let store = mount(&disk);
    let node = open(&store, b"f", &noise(300_000, 1));
    store.truncate(&node, 4 << 40).unwrap();
    store.write(&node, 3 << 40, b"far").unwrap();
    store.fsync(&node).unwrap();
    store.fallocate(&node, (MIB, 1 << 40), Room::Zero, true).unwrap();
    store.fsync(&node).unwrap();
    assert!(allocated(&store, &node) > 1 << 40);
    punch(&store, &node, BLOCK, (4 << 40) - BLOCK);
    store.fsync(&node).unwrap();
    assert_eq!(allocated(&store, &node), BLOCK);
    let top = node.load_top(&store.core).unwrap().unwrap();
    assert_eq!((top.size, top.pieces.len()), (4 << 40, 2));
    assert_eq!(store.seek(&node, BLOCK, Seek::Data).unwrap(), None);
    assert_eq!(store.seek(&node, 5, Seek::Hole).unwrap(), Some(BLOCK));
    // Nothing shows of the older layers: they are gone with the next interval.
    store.close_file(&node, true);
    drop((node, top));
    store.close().unwrap();
    let held: u64 = lengths(&disk).iter().sum();
    assert!(held < 12_000, "{:?}", lengths(&disk));
}

/// A version's map names the holes of the layers that go, and not those of the layers that stay.
#[test]
fn thousands_of_holes_are_not_repeated_by_every_small_change() {
    const HOLES: u64 = 5000;
    let disk = vault();
    let store = mount(&disk);
    let node = open(&store, b"f", &[]);
    let data = noise(MIB as usize, 1);
    for at in (0..2 * HOLES * BLOCK).step_by(MIB as usize) {
        store.write(&node, at, &data).unwrap();
    }
    store.fsync(&node).unwrap();
    let size = store.attr(&node).unwrap().size;
    for number in 0..HOLES {
        punch(&store, &node, 2 * number * BLOCK, BLOCK);
    }
    store.fsync(&node).unwrap();
    assert_eq!(allocated(&store, &node), size - HOLES * BLOCK);
    let (mut written, mut largest) = (0, 0);
    for number in 0..60 {
        let block = (number * 7919 % (2 * HOLES)) | 1;
        store.write(&node, block * BLOCK + 5, b"changed").unwrap();
        store.fsync(&node).unwrap();
        let top = node.load_top(&store.core).unwrap().unwrap();
        let len = top.top().tail.slots * store.core.geometry.slot_len() + top.top().tail.map_len;
        written += len;
        largest = largest.max(len);
        assert!(top.layers.len() <= 20, "{} layers", top.layers.len());
    }
    assert!(written / 60 < 100_000, "{} bytes a commit, {largest} at most", written / 60);
    let top = node.load_top(&store.core).unwrap().unwrap();
    assert_eq!(top.allocated, size - HOLES * BLOCK);
    drop(top);
    store.close_file(&node, true);
    drop(node);
    store.close().unwrap();
    let store = mount(&disk);
    let node = store.lookup(&store.root(), b"f").unwrap();
    assert_eq!(allocated(&store, &node), size - HOLES * BLOCK);
}

/// The gate and the versions: everything that changes blocks, against commits that come at any time.
#[test]
fn ranges_change_while_versions_are_committed() {
    let disk = vault();
    let store = mount(&disk);
    let size = 700_000_u64;
    let mut model = noise(size as usize, 1);
    let node = open(&store, b"f", &model);
    let source = open(&store, b"source", &noise(size as usize, 2));
    punch(&store, &source, 100_000, 300_000);
    let copied = content(&store, &source);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.fsync(&node).unwrap();
                store.fsync(&source).unwrap();
            }
        });
        let dice = SeededEntropy::new(5);
        let pick = |bound: u64| crate::entropy::Entropy::next_u64(&dice) % bound;
        for turn in 0..500 {
            let offset = pick(size - 1);
            let len = 1 + pick((size - offset).min(200_000));
            let range = usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap();
            match turn % 5 {
                0 => {
                    punch(&store, &node, offset, len);
                    model[range].fill(0);
                }
                1 => {
                    store.fallocate(&node, (offset, len), Room::Zero, true).unwrap();
                    model[range].fill(0);
                }
                2 => {
                    let data = noise(range.len().min(9000), turn);
                    store.write(&node, offset, &data).unwrap();
                    model[range.start..range.start + data.len()].copy_from_slice(&data);
                }
                3 => {
                    store.truncate(&node, offset).unwrap();
                    store.fallocate(&node, (offset, size - offset), Room::Allocate, false).unwrap();
                    model[range.start..].fill(0);
                }
                _ => {
                    let done = store.copy((&source, offset), (&node, offset), len).unwrap();
                    assert_eq!(done, len);
                    model[range.clone()].copy_from_slice(&copied[range]);
                }
            }
            let shown = content(&store, &node);
            let differs = shown.iter().zip(&model).position(|(a, b)| a != b);
            assert_eq!((shown.len(), differs), (model.len(), None), "turn {turn}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    store.close_file(&node, true);
    store.close_file(&source, true);
    drop((node, source));
    store.close().unwrap();
    let store = mount(&disk);
    assert!(get(&store, &store.root(), b"f").unwrap() == model);
}

#[test]
fn a_copy_ends_after_eight_mebibytes_of_data_and_keeps_holes() {
    let store = mount(&vault());
    let source = open(&store, b"source", &noise(10 * MIB as usize, 1));
    store.truncate(&source, 50 * MIB).unwrap();
    store.write(&source, 45 * MIB, &noise(MIB as usize, 2)).unwrap();
    let target = open(&store, b"target", &noise(3 * MIB as usize, 3));
    let mut done = 0;
    let mut calls = 0;
    while done < 50 * MIB {
        let count = store.copy((&source, done), (&target, done), 50 * MIB - done).unwrap();
        assert!(count > 0);
        done += count;
        calls += 1;
    }
    assert_eq!(calls, 2, "eight of data; two, a hole, one, a hole");
    assert_eq!(store.copy((&source, done), (&target, done), 1).unwrap(), 0);
    assert!(content(&store, &source) == content(&store, &target));
    assert_eq!(allocated(&store, &target), 11 * MIB);
}

#[test]
fn a_hole_over_damage_reads_as_zeros_and_the_rest_stays_an_error() {
    let disk = vault();
    let store = mount(&disk);
    put(&store, &store.root(), b"f", &noise(300_000, 1));
    store.close().unwrap();
    drop(store);
    let is_file = |path: &[u8]| !path.starts_with(b".akasha");
    let (path, ..) = disk
        .paths()
        .into_iter()
        .find(|(path, kind, _)| *kind == crate::backing::FileKind::File && is_file(path))
        .unwrap();
    let mut bytes = disk.read_path(&path).unwrap();
    for block in [10, 20] {
        bytes[block * 4112 + 100] ^= 1;
    }
    disk.replace_path(&path, &bytes);
    let store = mount(&disk);
    let node = store.lookup(&store.root(), b"f").unwrap();
    store.open_file(&node, true).unwrap();
    let mut out = [0; 4096];
    assert!(store.read(&node, 10 * BLOCK, &mut out).is_err());
    // Half of a block needs the other half.
    assert!(store.fallocate(&node, (10 * BLOCK + 5, 100), Room::Punch, true).is_err());
    punch(&store, &node, 10 * BLOCK, BLOCK);
    store.read(&node, 10 * BLOCK, &mut out).unwrap();
    assert_eq!(out, [0; 4096]);
    store.fsync(&node).unwrap();
    store.read(&node, 10 * BLOCK, &mut out).unwrap();
    assert!(store.read(&node, 20 * BLOCK, &mut out).is_err());
    let target = open(&store, b"target", b"");
    assert_eq!(store.copy((&node, 0), (&target, 0), 11 * BLOCK).unwrap(), 11 * BLOCK);
    assert!(store.copy((&node, 20 * BLOCK), (&target, 0), BLOCK).is_err());
    // What was copied before the damage counts.
    assert!(store.copy((&node, 0), (&target, 0), 300_000).unwrap() < 21 * BLOCK);
}
