//! Where a body ends.
//!
//! Lives here: the three framings, the chunk grammar, trailers.
//! Does not live here: which framing a message has (`request`, `forward`).
//! Invariant: chunk framing never passes through: extensions are dropped, any bare CR or LF ends the connection. A lenient
//! reading here is how two parsers come to disagree about where the next request begins.
//!
//! ```text
//! Size -> Data -> DataEnd -> Size ... -> Size(0) -> Trailers -> Done
//! ```

use crate::h1::head::{Scan, Scanner};

/// A chunk-size line with its extensions; nobody legitimate comes near.
const SIZE_LINE_MAX: usize = 256;

/// All trailers together.
const TRAILERS_MAX: usize = 8 << 10;

/// Trailer fields of one message.
const TRAILER_COUNT_MAX: usize = 32;

/// Decodes one body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// This many bytes are left.
    Length(u64),
    /// Chunked.
    Chunked(Chunks),
    /// Until the connection ends.
    UntilClose,
}

/// Where in a chunked body we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chunks {
    Size,
    Data { left: u64 },
    DataEnd,
    Trailers,
    Done,
}

/// What the first bytes of the input are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Content: pass on this many bytes.
    Data(usize),
    /// Framing: drop this many bytes.
    Framing(usize),
    /// Trailers: this many bytes, ready for [`trailers`], then the body is over.
    Trailers(usize),
    /// Not enough to tell.
    NeedMore,
    /// The body is over.
    Done,
}

/// The chunk grammar is violated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadFraming;

impl Decoder {
    pub(crate) fn chunked() -> Decoder {
        Decoder::Chunked(Chunks::Size)
    }

    pub(crate) fn nothing() -> Decoder {
        Decoder::Length(0)
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Decoder::Length(0) | Decoder::Chunked(Chunks::Done))
    }

    /// Looks at the input and advances over what it reports.
    pub(crate) fn step(&mut self, input: &[u8]) -> Result<Step, BadFraming> {
        match self {
            Decoder::Length(0) | Decoder::Chunked(Chunks::Done) => Ok(Step::Done),
            _ if input.is_empty() => Ok(Step::NeedMore),
            Decoder::UntilClose => Ok(Step::Data(input.len())),
            Decoder::Length(left) => Ok(Step::Data(take(left, input))),
            Decoder::Chunked(chunks) => chunks.step(input),
        }
    }
}

/// As much of the input as the count allows, taken off the count.
fn take(left: &mut u64, input: &[u8]) -> usize {
    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= n as u64;
    n
}

impl Chunks {
    fn step(&mut self, input: &[u8]) -> Result<Step, BadFraming> {
        match self {
            Chunks::Size => {
                let Some((line, size)) = size_line(input)? else {
                    return Ok(Step::NeedMore);
                };
                *self = if size == 0 {
                    Chunks::Trailers
                } else {
                    Chunks::Data { left: size }
                };
                Ok(Step::Framing(line))
            }
            Chunks::Data { left } => {
                let n = take(left, input);
                if *left == 0 {
                    *self = Chunks::DataEnd;
                }
                Ok(Step::Data(n))
            }
            Chunks::DataEnd => match input {
                [b'\r', b'\n', ..] => {
                    *self = Chunks::Size;
                    Ok(Step::Framing(2))
                }
                [b'\r'] => Ok(Step::NeedMore),
                _ => Err(BadFraming),
            },
            Chunks::Trailers => {
                let length = match input {
                    [b'\r', b'\n', ..] => 2,
                    [b'\r'] => return Ok(Step::NeedMore),
                    _ => match Scanner::default().scan(input) {
                        Scan::Complete(length) if length <= TRAILERS_MAX => length,
                        Scan::Partial if input.len() <= TRAILERS_MAX => return Ok(Step::NeedMore),
                        Scan::Complete(_) | Scan::Partial | Scan::BareLineEnd => return Err(BadFraming),
                    },
                };
                *self = Chunks::Done;
                Ok(Step::Trailers(length))
            }
            Chunks::Done => Ok(Step::Done),
        }
    }
}

