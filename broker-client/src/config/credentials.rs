//! What credentials are made of that an accept file can only name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use accept_rules::{Declared, Source, Template};
use broker_process::settings::{
    Environment, Fields, Node, Section, Settings, duration, integer, nearest, shown,
};
use http::{HeaderValue, Uri};

use super::commands::{CommandSettings, commands};
use super::{ServerUrl, table};
use crate::address_policy::literal;
use crate::control_call::secure_uri;

/// The entry that holds where a rule or another entry names none.
const DEFAULT_AWS: &str = "default";
/// Where an instance's metadata service is documented to be, in plain HTTP.
const INSTANCE_HOSTS: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];
/// The name under which rules take a token of Google Cloud though nothing is written.
const DEFAULT_GCP: &str = "token";
/// What such a token is for: everything that the identity may do.
const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How often a secret of Vault is read.
const VAULT_REFRESH: Duration = Duration::from_secs(300);
/// Where Kubernetes mounts the token of a pod's service account.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// GitHub's own.
const GITHUB_API: &str = "https://api.github.com";
const PLAINTEXT: &str =
    "http:// is for this machine alone, since secrets travel here (use https://)";
/// The name of the agent's sessions in the cloud's records.
const SESSION: &str = "broker-client";
/// How long a role is assumed, as AWS has it where nothing is said, and the longest for a role that another assumes.
const ASSUMED: Duration = Duration::from_secs(3600);

/// The sources of credentials that an accept file can only name, each kind by its names.
#[derive(Debug, Clone, Default)]
pub struct CredentialSettings {
    /// Commands that print one.
    pub commands: BTreeMap<String, CommandSettings>,
    /// Keys of Amazon Web Services.
    pub aws: BTreeMap<String, AwsSettings>,
    /// Tokens for clusters of Amazon EKS.
    pub eks: BTreeMap<String, EksSettings>,
    /// Tokens of Google Cloud.
    pub gcp: BTreeMap<String, GcpSettings>,
    /// Tokens of OAuth 2.0 authorization servers.
    pub oauth2: BTreeMap<String, OAuth2Settings>,
    /// Secrets in Vault.
    pub vault: BTreeMap<String, VaultSettings>,
    /// Installations of GitHub Apps.
    pub github_apps: BTreeMap<String, GithubAppSettings>,
}

/// Whose keys of Amazon Web Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsSettings {
    /// Where requests are signed for, and whose token service is asked.
    pub region: String,
    /// The token service, if not the region's own.
    pub endpoint: Option<ServerUrl>,
    /// The instance's metadata service, if not at its usual address.
    pub metadata: Option<ServerUrl>,
    /// The roles that are assumed, each with the keys of the one before; the first with those that the agent runs with.
    pub roles: Vec<AssumedRole>,
}

/// A role to assume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssumedRole {
    /// Its ARN.
    pub role: String,
    /// What its trust policy asks for beside the caller.
    pub external_id: Option<String>,
    /// The session's name in the cloud's records.
    pub session_name: String,
    /// How long the keys are good.
    pub duration: Duration,
}

/// A cluster of Amazon EKS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EksSettings {
    /// Its name in AWS.
    pub cluster: String,
    /// The entry of [`CredentialSettings::aws`] whose role reaches it.
    pub aws: String,
    /// Its region, if not that entry's.
    pub region: Option<String>,
}

/// Tokens of Google Cloud for the identity that the agent runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcpSettings {
    /// What they are for; several with blanks between them.
    pub scope: String,
}

/// A client of an OAuth 2.0 authorization server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuth2Settings {
    /// The server's token endpoint.
    pub token_url: Uri,
    /// The client.
    pub client_id: String,
    /// What it shows; it holds sources and no secret.
    pub client_secret: Template,
    /// How it shows that.
    pub authentication: ClientAuthentication,
    /// What the token is for, in the server's words (RFC 6749 §3.3).
    pub scope: Option<String>,
    /// Whom it is for, as some servers have it.
    pub audience: Option<String>,
    /// The same as RFC 8707 has it.
    pub resource: Option<String>,
}

/// How a client shows who it is (RFC 6749 §2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuthentication {
    /// In the `Authorization` header.
    #[default]
    Basic,
    /// In the form.
    Post,
}

