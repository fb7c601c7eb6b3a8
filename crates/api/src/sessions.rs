//! Signing in with a password.

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::members::User;
use crate::page::pages;

/// The cookie that a browser keeps for a session: only sent over TLS or to the own machine, never shown to scripts.
pub const SESSION_COOKIE: &str = "__Host-stoa";

/// Sign in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// Address.
    #[schema(
        pattern = r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$",
        min_length = 3,
        max_length = 254
    )]
    pub email: String,
    /// Password.
    #[schema(min_length = 1, max_length = 256)]
    pub password: String,
}

/// Who signed in, and by which session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedIn {
    /// Who.
    pub user: User,
    /// By which session; its text is in the cookie.
    pub session: Session,
}

/// A session of a user, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Id, begins with `ses_`.
    pub id: String,
    /// The network address at which it began, `host` for the host itself.
    pub source: String,
    /// What the browser said it is.
    pub agent: String,
    /// Whether it is the one that asks.
    pub current: bool,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Last use, to about a minute. It ends 12 hours after that.
    #[schema(value_type = String, format = DateTime)]
    pub last_used_at: Timestamp,
    /// When it ends however much it is used.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// Choose another password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutPassword {
    /// The one that counts now.
    #[schema(min_length = 1, max_length = 256)]
    pub current: String,
    /// The one to have from now on: 12 characters or more, and not easy to guess.
    #[schema(min_length = 1, max_length = 256)]
    pub new: String,
}

pages! {
    SessionPage of Session, "sessions";
}
