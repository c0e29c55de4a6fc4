//! Allocation, holes and copies of ranges, beside the model.
//!
//! The model does not know what is allocated. What must hold without knowing: data is never said to be a hole, a hole is
//! what was just punched, what was just allocated counts, and no commit and no mount changes what counts.

use akasha::format::EntryId;
use akasha::fs::{FsError, Handle};
use akasha::store::Seek;

use super::driver::{CALLER, Different, Driver, Open, both, same, text};
use super::reference::{Body, NodeIndex};

/// What is no larger is kept without holes.
const SMALL_LEN: u64 = 128 << 10;
/// The unit in which the last block of a file counts.
const PAGE: u64 = 4096;

impl Driver {
    pub(super) fn fsync(&self, handle: Handle, ino: EntryId) -> Result<(), Different> {
        let before = self.fs.getattr(ino).map_err(text)?.blocks_512;
        self.fs.fsync(handle).map_err(text)?;
        same("st_blocks after fsync", self.fs.getattr(ino).map_err(text)?.blocks_512, before)
    }

    pub(super) fn fallocate(
        &mut self,
        open: &Open,
        (offset, len): (u64, u64),
        mode: i32,
    ) -> Result<(), Different> {
        let real = self.fs.fallocate(open.handle, (offset, len), mode, CALLER);
        let model = match (open.writes, len) {
            (false, _) => Err(vec![libc::EBADF]),
            (true, 0) => Err(vec![libc::EINVAL]),
            (true, _) => Ok(()),
        };
        if both(real, model)?.is_none() {
            return Ok(());
        }
        let end = offset + len;
        let size = self.model.content(open.node).len() as u64;
        let new_size = if mode & libc::FALLOC_FL_KEEP_SIZE == 0 { size.max(end) } else { size };
        let zeroes = mode & !libc::FALLOC_FL_KEEP_SIZE != 0 && offset < new_size;
        if new_size != size || zeroes {
            let content = self.model.content_mut(open.node);
            content.resize(new_size as usize, 0);
            if zeroes {
                content[offset as usize..end.min(new_size) as usize].fill(0);
            }
        }
        // Whatever became of its time: a call that changes nothing need not move it.
        self.model.node_mut(open.node).mtime = None;
        let attr = self.fs.getattr(open.ino).map_err(text)?;
        same("size", attr.size, new_size)?;
        let block_len = self.vault.block_len();
        let (first, last) = (offset.div_ceil(block_len), end / block_len);
        if mode & libc::FALLOC_FL_PUNCH_HOLE != 0 {
            let (first, end) = (first * block_len, (last * block_len).min(new_size));
            if first < end && new_size > SMALL_LEN {
                let data = self.seek(open.handle, first, Seek::Data)?;
                if data.is_some_and(|data| data < end) {
                    return Err(format!("data at {data:?} in what was punched"));
                }
                same("hole", self.seek(open.handle, first, Seek::Hole)?, Some(first))?;
            }
        } else if offset < new_size {
            let at_least =
                end.min(new_size).next_multiple_of(PAGE) - offset / block_len * block_len;
            if attr.blocks_512 * 512 < at_least {
                return Err(format!(
                    "{} blocks, but {at_least} bytes were allocated",
                    attr.blocks_512
                ));
            }
        }
        self.compare_seek(open.handle, open.node, offset)
    }

    fn seek(&self, handle: Handle, offset: u64, seek: Seek) -> Result<Option<u64>, Different> {
        match self.fs.seek(handle, offset, seek) {
            Ok(place) => Ok(Some(place)),
            Err(FsError::NoDevice) => Ok(None),
            Err(error) => Err(text(error)),
        }
    }

    /// Looks for data and holes from `offset` to the end: what is said to be a hole is zeros, and what is data counts.
    pub(super) fn compare_seek(
        &self,
        handle: Handle,
        node: NodeIndex,
        offset: u64,
    ) -> Result<(), Different> {
        let content = self.model.content(node);
        let size = content.len() as u64;
        if offset >= size {
            same("data beyond the end", self.seek(handle, offset, Seek::Data)?, None)?;
            return same("hole beyond the end", self.seek(handle, offset, Seek::Hole)?, None);
        }
        let mut data_len = 0;
        let mut at = offset;
        while at < size {
            let data = self.seek(handle, at, Seek::Data)?;
            let (from, to) = (at as usize, data.unwrap_or(size) as usize);
            if data.is_some_and(|data| data < at || data >= size) {
                return Err(format!("the data after {at} is at {data:?}"));
            }
            if content[from..to].iter().any(|byte| *byte != 0) {
                return Err(format!("a hole from {at} to {data:?} holds data"));
            }
            let Some(data) = data else { break };
            let hole = self.seek(handle, data, Seek::Hole)?;
            match hole {
                Some(hole) if hole > data && hole <= size => {
                    data_len += hole - data;
                    at = hole;
                }
                _ => return Err(format!("the hole after {data} is at {hole:?}")),
            }
        }
        let allocated = self.fs.getattr(self.inos[&node]).map_err(text)?.blocks_512 * 512;
        if allocated < data_len || allocated > size.next_multiple_of(PAGE) {
            return Err(format!("{allocated} bytes of {size} count, {data_len} of them are data"));
        }
        Ok(())
    }

    pub(super) fn copy_range(
        &mut self,
        from: (usize, u64),
        to: (usize, u64),
        len: u64,
    ) -> Result<(), Different> {
        let (Some(source), Some(target)) = (self.handle(from.0), self.handle(to.0)) else {
            return Ok(());
        };
        let (source, target) =
            ((source.handle, source.node), (target.handle, target.node, target.writes));
        let (from, to) = (from.1, to.1);
        // The kernel refuses what overlaps.
        if source.1 == target.1 && from < to + len && to < from + len {
            return Ok(());
        }
        let data = self.model.read(source.1, from, len).to_vec();
        let model = if target.2 { Ok(()) } else { Err(vec![libc::EBADF]) };
        let real = self.fs.copy_range((source.0, from), (target.0, to), len, CALLER);
        if let Some((copied, ())) = both(real, model)? {
            same("bytes copied", copied, data.len() as u64)?;
            self.model.write(target.1, to, &data);
            self.compare_seek(target.0, target.1, to)?;
        }
        Ok(())
    }

    /// st_blocks of every file that has a path.
    pub(super) fn blocks(&self) -> Result<Vec<(NodeIndex, u64)>, Different> {
        let mut found = Vec::new();
        for (dir, path) in self.model.dirs() {
            let ino = self.walk(&path)?;
            for (name, &child) in self.model.entries(dir) {
                let attr = self.fs.lookup(ino, name).map_err(text)?;
                if matches!(self.model.node(child).body, Body::File(_)) {
                    found.push((child, attr.blocks_512));
                }
                self.fs.forget(attr.id, 1);
            }
            self.forget_paths();
        }
        found.sort_unstable();
        Ok(found)
    }
}
