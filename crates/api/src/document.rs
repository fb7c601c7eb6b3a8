//! The OpenAPI 3.1 document, made from the endpoint list and the wire types.
//!
//! Invariant: every operation answers errors with the one problem response; request objects take no unknown fields.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use crate::endpoint::{Answer, Body, Endpoint, Need, Query, QueryKind, Shape};
use crate::operations::DRY_RUN_MEDIA_TYPE;
use crate::problem::PROBLEM_MEDIA_TYPE;
use crate::{endpoints, examples};

/// The document.
#[must_use]
pub fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(make)
}

/// The document as it is committed: sorted, indented, with a final newline.
#[must_use]
pub fn text() -> String {
    let mut text = serde_json::to_string_pretty(document()).unwrap_or_default();
    text.push('\n');
    text
}

const TAGS: [(&str, &str); 8] = [
    (
        "apps",
        "What one `stoa.toml` describes: configuration, secrets, instances, logs.",
    ),
    ("databases", "Managed PostgreSQL."),
    ("images", "Images in the store."),
    (
        "installation",
        "The installation itself, its health and its event stream.",
    ),
    ("operations", "The handle of anything that takes time."),
    ("people", "Claiming, access tokens, the audit log."),
    ("places", "Orgs, projects and environments."),
    ("releases", "Immutable releases and the moves between them."),
];

fn make() -> Value {
    let mut schemas = BTreeMap::new();
    collect(crate::endpoint::shape_of::<crate::Problem>(), &mut schemas);
    collect(crate::endpoint::shape_of::<crate::Frame>(), &mut schemas);
    collect(crate::endpoint::shape_of::<crate::DryRun>(), &mut schemas);
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for endpoint in endpoints::ALL {
        for shape in shapes(endpoint) {
            collect(shape, &mut schemas);
        }
        paths
            .entry(endpoint.path)
            .or_default()
            .insert(endpoint.method.as_str().to_ascii_lowercase(), operation(endpoint));
    }
    for (name, schema) in &mut schemas {
        close_variants(schema);
        examples::add(name, schema);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Stoa",
            "version": "1",
            "description": "Your own cloud in one binary. Every list is paged, every error is a problem (RFC 9457) with a stable code and a next step, and whatever takes time answers 202 with an operation. Names and ids are interchangeable in paths.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "contact": {"name": "Whoever runs this installation"},
        },
        "servers": [{"url": "http://127.0.0.1:7070", "description": "Where `stoa up` listens by default"}],
        "tags": TAGS.iter().map(|(name, about)| json!({"name": name, "description": about})).collect::<Vec<_>>(),
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Problem": {
                "description": "It was not done; the problem says why and what to do next.",
                "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }, "ProblemPage": {
                "description": "It was not done; the page, or the problem, says why and what to do next.",
                "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}},
                    "text/html": {"schema": {"type": "string"}}},
            }},
            "securitySchemes": {"token": {
                "type": "http", "scheme": "bearer",
                "description": "An access token (`stoa_pat_...`, `stoa_dpl_...`), in the Authorization header only.",
            }, "session": {
                "type": "apiKey", "in": "cookie", "name": crate::sessions::SESSION_COOKIE,
                "description": "The session of a user who signed in. A change must come from the same site: `Sec-Fetch-Site` `same-origin` or `none`, or an `Origin` that is the host.",
            }},
        },
    })
}

fn shapes(endpoint: &Endpoint) -> Vec<Shape> {
    let body = match endpoint.body {
        Body::Json(shape) | Body::OptionalJson(shape) | Body::Form(shape) => Some(shape),
        Body::None | Body::Archive => None,
    };
    let answers = endpoint.answers.iter().filter_map(|answer| match answer {
        Answer::Json(_, shape) | Answer::Tagged(_, shape) | Answer::Events(shape) => Some(*shape),
        Answer::Accepted => Some(crate::endpoint::shape_of::<crate::Operation>()),
        Answer::Text
        | Answer::Page(_)
        | Answer::Forms
        | Answer::AnyJson
        | Answer::Empty
        | Answer::Redirect
        | Answer::Upgrade => None,
    });
    body.into_iter().chain(answers).collect()
}

