//! `rules test`: cases kept beside an accept file, each a request and the verdict that is expected.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use accept_rules::List;
use broker_process::exit::Exit;
use broker_process::settings::{Document, Node, SettingsError};
use bytes::Bytes;
use clap::{Arg, ArgMatches, Command, value_parser};
use http::{HeaderMap, Method};
use serde::Serialize;
use serde_json::Value;

use super::Surroundings;
use super::accept::{Subject, file_argument};
use super::described::{self, Headers};
use super::judge::{Asked, Verdict, judge};
use super::report::{self, Report};
use crate::config::reading_arguments;

pub(super) fn command() -> Command {
    Command::new("test")
        .about("Run the cases kept beside an accept file: requests, and the verdict that each must get")
        .long_about(
            "Run the cases kept beside an accept file. The cases are a YAML list; each has \"request\", which is \
             \"METHOD URL\" or an object of \"method\", \"url\", \"headers\", \"body\" and \"caller\", and \"expect\", \
             which is allow or deny. It may have \"name\"; \"list\", which is private unless given; \"rule\", the index \
             of the rule that must allow it; \"reason\", the code that it must be denied with; and \"at\", the time of \
             the request.",
        )
        .after_help(
            "Exit code: 0 when every case passes; 1 when one fails; 64 for files that cannot be used.\n\nExample:\n  \
             broker-client rules test accept.json\n\nwith accept.tests.yaml beside it:\n  \
             - {name: issues can be read, request: GET /api/issues/search?p=1, expect: allow, rule: 0}\n  \
             - {name: nobody is created, request: POST /api/users/create, expect: deny}",
        )
        .arg(file_argument().required(true))
        .arg(
            Arg::new("cases")
                .long("cases")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("The cases; without it the accept file's name with .tests.yaml for its extension"),
        )
        .args(reading_arguments())
}

pub(super) fn run(arguments: &ArgMatches, surroundings: Surroundings<'_>) -> Result<(), Exit> {
    let accept = Subject::of_arguments(arguments, surroundings)?;
    let path = match arguments.get_one::<PathBuf>("cases") {
        Some(path) => path.clone(),
        None => accept.file.path.with_extension("tests.yaml"),
    };
    let cases = load(&path)?;
    let outcome = Outcome::of(cases, &accept, &path);
    report::print(arguments, &outcome)?;
    if outcome.failures.is_empty() {
        Ok(())
    } else {
        Err(Exit::negative())
    }
}

/// A request, and what must become of it.
struct Case {
    name: Option<String>,
    list: List,
    asked: Asked,
    expected: Expected,
}

/// What must become of a request.
#[derive(Serialize)]
struct Expected {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Expected {
    fn is_met_by(&self, verdict: &Verdict) -> bool {
        self.verdict == verdict.word()
            && (self.rule.is_none() || self.rule == verdict.rule())
            && self
                .reason
                .as_deref()
                .is_none_or(|reason| reason == verdict.reason())
    }
}

/// How a run of all cases went.
#[derive(Serialize)]
struct Outcome {
    accept_file: String,
    cases_file: String,
    cases: usize,
    passed: usize,
    failures: Vec<Failure>,
}

#[derive(Serialize)]
struct Failure {
    /// The case's place in the file.
    case: usize,
    name: Option<String>,
    method: String,
    path: String,
    list: String,
    expected: Expected,
    got: Report,
}

impl Outcome {
    fn of(cases: Vec<Case>, accept: &Subject, path: &Path) -> Self {
        let [private, public] = [List::Private, List::Public].map(|list| accept.list(list));
        let count = cases.len();
        let judged = cases.into_iter().enumerate().filter_map(|(index, case)| {
            let rules = match case.list {
                List::Private => &private,
                List::Public => &public,
            };
            let method = case.asked.method.to_string();
            let path = case
                .asked
                .target
                .split('?')
                .next()
                .unwrap_or_default()
                .to_owned();
            let verdict = judge(rules, accept.reading.rules.body_limit, case.asked);
            (!case.expected.is_met_by(&verdict)).then(|| Failure {
                case: index,
                name: case.name,
                method,
                path,
                list: case.list.to_string(),
                expected: case.expected,
                got: Report::new(rules, &verdict),
            })
        });
        let failures: Vec<_> = judged.collect();
        Self {
            accept_file: accept.file.path.display().to_string(),
            cases_file: path.display().to_string(),
            cases: count,
            passed: count - failures.len(),
            failures,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{}: {failure}", self.cases_file)?;
        }
        let Self {
            cases,
            passed,
            failures,
            ..
        } = self;
        writeln!(
            f,
            "{cases} cases: {passed} passed, {} failed",
            failures.len()
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            case, method, path, ..
        } = self;
        write!(f, "[{case}]")?;
        if let Some(name) = &self.name {
            write!(f, " {name:?}")?;
        }
        write!(
            f,
            ": {method} {path}: expected {}, but it is {}",
            self.expected, self.got
        )
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verdict)?;
        if let Some(rule) = self.rule {
            write!(f, " by rule {rule}")?;
        }
        match &self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

fn load(path: &Path) -> Result<Vec<Case>, Exit> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path)
        .map_err(|error| Exit::usage(format!("{name}: the cases cannot be read: {error}")))?;
    read(&name, &text).map_err(Exit::usage)
}

