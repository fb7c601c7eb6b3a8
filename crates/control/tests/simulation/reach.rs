//! What happened to the fleets: a kind of event that never occurred proves nothing.
//!
//! Lives here: every kind, and how often it occurred. Does not live here: making them happen.

use std::collections::BTreeMap;

/// Every kind that the short run must meet.
const KINDS: [&str; 55] = [
    "a good release",
    "a slow start",
    "a hang",
    "a bad release",
    "flapping health",
    "a program that ignores its stop signal",
    "a release job",
    "a blue-green release",
    "a canary",
    "a step of a canary begins",
    "a release that runs alone",
    "a configuration changed",
    "a release proven",
    "a release rejected",
    "a movement that is back",
    "deploys of several apps at once",
    "a deploy beside another of its app",
    "a deploy during a rollout",
    "a rollback",
    "a rollback during a rollout",
    "a restart during a rollout",
    "a scale",
    "a scale during a rollout",
    "a cancel",
    "a cancel during a rollout",
    "an operation canceled",
    "an operation out of time",
    "a deletion",
    "a deletion during a deploy",
    "a command",
    "a change of what was read in time",
    "a change of what was read too long ago",
    "an instance crashes",
    "an orphan",
    "an engine that refuses",
    "an engine whose answer is lost",
    "an engine that forgets",
    "an engine that is late",
    "the same call again",
    "an image that cannot be got",
    "a host that cannot be seen",
    "a change that nobody told control",
    "a look at what did not change",
    "an edge that refuses a table",
    "an edge that does not answer",
    "another edge",
    "control dies before a write",
    "control dies before a start",
    "control dies before a stop",
    "control dies before a removal",
    "control dies before a publication",
    "control dies after an effect",
    "control dies between two looks",
    "workers die first",
    "control is away for a minute",
];

/// How often each kind occurred.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reach(BTreeMap<&'static str, u64>);

impl Reach {
    /// It occurred.
    pub fn note(&mut self, kind: &str) {
        let kind = KINDS.iter().find(|known| **known == kind);
        let kind = kind.expect("a kind that is listed");
        *self.0.entry(kind).or_default() += 1;
    }

    /// Counts another fleet's, too.
    pub fn add(&mut self, other: &Self) {
        for (kind, count) in &other.0 {
            *self.0.entry(kind).or_default() += count;
        }
    }

    /// Kinds that never occurred.
    pub fn missed(&self) -> Vec<&'static str> {
        KINDS
            .iter()
            .copied()
            .filter(|kind| !self.0.contains_key(kind))
            .collect()
    }

    /// For people.
    pub fn tell(&self) -> String {
        let told = KINDS.iter().map(|kind| {
            let count = self.0.get(kind).copied().unwrap_or_default();
            format!("{count:>9}  {kind}")
        });
        told.collect::<Vec<_>>().join("\n")
    }
}
