//! The thin side towards the kernel: mounts, turns requests of the FUSE protocol into calls of
//! [`crate::fs`] and results into replies, and decides which thread does it. The only floor that names
//! the `fuser` crate.
//!
//! Threads:
//! - *event loops* (four by default, each with its own clone of /dev/fuse) read requests and answer all that
//!   is short at once, since a hand-over costs more than the work; one at a time waits for requests (`turns`);
//! - *workers* (`pool`) answer what may wait for a disk: syncs, cold reads, directories not yet loaded,
//!   ends of writing, renames;
//! - one *maintenance* thread calls [`crate::fs::FileSystem::maintain`];
//! - one thread waits for SIGTERM, SIGINT and SIGHUP and unmounts.
//!
//! No lock is held across I/O in an event loop. A panic in a request answers EIO and leaves the mount up.
//!
//! Mounting is done here and not by `fuser`, for three reasons: `fuser`'s owner check answers EACCES to
//! the kernel's own write-back of file times in mounts of ordinary users; it unmounts the path once more
//! when a session has ended, whatever is mounted there by then; and its errors are strings.

mod adapter;
mod convert;
mod maintain;
mod mount;
mod options;
mod pool;
mod session;
mod space;
mod tune;
mod turns;
mod xattrs;

pub use mount::MountError;
pub use options::MountOptions;
pub use session::{ServeError, serve};
