//! A temporary layer: the ciphertext of an edit on its way, in `.akasha/tmp`.
//!
//! It owns its file: dropped before it is published, it takes the file away. The descriptor is given back under
//! pressure and reopened by name, so that thousands of edits do not need thousands of descriptors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use log::warn;
use parking_lot::{Mutex, RwLock};

use crate::backing::{At, AttrChange, Backing, TempFile};
use crate::crypto::TAG_LEN;
use crate::format::{
    EntryId, EntryKind, LayerKey, LayerMap, LayerSealer, SealedEnd, TailFields, temp_file_name,
};

use super::core::Core;
use super::error::{Attempt, Result, StoreError};
use super::residents::Evictable;

/// Plaintext bytes sealed and written with one call at most.
const WRITE_LEN: usize = 256 << 10;

pub(crate) struct LayerTemp<B: Backing> {
    core: Arc<Core<B>>,
    name: Vec<u8>,
    key: Arc<LayerKey>,
    /// Gone once the tail is sealed: a layer is sealed once, ever.
    sealer: RwLock<Option<LayerSealer>>,
    file: Mutex<Option<Arc<B::Temp>>>,
    used: AtomicBool,
    /// [`Core::failed_syncs`] before anything was written.
    failed_syncs: u64,
    /// Whether the descriptor was given back since.
    was_closed: AtomicBool,
    /// Whole blocks written, or tried to, whatever became of them.
    written: AtomicU64,
    /// Whether the file is no longer ours to remove.
    published: AtomicBool,
}

impl<B: Backing> LayerTemp<B> {
    /// A new temporary layer under a fresh id, with its header written.
    pub fn create(core: &Arc<Core<B>>, mode: u32) -> Result<Arc<Self>> {
        let sealer = LayerSealer::new(&core.keys, core.cipher, core.geometry, &*core.entropy);
        let temp = Self::with_sealer(core, sealer, mode)?;
        let header = temp.sealer.read().as_ref().map(LayerSealer::header);
        let header = header.expect("the sealer was just put there");
        temp.file()?.write_at(0, &header).attempt("write a layer's header")?;
        Ok(temp)
    }

    /// The temporary file for a sealer that the caller made (and whose header the caller writes).
    pub fn with_sealer(core: &Arc<Core<B>>, sealer: LayerSealer, mode: u32) -> Result<Arc<Self>> {
        // Readable and writable by the daemon whatever the file's mode: it must be able to reopen.
        let mode = mode | 0o600;
        let failed_syncs = core.failed_syncs();
        let (name, file) = if let Some(spare) = core.spares.take(mode) {
            spare
        } else {
            let name = temp_file_name(&*core.entropy);
            let made = core.backing.create_temp(&core.tmp, &name, mode);
            (name, made.attempt("create a temporary file")?)
        };
        let temp = Arc::new(LayerTemp {
            core: Arc::clone(core),
            name,
            key: Arc::clone(sealer.key()),
            sealer: RwLock::new(Some(sealer)),
            file: Mutex::new(Some(Arc::new(file))),
            used: AtomicBool::new(true),
            failed_syncs,
            was_closed: AtomicBool::new(false),
            written: AtomicU64::new(0),
            published: AtomicBool::new(false),
        });
        core.open_temps.admit(&temp);
        Ok(temp)
    }

    /// Plaintext bytes of a slot.
    pub fn block_len(&self) -> u64 {
        self.core.geometry.block_len()
    }

    /// The name in `.akasha/tmp`.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// What opens its slots.
    pub fn key(&self) -> &Arc<LayerKey> {
        &self.key
    }

    /// The open file, reopened if its descriptor was given back.
    pub fn file(self: &Arc<Self>) -> Result<Arc<B::Temp>> {
        self.used.store(true, Ordering::Relaxed);
        let mut reopened = false;
        let file = {
            let mut held = self.file.lock();
            if let Some(file) = &*held {
                Arc::clone(file)
            } else {
                let file = self
                    .core
                    .backing
                    .open_temp(&self.core.tmp, &self.name)
                    .attempt("reopen a temporary file")?;
                reopened = true;
                let file = Arc::new(file);
                *held = Some(Arc::clone(&file));
                file
            }
        };
        if reopened {
            self.core.open_temps.admit(self);
        }
        Ok(file)
    }

    /// Whether it holds its descriptor.
    pub fn is_open(&self) -> bool {
        self.file.lock().is_some()
    }

    /// It is durable on return, by a syncfs that just succeeded or by an fsync of its own.
    pub fn sync(self: &Arc<Self>, synced_all: bool) -> Result<()> {
        let no_sync_failed = || self.failed_syncs == self.core.failed_syncs();
        if synced_all && no_sync_failed() {
            return Ok(());
        }
        // Of one that was closed, its own descriptor may not have been told.
        if self.was_closed.load(Ordering::Acquire) && self.core.backing.sync_all_is_sound() {
            if no_sync_failed() {
                self.core.sync_all()?;
                // Asked again: the error may have gone to another syncfs in between.
                if no_sync_failed() {
                    return Ok(());
                }
            }
            return Err(StoreError::Io {
                what: "sync a layer of which a failed sync may have been forgotten",
                source: std::io::Error::from_raw_os_error(libc::EIO),
            });
        }
        self.file()?.sync().attempt("sync a layer")
    }

