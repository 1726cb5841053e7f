//! `rules suggest`: the narrowest rule that would allow a recorded request.

use std::convert::Infallible;
use std::fmt;

use accept_rules::{Auth, List, Rule, RuleFile, RuleIndex, RuleSet, SigV4, Template};
use broker_process::exit::Exit;
use clap::{ArgMatches, Command};
use http::Method;
use serde::Serialize;
use serde_json::json;

use super::Surroundings;
use super::accept::{Subject, file_argument};
use super::judge::{Verdict, judge};
use super::recorded::{self, Found, Today};
use super::report::{self, Report, ShownRule};
use crate::config::reading_arguments;

/// Stands where the operator has to put something: an origin is a variable that is not set.
const FILL_IN: &str = "${FILL_IN}";

pub(super) fn command() -> Command {
    Command::new("suggest")
        .about("Print the narrowest rule that would allow a recorded request; nothing is written")
        .long_about(
            "Print the narrowest rule that would allow a request of the audit log, in the form of the accept file, and \
             where it goes. Nothing is written: whether the request should be allowed is for the owner of the tool to \
             say.",
        )
        .override_usage("broker-client rules suggest [OPTIONS] --request ID | --last-denied [FILE]")
        .after_help(
            "Exit code: 0 when a rule is printed; 1 when there is no such record, the request is allowed already, or no \
             rule can allow it; 64 for what cannot be used.\n\nExample:\n  \
             broker-client rules suggest --request 7d1e2f3a4b5c4d6e8f9a0b1c2d3e4f5a accept.json",
        )
        .arg(file_argument())
        .args(recorded::arguments(&[]))
        .group(recorded::group().required(true))
        .args(reading_arguments())
}

pub(super) fn run(arguments: &ArgMatches, surroundings: Surroundings<'_>) -> Result<(), Exit> {
    let found = Found::of(arguments, surroundings)?;
    report::print(arguments, &Suggestion::for_record(&found)?)
}

/// A rule, and where it goes.
#[derive(Serialize)]
struct Suggestion {
    /// The rule, as it stands in a file.
    rule: NewRule,
    accept_file: String,
    list: String,
    /// Its place there.
    index: usize,
    notes: Vec<String>,
}

impl Suggestion {
    fn for_record(found: &Found) -> Result<Self, Exit> {
        let accept = found.accept.as_ref().ok_or_else(|| {
            Exit::usage("there is no accept file that a rule could go to (name it behind the options, or set ACCEPT)")
        })?;
        let decision = &found.decision;
        let never = |why: &str| {
            Exit::failure(format!(
                "no rule can allow the request {}: {why}",
                decision.request_id
            ))
        };
        if !found.was_judged() {
            return Err(never(&format!(
                "its target was refused ({}) before any rule was asked",
                decision.reason
            )));
        }
        let asked = found.asked()?;
        if [Method::CONNECT, Method::TRACE].contains(&asked.method) {
            return Err(never(&format!("{} matches no rule", asked.method)));
        }
        let Today {
            rules,
            verdict,
            conditional,
        } = found.today(accept)?;
        let nearest = match verdict {
            Verdict::Allowed(_) => {
                let report = Report::new(&rules, &verdict);
                return Err(Exit::failure(format!(
                    "the request {} is {report} today",
                    decision.request_id
                )));
            }
            Verdict::Ambiguous(error) => return Err(never(&error.to_string())),
            Verdict::Denied(denied) => denied.nearest().map(accept_rules::Nearest::rule),
        };
        let model = conditional
            .first()
            .copied()
            .or(nearest)
            .or_else(|| only_destination(&rules));

        let mut notes = Vec::new();
        let rule = NewRule::new(found, accept, &rules, model, &mut notes);
        for index in &conditional {
            if let Some(rule) = ShownRule::of(&rules, *index) {
                notes.push(format!(
                    "{rule} has the same method and path, and conditions that did not hold: to change those may be \
                     better than a rule without"
                ));
            }
        }
        if !decision.query.is_empty() {
            notes.push(format!(
                "the request had the query parameters {}, whose values are not recorded; the rule allows any query",
                decision.query.join(", ")
            ));
        }
        try_out(&rule, found, accept)?;
        Ok(Self {
            rule,
            accept_file: accept.file.path.display().to_string(),
            list: found.list.to_string(),
            index: rules.len(),
            notes,
        })
    }
}

/// Any rule, where all lead to the same origin.
fn only_destination(rules: &RuleSet) -> Option<RuleIndex> {
    let (index, first) = rules.indexed().next()?;
    let is_same = |rule: &Rule| {
        rule.origin().map(|origin| origin.as_str()) == first.origin().map(|origin| origin.as_str())
            && rule.auth() == first.auth()
    };
    rules.rules().iter().all(is_same).then_some(index)
}

/// A rule in either form, its keys in the order in which people write them.
#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct NewRule {
    /// In the form without a version.
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    /// In version 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    methods: Option<[String; 1]>,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoded_slash: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoded_unreserved: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<NewAuth>,
}

#[derive(Default, Serialize)]
struct NewAuth {
    scheme: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aws: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
}

