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

use engine::{Engine, LineSink, LogQuery, Phase};
use model::{ImageDigest, Lsn, Millis, Resources, Segment, Shape, Timestamp};

use crate::cluster;
use crate::control_file::is_segment;
use crate::inside::{self, Inside};
use crate::psql::{self, Psql};
use crate::session::Session;
use crate::shape;
use crate::template::{PROGRAM_LIMIT, Place, identify, temporary, wait_end};
use crate::{DatabaseError, archive};

/// The first checkpoint, the copy and the WAL since the last checkpoint bound it; what takes longer is stuck.
pub(crate) const RECOVERS_WITHIN: Duration = Duration::from_secs(900);
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
/// Statements that were counted, which a server that counts writes at its end.
const COUNTED: &str = "pg_stat_statements.stat";
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
    pub lsn: Lsn,
    /// The segment in which that is.
    pub last: Segment,
    /// The earliest moment to which log that goes on from it can be replayed.
    pub from: Timestamp,
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
    // A whole millisecond later: times are cut to milliseconds.
    let begin = Timestamp::now().plus(Millis::new(1));
    let end = parse_end(&stopped)?;
    let (theirs, ours) = (open(engine, from)?, open(engine, to)?);
    complete(&theirs, &ours, &end).map_err(DatabaseError::file("the copy of the cluster"))?;
    // Its end drops the slot: until here the server kept the segments.
    drop(session);
    Ok(Taken {
        at,
        lsn: end.lsn.parse().map_err(|_| unclear())?,
        last: end.last.parse().map_err(|_| unclear())?,
        from: begin,
    })
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

fn unclear() -> DatabaseError {
    DatabaseError::Program {
        program: "pg_backup_stop",
        output: "its answer is not understood".to_owned(),
    }
}

fn parse_end(printed: &str) -> Result<End, DatabaseError> {
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
    forget_counted(ours)?;
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

fn forget_counted(cluster: &Inside) -> std::io::Result<()> {
    match cluster.below("pg_stat") {
        Ok(directory) => directory.remove(COUNTED),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(cause),
    }
}

/// A copy that is to become a cluster of its own.
pub struct Copy<'a> {
    /// The image it runs from.
    pub image: &'a ImageDigest,
    /// Its major version.
    pub version: &'a str,
    /// Its volume.
    pub volume: &'a str,
    /// Limits of its instance.
    pub resources: Resources,
    /// What is made of it.
    pub shape: &'a Shape,
}

/// Starts a copy for the first time, on no network, until it has recovered; takes from it what belongs to the former
/// cluster; makes of it what is wanted; stops it and gives it an identifier of its own.
///
/// # Errors
/// When it does not recover, or one of the changes is refused; `Mask` when the script is. The volume stays for whoever
/// called.
pub fn settle(engine: &dyn Engine, mut place: Place, copy: &Copy<'_>) -> Result<(), DatabaseError> {
    place.network.clear();
    let start = FirstStart {
        place: &place,
        image: copy.image,
        version: copy.version,
        volume: copy.volume,
        resources: copy.resources,
        command: cluster::alone(copy.version, copy.resources),
        hostname: "copy",
        within: RECOVERS_WITHIN,
        is_wanted: &|| true,
        shape: copy.shape,
    };
    first_start(engine, &start, &|_| {}, |_| Ok(()))
}

/// Gives a clone of a cluster that was settled before, and stopped, an identifier of its own.
///
/// # Errors
/// When its files cannot be written.
pub fn rename_identity(engine: &dyn Engine, volume: &str) -> Result<(), DatabaseError> {
    identify(engine, volume)
}

/// The first start of a copy.
pub(crate) struct FirstStart<'a> {
    pub(crate) place: &'a Place,
    pub(crate) image: &'a ImageDigest,
    pub(crate) version: &'a str,
    pub(crate) volume: &'a str,
    pub(crate) resources: Resources,
    pub(crate) command: Vec<String>,
    pub(crate) hostname: &'static str,
    /// What takes longer is stuck.
    pub(crate) within: Duration,
    /// Whether to go on waiting for it.
    pub(crate) is_wanted: &'a dyn Fn() -> bool,
    /// What is made of it.
    pub(crate) shape: &'a Shape,
}

