//! HTTP/2 with prior knowledge and over TLS, and certificates.

use std::convert::Infallible;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use edge::table::Certificate;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::publishing::Load;
use crate::support::{
    Backend, Edge, PATIENCE, metrics, read_body, read_head, route, status, table, wait_for,
};

pub fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test)
}

/// Data frames, then trailers.
struct Parts(Vec<Frame<Bytes>>);

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = (!self.0.is_empty()).then(|| Ok(self.0.remove(0)));
        Poll::Ready(next)
    }
}

pub type Sender<B> = hyper::client::conn::http2::SendRequest<B>;

pub async fn prior_knowledge<B>(addr: SocketAddr) -> Sender<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

async fn text(response: Response<Incoming>) -> (u16, HeaderMap, String, Option<HeaderMap>) {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    (parts.status.as_u16(), parts.headers, text, trailers)
}

fn get(url: &str) -> Request<Empty<Bytes>> {
    Request::get(url).body(Empty::new()).unwrap()
}

#[test]
fn streams_pass_the_same_phases() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    edge.publish(&table(1, &[("a.example", &[&backend])]));
    run(async {
        let mut sender = prior_knowledge(edge.http).await;
        let request = Request::get("http://a.example/x?y=1")
            .header("x-forwarded-for", "6.6.6.6")
            .header("x_real_ip", "6.6.6.6")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(Empty::new())
            .unwrap();
        let (status, _, body, _) = text(sender.send_request(request).await.unwrap()).await;
        assert_eq!(status, 200);
        assert!(
            body.starts_with("b\nGET /x?y=1 HTTP/1.1\r\nhost: a.example\r\n"),
            "{body}"
        );
        assert!(
            body.contains("cookie: a=1; b=2\r\n") && !body.contains("6.6.6.6"),
            "{body}"
        );
        for (url, expected) in [
            ("http://unknown.example/", 404),
            ("http://a.example/a/%2e%2e/b", 400),
            ("http://a.example/silent", 502),
            ("http://a.example/garbage", 502),
            ("http://a.example/no-content", 204),
        ] {
            let (status, ..) = text(sender.send_request(get(url)).await.unwrap()).await;
            assert_eq!(status, expected, "{url}");
        }
        // Authority and Host name different tenants (N56).
        let request = Request::get("http://a.example/")
            .header("host", "b.example")
            .body(Empty::new())
            .unwrap();
        assert_eq!(text(sender.send_request(request).await.unwrap()).await.0, 400);
        let (_, headers, body, trailers) = text(
            sender
                .send_request(get("http://a.example/trailers"))
                .await
                .unwrap(),
        )
        .await;
        assert_eq!(
            (body.as_str(), trailers.unwrap()["grpc-status"].as_bytes()),
            ("hello", &b"7"[..])
        );
        assert!(headers.get("transfer-encoding").is_none());
        let (_, _, body, _) = text(
            sender
                .send_request(get("http://a.example/big?n=3000000"))
                .await
                .unwrap(),
        )
        .await;
        assert_eq!(body.len(), 3_000_000);
        // The instance broke off: the stream is reset, not ended as if whole.
        let whole = match sender.send_request(get("http://a.example/short")).await {
            Ok(response) => response.into_body().collect().await.is_ok(),
            Err(_) => false,
        };
        assert!(!whole);
    });
}

#[test]
fn bodies_go_up_with_and_without_a_length() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    edge.publish(&table(1, &[("a", &[&backend])]));
    run(async {
        let mut sender = prior_knowledge(edge.http).await;
        let large = "z".repeat(1_000_000);
        let request = Request::post("http://a/")
            .body(Full::new(Bytes::from(large.clone())))
            .unwrap();
        let (_, _, body, _) = text(sender.send_request(request).await.unwrap()).await;
        assert!(body.contains("content-length: 1000000\r\n") && body.ends_with(&large));

        let mut sender = prior_knowledge(edge.http).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        trailers.insert("x-forwarded-for", "6.6.6.6".parse().unwrap());
        let frames = ["hello ", "world"]
            .map(|t| Frame::data(Bytes::from(t)))
            .into_iter();
        let body = Parts(frames.chain([Frame::trailers(trailers)]).collect());
        let (_, _, body, _) = text(
            sender
                .send_request(Request::post("http://a/").body(body).unwrap())
                .await
                .unwrap(),
        )
        .await;
        assert!(
            body.contains("transfer-encoding: chunked\r\n") && body.ends_with("hello worldx-sum: 1\r\n"),
            "{body}"
        );
    });
}

