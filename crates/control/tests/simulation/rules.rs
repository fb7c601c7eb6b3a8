//! What must hold at every step, written a second time from the rows and from what the engine says.
//!
//! Lives here: rules about traffic, about ending and removing, about deadlines, and about rest.
//! Does not live here: rules about the order of commits (`mirror`).

use std::collections::{BTreeMap, BTreeSet};

use control::routes::{RouteTable, RoutedService};
use engine::simulated::Simulated;
use engine::{Engine, Phase};
use model::app::{Returning, Serving};
use model::operation::Work;
use model::{
    App, Condition, Instance, InstanceId, Millis, Name, OperationState, Purpose, Release, ReleaseState,
    Strategy,
};

use crate::mirror::Mirror;

/// Operations settle in the first look after their deadline, or soon after it: an engine may refuse to end a job, and
/// people may delete the app in the middle of that look.
const LATE: Millis = Millis::seconds(30);
/// So long after control came back a failed check proves nothing.
const ADOPTION: u64 = 10_000;
/// What nobody owns stays at least this long.
const ORPHAN_GRACE: u64 = 20_000;
/// For so long what is given up may stand in for what serves, and an edge may refuse to let it go.
const RETURN: Millis = Millis::seconds(60);

pub type Seen = BTreeMap<InstanceId, Phase>;

pub fn seen(engine: &Simulated) -> Seen {
    let seen = engine.observe().expect("it can be seen");
    seen.into_iter().map(|one| (one.id, one.phase)).collect()
}

pub fn targets(table: &RouteTable) -> BTreeSet<InstanceId> {
    let targets = table.services.iter().flat_map(|service| &service.targets);
    targets.map(|target| target.id).collect()
}

fn is_healthy(seen: &Seen, id: InstanceId) -> bool {
    matches!(
        seen.get(&id),
        Some(Phase::Running {
            ready: Some(Ok(())),
            ..
        })
    )
}

/// How many instances of a service of a release there should be.
fn wanted(app: &App, release: &Release, service: &Name) -> usize {
    let own = release.services.get(service).map_or(0, |service| service.count);
    let is_there = release.services.contains_key(service);
    usize::from(
        app.scale
            .get(service)
            .copied()
            .filter(|_| is_there)
            .unwrap_or(own),
    )
}

/// Rows of a service, with the epoch of each.
fn of_service<'a>(
    mirror: &'a Mirror,
    app: &'a App,
    name: &'a Name,
) -> impl Iterator<Item = (u64, &'a Instance)> + Clone {
    mirror
        .instances
        .values()
        .filter_map(move |row| match &row.purpose {
            Purpose::Service {
                app: of,
                service,
                epoch,
                ..
            } if *of == app.id && service == name => Some((*epoch, row)),
            Purpose::Service { .. }
            | Purpose::Job { .. }
            | Purpose::Database { .. }
            | Purpose::Receiver { .. }
            | Purpose::Pooler { .. } => None,
        })
}

fn is_ready(row: &Instance) -> bool {
    matches!(row.condition, Condition::Ready { .. })
}

/// When something is judged.
pub struct Moment {
    pub now: u64,
    /// When this control looked first.
    pub opened: u64,
}

/// What was ready before control came back counts as ready until it can have been asked again.
fn is_adopted(row: &Instance, moment: &Moment) -> bool {
    let is_older = matches!(row.condition, Condition::Ready { since } if since.as_ms() <= moment.opened);
    is_older && moment.now < moment.opened + ADOPTION
}

