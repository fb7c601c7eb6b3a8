//! N1-N15: texts that a shell, a path, SQL, a template or a terminal would understand.

use serde_json::{Value, json};

use crate::world::{HOME, World};

/// Strings with what shells, paths, templates and terminals understand.
pub const STRINGS: [&str; 64] = [
    "$(id)",
    "`id`",
    "a;id",
    "a|id",
    "a||id",
    "a&id",
    "a&&id",
    "a>b",
    "a<b",
    "a>>b",
    "a\nid",
    "a\rid",
    "a\tid",
    "a id",
    " a",
    "a ",
    "a\\b",
    "a'b",
    "a\"b",
    "$HOME",
    "${HOME}",
    "$((1))",
    "a*",
    "a?",
    "[a]",
    "{a,b}",
    "~",
    "~root",
    "!!",
    "#a",
    "a#b",
    "%s%n",
    "%00",
    "a\0b",
    "-a",
    "--",
    "--help",
    "-",
    "..",
    ".",
    "../a",
    "a/b",
    "/a",
    "//",
    "a\\..\\b",
    "{{7*7}}",
    "${7*7}",
    "<%= 7*7 %>",
    "#{7*7}",
    "<script>",
    "\u{1b}[31m",
    "a\u{200b}b",
    "a\u{202e}b",
    "\u{430}pp",
    "\u{ff41}pp",
    "\u{e9}",
    "A",
    "APP",
    "1a",
    "a.",
    "a.b",
    "a_b",
    "a=b",
    "'; DROP TABLE object; --",
];

/// Each door that takes a name: method, path, body. `NAME` is a JSON text, `name` the same as part of a path.
const DOORS: [(&str, &str, &str); 8] = [
    ("POST", "/apps", "{\"name\":NAME}"),
    ("POST", "/databases", "{\"name\":NAME}"),
    ("POST", "/databases/main/branches", "{\"name\":NAME}"),
    ("PUT", "/apps/shop/scale", "{\"counts\":{NAME:1}}"),
    ("PATCH", "/apps/shop/env", "{\"set\":{NAME:\"x\"}}"),
    ("PUT", "/apps/shop/secrets/name", "{\"value\":\"x\"}"),
    ("POST", "../environments", "{\"name\":NAME}"),
    (
        "POST",
        "/apps/shop/releases",
        "{\"source\":{\"kind\":\"image\",\"image\":\"x:1\"},\"manifest\":MANIFEST}",
    ),
];

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn send(world: &World, (method, path, body): (&str, &str, &str), name: &str) -> crate::world::Answer {
    let text = Value::String(name.to_owned()).to_string();
    // In the manifest's own words: the name of the app, a service and a volume.
    let manifest = format!("schema = 1\napp = {text}\n[services.web]\ncommand = \"x\"\n");
    let body = body
        .replace("MANIFEST", &Value::String(manifest).to_string())
        .replace("NAME", &text);
    let path = match path.strip_prefix("..") {
        Some(rest) => format!("/v1/orgs/default/projects/default{rest}"),
        None => format!("{HOME}{}", path.replace("name", &escaped(name))),
    };
    world.call(method, &path, "", &body)
}

