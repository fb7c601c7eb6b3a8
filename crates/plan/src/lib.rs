//! What to do next, decided purely: the movement of one app, backoff, backup and its drills, what commits wait for, pruning.
//!
//! Lives here: functions from facts and a time to a decision that says why.
//! Does not live here: clocks, randomness, ids, I/O, the order in which a decision is stored and acted on (`control`).
//! Invariant: the same facts give the same answer, so a decision may be lost and taken again at any point.

pub mod app;
pub mod backoff;
pub mod backup;
pub mod drill;
pub mod elsewhere;
pub mod prune;
pub mod receipt;
pub mod recovery;
pub mod storage;
pub mod valkey;
