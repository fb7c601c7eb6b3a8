//! Where the serving threads are spoken to as one.
//!
//! Lives here: the handles of all threads, the table in force, draining.
//! Does not live here: the socket (`control`), signals and exit (`process`).
//! Invariant: one publication at a time; "published" means that every thread has said so. Locks here are never taken by a
//! serving thread.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::sync::mpsc::UnboundedSender;

use crate::certs::Given;
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{Ack, DrainLimits, Reply, Status};
use crate::disk;
use crate::planted::{self, Safeguard};
use crate::record::Metrics;
use crate::route::Index;
use crate::table::{Policy, Problem, RouteTable};
use crate::tls::{Chosen, Resolver};
use crate::watchdog::Pulse;
use crate::worker::{Ending, Loads, Message, Open, Published};

/// A thread answers within a tick; this long means that it is stalled, which the watchdog handles.
const ANSWER: Duration = Duration::from_secs(5);

/// How long requests on an edge may still take that does not obey its successor. Idle connections end at once.
const DISOBEDIENT: DrainLimits = DrainLimits {
    requests_ms: 10_000,
    upgrades_ms: 0,
};

/// What a replaced edge tells all but its successor.
pub(crate) const REPLACED: &str = "another edge has taken its place; connect again";

/// Who says something on the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaker {
    Anybody,
    /// The edge that took our place.
    Successor,
}

/// A serving thread, from outside.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) messages: UnboundedSender<Message>,
    pub(crate) heartbeat: Arc<AtomicU64>,
    /// The kernel's number of the thread; 0 before it runs.
    pub(crate) tid: Arc<AtomicI32>,
}

/// Not every thread answered.
#[derive(Debug, thiserror::Error)]
#[error("a serving thread does not answer")]
pub(crate) struct Stalled;

/// See the module.
#[derive(Debug)]
pub(crate) struct Hub {
    handles: Mutex<Vec<Handle>>,
    policy: Policy,
    state_dir: PathBuf,
    resolver: Arc<Resolver>,
    /// Empty once this edge accepts no more: an open handle would keep the ports taken, and connections unanswered.
    sockets: Mutex<Vec<(String, OwnedFd)>>,
    in_force: Mutex<Arc<Published>>,
    draining: Mutex<Option<Draining>>,
    /// Every edge that lived when this one took their place.
    predecessors: Mutex<Vec<Client>>,
    closed: AtomicBool,
}

/// Since when, and until when.
#[derive(Debug, Clone, Copy)]
struct Draining {
    since: Instant,
    limits: DrainLimits,
    idle_ended: bool,
}