/// The length of the size line and the size it tells; `None` when the line is not complete.
fn size_line(input: &[u8]) -> Result<Option<(usize, u64)>, BadFraming> {
    let window = &input[..input.len().min(SIZE_LINE_MAX)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() == SIZE_LINE_MAX {
            Err(BadFraming)
        } else {
            Ok(None)
        };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(BadFraming)?;
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let extension = &line[digits..];
    // 15 digits: no overflow, and no body is larger than an exbibyte.
    let fits = (1..=15).contains(&digits)
        && (extension.is_empty() || extension[0] == b';')
        && extension.iter().all(|&b| b == b'\t' || (b >= 0x20 && b != 0x7f));
    if !fits {
        return Err(BadFraming);
    }
    let size = line[..digits].iter().fold(0, |size, &digit| {
        size << 4 | u64::from(char::from(digit).to_digit(16).unwrap_or_default())
    });
    Ok(Some((end + 1, size)))
}

/// Trailers as they may be passed on: without fields that would change framing, routing or trust (RFC 9110, 6.5.1).
pub(crate) fn trailers(block: &[u8]) -> Result<Vec<(&str, &[u8])>, BadFraming> {
    let mut fields = [httparse::EMPTY_HEADER; TRAILER_COUNT_MAX];
    match httparse::parse_headers(block, &mut fields) {
        Ok(httparse::Status::Complete((_, fields))) => Ok(fields
            .iter()
            .filter(|f| crate::fields::may_be_trailer(f.name))
            .map(|f| (f.name, f.value))
            .collect()),
        Ok(httparse::Status::Partial) | Err(_) => Err(BadFraming),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes the whole input in pieces of `step` bytes: what comes out must not depend on the pieces.
    fn decode(
        mut decoder: Decoder,
        input: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, Vec<u8>, bool), BadFraming> {
        let (mut content, mut trailing, mut start, mut end) = (Vec::new(), Vec::new(), 0, 0);
        loop {
            match decoder.step(&input[start..end])? {
                Step::Data(n) => {
                    content.extend_from_slice(&input[start..start + n]);
                    start += n;
                }
                Step::Framing(n) => start += n,
                Step::Trailers(n) => {
                    for (name, value) in trailers(&input[start..start + n])? {
                        trailing.extend_from_slice(&[name.as_bytes(), b"=", value, b";"].concat());
                    }
                    start += n;
                }
                Step::NeedMore if end == input.len() => return Ok((content, trailing, false)),
                Step::NeedMore => end = (end + step).min(input.len()),
                Step::Done => {
                    assert_eq!(start, input.len() - b"NEXT".len(), "stopped at the wrong byte");
                    return Ok((content, trailing, true));
                }
            }
        }
    }

    fn check(input: &str, expected: Result<(&str, &str), ()>) {
        let input = format!("{input}NEXT");
        for step in [1, 2, 3, 7, 1000] {
            let seen = decode(Decoder::chunked(), input.as_bytes(), step);
            let seen = seen.as_ref().map(|(c, t, done)| {
                assert!(done, "{input:?} never ended");
                (std::str::from_utf8(c).unwrap(), std::str::from_utf8(t).unwrap())
            });
            assert_eq!(seen.map_err(|_| ()), expected, "{input:?} in steps of {step}");
        }
    }

    #[test]
    fn chunks_are_decoded_however_they_arrive() {
        check("0\r\n\r\n", Ok(("", "")));
        check(
            "3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n",
            Ok(("abc0123456789", "")),
        );
        check("3;name=value\r\nabc\r\n0;x\r\n\r\n", Ok(("abc", "")));
        check(
            "1\r\na\r\n0\r\nGrpc-Status: 0\r\nContent-Length: 3\r\nX-Forwarded-For: me\r\n\r\n",
            Ok(("a", "Grpc-Status=0;")),
        );
    }

    #[test]
    fn doubtful_framing_is_refused() {
        let long = format!("{}\r\n", "0".repeat(300));
        for bad in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 \r\na\r\n",
            "1\na\r\n",
            "1\r\na\n",
            "1\r\nab\r\n",
            "1;a\nb\r\n",
            "1;a\rb\r\n",
            "1;\0\r\n",
            "ffffffffffffffff\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\nA b\r\n\r\n",
            "0\r\n A: b\r\n\r\n",
            "0\r\nA: \0\r\n\r\n",
            long.as_str(),
        ] {
            check(bad, Err(()));
        }
    }

    #[test]
    fn a_length_ends_where_it_says() {
        assert_eq!(
            decode(Decoder::Length(3), b"abcNEXT", 2),
            Ok((b"abc".to_vec(), Vec::new(), true))
        );
        assert!(!decode(Decoder::Length(9), b"abc", 2).unwrap().2);
        assert!(!decode(Decoder::UntilClose, b"abc", 2).unwrap().2);
    }
}
