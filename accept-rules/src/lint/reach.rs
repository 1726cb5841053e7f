//! What rules reach of the tools that they are written for.

use http::Method;

use super::known::{Probe, TOOLS, Tool};
use super::origin::{by_origin, literal_path, others};
use super::path::varying;
use super::{Findings, LintCode, Subject, quoted};
use crate::kubernetes::{KubernetesRule, Verb};
use crate::path_pattern::Token;
use crate::rule::{EncodedSlash, PatternKind, Rule};
use crate::target::RequestTarget;

/// The one tool that has rules of its own kind.
const KUBERNETES: &str = "Kubernetes";

pub(super) fn check(subjects: &[Subject<'_>], findings: &mut Findings) {
    for (origin, group) in by_origin(subjects) {
        let tools: Vec<&Tool> = TOOLS
            .iter()
            .filter(|tool| is_origin_of(tool, origin, &group))
            .collect();
        for tool in &tools {
            let targets = targets(tool, literal_path(origin));
            for subject in &group {
                match subject.rule.kubernetes() {
                    Some(rule) => named(rule, subject, findings),
                    None => reached(tool, &targets, subject, findings),
                }
            }
        }
        if let Some(tool) = tools.iter().find(|tool| tool.decodes) {
            encoded_slash(tool, origin, &group, findings);
        }
    }
}

/// Whether the name of an origin, or a path that rules have for it, is one of the tool's.
fn is_origin_of(tool: &Tool, origin: &str, group: &[&Subject<'_>]) -> bool {
    let name = name_of(origin);
    let base = literal_path(origin);
    let is_path = |subject: &&Subject<'_>| {
        let path = format!("{base}{}", subject.rule.path());
        tool.paths
            .iter()
            .any(|start| starts_with(subject.rule.path(), start) || starts_with(&path, start))
    };
    let is_kind = |subject: &&Subject<'_>| subject.rule.kubernetes().is_some();
    tool.words.iter().any(|word| name.contains(word))
        || group.iter().any(is_path)
        || (tool.name == KUBERNETES && group.iter().any(is_kind))
}

/// Variables, the first label of the host, and the port: `grafana.k8s.example` is no Kubernetes.
fn name_of(origin: &str) -> String {
    let rest = origin.split_once("://").map_or(origin, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    let variables = origin
        .split("${")
        .skip(1)
        .filter_map(|text| text.split('}').next());
    let mut name = String::from("_");
    for part in variables.chain([host.split('.').next().unwrap_or_default(), port]) {
        let plain = part.chars().map(|c| match c.is_ascii_alphanumeric() {
            true => c.to_ascii_lowercase(),
            false => '_',
        });
        name.extend(plain.chain(['_']));
    }
    name
}

/// As rules match: in either case.
fn starts_with(path: &str, start: &str) -> bool {
    path.get(..start.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(start))
}

/// What would be asked for, for each probe of a tool whose origin has the path `base`.
fn targets(tool: &Tool, base: &str) -> Vec<(&'static Probe, RequestTarget)> {
    let target = |probe: &'static Probe| {
        let (method, path) = probe.request.split_once(' ')?;
        let method = Method::from_bytes(method.as_bytes()).ok()?;
        let below = path.strip_prefix(base).filter(|path| path.starts_with('/'));
        let target = RequestTarget::new(&method, below.unwrap_or(path)).ok()?;
        Some((probe, target))
    };
    tool.probes.iter().filter_map(target).collect()
}

/// The first probe of each kind that the rule allows; what it asks for beside method and path, a caller
/// may well have.
fn reached(
    tool: &Tool,
    targets: &[(&'static Probe, RequestTarget)],
    subject: &Subject<'_>,
    findings: &mut Findings,
) {
    let mut seen: Vec<LintCode> = Vec::new();
    for (probe, target) in targets {
        if seen.contains(&probe.code) || !subject.rule.covers(target) {
            continue;
        }
        seen.push(probe.code);
        let conditions = match subject.has_conditions() {
            true => ", where its conditions hold",
            false => "",
        };
        findings.push(
            probe.code,
            subject,
            format!(
                "{} allows {} {} of {}{conditions}: {}",
                subject.path_text(),
                target.method(),
                quoted(target.path()),
                tool.name,
                probe.what
            ),
            fix(tool, probe, subject),
        );
    }
}

/// What a Kubernetes rule names, since nothing else means it.
fn named(rule: &KubernetesRule, subject: &Subject<'_>, findings: &mut Findings) {
    let may = |verb| rule.verbs().contains(&verb);
    let reads = may(Verb::Get) || may(Verb::List) || may(Verb::Watch);
    let mut seen: Vec<LintCode> = Vec::new();
    for resource in rule.resources() {
        let text = resource.to_string();
        let subresource = text.split_once('/').map(|(_, subresource)| subresource);
        let (code, what) = match (text.as_str(), subresource) {
            ("secrets", _) if reads => (LintCode::ReachesSecrets, "Secrets with their values"),
            (_, Some("exec" | "attach" | "portforward")) => (
                LintCode::ReachesExec,
                "with an upgrade, a shell or a port in a container",
            ),
            (_, Some("proxy")) => (LintCode::ReachesProxy, "whatever another host answers"),
            ("serviceaccounts/token", _) if may(Verb::Create) => {
                (LintCode::IssuesTokens, "tokens of service accounts")
            }
            _ => continue,
        };
        if !seen.contains(&code) {
            seen.push(code);
            findings.push(
                code,
                subject,
                format!("\"resources\" has {}: {what}", quoted(&text)),
                UNLESS_MEANT,
            );
        }
    }
}

/// For a rule that names what it reaches.
const UNLESS_MEANT: &str = "remove it, unless just this is meant";

fn fix(tool: &Tool, probe: &Probe, subject: &Subject<'_>) -> String {
    let is_open =
        |token: &Token| matches!(token, Token::Parameter(parameter) if parameter.asterisk);
    let tokens = subject.shape.tokens();
    if !tokens.iter().any(is_open) && !subject.rule.path().contains("**") {
        UNLESS_MEANT.to_owned()
    } else if tool.name == KUBERNETES && probe.code != LintCode::IssuesTokens {
        let name = varying(subject.rule);
        format!("name what is needed, such as \"/api/v1/namespaces/{name}/pods\"")
    } else {
        "name the paths that are needed".to_owned()
    }
}

/// Parameters that may hold a `%2F`, on an origin that takes it for a slash.
fn encoded_slash(tool: &Tool, origin: &str, group: &[&Subject<'_>], findings: &mut Findings) {
    let open = group
        .iter()
        .copied()
        .filter(|subject| subject.rule.encoded_slash == EncodedSlash::Data);
    let mut open =
        open.filter_map(|subject| slashed_example(subject).map(|example| (subject, example)));
    let Some((first, example)) = open.next() else {
        return;
    };
    let mut with_parameters = vec![first];
    with_parameters.extend(open.map(|(subject, _)| subject));
    findings.push_group(
        LintCode::EncodedSlash,
        first,
        others(&with_parameters),
        format!(
            "{} allows {}, which {} reads as another path",
            first.path_text(),
            quoted(&example),
            tool.name
        ),
        match first.rule.pattern_kind() {
            PatternKind::Glob => "leave out \"encoded-slash\": \"data\"".to_owned(),
            PatternKind::PathToRegexp | PatternKind::Kubernetes => format!(
                "in the agent's settings, write origins: {{{}: {{encoded-slash: refuse}}}}",
                quoted(origin)
            ),
        },
    );
}

/// A path that the rule allows, with a `%2F` in a parameter. An asterisk allows slashes anyway.
fn slashed_example(subject: &Subject<'_>) -> Option<String> {
    if subject.rule.pattern_kind() == PatternKind::Glob {
        return slashed_glob_example(subject.rule);
    }
    let tokens = subject.shape.tokens().iter().enumerate();
    let parameters = tokens.filter(|(_, token)| match token {
        Token::Parameter(parameter) => !parameter.asterisk,
        Token::Literal(_) => false,
    });
    let mut examples =
        parameters.filter_map(|(at, _)| subject.shape.example(subject.rule, at, "x%2Fy"));
    examples.next()
}

fn slashed_glob_example(rule: &Rule) -> Option<String> {
    let segments: Vec<_> = rule.path().split('/').collect();
    let fill = |at: usize| {
        let filled = segments.iter().enumerate().map(|(index, segment)| {
            let value = if index == at { "x%2Fy" } else { "x" };
            segment.replace("**", "x").replace('*', value)
        });
        filled.collect::<Vec<_>>().join("/")
    };
    let is_within_one = |segment: &str| segment.contains('*') && segment != "**";
    let indexed = segments.iter().enumerate();
    let within_one = indexed.filter(|(_, segment)| is_within_one(segment));
    let examples = within_one.map(|(at, _)| fill(at));
    let mut fitting = examples.filter(|example| rule.pattern.matches_path(example));
    fitting.next()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn tools_of(origin: &str) -> Vec<&'static str> {
        let tools = TOOLS.iter().filter(|tool| is_origin_of(tool, origin, &[]));
        tools.map(|tool| tool.name).collect()
    }

    #[test]
    fn a_tool_is_known_by_a_variable_or_the_first_label_of_a_host() {
        for (origin, tool) in [
            ("${KUBE_API}", "Kubernetes"),
            ("https://kubernetes.default", "Kubernetes"),
            ("https://10.0.0.1:6443", "Kubernetes"),
            ("https://${ARGOCD_HOST}:443/x", "Argo CD"),
            ("https://argo-cd.example", "Argo CD"),
            ("https://Grafana.k8s.example/kubernetes", "Grafana"),
            ("https://my-gitlab", "GitLab"),
        ] {
            assert_eq!(tools_of(origin), [tool], "{origin}");
        }
        for origin in [
            "${CARGO_URL}",
            "https://${HOST}.gitlab.example",
            "${KUBECOST_URL}",
            "host",
        ] {
            assert!(tools_of(origin).is_empty(), "{origin}");
        }
    }

    #[test]
    fn every_probe_is_a_target_that_may_be_asked_for() {
        for tool in TOOLS {
            assert_eq!(targets(tool, "").len(), tool.probes.len(), "{}", tool.name);
        }
    }

    #[test]
    fn the_path_of_an_origin_stands_before_what_a_rule_allows() {
        let text = r#"{"private": [
            {"path": "/projects/:id/variables", "origin": "https://${TOKEN}@host/api/v4/"},
            {"path": "/api/v4/projects/:id/variables", "origin": "https://${TOKEN}@host/git"}
        ]}"#;
        let file = crate::RuleFile::parse(text).unwrap();
        let findings = crate::lint(&file, SystemTime::UNIX_EPOCH, |_| EncodedSlash::Data);
        let reached = findings
            .iter()
            .filter(|finding| finding.code() == LintCode::ReachesSecrets);
        let problems: Vec<_> = reached.map(crate::Finding::problem).collect();
        assert_eq!(
            problems,
            [
                "\"path\" \"/projects/:id/variables\" allows GET \"/projects/1/variables\" of GitLab: \
                 the variables of a project's pipelines",
                "\"path\" \"/api/v4/projects/:id/variables\" allows GET \
                 \"/api/v4/projects/1/variables\" of GitLab: the variables of a project's pipelines",
            ]
        );
    }
}
