//! The server's program: arguments, settings, log, signals, exit code.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use broker_process::bind::bind;
use broker_process::exit::{self, Exit};
use broker_process::hardening;
use broker_process::logging;
use broker_process::settings::{self, Environment};
use broker_process::signals::Shutdown;
use broker_process::threads;
use broker_protocol::TokenKind;
use broker_server::config::{
    ADMIN_LISTEN, AGENTS_LISTEN, CALLERS_LISTEN, Config, TABLE, development_folder, run_command,
};
use broker_server::dev::DevServer;
use broker_server::server::{Listeners, Server};
use broker_server::token::{self, TokenFormat};
use clap::{Arg, ArgAction, ArgMatches, Command};

const PROGRAM: &str = "broker-server";

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
        Some(("token", arguments)) => new_token(arguments),
        _ => exit::print(&settings::markdown(PROGRAM, &TABLE)),
    };
    exit::finish(PROGRAM, outcome)
}

fn command() -> Command {
    let kind = Arg::new("kind")
        .required(true)
        .value_parser(["agent", "caller"])
        .help("Whom the secret admits");
    let json = Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Answer in JSON");
    let new = Command::new("new")
        .about("Make a secret; it is shown once, with the digest for the settings file")
        .args([kind, json]);
    Command::new(PROGRAM)
        .version(env!("CARGO_PKG_VERSION"))
        .about("The broker's public end: relays callers' requests to the agents that dialled in")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(run_command())
        .subcommand(
            Command::new("token")
                .about("Secrets of agents and callers")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(new),
        )
        .subcommand(
            Command::new("settings").about("Print the reference of all settings, in Markdown"),
        )
}

fn run(arguments: &ArgMatches) -> Result<(), Exit> {
    let (config, dev) = load(arguments, Environment::capture(), &working_folder()?)?;
    let _log = logging::start(&config.log).map_err(Exit::usage)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = threads::runtime(config.threads).map_err(Exit::failure)?;
    runtime.block_on(serve(config, dev)).map_err(Exit::logged)
}

/// The settings, and the development server that made them where the operator named none.
fn load(
    arguments: &ArgMatches,
    environment: Environment,
    folder: &Path,
) -> Result<(Config, Option<DevServer>), Exit> {
    let Some(dev_folder) =
        development_folder(arguments, &environment, folder).map_err(Exit::usage)?
    else {
        let config = Config::load(arguments, &environment, folder).map_err(Exit::usage)?;
        return Ok((config, None));
    };
    let dev = DevServer::prepare(&dev_folder).map_err(Exit::usage)?;
    let config = dev
        .load(arguments, environment, folder)
        .map_err(Exit::usage)?;
    Ok((config, Some(dev)))
}

async fn serve(config: Config, dev: Option<DevServer>) -> Result<(), Exit> {
    let shutdown = Shutdown::listen().map_err(Exit::failure)?;
    let [agents, callers, admin] = [
        config.agents_listener.listen,
        config.callers_listener.listen,
        config.admin_listener.listen,
    ];
    let server = Server::new(config).map_err(Exit::usage)?;
    let listeners = Listeners {
        agents: bind(&AGENTS_LISTEN, agents).await.map_err(Exit::failure)?,
        callers: bind(&CALLERS_LISTEN, callers)
            .await
            .map_err(Exit::failure)?,
        admin: bind(&ADMIN_LISTEN, admin).await.map_err(Exit::failure)?,
    };
    let [agents, callers, admin] = addresses(&listeners).map_err(Exit::failure)?;
    tracing::info!(%agents, %callers, %admin, "listening");
    if let Some(dev) = dev {
        exit::print(&dev.instructions(agents, callers, admin))?;
    }
    shutdown
        .run(|requested| server.run(listeners, requested))
        .await;
    Ok(())
}

/// Where the listeners are: the system chose the port where the settings say 0.
fn addresses(listeners: &Listeners) -> io::Result<[SocketAddr; 3]> {
    Ok([
        listeners.agents.local_addr()?,
        listeners.callers.local_addr()?,
        listeners.admin.local_addr()?,
    ])
}

fn new_token(arguments: &ArgMatches) -> Result<(), Exit> {
    let Some(("new", arguments)) = arguments.subcommand() else {
        return Err(Exit::usage(
            "`token new agent` and `token new caller` make secrets",
        ));
    };
    let kind = match arguments.get_one::<String>("kind").map(String::as_str) {
        Some("agent") => TokenKind::Agent,
        _ => TokenKind::Caller,
    };
    let format = if arguments.get_flag("json") {
        TokenFormat::Json
    } else {
        TokenFormat::Text
    };
    token::write_new(kind, format, &mut io::stdout().lock())
        .map_err(|error| Exit::failure(format!("writing to stdout: {error}")))
}

fn working_folder() -> Result<PathBuf, Exit> {
    std::env::current_dir()
        .map_err(|error| Exit::failure(format!("the working folder cannot be told: {error}")))
}
