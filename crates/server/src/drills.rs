//! Drills of backups.

use api::{BackupCopy, CreateDrill, DatabaseProtection, DrillCheck, DrillPage};
use control::databases::{self, Protection, Which};
use model::drill::{Check, Outcome};
use model::{Bytes, Drill, DrillState, DrilledCopy, Millis};

use crate::answer::Reply;
use crate::call::Call;
use crate::pages;
use crate::refusal::Refusal;

pub(crate) fn list(call: &Call) -> Result<Reply, Refusal> {
    let database = call.parameter("database")?;
    let all = databases::drills(call.control(), call.actor()?, &call.place()?, database)?;
    let (page, next_page) = pages::cut(call, all, |drill| drill.id.to_string())?;
    Reply::ok(&DrillPage {
        items: page.iter().map(wire).collect(),
        next_page,
    })
}

pub(crate) fn create(call: &Call) -> Result<Reply, Refusal> {
    let database = call.parameter("database")?;
    let which = match call.body::<CreateDrill>()?.copy {
        BackupCopy::Local => Which::Local,
        BackupCopy::Target => Which::Target,
    };
    let accepted = databases::drill(call.control(), call.actor()?, &call.place()?, database, which)?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn view(call: &Call) -> Result<Reply, Refusal> {
    let (database, drill) = (call.parameter("database")?, call.parameter("drill")?);
    let found = databases::drill_view(call.control(), call.actor()?, &call.place()?, database, drill)?;
    Reply::ok(&wire(&found))
}

pub(crate) fn wire_protection(protection: &Protection) -> DatabaseProtection {
    let (state, why, drilled_at) = match protection {
        Protection::Protected { at } => ("protected", None, Some(*at)),
        Protection::Unprotected { why } => ("unprotected", Some(why.clone()), None),
    };
    DatabaseProtection {
        state: state.to_owned(),
        why,
        drilled_at,
    }
}

fn wire(drill: &Drill) -> api::Drill {
    let (state, ended_at, why) = match &drill.state {
        DrillState::Running => ("running", None, None),
        DrillState::Passed { at } => ("passed", Some(*at), None),
        DrillState::Failed { at } => ("failed", Some(*at), None),
        DrillState::Undone { at, why } => ("undone", Some(*at), Some(why.clone())),
    };
    let (copy, place) = match &drill.copy {
        DrilledCopy::Local => (BackupCopy::Local, None),
        DrilledCopy::Target { place, .. } => (BackupCopy::Target, Some(place.clone())),
    };
    api::Drill {
        id: drill.id.to_string(),
        copy,
        place,
        state: state.to_owned(),
        why,
        failed_check: drill.failed_check().map(|check| check.kind.as_str().to_owned()),
        operation: drill.operation.to_string(),
        asked_at: drill.asked_at,
        ended_at,
        base: drill.base,
        expected_lsn: drill.expected.as_ref().map(|expected| expected.lsn.to_string()),
        expected_at: drill.expected.as_ref().map(|expected| expected.at),
        lsn: drill.reached.map(|reached| reached.lsn.to_string()),
        committed_at: drill.reached.and_then(|reached| reached.at),
        rto_ms: drill.rto.map(Millis::as_ms),
        bytes: drill.size.map(Bytes::get),
        tables: drill.tables,
        rows: drill.rows,
        checks: drill.checks.iter().map(wire_check).collect(),
    }
}

fn wire_check(check: &Check) -> DrillCheck {
    let result = match check.outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "failed",
        Outcome::LeftOut => "left_out",
    };
    DrillCheck {
        check: check.kind.as_str().to_owned(),
        result: result.to_owned(),
        said: check.said.clone(),
        took_ms: check.took.as_ms(),
    }
}
