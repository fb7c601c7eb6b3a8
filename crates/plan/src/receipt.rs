//! Whether the log of a database is received as it should be, and what its commits wait for.
//!
//! Lives here: how late the receiver is, when that is told, when commits stop waiting for it and when they wait again.
//! Does not live here: asking the server, telling it, storing (`control`).
//! Invariants: no commit waits much longer than [`WAITS_AT_MOST`] while somebody looks; nothing says that commits wait
//! before the server does, nor that they do not after.
//!
//! ```text
//! level sync:  Free -> hold -> Held -> receiver away, or a commit waits: released after a while -> Released
//!              Released -> received again, for a while -> hold -> Held
//! level stream: whatever it was -> release -> Free
//! ```

use std::collections::BTreeMap;

use model::{Behind, Bytes, Commits, Level, Lsn, Millis, Timestamp};

/// For how long commits wait for a receiver that is not there. A receiver that was killed is back within some 3 s, one on a
/// server that was started again with its database within some 5; most programs give up after 30.
pub const WAITS_AT_MOST: Millis = Millis::seconds(10);
/// For how long it must receive before commits wait for it again, so that one that comes and goes does not hold them up each
/// time.
pub const WELL_FOR: Millis = Millis::seconds(10);
/// What is not received after that time is told: as long as a backup elsewhere may be behind anyway.
pub const LATE_AFTER: Millis = Millis::seconds(60);
/// Much that was just written is no sign of anything; that much after that time is.
pub const MUCH_AFTER: Millis = Millis::seconds(5);
/// Marks that are remembered: the receiver may be late by hours.
const MARKS: usize = 64;

/// What one look at a server found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What lies before is on the server's disk.
    pub written: Lsn,
    /// What lies before was received.
    pub received: Option<Lsn>,
    /// A receiver that has caught up is connected.
    pub is_streaming: bool,
    /// The server has commits wait for it.
    pub is_held: bool,
    /// The commits that wait now.
    pub waiting: Vec<String>,
}

/// What is remembered from one look to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// What had been written at earlier looks and is not received, oldest first.
    marks: Vec<(Timestamp, Lsn)>,
    bytes: u64,
    away_since: Option<Timestamp>,
    well_since: Option<Timestamp>,
    waiting: BTreeMap<String, Timestamp>,
}

impl Memory {
    /// Remembers what an earlier process knew to be late.
    #[must_use]
    pub fn of(behind: Option<Behind>) -> Self {
        Self {
            marks: behind
                .map(|behind| (behind.since, behind.lsn))
                .into_iter()
                .collect(),
            ..Self::default()
        }
    }

    /// Takes in what a look found.
    pub fn note(&mut self, seen: &Seen, now: Timestamp) {
        self.bytes = seen.received.map_or(0, |received| seen.written.after(received));
        let received = |lsn: Lsn| seen.received.is_some_and(|received| received >= lsn);
        self.marks.retain(|(_, lsn)| !received(*lsn));
        if !received(seen.written) {
            if self.marks.len() >= MARKS {
                // The oldest says since when; between the others only detail is lost.
                let mut index = 0;
                self.marks.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
            }
            self.marks.push((now, seen.written));
        }
        let is_here = seen.is_streaming && seen.received.is_some();
        self.away_since = match is_here {
            true => None,
            false => self.away_since.or(Some(now)),
        };
        let waiting = seen.waiting.iter().map(|commit| {
            let since = self.waiting.get(commit).copied().unwrap_or(now);
            (commit.clone(), since)
        });
        self.waiting = waiting.collect();
        let is_well = is_here && self.age(now) < WAITS_AT_MOST && self.waited(now) < WAITS_AT_MOST;
        self.well_since = match is_well {
            true => self.well_since.or(Some(now)),
            false => None,
        };
    }

    /// Bytes that were written and not received at the last look.
    #[must_use]
    pub const fn bytes(&self) -> Bytes {
        Bytes::new(self.bytes)
    }

    /// Since when something that was written is not received; nothing when all was.
    #[must_use]
    pub fn since(&self) -> Option<Timestamp> {
        self.marks.first().map(|(at, _)| *at)
    }

    fn age(&self, now: Timestamp) -> Millis {
        self.since().map_or(Millis::new(0), |since| now.since(since))
    }

    fn waited(&self, now: Timestamp) -> Millis {
        let longest = self.waiting.values().map(|since| now.since(*since)).max();
        longest.unwrap_or(Millis::new(0))
    }

    /// What is to be told of as overdue. `kept` is how much the server keeps: half of it is half of the way to a gap. What
    /// is told of goes on being told until half of what began it.
    #[must_use]
    pub fn behind(&self, told: Option<Behind>, kept: Bytes, now: Timestamp) -> Option<Behind> {
        let (since, lsn) = *self.marks.first()?;
        let (late, much) = match told {
            None => (LATE_AFTER, kept.get() / 2),
            Some(_) => (Millis::new(LATE_AFTER.as_ms() / 2), kept.get() / 4),
        };
        let age = now.since(since);
        let is_behind = age >= late || (self.bytes >= much && age >= MUCH_AFTER);
        is_behind.then_some(Behind { since, lsn })
    }

    /// What to do about the commits of a database of that level.
    #[must_use]
    pub fn decide(&self, level: Level, commits: Commits, seen: &Seen, now: Timestamp) -> Step {
        let is_here = self.away_since.is_none();
        let is_over = self
            .away_since
            .is_some_and(|since| now.since(since) >= WAITS_AT_MOST)
            || self.waited(now) >= WAITS_AT_MOST;
        let is_well = self.well_since.is_some_and(|since| now.since(since) >= WELL_FOR);
        match (level, commits, seen.is_held) {
            (Level::Stream, Commits::Free, false) => Step::Nothing,
            (Level::Stream, Commits::Free | Commits::Held { .. } | Commits::Released { .. }, _) => {
                Step::Release { to: Commits::Free }
            }
            (Level::Sync, Commits::Free | Commits::Held { .. }, true) if is_over => Step::Release {
                to: Commits::Released { since: now },
            },
            (Level::Sync, Commits::Free, true) if is_here => Step::Note {
                to: Commits::Held { since: now },
            },
            (Level::Sync, Commits::Free | Commits::Held { .. }, true) => Step::Nothing,
            // Somebody else told the server, or its settings were lost.
            (Level::Sync, Commits::Held { .. }, false) => Step::Release {
                to: Commits::Released { since: now },
            },
            (Level::Sync, Commits::Free, false) if is_over => Step::Release {
                to: Commits::Released { since: now },
            },
            (Level::Sync, Commits::Free, false) if is_here => Step::Hold,
            (Level::Sync, Commits::Released { .. }, false) if is_well => Step::Hold,
            // Held before a crash of ours that came before this was noted, or to be released still.
            (Level::Sync, Commits::Released { .. }, true) if is_well => Step::Note {
                to: Commits::Held { since: now },
            },
            (Level::Sync, Commits::Released { .. }, true) => Step::Release { to: commits },
            (Level::Sync, Commits::Free | Commits::Released { .. }, false) => Step::Nothing,
        }
    }
}

/// What to do about the commits of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Have the server hold them; it is noted when the server says so.
    Hold,
    /// Note that they are held.
    Note {
        /// What to note.
        to: Commits,
    },
    /// Note it, then have the server let them go.
    Release {
        /// What to note.
        to: Commits,
    },
}

#[cfg(test)]
mod tests;
