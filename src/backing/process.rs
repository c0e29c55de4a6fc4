//! The process around a mount: what it may leak (core dumps), how many descriptors it may hold, and
//! how it becomes a daemon. Policy and messages are the caller's.
//!
//! Order in the life of a mounting process: [`fork_daemon`] first, while there is one thread and no
//! secret; then [`harden`], then keys.

#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io::{self, PipeReader, PipeWriter, Read, Write};

use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, WaitOptions, getrlimit, set_dumpable_behavior,
    setrlimit, setsid, waitpid,
};

/// More descriptors than any mount holds; the soft limit is not raised beyond it.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// Longest failure message that crosses the pipe, in bytes.
const MESSAGE_LEN_MAX: usize = 4096;

const REPORT_READY: u8 = b'R';
const REPORT_FAILED: u8 = b'F';

/// Keeps the memory of this process out of core dumps and away from other processes of the same
/// user (ptrace, `/proc/PID/mem`). Source: prctl(2) `PR_SET_DUMPABLE`, getrlimit(2) `RLIMIT_CORE`.
///
/// # Errors
/// Those of prctl and setrlimit.
pub fn harden() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// Keeps the pages under `region` out of swap, as far as `RLIMIT_MEMLOCK` allows; true if it worked.
/// Whole pages are locked and nothing unlocks them, so it is for a few long-lived regions.
pub fn lock_memory(region: &[u8]) -> bool {
    if region.is_empty() {
        return true;
    }
    let start = region.as_ptr().cast_mut().cast();
    // SAFETY: mlock changes neither contents nor protection of the pages; `region` is a live
    // borrow, so they are mapped.
    unsafe { rustix::mm::mlock(start, region.len()) }.is_ok()
}

/// Raises the soft limit of open descriptors to the hard one (at most 2^20) and returns what then
/// holds, for the store to budget with. A hard limit as small as 256 is no error.
///
/// # Errors
/// Those of setrlimit, which only a sandbox can cause.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(DESCRIPTORS_MAX);
    if current >= wanted {
        return Ok(current);
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })?;
    Ok(wanted)
}

/// Which side of [`fork_daemon`] this is.
#[must_use]
#[derive(Debug)]
pub enum Fork {
    /// The process that the user started: waits, then exits with what the daemon reported.
    Parent(Waiter),
    /// The daemon to be, leader of its own session, still with the user's standard descriptors.
    Child(Reporter),
}

/// How the start of a daemon ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It serves; the parent exits with success.
    Ready,
    /// It does not; the parent prints the message (if any) and exits with the code.
    Failed {
        /// Exit code, 128 + signal if a signal killed the daemon.
        code: u8,
        /// What to tell the user, one or more lines, UTF-8.
        message: String,
    },
}

/// Forks. The child starts a new session, so that no terminal and no shell job ends it.
///
/// # Errors
/// `InvalidInput` if this process has more than one thread: a fork copies only the calling one, and
/// whatever lock another held stays locked for ever. Else those of pipe, fork and setsid.
pub fn fork_daemon() -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "cannot become a daemon after threads were started",
        ));
    }
    fork_reporting()
}

fn fork_reporting() -> io::Result<Fork> {
    let (reader, writer) = io::pipe()?;
    // SAFETY: the caller has one thread (checked above where /proc is mounted, the documented
    // duty otherwise), so the child's copy of memory and locks is consistent and it may go on as
    // an ordinary process.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(reader);
            // Fails only for a process group leader, which a fresh child is not.
            setsid()?;
            Ok(Fork::Child(Reporter { pipe: Some(writer) }))
        }
        pid => {
            // The pipe must end when the child does, so this side keeps no writer.
            drop(writer);
            Ok(Fork::Parent(Waiter { pipe: reader, child: Pid::from_raw(pid) }))
        }
    }
}

/// The parent's end: learns how the daemon's start ended.
#[derive(Debug)]
pub struct Waiter {
    pipe: PipeReader,
    child: Option<Pid>,
}

impl Waiter {
    /// Waits until the daemon reports or dies.
    pub fn wait(mut self) -> Outcome {
        let mut report = Vec::new();
        // A read error leaves an empty or cut report, which is judged below like a death.
        let _ = (&mut self.pipe).take(MESSAGE_LEN_MAX as u64 + 2).read_to_end(&mut report);
        match report.as_slice() {
            [REPORT_READY] => Outcome::Ready,
            [REPORT_FAILED, code, message @ ..] => Outcome::Failed {
                code: *code,
                message: String::from_utf8_lossy(message).into_owned(),
            },
            _ => self.post_mortem(),
        }
    }

    /// The pipe ended without a report, which only the daemon's death can do ([`Reporter`] reports
    /// when dropped).
    fn post_mortem(&self) -> Outcome {
        let failed = |code, what: &str| Outcome::Failed { code, message: what.to_owned() };
        let status = rustix::io::retry_on_intr(|| waitpid(self.child, WaitOptions::empty()));
        let Ok(Some((_, status))) = status else {
            return failed(1, "the daemon ended before it was ready");
        };
        if let Some(signal) = status.terminating_signal() {
            let code = u8::try_from(128 + signal).unwrap_or(u8::MAX);
            return failed(code, &format!("the daemon was killed by signal {signal}"));
        }
        let code = status.exit_status().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        // Success without a report is no success.
        failed(code.max(1), "the daemon ended before it was ready")
    }
}

