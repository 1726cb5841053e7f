//! TCP connections by name: resolved, and tried so that one address that does not answer hides no other (RFC 8305).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// How long one address has before the next is tried beside it (RFC 8305 §5, "Connection Attempt Delay").
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// A connection of whatever makes: TCP, TLS, the way through a proxy.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// Sets what a socket needs for its use.
pub(crate) type Prepare = fn(&TcpStream) -> io::Result<()>;

/// Finds the addresses of a host, a name or an address, at a port.
pub(crate) type Resolve = fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

/// Asks the system.
pub(crate) fn resolve(host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
}

/// Connects to one of these addresses. How long that may take is the caller's to say.
pub(crate) async fn connect_to(
    addresses: Vec<SocketAddr>,
    prepare: Prepare,
) -> io::Result<TcpStream> {
    let connect = async |address| {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        TcpStream::connect(address).await.map_err(named)
    };
    let tcp = first_that_answers(in_turns(addresses), connect).await?;
    prepare(&tcp)?;
    Ok(tcp)
}

/// The addresses of both families in turns, beginning with the first, and else in the resolver's order (RFC 8305 §4).
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let begins_with_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == begins_with_v6);
    let mut second = second.into_iter();
    let mut ordered = Vec::new();
    for address in first {
        ordered.push(address);
        ordered.extend(second.next());
    }
    ordered.extend(second);
    ordered
}

/// Tries the addresses in this order, each as soon as the one before has failed or has had its time alone.
async fn first_that_answers<T, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        attempts.extend(waiting.next().map(&connect));
        tokio::select! {
            attempt = attempts.next() => match attempt {
                Some(Ok(connected)) => return Ok(connected),
                Some(Err(error)) => failure = error,
                None => return Err(failure),
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const SILENT: u16 = 1;
    const REFUSING: u16 = 2;
    const ANSWERING: u16 = 3;

    /// Tries addresses with these ports, and gives the port that answered.
    async fn try_ports(ports: &[u16]) -> io::Result<u16> {
        let addresses = ports.iter().map(|port| ([127, 0, 0, 1], *port).into());
        let connect = async |address: SocketAddr| match address.port() {
            SILENT => std::future::pending().await,
            REFUSING => Err(io::ErrorKind::ConnectionRefused.into()),
            port => Ok(port),
        };
        first_that_answers(addresses.collect(), connect).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_or_refuses_hides_no_other() {
        let begun = Instant::now();
        let answered = try_ports(&[REFUSING, SILENT, SILENT, ANSWERING, SILENT]).await;
        assert_eq!(answered.unwrap(), ANSWERING);
        assert_eq!(begun.elapsed(), 2 * ATTEMPT_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_address_answers_the_last_failure_is_told() {
        let refused = try_ports(&[REFUSING]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let none = try_ports(&[]).await.unwrap_err();
        assert_eq!(none.to_string(), "the name has no address");
    }

    #[test]
    fn both_families_have_their_turns() {
        let parse = |text: &str| text.split(' ').map(|a| a.parse().unwrap()).collect();
        let addresses = parse("[::1]:1 [::2]:1 [::3]:1 10.0.0.1:1 10.0.0.2:1");
        let expected: Vec<SocketAddr> = parse("[::1]:1 10.0.0.1:1 [::2]:1 10.0.0.2:1 [::3]:1");
        assert_eq!(in_turns(addresses), expected);
    }

    #[tokio::test]
    async fn a_failure_names_the_address() {
        // Port 0 is nobody's.
        let error = connect_to(vec![([127, 0, 0, 1], 0).into()], |_| Ok(()))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("127.0.0.1:0: "), "{error}");
    }
}
