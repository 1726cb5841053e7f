//! The callers listener: `/broker/{agent}/{path…}`.

use std::sync::Arc;

use broker_process::certificate_name::CertificateName;
use broker_process::listener::Connection;
use broker_protocol::AgentName;
use broker_protocol::header::REQUEST_ID;
use http::header::{CONNECTION, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use uuid::Uuid;

use crate::agents::AgentKey;
use crate::callers::mentions_broker_secret;
use crate::host::{self, NotOneHost};
use crate::problem::Failure;
use crate::relay::{self, Answer, Call, ResponseBody};
use crate::server::State;

/// Longest target, in bytes; ours and the agent's.
const MAX_TARGET: usize = 16 * 1024;

/// Answers one request of a caller, whatever it is.
pub(crate) async fn answer(
    state: &State,
    request: Request<Incoming>,
    connection: Connection,
) -> Response<ResponseBody> {
    let request_id = Uuid::new_v4().to_string();
    let is_http1 = request.version() <= Version::HTTP_11;
    let has_body = !hyper::body::Body::is_end_stream(request.body());
    let started = tokio::time::Instant::now();
    let method = request.method().clone();
    let (mut response, early) = match handle(
        state,
        request,
        connection.certificate.as_ref(),
        &request_id,
    )
    .await
    {
        Ok(Answer { response, early }) => (response, early),
        Err(failure) => {
            tracing::debug!(%request_id, peer = %connection.peer, ?failure, "answered by the server");
            (failure.problem(&request_id).into_response(), has_body)
        }
    };
    response
        .headers_mut()
        .insert(REQUEST_ID, relay::ours(&request_id));
    if early && !is_http1 && is_refusal(response.status()) {
        // curl ends its upload when it sees the head of a refusal, short of the length that it declared. HTTP/2 answers
        // that by a reset (RFC 9113 §8.1.1), which must not overtake the body.
        response.body_mut().gather().await;
    }
    if early && is_http1 {
        // The rest of the upload is not read, so the connection cannot carry another request.
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    tracing::debug!(
        %request_id, %method, status = response.status().as_u16(),
        milliseconds = started.elapsed().as_millis(), "answered"
    );
    response
}

fn is_refusal(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

async fn handle(
    state: &State,
    request: Request<Incoming>,
    certificate: Option<&Arc<[CertificateName]>>,
    request_id: &str,
) -> Result<Answer, Failure> {
    let (mut parts, body) = request.into_parts();
    let is_http1 = parts.version <= Version::HTTP_11;
    let is_upgrade = parts.method == Method::CONNECT || parts.headers.contains_key(UPGRADE);
    if parts.method != Method::CONNECT && is_http1 && parts.uri.authority().is_some() {
        return Err(Failure::NotOriginForm);
    }
    let host = host::of(&parts.method, &parts.uri, parts.version, &parts.headers)
        .map_err(|NotOneHost| Failure::NotOneHost)?;
    let target = parts
        .uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    let bytes = target.as_str().len();
    if bytes > MAX_TARGET {
        return Err(Failure::TargetTooLong {
            bytes,
            limit: MAX_TARGET,
        });
    }
    let caller = state
        .callers
        .authenticate(&mut parts.headers, certificate)?;
    if state
        .host_tenant(host.as_deref())
        .is_some_and(|tenant| tenant != caller.tenant)
    {
        return Err(Failure::OtherTenant);
    }
    if mentions_broker_secret(target.as_str().as_bytes()) {
        return Err(Failure::SecretInRequest("the URL"));
    }
    if is_upgrade {
        return Err(Failure::Upgrade);
    }
    let (agent, target) = split(target.as_str())?;
    if !caller.may_use(&agent) {
        return Err(Failure::AgentNotAllowed(agent));
    }
    let call = Call {
        key: AgentKey {
            tenant: caller.tenant.clone(),
            agent,
        },
        caller: caller.name.clone(),
        request_id: request_id.to_owned(),
        method: parts.method,
        target,
        headers: parts.headers,
        body,
    };
    relay::relay(&*state.registry, call, state.response_timeout).await
}

/// `/broker/{agent}/{rest}` as the agent's name and `/{rest}`, of which no byte is touched.
fn split(target: &str) -> Result<(AgentName, PathAndQuery), Failure> {
    if !target.starts_with('/') {
        return Err(Failure::NotOriginForm);
    }
    let rest = target
        .strip_prefix("/broker/")
        .ok_or(Failure::NoSuchResource)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (agent, rest) = rest.split_at(end);
    let agent = agent.parse().map_err(|_| Failure::NotAnAgentName)?;
    let rest = if rest.starts_with('/') {
        PathAndQuery::try_from(rest)
    } else {
        // An empty path is `/` in every target (RFC 9112 §3.2.1).
        PathAndQuery::try_from(format!("/{rest}"))
    };
    let rest = rest.map_err(|_| Failure::NotOriginForm)?;
    Ok((agent, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_split_and_its_rest_kept_byte_for_byte() {
        for (target, agent, rest) in [
            ("/broker/a/x/y?z=1", "a", "/x/y?z=1"),
            (
                "/broker/Kube-API/..%2f/%2e//x;y",
                "kube-api",
                "/..%2f/%2e//x;y",
            ),
            ("/broker/a", "a", "/"),
            ("/broker/a/", "a", "/"),
            ("/broker/a?q", "a", "/?q"),
        ] {
            let (name, path) = split(target).unwrap();
            assert_eq!((name.as_str(), path.as_str()), (agent, rest), "{target}");
        }
    }

    #[test]
    fn what_names_no_agent_is_not_found() {
        for target in [
            "/",
            "/broker",
            "/broker/",
            "/broker//x",
            "/Broker/a/x",
            "/broker/%61/x",
            "/broker/a%2Fb",
        ] {
            let failure = split(target).unwrap_err();
            assert!(
                matches!(failure, Failure::NoSuchResource | Failure::NotAnAgentName),
                "{target}"
            );
        }
        assert_eq!(split("*").unwrap_err(), Failure::NotOriginForm);
    }
}
