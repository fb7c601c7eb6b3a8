//! Managed databases.

use api::{
    BackupGap, BackupLevel, BranchSource, CreateBranch, CreateDatabase, CreateRestore, DatabaseBackupLevel,
    DatabaseBackups, DatabaseBase, DatabaseCredentials, DatabaseEngine, DatabaseEnginePage, DatabasePage,
    DatabasePooler, DatabasePromoted, DatabaseReplaced, DatabaseRestored, PromoteDatabase, RestoreTarget,
    RestoreWindow, UpdateDatabase, UpgradeDatabase, VolumePage,
};
use control::databases::{self, BranchWish, Change, DatabaseView, UpgradeWish, Wish};
use control::{ControlError, volumes};
use model::{
    Base, Bytes, Commits, Condition, DatabaseState, Level, Lsn, LsnError, Millis, Shape, StorageFull, Target,
    ValkeyPlan,
};

use crate::answer::Reply;
use crate::call::{Call, name};
use crate::pages;
use crate::refusal::Refusal;

pub(crate) fn list(call: &Call) -> Result<Reply, Refusal> {
    let mut all = databases::list(call.control(), call.actor()?, &call.place()?)?;
    if let Some(state) = call.query("state") {
        all.retain(|view| wire(view).state == state);
    }
    let (page, next_page) = pages::cut(call, all, |view| view.database.row.id.to_string())?;
    Reply::ok(&DatabasePage {
        items: page.iter().map(wire).collect(),
        next_page,
    })
}

pub(crate) fn create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateDatabase = call.needed_body()?;
    let name = name(&body.name, "/name")?;
    let wish = Wish {
        engine: crate::valkey::wished(body.engine, body.plan),
        version: body.version,
        size: body.size_bytes.map(Bytes::new),
        memory: body.memory_bytes.map(Bytes::new),
        level: body.backup_level.map(level),
        pooled: body.pooled,
    };
    let (_, accepted) = databases::create(call.control(), call.actor()?, &call.place()?, &name, &wish)?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn view(call: &Call) -> Result<Reply, Refusal> {
    let view = databases::view(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("database")?,
    )?;
    Reply::tagged(200, &wire(&view), view.database.generation)
}

pub(crate) fn update(call: &Call) -> Result<Reply, Refusal> {
    let body: UpdateDatabase = call.needed_body()?;
    let view = databases::update(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("database")?,
        Change {
            level: body.backup_level.map(level),
            pooled: body.pooled,
        },
        call.expected,
    )?;
    Reply::tagged(200, &wire(&view), view.database.generation)
}

fn level(level: BackupLevel) -> Level {
    match level {
        BackupLevel::Stream => Level::Stream,
        BackupLevel::Sync => Level::Sync,
    }
}

/// Where its pooler stands; nothing when it is to have none and has none.
fn wire_pooler(view: &DatabaseView) -> Option<DatabasePooler> {
    let database = &view.database.row;
    let (state, why) = match (
        database.pooled,
        &database.pooler,
        view.pooler.as_ref().map(|one| &one.condition),
    ) {
        (false, None, None) => return None,
        (false, _, _) => ("ending", None),
        (true, None, _) if database.unpooled.is_some() => ("failed", database.unpooled.clone()),
        (true, None, _) => ("preparing", None),
        (true, Some(_), Some(Condition::Ready { .. })) => ("ready", None),
        (true, Some(_), Some(Condition::Unready { why, .. })) => ("failed", Some(why.clone())),
        (
            true,
            Some(_),
            Some(
                Condition::Starting { .. }
                | Condition::Draining { .. }
                | Condition::Stopping { .. }
                | Condition::Exited { .. },
            )
            | None,
        ) => ("starting", None),
    };
    Some(DatabasePooler {
        state: state.to_owned(),
        why,
        host: format!("pool.{}.db.internal", database.name),
        version: database.pooler.as_ref().map(|pooler| pooler.version.clone()),
        sessions: databases::pooled_sessions(database),
    })
}

