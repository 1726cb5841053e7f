//! What credentials are made of that an accept file can only name.

use std::collections::BTreeMap;
use std::time::Duration;

use broker_process::settings::{
    Environment, Fields, Node, Section, Settings, duration, nearest, shown,
};

use super::commands::{CommandSettings, commands};
use super::{ServerUrl, table};

/// The entry that holds where a rule or another entry names none.
const DEFAULT_AWS: &str = "default";
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
}

/// Whose keys of Amazon Web Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsSettings {
    /// Where requests are signed for, and whose token service is asked.
    pub region: String,
    /// The token service, if not the region's own.
    pub endpoint: Option<ServerUrl>,
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

pub(super) fn credentials(
    settings: &Settings<'_>,
    environment: &Environment,
) -> CredentialSettings {
    let region = ["AWS_REGION", "AWS_DEFAULT_REGION"].map(|name| environment.get(name));
    let region = region.into_iter().flatten().next();
    let mut aws = named(settings, &table::AWS, |node| aws(node, environment, region));
    if let (Some(region), false) = (region, aws.contains_key(DEFAULT_AWS)) {
        aws.insert(
            DEFAULT_AWS.to_owned(),
            AwsSettings {
                region: region.to_owned(),
                endpoint: ambient_endpoint(environment),
                roles: Vec::new(),
            },
        );
    }
    CredentialSettings {
        commands: commands(settings),
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
    accept_rules::Template::parse(&format!("${{exec:{text}}}")).is_ok()
}

fn aws(
    node: &Node<'_>,
    environment: &Environment,
    ambient_region: Option<&str>,
) -> Option<AwsSettings> {
    let fields = node.fields(&["region", "endpoint", "assume-role"]);
    let region = match fields.get("region") {
        Some(node) => node.read(region)?,
        None => match ambient_region {
            Some(region) => region.to_owned(),
            None => {
                node.problem("no region (write region: eu-west-1, or set AWS_REGION)");
                return None;
            }
        },
    };
    let endpoint = match fields.get("endpoint") {
        Some(node) => Some(node.read(endpoint)?),
        None => ambient_endpoint(environment),
    };
    let roles = fields.get("assume-role").map(Node::items);
    let roles = roles.unwrap_or_default();
    Some(AwsSettings {
        region,
        endpoint,
        roles: roles.iter().map(assumed_role).collect::<Option<_>>()?,
    })
}

/// As Amazon's own programs take it.
fn ambient_endpoint(environment: &Environment) -> Option<ServerUrl> {
    let variables = ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"];
    let endpoint = variables.into_iter().find_map(|name| environment.get(name));
    endpoint.and_then(|text| text.parse().ok())
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
        return Err(
            "http:// is for this machine alone, since secrets travel here (use https://)"
                .to_owned(),
        );
    }
    Ok(url)
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
