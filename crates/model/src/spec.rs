//! What a release runs: services, jobs, their limits, health checks and routes, all defaults filled in.
//!
//! Lives here: the resolved form that a release freezes. Does not live here: how `stoa.toml` spells it (`manifest`).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{EnvKey, Name};
use crate::units::{Bytes, CpuMillis, Millis};

/// A digest-pinned image: `sha256:` and 64 hexadecimal digits of its manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageDigest(String);

/// The text is not an image digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an image digest: sha256: and 64 hexadecimal digits")]
pub struct DigestError(String);

impl ImageDigest {
    /// The digest as text, with `sha256:`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The first twelve digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[7..19]
    }
}

impl FromStr for ImageDigest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let fits = text.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64
                && hex
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(DigestError(text.chars().take(80).collect()))
        }
    }
}
impl TryFrom<String> for ImageDigest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}
impl From<ImageDigest> for String {
    fn from(digest: ImageDigest) -> Self {
        digest.0
    }
}
impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one instance may use. There is no unlimited form: limits are set by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Quota of processor time.
    pub cpu: CpuMillis,
    /// Memory with swap; beyond it the instance is killed and the cause named.
    pub memory: Bytes,
    /// Processes and threads.
    pub pids: u32,
    /// What it may write into its own root file system, which ends with it; beyond it the instance is ended and the cause
    /// named.
    #[serde(default = "disk")]
    pub disk: Bytes,
}

/// Room for caches and uploads on their way, and for some dozen instances on a small disk.
fn disk() -> Bytes {
    Bytes::mi(4096)
}

impl Default for Resources {
    /// One processor, 512 MiB, 512 processes: enough for the usual web process, too little to hurt the host.
    fn default() -> Self {
        Self {
            cpu: CpuMillis::new(1000),
            memory: Bytes::mi(512),
            pids: 512,
            disk: disk(),
        }
    }
}

/// How an instance shows that it may have traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// A path that answers 2xx or 3xx; without one an accepted TCP connection is enough.
    pub path: Option<String>,
    /// How long a new instance may take until its first success.
    pub grace: Millis,
    /// Time between checks.
    pub interval: Millis,
    /// How long one check may take.
    pub timeout: Millis,
    /// Failures in a row after which a ready instance counts as not ready.
    pub failures: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            path: None,
            grace: Millis::seconds(30),
            interval: Millis::seconds(2),
            timeout: Millis::seconds(2),
            failures: 3,
        }
    }
}

/// Which requests reach a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// A host name; `None` stands for `APP.DOMAIN` of the installation.
    pub host: Option<String>,
    /// A path prefix on segment borders, beginning with `/`.
    pub path: String,
}

/// One process type of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The program and its arguments; empty means what the image says.
    pub command: Vec<String>,
    /// An image of its own, as written; `None` means the app's built image.
    pub image: Option<String>,
    /// The port it listens on, also given to it as `PORT`. `None`: it serves nobody.
    pub port: Option<u16>,
    /// How many instances run when nobody scaled it.
    pub count: u16,
    /// Limits of each instance.
    pub resources: Resources,
    /// The check before and during traffic.
    pub health: Health,
    /// Public routes; empty for private services and workers.
    pub routes: Vec<Route>,
    /// Databases and services it may use; their addresses are injected.
    pub uses: BTreeSet<Name>,
    /// Names of secrets delivered to it.
    pub secrets: BTreeSet<EnvKey>,
    /// Time between the polite and the hard stop.
    pub stop_grace: Millis,
}

/// Default time between SIGTERM and SIGKILL (Heroku's contract, which frameworks expect).
pub const STOP_GRACE: Millis = Millis::seconds(30);

/// A task of an app that runs to completion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// When it runs.
    pub on: JobTrigger,
    /// Limits of its instance.
    pub resources: Resources,
    /// Databases and services it may use.
    pub uses: BTreeSet<Name>,
    /// Names of secrets delivered to it.
    pub secrets: BTreeSet<EnvKey>,
    /// How long it may take.
    pub timeout: Millis,
}

/// When a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobTrigger {
    /// Before a release gets traffic; its failure keeps the old release.
    Release,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_accepted_or_refused() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(
            good.parse::<ImageDigest>().expect("a digest").short(),
            "0a0a0a0a0a0a"
        );
        for bad in ["", "sha256:", &good[..70], &good.to_uppercase(), "sha512:00"] {
            assert!(bad.parse::<ImageDigest>().is_err(), "{bad}");
        }
    }
}