impl NewRule {
    /// Method and path of the request; where it goes and with what credential, as rule `model` has it.
    fn new(
        found: &Found,
        accept: &Subject,
        rules: &RuleSet,
        model: Option<RuleIndex>,
        notes: &mut Vec<String>,
    ) -> Self {
        let mut rule = Self::matching(accept, &found.decision.method, &found.decision.path);
        let shown = model.and_then(|model| ShownRule::of(rules, model));
        let model = model.and_then(|model| rules.rules().get(model.as_usize()));
        match (model, shown) {
            (Some(model), Some(shown)) if model.origin().is_some() => {
                rule.go_where(model, notes);
                notes.push(format!("origin and credential are those of {shown}: check that the request belongs there"));
            }
            _ if found.list == List::Private => {
                rule.origin = Some(FILL_IN.to_owned());
                notes.push(format!("no rule comes near: put the origin in place of {FILL_IN}, and add \"auth\" if need be"));
            }
            _ => {}
        }
        rule
    }

    fn matching(accept: &Subject, method: &str, path: &str) -> Self {
        let path_has = |escapes: &[&str]| {
            let path = path.to_ascii_uppercase();
            escapes
                .iter()
                .any(|escape| path.contains(escape))
                .then_some("data")
        };
        match accept.rules.version() {
            None => Self {
                method: Some(method.to_owned()),
                path: escaped(path, &['\\', ':', '*', '(', ')']),
                ..Self::default()
            },
            Some(_) => Self {
                methods: Some([method.to_owned()]),
                path: escaped(path, &['\\', '*', '?', '[', ']', '{', '}']),
                encoded_slash: path_has(&["%2F"]),
                encoded_unreserved: path_has(&["%2D", "%2E", "%5F", "%7E"]),
                ..Self::default()
            },
        }
    }

    /// Takes over the origin, with its userinfo where that was the credential, and `auth`.
    fn go_where(&mut self, model: &Rule, notes: &mut Vec<String>) {
        let mut withheld = false;
        let mut text = |template: &Template| written(template, &mut withheld);
        let with_token = |scheme, token| NewAuth {
            scheme,
            token: Some(token),
            ..NewAuth::default()
        };
        let mut origin = model.origin().map(|origin| origin.as_str().to_owned());
        self.auth = match model.auth() {
            None => None,
            Some(Auth::Token(token)) => Some(with_token("token", text(token))),
            Some(Auth::Bearer(token)) => Some(with_token("bearer", text(token))),
            Some(Auth::BasicToken(token)) => Some(with_token("basic", text(token))),
            Some(Auth::Raw(token)) => Some(with_token("raw", text(token))),
            Some(Auth::Basic { username, password }) => Some(NewAuth {
                scheme: "basic",
                username: Some(text(username)),
                password: Some(text(password)),
                ..NewAuth::default()
            }),
            Some(Auth::SigV4(SigV4 {
                aws,
                service,
                region,
            })) => Some(NewAuth {
                scheme: "sigv4",
                aws: Some(aws.to_string()),
                service: Some(service.to_string()),
                region: region.as_deref().map(str::to_owned),
                ..NewAuth::default()
            }),
            Some(Auth::Userinfo(token)) => {
                let userinfo = text(token);
                origin = origin.map(|origin| with_userinfo(&origin, &userinfo));
                None
            }
            Some(Auth::UserinfoBasic { username, password }) => {
                let userinfo = format!("{}:{}", text(username), text(password));
                origin = origin.map(|origin| with_userinfo(&origin, &userinfo));
                None
            }
        };
        self.origin = origin;
        if withheld {
            notes.push(format!(
                "a credential stands in the file itself and is not repeated: put it, or better a variable, in place of \
                 {FILL_IN}"
            ));
        }
    }
}

/// A pattern that matches `path` and nothing else, but for the case of letters and a slash at the end in the form
/// without a version; `special` are the characters that mean something there.
fn escaped(path: &str, special: &[char]) -> String {
    let mut pattern = String::new();
    for character in path.chars() {
        if special.contains(&character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// A template as the file has it; a text that takes nothing from elsewhere may be a secret, and is not repeated.
fn written(template: &Template, withheld: &mut bool) -> String {
    if template.sources().next().is_none() {
        *withheld = true;
        return FILL_IN.to_owned();
    }
    let Ok(text) = template.expand(|source| Ok::<_, Infallible>(source.to_string()));
    text
}

fn with_userinfo(origin: &str, userinfo: &str) -> String {
    match origin.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{userinfo}@{rest}"),
        None => format!("{userinfo}@{origin}"),
    }
}

/// Makes sure that the rule loads, and that it allows the request.
fn try_out(rule: &NewRule, found: &Found, accept: &Subject) -> Result<(), Exit> {
    let mut alone = json!({found.list.to_string(): [rule]});
    if let (Some(version), Some(file)) = (accept.rules.version(), alone.as_object_mut()) {
        file.insert("version".to_owned(), json!(version));
    }
    let file = RuleFile::parse(&alone.to_string())
        .map_err(|errors| Exit::failure(format!("no rule can allow the request: {errors}")))?;
    let rules = accept.compile(&file, found.list);
    let verdict = judge(&rules, accept.reading.rules.body_limit, found.asked()?);
    match verdict {
        Verdict::Allowed(_) => Ok(()),
        Verdict::Denied(_) | Verdict::Ambiguous(_) => {
            let report = Report::new(&rules, &verdict);
            Err(Exit::failure(format!(
                "no rule can allow the request: {report}"
            )))
        }
    }
}

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = serde_json::to_string_pretty(&self.rule).map_err(|_| fmt::Error)?;
        let Self {
            accept_file,
            list,
            index,
            ..
        } = self;
        writeln!(f, "{rule}\n")?;
        writeln!(
            f,
            "goes to {list}[{index}] of {accept_file}, the end of the list: what its other rules decide stays as it is"
        )?;
        self.notes
            .iter()
            .try_for_each(|note| writeln!(f, "note: {note}"))
    }
}
