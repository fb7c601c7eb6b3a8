//! What one key alone can not show: names that clash, things used but not declared, contradictions.

use std::collections::BTreeMap;

use super::reader::{Section, join, nearest};
use super::resolve::port_of;
use super::{Declared, Expose, Manifest};
use crate::name::{EnvKey, Name};
use crate::spec::Route;
use crate::valkey::EngineWish;

/// `NAME.db.internal` is where databases answer, so no app may be called like that.
const RESERVED_APPS: [&str; 1] = ["db"];

pub(super) fn all(manifest: &Manifest, root: &Section<'_>) {
    if RESERVED_APPS.contains(&manifest.app.as_str())
        && let Some(field) = root.get("app")
    {
        field.problem(
            format!("{:?} is reserved", manifest.app.as_str()),
            Some("choose another name"),
        );
    }
    one_meaning(manifest, root);
    let mut routes = BTreeMap::new();
    for (name, service) in &manifest.services {
        let Some(section) = find(root, "services", name) else {
            continue;
        };
        port(name, service, &section);
        uses(manifest, name, &section);
        secrets(manifest, &section);
        for route in service.routes.iter().flatten() {
            once(&mut routes, name, route, &section);
        }
    }
    for name in manifest.jobs.keys() {
        let Some(section) = find(root, "jobs", name) else {
            continue;
        };
        uses(manifest, name, &section);
        secrets(manifest, &section);
    }
    injected(manifest, root);
}

fn find<'a>(root: &Section<'a>, kind: &str, name: &Name) -> Option<Section<'a>> {
    // The kind was a table when it was read, so asking again adds no second problem.
    root.section(kind)?.section(name.as_str())
}

/// `stoa logs NAME` and `uses = [NAME]` must not have two answers.
fn one_meaning(manifest: &Manifest, root: &Section<'_>) {
    let clash = |kind: &str, name: &Name, other: &str| {
        let message = format!("{name} is the name of {other}, too");
        root.report.add(
            &join(kind, name.as_str()),
            &place(root, kind, name),
            message,
            Some("rename one".to_owned()),
        );
    };
    for name in manifest
        .jobs
        .keys()
        .filter(|name| manifest.services.contains_key(*name))
    {
        clash("jobs", name, "a service");
    }
    for name in manifest.databases.keys() {
        if manifest.services.contains_key(name) {
            clash("databases", name, "a service");
        } else if manifest.jobs.contains_key(name) {
            clash("databases", name, "a job");
        }
    }
}

fn place(root: &Section<'_>, kind: &str, name: &Name) -> std::ops::Range<usize> {
    find(root, kind, name).map_or(0..0, |section| section.at)
}

fn port(name: &Name, service: &Declared, section: &Section<'_>) {
    let has_port = port_of(name, service).is_some();
    let hint = Some("add port = 8080, the port it listens on");
    if !has_port
        && section.table.contains_key("health")
        && let Some(field) = section.get("health")
    {
        field.problem("there is nothing to check without a port".to_owned(), hint);
    }
    let Some(field) = section.get("routes") else {
        return;
    };
    if !has_port {
        field.problem("there is nothing to route to without a port".to_owned(), hint);
    }
    if service.expose == Expose::Private && service.routes.as_ref().is_some_and(|routes| !routes.is_empty()) {
        let hint = Some("remove one of the two");
        field.problem(
            "a service with routes can not be expose = \"private\"".to_owned(),
            hint,
        );
    }
}

fn uses(manifest: &Manifest, own: &Name, section: &Section<'_>) {
    for field in section
        .get("uses")
        .and_then(|field| field.list())
        .unwrap_or_default()
    {
        // What is not a name has its problem already.
        let Some(name) = field.plain().and_then(|text| text.parse::<Name>().ok()) else {
            continue;
        };
        if name == *own {
            field.problem(format!("{name} can not use itself"), None);
        } else if !manifest.databases.contains_key(&name) && !manifest.services.contains_key(&name) {
            let declared = manifest
                .databases
                .keys()
                .chain(manifest.services.keys())
                .map(Name::as_str);
            let hint = nearest(name.as_str(), declared).map_or_else(
                || format!("declare it: [databases] {name} = {{ engine = \"postgres\" }}"),
                |near| format!("did you mean {near}?"),
            );
            field.problem(
                format!("{name} is neither a database nor a service of this file"),
                Some(&hint),
            );
        }
    }
}

fn secrets(manifest: &Manifest, section: &Section<'_>) {
    for field in section
        .get("secrets")
        .and_then(|field| field.list())
        .unwrap_or_default()
    {
        let Some(key) = field.plain() else { continue };
        if manifest.env.contains_key(key) {
            let hint = "remove it from [env]: a secret's value never lives in this file";
            field.problem(format!("{key} is in [env], too"), Some(hint));
        } else if EnvKey::is_set_by_stoa(key) {
            field.problem(format!("{key} is set by Stoa"), None);
        } else if is_injected(manifest, key) {
            field.problem(format!("{key} {BY_DATABASE}"), Some(UNUSE));
        }
    }
}

fn once<'m>(
    seen: &mut BTreeMap<&'m Route, &'m Name>,
    name: &'m Name,
    route: &'m Route,
    section: &Section<'_>,
) {
    if let Some(other) = seen.insert(route, name)
        && let Some(field) = section.get("routes")
    {
        let host = route.host.as_deref().unwrap_or("the app's own host");
        field.problem(
            format!("{host} with path {} already leads to {other}", route.path),
            None,
        );
    }
}

const BY_DATABASE: &str = "is set by Stoa for the database in uses";
const UNUSE: &str = "remove it, or the database from uses";

/// Whether a service or job gets this variable for a database it uses.
fn is_injected(manifest: &Manifest, key: &str) -> bool {
    let services = manifest.services.values().map(|service| &service.uses);
    let jobs = manifest.jobs.values().map(|job| &job.uses);
    services
        .chain(jobs)
        .flatten()
        .filter_map(|name| manifest.databases.get(name))
        .any(|wish| match wish.engine {
            EngineWish::Postgres => EnvKey::leads_to_database(key),
            EngineWish::Valkey(_) => EnvKey::leads_to_valkey(key),
        })
}

/// A variable we inject for a used database must not be set by hand as well: nobody could tell which one wins.
fn injected(manifest: &Manifest, root: &Section<'_>) {
    let Some(env) = root.section("env") else {
        return;
    };
    let clashing = manifest
        .env
        .keys()
        .filter(|key| is_injected(manifest, key.as_str()));
    for key in clashing {
        if let Some(field) = env.get(key.as_str()) {
            field.problem(format!("{key} {BY_DATABASE}"), Some(UNUSE));
        }
    }
}
