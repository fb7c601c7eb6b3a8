//! Objects in a bucket of a server that speaks S3.
//!
//! Lives here: the requests, addressed by path, and what their answers mean. Does not live here: signatures (`sign`).
//! Invariant: what is sent is signed with its hash, so a server that received something else refuses it; redirects are
//! not followed, for a signature is for one server.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use model::Timestamp;
use ureq::http::{Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body};
use zeroize::Zeroizing;

use crate::key::sha256;
use crate::listing::{self, Page};
use crate::sign::{Request, Signer};
use crate::{BackupError, Object};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A server may write what it got to its disks before it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a transfer may stand still.
const PATIENCE: Duration = Duration::from_secs(30);
/// A page of a list has a thousand entries.
const ANSWER_BYTES: u64 = 4 << 20;
/// More pages than that is a server that goes in circles.
const PAGES: usize = 10_000;

/// What opens a bucket.
#[derive(Clone)]
pub struct Access {
    /// Public name of the secret key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: Zeroizing<Vec<u8>>,
}

/// A bucket, or what lies under a prefix of it.
#[derive(Clone)]
pub struct Bucket {
    /// Scheme, host and port, without a slash at the end.
    endpoint: String,
    host: String,
    bucket: String,
    region: String,
    /// Empty, or it ends with a slash.
    prefix: String,
    access: Access,
    agent: Agent,
}

