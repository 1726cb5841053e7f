//! The server's settings: flag, environment and YAML, made into one typed value at start.

mod table;
mod tenants;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use broker_process::logging::LogSettings;
use broker_process::settings::{
    Environment, Setting, Settings, SettingsError, boolean, duration, integer, positive_duration,
    shown,
};
use broker_process::threads;
use broker_process::tls::{ClientAuthorities, PostQuantum, ServerTls, TlsError, TlsMin, TlsPolicy};
use broker_protocol::{InstanceName, TenantId};
use clap::{ArgMatches, Command};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use table::ListenerTlsSettings;

pub use table::{ADMIN_LISTEN, AGENTS_LISTEN, CALLERS_LISTEN, TABLE};
pub use tenants::{
    Admission, AgentEntry, AgentScope, CallerEntry, Credential, CredentialPlace, Tenant,
};

/// Everything that the server was told, checked.
#[derive(Debug)]
pub struct Config {
    /// Where agents dial in.
    pub agents_listener: ListenerConfig,
    /// Where callers send requests.
    pub callers_listener: ListenerConfig,
    /// Where health is told.
    pub admin_listener: ListenerConfig,
    /// This server's name among several.
    pub node: String,
    /// Where `<tenant>.<domain>` names the tenant, in lower case.
    pub domain: Option<String>,
    /// Whose agents and callers there are.
    pub tenants: BTreeMap<TenantId, Tenant>,
    /// Requests in flight at once in one tunnel, 1 to 250.
    pub max_streams: u32,
    /// The most that any answer may take to begin.
    pub response_timeout: Duration,
    /// How long a reader may take nothing while bytes wait for it.
    pub stall_timeout: Duration,
    /// How long requests in flight may take to finish at the end; zero cuts them at once.
    pub drain_timeout: Duration,
    /// How many threads carry the work.
    pub threads: usize,
    /// How operational logs are written.
    pub log: LogSettings,
    /// What the operator should know, though nothing is refused for it.
    pub warnings: Vec<String>,
}

/// One port, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The address to bind.
    pub listen: SocketAddr,
    /// TLS, where it is spoken.
    pub tls: Option<ListenerTls>,
}

/// Certificate and key of a listener, which were found to belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who vouches for clients, which are then asked for a certificate.
    pub client_ca: Option<PathBuf>,
    /// How strong a connection must be.
    pub policy: TlsPolicy,
}

impl ListenerConfig {
    /// What accepts TLS here, offering `alpn` in that order; nothing where TLS is not spoken.
    ///
    /// # Errors
    /// If certificate or key can no longer be used.
    pub fn acceptor(&self, alpn: &[&[u8]]) -> Result<Option<TlsAcceptor>, TlsError> {
        let Some(tls) = &self.tls else {
            return Ok(None);
        };
        let clients = tls.client_ca.as_deref().map(ClientAuthorities::load);
        let clients = clients.transpose()?;
        let loaded = ServerTls::load(
            &tls.certificate,
            &tls.key,
            clients.as_ref(),
            tls.policy,
            alpn,
        )?;
        Ok(Some(TlsAcceptor::from(Arc::clone(&loaded.config))))
    }
}

/// The arguments of `broker-server run`.
#[must_use]
pub fn run_command() -> Command {
    TABLE.arguments(Command::new("run").about(
        "Run the server; without a settings file, a development server on this machine alone",
    ))
}

/// Where a development server keeps its folder, if one is to start because no settings file is named.
///
/// # Errors
/// If the settings file that is named cannot be read.
pub fn development_folder(
    arguments: &ArgMatches,
    environment: &Environment,
    folder: &Path,
) -> Result<Option<PathBuf>, SettingsError> {
    let settings = Settings::gather(&TABLE, arguments, environment, folder)?;
    if settings.place(&table::CONFIG).is_some() {
        return Ok(None);
    }
    let written = settings.value(&table::DEV_DIR, broker_process::settings::path);
    settings.finish()?;
    Ok(Some(folder.join(written)))
}

