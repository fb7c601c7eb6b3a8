//! Answers of the edge itself.
//!
//! Lives here: their text, as a small page or plain.
//! Does not live here: when they are given.
//! Invariant: they say what is wrong in words for the person in front of the browser, name the request for the person who
//! reads the logs, and tell nothing about what is behind the edge.

use std::io::Write;

use crate::inspect::Refusal;

/// An answer in the instance's stead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) refusal: Refusal,
    pub(crate) after: After,
    pub(crate) retry_after_s: Option<u32>,
}

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The request was read whole.
    Keep,
    /// Something of it is unread, or cannot be told from the next.
    Close,
}

impl Answer {
    pub(crate) fn keep(status: u16, what: &'static str) -> Answer {
        Answer {
            refusal: Refusal { status, what },
            after: After::Keep,
            retry_after_s: None,
        }
    }

    pub(crate) fn close(refusal: Refusal) -> Answer {
        Answer {
            refusal,
            after: After::Close,
            retry_after_s: None,
        }
    }
}

/// What is known of the request that is answered.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) is_head: bool,
    pub(crate) is_http10: bool,
    pub(crate) keep_alive: bool,
    pub(crate) wants_html: bool,
    pub(crate) id: RequestId,
}

/// The name of a request in logs and answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestId {
    text: [u8; RequestId::BYTES_MAX],
    length: u8,
}

impl RequestId {
    pub(crate) const BYTES_MAX: usize = 64;

    /// The client's own, when it fits; it was checked for its characters.
    pub(crate) fn given(id: &str) -> Option<RequestId> {
        let mut text = [0; RequestId::BYTES_MAX];
        text.get_mut(..id.len())?.copy_from_slice(id.as_bytes());
        Some(RequestId {
            text,
            length: u8::try_from(id.len()).ok()?,
        })
    }

    /// A new one.
    pub(crate) fn new(high: u64, low: u64) -> RequestId {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let number = u128::from(high) << 64 | u128::from(low);
        let mut text = [0; RequestId::BYTES_MAX];
        for (n, byte) in text[..32].iter_mut().enumerate() {
            *byte = DIGITS[(number >> (124 - 4 * n)) as usize & 15];
        }
        RequestId { text, length: 32 }
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or_default()
    }
}

/// The standard words for a status.
pub(crate) fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|s| s.canonical_reason())
        .unwrap_or("Error")
}

/// Media type and text.
pub(crate) fn page(answer: &Answer, asked: &Asked) -> (&'static str, String) {
    let Refusal { status, what } = answer.refusal;
    let (title, id) = (reason(status), asked.id.as_str());
    if !asked.wants_html {
        return (
            "text/plain; charset=utf-8",
            format!("{status} {title}: {what}\nrequest {id}\n"),
        );
    }
    let text = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{status} {title}</title>\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:18vh auto;padding:0 1rem}}\
         small{{color:#777}}</style>\
         <h1>{status} {title}</h1><p>{what}.</p><p><small>Request {id}</small></p></html>\n"
    );
    ("text/html; charset=utf-8", text)
}

/// Writes the answer for HTTP/1. Whether the connection lives on is in the result.
pub(crate) fn write(out: &mut Vec<u8>, answer: &Answer, asked: &Asked) -> After {
    let (media_type, text) = page(answer, asked);
    let status = answer.refusal.status;
    let after = if asked.keep_alive {
        answer.after
    } else {
        After::Close
    };
    // Writing to a Vec cannot fail.
    let _written = write!(
        out,
        "HTTP/1.1 {status} {}\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         x-request-id: {}\r\n",
        reason(status),
        text.len(),
        asked.id.as_str()
    );
    if let Some(seconds) = answer.retry_after_s {
        let _written = write!(out, "retry-after: {seconds}\r\n");
    }
    match after {
        After::Close => out.extend_from_slice(b"connection: close\r\n"),
        After::Keep if asked.is_http10 => out.extend_from_slice(b"connection: keep-alive\r\n"),
        After::Keep => {}
    }
    out.extend_from_slice(b"\r\n");
    if !asked.is_head {
        out.extend_from_slice(text.as_bytes());
    }
    after
}
