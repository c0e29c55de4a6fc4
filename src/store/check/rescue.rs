//! The rescue copies of directories.

use std::io::ErrorKind;
use std::rc::Rc;

use crate::backing::{Backing, PublishedFile};
use crate::format::{RESCUE_LEN, RESCUE_NAME, RescueCopy, open_rescue};

use super::super::core::VaultKeys;
use super::Kind;
use super::case::Place;
use super::content::Fault;
use super::walk::{Ahead, Check};

impl<B: Backing> Check<'_, B> {
    /// The rescue copy in the directory `here`, if there is one.
    pub fn rescue_copy(&mut self, here: &Rc<Ahead>, dir: &B::Dir) {
        let fault = match read_rescue(self.backing, self.vault, dir) {
            Ok(None) => None,
            Ok(Some(copy)) => judge(&copy, here),
            Err(fault) => Some(fault),
        };
        let Some(fault) = fault else { return };
        if fault.kind == Kind::Outdated && here.open(self.backing).is_err() {
            // What moved is `here`, not the copy.
            self.summary.vanished += 1;
            return;
        }
        self.note_case(&Place::Tree(Rc::clone(here)), RESCUE_NAME, None, here.id, &fault);
        self.find(here.path(b""), Some(RESCUE_NAME), fault);
    }
}

/// What is wrong with an authentic copy in the directory `here`.
fn judge(copy: &RescueCopy, here: &Ahead) -> Option<Fault> {
    let Some(parent) = &here.parent else {
        return Some(Fault::new(Kind::Rescue, "the root has no rescue copy: it is another's"));
    };
    if copy.id != here.id {
        return Some(Fault::new(Kind::Rescue, "it is the rescue copy of another directory"));
    }
    let is_current = copy.parent == parent.id && copy.name == here.plain;
    let why = "its rescue copy has the name of before it was moved";
    (!is_current).then(|| Fault::new(Kind::Outdated, why))
}

/// The rescue copy in `dir`, of whatever directory it is; `None` if there is none.
pub(in crate::store) fn read_rescue<B: Backing>(
    backing: &B,
    vault: &VaultKeys,
    dir: &B::Dir,
) -> Result<Option<RescueCopy>, Fault> {
    let call = |what| move |error| Fault::io(Kind::Rescue, what, &error);
    let file = match backing.open(dir, RESCUE_NAME) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(call("cannot open its rescue copy"))?,
    };
    let len = file.stat().map_err(call("cannot stat its rescue copy"))?.len;
    if len != RESCUE_LEN as u64 {
        let why = format!("its rescue copy has {len} bytes: it was cut or grown");
        return Err(Fault::new(Kind::Rescue, why));
    }
    let mut bytes = [0; RESCUE_LEN];
    file.read_at(0, &mut bytes).map_err(call("cannot read its rescue copy"))?;
    open_rescue(&vault.keys, vault.cipher, vault.geometry, &bytes)
        .map(Some)
        .map_err(|_| Fault::new(Kind::Rescue, "its rescue copy does not authenticate"))
}

impl Ahead {
    /// What the rescue copy in it is to say; the root has none.
    pub fn rescue(&self, stamp: u64) -> Option<RescueCopy> {
        let parent = self.parent.as_ref()?.id;
        Some(RescueCopy { id: self.id, parent, stamp, name: self.plain.clone() })
    }
}
