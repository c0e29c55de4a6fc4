//! The thread that runs the store's maintenance when it is due, and then has the kernel forget the pages of
//! changes that were lost.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use fuser::Notifier;

use crate::backing::Backing;
use crate::fs::FileSystem;

use super::convert::ino;

/// As an offset: forget the attributes and leave the pages (fuse_reverse_inval_inode in the kernel).
const ATTRIBUTES_ONLY: i64 = -1;

/// From the first change after a turn to the next turn at the earliest: under load every request is
/// a change, and no deadline of the store is shorter.
const SETTLE: Duration = Duration::from_millis(250);

/// The pause after a turn that panicked.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// The running thread. It ends, and is waited for, on drop.
pub(super) struct Maintenance {
    wake: Sender<()>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Maintenance {
    /// Starts it. The first change after a turn wakes it, so that it can tell when the next is due.
    pub fn start<B: Backing>(fs: &Arc<FileSystem<B>>, notifier: Notifier) -> io::Result<Self> {
        // Room for one: a second wake-up before the next turn would tell nothing new.
        let (wake, woken) = crossbeam_channel::bounded(1);
        let notify = wake.clone();
        fs.on_change(Box::new(move || {
            let _ = notify.try_send(());
        }));
        let of_attributes = notifier.clone();
        fs.on_stale_attr(Box::new(move |id| {
            // Takes no lock of the inode in the kernel, so that it may be sent while a request of it is being answered. An
            // inode that the kernel does not know is no error worth telling.
            let _ = of_attributes.inval_inode(ino(id), ATTRIBUTES_ONLY, 0);
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (fs, stopped) = (Arc::clone(fs), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("akasha-commit".to_owned())
            .spawn(move || run(&fs, &notifier, &woken, &stopped))?;
        Ok(Maintenance { wake, stop, thread: Some(thread) })
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.wake.try_send(());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was logged where it happened.
            let _ = thread.join();
        }
    }
}

fn run<B: Backing>(
    fs: &FileSystem<B>,
    notifier: &Notifier,
    woken: &Receiver<()>,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Acquire) {
        let turn = || {
            let pause = fs.maintain();
            forget_lost_pages(fs, notifier);
            pause
        };
        let pause = catch_unwind(AssertUnwindSafe(turn)).unwrap_or_else(|_| {
            log::error!("maintenance panicked; it goes on");
            AFTER_PANIC
        });
        let changed = woken.recv_timeout(pause).is_ok();
        if changed && !stop.load(Ordering::Acquire) {
            // Only the end can wake it here: the filesystem tells of no change before the next turn.
            let _ = woken.recv_timeout(SETTLE.min(pause));
        }
    }
}

/// Has the kernel drop the cached pages that are the only thing left to show what was lost. The kernel may
/// write dirty ones back first, through the event loops: this thread is none and holds no lock.
fn forget_lost_pages<B: Backing>(fs: &FileSystem<B>, notifier: &Notifier) {
    for id in fs.take_invalid() {
        // From offset 0 with length 0 means all of it (fuse_reverse_inval_inode in the kernel).
        if let Err(error) = notifier.inval_inode(ino(id), 0, 0) {
            log::warn!("the kernel keeps pages of inode {:016x}: {error}", id.get());
        }
    }
}
