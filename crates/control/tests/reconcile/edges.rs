//! What the edge obeys while it refuses tables, while several apps move at once, and after control was away. Each was
//! found by a seed of `tests/simulation`.

use std::collections::{BTreeMap, BTreeSet};

use control::{EnvPath, apps};
use engine::simulated::Behaviour;
use model::Millis;

use crate::world::{ROOT, World, failed, name, routed, succeeded};

fn scale(world: &World, web: u16) {
    let counts = BTreeMap::from([(name("web"), web)]);
    apps::scale(world.control(), &ROOT, &EnvPath::default(), "shop", &counts, None).expect("accepted");
}

/// The second of two announcements in one look says nothing about the first app but what it said itself.
#[test]
fn apps_that_serve_for_the_first_time_in_one_look_keep_their_routes() {
    let mut world = World::with_shop();
    world.create("api");
    world.create("blog");
    let deploys = [
        world.deploy("api", "good:2", None),
        world.deploy("blog", "good:2", None),
    ];
    for deploy in deploys {
        succeeded(&world.settle(deploy.id));
    }
    let mut served: BTreeSet<String> = BTreeSet::new();
    for table in world.edge.obeyed() {
        let serves: BTreeSet<String> = table.services.into_iter().map(|service| service.app).collect();
        assert!(
            served.is_subset(&serves),
            "{served:?} served, now only {serves:?}"
        );
        served = serves;
    }
    assert_eq!(served.len(), 3);
}

/// The bound of draining is for requests under way, not for an edge that goes on sending new ones.
#[test]
fn what_the_edge_still_routes_is_not_ended_however_long_it_refuses() {
    let mut world = World::with_shop();
    scale(&world, 2);
    world.quiet();
    world.edge.refuse(u64::MAX);
    scale(&world, 1);
    for _ in 0..300 {
        world.tick();
        assert!(world.engine.asked_to_end().is_empty());
    }
    world.edge.refuse(0);
    world.quiet();
    assert_eq!(world.live_of("web").len(), 1);
}

#[test]
fn what_the_edge_still_routes_is_not_ended_after_a_long_absence() {
    let mut world = World::with_shop();
    scale(&world, 2);
    world.quiet();
    world.edge.refuse(1);
    scale(&world, 1);
    world.tick();
    world.crash();
    world.now = world.now.plus(Millis::seconds(300));
    world.tick();
    assert!(world.engine.asked_to_end().is_empty());
    world.quiet();
    assert_eq!(world.live_of("web").len(), 1);
}

/// The look that gives a release up must not offer it once more.
#[test]
fn a_release_that_the_edge_refused_to_the_end_never_serves() {
    let mut world = World::with_shop();
    world.edge.refuse(u64::MAX);
    let deploy = world.deploy("shop", "good:2", None);
    for _ in 0..20 {
        world.tick();
    }
    world.now = world.operation(deploy.id).deadline;
    world.edge.refuse(1);
    world.tick();
    assert_eq!(world.answering(), ["v1".to_owned()].into());
    assert_eq!(failed(&world.settle(deploy.id)).code, "deadline");
    assert_eq!(world.answering(), ["v1".to_owned()].into());
    world.quiet();
    assert_eq!(world.answering(), ["v1".to_owned()].into());
}

/// After a start of control a failed check proves nothing about what was ready before; about the others it does.
#[test]
fn what_fails_again_soon_after_a_start_of_control_is_not_promoted() {
    let manifest = "schema = 1\napp = \"shop\"\n[services.web]\nimage = \"good:2\"\nport = 8080\n\
                    [services.worker]\nimage = \"good:1\"\ncommand = \"work\"\n";
    let mut world = World::with_shop();
    let deploy = world.deploy("shop", "good:1", Some(manifest));
    world.tick();
    world.crash();
    world.until(Millis::seconds(5), "the new one is ready", |world| {
        let is_new = |row: &&model::Instance| matches!(row.condition, model::Condition::Ready { .. });
        world.live_of("web").iter().filter(is_new).count() == 2
    });
    let never = Behaviour {
        ready_after: None,
        ..Behaviour::default()
    };
    world.image("good:2", never);
    for _ in 0..16 {
        world.tick();
        assert_eq!(world.answering(), ["v1".to_owned()].into());
    }
    world.image("good:2", Behaviour::default());
    succeeded(&world.settle(deploy.id));
}

/// The first look after an absence cannot ask the edge before it has looked at every app. That is not the release's fault.
#[test]
fn what_is_ready_serves_although_its_time_passed_while_control_was_away() {
    let mut world = World::with_shop();
    world.create("api");
    succeeded(&world.deployed("api", "good:2", None));
    world.edge.refuse(u64::MAX);
    let deploy = world.deploy("shop", "good:2", None);
    for _ in 0..20 {
        world.tick();
    }
    world.crash();
    world.edge.refuse(0);
    world.now = world.operation(deploy.id).deadline;
    for _ in 0..3 {
        world.tick();
    }
    succeeded(&world.operation(deploy.id));
    assert_eq!(world.serving("shop"), Some(2));
}

/// A check that fails everywhere at once says more about the check, or what all of them need, than about the instances.
#[test]
fn f30_when_all_are_unready_the_last_known_get_the_requests() {
    let mut world = World::with_shop();
    scale(&world, 2);
    world.quiet();
    world.must_serve = true;
    let known = routed(&world.edge.table());
    assert_eq!(known.len(), 2);
    let failing = Behaviour {
        ready_after: None,
        ..Behaviour::default()
    };
    world.image("good:1", failing);
    let is_unready = |row: &model::Instance| matches!(row.condition, model::Condition::Unready { .. });
    world.until(Millis::seconds(60), "all are unready", |world| {
        world.live_of("web").iter().all(is_unready)
    });
    for _ in 0..5 {
        world.tick();
        assert_eq!(routed(&world.edge.table()), known);
        assert!(world.engine.asked_to_end().is_empty());
    }
    world.image("good:1", Behaviour::default());
    world.quiet();
    assert_eq!(routed(&world.edge.table()), known);
}
