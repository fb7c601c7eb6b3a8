//! `stoa db`.

use api::{
    BackupCopy, BackupLevel, CreateDatabase, CreateDrill, CreateRestore, Database, DatabaseBackupLevel,
    PromoteDatabase, RestoreTarget,
};

use crate::args::DbCommand;
use crate::backups;
use crate::branches;
use crate::drills;
use crate::elsewhere;
use crate::exec;
use crate::failure::Failure;
use crate::follow;
use crate::logs;
use crate::looking;
use crate::output::{self, say};
use crate::pooler;
use crate::session::Session;
use crate::terminal;
use crate::tunnel::{self, Url};
use crate::valkey;
use crate::versions;

pub(crate) fn databases(session: &Session, command: &DbCommand) -> Result<u8, Failure> {
    let (client, place) = (&session.client, &session.place);
    match command {
        DbCommand::Create {
            name,
            engine,
            plan,
            version,
            size,
            memory,
            backup_level,
            pooled,
            patience,
        } => {
            valkey::need_valkey(*engine, *plan)?;
            let body = CreateDatabase {
                name: name.to_string(),
                engine: engine.map(valkey::kind),
                plan: plan.map(valkey::plan),
                version: version.clone(),
                size_bytes: size.map(model::Bytes::get),
                memory_bytes: memory.map(model::Bytes::get),
                backup_level: backup_level.map(pooler::wire_level),
                pooled: pooled.then_some(true),
            };
            let operation = follow::follow(session, &client.database_create(place, &body)?, patience)?;
            let code = follow::finish(session, &operation)?;
            if operation.state.is_settled() && !session.json {
                say(&valkey::after_create(name, *engine));
            }
            Ok(code)
        }
        DbCommand::Connect {
            name,
            no_terminal,
            arguments,
        } => exec::psql(session, name, arguments, *no_terminal),
        DbCommand::Tunnel { name, port, url } => {
            let url = if *url { Url::WithPassword } else { Url::Bare };
            tunnel::tunnel(session, name, *port, url)
        }
        DbCommand::Ls => {
            let all = client.databases(place)?;
            if session.json {
                output::json(&all)?;
            } else if all.is_empty() {
                say("no databases yet; make one: stoa db create main");
            } else {
                output::data(&table(&all))?;
            }
            Ok(0)
        }
        DbCommand::Info { name } => {
            let database = client.database(place, name)?;
            if session.json {
                output::json(&database)?;
            } else {
                output::data(&page(&database))?;
            }
            Ok(0)
        }
        DbCommand::Top {
            name,
            statements: false,
        } => looking::top(session, name),
        DbCommand::Top {
            name,
            statements: true,
        } => looking::statements(session, name),
        DbCommand::Logs { name, lines } => logs::of_database(session, name, lines),
        DbCommand::Settings { name } => looking::settings(session, name),
        DbCommand::Update(wanted) => pooler::update(session, wanted),
        DbCommand::Restart {
            name,
            confirm,
            patience,
        } => pooler::restart(session, name, confirm.as_deref(), patience),
        DbCommand::Url { name } => {
            let credentials = client.database_credentials(place, name)?;
            if session.json {
                output::json(&credentials)?;
            } else {
                let lines: String = credentials
                    .variables
                    .iter()
                    .map(|(key, value)| format!("{key}={value}\n"))
                    .collect();
                output::data(&lines)?;
            }
            Ok(0)
        }
        DbCommand::Rotate { name, patience } => {
            let operation = follow::follow(session, &client.database_rotate(place, name)?, patience)?;
            follow::finish(session, &operation)
        }
        DbCommand::Branch(wanted) => branches::branch(session, wanted),
        DbCommand::Reset {
            name,
            confirm,
            patience,
        } => {
            client.database(place, name)?;
            terminal::confirm("the data of the branch", name, confirm.as_deref())?;
            let operation = follow::follow(session, &client.database_reset(place, name)?, patience)?;
            follow::finish(session, &operation)
        }
        DbCommand::Backup { name, patience } => {
            let operation = follow::follow(session, &client.database_backup(place, name)?, patience)?;
            follow::finish(session, &operation)
        }
        DbCommand::Backups { name: None, .. } => elsewhere::kept(session, None),
        DbCommand::Backups {
            name: Some(name),
            target: true,
        } => elsewhere::kept(session, Some(name)),
        DbCommand::Backups {
            name: Some(name),
            target: false,
        } => {
            let backups = client.database_backups(place, name)?;
            if session.json {
                output::json(&backups)?;
            } else {
                output::data(&match &backups.valkey {
                    Some(kept) => valkey::kept_page(name, kept),
                    None => backups::page(name, &backups),
                })?;
            }
            Ok(0)
        }
        DbCommand::Drill {
            name,
            from_target,
            patience,
        } => {
            let body = CreateDrill {
                copy: match from_target {
                    true => BackupCopy::Target,
                    false => BackupCopy::Local,
                },
            };
            let operation = client.database_drill(place, name, &body)?;
            let operation = follow::follow(session, &operation, patience)?;
            follow::finish(session, &operation)
        }
        DbCommand::Drills { name, drill } => drills::show(session, name, drill.as_deref()),
        DbCommand::Restore {
            name,
            from_target,
            new,
            at,
            lsn,
            latest: _,
            patience,
        } => {
            let to = match (at, lsn) {
                (Some(at), _) => RestoreTarget::Time { at: *at },
                (None, Some(lsn)) => RestoreTarget::Place { lsn: lsn.to_string() },
                (None, None) => RestoreTarget::Latest {},
            };
            if *from_target {
                return elsewhere::restore(session, name, (new, to), patience);
            }
            let body = CreateRestore {
                name: new.to_string(),
                to,
            };
            let operation = client.database_restore(place, name, &body)?;
            follow::finish(session, &follow::follow(session, &operation, patience)?)
        }
        DbCommand::Promote {
            name,
            of,
            keep,
            confirm,
            patience,
        } => {
            // What stands in the way is the server's to say: a name may have moved already.
            if let Ok(new) = client.database(place, name) {
                terminal::confirm_that(&left_behind(&new, of), of, confirm.as_deref())?;
            }
            let body = PromoteDatabase {
                name: name.clone(),
                keep_s: keep.map(|keep| keep.as_ms().div_ceil(1000)),
            };
            let operation = client.database_promote(place, of, &body)?;
            follow::finish(session, &follow::follow(session, &operation, patience)?)
        }
        DbCommand::Upgrade(wanted) => versions::upgrade(session, wanted),
        DbCommand::Engines => versions::show(session),
        DbCommand::Destroy {
            name,
            confirm,
            patience,
        } => {
            client.database(place, name)?;
            terminal::confirm("the database", name, confirm.as_deref())?;
            let operation = follow::follow(session, &client.database_delete(place, name)?, patience)?;
            follow::finish(session, &operation)
        }
    }
}

