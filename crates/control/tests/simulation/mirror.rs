//! The store as its change log tells it: every committed version of every row, judged in the order of the commits.
//!
//! Lives here: rules about what may follow what. Does not live here: rules about the edge and the engine (`rules`).

use std::collections::{BTreeMap, BTreeSet};

use model::app::Returning;
use model::operation::Work;
use model::{
    App, AppId, Condition, Exit, Instance, InstanceId, Name, Operation, OperationId, OperationState, Purpose,
    Release, ReleaseId, ReleaseState, Strategy,
};
use store::{Change, Op, Row, Store};

use crate::reach::Reach;

/// Changes read at once.
const AT_ONCE: usize = 2000;

#[derive(Default)]
pub struct Mirror {
    rev: u64,
    pub apps: BTreeMap<AppId, App>,
    pub releases: BTreeMap<ReleaseId, Release>,
    pub instances: BTreeMap<InstanceId, Instance>,
    pub operations: BTreeMap<OperationId, Operation>,
    /// Every instance that ever had a row, by its range of user ids.
    pub known: BTreeMap<InstanceId, u32>,
    /// When an instance was last seen to begin draining.
    pub drained_at: BTreeMap<InstanceId, u64>,
    /// The operations in the order in which they were accepted.
    numbers: BTreeMap<OperationId, usize>,
    names: BTreeMap<AppId, String>,
    /// Whose each instance and each operation of the trace is, by its name there.
    owners: BTreeMap<String, String>,
    passed: BTreeSet<(ReleaseId, Name)>,
    job_runs: BTreeSet<(OperationId, Name)>,
    begun: BTreeSet<OperationId>,
    last_begun: BTreeMap<AppId, OperationId>,
    last_epoch: BTreeMap<AppId, u64>,
    /// The generation of each app.
    pub generations: BTreeMap<AppId, u64>,
    /// Since which look operations are open that should not be.
    pub late: BTreeMap<OperationId, u64>,
    pub reach: Reach,
    /// What was wanted of each app in this look, in order.
    versions: BTreeMap<AppId, Vec<App>>,
    pub checks: u64,
}

/// What the caller must judge itself, or only note.
pub enum Event {
    Note(String),
    Broken(String),
    /// An app serves something else from now on.
    Serves(AppId),
    /// The movement of an app is over.
    Moved(AppId, Option<Returning>),
}

impl Mirror {
    /// Another look begins.
    pub fn begin_look(&mut self) {
        self.versions.clear();
        for app in self.apps.values() {
            self.versions.insert(app.id, vec![app.clone()]);
        }
    }

    /// What was wanted of an app since its look began: which of it control knew, it alone knows.
    pub fn versions<'a>(&'a self, app: &'a App) -> impl Iterator<Item = &'a App> {
        self.versions.get(&app.id).into_iter().flatten().chain([app])
    }