impl Config {
    /// Reads what [`run_command`] matched, the environment, and the settings file that one of them names. `folder` is
    /// what relative paths outside that file are relative to.
    ///
    /// # Errors
    /// All that is wrong, each with its source, field, value and fix.
    pub fn load(
        arguments: &ArgMatches,
        environment: &Environment,
        folder: &Path,
    ) -> Result<Self, SettingsError> {
        let settings = Settings::gather(&TABLE, arguments, environment, folder)?;
        let mut warnings = Vec::new();

        let agents_listener = agents_listener(&settings, &mut warnings);
        let callers_listener = callers_listener(&settings, &mut warnings);
        let admin_listener = ListenerConfig {
            listen: settings.value(&ADMIN_LISTEN, address),
            tls: None,
        };
        let node = settings
            .optional(&table::NODE, str::parse::<InstanceName>)
            .unwrap_or_else(node_name);
        let domain = settings.optional(&table::DOMAIN, domain);
        let tenants = match settings.section(&table::TENANTS) {
            Some(section) => {
                let asks_for_certificates = settings.place(&table::CALLERS_CLIENT_CA).is_some();
                tenants::read(&section, asks_for_certificates, &mut warnings)
            }
            None => {
                settings.problem(
                    "no tenants: nobody could connect (list agents and callers under tenants in the settings file)",
                );
                BTreeMap::new()
            }
        };
        let max_streams = settings.value(&table::MAX_STREAMS, integer(1..=250));
        let response_timeout = settings.value(&table::RESPONSE_TIMEOUT, positive_duration);
        let stall_timeout = settings.value(&table::STALL_TIMEOUT, positive_duration);
        let drain_timeout = settings.value(&table::DRAIN_TIMEOUT, duration);
        let threads = threads::read(&settings);
        let log = LogSettings::read(&settings);

        settings.finish()?;
        Ok(Self {
            agents_listener: agents_listener.expect("a missing address was noted as a problem"),
            callers_listener: callers_listener.expect("a missing address was noted as a problem"),
            admin_listener,
            node: node.as_str().to_owned(),
            domain,
            tenants,
            max_streams,
            response_timeout,
            stall_timeout,
            drain_timeout,
            threads,
            log,
            warnings,
        })
    }
}

fn agents_listener(settings: &Settings<'_>, warnings: &mut Vec<String>) -> Option<ListenerConfig> {
    let fix = "agents have nowhere to dial in (set agents-listener.listen in the settings file, such as 0.0.0.0:8443)";
    let tls = listener_tls(settings, &table::AGENTS_TLS, warnings);
    let may_be_plain = settings.value(&table::AGENTS_PLAINTEXT, boolean);
    let listen = settings.required(&AGENTS_LISTEN, fix, address)?;
    if is_open_plaintext(settings, listen, &table::AGENTS_TLS) {
        if may_be_plain {
            warnings.push(
                "agents-listener speaks no TLS: secrets and answers are readable on the way to it"
                    .to_owned(),
            );
        } else {
            settings.refuse(
                &AGENTS_LISTEN,
                "without TLS agents are taken from this machine alone (set agents-listener.tls, listen on 127.0.0.1, \
                 or set agents-listener.insecure-plaintext: true behind a proxy that ends TLS)",
            );
        }
    }
    if tls
        .as_ref()
        .is_some_and(|tls| tls.policy.min == TlsMin::V1_2)
    {
        warnings
            .push("agents-listener.tls-min is 1.2: tunnels may be weaker than TLS 1.3".to_owned());
    }
    if tls
        .as_ref()
        .is_some_and(|tls| tls.policy.post_quantum == PostQuantum::Off)
    {
        warnings.push(
            "agents-listener.post-quantum is off: what is recorded today can be read by a later quantum computer"
                .to_owned(),
        );
    }
    Some(ListenerConfig { listen, tls })
}

