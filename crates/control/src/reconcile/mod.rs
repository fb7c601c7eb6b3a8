//! Brings the world to what the store wants.
//!
//! ```text
//!  look at the engine -> write down what is seen (observe) -> per app: decide (plan), store, act (apps)
//!  -> databases (woken when somebody came) -> publish names and routes (publish) -> what no one owns goes (orphans) -> wait for the bell
//! ```
//! Invariants: each pass reads the facts again and takes no hint about what changed; intent is stored before the
//! effect; start, retry and recovery after a crash are this one path. Long work (builds, images, making a database)
//! runs beside it, one worker an operation, and only ever reports through the store.

mod apps;
mod databases;
mod deploy;
mod facts;
mod house;
mod jobs;
mod keys;
mod observe;
mod operations;
mod orphans;
mod publish;
mod start;
mod storage;
mod told;
mod workers;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use model::{InstanceId, Timestamp};

pub(crate) use apps::Routed;
pub(crate) use databases::{pooler_of, refused, volume_of};
pub(crate) use facts::Facts;
use observe::Look;

use crate::{Control, ControlError};

/// At least that often everything is looked at, rung or not: a missed event is repaired within this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the end of the audit log is sealed.
const SEAL_EVERY: Duration = Duration::from_secs(60);
/// Housekeeping (uploads, releases, images, revisions) happens that often.
const KEEP_HOUSE_EVERY: Duration = Duration::from_secs(300);
/// The store is read whole that often, changed or not.
const READ_WHOLE_EVERY: Duration = Duration::from_secs(60);

/// A part of housekeeping: what began to work when, and what time it is.
type Chore = fn(&Control, SystemTime, Timestamp) -> Result<(), ControlError>;

/// The reconcilers of one installation.
pub struct Reconciler {
    control: Arc<Control>,
    workers: workers::Workers,
    published: publish::Published,
    /// Orphans seen, and since when: nothing is removed at first sight.
    orphans: BTreeMap<InstanceId, Timestamp>,
    /// What the store said at the end of the last look.
    facts: Option<Facts>,
    read_whole: Option<Timestamp>,
    told: told::Told,
    tried: start::Tried,
    /// When this process began, by the clock of files.
    begun: SystemTime,
    /// When this process looked first.
    first: Option<Timestamp>,
    house_kept: Option<Timestamp>,
    sealed: Option<Timestamp>,
}

impl Reconciler {
    /// Reconcilers that have not looked yet.
    #[must_use]
    pub fn new(control: Arc<Control>) -> Self {
        Self {
            workers: workers::Workers::new(control.settings.builds),
            published: publish::Published::default(),
            orphans: BTreeMap::new(),
            facts: None,
            read_whole: None,
            told: told::Told::default(),
            tried: start::Tried::default(),
            begun: SystemTime::now(),
            first: None,
            house_kept: None,
            sealed: None,
            control,
        }
    }

