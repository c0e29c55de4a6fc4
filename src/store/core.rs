//! What every part of the store needs: the disk, the keys, the control directories, the settings,
//! and the budgets. It holds no file and no directory of the tree.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::backing::{At, AttrChange, Backing};
use crate::clock::{Clock, Timestamp};
use crate::crypto::{Cipher, KeyTree};
use crate::entropy::Entropy;
use crate::format::{
    EntryId, EntryKind, Geometry, MODE_ATTRIBUTE, OpenVault, open_xattr, seal_xattr, xattr_name,
};

use super::layer::Layer;
use super::node::Node;
use super::residents::Residents;
use super::sides::Sides;
use super::spare::Spares;
use super::sync_all::WholeSyncs;
use super::temp::LayerTemp;

/// When a file whose last write handle was closed is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitPolicy {
    /// Within this time.
    Interval(Duration),
    /// By close itself: the data is durable when close returns.
    OnClose,
}

/// Settings of a mount.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Nothing in the vault is changed.
    pub read_only: bool,
    /// When closed files are committed.
    pub commit: CommitPolicy,
    /// When files that stay open for writing are committed, counted from their first change.
    pub open_commit: Duration,
    /// Plaintext bytes of uncommitted changes kept in memory, over all files.
    pub memory_budget: u64,
    /// Descriptors that the store may hold open (directories and temporary files).
    pub max_descriptors: usize,
    /// Published layers kept mapped: each counts up to 1 MiB of resident memory.
    pub max_mappings: usize,
    /// Directory entries kept in memory, over all directories that are not in use.
    pub max_cached_entries: usize,
    /// What is written into `.akasha/lock` for others to see; never trusted.
    pub owner_note: String,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            read_only: false,
            commit: CommitPolicy::Interval(Duration::from_secs(5)),
            open_commit: Duration::from_mins(1),
            memory_budget: 64 << 20,
            max_descriptors: 512,
            max_mappings: 96,
            max_cached_entries: 1 << 20,
            owner_note: String::new(),
        }
    }
}

/// More than the kernel's clock for files may be ahead of the coarse one: a tick at 100 Hz.
const TICK: Duration = Duration::from_millis(10);

/// See the module's text.
pub(crate) struct Core<B: Backing> {
    pub backing: Arc<B>,
    pub keys: Arc<KeyTree>,
    pub cipher: Cipher,
    pub geometry: Geometry,
    pub options: StoreOptions,
    pub entropy: Arc<dyn Entropy>,
    pub clock: Arc<dyn Clock>,
    /// The latest time that the kernel told of its own.
    told: Mutex<Timestamp>,
    /// The vault directory.
    pub root: Arc<B::Dir>,
    /// `.akasha`
    pub control: B::Dir,
    /// `.akasha/tmp`
    pub tmp: B::Dir,
    /// `.akasha/layers`
    pub layers: B::Dir,
    /// `.akasha/inodes`
    pub inodes: B::Dir,
    /// `.akasha/xattrs`
    pub xattrs: B::Dir,
    pub sides: Sides,
    /// Whether the end of the mount is to look for what nothing refers to any more.
    orphans: AtomicBool,
    /// User and group of an ordinary user whose vault it is, where the daemon is root.
    pub guest_of: Option<(u32, u32)>,
    /// Plaintext bytes buffered in edits, over all files.
    pub buffered: AtomicU64,
    /// Whether there was no room for a commit lately: then nothing is folded in, which would take more.
    pub is_short: AtomicBool,
    /// The largest commit stamp given or seen.
    stamp: AtomicU64,
    /// The numbers of the devices seen so far: they are part of the sealed entry, and an id is of one entry for ever.
    /// Devices are few; everything else takes no room here.
    devices: RwLock<HashMap<EntryId, u64>>,
    /// Names of files with several that backing directories hold and the mount does not show, by file.
    hidden_names: Mutex<HashMap<EntryId, Vec<EntryId>>>,
    /// The names of a file are counted by native links and by what we know of them: held for writing while both change.
    pub counting: RwLock<()>,
    pub open_dirs: Residents<Node<B>>,
    pub open_temps: Residents<LayerTemp<B>>,
    pub open_layers: Residents<Layer<B>>,
    pub spares: Spares<B>,
    pub whole_syncs: WholeSyncs,
}

/// The control directories, opened once and held.
pub(crate) struct ControlDirs<B: Backing> {
    pub root: Arc<B::Dir>,
    pub control: B::Dir,
    pub tmp: B::Dir,
    pub layers: B::Dir,
    pub inodes: B::Dir,
    pub xattrs: B::Dir,
}