/// A field of a secret in Vault, in a KV store of version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSettings {
    /// Where Vault is.
    pub address: ServerUrl,
    /// Its namespace, where it has some.
    pub namespace: Option<HeaderValue>,
    /// The store.
    pub mount: String,
    /// The secret in it.
    pub path: String,
    /// The field of that.
    pub field: String,
    /// How a session is opened.
    pub login: VaultLogin,
    /// How often the secret is read.
    pub refresh: Duration,
}

/// How a session with Vault is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VaultLogin {
    /// With a token that is there; it holds sources and no secret.
    Token(Template),
    /// With the token of a Kubernetes service account.
    Kubernetes {
        /// The role in Vault.
        role: String,
        /// Where the method is mounted.
        mount: String,
        /// The service account's token, read for each login.
        jwt_file: PathBuf,
    },
}

/// An installation of a GitHub App.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GithubAppSettings {
    /// The app's id or client id.
    pub app: String,
    /// The installation's id.
    pub installation: u64,
    /// The app's private key, PEM.
    pub private_key_file: PathBuf,
    /// GitHub's API.
    pub api: ServerUrl,
    /// The names of the only repositories that a token reaches; where there are none, those of the installation.
    pub repositories: Vec<String>,
    /// The only permissions that a token has, such as `contents: read`; where there are none, those of the installation.
    pub permissions: BTreeMap<String, String>,
}

pub(super) fn credentials(
    settings: &Settings<'_>,
    environment: &Environment,
) -> CredentialSettings {
    let ambient = Ambient {
        settings,
        environment,
    };
    let mut aws = named(settings, &table::AWS, |node| aws(node, &ambient));
    if let (Some(region), false) = (ambient.region(), aws.contains_key(DEFAULT_AWS)) {
        aws.insert(
            DEFAULT_AWS.to_owned(),
            AwsSettings {
                region,
                endpoint: ambient.endpoint(),
                metadata: ambient.metadata(),
                roles: Vec::new(),
            },
        );
    }
    let mut gcp = named(settings, &table::GCP, gcp);
    gcp.entry(DEFAULT_GCP.to_owned())
        .or_insert_with(|| GcpSettings {
            scope: CLOUD_PLATFORM.to_owned(),
        });
    CredentialSettings {
        commands: commands(settings),
        gcp,
        oauth2: named(settings, &table::OAUTH2, oauth2),
        vault: named(settings, &table::VAULT, vault),
        github_apps: named(settings, &table::GITHUB_APP, github_app),
        eks: named(settings, &table::EKS, |node| eks(node, &aws)),
        aws,
    }
}

/// The entries of a section whose keys rules use as names.
fn named<T>(
    settings: &Settings<'_>,
    section: &Section,
    read: impl Fn(&Node<'_>) -> Option<T>,
) -> BTreeMap<String, T> {
    let entries = settings.section(section).map(|node| node.entries());
    let entries = entries.unwrap_or_default().into_iter();
    entries
        .filter_map(|(name, node)| {
            if !is_name(&name) {
                node.problem(format!(
                    "{} is no name that a rule can use (use lower-case letters, digits, \".\", \"_\" and \"-\", up to 63)",
                    shown(&name)
                ));
            }
            Some((name, read(&node)?))
        })
        .collect()
}

/// As rules can name it.
fn is_name(text: &str) -> bool {
    Template::parse(&format!("${{exec:{text}}}")).is_ok()
}

fn aws(node: &Node<'_>, ambient: &Ambient<'_>) -> Option<AwsSettings> {
    let fields = node.fields(&["region", "endpoint", "assume-role"]);
    let region = match fields.get("region") {
        Some(node) => node.read(region)?,
        None => match ambient.region() {
            Some(region) => region,
            None => {
                node.problem("no region (write region: eu-west-1, or set AWS_REGION)");
                return None;
            }
        },
    };
    let endpoint = match fields.get("endpoint") {
        Some(node) => Some(node.read(endpoint)?),
        None => ambient.endpoint(),
    };
    let roles = fields.get("assume-role").map(Node::items);
    let roles = roles.unwrap_or_default();
    Some(AwsSettings {
        region,
        endpoint,
        metadata: ambient.metadata(),
        roles: roles.iter().map(assumed_role).collect::<Option<_>>()?,
    })
}

/// What Amazon's own programs take from the environment, held to the same as what is written in the settings.
struct Ambient<'a> {
    settings: &'a Settings<'a>,
    environment: &'a Environment,
}

