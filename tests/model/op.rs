//! The operations, chosen at random and printable. What they are about is chosen by a number modulo
//! how many there are when the operation runs, so that any sequence of operations means something.

/// A repeatable sequence of numbers (splitmix64).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick(&mut self) -> usize {
        self.below(1 << 16) as usize
    }

    /// An offset or size: mostly small, often at or beside the edge of a block.
    fn offset(&mut self) -> u64 {
        const BLOCK: u64 = 4096;
        match self.below(8) {
            0 => 0,
            1 | 2 => self.below(BLOCK),
            3..=5 => {
                let edge = BLOCK * self.below(40);
                (edge + self.below(5)).saturating_sub(2)
            }
            6 => self.below(BLOCK * 64),
            _ => self.below(BLOCK * 512),
        }
    }

    fn len(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(16),
            1 => self.offset().min(70_000),
            2 => 4096,
            _ => self.below(20_000),
        }
    }
}

/// A directory, file or handle, modulo how many there are.
pub type Pick = usize;

/// A name: an index into a few, so that they collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(pub usize);

impl Name {
    const COUNT: u64 = 12;

    fn random(rng: &mut Rng) -> Self {
        Name(rng.below(Self::COUNT) as usize)
    }

    /// Its bytes: short, long, longest, not UTF-8, like the vault's own, and two that are refused.
    pub fn bytes(self) -> Vec<u8> {
        match self.0 {
            0 => b"a".to_vec(),
            1 => b"b".to_vec(),
            2 => b"c.txt".to_vec(),
            3 => "\u{e4}\u{1f600}".as_bytes().to_vec(),
            4 => vec![0xff, 0xfe, b'\n'],
            5 => vec![b'n'; 150],
            6 => vec![b'l'; 200],
            7 => vec![b'm'; 255],
            8 => b".akasha".to_vec(),
            9 => b".dir".to_vec(),
            10 => b"d".to_vec(),
            _ => vec![b'x'; 256],
        }
    }
}

/// What a rename does about its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Replace,
    NoReplace,
    Exchange,
    Whiteout,
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Op {
    /// Makes a file and leaves it open for reading and writing.
    Create {
        dir: Pick,
        name: Name,
        mode: u32,
        exclusive: bool,
    },
    /// Makes a file without a name (O_TMPFILE) and leaves it open; with `exclusive` it never gets one.
    CreateNameless {
        dir: Pick,
        mode: u32,
        exclusive: bool,
    },
    /// linkat(2) of what is open.
    LinkOpen {
        handle: Pick,
        to: (Pick, Name),
    },
    /// Makes a file without opening it.
    Mknod {
        dir: Pick,
        name: Name,
        mode: u32,
    },
    /// Makes a fifo, a socket or a device; the type is in the mode.
    Special {
        dir: Pick,
        name: Name,
        mode: u32,
        rdev: u32,
    },
    Open {
        dir: Pick,
        name: Name,
        write: bool,
        truncate: bool,
    },
    Close {
        handle: Pick,
    },
    Flush {
        handle: Pick,
    },
    Write {
        handle: Pick,
        offset: u64,
        len: u64,
        fill: u8,
    },
    Append {
        handle: Pick,
        len: u64,
        fill: u8,
    },
    Read {
        handle: Pick,
        offset: u64,
        len: u64,
    },
    HandleTruncate {
        handle: Pick,
        size: u64,
    },
    Truncate {
        dir: Pick,
        name: Name,
        size: u64,
    },
    Fsync {
        handle: Pick,
    },
    /// fallocate(2); the mode is its bits.
    Fallocate {
        handle: Pick,
        offset: u64,
        len: u64,
        mode: i32,
    },
    /// SEEK_DATA and SEEK_HOLE.
    Seek {
        handle: Pick,
        offset: u64,
    },
    CopyRange {
        from: Pick,
        from_offset: u64,
        to: Pick,
        to_offset: u64,
        len: u64,
    },
    FsyncDir {
        dir: Pick,
    },
    Mkdir {
        dir: Pick,
        name: Name,
        mode: u32,
    },
    Symlink {
        dir: Pick,
        name: Name,
        len: usize,
    },
    Readlink {
        dir: Pick,
        name: Name,
    },
    Unlink {
        dir: Pick,
        name: Name,
    },
    Rmdir {
        dir: Pick,
        name: Name,
    },
    Rename {
        from: (Pick, Name),
        to: (Pick, Name),
        mode: Mode,
    },
    Link {
        from: (Pick, Name),
        to: (Pick, Name),
    },
    List {
        dir: Pick,
    },
    Chmod {
        dir: Pick,
        name: Name,
        mode: u32,
    },
    Chown {
        dir: Pick,
        name: Name,
        uid: u32,
        gid: u32,
    },
    Utimens {
        dir: Pick,
        name: Name,
        secs: i64,
        nanos: u32,
    },
    DirTime {
        dir: Pick,
        secs: i64,
    },
    /// setxattr(2) of an attribute, one of a few; the value has this length.
    SetXattr {
        dir: Pick,
        name: Name,
        which: usize,
        len: usize,
        flags: i32,
    },
    RemoveXattr {
        dir: Pick,
        name: Name,
        which: usize,
    },
    /// Lets the store do what is due after this many seconds.
    Tick {
        secs: u64,
    },
    /// Ends the mount with everything that is open, and mounts again.
    Remount,
}

