//! `akasha check`: whether everything in a vault authenticates, and what can be done if not. docs/CHECK.md says what it prints.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::backing::OsDisk;
use crate::clock::SystemClock;
use crate::entropy::OsEntropy;
use crate::store::check::{Effort, Finding, Kind, Summary, check, len_of_vault};
use crate::store::repair::{Deed, DeedKind, Means, Told, repair};
use crate::store::{StoreError, StoreOptions, vault};

use super::args::CheckArgs;
use super::error::{CliError, Result};
use super::open::{Found, harden};
use super::password::{PasswordReader, PasswordSource, Purpose};
use super::{log, print_text, size};

/// Files read at once, at most: each takes a buffer and a descriptor.
const THREADS_MAX: usize = 8;
/// Byte ranges told of one file on a line; `--json` has all of them.
const RANGES_SHOWN: usize = 8;

/// How often the progress bar is drawn again.
const DRAWN_EVERY: Duration = Duration::from_millis(100);

/// Runs the command.
///
/// # Errors
/// What finding a vault, reading a password and opening with it give; [`CliError::DamageFound`]; an error of permission if there was
/// something that could not be looked at.
pub fn run(args: CheckArgs) -> Result<()> {
    let found = Found::at(&args.vault)?;
    found.check_cost(args.cost.allow_costly_kdf)?;
    if args.repair && vault::is_held(&found.disk, true).unwrap_or(false) {
        return Err(mounted(&found.path, vault::lock_note(&found.disk)));
    }
    if args.repair {
        // What a mount would warn of is a finding here.
        log::to_stderr(::log::LevelFilter::Error);
    }
    harden();
    let source = PasswordSource::from(args.password);
    let password = PasswordReader::new().read(&source, Purpose::Open)?;
    let opened = found.unlock(&password)?;
    drop(password);
    let is_json = args.json;
    let read_bytes = AtomicU64::new(0);
    let is_shown = !is_json && !args.quiet && io::stderr().is_terminal();
    let disk = Arc::new(found.disk);
    let mut told = Ok(());
    let summary = std::thread::scope(|scope| {
        let progress = Progress::start(scope, is_shown.then_some(&*disk), &read_bytes);
        let mut print = |line: &str| {
            if told.is_ok() {
                told = progress.suspend(|| print_line(line));
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX));
        let effort = Effort { threads, read_bytes: &read_bytes };
        let tell_finding = |finding: &Finding, print: &mut dyn FnMut(&str)| {
            print(&if is_json { json_line(finding) } else { plain_line(finding) });
        };
        if args.repair {
            let options = StoreOptions {
                owner_note: format!("akasha check --repair, process {}\n", std::process::id()),
                ..StoreOptions::default()
            };
            let (entropy, clock) = (Arc::new(OsEntropy), Arc::new(SystemClock::new()));
            let means = Means { effort, options, entropy, clock };
            repair(&disk, &opened, &means, &mut |what| match what {
                Told::Finding(finding) => tell_finding(finding, &mut print),
                Told::Deed(deed) => {
                    print(&if is_json { json_deed(deed) } else { plain_deed(deed) });
                }
            })
        } else {
            check(&*disk, &opened, effort, &mut |finding| tell_finding(finding, &mut print))
        }
    });
    let summary = summary.map_err(|error| store_error(&args.vault, error))?;
    told?;
    if is_json || !args.quiet {
        let text = if is_json { json_summary(&summary) } else { plain_summary(&summary) };
        print_text(&format!("{text}\n"))?;
    }
    match (summary.damaged, summary.unchecked) {
        (0, 0) => Ok(()),
        (0, unchecked) => {
            let what = format!(
                "{unchecked} files or directories of {:?} could not be checked",
                args.vault
            );
            Err(CliError::io(what, io::ErrorKind::PermissionDenied.into()))
        }
        (damaged, _) => Err(CliError::DamageFound { vault: args.vault, damaged }),
    }
}

fn mounted(vault: &Path, holder: Option<String>) -> CliError {
    CliError::InUse { vault: vault.to_owned(), holder }
}

