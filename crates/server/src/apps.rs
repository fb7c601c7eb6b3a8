//! Apps, their configuration, secrets and instances.

use std::collections::BTreeMap;

use api::{
    AppEnv, AppMetrics, AppPage, CreateApp, InstancePage, InstanceUsage, PatchEnv, PatchSecrets, PutScale,
    PutSecret, RequestCounts, SecretChange, SecretPage, SecretsChange, ServiceStatus,
};
use control::apps::AppView;
use control::operations::Accepted;
use control::{apps, secrets};
use model::{Condition, EnvKey, Instance, Name, Purpose, ReleaseId};

use crate::answer::Reply;
use crate::call::{Call, key, name};
use crate::pages;
use crate::refusal::Refusal;
use control::Secret;

pub(crate) fn list(call: &Call) -> Result<Reply, Refusal> {
    let walk = pages::Walk::of(call)?;
    let (page, next) = apps::list(
        call.control(),
        call.actor()?,
        &call.place()?,
        &walk.from,
        walk.limit,
    )?;
    Reply::ok(&AppPage {
        items: page.iter().map(wire).collect(),
        next_page: walk.next(page.len(), next),
    })
}

pub(crate) fn create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateApp = call.needed_body()?;
    let name = name(&body.name, "/name")?;
    let made = apps::create(call.control(), call.actor()?, &call.place()?, &name)?;
    let generation = made.generation;
    let view = AppView {
        app: made,
        serving: None,
        urls: Vec::new(),
        instances: Vec::new(),
        operation: None,
        damage: None,
    };
    Reply::tagged(201, &wire(&view), generation)
}

pub(crate) fn view(call: &Call) -> Result<Reply, Refusal> {
    let view = apps::view(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("app")?,
    )?;
    Reply::tagged(200, &wire(&view), view.app.generation)
}