impl Op {
    fn space(rng: &mut Rng, handle: Pick) -> Op {
        const MODES: [i32; 5] = [
            0,
            libc::FALLOC_FL_KEEP_SIZE,
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            libc::FALLOC_FL_ZERO_RANGE,
            libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
        ];
        let mode = MODES[rng.below(MODES.len() as u64) as usize];
        match rng.below(4) {
            0 => Op::CopyRange {
                from: rng.pick(),
                from_offset: rng.offset(),
                to: handle,
                to_offset: rng.offset(),
                len: rng.offset(),
            },
            1 => Op::Fallocate { handle, offset: rng.offset(), len: rng.len(), mode },
            _ => Op::Fallocate { handle, offset: rng.offset(), len: rng.offset(), mode },
        }
    }

    fn xattr(rng: &mut Rng, dir: Pick, name: Name) -> Op {
        let which = rng.below(7) as usize;
        if rng.below(4) == 0 {
            return Op::RemoveXattr { dir, name, which };
        }
        let len = match rng.below(8) {
            0 => 0,
            1 => 65537,
            2 => rng.below(9000) as usize,
            _ => rng.below(900) as usize,
        };
        let flags = [0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE][rng.below(4) as usize];
        Op::SetXattr { dir, name, which, len, flags }
    }

    pub fn random(rng: &mut Rng) -> Op {
        let dir = rng.pick();
        let handle = rng.pick();
        let name = Name::random(rng);
        match rng.below(100) {
            0..=1 => {
                let exclusive = rng.below(4) == 0;
                Op::CreateNameless { dir, mode: 0o600 | rng.below(0o200) as u32, exclusive }
            }
            2..=11 => {
                let exclusive = rng.below(2) == 0;
                Op::Create { dir, name, mode: 0o600 | rng.below(0o200) as u32, exclusive }
            }
            12 if rng.below(2) == 0 => Op::Mknod { dir, name, mode: 0o644 },
            12 => {
                let kinds = [libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFBLK];
                let mode = kinds[rng.below(4) as usize] | 0o600 | rng.below(0o200) as u32;
                Op::Special { dir, name, mode, rdev: rng.next() as u32 }
            }
            13..=17 => Op::Open { dir, name, write: rng.below(3) > 0, truncate: rng.below(4) == 0 },
            18..=24 => Op::Close { handle },
            25..=26 => Op::Flush { handle },
            27..=33 => Op::Write {
                handle,
                offset: rng.offset(),
                len: rng.len(),
                fill: rng.below(256) as u8,
            },
            34..=37 => Op::space(rng, handle),
            38..=40 => Op::Seek { handle, offset: rng.offset() },
            41..=44 => Op::Append { handle, len: rng.len(), fill: rng.below(256) as u8 },
            46..=48 => Op::Read { handle, offset: rng.offset(), len: rng.len() },
            49..=51 => Op::HandleTruncate { handle, size: rng.offset() },
            52..=53 => Op::Truncate { dir, name, size: rng.offset() },
            54..=57 => Op::Fsync { handle },
            58..=59 => Op::FsyncDir { dir },
            60..=64 => Op::Mkdir { dir, name, mode: 0o700 | rng.below(0o100) as u32 },
            65 => Op::Symlink { dir, name, len: 1 + rng.below(300) as usize },
            67 => Op::Readlink { dir, name },
            68..=71 => Op::Unlink { dir, name },
            72..=73 => Op::Rmdir { dir, name },
            74 => Op::LinkOpen { handle, to: (dir, name) },
            66 | 75..=76 => Op::Link { from: (dir, name), to: (rng.pick(), Name::random(rng)) },
            77..=85 => {
                let to = (rng.pick(), Name::random(rng));
                let mode = match rng.below(6) {
                    0 => Mode::NoReplace,
                    1 => Mode::Exchange,
                    2 if rng.below(3) == 0 => Mode::Whiteout,
                    _ => Mode::Replace,
                };
                Op::Rename { from: (dir, name), to, mode }
            }
            87 => Op::List { dir },
            45 | 86 => Op::xattr(rng, dir, name),
            88..=89 => Op::Chmod { dir, name, mode: rng.below(0o10_000) as u32 | 0o400 },
            90 => Op::Chown { dir, name, uid: rng.below(3) as u32, gid: rng.below(3) as u32 },
            91..=92 => Op::Utimens {
                dir,
                name,
                secs: rng.below(4_000_000_000).cast_signed() - 100_000_000,
                nanos: rng.below(1_000_000_000) as u32,
            },
            93 => Op::DirTime { dir, secs: rng.below(2_000_000_000).cast_signed() },
            94..=97 => Op::Tick { secs: rng.below(90) },
            _ => Op::Remount,
        }
    }
}
