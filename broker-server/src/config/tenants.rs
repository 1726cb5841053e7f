//! Whose agents and callers there are, and what admits each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::str::FromStr;

use broker_process::certificate_name::CertificateName;
use broker_process::settings::{Fields, Node, nearest, shown};
use broker_protocol::{AgentName, CallerName, NameError, TenantId, TokenDigest};
use ipnet::IpNet;

use super::table;

/// One customer: its agents and who may reach them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenant {
    /// The agents, by name.
    pub agents: BTreeMap<AgentName, AgentEntry>,
    /// The callers, by name.
    pub callers: BTreeMap<CallerName, CallerEntry>,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentEntry {
    /// What lets it open a tunnel.
    pub admission: Admission,
}

/// What lets an agent open a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// One of these secrets.
    Secrets(Vec<TokenDigest>),
    /// Its name alone, from one of these networks: whoever is there and knows the name is the agent.
    ByNetwork(Vec<IpNet>),
}

/// One caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerEntry {
    /// What proves it.
    pub credential: Credential,
    /// Whom it may reach.
    pub agents: AgentScope,
}

/// What proves a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// One of these secrets, several while one is replaced by another, in this header.
    Secrets(CredentialPlace, Vec<TokenDigest>),
    /// A client certificate that has one of these names.
    Certificate(Vec<CertificateName>),
}

/// The header in which a caller's secret stands, as a bearer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialPlace {
    /// `Broker-Authorization`, which leaves `Authorization` to the caller's own purposes.
    BrokerAuthorization,
    /// `Proxy-Authorization`.
    ProxyAuthorization,
    /// `Authorization`, for kubectl and libraries that can set nothing else.
    Authorization,
}

impl CredentialPlace {
    /// The header's name, as it stands in settings and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BrokerAuthorization => "broker-authorization",
            Self::ProxyAuthorization => "proxy-authorization",
            Self::Authorization => "authorization",
        }
    }
}

/// Which agents of its tenant a caller may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentScope {
    /// Every one, those to come included.
    All,
    /// These.
    Listed(BTreeSet<AgentName>),
}

impl AgentScope {
    /// Whether `agent` is among them.
    #[must_use]
    pub fn contains(&self, agent: &AgentName) -> bool {
        match self {
            Self::All => true,
            Self::Listed(agents) => agents.contains(agent),
        }
    }
}

/// Reads the tenants; what is wrong is noted in the settings, what is merely bold in `warnings`.
/// `asks_for_certificates` is whether callers can show one.
pub(super) fn read(
    section: &Node<'_>,
    asks_for_certificates: bool,
    warnings: &mut Vec<String>,
) -> BTreeMap<TenantId, Tenant> {
    let mut reading = Reading {
        asks_for_certificates,
        secret_ids: HashMap::new(),
        certificate_names: HashMap::new(),
        warnings,
    };
    let mut tenants = BTreeMap::new();
    for (id, node) in named(section) {
        let fields = node.fields(&["agents", "callers"]);
        let agents = reading.agents(&fields);
        let callers = reading.callers(&fields, &agents);
        tenants.insert(id, Tenant { agents, callers });
    }
    if tenants.is_empty() {
        section.problem("no tenant is listed (a server for one customer has the tenant default)");
    }
    tenants
}

struct Reading<'w> {
    asks_for_certificates: bool,
    /// Where each secret was seen; by its id one entry must be found.
    secret_ids: HashMap<String, String>,
    /// Where each name was seen; by it one caller must be found, and with the caller its tenant.
    certificate_names: HashMap<CertificateName, String>,
    warnings: &'w mut Vec<String>,
}

