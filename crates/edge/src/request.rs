//! A client's HTTP/1 connection: one request after the other, through the phases in order.
//!
//! Lives here: receiving heads, and the order of the phases: inspect, route, admit, then `forward` (pick, send, record).
//! Does not live here: any of the phases.
//! Invariant: whatever goes wrong before the instance is asked is answered by the edge; a connection whose bytes cannot be
//! told apart any more is closed.

use std::io;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::admit::admit;
use crate::answer::{After, Answer, Asked, RequestId, write};
use crate::buffer::{Buffer, LARGE_BYTES};
use crate::clock::Watch;
use crate::forward::{Exchange, forward};
use crate::h1::head::{Scan, Scanner};
use crate::inspect::{Incoming, Refusal, Version, bad, inspect, split_target};
use crate::pick::LocalService;
use crate::rewrite::request_head;
use crate::route::NoRoute;
use crate::stream::{Stream, read, readable, shutdown, write_all};
use crate::worker::{Ending, Peer, Worker};

/// Header fields of a request.
pub(crate) const FIELDS_MAX: usize = 100;

/// Empty lines before a request: old clients send one after a body.
const EMPTY_LINES_MAX: usize = 2;

/// An HTTP/2 client that knows in advance begins with this.
pub(crate) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes, and time, granted to a client to read its last answer before the connection is torn down under it.
const LINGER_BYTES: usize = 256 << 10;
const LINGER: Duration = Duration::from_secs(2);

/// A client's connection.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) io: Stream,
    pub(crate) buffer: Buffer,
    pub(crate) watch: Watch,
    pub(crate) peer: Peer,
}

/// What became of a connection.
pub(crate) enum Ended {
    /// It is over.
    Closed,
    /// It turned out to speak HTTP/2; nothing of it was consumed.
    IsHttp2(Connection),
}

/// What to do after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Wait for the next request.
    Next,
    /// Close; the client may still be sending, so let it read the answer first.
    Linger,
    /// Close at once: everything is said, or nothing can be.
    Drop,
}

/// Serves requests until the connection ends.
pub(crate) async fn serve(mut connection: Connection) -> Ended {
    let mut first = true;
    loop {
        let length = match next_head(&mut connection, first).await {
            Head::Complete(length) => length,
            Head::Refused(refusal) => {
                let flow = refuse(&connection, &Answer::close(refusal), &unknown(&connection.worker)).await;
                end(connection, flow).await;
                return Ended::Closed;
            }
            Head::Ended => {
                end(connection, Flow::Drop).await;
                return Ended::Closed;
            }
        };
        if first
            && connection
                .buffer
                .filled()
                .starts_with(&HTTP2_PREFACE[..length.min(HTTP2_PREFACE.len())])
        {
            return Ended::IsHttp2(connection);
        }
        first = false;
        // Boxed: its state is several times that of a connection waiting for its next request.
        let flow = Box::pin(exchange(&mut connection, length)).await;
        if flow != Flow::Next {
            end(connection, flow).await;
            return Ended::Closed;
        }
    }
}

/// One request, its head being complete.
async fn exchange(connection: &mut Connection, length: usize) -> Flow {
    let mut out = connection.worker.stock.text();
    let head = &connection.buffer.filled()[..length];
    let entered = enter_http1(&connection.worker, &connection.peer, head, &mut out);
    connection.buffer.consume(length);
    let flow = match entered {
        Ok(exchange) => forward(connection, exchange, &mut out).await,
        Err((answer, asked)) => refuse(connection, &answer, &asked).await,
    };
    connection.worker.stock.keep_text(out);
    flow
}

enum Head {
    Complete(usize),
    Refused(Refusal),
    Ended,
}

/// Waits for a whole head. Holds no buffer while there is nothing.
async fn next_head(connection: &mut Connection, first: bool) -> Head {
    let Connection {
        worker,
        io,
        buffer,
        watch,
        ..
    } = connection;
    if buffer.is_empty() {
        if worker.draining.get() == Some(Ending::Now) && !first {
            return Head::Ended;
        }
        worker.stock.reclaim(buffer);
        watch.arm_idle(if first {
            worker.timeouts.head
        } else {
            worker.timeouts.keep_alive
        });
        if readable(io, watch, &worker.stock, buffer).await.is_err() {
            return Head::Ended;
        }
    }
    watch.arm(worker.timeouts.head);
    worker.stock.supply(buffer);
    let (mut scanner, mut empty_lines) = (Scanner::default(), 0);
    loop {
        while buffer.filled().starts_with(b"\r\n") && empty_lines < EMPTY_LINES_MAX {
            buffer.consume(2);
            empty_lines += 1;
        }
        match scanner.scan(buffer.filled()) {
            Scan::Complete(length) if length <= worker.limits.head_bytes => return Head::Complete(length),
            Scan::BareLineEnd => return Head::Refused(bad("a line of the request does not end in CR LF")),
            Scan::Partial if buffer.filled().len() <= worker.limits.head_bytes => {}
            Scan::Complete(_) | Scan::Partial => {
                return Head::Refused(Refusal {
                    status: 431,
                    what: "the header fields are too large",
                });
            }
        }
        if buffer.is_full() && buffer.capacity() < LARGE_BYTES {
            buffer.grow();
        }
        match read(io, watch, buffer).await {
            Ok(0) => return Head::Ended,
            Ok(_) => {}
            Err(cause) if cause.kind() == io::ErrorKind::TimedOut && !buffer.is_empty() => {
                return Head::Refused(Refusal {
                    status: 408,
                    what: "the request did not arrive in time",
                });
            }
            Err(_) => return Head::Ended,
        }
    }
}