impl Draining {
    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The table and what follows from it. An unusable certificate stops no table: failing instances must leave it all the same.
pub(crate) fn prepare(table: RouteTable, before: &Given) -> (Arc<Published>, Chosen) {
    let index = Arc::new(Index::new(table.table()));
    let (given, problems) = Given::load(&table.table().certificates, before);
    for problem in problems {
        tracing::warn!(%problem, "a given certificate is unusable; its hosts keep the one before, or get one of the local authority");
    }
    let chosen = Chosen {
        given,
        index: index.clone(),
    };
    (Arc::new(Published { table, index }), chosen)
}

/// An edge that is there and says nothing may still serve, by a table that nobody can replace: it is ended.
pub(crate) fn end_if_silent(client: &Client, cause: &ClientError) {
    let is_silent = match cause {
        ClientError::Broken(cause) => matches!(
            cause.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
        ClientError::Absent { .. } | ClientError::Refused { .. } | ClientError::Failed { .. } => false,
    };
    let pid = i32::try_from(client.pid()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid.filter(|pid| is_silent && *pid != rustix::process::getpid()) {
        tracing::error!(
            pid = pid.as_raw_nonzero().get(),
            "an edge before this one does not answer; it is ended"
        );
        // One that is gone by now needs no signal.
        let _gone = rustix::process::kill_process(pid, Signal::KILL);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is replaced whole, never half changed: a panicked holder leaves nothing broken.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub(crate) fn new(
        handles: Vec<Handle>,
        policy: Policy,
        state_dir: PathBuf,
        resolver: Arc<Resolver>,
        sockets: Vec<(String, OwnedFd)>,
        in_force: Arc<Published>,
    ) -> Hub {
        Hub {
            handles: Mutex::new(handles),
            policy,
            state_dir,
            resolver,
            sockets: Mutex::new(sockets),
            in_force: Mutex::new(in_force),
            draining: Mutex::default(),
            predecessors: Mutex::default(),
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Second handles of the listening sockets, by name.
    pub(crate) fn sockets(&self) -> std::io::Result<Vec<(String, OwnedFd)>> {
        let sockets = lock(&self.sockets);
        let handle = |(name, socket): &(String, OwnedFd)| Ok((name.clone(), socket.try_clone()?));
        sockets.iter().map(handle).collect()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Lets the serving threads end.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        lock(&self.handles).clear();
    }

    /// The edges this one replaced: their requests count until they are gone.
    pub(crate) fn follow(&self, predecessors: Vec<Client>) {
        *lock(&self.predecessors) = predecessors;
    }

    /// Serves a table that was kept meanwhile.
    pub(crate) fn catch_up(&self, kept: RouteTable) -> Result<(), Stalled> {
        let mut in_force = lock(&self.in_force);
        if kept == in_force.table {
            return Ok(());
        }
        let (published, chosen) = prepare(kept, &self.resolver.current().given);
        self.resolver.publish(chosen);
        *in_force = published.clone();
        self.ask(|done| Message::Serve(published.clone(), done))
            .map(|_| ())
    }

    /// Lets the threads accept connections.
    pub(crate) fn accept(&self) {
        self.tell(|| Message::Accept);
    }

    /// Whether it was replaced and somebody else than its successor speaks.
    pub(crate) fn is_deaf_to(&self, speaker: Speaker) -> bool {
        speaker == Speaker::Anybody && lock(&self.draining).is_some()
    }

    /// Asks every thread, and waits for every answer. Each has a channel of its own: a shared one has a lock inside, and a
    /// thread that stalls within it would stall the others.
    fn ask<T>(&self, message: impl Fn(Sender<T>) -> Message) -> Result<Vec<T>, Stalled> {
        let mut answers = Vec::new();
        for handle in lock(&self.handles).iter() {
            let (sender, answer) = channel();
            handle.messages.send(message(sender)).map_err(|_| Stalled)?;
            answers.push(answer);
        }
        let deadline = Instant::now() + ANSWER;
        let hear =
            |answer: Receiver<T>| answer.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        answers
            .into_iter()
            .map(|answer| hear(answer).map_err(|_| Stalled))
            .collect()
    }

    /// Checks a table, keeps it for the next start, has every thread serve it.
    pub(crate) fn publish(&self, document: &[u8], speaker: Speaker) -> Reply {
        let table = match RouteTable::parse(document, &self.policy) {
            Ok(table) => table,
            Err(problems) => {
                if planted::is_off(Safeguard::LastGoodTable) {
                    self.serve_what_can_be_read(document);
                }
                return Reply::Refused { problems };
            }
        };
        let mut in_force = lock(&self.in_force);
        // What is acknowledged must be served by all: only the edge in our place can promise that.
        if self.is_deaf_to(speaker) {
            return Reply::Failed {
                what: REPLACED.to_owned(),
            };
        }
        let (old, new) = (in_force.table.generation(), table.generation());
        if new < old || (new == old && table != in_force.table) {
            let what = format!("{new}, but {old} is already served");
            return Reply::Refused {
                problems: vec![Problem {
                    at: "generation".to_owned(),
                    what,
                }],
            };
        }
        let (published, chosen) = prepare(table, &self.resolver.current().given);
        // Kept first: should we die now, the next edge serves what control has asked for. A full disk must not stop a
        // failing instance from being taken out of service, so it is only reported.
        // An edge that drains was replaced: the next start is its successor's, which has kept it.
        let kept = if lock(&self.draining).is_some() {
            Ok(())
        } else {
            disk::save_table(&self.state_dir, &published.table)
        };
        if let Err(cause) = &kept {
            tracing::warn!(error = %cause, "the route table could not be kept for the next start");
        }
        self.resolver.publish(chosen);
        // Even if a thread stalls, the others serve it already: from here on it is the table in force.
        *in_force = published.clone();
        let served = self.ask(|done| Message::Serve(published.clone(), done));
        self.publish_before(document);
        match served {
            Ok(_) => Reply::Published(Ack {
                generation: new,
                persisted: kept.is_ok(),
            }),
            Err(stalled) => Reply::Failed {
                what: stalled.to_string(),
            },
        }
    }

    /// Without the safeguard of the last good table.
    fn serve_what_can_be_read(&self, document: &[u8]) {
        let Ok(table) = serde_json::from_slice(document) else {
            return;
        };
        let policy = Policy {
            bytes_max: usize::MAX,
            ..self.policy.clone()
        };
        let (published, _) = prepare(
            RouteTable::in_part(table, &policy),
            &self.resolver.current().given,
        );
        *lock(&self.in_force) = published.clone();
        // A thread that stalls is not what is tried here.
        let _stalled = self.ask(|done| Message::Serve(published.clone(), done));
    }

    /// Clients of the edges before this one may ask them one last time: they must not send them where nobody is any more.
    fn publish_before(&self, document: &[u8]) {
        lock(&self.predecessors).retain_mut(|client| match client.publish_document(document) {
            Ok(_) => true,
            Err(cause @ (ClientError::Refused { .. } | ClientError::Failed { .. })) => {
                tracing::warn!(%cause, pid = client.pid(), "an edge before this one keeps older routes; its connections end");
                client.drain(DISOBEDIENT).is_ok()
            }
            Err(cause) => {
                end_if_silent(client, &cause);
                false
            }
        });
    }

    pub(crate) fn in_flight(&self, targets: Vec<String>) -> Result<Loads, Stalled> {
        let mut sum: Loads = targets.iter().map(|t| (t.clone(), Default::default())).collect();
        let ids: Arc<HashSet<String>> = Arc::new(targets.into_iter().collect());
        let mut add = |loads: Loads| {
            for (id, load) in loads {
                sum.entry(id).or_default().add(load);
            }
        };
        self.ask(|done| Message::InFlight(ids.clone(), done))?
            .into_iter()
            .for_each(&mut add);
        let names: Vec<&str> = ids.iter().map(String::as_str).collect();
        lock(&self.predecessors).retain_mut(|client| match client.in_flight(&names) {
            Ok(loads) => {
                add(loads);
                true
            }
            // It has exited, or does now: nothing is in flight there.
            Err(cause) => {
                end_if_silent(client, &cause);
                false
            }
        });
        Ok(sum)
    }

    pub(crate) fn metrics(&self) -> Result<Metrics, Stalled> {
        Ok(Metrics::sum(self.ask(Message::Metrics)?))
    }

    pub(crate) fn status(&self) -> Result<Status, Stalled> {
        let open = self.open()?;
        Ok(Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: lock(&self.in_force).table.generation(),
            threads: lock(&self.handles).len(),
            connections: open.connections,
            upgrades: open.upgrades,
            is_draining: lock(&self.draining).is_some(),
            predecessors: self.predecessors(),
        })
    }

    /// The processes of the edges this one replaced, while they live.
    fn predecessors(&self) -> Vec<u32> {
        let mut predecessors = lock(&self.predecessors);
        predecessors.retain_mut(|client| !matches!(client.status(), Err(ClientError::Broken(_))));
        predecessors.iter().map(Client::pid).collect()
    }

    fn open(&self) -> Result<Open, Stalled> {
        let all = self.ask(Message::Open)?;
        Ok(all.into_iter().fold(Open::default(), |sum, open| Open {
            connections: sum.connections + open.connections,
            upgrades: sum.upgrades + open.upgrades,
        }))
    }

    /// Stops accepting because another edge does; connections end by themselves. Told again, it takes less time, never more.
    pub(crate) fn drain(&self, limits: DrainLimits) {
        // No time for upgraded connections is the successor's own end: nobody accepts what idle clients would ask.
        if limits.upgrades_ms == 0 {
            return self.stop(Duration::from_millis(limits.requests_ms));
        }
        // After a publication that is under way: once this has been answered, nothing is acknowledged here any more.
        let _unchanged = lock(&self.in_force);
        lock(&self.sockets).clear();
        // The successor has found them too.
        lock(&self.predecessors).clear();
        if planted::is_off(Safeguard::Draining) {
            return self.stop(Duration::ZERO);
        }
        let mut draining = lock(&self.draining);
        match draining.as_mut() {
            None => {
                *draining = Some(Draining {
                    since: Instant::now(),
                    limits,
                    idle_ended: false,
                });
            }
            Some(state) => {
                let elapsed_ms = state.elapsed_ms();
                let sooner = |old: u64, new: u64| old.min(elapsed_ms.saturating_add(new));
                state.limits.requests_ms = sooner(state.limits.requests_ms, limits.requests_ms);
                state.limits.upgrades_ms = sooner(state.limits.upgrades_ms, limits.upgrades_ms);
                return;
            }
        }
        drop(draining);
        self.tell(|| Message::Drain(Ending::AfterNextAnswer));
    }

    /// Stops accepting because nobody shall any more; idle connections end now.
    pub(crate) fn stop(&self, limit: Duration) {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        // Upgraded connections would rarely end by themselves: they do not delay a stop.
        let limits = DrainLimits {
            requests_ms: limit_ms,
            upgrades_ms: 0,
        };
        lock(&self.sockets).clear();
        *lock(&self.draining) = Some(Draining {
            since: Instant::now(),
            limits,
            idle_ended: true,
        });
        self.tell(|| Message::Drain(Ending::Now));
        self.hurry_before(limits);
    }

    /// The edges before this one end with it.
    fn hurry_before(&self, limits: DrainLimits) {
        for client in lock(&self.predecessors).iter_mut() {
            // One that does not answer has exited.
            let _gone = client.drain(limits);
        }
    }

    fn tell(&self, message: impl Fn() -> Message) {
        for handle in lock(&self.handles).iter() {
            // A thread that is gone has nothing left to drain.
            let _gone = handle.messages.send(message());
        }
    }

    /// Whether a draining edge is done, or out of time.
    pub(crate) fn is_drained(&self) -> bool {
        let Some(mut state) = *lock(&self.draining) else {
            return false;
        };
        if planted::is_off(Safeguard::Draining) {
            return true;
        }
        let Ok(open) = self.open() else { return true };
        let elapsed_ms = state.elapsed_ms();
        if elapsed_ms >= state.limits.requests_ms && !state.idle_ended {
            // Idle connections have had their time to ask once more.
            state.idle_ended = true;
            *lock(&self.draining) = Some(state);
            self.tell(|| Message::Drain(Ending::Now));
            return false;
        }
        // A second more than promised: those that ended just now are still closing.
        let requests_wait =
            open.connections > open.upgrades && elapsed_ms <= state.limits.requests_ms.saturating_add(1_000);
        let upgrades_wait = open.upgrades > 0 && elapsed_ms <= state.limits.upgrades_ms;
        !requests_wait && !upgrades_wait
    }

    /// Each thread's number and heartbeat, to be watched.
    pub(crate) fn pulses(&self) -> Vec<Pulse> {
        let pulse = |h: &Handle| Pulse::new(h.tid.clone(), h.heartbeat.clone());
        lock(&self.handles).iter().map(pulse).collect()
    }
}
