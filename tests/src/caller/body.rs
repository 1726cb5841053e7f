//! Bodies to send.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use tokio::time::timeout;

use crate::digest::Noise;
use crate::wait::STALLED;

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// No body.
pub fn empty() -> Body {
    Empty::new().boxed_unsync()
}

/// A body at hand, with its length.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// The bytes of [`Noise`] of this length, made as they are sent.
pub fn noise(length: u64) -> Body {
    let frames = Noise::new(length).map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

/// A body that goes on until its sender is dropped; the sender takes data and trailers, one frame
/// ahead of the connection. [`Sender::abort`] breaks it off.
pub fn channel() -> (Sender<Bytes>, Body) {
    let (sender, body) = Channel::new(1);
    (sender, body.boxed_unsync())
}

/// Sends data until the connection has taken nothing for [`STALLED`], and returns how many bytes it
/// took, with the sender, which keeps the body open.
///
/// # Panics
/// When the connection goes away.
pub async fn send_until_stalled(mut sender: Sender<Bytes>) -> (u64, Sender<Bytes>) {
    let chunk = Bytes::from_static(&[b'x'; 16 * 1024]);
    let mut sent = 0;
    while let Ok(taken) = timeout(STALLED, sender.send_data(chunk.clone())).await {
        taken.expect("the connection stays");
        sent += chunk.len() as u64;
    }
    (sent, sender)
}