/// The daemon's end: must report once. Dropped unreported, it reports a failure with code 1.
#[derive(Debug)]
pub struct Reporter {
    pipe: Option<PipeWriter>,
}

impl Reporter {
    /// Lets go of the user's terminal (standard descriptors to `/dev/null`) and working directory
    /// (`/`, so that no filesystem stays busy), then tells the parent that the daemon serves.
    ///
    /// # Errors
    /// Those of [`detach_stdio`] and chdir; then a failure has been reported instead. A parent that
    /// is gone is no error.
    pub fn ready(mut self) -> io::Result<()> {
        if let Err(error) = detach_stdio().and_then(|()| std::env::set_current_dir("/")) {
            self.send(&[REPORT_FAILED, 1], &format!("cannot detach the daemon: {error}"));
            return Err(error);
        }
        self.send(&[REPORT_READY], "");
        Ok(())
    }

    /// Tells the parent what to print and which code to exit with. The caller then ends.
    pub fn failed(mut self, code: u8, message: &str) {
        self.send(&[REPORT_FAILED, code], message);
    }

    fn send(&mut self, head: &[u8], message: &str) {
        let Some(mut pipe) = self.pipe.take() else { return };
        let len = message.floor_char_boundary(MESSAGE_LEN_MAX);
        let report = [head, &message.as_bytes()[..len]].concat();
        // The parent may have been interrupted by its user; the daemon's fate is not tied to it.
        let _ = pipe.write_all(&report);
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.send(&[REPORT_FAILED, 1], "the daemon gave up before it was ready");
    }
}

/// Puts `/dev/null` in the place of standard input, output and error, so that the daemon holds
/// neither the terminal nor a pipe that some shell waits on.
///
/// # Errors
/// Those of opening `/dev/null` and dup2.
pub fn detach_stdio() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Forks with the test harness's threads alive: the child only reports and leaves by `_exit`,
    /// so no lock of another thread is ever wanted.
    fn outcome_of(child: impl FnOnce(Reporter)) -> Outcome {
        match fork_reporting().unwrap() {
            Fork::Parent(waiter) => {
                let child = waiter.child;
                let outcome = waiter.wait();
                let _ = waitpid(child, WaitOptions::empty());
                outcome
            }
            Fork::Child(reporter) => {
                child(reporter);
                // SAFETY: _exit only ends the process.
                unsafe { libc::_exit(7) }
            }
        }
    }

    fn failed(code: u8, message: &str) -> Outcome {
        Outcome::Failed { code, message: message.to_owned() }
    }

    #[test]
    fn a_ready_daemon_is_ready() {
        assert_eq!(outcome_of(|reporter| reporter.ready().unwrap()), Outcome::Ready);
    }

    #[test]
    fn a_failure_carries_code_and_message() {
        let said = "wrong password\ntry again";
        assert_eq!(outcome_of(|reporter| reporter.failed(10, said)), failed(10, said));
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let said = "ä".repeat(MESSAGE_LEN_MAX);
        let cut = "ä".repeat(MESSAGE_LEN_MAX / 2);
        assert_eq!(outcome_of(|reporter| reporter.failed(1, &said)), failed(1, &cut));
    }

    #[test]
    fn a_dropped_reporter_is_a_failure() {
        let outcome = outcome_of(drop);
        assert_eq!(outcome, failed(1, "the daemon gave up before it was ready"));
    }

    #[test]
    fn a_daemon_that_dies_is_a_failure() {
        let exits = outcome_of(|reporter| {
            std::mem::forget(reporter);
        });
        assert_eq!(exits, failed(7, "the daemon ended before it was ready"));
        let killed = outcome_of(|reporter| {
            std::mem::forget(reporter);
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .unwrap();
        });
        assert_eq!(killed, failed(137, "the daemon was killed by signal 9"));
    }

    #[test]
    fn a_process_with_threads_may_not_fork() {
        let (stop, stopped) = io::pipe().unwrap();
        let other = std::thread::spawn(move || {
            let mut stop = stop;
            let _ = stop.read(&mut [0]);
        });
        let error = fork_daemon().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        drop(stopped);
        other.join().unwrap();
    }

    #[test]
    fn memory_and_descriptor_limits_answer() {
        let region = vec![0u8; 64];
        lock_memory(&region);
        assert!(lock_memory(&[]));
        let limit = raise_descriptor_limit().unwrap();
        assert!(limit >= 256);
        assert_eq!(raise_descriptor_limit().unwrap(), limit);
    }

    #[test]
    fn a_hardened_process_has_no_core() {
        // In a child, as nothing undoes it.
        let outcome = outcome_of(|reporter| {
            let ok = harden().is_ok()
                && getrlimit(Resource::Core).maximum == Some(0)
                && rustix::process::dumpable_behavior()
                    .is_ok_and(|dumpable| dumpable == DumpableBehavior::NotDumpable);
            if ok {
                reporter.failed(42, "hardened");
            }
        });
        assert_eq!(outcome, failed(42, "hardened"));
    }
}
