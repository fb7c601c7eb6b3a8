//! What of a database is changed while it runs: `stoa db update`, `stoa db restart`, and how its pooler is told.

use api::{BackupLevel, DatabasePooler, UpdateDatabase};
use model::Level;

use crate::args::{Choice, Patience, UpdateArguments};
use crate::databases::page;
use crate::failure::Failure;
use crate::follow;
use crate::output::{self, say};
use crate::session::Session;
use crate::terminal;

/// Changes it, and says from when that counts.
pub(crate) fn update(session: &Session, wanted: &UpdateArguments) -> Result<u8, Failure> {
    let name = &wanted.name;
    let body = UpdateDatabase {
        backup_level: wanted.backup_level.map(wire_level),
        pooled: wanted.pooled.map(|choice| match choice {
            Choice::Yes => true,
            Choice::No => false,
        }),
    };
    let database = session.client.database_update(&session.place, name, &body)?;
    if session.json {
        output::json(&database)?;
        return Ok(0);
    }
    output::data(&page(&database))?;
    let apps: Vec<String> = database
        .used_by
        .iter()
        .map(|app| format!("stoa restart --app {app}"))
        .collect();
    match wanted.pooled {
        Some(_) if !apps.is_empty() => say(&format!(
            "apps get the other address as they start; now: {}",
            apps.join("; ")
        )),
        Some(_) | None => {}
    }
    Ok(0)
}

pub(crate) fn wire_level(level: Level) -> BackupLevel {
    match level {
        Level::Stream => BackupLevel::Stream,
        Level::Sync => BackupLevel::Sync,
    }
}

/// Starts its server anew, once its owner has agreed to what that ends.
pub(crate) fn restart(
    session: &Session,
    name: &str,
    confirm: Option<&str>,
    patience: &Patience,
) -> Result<u8, Failure> {
    let (client, place) = (&session.client, &session.place);
    let effect = match client.database(place, name)?.pooler {
        Some(pooler) if pooler.state == "ready" => format!(
            "clients of the pooler of {name} wait until its server answers again; sessions of the server itself end"
        ),
        Some(_) | None => format!(
            "this ends the sessions of {name}, which does not answer for some seconds; programs must connect again"
        ),
    };
    terminal::confirm_that(&effect, name, confirm)?;
    let operation = client.database_restart(place, name)?;
    follow::finish(session, &follow::follow(session, &operation, patience)?)
}

/// In a line of its own.
pub(crate) fn told(pooler: &DatabasePooler) -> String {
    let version = pooler
        .version
        .as_ref()
        .map_or_else(String::new, |version| format!(" (PgBouncer {version})"));
    let state = match pooler.state.as_str() {
        "ready" => format!("at {}, {} sessions{version}", pooler.host, pooler.sessions),
        "ending" => "ends; its address leads to the server".to_owned(),
        state => format!("{state}{version}; its address leads to the server meanwhile"),
    };
    match &pooler.why {
        Some(why) => format!("{state}: {why}"),
        None => state,
    }
}
