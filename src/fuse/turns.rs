//! Whose turn it is to wait for the next request.
//!
//! For every request the kernel wakes an event loop that waits, on another processor than the caller's if one is idle, and
//! then the caller: two wake-ups between processors, which are most of the time that a short request takes. So one loop
//! at a time has the turn to wait, and after a request it looks for the next one for a moment ([`LINGER`]) before it
//! sleeps: a program that does one thing after the other finds it awake. The other loops are parked at the end of their
//! last request. The first of them, the deputy, takes the turn when its holder gives it away before a request that may be
//! long ([`Turns::pass`]), or is found busy with one request for longer than [`PATIENCE`]: a disk that makes one caller
//! wait makes no other wait.
//!
//! Nothing here is needed for correctness: every loop may wait in the kernel at any time.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// How long a loop looks for the next request before it sleeps: a few times what a program needs between two.
const LINGER: Duration = Duration::from_micros(20);

/// Having lingered for nothing this many times in a row, a loop sleeps at once for [`SKIPPED`] requests.
const MISSES: u32 = 4;
const SKIPPED: u32 = 16;

/// How long the holder of the turn may be busy with one request until the deputy takes it.
const PATIENCE: Duration = Duration::from_millis(5);

/// The deputy sleeps after so many times [`PATIENCE`] without a request.
const QUIET_LOOKS: u32 = 20;

/// No loop has the turn.
const NOBODY: u32 = 0;

/// The holder of the turn handles no request.
const IDLE: u64 = 0;

/// The turns of the event loops of one mount.
pub(super) struct Turns {
    /// Whether a request waits in the kernel.
    is_waiting: Box<dyn Fn() -> bool + Send + Sync>,
    /// Whether lingering can be of use: on a single processor it only keeps the caller from it.
    lingers: bool,
    /// How many loops have come; they are numbered from 1.
    loops: AtomicU32,
    /// The loop that has the turn, or [`NOBODY`]. Changes under the lock of `parked`.
    holder: AtomicU32,
    /// What the holder handles: its number and that of the request, or [`IDLE`].
    current: AtomicU64,
    /// The deputy sleeps until a request begins.
    is_quiet: AtomicBool,
    parked: Mutex<Parked>,
    /// Where the deputy waits.
    deputy: Condvar,
    /// Where the other parked loops wait.
    others: Condvar,
}

#[derive(Default)]
struct Parked {
    has_deputy: bool,
    /// A loop has ended, as all do with the mount: none parks any more.
    is_over: bool,
}

/// What an event loop's thread knows of itself.
struct Me {
    turns: Arc<Turns>,
    number: u32,
    /// Requests so far.
    requests: u32,
    /// Times in a row that it lingered for nothing, and then times that it did not.
    misses: u32,
}

impl Drop for Me {
    fn drop(&mut self) {
        self.turns.end();
    }
}

thread_local! {
    static ME: RefCell<Option<Me>> = const { RefCell::new(None) };
}

