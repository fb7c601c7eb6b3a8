//! Managed Valkey: unmodified, one server and one instance a database.
//!
//! Lives here: its image, volume and settings, its users, its log and how it is cut at a second.
//! Does not live here: rows, passwords at rest and when things happen (`control`); what can be restored (`plan`).
//! Invariants: the user `default` is off, whoever is no user of ours can do nothing but `PING`; only the platform may
//! rewrite the log, so that a copy of it is never overtaken unseen.

mod client;
mod image;
mod log;
mod server;
mod users;

pub use client::{Cli, connect};
pub use image::{USUAL_VERSION, can_make, ensure_image, find_image};
pub use log::{Former, Log, cut, look, verify};
pub use server::{settings, workload};
pub use users::{add_login, create_volume, drop_login, sessions, take_over};

/// Where Valkey listens inside its instance.
pub const PORT: u16 = 6379;
/// Where a database's volume is inside its instance.
pub const VOLUME_TARGET: &str = "/var/lib/valkey";
/// The directory of the volume that Valkey has for itself: it must be able to replace files in it.
const DATA: &str = "data";
/// The file with its users, in [`DATA`].
const USERS: &str = "users.acl";
/// The directory with its log, in [`DATA`].
const LOG: &str = "appendonlydir";
/// The user that Debian's package, and the images of the project, run it as.
const RUNS_AS: &str = "valkey";
