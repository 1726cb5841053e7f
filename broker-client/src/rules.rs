//! The accept file in force: the compiled rules, and for each where it leads and what it puts in.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use accept_rules::{
    EncodedSlash, List, MAX_FILE_LEN, Origin, Rule, RuleFile, RuleIndex, RuleSet, split_userinfo,
};
use aws_lc_rs::digest;
use broker_process::settings::nearest;
use broker_process::tls::{self, ClientRoots, PostQuantum, TlsMin, TlsPolicy};
use http::uri::{Authority, Scheme};

use crate::config::{self, Accept, Config, Timeouts};
use crate::credential::Credential;
use crate::origin::OriginClient;

/// Origins may be old; the tunnel may not.
const ORIGIN_TLS: TlsPolicy = TlsPolicy {
    min: TlsMin::V1_2,
    post_quantum: PostQuantum::On,
};

/// Everything that is wrong with the accept file, or with what it refers to.
#[derive(Debug)]
pub struct RulesError {
    file: PathBuf,
    problems: Vec<String>,
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

/// The rules in force.
pub(crate) struct Rules {
    pub(crate) set: RuleSet,
    /// One for each rule of `set`, by its index.
    routes: Vec<Route>,
    /// Where they came from; none denies everything.
    pub(crate) source: Option<Source>,
    pub(crate) public_rules: usize,
    pub(crate) warnings: Vec<String>,
}

/// An accept file as it was read.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// Of the file's bytes, in hexadecimal.
    pub(crate) sha256: String,
}

/// Where a rule leads.
pub(crate) struct Route {
    pub(crate) origin: Origin,
    /// None leaves the caller's own `Authorization`.
    pub(crate) credential: Option<Credential>,
    pub(crate) timeouts: Timeouts,
    pub(crate) client: OriginClient,
}

impl Rules {
    /// Reads the accept file, expands its variables and prepares a client for each origin.
    pub(crate) fn load(config: &Config) -> Result<Self, RulesError> {
        let Accept::File(path) = &config.accept else {
            return Ok(Self {
                set: RuleSet::deny_all(),
                routes: Vec::new(),
                source: None,
                public_rules: 0,
                warnings: vec!["no accept file: every request is denied (set ACCEPT)".into()],
            });
        };
        let fail = |problems| RulesError {
            file: path.clone(),
            problems,
        };
        let text = read(path).map_err(|problem| fail(vec![problem]))?;
        let file = RuleFile::parse(&text)
            .map_err(|errors| fail(errors.to_string().lines().map(str::to_owned).collect()))?;
        let set = RuleSet::compile(&file, List::Private, |origin| {
            match origin_settings(config, origin).encoded_slash {
                config::EncodedSlash::Refuse => EncodedSlash::Refuse,
                config::EncodedSlash::Data => EncodedSlash::Data,
            }
        });
        let mut problems = unused_origins(config, set.rules());
        let routes = resolve(config, set.rules(), &mut problems);
        if !problems.is_empty() {
            return Err(fail(problems));
        }
        Ok(Self {
            routes,
            source: Some(Source {
                path: path.clone(),
                sha256: sha256_hex(text.as_bytes()),
            }),
            public_rules: file.rules(List::Public).len(),
            warnings: file
                .warnings()
                .iter()
                .map(|warning| format!("{}: {warning}", path.display()))
                .collect(),
            set,
        })
    }

    /// Where a rule of this set leads.
    pub(crate) fn route(&self, rule: RuleIndex) -> Option<&Route> {
        self.routes.get(rule.as_usize())
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    // One byte more than the limit, so that a file that is too long is seen to be.
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    file.take(MAX_FILE_LEN as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot be read: {error}"))?;
    Ok(text)
}

/// Settings for origins that no rule has: a typing error there would quietly lose what they say.
fn unused_origins(config: &Config, rules: &[Rule]) -> Vec<String> {
    let written: Vec<&str> = rules
        .iter()
        .filter_map(|rule| Some(rule.origin()?.as_str()))
        .collect();
    let unused = config
        .origins
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

fn origin_settings(config: &Config, origin: &str) -> config::OriginSettings {
    let key = config
        .origins
        .keys()
        .find(|key| *split_userinfo(key).1 == *origin);
    config.origin(key.map_or(origin, String::as_str))
}

fn resolve(config: &Config, rules: &[Rule], problems: &mut Vec<String>) -> Vec<Route> {
    let mut clients = Clients {
        config,
        tls: None,
        by_origin: HashMap::new(),
    };
    let mut routes = Vec::with_capacity(rules.len());
    for (index, rule) in rules.iter().enumerate() {
        match route(config, rule, &mut clients) {
            Ok(route) => routes.push(route),
            Err(problem) => problems.push(format!("private[{index}]: {problem}")),
        }
    }
    routes
}

fn route(config: &Config, rule: &Rule, clients: &mut Clients<'_>) -> Result<Route, String> {
    let template = rule.origin().ok_or("a private rule has no origin")?;
    let expanded = template.expand(|name| config.environment.get(name));
    let expanded = expanded.map_err(|missing| format!("origin: {missing}"))?;
    // A variable's value may bring userinfo of its own.
    let (userinfo, bare) = split_userinfo(&expanded);
    let origin = Origin::parse(&bare).map_err(|error| {
        format!(
            "{} once its variables are put in",
            error.about(template.as_str())
        )
    })?;
    let credential = match (rule.auth(), userinfo) {
        (Some(auth), _) => Some(Credential::from_auth(auth, &config.environment)),
        (None, Some(userinfo)) => Some(Credential::from_userinfo(userinfo)),
        (None, None) => None,
    };
    let credential = credential
        .transpose()
        .map_err(|error| format!("auth: {error}"))?;
    let timeouts = origin_settings(config, template.as_str()).timeouts;
    let client = clients.of(&origin, timeouts)?;
    Ok(Route {
        origin,
        credential,
        timeouts,
        client,
    })
}

/// One client for each origin and connect time-out.
struct Clients<'c> {
    config: &'c Config,
    tls: Option<Arc<rustls::ClientConfig>>,
    by_origin: HashMap<(Scheme, Authority, std::time::Duration), OriginClient>,
}

impl Clients<'_> {
    fn of(&mut self, origin: &Origin, timeouts: Timeouts) -> Result<OriginClient, String> {
        let key = (
            origin.scheme().clone(),
            origin.authority().clone(),
            timeouts.connect,
        );
        if let Some(client) = self.by_origin.get(&key) {
            return Ok(client.clone());
        }
        let tls = if *origin.scheme() == Scheme::HTTPS {
            Some(self.tls()?)
        } else {
            None
        };
        let client = OriginClient::new(tls, timeouts.connect);
        self.by_origin.insert(key, client.clone());
        Ok(client)
    }

    fn tls(&mut self) -> Result<Arc<rustls::ClientConfig>, String> {
        if let Some(tls) = &self.tls {
            return Ok(Arc::clone(tls));
        }
        let extra: Vec<PathBuf> = self.config.origin_ca_cert.iter().cloned().collect();
        let roots = ClientRoots::load(&extra).map_err(|error| error.to_string())?;
        let tls = tls::client_config(&roots, ORIGIN_TLS, &[]).map_err(|error| error.to_string())?;
        self.tls = Some(Arc::clone(&tls));
        Ok(tls)
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    let sum = digest::digest(&digest::SHA256, bytes);
    sum.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
