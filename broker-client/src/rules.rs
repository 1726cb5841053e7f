//! The rules in force: compiled from the accept file, and for each where it leads and what it puts in.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use accept_rules::{EncodedSlash, List, Origin, Rule, RuleIndex, RuleSet, split_userinfo};
use broker_process::settings::nearest;
use broker_process::tls::{self, ClientRoots};
use broker_protocol::hop::{self, Kept};
use http::HeaderName;
use http::uri::{Authority, Scheme};

use crate::accept_file::AcceptFile;
use crate::address_policy::{is_shortened_address, literal};
use crate::config::{
    self, Accept, Config, Connection, MissingVariables, OnSecretEcho, OriginTlsSettings, Origins,
    Probe, Timeouts,
};
use crate::control_call::ControlCalls;
use crate::credential::{Credential, CredentialError, Sources};
use crate::limits::Limiter;
use crate::origin::{OriginClient, OriginTls, TLS_POLICY, Tls, prepare_origin_socket};
use crate::pause::RuleId;
use crate::proxy::{Proxy, ProxyWay};

/// Everything that is wrong with the accept file, or with what it refers to.
#[derive(Debug, PartialEq, Eq)]
pub struct RulesError {
    file: PathBuf,
    sha256: Option<String>,
    problems: Vec<String>,
}

impl RulesError {
    /// A file that was read, and cannot be used.
    pub(crate) fn unusable(accept: &AcceptFile, problems: Vec<String>) -> Self {
        Self {
            file: accept.path.clone(),
            sha256: Some(accept.sha256.clone()),
            problems,
        }
    }

    /// A file of which not all could be read.
    pub(crate) fn unreadable(file: PathBuf, problem: String) -> Self {
        Self {
            file,
            sha256: None,
            problems: vec![problem],
        }
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Of the file's bytes, in hexadecimal; `None` where not all could be read.
    pub(crate) fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }

    /// At least one; none shows userinfo or the value of a variable.
    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for RulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        let lines: Vec<String> = self
            .problems
            .iter()
            .map(|problem| format!("{file}: {problem}"))
            .collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for RulesError {}

/// The rules that decide now; clones show the same.
#[derive(Clone)]
pub(crate) struct RulesInForce(Arc<RwLock<Arc<Rules>>>);

impl RulesInForce {
    pub(crate) fn new(rules: Arc<Rules>) -> Self {
        Self(Arc::new(RwLock::new(rules)))
    }

    /// The rules for one request, from its start to its end: they stay what they are when others take over.
    pub(crate) fn now(&self) -> Arc<Rules> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has `rules` decide every request that begins from now on.
    pub(crate) fn replace(&self, rules: Arc<Rules>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }
}

/// One accept file's rules.
pub(crate) struct Rules {
    pub(crate) set: RuleSet,
    /// One for each rule of `set`, by its index; none for a rule that is turned off.
    routes: Vec<Option<Route>>,
    clients: Clients,
    /// Where the credentials come from; the same for all rules of the process.
    pub(crate) sources: Sources,
    /// Where they came from; none denies everything.
    pub(crate) source: Option<Source>,
    pub(crate) public_rules: usize,
    pub(crate) warnings: Vec<String>,
}

/// An accept file as it was read.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// Of the file's bytes, in hexadecimal.
    pub(crate) sha256: Arc<str>,
}

/// A place that rules lead to, by one way.
pub(crate) struct Destination<'r> {
    pub(crate) origin: &'r Origin,
    pub(crate) client: &'r OriginClient,
    rules: Vec<RuleIndex>,
}

impl Destination<'_> {
    /// The rules, or the first of them: `private[0], private[1] and 5 more`.
    pub(crate) fn shown_rules(&self) -> String {
        const SHOWN: usize = 3;
        let rules = self.rules.iter().take(SHOWN);
        let rules: Vec<_> = rules.map(|rule| format!("private[{rule}]")).collect();
        let more = self.rules.len().saturating_sub(SHOWN);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        rules.join(", ") + &more
    }
}

