//! HTTP/2 frames (RFC 9113 §4.1, §6) and the header blocks in them (RFC 7541).

use std::collections::HashMap;
use std::io::Read;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use fluke_hpack::Decoder;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const PUSH_PROMISE: u8 = 0x5;
const CONTINUATION: u8 = 0x9;

const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What one side sent.
pub(super) struct Decoded {
    pub(super) frames: Vec<Frame>,
    pub(super) messages: Vec<Message>,
}

/// A frame as it stood on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type, as RFC 9113 §6 numbers them.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What follows its header.
    pub payload: Vec<u8>,
}

/// What one side sent on one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The stream.
    pub stream: u32,
    /// The header blocks: the head, and the trailers where there are any.
    pub blocks: Vec<Vec<(String, String)>>,
    /// The body, as it was sent.
    pub body: Vec<u8>,
}

impl Message {
    /// The first value of a header, pseudo-headers and trailers too.
    pub fn value(&self, name: &str) -> Option<&str> {
        let mut fields = self.blocks.iter().flatten();
        fields
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    /// All headers, a line each.
    pub fn headers_as_text(&self) -> String {
        self.blocks
            .iter()
            .flatten()
            .map(|(name, value)| format!("{name}: {value}\n"))
            .collect()
    }

    /// The body with its `Content-Encoding` (gzip or deflate) taken off, as far as it came; `None`
    /// where it has none.
    ///
    /// # Panics
    /// On any other coding: it could hide what a test looks for.
    pub fn decompressed(&self) -> Option<Vec<u8>> {
        let body = self.body.as_slice();
        match self.value("content-encoding")? {
            "identity" => None,
            "gzip" | "x-gzip" => Some(read_what_is_there(MultiGzDecoder::new(body))),
            // RFC 9110 §8.4.1.2 means zlib; some send bare deflate (zlib starts with 0x?8).
            "deflate" if body.first().is_some_and(|first| first & 0x0f == 8) => {
                Some(read_what_is_there(ZlibDecoder::new(body)))
            }
            "deflate" => Some(read_what_is_there(DeflateDecoder::new(body))),
            other => panic!("cannot look into a body with content-encoding {other:?}"),
        }
    }
}

/// Takes an HTTP/2 connection's one direction apart up to the last whole frame.
///
/// # Panics
/// On a header block that cannot be decoded.
pub(super) fn decode(wire: &[u8]) -> Decoded {
    let mut rest = wire.strip_prefix(PREFACE).unwrap_or(wire);
    let mut frames = Vec::new();
    while let Some((frame, after)) = Frame::read(rest) {
        frames.push(frame);
        rest = after;
    }
    let mut messages = Messages {
        decoder: Decoder::new(),
        block: Vec::new(),
        all: Vec::new(),
        at: HashMap::new(),
    };
    frames.iter().for_each(|frame| messages.take(frame));
    Decoded {
        frames,
        messages: messages.all,
    }
}

fn read_what_is_there(mut decoder: impl Read) -> Vec<u8> {
    let mut body = Vec::new();
    // A body that broke off is an error at its end; what came before it is in `body`.
    decoder.read_to_end(&mut body).ok();
    body
}

impl Frame {
    fn read(wire: &[u8]) -> Option<(Self, &[u8])> {
        let (&[a, b, c, kind, flags, s0, s1, s2, s3], rest) = wire.split_first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        let (payload, rest) = rest.split_at_checked(length)?;
        Some((
            Self {
                kind,
                flags,
                stream,
                payload: payload.to_vec(),
            },
            rest,
        ))
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without padding and without the fields before the header block or data.
    fn content(&self) -> &[u8] {
        let mut content = self.payload.as_slice();
        if self.has(PADDED) && matches!(self.kind, DATA | HEADERS | PUSH_PROMISE) {
            let padding = usize::from(content[0]);
            content = &content[1..content.len() - padding];
        }
        match self.kind {
            HEADERS if self.has(PRIORITY) => &content[5..],
            PUSH_PROMISE => &content[4..],
            _ => content,
        }
    }
}

/// Messages in the making. Every header block goes through the decoder in order, since each
/// changes the table that the next is read with.
struct Messages {
    decoder: Decoder<'static>,
    block: Vec<u8>,
    all: Vec<Message>,
    at: HashMap<u32, usize>,
}

impl Messages {
    fn take(&mut self, frame: &Frame) {
        match frame.kind {
            DATA => self
                .message(frame.stream)
                .body
                .extend_from_slice(frame.content()),
            HEADERS | PUSH_PROMISE | CONTINUATION => {
                self.block.extend_from_slice(frame.content());
                if frame.has(END_HEADERS) {
                    let fields = self.decode_block();
                    self.message(frame.stream).blocks.push(fields);
                }
            }
            _ => {}
        }
    }

