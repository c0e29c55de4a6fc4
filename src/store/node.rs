//! One live inode: a file, directory or symbolic link that the kernel knows or that has changes pending.
//!
//! Lock order, everywhere in the store (take from left to right, skip what is not needed):
//!
//! ```text
//! file.commit > rename > dir.state (by id where two) > node.place > file.gate > file.state > leaves
//! ```
//!
//! `dir.state` is held across single system calls on names, never across a sync (but that of a long name's sidecar and of
//! an exchange) or file content.
//! `file.state` is never held across any system call. `file.commit` is held across syncs and is
//! taken only by those who commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::backing::{At, AttrChange, Backing, Stat};
use crate::clock::Timestamp;
use crate::format::{Entry, EntryId, EntryKind, inode_file_name, seal_entry};

use super::core::Core;
use super::dir::DirState;
use super::edit::Edit;
use super::error::{Attempt, Result, StoreError};
use super::finish::Finished;
use super::gate::SyncGate;
use super::names::Names;
use super::publish_names::StubTemp;
use super::residents::Evictable;
use super::snapshot::Snapshot;
use super::times::HeldTimes;
use super::xattr::HeldXattrs;

/// How often an object that moves while it is being opened is looked for again.
const MOVES_FOLLOWED: usize = 64;

/// See the module's text.
pub struct Node<B: Backing> {
    id: EntryId,
    kind: EntryKind,
    pub(crate) place: Mutex<Place<B>>,
    pub(crate) times: Mutex<HeldTimes>,
    pub(crate) xattrs: Mutex<HeldXattrs>,
    pub(crate) body: Body<B>,
}

/// Where a node is, in the mount and in the vault.
pub(crate) struct Place<B: Backing> {
    /// The name the mount shows; `None` for the root and for what was unlinked.
    pub link: Option<Link<B>>,
    /// Where its backing entry is.
    pub home: Home<B>,
    /// The directory change that made the home's name: durable once that directory is synced so far.
    pub link_seq: u64,
    /// Whether the mount moved it away from its home: the backing entry follows at the next commit.
    pub away: bool,
    /// Whether it was made without a name and may get one: `link` is `None` then.
    pub may_be_named: bool,
    /// Of a file that has, or is to have, several names; `link` is `None` then.
    pub names: Option<Box<Names<B>>>,
}

impl<B: Backing> Place<B> {
    pub fn new(link: Option<Link<B>>, home: Home<B>, link_seq: u64) -> Self {
        Place { link, home, link_seq, away: false, may_be_named: false, names: None }
    }

    /// Whether no name leads to it any more.
    pub fn is_nameless(&self) -> bool {
        self.link.is_none() && self.names.as_ref().is_none_or(|names| names.gone.is_some())
    }
}

/// A name in a directory of the mount.
pub(crate) struct Link<B: Backing> {
    pub dir: Arc<Node<B>>,
    pub name: Box<[u8]>,
}

impl<B: Backing> Clone for Link<B> {
    fn clone(&self) -> Self {
        Link { dir: Arc::clone(&self.dir), name: self.name.clone() }
    }
}

/// Where a backing entry is.
pub(crate) enum Home<B: Backing> {
    /// Not published yet.
    Pending,
    /// The vault directory itself.
    Root,
    /// In the tree.
    Tree(TreeSpot<B>),
    /// In `.akasha/inodes`: a file with several names.
    Inode,
    /// Unlinked but open.
    Ghost(Ghost<B>),
    /// Under a name that does not decrypt, in this directory.
    Damaged { dir: Arc<Node<B>>, name: Vec<u8> },
    /// Removed.
    Gone,
}

impl<B: Backing> Home<B> {
    /// Whether it is the place of a file with several names.
    pub fn is_inode(&self) -> bool {
        matches!(self, Home::Inode)
    }
}

impl<B: Backing> Clone for Home<B> {
    fn clone(&self) -> Self {
        match self {
            Home::Tree(spot) => Home::Tree(spot.clone()),
            Home::Ghost(ghost) => Home::Ghost(ghost.clone()),
            Home::Inode => Home::Inode,
            Home::Pending => Home::Pending,
            Home::Root => Home::Root,
            Home::Damaged { dir, name } => {
                Home::Damaged { dir: Arc::clone(dir), name: name.clone() }
            }
            Home::Gone => Home::Gone,
        }
    }
}

