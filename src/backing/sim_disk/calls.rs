//! The calls of [`Backing`] on a simulated disk: each enters (is counted, may fail), checks the name, and
//! leaves the rest to the tree.

use std::io;

use parking_lot::MutexGuard;

use super::faults::CallKind;
use super::handles::{SimDir, SimFile, SimLock, SimTemp};
use super::pages::{FileBytes, PAGE_LEN};
use super::tree::{Body, Ino, Locked, Names, READ, READ_WRITE, ROOT, SEARCH, Tree, errno};
use super::{SimDisk, State};
use crate::backing::{
    At, AttrChange, Backing, FileKind, NAME_LEN_MAX, RawEntry, RenameMode, SpaceStat, Stat,
    check_name,
};

impl SimDisk {
    fn enter(&self, kind: CallKind, name: &[u8]) -> io::Result<MutexGuard<'_, State>> {
        self.shared.enter(kind, name)
    }

    fn sync_names(&self, dir: &SimDir, sync: fn(&mut Tree, Ino)) -> io::Result<()> {
        if let Some(mut state) = self.shared.enter_sync(CallKind::SyncDir, |_| {})? {
            sync(&mut state.tree, dir.ino());
        }
        let then = self.shared.after_sync_dir.lock().take();
        if let Some(then) = then {
            then();
        }
        Ok(())
    }

    fn resolve(tree: &Tree, dir: &SimDir, at: At<'_>) -> io::Result<Ino> {
        match at {
            At::This => Ok(dir.ino()),
            At::Name(name) => {
                check_name(name)?;
                tree.lookup_any(dir.ino(), name)
            }
        }
    }
}

fn label(at: At<'_>) -> &[u8] {
    match at {
        At::This => b".",
        At::Name(name) => name,
    }
}

impl Backing for SimDisk {
    type Dir = SimDir;
    type File = SimFile;
    type Temp = SimTemp;
    type Lock = SimLock;

    fn root(&self) -> io::Result<SimDir> {
        let mut state = self.enter(CallKind::Root, b"")?;
        Ok(SimDir::open(&self.shared, &mut state, ROOT))
    }

    fn open_dir(&self, dir: &SimDir, name: &[u8]) -> io::Result<SimDir> {
        let mut state = self.enter(CallKind::OpenDir, name)?;
        check_name(name)?;
        let ino = state.tree.lookup_kind(dir.ino(), name, FileKind::Dir)?;
        state.tree.may(ino, READ)?;
        Ok(SimDir::open(&self.shared, &mut state, ino))
    }

    fn list(&self, dir: &SimDir) -> io::Result<Vec<RawEntry>> {
        let state = self.enter(CallKind::List, b"")?;
        state.tree.may(dir.ino(), READ)?;
        state.tree.may(dir.ino(), SEARCH)?;
        if state.tree.inode(dir.ino()).names == 0 {
            return Err(errno(libc::ENOENT));
        }
        let entries = state.tree.list(dir.ino()).into_iter();
        Ok(entries.map(|(name, kind)| RawEntry { name, kind }).collect())
    }

    fn stat(&self, dir: &SimDir, at: At<'_>) -> io::Result<Stat> {
        let state = self.enter(CallKind::Stat, label(at))?;
        let ino = match at {
            At::This => dir.ino(),
            At::Name(name) => {
                check_name(name)?;
                state.tree.lookup(dir.ino(), name)?
            }
        };
        Ok(state.tree.stat(ino))
    }

    fn set_attr(&self, dir: &SimDir, at: At<'_>, change: &AttrChange) -> io::Result<()> {
        let mut state = self.enter(CallKind::SetAttr, label(at))?;
        let ino = Self::resolve(&state.tree, dir, at)?;
        let now = self.shared.now(&state);
        state.tree.set_attr(ino, change, now)
    }

    fn get_xattr(&self, dir: &SimDir, at: At<'_>, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let state = self.enter(CallKind::GetXattr, label(at))?;
        let ino = Self::resolve(&state.tree, dir, at)?;
        state.tree.may(ino, READ)?;
        Ok(state.tree.inode(ino).attr.xattrs.get(key).cloned())
    }

    fn list_xattrs(&self, dir: &SimDir, at: At<'_>) -> io::Result<Vec<Vec<u8>>> {
        let state = self.enter(CallKind::ListXattrs, label(at))?;
        let ino = Self::resolve(&state.tree, dir, at)?;
        state.tree.may(ino, READ)?;
        Ok(state.tree.inode(ino).attr.xattrs.keys().cloned().collect())
    }

    fn set_xattr(
        &self,
        dir: &SimDir,
        at: At<'_>,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> io::Result<()> {
        let mut state = self.enter(CallKind::SetXattr, label(at))?;
        let ino = Self::resolve(&state.tree, dir, at)?;
        state.tree.may(ino, READ_WRITE)?;
        let now = self.shared.now(&state);
        state.tree.set_xattr(ino, key, value, now)
    }

    fn open(&self, dir: &SimDir, name: &[u8]) -> io::Result<SimFile> {
        let mut state = self.enter(CallKind::Open, name)?;
        check_name(name)?;
        let ino = state.tree.lookup_kind(dir.ino(), name, FileKind::File)?;
        state.tree.may(ino, READ)?;
        Ok(SimFile::open(&self.shared, &mut state, ino))
    }

