//! HTTP/1.1: what instances see, what clients get, what is repeated, held and refused.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::Ordering;

use crate::support::{Backend, Edge, field, metrics, route, status, table, target, wait_for};

#[test]
fn a_request_reaches_its_service_by_host_and_path() {
    let (web, api) = (Backend::start("web"), Backend::start("api"));
    let edge = Edge::start();
    let mut table = table(1, &[("a.example", &[&web]), ("b.example", &[&api])]);
    table.routes.push(edge::table::Route {
        strip: true,
        ..route("a.example", "/api", "b.example")
    });
    table.routes.push(route("*.wild.example", "/", "b.example"));
    edge.publish(&table);
    let mut wire = edge.wire();
    for (host, path, name, seen) in [
        ("a.example", "/x?y=1", "web", "GET /x?y=1 HTTP/1.1"),
        ("A.EXAMPLE.:80", "/x", "web", "GET /x HTTP/1.1"),
        ("a.example", "/api/x?y", "api", "GET /x?y HTTP/1.1"),
        ("a.example", "/api", "api", "GET / HTTP/1.1"),
        ("a.example", "/apix", "web", "GET /apix HTTP/1.1"),
        ("x.wild.example", "/", "api", "GET / HTTP/1.1"),
    ] {
        let (head, body) = wire.get(host, path);
        assert_eq!(status(&head), 200);
        let mut lines = body.lines();
        assert_eq!(
            (lines.next(), lines.next()),
            (Some(name), Some(seen)),
            "{host}{path}"
        );
    }
    assert_eq!(
        field(&wire.get("a.example", "/api/x").1, "x-forwarded-prefix"),
        Some("/api")
    );
    let (head, body) = wire.get("unknown.example", "/");
    assert_eq!(status(&head), 404);
    assert!(
        body.contains("no application is served under this host name"),
        "{body}"
    );
    // A refusal leaves the connection usable.
    assert_eq!(status(&wire.get("a.example", "/").0), 200);
}

#[test]
fn fields_about_the_client_are_ours_whatever_it_sends() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    edge.publish(&table(1, &[("a.example", &[&backend])]));
    let mut wire = edge.wire();
    wire.send(
        "GET / HTTP/1.1\r\nHost: a.example:8080\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-User: root\r\nX-Real-IP: 6.6.6.6\r\nProxy: http://6.6.6.6\r\nX-Original-URL: /admin\r\n\
         Connection: X-Forwarded-For, X-Real-IP, Forwarded, X-Drop, close-not\r\nX-Drop: 1\r\nX-Keep: 2\r\nTE: trailers\r\n\
         Keep-Alive: 300\r\nX-Request-Id: mine-1\r\nCookie: a=b\r\n\r\n",
    );
    let (head, body) = wire.answer();
    assert!(
        !body.contains("6.6.6.6") && !body.contains("root") && !body.contains("/admin"),
        "{body}"
    );
    for (name, value) in [
        ("host", Some("a.example:8080")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-real-ip", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("a.example:8080")),
        ("x-forwarded-port", Some("8080")),
        (
            "forwarded",
            Some("for=127.0.0.1;proto=http;host=\"a.example:8080\""),
        ),
        ("x-request-id", Some("mine-1")),
        ("x-drop", None),
        ("x-keep", Some("2")),
        ("cookie", Some("a=b")),
        ("te", None),
        ("keep-alive", None),
        ("connection", None),
    ] {
        assert_eq!(field(&body, name), value, "{name}");
    }
    assert_eq!(field(&head, "x-request-id"), Some("mine-1"));
    let (head, body) = wire.get("a.example", "/");
    let id = field(&body, "x-request-id").unwrap();
    assert_eq!(id.len(), 32);
    assert_eq!(field(&head, "x-request-id"), Some(id));
}

#[test]
fn fields_about_the_instances_connection_stay_there() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    edge.publish(&table(1, &[("a", &[&backend])]));
    let (head, body) = edge.wire().get("a", "/hop");
    assert_eq!(body, "ok");
    for (name, value) in [
        ("x-secret", None),
        ("keep-alive", None),
        ("connection", None),
        ("x-public", Some("2")),
    ] {
        assert_eq!(field(&head, name), value, "{name}");
    }
}