    /// Seals `plain` (whole blocks) from `first_slot` on (`Some`: exactly these slots, `None` result if one of
    /// them is burnt; `None`: the next free ones) and writes them. Returns the first slot.
    ///
    /// # Errors
    /// The disk's; the slots are burnt all the same.
    pub fn write_slots(self: &Arc<Self>, at: Option<u64>, plain: &[u8]) -> Result<Option<u64>> {
        let (block_len, slot_len) = (self.core.block_len(), self.core.slot_len());
        debug_assert!(plain.len().is_multiple_of(block_len) && !plain.is_empty());
        let file = self.file()?;
        let guard = self.sealer.read();
        let sealer = guard.as_ref().expect("an edit writes only before its tail is sealed");
        let count = (plain.len() / block_len) as u64;
        // Claim all slots at once, so that they are contiguous whatever other threads do.
        let run = match at {
            Some(first) => match sealer.reserve_at(first, count) {
                Some(run) => run,
                None => return Ok(None),
            },
            None => sealer.reserve(count),
        };
        self.written.fetch_add(count, Ordering::Relaxed);
        let first = run.first();
        let mut rest = Some(run);
        let write_len = WRITE_LEN.max(block_len);
        let mut cipher = vec![0; plain.len().min(write_len) / block_len * slot_len];
        let mut slot = first;
        for chunk in plain.chunks(write_len) {
            let chunk_slots = (chunk.len() / block_len) as u64;
            let (now, later) = rest.take().expect("slots for every chunk").split(chunk_slots);
            rest = later;
            let out = &mut cipher[..chunk.len() / block_len * slot_len];
            sealer.seal(now, chunk, out);
            file.write_at(self.core.geometry.slot_offset(slot), out).attempt("write blocks")?;
            slot += chunk_slots;
        }
        Ok(Some(first))
    }

    /// Seals the file's last, short block into exactly `slot`, which the caller knows to be free.
    pub fn write_short(self: &Arc<Self>, slot: u64, plain: &[u8]) -> Result<()> {
        let file = self.file()?;
        let guard = self.sealer.read();
        let sealer = guard.as_ref().expect("an edit writes only before its tail is sealed");
        let run = sealer
            .reserve_at(slot, 1)
            .ok_or_else(|| StoreError::broken("a temporary layer", "a slot was burnt twice"))?;
        let mut cipher = vec![0; plain.len() + TAG_LEN];
        sealer.seal(run, plain, &mut cipher);
        file.write_at(self.core.geometry.slot_offset(slot), &cipher).attempt("write blocks")
    }

    /// Runs `seal` with the sealer, taking it away: map and tail are sealed once.
    pub fn finish(
        &self,
        fields: &TailFields,
        last_slot_len: u32,
        map: Option<&LayerMap>,
    ) -> Result<SealedEnd> {
        let sealer = self.sealer.write().take().ok_or_else(|| {
            StoreError::broken("a temporary layer", "its tail was already sealed")
        })?;
        Ok(sealer.finish(fields, last_slot_len, map))
    }

    /// How many whole blocks were written. Slots that were left out for holes do not count: they take no room.
    pub fn blocks_written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether the tail was sealed.
    pub fn is_finished(&self) -> bool {
        self.sealer.read().is_none()
    }

    /// Runs `with` on the sealer.
    ///
    /// # Panics
    /// If the tail was already sealed.
    pub fn with<R>(&self, with: impl FnOnce(&LayerSealer) -> R) -> R {
        with(self.sealer.read().as_ref().expect("asked before the tail is sealed"))
    }

    /// Gives the file its attributes, as far as the daemon may.
    pub fn set_attr(&self, file: &B::Temp, attr: &AttrChange, id: EntryId) -> Result<()> {
        if !self.core.backing.is_privileged()
            && let Some(gid) = attr.gid
            && file.stat().attempt("stat a layer")?.gid != gid
        {
            // A group of the user's own can be given; another one was inherited, and is not ours to give.
            let group = AttrChange { gid: Some(gid), ..AttrChange::default() };
            match file.set_attr(&group) {
                Err(error) if error.raw_os_error() != Some(libc::EPERM) => {
                    return Err(error).attempt("set a layer's group");
                }
                _ => {}
            }
        }
        let backed = self.core.backing_attr(*attr, EntryKind::File);
        file.set_attr(&backed).attempt("set a layer's attributes")?;
        self.keep_mode(attr, id)
    }

    fn keep_mode(&self, attr: &AttrChange, id: EntryId) -> Result<()> {
        let Some(mode) = attr.mode else { return Ok(()) };
        self.core
            .keep_mode(&self.core.tmp, At::Name(&self.name), id, EntryKind::File, mode)
            .attempt("keep a layer's mode")
    }

    /// Like [`LayerTemp::set_attr`], by name.
    pub fn change_attr(&self, attr: &AttrChange, id: EntryId) -> Result<()> {
        let file = self
            .core
            .backing
            .open_temp(&self.core.tmp, &self.name)
            .attempt("reopen a temporary file")?;
        self.set_attr(&file, attr, id)
    }

    /// Reads ciphertext from the temporary file.
    pub fn read_at(self: &Arc<Self>, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file()?.read_at(offset, out).attempt("read a temporary file")
    }

    /// The file was renamed into place; it is no longer ours.
    pub fn set_published(&self) {
        self.published.store(true, Ordering::Release);
        *self.file.lock() = None;
    }
}

impl<B: Backing> Evictable for LayerTemp<B> {
    fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    fn evict(&self) {
        self.was_closed.store(true, Ordering::Release);
        *self.file.lock() = None;
    }
}

impl<B: Backing> Drop for LayerTemp<B> {
    fn drop(&mut self) {
        if !self.published.load(Ordering::Acquire)
            && let Err(error) = self.core.backing.unlink(&self.core.tmp, &self.name)
        {
            // The next mount sweeps it.
            warn!("a temporary file stays behind: {error}");
        }
    }
}