    /// Reads what was committed since.
    pub fn catch_up(&mut self, store: &Store) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let changes = store
                .read(|tx| tx.changes_since(self.rev, AT_ONCE))
                .expect("the change log");
            for change in &changes {
                self.rev = change.rev;
                self.apply(change, &mut events);
            }
            if changes.len() < AT_ONCE {
                return events;
            }
        }
    }

    fn apply(&mut self, change: &Change, events: &mut Vec<Event>) {
        match change.kind.as_str() {
            App::KIND => {
                let row: App = row(change);
                self.generations.insert(row.id, change.generation);
                let before = self.apps.remove(&row.id);
                self.app(before.as_ref(), &row, change.op, events);
                if change.op != Op::Delete {
                    self.versions.entry(row.id).or_default().push(row.clone());
                    self.apps.insert(row.id, row);
                }
            }
            Release::KIND => {
                let row: Release = row(change);
                let before = self.releases.remove(&row.id);
                self.release(before.as_ref(), &row, change.op, events);
                if change.op != Op::Delete {
                    self.releases.insert(row.id, row);
                }
            }
            Instance::KIND => {
                let row: Instance = row(change);
                let before = self.instances.remove(&row.id);
                self.instance(before.as_ref(), &row, change, events);
                if change.op != Op::Delete {
                    self.instances.insert(row.id, row);
                }
            }
            Operation::KIND => {
                let row: Operation = row(change);
                let before = self.operations.remove(&row.id);
                self.operation(before.as_ref(), &row, change.op, events);
                if change.op != Op::Delete {
                    self.operations.insert(row.id, row);
                }
            }
            _ => {}
        }
    }

    fn app(&mut self, before: Option<&App>, row: &App, op: Op, events: &mut Vec<Event>) {
        self.names.insert(row.id, row.name.to_string());
        let name = &row.name;
        if op == Op::Delete {
            let left = self
                .instances
                .values()
                .filter(|one| one.purpose.app() == Some(row.id));
            let live = left.filter(|one| one.condition.is_live()).count();
            self.rule(events, live == 0, || {
                format!("{name} is gone, but {live} of its instances are not")
            });
            events.push(Event::Note(format!("{name} is gone")));
            return;
        }
        let rollout = |app: Option<&App>| app.and_then(|app| app.rollout.clone());
        match (rollout(before), &row.rollout) {
            (None, Some(new)) => {
                let number = self.number(new.operation);
                events.push(Event::Note(format!(
                    "{name}: o{number} begins epoch {}",
                    new.to.epoch
                )));
                let is_first = self.begun.insert(new.operation);
                self.rule(events, is_first, || format!("o{number} began a second rollout"));
                let last = self.last_begun.insert(row.id, new.operation);
                self.rule(events, last.is_none_or(|last| last < new.operation), || {
                    format!("{name}: o{number} began after a later operation had")
                });
                let last = self.last_epoch.insert(row.id, new.to.epoch);
                self.rule(events, last.is_none_or(|last| last < new.to.epoch), || {
                    format!("{name}: o{number} took an epoch that was")
                });
                let is_open = self
                    .operations
                    .get(&new.operation)
                    .is_some_and(|operation| !operation.state.is_settled());
                self.rule(events, is_open, || {
                    format!("o{number} began a rollout, but it is settled")
                });
            }
            (Some(old), Some(new)) => {
                self.rule(events, old.operation == new.operation && old.to == new.to, || {
                    format!("{name}: a rollout took the place of another")
                });
                self.rule(events, old.failed.is_subset(&new.failed), || {
                    format!("{name}: a failed instance was forgotten")
                });
                let stays = |(step, since)| new.begun.get(step) == Some(since);
                self.rule(events, old.begun.iter().all(stays), || {
                    format!("{name}: a canary's step began twice")
                });
                let stays = old.returning.is_none() || old.returning == new.returning;
                self.rule(events, stays, || format!("{name}: it no longer goes back"));
                if new.begun.len() > old.begun.len() {
                    self.reach.note("a step of a canary begins");
                    let text = format!("{name}: step {} of a canary", new.begun.len());
                    events.push(Event::Note(text));
                }
            }
            (Some(old), None) => {
                let reach = &mut self.reach;
                old.returning
                    .iter()
                    .for_each(|_| reach.note("a movement that is back"));
                events.push(Event::Moved(row.id, old.returning));
            }
            (None, None) => {}
        }
        let serving = before.and_then(|app| app.serving);
        if serving != row.serving {
            let arrived = rollout(before).map(|old| old.to);
            self.rule(events, row.serving.is_some() && row.serving == arrived, || {
                format!("{name} serves what no rollout brought")
            });
            let state = row
                .serving
                .and_then(|serving| self.releases.get(&serving.release));
            let is_proven = state.is_some_and(|release| release.state == ReleaseState::Proven);
            self.rule(events, is_proven, || {
                format!("{name} serves a release that is not proven")
            });
            events.push(Event::Serves(row.id));
        }
        if before.is_some_and(|app| app.scale != row.scale) {
            events.push(Event::Note(format!("{name} is scaled: {:?}", row.scale.values())));
        }
    }

    fn release(&mut self, before: Option<&Release>, row: &Release, op: Op, events: &mut Vec<Event>) {
        let label = self.label(row);
        let text = match (&row.state, op) {
            (_, Op::Delete) => "forgotten",
            (ReleaseState::Pending, _) => "made",
            (ReleaseState::Proven, _) => "proven",
            (ReleaseState::Rejected { .. }, _) => "rejected",
        };
        events.push(Event::Note(format!("{label} {text}")));
        match text {
            "proven" => self.reach.note("a release proven"),
            "rejected" => self.reach.note("a release rejected"),
            _ => {}
        }
        let stays = before.is_none_or(|before| match (&before.state, &row.state) {
            (ReleaseState::Pending, _) | (ReleaseState::Proven, ReleaseState::Proven) => true,
            (ReleaseState::Rejected { .. }, ReleaseState::Rejected { .. }) => true,
            (ReleaseState::Proven | ReleaseState::Rejected { .. }, _) => false,
        });
        self.rule(events, stays, || {
            format!("{label} was decided twice: {:?}", row.state)
        });
    }

    fn instance(
        &mut self,
        before: Option<&Instance>,
        row: &Instance,
        change: &Change,
        events: &mut Vec<Event>,
    ) {
        let uid = row.uid_range;
        if change.op == Op::Delete {
            let is_over = !row.condition.is_live();
            self.rule(events, is_over, || format!("i{uid} was forgotten while it lives"));
            return;
        }
        let condition = condition(&row.condition);
        if before.map(|before| before.condition.clone()) != Some(row.condition.clone()) {
            events.push(Event::Note(format!("i{uid} {} {condition}", self.purpose(row))));
        }
        if let Condition::Draining { since } = row.condition {
            self.drained_at.entry(row.id).or_insert(since.as_ms());
        }
        let stays =
            before.is_none_or(|before| before.condition.is_live() || before.condition == row.condition);
        self.rule(events, stays, || format!("i{uid} lives again"));
        if let (
            Purpose::Job { release, job, .. },
            Condition::Exited {
                exit: Exit::Code { code: 0 },
                ..
            },
        ) = (&row.purpose, &row.condition)
        {
            self.passed.insert((*release, job.clone()));
        }
        if change.op != Op::Insert {
            return;
        }
        self.known.insert(row.id, uid);
        if let Some(app) = row.purpose.app() {
            self.owners.insert(format!("i{uid}"), self.name(app));
        }
        match &row.purpose {
            Purpose::Service {
                release, epoch, app, ..
            } => {
                let Some(release) = self.releases.get(release).cloned() else {
                    events.push(Event::Broken(format!("i{uid} is of an unknown release")));
                    return;
                };
                let label = self.label(&release);
                let is_gated = release
                    .jobs
                    .keys()
                    .all(|job| self.passed.contains(&(release.id, job.clone())));
                self.rule(events, is_gated, || {
                    format!("i{uid}: {label} was started before its gate was passed")
                });
                let beside = self
                    .instances
                    .values()
                    .find(|other| match &other.purpose {
                        Purpose::Service {
                            app: of, epoch: then, ..
                        } => of == app && then != epoch && other.condition.is_live(),
                        Purpose::Job { .. }
                        | Purpose::Database { .. }
                        | Purpose::Receiver { .. }
                        | Purpose::Pooler { .. } => false,
                    })
                    .map(|other| other.uid_range);
                self.rule(
                    events,
                    beside.is_none() || release.strategy != Strategy::Recreate,
                    || format!("i{uid}: {label} runs alone, but there is i{beside:?}"),
                );
                let is_fit = !matches!(release.state, ReleaseState::Rejected { .. });
                self.rule(events, is_fit, || {
                    format!("i{uid}: {label} is rejected, and yet it was started")
                });
                let app = self.apps.get(app);
                let owners = app.and_then(|app| app.serving).into_iter();
                let mut owners = owners.chain(app.and_then(|app| Some(app.rollout.as_ref()?.to)));
                let is_owned = owners.any(|owner| owner.epoch == *epoch && owner.release == release.id);
                self.rule(events, is_owned, || {
                    format!("i{uid}: nobody wanted {label} of epoch {epoch}")
                });
            }
            Purpose::Job { operation, job, .. } => {
                let is_first = self.job_runs.insert((*operation, job.clone()));
                let number = self.number(*operation);
                self.rule(events, is_first, || format!("o{number} ran {job} twice"));
            }
            Purpose::Database { .. } | Purpose::Receiver { .. } | Purpose::Pooler { .. } => {}
        }
    }

    fn operation(&mut self, before: Option<&Operation>, row: &Operation, op: Op, events: &mut Vec<Event>) {
        if before.is_none() {
            let next = self.numbers.len() + 1;
            self.numbers.entry(row.id).or_insert(next);
        }
        let number = self.number(row.id);
        if op == Op::Delete {
            self.rule(events, row.state.is_settled(), || {
                format!("o{number} was forgotten unsettled")
            });
            return;
        }
        if before.is_none() {
            let app = control::operations::app_of(&row.work).map(|app| self.name(app));
            if let Some(app) = &app {
                self.owners.insert(format!("o{number}"), app.clone());
            }
            events.push(Event::Note(format!(
                "o{number} {} {}",
                work(&row.work),
                app.unwrap_or_default()
            )));
        }
        if before.is_some_and(|before| before.deadline != row.deadline) {
            let until = row.deadline.as_ms();
            events.push(Event::Note(format!(
                "o{number} has until {}.{:03}",
                until / 1000,
                until % 1000
            )));
        }
        let was_settled = before.is_some_and(|before| before.state.is_settled());
        if was_settled {
            let stays = before.is_some_and(|before| before.state == row.state);
            self.rule(events, stays, || {
                format!("o{number} was settled twice: {:?}", row.state)
            });
        } else if row.state.is_settled() {
            let how = match &row.state {
                OperationState::Pending | OperationState::Running => String::new(),
                OperationState::Succeeded { .. } => "succeeded".to_owned(),
                OperationState::Failed { failure, .. } => {
                    format!("failed: {} {}", failure.code, failure.message)
                }
                OperationState::Canceled { .. } => "canceled".to_owned(),
            };
            events.push(Event::Note(format!("o{number} {how}")));
            if how == "canceled" {
                self.reach.note("an operation canceled");
            } else if how.starts_with("failed: deadline") {
                self.reach.note("an operation out of time");
            }
        }
    }

    fn rule(&mut self, events: &mut Vec<Event>, holds: bool, broken: impl FnOnce() -> String) {
        self.checks += 1;
        if !holds {
            events.push(Event::Broken(broken()));
        }
    }

    pub fn number(&self, operation: OperationId) -> usize {
        self.numbers.get(&operation).copied().unwrap_or_default()
    }

    /// One-off commands that are not settled.
    pub fn commands(&self) -> Vec<OperationId> {
        let open = self.operations.values().filter(|one| !one.state.is_settled());
        open.filter(|one| matches!(one.work, Work::Run { .. }))
            .map(|one| one.id)
            .collect()
    }

    /// Whether a line of the trace may be about what another one says: it is not about other apps only.
    pub fn is_about(&self, what: &str, line: &str) -> bool {
        let words = |text: &str| -> BTreeSet<String> {
            let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
            let known = |word: &str| match self.owners.get(word) {
                Some(app) => Some(app.clone()),
                None => self.names.values().find(|name| *name == word).cloned(),
            };
            words.filter_map(known).collect()
        };
        let (wanted, mine) = (words(what), words(line));
        wanted.is_empty() || mine.is_empty() || !wanted.is_disjoint(&mine)
    }

    /// What is not settled, for people.
    pub fn open(&self) -> String {
        let open = self
            .operations
            .values()
            .filter(|operation| !operation.state.is_settled());
        let told = open.map(|one| {
            let app = control::operations::app_of(&one.work).map(|app| self.name(app));
            let (number, what) = (self.number(one.id), work(&one.work));
            format!(
                "o{number} {what} {} {:?} {:?} until {}",
                app.unwrap_or_default(),
                one.state,
                one.step,
                one.deadline
            )
        });
        told.collect::<Vec<_>>().join(", ")
    }

    pub fn name(&self, app: AppId) -> String {
        self.names.get(&app).cloned().unwrap_or_default()
    }

    pub fn label(&self, release: &Release) -> String {
        format!("{}/v{}", self.name(release.app), release.number)
    }

    fn purpose(&self, row: &Instance) -> String {
        let label = |id| {
            self.releases
                .get(id)
                .map_or_else(String::new, |release| self.label(release))
        };
        match &row.purpose {
            Purpose::Service {
                release,
                epoch,
                service,
                index,
                ..
            } => {
                format!("{}/{service}.{index} of epoch {epoch}", label(release))
            }
            Purpose::Job {
                release,
                job,
                operation,
                ..
            } => {
                format!("{}/{job} of o{}", label(release), self.number(*operation))
            }
            Purpose::Database { .. } | Purpose::Receiver { .. } | Purpose::Pooler { .. } => {
                "a database".to_owned()
            }
        }
    }
}

