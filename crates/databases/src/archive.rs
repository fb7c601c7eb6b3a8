//! The archive of a database: its write-ahead log, received as it is written.
//!
//! Lives here: what the server must know, the receiver as a workload, how far it is, the files of the archive.
//! Does not live here: what is kept and for how long (`plan`), when what happens (`control`).
//! Invariants: the server keeps what was not received, up to a bound, in a slot of its own; what the slot gave up is never
//! hidden: a receiver goes on where its files end, or another stretch begins in another volume.

use std::path::Path;

use engine::{Engine, EngineError, LogQuery, VolumeMount, Workload};
use model::{Bytes, Database, ImageDigest, Instance, Lsn, Resources, SEGMENT_BYTES, Segment, Timestamp};

use crate::DatabaseError;
use crate::cluster::{self, USER, program, surroundings, wal_kept};
use crate::inside::Inside;
use crate::psql::Psql;

/// The slot whose log is kept until it was received.
const SLOT: &str = "stoa_archive";
/// The role that receives. It may replicate and nothing else.
const ROLE: &str = "stoa_archive";
/// Where a stretch is inside of the receiver's instance.
const TARGET: &str = "/var/lib/postgresql/archive";
/// What `pg_receivewal` calls the segment it is at.
pub(crate) const OPEN: &str = ".partial";
/// Says until when everything is in a stretch.
const COMPLETE: &str = "complete";
/// A server that vanished without a word, its network with it, is given up after some 20 s, not after the 15 minutes for
/// which the kernel would send again: `pg_receivewal` itself waits for ever.
const NOTICES_SILENCE: &str =
    "tcp_user_timeout=15000 keepalives_idle=10 keepalives_interval=5 keepalives_count=3";
/// The receiver holds a segment's buffers and little else.
const MEMORY: Bytes = Bytes::mi(64);
/// Lets the receiver in, with its password and only from the environment's network.
const RULE: &str = "host replication stoa_archive 0.0.0.0/0 scram-sha-256\n";
const RULES: &str = "pg_hba.conf";

/// Makes the server ready for a receiver: its role with that password, the rule that lets it in, the bound of what is kept
/// for it, and the slot. Doing it again is fine; the slot stays where it is.
///
/// # Errors
/// When the server refuses or its rules cannot be written.
pub fn prepare(psql: Psql<'_>, volume: &str, size: Bytes, password: &str) -> Result<(), DatabaseError> {
    if password.is_empty() || !password.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(DatabaseError::Program {
            program: "psql",
            output: "the password is not hexadecimal".to_owned(),
        });
    }
    let cluster =
        Inside::cluster(&psql.engine.volume_path(volume)?).map_err(DatabaseError::file("pgdata"))?;
    let_in(&cluster).map_err(DatabaseError::file(RULES))?;
    let kept = wal_kept(size);
    let sql = format!(
        "SELECT 'CREATE ROLE {ROLE}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}')\\gexec\n\
         ALTER ROLE {ROLE} LOGIN REPLICATION NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD '{password}';\n\
         ALTER SYSTEM SET max_slot_wal_keep_size = '{kept}';\n\
         SELECT FROM pg_reload_conf();\n\
         SELECT 'SELECT FROM pg_create_physical_replication_slot(''{SLOT}'', true)'\n\
         WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{SLOT}')\\gexec\n"
    );
    psql.run_soon("postgres", &sql).map(drop)
}

/// A cluster made before has no such rule.
fn let_in(cluster: &Inside) -> std::io::Result<()> {
    let mut rules = String::new();
    std::io::Read::read_to_string(&mut cluster.read(RULES)?, &mut rules)?;
    if rules.contains(RULE) {
        return Ok(());
    }
    if !rules.is_empty() && !rules.ends_with('\n') {
        rules.push('\n');
    }
    rules.push_str(RULE);
    // In one step: a server without its rules does not start.
    cluster.replace(RULES, rules.as_bytes())
}

