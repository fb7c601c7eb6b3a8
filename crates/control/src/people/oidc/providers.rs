//! Which identity providers there are, and asking one who it is.
//!
//! Invariant: a provider is kept only after it was asked; its secret is kept sealed, and never told.

use std::sync::Arc;

use model::{Action, Actor, IdentityProvider, Millis, Name, ProviderId};
use oidc::{Client, OidcError, Provider};
use store::rows::{CLIENT_SECRET, provider_tenant};
use store::secret::{Sealed, Secret};
use store::{ReadTx, Versioned};

use super::identities::forget_people;
use super::{Known, Wanted};
use crate::transact::Current as _;
use crate::{Control, ControlError, authorize};

/// What a provider says of itself is asked for again after this.
const KNOWN: Millis = Millis::seconds(3600);
const PROVIDERS_MAX: usize = 50;

/// All providers.
///
/// # Errors
/// As the gate's.
pub fn providers(control: &Control, actor: &Actor) -> Result<Vec<Versioned<IdentityProvider>>, ControlError> {
    control.read(|tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        Ok(tx.list::<IdentityProvider>("")?)
    })
}

/// What providers are called, for who is to choose one to sign in at.
///
/// # Errors
/// When the store cannot be read.
pub fn names(control: &Control) -> Result<Vec<Name>, ControlError> {
    let all = control.read(|tx| Ok(tx.list::<IdentityProvider>("")?))?;
    let mut names: Vec<Name> = all.into_iter().map(|found| found.row.name).collect();
    names.sort_unstable();
    Ok(names)
}

/// One provider, by name or id.
///
/// # Errors
/// As the gate's; `NotFound`.
pub fn provider(
    control: &Control,
    actor: &Actor,
    name: &str,
) -> Result<Versioned<IdentityProvider>, ControlError> {
    control.read(|tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        find(tx, name)
    })
}

/// Makes or changes a provider. It is asked who it is first.
///
/// # Errors
/// As the gate's; `Invalid` for values that cannot be; `Provider` when it cannot be used; `Stale` when it is not as expected.
pub fn put(
    control: &Control,
    actor: &Actor,
    name: &Name,
    wanted: &Wanted,
    expected: Option<u64>,
) -> Result<Versioned<IdentityProvider>, ControlError> {
    let origin = wanted.origin.trim_end_matches('/');
    let redirect = format!("{origin}/v1/oidc/{name}/callback");
    // Before anything is sent anywhere.
    let allowed = control
        .read(|tx| authorize::installation(tx, actor, Action::Administer))
        .and_then(|()| match oidc::is_origin(origin) {
            true => Ok(()),
            false => Err(ControlError::invalid(
                "/origin",
                "must be https://HOST, or http://localhost:PORT on this machine, without a path",
            )),
        })
        .and_then(|()| {
            let secret = wanted.client_secret.as_ref();
            let client = client(&wanted.issuer, &wanted.client_id, secret, &redirect);
            let _asking = control.door.browsers.asking()?;
            Provider::discover(client)
                .map(drop)
                .map_err(|refused| ControlError::Provider(named(refused)))
        });
    control.audited(actor, "identity_provider.put", name.as_str(), allowed)?;
    control.mutate(actor, "identity_provider.put", name.as_str(), |tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        let old = match (tx.find::<IdentityProvider>("", name.as_str())?, expected) {
            (Some(old), expected) => Some(old.current(expected)?),
            (None, Some(expected)) => return Err(ControlError::Stale { expected, found: 0 }),
            (None, None) => None,
        };
        if old.is_none() && tx.count::<IdentityProvider>("")? >= PROVIDERS_MAX as u64 {
            return Err(ControlError::State {
                message: format!("there are {PROVIDERS_MAX} identity providers already"),
                next_step: "remove one that nobody uses: stoa providers ls".to_owned(),
            });
        }
        let (id, version, created_at) = match &old {
            Some(old) => (old.row.id, old.row.version + 1, old.row.created_at),
            None => (ProviderId::fresh(), 1, control.now_of(tx)),
        };
        let sealed = match &wanted.client_secret {
            None => None,
            Some(secret) => {
                let sealed = tx.seal(&provider_tenant(id), CLIENT_SECRET, version, secret);
                Some(sealed.map_err(store::StoreError::from)?.0)
            }
        };
        let row = IdentityProvider {
            id,
            name: name.clone(),
            issuer: wanted.issuer.clone(),
            client_id: wanted.client_id.clone(),
            secret: sealed,
            version,
            redirect: redirect.clone(),
            created_at,
        };
        match &old {
            None => {
                tx.insert(&row)?;
            }
            Some(old) => {
                // People of another issuer are other people, whatever they are called there.
                if old.row.issuer != row.issuer {
                    forget_people(tx, id)?;
                }
                tx.update(&row, store::Expect::Generation(old.generation))?;
            }
        }
        Ok(tx.need::<IdentityProvider>(&id.to_string())?)
    })
}

