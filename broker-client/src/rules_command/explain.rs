//! `rules explain`: which rule allows a request, or what keeps it from being allowed.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::time::SystemTime;

use broker_process::exit::Exit;
use bytes::Bytes;
use clap::{Arg, ArgAction, ArgMatches, Command};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

use super::Surroundings;
use super::accept::{Subject, file_argument, list_argument, list_of};
use super::described;
use super::judge::{Asked, Verdict, judge};
use super::recorded;
use super::report::{self, Report};
use crate::config::reading_arguments;

pub(super) fn command() -> Command {
    Command::new("explain")
        .about("Say which rule allows a request, or which comes nearest and what differs")
        .long_about(
            "Say which rule allows a request, or which comes nearest and what differs. The request is described by \
             METHOD and URL, or taken from the audit log by --request or --last-denied.",
        )
        .override_usage(
            "broker-client rules explain [OPTIONS] FILE METHOD URL\n       \
             broker-client rules explain [OPTIONS] --request ID | --last-denied [FILE]",
        )
        .after_help(
            "Exit code: 0 when the request is allowed, 1 when it is denied. With --request or --last-denied: 0 when the \
             record was found, 1 when not. 64 for what cannot be used.\n\nExamples:\n  \
             broker-client rules explain accept.json GET '/api/issues/search?p=1'\n  \
             broker-client rules explain accept.json POST /hook --header 'content-type: application/json' --body @hook.json\n  \
             broker-client rules explain --last-denied",
        )
        .arg(file_argument().required_unless_present(recorded::GROUP))
        .arg(
            Arg::new("method")
                .value_name("METHOD")
                .value_parser(described::method)
                .required_unless_present(recorded::GROUP)
                .help("The method, such as GET"),
        )
        .arg(
            Arg::new("url")
                .value_name("URL")
                .required_unless_present(recorded::GROUP)
                .help("Path and query, exactly as they are sent; of a whole URL the rest is not looked at"),
        )
        .arg(
            Arg::new("header")
                .long("header")
                .short('H')
                .value_name("'NAME: VALUE'")
                .value_parser(described::header_line)
                .action(ArgAction::Append)
                .help("A header of the request; may be given several times"),
        )
        .arg(
            Arg::new("body")
                .long("body")
                .value_name("TEXT|@FILE|-")
                .help("The body: a text, a file's content, or standard input"),
        )
        .arg(list_argument())
        .arg(
            Arg::new("caller")
                .long("caller")
                .value_name("NAME")
                .default_value("")
                .hide_default_value(true)
                .help("Who asks, as the server names it"),
        )
        .args(recorded::arguments(&["method", "list", "url", "header", "body", "caller"]))
        .group(recorded::group())
        .args(reading_arguments())
}

pub(super) fn run(arguments: &ArgMatches, surroundings: Surroundings<'_>) -> Result<(), Exit> {
    if recorded::is_wanted(arguments) {
        return recorded::explain(arguments, surroundings);
    }
    let accept = Subject::of_arguments(arguments, surroundings)?;
    let list = list_of(arguments);
    let rules = accept.list(list);
    let (target, note) = target_of(
        arguments
            .get_one::<String>("url")
            .map_or("", String::as_str),
    );
    let asked = Asked {
        method: arguments.get_one("method").cloned().unwrap_or_default(),
        target,
        headers: headers(arguments),
        body: body(arguments, accept.reading.rules.body_limit)?,
        caller: arguments.get_one("caller").cloned().unwrap_or_default(),
        time: SystemTime::now(),
    };
    let verdict = judge(&rules, accept.reading.rules.body_limit, asked);
    let explanation = Explanation {
        report: Report::new(&rules, &verdict),
        note,
    };
    report::print(arguments, &explanation)?;
    match verdict {
        Verdict::Allowed(_) => Ok(()),
        Verdict::Denied(_) | Verdict::Ambiguous(_) => Err(Exit::negative()),
    }
}

#[derive(Serialize)]
struct Explanation {
    #[serde(flatten)]
    report: Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.report)?;
        match &self.note {
            Some(note) => writeln!(f, "note: {note}"),
            None => Ok(()),
        }
    }
}

/// Path and query, and a word on what else stood in `url`.
fn target_of(url: &str) -> (String, Option<String>) {
    let is_http = |scheme: &str| {
        ["http", "https"]
            .iter()
            .any(|http| scheme.eq_ignore_ascii_case(http))
    };
    let rest = match url.split_once("://") {
        Some((scheme, rest)) if is_http(scheme) => rest,
        _ => return (url.to_owned(), None),
    };
    let target = rest
        .find(['/', '?', '#'])
        .map_or("", |start| rest.split_at(start).1);
    let slash = if target.starts_with('/') { "" } else { "/" };
    let target = format!("{slash}{target}");
    // The host is not repeated: userinfo may stand before it.
    (
        target,
        Some(
            "only path and query of the URL were judged, since rules do not look at its host"
                .to_owned(),
        ),
    )
}

fn headers(arguments: &ArgMatches) -> HeaderMap {
    let lines = arguments.get_many("header").unwrap_or_default();
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let (name, value): (&HeaderName, &HeaderValue) = (name, value);
        headers.append(name, value.clone());
    }
    headers
}

/// The body, or as much of it as shows that it is too long.
fn body(arguments: &ArgMatches, limit: usize) -> Result<Bytes, Exit> {
    let Some(text) = arguments.get_one::<String>("body") else {
        return Ok(Bytes::new());
    };
    let read = |source: &mut dyn Read, name: &str| {
        let mut bytes = Vec::new();
        let read = source.take(limit as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| Exit::usage(format!("{name}: the body cannot be read: {error}")))?;
        Ok(bytes.into())
    };
    match (text.as_str(), text.strip_prefix('@')) {
        ("-", _) => read(&mut io::stdin().lock(), "standard input"),
        (_, Some(name)) => {
            let mut file = File::open(name).map_err(|error| {
                Exit::usage(format!("{name}: the body cannot be read: {error}"))
            })?;
            read(&mut file, name)
        }
        (text, None) => Ok(Bytes::copy_from_slice(text.as_bytes())),
    }
}
