//! Rules about a Kubernetes API: verbs, resources, namespaces and names instead of a path.
//!
//! A path is read as the API server reads it (`RequestInfo` of `k8s.io/apiserver`), or not at all:
//! what has a second reading, there or at a proxy before it, matches nothing.

use std::fmt;

use http::Method;

use crate::path_glob::{PathGlobError, SegmentGlob};
use crate::target::RequestTarget;
use crate::weight::Weigh;

mod request;
mod resource;
#[cfg(test)]
mod tests;

use request::ResourceRequest;
pub use resource::KubernetesResource;

/// What a rule of the kind `kubernetes` allows.
#[derive(Clone, Debug)]
pub struct KubernetesRule {
    pub(crate) verbs: Box<[Verb]>,
    pub(crate) resources: Box<[KubernetesResource]>,
    /// None is all, lists over all of them, and what stands in none.
    pub(crate) namespaces: Option<Box<[NameGlob]>>,
    /// None is every object.
    pub(crate) names: Option<Box<[NameGlob]>>,
}

/// What may be done with a resource, as RBAC calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// One object is read.
    Get,
    /// All objects are read.
    List,
    /// Changes are followed as they happen.
    Watch,
    /// An object is made, or something is sent to a subresource by `POST`.
    Create,
    /// An object is replaced.
    Update,
    /// Parts of an object are replaced.
    Patch,
    /// An object is deleted.
    Delete,
    /// All objects are deleted.
    DeleteCollection,
}

/// A glob for a name, and the text that it was made of.
#[derive(Clone, Debug)]
pub(crate) struct NameGlob {
    text: Box<str>,
    glob: SegmentGlob,
}

/// The first thing in which a request differs from what a Kubernetes rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KubernetesDifference {
    /// The path is none of a resource, or has more than one reading.
    Target,
    /// The resource or subresource.
    Resource,
    /// The namespace.
    Namespace,
    /// The verb.
    Verb,
    /// The name of the object, or a list that is not narrowed to one.
    Name,
}

impl KubernetesRule {
    /// What may be done.
    pub fn verbs(&self) -> &[Verb] {
        &self.verbs
    }

    /// With what.
    pub fn resources(&self) -> &[KubernetesResource] {
        &self.resources
    }

    /// In which namespaces, as globs; none is all of them, and what stands in none.
    pub fn namespaces(&self) -> Option<impl Iterator<Item = &str>> {
        Some(self.namespaces.as_ref()?.iter().map(|glob| &*glob.text))
    }

    /// With which objects, as globs; none is every one.
    pub fn names(&self) -> Option<impl Iterator<Item = &str>> {
        Some(self.names.as_ref()?.iter().map(|glob| &*glob.text))
    }

    /// The methods by which its verbs are asked for.
    pub(crate) fn methods(&self) -> Box<[Method]> {
        let mut methods: Vec<Method> = self.verbs.iter().map(|verb| verb.method()).collect();
        methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        methods.dedup();
        methods.into()
    }

    /// The first thing that differs; none where the rule matches.
    pub(crate) fn difference(&self, target: &RequestTarget) -> Option<KubernetesDifference> {
        let Some(request) = ResourceRequest::read(target) else {
            return Some(KubernetesDifference::Target);
        };
        if !self.resources.iter().any(|own| own.covers(&request)) {
            return Some(KubernetesDifference::Resource);
        }
        if !is_among(self.namespaces.as_deref(), request.namespace.as_deref()) {
            return Some(KubernetesDifference::Namespace);
        }
        let verbs = request.verbs(target);
        if verbs.is_empty() || verbs.iter().any(|verb| !self.verbs.contains(verb)) {
            return Some(KubernetesDifference::Verb);
        }
        if !is_among(self.names.as_deref(), request.only_name(target).as_deref()) {
            return Some(KubernetesDifference::Name);
        }
        None
    }
}

/// Whether a name is as one of the globs wants it; where there are globs, there must be one.
fn is_among(globs: Option<&[NameGlob]>, name: Option<&str>) -> bool {
    let matches = |globs: &[NameGlob]| {
        name.is_some_and(|name| globs.iter().any(|glob| glob.glob.matches(name)))
    };
    globs.is_none_or(matches)
}

impl fmt::Display for KubernetesRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, globs: &[NameGlob]| {
            let texts: Vec<&str> = globs.iter().map(|glob| &*glob.text).collect();
            f.write_str(&texts.join(","))
        };
        let join = |texts: Vec<String>| texts.join(",");
        let verbs = join(self.verbs.iter().map(ToString::to_string).collect());
        let resources = join(self.resources.iter().map(ToString::to_string).collect());
        write!(f, "kubernetes: {verbs} {resources} in ")?;
        match &self.namespaces {
            Some(globs) => list(f, globs)?,
            None => f.write_str("all namespaces and none")?,
        }
        if let Some(globs) = &self.names {
            f.write_str(" named ")?;
            list(f, globs)?;
        }
        Ok(())
    }
}

impl Verb {
    /// Every verb, by name.
    pub(crate) const NAMES: &[&str] = &[
        "get",
        "list",
        "watch",
        "create",
        "update",
        "patch",
        "delete",
        "deletecollection",
    ];

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let all = [
            Self::Get,
            Self::List,
            Self::Watch,
            Self::Create,
            Self::Update,
            Self::Patch,
            Self::Delete,
            Self::DeleteCollection,
        ];
        let position = Self::NAMES.iter().position(|known| *known == name)?;
        all.get(position).copied()
    }

    fn method(self) -> Method {
        match self {
            Self::Get | Self::List | Self::Watch => Method::GET,
            Self::Create => Method::POST,
            Self::Update => Method::PUT,
            Self::Patch => Method::PATCH,
            Self::Delete | Self::DeleteCollection => Method::DELETE,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        })
    }
}

impl NameGlob {
    /// Reads a glob for one segment.
    pub(crate) fn parse(text: &str) -> Result<Self, PathGlobError> {
        if text.is_empty() || text.contains('/') || text.contains("**") {
            return Err(PathGlobError::NotOneSegment);
        }
        Ok(Self {
            text: text.into(),
            glob: SegmentGlob::parse(text)?,
        })
    }
}

impl Weigh for NameGlob {
    fn weight(&self) -> usize {
        self.glob.weight()
    }
}
