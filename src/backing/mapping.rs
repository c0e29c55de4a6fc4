//! Memory maps of published files, and what happens when one is cut under its map.
//!
//! A read beyond the end of a mapped file raises SIGBUS. The handler here looks the address up in a fixed, lock-free table of
//! our own mappings; if it is in one, it puts an anonymous zero page there and marks the mapping poisoned, so that the
//! copy goes on and the copier then reports EIO. Any other fault goes to the handler that was there before.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, compiler_fence};

use memmap2::{Mmap, MmapOptions};

use super::Mapping;

/// Mappings that can exist at once. More are refused, and their files are read instead.
const TABLE_LEN: usize = 8192;
const PAGE: usize = 4096;

/// One mapping as the signal handler sees it. `start` is 0 when the row is free, 1 while it is being filled.
struct Row {
    start: AtomicUsize,
    len: AtomicUsize,
    poisoned: AtomicBool,
}

const FREE: usize = 0;
const CLAIMED: usize = 1;

static TABLE: [Row; TABLE_LEN] = [const {
    Row {
        start: AtomicUsize::new(FREE),
        len: AtomicUsize::new(0),
        poisoned: AtomicBool::new(false),
    }
}; TABLE_LEN];

/// Where the search for a free row begins.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// What handled SIGBUS before us.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

/// A mapped published file.
pub struct FileMapping {
    map: Mmap,
    row: usize,
}

impl FileMapping {
    /// Maps the first `len` bytes of `file`, which may be closed afterwards.
    ///
    /// # Errors
    /// The system's; `ENOMEM` if there is no room in the table; `EINVAL` for length 0.
    pub(super) fn new(file: BorrowedFd<'_>, len: u64) -> io::Result<FileMapping> {
        install_handler()?;
        let len = usize::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        if len == 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let row = claim_row()?;
        // SAFETY: the map is read-only and shared. The file's content is promised by the store not to change, but
        // that cannot be proved: somebody with access to the vault may write to the file or cut it. Therefore
        // nobody gets a reference into the map: `copy_out` copies raw bytes once, whatever they are, and
        // a fault while it does is handled below.
        #[allow(unsafe_code)]
        let mapped = unsafe { MmapOptions::new().len(len).map(&BorrowedAsRaw(file)) };
        match mapped {
            Ok(map) => {
                let entry = &TABLE[row];
                entry.poisoned.store(false, Ordering::Relaxed);
                entry.len.store(len, Ordering::Release);
                entry.start.store(map.as_ptr() as usize, Ordering::Release);
                Ok(FileMapping { map, row })
            }
            Err(error) => {
                TABLE[row].start.store(FREE, Ordering::Release);
                Err(error)
            }
        }
    }
}

/// memmap2 takes what has a raw descriptor.
struct BorrowedAsRaw<'a>(BorrowedFd<'a>);

impl std::os::fd::AsRawFd for BorrowedAsRaw<'_> {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

fn claim_row() -> io::Result<usize> {
    let first = NEXT.fetch_add(1, Ordering::Relaxed);
    for i in 0..TABLE_LEN {
        let row = first.wrapping_add(i) % TABLE_LEN;
        let taken =
            TABLE[row].start.compare_exchange(FREE, CLAIMED, Ordering::AcqRel, Ordering::Relaxed);
        if taken.is_ok() {
            return Ok(row);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENOMEM))
}

impl Mapping for FileMapping {
    fn len(&self) -> u64 {
        self.map.len() as u64
    }

