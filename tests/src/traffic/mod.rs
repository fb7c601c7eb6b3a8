//! Constant traffic of every kind; each exchange that is not as it should be is counted with its reason.
//!
//! ```text
//! schedule (one for each kind) -> exchange, whatever the earlier ones do -> checks -> report
//! ```
//! Lives here: the schedule, and what may answer when. Does not live here: what is done to Stoa meanwhile.
//! Invariants: open loop, so a platform that stalls does not slow the clients down, and latency counts from the time an
//! exchange was due; nothing that an instance may have seen is sent again, so nothing is hidden. The one thing that is
//! sent on another connection is what HTTP/2 says was never looked at (GOAWAY, REFUSED_STREAM).

mod eligible;
mod exchange;
mod http1;
mod http2;
mod report;
mod socket;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use eligible::{Eligible, Moment};
pub use report::{Fault, Kind, Report, Tally, Trouble};

/// An exchange that takes longer is a failure: far above the slowest healthy one.
const PATIENCE: Duration = Duration::from_secs(60);
/// Exchanges under way at once. Beyond, the platform has stalled, and each further one is counted as failed.
const UNDER_WAY_MAX: usize = 4000;
/// All of the load, in thousandths.
pub const FULL: u32 = 1000;

/// How much of which kind, each second.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    factor: f64,
}

impl Load {
    /// About 140 exchanges a second: constant traffic, not saturation, for a small machine that does other things too.
    #[must_use]
    pub fn usual() -> Self {
        Self { factor: 1.0 }
    }

    /// A multiple of the usual.
    #[must_use]
    pub fn times(factor: f64) -> Self {
        Self { factor }
    }

    /// What part of it, in thousandths, is at most that multiple of the usual.
    #[must_use]
    pub fn share_of(self, factor: f64) -> u32 {
        let share = (factor / self.factor).min(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 1000: it fits"
        )]
        let thousandths = (share * f64::from(FULL)) as u32;
        thousandths
    }

    /// A WebSocket begins that often and lives for a while; the others are one exchange each.
    fn per_second(self, kind: Kind) -> f64 {
        let usual = match kind {
            Kind::KeepAlive => 50.0,
            Kind::NewConnection => 25.0,
            Kind::Http2 => 40.0,
            Kind::WebSocket => 0.5,
            Kind::Upload | Kind::Download | Kind::Streaming => 1.0,
        };
        usual * self.factor
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What all clients share.
#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    host: String,
    eligible: Eligible,
    report: Mutex<Report>,
    stop: AtomicBool,
    /// In thousandths of the load that was asked for.
    pace: AtomicU32,
    numbers: AtomicU64,
    under_way: AtomicUsize,
    idle: Mutex<Vec<http1::Idle>>,
    http2: http2::Pool,
}

/// What an exchange found wrong.
#[derive(Debug)]
struct Wrong {
    fault: Fault,
    why: String,
}

/// One exchange under way.
#[derive(Debug, Clone)]
struct Exchange {
    shared: Arc<Shared>,
    kind: Kind,
    id: String,
    due: Instant,
    since: Moment,
}

