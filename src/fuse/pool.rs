//! The workers: threads for requests that may wait for a disk.
//!
//! A lane is a queue with as many threads as its jobs need at once, up to a bound: syncs that share one
//! group commit wait together, each in a thread of its own. A job never waits for another job of a
//! queue, so a full lane is slow but cannot deadlock. Lanes are separate so that syncs do not hold
//! up reads. The queue has no bound of its own: the kernel bounds the requests that are under way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::{Condvar, Mutex};

/// A thread without work ends after this time, except one per lane.
const IDLE: Duration = Duration::from_secs(20);

type Job = Box<dyn FnOnce() + Send>;

/// A queue and its threads.
pub(super) struct Lane {
    name: &'static str,
    max_threads: usize,
    jobs: Sender<Job>,
    shared: Arc<Shared>,
}

struct Shared {
    queue: Receiver<Job>,
    /// Threads that wait for a job.
    idle: AtomicUsize,
    /// Jobs queued or running.
    pending: Mutex<usize>,
    drained: Condvar,
    threads: AtomicUsize,
}

impl Lane {
    /// A lane of at most `max_threads` threads; none runs yet.
    pub fn new(name: &'static str, max_threads: usize) -> Self {
        let (jobs, queue) = crossbeam_channel::unbounded();
        Lane {
            name,
            max_threads: max_threads.max(1),
            jobs,
            shared: Arc::new(Shared {
                queue,
                idle: AtomicUsize::new(0),
                pending: Mutex::new(0),
                drained: Condvar::new(),
                threads: AtomicUsize::new(0),
            }),
        }
    }

    /// Queues `job`. If no thread can be had at all, the caller runs it.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        *self.shared.pending.lock() += 1;
        // The receiver lives in `shared`, so that sending cannot fail.
        let _ = self.jobs.send(Box::new(job));
        // Pairs with the fence in `leave`: a thread that leaves sees the job, or it is not counted here.
        fence(Ordering::SeqCst);
        if self.shared.idle.load(Ordering::Relaxed) < self.jobs.len() {
            self.add_thread();
        }
    }

    fn add_thread(&self) {
        let threads = &self.shared.threads;
        let claimed = threads.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            (count < self.max_threads).then_some(count + 1)
        });
        if claimed.is_err() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let spawned = thread::Builder::new()
            .name(format!("akasha-{}", self.name))
            .spawn(move || shared.work());
        if spawned.is_err() {
            let left = threads.fetch_sub(1, Ordering::AcqRel) - 1;
            log::warn!("cannot start another worker thread");
            if left == 0
                && let Ok(job) = self.shared.queue.try_recv()
            {
                self.shared.finish(job);
            }
        }
    }

    /// Waits until every queued job has run, or until `deadline`; tells whether none is left.
    pub fn drain(&self, deadline: Instant) -> bool {
        let mut pending = self.shared.pending.lock();
        while *pending > 0 {
            if self.shared.drained.wait_until(&mut pending, deadline).timed_out() {
                return *pending == 0;
            }
        }
        true
    }
}

impl Shared {
    fn work(&self) {
        loop {
            self.idle.fetch_add(1, Ordering::AcqRel);
            let received = self.queue.recv_timeout(IDLE);
            self.idle.fetch_sub(1, Ordering::AcqRel);
            match received {
                Ok(job) => self.finish(job),
                Err(RecvTimeoutError::Timeout) => {
                    if self.leave() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.threads.fetch_sub(1, Ordering::AcqRel);
                    return;
                }
            }
        }
    }

    /// Gives up an idle thread's place, unless it is the last one or a job has just come.
    fn leave(&self) -> bool {
        let place = self.threads.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            (count > 1).then_some(count - 1)
        });
        if place.is_err() {
            return false;
        }
        fence(Ordering::SeqCst);
        if self.queue.is_empty() {
            return true;
        }
        self.threads.fetch_add(1, Ordering::AcqRel);
        false
    }

    fn finish(&self, job: Job) {
        // Its reply answers EIO when it is dropped by the unwinding.
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            log::error!("a worker's request panicked; it was answered with an I/O error");
        }
        let mut pending = self.pending.lock();
        *pending -= 1;
        if *pending == 0 {
            self.drained.notify_all();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn jobs_that_wait_for_each_other_all_get_a_thread() {
        let lane = Lane::new("test", 8);
        let barrier = Arc::new(Barrier::new(8));
        for _ in 0..8 {
            let barrier = Arc::clone(&barrier);
            lane.run(move || {
                barrier.wait();
            });
        }
        assert!(lane.drain(soon()));
    }

    #[test]
    fn more_jobs_than_threads_are_all_done() {
        let lane = Lane::new("test", 2);
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..1000 {
            let done = Arc::clone(&done);
            lane.run(move || {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(lane.drain(soon()));
        assert_eq!(done.load(Ordering::Relaxed), 1000);
    }

    #[test]
    fn a_panic_ends_the_job_and_not_the_thread() {
        let lane = Lane::new("test", 1);
        lane.run(|| panic!("on purpose"));
        let done = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&done);
        lane.run(move || {
            seen.store(1, Ordering::Relaxed);
        });
        assert!(lane.drain(soon()));
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }
}
