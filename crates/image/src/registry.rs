//! Talking to a registry: requests, redirects by hand, signing in.
//!
//! Lives here: one registry's HTTP client and its rules (N26, N27).
//! Does not live here: what is fetched or sent (`pull`, `push`).
//! Invariant: credentials and tokens go to the registry itself and to the token hosts allowed for it, nowhere else.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;
use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, SendBody};

use crate::address::{Checked, Home, Refused, Whose};
use crate::error::{ImageError, Result};
use crate::reference::Reference;
use crate::store::{locked, read_bounded};
use crate::unpack::Quota;

/// A registry needs one; two are seen with content networks.
const REDIRECT_LIMIT: u32 = 5;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
const TOKEN_ANSWER_LIMIT: u64 = 1 << 20;
/// Registries whose sign-in host is another by design.
const TOKEN_HOSTS: [(&str, &str); 1] = [("registry-1.docker.io", "auth.docker.io")];

/// A name and its password or token, for one registry.
#[derive(Clone)]
pub struct Credentials {
    /// Name.
    pub user: String,
    /// Password or access token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, hidden)", self.user)
    }
}

/// When a pull asks the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Only if nothing is known under this reference: what was pulled stays what it was.
    IfAbsent,
    /// Always; the name then moves to what the registry has now.
    Always,
}

/// Where a registry may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Also on this machine or in its private networks. For the operator.
    Anywhere,
    /// On a public address only. For tenants.
    PublicOnly,
}

/// What a pull or push may do.
#[derive(Clone, Debug)]
pub struct PullPolicy {
    /// When the registry is asked.
    pub freshness: Freshness,
    /// Where it may be.
    pub reach: Reach,
    /// How to sign in; anonymous when none.
    pub credentials: Option<Credentials>,
    /// Registries (`HOST` or `HOST:PORT`) that may be asked without encryption, besides those on loopback.
    pub insecure: Vec<String>,
    /// Hosts besides the registry that may see its credentials, because they are its sign-in host.
    pub token_hosts: Vec<String>,
    /// How long a transfer may stand still.
    pub patience: Duration,
    /// How often in a row something may fail.
    pub attempts: u32,
    /// Bounds on what an image unpacks to.
    pub quota: Quota,
}

impl Default for PullPolicy {
    fn default() -> Self {
        Self {
            freshness: Freshness::IfAbsent,
            reach: Reach::Anywhere,
            credentials: None,
            insecure: Vec::new(),
            token_hosts: Vec::new(),
            patience: Duration::from_secs(30),
            attempts: 4,
            quota: Quota::default(),
        }
    }
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
}

/// One repository of one registry.
pub(crate) struct Registry<'p> {
    pub(crate) host: String,
    pub(crate) repository: String,
    access: Access,
    policy: &'p PullPolicy,
    base: Uri,
    home: Agent,
    elsewhere: Agent,
    authorization: Mutex<Option<String>>,
}

/// A request's parts that differ.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ask<'a> {
    pub(crate) path: &'a str,
    pub(crate) accept: Option<&'a str>,
    pub(crate) from_byte: u64,
}

impl<'p> Registry<'p> {
    pub(crate) fn new(reference: &Reference, access: Access, policy: &'p PullPolicy) -> Result<Self> {
        let host = reference.registry_host().to_owned();
        let is_plain = is_loopback_name(&host) || policy.insecure.contains(&host);
        let scheme = if is_plain { "http" } else { "https" };
        let base = format!("{scheme}://{host}/")
            .parse()
            .map_err(|_| ImageError::BadReference {
                text: reference.to_string(),
                why: "the registry is not a host name with perhaps a port",
            })?;
        let class = Home::default();
        let whose = match policy.reach {
            Reach::Anywhere => Whose::Registry,
            Reach::PublicOnly => Whose::PublicRegistry,
        };
        Ok(Self {
            home: agent(policy, whose, &class),
            elsewhere: agent(policy, Whose::Elsewhere, &class),
            host,
            repository: reference.repository().into(),
            access,
            policy,
            base,
            authorization: Mutex::new(None),
        })
    }

    pub(crate) fn unreachable(&self, cause: impl Into<String>) -> ImageError {
        ImageError::Unreachable {
            registry: self.host.clone(),
            cause: cause.into(),
        }
    }

