//! Single situations in words: what is done, what is said.

use std::collections::{BTreeMap, BTreeSet};

use model::app::{Returning, Rollout, Serving};
use model::strategy::{Share, Steps};
use model::{
    App, AppId, Condition, Exit, Failure, Health, Id, Instance, InstanceId, Millis, Name, Purpose, Release,
    ReleaseId, ReleaseState, Resources, Service, Strategy, Surge, Timestamp,
};
use uuid::Uuid;

use super::{Facts, Move, Policy, Routes, Step, Trial, Verdict, decide, foresee};
use crate::prune;

const NOW: u64 = 1_000_000_000;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn release_id(n: u128) -> ReleaseId {
    ReleaseId::from_uuid(Uuid::from_u128(n))
}

fn release(n: u64, services: &[(&str, Option<u16>, u16)]) -> Release {
    let service = |(service, port, count): &(&str, Option<u16>, u16)| {
        let service_spec = Service {
            command: Vec::new(),
            image: None,
            port: *port,
            count: *count,
            resources: Resources::default(),
            health: Health::default(),
            routes: Vec::new(),
            uses: BTreeSet::new(),
            secrets: BTreeSet::new(),
            stop_grace: model::spec::STOP_GRACE,
        };
        (name(service), service_spec)
    };
    Release {
        id: release_id(u128::from(n)),
        app: AppId::from_uuid(Uuid::from_u128(1)),
        number: n,
        created_at: Timestamp::from_ms(NOW),
        operation: Id::from_uuid(Uuid::from_u128(3)),
        note: String::new(),
        image: format!("sha256:{n:064}").parse().expect("a digest"),
        images: BTreeMap::new(),
        services: services.iter().map(service).collect(),
        jobs: BTreeMap::new(),
        env: BTreeMap::new(),
        manifest_env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        strategy: Strategy::default(),
        state: ReleaseState::Proven,
    }
}

/// An app with release 1 (and 2) of `web` x `count` and instances written as `EPOCH.INDEX CONDITION AGE_S`.
struct Scene {
    app: App,
    releases: BTreeMap<ReleaseId, Release>,
    instances: Vec<Instance>,
    idle: BTreeSet<InstanceId>,
    excused: BTreeSet<InstanceId>,
}

fn scene(count: u16, serving: Option<u64>, to: Option<u64>, instances: &str) -> Scene {
    let serves = |epoch: u64| Serving {
        release: release_id(u128::from(epoch)),
        epoch,
    };
    let rollout = |epoch| Rollout {
        operation: Id::from_uuid(Uuid::from_u128(9)),
        to: serves(epoch),
        started_at: Timestamp::from_ms(NOW - 60_000),
        deadline: Timestamp::from_ms(NOW + 60_000),
        failed: BTreeSet::new(),
        begun: BTreeMap::new(),
        returning: None,
    };
    let app = App {
        id: AppId::from_uuid(Uuid::from_u128(1)),
        environment: Id::from_uuid(Uuid::from_u128(2)),
        name: name("shop"),
        env: BTreeMap::new(),
        scale: BTreeMap::new(),
        serving: serving.map(serves),
        served_before: Vec::new(),
        rollout: to.map(rollout),
        deleting: false,
    };
    let services = [("web", Some(8080), count)];
    let releases = [release(1, &services), release(2, &services)];
    let mut scene = Scene {
        app,
        releases: releases
            .into_iter()
            .map(|release| (release.id, release))
            .collect(),
        instances: Vec::new(),
        idle: BTreeSet::new(),
        excused: BTreeSet::new(),
    };
    for (n, line) in instances
        .split(',')
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .enumerate()
    {
        scene.instances.push(instance(n as u128 + 1, line));
    }
    scene
}

