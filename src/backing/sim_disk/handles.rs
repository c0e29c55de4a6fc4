//! Open objects of a simulated disk. Each keeps its inode alive, whatever happens to its names.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::faults::CallKind;
use super::tree::{Ino, Locked, errno};
use super::{FILE_LEN_MAX, Shared, State, Tree};
use crate::backing::{AttrChange, Mapping, PublishedFile, Stat, TempFile, check_range};

/// A reference to an inode, counted.
struct Handle {
    shared: Arc<Shared>,
    ino: Ino,
}

impl Handle {
    fn open(shared: &Arc<Shared>, state: &mut State, ino: Ino) -> Handle {
        state.tree.open_handle(ino);
        Handle { shared: Arc::clone(shared), ino }
    }

    fn stat(&self) -> io::Result<Stat> {
        let state = self.shared.enter(CallKind::Stat, b"")?;
        Ok(state.tree.stat(self.ino))
    }

    fn read_at(&self, kind: CallKind, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.shared.enter(kind, b"")?;
        state.faults.counters.bytes_read += out.len() as u64;
        if state.tree.bytes(self.ino).now.read(offset, out) || out.is_empty() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state.lock().tree.close_handle(self.ino);
    }
}

/// An open directory of a [`super::SimDisk`].
pub struct SimDir(Handle);

impl SimDir {
    pub(super) fn open(shared: &Arc<Shared>, state: &mut State, ino: Ino) -> SimDir {
        SimDir(Handle::open(shared, state, ino))
    }

    pub(super) fn ino(&self) -> Ino {
        self.0.ino
    }
}

/// An open published file of a [`super::SimDisk`].
pub struct SimFile(Handle);

impl SimFile {
    pub(super) fn open(shared: &Arc<Shared>, state: &mut State, ino: Ino) -> SimFile {
        SimFile(Handle::open(shared, state, ino))
    }
}

impl PublishedFile for SimFile {
    type Mapping = SimMapping;

    fn stat(&self) -> io::Result<Stat> {
        self.0.stat()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(CallKind::Read, offset, out)
    }

    fn map(&self, len: u64) -> io::Result<SimMapping> {
        let mut state = self.0.shared.enter(CallKind::Map, b"")?;
        check_range(state.tree.bytes(self.0.ino).now.len, 0, len)?;
        let handle = Handle::open(&self.0.shared, &mut state, self.0.ino);
        Ok(SimMapping { handle, len, poisoned: AtomicBool::new(false) })
    }
}

/// A mapping of a file of a [`super::SimDisk`]: sees what is done to the file, as a real one does.
pub struct SimMapping {
    handle: Handle,
    len: u64,
    poisoned: AtomicBool,
}

impl Mapping for SimMapping {
    fn len(&self) -> u64 {
        self.len
    }

    fn copy_out(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        check_range(self.len, offset, out.len() as u64)?;
        match self.handle.read_at(CallKind::CopyOut, offset, out) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.poisoned.store(true, Ordering::SeqCst);
            }
            Err(error) => return Err(error),
        }
        if self.poisoned.load(Ordering::SeqCst) {
            return Err(errno(libc::EIO));
        }
        Ok(())
    }

    fn resident(&self, _offset: u64, _len: u64) -> bool {
        true
    }
}

/// An open temporary file of a [`super::SimDisk`].
pub struct SimTemp {
    handle: Handle,
    /// The failures to write back that it was told of.
    seen: Mutex<u64>,
}

impl SimTemp {
    pub(super) fn open(shared: &Arc<Shared>, state: &mut State, ino: Ino) -> SimTemp {
        let handle = Handle::open(shared, state, ino);
        let seen = Mutex::new(state.tree.inode(ino).write_back.seen_at_open());
        SimTemp { handle, seen }
    }

