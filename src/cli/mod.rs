//! The command line: arguments, passwords, reports, exit codes. Decides nothing about files.
//!
//! [`args`] is what was written, [`plan`] what is meant; one module for each command does it; [`error`] says what went
//! wrong and what to do, [`exit`] with which code.

// Paths are shown quoted, with control characters escaped: a file's name must not act on a terminal.
#![allow(clippy::unnecessary_debug_formatting)]

pub mod args;
mod check;
pub mod error;
pub mod exit;
mod info;
mod init;
mod log;
mod mount;
mod mountinfo;
mod mountpoint;
mod open;
mod passwd;
pub mod password;
pub mod plan;
mod relay;
mod remount;
mod size;
mod umount;
mod usage;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Command, CommandLine};
use error::Result;

/// Runs the program: prints what is to be printed, returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if args::is_rehearsal(&args) {
        return ExitCode::SUCCESS;
    }
    let line = match CommandLine::try_parse_from(args::normalise(args)) {
        Ok(line) => line,
        Err(error) => return usage::report(&error),
    };
    // Warnings of the commands themselves; `mount` sets what the user asked for.
    log::to_stderr(::log::LevelFilter::Warn);
    match perform(line.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint_line(&error.report());
            ExitCode::from(error.exit().code())
        }
    }
}

fn perform(command: Command) -> Result<()> {
    match command {
        Command::Init(args) => init::run(args),
        Command::Mount(args) => mount::run(args),
        Command::Umount(args) => umount::run(&args),
        Command::Passwd(args) => passwd::run(args),
        Command::Info(args) => info::run(args),
        Command::Check(args) => check::run(args),
    }
}

/// To standard output; a reader that has left is no error.
fn print_text(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error::CliError::io("cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}

/// To standard error, where a failure can be told to nobody.
fn eprint_line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