/// Where a rule leads.
pub(crate) struct Route {
    /// The connection itself shows who asks: a client certificate.
    pub(crate) shows_certificate: bool,
    pub(crate) origin: Origin,
    /// None leaves the caller's own `Authorization`.
    pub(crate) credential: Option<Credential>,
    /// What is not removed from its requests.
    pub(crate) kept: Kept,
    pub(crate) timeouts: Timeouts,
    pub(crate) limiter: Limiter,
    /// Longest body of an answer, in bytes.
    pub(crate) response_size: Option<NonZeroU64>,
    pub(crate) on_secret_echo: OnSecretEcho,
    pub(crate) client: OriginClient,
    /// By what doctor asks the origin whether it takes the credential.
    pub(crate) probe: Option<Probe>,
}

impl Route {
    /// Whether the origin takes what comes this way for the agent's own, so that nothing of the caller's may say who
    /// asks.
    pub(crate) fn acts_as_agent(&self) -> bool {
        self.credential.is_some() || self.shows_certificate
    }
}

impl Rules {
    /// The rules that all connections start with.
    pub(crate) fn load_all(
        config: &Config,
        connections: &[Connection],
    ) -> Result<Vec<Arc<Self>>, RulesError> {
        let mut all: Vec<Arc<Self>> = Vec::with_capacity(connections.len());
        for connection in connections {
            all.push(Arc::new(Self::load(config, connection, &all)?));
        }
        Ok(all)
    }

    /// The rules that a connection starts with.
    pub(crate) fn load(
        config: &Config,
        connection: &Connection,
        others: &[Arc<Self>],
    ) -> Result<Self, RulesError> {
        match &connection.accept {
            Accept::File(path) => {
                Self::compile(config, connection, &AcceptFile::read(path)?, others)
            }
            Accept::DenyAll => Ok(Self {
                set: RuleSet::deny_all(),
                routes: Vec::new(),
                clients: Clients::default(),
                sources: sources(config, others),
                source: None,
                public_rules: 0,
                warnings: vec![format!(
                    "no accept file: every request to {} is denied (set ACCEPT, or `accept` of the connection)",
                    connection.agent
                )],
            }),
        }
    }

    /// Reads what stands in `accept`, expands its variables and prepares a client for each origin. Where one of
    /// `others`, the rules in force of all connections, has that client, it is shared with its connections, and so is
    /// where credentials come from.
    pub(crate) fn compile(
        config: &Config,
        connection: &Connection,
        accept: &AcceptFile,
        others: &[Arc<Self>],
    ) -> Result<Self, RulesError> {
        let origins = &connection.origins;
        let path = accept.path.clone();
        let file = accept.parse(config.rules.unknown_keys)?;
        let mut set = RuleSet::compile(&file, List::Private, |origin| {
            encoded_slash(origins, origin)
        });
        let mut problems = unused_origins(origins, set.rules());
        let sources = sources(config, others);
        let mut resolver = Resolver::new(config, connection, &sources, others);
        let (routes, turned_off) = resolver.routes(&set, &mut problems);
        if !problems.is_empty() {
            return Err(RulesError::unusable(accept, problems));
        }
        let mut warnings: Vec<_> = file.warnings().iter().map(ToString::to_string).collect();
        for (index, why) in turned_off {
            set.disable(index);
            warnings.push(format!(
                "private[{index}] is turned off, it matches nothing: {why}"
            ));
        }
        Ok(Self {
            routes,
            clients: resolver.clients,
            sources,
            public_rules: file.rules(List::Public).len(),
            warnings: warnings
                .into_iter()
                .map(|warning| format!("{}: {warning}", path.display()))
                .collect(),
            source: Some(Source {
                path,
                sha256: accept.sha256.as_str().into(),
            }),
            set,
        })
    }

    /// Of the accept file, in hexadecimal; `None` where there is none.
    pub(crate) fn sha256(&self) -> Option<&str> {
        Some(&self.source.as_ref()?.sha256)
    }

