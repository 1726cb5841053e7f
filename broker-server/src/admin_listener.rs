//! The admin listener: whether the process works and is ready. Readiness never depends on agents.

use broker_protocol::{ErrorCode, Problem};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::server::State;

/// Answers one request on the admin listener.
pub(crate) fn answer(state: &State, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Problem::new(ErrorCode::BadRequest)
            .detail("only GET and HEAD are served here")
            .into_response();
    }
    let (ok, what) = match request.uri().path() {
        "/healthz" => (true, "alive"),
        "/readyz" if state.draining.is_cancelled() => (false, "draining"),
        "/readyz" => (true, "ready"),
        _ => {
            return Problem::new(ErrorCode::NotFound)
                .detail("served here: /healthz, /readyz")
                .into_response();
        }
    };
    let body = serde_json::json!({ "ok": ok, "state": what, "version": env!("CARGO_PKG_VERSION") });
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
