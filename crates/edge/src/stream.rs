//! Reading and writing, plain or under TLS, always under a deadline.
//!
//! Lives here: the two kinds of connection as one, and the few ways in which bytes move.
//! Does not live here: what the bytes mean.
//! Invariant: no wait without an armed [`Watch`]. A stream is shared by the two directions of one exchange, which run in
//! one task: a borrow never lasts across a wait.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::buffer::{Buffer, Stock};
use crate::clock::Watch;

/// A connection.
#[derive(Debug)]
pub(crate) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(into);
        let outcome = match self {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, &mut read),
            Io::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, &mut read),
        };
        outcome.map_ok(|()| read.filled().len())
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    /// Only TLS holds anything back.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Io::Plain(_) => Poll::Ready(Ok(())),
            Io::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

/// A connection used by both directions of an exchange.
pub(crate) type Stream = RefCell<Io>;

/// Under TLS: as much as is read before there is a buffer. Most heads fit.
const FIRST_BYTES: usize = 2 << 10;

/// Waits until there is something to read, without holding a buffer meanwhile. Under TLS that cannot be known without
/// reading: the first bytes are in the buffer then.
pub(crate) async fn readable(
    stream: &Stream,
    watch: &Watch,
    stock: &Stock,
    buffer: &mut Buffer,
) -> io::Result<()> {
    poll_fn(|cx| {
        let ready = match &mut *stream.borrow_mut() {
            Io::Plain(stream) => stream.poll_read_ready(cx),
            secured @ Io::Tls(_) => {
                let mut first = [0; FIRST_BYTES];
                let n = secured.poll_read(cx, &mut first);
                n.map_ok(|n| {
                    stock.supply(buffer);
                    buffer.space()[..n].copy_from_slice(&first[..n]);
                    buffer.commit(n);
                })
            }
        };
        if ready.is_pending() {
            watch.check(cx)?;
        }
        ready
    })
    .await
}

/// Whether the other side is still there, as far as the kernel knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    There,
    /// It has sent all it will ever send. Whether it still reads only shows when something is sent to it.
    Silent,
    /// It reads nothing any more.
    Gone,
}

/// What the other side sent before and nobody read does not hide that it left.
pub(crate) fn presence(stream: &Stream) -> Presence {
    let stream = stream.borrow();
    let socket = match &*stream {
        Io::Plain(socket) => socket,
        Io::Tls(stream) => stream.get_ref().0,
    };
    // Errors and hang-ups are told unasked.
    let mut asked = [PollFd::new(socket, PollFlags::RDHUP)];
    if !matches!(poll(&mut asked, Some(&Timespec::default())), Ok(told) if told > 0) {
        return Presence::There;
    }
    let told = asked[0].revents();
    if told.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
        Presence::Gone
    } else {
        Presence::Silent
    }
}

/// Reads once into the buffer's free space; 0 is the end.
pub(crate) async fn read(stream: &Stream, watch: &Watch, buffer: &mut Buffer) -> io::Result<usize> {
    let n = poll_fn(|cx| {
        let ready = stream.borrow_mut().poll_read(cx, buffer.space());
        if ready.is_pending() {
            watch.check(cx)?;
        }
        ready
    })
    .await?;
    buffer.commit(n);
    Ok(n)
}

/// How far a write came before it failed.
#[derive(Debug)]
pub(crate) struct WriteError {
    /// Bytes the kernel took.
    pub(crate) written: usize,
    pub(crate) cause: io::Error,
}

/// Writes everything by the deadline.
pub(crate) async fn write_all(stream: &Stream, watch: &Watch, bytes: &[u8]) -> Result<(), WriteError> {
    write_noting(stream, watch, bytes, || ()).await
}

/// Writes everything, however long that takes; but never does nothing move for `idle_ms`.
pub(crate) async fn write_moving(
    stream: &Stream,
    watch: &Watch,
    bytes: &[u8],
    idle_ms: u64,
) -> Result<(), WriteError> {
    watch.arm_ms(idle_ms);
    write_noting(stream, watch, bytes, || watch.arm_ms(idle_ms)).await
}

async fn write_noting(
    stream: &Stream,
    watch: &Watch,
    bytes: &[u8],
    moved: impl Fn(),
) -> Result<(), WriteError> {
    let mut written = 0;
    let outcome = poll_fn(|cx| {
        let mut io = stream.borrow_mut();
        while written < bytes.len() {
            match io.poll_write(cx, &bytes[written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    written += n;
                    moved();
                }
                Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
                Poll::Pending => {
                    watch.check(cx)?;
                    return Poll::Pending;
                }
            }
        }
        let flushed = io.poll_flush(cx);
        if flushed.is_pending() {
            watch.check(cx)?;
        }
        flushed
    })
    .await;
    outcome.map_err(|cause| WriteError { written, cause })
}

/// Tells the other side that nothing more comes. Bounded by the watch; failures do not matter any more.
pub(crate) async fn shutdown(stream: &Stream, watch: &Watch) {
    let _closed_anyway = poll_fn(|cx| {
        let ready = stream.borrow_mut().poll_shutdown(cx);
        if ready.is_pending() {
            watch.check(cx)?;
        }
        ready
    })
    .await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpSocket;

    use super::*;
    use crate::clock::Clock;

    /// Two ends with little room between them.
    async fn narrow() -> (Stream, TcpStream) {
        let receiving = TcpSocket::new_v4().unwrap();
        receiving.set_recv_buffer_size(4096).unwrap();
        receiving.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = receiving.listen(1).unwrap();
        let sending = TcpSocket::new_v4().unwrap();
        sending.set_send_buffer_size(4096).unwrap();
        let stream = sending.connect(listener.local_addr().unwrap()).await.unwrap();
        (Stream::new(Io::Plain(stream)), listener.accept().await.unwrap().0)
    }

    #[test]
    fn a_write_may_last_while_something_moves() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let (stream, mut receiver) = narrow().await;
            let clock = Clock::new();
            let watch = clock.watch();
            let (bytes, mut block) = (vec![0; 4 << 20], [0; 8 << 10]);
            // A twentieth of the limit passes for every few bytes taken: all in all many times the limit.
            let mut writing = std::pin::pin!(write_moving(&stream, &watch, &bytes, 10_000));
            loop {
                tokio::select! {
                    biased;
                    written = writing.as_mut() => break written.unwrap(),
                    taken = receiver.read(&mut block) => assert!(taken.unwrap() > 0),
                }
                clock.pass(500);
            }
            let mut stuck = std::pin::pin!(write_moving(&stream, &watch, &bytes, 10_000));
            let error = loop {
                tokio::select! {
                    biased;
                    written = stuck.as_mut() => break written.unwrap_err(),
                    () = tokio::task::yield_now() => clock.pass(500),
                }
            };
            assert_eq!(error.cause.kind(), io::ErrorKind::TimedOut);
        });
    }
}
