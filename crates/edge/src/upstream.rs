//! Connections to instances.
//!
//! Lives here: opening them, keeping idle ones per thread, noticing that an idle one is dead; reading an answer's head.
//! Does not live here: which instance (`pick`), passing the answer on (`forward`).
//! Invariant: a connection is kept only when its last answer ended exactly where it said; after any anomaly it is closed.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use httparse::Header;
use tokio::net::TcpStream;

use crate::buffer::{Buffer, LARGE_BYTES, Stock};
use crate::clock::Watch;
use crate::fields::is_hop_by_hop_in_answer;
use crate::h1::body::Decoder;
use crate::h1::head::{Scan, Scanner};
use crate::inspect::length_of;
use crate::pick::Target;
use crate::stream::{Io, Stream, read};

/// Fields of an answer's head.
pub(crate) const FIELDS_MAX: usize = 128;

/// An answer's head: generous, because cookies and policies add up; far below what an endless head would need to hurt.
const HEAD_BYTES_MAX: usize = 128 << 10;

/// Interim answers (103 Early Hints) before the final one.
const INTERIM_MAX: usize = 8;

/// An open connection to an instance.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) io: Rc<Stream>,
    pub(crate) buffer: Buffer,
    idle_since_ms: u64,
    pub(crate) reused: bool,
}

impl Upstream {
    /// Whether the instance has closed it or sent something unasked. Costs no system call unless told to be `sure`.
    fn is_dead(&self, sure: Sure) -> bool {
        let Io::Plain(stream) = &*self.io.borrow() else {
            return true;
        };
        let mut byte = [0u8; 1];
        if stream
            .try_read(&mut byte)
            .map_or_else(|e| e.kind() != io::ErrorKind::WouldBlock, |_| true)
        {
            return true;
        }
        // The reactor may not have heard yet of a close that the kernel already knows.
        sure == Sure::Asking
            && !matches!(
                rustix::net::recv(
                    stream,
                    &mut byte,
                    rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT
                ),
                Err(rustix::io::Errno::AGAIN)
            )
    }
}

/// How carefully an idle connection is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sure {
    /// As far as this thread has heard: the request can be repeated.
    Hearsay,
    /// Ask the kernel: the request cannot be repeated.
    Asking,
}

/// A request that cannot be repeated takes a connection only within this time of its last use: servers close idle ones
/// after two to five seconds, and the close may be under way when the request leaves.
const FRESHLY_USED_MS: u64 = 1_000;

/// An idle connection to the instance, if there is a live one.
pub(crate) fn take(target: &Target, sure: Sure, now_ms: u64) -> Option<Upstream> {
    let mut idle = target.idle.borrow_mut();
    while let Some(mut upstream) = idle.pop() {
        if sure == Sure::Asking && upstream.idle_since_ms + FRESHLY_USED_MS < now_ms {
            idle.push(upstream);
            return None;
        }
        if !upstream.is_dead(sure) {
            upstream.reused = true;
            return Some(upstream);
        }
    }
    None
}

/// Keeps the connection for the next request.
pub(crate) fn keep(target: &Target, mut upstream: Upstream, stock: &Stock, now_ms: u64, most: usize) {
    stock.reclaim(&mut upstream.buffer);
    // Bytes after the answer: the instance and we disagree about where it ended.
    let fits = upstream.buffer.is_empty() && target.upgrades_end_ms.get() == 0;
    let mut idle = target.idle.borrow_mut();
    if fits && idle.len() < most {
        upstream.idle_since_ms = now_ms;
        idle.push(upstream);
    }
}

/// Closes idle connections that are dead or have been idle since before `since_ms`.
pub(crate) fn sweep(target: &Target, since_ms: u64) {
    target
        .idle
        .borrow_mut()
        .retain(|u| u.idle_since_ms >= since_ms && !u.is_dead(Sure::Hearsay));
}

/// Opens a connection; the watch limits it.
pub(crate) async fn connect(addr: SocketAddr, watch: &Watch) -> io::Result<Upstream> {
    let mut connecting = pin!(TcpStream::connect(addr));
    let stream = poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Pending => {
            watch.check(cx)?;
            Poll::Pending
        }
        ready @ Poll::Ready(_) => ready,
    })
    .await?;
    stream.set_nodelay(true)?;
    Ok(Upstream {
        io: Rc::new(Stream::new(Io::Plain(stream))),
        buffer: Buffer::default(),
        idle_since_ms: 0,
        reused: false,
    })
}

/// Whether a failure to connect says something about the instance (rather than about us: no descriptors, no ports).
pub(crate) fn blames_instance(cause: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        cause.kind(),
        Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::TimedOut
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
    )
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The connection ended before the first byte of an answer.
    Silence,
    /// The instance took too long.
    TooLate,
    /// What came is not an answer everybody reads the same way.
    Garbage,
}

/// An answer's head.
#[derive(Debug)]
pub(crate) struct Reply<'b> {
    pub(crate) status: u16,
    pub(crate) reason: &'b str,
    pub(crate) fields: &'b [Header<'b>],
    pub(crate) body: Decoder,
    /// What a HEAD or 304 answer says about the body it does not have.
    pub(crate) declared_length: Option<u64>,
    /// Whether the instance keeps the connection open.
    pub(crate) persistent: bool,
    /// Values of the Connection field.
    connection: [Option<&'b [u8]>; 2],
}

