//! What the store says, as one look sees it.
//!
//! Lives here: reading it whole, and bringing it up to date from the revision log when little changed.
//! Does not live here: what the engine and the edge say (`observe`, `publish`).
//! Invariant: a bringing up to date gives what a whole reading would give; now and then one is made anyway, because it
//! also proves that nothing is missing.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    App, AppId, Database, DatabaseId, Environment, EnvironmentId, Instance, InstanceId, Operation,
    OperationId, Release, ReleaseId, Timestamp,
};
use store::{Change, ReadTx, Row, StoreError};

use super::start::Tried;
use super::told::Told;
use crate::planted::{self, Defect};
use crate::transact::put;
use crate::{Control, ControlError, operations};

/// More changes than this are read as the whole.
const FEW: u64 = 500;

/// Desired and observed state as of one revision.
#[derive(Default)]
pub(crate) struct Facts {
    rev: u64,
    pub(crate) environments: BTreeMap<EnvironmentId, Environment>,
    pub(crate) apps: BTreeMap<AppId, App>,
    pub(crate) releases: BTreeMap<ReleaseId, Release>,
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    by_app: BTreeMap<AppId, Vec<Instance>>,
    pub(crate) databases: BTreeMap<DatabaseId, Database>,
    /// Those that are not settled, in the order in which they were accepted.
    pub(crate) operations: BTreeMap<OperationId, Operation>,
    /// Draining instances that the edge has let go of, and since when.
    pub(crate) let_go: BTreeMap<InstanceId, Timestamp>,
    /// Those of them without a request under way.
    pub(crate) idle: BTreeSet<InstanceId>,
    /// Ids of objects that are in the store and cannot be told: what they were about is not touched.
    pub(crate) lost: BTreeSet<String>,
    /// Where starts of this process are at.
    pub(super) tried: Tried,
    /// Who was asked to end already.
    pub(super) told: Told,
}

impl Facts {
    /// Everything, from one snapshot.
    pub(super) fn read(control: &Control) -> Result<Self, ControlError> {
        let facts = control.read(Self::whole)?;
        control.open.learn(facts.rev, &facts.operations);
        Ok(facts)
    }

    /// The same as of now. Costs nothing when nothing changed.
    pub(super) fn refresh(&mut self, control: &Control) -> Result<(), ControlError> {
        if control.store.rev() == self.rev {
            return Ok(());
        }
        control.read(|tx| {
            let end = tx.rev()?;
            let few = (self.rev > 0 && end.saturating_sub(self.rev) <= FEW)
                .then(|| tx.changes_since(self.rev, usize::try_from(FEW).unwrap_or(usize::MAX)));
            match few {
                Some(Ok(changes)) => {
                    for change in &changes {
                        self.apply(change)?;
                    }
                    if changes.iter().any(|change| change.kind == Instance::KIND) {
                        self.sort_by_app();
                    }
                    self.rev = end;
                }
                None | Some(Err(StoreError::Compacted { .. })) => {
                    let (idle, told) = (std::mem::take(&mut self.idle), self.told.clone());
                    let let_go = std::mem::take(&mut self.let_go);
                    let tried = self.tried.clone();
                    *self = Self {
                        let_go,
                        idle,
                        told,
                        tried,
                        ..Self::whole(tx)?
                    };
                }
                Some(Err(cause)) => return Err(cause.into()),
            }
            Ok(())
        })?;
        control.open.learn(self.rev, &self.operations);
        Ok(())
    }

    fn whole(tx: &ReadTx) -> Result<Self, ControlError> {
        let mut lost = BTreeSet::new();
        let mut facts = Self {
            rev: tx.rev()?,
            environments: all::<Environment, _>(tx, &mut lost, |environment| environment.id)?,
            apps: all::<App, _>(tx, &mut lost, |app| app.id)?,
            releases: all::<Release, _>(tx, &mut lost, |release| release.id)?,
            instances: all::<Instance, _>(tx, &mut lost, |instance| instance.id)?,
            databases: all::<Database, _>(tx, &mut lost, |database| database.id)?,
            operations: all::<Operation, _>(tx, &mut lost, |operation| operation.id)?,
            ..Self::default()
        };
        facts.lost = lost;
        facts
            .operations
            .retain(|_, operation| !operation.state.is_settled());
        facts.sort_by_app();
        Ok(facts)
    }

    fn apply(&mut self, change: &Change) -> Result<(), ControlError> {
        match change.kind.as_str() {
            Environment::KIND => put(&mut self.environments, change, |one: &Environment| one.id),
            App::KIND => put(&mut self.apps, change, |app: &App| app.id),
            Release::KIND => put(&mut self.releases, change, |release: &Release| release.id),
            Instance::KIND => put(&mut self.instances, change, |instance: &Instance| instance.id),
            Database::KIND => put(&mut self.databases, change, |database: &Database| database.id),
            Operation::KIND => {
                put(&mut self.operations, change, |operation: &Operation| operation.id)?;
                self.operations
                    .retain(|_, operation| !operation.state.is_settled());
                Ok(())
            }
            // Kinds that no reconciler looks at: people, secrets, uploads.
            _ => Ok(()),
        }
    }

    fn sort_by_app(&mut self) {
        if !planted::is(Defect::AddsInsteadOfSets) {
            self.by_app.clear();
        }
        for instance in self.instances.values() {
            if let Some(app) = instance.purpose.app() {
                self.by_app.entry(app).or_default().push(instance.clone());
            }
        }
    }

    /// Instances of an app, its jobs' included.
    pub(crate) fn of_app(&self, app: AppId) -> &[Instance] {
        self.by_app.get(&app).map_or(&[], Vec::as_slice)
    }

    /// The app an operation works on, while it is there.
    pub(super) fn app_of(&self, operation: &Operation) -> Option<&App> {
        operations::app_of(&operation.work).and_then(|id| self.apps.get(&id))
    }

    /// The release an app serves.
    pub(super) fn serving(&self, app: &App) -> Option<&Release> {
        app.serving
            .and_then(|serving| self.releases.get(&serving.release))
    }
}

fn all<R: Row, I: Ord>(
    tx: &ReadTx,
    lost: &mut BTreeSet<String>,
    id: impl Fn(&R) -> I,
) -> Result<BTreeMap<I, R>, ControlError> {
    let (rows, mut unknown) = crate::transact::all::<R>(tx)?;
    lost.append(&mut unknown);
    Ok(rows.into_iter().map(|row| (id(&row), row)).collect())
}
