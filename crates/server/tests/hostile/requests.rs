//! N36, N43, N44, N80 and what else a request is made of.

use server::planted::Defect;

use crate::world::{HOME, World};

#[test]
fn n36_what_is_no_path_of_ours_is_nothing() {
    let world = World::new();
    let apps = format!("{HOME}/apps");
    for path in [
        format!("{apps}/"),
        format!("/{apps}"),
        apps.replace("/apps", "//apps"),
        apps.replace("/orgs", "/Orgs"),
        apps.replace("/v1", "/V1"),
        apps.replace("/apps", "%2fapps"),
        apps.replace("/apps", "/%61pps"),
        format!("{apps}/shop/.."),
        format!("{apps}/shop/%2e%2e"),
        format!("{apps}/sho%70/"),
        format!("{apps}/shop%00"),
        format!("{apps}/shop%2fenv"),
        format!("{apps};x"),
        format!("/../{apps}"),
        "/v2/orgs".to_owned(),
        "/".to_owned(),
        "/admin".to_owned(),
    ] {
        let answer = world.get(&path);
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{path}");
        // Nobody learns from a path whether it is one.
        let stranger = world.call_as("", "GET", &path, "", "");
        assert!([401, 404].contains(&stranger.status), "{path}: {stranger:?}");
    }
    for method in ["TRACE", "PUT", "get", "OPTIONS", "HEADS"] {
        let answer = world.call(method, &apps, "", "");
        assert_eq!(
            (answer.status, answer.code()),
            (405, "method_not_allowed"),
            "{method}"
        );
    }
    // The control: the path itself answers, also with a letter of a name escaped.
    assert_eq!(world.get(&apps).status, 200);
    assert_eq!(world.get(&format!("{apps}/sho%70")).status, 200);
}

#[test]
fn n43_more_members_than_there_are_are_refused() {
    let world = World::new();
    let body = |name: &str| format!("{{\"name\":\"{name}\",\"serving\":\"rel_x\",\"org\":\"default\"}}");
    let send = |name: &str| world.post(&format!("{HOME}/apps"), &body(name));
    let refused = send("extra");
    assert_eq!((refused.status, refused.code()), (422, "invalid"), "{refused:?}");
    // The control: without the comparison with the schema it is made, members and all.
    assert_eq!(
        World::without(Defect::TakesAnyMember, || send("extra")).status,
        201
    );
}

#[test]
fn n43_a_member_named_twice_is_refused() {
    let world = World::new();
    let twice = |first: &str| {
        let body = format!("{{\"name\":\"{first}\",\"name\":\"second\"}}");
        world.post(&format!("{HOME}/apps"), &body)
    };
    let refused = twice("first");
    assert_eq!(
        (refused.status, refused.code()),
        (400, "bad_request"),
        "{refused:?}"
    );
    // The control: otherwise one of the two counts, and nobody can know which.
    let made = World::without(Defect::TakesTwins, || twice("first"));
    assert_eq!((made.status, made.body["name"].as_str()), (201, Some("second")));
}

#[test]
fn n44_a_change_of_what_one_has_not_seen_is_refused() {
    let world = World::new();
    let path = format!("{HOME}/apps/shop/env");
    let set = |generation: u64| {
        let header = format!("If-Match: \"{generation}\"\r\n");
        world.call("PATCH", &path, &header, "{\"set\":{\"A\":\"1\"}}")
    };
    assert_eq!(set(1).status, 200);
    let refused = set(1);
    assert_eq!((refused.status, refused.code()), (412, "stale"), "{refused:?}");
    // The control.
    control::planted::plant(Some(control::planted::Defect::IgnoresGeneration));
    let taken = set(1);
    control::planted::plant(None);
    assert_eq!(taken.status, 200, "{taken:?}");
}

#[test]
fn n80_a_panic_costs_one_request_and_is_counted() {
    let world = World::new();
    let panics = |world: &World| {
        let text = world.get("/metrics").body.as_str().unwrap_or_default().to_owned();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("stoa_api_panics_total "));
        line.expect("the counter").parse::<u64>().expect("a number")
    };
    assert_eq!(panics(&world), 0);
    let (panicked, others) = World::without(Defect::PanicsInAHandler, || {
        let panicked = world.get("/v1/whoami");
        (panicked, [world.get("/v1/orgs"), world.get("/healthz")])
    });
    assert_eq!(
        (panicked.status, panicked.code()),
        (500, "internal"),
        "{panicked:?}"
    );
    assert!(
        !panicked.body.to_string().contains(&world.owner),
        "its text went out"
    );
    assert!(others.iter().all(|answer| answer.status == 200), "{others:?}");
    // The control: without the panic the same request is answered; the process went on, and the defect is counted.
    assert_eq!(world.get("/v1/whoami").status, 200);
    assert_eq!(panics(&world), 1);
}