impl Bucket {
    /// A bucket at an endpoint. Nothing is asked of it yet.
    ///
    /// # Errors
    /// `Unfit` for an address or a name that none can have.
    pub fn new(
        endpoint: &str,
        bucket: &str,
        region: &str,
        prefix: &str,
        access: Access,
    ) -> Result<Self, BackupError> {
        let unfit = |what: &str| BackupError::Unfit {
            what: what.to_owned(),
        };
        let uri: Uri = endpoint
            .parse()
            .map_err(|_| unfit("write the endpoint as https://HOST or https://HOST:PORT"))?;
        let (scheme, authority) = match (uri.scheme_str(), uri.authority()) {
            (Some(scheme @ ("http" | "https")), Some(authority)) if !authority.as_str().contains('@') => {
                (scheme, authority)
            }
            _ => return Err(unfit("write the endpoint as https://HOST or https://HOST:PORT")),
        };
        if !uri.path().trim_matches('/').is_empty() || uri.query().is_some() {
            return Err(unfit(
                "the endpoint has no path; name the bucket and the prefix by themselves",
            ));
        }
        // As it goes into the header `Host`, which is signed.
        let standard = if scheme == "http" { 80 } else { 443 };
        let host = match authority.port_u16() {
            Some(port) if port != standard => format!("{}:{port}", authority.host()),
            Some(_) | None => authority.host().to_owned(),
        };
        let is_plain = |text: &str, more: &[u8]| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        if !is_plain(bucket, b".-_") || bucket.len() > 255 {
            return Err(unfit("the name of a bucket has letters, digits, dots, dashes"));
        }
        if !is_plain(region, b"-_") {
            return Err(unfit("the name of a region has letters, digits and dashes"));
        }
        let prefix = prefix.trim_matches('/');
        let is_odd = |part: &str| matches!(part, "" | "." | "..");
        if !prefix.is_empty() && (!is_plain(prefix, b".-_/") || prefix.split('/').any(is_odd)) {
            return Err(unfit(
                "a prefix has letters, digits, dots, dashes, and slashes between its parts",
            ));
        }
        let access_is_plain = access
            .access_key
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b',' && b != b'/');
        if access.access_key.is_empty() || !access_is_plain || access.secret_key.is_empty() {
            return Err(unfit("a bucket is opened by an access key and its secret key"));
        }
        Ok(Self {
            endpoint: format!("{scheme}://{host}"),
            host,
            bucket: bucket.to_owned(),
            region: region.to_owned(),
            prefix: match prefix {
                "" => String::new(),
                prefix => format!("{prefix}/"),
            },
            access,
            agent: agent(),
        })
    }

    pub(crate) fn put(&self, name: &str, content: &[u8]) -> Result<(), BackupError> {
        self.ask("PUT", Some(name), &[], content, "put an object")
            .map(drop)
    }

    pub(crate) fn get(&self, name: &str) -> Result<Box<dyn Read>, BackupError> {
        let answer = self.ask("GET", Some(name), &[], &[], "give an object")?;
        Ok(Box::new(answer.into_body().into_reader()))
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), BackupError> {
        match self.ask("DELETE", Some(name), &[], &[], "remove an object") {
            Ok(_) | Err(BackupError::Missing { .. }) => Ok(()),
            Err(cause) => Err(cause),
        }
    }

    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<Object>, BackupError> {
        let mut all = Vec::new();
        self.pages(prefix, None, |page| all.extend(page.objects))?;
        for object in &mut all {
            object.name = self.own(&object.name)?.to_owned();
        }
        Ok(all)
    }

    pub(crate) fn folders(&self, prefix: &str) -> Result<Vec<String>, BackupError> {
        let mut all = Vec::new();
        self.pages(prefix, Some("/"), |page| all.extend(page.folders))?;
        let last = |name: &String| {
            let own = self.own(name)?.strip_prefix(prefix).unwrap_or_default();
            Ok(own.trim_end_matches('/').to_owned())
        };
        all.iter().map(last).collect()
    }

    /// A name without the prefix under which everything of ours lies.
    fn own<'n>(&self, name: &'n str) -> Result<&'n str, BackupError> {
        name.strip_prefix(self.prefix.as_str())
            .ok_or_else(|| self.unreachable("it lists what was not asked for"))
    }

    fn pages(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        mut take: impl FnMut(Page),
    ) -> Result<(), BackupError> {
        let prefix = format!("{}{prefix}", self.prefix);
        let mut next: Option<String> = None;
        for _page in 0..PAGES {
            let mut query = vec![("list-type", "2"), ("prefix", prefix.as_str())];
            query.extend(delimiter.map(|delimiter| ("delimiter", delimiter)));
            query.extend(next.as_deref().map(|next| ("continuation-token", next)));
            let mut answer = self.ask("GET", None, &query, &[], "list objects")?;
            let text = text_of(&mut answer).map_err(|why| self.unreachable(why))?;
            let mut page =
                listing::page(&text).ok_or_else(|| self.unreachable("its list is not understood"))?;
            next = page.next.take();
            take(page);
            if next.is_none() {
                return Ok(());
            }
        }
        Err(self.unreachable("its list has no end"))
    }

    fn unreachable(&self, why: impl Into<String>) -> BackupError {
        BackupError::Unreachable {
            target: self.to_string(),
            why: why.into(),
        }
    }

    fn ask(
        &self,
        method: &str,
        name: Option<&str>,
        query: &[(&str, &str)],
        content: &[u8],
        doing: &str,
    ) -> Result<Response<Body>, BackupError> {
        let path = match name {
            Some(name) => format!("/{}/{}{name}", self.bucket, self.prefix),
            None => format!("/{}", self.bucket),
        };
        let time = compact(Timestamp::now());
        let hash = sha256(content);
        let request = Request {
            method,
            host: &self.host,
            path: &path,
            query,
            content: &hash,
            time: &time,
        };
        let signer = Signer {
            access_key: &self.access.access_key,
            secret_key: &self.access.secret_key,
            region: &self.region,
        };
        let query = request.query_text();
        let mark = if query.is_empty() { "" } else { "?" };
        let signed = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}{mark}{query}", self.endpoint))
            .header("x-amz-date", &time)
            .header("x-amz-content-sha256", &hash)
            .header("authorization", request.authorization(&signer));
        let sent = match method {
            "PUT" => signed.body(content).map(|request| self.agent.run(request)),
            _ => signed.body(()).map(|request| self.agent.run(request)),
        };
        let sent = sent.map_err(|cause| self.unreachable(cause.to_string()))?;
        let mut answer = sent.map_err(|cause| self.unreachable(cause.to_string()))?;
        let status = answer.status().as_u16();
        if answer.status().is_success() {
            return Ok(answer);
        }
        let said = text_of(&mut answer).ok().and_then(|text| listing::refusal(&text));
        let is_missing = status == 404 && said.as_ref().is_none_or(|said| said.starts_with("NoSuchKey"));
        match name {
            Some(name) if is_missing => Err(BackupError::Missing {
                object: name.to_owned(),
            }),
            Some(_) | None => Err(BackupError::Refused {
                target: self.to_string(),
                doing: doing.to_owned(),
                why: match said {
                    Some(said) => format!("{said} (HTTP {status})"),
                    None => format!("HTTP {status}"),
                },
            }),
        }
    }
}

