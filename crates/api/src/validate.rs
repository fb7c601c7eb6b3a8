//! Checks a request's JSON against the document's own schema, before serde sees it.
//!
//! So document and server cannot disagree, an array is never taken for a struct, all mistakes come at once with their
//! JSON Pointers, and `43.0` is an integer, as the document says.
//! Lives here: the part of JSON Schema our own types use. Invariant: an unknown keyword of a schema is a failed test,
//! not a silent pass.

use serde_json::{Map, Value};

use crate::document::document;
use crate::endpoint::{Body, Endpoint};
use crate::problem::FieldError;

/// Most mistakes listed in one answer.
const LISTED: usize = 50;

/// Everything wrong with the body of a request to that endpoint. Integral floats become integers in place.
#[must_use]
pub fn body(endpoint: &Endpoint, value: &mut Value) -> Vec<FieldError> {
    let shape = match endpoint.body {
        Body::Json(shape) | Body::OptionalJson(shape) | Body::Form(shape) => shape,
        Body::None | Body::Archive => return Vec::new(),
    };
    let mut errors = Vec::new();
    check(named(&(shape.name)()), value, "", &mut errors);
    errors.truncate(LISTED);
    errors
}

fn named(name: &str) -> &'static Value {
    &document()["components"]["schemas"][name]
}

fn check(schema: &'static Value, value: &mut Value, at: &str, errors: &mut Vec<FieldError>) {
    if let Some(target) = schema["$ref"].as_str() {
        return check(
            named(target.rsplit('/').next().unwrap_or_default()),
            value,
            at,
            errors,
        );
    }
    if let Some(variants) = schema["oneOf"].as_array() {
        return check_variants(variants, value, at, errors);
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        return refuse(errors, at, format!("must be one of: {}", names.join(", ")));
    }
    if !has_type(schema, value) {
        return refuse(errors, at, format!("must be {}", type_name(schema)));
    }
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(_) => check_number(schema, value, at, errors),
        Value::String(text) => check_text(schema, text, at, errors),
        Value::Array(items) => {
            let count = items.len() as u64;
            if schema["minItems"].as_u64().is_some_and(|least| count < least) {
                refuse(
                    errors,
                    at,
                    format!("needs at least {} entries", schema["minItems"]),
                );
            }
            if schema["maxItems"].as_u64().is_some_and(|most| count > most) {
                refuse(
                    errors,
                    at,
                    format!("may have at most {} entries", schema["maxItems"]),
                );
            }
            for (index, item) in items.iter_mut().enumerate() {
                check(&schema["items"], item, &format!("{at}/{index}"), errors);
            }
        }
        Value::Object(fields) => check_object(schema, fields, at, errors),
    }
}

fn refuse(errors: &mut Vec<FieldError>, at: &str, message: String) {
    // Not more than can be shown: a body of a million wrong entries must not cost a million messages.
    if errors.len() < LISTED {
        errors.push(FieldError {
            pointer: at.to_owned(),
            message,
        });
    }
}

/// An absent schema (`items` of a prefix, say) accepts all, as in JSON Schema.
fn types(schema: &'static Value) -> Vec<&'static str> {
    match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    }
}

fn has_type(schema: &'static Value, value: &Value) -> bool {
    let allowed = types(schema);
    allowed.is_empty()
        || allowed.iter().any(|name| match *name {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64() || value.is_i64() || integral(value).is_some(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => false,
        })
}

fn type_name(schema: &'static Value) -> String {
    let names: Vec<&str> = types(schema)
        .into_iter()
        .map(|name| match name {
            "integer" => "a whole number",
            "number" => "a number",
            "string" => "a text",
            "boolean" => "true or false",
            "array" => "a list",
            "object" => "an object",
            other => other,
        })
        .collect();
    names.join(" or ")
}

/// The whole number a float stands for, when it stands for one exactly.
fn integral(value: &Value) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() <= EXACT)?;
    #[allow(clippy::cast_possible_truncation, reason = "bounded by EXACT just above")]
    Some(float as i64)
}

fn check_number(schema: &'static Value, value: &mut Value, at: &str, errors: &mut Vec<FieldError>) {
    if types(schema).contains(&"integer")
        && value.is_f64()
        && let Some(whole) = integral(value)
    {
        *value = Value::from(whole);
    }
    let number = value.as_f64().unwrap_or_default();
    if schema["minimum"].as_f64().is_some_and(|least| number < least) {
        refuse(errors, at, format!("must be at least {}", schema["minimum"]));
    }
    if schema["maximum"].as_f64().is_some_and(|most| number > most) {
        refuse(errors, at, format!("must be at most {}", schema["maximum"]));
    }
}

