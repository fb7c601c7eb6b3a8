//! HTTP/2 from clients, HTTP/1.1 toward instances.
//!
//! Lives here: adapting hyper's HTTP/2 server to the same phases as `request`, streams and bodies.
//! Does not live here: frames, flow control, limits on resets and floods (hyper and h2, configured here).
//! Invariant: a stream is inspected, routed and rewritten by the very functions that serve HTTP/1.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use httparse::Header;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};

use crate::admit::too_large;
use crate::answer::{Answer, Asked, page};
use crate::buffer::Buffer;
use crate::clock::Watch;
use crate::fields::may_be_trailer;
use crate::forward::{Exchange, Tries, may_repeat, no_answer, reach};
use crate::h1::body::{Decoder, Step, trailers};
use crate::inspect::{self, Version};
use crate::pick::Lease;
use crate::relay::begin_chunk;
use crate::request::{Connection, FIELDS_MAX, enter};
use crate::stream::{Io, Stream, write_all};
use crate::upstream::{self, NoAnswer, ToHead, Upstream};
use crate::worker::{Ending, Peer, Worker};

/// Flow control: enough for a gigabit at 10 ms, bounded per stream and connection.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;

/// Streams reset by the client before they were served, and those we had to reset: beyond this the connection is ended
/// (rapid reset).
const RESETS_MAX: usize = 50;

/// Whether the other side is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

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
    let mut builder = hyper::server::conn::http2::Builder::new(Local);
    builder
        .timer(hyper_util::rt::TokioTimer::new())
        .max_concurrent_streams(worker.limits.streams)
        .max_header_list_size(u32::try_from(worker.limits.head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(STREAM_WINDOW_BYTES as usize)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let busy = Rc::new(Busy::default());
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
    };
    let mut serving = pin!(builder.serve_connection(transport, service));
    let mut idle = pin!(tokio::time::sleep(worker.timeouts.keep_alive));
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            // Whatever the reason it ended: there is nobody left to tell.
            _ended = serving.as_mut() => return,
            () = worker.drain.notified(), if !told => {}
            () = idle.as_mut() => {
                let since = busy.quiet_since.get().unwrap_or_else(Instant::now);
                let quiet = if busy.streams.get() == 0 { since.elapsed() } else { Duration::ZERO };
                told |= quiet >= worker.timeouts.keep_alive;
                if told {
                    serving.as_mut().graceful_shutdown();
                }
                idle.as_mut().reset(tokio::time::Instant::now() + worker.timeouts.keep_alive);
            }
        }
        if !told && let Some(Ending::Now | Ending::AfterNextAnswer) = worker.draining.get() {
            // GOAWAY: streams in flight end, new ones go to another connection.
            told = true;
            serving.as_mut().graceful_shutdown();
        }
    }
}

/// Streams being served on one connection.
#[derive(Debug, Default)]
struct Busy {
    streams: std::cell::Cell<usize>,
    quiet_since: std::cell::Cell<Option<Instant>>,
}

struct BusyStream(Rc<Busy>);

impl BusyStream {
    fn new(busy: &Rc<Busy>) -> BusyStream {
        busy.streams.set(busy.streams.get() + 1);
        BusyStream(busy.clone())
    }
}

impl Drop for BusyStream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.quiet_since.set(Some(Instant::now()));
    }
}

/// Runs hyper's tasks on this thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A connection as hyper wants it, with the bytes that were read to find out what it speaks.
struct Transport {
    io: Io,
    early: Buffer,
}

impl Read for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Transport { io, early } = &mut *self;
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
        self.io.poll_write(cx, bytes)
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

/// Sends the request's body while the answer is awaited, and after.
type Sending = Pin<Box<dyn Future<Output = Result<(), Unsent>>>>;

/// Why a request body did not go out whole.
enum Unsent {
    /// The client's fault, with the answer it gets.
    Client(Answer),
    /// The instance takes no more.
    Instance,
}

