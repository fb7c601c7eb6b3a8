//! HTTP/2 from clients, HTTP/1.1 toward instances.
//!
//! Lives here: adapting hyper's HTTP/2 server to the same phases as `request`; one stream's exchange (`exchange`) and its
//! answer's body (`body`).
//! Does not live here: frames, flow control, limits on resets and floods (hyper and h2, configured here).
//! Invariant: a stream is inspected, routed and rewritten by the very functions that serve HTTP/1.

mod body;
mod exchange;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use httparse::Header;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};

use crate::answer::{Answer, Asked, page};
use crate::buffer::Buffer;
use crate::clock::Watch;
use crate::h1::body::Decoder;
use crate::h2::body::Reply;
use crate::h2::exchange::forward;
use crate::inspect::{self, Version};
use crate::options::Timeouts;
use crate::request::{Connection, FIELDS_MAX, enter};
use crate::stream::Io;
use crate::worker::{Peer, Worker};

/// Flow control: enough for a gigabit at 10 ms, bounded per stream and connection.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;

/// Streams reset by the client before they were served, and those we had to reset: beyond this the connection is ended
/// (rapid reset).
const RESETS_MAX: usize = 50;

/// Whether the other side is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// What an answer may keep waiting inside of h2 for a client that does not read, per stream.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// A connection that has been told to end and has no stream may still have the rest of an answer to send; what moves
/// between two looks must then be more than a few pings.
const STILL_SENDING_BYTES: u64 = 1 << 10;

/// Serves an HTTP/2 connection until it ends.
pub(crate) async fn serve(connection: Connection) {
    let Connection {
        worker,
        io,
        buffer,
        watch: _,
        peer,
    } = connection;
    let peer = Rc::new(peer);
    let busy = Rc::new(Busy::default());
    let mut builder = hyper::server::conn::http2::Builder::new(Local(busy.clone()));
    builder
        .timer(hyper_util::rt::TokioTimer::new())
        .max_concurrent_streams(worker.limits.streams)
        .max_header_list_size(u32::try_from(worker.limits.head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let service = {
        let (worker, busy) = (worker.clone(), busy.clone());
        hyper::service::service_fn(move |request| {
            let (worker, peer, busy) = (worker.clone(), peer.clone(), busy.clone());
            async move { Ok::<_, Infallible>(answer(&worker, &peer, &busy, request).await) }
        })
    };
    let transport = Transport {
        io: io.into_inner(),
        early: buffer,
        busy: busy.clone(),
    };
    let mut serving = pin!(builder.serve_connection(transport, service));
    let mut look = pin!(tokio::time::sleep(worker.timeouts.head));
    let (mut told, mut written) = (false, 0);
    loop {
        if !told && (busy.patience(&worker.timeouts).is_zero() || worker.draining.get().is_some()) {
            // GOAWAY: streams in flight end, new ones go to another connection.
            told = true;
            serving.as_mut().graceful_shutdown();
            look.as_mut().reset(soon(worker.timeouts.head));
        }
        tokio::select! {
            biased;
            // Whatever the reason it ended: there is nobody left to tell.
            _ended = serving.as_mut() => return,
            () = worker.drain.notified(), if !told => {}
            () = look.as_mut() => {
                let moved = busy.written.get() - std::mem::replace(&mut written, busy.written.get());
                // It was told, and had its time: a client need not answer, and one that never finished its preface cannot.
                if told && busy.streams.get() == 0 && moved < STILL_SENDING_BYTES {
                    return;
                }
                let next = if told { worker.timeouts.head } else { busy.patience(&worker.timeouts) };
                look.as_mut().reset(soon(next));
            }
        }
    }
}

fn soon(limit: Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + limit
}

/// What is going on on one connection.
struct Busy {
    streams: Cell<usize>,
    /// The last stream's end, or the connection's beginning.
    quiet_since: Cell<Instant>,
    has_asked: Cell<bool>,
    /// Bytes sent.
    written: Cell<u64>,
    /// The deadline of a stream whose answer has just begun, on its way from the service to the task that runs both.
    answering: Cell<Option<Rc<Watch>>>,
}

impl Default for Busy {
    fn default() -> Busy {
        Busy {
            streams: Cell::default(),
            quiet_since: Cell::new(Instant::now()),
            has_asked: Cell::default(),
            written: Cell::default(),
            answering: Cell::default(),
        }
    }
}

impl Busy {
    /// How long the connection may go on without a stream: the first is due as soon as the first request of HTTP/1 is.
    fn patience(&self, timeouts: &Timeouts) -> Duration {
        let limit = if self.has_asked.get() {
            timeouts.keep_alive
        } else {
            timeouts.head
        };
        if self.streams.get() > 0 {
            return limit;
        }
        limit.saturating_sub(self.quiet_since.get().elapsed())
    }
}

struct BusyStream(Rc<Busy>);

impl BusyStream {
    fn new(busy: &Rc<Busy>) -> BusyStream {
        busy.streams.set(busy.streams.get() + 1);
        busy.has_asked.set(true);
        BusyStream(busy.clone())
    }

    /// From here on the stream is reset when its deadline passes.
    fn limit(&self, watch: &Rc<Watch>) {
        self.0.answering.set(Some(watch.clone()));
    }
}

impl Drop for BusyStream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.quiet_since.set(Instant::now());
    }
}

