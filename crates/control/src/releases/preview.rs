//! What a deploy would do, without doing any of it.
//!
//! Lives here: the release that a manifest would make, how it differs from what serves, and what would be in its way.
//! Does not live here: the moves themselves (`plan` foretells them with its own planner).
//! Invariants: reads only; values of variables and secrets are never told, only their names; what can be known only after
//! the build is said to be unknown, not guessed.

use std::collections::{BTreeMap, BTreeSet};

use model::app::Serving;
use model::manifest::{Found, Manifest};
use model::operation::Source;
use model::{
    Action, Actor, App, Database, ImageDigest, Instance, InstanceId, Job, Name, OperationId, Release,
    ReleaseId, ReleaseState, Service, Strategy, Timestamp,
};
use plan::app::{Facts, Policy};
use store::ReadTx;

use super::check_manifest;
use crate::apps::refuse_deleting;
use crate::authorize::{self, EnvPath, Scope};
use crate::{Control, ControlError, operations};

/// What a deploy would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Name of the release it would make.
    pub release: String,
    /// Name of the one that serves.
    pub serving: Option<String>,
    /// How it would be moved to.
    pub strategy: Strategy,
    /// How its configuration differs from what serves.
    pub changes: Vec<Change>,
    /// What would happen, in order, if every instance gets ready.
    pub steps: Vec<String>,
    /// What would make it fail.
    pub obstacles: Vec<String>,
    /// What is known only later.
    pub unknown: Vec<String>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `service`, `job`, `variable`, `secret` or `database`.
    pub what: &'static str,
    /// Its name.
    pub name: String,
    /// `added`, `removed`, `changed`, or `orphaned`: no longer used, while its data stays.
    pub how: &'static str,
    /// Which of its settings.
    pub settings: Vec<&'static str>,
}

/// What is known of the release before it is made.
struct Draft {
    services: BTreeMap<Name, Service>,
    jobs: BTreeMap<Name, Job>,
    env: BTreeMap<model::EnvKey, String>,
    strategy: Strategy,
    wishes: BTreeSet<Name>,
    obstacles: Vec<String>,
    unknown: Vec<String>,
}

/// Foretells a deploy. Without a source it is that of a directory which was not sent.
///
/// # Errors
/// As the gate's; `Invalid` with every problem of the manifest.
pub fn preview(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    source: Option<&Source>,
    manifest: Option<&str>,
) -> Result<Preview, ControlError> {
    control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Deploy, path)?;
        let app = scope.app(tx, name)?.row;
        refuse_deleting(&app)?;
        let manifest = manifest
            .map(|text| check_manifest(text, &scope.environment.name))
            .transpose()?;
        let releases: BTreeMap<ReleaseId, Release> = tx
            .list::<Release>(&app.id.to_string())?
            .into_iter()
            .map(|found| (found.row.id, found.row))
            .collect();
        let serving = app.serving.and_then(|serving| releases.get(&serving.release));
        let mut draft = draft(control, tx, &scope, &app, serving, source, manifest)?;
        let known = crate::secrets::newest(tx, &app)?;
        let secrets: BTreeMap<model::EnvKey, u64> = known
            .into_iter()
            .filter(|secret| !secret.sealed.is_empty())
            .map(|secret| (secret.key, secret.version))
            .collect();
        let mut changes = Vec::new();
        compare_services(serving, &draft, &mut changes);
        compare_jobs(serving, &draft, &mut changes);
        let before = serving.map(|release| release.env.clone()).unwrap_or_default();
        compare("variable", &before, &draft.env, &mut changes);
        let before = serving.map(|release| release.secrets.clone()).unwrap_or_default();
        compare("secret", &before, &secrets, &mut changes);
        databases(tx, &app, &mut draft, &mut changes)?;
        orphans(tx, &app, serving, &draft, &mut changes)?;
        missing_secrets(&mut draft, &secrets, &app);
        match crate::hosts::refuse_taken(tx, &control.settings.domain, &app, &draft.services) {
            Ok(()) => {}
            Err(ControlError::State { message, .. }) => draft.obstacles.push(message),
            Err(cause) => return Err(cause),
        }
        for operation in operations::unsettled_of(control, tx, &app)? {
            draft.unknown.push(format!(
                "{} is under way and comes first; what is told here is about now",
                operation.id
            ));
        }
        let number = releases.values().map(|release| release.number).max().unwrap_or(0) + 1;
        let (steps, strategy) = (
            moves(tx, &app, &releases, &draft, number, Timestamp::now())?,
            draft.strategy,
        );
        Ok(Preview {
            release: format!("v{number}"),
            serving: serving.map(|release| format!("v{}", release.number)),
            strategy,
            changes,
            steps,
            obstacles: draft.obstacles,
            unknown: draft.unknown,
        })
    })
}

