//! Kills at random moments: each trial asks for one thing, kills one process with SIGKILL, and compares.
//!
//! ```text
//! settled state -> ask (another thread) + wait 0-500 ms -> kill -> stoa up when the warden died -> settle -> compare
//! ```
//! Compared are: what the API acknowledged with what it has now; what the kernel and the disk carry with what the API
//! lists; the workloads' processes before and after; and what the traffic saw.
//! Lives here: trials and their verdict. Does not live here: what may be there afterwards (`operation`).
//! Invariant: a trial's choices depend on the seed and its number only, on top of the state it finds.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::compare::{self, LEFTOVER_GRACE};
use super::operation::{Answer, Operation, SERVED};
use super::outcome::{Found, Outcome, Victim, Wrong};
use super::state::{self, State};
use super::world::{self, World};
use super::{Chance, upload};
use crate::process::{self, Process};
use crate::traffic::{Load, Traffic};
use crate::{Api, ENVIRONMENT, PATIENCE, Stoa, until};

/// The kill comes at most this long after the question.
const KILL_WITHIN_MS: u64 = 500;

/// So long a movement of three instances takes: the interesting keepers die within.
const MOVED_WITHIN_MS: u64 = 2500;

/// Requests must be served again after this: a bound against hanging, not what is promised.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many trials.
    pub trials: u64,
    /// Where the choices come from.
    pub seed: u64,
    /// Whether databases are made and destroyed too: slow.
    pub databases: bool,
    /// Traffic during all of it.
    pub load: Load,
    /// What is tried.
    pub aim: Aim,
}

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// Every operation, and the death of any process.
    Anything,
    /// Good deploys and rollbacks of three instances under traffic, one instance after the other, and the death of the
    /// youngest keeper: what is given up in the middle must not answer once its operation is settled.
    Movements,
}

impl Aim {
    /// Instances of the app under traffic.
    fn instances(self) -> u64 {
        match self {
            Self::Anything => 2,
            // Up to two move at once, and nothing is half moved.
            Self::Movements => 3,
        }
    }
}

/// Everything a trial works with.
pub(super) struct Bench {
    pub(super) stoa: Stoa,
    pub(super) api: Api,
    upload: String,
    traffic: Traffic,
    /// Since when something is there that belongs to nobody.
    pub(super) leftovers: BTreeMap<String, Instant>,
    pub(super) fixed: BTreeSet<String>,
    pub(super) outages: Vec<Outage>,
}

/// A time in which exchanges may be cut: a slow one that it hit may end during a later trial.
pub(super) struct Outage {
    pub(super) victim: Victim,
    pub(super) from: Instant,
    pub(super) until: Instant,
}

/// What was killed and when.
pub(super) struct Kill {
    pub(super) victim: Victim,
    /// The instance whose keeper or program it was.
    pub(super) instance: Option<String>,
    pub(super) at: Instant,
}

/// Runs the trials.
///
/// # Errors
/// When the installation cannot be set up or taken down cleanly; what trials find is in the outcome.
pub fn run(options: Options) -> Result<Outcome> {
    let begin = Instant::now();
    let mut bench = Bench::new("soak-kill", options.load, options.aim.instances())?;
    let mut outcome = Outcome {
        seed: options.seed,
        ..Outcome::default()
    };
    for trial in 1..=options.trials {
        let chance = Chance::of(options.seed, trial);
        let (head, found) = bench
            .trial(chance, trial, options, &mut outcome)
            .with_context(|| format!("seed {}, trial {trial}", options.seed))?;
        outcome.trials = trial;
        println!("{head}");
        if !outcome.note(&head, found) {
            break;
        }
    }
    let found = bench.end(&mut outcome)?;
    outcome.note("after the last trial", found);
    outcome.took = begin.elapsed();
    Ok(outcome)
}

impl Bench {
    pub(super) fn new(name: &str, load: Load, instances: u64) -> Result<Self> {
        let stoa = Stoa::start(name)?;
        let api = stoa.api()?;
        let upload = upload(&stoa)?;
        let first = Operation::Deploy {
            app: SERVED.to_owned(),
            version: format!("{SERVED}-0"),
        };
        let body = serde_json::json!({ "name": SERVED });
        let made = api.call("POST", &format!("{ENVIRONMENT}/apps"), Some(&body))?;
        ensure!(made.status == 201, "{}", made.body);
        for operation in [
            first,
            Operation::Scale {
                app: SERVED.to_owned(),
                count: instances,
            },
        ] {
            match operation.ask(&api, &upload) {
                Answer::Acknowledged { operation: Some(id) } => {
                    let settled = api.settled(&id)?;
                    ensure!(settled["state"] == "succeeded", "{operation}: {settled:#}");
                }
                other => bail!("{operation} was answered {other:?}"),
            }
        }
        let traffic = Traffic::start(
            stoa.listeners().http,
            &format!("{SERVED}.localhost"),
            &format!("{SERVED}-0"),
            load,
        )?;
        let mut bench = Self {
            stoa,
            api,
            upload,
            traffic,
            leftovers: BTreeMap::new(),
            fixed: BTreeSet::new(),
            outages: Vec::new(),
        };
        state::settle(&bench.api)?;
        bench.fixed = World::look(&bench.stoa).fixed;
        Ok(bench)
    }