/// The body of an answer that is a text.
fn text_of(answer: &mut Response<Body>) -> Result<String, String> {
    let mut text = String::new();
    let read = answer
        .body_mut()
        .as_reader()
        .take(ANSWER_BYTES)
        .read_to_string(&mut text);
    read.map(|_| text).map_err(|cause| cause.to_string())
}

/// `20130524T000000Z`.
fn compact(time: Timestamp) -> String {
    let text = time.to_string();
    let whole = text.split(['.', 'Z']).next().unwrap_or_default();
    format!("{}Z", whole.replace(['-', ':'], ""))
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .accept_encoding("identity")
        .user_agent("stoa")
        .timeout_resolve(Some(CONNECT_LIMIT))
        .timeout_connect(Some(CONNECT_LIMIT))
        .timeout_recv_response(Some(ANSWER_LIMIT))
        .timeout_per_read(Some(PATIENCE))
        .timeout_per_write(Some(PATIENCE))
        .tls_config(TlsConfig::builder().root_certs(roots()).build())
        .build();
    config.new_agent()
}

/// The machine's own roots, so that an operator can trust a server of his own; else those compiled in.
fn roots() -> RootCerts {
    let file =
        std::env::var_os("SSL_CERT_FILE").unwrap_or_else(|| "/etc/ssl/certs/ca-certificates.crt".into());
    let pem = std::fs::read(file).unwrap_or_default();
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        Ok(_) | Err(_) => None,
    };
    let trusted: Vec<_> = ureq::tls::parse_pem(&pem).filter_map(certificate).collect();
    match trusted.is_empty() {
        true => RootCerts::WebPki,
        false => RootCerts::Specific(Arc::new(trusted)),
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.endpoint, self.bucket, self.prefix)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_or_refused_with_what_is_wrong() {
        let access = || Access {
            access_key: "AKIA".to_owned(),
            secret_key: Zeroizing::new(b"secret".to_vec()),
        };
        let made = |endpoint: &str, bucket: &str, prefix: &str| {
            Bucket::new(endpoint, bucket, "us-east-1", prefix, access()).map(|bucket| bucket.to_string())
        };
        for (endpoint, prefix, expected) in [
            ("https://s3.example.org", "", "https://s3.example.org/b/"),
            (
                "https://s3.example.org:443/",
                "/a/b/",
                "https://s3.example.org/b/a/b/",
            ),
            ("http://127.0.0.1:9000", "a", "http://127.0.0.1:9000/b/a/"),
        ] {
            assert_eq!(made(endpoint, "b", prefix).expect(endpoint), expected);
        }
        for (endpoint, bucket, prefix) in [
            ("s3.example.org", "b", ""),
            ("ftp://s3.example.org", "b", ""),
            ("https://user@s3.example.org", "b", ""),
            ("https://s3.example.org/b", "b", ""),
            ("https://s3.example.org", "", ""),
            ("https://s3.example.org", "a/b", ""),
            ("https://s3.example.org", "b", "a/../b"),
            ("https://s3.example.org", "b", "a b"),
        ] {
            made(endpoint, bucket, prefix).expect_err(&format!("{endpoint} {bucket} {prefix}"));
        }
    }

    #[test]
    fn times_are_written_as_signatures_have_them() {
        assert_eq!(compact(Timestamp::from_ms(1_369_353_600_123)), "20130524T000000Z");
    }
}
