//! What can go wrong with networks, in the terms of networks.
//!
//! Lives here: the one error type of this crate and its next steps.
//! Does not live here: texts for API callers (`server`).

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// A failed network operation: what failed, for whom.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The mark cannot be part of device and table names.
    #[error("network mark {0:?} must be 1 to 6 characters of a-z and 0-9")]
    BadMark(String),
    /// The text is not an IPv4 subnet.
    #[error("{0:?} is not an IPv4 subnet such as 10.80.0.0/12")]
    BadSubnet(String),
    /// The pool cannot be cut into networks.
    #[error("network pool {pool} is too small to hold networks of /{prefix}")]
    PoolTooSmall {
        /// The pool that was given.
        pool: String,
        /// The prefix each network would have.
        prefix: u8,
    },
    /// A key or an instance id cannot name a file or a network.
    #[error("{what} {value:?} is not a usable name")]
    BadName {
        /// What was to be named.
        what: &'static str,
        /// The refused value.
        value: String,
    },
    /// Another process manages the same state directory.
    #[error("the networks in {} are managed by another process", .dir.display())]
    Locked {
        /// The state directory.
        dir: PathBuf,
    },
    /// Every subnet of the pool is taken or routed elsewhere.
    #[error("no free subnet is left in the pool {pool} for network {key:?}")]
    PoolExhausted {
        /// The pool.
        pool: String,
        /// Who asked.
        key: String,
    },
    /// Every address of one network is taken.
    #[error("network {key:?} has no free address left")]
    NetworkFull {
        /// The network.
        key: String,
    },
    /// The address asked for is not usable for this instance.
    #[error("address {ip} cannot be given to instance {instance}: {why}")]
    AddressRefused {
        /// The address asked for.
        ip: Ipv4Addr,
        /// Who asked.
        instance: String,
        /// Why not.
        why: &'static str,
    },
    /// No network has this key.
    #[error("there is no network {key:?}")]
    UnknownNetwork {
        /// The key.
        key: String,
    },
    /// The instance already has a namespace in another network.
    #[error("instance {instance} is already attached to network {network:?}")]
    AttachedElsewhere {
        /// The instance.
        instance: String,
        /// Where it is.
        network: String,
    },
    /// Instances are still attached.
    #[error("network {key:?} still has {instances} instances")]
    NetworkInUse {
        /// The network.
        key: String,
        /// How many instances it has.
        instances: usize,
    },
    /// The kernel refused.
    #[error("the kernel refused to {what}")]
    Kernel {
        /// What was asked of it.
        what: String,
        /// Its answer.
        #[source]
        cause: io::Error,
    },
    /// The firewall could not be set.
    #[error("the firewall of these networks could not be set: {reason}")]
    Firewall {
        /// What the tool said.
        reason: String,
    },
    /// A program this crate needs is missing.
    #[error("the program {tool} could not be started")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// A file of ours could not be read or written.
    #[error("could not {what} {}", .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// A file of ours says something this version does not understand.
    #[error("{} is damaged or of another version", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: serde_json::Error,
    },
}

impl NetError {
    /// What a person can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::BadMark(_) | Self::BadName { .. } => "use another name".into(),
            Self::BadSubnet(_) | Self::PoolTooSmall { .. } => {
                "set a larger pool, e.g. --network-pool 10.80.0.0/12".into()
            }
            Self::Locked { .. } => "stop the other Stoa of this data directory first: stoa down".into(),
            Self::PoolExhausted { .. } => {
                "remove environments you no longer need, or choose a pool that no other network uses".into()
            }
            Self::NetworkFull { .. } => "scale down or move services to another environment".into(),
            Self::AddressRefused { .. } => "leave the address out to have one chosen".into(),
            Self::UnknownNetwork { .. } => "create the network first".into(),
            Self::AttachedElsewhere { .. } => "detach the instance first".into(),
            Self::NetworkInUse { .. } => "detach its instances first".into(),
            Self::Kernel { .. } => "see what this host lacks: stoa doctor".into(),
            Self::Firewall { .. } => "look at the rules: nft list ruleset; then: stoa doctor".into(),
            Self::Tool { tool, .. } => format!("install it: apt-get install {}", package_of(tool)),
            Self::File { .. } => "check free space and permissions of the data directory".into(),
            Self::Damaged { path, .. } => {
                format!(
                    "move {} away; networks are made anew when their instances start",
                    path.display()
                )
            }
        }
    }

    /// The shape used at every system call: `.map_err(NetError::kernel("bring up eth0"))`.
    pub(crate) fn kernel<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |cause| Self::Kernel {
            what,
            cause: cause.into(),
        }
    }
}

fn package_of(tool: &str) -> &str {
    match tool {
        "nft" => "nftables",
        other => other,
    }
}
