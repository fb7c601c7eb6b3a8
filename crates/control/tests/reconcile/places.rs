//! Orgs, projects and environments: made, renamed, and removed only when nothing is in them.

use control::{Control, ControlError, EnvPath, apps, databases, people, places};
use model::{Database, DatabaseState, Millis, Name, Operation, Org, Role};

use crate::world::{ROOT, World, name};

fn at(org: &str, project: &str, environment: &str) -> EnvPath {
    EnvPath {
        org: org.to_owned(),
        project: project.to_owned(),
        environment: environment.to_owned(),
    }
}

/// What a refusal says is in the way.
fn full<T: std::fmt::Debug>(refused: Result<T, ControlError>) -> String {
    match refused {
        Err(ControlError::State { message, next_step }) => {
            assert!(next_step.contains("stoa "), "{next_step}");
            message
        }
        other => panic!("not refused: {other:?}"),
    }
}

fn make(control: &Control) -> EnvPath {
    places::create_org(control, &ROOT, &name("acme")).expect("an org");
    places::create_project(control, &ROOT, "acme", &name("web")).expect("a project");
    places::create_environment(control, &ROOT, "acme", "web", &name("live")).expect("an environment");
    at("acme", "web", "live")
}

#[test]
fn what_is_not_empty_stays() {
    let world = World::new();
    let control = world.control();
    let live = make(control);
    apps::create(control, &ROOT, &live, &name("shop")).expect("an app");
    let wish = databases::Wish::default();
    databases::create(control, &ROOT, &live, &name("main"), &wish).expect("a database");
    let said = full(places::delete_environment(control, &ROOT, &live, None));
    for inside in ["the app shop", "the database main", "the operation op_"] {
        assert!(said.contains(inside), "{said}");
    }
    let said = full(places::delete_project(control, &ROOT, "acme", "web", None));
    assert!(said.contains("the environment live"), "{said}");
    let said = full(places::delete_org(control, &ROOT, "acme", None));
    assert!(said.contains("the project web"), "{said}");
    assert!(
        apps::view(control, &ROOT, &live, "shop").is_ok(),
        "nothing was removed"
    );
}

#[test]
fn what_is_empty_goes_with_its_tokens() {
    let mut world = World::new();
    let live = make(world.control());
    apps::create(world.control(), &ROOT, &live, &name("shop")).expect("an app");
    let (_, secret) = people::create_token(
        world.control(),
        &ROOT,
        &people::Wish::of("ci", Role::Admin),
        Some("acme"),
    )
    .expect("a token");
    let text = secret.expose_str().expect("text").to_owned();
    apps::delete(world.control(), &ROOT, &live, "shop", None).expect("asked");
    world.until(Millis::seconds(120), "no app", |world| {
        apps::list(world.control(), &ROOT, &live, "", 1).is_ok_and(|(apps, _)| apps.is_empty())
    });
    world.until(Millis::seconds(120), "an environment that can go", |world| {
        places::delete_environment(world.control(), &ROOT, &live, None).is_ok()
    });
    let control = world.control();
    places::delete_project(control, &ROOT, "acme", "web", None).expect("empty");
    assert!(people::authenticate(control, &text).is_ok());
    places::delete_org(control, &ROOT, "acme", None).expect("empty");
    assert!(matches!(
        people::authenticate(control, &text),
        Err(ControlError::SignIn)
    ));
    assert!(matches!(
        places::org(control, &ROOT, "acme"),
        Err(ControlError::NotFound { kind: "org", .. })
    ));
    let of_gone = |world: &World| world.all::<Operation>().len();
    assert!(of_gone(&world) > 0);
    world.until(
        Millis::seconds(24 * 3600),
        "operations of what is gone go too",
        |world| of_gone(world) == 0,
    );
}

/// Data of a database that was ended is data: as long as it is kept, its environment is not empty.
#[test]
fn kept_data_keeps_its_environment() {
    let mut world = World::new();
    let live = make(world.control());
    let wish = databases::Wish::default();
    databases::create(world.control(), &ROOT, &live, &name("main"), &wish).expect("a database");
    world.until(Millis::seconds(120), "a settled operation", |world| {
        world.operations().iter().all(|op| op.state.is_settled())
    });
    databases::destroy(world.control(), &ROOT, &live, "main", None).expect("asked");
    world.until(Millis::seconds(120), "an ended database", |world| {
        let is_ended = |database: &Database| matches!(database.state, DatabaseState::Destroyed { .. });
        world.all::<Database>().iter().all(is_ended)
            && world.operations().iter().all(|op| op.state.is_settled())
    });
    let refused = places::delete_environment(world.control(), &ROOT, &live, None);
    // Nothing that nobody can do is advised.
    let next_step = refused.as_ref().expect_err("not empty").next();
    assert!(
        next_step.contains("goes by itself") && !next_step.contains("remove or move"),
        "{next_step}"
    );
    let said = full(refused);
    assert!(said.contains("kept until"), "{said}");
}

#[test]
fn names_can_change_and_stay_unique() {
    let mut world = World::new();
    let control = world.control();
    let live = make(control);
    apps::create(control, &ROOT, &live, &name("shop")).expect("an app");
    let before = places::org(control, &ROOT, "acme").expect("an org");
    let taken = places::rename_org(control, &ROOT, "acme", &name("default"), None);
    assert!(matches!(taken, Err(ControlError::Taken { kind: "org", .. })));
    let stale = places::rename_org(control, &ROOT, "acme", &name("emca"), Some(before.generation + 1));
    assert!(matches!(stale, Err(ControlError::Stale { .. })));
    let after = places::rename_org(control, &ROOT, "acme", &name("emca"), Some(before.generation));
    assert_eq!(after.expect("renamed").row.id, before.row.id);
    places::rename_project(control, &ROOT, "emca", "web", &name("site"), None).expect("renamed");
    assert!(apps::view(control, &ROOT, &at("emca", "site", "live"), "shop").is_ok());
    assert!(apps::view(control, &ROOT, &live, "shop").is_err());
    for (kind, made) in [
        ("org", places::create_org(control, &ROOT, &name("emca")).map(drop)),
        (
            "project",
            places::create_project(control, &ROOT, "emca", &name("site")).map(drop),
        ),
        (
            "environment",
            places::create_environment(control, &ROOT, "emca", "site", &name("live")).map(drop),
        ),
    ] {
        assert!(
            matches!(made, Err(ControlError::Taken { kind: of, .. }) if of == kind),
            "{made:?}"
        );
    }
    // What exists from the start is not made again when somebody gave it another name.
    let other: Name = name("other");
    places::rename_org(control, &ROOT, "default", &other, None).expect("renamed");
    world.crash();
    places::found(world.control()).expect("again");
    assert!(
        world
            .all::<Org>()
            .iter()
            .all(|org| org.name.as_str() != "default")
    );
}
