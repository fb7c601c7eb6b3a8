//! Event streams: what control has to say, frame by frame, until one side ends it.
//!
//! Invariant: a stream ends within a second of the end of what it was opened with, holds at most a few frames, and sends a heartbeat
//! every 15 seconds so that both sides notice when the other is gone.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use control::{Control, events as control_events};

use crate::answer::Outgoing;
use crate::call::Call;
use crate::rate::{Place, Who};
use crate::refusal::Refusal;

/// Pause between two looks that found nothing, where nobody says when there is more: quick enough for a person who watches.
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// After a look that found nothing the stream rests for so many times as long as it took, so that changes which are others'
/// cost at most this share of a core.
const REST: u32 = 4;
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often the token is looked at again.
const TOKEN_GLANCE: Duration = Duration::from_secs(1);
/// Chunks under way; a reader that is slower makes the writer wait.
const AHEAD: usize = 4;

/// What one look found.
#[derive(Default)]
pub(crate) struct Seen {
    /// Frames as text.
    pub(crate) text: String,
    /// Whether nothing more will come.
    pub(crate) is_end: bool,
}

impl Seen {
    /// Adds a frame.
    pub(crate) fn frame(&mut self, id: &str, event: &str, data: &impl Serialize) {
        let data = serde_json::to_string(data).unwrap_or_default();
        // JSON has no line ends, ids are ours: a frame can not be broken out of.
        self.text
            .push_str(&format!("id: {id}\nevent: {event}\ndata: {data}\n\n"));
    }

    /// Says where to go on from, without a frame: readers keep the id and see nothing.
    pub(crate) fn position(&mut self, id: &str) {
        self.text.push_str(&format!("id: {id}\n\n"));
    }
}

/// Looks for what is new since its last look.
pub(crate) type Look = Box<dyn FnMut() -> Result<Seen, Refusal> + Send>;

/// Says whether what a stream was opened with still counts.
type StillCounts = Arc<dyn Fn() -> Result<(), Refusal> + Send + Sync>;

/// Tells streams that the store has a newer revision.
pub(crate) struct Changes {
    told: watch::Receiver<u64>,
    _subscription: control_events::Subscription,
}

impl Changes {
    /// Of what this control commits.
    pub(crate) fn of(control: &Control) -> Self {
        let (tell, told) = watch::channel(0);
        Self {
            told,
            _subscription: control_events::on_change(control, move |revision| {
                tell.send_replace(revision);
            }),
        }
    }

    /// What the next revision wakes.
    pub(crate) fn told(&self) -> watch::Receiver<u64> {
        self.told.clone()
    }
}

/// When a stream looks again.
pub(crate) enum Wake {
    /// Every so often: of what it tells nobody says when there is more.
    Often,
    /// When the store has a newer revision.
    Changed(watch::Receiver<u64>),
}

impl Wake {
    /// Waits after a look that found nothing and took so long.
    async fn wait(&mut self, took: Duration) {
        match self {
            Self::Often => tokio::time::sleep(LOOK_EVERY).await,
            Self::Changed(changed) => {
                tokio::time::sleep((took * REST).min(LOOK_EVERY)).await;
                // As often as the credential is looked at anyway. Whoever tells of changes lives as long as the server.
                let _later = tokio::time::timeout(TOKEN_GLANCE, changed.changed()).await;
            }
        }
    }
}

/// An open stream: its first frames and where more come from.
pub(crate) struct Events {
    first: Seen,
    look: Look,
    wake: Wake,
    still_counts: StillCounts,
    permit: OwnedSemaphorePermit,
    place: Place,
}

impl Events {
    /// Opens a stream. The first look is done here, so that its refusal is a problem and not a broken stream.
    pub(crate) fn open(call: &Call, wake: Wake, mut look: Look) -> Result<Self, Refusal> {
        let (limits, who) = (&call.shared.limits, Who::of_streams(call.actor()?));
        let streams = match who {
            Some(_) => &limits.streams,
            None => &limits.root_streams,
        };
        let permit = Arc::clone(streams)
            .try_acquire_owned()
            .map_err(|_| Refusal::busy("event streams"))?;
        let place = call.shared.rates.stream(who)?;
        let first = look()?;
        Ok(Self {
            first,
            look,
            wake,
            still_counts: call.glance(),
            permit,
            place,
        })
    }

