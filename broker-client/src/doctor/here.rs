//! What can be seen without the network: rules, credentials, the data folder, the agent that may be running.

use std::collections::BTreeMap;

use accept_rules::List;

use super::report::{Check, Section, Stop, Verdict};
use crate::accept_file::AcceptFile;
use crate::agent::CUT_REGULARLY;
use crate::config::{Accept, Config};
use crate::control::{FetchStatusError, fetch_status};
use crate::instance::{Instance, InstanceError};
use crate::rules::Rules;
use crate::status::{StatusSnapshot, TunnelState};

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
    /// None where there is something wrong with them.
    pub(super) rules: Option<Rules>,
    /// Whether an agent runs here and has a tunnel.
    pub(super) is_connected: bool,
}

impl Here {
    pub(super) async fn look(config: &Config) -> Self {
        let mut section = Section::new("this machine".into(), HOPS);
        for warning in &config.warnings {
            section.warn("settings", warning);
        }
        if config.warnings.is_empty() {
            section.pass("settings", "all can be used");
        }
        let rules = rules(config, &mut section).ok();
        let running = fetch_status(&config.data, &config.instance).await;
        data_folder(config, running.is_ok(), &mut section);
        let is_connected = agent(running, &mut section);
        Self {
            section,
            rules,
            is_connected,
        }
    }
}

fn rules(config: &Config, section: &mut Section) -> Result<Rules, Stop> {
    let Accept::File(path) = &config.accept else {
        let rules =
            Rules::load(config).map_err(|error| section.fail("accept file", None, error))?;
        for warning in &rules.warnings {
            section.warn("accept file", warning);
        }
        section.pass("variables", "none are used");
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
        "{}, {} private and {} public rules, sha256 {}",
        path.display(),
        file.rules(List::Private).len(),
        file.rules(List::Public).len(),
        accept.sha256
    );
    section.pass("accept file", summary);
    let compiled = Rules::compile(config, &accept, None);
    let rules = compiled.map_err(|error| fail(section, "variables", error))?;
    for warning in &rules.warnings {
        section.warn("accept file", warning);
    }
    section.pass("variables", "all that the rules refer to are set");
    Ok(rules)
}

/// Asks each rule's credential for its value, as a request would.
pub(super) async fn credentials(rules: &Rules) -> Vec<Check> {
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
        let text = format!("{with} rules add one, and all can be had");
        return vec![Check::new("credentials", Verdict::Pass, None, text)];
    }
    let failed = failing.iter().map(|(why, rules)| {
        let text = format!("{why} (needed by {})", rules.join(", "));
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

/// What the running agent says; and whether it has a tunnel.
fn agent(running: Result<StatusSnapshot, FetchStatusError>, section: &mut Section) -> bool {
    let status = match running {
        Ok(status) => status,
        Err(error @ FetchStatusError::NotRunning { .. }) => {
            section.pass("agent", error);
            return false;
        }
        Err(error) => {
            section.warn("agent", error);
            return false;
        }
    };
    let is_up = |state: &TunnelState| matches!(state, TunnelState::Connected { .. });
    let up = status.tunnels.iter().filter(|tunnel| is_up(&tunnel.state));
    let up = up.count();
    let summary = format!(
        "runs, version {}, {up} of {} tunnels connected",
        status.about.version,
        status.tunnels.len()
    );
    if up > 0 {
        section.pass("agent", summary);
    } else {
        section.warn("agent", summary);
    }
    for tunnel in &status.tunnels {
        let Some(error) = &tunnel.last_error else {
            continue;
        };
        if !is_up(&tunnel.state) || error.code == CUT_REGULARLY {
            section.warn(
                "agent",
                format!("{} ({}): {}", error.time, error.code, error.text),
            );
        }
    }
    if let Some(refused) = &status.accept.refused {
        section.warn(
            "agent",
            format!(
                "keeps its former rules since {}: {}",
                refused.time, refused.text
            ),
        );
    }
    up > 0
}