/// A table that is about to be obeyed.
pub fn table(
    mirror: &mut Mirror,
    engine: &Simulated,
    old: &RouteTable,
    new: &RouteTable,
    moment: &Moment,
) -> Result<(), String> {
    let seen = seen(engine);
    let before = targets(old);
    let asked = engine.asked_to_end();
    for service in &new.services {
        for target in &service.targets {
            mirror.checks += 4;
            let uid = mirror.known.get(&target.id).copied().unwrap_or_default();
            let row = mirror.instances.get(&target.id);
            let row = row.ok_or_else(|| format!("requests go to i{uid}, which has no row"))?;
            let Purpose::Service { release, app, .. } = &row.purpose else {
                return Err(format!("requests go to i{uid}, which serves nobody"));
            };
            if asked.contains(&target.id) {
                return Err(format!("requests go to i{uid}, which was asked to end"));
            }
            if Some(*target.address.ip()) != row.address {
                return Err(format!("requests for i{uid} go to another address"));
            }
            let release = &mirror.releases[release];
            let label = mirror.label(release);
            is_owned(&mirror.apps[app], row, &label)?;
            if before.contains(&target.id) {
                continue;
            }
            if let ReleaseState::Rejected { why } = &release.state {
                return Err(format!(
                    "requests go to i{uid} of {label}, which was rejected: {why}"
                ));
            }
            let is_fit = is_ready(row) && (is_healthy(&seen, target.id) || is_adopted(row, moment));
            if !is_fit && !is_last_resort(mirror, &mirror.apps[app], service, row) {
                let phase = seen.get(&target.id);
                return Err(format!(
                    "i{uid} gets requests, but it is {:?} and {phase:?}",
                    row.condition
                ));
            }
            if release.state == ReleaseState::Pending {
                let app = &mirror.apps[app];
                may_serve_already(mirror, app, release)
                    .map_err(|why| format!("{label} serves before its time: {why}"))?;
            }
        }
    }
    let apps: Vec<App> = mirror
        .apps
        .values()
        .filter(|app| !app.deleting)
        .cloned()
        .collect();
    for app in apps {
        share(mirror, &app, new)?;
        floor(mirror, &app, &seen, (old, new), moment)?;
    }
    Ok(())
}

/// When nobody of its service is ready, requests go to what serves, was ready and still runs.
fn is_last_resort(mirror: &Mirror, app: &App, routed: &RoutedService, row: &Instance) -> bool {
    let serves = |app: &App| app.serving.is_some_and(|serving| is_of(row, serving));
    let mut others = routed
        .targets
        .iter()
        .filter_map(|target| mirror.instances.get(&target.id));
    matches!(row.condition, Condition::Unready { .. })
        && mirror.versions(app).any(serves)
        && !others.any(is_ready)
}

/// Nobody answers but what serves and, until its operation is settled, what a rollout moves to.
fn is_owned(app: &App, row: &Instance, label: &str) -> Result<(), String> {
    let rollout = app.rollout.as_ref().map(|rollout| rollout.to);
    if app
        .serving
        .into_iter()
        .chain(rollout)
        .any(|owner| is_of(row, owner))
    {
        return Ok(());
    }
    let uid = row.uid_range;
    Err(format!(
        "requests go to i{uid} of {label}, which neither serves nor is moved to"
    ))
}

/// A movement is over, says the store: the edge must have let go of everything but what serves. Unless it took no table for
/// as long as a return may last.
pub fn is_alone(
    mirror: &Mirror,
    app: &App,
    returning: Option<&Returning>,
    table: &RouteTable,
    now: u64,
) -> Result<(), String> {
    if returning.is_some_and(|returning| returning.since.plus(RETURN).as_ms() <= now) {
        return Ok(());
    }
    for target in targets(table) {
        let Some(row) = mirror.instances.get(&target) else {
            continue;
        };
        if row.purpose.app() == Some(app.id) && !app.serving.is_some_and(|serving| is_of(row, serving)) {
            return Err(format!(
                "{}'s operation is settled, but i{} of what it left or gave up still gets requests",
                app.name, row.uid_range
            ));
        }
    }
    Ok(())
}

