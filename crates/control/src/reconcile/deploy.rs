//! From a source to a release: the long part of a deploy, done by a worker, repeatable from its start.
//!
//! ```text
//! manifest -> names checked (secrets, uses) -> databases made -> image built or got -> release row
//! ```
//! Invariant: nothing of this touches what serves. The release row is the last thing written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use engine::{FetchImage, Reach};
use model::manifest::{DatabaseWish, Found, Manifest};
use model::operation::{ImageSource, Source, Work};
use model::{
    Actor, App, Database, DatabaseState, ImageDigest, Job, Millis, Name, Operation, OperationState, Project,
    Realm, Release, ReleaseId, ReleaseState, Service, Strategy, UploadId,
};
use store::Expect;

use super::workers;
use crate::authorize::realm_of;
use crate::databases::Wish;
use crate::planted::{self, Defect};
use crate::releases::check_manifest;
use crate::{Control, ControlError, images, operations, uploads};

/// What a release will be, before it has a number.
struct Made {
    note: String,
    image: ImageDigest,
    /// Images of services that have their own, where they are decided already.
    images: Option<BTreeMap<Name, ImageDigest>>,
    services: BTreeMap<Name, Service>,
    jobs: BTreeMap<Name, Job>,
    manifest_env: BTreeMap<model::EnvKey, String>,
    strategy: Strategy,
}

/// Makes the release of a deploy operation.
pub(super) fn prepare(job: &workers::Job) -> Result<(), ControlError> {
    let control = &*job.control;
    let (operation, app) = control.read(|tx| {
        let operation = tx.need::<Operation>(&job.operation.to_string())?.row;
        let app = operations::app_of(&operation.work);
        let app = app.ok_or_else(|| crate::authorize::missing("app", "of the operation"))?;
        Ok((operation, tx.need::<App>(&app.to_string())?.row))
    })?;
    let Work::Deploy { source, manifest, .. } = &operation.work else {
        return Ok(());
    };
    let made = match source {
        Source::Upload { upload } => from_upload(job, &app, *upload, manifest.as_deref())?,
        Source::Image { image } => from_image(job, &app, image, manifest.as_deref())?,
        Source::Configuration => from_serving(control, &app)?,
    };
    if made.services.is_empty() {
        return Err(ControlError::State {
            message: "there is nothing to run: the source declares no service".to_owned(),
            next_step: "say what to run in stoa.toml ([services.web] command = \"...\"), see: stoa init"
                .to_owned(),
        });
    }
    let images = match &made.images {
        Some(decided) => decided.clone(),
        None => own_images(job, &app, &made.services)?,
    };
    number(control, &operation, &app, &made, &images)
}

fn from_upload(
    job: &workers::Job,
    app: &App,
    upload: UploadId,
    manifest: Option<&str>,
) -> Result<Made, ControlError> {
    let control = &*job.control;
    let workspace = Workspace::new(control, job.operation)?;
    operations::step(control, job.operation, "unpacking the source")?;
    control
        .engine
        .unpack_source(&uploads::path_of(control, upload), &workspace.source)?;
    let manifest = read_manifest(control, &workspace.source, app, manifest)?;
    before_the_build(job, app, &manifest)?;
    let _slot = job.build_slot()?;
    operations::step(control, job.operation, "building")?;
    let lines = |line: &str| operations::log_line(control, job.operation, line);
    let (project, own) = control.read(|tx| {
        let project = home(tx, app)?;
        let own = images::of_project(tx, &project)?;
        Ok((project, own))
    })?;
    let default_base = control.settings.default_base.as_str();
    let may_use = |name: &str, digest: &ImageDigest| name == default_base || own.has(name, digest);
    let request = build::Request {
        source: &workspace.source,
        manifest: &manifest,
        scope: &app.id.to_string(),
        default_base,
        may_use: &may_use,
    };
    let built = build::build(&*control.engine, &request, &lines).map_err(|cause| build_failed(&cause))?;
    let (base, meant) = &built.base;
    if !may_use(base, meant) {
        control.write(|tx| images::note(tx, realm_of(&project), base, meant, control.now_of(tx)))?;
    }
    let resolved = manifest.resolve(&built.found);
    Ok(Made {
        note: built.note,
        image: built.image,
        images: None,
        services: resolved.services,
        jobs: resolved.jobs,
        manifest_env: manifest.env,
        strategy: manifest.rollout,
    })
}

