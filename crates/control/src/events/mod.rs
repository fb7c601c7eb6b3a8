//! What happened: the revision log as a stream.

use std::time::Duration;

use model::{Action, Actor, EnvironmentId, OrgId, Realm};
use store::{Change, ReadTx};

use crate::authorize::{Rights, realm_of};
use crate::{Control, ControlError};

/// Changes after `since` that the actor may see, waiting up to `wait` for the first one. 0: all that are kept.
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
        let rights = Rights::of(tx, actor)?;
        let is_root = matches!(actor, Actor::HostRoot { .. } | Actor::System);
        // No change has the number 0, so nobody can mean "after that one".
        let since = if since == 0 { tx.kept_since()? } else { since };
        let changes = tx.changes_since(since, LIMIT)?;
        let next = changes.last().map_or(since, |change| change.rev);
        let visible = changes
            .into_iter()
            .filter(|change| is_root || may_see(tx, &rights, change).unwrap_or(false))
            .collect();
        Ok((visible, next))
    })
}

/// Keeps a call of [`on_change`] coming; dropping it ends that.
#[derive(Debug)]
pub struct Subscription {
    _kept: store::Subscription,
}

/// Calls with each newly committed revision, on the thread that committed: it must only wake somebody. What changed, and
/// who may know of it, is [`watch`]'s to say.
pub fn on_change(control: &Control, hook: impl Fn(u64) + Send + Sync + 'static) -> Subscription {
    Subscription {
        _kept: control.store.subscribe(hook),
    }
}

/// Most changes of one answer.
const LIMIT: usize = 500;

/// Whether a change belongs to what the actor may read. What is not listed is shown to nobody but root: tokens, claims,
/// sealed secrets, uploads and people are never anybody's news. Unknown parents are not shown.
fn may_see(tx: &ReadTx, rights: &Rights, change: &Change) -> Result<bool, ControlError> {
    let environment = match change.kind.as_str() {
        "org" => {
            let org = change.id.parse::<OrgId>().ok();
            return Ok(org.is_some_and(|org| rights.allow(Action::See, Realm::Org { org })));
        }
        "project" => {
            let (org, project) = (change.parent.parse(), change.id.parse());
            let realm = org.ok().zip(project.ok());
            return Ok(realm
                .is_some_and(|(org, project)| rights.allow(Action::See, Realm::Project { org, project })));
        }
        "environment" => {
            let project = tx.get::<model::Project>(&change.parent)?;
            return Ok(project.is_some_and(|found| rights.allow(Action::Read, realm_of(&found.row))));
        }
        "operation" if change.parent.is_empty() => {
            return Ok(rights.allow(Action::Administer, Realm::Installation));
        }
        "app" | "database" | "operation" => change.parent.parse::<EnvironmentId>().ok(),
        "release" | "instance" | "drill" => match tx.get::<model::App>(&change.parent)? {
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
    Ok(rights.environment_by_id(tx, Action::Read, environment).is_ok())
}
