//! Requests of the kernel as calls of `fs`, in the event loop where they are short, else in a worker.
//!
//! A request whose handling panics drops its reply, which answers EIO; the panic ends here.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::backing::Backing;
use crate::fs::{
    AttrRequest, Caller, FileSystem, FsError, Handle, NAME_MAX, NewMode, OpenFlags, Result,
    WriteKind,
};
use crate::store::{Attr, NewAttr, RenameFlags, StoreError};

use super::convert::{self, entry_id, errno, file_attr, ino};
use super::options::MountOptions;
use super::pool::Lane;
use super::space::{self, Line};
use super::turns::Turns;
use super::xattrs;

/// The largest request: what the kernel sends at most (256 pages, sysctl fs.fuse.max_pages_limit).
const MAX_IO_BYTES: u32 = 1 << 20;

/// A read or write of this many bytes takes longer than it takes another event loop to wake up.
const LONG_IO_BYTES: usize = 64 << 10;

/// Entry ids are never reused, so that every inode is of the first generation.
const GENERATION: Generation = Generation(0);

/// Syncs wait together for one group commit, so that many threads cost one commit.
const SYNC_THREADS: usize = 64;
/// Reads from a cold disk, a few at once.
const READ_THREADS: usize = 8;

thread_local! {
    /// Where a thread's reads are decrypted before they are sent; grows to the largest read.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The threads for what may wait for a disk, and the door that every request goes through.
pub(super) struct Workers {
    /// Requests that are being handled in event loops.
    inside: AtomicUsize,
    /// Nothing more is handled: the store is about to be closed.
    shut: AtomicBool,
    /// Cold reads and directory loads.
    reads: Lane,
    /// Syncs, ends of writing, renames, truncations.
    syncs: Lane,
}

impl Workers {
    pub fn new() -> Self {
        Workers {
            inside: AtomicUsize::new(0),
            shut: AtomicBool::new(false),
            reads: Lane::new("read", READ_THREADS),
            syncs: Lane::new("sync", SYNC_THREADS),
        }
    }

    /// Handles no further request (a mount that was cut off may still send some; they are answered EIO) and
    /// waits until none is under way, or until `deadline`; tells whether none is.
    pub fn shut(&self, deadline: Instant) -> bool {
        self.shut.store(true, Ordering::SeqCst);
        // An event loop hands over to the lanes while it is inside, so those are last.
        while self.inside.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let reads = self.reads.drain(deadline);
        self.syncs.drain(deadline) && reads
    }

    /// Lets a request in, unless the door is shut. Either `shut` sees it inside, or it sees the door shut.
    fn enter(&self) -> Option<Inside<'_>> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(&self.inside);
        if self.shut.load(Ordering::SeqCst) { None } else { Some(inside) }
    }
}

/// A request that is being handled.
struct Inside<'a>(&'a AtomicUsize);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The filesystem as `fuser` calls it.
pub(super) struct Adapter<B: Backing> {
    fs: Arc<FileSystem<B>>,
    workers: Arc<Workers>,
    cache_time: Duration,
    commit_on_close: bool,
    line: Line,
    turns: Arc<Turns>,
}

impl<B: Backing> Adapter<B> {
    pub fn new(
        fs: Arc<FileSystem<B>>,
        workers: Arc<Workers>,
        turns: Arc<Turns>,
        options: &MountOptions,
    ) -> Self {
        Adapter {
            fs,
            workers,
            cache_time: options.cache_time,
            commit_on_close: options.commit_on_close,
            line: Line::default(),
            turns,
        }
    }

    /// Where the notifier is put once there is one.
    pub fn line(&self) -> Line {
        Arc::clone(&self.line)
    }

    /// Runs a short request here.
    fn here(&self, request: impl FnOnce(&FileSystem<B>)) {
        self.turns.during(|| {
            let Some(_inside) = self.workers.enter() else { return };
            if catch_unwind(AssertUnwindSafe(|| request(&self.fs))).is_err() {
                log::error!("a request panicked; it was answered with an I/O error");
            }
        });
    }

    /// Gives the turn to wait for requests away before a transfer of `bytes` that others need not wait for.
    fn pass_if_long(&self, bytes: usize) {
        if bytes >= LONG_IO_BYTES {
            self.turns.pass();
        }
    }

    /// Runs a request in a worker.
    fn in_worker(&self, lane: &Lane, request: impl FnOnce(&FileSystem<B>) + Send + 'static) {
        let Some(_inside) = self.workers.enter() else { return };
        let fs = Arc::clone(&self.fs);
        lane.run(move || request(&fs));
    }

