//! Branches of a database: `stoa db branch`, and what `stoa db info` says of one.

use api::{BranchSource, CreateBranch, Database};
use model::Millis;

use crate::args::{BranchArguments, BranchFrom};
use crate::failure::Failure;
use crate::follow;
use crate::input;
use crate::session::Session;

/// Makes a branch.
pub(crate) fn branch(session: &Session, wanted: &BranchArguments) -> Result<u8, Failure> {
    let body = CreateBranch {
        name: wanted.branch.to_string(),
        // Rounded up: a span below a second is refused as too short, not taken as none.
        ttl_s: wanted.ttl.map(|ttl| ttl.as_ms().div_ceil(1000)),
        idle_stop_s: Some(wanted.idle_stop.as_seconds()),
        from: Some(match (wanted.at, wanted.from) {
            (Some(at), _) => BranchSource::Backup { at },
            (None, BranchFrom::Live) => BranchSource::Live {},
            (None, BranchFrom::Drilled) => BranchSource::Drilled {},
        }),
        mask: wanted
            .mask
            .as_deref()
            .map(|file| input::text(Some(file), "the mask script"))
            .transpose()?,
        schema_only: wanted.schema_only,
        version: wanted.version.clone(),
    };
    let operation = session
        .client
        .database_branch(&session.place, &wanted.name, &body)?;
    follow::finish(session, &follow::follow(session, &operation, &wanted.patience)?)
}

/// Of what it is a branch, and when it sleeps.
pub(crate) fn rows(database: &Database) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(origin) = &database.branch_of {
        let at = origin
            .at
            .map_or_else(|| "being taken".to_owned(), |at| at.to_string());
        let from = match origin.from {
            BranchSource::Live {} => "as it ran",
            BranchSource::Drilled {} => "out of its last drill",
            BranchSource::Backup { .. } => "out of its backup",
        };
        let version = match &origin.version {
            Some(version) => format!(", upgraded to {version}"),
            None => String::new(),
        };
        let shape = match (origin.schema_only, origin.masked) {
            (false, false) => "",
            (false, true) => ", masked",
            (true, false) => ", without rows",
            (true, true) => ", without rows, masked",
        };
        rows.push((
            "branch",
            format!("of {} as of {at}, {from}{shape}{version}", origin.database),
        ));
    }
    if let Some(idle) = database.idle_stop_s {
        let after = Millis::seconds(idle);
        rows.push((
            "sleeps",
            match database.asleep_since {
                Some(since) => format!("since {since}; it wakes when somebody connects"),
                None => format!("when nobody has used it for {after}"),
            },
        ));
    }
    rows
}
