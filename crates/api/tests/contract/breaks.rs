//! What in a newer document breaks a client of an older one.
//!
//! Lives here: the rules. Requests may only be taken more freely; answers may only say more fields, never fewer, other
//! types or values nobody knew.
//! Does not live here: which documents (`main`).
//! Invariant: an addition is never named: a new operation, an optional field or parameter, a field more in an answer.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Who reads what the schema describes: the server, or a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Request,
    Response,
}

/// Everything that breaks a client of `old`, each with its place.
pub fn between(old: &Value, new: &Value) -> Vec<String> {
    let mut search = Search {
        old,
        new,
        seen: BTreeSet::new(),
        found: BTreeSet::new(),
    };
    for (path, methods) in entries(&old["paths"]) {
        let there = &new["paths"][path];
        if there.is_null() {
            search.report(path, "the path was removed");
            continue;
        }
        for (method, operation) in entries(methods) {
            let at = format!("{} {path}", method.to_uppercase());
            match &there[method] {
                Value::Null => search.report(&at, "the operation was removed"),
                other => search.operation(&at, operation, other),
            }
        }
    }
    search.found.into_iter().collect()
}

struct Search<'d> {
    old: &'d Value,
    new: &'d Value,
    /// Pairs of named schemas that were compared, so that a type which holds itself ends.
    seen: BTreeSet<(Side, String, String)>,
    found: BTreeSet<String>,
}

impl<'d> Search<'d> {
    fn report(&mut self, at: &str, what: impl AsRef<str>) {
        self.found.insert(format!("{at}: {}", what.as_ref()));
    }

    fn operation(&mut self, at: &str, old: &'d Value, new: &'d Value) {
        if old["operationId"] != new["operationId"] {
            self.report(
                at,
                format!("operationId {} became {}", old["operationId"], new["operationId"]),
            );
        }
        let is_open = |operation: &Value| operation["security"].as_array().is_some_and(Vec::is_empty);
        if is_open(old) && !is_open(new) {
            self.report(at, "a credential is needed now");
        }
        self.parameters(at, old, new);
        self.body(at, &old["requestBody"], &new["requestBody"]);
        for (status, response) in entries(&old["responses"]) {
            let at = format!("{at} {status}");
            let response = follow(self.old, response).0;
            match &new["responses"][status] {
                Value::Null => self.report(&at, "the status was removed"),
                other => {
                    let other = follow(self.new, other).0;
                    self.content(&at, Side::Response, &response["content"], &other["content"]);
                    self.headers(&at, &response["headers"], &other["headers"]);
                }
            }
        }
    }

    fn parameters(&mut self, at: &str, old: &'d Value, new: &'d Value) {
        let (old, new) = (by_name(old), by_name(new));
        for (name, parameter) in &old {
            let at = format!("{at} {name}");
            let Some(other) = new.get(name) else {
                self.report(&at, "the parameter was removed");
                continue;
            };
            if is_true(&other["required"]) && !is_true(&parameter["required"]) {
                self.report(&at, "the parameter is required now");
            }
            self.schema(&at, Side::Request, &parameter["schema"], &other["schema"]);
        }
        for (name, parameter) in &new {
            if !old.contains_key(name) && is_true(&parameter["required"]) {
                self.report(&format!("{at} {name}"), "a new parameter is required");
            }
        }
    }

    fn body(&mut self, at: &str, old: &'d Value, new: &'d Value) {
        let at = format!("{at} body");
        if is_true(&new["required"]) && !is_true(&old["required"]) {
            self.report(&at, "the body is required now");
        }
        match (old.is_null(), new.is_null()) {
            (true, _) => {}
            (false, true) => self.report(&at, "the body was removed"),
            (false, false) => self.content(&at, Side::Request, &old["content"], &new["content"]),
        }
    }

    fn content(&mut self, at: &str, side: Side, old: &'d Value, new: &'d Value) {
        for (media_type, content) in entries(old) {
            let at = format!("{at} {media_type}");
            match &new[media_type] {
                Value::Null => self.report(&at, "the media type was removed"),
                other => self.schema(&at, side, &content["schema"], &other["schema"]),
            }
        }
    }

    fn headers(&mut self, at: &str, old: &'d Value, new: &'d Value) {
        for (name, header) in entries(old) {
            let at = format!("{at} header {name}");
            match &new[name] {
                Value::Null => self.report(&at, "the header was removed"),
                other => self.schema(&at, Side::Response, &header["schema"], &other["schema"]),
            }
        }
    }

