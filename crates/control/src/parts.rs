//! What everything works on, and who may reach it.
//!
//! Invariant: outside of this crate nobody gets from a [`Control`] to its store or its engine. What a door may load is what a
//! use case gives it, and each of those asks the gate: a handler that goes around it does not compile.

use std::sync::Arc;

use engine::Engine;
use store::Store;

use crate::bell::Bell;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::elsewhere::Uploads;
use crate::late::Late;
use crate::operations::Open;
use crate::people::Door;
use crate::routes::EdgeLink;
use crate::settings::Settings;

/// What a [`Control`] is made of. Who wires one keeps of it what it needs.
#[derive(Clone)]
pub struct Parts {
    /// Durable facts.
    pub store: Arc<Store>,
    /// Where workloads run.
    pub engine: Arc<dyn Engine>,
    /// Who answers requests from outside.
    pub edge: Arc<dyn EdgeLink>,
    /// What was chosen at the start.
    pub settings: Settings,
    /// Wakes the reconcilers.
    pub bell: Arc<Bell>,
    /// What time it is.
    pub clock: Clock,
    /// How far backups are on the target elsewhere.
    pub uploads: Arc<Uploads>,
    /// What the door asks before anything else.
    pub door: Arc<Door>,
}

impl Parts {
    /// These, by the clock of the machine.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        engine: Arc<dyn Engine>,
        edge: Arc<dyn EdgeLink>,
        settings: Settings,
    ) -> Self {
        Self {
            store,
            engine,
            edge,
            settings,
            bell: Arc::default(),
            clock: Clock::default(),
            uploads: Arc::default(),
            door: Arc::default(),
        }
    }
}

/// What every use case works on. It holds no logic and no state of its own.
pub struct Control {
    pub(crate) store: Arc<Store>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) edge: Arc<dyn EdgeLink>,
    /// What was chosen at the start.
    pub settings: Settings,
    pub(crate) bell: Arc<Bell>,
    pub(crate) clock: Clock,
    /// The operations that have not settled.
    pub(crate) open: Open,
    pub(crate) uploads: Arc<Uploads>,
    /// How late the logs of databases are.
    pub(crate) late: Late,
    /// Whether what changes can be written down.
    pub(crate) disk: Disk,
    pub(crate) door: Arc<Door>,
}

impl Control {
    /// One of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            store,
            engine,
            edge,
            settings,
            bell,
            clock,
            uploads,
            door,
        } = parts;
        Self {
            store,
            engine,
            edge,
            settings,
            bell,
            clock,
            open: Open::default(),
            uploads,
            late: Late::default(),
            disk: Disk::default(),
            door,
        }
    }

    /// A seal of these texts for that purpose, 16 bytes, that only this installation can make.
    #[must_use]
    pub fn mark(&self, purpose: &str, texts: &[&str]) -> [u8; 16] {
        self.store.mark(purpose, texts)
    }

    /// Whether that is the seal of these texts; compared in constant time.
    #[must_use]
    pub fn is_mark(&self, purpose: &str, texts: &[&str], mark: &[u8]) -> bool {
        self.store.is_mark(purpose, texts, mark)
    }
}