fn store_error(vault: &Path, error: StoreError) -> CliError {
    match error {
        StoreError::InUse(holder) => mounted(vault, holder),
        StoreError::AlreadyExists => CliError::io(
            "cannot repair: \"lost+found\" in the root of the mount is no directory; rename it first",
            io::ErrorKind::AlreadyExists.into(),
        ),
        StoreError::Io { what, source } => CliError::io(format!("cannot {what}"), source),
        error => CliError::io("cannot read the vault", io::Error::other(error)),
    }
}

/// The bar on a terminal, drawn by a thread of its own; it ends with the scope.
struct Progress {
    bar: ProgressBar,
    is_over: Arc<AtomicBool>,
}

impl Progress {
    /// Nothing is shown if there is no `disk`.
    fn start<'scope, 'env>(
        scope: &'scope std::thread::Scope<'scope, 'env>,
        disk: Option<&'env OsDisk>,
        read_bytes: &'env AtomicU64,
    ) -> Progress {
        let is_over = Arc::new(AtomicBool::new(false));
        let Some(disk) = disk else { return Progress { bar: ProgressBar::hidden(), is_over } };
        let bar = ProgressBar::new(0);
        let style =
            "{bar:30} {percent:>3} %  {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        let (drawn, ends) = (bar.clone(), Arc::clone(&is_over));
        scope.spawn(move || {
            drawn.set_length(len_of_vault(disk));
            while !ends.load(Ordering::Relaxed) {
                drawn.set_position(read_bytes.load(Ordering::Relaxed));
                std::thread::sleep(DRAWN_EVERY);
            }
            drawn.finish_and_clear();
        });
        Progress { bar, is_over }
    }