fn instance(n: u128, line: &str) -> Instance {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (epoch, index) = words[0].split_once('.').expect("EPOCH.INDEX");
    let age_s: u64 = words[2].parse().expect("an age");
    let since = Timestamp::from_ms(NOW - age_s * 1000);
    let condition = match words[1] {
        "starting" => Condition::Starting { since },
        "ready" => Condition::Ready { since },
        "unready" => Condition::Unready {
            since,
            why: "503".to_owned(),
        },
        "draining" => Condition::Draining { since },
        "stopping" => Condition::Stopping { since },
        "exited" => Condition::Exited {
            at: since,
            exit: Exit::Code { code: 1 },
        },
        other => panic!("{other}"),
    };
    let epoch: u64 = epoch.parse().expect("an epoch");
    Instance {
        id: InstanceId::from_uuid(Uuid::from_u128(n)),
        purpose: Purpose::Service {
            app: AppId::from_uuid(Uuid::from_u128(1)),
            release: release_id(u128::from(epoch)),
            epoch,
            service: name("web"),
            index: index.parse().expect("an index"),
        },
        attempt: words
            .get(3)
            .map_or(0, |attempt| attempt.parse().expect("an attempt")),
        created_at: since.plus(Millis::new(n as u64)),
        address: None,
        uid_range: 0,
        excused: false,
        condition,
    }
}

/// The answer as a line: verdict, routed instances, steps.
fn answer(scene: &Scene) -> String {
    let policy = Policy::default();
    let facts = Facts {
        app: &scene.app,
        releases: &scene.releases,
        instances: &scene.instances,
        idle: &scene.idle,
        excused: &scene.excused,
        policy: &policy,
    };
    let decision = decide(&facts, Timestamp::from_ms(NOW));
    let number = |id: &InstanceId| {
        scene
            .instances
            .iter()
            .position(|instance| instance.id == *id)
            .map_or(0, |at| at + 1)
            .to_string()
    };
    let mut words = Vec::new();
    match &decision.verdict {
        Some(Verdict::Promote) => words.push("PROMOTE".to_owned()),
        Some(Verdict::Returned) => words.push("RETURNED".to_owned()),
        Some(Verdict::Return { why }) => words.push(format!("RETURN ({why})")),
        Some(Verdict::Gone) => words.push("GONE".to_owned()),
        None => {}
    }
    let routed: Vec<String> = decision.routes.instances.values().flatten().map(number).collect();
    words.push(format!("[{}]", routed.join(" ")));
    if let Some(trial) = &decision.routes.trial {
        let tried: Vec<String> = trial.instances.iter().map(number).collect();
        words.push(format!("{} for {}", trial.share, tried.join(" ")));
    }
    for step in &decision.steps {
        words.push(match step {
            Step::Start(start) => format!("start {}.{} #{}", start.epoch, start.index, start.attempt),
            Step::Run { instance } => format!("run {}", number(instance)),
            Step::Drain { instance, cause } => format!("drain {} {cause:?}", number(instance)),
            Step::Stop { instance, cause } => format!("stop {} {cause:?}", number(instance)),
            Step::Remove { instance } => format!("remove {}", number(instance)),
        });
    }
    if let Some(at) = decision.next_look {
        words.push(format!("look in {}", at.since(Timestamp::from_ms(NOW))));
    }
    words.join(", ")
}

