//! Promoting: a restored database takes the place of the one it is of. Asking for it, and what stands in the way; doing it
//! is `reconcile`'s work.

use model::operation::Work;
use model::{Action, Actor, Database, DatabaseId, DatabaseState, Millis, Name, Target, Timestamp};
use store::ReadTx;

use super::backups::answering;
use super::{LIVES, need_active, users_of};
use crate::authorize::{self, EnvPath, Scope};
use crate::operations::{self, Accepted};
use crate::{Control, ControlError};

/// How long the one whose place was taken is kept unless told otherwise.
pub(super) const KEEP: Millis = Millis::seconds(7 * 24 * 3600);

/// Asks for a restored database, the one that is named, to take the place of the one it is of.
///
/// # Errors
/// As the gate's; `State` when it is no restore of that one, does not answer, is used itself, or has done it already;
/// `Invalid` for a time that the other one cannot be kept.
pub fn promote(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    of: &str,
    name: &str,
    keep: Option<Millis>,
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "database.promote", of, |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let keep = keep.unwrap_or(KEEP);
        if !LIVES.contains(&keep) {
            return Err(ControlError::invalid("/keep_s", "between a minute and a year"));
        }
        refuse_done(tx, &scope, name, of)?;
        let old = scope.database(tx, of)?.row;
        let new = scope.database(tx, name)?.row;
        for database in [&new, &old] {
            super::valkey::refuse(
                database,
                "a restored one does not take the place of another",
                "name the restored one in `uses` of the services that are to have it, and deploy: stoa deploy",
            )?;
            refuse_promoted(control, tx, database)?;
            refuse_ending(control, tx, database)?;
        }
        fit(tx, &new, &old)?;
        let work = Work::PromoteDatabase {
            database: new.id,
            of: old.id,
            keep,
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}

/// Says so when it is in that place already, under whichever name it is asked for.
fn refuse_done(tx: &ReadTx, scope: &Scope, name: &str, of: &str) -> Result<(), ControlError> {
    let Some(place) = tx.find::<Database>(&scope.parent(), of)?.map(|found| found.row) else {
        return Ok(());
    };
    let is_same = place.name.as_str() == name || place.id.to_string() == name;
    let is_free = tx.find::<Database>(&scope.parent(), name)?.is_none();
    match &place.promoted {
        Some(promoted) if is_same || (is_free && promoted.was.as_str() == name) => {
            let old = tx.get::<Database>(&promoted.instead_of.to_string())?;
            let next_step = match old.filter(|found| found.row.replaced.is_some()) {
                Some(old) => format!("to go back: stoa db promote {} --of {of}", old.row.name),
                None => format!("see it: stoa db info {of}"),
            };
            Err(ControlError::State {
                message: format!(
                    "{}, which was {}, has been {of} since {}",
                    place.id, promoted.was, promoted.at
                ),
                next_step,
            })
        }
        None if is_same => Err(ControlError::invalid("/name", "it is in its own place")),
        Some(_) | None => Ok(()),
    }
}

/// Whether one may take the place of the other, as the rows tell.
pub(crate) fn fit(tx: &ReadTx, new: &Database, old: &Database) -> Result<(), ControlError> {
    let refuse = |message: String, next_step: String| Err(ControlError::State { message, next_step });
    let restore = format!(
        "restore it: stoa db restore {} --as {0}-before --at TIME",
        old.name
    );
    if new.origin.is_some() {
        let message = format!(
            "{} is a branch: branches run without durability and have no backup",
            new.name
        );
        return refuse(message, restore);
    }
    if root(tx, new)? != root(tx, old)? {
        let message = format!("{} is no restore of {}", new.name, old.name);
        return refuse(message, restore);
    }
    if new.state == DatabaseState::Creating {
        let message = format!("{} is still being restored", new.name);
        return refuse(message, format!("wait for it: stoa db info {}", new.name));
    }
    need_active(new)?;
    // One that does not answer can be replaced all the same: that may be why.
    need_active(old)?;
    if answering(tx, new.id)?.is_none() {
        let message = format!("the server of {} does not answer", new.name);
        return refuse(message, format!("see why: stoa db info {}", new.name));
    }
    if let Some(app) = users_of(tx, new)?.first() {
        let message = format!(
            "{} is used by the release of {app} that serves, and would lose its name",
            new.name
        );
        let next_step = format!(
            "remove {} from `uses` in the stoa.toml of {app} and deploy",
            new.name
        );
        return refuse(message, next_step);
    }
    Ok(())
}

/// The database that began empty, from which one comes by restores.
fn root(tx: &ReadTx, database: &Database) -> Result<DatabaseId, ControlError> {
    let (mut id, mut restored) = (database.id, database.restored.clone());
    while let Some(from) = restored {
        id = from.of;
        restored = tx
            .get::<Database>(&id.to_string())?
            .and_then(|found| found.row.restored);
    }
    Ok(id)
}

/// Until when one has the data of the one whose place it takes, as far as that is known.
pub(crate) fn data_until(new: &Database, old: &Database) -> Option<Timestamp> {
    // Going back: nothing was written to it since the other one came.
    if let Some(replaced) = &new.replaced {
        return Some(replaced.at);
    }
    let restored = new.restored.as_ref().filter(|from| from.of == old.id)?;
    match restored.target {
        Target::Time { at } => Some(at),
        Target::Latest | Target::Lsn { .. } => restored.reached.and_then(|reached| reached.at),
    }
}

/// The name under which the one whose place was taken is kept.
pub(crate) fn kept_name(tx: &ReadTx, old: &Database, now: Timestamp) -> Result<Name, ControlError> {
    stamped_name(tx, old, "replaced", now)
}

/// A name made of that of a database, what becomes of it and when: free, and told apart by the second.
pub(super) fn stamped_name(
    tx: &ReadTx,
    old: &Database,
    what: &str,
    now: Timestamp,
) -> Result<Name, ControlError> {
    let mut at = now;
    loop {
        let name = stamped(&old.name, what, at)?;
        if tx
            .find::<Database>(&old.environment.to_string(), name.as_str())?
            .is_none()
        {
            return Ok(name);
        }
        at = at.plus(Millis::seconds(1));
    }
}

fn stamped(name: &Name, what: &str, at: Timestamp) -> Result<Name, ControlError> {
    /// What is left of a name for the time beside it.
    const ROOM: usize = 14;
    let digits: String = at.to_string().chars().filter(char::is_ascii_digit).collect();
    let (day, time) = (&digits[..8], &digits[8..14]);
    let base = name.as_str().get(..ROOM).unwrap_or(name.as_str());
    let stamped = format!("{}-{what}-{day}-{time}", base.trim_end_matches('-'));
    stamped
        .parse()
        .map_err(|e: model::NameError| ControlError::invalid("/name", e.to_string()))
}

/// Refuses what would end a database that is about to take the place of another one, or to give its own away.
pub(crate) fn refuse_promoted(
    control: &Control,
    tx: &ReadTx,
    database: &Database,
) -> Result<(), ControlError> {
    let is_of_it = |work: &Work| match work {
        Work::PromoteDatabase {
            database: new, of, ..
        }
        | Work::UpgradeDatabase {
            database: new, of, ..
        } => [*new, *of].contains(&database.id),
        _other => false,
    };
    let open = control.open.at(tx)?;
    match open.iter().find(|operation| is_of_it(&operation.work)) {
        None => Ok(()),
        Some(operation) => Err(ControlError::State {
            message: format!("{} is being promoted, upgraded or replaced", database.name),
            next_step: format!("wait for it: stoa op follow {}", operation.id),
        }),
    }
}

pub(super) fn refuse_ending(control: &Control, tx: &ReadTx, database: &Database) -> Result<(), ControlError> {
    let ends_it = |work: &Work| matches!(work, Work::DestroyDatabase { database: id } if *id == database.id);
    let is_ending = control
        .open
        .at(tx)?
        .iter()
        .any(|operation| ends_it(&operation.work));
    match is_ending {
        false => Ok(()),
        true => Err(ControlError::State {
            message: format!("{} is being ended", database.name),
            next_step: "see what there is: stoa db ls".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replaced_has_a_name_that_tells_when() {
        let at = Timestamp::from_ms(1_795_376_400_123);
        for (name, stamped_name) in [
            ("main", "main-replaced-20261122-194000"),
            ("a", "a-replaced-20261122-194000"),
            (
                "a-database-of-a-very-long-name-12345678",
                "a-database-of-replaced-20261122-194000",
            ),
        ] {
            let name: Name = name.parse().expect("a name");
            assert_eq!(
                stamped(&name, "replaced", at).expect("a name").as_str(),
                stamped_name
            );
        }
    }
}