    /// Runs a request that needs the directory `dir`: here if it is in memory, else where it can wait.
    fn with_dir(&self, dir: INodeNo, request: impl FnOnce(&FileSystem<B>) + Send + 'static) {
        if entry_id(dir).is_ok_and(|dir| !self.fs.is_loaded(dir)) {
            self.in_worker(&self.workers.reads, request);
        } else {
            self.here(request);
        }
    }

    /// Runs what makes a name in `dir`: where it can wait, if names are synced at once.
    fn with_new_name(&self, dir: INodeNo, request: impl FnOnce(&FileSystem<B>) + Send + 'static) {
        if self.fs.syncs_names() {
            self.in_worker(&self.workers.syncs, request);
        } else {
            self.with_dir(dir, request);
        }
    }

    /// Runs a question about extended attributes: here if the answer is in memory.
    fn with_xattrs(&self, inode: INodeNo, request: impl FnOnce(&FileSystem<B>) + Send + 'static) {
        if entry_id(inode).is_ok_and(|id| self.fs.xattrs_are_held(id)) {
            self.here(request);
        } else {
            self.in_worker(&self.workers.reads, request);
        }
    }

    /// Runs a change of names in `dir`: here if nothing must be synced first.
    fn with_names(&self, dir: INodeNo, request: impl FnOnce(&FileSystem<B>) + Send + 'static) {
        let may_wait = entry_id(dir).is_ok_and(|dir| !self.fs.is_settled(dir));
        self.in_turn(may_wait, request);
    }

    /// Runs a request here, unless it may wait for a sync.
    fn in_turn(&self, may_wait: bool, request: impl FnOnce(&FileSystem<B>) + Send + 'static) {
        if may_wait {
            self.in_worker(&self.workers.syncs, request);
        } else {
            self.here(request);
        }
    }
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

/// Logs a fault, once, and gives the number to answer. Names stay out of the log: the inode tells which.
pub(super) fn refuse(what: &str, inode: INodeNo, error: &FsError) -> fuser::Errno {
    if error.is_fault() {
        let source = std::error::Error::source(error).map(|s| format!(": {s}")).unwrap_or_default();
        log::error!("{what} of inode {:016x}: {error}{source}", inode.0);
    } else {
        log::debug!("{what} of inode {:016x}: {error}", inode.0);
    }
    errno(error)
}

/// Answers with an entry and the time for which it may be remembered.
fn entry(what: &str, at: INodeNo, ttl: Duration, found: Result<Attr>, reply: ReplyEntry) {
    match found {
        Ok(attr) => reply.entry(&ttl, &file_attr(&attr), GENERATION),
        Err(error) => reply.error(refuse(what, at, &error)),
    }
}

pub(super) fn empty(what: &str, at: INodeNo, done: Result<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(refuse(what, at, &error)),
    }
}

/// What the kernel may do with an open file's pages: every version of a file comes through this mount, so
/// that its cached pages stay true from one open to the next.
fn file_flags(flags: OpenFlags) -> FopenFlags {
    if flags.access.writes() {
        FopenFlags::FOPEN_KEEP_CACHE
    } else {
        FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH
    }
}

/// The kernel keeps listings until it changes the directory itself.
const DIR_FLAGS: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_CACHE_DIR);

/// Asked for where the kernel offers it. Left out on purpose: POSIX_LOCKS and FLOCK_LOCKS (the kernel's
/// local locks serve), AUTO_INVAL_DATA (nothing changes behind its back).
const CAPABILITIES: [InitFlags; 11] = [
    InitFlags::FUSE_WRITEBACK_CACHE,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_ASYNC_DIO,
    // The kernel enforces access control lists, and leaves the umask to us: it does not count under a default one.
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
];

