//! Where credentials come from, and what keeps those that change up to date.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use accept_rules::{Declared, MissingVariable, Source, Template};
use broker_process::settings::{Environment, nearest};
use broker_process::tls::TlsError;
use tokio_util::sync::CancellationToken;

use super::aws::{AwsIdentity, AwsKeys, EksToken};
use super::command::CommandSource;
use super::file::{self, FileSource};
use super::gcp::Gcp;
use super::github_app::GithubApp;
use super::oauth2::OAuth2;
use super::pool::Pool;
use super::renewed::{self, Call, Fetch, Household, Renewed};
use super::vault::Vault;
use super::{CredentialError, Secret, Unavailable};
use crate::config::{CredentialSettings, OriginTlsSettings, VaultLogin, unknown_aws};
use crate::control_call::ControlCalls;
use crate::origin::{OriginTls, keep_tls};
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
    /// Those that are asked for, and that a rule uses, as `files`; by their names in status and log.
    renewed: Live<Secret>,
    /// The same for keys of Amazon Web Services.
    aws: Live<AwsKeys>,
    /// TLS of origins that has files of its own, as `files`.
    origin_tls: Mutex<BTreeMap<OriginTlsSettings, Weak<OriginTls>>>,
    /// What the settings say of them.
    settings: CredentialSettings,
    calls: ControlCalls,
    household: Household,
}

type Live<T> = Mutex<BTreeMap<String, Weak<Renewed<T>>>>;

/// One source's value, as a credential uses it.
#[derive(Debug)]
pub(super) enum Value {
    Fixed(Arc<Secret>),
    Pool(Arc<Pool>),
    File(Arc<FileSource>),
    Renewed(Arc<Renewed<Secret>>),
}

impl Value {
    /// `None` where it can change.
    pub(super) fn fixed(&self) -> Option<Arc<Secret>> {
        match self {
            Self::Fixed(value) => Some(Arc::clone(value)),
            Self::Pool(_) | Self::File(_) | Self::Renewed(_) => None,
        }
    }

    pub(super) async fn now(&self) -> Result<Arc<Secret>, Unavailable> {
        match self {
            Self::Fixed(value) => Ok(Arc::clone(value)),
            Self::Pool(pool) => Ok(pool.next()),
            Self::File(file) => file.now(),
            Self::Renewed(source) => source.now().await,
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
            Self::Renewed(source) => {
                if let Some(attempt) = source.renew() {
                    attempt.await;
                }
            }
        }
    }

    /// The same, without waiting for it; a file is read soon anyway.
    pub(super) fn renew_soon(&self) {
        if let Self::Renewed(source) = self {
            drop(source.renew());
        }
    }
}

/// A secret that the settings have, put together anew for each use.
#[derive(Debug)]
pub(super) struct Composed {
    text: Template,
    values: Box<[Value]>,
}

impl Composed {
    pub(super) async fn now(&self) -> Result<Secret, Unavailable> {
        let mut now = Vec::with_capacity(self.values.len());
        for value in &self.values {
            now.push(value.now().await?);
        }
        let mut now = now.iter();
        let mut next = || now.next().expect("each source has a value").expose();
        let Ok(text) = self.text.expand(|_| Ok::<_, Infallible>(next()));
        Ok(Secret::new(text))
    }
}

