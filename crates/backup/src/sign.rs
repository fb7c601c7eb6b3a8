//! AWS Signature Version 4, of whole requests in one piece.
//!
//! Lives here: the canonical request and its signature. Does not live here: sending (`bucket`).
//! The names in our paths need no escaping; only values of a query do.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::key::{hex, sha256};

/// A request as it is signed.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// As in the header `Host`.
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    /// In any order, not escaped.
    pub(crate) query: &'a [(&'a str, &'a str)],
    /// SHA-256 of the body, hexadecimal.
    pub(crate) content: &'a str,
    /// `20130524T000000Z`.
    pub(crate) time: &'a str,
}

/// Who signs, for where.
pub(crate) struct Signer<'a> {
    pub(crate) access_key: &'a str,
    pub(crate) secret_key: &'a [u8],
    pub(crate) region: &'a str,
}

const HEADERS: &str = "host;x-amz-content-sha256;x-amz-date";

impl Request<'_> {
    /// The query as it is sent, in the order in which it is signed.
    pub(crate) fn query_text(&self) -> String {
        let mut pairs: Vec<(String, String)> = self
            .query
            .iter()
            .map(|(name, value)| (escaped(name), escaped(value)))
            .collect();
        pairs.sort();
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("&")
    }

    /// The header `Authorization`.
    pub(crate) fn authorization(&self, signer: &Signer<'_>) -> String {
        let Self {
            method,
            host,
            path,
            content,
            time,
            ..
        } = self;
        let query = self.query_text();
        let canonical = format!(
            "{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{content}\nx-amz-date:{time}\n\n{HEADERS}\n{content}"
        );
        let day = time.get(..8).unwrap_or_default();
        let scope = format!("{day}/{}/s3/aws4_request", signer.region);
        let text = format!(
            "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
            sha256(canonical.as_bytes())
        );
        let mut key = [b"AWS4", signer.secret_key].concat();
        for part in [day, signer.region, "s3", "aws4_request"] {
            key = mac(&key, part);
        }
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={HEADERS},Signature={}",
            signer.access_key,
            hex(&mac(&key, &text))
        )
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let one = |byte| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the S3 manual ("Authenticating Requests: Using the Authorization Header").
    #[test]
    fn the_published_examples_are_signed_as_published() {
        let signer = Signer {
            access_key: "AKIAIOSFODNN7EXAMPLE",
            secret_key: b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
        };
        let cases: [(&[(&str, &str)], &str); 2] = [
            (
                &[("lifecycle", "")],
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                &[("prefix", "J"), ("max-keys", "2")],
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ];
        for (query, signature) in cases {
            let request = Request {
                method: "GET",
                host: "examplebucket.s3.amazonaws.com",
                path: "/",
                query,
                content: &sha256(b""),
                time: "20130524T000000Z",
            };
            let found = request.authorization(&signer);
            assert!(found.ends_with(signature), "{query:?}: {found}");
        }
    }
}
