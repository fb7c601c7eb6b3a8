//! Taking an archive: from the connection to control's file, chunk by chunk.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::mpsc;

use crate::answer::Reply;
use crate::call::Call;
use crate::dry_run;
use crate::refusal::Refusal;
use crate::request::blocking;

/// Chunks under way: a slow disk slows the sender down.
const AHEAD: usize = 4;
/// A sender that says nothing for this long has gone.
const SILENCE: Duration = Duration::from_secs(60);

/// What came of the reading end.
enum Broken {
    Slow,
    Off,
}

pub(crate) async fn receive(call: Call, headers: &HeaderMap, mut body: Incoming) -> Result<Reply, Refusal> {
    let limit = call.control().settings.upload_bytes;
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limit) {
        return Err(Refusal::too_large(limit));
    }
    if body.is_end_stream() {
        return Err(Refusal::bad_request("an upload needs a body: the archive"));
    }
    let shared = Arc::clone(&call.shared);
    let permit = Arc::clone(&shared.limits.uploads)
        .try_acquire_owned()
        .map_err(|_| Refusal::busy("uploads"))?;
    let (sender, chunks) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
    let kept = blocking(&shared, move || {
        let mut reader = ChannelReader {
            chunks,
            current: Bytes::new(),
        };
        let mut keep = || -> Result<Reply, Refusal> {
            let (actor, place) = (call.actor()?, call.place()?);
            let row = control::uploads::receive(call.control(), actor, &place, &mut reader)?.row;
            Reply::json(
                201,
                &api::Upload {
                    id: row.id.to_string(),
                    bytes: row.bytes,
                    sha256: row.sha256,
                },
            )
        };
        let reply = match call.is_dry() {
            true => dry_run::of(|| keep().map(|reply| reply.status())),
            false => keep(),
        };
        drop(permit);
        reply
    });
    let (kept, broken) = tokio::join!(kept, feed(&mut body, sender));
    match broken {
        // What control says of a half-sent archive is not the reason.
        Some(Broken::Slow) => Err(Refusal::too_slow()),
        Some(Broken::Off) => Err(Refusal::bad_request(
            "the upload broke off; nothing of it was kept",
        )),
        None => kept,
    }
}

/// Hands chunks over until the body ends or nobody wants them any more.
async fn feed(body: &mut Incoming, sender: mpsc::Sender<io::Result<Bytes>>) -> Option<Broken> {
    loop {
        let (chunk, broken) = match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(None) => return None,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(chunk) => (Ok(chunk), None),
                Err(_) => continue,
            },
            Ok(Some(Err(_))) => (Err(io::ErrorKind::UnexpectedEof.into()), Some(Broken::Off)),
            Err(_) => (Err(io::ErrorKind::TimedOut.into()), Some(Broken::Slow)),
        };
        if sender.send(chunk).await.is_err() {
            // Control has had enough (too large, no room) and says why itself.
            return None;
        }
        if broken.is_some() {
            return broken;
        }
    }
}

struct ChannelReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.current = chunk?,
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