/// Runs hyper's tasks, one per stream, on this thread.
#[derive(Clone)]
struct Local(Rc<Busy>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, stream: F) {
        let busy = self.0.clone();
        let limited = async move {
            let (mut stream, mut deadline) = (pin!(stream), None);
            poll_fn(|cx| {
                let polled = stream.as_mut().poll(cx);
                if let Some(watch) = busy.answering.take() {
                    deadline = Some(watch);
                }
                // hyper does not ask for more of an answer while the client makes no room: nobody else would notice that
                // the time is up. Dropping the stream resets it and frees the instance.
                match &deadline {
                    Some(watch) if polled.is_pending() && watch.check(cx).is_err() => Poll::Ready(()),
                    Some(_) | None => polled,
                }
            })
            .await;
        };
        tokio::task::spawn_local(limited);
    }
}

/// A connection as hyper wants it, with the bytes that were read to find out what it speaks.
struct Transport {
    io: Io,
    early: Buffer,
    busy: Rc<Busy>,
}

impl Read for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Transport { io, early, .. } = &mut *self;
        if !early.is_empty() {
            let n = early.filled().len().min(into.remaining());
            into.put_slice(&early.filled()[..n]);
            early.consume(n);
            return Poll::Ready(Ok(()));
        }
        let mut block = [0u8; 8 << 10];
        let room = into.remaining().min(block.len());
        match io.poll_read(cx, &mut block[..room]) {
            Poll::Ready(Ok(n)) => {
                into.put_slice(&block[..n]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(cause)) => Poll::Ready(Err(cause)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Write for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.io.poll_write(cx, bytes);
        if let Poll::Ready(Ok(n)) = written {
            self.busy.written.set(self.busy.written.get() + n as u64);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_shutdown(cx)
    }
}

/// One stream: the phases of `request`, then the instance's answer as a body that is pulled.
async fn answer(
    worker: &Rc<Worker>,
    peer: &Peer,
    busy: &Rc<Busy>,
    request: Request<Incoming>,
) -> Response<Reply> {
    let busy = BusyStream::new(busy);
    let mut out = worker.stock.text();
    let (parts, body) = request.into_parts();
    let unknown_length = !body.is_end_stream() && !parts.headers.contains_key(http::header::CONTENT_LENGTH);
    let fields: Vec<Header<'_>> = parts
        .headers
        .iter()
        .map(|(name, value)| Header {
            name: name.as_str(),
            value: value.as_bytes(),
        })
        .collect();
    let cookies = join_cookies(&parts.headers);
    let fields = with_cookies(fields, cookies.as_deref());
    let incoming = inspect::Incoming {
        version: Version::Http2,
        method: parts.method.as_str(),
        authority: parts.uri.authority().map(http::uri::Authority::as_str),
        path: match parts.uri.path() {
            "" => "/",
            path => path,
        },
        query: parts
            .uri
            .path_and_query()
            .and_then(|pq| pq.as_str().find('?').map(|n| &pq.as_str()[n..]))
            .unwrap_or(""),
        fields: &fields,
    };
    let entered = if fields.len() > FIELDS_MAX {
        let unread = inspect::Incoming {
            fields: &[],
            ..incoming
        };
        enter(worker, peer, &unread, None, &mut out).and_then(|exchange| {
            let refusal = inspect::Refusal {
                status: 431,
                what: "there are too many header fields",
            };
            Err((Answer::close(refusal), exchange.asked))
        })
    } else {
        enter(
            worker,
            peer,
            &incoming,
            unknown_length.then(Decoder::chunked),
            &mut out,
        )
    };
    match entered {
        Ok(exchange) => forward(worker, exchange, body, out, busy).await,
        Err((answer, asked)) => {
            worker.stock.keep_text(out);
            own(&answer, &asked)
        }
    }
}

/// HTTP/2 splits cookies for compression; HTTP/1 knows one field (RFC 9113, 8.2.3).
fn join_cookies(headers: &HeaderMap) -> Option<Vec<u8>> {
    let cookies: Vec<&[u8]> = headers
        .get_all(http::header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    (cookies.len() > 1).then(|| cookies.join(&b"; "[..]))
}

fn with_cookies<'b>(mut fields: Vec<Header<'b>>, cookies: Option<&'b [u8]>) -> Vec<Header<'b>> {
    if let Some(cookies) = cookies {
        fields.retain(|f| f.name != "cookie");
        fields.push(Header {
            name: "cookie",
            value: cookies,
        });
    }
    fields
}

/// An answer of the edge.
fn own(answer: &Answer, asked: &Asked) -> Response<Reply> {
    let (media_type, text) = page(answer, asked);
    let text = if asked.is_head {
        Bytes::new()
    } else {
        Bytes::from(text)
    };
    let mut response = Response::new(Reply::Own(Some(text).filter(|t| !t.is_empty())));
    *response.status_mut() =
        StatusCode::from_u16(answer.refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(asked.id.as_str()) {
        headers.insert("x-request-id", id);
    }
    if let Some(seconds) = answer.retry_after_s {
        headers.insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
