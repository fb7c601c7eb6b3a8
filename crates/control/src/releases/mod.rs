//! Releases: deploy, roll back, restart, see.

mod preview;
mod rollout;

use model::operation::{Source, Work};
use model::{Action, Actor, App, Instance, Operation, Release, ReleaseId, ReleaseState};
use store::{Expect, ReadTx, Versioned, WriteTx};

use crate::apps::refuse_deleting;
use crate::authorize::{self, EnvPath};
use crate::operations::{self, Accepted};
use crate::{Control, ControlError, rehearsal};

pub use preview::{Change, Preview, preview};
pub use rollout::{Progress, RolloutView, rollout};

/// Largest `stoa.toml`, in bytes: far above any written by hand, far below what would slow a parser.
pub const MANIFEST_MAX: usize = 256 * 1024;

/// Asks for a new release and a rollout to it. The manifest is checked before anything is accepted.
///
/// # Errors
/// As the gate's; `Invalid` with every problem of the manifest, or for an upload that is not there.
pub fn deploy(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    source: &Source,
    manifest: Option<&str>,
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "release.create", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Deploy, path)?;
        let app = scope.app(tx, name)?;
        refuse_deleting(&app.row)?;
        if let Some(text) = manifest {
            check_manifest(text, &scope.environment.name)?;
        }
        match source {
            Source::Upload { upload } => {
                let found = tx.get::<store::rows::Upload>(&upload.to_string())?;
                if found.is_none_or(|found| found.row.environment != scope.environment.id) {
                    return Err(ControlError::invalid(
                        "/upload",
                        "there is no such upload; upload the source first",
                    ));
                }
            }
            Source::Configuration => {
                if app.row.serving.is_none() {
                    return Err(ControlError::State {
                        message: format!("{name} has no release whose configuration could change"),
                        next_step: "deploy it first: stoa deploy".to_owned(),
                    });
                }
            }
            Source::Image { image } => {
                if image.is_empty() || image.len() > 512 || image.chars().any(char::is_whitespace) {
                    return Err(ControlError::invalid("/image", "not an image reference"));
                }
            }
        }
        let work = Work::Deploy {
            app: app.row.id,
            source: source.clone(),
            manifest: manifest.map(str::to_owned),
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}

/// Every problem of a manifest, as one error.
///
/// # Errors
/// `Invalid` with all of them.
pub fn check_manifest(
    text: &str,
    environment: &model::Name,
) -> Result<model::manifest::Manifest, ControlError> {
    if text.len() > MANIFEST_MAX {
        return Err(ControlError::invalid(
            "stoa.toml",
            format!("larger than {MANIFEST_MAX} bytes"),
        ));
    }
    model::manifest::Manifest::parse_for(text, environment).map_err(|problems| {
        ControlError::Invalid(
            problems
                .into_iter()
                .map(|problem| crate::error::Invalid {
                    at: format!("stoa.toml:{}:{} {}", problem.line, problem.column, problem.path),
                    message: match problem.suggestion {
                        Some(suggestion) => format!("{} ({suggestion})", problem.message),
                        None => problem.message,
                    },
                })
                .collect(),
        )
    })
}

/// Moves an app back to a release that has served: the named one, or the last before the one that serves. A release that
/// is on trial is given up for it; then the one that serves is where to go back to.
///
/// # Errors
/// As the gate's; `State` when there is nothing to return to.
pub fn rollback(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    to: Option<&str>,
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "release.rollback", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Deploy, path)?;
        let app = scope.app(tx, name)?;
        refuse_deleting(&app.row)?;
        let trial = give_up_trial(tx, &app.row)?;
        let target = match (to, trial.or_else(|| app.row.served_before.last().copied())) {
            (Some(to), _) => scope.release(tx, &app.row, to)?.row,
            (None, Some(previous)) => tx.need::<Release>(&previous.to_string())?.row,
            (None, None) => {
                return Err(ControlError::State {
                    message: format!("{name} has no earlier release to go back to"),
                    next_step: "choose one: stoa releases, then stoa rollback vN".to_owned(),
                });
            }
        };
        match &target.state {
            ReleaseState::Proven => {}
            ReleaseState::Pending => {
                return Err(ControlError::State {
                    message: format!("v{} is not decided yet", target.number),
                    next_step: "wait for its rollout: stoa releases".to_owned(),
                });
            }
            ReleaseState::Rejected { why } => {
                return Err(ControlError::State {
                    message: format!("v{} never served: {why}", target.number),
                    next_step: "choose a release that has served: stoa releases".to_owned(),
                });
            }
        }
        let work = Work::Rollback {
            app: app.row.id,
            to: target.id,
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}