#[test]
fn answers_stream_and_requests_in_flight_are_counted() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    edge.publish(&table(1, &[("a", &[&backend])]));
    run(async {
        let mut sender = prior_knowledge(edge.http).await;
        let mut body = sender
            .send_request(get("http://a/stream"))
            .await
            .unwrap()
            .into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(&first[..], b"first\n");
        assert_eq!(edge.client().in_flight(&["b"]).unwrap()["b"].requests, 1);
        backend.gate.open();
        assert_eq!(&body.collect().await.unwrap().to_bytes()[..], b"last\n");
        wait_for("the end of the stream", || {
            (edge.client().in_flight(&["b"]).unwrap()["b"].requests == 0).then_some(())
        });
        // A client that goes away takes its request with it.
        let response = sender.send_request(get("http://a/big?n=50000000")).await.unwrap();
        drop(response);
        drop(sender);
    });
    wait_for("the end of the abandoned stream", || {
        (edge.client().in_flight(&["b"]).unwrap()["b"].requests == 0).then_some(())
    });
}

#[test]
fn a_new_table_cuts_no_stream() {
    let (blue, green) = (Backend::start("blue"), Backend::start("green"));
    let edge = Edge::start();
    edge.publish(&table(1, &[("a", &[&blue]), ("ws", &[])]));
    let load = Load::start(edge.http, 1, 0, 0);
    run(async {
        let mut sender = prior_knowledge(edge.http).await;
        for generation in 2..60 {
            let backend = if generation % 2 == 0 { &green } else { &blue };
            let first = sender.send_request(get("http://a/"));
            edge.publish(&table(generation, &[("a", &[backend]), ("ws", &[])]));
            assert_eq!(text(first.await.unwrap()).await.0, 200);
            let (status, _, body, _) = text(sender.send_request(get("http://a/")).await.unwrap()).await;
            assert_eq!((status, body.lines().next()), (200, Some(backend.name.as_str())));
        }
    });
    load.finish();
    assert!(blue.connections.load(Ordering::SeqCst) > 0);
}

/// Resolves when the server has ended the connection.
async fn ended(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut block = [0; 4096];
    let end = async { while let Ok(1..) = tokio::io::AsyncReadExt::read(&mut stream, &mut block).await {} };
    tokio::time::timeout(PATIENCE, end)
        .await
        .expect("the connection is still open");
}

#[test]
fn connections_without_a_stream_are_let_go() {
    let backend = Backend::start("b");
    let edge = Edge::with(|o| {
        o.timeouts.head = Duration::from_secs(1);
        o.timeouts.keep_alive = Duration::from_secs(1);
    });
    edge.publish(&table(1, &[("app.localhost", &[&backend])]));
    run(async {
        use tokio::io::AsyncWriteExt;
        let connect = || async { tokio::net::TcpStream::connect(edge.http).await.unwrap() };
        // Half of the preface; the whole of it and nothing else; a TLS handshake.
        let mut half = connect().await;
        half.write_all(b"PRI * HTTP/2.0\r\n\r\n").await.unwrap();
        let mut greeted = connect().await;
        greeted
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        let connector = tokio_rustls::TlsConnector::from(client_config(&edge, b"h2", &[]));
        let stream = tokio::net::TcpStream::connect(edge.https).await.unwrap();
        let name = ServerName::try_from("app.localhost").unwrap();
        let secured = connector.connect(name, stream).await.unwrap();
        // A client that answers every ping, and never asks; one that has asked.
        let (_silent, silent) = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(
            TokioExecutor::new(),
            TokioIo::new(connect().await),
        )
        .await
        .unwrap();
        let (mut sender, served) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(connect().await))
                .await
                .unwrap();
        let served = tokio::spawn(served);
        let request = sender.send_request(get("http://app.localhost/"));
        assert_eq!(text(request.await.unwrap()).await.0, 200);
        tokio::join!(ended(half), ended(greeted), ended(secured), async {
            let clients = async { tokio::join!(silent, served) };
            let _however = tokio::time::timeout(PATIENCE, clients).await.expect("still open");
        });
    });
    wait_for("the end of all connections", || {
        (edge.client().status().unwrap().connections == 0).then_some(())
    });
}

