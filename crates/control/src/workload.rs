//! From a row of the store to a workload of the engine: environment, secrets, names, limits.
//!
//! Invariant: credentials are looked up here, at the start of each instance, never frozen into a release,
//! so that a rollback brings back no dead password.

use std::collections::BTreeMap;

use engine::{Probe, SecretFile, Workload};
use model::spec::Resources;
use model::{App, Database, EnvKey, Instance, Name, Purpose, Release, Service};
use store::ReadTx;

use crate::transact::{all, unless_corrupt};
use crate::{Control, ControlError};

/// Databases are known as `NAME.db.internal`, so no app may be called that.
pub const DATABASE_DOMAIN: &str = "db";

/// Signal that asks a program to end.
const SIGTERM: i32 = 15;

/// The workload of an instance of an app.
pub(crate) fn of_app(
    control: &Control,
    tx: &ReadTx,
    app: &App,
    release: &Release,
    instance: &Instance,
) -> Result<Workload, ControlError> {
    let (name, shape) = match &instance.purpose {
        Purpose::Service { service, .. } => {
            let found = release.services.get(service);
            let found = found.ok_or_else(|| crate::authorize::missing("service", service.as_str()))?;
            (service, Shape::of_service(found))
        }
        Purpose::Job { job, operation, .. } => (job, job_shape(tx, release, job, *operation)?),
        Purpose::Database { .. } | Purpose::Receiver { .. } | Purpose::Pooler { .. } => {
            return Err(crate::authorize::missing("app", "of a database"));
        }
    };
    let mut env: BTreeMap<EnvKey, String> = release.env.clone();
    put(&mut env, "STOA_APP", app.name.as_str());
    put(&mut env, "STOA_RELEASE", &format!("v{}", release.number));
    put(&mut env, "STOA_SERVICE", name.as_str());
    put(&mut env, "STOA_INSTANCE", &instance.id.to_string());
    if let Some(port) = shape.port {
        put(&mut env, "PORT", &port.to_string());
    }
    inject_uses(control, tx, app, release, &shape.uses, &mut env)?;
    // Before the secrets: what stands in a command shows in process lists.
    let command = model::manifest::command::expand(&shape.command, |key| env.get(key).map(String::as_str));
    let mut secrets = Vec::new();
    for key in &shape.secrets {
        let Some(version) = release.secrets.get(key) else {
            continue;
        };
        let Some(value) = crate::secrets::open(control, tx, app, key, *version)? else {
            continue;
        };
        secrets.push(SecretFile {
            name: key.to_string(),
            content: value.expose().to_vec(),
        });
        if let Some(text) = value.expose_str() {
            env.insert(key.clone(), text.to_owned());
        }
    }
    Ok(Workload {
        id: instance.id,
        hostname: format!("{name}-{}", instance.id.short(6)),
        network: app.environment.to_string(),
        image: release.images.get(name).unwrap_or(&release.image).clone(),
        command,
        user: None,
        workdir: None,
        env,
        secrets,
        resources: shape.resources,
        uid_range: instance.uid_range,
        volumes: Vec::new(),
        search_domain: format!("{}.internal", app.name),
        log_key: format!("{}/{name}", app.id),
        log_label: format!("v{}", release.number),
        probe: shape.probe,
        stop_signal: SIGTERM,
    })
}

struct Shape {
    command: Vec<String>,
    port: Option<u16>,
    resources: Resources,
    probe: Option<Probe>,
    uses: std::collections::BTreeSet<Name>,
    secrets: std::collections::BTreeSet<EnvKey>,
}

impl Shape {
    fn of_service(service: &Service) -> Self {
        Self {
            command: service.command.clone(),
            port: service.port,
            resources: service.resources,
            probe: service.port.map(|port| Probe {
                speaks: engine::Speaks::Tcp,
                port,
                health: service.health.clone(),
            }),
            uses: service.uses.clone(),
            secrets: service.secrets.clone(),
        }
    }
}

/// A job of the release, or a one-off command with everything any service of the release has.
fn job_shape(
    tx: &ReadTx,
    release: &Release,
    job: &Name,
    operation: model::OperationId,
) -> Result<Shape, ControlError> {
    if let model::operation::Work::Run { command, .. } =
        &tx.need::<model::Operation>(&operation.to_string())?.row.work
    {
        let services = release.services.values();
        return Ok(Shape {
            command: command.clone(),
            port: None,
            resources: Resources::default(),
            probe: None,
            uses: services
                .clone()
                .flat_map(|service| service.uses.clone())
                .collect(),
            secrets: services.flat_map(|service| service.secrets.clone()).collect(),
        });
    }
    let found = release
        .jobs
        .get(job)
        .ok_or_else(|| crate::authorize::missing("job", job.as_str()))?;
    Ok(Shape {
        command: found.command.clone(),
        port: None,
        resources: found.resources,
        probe: None,
        uses: found.uses.clone(),
        secrets: found.secrets.clone(),
    })
}

