//! The JSON Schema (draft-07) of `stoa.toml`, for editors and other tools.
//!
//! Lives here: writing the list of keys as a schema. Does not live here: the list (`keys`).
//! Not derived from types: the parser reads spanned TOML by hand to tell every mistake with its place, so there are no
//! serde types whose shape is the file's; both go by the list instead.
//! Invariant: what the parser takes, the schema takes. It refuses less: ranges of sizes and times, commands that need a
//! shell and contradictions between keys are beyond it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::keys::{Form, Need, ROOT, Table};

/// The schema.
#[must_use]
pub fn schema() -> Value {
    let mut writer = Writer::default();
    let root = writer.table(&ROOT, Strictness::Whole);
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "stoa.toml, schema 1",
        "description": "What a team writes about an app on Stoa.",
    });
    if let (Value::Object(schema), Value::Object(root)) = (&mut schema, root) {
        schema.extend(root);
        schema.insert(
            "definitions".to_owned(),
            Value::Object(writer.definitions.into_iter().collect()),
        );
    }
    schema
}

/// Within an environment nothing is required: the rest stands in the file itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    Whole,
    Part,
}

#[derive(Default)]
struct Writer {
    definitions: BTreeMap<String, Value>,
}

impl Writer {
    fn table(&mut self, table: &Table, strictness: Strictness) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for key in table.keys {
            let within = if key.name == "environments" {
                Strictness::Part
            } else {
                strictness
            };
            let mut form = self.form(&key.form, within);
            if form.get("$ref").is_some() {
                // Beside a reference draft-07 ignores every other word.
                form = json!({"allOf": [form]});
            }
            form["description"] = json!(key.about);
            properties.insert(key.name.to_owned(), form);
            if key.need == Need::Required && strictness == Strictness::Whole {
                required.push(key.name);
            }
        }
        let mut schema = json!({"type": "object", "additionalProperties": false, "properties": properties});
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema
    }

    fn form(&mut self, form: &Form, strictness: Strictness) -> Value {
        match form {
            Form::Text("") => json!({"type": "string"}),
            Form::Text(pattern) => json!({"type": "string", "pattern": pattern}),
            Form::OneOf(texts) => json!({"type": "string", "enum": texts}),
            Form::Flag => json!({"type": "boolean"}),
            Form::Whole(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
            Form::Number(least, most) => json!({"type": "number", "minimum": least, "maximum": most}),
            Form::List(of) => json!({"type": "array", "items": self.form(of, strictness)}),
            Form::Set(of) => {
                json!({"type": "array", "uniqueItems": true, "items": self.form(of, strictness)})
            }
            Form::Table(table) => {
                let name = match strictness {
                    Strictness::Whole => table.name.to_owned(),
                    Strictness::Part => format!("{}_part", table.name),
                };
                if !self.definitions.contains_key(&name) {
                    let definition = self.table(table, strictness);
                    self.definitions.insert(name.clone(), definition);
                }
                json!({"$ref": format!("#/definitions/{name}")})
            }
            Form::Entries(pattern, of) => json!({
                "type": "object",
                "propertyNames": {"pattern": pattern},
                "additionalProperties": self.form(of, strictness),
            }),
            Form::Either(forms) => {
                let forms: Vec<Value> = forms.iter().map(|form| self.form(form, strictness)).collect();
                json!({"anyOf": forms})
            }
        }
    }
}
