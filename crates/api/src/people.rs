//! Claiming, tokens, and who one is.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::members::{Grant, User};
use crate::page::pages;
use model::Timestamp;

/// What the bearer of a credential may do; each role includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

/// One right that a token can be limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// See apps, releases, instances, operations, logs; never values of secrets.
    Read,
    /// Deploy, roll back, restart, scale; with `read_secrets` run and exec.
    Deploy,
    /// Change configuration, write secrets.
    Configure,
    /// Credentials of databases, psql; with `deploy` run and exec. What is deployed sees its secrets without it.
    ReadSecrets,
    /// Create and destroy apps and databases.
    Manage,
    /// Projects, environments, members, tokens, images, audit, the server.
    Administer,
}

/// Trade the one-time claim token that `stoa up` printed for an access token. With an address, the first user is made too.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The claim token.
    #[schema(min_length = 1, max_length = 200)]
    pub token: String,
    /// Address of the first user; with it go `name` and `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        pattern = r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$",
        min_length = 3,
        max_length = 254
    )]
    pub email: Option<String>,
    /// Name of the first user, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 80)]
    pub name: Option<String>,
    /// Password of the first user: 12 characters or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub password: Option<String>,
}

/// A fresh access token. Its text is shown this once and never again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuedToken {
    /// The text to send as `Authorization: Bearer`.
    pub token: String,
    /// What it is.
    pub about: Token,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedToken")
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

/// An access token, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Id, begins with `tok_`.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The org it is bound to; absent when it counts for the whole installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// The project it is bound to: a deploy token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The user who made it, and whose present rights it never exceeds; absent for those of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The rights it is limited to; absent when it has all of its role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<Scope>>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Last use, to about a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// Make an access token. It can not be stronger than the one who makes it is at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Name for people.
    #[schema(min_length = 1, max_length = 80)]
    pub name: String,
    /// What it may do at most.
    pub role: Role,
    /// Name or id of the org it is bound to; without it, as far as the maker's own reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// Only these rights of the role, and `read` always; all when nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 6)]
    pub scopes: Option<Vec<Scope>>,
    /// How long it lives; 90 days when nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 60, maximum = 31_622_400)]
    pub lifetime_s: Option<u64>,
}

/// Make a deploy token of a project. It can not be stronger than the one who makes it is at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDeployToken {
    /// Name for people.
    #[schema(min_length = 1, max_length = 80)]
    pub name: String,
    /// What it may do at most, in this project.
    pub role: Role,
    /// Only these rights of the role, and `read` always; all when nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 6)]
    pub scopes: Option<Vec<Scope>>,
    /// How long it lives; 90 days when nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 60, maximum = 31_622_400)]
    pub lifetime_s: Option<u64>,
}

/// Who the caller is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Whoami {
    /// How the audit log names the caller.
    pub actor: String,
    /// The strongest role that the caller has anywhere.
    pub role: Role,
    /// What the caller may do where, as far as the token in use lets it pass.
    #[serde(default)]
    pub roles: Vec<Grant>,
    /// The user; absent for root on the host and for tokens that are nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// The org the caller is bound to; absent when the whole installation is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// Name of the token; absent for root on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_name: Option<String>,
}

/// One row of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditRow {
    /// Its number; rows are chained in this order.
    pub number: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What was asked for.
    pub action: String,
    /// Upon what.
    pub object: String,
    /// What the gate said: `allowed` or `refused`.
    pub decision: String,
    /// For the record of an outcome: the number of the record it completes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completes: Option<u64>,
    /// For the record of an outcome: what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Its link in the chain, hexadecimal.
    pub hash: String,
}

/// Whether the audit log is as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditVerification {
    /// Whether each row follows from the one before, up to the end that was sealed last outside the store.
    pub whole: bool,
    /// How many rows there are, when it is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// Number of the first row that was altered, moved or removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_bad: Option<u64>,
    /// What is wrong with that row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

pages! {
    TokenPage of Token, "access tokens";
    AuditPage of AuditRow, "the audit log, newest first";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was issued gets into logs by `{:?}` sooner or later.
    #[test]
    fn what_lets_somebody_in_is_not_shown() {
        let about = |text: &str| format!("{{\"token\":\"{text}\",\"about\":");
        let token: IssuedToken = serde_json::from_str(&format!(
            "{}{{\"id\":\"tok_1\",\"name\":\"ci\",\"role\":\"viewer\",\"created_at\":\"2026-01-01T00:00:00Z\",\
             \"expires_at\":\"2026-01-02T00:00:00Z\",\"revoked\":false}}}}",
            about("stoa_pat_text")
        ))
        .expect("a token");
        let shown = format!("{token:?}");
        assert!(
            shown.contains("\"ci\"") && !shown.contains("stoa_pat_text"),
            "{shown}"
        );
        let invitation: crate::IssuedInvitation = serde_json::from_str(&format!(
            "{}{{\"id\":\"inv_1\",\"email\":\"ada@example.org\",\"role\":\"viewer\",\"invited_by\":\"x\",\
             \"created_at\":\"2026-01-01T00:00:00Z\",\"expires_at\":\"2026-01-02T00:00:00Z\"}}}}",
            about("stoa_inv_text")
        ))
        .expect("an invitation");
        let shown = format!("{invitation:?}");
        assert!(
            shown.contains("ada@") && !shown.contains("stoa_inv_text"),
            "{shown}"
        );
    }
}