/// Addresses of what is used: each as `NAME_URL`; the only PostgreSQL, or of several the one named `main`, as `DATABASE_URL` and
/// `PG*`; the only Valkey, or of several the one named `cache`, as `REDIS_URL`. Adding a second one never moves them to another.
fn inject_uses(
    control: &Control,
    tx: &ReadTx,
    app: &App,
    release: &Release,
    uses: &std::collections::BTreeSet<Name>,
    env: &mut BTreeMap<EnvKey, String>,
) -> Result<(), ControlError> {
    let mut databases = BTreeMap::new();
    for name in uses.iter().filter(|name| !release.services.contains_key(*name)) {
        let found = tx.find::<Database>(&app.environment.to_string(), name.as_str())?;
        let found = found.ok_or_else(|| crate::authorize::missing("database", name.as_str()))?;
        databases.insert(name, found.row);
    }
    let is_valkey = |database: &Database| database.engine.valkey().is_some();
    let valkeys = databases.values().filter(|database| is_valkey(database)).count();
    let postgres = databases.len() - valkeys;
    for name in uses {
        let prefix = name.as_str().to_ascii_uppercase().replace('-', "_");
        if let Some(service) = release.services.get(name) {
            if let Some(port) = service.port {
                put(
                    env,
                    &format!("{prefix}_URL"),
                    &format!("http://{name}.{}.internal:{port}", app.name),
                );
            }
            continue;
        }
        let Some(database) = databases.get(name) else {
            continue;
        };
        let connection = crate::databases::connection_of(control, database)?;
        let url = connection.url();
        let url = url.expose_str().unwrap_or_default();
        put(env, &format!("{prefix}_URL"), url);
        if is_valkey(database) {
            if valkeys == 1 || name.as_str() == "cache" {
                put(env, "REDIS_URL", url);
            }
            continue;
        }
        if postgres == 1 || name.as_str() == "main" {
            put(env, "DATABASE_URL", url);
            let direct = connection.direct_url();
            put(
                env,
                "DATABASE_URL_DIRECT",
                direct.expose_str().unwrap_or_default(),
            );
            put(env, "PGHOST", &connection.host);
            put(env, "PGPORT", &connection.port.to_string());
            put(env, "PGUSER", &connection.user);
            put(
                env,
                "PGPASSWORD",
                connection.password.expose_str().unwrap_or_default(),
            );
            put(env, "PGDATABASE", &connection.database);
        }
    }
    Ok(())
}

fn put(env: &mut BTreeMap<EnvKey, String>, key: &str, value: &str) {
    if let Ok(key) = key.parse() {
        env.insert(key, value.to_owned());
    }
}

/// Apps of an environment with the release that serves.
pub(crate) fn serving(tx: &ReadTx, environment: &str) -> Result<Vec<(App, Release)>, ControlError> {
    let mut pairs = Vec::new();
    let (apps, _) = all::<App>(tx)?;
    for app in apps
        .into_iter()
        .filter(|app| app.environment.to_string() == environment)
    {
        if let Some(serving) = app.serving {
            let release = tx.need::<Release>(&serving.release.to_string());
            let release = unless_corrupt(release.map_err(ControlError::from))?;
            pairs.extend(release.map(|release| (app, release.row)));
        }
    }
    Ok(pairs)
}

/// The next private ranges of user ids that no instance has.
pub(crate) fn uid_ranges(tx: &store::WriteTx, wanted: usize) -> Result<Vec<u32>, ControlError> {
    // 60,000 ranges of 65,536 ids fit above the first million below 2^32; numbers come round after that.
    const RANGES: u64 = 60_000;
    if wanted == 0 {
        return Ok(Vec::new());
    }
    let (instances, _) = all::<Instance>(tx)?;
    let mut taken: std::collections::BTreeSet<u32> =
        instances.into_iter().map(|instance| instance.uid_range).collect();
    let mut ranges = Vec::new();
    while ranges.len() < wanted {
        if taken.len() as u64 >= RANGES {
            return Err(ControlError::State {
                message: "every private range of user ids is in use".to_owned(),
                next_step: "end some instances: stoa scale".to_owned(),
            });
        }
        let next = u32::try_from(tx.next_number("uid_range")? % RANGES).unwrap_or_default();
        if taken.insert(next) {
            ranges.push(next);
        }
    }
    Ok(ranges)
}

/// One such range.
pub(crate) fn uid_range(tx: &store::WriteTx) -> Result<u32, ControlError> {
    Ok(uid_ranges(tx, 1)?.into_iter().next().unwrap_or_default())
}
