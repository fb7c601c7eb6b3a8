//! The public contract: wire types, the list of endpoints, and the OpenAPI document made from both.
//!
//! Lives here: what client and server must agree on, byte for byte (also the frames of `exec`).
//! Does not live here: how an endpoint is done (`server`), nouns (`model`), how a call is made (`client`).
//! Invariant: the document is derived from [`endpoints::ALL`] and the types; nothing in it is written twice.

pub mod apps;
pub mod databases;
pub mod device;
pub mod document;
pub mod drills;
pub mod elsewhere;
pub mod endpoint;
pub mod endpoints;
pub mod examples;
pub mod exec;
pub mod images;
pub mod installation;
pub mod looking;
pub mod members;
pub mod operations;
pub mod page;
pub mod people;
pub mod places;
pub mod problem;
pub mod providers;
pub mod reference;
pub mod releases;
pub mod sessions;
pub mod validate;

/// Where control listens for root on the host, below the data directory.
pub const LOCAL_SOCKET: &str = "run/api.sock";
/// Requests that one credential may send in a minute, unless `stoa up` is told otherwise: far above what people, pipelines
/// and a console do, and a tenth of what would keep a small machine busy with nothing else.
pub const REQUESTS_PER_MINUTE: u32 = 60_000;
/// Where `stoa up` listens for the API by default.
pub const DEFAULT_ADDRESS: &str = "http://127.0.0.1:7070";

pub use apps::*;
pub use databases::*;
pub use device::*;
pub use drills::*;
pub use elsewhere::*;
pub use endpoint::{Answer, Body, Endpoint, Method, Need};
pub use images::*;
pub use installation::*;
pub use looking::*;
pub use members::*;
pub use operations::*;
pub use page::Page;
pub use people::*;
pub use places::*;
pub use problem::{FieldError, Problem};
pub use providers::*;
pub use releases::*;
pub use sessions::*;
