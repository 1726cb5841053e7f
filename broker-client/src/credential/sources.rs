//! Where credentials come from, and what keeps those that change up to date.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use accept_rules::{MissingVariable, Source};
use broker_process::settings::Environment;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::file::{self, FileSource};
use super::{CredentialError, Secret, Unavailable};
use crate::status::{CredentialSource, StatusBoard};

/// Every source of one agent; clones are the same. What two rules, or the rules before and after a change of the accept
/// file, take from the same place is one source.
#[derive(Clone)]
pub(crate) struct Sources(Arc<Inner>);

struct Inner {
    environment: Environment,
    /// Those that a rule uses, or a request that began before the rules changed.
    files: Mutex<BTreeMap<PathBuf, Weak<FileSource>>>,
    /// A source came, went, or holds something else now.
    changed: Arc<Notify>,
}

/// One source's value, as a credential uses it.
#[derive(Debug)]
pub(super) enum Value {
    Fixed(Arc<Secret>),
    File(Arc<FileSource>),
}

impl Value {
    /// `None` where it can change.
    pub(super) fn fixed(&self) -> Option<Arc<Secret>> {
        match self {
            Self::Fixed(value) => Some(Arc::clone(value)),
            Self::File(_) => None,
        }
    }

    pub(super) fn now(&self) -> Result<Arc<Secret>, Unavailable> {
        match self {
            Self::Fixed(value) => Ok(Arc::clone(value)),
            Self::File(file) => file.now(),
        }
    }
}

impl Sources {
    pub(crate) fn new(environment: Environment) -> Self {
        Self(Arc::new(Inner {
            environment,
            files: Mutex::default(),
            changed: Arc::default(),
        }))
    }

    /// A variable as an origin may have it: everybody sees an origin, so its parts come from nowhere else.
    pub(crate) fn plain_variable(&self, name: &str) -> Result<&str, CredentialError> {
        match (self.variable(name), self.variable_file(name)) {
            (None, None) => Err(missing(name)),
            (Some(value), None) => Ok(value),
            (_, Some(_)) => Err(CredentialError::FileForOrigin { name: name.into() }),
        }
    }

    pub(super) fn find(&self, source: &Source) -> Result<Value, CredentialError> {
        match source {
            Source::Variable(name) => match (self.variable(name), self.variable_file(name)) {
                (None, None) => Err(missing(name)),
                (Some(value), None) => Ok(Value::Fixed(Arc::new(Secret::new(value)))),
                (None, Some(path)) if path.is_absolute() => Ok(Value::File(self.file(path))),
                (None, Some(_)) => Err(CredentialError::RelativeFile {
                    name: name.to_string(),
                }),
                (Some(_), Some(_)) => Err(CredentialError::Twice {
                    name: name.to_string(),
                }),
            },
            Source::File(path) => Ok(Value::File(self.file(Path::new(&**path)))),
            Source::Exec(name) => Err(CredentialError::UnknownCommand {
                name: name.to_string(),
            }),
        }
    }

    /// Keeps all sources up to date, those of later rules too, and tells `board` how they are, until `stop`.
    pub(crate) async fn keep(self, board: StatusBoard, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let keeping = async {
            loop {
                for file in self.files().iter().filter(|file| file.claim()) {
                    let (file, stop) = (Arc::downgrade(file), stop.clone());
                    drop(
                        tasks
                            .spawn(async move { stop.run_until_cancelled(file::keep(file)).await }),
                    );
                }
                self.tell(&board);
                self.0.changed.notified().await;
            }
        };
        stop.run_until_cancelled(keeping).await;
        tasks.close();
        tasks.wait().await;
    }

    /// Tells `board` how they all are.
    pub(crate) fn tell(&self, board: &StatusBoard) {
        board.credentials(self.states());
    }

    fn states(&self) -> Vec<CredentialSource> {
        self.files().iter().map(|file| file.state()).collect()
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.0.environment.get(name)
    }

    fn variable_file(&self, name: &str) -> Option<&Path> {
        self.variable(&format!("{name}_FILE")).map(Path::new)
    }

    fn file(&self, path: &Path) -> Arc<FileSource> {
        let mut files = self.lock();
        if let Some(file) = files.get(path).and_then(Weak::upgrade) {
            return file;
        }
        let file = Arc::new(FileSource::read(path, Arc::clone(&self.0.changed)));
        files.insert(path.to_owned(), Arc::downgrade(&file));
        self.0.changed.notify_one();
        file
    }

    fn files(&self) -> Vec<Arc<FileSource>> {
        let mut files = self.lock();
        files.retain(|_, file| file.strong_count() > 0);
        files.values().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Weak<FileSource>>> {
        self.0.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing(name: &str) -> CredentialError {
    CredentialError::Missing(MissingVariable { name: name.into() })
}
