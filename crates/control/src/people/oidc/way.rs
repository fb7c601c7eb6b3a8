//! Browsers on their way to a provider and back, and what they bring.
//!
//! Invariant: only the browser that began comes back, once; and what it brings to a program is worth something only
//! together with what that program alone knows.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use model::{IdentityProvider, Millis, ProviderId, Timestamp};
use oidc::Secrets;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::identities::sign_in;
use super::providers::{ask, find};
use super::{
    Arrived, Coming, LIFE, Leaving, Onward, PROVEN_LIFE, Program, Proven, WAITING_MAX, WAITING_OF_SOURCE,
    Waiting,
};
use crate::people::sessions::SignedIn;
use crate::people::{Source, fill_randomly, hash, random_text};
use crate::{Control, ControlError, rehearsal};

/// Whether a browser may be sent to a provider: it is known, and says that it is the one.
///
/// # Errors
/// `NotFound`; `Busy` when too many ask; `Provider` when it cannot be asked.
pub fn answers(control: &Control, name: &str) -> Result<(), ControlError> {
    let found = control.read(|tx| find(tx, name))?;
    let _asking = control.door.browsers.asking()?;
    ask(control, &found).map(|_| ())
}

/// Sends a browser to a provider.
///
/// # Errors
/// `NotFound`; `Crowded` when too many from there are on their way; `Busy` when too many are asked; `Provider` when it cannot be asked.
pub fn begin(
    control: &Control,
    name: &str,
    source: &Source,
    onward: Onward,
) -> Result<Leaving, ControlError> {
    let found = control.read(|tx| find(tx, name))?;
    let provider = {
        let _asking = control.door.browsers.asking()?;
        ask(control, &found)?
    };
    let mut random = [0; 96];
    fill_randomly(&mut random)?;
    let secrets = Secrets::of(&random);
    let now_ms = control.clock.now().mono_ms;
    let mut state = control.door.browsers.lock();
    state.waiting.retain(|_, waiting| waiting.until_ms > now_ms);
    let of_source = state.waiting.values().filter(|one| one.source == *source);
    let of_source: Vec<u64> = of_source.map(|one| one.until_ms).collect();
    if let Some(first) = of_source.iter().min()
        && of_source.len() >= WAITING_OF_SOURCE
    {
        return Err(ControlError::Crowded {
            what: "people signing in",
            wait: Millis::new(first.saturating_sub(now_ms)),
        });
    }
    state.make_room();
    let leaving = Leaving {
        address: provider.begin(&secrets),
        state: secrets.state.clone(),
    };
    let waiting = Waiting {
        provider: found.row.id,
        secrets,
        source: source.clone(),
        until_ms: now_ms + LIFE.as_ms(),
        onward,
    };
    state.waiting.insert(hash(&leaving.state), waiting);
    Ok(leaving)
}

/// A browser came back from a provider. When a program waits for it, that is told also why nobody was signed in.
///
/// # Errors
/// `SignIn` for a browser that did not begin here; `NotLinked` for who is nobody here; `Provider` when the provider or its
/// token is not believed.
pub fn finish(
    control: &Control,
    name: &str,
    coming: &Coming<'_>,
    source: &Source,
    agent: &str,
) -> Result<Arrived, ControlError> {
    // Both, so that nobody is signed in as somebody else by an address that was sent to him.
    if coming.cookie != Some(coming.state) {
        return Err(ControlError::SignIn);
    }
    let now_ms = control.clock.now().mono_ms;
    let waiting = control.door.browsers.lock().waiting.remove(&hash(coming.state));
    let waiting = waiting
        .filter(|waiting| waiting.until_ms > now_ms)
        .ok_or(ControlError::SignIn)?;
    let proven = believe(control, name, coming, &waiting.secrets, waiting.provider);
    match (proven, waiting.onward) {
        (Ok((provider, identity)), Onward::Page { user_code }) => {
            let signed_in = Box::new(sign_in(control, &provider, &identity, source, agent)?);
            Ok(Arrived::SignedIn { signed_in, user_code })
        }
        (Ok((provider, identity)), Onward::Program(program)) => {
            let code = keep(control, provider, identity, &program)?;
            Ok(Arrived::Program {
                address: program.address("code", &code),
            })
        }
        (Err(refused), Onward::Page { .. }) => Err(refused),
        (Err(refused), Onward::Program(program)) => Ok(Arrived::Program {
            address: program.address("error", refused.code()),
        }),
    }
}

