//! Managed databases: PostgreSQL, unmodified, one cluster and one instance a database; and Valkey (`valkey`).
//!
//! Lives here: images and templates, a cluster's identity, settings from the memory limit, login roles, psql, branches and what is
//! made of them, the archive, restore and its drills, a pooler, taking the place of another one, another major version.
//! Does not live here: rows, passwords at rest and when things happen (`control`).
//! Invariants: a database is born as a clone of a stopped, checksummed template with a system identifier of its own;
//! logins are members of one owner role, so that a login can be replaced without touching an object.

mod activity;
pub mod archive;
mod branch;
pub mod canary;
pub mod carry;
mod cluster;
mod control_file;
mod drill;
mod error;
mod in_effect;
mod inside;
pub mod manifest;
pub mod pooler;
pub mod promote;
mod psql;
mod restore;
mod session;
mod shape;
mod statements;
mod template;
mod tunnel;
mod upgrade;
pub mod valkey;

pub use activity::{Activity, Sitting, activity};
pub use branch::{Copy, Taken, rename_identity, settle, take};
pub use cluster::{USER, VOLUME_TARGET, settings, workload};
pub use drill::{Counted, Estimates, Findings, Rehearsal, drill, estimates};
pub use error::DatabaseError;
pub use in_effect::{Setting, Source, settings_in_effect};
pub use psql::{Psql, add_login, all_sessions, drop_login, only_read, psql, sessions, write_again};
pub use restore::{Replay, ask_for_replay, replay, supply};
pub use statements::{Counting, Statement, Statements, preload, statements};
pub use template::{
    Place, USUAL_VERSION, can_make, collect_templates, create_volume, ensure_image, ensure_template,
    find_image, find_template, prepare_spare,
};
pub use tunnel::connect;
pub use upgrade::{
    PG_UPGRADE, Rehearsed, Upgrade, fit_for_upgrade, look_at_upgraded, make_ready_to_end, make_statistics,
    set_free, upgrade,
};

/// Where PostgreSQL listens inside its instance.
pub const PORT: u16 = 5432;
/// The one database of a cluster that applications use.
pub const DATABASE: &str = "app";
/// Owns everything in it; nobody logs in as it.
pub const OWNER: &str = "app_owner";

/// The login role of a credential's version.
#[must_use]
pub fn login_role(version: u64) -> String {
    format!("app_{version}")
}
