//! Time, injected, so that the store can be run and replayed without a wall clock.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// A point in time as `stat` shows it: seconds since 1970-01-01 UTC, and nanoseconds 0..1e9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds; negative before 1970.
    pub secs: i64,
    /// Nanoseconds past `secs`, 0..1_000_000_000.
    pub nanos: u32,
}

impl Timestamp {
    /// Whether it is at most `distance` after `earlier`.
    pub fn is_within(self, distance: Duration, earlier: Timestamp) -> bool {
        let since =
            |time: Timestamp| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
        u128::try_from(since(self) - since(earlier)).is_ok_and(|nanos| nanos <= distance.as_nanos())
    }

    /// Microseconds since 1970, 0 for anything earlier. The unit of the commit stamps.
    pub fn as_micros(self) -> u64 {
        u64::try_from(self.secs)
            .map_or(0, |s| s.saturating_mul(1_000_000).saturating_add(u64::from(self.nanos / 1000)))
    }
}

/// Where the store and the filesystem get the time from.
pub trait Clock: Send + Sync {
    /// The wall clock, for the times that `stat` shows.
    fn now(&self) -> Timestamp;
    /// Time since an arbitrary start that never goes backwards, for intervals.
    fn elapsed(&self) -> Duration;
}

/// The operating system's clocks.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose `elapsed` starts at zero now.
    pub fn new() -> Self {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // The kernel's own file times come from this clock, a few milliseconds behind the fine one (current_time in
        // fs/inode.c): those of the mount must not be older than what happened before.
        let now = clock_gettime(ClockId::RealtimeCoarse);
        Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
