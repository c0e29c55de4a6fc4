//! Every byte on the disk, and the arithmetic between plaintext and ciphertext. No I/O, no clock, no threads.
//! `docs/FORMAT.md` is the text; these modules implement it.

pub mod config;
mod entry;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod geometry;
mod ids;
mod layer;
mod map;
mod rescue;
mod stub;
mod xattr;

pub use config::{OpenVault, VaultConfig};
pub use entry::{
    BackingName, Entry, EntryKind, NameClass, Sidecar, classify_name, inode_file_name,
    is_temp_name, layer_file_name, long_name, open_entry, parse_inode_name, parse_layer_file_name,
    seal_entry, stub_file_name, temp_file_name,
};
pub use geometry::{Geometry, HEADER_LEN, LengthClass, SLOTS_MAX, TAIL_LEN};
pub use ids::{EntryId, ObjectId, TailTag, VaultId};
pub use layer::{Form, LayerKey, LayerSealer, Role, SealedEnd, SlotRun, Tail, TailFields};
pub use map::{Extent, LayerMap, Parent, Source};
pub use rescue::{RESCUE_LEN, RESCUE_NAME, RescueCopy, open_rescue, seal_rescue};
pub use stub::{STUB_LEN, Stub, open_stub, seal_stub};
pub use xattr::{
    MODE_ATTRIBUTE, SIDE_ATTRIBUTE, SIDE_LEN_MAX, SideRef, XattrMap, is_sealed_xattr, open_side,
    open_xattr, open_xattr_name, seal_side, seal_xattr, side_len, xattr_name, xattr_name_len,
};

/// Bytes that are not what the format says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// They do not authenticate: changed, moved, or another vault's.
    #[error("the {0} does not authenticate")]
    Auth(&'static str),
    /// A header of something else.
    #[error("header: {0}")]
    Header(&'static str),
    /// An authentic tail that no writer makes.
    #[error("tail: {0}")]
    Tail(&'static str),
    /// An authentic map that no writer makes.
    #[error("map: {0}")]
    Map(&'static str),
    /// A backing name that no writer makes.
    #[error("entry: {0}")]
    Entry(&'static str),
    /// An authentic rescue copy that no writer makes.
    #[error("rescue copy: {0}")]
    Rescue(&'static str),
}