impl<B: Backing> Filesystem for Adapter<B> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                log::debug!("the kernel does not offer {capability:?}");
            }
        }
        // Both setters say what they would accept instead; the kernel then cuts to its own limits.
        if let Err(most) = config.set_max_write(MAX_IO_BYTES) {
            let _ = config.set_max_write(most);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ttl = self.cache_time;
        let name = Name::new(name);
        self.with_dir(parent, move |fs| {
            match entry_id(parent).and_then(|dir| fs.lookup(dir, name.bytes())) {
                Err(FsError::Store(StoreError::NotFound)) => {
                    reply.entry(&ttl, &convert::no_entry(), GENERATION);
                }
                found => entry("lookup in the directory", parent, ttl, found, reply),
            }
        });
    }

    fn forget(&self, _request: &Request, inode: INodeNo, count: u64) {
        self.here(|fs| {
            if let Ok(id) = entry_id(inode) {
                fs.forget(id, count);
            }
        });
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let ttl = self.cache_time;
        self.here(|fs| match entry_id(inode).and_then(|id| fs.getattr(id)) {
            Ok(attr) => reply.attr(&ttl, &file_attr(&attr)),
            Err(error) => reply.error(refuse("stat", inode, &error)),
        });
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let ttl = self.cache_time;
        let caller = caller(request);
        let change = AttrRequest {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(convert::time_change),
            mtime: mtime.map(convert::time_change),
            ctime: ctime.map(convert::timestamp),
        };
        let job = move |fs: &FileSystem<B>| {
            let handle = handle.map(|handle| Handle(handle.0));
            match entry_id(inode).and_then(|id| fs.setattr(id, handle, &change, caller)) {
                Ok(attr) => reply.attr(&ttl, &file_attr(&attr)),
                Err(error) => reply.error(refuse("change of attributes", inode, &error)),
            }
        };
        // A new size other than 0 may mean reading and writing a block of the middle.
        if change.size.is_some_and(|size| size > 0 || self.commit_on_close) {
            self.in_worker(&self.workers.syncs, job);
        } else {
            self.here(job);
        }
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        self.here(|fs| match entry_id(inode).and_then(|id| fs.readlink(id)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(refuse("readlink", inode, &error)),
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (ttl, caller, name) = (self.cache_time, caller(request), Name::new(name));
        self.with_new_name(parent, move |fs| {
            let made = entry_id(parent).and_then(|dir| {
                fs.mknod(dir, name.bytes(), NewMode { mode, umask }, u64::from(rdev), caller)
            });
            entry("mknod in the directory", parent, ttl, made, reply);
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (ttl, caller, name) = (self.cache_time, caller(request), Name::new(name));
        self.with_names(parent, move |fs| {
            let made = entry_id(parent)
                .and_then(|dir| fs.mkdir(dir, name.bytes(), NewMode { mode, umask }, caller));
            entry("mkdir in the directory", parent, ttl, made, reply);
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = Name::new(name);
        let may_wait = entry_id(parent).is_ok_and(|dir| self.fs.unlink_may_wait(dir, name.bytes()));
        self.in_turn(may_wait, move |fs| {
            let done = entry_id(parent).and_then(|dir| fs.unlink(dir, name.bytes()));
            empty("unlink in the directory", parent, done, reply);
        });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = Name::new(name);
        let may_wait = entry_id(parent).is_ok_and(|dir| self.fs.rmdir_may_wait(dir, name.bytes()));
        self.in_turn(may_wait, move |fs| {
            let done = entry_id(parent).and_then(|dir| fs.rmdir(dir, name.bytes()));
            empty("rmdir in the directory", parent, done, reply);
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (ttl, caller, name) = (self.cache_time, caller(request), Name::new(name));
        let target = target.as_os_str().as_bytes().to_vec();
        self.with_new_name(parent, move |fs| {
            let made =
                entry_id(parent).and_then(|dir| fs.symlink(dir, name.bytes(), &target, caller));
            entry("symlink in the directory", parent, ttl, made, reply);
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name, caller) = (Name::new(name), Name::new(new_name), caller(request));
        let may_wait = match (entry_id(parent), entry_id(new_parent)) {
            (Ok(from), Ok(to)) => {
                self.fs.rename_may_wait((from, name.bytes()), (to, new_name.bytes()))
            }
            _ => false,
        };
        let run = move |fs: &FileSystem<B>| {
            let done = rename_flags(flags, caller).and_then(|flags| {
                let from = (entry_id(parent)?, name.bytes());
                let to = (entry_id(new_parent)?, new_name.bytes());
                fs.rename(from, to, flags)
            });
            empty("rename in the directory", parent, done, reply);
        };
        // It may have to commit a changed file that moves; an exchange and a whiteout always sync.
        let syncs = fuser::RenameFlags::RENAME_EXCHANGE | fuser::RenameFlags::RENAME_WHITEOUT;
        self.in_turn(may_wait || flags.intersects(syncs), run);
    }

    fn link(&self, _: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (ttl, name) = (self.cache_time, Name::new(name));
        // A file that was moved and waits for its commit is committed first.
        self.in_worker(&self.workers.syncs, move |fs| {
            let made = entry_id(inode)
                .and_then(|ino| Ok((ino, entry_id(parent)?)))
                .and_then(|(ino, dir)| fs.link(ino, dir, name.bytes()));
            entry("link of", inode, ttl, made, reply);
        });
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        let flags = OpenFlags::from_bits(flags.0);
        self.here(|fs| match entry_id(inode).and_then(|id| fs.open(id, flags, caller(request))) {
            Ok(handle) => reply.opened(FileHandle(handle.0), file_flags(flags)),
            Err(error) => reply.error(refuse("open", inode, &error)),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (ttl, caller, name) = (self.cache_time, caller(request), Name::new(name));
        let flags = OpenFlags::from_bits(flags);
        self.with_new_name(parent, move |fs| {
            let mode = NewMode { mode, umask };
            match entry_id(parent).and_then(|dir| fs.create(dir, name.bytes(), mode, flags, caller))
            {
                Ok((attr, handle)) => {
                    let handle = FileHandle(handle.0);
                    reply.created(&ttl, &file_attr(&attr), GENERATION, handle, file_flags(flags));
                    fs.was_created(&attr);
                }
                Err(error) => reply.error(refuse("create in the directory", parent, &error)),
            }
        });
    }

    fn tmpfile(
        &self,
        request: &Request,
        parent: INodeNo,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (ttl, caller, mode) = (self.cache_time, caller(request), NewMode { mode, umask });
        let flags = OpenFlags::from_bits(flags);
        self.here(|fs| {
            match entry_id(parent).and_then(|dir| fs.create_nameless(dir, mode, flags, caller)) {
                Ok((attr, handle)) => {
                    let handle = FileHandle(handle.0);
                    reply.created(&ttl, &file_attr(&attr), GENERATION, handle, file_flags(flags));
                }
                Err(error) => reply.error(refuse("O_TMPFILE in the directory", parent, &error)),
            }
        });
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let handle = Handle(handle.0);
        let job = move |fs: &FileSystem<B>| read(fs, inode, handle, offset, size, reply);
        if self.fs.read_is_cheap(handle, offset, u64::from(size)) {
            self.pass_if_long(size as usize);
            self.here(job);
        } else {
            self.in_worker(&self.workers.reads, job);
        }
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let handle = Handle(handle.0);
        let kind = if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            WriteKind::ClearSetId
        } else if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            WriteKind::FromCache
        } else {
            WriteKind::Plain
        };
        // After a write from its cache the kernel itself sends the FSYNC that O_DSYNC asks for.
        let durable =
            flags.0 & libc::O_DSYNC != 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        self.pass_if_long(data.len());
        self.here(|fs| match fs.write(handle, offset, data, kind) {
            Err(error) => reply.error(refuse("write", inode, &error)),
            Ok(()) if !durable => reply.written(data.len() as u32),
            Ok(()) => {
                let written = data.len() as u32;
                self.in_worker(&self.workers.syncs, move |fs| match fs.fsync(handle) {
                    Ok(()) => reply.written(written),
                    Err(error) => reply.error(refuse("synchronous write", inode, &error)),
                });
            }
        });
    }

    fn flush(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let handle = Handle(handle.0);
        let job = move |fs: &FileSystem<B>| empty("flush", inode, fs.flush(handle), reply);
        if self.fs.flush_is_cheap(handle) && !self.commit_on_close {
            self.here(job);
        } else {
            self.in_worker(&self.workers.syncs, job);
        }
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let handle = Handle(handle.0);
        // Only marks the file as eligible for commit: handing that over would cost a third of the time of
        // creating a small file.
        self.here(|fs| empty("close", inode, fs.release(handle), reply));
    }

    fn fsync(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let handle = Handle(handle.0);
        self.in_worker(&self.workers.syncs, move |fs| {
            empty("fsync", inode, fs.fsync(handle), reply);
        });
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: fuser::OpenFlags, reply: ReplyOpen) {
        self.with_dir(inode, move |fs| match entry_id(inode).and_then(|id| fs.opendir(id)) {
            Ok(handle) => reply.opened(FileHandle(handle.0), DIR_FLAGS),
            Err(error) => reply.error(refuse("opendir", inode, &error)),
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.with_dir(inode, move |fs| {
            let listed = fs.readdir(Handle(handle.0), offset, &mut |item| {
                let kind = convert::file_type(item.kind);
                !reply.add(ino(item.ino), item.cookie, kind, OsStr::from_bytes(item.name))
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(refuse("readdir", inode, &error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let ttl = self.cache_time;
        self.with_dir(inode, move |fs| {
            let listed = fs.readdirplus(Handle(handle.0), offset, &mut |plus| {
                let item = plus.item;
                let (ttl, attr) = match plus.attr {
                    Some(attr) => (ttl, file_attr(attr)),
                    None => (Duration::ZERO, convert::unknown_attr(item.ino, item.kind)),
                };
                let name = OsStr::from_bytes(item.name);
                !reply.add(ino(item.ino), item.cookie, name, &ttl, &attr, GENERATION)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(refuse("readdir", inode, &error)),
            }
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: fuser::OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.here(|fs| empty("closedir", inode, fs.releasedir(Handle(handle.0)), reply));
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let handle = Handle(handle.0);
        self.in_worker(&self.workers.syncs, move |fs| {
            empty("fsync of a directory", inode, fs.fsyncdir(handle), reply);
        });
    }

    fn statfs(&self, _request: &Request, inode: INodeNo, reply: ReplyStatfs) {
        self.here(|fs| match fs.space() {
            Ok(space) => {
                let unit = space.unit_len as u32;
                reply.statfs(
                    space.blocks,
                    space.blocks_free,
                    space.blocks_avail,
                    space.files,
                    space.files_free,
                    unit,
                    NAME_MAX as u32,
                    unit,
                );
            }
            Err(error) => reply.error(refuse("statfs", inode, &error)),
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value, how) = (Name::new(name), value.to_vec(), (flags, caller(request)));
        self.in_worker(&self.workers.syncs, move |fs| {
            xattrs::set(fs, inode, name.bytes(), &value, how, reply);
        });
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = Name::new(name);
        self.with_xattrs(inode, move |fs| xattrs::get(fs, inode, name.bytes(), size, reply));
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let caller = caller(request);
        self.with_xattrs(inode, move |fs| xattrs::list(fs, inode, caller, size, reply));
    }

    fn removexattr(&self, _: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = Name::new(name);
        self.in_worker(&self.workers.syncs, move |fs| {
            xattrs::remove(fs, inode, name.bytes(), reply);
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (file, range, caller) = ((inode, handle), (offset, length), caller(request));
        self.in_worker(&self.workers.syncs, move |fs| {
            space::fallocate(fs, file, range, mode, caller, reply);
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let line = Arc::clone(&self.line);
        self.in_worker(&self.workers.syncs, move |fs| {
            space::lseek(fs, &line, (inode, handle), offset, whence, reply);
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        inode_in: INodeNo,
        handle_in: FileHandle,
        offset_in: u64,
        _inode_out: INodeNo,
        handle_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((inode_in, handle_in, offset_in), (handle_out, offset_out));
        let caller = caller(request);
        self.in_worker(&self.workers.syncs, move |fs| {
            space::copy_range(fs, from, to, len, caller, reply);
        });
    }

    fn ioctl(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(refuse("ioctl", inode, &FsError::NotATerminal));
    }
}

/// A name copied out of the request, since the work may go to another thread: on the stack, which
/// every Linux name fits.
struct Name {
    len: usize,
    bytes: [u8; NAME_MAX + 1],
}

impl Name {
    /// Longer names are cut to one byte more than fits, which is refused further on.
    fn new(name: &OsStr) -> Self {
        let name = name.as_bytes();
        let len = name.len().min(NAME_MAX + 1);
        let mut bytes = [0; NAME_MAX + 1];
        bytes[..len].copy_from_slice(&name[..len]);
        Name { len, bytes }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn read<B: Backing>(
    fs: &FileSystem<B>,
    inode: INodeNo,
    handle: Handle,
    offset: u64,
    size: u32,
    reply: ReplyData,
) {
    READ_BUFFER.with_borrow_mut(|buffer| {
        let size = size.min(MAX_IO_BYTES) as usize;
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        match fs.read(handle, offset, &mut buffer[..size]) {
            Ok(len) => reply.data(&buffer[..len]),
            Err(error) => reply.error(refuse("read", inode, &error)),
        }
    });
}

fn rename_flags(flags: fuser::RenameFlags, caller: Caller) -> Result<RenameFlags> {
    if flags.is_empty() {
        Ok(RenameFlags::Replace)
    } else if flags == fuser::RenameFlags::RENAME_NOREPLACE {
        Ok(RenameFlags::NoReplace)
    } else if flags == fuser::RenameFlags::RENAME_EXCHANGE {
        Ok(RenameFlags::Exchange)
    } else if flags == fuser::RenameFlags::RENAME_WHITEOUT {
        Ok(RenameFlags::Whiteout(NewAttr { mode: 0, uid: caller.uid, gid: caller.gid }))
    } else {
        Err(FsError::InvalidArgument)
    }
}
