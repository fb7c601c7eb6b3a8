//! A copy of a cluster that runs: taken in backup mode, recovered without a network, and made a cluster of its own.
//!
//! Lives here: the copy, its first start, and what of the former cluster it must not keep.
//! Does not live here: rows and names (`control`), sharing blocks (`volume`).
//! Invariants: every row that was committed before the copy was asked for is in it; it never serves with a login, slot,
//! subscription, archive or identifier of the former cluster. Until its first start is over it has another volume name,
//! so that what a crash leaves is never taken for a database.
//!
//! Files of a directory cannot be cloned at one instant on every pool, so the server is put into backup mode: it writes
//! whole pages to its WAL meanwhile, and recovery mends what differs between the files. The WAL of that while is copied
//! after its end; a temporary slot keeps the server from recycling it before.

use std::time::{Duration, Instant};

use engine::{Engine, LogQuery, Phase};
use model::{ImageDigest, Resources, Timestamp};

use crate::DatabaseError;
use crate::cluster;
use crate::control_file::is_segment;
use crate::inside::{self, Inside};
use crate::psql::{self, Psql};
use crate::session::Session;
use crate::template::{PROGRAM_LIMIT, Place, identify, temporary, wait_end};

/// The first checkpoint, the copy and the WAL since the last checkpoint bound it; what takes longer is stuck.
const RECOVERS_WITHIN: Duration = Duration::from_secs(900);
/// Since when the functions of backup mode have the names used here.
const OLDEST: u32 = 15;
/// What of the former server's run means nothing in a copy: who it was, who replicates from it, what waits for its
/// archive. Directories are emptied.
const FILES_LEFT_OUT: [&str; 4] = [
    "postmaster.pid",
    "postmaster.opts",
    "standby.signal",
    "recovery.signal",
];
const CONTENT_LEFT_OUT: [&str; 4] = [
    "pg_replslot",
    "pg_wal/archive_status",
    "pg_stat_tmp",
    "pg_dynshmem",
];

/// Until when a copy holds everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// What was committed by then is in it.
    pub at: Timestamp,
    /// End of the WAL it recovers.
    pub lsn: String,
}

/// Clones the volume `from` of a running cluster to `to`, which a first start must follow.
///
/// # Errors
/// When the server or the pool refuses; nothing of `to` is left then.
pub fn take(source: Psql<'_>, from: &str, to: &str) -> Result<Taken, DatabaseError> {
    let taken = copy_in_backup_mode(source, from, to);
    if taken.is_err() {
        drop(source.engine.remove_volume(to));
    }
    taken
}

fn copy_in_backup_mode(source: Psql<'_>, from: &str, to: &str) -> Result<Taken, DatabaseError> {
    let engine = source.engine;
    let mut session = Session::open(source)?;
    let version = session.ask("SELECT current_setting('server_version_num')::int / 10000;")?;
    if version.trim().parse::<u32>().is_ok_and(|major| major < OLDEST) {
        return Err(DatabaseError::Unfit {
            why: format!(
                "PostgreSQL {} cannot be copied while it runs; {OLDEST} and later can",
                version.trim()
            ),
        });
    }
    let elsewhere = session
        .ask("SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global');")?;
    if elsewhere.trim() != "0" {
        return Err(DatabaseError::Unfit {
            why: "it has tablespaces, which lie outside of its volume; drop them first".to_owned(),
        });
    }
    let slot = "'stoa_copy_' || pg_backend_pid()";
    session.ask(&format!(
        "SET statement_timeout = '{}s';\n\
         SELECT FROM pg_create_physical_replication_slot({slot}, true, true);\n\
         SELECT FROM pg_backup_start('stoa', true);",
        PROGRAM_LIMIT.as_secs()
    ))?;
    engine.clone_volume(from, to)?;
    let at = Timestamp::now();
    let stopped = session.ask("SELECT lsn, pg_walfile_name(lsn), labelfile FROM pg_backup_stop(false);")?;
    let end = parse_end(&stopped)?;
    let (theirs, ours) = (open(engine, from)?, open(engine, to)?);
    complete(&theirs, &ours, &end).map_err(DatabaseError::file("the copy of the cluster"))?;
    // Its end drops the slot: until here the server kept the segments.
    drop(session);
    Ok(Taken { at, lsn: end.lsn })
}

fn open(engine: &dyn Engine, volume: &str) -> Result<Inside, DatabaseError> {
    Inside::cluster(&engine.volume_path(volume)?).map_err(DatabaseError::file("pgdata"))
}

/// What `pg_backup_stop` says.
#[derive(Debug, PartialEq, Eq)]
struct End {
    lsn: String,
    first: String,
    last: String,
    label: String,
}

