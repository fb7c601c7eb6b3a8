//! Everything that control touches reports here: its clock, its engine, its edge. So between any two of its steps it may
//! die, people may act, and the rules are asked.
//!
//! Lives here: what may happen between two steps, and the edge. Does not live here: the rules, what people want.
//! Invariants: chance is thrown on the fleet's own thread only, in an order that the seed alone decides; no lock is held
//! while control works.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use control::routes::{EdgeLink, Requests, RouteTable};
use control::{Clock, Control};
use engine::simulated::{Call, Fate, Simulated, Verb};
use model::{InstanceId, Millis};
use store::{Now, Store};

use crate::dice::Dice;
use crate::mirror::{Event, Mirror};
use crate::people::{self, Deed, People};
use crate::reach::Reach;
use crate::rules;
use crate::trace::Trace;
use crate::without::Without;

/// How long a worker may take in real time on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// One step in so many is control's last.
const DIES: u64 = 150;
/// Between so many steps somebody wants something.
const WANTS: u64 = 60;

/// Control's end. Thrown without the panic message.
pub struct Killed;

fn die() -> ! {
    std::panic::resume_unwind(Box::new(Killed))
}

/// Counts for people.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    pub reach: Reach,
    pub looks: u64,
    pub steps: u64,
    pub crashes: u64,
    pub deeds: u64,
    pub faults: u64,
    pub checks: u64,
}

/// Deaths at chosen steps instead of by chance.
#[derive(Debug, Default)]
pub struct Script {
    /// Of which step control dies, counted from the script's begin or from the death before.
    pub deaths: VecDeque<u64>,
    /// Steps since then.
    pub steps: u64,
}

impl Script {
    fn is_due(&mut self) -> bool {
        self.steps += 1;
        let is_due = self.deaths.front() == Some(&self.steps);
        if is_due {
            self.deaths.pop_front();
            self.steps = 0;
        }
        is_due
    }
}

pub struct Inner {
    pub script: Option<Script>,
    pub now: u64,
    pub moment: rules::Moment,
    pub is_rough: bool,
    /// A look is under way.
    pub is_looking: bool,
    is_acting: bool,
    /// Control dies at its next step, and of what kind that is: an effect's knowledge, say, dies with it.
    doom: Option<&'static str>,
    chance: Dice,
    pub people: People,
    pub mirror: Mirror,
    pub trace: Trace,
    pub broken: Option<String>,
    pub planted: BTreeMap<InstanceId, u64>,
    pub counts: Counts,
    pub table: RouteTable,
    busy: BTreeMap<InstanceId, u64>,
    /// Calls of the engine that were judged.
    pub judged: u64,
    /// The edge refused a table in this look.
    pub has_refused: bool,
    edge: u64,
}

pub struct Nerves {
    home: ThreadId,
    seed: u64,
    without: Without,
    pub engine: Arc<Simulated>,
    inner: Mutex<Inner>,
    control: Mutex<Weak<Control>>,
    store: Mutex<Weak<Store>>,
    /// Workers of this control end at their next write.
    pub workers_die: AtomicBool,
}

