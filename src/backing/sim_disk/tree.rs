//! The tree of a simulated disk: inodes as the process sees them, beside what is safe of each.
//!
//! Errors are those that Linux gives for the same call on a local filesystem.

use std::collections::BTreeMap;
use std::io;

use super::log::Log;
use super::pages::{FileBytes, PAGE_LEN};
use crate::backing::{AttrChange, FileKind, NAME_LEN_MAX, Stat};
use crate::clock::Timestamp;

pub(super) type Ino = u64;

pub(super) const ROOT: Ino = 1;

/// Unprivileged simulated processes run as this user and group.
const PLAIN_USER: u32 = 1000;

/// Longest value of an extended attribute, as of the kernel.
const XATTR_LEN_MAX: usize = 65536;

pub(super) fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

#[derive(Clone, Debug)]
pub(super) struct Attr {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) now: BTreeMap<Vec<u8>, Ino>,
    pub(super) safe: BTreeMap<Vec<u8>, Ino>,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    File(FileBytes),
    Dir(Names),
    /// A planted symbolic link, fifo or device: the errno that opening it gives.
    Other(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locked {
    No,
    Shared(u32),
    Exclusive,
}

/// What the system remembers of bytes that it could not write, as Linux does (`errseq_t`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WriteBack {
    failures: u64,
    /// Whether a descriptor was told of the last one.
    is_told: bool,
}

impl WriteBack {
    /// The failures that a descriptor need not be told of that is opened now.
    pub(super) fn seen_at_open(self) -> u64 {
        if self.is_told { self.failures } else { 0 }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) body: Body,
    pub(super) attr: Attr,
    pub(super) safe_attr: Attr,
    /// Attribute changes not yet safe, each with its number in the log.
    pub(super) pending_attr: Vec<(u64, Attr)>,
    /// Names that the process sees (of a directory: 0 once it is removed).
    pub(super) names: u32,
    /// Open handles.
    pub(super) handles: u32,
    pub(super) write_back: WriteBack,
    pub(super) locked: Locked,
}

/// What a process may do with an object, as bits of the owner's rwx.
#[derive(Clone, Copy)]
pub(super) struct Access(u32);

pub(super) const READ: Access = Access(0o4);
pub(super) const WRITE: Access = Access(0o2);
pub(super) const READ_WRITE: Access = Access(0o6);
pub(super) const SEARCH: Access = Access(0o1);
pub(super) const CHANGE_NAMES: Access = Access(0o3);

/// Names of a file beyond the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HardLinks {
    /// As POSIX says.
    Counted,
    /// Each file is said to have one, as on sshfs.
    Uncounted,
    /// link(2) is EPERM.
    None,
}

#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) inodes: BTreeMap<Ino, Inode>,
    pub(super) log: Log,
    pub(super) next_ino: Ino,
    pub(super) is_privileged: bool,
    pub(super) has_exchange: bool,
    pub(super) hard_links: HardLinks,
    /// See [`crate::backing::Backing::keeps_name_order`].
    pub(super) keeps_name_order: bool,
    /// A lying disk: renames are two independent changes.
    pub(super) tears_renames: bool,
    /// Bytes of names and values of extended attributes that an inode can have.
    pub(super) xattr_limit: usize,
    /// Pages that file contents and directories may take.
    pub(super) capacity_pages: Option<u64>,
    pub(super) used_pages: u64,
    /// Whether bytes were lost of which no syncfs has told.
    pub(super) has_lost_unnoticed: bool,
    /// Inodes that survived the last sweep of unreachable ones.
    swept_count: usize,
}

impl Tree {
    pub(super) fn new(now: Timestamp) -> Tree {
        let mut tree = Tree {
            inodes: BTreeMap::new(),
            log: Log::default(),
            next_ino: ROOT,
            is_privileged: true,
            has_exchange: true,
            hard_links: HardLinks::Counted,
            keeps_name_order: false,
            tears_renames: false,
            xattr_limit: usize::MAX,
            capacity_pages: None,
            used_pages: 1,
            has_lost_unnoticed: false,
            swept_count: 0,
        };
        tree.insert(Body::Dir(Names::default()), 0o755, now);
        tree
    }

