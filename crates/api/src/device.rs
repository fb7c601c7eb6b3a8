//! Signing a machine in that has no browser, after RFC 8628: as JSON, with problems as errors, the names of its own.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::people::{Role, Scope};

/// Ask for a code to sign this machine in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDevice {
    /// What the token will be called, and what its approver is shown.
    #[schema(min_length = 1, max_length = 80)]
    pub name: String,
    /// At most as one of this role; as whoever approves it when nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Only these rights, and `read` always; all of the role when nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 6)]
    pub scopes: Option<Vec<Scope>>,
}

/// A code that waits to be approved.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    /// What the machine asks for its token with; for nobody else.
    pub device_code: String,
    /// What it shows to people: `BCDF-GHJK`.
    pub user_code: String,
    /// How long it can be approved.
    pub expires_in_s: u64,
    /// How often the machine may ask at most.
    pub interval_s: u64,
}

/// Ask for the token of a code.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PollDevice {
    /// What the machine was given.
    #[schema(min_length = 1, max_length = 200)]
    pub device_code: String,
}

/// What somebody says on the page about a machine that shows a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceVerdict {
    /// It is let in.
    Approve,
    /// It is kept out.
    Deny,
}

/// The form of the page that lets a machine in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceDecision {
    /// The code that the machine shows.
    #[schema(min_length = 1, max_length = 64)]
    pub user_code: String,
    /// Whether it is let in.
    pub decision: DeviceVerdict,
}

/// The form of the page by which somebody signs in to let a machine in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceSignIn {
    /// The own address.
    #[schema(min_length = 1, max_length = 254)]
    pub email: String,
    /// The own password.
    #[schema(min_length = 1, max_length = 256)]
    pub password: String,
    /// The code to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64)]
    pub user_code: Option<String>,
}

/// A machine that waits to be signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceRequest {
    /// What it calls itself.
    pub name: String,
    /// The network address from which it asked.
    pub source: String,
    /// At most as one of this role.
    pub role: Role,
    /// Only these rights; absent when it is all of the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<Scope>>,
    /// How long it can still be approved.
    pub expires_in_s: u64,
}
