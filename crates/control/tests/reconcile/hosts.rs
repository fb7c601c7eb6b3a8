//! Hosts and paths: who has them, and that the edge has them before anybody is told.

use control::{EnvPath, apps, places, releases};
use engine::simulated::Behaviour;
use model::Millis;
use model::operation::Source;

use crate::world::{ROOT, World, failed, name, succeeded};

fn with_route(app: &str, route: &str) -> String {
    format!("schema = 1\napp = \"{app}\"\n[services.web]\nport = 8080\nroutes = [{route}]\n")
}

#[test]
fn what_another_app_has_is_refused_and_disturbs_nobody() {
    let mut world = World::with_shop();
    world.image("other:1", Behaviour::default());
    world.create("other");
    for taken in [
        "{ host = \"shop.localhost\" }",
        "{ path = \"/x\" }, { host = \"shop.localhost\", path = \"/\" }",
    ] {
        let done = world.deployed("other", "other:1", Some(&with_route("other", taken)));
        let why = failed(&done);
        assert!(
            why.message.contains("shop.localhost/ already leads to shop"),
            "{why:?}"
        );
        assert!(why.next_step.contains("routes in stoa.toml"), "{why:?}");
    }
    // Another path of that host is free within the org, and the others move on.
    let beside = with_route("other", "{ host = \"shop.localhost\", path = \"/other/\" }");
    succeeded(&world.deployed("other", "other:1", Some(&beside)));
    succeeded(&world.deployed("shop", "good:2", None));
    world.quiet();
    let routes: Vec<_> = world
        .edge
        .table()
        .services
        .into_iter()
        .flat_map(|s| s.routes)
        .collect();
    let route = |path: &str| ("shop.localhost".to_owned(), path.to_owned());
    assert_eq!(routes, [route("/"), route("/other")]);
}

/// Who may deploy in one project may know of nothing in another, though both are of one org.
#[test]
fn a_host_of_another_project_is_taken_by_nobody_in_particular() {
    let mut world = World::with_shop();
    let control = world.control();
    places::create_project(control, &ROOT, "default", &name("side")).expect("made");
    places::create_environment(control, &ROOT, "default", "side", &name("production")).expect("made");
    let side = EnvPath {
        project: "side".to_owned(),
        ..EnvPath::default()
    };
    apps::create(control, &ROOT, &side, &name("thief")).expect("made");
    let source = Source::Image {
        image: "good:2".to_owned(),
    };
    let manifest = with_route("thief", "{ host = \"shop.localhost\" }");
    let accepted =
        releases::deploy(control, &ROOT, &side, "thief", &source, Some(&manifest)).expect("accepted");
    let done = world.settle(accepted.operation.id);
    let why = failed(&done);
    assert!(
        why.message
            .ends_with("shop.localhost/ already leads to somebody else"),
        "{why:?}"
    );
}

#[test]
fn the_same_app_in_another_environment_has_a_host_of_its_own() {
    let mut world = World::with_shop();
    places::create_environment(world.control(), &ROOT, "default", "default", &name("staging")).expect("made");
    let staging = EnvPath {
        environment: "staging".to_owned(),
        ..EnvPath::default()
    };
    apps::create(world.control(), &ROOT, &staging, &name("shop")).expect("made");
    let source = Source::Image {
        image: "good:2".to_owned(),
    };
    let accepted =
        releases::deploy(world.control(), &ROOT, &staging, "shop", &source, None).expect("accepted");
    let done = world.settle(accepted.operation.id);
    assert_eq!(
        done.outcome.as_deref(),
        Some("v1 serves at http://shop-staging.localhost/")
    );
    let hosts: Vec<_> = world
        .edge
        .table()
        .services
        .into_iter()
        .flat_map(|s| s.routes)
        .collect();
    assert_eq!(hosts.len(), 2, "{hosts:?}");
}

#[test]
fn a_first_release_serves_only_when_the_edge_knows_it() {
    let mut world = World::new();
    world.image("good:1", Behaviour::default());
    world.create("shop");
    world.edge.refuse(u64::MAX);
    let accepted = world.deploy("shop", "good:1", None);
    for _ in 0..50 {
        world.tick();
    }
    let waiting = world.operation(accepted.id);
    assert!(!waiting.state.is_settled(), "{waiting:?}");
    assert_eq!(waiting.step, "waiting for the edge to take the routes");
    world.edge.refuse(0);
    let done = world.settle(accepted.id);
    succeeded(&done);
    assert_eq!(world.edge.table().services.len(), 1);
}

#[test]
fn an_edge_that_takes_nothing_ends_the_deploy_at_its_deadline() {
    let mut world = World::with_shop();
    world.edge.refuse(u64::MAX);
    world.must_serve = false;
    let accepted = world.deploy("shop", "good:2", None);
    world.until(Millis::seconds(40 * 60), "the operation to settle", |world| {
        world.operation(accepted.id).state.is_settled()
    });
    let done = world.operation(accepted.id);
    assert!(failed(&done).message.contains("edge did not take"), "{done:?}");
    assert_eq!(world.serving("shop"), Some(1));
}