impl Nerves {
    pub fn new(seed: u64, without: &Without, engine: Arc<Simulated>, now: u64) -> Arc<Self> {
        let inner = Inner {
            script: None,
            now,
            moment: rules::Moment { now, opened: now },
            is_rough: false,
            is_looking: false,
            is_acting: false,
            doom: None,
            chance: Dice::new(seed, 1),
            people: People::new(seed),
            mirror: Mirror::default(),
            trace: Trace::default(),
            broken: None,
            planted: BTreeMap::new(),
            counts: Counts::default(),
            table: RouteTable::default(),
            busy: BTreeMap::new(),
            judged: 0,
            has_refused: false,
            edge: 1,
        };
        let nerves = Arc::new(Self {
            home: std::thread::current().id(),
            seed,
            without: without.clone(),
            engine,
            inner: Mutex::new(inner),
            control: Mutex::new(Weak::new()),
            store: Mutex::new(Weak::new()),
            workers_die: AtomicBool::new(false),
        });
        let judge = Arc::downgrade(&nerves);
        nerves.engine.set_judge(Arc::new(move |call| {
            judge.upgrade().map_or(Fate::Happens, |nerves| nerves.judge(call))
        }));
        nerves
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn belongs_to(&self, control: &Arc<Control>, store: &Arc<Store>) {
        *self.control.lock().expect("no panic") = Arc::downgrade(control);
        *self.store.lock().expect("no panic") = Arc::downgrade(store);
    }

    fn control(&self) -> Option<Arc<Control>> {
        self.control.lock().expect("no panic").upgrade()
    }

    /// The clock of one life of control.
    pub fn clock(self: &Arc<Self>) -> Clock {
        let nerves = Arc::clone(self);
        Clock::new(move || {
            if std::thread::current().id() == nerves.home {
                nerves.between("a write");
            } else if nerves.workers_die.load(Ordering::SeqCst) {
                die();
            }
            Now::at(nerves.inner().now)
        })
    }

    /// Between two steps of control.
    fn between(&self, next: &str) {
        let deed = {
            let inner = &mut *self.inner();
            inner.counts.steps += 1;
            if inner.is_acting || !inner.is_rough || !inner.is_looking {
                return;
            }
            if let Some(kind) = inner.doom.take() {
                inner.counts.reach.note(kind);
                inner.trace.note(format!("control dies before {next}"));
                None
            } else if let Some(script) = &mut inner.script {
                if !script.is_due() {
                    return;
                }
                inner.trace.note(format!("control dies before {next}"));
                None
            } else if inner.chance.one_in(DIES) && self.without.has("deaths") {
                let kind = format!("control dies before {next}");
                inner.counts.reach.note(&kind);
                inner.trace.note(kind);
                None
            } else if inner.chance.one_in(WANTS) && self.without.has("interruptions") {
                Some(())
            } else {
                return;
            }
        };
        self.wait_workers();
        match deed {
            Some(()) => self.deed(),
            None => die(),
        }
    }

    /// Somebody does something.
    pub fn deed(&self) {
        let Some(control) = self.control() else { return };
        self.catch_up();
        let deed = {
            let inner = &mut *self.inner();
            inner.counts.deeds += 1;
            inner.is_acting = true;
            inner.people.choose(&inner.mirror, &self.engine)
        };
        if !deed.app().is_none_or(|app| self.without.has(app)) {
            self.inner().is_acting = false;
            return;
        }
        let said = people::act(&control, &deed);
        let inner = &mut *self.inner();
        inner.is_acting = false;
        if said.is_ok() {
            for kind in people::kinds(&inner.mirror, &deed) {
                inner.counts.reach.note(kind);
            }
        }
        if let Some((app, read)) = deed.read() {
            let is_current = people::generation(&inner.mirror, app) == Some(read);
            let is_stale = matches!(said, Err(control::ControlError::Stale { .. }));
            if is_current {
                inner.counts.reach.note("a change of what was read in time");
            } else if is_stale {
                inner.counts.reach.note("a change of what was read too long ago");
            }
            inner.mirror.checks += 1;
            if is_stale == is_current && (is_stale || said.is_ok()) {
                let broken = format!(
                    "generation {read} of {app} was read, and the change of it was answered so: {said:?}"
                );
                inner.broken.get_or_insert(broken);
            }
        }
        let told = match &deed {
            Deed::Cancel { operation } => format!("cancel o{}", inner.mirror.number(*operation)),
            other => format!("{other:?}"),
        };
        let answer = said
            .as_ref()
            .map_or_else(control::ControlError::code, |_| "accepted");
        inner.trace.note(format!("people: {told}: {answer}"));
    }

    /// Waits until each worker has ended or waits for an image.
    pub fn wait_workers(&self) {
        let (Some(weak), begin) = (
            Some(self.control.lock().expect("no panic").clone()),
            Instant::now(),
        ) else {
            return;
        };
        // The fleet's, the reconciler's, and during a look the look's own.
        let own = 2 + usize::from(self.inner().is_looking);
        while weak.strong_count() > own + self.engine.fetching() {
            assert!(begin.elapsed() < PATIENCE, "a worker does not end");
            std::thread::yield_now();
        }
    }

    /// Reads what was committed, and judges it.
    pub fn catch_up(&self) {
        let Some(store) = self.store.lock().expect("no panic").upgrade() else {
            return;
        };
        let inner = &mut *self.inner();
        for event in inner.mirror.catch_up(&store) {
            let broken = match event {
                Event::Note(line) => {
                    inner.trace.note(line);
                    continue;
                }
                Event::Broken(why) => why,
                Event::Moved(app, returning) => {
                    let Some(app) = inner.mirror.apps.get(&app).filter(|app| !app.deleting) else {
                        continue;
                    };
                    inner.mirror.checks += 1;
                    match rules::is_alone(&inner.mirror, app, returning.as_ref(), &inner.table, inner.now) {
                        Ok(()) => continue,
                        Err(why) => why,
                    }
                }
                Event::Serves(app) => {
                    let Some(app) = inner.mirror.apps.get(&app).filter(|app| !app.deleting) else {
                        continue;
                    };
                    inner.mirror.checks += 1;
                    match rules::is_announced(&inner.mirror, app, &inner.table) {
                        Ok(()) => continue,
                        Err(why) => why,
                    }
                }
            };
            inner.broken.get_or_insert(broken);
        }
    }

    /// What becomes of an engine's call. Starts come from several threads: they get their fate from who they are.
    fn judge(&self, call: &Call) -> Fate {
        let is_home = std::thread::current().id() == self.home;
        if is_home {
            self.between(match call.verb {
                Verb::Start => "a start",
                Verb::Stop => "a stop",
                Verb::Remove => "a removal",
            });
            self.check(call);
        }
        let inner = &mut *self.inner();
        if !inner.is_rough || inner.is_acting || !inner.is_looking {
            return Fate::Happens;
        }
        if let Some(script) = &mut inner.script {
            // Starts run on threads of their own: control dies with the first step after this one that is not made.
            if !is_home && script.is_due() {
                inner.doom = Some("control dies before a start");
                return Fate::Fails;
            }
            return Fate::Happens;
        }
        let mut dice = match call.uid_range {
            Some(uid) if !is_home => {
                Dice::new(self.seed, 1000 + u64::from(uid) * 64 + u64::from(call.before))
            }
            Some(_) | None => inner.chance.clone(),
        };
        let fate = match (call.verb, dice.roll(60)) {
            (_, 0..=4) => Fate::Fails,
            (_, 5..=7) => Fate::FailsAfterwards,
            (Verb::Start, 8) => Fate::IsForgotten,
            (Verb::Stop | Verb::Remove, 8..=12) => Fate::IsForgotten,
            (Verb::Start | Verb::Stop, 13..=18) => Fate::IsLate(Millis::new(dice.roll(9000))),
            _ => Fate::Happens,
        };
        let (dies, dies_before) = (dice.one_in(40), dice.one_in(40));
        if is_home {
            inner.chance = dice;
        }
        if call.before > 0 {
            inner.counts.reach.note("the same call again");
        }
        if !self.without.has("engine") {
            return Fate::Happens;
        }
        // Starts run on threads of their own: control dies with the first write after them.
        if dies_before && !is_home && self.without.has("deaths") {
            inner.doom = Some("control dies before a start");
            return Fate::Fails;
        }
        match fate {
            Fate::Happens => {}
            Fate::Fails => inner.counts.reach.note("an engine that refuses"),
            Fate::FailsAfterwards => inner.counts.reach.note("an engine whose answer is lost"),
            Fate::IsForgotten => inner.counts.reach.note("an engine that forgets"),
            Fate::IsLate(_) => inner.counts.reach.note("an engine that is late"),
        }
        if dies && self.without.has("deaths") {
            inner.doom = Some("control dies after an effect");
        }
        if fate != Fate::Happens {
            inner.counts.faults += 1;
            let uid = call
                .uid_range
                .map_or("an orphan".to_owned(), |uid| format!("i{uid}"));
            inner
                .trace
                .note(format!("engine: {:?} of {uid}: {fate:?}", call.verb));
        }
        fate
    }

    /// The rules about a call, before it.
    fn check(&self, call: &Call) {
        let Some(control) = self.control() else { return };
        self.catch_up();
        let bound = control.settings.drain_bound;
        drop(control);
        let inner = &mut *self.inner();
        let planted = inner.planted.get(&call.id).copied();
        let result = match call.verb {
            Verb::Start => Ok(()),
            Verb::Stop => {
                let is_busy = inner.busy.get(&call.id).is_some_and(|until| *until > inner.now);
                rules::stop(
                    &mut inner.mirror,
                    call.id,
                    &inner.table,
                    is_busy,
                    bound,
                    inner.now,
                )
            }
            Verb::Remove => rules::remove(&mut inner.mirror, call.id, planted, inner.now),
        };
        if let Err(why) = result {
            inner.broken.get_or_insert(why);
        }
    }
}

impl Inner {
    /// The edge dies and comes back with the table on its disk.
    pub fn edge_dies(&mut self) {
        self.edge += 1;
        self.counts.reach.note("another edge");
        self.busy.clear();
        self.trace.note("the edge is another one".to_owned());
    }

