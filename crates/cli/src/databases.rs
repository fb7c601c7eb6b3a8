//! `stoa db`.

use api::{CreateBranch, CreateDatabase, Database};

use crate::args::DbCommand;
use crate::exec;
use crate::failure::Failure;
use crate::follow;
use crate::output::{self, say};
use crate::session::Session;
use crate::terminal;

pub(crate) fn databases(session: &Session, command: &DbCommand) -> Result<u8, Failure> {
    let (client, place) = (&session.client, &session.place);
    match command {
        DbCommand::Create {
            name,
            version,
            size,
            memory,
            patience,
        } => {
            let body = CreateDatabase {
                name: name.to_string(),
                version: version.clone(),
                size_bytes: size.map(model::Bytes::get),
                memory_bytes: memory.map(model::Bytes::get),
            };
            let operation = follow::follow(session, &client.database_create(place, &body)?, patience)?;
            let code = follow::finish(session, &operation)?;
            if operation.state.is_settled() && !session.json {
                say(&format!(
                    "a service that `uses` {name} gets DATABASE_URL with its next release; next: stoa deploy"
                ));
            }
            Ok(code)
        }
        DbCommand::Connect {
            name,
            no_terminal,
            arguments,
        } => exec::psql(session, name, arguments, *no_terminal),
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
        DbCommand::Branch {
            name,
            branch,
            ttl,
            patience,
        } => {
            let body = CreateBranch {
                name: branch.to_string(),
                // Rounded up: a span below a second is refused as too short, not taken as none.
                ttl_s: ttl.map(|ttl| ttl.as_ms().div_ceil(1000)),
            };
            let operation = client.database_branch(place, name, &body)?;
            follow::finish(session, &follow::follow(session, &operation, patience)?)
        }
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

pub(crate) fn table(all: &[Database]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|database| {
            vec![
                database.name.clone(),
                state(database).to_owned(),
                output::or_dash(database.version.as_deref()),
                output::size(database.size_bytes),
                output::or_dash(Some(&database.used_by.join(", "))),
                database.host.clone(),
            ]
        })
        .collect();
    output::table(
        &["DATABASE", "STATE", "POSTGRES", "SIZE", "USED BY", "HOST"],
        &rows,
    )
}

fn state(database: &Database) -> &str {
    if database.state == "active" && !database.ready {
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

fn page(database: &Database) -> String {
    let mut rows = vec![
        ("name", database.name.clone()),
        ("state", state(database).to_owned()),
        ("postgres", output::or_dash(database.version.as_deref())),
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
            _ => (
                "its volume holds what it may hold",
                "a larger `size` in stoa.toml and stoa deploy, or delete in psql after SET default_transaction_read_only = off, then VACUUM FULL",
            ),
        };
        rows.insert(2, ("full", format!("{what}: it may only be read; next: {next}")));
    }
    if let Some(why) = &database.why {
        rows.insert(2, ("why", why.clone()));
    }
    if let Some(origin) = &database.branch_of {
        let at = origin
            .at
            .map_or_else(|| "being taken".to_owned(), |at| at.to_string());
        rows.push(("branch", format!("of {} as of {at}", origin.database)));
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