impl Reading<'_> {
    fn agents(&mut self, fields: &Fields<'_>) -> BTreeMap<AgentName, AgentEntry> {
        let Some(agents) = fields.get("agents") else {
            return BTreeMap::new();
        };
        // An entry that is wrong has been noted, and its name is known all the same.
        named(agents)
            .into_iter()
            .map(|(name, node)| {
                let admission = self
                    .admission(&node)
                    .unwrap_or(Admission::Secrets(Vec::new()));
                (name, AgentEntry { admission })
            })
            .collect()
    }

    fn admission(&mut self, agent: &Node<'_>) -> Option<Admission> {
        let fields = agent.fields(&["secrets", "admit", "networks"]);
        match (
            fields.get("secrets"),
            fields.get("admit"),
            fields.get("networks"),
        ) {
            (Some(secrets), None, None) => Some(Admission::Secrets(self.secrets(secrets))),
            (None, Some(admit), Some(networks)) => {
                admit.read(by_network)?;
                Some(Admission::ByNetwork(self.networks(networks)))
            }
            (None, Some(_), None) => {
                agent.problem("admit: by-network says not from where (list the networks)");
                None
            }
            (None, None, Some(_)) => {
                agent.problem(
                    "networks alone do not admit (add admit: by-network, or list secrets instead)",
                );
                None
            }
            (Some(_), _, _) => {
                agent.problem(
                    "secrets and admission by network exclude each other (keep one of them)",
                );
                None
            }
            (None, None, None) => {
                agent.problem(
                    "nothing admits this agent (list secrets, made by `broker-server token new agent`)",
                );
                None
            }
        }
    }

    fn networks(&mut self, node: &Node<'_>) -> Vec<IpNet> {
        let items = node.items();
        if items.is_empty() {
            node.problem(
                "no network is listed, so nobody is admitted (list them as 203.0.113.0/24)",
            );
        }
        let networks: Vec<IpNet> = items.iter().filter_map(|item| item.read(network)).collect();
        if networks.iter().any(|network| network.prefix_len() == 0) {
            self.warnings.push(format!(
                "{}: the whole world is listed: whoever knows the agent's name can be the agent",
                node.place()
            ));
        }
        networks
    }

    fn callers(
        &mut self,
        fields: &Fields<'_>,
        agents: &BTreeMap<AgentName, AgentEntry>,
    ) -> BTreeMap<CallerName, CallerEntry> {
        let Some(callers) = fields.get("callers") else {
            return BTreeMap::new();
        };
        named(callers)
            .into_iter()
            .filter_map(|(name, node)| Some((name, self.caller(&node, agents)?)))
            .collect()
    }

    fn caller(
        &mut self,
        caller: &Node<'_>,
        known: &BTreeMap<AgentName, AgentEntry>,
    ) -> Option<CallerEntry> {
        let fields = caller.fields(&["credential", "secrets", "certificate-names", "agents"]);
        let credential = match fields.get("credential") {
            Some(node) => node.read(credential_place).and_then(|place| match place {
                Some(place) => self.secrets_of_caller(caller, &fields, place),
                None => self.certificate_of_caller(caller, &fields, node),
            }),
            None => {
                caller.problem(
                    "it is not said where the credential stands (add credential: broker-authorization, \
                     proxy-authorization, authorization or mtls)",
                );
                None
            }
        };
        let agents = match fields.get("agents") {
            Some(node) => agent_scope(node, known),
            None => {
                caller.problem(
                    "it is not said which agents this caller may reach (list them, or write agents: \"*\" for all)",
                );
                None
            }
        };
        Some(CallerEntry {
            credential: credential?,
            agents: agents?,
        })
    }

    fn secrets_of_caller(
        &mut self,
        caller: &Node<'_>,
        fields: &Fields<'_>,
        place: CredentialPlace,
    ) -> Option<Credential> {
        if let Some(names) = fields.get("certificate-names") {
            names.problem(format!(
                "names of certificates are for credential: mtls, and this caller's is {} (remove them, or change it)",
                place.as_str()
            ));
        }
        let Some(secrets) = fields.get("secrets") else {
            caller.problem(
                "this caller has no secrets (list some, made by `broker-server token new caller`)",
            );
            return None;
        };
        Some(Credential::Secrets(place, self.secrets(secrets)))
    }

    fn certificate_of_caller(
        &mut self,
        caller: &Node<'_>,
        fields: &Fields<'_>,
        credential: &Node<'_>,
    ) -> Option<Credential> {
        if !self.asks_for_certificates {
            credential.problem(format!(
                "callers are asked for no certificate (set {} to the PEM file of the authority that signs them)",
                table::CALLERS_CLIENT_CA.places()
            ));
        }
        if let Some(secrets) = fields.get("secrets") {
            secrets.problem(
                "a caller with credential: mtls has no secrets (remove them, or give the secret a caller of its own)",
            );
        }
        let Some(names) = fields.get("certificate-names") else {
            caller.problem(
                "no certificate is this caller's (list certificate-names: DNS names or URIs of its subjectAltName)",
            );
            return None;
        };
        Some(Credential::Certificate(self.certificate_names(names)))
    }

    fn certificate_names(&mut self, node: &Node<'_>) -> Vec<CertificateName> {
        let items = node.items();
        if items.is_empty() && node.is_list() {
            node.problem(
                "the list is empty, so no certificate is this caller's (list DNS names or URIs of its subjectAltName)",
            );
        }
        let mut names = Vec::new();
        for item in items {
            let Some(name) = item.read(str::parse::<CertificateName>) else {
                continue;
            };
            match self.certificate_names.insert(name.clone(), item.place()) {
                None => names.push(name),
                Some(other) => item.problem(format!(
                    "the same name stands at {other} (a certificate is one caller's, in one tenant)"
                )),
            }
        }
        names
    }

    fn secrets(&mut self, node: &Node<'_>) -> Vec<TokenDigest> {
        let items = node.items();
        if items.is_empty() && node.is_list() {
            node.problem("the list is empty (make a secret with `broker-server token new`)");
        }
        let mut digests = Vec::new();
        for item in items {
            let Some(digest) = item.read(token_digest) else {
                continue;
            };
            match self.secret_ids.insert(digest.id().to_owned(), item.place()) {
                None => digests.push(digest),
                Some(other) => item.problem(format!(
                    "the same secret stands at {other} (give each agent and each caller its own)"
                )),
            }
        }
        digests
    }
}