fn build_failed(cause: &build::BuildError) -> ControlError {
    ControlError::Build {
        message: cause.to_string(),
        next_step: cause.next(),
    }
}

fn read_manifest(
    control: &Control,
    source: &Path,
    app: &App,
    sent: Option<&str>,
) -> Result<Manifest, ControlError> {
    let inside = match sent {
        Some(text) => Some(text.to_owned()),
        None => match fs::read_to_string(source.join(model::manifest::FILE)) {
            Ok(text) => Some(text),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => None,
            Err(cause) => return Err(uploads::file_error("could not read stoa.toml", cause)),
        },
    };
    match inside {
        Some(text) => check_manifest(&text, &environment_of(control, app)?),
        None => Ok(Manifest::named(app.name.clone())),
    }
}

/// The overlay of a manifest goes by the environment's name.
fn environment_of(control: &Control, app: &App) -> Result<Name, ControlError> {
    let id = app.environment.to_string();
    control.read(|tx| Ok(tx.need::<model::Environment>(&id)?.row.name))
}

fn from_image(
    job: &workers::Job,
    app: &App,
    image: &str,
    manifest: Option<&str>,
) -> Result<Made, ControlError> {
    let manifest = match manifest {
        Some(text) => check_manifest(text, &environment_of(&job.control, app)?)?,
        None => Manifest::named(app.name.clone()),
    };
    before_the_build(job, app, &manifest)?;
    let facts = have_image(job, app, image)?;
    let web = "web"
        .parse::<Name>()
        .map_err(|e| ControlError::invalid("/services", e.to_string()))?;
    let found = Found {
        commands: BTreeMap::from([(web, Vec::new())]),
        release: None,
        port: facts.ports.first().copied(),
    };
    let resolved = manifest.resolve(&found);
    Ok(Made {
        note: format!("{}{image}", images::FROM_IMAGE),
        image: facts.digest,
        images: None,
        services: resolved.services,
        jobs: resolved.jobs,
        manifest_env: manifest.env,
        strategy: manifest.rollout,
    })
}

/// The image by name or digest, got from its registry when the app's project has none of that name.
fn have_image(job: &workers::Job, app: &App, image: &str) -> Result<engine::ImageFacts, ControlError> {
    let (control, engine) = (&*job.control, &*job.control.engine);
    let (project, found) = control.read(|tx| {
        let project = home(tx, app)?;
        let found = images::find(control, tx, &project, image)?;
        Ok((project, found))
    })?;
    if let Some(facts) = found {
        return Ok(facts);
    }
    operations::step(&job.control, job.operation, &format!("getting {image}"))?;
    let source = ImageSource::Pull {
        reference: image.to_owned(),
        insecure: false,
    };
    let lines = |line: &str| operations::log_line(&job.control, job.operation, line);
    let digest = engine.fetch_image(
        &FetchImage {
            source: &source,
            archive: None,
            name: image,
            reach: Reach::PublicOnly,
        },
        &lines,
    )?;
    control.write(|tx| images::note(tx, realm_of(&project), image, &digest, control.now_of(tx)))?;
    engine
        .find_image(digest.as_str())?
        .ok_or_else(|| crate::authorize::missing("image", image))
}

/// The project of an app.
fn home(tx: &store::ReadTx, app: &App) -> Result<Project, ControlError> {
    let environment = tx.need::<model::Environment>(&app.environment.to_string())?.row;
    Ok(tx.need::<Project>(&environment.project.to_string())?.row)
}

fn own_images(
    job: &workers::Job,
    app: &App,
    services: &BTreeMap<Name, Service>,
) -> Result<BTreeMap<Name, ImageDigest>, ControlError> {
    let mut images = BTreeMap::new();
    for (name, service) in services {
        if let Some(image) = &service.image {
            images.insert(name.clone(), have_image(job, app, image)?.digest);
        }
    }
    Ok(images)
}

