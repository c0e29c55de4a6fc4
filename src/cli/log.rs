//! Log lines: to standard error while a person may be watching, to the system log (`/dev/log`, RFC 3164 as
//! syslog(3) writes it) once in the background. Where no system log listens, background lines are lost.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;

/// syslog(3) LOG_DAEMON.
const FACILITY_DAEMON: u8 = 3 << 3;
/// Receivers cut or drop longer datagrams.
const MAX_LINE_LEN: usize = 2000;

enum Sink {
    Stderr,
    /// `None` until somebody listens.
    Syslog(Option<UnixDatagram>),
}

struct Logger {
    /// Leaf lock: nothing is called under it but the write itself.
    sink: Mutex<Sink>,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Logs to standard error from now on. Only the first call installs anything; the level always changes.
pub fn to_stderr(level: LevelFilter) {
    let logger = LOGGER.get_or_init(|| Logger { sink: Mutex::new(Sink::Stderr) });
    // Fails if a logger is installed: ours, by an earlier call.
    let _ = log::set_logger(logger);
    log::set_max_level(level);
}

/// Logs to the system log from now on.
pub fn to_syslog() {
    if let Some(logger) = LOGGER.get() {
        *logger.sink.lock() = Sink::Syslog(connect());
    }
}

fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect("/dev/log").ok()?;
    // A system log that hangs must not hang the filesystem: a full queue drops the line.
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Other crates' chatter is of interest when their level is asked for by trace only.
        metadata.target().starts_with("akasha")
            || metadata.level() <= Level::Warn
            || log::max_level() == LevelFilter::Trace
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = one_line(&record.args().to_string());
        match &mut *self.sink.lock() {
            Sink::Stderr => {
                let line = format!("akasha: {}: {text}\n", label(record.level()));
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
            Sink::Syslog(socket) => {
                let line = syslog_line(record.level(), std::process::id(), &text);
                // The receiver may have been restarted, which unbinds the old address.
                let is_sent = socket.as_ref().is_some_and(|s| s.send(line.as_bytes()).is_ok());
                if !is_sent {
                    *socket = connect();
                    if let Some(socket) = socket {
                        let _ = socket.send(line.as_bytes());
                    }
                }
            }
        }
    }

    fn flush(&self) {}
}

fn label(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// The receiver adds time and host.
fn syslog_line(level: Level, pid: u32, text: &str) -> String {
    let severity = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    format!("<{}>akasha[{pid}]: {text}", FACILITY_DAEMON | severity)
}

/// Text that can neither forge a second line nor drive a terminal, and has an end.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_LINE_LEN + 8));
    for c in text.chars() {
        if line.len() >= MAX_LINE_LEN {
            line.push('…');
            break;
        }
        line.push(if c.is_control() { ' ' } else { c });
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line_and_has_an_end() {
        assert_eq!(one_line("a\nb\x1b[0m"), "a b [0m");
        assert!(one_line(&"ä".repeat(5000)).len() <= MAX_LINE_LEN + 8);
    }

    #[test]
    fn the_system_log_gets_facility_severity_and_pid() {
        assert_eq!(syslog_line(Level::Error, 7, "x"), "<27>akasha[7]: x");
        assert_eq!(syslog_line(Level::Info, 7, "x"), "<30>akasha[7]: x");
    }
}
