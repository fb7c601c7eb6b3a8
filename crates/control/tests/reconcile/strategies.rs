//! Blue-green, canary and recreate, through a real store: what the edge is told, and what is left after a failure.

use std::collections::BTreeSet;

use control::{EnvPath, operations, releases};
use engine::simulated::Behaviour;
use model::{Exit, InstanceId, Millis, OperationState, ReleaseState};

use crate::world::{ROOT, TICK, World, failed, routed, succeeded};

fn manifest(count: u16, rollout: &str) -> String {
    format!("schema = 1\napp = \"shop\"\n[services.web]\nscale = {count}\n[rollout]\n{rollout}\n")
}

const CANARY: &str = "strategy = \"canary\"\nsteps = [\"5%:20s\", \"50%:30s\"]";

/// `shop` v1 with four instances serves, and v2 is on its way.
fn moving(rollout: &str) -> (World, BTreeSet<InstanceId>, model::OperationId) {
    let mut world = World::new();
    world.image("good:1", Behaviour::default());
    world.image("good:2", Behaviour::default());
    world.create("shop");
    succeeded(&world.deployed("shop", "good:1", Some(&manifest(4, rollout))));
    world.quiet();
    world.must_serve = true;
    let old = world.live_of("web").iter().map(|row| row.id).collect();
    let operation = world.deploy("shop", "good:2", Some(&manifest(4, rollout)));
    (world, old, operation.id)
}

/// Of a hundred requests, those that the table gives to a release.
fn share(world: &World, release: &str) -> f64 {
    let table = world.edge.table();
    let sum = |of: Option<&str>| {
        let targets = table.services.iter().flat_map(|service| &service.targets);
        let counted = targets.filter(|target| of.is_none_or(|of| target.release == of));
        counted.map(|target| f64::from(target.weight)).sum::<f64>()
    };
    sum(Some(release)) * 100.0 / sum(None)
}

fn on_trial(world: &mut World, percent: f64) {
    world.until(Millis::seconds(90), "the step begins", |world| {
        (share(world, "v2") - percent).abs() < 0.001
    });
}

#[test]
fn requests_are_held_for_long_only_while_a_recreate_is_under_way() {
    let (mut world, _, operation) = moving("strategy = \"recreate\"");
    world.must_serve = false;
    let hold = |world: &World| world.edge.table().services[0].hold;
    world.until(Millis::seconds(60), "the gap", |world| {
        hold(world) == Millis::seconds(40)
    });
    succeeded(&world.settle(operation));
    world.quiet();
    assert_eq!(hold(&world), Millis::seconds(10));
}

#[test]
fn a_canary_gets_its_share_for_its_time() {
    let (mut world, old, operation) = moving(CANARY);
    on_trial(&mut world, 5.0);
    let began = world.now;
    assert_eq!(world.live_of("web").len(), 5);
    // Names know no shares: they lead to what serves.
    assert_eq!(world.engine.names()[0].names[0].1.len(), 4);
    while share(&world, "v2") < 6.0 {
        world.tick();
    }
    let held = world.now.since(began);
    assert!(held >= Millis::new(20_000 - TICK.as_ms()), "{held}");
    on_trial(&mut world, 50.0);
    assert_eq!(world.live_of("web").len(), 6);
    assert!(
        old.is_subset(&routed(&world.edge.table())),
        "what serves stays whole"
    );
    succeeded(&world.settle(operation));
    world.quiet();
    assert_eq!(world.answering(), ["v2".to_owned()].into());
    assert_eq!(world.live_of("web").len(), 4);
    assert!(
        world.edge.table().services[0]
            .targets
            .iter()
            .all(|target| target.weight == 100)
    );
    let (log, ..) = operations::log(world.control(), &ROOT, &operation.to_string(), 0).expect("a log");
    for line in ["==> 5% of the requests try", "==> 50% of the requests try"] {
        assert_eq!(
            log.iter().filter(|said| said.starts_with(line)).count(),
            1,
            "{log:?}"
        );
    }
}

#[test]
fn a_canary_that_crashes_returns_fully() {
    let (mut world, old, operation) = moving(CANARY);
    on_trial(&mut world, 5.0);
    let rows = world.live_of("web");
    let canary = rows.iter().find(|row| !old.contains(&row.id)).expect("there");
    world.engine.crash(canary.id, Exit::Code { code: 3 });
    world.tick();
    assert_eq!(routed(&world.edge.table()), old);
    let failure = failed(&world.settle(operation)).clone();
    assert_eq!(failure.code, "release_rejected");
    assert!(
        failure
            .message
            .contains("v2 rejected: web ended with exit code 3; v1 still serves"),
        "{failure:?}"
    );
    world.quiet();
    let left: BTreeSet<InstanceId> = world.live_of("web").iter().map(|row| row.id).collect();
    assert_eq!(left, old, "nobody else was touched");
    assert!(matches!(
        world.release("shop", 2).state,
        ReleaseState::Rejected { .. }
    ));
}