fn from_serving(control: &Control, app: &App) -> Result<Made, ControlError> {
    let serving = app
        .serving
        .ok_or_else(|| crate::authorize::missing("release", "that serves"))?;
    let release = control.read(|tx| Ok(tx.need::<Release>(&serving.release.to_string())?.row))?;
    Ok(Made {
        note: format!("configuration changed since v{}", release.number),
        image: release.image,
        // The same code: what an image's name means may have changed since.
        images: Some(release.images),
        services: release.services,
        jobs: release.jobs,
        manifest_env: release.manifest_env,
        strategy: release.strategy,
    })
}

/// Finds out early what would fail late, and has the databases made that the manifest declares.
fn before_the_build(job: &workers::Job, app: &App, manifest: &Manifest) -> Result<(), ControlError> {
    let control = &*job.control;
    if manifest.app != app.name {
        return Err(ControlError::State {
            message: format!(
                "stoa.toml says app = \"{}\", but this is the app {}",
                manifest.app, app.name
            ),
            next_step: format!(
                "change it to app = \"{}\", or deploy with --app {}",
                app.name, manifest.app
            ),
        });
    }
    let known: Vec<String> = control
        .read(|tx| crate::secrets::newest(tx, app))?
        .into_iter()
        .filter(|s| !s.sealed.is_empty())
        .map(|s| s.key.to_string())
        .collect();
    let wanted = manifest
        .services
        .values()
        .flat_map(|s| &s.secrets)
        .chain(manifest.jobs.values().flat_map(|j| &j.secrets));
    for key in wanted {
        if !known.contains(&key.to_string()) {
            return Err(ControlError::State {
                message: format!("the secret {key} is not set"),
                next_step: format!("set it: stoa secrets set {key} --app {}", app.name),
            });
        }
    }
    let wishes: BTreeMap<_, _> = manifest
        .databases
        .iter()
        .map(|(name, wish)| {
            let wish = Wish {
                engine: wish.engine,
                version: wish.version.clone(),
                size: wish.size,
                memory: wish.memory,
                level: wish.backup_level,
                pooled: wish.pooled,
            };
            (name, wish)
        })
        .collect();
    let mut considered = BTreeMap::new();
    for (name, wish) in &wishes {
        considered.insert(*name, crate::databases::consider(control, wish)?);
    }
    job.still_wanted()?;
    let (missing, notes) = control.write(|tx| {
        let (mut waiting, mut notes) = (Vec::new(), Vec::new());
        let actor = Actor::System;
        let scope = crate::authorize::environment_by_id(tx, &actor, model::Action::Manage, app.environment)?;
        for (name, wish) in &manifest.databases {
            match tx.find::<Database>(&scope.parent(), name.as_str())? {
                Some(mut found) => {
                    crate::databases::valkey::need_engine(&found.row, wish.engine)?;
                    notes.extend(other_version(&found.row, wish));
                    notes.extend(no_pooler(&found.row, wish));
                    match &found.row.state {
                        // Its budget, the level of its backup and its pooler are what the manifest says now; all else of it
                        // stays as it was made.
                        DatabaseState::Active if differs(&found.row, wish) => {
                            found.row.size = wish.size.unwrap_or(found.row.size);
                            found.row.pooled = is_pooled(&found.row, wish);
                            if found.row.origin.is_none() {
                                found.row.level = wish.backup_level.unwrap_or(found.row.level);
                            }
                            tx.update(&found.row, Expect::Generation(found.generation))?;
                        }
                        DatabaseState::Active => {}
                        DatabaseState::Creating => waiting.push(found.row.id),
                        DatabaseState::Failed { why } => {
                            return Err(ControlError::State {
                                message: format!("the database {name} could not be made: {why}"),
                                next_step: format!(
                                    "stoa db destroy {name} --confirm {name}, then deploy again"
                                ),
                            });
                        }
                        DatabaseState::Destroyed { .. } => {}
                    }
                }
                None => {
                    let (made, _) =
                        crate::databases::create_in(control, tx, &actor, &scope, name, &considered[name])?;
                    waiting.push(made.row.id);
                }
            }
        }
        Ok((waiting, notes))
    })?;
    for note in notes {
        operations::log_line(control, job.operation, &note);
    }
    for id in missing {
        wait_database(job, id)?;
    }
    Ok(())
}

