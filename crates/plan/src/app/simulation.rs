//! Thousands of seeded fleets: bad releases, slow starts, hangs, flapping checks, crashes of instances and of ours between
//! storing and acting, twins, scaling, rollbacks and deletion in the middle. Every decision is judged by rules that are
//! written here a second time, from the rows alone; and the planner is broken on purpose to see that they notice.

use std::collections::{BTreeMap, BTreeSet};

use model::app::{Returning, Rollout, Serving};
use model::strategy::{self, Share, Steps};
use model::{
    App, AppId, Condition, Exit, Failure, Health, Id, Instance, InstanceId, Millis, Name, Purpose, Release,
    ReleaseId, ReleaseState, Resources, Service, Strategy, Surge, Timestamp,
};
use uuid::Uuid;

use super::rollout::LOST_EXCUSED;
use super::view::{MUTANT, Mutant};
use super::{Cause, Decision, Facts, Policy, Routes, Start, Step, Verdict, decide};

const GRACE: Millis = Millis::seconds(20);
/// Short enough that flapping releases meet it.
const DEADLINE: Millis = Millis::seconds(45);
/// Long enough for five instances one by one.
const CALM_DEADLINE: Millis = Millis::seconds(180);

/// xorshift64*: replayable, and good enough to reach corners.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Good,
    Slow,
    Hangs,
    CrashesAtStart,
    CrashesLater,
    Flaps,
    FirstIsBad,
}

/// A process as the machine sees it.
struct Process {
    started: u64,
    ready_after: Option<u64>,
    dies_after: Option<u64>,
    flaps: bool,
    stop_at: Option<u64>,
    /// How long requests keep it busy once it drains.
    busy: u64,
}

