//! `rules eval`: a verdict for each line of requests.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::path::Path;
use std::time::SystemTime;

use accept_rules::RuleSet;
use broker_process::exit::Exit;
use clap::{Arg, ArgMatches, Command};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Surroundings;
use super::accept::{Subject, file_argument, list_argument, list_of};
use super::described::{self, Headers};
use super::judge::{Asked, Verdict, judge};
use crate::config::reading_arguments;

/// Longest line, in bytes: a body of several times the usual limit, escaped, and a bound on the memory.
const MAX_LINE: u64 = 64 << 20;

pub(super) fn command() -> Command {
    Command::new("eval")
        .about("Judge many requests: JSON lines in, JSON lines out")
        .long_about(
            "Judge many requests. Each line of the input is an object: \"url\" is path and query exactly as they are \
             sent; \"method\" is GET unless given; \"headers\" is an object of names, each with a text or a list of \
             texts; \"body\" is a text, or any other JSON value, which stands for its serialisation; \"caller\" is the \
             name of who asks. Each line of the output is the verdict on the request of the same place: \
             {\"verdict\":\"allow\"|\"deny\",\"rule\":INDEX|null,\"reason\":\"CODE\"}.",
        )
        .after_help(
            "Exit code: 0 when every line was judged; 64 when the accept file or a line cannot be used, after the \
             answers to the lines before.\n\nExample:\n  echo '{\"method\":\"GET\",\"url\":\"/api/issues/search?p=1\"}' \\\n    \
             | broker-client rules eval --accept accept.json --requests -",
        )
        .arg(file_argument().long("accept").required(true))
        .arg(list_argument())
        .arg(
            Arg::new("requests")
                .long("requests")
                .value_name("FILE")
                .required(true)
                .help("The requests; - is standard input"),
        )
        .args(reading_arguments())
}

pub(super) fn run(arguments: &ArgMatches, surroundings: Surroundings<'_>) -> Result<(), Exit> {
    let accept = Subject::of_arguments(arguments, surroundings)?;
    let rules = accept.list(list_of(arguments));
    let body_limit = accept.reading.rules.body_limit;
    let out = io::stdout().lock();
    let requests = arguments
        .get_one::<String>("requests")
        .map_or("-", String::as_str);
    if requests == "-" {
        return judge_lines(
            &rules,
            body_limit,
            io::stdin().lock(),
            "standard input",
            out,
        );
    }
    let file = File::open(Path::new(requests))
        .map_err(|error| Exit::usage(format!("{requests}: cannot be read: {error}")))?;
    judge_lines(&rules, body_limit, BufReader::new(file), requests, out)
}

/// One line of the output.
#[derive(Serialize)]
struct Answer {
    verdict: &'static str,
    rule: Option<usize>,
    reason: &'static str,
}

impl From<&Verdict> for Answer {
    fn from(verdict: &Verdict) -> Self {
        Self {
            verdict: verdict.word(),
            rule: verdict.rule(),
            reason: verdict.reason(),
        }
    }
}

/// One line of the input. What is unknown is refused: a mistyped `headers` would change the verdict.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    method: Option<String>,
    url: String,
    #[serde(default)]
    headers: Headers,
    #[serde(default)]
    body: Value,
    caller: Option<String>,
}

/// Answers line by line, each answer written before the next line is read; `name` is that of the input.
fn judge_lines(
    rules: &RuleSet,
    body_limit: usize,
    mut input: impl BufRead,
    name: &str,
    mut out: impl Write,
) -> Result<(), Exit> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        let refuse = |problem: String| Exit::usage(format!("{name}: line {number}: {problem}"));
        line.clear();
        let length = (&mut input).take(MAX_LINE).read_until(b'\n', &mut line);
        match length.map_err(|error| refuse(error.to_string()))? {
            0 => break,
            length if length as u64 == MAX_LINE && !line.ends_with(b"\n") => {
                return Err(refuse(format!("longer than {MAX_LINE} bytes")));
            }
            _ => {}
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let asked = read(line.trim_ascii()).map_err(refuse)?;
        let answer = Answer::from(&judge(rules, body_limit, asked));
        let mut text = serde_json::to_vec(&answer).map_err(Exit::failure)?;
        text.push(b'\n');
        out.write_all(&text)
            .and_then(|()| out.flush())
            .map_err(|error| Exit::failure(format!("writing to stdout: {error}")))?;
    }
    Ok(())
}

fn read(line: &[u8]) -> Result<Asked, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        let text = error.to_string();
        // The line's own number is the operator's; that of the parser is always 1.
        text.replace(" at line 1 column", " at column")
    })?;
    Ok(Asked {
        method: described::method(line.method.as_deref().unwrap_or("GET"))?,
        target: line.url,
        headers: line.headers.0,
        body: described::body(&line.body),
        caller: line.caller.unwrap_or_default(),
        time: SystemTime::now(),
    })
}
