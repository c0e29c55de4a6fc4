//! The `akasha` program: maps what [`akasha::cli`] reports to an exit code, and chooses the allocator.

use std::process::ExitCode;

/// Small requests spend much of their time allocating, in several threads: this one takes a tenth off creating a small
/// file (`scripts/bench --only create_small_files`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    akasha::cli::run(std::env::args_os())
}
