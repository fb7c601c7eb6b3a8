//! One fleet from empty to gone, in virtual time.
//!
//! ```text
//! bursts of deeds and faults, each followed by rest -> calm: everything settles -> one more good deploy of each app,
//! with a crash in it -> the world is what the store wants -> all apps deleted -> nothing is left
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use control::reconcile::Reconciler;
use control::routes::EdgeLink;
use control::{Control, Parts, Settings, places};
use engine::Engine;
use engine::simulated::Simulated;
use model::{Exit, Millis, OperationId, Timestamp};
use store::{MasterKey, Now, Store};

use crate::dice::Dice;
use crate::nerves::{Counts, Killed, Nerves, Script};
use crate::people::{self, APPS, Deed};
use crate::rules;
use crate::without::Without;

/// When the virtual world begins.
const BEGIN: u64 = 1_800_000_000_000;
/// Bounds of operations: short enough that bad ones meet them.
const DEPLOY_DEADLINE: Millis = Millis::seconds(180);
const OPERATION_DEADLINE: Millis = Millis::seconds(120);
const DRAIN_BOUND: Millis = Millis::seconds(20);
/// Control looks every second, told or not.
const UNTOLD: u64 = 1000;
/// After that much quiet time every fleet has come to rest: deadlines, drains, graces and backoffs are shorter.
const REST: u64 = 1_800_000;

/// What became of a fleet that broke no rule.
#[derive(Debug, Clone)]
pub struct Lived {
    pub hash: u64,
    pub virtual_ms: u64,
    pub counts: Counts,
}

/// A rule that does not hold, and what led there.
#[derive(Debug)]
pub struct Broken {
    pub why: String,
    pub tail: String,
}

struct Fleet {
    dir: tempfile::TempDir,
    nerves: Arc<Nerves>,
    without: Without,
    control: Option<Arc<Control>>,
    parts: Option<Parts>,
    reconciler: Option<Reconciler>,
    dice: Dice,
    /// Whether this control has seen the host.
    has_looked: bool,
    /// When a look succeeded last.
    looked_at: u64,
}

/// Lives through a fleet.
pub fn live(seed: u64, without: &Without) -> Result<Lived, Broken> {
    let mut fleet = Fleet::new(seed, without);
    let result = fleet.live();
    let nerves = Arc::clone(&fleet.nerves);
    fleet.close();
    let inner = &mut *nerves.inner();
    inner.trace.close(inner.now);
    match result {
        Ok(()) => {
            let mut counts = std::mem::take(&mut inner.counts);
            counts.checks = inner.mirror.checks;
            counts.reach.add(&inner.mirror.reach);
            Ok(Lived {
                hash: inner.trace.hash(),
                virtual_ms: inner.now - BEGIN,
                counts,
            })
        }
        Err(why) => {
            let tail = inner.trace.tail(|line| inner.mirror.is_about(&why, line));
            Err(Broken { why, tail })
        }
    }
}

/// Something that is done once, with what was there before it.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    Deploy(&'static str),
    BadDeploy,
    Rollback,
    Delete,
}

/// Does a work while control dies at the chosen steps of it: of the first, so many steps after its begin, of each other,
/// so many after the one before. Answers how many steps the last life of control took until nothing was left to do, or
/// none when a death was not reached.
pub fn scripted(work: Work, deaths: &[u64]) -> Result<Option<u64>, String> {
    let without = Without::parse("interruptions,engine,edge,accidents,blindness,deaths");
    let mut fleet = Fleet::new(1, &without);
    let result = fleet.scripted(work, deaths);
    let nerves = Arc::clone(&fleet.nerves);
    fleet.close();
    let tail = |why: String| {
        let inner = &mut *nerves.inner();
        inner.trace.close(inner.now);
        format!("{why}\n{}", inner.trace.tail(|_| true))
    };
    result.map_err(tail)
}