struct World {
    dice: Dice,
    now: u64,
    made: u128,
    app: App,
    releases: BTreeMap<ReleaseId, Release>,
    natures: BTreeMap<ReleaseId, Nature>,
    rows: BTreeMap<InstanceId, Instance>,
    excused: BTreeSet<InstanceId>,
    processes: BTreeMap<InstanceId, Process>,
    starts: BTreeMap<(ReleaseId, u64, Name, u16), Vec<u64>>,
    published: Routes,
    policy: Policy,
    /// What most releases of this fleet ask for.
    strategy: Strategy,
    epoch: u64,
    /// What people want next: it begins when the movement under way is over.
    wanted: Option<ReleaseId>,
    is_gone: bool,
    is_calm: bool,
    /// Ends of movements by their way: a rule that nothing ever meets proves nothing.
    ends: BTreeMap<(&'static str, &'static str), usize>,
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn draw_strategy(dice: &mut Dice) -> Strategy {
    let rolling = |over, under| Strategy::Rolling {
        surge: Surge::new(over, under).ok(),
    };
    match dice.roll(8) {
        0 => rolling(1, 0),
        1 => rolling(0, 1),
        2 => rolling(1, 1),
        3 => Strategy::default(),
        4 => Strategy::BlueGreen,
        5 | 6 => {
            let mut percent = 0;
            let steps = (0..=dice.roll(3)).map(|_| {
                percent += 1 + u8::try_from(dice.roll(32)).expect("small");
                strategy::Step {
                    share: Share::new(percent).expect("at most 96"),
                    hold: Millis::new(500 + dice.roll(6000)),
                }
            });
            Strategy::Canary {
                steps: Steps::new(steps.collect()).expect("rising"),
            }
        }
        _ => Strategy::Recreate,
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let strategy = draw_strategy(&mut dice);
        let app = App {
            id: AppId::from_uuid(Uuid::from_u128(1)),
            environment: Id::from_uuid(Uuid::from_u128(2)),
            name: name("shop"),
            env: BTreeMap::new(),
            scale: BTreeMap::new(),
            serving: None,
            served_before: Vec::new(),
            rollout: None,
            deleting: false,
        };
        Self {
            dice,
            now: 1_000_000,
            made: 100,
            app,
            releases: BTreeMap::new(),
            natures: BTreeMap::new(),
            rows: BTreeMap::new(),
            excused: BTreeSet::new(),
            processes: BTreeMap::new(),
            starts: BTreeMap::new(),
            published: Routes::default(),
            policy: Policy::default(),
            strategy,
            epoch: 0,
            wanted: None,
            is_gone: false,
            is_calm: false,
            ends: BTreeMap::new(),
        }
    }

    fn id<K: model::id::Kind>(&mut self) -> Id<K> {
        self.made += 1;
        Id::from_uuid(Uuid::from_u128(self.made))
    }

    fn service(&mut self, port: Option<u16>) -> Service {
        Service {
            command: Vec::new(),
            image: None,
            port,
            count: u16::try_from(self.dice.roll(6)).expect("small"),
            resources: Resources::default(),
            health: Health {
                grace: GRACE,
                ..Health::default()
            },
            routes: Vec::new(),
            uses: BTreeSet::new(),
            secrets: BTreeSet::new(),
            stop_grace: model::spec::STOP_GRACE,
        }
    }

    fn release(&mut self, nature: Nature) -> ReleaseId {
        let id = self.id();
        let mut services = BTreeMap::from([(name("web"), self.service(Some(8080)))]);
        if !self.dice.one_in(3) {
            services.insert(name("worker"), self.service(None));
        }
        if self.dice.one_in(4) {
            services.insert(name("admin"), self.service(Some(9090)));
        }
        let strategy = if self.dice.one_in(5) {
            draw_strategy(&mut self.dice)
        } else {
            self.strategy.clone()
        };
        let release = Release {
            id,
            app: self.app.id,
            number: self.releases.len() as u64 + 1,
            created_at: Timestamp::from_ms(self.now),
            operation: self.id(),
            note: String::new(),
            image: format!("sha256:{}", "0".repeat(64)).parse().expect("a digest"),
            images: BTreeMap::new(),
            services,
            jobs: BTreeMap::new(),
            env: BTreeMap::new(),
            manifest_env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            strategy,
            state: ReleaseState::Pending,
        };
        self.releases.insert(id, release);
        self.natures.insert(id, nature);
        id
    }

    /// Asks for a movement; one under way is given up for it.
    fn roll_to(&mut self, release: ReleaseId) {
        self.wanted = Some(release);
        self.turn_back("given up on request");
    }

    /// From now on the movement under way goes back, if it does not yet.
    fn turn_back(&mut self, why: &str) {
        let since = Timestamp::from_ms(self.now);
        if let Some(rollout) = &mut self.app.rollout {
            rollout.returning.get_or_insert(Returning {
                since,
                failure: Failure {
                    code: String::new(),
                    message: why.to_owned(),
                    next_step: String::new(),
                    log_tail: Vec::new(),
                },
            });
        }
    }

    /// Begins what is wanted when nothing is under way.
    fn begin(&mut self) {
        if self.app.rollout.is_some() {
            return;
        }
        let Some(release) = self.wanted.take() else { return };
        self.epoch += 1;
        let started_at = Timestamp::from_ms(self.now);
        let hold = match &self.releases[&release].strategy {
            Strategy::Canary { steps } => steps.hold(),
            Strategy::Rolling { .. } | Strategy::BlueGreen | Strategy::Recreate => Millis::new(0),
        };
        let limit = if self.is_calm { CALM_DEADLINE } else { DEADLINE };
        self.app.rollout = Some(Rollout {
            operation: self.id(),
            to: Serving {
                release,
                epoch: self.epoch,
            },
            started_at,
            deadline: started_at.plus(limit).plus(hold),
            failed: BTreeSet::new(),
            begun: BTreeMap::new(),
            returning: None,
        });
    }

    fn people_act(&mut self) {
        let natures = [
            Nature::Good,
            Nature::Good,
            Nature::Slow,
            Nature::Hangs,
            Nature::CrashesAtStart,
            Nature::CrashesLater,
            Nature::Flaps,
            Nature::FirstIsBad,
        ];
        match self.dice.roll(40) {
            0 | 1 => {
                let nature = natures[usize::try_from(self.dice.roll(8)).expect("small")];
                let release = self.release(nature);
                self.roll_to(release);
            }
            2 => {
                let known: Vec<ReleaseId> = self.releases.keys().copied().collect();
                if let Some(back) = known.get(usize::try_from(self.dice.roll(8)).expect("small")) {
                    self.roll_to(*back);
                }
            }
            3 | 4 => {
                let service = ["web", "worker", "admin"][usize::try_from(self.dice.roll(3)).expect("small")];
                let count = u16::try_from(self.dice.roll(6)).expect("small");
                self.app.scale.insert(name(service), count);
            }
            5 if self.dice.one_in(20) => self.app.deleting = true,
            _ => {}
        }
    }

    /// A process for an instance, as its release's nature has it. What ran once never runs again.
    fn launch(&mut self, instance: InstanceId) {
        let Some(row) = self.rows.get(&instance) else {
            return;
        };
        let Purpose::Service { release, index, .. } = &row.purpose else {
            return;
        };
        if self.processes.contains_key(&instance) {
            return;
        }
        let (nature, index) = (self.natures[release], *index);
        let quick = 100 + self.dice.roll(4000);
        let (ready_after, dies_after) = match nature {
            Nature::Good => (Some(quick), None),
            Nature::Slow => (Some(5000 + self.dice.roll(25_000)), None),
            Nature::Hangs => (None, None),
            Nature::CrashesAtStart => (None, Some(quick / 4)),
            Nature::CrashesLater => (Some(quick), Some(self.dice.roll(40_000))),
            Nature::Flaps => (Some(quick), None),
            Nature::FirstIsBad if index == 0 => (None, Some(quick)),
            Nature::FirstIsBad => (Some(quick), None),
        };
        let accident = !self.is_calm && self.dice.one_in(12);
        let process = Process {
            started: self.now,
            ready_after,
            dies_after: dies_after.or(accident.then(|| self.dice.roll(60_000))),
            flaps: nature == Nature::Flaps,
            stop_at: None,
            busy: if self.dice.one_in(6) {
                u64::MAX
            } else {
                self.dice.roll(8000)
            },
        };
        self.processes.insert(instance, process);
    }

    /// The machine moves the rows, not always at once.
    fn observe(&mut self) {
        let now = Timestamp::from_ms(self.now);
        let ids: Vec<InstanceId> = self.rows.keys().copied().collect();
        for id in ids {
            if !self.is_calm && self.dice.one_in(5) {
                continue;
            }
            let has_port = self.has_port(&self.rows[&id]);
            let flaps_now = self.dice.one_in(6);
            let is_lost = self.dice.one_in(8);
            let row = self.rows.get_mut(&id).expect("listed");
            let Some(process) = self.processes.get(&id) else {
                if let Condition::Stopping { .. } = row.condition {
                    row.condition = Condition::Exited {
                        at: now,
                        exit: Exit::Lost,
                    };
                }
                continue;
            };
            let age = self.now - process.started;
            let is_stopped = process.stop_at.is_some_and(|at| at <= self.now);
            if row.condition.is_live() && (is_stopped || process.dies_after.is_some_and(|after| after <= age))
            {
                let exit = if is_stopped {
                    Exit::Signal { signal: 15 }
                } else if is_lost {
                    Exit::Lost
                } else {
                    Exit::Code { code: 1 }
                };
                row.condition = Condition::Exited { at: now, exit };
                continue;
            }
            let is_up = if has_port {
                process.ready_after.is_some_and(|after| after <= age) && !(process.flaps && flaps_now)
            } else {
                true
            };
            row.condition = match (&row.condition, is_up) {
                (Condition::Starting { .. } | Condition::Unready { .. }, true) => {
                    Condition::Ready { since: now }
                }
                (Condition::Ready { .. }, false) => Condition::Unready {
                    since: now,
                    why: "503".to_owned(),
                },
                (same, _) => same.clone(),
            };
        }
    }

    fn has_port(&self, row: &Instance) -> bool {
        let Purpose::Service { release, service, .. } = &row.purpose else {
            return false;
        };
        self.releases[release].services[service].port.is_some()
    }

    fn idle(&self) -> BTreeSet<InstanceId> {
        let is_idle = |(id, row): (&InstanceId, &Instance)| match row.condition {
            Condition::Draining { since } => {
                let busy = self.processes.get(id).map_or(0, |process| process.busy);
                since.as_ms().saturating_add(busy) <= self.now
            }
            _ => false,
        };
        self.rows
            .iter()
            .filter(|(id, row)| is_idle((id, row)))
            .map(|(id, _)| *id)
            .collect()
    }

    /// One turn: look, decide, be judged, store, act; perhaps die anywhere after the decision.
    fn turn(&mut self) -> Result<Decision, String> {
        self.begin();
        let instances: Vec<Instance> = self.rows.values().cloned().collect();
        let idle = self.idle();
        let facts = Facts {
            app: &self.app,
            releases: &self.releases,
            instances: &instances,
            idle: &idle,
            excused: &self.excused,
            policy: &self.policy,
        };
        let decision = decide(&facts, Timestamp::from_ms(self.now));
        let mut shuffled = instances.clone();
        shuffled.reverse();
        let again = decide(
            &Facts {
                instances: &shuffled,
                ..facts
            },
            Timestamp::from_ms(self.now),
        );
        if again != decision {
            return Err("the same facts gave two answers".to_owned());
        }
        self.judge(&decision)?;
        if !self.we_die() {
            self.store(&decision);
            self.act(&decision)?;
        }
        Ok(decision)
    }

    fn we_die(&mut self) -> bool {
        !self.is_calm && self.dice.one_in(25)
    }

    fn note_end(&mut self, decision: &Decision) {
        let end = match &decision.verdict {
            Some(Verdict::Promote) => "promoted",
            Some(Verdict::Returned) => "returned",
            Some(Verdict::Return { .. } | Verdict::Gone) | None => return,
        };
        let Some(rollout) = &self.app.rollout else { return };
        let way = match self.way(rollout) {
            Expected::Rolling => "rolling",
            Expected::BlueGreen => "blue-green",
            Expected::Canary(_) => "canary",
            Expected::Recreate => "recreate",
        };
        let end = match (way, end) {
            ("canary", "returned") if !rollout.begun.is_empty() => "returned from a step",
            (_, end) => end,
        };
        *self.ends.entry((way, end)).or_default() += 1;
    }

    fn store(&mut self, decision: &Decision) {
        self.note_end(decision);
        let rollout = self.app.rollout.take();
        match (&decision.verdict, rollout) {
            (None, Some(rollout)) => {
                self.app.rollout = Some(Rollout {
                    failed: decision.failed.clone(),
                    begun: decision.begun.clone(),
                    ..rollout
                });
            }
            (Some(Verdict::Promote), Some(rollout)) => {
                let release = self.releases.get_mut(&rollout.to.release).expect("known");
                release.state = ReleaseState::Proven;
                self.app.serving = Some(rollout.to);
            }
            (Some(Verdict::Return { why }), Some(rollout)) => {
                self.app.rollout = Some(Rollout {
                    failed: decision.failed.clone(),
                    begun: decision.begun.clone(),
                    ..rollout
                });
                self.turn_back(&why.to_string());
            }
            (Some(Verdict::Returned), Some(rollout)) => {
                let release = self.releases.get_mut(&rollout.to.release).expect("known");
                if let (ReleaseState::Pending, Some(returning)) = (&release.state, rollout.returning) {
                    release.state = ReleaseState::Rejected {
                        why: returning.failure.message,
                    };
                }
            }
            (Some(Verdict::Gone), _) => self.is_gone = true,
            (None | Some(_), None) => {}
        }
    }

    /// Does the steps; dying in between leaves the rest undone.
    fn act(&mut self, decision: &Decision) -> Result<(), String> {
        let now = Timestamp::from_ms(self.now);
        self.published = decision.routes.clone();
        for step in &decision.steps {
            if self.we_die() {
                return Ok(());
            }
            match step {
                Step::Start(start) => {
                    let id = self.id();
                    self.rows.insert(id, self.row(id, start));
                    self.note_start(start)?;
                    if self.we_die() {
                        return Ok(());
                    }
                    self.launch(id);
                }
                Step::Run { instance } => self.launch(*instance),
                Step::Drain { instance, cause } => {
                    self.excuse(*instance, *cause);
                    self.rows.get_mut(instance).expect("a row").condition =
                        Condition::Draining { since: now };
                }
                Step::Stop { instance, cause } => {
                    self.excuse(*instance, *cause);
                    let row = self.rows.get_mut(instance).expect("a row");
                    if !matches!(row.condition, Condition::Stopping { .. }) {
                        row.condition = Condition::Stopping { since: now };
                    }
                    if self.we_die() {
                        return Ok(());
                    }
                    let takes = self.dice.roll(5000);
                    if let Some(process) = self.processes.get_mut(instance) {
                        process.stop_at.get_or_insert(self.now + takes);
                    }
                }
                Step::Remove { instance } => {
                    self.rows.remove(instance);
                    self.processes.remove(instance);
                }
            }
        }
        // Whoever got through to here has left no intent without its effect.
        let is_intent = |row: &&Instance| matches!(row.condition, Condition::Starting { .. });
        match self
            .rows
            .values()
            .filter(is_intent)
            .find(|row| !self.processes.contains_key(&row.id))
        {
            Some(row) => Err(format!("{} was asked for, but never started", row.id)),
            None => Ok(()),
        }
    }

    fn excuse(&mut self, instance: InstanceId, cause: Cause) {
        if cause == Cause::NotNeeded {
            self.excused.insert(instance);
        }
    }

    fn row(&self, id: InstanceId, start: &Start) -> Instance {
        Instance {
            id,
            purpose: Purpose::Service {
                app: self.app.id,
                release: start.release,
                epoch: start.epoch,
                service: start.service.clone(),
                index: start.index,
            },
            attempt: start.attempt,
            created_at: Timestamp::from_ms(self.now),
            address: None,
            uid_range: 0,
            excused: false,
            condition: Condition::Starting {
                since: Timestamp::from_ms(self.now),
            },
        }
    }

    /// No place starts more often than a capped backoff allows.
    fn note_start(&mut self, start: &Start) -> Result<(), String> {
        let place = (start.release, start.epoch, start.service.clone(), start.index);
        let was_excused = self.rows.values().any(|row| {
            self.excused.contains(&row.id)
                && matches!(&row.purpose, Purpose::Service { release, epoch, service, index, .. }
                    if (*release, *epoch, service.clone(), *index) == place)
        });
        let starts = self.starts.entry(place).or_default();
        if was_excused {
            starts.clear();
        }
        starts.push(self.now);
        match starts
            .len()
            .checked_sub(8)
            .map(|eighth| self.now - starts[eighth])
        {
            Some(span) if span < 10_000 => Err(format!("8 starts of one place within {span} ms: {start:?}")),
            Some(_) | None => Ok(()),
        }
    }

    /// A copy of a row that runs in the same place, as after a restore of an older store.
    fn twin(&mut self) {
        let rows: Vec<Instance> = self
            .rows
            .values()
            .filter(|row| matches!(row.condition, Condition::Ready { .. }))
            .cloned()
            .collect();
        let at = usize::try_from(self.dice.roll(rows.len().max(1) as u64)).expect("small");
        let Some(row) = rows.get(at) else { return };
        let id = self.id();
        let now = Timestamp::from_ms(self.now);
        self.rows.insert(
            id,
            Instance {
                id,
                condition: Condition::Starting { since: now },
                ..row.clone()
            },
        );
        self.launch(id);
    }
}

/// What the rules expect of a movement.
enum Expected<'a> {
    Rolling,
    BlueGreen,
    Canary(&'a Steps),
    Recreate,
}

/// What the rules need to know of a row.
struct Seen {
    id: InstanceId,
    owner: Serving,
    service: Name,
    index: u16,
    condition: Condition,
    is_fit: bool,
    is_active: bool,
    leaves: bool,
}

impl World {
    fn seen(&self, decision: &Decision) -> Vec<Seen> {
        let leaves: BTreeSet<InstanceId> = decision
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Drain { instance, .. } | Step::Stop { instance, .. } => Some(*instance),
                Step::Start(_) | Step::Run { .. } | Step::Remove { .. } => None,
            })
            .collect();
        let seen = |row: &Instance| {
            let Purpose::Service {
                release,
                epoch,
                service,
                index,
                ..
            } = &row.purpose
            else {
                return None;
            };
            let is_fit = match row.condition {
                Condition::Ready { since } => self.has_port(row) || since.as_ms() + 2000 <= self.now,
                _ => false,
            };
            Some(Seen {
                id: row.id,
                owner: Serving {
                    release: *release,
                    epoch: *epoch,
                },
                service: service.clone(),
                index: *index,
                condition: row.condition.clone(),
                is_fit,
                is_active: matches!(
                    row.condition,
                    Condition::Starting { .. } | Condition::Ready { .. } | Condition::Unready { .. }
                ),
                leaves: leaves.contains(&row.id),
            })
        };
        self.rows.values().filter_map(seen).collect()
    }

    /// It serves, was ready, and goes on.
    fn is_last_resort(&self, seen: &Seen) -> bool {
        let is_unready = matches!(seen.condition, Condition::Unready { .. });
        let has_port = self.releases[&seen.owner.release]
            .services
            .get(&seen.service)
            .is_none_or(|service| service.port.is_some());
        is_unready && self.app.serving == Some(seen.owner) && has_port && !seen.leaves
    }

    fn count(&self, owner: Serving, service: &Name) -> u16 {
        let wanted = self.releases[&owner.release].services.get(service);
        wanted.map_or(0, |wanted| {
            self.app.scale.get(service).copied().unwrap_or(wanted.count)
        })
    }

    fn judge(&self, decision: &Decision) -> Result<(), String> {
        let seen = self.seen(decision);
        for id in decision.routes.instances.values().flatten() {
            let row = seen
                .iter()
                .find(|seen| seen.id == *id)
                .ok_or("routed to nothing")?;
            let routed = &decision.routes.instances[&row.service];
            let has_better = seen
                .iter()
                .any(|other| other.is_fit && routed.contains(&other.id));
            if row.leaves || !row.is_fit && (has_better || !self.is_last_resort(row)) {
                return Err(format!(
                    "routed to {id}, which is {:?}, leaving: {}, with better ones: {has_better}",
                    row.condition, row.leaves
                ));
            }
        }
        let nobody = |seen: &&Seen| !decision.routes.instances.contains_key(&seen.service);
        let left_out = |seen: &&Seen| !self.app.deleting && self.is_last_resort(seen);
        if let Some(row) = seen.iter().filter(nobody).find(left_out) {
            return Err(format!("nobody gets requests, though {} served and runs", row.id));
        }
        for start in starts_of(decision) {
            let owner = Serving {
                release: start.release,
                epoch: start.epoch,
            };
            let is_taken = seen.iter().any(|seen| {
                seen.owner == owner
                    && seen.service == start.service
                    && seen.index == start.index
                    && seen.is_active
                    && !seen.leaves
            });
            if is_taken || start.index >= self.count(owner, &start.service) {
                return Err(format!("started a place that is taken or not wanted: {start:?}"));
            }
        }
        self.judge_pairs(decision, &seen)?;
        self.judge_owners(decision, &seen)?;
        let Some(rollout) = self.app.rollout.as_ref().filter(|_| !self.app.deleting) else {
            return Ok(());
        };
        if let Some(returning) = &rollout.returning {
            self.judge_going_back(rollout, returning.since, decision, &seen)?;
            self.judge_return(rollout, decision, &seen)?;
            return match self.way(rollout) {
                Expected::Canary(steps) => self.judge_share(rollout, steps, decision, &seen),
                Expected::Rolling | Expected::BlueGreen | Expected::Recreate => Ok(()),
            };
        }
        self.judge_verdict(rollout, decision, &seen)?;
        self.judge_blame(rollout, decision)?;
        match self.way(rollout) {
            Expected::Rolling => self.judge_bounds(rollout, decision, &seen),
            Expected::BlueGreen => {
                self.judge_old_set(decision, &seen)?;
                self.judge_silence(rollout, decision, &seen)
            }
            Expected::Canary(steps) => {
                self.judge_old_set(decision, &seen)?;
                self.judge_steps(rollout, steps, decision)?;
                self.judge_share(rollout, steps, decision, &seen)
            }
            Expected::Recreate => self.judge_silence(rollout, decision, &seen),
        }
    }

    /// What the rules expect of a movement, from the rows alone.
    fn way(&self, rollout: &Rollout) -> Expected<'_> {
        let to = &self.releases[&rollout.to.release];
        let old = self.app.serving.map(|serving| &self.releases[&serving.release]);
        if to.strategy == Strategy::Recreate || old.is_some_and(|old| old.strategy == Strategy::Recreate) {
            return Expected::Recreate;
        }
        match &to.strategy {
            Strategy::Canary { steps } if old.is_some() && to.state == ReleaseState::Pending => {
                Expected::Canary(steps)
            }
            Strategy::BlueGreen => Expected::BlueGreen,
            Strategy::Rolling { .. } | Strategy::Canary { .. } | Strategy::Recreate => Expected::Rolling,
        }
    }

    fn asks(&self, owner: Serving, strategy: &Strategy) -> bool {
        self.releases[&owner.release].strategy == *strategy
    }

    fn are_apart(&self, one: Serving, other: Serving) -> bool {
        one != other && (self.asks(one, &Strategy::Recreate) || self.asks(other, &Strategy::Recreate))
    }

    /// Whether requests may not go to both: the later one came by blue-green, or one of them bears nobody.
    fn are_unmixed(&self, one: Serving, other: Serving) -> bool {
        let later = if one.epoch > other.epoch { one } else { other };
        self.are_apart(one, other) || one != other && self.asks(later, &Strategy::BlueGreen)
    }

    /// Who may live, and answer, beside whom; in movements and after them.
    fn judge_pairs(&self, decision: &Decision, seen: &[Seen]) -> Result<(), String> {
        let mut living: BTreeSet<(u64, ReleaseId)> = BTreeSet::new();
        let live = seen.iter().filter(|seen| seen.condition.is_live());
        living.extend(live.map(|seen| (seen.owner.epoch, seen.owner.release)));
        living.extend(
            starts_of(decision)
                .into_iter()
                .map(|start| (start.epoch, start.release)),
        );
        let living: Vec<Serving> = living
            .into_iter()
            .map(|(epoch, release)| Serving { release, epoch })
            .collect();
        for (at, one) in living.iter().enumerate() {
            if let Some(other) = living[..at].iter().find(|other| self.are_apart(*one, **other)) {
                return Err(format!("{one:?} and {other:?} live at once"));
            }
        }
        let routed: Vec<&Seen> = decision
            .routes
            .instances
            .values()
            .flatten()
            .filter_map(|id| seen.iter().find(|seen| seen.id == *id))
            .collect();
        let rollout = self.app.rollout.as_ref().map(|rollout| rollout.to);
        let base = match decision.verdict {
            Some(Verdict::Promote) => rollout,
            Some(Verdict::Return { .. } | Verdict::Returned | Verdict::Gone) | None => self.app.serving,
        };
        for one in base.into_iter().chain(rollout) {
            let is_here = routed.iter().any(|seen| seen.owner == one);
            if let Some(other) = routed
                .iter()
                .find(|seen| self.are_unmixed(one, seen.owner))
                .filter(|_| is_here)
            {
                return Err(format!("requests go to {one:?} and to {:?}", other.owner));
            }
        }
        Ok(())
    }

    /// Nothing answers but what serves and, until its movement is over, what that moves to.
    fn judge_owners(&self, decision: &Decision, seen: &[Seen]) -> Result<(), String> {
        let rollout = self.app.rollout.as_ref().map(|rollout| rollout.to);
        let owners = match decision.verdict {
            Some(Verdict::Promote) => [None, rollout],
            Some(Verdict::Returned | Verdict::Gone) => [self.app.serving, None],
            Some(Verdict::Return { .. }) | None => [self.app.serving, rollout],
        };
        let mut routed = decision.routes.instances.values().flatten();
        let is_foreign = |id: &&InstanceId| {
            seen.iter()
                .any(|seen| seen.id == **id && !owners.contains(&Some(seen.owner)))
        };
        match routed.find(is_foreign) {
            Some(id) => Err(format!(
                "{id} answers, {:?}, though neither what serves nor a movement has it",
                decision.verdict
            )),
            None => Ok(()),
        }
    }

    /// A return is over when nothing else is meant to work, and in time.
    fn judge_going_back(
        &self,
        rollout: &Rollout,
        since: Timestamp,
        decision: &Decision,
        seen: &[Seen],
    ) -> Result<(), String> {
        let end = since.as_ms() + self.policy.return_limit.as_ms();
        let others = || {
            seen.iter()
                .filter(|seen| seen.is_active && Some(seen.owner) != self.app.serving)
        };
        match &decision.verdict {
            Some(Verdict::Returned) => match others().next() {
                Some(other) => Err(format!("it is back, but {} is still there", other.id)),
                None => Ok(()),
            },
            // One look more, in which we do not die, ends them all.
            None if self.now < end || others().any(|other| other.leaves) => Ok(()),
            None => Err(format!("since {since} {:?} goes back", rollout.to)),
            Some(other) => Err(format!("a movement that goes back ends with {other:?}")),
        }
    }

    /// Nothing of the new release answers before it is promoted.
    fn judge_silence(&self, rollout: &Rollout, decision: &Decision, seen: &[Seen]) -> Result<(), String> {
        let mut routed = decision.routes.instances.values().flatten();
        let is_new = |id: &InstanceId| seen.iter().any(|seen| seen.id == *id && seen.owner == rollout.to);
        match routed
            .find(|id| is_new(id))
            .filter(|_| decision.verdict.is_none())
        {
            Some(early) => Err(format!("{early} answers before its release is promoted")),
            None => Ok(()),
        }
    }

    /// What serves stays whole until the promotion.
    fn judge_old_set(&self, decision: &Decision, seen: &[Seen]) -> Result<(), String> {
        let Some(serving) = self.app.serving.filter(|_| decision.verdict.is_none()) else {
            return Ok(());
        };
        let places = |with_leaving: bool| -> BTreeSet<(&Name, u16)> {
            let is_old =
                |seen: &&Seen| seen.owner == serving && seen.index < self.count(serving, &seen.service);
            let old = seen.iter().filter(is_old);
            old.filter(|seen| seen.is_fit && (with_leaving || !seen.leaves))
                .map(|seen| (&seen.service, seen.index))
                .collect()
        };
        if let Some((service, index)) = places(true).difference(&places(false)).next() {
            return Err(format!("{service}.{index} was taken from what serves"));
        }
        let is_there = |start: &&Start| start.epoch == serving.epoch;
        for (name, service) in &self.releases[&serving.release].services {
            let wanted = usize::from(self.app.scale.get(name).copied().unwrap_or(service.count));
            let is_mine = |seen: &&Seen| seen.owner == serving && seen.service == *name && seen.is_active;
            let live = seen.iter().filter(is_mine).filter(|seen| !seen.leaves).count();
            let starts = starts_of(decision);
            let started = starts
                .iter()
                .filter(|start| start.service == *name)
                .filter(|start| is_there(start));
            // It may wait for its turn, and for somebody beside whom it must not live.
            let may_wait = seen.iter().any(|seen| {
                let is_resting = seen.owner == serving && seen.service == *name && !seen.is_active;
                is_resting || seen.condition.is_live() && self.are_apart(seen.owner, serving)
            });
            if live + started.count() < wanted && !may_wait {
                return Err(format!("{name} of what serves has {live} of {wanted}"));
            }
        }
        Ok(())
    }

    /// Steps begin in their order, once, and not before the one before was held.
    fn judge_steps(&self, rollout: &Rollout, steps: &Steps, decision: &Decision) -> Result<(), String> {
        let held =
            |number: usize, since: Timestamp| since.plus(steps.each()[number].hold).as_ms() <= self.now;
        for (number, since) in &rollout.begun {
            if decision.begun.get(number) != Some(since) {
                return Err(format!(
                    "step {number} began at {since}, but now {:?}",
                    decision.begun
                ));
            }
        }
        for (number, since) in &decision.begun {
            let is_new = !rollout.begun.contains_key(number);
            let before = number.checked_sub(1);
            let may_begin = before.is_none_or(|before| {
                rollout
                    .begun
                    .get(&before)
                    .is_some_and(|since| held(before, *since))
            });
            if is_new && (since.as_ms() != self.now || !may_begin) {
                return Err(format!("step {number} began too early: {:?}", decision.begun));
            }
        }
        let last = steps.each().len() - 1;
        let is_tried = rollout.begun.get(&last).is_some_and(|since| held(last, *since));
        if decision.verdict == Some(Verdict::Promote) && !is_tried {
            return Err(format!(
                "promoted before its trials were over: {:?}",
                rollout.begun
            ));
        }
        Ok(())
    }

    /// A canary gets no more than its step allows, as long as anything else answers.
    fn judge_share(
        &self,
        rollout: &Rollout,
        steps: &Steps,
        decision: &Decision,
        seen: &[Seen],
    ) -> Result<(), String> {
        if decision.verdict.is_some() {
            return self.judge_return(rollout, decision, seen);
        }
        let begun = decision.begun.last_key_value();
        let share = begun.map_or(0, |(number, _)| u64::from(steps.each()[*number].share.percent()));
        for service in decision.routes.instances.keys() {
            let (mut new, mut all) = (0, 0);
            for (id, weight) in decision.routes.weights(service) {
                let is_new = seen.iter().any(|seen| seen.id == id && seen.owner == rollout.to);
                new += if is_new { u64::from(weight) } else { 0 };
                all += u64::from(weight);
            }
            let is_alone = new == all && share > 0;
            if new * 100 > share * all && !is_alone {
                return Err(format!("{service} gives {new} of {all} to a canary of {share}%"));
            }
            let is_due = share > 0 && new > 0 && new < all;
            if is_due && new * 100 != share * all {
                return Err(format!("{service} gives {new} of {all}, not {share}%"));
            }
        }
        Ok(())
    }

    /// A canary that failed gets nothing any more, as long as anything else answers.
    fn judge_return(&self, rollout: &Rollout, decision: &Decision, seen: &[Seen]) -> Result<(), String> {
        let is_canary = matches!(self.way(rollout), Expected::Canary(_));
        if !is_canary || decision.verdict == Some(Verdict::Promote) {
            return Ok(());
        }
        for (service, ids) in &decision.routes.instances {
            let owner = |id: &InstanceId| seen.iter().find(|seen| seen.id == *id).map(|seen| seen.owner);
            let serving = self.app.serving.map_or(0, |serving| self.count(serving, service));
            let old = ids.iter().filter(|id| owner(id) != Some(rollout.to)).count();
            if old >= usize::from(serving) && ids.iter().any(|id| owner(id) == Some(rollout.to)) {
                return Err(format!("a canary that failed still answers for {service}"));
            }
        }
        Ok(())
    }

    fn judge_verdict(&self, rollout: &Rollout, decision: &Decision, seen: &[Seen]) -> Result<(), String> {
        let to = rollout.to;
        if self.now >= rollout.deadline.as_ms() && decision.verdict.is_none() {
            return Err("the deadline passed without a verdict".to_owned());
        }
        let is_late = |since: Timestamp, span: Millis| since.as_ms() + span.as_ms() <= self.now;
        let new = seen
            .iter()
            .filter(|seen| seen.owner == to && seen.index < self.count(to, &seen.service));
        let is_failed = |life: &Seen| match &life.condition {
            Condition::Starting { since } => is_late(*since, GRACE),
            Condition::Unready { since, .. } => is_late(*since, self.policy.unready_limit),
            Condition::Exited { exit: Exit::Lost, .. } if self.is_excused_loss(life.id) => false,
            Condition::Exited { .. } => !seen.iter().any(|other| {
                other.owner == to
                    && (&other.service, other.index) == (&life.service, life.index)
                    && other.is_active
            }),
            Condition::Ready { .. } | Condition::Draining { .. } | Condition::Stopping { .. } => false,
        };
        let failed = new
            .filter(|life| !self.excused.contains(&life.id) && is_failed(life))
            .count();
        if failed > 0 && !matches!(decision.verdict, Some(Verdict::Return { .. })) {
            return Err(format!(
                "{failed} new instances failed, yet {:?}",
                decision.verdict
            ));
        }
        if decision.verdict == Some(Verdict::Promote) {
            for name in self.releases[&to.release].services.keys() {
                let is_place_fit = |index: u16| {
                    seen.iter().any(|seen| {
                        seen.owner == to && seen.service == *name && seen.index == index && seen.is_fit
                    })
                };
                if !(0..self.count(to, name)).all(is_place_fit) {
                    return Err(format!("promoted although {name} is not ready"));
                }
            }
        }
        Ok(())
    }

    /// A life that ended without a record, as the first ones of its place may.
    fn is_excused_loss(&self, id: InstanceId) -> bool {
        self.rows.get(&id).is_some_and(|row| row.attempt < LOST_EXCUSED)
    }

    /// Nobody returns from a release because of what the machine lost.
    fn judge_blame(&self, rollout: &Rollout, decision: &Decision) -> Result<(), String> {
        let excused = |id: &InstanceId| {
            let is_lost = matches!(
                self.rows.get(id).map(|row| &row.condition),
                Some(Condition::Exited { exit: Exit::Lost, .. })
            );
            is_lost && self.is_excused_loss(*id)
        };
        let fresh: Vec<_> = decision.failed.difference(&rollout.failed).collect();
        if fresh.iter().any(|id| excused(id)) {
            return Err("a life that the machine lost weighs on its release".to_owned());
        }
        Ok(())
    }

    fn judge_bounds(&self, rollout: &Rollout, decision: &Decision, seen: &[Seen]) -> Result<(), String> {
        for name in self.releases[&rollout.to.release].services.keys() {
            // Strays that must not stand in for what serves are no part of it.
            let is_part = |seen: &&Seen| {
                let mut owners = self.app.serving.into_iter().chain([rollout.to]);
                seen.owner == rollout.to || !owners.any(|owner| self.are_unmixed(owner, seen.owner))
            };
            let of_service = || seen.iter().filter(|seen| seen.service == *name).filter(is_part);
            let wanted = self.count(rollout.to, name);
            let before = self.app.serving.map_or(0, |serving| self.count(serving, name));
            let (over, under) = match &self.releases[&rollout.to.release].strategy {
                Strategy::Rolling { surge: Some(surge) } => (surge.over(), surge.under()),
                Strategy::Rolling { surge: None }
                | Strategy::BlueGreen
                | Strategy::Canary { .. }
                | Strategy::Recreate => (
                    if wanted > 2 {
                        wanted.div_ceil(4)
                    } else {
                        wanted.max(1)
                    },
                    0,
                ),
            };
            let places = |lives: &mut dyn Iterator<Item = &Seen>| {
                lives
                    .filter(|seen| seen.is_fit)
                    .map(|seen| (seen.owner.epoch, seen.index))
                    .collect::<BTreeSet<_>>()
                    .len()
            };
            let ready = places(&mut of_service());
            let left = places(&mut of_service().filter(|seen| !seen.leaves));
            let floor = usize::from(wanted.saturating_sub(under));
            // Twins count once, as one of them goes; but two of them that stay serve like two.
            let serve = of_service().filter(|seen| seen.is_fit && !seen.leaves).count();
            if decision.verdict.is_none() && left < ready.min(floor) && serve < floor {
                return Err(format!(
                    "{name} falls from {ready} ready to {left}, the floor is {floor}"
                ));
            }
            let starts: Vec<&Start> = starts_of(decision)
                .into_iter()
                .filter(|start| start.service == *name)
                .collect();
            let is_new = |start: &&&Start| start.epoch == rollout.to.epoch;
            let live = of_service().filter(|seen| seen.is_active && !seen.leaves).count() + starts.len();
            let ceiling = usize::from(wanted.max(before)) + usize::from(over);
            if decision.verdict.is_none() && starts.iter().any(|start| is_new(&start)) && live > ceiling {
                return Err(format!(
                    "{name} would have {live} instances, the ceiling is {ceiling}"
                ));
            }
        }
        Ok(())
    }

    /// Undisturbed, everything comes to rest, and only what is wanted is left.
    fn calm_down(&mut self) -> Result<(), String> {
        self.is_calm = true;
        for process in self.processes.values_mut() {
            process.flaps = false;
        }
        let last = self.release(Nature::Good);
        if !self.app.deleting {
            self.roll_to(last);
        }
        self.run_quietly(Timestamp::from_ms(self.now).plus(CALM_DEADLINE).as_ms() + 200_000)?;
        if self.app.deleting {
            return self.must_be_gone();
        }
        if self.app.serving.is_none_or(|serving| serving.release != last) || self.app.rollout.is_some() {
            return Err(format!("a good release was not promoted: {:?}", self.app.rollout));
        }
        self.must_be_whole()?;
        for process in self.processes.values_mut() {
            process.dies_after = Some(0);
        }
        self.run_quietly(self.now + 60_000)?;
        self.must_be_whole()?;
        let known: Vec<ReleaseId> = self.releases.keys().copied().collect();
        for id in known {
            if matches!(self.releases[&id].state, ReleaseState::Rejected { .. })
                && self.app.serving.is_some_and(|serving| serving.release == id)
            {
                return Err("a rejected release serves".to_owned());
            }
        }
        self.app.deleting = true;
        self.run_quietly(self.now + 200_000)?;
        self.must_be_gone()
    }

    fn run_quietly(&mut self, until: u64) -> Result<(), String> {
        while self.now < until && !self.is_gone {
            self.observe();
            let decision = self.turn()?;
            let poll = self.now + 4000;
            let next = decision.next_look.map_or(poll, |at| at.as_ms().min(poll));
            self.now = next.max(self.now + 500);
        }
        Ok(())
    }

    fn must_be_whole(&self) -> Result<(), String> {
        let serving = self.app.serving.expect("promoted");
        let nothing = Decision {
            failed: BTreeSet::new(),
            begun: BTreeMap::new(),
            verdict: None,
            routes: Routes::default(),
            steps: Vec::new(),
            next_look: None,
            why: Vec::new(),
        };
        let seen = self.seen(&nothing);
        for (name, service) in &self.releases[&serving.release].services {
            let mine = || {
                seen.iter()
                    .filter(|seen| seen.service == *name && seen.owner == serving)
            };
            let fit: BTreeSet<InstanceId> = mine().filter(|seen| seen.is_fit).map(|seen| seen.id).collect();
            let routed = self.published.instances.get(name).cloned().unwrap_or_default();
            let live = mine().filter(|seen| seen.condition.is_live()).count();
            let wanted = usize::from(self.count(serving, name));
            if fit.len() != wanted || live != wanted || service.port.is_some() && routed != fit {
                return Err(format!(
                    "{name}: {wanted} wanted, {live} live, {} fit, routed {routed:?}",
                    fit.len()
                ));
            }
        }
        if let Some(stray) = seen
            .iter()
            .find(|seen| seen.condition.is_live() && seen.owner != serving)
        {
            return Err(format!(
                "{} of {} runs, but nobody owns it",
                stray.id, stray.service
            ));
        }
        let is_running = |id: &InstanceId| {
            let process = &self.processes[id];
            process.stop_at.is_none_or(|at| at > self.now)
                && process
                    .dies_after
                    .is_none_or(|after| process.started + after > self.now)
        };
        let is_known = |id: &InstanceId| self.rows.get(id).is_some_and(|row| row.condition.is_live());
        if let Some(orphan) = self.processes.keys().find(|id| is_running(id) && !is_known(id)) {
            return Err(format!("{orphan} runs without a live row"));
        }
        let ended = self.rows.values().filter(|row| !row.condition.is_live()).count();
        if ended > 200 {
            return Err(format!("{ended} ended instances are remembered"));
        }
        Ok(())
    }

    fn must_be_gone(&self) -> Result<(), String> {
        let left = self.rows.values().filter(|row| row.condition.is_live()).count();
        if !self.is_gone || left > 0 || !self.published.instances.is_empty() {
            return Err(format!("deleted, but gone: {}, {left} left", self.is_gone));
        }
        Ok(())
    }
}

