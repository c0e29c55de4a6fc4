//! Rescue copies that are damaged, another directory's, or outdated: written anew.

use std::rc::Rc;

use crate::backing::Backing;
use crate::entropy::Entropy;
use crate::format::{RESCUE_NAME, seal_rescue};

use super::super::check::{Ahead, Kind, Place};
use super::super::core::{ControlDirs, VaultKeys, guest_of};
use super::super::error::{Attempt, Result};
use super::super::rescue::TempCopy;
use super::moves::Mover;
use super::plan::{damaged_name, in_lost_found};
use super::{Deed, DeedKind};

/// A directory with such a copy.
pub(super) struct WrongRescue {
    here: Rc<Ahead>,
    /// It is not this directory's at all: whatever it is, it is kept.
    is_foreign: bool,
}

impl WrongRescue {
    pub fn new(place: &Place, kind: Kind) -> Option<Self> {
        let Place::Tree(here) = place else { return None };
        Some(WrongRescue { here: Rc::clone(here), is_foreign: kind == Kind::Rescue })
    }

    /// Puts the right copy in its place; the root has none.
    pub fn right<B: Backing>(
        &self,
        mover: &Mover<'_, B>,
        backing: &B,
        vault: &VaultKeys,
        dirs: &ControlDirs<B>,
        (entropy, stamp): (&dyn Entropy, u64),
        deeds: &mut Vec<Deed>,
    ) -> Result<()> {
        // It may have moved to `lost+found` in this very round: the next one finds it there.
        let Ok(dir) = self.here.open(backing) else { return Ok(()) };
        let (path, holes) = (self.here.path(b""), Vec::new());
        let name = Some(RESCUE_NAME.to_vec());
        if self.is_foreign
            && let Some(kept) = mover.rescue(&dir)?
        {
            let to = in_lost_found(&damaged_name(&kept));
            let (path, name, holes) = (path.clone(), name.clone(), holes.clone());
            deeds.push(Deed { kind: DeedKind::Moved, path, name, to, holes });
        }
        let Some(copy) = self.here.rescue(stamp) else { return Ok(()) };
        let sealed = seal_rescue(&vault.keys, vault.cipher, vault.geometry, &copy, entropy);
        let owner = guest_of(backing, &dirs.control);
        let temp = TempCopy::write(backing, &dirs.tmp, &sealed, owner, true, entropy);
        let placed = temp.and_then(|temp| temp.place(backing, &dirs.tmp, &dir));
        placed.attempt("write a rescue copy")?;
        let to = path.clone();
        deeds.push(Deed { kind: DeedKind::Copied, path, name, to, holes });
        Ok(())
    }
}
