//! What there is after a trial of `kill`, beside what there should be.
//!
//! Lives here: answers, operations, the host, workloads, traffic. Does not live here: waiting until it has settled (`kill`).
//! Invariant: a difference is told as it is; only exchanges cut together with their own edge, warden or workload, and what
//! the platform has had no time to remove yet, are not counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::kill::{Bench, Kill, Outage};
use super::operation::{Answer, Operation};
use super::outcome::{Found, Outcome, Victim, Wrong};
use super::state::{self, State};
use super::world::{self, World};
use crate::traffic::{Fault, Report, Trouble};
use crate::{Api, Stoa, until};

/// What belongs to nobody must be gone after this: the platform gives it 20 s, a loaded machine some more.
pub(super) const LEFTOVER_GRACE: Duration = Duration::from_secs(90);

/// Instances by name on the host: app and condition.
pub(super) type Live = BTreeMap<String, (String, String)>;

/// Processes of each instance.
pub(super) type Workloads = BTreeMap<String, BTreeSet<(i32, u64)>>;

/// Acknowledged is there, once; unknown is there once or not at all.
pub(super) fn answers(
    operation: &Operation,
    answer: &Answer,
    may_fail: bool,
    (before, after): (&State, &State),
    found: &mut Found,
) {
    let mut acceptable = operation.heard(before, may_fail);
    match answer {
        Answer::Acknowledged { .. } => {}
        Answer::Unknown => acceptable.push(before.clone()),
        Answer::Refused { why } => {
            found.push((Wrong::Refused, why.clone()));
            acceptable = vec![before.clone()];
        }
    }
    if !acceptable.contains(after) {
        let differences = acceptable.iter().map(|state| state.difference(after));
        let least = differences.min_by_key(Vec::len).unwrap_or_default();
        if !least.is_empty() {
            found.extend(least.into_iter().map(|what| (Wrong::Lost, what)));
        }
    }
}

/// One question is one operation.
pub(super) fn operations(
    api: &Api,
    operation: &Operation,
    answer: &Answer,
    may_fail: bool,
    known: &BTreeSet<String>,
    found: &mut Found,
) -> Result<()> {
    let newest = known.iter().next_back().cloned().unwrap_or_default();
    let all = state::operations(api)?;
    // Ids grow with time: older ones only come back into the page as newer ones leave it.
    let fresh: Vec<_> = all
        .iter()
        .filter(|one| {
            one["id"]
                .as_str()
                .is_some_and(|id| *id > *newest && !known.contains(id))
        })
        .collect();
    if fresh.len() > 1 {
        found.push((
            Wrong::Doubled,
            format!("one question, {} operations: {fresh:?}", fresh.len()),
        ));
    }
    if let Answer::Acknowledged { operation: Some(id) } = answer {
        let reply = api.call("GET", &format!("/v1/operations/{id}"), None)?;
        if reply.status != 200 {
            found.push((
                Wrong::Lost,
                format!("operation {id}: {} {}", reply.status, reply.body),
            ));
        }
        let is_done = reply.body["state"] == "succeeded";
        if operation.must_succeed() && !is_done && !may_fail {
            found.push((Wrong::Lost, format!("it ended as {}", reply.body)));
        }
    }
    Ok(())
}

/// Instances of all apps that have not ended, with app and condition.
pub(super) fn live(api: &Api, state: &State) -> Result<Live> {
    let mut live = BTreeMap::new();
    for app in state.apps.keys() {
        for (instance, condition) in state::live(api, app)? {
            live.insert(instance, (app.clone(), condition));
        }
    }
    Ok(live)
}

/// What is there and belongs to nobody, and what should be there and is not.
pub(super) fn world(
    stoa: &Stoa,
    api: &Api,
    fixed: &BTreeSet<String>,
) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let state = State::read(api)?;
    let before = live(api, &state)?;
    let world = World::look(stoa);
    let after = live(api, &state)?;
    let (mut surplus, mut missing) = (BTreeSet::new(), BTreeSet::new());
    let is_steady = |id: &String| {
        let steady = |live: &Live| live.get(id).is_some_and(|(_, condition)| condition == "ready");
        steady(&before) && steady(&after)
    };
    // Instances of databases are not listed: their number must fit.
    let kept = state
        .databases
        .values()
        .filter(|state| *state == "active")
        .count();
    for (facet, owners) in &world.facets {
        let strange: Vec<&String> = owners
            .iter()
            .filter(|id| !before.contains_key(*id) && !after.contains_key(*id))
            .collect();
        if strange.len() > kept {
            surplus.extend(strange.into_iter().map(|id| format!("{facet}: {id}")));
        }
        for id in before.keys().filter(|id| is_steady(id) && !owners.contains(*id)) {
            missing.insert(format!("{facet}: {id}"));
        }
    }
    let attached = world.facets.get("attachment").map_or(0, BTreeSet::len);
    if world.ports > attached {
        surplus.insert(format!("{} links for {attached} attachments", world.ports));
    }
    missing.extend(fixed.difference(&world.fixed).cloned());
    surplus.extend(world.fixed.difference(fixed).cloned());
    surplus.extend(world.passing);
    Ok((surplus, missing))
}

