//! `stoa db` where a Valkey differs.

use api::{Database, EngineKind, ValkeyBackups, ValkeyPlan};

use crate::args::Engine;
use crate::failure::{Code, Failure};
use crate::output;

/// What to do about one that may only be read.
pub(crate) const MAKE_ROOM: &str =
    "a larger `size` in stoa.toml and stoa deploy, or delete keys: what takes memory is refused meanwhile";

pub(crate) fn kind(engine: Engine) -> EngineKind {
    match engine {
        Engine::Postgres => EngineKind::Postgres,
        Engine::Valkey => EngineKind::Valkey,
    }
}

/// Refuses a plan of what has none: the server would pass over it.
pub(crate) fn need_valkey(engine: Option<Engine>, plan: Option<model::ValkeyPlan>) -> Result<(), Failure> {
    match (engine, plan) {
        (None | Some(Engine::Postgres), Some(_)) => Err(Failure::new(
            Code::Usage,
            "only a Valkey has a plan".to_owned(),
            "leave it out, or say: --engine valkey",
        )),
        (_, None) | (Some(Engine::Valkey), Some(_)) => Ok(()),
    }
}

pub(crate) fn plan(plan: model::ValkeyPlan) -> ValkeyPlan {
    match plan {
        model::ValkeyPlan::Cache => ValkeyPlan::Cache,
        model::ValkeyPlan::Durable => ValkeyPlan::Durable,
    }
}

/// What leads on after a database was made.
pub(crate) fn after_create(name: &model::Name, engine: Option<Engine>) -> String {
    let variable = match engine {
        Some(Engine::Valkey) => "REDIS_URL",
        Some(Engine::Postgres) | None => "DATABASE_URL",
    };
    format!("a service that `uses` {name} gets {variable} with its next release; next: stoa deploy")
}

/// What a database is, for example `postgres 15` or `valkey 8 cache`.
pub(crate) fn engine(database: &Database) -> String {
    let name = match database.engine {
        EngineKind::Postgres => "postgres",
        EngineKind::Valkey => "valkey",
    };
    let plan = match database.plan {
        Some(ValkeyPlan::Cache) => " cache",
        Some(ValkeyPlan::Durable) => " durable",
        None => "",
    };
    let version = database.version.as_deref().map(|version| format!(" {version}"));
    format!("{name}{}{plan}", version.unwrap_or_default())
}

/// What is to be said of the backup of one; nothing of a PostgreSQL.
pub(crate) fn backup(database: &Database) -> Option<&'static str> {
    match (database.plan?, &database.branch_of) {
        (ValkeyPlan::Cache, _) => Some("NONE: a cache keeps nothing on disk"),
        (ValkeyPlan::Durable, None) => Some("ON THIS SERVER ONLY, not drilled"),
        (ValkeyPlan::Durable, Some(_)) => Some("-"),
    }
}

/// What of one can be restored.
pub(crate) fn kept_page(name: &str, kept: &ValkeyBackups) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| text.push_str(&format!("{name:<12}{value}\n"));
    row(
        "log",
        "written to its volume once a second, on this server only: no copy elsewhere, no drill",
    );
    match (kept.from, kept.until) {
        (Some(from), Some(until)) => row(
            "restorable",
            &format!("from {from} until {until}, by the whole second"),
        ),
        (_, _) => row("restorable", "nothing yet: it has no log"),
    }
    if !kept.kept.is_empty() {
        let rows: Vec<Vec<String>> = kept
            .kept
            .iter()
            .map(|log| {
                vec![
                    log.number.to_string(),
                    log.from.to_string(),
                    log.until.to_string(),
                    output::size(log.bytes),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&output::table(&["KEPT LOG", "FROM", "UNTIL", "SIZE"], &rows));
    }
    if let Some(until) = kept.until {
        text.push_str(&format!(
            "\nto restore: stoa db restore {name} --as {name}-before --at {until}\n"
        ));
    }
    text
}
