//! Use cases and reconcilers: the only room that sees the store and the engine.
//!
//! Lives here: what the product does, one folder a noun; `reconcile` brings the world to what the store wants.
//! Does not live here: deciding (`plan`), the wire (`server`), making containers (`engine` and below).
//! Invariants: every mutation commits what is wanted, an operation, an audit record and a revision in one
//! transaction, and is acknowledged after that commit; every object is loaded through [`authorize`].

pub mod apps;
pub mod audit;
pub mod authorize;
pub mod databases;
pub mod error;
pub mod events;
pub mod images;
pub mod keys;
pub mod logs;
pub mod nodes;
pub mod operations;
pub mod people;
pub mod places;
#[doc(hidden)]
pub mod planted;
pub mod reconcile;
pub mod rehearsal;
pub mod releases;
pub mod routes;
pub mod secrets;
pub mod settings;
pub mod uploads;
pub mod volumes;

mod bell;
mod clock;
mod files;
mod hosts;
mod transact;
mod workload;

// What the use cases take and give, so that the doors need to know no other room.
pub use engine::{Exec, ExecStreams, LogRecord, Stream as LogStream};
pub use store::{AuditVerdict, Begun, Now, Secret, StoreError, Versioned};
pub use transact::with_key;

pub use authorize::EnvPath;
pub use error::ControlError;
pub use settings::Settings;

use std::sync::Arc;

use engine::Engine;
use store::Store;

pub use crate::bell::Bell;
pub use crate::clock::Clock;
use crate::routes::EdgeLink;

/// What every use case works on. It holds no logic and no state of its own.
pub struct Control {
    /// Durable facts.
    pub store: Arc<Store>,
    /// Where workloads run.
    pub engine: Arc<dyn Engine>,
    /// Who answers requests from outside.
    pub edge: Arc<dyn EdgeLink>,
    /// What was chosen at the start.
    pub settings: Settings,
    /// Wakes the reconcilers.
    pub bell: Bell,
    /// What time it is.
    pub clock: Clock,
    /// The operations that have not settled.
    pub open: operations::Open,
    /// What the door asks before anything else.
    pub door: people::Door,
}
