//! Use cases and reconcilers: the only room that sees the store and the engine.
//!
//! Lives here: what the product does, one folder a noun; `reconcile` brings the world to what the store wants.
//! Does not live here: deciding (`plan`), the wire (`server`), making containers (`engine` and below).
//! Invariants: every mutation commits what is wanted, an operation, an audit record and a revision in one
//! transaction, and is acknowledged after that commit; every object is loaded through [`authorize`]; [`Control`] gives
//! nobody else its store.

pub mod apps;
pub mod audit;
pub mod authorize;
pub mod databases;
pub mod elsewhere;
pub mod error;
pub mod events;
pub mod idempotency;
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
pub mod disk;
mod files;
mod hosts;
mod late;
mod parts;
mod transact;
mod workload;

// What the use cases take and give, so that the doors need to know no other room.
pub use engine::{Exec, ExecStreams, LogRecord, Stream as LogStream};
pub use oidc::OidcError;
pub use store::{AuditVerdict, Begun, Secret, StoreError, Versioned};
pub use transact::with_key;

pub use authorize::EnvPath;
pub use error::ControlError;
pub use settings::Settings;

pub use crate::bell::Bell;
pub use crate::clock::Clock;
pub use crate::parts::{Control, Parts};
