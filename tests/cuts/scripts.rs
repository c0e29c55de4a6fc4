//! The scripts.

use std::time::Duration;

use akasha::backing::HardLinks;
use akasha::entropy::{Entropy, SeededEntropy};
use akasha::store::{CommitPolicy, Room, StoreOptions};

use super::script::{Op, Script};

/// A file of mapped layers, in bytes.
const BIG: usize = 300 << 10;

fn save(path: &str, len: usize) -> Vec<Op> {
    vec![Op::Open(0, path.into()), Op::Truncate(0, 0), Op::Append(0, len), Op::Close(0)]
}

fn new(path: &str, len: usize) -> Vec<Op> {
    vec![Op::Create(0, path.into()), Op::Append(0, len), Op::Close(0)]
}

fn synced(path: &str, len: usize) -> Vec<Op> {
    vec![Op::Create(0, path.into()), Op::Append(0, len), Op::Fsync(0), Op::Close(0)]
}

fn rename(from: &str, to: &str) -> Op {
    Op::Rename(from.into(), to.into())
}

fn script(name: &str, parts: impl IntoIterator<Item = Vec<Op>>) -> Script {
    Script {
        name: name.into(),
        ops: parts.into_iter().flatten().collect(),
        options: StoreOptions::default(),
        has_exchange: true,
        hard_links: HardLinks::Counted,
        in_order: false,
    }
}

/// A change in the middle of an open file.
fn row(offset: usize) -> Vec<Op> {
    vec![Op::Write(0, offset, 700), Op::Fsync(0)]
}

fn room(handle: u8, room: Room, offset: usize, len: usize) -> Op {
    Op::Room(handle, room, (offset, len), false)
}

fn punch(handle: u8, offset: usize, len: usize) -> Op {
    Op::Room(handle, Room::Punch, (offset, len), true)
}

pub fn named(name: &str) -> Script {
    written().into_iter().find(|script| script.name == name).expect("there is such a script")
}

fn long(letter: char) -> String {
    std::iter::repeat_n(letter, 240).collect()
}

