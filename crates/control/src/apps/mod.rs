//! Apps: create, see, configure, scale, delete.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use engine::Usage;
use model::{
    Action, Actor, App, AppId, EnvKey, Instance, InstanceId, Name, Operation, OperationState, Release,
    ReleaseId, ReleaseState, Timestamp, operation::Source, operation::Work,
};
use store::{ReadTx, Versioned};

use crate::authorize::{self, EnvPath, Scope};
use crate::operations::{self, Accepted};
use crate::routes::Requests;
use crate::transact::{Current, page_under};
use crate::{Control, ControlError};

/// The numbers of releases.
pub type Numbers = BTreeMap<ReleaseId, u64>;

/// An app with what runs of it.
#[derive(Debug, Clone)]
pub struct AppView {
    /// The app.
    pub app: Versioned<App>,
    /// What serves.
    pub serving: Option<Release>,
    /// Where it answers, when it does.
    pub urls: Vec<String>,
    /// Living instances.
    pub instances: Vec<Instance>,
    /// The movement under way.
    pub operation: Option<Operation>,
    /// What is wrong with its rows in the store: it is shown as far as it can be told, and cannot be changed.
    pub damage: Option<String>,
}

/// Most of an environment variable's value, in bytes: one page of the kernel's argument space.
pub const ENV_VALUE_MAX: usize = 128 * 1024;
/// Most instances of one service.
pub const SCALE_MAX: u16 = 500;

/// So many apps of an environment by name, after the one that is named (none: from the first); and the name to go on from.
///
/// # Errors
/// As the gate's.
pub fn list(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    after: &str,
    limit: usize,
) -> Result<(Vec<AppView>, Option<String>), ControlError> {
    control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        let open = operations::unsettled(control, tx, &scope.parent())?;
        let (page, next) = page_under::<App>(tx, &scope.parent(), after, limit)?;
        let views = page
            .into_iter()
            .map(|(app, damage)| listed(control, tx, app, damage, &open))
            .collect::<Result<_, _>>()?;
        Ok((views, next))
    })
}

/// An app in a list: what is corrupt of one must not hide the others.
fn listed(
    control: &Control,
    tx: &ReadTx,
    app: Versioned<App>,
    damage: Option<String>,
    open: &[Operation],
) -> Result<AppView, ControlError> {
    match view_of(control, tx, app.clone(), open) {
        Ok(view) => Ok(AppView { damage, ..view }),
        Err(cause) if cause.is_corrupt() => Ok(AppView {
            app,
            serving: None,
            urls: Vec::new(),
            instances: Vec::new(),
            operation: None,
            damage: Some(damage.unwrap_or_else(|| operations::failure_of(&cause, Vec::new()).message)),
        }),
        Err(cause) => Err(cause),
    }
}

/// One app.
///
/// # Errors
/// As the gate's.
pub fn view(control: &Control, actor: &Actor, path: &EnvPath, name: &str) -> Result<AppView, ControlError> {
    control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        let app = scope.app(tx, name)?;
        let open = operations::unsettled_of(control, tx, &app.row)?;
        view_of(control, tx, app, &open)
    })
}

/// What an app uses and what it was asked.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// What the edge counted for each of its services and releases; the service by its name.
    pub requests: Vec<Requests>,
    /// What each of its instances uses.
    pub instances: Vec<(InstanceId, Usage)>,
}

