//! Where backups lie that are not on this machine.
//!
//! Lives here: what the server keeps of its target. Does not live here: talking to it (`backup`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// The target that backups of all databases are also written to. A server has one at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupTarget {
    /// Where.
    pub place: TargetPlace,
    /// The identity under which this server writes there. No other server's objects are ever touched.
    pub server: String,
    /// Public name of the key.
    pub fingerprint: String,
    /// Version of what is sealed here.
    pub version: u64,
    /// The sealed key.
    pub key: Vec<u8>,
    /// The sealed secret key of a bucket; empty for a directory.
    pub secret: Vec<u8>,
    /// When somebody proved to have the key elsewhere. Until then the backup may be lost with this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escrowed_at: Option<Timestamp>,
    /// Since when it is written to.
    pub since: Timestamp,
}

/// Where a target is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TargetPlace {
    /// A directory of the host.
    Directory {
        /// Its path from the root.
        path: String,
    },
    /// A bucket of a server that speaks S3.
    S3 {
        /// Address of the server.
        endpoint: String,
        /// The bucket.
        bucket: String,
        /// Its region.
        region: String,
        /// Under which everything lies; may be empty.
        prefix: String,
        /// Public name of the secret key.
        access_key: String,
    },
}

impl fmt::Display for TargetPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path } => f.write_str(path),
            Self::S3 {
                endpoint,
                bucket,
                prefix,
                ..
            } => {
                let slash = if prefix.is_empty() { "" } else { "/" };
                write!(f, "{endpoint}/{bucket}{slash}{prefix}")
            }
        }
    }
}