#[test]
fn situations() {
    for (title, count, serving, to, instances, expected) in [
        ("nothing serves", 1, None, None, "", "[]"),
        (
            "missing places start",
            2,
            Some(1),
            None,
            "",
            "[], start 1.0 #0, start 1.1 #0",
        ),
        ("all is well", 1, Some(1), None, "1.0 ready 9", "[1]"),
        (
            "a new instance waits for its check",
            1,
            Some(1),
            None,
            "1.0 starting 9",
            "[], run 1, look in 21s",
        ),
        (
            "a first crash is repaired at once",
            1,
            Some(1),
            None,
            "1.0 exited 0",
            "[], start 1.0 #1",
        ),
        (
            "a second one after a second",
            1,
            Some(1),
            None,
            "1.0 exited 0 1",
            "[], look in 1s",
        ),
        (
            "later ones later",
            1,
            Some(1),
            None,
            "1.0 exited 3 4",
            "[], look in 5s",
        ),
        (
            "a long unready one is replaced",
            1,
            Some(1),
            None,
            "1.0 unready 60",
            "[], start 1.0 #1, drain 1 Unfit",
        ),
        (
            "one that never got ready, too",
            1,
            Some(1),
            None,
            "1.0 starting 30",
            "[], start 1.0 #1, stop 1 Unfit",
        ),
        (
            "an unready one beats nobody",
            2,
            Some(1),
            None,
            "1.0 unready 9, 1.1 starting 9",
            "[1], run 2, look in 21s",
        ),
        (
            "but no ready one",
            2,
            Some(1),
            None,
            "1.0 unready 9, 1.1 ready 9",
            "[2], look in 51s",
        ),
        (
            "and not while it drains",
            1,
            Some(1),
            None,
            "1.0 draining 9, 1.0 starting 9",
            "[], run 2, look in 21s",
        ),
        (
            "twins: the ready one stays",
            1,
            Some(1),
            None,
            "1.0 starting 9, 1.0 ready 9",
            "[2], stop 1 NotNeeded, look in 21s",
        ),
        (
            "surplus goes",
            1,
            Some(1),
            None,
            "1.0 ready 9, 1.1 ready 9",
            "[1], drain 2 NotNeeded",
        ),
        (
            "strays go",
            1,
            Some(1),
            None,
            "1.0 ready 9, 2.0 ready 9",
            "[1], drain 2 NotNeeded",
        ),
        (
            "even while the place is empty: what was left or given up answers no more",
            1,
            Some(1),
            None,
            "2.0 ready 9",
            "[], start 1.0 #0, drain 1 NotNeeded",
        ),
        (
            "draining takes its time",
            1,
            Some(1),
            None,
            "1.0 ready 9, 2.0 draining 9",
            "[1], look in 21s",
        ),
        (
            "and ends",
            1,
            Some(1),
            None,
            "1.0 ready 9, 2.0 draining 30",
            "[1], stop 2 Repeated",
        ),
        (
            "stopping is repeated",
            1,
            Some(1),
            None,
            "1.0 ready 9, 2.0 stopping 99",
            "[1], stop 2 Repeated",
        ),
        (
            "history is short",
            1,
            Some(1),
            None,
            "1.0 exited 9, 1.0 exited 8, 1.0 exited 7, 1.0 exited 6, 1.0 ready 5",
            "[5], remove 1",
        ),
        (
            "rollout: new beside old",
            1,
            Some(1),
            Some(2),
            "1.0 ready 99",
            "[1], start 2.0 #0, look in 1m",
        ),
        (
            "rollout: the switch",
            1,
            Some(1),
            Some(2),
            "1.0 ready 99, 2.0 ready 1",
            "[2], drain 1 NotNeeded, look in 1s",
        ),
        (
            "rollout: done",
            1,
            Some(1),
            Some(2),
            "1.0 draining 1, 2.0 ready 9",
            "PROMOTE, [2], look in 29s",
        ),
        (
            "rollout: both or none",
            2,
            Some(1),
            Some(2),
            "1.0 ready 9, 1.1 ready 9, 2.0 ready 9, 2.1 starting 9",
            "[1 2], run 4, look in 21s",
        ),
        (
            "rollout: a crash returns",
            1,
            Some(1),
            Some(2),
            "1.0 ready 9, 2.0 exited 1",
            "RETURN (web ended with exit code 1), [1]",
        ),
        (
            "rollout: too slow",
            1,
            Some(1),
            Some(2),
            "1.0 ready 9, 2.0 starting 30",
            "RETURN (web did not get ready within 30s), [1], stop 2 NotNeeded",
        ),
        (
            "rollout: went bad",
            1,
            Some(1),
            Some(2),
            "1.0 ready 9, 2.0 unready 60",
            "RETURN (web got ready, then failed its check: 503), [1], drain 2 NotNeeded",
        ),
        (
            "rollout: the old one is repaired",
            1,
            Some(1),
            Some(2),
            "1.0 exited 9, 2.0 starting 9",
            "[], start 1.0 #1, run 2, look in 21s",
        ),
        (
            "rollout: nothing else serves, so the new one does",
            2,
            Some(1),
            Some(2),
            "1.0 exited 0 3, 1.1 exited 0 3, 2.0 ready 9, 2.1 starting 9",
            "[3], run 4, look in 4s",
        ),
        (
            "rolling: one more at a time",
            4,
            Some(1),
            Some(2),
            "1.0 ready 9, 1.1 ready 9, 1.2 ready 9, 1.3 ready 9",
            "[1 2 3 4], start 2.0 #0, look in 1m",
        ),
        (
            "rolling: room is made",
            4,
            Some(1),
            Some(2),
            "1.0 ready 9, 1.1 ready 9, 1.2 ready 9, 1.3 ready 9, 2.0 ready 9",
            "[1 2 3 5], start 2.1 #0, drain 4 NotNeeded, look in 1m",
        ),
        (
            "rolling: back from the middle at full strength",
            4,
            Some(1),
            Some(2),
            "1.0 ready 9, 1.1 ready 9, 1.2 ready 9, 2.0 ready 9, 2.1 exited 9",
            "RETURN (web ended with exit code 1), [1 2 3 4], start 1.3 #0, look in 1m",
        ),
        ("first rollout", 1, None, Some(1), "1.0 ready 9", "PROMOTE, [1]"),
    ] {
        assert_eq!(answer(&scene(count, serving, to, instances)), expected, "{title}");
    }
}

