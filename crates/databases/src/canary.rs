//! The canary: a row of ours that is written now and then, so that a restored cluster tells how far it came.
//!
//! Lives here: its table, writing and reading it.
//! Does not live here: when it is written (`control`).
//! Invariants: it lies in a schema of ours in the database `postgres`, never in a user's; a server whose users write nothing
//! gets none, so that an idle database stays idle.

use crate::DatabaseError;
use crate::psql::Psql;

const TABLE: &str = "SET client_min_messages = warning;\n\
     CREATE SCHEMA IF NOT EXISTS stoa;\n\
     CREATE TABLE IF NOT EXISTS stoa.canary (\n\
       one bool PRIMARY KEY DEFAULT true CHECK (one), number bigint NOT NULL, at timestamptz NOT NULL, seen numeric NOT NULL);\n";

/// What was written in all databases but this one, as the server counts.
const WRITTEN: &str = "SELECT coalesce(sum(tup_inserted + tup_updated + tup_deleted), 0) AS seen\n\
     FROM pg_stat_database WHERE datname <> 'postgres'";

const PUT: &str = "ON CONFLICT (one) DO UPDATE SET number = c.number + 1, at = excluded.at, seen = excluded.seen\n\
     RETURNING number;\n";

/// Writes the next canary and returns its number.
///
/// # Errors
/// When the server does not answer soon or refuses.
pub fn write(psql: Psql<'_>) -> Result<u64, DatabaseError> {
    let sql = format!(
        "{TABLE}INSERT INTO stoa.canary AS c (number, at, seen) SELECT 1, clock_timestamp(), seen FROM ({WRITTEN}) w {PUT}"
    );
    number(psql.run_soon("postgres", &sql)?.trim())
}

/// The same if anything was written since the last; its number then.
///
/// # Errors
/// As [`write`].
pub fn write_after_others(psql: Psql<'_>) -> Result<Option<u64>, DatabaseError> {
    // The row is not even looked up for a change where nothing was written: that alone would write.
    let sql = format!(
        "{TABLE}INSERT INTO stoa.canary AS c (number, at, seen) SELECT 1, clock_timestamp(), seen FROM ({WRITTEN}) w\n\
         WHERE NOT EXISTS (SELECT FROM stoa.canary k WHERE k.seen = w.seen) {PUT}"
    );
    let printed = psql.run_soon("postgres", &sql)?;
    match printed.trim() {
        "" => Ok(None),
        text => number(text).map(Some),
    }
}

/// The number of the canary that is there; none in a cluster that never had one.
///
/// # Errors
/// When the server does not answer.
pub fn read(psql: Psql<'_>) -> Result<Option<u64>, DatabaseError> {
    let is_there = psql.run("postgres", "SELECT to_regclass('stoa.canary') IS NOT NULL;\n")?;
    if is_there.trim() != "t" {
        return Ok(None);
    }
    match psql.run("postgres", "SELECT number FROM stoa.canary;\n")?.trim() {
        "" => Ok(None),
        text => number(text).map(Some),
    }
}

fn number(text: &str) -> Result<u64, DatabaseError> {
    text.parse().map_err(|_| DatabaseError::Program {
        program: "psql",
        output: format!("not the number of a canary: {text}"),
    })
}
