//! Exit codes.

use std::process::ExitCode;

/// Bad usage or configuration; nothing was started and no port was opened. The number is `EX_USAGE` of sysexits.h.
pub const USAGE: u8 = 64;

/// Prints what clap has to say, help or a refusal, and gives the exit code that belongs to it.
#[must_use]
pub fn after_arguments(error: &clap::Error) -> ExitCode {
    // Nothing is left to do where even the terminal is gone.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(USAGE)
    } else {
        ExitCode::SUCCESS
    }
}