#[test]
fn bodies_pass_in_every_framing() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    edge.publish(&table(1, &[("a", &[&backend])]));
    let mut wire = edge.wire();
    // Whole, in pieces, in chunks with extensions and trailers.
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    let (_, body) = wire.answer();
    assert!(
        body.ends_with("\r\n\r\nhello") && field(&body, "content-length") == Some("5"),
        "{body}"
    );
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    wait_for("the head", || (backend.requests() == 2).then_some(()));
    wire.send("world");
    assert!(wire.answer().1.ends_with("\r\n\r\nhelloworld"));
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n");
    wire.send("0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n");
    let (_, body) = wire.answer();
    assert!(body.ends_with("\r\n\r\nhelloX-Sum: 1\r\n"), "{body}");
    // A POST without a body says so.
    wire.send("POST / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(field(&wire.answer().1, "content-length"), Some("0"));
    assert_eq!(field(&wire.get("a", "/").1, "content-length"), None);
    // Answers: length, until close, trailers, none, interim, large.
    let (head, body) = wire.get("a", "/until-close");
    assert_eq!(
        (field(&head, "transfer-encoding"), body.as_str()),
        (Some("chunked"), "until the end")
    );
    let (_, body) = wire.get("a", "/trailers");
    assert_eq!(body, "helloGrpc-Status: 7\r\n");
    assert_eq!(status(&wire.get("a", "/no-content").0), 204);
    assert_eq!(wire.get("a", "/hint").1, "ok");
    for n in [1, 16_383, 16_384, 16_385, 300_000, 5_000_000] {
        assert_eq!(wire.get("a", &format!("/big?n={n}")).1.len(), n);
    }
    wire.send("HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n");
    let (head, _) = wire.answer_to("HEAD");
    assert!(field(&head, "content-length").unwrap().parse::<usize>().unwrap() > 0);
    let large = "y".repeat(3_000_000);
    wire.send(&format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{large}",
        large.len()
    ));
    let (head, body) = wire.answer();
    let (begin, end) = (
        &body[..body.len().min(300)],
        &body[body.len().saturating_sub(100)..],
    );
    assert!(
        body.ends_with(&large),
        "{} bytes for {head}{begin} ... {end}",
        body.len()
    );
}

#[test]
fn requests_may_be_pipelined_and_old_clients_are_served() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    edge.publish(&table(1, &[("a", &[&backend])]));
    let mut wire = edge.wire();
    wire.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxyGET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
    for path in ["/1", "/2", "/3"] {
        assert!(wire.answer().1.contains(&format!(" {path} HTTP/1.1")));
    }
    let mut wire = edge.wire();
    wire.send("GET /until-close HTTP/1.0\r\nHost: a\r\n\r\n");
    let answer = wire.rest();
    assert!(
        answer.ends_with("\r\n\r\nuntil the end") && !answer.contains("chunked"),
        "{answer}"
    );
    let mut wire = edge.wire();
    wire.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    let (head, _) = wire.answer();
    assert_eq!(field(&head, "connection"), Some("keep-alive"));
    assert_eq!(status(&wire.get("a", "/").0), 200);
    // A head larger than the first buffer.
    let long = "x".repeat(30_000);
    let mut wire = edge.wire();
    wire.send(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n"));
    assert_eq!(field(&wire.answer().1, "x-long"), Some(long.as_str()));
    assert_eq!(status(&wire.get("a", "/").0), 200);
}

#[test]
fn the_edge_says_continue_and_streams_both_ways() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    edge.publish(&table(1, &[("a", &[&backend])]));
    let mut wire = edge.wire();
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let (head, _) = wire.answer();
    assert_eq!(status(&head), 100);
    wire.send("hello");
    assert!(wire.answer().1.ends_with("hello"));

    wire.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut begin = Vec::new();
    while !begin.ends_with(b"first\n\r\n") {
        let mut byte = [0];
        wire.reader.read_exact(&mut byte).unwrap();
        begin.push(byte[0]);
    }
    backend.gate.open();
    let mut rest = [0; 15];
    wire.reader.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"5\r\nlast\n\r\n0\r\n\r\n");
    assert_eq!(status(&wire.get("a", "/").0), 200);
}

#[test]
fn an_answer_before_the_end_of_the_request_is_passed_on() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    edge.publish(&table(1, &[("a", &[&backend])]));
    let mut wire = edge.wire();
    wire.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nsome");
    let (head, body) = wire.answer();
    assert_eq!(
        (status(&head), body.as_str(), field(&head, "connection")),
        (413, "no\n", Some("close"))
    );
    backend.gate.open();
}

