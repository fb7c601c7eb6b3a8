//! Signing in at a provider of OpenID Connect: the authorization code flow with PKCE, and ID tokens that are checked.
//!
//! Lives here: what is asked of the provider, and what of its answers is believed. Does not live here: who a subject is to us
//! (`control`), cookies and redirects (`server`).
//! Invariant: an identity comes out only of a token whose signature, issuer, audience, nonce and times were all checked, by
//! a key of the provider's own and an algorithm that needs one.

mod fetch;
mod token;

use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

pub use fetch::is_origin;
pub use token::{Identity, Keys};

/// Keys are asked for again when a token names one that is not known, but no more often than this: whoever sends tokens
/// with invented keys must not make us ask for each.
pub const KEYS_ASKED_EVERY_S: u64 = 10;
/// And in any case after this, so that a key that was withdrawn is forgotten.
pub const KEYS_KEPT_S: u64 = 15 * 60;

/// Why nobody was signed in.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The provider cannot be asked.
    #[error("the provider {issuer} could not be asked: {why}")]
    Unreachable {
        /// Which.
        issuer: String,
        /// Why.
        why: String,
    },
    /// What it says about itself cannot be used.
    #[error("the provider {issuer} cannot be used: {why}")]
    Unusable {
        /// Which.
        issuer: String,
        /// Why.
        why: String,
    },
    /// It did not give a token for the code.
    #[error("the provider did not take the code: {why}")]
    Refused {
        /// What it said.
        why: String,
    },
    /// The token is not believed.
    #[error("the provider's token is not believed: {why}")]
    NotBelieved {
        /// Which check failed.
        why: &'static str,
    },
}

/// What we are to a provider. Without `Debug`: it holds a secret.
#[derive(Clone)]
pub struct Client {
    /// Its address, exactly as it calls itself.
    pub issuer: String,
    /// What it calls us.
    pub id: String,
    /// What it knows us by; `None` for a public client.
    pub secret: Option<String>,
    /// Where it sends people back to.
    pub redirect: String,
}

/// What a provider says about itself.
#[derive(Debug, Clone, Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    /// How it takes our secret; in the header when it does not say (OpenID Connect Discovery 1.0, 3).
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
    /// Whether it always says in the address who sends a browser back (RFC 9207).
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// A provider that was asked who it is.
pub struct Provider {
    client: Client,
    metadata: Metadata,
    agent: ureq::Agent,
    /// What it publishes, and when that was asked.
    keys: Mutex<Option<(Keys, u64)>>,
}

/// What only the browser that began may come back with. Random, and never used twice; without `Debug`, as it lets in.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    /// Comes back in the address.
    pub state: String,
    /// Comes back in the token.
    pub nonce: String,
    /// Shown with the code (RFC 7636).
    pub verifier: String,
}

impl Secrets {
    /// From 96 random bytes.
    #[must_use]
    pub fn of(random: &[u8; 96]) -> Self {
        Self {
            state: BASE64.encode(&random[..32]),
            nonce: BASE64.encode(&random[32..64]),
            verifier: BASE64.encode(&random[64..]),
        }
    }
}

impl Provider {
    /// Asks a provider who it is.
    ///
    /// # Errors
    /// When it cannot be reached, is another one than it is called, or wants things sent over a plain connection.
    pub fn discover(client: Client) -> Result<Self, OidcError> {
        let agent = fetch::agent();
        let unusable = |why: &str| OidcError::Unusable {
            issuer: client.issuer.clone(),
            why: why.to_owned(),
        };
        if !fetch::is_protected(&client.issuer) {
            return Err(unusable("its address must begin with https://"));
        }
        let address = format!(
            "{}/.well-known/openid-configuration",
            client.issuer.trim_end_matches('/')
        );
        let metadata: Metadata = fetch::json(&agent, &address).map_err(|failed| OidcError::Unreachable {
            issuer: client.issuer.clone(),
            why: failed.why(),
        })?;
        if metadata.issuer != client.issuer {
            return Err(unusable("it calls itself by another address"));
        }
        let addresses = [
            &metadata.authorization_endpoint,
            &metadata.token_endpoint,
            &metadata.jwks_uri,
        ];
        if !addresses
            .iter()
            .all(|address| fetch::may_name(&client.issuer, address))
        {
            return Err(unusable("one of its addresses does not begin with https://"));
        }
        Ok(Self {
            client,
            metadata,
            agent,
            keys: Mutex::default(),
        })
    }