fn check_text(schema: &'static Value, text: &str, at: &str, errors: &mut Vec<FieldError>) {
    let letters = text.chars().count() as u64;
    if schema["minLength"].as_u64().is_some_and(|least| letters < least) {
        refuse(errors, at, "must not be empty".to_owned());
    } else if schema["maxLength"].as_u64().is_some_and(|most| letters > most) {
        refuse(
            errors,
            at,
            format!("must have at most {} characters", schema["maxLength"]),
        );
    } else if let Some(pattern) = schema["pattern"].as_str()
        && let Some(why) = mismatch(pattern, text)
    {
        refuse(errors, at, why);
    }
}

/// The pattern of names.
const NAME: &str = "^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$";
/// The pattern of a major version.
const MAJOR: &str = "^[0-9]{1,3}$";
/// The pattern of a Debian package or suite.
const PACKAGE: &str = "^[A-Za-z0-9][A-Za-z0-9+.:-]*$";
/// The pattern of a place in a write-ahead log.
const LSN: &str = "^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$";
/// The pattern of a path on the host.
const ROOTED: &str = "^/";

/// The pattern of the name of an image: visible ASCII, not beginning with `-`.
const IMAGE: &str = "^[!-,.-~][!-~]*$";
/// The pattern of an address: what `model::Email` takes. That what stands before the @ has at most 64 characters is only
/// said there.
const EMAIL: &str = r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$";

/// Why a text does not fit. Our patterns are few, so they are checked by hand and need no engine for all of them.
fn mismatch(pattern: &str, text: &str) -> Option<String> {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let fits = match pattern {
        NAME => return text.parse::<model::Name>().err().map(|why| why.to_string()),
        MAJOR => (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()),
        LSN => return text.parse::<model::Lsn>().err().map(|why| why.to_string()),
        IMAGE => !text.starts_with('-') && text.bytes().all(|b| b.is_ascii_graphic()),
        EMAIL => return text.parse::<model::Email>().err().map(|why| why.to_string()),
        ROOTED if !text.starts_with('/') => return Some("write the whole path, from /".to_owned()),
        ROOTED => true,
        PACKAGE => {
            starts_well
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+.:-".contains(&b))
        }
        _ => false,
    };
    (!fits).then(|| format!("must have the form {pattern}"))
}

fn check_object(
    schema: &'static Value,
    fields: &mut Map<String, Value>,
    at: &str,
    errors: &mut Vec<FieldError>,
) {
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !fields.contains_key(name) {
            refuse(errors, &below(at, name), "is missing".to_owned());
        }
    }
    let count = fields.len() as u64;
    if schema["minProperties"]
        .as_u64()
        .is_some_and(|least| count < least)
    {
        refuse(
            errors,
            at,
            format!("needs at least {} entries", schema["minProperties"]),
        );
    }
    let known = schema["properties"].as_object();
    for (name, value) in fields.iter_mut() {
        match (
            known.and_then(|known| known.get(name)),
            &schema["additionalProperties"],
        ) {
            (Some(field), _) => check(field, value, &below(at, name), errors),
            (None, Value::Bool(false)) => {
                let names = known
                    .map(|k| k.keys().map(String::as_str).collect::<Vec<_>>())
                    .unwrap_or_default();
                refuse(
                    errors,
                    &below(at, name),
                    format!("is not known; there are: {}", names.join(", ")),
                );
            }
            (None, of @ Value::Object(_)) => check(of, value, &below(at, name), errors),
            (None, _) => {}
        }
    }
}

/// A tagged enum: the `kind` picks the variant, so that a mistake inside it is named instead of "no variant fits". An
/// optional reference has a `null` variant.
fn check_variants(variants: &'static [Value], value: &mut Value, at: &str, errors: &mut Vec<FieldError>) {
    if value.is_null() && variants.iter().any(|v| types(v).contains(&"null")) {
        return;
    }
    if let [only] = variants
        .iter()
        .filter(|v| !types(v).contains(&"null"))
        .collect::<Vec<_>>()[..]
    {
        return check(only, value, at, errors);
    }
    if !value.is_object() {
        return refuse(errors, at, "must be an object".to_owned());
    }
    let kinds = |variant: &'static Value| variant["properties"]["kind"]["enum"][0].as_str();
    let wanted = value["kind"].as_str();
    match variants.iter().find(|v| wanted.is_some() && kinds(v) == wanted) {
        Some(variant) => check(variant, value, at, errors),
        None => {
            let known: Vec<&str> = variants.iter().filter_map(kinds).collect();
            refuse(
                errors,
                &below(at, "kind"),
                format!("must be one of: {}", known.join(", ")),
            );
        }
    }
}

