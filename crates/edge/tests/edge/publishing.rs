//! New tables under load: nothing is cut, nothing refused comes through, draining waits.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::{
    Backend, Deaf, Edge, PATIENCE, Wire, read_body, read_head, status, table, target, wait_for,
};

/// Clients that ask without pause until told to stop, and count what went wrong.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub answered: Arc<AtomicU64>,
    failures: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Keep-alive clients, clients with a new connection per request, and WebSockets that echo.
    pub fn start(addr: SocketAddr, keep_alive: usize, new: usize, websockets: usize) -> Load {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut failures = Vec::new();
        let mut spawn = |client: fn(SocketAddr, &AtomicBool, &AtomicU64) -> Result<(), String>| {
            let (stop, answered) = (stop.clone(), answered.clone());
            failures.push(std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    if let Err(failure) = client(addr, &stop, &answered) {
                        failures.push(failure);
                    }
                }
                failures
            }));
        };
        (0..keep_alive).for_each(|_| spawn(keep_asking));
        (0..new).for_each(|_| spawn(ask_once));
        (0..websockets).for_each(|_| spawn(echo));
        Load {
            stop,
            answered,
            failures,
        }
    }

    pub fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let failures: Vec<String> = std::mem::take(&mut self.failures)
            .into_iter()
            .flat_map(|f| f.join().unwrap())
            .collect();
        assert!(
            failures.is_empty(),
            "{} failures, first {:?}",
            failures.len(),
            &failures[..failures.len().min(5)]
        );
        self.answered.load(Ordering::SeqCst)
    }

    /// Waits until this many more answers came.
    pub fn go_on(&self, more: u64) {
        let goal = self.answered.load(Ordering::SeqCst) + more;
        wait_for("more answers", || {
            (self.answered.load(Ordering::SeqCst) >= goal).then_some(())
        });
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn connect(addr: SocketAddr) -> Result<Wire, String> {
    let stream = std::net::TcpStream::connect(addr).map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    Ok(Wire {
        reader: std::io::BufReader::new(stream),
    })
}

/// One request; true when the connection may be used again.
fn ask(wire: &mut Wire, extra: &str) -> Result<bool, String> {
    let request = format!("GET /load HTTP/1.1\r\nHost: a\r\n{extra}\r\n");
    wire.reader
        .get_mut()
        .write_all(request.as_bytes())
        .map_err(|e| format!("write: {e}"))?;
    let head = read_head(&mut wire.reader)
        .map_err(|e| format!("read: {e}"))?
        .ok_or("ended without an answer")?;
    let body = read_body(&mut wire.reader, &head).map_err(|e| format!("body: {e}"))?;
    if status(&head) == 200 {
        Ok(!head.contains("connection: close"))
    } else {
        Err(format!("{head}{body}"))
    }
}

fn keep_asking(addr: SocketAddr, stop: &AtomicBool, answered: &AtomicU64) -> Result<(), String> {
    let mut wire = connect(addr)?;
    while !stop.load(Ordering::SeqCst) && ask(&mut wire, "")? {
        answered.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

fn ask_once(addr: SocketAddr, _: &AtomicBool, answered: &AtomicU64) -> Result<(), String> {
    ask(&mut connect(addr)?, "Connection: close\r\n")?;
    answered.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

fn echo(addr: SocketAddr, stop: &AtomicBool, answered: &AtomicU64) -> Result<(), String> {
    let mut wire = connect(addr)?;
    wire.send("GET /ws HTTP/1.1\r\nHost: ws\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    let (head, _) = wire.answer();
    if status(&head) != 101 {
        return Err(head);
    }
    while !stop.load(Ordering::SeqCst) {
        wire.reader
            .get_mut()
            .write_all(b"ping")
            .map_err(|e| format!("WebSocket: {e}"))?;
        let mut pong = [0; 4];
        wire.reader
            .read_exact(&mut pong)
            .map_err(|e| format!("WebSocket: {e}"))?;
        answered.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[test]
fn publishing_200_times_under_load_fails_nothing() {
    let (blue, green, ws) = (
        Backend::start("blue"),
        Backend::start("green"),
        Backend::start("ws"),
    );
    let edge = Edge::start();
    edge.publish(&table(1, &[("a", &[&blue]), ("ws", &[&ws])]));
    let load = Load::start(edge.http, 4, 2, 1);
    load.go_on(50);
    let mut client = edge.client();
    for generation in 2..=220 {
        // Each generation moves all traffic to the other instance.
        let current = if generation % 2 == 0 { &green } else { &blue };
        let ack = client
            .publish(&table(generation, &[("a", &[current]), ("ws", &[&ws])]))
            .unwrap();
        assert_eq!(ack.generation, generation);
        let old = if generation % 2 == 0 { "blue" } else { "green" };
        let idle = client.wait_idle(&[old], PATIENCE).unwrap();
        assert!(idle.is_idle, "{idle:?}");
        // After the acknowledgement and idleness nothing reaches the old instance any more.
        let backend = if old == "blue" { &blue } else { &green };
        let before = backend.requests();
        load.go_on(3);
        assert_eq!(backend.requests(), before, "generation {generation}");
    }
    load.finish();
    assert!(blue.requests() > 100 && green.requests() > 100);
}

#[test]
fn draining_waits_for_requests_and_ends_websockets_in_their_time() {
    let (old, new) = (Backend::start("old"), Backend::start("new"));
    let edge = Edge::start();
    let mut first = table(1, &[("a", &[&old])]);
    first.services[0].upgrade_drain_ms = 100;
    edge.publish(&first);
    let mut slow = edge.wire();
    slow.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut websocket = edge.wire();
    websocket.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(status(&websocket.answer().0), 101);
    wait_for("the slow request", || {
        (old.gate.waiting.load(Ordering::SeqCst) == 1).then_some(())
    });

    let mut second = table(2, &[("a", &[&new, &old])]);
    second.services[0].upgrade_drain_ms = 100;
    second.services[0].targets[1].draining = true;
    edge.publish(&second);
    let mut client = edge.client();
    let idle = client.wait_idle(&["old"], Duration::from_millis(50)).unwrap();
    assert!(!idle.is_idle && idle.loads["old"].requests == 1, "{idle:?}");
    let mut wire = edge.wire();
    (0..10).for_each(|_| assert_eq!(wire.get("a", "/").1.lines().next(), Some("new")));
    old.gate.open();
    assert_eq!(slow.answer().1.lines().next(), Some("old"));
    assert!(client.wait_idle(&["old"], PATIENCE).unwrap().is_idle);
    // The WebSocket had its own limit.
    assert_eq!(websocket.rest(), "");
    wait_for("the tunnel's end", || {
        (client.in_flight(&["old"]).unwrap()["old"].upgrades == 0).then_some(())
    });
}

#[test]
fn what_is_repeated_goes_to_an_instance_of_the_table_in_force() {
    let (old, new) = (TcpListener::bind("127.0.0.1:0").unwrap(), Backend::start("new"));
    let edge = Edge::start();
    let mut first = table(1, &[("a", &[])]);
    first.services[0].hold_ms = 1;
    let old_target = target("old", old.local_addr().unwrap());
    first.services[0].targets.push(old_target);
    edge.publish(&first);
    let mut wire = edge.wire();
    wire.send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut request = BufReader::new(old.accept().unwrap().0);
    read_head(&mut request).unwrap();
    let mut second = table(2, &[("a", &[&new])]);
    second.services[0].hold_ms = 1;
    edge.publish(&second);
    // The old instance is killed at the end of its drain.
    drop((request, old));
    assert_eq!(wire.answer().1.lines().next(), Some("new"));
}

#[test]
fn an_instance_that_left_the_table_while_another_was_tried_is_not_chosen() {
    let (leaving, new) = (Backend::start("leaving"), Backend::start("new"));
    let edge = Edge::with(|o| o.timeouts.connect = PATIENCE);
    let deaf = Deaf::new();
    let mut first = table(1, &[("a", &[&leaving])]);
    // The deaf one is tried first: the other has no share while there is one with more.
    first.services[0].targets[0].weight = 0;
    first.services[0].targets.push(target("deaf", deaf.address));
    edge.publish(&first);
    let mut wire = edge.wire();
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    let mut client = edge.client();
    wait_for("the attempt to connect", || {
        (client.in_flight(&["deaf"]).unwrap()["deaf"].requests == 1).then_some(())
    });
    edge.publish(&table(2, &[("a", &[&new])]));
    drop(deaf);
    assert_eq!(wire.answer().1.lines().next(), Some("new"));
    assert_eq!(leaving.requests(), 0);
}

#[test]
fn releases_and_weights_are_counted_apart() {
    let (stable, canary) = (Backend::start("stable"), Backend::start("canary"));
    let edge = Edge::with(|o| o.threads = Some(1));
    let mut table = table(1, &[("a", &[&stable, &canary])]);
    table.services[0].targets[0].weight = 9;
    table.services[0].targets[1].weight = 1;
    table.services[0].targets[1].release = Some("v2".to_owned());
    edge.publish(&table);
    let mut wire = edge.wire();
    (0..500).for_each(|_| assert_eq!(status(&wire.get("a", "/").0), 200));
    let all = edge.client().metrics().unwrap();
    let count = |release: &str| {
        all.services
            .iter()
            .find(|m| m.release == release)
            .unwrap()
            .statuses[1]
    };
    assert_eq!(count("v1") + count("v2"), 500);
    // One in ten, within what chance allows (seven standard deviations).
    assert!((5..=97).contains(&count("v2")), "{} of 500: {all:?}", count("v2"));
    let v1 = all.services.iter().find(|m| m.release == "v1").unwrap();
    assert!(v1.latency_us.count() == count("v1") && v1.bytes_out > 0);
    assert_eq!(all.targets.iter().map(|t| t.requests).sum::<u64>(), 500);
}