/// In memory where there is such a place: a simulated crash is one of control, not of the machine.
fn dir() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    tempfile::tempdir_in(memory)
        .or_else(|_| tempfile::tempdir())
        .expect("a directory")
}

impl Fleet {
    fn new(seed: u64, without: &Without) -> Self {
        let engine = Arc::new(Simulated::new());
        people::images(&engine);
        let nerves = Nerves::new(seed, without, engine, BEGIN);
        let dice = Dice::new(seed, 3);
        let mut fleet = Self {
            dir: dir(),
            nerves,
            without: without.clone(),
            control: None,
            parts: None,
            reconciler: None,
            dice,
            has_looked: false,
            looked_at: BEGIN,
        };
        fleet.open();
        places::found(fleet.control()).expect("founded");
        // What is there from the beginning is the operator's.
        control::images::adopt(fleet.control()).expect("adopted");
        fleet
    }

    /// What it is made of, for what no use case shows.
    pub fn parts(&self) -> &Parts {
        self.parts.as_ref().expect("open")
    }

    fn control(&self) -> &Arc<Control> {
        self.control.as_ref().expect("open")
    }

    fn open(&mut self) {
        self.nerves.workers_die.store(false, Ordering::SeqCst);
        self.nerves.engine.cut_off(false);
        let key = MasterKey::from_bytes([7; 32]);
        let now = Now::at(self.nerves.inner().now);
        let store = Store::open(&self.dir.path().join("stoa.db"), &key, now).expect("the store opens");
        let settings = Settings {
            deploy_deadline: DEPLOY_DEADLINE,
            operation_deadline: OPERATION_DEADLINE,
            drain_bound: DRAIN_BOUND,
            ..Settings::new(self.dir.path().to_owned())
        };
        let parts = Parts {
            clock: self.nerves.clock(),
            ..Parts::new(
                Arc::new(store),
                Arc::clone(&self.nerves.engine) as Arc<dyn Engine>,
                Arc::clone(&self.nerves) as Arc<dyn EdgeLink>,
                settings,
            )
        };
        let control = Arc::new(Control::new(parts.clone()));
        self.nerves.belongs_to(&control, &parts.store);
        self.parts = Some(parts);
        self.has_looked = false;
        self.reconciler = Some(Reconciler::new(Arc::clone(&control)));
        self.control = Some(control);
    }

    /// Control is gone, and its workers with it.
    fn close(&mut self) {
        self.nerves.inner().is_looking = false;
        self.nerves.workers_die.store(true, Ordering::SeqCst);
        self.nerves.engine.cut_off(true);
        self.nerves.wait_workers();
        // What it did it did now, not when it is back.
        self.nerves.catch_up();
        self.reconciler = None;
        self.control = None;
        self.parts = None;
    }

    /// Control dies between two looks, or has died in one, and comes back after a while.
    fn crash(&mut self, away: u64) -> Result<(), String> {
        self.close();
        self.nerves.inner().counts.crashes += 1;
        if away >= 60_000 {
            self.nerves
                .inner()
                .counts
                .reach
                .note("control is away for a minute");
        }
        self.pass_time(away);
        self.open();
        self.judge()
    }

    fn now(&self) -> u64 {
        self.nerves.inner().now
    }

    fn pass_time(&mut self, span: u64) {
        let now = {
            let inner = &mut *self.nerves.inner();
            let now = inner.now;
            inner.trace.close(now);
            inner.now += span;
            inner.now
        };
        self.nerves.engine.set_now(Timestamp::from_ms(now));
        if self.control.is_some() {
            self.nerves.wait_workers();
        }
    }

