//! WebSocket frames (RFC 6455 §5.2).

/// What one side sent.
#[derive(Default)]
pub(super) struct Decoded {
    /// All binary messages joined.
    pub(super) binary: Vec<u8>,
    /// All control frames.
    pub(super) controls: Vec<Control>,
}

/// A control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// A close with its status code, if it has one, and its reason.
    Close(Option<u16>, Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
}

impl Control {
    /// What it carried; a close's reason.
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::Close(_, payload) | Self::Ping(payload) | Self::Pong(payload) => payload,
        }
    }
}

/// Takes frames apart up to the last whole one.
///
/// # Panics
/// On a frame that a tunnel never carries: a text message, an extension, an unknown opcode.
pub(super) fn decode(mut wire: &[u8]) -> Decoded {
    let mut decoded = Decoded::default();
    while let Some((frame, rest)) = Frame::read(wire) {
        wire = rest;
        assert_eq!(
            frame.reserved, 0,
            "a WebSocket extension was used, which hides its payload"
        );
        match frame.opcode {
            // A continuation carries on a binary message: a text message does not get this far.
            0x0 | 0x2 => decoded.binary.extend(frame.payload),
            0x8 => decoded.controls.push(close(&frame.payload)),
            0x9 => decoded.controls.push(Control::Ping(frame.payload)),
            0xa => decoded.controls.push(Control::Pong(frame.payload)),
            other => panic!("a WebSocket frame with opcode {other:#x} in a tunnel"),
        }
    }
    decoded
}

fn close(payload: &[u8]) -> Control {
    match payload.split_first_chunk::<2>() {
        Some((code, reason)) => Control::Close(Some(u16::from_be_bytes(*code)), reason.to_vec()),
        None => Control::Close(None, payload.to_vec()),
    }
}

struct Frame {
    reserved: u8,
    opcode: u8,
    payload: Vec<u8>,
}

impl Frame {
    fn read(wire: &[u8]) -> Option<(Self, &[u8])> {
        let (&[first, second], rest) = wire.split_first_chunk()?;
        let (length, rest) = match second & 0x7f {
            126 => {
                let (length, rest) = rest.split_first_chunk()?;
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            127 => {
                let (length, rest) = rest.split_first_chunk()?;
                (usize::try_from(u64::from_be_bytes(*length)).ok()?, rest)
            }
            length => (usize::from(length), rest),
        };
        let (mask, rest) = match second & 0x80 {
            0 => ([0; 4], rest),
            _ => rest.split_first_chunk().map(|(mask, rest)| (*mask, rest))?,
        };
        let (masked, rest) = rest.split_at_checked(length)?;
        let payload = masked
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key)
            .collect();
        Some((
            Self {
                reserved: first & 0x70,
                opcode: first & 0x0f,
                payload,
            },
            rest,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_standard_are_read() {
        // RFC 6455 §5.7, with the text messages' opcode made binary.
        let masked = [
            0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(decode(&masked).binary, b"Hello");
        let fragmented = [0x02, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
        assert_eq!(decode(&fragmented).binary, b"Hello");
        let ping = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(decode(&ping).controls, [Control::Ping(b"Hello".to_vec())]);
    }

    #[test]
    fn a_close_has_its_code_and_reason() {
        let close = [0x88, 0x04, 0x0f, 0xa0, b'o', b'k'];
        assert_eq!(
            decode(&close).controls,
            [Control::Close(Some(4000), b"ok".to_vec())]
        );
        assert_eq!(
            decode(&[0x88, 0x00]).controls,
            [Control::Close(None, vec![])]
        );
    }

    #[test]
    fn long_frames_are_read_and_a_cut_one_is_left() {
        let long = |length: usize, header: &[u8]| [header, &vec![7; length]].concat();
        assert_eq!(
            decode(&long(300, &[0x82, 126, 0x01, 0x2c])).binary.len(),
            300
        );
        let header = [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(decode(&long(65536, &header)).binary.len(), 65536);
        assert_eq!(decode(&long(65535, &header)).binary.len(), 0);
    }

    #[test]
    #[should_panic(expected = "opcode 0x1")]
    fn a_text_message_does_not_pass_unseen() {
        decode(&[0x81, 0x01, b'x']);
    }
}
