//! What can be seen without the network: rules, credentials, the data folder, the agent that may be running.

use std::collections::BTreeMap;
use std::sync::Arc;

use accept_rules::List;
use broker_protocol::AgentName;

use super::report::{Check, Section, Stop, Verdict};
use super::whose;
use crate::accept_file::AcceptFile;
use crate::agent::CUT_REGULARLY;
use crate::config::{Accept, Config, Connection};
use crate::control::{AskError, fetch_status};
use crate::instance::{Instance, InstanceError};
use crate::rules::Rules;
use crate::status::{ConnectionStatus, StatusSnapshot, TunnelState};

pub(super) const HOPS: &[&str] = &[
    "settings",
    "accept file",
    "variables",
    "credentials",
    "data folder",
    "agent",
];

/// What was found, but for the credentials.
pub(super) struct Here {
    pub(super) section: Section,
    /// Of each connection; none where something is wrong with them.
    pub(super) rules: Vec<Option<Arc<Rules>>>,
    pub(super) is_running: bool,
    /// The agents that run here and have a tunnel.
    connected: Vec<String>,
}

impl Here {
    pub(super) async fn look(config: &Config, connections: &[Connection]) -> Self {
        let mut section = Section::new("this machine".into(), HOPS);
        for warning in &config.warnings {
            section.warn("settings", warning);
        }
        if config.warnings.is_empty() {
            section.pass("settings", "all can be used");
        }
        let mut rules: Vec<Option<Arc<Rules>>> = Vec::new();
        for connection in connections {
            let whose = whose(connections, connection);
            let others: Vec<_> = rules.iter().flatten().cloned().collect();
            // What is wrong stands in the section.
            let loaded = rules_of(config, connection, &whose, &others, &mut section).ok();
            rules.push(loaded.map(Arc::new));
        }
        let running = fetch_status(&config.data, &config.instance).await;
        let is_running = running.is_ok();
        data_folder(config, is_running, &mut section);
        let connected = agents(running, &mut section);
        Self {
            section,
            rules,
            is_running,
            connected,
        }
    }

    pub(super) fn is_connected(&self, agent: &AgentName) -> bool {
        self.connected.iter().any(|name| name == agent.as_str())
    }
}

fn rules_of(
    config: &Config,
    connection: &Connection,
    whose: &str,
    others: &[Arc<Rules>],
    section: &mut Section,
) -> Result<Rules, Stop> {
    let Accept::File(path) = &connection.accept else {
        let rules = Rules::load(config, connection, others)
            .map_err(|error| section.fail("accept file", None, error))?;
        for warning in &rules.warnings {
            section.warn("accept file", warning);
        }
        section.pass("variables", format!("{whose}none are used"));
        return Ok(rules);
    };
    let fail = |section: &mut Section, hop, error: crate::RulesError| {
        let file = error.file().display();
        let problems = error.problems().iter();
        let problems =
            problems.map(|problem| section.fail(hop, None, format!("{file}: {problem}")));
        problems.last().unwrap_or(Stop)
    };
    let read = AcceptFile::read(path)
        .and_then(|accept| Ok((accept.parse(config.rules.unknown_keys)?, accept)));
    let (file, accept) = read.map_err(|error| fail(section, "accept file", error))?;
    let summary = format!(
        "{whose}{}, {} private and {} public rules, sha256 {}",
        path.display(),
        file.rules(List::Private).len(),
        file.rules(List::Public).len(),
        accept.sha256
    );
    section.pass("accept file", summary);
    let compiled = Rules::compile(config, connection, &accept, others);
    let rules = compiled.map_err(|error| fail(section, "variables", error))?;
    for warning in &rules.warnings {
        section.warn("accept file", warning);
    }
    section.pass(
        "variables",
        format!("{whose}all that the rules refer to are set"),
    );
    Ok(rules)
}

/// Asks each rule's credential for its value, as a request would.
pub(super) async fn credentials(whose: &str, rules: &Rules) -> Vec<Check> {
    let mut with = 0;
    // By what is wrong, since many rules share one source.
    let mut failing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (index, _) in rules.set.indexed() {
        let Some(credential) = rules
            .route(index)
            .and_then(|route| route.credential.as_ref())
        else {
            continue;
        };
        with += 1;
        if let Err(unavailable) = credential.now().await {
            let rules = failing.entry(unavailable.to_string()).or_default();
            rules.push(format!("private[{index}]"));
        }
    }
    if failing.is_empty() {
        let text = format!("{whose}{with} rules add one, and all can be had");
        return vec![Check::new("credentials", Verdict::Pass, None, text)];
    }
    let failed = failing.iter().map(|(why, rules)| {
        let text = format!("{whose}{why} (needed by {})", rules.join(", "));
        Check::new(
            "credentials",
            Verdict::Fail,
            Some("credential-unavailable"),
            text,
        )
    });
    failed.collect()
}

fn data_folder(config: &Config, is_running: bool, section: &mut Section) {
    let folder = config.data.of_instance(&config.instance);
    if is_running {
        let text = format!("{}, in use by the running agent", folder.display());
        return section.pass("data folder", text);
    }
    match Instance::look(&config.data, &config.instance) {
        Ok(None) => section.pass("data folder", folder.display()),
        Ok(Some(warning)) => section.warn("data folder", warning),
        Err(error @ InstanceError::InUse { .. }) => section.warn("data folder", error),
        Err(error) => drop(section.fail("data folder", None, error)),
    }
}

/// What the running process says; and which of its agents have a tunnel.
fn agents(running: Result<StatusSnapshot, AskError>, section: &mut Section) -> Vec<String> {
    let status = match running {
        Ok(status) => status,
        Err(error @ AskError::NotRunning { .. }) => {
            section.pass("agent", error);
            return Vec::new();
        }
        Err(error) => {
            section.warn("agent", error);
            return Vec::new();
        }
    };
    for connection in &status.connections {
        agent(connection, &status.about.version, section);
    }
    let connected = status.connections.into_iter();
    let connected = connected.filter(|connection| connection.connected_tunnels() > 0);
    connected.map(|connection| connection.agent).collect()
}

fn agent(connection: &ConnectionStatus, version: &str, section: &mut Section) {
    let ConnectionStatus {
        agent,
        tunnels,
        accept,
        paused,
    } = connection;
    let up = connection.connected_tunnels();
    let summary = format!(
        "{agent} runs, version {version}, {up} of {} tunnels connected",
        tunnels.len()
    );
    if up > 0 {
        section.pass("agent", summary);
    } else {
        section.warn("agent", summary);
    }
    for pause in paused {
        let (what, reason) = (pause.shown(), &pause.reason);
        section.warn("agent", format!("{what} is paused: {reason}"));
    }
    for tunnel in tunnels {
        let Some(error) = &tunnel.last_error else {
            continue;
        };
        let is_up = matches!(tunnel.state, TunnelState::Connected { .. });
        if !is_up || error.code == CUT_REGULARLY {
            let (time, code, text) = (&error.time, &error.code, &error.text);
            section.warn("agent", format!("{agent}: {time} ({code}): {text}"));
        }
    }
    if let Some(refused) = &accept.refused {
        let (time, text) = (&refused.time, &refused.text);
        let text = format!("{agent} keeps its former rules since {time}: {text}");
        section.warn("agent", text);
    }
}
