//! The vault under a power cut: its keys are derived once, its disks are made as often as there are cuts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use akasha::backing::SimDisk;
use akasha::clock::{Clock, Timestamp};
use akasha::crypto::Cipher;
use akasha::entropy::SeededEntropy;
use akasha::format::config::{self, ConfigParams, KdfParams};
use akasha::format::{Geometry, OpenVault};
use akasha::store::{Store, StoreError, StoreOptions, vault};

/// A clock that the test moves.
#[derive(Default)]
pub struct TestClock {
    secs: AtomicU64,
    ticks: AtomicU64,
}

impl TestClock {
    /// Lets time pass.
    pub fn pass(&self, secs: u64) {
        self.secs.fetch_add(secs, Ordering::Relaxed);
    }

    /// Seconds since the start.
    pub fn secs(&self) -> u64 {
        self.secs.load(Ordering::Relaxed)
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let nanos = self.ticks.fetch_add(1, Ordering::Relaxed) % 1_000_000_000;
        Timestamp { secs: (1_700_000_000 + self.secs()).cast_signed(), nanos: nanos as u32 }
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.secs())
    }
}

static MADE: OnceLock<(Vec<u8>, OpenVault)> = OnceLock::new();

fn made() -> &'static (Vec<u8>, OpenVault) {
    MADE.get_or_init(|| {
        let params = ConfigParams {
            cipher: Cipher::ChaCha20Poly1305,
            geometry: Geometry::new(12).expect("4 KiB is a block length"),
            kdf: KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 },
        };
        config::create(b"p", &params, 0, &SeededEntropy::new(1)).expect("parameters are right")
    })
}

/// A disk with an empty vault on it.
pub fn disk(clock: &Arc<TestClock>) -> SimDisk {
    let disk = SimDisk::with_clock(clock.clone());
    vault::create(&disk, &made().0).expect("an honest disk takes a vault");
    disk
}

/// Mounts; the keys are those that the password gives.
pub fn mount(
    disk: &SimDisk,
    clock: &Arc<TestClock>,
    seed: u64,
    options: &StoreOptions,
) -> Result<Arc<Store<SimDisk>>, StoreError> {
    let known = &made().1;
    let open = OpenVault { config: known.config.clone(), keys: Arc::clone(&known.keys) };
    let entropy = Arc::new(SeededEntropy::new(seed));
    Store::open(Arc::new(disk.clone()), open, options.clone(), entropy, clock.clone())
}
