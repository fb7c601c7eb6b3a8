//! An engine without a host: workloads are rows in memory that behave as told, in a time that the test moves.
//!
//! Lives here: what a reconciler can see of a world (starts, readiness, ends, failures of ours).
//! Does not live here: exec and logs with content; a simulated program writes nothing.
//! Invariant: it keeps the promise of the face: an id lives once, everything is idempotent.

mod behaviour;
mod fate;
mod refusals;
mod registry;
mod room;

pub use behaviour::Behaviour;
pub use fate::{Call, Fate, Judge, Verb};
use refusals::{judged, no_image, no_volume};

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{Bytes, Exit, ImageDigest, InstanceId, Millis, Timestamp};

use crate::{
    BuildStep, Capabilities, Engine, EngineError, Exec, ExecStreams, FetchImage, ImageFacts, ImageSummary,
    LineSink, LogQuery, LogRecord, NetworkNames, Observed, Phase, StepOutput, Usage, VolumeFacts, Workload,
};

/// A fetch whose time never comes ends after that long, of real time: a test that stops moving the time must not hang.
const FETCH_LIMIT: Duration = Duration::from_secs(120);

struct Life {
    image: ImageDigest,
    address: Ipv4Addr,
    probed: bool,
    started: Timestamp,
    ends: Option<(Timestamp, Exit)>,
}

#[derive(Default)]
struct World {
    now: Timestamp,
    changes: u64,
    lives: BTreeMap<InstanceId, Life>,
    behaviours: BTreeMap<ImageDigest, Behaviour>,
    images: BTreeMap<String, ImageDigest>,
    volumes: BTreeSet<String>,
    /// What volumes hold, and what instances wrote, by name or id.
    bytes: BTreeMap<String, Bytes>,
    pool_free: Option<Bytes>,
    pool_inodes: Option<u64>,
    asking: Option<room::Asking>,
    names: Vec<NetworkNames>,
    used: BTreeMap<String, Timestamp>,
    /// Changing calls that still succeed before `failing` ones fail.
    spared: u32,
    failing: u32,
    blind: u32,
    starts: BTreeMap<InstanceId, u32>,
    workloads: BTreeMap<InstanceId, Workload>,
    asked: BTreeMap<InstanceId, u32>,
    removed: BTreeSet<InstanceId>,
    kept: Vec<ImageDigest>,
    calls: u64,
    /// Calls of each verb and instance so far.
    judged: BTreeMap<(Verb, InstanceId), u32>,
    addresses: u32,
    /// Images that are not in the store yet, and how long getting them takes.
    away: BTreeMap<String, (ImageDigest, Millis)>,
    /// When each fetch under way ends.
    fetches: Vec<Timestamp>,
    is_cut_off: bool,
}

/// The simulated engine.
#[derive(Default)]
pub struct Simulated {
    world: Mutex<World>,
    changed: Condvar,
    judge: Mutex<Option<Judge>>,
}

impl Simulated {
    /// An empty world at time zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the time.
    pub fn set_now(&self, now: Timestamp) {
        self.world().now = now;
        self.ring();
    }

    /// Puts an image there whose workloads behave so.
    pub fn add_image(&self, name: &str, digest: &ImageDigest, behaviour: Behaviour) {
        let mut world = self.world();
        world.images.insert(name.to_owned(), digest.clone());
        world.behaviours.insert(digest.clone(), behaviour);
    }

    /// Lets somebody decide what becomes of calls that change something of an instance.
    pub fn set_judge(&self, judge: Judge) {
        *self.judge.lock().unwrap_or_else(PoisonError::into_inner) = Some(judge);
    }

