//! The per-instance parent: a tiny static program, and the messages it speaks.
//!
//! Lives here: the face shared with `runtime`: wire messages, records on disk, the log segment format, control groups,
//! and (feature `spec`) the container specification. The programs are in `bin/`:
//! `stoa-keeper` (one per instance, lives as long as it) and `stoa-create` (makes a container or enters one, then ends).
//! Does not live here: deciding what runs (`control`), the library side of starting and stopping (`runtime`).
//! Invariant: this library needs nothing but `std`, `libc` and `rustix`, so the keeper stays around 100 KB of private memory;
//! an old keeper and a new `runtime` always understand each other (see [`message`]).

pub mod cgroup;
pub mod durable;
pub mod fence;
pub mod log;
pub mod message;
pub mod record;
#[cfg(feature = "spec")]
pub mod spec;
pub mod wire;
