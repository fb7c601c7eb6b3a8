//! The document as pages for people: one HTML page and its style, made from nothing but the document.
//!
//! Lives here: the form. Does not live here: any text about the API (`endpoints`, the types).
//! Invariants: no script, nothing from elsewhere; every text is escaped; every operation, parameter, schema and field of the
//! document is on the page.

use std::fmt::Write as _;
use std::sync::OnceLock;

use serde_json::{Map, Value};

use crate::document::document;
use crate::examples;

/// Its style, served beside it: the policy of the page allows none inside.
pub const STYLE: &str = include_str!("reference.css");

/// The page.
#[must_use]
pub fn page() -> &'static str {
    static PAGE: OnceLock<String> = OnceLock::new();
    PAGE.get_or_init(|| of(document()))
}

/// The page of a document.
#[must_use]
pub fn of(document: &Value) -> String {
    let mut page = Page {
        document,
        text: String::with_capacity(512 << 10),
    };
    page.all();
    page.text
}

struct Page<'d> {
    document: &'d Value,
    text: String,
}

/// Writing to a String cannot fail.
macro_rules! put {
    ($page:expr, $($part:tt)*) => { let _ = write!($page.text, $($part)*); };
}

impl<'d> Page<'d> {
    fn all(&mut self) {
        let info = &self.document["info"];
        let title = escaped(&info["title"]);
        put!(
            self,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        );
        put!(
            self,
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
        );
        put!(
            self,
            "<title>{title} API</title>\n<link rel=\"stylesheet\" href=\"/docs/style.css\">\n</head>\n<body>\n"
        );
        self.contents();
        put!(
            self,
            "<main>\n<h1>{title} API, version {}</h1>\n",
            escaped(&info["version"])
        );
        put!(self, "<p>{}</p>\n", prose(&info["description"]));
        put!(
            self,
            "<p>For programs: <a href=\"/openapi.json\">/openapi.json</a> (OpenAPI {}).</p>\n",
            escaped(&self.document["openapi"])
        );
        for tag in list(&self.document["tags"]) {
            let name = escaped(&tag["name"]);
            put!(
                self,
                "<h2 id=\"tag-{name}\">{name}</h2>\n<p>{}</p>\n",
                prose(&tag["description"])
            );
            for (path, method, operation) in self.operations(&tag["name"]) {
                self.operation(path, method, operation);
            }
        }
        put!(self, "<h2 id=\"schemas\">Schemas</h2>\n");
        for (name, schema) in entries(&self.document["components"]["schemas"]) {
            self.schema(name, schema);
        }
        put!(self, "</main>\n</body>\n</html>\n");
    }

    fn operations(&self, tag: &Value) -> Vec<(&'d str, &'d str, &'d Value)> {
        let document: &'d Value = self.document;
        let mut found = Vec::new();
        for (path, item) in entries(&document["paths"]) {
            for (method, operation) in entries(item) {
                if operation["tags"][0] == *tag {
                    found.push((path, method, operation));
                }
            }
        }
        found
    }

    fn contents(&mut self) {
        put!(self, "<nav aria-label=\"Contents\">\n<ul>\n");
        for tag in list(&self.document["tags"]) {
            let name = escaped(&tag["name"]);
            put!(self, "<li><a href=\"#tag-{name}\">{name}</a>\n<ul>\n");
            for (_, _, operation) in self.operations(&tag["name"]) {
                let id = escaped(&operation["operationId"]);
                put!(
                    self,
                    "<li><a href=\"#{id}\">{}</a></li>\n",
                    escaped(&operation["summary"])
                );
            }
            put!(self, "</ul></li>\n");
        }
        put!(self, "<li><a href=\"#schemas\">Schemas</a></li>\n</ul>\n</nav>\n");
    }

