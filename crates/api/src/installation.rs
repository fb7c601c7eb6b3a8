//! The installation itself: what it is, what changes in it.

use std::collections::BTreeMap;

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// This installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Server {
    /// Version of Stoa.
    pub version: String,
    /// Where its data is.
    pub data_dir: String,
    /// Apps without a host of their own answer at `APP.DOMAIN`.
    pub domain: String,
    /// Addresses by name: `api`, `http`, `https`.
    pub listeners: BTreeMap<String, String>,
    /// What the host can do, for example `cgroup: hybrid`, `pool: reflink`.
    pub capabilities: BTreeMap<String, String>,
    /// Since when the disk of its data cannot be written: nothing can be changed, and what runs goes on. Absent while all is
    /// well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub read_only_since: Option<Timestamp>,
}

/// The master key, which seals secrets in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MasterKey {
    /// Public name of the key that seals.
    pub current: String,
    /// Public names of older keys that still open something, oldest first. Empty when no rotation is under way.
    pub older: Vec<String>,
}

/// A machine of the installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Its host name.
    pub name: String,
    /// Where it stands: `ready`.
    pub state: String,
    /// Version of its kernel.
    pub kernel: String,
    /// Processors that Stoa may use.
    pub processors: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// Memory that could be given to something new.
    pub memory_available_bytes: u64,
    /// Size of the file system that has the data directory.
    pub disk_bytes: u64,
    /// What is free of it.
    pub disk_available_bytes: u64,
    /// Instances that run on it.
    pub instances: u64,
    /// What it can do, for example `pool: reflink`.
    pub capabilities: BTreeMap<String, String>,
}

crate::page::pages! {
    NodePage of Node, "nodes";
}

/// Something changed. Read the thing itself to see what it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Number of the revision; the `id` of its frame.
    pub revision: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Kind of the thing, for example `app`.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// Id of what it belongs to; empty for what belongs to the installation.
    pub parent: String,
    /// Its name; may be empty.
    pub name: String,
    /// Its generation after the change.
    pub generation: u64,
    /// What was done: `insert`, `update` (what is wanted), `status` (what is seen) or `delete`.
    pub change: String,
}

/// A frame of an event stream (`text/event-stream`), as its parser sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Frame {
    /// Where to resume: send it back as `Last-Event-ID` or `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Kind of the frame: `event`, `line` or `end`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// A JSON text: an `Event` or a `LogLine`.
    pub data: String,
}

/// Whether the server is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or what is wrong.
    pub status: String,
}
