//! `resource[.group][/subresource]`: what a Kubernetes rule is about.

use std::fmt;

use super::request::{ResourceRequest, is_label};

/// Resources that `*` does not mean: they hold credentials, or everything else.
const NAMED_RESOURCES: &[&str] = &["secrets", "namespaces"];

/// Subresources that `*` does not mean: they run commands, reach into a pod or another server, give
/// out logs or tokens, or vouch for an identity.
const NAMED_SUBRESOURCES: &[&str] = &[
    "exec",
    "attach",
    "portforward",
    "proxy",
    "log",
    "token",
    "ephemeralcontainers",
    "approval",
    "console",
    "vnc",
];

/// What a rule is about, in kubectl's notation: `pods`, `deployments.apps`, `pods/log`; a `*` for
/// all of a group, all groups or all subresources, but for those that must be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesResource {
    resource: Part,
    /// Empty is the core group.
    group: Part,
    subresource: Option<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    All,
    Only(Box<str>),
}

impl KubernetesResource {
    /// None where it has another form, or names a version.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (full_name, subresource) = match text.split_once('/') {
            Some((full_name, subresource)) => (full_name, Some(subresource)),
            None => (text, None),
        };
        let (resource, group) = match full_name.split_once('.') {
            Some((resource, group)) if !is_version(group) => (resource, Part::parse(group)?),
            Some(_) => return None,
            None => (full_name, Part::Only("".into())),
        };
        let is_name = |text: &str| !text.contains('.');
        if !is_name(resource) || !subresource.is_none_or(is_name) {
            return None;
        }
        Some(Self {
            resource: Part::parse(resource)?,
            group,
            subresource: match subresource {
                Some(name) => Some(Part::parse(name)?),
                None => None,
            },
        })
    }

    pub(super) fn covers(&self, request: &ResourceRequest<'_>) -> bool {
        let subresource = match (&self.subresource, &request.subresource) {
            (None, None) => true,
            (Some(own), Some(name)) => own.covers(name, NAMED_SUBRESOURCES),
            (None, Some(_)) | (Some(_), None) => false,
        };
        subresource
            && self.resource.covers(&request.resource, NAMED_RESOURCES)
            && self.group.covers(&request.group, &[])
    }
}

impl Part {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "*" => Some(Self::All),
            _ => is_label(text).then(|| Self::Only(text.into())),
        }
    }

    fn covers(&self, name: &str, only_by_name: &[&str]) -> bool {
        match self {
            Self::All => !only_by_name.contains(&name),
            Self::Only(own) => **own == *name,
        }
    }
}

impl fmt::Display for KubernetesResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.resource.fmt(f)?;
        if self.group != Part::Only("".into()) {
            write!(f, ".{}", self.group)?;
        }
        match &self.subresource {
            Some(subresource) => write!(f, "/{subresource}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "*",
            Self::Only(name) => name,
        })
    }
}

/// Whether a group begins with a version, as kubectl also writes it: `deployments.v1.apps`. A rule
/// is about every version.
fn is_version(group: &str) -> bool {
    let first = group.split('.').next().unwrap_or_default();
    first
        .strip_prefix('v')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}