    /// Turns a failed request into our terms.
    fn failed(&self, url: &Uri, cause: &ureq::Error) -> ImageError {
        let text = cause.to_string();
        let is_refused = matches!(cause, ureq::Error::Io(io) if io.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Refused>));
        if is_refused && self.is_home(url) {
            return match self.policy.reach {
                Reach::Anywhere => self.unreachable("its address is not one a registry may have"),
                Reach::PublicOnly => ImageError::NotPublic {
                    registry: self.host.clone(),
                },
            };
        }
        if is_refused {
            return self.refuse_redirect(url, "its address is not public");
        }
        if self.is_home(url) && text.contains("InvalidContentType") {
            return ImageError::PlainHttpRefused {
                registry: self.host.clone(),
            };
        }
        self.unreachable(text)
    }

    fn refuse_redirect(&self, to: &Uri, why: &'static str) -> ImageError {
        let to = to
            .host()
            .unwrap_or("no host")
            .chars()
            .filter(|c| !c.is_control())
            .take(253)
            .collect();
        ImageError::RedirectRefused {
            registry: self.host.clone(),
            to,
            why,
        }
    }

    fn is_home(&self, url: &Uri) -> bool {
        url.scheme() == self.base.scheme() && url.host() == self.base.host() && port(url) == port(&self.base)
    }

    fn url(&self, path: &str) -> Result<Uri> {
        let text = format!("{}v2/{}", self.base, path);
        text.parse()
            .map_err(|_| self.unreachable("its address cannot be written"))
    }

    /// A GET within the repository, redirects followed, signed in if asked to.
    pub(crate) fn get(&self, ask: Ask<'_>) -> Result<Response<Body>> {
        let url = self.url(&format!("{}/{}", self.repository, ask.path))?;
        let answer = self.follow(&url, ask)?;
        if answer.status() != 401 {
            return Ok(answer);
        }
        self.sign_in(answer.headers())?;
        self.follow(&url, ask)
    }

    fn follow(&self, from: &Uri, ask: Ask<'_>) -> Result<Response<Body>> {
        let mut url = from.clone();
        for _hop in 0..=REDIRECT_LIMIT {
            let is_home = self.is_home(&url);
            let mut request = if is_home { &self.home } else { &self.elsewhere }.get(&url);
            if let Some(accept) = ask.accept {
                request = request.header(header::ACCEPT, accept);
            }
            if ask.from_byte > 0 {
                request = request.header(header::RANGE, format!("bytes={}-", ask.from_byte));
            }
            let authorization = locked(&self.authorization).clone();
            if let Some(authorization) = authorization.filter(|_| is_home) {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let answer = request.call().map_err(|cause| self.failed(&url, &cause))?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            url = self.location(&url, answer.headers())?;
        }
        Err(self.refuse_redirect(&url, "it is one redirect too many"))
    }

    /// Where an answer sends us, if we go there at all. Its address is checked when it is connected to.
    fn location(&self, from: &Uri, headers: &HeaderMap) -> Result<Uri> {
        let text = headers
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let absolute = if text.starts_with("//") {
            format!("{}:{text}", from.scheme_str().unwrap_or("https"))
        } else if text.starts_with('/') {
            let (scheme, authority) = (
                from.scheme_str().unwrap_or("https"),
                from.authority().map_or("", |a| a.as_str()),
            );
            format!("{scheme}://{authority}{text}")
        } else {
            text.to_owned()
        };
        let to: Uri = absolute
            .parse()
            .map_err(|_| self.refuse_redirect(from, "it cannot be read"))?;
        let Some(authority) = to.authority() else {
            return Err(self.refuse_redirect(&to, "it names no host"));
        };
        if authority.as_str().contains('@') {
            return Err(self.refuse_redirect(&to, "it carries credentials"));
        }
        match to.scheme_str() {
            Some("https") => Ok(to),
            Some("http") if self.is_home(&to) || self.base.scheme_str() == Some("http") => Ok(to),
            Some("http") => Err(self.refuse_redirect(&to, "it gives up encryption")),
            _ => Err(self.refuse_redirect(&to, "it is no web address")),
        }
    }

    fn unauthorized(&self) -> ImageError {
        ImageError::Unauthorized {
            registry: self.host.clone(),
            repository: self.repository.clone(),
        }
    }

    /// Answers the registry's challenge; what comes of it is used from now on.
    fn sign_in(&self, headers: &HeaderMap) -> Result<()> {
        let challenge = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let challenges: Vec<Challenge> = challenge.filter_map(Challenge::read).collect();
        let authorization = if let Some(bearer) = challenges
            .iter()
            .find(|c| c.scheme.eq_ignore_ascii_case("bearer"))
        {
            format!("Bearer {}", self.token(bearer)?)
        } else if challenges.iter().any(|c| c.scheme.eq_ignore_ascii_case("basic")) {
            self.basic().ok_or_else(|| self.unauthorized())?
        } else {
            return Err(self.unauthorized());
        };
        let mut present = locked(&self.authorization);
        // Signed in already and still not let in: asking again would go on for ever.
        if self.access == Access::Pull && present.as_ref() == Some(&authorization) {
            return Err(self.unauthorized());
        }
        *present = Some(authorization);
        Ok(())
    }

    fn basic(&self) -> Option<String> {
        let credentials = self.policy.credentials.as_ref()?;
        let pair = format!("{}:{}", credentials.user, credentials.password);
        Some(format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(pair)
        ))
    }

    fn token(&self, challenge: &Challenge) -> Result<String> {
        let realm = challenge.value("realm").unwrap_or_default();
        let scope = match self.access {
            Access::Pull => format!("repository:{}:pull", self.repository),
            Access::Push => format!("repository:{}:pull,push", self.repository),
        };
        let mut address = format!(
            "{realm}{}scope={}",
            if realm.contains('?') { '&' } else { '?' },
            escaped(&scope)
        );
        if let Some(service) = challenge.value("service") {
            address = format!("{address}&service={}", escaped(service));
        }
        // The realm is read by the rules for redirects: it, too, is a place the registry sends us to.
        let mut headers = HeaderMap::new();
        let value = address.parse().map_err(|_| self.unauthorized())?;
        headers.insert(header::LOCATION, value);
        let url = self.location(&self.base, &headers)?;
        let is_home = self.is_home(&url);
        let mut request = if is_home { &self.home } else { &self.elsewhere }.get(&url);
        if let Some(basic) = self.basic() {
            if !is_home && !self.may_see_credentials(&url) {
                let to = url.host().unwrap_or_default().to_owned();
                return Err(ImageError::CredentialsWouldLeave {
                    registry: self.host.clone(),
                    to,
                });
            }
            request = request.header(header::AUTHORIZATION, basic);
        }
        let mut answer = request.call().map_err(|cause| self.failed(&url, &cause))?;
        if answer.status() != 200 {
            return Err(self.unauthorized());
        }
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let body = read_bounded(
            &mut answer.body_mut().as_reader(),
            "the sign-in answer",
            TOKEN_ANSWER_LIMIT,
        )?;
        let token: Token = crate::oci::read("the sign-in answer", &body)?;
        token
            .token
            .or(token.access_token)
            .ok_or_else(|| self.unauthorized())
    }

    /// Only over TLS, and only hosts known or allowed to belong to this registry.
    fn may_see_credentials(&self, url: &Uri) -> bool {
        let host = url.host().unwrap_or_default();
        let is_known = TOKEN_HOSTS
            .iter()
            .any(|(registry, token)| *registry == self.host && *token == host);
        let authority = url.authority().map_or("", |authority| authority.as_str());
        let is_allowed = self.policy.token_hosts.iter().any(|allowed| allowed == authority);
        url.scheme_str() == Some("https") && is_known || is_allowed
    }

    /// The answer's meaning where only success is of use.
    pub(crate) fn expect(&self, answer: Response<Body>, asked: &str, wanted: &str) -> Result<Response<Body>> {
        match answer.status().as_u16() {
            200..=299 => Ok(answer),
            401 | 403 => Err(self.unauthorized()),
            404 => Err(ImageError::Absent {
                registry: self.host.clone(),
                repository: self.repository.clone(),
                reference: if wanted.contains(':') {
                    format!("@{wanted}")
                } else {
                    format!(":{wanted}")
                },
            }),
            status => Err(ImageError::Registry {
                registry: self.host.clone(),
                status,
                asked: asked.into(),
            }),
        }
    }

    /// A request that changes something: only ever to the registry itself.
    pub(crate) fn send(
        &self,
        method: Method,
        url: &Uri,
        kind: &str,
        body: &dyn Fn() -> Result<SendBody<'static>>,
    ) -> Result<Response<Body>> {
        if !self.is_home(url) {
            return Err(self.refuse_redirect(url, "uploads go to the registry only"));
        }
        for _attempt in 0..2 {
            let request = match method {
                Method::Post => self.home.post(url),
                Method::Put => self.home.put(url),
            };
            let mut request = request.header(header::CONTENT_TYPE, kind);
            if let Some(authorization) = locked(&self.authorization).clone() {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let answer = request.send(body()?).map_err(|cause| self.failed(url, &cause))?;
            if answer.status() != 401 {
                return Ok(answer);
            }
            self.sign_in(answer.headers())?;
        }
        Err(self.unauthorized())
    }

    pub(crate) fn within(&self, path: &str) -> Result<Uri> {
        self.url(&format!("{}/{path}", self.repository))
    }

    pub(crate) fn upload_place(&self, asked: &Uri, answer: &Response<Body>) -> Result<Uri> {
        self.location(asked, answer.headers())
    }
}

