//! Reading `[services.NAME]`.

use std::collections::BTreeMap;

use super::part::resources;
use super::reader::{Field, Section};
use super::{Declared, Expose, keys};
use crate::name::{Name, is_host_name};
use crate::spec::{Health, Route, STOP_GRACE};
use crate::units::Millis;

/// One machine holds no more; a number beyond it is a slip of the finger.
const COUNT_MAX: u16 = 100;

/// A check slower or rarer than this says nothing in time; one faster only makes load.
const GRACE: (Millis, Millis) = (Millis::seconds(1), Millis::seconds(1800));
const INTERVAL: (Millis, Millis) = (Millis::new(100), Millis::seconds(300));
const TIMEOUT: (Millis, Millis) = (Millis::new(50), Millis::seconds(60));
const STOP: (Millis, Millis) = (Millis::new(0), Millis::seconds(600));

pub(super) fn all(section: &Section<'_>) -> BTreeMap<Name, Declared> {
    let read = |(name, field): (Name, Field<'_>)| Some((name, service(&field.section()?)));
    section.entries().into_iter().filter_map(read).collect()
}

fn service(section: &Section<'_>) -> Declared {
    section.allow(&keys::SERVICE);
    let get = |key| section.get(key);
    Declared {
        command: get("command").and_then(|field| field.command()),
        image: get("image").and_then(|field| image(&field)),
        port: get("port").and_then(|field| field.number(1..=u16::MAX)),
        count: get("scale").and_then(|field| scale(&field)).unwrap_or(1),
        resources: get("resources")
            .map(|field| resources(&field))
            .unwrap_or_default(),
        health: section
            .section("health")
            .map(|section| health(&section))
            .unwrap_or_default(),
        routes: get("routes").and_then(|field| routes(&field)),
        expose: get("expose")
            .and_then(|field| expose(&field))
            .unwrap_or(Expose::Public),
        uses: get("uses").map(|field| field.names()).unwrap_or_default(),
        secrets: get("secrets").map(|field| field.env_keys()).unwrap_or_default(),
        stop_grace: get("stop_grace")
            .and_then(|field| field.parsed_within(STOP.0..=STOP.1))
            .unwrap_or(STOP_GRACE),
    }
}

/// Whether a text has the letters of registry references and of our own image names. What it means is decided where it
/// is fetched.
#[must_use]
pub fn is_image_reference(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b))
        && text
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
        && text.len() <= 255
        && !text.contains("..")
}

pub(super) fn image(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let fits = is_image_reference(text);
    if !fits {
        field.problem(
            format!("{text:?} is not an image reference"),
            Some("for example \"debian:12\""),
        );
    }
    fits.then(|| text.to_owned())
}

fn scale(field: &Field<'_>) -> Option<u16> {
    if !field.is_table() {
        if field.is_zero() {
            let hint = "write 1 or more; to stop the service for a while: stoa scale NAME=0";
            field.problem("a service needs at least one instance".to_owned(), Some(hint));
            return None;
        }
        return field.number(1..=COUNT_MAX);
    }
    let section = field.section()?;
    section.allow(&keys::SCALE);
    let hint = "write scale = 2, or both { min = 2, max = 2 }";
    let min: u16 = section.need("min", hint)?.number(0..=COUNT_MAX)?;
    let max: u16 = section.need("max", hint)?.number(1..=COUNT_MAX)?;
    if min > max {
        field.problem(format!("min {min} is greater than max {max}"), None);
    } else if min < max {
        let message = "scaling by itself between min and max is not supported by this version yet";
        field.problem(message.to_owned(), Some(&format!("write scale = {}", min.max(1))));
    }
    Some(min)
}

fn health(section: &Section<'_>) -> Health {
    section.allow(&keys::HEALTH);
    let usual = Health::default();
    let span = |key, (least, most): (Millis, Millis), usual| {
        section
            .get(key)
            .and_then(|field| field.parsed_within(least..=most))
            .unwrap_or(usual)
    };
    Health {
        path: section.get("path").and_then(|field| path(&field, Query::Allowed)),
        grace: span("grace", GRACE, usual.grace),
        interval: span("interval", INTERVAL, usual.interval),
        timeout: span("timeout", TIMEOUT, usual.timeout),
        failures: section
            .get("failures")
            .and_then(|field| field.number(1..=100))
            .unwrap_or(usual.failures),
    }
}

fn routes(field: &Field<'_>) -> Option<Vec<Route>> {
    let route = |field: &Field<'_>| {
        let section = field.section()?;
        section.allow(&keys::ROUTE);
        let given = section.get("host").map(|field| host(&field));
        let path = section
            .get("path")
            .map_or_else(|| Some("/".to_owned()), |field| path(&field, Query::Refused));
        // A route whose host is refused must not pass for one on the app's own host.
        let host = given.map_or(Some(None), |host| host.map(Some))?;
        Some(Route { host, path: path? })
    };
    Some(field.list()?.iter().filter_map(route).collect())
}

fn expose(field: &Field<'_>) -> Option<Expose> {
    match field.text()? {
        "public" => Some(Expose::Public),
        "private" => Some(Expose::Private),
        other => {
            field.problem(format!("{other:?} is neither \"public\" nor \"private\""), None);
            None
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Query {
    Allowed,
    Refused,
}

/// What the path of a route may hold beside letters and digits: what no router reads in two ways.
const ROUTE: &[u8] = b"/-_.~!$&'()+,;=:@";

/// Whether a health check may ask for it.
#[must_use]
pub fn is_health_path(text: &str) -> bool {
    why_no_path(text, Query::Allowed).is_none()
}

/// A path as a client sends it. Forms that routers read differently (dot segments, escapes) are refused.
fn why_no_path(text: &str, query: Query) -> Option<&'static str> {
    let (plain, rest) = text.split_once('?').unwrap_or((text, ""));
    if !text.starts_with('/') {
        Some("must begin with /")
    } else if !text.bytes().all(|b| b.is_ascii_graphic()) || text.contains(['#', '\\', '"', '<', '>']) {
        Some("holds a character that has no place in a path")
    } else if query == Query::Refused
        && !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || ROUTE.contains(&b))
    {
        Some("must be plain text (letters, digits and /-_.~!$&'()+,;=:@): it is a prefix on segment borders")
    } else if query == Query::Refused && text.len() > 256 {
        Some("is longer than 256 characters")
    } else if plain.contains("//") || plain.split('/').any(|part| part == "." || part == "..") {
        Some("must not hold //, . or .. segments")
    } else if plain.len() + rest.len() > 512 {
        Some("is longer than 512 characters")
    } else {
        None
    }
}

fn path(field: &Field<'_>, query: Query) -> Option<String> {
    let text = field.text()?;
    let why = why_no_path(text, query);
    if let Some(why) = why {
        let hint = (!text.starts_with('/')).then(|| format!("write \"/{text}\""));
        field.problem(why.to_owned(), hint.as_deref());
        return None;
    }
    // To the edge /api/ and /api are one route.
    let text = match query {
        Query::Refused if text.len() > 1 => text.trim_end_matches('/'),
        Query::Refused | Query::Allowed => text,
    };
    Some(text.to_owned())
}

fn host(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if text.starts_with("*.") {
        field.problem(
            "hosts with * are not supported by this version yet".to_owned(),
            None,
        );
    } else if !is_host_name(text) {
        let hint =
            "a host name in lower case without scheme, port and path, for example \"shop.example.org\"";
        field.problem(format!("{text:?} is not a host name"), Some(hint));
    } else {
        return Some(text.to_owned());
    }
    None
}
