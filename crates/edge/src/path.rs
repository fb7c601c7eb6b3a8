//! One reading of a path, for the router and for the backend (N55).
//!
//! Lives here: refusing paths that a backend could read differently from the router.
//! Does not live here: matching prefixes (`route`).
//! Invariant: a path is forwarded byte for byte or refused, never repaired: repairing would hand the backend a path that
//! the client's signature, log or cache does not know.
//!
//! A path is *plain* when it has no `%`, no empty segment, no dot segment and no backslash: then there is one reading.
//! Otherwise it is decoded until nothing changes (a backend may decode twice), with `\` as `/` and empty segments dropped.
//! Refused: bad escapes, NUL and control bytes, and a dot segment at any depth. What remains (`%2F` in package names,
//! escaped letters, `//`) is legitimate, and is let through when the decoded reading meets the *same route* as the raw one.

use std::borrow::Cow;

/// How a path may be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Readings<'p> {
    /// There is one reading.
    Plain,
    /// A backend could also read it like this; it must meet the same route.
    Also(Cow<'p, str>),
}

/// A path nobody should forward.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ambiguous;

/// Decodings tried before the path is refused: nobody encodes a path this often in good faith.
const DECODINGS_MAX: usize = 4;

/// Finds the readings of a path that begins with `/`.
pub(crate) fn readings(path: &str) -> Result<Readings<'_>, Ambiguous> {
    if is_plain(path.as_bytes()) {
        return Ok(Readings::Plain);
    }
    let mut decoded = path.as_bytes().to_vec();
    for round in 0.. {
        has_dot_segment(&decoded)?;
        if !decoded.contains(&b'%') {
            break;
        }
        // Only the first decoding must be well formed: afterwards a `%` is the text of the path (`100%25` is `100%`).
        match decode(&decoded) {
            Some(next) if next == decoded => break,
            Some(_) if round == DECODINGS_MAX => return Err(Ambiguous),
            Some(next) => decoded = next,
            None if round == 0 => return Err(Ambiguous),
            None => break,
        }
    }
    let mut merged: Vec<u8> = Vec::with_capacity(decoded.len());
    for byte in decoded {
        if byte < 0x20 || byte == 0x7f {
            return Err(Ambiguous);
        }
        let byte = if byte == b'\\' { b'/' } else { byte };
        if byte != b'/' || merged.last() != Some(&b'/') {
            merged.push(byte);
        }
    }
    Ok(Readings::Also(Cow::Owned(
        String::from_utf8_lossy(&merged).into_owned(),
    )))
}

/// The common case, in one pass.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        match byte {
            b'%' | b'\\' => return false,
            b'/' | b'.' | b';' if previous == b'/' => return false,
            _ => previous = byte,
        }
    }
    true
}

/// Refuses `.` and `..` as segments, also with parameters (`..;x`, which some backends strip) and behind a backslash.
fn has_dot_segment(path: &[u8]) -> Result<(), Ambiguous> {
    let dotted = path.split(|&b| b == b'/' || b == b'\\').any(|segment| {
        let name = segment.split(|&b| b == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    });
    if dotted { Err(Ambiguous) } else { Ok(()) }
}

/// Undoes one level of escapes; `None` when one is malformed.
fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (&high, &low) = (tail.first()?, tail.get(1)?);
        let digit = |b: u8| char::from(b).to_digit(16);
        out.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
        rest = &tail[2..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Result<Option<&str>, ()>) {
        let seen = match readings(path) {
            Ok(Readings::Plain) => Ok(None),
            Ok(Readings::Also(other)) => Ok(Some(other.into_owned())),
            Err(Ambiguous) => Err(()),
        };
        assert_eq!(seen, expected.map(|o| o.map(str::to_owned)), "{path}");
    }

    #[test]
    fn paths_have_one_reading_or_are_refused() {
        for plain in ["/", "/a", "/a/b.c/", "/a..b/c.", "/~x/@y;v=1"] {
            check(plain, Ok(None));
        }
        for bad in [
            "/..",
            "/../a",
            "/a/..",
            "/a/.",
            "/./a",
            "/a/%2e%2e/b",
            "/a/%2E./b",
            "/a/.%2e",
            "/a%2f..%2fb",
            "/a%2f%2e%2e",
            "/a/..%2fb",
            "/a\\..\\b",
            "/a/%5c..%5cb",
            "/a/%252e%252e/b",
            "/a/%25252e%25252e/b",
            "/..;/a",
            "/a/..;x=1/b",
            "/%2e%2e;/a",
            "/a%00b",
            "/a%0d%0ab",
            "/%",
            "/%2",
            "/%zz",
            "/a%",
            "/%252525252525252561",
        ] {
            check(bad, Err(()));
        }
        check("/.well-known/x", Ok(Some("/.well-known/x")));
        check("/@scope%2fname", Ok(Some("/@scope/name")));
        check("/%61dmin", Ok(Some("/admin")));
        check("//a///b", Ok(Some("/a/b")));
        check("/a%20b%C3%A9", Ok(Some("/a bé")));
        check("/100%25", Ok(Some("/100%")));
        check("/a\\b", Ok(Some("/a/b")));
    }
}
