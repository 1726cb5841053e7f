//! HTTP/1.1 by hand, so that every byte is seen as it stands on the wire.

use std::collections::BTreeMap;
use std::io;

use percent_encoding::percent_decode_str;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// The largest head that is read, in bytes; far above the 64 KiB that the product allows, so that
/// the product's own limit is the one that tests meet.
const MAX_HEAD: u64 = 1024 * 1024;

/// The fields of a form, a plus sign as it is.
pub fn form(body: &[u8]) -> BTreeMap<String, String> {
    let body = String::from_utf8_lossy(body);
    let decode = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let fields = body.split('&').filter_map(|field| field.split_once('='));
    fields
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// A request's or an answer's head, byte for byte, with the empty line that ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head(Vec<u8>);

impl Head {
    /// From bytes that end with the empty line.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// As it stands on the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The request line or status line, without its line end.
    pub fn first_line(&self) -> String {
        self.lines().next().unwrap_or_default()
    }

    /// The request's method: the first word of the request line.
    pub fn method(&self) -> String {
        let line = self.first_line();
        line.split(' ').next().unwrap_or_default().to_owned()
    }

    /// The request's target: the second word of the request line.
    pub fn target(&self) -> String {
        self.first_line()
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    }

    /// The answer's status: the second word of the status line.
    ///
    /// # Panics
    /// When that is not a number.
    pub fn status(&self) -> u16 {
        self.target()
            .parse()
            .unwrap_or_else(|_| panic!("no status in {:?}", self.first_line()))
    }

    /// All headers in order, names as written, values without space around them.
    pub fn headers(&self) -> Vec<(String, String)> {
        let line = |line: String| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        self.lines().skip(1).filter_map(line).collect()
    }

    /// The values of a header, in order; names compare without case (RFC 9110 §5.1).
    pub fn values(&self, name: &str) -> Vec<String> {
        let named =
            |(other, value): (String, String)| other.eq_ignore_ascii_case(name).then_some(value);
        self.headers().into_iter().filter_map(named).collect()
    }

    /// The first value of a header.
    pub fn value(&self, name: &str) -> Option<String> {
        self.values(name).into_iter().next()
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        self.0.split(|&byte| byte == b'\n').map(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            String::from_utf8_lossy(line).into_owned()
        })
    }
}

/// Reads one head. `None` when the peer closed before its first byte.
///
/// # Errors
/// Those of the connection, `UnexpectedEof` inside a head, `InvalidData` over 1 MiB.
pub async fn read_head(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Head>> {
    let mut head = Vec::new();
    let mut limited = from.take(MAX_HEAD);
    loop {
        let read = limited.read_until(b'\n', &mut head).await?;
        if head.ends_with(b"\r\n\r\n") {
            return Ok(Some(Head(head)));
        }
        if read == 0 && head.is_empty() {
            return Ok(None);
        }
        if read == 0 {
            let full = head.len() as u64 == MAX_HEAD;
            let kind = if full {
                io::ErrorKind::InvalidData
            } else {
                io::ErrorKind::UnexpectedEof
            };
            return Err(kind.into());
        }
    }
}

/// Reads the body of a request with this head, whole: none without `Content-Length` or chunked
/// coding (RFC 9112 §6.3).
///
/// # Errors
/// Those of the connection, `UnexpectedEof` inside the body, `InvalidData` for a broken length.
pub async fn read_request_body(
    head: &Head,
    from: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Vec<u8>> {
    match framing(head)? {
        Framing::Chunked => read_chunks(from).await,
        Framing::Length(length) => read_exactly(length, from).await,
        Framing::None => Ok(Vec::new()),
    }
}

/// Reads the body of an answer with this head, whole: up to the close where nothing else ends it
/// (RFC 9112 §6.3). `to_head` says that the request was a HEAD.
///
/// # Errors
/// Those of the connection, `UnexpectedEof` inside the body, `InvalidData` for a broken length.
pub async fn read_answer_body(
    head: &Head,
    to_head: bool,
    from: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Vec<u8>> {
    if to_head || matches!(head.status(), 100..=199 | 204 | 304) {
        return Ok(Vec::new());
    }
    match framing(head)? {
        Framing::Chunked => read_chunks(from).await,
        Framing::Length(length) => read_exactly(length, from).await,
        Framing::None => {
            let mut body = Vec::new();
            from.read_to_end(&mut body).await?;
            Ok(body)
        }
    }
}

/// One chunk of the chunked coding (RFC 9112 §7.1).
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

enum Framing {
    Chunked,
    Length(u64),
    None,
}

fn framing(head: &Head) -> io::Result<Framing> {
    if head
        .value("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        return Ok(Framing::Chunked);
    }
    match head.value("content-length") {
        Some(length) => length
            .parse()
            .map(Framing::Length)
            .map_err(|_| io::ErrorKind::InvalidData.into()),
        None => Ok(Framing::None),
    }
}

async fn read_exactly(length: u64, from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    from.take(length).read_to_end(&mut body).await?;
    if (body.len() as u64) < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

/// Trailers are appended to the body as they stand, after the last chunk: nothing that came is
/// hidden from a search.
async fn read_chunks(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = read_line(from).await?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        if size == 0 {
            break;
        }
        body.extend(read_exactly(size, from).await?);
        read_line(from).await?;
    }
    loop {
        let trailer = read_line(from).await?;
        if trailer.trim().is_empty() {
            return Ok(body);
        }
        body.extend_from_slice(trailer.as_bytes());
    }
}

async fn read_line(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_head_is_kept_byte_for_byte() {
        let wire = b"GET /a/%2e%2E/b?x= HTTP/1.1\r\nhOST:  a \r\nX: 1\r\nx: 2\r\n\r\nrest";
        let head = read_head(&mut &wire[..]).await.unwrap().unwrap();
        assert_eq!(head.bytes(), &wire[..wire.len() - 4]);
        assert_eq!(head.target(), "/a/%2e%2E/b?x=");
        assert_eq!(head.value("host").as_deref(), Some("a"));
        assert_eq!(head.values("X"), ["1", "2"]);
    }

    #[tokio::test]
    async fn a_head_that_breaks_off_is_an_error_and_none_is_none() {
        assert!(read_head(&mut &b""[..]).await.unwrap().is_none());
        let error = read_head(&mut &b"GET / HTTP/1.1\r\n"[..])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_chunked_body_is_joined_and_its_trailers_stay_visible() {
        let head = Head::new("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        let wire = [
            chunk(b"hello "),
            chunk(b"world"),
            b"0\r\nT: 1\r\n\r\n".to_vec(),
        ]
        .concat();
        let body = read_request_body(&head, &mut &wire[..]).await.unwrap();
        assert_eq!(body, b"hello worldT: 1\r\n");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_an_error() {
        let head = Head::new("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        let error = read_answer_body(&head, false, &mut &b"abc"[..])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
