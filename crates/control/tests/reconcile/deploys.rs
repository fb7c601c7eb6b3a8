//! Deploying, rolling back, restarting, scaling, configuring: the usual life of an app.

use std::collections::BTreeMap;
use std::time::Duration;

use control::{EnvPath, apps, operations, releases, secrets};
use engine::simulated::Behaviour;
use model::{Condition, Exit, Millis, OperationState, ReleaseState};
use store::Secret;

use crate::world::{ROOT, World, failed, name, routed, succeeded};

fn slow() -> Behaviour {
    Behaviour {
        ready_after: Some(Millis::seconds(3)),
        obeys_after: Some(Millis::seconds(2)),
        ..Behaviour::default()
    }
}

#[test]
fn an_image_is_deployed_and_serves() {
    let mut world = World::new();
    world.image("good:1", slow());
    world.create("shop");
    let done = world.deployed("shop", "good:1", None);
    succeeded(&done);
    assert_eq!(
        done.outcome.as_deref(),
        Some("v1 serves at http://shop.localhost/")
    );
    assert_eq!(world.serving("shop"), Some(1));
    assert_eq!(world.release("shop", 1).state, ReleaseState::Proven);
    let table = world.edge.table();
    assert_eq!(table.services.len(), 1);
    assert_eq!(
        table.services[0].routes,
        [("shop.localhost".to_owned(), "/".to_owned())]
    );
    assert_eq!(table.services[0].targets.len(), 1);
    let names = world.engine.names();
    assert_eq!(names[0].names[0].0, "web.shop");
}

#[test]
fn a_second_release_takes_over_without_a_gap() {
    let mut world = World::with_shop();
    world.image("good:2", slow());
    let old: Vec<_> = world.live_of("web").iter().map(|row| row.id).collect();
    let operation = world.deploy("shop", "good:2", None);
    world.until(Millis::seconds(60), "the new one serves", |world| {
        world.answering().contains("v2")
    });
    // A request that lasts: the old one is not told to end.
    world.edge.set_busy(old.clone());
    for _ in 0..20 {
        world.tick();
        assert!(
            world
                .engine
                .asked_to_end()
                .is_disjoint(&old.iter().copied().collect())
        );
    }
    world.edge.set_busy([]);
    succeeded(&world.settle(operation.id));
    world.quiet();
    assert_eq!(world.answering(), ["v2".to_owned()].into());
    assert_eq!(world.live_of("web").len(), 1);
    assert_eq!(world.serving("shop"), Some(2));
}

#[test]
fn a_drain_ends_after_its_bound() {
    let mut world = World::with_shop();
    let old: Vec<_> = world.live_of("web").iter().map(|row| row.id).collect();
    world.edge.set_busy(old.clone());
    succeeded(&world.deployed("shop", "good:2", None));
    world.until(Millis::seconds(90), "it is told to end", |world| {
        old.iter().all(|id| world.engine.asked_to_end().contains(id))
    });
    world.quiet();
}

/// Many programs take a second signal as "now".
#[test]
fn an_instance_that_takes_its_time_is_asked_once() {
    let mut world = World::with_shop();
    let lazy = Behaviour {
        obeys_after: Some(Millis::seconds(20)),
        ..Behaviour::default()
    };
    world.image("good:1", lazy);
    let old = world.live_of("web")[0].id;
    succeeded(&world.deployed("shop", "good:2", None));
    world.quiet();
    assert_eq!(world.engine.stops(old), 1);
}

#[test]
fn a_bad_release_is_rejected_and_the_old_one_serves() {
    let cases = [
        (
            "never ready",
            Behaviour {
                ready_after: None,
                ..Behaviour::default()
            },
        ),
        (
            "exits",
            Behaviour {
                ready_after: None,
                exits: Some((Millis::seconds(1), Exit::Code { code: 7 })),
                ..Behaviour::default()
            },
        ),
        (
            "cannot start",
            Behaviour {
                refuses: Some("no such program".to_owned()),
                ..Behaviour::default()
            },
        ),
    ];
    let mut world = World::with_shop();
    for (at, (case, behaviour)) in cases.into_iter().enumerate() {
        world.image("bad", behaviour);
        let done = world.deployed("shop", "bad", None);
        let failure = failed(&done);
        assert_eq!(failure.code, "release_rejected", "{case}");
        assert!(
            failure.message.contains("v1 still serves"),
            "{case}: {}",
            failure.message
        );
        let number = at as u64 + 2;
        let release = world.release("shop", number);
        assert!(matches!(release.state, ReleaseState::Rejected { .. }), "{case}");
        world.quiet();
        assert_eq!(world.serving("shop"), Some(1), "{case}");
        assert_eq!(world.answering(), ["v1".to_owned()].into(), "{case}");
        assert_eq!(world.live_of("web").len(), 1, "{case}");
    }
    let back = releases::rollback(world.control(), &ROOT, &EnvPath::default(), "shop", Some("v2"));
    assert_eq!(back.expect_err("it never served").code(), "state");
}

