//! What the edge obeys while it refuses tables, while several apps move at once, and after control was away. Each was
//! found by a seed of `tests/simulation`.

use std::collections::BTreeSet;

use crate::world::{World, succeeded};

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