pub(crate) fn delete(call: &Call) -> Result<Reply, Refusal> {
    let app = call.parameter("app")?;
    let accepted = apps::delete(call.control(), call.actor()?, &call.place()?, app, call.expected)?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn env_view(call: &Call) -> Result<Reply, Refusal> {
    let view = apps::view(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("app")?,
    )?;
    Reply::ok(&wire_env(&view.app.row, None))
}

pub(crate) fn env_update(call: &Call) -> Result<Reply, Refusal> {
    let body: PatchEnv = call.needed_body()?;
    let mut changes: BTreeMap<EnvKey, Option<String>> = BTreeMap::new();
    for (index, unset) in body.unset.iter().enumerate() {
        changes.insert(key(unset, &format!("/unset/{index}"))?, None);
    }
    for (set, value) in body.set {
        if changes
            .insert(key(&set, &format!("/set/{set}"))?, Some(value))
            .is_some()
        {
            return Err(Refusal::field(
                format!("/set/{set}"),
                "can not be set and removed at once",
            ));
        }
    }
    if changes.is_empty() {
        // Nothing to change is no reason for a new release.
        return env_view(call);
    }
    let app = call.parameter("app")?;
    let (app, accepted) = apps::configure(
        call.control(),
        call.actor()?,
        &call.place()?,
        app,
        &changes,
        call.expected,
    )?;
    Reply::ok(&wire_env(&app.row, accepted.as_ref()))
}

pub(crate) fn secret_list(call: &Call) -> Result<Reply, Refusal> {
    let all = secrets::list(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("app")?,
    )?;
    let (page, next_page) = pages::cut(call, all, |secret| secret.key.to_string())?;
    Reply::ok(&SecretPage {
        items: page.iter().map(wire_secret).collect(),
        next_page,
    })
}

pub(crate) fn secret_view(call: &Call) -> Result<Reply, Refusal> {
    let key = key(call.parameter("key")?, "/key")?;
    let app = call.parameter("app")?;
    let secret = secrets::view(call.control(), call.actor()?, &call.place()?, app, &key)?;
    Reply::tagged(200, &wire_secret(&secret), secret.version)
}

fn wire_secret(secret: &secrets::SecretView) -> api::Secret {
    api::Secret {
        key: secret.key.to_string(),
        version: secret.version,
        updated_at: secret.updated_at,
    }
}

pub(crate) fn secret_update(call: &Call) -> Result<Reply, Refusal> {
    let body: PatchSecrets = call.needed_body()?;
    let mut changes: BTreeMap<EnvKey, Option<Secret>> = BTreeMap::new();
    for (index, unset) in body.unset.iter().enumerate() {
        changes.insert(key(unset, &format!("/unset/{index}"))?, None);
    }
    for (set, value) in body.set {
        let value = Some(Secret::new(value.into_bytes()));
        if changes
            .insert(key(&set, &format!("/set/{set}"))?, value)
            .is_some()
        {
            return Err(Refusal::field(
                format!("/set/{set}"),
                "can not be set and removed at once",
            ));
        }
    }
    let app = call.parameter("app")?;
    let accepted = secrets::change(call.control(), call.actor()?, &call.place()?, app, &changes)?;
    Reply::ok(&SecretsChange {
        keys: changes.keys().map(ToString::to_string).collect(),
        operation: operation_id(accepted.as_ref()),
    })
}

pub(crate) fn secret_put(call: &Call) -> Result<Reply, Refusal> {
    let body: PutSecret = call.needed_body()?;
    let key = key(call.parameter("key")?, "/key")?;
    let value = Secret::new(body.value.into_bytes());
    let app = call.parameter("app")?;
    let (actor, place) = (call.actor()?, call.place()?);
    let (secret, accepted) =
        secrets::set_if(call.control(), actor, &place, app, &key, &value, call.expected)?;
    Reply::ok(&SecretChange {
        key: secret.key.to_string(),
        operation: operation_id(accepted.as_ref()),
    })
}

pub(crate) fn secret_delete(call: &Call) -> Result<Reply, Refusal> {
    let key = key(call.parameter("key")?, "/key")?;
    let accepted = secrets::unset_if(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("app")?,
        &key,
        call.expected,
    )?;
    Reply::ok(&SecretChange {
        key: key.to_string(),
        operation: operation_id(accepted.as_ref()),
    })
}

pub(crate) fn scale(call: &Call) -> Result<Reply, Refusal> {
    let body: PutScale = call.needed_body()?;
    let mut counts: BTreeMap<Name, u16> = BTreeMap::new();
    for (service, count) in &body.services {
        counts.insert(name(service, &format!("/services/{service}"))?, *count);
    }
    let app = call.parameter("app")?;
    let accepted = apps::scale(
        call.control(),
        call.actor()?,
        &call.place()?,
        app,
        &counts,
        call.expected,
    )?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn instance_list(call: &Call) -> Result<Reply, Refusal> {
    let (place, app) = (call.place()?, call.parameter("app")?);
    let (all, numbers) = apps::instances(call.control(), call.actor()?, &place, app)?;
    let mut all: Vec<api::Instance> = all
        .iter()
        .map(|instance| wire_instance(&instance.row, &numbers))
        .collect();
    let is = |name: &str, value: &str| call.query(name).is_none_or(|wanted| wanted == value);
    all.retain(|instance| is("service", &instance.name) && is("condition", &instance.condition));
    let (items, next_page) = pages::cut(call, all, |instance| instance.id.clone())?;
    Reply::ok(&InstancePage { items, next_page })
}

pub(crate) fn instance_view(call: &Call) -> Result<Reply, Refusal> {
    let (place, app, wanted) = (call.place()?, call.parameter("app")?, call.parameter("instance")?);
    let (all, numbers) = apps::instances(call.control(), call.actor()?, &place, app)?;
    let found = all.iter().find(|instance| instance.row.id.to_string() == wanted);
    let found = found.ok_or_else(|| control::authorize::missing("instance", wanted))?;
    Reply::ok(&wire_instance(&found.row, &numbers))
}

pub(crate) fn metrics(call: &Call) -> Result<Reply, Refusal> {
    let (place, app) = (call.place()?, call.parameter("app")?);
    let found = apps::metrics(call.control(), call.actor()?, &place, app)?;
    let requests = found.requests.into_iter().map(|one| {
        let [informational, succeeded, redirected, client_errors, server_errors] = one.statuses;
        RequestCounts {
            service: one.service,
            release: one.release,
            informational,
            succeeded,
            redirected,
            client_errors,
            server_errors,
            answered_by_edge: one.answered_by_edge,
            cut: one.cut,
            retries: one.retries,
        }
    });
    let instances = found.instances.iter().map(|(instance, usage)| InstanceUsage {
        instance: instance.to_string(),
        memory_bytes: usage.memory_bytes,
        cpu_us: usage.cpu_us,
        processes: usage.pids,
    });
    Reply::ok(&AppMetrics {
        requests: requests.collect(),
        instances: instances.collect(),
    })
}

fn operation_id(accepted: Option<&Accepted>) -> Option<String> {
    accepted.map(|accepted| accepted.operation.id.to_string())
}

fn wire_env(app: &model::App, accepted: Option<&Accepted>) -> AppEnv {
    let env = app
        .env
        .iter()
        .map(|(key, value)| (key.to_string(), value.clone()))
        .collect();
    AppEnv {
        env,
        operation: operation_id(accepted),
    }
}

fn wire(view: &AppView) -> api::App {
    let app = &view.app.row;
    let services = view
        .serving
        .iter()
        .flat_map(|release| &release.services)
        .map(|(name, service)| {
            let ready = view
                .instances
                .iter()
                .filter(|instance| is_ready(instance, name))
                .count();
            ServiceStatus {
                name: name.to_string(),
                wanted: app.scale.get(name).copied().unwrap_or(service.count),
                ready: u16::try_from(ready).unwrap_or(u16::MAX),
                port: service.port,
            }
        });
    api::App {
        id: app.id.to_string(),
        name: app.name.to_string(),
        serving: view
            .serving
            .as_ref()
            .map(|release| format!("v{}", release.number)),
        rollout: view.operation.as_ref().map(|operation| operation.id.to_string()),
        urls: view.urls.clone(),
        services: services.collect(),
        deleting: app.deleting,
        damage: view.damage.clone(),
        generation: view.app.generation,
    }
}

fn is_ready(instance: &Instance, wanted: &Name) -> bool {
    let serves = match &instance.purpose {
        Purpose::Service { service, .. } => service == wanted,
        Purpose::Job { .. }
        | Purpose::Database { .. }
        | Purpose::Receiver { .. }
        | Purpose::Pooler { .. } => false,
    };
    serves && matches!(instance.condition, Condition::Ready { .. })
}

fn wire_instance(instance: &Instance, numbers: &BTreeMap<ReleaseId, u64>) -> api::Instance {
    let (purpose, name, index, release) = match &instance.purpose {
        Purpose::Service {
            service,
            index,
            release,
            ..
        } => ("service", service.to_string(), *index, Some(release)),
        Purpose::Job { job, release, .. } => ("job", job.to_string(), 0, Some(release)),
        Purpose::Database { database } => ("database", database.to_string(), 0, None),
        Purpose::Receiver { database, .. } => ("receiver", database.to_string(), 0, None),
        Purpose::Pooler { database, .. } => ("pooler", database.to_string(), 0, None),
    };
    let (condition, since, why) = match &instance.condition {
        Condition::Starting { since } => ("starting", *since, None),
        Condition::Ready { since } => ("ready", *since, None),
        Condition::Unready { since, why } => ("unready", *since, Some(why.clone())),
        Condition::Draining { since } => ("draining", *since, None),
        Condition::Stopping { since } => ("stopping", *since, None),
        Condition::Exited { at, exit } => ("exited", *at, Some(exit.describe())),
    };
    api::Instance {
        id: instance.id.to_string(),
        purpose: purpose.to_owned(),
        name,
        index,
        release: release
            .and_then(|id| numbers.get(id))
            .map(|number| format!("v{number}")),
        condition: condition.to_owned(),
        since,
        why,
        attempt: instance.attempt,
        address: instance.address.map(|address| address.to_string()),
        created_at: instance.created_at,
    }
}
