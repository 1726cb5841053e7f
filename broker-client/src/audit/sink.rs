//! Where the lines go: an append-only file, or stdout where the agent has no folder.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use serde::Serialize;

/// How a file differs from what this process left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Found {
    /// Nothing: it was removed or renamed, and an empty one begun.
    Missing,
    /// Another file, with content.
    Replaced,
    /// The same file, longer or shorter.
    Changed,
}

/// Appends bytes, all or none where the system lets it.
#[derive(Debug)]
pub(super) struct Sink {
    place: Place,
    /// `None` after a failure: the next attempt opens it anew.
    file: Option<File>,
    left: Left,
}

#[derive(Debug)]
enum Place {
    File(PathBuf),
    Stdout,
}

/// The file as this process left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    device: u64,
    inode: u64,
    /// Only a regular file has a length that tells something.
    is_file: bool,
    /// In bytes; 0 where it is no regular file.
    len: u64,
}

impl Left {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            is_file: found.is_file(),
            len: if found.is_file() { found.len() } else { 0 },
        }
    }
}

/// A write that failed, and how many of its bytes are in the file all the same.
#[derive(Debug)]
pub(super) struct WriteFailed {
    pub(super) error: io::Error,
    pub(super) landed: usize,
}

/// A file that was found otherwise than left.
#[derive(Debug)]
pub(super) struct Reopened {
    pub(super) found: Found,
    /// Its last line has no newline.
    pub(super) open_line: bool,
}

impl Sink {
    /// Opens `path`, or stdout without one; also gives the file's last bytes, at most `tail`, and
    /// whether they are all of it.
    pub(super) fn open(path: Option<PathBuf>, tail: usize) -> io::Result<(Self, Vec<u8>, bool)> {
        let Some(path) = path else {
            // A copy of the descriptor: std's own handle buffers, and a record that sits in a
            // buffer is not written.
            let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            let left = Left::of(&file.metadata()?);
            let stdout = Self {
                place: Place::Stdout,
                file: Some(file),
                left,
            };
            return Ok((stdout, Vec::new(), true));
        };
        let file = append_to(&path)?;
        let left = Left::of(&file.metadata()?);
        let window = usize::try_from(left.len).map_or(tail, |len| len.min(tail));
        let mut bytes = vec![0; window];
        file.read_exact_at(&mut bytes, left.len - window as u64)?;
        let sink = Self {
            place: Place::File(path),
            file: Some(file),
            left,
        };
        Ok((sink, bytes, window as u64 == left.len))
    }

    /// Stdout as a container's log driver holds it.
    #[cfg(test)]
    pub(super) fn pipe(end: std::os::fd::OwnedFd) -> Self {
        let file = File::from(end);
        let left = Left::of(&file.metadata().unwrap());
        Self {
            place: Place::Stdout,
            file: Some(file),
            left,
        }
    }

    /// Makes sure that what is open is what stands at the path: lines in a removed file are lost,
    /// and nobody would notice. One `stat(2)`.
    pub(super) fn check(&mut self) -> io::Result<Option<Reopened>> {
        let Place::File(path) = &self.place else {
            return Ok(None);
        };
        let as_left = fs::metadata(path).is_ok_and(|found| Left::of(&found) == self.left);
        if as_left && self.file.is_some() {
            return Ok(None);
        }

        self.file = None;
        let file = append_to(path)?;
        let now = Left::of(&file.metadata()?);
        let found = if now == self.left {
            None
        } else if (now.device, now.inode) == (self.left.device, self.left.inode) {
            Some(Found::Changed)
        } else if now.len == 0 {
            Some(Found::Missing)
        } else {
            Some(Found::Replaced)
        };
        let mut last = *b"\n";
        if now.len > 0 {
            file.read_exact_at(&mut last, now.len - 1)?;
        }
        self.file = Some(file);
        self.left = now;
        Ok(found.map(|found| Reopened {
            found,
            open_line: last != *b"\n",
        }))
    }

    /// Appends `bytes` with one `write(2)`, unless the system takes less.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), WriteFailed> {
        let mut landed = 0;
        let error = loop {
            let rest = bytes.get(landed..).unwrap_or_default();
            if rest.is_empty() {
                self.grow(landed);
                return Ok(());
            }
            let Some(file) = &mut self.file else {
                break io::ErrorKind::NotConnected.into();
            };
            match file.write(rest) {
                Ok(0) => break io::ErrorKind::WriteZero.into(),
                Ok(written) => landed += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error,
            }
        };
        if landed > 0 && self.take_back() {
            landed = 0;
        }
        self.grow(landed);
        if matches!(self.place, Place::File(_)) {
            self.file = None;
        }
        Err(WriteFailed { error, landed })
    }

    /// A second handle to the file for `fdatasync(2)`; `None` where that means nothing.
    pub(super) fn to_sync(&self) -> Option<File> {
        match self.place {
            Place::File(_) => self.file.as_ref()?.try_clone().ok(),
            Place::Stdout => None,
        }
    }

    /// Cuts a half-written batch off; impossible for pipes and where `chattr +a` protects the file.
    fn take_back(&self) -> bool {
        let file = self.file.as_ref();
        matches!(self.place, Place::File(_))
            && file.is_some_and(|file| file.set_len(self.left.len).is_ok())
    }

    fn grow(&mut self, landed: usize) {
        if self.left.is_file {
            self.left.len += landed as u64;
        }
    }
}

fn append_to(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::instance::tests::TestFolder;

    fn stdout() -> (io::PipeReader, Sink) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, Sink::pipe(writer.into()))
    }

    #[test]
    fn what_is_written_to_stdout_is_there_at_once() {
        let (mut reader, mut sink) = stdout();
        assert!(sink.check().unwrap().is_none());
        sink.write(b"no newline").unwrap();
        let mut bytes = [0; 10];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"no newline");
    }

    #[test]
    fn stdout_without_a_reader_fails_and_keeps_its_descriptor() {
        let (reader, mut sink) = stdout();
        drop(reader);
        for _ in 0..2 {
            let failed = sink.write(b"line\n").unwrap_err();
            assert_eq!(failed.error.kind(), io::ErrorKind::BrokenPipe);
            assert_eq!(failed.landed, 0);
        }
    }

    #[test]
    fn a_log_is_only_for_its_user() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        Sink::open(Some(path.clone()), 0).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_tail_is_the_end_of_the_file() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        fs::write(&path, "0123456789").unwrap();
        let (_, tail, is_whole_file) = Sink::open(Some(path.clone()), 4).unwrap();
        assert_eq!(
            (tail.as_slice(), is_whole_file),
            (b"6789".as_slice(), false)
        );
        let (_, tail, is_whole_file) = Sink::open(Some(path), 10).unwrap();
        assert_eq!((tail.len(), is_whole_file), (10, true));
    }
}
