//! Power cuts at random moments: the data directory's file system goes away without its log, and everything with it.
//!
//! ```text
//! settled state -> writers + ask for one thing -> cut (`disk`) -> look at the files (`files`) -> stoa up -> settle
//! -> compare acknowledged writes (`ledger`), state, operations, the host
//! ```
//! Lives here: trials and their verdict. Does not live here: what may be there afterwards (`operation`, `ledger`).
//! Invariant: a trial's choices depend on the seed and its number only, on top of the state it finds.

mod disk;
mod files;
mod ledger;

use std::collections::BTreeMap;
use std::fmt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use self::disk::Disk;
pub use self::disk::FileSystem;
use self::files::Files;
use self::ledger::{Counts, LEDGER, Ledger};
use super::compare::{self, LEFTOVER_GRACE};
use super::operation::{Answer, Operation, SERVED};
use super::outcome::{Found, WRONG_MAX, Wrong, spread};
use super::state::{self, State};
use super::world::World;
use super::{Chance, upload};
use crate::{Api, ENVIRONMENT, PATIENCE, Stoa, until};

/// The cut comes at most this long after the question: a deploy takes about a second.
const CUT_WITHIN_MS: u64 = 2000;
/// Clients that write at once, so that commits are shared.
const WRITERS: usize = 3;
/// So many cuts one installation sees; then a new one on a new disk. A machine that loses its power every few seconds
/// looks to the platform like applications that crash in a row, and each of their starts waits longer than the last.
const IN_A_ROW: u64 = 12;
/// With syncs skipped, so many writes are acknowledged before the cut.
const UNSYNCED_WRITES: u64 = 40;

/// What the platform's syncs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// What they should.
    Kept,
    /// Nothing, though they report success: a tracer takes them out of the control process. The trials must notice.
    Skipped,
}

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many cuts.
    pub trials: u64,
    /// Where the choices come from.
    pub seed: u64,
    /// What the data directory is on.
    pub file_system: FileSystem,
    /// The safeguard that may be switched off.
    pub syncs: Syncs,
}

/// What all cuts showed.
#[derive(Debug)]
pub struct Outcome {
    options: Options,
    trials: u64,
    took: Duration,
    acknowledged: Counts,
    read: BTreeMap<&'static str, u64>,
    /// How the one thing asked for was answered and ended.
    ends: BTreeMap<(&'static str, &'static str), u64>,
    /// From the new start of `stoa up` until all was settled and served.
    back: Vec<Duration>,
    wrong: BTreeMap<Wrong, u64>,
    /// Each wrong trial in words.
    pub findings: Vec<String>,
}

/// Everything a trial works with.
struct Bench {
    stoa: Stoa,
    api: Api,
    upload: String,
    disk: Disk,
    files: Files,
    ledgers: Vec<Ledger>,
    fixed: std::collections::BTreeSet<String>,
}

/// Runs the trials.
///
/// # Errors
/// When the installation cannot be set up or taken down cleanly; what trials find is in the outcome.
pub fn run(options: Options) -> Result<Outcome> {
    let begin = Instant::now();
    let mut outcome = Outcome {
        options,
        trials: 0,
        took: Duration::ZERO,
        acknowledged: Counts::default(),
        read: BTreeMap::new(),
        ends: BTreeMap::new(),
        back: Vec::new(),
        wrong: BTreeMap::new(),
        findings: Vec::new(),
    };
    let mut trial = 0;

    while trial < options.trials && outcome.findings.len() < WRONG_MAX {
        let mut bench = Bench::new(options)?;
        let last = (trial + IN_A_ROW).min(options.trials);
        while trial < last && outcome.findings.len() < WRONG_MAX {
            trial += 1;
            let chance = Chance::of(options.seed, trial);
            let (head, found) = bench
                .trial(chance, trial, options.syncs, &mut outcome)
                .with_context(|| format!("seed {}, trial {trial}", options.seed))?;
            outcome.trials = trial;
            println!("{head}");
            outcome.note(&head, found);
        }
        for (kind, count) in &bench.files.read {
            *outcome.read.entry(kind).or_default() += count;
        }
        let found = bench.end()?;
        outcome.note(&format!("after trial {trial}"), found);
    }
    outcome.took = begin.elapsed();
    Ok(outcome)
}

impl Bench {
    fn new(options: Options) -> Result<Self> {
        let mut stoa = Stoa::prepare(&format!("power-{}", options.file_system.name()))?;
        let disk = Disk::make(options.file_system, &stoa)?;
        stoa.place_data("disk/data");
        stoa.up()?;
        stoa.sign_in()?;
        let api = stoa.api()?;
        let mut bench = Self {
            upload: String::new(),
            ledgers: (0..WRITERS).map(Ledger::new).collect(),
            files: Files::default(),
            fixed: std::collections::BTreeSet::new(),
            stoa,
            api,
            disk,
        };
        let apps = format!("{ENVIRONMENT}/apps");
        let made = bench.api.call("POST", &apps, Some(&json!({ "name": LEDGER })))?;
        ensure!(made.status == 201, "{}", made.body);
        if options.syncs == Syncs::Kept {
            bench.serve(&apps)?;
        }
        state::settle(&bench.api)?;
        bench.fixed = World::look(&bench.stoa).fixed;
        Ok(bench)
    }

