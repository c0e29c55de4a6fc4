//! Where in the vault a finding is, for whoever repairs it.

use std::rc::Rc;

use crate::format::{Entry, EntryId};

use super::Kind;
use super::walk::Ahead;

/// A backing directory of the vault.
#[derive(Clone)]
pub(in crate::store) enum Place {
    /// Of the tree.
    Tree(Rc<Ahead>),
    /// One of `.akasha`.
    Control(&'static [u8]),
}

/// Something that is damaged.
pub(in crate::store) struct Case {
    pub kind: Kind,
    pub why: String,
    pub place: Place,
    /// Its backing name in there; empty if it is the directory itself.
    pub name: Vec<u8>,
    /// What its name says, if that opens.
    pub entry: Option<Entry>,
    /// The file or directory whose attributes or content it is about, if known.
    pub id: Option<EntryId>,
}
