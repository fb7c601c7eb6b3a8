//! What is made of a copy before anybody can sign in: no rows, or other values in them.
//!
//! Lives here: emptying, the mask script, and the end of everything that still tells what was there before.
//! Does not live here: the instance in which that happens (`branch`).
//! Invariant: what was masked or emptied is neither in a table, nor in an older version of a row, nor in the planner's
//! statistics, nor in the log of the copy.

use std::time::Duration;

use model::{Lsn, Segment, Shape};

use crate::inside::Inside;
use crate::psql::{self, Psql};
use crate::{DATABASE, DatabaseError, OWNER};

/// Empties every table, sequence, materialised view and large object of a database, triggers aside. What an extension
/// brought stays: it is not made by anybody's data, and the extension does not work without.
const EMPTY: &str = r"SET session_replication_role = replica;
SELECT 'TRUNCATE ' || string_agg(format('%I.%I', n.nspname, c.relname), ', ') || ' RESTART IDENTITY CASCADE'
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  HAVING count(*) > 0 \gexec
SELECT format('ALTER SEQUENCE %I.%I RESTART', n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'S' AND c.relpersistence <> 't' \gexec
SELECT format('REFRESH MATERIALIZED VIEW %I.%I WITH NO DATA', n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' \gexec
SELECT format('SELECT lo_unlink(%s)', oid) FROM pg_largeobject_metadata \gexec
";

/// Materialised views are copies of what was masked, and some are made of others: all are emptied, then each is made anew as
/// soon as those are that it is made of.
const REFRESH: &str = r"CREATE TEMP TABLE stoa_views AS SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND c.relispopulated;
SELECT format('REFRESH MATERIALIZED VIEW %s WITH NO DATA', name) FROM stoa_views \gexec
DO $stoa$ DECLARE one record; before bigint; BEGIN
  LOOP
    SELECT count(*) INTO before FROM stoa_views;
    EXIT WHEN before = 0;
    FOR one IN SELECT * FROM stoa_views ORDER BY oid LOOP
      BEGIN
        EXECUTE format('REFRESH MATERIALIZED VIEW %s', one.name);
        DELETE FROM stoa_views WHERE oid = one.oid;
      EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL;
      END;
    END LOOP;
    IF (SELECT count(*) FROM stoa_views) = before THEN
      RAISE EXCEPTION 'materialised views that cannot be made anew: %', (SELECT string_agg(name, ', ') FROM stoa_views);
    END IF;
  END LOOP;
END $stoa$;
";

/// The counters of changed rows say afterwards which tables were changed.
const COUNT_ANEW: &str = "SELECT pg_stat_reset();\n";

/// Older versions of changed rows, and columns that were dropped, go with the files they are in; samples of values lie in the
/// statistics, which the owner of a table can read.
const FORGET: &str = r"SELECT format('VACUUM (FULL) %I.%I', schemaname, relname) FROM pg_stat_all_tables
  WHERE (n_tup_upd + n_tup_del + n_dead_tup > 0
      OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = relid AND attisdropped))
    AND schemaname <> 'pg_toast' AND (schemaname NOT IN ('pg_catalog', 'information_schema') OR relname = 'pg_largeobject') \gexec
DELETE FROM pg_statistic;
DELETE FROM pg_statistic_ext_data;
VACUUM (FULL) pg_statistic;
VACUUM (FULL) pg_statistic_ext_data;
ANALYZE;
";

/// From here on the log holds nothing of before.
const NEW_SEGMENT: &str = "SELECT FROM pg_switch_wal();\nCHECKPOINT;\nSELECT pg_current_wal_lsn();\n";

/// Makes it of a running copy, and says where its log begins that holds nothing of before; nothing when it stays as it is.
pub(crate) fn make(psql: Psql<'_>, databases: &[&str], shape: &Shape) -> Result<Option<Lsn>, DatabaseError> {
    if shape.is_whole() {
        return Ok(None);
    }
    for name in databases {
        psql.run(&psql::named(name), COUNT_ANEW)?;
        if shape.is_schema_only {
            psql.run(&psql::named(name), EMPTY)?;
        }
    }
    if let Some(script) = &shape.mask {
        mask(psql, script)?;
        psql.run(DATABASE, REFRESH)?;
    }
    for name in databases {
        psql.run(&psql::named(name), FORGET)?;
    }
    let printed = psql.run("postgres", NEW_SEGMENT)?;
    let lsn = printed.trim().parse().map_err(|_| DatabaseError::Program {
        program: "psql",
        output: format!("it does not tell where the log is: {}", printed.trim()),
    })?;
    Ok(Some(lsn))
}

/// What takes longer is stuck: a script that waits for itself.
const MASKS_WITHIN: Duration = Duration::from_secs(3600);

/// Runs the script as a whole or not at all, as the owner of the data. What it selects goes nowhere, and the server's log says
/// nothing of it.
fn mask(psql: Psql<'_>, script: &str) -> Result<(), DatabaseError> {
    let mut exec = psql::quiet(DATABASE);
    exec.env = vec![(
        "PGOPTIONS".to_owned(),
        format!(
            "-c default_transaction_read_only=off -c client_min_messages=error -c log_min_messages=panic -c role={OWNER}"
        ),
    )];
    let more = [
        "--single-transaction",
        "--set",
        "VERBOSITY=verbose",
        "--output",
        "/dev/null",
        "--file",
        "-",
    ];
    exec.argv.extend(more.map(str::to_owned));
    let running = psql.engine.exec(psql.instance, &exec)?;
    let said = psql::hear("the mask script", running, script, Some(MASKS_WITHIN))?;
    if said.code == 0 && said.is_heard {
        return Ok(());
    }
    Err(DatabaseError::Mask {
        said: without_values(&said.complaint),
    })
}

/// The error, as psql says it with its code: `psql:<stdin>:3: ERROR:  42703: column "x" does not exist`. Only what is wrong with
/// the statement itself (class 42) is told in words; other messages repeat values.
fn without_values(complaint: &str) -> String {
    const ERROR: &str = "ERROR:  ";
    let Some(line) = complaint.lines().find(|line| line.contains(ERROR)) else {
        return "psql ended without an error of the server".to_owned();
    };
    let (place, error) = line.split_once(ERROR).unwrap_or_default();
    let (code, message) = error.split_once(": ").unwrap_or((error, ""));
    match code.starts_with("42") {
        true => format!("{place}{message} ({code})"),
        false => format!(
            "{place}the error {code} of PostgreSQL; its message may hold values, which the same statement in psql shows"
        ),
    }
}

/// Removes the log before a place from a stopped cluster.
pub(crate) fn forget_log(cluster: &Inside, before: Lsn) -> std::io::Result<()> {
    let wal = cluster.below("pg_wal")?;
    for (name, _) in wal.list()? {
        // Whatever its timeline.
        let is_old = |segment: Segment| segment.end() <= before;
        if name.parse().is_ok_and(is_old) {
            wal.remove(&name)?;
        }
    }
    wal.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_without_values() {
        let of = |text: &str| without_values(text);
        assert_eq!(
            of(
                "psql:<stdin>:3: ERROR:  42703: column \"x\" does not exist\nLINE 1: SELECT x\nLOCATION:  errorMissingColumn"
            ),
            "psql:<stdin>:3: column \"x\" does not exist (42703)"
        );
        for text in [
            "psql:<stdin>:1: ERROR:  22P02: invalid input syntax for type integer: \"ada@x\"\nLOCATION:  pg_strtoint32",
            "psql:<stdin>:1: ERROR:  P0001: ada@x\nCONTEXT:  ada@x",
            "DETAIL:  ada@x",
            "ada@x: ERROR",
            "",
        ] {
            assert!(!of(text).contains("ada@x"), "{text}");
        }
        assert!(of("psql:<stdin>:7: ERROR:  22012: division by zero").contains(":7: the error 22012"));
    }

    #[test]
    fn only_the_log_before_the_place_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = dir.path().join("pgdata/pg_wal");
        std::fs::create_dir_all(wal.join("archive_status")).expect("made");
        let names = [
            "000000010000000000000003",
            "000000020000000000000004",
            "000000020000000000000005",
            "000000020000000000000006",
            "00000002.history",
        ];
        for name in names {
            std::fs::write(wal.join(name), "x").expect("written");
        }
        let cluster = Inside::cluster(dir.path()).expect("opened");
        forget_log(&cluster, "0/5000060".parse().expect("a place")).expect("forgotten");
        let left = cluster
            .below("pg_wal")
            .and_then(|wal| wal.list())
            .expect("listed");
        let left: Vec<&str> = left.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(left, ["00000002.history", names[2], names[3], "archive_status"]);
    }
}
