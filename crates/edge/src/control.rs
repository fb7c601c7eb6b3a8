//! The door for control: a unix socket with newline JSON.
//!
//! Lives here: the messages (`protocol`), answering them (`server`), asking (`client`, also used by the next edge), where
//! edges are found (`place`).
//! Does not live here: what threads do with them (`worker`).
//! Invariant: nothing said here is needed to serve requests; a table is acknowledged only when every thread serves it.

pub(crate) mod client;
pub(crate) mod place;
pub mod protocol;
pub(crate) mod server;

pub use client::{Client, ClientError};
pub use place::living;
pub use protocol::{Ack, DrainLimits, Idle, Status};