/// The vault's keys and fixed parameters.
pub(crate) struct VaultKeys {
    pub keys: Arc<KeyTree>,
    pub cipher: Cipher,
    pub geometry: Geometry,
}

impl VaultKeys {
    pub fn of(vault: &OpenVault) -> Self {
        VaultKeys {
            keys: Arc::clone(&vault.keys),
            cipher: vault.config.cipher,
            geometry: vault.config.geometry,
        }
    }
}

impl<B: Backing> Core<B> {
    pub fn new(
        backing: Arc<B>,
        vault: VaultKeys,
        dirs: ControlDirs<B>,
        options: StoreOptions,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        // Half of the descriptors for directories, a quarter for temporary files; the rest is for
        // what is opened in passing.
        let descriptors = options.max_descriptors.max(16);
        Core {
            guest_of: guest_of(&*backing, &dirs.control),
            backing,
            keys: vault.keys,
            cipher: vault.cipher,
            geometry: vault.geometry,
            entropy,
            clock,
            root: dirs.root,
            control: dirs.control,
            tmp: dirs.tmp,
            layers: dirs.layers,
            inodes: dirs.inodes,
            xattrs: dirs.xattrs,
            sides: Sides::default(),
            orphans: AtomicBool::new(false),
            buffered: AtomicU64::new(0),
            is_short: AtomicBool::new(false),
            stamp: AtomicU64::new(0),
            devices: RwLock::new(HashMap::new()),
            hidden_names: Mutex::new(HashMap::new()),
            counting: RwLock::new(()),
            told: Mutex::default(),
            open_dirs: Residents::new(descriptors / 2),
            open_temps: Residents::new(descriptors / 4),
            open_layers: Residents::new(options.max_mappings),
            spares: Spares::default(),
            whole_syncs: WholeSyncs::default(),
            options,
        }
    }

    /// Something went of which nobody knows what it referred to.
    pub fn note_orphans(&self) {
        self.orphans.store(true, Ordering::Relaxed);
    }

    /// Whether there may be something that nothing refers to.
    pub fn may_have_orphans(&self) -> bool {
        self.orphans.load(Ordering::Relaxed)
    }

    /// Block length in bytes as an index.
    pub fn block_len(&self) -> usize {
        usize::try_from(self.geometry.block_len()).expect("a block is at most 1 MiB")
    }

    /// Slot length in bytes as an index.
    pub fn slot_len(&self) -> usize {
        usize::try_from(self.geometry.slot_len()).expect("a slot is a block and a tag")
    }

    /// The largest file that is kept whole in memory until it is committed, and that every change
    /// rewrites as a new simple layer, in bytes.
    pub fn small_len(&self) -> u64 {
        (128 << 10_u64).max(self.geometry.block_len())
    }

    /// How many bytes of `count` blocks from `block` on count as allocated in a file of `size` bytes, if they are
    /// no holes: whole blocks, but of the last one only the pages of 4 KiB that the file reaches into.
    pub fn allocated_len(&self, block: u64, count: u64, size: u64) -> u64 {
        let block_len = self.geometry.block_len();
        let end = ((block + count) * block_len).min(size.next_multiple_of(4096));
        end.saturating_sub(block * block_len)
    }

    /// Whether permission bits are kept sealed where the backing objects have more: in the vault of an ordinary user, whose
    /// daemon must be able to open all of them. Root's daemon does the same there, so that both show the same.
    fn keeps_modes(&self) -> bool {
        !self.backing.is_privileged() || self.guest_of.is_some()
    }

    /// What can be stored of attributes: an unprivileged daemon cannot give files away, and
    /// must be able to open its own.
    pub fn backing_attr(&self, mut change: AttrChange, kind: EntryKind) -> AttrChange {
        if !self.backing.is_privileged() {
            change.uid = None;
            change.gid = None;
        }
        if self.keeps_modes() {
            change.mode = change.mode.map(|mode| mode | needed_bits(kind));
        }
        change
    }

