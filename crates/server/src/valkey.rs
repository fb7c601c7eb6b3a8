//! What of a Valkey differs on the wire.

use api::{EngineKind, ValkeyBackups, ValkeyLog, ValkeyPlan};
use control::ControlError;
use control::databases::KeptOfValkey;
use model::{DatabaseEngine, EngineWish};

use crate::refusal::Refusal;

/// What a new database is to be.
pub(crate) fn wished(engine: Option<EngineKind>, plan: Option<ValkeyPlan>) -> Result<EngineWish, Refusal> {
    match (engine.unwrap_or_default(), plan) {
        (EngineKind::Postgres, None) => Ok(EngineWish::Postgres),
        (EngineKind::Postgres, Some(_)) => {
            let why = "only a Valkey has a plan: leave it out, or choose the engine `valkey`";
            Err(ControlError::invalid("/plan", why).into())
        }
        (EngineKind::Valkey, None | Some(ValkeyPlan::Durable)) => {
            Ok(EngineWish::Valkey(model::ValkeyPlan::Durable))
        }
        (EngineKind::Valkey, Some(ValkeyPlan::Cache)) => Ok(EngineWish::Valkey(model::ValkeyPlan::Cache)),
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
