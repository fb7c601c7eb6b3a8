//! Logs of apps and databases: lines that outlive instances and releases.

use engine::{LogQuery, LogRecord};
use model::{Action, Actor, InstanceId, Timestamp};

use crate::authorize::{self, EnvPath};
use crate::{Control, ControlError};

/// Which lines of an app are wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only of this service or job.
    pub service: Option<String>,
    /// Only of this instance.
    pub instance: Option<InstanceId>,
    /// Only of this release (`v3` or `3`).
    pub release: Option<String>,
    /// Only at or after this moment.
    pub since: Option<Timestamp>,
    /// Only lines that contain this.
    pub grep: Option<String>,
    /// Only after this position.
    pub after: Option<(Timestamp, InstanceId, u64)>,
    /// At most that many.
    pub limit: usize,
}

/// Most lines of one answer.
pub const LIMIT: usize = 10_000;

/// Lines of an app's logs, oldest first.
///
/// # Errors
/// As the gate's, and the engine's.
pub fn of_app(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    app: &str,
    wanted: &Wanted,
) -> Result<Vec<LogRecord>, ControlError> {
    let app = control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        scope.app(tx, app)
    })?;
    let key = match &wanted.service {
        Some(service) => {
            let name = service
                .parse::<model::Name>()
                .map_err(|e| ControlError::invalid("service", e.to_string()))?;
            format!("{}/{name}", app.row.id)
        }
        None => app.row.id.to_string(),
    };
    query(control, key, wanted)
}

/// Lines of a database's log, oldest first: of its servers and of its poolers, those that ended too. Reading them wakes no
/// server.
///
/// It needs the right to read secrets: a server repeats statements that failed, with the values in them.
///
/// # Errors
/// As the gate's, and the engine's.
pub fn of_database(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    database: &str,
    wanted: &Wanted,
) -> Result<Vec<LogRecord>, ControlError> {
    let database = control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::ReadSecrets, path)?;
        scope.database(tx, database)
    })?;
    query(control, database.row.id.to_string(), wanted)
}

fn query(control: &Control, key: String, wanted: &Wanted) -> Result<Vec<LogRecord>, ControlError> {
    let label = wanted
        .release
        .as_ref()
        .map(|name| format!("v{}", name.strip_prefix('v').unwrap_or(name)));
    let query = LogQuery {
        key,
        instance: wanted.instance,
        label,
        after: wanted.after,
        since: wanted.since,
        contains: wanted.grep.clone(),
        limit: wanted.limit.clamp(1, LIMIT),
    };
    Ok(control.engine.logs(&query)?)
}
