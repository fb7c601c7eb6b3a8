//! The shared nouns of Stoa: ids, names, units, specs and states.
//!
//! Lives here: what two rooms must agree on, and its invariants (a name is valid, a size is a number of bytes).
//! Does not live here: convenience functions, wire types (`api`), table rows (`store`), decisions (`plan`).

pub mod app;
pub mod backup;
pub mod database;
pub mod drill;
pub mod elsewhere;
pub mod email;
pub mod id;
pub mod identity;
pub mod instance;
pub mod manifest;
pub mod name;
pub mod operation;
pub mod people;
pub mod release;
pub mod spec;
pub mod strategy;
pub mod time;
pub mod units;
pub mod valkey;

pub use app::{App, Environment, Org, Project};
pub use backup::{
    Archive, Base, Behind, Commits, Drilled, Level, LevelError, Lsn, LsnError, Reached, Restored,
    SEGMENT_BYTES, Segment, Target,
};
pub use database::{
    Asleep, BranchSource, Credential, Database, DatabaseState, Origin, Pooler, Promoted, Replaced,
    Restarting, Shape, StorageFull,
};
pub use drill::{Drill, DrillState, DrilledCopy};
pub use elsewhere::{BackupTarget, TargetPlace};
pub use email::Email;
pub use id::*;
pub use identity::{Identity, IdentityProvider};
pub use instance::{Condition, Exit, Instance, Purpose};
pub use name::{EnvKey, Name, NameError, is_host_name};
pub use operation::{Failure, Operation, OperationState, Work};
pub use people::{
    Action, Actor, Bounds, Familiar, Invitation, Membership, Realm, Role, Session, Token, User,
};
pub use release::{Release, ReleaseState};
pub use spec::{Health, ImageDigest, Job, Resources, Route, Service};
pub use strategy::{Strategy, Surge};
pub use time::Timestamp;
pub use units::{Bytes, CpuMillis, Millis, UnitError};
pub use valkey::{DatabaseEngine, EngineWish, KeptLog, Valkey, ValkeyPlan, ValkeyPlanError};