/// What an app uses and what it was asked since the edge started.
///
/// # Errors
/// As the gate's; `Busy` while the edge cannot be asked.
pub fn metrics(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<Metrics, ControlError> {
    let view = view(control, actor, path, name)?;
    let mine = format!("{}/", view.app.row.id);
    let counted = control.edge.requests().map_err(|why| {
        tracing::warn!(why, "the edge did not tell its counters");
        ControlError::Busy {
            what: "restarts of the edge",
        }
    })?;
    let requests = counted.into_iter().filter_map(|one| {
        let service = one.service.strip_prefix(&mine)?.to_owned();
        Some(Requests { service, ..one })
    });
    // One that ends meanwhile is left out.
    let instances = view
        .instances
        .iter()
        .filter_map(|instance| Some((instance.id, control.engine.usage(instance.id).ok()?)));
    Ok(Metrics {
        requests: requests.collect(),
        instances: instances.collect(),
    })
}

fn view_of(
    control: &Control,
    tx: &ReadTx,
    app: Versioned<App>,
    open: &[Operation],
) -> Result<AppView, ControlError> {
    let id = app.row.id.to_string();
    let serving = match app.row.serving {
        Some(serving) => Some(tx.need::<Release>(&serving.release.to_string())?.row),
        None => None,
    };
    let environment = crate::hosts::environment(tx, &app.row)?;
    let urls = serving
        .as_ref()
        .map_or_else(Vec::new, |r| urls(control, &app.row.name, &environment, r));
    let instances = tx
        .list::<Instance>(&id)?
        .into_iter()
        .map(|i| i.row)
        .filter(|i| i.condition.is_live());
    let operation = open
        .iter()
        .find(|operation| operations::app_of(&operation.work) == Some(app.row.id))
        .cloned();
    Ok(AppView {
        serving,
        urls,
        instances: instances.collect(),
        operation,
        app,
        damage: None,
    })
}

/// The addresses at which a release of an app answers.
#[must_use]
pub fn urls(control: &Control, app: &Name, environment: &Name, release: &Release) -> Vec<String> {
    let own = crate::hosts::own(app, environment, &control.settings.domain);
    let mut urls: Vec<String> = Vec::new();
    for (host, path, _) in crate::hosts::of(&release.services, &own) {
        let url = format!(
            "{}{}",
            control.settings.app_url(host),
            path.trim_start_matches('/')
        );
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    urls
}

/// Creates an app without releases.
///
/// # Errors
/// As the gate's; `Taken` when the name is.
pub fn create(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &Name,
) -> Result<Versioned<App>, ControlError> {
    control.mutate(actor, "app.create", name.as_str(), |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        if name.as_str() == crate::workload::DATABASE_DOMAIN {
            return Err(ControlError::invalid(
                "/name",
                "this name is kept for databases; choose another",
            ));
        }
        crate::hosts::refuse_long(name, &scope.environment.name)?;
        if tx.find::<App>(&scope.parent(), name.as_str())?.is_some() {
            return Err(ControlError::Taken {
                kind: "app",
                name: name.to_string(),
            });
        }
        let app = App {
            id: AppId::fresh(),
            environment: scope.environment.id,
            name: name.clone(),
            env: BTreeMap::new(),
            scale: BTreeMap::new(),
            serving: None,
            served_before: Vec::new(),
            rollout: None,
            deleting: false,
        };
        tx.insert(&app)?;
        Ok(tx.need::<App>(&app.id.to_string())?)
    })
}

/// Ends an app: instances, routes, then its rows. Logs stay until their budget ends them. Asked again, it answers with
/// the deletion that is under way.
///
/// # Errors
/// As the gate's; `Stale` when it changed.
pub fn delete(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    expected: Option<u64>,
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "app.delete", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let mut app = scope.app(tx, name)?.current(expected)?;
        let open = operations::unsettled_of(control, tx, &app.row)?;
        if let Some(operation) = open
            .into_iter()
            .find(|op| matches!(op.work, Work::DeleteApp { .. }))
        {
            return Ok(Accepted { operation });
        }
        app.row.deleting = true;
        tx.update(&app.row, store::Expect::Generation(app.generation))?;
        operations::accept(
            control,
            tx,
            actor,
            Some(&scope),
            Work::DeleteApp { app: app.row.id },
        )
    })
}

/// Sets and unsets plain configuration. When a release serves, a new one with the new configuration follows.
///
/// # Errors
/// As the gate's; `Invalid` for values that no environment can hold.
pub fn configure(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    changes: &BTreeMap<EnvKey, Option<String>>,
    expected: Option<u64>,
) -> Result<(Versioned<App>, Option<Accepted>), ControlError> {
    control.mutate(actor, "app.configure", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Configure, path)?;
        for (key, value) in changes {
            let Some(value) = value else { continue };
            if EnvKey::is_set_by_stoa(key.as_str()) {
                let message = format!("{key} is set by Stoa in each instance");
                return Err(ControlError::invalid(&format!("/set/{key}"), message));
            }
            if value.contains('\0') || value.len() > ENV_VALUE_MAX {
                let message = format!("a value holds no NUL and at most {ENV_VALUE_MAX} bytes");
                return Err(ControlError::invalid(&format!("/set/{key}"), message));
            }
        }
        let mut app = scope.app(tx, name)?.current(expected)?;
        refuse_deleting(&app.row)?;
        for (key, value) in changes {
            match value {
                Some(value) => drop(app.row.env.insert(key.clone(), value.clone())),
                None => drop(app.row.env.remove(key)),
            }
        }
        tx.update(&app.row, store::Expect::Generation(app.generation))?;
        let accepted = follow_configuration(control, tx, actor, &scope, &app.row)?;
        Ok((tx.need::<App>(&app.row.id.to_string())?, accepted))
    })
}

