//! `broker-client pause` and `resume`: the owner's switch, by the control socket of the running agent.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use broker_process::exit::{self, Exit};
use broker_process::settings::{Environment, duration};
use broker_protocol::AgentName;
use clap::{Arg, ArgMatches, Command, value_parser};
use tokio::runtime;

use crate::config::{TABLE, agent_argument, instance_arguments, named_agent, status_target};
use crate::control::{self, AskError};
use crate::pause::{Pause, PauseOrder, PauseReport, Selection};

/// The arguments of `broker-client pause`.
#[must_use]
pub fn pause_command() -> Command {
    let reason = Arg::new("reason")
        .long("reason")
        .value_name("TEXT")
        .required(true)
        .help("Why; it goes on record");
    let time = Arg::new("for")
        .long("for")
        .value_name("TIME")
        .value_parser(duration)
        .help("How long, such as 2h; without it, until it is resumed");
    selecting(Command::new("pause"))
        .about("Let nothing pass any more: close the tunnels and cut what is in flight, or pause one rule")
        .after_help(
            "It survives restarts. While another accept file than the one of a paused rule is in force, nothing passes.\n\n\
             Exit code: 0 when it is paused; 1 when not, or when it cannot be saved or put on record.\n\nExamples:\n  \
             broker-client pause --reason 'suspicious requests, ticket 4711'\n  \
             broker-client pause --rule 3 --for 2h --reason 'migration of the issue tracker'",
        )
        .arg(reason)
        .arg(time)
}

/// The arguments of `broker-client resume`.
#[must_use]
pub fn resume_command() -> Command {
    selecting(Command::new("resume"))
        .about("End what `pause` began")
        .after_help(
            "Without further words the pauses of agents end, and those of single rules stay.\n\n\
             Exit code: 0 when it is resumed, 1 when not.",
        )
}

fn selecting(command: Command) -> Command {
    let rule = Arg::new("rule")
        .long("rule")
        .value_name("N")
        .value_parser(value_parser!(usize))
        .help("One rule: its position in `private`, from zero");
    command
        .arg(rule)
        .arg(
            agent_argument()
                .help("One agent, where the process is several; without it, all of them"),
        )
        .args(TABLE.config.argument())
        .args(instance_arguments())
}

/// Runs what [`pause_command`] matched.
///
/// # Errors
/// 1 where it is not paused, or not for good.
pub fn pause(arguments: &ArgMatches, environment: &Environment, folder: &Path) -> Result<(), Exit> {
    let time = arguments.get_one::<Duration>("for");
    let order = PauseOrder {
        selection: selection(arguments),
        reason: arguments
            .get_one::<String>("reason")
            .cloned()
            .unwrap_or_default(),
        for_ms: time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    };
    let (data, instance) = status_target(arguments, environment, folder).map_err(Exit::usage)?;
    let report = ask(control::pause(&data, &instance, &order))?;
    let mut text = String::new();
    for pause in &report.changed {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "paused {}", shown(pause));
    }
    exit::print(&text)?;
    match report.warnings.as_slice() {
        [] => Ok(()),
        warnings => Err(Exit::failure(warnings.join("\n"))),
    }
}

/// Runs what [`resume_command`] matched.
///
/// # Errors
/// 1 where nothing is resumed.
pub fn resume(
    arguments: &ArgMatches,
    environment: &Environment,
    folder: &Path,
) -> Result<(), Exit> {
    let (data, instance) = status_target(arguments, environment, folder).map_err(Exit::usage)?;
    let report = ask(control::resume(&data, &instance, &selection(arguments)))?;
    let mut text = String::new();
    for pause in &report.changed {
        let _ = writeln!(text, "resumed {}", pause.shown());
    }
    for pause in &report.paused {
        let _ = writeln!(text, "still paused: {}", shown(pause));
    }
    exit::print(&text)
}

fn selection(arguments: &ArgMatches) -> Selection {
    Selection {
        agent: named_agent(arguments).map(AgentName::to_string),
        rule: arguments.get_one("rule").copied(),
    }
}

fn shown(pause: &Pause) -> String {
    let until = match pause.until {
        Some(until) => format!("until {}", humantime::format_rfc3339_seconds(until)),
        None => "until it is resumed".to_owned(),
    };
    format!("{} {until}: {}", pause.shown(), pause.reason)
}

fn ask(asking: impl Future<Output = Result<PauseReport, AskError>>) -> Result<PauseReport, Exit> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime.map_err(Exit::failure)?.block_on(asking);
    answer.map_err(|error| match error {
        AskError::NotRunning { .. } => Exit::failure(format!(
            "{error}\nan agent that does not run, or has no data folder, is paused by its settings: `paused: true` or \
             BROKER_PAUSED=true, and a restart"
        )),
        error => Exit::failure(error),
    })
}