#[test]
fn a_return_is_over_when_nothing_else_may_answer() {
    for (title, since_s, instances, expected) in [
        (
            "what is given up stands in for what is on its way",
            9,
            "1.0 ready 9, 1.1 starting 9, 2.0 ready 9",
            "[1 3], run 2, look in 21s",
        ),
        (
            "not when that has come",
            9,
            "1.0 ready 9, 1.1 ready 9, 2.0 ready 9",
            "[1 2], drain 3 NotNeeded",
        ),
        (
            "nor when it will not come",
            9,
            "1.0 ready 9, 1.1 exited 9 3, 2.0 ready 9",
            "[1], start 1.1 #4, drain 3 NotNeeded",
        ),
        (
            "nor for ever",
            60,
            "1.0 ready 9, 1.1 starting 9, 2.0 ready 9",
            "[1], run 2, drain 3 NotNeeded, look in 21s",
        ),
        (
            "then it is over",
            60,
            "1.0 ready 9, 1.1 starting 9, 2.0 draining 9",
            "RETURNED, [1], run 2, look in 21s",
        ),
        (
            "or before",
            9,
            "1.0 ready 9, 1.1 ready 9, 2.0 draining 9",
            "RETURNED, [1 2], look in 21s",
        ),
        (
            "not while what serves is on its way",
            9,
            "1.0 ready 9, 1.1 starting 9, 2.0 draining 9",
            "[1], run 2, look in 21s",
        ),
    ] {
        let mut scene = scene(2, Some(1), Some(2), instances);
        let rollout = scene.app.rollout.as_mut().expect("a rollout");
        rollout.returning = Some(Returning {
            since: Timestamp::from_ms(NOW - since_s * 1000),
            failure: Failure {
                code: "release_rejected".to_owned(),
                message: "it crashed".to_owned(),
                next_step: String::new(),
                log_tail: Vec::new(),
            },
        });
        assert_eq!(answer(&scene), expected, "{title}");
    }
}

#[test]
fn an_excused_end_is_no_failure() {
    let mut scene = scene(1, Some(1), Some(2), "1.0 ready 9, 2.0 exited 1");
    scene.excused.insert(scene.instances[1].id);
    assert_eq!(answer(&scene), "[1], start 2.0 #0, look in 1m");
}

/// A power cut or a killed keeper takes a life away without a word: the place gets another one, a few times.
#[test]
fn a_life_that_the_machine_lost_does_not_weigh_on_its_release() {
    let mut scene = scene(1, Some(1), Some(2), "1.0 ready 9, 2.0 exited 1");
    let Condition::Exited { exit, .. } = &mut scene.instances[1].condition else {
        panic!("it has ended");
    };
    *exit = Exit::Lost;
    assert_eq!(answer(&scene), "[1], start 2.0 #1, look in 1m");
    scene.instances[1].attempt = 3;
    assert_eq!(
        answer(&scene),
        "RETURN (web vanished without an exit record), [1]"
    );
}

