//! The TLS handshake.
//!
//! Lives here: the shared configuration, choosing the certificate by name, what the connection was made for.
//! Does not live here: certificates themselves (`certs`).
//! Invariant: a new table changes which certificate the next handshake gets; it touches no connection.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certs::{Authority, Given};
use crate::clock::Watch;
use crate::route::Index;

/// Chooses certificates; shared by all threads. Its lock is taken per handshake, never per request.
#[derive(Debug)]
pub(crate) struct Resolver {
    authority: Authority,
    current: RwLock<Arc<Chosen>>,
}

/// What a table says about certificates.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    pub(crate) given: Given,
    pub(crate) index: Arc<Index>,
}

impl Resolver {
    pub(crate) fn new(authority: Authority) -> Arc<Resolver> {
        Arc::new(Resolver {
            authority,
            current: RwLock::default(),
        })
    }

    pub(crate) fn publish(&self, chosen: Chosen) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(chosen);
    }

    /// What the next handshake goes by.
    pub(crate) fn current(&self) -> Arc<Chosen> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current();
        let name = hello.server_name().map(str::to_ascii_lowercase);
        if let Some((key, _)) = name.as_deref().and_then(|name| current.given.find(name)) {
            return Some(key);
        }
        // Only for hosts that are routed: a client must not make us sign, and remember, names without number.
        let known = name.as_deref().filter(|name| current.index.knows(name));
        match self.authority.leaf(known) {
            Ok(key) => Some(key),
            Err(cause) => {
                tracing::warn!(host = name, error = %cause, "no certificate for this host");
                None
            }
        }
    }
}

/// The configuration of all threads: sessions can be resumed on any of them.
pub(crate) fn config(resolver: Arc<Resolver>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// What a TLS connection was made for.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The name the client asked for, if any.
    name: Option<Box<str>>,
    /// All hosts of the certificate it was shown.
    hosts: Option<Arc<[String]>>,
}

impl Identity {
    /// Whether requests for the host belong on this connection.
    pub(crate) fn covers(&self, host: &str) -> bool {
        let Some(name) = self.name.as_deref() else {
            return true;
        };
        name == host
            || self.hosts.iter().flat_map(|hosts| hosts.iter()).any(|pattern| {
                match pattern.strip_prefix('*') {
                    Some(suffix) => host
                        .strip_suffix(suffix)
                        .is_some_and(|label| !label.is_empty() && !label.contains('.')),
                    None => pattern == host,
                }
            })
    }
}

/// A connection after its handshake.
pub(crate) struct Secured {
    pub(crate) stream: Box<TlsStream<TcpStream>>,
    pub(crate) identity: Identity,
    /// Negotiated HTTP/2.
    pub(crate) is_http2: bool,
}

/// Performs the handshake; the watch limits it.
pub(crate) async fn accept(
    config: Arc<ServerConfig>,
    resolver: &Resolver,
    stream: TcpStream,
    watch: &Watch,
) -> io::Result<Secured> {
    let mut handshake = pin!(TlsAcceptor::from(config).accept(stream));
    let stream = poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Pending => {
            watch.check(cx)?;
            Poll::Pending
        }
        ready @ Poll::Ready(_) => ready,
    })
    .await?;
    let session = stream.get_ref().1;
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let name: Option<Box<str>> = session.server_name().map(|n| n.to_ascii_lowercase().into());
    let hosts = name
        .as_deref()
        .and_then(|name| resolver.current().given.find(name))
        .map(|(_, hosts)| hosts);
    Ok(Secured {
        identity: Identity { name, hosts },
        is_http2,
        stream: Box::new(stream),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_covers_the_hosts_of_its_certificate() {
        let given = Identity {
            name: Some("a.example".into()),
            hosts: Some(["a.example".to_owned(), "*.b.example".to_owned()].into()),
        };
        for (host, covered) in [
            ("a.example", true),
            ("x.b.example", true),
            ("y.x.b.example", false),
            ("b.example", false),
            (".b.example", false),
            ("c.example", false),
        ] {
            assert_eq!(given.covers(host), covered, "{host}");
        }
        assert!(
            Identity {
                name: None,
                hosts: None
            }
            .covers("any")
        );
        assert!(
            !Identity {
                name: Some("a".into()),
                hosts: None
            }
            .covers("b")
        );
    }
}
