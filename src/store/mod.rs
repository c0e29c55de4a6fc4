//! (being built)
pub mod vault;
