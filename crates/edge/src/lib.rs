//! HTTP in: listen, TLS, route, balance, forward, drain.
//!
//! A request passes `listen -> tls -> request -> route -> admit -> pick -> forward -> record`; HTTP/2 enters the same phases
//! through `h2`. `table` is what is published, `control` how, `process` the life of the whole, `worker` that of one thread.
//!
//! Lives here: everything between a client's connection and an instance's.
//! Does not live here: which instances there are and whether they are healthy (control publishes that as a table).
//! Invariant: serving needs nothing but the table in memory. Control may be absent, wrong or slow; requests do not notice.

mod admit;
mod answer;
mod buffer;
mod certs;
mod clock;
pub mod control;
mod disk;
mod fields;
mod forward;
mod h1;
mod h2;
mod held;
mod hub;
mod inspect;
mod listen;
mod options;
mod path;
mod pick;
pub mod planted;
mod process;
mod record;
mod relay;
mod request;
mod rewrite;
mod route;
mod stream;
pub mod table;
mod tls;
mod tunnel;
mod upstream;
mod watchdog;
mod worker;

pub use certs::CertificateError;
pub use options::{Limits, Listener, Options, Scheme, Timeouts};
pub use process::{Error, Running, run, start};
pub use record::{Metrics, ServiceMetrics, TargetMetrics};
pub use worker::Load;