impl Traffic {
    /// Begins. The application is `tests/apps/probe`, of which `release` serves now.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(address: SocketAddr, host: &str, release: &str, load: Load) -> Result<Self> {
        let shared = Arc::new(Shared {
            address,
            host: host.to_owned(),
            eligible: Eligible::only(release),
            report: Mutex::default(),
            stop: AtomicBool::new(false),
            pace: AtomicU32::new(FULL),
            numbers: AtomicU64::new(1),
            under_way: AtomicUsize::new(0),
            idle: Mutex::default(),
            http2: http2::Pool::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no runtime for the traffic")?;
        let clients = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("traffic".to_owned())
            .spawn(move || runtime.block_on(run(&clients, load)))
            .context("no thread for the traffic")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// From now on this release may answer too.
    pub fn may(&self, release: &str) {
        self.shared.eligible.set(|allowed| {
            allowed.insert(release.to_owned());
        });
    }

    /// From now on only this release may answer.
    pub fn only(&self, release: &str) {
        self.shared.eligible.set(|allowed| {
            allowed.clear();
            allowed.insert(release.to_owned());
        });
    }

    /// From now on so much of the load, in thousandths: all of it is 1000. Never nothing.
    pub fn pace(&self, thousandths: u32) {
        self.shared
            .pace
            .store(thousandths.clamp(1, FULL), Ordering::Relaxed);
    }

    /// What was seen since the last time somebody asked; the traffic goes on.
    #[must_use]
    pub fn take(&self) -> Report {
        std::mem::take(&mut *self.shared.report())
    }

    /// Lets it go on until each kind of exchange was answered so often since the last [`Traffic::take`]: a fast machine is
    /// done with its work before a slow kind could show anything. Troubles count too, so that a broken kind ends the wait.
    ///
    /// # Errors
    /// When it takes longer than [`crate::wait::PATIENCE`].
    pub fn go_on(&self, each: u64) -> Result<()> {
        crate::wait::holds("each kind of exchange", || {
            let report = self.shared.report();
            Ok(Kind::ALL.iter().all(|kind| {
                let tally = report.tallies.get(kind);
                tally.is_some_and(|tally| tally.exchanges() >= each)
            }))
        })
    }

    /// Ends it; what is under way goes to its end first.
    #[must_use]
    pub fn stop(mut self) -> Report {
        self.end();
        self.take()
    }

    /// Ends it like [`Traffic::stop`]; what was seen can still be taken.
    pub fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Runs all schedules until told to stop, then waits for what is under way.
async fn run(shared: &Arc<Shared>, load: Load) {
    let schedules = Kind::ALL.map(|kind| {
        let shared = Arc::clone(shared);
        tokio::spawn(async move { schedule(&shared, kind, load.per_second(kind)).await })
    });
    for schedule in schedules {
        let _ended = schedule.await;
    }
    while shared.under_way.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Begins one exchange after the other at its time; those that the machine was too busy for are made up for.
async fn schedule(shared: &Arc<Shared>, kind: Kind, per_second: f64) {
    let period = Duration::from_secs_f64(1.0 / per_second);
    let mut due = Instant::now();
    while shared.goes_on() {
        tokio::time::sleep_until(due.into()).await;
        let exchange = Exchange::begin(shared, kind, due);
        if shared.under_way.load(Ordering::Relaxed) >= UNDER_WAY_MAX {
            let why = format!("not sent: {UNDER_WAY_MAX} exchanges wait for an answer");
            exchange.end(Err(Wrong::failed(why)));
        } else {
            shared.under_way.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(exchange.run());
        }
        let pace = shared.pace.load(Ordering::Relaxed);
        due += period * FULL / pace;
        // What the machine was too busy for would be the burst that a lower pace is to avoid: it is left out then.
        if pace < FULL {
            due = due.max(Instant::now());
        }
    }
}

impl Exchange {
    fn begin(shared: &Arc<Shared>, kind: Kind, due: Instant) -> Self {
        let number = shared.numbers.fetch_add(1, Ordering::Relaxed);
        Self {
            shared: Arc::clone(shared),
            kind,
            id: format!("x{number}"),
            due,
            since: shared.eligible.now(),
        }
    }

    async fn run(self) {
        let work = async {
            match self.kind {
                Kind::KeepAlive => exchange::keep_alive(&self).await,
                Kind::NewConnection => exchange::new_connection(&self).await,
                Kind::Http2 => http2::request(&self).await,
                Kind::WebSocket => socket::life(&self).await,
                Kind::Upload => exchange::upload(&self).await,
                Kind::Download => exchange::download(&self).await,
                Kind::Streaming => exchange::streaming(&self).await,
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, work).await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(Wrong::failed(format!("no end within {} s", PATIENCE.as_secs()))));
        self.end(outcome);
        self.shared.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts it.
    fn end(&self, outcome: Result<(), Wrong>) {
        let end = Instant::now();
        let mut report = self.shared.report();
        match outcome {
            // A WebSocket counts its texts itself.
            Ok(()) if self.kind == Kind::WebSocket => {}
            Ok(()) => report.answered(self.kind, end.duration_since(self.due)),
            Err(wrong) => report.trouble(Trouble {
                kind: self.kind,
                fault: wrong.fault,
                begin: self.due,
                end,
                why: format!("{}: {}", self.id, wrong.why),
            }),
        }
    }

    /// Checks who answered whom: `release` and `id` are what the answer says, `seen` how often the instance saw the id.
    fn check_origin(&self, release: Option<&str>, id: Option<&str>, seen: Option<&str>) -> Result<(), Wrong> {
        let release = release.ok_or_else(|| Wrong::failed("the answer names no release"))?;
        if id != Some(&*self.id) {
            return Err(Wrong {
                fault: Fault::Misrouted,
                why: format!("the answer to {id:?}"),
            });
        }
        if seen != Some("1") {
            return Err(Wrong {
                fault: Fault::Duplicated,
                why: format!("the instance saw the request {seen:?} times"),
            });
        }
        if !self.shared.eligible.allowed_since(self.since, release) {
            let now = self.shared.eligible.text();
            return Err(Wrong {
                fault: Fault::Misrouted,
                why: format!("{release} answered; allowed now: {now}"),
            });
        }
        let mut report = self.shared.report();
        if !report.releases.contains(release) {
            report.releases.insert(release.to_owned());
        }
        Ok(())
    }
}

impl Wrong {
    fn failed(why: impl Into<String>) -> Self {
        Self {
            fault: Fault::Failed,
            why: why.into(),
        }
    }

    fn truncated(why: impl Into<String>) -> Self {
        Self {
            fault: Fault::Truncated,
            why: why.into(),
        }
    }
}

/// The content of uploads and downloads: lines that number themselves, so that a gap or a repetition shows.
fn numbered(bytes: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(bytes + 16);
    let mut number = 0;
    while content.len() < bytes {
        content.extend(format!("{number:015}\n").into_bytes());
        number += 1;
    }
    content.truncate(bytes);
    content
}
