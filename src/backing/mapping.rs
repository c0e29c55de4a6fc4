//! Memory maps of published files that survive having the file cut under them.
//!
//! A read beyond the end of a mapped file raises SIGBUS. The vault lies where others may write
//! (a sync tool, a failing disk, an attacker), so that must not end the daemon: a handler puts a
//! page of zeros under the fault and poisons the mapping, and [`FileMapping::copy_out`] then answers
//! EIO. Nothing here authenticates: what is copied out is untrusted bytes.
//!
//! The handler takes no lock and allocates nothing. It finds the mapping in a fixed table of
//! [`MAPPINGS_MAX`] slots; a slot that is being changed is skipped, which is right because the mapping
//! that a thread faults in is borrowed by that thread and so is not being changed. Faults elsewhere go to
//! the handler that was there before.

#![allow(unsafe_code)]

use std::arch::asm;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;

use super::{Mapping, check_range};

/// Most mappings that can exist at once in this process.
const MAPPINGS_MAX: usize = 16384;

/// Bytes copied out of a mapping after which its pages are given back: they stay in the page cache, but
/// no longer count as this process's memory. Faulting as many in again costs a few microseconds.
const TOUCHED_LEN_MAX: usize = 1 << 20;

/// Pages asked about in one mincore(2).
const RESIDENT_CHUNK_PAGES: usize = 256;

/// A read-only mapping of the first bytes of a file.
#[derive(Debug)]
pub struct FileMapping {
    /// `None` if the mapping is empty (mmap(2) refuses length 0).
    mapped: Option<Mapped>,
}

#[derive(Debug)]
struct Mapped {
    // Declared, hence dropped, before `map`: an address range leaves the table before another
    // mapping can get it.
    slot: SlotGuard,
    map: MmapRaw,
    /// Bytes copied out since the pages were last given back.
    touched_len: AtomicUsize,
}

impl Mapped {
    /// Counts bytes copied out; drops the pages from this process when they are many.
    fn touch(&self, len: usize) {
        if self.touched_len.fetch_add(len, Ordering::Relaxed) <= TOUCHED_LEN_MAX {
            return;
        }
        self.touched_len.store(0, Ordering::Relaxed);
        // SAFETY: the range is this live mapping's. For a shared file mapping MADV_DONTNEED forgets page
        // table entries only: whoever copies meanwhile faults the same file in again, and zeros
        // where the handler put them.
        unsafe {
            libc::madvise(self.map.as_mut_ptr().cast(), self.map.len(), libc::MADV_DONTNEED);
        }
    }
}

impl FileMapping {
    /// Maps the first `len` bytes of the file; the descriptor may be closed afterwards.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is shorter, `ENOMEM` if the table or the address space is full
    /// (the caller reads with [`super::PublishedFile::read_at`] instead), else those of mmap(2).
    pub(super) fn new(fd: BorrowedFd<'_>, len: u64) -> io::Result<FileMapping> {
        if rustix::fs::fstat(fd)?.st_size.cast_unsigned() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if len == 0 {
            return Ok(FileMapping { mapped: None });
        }
        let page_len = install_handler()?;
        let len =
            usize::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        let map = MmapOptions::new().len(len).map_raw_read_only(fd.as_raw_fd())?;
        // Whole pages: the tail of the last one belongs to the mapping too.
        let slot = SlotGuard::claim(map.as_ptr().addr(), len.next_multiple_of(page_len))?;
        Ok(FileMapping { mapped: Some(Mapped { slot, map, touched_len: AtomicUsize::new(0) }) })
    }
}

impl Mapping for FileMapping {
    fn len(&self) -> u64 {
        self.mapped.as_ref().map_or(0, |mapped| mapped.map.len() as u64)
    }

    fn copy_out(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        check_range(self.len(), offset, out.len() as u64)?;
        let Some(mapped) = &self.mapped else { return Ok(()) };
        mapped.slot.check()?;
        // SAFETY: `check_range` holds the source inside the mapping, which `self` keeps mapped;
        // `out` is ours and cannot overlap it. What we cannot prove: another process may write
        // the file while we copy (a data race outside the program) or cut it (SIGBUS, answered by
        // the handler with zeros). Any bytes are valid `u8`, and the caller trusts none of them
        // before authentication.
        unsafe {
            let from = mapped.map.as_ptr().add(offset as usize);
            copy_once(from, out.as_mut_ptr(), out.len());
        }
        mapped.touch(out.len());
        // Poisoned before the zeros were mapped, so zeros seen here imply the mark seen here.
        mapped.slot.check()
    }

