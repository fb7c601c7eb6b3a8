//! Is this request one that everybody reads the same way, and what does it ask for?
//!
//! Lives here: the default-deny list of `notes/edge.md`, for HTTP/1 and HTTP/2 alike.
//! Does not live here: line ends and tokens (`h1`), where the request goes (`route`).
//! Invariant: what leaves here is unambiguous; whatever two parsers could read differently is refused, not repaired.

use std::borrow::Cow;

use httparse::Header;

use crate::fields::{Role, role};
use crate::h1::body::Decoder;

/// A request that is not forwarded, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) what: &'static str,
}

pub(crate) const fn bad(what: &'static str) -> Refusal {
    Refusal { status: 400, what }
}

/// Which rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http10,
    Http11,
    Http2,
}

/// A request as its protocol delivers it.
#[derive(Debug)]
pub(crate) struct Incoming<'b> {
    pub(crate) version: Version,
    pub(crate) method: &'b str,
    /// From the request line (absolute form) or `:authority`.
    pub(crate) authority: Option<&'b str>,
    pub(crate) path: &'b str,
    /// With its question mark, or empty.
    pub(crate) query: &'b str,
    pub(crate) fields: &'b [Header<'b>],
}

/// A request as the edge understands it.
#[derive(Debug)]
pub(crate) struct Request<'b> {
    pub(crate) incoming: &'b Incoming<'b>,
    /// Lower case, no port, no final dot.
    pub(crate) host: Cow<'b, str>,
    pub(crate) port: Option<u16>,
    /// How the body ends; HTTP/2 without a length: chunked toward the instance.
    pub(crate) body: Decoder,
    /// Whether the client said how long the body is, be it nothing.
    pub(crate) declares_length: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: Option<&'b [u8]>,
    pub(crate) expects_continue: bool,
    pub(crate) wants_html: bool,
    pub(crate) request_id: Option<&'b str>,
    /// Fields the client declared to concern its connection only.
    pub(crate) nominated: Nominated<'b>,
}

/// Names in `Connection`, besides those with a meaning of their own.
#[derive(Debug, Default)]
pub(crate) struct Nominated<'b> {
    names: [&'b str; 8],
    count: usize,
}

impl Nominated<'_> {
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.names[..self.count]
            .iter()
            .any(|n| n.eq_ignore_ascii_case(name))
    }
}

/// Splits an HTTP/1 request target. Authority and path may be ours to route; nothing else is.
pub(crate) fn split_target(target: &str) -> Result<(Option<&str>, &str, &str), Refusal> {
    let (authority, rest) = if target.starts_with('/') {
        (None, target)
    } else {
        let after =
            strip_scheme(target).ok_or(bad("the request target is neither a path nor an http URL"))?;
        let end = after.find(['/', '?']).unwrap_or(after.len());
        (Some(&after[..end]), &after[end..])
    };
    if rest.contains('#') {
        return Err(bad("the request target has a fragment"));
    }
    let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
    Ok((authority, if path.is_empty() { "/" } else { path }, query))
}

fn strip_scheme(target: &str) -> Option<&str> {
    ["http://", "https://"].iter().find_map(|scheme| {
        let start = target.get(..scheme.len())?;
        start
            .eq_ignore_ascii_case(scheme)
            .then(|| &target[scheme.len()..])
    })
}

/// Refuses what is ambiguous and says what the rest asks for.
pub(crate) fn inspect<'b>(incoming: &'b Incoming<'b>) -> Result<Request<'b>, Refusal> {
    if matches!(incoming.method, "CONNECT" | "TRACE") {
        return Err(Refusal {
            status: 405,
            what: "this method is not served",
        });
    }
    let mut seen = Seen::default();
    for field in incoming.fields {
        seen.note(field)?;
    }
    let (host, port) = host(incoming, seen.host)?;
    let body = framing(incoming.version, seen.length, seen.encoding)?;
    let keep_alive = match incoming.version {
        Version::Http10 => seen.keep_alive && !seen.close,
        Version::Http11 | Version::Http2 => !seen.close,
    };
    // An upgrade is offered with an empty request only: its bytes could not be told from those of the new protocol.
    // Never to HTTP/2 ("h2c"): the instance would then take requests that the edge has not seen.
    let upgrade = seen.upgrade.filter(|protocol| {
        seen.upgrade_named && incoming.version == Version::Http11 && body.is_done() && !is_h2c(protocol)
    });
    Ok(Request {
        incoming,
        host,
        port,
        expects_continue: seen.expects_continue && incoming.version == Version::Http11,
        body,
        declares_length: seen.length.is_some(),
        keep_alive,
        upgrade,
        wants_html: seen.wants_html,
        request_id: seen.request_id,
        nominated: seen.nominated,
    })
}