    /// Prints with the bar out of the way.
    fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn print_line(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")) {
        // Who reads has seen enough; the exit code still tells.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::io("cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}

/// What to do about a finding.
fn advice(kind: Kind) -> &'static str {
    match kind {
        Kind::Name | Kind::Link => "restore it from a backup of the vault",
        Kind::Foreign => "remove it from the vault if it is not yours to keep",
        Kind::Directory => "check the disk and the permissions in the vault",
        Kind::File | Kind::Layer => "restore the file from a backup",
        Kind::Content => "restore the file from a backup; everything else in it can be read",
        Kind::Attribute => "set the attribute again",
        Kind::Rescue => "`--repair` writes it anew; nothing in the directory is touched by it",
        Kind::Outdated => "`--repair` writes it anew",
        Kind::Conflict => "keep the one that you want",
        Kind::Leftover => "nothing is to be done",
        Kind::LinkCount => "copies and removed names disturb the count: the content is not touched",
        Kind::Changing => "check again when it rests",
        Kind::Kept => "delete it when it is of no use any more",
        Kind::Unchecked => "check as the owner of the vault, or as root",
    }
}

fn plain_line(finding: &Finding) -> String {
    let mut line = shown(&finding.path);
    if line.is_empty() {
        line.push('/');
    }
    if let Some(name) = &finding.name {
        let _ = write!(line, " [{}]", shown(name));
    }
    let note =
        if finding.kind.is_damage() || finding.kind == Kind::Unchecked { "" } else { "note: " };
    let _ = write!(line, ": {note}{}", finding.why);
    if let Some(ranges) = plain_ranges(&finding.ranges) {
        let _ = write!(line, " ({ranges})");
    }
    let _ = write!(line, "; {}", advice(finding.kind));
    line
}

fn plain_ranges(ranges: &[Range<u64>]) -> Option<String> {
    let shown = ranges.iter().take(RANGES_SHOWN);
    let shown: Vec<String> = shown.map(|r| format!("{}-{}", r.start, r.end - 1)).collect();
    let more = ranges.len().saturating_sub(RANGES_SHOWN);
    let more = if more > 0 { format!(" and {more} more ranges") } else { String::new() };
    (!shown.is_empty()).then(|| format!("bytes {}{more}", shown.join(", ")))
}

fn plain_deed(deed: &Deed) -> String {
    let mut line = shown(&deed.path);
    if line.is_empty() {
        line.push('/');
    }
    if let Some(name) = &deed.name {
        let _ = write!(line, " [{}]", shown(name));
    }
    let to = shown(&deed.to);
    let _ = match deed.kind {
        DeedKind::Moved => write!(line, ": moved to {to}"),
        DeedKind::Salvaged => write!(line, ": what could be read of it was written here"),
        DeedKind::Named => write!(line, ": has the name {to} now"),
        DeedKind::Rebuilt => write!(line, ": what counts its names was made anew"),
        DeedKind::Copied => write!(line, ": its rescue copy was written anew"),
        DeedKind::Detached => write!(line, ": its damaged attributes are in {to} now"),
    };
    if let Some(ranges) = plain_ranges(&deed.holes) {
        let _ = write!(line, "; missing: {ranges}");
    }
    line
}

fn json_ranges(ranges: &[Range<u64>]) -> String {
    let ranges: Vec<String> = ranges.iter().map(|r| format!("[{},{}]", r.start, r.end)).collect();
    ranges.join(",")
}

fn json_deed(deed: &Deed) -> String {
    format!(
        "{{\"type\":\"deed\",\"kind\":\"{}\",\"path\":{},\"path_hex\":\"{}\",\"name\":{},\"to\":{},\"to_hex\":\"{}\",\
         \"holes\":[{}]}}",
        deed.kind.key(),
        json_string(&deed.path),
        data_encoding::HEXLOWER.encode(&deed.path),
        deed.name.as_deref().map_or("null".to_owned(), json_string),
        json_string(&deed.to),
        data_encoding::HEXLOWER.encode(&deed.to),
        json_ranges(&deed.holes)
    )
}

/// A path for a terminal: control characters and what is not UTF-8 escaped.
fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

fn plain_summary(summary: &Summary) -> String {
    let Summary { files, directories, bytes, damaged, notes, unchecked, vanished } = summary;
    let mut text = format!(
        "{files} files and {directories} directories checked, {}: {damaged} damaged, {notes} notes",
        size::show(*bytes)
    );
    if *unchecked > 0 {
        let _ = write!(text, "; {unchecked} could not be checked");
    }
    if *vanished > 0 {
        let _ = write!(text, "; {vanished} names moved or went meanwhile");
    }
    text
}

/// A string of JSON; what is not UTF-8 is replaced (`path_hex` has the bytes).
fn json_string(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

fn json_line(finding: &Finding) -> String {
    let name = finding.name.as_deref().map_or("null".to_owned(), json_string);
    format!(
        "{{\"type\":\"finding\",\"kind\":\"{}\",\"damage\":{},\"path\":{},\"path_hex\":\"{}\",\"name\":{name},\
         \"why\":{},\"advice\":{},\"ranges\":[{}]}}",
        finding.kind.key(),
        finding.kind.is_damage(),
        json_string(&finding.path),
        data_encoding::HEXLOWER.encode(&finding.path),
        json_string(finding.why.as_bytes()),
        json_string(advice(finding.kind).as_bytes()),
        json_ranges(&finding.ranges)
    )
}

fn json_summary(summary: &Summary) -> String {
    let Summary { files, directories, bytes, damaged, notes, unchecked, vanished } = summary;
    format!(
        "{{\"type\":\"summary\",\"files\":{files},\"directories\":{directories},\"bytes\":{bytes},\
         \"damaged\":{damaged},\"notes\":{notes},\"unchecked\":{unchecked},\"vanished\":{vanished}}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding() -> Finding {
        Finding {
            path: b"a\"\n\xff".to_vec(),
            name: None,
            kind: Kind::Content,
            why: "blocks".to_owned(),
            ranges: vec![0..4096, 8192..8200],
        }
    }

    #[test]
    fn a_name_cannot_act_on_a_terminal_or_break_a_line() {
        let line = plain_line(&finding());
        assert!(line.starts_with("a\"\\n\\xff: blocks (bytes 0-4095, 8192-8199); "), "{line}");
        assert!(!json_line(&finding()).contains('\n'));
    }

    #[test]
    fn the_keys_of_json_are_stable() {
        let line = json_line(&finding());
        let start = "{\"type\":\"finding\",\"kind\":\"content\",\"damage\":true,\"path\":\"a\\\"\\u000a\u{fffd}\",\
                     \"path_hex\":\"61220aff\",\"name\":null,\"why\":\"blocks\",\"advice\":";
        assert!(line.starts_with(start), "{line}");
        assert!(line.ends_with(",\"ranges\":[[0,4096],[8192,8200]]}"), "{line}");
    }
}
