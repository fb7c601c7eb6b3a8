//! Secrets of apps: names are configuration, values are sealed and never shown.

use std::collections::BTreeMap;

use model::{Action, Actor, App, EnvKey, SecretId, Timestamp};
use store::ReadTx;
use store::rows::SecretVersion;
use store::secret::Secret;

use crate::apps::{ENV_VALUE_MAX, follow_configuration, refuse_deleting};
use crate::authorize::{self, EnvPath, Scope};
use crate::operations::Accepted;
use crate::{Control, ControlError};

/// What may be told about a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretView {
    /// Its name.
    pub key: EnvKey,
    /// Its newest version.
    pub version: u64,
    /// When that was set.
    pub updated_at: Timestamp,
}

/// The newest versions of an app's secrets, by name; never values.
///
/// # Errors
/// As the gate's.
pub fn list(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    app: &str,
) -> Result<Vec<SecretView>, ControlError> {
    control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        let app = scope.app(tx, app)?;
        let newest = newest(tx, &app.row)?;
        Ok(newest
            .into_iter()
            .filter(|secret| !secret.sealed.is_empty())
            .map(|secret| SecretView {
                key: secret.key,
                version: secret.version,
                updated_at: secret.created_at,
            })
            .collect())
    })
}

/// The newest version of each secret, removed ones (without content) included.
pub(crate) fn newest(tx: &ReadTx, app: &App) -> Result<Vec<SecretVersion>, ControlError> {
    let mut newest: BTreeMap<EnvKey, SecretVersion> = BTreeMap::new();
    for found in tx.list::<SecretVersion>(&app.id.to_string())? {
        match newest.get(&found.row.key) {
            Some(known) if known.version > found.row.version => {}
            Some(_) | None => drop(newest.insert(found.row.key.clone(), found.row)),
        }
    }
    Ok(newest.into_values().collect())
}

/// One of them.
///
/// # Errors
/// As the gate's; `NotFound` when it is not set.
pub fn view(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    app: &str,
    key: &EnvKey,
) -> Result<SecretView, ControlError> {
    let mut all = list(control, actor, path, app)?.into_iter();
    all.find(|secret| secret.key == *key)
        .ok_or_else(|| authorize::missing("secret", key.as_str()))
}

/// Sets a secret: a new version; older ones stay for rollbacks. A release with it follows when one serves.
///
/// # Errors
/// As the gate's; `Invalid` for a value that no environment can hold.
pub fn set(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    app: &str,
    key: &EnvKey,
    value: &Secret,
) -> Result<(SecretView, Option<Accepted>), ControlError> {
    set_if(control, actor, path, app, key, value, None)
}

/// The same, if it has the version that the caller expects (0: none).
///
/// # Errors
/// As [`set`]; `Stale` when it has another one.
pub fn set_if(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    app: &str,
    key: &EnvKey,
    value: &Secret,
    expected: Option<u64>,
) -> Result<(SecretView, Option<Accepted>), ControlError> {
    control.mutate(actor, "secret.set", &format!("{app}/{key}"), |tx| {
        let (scope, app) = changeable(tx, actor, path, app)?;
        expect_version(tx, &app, key, expected)?;
        let view = write_version(control, tx, &app, key, Some(value), ["/key", "/value"])?;
        let accepted = follow_configuration(control, tx, actor, &scope, &app)?;
        Ok((view, accepted))
    })
}

/// Removes a secret: a version without content, so that a rollback to an earlier release still has its own.
///
/// # Errors
/// As the gate's; `NotFound` when it is not set.
pub fn unset(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    app: &str,
    key: &EnvKey,
) -> Result<Option<Accepted>, ControlError> {
    unset_if(control, actor, path, app, key, None)
}

/// The same, if it has the version that the caller expects.
///
/// # Errors
/// As [`unset`]; `Stale` when it has another one.
pub fn unset_if(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    app: &str,
    key: &EnvKey,
    expected: Option<u64>,
) -> Result<Option<Accepted>, ControlError> {
    control.mutate(actor, "secret.unset", &format!("{app}/{key}"), |tx| {
        let (scope, app) = changeable(tx, actor, path, app)?;
        expect_version(tx, &app, key, expected)?;
        write_version(control, tx, &app, key, None, ["/key", "/key"])?;
        follow_configuration(control, tx, actor, &scope, &app)
    })
}