#[test]
fn holding_a_step_is_not_late() {
    let hour = "strategy = \"canary\"\nsteps = [\"10%:2h\"]";
    let (mut world, _, operation) = moving(hour);
    on_trial(&mut world, 10.0);
    let deadline = world.operation(operation).deadline;
    assert_eq!(world.app("shop").rollout.expect("under way").deadline, deadline);
    world.now = world.now.plus(Millis::seconds(2 * 3600 - 10));
    world.tick();
    assert_eq!(share(&world, "v2"), 10.0);
    world.now = world.now.plus(Millis::seconds(20));
    succeeded(&world.settle(operation));
}

#[test]
fn a_rollback_or_a_cancel_ends_a_canary() {
    for ask_for_rollback in [true, false] {
        let (mut world, old, operation) = moving(CANARY);
        on_trial(&mut world, 50.0);
        if ask_for_rollback {
            let back = releases::rollback(world.control(), &ROOT, &EnvPath::default(), "shop", None);
            let back = world.settle(back.expect("accepted").operation.id);
            succeeded(&back);
            assert_eq!(back.outcome.as_deref(), Some("v1 serves"));
        } else {
            operations::cancel(world.control(), &ROOT, &operation.to_string()).expect("asked");
        }
        let end = world.settle(operation);
        assert!(matches!(end.state, OperationState::Canceled { .. }), "{end:?}");
        world.quiet();
        assert_eq!(
            (world.serving("shop"), routed(&world.edge.table())),
            (Some(1), old.clone())
        );
        let left: BTreeSet<InstanceId> = world.live_of("web").iter().map(|row| row.id).collect();
        assert_eq!(left, old);
    }
}

#[test]
fn blue_green_never_mixes() {
    let (mut world, _, operation) = moving("strategy = \"blue-green\"");
    let mut most = 0;
    while !world.operation(operation).state.is_settled() {
        world.tick();
        assert_eq!(world.answering().len(), 1);
        most = most.max(world.live_of("web").len());
    }
    succeeded(&world.operation(operation));
    assert_eq!((world.answering(), most), (["v2".to_owned()].into(), 8));
    world.quiet();
    assert_eq!(world.live_of("web").len(), 4);
}

#[test]
fn recreate_never_runs_two_releases() {
    let (mut world, _, operation) = moving("strategy = \"recreate\"");
    world.must_serve = false;
    let apart = |world: &World| {
        let rows = world.live_of("web");
        let ids: BTreeSet<_> = rows.iter().map(|row| format!("{:?}", release_of(row))).collect();
        assert!(ids.len() <= 1, "{rows:#?}");
    };
    while !world.operation(operation).state.is_settled() {
        world.tick();
        apart(&world);
    }
    succeeded(&world.operation(operation));
    assert_eq!(world.answering(), ["v2".to_owned()].into());
    let refuses = Some("no such program".to_owned());
    world.image(
        "bad",
        Behaviour {
            refuses,
            ..Behaviour::default()
        },
    );
    let bad = world.deploy("shop", "bad", Some(&manifest(4, "strategy = \"recreate\"")));
    while !world.operation(bad.id).state.is_settled() {
        world.tick();
        apart(&world);
    }
    let failure = failed(&world.operation(bad.id)).clone();
    assert!(failure.message.contains("v2 starts again"), "{failure:?}");
    world.quiet();
    assert_eq!(
        (world.live_of("web").len(), world.answering()),
        (4, ["v2".to_owned()].into())
    );
}

fn release_of(row: &model::Instance) -> Option<model::ReleaseId> {
    match row.purpose {
        model::Purpose::Service { release, .. } => Some(release),
        model::Purpose::Job { .. }
        | model::Purpose::Database { .. }
        | model::Purpose::Receiver { .. }
        | model::Purpose::Pooler { .. } => None,
    }
}

/// Everything that is written anywhere: to see that nothing was.
fn rows(world: &World) -> String {
    format!(
        "{:?} {:?} {:?}",
        world.app("shop"),
        world.all::<model::Release>(),
        world.all_instances()
    )
}

