//! Breaks planted into the document in force: each is named; additions pass.

use serde_json::{Value, json};

use crate::breaks;

const APPS: &str = "/v1/orgs/{org}/projects/{project}/environments/{environment}/apps";

/// The document with something changed in it.
fn changed(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let old = api::document::document();
    let mut new = old.clone();
    change(&mut new);
    assert_ne!(*old, new, "the change changed nothing");
    breaks::between(old, &new)
}

/// At least this is named: a place and what happened there.
fn names(change: impl FnOnce(&mut Value), place: &str, what: &str) {
    let found = changed(change);
    assert!(
        found.iter().any(|one| one.contains(place) && one.contains(what)),
        "{place}: {what} is not among {found:#?}"
    );
}

fn passes(change: impl FnOnce(&mut Value)) {
    let found = changed(change);
    assert!(found.is_empty(), "an addition was taken for a break: {found:#?}");
}

fn remove(value: &mut Value, key: &str) {
    value.as_object_mut().expect("an object").remove(key).expect(key);
}

fn push(list: &mut Value, value: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().expect("a list").push(value);
}

fn schema<'d>(document: &'d mut Value, name: &str) -> &'d mut Value {
    &mut document["components"]["schemas"][name]
}

fn operation<'d>(document: &'d mut Value, method: &str, path: &str) -> &'d mut Value {
    &mut document["paths"][path][method]
}

fn limit(document: &mut Value) -> &mut Value {
    operation(document, "get", APPS)["parameters"]
        .as_array_mut()
        .expect("parameters")
        .iter_mut()
        .find(|one| one["name"] == "limit")
        .expect("limit")
}

#[test]
fn what_was_removed_is_named() {
    names(
        |d| remove(&mut d["paths"], "/v1/whoami"),
        "/v1/whoami",
        "the path was removed",
    );
    names(
        |d| remove(&mut d["paths"][APPS], "post"),
        "POST",
        "the operation was removed",
    );
    names(
        |d| remove(&mut schema(d, "App")["properties"], "urls"),
        "/urls",
        "the field was removed",
    );
    names(
        |d| remove(&mut schema(d, "CreateToken")["properties"], "org"),
        "POST /v1/tokens body application/json/org",
        "the field was removed",
    );
    names(
        |d| remove(&mut operation(d, "get", "/v1/events")["responses"], "200"),
        "GET /v1/events 200",
        "the status was removed",
    );
    names(
        |d| {
            remove(
                &mut operation(d, "get", "/v1/events")["responses"]["200"]["content"],
                "text/event-stream",
            );
        },
        "text/event-stream",
        "the media type was removed",
    );
    names(
        |d| {
            let uploads = format!("{}/uploads", APPS.trim_end_matches("/apps"));
            remove(
                &mut operation(d, "post", &uploads)["requestBody"]["content"],
                "application/zstd",
            );
        },
        "application/zstd",
        "the media type was removed",
    );
    names(
        |d| {
            let list = &mut operation(d, "get", APPS)["parameters"];
            list.as_array_mut()
                .expect("parameters")
                .retain(|one| one["name"] != "limit");
        },
        "query:limit",
        "the parameter was removed",
    );
    names(
        |d| {
            remove(
                &mut operation(d, "post", APPS)["responses"]["201"]["headers"],
                "ETag",
            );
        },
        "ETag",
        "the header was removed",
    );
    names(
        |d| remove(operation(d, "post", APPS), "requestBody"),
        "body",
        "the body was removed",
    );
}

#[test]
fn what_is_required_now_is_named() {
    names(
        |d| {
            let new = json!({"name": "why", "in": "query", "required": true, "schema": {"type": "string"}});
            push(&mut operation(d, "get", APPS)["parameters"], new);
        },
        "query:why",
        "a new parameter is required",
    );
    names(
        |d| limit(d)["required"] = json!(true),
        "query:limit",
        "is required now",
    );
    names(
        |d| push(&mut schema(d, "CreateToken")["required"], json!("org")),
        "/org",
        "the field is required now",
    );
    names(
        |d| {
            schema(d, "CreateApp")["properties"]["why"] = json!({"type": "string"});
            push(&mut schema(d, "CreateApp")["required"], json!("why"));
        },
        "/why",
        "the field is required now",
    );
    names(
        |d| {
            operation(d, "post", &format!("{APPS}/{{app}}/rollback"))["requestBody"]["required"] =
                json!(true);
        },
        "rollback body",
        "the body is required now",
    );
    names(
        |d| schema(d, "App")["required"] = json!(["id"]),
        "/generation",
        "the field may be absent now",
    );
    names(
        |d| remove(operation(d, "get", "/healthz"), "security"),
        "GET /healthz",
        "a credential is needed now",
    );
}

