//! The agent's settings: flag, environment and YAML, made into one typed value at start.

mod commands;
mod connection;
mod credentials;
mod limits;
mod networks;
mod origins;
mod rule_settings;
mod server_url;
mod table;
mod tunnel;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use accept_rules::Origin;
use broker_process::logging::LogSettings;
use broker_process::settings::{Environment, Settings, SettingsError, boolean, duration, shown};
use broker_process::threads;
use broker_protocol::{AgentName, InstanceName};
use clap::{Arg, ArgMatches, Command};
use http::uri::Scheme;

use crate::instance::DataFolder;

pub use crate::address_policy::AddressPolicy;
pub use crate::proxy::{Exceptions, Proxies, Proxy, ProxyChoice, ProxyUrlError};
pub use commands::CommandSettings;
pub(crate) use connection::Which;
pub use connection::{Accept, Connection};
pub(crate) use credentials::unknown_aws;
pub use credentials::{
    AssumedRole, AwsSettings, ClientAuthentication, CredentialSettings, EksSettings, GcpSettings,
    GithubAppSettings, OAuth2Settings, VaultLogin, VaultSettings,
};
pub use limits::LimitSettings;
pub use origins::{
    EncodedSlash, OnSecretEcho, OriginSettings, OriginTlsSettings, OriginTrust, Origins, Probe,
    Timeouts,
};
pub use rule_settings::{ExplainToCallers, Explaining, MissingVariables, RuleSettings};
pub(crate) use server_url::default_port;
pub use server_url::{ServerUrl, ServerUrlError};
pub use table::{LOCAL_LISTEN, TABLE};
pub use tunnel::TunnelSettings;

use connection::{Stated, connections};
use credentials::credentials;
use limits::limits;
use networks::{authorities, networks, proxies, proxy_choice};
pub(crate) use origins::unverified;
use origins::{on_secret_echo, timeouts};
use rule_settings::rule_settings;
use tunnel::tunnel;

/// Where an agent keeps its data unless told otherwise.
const DEFAULT_DATA_DIR: &str = "/var/lib/broker-client";
/// Paths of the local port that another path must not hide.
const LOCAL_PATHS: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// Everything that the agent was told, checked.
pub struct Config {
    /// The agents of this process: at least one, each with a name of its own.
    pub connections: Vec<Connection>,
    /// How rules are read and applied.
    pub rules: RuleSettings,
    /// Where credentials come from that rules can only name.
    pub credentials: CredentialSettings,
    /// How servers are dialled.
    pub tunnel: TunnelSettings,
    /// More authorities to trust for origins.
    pub origin_ca_cert: Option<PathBuf>,
    /// More authorities to trust for everything: the server, origins, and proxies on the way.
    pub extra_ca_certs: Option<PathBuf>,
    /// The proxies on the way.
    pub proxies: Proxies,
    /// What holds for origins in their place.
    pub origins_proxy: ProxyChoice,
    /// The addresses that origins may have.
    pub origin_addresses: AddressPolicy,
    /// Whether `Forwarded` and `X-Forwarded-*` of callers reach origins.
    pub keep_forwarded: bool,
    /// What becomes of an answer that holds the injected credential.
    pub on_secret_echo: OnSecretEcho,
    /// What holds for every origin that `origins` does not name.
    pub timeouts: Timeouts,
    /// How much each caller may ask for, whatever the rule.
    pub limits: LimitSettings,
    /// Where health is told.
    pub local_listen: SocketAddr,
    /// The path of the health check there.
    pub healthcheck_path: String,
    /// Where audit log, keys and control socket live.
    pub data: DataFolder,
    /// This process's sub-folder there.
    pub instance: InstanceName,
    /// How long requests in flight may take to finish at the end; zero cuts them at once.
    pub drain_timeout: Duration,
    /// How many threads carry the work.
    pub threads: usize,
    /// How operational logs are written.
    pub log: LogSettings,
    /// The variables that rules may refer to as `${NAME}`.
    pub environment: Environment,
    /// What the operator should know, though nothing is refused for it.
    pub warnings: Vec<String>,
}

/// The arguments of `broker-client run`.
#[must_use]
pub fn run_command() -> Command {
    TABLE.arguments(Command::new("run").about("Run the agent"))
}

/// The arguments of `broker-client status`: what says which agent is asked.
#[must_use]
pub fn status_command() -> Command {
    Command::new("status")
        .about("Ask the agent that runs on this machine how it is")
        .args(TABLE.config.argument())
        .args(instance_arguments())
}

/// The data folder and the instance that [`status_command`] matched.
///
/// # Errors
/// All that is wrong with those two settings, and with the settings file where one is named.
pub fn status_target(
    arguments: &ArgMatches,
    environment: &Environment,
    folder: &Path,
) -> Result<(DataFolder, InstanceName), SettingsError> {
    let settings = Settings::gather(&TABLE, arguments, environment, folder)?;
    let target = (data_folder(&settings), instance(&settings));
    settings.finish()?;
    Ok(target)
}