#[test]
fn a_failure_stored_before_a_crash_of_ours_weighs_once() {
    let mut scene = scene(1, Some(1), Some(2), "1.0 ready 9, 2.0 exited 1");
    let failed = scene.instances[1].id;
    scene
        .app
        .rollout
        .as_mut()
        .expect("a rollout")
        .failed
        .insert(failed);
    assert_eq!(answer(&scene), "RETURN (web ended with exit code 1), [1]");
    scene.instances.pop();
    assert_eq!(answer(&scene), "RETURN (1 instances failed), [1]");
}

#[test]
fn an_instance_without_a_port_settles() {
    for (age, expected) in [(1, "[], look in 1s"), (2, "PROMOTE, []")] {
        let mut scene = scene(1, None, Some(2), &format!("2.0 ready {age}"));
        for release in scene.releases.values_mut() {
            release
                .services
                .values_mut()
                .for_each(|service| service.port = None);
        }
        assert_eq!(answer(&scene), expected);
    }
}

#[test]
fn an_idle_instance_is_stopped_early() {
    let mut scene = scene(1, Some(2), None, "1.0 draining 1, 2.0 ready 9");
    scene.idle.insert(scene.instances[0].id);
    assert_eq!(answer(&scene), "[2], stop 1 Repeated, look in 29s");
}

#[test]
fn a_life_that_stayed_well_starts_the_count_again() {
    let mut scene = scene(1, Some(1), None, "1.0 exited 0 7");
    scene.instances[0].created_at = Timestamp::from_ms(NOW - 400_000);
    assert_eq!(answer(&scene), "[], start 1.0 #0");
}

#[test]
fn a_deadline_returns_and_late_success_counts() {
    for (instances, expected) in [
        (
            "1.0 ready 9, 2.0 starting 9",
            "RETURN (not done within 1m), [1], stop 2 NotNeeded, look in 21s",
        ),
        ("1.0 ready 9, 2.0 ready 9", "PROMOTE, [2], drain 1 NotNeeded"),
    ] {
        let mut scene = scene(1, Some(1), Some(2), instances);
        let rollout = scene.app.rollout.as_mut().expect("a rollout");
        rollout.deadline = Timestamp::from_ms(NOW);
        assert_eq!(answer(&scene), expected);
    }
}

#[test]
fn a_deleted_app_ends() {
    let mut deleted = scene(1, Some(1), None, "1.0 ready 9, 1.1 starting 9, 2.0 exited 9");
    deleted.app.deleting = true;
    assert_eq!(
        answer(&deleted),
        "[], drain 1 NotNeeded, stop 2 NotNeeded, remove 3, look in 21s"
    );
    deleted.instances.drain(..2);
    assert_eq!(answer(&deleted), "GONE, [], remove 1");
}

#[test]
fn a_deletion_takes_no_progress_back() {
    let mut deleted = scene(1, Some(1), Some(2), "1.0 ready 9, 2.0 ready 9");
    deleted.app.deleting = true;
    let rollout = deleted.app.rollout.as_mut().expect("a rollout");
    rollout.failed = BTreeSet::from([InstanceId::from_uuid(Uuid::from_u128(7))]);
    rollout.begun = BTreeMap::from([(0, Timestamp::from_ms(NOW))]);
    let known = rollout.clone();
    let facts = Facts {
        app: &deleted.app,
        releases: &deleted.releases,
        instances: &deleted.instances,
        idle: &deleted.idle,
        excused: &deleted.excused,
        policy: &Policy::default(),
    };
    let decision = decide(&facts, Timestamp::from_ms(NOW));
    assert_eq!((decision.failed, decision.begun), (known.failed, known.begun));
}