#[test]
fn a_first_release_that_fails_leaves_nothing_running() {
    let mut world = World::new();
    world.image(
        "bad",
        Behaviour {
            ready_after: None,
            ..Behaviour::default()
        },
    );
    world.create("shop");
    let done = world.deployed("shop", "bad", None);
    assert_eq!(failed(&done).code, "release_rejected");
    world.quiet();
    assert!(world.live_of("web").is_empty());
    assert_eq!(world.serving("shop"), None);
    assert!(world.edge.table().services.is_empty());
}

#[test]
fn a_missing_image_and_a_missing_secret_are_told() {
    let mut world = World::with_shop();
    let done = world.deployed("shop", "nowhere:1", None);
    assert_eq!(failed(&done).code, "image");
    let manifest = "schema = 1\napp = \"shop\"\n[services.web]\nsecrets = [\"KEY\"]\n";
    let done = world.deployed("shop", "good:2", Some(manifest));
    assert!(failed(&done).message.contains("KEY"));
    let refused = world.try_deploy("shop", "good:2", Some("schema = 1\napp = \"shop\"\nx = 1\n"));
    assert_eq!(refused.expect_err("an unknown key").code(), "invalid");
    assert_eq!(world.serving("shop"), Some(1));
}

#[test]
fn back_and_forth() {
    let mut world = World::with_shop();
    succeeded(&world.deployed("shop", "good:2", None));
    let path = EnvPath::default();
    let back = releases::rollback(world.control(), &ROOT, &path, "shop", None).expect("accepted");
    succeeded(&world.settle(back.operation.id));
    world.quiet();
    assert_eq!(
        (world.serving("shop"), world.answering()),
        (Some(1), ["v1".to_owned()].into())
    );
    let nothing = releases::rollback(world.control(), &ROOT, &path, "shop", None);
    assert_eq!(nothing.expect_err("nothing before v1").code(), "state");
    let forth = releases::rollback(world.control(), &ROOT, &path, "shop", Some("2")).expect("accepted");
    succeeded(&world.settle(forth.operation.id));
    assert_eq!(world.serving("shop"), Some(2));
    assert_eq!(world.all::<model::Release>().len(), 2);
}

#[test]
fn a_restart_replaces_every_instance() {
    let mut world = World::with_shop();
    let before: Vec<_> = world.live_of("web").iter().map(|row| row.id).collect();
    let accepted = releases::restart(world.control(), &ROOT, &EnvPath::default(), "shop").expect("accepted");
    succeeded(&world.settle(accepted.operation.id));
    world.quiet();
    let after: Vec<_> = world.live_of("web").iter().map(|row| row.id).collect();
    assert_eq!(after.len(), 1);
    assert!(!before.contains(&after[0]));
    assert_eq!(world.serving("shop"), Some(1));
}

fn scale(world: &mut World, count: u16) -> model::Operation {
    let counts = BTreeMap::from([(name("web"), count)]);
    let accepted = apps::scale(world.control(), &ROOT, &EnvPath::default(), "shop", &counts, None);
    world.settle(accepted.expect("accepted").operation.id)
}

#[test]
fn scaled_up_and_down() {
    let mut world = World::with_shop();
    for count in [4, 1, 0, 2] {
        world.must_serve = count > 0 && !world.live_of("web").is_empty();
        succeeded(&scale(&mut world, count));
        assert_eq!(world.live_of("web").len(), usize::from(count));
        world.tick();
        assert_eq!(routed(&world.edge.table()).len(), usize::from(count));
    }
    // It outlives the release.
    succeeded(&world.deployed("shop", "good:2", None));
    world.quiet();
    assert_eq!(world.live_of("web").len(), 2);
}

