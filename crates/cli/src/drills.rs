//! `stoa db drills`, and how the state of a backup is told.

use api::{BackupCopy, DatabaseProtection, Drill};

use crate::failure::{Code, Failure};
use crate::output::{self, say};
use crate::session::Session;

/// All of a database, or one of them, or the last.
pub(crate) fn show(session: &Session, name: &str, drill: Option<&str>) -> Result<u8, Failure> {
    let (client, place) = (&session.client, &session.place);
    let Some(drill) = drill else {
        let all = client.database_drills(place, name)?;
        if session.json {
            output::json(&all)?;
        } else if all.is_empty() {
            say(&format!(
                "no drill yet; the first comes by itself, or now: stoa db drill {name}"
            ));
        } else {
            output::data(&table(&all))?;
        }
        return Ok(0);
    };
    let found = match drill {
        "last" => client
            .database_drills(place, name)?
            .into_iter()
            .next()
            .ok_or_else(|| {
                Failure::new(
                    Code::NotFound,
                    format!("there was no drill of {name} yet"),
                    format!("make one: stoa db drill {name}"),
                )
            })?,
        id => client.database_drill_view(place, name, id)?,
    };
    if session.json {
        output::json(&found)?;
    } else {
        output::data(&page(&found))?;
    }
    Ok(0)
}

/// In a cell of a table.
pub(crate) fn protection(protection: Option<&DatabaseProtection>) -> String {
    match protection {
        None => "-".to_owned(),
        Some(protection) if protection.state == "protected" => "protected".to_owned(),
        Some(protection) => format!(
            "UNPROTECTED: {}",
            protection.why.as_deref().unwrap_or("it is not known why")
        ),
    }
}

/// In a line of its own, with what leads on.
pub(crate) fn told(name: &str, copy: BackupCopy, protection: &DatabaseProtection) -> String {
    let (from, option) = match copy {
        BackupCopy::Local => ("", ""),
        BackupCopy::Target => (" from there", " --from-target"),
    };
    match (protection.state.as_str(), protection.drilled_at) {
        ("protected", Some(at)) => format!("protected: a drill brought it back{from}, {}", output::ago(at)),
        _ => format!(
            "{}; see: stoa db drills {name}; next: stoa db drill {name}{option}",
            self::protection(Some(protection))
        ),
    }
}

fn copy(copy: BackupCopy) -> &'static str {
    match copy {
        BackupCopy::Local => "local",
        BackupCopy::Target => "target",
    }
}

pub(crate) fn table(all: &[Drill]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|drill| {
            vec![
                drill.id.clone(),
                copy(drill.copy).to_owned(),
                verdict(drill),
                drill.asked_at.to_string(),
                drill.base.map_or_else(|| "-".to_owned(), |base| base.to_string()),
                output::or_dash(drill.lsn.as_deref()),
                seconds(drill.rto_ms),
                drill.rows.to_string(),
            ]
        })
        .collect();
    output::table(
        &["DRILL", "COPY", "RESULT", "ASKED", "BASE", "UP TO", "RTO", "ROWS"],
        &rows,
    )
}

fn verdict(drill: &Drill) -> String {
    match &drill.failed_check {
        Some(check) => format!("FAILED at {check}"),
        None => drill.state.clone(),
    }
}

fn seconds(ms: Option<u64>) -> String {
    ms.map_or_else(
        || "-".to_owned(),
        |ms| format!("{}.{:03} s", ms / 1000, ms % 1000),
    )
}

pub(crate) fn page(drill: &Drill) -> String {
    let mut rows = vec![
        ("drill", drill.id.clone()),
        (
            "copy",
            drill.place.as_ref().map_or_else(
                || copy(drill.copy).to_owned(),
                |place| format!("{}, {place}", copy(drill.copy)),
            ),
        ),
        ("result", verdict(drill)),
        ("asked", drill.asked_at.to_string()),
    ];
    if let Some(why) = &drill.why {
        rows.push(("why", why.clone()));
    }
    if let (Some(lsn), Some(at)) = (&drill.expected_lsn, drill.expected_at) {
        rows.push(("expected", format!("everything up to {lsn}, as of {at}")));
    }
    if let Some(base) = drill.base {
        rows.push(("base", base.to_string()));
    }
    if let Some(lsn) = &drill.lsn {
        rows.push(("up to", lsn.clone()));
    }
    if let Some(at) = drill.committed_at {
        rows.push(("last commit", at.to_string()));
    }
    rows.push(("rto", seconds(drill.rto_ms)));
    if let Some(bytes) = drill.bytes {
        rows.push(("size", output::size(bytes)));
    }
    rows.push((
        "read",
        format!("{} tables with {} rows", drill.tables, drill.rows),
    ));
    let mut text: String = rows
        .iter()
        .map(|(name, value)| format!("{name:<12}{value}\n"))
        .collect();
    if !drill.checks.is_empty() {
        let checks: Vec<Vec<String>> = drill
            .checks
            .iter()
            .map(|check| {
                let result = match check.result.as_str() {
                    "failed" => "FAILED".to_owned(),
                    result => result.replace('_', " "),
                };
                vec![
                    check.check.clone(),
                    result,
                    seconds(Some(check.took_ms)),
                    check.said.clone(),
                ]
            })
            .collect();
        text.push_str(&format!(
            "\n{}",
            output::table(&["CHECK", "RESULT", "TOOK", "FOUND"], &checks)
        ));
    }
    text
}
