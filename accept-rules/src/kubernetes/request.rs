//! A request for a resource of a Kubernetes API.

use std::borrow::Cow;

use http::Method;

use super::Verb;
use crate::target::{RequestTarget, decode, has_parameters};

/// What a path says, as the API server reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ResourceRequest<'a> {
    /// Empty is the core group.
    pub(super) group: Cow<'a, str>,
    pub(super) resource: Cow<'a, str>,
    pub(super) namespace: Option<Cow<'a, str>>,
    pub(super) name: Option<Cow<'a, str>>,
    pub(super) subresource: Option<Cow<'a, str>>,
}

/// What the parameter `watch` says of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    No,
    Yes,
    /// Servers may differ.
    Unclear,
}

impl<'a> ResourceRequest<'a> {
    /// None where the path is not that of a resource, or not of one only.
    pub(super) fn read(target: &'a RequestTarget) -> Option<Self> {
        let path = target.path();
        // An escaped percent sign becomes an escape at a server behind a proxy that decodes, and
        // parameters are dropped by some.
        if has_parameters(path) || path.contains("%25") {
            return None;
        }
        let mut segments = path.strip_prefix('/')?.split('/');
        let group = match segments.next()? {
            "api" => Cow::Borrowed(""),
            "apis" => label(segments.next()?)?,
            _ => return None,
        };
        label(segments.next()?)?;
        let request = match segments.next()? {
            // Old prefixes under which everything has another place, and the verb is the prefix.
            "watch" | "proxy" => return None,
            "namespaces" => Self::read_namespaced(group, &mut segments)?,
            resource => Self {
                group,
                resource: label(resource)?,
                namespace: None,
                name: optional(&mut segments, name)?,
                subresource: optional(&mut segments, label)?,
            },
        };
        // The proxy subresource alone takes a path, which is another server's.
        let is_end = segments.next().is_none() || request.subresource.as_deref() == Some("proxy");
        is_end.then_some(request)
    }

    /// What follows `namespaces`: the resource of that name, or one in a namespace.
    fn read_namespaced(
        group: Cow<'a, str>,
        segments: &mut impl Iterator<Item = &'a str>,
    ) -> Option<Self> {
        let namespace = optional(segments, label)?;
        match (namespace, segments.next()) {
            (namespace, None) => Some(Self {
                group,
                resource: "namespaces".into(),
                name: namespace.clone(),
                namespace,
                subresource: None,
            }),
            // A resource called so, in a namespace, would have the same path.
            (Some(namespace), Some(own @ ("status" | "finalize"))) if group.is_empty() => {
                Some(Self {
                    group,
                    resource: "namespaces".into(),
                    name: Some(namespace.clone()),
                    namespace: Some(namespace),
                    subresource: Some(own.into()),
                })
            }
            (_, Some("status" | "finalize")) => None,
            (namespace, Some(resource)) => Some(Self {
                group,
                resource: label(resource)?,
                namespace,
                name: optional(segments, name)?,
                subresource: optional(segments, label)?,
            }),
        }
    }

    /// The verbs that it needs, all of them; none where the API has no such request.
    pub(super) fn verbs(&self, target: &RequestTarget) -> &'static [Verb] {
        let is_named = self.name.is_some();
        match *target.method() {
            Method::GET if self.subresource.as_deref() == Some("proxy") => &[Verb::Get],
            Method::GET => match (is_named, watch(target)) {
                (true, Watch::No) => &[Verb::Get],
                (true, Watch::Yes | Watch::Unclear) => &[Verb::Get, Verb::Watch],
                (false, Watch::No) => &[Verb::List],
                (false, Watch::Yes) => &[Verb::Watch],
                (false, Watch::Unclear) => &[Verb::List, Verb::Watch],
            },
            Method::POST if !is_named || self.subresource.is_some() => &[Verb::Create],
            Method::PUT if is_named => &[Verb::Update],
            Method::PATCH if is_named => &[Verb::Patch],
            Method::DELETE if is_named => &[Verb::Delete],
            Method::DELETE => &[Verb::DeleteCollection],
            _ => &[],
        }
    }

    /// The one object that it is about, in its path or by its field selector.
    pub(super) fn only_name(&self, target: &'a RequestTarget) -> Option<Cow<'a, str>> {
        match (&self.name, target.method()) {
            (Some(name), _) => Some(name.clone()),
            (None, &Method::GET | &Method::DELETE) => selected_name(target),
            // What is made has its name in the body.
            (None, _) => None,
        }
    }
}