    pub(crate) fn into_body(self) -> Outgoing {
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::spawn(pump(self, sender));
        Channel(receiver).boxed_unsync()
    }
}

async fn pump(mut events: Events, sender: mpsc::Sender<Bytes>) {
    // An answer without a byte would leave the reader in doubt whether it was heard.
    let mut seen = std::mem::take(&mut events.first);
    seen.text.insert_str(0, ": stoa\n\n");
    let mut spoke = Instant::now();
    let mut glanced = Instant::now();
    let mut took = Duration::ZERO;
    loop {
        if spoke.elapsed() >= HEARTBEAT && seen.text.is_empty() {
            seen.text.push_str(": still here\n\n");
        }
        let is_quiet = seen.text.is_empty();
        if !is_quiet {
            spoke = Instant::now();
            let text = Bytes::from(std::mem::take(&mut seen.text));
            if !is_delivered(&events.still_counts, &sender, text).await {
                break;
            }
        }
        if seen.is_end {
            break;
        }
        if is_quiet {
            tokio::select! {
                () = sender.closed() => break,
                () = events.wake.wait(took) => {}
            }
        }
        let checks_token = glanced.elapsed() >= TOKEN_GLANCE;
        if checks_token {
            glanced = Instant::now();
        }
        let begun = Instant::now();
        let looked = tokio::task::spawn_blocking(move || {
            if checks_token {
                (events.still_counts)()?;
            }
            let seen = (events.look)()?;
            Ok::<_, Refusal>((events, seen))
        });
        let looked = looked.await;
        took = begun.elapsed();
        match looked {
            Ok(Ok(next)) => (events, seen) = next,
            Ok(Err(refusal)) => {
                tracing::debug!(?refusal, "an event stream ended early");
                return;
            }
            Err(cause) => {
                tracing::error!(%cause, "an event stream panicked");
                return;
            }
        }
    }
    drop((events.permit, events.place));
}

/// Hands a chunk over. A reader that takes none must not outlast its credential.
async fn is_delivered(still_counts: &StillCounts, sender: &mpsc::Sender<Bytes>, text: Bytes) -> bool {
    let mut sending = std::pin::pin!(sender.send(text));
    loop {
        tokio::select! {
            sent = &mut sending => return sent.is_ok(),
            () = tokio::time::sleep(TOKEN_GLANCE) => {}
        }
        let look = Arc::clone(still_counts);
        if !matches!(tokio::task::spawn_blocking(move || look()).await, Ok(Ok(()))) {
            tracing::debug!("an event stream that nobody read was ended");
            return false;
        }
    }
}

/// A body fed by a channel.
struct Channel(mpsc::Receiver<Bytes>);

impl Body for Channel {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::rate::Rates;

    /// A reader that takes nothing gets no more than what was ahead, and its stream ends with its credential.
    #[tokio::test]
    async fn a_stream_that_nobody_reads_ends_with_its_credential() {
        let (counts, streams) = (Arc::new(AtomicBool::new(true)), Arc::new(Semaphore::new(1)));
        let looks = Arc::clone(&counts);
        let events = Events {
            first: Seen::default(),
            wake: Wake::Often,
            look: Box::new(|| {
                let mut seen = Seen::default();
                seen.frame("1", "line", &"x");
                Ok(seen)
            }),
            still_counts: Arc::new(move || match looks.load(Ordering::SeqCst) {
                true => Ok(()),
                false => Err(Refusal::sign_in()),
            }),
            permit: Arc::clone(&streams).try_acquire_owned().expect("a permit"),
            place: Arc::new(Rates::new(0)).stream(None).expect("a place"),
        };
        let (sender, receiver) = mpsc::channel(AHEAD);
        let pump = tokio::spawn(pump(events, sender.clone()));
        while sender.capacity() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(streams.available_permits(), 0, "it waits for its reader");
        counts.store(false, Ordering::SeqCst);
        pump.await.expect("it ended");
        assert_eq!(streams.available_permits(), 1);
        drop(receiver);
    }
}