    fn operation(&mut self, path: &str, method: &str, operation: &Value) {
        let id = escaped(&operation["operationId"]);
        put!(
            self,
            "<section id=\"{id}\">\n<h3>{}</h3>\n",
            escaped(&operation["summary"])
        );
        put!(
            self,
            "<p class=\"line\"><b>{}</b> <code>{}</code> <small>{id}</small></p>\n",
            method.to_uppercase(),
            escape(path)
        );
        put!(self, "<p>{}</p>\n", prose(&operation["description"]));
        let parameters = list(&operation["parameters"]);
        if !parameters.is_empty() {
            put!(
                self,
                "<table>\n<tr><th>Parameter</th><th>In</th><th>Form</th><th>Meaning</th><th>Example</th></tr>\n"
            );
            for parameter in parameters {
                let required = if parameter["required"] == true {
                    " <em>required</em>"
                } else {
                    ""
                };
                put!(
                    self,
                    "<tr><td><code>{}</code>{required}</td><td>{}</td><td>{}</td><td>{}</td><td><code>{}</code></td></tr>\n",
                    escaped(&parameter["name"]),
                    escaped(&parameter["in"]),
                    form(&parameter["schema"]),
                    prose(&parameter["description"]),
                    example(&parameter["example"])
                );
            }
            put!(self, "</table>\n");
        }
        let body = &operation["requestBody"];
        if body.is_object() {
            let need = if body["required"] == true {
                "Body"
            } else {
                "Body, may be left out"
            };
            put!(self, "<h4>{need}</h4>\n");
            self.content(&body["content"], Side::Sent);
        }
        for (status, response) in entries(&operation["responses"]) {
            if status.ends_with("XX") {
                continue;
            }
            put!(
                self,
                "<h4>{}: {}</h4>\n",
                escape(status),
                prose(&response["description"])
            );
            for (header, about) in entries(&response["headers"]) {
                put!(
                    self,
                    "<p><code>{}</code>: {}</p>\n",
                    escape(header),
                    prose(&about["description"])
                );
            }
            self.content(&response["content"], Side::Given);
        }
        put!(
            self,
            "<p>Everything else is a <a href=\"#schema-Problem\">Problem</a>.</p>\n</section>\n"
        );
    }

    fn content(&mut self, content: &Value, side: Side) {
        for (media_type, body) in entries(content) {
            put!(
                self,
                "<p><code>{}</code> {}</p>\n",
                escape(media_type),
                form(&body["schema"])
            );
            let named = body["schema"]["$ref"]
                .as_str()
                .and_then(|target| target.rsplit('/').next());
            if let (Some(name), Side::Sent) = (named, side) {
                let whole = examples::whole(&self.document["components"]["schemas"], name);
                let text = serde_json::to_string_pretty(&whole).unwrap_or_default();
                put!(self, "<pre>{}</pre>\n", escape(&text));
            }
        }
    }

    fn schema(&mut self, name: &str, schema: &Value) {
        let name = escape(name);
        put!(self, "<section id=\"schema-{name}\">\n<h3>{name}</h3>\n");
        put!(self, "<p>{}</p>\n", prose(&schema["description"]));
        let variants = list(&schema["oneOf"]);
        match variants.is_empty() {
            true => self.fields(schema),
            false => {
                for variant in variants {
                    put!(
                        self,
                        "<h4>{}</h4>\n<p>{}</p>\n",
                        escaped(&variant["title"]),
                        prose(&variant["description"])
                    );
                    self.fields(variant);
                }
            }
        }
        put!(self, "</section>\n");
    }

    fn fields(&mut self, schema: &Value) {
        if !schema["properties"].is_object() {
            put!(self, "<p>{}</p>\n", form(schema));
            return;
        }
        put!(
            self,
            "<table>\n<tr><th>Field</th><th>Form</th><th>Meaning</th><th>Example</th></tr>\n"
        );
        let required = list(&schema["required"]);
        for (field, about) in entries(&schema["properties"]) {
            let required = if required.iter().any(|name| *name == field) {
                " <em>required</em>"
            } else {
                ""
            };
            // An optional reference is described beside its `$ref`.
            let meaning = match about["description"].is_string() {
                true => &about["description"],
                false => &about["oneOf"][0]["description"],
            };
            put!(
                self,
                "<tr><td><code>{}</code>{required}</td><td>{}</td><td>{}</td><td><code>{}</code></td></tr>\n",
                escape(field),
                form(about),
                prose(meaning),
                example(&about["examples"][0])
            );
        }
        put!(self, "</table>\n");
    }
}

