//! The engine: files that change from one whole version to the next, in directories whose names are sealed.
//!
//! | room | what is in it |
//! |---|---|
//! | `core` | disk, keys, settings, budgets: what everything else needs |
//! | `node` | one live inode, the locks and their order |
//! | `tree`, `rename`, `conflict`, `settle`, `dir`, `dirmap` | names: lookups, renames, what is pending and what is dead |
//! | `file`, `edit`, `runs` | reading and changing one file |
//! | `space` | what of a file is allocated: holes, preallocation, copies of ranges |
//! | `names`, `publish_names` | a file with several names: hard links |
//! | `may_wait` | what an event loop asks before it changes names itself |
//! | `gone` | the end of a file without names |
//! | `nameless` | files made without a name |
//! | `times` | access and change times that the vault's inodes do not show |
//! | `xattr` | extended attributes |
//! | `special` | links, fifos, sockets, devices: what is made whole |
//! | `layer`, `snapshot` | committed versions |
//! | `temp`, `finish`, `commit`, `keep` | the way of an edit into the tree; `commit` is the protocol |
//! | `durable` | names that must survive a cut |
//! | `reserve` | room for small changes on a full disk |
//! | `rescue` | copies of what directories' names say, for a repair |
//! | `queue`, `residents`, `gate` | who waits, what is resident, syncs shared |
//! | `check` | whether everything in a vault authenticates: reads, takes no lock, changes nothing |
//! | `repair` | what is done about what a check finds |
//! | `lock`, `recover`, `intent` | before the first operation of a mount |
//!
//! The same code runs on the real and on the simulated disk; it starts no threads of its own.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::backing::{AttrChange, Backing, SpaceStat, Stat};
use crate::clock::{Clock, Timestamp};
use crate::entropy::Entropy;
use crate::format::{EntryId, EntryKind, LengthClass, OpenVault};

pub mod check;
mod claim;
mod commit;
mod conflict;
mod core;
mod dir;
mod dirmap;
mod doubles;
mod durable;
mod edit;
mod error;
mod file;
mod finish;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gate;
mod gone;
mod gone_names;
mod intent;
mod keep;
mod layer;
mod lock;
mod may_wait;
mod nameless;
mod names;
mod node;
mod publish_names;
mod queue;
mod recover;
mod rename;
pub mod repair;
mod rescue;
mod reserve;
mod residents;
mod runs;
mod settle;
mod sides;
mod snapshot;
mod space;
mod spare;
mod special;
mod sync_all;
mod temp;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod times;
mod tree;
pub mod vault;
mod xattr;

pub use self::core::{CommitPolicy, StoreOptions};
pub use error::{Result, StoreError};
pub use node::Node;
pub use space::{Room, Seek};
pub use times::Accessed;
pub use xattr::SetXattr;

use self::core::{ControlDirs, Core, VaultKeys};
use error::Attempt;
use file::WriteTime;
use gate::SyncGate;
use gone_names::GoneNames;
use node::{Body, Home, Place};
use queue::{DirCache, Nodes, Queue};
use rescue::Rescues;
use reserve::Reserve;
use tree::has_handles;

/// Name of the control directory in the vault.
pub const CONTROL_DIR: &[u8] = b".akasha";

/// The directory in the root of the mount where a repair puts what cannot be read.
pub const LOST_FOUND: &[u8] = b"lost+found";

/// Attributes as the mount shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The entry id, st_ino.
    pub id: EntryId,
    /// The kind.
    pub kind: EntryKind,
    /// Plaintext size in bytes.
    pub size: u64,
    /// Allocated plaintext in units of 512 bytes: everything but the holes.
    pub blocks_512: u64,
    /// Permission bits, 0..=0o7777.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last modification.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
}

/// Attributes of something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewAttr {
    /// Permission bits, 0..=0o7777, the umask already applied.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeChange {
    /// The time of the call.
    Now,
    /// This time.
    At(Timestamp),
}

/// Attributes to set; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits, 0..=0o7777.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<TimeChange>,
    /// Last modification.
    pub mtime: Option<TimeChange>,
    /// Last change; kept in memory only, the backing store has its own.
    pub ctime: Option<Timestamp>,
}

