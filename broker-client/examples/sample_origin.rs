//! An origin to try the broker with: it answers whoever brings its token, and nobody else.
//!
//! Listens on a free port of this machine, which it prints; `SAMPLE_ORIGIN_TOKEN` is the token.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> io::Result<()> {
    let token = std::env::var("SAMPLE_ORIGIN_TOKEN").map_err(|_| {
        io::Error::other("set SAMPLE_ORIGIN_TOKEN to the token that callers must bring")
    })?;
    let expected: Arc<str> = format!("Bearer {token}").into();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(
        io::stdout(),
        "sample origin: http://{}",
        listener.local_addr()?
    )?;

    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let expected = Arc::clone(&expected);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &expected);
                async move { Ok::<_, Infallible>(response) }
            });
            // A caller that breaks off is no concern of ours.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn answer(request: &Request<Incoming>, expected: &str) -> Response<Full<Bytes>> {
    let is_authorized = request
        .headers()
        .get(AUTHORIZATION)
        .is_some_and(|value| value == expected);
    let (status, body) = if is_authorized {
        (
            StatusCode::OK,
            r#"{"message":"hello from inside the network"}"#,
        )
    } else {
        (
            StatusCode::UNAUTHORIZED,
            r#"{"message":"this origin wants its token"}"#,
        )
    };
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