impl Turns {
    /// `is_waiting` tells, quickly, whether a request waits in the kernel.
    pub fn new(is_waiting: impl Fn() -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Turns {
            is_waiting: Box::new(is_waiting),
            lingers: thread::available_parallelism().is_ok_and(|count| count.get() > 1),
            loops: AtomicU32::new(0),
            holder: AtomicU32::new(NOBODY),
            current: AtomicU64::new(IDLE),
            is_quiet: AtomicBool::new(false),
            parked: Mutex::default(),
            deputy: Condvar::new(),
            others: Condvar::new(),
        })
    }

    /// Handles a request that the calling event loop has received. On return it is the caller's turn to wait for the next.
    pub fn during(self: &Arc<Self>, request: impl FnOnce()) {
        let (number, mark) = self.with_me(|me| {
            me.requests = me.requests.wrapping_add(1);
            (me.number, u64::from(me.number) << 32 | u64::from(me.requests))
        });
        if !self.is_held_by(number) {
            request();
            return self.park(number);
        }
        self.current.store(mark, Ordering::SeqCst);
        if self.is_quiet.load(Ordering::SeqCst) {
            drop(self.parked.lock());
            self.deputy.notify_one();
        }
        request();
        // What another has begun, who has taken the turn, is not ended here.
        let _ = self.current.compare_exchange(mark, IDLE, Ordering::AcqRel, Ordering::Relaxed);
        if self.is_held_by(number) { self.linger() } else { self.park(number) }
    }

    /// The request that the caller handles may take long: another loop gets the turn.
    pub fn pass(self: &Arc<Self>) {
        let number = self.with_me(|me| me.number);
        if self.is_held_by(number) {
            let parked = self.parked.lock();
            self.holder.store(NOBODY, Ordering::Release);
            drop(parked);
            self.deputy.notify_one();
        }
    }

    fn with_me<R>(self: &Arc<Self>, look: impl FnOnce(&mut Me) -> R) -> R {
        ME.with_borrow_mut(|me| {
            look(me.get_or_insert_with(|| Me {
                turns: Arc::clone(self),
                number: self.loops.fetch_add(1, Ordering::Relaxed) + 1,
                requests: 0,
                misses: 0,
            }))
        })
    }

    fn is_held_by(&self, number: u32) -> bool {
        self.holder.load(Ordering::Acquire) == number
    }

    /// Looks for the next request before the loop sleeps, unless that has been of no use lately.
    fn linger(self: &Arc<Self>) {
        let is_hopeful = self.with_me(|me| {
            if me.misses == MISSES + SKIPPED {
                me.misses = MISSES - 1;
            } else if me.misses >= MISSES {
                me.misses += 1;
            }
            me.misses < MISSES
        });
        if !self.lingers || !is_hopeful {
            return;
        }
        let begun = Instant::now();
        let found = loop {
            if (self.is_waiting)() {
                break true;
            }
            if begun.elapsed() >= LINGER {
                break false;
            }
        };
        self.with_me(|me| me.misses = if found { 0 } else { me.misses + 1 });
    }

    /// Waits until it is the turn of loop `number`.
    fn park(&self, number: u32) {
        let mut parked = self.parked.lock();
        while !parked.is_over && !self.is_held_by(NOBODY) {
            if parked.has_deputy {
                self.others.wait(&mut parked);
                continue;
            }
            parked.has_deputy = true;
            self.look_after_holder(&mut parked);
            parked.has_deputy = false;
            self.holder.store(NOBODY, Ordering::Release);
            self.others.notify_one();
        }
        self.holder.store(number, Ordering::Release);
    }

    /// What the deputy does: returns when the turn was given away or is to be taken from a holder who is busy.
    fn look_after_holder(&self, parked: &mut MutexGuard<'_, Parked>) {
        let mut seen = IDLE;
        let mut quiet_looks = 0;
        while !parked.is_over && !self.is_held_by(NOBODY) {
            if quiet_looks < QUIET_LOOKS {
                self.deputy.wait_for(parked, PATIENCE);
            } else {
                quiet_looks = 0;
                self.is_quiet.store(true, Ordering::SeqCst);
                // Either the holder sees that it is quiet, or what it has begun is seen here.
                if self.current.load(Ordering::SeqCst) == IDLE {
                    self.deputy.wait(parked);
                }
                self.is_quiet.store(false, Ordering::SeqCst);
            }
            let current = self.current.load(Ordering::SeqCst);
            match (current == IDLE, current == seen) {
                (false, true) => return,
                (true, true) => quiet_looks += 1,
                _ => quiet_looks = 0,
            }
            seen = current;
        }
    }

    fn end(&self) {
        self.parked.lock().is_over = true;
        self.deputy.notify_all();
        self.others.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

    use super::*;

    /// Far longer than anything here takes, so that only what hangs fails.
    const LONG: Duration = Duration::from_mins(1);

    type Request = Box<dyn FnOnce(&Arc<Turns>) + Send>;

    /// Event loops, and the kernel's queue.
    struct Loops {
        queue: Sender<Request>,
        /// Loops that wait in the kernel.
        waiting: Arc<AtomicUsize>,
        threads: Vec<thread::JoinHandle<()>>,
    }

    impl Loops {
        fn start(count: usize) -> Self {
            let (queue, requests): (Sender<Request>, Receiver<Request>) = unbounded();
            let in_queue = requests.clone();
            let turns = Turns::new(move || !in_queue.is_empty());
            let waiting = Arc::new(AtomicUsize::new(0));
            let threads = (0..count)
                .map(|_| {
                    let (turns, requests, waiting) =
                        (Arc::clone(&turns), requests.clone(), Arc::clone(&waiting));
                    thread::spawn(move || {
                        loop {
                            waiting.fetch_add(1, Ordering::SeqCst);
                            let received = requests.recv();
                            waiting.fetch_sub(1, Ordering::SeqCst);
                            let Ok(request) = received else { return };
                            turns.during(|| request(&turns));
                        }
                    })
                })
                .collect();
            Loops { queue, waiting, threads }
        }

        fn send(&self, request: impl FnOnce(&Arc<Turns>) + Send + 'static) {
            self.queue.send(Box::new(request)).unwrap();
        }

        /// Requests until all loops but one are parked.
        fn settle(&self) {
            let begun = Instant::now();
            while self.waiting.load(Ordering::SeqCst) != 1 {
                assert!(
                    begun.elapsed() < LONG,
                    "{} loops wait",
                    self.waiting.load(Ordering::SeqCst)
                );
                let (done, is_done) = bounded(1);
                self.send(move |_| done.send(()).unwrap());
                is_done.recv_timeout(LONG).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        }

        fn end(self) {
            drop(self.queue);
            let begun = Instant::now();
            for thread in self.threads {
                while !thread.is_finished() {
                    assert!(begun.elapsed() < LONG, "a loop stays parked");
                    thread::sleep(Duration::from_millis(1));
                }
                thread.join().unwrap();
            }
        }
    }

    #[test]
    fn of_many_loops_one_waits_and_all_end_together() {
        for count in 1..=4 {
            let loops = Loops::start(count);
            loops.settle();
            loops.end();
        }
    }

    #[test]
    fn a_request_that_waits_for_another_one_holds_nothing_up() {
        let loops = Loops::start(4);
        for round in 0..20 {
            loops.settle();
            if round % 2 == 1 {
                // The deputy sleeps by then, and must be woken.
                thread::sleep(PATIENCE * (QUIET_LOOKS + 5));
            }
            let (done, all_done) = bounded(3);
            let (second, for_second) = bounded(1);
            let (third, for_third) = bounded(1);
            let finished = done.clone();
            loops.send(move |_| {
                for_second.recv_timeout(LONG).unwrap();
                finished.send(()).unwrap();
            });
            let finished = done.clone();
            loops.send(move |_| {
                for_third.recv_timeout(LONG).unwrap();
                second.send(()).unwrap();
                finished.send(()).unwrap();
            });
            loops.send(move |_| {
                third.send(()).unwrap();
                done.send(()).unwrap();
            });
            for _ in 0..3 {
                all_done.recv_timeout(LONG).unwrap();
            }
        }
        loops.end();
    }

    #[test]
    fn who_passes_the_turn_on_does_not_wait_for_the_deputy_to_notice() {
        let loops = Loops::start(2);
        loops.settle();
        let (second, for_second) = bounded(1);
        let (done, is_done) = bounded(1);
        loops.send(move |turns| {
            turns.pass();
            assert!(!turns.is_held_by(turns.with_me(|me| me.number)));
            for_second.recv_timeout(LONG).unwrap();
            done.send(()).unwrap();
        });
        loops.send(move |_| second.send(()).unwrap());
        is_done.recv_timeout(LONG).unwrap();
        loops.end();
    }
}