impl Ambient<'_> {
    fn region(&self) -> Option<String> {
        self.read(&["AWS_REGION", "AWS_DEFAULT_REGION"], region)
    }

    fn endpoint(&self) -> Option<ServerUrl> {
        self.read(&["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"], endpoint)
    }

    fn metadata(&self) -> Option<ServerUrl> {
        self.read(&["AWS_EC2_METADATA_SERVICE_ENDPOINT"], metadata)
    }

    /// The first of these variables that is set.
    fn read<T>(&self, names: &[&str], read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let mut names = names.iter();
        let (name, text) = names.find_map(|name| Some((name, self.environment.get(name)?)))?;
        let problem = |error| {
            self.settings
                .problem(format!("environment {name}: {error}"))
        };
        read(text).map_err(problem).ok()
    }
}

fn assumed_role(node: &Node<'_>) -> Option<AssumedRole> {
    let fields = node.fields(&["role", "external-id", "session-name", "duration"]);
    let role = required(
        node,
        &fields,
        "role",
        "arn:aws:iam::123456789012:role/broker",
    )?;
    let session_name = fields.get("session-name");
    let assumed = fields.get("duration");
    Some(AssumedRole {
        role: role.read(role_arn)?,
        external_id: text(&fields, "external-id"),
        session_name: match session_name {
            Some(node) => node.read(session)?,
            None => SESSION.to_owned(),
        },
        duration: match assumed {
            Some(node) => node.read(assumed_for)?,
            None => ASSUMED,
        },
    })
}

fn eks(node: &Node<'_>, known: &BTreeMap<String, AwsSettings>) -> Option<EksSettings> {
    let fields = node.fields(&["cluster", "aws", "region"]);
    let cluster = required(node, &fields, "cluster", "shop-production")?;
    let aws = text(&fields, "aws").unwrap_or_else(|| DEFAULT_AWS.to_owned());
    if !known.contains_key(&aws) {
        node.problem(format!("aws: {}", unknown_aws(&aws, known)));
        return None;
    }
    Some(EksSettings {
        cluster: cluster.read(cluster_name)?,
        aws,
        region: match fields.get("region") {
            Some(node) => Some(node.read(region)?),
            None => None,
        },
    })
}

fn gcp(node: &Node<'_>) -> Option<GcpSettings> {
    let fields = node.fields(&["scope"]);
    Some(GcpSettings {
        scope: match fields.get("scope") {
            Some(node) => node.read(scope)?,
            None => CLOUD_PLATFORM.to_owned(),
        },
    })
}

fn oauth2(node: &Node<'_>) -> Option<OAuth2Settings> {
    let fields = node.fields(&[
        "token-url",
        "client-id",
        "client-secret",
        "authentication",
        "scope",
        "audience",
        "resource",
    ]);
    let token_url = required(
        node,
        &fields,
        "token-url",
        "https://login.example/oauth2/token",
    );
    let client_id = required(node, &fields, "client-id", "broker");
    let secret = required(node, &fields, "client-secret", "${CLIENT_SECRET}");
    let authentication = fields.get("authentication");
    Some(OAuth2Settings {
        token_url: token_url?.read(secure_uri)?,
        client_id: client_id?.text()?,
        client_secret: secret?.read(secret_text)?,
        authentication: match authentication {
            Some(node) => node.read(client_authentication)?,
            None => ClientAuthentication::default(),
        },
        scope: text(&fields, "scope"),
        audience: text(&fields, "audience"),
        resource: text(&fields, "resource"),
    })
}

fn vault(node: &Node<'_>) -> Option<VaultSettings> {
    let fields = node.fields(&[
        "address",
        "namespace",
        "mount",
        "path",
        "field",
        "token",
        "kubernetes",
        "refresh",
    ]);
    let address = required(node, &fields, "address", "https://vault.example:8200");
    let path = required(node, &fields, "path", "tools/sonarqube");
    let field = required(node, &fields, "field", "token");
    let login = vault_login(node, &fields);
    let (namespace, mount, refresh) = (
        fields.get("namespace"),
        fields.get("mount"),
        fields.get("refresh"),
    );
    Some(VaultSettings {
        address: address?.read(endpoint)?,
        namespace: match namespace {
            Some(node) => Some(node.read(header)?),
            None => None,
        },
        mount: match mount {
            Some(node) => node.read(vault_path)?,
            None => "secret".to_owned(),
        },
        path: path?.read(vault_path)?,
        field: field?.text()?,
        login: login?,
        refresh: match refresh {
            Some(node) => node.read(refreshed)?,
            None => VAULT_REFRESH,
        },
    })
}