#[test]
fn what_cannot_be_scaled_does_not_hold_up_the_mending_deploy() {
    let mut world = World::with_shop();
    let half = Behaviour {
        exits: Some((Millis::seconds(4), Exit::Code { code: 1 })),
        ..Behaviour::default()
    };
    world.image("good:1", half);
    world.must_serve = false;
    let counts = BTreeMap::from([(name("web"), 3)]);
    let path = EnvPath::default();
    apps::scale(world.control(), &ROOT, &path, "shop", &counts, None).expect("accepted");
    world.tick();
    let mend = world.deploy("shop", "good:2", None);
    succeeded(&world.settle(mend.id));
    world.quiet();
    assert_eq!(world.live_of("web").len(), 3);
}

#[test]
fn many_secrets_at_once_are_one_release_or_nothing() {
    let mut world = World::with_shop();
    let path = EnvPath::default();
    let before = world.serving("shop").expect("serves");
    let change = |world: &World, changes: &[(&str, Option<&str>)]| {
        let changes = changes.iter().map(|(name, value)| {
            let value = value.map(|text| Secret::from(text.to_owned()));
            (name.parse().expect("a key"), value)
        });
        secrets::change(world.control(), &ROOT, &path, "shop", &changes.collect())
    };
    let known = |world: &World| secrets::list(world.control(), &ROOT, &path, "shop").expect("listed");
    let names: Vec<String> = (0..20).map(|n| format!("K{n:02}")).collect();
    let all: Vec<(&str, Option<&str>)> = names.iter().map(|name| (name.as_str(), Some("v"))).collect();
    let accepted = change(&world, &all).expect("set").expect("a release follows");
    succeeded(&world.settle(accepted.operation.id));
    assert_eq!(world.serving("shop"), Some(before + 1), "one release for all");
    assert_eq!(known(&world).len(), 20);
    for wrong in [("K99", None), ("PORT", Some("1")), ("K01", Some(""))] {
        let refused = change(&world, &[("K00", Some("other")), wrong]);
        assert!(matches!(
            refused.expect_err("refused").code(),
            "invalid" | "not_found"
        ));
    }
    assert!(known(&world).iter().all(|one| one.version == 1), "all or nothing");
    let gone = change(&world, &[("K00", None), ("K01", Some("new"))]).expect("changed");
    succeeded(&world.settle(gone.expect("a release follows").operation.id));
    assert_eq!(world.serving("shop"), Some(before + 2));
    assert_eq!(known(&world).len(), 19);
}

#[test]
fn configuration_and_secrets_make_releases_and_roll_back() {
    let mut world = World::with_shop();
    let path = EnvPath::default();
    let key: model::EnvKey = "KEY".parse().expect("a key");
    let (_, accepted) = secrets::set(
        world.control(),
        &ROOT,
        &path,
        "shop",
        &key,
        &Secret::from("first".to_owned()),
    )
    .expect("set");
    succeeded(&world.settle(accepted.expect("a release follows").operation.id));
    let manifest =
        "schema = 1\napp = \"shop\"\n[env]\nA = \"m\"\nB = \"m\"\n[services.web]\nsecrets = [\"KEY\"]\n";
    succeeded(&world.deployed("shop", "good:1", Some(manifest)));
    let changes = BTreeMap::from([("A".parse().expect("a key"), Some("mine".to_owned()))]);
    let (_, accepted) =
        apps::configure(world.control(), &ROOT, &path, "shop", &changes, None).expect("configured");
    succeeded(&world.settle(accepted.expect("a release follows").operation.id));
    world.quiet();
    let seen = |world: &World, key: &str| {
        let live = world.live_of("web");
        assert_eq!(live.len(), 1);
        let workload = world.engine.workload(live[0].id).expect("it runs");
        workload.env.get(key).cloned()
    };
    assert_eq!(seen(&world, "A").as_deref(), Some("mine"));
    assert_eq!(seen(&world, "B").as_deref(), Some("m"));
    assert_eq!(seen(&world, "KEY").as_deref(), Some("first"));
    let before = world.serving("shop").expect("serves");
    let second = Secret::from("second".to_owned());
    let (view, accepted) = secrets::set(world.control(), &ROOT, &path, "shop", &key, &second).expect("set");
    assert_eq!(view.version, 2);
    succeeded(&world.settle(accepted.expect("a release follows").operation.id));
    world.quiet();
    assert_eq!(seen(&world, "KEY").as_deref(), Some("second"));
    let gone = secrets::unset(world.control(), &ROOT, &path, "shop", &key).expect("unset");
    succeeded(&world.settle(gone.expect("a release follows").operation.id));
    world.quiet();
    assert_eq!(seen(&world, "KEY"), None);
    let again = secrets::unset(world.control(), &ROOT, &path, "shop", &key);
    assert_eq!(again.expect_err("it is gone").code(), "not_found");
    let to = format!("v{before}");
    let back = releases::rollback(world.control(), &ROOT, &path, "shop", Some(&to)).expect("accepted");
    succeeded(&world.settle(back.operation.id));
    world.quiet();
    assert_eq!(seen(&world, "KEY").as_deref(), Some("first"));
    let live = world.live_of("web");
    let files = world.engine.workload(live[0].id).expect("it runs").secrets;
    assert_eq!(
        (files.len(), files[0].content.as_slice()),
        (1, b"first".as_slice())
    );
}