/// An unlinked file that is still open.
pub(crate) struct Ghost<B: Backing> {
    /// Its name in `.akasha/tmp`.
    pub name: Vec<u8>,
    /// The directory whose entry it was, and the change that took it out: its older layers go when that is durable.
    pub from: Option<(Arc<Node<B>>, u64)>,
}

impl<B: Backing> Clone for Ghost<B> {
    fn clone(&self) -> Self {
        Ghost { name: self.name.clone(), from: self.from.clone() }
    }
}

/// A published entry: the fields that its backing name is sealed from.
pub(crate) struct TreeSpot<B: Backing> {
    pub dir: Arc<Node<B>>,
    pub name: Box<[u8]>,
    pub replaces: Option<EntryId>,
}

impl<B: Backing> Clone for TreeSpot<B> {
    fn clone(&self) -> Self {
        TreeSpot { dir: Arc::clone(&self.dir), name: self.name.clone(), replaces: self.replaces }
    }
}

impl<B: Backing> TreeSpot<B> {
    /// Whether it stands under the name that `link` shows.
    pub fn is_at(&self, link: &Link<B>) -> bool {
        Arc::ptr_eq(&self.dir, &link.dir) && self.name == link.name
    }
}

/// What a node is.
pub(crate) enum Body<B: Backing> {
    Dir(DirBody<B>),
    /// Regular files, and symbolic links (whose content is the target).
    File(FileBody<B>),
    /// One of several names of this file. The mount shows the file; names are made, moved and removed by these.
    Name(Arc<Node<B>>),
    /// Something that does not decrypt.
    Damaged,
}

pub(crate) struct DirBody<B: Backing> {
    fd: Mutex<Option<Arc<B::Dir>>>,
    fd_used: AtomicBool,
    pub state: Mutex<DirState<B>>,
    /// The durability of its names; counted under `state`.
    pub names: SyncGate,
    /// Open handles.
    pub handles: AtomicU32,
}

pub(crate) struct FileBody<B: Backing> {
    pub state: RwLock<FileState<B>>,
    /// Shared by those who change the open edit, exclusive for those who replace it (freeze, truncate, spill).
    pub gate: RwLock<()>,
    /// One commit of a file at a time; what it holds survives a failed attempt.
    pub commit: Mutex<CommitState<B>>,
}

/// What a failed commit leaves for the next attempt.
pub(crate) struct CommitState<B: Backing> {
    /// Map and tail are sealed; only the same bytes may be written again.
    pub finished: Option<Finished<B>>,
    /// The changes that the frozen edit covers.
    pub covers: u64,
    /// Of a file that is to have several names: written, not yet at its place.
    pub stub: Option<StubTemp<B>>,
}

pub(crate) struct FileState<B: Backing> {
    /// The committed version, once it was opened; `None` if there is none or nobody asked.
    pub top: Option<Arc<Snapshot<B>>>,
    /// The edit that is being committed.
    pub frozen: Option<Arc<Edit<B>>>,
    /// The edit that takes writes, based on `frozen`, else on `top`.
    pub open: Option<Edit<B>>,
    /// A modification time that was set on the uncommitted version.
    pub set_mtime: Option<Timestamp>,
    /// Attributes of a file that is not published yet.
    pub attr: Option<PendingAttr>,
    pub readers: u32,
    pub writers: u32,
    /// Counts changes; a commit covers those before its freeze.
    pub changes: u64,
    pub committed: u64,
    /// Those that the last close of a descriptor was for.
    pub handed_over: u64,
    /// An fsync returned before it had a name: its first version does not wait for the end of its writers.
    pub promised: bool,
    /// Uncommitted changes were lost to a failed sync.
    pub lost: bool,
    /// When it became eligible for the interval's commit.
    pub eligible_since: Option<std::time::Duration>,
}

impl<B: Backing> FileState<B> {
    /// The current size, if it is known without asking the disk.
    pub fn size(&self) -> Option<u64> {
        self.open
            .as_ref()
            .map(|edit| edit.size)
            .or_else(|| self.frozen.as_ref().map(|edit| edit.size))
            .or_else(|| self.top.as_ref().map(|top| top.size))
    }