#[test]
fn streams_that_stand_still_are_reset() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    let mut published = table(1, &[("a", &[&backend])]);
    published.services[0].idle_timeout_ms = 1_000;
    edge.publish(&published);
    run(async {
        let reset = async |mut body: Incoming| {
            let end = async { while let Some(Ok(_)) = body.frame().await {} };
            tokio::time::timeout(PATIENCE, end)
                .await
                .expect("the stream is still open");
        };
        // The instance began its answer, and hangs.
        let mut sender = prior_knowledge(edge.http).await;
        let hangs = sender.send_request(get("http://a/stream")).await.unwrap();
        reset(hangs.into_body()).await;
        // The client answers pings but makes no room for the answer.
        let stream = tokio::net::TcpStream::connect(edge.http).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(0)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let stuck = sender.send_request(get("http://a/big?n=1000000")).await.unwrap();
        reset(stuck.into_body()).await;
        // Only the stream ended, not the connection.
        assert_eq!(
            text(sender.send_request(get("http://a/no-content")).await.unwrap())
                .await
                .0,
            204
        );
    });
    wait_for("the instance to be free", || {
        (edge.client().in_flight(&["b"]).unwrap()["b"].requests == 0).then_some(())
    });
    assert_eq!(metrics(&edge)["a"].cut, 2);
    backend.gate.open();
}

