//! clap's complaints in our own form: one sentence, one hint.

use std::process::ExitCode;

use clap::error::ErrorKind;

use super::exit::Exit;
use super::{eprint_line, print_text};

/// Prints help to standard output, a complaint to standard error.
pub fn report(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match print_text(&error.render().to_string()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => ExitCode::from(error.exit().code()),
            }
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            eprint_line(error.render().to_string().trim_end());
            ExitCode::from(Exit::Usage.code())
        }
        _ => {
            eprint_line(&reshape(&error.render().to_string()));
            ExitCode::from(Exit::Usage.code())
        }
    }
}

/// clap writes a paragraph with what is wrong (its list of arguments on lines of their own), sometimes a tip, the usage.
fn reshape(rendered: &str) -> String {
    let mut paragraphs = rendered.split("\n\n").map(|paragraph| {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    let what = paragraphs.next().unwrap_or_default();
    let mut hint = None;
    for paragraph in paragraphs {
        if let Some(tip) = paragraph.strip_prefix("tip: ") {
            hint = Some(tip.to_owned());
        } else if let Some(usage) = paragraph.strip_prefix("Usage: ") {
            hint = hint.or_else(|| Some(format!("usage: {usage}")));
        }
    }
    let hint = hint.unwrap_or_else(|| {
        "akasha --help and akasha COMMAND --help tell what is possible".to_owned()
    });
    format!("{what}\nhint: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_is_brought_into_two_lines() {
        let missing = "error: the following required arguments were not provided:\n  <A>\n  <B>\n\n\
            Usage: akasha x <A> <B>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            reshape(missing),
            "error: the following required arguments were not provided: <A> <B>\nhint: usage: akasha x <A> <B>"
        );
        let unknown = "error: unexpected argument '--x' found\n\n  tip: a similar argument exists: '--xy'\n\n\
            Usage: akasha\n\nFor more information, try '--help'.\n";
        assert_eq!(
            reshape(unknown),
            "error: unexpected argument '--x' found\nhint: a similar argument exists: '--xy'"
        );
        assert_eq!(reshape("error: odd").lines().count(), 2);
    }
}
