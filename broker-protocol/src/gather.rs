//! Small pieces of a body put together: HTTP/2 takes tiny DATA frames for an attack, so that one caller or origin
//! that makes them would end the tunnel for all.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

/// Pieces of at least this many bytes are handed on as they are; h2 counts frames below 256.
const ENOUGH: usize = 1024;

/// A body without empty pieces, whose small ones come together when they are ready together; one that stands alone
/// waits for no other.
pub(crate) struct Gathered<B: Body> {
    body: B,
    /// What came behind the pieces that were handed out last.
    next: Option<Next<B::Error>>,
}

enum Next<E> {
    Frame(Result<Frame<Bytes>, E>),
    End,
}

/// Nothing of it is pinned but through `&mut body`.
impl<B: Body + Unpin> Unpin for Gathered<B> {}

impl<B: Body> Gathered<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { body, next: None }
    }

    pub(crate) fn into_inner(self) -> B {
        self.body
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Gathered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.next.take() {
            Some(Next::Frame(frame)) => return Poll::Ready(Some(frame)),
            Some(Next::End) => return Poll::Ready(None),
            None => {}
        }
        let mut pieces = Pieces::None;
        // There may be any number of empty ones, and others must get their turn.
        for _ in 0..ENOUGH {
            let next = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => match pieces.take() {
                    None => return Poll::Pending,
                    Some(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                },
                Poll::Ready(None) => Next::End,
                Poll::Ready(Some(Err(error))) => Next::Frame(Err(error)),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(small) if small.len() < ENOUGH => {
                        pieces.push(small);
                        if pieces.len() >= ENOUGH {
                            break;
                        }
                        continue;
                    }
                    Ok(large) => Next::Frame(Ok(Frame::data(large))),
                    Err(trailers) => Next::Frame(Ok(trailers)),
                },
            };
            return Poll::Ready(match (pieces.take(), next) {
                (None, Next::Frame(frame)) => Some(frame),
                (None, Next::End) => None,
                (Some(bytes), next) => {
                    self.next = Some(next);
                    Some(Ok(Frame::data(bytes)))
                }
            });
        }
        if let Some(bytes) = pieces.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        match &self.next {
            Some(Next::Frame(_)) => false,
            Some(Next::End) => true,
            None => self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let waiting = match &self.next {
            Some(Next::Frame(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len),
            Some(Next::Frame(Err(_)) | Next::End) | None => 0,
        };
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + waiting as u64);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + waiting as u64);
        }
        hint
    }
}

/// Small pieces, in order; a single one is not copied.
enum Pieces {
    None,
    One(Bytes),
    More(BytesMut),
}

impl Pieces {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(piece) => piece.len(),
            Self::More(pieces) => pieces.len(),
        }
    }

    fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        match self {
            Self::None => *self = Self::One(piece),
            Self::One(first) => {
                let mut pieces = BytesMut::with_capacity(2 * ENOUGH);
                pieces.extend_from_slice(first);
                pieces.extend_from_slice(&piece);
                *self = Self::More(pieces);
            }
            Self::More(pieces) => pieces.extend_from_slice(&piece),
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        match std::mem::replace(self, Self::None) {
            Self::None => None,
            Self::One(piece) => Some(piece),
            Self::More(pieces) => Some(pieces.freeze()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io;
    use std::task::Waker;

    use http::HeaderMap;

    use super::*;

    /// What a body gives when it is asked; nothing more is its end.
    struct Script(VecDeque<Poll<Result<Frame<Bytes>, io::Error>>>);

    impl Body for Script {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            match self.0.pop_front() {
                Some(given) => given.map(Some),
                None => Poll::Ready(None),
            }
        }
    }

    fn data(length: usize) -> Poll<Result<Frame<Bytes>, io::Error>> {
        Poll::Ready(Ok(Frame::data(Bytes::from(vec![b'x'; length]))))
    }

    fn trailers() -> Poll<Result<Frame<Bytes>, io::Error>> {
        Poll::Ready(Ok(Frame::trailers(HeaderMap::new())))
    }

    fn failure() -> Poll<Result<Frame<Bytes>, io::Error>> {
        Poll::Ready(Err(io::Error::other("broken")))
    }

    /// What comes of it, one word for each time that it is asked, up to the end.
    fn handed_out(
        script: impl IntoIterator<Item = Poll<Result<Frame<Bytes>, io::Error>>>,
    ) -> Vec<String> {
        let mut body = Gathered::new(Script(script.into_iter().collect()));
        let mut words = Vec::new();
        loop {
            let asked = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
            words.push(match asked {
                Poll::Pending => "pending".to_owned(),
                Poll::Ready(None) => return words,
                Poll::Ready(Some(Err(_))) => "error".to_owned(),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => data.len().to_string(),
                    Err(_) => "trailers".to_owned(),
                },
            });
        }
    }

    #[test]
    fn small_pieces_that_are_ready_come_together() {
        assert_eq!(handed_out([data(1), data(0), data(2), data(3)]), ["6"]);
        assert_eq!(handed_out((0..1500).map(|_| data(1))), ["1024", "476"]);
    }

    #[test]
    fn a_piece_that_stands_alone_waits_for_no_other() {
        let script = [data(1), Poll::Pending, data(2), Poll::Pending];
        assert_eq!(handed_out(script), ["1", "2"]);
    }

    #[test]
    fn large_pieces_trailers_and_errors_come_behind_the_small_ones_before_them() {
        let script = [data(1), data(5000), data(2), data(3), trailers()];
        assert_eq!(handed_out(script), ["1", "5000", "5", "trailers"]);
        assert_eq!(handed_out([data(1), data(1), failure()]), ["2", "error"]);
    }

    #[test]
    fn empty_pieces_are_left_out_and_others_get_their_turn() {
        assert_eq!(
            handed_out((0..1500).map(|_| data(0)).chain([data(1)])),
            ["pending", "1"]
        );
    }
}
