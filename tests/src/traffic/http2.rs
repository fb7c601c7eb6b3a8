//! Streams of a few shared HTTP/2 connections, in clear text as a client that knows beforehand speaks it.
//!
//! Invariant: a request goes to a second connection only when the first says that it never looked at it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};

use super::{Exchange, Shared, Wrong, numbered};

/// Connections that the streams are spread over.
const CONNECTIONS: usize = 3;
/// A connection is given up by us after this long, so that new ones are made all the time.
const LIFE: Duration = Duration::from_secs(10);
/// Each of so many requests has a body.
const WITH_BODY: u64 = 8;
const BODY_BYTES: usize = 20 << 10;
/// Attempts on connections that turned out to be closing.
const ATTEMPTS: usize = 3;

/// The connections.
#[derive(Debug, Default)]
pub(super) struct Pool {
    slots: Mutex<[Option<Open>; CONNECTIONS]>,
}

#[derive(Debug, Clone)]
struct Open {
    send: SendRequest<Bytes>,
    since: Instant,
}

/// Why there is no good answer.
enum Outcome {
    Wrong(Wrong),
    /// The connection is going away and has not looked at the request.
    NeverSeen(String),
}

pub(super) async fn request(exchange: &Exchange) -> Result<(), Wrong> {
    let number: u64 = exchange.id.trim_start_matches('x').parse().unwrap_or(0);
    let slot = usize::try_from(number).unwrap_or(0) % CONNECTIONS;
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let open = connection(&exchange.shared, slot).await?;
        match attempt(exchange, &open, number.is_multiple_of(WITH_BODY)).await {
            Ok(()) => return Ok(()),
            Err(Outcome::Wrong(wrong)) => return Err(wrong),
            Err(Outcome::NeverSeen(why)) => {
                exchange.shared.http2.forget(slot, &open);
                exchange.shared.report().cut(exchange.kind);
                last = why;
            }
        }
    }
    Err(Wrong::failed(format!(
        "{ATTEMPTS} connections were closing: {last}"
    )))
}

impl Pool {
    fn forget(&self, slot: usize, open: &Open) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots[slot]
            .as_ref()
            .is_some_and(|known| known.since == open.since)
        {
            slots[slot] = None;
        }
    }
}

/// The slot's connection, or a new one.
async fn connection(shared: &Arc<Shared>, slot: usize) -> Result<Open, Wrong> {
    let known = {
        let mut slots = shared.http2.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots[slot]
            .as_ref()
            .is_some_and(|open| open.since.elapsed() > LIFE)
        {
            slots[slot] = None;
        }
        slots[slot].clone()
    };
    if let Some(open) = known {
        return Ok(open);
    }
    let broken = |cause: String| Wrong::failed(format!("no HTTP/2 connection: {cause}"));
    let stream = tokio::net::TcpStream::connect(shared.address).await;
    let stream = stream.map_err(|cause| broken(cause.to_string()))?;
    stream
        .set_nodelay(true)
        .map_err(|cause| broken(cause.to_string()))?;
    let (send, connection) = h2::client::handshake(stream)
        .await
        .map_err(|cause| broken(cause.to_string()))?;
    // It ends when nobody holds `send` any more; how it ended is told to each stream.
    tokio::spawn(async move { drop(connection.await) });
    let open = Open {
        send,
        since: Instant::now(),
    };
    let mut slots = shared.http2.slots.lock().unwrap_or_else(PoisonError::into_inner);
    slots[slot] = Some(open.clone());
    Ok(open)
}

async fn attempt(exchange: &Exchange, open: &Open, with_body: bool) -> Result<(), Outcome> {
    let content = if with_body {
        numbered(BODY_BYTES)
    } else {
        Vec::new()
    };
    let (method, path) = if with_body {
        ("POST", "/upload")
    } else {
        ("GET", "/")
    };
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", exchange.shared.host))
        .header("x-exchange", &exchange.id)
        .body(())
        .map_err(|cause| Outcome::Wrong(Wrong::failed(cause.to_string())))?;
    let ready = open.send.clone().ready().await;
    // Nothing of this request was sent yet.
    let mut send = ready.map_err(|cause| Outcome::NeverSeen(cause.to_string()))?;
    let (answer, mut body) = send
        .send_request(request, !with_body)
        .map_err(|cause| Outcome::NeverSeen(cause.to_string()))?;
    drop(send);
    if with_body {
        // Flow control is h2's: it keeps what does not fit yet.
        let sent = body.send_data(Bytes::from(content.clone()), true);
        sent.map_err(|cause| told("the stream broke while sending", &cause))?;
    }
    let answer = answer.await.map_err(|cause| told("no answer", &cause))?;
    let (head, mut body) = answer.into_parts();
    let mut received = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece
            .map_err(|cause| Outcome::Wrong(Wrong::truncated(format!("the stream ended early: {cause}"))))?;
        // A window that cannot be given back any more belongs to a stream that has ended.
        let _given_back = body.flow_control().release_capacity(piece.len());
        received.extend(piece);
    }
    check(
        exchange,
        head.status.as_u16(),
        &head.headers,
        &received,
        with_body.then_some(&content),
    )
    .map_err(Outcome::Wrong)
}

fn check(
    exchange: &Exchange,
    status: u16,
    fields: &HeaderMap,
    received: &[u8],
    sent: Option<&Vec<u8>>,
) -> Result<(), Wrong> {
    if status != 200 {
        return Err(Wrong::failed(format!("status {status}")));
    }
    let field = |name| fields.get(name).and_then(|value| value.to_str().ok());
    let release = field("x-release");
    exchange.check_origin(release, field("x-exchange"), field("x-seen"))?;
    let expected = sent.map(Vec::as_slice).or(release.map(str::as_bytes));
    if expected == Some(received) {
        Ok(())
    } else {
        Err(Wrong::truncated("the body is not what it must be"))
    }
}

/// Whether the other side says that it never looked at the request (RFC 9113, 6.8 and 8.7).
fn told(what: &str, cause: &h2::Error) -> Outcome {
    let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
    let going = cause.is_go_away() && cause.is_remote() && cause.reason() == Some(h2::Reason::NO_ERROR);
    if refused || going {
        Outcome::NeverSeen(cause.to_string())
    } else {
        Outcome::Wrong(Wrong::failed(format!("{what}: {cause}")))
    }
}
