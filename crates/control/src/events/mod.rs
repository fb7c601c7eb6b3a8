//! What happened: the revision log as a stream.

use std::time::Duration;

use model::{Action, Actor, EnvironmentId, OrgId};
use store::{Change, ReadTx};

use crate::authorize;
use crate::{Control, ControlError};

/// Changes after `since` that the actor may see, waiting up to `wait` for the first one.
/// Returns them with the revision to pass next time.
///
/// # Errors
/// `Store(Compacted)` when `since` is too old: list again and watch from now.
pub fn watch(
    control: &Control,
    actor: &Actor,
    since: Option<u64>,
    wait: Duration,
) -> Result<(Vec<Change>, u64), ControlError> {
    let now = control.read(|tx| Ok(tx.rev()?))?;
    let since = since.unwrap_or(now);
    if since >= now {
        control.store.wait_change(since, wait);
    }
    control.read(|tx| {
        let changes = tx.changes_since(since, LIMIT)?;
        let next = changes.last().map_or(since, |change| change.rev);
        let visible = changes
            .into_iter()
            .filter(|change| may_see(tx, actor, change).unwrap_or(false))
            .collect();
        Ok((visible, next))
    })
}

/// Most changes of one answer.
const LIMIT: usize = 500;

/// Whether a change belongs to what the actor may read. What is not listed is shown to nobody but root: tokens, claims,
/// sealed secrets and uploads are never anybody's news. Unknown parents are not shown.
fn may_see(tx: &ReadTx, actor: &Actor, change: &Change) -> Result<bool, ControlError> {
    match actor {
        Actor::HostRoot { .. } | Actor::System => return Ok(true),
        Actor::Token { .. } => {}
    }
    let environment = match change.kind.as_str() {
        "org" => return may_read(actor, change.id.parse().ok()),
        "project" => return may_read(actor, change.parent.parse().ok()),
        "environment" => {
            let project = tx.get::<model::Project>(&change.parent)?;
            return may_read(actor, project.map(|project| project.row.org));
        }
        "operation" if change.parent.is_empty() => {
            return Ok(authorize::authorize(actor, Action::Administer, None, "operation", "").is_ok());
        }
        "app" | "database" | "operation" => change.parent.parse::<EnvironmentId>().ok(),
        "release" | "instance" => match tx.get::<model::App>(&change.parent)? {
            Some(app) => Some(app.row.environment),
            None => tx
                .get::<model::Database>(&change.parent)?
                .map(|database| database.row.environment),
        },
        _ => None,
    };
    let Some(environment) = environment else {
        return Ok(false);
    };
    Ok(authorize::environment_by_id(tx, actor, Action::Read, environment).is_ok())
}

fn may_read(actor: &Actor, org: Option<OrgId>) -> Result<bool, ControlError> {
    Ok(org.is_some() && authorize::authorize(actor, Action::Read, org, "org", "").is_ok())
}
