//! Backup elsewhere: sealed objects on a target that is not this machine.
//!
//! Lives here: the key, sealing and opening objects, where they may lie (a directory, a bucket of an S3 server), what an
//! object is called, and what the catalogue of a database says.
//! Does not live here: which objects there shall be (`control`, `plan`), what is in them (`databases`).
//! Invariants: nothing of a database leaves this machine in the clear; an object opens only under its own name, whole and
//! in order; a put is there as a whole or not at all.

mod bucket;
mod catalogue;
mod directory;
mod error;
mod key;
mod listing;
mod names;
mod seal;
mod sign;
mod target;

pub use bucket::{Access, Bucket};
pub use catalogue::{Catalogue, KeptBase, KeptFile, KeptStretch, Manifest, Mark, Part};
pub use error::BackupError;
pub use key::{Key, KeyError};
pub use names::{Names, ROOT, servers};
pub use seal::{Opened, PART_BYTES, open, seal};
pub use target::{Object, Target};
