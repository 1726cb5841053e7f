//! `broker-client rules …`: what an accept file allows and why, told without an agent. Nothing is sent, and no file is
//! written.
//!
//! Every command that judges a request asks `judge.rs`, and that takes the agent's own steps.

mod accept;
mod cases;
mod check;
mod convert;
mod described;
mod eval;
mod explain;
mod judge;
mod recorded;
mod report;
mod suggest;

use std::path::Path;

use accept_rules::SCHEMA;
use broker_process::exit::{self, Exit};
use broker_process::settings::Environment;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// The arguments of `broker-client rules`.
#[must_use]
pub fn rules_command() -> Command {
    let json = Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .global(true)
        .help("Answer in JSON");
    Command::new("rules")
        .about("Check an accept file, ask it, test it")
        .long_about(
            "Check an accept file, ask it, test it. None of these commands needs an agent or the values of the file's \
             variables; none sends anything or writes a file.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(json)
        .subcommand(check::command())
        .subcommand(explain::command())
        .subcommand(suggest::command())
        .subcommand(eval::command())
        .subcommand(cases::command())
        .subcommand(convert::command())
        .subcommand(
            Command::new("schema").about("Print the JSON Schema of accept files, for editors"),
        )
}

/// Runs what [`rules_command`] matched; relative paths of settings are relative to `folder`.
///
/// # Errors
/// 64 for what cannot be used, 1 where the answer is no.
pub fn run(arguments: &ArgMatches, environment: &Environment, folder: &Path) -> Result<(), Exit> {
    let surroundings = Surroundings {
        environment,
        folder,
    };
    match arguments.subcommand() {
        Some(("check", arguments)) => check::run(arguments, surroundings),
        Some(("explain", arguments)) => explain::run(arguments, surroundings),
        Some(("suggest", arguments)) => suggest::run(arguments, surroundings),
        Some(("eval", arguments)) => eval::run(arguments, surroundings),
        Some(("test", arguments)) => cases::run(arguments, surroundings),
        Some(("convert", arguments)) => convert::run(arguments),
        Some(_) => exit::print(SCHEMA),
        None => Err(Exit::usage("name one of the commands of `rules`")),
    }
}

/// What a command is run in.
#[derive(Clone, Copy)]
struct Surroundings<'a> {
    environment: &'a Environment,
    /// What relative paths are relative to.
    folder: &'a Path,
}