fn draft(
    control: &Control,
    tx: &ReadTx,
    scope: &Scope,
    app: &App,
    serving: Option<&Release>,
    source: Option<&Source>,
    manifest: Option<Manifest>,
) -> Result<Draft, ControlError> {
    let (mut obstacles, mut unknown) = (Vec::new(), Vec::new());
    if let (Some(Source::Configuration), Some(release)) = (source, serving) {
        let mut env = release.manifest_env.clone();
        env.extend(app.env.clone());
        return Ok(Draft {
            services: release.services.clone(),
            jobs: release.jobs.clone(),
            env,
            strategy: release.strategy.clone(),
            wishes: BTreeSet::new(),
            obstacles,
            unknown,
        });
    }
    let is_written = manifest.is_some();
    let manifest = manifest.unwrap_or_else(|| Manifest::named(app.name.clone()));
    if manifest.app != app.name {
        obstacles.push(format!(
            "stoa.toml says app = \"{}\", but this is the app {}",
            manifest.app, app.name
        ));
    }
    let mut found = Found::default();
    match source {
        Some(Source::Image { image }) => {
            let facts = crate::images::find(control, tx, &scope.project, image)?;
            if facts.is_none() {
                unknown.push(format!("{image} is not here yet: it would be fetched"));
            }
            if let Ok(web) = "web".parse() {
                found.commands.insert(web, Vec::new());
            }
            found.port = facts.and_then(|facts| facts.ports.first().copied());
        }
        Some(Source::Configuration) => obstacles.push(format!(
            "{} has no release whose configuration could change",
            app.name
        )),
        Some(Source::Upload { .. }) | None => {
            unknown.push("the image: it is built from the source".to_owned());
            if !is_written {
                unknown.push("a stoa.toml inside the source".to_owned());
            }
        }
    }
    let is_built = matches!(source, Some(Source::Upload { .. }) | None);
    let is_open = is_built && manifest.services.is_empty() && manifest.build.start.is_none();
    let mut resolved = manifest.resolve(&found);
    if is_open {
        unknown.push("the services: the source says them, and the build reads it".to_owned());
        resolved.services = serving
            .map(|release| release.services.clone())
            .unwrap_or_default();
    } else if is_built {
        for (name, service) in &mut resolved.services {
            if service.command.is_empty() && service.image.is_none() {
                unknown.push(format!("the command of {name}: the source says it"));
                if let Some(old) = serving.and_then(|release| release.services.get(name)) {
                    service.command.clone_from(&old.command);
                }
            }
        }
    }
    if resolved.services.is_empty() && !is_open {
        obstacles.push("there is nothing to run: the source declares no service".to_owned());
    }
    let mut env = manifest.env.clone();
    env.extend(app.env.clone());
    Ok(Draft {
        services: resolved.services,
        jobs: resolved.jobs,
        env,
        strategy: manifest.rollout,
        wishes: manifest.databases.into_keys().collect(),
        obstacles,
        unknown,
    })
}

/// Names in one, the other, or both with another value.
fn compare<K: Ord + ToString, V: PartialEq>(
    what: &'static str,
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    changes: &mut Vec<Change>,
) {
    for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let how = match (before.get(key), after.get(key)) {
            (None, _) => "added",
            (_, None) => "removed",
            (Some(old), Some(new)) if old != new => "changed",
            (Some(_), Some(_)) => continue,
        };
        changes.push(Change {
            what,
            name: key.to_string(),
            how,
            settings: Vec::new(),
        });
    }
}

fn compare_services(serving: Option<&Release>, draft: &Draft, changes: &mut Vec<Change>) {
    let none = BTreeMap::new();
    let before = serving.map_or(&none, |release| &release.services);
    let from = changes.len();
    compare("service", before, &draft.services, changes);
    for change in &mut changes[from..] {
        let (Some(old), Some(new)) = (
            before.get(change.name.as_str()),
            draft.services.get(change.name.as_str()),
        ) else {
            continue;
        };
        let settings = [
            ("command", old.command != new.command),
            ("image", old.image != new.image),
            ("port", old.port != new.port),
            ("scale", old.count != new.count),
            ("resources", old.resources != new.resources),
            ("health", old.health != new.health),
            ("routes", old.routes != new.routes),
            ("uses", old.uses != new.uses),
            ("secrets", old.secrets != new.secrets),
            ("stop_grace", old.stop_grace != new.stop_grace),
        ];
        let differs = settings.into_iter().filter(|(_, differs)| *differs);
        change.settings = differs.map(|(setting, _)| setting).collect();
    }
}

fn compare_jobs(serving: Option<&Release>, draft: &Draft, changes: &mut Vec<Change>) {
    let none = BTreeMap::new();
    compare(
        "job",
        serving.map_or(&none, |release| &release.jobs),
        &draft.jobs,
        changes,
    );
}

/// Databases that would be made, and names in `uses` that lead nowhere.
fn databases(
    tx: &ReadTx,
    app: &App,
    draft: &mut Draft,
    changes: &mut Vec<Change>,
) -> Result<(), ControlError> {
    let environment = app.environment.to_string();
    for name in &draft.wishes {
        if tx.find::<Database>(&environment, name.as_str())?.is_none() {
            changes.push(Change {
                what: "database",
                name: name.to_string(),
                how: "added",
                settings: Vec::new(),
            });
        }
    }
    for name in uses(&draft.services, &draft.jobs) {
        let is_known = draft.services.contains_key(name) || draft.wishes.contains(name);
        if !is_known && tx.find::<Database>(&environment, name.as_str())?.is_none() {
            draft.obstacles.push(format!(
                "uses {name}, but there is no database or service of that name"
            ));
        }
    }
    Ok(())
}