fn collect(shape: Shape, schemas: &mut BTreeMap<String, Value>) {
    let mut found = vec![((shape.name)(), (shape.schema)())];
    (shape.collect)(&mut found);
    for (name, schema) in found {
        schemas
            .entry(name)
            .or_insert_with(|| serde_json::to_value(schema).unwrap_or_default());
    }
}

/// utoipa carries `deny_unknown_fields` into the document for structs but not for tagged enums: done here, so that the
/// document says what serde does.
fn close_variants(schema: &mut Value) {
    let Some(variants) = schema.get_mut("oneOf").and_then(Value::as_array_mut) else {
        return;
    };
    for variant in variants.iter_mut().filter_map(Value::as_object_mut) {
        if variant.get("type") == Some(&json!("object")) {
            variant.insert("additionalProperties".to_owned(), json!(false));
        }
    }
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut operation = json!({
        "operationId": endpoint.id,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "description": description(endpoint),
        "responses": responses(endpoint),
    });
    let parameters: Vec<Value> = path_parameters(endpoint)
        .chain(header_parameters(endpoint))
        .chain(endpoint.queries().map(query_parameter))
        .collect();
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
    match endpoint.body {
        Body::None => {}
        Body::Json(shape) => operation["requestBody"] = json_body(shape, true),
        Body::OptionalJson(shape) => operation["requestBody"] = json_body(shape, false),
        Body::Form(shape) => {
            operation["requestBody"] = json!({"required": true, "description": "The form of the page.",
                "content": {"application/x-www-form-urlencoded": {"schema": reference(shape)}}});
        }
        Body::Archive => {
            // The format is for generators that know it from OpenAPI 3.0 and would take the archive for text.
            let bytes = json!({"schema": {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}});
            operation["requestBody"] = json!({
                "required": true,
                "description": "The archive.",
                "content": {"application/x-tar": bytes.clone(), "application/gzip": bytes.clone(), "application/zstd": bytes},
            });
        }
    }
    if endpoint.need == Need::Nothing {
        operation["security"] = json!([]);
    }
    operation
}

fn description(endpoint: &Endpoint) -> String {
    let right = match endpoint.need {
        Need::Nothing => "Needs no credential.".to_owned(),
        Need::Credential => "Needs a valid credential.".to_owned(),
        Need::Right(action) => format!("Needs the right `{}`.", right_name(action)),
        Need::Installation(action) => {
            format!(
                "Needs the right `{}` for the whole installation.",
                right_name(action)
            )
        }
    };
    if endpoint.description.is_empty() {
        format!("{}. {right}", endpoint.summary)
    } else {
        format!("{} {right}", endpoint.description)
    }
}

/// What a right is called on the wire.
#[must_use]
pub fn right_name(action: model::Action) -> &'static str {
    match action {
        model::Action::See => "see",
        model::Action::Read => "read",
        model::Action::Deploy => "deploy",
        model::Action::Configure => "configure",
        model::Action::ReadSecrets => "read_secrets",
        model::Action::Manage => "manage",
        model::Action::Administer => "administer",
    }
}

fn path_parameters(endpoint: &Endpoint) -> impl Iterator<Item = Value> {
    endpoint.parameters().map(|name| {
        let about = match name {
            "key" => "Name of the variable.".to_owned(),
            "image" => "Name or digest of the image.".to_owned(),
            "release" => "Name (`v3`) or id of the release.".to_owned(),
            "user" => "Address or id of the user.".to_owned(),
            "provider" => "Name or id of the identity provider.".to_owned(),
            "identity" => "Id of the link.".to_owned(),
            "code" => "The code that the machine shows; case and dashes do not count.".to_owned(),
            "session" => "Id of the session, or `current`.".to_owned(),
            "token" | "operation" | "instance" | "invitation" | "drill" => format!("Id of the {name}."),
            _ => format!("Name or id of the {name}."),
        };
        let schema = path_schema(name);
        json!({"name": name, "in": "path", "required": true, "description": about,
            "example": examples::of_parameter(name, &schema), "schema": schema})
    })
}

fn path_schema(name: &str) -> Value {
    match name {
        "key" => json!({"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$"}),
        _ => json!({"type": "string", "minLength": 1, "maxLength": 256}),
    }
}