/// Does it; `tell` asks what is to be known of it, when it has recovered and before anything is changed.
pub(crate) fn first_start<T>(
    engine: &dyn Engine,
    start: &FirstStart<'_>,
    lines: LineSink<'_>,
    tell: impl FnOnce(Psql<'_>) -> Result<T, DatabaseError>,
) -> Result<T, DatabaseError> {
    let words: Vec<&str> = start.command.iter().map(String::as_str).collect();
    let mut workload = temporary(start.place, start.image, start.version, start.volume, &words);
    workload.resources = start.resources;
    start.hostname.clone_into(&mut workload.hostname);
    engine.ensure(&workload)?;
    let id = start.place.id;
    let psql = Psql { engine, instance: id };
    let prepared = recovered(psql, &workload.log_key, start, lines).and_then(|databases| {
        let told = tell(psql)?;
        psql.run("postgres", NO_LOGINS)?;
        // The former one may have been full; this one has a budget of its own.
        psql::write_again(psql)?;
        archive::release_commits(psql)?;
        let databases: Vec<&str> = databases.lines().filter(|name| !name.is_empty()).collect();
        for name in &databases {
            psql.run(&psql::named(name), NOTHING_OUTSIDE)?;
        }
        Ok((told, shape::make(psql, &databases, start.shape)?))
    });
    let stopped = engine.stop(id, PROGRAM_LIMIT);
    let ended = stopped
        .map_err(DatabaseError::from)
        .and_then(|()| wait_end(engine, id, "stopping the copy"));
    let removed = engine.remove(id);
    let (told, log_begins) = prepared?;
    removed?;
    match ended? {
        model::Exit::Code { code: 0 } => {
            let cluster = open(engine, start.volume)?;
            // Whose files have it count has counted the mask script.
            forget_counted(&cluster).map_err(DatabaseError::file(COUNTED))?;
            if let Some(before) = log_begins {
                shape::forget_log(&cluster, before).map_err(DatabaseError::file("pg_wal"))?;
            }
            identify(engine, start.volume).map(|()| told)
        }
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

/// The names of its databases, once it answers. How far it is meanwhile goes to `lines`.
fn recovered(
    psql: Psql<'_>,
    log_key: &str,
    start: &FirstStart<'_>,
    lines: LineSink<'_>,
) -> Result<String, DatabaseError> {
    let begun = Instant::now();
    let mut told = String::new();
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
            Some(Phase::Running { .. }) if begun.elapsed() < start.within && (start.is_wanted)() => {
                if let Some(line) = said(psql, log_key, |line| line.contains("redo in progress"))
                    && line != told
                {
                    lines(&line);
                    told = line;
                }
                // Often while it may be there at any moment; what takes long is not asked all the time.
                std::thread::sleep((begun.elapsed() / 20).clamp(ASKED_AGAIN, ASKED_AT_LEAST));
            }
            Some(Phase::Running { .. }) => return Err(cause),
            Some(Phase::Exited { .. }) | None => {
                // What the server said before it ended says more than that it does not answer.
                let fatal = |line: &str| {
                    (line.contains("FATAL") || line.contains("PANIC")) && !line.contains(REFUSES_OURS)
                };
                return Err(
                    said(psql, log_key, fatal).map_or(cause, |output| DatabaseError::Program {
                        program: "postgres",
                        output,
                    }),
                );
            }
        }
    }
}

/// How soon a server is asked again whether it has recovered, at first and at last.
const ASKED_AGAIN: Duration = Duration::from_millis(20);
const ASKED_AT_LEAST: Duration = Duration::from_millis(500);
/// What it answers to our own asking while it recovers or ends.
const REFUSES_OURS: &str = "the database system is ";

/// The last line of its log that is of a kind.
fn said(psql: Psql<'_>, log_key: &str, is_wanted: impl Fn(&str) -> bool) -> Option<String> {
    let query = LogQuery {
        key: log_key.to_owned(),
        instance: Some(psql.instance),
        limit: 50,
        ..LogQuery::default()
    };
    let lines = psql.engine.logs(&query).unwrap_or_default();
    let found = lines.into_iter().rev().find(|line| is_wanted(&line.text));
    found.map(|line| line.text)
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
        std::fs::create_dir_all(pgdata.join("pg_stat")).expect("made");
        std::fs::write(pgdata.join("pg_stat").join(COUNTED), "SELECT").expect("written");
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
        assert!(!pgdata.join("postmaster.pid").exists() && names("pg_stat").is_empty());
        assert_eq!(
            std::fs::read_to_string(pgdata.join("backup_label")).expect("read"),
            LABEL
        );
    }
}
