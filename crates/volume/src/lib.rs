//! Volumes and their copy-on-write clones in a storage pool.
//!
//! Lives here: the pool and what its file system can do, making, cloning, measuring and removing volumes, and the pool
//! file (XFS on a loop device) for hosts whose file system only copies.
//! Does not live here: what is in a volume (`databases`), who may use it (`control`), mounting it into an instance
//! (`runtime`). This crate knows no other crate of ours. A template is just a volume.
//! Invariants: a volume that can be seen is complete and durable; what a crash leaves half made is removed by the next
//! `Pool::open`; no name and no content of a volume leads outside of the pool.

mod backing;
mod error;
mod ioctl;
mod name;
mod pool;
mod probe;
mod remove;
mod tree;
mod usage;

pub use backing::PoolFile;
pub use error::VolumeError;
pub use pool::{Backing, Capacity, Grown, Options, Pool};
pub use probe::{Capability, probe};
pub use usage::{Usage, allocated, inodes};