fn starts_of(decision: &Decision) -> Vec<&Start> {
    let mut starts = Vec::new();
    for step in &decision.steps {
        match step {
            Step::Start(start) => starts.push(start),
            Step::Run { .. } | Step::Drain { .. } | Step::Stop { .. } | Step::Remove { .. } => {}
        }
    }
    starts
}

/// One fleet from empty to gone. The error says what went wrong.
fn live_through(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed);
    live(&mut world)
}

fn live(world: &mut World) -> Result<(), String> {
    for _ in 0..120 {
        world.people_act();
        if world.dice.one_in(60) {
            world.twin();
        }
        world.observe();
        world.turn()?;
        if world.is_gone {
            return world.must_be_gone();
        }
        world.now += if world.dice.one_in(15) {
            30_000
        } else {
            50 + world.dice.roll(2500)
        };
    }
    world.calm_down()
}

#[test]
fn fleets_come_to_rest_and_nobody_notices() {
    let mut ends: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut virtual_ms = 0;
    for seed in 1..=1400 {
        let mut world = World::new(seed);
        let begin = world.now;
        if let Err(why) = live(&mut world) {
            panic!("seed {seed}: {why}");
        }
        virtual_ms += world.now - begin;
        for (end, count) in world.ends {
            *ends.entry(end).or_default() += count;
        }
    }
    println!("1400 seeds, {} virtual hours\n{ends:#?}", virtual_ms / 3_600_000);
    for way in ["rolling", "blue-green", "canary", "recreate"] {
        for end in ["promoted", "returned"] {
            assert!(
                ends.get(&(way, end)).is_some_and(|count| *count >= 100),
                "{way} {end}"
            );
        }
    }
    assert!(
        ends.get(&("canary", "returned from a step"))
            .is_some_and(|count| *count >= 100)
    );
}