#[test]
fn websockets_pass_once_agreed_and_not_before() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    edge.publish(&table(1, &[("a", &[&backend])]));
    let mut wire = edge.wire();
    wire.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\nSec-WebSocket-Key: k\r\n\r\nearly");
    let (head, _) = wire.answer();
    assert_eq!((status(&head), field(&head, "upgrade")), (101, Some("echo")));
    let mut echo = [0; 10];
    wire.send(" bird");
    wire.reader.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"early bird");
    let load = edge.client().in_flight(&["b"]).unwrap()["b"];
    assert_eq!((load.requests, load.upgrades), (0, 1));
    drop(wire);
    wait_for("the tunnel's end", || {
        (edge.client().in_flight(&["b"]).unwrap()["b"].upgrades == 0).then_some(())
    });

    // The instance answers 200 instead: what follows the head is not passed raw, and the connection ends (N52).
    let mut wire = edge.wire();
    wire.send("GET /plain HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    let (head, _) = wire.answer();
    assert_eq!((status(&head), field(&head, "connection")), (200, Some("close")));
    assert_eq!(wire.rest(), "");
    assert!(
        backend
            .seen
            .lock()
            .unwrap()
            .iter()
            .all(|h| !h.contains("smuggled"))
    );

    // HTTP/2 is never offered to the instance.
    let mut wire = edge.wire();
    wire.send("GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n");
    let (_, body) = wire.answer();
    assert_eq!(
        (field(&body, "upgrade"), field(&body, "http2-settings")),
        (None, None)
    );
}