    /// One trial: what it was, and what is wrong after it.
    fn trial(
        &mut self,
        mut chance: Chance,
        trial: u64,
        options: Options,
        outcome: &mut Outcome,
    ) -> Result<(String, Found)> {
        let before = State::read(&self.api)?;
        let operation = match options.aim {
            Aim::Anything => Operation::choose(&mut chance, trial, &before, options.databases),
            Aim::Movements => Operation::movement(&mut chance, trial, &before),
        };
        self.around(&format!("trial {trial}"), &operation, outcome, |bench| {
            bench.ask_and_kill(&mut chance, &operation, options.aim)
        })
    }

    /// Compares what there is before and after something that asks for an operation and kills.
    pub(super) fn around(
        &mut self,
        name: &str,
        operation: &Operation,
        outcome: &mut Outcome,
        act: impl FnOnce(&Self) -> Result<(Answer, Kill)>,
    ) -> Result<(String, Found)> {
        let before = State::read(&self.api)?;
        let known = state::known(&self.api)?;
        let live = compare::live(&self.api, &before)?;
        let workloads = world::workloads(&self.stoa);
        if let Some(version) = operation.may_answer(&before) {
            self.traffic.may(&version);
        }
        let begin = Instant::now();
        let (answer, kill) = act(self)?;
        *outcome.counts.entry((operation.name(), kill.victim)).or_default() += 1;
        let head = format!(
            "{name}: {operation}; {} after {} ms{}; {answer:?}",
            match kill.victim {
                Victim::Disk => "a call was spoilt".to_owned(),
                victim => format!("{victim:?} killed"),
            },
            kill.at.duration_since(begin).as_millis(),
            kill.instance
                .as_ref()
                .map_or(String::new(), |id| format!(" ({id})")),
        );
        let back = self.recover(kill.victim).with_context(|| head.clone())?;
        let mut found = Found::new();
        let took = back.duration_since(kill.at);
        if took > BACK_WITHIN {
            let took = took.as_secs();
            found.push((
                Wrong::Unsettled,
                format!("requests were served again only after {took} s"),
            ));
        }
        self.notice(&kill)?;
        if let Err(error) = state::settle(&self.api) {
            found.push((Wrong::Unsettled, format!("{error:#}")));
        }
        if kill.victim != Victim::Nobody {
            outcome.settled.push(kill.at.elapsed());
        }
        let may_fail = matches!(kill.victim, Victim::Keeper | Victim::Builder | Victim::Disk);
        let after = State::read(&self.api)?;
        outcome.went_back += u64::from(operation.went_back(&before, &after));
        compare::answers(operation, &answer, may_fail, (&before, &after), &mut found);
        compare::operations(&self.api, operation, &answer, may_fail, &known, &mut found)?;
        self.compare_world(&mut found)?;
        self.compare_workloads(operation, &kill, (&live, &workloads), &mut found)?;
        if let Some(version) = after.apps.get(SERVED).and_then(|app| app.version()) {
            self.traffic.only(version);
        }
        if let Answer::Unknown = answer {
            outcome.unknown += 1;
        }
        // A keeper's death ends its workload: what was under way to it is lost with it.
        let until = match kill.victim {
            Victim::Warden | Victim::Edge => Some(back),
            Victim::Keeper => Some(Instant::now()),
            Victim::Control | Victim::Builder | Victim::Disk | Victim::Nobody => None,
        };
        self.outages.extend(until.map(|until| Outage {
            victim: kill.victim,
            from: kill.at,
            until,
        }));
        let report = self.traffic.take();
        self.judge(&report, outcome, &mut found);
        outcome.report.add(report);
        Ok((head, found))
    }

    /// Asks in one thread, kills in this one.
    fn ask_and_kill(&self, chance: &mut Chance, operation: &Operation, aim: Aim) -> Result<(Answer, Kill)> {
        let (api, upload) = (self.api.clone(), self.upload.clone());
        let asked = operation.clone();
        let asking = thread::spawn(move || asked.ask(&api, &upload));
        let victim = match (operation, chance.below(100)) {
            _ if aim == Aim::Movements => Victim::Keeper,
            (Operation::Build { .. }, 0..60) => Victim::Builder,
            (_, 0..40) => Victim::Control,
            (_, 40..65) => Victim::Keeper,
            (_, 65..82) => Victim::Edge,
            (_, 82..) => Victim::Warden,
        };
        let within = match aim {
            Aim::Anything => KILL_WITHIN_MS,
            Aim::Movements => MOVED_WITHIN_MS,
        };
        let pause = Duration::from_millis(chance.below(within + 1));
        if victim == Victim::Builder {
            // The moment counts from the begin of the step; a build that fails before shows as nobody killed.
            let _seen = until("a build step", Duration::from_secs(10), || {
                Ok(self
                    .builder()
                    .or_else(|| asking.is_finished().then_some(None).flatten()))
            });
        }
        thread::sleep(pause);
        let kill = self.kill(victim, aim, chance);
        let answer = asking
            .join()
            .map_err(|_| anyhow::anyhow!("the asking thread panicked"))?;
        Ok((answer, kill))
    }