/// A release with the configuration of now, when one serves already.
pub(crate) fn follow_configuration(
    control: &Control,
    tx: &store::WriteTx,
    actor: &Actor,
    scope: &Scope,
    app: &App,
) -> Result<Option<Accepted>, ControlError> {
    if app.serving.is_none() {
        return Ok(None);
    }
    let work = Work::Deploy {
        app: app.id,
        source: Source::Configuration,
        manifest: None,
    };
    operations::accept(control, tx, actor, Some(scope), work).map(Some)
}

/// Sets how many instances services have. It outlives releases.
///
/// # Errors
/// As the gate's; `Invalid` for an unknown service or a count that cannot be.
pub fn scale(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    counts: &BTreeMap<Name, u16>,
    expected: Option<u64>,
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "app.scale", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Deploy, path)?;
        let mut app = scope.app(tx, name)?.current(expected)?;
        refuse_deleting(&app.row)?;
        let Some(serving) = app.row.serving else {
            return Err(ControlError::State {
                message: format!("{name} has no release that serves yet"),
                next_step: "deploy it first: stoa deploy".to_owned(),
            });
        };
        let release = tx.need::<Release>(&serving.release.to_string())?.row;
        for (service, count) in counts {
            if !release.services.contains_key(service) {
                let known: Vec<&str> = release.services.keys().map(Name::as_str).collect();
                let message = format!("there is no service {service}; there is {}", known.join(", "));
                return Err(ControlError::invalid(&format!("/{service}"), message));
            }
            if *count > SCALE_MAX {
                return Err(ControlError::invalid(
                    &format!("/{service}"),
                    format!("at most {SCALE_MAX}"),
                ));
            }
            app.row.scale.insert(service.clone(), *count);
        }
        tx.update(&app.row, store::Expect::Generation(app.generation))?;
        operations::accept(control, tx, actor, Some(&scope), Work::Scale { app: app.row.id })
    })
}

/// Living and recently ended instances of an app, oldest first, and the numbers of their releases.
///
/// # Errors
/// As the gate's.
pub fn instances(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<(Vec<Versioned<Instance>>, Numbers), ControlError> {
    control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        let app = scope.app(tx, name)?;
        let all = tx.list::<Instance>(&app.row.id.to_string())?;
        let mut numbers = BTreeMap::new();
        for release in all.iter().filter_map(|found| found.row.purpose.release()) {
            if let Entry::Vacant(place) = numbers.entry(release)
                && let Some(found) = tx.get::<Release>(&release.to_string())?
            {
                place.insert(found.row.number);
            }
        }
        Ok((all, numbers))
    })
}

pub(crate) fn refuse_deleting(app: &App) -> Result<(), ControlError> {
    if app.deleting {
        return Err(ControlError::State {
            message: format!("{} is being deleted", app.name),
            next_step: "wait for its end: stoa status".to_owned(),
        });
    }
    Ok(())
}

/// Settles an app's last operation rows and removes everything it had in the store.
pub(crate) fn forget(tx: &store::WriteTx, app: &App) -> Result<(), ControlError> {
    let id = app.id.to_string();
    for release in tx.list::<Release>(&id)? {
        tx.delete::<Release>(
            &release.row.id.to_string(),
            store::Expect::Generation(release.generation),
        )?;
    }
    for secret in tx.list::<store::rows::SecretVersion>(&id)? {
        tx.delete::<store::rows::SecretVersion>(
            &secret.row.id.to_string(),
            store::Expect::Generation(secret.generation),
        )?;
    }
    for instance in tx.list::<Instance>(&id)? {
        tx.delete::<Instance>(&instance.row.id.to_string(), store::Expect::Any)?;
    }
    tx.delete::<App>(&id, store::Expect::Any)?;
    Ok(())
}

/// Whether a release was ever fit to serve.
#[must_use]
pub fn is_proven(release: &Release) -> bool {
    match release.state {
        ReleaseState::Proven => true,
        ReleaseState::Pending | ReleaseState::Rejected { .. } => false,
    }
}

/// Marks an operation as given up because its app is going.
pub(crate) fn settle_for_deletion(operation: &mut Operation, now: Timestamp) {
    operation.state = OperationState::Canceled { at: now };
    "the app is being deleted".clone_into(&mut operation.step);
}