    fn decode_block(&mut self) -> Vec<(String, String)> {
        let block = std::mem::take(&mut self.block);
        let fields = self.decoder.decode(&block);
        let fields = fields.unwrap_or_else(|error| panic!("a broken header block: {error:?}"));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        fields
            .into_iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect()
    }

    fn message(&mut self, stream: u32) -> &mut Message {
        let at = *self.at.entry(stream).or_insert_with(|| {
            self.all.push(Message {
                stream,
                blocks: Vec::new(),
                body: Vec::new(),
            });
            self.all.len() - 1
        });
        &mut self.all[at]
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn message(coding: &str, body: Vec<u8>) -> Message {
        let fields = vec![("content-encoding".to_owned(), coding.to_owned())];
        Message {
            stream: 1,
            blocks: vec![fields],
            body,
        }
    }

    #[test]
    fn headers_are_read_over_continuations_padding_and_priority() {
        // RFC 7541 C.3.1: a GET of http://www.example.com/.
        let block = b"\x82\x86\x84\x41\x0fwww.example.com";
        let first = [&[2, 0, 0, 0, 0, 16][..], &block[..5], &[0, 0]].concat();
        let wire = [
            PREFACE.to_vec(),
            frame(HEADERS, PADDED | PRIORITY, 1, &first),
            frame(CONTINUATION, END_HEADERS, 1, &block[5..]),
            frame(DATA, PADDED, 1, b"\x01hello\0"),
            frame(DATA, 0, 1, b" world"),
            // RFC 7541 C.3.2: the authority is now in the table.
            frame(HEADERS, END_HEADERS, 3, b"\x82\x86\x84\xbe\x58\x08no-cache"),
            frame(DATA, 0, 3, b"cut")[..10].to_vec(),
        ]
        .concat();
        let decoded = decode(&wire);
        assert_eq!(decoded.frames.len(), 5);
        let [first, second] = &decoded.messages[..] else {
            panic!("two streams")
        };
        assert_eq!(first.value(":authority"), Some("www.example.com"));
        assert_eq!(first.body, b"hello world");
        assert_eq!(second.value(":authority"), Some("www.example.com"));
        assert_eq!(second.value("cache-control"), Some("no-cache"));
    }

    #[test]
    fn compressed_bodies_are_decompressed() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(b"secret").unwrap();
        assert_eq!(
            message("gzip", gzip.finish().unwrap())
                .decompressed()
                .unwrap(),
            b"secret"
        );
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(b"secret").unwrap();
        assert_eq!(
            message("deflate", zlib.finish().unwrap())
                .decompressed()
                .unwrap(),
            b"secret"
        );
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::default());
        bare.write_all(b"secret").unwrap();
        assert_eq!(
            message("deflate", bare.finish().unwrap())
                .decompressed()
                .unwrap(),
            b"secret"
        );
        assert_eq!(message("identity", b"secret".to_vec()).decompressed(), None);
    }

    #[test]
    fn what_came_of_a_compressed_body_that_broke_off_is_seen() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
        gzip.write_all(b"secret").unwrap();
        gzip.flush().unwrap();
        gzip.write_all(b"more").unwrap();
        let whole = gzip.finish().unwrap();
        let cut = whole[..whole.len() - 12].to_vec();
        assert!(
            message("gzip", cut)
                .decompressed()
                .unwrap()
                .starts_with(b"secret")
        );
    }
}