/// Removes a provider. Its links end, and so do the sessions of who had one: how each of them began is not known.
///
/// # Errors
/// As the gate's; `NotFound`; `Stale` when it is not as expected.
pub fn delete(
    control: &Control,
    actor: &Actor,
    name: &str,
    expected: Option<u64>,
) -> Result<(), ControlError> {
    control.mutate(actor, "identity_provider.delete", name, |tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        let found = find(tx, name)?.current(expected)?;
        forget_people(tx, found.row.id)?;
        tx.delete::<IdentityProvider>(&found.row.id.to_string(), store::Expect::Any)?;
        Ok(())
    })
}

pub(super) fn find(tx: &ReadTx, name: &str) -> Result<Versioned<IdentityProvider>, ControlError> {
    let found = match tx.find::<IdentityProvider>("", name)? {
        Some(found) => Some(found),
        None => tx.get::<IdentityProvider>(name)?,
    };
    found.ok_or_else(|| authorize::missing("identity provider", name))
}

fn client(issuer: &str, id: &str, secret: Option<&Secret>, redirect: &str) -> Client {
    Client {
        issuer: issuer.to_owned(),
        id: id.to_owned(),
        secret: secret.and_then(Secret::expose_str).map(str::to_owned),
        redirect: redirect.to_owned(),
    }
}

/// The provider as it was asked lately.
/// A provider that is only named now and does not answer cannot be used: what is wrong is what was asked for.
fn named(refused: OidcError) -> OidcError {
    match refused {
        OidcError::Unreachable { issuer, why } => OidcError::Unusable { issuer, why },
        other => other,
    }
}

pub(super) fn ask(
    control: &Control,
    found: &Versioned<IdentityProvider>,
) -> Result<Arc<Provider>, ControlError> {
    let now_ms = control.clock.now().mono_ms;
    let row = &found.row;
    if let Some(known) = control.door.browsers.lock().known.get(&row.id)
        && known.generation == found.generation
        && now_ms.saturating_sub(known.at_ms) < KNOWN.as_ms()
    {
        return Ok(Arc::clone(&known.provider));
    }
    let secret = row.secret.as_ref().map(|sealed| {
        let sealed = Sealed(sealed.clone());
        control
            .store
            .unseal(&provider_tenant(row.id), CLIENT_SECRET, row.version, &sealed)
    });
    let secret = secret.transpose().map_err(store::StoreError::from)?;
    let client = client(&row.issuer, &row.client_id, secret.as_ref(), &row.redirect);
    let provider = Arc::new(Provider::discover(client).map_err(ControlError::Provider)?);
    let known = Known {
        provider: Arc::clone(&provider),
        generation: found.generation,
        at_ms: now_ms,
    };
    let mut state = control.door.browsers.lock();
    if state.known.len() >= PROVIDERS_MAX {
        // Also of providers that were removed.
        state.known.clear();
    }
    state.known.insert(row.id, known);
    Ok(provider)
}
