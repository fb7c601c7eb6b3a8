//! What the server of a database says of itself.

use ::databases::{Activity, Counting, DatabaseError, Psql, Setting, Statements};
use model::{Action, Actor};

use super::Server;
use crate::authorize::{self, EnvPath};
use crate::{Control, ControlError};

/// What a database does now: its sessions.
///
/// It needs the right to read secrets: queries hold values, passwords among them. Like logs, looking is not audited; it
/// would be each few seconds.
///
/// # Errors
/// As the gate's; `State` when it does not run or does not answer.
pub fn activity(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<Activity, ControlError> {
    ask(control, actor, path, name, ::databases::activity)
}

/// What the server of a database has spent its time on: its statements.
///
/// It needs the right to read secrets: a statement may hold a value.
///
/// # Errors
/// As the gate's; `State` when it does not run, does not answer or does not count.
pub fn statements(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<Statements, ControlError> {
    let (message, next_step) = match ask(control, actor, path, name, ::databases::statements)? {
        Counting::Counted(found) => return Ok(found),
        Counting::NotLoaded => (
            format!("the server of {name} was started before statements were counted"),
            format!("have it load pg_stat_statements: stoa db restart {name}"),
        ),
        Counting::NoLibrary => (
            format!("the image of {name} lacks pg_stat_statements, which counts statements"),
            format!("put an image that has it in the store; then: stoa db restart {name}"),
        ),
    };
    Err(ControlError::State { message, next_step })
}

/// How the server of a database is set, as far as that is not PostgreSQL's default.
///
/// It needs the right to read secrets: a setting may hold one, for example what `ALTER DATABASE` set for an application.
///
/// # Errors
/// As the gate's; `State` when it does not run or does not answer.
pub fn settings(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<Vec<Setting>, ControlError> {
    ask(control, actor, path, name, ::databases::settings_in_effect)
}

fn ask<T>(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    question: impl FnOnce(Psql<'_>) -> Result<T, DatabaseError>,
) -> Result<T, ControlError> {
    let found = control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::ReadSecrets, path)?;
        let database = scope.database(tx, name)?.row;
        super::valkey::refuse(
            &database,
            "this is asked of PostgreSQL",
            "ask it yourself: stoa db connect NAME -- INFO",
        )?;
        Server::of(tx, database)
    })?;
    let instance = found.awake(control)?;
    let psql = Psql {
        engine: &*control.engine,
        instance: instance.id,
    };
    question(psql).map_err(|cause| match cause {
        DatabaseError::Engine(cause) => cause.into(),
        other => {
            tracing::warn!(cause = %other, %name, "a server did not say what it was asked");
            ControlError::State {
                message: format!("the server of {name} does not answer"),
                next_step: format!("see why: stoa db info {name}"),
            }
        }
    })
}
