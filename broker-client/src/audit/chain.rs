//! The chain: each line names its number and the SHA-256 of the line before.

use std::io::{self, BufRead, Read as _, Write as _};

use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;

/// Longest line that is read back, in bytes. A target of 16 KiB and two heads of 64 KiB, escaped,
/// stay well below.
pub(super) const MAX_LINE: usize = 1 << 20;

/// The version that every line states.
const VERSION: u32 = 1;

/// Where a chain stands: the number and the hash of its last line.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    seq: u64,
    prev: Hash,
    /// The file does not end in a newline.
    open_line: bool,
    /// Lines at the end that are no records: a crash or a full disk cut them off.
    torn: Torn,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Torn {
    pub(super) lines: u64,
    pub(super) bytes: u64,
}

/// SHA-256 as 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hash([u8; 64]);

impl Hash {
    /// Stands where there is no line before.
    const NONE: Self = Self([b'0'; 64]);

    fn of(line: &[u8]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let hex_digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or_default();
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(digest(&SHA256, line).as_ref()) {
            pair.copy_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 0xf)]);
        }
        Self(hex)
    }

    fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Chain {
    /// A chain without a line.
    pub(super) fn new() -> Self {
        Self {
            seq: 0,
            prev: Hash::NONE,
            open_line: false,
            torn: Torn::default(),
        }
    }

    /// Continues after `tail`, the end of a file: all of it, or at least its last [`MAX_LINE`]
    /// bytes and a line before.
    pub(super) fn continue_after(tail: &[u8], is_whole_file: bool) -> Result<Self, String> {
        let (closed, open) = match tail.iter().rposition(|&byte| byte == b'\n') {
            Some(newline) => (tail.get(..newline), tail.get(newline + 1..)),
            None => (None, Some(tail)),
        };
        let open = open.unwrap_or_default();
        let last = closed.map(
            |closed| match closed.iter().rposition(|&byte| byte == b'\n') {
                Some(newline) => (closed.get(newline + 1..).unwrap_or_default(), true),
                None => (closed, is_whole_file),
            },
        );

        let mut chain = match last {
            Some((line, true)) => Self::after(line)?,
            None if is_whole_file => Self::new(),
            Some((_, false)) | None => return Err(format!("is longer than {MAX_LINE} bytes")),
        };
        if !open.is_empty() {
            chain.leave_open(open);
        }
        Ok(chain)
    }

    fn after(line: &[u8]) -> Result<Self, String> {
        let head = Head::parse(line)?;
        Ok(Self {
            seq: head.seq,
            prev: Hash::of(line),
            ..Self::new()
        })
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Nothing was ever written.
    pub(super) fn is_new(&self) -> bool {
        self.seq == 0 && self.torn == Torn::default()
    }

    /// The file's last line has no newline, and what stands there is not ours.
    pub(super) fn found_open_line(&mut self) {
        self.open_line = true;
    }

    /// Ends a line that was left open, and says which lines a `recovered` record must own up to.
    pub(super) fn close_open_line(&mut self, out: &mut Vec<u8>) -> Option<Torn> {
        if std::mem::take(&mut self.open_line) {
            out.push(b'\n');
        }
        let torn = std::mem::take(&mut self.torn);
        (torn.lines > 0).then_some(torn)
    }

    /// Appends `body`, a JSON object, as the next line.
    pub(super) fn append(&mut self, body: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        self.seq += 1;
        let head = write!(
            out,
            r#"{{"v":{VERSION},"seq":{},"prev":"{}","#,
            self.seq,
            self.prev.as_str()
        );
        debug_assert!(head.is_ok(), "a Vec takes everything");
        out.extend_from_slice(body.strip_prefix(b"{").unwrap_or(body));
        self.prev = Hash::of(out.get(start..).unwrap_or_default());
        out.push(b'\n');
    }

    /// Takes note of `landed`, the part of a batch that reached the file and cannot be taken back.
    pub(super) fn adopt(&mut self, mut landed: &[u8]) {
        if self.open_line
            && let Some(rest) = landed.strip_prefix(b"\n")
        {
            self.open_line = false;
            landed = rest;
        }
        for piece in landed.split_inclusive(|&byte| byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(record) => {
                    // The first whole line of a batch after a torn one is the `recovered` record.
                    self.torn = Torn::default();
                    self.seq += 1;
                    self.prev = Hash::of(record);
                }
                None => self.leave_open(piece),
            }
        }
    }

    /// The file ends in `piece`, without a newline. A whole record that lacks only that counts.
    fn leave_open(&mut self, piece: &[u8]) {
        match Self::after(piece) {
            Ok(whole) if whole.seq == self.seq + 1 => *self = whole,
            _ => {
                self.torn.lines += 1;
                self.torn.bytes += piece.len() as u64;
                self.prev = Hash::of(piece);
            }
        }
        self.open_line = true;
    }
}