    /// Which rule of which file this is.
    pub(crate) fn id(&self, rule: RuleIndex) -> RuleId {
        RuleId {
            sha256: self
                .source
                .as_ref()
                .map(|source| Arc::clone(&source.sha256)),
            rule: rule.as_usize(),
        }
    }

    /// Every place that rules lead to, in their order.
    pub(crate) fn destinations(&self) -> Vec<Destination<'_>> {
        let mut destinations: Vec<Destination<'_>> = Vec::new();
        for (index, _) in self.set.indexed() {
            let Some(route) = self.route(index) else {
                continue;
            };
            let proxy = |client: &OriginClient| client.steps().proxy().map(|way| way.proxy.clone());
            let known = destinations.iter_mut().find(|known| {
                known.origin.scheme() == route.origin.scheme()
                    && known.origin.authority() == route.origin.authority()
                    && proxy(known.client) == proxy(&route.client)
                    && known.client.has_same_tls(&route.client)
            });
            match known {
                Some(known) => known.rules.push(index),
                None => destinations.push(Destination {
                    origin: &route.origin,
                    client: &route.client,
                    rules: vec![index],
                }),
            }
        }
        destinations
    }

    /// Whether doctor has something to ask an origin.
    pub(crate) fn has_probes(&self) -> bool {
        self.routes
            .iter()
            .flatten()
            .any(|route| route.probe.is_some())
    }

    /// Where a rule of this set leads.
    pub(crate) fn route(&self, rule: RuleIndex) -> Option<&Route> {
        self.routes.get(rule.as_usize())?.as_ref()
    }
}

/// Those of the other rules, which are the same, or the first.
fn sources(config: &Config, others: &[Arc<Rules>]) -> Sources {
    match others.first() {
        Some(rules) => rules.sources.clone(),
        None => {
            let calls = ControlCalls::new(config);
            Sources::new(config.environment.clone(), &config.credentials, calls)
        }
    }
}

/// Settings for origins that no rule has: a typing error there would quietly lose what they say. Where nothing may
/// pass, nothing can be lost, and a file that takes all access away must not be refused.
pub(crate) fn unused_origins(origins: &Origins, rules: &[Rule]) -> Vec<String> {
    if rules.is_empty() {
        return Vec::new();
    }
    let written: Vec<&str> = rules
        .iter()
        .filter_map(|rule| Some(rule.origin()?.as_str()))
        .collect();
    let unused = origins
        .keys()
        .filter(|key| !written.contains(&&*split_userinfo(key).1));
    let problem = |key: &String| {
        let key = split_userinfo(key).1;
        let hint = nearest(&key, written.iter().copied())
            .map_or(String::new(), |near| format!(" (did you mean {near:?}?)"));
        format!("no rule has the origin {key:?} that the settings' \"origins\" name{hint}")
    };
    unused.map(problem).collect()
}

/// What a `%2F` is to the origin that a rule writes as `origin`.
pub(crate) fn encoded_slash(origins: &Origins, origin: &str) -> EncodedSlash {
    match origin_key(origins, origin).and_then(|key| origins.get(key)) {
        Some(settings) if settings.encoded_slash == config::EncodedSlash::Refuse => {
            EncodedSlash::Refuse
        }
        Some(_) | None => EncodedSlash::Data,
    }
}

/// A rule's origin comes without userinfo, while the settings may name it with.
fn origin_key<'o>(origins: &'o Origins, origin: &str) -> Option<&'o String> {
    origins.keys().find(|key| *split_userinfo(key).1 == *origin)
}

/// What requests of one client have in common.
#[derive(PartialEq, Eq, Hash)]
struct ClientKey {
    scheme: Scheme,
    authority: Authority,
    proxy: Option<Proxy>,
    /// Connections by one certificate carry no requests that are to be made by another.
    tls: Option<OriginTlsSettings>,
    connect: Duration,
}

/// HTTP towards origins: one client for each key.
#[derive(Default)]
struct Clients {
    tls: Option<Arc<rustls::ClientConfig>>,
    by_origin: HashMap<ClientKey, OriginClient>,
}

