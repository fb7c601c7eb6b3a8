//! What every journey leans on: a real Stoa of its own, its CLI, plain clients, and a census of what is left behind.
//!
//! Lives here: starting, asking, loading, looking from outside. Does not live here: what Stoa promises (`tests/`).
//! Invariants: a [`Stoa`] uses only its own directory and ports that the kernel chose; what it leaves behind fails
//! the journey; nothing waits for a time where it can wait for a fact.

mod answer;
mod api;
mod application;
pub mod census;
mod frozen;
pub mod http;
pub mod platform;
pub mod process;
pub mod soak;
mod stoa;
pub mod traffic;
mod wait;
mod websocket;

pub use answer::Answer;
pub use api::{Api, ENVIRONMENT, Reply};
pub use application::{Application, repository, rust_api};
pub use frozen::Frozen;
pub use stoa::{Listeners, Stoa};
pub use wait::{PATIENCE, holds, until};
pub use websocket::WebSocket;
