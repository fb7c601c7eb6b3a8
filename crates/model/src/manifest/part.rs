//! Reading the other parts: `[build]`, `[env]`, `[jobs.NAME]`, `[databases]`, and resources.

use std::collections::BTreeMap;

use super::reader::{Field, Section, nearest};
use super::service::image;
use super::{Build, DatabaseWish, keys};
use crate::name::{EnvKey, Name};
use crate::spec::{Job, JobTrigger, Resources};
use crate::units::{Bytes, CpuMillis, Millis};
use crate::valkey::EngineWish;

/// Below this not even a static executable with its stack and page tables starts.
const MEMORY_MIN: Bytes = Bytes::mi(4);
/// A terabyte: more is a slip of the finger.
const MEMORY_MAX: Bytes = Bytes::mi(1 << 20);
/// Room for the temporary files of a small program.
const DISK_MIN: Bytes = Bytes::mi(16);
const DISK_MAX: Bytes = Bytes::mi(1 << 20);
/// A runtime with a handful of threads needs this many.
const PIDS_MIN: u32 = 8;
/// The kernel's usual ceiling for one machine.
const PIDS_MAX: u32 = 32_768;
/// PostgreSQL with small settings needs this much to answer under light load.
const DATABASE_MEMORY_MIN: Bytes = Bytes::mi(64);
/// A fresh cluster with its log takes about 60 MB; below this the first writes would fill it.
const DATABASE_SIZE_MIN: Bytes = Bytes::mi(128);
/// 64 TiB.
const DATABASE_SIZE_MAX: Bytes = Bytes::mi(64 << 20);
/// Migrations are done in minutes; a longer one says so.
pub(super) const JOB_TIMEOUT: Millis = Millis::seconds(600);
const JOB_TIMEOUT_MAX: Millis = Millis::seconds(24 * 3600);
/// Environment and arguments share 2 MB in the kernel, one string has 128 KB.
const ENV_VALUE_MAX: usize = 64 << 10;

pub(super) fn build(section: &Section<'_>) -> Build {
    section.allow(&keys::BUILD);
    let get = |key| section.get(key);
    Build {
        base: get("base").and_then(|field| image(&field)),
        packages: get("packages").map(|field| packages(&field)).unwrap_or_default(),
        commands: get("command")
            .and_then(|field| field.commands())
            .unwrap_or_default(),
        start: get("start").and_then(|field| field.command()),
        output: get("output").and_then(|field| output(&field)),
    }
}

fn packages(field: &Field<'_>) -> Vec<String> {
    let package = |field: &Field<'_>| {
        let text = field.text()?;
        let fits = text.len() >= 2
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
        if !fits {
            let hint = "lower case letters, digits, +, - and ., for example \"libpq5\"";
            field.problem(
                format!("{text:?} is not the name of a Debian package"),
                Some(hint),
            );
        }
        fits.then(|| text.to_owned())
    };
    let list = field.list().unwrap_or_default();
    list.iter().filter_map(package).collect()
}

fn output(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let is_inside = !text.is_empty()
        && !text.starts_with('/')
        && !text.contains(['\0', '\\'])
        && text.split('/').all(|part| part != "..");
    if !is_inside {
        let hint = "for example \"dist\"";
        field.problem("must be a directory inside the source".to_owned(), Some(hint));
    }
    is_inside.then(|| text.to_owned())
}

pub(super) fn env(section: &Section<'_>) -> BTreeMap<EnvKey, String> {
    let mut env = BTreeMap::new();
    for (key, field) in section.entries::<EnvKey>() {
        if EnvKey::is_set_by_stoa(key.as_str()) {
            let hint = (key.as_str() == "PORT").then_some("write services.NAME.port instead");
            field.problem(format!("{key} is set by Stoa"), hint);
        }
        let Some(text) = field.text() else { continue };
        if text.contains('\0') {
            field.problem("a variable can not hold a NUL character".to_owned(), None);
        } else if text.len() > ENV_VALUE_MAX {
            field.problem(format!("is longer than {} KiB", ENV_VALUE_MAX >> 10), None);
        }
        env.insert(key, text.to_owned());
    }
    env
}

pub(super) fn resources(field: &Field<'_>) -> Resources {
    let usual = Resources::default();
    let Some(section) = field.section() else {
        return usual;
    };
    section.allow(&keys::RESOURCES);
    Resources {
        cpu: section
            .get("cpu")
            .and_then(|field| cpu(&field))
            .unwrap_or(usual.cpu),
        memory: section
            .get("memory")
            .and_then(|field| field.parsed_within(MEMORY_MIN..=MEMORY_MAX))
            .unwrap_or(usual.memory),
        pids: section
            .get("pids")
            .and_then(|field| field.number(PIDS_MIN..=PIDS_MAX))
            .unwrap_or(usual.pids),
        disk: section
            .get("disk")
            .and_then(|field| field.parsed_within(DISK_MIN..=DISK_MAX))
            .unwrap_or(usual.disk),
    }
}

