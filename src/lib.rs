//! akasha: an encrypted FUSE filesystem that never tears a file.
//!
//! The floors, from the top; a floor imports only what stands below it (`tests/tidy.rs` holds the
//! edge list):
//!
//! ```text
//! main > cli > fuse > fs > store > { format > crypto , backing } > { secret, entropy, clock }
//! ```
//!
//! `docs/DESIGN.md` says why, `docs/FORMAT.md` says what every byte of a vault means.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("akasha indexes files of terabytes through usize and needs a 64-bit target");

pub mod backing;
pub mod cli;
pub mod clock;
pub mod crypto;
pub mod entropy;
pub mod format;
pub mod fs;
pub mod fuse;
pub mod secret;
pub mod store;