    /// Whether changes wait for a commit.
    pub fn is_dirty(&self) -> bool {
        self.open.is_some() || self.frozen.is_some()
    }
}

/// Attributes kept in memory until a new file is published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingAttr {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
}

impl<B: Backing> Node<B> {
    pub(crate) fn new(id: EntryId, kind: EntryKind, place: Place<B>) -> Arc<Self> {
        let body = match (&place.home, kind) {
            (Home::Damaged { .. }, _) => Body::Damaged,
            (_, EntryKind::Dir) => Body::Dir(DirBody {
                fd: Mutex::new(None),
                fd_used: AtomicBool::new(false),
                state: Mutex::new(DirState::unloaded()),
                names: SyncGate::new(),
                handles: AtomicU32::new(0),
            }),
            _ => Body::File(FileBody {
                state: RwLock::new(FileState {
                    top: None,
                    frozen: None,
                    open: None,
                    set_mtime: None,
                    attr: None,
                    readers: 0,
                    writers: 0,
                    changes: 0,
                    committed: 0,
                    handed_over: 0,
                    promised: false,
                    lost: false,
                    eligible_since: None,
                }),
                gate: RwLock::new(()),
                commit: Mutex::new(CommitState { finished: None, covers: 0, stub: None }),
            }),
        };
        let (times, xattrs) = (Mutex::default(), Mutex::default());
        Arc::new(Node { id, kind, place: Mutex::new(place), times, xattrs, body })
    }

    /// One of several names of `inode`.
    pub(crate) fn new_name(id: EntryId, inode: &Arc<Self>, place: Place<B>) -> Arc<Self> {
        let body = Body::Name(Arc::clone(inode));
        let (place, times, xattrs) = (Mutex::new(place), Mutex::default(), Mutex::default());
        Arc::new(Node { id, kind: inode.kind, place, times, xattrs, body })
    }

    /// The file that it is a name of, else itself.
    pub(crate) fn inode(self: &Arc<Self>) -> &Arc<Self> {
        match &self.body {
            Body::Name(inode) => inode,
            Body::Dir(_) | Body::File(_) | Body::Damaged => self,
        }
    }

