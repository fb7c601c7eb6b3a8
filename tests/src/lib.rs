//! What every journey leans on: a real Stoa of its own, its CLI, plain clients, and a census of what is left behind.
//!
//! Lives here: starting, asking, loading, looking from outside. Does not live here: what Stoa promises (`tests/`).
//! Invariants: a [`Stoa`] uses only its own directory and ports that the kernel chose; what it leaves behind fails
//! the journey; nothing waits for a time where it can wait for a fact.

mod answer;
mod api;
mod application;
pub mod back;
pub mod canary;
pub mod census;
pub mod damage;
mod fleet;
mod frozen;
pub mod http;
mod instance;
pub mod platform;
pub mod postgres;
pub mod process;
mod reboot;
pub mod session;
pub mod soak;
pub mod speed;
mod stoa;
pub mod traffic;
mod wait;
mod websocket;

pub use answer::Answer;
pub use api::{Api, ENVIRONMENT, Reply};
pub use application::{Application, repository, rust_api};
pub use fleet::{Fleet, Tiny};
pub use frozen::Frozen;
pub use instance::Instance;
pub use reboot::{forget_boot, power_off, reboot};
pub use stoa::{Listeners, Stoa};
pub use wait::{PATIENCE, holds, until};
pub use websocket::WebSocket;
