//! Releases and what moves an app between them.

use api::{
    CreateRelease, ReleasePage, ReleasePlan, ReleasePlanChange, ReleaseService, ReleaseSource, Rollback,
    Rollout, RolloutFailure, RolloutService, Run,
};
use control::{EnvPath, releases};
use model::operation::Source;
use model::{App, Release, ReleaseState, Service};

use crate::answer::Reply;
use crate::call::Call;
use crate::pages;
use crate::refusal::Refusal;

pub(crate) fn list(call: &Call) -> Result<Reply, Refusal> {
    let walk = pages::Walk::of(call)?;
    let (app, page) = releases::list(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("app")?,
        &walk.from,
        walk.limit,
    )?;
    let next_page = walk.next(page.rows.len(), page.next);
    let state = call.query("state");
    Reply::ok(&ReleasePage {
        items: page
            .rows
            .iter()
            .map(|release| wire(&app.row, &release.row))
            .filter(|release| state.is_none_or(|state| state == release.state))
            .collect(),
        next_page,
    })
}

pub(crate) fn create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateRelease = call.needed_body()?;
    let is_dry = call.is_set("dry_run");
    let (place, app) = (call.place()?, call.parameter("app")?);
    let source = match body.source {
        ReleaseSource::Upload { upload } => Source::Upload {
            upload: upload
                .parse()
                .map_err(|why: model::id::IdError| Refusal::field("/source/upload", why.to_string()))?,
        },
        ReleaseSource::Image { image } => Source::Image { image },
        ReleaseSource::Configuration {} => Source::Configuration,
        ReleaseSource::Unsent {} if is_dry => {
            return foretell(call, &place, app, None, body.manifest.as_deref());
        }
        ReleaseSource::Unsent {} => {
            let message = "a release is made from something: this kind is for dry_run only";
            return Err(Refusal::field("/source/kind", message.to_owned()));
        }
    };
    if is_dry {
        return foretell(call, &place, app, Some(&source), body.manifest.as_deref());
    }
    let accepted = releases::deploy(
        call.control(),
        call.actor()?,
        &place,
        app,
        &source,
        body.manifest.as_deref(),
    )?;
    Reply::accepted(&accepted.operation)
}

fn foretell(
    call: &Call,
    place: &EnvPath,
    app: &str,
    source: Option<&Source>,
    manifest: Option<&str>,
) -> Result<Reply, Refusal> {
    let found = releases::preview(call.control(), call.actor()?, place, app, source, manifest)?;
    let change = |change: releases::Change| ReleasePlanChange {
        what: change.what.to_owned(),
        name: change.name,
        change: change.how.to_owned(),
        settings: change.settings.into_iter().map(str::to_owned).collect(),
    };
    Reply::ok(&ReleasePlan {
        release: found.release,
        serving: found.serving,
        strategy: found.strategy.to_string(),
        changes: found.changes.into_iter().map(change).collect(),
        steps: found.steps,
        obstacles: found.obstacles,
        unknown: found.unknown,
    })
}

pub(crate) fn view(call: &Call) -> Result<Reply, Refusal> {
    let (place, app, release) = (call.place()?, call.parameter("app")?, call.parameter("release")?);
    let (app, release) = releases::view(call.control(), call.actor()?, &place, app, release)?;
    Reply::ok(&wire(&app.row, &release.row))
}

pub(crate) fn rollback(call: &Call) -> Result<Reply, Refusal> {
    let body: Rollback = call.body()?;
    let (place, app) = (call.place()?, call.parameter("app")?);
    let accepted = releases::rollback(call.control(), call.actor()?, &place, app, body.to.as_deref())?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn rollout(call: &Call) -> Result<Reply, Refusal> {
    let app = call.parameter("app")?;
    let view = releases::rollout(call.control(), call.actor()?, &call.place()?, app)?;
    let services = view.services.into_iter().map(|progress| RolloutService {
        name: progress.name,
        wanted: progress.wanted,
        new_ready: progress.new_ready,
        new_unready: progress.new_unready,
        old: progress.old,
    });
    let failures = view
        .failures
        .into_iter()
        .map(|(instance, why)| RolloutFailure { instance, why });
    Reply::ok(&Rollout {
        operation: view.operation.id.to_string(),
        from: view.from.map(|number| format!("v{number}")),
        to: format!("v{}", view.to.number),
        strategy: view.to.strategy.to_string(),
        reason: view.operation.step.clone(),
        services: services.collect(),
        failures: failures.collect(),
        steps_began_at: view.steps_began_at,
        started_at: view.started_at,
        deadline: view.deadline,
    })
}

pub(crate) fn restart(call: &Call) -> Result<Reply, Refusal> {
    let accepted = releases::restart(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("app")?,
    )?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn run(call: &Call) -> Result<Reply, Refusal> {
    let body: Run = call.needed_body()?;
    let (place, app) = (call.place()?, call.parameter("app")?);
    let accepted = releases::run(call.control(), call.actor()?, &place, app, &body.command)?;
    Reply::accepted(&accepted.operation)
}

fn wire(app: &App, release: &Release) -> api::Release {
    let (state, why) = match &release.state {
        ReleaseState::Pending => ("pending", None),
        ReleaseState::Proven => ("proven", None),
        ReleaseState::Rejected { why } => ("rejected", Some(why.clone())),
    };
    api::Release {
        id: release.id.to_string(),
        name: format!("v{}", release.number),
        created_at: release.created_at,
        operation: release.operation.to_string(),
        note: release.note.clone(),
        state: state.to_owned(),
        why,
        serving: app.serving.is_some_and(|serving| serving.release == release.id),
        image: release.image.to_string(),
        services: release
            .services
            .iter()
            .map(|(name, service)| (name.to_string(), wire_service(service)))
            .collect(),
        env: release
            .env
            .iter()
            .map(|(key, value)| (key.to_string(), value.clone()))
            .collect(),
        secrets: release
            .secrets
            .iter()
            .map(|(key, version)| (key.to_string(), *version))
            .collect(),
    }
}

fn wire_service(service: &Service) -> ReleaseService {
    ReleaseService {
        command: service.command.clone(),
        port: service.port,
        count: service.count,
        cpu_millis: service.resources.cpu.get(),
        memory_bytes: service.resources.memory.get(),
        health_path: service.health.path.clone(),
        uses: service.uses.iter().map(ToString::to_string).collect(),
        secrets: service.secrets.iter().map(ToString::to_string).collect(),
    }
}