/// What the chain needs to know of a line.
#[derive(Deserialize)]
struct Head<'a> {
    v: u32,
    seq: u64,
    prev: &'a str,
    kind: &'a str,
    lines: Option<u64>,
    bytes: Option<u64>,
}

impl<'a> Head<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, String> {
        match serde_json::from_slice::<Self>(line) {
            Ok(head) if head.v == VERSION => Ok(head),
            Ok(head) => Err(format!(
                "has version {}, this program knows {VERSION}",
                head.v
            )),
            Err(error) => Err(format!("is not an audit record: {error}")),
        }
    }
}

/// What a verified run of lines holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainSummary {
    /// Records, without torn lines.
    pub records: u64,
    /// The first record's number; above 1 where the lines before are in another file.
    pub first_seq: u64,
    /// The last record's number.
    pub last_seq: u64,
    /// SHA-256 of the last line in hex: what a following line's `prev` must be.
    pub last_hash: String,
    /// Torn lines that a `recovered` record owns up to.
    pub torn_lines: u64,
    /// Bytes of a last line without a newline: being written, or cut off.
    pub open_bytes: u64,
}

/// Where and why lines are not one unbroken chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The lines cannot be read.
    #[error("line {line}: {source}")]
    Io {
        /// Counted from 1.
        line: u64,
        /// What the reader says.
        source: io::Error,
    },
    /// A line does not follow from the one before.
    #[error("line {line}: {problem}")]
    Broken {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// There is no record at all.
    #[error("there is no record")]
    Empty,
}