fn header_parameters(endpoint: &Endpoint) -> impl Iterator<Item = Value> {
    let key = (endpoint.method == crate::Method::Post && endpoint.need != Need::Nothing && is_repeatable(endpoint))
        .then(|| {
            let schema = json!({"type": "string", "pattern": "^[!-~]{1,200}$"});
            json!({"name": "Idempotency-Key", "in": "header", "required": false,
                "description": "Send the same key again to get the first answer again instead of a second effect; kept 24 hours.",
                "example": examples::of_parameter("Idempotency-Key", &schema), "schema": schema})
        });
    let condition = endpoint.is_conditional.then(|| {
        let (pattern, example) = match endpoint.is_by_digest {
            true => (
                "^(\"sha256:[0-9a-f]{64}\"|\\*)$",
                json!(format!("\"sha256:{}\"", "5f".repeat(32))),
            ),
            false => ("^(\"[0-9]{1,18}\"|\\*)$", json!("\"7\"")),
        };
        let schema = json!({"type": "string", "pattern": pattern});
        json!({"name": "If-Match", "in": "header", "required": false,
            "description": "The `ETag` you have seen: 412 when it was changed meanwhile.",
            "example": example, "schema": schema})
    });
    key.into_iter().chain(condition)
}

/// Whether a second sending can be answered by the first answer: an upload's body is too large to compare, an upgraded
/// connection can not be replayed, and a form comes from a browser.
#[must_use]
pub fn is_repeatable(endpoint: &Endpoint) -> bool {
    !matches!(endpoint.body, Body::Archive | Body::Form(_))
        && !endpoint.answers.iter().any(|a| matches!(a, Answer::Upgrade))
}