/// Why it cannot be said where a rule leads.
#[derive(Debug, thiserror::Error)]
enum RouteError {
    /// A variable is not set.
    #[error("{0}")]
    Missing(String),
    #[error("{0}")]
    Other(String),
}

impl From<String> for RouteError {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}

/// Finds out where each rule leads, and collects the clients for that.
struct Resolver<'r> {
    config: &'r Config,
    connection: &'r Connection,
    sources: &'r Sources,
    others: &'r [Arc<Rules>],
    clients: Clients,
}

impl<'r> Resolver<'r> {
    fn new(
        config: &'r Config,
        connection: &'r Connection,
        sources: &'r Sources,
        others: &'r [Arc<Rules>],
    ) -> Self {
        let clients = Clients {
            tls: others.iter().find_map(|rules| rules.clients.tls.clone()),
            by_origin: HashMap::new(),
        };
        Self {
            config,
            connection,
            sources,
            others,
            clients,
        }
    }

    /// Where each rule leads, and the rules that are turned off, each with the reason. What is wrong goes to
    /// `problems`.
    fn routes(
        &mut self,
        set: &RuleSet,
        problems: &mut Vec<String>,
    ) -> (Vec<Option<Route>>, Vec<(RuleIndex, String)>) {
        let mut routes = Vec::with_capacity(set.len());
        let mut turned_off = Vec::new();
        for (index, rule) in set.indexed() {
            match (self.route(rule), self.config.rules.missing_variables) {
                (Ok(route), _) => routes.push(Some(route)),
                (Err(RouteError::Missing(why)), MissingVariables::DisableRule) => {
                    routes.push(None);
                    turned_off.push((index, why));
                }
                (Err(error), _) => problems.push(format!("private[{index}]: {error}")),
            }
        }
        (routes, turned_off)
    }

    fn route(&mut self, rule: &Rule) -> Result<Route, RouteError> {
        let failed = |field| {
            move |error: CredentialError| match error {
                CredentialError::Missing(error) => RouteError::Missing(format!("{field}: {error}")),
                error => RouteError::Other(format!("{field}: {error}")),
            }
        };
        let template = rule
            .origin()
            .ok_or_else(|| "a private rule has no origin".to_owned())?;
        let expanded = template
            .expand(|name| self.sources.plain_variable(name))
            .map_err(failed("origin"))?;
        // A variable's value may bring userinfo of its own.
        let (userinfo, bare) = split_userinfo(&expanded);
        let origin = Origin::parse(&bare).map_err(|error| {
            format!(
                "{} once its variables are put in",
                error.about(template.as_str())
            )
        })?;
        self.check_address(origin.authority().host())
            .map_err(|error| format!("origin: {error}"))?;
        let credential = match (rule.auth(), userinfo) {
            (Some(auth), _) => Some(Credential::from_auth(auth, self.sources)),
            (None, Some(userinfo)) => Some(Credential::from_userinfo(userinfo)),
            (None, None) => None,
        };
        let credential = credential.transpose().map_err(failed("auth"))?;
        let key = origin_key(&self.connection.origins, template.as_str());
        let key = key.map_or(template.as_str(), String::as_str);
        let settings = self.config.origin(self.connection, key);
        let timeouts = timeouts(settings.timeouts, rule);
        let kept = Kept {
            names: kept_headers(rule)?,
            forwarded: self.config.keep_forwarded,
        };
        let proxy = self.config.origin_proxy(&settings, &origin);
        let client = self.client(&origin, proxy, settings.tls.as_ref(), timeouts)?;
        let limits = rule.limits();
        Ok(Route {
            shows_certificate: settings
                .tls
                .as_ref()
                .is_some_and(|tls| tls.identity.is_some()),
            origin,
            credential,
            kept,
            timeouts,
            limiter: Limiter::new(limits),
            response_size: shorter(limits.response_size, self.config.limits.response_size),
            on_secret_echo: settings
                .on_secret_echo
                .unwrap_or(self.config.on_secret_echo),
            client,
            probe: settings.probe,
        })
    }

