//! Where credentials come from, and what keeps those that change up to date.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use accept_rules::{MissingVariable, Source};
use broker_process::settings::{Environment, nearest};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::command::CommandSource;
use super::file::{self, FileSource};
use super::pool::Pool;
use super::{CredentialError, Secret, Unavailable};
use crate::config::CommandSettings;
use crate::status::{CredentialSource, StatusBoard};

/// Every source of one agent; clones are the same. What two rules, or the rules before and after a change of the accept
/// file, take from the same place is one source.
#[derive(Clone)]
pub(crate) struct Sources(Arc<Inner>);

struct Inner {
    environment: Environment,
    /// Those that a rule uses, or a request that began before the rules changed.
    files: Mutex<BTreeMap<PathBuf, Weak<FileSource>>>,
    /// Those that a rule has used, by variable.
    pools: Mutex<BTreeMap<String, Arc<Pool>>>,
    /// Those of the settings, by name.
    commands: BTreeMap<String, Arc<CommandSource>>,
    /// A source came, went, or holds something else now.
    changed: Arc<Notify>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// One source's value, as a credential uses it.
#[derive(Debug)]
pub(super) enum Value {
    Fixed(Arc<Secret>),
    Pool(Arc<Pool>),
    File(Arc<FileSource>),
    Command(Arc<CommandSource>),
}

impl Value {
    /// `None` where it can change.
    pub(super) fn fixed(&self) -> Option<Arc<Secret>> {
        match self {
            Self::Fixed(value) => Some(Arc::clone(value)),
            Self::Pool(_) | Self::File(_) | Self::Command(_) => None,
        }
    }

    pub(super) async fn now(&self) -> Result<Arc<Secret>, Unavailable> {
        match self {
            Self::Fixed(value) => Ok(Arc::clone(value)),
            Self::Pool(pool) => Ok(pool.next()),
            Self::File(file) => file.now(),
            Self::Command(command) => command.now().await,
        }
    }

    pub(super) fn takes_turns(&self) -> bool {
        matches!(self, Self::Pool(_))
    }

    /// Asks for what is there by now, before its time.
    pub(super) async fn renew(&self) {
        match self {
            Self::Fixed(_) | Self::Pool(_) => {}
            Self::File(file) => file.refresh().await,
            Self::Command(command) => {
                if let Some(run) = command.renew() {
                    run.await;
                }
            }
        }
    }

    /// The same, without waiting for it; a file is read soon anyway.
    pub(super) fn renew_soon(&self) {
        if let Self::Command(command) = self {
            drop(command.renew());
        }
    }
}

impl Sources {
    /// Variables, and the settings' commands.
    pub(crate) fn new(
        environment: Environment,
        commands: &BTreeMap<String, CommandSettings>,
    ) -> Self {
        let changed = Arc::<Notify>::default();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let command = |(name, settings): (&String, &CommandSettings)| {
            let (changed, tasks, stop) = (Arc::clone(&changed), tasks.clone(), stop.clone());
            let command = CommandSource::new(name, settings, changed, tasks, stop);
            (name.clone(), Arc::new(command))
        };
        Self(Arc::new(Inner {
            commands: commands.iter().map(command).collect(),
            environment,
            files: Mutex::default(),
            pools: Mutex::default(),
            changed,
            tasks,
            stop,
        }))
    }

    /// A variable as an origin may have it: everybody sees an origin, so its parts come from nowhere else.
    pub(crate) fn plain_variable(&self, name: &str) -> Result<&str, CredentialError> {
        for kind in ["POOL", "FILE"] {
            let variable = format!("{name}_{kind}");
            if self.variable(&variable).is_some() {
                let name = name.into();
                return Err(CredentialError::NotForOrigin { name, variable });
            }
        }
        self.variable(name).ok_or_else(|| missing(name))
    }

    pub(super) fn find(&self, source: &Source) -> Result<Value, CredentialError> {
        match source {
            Source::Variable(name) => self.find_variable(name),
            Source::File(path) => Ok(Value::File(self.file(Path::new(&**path)))),
            Source::Exec(name) => Ok(Value::Command(self.command(name)?)),
        }
    }

    /// A pool wins over the variable itself, as brokers have had it for years.
    fn find_variable(&self, name: &str) -> Result<Value, CredentialError> {
        let (pool, file) = (format!("{name}_POOL"), format!("{name}_FILE"));
        match (
            self.variable(&pool),
            self.variable(&file),
            self.variable(name),
        ) {
            (Some(_), Some(_), _) => Err(CredentialError::Twice {
                first: pool,
                second: file,
            }),
            (None, Some(_), Some(_)) => Err(CredentialError::Twice {
                first: name.into(),
                second: file,
            }),
            (Some(list), None, _) => Ok(Value::Pool(self.pool(name, list)?)),
            (None, Some(path), None) if path.starts_with('/') => {
                Ok(Value::File(self.file(Path::new(path))))
            }
            (None, Some(_), None) => Err(CredentialError::RelativeFile { name: name.into() }),
            (None, None, Some(value)) => Ok(Value::Fixed(Arc::new(Secret::new(value)))),
            (None, None, None) => Err(missing(name)),
        }
    }

    /// Keeps all sources up to date, those of later rules too, and tells `board` how they are, until `stop`.
    pub(crate) async fn keep(self, board: StatusBoard, stop: CancellationToken) {
        let Inner { tasks, changed, .. } = &*self.0;
        let keeping = async {
            loop {
                for file in self.files().iter().filter(|file| file.claim()) {
                    let (file, stop) = (Arc::downgrade(file), self.0.stop.clone());
                    drop(
                        tasks
                            .spawn(async move { stop.run_until_cancelled(file::keep(file)).await }),
                    );
                }
                for command in self.0.commands.values().filter(|command| command.claim()) {
                    let command = Arc::clone(command);
                    // What is wrong with it is told now, and not with the first request.
                    drop(tasks.spawn(async move { command.run_now().await }));
                }
                self.tell(&board);
                changed.notified().await;
            }
        };
        stop.run_until_cancelled(keeping).await;
        self.0.stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    /// Tells `board` how they all are.
    pub(crate) fn tell(&self, board: &StatusBoard) {
        board.credentials(self.states());
    }

    fn states(&self) -> Vec<CredentialSource> {
        let files = self.files();
        let commands = self.0.commands.values();
        let files = files.iter().map(|file| file.state());
        files
            .chain(commands.filter_map(|command| command.state()))
            .collect()
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.0.environment.get(name)
    }

    fn pool(&self, name: &str, list: &str) -> Result<Arc<Pool>, CredentialError> {
        let mut pools = self.0.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(name) {
            return Ok(Arc::clone(pool));
        }
        let pool = Arc::new(Pool::read(name, list)?);
        pools.insert(name.to_owned(), Arc::clone(&pool));
        Ok(pool)
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

    fn command(&self, name: &str) -> Result<Arc<CommandSource>, CredentialError> {
        let commands = &self.0.commands;
        let command = commands.get(name).ok_or_else(|| {
            let near = nearest(name, commands.keys().map(String::as_str));
            CredentialError::UnknownCommand {
                name: name.to_owned(),
                near: near.map(str::to_owned),
            }
        })?;
        command.use_it();
        self.0.changed.notify_one();
        Ok(Arc::clone(command))
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