/// Gives up where the slot was and begins a new stretch at what the server has now.
///
/// # Errors
/// When the server refuses.
pub fn begin_anew(psql: Psql<'_>) -> Result<(), DatabaseError> {
    let sql = format!(
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots\n\
         WHERE slot_name = '{SLOT}' AND active_pid IS NOT NULL;\n\
         SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{SLOT}';\n\
         SELECT FROM pg_create_physical_replication_slot('{SLOT}', true);\n"
    );
    psql.run_soon("postgres", &sql).map(drop)
}

/// The receiver of a database's log into a stretch of its archive.
#[must_use]
pub fn receiver(
    database: &Database,
    version: &str,
    image: &ImageDigest,
    instance: &Instance,
    volume: &str,
    password: &str,
) -> Workload {
    let source = format!(
        "host={}.db.internal port={} user={ROLE} application_name={ROLE} connect_timeout=10 {NOTICES_SILENCE}",
        database.name,
        crate::PORT
    );
    let command = [
        program(version, "pg_receivewal"),
        format!("--directory={TARGET}"),
        format!("--slot={SLOT}"),
        // To the disk at once, and said so at once: the server may drop what was received.
        "--synchronous".to_owned(),
        // What it says that often is what shows that nobody is there any more.
        "--status-interval=5".to_owned(),
        "--no-password".to_owned(),
        format!("--dbname={source}"),
    ];
    let mut env = surroundings(version);
    if let Ok(key) = "PGPASSWORD".parse() {
        env.insert(key, password.to_owned());
    }
    Workload {
        id: instance.id,
        hostname: format!("{}-receiver-{}", database.name, instance.id.short(6)),
        network: database.environment.to_string(),
        image: image.clone(),
        command: command.into(),
        user: Some(USER.to_owned()),
        workdir: Some("/".to_owned()),
        env,
        secrets: Vec::new(),
        resources: Resources {
            memory: MEMORY,
            ..Resources::default()
        },
        uid_range: instance.uid_range,
        volumes: vec![VolumeMount {
            volume: volume.to_owned(),
            target: TARGET.to_owned(),
        }],
        search_domain: "db.internal".to_owned(),
        log_key: receiver_log(database),
        log_label: "receiver".to_owned(),
        probe: None,
        // SIGINT has it finish what it has received and end.
        stop_signal: 2,
    }
}

fn receiver_log(database: &Database) -> String {
    format!("{}/receiver", database.id)
}

/// What the server says of its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// What lies before is on the server's disk.
    pub written: Lsn,
    /// What lies before was received.
    pub received: Option<Lsn>,
    /// The slot is gone, or what it kept was dropped: something is missing from here on.
    pub is_lost: bool,
    /// A receiver is connected.
    pub is_connected: bool,
}

/// Asks the server how far it is and how far its receiver.
///
/// # Errors
/// When it does not answer.
pub fn look(psql: Psql<'_>) -> Result<Seen, DatabaseError> {
    let sql = format!(
        "SELECT pg_current_wal_flush_lsn(), coalesce(restart_lsn::text, ''), coalesce(wal_status, ''), coalesce(active, false)\n\
         FROM (SELECT 1) one LEFT JOIN pg_replication_slots ON slot_name = '{SLOT}';\n"
    );
    let printed = psql.run_soon("postgres", &sql)?;
    parse_seen(printed.trim()).ok_or_else(|| DatabaseError::Program {
        program: "psql",
        output: format!("not understood: {}", printed.trim()),
    })
}

/// What a commit that is to be received waits for, and whether it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// What lies before is on the server's disk.
    pub written: Lsn,
    /// What lies before was received.
    pub received: Option<Lsn>,
    /// A receiver that has caught up is connected.
    pub is_streaming: bool,
    /// Commits wait for the receiver.
    pub is_held: bool,
    /// The commits that wait for it now: each session with the beginning of its statement.
    pub waiting: Vec<String>,
}