async fn forward(
    worker: &Rc<Worker>,
    mut exchange: Exchange,
    body: Incoming,
    out: Vec<u8>,
    busy: BusyStream,
) -> Response<Reply> {
    let watch = Rc::new(worker.clock.watch());
    let service = exchange.service.clone();
    service.budget.deposit();
    let mut body = Some(body);
    let mut tries = Tries::default();
    loop {
        let (lease, mut upstream) = match reach(worker, &watch, &mut exchange, &mut tries).await {
            Ok(reached) => reached,
            Err(answer) => return give_up(&exchange, &answer),
        };
        watch.arm_ms(service.service.request_timeout_ms);
        let sent = write_all(&upstream.io, &watch, &out).await;
        let any_sent = sent.as_ref().map_or_else(|e| e.written > 0, |()| true);
        let mut sending: Option<Sending> = None;
        if !exchange.body.is_done() && sent.is_ok() {
            let Some(body) = body.take() else {
                return give_up(&exchange, &no_answer(NoAnswer::Silence));
            };
            sending = Some(Box::pin(send(
                body,
                exchange.body.clone(),
                upstream.io.clone(),
                watch.clone(),
                service.clone(),
            )));
        }
        let head = match sent {
            Ok(()) => head(worker, &watch, &exchange, &mut upstream, &mut sending).await,
            Err(_) => Err(Ok(NoAnswer::Silence)),
        };
        match head {
            Ok((parts, decoder, persistent)) => {
                let target_failed = &lease.target.failed;
                if parts.status.is_server_error() {
                    target_failed.set(target_failed.get() + 1);
                }
                worker.stock.keep_text(out);
                let status = parts.status.as_u16();
                let stream = Streamed {
                    worker: worker.clone(),
                    watch,
                    upstream: Some(upstream),
                    decoder,
                    persistent,
                    sending,
                    lease,
                    idle_ms: service.service.idle_timeout_ms,
                    status,
                    started: exchange.started,
                    ended: false,
                    _busy: busy,
                };
                return Response::from_parts(parts, Reply::Instance(Box::new(stream)));
            }
            Err(Ok(why)) => {
                if may_repeat(worker, &exchange, &mut tries, upstream.reused, why, any_sent) {
                    lease.series.retried();
                    tries.fresh_only = true;
                    if !upstream.reused {
                        tries.passed_over.push(lease.target.addr);
                    }
                    continue;
                }
                lease.target.failed.set(lease.target.failed.get() + 1);
                return give_up(&exchange, &no_answer(why));
            }
            Err(Err(answer)) => return give_up(&exchange, &answer),
        }
    }
}

fn give_up(exchange: &Exchange, answer: &Answer) -> Response<Reply> {
    exchange.service.series.answered_by_edge(answer.refusal.status);
    own(answer, &exchange.asked)
}

type Head = (http::response::Parts, Decoder, bool);

/// The answer's head, while the body goes out. The inner error is an answer to a client that is at fault.
async fn head(
    worker: &Worker,
    watch: &Watch,
    exchange: &Exchange,
    upstream: &mut Upstream,
    sending: &mut Option<Sending>,
) -> Result<Head, Result<NoAnswer, Answer>> {
    let to_head = if exchange.asked.is_head {
        ToHead::Yes
    } else {
        ToHead::No
    };
    let mut receiving = pin!(upstream::reply(
        upstream,
        watch,
        &worker.stock,
        to_head,
        |reply| {
            convert(reply, &exchange.asked).map(|parts| (parts, reply.body.clone(), reply.persistent))
        }
    ));
    poll_fn(|cx| {
        if let Some(unsent) = sending.as_mut()
            && let Poll::Ready(outcome) = unsent.as_mut().poll(cx)
        {
            *sending = None;
            watch.arm_ms(exchange.service.service.request_timeout_ms);
            if let Err(Unsent::Client(answer)) = outcome {
                return Poll::Ready(Err(Err(answer)));
            }
        }
        receiving.as_mut().poll(cx).map(|received| match received {
            Ok(Some(head)) => Ok(head),
            Ok(None) => Err(Ok(NoAnswer::Garbage)),
            Err(why) => Err(Ok(why)),
        })
    })
    .await
}

/// The instance's head for an HTTP/2 client; `None` when it cannot be said there (101).
fn convert(reply: &upstream::Reply<'_>, asked: &Asked) -> Option<http::response::Parts> {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = StatusCode::from_u16(reply.status)
        .ok()
        .filter(|s| *s != StatusCode::SWITCHING_PROTOCOLS)?;
    for field in reply.passed_on() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        parts
            .headers
            .append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    let length = match reply.body {
        Decoder::Length(0) => reply.declared_length.filter(|_| reply.status != 204),
        Decoder::Length(length) => Some(length),
        Decoder::Chunked(_) | Decoder::UntilClose => None,
    };
    if let Some(length) = length {
        parts
            .headers
            .insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !parts.headers.contains_key("x-request-id") {
        parts
            .headers
            .insert("x-request-id", HeaderValue::from_str(asked.id.as_str()).ok()?);
    }
    Some(parts)
}

/// Sends a request's body to the instance, in the framing its head announced.
async fn send(
    mut body: Incoming,
    framing: Decoder,
    io: Rc<Stream>,
    watch: Rc<Watch>,
    service: Rc<crate::pick::LocalService>,
) -> Result<(), Unsent> {
    let is_chunked = matches!(framing, Decoder::Chunked(_));
    let limit = service.service.max_body_bytes.unwrap_or(u64::MAX);
    let (mut moved, mut out, mut trailing) = (0u64, Vec::new(), None);
    let late = || {
        Answer::close(inspect::Refusal {
            status: 408,
            what: "the request body did not arrive in time",
        })
    };
    loop {
        watch.arm_ms(service.service.idle_timeout_ms);
        let frame = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Pending if watch.check(cx).is_err() => Poll::Ready(Err(Unsent::Client(late()))),
            Poll::Pending => Poll::Pending,
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
        });
        let frame = match frame.await? {
            None => break,
            Some(Ok(frame)) => frame,
            Some(Err(_)) => {
                return Err(Unsent::Client(Answer::close(inspect::bad(
                    "the request body broke off",
                ))));
            }
        };
        out.clear();
        match frame.into_data() {
            Ok(data) if data.is_empty() => continue,
            Ok(data) => {
                moved += data.len() as u64;
                if moved > limit {
                    return Err(Unsent::Client(too_large()));
                }
                if is_chunked {
                    begin_chunk(&mut out, data.len());
                }
                out.extend_from_slice(&data);
                if is_chunked {
                    out.extend_from_slice(b"\r\n");
                }
            }
            Err(frame) => trailing = frame.into_trailers().ok(),
        }
        write_all(&io, &watch, &out).await.map_err(|_| Unsent::Instance)?;
    }
    service.series.moved_in(moved);
    if is_chunked {
        out.clear();
        out.extend_from_slice(b"0\r\n");
        let trailing = trailing.unwrap_or_default();
        for (name, value) in &trailing {
            if may_be_trailer(name.as_str()) {
                for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                    out.extend_from_slice(part);
                }
            }
        }
        out.extend_from_slice(b"\r\n");
        write_all(&io, &watch, &out).await.map_err(|_| Unsent::Instance)?;
    }
    Ok(())
}