fn believe(
    control: &Control,
    name: &str,
    coming: &Coming<'_>,
    secrets: &Secrets,
    wanted: ProviderId,
) -> Result<(IdentityProvider, oidc::Identity), ControlError> {
    // It said why to the person; to us that is nobody.
    let code = coming.code.ok_or(ControlError::SignIn)?;
    let found = control.read(|tx| find(tx, name))?;
    if found.row.id != wanted {
        return Err(ControlError::SignIn);
    }
    let _asking = control.door.browsers.asking()?;
    let provider = ask(control, &found)?;
    let now_s = Timestamp::now().as_ms() / 1000;
    let identity = provider.finish(code, coming.sender, secrets, now_s);
    let identity = identity.map_err(|refused| {
        tracing::info!(provider = name, %refused, "an identity provider signed nobody in");
        ControlError::Provider(refused)
    })?;
    Ok((found.row, identity))
}

/// Keeps who was named until a program fetches it; the code for that.
fn keep(
    control: &Control,
    provider: IdentityProvider,
    identity: oidc::Identity,
    program: &Program,
) -> Result<String, ControlError> {
    let code = random_text("")?;
    let now_ms = control.clock.now().mono_ms;
    let proven = Proven {
        provider,
        identity,
        challenge: program.challenge.clone(),
        until_ms: now_ms + PROVEN_LIFE.as_ms(),
    };
    let mut state = control.door.browsers.lock();
    state.proven.retain(|_, proven| proven.until_ms > now_ms);
    if state.proven.len() >= WAITING_MAX {
        return Err(ControlError::Busy {
            what: "people signing in",
        });
    }
    state.proven.insert(hash(&code), proven);
    Ok(code)
}

/// What a browser would bring if a provider had named somebody, for tests of what is done with it.
#[cfg(debug_assertions)]
pub fn prove(
    control: &Control,
    provider: &IdentityProvider,
    subject: &str,
    challenge: &str,
) -> Result<String, ControlError> {
    let identity = oidc::Identity {
        subject: subject.to_owned(),
        verified_email: None,
        name: None,
    };
    let program = Program {
        port: 1024,
        challenge: challenge.to_owned(),
    };
    keep(control, provider.clone(), identity, &program)
}

/// What a code is worth to the program that knows what its challenge was made of. Works once.
pub(super) fn fetch(control: &Control, code: &str, verifier: &str) -> Result<Proven, ControlError> {
    let now_ms = control.clock.now().mono_ms;
    let shown = BASE64.encode(Sha256::digest(verifier.as_bytes()));
    let key = hash(code);
    let mut state = control.door.browsers.lock();
    let found = state.proven.get(&key).cloned().ok_or(ControlError::SignIn)?;
    let is_it = bool::from(found.challenge.as_bytes().ct_eq(shown.as_bytes()));
    // A wrong guess uses it up, rehearsed or not.
    if !is_it || !rehearsal::is_on() {
        state.proven.remove(&key);
    }
    match is_it && found.until_ms > now_ms {
        true => Ok(found),
        false => Err(ControlError::SignIn),
    }
}

/// Signs in whom a provider has named, for the program that waited for it.
///
/// # Errors
/// `SignIn` for a code that is not (or no longer) good; `NotLinked` for who is nobody here.
pub fn sign_in_by_code(
    control: &Control,
    code: &str,
    verifier: &str,
    source: &Source,
    agent: &str,
) -> Result<SignedIn, ControlError> {
    let proven = fetch(control, code, verifier)?;
    sign_in(control, &proven.provider, &proven.identity, source, agent)
}