/// Asks for the end of a canary under way. Answers with what serves beside it.
fn give_up_trial(tx: &WriteTx, app: &App) -> Result<Option<ReleaseId>, ControlError> {
    let (Some(rollout), Some(serving)) = (&app.rollout, app.serving) else {
        return Ok(None);
    };
    let to = tx.need::<Release>(&rollout.to.release.to_string())?.row;
    if plan::app::trial_of(&to).is_none() {
        return Ok(None);
    }
    let mut operation = tx.need::<Operation>(&rollout.operation.to_string())?;
    if !operation.row.state.is_settled() {
        operation.row.cancel = true;
        tx.update(&operation.row, Expect::Any)?;
    }
    Ok(Some(serving.release))
}

/// Replaces all instances by fresh ones of the same release, without a gap.
///
/// # Errors
/// As the gate's; `State` when nothing serves.
pub fn restart(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "app.restart", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Deploy, path)?;
        let app = scope.app(tx, name)?;
        refuse_deleting(&app.row)?;
        need_serving(&app.row)?;
        operations::accept(
            control,
            tx,
            actor,
            Some(&scope),
            Work::Restart { app: app.row.id },
        )
    })
}

/// Runs one command in an instance of its own, with the configuration of what serves.
///
/// # Errors
/// As the gate's; `State` when nothing serves; `Invalid` for an empty command.
pub fn run(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    command: &[String],
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "app.run", name, |tx| {
        let scope = inside(tx, actor, path)?;
        check_command(command)?;
        let app = scope.app(tx, name)?;
        refuse_deleting(&app.row)?;
        need_serving(&app.row)?;
        let work = Work::Run {
            app: app.row.id,
            command: command.to_vec(),
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}

/// Whoever chooses a program to run in an instance reads the secrets in its environment by it.
fn inside(tx: &ReadTx, actor: &Actor, path: &EnvPath) -> Result<authorize::Scope, ControlError> {
    authorize::environment(tx, actor, Action::ReadSecrets, path)?;
    authorize::environment(tx, actor, Action::Deploy, path)
}

fn check_command(command: &[String]) -> Result<(), ControlError> {
    let hostile = |part: &String| part.contains('\0') || part.len() > crate::apps::ENV_VALUE_MAX;
    if command.is_empty() || command[0].is_empty() || command.len() > 1000 || command.iter().any(hostile) {
        return Err(ControlError::invalid(
            "/command",
            "a program and its arguments, without NUL",
        ));
    }
    Ok(())
}

fn need_serving(app: &App) -> Result<(), ControlError> {
    if app.serving.is_some() {
        return Ok(());
    }
    Err(ControlError::State {
        message: format!("{} has no release that serves", app.name),
        next_step: "deploy it first: stoa deploy".to_owned(),
    })
}

/// A page of the releases of an app, newest first: so many before the one that is named (none: from the newest).
///
/// # Errors
/// As the gate's.
pub fn list(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    before: &str,
    limit: usize,
) -> Result<(Versioned<App>, store::Page<Release>), ControlError> {
    control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        let app = scope.app(tx, name)?;
        let releases = tx.page_back::<Release>(&app.row.id.to_string(), before, limit)?;
        Ok((app, releases))
    })
}

/// One release.
///
/// # Errors
/// As the gate's.
pub fn view(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    release: &str,
) -> Result<(Versioned<App>, Versioned<Release>), ControlError> {
    control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        let app = scope.app(tx, name)?;
        let release = scope.release(tx, &app.row, release)?;
        Ok((app, release))
    })
}

/// A program inside a running instance of an app. Nothing when it is only rehearsed.
///
/// # Errors
/// As the gate's; `NotFound` when the instance does not run.
pub fn enter(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    instance: Option<&str>,
    exec: &engine::Exec,
) -> Result<Option<engine::ExecStreams>, ControlError> {
    let found = control.mutate(actor, "instance.exec", name, |tx| {
        let scope = inside(tx, actor, path)?;
        check_command(&exec.argv)?;
        let app = scope.app(tx, name)?;
        let mut live: Vec<Instance> = tx
            .list::<Instance>(&app.row.id.to_string())?
            .into_iter()
            .map(|found| found.row)
            .filter(|found| found.condition.is_live())
            .collect();
        // Without a wish, one that is fit: a starting one may not be there yet, a draining one ends soon.
        live.sort_by_key(|found| !matches!(found.condition, model::Condition::Ready { .. }));
        let mut live = live.into_iter();
        let found = match instance {
            Some(wanted) => live.find(|found| found.id.to_string() == wanted),
            None => live.next(),
        };
        found.ok_or_else(|| authorize::missing("instance", instance.unwrap_or("(any)")))
    })?;
    if rehearsal::is_on() {
        rehearsal::note("session", &found.id.to_string(), "insert");
        return Ok(None);
    }
    Ok(Some(control.engine.exec(found.id, exec)?))
}
