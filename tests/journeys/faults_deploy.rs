//! Faults of what people ask for at the same time (F35-F38 of the reliability note): deploys, cancels, rollbacks, deletes.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use journeys::{ENVIRONMENT, Fleet, Instance, PATIENCE, Stoa, Tiny, holds, until};
use serde_json::{Value, json};

/// Apps deployed at the same time.
const MANY: u32 = 20;
/// What belongs to nobody goes after 20 s; a loaded machine takes longer.
const ORPHANS_GO_WITHIN: Duration = Duration::from_secs(90);

#[test]
fn f35_f36_f37_f38_deploys_that_meet_have_one_end() -> Result<()> {
    let stoa = Stoa::start("faults-deploy")?;
    let fleet = Fleet::new(&stoa)?;
    f35_many_apps_at_once_all_serve(&stoa, &fleet)?;
    f35_two_deploys_of_one_app_are_ordered_and_the_last_wins(&stoa, &fleet)?;
    f36_a_cancel_at_each_step_is_as_never_started(&stoa, &fleet)?;
    f37_a_rollback_while_rolling_out_has_one_winner(&stoa, &fleet)?;
    f38_a_delete_during_a_deploy_leaves_nothing(&stoa, &fleet)?;
    stoa.finish()
}

fn answers(stoa: &Stoa, app: &str) -> Result<String> {
    Ok(stoa.get(&format!("{app}.localhost"), "/")?.text())
}

/// Several threads ask at the same time.
fn at_once<T: Send>(asks: Vec<Box<dyn FnOnce() -> Result<T> + Send + '_>>) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = asks.into_iter().map(|ask| scope.spawn(ask)).collect();
        let ends = threads.into_iter().map(|thread| {
            let end = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"));
            end.and_then(|answer| answer)
        });
        ends.collect()
    })
}

fn f35_many_apps_at_once_all_serve(stoa: &Stoa, fleet: &Fleet) -> Result<()> {
    let begin = Instant::now();
    let asks = (0..MANY).map(|number| {
        let ask = move || fleet.deploy(&format!("many-{number}"), &Tiny::version(1 + number % 3));
        Box::new(ask) as Box<dyn FnOnce() -> Result<()> + Send>
    });
    at_once(asks.collect())?;
    println!("{MANY} apps serve after {:.1} s", begin.elapsed().as_secs_f64());
    for number in 0..MANY {
        let said = answers(stoa, &format!("many-{number}"))?;
        ensure!(
            said == (1 + number % 3).to_string(),
            "many-{number} answers {said:?}"
        );
    }
    // All of them go at once too; the rest of the journey has the machine for itself.
    let asks = (0..MANY).map(|number| {
        let ask = move || {
            let path = format!("{ENVIRONMENT}/apps/many-{number}");
            fleet.api().done("DELETE", &path, None).map(drop)
        };
        Box::new(ask) as Box<dyn FnOnce() -> Result<()> + Send>
    });
    at_once(asks.collect())?;
    is_clean(stoa, fleet, &[])
}

fn f35_two_deploys_of_one_app_are_ordered_and_the_last_wins(stoa: &Stoa, fleet: &Fleet) -> Result<()> {
    fleet.deploy("twice", &Tiny::version(1))?;
    let asks = [2, 3, 4, 5].map(|version| {
        let ask = move || {
            fleet
                .begin("twice", &Tiny::version(version))
                .map(|id| (id, version))
        };
        Box::new(ask) as Box<dyn FnOnce() -> Result<(String, u32)> + Send>
    });
    let mut accepted = at_once(asks.into())?;
    // Ids grow in the order in which they were accepted.
    accepted.sort();
    for (operation, _) in &accepted {
        let settled = fleet.api().settled(operation)?;
        ensure!(settled["state"] == "succeeded", "{settled:#}");
    }
    let last = accepted.last().map(|(_, version)| version.to_string());
    let said = answers(stoa, "twice")?;
    ensure!(
        Some(&said) == last.as_ref(),
        "{said} answers, accepted were {accepted:?}"
    );
    ensure!(
        fleet.serving("twice")?.as_deref() == Some("v5"),
        "releases are not in order"
    );
    fleet.wait_ready("twice", 1)?;
    Ok(())
}