/// How something is sent.
#[derive(Clone, Copy)]
pub(crate) enum Method {
    Post,
    Put,
}

fn agent(policy: &PullPolicy, whose: Whose, home: &Home) -> Agent {
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
        .timeout_per_read(Some(policy.patience))
        .timeout_per_write(Some(policy.patience))
        .tls_config(TlsConfig::builder().root_certs(roots()).build())
        .build();
    Agent::with_parts(
        config,
        DefaultConnector::default(),
        Checked {
            whose,
            home: Arc::clone(home),
        },
    )
}

/// What this machine trusts; where it says nothing, the roots compiled in.
fn roots() -> RootCerts {
    let path =
        std::env::var_os("SSL_CERT_FILE").unwrap_or_else(|| "/etc/ssl/certs/ca-certificates.crt".into());
    let pem = std::fs::read(path).unwrap_or_default();
    let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            Ok(_) | Err(_) => None,
        })
        .collect();
    if certificates.is_empty() {
        RootCerts::WebPki
    } else {
        RootCerts::Specific(Arc::new(certificates))
    }
}

/// Names that can only mean this machine; a name that merely resolves to it today is not among them.
fn is_loopback_name(host: &str) -> bool {
    let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or(host),
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn port(url: &Uri) -> u16 {
    url.port_u16()
        .unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 })
}

