//! `broker-client doctor`: each hop of the way to the server and to the origins by name, whether it works, and what to do
//! where it does not.
//!
//! It goes the agent's own ways, by the agent's own code: what it says is what an agent with these settings meets. It
//! opens no tunnel, and disturbs no agent that runs.

mod egress;
mod here;
mod origins;
mod probes;
mod report;
mod server;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use broker_process::exit::{self, Exit};
use broker_process::settings::Environment;
use clap::{Arg, ArgAction, ArgMatches, Command};
use futures_util::future::join_all;
use tokio::runtime;

use self::egress::Egress;
pub(crate) use self::report::{Check, Verdict};
use self::report::{Report, Section, Stop};
use crate::config::{Config, Connection, TABLE};
use crate::proxy::ProxyWay;
use crate::rules::Rules;

/// The arguments of `broker-client doctor`.
#[must_use]
pub fn doctor_command() -> Command {
    let command = Command::new("doctor")
        .about("Check each hop to the server and to the origins, without or beside a running agent")
        .after_help(
            "Exit code: 0 where all works, with or without warnings; 1 where something fails; 64 for bad usage.\n\n\
             Examples:\n  broker-client doctor --config agent.yaml\n  broker-client doctor --egress",
        )
        .arg(
            Arg::new("egress")
                .long("egress")
                .action(ArgAction::SetTrue)
                .help("Print the hosts and ports that a firewall must let this machine reach, and check nothing"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Answer in JSON"),
        );
    TABLE.arguments(command)
}

/// Runs what [`doctor_command`] matched; relative paths of settings are relative to `folder`.
///
/// # Errors
/// 1 where something fails.
pub fn run(arguments: &ArgMatches, environment: Environment, folder: &Path) -> Result<(), Exit> {
    let is_json = arguments.get_flag("json");
    if arguments.get_flag("egress") {
        let config = Config::load(arguments, environment, folder).map_err(Exit::usage)?;
        let rules = Rules::load_all(&config, &config.connections).map_err(Exit::usage)?;
        return exit::print_answer(is_json, &Egress::of(&config, &rules));
    }
    let report = match Config::load(arguments, environment, folder) {
        Ok(config) => runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(Exit::failure)?
            .block_on(check(config)),
        Err(error) => {
            let mut section = Section::new("this machine".into(), here::HOPS);
            for problem in error.problems() {
                section.fail("settings", None, problem);
            }
            Report::new(vec![section.finish()])
        }
    };
    exit::print_answer(is_json, &report)?;
    if report.is_failure() {
        return Err(Exit::negative());
    }
    Ok(())
}

async fn check(mut config: Config) -> Report {
    let mut connections = std::mem::take(&mut config.connections);
    let secrets = connections.iter_mut().map(|each| each.secret.take());
    let secrets: Vec<_> = secrets.collect();
    let mut here = here::Here::look(&config, &connections).await;
    let parts = connections.iter().zip(&here.rules);
    let parts: Vec<_> = parts
        .filter_map(|(connection, rules)| Some((connection, Arc::clone(rules.as_ref()?))))
        .collect();
    let behind = join_all(parts.iter().map(async |(connection, rules)| {
        let whose = whose(&connections, connection);
        tokio::join!(
            here::credentials(&whose, rules),
            origins::check(&whose, rules)
        )
    }));
    let ways = connections
        .iter()
        .zip(secrets)
        .map(async |(connection, secret)| {
            let is_connected = here.is_connected(&connection.agent);
            let way = server::Way::new(&config, connection, secret);
            way.check(is_connected).await
        });
    let probes = probes::check(&config, &parts, here.is_running);
    let (behind, servers, probes) = tokio::join!(behind, join_all(ways), probes);
    let (credentials, origins): (Vec<_>, Vec<_>) = behind.into_iter().unzip();
    for check in credentials.into_iter().flatten() {
        here.section.add(check);
    }
    let mut sections = vec![here.section.finish()];
    sections.extend(servers.into_iter().chain(origins.into_iter().flatten()));
    sections.extend(probes);
    Report::new(sections)
}

/// Stands before what is about one connection alone; empty where there is but one.
fn whose(connections: &[Connection], connection: &Connection) -> String {
    if connections.len() > 1 {
        format!("{}: ", connection.agent)
    } else {
        String::new()
    }
}

/// The hops to a proxy, which are the first of every way through it.
async fn to_proxy(way: &ProxyWay, limit: Duration, section: &mut Section) -> Result<(), Stop> {
    let addresses = way.resolve(limit).await;
    let addresses = addresses.map_err(|error| section.fail("dns", Some(error.code()), &error))?;
    let found = shown_addresses(&addresses);
    section.pass(
        "dns",
        format!("{found}, the proxy, which resolves the name behind it"),
    );
    let touched = way.touch(limit).await;
    touched.map_err(|error| section.fail("tcp", Some(error.code()), &error))?;
    section.pass("tcp", way.proxy.url().host_and_port());
    Ok(())
}

fn shown_addresses(addresses: &[SocketAddr]) -> String {
    let addresses = addresses.iter().map(|address| address.ip().to_string());
    addresses.collect::<Vec<_>>().join(", ")
}