/// What is asked for, and what is true now.
fn wire_level(database: &model::Database) -> Option<DatabaseBackupLevel> {
    if database.engine.valkey().is_some() {
        return None;
    }
    let commits = match (&database.origin, &database.archive) {
        (Some(_), _) => return None,
        (None, Some(archive)) => archive.commits,
        (None, None) => Commits::Free,
    };
    let asked = match database.level {
        Level::Stream => BackupLevel::Stream,
        Level::Sync => BackupLevel::Sync,
    };
    let (effective, since) = match commits {
        Commits::Free => (BackupLevel::Stream, None),
        Commits::Held { since } => (BackupLevel::Sync, Some(since)),
        Commits::Released { since } => (BackupLevel::Stream, Some(since)),
    };
    let why = match (database.level, commits) {
        (Level::Sync, Commits::Released { .. }) => {
            Some("what it commits is not received: commits no longer wait for that, and may be lost")
        }
        (Level::Sync, Commits::Free) => Some("its receiver has not caught up yet"),
        (Level::Stream, Commits::Held { .. }) => Some("its server is being told"),
        (Level::Sync, Commits::Held { .. }) | (Level::Stream, Commits::Free | Commits::Released { .. }) => {
            None
        }
    };
    Some(DatabaseBackupLevel {
        level: asked,
        effective,
        since,
        why: why.map(str::to_owned),
    })
}