/// Asks the server what its commits wait for.
///
/// # Errors
/// When it does not answer.
pub fn receipt(psql: Psql<'_>) -> Result<Receipt, DatabaseError> {
    let sql = format!(
        "SELECT pg_current_wal_flush_lsn(),\n\
         coalesce((SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = '{SLOT}'), ''),\n\
         EXISTS (SELECT FROM pg_stat_replication WHERE application_name = '{ROLE}' AND state = 'streaming'),\n\
         current_setting('synchronous_standby_names') = '{ROLE}',\n\
         coalesce((SELECT string_agg(pid || '@' || extract(epoch FROM query_start), ' ')\n\
         FROM pg_stat_activity WHERE wait_event = 'SyncRep'), '');\n"
    );
    let printed = psql.run_soon("postgres", &sql)?;
    parse_receipt(printed.trim()).ok_or_else(|| DatabaseError::Program {
        program: "psql",
        output: format!("not understood: {}", printed.trim()),
    })
}

fn parse_receipt(printed: &str) -> Option<Receipt> {
    let fields: Vec<&str> = printed.split('|').collect();
    let [written, received, streaming, held, waiting] = fields[..] else {
        return None;
    };
    Some(Receipt {
        written: written.parse().ok()?,
        received: match received {
            "" => None,
            text => Some(text.parse().ok()?),
        },
        is_streaming: streaming == "t",
        is_held: held == "t",
        waiting: waiting.split_whitespace().map(str::to_owned).collect(),
    })
}

/// Has each commit wait until the receiver has it on its disk. Nobody else needs to be connected for it, and no session is
/// ended.
///
/// # Errors
/// When the server refuses, or does not answer for a while.
pub fn hold_commits(psql: Psql<'_>) -> Result<(), DatabaseError> {
    let sql =
        format!("ALTER SYSTEM SET synchronous_standby_names = '{ROLE}';\nSELECT FROM pg_reload_conf();\n");
    psql.run_soon("postgres", &sql).map(drop)
}

/// Has no commit wait for a receiver any more; those that wait now are done.
///
/// # Errors
/// When the server refuses, or does not answer for a while.
pub fn release_commits(psql: Psql<'_>) -> Result<(), DatabaseError> {
    psql.run_soon("postgres", RELEASE).map(drop)
}

pub(crate) const RELEASE: &str =
    "ALTER SYSTEM RESET synchronous_standby_names;\nSELECT FROM pg_reload_conf();\n";

/// How much of the log a server of that size keeps for a receiver that does not receive.
#[must_use]
pub fn kept(size: Bytes) -> Bytes {
    Bytes::mi(cluster::wal_kept_mi(size))
}

/// The same after a commit that writes out what sessions committed without waiting: everything committed before the call
/// lies before `written`.
///
/// # Errors
/// When it does not answer.
pub fn mark(psql: Psql<'_>) -> Result<Seen, DatabaseError> {
    // A commit of nothing is enough, and it needs no table.
    psql.run_soon(
        "postgres",
        "SET synchronous_commit = local;\nSELECT FROM pg_current_xact_id();\n",
    )?;
    look(psql)
}

fn parse_seen(printed: &str) -> Option<Seen> {
    let mut fields = printed.split('|');
    let (written, received) = (fields.next()?, fields.next()?);
    let (status, active) = (fields.next()?, fields.next()?);
    let received = match received {
        "" => None,
        text => Some(text.parse().ok()?),
    };
    Some(Seen {
        written: written.parse().ok()?,
        received,
        is_lost: received.is_none() || status == "lost",
        is_connected: active == "t",
    })
}

