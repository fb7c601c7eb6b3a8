//! What of a Valkey differs from a PostgreSQL: what it is asked, refused and spoken to with.

use model::{Database, DatabaseEngine, DatabaseId, EngineWish, Target, Timestamp, Valkey, ValkeyPlan};
use plan::valkey::{earliest, place};
use store::rows::{ADMIN_PASSWORD, database_tenant};
use store::secret::{Sealed, Secret};

use super::{Connection, password_of};
use crate::{Control, ControlError};

/// How the names of the volumes begin that hold the kept logs of a Valkey.
pub(crate) fn logs_of(id: DatabaseId) -> String {
    format!("aof-{}-", id.short(26))
}

/// The volume of one of them.
pub(crate) fn log_volume(id: DatabaseId, number: u64) -> String {
    format!("{}{number:06}", logs_of(id))
}

/// The password of the platform's own user.
pub(crate) fn admin_password(
    control: &Control,
    id: DatabaseId,
    valkey: &Valkey,
) -> Result<Secret, ControlError> {
    let sealed = Sealed(valkey.admin.clone());
    let opened = control
        .store
        .unseal(&database_tenant(id), ADMIN_PASSWORD, 1, &sealed);
    Ok(opened.map_err(store::StoreError::from)?)
}

/// What a database that was asked for is to be.
pub(super) fn engine(wish: EngineWish) -> DatabaseEngine {
    match wish {
        EngineWish::Postgres => DatabaseEngine::Postgres,
        EngineWish::Valkey(plan) => DatabaseEngine::Valkey(Valkey::new(plan)),
    }
}

/// How to connect to one, with that of its logins.
pub(super) fn connection(
    control: &Control,
    database: &Database,
    credential: &model::Credential,
) -> Result<Connection, ControlError> {
    let host = format!("{}.internal", crate::routes::server_name(database));
    Ok(Connection {
        scheme: "redis",
        server: host.clone(),
        host,
        port: ::databases::valkey::PORT,
        user: ::databases::login_role(credential.version),
        password: password_of(control, database.id, credential)?,
        database: "0".to_owned(),
    })
}

/// Refuses where another engine or plan is wanted than a database has: both are chosen when it is made.
pub(crate) fn need_engine(database: &Database, wanted: EngineWish) -> Result<(), ControlError> {
    let (has, wants) = match (&database.engine, wanted) {
        (DatabaseEngine::Postgres, EngineWish::Postgres) => return Ok(()),
        (DatabaseEngine::Valkey(valkey), EngineWish::Valkey(plan)) if valkey.plan == plan => return Ok(()),
        (DatabaseEngine::Valkey(valkey), EngineWish::Valkey(plan)) => {
            (format!("the plan {}", valkey.plan), format!("the plan {plan}"))
        }
        (has, _other) => (has.as_str().to_owned(), wanted.as_str().to_owned()),
    };
    Err(ControlError::State {
        message: format!(
            "the database {} has {has}, and stoa.toml wants {wants}",
            database.name
        ),
        next_step: "write what it has there, or give the other one another name".to_owned(),
    })
}

/// Refuses what only a PostgreSQL has. `why` goes on after `NAME is a Valkey: `.
pub(crate) fn refuse(database: &Database, why: &str, next_step: &str) -> Result<(), ControlError> {
    match &database.engine {
        DatabaseEngine::Postgres => Ok(()),
        DatabaseEngine::Valkey(_) => Err(ControlError::State {
            message: format!("{} is a Valkey: {why}", database.name),
            next_step: next_step.replace("NAME", database.name.as_str()),
        }),
    }
}

/// Refuses what needs data on disk where there is none.
pub(super) fn refuse_cache(database: &Database, valkey: &Valkey) -> Result<(), ControlError> {
    match valkey.plan {
        ValkeyPlan::Durable => Ok(()),
        ValkeyPlan::Cache => Err(ControlError::State {
            message: format!(
                "{} has the plan cache: it keeps nothing on disk, so there is nothing to copy or restore",
                database.name
            ),
            next_step: "make one that keeps its data: stoa db create NAME --engine valkey --plan durable"
                .to_owned(),
        }),
    }
}

/// Refuses what cannot be restored of one, as of now.
pub(super) fn need_reached(
    database: &Database,
    valkey: &Valkey,
    target: Target,
    now: Timestamp,
) -> Result<(), ControlError> {
    refuse_cache(database, valkey)?;
    let at = match target {
        Target::Latest => return Ok(()),
        Target::Lsn { .. } => {
            return Err(ControlError::invalid(
                "/to/lsn",
                "a Valkey is restored to a time: its log has no places",
            ));
        }
        Target::Time { at } => at,
    };
    match place(valkey, at, now) {
        Some(_) => Ok(()),
        None => Err(outside(database, valkey, at, now)),
    }
}

/// Says what can be restored where something cannot.
pub(crate) fn outside(database: &Database, valkey: &Valkey, at: Timestamp, now: Timestamp) -> ControlError {
    let name = &database.name;
    let message = match earliest(valkey) {
        None => format!("nothing can be restored of {name} yet: it has no log"),
        Some(from) => {
            format!("{at} lies outside of what {name} can be restored to: from {from} until {now}")
        }
    };
    ControlError::invalid("/to/at", message)
}