/// An answer's body.
pub(crate) enum Reply {
    Own(Option<Bytes>),
    Instance(Box<Streamed>),
}

/// A body that is read from the instance when the client can take more.
pub(crate) struct Streamed {
    worker: Rc<Worker>,
    watch: Rc<Watch>,
    upstream: Option<Upstream>,
    decoder: Decoder,
    persistent: bool,
    sending: Option<Sending>,
    lease: Lease,
    idle_ms: u64,
    status: u16,
    started: Instant,
    ended: bool,
    _busy: BusyStream,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Reply::Own(text) => Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            Reply::Instance(stream) => stream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Own(text) => text.is_none(),
            Reply::Instance(stream) => stream.decoder.is_done() && stream.sending.is_none(),
        }
    }
}

impl Streamed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(sending) = &mut self.sending
            && let Poll::Ready(outcome) = sending.as_mut().poll(cx)
        {
            self.persistent &= outcome.is_ok();
            self.sending = None;
        }
        loop {
            let Some(upstream) = &mut self.upstream else {
                return Poll::Ready(None);
            };
            match self.decoder.step(upstream.buffer.filled()) {
                Ok(Step::Data(n)) => {
                    let data = Bytes::copy_from_slice(&upstream.buffer.filled()[..n]);
                    upstream.buffer.consume(n);
                    self.lease.series.moved_out(n as u64);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Step::Framing(n)) => upstream.buffer.consume(n),
                Ok(Step::Trailers(n)) => {
                    let map = trailer_map(&upstream.buffer.filled()[..n]);
                    upstream.buffer.consume(n);
                    if let Some(map) = map {
                        return Poll::Ready(Some(Ok(Frame::trailers(map))));
                    }
                }
                Ok(Step::Done) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Err(_) => return self.cut(io::ErrorKind::InvalidData),
                Ok(Step::NeedMore) => {
                    self.worker.stock.supply(&mut upstream.buffer);
                    self.watch.arm_ms(self.idle_ms);
                    let read = upstream.io.borrow_mut().poll_read(cx, upstream.buffer.space());
                    match read {
                        Poll::Pending if self.watch.check(cx).is_err() => {
                            return self.cut(io::ErrorKind::TimedOut);
                        }
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(0)) if self.decoder == Decoder::UntilClose => {
                            self.decoder = Decoder::nothing();
                        }
                        Poll::Ready(Ok(0) | Err(_)) => return self.cut(io::ErrorKind::UnexpectedEof),
                        Poll::Ready(Ok(n)) => upstream.buffer.commit(n),
                    }
                }
            }
        }
    }

    /// The answer is through.
    fn finish(&mut self) {
        self.ended = true;
        let us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.lease.series.answered(self.status, us);
        let Some(upstream) = self.upstream.take() else {
            return;
        };
        if self.persistent && self.sending.is_none() {
            let worker = &self.worker;
            upstream::keep(
                &self.lease.target,
                upstream,
                &worker.stock,
                worker.clock.now_ms(),
                worker.limits.idle_upstreams,
            );
        }
    }

    /// The instance broke off: the stream is reset, so that the client knows.
    fn cut(&mut self, kind: io::ErrorKind) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.ended = true;
        self.upstream = None;
        self.lease.series.cut();
        self.lease.target.failed.set(self.lease.target.failed.get() + 1);
        Poll::Ready(Some(Err(kind.into())))
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // hyper does not ask again once `is_end_stream` said so.
        if self.decoder.is_done() {
            self.finish();
        } else {
            self.lease.series.cut();
        }
    }
}

fn trailer_map(block: &[u8]) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in trailers(block).ok()? {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).ok()?,
            HeaderValue::from_bytes(value).ok()?,
        );
    }
    (!map.is_empty()).then_some(map)
}