    fn resident(&self, offset: u64, len: u64) -> bool {
        let Some(mapped) = &self.mapped else { return true };
        if len == 0 || check_range(self.len(), offset, len).is_err() {
            return true;
        }
        let page_len = PAGE_LEN.load(Ordering::Relaxed);
        let start = offset as usize & !(page_len - 1);
        let end = (offset + len) as usize;
        let mut pages = [0u8; RESIDENT_CHUNK_PAGES];
        for chunk in (start..end).step_by(RESIDENT_CHUNK_PAGES * page_len) {
            let chunk_len = (end - chunk).min(RESIDENT_CHUNK_PAGES * page_len);
            // SAFETY: the range is inside the mapping and begins on a page; `pages` has a byte for
            // each of its pages. mincore writes nothing else.
            let rc = unsafe {
                let from = mapped.map.as_mut_ptr().add(chunk);
                libc::mincore(from.cast(), chunk_len, pages.as_mut_ptr())
            };
            let count = chunk_len.div_ceil(page_len);
            if rc == 0 && pages[..count].iter().any(|page| page & 1 == 0) {
                return false;
            }
        }
        true
    }
}

/// Copies, reading each byte of the source once.
///
/// # Safety
/// As for [`ptr::copy_nonoverlapping`], but the source may be changed by other processes.
unsafe fn copy_once(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's duty.
    unsafe { ptr::copy_nonoverlapping(from, to, len) };
    // The compiler may otherwise serve later reads of `to` from `from` (it forwards one copy into
    // the next), which somebody could have changed after authentication. An asm block that
    // may touch all memory forbids it; it is given `to`, or a buffer that never left the caller's frame would
    // be known to be out of its reach.
    // SAFETY: the block holds a comment alone and does nothing.
    unsafe { asm!("/* {0} */", in(reg) to, options(nostack, preserves_flags)) };
}

// ---- the table -----------------------------------------------------------------------------

/// One mapping as the signal handler sees it. `version` is odd while start and len are changing.
struct Slot {
    version: AtomicU64,
    start: AtomicUsize,
    len: AtomicUsize,
    poisoned: AtomicBool,
}

static SLOTS: [Slot; MAPPINGS_MAX] = [const {
    Slot {
        version: AtomicU64::new(0),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        poisoned: AtomicBool::new(false),
    }
}; MAPPINGS_MAX];

/// Slots from here on were never used; bounds the handler's scan.
static SLOTS_USED: AtomicUsize = AtomicUsize::new(0);

/// Slots given back. Never touched by the handler.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Page length, set before the handler is installed.
static PAGE_LEN: AtomicUsize = AtomicUsize::new(4096);

/// What handled SIGBUS before; set before the handler is installed, never freed.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// A slot of the table for as long as its mapping lives.
#[derive(Debug)]
struct SlotGuard {
    index: usize,
}

impl SlotGuard {
    fn claim(start: usize, len: usize) -> io::Result<SlotGuard> {
        let index = {
            let mut free = FREE.lock();
            if let Some(index) = free.pop() {
                index
            } else {
                let index = SLOTS_USED.load(Ordering::Relaxed);
                if index == MAPPINGS_MAX {
                    return Err(io::Error::from_raw_os_error(libc::ENOMEM));
                }
                SLOTS_USED.store(index + 1, Ordering::SeqCst);
                index
            }
        };
        let slot = &SLOTS[index];
        slot.poisoned.store(false, Ordering::SeqCst);
        slot.set(start, len);
        Ok(SlotGuard { index })
    }

    fn check(&self) -> io::Result<()> {
        if SLOTS[self.index].poisoned.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        SLOTS[self.index].set(0, 0);
        FREE.lock().push(self.index);
    }
}

impl Slot {
    /// Only the owner of the slot calls this, so there is one writer.
    fn set(&self, start: usize, len: usize) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.version.store(version + 2, Ordering::Release);
    }

    /// Whether `address` is in this slot's mapping; false while the slot changes.
    fn holds(&self, address: usize) -> bool {
        let before = self.version.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let len = self.len.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let after = self.version.load(Ordering::Relaxed);
        before == after && before.is_multiple_of(2) && address.wrapping_sub(start) < len
    }
}

// ---- the handler ---------------------------------------------------------------------------