fn read(name: &str, text: &str) -> Result<Vec<Case>, SettingsError> {
    let document = Document::parse(name, text)?;
    let root = document.root();
    let nodes = root.items();
    if root.is_list() && nodes.is_empty() || root.is_nothing() {
        root.problem("there is no case");
    }
    let cases: Vec<_> = nodes.iter().map(case).collect();
    document.finish()?;
    // What is missing here was noted as a problem.
    Ok(cases.into_iter().flatten().collect())
}

fn case(node: &Node<'_>) -> Option<Case> {
    let fields = node.fields(&["name", "list", "request", "expect", "rule", "reason", "at"]);
    if !node.is_map() {
        return None;
    }
    let missing = |what: &str| node.problem(format!("{what} is missing"));
    let list = fields
        .get("list")
        .map_or(Some(List::Private), |node| node.read(str::parse));
    let time = fields
        .get("at")
        .map_or_else(|| Some(SystemTime::now()), |node| node.read(time));
    let asked = match fields.get("request") {
        Some(node) => request(node),
        None => {
            missing("\"request\"");
            None
        }
    };
    let verdict = match fields.get("expect") {
        Some(node) => node.read(verdict),
        None => {
            missing("\"expect\"");
            None
        }
    };
    let rule = fields.get("rule").map(|node| (node, node.read(index)));
    let reason = fields.get("reason").map(|node| (node, node.text()));
    match (verdict, &rule, &reason) {
        (Some("deny"), Some((node, _)), _) => {
            node.problem("no rule denies (leave it out, or expect allow)")
        }
        (Some("allow"), _, Some((node, _))) => {
            node.problem("only a denial has a reason (leave it out, or expect deny)")
        }
        _ => {}
    }
    Some(Case {
        name: fields.get("name").and_then(Node::text),
        list: list?,
        asked: Asked {
            time: time?,
            ..asked?
        },
        expected: Expected {
            verdict: verdict?,
            rule: rule.and_then(|(_, rule)| rule),
            reason: reason.and_then(|(_, reason)| reason),
        },
    })
}

/// `METHOD URL`, or an object.
fn request(node: &Node<'_>) -> Option<Asked> {
    if !node.is_map() {
        return node.read(|text| {
            let (method, target) = text
                .split_once(' ')
                .ok_or_else(|| "expected \"METHOD URL\", such as \"GET /api/issues\"".to_owned())?;
            Ok::<_, String>(asked(described::method(method)?, target.trim_start()))
        });
    }
    let fields = node.fields(&["method", "url", "headers", "body", "caller"]);
    let method = fields
        .get("method")
        .map_or(Some(Method::GET), |node| node.read(described::method));
    let headers = fields
        .get("headers")
        .map_or_else(|| Some(Headers::default()), Node::deserialize);
    let body = fields
        .get("body")
        .map_or(Some(Value::Null), Node::deserialize);
    let Some(url) = fields.get("url") else {
        node.problem("\"url\" is missing");
        return None;
    };
    Some(Asked {
        headers: headers?.0,
        body: described::body(&body?),
        caller: fields
            .get("caller")
            .and_then(Node::text)
            .unwrap_or_default(),
        ..asked(method?, &url.text()?)
    })
}

fn asked(method: Method, target: &str) -> Asked {
    Asked {
        method,
        target: target.to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        caller: String::new(),
        time: SystemTime::now(),
    }
}

fn verdict(text: &str) -> Result<&'static str, &'static str> {
    match text {
        "allow" => Ok("allow"),
        "deny" => Ok("deny"),
        _ => Err("unknown verdict (use allow or deny)"),
    }
}

fn index(text: &str) -> Result<usize, &'static str> {
    text.parse()
        .map_err(|_| "no index of a rule (the first rule is 0)")
}

fn time(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text)
        .map_err(|_| format!("{text:?} is no time (write one such as 2026-11-24T12:00:00Z)"))
}
