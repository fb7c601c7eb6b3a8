//! `stoa server backup-target` and `stoa server backup-key`, as root on the host; what is on the target.

use std::path::Path;

use api::{
    BackupCopy, BackupPlace, BackupTarget, CheckBackupKey, PutBackupTarget, RestoreFromTarget, RestoreTarget,
    TargetDatabase,
};

use crate::args::{BackupKeyCommand, BackupTargetCommand, Globals, Patience};
use crate::drills;
use crate::failure::{Code, Failure};
use crate::follow;
use crate::input;
use crate::output::{self, say};
use crate::session::Session;
use crate::terminal;

/// Where the tools of S3 look for what opens a bucket.
const SECRET_VARIABLE: &str = "AWS_SECRET_ACCESS_KEY";

pub(crate) fn target(globals: &Globals, command: &BackupTargetCommand) -> Result<u8, Failure> {
    match command {
        BackupTargetCommand::Set {
            directory,
            s3,
            bucket,
            region,
            prefix,
            access_key,
            key_file,
            data_dir,
        } => {
            let session = Session::on_host(globals, data_dir)?;
            let (place, secret_key) = match (directory, s3, bucket, access_key) {
                (Some(directory), None, _, _) => {
                    let path = std::path::absolute(directory)
                        .map_err(|cause| Failure::local("could not find the directory", &cause))?;
                    let path = path.to_string_lossy().into_owned();
                    (BackupPlace::Directory { path }, None)
                }
                (None, Some(endpoint), Some(bucket), Some(access_key)) => {
                    let place = BackupPlace::S3 {
                        endpoint: endpoint.clone(),
                        bucket: bucket.clone(),
                        region: region.clone(),
                        prefix: prefix.clone(),
                        access_key: access_key.clone(),
                    };
                    (place, Some(secret_of(access_key)?))
                }
                _ => {
                    return Err(Failure::new(
                        Code::Usage,
                        "an S3 target needs a bucket and an access key",
                        "name them: --s3 ENDPOINT --bucket NAME --access-key ID (or AWS_ACCESS_KEY_ID)",
                    ));
                }
            };
            let body = PutBackupTarget {
                place,
                secret_key,
                backup_key: key_file.as_deref().map(|file| key_from(Some(file))).transpose()?,
            };
            let set = session.client.backup_target_put(&body)?;
            if session.json {
                output::json(&set)?;
                return Ok(0);
            }
            warn(&set.target);
            match &set.backup_key {
                Some(key) => {
                    say(
                        "this is the backup key. It is shown once. Without it nothing on the target can be read:",
                    );
                    say(
                        "keep it away from this machine, then show that you have it: stoa server backup-key check",
                    );
                    output::data(&format!("{key}\n"))?;
                }
                None => output::data(&page(&set.target))?,
            }
            Ok(0)
        }
        BackupTargetCommand::View { data_dir } => {
            let session = Session::on_host(globals, data_dir)?;
            shown(&session, &session.client.backup_target()?)
        }
        BackupTargetCommand::Verify { data_dir, patience } => {
            let session = Session::on_host(globals, data_dir)?;
            let operation = session.client.backup_target_verify()?;
            follow::finish(&session, &follow::follow(&session, &operation, patience)?)
        }
        BackupTargetCommand::Remove { confirm, data_dir } => {
            let session = Session::on_host(globals, data_dir)?;
            let target = session.client.backup_target()?;
            terminal::confirm(
                "the upload to the target with the key",
                &target.key_fingerprint,
                confirm.as_deref(),
            )?;
            session.client.backup_target_delete()?;
            if session.json {
                output::json(&target)?;
            } else {
                say("no backup is written there any more; what is there stays, and opens only with its key");
            }
            Ok(0)
        }
    }
}

pub(crate) fn key(globals: &Globals, command: &BackupKeyCommand) -> Result<u8, Failure> {
    match command {
        BackupKeyCommand::Check { key_file, data_dir } => {
            let session = Session::on_host(globals, data_dir)?;
            let backup_key = key_from(key_file.as_deref())?;
            let target = session.client.backup_key_check(&CheckBackupKey { backup_key })?;
            if !session.json {
                say("this is the key that the backup is sealed with");
            }
            shown(&session, &target)
        }
    }
}

fn shown(session: &Session, target: &BackupTarget) -> Result<u8, Failure> {
    if session.json {
        output::json(target)?;
    } else {
        warn(target);
        output::data(&page(target))?;
    }
    Ok(0)
}

fn warn(target: &BackupTarget) {
    if target.same_disk {
        say("warning: the target is on the disk that the data is on: it is lost with it");
    }
    if let BackupPlace::S3 { endpoint, .. } = &target.place
        && endpoint.starts_with("http://")
    {
        say("warning: requests to the target go unencrypted; what is in the objects is sealed all the same");
    }
}

/// From the environment, from a terminal, or a line on standard input; never an argument, which others see.
fn secret_of(access_key: &str) -> Result<String, Failure> {
    match std::env::var(SECRET_VARIABLE) {
        Ok(secret) if !secret.trim().is_empty() => Ok(secret.trim().to_owned()),
        _ if terminal::is_typed() => {
            terminal::ask_hidden(&format!("Secret key of {access_key} (not shown): "))
        }
        _ => line(None, "the secret key"),
    }
}