#[test]
fn every_mutant_is_found() {
    for mutant in [
        Mutant::DrainBelowFloor,
        Mutant::RouteStarting,
        Mutant::RouteDraining,
        Mutant::PromoteEarly,
        Mutant::ForgetFailures,
        Mutant::ForgetStrays,
        Mutant::IgnoreDeadline,
        Mutant::DrainForEver,
        Mutant::StopOnce,
        Mutant::RunOnce,
        Mutant::NoBackoff,
        Mutant::NoCeiling,
        Mutant::DrainAtOnce,
        Mutant::KeepDuplicates,
        Mutant::IgnoreOverdue,
        Mutant::RestartNothing,
        Mutant::StartBeside,
        Mutant::AnswerEarly,
        Mutant::MixStrays,
        Mutant::SwitchEarly,
        Mutant::ShrinkOld,
        Mutant::SkipSteps,
        Mutant::ForgetHold,
        Mutant::RestartStep,
        Mutant::ForgetShare,
        Mutant::NoLastResort,
        Mutant::UnreadyBesideReady,
        Mutant::BlameLost,
        Mutant::ReturnEarly,
        Mutant::ReturnForEver,
        Mutant::ServeGivenUp,
    ] {
        MUTANT.set(Some(mutant));
        let found = (1..=1000).find_map(|seed| live_through(seed).err().map(|why| (seed, why)));
        MUTANT.set(None);
        let (seed, why) = found.unwrap_or_else(|| panic!("{mutant:?} survived"));
        println!("{mutant:?}: seed {seed}: {why}");
    }
}