    /// Writes as much as fits; ENOSPC if that is not all.
    fn write(&self, state: &mut State, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > FILE_LEN_MAX) {
            return Err(errno(libc::EFBIG));
        }
        let now = self.handle.shared.now(state);
        let ino = self.handle.ino;
        let done = state.tree.with_bytes(ino, |file, free| file.write(offset, bytes, free));
        let attr = &mut state.tree.inode_mut(ino).attr;
        (attr.mtime, attr.ctime) = (now, now);
        state.faults.counters.bytes_written += done as u64;
        if done < bytes.len() { Err(errno(libc::ENOSPC)) } else { Ok(()) }
    }
}

impl TempFile for SimTemp {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.handle.shared.state.lock();
        state.ticks += 1;
        match state.faults.enter(CallKind::Write, b"") {
            Ok(_) => self.write(&mut state, offset, bytes),
            Err(error) => {
                if !state.faults.is_off {
                    // What a failed write wrote is anybody's guess.
                    let _ = self.write(&mut state, offset, &bytes[..bytes.len() / 2]);
                }
                Err(error)
            }
        }
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.handle.read_at(CallKind::Read, offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.handle.shared.enter(CallKind::SetLen, b"")?;
        if len > FILE_LEN_MAX {
            return Err(errno(libc::EFBIG));
        }
        let now = self.handle.shared.now(&state);
        state.tree.with_bytes(self.handle.ino, |bytes, _| bytes.set_len(len));
        let attr = &mut state.tree.inode_mut(self.handle.ino).attr;
        (attr.mtime, attr.ctime) = (now, now);
        Ok(())
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.handle.shared.enter(CallKind::Reserve, b"")?;
        if len == 0 || state.tree.capacity_pages.is_none() {
            return Ok(());
        }
        let fits = |file: &mut super::FileBytes, free| file.reserve(offset, len, free);
        if state.tree.with_bytes(self.handle.ino, fits) { Ok(()) } else { Err(errno(libc::ENOSPC)) }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.handle.shared.enter(CallKind::Reserve, b"")?;
        let fits = |file: &mut super::FileBytes, free| file.reserve(0, len, free);
        if state.tree.with_bytes(self.handle.ino, fits) { Ok(()) } else { Err(errno(libc::ENOSPC)) }
    }

    fn stat(&self) -> io::Result<Stat> {
        self.handle.stat()
    }

    fn set_attr(&self, change: &AttrChange) -> io::Result<()> {
        let mut state = self.handle.shared.enter(CallKind::SetAttr, b"")?;
        let now = self.handle.shared.now(&state);
        state.tree.set_attr(self.handle.ino, change, now)
    }

    fn start_writeback(&self) -> io::Result<()> {
        // A hint: what it may write may also survive without it.
        let lose = |tree: &mut Tree| tree.lose_unnoticed(self.handle.ino);
        self.handle.shared.enter_sync(CallKind::StartWriteback, lose).map(drop)
    }

    fn sync(&self) -> io::Result<()> {
        let ino = self.handle.ino;
        let mut seen = self.seen.lock();
        let lose = |tree: &mut Tree| {
            tree.lose_unnoticed(ino);
            let _ = tree.tell(ino, &mut seen);
        };
        if let Some(mut state) = self.handle.shared.enter_sync(CallKind::Sync, lose)? {
            state.tree.tell(ino, &mut seen)?;
            state.tree.sync_file(ino);
        }
        Ok(())
    }
}

/// A held lock of a [`super::SimDisk`].
pub struct SimLock(Handle);

impl SimLock {
    pub(super) fn open(shared: &Arc<Shared>, state: &mut State, ino: Ino) -> SimLock {
        SimLock(Handle::open(shared, state, ino))
    }

    pub(super) fn ino(&self) -> Ino {
        self.0.ino
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.0.shared.state.lock();
        let locked = &mut state.tree.inode_mut(self.0.ino).locked;
        *locked = match *locked {
            Locked::Shared(count) if count > 1 => Locked::Shared(count - 1),
            _ => Locked::No,
        };
    }
}
