//! How a process ends: exit codes, and what is said on the way out.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use serde::Serialize;

/// Bad usage or configuration; nothing was started and no port was opened. The number is `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;
/// Everything else that goes wrong.
const FAILURE: u8 = 1;

/// What names of flags hold that people give secrets to by habit.
const SECRET_WORDS: [&str; 4] = ["secret", "token", "password", "proxy"];

/// Why a process ends before its work is done.
#[derive(Debug)]
pub struct Exit {
    code: u8,
    /// Nothing where it was said already.
    message: Option<String>,
}

impl Exit {
    /// Bad usage or configuration: exit code 64.
    pub fn usage(error: impl Display) -> Self {
        Self {
            code: USAGE,
            message: Some(error.to_string()),
        }
    }

    /// Anything else: exit code 1.
    pub fn failure(error: impl Display) -> Self {
        Self {
            code: FAILURE,
            message: Some(error.to_string()),
        }
    }

    /// What was printed is a "no": exit code 1, and nothing more to say.
    #[must_use]
    pub fn negative() -> Self {
        Self {
            code: FAILURE,
            message: None,
        }
    }

    /// Says it in the log, where it is found beside what led to it, and so not again on the terminal.
    #[must_use]
    pub fn logged(self) -> Self {
        if let Some(message) = &self.message {
            tracing::error!("{message}");
        }
        Self {
            message: None,
            ..self
        }
    }
}

/// Ends `main`: says on stderr what was not said yet, and gives the exit code.
#[must_use]
pub fn finish(program: &str, outcome: Result<(), Exit>) -> ExitCode {
    let Err(exit) = outcome else {
        return ExitCode::SUCCESS;
    };
    let lines: Vec<&str> = exit
        .message
        .iter()
        .flat_map(|message| message.lines())
        .collect();
    let mut stderr = io::stderr().lock();
    for line in lines {
        // Nothing is left to do where even the terminal is gone.
        let _ = writeln!(stderr, "{program}: {line}");
    }
    ExitCode::from(exit.code)
}

/// Ends `main` with what clap has to say: help, the version, or a refusal.
#[must_use]
pub fn after_arguments(error: &clap::Error) -> ExitCode {
    // As above.
    let _ = error.print();
    let argument = error.get(ContextKind::InvalidArg).map(ToString::to_string);
    let argument = argument.unwrap_or_default();
    if error.kind() == ErrorKind::UnknownArgument
        && SECRET_WORDS.iter().any(|word| argument.contains(word))
    {
        let hint = "what is secret, or may hold a secret, has no flag, since every user of this machine can read its command \
                    lines: put it into a file or a variable";
        let _ = writeln!(io::stderr(), "\n{hint}");
    }
    if error.use_stderr() {
        ExitCode::from(USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

/// Writes an answer to stdout: in JSON, or as a person reads it.
///
/// # Errors
/// If nobody reads it.
pub fn print_answer(is_json: bool, answer: &(impl Serialize + Display)) -> Result<(), Exit> {
    if is_json {
        let json = serde_json::to_string_pretty(answer).map_err(Exit::failure)?;
        return print(&(json + "\n"));
    }
    print(&answer.to_string())
}

/// Writes to stdout what the operator asked for.
///
/// # Errors
/// If nobody reads it.
pub fn print(text: &str) -> Result<(), Exit> {
    io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(|error| Exit::failure(format!("writing to stdout: {error}")))
}
