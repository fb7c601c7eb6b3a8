//! The edge over real sockets: every test has its own edge, backends and directories, on loopback and ports of its own.
#![allow(clippy::unwrap_used)] // A test: a panic is its verdict.

mod faults;
mod forwarding;
mod held;
mod http2;
mod lifecycle;
mod malformed;
mod publishing;
mod safeguards;
mod support;
