//! F28: instances that hang, half-close, reset, send garbage or heads without end, and close as they are asked again.
//! Each has its answer within its bound, and no request that may have been carried out is sent twice unless that is safe.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Edge, PATIENCE, field, metrics, read_body, read_head, service, status, target};

/// How an instance fails once it has read a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    HangsBeforeTheHead,
    HangsInTheHead,
    HangsInTheBody,
    HalfClosesBeforeTheHead,
    HalfClosesInTheHead,
    HalfClosesInTheBody,
    ResetsBeforeTheHead,
    ResetsInTheHead,
    ResetsInTheBody,
    SendsGarbage,
    SendsHeadersWithoutEnd,
    SendsInterimAnswersWithoutEnd,
    /// Answers, keeps the connection, and closes or resets it when it is asked again.
    ClosesWhenAskedAgain,
    ResetsWhenAskedAgain,
}

/// What the client must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Status(u16),
    /// A head and a part of the body, then the end of the connection.
    CutBody,
}

const FAULTS: [(Fault, Seen); 14] = [
    (Fault::HangsBeforeTheHead, Seen::Status(504)),
    (Fault::HangsInTheHead, Seen::Status(504)),
    (Fault::HangsInTheBody, Seen::CutBody),
    (Fault::HalfClosesBeforeTheHead, Seen::Status(502)),
    (Fault::HalfClosesInTheHead, Seen::Status(502)),
    (Fault::HalfClosesInTheBody, Seen::CutBody),
    (Fault::ResetsBeforeTheHead, Seen::Status(502)),
    (Fault::ResetsInTheHead, Seen::Status(502)),
    (Fault::ResetsInTheBody, Seen::CutBody),
    (Fault::SendsGarbage, Seen::Status(502)),
    (Fault::SendsHeadersWithoutEnd, Seen::Status(502)),
    (Fault::SendsInterimAnswersWithoutEnd, Seen::Status(502)),
    (Fault::ClosesWhenAskedAgain, Seen::Status(200)),
    (Fault::ResetsWhenAskedAgain, Seen::Status(200)),
];

/// An instance that always fails in one way, and counts how often it saw each request.
struct Faulty {
    addr: SocketAddr,
    seen: Arc<Mutex<HashMap<String, usize>>>,
    written: Arc<AtomicU64>,
}

impl Faulty {
    fn start(fault: Fault) -> Faulty {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let faulty = Faulty {
            addr: listener.local_addr().unwrap(),
            seen: Arc::default(),
            written: Arc::default(),
        };
        let (seen, written) = (faulty.seen.clone(), faulty.written.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, written) = (seen.clone(), written.clone());
                std::thread::spawn(move || {
                    // The edge closing first is what some of them are for.
                    let _closed = fail(&stream.unwrap(), fault, &seen, &written);
                });
            }
        });
        faulty
    }

    fn seen(&self, id: &str) -> usize {
        self.seen.lock().unwrap().get(id).copied().unwrap_or_default()
    }
}

fn fail(
    stream: &TcpStream,
    fault: Fault,
    seen: &Mutex<HashMap<String, usize>>,
    written: &AtomicU64,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    let ask = |reader: &mut BufReader<TcpStream>| -> std::io::Result<bool> {
        let Some(head) = read_head(reader)? else {
            return Ok(false);
        };
        read_body(reader, &head)?;
        let id = field(&head, "x-test-id").unwrap_or_default().to_owned();
        *seen.lock().unwrap().entry(id).or_default() += 1;
        Ok(true)
    };
    if !ask(&mut reader)? {
        return Ok(());
    }
    let reset = || {
        Ok(rustix::net::sockopt::set_socket_linger(
            stream,
            Some(Duration::ZERO),
        )?)
    };
    let half_head: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Le";
    let half_body: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this";
    let until_closed = |text: &[u8]| loop {
        (&*stream).write_all(text)?;
        written.fetch_add(text.len() as u64, Ordering::SeqCst);
    };
    match fault {
        Fault::HangsBeforeTheHead => {}
        Fault::HangsInTheHead | Fault::HalfClosesInTheHead | Fault::ResetsInTheHead => {
            out.write_all(half_head)?;
        }
        Fault::HangsInTheBody | Fault::HalfClosesInTheBody | Fault::ResetsInTheBody => {
            out.write_all(half_body)?;
        }
        Fault::HalfClosesBeforeTheHead | Fault::ResetsBeforeTheHead => {}
        Fault::SendsGarbage => out.write_all(b"\x16\x03\x01 this is not HTTP \xff\r\n\r\n")?,
        Fault::SendsHeadersWithoutEnd => {
            out.write_all(b"HTTP/1.1 200 OK\r\n")?;
            return until_closed(b"X-More: and more and more and more\r\n");
        }
        Fault::SendsInterimAnswersWithoutEnd => {
            return until_closed(b"HTTP/1.1 103 Early Hints\r\nLink: </more>\r\n\r\n");
        }
        Fault::ClosesWhenAskedAgain | Fault::ResetsWhenAskedAgain => {
            out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            ask(&mut reader)?;
        }
    }
    match fault {
        Fault::ResetsBeforeTheHead | Fault::ResetsWhenAskedAgain => reset(),
        Fault::ResetsInTheHead | Fault::ResetsInTheBody => {
            // What was sent must have arrived, or the reset would take it along.
            std::thread::sleep(Duration::from_millis(50));
            reset()
        }
        Fault::HalfClosesBeforeTheHead | Fault::HalfClosesInTheHead | Fault::HalfClosesInTheBody => {
            stream.shutdown(Shutdown::Write)?;
            // It still listens, for as long as the edge lets it.
            reader.read_to_end(&mut Vec::new()).map(|_| ())
        }
        Fault::HangsBeforeTheHead | Fault::HangsInTheHead | Fault::HangsInTheBody => {
            reader.read_to_end(&mut Vec::new()).map(|_| ())
        }
        Fault::SendsGarbage
        | Fault::SendsHeadersWithoutEnd
        | Fault::SendsInterimAnswersWithoutEnd
        | Fault::ClosesWhenAskedAgain => Ok(()),
    }
}

