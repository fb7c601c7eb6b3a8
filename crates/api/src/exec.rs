//! The frames of `exec`, after the connection was upgraded to `stoa-exec`.
//!
//! ```text
//! stream: u8 | length: u32 big endian | bytes
//! ```
//! Leaner than WebSocket: no masking, no handshake hash, no dependency, and a proxy that does not know it refuses it
//! instead of guessing.
//! Invariant: a decoder never holds more than one frame of [`FRAME_MAX`] bytes plus what one read brought.

/// The name of the protocol in the `Upgrade` header.
pub const PROTOCOL: &str = "stoa-exec";
/// The largest payload: one pipe buffer. A longer one is refused, so that a peer can not make us hold memory.
pub const FRAME_MAX: usize = 65_536;
const HEAD: usize = 5;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// For the program's standard input; empty ends it.
    Stdin(Vec<u8>),
    /// From its standard output.
    Stdout(Vec<u8>),
    /// From its standard error.
    Stderr(Vec<u8>),
    /// The terminal's new size.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
    /// It ended; the last frame.
    Exit(i32),
    /// It could not go on; the last frame.
    Failed(String),
}

/// The bytes are not frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// A stream number nobody knows.
    Stream(u8),
    /// Longer than [`FRAME_MAX`], or not as long as its stream demands.
    Length(usize),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stream(stream) => write!(f, "unknown stream {stream} in an exec frame"),
            Self::Length(length) => write!(f, "an exec frame of {length} bytes is not allowed"),
        }
    }
}
impl std::error::Error for FrameError {}

impl Frame {
    /// The frame as bytes. Longer payloads must be cut into [`FRAME_MAX`] pieces before.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (stream, payload) = match self {
            Self::Stdin(bytes) => (0, bytes.clone()),
            Self::Stdout(bytes) => (1, bytes.clone()),
            Self::Stderr(bytes) => (2, bytes.clone()),
            Self::Resize { rows, columns } => (3, [rows.to_be_bytes(), columns.to_be_bytes()].concat()),
            Self::Exit(code) => (4, code.to_be_bytes().to_vec()),
            Self::Failed(why) => (
                5,
                why.chars().take(FRAME_MAX / 4).collect::<String>().into_bytes(),
            ),
        };
        debug_assert!(payload.len() <= FRAME_MAX, "payloads are cut by the sender");
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEAD + payload.len());
        bytes.push(stream);
        bytes.extend(length.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn parse(stream: u8, payload: &[u8]) -> Result<Self, FrameError> {
        let wrong = || FrameError::Length(payload.len());
        match stream {
            0 => Ok(Self::Stdin(payload.to_vec())),
            1 => Ok(Self::Stdout(payload.to_vec())),
            2 => Ok(Self::Stderr(payload.to_vec())),
            3 => {
                let [r0, r1, c0, c1] = payload.try_into().map_err(|_| wrong())?;
                Ok(Self::Resize {
                    rows: u16::from_be_bytes([r0, r1]),
                    columns: u16::from_be_bytes([c0, c1]),
                })
            }
            4 => Ok(Self::Exit(i32::from_be_bytes(
                payload.try_into().map_err(|_| wrong())?,
            ))),
            5 => Ok(Self::Failed(String::from_utf8_lossy(payload).into_owned())),
            other => Err(FrameError::Stream(other)),
        }
    }
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    held: Vec<u8>,
}

impl Decoder {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// When the bytes are not frames; the connection is of no use afterwards.
    pub fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(head) = self.held.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let [stream, l0, l1, l2, l3] = *head;
        let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        if length > FRAME_MAX {
            return Err(FrameError::Length(length));
        }
        let Some(payload) = self.held.get(HEAD..HEAD + length) else {
            return Ok(None);
        };
        let frame = Frame::parse(stream, payload)?;
        self.held.drain(..HEAD + length);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_byte_by_byte() {
        let frames = [
            Frame::Stdin(vec![]),
            Frame::Stdin(b"select 1;\n".to_vec()),
            Frame::Stdout(vec![7; FRAME_MAX]),
            Frame::Stderr(b"no".to_vec()),
            Frame::Resize {
                rows: 24,
                columns: 80,
            },
            Frame::Failed("the instance ended".to_owned()),
            Frame::Exit(-1),
        ];
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for byte in frames.iter().flat_map(Frame::encode) {
            decoder.push(&[byte]);
            seen.extend(decoder.take().expect("frames"));
        }
        assert_eq!(seen, frames);
    }

    #[test]
    fn rubbish_is_refused() {
        for bytes in [
            &[9, 0, 0, 0, 0][..],
            &[1, 255, 255, 255, 255],
            &[4, 0, 0, 0, 1, 0],
            &[3, 0, 0, 0, 0],
        ] {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            assert!(decoder.take().is_err(), "{bytes:?}");
        }
    }
}
