//! What doctor found, as people and programs read it.

use std::borrow::Cow;
use std::fmt::{self, Display};

use serde::Serialize;

use crate::status::escaped;

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Pass,
    Warn,
    Fail,
    /// Not looked at.
    Skip,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
        }
    }
}

/// One hop, and what was found there.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) hop: &'static str,
    pub(crate) verdict: Verdict,
    /// The code that `broker-client status` shows for the same failure.
    pub(crate) code: Option<Cow<'static, str>>,
    /// What was found, and what can be done about it.
    pub(crate) text: String,
}

impl Check {
    pub(crate) fn new(
        hop: &'static str,
        verdict: Verdict,
        code: Option<&'static str>,
        text: impl Display,
    ) -> Self {
        Self {
            hop,
            verdict,
            code: code.map(Cow::Borrowed),
            text: text.to_string(),
        }
    }
}

/// The hops of one way, in their order.
#[derive(Debug, Serialize)]
pub(crate) struct Section {
    /// Where it leads.
    subject: String,
    #[serde(skip)]
    hops: &'static [&'static str],
    checks: Vec<Check>,
}

/// A hop failed, and those behind it cannot be looked at.
#[derive(Debug)]
pub(crate) struct Stop;

impl Section {
    pub(crate) fn new(subject: String, hops: &'static [&'static str]) -> Self {
        Self {
            subject,
            hops,
            checks: Vec::new(),
        }
    }

    pub(crate) fn pass(&mut self, hop: &'static str, text: impl Display) {
        self.add(Check::new(hop, Verdict::Pass, None, text));
    }

    pub(crate) fn warn(&mut self, hop: &'static str, text: impl Display) {
        self.add(Check::new(hop, Verdict::Warn, None, text));
    }

    pub(crate) fn skip(&mut self, hop: &'static str, why: impl Display) {
        self.add(Check::new(hop, Verdict::Skip, None, why));
    }

    /// Notes a failure, for `return` where nothing behind it can be looked at.
    pub(crate) fn fail(
        &mut self,
        hop: &'static str,
        code: Option<&'static str>,
        text: impl Display,
    ) -> Stop {
        self.add(Check::new(hop, Verdict::Fail, code, text));
        Stop
    }

    pub(crate) fn add(&mut self, check: Check) {
        debug_assert!(self.hops.contains(&check.hop), "{} is no hop", check.hop);
        self.checks.push(check);
    }

    /// The same in order, with the hops that nobody came to.
    pub(crate) fn finish(mut self) -> Self {
        let is_failed = |check: &&Check| check.verdict == Verdict::Fail;
        let cause = self.checks.iter().find(is_failed).map(|check| check.hop);
        let why = cause.map(|hop| format!("not looked at, since {hop} failed"));
        for hop in self.hops {
            if !self.checks.iter().any(|check| check.hop == *hop)
                && let Some(why) = &why
            {
                self.skip(hop, why);
            }
        }
        let place = |check: &Check| self.hops.iter().position(|hop| *hop == check.hop);
        self.checks.sort_by_key(place);
        self
    }
}

/// Everything that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    result: Verdict,
    sections: Vec<Section>,
}

impl Report {
    pub(crate) fn new(sections: Vec<Section>) -> Self {
        let verdicts = sections.iter().flat_map(|section| &section.checks);
        let verdicts: Vec<_> = verdicts.map(|check| check.verdict).collect();
        let worst = [Verdict::Fail, Verdict::Warn];
        let worst = worst.into_iter().find(|worst| verdicts.contains(worst));
        Self {
            result: worst.unwrap_or(Verdict::Pass),
            sections,
        }
    }

    pub(crate) fn is_failure(&self) -> bool {
        self.result == Verdict::Fail
    }
}

/// A line for each check, below the heading of its way.
impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            writeln!(f, "{}", escaped(&section.subject))?;
            for check in &section.checks {
                let Check { hop, verdict, .. } = check;
                write!(f, "  {}  {hop:11}  ", verdict.word())?;
                if let Some(code) = &check.code {
                    write!(f, "({code}) ")?;
                }
                writeln!(f, "{}", escaped(&check.text))?;
            }
        }
        writeln!(f, "result  {}", self.result.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOPS: &[&str] = &["dns", "tcp", "tls"];

    #[test]
    fn hops_behind_a_failure_are_skipped_with_the_reason() {
        let mut section = Section::new("server x".into(), HOPS);
        section.pass("dns", "fine");
        section.fail("tcp", Some("unreachable"), "nobody listens");
        let report = Report::new(vec![section.finish()]);
        assert!(report.is_failure());
        assert_eq!(
            report.to_string(),
            "server x\n  PASS  dns          fine\n  FAIL  tcp          (unreachable) nobody listens\n  \
             SKIP  tls          not looked at, since tcp failed\nresult  FAIL\n"
        );
    }

    #[test]
    fn the_worst_verdict_is_the_result_and_a_skip_is_none() {
        let with = |verdicts: &[Verdict]| {
            let mut section = Section::new(String::new(), HOPS);
            for verdict in verdicts {
                section.add(Check::new("dns", *verdict, None, ""));
            }
            Report::new(vec![section]).result
        };
        assert_eq!(with(&[Verdict::Pass, Verdict::Skip]), Verdict::Pass);
        assert_eq!(with(&[Verdict::Warn, Verdict::Pass]), Verdict::Warn);
        assert_eq!(with(&[Verdict::Warn, Verdict::Fail]), Verdict::Fail);
    }

    #[test]
    fn what_would_steer_a_terminal_is_not_printed() {
        let mut section = Section::new("server".into(), HOPS);
        section.fail("dns", None, "\u{1b}[31mred");
        assert!(!Report::new(vec![section]).to_string().contains('\u{1b}'));
    }
}