fn cpu(field: &Field<'_>) -> Option<CpuMillis> {
    CpuMillis::from_processors(field.fraction()?)
        .map_err(|error| field.problem(format!("{error}"), None))
        .ok()
}

pub(super) fn jobs(section: &Section<'_>) -> BTreeMap<Name, Job> {
    let read = |(name, field): (Name, Field<'_>)| Some((name, job(&field.section()?)?));
    section.entries().into_iter().filter_map(read).collect()
}

fn job(section: &Section<'_>) -> Option<Job> {
    section.allow(&keys::JOB);
    let get = |key| section.get(key);
    let command = section.need("command", "say what it runs: command = \"bin/migrate\"");
    if get("schedule").is_none()
        && let Some(on) = section.need("on", "say when it runs: on = \"release\"")
        && let Some(text) = on.text()
        && text != "release"
    {
        on.problem(
            format!("{text:?} is not known"),
            Some("the one trigger of this version is \"release\""),
        );
    }
    let job = Job {
        command: Vec::new(),
        on: JobTrigger::Release,
        resources: get("resources")
            .map(|field| resources(&field))
            .unwrap_or_default(),
        uses: get("uses").map(|field| field.names()).unwrap_or_default(),
        secrets: get("secrets").map(|field| field.env_keys()).unwrap_or_default(),
        timeout: get("timeout")
            .and_then(|field| field.parsed_within(Millis::seconds(1)..=JOB_TIMEOUT_MAX))
            .unwrap_or(JOB_TIMEOUT),
    };
    Some(Job {
        command: command?.command()?,
        ..job
    })
}

pub(super) fn databases(section: &Section<'_>) -> BTreeMap<Name, DatabaseWish> {
    let read = |(name, field): (Name, Field<'_>)| Some((name, database(&field.section()?)));
    section.entries().into_iter().filter_map(read).collect()
}

fn database(section: &Section<'_>) -> DatabaseWish {
    section.allow(&keys::DATABASE);
    let engine = section
        .need("engine", "write engine = \"postgres\"")
        .and_then(|field| engine(&field, section));
    let backup_level = section.get("backup_level");
    match (engine, section.get("plan"), &backup_level) {
        (Some(EngineWish::Postgres), Some(plan), _) => {
            plan.problem(
                "only a valkey has a plan".to_owned(),
                Some("remove it, or write engine = \"valkey\""),
            );
        }
        (Some(EngineWish::Valkey(_)), _, Some(level)) => {
            level.problem(
                "a valkey has no level: it logs to its disk once a second".to_owned(),
                Some("remove it"),
            );
        }
        (None, _, _) | (Some(EngineWish::Postgres), None, _) | (Some(EngineWish::Valkey(_)), _, None) => {}
    }
    let pooled = section.get("pooled");
    if let (Some(EngineWish::Valkey(_)), Some(pooled)) = (engine, &pooled) {
        pooled.problem(
            "a valkey needs no pooler: it takes thousands of clients".to_owned(),
            Some("remove it"),
        );
    }
    let engine = engine.unwrap_or_default();
    DatabaseWish {
        engine,
        version: section.get("version").and_then(|field| version(&field, engine)),
        size: section
            .get("size")
            .and_then(|field| field.parsed_within(DATABASE_SIZE_MIN..=DATABASE_SIZE_MAX)),
        memory: section
            .get("memory")
            .and_then(|field| field.parsed_within(DATABASE_MEMORY_MIN..=MEMORY_MAX)),
        backup_level: backup_level.and_then(|field| field.parsed()),
        pooled: pooled.and_then(|field| field.flag()),
    }
}

/// Nothing when it is none; that is told.
fn engine(field: &Field<'_>, section: &Section<'_>) -> Option<EngineWish> {
    let text = field.text()?;
    match text {
        "postgres" => return Some(EngineWish::Postgres),
        "valkey" => {
            let plan = section.get("plan").and_then(|field| field.parsed());
            return Some(EngineWish::Valkey(plan.unwrap_or_default()));
        }
        "postgresql" | "pg" => field.problem(format!("{text:?} is not known"), Some("write \"postgres\"")),
        "redis" => field.problem(
            format!("{text:?} is not known"),
            Some("write \"valkey\", which speaks the same protocol"),
        ),
        other => {
            let near = nearest(other, ["postgres", "valkey"].into_iter());
            let near = near.map(|near| format!("did you mean {near:?}?"));
            let hint = near.as_deref().unwrap_or("there are \"postgres\" and \"valkey\"");
            field.problem(format!("{other:?} is not known"), Some(hint));
        }
    }
    None
}

fn version(field: &Field<'_>, engine: EngineWish) -> Option<String> {
    let text = field.text()?;
    let fits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if !fits {
        let example = match engine {
            EngineWish::Postgres => "for example \"15\"",
            EngineWish::Valkey(_) => "for example \"8\"",
        };
        field.problem(format!("{text:?} is not a major version"), Some(example));
    }
    fits.then(|| text.to_owned())
}