pub fn written() -> Vec<Script> {
    let tick = || vec![Op::Tick(6)];
    let big = || synced("big", BIG);
    let mut all = vec![
        script(
            "fsync",
            vec![
                synced("a", 5000),
                vec![Op::Mkdir("d".into())],
                synced("d/b", 100),
                new("c", 9000),
                tick(),
                save("a", 6000),
                vec![Op::Open(0, "c".into()), Op::Append(0, 10), Op::Fsync(0), Op::Close(0)],
                tick(),
            ],
        ),
        script(
            "save",
            vec![
                new("a", 5000),
                tick(),
                save("a", 3000),
                save("a", 4000),
                tick(),
                vec![Op::Open(0, "a".into()), Op::Truncate(0, 0), Op::Append(0, 70), Op::Fsync(0)],
                vec![Op::Append(0, 9), Op::Tick(70), Op::Append(0, 4), Op::Close(0)],
                tick(),
                vec![Op::TruncatePath("a".into(), 20)],
                tick(),
            ],
        ),
        script(
            "replace",
            vec![
                synced("a", 5000),
                new("a.tmp", 6000),
                vec![rename("a.tmp", "a")],
                tick(),
                synced("a.tmp", 7000),
                vec![rename("a.tmp", "a"), Op::FsyncDir(String::new())],
                new("a.tmp", 100),
                vec![rename("a.tmp", "a")],
                new("a.tmp", 200),
                vec![rename("a.tmp", "a"), rename("a", "b"), rename("b", "a"), Op::Tick(6)],
                vec![Op::Tick(6)],
            ],
        ),
        script(
            "replace open",
            vec![
                synced("a", 5000),
                synced("b", 100),
                vec![Op::Open(1, "b".into()), Op::Append(1, 50), rename("b", "a")],
                vec![Op::Append(1, 60), Op::Tick(6), Op::Close(1)],
                tick(),
                synced("b", 44),
                vec![Op::Open(1, "b".into()), Op::Append(1, 5), rename("b", "a")],
                new("b", 33),
                tick(),
                vec![Op::Fsync(1), Op::Unlink("a".into()), Op::Append(1, 5), Op::Close(1)],
                tick(),
            ],
        ),
        script(
            "rename over an open one",
            vec![
                synced("a", 5000),
                vec![Op::Open(1, "a".into()), Op::Append(1, 50)],
                new("n", 77),
                vec![rename("n", "a"), Op::Append(1, 20), Op::Fsync(1), Op::Tick(6)],
                vec![Op::Append(1, 20), Op::Close(1), Op::Tick(6), Op::Tick(6)],
            ],
        ),
        script(
            "mapped",
            vec![
                big(),
                vec![Op::Open(0, "big".into())],
                row(4096 * 20),
                row(4096 * 40 + 17),
                row(4096 * 20),
                vec![Op::Write(0, 4096 * 3, 4096 * 8), Op::Fsync(0)],
                row(4096 * 60),
                vec![Op::Append(0, 5000), Op::Close(0)],
                tick(),
                vec![Op::TruncatePath("big".into(), 200_000)],
                tick(),
                vec![Op::Unlink("big".into())],
                tick(),
            ],
        ),
        script(
            "folds",
            vec![
                big(),
                vec![Op::Open(0, "big".into())],
                (0..24).flat_map(|n| row(4096 * (n * 7 % 70))).collect(),
                vec![Op::Close(0), Op::Tick(6)],
            ],
        ),
        script(
            "wide layers",
            vec![
                synced("big", 1 << 20),
                vec![Op::Open(0, "big".into())],
                (0..10)
                    .flat_map(|n| {
                        vec![Op::Write(0, 4096 * 22 * n + 9, 4096 * (24 - 2 * n)), Op::Fsync(0)]
                    })
                    .collect(),
                vec![Op::Write(0, (1 << 20) + 99_000, 9), Op::Fsync(0), Op::Close(0)],
                vec![rename("big", "other")],
                tick(),
                tick(),
            ],
        ),
        script(
            "holes",
            vec![
                big(),
                vec![Op::Open(0, "big".into()), punch(0, 4096, 50_000), Op::Fsync(0)],
                vec![
                    room(0, Room::Zero, 100_001, 20_000),
                    room(0, Room::Allocate, BIG - 9, 90_000),
                ],
                row(4096 * 9),
                vec![punch(0, 0, 4096 * 30), Op::Close(0)],
                tick(),
                vec![Op::Open(0, "big".into()), Op::Truncate(0, 1 << 20)],
                row(4096 * 200),
                vec![punch(0, 4096 * 190, 4096 * 30), Op::Truncate(0, 4096 * 60 + 5)],
                vec![Op::Fsync(0), Op::Close(0)],
                // Nothing but what is allocated, and a file that becomes small.
                vec![Op::Create(1, "new".into()), room(1, Room::Allocate, 0, BIG), Op::Close(1)],
                tick(),
                vec![Op::Open(1, "new".into()), Op::Write(1, 200_000, 10), Op::Fsync(1)],
                vec![punch(1, 0, BIG), Op::Truncate(1, 70_000), Op::Close(1)],
                tick(),
            ],
        ),
        script(
            "copies",
            vec![
                big(),
                vec![Op::Open(0, "big".into()), punch(0, 4096 * 10, 4096 * 40), Op::Fsync(0)],
                vec![Op::Create(1, "copy".into()), Op::Copy((0, 0), (1, 0), BIG), Op::Fsync(1)],
                vec![Op::Copy((0, 4096 * 5 + 1), (1, 4096 * 30), 4096 * 12)],
                vec![Op::Copy((1, 0), (1, BIG), 70_000), Op::Close(1)],
                tick(),
                vec![Op::Open(1, "copy".into()), Op::Copy((1, 4096), (0, 4096 * 60), 150_000)],
                vec![Op::Fsync(0), Op::Close(0), Op::Close(1)],
                tick(),
            ],
        ),
        script(
            "directories",
            vec![
                vec![Op::Mkdir("d".into()), Op::Mkdir("d/e".into())],
                synced("d/e/f", 4000),
                vec![rename("d/e/f", "d/f"), Op::FsyncDir("d".into())],
                vec![Op::Mkdir("x".into()), rename("d/f", "x/f"), Op::Open(0, "x/f".into())],
                vec![Op::Append(0, 3), Op::Fsync(0), Op::Close(0)],
                vec![rename("d/e", "x/e")],
                new("x/e/g", 10),
                tick(),
                vec![Op::Rmdir("d".into()), rename("x", "d"), rename("d/f", "f")],
                tick(),
                vec![Op::Mkdir("y".into()), rename("d/e", "y"), rename("y/g", "g")],
                vec![Op::Rmdir("y".into())],
                tick(),
            ],
        ),
        script(
            "into a new directory",
            vec![
                synced("a", 10),
                vec![Op::Mkdir("n".into()), Op::Mkdir("n/m".into()), rename("a", "n/m/a")],
                vec![Op::FsyncDir(String::new())],
            ],
        ),
        // A cut kept the new directory alone: it hid the old one, with what had been moved out of it.
        script(
            "a directory under a removed one's name",
            vec![
                vec![Op::Mkdir("d".into()), Op::Mkdir("d/g".into())],
                vec![Op::FsyncDir(String::new()), Op::FsyncDir("d".into())],
                vec![rename("d/g", "f"), Op::Rmdir("d".into()), Op::Mkdir("d".into())],
            ],
        ),
        // The last of three kept, the second lost: nobody said that the first was unlinked.
        script(
            "an unlinked name taken twice",
            vec![
                vec![Op::Mkdir("d".into())],
                synced("a", 100),
                synced("b", 200),
                synced("d/a", 300),
                vec![Op::Unlink("a".into()), rename("b", "a"), rename("d/a", "a")],
            ],
        ),
        // Nothing is shown of the replaced directory, but a cut keeps the long name's sidecar in it.
        script(
            "over a directory that had a long name",
            vec![
                vec![Op::Mkdir("d".into()), Op::Mkdir("e".into())],
                synced(&format!("e/{}", long('l')), 10),
                vec![rename(&format!("e/{}", long('l')), "b"), rename("d", "e")],
                synced("e/c", 5),
                vec![Op::FsyncDir(String::new())],
            ],
        ),
        // An intent that a cut keeps from having its name, or brings back when the names are as they were before.
        script(
            "an exchange alone",
            vec![
                synced("a", 10),
                vec![Op::Mkdir("d".into())],
                synced("d/b", 20),
                vec![Op::Exchange("a".into(), "d/b".into())],
            ],
        ),
        // What each of the two replaced is removed before, and does not come back beside the other.
        script(
            "an exchange of what replaced others",
            vec![
                synced("a", 10),
                vec![Op::Mkdir("d".into())],
                synced("d/b", 20),
                synced("n", 30),
                synced("m", 40),
                vec![rename("n", "a"), rename("m", "d/b")],
                vec![Op::Exchange("a".into(), "d/b".into())],
            ],
        ),
        script(
            "an exchange and back",
            vec![
                synced("a", 10),
                vec![Op::Mkdir("d".into())],
                synced("d/b", 20),
                vec![Op::Exchange("a".into(), "d/b".into()), rename("a", "c")],
                vec![Op::FsyncDir(String::new()), rename("d/b", "a")],
                vec![Op::FsyncDir("d".into()), Op::FsyncDir(String::new())],
            ],
        ),
        script(
            "unlink",
            vec![
                synced("a", 100),
                synced("b", 200),
                vec![Op::Unlink("a".into())],
                new("a", 300),
                tick(),
                vec![Op::Unlink("b".into()), Op::Symlink("b".into()), Op::FsyncDir(String::new())],
                vec![Op::Unlink("b".into())],
                vec![Op::Create(1, "b".into()), Op::Append(1, 5), Op::Unlink("b".into())],
                vec![Op::Append(1, 5), Op::Fsync(1), Op::Close(1)],
                new("b", 7),
                tick(),
                vec![Op::Symlink("s".into()), rename("s", "b"), Op::Tick(6), Op::Tick(6)],
            ],
        ),
        script(
            "long names",
            vec![
                synced(&long('a'), 100),
                new(&long('b'), 200),
                vec![rename(&long('b'), &long('a'))],
                tick(),
                vec![rename(&long('a'), "short")],
                vec![Op::Mkdir(long('d'))],
                vec![rename("short", &format!("{}/{}", long('d'), long('a')))],
                vec![Op::FsyncDir(long('d'))],
                tick(),
                save(&format!("{}/{}", long('d'), long('a')), 77),
                tick(),
                vec![Op::Unlink(format!("{}/{}", long('d'), long('a'))), Op::Rmdir(long('d'))],
                tick(),
            ],
        ),
        script(
            "exchange",
            vec![
                synced("a", 100),
                vec![Op::Mkdir("d".into())],
                synced("d/b", 200),
                vec![Op::Exchange("a".into(), "d/b".into())],
                new("n", 300),
                vec![Op::Exchange("n".into(), "a".into()), Op::Exchange("d".into(), "a".into())],
                save("n", 10),
                tick(),
                vec![Op::Exchange(long('x'), "a".into())],
                new(&long('x'), 1),
                vec![Op::Exchange(long('x'), "n".into()), Op::Tick(6)],
            ],
        ),
        script(
            "many",
            vec![
                vec![Op::Mkdir("d".into())],
                (0..12).flat_map(|n| new(&format!("d/f{n}"), 500 * n)).collect(),
                tick(),
                (0..12).flat_map(|n| save(&format!("d/f{n}"), 300 * n + 1)).collect(),
                new("t", 5),
                vec![rename("t", "d/f3"), rename("d/f4", "d/f5"), Op::Unlink("d/f6".into())],
                tick(),
                vec![Op::FsyncDir("d".into())],
                tick(),
            ],
        ),
        script(
            "nameless",
            vec![
                synced("a", 5000),
                vec![Op::CreateNameless(0), Op::Append(0, 6000), Op::Name(0, "b".into())],
                vec![Op::Fsync(0), Op::Append(0, 70), Op::Close(0)],
                vec![Op::CreateNameless(1), Op::Append(1, 9000), Op::Name(1, "c".into())],
                vec![Op::Close(1), rename("c", "a")],
                tick(),
                // Nobody ever names this one.
                vec![Op::CreateNameless(2), Op::Append(2, BIG), Op::Fsync(2), Op::Append(2, 9)],
                tick(),
                vec![Op::Close(2)],
                // Older than a minute when it gets its name, and not whole.
                vec![Op::CreateNameless(0), Op::Append(0, 300), Op::Tick(70), Op::Append(0, 9)],
                vec![Op::Name(0, "late".into()), Op::Tick(6), Op::Append(0, 9), Op::Tick(6)],
                vec![Op::Append(0, 5000), Op::Close(0)],
                tick(),
            ],
        ),
        script(
            "nameless and synced",
            vec![
                vec![Op::Mkdir("d".into()), Op::CreateNameless(0), Op::Append(0, 5000)],
                vec![Op::Fsync(0), Op::Name(0, "d/a".into()), Op::FsyncDir("d".into())],
                vec![Op::CreateNameless(1), Op::Append(1, BIG), Op::Fsync(1), Op::Append(1, 70)],
                vec![Op::Name(1, "d/b".into()), Op::Append(1, 80), Op::FsyncDir("d".into())],
                vec![rename("d/b", "d/a"), Op::Append(1, 90), Op::FsyncDir("d".into())],
                vec![Op::Close(0), Op::Close(1), Op::Unlink("d/a".into())],
                tick(),
            ],
        ),
        script(
            "remount",
            vec![
                new("a", 5000),
                vec![Op::Mkdir("d".into())],
                new("d/b", 50),
                vec![Op::Remount],
                new("t", 6),
                vec![rename("t", "a"), rename("d/b", "b"), Op::Rmdir("d".into()), Op::Remount],
                save("b", 20),
                vec![Op::Remount],
            ],
        ),
    ];
    // The dead of one name, several at a time where the disk keeps the order: the mount removes them in turn.
    let thrice = |name: &str| [synced("t", 30), vec![rename("t", name)]].concat();
    all.push(script(
        "replaced three times",
        [
            synced("a", 50),
            synced("b", 50),
            thrice("a"),
            thrice("b"),
            thrice("a"),
            thrice("b"),
            thrice("a"),
            thrice("b"),
            tick(),
        ],
    ));
    let mut no_exchange = named_in(&all, "mapped");
    no_exchange.name = "mapped without exchange".into();
    no_exchange.has_exchange = false;
    let mut no_links = named_in(&all, "mapped");
    no_links.name = "mapped without exchange and links".into();
    no_links.has_exchange = false;
    no_links.hard_links = HardLinks::None;
    all.push(no_exchange);
    all.push(no_links);
    let mut on_close = named_in(&all, "replace");
    on_close.name = "replace on close".into();
    on_close.options.commit = CommitPolicy::OnClose;
    all.push(on_close);
    let mut small_memory = named_in(&all, "wide layers");
    small_memory.name = "wide layers in little memory".into();
    small_memory.options.memory_budget = 64 << 10;
    all.push(small_memory);
    all
}

