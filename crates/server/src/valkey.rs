//! What of a Valkey differs on the wire.

use api::{EngineKind, ValkeyBackups, ValkeyLog, ValkeyPlan};
use control::databases::KeptOfValkey;
use model::{DatabaseEngine, EngineWish};

/// What a new database is to be. Of a PostgreSQL a plan says nothing.
pub(crate) fn wished(engine: Option<EngineKind>, plan: Option<ValkeyPlan>) -> EngineWish {
    match (engine.unwrap_or_default(), plan) {
        (EngineKind::Postgres, _) => EngineWish::Postgres,
        (EngineKind::Valkey, None | Some(ValkeyPlan::Durable)) => {
            EngineWish::Valkey(model::ValkeyPlan::Durable)
        }
        (EngineKind::Valkey, Some(ValkeyPlan::Cache)) => EngineWish::Valkey(model::ValkeyPlan::Cache),
    }
}

/// What a database is, and its plan if it has one.
pub(crate) fn wire(engine: &DatabaseEngine) -> (EngineKind, Option<ValkeyPlan>) {
    match engine {
        DatabaseEngine::Postgres => (EngineKind::Postgres, None),
        DatabaseEngine::Valkey(valkey) => {
            let plan = match valkey.plan {
                model::ValkeyPlan::Cache => ValkeyPlan::Cache,
                model::ValkeyPlan::Durable => ValkeyPlan::Durable,
            };
            (EngineKind::Valkey, Some(plan))
        }
    }
}

/// What of one can be restored.
pub(crate) fn wire_kept(found: KeptOfValkey) -> ValkeyBackups {
    let wire = |log: model::KeptLog| ValkeyLog {
        number: log.number,
        from: log.from,
        until: log.until,
        bytes: log.bytes.get(),
    };
    ValkeyBackups {
        from: found.window.map(|(from, _)| from),
        until: found.window.map(|(_, until)| until),
        kept: found.kept.into_iter().map(wire).collect(),
    }
}
