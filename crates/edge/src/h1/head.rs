//! Finding the end of a head, strictly.
//!
//! Lives here: line ends.
//! Does not live here: names and values (`httparse`), what they mean (`fields`).
//! Invariant: every line ends in CR LF. `httparse`, like every proxy we measured, accepts a bare LF; two parsers that
//! differ on it see different requests.

/// The result of looking at bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// The head is not complete.
    Partial,
    /// It ends after this many bytes, the empty line included.
    Complete(usize),
    /// A line ends in LF without CR.
    BareLineEnd,
}

/// Remembers how far it looked, so that a head that arrives byte by byte is looked at once.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    line: usize,
}

impl Scanner {
    /// Looks for the end in everything received so far (the same bytes as last time, and more).
    pub(crate) fn scan(&mut self, received: &[u8]) -> Scan {
        while let Some(offset) = memchr::memchr(b'\n', &received[self.line..]) {
            let end = self.line + offset;
            let Some(b'\r') = end.checked_sub(1).and_then(|n| received.get(n)) else {
                return Scan::BareLineEnd;
            };
            if end == self.line + 1 {
                return Scan::Complete(end + 1);
            }
            if end == self.line {
                return Scan::BareLineEnd;
            }
            self.line = end + 1;
        }
        Scan::Partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &[u8], expected: &Scan) {
        assert_eq!(&Scanner::default().scan(input), expected);
        let mut scanner = Scanner::default();
        let mut last = Scan::Partial;
        for end in 0..=input.len() {
            last = scanner.scan(&input[..end]);
            if last != Scan::Partial {
                break;
            }
        }
        assert_eq!(&last, expected);
    }

    #[test]
    fn the_end_is_found_once_and_strictly() {
        check(b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest", &Scan::Complete(24));
        check(b"GET / HTTP/1.1\r\nA: b\r\n", &Scan::Partial);
        check(b"\r\n", &Scan::Complete(2));
        check(b"", &Scan::Partial);
        check(b"GET / HTTP/1.1\nA: b\r\n\r\n", &Scan::BareLineEnd);
        check(b"GET / HTTP/1.1\r\n\n", &Scan::BareLineEnd);
        check(b"\n", &Scan::BareLineEnd);
    }
}
