//! Instances: one running isolated copy each.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::id::{AppId, DatabaseId, InstanceId, OperationId, ReleaseId};
use crate::name::Name;
use crate::time::Timestamp;

/// One life of one workload. A restart is another instance with another id: what happened to each stays told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Id; names the container, its network namespace, cgroups and files.
    pub id: InstanceId,
    /// What it runs for.
    pub purpose: Purpose,
    /// How many lives its place had before without staying well: the exponent of the backoff.
    pub attempt: u32,
    /// When its row was made (the intent).
    pub created_at: Timestamp,
    /// Its address on the environment's network, once known.
    pub address: Option<Ipv4Addr>,
    /// Number of its private range of user ids.
    pub uid_range: u32,
    /// It was ended because it was not needed, so its end says nothing about its release.
    pub excused: bool,
    /// Where it stands.
    pub condition: Condition,
}

/// What an instance runs for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "purpose", rename_all = "snake_case")]
pub enum Purpose {
    /// A place of a service.
    Service {
        /// Its app.
        app: AppId,
        /// Its release.
        release: ReleaseId,
        /// Number of the rollout that asked for it.
        epoch: u64,
        /// Its process type.
        service: Name,
        /// Which of its copies, from 0.
        index: u16,
    },
    /// A job or a one-off command.
    Job {
        /// Its app.
        app: AppId,
        /// Its release.
        release: ReleaseId,
        /// Name of the job.
        job: Name,
        /// Who waits for it.
        operation: OperationId,
    },
    /// A managed database.
    Database {
        /// Which.
        database: DatabaseId,
    },
    /// Receives the write-ahead log of a database into its archive.
    Receiver {
        /// Whose.
        database: DatabaseId,
        /// Into which stretch.
        stretch: u64,
    },
    /// Shares few sessions of a database among many clients.
    Pooler {
        /// Whose.
        database: DatabaseId,
        /// With which of the passwords that it looks up clients with.
        number: u64,
    },
}

impl Purpose {
    /// The app it belongs to, if any.
    #[must_use]
    pub fn app(&self) -> Option<AppId> {
        match self {
            Self::Service { app, .. } | Self::Job { app, .. } => Some(*app),
            Self::Database { .. } | Self::Receiver { .. } | Self::Pooler { .. } => None,
        }
    }

    /// The release it runs, unless it is a database's.
    #[must_use]
    pub fn release(&self) -> Option<ReleaseId> {
        match self {
            Self::Service { release, .. } | Self::Job { release, .. } => Some(*release),
            Self::Database { .. } | Self::Receiver { .. } | Self::Pooler { .. } => None,
        }
    }
}

/// Where an instance stands.
///
/// ```text
/// Starting -> Ready <-> Unready -> Draining -> Stopping -> Exited
///     \___________________________________________________/
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "condition", rename_all = "snake_case")]
pub enum Condition {
    /// Asked for; not yet fit for traffic.
    Starting {
        /// Since when.
        since: Timestamp,
    },
    /// Fit for traffic.
    Ready {
        /// Since when.
        since: Timestamp,
    },
    /// Runs, but its check fails.
    Unready {
        /// Since when.
        since: Timestamp,
        /// What the check said.
        why: String,
    },
    /// Gets no new requests; finishes what it has.
    Draining {
        /// Since when.
        since: Timestamp,
    },
    /// Told to end.
    Stopping {
        /// Since when.
        since: Timestamp,
    },
    /// Ended.
    Exited {
        /// When.
        at: Timestamp,
        /// How.
        exit: Exit,
    },
}

impl Condition {
    /// Whether a process may still be there.
    #[must_use]
    pub fn is_live(&self) -> bool {
        match self {
            Self::Starting { .. }
            | Self::Ready { .. }
            | Self::Unready { .. }
            | Self::Draining { .. }
            | Self::Stopping { .. } => true,
            Self::Exited { .. } => false,
        }
    }
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Exit {
    /// By itself, with a code.
    Code {
        /// 0 is success.
        code: i32,
    },
    /// By a signal.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// Killed for using more memory than its limit.
    OutOfMemory,
    /// Ended for writing more into its own root file system than it may.
    DiskFull,
    /// It could not be started.
    NeverStarted {
        /// Why.
        why: String,
    },
    /// It vanished without a record (the host was reset, or somebody removed it).
    Lost,
}

impl Exit {
    /// A sentence part for people: "exit code 1", "out of memory".
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Code { code } => format!("ended with exit code {code}"),
            Self::Signal { signal } => format!("was ended by signal {signal}"),
            Self::OutOfMemory => "was killed: out of memory (its limit is resources.memory)".to_owned(),
            Self::DiskFull => {
                "was ended: it wrote too much into its own file system (its limit is resources.disk)"
                    .to_owned()
            }
            Self::NeverStarted { why } => format!("could not be started: {why}"),
            Self::Lost => "vanished without an exit record".to_owned(),
        }
    }
}
