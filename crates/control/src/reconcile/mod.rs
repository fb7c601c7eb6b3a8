//! Brings the world to what the store wants.
//!
//! ```text
//!  look at the engine -> write down what is seen (observe) -> per app: decide (plan), store, act (apps)
//!  -> databases -> publish names and routes (publish) -> what no one owns goes (orphans) -> wait for the bell
//! ```
//! Invariants: each pass reads the facts again and takes no hint about what changed; intent is stored before the
//! effect; start, retry and recovery after a crash are this one path. Long work (builds, images, making a database)
//! runs beside it, one worker an operation, and only ever reports through the store.

mod apps;
mod databases;
mod deploy;
mod jobs;
mod observe;
mod operations;
mod orphans;
mod publish;
mod start;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model::{App, Database, Instance, InstanceId, Operation, Release, ReleaseId, Timestamp};

use crate::{Control, ControlError};

/// At least that often everything is looked at, rung or not: a missed event is repaired within this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Housekeeping (uploads, images, revisions) happens that often.
const KEEP_HOUSE_EVERY: Duration = Duration::from_secs(300);
/// Revisions of the change log that stay for watchers.
const KEEP_REVISIONS: u64 = 20_000;

/// The reconcilers of one installation.
pub struct Reconciler {
    control: Arc<Control>,
    workers: workers::Workers,
    published: publish::Published,
    /// Orphans seen, and since when: nothing is removed at first sight.
    orphans: BTreeMap<InstanceId, Timestamp>,
    house_kept: Option<Timestamp>,
}

/// What the store says at the beginning of a pass.
pub(crate) struct Facts {
    pub(crate) apps: Vec<App>,
    pub(crate) releases: BTreeMap<ReleaseId, Release>,
    pub(crate) instances: Vec<Instance>,
    pub(crate) databases: Vec<Database>,
    pub(crate) operations: Vec<Operation>,
    /// Instances without a request under way that the edge no longer knows.
    pub(crate) idle: BTreeSet<InstanceId>,
}

impl Reconciler {
    /// Reconcilers that have not looked yet.
    #[must_use]
    pub fn new(control: Arc<Control>) -> Self {
        Self {
            workers: workers::Workers::new(control.settings.builds),
            published: publish::Published::default(),
            orphans: BTreeMap::new(),
            house_kept: None,
            control,
        }
    }

    /// Works until `stop` is set. Leaves everything running.
    pub fn run(mut self, stop: &AtomicBool) {
        let ringer = Arc::clone(&self.control);
        let mut rung = 0;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) {
                    let now = ringer.engine.wait_change(seen, LOOK_EVERY);
                    if now != seen {
                        seen = now;
                        ringer.bell.ring();
                    }
                }
            });
            while !stop.load(Ordering::Relaxed) {
                // The bell's count is taken before looking: what rings meanwhile leads to another look.
                let before = self.control.bell.wait(u64::MAX, Duration::ZERO);
                match self.pass(Timestamp::now()) {
                    Ok(()) => {}
                    Err(cause) => {
                        tracing::error!(%cause, source = ?std::error::Error::source(&cause), "a look at the world failed; it is repeated");
                    }
                }
                rung = self.control.bell.wait(before.max(rung), LOOK_EVERY);
            }
        });
    }

    /// Looks once and does what is to be done now. Public so that tests can move the time.
    ///
    /// # Errors
    /// When the world or the store cannot be read: nothing is concluded from that.
    pub fn pass(&mut self, now: Timestamp) -> Result<(), ControlError> {
        let control = Arc::clone(&self.control);
        let seen = control.engine.observe()?;
        observe::write_down(&control, &seen, now)?;
        let mut facts = self.facts(&control)?;
        self.orphans(&control, &facts, &seen, now);
        operations::advance(&control, &self.workers, &mut facts, now)?;
        let mut routed = BTreeSet::new();
        for app in facts.apps.clone() {
            match apps::advance(&control, &facts, &app, now) {
                Ok(mut mine) => routed.append(&mut mine),
                Err(cause) => {
                    // One app's trouble is its own: the others go on, and its routes stay as they were.
                    tracing::error!(app = %app.name, %cause, source = ?std::error::Error::source(&cause), "could not advance the app");
                    routed.append(&mut self.published.routed_of(app.id));
                }
            }
        }
        databases::advance(&control, &facts, now);
        start::pending(&control, now)?;
        self.published.publish(&control, &routed)?;
        self.keep_house(&control, now);
        Ok(())
    }

    fn facts(&mut self, control: &Control) -> Result<Facts, ControlError> {
        let mut facts = control.read(|tx| {
            let rows = |found: Vec<store::Versioned<Instance>>| found.into_iter().map(|v| v.row).collect();
            let releases = tx.list_all::<Release>()?.into_iter().map(|v| (v.row.id, v.row));
            let operations = tx.list_all::<Operation>()?.into_iter().map(|v| v.row);
            let mut operations: Vec<Operation> = operations.filter(|op| !op.state.is_settled()).collect();
            operations.sort_by_key(|op| op.id);
            Ok(Facts {
                apps: tx.list_all::<App>()?.into_iter().map(|v| v.row).collect(),
                releases: releases.collect(),
                instances: rows(tx.list_all::<Instance>()?),
                databases: tx.list_all::<Database>()?.into_iter().map(|v| v.row).collect(),
                operations,
                idle: BTreeSet::new(),
            })
        })?;
        facts.idle = self.published.idle(control, &facts.instances);
        Ok(facts)
    }

    fn keep_house(&mut self, control: &Control, now: Timestamp) {
        if self
            .house_kept
            .is_some_and(|last| now.since(last).as_duration() < KEEP_HOUSE_EVERY)
        {
            return;
        }
        self.house_kept = Some(now);
        let kept = (|| {
            crate::uploads::collect(control, now)?;
            control.store.write(crate::transact::now(), |tx| {
                tx.compact(KEEP_REVISIONS, now.as_ms())
                    .map(drop)
                    .map_err(ControlError::from)
            })?;
            orphans::collect_images(control)?;
            Ok::<(), ControlError>(())
        })();
        if let Err(cause) = kept {
            tracing::warn!(%cause, "housekeeping failed; it is repeated later");
        }
    }
}
