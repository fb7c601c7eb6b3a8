//! The engine and the edge fail at every call: the same end, a little later.

use control::{EnvPath, releases};
use engine::simulated::Behaviour;
use engine::{Engine, Workload};
use model::{InstanceId, Millis};

use crate::world::{ROOT, TICK, World, failed, succeeded};

#[test]
fn a_deploy_survives_a_failure_of_any_call() {
    let mut calm = World::with_shop();
    let before = calm.engine.calls();
    succeeded(&calm.deployed("shop", "good:2", None));
    calm.quiet();
    let calls = u32::try_from(calm.engine.calls() - before).expect("few");
    assert!(calls > 2, "{calls}");
    for failing in [1, 3] {
        for spared in 0..calls {
            let mut world = World::with_shop();
            world.engine.fail_later(spared, failing);
            succeeded(&world.deployed("shop", "good:2", None));
            world.quiet();
            assert_eq!(world.answering(), ["v2".to_owned()].into(), "{spared} {failing}");
            assert_eq!(world.live_of("web").len(), 1, "{spared} {failing}");
        }
    }
}

#[test]
fn a_host_that_starts_nothing_rejects_in_time_and_recovers() {
    let mut world = World::with_shop();
    let deploy = world.deploy("shop", "good:2", None);
    world.tick();
    world.engine.fail_next(u32::MAX);
    let done = world.settle(deploy.id);
    assert_eq!(failed(&done).code, "release_rejected");
    assert_eq!(world.answering(), ["v1".to_owned()].into());
    world.engine.fail_next(0);
    world.quiet();
    let restart = releases::restart(world.control(), &ROOT, &EnvPath::default(), "shop").expect("accepted");
    succeeded(&world.settle(restart.operation.id));
}

/// One that cannot be ended must not keep the new release from serving.
#[test]
fn a_failing_stop_holds_back_no_route() {
    let mut world = World::with_shop();
    let deploy = world.deploy("shop", "good:2", None);
    world.until(Millis::seconds(60), "the new one serves", |world| {
        world.answering().contains("v2")
    });
    world.engine.fail_next(6);
    succeeded(&world.settle(deploy.id));
    world.quiet();
    assert_eq!(world.answering(), ["v2".to_owned()].into());
}

#[test]
fn an_edge_that_refuses_keeps_the_old_ones_alive() {
    let mut world = World::with_shop();
    // A look offers the routes twice while a release waits for them: before it counts as serving, and at its end.
    world.edge.refuse(40);
    world.deploy("shop", "good:2", None);
    for _ in 0..20 {
        world.tick();
        assert_eq!(world.answering(), ["v1".to_owned()].into());
        assert!(world.engine.asked_to_end().is_empty());
    }
    world.quiet();
    assert_eq!(world.answering(), ["v2".to_owned()].into());
}

#[test]
fn orphans_go_after_a_grace_and_others_never() {
    let mut world = World::with_shop();
    let mine = world.live_of("web")[0].id;
    let orphan = InstanceId::fresh();
    let workload = Workload {
        id: orphan,
        ..world.engine.workload(mine).expect("it runs")
    };
    world.engine.ensure(&workload).expect("started");
    world.tick();
    for _ in 0..30 {
        world.tick();
        assert!(!world.engine.removed().contains(&orphan), "at first sight");
    }
    // A crash of ours begins the grace anew.
    world.crash();
    world.tick();
    assert!(!world.engine.removed().contains(&orphan));
    for _ in 0..60 {
        world.tick();
    }
    assert_eq!(world.engine.removed(), [orphan].into());
    assert_eq!(world.live_of("web").len(), 1);
}

#[test]
fn a_host_that_cannot_be_seen_changes_nothing() {
    let mut world = World::with_shop();
    world.image("bad", Behaviour::default());
    let table = world.edge.table();
    world.engine.blind(3);
    for _ in 0..3 {
        world.try_pass().expect_err("nothing is seen");
        world.now = world.now.plus(TICK);
    }
    world.tick();
    assert_eq!(world.edge.table(), table);
    assert_eq!(world.live_of("web").len(), 1);
}

/// A look starts some dozens; what waits for the next looks has not begun, so its grace has not either.
#[test]
fn waiting_for_its_turn_to_start_is_no_time_it_had() {
    const MANY: usize = 100;
    let mut world = World::with_shop();
    let slow = Behaviour {
        ready_after: Some(TICK),
        ..Behaviour::default()
    };
    world.image("good:2", slow);
    let text = format!(
        "schema = 1\napp = 'shop'\n[services.web]\nport = 8080\nscale = {MANY}\nhealth = {{ grace = '1s' }}"
    );
    succeeded(&world.deployed("shop", "good:2", Some(&text)));
    world.quiet();
    let live = world.live_of("web");
    assert_eq!(live.len(), MANY);
    assert!(live.iter().all(|row| row.attempt == 0), "some were started again");
    assert_eq!(world.engine.starts().len(), MANY + 1);
}