/// In a cell of a table: what is wrong with its backup first.
fn backup(database: &Database) -> String {
    if let Some(told) = valkey::backup(database) {
        return told.to_owned();
    }
    let mut told = Vec::new();
    if database.backup_behind_since.is_some() {
        told.push("LOG NOT RECEIVED".to_owned());
    }
    if let Some(found) = &database.backup_level
        && (found.level, found.effective) == (BackupLevel::Sync, BackupLevel::Stream)
    {
        told.push("NOT SYNC".to_owned());
    }
    told.push(drills::protection(database.protection.as_ref()));
    told.join("; ")
}

/// In a line of its own, with why and since when.
fn told_level(found: &DatabaseBackupLevel) -> String {
    let name = |level| match level {
        BackupLevel::Stream => {
            "stream: what was committed in the last moments may be missing after a restore"
        }
        BackupLevel::Sync => "sync: each commit waits until the backup has it",
    };
    let since = found
        .since
        .map_or_else(String::new, |since| format!(", since {since}"));
    match &found.why {
        Some(why) if found.level != found.effective => {
            format!(
                "{} is asked for, NOT SO NOW{since}: {why}",
                match found.level {
                    BackupLevel::Stream => "stream",
                    BackupLevel::Sync => "sync",
                }
            )
        }
        Some(_) | None => format!("{}{since}", name(found.level)),
    }
}

/// What promoting does, above all what the new one has not.
pub(crate) fn left_behind(new: &Database, of: &str) -> String {
    let after = match (&new.replaced, &new.restored_from) {
        (Some(replaced), _) => format!("since {}", replaced.at),
        (None, Some(from)) => match from.at {
            Some(at) => format!("after {} (its last commit is of {at})", from.target),
            None => format!("after {}", from.target),
        },
        (None, None) => "since".to_owned(),
    };
    let proof = match &new.protection {
        Some(protection) if protection.state == "unprotected" => "; its own backup is not proven yet",
        Some(_) | None => "",
    };
    format!(
        "this puts {} in the place of {of}: what was written to {of} {after} is not in it, and stays in the one that is kept{proof}",
        new.name
    )
}

pub(crate) fn table(all: &[Database]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|database| {
            vec![
                database.name.clone(),
                state(database).to_owned(),
                valkey::engine(database),
                output::size(database.size_bytes),
                backup(database),
                drills::protection(database.target_protection.as_ref()),
                output::or_dash(Some(&database.used_by.join(", "))),
                database.host.clone(),
            ]
        })
        .collect();
    output::table(
        &[
            "DATABASE",
            "STATE",
            "ENGINE",
            "SIZE",
            "BACKUP",
            "ELSEWHERE",
            "USED BY",
            "HOST",
        ],
        &rows,
    )
}