    /// Something that answers, so that there are instances.
    fn serve(&mut self, apps: &str) -> Result<()> {
        self.upload = upload(&self.stoa)?;
        let made = self.api.call("POST", apps, Some(&json!({ "name": SERVED })))?;
        ensure!(made.status == 201, "{}", made.body);
        let first = Operation::Deploy {
            app: SERVED.to_owned(),
            version: format!("{SERVED}-0"),
        };
        match first.ask(&self.api, &self.upload) {
            Answer::Acknowledged { operation: Some(id) } => {
                let settled = self.api.settled(&id)?;
                ensure!(settled["state"] == "succeeded", "{first}: {settled:#}");
                Ok(())
            }
            other => bail!("{first} was answered {other:?}"),
        }
    }

    /// One cut: what it was, and what is wrong after it.
    fn trial(
        &mut self,
        mut chance: Chance,
        trial: u64,
        syncs: Syncs,
        outcome: &mut Outcome,
    ) -> Result<(String, Found)> {
        let before = self.state()?;
        let known = state::known(&self.api)?;
        let operation = (syncs == Syncs::Kept).then(|| Operation::choose(&mut chance, trial, &before, false));
        let pause = Duration::from_millis(chance.below(CUT_WITHIN_MS + 1));
        let answer = match &operation {
            Some(operation) => self.ask_and_cut(operation, pause)?,
            None => {
                self.write_unsynced_and_cut()?;
                Answer::Unknown
            }
        };
        let what = operation
            .as_ref()
            .map_or("writes whose syncs do nothing".to_owned(), ToString::to_string);
        let mut head = format!(
            "trial {trial}: {what}; power cut after {} ms; {answer:?}",
            pause.as_millis()
        );
        for ledger in &mut self.ledgers {
            outcome.acknowledged += std::mem::take(&mut ledger.counts);
        }
        self.disk.mount().with_context(|| head.clone())?;
        let mut found = Found::new();
        self.files.look(&self.stoa, &mut found)?;
        files::store(&self.stoa, &mut found)?;
        let begin = Instant::now();
        if syncs == Syncs::Skipped && !found.is_empty() {
            // Noticed before it could even start.
            return Ok((head, found));
        }
        self.stoa.up().with_context(|| head.clone())?;
        self.api = self.api.at(self.stoa.listeners().api);
        if let Err(error) = self.settle_and_serve(&before) {
            found.push((Wrong::Unsettled, format!("{error:#}")));
        }
        outcome.back.push(begin.elapsed());
        for ledger in &mut self.ledgers {
            ledger.compare(&self.api, &mut found)?;
        }
        let after = self.state()?;
        if let Some(operation) = operation {
            compare::answers(&operation, &answer, true, (&before, &after), &mut found);
            compare::operations(&self.api, &operation, &answer, true, &known, &mut found)?;
            let (end, why) = self.end_of(&answer)?;
            head += &why;
            *outcome.ends.entry((operation.name(), end)).or_default() += 1;
        }
        let whole = until("what the API lists to be there", LEFTOVER_GRACE, || {
            let (_, missing) = compare::world(&self.stoa, &self.api, &self.fixed)?;
            ensure!(missing.is_empty(), "{missing:#?}");
            Ok(Some(()))
        });
        if let Err(error) = whole {
            found.push((Wrong::Missing, format!("{error:#}")));
        }
        Ok((head, found))
    }

    /// Asks in one thread, writes in others, and cuts in this one.
    fn ask_and_cut(&mut self, operation: &Operation, pause: Duration) -> Result<Answer> {
        let (api, stoa, disk) = (&self.api, &self.stoa, &self.disk);
        let upload = self.upload.as_str();
        let ledgers = &mut self.ledgers;
        thread::scope(|scope| {
            for ledger in ledgers {
                scope.spawn(|| ledger.write(api, || true));
            }
            let asking = scope.spawn(|| operation.ask(api, upload));
            thread::sleep(pause);
            let cut = disk.cut(stoa);
            let answer = asking.join();
            // Nobody listens any more, so the writers end too.
            cut?;
            answer.map_err(|_| anyhow::anyhow!("the asking thread panicked"))
        })
        .and_then(|answer| self.stoa.wait_end().map(|()| answer))
    }

    /// Writes while control's syncs do nothing, and cuts.
    fn write_unsynced_and_cut(&mut self) -> Result<()> {
        let tracer = Tracer::start(&self.stoa)?;
        let (api, enough) = (&self.api, AtomicBool::new(false));
        let (ledgers, rounds) = (&mut self.ledgers, AtomicU64::new(0));
        let go_on = || {
            let round = rounds.fetch_add(1, Ordering::Relaxed);
            round < UNSYNCED_WRITES && !enough.load(Ordering::Relaxed)
        };
        thread::scope(|scope| {
            for ledger in ledgers {
                scope.spawn(|| ledger.write(api, go_on));
            }
        });
        let cut = self.disk.cut(&self.stoa);
        drop(tracer);
        cut?;
        self.stoa.wait_end()
    }