    /// The entry id: the mount's st_ino, and FUSE's node id.
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// The kind.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    pub(crate) fn dir(&self) -> Result<&DirBody<B>> {
        match &self.body {
            Body::Dir(dir) => Ok(dir),
            Body::File(_) | Body::Name(_) | Body::Damaged => Err(StoreError::NotADirectory),
        }
    }

    pub(crate) fn file(&self) -> Result<&FileBody<B>> {
        match &self.body {
            Body::File(file) => Ok(file),
            Body::Dir(_) => Err(StoreError::IsADirectory),
            Body::Name(_) => Err(StoreError::InvalidArgument),
            Body::Damaged => Err(StoreError::broken(
                format!("entry {:016x}", self.id.get()),
                "its name does not decrypt",
            )),
        }
    }

    /// Whether it, or one of its names, is shown away from where its backing entry is.
    pub(crate) fn is_to_move(&self) -> bool {
        let (away, waiting) = {
            let place = self.place.lock();
            (place.away, place.names.as_ref().map(|names| names.waiting()))
        };
        away || waiting.unwrap_or_default().iter().any(|name| name.place.lock().away)
    }

    /// Whether anything of it waits for a commit: changes, or a name.
    pub(crate) fn waits(&self) -> bool {
        let place = self.place.lock();
        let waiting = place.names.as_ref().is_some_and(|names| !names.waiting.is_empty());
        let moves = place.away || waiting;
        drop(place);
        moves || self.file().is_ok_and(|body| body.state.read().is_dirty())
    }

    /// The backing name that `spot` seals to, for this node.
    pub(crate) fn sealed_name(&self, core: &Core<B>, spot: &TreeSpot<B>) -> Vec<u8> {
        self.entry_at(core, spot).name
    }

    pub(crate) fn entry_at(
        &self,
        core: &Core<B>,
        spot: &TreeSpot<B>,
    ) -> crate::format::BackingName {
        let inode = match &self.body {
            Body::Name(inode) => Some(inode.id),
            Body::Dir(_) | Body::File(_) | Body::Damaged => None,
        };
        let what = Entry {
            kind: self.kind,
            id: self.id,
            inode,
            replaces: spot.replaces,
            rdev: None,
            name: spot.name.to_vec(),
        };
        backing_name(core, spot.dir.id, what)
    }

    /// Runs `with` on the directory and name where the backing entry is now, following it if it moves.
    pub(crate) fn at_home<T>(
        &self,
        core: &Core<B>,
        mut with: impl FnMut(&B::Dir, &[u8]) -> std::io::Result<T>,
        what: &'static str,
    ) -> Result<T> {
        let mut last = StoreError::NotFound;
        for attempt in 0..MOVES_FOLLOWED {
            enum Where<B: Backing> {
                Tmp(Vec<u8>),
                Inodes,
                Dir(Arc<Node<B>>, Vec<u8>),
            }
            // Whoever moves it has renamed it and is about to say so.
            if attempt > MOVES_FOLLOWED / 4 {
                std::thread::sleep(Duration::from_micros(100));
            }
            let place = {
                let place = self.place.lock();
                match &place.home {
                    Home::Pending | Home::Gone | Home::Root => return Err(StoreError::NotFound),
                    Home::Ghost(ghost) => Where::Tmp(ghost.name.clone()),
                    Home::Inode => Where::Inodes,
                    Home::Tree(spot) => {
                        Where::Dir(Arc::clone(&spot.dir), self.sealed_name(core, spot))
                    }
                    Home::Damaged { dir, name } => Where::Dir(Arc::clone(dir), name.clone()),
                }
            };
            let tried = match &place {
                Where::Tmp(name) => with(&core.tmp, name).attempt(what),
                Where::Inodes => with(&core.inodes, &inode_file_name(self.id)).attempt(what),
                Where::Dir(dir, name) => {
                    let fd = dir.dir_fd(core)?;
                    with(&fd, name).attempt(what)
                }
            };
            match tried {
                Err(error) if error.is_missing() => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    /// Whether it is a stand-in whose object was removed, or a file with several names that somebody took away.
    pub(crate) fn is_unreadable_and_gone(&self, core: &Core<B>) -> bool {
        let place = self.place.lock();
        match &self.body {
            Body::Damaged => place.link.is_none(),
            Body::File(_) if place.home.is_inode() => {
                drop(place);
                let name = inode_file_name(self.id);
                let stat = core.backing.stat(&core.inodes, At::Name(&name));
                stat.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
            }
            Body::File(_) | Body::Dir(_) | Body::Name(_) => false,
        }
    }

    /// Opens the backing entry's file.
    pub(crate) fn open_home(&self, core: &Core<B>) -> Result<B::File> {
        self.at_home(core, |dir, name| core.backing.open(dir, name), "open a file")
    }

    /// stat of the backing entry.
    pub(crate) fn stat_home(self: &Arc<Self>, core: &Core<B>) -> Result<Stat> {
        if let Body::Dir(_) = &self.body {
            let fd = self.dir_fd(core)?;
            return core.true_stat(&fd, At::This, self.id).attempt("stat a directory");
        }
        self.at_home(core, |dir, name| core.true_stat(dir, At::Name(name), self.id), "stat a file")
    }

    /// Changes attributes of the backing entry, as far as the daemon may.
    pub(crate) fn change_home(self: &Arc<Self>, core: &Core<B>, change: &AttrChange) -> Result<()> {
        let (id, kind) = (self.id, self.kind);
        let apply = |dir: &B::Dir, at: At<'_>| {
            let mut backed = core.backing_attr(*change, kind);
            // Giving a file away is for root; the refusal is the system's to make.
            (backed.uid, backed.gid) = (change.uid, change.gid);
            core.backing.set_attr(dir, at, &backed)?;
            change.mode.map_or(Ok(()), |mode| core.keep_mode(dir, at, id, kind, mode))
        };
        if let Body::Dir(_) = &self.body {
            let fd = self.dir_fd(core)?;
            return apply(&fd, At::This).attempt("change attributes");
        }
        self.at_home(core, |dir, name| apply(dir, At::Name(name)), "change attributes")
    }

    /// The open directory, opened again from the nearest open parent if it was given back.
    pub(crate) fn dir_fd(self: &Arc<Self>, core: &Core<B>) -> Result<Arc<B::Dir>> {
        let body = self.dir()?;
        body.fd_used.store(true, Ordering::Relaxed);
        if let Some(fd) = &*body.fd.lock() {
            return Ok(Arc::clone(fd));
        }
        if let Home::Root = self.place.lock().home {
            return Ok(Arc::clone(&core.root));
        }
        // From the nearest open one down, so that each finds its parent open: a call for each level
        // would overflow the stack.
        let mut closed = Vec::new();
        let mut at = self.parent_at_home();
        while let Some(dir) = at.take_if(|dir| !dir.holds_fd()) {
            at = dir.parent_at_home();
            closed.push(dir);
        }
        for dir in closed.iter().rev() {
            dir.open_fd(core)?;
        }
        self.open_fd(core)
    }

    /// The directory that its backing entry is in.
    fn parent_at_home(&self) -> Option<Arc<Node<B>>> {
        match &self.place.lock().home {
            Home::Tree(spot) => Some(Arc::clone(&spot.dir)),
            Home::Damaged { dir, .. } => Some(Arc::clone(dir)),
            Home::Pending | Home::Root | Home::Inode | Home::Ghost(_) | Home::Gone => None,
        }
    }

    /// Whether its descriptor is open; the root's always is.
    fn holds_fd(&self) -> bool {
        match &self.body {
            Body::Dir(dir) => {
                dir.fd_used.store(true, Ordering::Relaxed);
                dir.fd.lock().is_some() || matches!(self.place.lock().home, Home::Root)
            }
            Body::File(_) | Body::Name(_) | Body::Damaged => true,
        }
    }

    fn open_fd(self: &Arc<Self>, core: &Core<B>) -> Result<Arc<B::Dir>> {
        let body = self.dir()?;
        let fd = Arc::new(self.at_home(
            core,
            |dir, name| core.backing.open_dir(dir, name),
            "open a directory",
        )?);
        *body.fd.lock() = Some(Arc::clone(&fd));
        core.open_dirs.admit(self);
        Ok(fd)
    }
}

impl<B: Backing> Node<B> {
    /// What it holds of the directories above.
    fn take_parents(&mut self) -> [Option<Arc<Node<B>>>; 2] {
        let place = self.place.get_mut();
        let at_home = match std::mem::replace(&mut place.home, Home::Gone) {
            Home::Tree(spot) => Some(spot.dir),
            Home::Damaged { dir, .. } => Some(dir),
            Home::Pending | Home::Root | Home::Inode | Home::Ghost(_) | Home::Gone => None,
        };
        [at_home, place.link.take().map(|link| link.dir)]
    }
}

/// A node keeps its parents alive. One call for each of them would overflow the stack where directories are deep.
impl<B: Backing> Drop for Node<B> {
    fn drop(&mut self) {
        let mut parents: Vec<_> = self.take_parents().into_iter().flatten().collect();
        while let Some(parent) = parents.pop() {
            if let Some(mut last) = Arc::into_inner(parent) {
                parents.extend(last.take_parents().into_iter().flatten());
            }
        }
    }
}

/// The backing name of an entry of the directory `parent`; its device number is filled in here.
pub(crate) fn backing_name<B: Backing>(
    core: &Core<B>,
    parent: EntryId,
    entry: Entry,
) -> crate::format::BackingName {
    let rdev = core.device_number(entry.inode.unwrap_or(entry.id), entry.kind);
    seal_entry(&core.keys, parent, &Entry { rdev, ..entry })
}

impl<B: Backing> Evictable for Node<B> {
    fn take_used(&self) -> bool {
        match &self.body {
            Body::Dir(dir) => dir.fd_used.swap(false, Ordering::Relaxed),
            Body::File(_) | Body::Name(_) | Body::Damaged => false,
        }
    }

    fn evict(&self) {
        if let Body::Dir(dir) = &self.body {
            *dir.fd.lock() = None;
        }
    }
}