#[test]
fn pruning_keeps_what_may_be_wanted() {
    let mut scene = scene(1, Some(1), None, "");
    for n in 1..=30 {
        let mut made = release(n, &[]);
        if n > 20 {
            made.state = ReleaseState::Rejected { why: String::new() };
        }
        scene.releases.insert(made.id, made);
    }
    let fates = prune::releases(&scene.app, &scene.releases, 10);
    let mut kept: Vec<u64> = Vec::new();
    for (id, fate) in &fates {
        if let prune::Fate::Keep(_) = fate {
            kept.push(scene.releases[id].number);
        }
    }
    let expected: Vec<u64> = [1].into_iter().chain(11..=30).collect();
    assert_eq!(kept, expected);
    assert_eq!(fates[&release_id(1)], prune::Fate::Keep(prune::KeepWhy::Serving));
    assert_eq!(fates[&release_id(10)], prune::Fate::Go { newer: 10 });
}

#[test]
fn pruning_keeps_where_a_rollback_goes_however_old() {
    let mut scene = scene(1, Some(5), None, "");
    for n in 1..=30 {
        let made = release(n, &[]);
        scene.releases.insert(made.id, made);
    }
    scene.app.served_before = (1..=4).map(release_id).collect();
    let fates = prune::releases(&scene.app, &scene.releases, 3);
    let kept = fates
        .iter()
        .filter(|(_, fate)| matches!(fate, prune::Fate::Keep(_)));
    let mut kept: Vec<u64> = kept.map(|(id, _)| scene.releases[id].number).collect();
    kept.sort_unstable();
    assert_eq!(kept, [2, 3, 4, 5, 28, 29, 30]);
}

#[test]
fn pruning_keeps_secrets_that_a_release_has_or_will_have() {
    let key = |text: &str| text.parse::<model::EnvKey>().expect("a key");
    let versions = [("A", 1), ("A", 2), ("A", 3), ("A", 9), ("B", 4)].map(|(name, n)| (key(name), n));
    let mut frozen = release(1, &[]);
    frozen.secrets = [(key("A"), 2)].into();
    let left = [(frozen.id, frozen)].into();
    let gone = prune::secret_versions(&versions.into(), &left);
    assert_eq!(gone, [(key("A"), 1), (key("A"), 3)].into());
    let gone = prune::secret_versions(
        &[(key("A"), 9), (key("A"), 8)].into(),
        &std::collections::BTreeMap::new(),
    );
    assert_eq!(
        gone,
        [(key("A"), 8)].into(),
        "the newest stays, also a removal: an older one must not count again"
    );
}

/// The answer when release 2, not proven yet, asks for a strategy. Steps of a canary that began are given as ages.
fn answer_by(strategy: &Strategy, began_s: &[u64], count: u16, instances: &str) -> String {
    let mut scene = scene(count, Some(1), Some(2), instances);
    let arriving = scene.releases.get_mut(&release_id(2)).expect("made");
    arriving.strategy = strategy.clone();
    arriving.state = ReleaseState::Pending;
    let rollout = scene.app.rollout.as_mut().expect("a rollout");
    let began = began_s.iter().map(|age| Timestamp::from_ms(NOW - age * 1000));
    rollout.begun = began.enumerate().collect();
    answer(&scene)
}

#[test]
fn blue_green_switches_at_once() {
    for (title, instances, expected) in [
        (
            "a full set starts beside the old one",
            "1.0 ready 9, 1.1 ready 9, 1.2 ready 9",
            "[1 2 3], start 2.0 #0, start 2.1 #0, start 2.2 #0, look in 1m",
        ),
        (
            "a part of it answers nobody, even when an old one is missing",
            "1.0 ready 9, 1.1 ready 9, 1.2 exited 0, 2.0 ready 9, 2.1 ready 9, 2.2 starting 9",
            "[1 2], start 1.2 #1, run 6, look in 21s",
        ),
        (
            "all of it switches, and that is the promotion",
            "1.0 ready 9, 1.1 ready 9, 1.2 ready 9, 2.0 ready 9, 2.1 ready 9, 2.2 ready 9",
            "PROMOTE, [4 5 6], drain 1 NotNeeded, drain 2 NotNeeded, drain 3 NotNeeded",
        ),
        (
            "a crash returns at no cost",
            "1.0 ready 9, 1.1 ready 9, 1.2 ready 9, 2.0 ready 9, 2.1 ready 9, 2.2 exited 1",
            "RETURN (web ended with exit code 1), [1 2 3], drain 4 NotNeeded, drain 5 NotNeeded",
        ),
    ] {
        assert_eq!(
            answer_by(&Strategy::BlueGreen, &[], 3, instances),
            expected,
            "{title}"
        );
    }
}

