//! Temporary files made ahead: whoever creates a file mostly writes a little and closes it, and then waits for the making
//! of its temporary file. One is made after the answer to the create instead, while the caller goes on.
//!
//! A spare is an empty file in `.akasha/tmp` under a name of its own: nothing is sealed for it, and the next mount's sweep
//! takes what a crash leaves.

use log::debug;
use parking_lot::Mutex;

use crate::backing::Backing;
use crate::format::temp_file_name;

use super::core::Core;

/// As many as there may be threads that create files at the same time.
const SPARES_MAX: usize = 4;

struct Spare<B: Backing> {
    name: Vec<u8>,
    mode: u32,
    file: B::Temp,
}

/// The spares of a mount.
pub(crate) struct Spares<B: Backing>(Mutex<Vec<Spare<B>>>);

impl<B: Backing> Default for Spares<B> {
    fn default() -> Self {
        Spares(Mutex::new(Vec::new()))
    }
}

impl<B: Backing> Spares<B> {
    /// A file that was made with `mode`, and its name. It is the caller's.
    pub fn take(&self, mode: u32) -> Option<(Vec<u8>, B::Temp)> {
        let mut spares = self.0.lock();
        let index = spares.iter().position(|spare| spare.mode == mode)?;
        let spare = spares.swap_remove(index);
        Some((spare.name, spare.file))
    }

    /// Makes a file with `mode`, unless there are enough. What fails will fail again where somebody can be told.
    pub fn add(&self, core: &Core<B>, mode: u32) {
        if self.0.lock().len() >= SPARES_MAX {
            return;
        }
        let name = temp_file_name(&*core.entropy);
        match core.backing.create_temp(&core.tmp, &name, mode) {
            Ok(file) => self.0.lock().push(Spare { name, mode, file }),
            Err(error) => debug!("no temporary file is made ahead: {error}"),
        }
    }

    /// Removes them.
    pub fn clear(&self, core: &Core<B>) {
        let spares = std::mem::take(&mut *self.0.lock());
        for spare in spares {
            if let Err(error) = core.backing.unlink(&core.tmp, &spare.name) {
                // The next mount sweeps it.
                debug!("a temporary file stays behind: {error}");
            }
        }
    }
}