fn vault_login(node: &Node<'_>, fields: &Fields<'_>) -> Option<VaultLogin> {
    match (fields.get("token"), fields.get("kubernetes")) {
        (Some(token), None) => token.read(secret_text).map(VaultLogin::Token),
        (None, Some(kubernetes)) => {
            let fields = kubernetes.fields(&["role", "mount", "jwt-file"]);
            let role = required(kubernetes, &fields, "role", "broker");
            let mount = fields.get("mount");
            let jwt_file = fields.get("jwt-file");
            Some(VaultLogin::Kubernetes {
                role: role?.text()?,
                mount: match mount {
                    Some(node) => node.read(vault_path)?,
                    None => "kubernetes".to_owned(),
                },
                jwt_file: match jwt_file {
                    Some(node) => node.path()?,
                    None => SERVICE_ACCOUNT_TOKEN.into(),
                },
            })
        }
        _ => {
            node.problem(
                "needs either \"token\" or \"kubernetes\" (write kubernetes: {role: broker})",
            );
            None
        }
    }
}

fn github_app(node: &Node<'_>) -> Option<GithubAppSettings> {
    let fields = node.fields(&[
        "app-id",
        "installation-id",
        "private-key-file",
        "api",
        "repositories",
        "permissions",
    ]);
    let app = required(node, &fields, "app-id", "123456");
    let installation = required(node, &fields, "installation-id", "7890123");
    let key = required(
        node,
        &fields,
        "private-key-file",
        "/run/secrets/github-app.pem",
    );
    let api = fields.get("api");
    let repositories = fields.get("repositories");
    let permissions = fields.get("permissions");
    Some(GithubAppSettings {
        app: app?.read(app_id)?,
        installation: installation?.read(integer(1..=u64::MAX))?,
        private_key_file: key?.path()?,
        api: match api {
            Some(node) => node.read(endpoint)?,
            None => GITHUB_API.parse().ok()?,
        },
        repositories: match repositories {
            Some(node) => some(node, node.items())?
                .iter()
                .map(|node| node.read(repository))
                .collect::<Option<_>>()?,
            None => Vec::new(),
        },
        permissions: match permissions {
            Some(node) => some(node, node.entries())?
                .into_iter()
                .map(|(name, node)| Some((name, node.read(access)?)))
                .collect::<Option<_>>()?,
            None => BTreeMap::new(),
        },
    })
}

/// What narrows a token: nothing in it would narrow nothing.
fn some<T>(node: &Node<'_>, entries: Vec<T>) -> Option<Vec<T>> {
    if entries.is_empty() {
        node.problem("names nothing (leave it out for all that the installation has)");
        return None;
    }
    Some(entries)
}