#[test]
fn recreate_ends_the_old_first() {
    for (title, instances, expected) in [
        (
            "the old one drains",
            "1.0 ready 9",
            "[], drain 1 NotNeeded, look in 1m",
        ),
        (
            "nothing starts before it is gone",
            "1.0 stopping 9",
            "[], stop 1 Repeated, look in 1m",
        ),
        (
            "then the new one starts",
            "1.0 exited 9",
            "[], start 2.0 #0, look in 1m",
        ),
        (
            "and serves",
            "1.0 exited 9, 2.0 ready 1",
            "PROMOTE, [2], look in 1s",
        ),
        (
            "a bad one has to end before the old one comes back",
            "1.0 exited 9, 2.0 starting 30",
            "RETURN (web did not get ready within 30s), [], stop 2 NotNeeded, look in 1m",
        ),
    ] {
        assert_eq!(
            answer_by(&Strategy::Recreate, &[], 1, instances),
            expected,
            "{title}"
        );
    }
}

#[test]
fn a_canary_gets_its_shares_one_after_another() {
    let step = |percent, hold_s| model::strategy::Step {
        share: Share::new(percent).expect("a share"),
        hold: Millis::seconds(hold_s),
    };
    let steps = Steps::new(vec![step(5, 20), step(50, 40)]).expect("rising");
    let strategy = Strategy::Canary { steps };
    let old = "1.0 ready 99, 1.1 ready 99, 1.2 ready 99, 1.3 ready 99";
    for (title, began, new, expected) in [
        (
            "one instance is enough for 5%",
            &[][..],
            "",
            "[1 2 3 4], start 2.0 #0, look in 1m",
        ),
        (
            "its step begins when it is ready",
            &[],
            "2.0 ready 1",
            "[1 2 3 4 5], 5% for 5, look in 1s",
        ),
        (
            "and is held",
            &[5],
            "2.0 ready 9",
            "[1 2 3 4 5], 5% for 5, look in 15s",
        ),
        (
            "then the next one needs another",
            &[20],
            "2.0 ready 9",
            "[1 2 3 4 5], 5% for 5, start 2.1 #0, look in 1m",
        ),
        (
            "and begins with it",
            &[30],
            "2.0 ready 9, 2.1 ready 9",
            "[1 2 3 4 5 6], 50% for 5 6, look in 40s",
        ),
        (
            "everything needs all",
            &[70, 40],
            "2.0 ready 9, 2.1 ready 9",
            "[1 2 3 4 5 6], 50% for 5 6, start 2.2 #0, start 2.3 #0, look in 1m",
        ),
        (
            "and is the promotion",
            &[70, 40],
            "2.0 ready 9, 2.1 ready 9, 2.2 ready 9, 2.3 ready 9",
            "PROMOTE, [5 6 7 8], drain 1 NotNeeded, drain 2 NotNeeded, drain 3 NotNeeded, drain 4 NotNeeded",
        ),
        (
            "a crash in a trial returns fully",
            &[70, 5],
            "2.0 ready 9, 2.1 exited 1",
            "RETURN (web ended with exit code 1), [1 2 3 4], drain 5 NotNeeded",
        ),
        (
            "so does one that got unready",
            &[70, 5],
            "2.0 ready 9, 2.1 unready 60",
            "RETURN (web got ready, then failed its check: 503), [1 2 3 4], drain 6 NotNeeded, drain 5 NotNeeded",
        ),
    ] {
        assert_eq!(
            answer_by(&strategy, began, 4, &format!("{old}, {new}")),
            expected,
            "{title}"
        );
    }
    let alone = "1.0 exited 0 3, 2.0 ready 9";
    let expected = "[2], 5% for 2, look in 4s";
    assert_eq!(
        answer_by(&strategy, &[5], 1, alone),
        expected,
        "better than nothing"
    );
}