    fn judge(&mut self) -> Result<(), String> {
        self.nerves.catch_up();
        match self.nerves.inner().broken.take() {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    /// One look of control at the world, perhaps its last.
    fn look(&mut self) -> Result<(), String> {
        let now = self.now();
        {
            let inner = &mut *self.nerves.inner();
            inner.counts.looks += 1;
            inner.is_looking = true;
            inner.has_refused = false;
            inner.mirror.begin_look();
            if !self.has_looked {
                inner.moment.opened = now;
            }
            let is_blind = inner.is_rough && self.dice.one_in(50) && self.without.has("blindness");
            self.has_looked |= !is_blind;
            if is_blind {
                inner.counts.reach.note("a host that cannot be seen");
                inner.trace.note("the host cannot be seen".to_owned());
                self.nerves.engine.blind(1);
            }
            if inner.is_rough && self.dice.one_in(100) && self.without.has("deaths") {
                inner.trace.note("workers die".to_owned());
                self.nerves.workers_die.store(true, Ordering::SeqCst);
                inner.doom();
            }
        }
        let before = self.parts().store.rev();
        let reconciler = self.reconciler.as_mut().expect("open");
        let result = catch_unwind(AssertUnwindSafe(|| reconciler.pass(Timestamp::from_ms(now))));
        self.nerves.inner().is_looking = false;
        let is_alive = match &result {
            Ok(_) => !self.nerves.inner().was_doomed(),
            Err(cause) if cause.is::<Killed>() => false,
            Err(cause) => {
                let text = cause.downcast_ref::<String>().cloned();
                return Err(format!("control panicked: {}", text.unwrap_or_default()));
            }
        };
        if !is_alive {
            // Doomed by its last step, it died with nobody at work: how far a worker got must not be a matter of chance.
            self.nerves.wait_workers();
            let away = match self.dice.roll(10) {
                0 => 60_000 + self.dice.roll(120_000),
                1 | 2 => self.dice.roll(15_000),
                _ => self.dice.roll(900),
            };
            return self.crash(away);
        }
        self.nerves.wait_workers();
        self.nerves.engine.blind(0);
        self.judge()?;
        if let Ok(Err(cause)) = &result
            && !self.nerves.inner().is_rough
        {
            return Err(format!("a look failed though nothing does: {cause}"));
        }
        if let Ok(Ok(())) = result {
            let is_unchanged = self.parts().store.rev() == before;
            let inner = &mut *self.nerves.inner();
            if is_unchanged {
                inner.counts.reach.note("a look at what did not change");
            } else if now > self.looked_at + UNTOLD {
                // No event woke control: it looked because it was time to.
                inner.counts.reach.note("a change that nobody told control");
            }
            self.looked_at = now;
            let engine = &self.nerves.engine;
            rules::look(&mut inner.mirror, engine, &inner.planted, now, &mut inner.judged)?;
            if !inner.has_refused {
                rules::rejected(&mut inner.mirror, &inner.table)?;
            }
        }
        Ok(())
    }

    /// Something that nobody decided.
    fn accident(&mut self) {
        let victim = people::victim(&self.nerves.inner().mirror, &mut self.dice);
        let which = self.dice.roll(8);
        if !self.without.has("accidents") {
            return;
        }
        match (which, victim) {
            (0, _) => self.nerves.inner().edge_dies(),
            (1, Some((uid, id))) => {
                let orphan = people::orphan(&self.nerves.engine, id);
                let inner = &mut *self.nerves.inner();
                inner.counts.reach.note("an orphan");
                inner.trace.note(format!("an orphan like i{uid}"));
                inner.planted.extend(orphan.map(|id| (id, inner.now)));
            }
            (_, Some((uid, id))) => {
                {
                    let inner = &mut *self.nerves.inner();
                    inner.counts.reach.note("an instance crashes");
                    inner.trace.note(format!("i{uid} crashes"));
                }
                self.nerves.engine.crash(id, Exit::Signal { signal: 11 });
            }
            (_, None) => {}
        }
    }

    fn live(&mut self) -> Result<(), String> {
        let bursts = 3 + self.dice.roll(4);
        for _ in 0..bursts.min(crate::number("STOA_SIM_BURSTS").unwrap_or(u64::MAX)) {
            self.burst()?;
            self.settle_down()?;
            self.idle()?;
        }
        self.come_to_rest()
    }

    fn burst(&mut self) -> Result<(), String> {
        self.nerves.inner().is_rough = true;
        for _ in 0..20 + self.dice.roll(60) {
            if self.dice.one_in(5) {
                self.nerves.deed();
            }
            if self.dice.one_in(12) {
                self.accident();
            }
            self.look()?;
            let span = match self.dice.roll(12) {
                0 => self.dice.roll(20_000),
                _ => 100 + self.dice.roll(2500),
            };
            self.pass_time(span);
            if self.dice.one_in(40) && self.without.has("deaths") {
                {
                    let inner = &mut *self.nerves.inner();
                    inner.counts.reach.note("control dies between two looks");
                    inner.trace.note("control dies between two looks".to_owned());
                }
                let away = self.dice.roll(5000);
                self.crash(away)?;
            }
        }
        // What settles does so among faults, or undisturbed.
        self.nerves.inner().is_rough = self.dice.one_in(3);
        Ok(())
    }

    /// Nobody wants anything new; looks go on until nothing is on its way, for a while.
    fn settle_down(&mut self) -> Result<(), String> {
        let end = self.now() + 300_000;
        while self.now() < end && !rules::is_still(&self.nerves.inner().mirror) {
            self.look()?;
            let span = 500 + self.dice.roll(2500);
            self.pass_time(span);
        }
        self.nerves.inner().is_rough = false;
        Ok(())
    }

    /// Time passes in which little happens: from one change of the world to the next.
    fn idle(&mut self) -> Result<(), String> {
        let end = self.now() + 1_200_000 + self.dice.roll(4_800_000);
        for _ in 0..25 {
            self.look()?;
            self.look()?;
            let now = self.now();
            if now >= end {
                break;
            }
            let next = self.nerves.engine.next_change().map_or(end, |at| at.as_ms() + 1);
            let span = next.min(now + 600_000).max(now + 1000) - now;
            self.pass_time(span);
            if self.dice.one_in(20) {
                self.accident();
            }
        }
        Ok(())
    }

    /// Looks until `is_so`, without any fault.
    fn until(&mut self, what: &str, is_so: impl Fn(&Nerves) -> bool) -> Result<(), String> {
        let end = self.now() + REST;
        while !is_so(&self.nerves) {
            if self.now() > end {
                return Err(format!("never: {what}; {}", self.nerves.inner().mirror.open()));
            }
            self.look()?;
            self.pass_time(1500);
        }
        Ok(())
    }

    fn come_to_rest(&mut self) -> Result<(), String> {
        self.nerves.inner().is_rough = false;
        // A command may run for a day: whoever began one ends it.
        let commands = self.nerves.inner().mirror.commands();
        for operation in commands {
            let ended = people::act(self.control(), &Deed::Cancel { operation });
            ended.map_err(|refused| refused.to_string())?;
        }
        self.until("every operation settles", |nerves| {
            let inner = nerves.inner();
            inner
                .mirror
                .operations
                .values()
                .all(|operation| operation.state.is_settled())
        })?;
        let gone = |nerves: &Nerves| nerves.inner().mirror.apps.values().all(|app| !app.deleting);
        self.until("deleted apps are gone", gone)?;
        // Without a crash: a request to end that was lost is repeated by the same control.
        self.until("what is to end has ended", |nerves| {
            !rules::is_ending(&nerves.inner().mirror)
        })?;
        let mut deploys = Vec::new();
        for app in APPS {
            let source = self
                .nerves
                .inner()
                .people
                .far(&self.nerves.engine, Millis::seconds(8));
            let manifest = people::manifest(app, "good", 2, true, true);
            deploys.push(self.ask(&Deed::Deploy {
                app,
                source,
                manifest,
            })?);
            self.look()?;
            self.pass_time(1000);
        }
        self.crash(2000)?;
        for id in &deploys {
            let id = *id;
            self.until("a good deploy settles", move |nerves| {
                nerves.inner().mirror.operations[&id].state.is_settled()
            })?;
            rules::succeeded(&self.nerves.inner().mirror, id)?;
        }
        self.until("everything is still", |nerves| {
            rules::is_still(&nerves.inner().mirror)
        })?;
        // Orphans have their grace.
        let end = self.now() + 60_000;
        self.until("a minute", |nerves| nerves.inner().now > end)?;
        {
            let inner = &mut *self.nerves.inner();
            rules::rest(&mut inner.mirror, &self.nerves.engine, &inner.table)?;
        }
        for app in APPS {
            self.ask(&Deed::Delete { app })?;
        }
        self.crash(0)?;
        self.until("everything is gone", |nerves| {
            let inner = nerves.inner();
            inner.mirror.apps.is_empty() && rules::seen(&nerves.engine).is_empty()
        })?;
        let inner = &mut *self.nerves.inner();
        if !inner.mirror.instances.is_empty() || !inner.mirror.releases.is_empty() {
            return Err("rows of deleted apps are left".to_owned());
        }
        if !inner.table.services.is_empty() {
            return Err("routes of deleted apps are left".to_owned());
        }
        Ok(())
    }

    /// As [`scripted`].
    fn scripted(&mut self, work: Work, deaths: &[u64]) -> Result<Option<u64>, String> {
        let app = APPS[0];
        let deploy = |nature, count, way: &str| Deed::Deploy {
            app,
            source: "ok".to_owned(),
            manifest: people::manifest(app, nature, count, true, true) + way,
        };
        let before = if matches!(work, Work::Rollback) { 2 } else { 1 };
        for _ in 0..before {
            let first = self.ask(&deploy("good", 2, ""))?;
            self.until_still()?;
            rules::succeeded(&self.nerves.inner().mirror, first)?;
        }
        let deed = match work {
            Work::Deploy(way) => deploy("good", 2, way),
            Work::BadDeploy => deploy("dies", 2, ""),
            Work::Rollback => Deed::Rollback { app },
            Work::Delete => Deed::Delete { app },
        };
        let asked = self.ask(&deed)?;
        {
            let inner = &mut *self.nerves.inner();
            inner.is_rough = true;
            inner.script = Some(Script {
                deaths: deaths.iter().copied().collect(),
                steps: 0,
            });
        }
        self.until_still()?;
        let script = self.nerves.inner().script.take().unwrap_or_default();
        self.nerves.inner().is_rough = false;
        self.until_still()?;
        let end = self.now() + 60_000;
        self.until("a minute, in which orphans go", |nerves| nerves.inner().now > end)?;
        let inner = &mut *self.nerves.inner();
        match work {
            Work::Deploy(_) | Work::Rollback => rules::succeeded(&inner.mirror, asked)?,
            Work::BadDeploy if rules::succeeded(&inner.mirror, asked).is_ok() => {
                return Err("a bad release was let through".to_owned());
            }
            Work::Delete if !inner.mirror.apps.is_empty() => return Err("the app is still there".to_owned()),
            Work::BadDeploy | Work::Delete => {}
        }
        rules::rest(&mut inner.mirror, &self.nerves.engine, &inner.table)?;
        Ok(script.deaths.is_empty().then_some(script.steps))
    }

    fn until_still(&mut self) -> Result<(), String> {
        self.until("everything is still", |nerves| {
            let inner = nerves.inner();
            let mut operations = inner.mirror.operations.values();
            let is_gone = inner.mirror.apps.values().all(|app| !app.deleting);
            is_gone
                && operations.all(|operation| operation.state.is_settled())
                && rules::is_still(&inner.mirror)
        })
    }

    /// Somebody wants something that must be accepted.
    fn ask(&mut self, deed: &Deed) -> Result<OperationId, String> {
        let accepted = people::act(self.control(), deed).map_err(|refused| refused.to_string())?;
        self.judge()?;
        accepted.ok_or_else(|| "no operation".to_owned())
    }
}