    /// What becomes of this call.
    fn judge(&self, verb: Verb, id: InstanceId, uid_range: Option<u32>) -> Fate {
        let judge = self.judge.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(judge) = judge else {
            return Fate::Happens;
        };
        let call = {
            let mut world = self.world();
            let known = world.workloads.get(&id).map(|workload| workload.uid_range);
            let count = world.judged.entry((verb, id)).or_default();
            *count += 1;
            Call {
                verb,
                id,
                uid_range: uid_range.or(known),
                before: *count - 1,
            }
        };
        judge(&call)
    }

    /// When something of what is seen changes by itself next.
    #[must_use]
    pub fn next_change(&self) -> Option<Timestamp> {
        let world = self.world();
        let changes = world.lives.values().filter_map(|life| {
            let end = life.ends.as_ref().map(|(at, _)| *at).filter(|at| *at > world.now);
            if life.ends.as_ref().is_some_and(|(at, _)| *at <= world.now) {
                return None;
            }
            let age = world.now.since(life.started);
            let behaviour = world.behaviours.get(&life.image).filter(|_| life.probed);
            let check = behaviour
                .and_then(|b| b.next_change(age))
                .map(|age| life.started.plus(age));
            end.into_iter().chain(check).min()
        });
        changes.min()
    }

    /// Lets the next `calls` calls that change something fail.
    pub fn fail_next(&self, calls: u32) {
        self.fail_later(0, calls);
    }

    /// Lets `spared` calls that change something pass and the `calls` after them fail.
    pub fn fail_later(&self, spared: u32, calls: u32) {
        let mut world = self.world();
        world.spared = spared;
        world.failing = calls;
    }

    /// Lets the world be unreadable for the next looks.
    pub fn blind(&self, looks: u32) {
        self.world().blind = looks;
    }

    /// What an instance was started with.
    #[must_use]
    pub fn workload(&self, id: InstanceId) -> Option<Workload> {
        self.world().workloads.get(&id).cloned()
    }

    /// Every instance that was ever asked to end.
    #[must_use]
    pub fn asked_to_end(&self) -> BTreeSet<InstanceId> {
        self.world().asked.keys().copied().collect()
    }

    /// How often an instance was asked to end.
    #[must_use]
    pub fn stops(&self, id: InstanceId) -> u32 {
        self.world().asked.get(&id).copied().unwrap_or_default()
    }

    /// The images that the last collection was told to keep.
    #[must_use]
    pub fn kept_images(&self) -> Vec<ImageDigest> {
        self.world().kept.clone()
    }

    /// Every id that was ever to be removed.
    #[must_use]
    pub fn removed(&self) -> BTreeSet<InstanceId> {
        self.world().removed.clone()
    }

    /// Calls so far that change something, failed ones included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.world().calls
    }

    /// Ends a workload as if by itself.
    pub fn crash(&self, id: InstanceId, exit: Exit) {
        let mut world = self.world();
        let now = world.now;
        if let Some(life) = world.lives.get_mut(&id) {
            life.ends = Some((now, exit));
        }
        drop(world);
        self.ring();
    }

    /// How often each workload was really started: more than once breaks the face's promise.
    #[must_use]
    pub fn starts(&self) -> BTreeMap<InstanceId, u32> {
        self.world().starts.clone()
    }

    /// The names last published.
    #[must_use]
    pub fn names(&self) -> Vec<NetworkNames> {
        self.world().names.clone()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.world().changes += 1;
        self.changed.notify_all();
    }

    fn changing(&self, what: &str) -> Result<MutexGuard<'_, World>, EngineError> {
        let mut world = self.world();
        world.calls += 1;
        if world.spared > 0 {
            world.spared -= 1;
        } else if world.failing > 0 {
            world.failing -= 1;
            return Err(EngineError::Host {
                what: what.to_owned(),
                why: "failed as the test asked".to_owned(),
            });
        }
        world.changes += 1;
        self.changed.notify_all();
        Ok(world)
    }
}

