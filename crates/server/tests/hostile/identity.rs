//! N32-N45 as far as there is something to try them on: whose things are whose, and what a token is.

use api::Role;
use serde_json::json;
use server::planted::Defect;

use crate::world::{HOME, World};

#[test]
fn n32_the_gate_is_asked_before_anything_of_a_request_counts() {
    let world = World::new();
    let viewer = world.token(Role::Viewer, None);
    let send = || world.call_as(&viewer, "POST", &format!("{HOME}/apps"), "", "{\"nonsense\":1}");
    let refused = send();
    assert_eq!((refused.status, refused.code()), (403, "denied"), "{refused:?}");
    // The control: otherwise a stranger learns from the answer what a good request is like.
    let told = World::without(Defect::ForgetsTheGate, send);
    assert_eq!((told.status, told.code()), (422, "invalid"), "{told:?}");
}

#[test]
fn n33_a_body_cannot_lead_to_what_its_path_does_not() {
    let world = World::new();
    let made = world.post(
        "/v1/orgs/default/projects/default/environments",
        "{\"name\":\"staging\"}",
    );
    assert_eq!(made.status, 201, "{made:?}");
    let staging = HOME.replace("production", "staging");
    let header = "Content-Type: application/x-tar\r\n";
    let sent = world.call("POST", &format!("{staging}/uploads"), header, "");
    // Without a body there is nothing to keep: the archive itself is sent by the client of the other tests.
    assert_eq!(sent.status, 400, "{sent:?}");
    let upload = control::uploads::receive(
        &world.control,
        &model::Actor::System,
        &control::EnvPath {
            environment: "staging".to_owned(),
            ..control::EnvPath::default()
        },
        &mut &[0_u8; 1024][..],
    )
    .expect("received");
    world.post(&format!("{staging}/apps"), "{\"name\":\"shop\"}");
    let deploy = |home: &str| {
        let body = json!({"source": {"kind": "upload", "upload": upload.row.id.to_string()}});
        world.post(&format!("{home}/apps/shop/releases"), &body.to_string())
    };
    let foreign = deploy(HOME);
    assert!([404, 422].contains(&foreign.status), "{foreign:?}");
    // The control: in its own environment it is taken.
    assert_eq!(deploy(&staging).status, 202);
}

#[test]
fn n35_every_door_refuses_the_same_variables() {
    let world = World::new();
    let refused = |answer: crate::world::Answer| {
        assert_eq!((answer.status, answer.code()), (422, "invalid"), "{answer:?}");
    };
    for key in ["PORT", "STOA_RELEASE"] {
        refused(world.call(
            "PATCH",
            &format!("{HOME}/apps/shop/env"),
            "",
            &json!({"set": {key: "1"}}).to_string(),
        ));
        refused(world.call(
            "PUT",
            &format!("{HOME}/apps/shop/secrets/{key}"),
            "",
            "{\"value\":\"1\"}",
        ));
        let manifest =
            format!("schema = 1\napp = \"shop\"\n[env]\n{key} = \"1\"\n[services.web]\ncommand = \"x\"\n");
        let body = json!({"source": {"kind": "image", "image": "x:1"}, "manifest": manifest});
        refused(world.post(&format!("{HOME}/apps/shop/releases"), &body.to_string()));
    }
    // The control: another one is taken by each.
    let set = world.call(
        "PATCH",
        &format!("{HOME}/apps/shop/env"),
        "",
        "{\"set\":{\"PORTS\":\"1\"}}",
    );
    assert_eq!(set.status, 200);
    let secret = world.call(
        "PUT",
        &format!("{HOME}/apps/shop/secrets/PORTS"),
        "",
        "{\"value\":\"1\"}",
    );
    assert_eq!(secret.status, 200);
}

#[test]
fn n37_a_lesser_role_does_not_see_what_makes_a_greater_one() {
    let world = World::new();
    let paths = ["/v1/tokens", "/v1/audit", "/v1/users", "/v1/server/master-key"];
    for role in [Role::Viewer, Role::Developer] {
        let token = world.token(role, None);
        for path in paths {
            let answer = world.call_as(&token, "GET", path, "", "");
            assert_eq!((answer.status, answer.code()), (403, "denied"), "{role:?} {path}");
        }
    }
    // The control: the owner sees all of it, and no text of a token in it.
    for path in paths {
        let answer = world.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(
            !answer.body.to_string().contains(&world.owner),
            "{path} shows a token"
        );
    }
}

#[test]
fn n38_a_revoked_token_is_refused_at_once() {
    let world = World::new();
    let token = world.token(Role::Admin, None);
    let answers = || world.call_as(&token, "GET", "/v1/whoami", "", "").status;
    assert_eq!(answers(), 200);
    let list = world.get("/v1/tokens").body["items"]
        .as_array()
        .cloned()
        .expect("items");
    let id = list
        .iter()
        .find(|one| one["name"] == "Admin")
        .and_then(|one| one["id"].as_str())
        .expect("it");
    assert_eq!(
        world.call("DELETE", &format!("/v1/tokens/{id}"), "", "").status,
        204
    );
    assert_eq!(answers(), 401);
}

#[test]
fn n42_a_token_counts_in_its_header_only_and_is_kept_as_a_hash() {
    let world = World::new();
    let asked = |path: &str| world.get(path);
    for name in ["token", "access_token", "api_key"] {
        let path = format!("/v1/orgs?{name}={}", world.owner);
        let with_both = asked(&path);
        assert_eq!(
            (with_both.status, with_both.code()),
            (422, "invalid"),
            "{with_both:?}"
        );
        assert!(
            !with_both.body.to_string().contains(&world.owner),
            "it is repeated"
        );
        let alone = world.call_as("", "GET", &path, "", "");
        assert_eq!((alone.status, alone.code()), (401, "sign_in"));
        // The control.
        assert_eq!(World::without(Defect::TakesAnyQuery, || asked(&path)).status, 200);
    }
    for header in ["X-Token", "Cookie", "Authentication"] {
        let line = format!("{header}: {}\r\n", world.owner);
        assert_eq!(
            world.call_as("", "GET", "/v1/orgs", &line, "").status,
            401,
            "{header}"
        );
    }
    // Nothing of the store holds its text; the name beside it is there, so the search works.
    let is_there = |text: &str| {
        ["store.db", "store.db-wal"].iter().any(|file| {
            let bytes = std::fs::read(world.dir.path().join(file)).unwrap_or_default();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        })
    };
    assert!(is_there("\"Owner\"") && !is_there(&world.owner[12..40]));
}