    /// Where to send somebody who wants to sign in.
    #[must_use]
    pub fn begin(&self, secrets: &Secrets) -> String {
        let challenge = BASE64.encode(Sha256::digest(secrets.verifier.as_bytes()));
        let query = fetch::form(&[
            ("response_type", "code"),
            ("client_id", &self.client.id),
            ("redirect_uri", &self.client.redirect),
            ("scope", "openid email profile"),
            ("state", &secrets.state),
            ("nonce", &secrets.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let endpoint = &self.metadata.authorization_endpoint;
        let joint = if endpoint.contains('?') { '&' } else { '?' };
        format!("{endpoint}{joint}{query}")
    }

    /// Who came back with this code, sent by whom the address says (`iss`), if it does. `state` was compared by the caller,
    /// who knows the browser.
    ///
    /// # Errors
    /// When another provider sent it, the provider takes the code for somebody else's, or its token is not believed.
    pub fn finish(
        &self,
        code: &str,
        sender: Option<&str>,
        secrets: &Secrets,
        now_s: u64,
    ) -> Result<Identity, OidcError> {
        // Before the code is shown to anybody: it may be meant for another provider (RFC 9207).
        let is_it = match sender {
            Some(sender) => sender == self.client.issuer,
            None => !self.metadata.authorization_response_iss_parameter_supported,
        };
        if !is_it {
            return Err(OidcError::NotBelieved {
                why: "another provider sent it",
            });
        }
        let text = self.exchange(code, secrets)?;
        self.believe(&text, &secrets.nonce, now_s)
    }

    /// The ID token for a code; not believed yet.
    ///
    /// # Errors
    /// When the provider does not give one.
    pub fn exchange(&self, code: &str, secrets: &Secrets) -> Result<String, OidcError> {
        #[derive(Deserialize)]
        struct Answer {
            id_token: Option<String>,
        }
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", self.client.redirect.as_str()),
            ("code_verifier", secrets.verifier.as_str()),
        ];
        let secret = self.client.secret.as_deref();
        let credentials = match secret.filter(|_| self.takes_headers()) {
            Some(secret) => Some((self.client.id.as_str(), secret)),
            None => {
                fields.push(("client_id", self.client.id.as_str()));
                fields.extend(secret.map(|secret| ("client_secret", secret)));
                None
            }
        };
        let body = fetch::form(&fields);
        let answer: Answer = fetch::post(&self.agent, &self.metadata.token_endpoint, credentials, &body)
            .map_err(|failed| match failed {
                fetch::Failed::Said(why) => OidcError::Refused { why },
                fetch::Failed::Away(_) => self.unreachable(failed),
            })?;
        answer.id_token.ok_or_else(|| OidcError::Refused {
            why: "its answer has no ID token".to_owned(),
        })
    }

    fn unreachable(&self, failed: fetch::Failed) -> OidcError {
        OidcError::Unreachable {
            issuer: self.client.issuer.clone(),
            why: failed.why(),
        }
    }

    /// Whether it takes our secret in the header, which everybody does who does not say otherwise.
    fn takes_headers(&self) -> bool {
        let methods = &self.metadata.token_endpoint_auth_methods_supported;
        let says = |method: &str| methods.iter().any(|known| known == method);
        says("client_secret_basic") || !says("client_secret_post")
    }

    /// Whom an ID token names, when it is believed. A key that is not known is asked for, so that the provider may change
    /// its keys at any time.
    ///
    /// # Errors
    /// When it is not believed, or the keys cannot be asked for.
    pub fn believe(&self, text: &str, nonce: &str, now_s: u64) -> Result<Identity, OidcError> {
        let wanted = token::Wanted {
            issuer: &self.client.issuer,
            audience: &self.client.id,
            nonce,
            now_s,
        };
        match token::check(text, &self.keys(KEYS_KEPT_S, now_s)?, &wanted) {
            Err(token::Failure::UnknownKey) => {}
            Err(token::Failure::Wrong(why)) => return Err(OidcError::NotBelieved { why }),
            Ok(identity) => return Ok(identity),
        }
        token::check(text, &self.keys(KEYS_ASKED_EVERY_S, now_s)?, &wanted)
            .map_err(|failure| OidcError::NotBelieved { why: failure.why() })
    }

    /// The provider's keys, not older than that. A clock that was set back makes them older, never younger.
    fn keys(&self, age_s: u64, now_s: u64) -> Result<Keys, OidcError> {
        if let Some((keys, at)) = &*self.kept()
            && now_s.checked_sub(*at).is_some_and(|old_s| old_s < age_s)
        {
            return Ok(keys.clone());
        }
        // Without holding the lock: who finds the keys there waits for nobody, and a provider that is slow keeps each of
        // those who ask as long as one.
        let keys: Keys =
            fetch::json(&self.agent, &self.metadata.jwks_uri).map_err(|failed| self.unreachable(failed))?;
        *self.kept() = Some((keys.clone(), now_s));
        Ok(keys)
    }

    fn kept(&self) -> MutexGuard<'_, Option<(Keys, u64)>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