fn named_in(all: &[Script], name: &str) -> Script {
    all.iter().find(|script| script.name == name).expect("there is such a script").clone()
}

/// The same, with half of the new files made without a name, which they get some operations later.
fn named_late(ops: Vec<Op>, dice: &SeededEntropy) -> Vec<Op> {
    let mut late = Vec::new();
    let mut waiting: Vec<(u64, Op)> = Vec::new();
    for op in ops {
        for (left, _) in &mut waiting {
            *left = left.saturating_sub(1);
        }
        late.extend(waiting.extract_if(.., |(left, _)| *left == 0).map(|(_, name)| name));
        match op {
            Op::Create(handle, path) if dice.next_u64().is_multiple_of(2) => {
                late.push(Op::CreateNameless(handle));
                waiting.push((1 + dice.next_u64() % 6, Op::Name(handle, path)));
            }
            op => late.push(op),
        }
    }
    late
}

/// A script drawn from a seed.
pub fn random(seed: u64, len: usize) -> Script {
    let dice = SeededEntropy::new(seed);
    let pick = |count: u64| dice.next_u64() % count;
    let long_name = long('l');
    let names = ["a", "b", "a", "b", "a", long_name.as_str()];
    let dirs = ["", "", "", "d/", "d/", "e/", "d/g/"];
    let path = || format!("{}{}", dirs[pick(7) as usize], names[pick(6) as usize]);
    let dir = || ["d", "e", "d/g", "e/h", "f"][pick(5) as usize].to_string();
    let size = || match pick(4) {
        0 => pick(100) as usize,
        1 => pick(9000) as usize,
        2 => 4096 * pick(30) as usize,
        _ => 130_000 + pick(100_000) as usize,
    };
    let mut ops = vec![Op::Mkdir("d".into()), Op::Mkdir("e".into()), Op::Mkdir("d/g".into())];
    while ops.len() < len {
        let handle = pick(3) as u8;
        match pick(36) {
            0..=4 => ops.extend([Op::Create(handle, path()), Op::Append(handle, size())]),
            5 | 6 => ops.extend(save(&path(), size())),
            7 | 8 => ops.push(Op::Open(handle, path())),
            9..=11 => ops.push(Op::Write(handle, size(), 1 + pick(9000) as usize)),
            12 => ops.push(Op::Truncate(handle, size())),
            13 => ops.push(Op::TruncatePath(path(), size())),
            14 => ops.push(Op::Flush(handle)),
            15 => ops.push(Op::Fsync(handle)),
            16 => ops.push(Op::FsyncDir(["", "d", "e"][pick(3) as usize].into())),
            17..=19 => ops.push(Op::Close(handle)),
            20 => ops.push(Op::Symlink(path())),
            21 => ops.push(Op::Mkdir(dir())),
            22..=25 => ops.push(Op::Rename(path(), path())),
            26 => ops.push(Op::Rename(dir(), dir())),
            27 => ops.push(Op::Exchange(path(), path())),
            28 => ops.push(Op::Unlink(path())),
            30 => ops.push(room(handle, Room::Allocate, size(), 1 + size())),
            31 => ops.push(room(handle, Room::Zero, size(), 1 + size())),
            32 => ops.push(punch(handle, size(), 1 + size())),
            33 => ops.push(Op::Copy((handle, size()), (pick(3) as u8, size()), size())),
            29 => ops.push(if pick(3) == 0 { Op::Remount } else { Op::Rmdir(dir()) }),
            _ => ops.push(Op::Tick([1, 6, 6, 70][pick(4) as usize])),
        }
    }
    if seed.is_multiple_of(3) {
        ops = named_late(ops, &dice);
    }
    Script {
        name: format!("random-{seed}"),
        ops,
        options: StoreOptions {
            commit: if seed.is_multiple_of(7) {
                CommitPolicy::OnClose
            } else {
                CommitPolicy::Interval(Duration::from_secs(5))
            },
            ..StoreOptions::default()
        },
        has_exchange: !seed.is_multiple_of(5),
        hard_links: if seed.is_multiple_of(15) { HardLinks::None } else { HardLinks::Counted },
        in_order: false,
    }
}
