//! Who acts, and what they may do.

use serde::{Deserialize, Serialize};

use crate::id::{OrgId, TokenId};
use crate::time::Timestamp;

/// Who asks for something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "actor", rename_all = "snake_case")]
pub enum Actor {
    /// Root on the host, by peer credentials on control's own socket: the break-glass administrator.
    HostRoot {
        /// Process that connected.
        pid: i32,
    },
    /// The bearer of an access token.
    Token {
        /// Which.
        token: TokenId,
        /// Its name, for people and the audit log.
        name: String,
        /// What it may do.
        role: Role,
        /// Where; `None` is the whole installation.
        org: Option<OrgId>,
    },
    /// A reconciler of ours.
    System,
}

impl Actor {
    /// How the audit log names it.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::HostRoot { .. } => "host-root".to_owned(),
            Self::Token { token, .. } => format!("token:{token}"),
            Self::System => "system".to_owned(),
        }
    }
}

/// What an actor is to an org.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads all but secrets.
    Viewer,
    /// Deploys, configures, reads secrets of apps and databases.
    Developer,
    /// Manages environments, tokens, images and the audit log too.
    Admin,
    /// Everything.
    Owner,
}

/// What can be asked for. One name for each right; endpoints name the right they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// See apps, releases, instances, operations, logs.
    Read,
    /// Deploy, roll back, restart, scale, run, exec.
    Deploy,
    /// Change configuration, write secrets.
    Configure,
    /// Read secret values and database credentials.
    ReadSecrets,
    /// Create and destroy apps and databases.
    Manage,
    /// Projects, environments, tokens, images, audit, the server.
    Administer,
}

impl Role {
    /// The one table of rights. Everything not listed is refused.
    #[must_use]
    pub fn allows(self, action: Action) -> bool {
        match action {
            Action::Read => self >= Self::Viewer,
            Action::Deploy | Action::Configure | Action::ReadSecrets | Action::Manage => {
                self >= Self::Developer
            }
            Action::Administer => self >= Self::Admin,
        }
    }
}

/// An access token. Only the hash of its text is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Id.
    pub id: TokenId,
    /// Name for people.
    pub name: String,
    /// SHA-256 of the whole text, hexadecimal.
    pub hash: String,
    /// What it may do.
    pub role: Role,
    /// Where; `None` is the whole installation.
    pub org: Option<OrgId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Last use, to about a minute.
    pub last_used_at: Option<Timestamp>,
    /// Set when it was revoked.
    pub revoked: bool,
}