/// After a look whose table the edge took: a rejected release gets nothing.
pub fn rejected(mirror: &mut Mirror, table: &RouteTable) -> Result<(), String> {
    for service in &table.services {
        for target in &service.targets {
            mirror.checks += 1;
            let Some(row) = mirror.instances.get(&target.id) else {
                continue;
            };
            let Purpose::Service { release, .. } = &row.purpose else {
                continue;
            };
            let Some(release) = mirror.releases.get(release) else {
                continue;
            };
            if matches!(release.state, ReleaseState::Rejected { .. }) {
                let label = mirror.label(release);
                return Err(format!(
                    "i{} of {label} keeps its requests, though it was rejected",
                    row.uid_range
                ));
            }
        }
    }
    Ok(())
}

/// Who may have instances of a service, and how many.
fn owners(mirror: &Mirror, app: &App, name: &Name) -> Vec<(Serving, usize)> {
    let all = app
        .serving
        .into_iter()
        .chain(app.rollout.as_ref().map(|rollout| rollout.to));
    let counted =
        all.filter_map(|owner| Some((owner, wanted(app, mirror.releases.get(&owner.release)?, name))));
    counted.collect()
}

fn index(row: &Instance) -> usize {
    match &row.purpose {
        Purpose::Service { index, .. } => usize::from(*index),
        Purpose::Job { .. }
        | Purpose::Database { .. }
        | Purpose::Receiver { .. }
        | Purpose::Pooler { .. } => 0,
    }
}

fn is_of(row: &Instance, owner: Serving) -> bool {
    match &row.purpose {
        Purpose::Service { release, epoch, .. } => *release == owner.release && *epoch == owner.epoch,
        Purpose::Job { .. }
        | Purpose::Database { .. }
        | Purpose::Receiver { .. }
        | Purpose::Pooler { .. } => false,
    }
}

/// An undecided release gets requests only when all of it is ready, or what serves cannot carry them.
fn may_serve_already(mirror: &Mirror, app: &App, release: &Release) -> Result<(), String> {
    let rollout = app
        .rollout
        .as_ref()
        .filter(|rollout| rollout.to.release == release.id);
    let epoch = rollout.ok_or("no rollout moves to it")?.to.epoch;
    let is_complete = release.services.keys().all(|name| {
        let ready = of_service(mirror, app, name).filter(|(of, row)| *of == epoch && is_ready(row));
        ready.count() >= wanted(app, release, name)
    });
    let serving = app
        .serving
        .and_then(|serving| mirror.releases.get(&serving.release));
    let is_short = release.services.keys().any(|name| {
        let others = of_service(mirror, app, name)
            .filter(|(of, row)| *of != epoch && is_ready(row))
            .count();
        mirror.versions(app).any(|app| {
            let before = serving.map_or(0, |serving| wanted(app, serving, name));
            others < before.min(wanted(app, release, name))
        })
    });
    let is_on_trial = match &release.strategy {
        Strategy::Canary { .. } => rollout.is_some_and(|rollout| !rollout.begun.is_empty()),
        Strategy::Rolling { .. } | Strategy::BlueGreen | Strategy::Recreate => false,
    };
    if is_complete || is_short || is_on_trial {
        return Ok(());
    }
    Err("it is not complete, and what served before can carry everything".to_owned())
}

/// A canary gets no more than the part of the last step that began, while anything else answers.
fn share(mirror: &mut Mirror, app: &App, table: &RouteTable) -> Result<(), String> {
    let Some((rollout, _)) = app.rollout.as_ref().zip(app.serving) else {
        return Ok(());
    };
    let release = &mirror.releases[&rollout.to.release];
    let (Strategy::Canary { steps }, ReleaseState::Pending) = (&release.strategy, &release.state) else {
        return Ok(());
    };
    let last = rollout.begun.keys().next_back();
    let Some(step) = last.and_then(|last| steps.each().get(*last)) else {
        return Ok(());
    };
    let label = mirror.label(release);
    for service in &table.services {
        let (mut tried, mut all) = (0, 0);
        for target in &service.targets {
            let row = mirror.instances.get(&target.id);
            all += target.weight;
            if row.is_some_and(|row| is_of(row, rollout.to)) {
                tried += target.weight;
            }
        }
        let most = u32::from(step.share.percent());
        if tried < all && tried * 100 > all * most {
            return Err(format!(
                "{label} is on trial with {most} %, and gets {tried} of {all}"
            ));
        }
    }
    mirror.checks += 1;
    Ok(())
}

