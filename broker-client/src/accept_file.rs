//! The accept file on the disk: its bytes, read whole or not at all, and what tells cheaply that it may have changed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use accept_rules::{FileErrors, MAX_FILE_LEN, RuleFile, UnknownKeys};
use aws_lc_rs::digest;
use broker_process::regular_file;

use crate::rules::RulesError;

/// An accept file as it was read.
pub(crate) struct AcceptFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    /// Of the bytes, in hexadecimal.
    pub(crate) sha256: String,
}

impl AcceptFile {
    /// Reads all of it.
    pub(crate) fn read(path: &Path) -> Result<Self, RulesError> {
        let fail = |problem| RulesError::unreadable(path.to_owned(), problem);
        let mut bytes = Vec::new();
        regular_file::read(path, MAX_FILE_LEN, &mut bytes)
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            sha256: sha256_hex(&bytes),
            bytes,
        })
    }

    /// The rules that stand in it.
    pub(crate) fn parse(&self, unknown_keys: UnknownKeys) -> Result<RuleFile, RulesError> {
        self.read_as(|text| RuleFile::parse_with(text, unknown_keys))
    }

    /// What `read` makes of its text.
    pub(crate) fn read_as<T>(
        &self,
        read: impl FnOnce(&str) -> Result<T, FileErrors>,
    ) -> Result<T, RulesError> {
        let fail = |problems| RulesError::unusable(self, problems);
        let text = str::from_utf8(&self.bytes)
            .map_err(|error| fail(vec![format!("is not UTF-8: {error}")]))?;
        read(text).map_err(|errors| fail(errors.to_string().lines().map(str::to_owned).collect()))
    }
}

/// What differs, as a rule, once a file was written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` where there is nothing to be seen.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    let sum = digest::digest(&digest::SHA256, bytes);
    sum.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
