//! `stoa releases` and `stoa rollback`.

use api::Rollback;

use crate::args::{OfApp, RollbackArgs};
use crate::failure::Failure;
use crate::follow;
use crate::output::{self, say};
use crate::project;
use crate::session::Session;

pub(crate) fn list(session: &Session, of: &OfApp) -> Result<u8, Failure> {
    let app = project::app(of)?;
    let releases = session.client.releases(&session.place, &app)?;
    if session.json {
        output::json(&releases)?;
    } else if releases.is_empty() {
        say("no releases yet; next: stoa deploy");
    } else {
        let rows: Vec<Vec<String>> = releases
            .iter()
            .map(|release| {
                let state = if release.serving {
                    "serving"
                } else {
                    &release.state
                };
                let note = release.why.as_deref().unwrap_or(&release.note);
                vec![
                    release.name.clone(),
                    state.to_owned(),
                    output::ago(release.created_at),
                    note.to_owned(),
                ]
            })
            .collect();
        output::data(&output::table(&["RELEASE", "STATE", "MADE", "NOTE"], &rows))?;
    }
    Ok(0)
}

pub(crate) fn rollback(session: &Session, args: &RollbackArgs) -> Result<u8, Failure> {
    let app = project::app(&args.of)?;
    let operation = session
        .client
        .app_rollback(&session.place, &app, &Rollback { to: args.to.clone() })?;
    let operation = follow::follow(session, &operation, &args.patience)?;
    follow::finish(session, &operation)
}
