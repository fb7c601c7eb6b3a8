//! What happened to requests, counted per service and release.
//!
//! Lives here: each thread's counters, and their sum as control reads it.
//! Does not live here: keeping series over time (`telemetry`, control).
//! Invariant: counters are plain cells of one thread, only ever growing; they are added up when somebody asks.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::{Deserialize, Serialize};
use telemetry::Histogram;

/// Counters of one service and release on one thread.
#[derive(Debug, Default)]
pub(crate) struct Series {
    /// By hundreds: 1xx to 5xx.
    statuses: [Cell<u64>; 5],
    own_answers: Cell<u64>,
    aborted: Cell<u64>,
    retries: Cell<u64>,
    refused_connects: Cell<u64>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    latency: RefCell<Histogram>,
}

fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get().wrapping_add(n));
}

impl Series {
    /// A request was answered by an instance.
    pub(crate) fn answered(&self, status: u16, us: u64) {
        self.status(status);
        self.latency.borrow_mut().record(us);
    }

    /// The edge answered in the instance's stead.
    pub(crate) fn answered_by_edge(&self, status: u16) {
        self.status(status);
        add(&self.own_answers, 1);
    }

    /// An answer had begun and could not be finished.
    pub(crate) fn cut(&self) {
        add(&self.aborted, 1);
    }

    pub(crate) fn retried(&self) {
        add(&self.retries, 1);
    }

    pub(crate) fn refused(&self) {
        add(&self.refused_connects, 1);
    }

    pub(crate) fn moved_in(&self, bytes: u64) {
        add(&self.bytes_in, bytes);
    }

    pub(crate) fn moved_out(&self, bytes: u64) {
        add(&self.bytes_out, bytes);
    }

    fn status(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        add(&self.statuses[class], 1);
    }

    pub(crate) fn sum(&self, service: &str, app: &str, release: &str) -> ServiceMetrics {
        ServiceMetrics {
            service: service.to_owned(),
            app: app.to_owned(),
            release: release.to_owned(),
            statuses: [0, 1, 2, 3, 4].map(|n: usize| self.statuses[n].get()),
            answered_by_edge: self.own_answers.get(),
            cut: self.aborted.get(),
            retries: self.retries.get(),
            refused_connects: self.refused_connects.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            held: 0,
            latency_us: self.latency.borrow().clone(),
        }
    }
}

/// Counters since the edge started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Metrics {
    /// Per service and release.
    pub services: Vec<ServiceMetrics>,
    /// Per instance of the current table.
    pub targets: Vec<TargetMetrics>,
}

/// Counters of one service and release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceMetrics {
    /// The service's id.
    pub service: String,
    /// The app's name.
    pub app: String,
    /// The release's label.
    pub release: String,
    /// Requests by status: 1xx to 5xx.
    pub statuses: [u64; 5],
    /// Of these, answered by the edge itself (no instance, timeout, refusal).
    pub answered_by_edge: u64,
    /// Answers that broke off.
    pub cut: u64,
    /// Requests sent a second time.
    pub retries: u64,
    /// Connections that instances refused.
    pub refused_connects: u64,
    /// Request bodies.
    pub bytes_in: u64,
    /// Answers' bodies.
    pub bytes_out: u64,
    /// Requests that wait for an instance right now: a service that sleeps should be woken.
    pub held: u64,
    /// From the request's head to the answer's last byte; answers of instances only.
    pub latency_us: Histogram,
}

/// Counters of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetMetrics {
    /// The target's id.
    pub target: String,
    /// Requests sent to it.
    pub requests: u64,
    /// Of these, not answered (refused, broken off, timed out) or answered 5xx.
    pub failed: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// Upgraded connections open.
    pub upgrades: u64,
}

impl Metrics {
    /// Adds what other threads counted.
    pub(crate) fn sum(threads: Vec<Metrics>) -> Metrics {
        let mut services: HashMap<(String, String), ServiceMetrics> = HashMap::new();
        let mut targets: HashMap<String, TargetMetrics> = HashMap::new();
        for thread in threads {
            for theirs in thread.services {
                match services.entry((theirs.service.clone(), theirs.release.clone())) {
                    Entry::Occupied(mut mine) => mine.get_mut().merge(&theirs),
                    Entry::Vacant(free) => {
                        free.insert(theirs);
                    }
                }
            }
            for theirs in thread.targets {
                match targets.entry(theirs.target.clone()) {
                    Entry::Occupied(mut mine) => mine.get_mut().merge(&theirs),
                    Entry::Vacant(free) => {
                        free.insert(theirs);
                    }
                }
            }
        }
        let mut sum = Metrics {
            services: services.into_values().collect(),
            targets: targets.into_values().collect(),
        };
        sum.services
            .sort_by(|a, b| (&a.service, &a.release).cmp(&(&b.service, &b.release)));
        sum.targets.sort_by(|a, b| a.target.cmp(&b.target));
        sum
    }
}

impl TargetMetrics {
    fn merge(&mut self, other: &TargetMetrics) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.in_flight += other.in_flight;
        self.upgrades += other.upgrades;
    }
}

impl ServiceMetrics {
    fn merge(&mut self, other: &ServiceMetrics) {
        for (mine, theirs) in self.statuses.iter_mut().zip(other.statuses) {
            *mine += theirs;
        }
        self.answered_by_edge += other.answered_by_edge;
        self.cut += other.cut;
        self.retries += other.retries;
        self.refused_connects += other.refused_connects;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.held += other.held;
        self.latency_us.merge(&other.latency_us);
    }
}
