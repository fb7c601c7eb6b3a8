//! An answer's body for an HTTP/2 client.
//!
//! Lives here: reading it from the instance as the client takes it.
//! Does not live here: the head (`exchange`).
//! Invariant: nothing is read that the client has not made room for; an answer that broke off resets the stream, and so does
//! one that stands still, whichever side it waits for. Only what moved re-arms the deadline, never a look at it.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame};

use crate::clock::Watch;
use crate::h1::body::{Decoder, Step, trailers};
use crate::h2::BusyStream;
use crate::h2::exchange::{Sending, Unsent};
use crate::pick::Lease;
use crate::upstream::{self, Upstream};
use crate::worker::Worker;

/// An answer's body.
pub(super) enum Reply {
    Own(Option<Bytes>),
    Instance(Box<Streamed>),
}

/// A body that is read from the instance when the client can take more.
pub(super) struct Streamed {
    pub(super) worker: Rc<Worker>,
    pub(super) watch: Rc<Watch>,
    pub(super) upstream: Option<Upstream>,
    pub(super) decoder: Decoder,
    pub(super) persistent: bool,
    pub(super) sending: Option<Sending>,
    pub(super) lease: Lease,
    pub(super) idle_ms: u64,
    pub(super) status: u16,
    pub(super) started: Instant,
    pub(super) ended: bool,
    pub(super) _busy: BusyStream,
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
            self.sending = None;
            match outcome {
                Ok(()) => {}
                // It answers, or has answered, without the rest.
                Err(Unsent::Instance) => self.persistent = false,
                Err(_) if self.decoder.is_done() => self.persistent = false,
                Err(Unsent::Stalled) => return self.cut(io::ErrorKind::TimedOut),
                Err(Unsent::Client(_)) => return self.abandon(io::ErrorKind::ConnectionAborted),
            }
        }
        loop {
            let Some(upstream) = &mut self.upstream else {
                return Poll::Ready(None);
            };
            match self.decoder.step(upstream.buffer.filled()) {
                Ok(Step::Data(n)) => {
                    let data = Bytes::copy_from_slice(&upstream.buffer.filled()[..n]);
                    upstream.buffer.consume(n);
                    self.watch.arm_ms(self.idle_ms);
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
                        Poll::Ready(Ok(n)) => {
                            upstream.buffer.commit(n);
                            self.watch.arm_ms(self.idle_ms);
                        }
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
        self.lease.target.failed.set(self.lease.target.failed.get() + 1);
        self.abandon(kind)
    }

    /// The client broke off, or somebody did.
    fn abandon(&mut self, kind: io::ErrorKind) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.ended = true;
        self.upstream = None;
        self.lease.series.cut();
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
