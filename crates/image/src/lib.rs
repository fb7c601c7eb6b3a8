//! Images: a content-addressed store in OCI image layout, and every way an image gets into it.
//!
//! ```text
//! import ─┐                                    ┌─ root: layers and binds to mount
//! pull ───┤                                    │
//! debian ─┼─> blobs + layers + index (store) ──┼─ inspect, list, tag, export, push
//! host ───┤                                    │
//! commit ─┘                                    └─ gc, verify
//! ```
//!
//! Lives here: storing, naming, fetching, making, checking and collecting images; unpacking what strangers made.
//! Does not live here: mounting and running them (`runtime`), deciding what to build (`build`), budgets (`control`).
//! Invariant: an image is known by the digest of its manifest, and nothing is stored under a digest it does not have.
//!
//! All calls are synchronous and may come from any thread; long ones tell their progress to a callback.

mod address;
mod allowance;
mod apt;
mod beneath;
mod commit;
mod compress;
mod debian;
mod debian_finish;
mod digest;
mod disk;
mod error;
mod gc;
mod host_image;
mod import;
mod inspect;
mod layers;
mod names;
mod oci;
mod pack;
mod progress;
mod pull;
mod push;
mod reference;
mod registry;
mod store;
mod tarball;
mod tool;
mod tree;
mod unpack;
mod verify;
pub use commit::{CommitOptions, DirectoryOptions};
pub use debian::{DebianBase, Variant};
pub use digest::{Digest, ImageId, NotADigest};
pub use disk::remove_tree;
pub use error::{ImageError, Result};
pub use gc::{Budget, Freed, Hold, Usage};
pub use host_image::Toolchain;
pub use import::Archive;
pub use inspect::{Inspection, Layer, Root, Summary};
pub use names::{Bind, Origin};
pub use oci::ImageConfig;
pub use pack::Times;
pub use progress::Progress;
pub use reference::Reference;
pub use registry::{Credentials, Freshness, PullPolicy, Reach};
pub use store::Images;
pub use unpack::{Quota, Unpacked, unpack_source};
pub use verify::Fault;
