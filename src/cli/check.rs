//! `akasha check`: whether everything in a vault authenticates. docs/CHECK.md says what it prints.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use crate::store::check::{Finding, Kind, Summary, check};

use super::args::CheckArgs;
use super::error::{CliError, Result};
use super::open::{Found, harden};
use super::password::{PasswordReader, PasswordSource, Purpose};
use super::{print_text, size};

/// Files read at once, at most: each takes a buffer and a descriptor.
const THREADS_MAX: usize = 8;
/// Byte ranges told of one file on a line; `--json` has all of them.
const RANGES_SHOWN: usize = 8;

/// Runs the command.
///
/// # Errors
/// What finding a vault, reading a password and opening with it give; [`CliError::DamageFound`].
pub fn run(args: CheckArgs) -> Result<()> {
    let found = Found::at(&args.vault)?;
    found.check_cost(args.cost.allow_costly_kdf)?;
    harden();
    let source = PasswordSource::from(args.password);
    let password = PasswordReader::new().read(&source, Purpose::Open)?;
    let vault = found.unlock(&password)?;
    drop(password);
    let mut told = Ok(());
    let mut tell = |finding: &Finding| {
        let line = if args.json { json_line(finding) } else { plain_line(finding) };
        if told.is_ok() {
            told = print_line(&line);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX));
    let summary = check(&found.disk, &vault, threads, &mut tell)
        .map_err(|error| CliError::io("cannot read the vault", io::Error::other(error)))?;
    told?;
    let text = if args.json { json_summary(&summary) } else { plain_summary(&summary) };
    print_text(&format!("{text}\n"))?;
    match summary.damaged {
        0 => Ok(()),
        damaged => Err(CliError::DamageFound { vault: args.vault, damaged }),
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
        Kind::Conflict => "keep the one that you want",
        Kind::Leftover => "nothing is to be done",
        Kind::LinkCount => "copies and removed names disturb the count: the content is not touched",
        Kind::Changing => "check again when it rests",
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
    let note = if finding.kind.is_damage() { "" } else { "note: " };
    let _ = write!(line, ": {note}{}", finding.why);
    let ranges = finding.ranges.iter().take(RANGES_SHOWN);
    let ranges: Vec<String> = ranges.map(|r| format!("{}-{}", r.start, r.end - 1)).collect();
    if !ranges.is_empty() {
        let more = finding.ranges.len().saturating_sub(RANGES_SHOWN);
        let more = if more > 0 { format!(" and {more} more ranges") } else { String::new() };
        let _ = write!(line, " (bytes {}{more})", ranges.join(", "));
    }
    let _ = write!(line, "; {}", advice(finding.kind));
    line
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
    let Summary { files, directories, bytes, damaged, notes, vanished } = summary;
    let mut text = format!(
        "{files} files and {directories} directories checked, {}: {damaged} damaged, {notes} notes",
        size::show(*bytes)
    );
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
    let ranges = finding.ranges.iter().map(|r| format!("[{},{}]", r.start, r.end));
    let ranges: Vec<String> = ranges.collect();
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
        ranges.join(",")
    )
}

fn json_summary(summary: &Summary) -> String {
    let Summary { files, directories, bytes, damaged, notes, vanished } = summary;
    format!(
        "{{\"type\":\"summary\",\"files\":{files},\"directories\":{directories},\"bytes\":{bytes},\
         \"damaged\":{damaged},\"notes\":{notes},\"vanished\":{vanished}}}"
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