#[test]
fn a_request_lost_on_a_stale_connection_is_repeated_if_that_is_safe() {
    let backend = Backend::start("b");
    let edge = Edge::with(|o| o.threads = Some(1));
    edge.publish(&table(1, &[("a", &[&backend])]));
    let mut wire = edge.wire();
    assert_eq!(status(&wire.get("a", "/once").0), 200);
    // The instance closes without an answer; the request comes again on a new connection.
    assert_eq!(status(&wire.get("a", "/once").0), 200);
    assert_eq!(metrics(&edge)["a"].retries, 1);
    let before = backend.requests();
    wire.send("POST /once HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    let (head, _) = wire.answer();
    assert_eq!(status(&head), 502);
    assert_eq!(
        backend.requests(),
        before + 1,
        "a POST that may have been carried out was sent again"
    );
    assert_eq!(status(&wire.get("a", "/").0), 200);
}

#[test]
fn a_request_whose_body_is_gone_is_not_repeated() {
    let backend = Backend::start("b");
    let edge = Edge::with(|o| o.threads = Some(1));
    edge.publish(&table(1, &[("a", &[&backend])]));
    for body in [
        ["Content-Length: 10\r\n\r\nhello", "world"],
        ["Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "0\r\n\r\n"],
    ] {
        let before = backend.requests();
        let mut wire = edge.wire();
        wire.send(&format!("PUT /swallow HTTP/1.1\r\nHost: a\r\n{}", body[0]));
        wait_for("the head", || (backend.requests() > before).then_some(()));
        wire.send(body[1]);
        assert_eq!(status(&wire.answer().0), 502);
        assert_eq!(backend.requests(), before + 1);
        assert_eq!(
            backend.connections.load(Ordering::SeqCst),
            backend.requests() as u64
        );
    }
    // What came in one piece with its head is still there, and is sent again.
    let before = backend.requests();
    let mut wire = edge.wire();
    wire.send("PUT /swallow HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(status(&wire.answer().0), 502);
    assert!(backend.requests() > before + 1);
}

#[test]
fn failures_of_instances_have_their_answers() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    let slow = Backend::start("slow");
    let mut table = table(1, &[("a", &[&backend]), ("slow", &[&slow])]);
    table.services[1].request_timeout_ms = 300;
    table.services[0].max_body_bytes = Some(10);
    edge.publish(&table);
    for (host, path, expected) in [
        ("a", "/silent", 502),
        ("a", "/garbage", 502),
        ("a", "/endless-head", 502),
        ("slow", "/gate", 504),
    ] {
        let (head, _) = edge.wire().get(host, path);
        assert_eq!(status(&head), expected, "{path}");
    }
    // An answer that breaks off is cut, not completed.
    let mut wire = edge.wire();
    wire.send("GET /short HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(wire.rest().ends_with("only this"));
    for head in [
        "Content-Length: 11\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n",
    ] {
        let mut wire = edge.wire();
        wire.send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{head}"));
        assert_eq!(status(&wire.answer().0), 413);
    }
    assert_eq!(status(&edge.wire().get("a", "/status?s=503").0), 503);
    slow.gate.open();
    let seen = &metrics(&edge)["a"];
    assert!(
        seen.cut >= 1 && seen.answered_by_edge >= 5 && seen.statuses[4] >= 4,
        "{seen:?}"
    );
}

#[test]
fn requests_wait_for_an_instance_and_are_then_refused() {
    let edge = Edge::start();
    let mut empty = table(1, &[("a", &[])]);
    edge.publish(&empty);
    let mut wire = edge.wire();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the request to be held", || {
        (metrics(&edge)["a"].held == 1).then_some(())
    });
    let backend = Backend::start("b");
    edge.publish(&table(2, &[("a", &[&backend])]));
    assert_eq!(status(&wire.answer().0), 200);
    empty.generation = 3;
    empty.services[0].hold_ms = 50;
    edge.publish(&empty);
    wire.send("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
    let (head, body) = wire.answer();
    assert_eq!(status(&head), 503);
    assert!(field(&head, "retry-after").is_some());
    assert!(
        body.contains("<h1>503") && body.contains(field(&head, "x-request-id").unwrap()),
        "{body}"
    );
}

/// A socket that has its port to itself and refuses connections until it listens.
fn bound() -> TcpListener {
    use rustix::net::{AddressFamily, SocketType};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let any = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0);
    rustix::net::bind(&socket, &any).unwrap();
    TcpListener::from(socket)
}

#[test]
fn an_instance_that_refuses_connections_is_passed_over_or_waited_for() {
    let (good, late) = (Backend::start("good"), bound());
    let address = late.local_addr().unwrap();
    let edge = Edge::start();
    let mut table = table(1, &[("a", &[&good]), ("only-late", &[])]);
    table.services[0].targets.push(target("gone", address));
    table.services[1].targets.push(target("late", address));
    edge.publish(&table);
    let mut wire = edge.wire();
    for _ in 0..50 {
        assert_eq!(status(&wire.get("a", "/").0), 200);
    }
    assert!(metrics(&edge)["a"].refused_connects >= 1);
    // The only instance of a service restarts: its requests wait.
    wire.send("GET / HTTP/1.1\r\nHost: only-late\r\n\r\n");
    wait_for("a refused connection", || {
        (metrics(&edge)["only-late"].refused_connects >= 1).then_some(())
    });
    rustix::net::listen(&late, 128).unwrap();
    let _late = Backend::on("late", late);
    assert_eq!(wire.answer().1.lines().next(), Some("late"));
}

#[test]
fn slow_and_idle_clients_are_let_go() {
    let edge = Edge::with(|o| {
        o.timeouts.head = std::time::Duration::from_secs(2);
        o.timeouts.keep_alive = std::time::Duration::from_secs(2);
    });
    let backend = Backend::start("b");
    edge.publish(&table(1, &[("a", &[&backend])]));
    let mut slow = edge.wire();
    slow.send("GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ");
    let mut silent = edge.wire();
    let mut idle = edge.wire();
    assert_eq!(status(&idle.get("a", "/").0), 200);
    assert_eq!(status(&slow.answer().0), 408);
    assert_eq!((silent.rest(), idle.rest()), (String::new(), String::new()));
    let mut stuck = edge.wire();
    let mut table = table(2, &[("a", &[&backend])]);
    table.services[0].idle_timeout_ms = 1_000;
    edge.publish(&table);
    stuck.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(status(&stuck.answer().0), 408);
}

#[test]
fn an_instance_that_takes_no_more_of_a_body_is_too_late() {
    let backend = Backend::start("b");
    let edge = Edge::start();
    let mut published = table(1, &[("a", &[&backend])]);
    published.services[0].idle_timeout_ms = 1_000;
    published.services[0].request_timeout_ms = 3_600_000;
    edge.publish(&published);
    let mut wire = edge.wire();
    let mut upload = wire.reader.get_ref().try_clone().unwrap();
    let upload = std::thread::spawn(move || {
        upload.write_all(b"POST /gate HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")?;
        let block = vec![0; 1 << 20];
        (0..1000).try_for_each(|_| upload.write_all(&block))
    });
    assert_eq!(status(&wire.answer().0), 504);
    assert!(upload.join().unwrap().is_err());
    backend.gate.open();
}

#[test]
fn connections_beyond_the_limit_wait_their_turn() {
    let backend = Backend::start("b");
    let edge = Edge::with(|o| {
        o.threads = Some(1);
        o.limits.connections = Some(2);
    });
    edge.publish(&table(1, &[("a", &[&backend])]));
    let mut first: Vec<_> = (0..2).map(|_| edge.wire()).collect();
    first
        .iter_mut()
        .for_each(|w| assert_eq!(status(&w.get("a", "/").0), 200));
    let mut waiting = edge.wire();
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(edge.client().status().unwrap().connections, 2);
    first.pop();
    assert_eq!(status(&waiting.answer().0), 200);
}

#[test]
fn idle_connections_to_instances_are_reused() {
    let backend = Backend::start("b");
    let edge = Edge::with(|o| o.threads = Some(1));
    edge.publish(&table(1, &[("a", &[&backend])]));
    let mut wire = edge.wire();
    (0..20).for_each(|_| assert_eq!(status(&wire.get("a", "/").0), 200));
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
}