/// What a rename does about an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameFlags {
    /// Replace it.
    Replace,
    /// Fail.
    NoReplace,
    /// Swap the two.
    Exchange,
    /// Replace it, and leave a character device with the number 0 and these attributes under the old name: what a union
    /// mount takes for "nothing here".
    Whiteout(NewAttr),
}

/// One entry of a listing.
#[derive(Debug)]
pub struct ListEntry<'a> {
    /// Continues the listing after this entry; greater than 2.
    pub cookie: u64,
    /// The object.
    pub id: EntryId,
    /// Its kind.
    pub kind: EntryKind,
    /// Its name.
    pub name: &'a [u8],
}

/// An open vault: the tree, and all that waits to be committed.
pub struct Store<B: Backing> {
    core: Arc<Core<B>>,
    root: Arc<Node<B>>,
    nodes: Nodes<B>,
    queue: Queue<B>,
    cache: DirCache<B>,
    /// Durability of the names in `.akasha/layers` that exchanges made.
    layer_names: SyncGate,
    /// Durability of the names in `.akasha/inodes`.
    inode_names: SyncGate,
    /// Held by who publishes a file there, who changes attributes of one, and who makes one a file of a single name again.
    /// In the order of locks between `dir.state` and `node.place`.
    inode_lock: Mutex<()>,
    /// Whether the backing filesystem has hard links.
    native_links: OnceLock<bool>,
    /// What has side objects of attributes that are to be removed, or inline ones.
    unfinished_sides: Mutex<Vec<Arc<Node<B>>>>,
    /// Files with several names of which some may not be durable.
    newly_named: Mutex<HashMap<EntryId, Arc<Node<B>>>>,
    /// Where such files lost names of which some may come back.
    gone_names: GoneNames<B>,
    /// Directories that moved and may be found in their old place after a cut.
    moved_dirs: Mutex<HashMap<EntryId, Arc<Node<B>>>>,
    /// One exchange of names at a time: there is one intent. No directory moves meanwhile: it names them by their paths.
    /// Whether it is taken for the rest of this mount: by an exchange of which a cut may leave half, since its names could not
    /// be made durable.
    exchanges: RwLock<bool>,
    /// Directories whose times a commit disturbed.
    touched: Mutex<Vec<Arc<Node<B>>>>,
    /// When the directories were last settled.
    settled_last: Mutex<Duration>,
    /// Directories that are to get a rescue copy.
    rescues: Rescues<B>,
    /// Room for the day on which the disk is full.
    reserve: Reserve,
    /// Files whose cached pages the kernel must forget.
    invalid: Mutex<HashSet<EntryId>>,
    /// Whether changes were lost of a file that nobody had open to be told.
    lost_unseen: AtomicBool,
    /// Held until the store is closed or dropped.
    lock: Mutex<Option<B::Lock>>,
}