impl Bench {
    /// What the host carries is what the API lists; what more there is must go within its grace.
    pub(super) fn compare_world(&mut self, found: &mut Found) -> Result<()> {
        let missing = until("what the API lists to be there", Duration::from_secs(20), || {
            let (surplus, missing) = world(&self.stoa, &self.api, &self.fixed)?;
            if missing.is_empty() {
                Ok(Some(surplus))
            } else {
                bail!("{missing:#?}")
            }
        });
        let surplus = match missing {
            Ok(surplus) => surplus,
            Err(error) => {
                found.push((Wrong::Missing, format!("{error:#}")));
                world(&self.stoa, &self.api, &self.fixed)?.0
            }
        };
        self.leftovers.retain(|what, _| surplus.contains(what));
        for what in surplus {
            let since = self.leftovers.entry(what.clone()).or_insert_with(Instant::now);
            if since.elapsed() > LEFTOVER_GRACE {
                let age = since.elapsed().as_secs();
                found.push((Wrong::Orphan, format!("{what}, for {age} s")));
                // Told once in a while, not after every trial.
                *since = Instant::now();
            }
        }
        Ok(())
    }

    /// Workloads keep their processes, unless what was asked for replaces them or their own keeper was killed.
    pub(super) fn compare_workloads(
        &self,
        operation: &Operation,
        kill: &Kill,
        (live, before): (&Live, &Workloads),
        found: &mut Found,
    ) -> Result<()> {
        let state = State::read(&self.api)?;
        let now = self::live(&self.api, &state)?;
        let after = world::workloads(&self.stoa);
        for (id, (app, condition)) in live {
            if condition != "ready" || kill.instance.as_ref() == Some(id) {
                continue;
            }
            let is_there = now.get(id).is_some_and(|(_, condition)| condition == "ready");
            if !is_there {
                if operation.replaces() != Some(app.as_str()) {
                    let now = now.get(id);
                    found.push((
                        Wrong::Workload,
                        format!("{id} of {app} was ready and is now {now:?}"),
                    ));
                }
                continue;
            }
            let (was, is) = (before.get(id), after.get(id));
            if was != is {
                found.push((
                    Wrong::Workload,
                    format!("processes of {id} were {was:?} and are {is:?}"),
                ));
            }
        }
        Ok(())
    }

    /// Every trouble counts, but for exchanges that were cut together with the edge, the warden or their workload.
    pub(super) fn judge(&self, report: &Report, outcome: &mut Outcome, found: &mut Found) {
        for trouble in &report.troubles {
            let is_cut = matches!(trouble.fault, Fault::Failed | Fault::Truncated);
            // The latest: what an earlier one hit has mostly ended.
            let mut outages = self.outages.iter().rev();
            let excuses = |out: &&Outage| is_cut && trouble.begin < out.until && trouble.end > out.from;
            match outages.find(excuses) {
                Some(outage) => excuse(outcome, outage.victim, trouble),
                None => found.push((Wrong::Traffic, trouble.to_string())),
            }
        }
    }
}

fn excuse(outcome: &mut Outcome, victim: Victim, trouble: &Trouble) {
    // Without the numbers, so that equal ones are told together.
    let why = trouble.why.split_once(": ").map_or("", |(_, why)| why);
    let why: Vec<&str> = why
        .split(' ')
        .map(|word| if word.parse::<u32>().is_ok() { "N" } else { word })
        .collect();
    let why = why.join(" ");
    let why = format!("{} {:?}: {why}", trouble.kind.name(), trouble.fault);
    *outcome.excused.entry((victim, why)).or_default() += 1;
}
