//! How soon the platform is back after `kill -9`, with many instances running.
//!
//! Lives here: the crowd, the kill, and the two facts that are timed. Does not live here: how often, and what is promised
//! (`cargo xtask bench back`, the journeys).
//! Invariant: both facts are seen from outside. A write counts when it is acknowledged. All are adopted when a look at
//! every instance has been made and written down: one of them dies while nobody looks, and that must show.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::process::Process;
use crate::{ENVIRONMENT, Fleet, Instance, PATIENCE, Stoa, Tiny, until};

const CROWD: &str = "crowd";
const WITNESS: &str = "witness";

/// Many instances, and one whose death is the question.
#[derive(Debug)]
pub struct Crowd {
    stoa: Stoa,
    fleet: Fleet,
    count: usize,
    rounds: u32,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// Control alone: the warden brings it back.
    Control,
    /// The warden, and control with it: `stoa up` brings both back.
    Warden,
}

/// From the kill (of the warden: from `stoa up`) to these.
#[derive(Debug, Clone, Copy)]
pub struct Back {
    /// The first acknowledged write.
    pub write: Duration,
    /// All instances adopted.
    pub adopted: Duration,
}

impl Crowd {
    /// Starts a Stoa with so many instances.
    ///
    /// # Errors
    /// When they do not get ready.
    pub fn start(count: usize) -> Result<Self> {
        let stoa = Stoa::start("back")?;
        let fleet = Fleet::new(&stoa)?;
        fleet.deploy(CROWD, &Tiny::version(1))?;
        fleet.deploy(WITNESS, &Tiny::version(2))?;
        fleet.scale(CROWD, count)?;
        Ok(Self {
            stoa,
            fleet,
            count,
            rounds: 0,
        })
    }

    /// Kills and measures. Every process of every instance must be the same afterwards.
    ///
    /// # Errors
    /// When something does not come back, or an instance lost its process.
    pub fn kill(&mut self, victim: Victim) -> Result<Back> {
        self.rounds += 1;
        let before = self.programs()?;
        let witness = self.fleet.wait_ready(WITNESS, 1)?.pop().context("the witness")?;
        let control = self.stoa.part("control")?;
        let mut begin = Instant::now();
        match victim {
            Victim::Control => control.signal(libc::SIGKILL)?,
            Victim::Warden => {
                self.stoa.warden()?.signal(libc::SIGKILL)?;
                self.stoa.wait_end()?;
            }
        }
        until("control to be gone", PATIENCE, || {
            Ok((!control.is_alive()).then_some(()))
        })?;
        for program in Instance::of(&self.stoa, &witness)?.programs() {
            let _other_was_faster = program.signal(libc::SIGKILL);
        }
        if victim == Victim::Warden {
            begin = Instant::now();
            self.stoa.up()?;
        }
        let body = json!({ "name": format!("written-{}", self.rounds) });
        until("a write to be acknowledged", PATIENCE, || {
            let reply = self
                .fleet
                .api()
                .call("POST", &format!("{ENVIRONMENT}/apps"), Some(&body))?;
            // An attempt whose answer was lost with the dying one may have been heard.
            ensure!(
                matches!(reply.status, 201 | 409),
                "{} {}",
                reply.status,
                reply.body
            );
            Ok(Some(()))
        })?;
        let write = begin.elapsed();
        until("the witness's death to be noticed", PATIENCE, || {
            Ok((!self.fleet.ready(WITNESS)?.contains(&witness)).then_some(()))
        })?;
        let adopted = begin.elapsed();
        self.fleet.wait_ready(WITNESS, 1)?;
        ensure!(
            self.programs()? == before,
            "instances of the crowd changed their processes"
        );
        Ok(Back { write, adopted })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When something is left behind.
    pub fn finish(self) -> Result<()> {
        self.stoa.finish()
    }

    fn programs(&self) -> Result<std::collections::BTreeSet<Process>> {
        let found: std::collections::BTreeSet<Process> =
            self.stoa.members("httpd -f -p 8080 -h v1").into_iter().collect();
        ensure!(
            found.len() == self.count,
            "{} programs of {} instances",
            found.len(),
            self.count
        );
        Ok(found)
    }
}
