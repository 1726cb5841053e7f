//! Where rules send requests, and with whose credential.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Findings, LintCode, Subject, quoted};
use crate::rule::{Auth, RuleIndex};

/// Addresses at which clouds and hosts answer only what runs on them, beside the link-local ones.
const METADATA_HOSTS: &[&str] = &[
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    "instance-data.ec2.internal",
    "metadata.google.internal",
    "metadata.goog",
];

pub(super) fn check(subjects: &[Subject<'_>], findings: &mut Findings) {
    for subject in subjects {
        if subject.rule.auth().is_some_and(is_literal) {
            findings.push(
                LintCode::LiteralCredential,
                subject,
                "the credential stands in the file",
                "put it into a variable, such as \"${TOKEN}\", and replace it by a new one",
            );
        }
    }
    for (origin, group) in by_origin(subjects) {
        let [first, ..] = group.as_slice() else {
            continue;
        };
        let host = literal_host(origin);
        let local = host.and_then(local_kind);
        if let Some(kind) = local {
            findings.push_group(
                LintCode::LocalAddress,
                first,
                others(&group),
                format!("\"origin\" {} is {kind}", quoted(origin)),
                "name the service that is meant, if it is another",
            );
        }
        if let Some(shorter) = origin.strip_suffix('/') {
            let seen = format!("{origin}{}", first.rule.path());
            findings.push_group(
                LintCode::TrailingSlash,
                first,
                others(&group),
                format!(
                    "\"origin\" {} ends in a slash, so what is asked for is {}",
                    quoted(origin),
                    quoted(&seen)
                ),
                format!("write {}", quoted(shorter.trim_end_matches('/'))),
            );
        }
        let (with, without): (Vec<_>, Vec<_>) = group
            .iter()
            .copied()
            .partition(|subject| subject.rule.auth().is_some());
        cleartext(origin, local, &with, findings);
        passes_authorization(origin, host, &without, findings);
    }
}

fn cleartext(
    origin: &str,
    local: Option<&'static str>,
    group: &[&Subject<'_>],
    findings: &mut Findings,
) {
    let is_http = origin
        .get(..7)
        .is_some_and(|start| start.eq_ignore_ascii_case("http://"));
    if let ([first, ..], true, None | Some(LINK_LOCAL | METADATA)) = (group, is_http, local) {
        let rest = origin.get(7..).unwrap_or_default();
        findings.push_group(
            LintCode::CleartextCredential,
            first,
            others(group),
            format!(
                "\"origin\" {} gets the credential without TLS",
                quoted(origin)
            ),
            format!("write {}", quoted(&format!("https://{rest}"))),
        );
    }
}

fn passes_authorization(
    origin: &str,
    host: Option<&str>,
    group: &[&Subject<'_>],
    findings: &mut Findings,
) {
    let [first, ..] = group else { return };
    let unless = match host {
        Some(_) => "",
        None => ", unless a variable brings userinfo",
    };
    findings.push_group(
        LintCode::PassesAuthorization,
        first,
        others(group),
        format!(
            "there is no \"auth\": the caller's own Authorization goes to {}{unless}",
            quoted(origin)
        ),
        "write \"auth\": {\"scheme\": \"bearer\", \"token\": \"${TOKEN}\"}, unless callers bring \
         their own",
    );
}

/// The subjects that can match, by their origin as written, in the order of the file.
pub(super) fn by_origin<'s, 'a>(
    subjects: &'s [Subject<'a>],
) -> Vec<(&'a str, Vec<&'s Subject<'a>>)> {
    let mut groups: Vec<(&str, Vec<&Subject<'_>>)> = Vec::new();
    let mut places = HashMap::new();
    for subject in subjects.iter().filter(|subject| subject.never.is_none()) {
        let Some(origin) = subject.rule.origin() else {
            continue;
        };
        let place = *places.entry(origin.as_str()).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, group)) => group.push(subject),
            None => groups.push((origin.as_str(), vec![subject])),
        }
    }
    groups
}