    /// The same disk with other contents and nothing pending.
    pub(super) fn succeed(&self, inodes: BTreeMap<Ino, Inode>, used_pages: u64) -> Tree {
        Tree { swept_count: inodes.len(), inodes, log: Log::default(), used_pages, ..*self }
    }

    // ---- inodes ----------------------------------------------------------------------------

    pub(super) fn inode(&self, ino: Ino) -> &Inode {
        self.inodes.get(&ino).expect("handles and names keep their inodes")
    }

    pub(super) fn inode_mut(&mut self, ino: Ino) -> &mut Inode {
        self.inodes.get_mut(&ino).expect("handles and names keep their inodes")
    }

    pub(super) fn insert(&mut self, body: Body, mode: u32, now: Timestamp) -> Ino {
        let owner = if self.is_privileged { 0 } else { PLAIN_USER };
        let attr = Attr {
            mode,
            uid: owner,
            gid: owner,
            atime: now,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
        };
        let ino = self.next_ino;
        self.next_ino += 1;
        let inode = Inode {
            body,
            safe_attr: attr.clone(),
            attr,
            pending_attr: Vec::new(),
            names: 1,
            handles: 0,
            write_back: WriteBack::default(),
            locked: Locked::No,
        };
        self.inodes.insert(ino, inode);
        ino
    }

    pub(super) fn names(&self, dir: Ino) -> &Names {
        match &self.inode(dir).body {
            Body::Dir(names) => names,
            _ => unreachable!("directory handles are of directories"),
        }
    }

    pub(super) fn names_mut(&mut self, dir: Ino) -> &mut Names {
        match &mut self.inode_mut(dir).body {
            Body::Dir(names) => names,
            _ => unreachable!("directory handles are of directories"),
        }
    }

    /// The bytes of a file whose kind was checked when it was opened.
    pub(super) fn bytes(&self, ino: Ino) -> &FileBytes {
        match &self.inode(ino).body {
            Body::File(bytes) => bytes,
            _ => unreachable!("file handles are of files"),
        }
    }

    pub(super) fn bytes_mut(&mut self, ino: Ino) -> &mut FileBytes {
        match &mut self.inode_mut(ino).body {
            Body::File(bytes) => bytes,
            _ => unreachable!("file handles are of files"),
        }
    }

    pub(super) fn is_dir(&self, ino: Ino) -> bool {
        matches!(self.inode(ino).body, Body::Dir(_))
    }

    pub(super) fn kind(&self, ino: Ino) -> FileKind {
        match self.inode(ino).body {
            Body::File(_) => FileKind::File,
            Body::Dir(_) => FileKind::Dir,
            Body::Other(_) => FileKind::Other,
        }
    }

    /// EACCES if the owner's bits forbid it and the process is not root.
    pub(super) fn may(&self, ino: Ino, access: Access) -> io::Result<()> {
        let granted = self.inode(ino).attr.mode >> 6;
        if self.is_privileged || granted & access.0 == access.0 {
            return Ok(());
        }
        Err(errno(libc::EACCES))
    }

    pub(super) fn lookup(&self, dir: Ino, name: &[u8]) -> io::Result<Ino> {
        self.may(dir, SEARCH)?;
        self.names(dir).now.get(name).copied().ok_or_else(|| errno(libc::ENOENT))
    }

    /// As [`Tree::lookup`], of a kind.
    pub(super) fn lookup_kind(&self, dir: Ino, name: &[u8], wanted: FileKind) -> io::Result<Ino> {
        let ino = self.lookup(dir, name)?;
        match (&self.inode(ino).body, wanted) {
            (Body::File(_), FileKind::File) | (Body::Dir(_), FileKind::Dir) => Ok(ino),
            (Body::Other(libc::ELOOP), _) => Err(errno(libc::ELOOP)),
            (_, FileKind::Dir) => Err(errno(libc::ENOTDIR)),
            (Body::Dir(_), _) => Err(errno(libc::EISDIR)),
            (Body::Other(code), _) => Err(errno(*code)),
            (Body::File(_), FileKind::Other) => Err(errno(libc::EIO)),
        }
    }

    /// A file or directory, for calls on attributes.
    pub(super) fn lookup_any(&self, dir: Ino, name: &[u8]) -> io::Result<Ino> {
        let ino = self.lookup(dir, name)?;
        match self.inode(ino).body {
            Body::Other(code) => Err(errno(code)),
            _ => Ok(ino),
        }
    }