/// Nothing healthy loses its requests while fewer than wanted would be left.
fn floor(
    mirror: &mut Mirror,
    app: &App,
    seen: &Seen,
    (old, new): (&RouteTable, &RouteTable),
    moment: &Moment,
) -> Result<(), String> {
    let Some(serving) = app
        .serving
        .and_then(|serving| mirror.releases.get(&serving.release))
    else {
        return Ok(());
    };
    let to = app
        .rollout
        .as_ref()
        .and_then(|rollout| mirror.releases.get(&rollout.to.release));
    let mut broken = Ok(());
    for name in serving.services.keys() {
        // Who scales while control looks is obeyed in this look or in the next.
        let asked: Vec<&Release> = [Some(serving), to].into_iter().flatten().collect();
        let versions = mirror.versions(app);
        let counts = versions.flat_map(|app| asked.iter().map(|release| wanted(app, release, name)));
        let floor = counts.min().unwrap_or_default();
        let id = format!("{}/{name}", app.id);
        let healthy = |table: &RouteTable| -> BTreeSet<InstanceId> {
            let mine = table.services.iter().filter(|service| service.id == id);
            let targets = mine.flat_map(|service| &service.targets).map(|target| target.id);
            let is_there = |target: &InstanceId| {
                let row = mirror.instances.get(target);
                is_healthy(seen, *target) || row.is_some_and(|row| is_ready(row) && is_adopted(row, moment))
            };
            targets.filter(is_there).collect()
        };
        let (had, has) = (healthy(old), healthy(new));
        if has.len() >= had.len().min(floor) {
            continue;
        }
        // What nobody wants any more is held back only while a place of what serves gets its first or second life.
        let mut owners: Vec<(Serving, usize)> = owners(mirror, app, name);
        let returning = app.rollout.as_ref().filter(|rollout| rollout.returning.is_some());
        owners.retain(|(owner, _)| returning.is_none_or(|rollout| rollout.to != *owner));
        let is_own = |row: &Instance| {
            owners
                .iter()
                .any(|(owner, count)| is_of(row, *owner) && index(row) < *count)
        };
        // Nor for longer than a return may last.
        let is_given_up = returning
            .and_then(|rollout| rollout.returning.as_ref())
            .is_some_and(|returning| returning.since.plus(RETURN).as_ms() <= moment.now);
        let keeps_failing = of_service(mirror, app, name).any(|(_, row)| is_own(row) && row.attempt > 0);
        // The last word about an instance was said when it began to drain: other ones may have crashed since.
        let may_go = |id: &InstanceId| {
            mirror.instances.get(id).is_none_or(|row| match row.condition {
                Condition::Draining { since } if since.as_ms() < moment.now => true,
                Condition::Stopping { .. } | Condition::Exited { .. } => true,
                Condition::Draining { .. }
                | Condition::Starting { .. }
                | Condition::Ready { .. }
                | Condition::Unready { .. } => keeps_failing && !is_own(row) || is_given_up,
            })
        };
        if had.difference(&has).filter(|id| !may_go(id)).count() == 0 {
            continue;
        }
        // Programs of which no two may run at once have a gap between them.
        let releases = mirror.instances.values().filter_map(|row| match &row.purpose {
            Purpose::Service { app: of, release, .. } if *of == app.id => mirror.releases.get(release),
            Purpose::Service { .. }
            | Purpose::Job { .. }
            | Purpose::Database { .. }
            | Purpose::Receiver { .. }
            | Purpose::Pooler { .. } => None,
        });
        let mut all = releases.chain([serving]).chain(to);
        if all.any(|release| release.strategy == Strategy::Recreate) {
            continue;
        }
        broken = Err(format!(
            "{}/{name} falls from {} healthy to {}, the floor is {floor}",
            app.name,
            had.len(),
            has.len()
        ));
    }
    mirror.checks += 1;
    broken
}