impl<B: Backing> Store<B> {
    /// Opens the tree of an unlocked vault: takes the vault's lock, sweeps what an earlier mount left.
    ///
    /// # Errors
    /// `InUse` if somebody else has it mounted; `Io` and `Damaged` for what the control directories say.
    #[allow(clippy::needless_pass_by_value)] // The caller is done with it.
    pub fn open(
        backing: Arc<B>,
        vault: OpenVault,
        options: StoreOptions,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>> {
        let root = Arc::new(backing.root().attempt("open the vault")?);
        let control = backing.open_dir(&root, CONTROL_DIR).attempt("open .akasha")?;
        let lock = lock::take(&*backing, &control, &options)?;
        let dirs = lock::control_dirs(&*backing, root, control, &options)?;
        Self::open_held(backing, VaultKeys::of(&vault), dirs, lock, options, (entropy, clock))
    }

    /// As [`Store::open`], by whoever holds the lock.
    fn open_held(
        backing: Arc<B>,
        keys: VaultKeys,
        dirs: ControlDirs<B>,
        lock: Option<B::Lock>,
        options: StoreOptions,
        (entropy, clock): (Arc<dyn Entropy>, Arc<dyn Clock>),
    ) -> Result<Arc<Self>> {
        let mut hidden = Vec::new();
        if !options.read_only {
            let clean = lock::begin(&*backing, &dirs.control)?;
            recover::sweep(&*backing, &dirs)?;
            if !clean {
                // What the daemon before remembered, until its changes of names were durable, nobody does any more.
                sync_all::sync_all_names(&*backing, &dirs)?;
                doubles::settle(&*backing, &dirs, &keys)?;
                hidden = recover::hunt(&*backing, &dirs, &keys)?;
            }
        }
        let cached = options.max_cached_entries;
        let core = Arc::new(Core::new(backing, keys, dirs, options, entropy, clock));
        for (inode, name) in hidden {
            core.hide_name(inode, name);
        }
        core.find_sides()?;
        let reserve = Reserve::default();
        if !core.options.read_only {
            reserve.fill(&core);
        }
        let place = Place::new(None, Home::Root, 0);
        let root = Node::new(EntryId::ROOT, EntryKind::Dir, place);
        let nodes = Nodes::new();
        nodes.insert(&root);
        Ok(Arc::new(Store {
            core,
            root,
            nodes,
            queue: Queue::new(),
            cache: DirCache::new(cached),
            layer_names: SyncGate::new(),
            inode_names: SyncGate::new(),
            inode_lock: Mutex::new(()),
            native_links: OnceLock::new(),
            unfinished_sides: Mutex::new(Vec::new()),
            newly_named: Mutex::new(HashMap::new()),
            gone_names: GoneNames::default(),
            moved_dirs: Mutex::new(HashMap::new()),
            exchanges: RwLock::new(false),
            touched: Mutex::new(Vec::new()),
            settled_last: Mutex::new(Duration::ZERO),
            rescues: Rescues::default(),
            reserve,
            invalid: Mutex::new(HashSet::new()),
            lost_unseen: AtomicBool::new(false),
            lock: Mutex::new(lock),
        }))
    }

    /// The root directory.
    pub fn root(&self) -> Arc<Node<B>> {
        Arc::clone(&self.root)
    }

    /// The settings.
    pub fn options(&self) -> &StoreOptions {
        &self.core.options
    }

    /// Block length in bytes.
    pub fn block_len(&self) -> u64 {
        self.core.geometry.block_len()
    }

    /// Whether names can be looked up in `dir` without waiting for a scan.
    pub fn is_loaded(&self, dir: &Arc<Node<B>>) -> bool {
        dir.is_dir_loaded()
    }

    /// Attributes.
    pub fn attr(&self, node: &Arc<Node<B>>) -> Result<Attr> {
        match &node.body {
            Body::Dir(_) => self.dir_attr(node).map(|attr| node.with_held_times(attr)),
            Body::File(_) => self.file_attr(node),
            Body::Name(inode) => self.file_attr(inode),
            Body::Damaged => {
                let stat = node.stat_home(&self.core)?;
                Ok(Attr { size: 0, mode: 0, nlink: 1, ..attr_of(node, &stat) })
            }
        }
    }

    fn dir_attr(&self, node: &Arc<Node<B>>) -> Result<Attr> {
        let body = node.dir()?;
        let (dirs, times, removed) = {
            let state = body.state.lock();
            let ctime = state.ctime;
            (state.map.as_ref().map(dirmap::DirMap::dirs), (state.times, ctime), state.removed)
        };
        if removed {
            let now = self.core.now();
            let gone = Stat {
                kind: crate::backing::FileKind::Dir,
                len: 0,
                blocks_512: 0,
                mode: 0o700,
                uid: 0,
                gid: 0,
                nlink: 0,
                ino: 0,
                atime: now,
                mtime: now,
                ctime: now,
            };
            let stat = node.stat_home(&self.core).unwrap_or(gone);
            return Ok(Attr { nlink: 0, ..attr_of(node, &stat) });
        }
        let stat = node.stat_home(&self.core)?;
        let mut attr = attr_of(node, &stat);
        if let Some(dirs) = dirs {
            attr.nlink = u32::try_from(dirs).unwrap_or(u32::MAX - 2) + 2;
        } else if node.id() == EntryId::ROOT {
            attr.nlink = attr.nlink.saturating_sub(1);
        }
        let (times, ctime) = times;
        if let Some((mtime, ctime)) = times {
            attr.mtime = mtime;
            attr.ctime = ctime;
        } else if let Some(ctime) = ctime {
            attr.ctime = ctime;
        }
        Ok(attr)
    }

    fn file_attr(&self, node: &Arc<Node<B>>) -> Result<Attr> {
        let body = node.file()?;
        let (size, pending, edited) = {
            let state = body.state.read();
            let edit = state.open.as_ref().or(state.frozen.as_deref());
            let times = edit.map(|edit| (state.set_mtime.unwrap_or(edit.mtime), edit.ctime));
            (state.size(), state.attr, times)
        };
        let allocated = node.allocated(&self.core);
        let unlinked = node.place.lock().is_nameless();
        let nlink = self.link_count(node).unwrap_or_else(|_| {
            // It can be looked at and removed, and the kernel asks again.
            self.invalid.lock().insert(node.id());
            1
        });
        if let Some(attr) = pending {
            let size = size.unwrap_or(0);
            let (mtime, ctime) = edited.unwrap_or((attr.mtime, attr.ctime));
            return Ok(Attr {
                id: node.id(),
                kind: node.kind(),
                size,
                blocks_512: allocated.unwrap_or(0).div_ceil(512),
                mode: attr.mode,
                nlink,
                uid: attr.uid,
                gid: attr.gid,
                rdev: self.core.device_number(node.id(), node.kind()).unwrap_or(0),
                atime: node.held_atime().unwrap_or(attr.atime),
                mtime,
                ctime: ctime.max(attr.ctime).max(node.held_ctime().unwrap_or(attr.ctime)),
            });
        }
        let stat = match node.stat_home(&self.core) {
            // Published between the two looks: its entry is in the tree now.
            Err(error) if error.is_missing() && !unlinked => match node.stat_home(&self.core) {
                // Somebody took it out of `.akasha/inodes`. Its names can still be removed.
                Err(error) if error.is_missing() && node.place.lock().home.is_inode() => {
                    return Ok(missing_attr(node, nlink));
                }
                again => again?,
            },
            other => other?,
        };
        let mut attr = node.with_held_times(attr_of(node, &stat));
        attr.nlink = nlink;
        if !special::has_content(node.kind()) {
            let rdev = self.core.device_number(node.id(), node.kind()).unwrap_or(0);
            attr = Attr { size: 0, blocks_512: 0, rdev, ..attr };
            // A size is not to be looked for.
            return Ok(with_edit_times(attr, edited));
        }
        attr.size = match size {
            Some(size) => size,
            None => match self.core.geometry.classify(stat.len) {
                LengthClass::Simple { size } => size,
                // Its size is sealed in its tail. What is damaged can still be looked at and removed.
                LengthClass::Mapped => self.shown_size(node)?,
                LengthClass::Stub | LengthClass::Invalid => 0,
            },
        };
        let allocated = allocated.unwrap_or_else(|| self.allocated_unopened(node, stat.len));
        attr.blocks_512 = allocated.div_ceil(512);
        Ok(with_edit_times(attr, edited))
    }

    /// The size that a tail must tell: 0 if it cannot be read, which the kernel must not believe for longer than this answer.
    fn shown_size(&self, node: &Arc<Node<B>>) -> Result<u64> {
        match node.size(&self.core) {
            Ok(size) => Ok(size),
            // An empty file would be copied as one.
            Err(error) if error.is_passing() => Err(error),
            Err(_) => {
                self.invalid.lock().insert(node.id());
                Ok(0)
            }
        }
    }

    /// Sets attributes, at once, on the published version and on the one that waits; returns them all.
    pub fn set_attr(&self, node: &Arc<Node<B>>, set: &SetAttr) -> Result<Attr> {
        if self.core.options.read_only {
            return Err(StoreError::ReadOnly);
        }
        let only_times = (set.mode, set.uid, set.gid) == (None, None, None);
        if only_times && node.is_unreadable_and_gone(&self.core) {
            // The kernel tells its times once more when a name goes.
            return Ok(missing_attr(node, 0));
        }
        if let Some(ctime) = set.ctime {
            self.core.note_told(ctime);
        }
        let now = self.core.now();
        let time = |change: Option<TimeChange>| {
            change.map(|change| match change {
                TimeChange::Now => now,
                TimeChange::At(time) => time,
            })
        };
        let (atime, mtime) = (time(set.atime), time(set.mtime));
        if node.file().is_ok() {
            self.hold_home(node, || self.set_file_attr(node, set, atime, mtime))?;
        } else {
            self.set_home_attr(node, set, atime, mtime)?;
        }
        self.attr(node)
    }

    fn set_file_attr(
        &self,
        node: &Arc<Node<B>>,
        set: &SetAttr,
        atime: Option<Timestamp>,
        mtime: Option<Timestamp>,
    ) -> Result<()> {
        // In memory only: not published yet, or removed while the kernel holds it.
        let pending = matches!(node.place.lock().home, Home::Pending | Home::Gone);
        {
            let now = self.core.now();
            let mut state = node.file()?.state.write();
            if state.is_dirty()
                && let Some(mtime) = mtime
            {
                state.set_mtime = Some(mtime);
            }
            // While the kernel caches writes, it tells when the last change was.
            let now = set.ctime.unwrap_or(now);
            node.note_changed(now);
            if let Some(open) = &mut state.open {
                open.ctime = now;
            }
            if let Some(attr) = &mut state.attr {
                attr.mode = set.mode.unwrap_or(attr.mode);
                attr.uid = set.uid.unwrap_or(attr.uid);
                attr.gid = set.gid.unwrap_or(attr.gid);
                attr.atime = atime.unwrap_or(attr.atime);
                attr.mtime = mtime.unwrap_or(attr.mtime);
                attr.ctime = now;
                if pending {
                    if atime.is_some() {
                        node.note_atime_set();
                    }
                    return Ok(());
                }
            }
        }
        self.set_home_attr(node, set, atime, mtime)
    }

    fn set_home_attr(
        &self,
        node: &Arc<Node<B>>,
        set: &SetAttr,
        atime: Option<Timestamp>,
        mtime: Option<Timestamp>,
    ) -> Result<()> {
        if let Body::Dir(body) = &node.body {
            // Who loses the right to write here would keep what is pending from being published.
            if set.mode.is_some_and(|mode| mode & 0o300 != 0o300)
                && !self.core.backing.is_privileged()
            {
                self.fsync_dir(node)?;
            }
            let mut state = body.state.lock();
            if let Some(times) = &mut state.times {
                times.0 = mtime.unwrap_or(times.0);
            }
            state.touch_attr(self.core.now());
        }
        let mut change = AttrChange { mode: set.mode, uid: set.uid, gid: set.gid, atime, mtime };
        if change != AttrChange::default() {
            change.atime = atime.or(node.held_atime());
            node.change_home(&self.core, &change)?;
            node.note_unsynced_attr();
        }
        if atime.is_some() {
            node.note_atime_set();
        }
        Ok(())
    }

    /// Counts a handle. The first one opens and verifies the committed version.
    pub fn open_file(&self, node: &Arc<Node<B>>, write: bool) -> Result<()> {
        let body = node.file()?;
        if write && self.core.options.read_only {
            return Err(StoreError::ReadOnly);
        }
        {
            let mut state = body.state.write();
            if write {
                state.writers += 1;
            } else {
                state.readers += 1;
            }
        }
        if let Err(error) = node.load_top(&self.core) {
            // A damaged file can be opened for writing, to be cut and overwritten.
            if !write || error.is_missing() {
                self.close_file(node, write);
                return Err(error);
            }
        }
        if node.is_gone() {
            self.close_file(node, write);
            return Err(StoreError::NotFound);
        }
        Ok(())
    }

    /// The end of a handle. After the last writer's the file is eligible for commit.
    pub fn close_file(&self, node: &Arc<Node<B>>, write: bool) {
        let Ok(body) = node.file() else { return };
        let (last_writer, last) = {
            let mut state = body.state.write();
            if write {
                state.writers = state.writers.saturating_sub(1);
            } else {
                state.readers = state.readers.saturating_sub(1);
            }
            let last = state.readers + state.writers == 0;
            // Who comes now sees the committed version again, where there is one.
            if last && state.lost && state.attr.is_none() {
                state.lost = false;
            }
            (write && state.writers == 0, last)
        };
        let unlinked = node.place.lock().is_nameless();
        if unlinked && last {
            self.drop_unlinked(node);
        } else if (last_writer || last) && node.waits() {
            self.queue.make_eligible(node, self.core.clock.elapsed());
        }
    }

    /// Counts an open directory: its map stays in memory.
    pub fn open_dir(&self, node: &Arc<Node<B>>) -> Result<()> {
        match self.lock_dir(node) {
            // Removed since it was looked up: as good as empty.
            Err(StoreError::NotFound) if node.dir()?.state.lock().removed => {}
            loaded => drop(loaded?),
        }
        node.dir()?.handles.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The end of [`Store::open_dir`].
    pub fn close_dir(&self, node: &Arc<Node<B>>) {
        if let Ok(dir) = node.dir() {
            dir.handles.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Reads from `offset`; returns how many bytes there were.
    pub fn read(&self, node: &Arc<Node<B>>, offset: u64, out: &mut [u8]) -> Result<usize> {
        node.read_file(&self.core, offset, out)
    }

    /// Whether a read will not wait for the disk.
    pub fn read_is_cheap(&self, node: &Arc<Node<B>>, offset: u64, len: u64) -> bool {
        node.read_is_cheap(&self.core, offset, len)
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, node: &Arc<Node<B>>) -> Result<Vec<u8>> {
        if node.kind() != EntryKind::Symlink {
            return Err(StoreError::InvalidArgument);
        }
        let mut target = vec![0; 4096];
        let len = node.read_file(&self.core, 0, &mut target)?;
        target.truncate(len);
        Ok(target)
    }

    /// Writes at `offset`. Visible on return; durable after a commit.
    pub fn write(&self, node: &Arc<Node<B>>, offset: u64, data: &[u8]) -> Result<()> {
        self.write_at(node, offset, data, WriteTime::Now)
    }

    /// As [`Store::write`], but the modification time stays: the caller sets it where it changed.
    pub fn write_back(&self, node: &Arc<Node<B>>, offset: u64, data: &[u8]) -> Result<()> {
        self.write_at(node, offset, data, WriteTime::Kept)
    }

    fn write_at(
        &self,
        node: &Arc<Node<B>>,
        offset: u64,
        data: &[u8],
        time: WriteTime,
    ) -> Result<()> {
        if self.core.options.read_only {
            return Err(StoreError::ReadOnly);
        }
        node.write_file(&self.core, offset, data, time)?;
        self.queue.add(node);
        Ok(())
    }

    /// Sets the size.
    pub fn truncate(&self, node: &Arc<Node<B>>, size: u64) -> Result<()> {
        if self.core.options.read_only {
            return Err(StoreError::ReadOnly);
        }
        node.truncate_file(&self.core, size)?;
        // Without an open handle (truncate(2)) this is a change of its own.
        if has_handles(node) {
            self.queue.add(node);
        } else {
            self.queue.make_eligible(node, self.core.clock.elapsed());
        }
        Ok(())
    }

    /// What close does for each descriptor: the uncommitted version is complete in the backing store on
    /// return, and under [`CommitPolicy::OnClose`] it is committed, unless it is empty.
    pub fn flush(&self, node: &Arc<Node<B>>) -> Result<()> {
        let body = node.file()?;
        {
            let mut state = body.state.write();
            if state.lost {
                return Err(StoreError::Lost);
            }
            state.handed_over = state.changes;
        }
        if !node.waits() {
            return Ok(());
        }
        if self.core.options.commit == CommitPolicy::OnClose {
            // A shell that redirects closes a copy of the descriptor before anything is written (`echo x > f`): an empty
            // version waits for the end of its last writer, so that it is never what a cut leaves of a file.
            let empty = body.state.read().open.as_ref().is_some_and(|edit| edit.size == 0);
            return if empty { Ok(()) } else { self.fsync(node) };
        }
        if node.place.lock().is_nameless() {
            // Unlinked: nothing of it will ever be published.
            return Ok(());
        }
        self.complete(node)
    }

    /// Completes the uncommitted version in the backing store.
    fn complete(&self, node: &Arc<Node<B>>) -> Result<()> {
        if self.is_small_change(node) {
            return self.with_reserve(|| node.complete_edit(&self.core));
        }
        node.complete_edit(&self.core)
    }

    /// Whether changes of the file wait for a commit.
    pub fn is_dirty(&self, node: &Arc<Node<B>>) -> bool {
        node.waits()
    }

    /// Makes a temporary file ahead for a file that was created with `mode` and will probably be written and closed at once.
    pub fn make_spare(&self, mode: u32) {
        self.core.spares.add(&self.core, mode | 0o600);
    }

    /// Takes an uncommitted change back, if the only writer is the caller and nothing of it is being committed.
    pub fn abandon(&self, node: &Arc<Node<B>>) {
        let Ok(body) = node.file() else { return };
        let undone = {
            let _alone = body.gate.write();
            let mut state = body.state.write();
            let only = state.writers <= 1 && state.frozen.is_none() && state.attr.is_none();
            if only { state.open.take() } else { None }
        };
        drop(undone);
        self.queue.remove_if_done(node);
    }

    /// Space on the backing filesystem.
    pub fn statfs(&self) -> Result<SpaceStat> {
        self.core.backing.space(&self.core.root).attempt("ask for free space")
    }

    /// Files whose cached pages show changes that were lost: the kernel must forget them.
    pub fn take_invalid(&self) -> Vec<EntryId> {
        self.invalid.lock().drain().collect()
    }

    /// Commits everything, removes what is dead, and lets go of the vault. Whatever happens, later operations are the
    /// caller's mistake.
    ///
    /// # Errors
    /// If something could not be committed or made durable. `Lost` if that was so for a while only, and changes of a file
    /// were lost that nobody had open any more.
    pub fn close(&self) -> Result<()> {
        let mut clean = true;
        if !self.core.options.read_only {
            clean &= self.commit_the_last();
            self.restore_touched();
            self.finish_sides();
            self.queue.take_up();
            clean &= self.settle_all();
            self.core.spares.clear(&self.core);
            // Moves, removals and new directories that no commit had to sync.
            if let Err(error) = self.core.sync_all_names() {
                log::warn!(
                    "the last changes of names may not be durable: {}",
                    error::chain(&error)
                );
                clean = false;
            }
            if clean && self.core.may_have_orphans() {
                clean = self.hunt_at_the_end();
            }
            // Without the mark `akasha umount` says that something went wrong, also of a daemon that nobody watches.
            if clean && !self.lost_unseen.load(Ordering::Relaxed) {
                lock::end(&*self.core.backing, &self.core.control);
            }
        }
        self.cache.clear();
        *self.lock.lock() = None;
        if clean {
            let lost = self.lost_unseen.load(Ordering::Relaxed);
            return if lost { Err(StoreError::Lost) } else { Ok(()) };
        }
        Err(StoreError::Io {
            what: "commit everything before the end",
            source: std::io::Error::from_raw_os_error(libc::EIO),
        })
    }
}

impl<B: Backing> Store<B> {
    /// Removes what only something unreadable could have referred to, which was removed.
    fn hunt_at_the_end(&self) -> bool {
        let core = &self.core;
        let hunt = || -> Result<()> {
            let control = core.backing.open_dir(&core.root, CONTROL_DIR).attempt("open .akasha")?;
            let root = Arc::clone(&core.root);
            let dirs = lock::control_dirs(&*core.backing, root, control, &core.options)?;
            let keys = VaultKeys {
                cipher: core.cipher,
                geometry: core.geometry,
                keys: Arc::clone(&core.keys),
            };
            recover::hunt(&*core.backing, &dirs, &keys).map(|_| ())
        };
        let hunted = hunt();
        if let Err(error) = &hunted {
            log::warn!("what nothing refers to stays for the next mount: {error}");
        }
        hunted.is_ok()
    }
}

/// What is shown of a file with several names that is not there.
fn missing_attr<B: Backing>(node: &Node<B>, nlink: u32) -> Attr {
    let (atime, mtime, ctime) = Default::default();
    Attr {
        id: node.id(),
        kind: node.kind(),
        size: 0,
        blocks_512: 0,
        mode: 0,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        atime,
        mtime,
        ctime,
    }
}

/// `attr` with the times of the uncommitted version, where there is one.
fn with_edit_times(attr: Attr, edited: Option<(Timestamp, Timestamp)>) -> Attr {
    match edited {
        Some((mtime, ctime)) => Attr { mtime, ctime: attr.ctime.max(ctime), ..attr },
        None => attr,
    }
}

fn attr_of<B: Backing>(node: &Node<B>, stat: &Stat) -> Attr {
    Attr {
        id: node.id(),
        kind: node.kind(),
        size: stat.len,
        blocks_512: stat.blocks_512,
        mode: stat.mode,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: 0,
        atime: stat.atime,
        mtime: stat.mtime,
        ctime: stat.ctime,
    }
}
