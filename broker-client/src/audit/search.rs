//! Decisions read back, the newest first: what the log says of one request.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::chain::MAX_LINE;

/// How much is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// Which decision is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// The one on the request with this id.
    Request(&'a str),
    /// The last one that denied.
    LastDenial {
        /// A request to this agent; without it, to any.
        agent: Option<&'a str>,
    },
}

/// A `decision` line, as far as it says what was asked and how that was decided.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct RecordedDecision {
    /// When, RFC 3339.
    pub time: String,
    /// The exchange's id.
    pub request_id: String,
    /// The agent that was asked for.
    pub agent: String,
    /// Who asked; `None` where the server named nobody.
    pub caller: Option<String>,
    /// The method.
    pub method: String,
    /// The path as judged; that of a refused target is escaped and cut.
    pub path: String,
    /// The names of the query's parameters.
    pub query: Vec<String>,
    /// The list that decided.
    pub list: String,
    /// The rule that matched.
    pub rule: Option<usize>,
    /// `allow` or `deny`.
    pub verdict: String,
    /// The reason's code.
    pub reason: String,
    /// Where an allowed request went.
    pub origin: Option<String>,
    /// The rule that came nearest to a denied request.
    pub nearest: Option<RecordedNearest>,
}

/// The rule that came nearest to a denied request, of the file at that time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct RecordedNearest {
    /// Its position in the list.
    pub rule: usize,
    /// The part of the request that differed.
    pub part: String,
    /// What differed, in words.
    pub detail: String,
}

/// The last decision in `log` that is `wanted`. Reads from the end, and keeps no more than one line and one chunk.
///
/// # Errors
/// If the log cannot be read.
pub fn last_decision(log: &Path, wanted: Wanted<'_>) -> io::Result<Option<RecordedDecision>> {
    // As the writer writes it: what lacks this text is no such line, and needs no parsing.
    let text = match wanted {
        Wanted::Request(id) => serde_json::to_string(id)?,
        Wanted::LastDenial { .. } => r#""deny""#.to_owned(),
    };
    let mut lines = LinesFromEnd::of(File::open(log)?)?;
    while let Some(line) = lines.next()? {
        let decision = str::from_utf8(&line)
            .ok()
            .filter(|line| line.contains(&text))
            .and_then(decision);
        if let Some(decision) = decision.filter(|found| wanted.is(found)) {
            return Ok(Some(decision));
        }
    }
    Ok(None)
}

impl Wanted<'_> {
    fn is(self, decision: &RecordedDecision) -> bool {
        match self {
            Self::Request(id) => decision.request_id == id,
            Self::LastDenial { agent } => {
                decision.verdict == "deny" && agent.is_none_or(|agent| decision.agent == agent)
            }
        }
    }
}

/// Lines of other kinds, those that a crash cut off, and those that others wrote are none.
fn decision(line: &str) -> Option<RecordedDecision> {
    #[derive(Deserialize)]
    struct Kind<'a> {
        kind: &'a str,
    }
    let Kind { kind } = serde_json::from_str(line).ok()?;
    (kind == "decision")
        .then(|| serde_json::from_str(line).ok())
        .flatten()
}

/// The lines of a file, the last one first. Lines longer than [`MAX_LINE`] are left out: none is a record.
struct LinesFromEnd {
    file: File,
    /// Where what was read begins.
    start: u64,
    /// What was read and not given out: the end of a line, and lines before it.
    read: Vec<u8>,
    /// The rest of the line that `read` ends in was too long to be kept.
    overlong: bool,
}

