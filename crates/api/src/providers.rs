//! Signing in at a provider of OpenID Connect.

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::page::pages;

/// Where users may sign in instead of with a password here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IdentityProvider {
    /// Id, begins with `idp_`.
    pub id: String,
    /// Name, in addresses.
    pub name: String,
    /// Its address, exactly as it calls itself.
    pub issuer: String,
    /// What it calls this installation.
    pub client_id: String,
    /// Whether it knows this installation by a secret, which is never shown.
    pub has_secret: bool,
    /// The address to register there: it sends browsers back to it.
    pub redirect: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Make or change an identity provider.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutIdentityProvider {
    /// Its address, exactly as it calls itself; `https://`, or `http://` on this machine.
    #[schema(min_length = 8, max_length = 500)]
    pub issuer: String,
    /// What it calls this installation.
    #[schema(min_length = 1, max_length = 500)]
    pub client_id: String,
    /// What it knows this installation by; absent for a public client. It is sealed and never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 1000)]
    pub client_secret: Option<String>,
    /// Where browsers reach this installation, without a path: `https://stoa.example.org`.
    #[schema(min_length = 8, max_length = 500)]
    pub origin: String,
}

/// Fetch what a browser brought back from an identity provider.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchSession {
    /// What the browser was sent to the program with.
    #[schema(min_length = 1, max_length = 200)]
    pub code: String,
    /// What the program's challenge was made of (RFC 7636).
    #[schema(min_length = 43, max_length = 128)]
    pub verifier: String,
}

/// Link an account of an identity provider with the own user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkIdentity {
    /// What the browser was sent to the program with.
    #[schema(min_length = 1, max_length = 200)]
    pub code: String,
    /// What the program's challenge was made of (RFC 7636).
    #[schema(min_length = 43, max_length = 128)]
    pub verifier: String,
    /// The own password here.
    #[schema(min_length = 1, max_length = 256)]
    pub password: String,
}

/// An account of an identity provider that is linked with a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Identity {
    /// Id, begins with `idn_`.
    pub id: String,
    /// Name of the provider.
    pub provider: String,
    /// What the provider calls the account, for ever.
    pub subject: String,
    /// Since when it is linked.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

pages! {
    IdentityProviderPage of IdentityProvider, "identity providers";
    IdentityPage of Identity, "identities";
}