    /// Control dies with this look, its workers before it.
    pub fn doom(&mut self) {
        self.doom = Some("workers die first");
    }

    /// Whether control was to die, and lived on.
    pub fn was_doomed(&mut self) -> bool {
        let doom = self.doom.take();
        if let Some(kind) = doom {
            self.counts.reach.note(kind);
        }
        doom.is_some()
    }
}

impl EdgeLink for Nerves {
    fn publish(&self, table: &RouteTable) -> Result<(), String> {
        self.between("a publication");
        let Some(control) = self.control() else {
            return Err("nobody is there".to_owned());
        };
        self.catch_up();
        drop(control);
        let inner = &mut *self.inner();
        if inner.is_rough && inner.chance.one_in(12) && self.without.has("edge") {
            inner.counts.faults += 1;
            inner.counts.reach.note("an edge that refuses a table");
            inner.has_refused = true;
            inner.trace.note("the edge refuses a table".to_owned());
            return Err("refused as the simulation wants".to_owned());
        }
        inner.moment.now = inner.now;
        let judged = rules::table(
            &mut inner.mirror,
            &self.engine,
            &inner.table,
            table,
            &inner.moment,
        );
        if let Err(why) = judged {
            inner.broken.get_or_insert(why);
        }
        let (before, after) = (rules::targets(&inner.table), rules::targets(table));
        for id in before.difference(&after) {
            let takes = if inner.chance.one_in(8) {
                1_000_000
            } else {
                inner.chance.roll(25_000)
            };
            inner.busy.insert(*id, inner.now + takes);
        }
        let known = |id: &InstanceId| inner.mirror.known.get(id).copied().unwrap_or_default();
        let mut line = "routes".to_owned();
        let mut services: Vec<_> = table.services.iter().collect();
        services.sort_by(|a, b| a.app.cmp(&b.app));
        for service in services {
            let mut targets: Vec<u32> = service.targets.iter().map(|target| known(&target.id)).collect();
            targets.sort_unstable();
            line += &format!(" {} {} {targets:?}", service.app, service.release);
        }
        inner.trace.note(line);
        inner.table = table.clone();
        if inner.is_rough && inner.is_looking && inner.chance.one_in(40) && self.without.has("deaths") {
            inner.doom = Some("control dies after an effect");
        }
        Ok(())
    }

    fn busy(&self, instances: &[InstanceId]) -> Result<BTreeSet<InstanceId>, String> {
        let inner = &mut *self.inner();
        if inner.is_rough && inner.chance.one_in(15) && self.without.has("edge") {
            inner.counts.reach.note("an edge that does not answer");
            return Err("not asked as the simulation wants".to_owned());
        }
        let now = inner.now;
        let is_busy = |id: &&InstanceId| inner.busy.get(id).is_some_and(|until| *until > now);
        Ok(instances.iter().filter(is_busy).copied().collect())
    }

    fn requests(&self) -> Result<Vec<Requests>, String> {
        Ok(Vec::new())
    }

    fn generation(&self) -> u64 {
        self.inner().edge
    }
}
