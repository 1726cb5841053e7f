//! What a program does before it reads anything secret.

use std::ffi::OsString;
use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::exit::Exit;

/// Sees to it that this process's memory is written to no core dump and read by no other process of its user, and that
/// its arguments hold none of the secrets that begin with one of `marks`.
///
/// # Errors
/// If the system does not grant the one, or the operator has done the other.
pub fn begin(marks: &[&str]) -> Result<(), Exit> {
    refuse_secrets(std::env::args_os(), marks)?;
    forbid_dumps()
        .map_err(|error| Exit::failure(format!("core dumps cannot be turned off: {error}")))
}

/// Core dumps hold all credentials; so does what a debugger reads, which is the same permission (prctl(2),
/// `PR_SET_DUMPABLE`).
fn forbid_dumps() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    // Also where the limit does not count: a pipe in core_pattern is asked whatever it is (core(5)).
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn refuse_secrets(
    arguments: impl IntoIterator<Item = OsString>,
    marks: &[&str],
) -> Result<(), Exit> {
    let holds_secret = |argument: &OsString| {
        let argument = argument.to_string_lossy();
        marks.iter().any(|mark| argument.contains(mark))
    };
    match arguments
        .into_iter()
        .position(|argument| holds_secret(&argument))
    {
        None => Ok(()),
        Some(place) => Err(Exit::usage(format!(
            "argument {place} holds a broker secret, and every user of this machine can read it there (take it for lost: make \
             another one by `broker-server token new`, put it into a file, and name that, as in --secret-file)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_the_arguments_is_refused_and_not_repeated() {
        let refused = |arguments: &[&str]| {
            let arguments = arguments.iter().map(OsString::from);
            let exit = refuse_secrets(arguments, &["brk_agent_"]).err()?;
            Some(format!("{exit:?}"))
        };
        assert_eq!(refused(&["broker-client", "run", "--agent", "brk"]), None);
        let shown = refused(&["broker-client", "run", "--secret=brk_agent_0123"]).unwrap();
        assert!(
            shown.contains("argument 2 holds a broker secret"),
            "{shown}"
        );
        assert!(!shown.contains("0123"), "{shown}");
    }
}
