//! Signing in at a provider of OpenID Connect.
//!
//! Lives here: which providers there are (`providers`), browsers on their way (`way`), who of theirs is who of ours
//! (`identities`). Does not live here: what of a provider is believed (the room `oidc`), redirects and cookies (`server`).
//! Invariant: somebody of a provider is somebody of ours by issuer and subject only. That link is made by the user himself,
//! with his password, or together with the user, from an open invitation of an address that the provider has verified;
//! an address alone never leads to a user who is there.
//!
//! ```text
//! begin --> waits for its browser --come back--> who is it? --> a session, as a cookie
//!             |                        '--for a program--> proven --its own verifier--> a session, or a link
//!             '---10 minutes---> gone                         '---2 minutes---> gone
//! ```
//! What waits is kept in memory, bounded, and works once.

mod identities;
mod providers;
mod way;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{IdentityProvider, Millis, ProviderId};
use oidc::{Provider, Secrets};
use store::secret::Secret;

use super::Source;
use super::sessions::SignedIn;
use crate::ControlError;

pub(super) use identities::forget;
pub use identities::{identities, link, unlink};
pub use providers::{delete, names, provider, providers, put};
#[cfg(debug_assertions)]
pub use way::prove;
pub use way::{answers, begin, finish, sign_in_by_code};

/// How long a browser may take to come back: some people look for their phone first.
const LIFE: Millis = Millis::seconds(600);
/// How long a program may take to fetch what its browser brought back.
const PROVEN_LIFE: Millis = Millis::seconds(120);
/// Browsers on their way, of everybody and of one source.
const WAITING_MAX: usize = 1000;
const WAITING_OF_SOURCE: usize = 20;
/// Questions to providers at once: each holds a thread, for seconds when the provider is away.
const ASKING_MAX: u32 = 8;

/// Providers as they were asked, and browsers on their way.
#[derive(Default)]
pub struct Browsers(Mutex<State>);

#[derive(Default)]
struct State {
    known: BTreeMap<ProviderId, Known>,
    /// By the hash of the state.
    waiting: BTreeMap<String, Waiting>,
    /// By the hash of the code that we gave.
    proven: BTreeMap<String, Proven>,
    asking: u32,
}

impl State {
    /// When too many are on their way, the oldest of the source with the most goes: whoever floods is in his own way first.
    fn make_room(&mut self) {
        if self.waiting.len() < WAITING_MAX {
            return;
        }
        let mut of_source: BTreeMap<&Source, usize> = BTreeMap::new();
        for waiting in self.waiting.values() {
            *of_source.entry(&waiting.source).or_default() += 1;
        }
        let all = self.waiting.iter();
        let goes = all
            .max_by_key(|(_, waiting)| (of_source[&waiting.source], std::cmp::Reverse(waiting.until_ms)))
            .map(|(key, _)| key.clone());
        if let Some(key) = goes {
            self.waiting.remove(&key);
        }
    }
}

struct Known {
    provider: Arc<Provider>,
    generation: u64,
    at_ms: u64,
}

struct Waiting {
    provider: ProviderId,
    secrets: Secrets,
    source: Source,
    until_ms: u64,
    onward: Onward,
}

/// Somebody whom a provider has named, until a program of his fetches what that is worth.
#[derive(Clone)]
struct Proven {
    provider: IdentityProvider,
    identity: oidc::Identity,
    challenge: String,
    until_ms: u64,
}

/// A program of the person that waits for its browser on the same machine (RFC 8252, 7.3).
#[derive(Debug, Clone)]
pub struct Program {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    /// The SHA-256 of what it will show, as in RFC 7636.
    pub challenge: String,
}

impl Program {
    /// Where its browser goes in the end. Other pages do not know the challenge, and so cannot send browsers there.
    fn address(&self, name: &str, value: &str) -> String {
        let Self { port, challenge } = self;
        format!("http://127.0.0.1:{port}/{challenge}?{name}={value}")
    }
}

/// Where a browser goes that came back.
#[derive(Debug, Clone)]
pub enum Onward {
    /// To a page of ours, with a session: to that which lets a machine in, for one with a code.
    Page {
        /// The code.
        user_code: Option<String>,
    },
    /// To the program that waits for it.
    Program(Program),
}

/// What a provider is to be.
#[derive(Debug)]
pub struct Wanted {
    /// Its address, exactly as it calls itself.
    pub issuer: String,
    /// What it calls us.
    pub client_id: String,
    /// What it knows us by.
    pub client_secret: Option<Secret>,
    /// Where browsers reach this installation, without a path.
    pub origin: String,
}

/// A browser that goes to a provider.
pub struct Leaving {
    /// Where to.
    pub address: String,
    /// What it must come back with, in the address and as a cookie.
    pub state: String,
}

/// A browser that came back.
pub struct Coming<'c> {
    /// What the provider trades for a token.
    pub code: Option<&'c str>,
    /// The state in the address.
    pub state: &'c str,
    /// The state in the cookie.
    pub cookie: Option<&'c str>,
    /// Who sent it, if the address says so (RFC 9207).
    pub sender: Option<&'c str>,
}

/// What becomes of a browser that came back.
pub enum Arrived {
    /// It has a session from now on.
    SignedIn {
        /// That.
        signed_in: Box<SignedIn>,
        /// The code of the machine that it goes on to let in.
        user_code: Option<String>,
    },
    /// It goes on to the program that waits for it.
    Program {
        /// Where that listens.
        address: String,
    },
}

impl Browsers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more question to a provider.
    fn asking(&self) -> Result<Asking<'_>, ControlError> {
        let mut state = self.lock();
        if state.asking >= ASKING_MAX {
            return Err(ControlError::Busy {
                what: "questions to identity providers",
            });
        }
        state.asking += 1;
        Ok(Asking(self))
    }

    /// How many are on their way: for tests that nothing of it was touched.
    #[cfg(debug_assertions)]
    #[must_use]
    pub fn census(&self) -> String {
        let state = self.lock();
        format!("{} wait, {} are proven", state.waiting.len(), state.proven.len())
    }
}

struct Asking<'b>(&'b Browsers);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.lock().asking -= 1;
    }
}