/// A number, or a client id such as `Iv23liABC`.
fn app_id(text: &str) -> Result<String, String> {
    let is_in = |b: u8| b.is_ascii_alphanumeric() || b == b'.';
    if !(1..=64).contains(&text.len()) || !text.bytes().all(is_in) {
        return Err(format!(
            "{} is neither an app's id nor its client id (write 123456)",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}

fn repository(text: &str) -> Result<String, String> {
    let is_in = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if !(1..=100).contains(&text.len()) || !text.bytes().all(is_in) {
        return Err(format!(
            "{} is no repository's name (write it without its owner)",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}

fn access(text: &str) -> Result<String, String> {
    match text {
        "read" | "write" | "admin" => Ok(text.to_owned()),
        _ => Err(format!("{} is not read, write or admin", shown(text))),
    }
}

fn header(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| format!("{} is no header's value", shown(text)))
}

fn vault_path(text: &str) -> Result<String, String> {
    let is_in = |b: u8| b.is_ascii_alphanumeric() || b"-._~/@+=".contains(&b);
    let is_bad = |step: &str| matches!(step, "" | "." | "..");
    if !text.bytes().all(is_in) || text.split('/').any(is_bad) {
        return Err(format!(
            "{} is no path in Vault (write tools/sonarqube, without /v1, data/ and slashes at the ends)",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}

fn refreshed(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time < Duration::from_secs(10) {
        return Err(format!("{} is less than 10s", shown(text)));
    }
    Ok(time)
}

fn client_authentication(text: &str) -> Result<ClientAuthentication, String> {
    match text {
        "basic" => Ok(ClientAuthentication::Basic),
        "post" => Ok(ClientAuthentication::Post),
        _ => Err(format!("{} is not basic or post", shown(text))),
    }
}

/// A secret, which stands elsewhere. Its text is not repeated, as it could be one.
fn secret_text(text: &str) -> Result<Template, String> {
    const FIX: &str = "write ${NAME}, ${file:/path} or ${exec:name}";
    let template = Template::parse(text).map_err(|error| error.to_string())?;
    if template.sources().next().is_none() {
        return Err(format!("a secret stands in the file itself ({FIX})"));
    }
    let asks = |source: &&Source| match source {
        Source::Variable(_) | Source::File(_) | Source::Declared(Declared::Exec, _) => false,
        Source::Declared(..) => true,
    };
    if let Some(source) = template.sources().find(asks) {
        return Err(format!("{source} cannot stand here ({FIX})"));
    }
    Ok(template)
}

fn scope(text: &str) -> Result<String, String> {
    // It becomes part of a query.
    let is_in = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/ ".contains(&b);
    if text.is_empty() || !text.bytes().all(is_in) {
        return Err(format!(
            "{} is no scope (write {CLOUD_PLATFORM})",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}

/// Why there is no entry of this name.
pub(crate) fn unknown_aws(name: &str, known: &BTreeMap<String, AwsSettings>) -> String {
    if name == DEFAULT_AWS {
        return "no region is known (set AWS_REGION, or declare credentials.aws.default with a region)"
            .to_owned();
    }
    let near = nearest(name, known.keys().map(String::as_str));
    let hint = near.map_or(String::new(), |near| format!(" (did you mean {near:?}?)"));
    format!("{name:?} is no entry of the settings' \"credentials.aws\"{hint}")
}

/// The field, which must be there.
fn required<'f>(
    node: &Node<'_>,
    fields: &'f Fields<'_>,
    name: &str,
    example: &str,
) -> Option<&'f Node<'f>> {
    let field = fields.get(name);
    if field.is_none() {
        node.problem(format!("no {name} (write {name}: {example})"));
    }
    field
}

fn text(fields: &Fields<'_>, name: &str) -> Option<String> {
    fields.get(name)?.text()
}

fn region(text: &str) -> Result<String, String> {
    let is_in = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    // It becomes part of a host's name.
    if text.is_empty() || text.len() > 63 || !text.bytes().all(is_in) {
        return Err(format!("{} is no region (write eu-west-1)", shown(text)));
    }
    Ok(text.to_owned())
}

fn endpoint(text: &str) -> Result<ServerUrl, String> {
    let url: ServerUrl = text.parse().map_err(|error| format!("{error}"))?;
    if !url.is_tls() && !url.is_loopback() {
        return Err(PLAINTEXT.to_owned());
    }
    Ok(url)
}

/// The same, or where it is on every instance.
fn metadata(text: &str) -> Result<ServerUrl, String> {
    let url: ServerUrl = text.parse().map_err(|error| format!("{error}"))?;
    let host = literal(&url.host().to_str());
    let is_usual = INSTANCE_HOSTS
        .iter()
        .any(|known| known.parse().ok() == host);
    if is_usual { Ok(url) } else { endpoint(text) }
}

fn role_arn(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let is_role = matches!(
        parts[..],
        ["arn", partition, "iam", "", account, resource]
            if partition.starts_with("aws")
                && account.len() == 12
                && account.bytes().all(|b| b.is_ascii_digit())
                && resource.starts_with("role/")
    );
    if !is_role {
        return Err(format!(
            "{} is no role's ARN (write arn:aws:iam::123456789012:role/broker)",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}

fn session(text: &str) -> Result<String, String> {
    let is_in = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
    if !(2..=64).contains(&text.len()) || !text.bytes().all(is_in) {
        return Err(format!(
            "{} is no session's name (use 2 to 64 letters, digits and \"_+=,.@-\")",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}

fn assumed_for(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let hours = Duration::from_secs(12 * 3600);
    if !(Duration::from_secs(900)..=hours).contains(&time) {
        return Err(format!("{} is not between 15m and 12h", shown(text)));
    }
    Ok(time)
}

fn cluster_name(text: &str) -> Result<String, String> {
    let is_in = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if text.len() > 100 || !text.bytes().all(is_in) {
        return Err(format!(
            "{} is no cluster's name (use letters, digits, \"-\" and \"_\", up to 100)",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}
