//! Private networks on this machine and discovery DNS.
//!
//! Lives here: one bridge per environment network, the network namespace of each instance, the firewall that keeps
//! environments apart and away from the host, the DNS server that answers on each bridge, and the doors of what may sleep.
//! Does not live here: what runs inside a namespace (`runtime`), which instances exist and where traffic goes
//! (`control`, `edge`). This crate knows no other crate of ours.
//! Invariants: everything made on the host bears the mark of its Stoa and can be found and removed by it; foreign
//! rules, links and namespaces are never changed, except one pair of accepting rules in Docker's own user chain;
//! no thread of the caller ever changes its network namespace.

mod background;
pub mod dns;
pub mod doors;
mod durable;
mod error;
pub mod firewall;
mod follow;
mod foreign;
mod links;
mod namespace;
mod netlink;
mod networks;
mod state;
mod subnet;
mod world;

pub use error::NetError;
pub use networks::{Attachment, Inventory, Network, Networks, Options, Repaired};
pub use state::{Egress, HostPort, Mark, Neighbours, NetworkRules, Transport};
pub use subnet::Subnet;