#[test]
fn a_plan_tells_what_the_deploy_then_does() {
    let mut world = World::new();
    world.image("good:1", Behaviour::default());
    world.image("good:2", Behaviour::default());
    world.create("shop");
    let first = "schema = 1\napp = \"shop\"\n[env]\nA = \"1\"\nB = \"hidden-one\"\n[services.web]\nscale = 2\n\
        [services.old]\ncommand = \"old\"\n";
    succeeded(&world.deployed("shop", "good:1", Some(first)));
    world.quiet();
    let second = "schema = 1\napp = \"shop\"\n[env]\nB = \"hidden-two\"\nC = \"3\"\n[services.web]\nscale = 3\n\
        secrets = [\"KEY\"]\n[services.new]\ncommand = \"new\"\n[jobs.migrate]\ncommand = \"migrate\"\non = \"release\"\n\
        [databases]\nmain = { engine = \"postgres\" }\n[rollout]\nstrategy = \"canary\"\nsteps = [\"10%:30s\"]\n";
    let before = rows(&world);
    let source = model::operation::Source::Image {
        image: "good:2".to_owned(),
    };
    let plan = |manifest: &str| {
        let (control, path) = (world.control(), EnvPath::default());
        releases::preview(control, &ROOT, &path, "shop", Some(&source), Some(manifest)).expect("foretold")
    };
    let found = plan(second);
    assert!(!format!("{found:?}").contains("hidden"), "values are never told");
    let changes: Vec<String> = found
        .changes
        .iter()
        .map(|change| {
            format!(
                "{} {} {} {}",
                change.what,
                change.name,
                change.how,
                change.settings.join(" ")
            )
        })
        .collect();
    assert_eq!(
        changes,
        [
            "service new added ",
            "service old removed ",
            "service web changed scale secrets",
            "job migrate added ",
            "variable A removed ",
            "variable B changed ",
            "variable C added ",
            "database main added ",
        ]
    );
    assert_eq!(
        (found.release.as_str(), found.serving.as_deref()),
        ("v2", Some("v1"))
    );
    assert_eq!(
        found.obstacles,
        ["the secret KEY is not set; next: stoa secrets set KEY --app shop"]
    );
    assert_eq!(
        found.steps,
        [
            "run the job migrate; if it fails, nothing else happens",
            "start 1 x new of v2 and wait until ready",
            "start 1 x web of v2 and wait until ready",
            "give 10% of the requests to v2 for 30s; a crash or a failing check returns all of them to v1",
            "start 2 x web of v2 and wait until ready",
            "v2 serves: all its instances are ready",
            "drain and end 1 x old of v1: not needed any more",
            "drain and end 2 x web of v1: not needed any more",
        ]
    );
    let gap = plan("schema = 1\napp = \"shop\"\n[services.web]\n[rollout]\nstrategy = \"recreate\"\n");
    assert!(
        gap.steps[0].starts_with("nobody answers from here until v2 serves"),
        "{gap:?}"
    );
    let other = plan("schema = 1\napp = \"other\"\n[services.web]\n");
    assert!(other.obstacles[0].contains("app = \"other\""), "{other:?}");
    let overlaid = "schema = 1\napp = \"shop\"\n[services.web]\nscale = 2\n\
        [environments.production]\nservices.web.scale = 7\n[environments.staging]\nservices.web.scale = 9\n";
    let settings = |manifest: &str| {
        let changes = plan(manifest).changes;
        let web = changes.into_iter().find(|change| change.name == "web");
        web.map(|change| change.settings).unwrap_or_default()
    };
    assert_eq!(
        settings(overlaid),
        ["scale"],
        "the overlay of this environment counts"
    );
    let elsewhere = overlaid.replace("environments.production", "environments.preview");
    assert!(settings(&elsewhere).is_empty(), "that of another does not");
    let unsent = releases::preview(world.control(), &ROOT, &EnvPath::default(), "shop", None, None);
    let unsent = unsent.expect("foretold");
    assert!(
        unsent.unknown.iter().any(|line| line.starts_with("the services")),
        "{unsent:?}"
    );
    assert_eq!(rows(&world), before, "nothing was changed");
    assert_eq!(world.operations().len(), 1);
    let nobody = crate::gate::token(&world, model::Role::Viewer, None);
    let refused = releases::preview(world.control(), &nobody, &EnvPath::default(), "shop", None, None);
    assert_eq!(refused.expect_err("may not deploy").code(), "denied");
}
