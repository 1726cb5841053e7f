//! Answers as people and programs read them.

use std::fmt::{self, Display};

use accept_rules::{DenyReason, Explanation, Methods, Rule, RuleIndex, RuleSet};
use broker_process::exit::{self, Exit};
use clap::ArgMatches;
use serde::Serialize;

use super::judge::Verdict;

/// Prints an answer, in JSON where that was asked for.
pub(super) fn print(
    arguments: &ArgMatches,
    answer: &(impl Serialize + Display),
) -> Result<(), Exit> {
    exit::print_answer(arguments.get_flag("json"), answer)
}

/// A verdict with its reasons; one line of text.
#[derive(Serialize)]
pub(super) struct Report {
    verdict: &'static str,
    /// The index of the rule that allows.
    rule: Option<usize>,
    reason: &'static str,
    allowed_by: Option<ShownRule>,
    nearest: Option<Explanation>,
    /// What is wrong, where that is no rule's matter.
    problem: Option<String>,
}

impl Report {
    /// What `verdict`, given by `rules`, means.
    pub(super) fn new(rules: &RuleSet, verdict: &Verdict) -> Self {
        let mut report = Self {
            verdict: verdict.word(),
            rule: verdict.rule(),
            reason: verdict.reason(),
            allowed_by: None,
            nearest: None,
            problem: None,
        };
        match verdict {
            Verdict::Allowed(index) => {
                report.allowed_by = ShownRule::of(rules, *index);
            }
            Verdict::Denied(denied) => {
                report.nearest = denied.nearest().map(|nearest| nearest.describe(rules));
                report.problem = match denied.reason() {
                    DenyReason::NoRules => {
                        Some(format!("there is no rule in \"{}\"", rules.list()))
                    }
                    DenyReason::NoMatch if report.nearest.is_none() => {
                        Some("no rule comes near".to_owned())
                    }
                    DenyReason::NoMatch => None,
                    DenyReason::BodyTooLarge => Some(
                        "the body that a rule asks about is longer than rules.body-limit"
                            .to_owned(),
                    ),
                    DenyReason::BodyIncomplete => {
                        Some("the body that a rule asks about broke off".to_owned())
                    }
                    // An agent counts, a file does not.
                    DenyReason::NoPlaceForBody | DenyReason::HeldBack(_) => None,
                };
            }
            Verdict::Ambiguous(error) => report.problem = Some(error.to_string()),
        }
        report
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rule) = &self.allowed_by {
            return write!(f, "allowed by {rule}");
        }
        write!(f, "denied ({})", self.reason)?;
        if let Some(problem) = &self.problem {
            write!(f, ": {problem}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, ": nearest is {nearest}")?;
        }
        Ok(())
    }
}

/// A rule as its owner recognises it.
#[derive(Serialize)]
pub(super) struct ShownRule {
    list: String,
    rule: usize,
    methods: Vec<String>,
    path: String,
    /// As written, without userinfo.
    origin: Option<String>,
    #[serde(skip)]
    text: String,
}

impl ShownRule {
    pub(super) fn of(rules: &RuleSet, index: RuleIndex) -> Option<Self> {
        let rule = rules.rules().get(index.as_usize())?;
        Some(Self {
            list: rules.list().to_string(),
            rule: index.as_usize(),
            text: rule.to_string(),
            methods: methods(rule),
            path: rule.path().to_owned(),
            origin: rule.origin().map(|origin| origin.as_str().to_owned()),
        })
    }
}

impl Display for ShownRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}] {}", self.list, self.rule, self.text)?;
        match &self.origin {
            Some(origin) => write!(f, ", to {origin}"),
            None => Ok(()),
        }
    }
}

fn methods(rule: &Rule) -> Vec<String> {
    match rule.methods() {
        Methods::Any => vec!["any".to_owned()],
        Methods::Only(methods) => methods.iter().map(ToString::to_string).collect(),
    }
}