/// A TLS client that trusts the edge's local authority, and the given certificates.
fn client_config(edge: &Edge, alpn: &[u8], also: &[CertificateDer<'static>]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority = edge.dir.path().join("state/certificates/local-ca.crt");
    roots
        .add(CertificateDer::from_pem_file(authority).unwrap())
        .unwrap();
    also.iter().for_each(|c| roots.add(c.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

type Secure = BufReader<rustls::StreamOwned<ClientConnection, TcpStream>>;

fn secure(edge: &Edge, config: Arc<ClientConfig>, name: &str) -> Secure {
    let connection = ClientConnection::new(config, ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let stream = TcpStream::connect(edge.https).unwrap();
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    BufReader::new(rustls::StreamOwned::new(connection, stream))
}

fn ask(wire: &mut Secure, host: &str, path: &str) -> std::io::Result<(u16, String)> {
    wire.get_mut()
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let head = read_head(wire)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let body = read_body(wire, &head)?;
    Ok((status(&head), body))
}

#[test]
fn tls_serves_both_protocols_with_a_certificate_for_each_host() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    let mut published = table(1, &[("app.localhost", &[&backend])]);
    published
        .routes
        .push(route("other.example", "/", "app.localhost"));
    edge.publish(&published);
    let config = client_config(&edge, b"http/1.1", &[]);
    for host in ["app.localhost", "other.example"] {
        let mut wire = secure(&edge, config.clone(), host);
        let (status, body) = ask(&mut wire, host, "/").unwrap();
        assert_eq!(status, 200);
        assert!(
            body.contains("x-forwarded-proto: https\r\n") && body.contains("x-forwarded-port: 443\r\n"),
            "{body}"
        );
        assert_eq!(ask(&mut wire, host, "/big?n=1000000").unwrap().1.len(), 1_000_000);
    }
    // A connection made for one host is not used for another.
    let mut wire = secure(&edge, config.clone(), "app.localhost");
    assert_eq!(ask(&mut wire, "other.example", "/").unwrap().0, 421);
    assert_eq!(ask(&mut wire, "app.localhost", "/").unwrap().0, 200);
    // Hosts that are not routed get no certificate of their own.
    assert!(
        ask(
            &mut secure(&edge, config, "made-up.example"),
            "made-up.example",
            "/"
        )
        .is_err()
    );

    run(async {
        let connector = tokio_rustls::TlsConnector::from(client_config(&edge, b"h2", &[]));
        let stream = tokio::net::TcpStream::connect(edge.https).await.unwrap();
        let name = ServerName::try_from("app.localhost").unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let (status, _, body, _) =
            text(sender.send_request(get("https://app.localhost/")).await.unwrap()).await;
        assert!(
            status == 200 && body.contains("x-forwarded-proto: https\r\n"),
            "{body}"
        );
        assert_eq!(
            text(sender.send_request(get("https://other.example/")).await.unwrap())
                .await
                .0,
            421
        );
    });
}

#[test]
fn idle_clients_under_tls_have_the_time_of_idle_ones() {
    let backend = Backend::start("b");
    let edge = Edge::with(|o| {
        o.timeouts.head = Duration::from_secs(3600);
        o.timeouts.keep_alive = Duration::from_secs(1);
    });
    edge.publish(&table(1, &[("app.localhost", &[&backend])]));
    let mut wire = secure(&edge, client_config(&edge, b"http/1.1", &[]), "app.localhost");
    for path in ["/", "/big?n=1000000", "/no-content"] {
        let long =
            format!("{path}#{}", "x".repeat(10_000)).replace('#', if path.contains('?') { "&" } else { "?" });
        let length = if path.starts_with("/big") { path } else { &long };
        assert!(ask(&mut wire, "app.localhost", length).unwrap().0 < 300);
    }
    let mut rest = Vec::new();
    // An end without a farewell is an end.
    let end = std::io::Read::read_to_end(&mut wire, &mut rest);
    assert!(
        end.is_ok() || end.is_err_and(|cause| cause.kind() == std::io::ErrorKind::UnexpectedEof),
        "still open"
    );
}

#[test]
fn a_certificate_that_cannot_be_used_stops_no_table() {
    let (backend, next) = (Backend::start("b"), Backend::start("next"));
    let edge = Edge::start();
    let made = rcgen::generate_simple_self_signed(vec!["*.given.example".to_owned()]).unwrap();
    let (cert_file, key_file) = (edge.dir.path().join("c.pem"), edge.dir.path().join("k.pem"));
    std::fs::write(&cert_file, made.cert.pem()).unwrap();
    std::fs::write(&key_file, made.signing_key.serialize_pem()).unwrap();
    let mut published = table(1, &[("x.given.example", &[&backend])]);
    published
        .routes
        .push(route("y.given.example", "/", "x.given.example"));
    let pair = |host: &str| Certificate {
        hosts: vec![host.to_owned()],
        cert_file: cert_file.clone(),
        key_file: key_file.clone(),
    };
    published.certificates = vec![pair("*.given.example")];
    edge.publish(&published);
    let config = client_config(&edge, b"http/1.1", &[made.cert.der().clone()]);
    let mut wire = secure(&edge, config.clone(), "x.given.example");
    assert_eq!(ask(&mut wire, "x.given.example", "/").unwrap().0, 200);
    // One certificate for both: the connection may serve both (RFC 9110, 7.4).
    assert_eq!(ask(&mut wire, "y.given.example", "/").unwrap().0, 200);

    // Being renewed: the new certificate is there, its key is not yet. Routes change all the same, and the pair before stays.
    let renewed = rcgen::generate_simple_self_signed(vec!["*.given.example".to_owned()]).unwrap();
    std::fs::write(&cert_file, renewed.cert.pem()).unwrap();
    let mut second = table(2, &[("x.given.example", &[&next]), ("never.example", &[])]);
    second.certificates = vec![pair("*.given.example"), pair("never.example")];
    edge.publish(&second);
    let mut wire = secure(&edge, config, "x.given.example");
    let (status, body) = ask(&mut wire, "x.given.example", "/").unwrap();
    assert_eq!((status, body.lines().next()), (200, Some("next")));
    // There was none before: the local authority's.
    let local = client_config(&edge, b"http/1.1", &[]);
    assert_eq!(
        ask(
            &mut secure(&edge, local, "never.example"),
            "never.example",
            "/unrouted"
        )
        .unwrap()
        .0,
        503
    );
    std::fs::write(&key_file, renewed.signing_key.serialize_pem()).unwrap();
    second.generation = 3;
    edge.publish(&second);
    let config = client_config(&edge, b"http/1.1", &[renewed.cert.der().clone()]);
    assert_eq!(
        ask(
            &mut secure(&edge, config, "x.given.example"),
            "x.given.example",
            "/"
        )
        .unwrap()
        .0,
        200
    );
}
