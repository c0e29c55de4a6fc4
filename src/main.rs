//! The `akasha` program: maps what [`akasha::cli`] reports to an exit code, and does nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    akasha::cli::run(std::env::args_os())
}