    /// A process of a build step and its instance.
    fn builder(&self) -> Option<(String, Process)> {
        let workloads = world::workloads(&self.stoa);
        let (name, members) = workloads
            .into_iter()
            .find(|(name, members)| name.starts_with("build-") && !members.is_empty())?;
        let (pid, started) = members.into_iter().next()?;
        let process = Process::of(pid).filter(|process| process.started == started)?;
        Some((name, process))
    }

    fn kill(&self, victim: Victim, aim: Aim, chance: &mut Chance) -> Kill {
        let (instance, process) = match victim {
            Victim::Warden => (None, self.stoa.warden().ok()),
            Victim::Edge => (None, self.stoa.part("edge").ok()),
            Victim::Control => (None, self.stoa.part("control").ok()),
            Victim::Keeper => {
                let keepers = self.stoa.keepers();
                let keeper = match aim {
                    Aim::Anything => chance.one(&keepers).cloned(),
                    Aim::Movements => keepers.into_iter().max_by_key(|keeper| keeper.started),
                };
                (keeper.as_ref().and_then(kept_by), keeper)
            }
            Victim::Builder => self
                .builder()
                .map_or((None, None), |(name, process)| (Some(name), Some(process))),
            Victim::Disk | Victim::Nobody => (None, None),
        };
        let at = Instant::now();
        let gone = process.is_some_and(|process| process.signal(libc::SIGKILL).is_ok());
        Kill {
            victim: if gone { victim } else { Victim::Nobody },
            instance,
            at,
        }
    }

    /// Brings back what does not come back by itself; when the edge served again.
    fn recover(&mut self, victim: Victim) -> Result<Instant> {
        match victim {
            Victim::Warden => {
                self.stoa.wait_end()?;
                self.stoa.up()?;
            }
            Victim::Edge | Victim::Control => {
                until("all parts to run", PATIENCE, || {
                    Ok((self.stoa.part("edge").is_ok() && self.stoa.part("control").is_ok()).then_some(()))
                })?;
            }
            Victim::Keeper | Victim::Builder | Victim::Disk | Victim::Nobody => {}
        }
        let host = format!("{SERVED}.localhost");
        until("the edge to serve", PATIENCE, || {
            Ok(self.stoa.get(&host, "/")?.status == 200).map(|served| served.then_some(()))
        })?;
        Ok(Instant::now())
    }

    /// Waits until the death of a keeper is known: an operation on another app may be through before, and the next trial
    /// would take what is dead for ready.
    fn notice(&self, kill: &Kill) -> Result<()> {
        let Some(killed) = kill.instance.as_ref().filter(|_| kill.victim == Victim::Keeper) else {
            return Ok(());
        };
        until("the death of a keeper to be known", PATIENCE, || {
            let live = compare::live(&self.api, &State::read(&self.api)?)?;
            let is_ready = live
                .get(killed)
                .is_some_and(|(_, condition)| condition == "ready");
            Ok((!is_ready).then_some(()))
        })
    }

    /// Ends `stoa up` politely and starts it again, so that the warden forgets how often its children died and does not
    /// make them wait. The traffic feels it, which is not what these trials are about.
    pub(super) fn renew(&mut self) -> Result<()> {
        let from = Instant::now();
        self.stoa.warden()?.signal(libc::SIGTERM)?;
        let until = self.recover(Victim::Warden)?;
        self.outages.push(Outage {
            victim: Victim::Warden,
            from,
            until,
        });
        state::settle(&self.api)
    }

    /// Ends the traffic, waits until nothing belongs to nobody, takes the installation down and looks what is left.
    pub(super) fn end(mut self, outcome: &mut Outcome) -> Result<Found> {
        let mut found = Found::new();
        let clean = until("nothing to belong to nobody", LEFTOVER_GRACE, || {
            let (surplus, missing) = compare::world(&self.stoa, &self.api, &self.fixed)?;
            ensure!(
                surplus.is_empty() && missing.is_empty(),
                "{surplus:#?} {missing:#?}"
            );
            Ok(Some(()))
        });
        if let Err(error) = clean {
            found.push((Wrong::Orphan, format!("{error:#}")));
        }
        self.traffic.end();
        let last = self.traffic.take();
        self.judge(&last, outcome, &mut found);
        outcome.report.add(last);
        self.stoa.finish()?;
        Ok(found)
    }
}

/// The instance whose keeper it is.
fn kept_by(keeper: &Process) -> Option<String> {
    let inside = process::children(keeper.pid).into_iter().next()?;
    let groups = inside.cgroups();
    let names = groups.lines().filter_map(|line| line.rsplit('/').next());
    names
        .into_iter()
        .find(|name| name.starts_with("ins-") || name.starts_with("build-"))
        .map(str::to_owned)
}