/// The entries of a map by name; a name that stands twice in different cases is one name.
fn named<'f, N>(node: &Node<'f>) -> Vec<(N, Node<'f>)>
where
    N: FromStr<Err = NameError> + PartialEq,
{
    let mut entries: Vec<(N, Node<'f>)> = Vec::new();
    for (key, child) in node.entries() {
        match name::<N>(&key) {
            Ok(name) if entries.iter().any(|(known, _)| *known == name) => {
                child.problem("this name stands twice (names are compared in lower case)");
            }
            Ok(name) => entries.push((name, child)),
            Err(error) => child.problem(error),
        }
    }
    entries
}

fn name<N: FromStr<Err = NameError>>(text: &str) -> Result<N, String> {
    if text.to_ascii_lowercase().contains("brk_") {
        return Err("a broker secret stands where a name belongs".to_owned());
    }
    text.parse::<N>().map_err(|error| error.to_string())
}

fn agent_scope(node: &Node<'_>, known: &BTreeMap<AgentName, AgentEntry>) -> Option<AgentScope> {
    if !node.is_list() {
        return node.read(|text| match text {
            "*" => Ok(AgentScope::All),
            _ => Err(format!(
                "{} is not a list of agents (write [{}], or \"*\" for all)",
                shown(text),
                known.keys().next().map_or("sonarqube", AgentName::as_str)
            )),
        });
    }
    let of_tenant = |text: &str| {
        let agent: AgentName = name(text)?;
        if known.contains_key(&agent) {
            return Ok(agent);
        }
        let hint = match nearest(agent.as_str(), known.keys().map(AgentName::as_str)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "list it among the tenant's agents".to_owned(),
        };
        Err(format!("there is no agent {} ({hint})", shown(text)))
    };
    let agents = node
        .items()
        .iter()
        .filter_map(|item| item.read(of_tenant))
        .collect();
    Some(AgentScope::Listed(agents))
}

fn by_network(text: &str) -> Result<(), String> {
    match text {
        "by-network" => Ok(()),
        _ => Err(format!("unknown value {} (use by-network)", shown(text))),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let network: IpNet = text.parse().map_err(|_| {
        format!(
            "{} is not a network (write 203.0.113.0/24, or 203.0.113.7/32 for one address)",
            shown(text)
        )
    })?;
    if network.addr() != network.network() {
        return Err(format!(
            "{} has bits behind its prefix (write {})",
            shown(text),
            network.trunc()
        ));
    }
    Ok(network)
}

/// The header that is named, or none for a client certificate.
fn credential_place(text: &str) -> Result<Option<CredentialPlace>, String> {
    match text {
        "broker-authorization" => Ok(Some(CredentialPlace::BrokerAuthorization)),
        "proxy-authorization" => Ok(Some(CredentialPlace::ProxyAuthorization)),
        "authorization" => Ok(Some(CredentialPlace::Authorization)),
        "mtls" => Ok(None),
        _ => Err(format!(
            "unknown value {} (use broker-authorization, proxy-authorization, authorization or mtls)",
            shown(text)
        )),
    }
}

fn token_digest(text: &str) -> Result<TokenDigest, String> {
    if text.contains("brk_") {
        return Err(
            "a secret stands here in the clear (replace it by the sha256: line of a new one, made by \
             `broker-server token new`: this one has been seen)"
                .to_owned(),
        );
    }
    text.parse::<TokenDigest>()
        .map_err(|error| error.to_string())
}