fn callers_listener(settings: &Settings<'_>, warnings: &mut Vec<String>) -> Option<ListenerConfig> {
    let fix = "callers have nowhere to send requests (set callers-listener.listen in the settings file, such as \
               127.0.0.1:8080)";
    let mut tls = listener_tls(settings, &table::CALLERS_TLS, warnings);
    if let Some(client_ca) = client_ca(settings) {
        match &mut tls {
            Some(tls) => tls.client_ca = Some(client_ca),
            None => settings.refuse(
                &table::CALLERS_CLIENT_CA,
                format!(
                    "certificates are shown in TLS alone, which this listener does not speak (set {} as well)",
                    table::CALLERS_TLS.certificate.places()
                ),
            ),
        }
    }
    let listen = settings.required(&CALLERS_LISTEN, fix, address)?;
    if is_open_plaintext(settings, listen, &table::CALLERS_TLS) {
        warnings.push(
            "callers-listener speaks no TLS: callers' secrets and answers are readable on the way to it".to_owned(),
        );
    }
    Some(ListenerConfig { listen, tls })
}

/// The authorities of callers' certificates, loaded once now as the listener's own certificate is.
fn client_ca(settings: &Settings<'_>) -> Option<PathBuf> {
    let path = settings.path(&table::CALLERS_CLIENT_CA)?;
    if let Err(error) = ClientAuthorities::load(&path) {
        settings.refuse(&table::CALLERS_CLIENT_CA, error);
    }
    Some(path)
}

fn is_open_plaintext(
    settings: &Settings<'_>,
    listen: SocketAddr,
    tls: &ListenerTlsSettings,
) -> bool {
    let wants_tls = [&tls.certificate, &tls.key]
        .iter()
        .any(|setting| settings.place(setting).is_some());
    !wants_tls && !listen.ip().is_loopback()
}

/// A listener's certificate and key, loaded once now so that a broken one is told before any port opens.
fn listener_tls(
    settings: &Settings<'_>,
    table: &ListenerTlsSettings,
    warnings: &mut Vec<String>,
) -> Option<ListenerTls> {
    let policy = TlsPolicy {
        min: settings.value(&table.min, str::parse),
        post_quantum: settings.value(&table.post_quantum, str::parse),
    };
    let half = |given: &Setting, missing: &Setting| {
        settings.refuse(
            given,
            format!("it is alone (set {} as well)", missing.places()),
        );
        None
    };
    match (settings.path(&table.certificate), settings.path(&table.key)) {
        (None, None) => None,
        (Some(_), None) => half(&table.certificate, &table.key),
        (None, Some(_)) => half(&table.key, &table.certificate),
        (Some(certificate), Some(key)) => {
            match ServerTls::load(&certificate, &key, None, policy, &[]) {
                Ok(loaded) => warnings.extend(loaded.warnings),
                Err(error) => settings.refuse(&table.certificate, error),
            }
            Some(ListenerTls {
                certificate,
                key,
                client_ca: None,
                policy,
            })
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{} is not an address with a port (write 127.0.0.1:8080, or 0.0.0.0:8080 for all addresses)",
            shown(text)
        )
    })
}

fn domain(text: &str) -> Result<String, String> {
    match ServerName::try_from(text) {
        Ok(ServerName::DnsName(name)) if !text.ends_with('.') => {
            Ok(name.as_ref().to_ascii_lowercase())
        }
        _ => Err(format!(
            "{} is not a domain (write broker.example)",
            shown(text)
        )),
    }
}

/// The machine's name where it is a name that we can show, else one that no other server has.
fn node_name() -> InstanceName {
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host_name.trim().parse().unwrap_or_else(|_| {
        format!("node-{}", Uuid::new_v4().simple())
            .parse()
            .expect("hexadecimal digits make a name")
    })
}

#[cfg(test)]
mod tests;