fn parse_end(printed: &str) -> Result<End, DatabaseError> {
    let unclear = || DatabaseError::Program {
        program: "pg_backup_stop",
        output: "its answer is not understood".to_owned(),
    };
    let mut fields = printed.splitn(3, '|');
    let (Some(lsn), Some(last), Some(label)) = (fields.next(), fields.next(), fields.next()) else {
        return Err(unclear());
    };
    let first = label
        .lines()
        .find_map(|line| line.strip_prefix("START WAL LOCATION: "))
        .and_then(|line| line.split_once("(file "))
        .and_then(|(_, file)| file.strip_suffix(')'))
        .ok_or_else(unclear)?;
    if !is_segment(first) || !is_segment(last) || first > last {
        return Err(unclear());
    }
    Ok(End {
        lsn: lsn.to_owned(),
        first: first.to_owned(),
        last: last.to_owned(),
        label: label.to_owned(),
    })
}

/// Brings the WAL of the copy to what recovery needs and no more, and says where recovery begins.
fn complete(theirs: &Inside, ours: &Inside, end: &End) -> std::io::Result<()> {
    for file in FILES_LEFT_OUT {
        ours.remove(file)?;
    }
    for directory in CONTENT_LEFT_OUT {
        ours.empty(directory)?;
    }
    let (theirs, wal) = (theirs.below("pg_wal")?, ours.below("pg_wal")?);
    for (name, _) in wal.list()? {
        if is_segment(&name) {
            wal.remove(&name)?;
        }
    }
    for (name, _) in theirs.list()? {
        if is_segment(&name) && (end.first.as_str()..=end.last.as_str()).contains(&name.as_str()) {
            inside::copy(&theirs.read(&name)?, &wal.make(&name)?)?;
        }
    }
    wal.sync()?;
    ours.put("backup_label", end.label.as_bytes())?;
    ours.sync()
}

/// Starts a copy for the first time, without a network, until it has recovered; takes from it what belongs to the former
/// cluster; stops it and gives it an identifier of its own.
///
/// # Errors
/// When it does not recover, or one of the changes is refused. The volume stays for whoever called.
pub fn settle(
    engine: &dyn Engine,
    place: &Place,
    image: &ImageDigest,
    version: &str,
    volume: &str,
    resources: Resources,
) -> Result<(), DatabaseError> {
    let command = cluster::alone(version, resources);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut workload = temporary(place, image, version, volume, &words);
    workload.resources = resources;
    workload.hostname = "copy".to_owned();
    engine.ensure(&workload)?;
    let psql = Psql {
        engine,
        instance: place.id,
    };
    let prepared = recovered(psql, &workload.log_key).and_then(|databases| {
        psql.run("postgres", NO_LOGINS)?;
        // The former one may have been full; this one has a budget of its own.
        psql::write_again(psql)?;
        for name in databases.lines().filter(|name| !name.is_empty()) {
            psql.run(&psql::named(name), NOTHING_OUTSIDE)?;
        }
        Ok(())
    });
    let stopped = engine.stop(place.id, PROGRAM_LIMIT);
    let ended = stopped
        .map_err(DatabaseError::from)
        .and_then(|()| wait_end(engine, place.id, "stopping the copy"));
    let removed = engine.remove(place.id);
    prepared?;
    removed?;
    match ended? {
        model::Exit::Code { code: 0 } => identify(engine, volume),
        exit => Err(DatabaseError::Program {
            program: "postgres",
            output: exit.describe(),
        }),
    }
}

/// Nobody of the former cluster signs in; who may is made anew.
const NO_LOGINS: &str = "SELECT format('ALTER ROLE %I NOLOGIN PASSWORD NULL', rolname) \
     FROM pg_roles WHERE rolcanlogin AND rolname <> 'postgres' \\gexec\n\
     ALTER ROLE postgres PASSWORD NULL;\n";

/// What would reach another server, and what would wait for ever for one.
const NOTHING_OUTSIDE: &str = "\
SELECT format('ALTER SUBSCRIPTION %I DISABLE', subname) FROM pg_subscription
 WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \\gexec
SELECT format('ALTER SUBSCRIPTION %I SET (slot_name = NONE)', subname) FROM pg_subscription
 WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \\gexec
SELECT format('DROP SUBSCRIPTION %I', subname) FROM pg_subscription
 WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \\gexec
SELECT format('DROP USER MAPPING FOR %s SERVER %I', CASE umuser WHEN 0 THEN 'PUBLIC' ELSE quote_ident(usename) END, srvname)
 FROM pg_user_mappings \\gexec
SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts WHERE database = current_database() \\gexec
";

