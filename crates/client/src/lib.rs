//! A typed client of the API, with a blocking face.
//!
//! Lives here: how a call is made (TCP, TLS, unix socket), how an answer or a problem is read, event streams, exec.
//! Does not live here: what the calls are (`api`), what people see of them (`cli`).
//! Invariant: every call is bounded in time and in what it reads, but for streams the caller reads step by step.

mod calls;
mod connect;
mod error;
mod exec;
mod stream;
mod wire;

pub use calls::Place;
pub use connect::{Address, AddressError};
pub use error::Error;
pub use exec::{Input, Output, Session};
pub use stream::{Events, Next};
pub use wire::{Client, RawAnswer};