/// What an app is, as far as people can tell.
#[derive(Debug, PartialEq)]
struct Standing {
    serving: Option<String>,
    answers: String,
    ready: BTreeSet<String>,
}

fn standing(stoa: &Stoa, fleet: &Fleet, app: &str) -> Result<Standing> {
    Ok(Standing {
        serving: fleet.serving(app)?,
        answers: answers(stoa, app)?,
        ready: fleet.wait_ready(app, 1)?.into_iter().collect(),
    })
}

fn cancel(fleet: &Fleet, operation: &str) -> Result<Value> {
    let path = format!("/v1/operations/{operation}/cancel");
    let reply = fleet.api().call("POST", &path, None)?;
    ensure!(
        matches!(reply.status, 202 | 409),
        "{} {}",
        reply.status,
        reply.body
    );
    fleet.api().settled(operation)
}

fn f36_a_cancel_at_each_step_is_as_never_started(stoa: &Stoa, fleet: &Fleet) -> Result<()> {
    fleet.deploy("given-up", &Tiny::version(1))?;
    let before = standing(stoa, fleet, "given-up")?;
    // A build step and a release job that take a while, and an instance that never gets ready: each step can be met.
    let slow = |seconds: u32| {
        let step = json!(["busybox", "sleep", seconds.to_string()]);
        let job = format!("[jobs.slow]\ncommand = {step}\non = \"release\"\n");
        Tiny::version(2)
            .health("path = \"/nowhere\", interval = \"500ms\", grace = \"120s\"")
            .with(&job)
            .build(&format!("command = {step}"))
    };
    let mut met = BTreeSet::new();
    let operation = fleet.begin("given-up", &slow(1))?;
    // First it is only watched, to learn the names of the steps.
    until("the last step", PATIENCE, || {
        let now = fleet.api().get(&format!("/v1/operations/{operation}"))?;
        let step = now["step"].as_str().unwrap_or_default().to_owned();
        ensure!(now["settled_at"].is_null(), "it settled: {now:#}");
        met.insert(step.clone());
        Ok(step.contains("starting instances").then_some(()))
    })?;
    let steps: Vec<String> = met.into_iter().collect();
    println!("steps met: {steps:?}");
    ensure!(steps.len() >= 3, "too few steps were met: {steps:?}");
    let settled = cancel(fleet, &operation)?;
    ensure!(settled["state"] == "canceled", "{settled:#}");
    for step in &steps {
        // Another length is another build: nothing of it is cached.
        let operation = fleet.begin("given-up", &slow(2 + u32::try_from(step.len())? % 5))?;
        let reached = until(step, PATIENCE, || {
            let now = fleet.api().get(&format!("/v1/operations/{operation}"))?;
            let is_there = now["step"] == step.as_str() || !now["settled_at"].is_null();
            let is_last = now["step"]
                .as_str()
                .is_some_and(|step| step.contains("starting instances"));
            Ok((is_there || is_last).then_some(now["step"].clone()))
        })?;
        let settled = cancel(fleet, &operation)?;
        println!("cancelled at {reached}, wanted {step:?}: {}", settled["state"]);
        ensure!(settled["state"] == "canceled", "{settled:#}");
        let after = standing(stoa, fleet, "given-up")?;
        ensure!(
            after == before,
            "after a cancel at {step:?}: {after:?} instead of {before:?}"
        );
    }
    is_clean(stoa, fleet, &["given-up", "twice"])
}