impl LinesFromEnd {
    fn of(file: File) -> io::Result<Self> {
        Ok(Self {
            start: file.metadata()?.len(),
            file,
            read: Vec::new(),
            overlong: false,
        })
    }

    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(newline) = self.read.iter().rposition(|&byte| byte == b'\n') {
                let line = self.read.split_off(newline + 1);
                self.read.truncate(newline);
                if !std::mem::take(&mut self.overlong) {
                    return Ok(Some(line));
                }
            } else if self.start > 0 {
                self.read_before()?;
            } else {
                let first = std::mem::take(&mut self.read);
                return Ok((!first.is_empty() && !self.overlong).then_some(first));
            }
        }
    }

    fn read_before(&mut self) -> io::Result<()> {
        if self.read.len() > MAX_LINE {
            self.read.clear();
            self.overlong = true;
        }
        let length = usize::try_from(self.start).unwrap_or(CHUNK).min(CHUNK);
        self.start -= length as u64;
        let mut chunk = vec![0; length];
        self.file.read_exact_at(&mut chunk, self.start)?;
        chunk.append(&mut self.read);
        self.read = chunk;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::instance::tests::TestFolder;

    fn line(id: &str, verdict: &str) -> String {
        format!(
            r#"{{"v":1,"seq":1,"prev":"00","time":"2026-11-24T12:00:00.000Z","kind":"decision","instance":"default","run_id":"r","request_id":"{id}","tenant":"default","agent":"sonarqube","caller":null,"method":"GET","path":"/x","query":["a"],"list":"private","rule":null,"verdict":"{verdict}","reason":"no-match","origin":null}}"#
        )
    }

    fn outcome(id: &str) -> String {
        format!(
            r#"{{"v":1,"seq":2,"prev":"00","kind":"outcome","request_id":"{id}","error":"deny"}}"#
        )
    }

    fn find(content: &str, wanted: Wanted<'_>) -> Option<String> {
        let folder = TestFolder::new();
        let log = folder.path().join("audit.jsonl");
        fs::write(&log, content).unwrap();
        last_decision(&log, wanted)
            .unwrap()
            .map(|found| found.request_id)
    }

    #[test]
    fn a_request_is_found_by_its_id_among_other_lines() {
        let log = [
            line("a", "allow"),
            outcome("a"),
            line("b", "deny"),
            outcome("b"),
        ]
        .join("\n");
        assert_eq!(find(&log, Wanted::Request("a")).unwrap(), "a");
        assert_eq!(find(&log, Wanted::Request("c")), None);
        assert_eq!(find(&log, Wanted::Request("default")), None);
        assert_eq!(find("", Wanted::Request("a")), None);
    }

    #[test]
    fn the_last_denial_is_the_newest_one() {
        let log = [
            line("a", "deny"),
            line("b", "deny"),
            line("c", "allow"),
            outcome("c"),
        ]
        .join("\n");
        assert_eq!(find(&log, Wanted::LastDenial { agent: None }).unwrap(), "b");
        assert_eq!(
            find(&line("a", "allow"), Wanted::LastDenial { agent: None }),
            None
        );
    }

    #[test]
    fn lines_that_are_no_records_are_passed_over() {
        let torn = line("z", "deny").split_at(200).0.to_owned();
        let log = format!("{}\n\u{0}junk\n\n{torn}", line("a", "deny"));
        assert_eq!(find(&log, Wanted::LastDenial { agent: None }).unwrap(), "a");
    }

    #[test]
    fn a_log_longer_than_a_chunk_is_read_whole() {
        let mut log = line("first", "deny") + "\n";
        for number in 0..2000 {
            log += &line(&format!("r{number}"), "allow");
            log += "\n";
        }
        assert!(log.len() > 4 * CHUNK);
        assert_eq!(
            find(&log, Wanted::LastDenial { agent: None }).unwrap(),
            "first"
        );
        for id in ["r0", "r777", "r1999"] {
            assert_eq!(find(&log, Wanted::Request(id)).unwrap(), id);
        }
    }

    #[test]
    fn a_line_too_long_for_a_record_is_not_kept() {
        let long = "x".repeat(3 * MAX_LINE) + "\"deny\"";
        for log in [
            format!("{}\n{long}", line("a", "deny")),
            format!("{}\n{long}\n{}\n", line("a", "deny"), line("b", "allow")),
        ] {
            assert_eq!(find(&log, Wanted::LastDenial { agent: None }).unwrap(), "a");
        }
        assert_eq!(find(&long, Wanted::LastDenial { agent: None }), None);
    }
}