    fn client(
        &mut self,
        origin: &Origin,
        proxy: Option<&Proxy>,
        tls: Option<&OriginTlsSettings>,
        timeouts: Timeouts,
    ) -> Result<OriginClient, String> {
        let key = ClientKey {
            scheme: origin.scheme().clone(),
            authority: origin.authority().clone(),
            proxy: proxy.cloned(),
            tls: tls.cloned(),
            connect: timeouts.connect,
        };
        if let Some(client) = self.clients.by_origin.get(&key) {
            return Ok(client.clone());
        }
        let others = self.others.iter().map(|rules| &rules.clients);
        let mut known = others.filter_map(|clients| clients.by_origin.get(&key));
        let client = match known.next() {
            Some(client) => client.clone(),
            None => {
                let tls = match (*origin.scheme() == Scheme::HTTPS, tls) {
                    (true, None) => Some(Tls::Usual(self.tls()?)),
                    (true, Some(settings)) => Some(Tls::Own(self.own_tls(settings)?)),
                    (false, None) => None,
                    (false, Some(_)) => return Err(NO_TLS.to_owned()),
                };
                let way = proxy.map(|proxy| self.way_through(proxy)).transpose()?;
                OriginClient::new(
                    tls,
                    way,
                    self.config.origin_addresses.clone(),
                    timeouts.connect,
                )
            }
        };
        self.clients.by_origin.insert(key, client.clone());
        Ok(client)
    }

    /// An address that is written out is judged now; what a name resolves to, with each connection.
    fn check_address(&self, host: &str) -> Result<(), String> {
        if is_shortened_address(host) {
            return Err(format!(
                "{host:?} is an address that is not written out (write four decimal numbers, as in 10.0.0.1)"
            ));
        }
        let Some(address) = literal(host) else {
            return Ok(());
        };
        let permit = self.config.origin_addresses.permit(host, address);
        permit.map_err(|error| error.to_string())
    }

    fn way_through(&self, proxy: &Proxy) -> Result<ProxyWay, String> {
        let authorities = self.config.origin_authorities();
        ProxyWay::new(proxy.clone(), &authorities, prepare_origin_socket)
            .map_err(|error| error.to_string())
    }

    fn own_tls(&self, settings: &OriginTlsSettings) -> Result<Arc<OriginTls>, String> {
        let usual = self.config.origin_authorities();
        let tls = self.sources.origin_tls(settings, usual);
        tls.map_err(|error| error.to_string())
    }

    fn tls(&mut self) -> Result<Arc<rustls::ClientConfig>, String> {
        if let Some(tls) = &self.clients.tls {
            return Ok(Arc::clone(tls));
        }
        let authorities = self.config.origin_authorities();
        let roots = ClientRoots::load(&authorities).map_err(|error| error.to_string())?;
        let tls = tls::client_config(&roots, TLS_POLICY, &[]).map_err(|error| error.to_string())?;
        self.clients.tls = Some(Arc::clone(&tls));
        Ok(tls)
    }
}

const NO_TLS: &str = "the settings have \"tls\" for its origin, which is http:// (write https://, or take \"tls\" out)";

fn shorter(one: Option<NonZeroU64>, other: Option<NonZeroU64>) -> Option<NonZeroU64> {
    one.into_iter().chain(other).min()
}

/// As the rule has them, or else as the settings have them for its origin.
fn timeouts(settings: Timeouts, rule: &Rule) -> Timeouts {
    let own = rule.timeouts();
    Timeouts {
        connect: own.connect.unwrap_or(settings.connect),
        first_byte: own.first_byte.unwrap_or(settings.first_byte),
        idle: own.idle.unwrap_or(settings.idle),
    }
}

fn kept_headers(rule: &Rule) -> Result<Box<[HeaderName]>, String> {
    let named = rule.allow_headers();
    if let Some(name) = named.iter().find(|name| !hop::can_travel(name)) {
        return Err(format!(
            "\"allow-headers\" cannot be \"{name}\": headers of this name never travel"
        ));
    }
    let cookies = if rule.keep_cookies() {
        &hop::COOKIES[..]
    } else {
        &[]
    };
    Ok(named.iter().chain(cookies).cloned().collect())
}
