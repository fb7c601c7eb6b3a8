//! Providers of OpenID Connect, and users as these know them.

use serde::{Deserialize, Serialize};

use crate::id::{IdentityId, ProviderId, UserId};
use crate::name::Name;
use crate::time::Timestamp;

/// Where users may sign in instead of with a password here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityProvider {
    /// Id.
    pub id: ProviderId,
    /// Name, in addresses.
    pub name: Name,
    /// Its address, exactly as it calls itself.
    pub issuer: String,
    /// What it calls us.
    pub client_id: String,
    /// What it knows us by, sealed; `None` for a public client.
    pub secret: Option<Vec<u8>>,
    /// Of the sealed secret.
    pub version: u64,
    /// Where it sends browsers back to.
    pub redirect: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A user as a provider knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Id.
    pub id: IdentityId,
    /// Which provider.
    pub provider: ProviderId,
    /// Who there, for ever.
    pub subject: String,
    /// Who here.
    pub user: UserId,
    /// Since when.
    pub created_at: Timestamp,
}
