//! A request out of the audit log: what was recorded, and what the rules say today.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use accept_rules::{DenyReason, Difference, KubernetesDifference, List, RuleIndex, RuleSet};
use broker_process::exit::Exit;
use broker_protocol::AgentName;
use bytes::Bytes;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, value_parser};
use http::{HeaderMap, Method};
use serde::Serialize;

use super::Surroundings;
use super::accept::Subject;
use super::judge::{Asked, Verdict, judge};
use super::report::{self, Report, ShownRule};
use crate::audit::{RecordedDecision, Wanted, last_decision};
use crate::config::{Accept, Which, accept_of, instance_arguments, named_agent, status_target};
use crate::instance::AUDIT_LOG;
use crate::status::row;

/// One of its arguments says which record is meant.
pub(super) const GROUP: &str = "record";

/// What is true of every record.
const NOT_RECORDED: &str = "the record holds no value of the query, no header and no body";

/// The arguments that say which record, in which log; they exclude `others`.
pub(super) fn arguments(others: &[&'static str]) -> Vec<Arg> {
    let request = Arg::new("request")
        .long("request")
        .value_name("ID")
        .help("The request with this id, from the audit log");
    let last_denied = Arg::new("last-denied")
        .long("last-denied")
        .action(ArgAction::SetTrue)
        .help("The last request that was denied, from the audit log");
    let audit = Arg::new("audit")
        .long("audit")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .requires(GROUP)
        .help("The audit log; without it, that of the instance");
    let mut arguments = vec![
        request.conflicts_with_all(others),
        last_denied.conflicts_with_all(others),
        audit,
    ];
    arguments.extend(instance_arguments());
    arguments
}

/// Exactly one of them, where any is wanted.
pub(super) fn group() -> ArgGroup {
    ArgGroup::new(GROUP).args(["request", "last-denied"])
}

pub(super) fn is_wanted(arguments: &ArgMatches) -> bool {
    arguments.contains_id("request") || arguments.get_flag("last-denied")
}

/// A record, and the accept file that is asked about it.
pub(super) struct Found {
    pub(super) decision: RecordedDecision,
    pub(super) list: List,
    /// `None` where an agent with these settings would deny everything.
    pub(super) accept: Option<Subject>,
}

impl Found {
    /// Reads both.
    pub(super) fn of(arguments: &ArgMatches, surroundings: Surroundings<'_>) -> Result<Self, Exit> {
        let agent = named_agent(arguments);
        let log = log_of(arguments, surroundings)?;
        let wanted = match arguments.get_one::<String>("request") {
            Some(id) => Wanted::Request(id),
            None => Wanted::LastDenial {
                agent: agent.map(AgentName::as_str),
            },
        };
        let decision = last_decision(&log, wanted)
            .map_err(|error| Exit::usage(format!(
                "audit log {}: cannot be read: {error} (name it with --audit, or its agent with --data-dir and --instance)",
                log.display()
            )))?
            .ok_or_else(|| not_found(&log, wanted))?;
        let which = agent.map_or(Which::Recorded(&decision.agent), Which::Named);
        let accept = match Subject::named_if_any(arguments) {
            Some(path) => Accept::File(path.to_owned()),
            None => accept_of(
                arguments,
                surroundings.environment,
                surroundings.folder,
                which,
            )
            .map_err(Exit::usage)?,
        };
        let accept = match accept {
            Accept::File(path) => Some(Subject::load(&path, arguments, surroundings, which)?),
            Accept::DenyAll => None,
        };
        let list = decision.list.parse().unwrap_or(List::Private);
        Ok(Self {
            decision,
            list,
            accept,
        })
    }

    /// Whether rules were asked at all; else the target was refused, and its path does not read as it came.
    pub(super) fn was_judged(&self) -> bool {
        let reason = self.decision.reason.as_str();
        reason == "match" || DenyReason::ALL.iter().any(|known| known.code() == reason)
    }

    /// The request as far as it was recorded.
    pub(super) fn asked(&self) -> Result<Asked, Exit> {
        let RecordedDecision {
            method,
            path,
            caller,
            ..
        } = &self.decision;
        let method: Method = method.parse().map_err(|_| {
            Exit::failure(format!(
                "the record's method {method:?} is cut off or none at all"
            ))
        })?;
        Ok(Asked {
            method,
            target: path.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            caller: caller.clone().unwrap_or_default(),
            time: SystemTime::now(),
        })
    }

    /// What the accept file says of it today.
    pub(super) fn today(&self, accept: &Subject) -> Result<Today, Exit> {
        let mut rules = accept.list(self.list);
        let mut conditional = Vec::new();
        loop {
            let verdict = judge(&rules, accept.reading.rules.body_limit, self.asked()?);
            match self.conditional_rule(&rules, &verdict) {
                Some(rule) if !conditional.contains(&rule) => {
                    conditional.push(rule);
                    // What would be decided without it?
                    rules.disable(rule);
                }
                _ => {
                    return Ok(Today {
                        rules,
                        verdict,
                        conditional,
                    });
                }
            }
        }
    }

    /// The rule whose word depends on what is not recorded.
    fn conditional_rule(&self, rules: &RuleSet, verdict: &Verdict) -> Option<RuleIndex> {
        // A Kubernetes rule reads the verb and the name out of the query too.
        let lacks_values = !self.decision.query.is_empty();
        match verdict {
            Verdict::Allowed(index) => {
                let rule = rules.rules().get(index.as_usize())?;
                let depends =
                    rule.has_conditions() || (lacks_values && rule.kubernetes().is_some());
                depends.then_some(*index)
            }
            Verdict::Denied(denied) => {
                let nearest = denied.nearest()?;
                let depends = match nearest.difference() {
                    Difference::Query { .. }
                    | Difference::Header { .. }
                    | Difference::Body { .. }
                    | Difference::UnreadableBody(_) => true,
                    Difference::Kubernetes(
                        KubernetesDifference::Verb | KubernetesDifference::Name,
                    ) => lacks_values,
                    _ => false,
                };
                depends.then(|| nearest.rule())
            }
            Verdict::Ambiguous(_) => None,
        }
    }
}

/// What an accept file says of a recorded request.
pub(super) struct Today {
    /// The list, without `conditional`.
    pub(super) rules: RuleSet,
    /// What it decides.
    pub(super) verdict: Verdict,
    /// Rules that may allow it as well: they match but for conditions on what is not recorded.
    pub(super) conditional: Vec<RuleIndex>,
}

/// `rules explain` of a record.
pub(super) fn explain(arguments: &ArgMatches, surroundings: Surroundings<'_>) -> Result<(), Exit> {
    let found = Found::of(arguments, surroundings)?;
    let today = TodayReport::new(&found)?;
    report::print(
        arguments,
        &Explanation {
            accept_file: found
                .accept
                .map(|accept| accept.file.path.display().to_string()),
            recorded: found.decision,
            today,
        },
    )
}

#[derive(Serialize)]
struct Explanation {
    recorded: RecordedDecision,
    accept_file: Option<String>,
    today: TodayReport,
}

#[derive(Serialize)]
#[serde(untagged)]
enum TodayReport {
    Settled(Report),
    Depends {
        verdict: &'static str,
        /// These allow it, the first whose conditions hold.
        allowed_if: Vec<ShownRule>,
        otherwise: Report,
    },
    Unasked {
        verdict: &'static str,
        reason: String,
        problem: &'static str,
    },
}

impl TodayReport {
    fn new(found: &Found) -> Result<Self, Exit> {
        let denied = |problem| Self::Unasked {
            verdict: "deny",
            reason: found.decision.reason.clone(),
            problem,
        };
        let Some(accept) = found.accept.as_ref() else {
            return Ok(denied("there is no accept file, so everything is denied"));
        };
        if !found.was_judged() {
            return Ok(denied("such a target is refused before any rule is asked"));
        }
        let Today {
            rules,
            verdict,
            conditional,
        } = found.today(accept)?;
        let report = Report::new(&rules, &verdict);
        if conditional.is_empty() || matches!(verdict, Verdict::Allowed(_)) {
            return Ok(Self::Settled(report));
        }
        let shown = conditional
            .iter()
            .filter_map(|rule| ShownRule::of(&rules, *rule));
        Ok(Self::Depends {
            verdict: "depends",
            allowed_if: shown.collect(),
            otherwise: report,
        })
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecordedDecision {
            time,
            request_id,
            agent,
            caller,
            method,
            path,
            query,
            ..
        } = &self.recorded;
        row(
            f,
            "request",
            &format!("{request_id}, {time}, agent {agent}"),
        )?;
        row(f, "asked", &format!("{method} {path}"))?;
        if !query.is_empty() {
            row(f, "query", &query.join(", "))?;
        }
        row(f, "caller", caller.as_deref().unwrap_or("not named"))?;
        row(f, "recorded", &recorded_verdict(&self.recorded))?;
        match &self.today {
            TodayReport::Settled(report) => row(f, "today", &report.to_string())?,
            TodayReport::Depends { allowed_if, .. } => {
                row(
                    f,
                    "today",
                    "it depends on what is not recorded; allowed, if its conditions hold, by",
                )?;
                for rule in allowed_if {
                    row(f, "", &rule.to_string())?;
                }
            }
            TodayReport::Unasked { problem, .. } => row(f, "today", &format!("denied: {problem}"))?,
        }
        if let Some(path) = &self.accept_file {
            row(f, "accept file", path)?;
        }
        row(f, "note", NOT_RECORDED)
    }
}

fn recorded_verdict(decision: &RecordedDecision) -> String {
    let place = |rule: usize| format!("{}[{rule}] of the file at that time", decision.list);
    let reason = &decision.reason;
    match (decision.rule, &decision.origin, &decision.nearest) {
        (Some(rule), Some(origin), _) => format!("allowed by {}, to {origin}", place(rule)),
        (Some(rule), None, _) => format!("allowed by {}", place(rule)),
        (None, _, Some(nearest)) => {
            let place = place(nearest.rule);
            format!("denied ({reason}): nearest was {place}: {}", nearest.detail)
        }
        (None, _, None) => format!("denied ({reason})"),
    }
}

/// The audit log that is meant.
fn log_of(arguments: &ArgMatches, surroundings: Surroundings<'_>) -> Result<PathBuf, Exit> {
    if let Some(log) = arguments.get_one::<PathBuf>("audit") {
        return Ok(log.clone());
    }
    let (data, instance) = status_target(arguments, surroundings.environment, surroundings.folder)
        .map_err(Exit::usage)?;
    Ok(data.of_instance(&instance).join(AUDIT_LOG))
}

fn not_found(log: &Path, wanted: Wanted<'_>) -> Exit {
    let log = log.display();
    let rotated = "an older log can be named with --audit";
    Exit::failure(match wanted {
        Wanted::Request(id) => {
            format!("audit log {log}: no decision on the request {id:?} ({rotated})")
        }
        Wanted::LastDenial { agent } => {
            let of_agent = agent.map_or(String::new(), |agent| format!(" to {agent}"));
            format!("audit log {log}: no request{of_agent} was denied ({rotated})")
        }
    })
}