#[derive(Clone, Copy)]
enum Side {
    Sent,
    Given,
}

/// What a value looks like, in a few words, with links to the schemas it is made of.
fn form(schema: &Value) -> String {
    if let Some(target) = schema["$ref"].as_str() {
        let name = escape(target.rsplit('/').next().unwrap_or_default());
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    for (key, joint) in [("oneOf", " or "), ("allOf", ", with ")] {
        let parts: Vec<String> = list(&schema[key])
            .iter()
            .filter(|part| part["type"] != "null")
            .map(form)
            .collect();
        if !parts.is_empty() {
            return parts.join(joint);
        }
    }
    let types = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        several => list(several).iter().filter_map(Value::as_str).collect(),
    };
    let mut words = match types.iter().find(|one| **one != "null") {
        Some(&"array") => format!("list of {}", form(&schema["items"])),
        Some(&"object") if schema["additionalProperties"].is_object() => {
            format!("names to {}", form(&schema["additionalProperties"]))
        }
        Some(one) => escape(one),
        None => String::new(),
    };
    for (key, word) in [
        ("format", "as"),
        ("minimum", "from"),
        ("maximum", "to"),
        ("minLength", "at least letters:"),
        ("maxLength", "at most letters:"),
        ("minItems", "at least entries:"),
        ("maxItems", "at most entries:"),
        ("pattern", "like"),
        ("contentMediaType", "holding"),
    ] {
        let value = &schema[key];
        if !value.is_null() && !matches!(value.as_str(), Some("int32" | "int64")) {
            let _ = write!(words, ", {word} <code>{}</code>", example(value));
        }
    }
    let allowed: Vec<String> = list(&schema["enum"])
        .iter()
        .map(|value| format!("<code>{}</code>", example(value)))
        .collect();
    if !allowed.is_empty() {
        let _ = write!(words, ": {}", allowed.join(", "));
    }
    words
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let entries = value.as_object().map(Map::iter).into_iter().flatten();
    entries.map(|(key, value)| (key.as_str(), value))
}

/// A value as text: texts without quotes.
fn example(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escape(text),
        other => escape(&other.to_string()),
    }
}

fn escaped(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

/// A text as HTML shows it, also as the value of an attribute in quotes.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A description: what stands between backticks is code.
fn prose(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    let parts = text.split('`').enumerate();
    parts
        .map(|(number, part)| match number % 2 {
            0 => escape(part),
            _ => format!("<code>{}</code>", escape(part)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Nothing of the document is missing, and no text of it is taken for markup.
    #[test]
    fn the_page_has_all_and_escapes_it() {
        let page = page();
        for operations in document()["paths"].as_object().expect("paths").values() {
            for operation in operations.as_object().expect("operations").values() {
                let id = operation["operationId"].as_str().expect("an id");
                let begin = page.find(&format!("<section id=\"{id}\">")).expect(id);
                let section = &page[begin..][..page[begin..].find("</section>").expect("its end")];
                for parameter in list(&operation["parameters"]) {
                    let row = format!("<td><code>{}</code>", escaped(&parameter["name"]));
                    assert!(section.contains(&row), "{id} lacks {row}");
                }
            }
        }
        for (name, schema) in entries(&document()["components"]["schemas"]) {
            let begin = page.find(&format!("<section id=\"schema-{name}\">")).expect(name);
            let section = &page[begin..][..page[begin..].find("</section>").expect("its end")];
            for (field, _) in entries(&schema["properties"]) {
                assert!(
                    section.contains(&format!("<td><code>{field}</code>")),
                    "{name}.{field}"
                );
            }
        }
        for link in page
            .split("href=\"#")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
        {
            assert!(page.contains(&format!("id=\"{link}\"")), "#{link} leads nowhere");
        }
        assert!(!page.contains("<script") && !page.contains("style=") && !page.contains("//cdn"));
        let mut hostile = document().clone();
        hostile["info"]["description"] = json!("<script>alert(1)</script> `<b>`");
        let page = of(&hostile);
        assert!(!page.contains("<script>") && page.contains("<code>&lt;b&gt;</code>"));
    }
}