/// The names of its databases, once it answers.
fn recovered(psql: Psql<'_>, log_key: &str) -> Result<String, DatabaseError> {
    let until = Instant::now() + RECOVERS_WITHIN;
    loop {
        let asked = psql.run(
            "postgres",
            "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1;",
        );
        let Err(cause) = asked else {
            return asked;
        };
        let seen = psql
            .engine
            .observe()?
            .into_iter()
            .find(|one| one.id == psql.instance);
        match seen.map(|one| one.phase) {
            Some(Phase::Running { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Some(Phase::Running { .. }) => return Err(cause),
            Some(Phase::Exited { .. }) | None => return Err(last_words(psql, log_key, cause)),
        }
    }
}

/// What the server said before it ended says more than that it does not answer.
fn last_words(psql: Psql<'_>, log_key: &str, cause: DatabaseError) -> DatabaseError {
    let query = LogQuery {
        key: log_key.to_owned(),
        instance: Some(psql.instance),
        limit: 20,
        ..LogQuery::default()
    };
    let said = psql.engine.logs(&query).unwrap_or_default();
    let fatal = said
        .iter()
        .rev()
        .find(|line| line.text.contains("FATAL") || line.text.contains("PANIC"));
    match fatal {
        Some(line) => DatabaseError::Program {
            program: "postgres",
            output: line.text.clone(),
        },
        None => cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
                         CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\n";

    #[test]
    fn the_end_of_backup_mode_is_understood_or_refused() {
        let end = parse_end(&format!("0/4000138|000000010000000000000004|{LABEL}")).expect("understood");
        assert_eq!(
            (end.lsn.as_str(), end.first.as_str()),
            ("0/4000138", "000000010000000000000002")
        );
        assert_eq!(
            (end.last.as_str(), end.label.as_str()),
            ("000000010000000000000004", LABEL)
        );
        for wrong in [
            String::new(),
            "0/4000138|000000010000000000000004".to_owned(),
            format!("0/4000138|000000010000000000000001|{LABEL}"),
            format!("0/4000138|../../../../etc/passwd|{LABEL}"),
            "0/4000138|000000010000000000000004|CHECKPOINT LOCATION: 0/2000060\n".to_owned(),
        ] {
            parse_end(&wrong).expect_err(&wrong);
        }
    }

    #[test]
    fn the_copy_has_the_wal_it_needs_and_nothing_of_the_former_run() {
        let segment = |n: u8| format!("0000000100000000000000{n:02}");
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = |name: &str, segments: std::ops::RangeInclusive<u8>, text: &str| {
            let wal = dir.path().join(name).join("pgdata/pg_wal");
            std::fs::create_dir_all(wal.join("archive_status")).expect("made");
            for n in segments {
                std::fs::write(wal.join(segment(n)), format!("{text}{n}")).expect("written");
            }
            Inside::cluster(&dir.path().join(name)).expect("opened")
        };
        // Cloned file by file while the server wrote: the copy's WAL is of an earlier moment.
        let (theirs, ours) = (cluster("theirs", 2..=6, "new"), cluster("ours", 1..=5, "old"));
        let pgdata = dir.path().join("ours/pgdata");
        std::fs::create_dir_all(pgdata.join("pg_replslot/theirs")).expect("made");
        std::fs::write(pgdata.join("pg_replslot/theirs/state"), "1").expect("written");
        std::fs::write(pgdata.join("pg_wal/archive_status/1.ready"), "").expect("written");
        for name in ["postmaster.pid", "pg_wal/00000001.history"] {
            std::fs::write(pgdata.join(name), "1").expect("written");
        }
        let end = End {
            lsn: "0/4".to_owned(),
            first: segment(2),
            last: segment(4),
            label: LABEL.to_owned(),
        };
        complete(&theirs, &ours, &end).expect("completed");
        let names = |at: &str| -> Vec<String> {
            let list = ours.below(at).and_then(|dir| dir.list()).expect("listed");
            list.into_iter().map(|(name, _)| name).collect()
        };
        let wal = [segment(2), segment(3), segment(4)].into_iter();
        let others = ["00000001.history".to_owned(), "archive_status".to_owned()];
        let mut expected: Vec<String> = wal.chain(others).collect();
        expected.sort();
        assert_eq!(names("pg_wal"), expected);
        let newest = std::fs::read_to_string(pgdata.join("pg_wal").join(segment(4))).expect("read");
        assert_eq!(newest, "new4");
        assert!(names("pg_replslot").is_empty() && names("pg_wal/archive_status").is_empty());
        assert!(!pgdata.join("postmaster.pid").exists());
        assert_eq!(
            std::fs::read_to_string(pgdata.join("backup_label")).expect("read"),
            LABEL
        );
    }
}