/// Percent-encodes all but letters, digits and what reads well in a scope.
pub(crate) fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/,".contains(&byte);
    text.bytes()
        .map(|byte| {
            if is_plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// `Scheme key="value",key=value`
struct Challenge {
    scheme: String,
    values: Vec<(String, String)>,
}

impl Challenge {
    fn read(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut values = Vec::new();
        while let Some((key, after)) = rest.split_once('=') {
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(',').unwrap_or(after.len())),
            };
            values.push((key.trim_matches([' ', ',']).to_lowercase(), value.to_owned()));
            rest = after;
        }
        (!scheme.is_empty()).then(|| Self {
            scheme: scheme.into(),
            values,
        })
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.values
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_commas_inside_quotes() {
        let challenge =
            Challenge::read(r#"Bearer realm="https://a.example/t",service=x,scope="repository:a:pull,push""#)
                .unwrap();
        assert_eq!(challenge.value("realm"), Some("https://a.example/t"));
        assert_eq!(challenge.value("service"), Some("x"));
        assert_eq!(challenge.value("scope"), Some("repository:a:pull,push"));
        assert!(Challenge::read("").is_none());
        assert!(Challenge::read("Bearer realm=\"open").is_none());
        assert_eq!(Challenge::read("Basic").unwrap().scheme, "Basic");
    }

    #[test]
    fn only_names_that_cannot_be_elsewhere_are_loopback() {
        for yes in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.1.2.3",
            "[::1]:5000",
        ] {
            assert!(is_loopback_name(yes), "{yes}");
        }
        for no in [
            "localhost.example.com",
            "127.0.0.1.example.com:1",
            "[::2]:1",
            "10.0.0.1",
        ] {
            assert!(!is_loopback_name(no), "{no}");
        }
    }

    #[test]
    fn what_goes_into_an_address_is_escaped() {
        assert_eq!(escaped("repository:a/b:pull,push"), "repository:a/b:pull,push");
        assert_eq!(escaped("a b&c=d#é"), "a%20b%26c%3Dd%23%C3%A9");
    }
}