fn f37_a_rollback_while_rolling_out_has_one_winner(stoa: &Stoa, fleet: &Fleet) -> Result<()> {
    for version in 1..=2 {
        fleet.deploy("back", &Tiny::version(version))?;
    }
    let rollback = |to: Option<&str>| -> Result<String> {
        let body = to.map(|to| json!({ "to": to }));
        let path = format!("{ENVIRONMENT}/apps/back/rollback");
        fleet.api().begin("POST", &path, body.as_ref())
    };
    // The rollout of v3 holds until its instance is ready, which takes two seconds.
    let slow = Tiny::version(3).script("busybox sleep 2; SERVE");
    let deploy = fleet.begin("back", &slow)?;
    until("the rollout to move", PATIENCE, || {
        Ok(fleet.app("back")?.filter(|app| !app["rollout"].is_null()))
    })?;
    let first = rollback(Some("v1"))?;
    let second = rollback(Some("v2"))?;
    let mut ends = Vec::new();
    for operation in [&deploy, &first, &second] {
        let settled = fleet.api().settled(operation)?;
        ends.push(settled["state"].as_str().unwrap_or_default().to_owned());
    }
    println!("deploy, rollback, rollback of the rollback: {ends:?}");
    ensure!(ends[1] == "succeeded" && ends[2] == "succeeded", "{ends:?}");
    let after = standing(stoa, fleet, "back")?;
    ensure!(
        after.serving.as_deref() == Some("v2") && after.answers == "2",
        "the last one asked for is v2, {after:?} serves"
    );
    is_clean(stoa, fleet, &["given-up", "twice", "back"])
}

fn f38_a_delete_during_a_deploy_leaves_nothing(stoa: &Stoa, fleet: &Fleet) -> Result<()> {
    for (app, is_first) in [("half-new", true), ("half-old", false)] {
        if is_first {
            fleet.create(app)?;
        } else {
            fleet.deploy(app, &Tiny::version(1).with("scale = 2"))?;
        }
        let slow = Tiny::version(2).script("busybox sleep 30; SERVE");
        let deploy = fleet.begin(app, &slow)?;
        until("instances of the new release", PATIENCE, || {
            let all = fleet.instances(app)?;
            let is_new = |one: &&Value| one["condition"] == "starting";
            Ok(all.iter().any(|one| is_new(&one)).then_some(()))
        })?;
        let delete = fleet
            .api()
            .begin("DELETE", &format!("{ENVIRONMENT}/apps/{app}"), None)?;
        let (deploy, delete) = (fleet.api().settled(&deploy)?, fleet.api().settled(&delete)?);
        ensure!(delete["state"] == "succeeded", "{delete:#}");
        ensure!(deploy["state"] != "succeeded", "{deploy:#}");
        ensure!(fleet.app(app)?.is_none(), "{app} is still there");
        ensure!(
            stoa.get(&format!("{app}.localhost"), "/")?.status == 404,
            "{app} still answers"
        );
        // The name is free again, and what it was is not known any more.
        fleet.deploy(app, &Tiny::version(7))?;
        ensure!(answers(stoa, app)? == "7", "the successor does not answer");
        ensure!(
            fleet.serving(app)?.as_deref() == Some("v1"),
            "releases outlived their app"
        );
    }
    is_clean(
        stoa,
        fleet,
        &["given-up", "twice", "back", "half-new", "half-old"],
    )
}

/// Nothing runs on the host but what the API lists as living.
fn is_clean(stoa: &Stoa, fleet: &Fleet, apps: &[&str]) -> Result<()> {
    until("orphans to be gone", ORPHANS_GO_WITHIN, || {
        let mut known = BTreeSet::new();
        for app in apps {
            let listed = fleet.instances(app)?;
            let living = listed.iter().filter(|one| one["condition"] != "exited");
            for id in living.filter_map(|one| one["id"].as_str()) {
                known.insert(Instance::of(stoa, id)?.name().to_owned());
            }
        }
        let found: BTreeSet<String> = stoa.instance_folders();
        let orphans: Vec<_> = found.difference(&known).collect();
        ensure!(orphans.is_empty(), "{orphans:?} belong to nobody");
        Ok(Some(()))
    })?;
    holds("as many keepers as instances", || {
        Ok(stoa.keepers().len() == stoa.instance_folders().len())
    })
    .context("keepers and instances differ")
}
