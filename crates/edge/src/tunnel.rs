//! Upgraded connections: bytes both ways.
//!
//! Lives here: the copying, its idle limit, its end when the instance drains.
//! Does not live here: agreeing on the upgrade (`forward`).
//! Invariant: entered only after the instance has said 101 (N52). A quiet tunnel holds no buffer.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use crate::buffer::{Buffer, Stock};
use crate::pick::Lease;
use crate::request::Connection;
use crate::stream::Stream;
use crate::upstream::Upstream;
use crate::worker::Worker;

/// How often a quiet tunnel looks whether it should end.
const LOOK_MS: u64 = 5_000;

/// One direction.
struct Pipe<'a> {
    source: &'a Stream,
    sink: &'a Stream,
    buffer: Buffer,
    moved: u64,
    /// The source ended and the sink was told.
    ended: bool,
    source_ended: bool,
}

impl Pipe<'_> {
    /// Moves what can be moved; ready when the direction has ended.
    fn poll(&mut self, cx: &mut Context<'_>, stock: &Stock) -> Poll<io::Result<()>> {
        while !self.ended {
            while !self.buffer.is_empty() {
                let written = match self.sink.borrow_mut().poll_write(cx, self.buffer.filled())? {
                    Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(n) => n,
                    Poll::Pending => return Poll::Pending,
                };
                self.buffer.consume(written);
                self.moved += written as u64;
            }
            if self.sink.borrow_mut().poll_flush(cx)?.is_pending() {
                return Poll::Pending;
            }
            if self.source_ended {
                if self.sink.borrow_mut().poll_shutdown(cx)?.is_pending() {
                    return Poll::Pending;
                }
                self.ended = true;
                break;
            }
            stock.supply(&mut self.buffer);
            match self.source.borrow_mut().poll_read(cx, self.buffer.space()) {
                Poll::Ready(Ok(0)) => self.source_ended = true,
                Poll::Ready(Ok(n)) => self.buffer.commit(n),
                Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
                Poll::Pending => {
                    stock.reclaim(&mut self.buffer);
                    return Poll::Pending;
                }
            }
        }
        stock.reclaim(&mut self.buffer);
        Poll::Ready(Ok(()))
    }
}

/// Copies until both sides have ended, one fails, or it is time.
pub(crate) async fn run(connection: &mut Connection, upstream: Upstream, lease: &Lease) {
    let Connection {
        worker,
        io: client,
        buffer,
        watch,
        ..
    } = connection;
    let pipe = |source, sink, buffer| Pipe {
        source,
        sink,
        buffer,
        moved: 0,
        ended: false,
        source_ended: false,
    };
    let mut there = pipe(client, &upstream.io, std::mem::take(buffer));
    let mut back = pipe(&upstream.io, client, upstream.buffer);
    let mut moved_before = 0;
    let mut quiet_since_ms = worker.clock.now_ms();
    watch.arm_ms(LOOK_MS);
    poll_fn(|cx| {
        loop {
            let (a, b) = (there.poll(cx, &worker.stock), back.poll(cx, &worker.stock));
            let moved = there.moved + back.moved;
            if moved != moved_before {
                (moved_before, quiet_since_ms) = (moved, worker.clock.now_ms());
            }
            match (a, b) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(()),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(()),
                (Poll::Pending, _) | (_, Poll::Pending) => {}
            }
            if watch.check(cx).is_ok() {
                return Poll::Pending;
            }
            if is_over(worker, lease, quiet_since_ms) {
                return Poll::Ready(());
            }
            watch.arm_ms(LOOK_MS);
        }
    })
    .await;
    lease.series.moved_in(there.moved);
    lease.series.moved_out(back.moved);
}

fn is_over(worker: &Worker, lease: &Lease, quiet_since_ms: u64) -> bool {
    let now_ms = worker.clock.now_ms();
    let end_ms = lease.target.upgrades_end_ms.get();
    let idle_ms = u64::try_from(worker.timeouts.upgrade_idle.as_millis()).unwrap_or(u64::MAX);
    (end_ms != 0 && end_ms <= now_ms) || now_ms.saturating_sub(quiet_since_ms) > idle_ms
}