#[test]
fn two_deploys_at_once_are_ordered_and_the_last_wins() {
    let mut world = World::with_shop();
    world.image("good:2", slow());
    world.image("good:3", slow());
    let first = world.deploy("shop", "good:2", None);
    let second = world.deploy("shop", "good:3", None);
    succeeded(&world.settle(second.id));
    let OperationState::Succeeded { at: first } = world.operation(first.id).state else {
        panic!("the first one is done before the second");
    };
    let OperationState::Succeeded { at: second } = world.operation(second.id).state else {
        panic!("done");
    };
    assert!(first <= second);
    world.quiet();
    assert_eq!(
        (world.serving("shop"), world.answering()),
        (Some(3), ["v3".to_owned()].into())
    );
    assert_eq!(world.live_of("web").len(), 1);
}

#[test]
fn a_rollback_during_a_rollout_waits_its_turn() {
    let mut world = World::with_shop();
    succeeded(&world.deployed("shop", "good:2", None));
    world.image("slow", slow());
    let deploy = world.deploy("shop", "slow", None);
    world.tick();
    world.tick();
    let back = releases::rollback(world.control(), &ROOT, &EnvPath::default(), "shop", Some("v1"));
    let back = back.expect("accepted").operation;
    succeeded(&world.settle(back.id));
    succeeded(&world.operation(deploy.id));
    world.quiet();
    assert_eq!(world.serving("shop"), Some(1));
}

#[test]
fn a_crashed_instance_leaves_the_routes_and_comes_back() {
    let mut world = World::with_shop();
    succeeded(&scale(&mut world, 2));
    world.quiet();
    let victim = world.live_of("web")[0].id;
    world.engine.crash(victim, Exit::Signal { signal: 9 });
    world.pass();
    assert!(!routed(&world.edge.table()).contains(&victim));
    world.quiet();
    assert_eq!(routed(&world.edge.table()).len(), 2);
    let row = world
        .all_instances()
        .into_iter()
        .find(|row| row.id == victim)
        .expect("remembered");
    assert!(matches!(
        row.condition,
        Condition::Exited {
            exit: Exit::Signal { signal: 9 },
            ..
        }
    ));
    assert!(world.engine.removed().contains(&victim));
}

/// At each stage: before the first look, before the rollout, in it.
#[test]
fn cancelled_at_each_stage_it_is_as_if_never_started() {
    for stage in 0..5 {
        let mut world = World::with_shop();
        world.image("slow", slow());
        let deploy = world.deploy("shop", "slow", None);
        for _ in 0..stage {
            world.tick();
        }
        operations::cancel(world.control(), &ROOT, &deploy.id.to_string()).expect("asked");
        let done = world.settle(deploy.id);
        assert!(
            matches!(done.state, OperationState::Canceled { .. }),
            "{stage}: {done:#?}"
        );
        world.quiet();
        assert_eq!(world.answering(), ["v1".to_owned()].into(), "{stage}");
        assert_eq!(
            (world.serving("shop"), world.live_of("web").len()),
            (Some(1), 1),
            "{stage}"
        );
        assert!(world.app("shop").rollout.is_none());
        let late = operations::cancel(world.control(), &ROOT, &deploy.id.to_string());
        assert_eq!(late.expect_err("settled").code(), "state");
        // The next one is not in its way.
        succeeded(&world.deployed("shop", "good:2", None));
    }
}

/// Whatever its worker ends with: somebody asked for this.
#[test]
fn cancelled_it_is_canceled_although_its_worker_fails() {
    let mut world = World::with_shop();
    let digest = format!("sha256:{:064x}", 0xfa2).parse().expect("a digest");
    world
        .engine
        .add_remote_image("far:1", &digest, Millis::seconds(60), slow());
    let deploy = world.deploy("shop", "far:1", None);
    world
        .take_reconciler()
        .pass(world.now)
        .expect("a look at the world");
    while world.engine.fetching() == 0 {
        std::thread::yield_now();
    }
    operations::cancel(world.control(), &ROOT, &deploy.id.to_string()).expect("asked");
    world.engine.cut_off(true);
    let done = operations::view(
        world.control(),
        &ROOT,
        &deploy.id.to_string(),
        Duration::from_secs(60),
    );
    let done = done.expect("the operation").row;
    assert!(matches!(done.state, OperationState::Canceled { .. }), "{done:#?}");
}

