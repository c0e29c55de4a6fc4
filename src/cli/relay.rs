//! An error on its way from the background process to the one that the user started, which prints it.

use crate::backing::process::Reporter;

use super::error::{CliError, Result};
use super::exit::Exit;

/// Has the waiting process report `error` and end with its code.
pub fn send(reporter: Reporter, error: &CliError) {
    reporter.failed(error.exit().code(), &error.report());
}

/// What the background process reported, or what is known of its end if it could not.
pub fn receive<T>(code: u8, message: &str) -> Result<T> {
    let mut lines = message.lines();
    let what = lines.next().unwrap_or("the background process said nothing");
    let hint = lines
        .next()
        .and_then(|line| line.strip_prefix("hint: "))
        .unwrap_or("run it with --foreground --log-level debug to see why");
    Err(CliError::Relayed {
        exit: Exit::from_code(code).unwrap_or(Exit::Internal),
        what: what.strip_prefix("error: ").unwrap_or(what).to_owned(),
        hint: hint.to_owned(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn an_error_arrives_as_it_was_sent() {
        let error = CliError::WrongPassword(PathBuf::from("/v\nw"));
        let arrived = receive::<()>(error.exit().code(), &error.report()).unwrap_err();
        assert_eq!(arrived.report(), error.report());
        assert_eq!(arrived.exit(), error.exit());
    }

    #[test]
    fn a_death_is_an_error_with_a_hint() {
        for (code, message) in [(137, "the daemon was killed by signal 9"), (1, ""), (0, "x")] {
            let error = receive::<()>(code, message).unwrap_err();
            assert_eq!(error.exit(), Exit::Internal);
            assert_eq!(error.report().lines().count(), 2);
        }
    }
}