/// Whether the receiver asks for what the server no longer has.
///
/// # Errors
/// When its log cannot be read.
pub fn asks_for_what_is_gone(
    engine: &dyn Engine,
    database: &Database,
    receiver: model::InstanceId,
) -> Result<bool, DatabaseError> {
    let query = LogQuery {
        key: receiver_log(database),
        instance: Some(receiver),
        limit: 5,
        ..LogQuery::default()
    };
    let said = engine.logs(&query)?;
    Ok(said
        .iter()
        .any(|line| line.text.contains("has already been removed")))
}

/// A file of a stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Which segment.
    pub segment: Segment,
    /// It is still being received.
    pub is_open: bool,
    /// Its size.
    pub bytes: u64,
    /// When it was written to last.
    pub written: Timestamp,
}

/// What there is of a stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its segments.
    pub files: Vec<Found>,
    /// Everything that was committed by then, and lies before that place, is in it.
    pub complete: Option<(Timestamp, Lsn)>,
}

/// The segments in a stretch's volume, and until when and where it was seen to be complete.
///
/// # Errors
/// When it cannot be read.
pub fn files(engine: &dyn Engine, volume: &str) -> Result<Content, DatabaseError> {
    let dir = open(engine, volume)?;
    read(&dir).map_err(DatabaseError::file(volume))
}

fn open(engine: &dyn Engine, volume: &str) -> Result<Inside, DatabaseError> {
    Inside::volume(&engine.volume_path(volume)?).map_err(DatabaseError::file(volume))
}

fn read(dir: &Inside) -> std::io::Result<Content> {
    // First: what is said to be complete must lie in what is listed.
    let complete = complete_of(dir)?;
    let mut found = Vec::new();
    for (name, _) in dir.list()? {
        let (stem, is_open) = name
            .strip_suffix(OPEN)
            .map_or((name.as_str(), false), |stem| (stem, true));
        let Ok(segment) = stem.parse::<Segment>() else {
            continue;
        };
        let facts = match dir.read(&name) {
            Ok(file) => file.metadata()?,
            // It was closed or removed meanwhile.
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => match dir.read(stem) {
                Ok(file) => file.metadata()?,
                Err(_) => continue,
            },
            Err(cause) => return Err(cause),
        };
        let since = facts.modified()?.duration_since(std::time::UNIX_EPOCH);
        let written = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        found.push(Found {
            segment,
            is_open,
            bytes: facts.len(),
            written: Timestamp::from_ms(written),
        });
    }
    Ok(Content {
        files: found,
        complete,
    })
}

fn parse_complete(text: &str) -> Option<(Timestamp, Lsn)> {
    let (at, lsn) = text.trim().split_once(' ')?;
    Some((at.parse().ok()?, lsn.parse().ok()?))
}

/// Notes in a stretch that everything is in it that was committed by then and lies before that place. What was noted stays
/// when it reaches further: who looks less often knows less.
///
/// # Errors
/// When it cannot be written.
pub fn note_complete(
    engine: &dyn Engine,
    volume: &str,
    at: Timestamp,
    lsn: Lsn,
) -> Result<(), DatabaseError> {
    let dir = open(engine, volume)?;
    note_in(&dir, at, lsn).map_err(DatabaseError::file(volume))
}

fn note_in(dir: &Inside, at: Timestamp, lsn: Lsn) -> std::io::Result<()> {
    match complete_of(dir)? {
        Some((known_at, known)) if (known, known_at) > (lsn, at) => Ok(()),
        Some(_) | None => dir.replace(COMPLETE, format!("{at} {lsn}\n").as_bytes()),
    }
}