/// The arguments that say how an accept file reads, for commands that need no agent.
pub(crate) fn reading_arguments() -> impl Iterator<Item = Arg> {
    [TABLE.config, table::UNKNOWN_KEYS]
        .into_iter()
        .filter_map(|setting| setting.argument())
        .chain([agent_argument()])
}

/// The argument that says which connection of the settings a command is about.
pub(crate) fn agent_argument() -> Arg {
    Arg::new(WHICH_AGENT)
        .long("agent")
        .value_name("NAME")
        .value_parser(str::parse::<AgentName>)
        .help("The connection that is meant, where the settings name several")
}

/// What [`agent_argument`] said.
pub(crate) fn named_agent(arguments: &ArgMatches) -> Option<&AgentName> {
    arguments.try_get_one(WHICH_AGENT).ok().flatten()
}

/// The arguments that say which agent of this machine is meant.
pub(crate) fn instance_arguments() -> impl Iterator<Item = Arg> {
    [table::DATA_DIR, table::INSTANCE]
        .into_iter()
        .filter_map(|setting| setting.argument())
}

/// Not the id of the setting of the same flag: that one is an agent's name where there is but one.
const WHICH_AGENT: &str = "which-agent";

/// How an accept file reads, beside what stands in it.
pub(crate) struct Reading {
    pub(crate) rules: RuleSettings,
    pub(crate) origins: Origins,
}

impl Reading {
    /// Takes it from the settings, for one of the connections; an agent need not be set up.
    pub(crate) fn gather(
        arguments: &ArgMatches,
        environment: &Environment,
        folder: &Path,
        which: Which<'_>,
    ) -> Result<Self, SettingsError> {
        let settings = Settings::gather(&TABLE, arguments, environment, folder)?;
        let stated = Stated::choose(&settings, folder, timeouts(&settings), which);
        let reading = Self {
            rules: rule_settings(&settings),
            origins: stated.map(|stated| stated.origins()).unwrap_or_default(),
        };
        settings.finish()?;
        Ok(reading)
    }
}

/// The accept file that one of the connections of an agent with these settings would take.
pub(crate) fn accept_of(
    arguments: &ArgMatches,
    environment: &Environment,
    folder: &Path,
    which: Which<'_>,
) -> Result<Accept, SettingsError> {
    let settings = Settings::gather(&TABLE, arguments, environment, folder)?;
    let stated = Stated::choose(&settings, folder, timeouts(&settings), which);
    let accept = stated.map_or(Accept::DenyAll, |stated| stated.accept());
    settings.finish()?;
    Ok(accept)
}

impl Config {
    /// Reads what [`run_command`] matched, the environment, and the settings file that one of them names. `folder` is
    /// what relative paths outside that file are relative to.
    ///
    /// # Errors
    /// All that is wrong, each with its source, field, value and fix.
    pub fn load(
        arguments: &ArgMatches,
        environment: Environment,
        folder: &Path,
    ) -> Result<Self, SettingsError> {
        let settings = Settings::gather(&TABLE, arguments, &environment, folder)?;
        let mut warnings = unused_variables(&environment);

        let timeouts = timeouts(&settings);
        let tunnel = tunnel(&settings, &mut warnings);
        let connections = connections(&settings, folder, timeouts, tunnel.may_be_plain);
        let rules = rule_settings(&settings);
        let credentials = credentials(&settings, &environment);
        let limits = limits(&settings);
        let origin_ca_cert = authorities(&settings, &table::CA_CERT);
        let extra_ca_certs = authorities(&settings, &table::EXTRA_CA_CERTS);
        let proxies = proxies(&settings, &mut warnings);
        let origins_proxy = proxy_choice(&settings, &table::ORIGINS_PROXY);
        let origin_addresses = settings.optional(&table::ORIGIN_ADDRESSES, networks);
        let keep_forwarded = !settings.value(&table::REMOVE_FORWARDED, boolean);
        let on_secret_echo = settings.value(&table::ON_SECRET_ECHO, on_secret_echo);
        let local_listen = settings.value(&LOCAL_LISTEN, listen_address);
        let healthcheck_path = settings.value(&table::HEALTHCHECK_PATH, local_path);
        let data = data_folder(&settings);
        let instance = instance(&settings);
        let drain_timeout = settings.value(&table::DRAIN_TIMEOUT, duration);
        let threads = threads::read(&settings);
        let log = LogSettings::read(&settings);

        settings.finish()?;
        warnings.extend(unencrypted(&connections));
        warnings.extend(connections.iter().flat_map(|it| unverified(&it.origins)));
        Ok(Self {
            connections,
            rules,
            credentials,
            tunnel,
            origin_ca_cert,
            extra_ca_certs,
            proxies,
            origins_proxy,
            origin_addresses: AddressPolicy::naming(origin_addresses.unwrap_or_default()),
            keep_forwarded,
            on_secret_echo,
            timeouts,
            limits,
            local_listen,
            healthcheck_path,
            data,
            instance,
            drain_timeout,
            threads,
            log,
            environment,
            warnings,
        })
    }