fn below(at: &str, name: &str) -> String {
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints;
    use serde_json::json;

    fn pointers(endpoint: &Endpoint, mut value: Value) -> Vec<String> {
        body(endpoint, &mut value)
            .into_iter()
            .map(|e| e.pointer)
            .collect()
    }

    #[test]
    fn bodies_are_accepted_or_refused_where_it_hurts() {
        let none: [&str; 0] = [];
        for (endpoint, value, wrong) in [
            (&endpoints::APP_CREATE, json!({"name": "shop"}), &none[..]),
            (&endpoints::APP_CREATE, json!(["shop"]), &[""]),
            (
                &endpoints::APP_CREATE,
                json!({"name": "No", "extra": 1}),
                &["/extra", "/name"],
            ),
            (&endpoints::APP_CREATE, json!({}), &["/name"]),
            (&endpoints::APP_CREATE, json!(null), &[""]),
            (
                &endpoints::RELEASE_CREATE,
                json!({"source": {"kind": "configuration"}}),
                &none,
            ),
            (
                &endpoints::RELEASE_CREATE,
                json!({"source": {"kind": "upload"}}),
                &["/source/upload"],
            ),
            (
                &endpoints::RELEASE_CREATE,
                json!({"source": {"kind": "upload", "upload": "upl_1", "x": 1}}),
                &["/source/x"],
            ),
            (
                &endpoints::RELEASE_CREATE,
                json!({"source": {"kind": "magic"}}),
                &["/source/kind"],
            ),
            (&endpoints::RELEASE_CREATE, json!({"source": []}), &["/source"]),
            (&endpoints::APP_SCALE, json!({"services": {"web": 3.0}}), &none),
            (&endpoints::APP_SCALE, json!({"services": {}}), &["/services"]),
            (
                &endpoints::APP_SCALE,
                json!({"services": {"web": 3.5}}),
                &["/services/web"],
            ),
            (
                &endpoints::APP_SCALE,
                json!({"services": {"a/b": -1}}),
                &["/services/a~1b"],
            ),
            (&endpoints::APP_RUN, json!({"command": []}), &["/command"]),
            (
                &endpoints::INSTANCE_EXEC,
                json!({"terminal": {"rows": 0, "columns": 80}}),
                &["/terminal/rows"],
            ),
            (&endpoints::INSTANCE_EXEC, json!({"terminal": null}), &none),
            (
                &endpoints::USER_INVITATION_CREATE,
                json!({"email": "ada", "role": "viewer", "project": "shop"}),
                &["/email", "/project"],
            ),
            (
                &endpoints::IMAGE_CREATE,
                json!({"name": "-x", "source": {"kind": "host"}}),
                &["/name"],
            ),
            (
                &endpoints::SECRET_UPDATE,
                json!({"set": {"A": "", "B": "x"}}),
                &["/set/A"],
            ),
            (
                &endpoints::TOKEN_CREATE,
                json!({"name": "ci", "role": "god"}),
                &["/role"],
            ),
            (
                &endpoints::TOKEN_CREATE,
                json!({"name": "ci", "role": "viewer", "lifetime_s": null}),
                &none,
            ),
        ] {
            assert_eq!(
                pointers(endpoint, value.clone()),
                wrong,
                "{} {value}",
                endpoint.id
            );
        }
    }

    #[test]
    fn integral_floats_become_integers() {
        let mut value = json!({"services": {"web": 43.0}});
        assert!(body(&endpoints::APP_SCALE, &mut value).is_empty());
        assert!(serde_json::from_value::<crate::PutScale>(value).is_ok());
    }

    /// The keywords of our schemas are those this file checks.
    #[test]
    fn no_keyword_is_overlooked() {
        const KNOWN: &[&str] = &[
            "$ref",
            "oneOf",
            "enum",
            "type",
            "minItems",
            "maxItems",
            "minProperties",
            "items",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "pattern",
            "required",
            "properties",
            "additionalProperties",
            "description",
            "title",
            "format",
            "propertyNames",
            "default",
            "examples",
        ];
        fn walk(schema: &Value) {
            let Some(keywords) = schema.as_object() else {
                return;
            };
            for (keyword, value) in keywords {
                assert!(KNOWN.contains(&keyword.as_str()), "{keyword} in {schema}");
                match keyword.as_str() {
                    "properties" => value.as_object().into_iter().flatten().for_each(|(_, v)| walk(v)),
                    "oneOf" => value.as_array().into_iter().flatten().for_each(walk),
                    "items" | "additionalProperties" => walk(value),
                    "pattern" => assert!(
                        [NAME, MAJOR, PACKAGE, LSN, IMAGE, EMAIL, ROOTED]
                            .contains(&value.as_str().unwrap_or_default()),
                        "{value}"
                    ),
                    _ => {}
                }
            }
        }
        document()["components"]["schemas"]
            .as_object()
            .into_iter()
            .flatten()
            .for_each(|(_, v)| walk(v));
    }
}