fn complete_of(dir: &Inside) -> std::io::Result<Option<(Timestamp, Lsn)>> {
    let mut text = String::new();
    match dir.read(COMPLETE) {
        Ok(mut file) => {
            std::io::Read::read_to_string(&mut file, &mut text)?;
            Ok(parse_complete(&text))
        }
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Makes a stretch fit to be received into: a segment whose file was being made when its receiver died is begun again.
/// `pg_receivewal` fills a new file with zeros up to its full size before it receives into it, and refuses for good one that
/// is neither empty nor of that size (PostgreSQL 15, `receivelog.c`, `open_walfile`). Nothing was received into it yet. An
/// engine whose volumes have no files here has nothing to mend.
///
/// # Errors
/// When it cannot be read or written.
pub fn mend(engine: &dyn Engine, volume: &str) -> Result<(), DatabaseError> {
    let dir = match engine.volume_path(volume) {
        Err(EngineError::Unsupported(_)) => return Ok(()),
        found => Inside::volume(&found?).map_err(DatabaseError::file(volume))?,
    };
    mend_in(&dir).map_err(DatabaseError::file(volume))
}

fn mend_in(dir: &Inside) -> std::io::Result<()> {
    for found in read(dir)?.files {
        if found.is_open && found.bytes != 0 && found.bytes != SEGMENT_BYTES {
            let file = dir.change(&format!("{}{OPEN}", found.segment))?;
            file.set_len(0)?;
            file.sync_all()?;
        }
    }
    Ok(())
}

/// Removes segments of a stretch; one that is not there is fine.
///
/// # Errors
/// When one cannot be removed.
pub fn remove(engine: &dyn Engine, volume: &str, segments: &[Segment]) -> Result<(), DatabaseError> {
    let dir = open(engine, volume)?;
    let removed = segments
        .iter()
        .try_for_each(|segment| dir.remove(&segment.to_string()));
    removed.map_err(DatabaseError::file(volume))
}

/// Puts the segments `first..=last` of a stretch where the server of a stopped cluster looks for them.
pub(crate) fn supply(
    engine: &dyn Engine,
    stretch: &str,
    cluster: &Path,
    first: Segment,
    last: Segment,
) -> Result<(), DatabaseError> {
    let from = open(engine, stretch)?;
    let to = Inside::cluster(cluster).and_then(|cluster| cluster.below("pg_wal"));
    let to = to.map_err(DatabaseError::file("pg_wal"))?;
    for number in first.number..=last.number {
        let segment = Segment { number, ..first };
        hand_over(&from, &to, &segment.to_string()).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => DatabaseError::Gap { segment },
            _ => DatabaseError::file(&segment.to_string())(cause),
        })?;
    }
    to.sync().map_err(DatabaseError::file("pg_wal"))
}

