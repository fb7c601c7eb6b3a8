//! What can go wrong with an image, in the words of the person who asked for it.
//!
//! Lives here: the one error type of this crate and its next steps.
//! Does not live here: HTTP statuses of our own API (`server`).
//! Invariant: no message carries a credential or the text of a hostile archive unescaped.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// Why an operation on images failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Another process holds the store's lock.
    #[error("the image store {root} is in use by another process")]
    InUse {
        /// Directory of the store.
        root: PathBuf,
    },
    /// A system call failed.
    #[error("could not {doing} {path}")]
    Io {
        /// What was being done, as a verb.
        doing: &'static str,
        /// The file it was done to.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// The disk or its inodes are used up; whatever was begun has been removed again.
    #[error(
        "the disk under {path} has no more room than what stays free there; what was written has been removed again"
    )]
    DiskFull {
        /// The file that did not fit.
        path: PathBuf,
    },
    /// No image has this name or digest.
    #[error("no image is named {name}")]
    NotFound {
        /// The name asked for.
        name: String,
    },
    /// A reference that cannot be read.
    #[error("{text:?} is not an image reference: {why}")]
    BadReference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file of ours does not hold what we wrote.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Content is not what its digest promises.
    #[error("{what} should have digest {expected} and has {found}")]
    DigestMismatch {
        /// The blob, layer or manifest.
        what: String,
        /// What was promised.
        expected: Digest,
        /// What was found.
        found: Digest,
    },
    /// Content is not as long as promised.
    #[error("{what} should be {expected} bytes long and is {found}")]
    SizeMismatch {
        /// The blob.
        what: String,
        /// What was promised.
        expected: u64,
        /// What was found.
        found: u64,
    },
    /// A directory that is laid over an image would stand where that has a link.
    #[error(
        "{path:?} is a link to {target:?} in the image below: a directory there would hide what it leads to"
    )]
    HidesLink {
        /// The directory.
        path: PathBuf,
        /// Where the link leads.
        target: PathBuf,
    },
    /// An archive or image that is hostile, ambiguous or broken; nothing of it is kept.
    #[error("{what} is refused: {why}")]
    Refused {
        /// The archive, image or entry.
        what: String,
        /// The reason.
        why: String,
    },
    /// A bound was reached; nothing is kept.
    #[error("{what} is refused: more than {limit} {unit}")]
    Quota {
        /// The archive.
        what: String,
        /// The bound.
        limit: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// A format we do not read.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// The thing.
        what: String,
        /// What is supported instead.
        why: String,
    },
    /// The registry could not be reached or broke off for good.
    #[error("registry {registry} cannot be reached: {cause}")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// What happened last.
        cause: String,
    },
    /// The registry is where only the operator may send us.
    #[error("registry {registry} is not at a public address")]
    NotPublic {
        /// Host and port.
        registry: String,
    },
    /// The registry wants other credentials.
    #[error("registry {registry} does not let us at {repository}")]
    Unauthorized {
        /// Host and port.
        registry: String,
        /// Repository.
        repository: String,
    },
    /// The registry has no such tag or digest.
    #[error("registry {registry} has no {repository}{reference}")]
    Absent {
        /// Host and port.
        registry: String,
        /// Repository.
        repository: String,
        /// Tag with its colon or digest with its at sign.
        reference: String,
    },
    /// The registry answered something we cannot use.
    #[error("registry {registry} answered {status} to {asked}")]
    Registry {
        /// Host and port.
        registry: String,
        /// HTTP status.
        status: u16,
        /// Method and path.
        asked: String,
    },
    /// The registry sent us somewhere we do not go.
    #[error("registry {registry} sent us to {to}, which is refused: {why}")]
    RedirectRefused {
        /// Host and port.
        registry: String,
        /// Where to.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// Credentials for one host were asked for by another.
    #[error("registry {registry} wants its credentials sent to {to}")]
    CredentialsWouldLeave {
        /// Host and port.
        registry: String,
        /// The other host.
        to: String,
    },
    /// The registry speaks no TLS and nobody allowed that.
    #[error("registry {registry} would be asked without encryption")]
    PlainHttpRefused {
        /// Host and port.
        registry: String,
    },
    /// The image exists, but not for this machine.
    #[error("{reference} has no image for {wanted}; it offers {offered}")]
    NoPlatform {
        /// What was asked for.
        reference: String,
        /// This platform.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// A program we need is not installed.
    #[error("{tool} is not installed")]
    ToolMissing {
        /// Its name.
        tool: &'static str,
    },
    /// A program we ran failed.
    #[error("{tool} failed ({outcome}); its last lines:\n{log_tail}")]
    Tool {
        /// Its name.
        tool: String,
        /// Exit status or the limit it ran into.
        outcome: String,
        /// The end of what it printed.
        log_tail: String,
    },
}

impl ImageError {
    /// Gives a failed system call its place; a full disk gets its own name.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>, cause: impl Into<io::Error>) -> Self {
        let (path, cause) = (path.as_ref().to_path_buf(), cause.into());
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _other => match cause.downcast::<Self>() {
                Ok(ours) => ours,
                Err(cause) => Self::Io { doing, path, cause },
            },
        }
    }

    /// A stream that cannot be read on: the disk's fault only where the disk says so.
    pub(crate) fn stream(what: &str, cause: io::Error) -> Self {
        match Self::io("read", what, cause) {
            Self::Io { cause, .. } if cause.raw_os_error().is_none() => {
                Self::refused(what, cause.to_string())
            }
            other => other,
        }
    }

    pub(crate) fn refused(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Refused {
            what: what.into(),
            why: why.into(),
        }
    }

    /// Carries this error through an interface that only knows `io::Error`.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// What the person who asked can do about it.
    pub fn next(&self) -> String {
        match self {
            Self::InUse { .. } => "one Stoa per data directory: stop the other one first".into(),
            Self::Io { path, .. } => format!("check that {} exists and is writable by root", path.display()),
            Self::DiskFull { .. } => "free space: stoa image ls, then stoa image rm".into(),
            Self::NotFound { .. } => "list what there is: stoa image ls".into(),
            Self::BadReference { .. } => "write it as [REGISTRY/]NAME[:TAG] or NAME@sha256:DIGEST".into(),
            Self::Damaged { path, .. } => format!(
                "put {} back from a copy, or move it away and import or pull its images again",
                path.display()
            ),
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => {
                "fetch or import the image again; if it repeats, the source is damaged or altered".into()
            }
            Self::HidesLink { path, target } => {
                format!(
                    "lay what is in {path:?} at {target:?} instead: with --at, or by its place in the directory"
                )
            }
            Self::Refused { .. } => {
                "make the archive again with tar or docker save from a trusted source".into()
            }
            Self::Quota { .. } => "make it smaller, or raise the limit for this project".into(),
            Self::Unsupported { .. } => "convert it to an OCI image with gzip or zstd layers".into(),
            Self::Unreachable { registry, .. } => {
                format!("check the address and that this machine reaches {registry}, then try again")
            }
            Self::NotPublic { .. } => {
                "ask an administrator to bring the image in: stoa image pull REFERENCE".into()
            }
            Self::Unauthorized { registry, .. } => format!("give credentials for {registry}"),
            Self::Absent { .. } => "check the spelling of the name and the tag".into(),
            Self::Registry { .. } => "try again later; if it repeats, ask whoever runs the registry".into(),
            Self::RedirectRefused { .. } => {
                "use a registry that serves its own blobs, or ask its operator".into()
            }
            Self::CredentialsWouldLeave { to, .. } => {
                format!("if {to} is that registry's own sign-in host, allow it as a token host")
            }
            Self::PlainHttpRefused { registry } => {
                format!("give {registry} a certificate, or allow it as an insecure registry")
            }
            Self::NoPlatform { .. } => "choose an image that is built for this machine".into(),
            Self::ToolMissing { tool } => format!("install it: apt-get install {tool}"),
            Self::Tool { .. } => {
                "read the lines above; a package name may be wrong or the mirror away".into()
            }
        }
    }
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, ImageError>;

/// Attaches what was being done to a failed system call.
pub(crate) trait Doing<T> {
    /// Names the verb and the file.
    fn doing(self, verb: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, verb: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|cause| ImageError::io(verb, path, cause))
    }
}