/// Installs the handler once per process; returns the page length.
fn install_handler() -> io::Result<usize> {
    static INSTALLED: OnceLock<Result<usize, i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: sysconf only answers.
        let page_len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page_len = usize::try_from(page_len).map_err(|_| libc::EINVAL)?;
        PAGE_LEN.store(page_len, Ordering::SeqCst);
        // SAFETY: both calls get valid or null pointers. An all-zero sigaction is a valid one. The
        // handler is async-signal-safe: atomics, mmap and sigaction, no lock, no allocation.
        // It runs on the alternate stack where the thread has one.
        unsafe {
            let mut previous: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) != 0 {
                return Err(last_errno());
            }
            PREVIOUS.store(Box::into_raw(Box::new(previous)), Ordering::SeqCst);
            let mut action: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                on_sigbus;
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            if libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) != 0 {
                return Err(last_errno());
            }
        }
        Ok(page_len)
    });
    installed.map_err(io::Error::from_raw_os_error)
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo. A code above 0 says that the
    // kernel raised the signal for a fault, and only then si_addr means something. errno is this
    // thread's own and is put back for the code that was interrupted.
    unsafe {
        if (*info).si_code > 0 {
            let errno = *libc::__errno_location();
            let handled = patch((*info).si_addr().addr());
            *libc::__errno_location() = errno;
            if handled {
                return;
            }
        }
        chain(signal, info, context);
    }
}