fn hand_over(from: &Inside, to: &Inside, name: &str) -> std::io::Result<()> {
    let is_absent = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::NotFound;
    let open = match from.read(name) {
        // Not closed yet; or just now.
        Err(cause) if is_absent(&cause) => match from.read(&format!("{name}{OPEN}")) {
            Err(cause) if is_absent(&cause) => from.read(name)?,
            found => found?,
        },
        found => found?,
    };
    to.remove(name)?;
    crate::inside::copy(&open, &to.make(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_is_understood_or_refused() {
        let seen = parse_seen("0/5000060|0/5000000|reserved|t").expect("understood");
        assert_eq!(
            (seen.written.to_string(), seen.is_lost, seen.is_connected),
            ("0/5000060".to_owned(), false, true)
        );
        assert!(parse_seen("0/5000060||lost|f").expect("understood").is_lost);
        assert!(parse_seen("0/5000060|||f").expect("no slot").is_lost);
        for wrong in ["", "0/5000060", "x|0/1|reserved|t", "0/1|x|reserved|t"] {
            assert_eq!(parse_seen(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_stretch_is_read_and_handed_over_with_its_open_end() {
        let root = tempfile::tempdir().expect("a directory");
        let (stretch, volume) = (root.path().join("stretch"), root.path().join("volume"));
        std::fs::create_dir_all(&stretch).expect("made");
        std::fs::create_dir_all(volume.join("pgdata/pg_wal")).expect("made");
        let name = |n: u64| {
            Segment {
                timeline: 1,
                number: n,
            }
            .to_string()
        };
        for (file, text) in [
            (name(3), "three"),
            (format!("{}.partial", name(4)), "four"),
            ("00000002.history".to_owned(), ""),
            ("complete".to_owned(), "2026-11-22T19:40:00.123Z 0/4000060\n"),
        ] {
            std::fs::write(stretch.join(file), text).expect("written");
        }
        let dir = Inside::volume(&stretch).expect("opened");
        let Content {
            files: found,
            complete,
        } = read(&dir).expect("read");
        let seen: Vec<_> = found
            .iter()
            .map(|one| (one.segment.number, one.is_open, one.bytes))
            .collect();
        assert_eq!(seen, [(3, false, 5), (4, true, 4)]);
        let (at, lsn) = complete.expect("complete");
        assert_eq!(
            (at.to_string().as_str(), lsn.to_string().as_str()),
            ("2026-11-22T19:40:00.123Z", "0/4000060")
        );
        let to = Inside::cluster(&volume)
            .and_then(|cluster| cluster.below("pg_wal"))
            .expect("opened");
        // What the base had of it is of an earlier moment.
        std::fs::write(volume.join("pgdata/pg_wal").join(name(3)), "old").expect("written");
        for number in [3, 4] {
            hand_over(&dir, &to, &name(number)).expect("handed over");
        }
        hand_over(&dir, &to, &name(5)).expect_err("not there");
        let read = |n| std::fs::read_to_string(volume.join("pgdata/pg_wal").join(name(n))).expect("read");
        assert_eq!((read(3), read(4)), ("three".to_owned(), "four".to_owned()));
    }

    #[test]
    fn what_was_noted_as_complete_never_goes_back() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = Inside::volume(root.path()).expect("opened");
        let at = |second: u64| Timestamp::from_ms(1_795_376_400_000 + second * 1000);
        let place = |lsn: &str| lsn.parse().expect("a place");
        for (second, lsn, known) in [
            (5, "0/50", (5, "0/50")),
            (4, "0/40", (5, "0/50")),
            (4, "0/50", (5, "0/50")),
            (6, "0/50", (6, "0/50")),
            (7, "0/60", (7, "0/60")),
        ] {
            note_in(&dir, at(second), place(lsn)).expect("noted");
            let expected = Some((at(known.0), place(known.1)));
            assert_eq!(complete_of(&dir).expect("read"), expected);
        }
    }

    #[test]
    fn a_segment_whose_file_was_being_made_is_begun_again() {
        let root = tempfile::tempdir().expect("a directory");
        let name = |n: u64| {
            Segment {
                timeline: 1,
                number: n,
            }
            .to_string()
        };
        let whole = SEGMENT_BYTES;
        let files = [
            (name(3), 4096, 4096),
            (format!("{}{OPEN}", name(4)), whole, whole),
            (format!("{}{OPEN}", name(5)), whole / 2, 0),
            (format!("{}{OPEN}", name(6)), 0, 0),
        ];
        for (file, bytes, _) in &files {
            std::fs::File::create(root.path().join(file))
                .and_then(|made| made.set_len(*bytes))
                .expect("made");
        }
        mend_in(&Inside::volume(root.path()).expect("opened")).expect("mended");
        for (file, _, expected) in &files {
            let bytes = std::fs::metadata(root.path().join(file)).expect("there").len();
            assert_eq!(bytes, *expected, "{file}");
        }
    }

    #[test]
    fn the_rule_is_added_once_and_the_others_stay() {
        let root = tempfile::tempdir().expect("a directory");
        let rules = root.path().join("pgdata/pg_hba.conf");
        std::fs::create_dir_all(root.path().join("pgdata")).expect("made");
        std::fs::write(&rules, "local all postgres peer").expect("written");
        let cluster = Inside::cluster(root.path()).expect("opened");
        let_in(&cluster).expect("let in");
        let_in(&cluster).expect("again");
        let text = std::fs::read_to_string(&rules).expect("read");
        assert_eq!(text, format!("local all postgres peer\n{RULE}"));
    }
}