/// What is to be said of a database that has another version than its manifest wants: a deploy upgrades none.
fn other_version(row: &Database, wish: &DatabaseWish) -> Option<String> {
    let (has, wanted) = (row.version.as_ref()?, wish.version.as_ref()?);
    let number = |text: &String| text.parse::<u32>().unwrap_or_default();
    if row.engine.valkey().is_some() {
        let is_other = number(has) != number(wanted);
        let name = &row.name;
        return is_other.then(|| {
            format!("{name} has Valkey {has}, stoa.toml wants {wanted}; it stays, write {has} there")
        });
    }
    match number(has).cmp(&number(wanted)) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Less => Some(format!(
            "{0} has PostgreSQL {has}, stoa.toml wants {wanted}; it stays until: stoa db upgrade {0} --to {wanted}",
            row.name
        )),
        std::cmp::Ordering::Greater => Some(format!(
            "{} has PostgreSQL {has}, stoa.toml wants {wanted}; it stays, write {has} there",
            row.name
        )),
    }
}

/// What is to be said of a database that is to have a pooler and sleeps: its pooler would keep it awake.
fn no_pooler(row: &Database, wish: &DatabaseWish) -> Option<String> {
    (wish.pooled == Some(true) && row.idle_stop.is_some()).then(|| {
        format!(
            "{} sleeps when nobody uses it, stoa.toml wants a pooler; it gets none, which would keep it awake",
            row.name
        )
    })
}

/// Whether it is to have a pooler, as far as a manifest can say.
fn is_pooled(row: &Database, wish: &DatabaseWish) -> bool {
    match wish.pooled {
        Some(pooled) => pooled && row.idle_stop.is_none(),
        None => row.pooled,
    }
}

/// Whether a manifest wants another budget, level of backup or pooler than a database has.
fn differs(row: &Database, wish: &DatabaseWish) -> bool {
    wish.size.is_some_and(|size| size != row.size)
        || is_pooled(row, wish) != row.pooled
        || row.origin.is_none() && wish.backup_level.is_some_and(|level| level != row.level)
}

fn wait_database(job: &workers::Job, id: model::DatabaseId) -> Result<(), ControlError> {
    let control = &*job.control;
    loop {
        let (rev, database, operation, making) = control.read(|tx| {
            let operation = tx.need::<Operation>(&job.operation.to_string())?.row;
            let open = control.open.at(tx)?.into_iter();
            let mut makes = open.filter(|one| one.work == Work::CreateDatabase { database: id });
            let database = tx.need::<Database>(&id.to_string())?.row;
            Ok((tx.rev()?, database, operation, makes.next()))
        })?;
        let step = match making {
            Some(making) => format!("waiting for the database {}: {}", database.name, making.step),
            None => format!("waiting for the database {}", database.name),
        };
        operations::step(control, job.operation, &step)?;
        match &database.state {
            DatabaseState::Active => return Ok(()),
            DatabaseState::Creating if operation.cancel || operation.state.is_settled() => {
                return Err(ControlError::State {
                    message: "given up while it waited for a database".to_owned(),
                    next_step: "deploy again".to_owned(),
                });
            }
            DatabaseState::Creating => {
                control.store.wait_change(rev, std::time::Duration::from_secs(1));
            }
            DatabaseState::Failed { why } => {
                return Err(ControlError::State {
                    message: format!("the database {} could not be made: {why}", database.name),
                    next_step: format!(
                        "stoa db destroy {0} --confirm {0}, then deploy again",
                        database.name
                    ),
                });
            }
            DatabaseState::Destroyed { .. } => {
                return Err(crate::authorize::missing("database", database.name.as_str()));
            }
        }
    }
}