/// The rules of a group but for the first.
pub(super) fn others(group: &[&Subject<'_>]) -> Box<[RuleIndex]> {
    group.iter().skip(1).map(|subject| subject.index).collect()
}

/// The path of an origin, where it is known.
pub(super) fn literal_path(origin: &str) -> &str {
    let rest = origin.split_once("://").map_or(origin, |(_, rest)| rest);
    let path = rest
        .find('/')
        .and_then(|start| rest.get(start..))
        .unwrap_or_default();
    match path.contains("${") {
        true => "",
        false => path.trim_end_matches('/'),
    }
}

/// The host, where no variable has a part in it.
fn literal_host(origin: &str) -> Option<&str> {
    let rest = origin.split_once("://").map_or(origin, |(_, rest)| rest);
    let authority = rest.split('/').next()?;
    if authority.contains("${") {
        return None;
    }
    match authority.strip_prefix('[') {
        Some(address) => address.split(']').next(),
        None => authority.split(':').next(),
    }
}

/// Nothing is put in, so that the file itself has the credential.
fn is_literal(auth: &Auth) -> bool {
    let secret = match auth {
        Auth::Token(text)
        | Auth::Bearer(text)
        | Auth::BasicToken(text)
        | Auth::Raw(text)
        | Auth::Userinfo(text) => text,
        Auth::Basic { password, .. } | Auth::UserinfoBasic { password, .. } => password,
        Auth::SigV4(_) => return false,
    };
    !secret.is_empty() && secret.sources().next().is_none()
}

const LOOPBACK: &str = "the agent's own machine";
const LINK_LOCAL: &str = "a link-local address, where clouds hand out credentials";
const METADATA: &str = "a metadata service, which hands out the machine's credentials";

fn local_kind(host: &str) -> Option<&'static str> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host == "localhost" || host.ends_with(".localhost") {
        return Some(LOOPBACK);
    }
    let address = host
        .parse()
        .ok()
        .or_else(|| old_ipv4(&host).map(IpAddr::V4));
    let is_metadata = |known: &&str| {
        **known == host || address.is_some_and(|address| known.parse() == Ok(address))
    };
    if METADATA_HOSTS.iter().any(is_metadata) {
        return Some(METADATA);
    }
    match address.map(|address| address.to_canonical())? {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Some(LOOPBACK),
        address if address.is_loopback() => Some(LOOPBACK),
        IpAddr::V4(address) if address.is_link_local() => Some(LINK_LOCAL),
        IpAddr::V6(address) if address.is_unicast_link_local() => Some(LINK_LOCAL),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// An IPv4 address as C's `inet_aton` reads it, and so resolvers do: `127.1`, `0xa9fea9fe`.
fn old_ipv4(host: &str) -> Option<Ipv4Addr> {
    let numbers: Vec<u32> = host.split('.').map(old_number).collect::<Option<_>>()?;
    let (last, first) = numbers.split_last()?;
    let room = 4_u32.checked_sub(u32::try_from(first.len()).ok()?)?;
    let fits = u64::from(*last) < 1_u64 << (8 * room);
    if room == 0 || !fits || first.iter().any(|number| *number > 255) {
        return None;
    }
    let head = first
        .iter()
        .zip([24, 16, 8])
        .fold(0, |sum, (number, shift)| sum | (number << shift));
    Some(Ipv4Addr::from(head | last))
}

fn old_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_known_in_every_spelling() {
        for (origin, kind) in [
            ("http://localhost:7044", LOOPBACK),
            ("http://app.localhost.", LOOPBACK),
            ("http://127.8.0.1", LOOPBACK),
            ("http://127.1/x", LOOPBACK),
            ("http://0177.0.0.1", LOOPBACK),
            ("http://0.0.0.0", LOOPBACK),
            ("https://[::1]:8443", LOOPBACK),
            ("https://[::ffff:127.0.0.1]", LOOPBACK),
            ("169.254.169.254/latest", LINK_LOCAL),
            ("http://2852039166", LINK_LOCAL),
            ("http://0xa9fea9fe", LINK_LOCAL),
            ("http://[fe80::1]", LINK_LOCAL),
            ("http://[fd00:EC2::254]", METADATA),
            ("http://[fd00:ec2:0::254]", METADATA),
            ("http://Metadata.Google.Internal", METADATA),
            ("http://100.100.100.200", METADATA),
        ] {
            let found = literal_host(origin).and_then(local_kind);
            assert_eq!(found, Some(kind), "{origin}");
        }
        for origin in [
            "https://10.0.0.1",
            "https://host",
            "https://${HOST}",
            "https://localhost.example",
            "https://1.2.3.4.5",
            "https://1.2.3.256",
            "https://[2001:db8::1]",
            "https://metadata.example",
        ] {
            assert_eq!(literal_host(origin).and_then(local_kind), None, "{origin}");
        }
    }

    #[test]
    fn the_path_of_an_origin_is_known_without_variables() {
        for (origin, path) in [
            ("https://host/api/v4/", "/api/v4"),
            ("${URL}/api", "/api"),
            ("https://host", ""),
            ("https://host/${ORG}", ""),
        ] {
            assert_eq!(literal_path(origin), path, "{origin}");
        }
    }
}
