//! `stoa audit`: who asked for what.

use api::AuditRow;

use crate::args::AuditCommand;
use crate::failure::{Code, Failure};
use crate::output::{self, say};
use crate::session::Session;

/// Rows of one answer.
const PAGE: u16 = 500;

/// `stoa audit`.
pub(crate) fn audit(session: &Session, command: &AuditCommand) -> Result<u8, Failure> {
    match command {
        AuditCommand::Ls { limit } => list(session, *limit),
        AuditCommand::Verify => verify(session),
        AuditCommand::Export => export(session),
    }
}

fn list(session: &Session, limit: u16) -> Result<u8, Failure> {
    let rows = session.client.audit_page(limit, "")?.items;
    if session.json {
        output::json(&rows)?;
        return Ok(0);
    }
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    output::data(&output::table(
        &["ROW", "WHEN", "WHO", "ASKED FOR", "ON", "DECISION"],
        &cells,
    ))?;
    Ok(0)
}

/// What came of a request is a row of its own that names the first.
fn cells(row: &AuditRow) -> Vec<String> {
    let decision = match (row.completes, &row.outcome) {
        (Some(of), Some(outcome)) => format!("{of}: {outcome}"),
        _ => row.decision.clone(),
    };
    vec![
        row.number.to_string(),
        row.at.to_string(),
        row.actor.clone(),
        row.action.clone(),
        row.object.clone(),
        decision,
    ]
}

fn verify(session: &Session) -> Result<u8, Failure> {
    let found = session.client.audit_verify()?;
    if session.json {
        output::json(&found)?;
        return Ok(u8::from(!found.whole));
    }
    if found.whole {
        let rows = found.records.unwrap_or_default();
        say(&format!("all {rows} rows are as they were written"));
        return Ok(0);
    }
    Err(Failure::new(
        Code::Failed,
        format!(
            "row {} is not as it was written: {}",
            found.first_bad.unwrap_or_default(),
            found.why.unwrap_or_default()
        ),
        "somebody or a fault changed the store: keep a copy of the data directory, and compare with: stoa audit export",
    ))
}

fn export(session: &Session) -> Result<u8, Failure> {
    let mut token = String::new();
    loop {
        let page = session.client.audit_page(PAGE, &token)?;
        for row in &page.items {
            output::json_line(row)?;
        }
        if page.next_page.is_empty() {
            return Ok(0);
        }
        token = page.next_page;
    }
}