    /// Works until `stop` is set. Leaves everything running.
    pub fn run(mut self, stop: &AtomicBool) {
        let ringer = Arc::clone(&self.control);
        let measured = Arc::clone(&self.control);
        let mut rung = 0;
        std::thread::scope(|scope| {
            let (kept, received, drilled, carried, idle, pooled, logged) = (
                Arc::clone(&measured),
                Arc::clone(&measured),
                Arc::clone(&measured),
                Arc::clone(&measured),
                Arc::clone(&measured),
                Arc::clone(&measured),
                Arc::clone(&measured),
            );
            scope.spawn(move || storage::watch(&measured, stop));
            scope.spawn(move || databases::watch_archives(&kept, stop));
            scope.spawn(move || databases::watch_receipts(&received, stop));
            scope.spawn(move || databases::watch_drills(&drilled, stop));
            scope.spawn(move || databases::watch_poolers(&pooled, stop));
            scope.spawn(move || databases::watch_uploads(&carried, stop));
            scope.spawn(move || databases::watch_idle(&idle, stop));
            scope.spawn(move || databases::watch_valkeys(&logged, stop));
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
                match catch_unwind(AssertUnwindSafe(|| self.pass(Timestamp::now()))) {
                    Ok(Ok(())) => {}
                    // A defect of ours must not end the care for everything; the next look begins from the store.
                    Err(_) => {
                        self.facts = None;
                        tracing::error!("a look at the world ended by a defect; it is repeated");
                    }
                    Ok(Err(cause)) => {
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
    /// When the world or the store cannot be read: nothing is concluded from that. Else the first thing that failed;
    /// what does not depend on it was done.
    pub fn pass(&mut self, now: Timestamp) -> Result<(), ControlError> {
        let control = Arc::clone(&self.control);
        let seen = control.engine.observe()?;
        let mut facts = self.facts(&control, now)?;
        facts.tried = self.tried.clone();
        facts.tried.forget(&facts);
        observe::write_down(&control, &facts, &seen, Look::after(self.first, now), now)?;
        self.first.get_or_insert(now);
        facts.refresh(&control)?;
        facts.let_go = self.published.let_go(&control, &facts, now);
        facts.idle = self.published.idle(&control);
        facts.told = self.told.clone();
        facts.told.forget(&facts);
        let lingering = self.orphans(&control, &facts, &seen, now);
        operations::advance(&control, &self.workers, &mut facts, now)?;
        let mut routed = BTreeMap::new();
        let mut failed = None;
        for app in facts.apps.values() {
            let published = &mut self.published;
            let mut announce = |mine: &apps::Routed| {
                published.publish(&control, &facts, BTreeMap::from([(app.id, mine.clone())]))
            };
            match apps::advance(&control, &facts, app, now, &mut announce) {
                Ok(mine) => routed.extend(mine.map(|mine| (app.id, mine))),
                Err(cause) => {
                    // One app's trouble is its own: the others go on, and its routes stay as they were.
                    tracing::error!(app = %app.name, %cause, source = ?std::error::Error::source(&cause), "could not advance the app");
                    failed = Some(cause);
                }
            }
        }
        databases::wake(&control, &facts);
        facts.refresh(&control)?;
        databases::advance(&control, &facts, &lingering, now);
        jobs::sweep(&control, &facts, now);
        facts.refresh(&control)?;
        let started = start::pending(&control, &facts, now);
        facts.refresh(&control)?;
        // What was not taken is offered again at the next look.
        let _obeyed = self.published.publish(&control, &facts, routed);
        self.published.end_look();
        self.facts = Some(facts);
        self.keep_house(&control, now);
        self.seal_audit(&control, now);
        started?;
        failed.map_or(Ok(()), Err)
    }

    /// Measures once what takes room, and acts on it. Public so that tests need not wait.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn measure(&mut self) -> Result<(), ControlError> {
        let room = storage::Room::default();
        storage::measure(&self.control, &room, &AtomicBool::new(false))?;
        let (_, orders) = storage::look(&self.control, &room)?;
        for order in orders {
            storage::carry_out(&self.control, &room, order);
        }
        Ok(())
    }

    /// What the last look ended with, brought up to date; read whole at the first look and every now and then.
    fn facts(&mut self, control: &Control, now: Timestamp) -> Result<Facts, ControlError> {
        let is_old = self
            .read_whole
            .is_none_or(|last| now.since(last).as_duration() >= READ_WHOLE_EVERY);
        match self.facts.take().filter(|_| !is_old) {
            Some(mut facts) => {
                facts.refresh(control)?;
                Ok(facts)
            }
            None => {
                let facts = Facts::read(control)?;
                self.read_whole = Some(now);
                Ok(facts)
            }
        }
    }

    /// Keeps the end of the audit log in its file, from a while after the start: a control that an upgrade takes back
    /// at once has sealed nothing that the one before it does not know.
    fn seal_audit(&mut self, control: &Control, now: Timestamp) {
        let last = *self.sealed.get_or_insert(now);
        if now.since(last).as_duration() < SEAL_EVERY {
            return;
        }
        self.sealed = Some(now);
        if let Err(cause) = crate::audit::seal(control) {
            tracing::error!(%cause, "the end of the audit log could not be sealed; see: stoa audit verify");
        }
    }

    fn keep_house(&mut self, control: &Control, now: Timestamp) {
        if self
            .house_kept
            .is_some_and(|last| now.since(last).as_duration() < KEEP_HOUSE_EVERY)
        {
            return;
        }
        self.house_kept = Some(now);
        let chores: [(&str, Chore); 8] = [
            ("uploads", |control, _, now| crate::uploads::collect(control, now)),
            ("sessions", |control, _, now| crate::people::collect(control, now)),
            ("operations", house::operations),
            ("releases", |control, _, _| house::releases(control)),
            ("revisions", |control, _, now| house::revisions(control, now)),
            ("images", |control, _, _| house::images(control)),
            ("templates", |control, _, _| house::templates(control)),
            ("logs", |control, _, _| house::logs(control)),
        ];
        // One's trouble is its own: what fills the disk meanwhile may be another's.
        for (what, chore) in chores {
            if let Err(cause) = chore(control, self.begun, now) {
                tracing::warn!(what, %cause, source = ?std::error::Error::source(&cause), "housekeeping failed; it is repeated later");
            }
        }
    }
}