/// What is known of a request that could not be read.
fn unknown(worker: &Worker) -> Asked {
    Asked {
        is_head: false,
        is_http10: false,
        keep_alive: false,
        wants_html: false,
        id: RequestId::new(worker.random.next(), worker.random.next()),
    }
}

fn enter_http1(
    worker: &Worker,
    peer: &Peer,
    head: &[u8],
    out: &mut Vec<u8>,
) -> Result<Exchange, (Answer, Asked)> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let refused = |refusal| (Answer::close(refusal), unknown(worker));
    match parsed.parse_with_uninit_headers(head, &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(refused(Refusal {
                status: 431,
                what: "there are too many header fields",
            }));
        }
        Err(httparse::Error::Version) => {
            return Err(refused(Refusal {
                status: 505,
                what: "this is not HTTP/1.0 or HTTP/1.1",
            }));
        }
        Ok(httparse::Status::Partial) | Err(_) => return Err(refused(bad("the request is malformed"))),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(refused(bad("the request is malformed")));
    };
    let (authority, path, query) = split_target(target).map_err(refused)?;
    let version = if version == 1 {
        Version::Http11
    } else {
        Version::Http10
    };
    enter(
        worker,
        peer,
        &Incoming {
            version,
            method,
            authority,
            path,
            query,
            fields: parsed.headers,
        },
        None,
        out,
    )
}

/// The phases before an instance is chosen. Leaves the head for the instance in `out`. `body` says that there is one of
/// unknown length although no field tells (HTTP/2).
pub(crate) fn enter(
    worker: &Worker,
    peer: &Peer,
    incoming: &Incoming<'_>,
    body: Option<crate::h1::body::Decoder>,
    out: &mut Vec<u8>,
) -> Result<Exchange, (Answer, Asked)> {
    let started = Instant::now();
    let mut request = inspect(incoming).map_err(|refusal| (Answer::close(refusal), unknown(worker)))?;
    if let Some(body) = body {
        request.body = body;
    }
    let id = request.request_id.and_then(RequestId::given);
    let asked = Asked {
        is_head: incoming.method == "HEAD",
        is_http10: incoming.version == Version::Http10,
        keep_alive: request.keep_alive && worker.draining.get().is_none(),
        wants_html: request.wants_html,
        id: id.unwrap_or_else(|| RequestId::new(worker.random.next(), worker.random.next())),
    };
    // Unread bytes of a body would be taken for the next request.
    let after = if request.body.is_done() {
        After::Keep
    } else {
        After::Close
    };
    let refused = |answer: Answer| {
        let after = if after == After::Close {
            after
        } else {
            answer.after
        };
        (Answer { after, ..answer }, asked.clone())
    };
    let local = worker.local();
    let matched = local.published.index.find(&request.host, incoming.path);
    let matched = matched.map_err(|why| refused(no_route(why)))?;
    let service: &Rc<LocalService> = &local.services[matched.service];
    if let Err(answer) = admit(&request, &service.service, peer) {
        service.series.answered_by_edge(answer.refusal.status);
        return Err(refused(answer));
    }
    request_head(out, &request, matched.strip, peer, &asked.id);
    Ok(Exchange {
        service: service.clone(),
        is_idempotent: matches!(incoming.method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE"),
        is_upgrade: request.upgrade.is_some(),
        expects_continue: request.expects_continue,
        is_whole: request.body.is_done(),
        body: request.body,
        asked,
        started,
    })
}

fn no_route(why: NoRoute) -> Answer {
    match why {
        NoRoute::Host => Answer::keep(404, "no application is served under this host name"),
        NoRoute::Path => Answer::keep(404, "this host has no application at this path"),
        NoRoute::Ambiguous => Answer::keep(400, "the path could be read in more than one way"),
    }
}

/// Answers in the instance's stead.
pub(crate) async fn refuse(connection: &Connection, answer: &Answer, asked: &Asked) -> Flow {
    let mut out = connection.worker.stock.text();
    let after = write(&mut out, answer, asked);
    connection.watch.arm(connection.worker.timeouts.head);
    let written = write_all(&connection.io, &connection.watch, &out).await;
    connection.worker.stock.keep_text(out);
    match (written, after) {
        (Ok(()), After::Keep) => Flow::Next,
        (Ok(()), After::Close) => Flow::Linger,
        (Err(_), _) => Flow::Drop,
    }
}

/// Ends a connection. Closing while the client still sends would reset it, and with it the answer it has not read yet.
async fn end(mut connection: Connection, flow: Flow) {
    if flow == Flow::Linger {
        connection.watch.arm(LINGER);
        shutdown(&connection.io, &connection.watch).await;
        let mut left = LINGER_BYTES;
        connection.buffer.consume(connection.buffer.filled().len());
        connection.worker.stock.supply(&mut connection.buffer);
        while let Ok(n) = read(&connection.io, &connection.watch, &mut connection.buffer).await {
            connection.buffer.consume(n);
            left = left.saturating_sub(n);
            if n == 0 || left == 0 {
                break;
            }
        }
    }
    connection.buffer.consume(connection.buffer.filled().len());
    connection.worker.stock.reclaim(&mut connection.buffer);
}