    /// Keeps permission bits that the backing object cannot have, sealed beside it. A filesystem without extended
    /// attributes shows the backing object's.
    pub fn keep_mode(
        &self,
        dir: &B::Dir,
        at: At<'_>,
        id: EntryId,
        kind: EntryKind,
        mode: u32,
    ) -> std::io::Result<()> {
        if !self.keeps_modes() {
            return Ok(());
        }
        let key = xattr_name(&self.keys, id, MODE_ATTRIBUTE);
        let needed = needed_bits(kind);
        let value = (mode & needed != needed).then(|| {
            seal_xattr(&self.keys, id, MODE_ATTRIBUTE, &mode.to_le_bytes(), &*self.entropy)
        });
        match self.backing.set_xattr(dir, at, &key, value.as_deref()) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            other => other,
        }
    }

    /// A stat with the permission bits that [`Core::keep_mode`] kept.
    pub fn true_stat(
        &self,
        dir: &B::Dir,
        at: At<'_>,
        id: EntryId,
    ) -> std::io::Result<crate::backing::Stat> {
        let mut stat = self.backing.stat(dir, at)?;
        if !self.keeps_modes() {
            return Ok(stat);
        }
        let key = xattr_name(&self.keys, id, MODE_ATTRIBUTE);
        if let Some(sealed) = self.backing.get_xattr(dir, at, &key)?
            && let Ok(value) = open_xattr(&self.keys, id, MODE_ATTRIBUTE, &sealed)
            && let Ok(mode) = value.try_into().map(u32::from_le_bytes)
        {
            stat.mode = mode & 0o7777;
        }
        Ok(stat)
    }

    /// Takes note of a device's number, as its sealed entry has it.
    pub fn see_device(&self, id: EntryId, rdev: u64) {
        self.devices.write().insert(id, rdev);
    }

    /// The device number of an entry; `None` of what is no device.
    pub fn device_number(&self, id: EntryId, kind: EntryKind) -> Option<u64> {
        kind.is_device().then(|| self.devices.read().get(&id).copied().unwrap_or(0))
    }

    /// A published name of `inode` is not shown any more, or was not from the start.
    pub fn hide_name(&self, inode: EntryId, name: EntryId) {
        let mut hidden = self.hidden_names.lock();
        let names = hidden.entry(inode).or_default();
        if !names.contains(&name) {
            names.push(name);
        }
    }

    /// A published name of `inode` is gone from its backing directory.
    pub fn forget_name(&self, inode: EntryId, name: EntryId) {
        let mut hidden = self.hidden_names.lock();
        if let Some(names) = hidden.get_mut(&inode) {
            names.retain(|hidden| *hidden != name);
            if names.is_empty() {
                hidden.remove(&inode);
            }
        }
    }

    /// Whether the mount does not show the published name `name` of `inode`.
    pub fn is_hidden_name(&self, inode: EntryId, name: EntryId) -> bool {
        self.hidden_names.lock().get(&inode).is_some_and(|names| names.contains(&name))
    }

    /// How many published names of `inode` the mount does not show.
    pub fn hidden_names(&self, inode: EntryId) -> usize {
        self.hidden_names.lock().get(&inode).map_or(0, Vec::len)
    }

    /// The wall clock, never behind a time that the kernel has told.
    ///
    /// Between two ticks the kernel may take a finer time for a change that follows a look (multigrain timestamps, Linux 6.13),
    /// which from then on is the least that it gives to any file. It does not tell a time that is the file's already: one of
    /// ours that lies before would stay.
    pub fn now(&self) -> Timestamp {
        let (now, told) = (self.clock.now(), *self.told.lock());
        if now < told && told.is_within(TICK, now) { told } else { now }
    }

    /// Takes note of a time that the kernel took from its clock.
    pub fn note_told(&self, time: Timestamp) {
        let mut told = self.told.lock();
        // Unless the clock was set back, an older one is one that came late.
        if *told < time || !told.is_within(TICK, time) {
            *told = time;
        }
    }

    /// A commit stamp greater than every one given or seen: a hybrid clock in microseconds.
    pub fn next_stamp(&self) -> u64 {
        let now = self.clock.now().as_micros();
        let before = self
            .stamp
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |seen| Some(now.max(seen + 1)))
            .unwrap_or_else(|seen| seen);
        now.max(before + 1)
    }

    /// Takes note of a stamp found in the vault.
    pub fn see_stamp(&self, stamp: u64) {
        // A stamp from an absurd future must not stop the clock: half of the range is room enough.
        if stamp < u64::MAX / 2 {
            self.stamp.fetch_max(stamp, Ordering::AcqRel);
        }
    }
}

/// User and group of an ordinary user whose vault it is, where the daemon is root.
pub(crate) fn guest_of<B: Backing>(backing: &B, control: &B::Dir) -> Option<(u32, u32)> {
    let owner = backing.stat(control, At::This).ok().map(|stat| (stat.uid, stat.gid));
    owner.filter(|(uid, _)| *uid != 0 && backing.is_privileged())
}

/// The permission bits without which an unprivileged daemon could not use its own object.
fn needed_bits(kind: EntryKind) -> u32 {
    if kind == EntryKind::Dir { 0o700 } else { 0o600 }
}