pub(crate) fn delete(call: &Call) -> Result<Reply, Refusal> {
    let database = call.parameter("database")?;
    let accepted = databases::destroy(
        call.control(),
        call.actor()?,
        &call.place()?,
        database,
        call.expected,
    )?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn rotate(call: &Call) -> Result<Reply, Refusal> {
    let accepted = databases::rotate(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("database")?,
    )?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn restart(call: &Call) -> Result<Reply, Refusal> {
    let (place, database) = (call.place()?, call.parameter("database")?);
    let accepted = databases::restart(call.control(), call.actor()?, &place, database)?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn branch(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateBranch = call.needed_body()?;
    let wish = BranchWish {
        name: name(&body.name, "/name")?,
        source: match body.from {
            None | Some(BranchSource::Live {}) => model::BranchSource::Live,
            Some(BranchSource::Drilled {}) => model::BranchSource::Drilled,
            Some(BranchSource::Backup { at }) => model::BranchSource::Backup { at },
        },
        shape: Shape {
            is_schema_only: body.schema_only,
            mask: body.mask,
            version: body.version,
        },
        lives: body.ttl_s.map(Millis::seconds),
        idle_stop: body.idle_stop_s.map_or(databases::IDLE_STOP, Millis::seconds),
    };
    let (place, database) = (call.place()?, call.parameter("database")?);
    let accepted = databases::branch(call.control(), call.actor()?, &place, database, &wish)?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn reset(call: &Call) -> Result<Reply, Refusal> {
    let database = call.parameter("database")?;
    let accepted = databases::reset(call.control(), call.actor()?, &call.place()?, database)?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn backups(call: &Call) -> Result<Reply, Refusal> {
    let database = call.parameter("database")?;
    let found = databases::backups(call.control(), call.actor()?, &call.place()?, database)?;
    Reply::ok(&DatabaseBackups {
        receiving: found.is_receiving,
        windows: windows(&found.windows),
        bases: bases(&found.bases),
        gaps: gaps(&found.gaps),
        wal_bytes: found.wal.get(),
        unreceived_bytes: found.unreceived.map(|late| late.bytes.get()),
        unreceived_since: found.unreceived.and_then(|late| late.since),
        keep_s: found.keep.as_ms() / 1000,
        drilled_at: found.drilled_at,
        elsewhere: crate::elsewhere::of(&found),
        valkey: found.valkey.map(crate::valkey::wire_kept),
    })
}

pub(crate) fn windows(all: &[databases::Window]) -> Vec<RestoreWindow> {
    let wire = |window: &databases::Window| RestoreWindow {
        from: window.from,
        until: window.until,
        from_lsn: window.from_lsn.to_string(),
        until_lsn: window.until_lsn.to_string(),
    };
    all.iter().map(wire).collect()
}

/// Each with whether something can be restored from it.
pub(crate) fn bases(all: &[(Base, bool)]) -> Vec<DatabaseBase> {
    let wire = |(base, is_usable): &(Base, bool)| DatabaseBase {
        number: base.number,
        at: base.at,
        lsn: base.lsn.to_string(),
        usable: *is_usable,
    };
    all.iter().map(wire).collect()
}

pub(crate) fn gaps(all: &[databases::Gap]) -> Vec<BackupGap> {
    let wire = |gap: &databases::Gap| BackupGap {
        after: gap.after.to_string(),
        before: gap.before.to_string(),
        since: gap.since,
    };
    all.iter().map(wire).collect()
}

pub(crate) fn backup(call: &Call) -> Result<Reply, Refusal> {
    let database = call.parameter("database")?;
    let accepted = databases::backup(call.control(), call.actor()?, &call.place()?, database)?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn restore(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateRestore = call.needed_body()?;
    let target = target(&body.to)?;
    let accepted = databases::restore(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("database")?,
        &name(&body.name, "/name")?,
        target,
    )?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn promote(call: &Call) -> Result<Reply, Refusal> {
    let body: PromoteDatabase = call.needed_body()?;
    let accepted = databases::promote(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("database")?,
        &body.name,
        body.keep_s.map(Millis::seconds),
    )?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn upgrade(call: &Call) -> Result<Reply, Refusal> {
    let body: UpgradeDatabase = call.needed_body()?;
    let wish = UpgradeWish {
        version: body.version,
        keep: body.keep_s.map(Millis::seconds),
        most: body.max_pause_s.map(Millis::seconds),
    };
    let (place, database) = (call.place()?, call.parameter("database")?);
    let accepted = databases::upgrade(call.control(), call.actor()?, &place, database, &wish)?;
    Reply::accepted(&accepted.operation)
}

pub(crate) fn engines(call: &Call) -> Result<Reply, Refusal> {
    let all = databases::versions(call.control(), call.actor()?)?;
    let (page, next_page) = pages::cut(call, all, |one| one.version.clone())?;
    let items = page.into_iter().map(|one| DatabaseEngine {
        version: one.version,
        image: one.image.map(|digest| digest.to_string()),
        default: one.is_usual,
    });
    Reply::ok(&DatabaseEnginePage {
        items: items.collect(),
        next_page,
    })
}

/// What a restore aims at.
pub(crate) fn target(to: &RestoreTarget) -> Result<Target, Refusal> {
    Ok(match to {
        RestoreTarget::Latest {} => Target::Latest,
        RestoreTarget::Time { at } => Target::Time { at: *at },
        RestoreTarget::Place { lsn } => Target::Lsn { lsn: place(lsn)? },
    })
}

fn place(text: &str) -> Result<Lsn, Refusal> {
    let wrong = |wrong: LsnError| ControlError::invalid("/to/lsn", wrong.to_string());
    Ok(text.parse().map_err(wrong)?)
}

pub(crate) fn credentials(call: &Call) -> Result<Reply, Refusal> {
    let found = databases::connection(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("database")?,
    )?;
    let broken = || Refusal::internal("a password that is no text");
    let url = found.url().expose_str().ok_or_else(broken)?.to_owned();
    let direct = found.direct_url().expose_str().ok_or_else(broken)?.to_owned();
    let password = found.password.expose_str().ok_or_else(broken)?.to_owned();
    // The same names that a service which uses it gets.
    if found.scheme == "redis" {
        return Reply::ok(&DatabaseCredentials {
            variables: [("REDIS_URL".to_owned(), url)].into(),
        });
    }
    let variables = [
        ("DATABASE_URL", url),
        ("DATABASE_URL_DIRECT", direct),
        ("PGHOST", found.host.clone()),
        ("PGPORT", found.port.to_string()),
        ("PGUSER", found.user.clone()),
        ("PGPASSWORD", password),
        ("PGDATABASE", found.database.clone()),
    ];
    Reply::ok(&DatabaseCredentials {
        variables: variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    })
}

pub(crate) fn volume_list(call: &Call) -> Result<Reply, Refusal> {
    let all = volumes::list(call.control(), call.actor()?, &call.place()?)?;
    let (page, next_page) = pages::cut(call, all, |volume| volume.name.clone())?;
    // Counted for this page only: it walks through all files.
    let measure = |volume| Ok(wire_volume(volumes::measured(call.control(), volume)?));
    let items: Result<_, Refusal> = page.into_iter().map(measure).collect();
    Reply::ok(&VolumePage {
        items: items?,
        next_page,
    })
}

pub(crate) fn volume_view(call: &Call) -> Result<Reply, Refusal> {
    let volume = call.parameter("volume")?;
    let found = volumes::view(call.control(), call.actor()?, &call.place()?, volume)?;
    Reply::ok(&wire_volume(found))
}

fn wire_volume(volume: volumes::VolumeView) -> api::Volume {
    api::Volume {
        name: volume.name,
        database: volume.database,
        bytes: volume.bytes,
        size_bytes: volume.size,
        purge_at: volume.purge_at,
    }
}

fn wire(view: &DatabaseView) -> api::Database {
    let database = &view.database.row;
    let (state, why, purge_at, volume) = match &database.state {
        DatabaseState::Creating => ("creating", None, None, None),
        DatabaseState::Active => ("active", None, None, None),
        DatabaseState::Failed { why } => ("failed", Some(why.clone()), None, None),
        DatabaseState::Destroyed { purge_at, volume } => {
            ("destroyed", None, Some(*purge_at), Some(volume.clone()))
        }
    };
    let (engine, plan) = crate::valkey::wire(&database.engine);
    let is_ready = |condition: &Condition| matches!(condition, Condition::Ready { .. });
    api::Database {
        id: database.id.to_string(),
        name: database.name.to_string(),
        state: state.to_owned(),
        why,
        ready: view
            .instance
            .as_ref()
            .is_some_and(|instance| is_ready(&instance.condition)),
        paused_by: database.paused.map(|operation| operation.to_string()),
        host: format!("{}.db.internal", database.name),
        engine,
        plan,
        version: database.version.clone(),
        size_bytes: database.size.get(),
        used_bytes: view.used.map(Bytes::get),
        storage_full: database.full.map(|full| {
            match full {
                StorageFull::Budget => "budget",
                StorageFull::Pool => "pool",
            }
            .to_owned()
        }),
        memory_bytes: database.resources.memory.get(),
        credential_version: database
            .credentials
            .last()
            .map_or(0, |credential| credential.version),
        used_by: view.used_by.iter().map(ToString::to_string).collect(),
        branch_of: database.origin.as_ref().map(|origin| api::DatabaseOrigin {
            database: origin.name.to_string(),
            at: origin.at,
            lsn: origin.lsn.clone(),
            from: match origin.source {
                model::BranchSource::Live => BranchSource::Live {},
                model::BranchSource::Drilled => BranchSource::Drilled {},
                model::BranchSource::Backup { at } => BranchSource::Backup { at },
            },
            masked: origin.shape.mask.is_some(),
            schema_only: origin.shape.is_schema_only,
            version: origin.shape.version.clone(),
        }),
        branches: view.branches.iter().map(ToString::to_string).collect(),
        restored_from: database.restored.as_ref().map(|restored| DatabaseRestored {
            database: restored.name.to_string(),
            backup_server: restored.server.clone(),
            target: restored.target.to_string(),
            upgraded_from: restored.upgraded.clone(),
            at: restored.reached.and_then(|reached| reached.at),
            // The log of a Valkey has no places.
            lsn: restored
                .reached
                .filter(|_| database.engine.valkey().is_none())
                .map(|reached| reached.lsn.to_string()),
        }),
        promoted: database.promoted.as_ref().map(|promoted| DatabasePromoted {
            was: promoted.was.to_string(),
            instead_of: promoted.instead_of.to_string(),
            at: promoted.at,
        }),
        replaced: database.replaced.as_ref().map(|replaced| DatabaseReplaced {
            was: replaced.was.to_string(),
            by: replaced.by.to_string(),
            at: replaced.at,
            data_until: replaced.data_until,
        }),
        protection: view.proof.local.as_ref().map(crate::drills::wire_protection),
        target_protection: view.proof.target.as_ref().map(crate::drills::wire_protection),
        backup_level: wire_level(database),
        pooler: wire_pooler(view),
        backup_behind_since: database
            .archive
            .as_ref()
            .and_then(|archive| archive.behind)
            .map(|behind| behind.since),
        durable: match &database.engine {
            model::DatabaseEngine::Postgres => database.origin.is_none(),
            model::DatabaseEngine::Valkey(valkey) => valkey.plan == ValkeyPlan::Durable,
        },
        expires_at: database.expires_at,
        idle_stop_s: database.idle_stop.map(|idle| idle.as_ms() / 1000),
        asleep_since: database
            .asleep
            .filter(|asleep| asleep.is_stopped)
            .map(|asleep| asleep.since),
        generation: view.database.generation,
        created_at: database.created_at,
        purge_at,
        volume,
    }
}