/// Checks that lines, in the order in which they were written, are one unbroken chain.
///
/// Lines that begin in the middle of a chain, because the log was rotated, are checked from the
/// second one on.
///
/// # Errors
/// Names the first line that does not follow from the one before.
pub fn verify_lines(mut reader: impl BufRead) -> Result<ChainSummary, ChainError> {
    let mut summary: Option<ChainSummary> = None;
    let mut prev = Hash::NONE;
    let mut torn = Torn::default();
    let mut torn_lines = 0;
    let mut open_bytes = 0;
    let mut bytes = Vec::new();

    for line in 1.. {
        let broken = |problem: String| ChainError::Broken { line, problem };
        bytes.clear();
        (&mut reader)
            .take(MAX_LINE as u64)
            .read_until(b'\n', &mut bytes)
            .map_err(|source| ChainError::Io { line, source })?;
        let text = match bytes.strip_suffix(b"\n") {
            Some(text) => text,
            None if bytes.len() == MAX_LINE => {
                return Err(broken(format!("longer than {MAX_LINE} bytes")));
            }
            None => {
                open_bytes = bytes.len() as u64;
                break;
            }
        };
        let Ok(head) = Head::parse(text) else {
            torn.lines += 1;
            torn.bytes += text.len() as u64;
            prev = Hash::of(text);
            continue;
        };

        let known = summary.as_ref().map(|summary| summary.last_seq);
        let follows = known.is_none_or(|last| head.seq == last + 1);
        if !follows || head.seq == 0 {
            return Err(broken(format!(
                "seq {} does not follow {known:?}",
                head.seq
            )));
        }
        let begins_elsewhere = known.is_none() && torn.lines == 0 && head.seq > 1;
        if head.prev != prev.as_str() && !begins_elsewhere {
            return Err(broken("prev is not the hash of the line before".to_owned()));
        }
        if torn.lines > 0 {
            let owned_up = head.kind == "recovered"
                && (head.lines, head.bytes) == (Some(torn.lines), Some(torn.bytes));
            if !owned_up {
                return Err(broken(format!(
                    "{} lines before are no records, and no `recovered` record says so",
                    torn.lines
                )));
            }
            torn_lines += torn.lines;
            torn = Torn::default();
        }
        prev = Hash::of(text);
        let (first_seq, records) = summary.take().map_or((head.seq, 0), |summary| {
            (summary.first_seq, summary.records)
        });
        summary = Some(ChainSummary {
            records: records + 1,
            first_seq,
            last_seq: head.seq,
            last_hash: prev.as_str().to_owned(),
            torn_lines,
            open_bytes: 0,
        });
    }

    if torn.lines > 0 {
        return Err(ChainError::Broken {
            line: summary.map_or(0, |summary| summary.records) + torn_lines + torn.lines,
            problem: "not an audit record".to_owned(),
        });
    }
    let mut summary = summary.ok_or(ChainError::Empty)?;
    summary.open_bytes = open_bytes;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"kind":"decision"}"#;

    /// What the writer does with each batch.
    fn batch(chain: &mut Chain) -> Vec<u8> {
        let mut lines = Vec::new();
        if let Some(torn) = chain.close_open_line(&mut lines) {
            let record = format!(
                r#"{{"kind":"recovered","lines":{},"bytes":{}}}"#,
                torn.lines, torn.bytes
            );
            chain.append(record.as_bytes(), &mut lines);
        }
        chain.append(BODY, &mut lines);
        chain.append(BODY, &mut lines);
        lines
    }

    #[test]
    fn a_crash_at_any_byte_leaves_a_log_that_can_be_continued() {
        let mut chain = Chain::new();
        let whole = [batch(&mut chain), batch(&mut chain)].concat();
        for cut in 0..=whole.len() {
            let mut file = whole[..cut].to_vec();
            let mut chain = Chain::continue_after(&file, true).unwrap();
            file.extend(batch(&mut chain));
            let summary = verify_lines(file.as_slice()).unwrap();
            assert_eq!(summary.last_seq, chain.seq(), "cut at {cut}");
        }
    }

    #[test]
    fn writes_that_fail_at_any_byte_leave_one_chain() {
        let mut start = Chain::new();
        let before = batch(&mut start);
        let len = batch(&mut start.clone()).len();
        for first_cut in 0..=len {
            let mut torn_once = start.clone();
            let first = batch(&mut start.clone());
            torn_once.adopt(&first[..first_cut]);
            // The second write fails too; where it lands last is what the third must own up to.
            let second = batch(&mut torn_once.clone());
            for second_cut in (0..=second.len()).step_by(7).chain([1, 2]) {
                let mut chain = torn_once.clone();
                chain.adopt(&second[..second_cut]);
                let third = batch(&mut chain);
                let file = [&before, &first[..first_cut], &second[..second_cut], &third].concat();
                let summary = verify_lines(file.as_slice());
                assert!(
                    summary.is_ok(),
                    "cut at {first_cut} and {second_cut}: {summary:?}"
                );
            }
        }
    }

    #[test]
    fn bytes_after_the_last_newline_are_told() {
        let mut file = batch(&mut Chain::new());
        file.extend_from_slice(b"{\"v\":1");
        assert_eq!(verify_lines(file.as_slice()).unwrap().open_bytes, 6);
    }

    #[test]
    fn a_file_without_a_record_is_no_chain() {
        assert!(matches!(verify_lines(&b""[..]), Err(ChainError::Empty)));
        verify_lines(&b"x\n"[..]).unwrap_err();
        verify_lines("x".repeat(MAX_LINE + 1).as_bytes()).unwrap_err();
    }
}