    fn copy_out(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let end = start.and_then(|start| start.checked_add(out.len()));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        if end > self.map.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: source and destination are valid for `out.len()` bytes (checked above) and do not
        // overlap. Another process may change the source during the copy: the copy is then a mix of bytes,
        // which is what authentication is for. The copy is one call on raw pointers; no reference to the source exists.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.map.as_ptr().add(start),
                out.as_mut_ptr(),
                out.len(),
            );
        }
        // The handler runs on this thread: what it noted is visible after a compiler fence.
        compiler_fence(Ordering::SeqCst);
        if TABLE[self.row].poisoned.load(Ordering::Acquire) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    fn resident(&self, offset: u64, len: u64) -> bool {
        let (Ok(offset), Ok(len)) = (usize::try_from(offset), usize::try_from(len)) else {
            return true;
        };
        let start = offset / PAGE * PAGE;
        let end = offset.saturating_add(len).min(self.map.len());
        if start >= end {
            return true;
        }
        let pages = (end - start).div_ceil(PAGE);
        let mut answer = [0_u8; 512];
        if pages > answer.len() {
            return false;
        }
        // SAFETY: the range lies within the live map, page-aligned at its start (maps are), and `answer` has room
        // for a byte per page.
        #[allow(unsafe_code)]
        let done = unsafe {
            libc::mincore(
                self.map.as_ptr().add(start).cast_mut().cast(),
                end - start,
                answer.as_mut_ptr(),
            )
        };
        done != 0 || answer[..pages].iter().all(|page| page & 1 == 1)
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        // The row goes first: a fault in whatever is mapped there next is none of ours.
        TABLE[self.row].start.store(FREE, Ordering::Release);
    }
}

/// Installs the handler, once for the process.
fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: both structs are plain data for which zeros are valid; the handler has the signature that
        // SA_SIGINFO asks for and does only what is async-signal-safe. The previous action is leaked on
        // purpose: the handler may need it at any time.
        #[allow(unsafe_code)]
        unsafe {
            let previous = Box::leak(Box::new(std::mem::zeroed::<libc::sigaction>()));
            let mut action = std::mem::zeroed::<libc::sigaction>();
            let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            if libc::sigaction(libc::SIGBUS, &raw const action, &raw mut *previous) != 0 {
                return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
            }
            PREVIOUS.store(previous, Ordering::Release);
            Ok(())
        }
    });
    (*installed).map_err(io::Error::from_raw_os_error)
}

/// SIGBUS: a fault in one of our mappings becomes a zero page and a mark.
extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo for a SA_SIGINFO handler; si_addr is defined for SIGBUS.
    #[allow(unsafe_code)]
    let address = unsafe { (*info).si_addr() } as usize;
    for row in &TABLE {
        let start = row.start.load(Ordering::Acquire);
        if start <= CLAIMED {
            continue;
        }
        let mapped = row.len.load(Ordering::Acquire).div_ceil(PAGE) * PAGE;
        if address < start || address >= start + mapped {
            continue;
        }
        row.poisoned.store(true, Ordering::Release);
        let page = address / PAGE * PAGE;
        // SAFETY: the page lies in a mapping that this module owns and that cannot be unmapped now, since the
        // faulting copy holds a reference to it. Replacing it by zeros loses nothing: there is no file behind it
        // any more. mmap is a bare system call here, errno is put back.
        #[allow(unsafe_code)]
        unsafe {
            let errno = *libc::__errno_location();
            let fixed = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let got = libc::mmap(page as *mut libc::c_void, PAGE, libc::PROT_READ, fixed, -1, 0);
            *libc::__errno_location() = errno;
            if got != libc::MAP_FAILED {
                return;
            }
        }
        break;
    }
    pass_on(signal, info, context);
}

/// Gives a fault that is not ours to whoever handled it before, or to the default: the process ends.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: `previous` is null or the leaked, initialised action. A handler is called with the arguments that its
    // flags ask for. Resetting to the default and returning re-executes the faulting instruction, which then ends the process.
    #[allow(unsafe_code)]
    unsafe {
        if let Some(action) = previous.as_ref() {
            match action.sa_sigaction {
                libc::SIG_DFL => {}
                libc::SIG_IGN => return,
                handler if action.sa_flags & libc::SA_SIGINFO != 0 => {
                    let call: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(handler);
                    return call(signal, info, context);
                }
                handler => {
                    let call: extern "C" fn(i32) = std::mem::transmute(handler);
                    return call(signal);
                }
            }
        }
        libc::signal(signal, libc::SIG_DFL);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
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
                        file.write_all(&vec![9; 4 * PAGE]).unwrap();
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
}
