//! Addresses of a server, and connections to them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// How long a connection may take: long enough for a far network, short enough for a person.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `http://HOST:PORT`.
    Http {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// `https://HOST:PORT`.
    Https {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// `unix:PATH`: root on the host.
    Unix(PathBuf),
}

/// The text is not the address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the address of a server: write http://HOST:PORT, https://HOST or unix:/PATH")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refuse = || AddressError(text.chars().take(200).collect());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Path::new(path);
            return path
                .is_absolute()
                .then(|| Self::Unix(path.to_owned()))
                .ok_or_else(refuse);
        }
        let uri: http::Uri = text.parse().map_err(|_| refuse())?;
        let host = uri.host().ok_or_else(refuse)?.to_owned();
        // A path, a query or a user would be silently dropped otherwise.
        let is_plain = matches!(uri.path(), "" | "/") && uri.query().is_none() && !text.contains('@');
        match (uri.scheme_str(), is_plain) {
            (Some("http"), true) => Ok(Self::Http {
                host,
                port: uri.port_u16().unwrap_or(80),
            }),
            (Some("https"), true) => Ok(Self::Https {
                host,
                port: uri.port_u16().unwrap_or(443),
            }),
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { host, port } => write!(f, "http://{host}:{port}"),
            Self::Https { host, port } => write!(f, "https://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// What the `Host` header says.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Http { host, port } | Self::Https { host, port } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    /// Whether a token sent there could be read on the way.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        match self {
            Self::Http { host, .. } => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                let loopback = bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
                !loopback && host != "localhost"
            }
            Self::Https { .. } | Self::Unix(_) => false,
        }
    }
}

/// A connection of any kind.
pub(crate) enum Connection {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// Connects, within [`CONNECT_TIMEOUT`].
pub(crate) async fn connect(address: &Address, ca_file: Option<&Path>) -> std::io::Result<Connection> {
    tokio::time::timeout(CONNECT_TIMEOUT, open(address, ca_file))
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

async fn open(address: &Address, ca_file: Option<&Path>) -> std::io::Result<Connection> {
    let plain = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_owned();
    match address {
        Address::Unix(path) => Ok(Connection::Unix(UnixStream::connect(path).await?)),
        Address::Http { host, port } => {
            let stream = TcpStream::connect((plain(host), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(Connection::Tcp(stream))
        }
        Address::Https { host, port } => {
            let stream = TcpStream::connect((plain(host), *port)).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(plain(host)).map_err(std::io::Error::other)?;
            let tls = tokio_rustls::TlsConnector::from(trust(ca_file)?)
                .connect(name, stream)
                .await?;
            Ok(Connection::Tls(Box::new(tls)))
        }
    }
}

/// Where Debian and its kin keep the certificates they trust; others name theirs with `STOA_CA_FILE`.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

fn trust(ca_file: Option<&Path>) -> std::io::Result<Arc<rustls::ClientConfig>> {
    let path = ca_file.unwrap_or(Path::new(SYSTEM_CA));
    let pem = std::fs::read(path)
        .map_err(|cause| std::io::Error::new(cause.kind(), format!("{}: {cause}", path.display())))?;
    let mut roots = rustls::RootCertStore::empty();
    // Some system bundles hold certificates no verifier takes; those are passed over.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if roots.is_empty() {
        return Err(std::io::Error::other(format!(
            "{} has no usable certificate",
            path.display()
        )));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_accepted_or_refused() {
        for good in [
            "http://127.0.0.1:7070",
            "https://stoa.example.org:443",
            "unix:/run/stoa.sock",
            "http://[::1]:1",
        ] {
            assert_eq!(good.parse::<Address>().expect(good).to_string(), good);
        }
        for bad in [
            "",
            "127.0.0.1:7070",
            "ftp://x",
            "http://",
            "http://a/b",
            "http://u:p@a",
            "http://a?t=1",
            "unix:x",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_plain_http_to_another_host_is_exposed() {
        for (address, exposed) in [
            ("http://127.0.0.1:7070", false),
            ("http://[::1]:7070", false),
            ("http://localhost:7070", false),
            ("http://10.0.0.1:7070", true),
            ("https://stoa.example.org", false),
        ] {
            assert_eq!(
                address.parse::<Address>().expect(address).is_exposed(),
                exposed,
                "{address}"
            );
        }
    }
}
