//! Where passwords come from. They are bytes, 1 to [`Password::LEN_MAX`]; every copy made here is wiped. Sources are
//! read before any key exists.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use zeroize::{Zeroize, Zeroizing};

use crate::secret::Password;

use super::error::{CliError, Result};

const MAX_LEN: usize = Password::LEN_MAX;

/// Where a password comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordSource {
    /// The terminal, or standard input if that is none.
    Ask,
    /// A file.
    File(PathBuf),
    /// What a shell command prints.
    Command(OsString),
}

/// What a password is for: decides the prompt, and whether it is asked twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Opens an existing vault.
    Open,
    /// Opens it for the last time.
    Current,
    /// Will open the vault from now on.
    New,
}

/// Reads passwords for one run of the program. Standard input gives one password a line, in the order
/// in which they are asked for.
pub struct PasswordReader<R> {
    stdin: R,
    stdin_is_terminal: bool,
}

impl PasswordReader<Box<dyn Read>> {
    /// Reads the process's standard input where no source is named: its descriptor, since the standard library's
    /// buffer would keep a copy that nobody wipes.
    pub fn new() -> Self {
        let stdin = io::stdin();
        let stdin_is_terminal = stdin.is_terminal();
        let input: Box<dyn Read> = match stdin.as_fd().try_clone_to_owned() {
            Ok(fd) => Box::new(File::from(fd)),
            Err(_) => Box::new(io::empty()),
        };
        PasswordReader { stdin: input, stdin_is_terminal }
    }
}

impl Default for PasswordReader<Box<dyn Read>> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Read> PasswordReader<R> {
    /// The password that `source` gives.
    ///
    /// # Errors
    /// [`CliError::NoPassword`] with the reason: empty, too long, unreadable, a failed command, two
    /// entries that differ.
    pub fn read(&mut self, source: &PasswordSource, purpose: Purpose) -> Result<Password> {
        match source {
            PasswordSource::File(path) => from_file(path),
            PasswordSource::Command(command) => from_command(command),
            PasswordSource::Ask if self.stdin_is_terminal => from_terminal(purpose),
            PasswordSource::Ask => self.next_line(purpose),
        }
    }

    /// One line. Read byte by byte into memory of fixed size, so that no buffer keeps a copy and the next line stays
    /// for the next password.
    fn next_line(&mut self, purpose: Purpose) -> Result<Password> {
        let origin = "standard input";
        let mut line = Zeroizing::new(Vec::with_capacity(MAX_LEN + 1));
        let mut byte = Zeroizing::new([0_u8]);
        loop {
            match self.stdin.read(&mut *byte) {
                Ok(0) if line.is_empty() => {
                    let which = match purpose {
                        Purpose::Open => "the password",
                        Purpose::Current => "the current password",
                        Purpose::New => "the new password",
                    };
                    return Err(CliError::NoPassword {
                        what: format!("standard input ended before {which}"),
                        hint: "run it in a terminal, or use --password-file or --password-command"
                            .to_owned(),
                    });
                }
                Ok(0) => break,
                Ok(_) if byte[0] == b'\n' => break,
                Ok(_) if line.len() > MAX_LEN => return Err(too_long(origin)),
                Ok(_) => line.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(origin, &error)),
            }
        }
        accept(&line, origin)
    }
}

/// What a source gave, without its final newline.
fn accept(bytes: &[u8], origin: &str) -> Result<Password> {
    if bytes.is_empty() {
        return Err(CliError::NoPassword {
            what: format!("the password from {origin} is empty"),
            hint: "an empty password protects nothing: give one of at least one byte".to_owned(),
        });
    }
    Password::new(bytes).ok_or_else(|| too_long(origin))
}

fn from_terminal(purpose: Purpose) -> Result<Password> {
    let origin = "the terminal";
    let ask = |prompt: &str| match rpassword::prompt_password(prompt) {
        Ok(text) => accept(&Zeroizing::new(text.into_bytes()), origin),
        Err(error) => Err(unreadable(origin, &error)),
    };
    match purpose {
        Purpose::Open => ask("Password: "),
        Purpose::Current => ask("Current password: "),
        Purpose::New => {
            let first = ask("New password: ")?;
            let second = ask("New password again: ")?;
            if first.expose() == second.expose() {
                Ok(first)
            } else {
                Err(CliError::NoPassword {
                    what: "the two entries differ".to_owned(),
                    hint: "start again and type the same password twice".to_owned(),
                })
            }
        }
    }
}

/// May be a pipe, such as a shell's `<(…)`.
fn from_file(path: &Path) -> Result<Password> {
    let origin = format!("the file {path:?}");
    let file = File::open(path).map_err(|error| unreadable(&origin, &error))?;
    let metadata = file.metadata().map_err(|error| unreadable(&origin, &error))?;
    if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
        log::warn!("other users may read the password file {path:?}: chmod 600 it");
    }
    let bytes = read_bounded(file, &origin)?;
    accept(&bytes, &origin)
}

