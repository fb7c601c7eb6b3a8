//! Who acts, and what they may do.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::email::Email;
use crate::id::{InvitationId, MembershipId, OrgId, ProjectId, SessionId, TokenId, UserId};
use crate::time::Timestamp;

/// Where a right counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "realm", rename_all = "snake_case")]
pub enum Realm {
    /// Everywhere, and for what belongs to the installation itself: its server, the images that are for all, audit log.
    Installation,
    /// In an org and all its projects.
    Org {
        /// Which.
        org: OrgId,
    },
    /// In one project.
    Project {
        /// Its org.
        org: OrgId,
        /// Which.
        project: ProjectId,
    },
}

impl Realm {
    /// Whether a right in this realm counts in that one too.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Installation, _) => true,
            (Self::Org { org }, Self::Org { org: of } | Self::Project { org: of, .. }) => org == of,
            (Self::Project { project, .. }, Self::Project { project: other, .. }) => project == other,
            (Self::Org { .. } | Self::Project { .. }, Self::Installation)
            | (Self::Project { .. }, Self::Org { .. }) => false,
        }
    }

    /// The org it is in.
    #[must_use]
    pub fn org(self) -> Option<OrgId> {
        match self {
            Self::Installation => None,
            Self::Org { org } | Self::Project { org, .. } => Some(org),
        }
    }

    /// How rows name it.
    #[must_use]
    pub fn key(self) -> String {
        match self {
            Self::Installation => "installation".to_owned(),
            Self::Org { org } => org.to_string(),
            Self::Project { project, .. } => project.to_string(),
        }
    }
}

/// The most that the bearer of a token may do, whatever its maker may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// At most as one of this role.
    pub role: Role,
    /// Only these rights; `None` is all that the role has.
    pub scopes: Option<BTreeSet<Action>>,
    /// Only there.
    pub realm: Realm,
}

impl Bounds {
    /// A role without other limits.
    #[must_use]
    pub fn of(role: Role, realm: Realm) -> Self {
        Self {
            role,
            scopes: None,
            realm,
        }
    }

    /// Whether these bounds let an action pass.
    #[must_use]
    pub fn allow(&self, action: Action) -> bool {
        self.role.allows(action)
            && (action == Action::See || self.scopes.as_ref().is_none_or(|scopes| scopes.contains(&action)))
    }
}

/// Who asks for something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "actor", rename_all = "snake_case")]
pub enum Actor {
    /// Root on the host, by peer credentials on control's own socket: the break-glass administrator.
    HostRoot {
        /// Process that connected.
        pid: i32,
    },
    /// A user who has signed in.
    User {
        /// Which.
        user: UserId,
        /// By which session.
        session: SessionId,
    },
    /// The bearer of an access token.
    Token {
        /// Which.
        token: TokenId,
        /// Its name, for people and the audit log.
        name: String,
        /// Who made it, and whose present rights it never exceeds; `None`: the host or a claim.
        user: Option<UserId>,
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
            Self::User { user, .. } => format!("user:{user}"),
            Self::Token { token, user, .. } => match user {
                Some(user) => format!("user:{user} token:{token}"),
                None => format!("token:{token}"),
            },
            Self::System => "system".to_owned(),
        }
    }

    /// The user who acts, himself or through a token.
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        match self {
            Self::User { user, .. } => Some(*user),
            Self::Token { user, .. } => *user,
            Self::HostRoot { .. } | Self::System => None,
        }
    }
}

/// What an actor is to an org or project.
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
    /// Know that an org or project is there, and its name: whoever has any right in it or below it.
    See,
    /// See apps, releases, instances, operations, logs.
    Read,
    /// Deploy, roll back, restart, scale; and with `ReadSecrets` run and exec.
    Deploy,
    /// Change configuration, write secrets.
    Configure,
    /// Read database credentials; and with `Deploy` choose what runs where secrets are in the environment.
    ReadSecrets,
    /// Create and destroy apps and databases.
    Manage,
    /// Projects, environments, tokens, images, audit, the server.
    Administer,
}