#[test]
fn shares_are_exact() {
    let id = |n| InstanceId::from_uuid(Uuid::from_u128(n));
    let routes = |percent, tried: std::ops::Range<u128>, all: u128| Routes {
        release: None,
        instances: BTreeMap::from([(name("web"), (0..all).map(id).collect())]),
        trial: Some(Trial {
            share: Share::new(percent).expect("a share"),
            instances: tried.map(id).collect(),
        }),
    };
    for (percent, tried, all, expected) in [
        (5, 0..1, 5, &[20, 95, 95, 95, 95][..]),
        (50, 0..2, 4, &[100, 100, 100, 100]),
        (99, 0..1, 2, &[99, 1]),
        (5, 0..2, 2, &[100, 100]),
    ] {
        let weights: Vec<u32> = routes(percent, tried, all)
            .weights(&name("web"))
            .into_values()
            .collect();
        assert_eq!(weights, expected, "{percent}%");
    }
}

#[test]
fn a_release_that_has_served_needs_no_trial() {
    let mut scene = scene(1, Some(1), Some(2), "1.0 ready 99, 2.0 ready 1");
    let step = model::strategy::Step {
        share: Share::new(5).expect("a share"),
        hold: Millis::seconds(20),
    };
    let steps = Steps::new(vec![step]).expect("one");
    scene.releases.get_mut(&release_id(2)).expect("made").strategy = Strategy::Canary { steps };
    assert_eq!(answer(&scene), "[2], drain 1 NotNeeded, look in 1s");
}

/// What a move of three instances (four for the rolling ones) would do, a line each.
#[test]
fn what_would_happen_is_foretold() {
    let step = |percent, hold_s| model::strategy::Step {
        share: Share::new(percent).expect("a share"),
        hold: Millis::seconds(hold_s),
    };
    let steps = Steps::new(vec![step(5, 120), step(50, 300)]).expect("rising");
    let old = "1.0 ready 99, 1.1 ready 99, 1.2 ready 99";
    for (strategy, expected) in [
        (
            Strategy::Rolling {
                surge: Surge::new(2, 0).ok(),
            },
            &["start 2", "start 1", "end 1", "end 2", "promote"][..],
        ),
        (Strategy::BlueGreen, &["start 3", "promote", "end 3"]),
        (
            Strategy::Canary { steps },
            &[
                "start 1",
                "5% for 2m",
                "start 1",
                "50% for 5m",
                "start 1",
                "promote",
                "end 3",
            ],
        ),
        (Strategy::Recreate, &["gap", "end 3", "start 3", "promote"]),
    ] {
        let mut scene = scene(3, Some(1), None, old);
        let arriving = scene.releases.get_mut(&release_id(2)).expect("made");
        arriving.strategy = strategy;
        arriving.state = ReleaseState::Pending;
        let policy = Policy::default();
        let facts = Facts {
            app: &scene.app,
            releases: &scene.releases,
            instances: &scene.instances,
            idle: &scene.idle,
            excused: &scene.excused,
            policy: &policy,
        };
        let to = Serving {
            release: release_id(2),
            epoch: 2,
        };
        let mut made = 100;
        let mut fresh = || {
            made += 1;
            InstanceId::from_uuid(Uuid::from_u128(made))
        };
        let moves = foresee(&facts, to, Timestamp::from_ms(NOW), &mut fresh);
        let line = |one: &Move| match one {
            Move::Start { instances, .. } => format!("start {instances}"),
            Move::Try { share, hold } => format!("{share} for {hold}"),
            Move::Promote => "promote".to_owned(),
            Move::End { instances, .. } => format!("end {instances}"),
            Move::Gap => "gap".to_owned(),
        };
        let lines: Vec<String> = moves.iter().map(line).collect();
        assert_eq!(lines, expected);
    }
}