impl Sources {
    /// Variables, and what the settings declare.
    pub(crate) fn new(
        environment: Environment,
        settings: &CredentialSettings,
        calls: ControlCalls,
    ) -> Self {
        Self(Arc::new(Inner {
            environment,
            files: Mutex::default(),
            pools: Mutex::default(),
            renewed: Mutex::default(),
            origin_tls: Mutex::default(),
            aws: Mutex::default(),
            settings: settings.clone(),
            calls,
            household: Household::default(),
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

    /// TLS towards origins with these settings; `usual` are the authorities where they name none.
    pub(crate) fn origin_tls(
        &self,
        settings: &OriginTlsSettings,
        usual: Vec<PathBuf>,
    ) -> Result<Arc<OriginTls>, TlsError> {
        let all = &self.0.origin_tls;
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tls) = all.get(settings).and_then(Weak::upgrade) {
            return Ok(tls);
        }
        let changed = Arc::clone(&self.0.household.changed);
        let tls = Arc::new(OriginTls::load(settings.clone(), usual, changed)?);
        all.insert(settings.clone(), Arc::downgrade(&tls));
        self.0.household.changed.notify_one();
        Ok(tls)
    }

    fn all_tls(&self) -> Vec<Arc<OriginTls>> {
        used(&self.0.origin_tls)
    }

    pub(super) fn find(&self, source: &Source) -> Result<Value, CredentialError> {
        match source {
            Source::Variable(name) => self.find_variable(name),
            Source::File(path) => Ok(Value::File(self.file(Path::new(&**path)))),
            Source::Declared(kind, name) => Ok(Value::Renewed(self.declared(*kind, name)?)),
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
        let Household {
            changed,
            tasks,
            stop: stop_sources,
        } = &self.0.household;
        let keeping = async {
            loop {
                for file in self.files().iter().filter(|file| file.claim()) {
                    self.spawn(file::keep(Arc::downgrade(file)));
                }
                for source in used(&self.0.renewed).iter().filter(|it| it.claim()) {
                    self.spawn(renewed::keep(Arc::downgrade(source)));
                }
                for source in used(&self.0.aws).iter().filter(|it| it.claim()) {
                    self.spawn(renewed::keep(Arc::downgrade(source)));
                }
                for tls in self.all_tls().iter().filter(|tls| tls.claim()) {
                    self.spawn(keep_tls(Arc::downgrade(tls)));
                }
                self.tell(&board);
                changed.notified().await;
            }
        };
        stop.run_until_cancelled(keeping).await;
        stop_sources.cancel();
        tasks.close();
        tasks.wait().await;
    }

    fn spawn(&self, keeping: impl Future<Output = ()> + Send + 'static) {
        let Household { tasks, stop, .. } = &self.0.household;
        let stop = stop.clone();
        drop(tasks.spawn(async move { stop.run_until_cancelled(keeping).await }));
    }

    /// What is called for those that a rule uses.
    pub(crate) fn calls(&self) -> Vec<Call> {
        let (aws, renewed) = (used(&self.0.aws), used(&self.0.renewed));
        let aws = aws.iter().flat_map(|source| source.calls());
        aws.chain(renewed.iter().flat_map(|source| source.calls()))
            .collect()
    }

    /// Tells `board` how they all are.
    pub(crate) fn tell(&self, board: &StatusBoard) {
        board.credentials(self.states());
    }

    fn states(&self) -> Vec<CredentialSource> {
        let (files, tls) = (self.files(), self.all_tls());
        let (aws, renewed) = (used(&self.0.aws), used(&self.0.renewed));
        let files = files.iter().map(|file| file.state());
        let aws = aws.iter().filter_map(|source| source.state());
        let renewed = renewed.iter().filter_map(|source| source.state());
        let tls = tls.iter().filter_map(|tls| tls.state());
        files.chain(aws).chain(renewed).chain(tls).collect()
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
        let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(path).and_then(Weak::upgrade) {
            return file;
        }
        let file = Arc::new(FileSource::read(
            path,
            Arc::clone(&self.0.household.changed),
        ));
        files.insert(path.to_owned(), Arc::downgrade(&file));
        self.0.household.changed.notify_one();
        file
    }

    fn declared(
        &self,
        kind: Declared,
        name: &str,
    ) -> Result<Arc<Renewed<Secret>>, CredentialError> {
        let settings = &self.0.settings;
        Ok(match kind {
            Declared::Exec => {
                let command = find(&settings.commands, kind, name)?;
                self.live(&self.0.renewed, format!("command {name}"), || {
                    Box::new(CommandSource(command.clone()))
                })
            }
            Declared::Gcp => {
                let gcp = find(&settings.gcp, kind, name)?;
                self.live(&self.0.renewed, format!("gcp {name}"), || {
                    Box::new(Gcp::new(gcp, &self.0.environment, self.0.calls.clone()))
                })
            }
            Declared::OAuth2 => {
                let oauth2 = find(&settings.oauth2, kind, name)?;
                let secret = self.composed(&oauth2.client_secret, kind, name)?;
                self.live(&self.0.renewed, format!("oauth2 {name}"), || {
                    Box::new(OAuth2 {
                        settings: oauth2.clone(),
                        secret,
                        calls: self.0.calls.clone(),
                    })
                })
            }
            Declared::Vault => {
                let vault = find(&settings.vault, kind, name)?;
                let token = match &vault.login {
                    VaultLogin::Token(token) => Some(self.composed(token, kind, name)?),
                    VaultLogin::Kubernetes { .. } => None,
                };
                self.live(&self.0.renewed, format!("vault {name}"), || {
                    Box::new(Vault::new(vault, token, self.0.calls.clone()))
                })
            }
            Declared::GithubApp => {
                let app = find(&settings.github_apps, kind, name)?;
                self.live(&self.0.renewed, format!("github-app {name}"), || {
                    Box::new(GithubApp {
                        settings: app.clone(),
                        calls: self.0.calls.clone(),
                    })
                })
            }
            Declared::Eks => {
                let eks = find(&settings.eks, kind, name)?;
                let (keys, region) = self.aws(&eks.aws)?;
                self.live(&self.0.renewed, format!("eks {name}"), || {
                    Box::new(EksToken::new(eks, &region, keys))
                })
            }
        })
    }

    /// A secret of the settings. Only what asks no service may stand in it, so that none waits for itself.
    fn composed(
        &self,
        text: &Template,
        kind: Declared,
        name: &str,
    ) -> Result<Composed, CredentialError> {
        let values = text.sources().map(|source| self.find(source));
        let values = values.collect::<Result<Box<[Value]>, _>>();
        let values = values.map_err(|error| CredentialError::OfSettings {
            place: format!("credentials.{}.{name}", kind.word()),
            error: Box::new(error),
        })?;
        Ok(Composed {
            text: text.clone(),
            values,
        })
    }

    /// The keys of an entry of the settings, and its region.
    pub(super) fn aws(
        &self,
        name: &str,
    ) -> Result<(Arc<Renewed<AwsKeys>>, Box<str>), CredentialError> {
        let Inner {
            settings,
            environment,
            calls,
            aws,
            ..
        } = &*self.0;
        let entry = settings.aws.get(name);
        let entry =
            entry.ok_or_else(|| CredentialError::UnknownAws(unknown_aws(name, &settings.aws)))?;
        let keys = self.live(aws, format!("aws {name}"), || {
            Box::new(AwsIdentity::new(entry, environment, calls))
        });
        Ok((keys, entry.region.as_str().into()))
    }

    /// The source of this name, made where nobody uses it yet.
    fn live<T: PartialEq + Send + Sync + 'static>(
        &self,
        sources: &Live<T>,
        name: String,
        fetch: impl FnOnce() -> Box<dyn Fetch<T>>,
    ) -> Arc<Renewed<T>> {
        let household = &self.0.household;
        let mut sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = sources.get(&name).and_then(Weak::upgrade) {
            return source;
        }
        let source = Renewed::new(name.clone(), fetch(), household.clone());
        sources.insert(name, Arc::downgrade(&source));
        household.changed.notify_one();
        source
    }

    fn files(&self) -> Vec<Arc<FileSource>> {
        used(&self.0.files)
    }
}

/// What the settings declare under this name.
fn find<'s, T>(
    declared: &'s BTreeMap<String, T>,
    kind: Declared,
    name: &str,
) -> Result<&'s T, CredentialError> {
    declared.get(name).ok_or_else(|| {
        let near = nearest(name, declared.keys().map(String::as_str));
        CredentialError::Undeclared {
            kind: kind.word(),
            name: name.to_owned(),
            near: near.map(str::to_owned),
        }
    })
}

/// Those that somebody uses; the others are forgotten.
fn used<K: Ord, T>(sources: &Mutex<BTreeMap<K, Weak<T>>>) -> Vec<Arc<T>> {
    let mut sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
    sources.retain(|_, source| source.strong_count() > 0);
    sources.values().filter_map(Weak::upgrade).collect()
}

fn missing(name: &str) -> CredentialError {
    CredentialError::Missing(MissingVariable { name: name.into() })
}
