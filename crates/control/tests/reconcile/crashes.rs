//! Control dies after any look, and comes to the same end.

use control::{EnvPath, apps, releases};
use engine::simulated::Behaviour;
use model::{Millis, Operation, OperationState};

use crate::world::{ROOT, World, succeeded};

fn slow() -> Behaviour {
    Behaviour {
        ready_after: Some(Millis::seconds(1)),
        obeys_after: Some(Millis::seconds(1)),
        ..Behaviour::default()
    }
}

/// What people would see of an end, without ids and times.
fn end(world: &World) -> String {
    let mut operations: Vec<String> = world.operations().iter().map(told).collect();
    operations.sort();
    format!(
        "{operations:?} serving {:?} answering {:?} live {}",
        world.serving("shop"),
        world.answering(),
        world.live_of("web").len()
    )
}

fn told(operation: &Operation) -> String {
    match &operation.state {
        OperationState::Pending | OperationState::Running => "open".to_owned(),
        OperationState::Succeeded { .. } => "succeeded".to_owned(),
        OperationState::Failed { failure, .. } => format!("failed {}", failure.code),
        OperationState::Canceled { .. } => "canceled".to_owned(),
    }
}

/// Runs `begin` once undisturbed, then with a crash after each of its looks, and with one after every look.
fn check(prepare: impl Fn() -> World, begin: impl Fn(&World)) {
    let mut calm = prepare();
    begin(&calm);
    calm.quiet();
    let expected = end(&calm);
    for crash_at in (0..14).chain([usize::MAX]) {
        let mut world = prepare();
        begin(&world);
        for look in 0..14 {
            if look == crash_at || crash_at == usize::MAX {
                world.crash();
            }
            world.tick();
        }
        world.quiet();
        assert_eq!(end(&world), expected, "crash at {crash_at}");
    }
}

#[test]
fn a_deploy_survives() {
    let prepare = || {
        let world = World::with_shop();
        world.image("good:2", slow());
        world
    };
    check(prepare, |world| drop(world.deploy("shop", "good:2", None)));
}

#[test]
fn a_rollback_survives() {
    let prepare = || {
        let mut world = World::with_shop();
        succeeded(&world.deployed("shop", "good:2", None));
        world.quiet();
        world.image("good:1", slow());
        world
    };
    check(prepare, |world| {
        releases::rollback(world.control(), &ROOT, &EnvPath::default(), "shop", None).expect("accepted");
    });
}

#[test]
fn every_strategy_survives() {
    for rollout in [
        "strategy = 'blue-green'",
        "strategy = 'canary'\nsteps = ['5%:1s', '50%:2s']",
        "strategy = 'recreate'",
    ] {
        let text = format!("schema = 1\napp = 'shop'\n[services.web]\nscale = 2\n[rollout]\n{rollout}");
        let prepare = || {
            let mut world = World::with_shop();
            world.image("good:2", slow());
            world.must_serve = !rollout.contains("recreate");
            world
        };
        check(prepare, |world| drop(world.deploy("shop", "good:2", Some(&text))));
    }
}

#[test]
fn a_rejection_survives() {
    let prepare = || {
        let world = World::with_shop();
        let refuses = Some("no such program".to_owned());
        world.image(
            "bad",
            Behaviour {
                refuses,
                ..Behaviour::default()
            },
        );
        world
    };
    check(prepare, |world| drop(world.deploy("shop", "bad", None)));
}

#[test]
fn a_deletion_survives() {
    for crash_at in 0..8 {
        let mut world = World::with_shop();
        world.must_serve = false;
        world.image("good:2", slow());
        world.deploy("shop", "good:2", None);
        world.tick();
        apps::delete(world.control(), &ROOT, &EnvPath::default(), "shop", None).expect("accepted");
        for look in 0..8 {
            if look == crash_at {
                world.crash();
            }
            world.tick();
        }
        world.quiet();
        assert!(world.all::<model::App>().is_empty() && world.all_instances().is_empty());
    }
}

/// Between intent and effect, for longer than any grace: what nobody looked after is not at fault.
#[test]
fn a_long_absence_rejects_nothing() {
    let mut world = World::with_shop();
    world.image("good:2", slow());
    let deploy = world.deploy("shop", "good:2", None);
    for looks in 1..4 {
        for _ in 0..looks {
            world.tick();
        }
        world.crash();
        world.now = world.now.plus(Millis::seconds(120));
    }
    succeeded(&world.settle(deploy.id));
}

#[test]
fn adopted_instances_keep_their_traffic() {
    let mut world = World::with_shop();
    let before = world.edge.table();
    // An engine that has just begun has asked nobody yet.
    world.image(
        "good:1",
        Behaviour {
            ready_after: None,
            ..Behaviour::default()
        },
    );
    world.crash();
    for _ in 0..5 {
        world.tick();
        assert_eq!(world.edge.table(), before);
    }
    world.image("good:1", Behaviour::default());
    world.quiet();
    assert_eq!(world.edge.table(), before);
    assert_eq!(world.engine.starts().len(), 1);
}

#[test]
fn the_first_look_publishes_and_another_edge_is_told_again() {
    let mut world = World::with_shop();
    let before = world.edge.table();
    let publishes = world.edge.publishes();
    world.crash();
    world.tick();
    assert_eq!(world.edge.publishes(), publishes + 1);
    world.edge.replace(control::routes::RouteTable::default());
    world.must_serve = false;
    world.tick();
    assert_eq!(world.edge.table(), before);
}

/// Nobody is at work where a former process built, unless the operation will build again.
#[test]
fn what_a_dead_build_left_is_removed_at_the_next_start() {
    let mut world = World::new();
    let left = world
        .control()
        .settings
        .data_dir
        .join("builds")
        .join(model::OperationId::fresh().to_string());
    std::fs::create_dir_all(left.join("source")).expect("a directory");
    world.crash();
    world.pass();
    assert!(!left.exists(), "{} is still there", left.display());
}
