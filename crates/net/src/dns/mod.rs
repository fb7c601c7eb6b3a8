//! Discovery DNS: `SERVICE.APP.internal` on each network's gateway.
//!
//! Lives here: the zones file that tells who is where, and the server that answers from it.
//! Does not live here: who is where (`control` publishes it).
//! Invariants: a question is answered only from the network it came from; the server needs nobody but the last zones
//! file it read; names of others are asked of the host's resolvers, a bounded number at a time.

mod answer;
mod server;
mod upstream;
pub(crate) mod zones;

pub use server::{Server, Status};
pub use zones::{Door, Service, Zone, Zones, publish, read};