/// The command may ask on the terminal itself: it keeps our standard input and error. Descriptors that this
/// process opened are close-on-exec, as everywhere in the standard library.
fn from_command(command: &OsStr) -> Result<Password> {
    let origin = "the password command";
    let failed = |what: String| CliError::NoPassword {
        what,
        hint: "run the command by hand and see what it says".to_owned(),
    };
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("/bin/sh does not start: {error}")))?;
    // Taking the pipe means that it is closed after reading: a command that prints without end gets SIGPIPE.
    let output = child.stdout.take().map(|pipe| read_bounded(pipe, origin));
    let status = child.wait().map_err(|error| failed(format!("waiting for it failed: {error}")))?;
    match output {
        Some(Ok(bytes)) if status.success() => accept(&bytes, origin),
        Some(Ok(_)) | None => Err(failed(format!("the password command {}", describe(status)))),
        Some(Err(error)) => Err(error),
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".to_owned(),
    }
}

/// Everything up to the end of `source`, without one final newline.
fn read_bounded(mut source: impl Read, origin: &str) -> Result<Zeroizing<Vec<u8>>> {
    // Of fixed size: growing would leave copies behind. One byte for the newline, one to see "too long".
    let mut buffer = Zeroizing::new(vec![0_u8; MAX_LEN + 2]);
    let mut len = 0;
    while len < buffer.len() {
        match source.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(origin, &error)),
        }
    }
    if buffer[..len].last() == Some(&b'\n') {
        len -= 1;
    }
    if len > MAX_LEN {
        return Err(too_long(origin));
    }
    buffer[len..].zeroize();
    buffer.truncate(len);
    Ok(buffer)
}

fn too_long(origin: &str) -> CliError {
    CliError::NoPassword {
        what: format!("the password from {origin} is longer than {MAX_LEN} bytes"),
        hint: "check that it is what you meant, and use a shorter one".to_owned(),
    }
}

fn unreadable(origin: &str, error: &io::Error) -> CliError {
    CliError::NoPassword {
        what: format!("no password can be read from {origin}: {error}"),
        hint: "use --password-file, --password-command or standard input".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cli::exit::Exit;

    fn piped(input: &[u8]) -> PasswordReader<&[u8]> {
        PasswordReader { stdin: input, stdin_is_terminal: false }
    }

    fn exit_of(result: Result<Password>) -> Exit {
        result.map(|_| ()).unwrap_err().exit()
    }

    #[test]
    fn standard_input_gives_one_password_a_line() {
        let mut reader = piped(b"old one\nnew\xffone");
        let old = reader.read(&PasswordSource::Ask, Purpose::Open).unwrap();
        let new = reader.read(&PasswordSource::Ask, Purpose::New).unwrap();
        assert_eq!(old.expose(), b"old one");
        assert_eq!(new.expose(), b"new\xffone");
        assert_eq!(exit_of(reader.read(&PasswordSource::Ask, Purpose::New)), Exit::NoPassword);
    }

    #[test]
    fn an_empty_line_is_no_password() {
        assert_eq!(
            exit_of(piped(b"\nx\n").read(&PasswordSource::Ask, Purpose::Open)),
            Exit::NoPassword
        );
    }

    #[test]
    fn the_longest_password_is_4096_bytes_from_every_source() {
        for (len, fits) in [(MAX_LEN, true), (MAX_LEN + 1, false), (MAX_LEN * 3, false)] {
            for newline in ["", "\n"] {
                let text = "p".repeat(len) + newline;
                let mut file = tempfile::NamedTempFile::new().unwrap();
                file.write_all(text.as_bytes()).unwrap();
                let path = file.path().to_owned();
                let command = OsString::from(format!("cat '{}'", path.display()));
                let mut reader = piped(text.as_bytes());
                for source in [
                    PasswordSource::Ask,
                    PasswordSource::File(path),
                    PasswordSource::Command(command),
                ] {
                    let read = reader.read(&source, Purpose::Open);
                    assert_eq!(read.is_ok(), fits, "{len} {newline:?} {source:?}");
                }
            }
        }
    }

    #[test]
    fn one_final_newline_and_only_one_is_dropped() {
        let mut reader = piped(b"");
        for (printed, password) in
            [(r"a b\n", &b"a b"[..]), (r"a\n\n", b"a\n"), (r"\na", b"\na"), (r"a\r\n", b"a\r")]
        {
            let source = PasswordSource::Command(format!("printf '{printed}'").into());
            assert_eq!(reader.read(&source, Purpose::Open).unwrap().expose(), password);
        }
    }

    #[test]
    fn a_failed_command_is_told_by_its_exit_code_or_signal() {
        let mut reader = piped(b"");
        for (command, text) in
            [("echo secret; exit 3", "exit code 3"), ("kill -9 $$", "signal 9"), ("true", "empty")]
        {
            let source = PasswordSource::Command(command.into());
            let error = reader.read(&source, Purpose::Open).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
            assert!(!error.report().contains("secret"));
            assert_eq!(error.exit(), Exit::NoPassword);
        }
    }

    #[test]
    fn a_command_that_never_stops_printing_is_cut_off() {
        let source = PasswordSource::Command("yes".into());
        assert_eq!(exit_of(piped(b"").read(&source, Purpose::Open)), Exit::NoPassword);
    }

    #[test]
    fn a_missing_file_or_a_directory_is_no_password() {
        for path in ["/nonexistent/password", "/"] {
            let source = PasswordSource::File(path.into());
            assert_eq!(exit_of(piped(b"").read(&source, Purpose::Open)), Exit::NoPassword);
        }
    }
}
