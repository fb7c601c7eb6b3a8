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

/// One of `addons`; a text is its plan.
const ADDON: &[Row] = &[
    unsupported(
        "as",
        "'x'",
        "variables of a database are named after it: see uses",
    ),
    unsupported("options", "{}", "a managed database has no such settings"),
    taken("plan", "'heroku-postgresql:mini'", "which service it is"),
];

const PROCESS: &[Row] = &[
    taken("quantity", "1", "scale"),
    unsupported(
        "size",
        "'standard-1x'",
        "sizes of Heroku mean nothing here: write resources",
    ),
];

pub(crate) fn import(
    text: &str,
    app: &Name,
    procfile: Option<&str>,
    report: &Report,
) -> Result<Option<Manifest>, Unreadable> {
    // JSON is YAML to the last comma, and this way each remark has its place.
    let root = yaml::tree(text)?;
    if root.map().is_none() {
        let message = format!("an app.json is a table, but this is {}", root.kind());
        return Err(Unreadable::new(root.at, message));
    }
    walk(report, "", &root, FORM, ROOT);
    let mut draft = Draft::new(app.clone(), report);
    if let Some(found) = find("", &root, "name")
        && let Some(text) = found.text(report)
        && let Some(name) = draft.name(found.at, "name", text)
    {
        draft.manifest.app = name;
    }
    let secrets = variables(&mut draft, &root);
    databases(&mut draft, &root);
    let ended = formation(&mut draft, &root);
    if !secrets.is_empty() || !draft.manifest.services.is_empty() {
        // A service must list a secret to get it, and a file with services is the whole truth about what runs.
        draft.run_processes(procfile);
        draft.manifest.services.retain(|name, _| !ended.contains(name));
    }
    let databases: BTreeSet<Name> = draft.manifest.databases.keys().cloned().collect();
    for service in draft.manifest.services.values_mut() {
        service.secrets.clone_from(&secrets);
        service.uses.clone_from(&databases);
    }
    for job in draft.manifest.jobs.values_mut() {
        job.secrets.clone_from(&secrets);
        job.uses.clone_from(&databases);
    }
    let scripts = find("", &root, "scripts");
    for entry in scripts.iter().flat_map(|found| found.entries(report)) {
        let message = "is not run: what every release needs first is a job ([jobs.NAME] on = \"release\"), anything else stoa run";
        report.unsupported(entry.at, &join("scripts", &entry.key), message);
    }
    Ok(draft.finish())
}

fn variables(draft: &mut Draft<'_>, root: &Node) -> BTreeSet<EnvKey> {
    let mut secrets = BTreeSet::new();
    let (report, found) = (draft.report, find("", root, "env"));
    for entry in found.iter().flat_map(|found| found.entries(report)) {
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
        Value::List(_) => {
            let message = "must be a text or a table, but is a list; it is left out";
            draft.report.unsupported(entry.at, &path, message);
            return Kept::Not;
        }
        Value::Null | Value::Text(_) => entry.node.text(),
    };
    draft.variable(entry.at, &path, &entry.key, value)
}

fn databases(draft: &mut Draft<'_>, root: &Node) {
    let (report, found) = (draft.report, find("", root, "addons"));
    for (path, node) in found.iter().flat_map(|found| found.items(report)) {
        if node.map().is_some() {
            walk(draft.report, &path, node, FORM, ADDON);
        }
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
                engine: model::EngineWish::Postgres,
                version: None,
                size: None,
                memory: None,
                backup_level: None,
                pooled: None,
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

/// Declares processes; gives those of which none is to run.
fn formation(draft: &mut Draft<'_>, root: &Node) -> BTreeSet<Name> {
    let mut ended = BTreeSet::new();
    let (report, found) = (draft.report, find("", root, "formation"));
    for entry in found.iter().flat_map(|found| found.entries(report)) {
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
                ended.insert(name);
                continue;
            }
            if let Some(count) = draft.scale(found.at, &found.path, text) {
                service.count = count;
            }
        }
        draft.manifest.services.insert(name, service);
    }
    ended
}