fn query_parameter(query: &Query) -> Value {
    let schema = match query.kind {
        QueryKind::Text => json!({"type": "string", "maxLength": 1000}),
        QueryKind::Integer(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        QueryKind::Boolean => json!({"type": "boolean"}),
        QueryKind::Form(pattern) => json!({"type": "string", "pattern": pattern}),
        QueryKind::Duration => json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"}),
    };
    json!({"name": query.name, "in": "query", "required": false, "description": query.about,
        "example": examples::of_parameter(query.name, &schema), "schema": schema})
}

fn json_body(shape: Shape, required: bool) -> Value {
    json!({"required": required, "description": "As JSON.", "content": {"application/json": {"schema": reference(shape)}}})
}

fn reference(shape: Shape) -> Value {
    json!({"$ref": format!("#/components/schemas/{}", (shape.name)())})
}

fn responses(endpoint: &Endpoint) -> Value {
    let mut responses: BTreeMap<String, Value> = BTreeMap::new();
    for answer in endpoint.answers {
        let (status, response) = response(answer);
        let entry = responses.entry(status.to_string()).or_insert_with(|| json!({}));
        merge(entry, response);
    }
    if endpoint.is_mutation() && !endpoint.foretells {
        let entry = responses.entry("200".to_owned()).or_insert_with(|| json!({}));
        merge(entry, dry_run_response());
    }
    // Who sends a form is a person, and is told on a page what the form did not do.
    let is_for_people =
        matches!(endpoint.body, Body::Form(_)) || endpoint.answers.iter().any(|a| matches!(a, Answer::Forms));
    let refused = match is_for_people {
        true => "#/components/responses/ProblemPage",
        false => "#/components/responses/Problem",
    };
    for class in ["4XX", "5XX"] {
        responses.insert(class.to_owned(), json!({"$ref": refused}));
    }
    json!(responses)
}

/// Under a media type of its own, so that it is never taken for the answer to the request itself.
fn dry_run_response() -> Value {
    json!({"description": "With `dry_run`: what would change.",
        "content": {DRY_RUN_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/DryRun"}}}})
}

/// Two answers with one status differ by media type: their `content` is united.
fn merge(into: &mut Value, from: Value) {
    let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) else {
        return;
    };
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
            (Some(_), _) => {}
            (None, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn response(answer: &Answer) -> (u16, Value) {
    let text = json!({"schema": {"type": "string"}});
    match answer {
        Answer::Json(status, shape) => (
            *status,
            json!({"description": "Done.", "content": {"application/json": {"schema": reference(*shape)}}}),
        ),
        Answer::Tagged(status, shape) => (
            *status,
            json!({"description": "Done.", "content": {"application/json": {"schema": reference(*shape)}},
                "headers": {"ETag": {"description": "What the thing is now, its generation or digest; send it as `If-Match` with a change.", "schema": {"type": "string"}}}}),
        ),
        Answer::Accepted => (
            202,
            json!({"description": "Accepted; the operation says how it goes.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Operation"}}},
                "headers": {"Location": {"description": "Address of the operation.", "schema": {"type": "string"}}}}),
        ),
        Answer::Events(shape) => {
            let frame = json!({"allOf": [{"$ref": "#/components/schemas/Frame"}, {"properties": {"data": {
                "type": "string", "contentMediaType": "application/json", "contentSchema": reference(*shape)}}}]});
            (
                200,
                json!({"description": "Done.", "content": {"text/event-stream": {"schema": frame}}}),
            )
        }
        Answer::Text => (
            200,
            json!({"description": "Done.", "content": {"text/plain": text}}),
        ),
        Answer::Page(media_type) => (
            200,
            json!({"description": "Done.", "content": {*media_type: text}}),
        ),
        Answer::Forms => (
            200,
            json!({"description": "The page.", "content": {"text/html": text}}),
        ),
        Answer::AnyJson => (
            200,
            json!({"description": "Done.", "content": {"application/json": {"schema": {"type": "object"}}}}),
        ),
        Answer::Empty => (204, json!({"description": "Done."})),
        Answer::Redirect => (
            303,
            json!({"description": "The browser goes on elsewhere.",
                "headers": {"Location": {"description": "Where to.", "schema": {"type": "string"}}}}),
        ),
        Answer::Upgrade => (101, json!({"description": "The connection now carries frames."})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The committed document is the one in force. `STOA_WRITE_OPENAPI=1 cargo test -p stoa-api` writes it anew.
    #[test]
    fn the_committed_document_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/v1.json");
        if std::env::var_os("STOA_WRITE_OPENAPI").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi")).expect("openapi/");
            std::fs::write(path, text()).expect("openapi/v1.json");
        }
        let committed = std::fs::read_to_string(path).expect("openapi/v1.json");
        assert!(
            committed == text(),
            "openapi/v1.json is not what the code says; look at the difference, then write it with \
             STOA_WRITE_OPENAPI=1 cargo test -p stoa-api"
        );
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let all = text();
        let used: BTreeSet<&str> = all
            .split("#/components/schemas/")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        let there: BTreeSet<&str> = document()["components"]["schemas"]
            .as_object()
            .expect("schemas")
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(used, there);
    }

    #[test]
    fn every_operation_is_unique_described_and_tagged() {
        let mut ids = BTreeSet::new();
        let mut places = BTreeSet::new();
        let tags: BTreeSet<&str> = TAGS.iter().map(|(name, _)| *name).collect();
        for endpoint in endpoints::ALL {
            assert!(ids.insert(endpoint.id), "{} twice", endpoint.id);
            assert!(
                places.insert((endpoint.path, endpoint.method)),
                "{} twice",
                endpoint.path
            );
            assert!(
                tags.contains(endpoint.tag) && !endpoint.summary.is_empty(),
                "{}",
                endpoint.id
            );
            assert!(!endpoint.answers.is_empty(), "{}", endpoint.id);
        }
    }

    #[test]
    fn every_field_is_described_and_every_request_is_closed() {
        let schemas = document()["components"]["schemas"].as_object().expect("schemas");
        for (name, schema) in schemas {
            let variants = schema["oneOf"]
                .as_array()
                .cloned()
                .unwrap_or_else(|| vec![schema.clone()]);
            for (field, about) in variants
                .iter()
                .filter_map(|v| v["properties"].as_object())
                .flatten()
            {
                let text = about
                    .get("description")
                    .or_else(|| about["oneOf"][0].get("description"));
                let described = text.is_some() || field == "kind";
                assert!(described, "{name}.{field} has no description: {about}");
            }
        }
        for endpoint in endpoints::ALL {
            if let Body::Json(shape) | Body::OptionalJson(shape) | Body::Form(shape) = endpoint.body {
                let schema = &schemas[&(shape.name)()];
                assert_eq!(schema["additionalProperties"], json!(false), "{}", endpoint.id);
            }
        }
    }
}