    /// What there is, without what the writers change.
    fn state(&self) -> Result<State> {
        let mut state = State::read(&self.api)?;
        state.apps.remove(LEDGER);
        Ok(state)
    }

    fn settle_and_serve(&self, before: &State) -> Result<()> {
        state::settle(&self.api)?;
        if before.apps.contains_key(SERVED) {
            let host = format!("{SERVED}.localhost");
            until("the app to answer", PATIENCE, || {
                let status = self.stoa.get(&host, "/")?.status;
                ensure!(status == 200, "it answers {status}");
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    /// How the acknowledged operation ended, and why when it failed.
    fn end_of(&self, answer: &Answer) -> Result<(&'static str, String)> {
        let end = match answer {
            Answer::Acknowledged { operation: Some(id) } => {
                let now = self.api.get(&format!("/v1/operations/{id}"))?;
                if now["state"] != "succeeded" {
                    return Ok(("failed", format!("; failed: {}", now["error"])));
                }
                "succeeded"
            }
            Answer::Acknowledged { operation: None } => "acknowledged",
            Answer::Unknown => "unanswered",
            Answer::Refused { .. } => "refused",
        };
        Ok((end, String::new()))
    }

    /// Waits until nothing belongs to nobody, takes the installation down and looks what is left.
    fn end(self) -> Result<Found> {
        let mut found = Found::new();
        if self.stoa.warden().is_ok() {
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
        }
        self.stoa.finish()?;
        self.disk.detached()?;
        Ok(found)
    }
}

/// Takes the syncs out of a running control: each is answered with success and not done.
struct Tracer(Child);

impl Tracer {
    fn start(stoa: &Stoa) -> Result<Self> {
        const SYNCS: &str = "fsync,fdatasync,syncfs,sync_file_range";
        let control = stoa.part("control")?;
        let child = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-p", &control.pid.to_string()])
            .args(["-e", &format!("trace={SYNCS}")])
            .args(["-e", &format!("inject={SYNCS}:retval=0")])
            .stdin(Stdio::null())
            .spawn()
            .context("could not run strace")?;
        let tracer = Self(child);
        until("the tracer to have every thread", PATIENCE, || {
            let tasks = format!("/proc/{}/task", control.pid);
            for task in std::fs::read_dir(&tasks)? {
                let status = std::fs::read_to_string(task?.path().join("status"))?;
                let is_free = status.lines().any(|line| line == "TracerPid:\t0");
                ensure!(!is_free, "a thread is not traced");
            }
            Ok(Some(()))
        })?;
        Ok(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Outcome {
    fn note(&mut self, head: &str, found: Found) {
        if found.is_empty() {
            return;
        }
        for (wrong, _) in &found {
            *self.wrong.entry(*wrong).or_default() += 1;
        }
        let lines: Vec<String> = found
            .into_iter()
            .map(|(wrong, what)| format!("  {wrong:?}: {what}"))
            .collect();
        let text = format!("{head}\n{}", lines.join("\n"));
        println!("seed {}, {text}", self.options.seed);
        self.findings.push(text);
    }

    /// How many acknowledged writes were not there.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.wrong.get(&Wrong::Lost).copied().unwrap_or(0)
    }

    /// How many files were not whole.
    #[must_use]
    pub fn torn(&self) -> u64 {
        self.wrong.get(&Wrong::Torn).copied().unwrap_or(0)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, trials) = (self.options.seed, self.trials);
        let name = self.options.file_system.name();
        writeln!(
            f,
            "seed {seed}, {trials} power cuts on {name} in {:.0} s; replay: cargo xtask soak power --fs {name} --seed {seed} --trials {trials}",
            self.took.as_secs_f64()
        )?;
        writeln!(f, "small writes: {}", self.acknowledged)?;
        for ((operation, end), count) in &self.ends {
            writeln!(f, "{operation:<22} {end:<14} {count:>5}")?;
        }
        for (kind, count) in &self.read {
            writeln!(f, "{count} {kind} read after cuts")?;
        }
        let (middle, longest) = spread(&self.back);
        writeln!(
            f,
            "all served and settled again {middle:.1} s after the start in the middle, {longest:.1} s at most"
        )?;
        let of = |wrong| self.wrong.get(&wrong).copied().unwrap_or(0);
        write!(
            f,
            "lost {}, torn {}, doubled {}, orphans {}, missing {}, refused {}, unsettled {}",
            self.lost(),
            self.torn(),
            of(Wrong::Doubled),
            of(Wrong::Orphan),
            of(Wrong::Missing),
            of(Wrong::Refused),
            of(Wrong::Unsettled),
        )
    }
}