impl Engine for Simulated {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            engine: "simulated",
            clone: "copy".to_owned(),
            pool: "in memory".to_owned(),
            limits: "none".to_owned(),
        }
    }

    fn capacity(&self) -> Result<crate::Capacity, EngineError> {
        Ok(room::MACHINE)
    }

    fn ensure(&self, workload: &Workload) -> Result<Ipv4Addr, EngineError> {
        let fate = self.judge(Verb::Start, workload.id, Some(workload.uid_range));
        let mut world = self.changing("start an instance")?;
        let delay = match fate {
            Fate::Fails => return Err(judged("start an instance")),
            Fate::Happens | Fate::FailsAfterwards | Fate::IsForgotten => Millis::new(0),
            Fate::IsLate(delay) => delay,
        };
        if let Some(life) = world.lives.get(&workload.id) {
            return Ok(life.address);
        }
        let behaviour = world.behaviours.get(&workload.image).cloned().unwrap_or_default();
        if let Some(why) = behaviour.refuses {
            return Err(EngineError::NotStarted { id: workload.id, why });
        }
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 255, 0, 2)).wrapping_add(world.addresses));
        world.addresses += 1;
        if fate == Fate::IsForgotten {
            return Ok(address);
        }
        let started = world.now.plus(delay);
        *world.starts.entry(workload.id).or_default() += 1;
        world.workloads.insert(workload.id, workload.clone());
        world.lives.insert(
            workload.id,
            Life {
                image: workload.image.clone(),
                address,
                probed: workload.probe.is_some(),
                started,
                ends: behaviour.exits.map(|(after, exit)| (started.plus(after), exit)),
            },
        );
        match fate {
            Fate::FailsAfterwards => Err(judged("start an instance")),
            Fate::Happens | Fate::Fails | Fate::IsForgotten | Fate::IsLate(_) => Ok(address),
        }
    }

    fn stop(&self, id: InstanceId, grace: Duration) -> Result<(), EngineError> {
        let fate = self.judge(Verb::Stop, id, None);
        let mut world = self.changing("stop an instance")?;
        let delay = match fate {
            Fate::Fails => return Err(judged("stop an instance")),
            Fate::IsForgotten => return Ok(()),
            Fate::Happens | Fate::FailsAfterwards => Millis::new(0),
            Fate::IsLate(delay) => delay,
        };
        let now = world.now.plus(delay);
        let grace = Millis::new(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        *world.asked.entry(id).or_default() += 1;
        let world = &mut *world;
        if let Some(life) = world.lives.get_mut(&id) {
            let obeys = world
                .behaviours
                .get(&life.image)
                .map_or(Some(Millis::new(0)), |b| b.obeys_after);
            let (after, exit) = match obeys {
                Some(after) if after <= grace => (after, Exit::Code { code: 0 }),
                Some(_) | None => (grace, Exit::Signal { signal: 9 }),
            };
            let end = now.plus(after);
            if life.ends.as_ref().is_none_or(|(earlier, _)| *earlier > end) {
                life.ends = Some((end, exit));
            }
        }
        match fate {
            Fate::FailsAfterwards => Err(judged("stop an instance")),
            Fate::Happens | Fate::Fails | Fate::IsForgotten | Fate::IsLate(_) => Ok(()),
        }
    }

    fn remove(&self, id: InstanceId) -> Result<(), EngineError> {
        let fate = self.judge(Verb::Remove, id, None);
        let mut world = self.changing("remove an instance")?;
        match fate {
            Fate::Fails => return Err(judged("remove an instance")),
            Fate::IsForgotten => return Ok(()),
            Fate::Happens | Fate::FailsAfterwards | Fate::IsLate(_) => {}
        }
        world.lives.remove(&id);
        world.removed.insert(id);
        match fate {
            Fate::FailsAfterwards => Err(judged("remove an instance")),
            Fate::Happens | Fate::Fails | Fate::IsForgotten | Fate::IsLate(_) => Ok(()),
        }
    }

    fn observe(&self) -> Result<Vec<Observed>, EngineError> {
        let mut world = self.world();
        if world.blind > 0 {
            world.blind -= 1;
            return Err(EngineError::Host {
                what: "look at the instances".to_owned(),
                why: "blind as the test asked".to_owned(),
            });
        }
        let seen = world.lives.iter().map(|(id, life)| {
            let ended = life.ends.as_ref().filter(|(at, _)| *at <= world.now);
            let phase = if let Some((at, exit)) = ended {
                Phase::Exited {
                    at: *at,
                    exit: exit.clone(),
                }
            } else {
                let behaviour = world.behaviours.get(&life.image);
                let age = world.now.since(life.started);
                let ready = if behaviour.is_none_or(|behaviour| behaviour.is_ready(age)) {
                    Ok(())
                } else {
                    Err("not listening yet".to_owned())
                };
                Phase::Running {
                    since: life.started,
                    ready: life.probed.then_some(ready),
                }
            };
            Observed {
                id: *id,
                address: Some(life.address),
                phase,
            }
        });
        Ok(seen.collect())
    }

    fn wait_change(&self, seen: u64, timeout: Duration) -> u64 {
        let world = self.world();
        let (world, _) = self
            .changed
            .wait_timeout_while(world, timeout, |world| world.changes == seen)
            .unwrap_or_else(PoisonError::into_inner);
        world.changes
    }

    fn usage(&self, id: InstanceId) -> Result<Usage, EngineError> {
        if self.world().lives.contains_key(&id) {
            Ok(Usage::default())
        } else {
            Err(EngineError::NotRunning(id))
        }
    }

    fn exec(&self, _id: InstanceId, _exec: &Exec) -> Result<ExecStreams, EngineError> {
        Err(EngineError::Unsupported("exec"))
    }

    fn logs(&self, _query: &LogQuery) -> Result<Vec<LogRecord>, EngineError> {
        Ok(Vec::new())
    }

    fn collect_logs(&self, _keep: &BTreeSet<String>) -> Result<(), EngineError> {
        Ok(())
    }

    fn publish_names(&self, names: &[NetworkNames]) -> Result<(), EngineError> {
        self.changing("publish names")?.names = names.to_vec();
        Ok(())
    }

    fn last_used(&self) -> Result<BTreeMap<String, Timestamp>, EngineError> {
        Ok(self.world().used.clone())
    }

    fn use_door(&self, key: &str) -> Result<(), EngineError> {
        let now = Timestamp::now();
        self.changing("use a door")?.used.insert(key.to_owned(), now);
        Ok(())
    }

    fn fetch_image(
        &self,
        request: &FetchImage<'_>,
        _lines: LineSink<'_>,
    ) -> Result<ImageDigest, EngineError> {
        let mut world = self.changing("fetch an image")?;
        if let Some((digest, takes)) = world.away.get(request.name).cloned() {
            let until = world.now.plus(takes);
            world.fetches.push(until);
            let (mut world, _) = self
                .changed
                .wait_timeout_while(world, FETCH_LIMIT, |world| !world.is_cut_off && world.now < until)
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = world.fetches.iter().position(|one| *one == until) {
                world.fetches.swap_remove(at);
            }
            if world.is_cut_off || world.now < until {
                return Err(judged("fetch an image"));
            }
            world.images.insert(request.name.to_owned(), digest.clone());
            return Ok(digest);
        }
        world
            .images
            .get(request.name)
            .cloned()
            .ok_or_else(|| no_image(request.name))
    }

    fn combine_images(&self, _below: &ImageDigest, above: &ImageDigest) -> Result<ImageDigest, EngineError> {
        self.changing("combine images").map(|_| above.clone())
    }

    fn find_image(&self, name_or_digest: &str) -> Result<Option<ImageFacts>, EngineError> {
        self.asking(name_or_digest);
        let world = self.world();
        let digest = world.images.get(name_or_digest).or_else(|| {
            world
                .images
                .values()
                .find(|digest| digest.as_str() == name_or_digest)
        });
        Ok(digest.map(|digest| ImageFacts {
            digest: digest.clone(),
            command: vec!["/program".to_owned()],
            env: BTreeMap::new(),
            user: None,
            workdir: None,
            ports: Vec::new(),
            labels: BTreeMap::new(),
        }))
    }

    fn image_has(&self, _image: &ImageDigest, _path: &str) -> Result<bool, EngineError> {
        Ok(false)
    }

    fn images(&self) -> Result<Vec<ImageSummary>, EngineError> {
        let world = self.world();
        let summaries = world.images.iter().map(|(name, digest)| ImageSummary {
            digest: digest.clone(),
            names: vec![name.clone()],
            bytes: 0,
            created_at: Timestamp::from_ms(0),
        });
        Ok(summaries.collect())
    }

    fn remove_image(&self, name_or_digest: &str) -> Result<(), EngineError> {
        let removed = self.changing("remove an image")?.images.remove(name_or_digest);
        removed.map(drop).ok_or_else(|| no_image(name_or_digest))
    }

    fn collect_images(&self, keep: &[ImageDigest]) -> Result<u64, EngineError> {
        keep.clone_into(&mut self.world().kept);
        Ok(0)
    }

    fn unpack_source(&self, _archive: &Path, _into: &Path) -> Result<(), EngineError> {
        Err(EngineError::Unsupported("unpacking a source"))
    }

    fn build_step(&self, _step: &BuildStep, _lines: LineSink<'_>) -> Result<StepOutput, EngineError> {
        Err(EngineError::Unsupported("building"))
    }

    fn create_volume(&self, name: &str) -> Result<(), EngineError> {
        self.changing("create a volume")?.volumes.insert(name.to_owned());
        Ok(())
    }

    fn clone_volume(&self, from: &str, to: &str) -> Result<(), EngineError> {
        let mut world = self.changing("clone a volume")?;
        if !world.volumes.contains(from) {
            return Err(no_volume(from));
        }
        world.volumes.insert(to.to_owned());
        Ok(())
    }

    fn rename_volume(&self, from: &str, to: &str) -> Result<(), EngineError> {
        let mut world = self.changing("rename a volume")?;
        if !world.volumes.remove(from) {
            return Err(no_volume(from));
        }
        world.volumes.insert(to.to_owned());
        Ok(())
    }

    fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        self.changing("remove a volume")?.volumes.remove(name);
        Ok(())
    }

    fn volumes(&self) -> Result<Vec<VolumeFacts>, EngineError> {
        let world = self.world();
        Ok(world
            .volumes
            .iter()
            .map(|name| VolumeFacts { name: name.clone() })
            .collect())
    }

    fn volume_bytes(&self, name: &str, _enough: Bytes) -> Result<Bytes, EngineError> {
        self.asking(name);
        Ok(self.world().bytes.get(name).copied().unwrap_or(Bytes::new(0)))
    }

    fn pool_free(&self) -> Result<Bytes, EngineError> {
        self.asking("pool");
        Ok(self.world().pool_free.unwrap_or(Bytes::mi(1 << 20)))
    }

    fn pool_inodes(&self) -> Result<Option<u64>, EngineError> {
        Ok(self.world().pool_inodes)
    }

    fn volume_inodes(&self, _name: &str) -> Result<u64, EngineError> {
        Ok(0)
    }

    fn written(&self, id: InstanceId, enough: Bytes) -> Result<Bytes, EngineError> {
        self.volume_bytes(&id.to_string(), enough)
    }

    fn end_full(&self, id: InstanceId) -> Result<(), EngineError> {
        self.crash(id, Exit::DiskFull);
        Ok(())
    }

    fn volume_path(&self, _name: &str) -> Result<PathBuf, EngineError> {
        Err(EngineError::Unsupported("a volume's files"))
    }
}

#[cfg(test)]
mod tests;