    pub(super) fn list(&self, dir: Ino) -> Vec<(Vec<u8>, FileKind)> {
        let names = self.names(dir).now.iter();
        names.map(|(name, ino)| (name.clone(), self.kind(*ino))).collect()
    }

    pub(super) fn stat(&self, ino: Ino) -> Stat {
        let inode = self.inode(ino);
        let (len, pages, nlink) = match &inode.body {
            Body::File(bytes) => {
                let is_counted = self.hard_links == HardLinks::Counted;
                let nlink = if is_counted { inode.names } else { inode.names.min(1) };
                (bytes.now.len, bytes.pages(), nlink)
            }
            Body::Dir(names) => {
                let children = names.now.values().filter(|child| self.is_dir(**child)).count();
                let nlink = if inode.names == 0 { 0 } else { 2 + children as u32 };
                (PAGE_LEN as u64, 1, nlink)
            }
            Body::Other(_) => (0, 0, inode.names),
        };
        Stat {
            kind: self.kind(ino),
            len,
            blocks_512: pages * (PAGE_LEN as u64 / 512),
            mode: inode.attr.mode,
            uid: inode.attr.uid,
            gid: inode.attr.gid,
            nlink,
            ino,
            atime: inode.attr.atime,
            mtime: inode.attr.mtime,
            ctime: inode.attr.ctime,
        }
    }

    // ---- space -----------------------------------------------------------------------------

