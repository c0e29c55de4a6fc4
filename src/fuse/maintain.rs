//! The thread that runs the store's maintenance when it is due.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::backing::Backing;
use crate::fs::FileSystem;

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
    pub fn start<B: Backing>(fs: &Arc<FileSystem<B>>) -> io::Result<Self> {
        // Room for one: a second wake-up before the next turn would tell nothing new.
        let (wake, woken) = crossbeam_channel::bounded(1);
        let notify = wake.clone();
        fs.on_change(Box::new(move || {
            let _ = notify.try_send(());
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (fs, stopped) = (Arc::clone(fs), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("akasha-commit".to_owned())
            .spawn(move || run(&fs, &woken, &stopped))?;
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

fn run<B: Backing>(fs: &FileSystem<B>, woken: &Receiver<()>, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let pause = catch_unwind(AssertUnwindSafe(|| fs.maintain())).unwrap_or_else(|_| {
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