    fn create_temp(&self, dir: &SimDir, name: &[u8], mode: u32) -> io::Result<SimTemp> {
        let mut state = self.enter(CallKind::CreateTemp, name)?;
        check_name(name)?;
        let now = self.shared.now(&state);
        let body = Body::File(FileBytes::default());
        let ino = state.tree.create(dir.ino(), name, body, mode, now)?;
        Ok(SimTemp::open(&self.shared, &mut state, ino))
    }

    fn open_temp(&self, dir: &SimDir, name: &[u8]) -> io::Result<SimTemp> {
        let mut state = self.enter(CallKind::OpenTemp, name)?;
        check_name(name)?;
        let ino = state.tree.lookup_kind(dir.ino(), name, FileKind::File)?;
        state.tree.may(ino, READ_WRITE)?;
        Ok(SimTemp::open(&self.shared, &mut state, ino))
    }

    fn mkdir(&self, dir: &SimDir, name: &[u8], mode: u32) -> io::Result<()> {
        let mut state = self.enter(CallKind::Mkdir, name)?;
        check_name(name)?;
        let now = self.shared.now(&state);
        state.tree.create(dir.ino(), name, Body::Dir(Names::default()), mode, now)?;
        Ok(())
    }

    fn rename(
        &self,
        from_dir: &SimDir,
        from: &[u8],
        to_dir: &SimDir,
        to: &[u8],
        mode: RenameMode,
    ) -> io::Result<()> {
        let mut state = self.enter(CallKind::Rename, to)?;
        check_name(from)?;
        check_name(to)?;
        let now = self.shared.now(&state);
        state.tree.rename((from_dir.ino(), from), (to_dir.ino(), to), mode, now)
    }

    fn link(&self, from_dir: &SimDir, from: &[u8], to_dir: &SimDir, to: &[u8]) -> io::Result<()> {
        let mut state = self.enter(CallKind::Link, to)?;
        check_name(from)?;
        check_name(to)?;
        let now = self.shared.now(&state);
        state.tree.link((from_dir.ino(), from), (to_dir.ino(), to), now)
    }

    fn unlink(&self, dir: &SimDir, name: &[u8]) -> io::Result<()> {
        let mut state = self.enter(CallKind::Unlink, name)?;
        check_name(name)?;
        let now = self.shared.now(&state);
        state.tree.unlink(dir.ino(), name, now)
    }

    fn rmdir(&self, dir: &SimDir, name: &[u8]) -> io::Result<()> {
        let mut state = self.enter(CallKind::Rmdir, name)?;
        check_name(name)?;
        let now = self.shared.now(&state);
        state.tree.rmdir(dir.ino(), name, now)
    }

    fn sync_dir(&self, dir: &SimDir) -> io::Result<()> {
        self.sync_names(dir, Tree::sync_dir)
    }

    fn sync_arrivals(&self, dir: &SimDir) -> io::Result<()> {
        self.sync_names(dir, Tree::sync_arrivals)
    }

    fn sync_all(&self, _dir: &SimDir) -> io::Result<()> {
        let lose = Tree::lose_all_pending;
        if let Some(mut state) = self.shared.enter_sync(CallKind::SyncAll, lose)? {
            if std::mem::take(&mut state.tree.has_lost_unnoticed) {
                return Err(errno(libc::EIO));
            }
            state.tree.sync_all();
        }
        Ok(())
    }

    fn sync_all_is_sound(&self) -> bool {
        true
    }

    fn keeps_name_order(&self) -> bool {
        self.shared.state.lock().tree.keeps_name_order
    }

    fn space(&self, _dir: &SimDir) -> io::Result<SpaceStat> {
        let state = self.enter(CallKind::Space, b"")?;
        let blocks = state.tree.capacity_pages.unwrap_or(1 << 40);
        let free = blocks.saturating_sub(state.tree.used_pages);
        Ok(SpaceStat {
            unit_len: PAGE_LEN as u64,
            blocks,
            blocks_free: free,
            blocks_avail: free,
            files: 1 << 40,
            files_free: (1 << 40) - state.tree.inodes.len() as u64,
            name_max: NAME_LEN_MAX as u64,
        })
    }

    fn lock(&self, dir: &SimDir, name: &[u8], exclusive: bool) -> io::Result<SimLock> {
        let mut state = self.enter(CallKind::Lock, name)?;
        check_name(name)?;
        let now = self.shared.now(&state);
        let ino = match state.tree.lookup_kind(dir.ino(), name, FileKind::File) {
            Ok(ino) => ino,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let body = Body::File(FileBytes::default());
                state.tree.create(dir.ino(), name, body, 0o600, now)?
            }
            Err(error) => return Err(error),
        };
        let locked = &mut state.tree.inode_mut(ino).locked;
        *locked = match (*locked, exclusive) {
            (Locked::No, true) => Locked::Exclusive,
            (Locked::No, false) => Locked::Shared(1),
            (Locked::Shared(count), false) => Locked::Shared(count + 1),
            _ => return Err(errno(libc::EWOULDBLOCK)),
        };
        Ok(SimLock::open(&self.shared, &mut state, ino))
    }

    fn write_note(&self, lock: &SimLock, note: &[u8]) -> io::Result<()> {
        let mut state = self.enter(CallKind::WriteNote, b"")?;
        state.tree.with_bytes(lock.ino(), |bytes, free| {
            bytes.set_len(0);
            bytes.write(0, note, free);
        });
        Ok(())
    }

    fn is_privileged(&self) -> bool {
        self.shared.state.lock().tree.is_privileged
    }
}