/// An app serves something else, says the store: the edge must know it already.
pub fn is_announced(mirror: &Mirror, app: &App, table: &RouteTable) -> Result<(), String> {
    let Some(serving) = app
        .serving
        .and_then(|serving| mirror.releases.get(&serving.release))
    else {
        return Ok(());
    };
    let number = format!("v{}", serving.number);
    for name in serving
        .services
        .iter()
        .filter(|(_, service)| !service.routes.is_empty())
        .map(|(name, _)| name)
    {
        let id = format!("{}/{name}", app.id);
        let is_known = table
            .services
            .iter()
            .any(|service| service.id == id && service.release == number);
        if !is_known {
            return Err(format!(
                "{} serves, but the edge does not know it",
                mirror.label(serving)
            ));
        }
    }
    Ok(())
}

/// An instance is asked to end.
pub fn stop(
    mirror: &mut Mirror,
    id: InstanceId,
    table: &RouteTable,
    is_busy: bool,
    drain_bound: Millis,
    now: u64,
) -> Result<(), String> {
    mirror.checks += 3;
    let Some(row) = mirror.instances.get(&id) else {
        return Err("something without a row is asked to end".to_owned());
    };
    let uid = row.uid_range;
    if !matches!(row.condition, Condition::Stopping { .. }) {
        return Err(format!(
            "i{uid} is asked to end, but the store says {:?}",
            row.condition
        ));
    }
    if targets(table).contains(&id) {
        return Err(format!("i{uid} is asked to end while it gets requests"));
    }
    let drained = mirror.drained_at.get(&id).map(|at| now.saturating_sub(*at));
    if is_busy && drained.is_none_or(|drained| drained < drain_bound.as_ms()) {
        return Err(format!(
            "i{uid} is asked to end while it is busy, drained for {drained:?} ms"
        ));
    }
    Ok(())
}

/// What an instance had is removed.
pub fn remove(mirror: &mut Mirror, id: InstanceId, planted: Option<u64>, now: u64) -> Result<(), String> {
    mirror.checks += 1;
    match (mirror.instances.get(&id), planted) {
        (Some(row), _) if row.condition.is_live() => Err(format!(
            "i{} is removed while it is {:?}",
            row.uid_range, row.condition
        )),
        (None, Some(at)) if now.saturating_sub(at) <= ORPHAN_GRACE => {
            Err(format!("an orphan is removed after {} ms", now - at))
        }
        (Some(_) | None, _) => Ok(()),
    }
}

/// After every look that succeeded.
pub fn look(
    mirror: &mut Mirror,
    engine: &Simulated,
    planted: &BTreeMap<InstanceId, u64>,
    now: u64,
    judged: &mut u64,
) -> Result<(), String> {
    let calls = engine.calls();
    let starts = if calls == *judged {
        BTreeMap::new()
    } else {
        engine.starts()
    };
    *judged = calls;
    for (id, starts) in starts {
        mirror.checks += 2;
        if starts > 1 {
            return Err(format!("{:?} was started {starts} times", mirror.known.get(&id)));
        }
        if !mirror.known.contains_key(&id) && !planted.contains_key(&id) {
            return Err("something was started that the store never wanted".to_owned());
        }
    }
    for operation in mirror.operations.values() {
        let is_late = !operation.state.is_settled() && now > operation.deadline.as_ms();
        if !is_late {
            mirror.late.remove(&operation.id);
            continue;
        }
        let since = *mirror.late.entry(operation.id).or_insert(now);
        if now > since + LATE.as_ms() {
            let number = mirror.number(operation.id);
            return Err(format!(
                "o{number} is open {} ms after its deadline",
                now - operation.deadline.as_ms()
            ));
        }
    }
    mirror.checks += 1;
    Ok(())
}

