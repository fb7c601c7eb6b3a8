//! How fast the API is beside etcd: the same operations, by as many clients, each by the protocol of its server.
//!
//! Lives here: filling both, and one measurement of each kind. Does not live here: rounds and ratios (`xtask/bench`).
//! Invariant: a write is counted when it is acknowledged as durable; a figure of Stoa is that of a whole request: signed in,
//! authorised, audited.

mod etcd;
mod stoa;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

pub use etcd::Etcd;
pub use stoa::{Filled, Page};

/// Clients that write at once.
pub const WRITERS: usize = 8;

/// How much is asked for in one measurement.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Writes of each writer.
    pub writes: usize,
    /// Reads by one client.
    pub reads: usize,
    /// Pages by one client.
    pub pages: usize,
    /// Changes that a watcher waits for, one after the other.
    pub watched: usize,
}

/// What one side took, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Time of one durable write when several clients write at once: the time of all by their number.
    pub write: f64,
    /// 99 of 100 writes of a client took at most this long then.
    pub write_p99: f64,
    /// Time of one read: 99 of 100 took at most this long.
    pub read_p99: f64,
    /// Time of a page of a hundred, the middle one.
    pub page: f64,
    /// From the begin of a write until a watcher knew of it, the middle one.
    pub watch: f64,
}

/// Microseconds of each, smallest first.
fn sorted(mut all: Vec<Duration>) -> Vec<f64> {
    all.sort();
    all.into_iter().map(|one| one.as_secs_f64() * 1e6).collect()
}

fn at(all: &[f64], share: f64) -> f64 {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list"
    )]
    let place = ((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1));
    all.get(place).copied().unwrap_or(f64::NAN)
}

/// How long each of so many took.
fn each(count: usize, mut work: impl FnMut(usize) -> Result<()>) -> Result<Vec<f64>> {
    let mut all = Vec::with_capacity(count);
    for number in 0..count {
        let began = Instant::now();
        work(number)?;
        all.push(began.elapsed());
    }
    Ok(sorted(all))
}

/// Several writers at once: the time of one write by the number of all, and the 99th of 100.
fn together(
    each_writes: usize,
    writer: impl Fn(usize) -> Result<Vec<Duration>> + Sync,
) -> Result<(f64, f64)> {
    let began = Instant::now();
    let took = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let writer = &writer;
                scope.spawn(move || writer(number))
            })
            .collect();
        let mut took = Vec::new();
        for writer in writers {
            took.extend(writer.join().ok().context("a writer panicked")??);
        }
        Ok::<_, anyhow::Error>(took)
    })?;
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let all = (WRITERS * each_writes) as f64;
    Ok((began.elapsed().as_secs_f64() * 1e6 / all, at(&sorted(took), 0.99)))
}
