//! Heroku's `app.json` into a manifest.

use std::collections::BTreeSet;

use model::manifest::{DatabaseWish, Manifest};
use model::{EnvKey, Name};

use crate::draft::{Draft, Kept, bare_service};
use crate::keys::{Row, find, ignored, join, taken, unsupported, walk};
use crate::remark::{Report, Unreadable};
use crate::tree::{Entry, Node, Value};
use crate::yaml;

const FORM: &str = "app.json";
const FOR_PEOPLE: &str = "for a catalogue, which there is none of";
const SECOND: &str = "the environments of a manifest are [environments.NAME]";

const ROOT: &[Row] = &[
    taken("addons", "[]", "heroku-postgresql becomes a managed database"),
    ignored("buildpacks", "[]", "what the source needs is detected"),
    ignored("description", "'x'", FOR_PEOPLE),
    taken("env", "{}", "[env] and secrets"),
    unsupported("environments", "{}", SECOND),
    taken("formation", "{}", "scale"),
    unsupported("image", "'x'", "write build.base, or an image for each service"),
    ignored("keywords", "[]", FOR_PEOPLE),
    ignored("logo", "'x'", FOR_PEOPLE),
    taken("name", "'shop'", "the app's name"),
    ignored("repository", "'x'", FOR_PEOPLE),
    taken("scripts", "{}", "not run: see stoa run, and jobs"),
    ignored("stack", "'heroku-24'", "the base is detected, or [build] base"),
    ignored("success_url", "'/'", FOR_PEOPLE),
    ignored("website", "'x'", FOR_PEOPLE),
];

const VARIABLE: &[Row] = &[
    ignored("description", "'x'", "write it as a comment into stoa.toml"),
    taken("generator", "'secret'", "a secret"),
    taken("required", "true", "a value nobody gives is a secret"),
    taken("value", "'x'", "the value"),
];

const PROCESS: &[Row] = &[
    taken("quantity", "1", "scale"),
    ignored("size", "'standard-1x'", "write resources"),
];

pub(crate) fn import(text: &str, app: &Name, report: &Report) -> Result<Option<Manifest>, Unreadable> {
    // JSON is YAML to the last comma, and this way each remark has its place.
    let root = yaml::tree(text)?;
    if root.map().is_none() {
        let message = format!("an app.json is a table, but this is {}", root.kind());
        return Err(Unreadable::new(root.at, message));
    }
    walk(report, "", &root, FORM, ROOT);
    let mut draft = Draft::new(app.clone(), report);
    if let Some(found) = find("", &root, "name")
        && let Some(name) = found.text(report).and_then(crate::draft::fitting)
    {
        draft.manifest.app = name;
    }
    let secrets = variables(&mut draft, &root);
    databases(&mut draft, &root);
    formation(&mut draft, &root);
    if draft.manifest.services.is_empty()
        && !secrets.is_empty()
        && let Ok(web) = "web".parse::<Name>()
    {
        draft.manifest.services.insert(web, bare_service());
    }
    let databases: BTreeSet<Name> = draft.manifest.databases.keys().cloned().collect();
    for service in draft.manifest.services.values_mut() {
        service.secrets.clone_from(&secrets);
        service.uses.clone_from(&databases);
    }
    for entry in root.get("scripts").and_then(Node::map).unwrap_or_default() {
        let message = "is not run: what every release needs first is a job ([jobs.NAME] on = \"release\"), anything else stoa run";
        report.unsupported(entry.at, &join("scripts", &entry.key), message);
    }
    Ok(draft.finish())
}

fn variables(draft: &mut Draft<'_>, root: &Node) -> BTreeSet<EnvKey> {
    let mut secrets = BTreeSet::new();
    for entry in root.get("env").and_then(Node::map).unwrap_or_default() {
        if let Kept::Secret(key) = variable(draft, entry) {
            secrets.insert(key);
        }
    }
    secrets
}

fn variable(draft: &mut Draft<'_>, entry: &Entry) -> Kept {
    let path = join("env", &entry.key);
    let value = match &entry.node.value {
        Value::Map(_) => {
            walk(draft.report, &path, &entry.node, FORM, VARIABLE);
            let is_optional = entry.node.get("required").is_some_and(Node::is_false);
            let value = entry.node.get("value").and_then(Node::text);
            if value.is_none() && is_optional && entry.node.get("generator").is_none() {
                let message = "nobody has to give it a value: stoa env set, or stoa secrets set, when you do";
                draft.report.ignored(entry.at, &path, message);
                return Kept::Not;
            }
            value
        }
        Value::Null | Value::Text(_) | Value::List(_) => entry.node.text(),
    };
    draft.variable(entry.at, &path, &entry.key, value)
}

fn databases(draft: &mut Draft<'_>, root: &Node) {
    let addons = root.get("addons").and_then(Node::list).unwrap_or_default();
    for (index, node) in addons.iter().enumerate() {
        let path = format!("addons[{index}]");
        let plan = node.text().or_else(|| node.get("plan").and_then(Node::text));
        let plan = plan.unwrap_or_default();
        let kind = plan.split(':').next().unwrap_or_default();
        if kind == "heroku-postgresql" {
            let name = match draft.manifest.databases.len() {
                0 => "main".to_owned(),
                more => format!("main{}", more + 1),
            };
            let Ok(name) = name.parse::<Name>() else { continue };
            let message = format!("becomes the managed database {name}; its plan means nothing here");
            draft.report.changed(node.at, &path, message);
            let wish = DatabaseWish {
                version: None,
                size: None,
                memory: None,
            };
            draft.manifest.databases.insert(name, wish);
        } else {
            let message = format!(
                "there is no {kind:?} here: run it as a service with an image, or give its address as a secret"
            );
            draft.report.unsupported(node.at, &path, message);
        }
    }
}

fn formation(draft: &mut Draft<'_>, root: &Node) {
    for entry in root.get("formation").and_then(Node::map).unwrap_or_default() {
        let path = join("formation", &entry.key);
        walk(draft.report, &path, &entry.node, FORM, PROCESS);
        let Some(name) = draft.name(entry.at, &path, &entry.key) else {
            continue;
        };
        let mut service = bare_service();
        if let Some(found) = find(&path, &entry.node, "quantity")
            && let Some(text) = found.text(draft.report)
        {
            if text == "0" {
                let message = "none of it runs there, so it is left out";
                draft.report.ignored(found.at, &found.path, message);
                continue;
            }
            if let Some(count) = draft.scale(found.at, &found.path, text) {
                service.count = count;
            }
        }
        draft.manifest.services.insert(name, service);
    }
}