impl<'b> Reply<'b> {
    /// Fields to pass on: without those of our connection with the instance, and without Content-Length (written anew).
    pub(crate) fn passed_on(&self) -> impl Iterator<Item = &'b Header<'b>> + '_ {
        self.fields.iter().filter(|field| {
            !is_hop_by_hop_in_answer(field.name)
                && !field.name.eq_ignore_ascii_case("content-length")
                && (self.connection[0].is_none() || !self.nominates(field.name))
        })
    }

    fn nominates(&self, name: &str) -> bool {
        let tokens = self
            .connection
            .iter()
            .flatten()
            .flat_map(|value| value.split(|&b| b == b','));
        tokens
            .into_iter()
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// Receives the head of the final answer (or of the 101), and hands it, with its length, to `then`; interim answers are dropped.
pub(crate) async fn reply<T>(
    upstream: &mut Upstream,
    watch: &Watch,
    stock: &Stock,
    to_head: ToHead,
    then: impl FnOnce(&Reply<'_>) -> T,
) -> Result<T, NoAnswer> {
    for _ in 0..INTERIM_MAX {
        let length = complete_head(upstream, watch, stock).await?;
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let reply = parse(&upstream.buffer.filled()[..length], &mut fields, to_head)?;
        if reply.status >= 200 || reply.status == 101 {
            let result = then(&reply);
            upstream.buffer.consume(length);
            return Ok(result);
        }
        upstream.buffer.consume(length);
    }
    Err(NoAnswer::Garbage)
}

async fn complete_head(upstream: &mut Upstream, watch: &Watch, stock: &Stock) -> Result<usize, NoAnswer> {
    stock.supply(&mut upstream.buffer);
    let mut scanner = Scanner::default();
    loop {
        match scanner.scan(upstream.buffer.filled()) {
            Scan::Complete(length) => return Ok(length),
            Scan::BareLineEnd => return Err(NoAnswer::Garbage),
            Scan::Partial if upstream.buffer.filled().len() > HEAD_BYTES_MAX => {
                return Err(NoAnswer::Garbage);
            }
            Scan::Partial => {}
        }
        if upstream.buffer.is_full() && upstream.buffer.capacity() < LARGE_BYTES {
            upstream.buffer.grow();
        }
        match read(&upstream.io, watch, &mut upstream.buffer).await {
            Ok(0) if upstream.buffer.is_empty() => return Err(NoAnswer::Silence),
            Ok(0) => return Err(NoAnswer::Garbage),
            Ok(_) => {}
            Err(cause) if cause.kind() == io::ErrorKind::TimedOut => return Err(NoAnswer::TooLate),
            Err(_) if upstream.buffer.is_empty() => return Err(NoAnswer::Silence),
            Err(_) => return Err(NoAnswer::Garbage),
        }
    }
}

/// Whether the request was HEAD: its answer has no body whatever its fields say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToHead {
    Yes,
    No,
}

fn parse<'b>(
    head: &'b [u8],
    fields: &'b mut [MaybeUninit<Header<'b>>],
    to_head: ToHead,
) -> Result<Reply<'b>, NoAnswer> {
    let mut parsed = httparse::Response::new(&mut []);
    let outcome =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, fields);
    if !matches!(outcome, Ok(httparse::Status::Complete(_))) {
        return Err(NoAnswer::Garbage);
    }
    let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
        return Err(NoAnswer::Garbage);
    };
    let fields: &'b [Header<'b>] = parsed.headers;
    let (mut length, mut encoding, mut connection) = (None, None, [None; 2]);
    for field in fields {
        match field.name.len() {
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                let value = length_of(field.value).ok_or(NoAnswer::Garbage)?;
                if length.replace(value).is_some_and(|before| before != value) {
                    return Err(NoAnswer::Garbage);
                }
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding")
                && encoding.replace(field.value).is_some() =>
            {
                return Err(NoAnswer::Garbage);
            }
            10 if field.name.eq_ignore_ascii_case("connection") => {
                let slot = connection
                    .iter_mut()
                    .find(|slot| slot.is_none())
                    .ok_or(NoAnswer::Garbage)?;
                *slot = Some(field.value);
            }
            _ => {}
        }
    }
    let body = match (encoding, length) {
        _ if to_head == ToHead::Yes || status < 200 || status == 204 || status == 304 => Decoder::nothing(),
        (Some(coding), None) if version == 1 && coding.eq_ignore_ascii_case(b"chunked") => Decoder::chunked(),
        (Some(_), _) => return Err(NoAnswer::Garbage),
        (None, Some(length)) => Decoder::Length(length),
        (None, None) => Decoder::UntilClose,
    };
    let mut reply = Reply {
        status,
        reason: parsed.reason.unwrap_or_default(),
        fields,
        persistent: body != Decoder::UntilClose,
        body,
        declared_length: length,
        connection,
    };
    reply.persistent &= if version == 1 {
        !reply.nominates("close")
    } else {
        reply.nominates("keep-alive")
    };
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, expected: &Result<(u16, Decoder, bool), NoAnswer>) {
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let seen =
            parse(head.as_bytes(), &mut fields, ToHead::No).map(|r| (r.status, r.body.clone(), r.persistent));
        assert_eq!(&seen, expected, "{head:?}");
    }

    #[test]
    fn answers_that_read_two_ways_are_garbage() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            &Ok((200, Decoder::Length(3), true)),
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            &Ok((200, Decoder::Length(3), true)),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            &Ok((200, Decoder::chunked(), true)),
        );
        check("HTTP/1.1 200\r\n\r\n", &Ok((200, Decoder::UntilClose, false)));
        check(
            "HTTP/1.1 204 x\r\nContent-Length: 3\r\n\r\n",
            &Ok((204, Decoder::nothing(), true)),
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: a, Close\r\n\r\n",
            &Ok((200, Decoder::Length(3), false)),
        );
        check(
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n",
            &Ok((200, Decoder::Length(3), false)),
        );
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
        ] {
            check(bad, &Err(NoAnswer::Garbage));
        }
    }
}
