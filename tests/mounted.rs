//! akasha as people use it: real programs on a real mount, each result looked at again after unmount
//! and remount. Needs /dev/fuse; where it is missing every test says SKIPPED.
//!
//! Environment: `AKASHA_BIG=1` for the sizes of the promises (tens of GiB), `AKASHA_SEED` to replay,
//! `AKASHA_LOG=debug` to hear more from the daemon, `AKASHA_BIN` for another build of the program, `AKASHA_PYTHON` for a Python with argon2-cffi and
//! cryptography; the rest is named at its test.

#![allow(clippy::unwrap_used)]

#[path = "mounted/acls.rs"]
mod acls;
#[path = "mounted/check.rs"]
mod check;
#[path = "mounted/command.rs"]
mod command;
#[path = "mounted/content.rs"]
mod content;
#[path = "mounted/crash.rs"]
mod crash;
#[path = "mounted/directio.rs"]
mod directio;
#[path = "mounted/directories.rs"]
mod directories;
#[path = "mounted/edges.rs"]
mod edges;
#[path = "mounted/harness.rs"]
mod harness;
#[path = "mounted/links.rs"]
mod links;
#[path = "mounted/locks.rs"]
mod locks;
#[path = "mounted/nameless.rs"]
mod nameless;
#[path = "mounted/options.rs"]
mod options;
#[path = "mounted/programs.rs"]
mod programs;
#[path = "mounted/repair.rs"]
mod repair;
#[path = "mounted/rescue.rs"]
mod rescue;
#[path = "mounted/rewritten.rs"]
mod rewritten;
#[path = "mounted/shared_maps.rs"]
mod shared_maps;
#[path = "mounted/space.rs"]
mod space;
#[path = "mounted/special.rs"]
mod special;
#[path = "mounted/streams.rs"]
mod streams;
#[path = "mounted/tamper.rs"]
mod tamper;
#[path = "mounted/twins.rs"]
mod twins;
#[path = "mounted/xattrs.rs"]
mod xattrs;
