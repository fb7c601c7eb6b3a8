//! Major versions of PostgreSQL: `stoa db engines`, `stoa db upgrade`.

use api::{DatabaseEngine, UpgradeDatabase};

use crate::args::UpgradeArguments;
use crate::failure::Failure;
use crate::follow;
use crate::output::{self, say};
use crate::session::Session;
use crate::terminal;

/// Puts a database at a later version, once its owner has agreed to the pause.
pub(crate) fn upgrade(session: &Session, wanted: &UpgradeArguments) -> Result<u8, Failure> {
    let (name, to, max_pause) = (&wanted.name, &wanted.to, wanted.max_pause);
    let (client, place) = (&session.client, &session.place);
    client.database(place, name)?;
    let effect = format!(
        "this ends the connections of {name}, which does not answer for some time ({max_pause} at most, or it stays as it is) and is PostgreSQL {to} then"
    );
    terminal::confirm_that(&effect, name, wanted.confirm.as_deref())?;
    let body = UpgradeDatabase {
        version: to.clone(),
        keep_s: wanted.keep.map(|keep| keep.as_ms().div_ceil(1000)),
        max_pause_s: Some(max_pause.as_ms().div_ceil(1000)),
    };
    let operation = client.database_upgrade(place, name, &body)?;
    follow::finish(session, &follow::follow(session, &operation, &wanted.patience)?)
}

/// Lists the versions.
pub(crate) fn show(session: &Session) -> Result<u8, Failure> {
    let all = session.client.database_engines()?;
    if session.json {
        output::json(&all)?;
        return Ok(0);
    }
    output::data(&engines_table(&all))?;
    say(
        "another one: an image called postgres:N with it in /usr/lib/postgresql/N (stoa image pull, import, add)",
    );
    Ok(0)
}

fn engines_table(all: &[DatabaseEngine]) -> String {
    let row = |one: &DatabaseEngine| {
        let image = match &one.image {
            Some(digest) => digest.chars().take(19).collect(),
            None => "made of Debian's packages when it is wanted first".to_owned(),
        };
        let usual = if one.default { "yes" } else { "-" };
        vec![one.version.clone(), usual.to_owned(), image]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    output::table(&["POSTGRESQL", "USUAL", "IMAGE"], &rows)
}