fn is_h2c(protocol: &[u8]) -> bool {
    protocol.split(|&b| b == b',').any(|p| {
        let p = p.trim_ascii();
        p.eq_ignore_ascii_case(b"h2c") || p.eq_ignore_ascii_case(b"h2")
    })
}

#[derive(Default)]
struct Seen<'b> {
    host: Option<&'b [u8]>,
    length: Option<&'b [u8]>,
    encoding: Option<&'b [u8]>,
    upgrade: Option<&'b [u8]>,
    upgrade_named: bool,
    keep_alive: bool,
    close: bool,
    expects_continue: bool,
    wants_html: bool,
    request_id: Option<&'b str>,
    nominated: Nominated<'b>,
}

impl<'b> Seen<'b> {
    fn note(&mut self, field: &Header<'b>) -> Result<(), Refusal> {
        match role(field.name) {
            Role::EndToEnd | Role::HopByHop | Role::Withheld => {}
            Role::Accept => self.wants_html |= memchr::memmem::find(field.value, b"text/html").is_some(),
            Role::Host => once(&mut self.host, field.value, "there are two Host fields")?,
            Role::ContentLength => once(
                &mut self.length,
                field.value,
                "there are two Content-Length fields",
            )?,
            Role::TransferEncoding => {
                once(
                    &mut self.encoding,
                    field.value,
                    "there are two Transfer-Encoding fields",
                )?;
            }
            Role::Upgrade => once(&mut self.upgrade, field.value, "there are two Upgrade fields")?,
            Role::Connection => self.connection(field.value)?,
            Role::Expect => {
                if !field.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal {
                        status: 417,
                        what: "the expectation is not 100-continue",
                    });
                }
                self.expects_continue = true;
            }
            Role::RequestId => {
                let fits = field.value.len() <= 128
                    && field
                        .value
                        .iter()
                        .all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b));
                self.request_id = std::str::from_utf8(field.value)
                    .ok()
                    .filter(|id| fits && !id.is_empty());
            }
        }
        Ok(())
    }

    fn connection(&mut self, value: &'b [u8]) -> Result<(), Refusal> {
        for token in value.split(|&b| b == b',') {
            let Ok(token) = std::str::from_utf8(token.trim_ascii()) else {
                return Err(bad("the Connection field is not a list of names"));
            };
            match token.len() {
                0 => {}
                5 if token.eq_ignore_ascii_case("close") => self.close = true,
                7 if token.eq_ignore_ascii_case("upgrade") => self.upgrade_named = true,
                10 if token.eq_ignore_ascii_case("keep-alive") => self.keep_alive = true,
                _ => {
                    let slot = self.nominated.names.get_mut(self.nominated.count);
                    *slot.ok_or(bad("the Connection field names too many fields"))? = token;
                    self.nominated.count += 1;
                }
            }
        }
        Ok(())
    }
}

fn once<'b>(slot: &mut Option<&'b [u8]>, value: &'b [u8], what: &'static str) -> Result<(), Refusal> {
    if slot.replace(value).is_some() {
        Err(bad(what))
    } else {
        Ok(())
    }
}