impl Action {
    /// Each of them.
    pub const ALL: [Self; 7] = [
        Self::See,
        Self::Read,
        Self::Deploy,
        Self::Configure,
        Self::ReadSecrets,
        Self::Manage,
        Self::Administer,
    ];

    /// What people call it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::See => "see",
            Self::Read => "read",
            Self::Deploy => "deploy",
            Self::Configure => "configure",
            Self::ReadSecrets => "read_secrets",
            Self::Manage => "manage",
            Self::Administer => "administer",
        }
    }
}

impl Role {
    /// The one table of rights. Everything not listed is refused.
    #[must_use]
    pub fn allows(self, action: Action) -> bool {
        match action {
            Action::See | Action::Read => self >= Self::Viewer,
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
    /// Only in this project of `org`: a deploy token.
    #[serde(default)]
    pub project: Option<ProjectId>,
    /// Only these rights; `None` is all that the role has.
    #[serde(default)]
    pub scopes: Option<BTreeSet<Action>>,
    /// Who made it, and whose present rights it never exceeds; `None`: the host or a claim.
    #[serde(default)]
    pub user: Option<UserId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Last use, to about a minute.
    pub last_used_at: Option<Timestamp>,
    /// Set when it was revoked.
    pub revoked: bool,
    /// When that was.
    #[serde(default)]
    pub revoked_at: Option<Timestamp>,
    /// The token that made it, and with which it is revoked.
    #[serde(default)]
    pub parent: Option<TokenId>,
}

impl Token {
    /// What it may do at most.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let realm = match (self.org, self.project) {
            (None, _) => Realm::Installation,
            (Some(org), None) => Realm::Org { org },
            (Some(org), Some(project)) => Realm::Project { org, project },
        };
        Bounds {
            role: self.role,
            scopes: self.scopes.clone(),
            realm,
        }
    }
}

/// Somebody who can sign in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Id.
    pub id: UserId,
    /// Address, in the one form that [`Email`] gives it.
    pub email: Email,
    /// Name for people.
    pub name: String,
    /// Of the password, with its parameters and salt; `None` for who signs in elsewhere only.
    pub password: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From where he signed in, not long ago.
    #[serde(default)]
    pub familiar: Vec<Familiar>,
}

/// A place from which a user signed in. It outlives the session: who guesses a password must not keep its owner out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Familiar {
    /// Its address.
    pub source: String,
    /// The last time, to about a day.
    pub at: Timestamp,
}

/// What a user is somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Id.
    pub id: MembershipId,
    /// Who.
    pub user: UserId,
    /// Where.
    pub realm: Realm,
    /// As what.
    pub role: Role,
    /// Since when.
    pub created_at: Timestamp,
}

/// The right of one address to become a member, once. Only the hash of its text is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Id.
    pub id: InvitationId,
    /// SHA-256 of its text, hexadecimal.
    pub hash: String,
    /// For whom.
    pub email: Email,
    /// Where.
    pub realm: Realm,
    /// As what; `None` lets a user choose a new password and nothing else.
    pub role: Option<Role>,
    /// Who made it, as the audit log names him.
    pub by: String,
    /// The same, whose rights are looked at again when it is taken; `None` for those of earlier versions.
    #[serde(default)]
    pub maker: Option<Actor>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// A user who has signed in with a browser. Only the hash of its text is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Id.
    pub id: SessionId,
    /// Whose.
    pub user: UserId,
    /// SHA-256 of its text, hexadecimal.
    pub hash: String,
    /// From which address it began.
    pub source: String,
    /// What the browser said it is.
    pub agent: String,
    /// When it began.
    pub created_at: Timestamp,
    /// When it ends however much it is used.
    pub expires_at: Timestamp,
    /// Last use, to about a minute.
    pub last_used_at: Timestamp,
}