    pub(super) fn free_pages(&self) -> u64 {
        self.capacity_pages.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used_pages))
    }

    /// Runs `change` on a file's bytes and books the pages it took or gave back.
    pub(super) fn with_bytes<T>(
        &mut self,
        ino: Ino,
        change: impl FnOnce(&mut FileBytes, u64) -> T,
    ) -> T {
        let free = self.free_pages();
        let bytes = self.bytes_mut(ino);
        let before = bytes.pages();
        let result = change(bytes, free);
        let after = bytes.pages();
        self.used_pages = self.used_pages + after - before;
        result
    }

    /// Gives back the space of what has neither a name nor a handle.
    pub(super) fn release(&mut self, ino: Ino) {
        let inode = self.inode(ino);
        if inode.names > 0 || inode.handles > 0 {
            return;
        }
        let pages = match &inode.body {
            Body::File(bytes) => bytes.pages(),
            Body::Dir(_) => 1,
            Body::Other(_) => 0,
        };
        self.used_pages -= pages;
        self.sweep();
    }

    /// Unsynced bytes of a file will not be written any more; descriptors that are open are told when they sync it.
    pub(super) fn lose_pending(&mut self, ino: Ino) {
        let inode = self.inode_mut(ino);
        if let Body::File(bytes) = &mut inode.body
            && bytes.lose_pending()
            && inode.handles > 0
        {
            inode.write_back.failures += 1;
            inode.write_back.is_told = false;
        }
    }

    /// As [`Tree::lose_pending`], where no syncfs found it: the next one tells of it, once.
    pub(super) fn lose_unnoticed(&mut self, ino: Ino) {
        self.lose_pending(ino);
        self.has_lost_unnoticed = true;
    }

    /// A descriptor that was told of all failures up to `seen` syncs `ino`.
    ///
    /// # Errors
    /// EIO if there was another one, which it is thereby told of.
    pub(super) fn tell(&mut self, ino: Ino, seen: &mut u64) -> io::Result<()> {
        let write_back = &mut self.inode_mut(ino).write_back;
        if *seen == write_back.failures {
            return Ok(());
        }
        *seen = write_back.failures;
        write_back.is_told = true;
        Err(errno(libc::EIO))
    }

    pub(super) fn open_handle(&mut self, ino: Ino) {
        self.inode_mut(ino).handles += 1;
    }

    pub(super) fn close_handle(&mut self, ino: Ino) {
        let inode = self.inode_mut(ino);
        inode.handles -= 1;
        if inode.handles == 0 {
            // The system may give up what it knows of a file that nobody has open.
            inode.write_back = WriteBack::default();
        }
        self.release(ino);
    }

    /// Forgets inodes that nothing seen, safe or pending leads to; now and then.
    fn sweep(&mut self) {
        if self.inodes.len() < 2 * self.swept_count + 1024 {
            return;
        }
        let mut wanted: std::collections::BTreeSet<Ino> = [ROOT].into();
        for (ino, inode) in &self.inodes {
            if inode.names > 0 || inode.handles > 0 {
                wanted.insert(*ino);
            }
            if let Body::Dir(names) = &inode.body {
                wanted.extend(names.safe.values());
            }
        }
        for item in self.log.items().values() {
            wanted.extend(item.edits.iter().flat_map(|edit| [Some(edit.dir), edit.to]).flatten());
        }
        self.inodes.retain(|ino, _| wanted.contains(ino));
        self.swept_count = self.inodes.len();
    }

    // ---- behind the back of the process ----------------------------------------------------

    pub(super) fn child(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        self.names(dir).now.get(name).copied()
    }

    /// The inode at a path of components joined by `/`; the empty path is the root.
    pub(super) fn walk(&self, path: &[u8]) -> Option<Ino> {
        let mut components = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        components.try_fold(
            ROOT,
            |dir, name| {
                if self.is_dir(dir) { self.child(dir, name) } else { None }
            },
        )
    }

    /// Puts a new inode at a path, seen and safe, over whatever has that name.
    pub(super) fn plant(&mut self, path: &[u8], body: Body, now: Timestamp) -> bool {
        let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = path.split_at(start);
        let Some(dir) = self.walk(parent).filter(|dir| self.is_dir(*dir)) else { return false };
        let ino = self.insert(body, 0o777, now);
        let names = self.names_mut(dir);
        let displaced = names.now.insert(name.to_vec(), ino);
        names.safe.insert(name.to_vec(), ino);
        if let Some(displaced) = displaced {
            self.drop_name(displaced, now);
        }
        true
    }

    // ---- attributes ------------------------------------------------------------------------

    pub(super) fn set_attr(
        &mut self,
        ino: Ino,
        change: &AttrChange,
        now: Timestamp,
    ) -> io::Result<()> {
        let is_file = self.kind(ino) == FileKind::File;
        let is_privileged = self.is_privileged;
        let attr = &mut self.inode_mut(ino).attr;
        let foreign = |wanted: Option<u32>, is: u32| wanted.is_some_and(|wanted| wanted != is);
        if !is_privileged && (foreign(change.uid, attr.uid) || foreign(change.gid, attr.gid)) {
            return Err(errno(libc::EPERM));
        }
        if is_file && (change.uid.is_some() || change.gid.is_some()) {
            // chown(2) clears set-id bits of files.
            attr.mode &= if attr.mode & 0o010 == 0 { !0o4000 } else { !0o6000 };
        }
        attr.uid = change.uid.unwrap_or(attr.uid);
        attr.gid = change.gid.unwrap_or(attr.gid);
        attr.mode = change.mode.unwrap_or(attr.mode) & 0o7777;
        attr.atime = change.atime.unwrap_or(attr.atime);
        attr.mtime = change.mtime.unwrap_or(attr.mtime);
        attr.ctime = now;
        self.note_attr(ino);
        Ok(())
    }

    pub(super) fn set_xattr(
        &mut self,
        ino: Ino,
        key: &[u8],
        value: Option<&[u8]>,
        now: Timestamp,
    ) -> io::Result<()> {
        let limit = self.xattr_limit;
        let attr = &mut self.inode_mut(ino).attr;
        if let Some(value) = value {
            if key.len() > NAME_LEN_MAX {
                return Err(errno(libc::ERANGE));
            }
            if value.len() > XATTR_LEN_MAX {
                return Err(errno(libc::E2BIG));
            }
            let others = attr.xattrs.iter().filter(|(other, _)| *other != key);
            let used: usize = others.map(|(name, value)| name.len() + value.len()).sum();
            if used + key.len() + value.len() > limit {
                return Err(errno(libc::ENOSPC));
            }
            attr.xattrs.insert(key.to_vec(), value.to_vec());
        } else {
            attr.xattrs.remove(key);
        }
        attr.ctime = now;
        self.note_attr(ino);
        Ok(())
    }

    fn note_attr(&mut self, ino: Ino) {
        let number = self.log.take_number();
        let inode = self.inode_mut(ino);
        inode.pending_attr.push((number, inode.attr.clone()));
    }
}
