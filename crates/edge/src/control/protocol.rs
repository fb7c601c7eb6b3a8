//! The words on the control socket.
//!
//! Lives here: requests and replies, one JSON document per line.
//! Does not live here: who may speak (`server`).
//! Invariant: versioned; an edge refuses words it does not know instead of guessing.
//!
//! ```text
//! -> {"v":1,"do":{"publish":{"bytes":123}}}\n<123 bytes: the table>      <- {"published":{"generation":7,"persisted":true}}\n
//! -> {"v":1,"do":{"in_flight":{"targets":["a"]}}}\n                      <- {"in_flight":{"a":{"requests":1,"upgrades":0}}}\n
//! -> {"v":1,"do":"handover"}\n                                           <- {"sockets":["http0"]}\n, with the descriptors of the
//!                                                                          named sockets, in that order, as SCM_RIGHTS on its first byte
//! ```

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::record::Metrics;
use crate::table::Problem;
use crate::worker::Load;

/// The version of these words.
pub const VERSION: u32 = 1;

/// One line toward the edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// See [`VERSION`].
    pub v: u32,
    /// What to do.
    #[serde(rename = "do")]
    pub order: Order,
}

/// What the edge can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Serve the table that follows the line.
    Publish {
        /// Its length.
        bytes: u64,
    },
    /// What is in flight to these targets.
    InFlight {
        /// Their ids.
        targets: Vec<String>,
    },
    /// Answer when no request is in flight to these targets, or the time is up.
    WaitIdle {
        /// Their ids.
        targets: Vec<String>,
        /// At most this long.
        timeout_ms: u64,
    },
    /// All counters.
    Metrics,
    /// How the edge is.
    Status,
    /// Pass the listening sockets.
    Handover,
    /// Accept nothing any more, let connections end, then exit.
    Drain(DrainLimits),
}

/// How long a draining edge lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainLimits {
    /// For requests, and for idle connections to ask one last time.
    pub requests_ms: u64,
    /// For upgraded connections.
    pub upgrades_ms: u64,
}

impl Default for DrainLimits {
    fn default() -> DrainLimits {
        DrainLimits {
            requests_ms: 60_000,
            upgrades_ms: 3_600_000,
        }
    }
}

/// One line from the edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Every thread serves it.
    Published(Ack),
    /// The table is refused whole; the one before is served on.
    Refused {
        /// Every reason.
        problems: Vec<Problem>,
    },
    /// By target.
    InFlight(HashMap<String, Load>),
    /// After waiting.
    Idle(Idle),
    /// Counters.
    Metrics(Metrics),
    /// State.
    Status(Status),
    /// Names of the sockets that come with this line.
    Sockets(Vec<String>),
    /// Draining has begun.
    Draining,
    /// The edge could not do it.
    Failed {
        /// Why.
        what: String,
    },
}

/// A table is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The generation every thread serves.
    pub generation: u64,
    /// Whether it was also kept for the next start; false on a full disk.
    pub persisted: bool,
}

/// The result of waiting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    /// Whether no request is in flight.
    pub is_idle: bool,
    /// What is in flight.
    pub loads: HashMap<String, Load>,
}

/// How the edge is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its process.
    pub pid: u32,
    /// The program's version.
    pub version: String,
    /// The generation served.
    pub generation: u64,
    /// Serving threads.
    pub threads: usize,
    /// Client connections.
    pub connections: u64,
    /// Of these, upgraded.
    pub upgrades: u64,
    /// Whether it is on its way out.
    pub is_draining: bool,
    /// The edges before it that still drain.
    #[serde(default)]
    pub predecessors: Vec<u32>,
}