/// Sets and removes (`None`) many secrets: all or none, and one release with all of it when one serves.
///
/// # Errors
/// As [`set`] and [`unset`].
pub fn change(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    app: &str,
    changes: &BTreeMap<EnvKey, Option<Secret>>,
) -> Result<Option<Accepted>, ControlError> {
    let keys: Vec<&str> = changes.keys().map(EnvKey::as_str).collect();
    control.mutate(
        actor,
        "secret.change",
        &format!("{app}/{}", keys.join(",")),
        |tx| {
            let (scope, app) = changeable(tx, actor, path, app)?;
            if changes.is_empty() {
                return Ok(None);
            }
            for (key, value) in changes {
                let at = match value {
                    Some(_) => format!("/set/{key}"),
                    None => "/unset".to_owned(),
                };
                write_version(control, tx, &app, key, value.as_ref(), [&at, &at])?;
            }
            follow_configuration(control, tx, actor, &scope, &app)
        },
    )
}

/// The app whose secrets the actor may change.
fn changeable(tx: &ReadTx, actor: &Actor, path: &EnvPath, app: &str) -> Result<(Scope, App), ControlError> {
    let scope = authorize::environment(tx, actor, Action::Configure, path)?;
    let app = scope.app(tx, app)?.row;
    refuse_deleting(&app)?;
    Ok((scope, app))
}

/// Refuses when the secret's version is not what the caller has seen.
fn expect_version(tx: &ReadTx, app: &App, key: &EnvKey, expected: Option<u64>) -> Result<(), ControlError> {
    let found = current(tx, app, key)?.map_or(0, |row| row.version);
    match expected.filter(|expected| *expected != found) {
        Some(expected) => Err(ControlError::Stale { expected, found }),
        None => Ok(()),
    }
}

/// The newest version of one secret that is set.
fn current(tx: &ReadTx, app: &App, key: &EnvKey) -> Result<Option<SecretVersion>, ControlError> {
    let mut known = newest(tx, app)?.into_iter();
    Ok(known.find(|row| row.key == *key && !row.sealed.is_empty()))
}

/// A new version of a secret; without a value, its removal. `at` says where its name and its value were sent.
fn write_version(
    control: &Control,
    tx: &store::WriteTx,
    app: &App,
    key: &EnvKey,
    value: Option<&Secret>,
    at: [&str; 2],
) -> Result<SecretView, ControlError> {
    let tenant = app.id.to_string();
    let version = tx.next_number(&format!("secret:{tenant}:{key}"))?;
    let sealed = match value {
        Some(value) => {
            refuse_unfit(key, value, at)?;
            let sealed = tx.seal(&tenant, key.as_str(), version, value);
            sealed.map_err(store::StoreError::from)?.0
        }
        None => {
            if current(tx, app, key)?.is_none() {
                return Err(authorize::missing("secret", key.as_str()));
            }
            Vec::new()
        }
    };
    let updated_at = control.now_of(tx);
    tx.insert(&SecretVersion {
        id: SecretId::fresh(),
        app: app.id,
        key: key.clone(),
        version,
        sealed,
        created_at: updated_at,
    })?;
    Ok(SecretView {
        key: key.clone(),
        version,
        updated_at,
    })
}

fn refuse_unfit(key: &EnvKey, value: &Secret, [at_key, at]: [&str; 2]) -> Result<(), ControlError> {
    if EnvKey::is_set_by_stoa(key.as_str()) {
        let message = format!("{key} is set by Stoa in each instance");
        return Err(ControlError::invalid(at_key, message));
    }
    let bytes = value.expose();
    if bytes.is_empty() || bytes.len() > ENV_VALUE_MAX || bytes.contains(&0) {
        let message = format!("a secret has 1 to {ENV_VALUE_MAX} bytes and no NUL");
        return Err(ControlError::invalid(at, message));
    }
    Ok(())
}

/// Opens one version of a secret for delivery to an instance. `None`: that version was a removal.
pub(crate) fn open(
    control: &Control,
    tx: &ReadTx,
    app: &App,
    key: &EnvKey,
    version: u64,
) -> Result<Option<Secret>, ControlError> {
    let tenant = app.id.to_string();
    let name = store::rows::secret_name(key.as_str(), version);
    let Some(found) = tx.find::<SecretVersion>(&tenant, &name)? else {
        return Err(authorize::missing("secret", key.as_str()));
    };
    if found.row.sealed.is_empty() {
        return Ok(None);
    }
    let sealed = store::secret::Sealed(found.row.sealed);
    Ok(Some(
        control
            .store
            .unseal(&tenant, key.as_str(), version, &sealed)
            .map_err(store::StoreError::from)?,
    ))
}
