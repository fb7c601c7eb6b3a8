//! Asking the provider: bounded in time and bytes, never over a plain connection but on the own machine.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::DeserializeOwned;

/// For each question. People wait for it, and a sign-in asks four at most.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Documents and keys are a few KiB.
const BYTES_MAX: u64 = 1 << 20;

/// Why there is no answer that can be used.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Nobody answered, or not in time, or too much.
    Away(String),
    /// What was answered.
    Said(String),
}

impl Failed {
    pub(crate) fn why(self) -> String {
        match self {
            Self::Away(why) | Self::Said(why) => why,
        }
    }
}

pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        // A redirect could lead what is secret, or what is believed, elsewhere.
        .max_redirects(0)
        .http_status_as_error(false)
        .build()
        .into()
}

/// Whether nobody on the way can read or change what is sent there.
pub(crate) fn is_protected(address: &str) -> bool {
    let is_local = |rest: &str| {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        let host = match host.rsplit_once(':') {
            Some((host, port)) if is_port(port) => host,
            Some(_) | None => host,
        };
        matches!(host, "127.0.0.1" | "[::1]" | "localhost")
    };
    address.starts_with("https://") || address.strip_prefix("http://").is_some_and(is_local)
}

/// Whether it is where browsers may be sent back to: protected, and nothing but a scheme and a host.
#[must_use]
pub fn is_origin(address: &str) -> bool {
    let host = address
        .split_once("://")
        .map(|(_, host)| host)
        .unwrap_or_default();
    let is_host = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-.:[]".contains(&byte));
    is_protected(address) && is_host
}

/// Whether a provider of that issuer may have us send something there. One that is elsewhere must not make us ask what
/// listens on this machine.
pub(crate) fn may_name(issuer: &str, address: &str) -> bool {
    is_protected(address) && (address.starts_with("https://") || issuer.starts_with("http://"))
}

pub(crate) fn json<T: DeserializeOwned>(agent: &ureq::Agent, address: &str) -> Result<T, Failed> {
    let answer = agent.get(address).header("accept", "application/json").call();
    read(answer.map_err(away)?)
}

pub(crate) fn post<T: DeserializeOwned>(
    agent: &ureq::Agent,
    address: &str,
    credentials: Option<(&str, &str)>,
    body: &str,
) -> Result<T, Failed> {
    let mut request = agent
        .post(address)
        .header("accept", "application/json")
        .header("content-type", "application/x-www-form-urlencoded");
    if let Some((id, secret)) = credentials {
        // RFC 6749, 2.3.1: both are form-encoded first.
        let pair = format!("{}:{}", escaped(id), escaped(secret));
        request = request.header("authorization", format!("Basic {}", BASE64.encode(pair)));
    }
    read(request.send(body).map_err(away)?)
}

fn away(why: ureq::Error) -> Failed {
    match why {
        ureq::Error::Timeout(_) => Failed::Away(format!("it did not answer within {} s", TIMEOUT.as_secs())),
        why => Failed::Away(why.to_string()),
    }
}

fn read<T: DeserializeOwned>(mut answer: ureq::http::Response<ureq::Body>) -> Result<T, Failed> {
    let status = answer.status().as_u16();
    let bytes = answer.body_mut().with_config().limit(BYTES_MAX).read_to_vec();
    let bytes = bytes.map_err(away)?;
    if status != 200 {
        // OAuth's own word for it, and nothing else of what it said.
        let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let word = said["error"].as_str().unwrap_or_default();
        let is_word = word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let said = format!("status {status} {}", if is_word { word } else { "" });
        return Err(Failed::Said(said.trim_end().to_owned()));
    }
    serde_json::from_slice(&bytes)
        .map_err(|why| Failed::Said(format!("its answer is not what it should be: {why}")))
}

/// `application/x-www-form-urlencoded`.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    let pairs = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", escaped(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_over_protected_connections_only() {
        for (address, is_so) in [
            ("https://id.example.org", true),
            ("http://127.0.0.1:3000/x", true),
            ("http://localhost", true),
            ("http://id.example.org", false),
            ("http://127.0.0.1.example.org/", false),
            ("http://localhost@example.org", false),
            ("http://localhost:80@example.org", false),
            ("http://127.0.0.1:x@example.org:80/", false),
            ("file:///etc/passwd", false),
            ("", false),
        ] {
            assert_eq!(is_protected(address), is_so, "{address}");
        }
        for (address, is_so) in [
            ("https://stoa.example.org", true),
            ("http://localhost:7070", true),
            ("http://[::1]:7070", true),
            ("http://stoa.example.org", false),
            ("https://stoa.example.org/", false),
            ("https://stoa.example.org/x", false),
            ("https://ada@stoa.example.org", false),
            ("https://stoa.example.org?x", false),
            ("https://", false),
            ("https://a b", false),
        ] {
            assert_eq!(is_origin(address), is_so, "{address}");
        }
        for (issuer, address, may) in [
            ("https://id.example.org", "https://keys.example.org/jwks", true),
            ("https://id.example.org", "http://127.0.0.1:7070/jwks", false),
            ("https://id.example.org", "http://keys.example.org/jwks", false),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000/jwks", true),
            ("http://127.0.0.1:3000", "http://keys.example.org/jwks", false),
            ("http://127.0.0.1:3000", "file:///etc/passwd", false),
        ] {
            assert_eq!(may_name(issuer, address), may, "{issuer} {address}");
        }
        assert_eq!(form(&[("a", "b c&d"), ("e", "/")]), "a=b%20c%26d&e=%2F");
    }
}
