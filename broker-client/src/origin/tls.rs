//! TLS towards an origin that has settings of its own: the certificate to show, and who vouches for the origin.
//!
//! The files are read once a second, like those of credentials: their content and not their metadata. What is new comes
//! into use once it was read twice in a row and makes a whole: a certificate whose key has not come yet does not, and
//! leaves the pair before it in use. Each change is a version, with connections of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use broker_process::tls::{
    ClientRoots, ClientTls, ServerTrust, TlsError, TlsPolicy, read_material,
};
use rustls_pki_types::ServerName;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::connector::Handshake;
use crate::config::{OriginTlsSettings, OriginTrust};
use crate::status::CredentialSource;

/// Origins may be old; the tunnel may not.
pub(crate) const TLS_POLICY: TlsPolicy = TlsPolicy::LENIENT;
/// How often the files are read; with [`SETTLE`], what is new is in use well within the 5 s that are promised.
const EVERY: Duration = Duration::from_secs(1);
/// How long after a new content it is read again.
const SETTLE: Duration = Duration::from_millis(200);
/// How often the certificate's end is looked at, in reads: about once an hour.
const LOOK_AT_END: u32 = 3600;

/// TLS towards the origins with these settings.
#[derive(Debug)]
pub(crate) struct OriginTls {
    settings: OriginTlsSettings,
    /// Authorities beside the system's, where the settings name none.
    usual: Vec<PathBuf>,
    state: Mutex<State>,
    changed: Arc<Notify>,
    is_claimed: AtomicBool,
}

#[derive(Debug)]
struct State {
    in_use: ClientTls,
    /// Grows with each change.
    version: u64,
    since: SystemTime,
    /// Of what was last looked at, be it good or not.
    seen: Fingerprint,
    /// Why what was last looked at is not in use.
    refused: Option<(SystemTime, Arc<str>)>,
}

/// Of the content of all files; a file that cannot be read has one too.
type Fingerprint = [u8; 32];

impl OriginTls {
    /// Reads the files; unlike later, they must be good now.
    pub(crate) fn load(
        settings: OriginTlsSettings,
        usual: Vec<PathBuf>,
        changed: Arc<Notify>,
    ) -> Result<Self, TlsError> {
        let seen = fingerprint(&settings);
        let in_use = load(&settings, &usual)?;
        warn(&in_use);
        Ok(Self {
            state: Mutex::new(State {
                in_use,
                version: 0,
                since: SystemTime::now(),
                seen,
                refused: None,
            }),
            settings,
            usual,
            changed,
            is_claimed: AtomicBool::new(false),
        })
    }

    /// What connections begin with now, and its version.
    pub(super) fn now(&self) -> (u64, Handshake) {
        let state = self.lock();
        let name = self.settings.server_name.clone();
        let handshake = Handshake {
            config: Arc::clone(&state.in_use.config),
            server_name: name
                .map(|name| ServerName::try_from(name).expect("the settings' names were parsed")),
        };
        (state.version, handshake)
    }

    /// Whether it is the caller who is to [`keep`] it: true once.
    pub(crate) fn claim(&self) -> bool {
        !self.is_claimed.swap(true, Ordering::Relaxed)
    }

    /// How it is; `None` where it has no files that could change.
    pub(crate) fn state(&self) -> Option<CredentialSource> {
        let state = self.lock();
        let source = CredentialSource::new(&self.name()?, state.since, None);
        let source = source.warned(state.in_use.warnings.first().map(String::as_str));
        Some(match &state.refused {
            Some((at, why)) => source.not_renewed(*at, why),
            None => source,
        })
    }

    fn name(&self) -> Option<String> {
        match &self.settings {
            OriginTlsSettings {
                identity: Some((certificate, _)),
                ..
            } => Some(format!("client certificate {}", certificate.display())),
            OriginTlsSettings {
                trust: OriginTrust::Only(file),
                ..
            } => Some(format!("authorities {}", file.display())),
            OriginTlsSettings { .. } => None,
        }
    }