#[test]
fn a_rollout_settles_at_its_deadline() {
    let mut world = World::with_shop();
    let manifest = "schema = 1\napp = \"shop\"\n[services.web.health]\ngrace = \"30m\"\n";
    world.image(
        "never",
        Behaviour {
            ready_after: None,
            ..Behaviour::default()
        },
    );
    let deploy = world.deploy("shop", "never", Some(manifest));
    for _ in 0..6 {
        world.tick();
    }
    assert!(!world.operation(deploy.id).state.is_settled());
    world.now = world.operation(deploy.id).deadline;
    world.tick();
    assert!(!world.operation(deploy.id).state.is_settled(), "it goes back");
    world.tick();
    let done = world.operation(deploy.id);
    assert_eq!(failed(&done).code, "release_rejected");
    world.quiet();
    assert_eq!(world.answering(), ["v1".to_owned()].into());
}

#[test]
fn what_waits_its_turn_past_its_deadline_fails() {
    let mut world = World::with_shop();
    let manifest = "schema = 1\napp = \"shop\"\n[services.web.health]\ngrace = \"30m\"\n";
    world.image(
        "never",
        Behaviour {
            ready_after: None,
            ..Behaviour::default()
        },
    );
    world.deploy("shop", "never", Some(manifest));
    let waiting = releases::restart(world.control(), &ROOT, &EnvPath::default(), "shop").expect("accepted");
    world.tick();
    world.now = waiting.operation.deadline;
    world.tick();
    assert_eq!(failed(&world.operation(waiting.operation.id)).code, "deadline");
}

#[test]
fn a_rollback_goes_where_the_app_came_from() {
    let mut world = World::with_shop();
    let path = EnvPath::default();
    let deploy = |world: &mut World| succeeded(&world.deployed("shop", "good:2", None));
    let back = |world: &mut World| {
        let accepted = releases::rollback(world.control(), &ROOT, &path, "shop", None)?;
        succeeded(&world.settle(accepted.operation.id));
        Ok::<_, control::ControlError>(world.serving("shop"))
    };
    deploy(&mut world);
    deploy(&mut world);
    assert_eq!(back(&mut world).expect("v3 came after v2"), Some(2));
    // v3 was left for a reason: what comes after the next release is not v3 again.
    deploy(&mut world);
    assert_eq!(world.serving("shop"), Some(4));
    assert_eq!(back(&mut world).expect("v4 came after v2"), Some(2));
    assert_eq!(back(&mut world).expect("v2 came after v1"), Some(1));
    back(&mut world).expect_err("nothing came before v1");
}

#[test]
fn a_deploy_has_the_time_that_its_manifest_allows() {
    let mut world = World::with_shop();
    let usual = world.deployed("shop", "good:2", None);
    let manifest =
        "schema = 1\napp = \"shop\"\n[jobs.migrate]\ncommand = \"x\"\non = \"release\"\ntimeout = \"2h\"\n";
    let accepted = world.deploy("shop", "good:2", Some(manifest));
    world.until(Millis::seconds(60), "its release", |world| {
        world.operation(accepted.id).release.is_some()
    });
    let longer = world.operation(accepted.id);
    let span = |operation: &model::Operation| operation.deadline.since(operation.created_at).as_ms();
    assert!(span(&longer) >= span(&usual) + 2 * 3600 * 1000, "{longer:?}");
}

#[test]
fn a_release_has_what_its_environment_says() {
    let mut world = World::with_shop();
    let manifest = "schema = 1\napp = \"shop\"\n[env]\nLEVEL = \"info\"\nKEPT = \"1\"\n[services.web]\n\
        [environments.production]\nenv.LEVEL = \"warn\"\nservices.web.scale = 2\n\
        [environments.staging]\nenv.LEVEL = \"debug\"\n";
    succeeded(&world.deployed("shop", "good:2", Some(manifest)));
    let release = world.release("shop", 2);
    let env: Vec<(&str, &str)> = release
        .env
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(env, [("KEPT", "1"), ("LEVEL", "warn")]);
    assert_eq!(release.services["web"].count, 2);
}