/// Poisons the mapping that holds `address` and puts a page of zeros there. False if there is none.
fn patch(address: usize) -> bool {
    let used = SLOTS_USED.load(Ordering::SeqCst);
    let Some(slot) = SLOTS[..used].iter().find(|slot| slot.holds(address)) else {
        return false;
    };
    // First the mark, then the zeros: see `copy_out`.
    slot.poisoned.store(true, Ordering::SeqCst);
    let page_len = PAGE_LEN.load(Ordering::Relaxed);
    let page = address & !(page_len - 1);
    // SAFETY: the page belongs to a mapping of ours that the faulting thread is reading, hence one
    // that stays mapped for the while; nobody holds a reference into it, only raw pointers. mmap
    // is a bare system call. The mapping's munmap removes this page with the rest.
    let patched = unsafe {
        libc::mmap(
            ptr::without_provenance_mut(page),
            page_len,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    patched != libc::MAP_FAILED
}

/// Hands a signal that is not ours to whoever had it before.
///
/// # Safety
/// Only from the handler, with the handler's own arguments.
unsafe fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.load(Ordering::SeqCst);
    // SAFETY: PREVIOUS points to a leaked sigaction since before the handler was installed. A
    // handler in it has the signature that its SA_SIGINFO flag says. sigaction and raise are
    // async-signal-safe.
    unsafe {
        let handler = (*previous).sa_sigaction;
        let is_fault = (*info).si_code > 0;
        match handler {
            libc::SIG_IGN if !is_fault => {}
            // The default is death. A fault strikes again on return; a sent signal is sent again.
            libc::SIG_DFL | libc::SIG_IGN => {
                let mut default: libc::sigaction = std::mem::zeroed();
                default.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const default, ptr::null_mut());
                if !is_fault {
                    libc::raise(signal);
                }
            }
            _ if (*previous).sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            }
            _ => {
                let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn a_file_cut_under_its_mapping_reads_as_zeros_and_eio_and_nobody_dies() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 20 * PAGE]).unwrap();
        let mapping = FileMapping::new(file.as_fd(), 20 * PAGE as u64).unwrap();
        let mut out = vec![0; 2 * PAGE];
        mapping.copy_out(PAGE as u64, &mut out).unwrap();
        assert!(out.iter().all(|byte| *byte == 7));
        file.set_len(10 * PAGE as u64).unwrap();
        let error = mapping.copy_out(15 * PAGE as u64, &mut out).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert!(out.iter().all(|byte| *byte == 0));
        let error = mapping.copy_out(0, &mut out).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "the mapping stays poisoned");
    }

    #[test]
    fn beyond_the_mapping_there_is_nothing() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 100]).unwrap();
        let mapping = FileMapping::new(file.as_fd(), 100).unwrap();
        for (offset, len) in [(0, 101), (100, 1), (u64::MAX, 1), (50, 51)] {
            let error = mapping.copy_out(offset, &mut vec![0; len]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset} {len}");
        }
        assert!(mapping.resident(0, 100));
    }

    #[test]
    fn many_threads_meet_cuts_at_once() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let mut file = tempfile::tempfile().unwrap();
                        file.write_all(&[9; 4 * PAGE]).unwrap();
                        let mapping = FileMapping::new(file.as_fd(), 4 * PAGE as u64).unwrap();
                        file.set_len(0).unwrap();
                        let mut out = vec![1; 3 * PAGE];
                        mapping.copy_out(0, &mut out).unwrap_err();
                        assert!(out.iter().all(|byte| *byte == 0));
                    }
                });
            }
        });
    }

    #[test]
    fn an_empty_mapping_is_no_error_and_one_beyond_the_file_is() {
        let file = tempfile::tempfile().unwrap();
        let mapping = FileMapping::new(file.as_fd(), 0).unwrap();
        assert!(mapping.is_empty() && mapping.resident(0, 0));
        mapping.copy_out(0, &mut []).unwrap();
        let error = FileMapping::new(file.as_fd(), 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_cut_poisons_its_own_mapping_only() {
        let mut files: Vec<_> = (0..100).map(|_| tempfile::tempfile().unwrap()).collect();
        let mappings: Vec<_> = files
            .iter_mut()
            .map(|file| {
                file.write_all(&[5; 2 * PAGE]).unwrap();
                FileMapping::new(file.as_fd(), 2 * PAGE as u64).unwrap()
            })
            .collect();
        files[50].set_len(0).unwrap();
        let mut out = vec![0; 2 * PAGE];
        for (index, mapping) in mappings.iter().enumerate() {
            assert_eq!(mapping.copy_out(0, &mut out).is_err(), index == 50, "{index}");
        }
    }

    #[test]
    fn a_slot_is_clean_when_it_is_used_again() {
        // More rounds than slots: they must come back.
        let mut file = tempfile::tempfile().unwrap();
        for round in 0..2 * MAPPINGS_MAX {
            file.set_len(0).unwrap();
            std::io::Seek::rewind(&mut file).unwrap();
            file.write_all(&[3; 16]).unwrap();
            let mapping = FileMapping::new(file.as_fd(), 16).unwrap();
            let mut out = [0; 16];
            mapping.copy_out(0, &mut out).unwrap();
            assert_eq!(out, [3; 16]);
            if round % 64 == 0 {
                file.set_len(0).unwrap();
                mapping.copy_out(0, &mut out).unwrap_err();
            }
        }
    }

    #[test]
    fn one_thread_reads_while_another_cuts_and_grows() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![8; 16 * PAGE]).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut out = vec![0; 16 * PAGE];
                    while !stop.load(Ordering::Relaxed) {
                        let Ok(mapping) = FileMapping::new(file.as_fd(), 16 * PAGE as u64) else {
                            continue;
                        };
                        // Either answer is right; the file shows zeros where it grew again.
                        let _ = mapping.copy_out(0, &mut out);
                        assert!(out.iter().all(|byte| *byte == 8 || *byte == 0));
                    }
                });
            }
            for _ in 0..500 {
                file.set_len(3).unwrap();
                file.set_len(16 * PAGE as u64).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    /// The child of a test: this very test binary, told by the environment what to do.
    fn status_of_child(test: &str) -> std::process::ExitStatus {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("backing::mapping::tests::{test}"), "--nocapture"])
            .env("AKASHA_TEST_CHILD", test)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
    }

    fn is_child(test: &str) -> bool {
        std::env::var("AKASHA_TEST_CHILD").is_ok_and(|wanted| wanted == test)
    }

    #[test]
    fn a_fault_outside_our_mappings_still_kills() {
        use std::os::unix::process::ExitStatusExt;
        let name = "a_fault_outside_our_mappings_still_kills";
        if !is_child(name) {
            assert_eq!(status_of_child(name).signal(), Some(libc::SIGBUS));
            return;
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; PAGE]).unwrap();
        let ours = FileMapping::new(file.as_fd(), PAGE as u64).unwrap();
        let foreign = MmapOptions::new().map_raw_read_only(&file).unwrap();
        file.set_len(0).unwrap();
        ours.copy_out(0, &mut [0; 8]).unwrap_err();
        // SAFETY: faults on purpose, in a process of its own.
        let byte = unsafe { foreign.as_ptr().read_volatile() };
        panic!("read {byte} beyond the end of a file");
    }

    #[test]
    fn a_sigbus_that_somebody_sends_still_kills() {
        use std::os::unix::process::ExitStatusExt;
        let name = "a_sigbus_that_somebody_sends_still_kills";
        if !is_child(name) {
            assert_eq!(status_of_child(name).signal(), Some(libc::SIGBUS));
            return;
        }
        // The default disposition, as no handler of the runtime would die of a sent signal.
        // SAFETY: plain disposition changes and a signal to this process.
        unsafe {
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
            install_handler().unwrap();
            libc::raise(libc::SIGBUS);
        }
        std::thread::sleep(std::time::Duration::from_secs(10));
    }
}