fn row<R: Row>(change: &Change) -> R {
    change.row::<R>().expect("of that kind").expect("a row")
}

fn condition(condition: &Condition) -> String {
    match condition {
        Condition::Starting { .. } => "starts".to_owned(),
        Condition::Ready { .. } => "is ready".to_owned(),
        Condition::Unready { .. } => "is unready".to_owned(),
        Condition::Draining { .. } => "drains".to_owned(),
        Condition::Stopping { .. } => "is to end".to_owned(),
        Condition::Exited { exit, .. } => exit.describe(),
    }
}

fn work(work: &Work) -> &'static str {
    match work {
        Work::Deploy { .. } => "deploy",
        Work::Rollback { .. } => "rollback",
        Work::Restart { .. } => "restart",
        Work::Scale { .. } => "scale",
        Work::Run { .. } => "run",
        Work::DeleteApp { .. } => "delete",
        Work::CreateDatabase { .. } => "create database",
        Work::RotateDatabase { .. } => "rotate database",
        Work::RestartDatabase { .. } => "restart database",
        Work::BranchDatabase { .. } => "branch database",
        Work::ResetDatabase { .. } => "reset database",
        Work::BackupDatabase { .. } => "backup database",
        Work::DrillDatabase { .. } => "drill database",
        Work::RestoreDatabase { .. } => "restore database",
        Work::PromoteDatabase { .. } => "promote database",
        Work::UpgradeDatabase { .. } => "upgrade database",
        Work::DestroyDatabase { .. } => "destroy database",
        Work::VerifyTarget => "verify target",
        Work::RotateKey { .. } => "rotate_key",
        Work::Image { .. } => "image",
    }
}