/// Whether something is on its way down.
pub fn is_ending(mirror: &Mirror) -> bool {
    let mut rows = mirror.instances.values();
    rows.any(|row| {
        matches!(
            row.condition,
            Condition::Draining { .. } | Condition::Stopping { .. }
        )
    })
}

/// Whether nothing is on its way.
pub fn is_still(mirror: &Mirror) -> bool {
    let is_at_rest = |row: &Instance| match row.condition {
        Condition::Ready { .. } | Condition::Exited { .. } => true,
        Condition::Starting { .. }
        | Condition::Unready { .. }
        | Condition::Draining { .. }
        | Condition::Stopping { .. } => false,
    };
    mirror
        .operations
        .values()
        .all(|operation| operation.state.is_settled())
        && mirror.apps.values().all(|app| app.rollout.is_none())
        && mirror.instances.values().all(is_at_rest)
}

/// At rest the world is what the store wants, and nothing else.
pub fn rest(mirror: &mut Mirror, engine: &Simulated, table: &RouteTable) -> Result<(), String> {
    let seen = seen(engine);
    let mut expected: BTreeSet<InstanceId> = BTreeSet::new();
    let mut routed: BTreeSet<InstanceId> = BTreeSet::new();
    for app in mirror.apps.values() {
        let release = app
            .serving
            .and_then(|serving| mirror.releases.get(&serving.release));
        let epoch = app.serving.map(|serving| serving.epoch);
        let services = release.map(|release| &release.services).into_iter().flatten();
        for (name, service) in services {
            let rows = of_service(mirror, app, name).filter(|(_, row)| row.condition.is_live());
            let owned = rows.clone().filter(|(of, _)| epoch == Some(*of));
            expected.extend(owned.map(|(_, row)| row.id));
            let live: Vec<&Instance> = rows.map(|(_, row)| row).collect();
            let wanted = release.map_or(0, |release| wanted(app, release, name));
            if live.len() != wanted || !live.iter().all(|row| is_ready(row)) {
                return Err(format!("{}/{name}: {wanted} wanted, there is {live:?}", app.name));
            }
            if service.port.is_some() {
                routed.extend(live.iter().map(|row| row.id));
            }
        }
    }
    let there: BTreeSet<InstanceId> = seen.keys().copied().collect();
    if there != expected {
        let names: Vec<_> = there
            .symmetric_difference(&expected)
            .map(|id| mirror.known.get(id))
            .collect();
        return Err(format!(
            "the host has something else than the store wants: {names:?}"
        ));
    }
    if targets(table) != routed {
        return Err("the edge serves something else than what is ready".to_owned());
    }
    let undecided = mirror
        .releases
        .values()
        .find(|release| release.state == ReleaseState::Pending);
    if let Some(release) = undecided {
        return Err(format!("{} stays undecided for ever", mirror.label(release)));
    }
    let jobs = mirror
        .instances
        .values()
        .filter(|row| matches!(row.purpose, Purpose::Job { .. }));
    if jobs.filter(|row| row.condition.is_live()).count() > 0 {
        return Err("a job still runs".to_owned());
    }
    mirror.checks += 5;
    Ok(())
}

/// What a good deploy that nobody disturbs must come to.
pub fn succeeded(mirror: &Mirror, id: model::OperationId) -> Result<(), String> {
    let operation = &mirror.operations[&id];
    let number = mirror.number(id);
    match &operation.state {
        OperationState::Succeeded { .. } => Ok(()),
        other => Err(format!(
            "o{number}, a good {}, ended so: {other:?}",
            kind(&operation.work)
        )),
    }
}

fn kind(work: &Work) -> &'static str {
    if matches!(work, Work::DeleteApp { .. }) {
        "deletion"
    } else {
        "deploy"
    }
}
