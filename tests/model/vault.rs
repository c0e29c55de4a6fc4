//! The vault under a model test: made once, mounted as often as the test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use akasha::backing::SimDisk;
use akasha::clock::{Clock, Timestamp};
use akasha::crypto::Cipher;
use akasha::entropy::SeededEntropy;
use akasha::format::Geometry;
use akasha::format::config::{self, ConfigParams, KdfParams};
use akasha::store::{Store, StoreOptions, vault};

/// The disk of the vault.
pub type Disk = SimDisk;

/// A clock that the test moves.
struct TestClock {
    secs: AtomicU64,
    ticks: AtomicU64,
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let nanos = self.ticks.fetch_add(1, Ordering::Relaxed) % 1_000_000_000;
        let secs = 1_700_000_000 + self.secs.load(Ordering::Relaxed);
        Timestamp { secs: secs.cast_signed(), nanos: nanos as u32 }
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.secs.load(Ordering::Relaxed))
    }
}

/// A vault and what is needed to mount it again.
pub struct TestVault {
    disk: SimDisk,
    seed: u64,
    mounts: u64,
    clock: Arc<TestClock>,
}

impl TestVault {
    /// A fresh, empty vault; everything random in it comes from `seed`.
    pub fn new(seed: u64) -> Self {
        let clock = Arc::new(TestClock { secs: AtomicU64::new(0), ticks: AtomicU64::new(0) });
        let disk = SimDisk::with_clock(clock.clone());
        let params = ConfigParams {
            cipher: Cipher::ALL[(seed % 3) as usize],
            geometry: Geometry::new(Self::block_bits(seed)).expect("a test vault works"),
            kdf: KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 },
        };
        let (bytes, _) = config::create(b"p", &params, 0, &SeededEntropy::new(seed))
            .expect("a test vault works");
        vault::create(&disk, &bytes).expect("a test vault works");
        // As little room beside a file as on ext4.
        disk.set_xattr_limit(4000);
        TestVault { disk, seed, mounts: 0, clock }
    }

    /// Mostly the smallest blocks, which have the most edges.
    fn block_bits(seed: u64) -> u8 {
        [12, 12, 13, 16][(seed / 3 % 4) as usize]
    }

    /// Plaintext bytes of a block.
    pub fn block_len(&self) -> u64 {
        1 << Self::block_bits(self.seed)
    }

    /// Lets the clock of the next mounts and of this one go on.
    pub fn pass_time(&self, secs: u64) {
        self.clock.secs.fetch_add(secs, Ordering::Relaxed);
    }

    /// Mounts it; the store mounted before was closed.
    pub fn mount(&mut self) -> Arc<Store<Disk>> {
        let disk = self.disk.clone();
        let open = config::open(&vault::read_config(&disk).expect("a test vault works"), b"p")
            .expect("a test vault works");
        self.mounts += 1;
        let entropy = SeededEntropy::new(self.seed ^ (self.mounts << 32) ^ 0x5eed);
        let clock: Arc<dyn Clock> = self.clock.clone();
        let options = StoreOptions::default();
        Store::open(Arc::new(disk), open, options, Arc::new(entropy), clock)
            .expect("a test vault works")
    }
}