/// The release row, in one transaction with its operation's knowledge of it.
fn number(
    control: &Control,
    operation: &Operation,
    app: &App,
    made: &Made,
    images: &BTreeMap<Name, ImageDigest>,
) -> Result<(), ControlError> {
    control.write(|tx| {
        let mut current = tx.need::<Operation>(&operation.id.to_string())?;
        let is_given_up = current.row.state.is_settled() || current.row.cancel;
        if current.row.release.is_some() || is_given_up && !planted::is(Defect::ForgetsToFence) {
            return Ok(());
        }
        let app = tx.need::<App>(&app.id.to_string())?.row;
        for name in made
            .services
            .values()
            .flat_map(|s| &s.uses)
            .chain(made.jobs.values().flat_map(|j| &j.uses))
        {
            let is_service = made.services.contains_key(name);
            if !is_service
                && tx
                    .find::<Database>(&app.environment.to_string(), name.as_str())?
                    .is_none()
            {
                return Err(ControlError::State {
                    message: format!(
                        "a service uses {name}, but there is no database or service of that name"
                    ),
                    next_step: format!("create it: stoa db create {name}, then deploy again"),
                });
            }
        }
        crate::hosts::refuse_taken(tx, &control.settings.domain, &app, &made.services)?;
        let mut env = made.manifest_env.clone();
        env.extend(app.env.clone());
        let secrets = crate::secrets::newest(tx, &app)?;
        let release = Release {
            id: ReleaseId::fresh(),
            app: app.id,
            number: tx.next_number(&format!("release:{}", app.id))?,
            created_at: control.now_of(tx),
            operation: operation.id,
            note: made.note.clone(),
            image: made.image.clone(),
            images: images.clone(),
            services: made.services.clone(),
            jobs: made.jobs.clone(),
            env,
            manifest_env: made.manifest_env.clone(),
            secrets: secrets
                .into_iter()
                .filter(|s| !s.sealed.is_empty())
                .map(|s| (s.key, s.version))
                .collect(),
            strategy: made.strategy.clone(),
            state: ReleaseState::Pending,
        };
        tx.insert(&release)?;
        current.row.release = Some(release.id);
        // What the manifest allows its jobs and its instances comes on top of what everything else may take.
        let jobs: u64 = made.jobs.values().map(|job| job.timeout.as_ms()).sum();
        let grace = made
            .services
            .values()
            .map(|service| service.health.grace.as_ms())
            .max();
        let allowed = Millis::new(jobs + grace.unwrap_or_default());
        current.row.deadline = current.row.deadline.plus(allowed);
        current.row.state = OperationState::Running;
        current.row.step = format!("made release v{}", release.number);
        tx.update_status(&current.row, Expect::Any)?;
        // Before the commit: from then on the operation, and so the next line, is the reconciler's.
        operations::log_line(
            control,
            operation.id,
            &format!("==> made release v{}", release.number),
        );
        Ok(())
    })
}

/// A build's directory: empty at the beginning, gone at the end.
struct Workspace {
    dir: PathBuf,
    source: PathBuf,
}

impl Workspace {
    fn new(control: &Control, operation: model::OperationId) -> Result<Self, ControlError> {
        let dir = control
            .settings
            .data_dir
            .join("builds")
            .join(operation.to_string());
        let source = dir.join("source");
        drop(fs::remove_dir_all(&dir));
        fs::create_dir_all(&dir)
            .map_err(|cause| uploads::file_error("could not make the build's directory", cause))?;
        Ok(Self { dir, source })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Gets an image for an image operation.
pub(super) fn image(job: &workers::Job) -> Result<(), ControlError> {
    let control = &*job.control;
    let operation = control.read(|tx| Ok(tx.need::<Operation>(&job.operation.to_string())?.row))?;
    let Work::Image { source, name, org } = &operation.work else {
        return Ok(());
    };
    operations::step(control, job.operation, &format!("getting {name}"))?;
    let archive = match source {
        ImageSource::Archive { upload } | ImageSource::Directory { upload, .. } => {
            Some(uploads::path_of(control, *upload))
        }
        ImageSource::Pull { .. } | ImageSource::Debian { .. } | ImageSource::Host => None,
    };
    let lines = |line: &str| operations::log_line(control, job.operation, line);
    let request = FetchImage {
        source,
        archive: archive.as_deref(),
        name,
        // Only the operator may ask for an image operation.
        reach: Reach::Anywhere,
    };
    let digest = control.engine.fetch_image(&request, &lines)?;
    let realm = org.map_or(Realm::Installation, |org| Realm::Org { org });
    control.write(|tx| images::note(tx, realm, name, &digest, control.now_of(tx)))?;
    operations::succeed(control, job.operation, &format!("{name} is {digest}"))
}
