//! The agent's program: arguments, settings, log, signals, exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use broker_client::Agent;
use broker_client::config::{
    Config, LOCAL_LISTEN, TABLE, run_command, status_command, status_target,
};
use broker_client::control::fetch_status;
use broker_client::doctor;
use broker_client::pause_command;
use broker_client::rules_command;
use broker_process::bind::bind;
use broker_process::exit::{self, Exit};
use broker_process::hardening;
use broker_process::logging;
use broker_process::settings::{self, Environment};
use broker_process::signals::{Hangup, Shutdown};
use broker_process::threads;
use broker_protocol::TokenKind;
use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::runtime;

const PROGRAM: &str = "broker-client";

fn main() -> ExitCode {
    if let Err(exit) = hardening::begin(&TokenKind::ALL.map(TokenKind::prefix)) {
        return exit::finish(PROGRAM, Err(exit));
    }
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return exit::after_arguments(&error),
    };
    let outcome = match matches.subcommand() {
        Some(("run", arguments)) => run(arguments),
        Some(("status", arguments)) => status(arguments),
        Some(("pause", arguments)) => pause(arguments),
        Some(("resume", arguments)) => resume(arguments),
        Some(("rules", arguments)) => rules(arguments),
        Some(("doctor", arguments)) => doctor(arguments),
        _ => exit::print(&settings::markdown(PROGRAM, &TABLE)),
    };
    exit::finish(PROGRAM, outcome)
}

fn command() -> Command {
    let json = Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Answer in JSON");
    Command::new(PROGRAM)
        .version(env!("CARGO_PKG_VERSION"))
        .about("The broker's agent: lets through what its accept file allows, and nothing else")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(run_command())
        .subcommand(status_command().arg(json))
        .subcommand(pause_command::pause_command())
        .subcommand(pause_command::resume_command())
        .subcommand(doctor::doctor_command())
        .subcommand(rules_command::rules_command())
        .subcommand(
            Command::new("settings").about("Print the reference of all settings, in Markdown"),
        )
}

fn run(arguments: &ArgMatches) -> Result<(), Exit> {
    let config =
        Config::load(arguments, Environment::capture(), &working_folder()?).map_err(Exit::usage)?;
    let _log = logging::start(&config.log).map_err(Exit::usage)?;
    let runtime = threads::runtime(config.threads).map_err(Exit::failure)?;
    let outcome = runtime.block_on(serve(config));
    // A thread that waits for a disk which does not answer must not keep the process.
    runtime.shutdown_background();
    outcome.map_err(Exit::logged)
}

async fn serve(config: Config) -> Result<(), Exit> {
    let shutdown = Shutdown::listen().map_err(Exit::failure)?;
    let hangup = Hangup::listen().map_err(Exit::failure)?;
    let listen = config.local_listen;
    let agent = Agent::new(config).map_err(Exit::usage)?;
    let local = bind(&LOCAL_LISTEN, listen).await.map_err(Exit::failure)?;
    let address = local.local_addr().map_err(Exit::failure)?;
    tracing::info!(local = %address, "listening");
    let reload = agent.reload_handle();
    shutdown
        .run(|requested| hangup.during(|| reload.now(), agent.run(local, requested)))
        .await
        .map_err(Exit::failure)
}

fn status(arguments: &ArgMatches) -> Result<(), Exit> {
    let (data, instance) = status_target(arguments, &Environment::capture(), &working_folder()?)
        .map_err(Exit::usage)?;
    let snapshot = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Exit::failure)?
        .block_on(fetch_status(&data, &instance))
        .map_err(Exit::failure)?;
    exit::print_answer(arguments.get_flag("json"), &snapshot)
}

fn pause(arguments: &ArgMatches) -> Result<(), Exit> {
    pause_command::pause(arguments, &Environment::capture(), &working_folder()?)
}

fn resume(arguments: &ArgMatches) -> Result<(), Exit> {
    pause_command::resume(arguments, &Environment::capture(), &working_folder()?)
}

fn rules(arguments: &ArgMatches) -> Result<(), Exit> {
    rules_command::run(arguments, &Environment::capture(), &working_folder()?)
}

fn doctor(arguments: &ArgMatches) -> Result<(), Exit> {
    doctor::run(arguments, Environment::capture(), &working_folder()?)
}

fn working_folder() -> Result<PathBuf, Exit> {
    std::env::current_dir()
        .map_err(|error| Exit::failure(format!("the working folder cannot be told: {error}")))
}