/// Databases that what serves uses and the new release would not. A deploy deletes no data, so they are told.
fn orphans(
    tx: &ReadTx,
    app: &App,
    serving: Option<&Release>,
    draft: &Draft,
    changes: &mut Vec<Change>,
) -> Result<(), ControlError> {
    let Some(serving) = serving else {
        return Ok(());
    };
    let before = uses(&serving.services, &serving.jobs);
    for name in left_behind(before, &uses(&draft.services, &draft.jobs), &draft.wishes) {
        // A service that is gone has a name in `uses`, too, and no data.
        if tx
            .find::<Database>(&app.environment.to_string(), name.as_str())?
            .is_some()
        {
            changes.push(Change {
                what: "database",
                name: name.to_string(),
                how: "orphaned",
                settings: Vec::new(),
            });
        }
    }
    Ok(())
}

fn left_behind<'r>(
    before: BTreeSet<&'r Name>,
    after: &BTreeSet<&Name>,
    wishes: &BTreeSet<Name>,
) -> impl Iterator<Item = &'r Name> {
    before
        .into_iter()
        .filter(|name| !after.contains(*name) && !wishes.contains(*name))
}

fn uses<'r>(services: &'r BTreeMap<Name, Service>, jobs: &'r BTreeMap<Name, Job>) -> BTreeSet<&'r Name> {
    let services = services.values().flat_map(|service| &service.uses);
    services.chain(jobs.values().flat_map(|job| &job.uses)).collect()
}

fn missing_secrets(draft: &mut Draft, known: &BTreeMap<model::EnvKey, u64>, app: &App) {
    let wanted = draft.services.values().map(|service| &service.secrets);
    let wanted = wanted
        .chain(draft.jobs.values().map(|job| &job.secrets))
        .flatten();
    let missing: BTreeSet<_> = wanted.filter(|key| !known.contains_key(key.as_str())).collect();
    let text = |key: &model::EnvKey| {
        format!(
            "the secret {key} is not set; next: stoa secrets set {key} --app {}",
            app.name
        )
    };
    draft
        .obstacles
        .extend(missing.into_iter().map(text).collect::<Vec<_>>());
}

/// The release job, then what the planner would do.
fn moves(
    tx: &ReadTx,
    app: &App,
    releases: &BTreeMap<ReleaseId, Release>,
    draft: &Draft,
    number: u64,
    now: Timestamp,
) -> Result<Vec<String>, ControlError> {
    let mut all = releases.clone();
    // Of the image nothing is asked here: a stand-in while it is not built.
    let image: ImageDigest = format!("sha256:{}", "0".repeat(64))
        .parse()
        .map_err(|cause: model::spec::DigestError| ControlError::invalid("/source", cause.to_string()))?;
    let release = Release {
        id: ReleaseId::fresh(),
        app: app.id,
        number,
        created_at: now,
        operation: OperationId::fresh(),
        note: String::new(),
        image,
        images: BTreeMap::new(),
        services: draft.services.clone(),
        jobs: draft.jobs.clone(),
        env: BTreeMap::new(),
        manifest_env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        strategy: draft.strategy.clone(),
        state: ReleaseState::Pending,
    };
    let to = Serving {
        release: release.id,
        epoch: u64::MAX,
    };
    all.insert(release.id, release);
    let instances: Vec<Instance> = tx
        .list::<Instance>(&app.id.to_string())?
        .into_iter()
        .map(|found| found.row)
        .collect();
    let none = BTreeSet::new();
    let policy = Policy::default();
    let facts = Facts {
        app,
        releases: &all,
        instances: &instances,
        idle: &none,
        excused: &none,
        policy: &policy,
    };
    let moves = plan::app::foresee(&facts, to, now, &mut InstanceId::fresh);
    let old = app.serving.and_then(|serving| releases.get(&serving.release));
    let (old, new) = (
        old.map(|release| format!("v{}", release.number)),
        format!("v{number}"),
    );
    let job = |name: &Name| format!("run the job {name}; if it fails, nothing else happens");
    let steps = draft.jobs.keys().map(job);
    Ok(steps
        .chain(moves.iter().map(|one| one.say(old.as_deref(), &new)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_uses_or_wishes_any_more_is_left_behind() {
        let name = |text: &str| text.parse::<Name>().expect("a name");
        let [kept, wished, left] = ["kept", "wished", "left"].map(name);
        let before = BTreeSet::from([&kept, &wished, &left]);
        let wishes = BTreeSet::from([wished.clone()]);
        let found: Vec<&Name> = left_behind(before, &BTreeSet::from([&kept]), &wishes).collect();
        assert_eq!(found, [&left]);
    }
}
