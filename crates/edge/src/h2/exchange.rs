//! One HTTP/2 stream and one instance.
//!
//! Lives here: sending the request and its body, the answer's head; repeating what may be repeated.
//! Does not live here: the answer's body (`body`), frames (hyper).
//! Invariant: the rules of repetition are those of `forward`; a body that began to flow is never sent again.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;

use crate::admit::too_large;
use crate::answer::{Answer, Asked};
use crate::clock::Watch;
use crate::fields::may_be_trailer;
use crate::forward::{Exchange, Tries, may_repeat, no_answer, reach, unread};
use crate::h1::body::Decoder;
use crate::h2::body::{Reply, Streamed};
use crate::h2::{BusyStream, own};
use crate::inspect;
use crate::pick::LocalService;
use crate::relay::begin_chunk;
use crate::stream::{Stream, WriteError, write_all, write_moving};
use crate::upstream::{self, NoAnswer, ToHead, Upstream};
use crate::worker::Worker;

/// Sends the request's body while the answer is awaited, and after.
pub(super) type Sending = Pin<Box<dyn Future<Output = Result<(), Unsent>>>>;

/// Why a request body did not go out whole.
pub(super) enum Unsent {
    /// The client's fault, with the answer it gets.
    Client(Answer),
    /// The instance refuses the rest.
    Instance,
    /// The instance took nothing for too long.
    Stalled,
}

impl From<WriteError> for Unsent {
    fn from(error: WriteError) -> Unsent {
        match error.cause.kind() {
            io::ErrorKind::TimedOut => Unsent::Stalled,
            _ => Unsent::Instance,
        }
    }
}

pub(super) async fn forward(
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
        let (lease, mut upstream) = match reach(worker, &watch, None, &mut exchange, &mut tries).await {
            Ok(reached) => reached,
            Err(answer) => return give_up(&exchange, &answer),
        };
        watch.arm_ms(service.service.request_timeout_ms);
        let sent = write_all(&upstream.io, &watch, &out).await;
        let any_sent = sent.as_ref().map_or_else(|e| e.written > 0, |()| true);
        let mut sending: Option<Sending> = None;
        if !exchange.is_whole && sent.is_ok() {
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
            Err(error) => Err(Ok(unread(&error))),
        };
        match head {
            Ok((parts, decoder, persistent)) => {
                drop(lease.turn.take());
                let target_failed = &lease.target.failed;
                if parts.status.is_server_error() {
                    target_failed.set(target_failed.get() + 1);
                }
                worker.stock.keep_text(out);
                watch.arm_ms(service.service.idle_timeout_ms);
                busy.limit(&watch);
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
            match outcome {
                Err(Unsent::Client(answer)) => return Poll::Ready(Err(Err(answer))),
                Err(Unsent::Stalled) => return Poll::Ready(Err(Ok(NoAnswer::TooLate))),
                Ok(()) | Err(Unsent::Instance) => {}
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
    service: Rc<LocalService>,
) -> Result<(), Unsent> {
    let is_chunked = matches!(framing, Decoder::Chunked(_));
    let limit = service.service.max_body_bytes.unwrap_or(u64::MAX);
    let idle_ms = service.service.idle_timeout_ms;
    let (mut moved, mut out, mut trailing) = (0u64, Vec::new(), None);
    let late = || {
        Answer::close(inspect::Refusal {
            status: 408,
            what: "the request body did not arrive in time",
        })
    };
    loop {
        watch.arm_ms(idle_ms);
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
        write_moving(&io, &watch, &out, idle_ms).await?;
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
        write_moving(&io, &watch, &out, idle_ms).await?;
    }
    Ok(())
}
