//! What header fields mean to a proxy.
//!
//! Lives here: which fields are hop-by-hop, which carry trust, which decide framing.
//! Does not live here: their values (`inspect`).
//! Invariant: a field that tells an instance who the client is reaches it only when the edge wrote it, under every spelling
//! an instance's framework may fold together (`X_Forwarded_For` becomes the same CGI variable as `X-Forwarded-For`).

/// A field's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    Accept,
    RequestId,
    /// Concerns one connection only.
    HopByHop,
    /// Written by the edge, or dangerous to instances: never passed on.
    Withheld,
    /// None of our business.
    EndToEnd,
}

/// The longest name with a role, for the folded spelling.
const NAME_MAX: usize = 32;

/// The role of a request's field.
pub(crate) fn role(name: &str) -> Role {
    let folded = memchr::memchr(b'_', name.as_bytes()).is_some();
    if !folded {
        return spelled(name);
    }
    let mut hyphens = [0u8; NAME_MAX];
    let length = name.len().min(NAME_MAX);
    for (to, from) in hyphens.iter_mut().zip(name.bytes()) {
        *to = if from == b'_' { b'-' } else { from };
    }
    match std::str::from_utf8(&hyphens[..length]).map(spelled) {
        Ok(Role::EndToEnd | Role::Accept | Role::Expect) | Err(_) => Role::EndToEnd,
        Ok(_) => Role::Withheld,
    }
}

fn spelled(name: &str) -> Role {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 if is("te") => Role::HopByHop,
        4 if is("host") => Role::Host,
        // CGI turns it into HTTP_PROXY, which programs take for their own proxy setting.
        5 if is("proxy") => Role::Withheld,
        6 if is("accept") => Role::Accept,
        6 if is("expect") => Role::Expect,
        7 if is("upgrade") => Role::Upgrade,
        9 if is("forwarded") || is("x-real-ip") => Role::Withheld,
        10 if is("connection") => Role::Connection,
        10 if is("keep-alive") => Role::HopByHop,
        12 if is("x-request-id") => Role::RequestId,
        // Some frameworks route by these instead of the path that was routed and authorised.
        13 if is("x-rewrite-url") => Role::Withheld,
        14 if is("content-length") => Role::ContentLength,
        14 if is("x-original-url") => Role::Withheld,
        14 if is("http2-settings") => Role::HopByHop,
        14 if is("true-client-ip") => Role::Withheld,
        16 if is("proxy-connection") => Role::HopByHop,
        17 if is("transfer-encoding") => Role::TransferEncoding,
        19 if is("proxy-authorization") => Role::HopByHop,
        // All of them, also those nobody has thought of yet (-User, -Prefix, -Ssl).
        n if n > 12 && name.as_bytes()[..12].eq_ignore_ascii_case(b"x-forwarded-") => Role::Withheld,
        _ => Role::EndToEnd,
    }
}

/// Whether a field of an instance's answer concerns only its connection with us.
pub(crate) fn is_hop_by_hop_in_answer(name: &str) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        7 => is("upgrade"),
        10 => is("connection") || is("keep-alive"),
        16 => is("proxy-connection"),
        17 => is("transfer-encoding"),
        _ => false,
    }
}

/// Whether a field may come after the body.
pub(crate) fn may_be_trailer(name: &str) -> bool {
    let secret = [
        "authorization",
        "cookie",
        "set-cookie",
        "content-encoding",
        "content-type",
        "content-range",
        "trailer",
    ];
    role(name) == Role::EndToEnd && !secret.iter().any(|s| name.eq_ignore_ascii_case(s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_field_about_the_client_is_withheld() {
        for name in [
            "X-Forwarded-For",
            "x-forwarded-for",
            "X_Forwarded_For",
            "X-Forwarded_Host",
            "x-forwarded-anything",
            "Forwarded",
            "X-Real-IP",
            "X_Real_Ip",
            "Proxy",
            "X-Original-URL",
            "x_rewrite_url",
            "Content_Length",
            "Transfer_Encoding",
        ] {
            assert_eq!(role(name), Role::Withheld, "{name}");
        }
        for name in [
            "X-Forward",
            "X-Forwarded",
            "accept_",
            "X_Custom_Field",
            "a_b",
            "Cookie",
            "Authorization",
            "Trailer",
        ] {
            assert_eq!(role(name), Role::EndToEnd, "{name}");
        }
        assert_eq!(role(&"x_".repeat(100)), Role::EndToEnd);
    }
}