/// An edge before an instance of each fault; each service is named by its number.
fn edge_before_all() -> (Edge, Vec<Faulty>) {
    let instances: Vec<Faulty> = FAULTS.iter().map(|(fault, _)| Faulty::start(*fault)).collect();
    let edge = Edge::with(|o| o.threads = Some(1));
    let mut table = crate::support::table(1, &[]);
    for (n, instance) in instances.iter().enumerate() {
        let host = format!("f{n}");
        let mut one = service(&host, &[]);
        one.targets.push(target(&host, instance.addr));
        one.request_timeout_ms = 400;
        one.idle_timeout_ms = 400;
        table.services.push(one);
        table.routes.push(crate::support::route(&host, "/", &host));
    }
    edge.publish(&table);
    (edge, instances)
}

/// Asks once on a connection of its own, and sees what comes.
fn ask(edge: &Edge, host: &str, method: &str, id: &str) -> Seen {
    let mut stream = TcpStream::connect(edge.http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = if method == "POST" {
        "Content-Length: 4\r\n\r\nbody"
    } else {
        "\r\n"
    };
    write!(
        stream,
        "{method} / HTTP/1.1\r\nHost: {host}\r\nX-Test-Id: {id}\r\nConnection: close\r\n{body}"
    )
    .unwrap();
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader).unwrap().expect("an answer");
    let length: usize = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = Vec::new();
    // A reset is an end, too.
    let _cut = reader.read_to_end(&mut body);
    if body.len() < length {
        assert_eq!(status(&head), 200);
        return Seen::CutBody;
    }
    Seen::Status(status(&head))
}

#[test]
fn f28_each_fault_of_an_instance_has_its_answer_within_its_bound() {
    let (edge, instances) = edge_before_all();
    for ((n, (fault, expected)), instance) in FAULTS.iter().enumerate().zip(&instances) {
        for method in ["GET", "POST"] {
            let id = format!("{method}-{n}");
            // On the connection that the GET left, which ends under it.
            let is_race = matches!(fault, Fault::ClosesWhenAskedAgain | Fault::ResetsWhenAskedAgain);
            let expected = if is_race && method == "POST" {
                Seen::Status(502)
            } else {
                *expected
            };
            let seen = ask(&edge, &format!("f{n}"), method, &id);
            assert_eq!(seen, expected, "{fault:?} {method}");
            // Whether it was carried out is unknown: what is not safe to repeat is not.
            if method == "POST" {
                assert_eq!(instance.seen(&id), 1, "{fault:?}");
            }
        }
    }
    // What has no end was not read to see one.
    for ((fault, _), instance) in FAULTS.iter().zip(&instances) {
        let written = instance.written.load(Ordering::SeqCst);
        assert!(written < 64 << 20, "{fault:?}: {written} bytes were taken");
    }
    assert!(metrics(&edge).values().all(|service| service.held == 0));
}

/// The connection that was kept is gone when the next request comes: a safe one goes out again, another one is refused.
#[test]
fn f28_a_keep_alive_close_race_repeats_what_is_safe_and_nothing_else() {
    const ROUNDS: usize = 100;
    let (edge, instances) = edge_before_all();
    for (n, (fault, _)) in FAULTS.iter().enumerate() {
        if !matches!(fault, Fault::ClosesWhenAskedAgain | Fault::ResetsWhenAskedAgain) {
            continue;
        }
        let host = format!("f{n}");
        let mut posts_refused = 0;
        for round in 0..ROUNDS {
            let (get, post) = (format!("get-{round}"), format!("post-{round}"));
            assert_eq!(ask(&edge, &host, "GET", &get), Seen::Status(200), "{fault:?}");
            match ask(&edge, &host, "POST", &post) {
                Seen::Status(200) => {}
                Seen::Status(502) => posts_refused += 1,
                other => panic!("{fault:?}: {other:?}"),
            }
            assert_eq!(instances[n].seen(&post), 1, "{fault:?}");
            let seen = instances[n].seen(&get);
            assert!((1..=2).contains(&seen), "{fault:?}: a GET was seen {seen} times");
        }
        assert!(posts_refused > 0, "{fault:?}: the race never happened");
    }
}