    fn schema(&mut self, at: &str, side: Side, old: &'d Value, new: &'d Value) {
        let (old, old_name) = follow(self.old, old);
        let (new, new_name) = follow(self.new, new);
        if let (Some(one), Some(other)) = (old_name, new_name)
            && !self.seen.insert((side, one.to_owned(), other.to_owned()))
        {
            return;
        }
        self.types(at, side, old, new);
        self.values(at, side, old, new);
        if side == Side::Request {
            self.bounds(at, old, new);
        }
        self.forms(at, side, old, new);
        self.object(at, side, old, new);
        for part in ["items", "propertyNames", "contentSchema"] {
            if !old[part].is_null() && !new[part].is_null() {
                self.schema(&format!("{at}/{part}"), side, &old[part], &new[part]);
            }
        }
        for list in ["oneOf", "anyOf"] {
            self.variants(at, side, &old[list], &new[list]);
        }
        // Each part of an `allOf` binds: compared one by one, and none may come or go.
        let (was, is) = (items(&old["allOf"]), items(&new["allOf"]));
        if was.len() != is.len() {
            self.report(at, "the parts of allOf are others");
        }
        for (one, other) in was.iter().zip(is) {
            self.schema(at, side, one, other);
        }
    }

    fn types(&mut self, at: &str, side: Side, old: &Value, new: &Value) {
        let (was, is) = (types(old), types(new));
        if was.is_empty() && is.is_empty() {
            return;
        }
        let fits = |all: &[&str], one: &str| {
            all.is_empty() || all.contains(&one) || (one == "integer" && all.contains(&"number"))
        };
        let is_kept = match side {
            Side::Request if was.is_empty() => false,
            Side::Request => was.iter().all(|one| fits(&is, one)),
            Side::Response if is.is_empty() => false,
            Side::Response => is.iter().all(|one| fits(&was, one)),
        };
        if !is_kept {
            self.report(at, format!("the type {was:?} became {is:?}"));
        }
    }

    /// `enum` and `const`: a request may not lose one, an answer may not get one that no client knows.
    fn values(&mut self, at: &str, side: Side, old: &Value, new: &Value) {
        let (was, is) = (listed(old), listed(new));
        let lost: Vec<&Value> = match (side, &was, &is) {
            (Side::Request, Some(was), Some(is)) => {
                was.iter().filter(|value| !is.contains(value)).copied().collect()
            }
            (Side::Response, Some(was), Some(is)) => {
                is.iter().filter(|value| !was.contains(value)).copied().collect()
            }
            (Side::Request, None, Some(_)) => return self.report(at, "only some values are allowed now"),
            (Side::Response, Some(_), None) => return self.report(at, "any value may come now"),
            (_, None, None) | (Side::Request, Some(_), None) | (Side::Response, None, Some(_)) => return,
        };
        for value in lost {
            self.report(
                at,
                match side {
                    Side::Request => format!("the value {value} was removed"),
                    Side::Response => format!("the value {value} is new in an answer"),
                },
            );
        }
    }

    fn bounds(&mut self, at: &str, old: &Value, new: &Value) {
        const LEAST: [&str; 5] = [
            "minimum",
            "exclusiveMinimum",
            "minLength",
            "minItems",
            "minProperties",
        ];
        const MOST: [&str; 5] = [
            "maximum",
            "exclusiveMaximum",
            "maxLength",
            "maxItems",
            "maxProperties",
        ];
        for (keys, sign) in [(LEAST, 1.0), (MOST, -1.0)] {
            for key in keys {
                let bound = |schema: &Value| {
                    schema[key]
                        .as_f64()
                        .map_or(f64::NEG_INFINITY, |value| value * sign)
                };
                let is_nothing = key.starts_with("min") && key != "minimum" && bound(new) <= 0.0;
                if bound(new) > bound(old) && !is_nothing {
                    self.report(
                        at,
                        format!("{key} was tightened from {} to {}", old[key], new[key]),
                    );
                }
            }
        }
        for key in ["multipleOf", "uniqueItems"] {
            if !new[key].is_null() && new[key] != Value::Bool(false) && new[key] != old[key] {
                self.report(at, format!("{key} was tightened to {}", new[key]));
            }
        }
    }