fn key_from(file: Option<&Path>) -> Result<String, Failure> {
    match file.filter(|file| *file != Path::new("-")) {
        None if terminal::is_typed() => terminal::ask_hidden("Backup key (not shown): "),
        file => line(file, "the backup key"),
    }
}

fn line(file: Option<&Path>, what: &str) -> Result<String, Failure> {
    Ok(input::text(file, what)?.trim().to_owned())
}

fn page(target: &BackupTarget) -> String {
    let place = match &target.place {
        BackupPlace::Directory { path } => format!("the directory {path}"),
        BackupPlace::S3 {
            endpoint,
            bucket,
            prefix,
            ..
        } => format!(
            "the bucket {bucket} of {endpoint}, prefix {}",
            output::or_dash(Some(prefix))
        ),
    };
    let escrow = match target.key_escrowed_at {
        Some(at) => format!("kept elsewhere, shown {at}"),
        None => "NOT ESCROWED: nobody showed that it is kept elsewhere; next: stoa server backup-key check"
            .to_owned(),
    };
    let rows = [
        ("target", place),
        ("key", format!("{}, {escrow}", target.key_fingerprint)),
        ("writes as", target.backup_server.clone()),
        ("since", target.since.to_string()),
    ];
    rows.iter()
        .map(|(name, value)| format!("{name:<12}{value}\n"))
        .collect()
}

/// What is on the target: of all, or of those of a name or id.
pub(crate) fn kept(session: &Session, name: Option<&str>) -> Result<u8, Failure> {
    let mut all = session.client.target_databases()?;
    if let Some(name) = name {
        all.retain(|one| one.name == name || one.id == name);
        if all.is_empty() {
            return Err(Failure::new(
                Code::NotFound,
                format!("there is no database {name} on the target that its key opens"),
                "see what there is: stoa db backups --target",
            ));
        }
    }
    if session.json {
        output::json(&all)?;
    } else if all.is_empty() {
        say("nothing on the target opens with its key yet");
    } else {
        output::data(&kept_page(&all))?;
    }
    Ok(0)
}

pub(crate) fn kept_page(all: &[TargetDatabase]) -> String {
    let mut text = String::new();
    for one in all {
        let whose = if one.own {
            "this server"
        } else {
            &one.backup_server
        };
        text.push_str(&format!(
            "{} of {}, written by {whose} ({})\n",
            one.name, one.was_in, one.id
        ));
        let mut row = |name: &str, value: String| text.push_str(&format!("  {name:<12}{value}\n"));
        for window in &one.windows {
            row(
                "restorable",
                format!("from {} until {}", window.from, window.until),
            );
        }
        if one.windows.is_empty() {
            row("restorable", "nothing: there is no base with its log".to_owned());
        }
        for gap in &one.gaps {
            row("GAP", format!("after {} until before {}", gap.after, gap.before));
        }
        for problem in &one.problems {
            row("DAMAGED", problem.clone());
        }
        let usable = one.bases.iter().filter(|base| base.usable).count();
        row("holds", format!("{}, {usable} bases", output::size(one.bytes)));
    }
    text.push_str("\nto restore: stoa db restore DATABASE --from-target --as NEW --latest\n");
    text
}

pub(crate) fn restore(
    session: &Session,
    database: &str,
    (new, to): (&model::Name, RestoreTarget),
    patience: &Patience,
) -> Result<u8, Failure> {
    let body = RestoreFromTarget {
        database: database.to_owned(),
        backup_server: None,
        name: new.to_string(),
        to,
    };
    let operation = session
        .client
        .database_restore_from_target(&session.place, &body)?;
    follow::finish(session, &follow::follow(session, &operation, patience)?)
}

/// A line about how far a database is there.
pub(crate) fn told(name: &str, elsewhere: &api::DatabaseElsewhere) -> Vec<(&'static str, String)> {
    let time =
        |at: Option<model::Timestamp>| at.map_or_else(|| "nothing yet".to_owned(), |at| at.to_string());
    let mut rows = vec![(
        if elsewhere.stale { "ELSEWHERE" } else { "elsewhere" },
        format!(
            "{}: everything until {}{}; newest base {}",
            elsewhere.place,
            time(elsewhere.until),
            if elsewhere.stale { ", STALE" } else { "" },
            time(elsewhere.base_at)
        ),
    )];
    if let Some(protection) = &elsewhere.protection {
        rows.push(("", drills::told(name, BackupCopy::Target, protection)));
    }
    // What is being written now always waits a little.
    if let Some(since) = elsewhere
        .waiting_since
        .filter(|_| elsewhere.stale || elsewhere.waiting_bytes > 0)
    {
        rows.push((
            "",
            format!(
                "{} of log wait since {since}",
                output::size(elsewhere.waiting_bytes)
            ),
        ));
    }
    if let Some(error) = &elsewhere.upload_error {
        rows.push(("", format!("the last try failed: {error}")));
    }
    if !elsewhere.key_escrowed {
        rows.push((
            "",
            "its key is NOT ESCROWED; next: stoa server backup-key check".to_owned(),
        ));
    }
    rows
}
