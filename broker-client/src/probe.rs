//! Probes: requests of the operator's own, by which `broker-client doctor` asks whether origins take their credentials.
//! Each is judged, recorded and sent as any other request; only the agent itself asks for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use accept_rules::{Decision, Request as Question, RequestTarget};
use broker_protocol::header::ERROR;
use bytes::Bytes;
use futures_util::future::join_all;
use http::header::{ACCEPT, USER_AGENT};
use http::request::Parts;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use tokio::time::timeout;

use crate::config::Probe;
use crate::doctor::{Check, Verdict};
use crate::exchange::Exchange;
use crate::rules::{Route, Rules};

/// As whom probes are judged and recorded: a rule that asks for callers must name it.
const CALLER: &str = "doctor";
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Of an answer's body so much is read, in bytes; its head says what matters.
const MAX_BODY: usize = 64 * 1024;

/// Sends every probe that the settings of one connection name, all at the same time.
pub(crate) async fn run(exchange: &Exchange) -> Vec<Check> {
    let rules = exchange.rules.now();
    let mut probes: Vec<(String, &Probe)> = Vec::new();
    for (index, _) in rules.set.indexed() {
        if let Some(route) = rules.route(index)
            && let Some(probe) = &route.probe
        {
            let probe = (route.origin.to_string(), probe);
            if !probes.contains(&probe) {
                probes.push(probe);
            }
        }
    }
    let probes = probes.into_iter();
    join_all(probes.map(|(origin, probe)| one(exchange, &rules, origin, probe))).await
}

async fn one(exchange: &Exchange, rules: &Arc<Rules>, origin: String, probe: &Probe) -> Check {
    let (verdict, code, text) = match leads_to(rules, probe) {
        Err(why) => (
            Verdict::Warn,
            Some("denied".to_owned()),
            format!("nothing was sent, since no rule allows it: {why}"),
        ),
        Ok(route) if route.origin.to_string() != origin => {
            let text = format!(
                "nothing was sent, since the rules lead it to {} (name a path that leads here)",
                route.origin
            );
            (Verdict::Warn, None, text)
        }
        Ok(route) => {
            let answer = timeout(LIMIT, ask(exchange, probe, route)).await;
            let late = || {
                let text = format!("not answered in full within {} s", LIMIT.as_secs());
                (Verdict::Fail, Some("origin-timeout".to_owned()), text)
            };
            answer.unwrap_or_else(|_| late())
        }
    };
    Check {
        hop: "probe",
        verdict,
        code: code.map(Into::into),
        text: format!("{probe} at {origin}: {text}"),
    }
}

/// Where the rules would have it go, or why they would not.
fn leads_to<'r>(rules: &'r Rules, probe: &Probe) -> Result<&'r Route, String> {
    let parts = parts(probe);
    let target = RequestTarget::new(&probe.method, &probe.target);
    let question = Question {
        target: target.map_err(|error| error.to_string())?,
        headers: parts.headers,
        caller: CALLER.into(),
        now: SystemTime::now(),
    };
    let verdict = match rules.set.decide(question) {
        Decision::Allow(allowed) => Ok(allowed),
        Decision::NeedsBody(pending) => rules.set.decide_with_body(pending, Bytes::new()),
        Decision::Deny(denied) => Err(Box::new(denied)),
    };
    let allowed = verdict.map_err(|denied| match denied.nearest() {
        Some(nearest) => format!("nearest is {}", nearest.describe(&rules.set)),
        None => "none comes near".to_owned(),
    })?;
    let route = rules.route(allowed.rule());
    route.ok_or_else(|| "its rule is turned off".to_owned())
}

fn parts(probe: &Probe) -> Parts {
    let request = Request::builder()
        .method(&probe.method)
        .uri(&probe.target)
        .header(ACCEPT, HeaderValue::from_static("*/*"))
        .header(
            USER_AGENT,
            HeaderValue::from_static(concat!("broker-client/", env!("CARGO_PKG_VERSION"))),
        );
    let request = request.body(()).expect("settings hold good targets alone");
    request.into_parts().0
}

async fn ask(
    exchange: &Exchange,
    probe: &Probe,
    route: &Route,
) -> (Verdict, Option<String>, String) {
    let (head, body) = exchange.run_own(parts(probe), CALLER).await.into_parts();
    let is_ours = head.headers.contains_key(ERROR);
    // An answer that is too long or breaks off has told its status.
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    if is_ours {
        return failed(head.status, &body);
    }
    judged(head.status, route.acts_as_agent())
}

/// The broker's own word instead of the origin's.
fn failed(status: StatusCode, problem: &[u8]) -> (Verdict, Option<String>, String) {
    let problem: Value = serde_json::from_slice(problem).unwrap_or_default();
    let member = |name| problem.get(name).and_then(Value::as_str);
    let code = member("code").map(str::to_owned);
    let text = member("detail").or_else(|| member("title"));
    let text = text.map_or_else(|| status.to_string(), str::to_owned);
    (Verdict::Fail, code, text)
}

/// What the origin's status says of the credential.
fn judged(status: StatusCode, has_credential: bool) -> (Verdict, Option<String>, String) {
    match status {
        _ if status.is_success() || status.is_redirection() => {
            let with = if has_credential {
                "with the credential"
            } else {
                "no credential is added"
            };
            (Verdict::Pass, None, format!("{status}, {with}"))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if has_credential => (
            Verdict::Fail,
            Some("credential-refused".to_owned()),
            format!(
                "{status}: the credential is refused (is its value right, and may it do this?)"
            ),
        ),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (
            Verdict::Fail,
            Some("credential-refused".to_owned()),
            format!("{status}, and the rule adds no credential (give it an \"auth\")"),
        ),
        _ if status.is_server_error() => (
            Verdict::Fail,
            Some("origin-failed".to_owned()),
            format!("{status}: the origin itself fails"),
        ),
        _ => (
            Verdict::Warn,
            None,
            format!(
                "{status}: the origin answers, and does not like this request (choose another path)"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_say_whether_the_credential_is_good() {
        for (status, has_credential, verdict, code, words) in [
            (200, true, Verdict::Pass, None, "with the credential"),
            (302, false, Verdict::Pass, None, "no credential is added"),
            (
                401,
                true,
                Verdict::Fail,
                Some("credential-refused"),
                "the credential is refused",
            ),
            (
                403,
                true,
                Verdict::Fail,
                Some("credential-refused"),
                "the credential is refused",
            ),
            (
                401,
                false,
                Verdict::Fail,
                Some("credential-refused"),
                "adds no credential",
            ),
            (404, true, Verdict::Warn, None, "choose another path"),
            (
                503,
                true,
                Verdict::Fail,
                Some("origin-failed"),
                "itself fails",
            ),
        ] {
            let (found, found_code, text) =
                judged(StatusCode::from_u16(status).unwrap(), has_credential);
            assert_eq!((found, found_code.as_deref()), (verdict, code), "{status}");
            assert!(text.contains(words), "{text}");
        }
    }
}