    /// What holds for the origin that a rule of `connection` writes as `origin`.
    #[must_use]
    pub fn origin(&self, connection: &Connection, origin: &str) -> OriginSettings {
        let origins = &connection.origins;
        origins.get(origin).cloned().unwrap_or(OriginSettings {
            encoded_slash: EncodedSlash::default(),
            timeouts: self.timeouts,
            proxy: ProxyChoice::default(),
            on_secret_echo: None,
            tls: None,
            probe: None,
        })
    }

    /// The proxy that leads to `server`.
    pub(crate) fn tunnel_proxy(&self, server: &ServerUrl) -> Option<&Proxy> {
        let (host, port) = (server.host().to_str(), server.port());
        let usual = || self.proxies.towards(server.is_tls(), &host, port);
        self.tunnel.proxy.or_else(usual)
    }

    /// The files with more authorities to trust for servers.
    pub(crate) fn tunnel_authorities(&self) -> Vec<PathBuf> {
        let files = [&self.extra_ca_certs, &self.tunnel.ca_cert];
        files.into_iter().flatten().cloned().collect()
    }

    /// The proxy that leads to an origin which `settings` are about.
    pub(crate) fn origin_proxy<'c>(
        &'c self,
        settings: &'c OriginSettings,
        origin: &Origin,
    ) -> Option<&'c Proxy> {
        let is_tls = *origin.scheme() == Scheme::HTTPS;
        let port = origin.authority().port_u16();
        let port = port.unwrap_or(default_port(is_tls));
        let usual = || {
            self.proxies
                .towards(is_tls, origin.authority().host(), port)
        };
        settings.proxy.or_else(|| self.origins_proxy.or_else(usual))
    }

    /// The files with more authorities to trust for origins.
    pub(crate) fn origin_authorities(&self) -> Vec<PathBuf> {
        let files = [&self.extra_ca_certs, &self.origin_ca_cert];
        files.into_iter().flatten().cloned().collect()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

fn unencrypted(connections: &[Connection]) -> Vec<String> {
    let plain = |server: &&ServerUrl| !server.is_tls() && !server.is_loopback();
    let servers = connections.iter().map(|connection| &connection.server);
    let mut warnings: Vec<String> = servers
        .filter(plain)
        .map(|server| format!("the tunnel to {server} is not encrypted: secrets and answers are readable on the way"))
        .collect();
    warnings.dedup();
    warnings
}

fn data_folder(settings: &Settings<'_>) -> DataFolder {
    match settings.path(&table::DATA_DIR) {
        Some(path) => DataFolder::Named(path),
        None => DataFolder::Default(DEFAULT_DATA_DIR.into()),
    }
}

fn instance(settings: &Settings<'_>) -> InstanceName {
    settings.value(&table::INSTANCE, str::parse)
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.trim_start_matches(':').parse() {
        return Ok((Ipv4Addr::UNSPECIFIED, port).into());
    }
    text.parse().map_err(|_| {
        format!(
            "{} is not a port, nor an address with a port (write 7341 or 127.0.0.1:7341)",
            shown(text)
        )
    })
}

fn local_path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/')
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"?#".contains(&b));
    if !is_path {
        return Err(format!(
            "{} is not a path (write /healthcheck)",
            shown(text)
        ));
    }
    if LOCAL_PATHS.contains(&text) {
        return Err(format!(
            "{text} is taken (use another path, such as /healthcheck)"
        ));
    }
    Ok(text.to_owned())
}

/// Variables that another broker client reads and this one does not; silence would be taken for agreement.
const UNUSED_VARIABLES: [(&str, &str); 5] = [
    (
        "ALL_PROXY",
        "it is not used: name the proxy in HTTPS_PROXY and HTTP_PROXY",
    ),
    (
        "all_proxy",
        "it is not used: name the proxy in HTTPS_PROXY and HTTP_PROXY",
    ),
    ("HTTPS_CERT", "the local port does not speak TLS"),
    ("HTTPS_KEY", "the local port does not speak TLS"),
    ("RES_BODY_URL_SUB", "answers are not rewritten"),
];

fn unused_variables(environment: &Environment) -> Vec<String> {
    let mut warnings: Vec<String> = UNUSED_VARIABLES
        .iter()
        .filter(|(name, _)| environment.get(name).is_some())
        .map(|(name, text)| format!("environment {name}: {text}"))
        .collect();
    if environment.get("NODE_TLS_REJECT_UNAUTHORIZED") == Some("0") {
        warnings.push(
            "environment NODE_TLS_REJECT_UNAUTHORIZED: certificates are verified all the same: name the authority's \
             PEM file in CA_CERT"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests;