/// What stands in the next segment, `Some(None)` where there is none.
fn optional<'a>(
    segments: &mut impl Iterator<Item = &'a str>,
    read: impl Fn(&'a str) -> Option<Cow<'a, str>>,
) -> Option<Option<Cow<'a, str>>> {
    match segments.next() {
        None => Some(None),
        Some(segment) => read(segment).map(Some),
    }
}

/// Whether a text can be that of a group, version, resource or namespace.
pub(super) fn is_label(text: &str) -> bool {
    let is_in_label = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(b);
    !text.is_empty() && text.as_bytes().iter().all(is_in_label)
}

fn label(segment: &str) -> Option<Cow<'_, str>> {
    let text = decode_segment(segment)?;
    is_label(&text).then_some(text)
}

/// The name of an object: what RBAC's and the proxy's have, and nothing that could end a segment or
/// the path for anyone.
fn name(segment: &str) -> Option<Cow<'_, str>> {
    let text = decode_segment(segment)?;
    is_name(&text).then_some(text)
}

fn is_name(text: &str) -> bool {
    let is_in_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~:@".contains(b);
    !text.is_empty() && text.as_bytes().iter().all(is_in_name)
}

fn decode_segment(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(segment.into());
    }
    String::from_utf8(decode(segment.as_bytes()))
        .ok()
        .map(Into::into)
}

/// The parameters of the query, decoded. Old servers split at `;` too.
fn parameters(target: &RequestTarget) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let pairs = target.query().unwrap_or_default().split(['&', ';']);
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode_parameter(name), decode_parameter(value))
    })
}

fn decode_parameter(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let spaced = text.replace('+', " ");
    String::from_utf8_lossy(&decode(spaced.as_bytes()))
        .into_owned()
        .into()
}

/// The value of a parameter that is there once and in one spelling, `Err` where it is not so clear.
fn parameter<'a>(target: &'a RequestTarget, name: &str) -> Result<Option<Cow<'a, str>>, ()> {
    let named = |(found, _): &(Cow<'_, str>, _)| found.eq_ignore_ascii_case(name);
    let mut found = parameters(target).filter(named);
    let Some((spelled, value)) = found.next() else {
        return Ok(None);
    };
    let is_split_anew = target.query().is_some_and(|query| query.contains(';'));
    if found.next().is_some() || spelled != name || is_split_anew {
        return Err(());
    }
    Ok(Some(value))
}

/// The API server takes every value but `false` and `0` for true, an empty one too.
fn watch(target: &RequestTarget) -> Watch {
    match parameter(target, "watch") {
        Ok(None) => Watch::No,
        Ok(Some(value)) => match &*value {
            "true" | "1" => Watch::Yes,
            "false" | "0" => Watch::No,
            _ => Watch::Unclear,
        },
        Err(()) => Watch::Unclear,
    }
}

/// The name in `fieldSelector=metadata.name=NAME`, where the selector says that and nothing else.
fn selected_name(target: &RequestTarget) -> Option<Cow<'_, str>> {
    let selector = parameter(target, "fieldSelector").ok()??;
    let value = selector.strip_prefix("metadata.name=")?;
    let value = value.strip_prefix('=').unwrap_or(value);
    is_name(value).then(|| value.to_owned().into())
}
