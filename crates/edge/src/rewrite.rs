//! What the instance is told of the request, and the client of the answer.
//!
//! Lives here: writing heads anew.
//! Does not live here: reading them (`inspect`, `upstream`).
//! Invariant: fields about the client are written here and nowhere else, after everything the client sent was filtered; the
//! body's framing is ours, not copied.

use std::io::Write;

use crate::answer::{Asked, RequestId};
use crate::fields::{Role, role};
use crate::h1::body::Decoder;
use crate::inspect::Request;
use crate::relay::Framing;
use crate::upstream::Reply;
use crate::worker::Peer;

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// The request's head as the instance gets it.
pub(crate) fn request_head(
    out: &mut Vec<u8>,
    request: &Request<'_>,
    strip: Option<&str>,
    peer: &Peer,
    id: &RequestId,
) {
    let incoming = request.incoming;
    let stripped = strip
        .and_then(|prefix| incoming.path.strip_prefix(prefix))
        .unwrap_or(incoming.path);
    let slash: &[u8] = if stripped.is_empty() { b"/" } else { b"" };
    put(
        out,
        &[
            incoming.method.as_bytes(),
            b" ",
            stripped.as_bytes(),
            slash,
            incoming.query.as_bytes(),
        ],
    );
    put(out, &[b" HTTP/1.1\r\nhost: "]);
    host(out, request);
    out.extend_from_slice(b"\r\n");
    for field in incoming.fields {
        let passes = match role(field.name) {
            Role::EndToEnd | Role::Accept => !request.nominated.contains(field.name),
            Role::Host
            | Role::ContentLength
            | Role::TransferEncoding
            | Role::Connection
            | Role::Upgrade
            | Role::Expect
            | Role::RequestId
            | Role::HopByHop
            | Role::Withheld => false,
        };
        if passes && !field.name.is_empty() {
            put(out, &[field.name.as_bytes(), b": ", field.value, b"\r\n"]);
        }
    }
    about_client(out, request, strip, peer, id);
    match &request.body {
        Decoder::Length(0)
            if !request.declares_length && !matches!(incoming.method, "POST" | "PUT" | "PATCH") => {}
        Decoder::Length(length) => number(out, b"content-length: ", *length),
        Decoder::Chunked(_) | Decoder::UntilClose => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    if let Some(protocol) = request.upgrade {
        put(out, &[b"connection: upgrade\r\nupgrade: ", protocol, b"\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
}

fn host(out: &mut Vec<u8>, request: &Request<'_>) {
    out.extend_from_slice(request.host.as_bytes());
    if let Some(port) = request.port {
        // Writing to a Vec cannot fail.
        let _written = write!(out, ":{port}");
    }
}

fn about_client(out: &mut Vec<u8>, request: &Request<'_>, strip: Option<&str>, peer: &Peer, id: &RequestId) {
    put(out, &[&peer.fields, b"x-forwarded-host: "]);
    host(out, request);
    number(
        out,
        b"\r\nx-forwarded-port: ",
        u64::from(request.port.unwrap_or(peer.default_port)),
    );
    put(out, &[&peer.forwarded, b"\""]);
    host(out, request);
    put(out, &[b"\"\r\nx-request-id: ", id.as_str().as_bytes(), b"\r\n"]);
    if let Some(prefix) = strip {
        put(out, &[b"x-forwarded-prefix: ", prefix.as_bytes(), b"\r\n"]);
    }
}

/// A field whose value is a number; `name` ends in ": ".
fn number(out: &mut Vec<u8>, name: &[u8], value: u64) {
    let mut digits = [0u8; 20];
    let (mut start, mut rest) = (digits.len(), value);
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    put(out, &[name, &digits[start..], b"\r\n"]);
}

/// What becomes of the connection and the body after the head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Onward {
    pub(crate) framing: Framing,
    pub(crate) keep_client: bool,
}

/// The answer's head as an HTTP/1 client gets it.
pub(crate) fn reply_head(out: &mut Vec<u8>, reply: &Reply<'_>, asked: &Asked, may_keep: bool) -> Onward {
    status_line(out, reply.status, reply.reason);
    let mut names_request = false;
    for field in reply.passed_on() {
        names_request |= field.name.eq_ignore_ascii_case("x-request-id");
        put(out, &[field.name.as_bytes(), b": ", field.value, b"\r\n"]);
    }
    if !names_request {
        put(out, &[b"x-request-id: ", asked.id.as_str().as_bytes(), b"\r\n"]);
    }
    let mut onward = Onward {
        framing: Framing::Raw,
        keep_client: may_keep && asked.keep_alive,
    };
    match &reply.body {
        // No body: what HEAD and 304 say about the one they do not have is for the client to know.
        Decoder::Length(0) if asked.is_head || reply.status == 304 => {
            if let Some(length) = reply.declared_length {
                number(out, b"content-length: ", length);
            }
        }
        Decoder::Length(0) if reply.status == 204 => {}
        Decoder::Length(length) => number(out, b"content-length: ", *length),
        Decoder::Chunked(_) | Decoder::UntilClose if asked.is_http10 => onward.keep_client = false,
        Decoder::Chunked(_) | Decoder::UntilClose => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            onward.framing = Framing::Chunked;
        }
    }
    match (onward.keep_client, asked.is_http10) {
        (false, _) => out.extend_from_slice(b"connection: close\r\n"),
        (true, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (true, false) => {}
    }
    out.extend_from_slice(b"\r\n");
    onward
}

/// The head of a 101: here the connection's own fields are the message.
pub(crate) fn upgrade_head(out: &mut Vec<u8>, reply: &Reply<'_>) {
    status_line(out, reply.status, reply.reason);
    for field in reply.fields {
        let framing = ["content-length", "transfer-encoding"]
            .iter()
            .any(|n| field.name.eq_ignore_ascii_case(n));
        if !framing {
            put(out, &[field.name.as_bytes(), b": ", field.value, b"\r\n"]);
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, status: u16, reason: &str) {
    let digits = [status / 100, status / 10 % 10, status % 10].map(|d| b'0' + d as u8);
    put(out, &[b"HTTP/1.1 ", &digits, b" ", reason.as_bytes(), b"\r\n"]);
}
