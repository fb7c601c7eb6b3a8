//! Other major versions: which there are, and asking for one; doing it is `reconcile`'s work.

use model::operation::Work;
use model::{Action, Actor, Database, DatabaseId, DatabaseState, ImageDigest, Millis, Restored, Target};

use super::backups::{answering, refuse_branch};
use super::promote::{KEEP, refuse_ending, refuse_promoted, stamped_name};
use super::{LIVES, is_version, need_active, need_to_be_had, room};
use crate::authorize::{self, EnvPath, Rights};
use crate::operations::{self, Accepted};
use crate::{Control, ControlError};

/// How long a database may not answer unless told otherwise: as long as most programs try again.
const MOST: Millis = Millis::seconds(60);
/// The shortest and the longest time that can be allowed.
const ALLOWED: std::ops::RangeInclusive<Millis> = Millis::seconds(1)..=Millis::seconds(24 * 3600);

/// A major version of PostgreSQL that databases can have here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresVersion {
    /// Which, for example `15`.
    pub version: String,
    /// The image with it; `None` when it is made of Debian's packages as soon as a database wants it.
    pub image: Option<ImageDigest>,
    /// What a database gets that asks for none.
    pub is_usual: bool,
}

/// The major versions that there are, oldest first.
///
/// # Errors
/// As the gate's, and the engine's.
pub fn versions(control: &Control, actor: &Actor) -> Result<Vec<PostgresVersion>, ControlError> {
    control.read(|tx| Rights::of(tx, actor)?.demand_somewhere(Action::Read))?;
    let mut found: Vec<PostgresVersion> = Vec::new();
    for image in control.engine.images()? {
        for name in &image.names {
            if let Some(version) = name.strip_prefix("postgres:").filter(|text| is_version(text)) {
                found.push(PostgresVersion {
                    version: version.to_owned(),
                    image: Some(image.digest.clone()),
                    is_usual: ::databases::can_make(version),
                });
            }
        }
    }
    let usual = ::databases::USUAL_VERSION;
    if !found.iter().any(|one| one.version == usual) {
        found.push(PostgresVersion {
            version: usual.to_owned(),
            image: None,
            is_usual: true,
        });
    }
    found.sort_by_key(|one| one.version.parse::<u32>().unwrap_or(u32::MAX));
    Ok(found)
}

/// What is asked of an upgrade.
#[derive(Debug, Clone)]
pub struct UpgradeWish {
    /// The major version it is to have.
    pub version: String,
    /// How long the one before is kept.
    pub keep: Option<Millis>,
    /// How long it may not answer.
    pub most: Option<Millis>,
}

/// Asks for a database at a later major version, in the place of the one at the former.
///
/// # Errors
/// As the gate's; `Invalid` for a version that is not later or not to be had, and times that cannot be; `State` for a branch,
/// one that does not answer, ends or is replaced, and without room in the storage pool.
pub fn upgrade(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    wish: &UpgradeWish,
) -> Result<Accepted, ControlError> {
    control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        super::valkey::refuse(
            &scope.database(tx, name)?.row,
            "it has no upgrades",
            "make another one of that version and bring the data there: stoa db create COPY --engine valkey --version N",
        )
    })?;
    need_to_be_had(control, &wish.version)?;
    let room = room::seen(control);
    control.mutate(actor, "database.upgrade", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let old = scope.database(tx, name)?.row;
        let (keep, most) = (wish.keep.unwrap_or(KEEP), wish.most.unwrap_or(MOST));
        if !LIVES.contains(&keep) {
            return Err(ControlError::invalid("/keep_s", "between a minute and a year"));
        }
        if !ALLOWED.contains(&most) {
            return Err(ControlError::invalid(
                "/max_pause_s",
                "between a second and a day",
            ));
        }
        refuse_branch(&old)?;
        if let Some(replaced) = &old.replaced {
            return Err(ControlError::State {
                message: format!(
                    "{} is only kept since another one took the place of {}",
                    old.name, replaced.was
                ),
                next_step: format!("to go back: stoa db promote {} --of {}", old.name, replaced.was),
            });
        }
        refuse_promoted(control, tx, &old)?;
        refuse_ending(control, tx, &old)?;
        need_active(&old)?;
        need_later(&old, &wish.version)?;
        if answering(tx, old.id)?.is_none() {
            return Err(ControlError::State {
                message: format!("the server of {} does not answer", old.name),
                next_step: format!("see why: stoa db info {}", old.name),
            });
        }
        room::refuse(room.as_ref(), "an upgrade")?;
        let now = control.now_of(tx);
        let new = Database {
            id: DatabaseId::fresh(),
            name: stamped_name(tx, &old, "upgrade", now)?,
            version: Some(wish.version.clone()),
            image: None,
            created_at: now,
            credentials: Vec::new(),
            state: DatabaseState::Creating,
            full: None,
            restored: Some(Restored {
                of: old.id,
                name: old.name.clone(),
                server: None,
                target: Target::Latest,
                upgraded: old.version.clone(),
                reached: None,
            }),
            paused: None,
            promoted: None,
            replaced: None,
            pooler: None,
            unpooled: None,
            archive: None,
            expires_at: None,
            idle_stop: None,
            asleep: None,
            restarting: None,
            ..old.clone()
        };
        tx.insert(&new)?;
        let work = Work::UpgradeDatabase {
            database: new.id,
            of: old.id,
            keep,
            most,
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}

/// Whether a version is later than that of a database.
pub(super) fn need_later(database: &Database, version: &str) -> Result<(), ControlError> {
    let number = |text: &str| text.parse::<u32>().ok();
    let now = database.version.as_deref().and_then(number);
    if now < number(version) {
        return Ok(());
    }
    let message = format!(
        "{} has PostgreSQL {} already; an upgrade goes to a later one: stoa db engines",
        database.name,
        database.version.as_deref().unwrap_or_default()
    );
    Err(ControlError::invalid("/version", message))
}
