//! A credential in a file that others replace: a mounted service account token, what a secrets operator writes.
//!
//! The file is read once a second, its content and not its metadata: that costs next to nothing, and works for every
//! file system and every way of replacing a file. What is new is taken once it was read twice in a row, since a file
//! that is written in place is empty or half written for a moment.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use broker_process::regular_file;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::{Secret, Unavailable};
use crate::status::CredentialSource;

/// Longest content, in bytes: the headers of a request may have 64 KiB together.
pub(super) const MAX_LEN: usize = 16 * 1024;
/// How often the file is read; with [`SETTLE`], what is new is in use well within the 5 s that are promised.
const EVERY: Duration = Duration::from_secs(1);
/// How long after a new content it is read again.
const SETTLE: Duration = Duration::from_millis(200);
/// Reads after which a file that differs each time is taken as it is.
const MOST_READS: usize = 5;

/// One file, as it was last read.
#[derive(Debug)]
pub(super) struct FileSource {
    path: PathBuf,
    state: Mutex<State>,
    changed: Arc<Notify>,
    is_claimed: AtomicBool,
}

#[derive(Debug, Clone)]
struct State {
    content: Content,
    since: SystemTime,
}

/// The value, or why there is none.
pub(super) type Content = Result<Arc<Secret>, Arc<str>>;

impl FileSource {
    /// Reads the file at `path`; one that cannot be read now may be later.
    pub(super) fn read(path: &Path, changed: Arc<Notify>) -> Self {
        Self {
            state: Mutex::new(State {
                content: read(path),
                since: SystemTime::now(),
            }),
            path: path.to_owned(),
            changed,
            is_claimed: AtomicBool::new(false),
        }
    }

    pub(super) fn now(&self) -> Result<Arc<Secret>, Unavailable> {
        self.lock().content.clone().map_err(|why| Unavailable {
            what: self.name(),
            why,
        })
    }

    /// Whether it is the caller who is to [`keep`] it: true once.
    pub(super) fn claim(&self) -> bool {
        !self.is_claimed.swap(true, Ordering::Relaxed)
    }

    pub(super) fn state(&self) -> CredentialSource {
        let State { content, since } = self.lock().clone();
        CredentialSource::new(&self.name(), since, content.err().as_deref())
    }

    /// Reads it again, and takes what is new.
    pub(super) async fn refresh(&self) {
        let mut content = self.content().await;
        if self.holds(&content) {
            return;
        }
        for _ in 1..MOST_READS {
            sleep(SETTLE).await;
            let before = std::mem::replace(&mut content, self.content().await);
            if same(&before, &content) {
                break;
            }
        }
        self.take(content);
    }

    async fn content(&self) -> Content {
        content(self.path.clone()).await
    }

    fn holds(&self, content: &Content) -> bool {
        same(&self.lock().content, content)
    }

    fn take(&self, content: Content) {
        if self.holds(&content) {
            return;
        }
        *self.lock() = State {
            content,
            since: SystemTime::now(),
        };
        self.log();
        self.changed.notify_one();
    }

    fn log(&self) {
        match self.now() {
            Ok(_) => tracing::info!(source = self.name(), "a new credential is in use"),
            Err(error) => {
                tracing::error!("requests that need this credential are refused: {error}")
            }
        }
    }

    fn name(&self) -> String {
        format!("file {}", self.path.display())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// Keeps a file up to date as long as anybody uses it.
pub(super) async fn keep(file: Weak<FileSource>) {
    if let Some(file) = file.upgrade().filter(|file| file.now().is_err()) {
        file.log();
    }
    loop {
        sleep(EVERY).await;
        let Some(file) = file.upgrade() else {
            return;
        };
        file.refresh().await;
    }
}

/// What a file holds now.
pub(super) async fn content(path: PathBuf) -> Content {
    let content = spawn_blocking(move || read(&path)).await;
    content.unwrap_or_else(|error| Err(format!("cannot be read: {error}").into()))
}

fn same(a: &Content, b: &Content) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => a.expose() == b.expose(),
        (Err(a), Err(b)) => a == b,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    }
}

/// All that a file holds now, of several lines perhaps.
pub(super) async fn bytes(path: PathBuf) -> Result<Zeroizing<Vec<u8>>, String> {
    let read = spawn_blocking(move || read_bytes(&path)).await;
    read.unwrap_or_else(|error| Err(format!("cannot be read: {error}")))
}

fn read(path: &Path) -> Content {
    let bytes = read_bytes(path)?;
    value(&bytes).map(Arc::new).map_err(Arc::from)
}

fn read_bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = regular_file::read(path, MAX_LEN, &mut bytes);
    read.map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn too_long() -> String {
    format!("has more than {MAX_LEN} bytes")
}

/// The credential in what a file holds or a command prints: without the newline at its end, which editors and `echo`
/// put there.
pub(super) fn value(bytes: &[u8]) -> Result<Secret, String> {
    if bytes.len() > MAX_LEN {
        return Err(too_long());
    }
    let text = str::from_utf8(bytes).map_err(|_| "is no UTF-8 text")?;
    let text = text
        .strip_suffix('\n')
        .map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.contains(char::is_control) {
        return Err("holds a line break or another control character".to_owned());
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::join;

    use super::*;
    use crate::instance::tests::TestFolder;

    fn in_use(file: &FileSource) -> String {
        file.now().unwrap().expose().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_half_written_is_not_taken() {
        let folder = TestFolder::new();
        let path = folder.path().join("token");
        fs::write(&path, "first").unwrap();
        let file = FileSource::read(&path, Arc::default());
        fs::write(&path, "sec").unwrap();

        join!(file.refresh(), async {
            sleep(SETTLE / 2).await;
            assert_eq!(in_use(&file), "first");
            fs::write(&path, "second").unwrap();
            sleep(SETTLE).await;
            assert_eq!(in_use(&file), "first");
        });

        assert_eq!(in_use(&file), "second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_empty_for_a_moment_keeps_its_value() {
        let folder = TestFolder::new();
        let path = folder.path().join("token");
        fs::write(&path, "first").unwrap();
        let file = FileSource::read(&path, Arc::default());
        fs::write(&path, "").unwrap();

        join!(file.refresh(), async {
            sleep(SETTLE / 2).await;
            fs::write(&path, "first").unwrap();
        });

        assert_eq!(in_use(&file), "first");
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let folder = TestFolder::new();
        let file = FileSource::read(folder.path(), Arc::default());
        assert!(
            file.now()
                .unwrap_err()
                .to_string()
                .ends_with(" is no regular file")
        );
    }

    #[test]
    fn one_newline_at_the_end_is_cut_and_no_more() {
        for (bytes, expected) in [
            ("t", Ok("t")),
            ("t\n", Ok("t")),
            ("t\r\n", Ok("t")),
            (" t \n", Ok(" t ")),
            ("", Err("is empty")),
            ("\r\n", Err("is empty")),
            (
                "t\n\n",
                Err("holds a line break or another control character"),
            ),
            (
                "t\r",
                Err("holds a line break or another control character"),
            ),
            (
                "a\0b",
                Err("holds a line break or another control character"),
            ),
        ] {
            let found = value(bytes.as_bytes());
            let found = found.as_ref().map(Secret::expose).map_err(String::as_str);
            assert_eq!(found, expected, "{bytes:?}");
        }
        assert_eq!(value(b"\xff").unwrap_err(), "is no UTF-8 text");
        assert!(value(&[b'x'; MAX_LEN]).is_ok());
        assert_eq!(
            value(&[b'x'; MAX_LEN + 1]).unwrap_err(),
            "has more than 16384 bytes"
        );
    }
}
