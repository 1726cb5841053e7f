//! Both ends of a tunnel, and peers that speak WebSocket or HTTP/2 frame by frame.

use std::future::Future;
use std::time::Duration;

use broker_protocol::{Counted, WsStream, websocket_config};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Bytes that a pipe holds, as a socket's buffer would.
pub(crate) const PIPE: usize = 64 * 1024;

/// One of our streams over a pipe.
pub(crate) type Stream = WsStream<DuplexStream>;
/// A peer that sends and receives whole messages as the test says.
pub(crate) type Peer = WebSocketStream<DuplexStream>;

/// Our stream in the client's role (the agent), over this transport.
pub(crate) async fn client(io: DuplexStream) -> Stream {
    let config = Some(websocket_config());
    WsStream::client(WebSocketStream::from_raw_socket(Counted::new(io), Role::Client, config).await)
}

/// Our stream in the server's role, over this transport.
pub(crate) async fn server(io: DuplexStream) -> Stream {
    WsStream::server(Counted::new(io), &[]).await
}

/// Our two ends of one tunnel: the client's, the server's.
pub(crate) async fn both_ends() -> (Stream, Stream) {
    let (a, b) = tokio::io::duplex(PIPE);
    (client(a).await, server(b).await)
}

/// Our client's end, and the server played by the test.
pub(crate) async fn client_and_peer() -> (Stream, Peer) {
    let (a, b) = tokio::io::duplex(PIPE);
    let peer = WebSocketStream::from_raw_socket(b, Role::Server, None).await;
    (client(a).await, peer)
}

/// Our server's end, and the client played by the test.
pub(crate) async fn server_and_peer() -> (Stream, Peer) {
    let (a, b) = tokio::io::duplex(PIPE);
    let peer = WebSocketStream::from_raw_socket(b, Role::Client, None).await;
    (server(a).await, peer)
}

/// Waits for what must come; on a busy machine it may take a while.
pub(crate) async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(30), event).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what}: did not happen"),
    }
}

/// The payloads of binary messages, until the peer closes.
pub(crate) async fn next_binary(peer: &mut Peer) -> Option<Bytes> {
    while let Some(Ok(message)) = peer.next().await {
        if let Message::Binary(bytes) = message {
            return Some(bytes);
        }
    }
    None
}

/// Frames of HTTP/2, made by hand (RFC 9113 §4.1).
pub(crate) mod frame {
    /// What an HTTP/2 client begins with.
    pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    pub(crate) const END_HEADERS: u8 = 4;
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const GOAWAY: u8 = 7;

    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    pub(crate) fn settings() -> Vec<u8> {
        new(4, 0, 0, &[])
    }

    pub(crate) fn ping() -> Vec<u8> {
        new(6, 0, 0, b"ping....")
    }

    /// GET / of `http://a`, complete.
    pub(crate) fn get(stream: u32) -> Vec<u8> {
        // Indexed fields of the static table, and a literal `:authority` (RFC 7541 §6).
        let block = [0x82, 0x86, 0x84, 0x41, 1, b'a'];
        new(1, END_HEADERS | END_STREAM, stream, &block)
    }

    /// A status of 200 and no body.
    pub(crate) fn ok(stream: u32) -> Vec<u8> {
        new(1, END_HEADERS | END_STREAM, stream, &[0x88])
    }

    pub(crate) fn reset(stream: u32) -> Vec<u8> {
        new(3, 0, stream, &8_u32.to_be_bytes())
    }

    pub(crate) fn go_away(last: u32) -> Vec<u8> {
        let payload = [last.to_be_bytes(), 0_u32.to_be_bytes()].concat();
        new(GOAWAY, 0, 0, &payload)
    }

    /// Takes the whole frames off the front of `bytes`: type, stream, payload.
    pub(crate) fn take(bytes: &mut Vec<u8>) -> Vec<(u8, u32, Vec<u8>)> {
        let mut frames = Vec::new();
        while bytes.len() >= 9 {
            let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            if bytes.len() < 9 + length {
                break;
            }
            let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
            frames.push((bytes[3], stream, bytes[9..9 + length].to_vec()));
            bytes.drain(..9 + length);
        }
        frames
    }
}

/// A peer that speaks HTTP/2 frame by frame.
pub(crate) struct FramePeer {
    peer: Peer,
    received: Vec<u8>,
    waiting: std::collections::VecDeque<(u8, u32, Vec<u8>)>,
}

impl FramePeer {
    pub(crate) fn new(peer: Peer) -> Self {
        Self {
            peer,
            received: Vec::new(),
            waiting: std::collections::VecDeque::new(),
        }
    }

    /// Sends bytes; false when the other side is gone.
    pub(crate) async fn send(&mut self, bytes: impl Into<Bytes>) -> bool {
        self.peer.send(Message::Binary(bytes.into())).await.is_ok()
    }

    /// What the other side began with that is no frame.
    pub(crate) async fn skip(&mut self, length: usize) {
        while self.received.len() < length {
            self.received
                .extend(next_binary(&mut self.peer).await.unwrap());
        }
        self.received.drain(..length);
    }

    /// The next frame of this type; none when the other side closed before.
    pub(crate) async fn next(&mut self, kind: u8) -> Option<(u32, Vec<u8>)> {
        loop {
            while let Some((found, stream, payload)) = self.waiting.pop_front() {
                if found == kind {
                    return Some((stream, payload));
                }
            }
            self.waiting.extend(frame::take(&mut self.received));
            if self.waiting.is_empty() {
                self.received.extend(next_binary(&mut self.peer).await?);
            }
        }
    }

    /// Sends `flood` again and again while reading what comes, until the other side is gone; the type-7 frame's
    /// error code, if it said one.
    pub(crate) async fn flood(self, mut flood: impl FnMut() -> Vec<u8>) -> Option<u32> {
        let Self {
            peer, mut received, ..
        } = self;
        let (mut sink, mut stream) = peer.split();
        let sending = async {
            while sink.send(Message::Binary(flood().into())).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        let reading = async {
            let mut code = None;
            while let Some(Ok(message)) = stream.next().await {
                received.extend(message.into_data());
                for (kind, _, payload) in frame::take(&mut received) {
                    if kind == frame::GOAWAY {
                        code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
                    }
                }
            }
            code
        };
        tokio::join!(sending, reading).1
    }
}