fn names_of(world: &World, list: &str) -> Vec<String> {
    let page = world.get(&format!("{HOME}/{list}?limit=500"));
    let items = page.body["items"].as_array().cloned().expect("items");
    items
        .iter()
        .map(|item| item["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// Which of the strings are names of variables: capital letters are good there.
fn is_good(door: (&str, &str, &str), name: &str) -> bool {
    let takes_variables = door.1.ends_with("/env") || door.1.contains("/secrets/");
    takes_variables && ["A", "APP", "a_b"].contains(&name)
}

#[test]
fn n01_n02_n07_n08_n14_no_name_carries_what_another_program_would_read() {
    let world = World::new();
    for door in DOORS {
        for name in STRINGS {
            let answer = send(&world, door, name);
            if is_good(door, name) {
                assert_eq!(answer.status, 200, "{door:?} {name:?}: {answer:?}");
                continue;
            }
            // In a path it may be no parameter at all.
            let fits = [400, 404, 422].contains(&answer.status);
            assert!(fits && !answer.code().is_empty(), "{door:?} {name:?}: {answer:?}");
        }
    }
    assert_eq!(names_of(&world, "apps"), ["shop"]);
    assert!(names_of(&world, "databases").is_empty());
    // The control: the same doors take a good one, so it was the name that was refused.
    for (door, good) in DOORS
        .into_iter()
        .zip(["ok", "ok", "ok2", "web", "OK", "OK", "ok", "shop"])
    {
        let answer = send(&world, door, good);
        let is_refused_for_its_name = answer.body.to_string().contains("is not a");
        assert!(
            !is_refused_for_its_name && answer.status != 400,
            "{door:?} {good}: {answer:?}"
        );
    }
    assert_eq!(names_of(&world, "apps"), ["ok", "shop"]);
}

#[test]
fn n06_n08_n15_routes_images_and_schedules_are_checked_where_they_come_in() {
    let world = World::new();
    let deploy = |line: &str| {
        let manifest =
            format!("schema = 1\napp = \"shop\"\n[services.web]\ncommand = \"x\"\nport = 80\n{line}\n");
        let body = json!({"source": {"kind": "image", "image": "x:1"}, "manifest": manifest});
        world.call(
            "POST",
            &format!("{HOME}/apps/shop/releases?dry_run=true"),
            "",
            &body.to_string(),
        )
    };
    for line in [
        "routes = [{ host = \"a.example.org\\r\\nX-Injected: 1\", path = \"/\" }]",
        "routes = [{ host = \"a.example.org\\u0000\", path = \"/\" }]",
        "routes = [{ host = \"$(id).example.org\", path = \"/\" }]",
        "routes = [{ host = \"a.example.org\", path = \"/x\\r\\nX: 1\" }]",
        "routes = [{ host = \"a.example.org\", path = \"/../x\" }]",
        "health = { path = \"/healthz\\r\\nX: 1\" }",
        "health = { path = \"healthz; id\" }",
        "volumes = [{ name = \"data\", mount = \"/../etc\", size = \"1Gi\" }]",
        "volumes = [{ name = \"../data\", mount = \"/data\", size = \"1Gi\" }]",
        "command = \"x; id\"",
        "secrets = [\"a b\"]",
        "uses = [\"; id\"]",
    ] {
        let answer = deploy(line);
        assert_eq!(
            (answer.status, answer.code()),
            (422, "invalid"),
            "{line}: {answer:?}"
        );
    }
    for name in ["-x", "x:1; id", "x\ny", "\u{430}:1"] {
        let body = json!({"name": name, "source": {"kind": "host"}});
        let answer = world.post("/v1/images", &body.to_string());
        assert_eq!(
            (answer.status, answer.code()),
            (422, "invalid"),
            "{name:?}: {answer:?}"
        );
    }
    // The control: a good line passes its check and is refused, if at all, for the image that is not there.
    let good =
        deploy("routes = [{ host = \"a.example.org\", path = \"/x\" }]\nhealth = { path = \"/healthz\" }");
    assert_ne!(good.code(), "invalid", "{good:?}");
}

#[test]
fn n09_a_value_is_kept_whole_or_refused() {
    let world = World::new();
    let path = format!("{HOME}/apps/shop/env");
    let whole = "one\ntwo\r\nA=b\n[env]\n\u{1b}[31m' \" $(id) \\ \u{202e}";
    let set = world.call(
        "PATCH",
        &path,
        "",
        &json!({"set": {"VALUE": whole, "OTHER": "x"}}).to_string(),
    );
    assert_eq!(set.status, 200, "{set:?}");
    let env = world.get(&path).body;
    assert_eq!(
        env["env"],
        json!({"VALUE": whole, "OTHER": "x"}),
        "it split or changed: {env}"
    );
    for body in [json!({"set": {"VALUE": "a\0b"}}), json!({"set": {"A\nB": "x"}})] {
        let refused = world.call("PATCH", &path, "", &body.to_string());
        assert_eq!((refused.status, refused.code()), (422, "invalid"), "{body}");
    }
    let secret = world.call(
        "PUT",
        &format!("{HOME}/apps/shop/secrets/KEY"),
        "",
        &json!({"value": "a\0b"}).to_string(),
    );
    assert_eq!(secret.code(), "invalid");
    // The control: what is compared above does differ when a value differs.
    assert_ne!(
        world.get(&path).body["env"],
        json!({"VALUE": "one", "OTHER": "x"})
    );
}

#[test]
fn n10_n11_letters_of_sql_and_templates_change_only_their_field() {
    let world = World::new();
    world.post(&format!("{HOME}/apps"), "{\"name\":\"other\"}");
    let other = format!("{HOME}/apps/other/env");
    world.call(
        "PATCH",
        &other,
        "",
        &json!({"set": {"KEPT": "as it was"}}).to_string(),
    );
    let before = (world.get(&other).body, names_of(&world, "apps"));
    let path = format!("{HOME}/apps/shop/env");
    for text in [
        "'; DELETE FROM object; --",
        "\" OR \"\"=\"",
        "') ON CONFLICT DO NOTHING; --",
        "%' ESCAPE '\\",
        "{{7*7}} ${7*7} <%= 7*7 %> %s%n {0}",
        "\u{0}x".trim_start_matches('\0'),
    ] {
        let set = world.call("PATCH", &path, "", &json!({"set": {"VALUE": text}}).to_string());
        assert_eq!(set.status, 200, "{set:?}");
        assert_eq!(world.get(&path).body["env"]["VALUE"], text);
        let named = world.post("/v1/tokens", &json!({"name": text, "role": "viewer"}).to_string());
        assert!([201, 422].contains(&named.status), "{named:?}");
        if named.status == 201 {
            assert_eq!(named.body["about"]["name"], text, "a template was expanded");
        }
        assert_eq!(
            (world.get(&other).body, names_of(&world, "apps")),
            before,
            "{text:?}"
        );
    }
    // The control: a change of the other one is seen by that comparison.
    world.call(
        "PATCH",
        &other,
        "",
        &json!({"set": {"KEPT": "changed"}}).to_string(),
    );
    assert_ne!(world.get(&other).body, before.0);
}
