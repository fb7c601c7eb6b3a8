//! The target elsewhere that backups are also written to.

use std::fmt::Write as _;

use api::{
    BackupPlace, CheckBackupKey, DatabaseElsewhere, PutBackupTarget, RestoreFromTarget, SetBackupTarget,
    TargetDatabase, TargetDatabasePage,
};
use control::databases::Backups;
use control::elsewhere::{self, KeptDatabase, TargetView, TargetWish};
use control::{Control, Secret};
use model::{TargetPlace, Timestamp};

use crate::answer::Reply;
use crate::call::{Call, name};
use crate::databases::{bases, gaps, target, windows};
use crate::pages;
use crate::refusal::Refusal;

pub(crate) fn view(call: &Call) -> Result<Reply, Refusal> {
    let view = elsewhere::view(call.control(), call.actor()?)?;
    Reply::tagged(200, &wire(&view), view.target.generation)
}

pub(crate) fn put(call: &Call) -> Result<Reply, Refusal> {
    let body: PutBackupTarget = call.needed_body()?;
    let wish = TargetWish {
        place: match body.place {
            BackupPlace::Directory { path } => TargetPlace::Directory { path },
            BackupPlace::S3 {
                endpoint,
                bucket,
                region,
                prefix,
                access_key,
            } => TargetPlace::S3 {
                endpoint,
                bucket,
                region,
                prefix,
                access_key,
            },
        },
        secret: body.secret_key.map(Secret::from),
        key: body.backup_key.map(Secret::from),
    };
    let set = elsewhere::set(call.control(), call.actor()?, &wish, call.expected)?;
    let key = set.key.as_ref().and_then(Secret::expose_str);
    let answer = SetBackupTarget {
        target: wire(&set.view),
        backup_key: key.map(str::to_owned),
    };
    Reply::tagged(200, &answer, set.view.target.generation)
}

pub(crate) fn delete(call: &Call) -> Result<Reply, Refusal> {
    elsewhere::remove(call.control(), call.actor()?, call.expected)?;
    Ok(Reply::Empty)
}

pub(crate) fn check_key(call: &Call) -> Result<Reply, Refusal> {
    let body: CheckBackupKey = call.needed_body()?;
    let key = Secret::from(body.backup_key);
    Reply::ok(&wire(&elsewhere::check_key(call.control(), call.actor()?, &key)?))
}

pub(crate) fn verify(call: &Call) -> Result<Reply, Refusal> {
    Reply::accepted(&elsewhere::verify(call.control(), call.actor()?)?.operation)
}

pub(crate) fn list(call: &Call) -> Result<Reply, Refusal> {
    let all = elsewhere::kept(call.control(), call.actor()?)?;
    let (page, next_page) = pages::cut(call, all, |one| format!("{}/{}", one.server, one.id))?;
    Reply::ok(&TargetDatabasePage {
        items: page.into_iter().map(wire_kept).collect(),
        next_page,
    })
}

pub(crate) fn restore(call: &Call) -> Result<Reply, Refusal> {
    let body: RestoreFromTarget = call.needed_body()?;
    let accepted = elsewhere::restore(
        call.control(),
        call.actor()?,
        &call.place()?,
        (body.backup_server.as_deref(), &body.database),
        &name(&body.name, "/name")?,
        target(&body.to)?,
    )?;
    Reply::accepted(&accepted.operation)
}

/// How far the backup of a database is there.
pub(crate) fn of(backups: &Backups) -> Option<DatabaseElsewhere> {
    let found = backups.elsewhere.as_ref()?;
    Some(DatabaseElsewhere {
        place: found.place.to_string(),
        key_escrowed: found.is_escrowed,
        until: found.progress.until,
        uploaded_at: found.progress.uploaded_at,
        base_at: found.progress.base.map(|(at, _)| at),
        waiting_bytes: found.progress.waiting.get(),
        waiting_since: found.progress.waiting_since,
        upload_error: found.progress.error.clone(),
        stale: found.is_stale,
        protection: found.protection.as_ref().map(crate::drills::wire_protection),
    })
}

/// The same for all of them, in the text form of Prometheus.
pub(crate) fn metrics(control: &Control) -> String {
    let now = Timestamp::now();
    let all = elsewhere::progress(control);
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(usize) -> u64| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (index, (id, ..)) in all.iter().enumerate() {
            let _ = writeln!(text, "{name}{{database=\"{id}\"}} {}", value(index));
        }
    };
    gauge(
        "stoa_backup_target_waiting_bytes",
        "Closed log of a database that is not on the backup target yet.",
        &|index| all[index].1.waiting.get(),
    );
    gauge(
        "stoa_backup_target_waiting_seconds",
        "How long something is not on the backup target that should be.",
        &|index| {
            let since = all[index].1.waiting_since;
            since.map_or(0, |since| now.since(since).as_ms() / 1000)
        },
    );
    gauge(
        "stoa_backup_target_stale",
        "1 when a database has not been up to date on the backup target for two minutes.",
        &|index| u64::from(all[index].2),
    );
    text
}

fn wire(view: &TargetView) -> api::BackupTarget {
    let target = &view.target.row;
    api::BackupTarget {
        place: match target.place.clone() {
            TargetPlace::Directory { path } => BackupPlace::Directory { path },
            TargetPlace::S3 {
                endpoint,
                bucket,
                region,
                prefix,
                access_key,
            } => BackupPlace::S3 {
                endpoint,
                bucket,
                region,
                prefix,
                access_key,
            },
        },
        backup_server: target.server.clone(),
        key_fingerprint: target.fingerprint.clone(),
        key_escrowed_at: target.escrowed_at,
        same_disk: view.is_same_disk,
        since: target.since,
    }
}

fn wire_kept(kept: KeptDatabase) -> TargetDatabase {
    TargetDatabase {
        windows: windows(&kept.windows),
        bases: bases(&kept.bases),
        gaps: gaps(&kept.gaps),
        backup_server: kept.server,
        own: kept.is_own,
        id: kept.id.to_string(),
        name: kept.name.to_string(),
        was_in: kept.place,
        uploaded_at: kept.written_at,
        bytes: kept.bytes.get(),
        problems: kept.problems,
    }
}
