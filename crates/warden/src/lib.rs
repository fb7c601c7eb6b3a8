//! Owns the listening sockets and the data-directory lock; starts and restarts edge and control.
//!
//! Lives here: the one lock per data directory (`lock`), listening sockets and who holds a taken port (`sockets`), passing
//! sockets to a child (`inherit`), children and their restart delays (`children`, `process`), the loop over signals
//! (`supervise`), going over to another binary (`upgrade`) and what that one is told (`takeover`).
//! Does not live here: what edge and control do, how a living edge is asked for its sockets (the caller's closure).
//! Invariant: single-threaded, so that a child may die with its parent's *thread*, and so that it stays small.
//!
//! ```text
//! run: lock -> adopt sockets of a living edge -> bind the rest -> start children -> wait for a signal
//!                                                                       ^------ restart ------'  '-> stop in order
//! ```

mod children;
mod inherit;
mod lock;
mod process;
mod signals;
mod sockets;
mod supervise;
mod takeover;
mod upgrade;

pub use children::{Backoff, Child, Replaced};
pub use inherit::{FDS_VARIABLE, InheritError, PARENT_VARIABLE, die_with_parent, inherited_fds};
pub use lock::{Lock, LockError, Taker};
pub use sockets::{Bound, Holder, Origin, SocketError, Wanted, holder_of_port};
pub use supervise::{Adopt, Describe, Error, Event, ExitReason, NO_RESTART, Options, run};
pub use takeover::{
    TAKEOVER_VARIABLE, TakeoverError, VERSION as TAKEOVER_VERSION, is_rehearsal, is_takeover,
};
pub use upgrade::{Ask, ROLLED_BACK_VARIABLE, Upgrades};
