//! Users, what they are where, and invitations.

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::page::pages;
use crate::people::Role;

/// What somebody is somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    /// As what.
    pub role: Role,
    /// Id of the org; absent when it counts for the whole installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// Id of the project; absent when it counts for the whole org.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
}

/// Somebody who can sign in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Id, begins with `usr_`.
    pub id: String,
    /// Address, lower case; unique on the installation.
    pub email: String,
    /// Name for people.
    pub name: String,
    /// Whether a password was set.
    pub has_password: bool,
    /// What the user is where.
    pub roles: Vec<Grant>,
    /// When the user was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A user in an org or project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Id of the user.
    pub user: String,
    /// Address of the user.
    pub email: String,
    /// Name of the user, for people.
    pub name: String,
    /// As what.
    pub role: Role,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// Give somebody a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutRole {
    /// Which. Nobody gives more than the own.
    pub role: Role,
}

/// Invite an address to the whole installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUserInvitation {
    /// For whom: only this address can take it.
    #[schema(
        pattern = r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$",
        min_length = 3,
        max_length = 254
    )]
    pub email: String,
    /// As what. Nobody gives more than the own.
    pub role: Role,
}

/// Invite an address to an org or a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateInvitation {
    /// For whom: only this address can take it.
    #[schema(
        pattern = r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$",
        min_length = 3,
        max_length = 254
    )]
    pub email: String,
    /// As what. Nobody gives more than the own.
    pub role: Role,
    /// Name or id of a project of the org: only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub project: Option<String>,
}

/// An open invitation, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    /// Id, begins with `inv_`.
    pub id: String,
    /// For whom.
    pub email: String,
    /// As what; absent when it only lets a user choose a new password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Id of the org; absent when it is for the whole installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// Id of the project; absent when it is for the whole org.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Who made it, as the audit log names them.
    pub invited_by: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// A fresh invitation. Its text is shown this once and never again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuedInvitation {
    /// The text to hand to whoever has the address; it works once.
    pub token: String,
    /// What it is.
    pub about: Invitation,
}

impl std::fmt::Debug for IssuedInvitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedInvitation")
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

/// Take an invitation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptInvitation {
    /// Its text.
    #[schema(min_length = 1, max_length = 200)]
    pub token: String,
    /// Name for people, for who is no user yet; without it, the part of the address before the `@`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 80)]
    pub name: Option<String>,
    /// The password of the user who is there, or the one to have from now on: 12 characters or more.
    #[schema(min_length = 1, max_length = 256)]
    pub password: String,
}

pages! {
    UserPage of User, "users";
    MemberPage of Member, "members";
    InvitationPage of Invitation, "open invitations";
}
