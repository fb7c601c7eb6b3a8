//! The rollout under way, as people see it.

use model::{Action, Actor, App, Condition, Instance, Operation, Purpose, Release, Timestamp};
use store::ReadTx;

use crate::authorize::{self, EnvPath};
use crate::{Control, ControlError};

/// How an app moves now.
#[derive(Debug, Clone)]
pub struct RolloutView {
    /// The operation it belongs to.
    pub operation: Operation,
    /// Number of the release that serves.
    pub from: Option<u64>,
    /// The release it moves to.
    pub to: Release,
    /// How far each service is.
    pub services: Vec<Progress>,
    /// New instances that failed, and what became of them.
    pub failures: Vec<(String, String)>,
    /// When each step of a canary began.
    pub steps_began_at: Vec<Timestamp>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it is given up.
    pub deadline: Timestamp,
}

/// How far a rollout is with one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Its name.
    pub name: String,
    /// How many instances are wanted.
    pub wanted: u16,
    /// New instances that are fit for traffic.
    pub new_ready: u16,
    /// New instances that are not.
    pub new_unready: u16,
    /// Old instances that run.
    pub old: u16,
}

/// The rollout of an app.
///
/// # Errors
/// As the gate's; `NotFound` when it does not move.
pub fn rollout(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<RolloutView, ControlError> {
    control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        let app = scope.app(tx, name)?.row;
        let rollout = app
            .rollout
            .clone()
            .ok_or_else(|| authorize::missing("rollout", name))?;
        let number = |id: model::ReleaseId| -> Result<Release, ControlError> {
            Ok(tx.need::<Release>(&id.to_string())?.row)
        };
        let from = app.serving.map(|serving| number(serving.release)).transpose()?;
        let to = number(rollout.to.release)?;
        let all = instances(tx, &app)?;
        let services = to.services.iter().map(|(service, wanted)| Progress {
            name: service.to_string(),
            wanted: app.scale.get(service).copied().unwrap_or(wanted.count),
            new_ready: count(&all, service, |epoch| epoch == rollout.to.epoch, is_ready),
            new_unready: count(&all, service, |epoch| epoch == rollout.to.epoch, |i| !is_ready(i)),
            old: count(&all, service, |epoch| epoch != rollout.to.epoch, |_| true),
        });
        let failures = rollout.failed.iter().map(|id| {
            let found = all.iter().find(|instance| instance.id == *id);
            let why = found.and_then(|instance| match &instance.condition {
                Condition::Unready { why, .. } => Some(why.clone()),
                Condition::Exited { exit, .. } => Some(exit.describe()),
                Condition::Starting { .. }
                | Condition::Ready { .. }
                | Condition::Draining { .. }
                | Condition::Stopping { .. } => None,
            });
            (id.to_string(), why.unwrap_or_default())
        });
        Ok(RolloutView {
            operation: tx.need::<Operation>(&rollout.operation.to_string())?.row,
            from: from.map(|release| release.number),
            services: services.collect(),
            failures: failures.collect(),
            steps_began_at: rollout.begun.values().copied().collect(),
            started_at: rollout.started_at,
            deadline: rollout.deadline,
            to,
        })
    })
}

fn instances(tx: &ReadTx, app: &App) -> Result<Vec<Instance>, ControlError> {
    let all = tx.list::<Instance>(&app.id.to_string())?;
    Ok(all.into_iter().map(|found| found.row).collect())
}

fn is_ready(instance: &Instance) -> bool {
    matches!(instance.condition, Condition::Ready { .. })
}

fn count(
    all: &[Instance],
    wanted: &model::Name,
    is_of: impl Fn(u64) -> bool,
    is: impl Fn(&Instance) -> bool,
) -> u16 {
    let found = all.iter().filter(|instance| match &instance.purpose {
        Purpose::Service { service, epoch, .. } => {
            service == wanted && is_of(*epoch) && instance.condition.is_live() && is(instance)
        }
        Purpose::Job { .. }
        | Purpose::Database { .. }
        | Purpose::Receiver { .. }
        | Purpose::Pooler { .. } => false,
    });
    u16::try_from(found.count()).unwrap_or(u16::MAX)
}