/// The one host the request is for: authority and Host field must agree.
fn host<'b>(
    incoming: &Incoming<'b>,
    field: Option<&'b [u8]>,
) -> Result<(Cow<'b, str>, Option<u16>), Refusal> {
    let field = match field {
        Some(value) => Some(
            std::str::from_utf8(value)
                .ok()
                .and_then(split_authority)
                .ok_or(bad("the Host is not a host name"))?,
        ),
        None => None,
    };
    let authority = match incoming.authority {
        Some(text) => Some(split_authority(text).ok_or(bad("the authority is not a host name"))?),
        None => None,
    };
    match (authority, field) {
        (Some(a), Some(h)) if a == h => Ok(h),
        (Some(_), Some(_)) => Err(bad("Host and request target name different hosts")),
        (None, Some(h)) => Ok(h),
        (Some(a), None) if incoming.version == Version::Http2 => Ok(a),
        (Some(_) | None, None) => Err(bad("there is no Host field")),
    }
}

/// Canonical host, and port when given.
fn split_authority(text: &str) -> Option<(Cow<'_, str>, Option<u16>)> {
    let text = text.trim_matches(['\t', ' ']);
    let (host, port) = match text.strip_prefix('[') {
        Some(_) => {
            let end = text.find(']')? + 1;
            let rest = &text[end..];
            (
                &text[..end],
                if rest.is_empty() {
                    None
                } else {
                    Some(rest.strip_prefix(':')?)
                },
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let port = match port {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty() => {
            Some(digits.parse().ok()?)
        }
        Some(_) => return None,
        None => None,
    };
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let fits = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_'),
    };
    if host.is_empty() || host.len() > 253 || !fits {
        return None;
    }
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        return Some((Cow::Owned(host.to_ascii_lowercase()), port));
    }
    Some((Cow::Borrowed(host), port))
}

/// How the body ends, when that cannot be read two ways.
fn framing(version: Version, length: Option<&[u8]>, encoding: Option<&[u8]>) -> Result<Decoder, Refusal> {
    match (length, encoding) {
        (Some(_), Some(_)) => Err(bad("there are both Content-Length and Transfer-Encoding")),
        (None, None) => Ok(Decoder::nothing()),
        (Some(digits), None) => length_of(digits)
            .map(Decoder::Length)
            .ok_or(bad("Content-Length is not a number")),
        (None, Some(_)) if version != Version::Http11 => {
            Err(bad("Transfer-Encoding in a protocol without it"))
        }
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Decoder::chunked()),
        (None, Some(_)) => Err(Refusal {
            status: 501,
            what: "Transfer-Encoding is not exactly chunked",
        }),
    }
}

/// A length is digits and nothing else: `+5`, `0x5`, `5,5` and ` 5` are read differently by different parsers.
pub(crate) fn length_of(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, expected: &Result<(&str, Decoder), u16>) {
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut fields);
        parsed.parse(head.as_bytes()).unwrap();
        let outcome = split_target(parsed.path.unwrap()).and_then(|(authority, path, query)| {
            let version = if parsed.version == Some(1) {
                Version::Http11
            } else {
                Version::Http10
            };
            let method = parsed.method.unwrap();
            let incoming = Incoming {
                version,
                method,
                authority,
                path,
                query,
                fields: parsed.headers,
            };
            inspect(&incoming).map(|r| (r.host.into_owned(), r.body))
        });
        let seen = outcome
            .as_ref()
            .map(|(h, b)| (h.as_str(), b.clone()))
            .map_err(|r| r.status);
        assert_eq!(&seen, expected, "{head:?}");
    }

    #[test]
    fn only_unambiguous_requests_pass() {
        let none = Decoder::nothing();
        check(
            "GET / HTTP/1.1\r\nHost: A.example.:80\r\n\r\n",
            &Ok(("a.example", none.clone())),
        );
        check(
            "GET http://a.b/x HTTP/1.1\r\nHost: a.b\r\n\r\n",
            &Ok(("a.b", none.clone())),
        );
        check("GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", &Ok(("[::1]", none)));
        check(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
            &Ok(("a", Decoder::Length(5))),
        );
        check(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
            &Ok(("a", Decoder::chunked())),
        );
        for (bad, status) in [
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: [x]\r\n\r\n", 400),
            ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", 400),
            ("GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n", 400),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 400),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                400,
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                501,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
                501,
            ),
            (
                "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
            ),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: something\r\n\r\n", 417),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: a,b,c,d,e,f,g,h,i\r\n\r\n",
                400,
            ),
        ] {
            check(bad, &Err(status));
        }
    }
}
