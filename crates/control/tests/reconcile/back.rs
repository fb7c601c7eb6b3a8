//! Going back: an operation that failed or was cancelled is settled when nothing of what it gave up may answer any more,
//! and not a look sooner, whatever that takes.

use control::{EnvPath, apps, operations, releases};
use engine::simulated::Behaviour;
use model::{Condition, Exit, Millis, OperationId, Timestamp};

use crate::world::{ROOT, World, failed, name};

/// Two of v1 whose next lives are slow to get ready, and v2 or, by a rollback, v1's fresh ones after the switch: they have
/// all requests, and the operation is not done. Then one of them ends.
fn turned(rolls_back: bool, ready_after: Millis) -> (World, OperationId) {
    let mut world = World::with_shop();
    let counts = [(name("web"), 2)].into();
    apps::scale(world.control(), &ROOT, &EnvPath::default(), "shop", &counts, None).expect("accepted");
    world.quiet();
    if rolls_back {
        let deploy = world.deploy("shop", "good:2", None);
        world.settle(deploy.id);
        world.quiet();
    }
    let (old, new) = if rolls_back {
        ("good:2", "v1")
    } else {
        ("good:1", "v2")
    };
    world.must_serve = true;
    let operation = if rolls_back {
        let back = releases::rollback(world.control(), &ROOT, &EnvPath::default(), "shop", Some("v1"));
        back.expect("accepted").operation
    } else {
        world.deploy("shop", "good:2", None)
    };
    world.until(Millis::seconds(60), "the switch", |world| {
        world.answering() == [new.to_owned()].into()
    });
    assert!(!world.operation(operation.id).state.is_settled());
    let slow = Behaviour {
        ready_after: Some(ready_after),
        ..Behaviour::default()
    };
    world.image(old, slow);
    let is_ready = |row: &&model::Instance| matches!(row.condition, Condition::Ready { .. });
    let victim = world.live_of("web").iter().find(is_ready).expect("ready").id;
    world.engine.crash(victim, Exit::Code { code: 1 });
    (world, operation.id)
}

/// What is given up answers as long as the operation is open, then never again. How long that was.
fn check(mut world: World, operation: OperationId, kept: &str, given_up: &str) -> Millis {
    let begin = world.now;
    world.until(Millis::seconds(120), "it stands in", |world| {
        world.answering().contains(given_up) && world.operation(operation).step.starts_with("going back: ")
    });
    let mut settled: Option<Timestamp> = None;
    for _ in 0..300 {
        world.tick();
        let is_settled = world.operation(operation).state.is_settled();
        if is_settled {
            settled.get_or_insert(world.now);
            assert!(!world.answering().contains(given_up), "{given_up} answers again");
            assert!(world.app("shop").rollout.is_none());
        }
    }
    world.quiet();
    assert_eq!(failed(&world.operation(operation)).code, "release_rejected");
    assert_eq!(world.answering(), [kept.to_owned()].into());
    settled.expect("settled").since(begin)
}

#[test]
fn a_rejected_release_answers_until_its_operation_settles_and_no_longer() {
    let (world, deploy) = turned(false, Millis::seconds(8));
    let took = check(world, deploy, "v1", "v2");
    assert!(
        took >= Millis::seconds(8),
        "settled after {took}, before v1 was back"
    );
}

#[test]
fn so_does_what_a_rollback_went_to() {
    let (world, back) = turned(true, Millis::seconds(8));
    let took = check(world, back, "v2", "v1");
    assert!(
        took >= Millis::seconds(8),
        "settled after {took}, before v2 was back"
    );
}

#[test]
fn what_failed_is_remembered_and_who_asks_for_an_end_meanwhile_hides_no_reason() {
    let (mut world, deploy) = turned(false, Millis::seconds(8));
    world.until(Millis::seconds(60), "it goes back", |world| {
        world
            .app("shop")
            .rollout
            .is_some_and(|rollout| rollout.returning.is_some())
    });
    let rollout = world.app("shop").rollout.expect("it goes back");
    assert_eq!(rollout.failed.len(), 1, "the one that ended");
    operations::cancel(world.control(), &ROOT, &deploy.to_string()).expect("asked");
    let done = world.settle(deploy);
    assert_eq!(failed(&done).code, "release_rejected");
}

#[test]
fn its_step_does_not_change_with_every_look() {
    let (mut world, deploy) = turned(false, Millis::seconds(0));
    // What serves cannot be whole again, so the return waits for nothing but the edge, which obeys nothing.
    let broken = Behaviour {
        exits: Some((Millis::new(0), Exit::Code { code: 1 })),
        ..Behaviour::default()
    };
    world.must_serve = false;
    world.image("good:1", broken);
    for row in world.live_of("web") {
        world.engine.crash(row.id, Exit::Code { code: 1 });
    }
    world.edge.refuse(100_000);
    for _ in 0..60 {
        world.tick();
    }
    let (log, _, _) = operations::log(world.control(), &ROOT, &deploy.to_string(), 0).expect("read");
    let said: Vec<&String> = log
        .iter()
        .filter(|line| line.starts_with("==> going back"))
        .collect();
    let distinct: std::collections::BTreeSet<&&String> = said.iter().collect();
    assert!(!said.is_empty() && said.len() <= 2 * distinct.len(), "{said:#?}");
}