    /// Reads the files again, and takes what is new.
    async fn refresh(self: &Arc<Self>) {
        let mut seen = self.fingerprint().await;
        while seen != self.lock().seen {
            sleep(SETTLE).await;
            let me = Arc::clone(self);
            let loading = spawn_blocking(move || load(&me.settings, &me.usual));
            let loaded = loading.await.expect("reading files does not panic");
            let before = std::mem::replace(&mut seen, self.fingerprint().await);
            if before == seen {
                self.take(seen, loaded);
            }
        }
    }

    fn take(&self, seen: Fingerprint, loaded: Result<ClientTls, TlsError>) {
        let name = self.name().unwrap_or_default();
        let mut state = self.lock();
        state.seen = seen;
        match loaded {
            Ok(tls) => {
                tracing::info!(source = name, "taken up anew");
                warn(&tls);
                state.in_use = tls;
                state.version += 1;
                state.since = SystemTime::now();
                state.refused = None;
            }
            Err(error) => {
                tracing::error!(
                    source = name,
                    "cannot be taken up, what was there before stays in use: {error}"
                );
                state.refused = Some((SystemTime::now(), error.to_string().into()));
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Time goes on, and a certificate ends though its file does not change.
    async fn look_at_end(self: &Arc<Self>) {
        let me = Arc::clone(self);
        let loaded = spawn_blocking(move || load(&me.settings, &me.usual)).await;
        let Ok(Ok(tls)) = loaded else {
            return;
        };
        let mut state = self.lock();
        if state.refused.is_none() && state.in_use.warnings != tls.warnings {
            warn(&tls);
            state.in_use.warnings = tls.warnings;
            drop(state);
            self.changed.notify_one();
        }
    }

    async fn fingerprint(self: &Arc<Self>) -> Fingerprint {
        let me = Arc::clone(self);
        let reading = spawn_blocking(move || fingerprint(&me.settings));
        reading.await.expect("reading files does not panic")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OriginTls {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// Keeps it up to date as long as anybody uses it.
pub(crate) async fn keep(tls: Weak<OriginTls>) {
    for read in 1_u32.. {
        sleep(EVERY).await;
        let Some(tls) = tls.upgrade() else {
            return;
        };
        tls.refresh().await;
        if read.is_multiple_of(LOOK_AT_END) {
            tls.look_at_end().await;
        }
    }
}

fn load(settings: &OriginTlsSettings, usual: &[PathBuf]) -> Result<ClientTls, TlsError> {
    let trust = match &settings.trust {
        OriginTrust::Usual => ServerTrust::Verified(ClientRoots::load(usual)?),
        OriginTrust::Only(file) => ServerTrust::Verified(ClientRoots::only(file)?),
        OriginTrust::Nobody => ServerTrust::Unverified,
    };
    let identity = settings.identity.as_ref();
    let identity = identity.map(|(certificate, key)| (certificate.as_path(), key.as_path()));
    ClientTls::load(&trust, identity, TLS_POLICY)
}

fn fingerprint(settings: &OriginTlsSettings) -> Fingerprint {
    let mut all = Context::new(&SHA256);
    if let Some((certificate, key)) = &settings.identity {
        all.update(&of_file(certificate));
        all.update(&of_file(key));
    }
    if let OriginTrust::Only(authorities) = &settings.trust {
        all.update(&of_file(authorities));
    }
    finished(all)
}

fn of_file(path: &Path) -> Fingerprint {
    let mut content = Context::new(&SHA256);
    match read_material(path) {
        Ok(bytes) => content.update(&bytes),
        Err(error) => content.update(error.to_string().as_bytes()),
    }
    finished(content)
}

fn finished(context: Context) -> Fingerprint {
    let digest = context.finish();
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn warn(tls: &ClientTls) {
    for warning in &tls.warnings {
        tracing::warn!("{warning}");
    }
}