    /// What texts look like: a request may not be bound to another form, an answer may not lose one.
    fn forms(&mut self, at: &str, side: Side, old: &Value, new: &Value) {
        for key in ["pattern", "format", "contentMediaType"] {
            let (was, is) = (&old[key], &new[key]);
            let is_wider = was == "int32" && is == "int64";
            let matters = match side {
                // Bytes in whatever form bind nobody.
                Side::Request => !is.is_null() && !is_wider && is != "binary",
                Side::Response => !was.is_null() && key != "pattern" && !(was == "int64" && is == "int32"),
            };
            if was != is && matters {
                self.report(at, format!("{key} {was} became {is}"));
            }
        }
        if side == Side::Request && !old["default"].is_null() && old["default"] != new["default"] {
            self.report(
                at,
                format!("the default {} became {}", old["default"], new["default"]),
            );
        }
    }

    fn object(&mut self, at: &str, side: Side, old: &'d Value, new: &'d Value) {
        for (field, schema) in entries(&old["properties"]) {
            let at = format!("{at}/{field}");
            match &new["properties"][field] {
                Value::Null => self.report(&at, "the field was removed"),
                other => self.schema(&at, side, schema, other),
            }
        }
        let (was, is) = (required(old), required(new));
        match side {
            Side::Request => {
                for field in is.difference(&was) {
                    self.report(&format!("{at}/{field}"), "the field is required now");
                }
            }
            Side::Response => {
                for field in was.difference(&is) {
                    self.report(&format!("{at}/{field}"), "the field may be absent now");
                }
            }
        }
        let (was, is) = (&old["additionalProperties"], &new["additionalProperties"]);
        if side == Side::Request && *is == Value::Bool(false) && *was != Value::Bool(false) {
            self.report(at, "fields of any name are refused now");
        }
        if was.is_object() && is.is_object() {
            self.schema(&format!("{at}/*"), side, was, is);
        }
    }

    /// Variants are known by their title, their kind or their reference; a new one is new in an answer.
    fn variants(&mut self, at: &str, side: Side, old: &'d Value, new: &'d Value) {
        let named = |list: &'d Value| -> BTreeMap<String, &'d Value> {
            items(list).iter().map(|one| (variant(one), one)).collect()
        };
        let (was, is) = (named(old), named(new));
        for (name, one) in &was {
            match is.get(name) {
                Some(other) => self.schema(&format!("{at}/{name}"), side, one, other),
                None if side == Side::Request => self.report(at, format!("the variant {name} was removed")),
                None => {}
            }
        }
        for name in is
            .keys()
            .filter(|name| side == Side::Response && !was.contains_key(*name))
        {
            self.report(at, format!("the variant {name} is new in an answer"));
        }
    }
}

/// What a reference means, and its name.
fn follow<'d>(document: &'d Value, schema: &'d Value) -> (&'d Value, Option<&'d str>) {
    match schema["$ref"].as_str() {
        Some(target) => (
            document
                .pointer(target.trim_start_matches('#'))
                .unwrap_or(&Value::Null),
            Some(target),
        ),
        None => (schema, None),
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn is_true(value: &Value) -> bool {
    *value == Value::Bool(true)
}

fn by_name(operation: &Value) -> BTreeMap<String, &Value> {
    let name = |one: &Value| {
        format!(
            "{}:{}",
            one["in"].as_str().unwrap_or_default(),
            one["name"].as_str().unwrap_or_default()
        )
    };
    items(&operation["parameters"])
        .iter()
        .map(|one| (name(one), one))
        .collect()
}

fn types(schema: &Value) -> Vec<&str> {
    schema["type"]
        .as_str()
        .into_iter()
        .chain(items(&schema["type"]).iter().filter_map(Value::as_str))
        .collect()
}

fn listed(schema: &Value) -> Option<Vec<&Value>> {
    let list = schema["enum"].as_array().map(|values| values.iter().collect());
    list.or_else(|| schema.get("const").map(|value| vec![value]))
}

fn required(schema: &Value) -> BTreeSet<&str> {
    items(&schema["required"])
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

fn variant(schema: &Value) -> String {
    let of = |value: &Value| value.as_str().map(str::to_owned);
    of(&schema["title"])
        .or_else(|| of(&schema["$ref"]))
        .or_else(|| of(&schema["properties"]["kind"]["enum"][0]))
        .unwrap_or_else(|| schema["type"].to_string())
}