#[test]
fn what_is_bound_tighter_is_named() {
    names(
        |d| limit(d)["schema"]["maximum"] = json!(100),
        "query:limit",
        "maximum was tightened",
    );
    names(
        |d| limit(d)["schema"]["minimum"] = json!(2),
        "query:limit",
        "minimum was tightened",
    );
    names(
        |d| schema(d, "PutSecret")["properties"]["value"]["maxLength"] = json!(1000),
        "/value",
        "maxLength was tightened",
    );
    names(
        |d| schema(d, "CreateToken")["properties"]["name"]["minLength"] = json!(3),
        "/name",
        "minLength was tightened",
    );
    names(
        |d| schema(d, "PutSecret")["properties"]["value"]["pattern"] = json!("^a"),
        "/value",
        "pattern null became",
    );
    names(
        |d| {
            let roles = schema(d, "Role")["enum"].as_array_mut().expect("roles");
            roles.retain(|role| role != "viewer");
        },
        "/role",
        "the value \"viewer\" was removed",
    );
    names(
        |d| {
            let variants = schema(d, "ReleaseSource")["oneOf"]
                .as_array_mut()
                .expect("variants");
            variants.retain(|one| one["title"] != "UploadSource");
        },
        "/source",
        "the variant UploadSource was removed",
    );
}

#[test]
fn what_is_another_thing_now_is_named() {
    names(
        |d| schema(d, "App")["properties"]["generation"]["type"] = json!("string"),
        "/generation",
        "the type",
    );
    names(
        |d| schema(d, "Whoami")["properties"]["actor"]["type"] = json!(["string", "null"]),
        "/actor",
        "the type",
    );
    names(
        |d| schema(d, "PutSecret")["properties"]["value"]["type"] = json!("integer"),
        "/value",
        "the type",
    );
    names(
        |d| operation(d, "get", "/v1/whoami")["operationId"] = json!("me"),
        "GET /v1/whoami",
        "operationId",
    );
    names(
        |d| push(&mut schema(d, "OperationState")["enum"], json!("paused")),
        "/state",
        "is new in an answer",
    );
    names(
        |d| remove(&mut schema(d, "App")["properties"]["services"]["items"], "$ref"),
        "/services",
        "the type",
    );
    names(
        |d| remove(&mut schema(d, "Token")["properties"]["created_at"], "format"),
        "/created_at",
        "format",
    );
}

#[test]
fn additions_pass() {
    passes(|d| d["paths"]["/v1/more"] = json!({"get": {"operationId": "more_view", "responses": {}}}));
    passes(|d| schema(d, "CreateApp")["properties"]["why"] = json!({"type": "string"}));
    passes(|d| {
        schema(d, "App")["properties"]["why"] = json!({"type": "string"});
        push(&mut schema(d, "App")["required"], json!("why"));
    });
    passes(|d| {
        let new = json!({"name": "why", "in": "query", "required": false, "schema": {"type": "string"}});
        push(&mut operation(d, "get", APPS)["parameters"], new);
    });
    passes(|d| limit(d)["schema"]["maximum"] = json!(5000));
    passes(|d| limit(d)["schema"]["type"] = json!("number"));
    passes(|d| operation(d, "get", APPS)["description"] = json!("Otherwise said."));
    passes(|d| operation(d, "get", APPS)["responses"]["206"] = json!({"description": "In part."}));
    passes(|d| {
        let new = json!({"title": "GitSource", "type": "object", "properties": {"kind": {"enum": ["git"]}}});
        push(&mut schema(d, "ReleaseSource")["oneOf"], new);
    });
}
