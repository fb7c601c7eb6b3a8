//! Requests that wait while no instance is ready: bounded in number and time, released by the next table, gone with their
//! clients.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;

use crate::http2::{prior_knowledge, run};
use crate::support::{Backend, Edge, PATIENCE, Wire, field, metrics, status, table, wait_for};

const LIMIT: usize = 3;

/// One thread: the limit is one of each.
fn edge() -> Edge {
    let edge = Edge::with(|options| {
        options.threads = Some(1);
        options.limits.held = LIMIT;
    });
    edge.publish(&table(1, &[("a", &[]), ("b", &[])]));
    edge
}

fn held(edge: &Edge, service: &str) -> u64 {
    metrics(edge).get(service).map_or(0, |service| service.held)
}

/// A request that waits.
fn waits(edge: &Edge, count: u64) -> Wire {
    let mut wire = edge.wire();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the request to be held", || {
        (held(edge, "a") == count).then_some(())
    });
    wire
}

fn fill(edge: &Edge) -> Vec<Wire> {
    (1..=LIMIT as u64).map(|count| waits(edge, count)).collect()
}

#[test]
fn beyond_the_limit_requests_are_refused_at_once_and_the_others_get_their_answer() {
    let edge = edge();
    let held_ones = fill(&edge);
    let (head, _) = edge.wire().get("a", "/");
    assert_eq!(status(&head), 503);
    assert_eq!(field(&head, "retry-after"), Some("2"));
    // Tables that bring no instance change nothing for those that wait.
    edge.publish(&table(2, &[("a", &[]), ("b", &[])]));
    // Another service has its own places.
    let mut other = edge.wire();
    other.send("GET / HTTP/1.1\r\nHost: b\r\n\r\n");
    wait_for("the other service", || (held(&edge, "b") == 1).then_some(()));
    let backends = [Backend::start("x"), Backend::start("y")];
    assert_eq!(held(&edge, "a"), LIMIT as u64);
    edge.publish(&table(3, &[("a", &[&backends[0]]), ("b", &[&backends[1]])]));
    for mut wire in held_ones.into_iter().chain([other]) {
        assert_eq!(status(&wire.answer().0), 200);
    }
    assert_eq!((held(&edge, "a"), held(&edge, "b")), (0, 0));
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let edge = edge();
    let mut held_ones = fill(&edge);
    drop(held_ones.pop());
    wait_for("its place", || {
        (held(&edge, "a") == LIMIT as u64 - 1).then_some(())
    });
    held_ones.push(waits(&edge, LIMIT as u64));
    let backend = Backend::start("x");
    edge.publish(&table(2, &[("a", &[&backend])]));
    for mut wire in held_ones {
        assert_eq!(status(&wire.answer().0), 200);
    }
    // Nothing was asked for the one that left.
    assert_eq!(backend.requests(), LIMIT);
}

/// Sends a request, is held, and closes its sending half.
fn half_closed(edge: &Edge, request: &str, count: u64) -> TcpStream {
    let mut stream = TcpStream::connect(edge.http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    wait_for("the request to be held", || {
        (held(edge, "a") == count).then_some(())
    });
    stream.shutdown(Shutdown::Write).unwrap();
    stream
}

#[test]
fn a_client_that_only_closed_its_sending_half_gets_its_answer() {
    const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
    let edge = edge();
    let mut old = half_closed(&edge, "GET / HTTP/1.0\r\nHost: a\r\n\r\n", 1);
    let mut new = half_closed(&edge, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 2);
    // It was looked for, and is waited for all the same.
    let mut asked = [0; CONTINUE.len()];
    new.read_exact(&mut asked).unwrap();
    assert_eq!(asked, CONTINUE.as_bytes());
    assert_eq!(held(&edge, "a"), 2);
    let backend = Backend::start("x");
    edge.publish(&table(2, &[("a", &[&backend])]));
    for (stream, version) in [(&mut new, "1.1"), (&mut old, "1.")] {
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        let answer = said.trim_start_matches(CONTINUE);
        assert!(answer.starts_with(&format!("HTTP/{version}")), "{said}");
        assert!(
            answer.lines().next().is_some_and(|line| line.contains(" 200 ")),
            "{said}"
        );
    }
    assert_eq!(backend.requests(), 2);
}

/// Waits at the gate of an instance that comes when they have waited for it, all of them held.
fn released(turn: Duration) -> (Edge, Backend, Vec<Wire>) {
    let edge = Edge::with(|options| {
        options.threads = Some(1);
        options.limits.turns = LIMIT;
        options.timeouts.turn = turn;
    });
    edge.publish(&table(1, &[("a", &[])]));
    let mut wires: Vec<Wire> = (0..3 * LIMIT).map(|_| edge.wire()).collect();
    for wire in &mut wires {
        wire.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let all = 3 * LIMIT as u64;
    wait_for("all to be held", || (held(&edge, "a") == all).then_some(()));
    let backend = Backend::start("x");
    edge.publish(&table(2, &[("a", &[&backend])]));
    (edge, backend, wires)
}

#[test]
fn held_requests_take_turns_when_there_is_an_instance_again() {
    let (edge, backend, wires) = released(Duration::from_secs(3600));
    let waiting = || usize::try_from(backend.gate.waiting.load(Ordering::SeqCst)).unwrap();
    wait_for("the first ones", || (waiting() == LIMIT).then_some(()));
    // One that was not held waits for nobody.
    assert_eq!(status(&edge.wire().get("a", "/").0), 200);
    assert_eq!(waiting(), LIMIT);
    backend.gate.open();
    for mut wire in wires {
        assert_eq!(status(&wire.answer().0), 200);
    }
}

#[test]
fn slow_answers_keep_nobody_waiting_for_a_turn_for_long() {
    let (_edge, backend, wires) = released(Duration::from_millis(1));
    let waiting = || usize::try_from(backend.gate.waiting.load(Ordering::SeqCst)).unwrap();
    wait_for("all of them", || (waiting() == 3 * LIMIT).then_some(()));
    backend.gate.open();
    for mut wire in wires {
        assert_eq!(status(&wire.answer().0), 200);
    }
}

/// What it sent and nobody has read yet hides nothing.
#[test]
fn a_client_that_leaves_in_its_body_frees_its_place() {
    let edge = edge();
    let mut stream = TcpStream::connect(edge.http).unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nsome of it")
        .unwrap();
    wait_for("the request to be held", || (held(&edge, "a") == 1).then_some(()));
    stream.write_all(&[b'x'; 1000]).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    wait_for("its place", || (held(&edge, "a") == 0).then_some(()));
}

#[test]
fn a_stream_that_is_given_up_frees_its_place() {
    let edge = edge();
    run(async {
        let mut sender = prior_knowledge::<Empty<Bytes>>(edge.http).await;
        let request = Request::get("http://a/").body(Empty::new()).unwrap();
        let until = async |count: u64| {
            while held(&edge, "a") != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let asking = sender.send_request(request);
        let is_held = tokio::time::timeout(PATIENCE, until(1));
        tokio::select! {
            answer = asking => panic!("{answer:?}"),
            held = is_held => held.unwrap(),
        }
        // The question was dropped with the loser of the race: its stream is reset.
        tokio::time::timeout(PATIENCE, until(0)).await.unwrap();
    });
}