fn state(database: &Database) -> &str {
    if database.state == "active" && database.asleep_since.is_some() {
        "asleep"
    } else if database.state == "active" && !database.ready {
        "not answering"
    } else if database.state == "active" && database.storage_full.is_some() {
        "full, read only"
    } else {
        &database.state
    }
}

fn room(database: &Database) -> String {
    let size = output::size(database.size_bytes);
    match database.used_bytes {
        Some(used) => format!("{} of {size}", output::size(used)),
        None => size,
    }
}

pub(crate) fn page(database: &Database) -> String {
    let mut rows = vec![
        ("name", database.name.clone()),
        ("state", state(database).to_owned()),
        ("engine", valkey::engine(database)),
        ("host", database.host.clone()),
        ("volume", room(database)),
        ("memory", output::size(database.memory_bytes)),
        ("used by", output::or_dash(Some(&database.used_by.join(", ")))),
        ("login", format!("app_{}", database.credential_version)),
        ("made", output::ago(database.created_at)),
        ("id", database.id.clone()),
    ];
    if let Some(full) = &database.storage_full {
        let (what, next) = match full.as_str() {
            "pool" => (
                "the storage pool has no room left",
                "make room on the server's disk",
            ),
            _ if database.plan.is_some() => ("its volume holds what it may hold", valkey::MAKE_ROOM),
            _ => (
                "its volume holds what it may hold",
                "a larger `size` in stoa.toml and stoa deploy, or delete in psql after SET default_transaction_read_only = off, then VACUUM FULL",
            ),
        };
        rows.insert(2, ("full", format!("{what}: it may only be read; next: {next}")));
    }
    if let Some(operation) = &database.paused_by {
        rows.insert(
            2,
            ("paused", format!("by an operation: stoa op follow {operation}")),
        );
    }
    if let Some(why) = &database.why {
        rows.insert(2, ("why", why.clone()));
    }
    rows.extend(branches::rows(database));
    if let Some(from) = &database.restored_from {
        let reached = match (from.at, &from.lsn) {
            (Some(at), Some(lsn)) => format!("; the last commit in it is of {at}, at {lsn}"),
            (_, Some(lsn)) => format!("; up to {lsn}"),
            (Some(at), None) => format!("; it has what was written before {at}"),
            (None, None) => ", under way".to_owned(),
        };
        rows.push(match &from.upgraded_from {
            Some(version) => (
                "upgraded",
                format!("from {}, PostgreSQL {version}{reached}", from.database),
            ),
            None => (
                "restored",
                format!("from {} as of {}{reached}", from.database, from.target),
            ),
        });
    }
    if let Some(promoted) = &database.promoted {
        rows.push((
            "promoted",
            format!(
                "was {}; in the place of {} since {}",
                promoted.was, promoted.instead_of, promoted.at
            ),
        ));
    }
    if let Some(replaced) = &database.replaced {
        let until = replaced
            .data_until
            .map_or_else(String::new, |until| format!(", which has its data until {until}"));
        rows.push((
            "replaced",
            format!(
                "was {} until {}; now that is {}{until}",
                replaced.was, replaced.at, replaced.by
            ),
        ));
    }
    if let Some(protection) = &database.protection {
        rows.insert(
            2,
            (
                "backup",
                drills::told(&database.name, BackupCopy::Local, protection),
            ),
        );
    }
    if let Some(protection) = &database.target_protection {
        rows.insert(
            3,
            (
                "elsewhere",
                drills::told(&database.name, BackupCopy::Target, protection),
            ),
        );
    }
    if let Some(told) = valkey::backup(database) {
        rows.insert(2, ("backup", told.to_owned()));
    }
    if let Some(level) = &database.backup_level {
        rows.push(("level", told_level(level)));
    }
    rows.extend(
        database
            .pooler
            .iter()
            .map(|found| ("pooler", pooler::told(found))),
    );
    if let Some(since) = database.backup_behind_since {
        rows.insert(
            2,
            (
                "LOG",
                format!(
                    "NOT RECEIVED IN TIME: what was committed after {since} may be missing after a restore; see: stoa db backups {}",
                    database.name
                ),
            ),
        );
    }
    if !database.branches.is_empty() {
        rows.push(("branches", database.branches.join(", ")));
    }
    if !database.durable {
        rows.push(("durability", "off: a power cut may lose it".to_owned()));
    }
    if let Some(at) = database.expires_at {
        rows.push(("ends", at.to_string()));
    }
    if let Some(volume) = &database.volume {
        rows.push(("kept volume", volume.clone()));
    }
    if let Some(purge_at) = database.purge_at {
        rows.push(("removed at", purge_at.to_string()));
    }
    rows.iter()
        .map(|(name, value)| format!("{name:<12}{value}\n"))
        .collect()
}
