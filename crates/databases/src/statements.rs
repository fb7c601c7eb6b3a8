//! What a server has spent its time on: its statements, counted by `pg_stat_statements`.
//!
//! Lives here: which libraries a server loads so that it counts, and asking it.
//! Does not live here: the command of the server (`cluster`), what a copy must not keep (`branch`).
//! Invariants: a server is never told to load what its image lacks, for it would not start. The extension is there only
//! while it is asked: in the way of an upgrade, or in a copy, it would be nobody's. An answer has a bounded size.

use std::io::Read;

use engine::Engine;
use model::{ImageDigest, Timestamp};

use crate::DatabaseError;
use crate::inside::Inside;
use crate::psql::{Psql, fields};

/// The library, and the extension that it is asked with.
const LIBRARY: &str = "pg_stat_statements";
/// A library that every server has: it tells which directory is the one of libraries.
const EVERYWHERE: &str = "plpgsql";
/// Where `ALTER SYSTEM` writes.
const CHANGED_FILE: &str = "postgresql.auto.conf";
/// Far above what `ALTER SYSTEM` ever wrote.
const FILE_MOST: u64 = 1 << 20;
/// Letters of a list of libraries.
const LIST_MAX: usize = 4096;
/// Who looks wants to know where the time goes: that is in the first few.
const MOST: u32 = 50;
/// Letters of a statement: enough to know it by.
const QUERY_MAX: u32 = 500;

/// Whether a server counts its statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counting {
    /// It does, and this is what it counted.
    Counted(Statements),
    /// It could, but was started without the library.
    NotLoaded,
    /// Its image lacks the library.
    NoLibrary,
}

/// What a server has spent its time on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statements {
    /// Since when it counts.
    pub since: Timestamp,
    /// Those that took most time altogether, those first.
    pub statements: Vec<Statement>,
}

/// Statements that differ in their values only, of one user in one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// As whom it was run.
    pub user: String,
    /// In which database.
    pub database: String,
    /// How often.
    pub calls: u64,
    /// How long all of them took.
    pub total_us: u64,
    /// How long one takes.
    pub mean_us: u64,
    /// How long the slowest one took.
    pub max_us: u64,
    /// How many rows all of them gave or changed.
    pub rows: u64,
    /// Blocks that the server had in its memory.
    pub blocks_hit: u64,
    /// Blocks that it had to read.
    pub blocks_read: u64,
    /// The statement without its values, on one line and cut.
    pub query: String,
}

/// What a server must load to count its statements, beside what `ALTER SYSTEM` has it load: the command line is stronger than
/// that. Nothing when its image lacks the library.
///
/// # Errors
/// When the image or the volume cannot be read.
pub fn preload(
    engine: &dyn Engine,
    image: &ImageDigest,
    version: &str,
    volume: &str,
) -> Result<Option<String>, DatabaseError> {
    let has = |directory: &str, library: &str| {
        let path = format!("usr/lib/postgresql/{version}/{directory}/{library}.so");
        engine.image_has(image, &path)
    };
    // A server that was built elsewhere has a directory of its own below.
    for directory in ["lib", "lib/postgresql"] {
        if has(directory, EVERYWHERE)? {
            return match has(directory, LIBRARY)? {
                true => Ok(Some(beside(&changed(engine, volume)?))),
                false => Ok(None),
            };
        }
    }
    Ok(None)
}

/// What `ALTER SYSTEM` wrote.
fn changed(engine: &dyn Engine, volume: &str) -> Result<String, DatabaseError> {
    let path = engine.volume_path(volume)?;
    let read = || -> std::io::Result<String> {
        let cluster = Inside::cluster(&path)?;
        let mut bytes = Vec::new();
        cluster
            .read(CHANGED_FILE)?
            .take(FILE_MOST)
            .read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().map_err(DatabaseError::file(CHANGED_FILE))
}

/// Ours behind theirs. What no server could load is left out.
fn beside(file: &str) -> String {
    let value = |line: &str| {
        let (name, value) = line.split_once('=')?;
        let value = value.trim().strip_prefix('\'')?.strip_suffix('\'')?;
        (name.trim() == "shared_preload_libraries").then(|| value.replace("''", "'"))
    };
    let theirs = file.lines().filter_map(value).next_back().unwrap_or_default();
    let is_fit = theirs.len() <= LIST_MAX && !theirs.contains(char::is_control);
    let is_ours = |name: &str| {
        let name = name.trim().trim_matches('"');
        name.rsplit('/').next() == Some(LIBRARY)
    };
    match theirs.trim() {
        "" => LIBRARY.to_owned(),
        _ if !is_fit => LIBRARY.to_owned(),
        theirs if theirs.split(',').any(is_ours) => theirs.to_owned(),
        theirs => format!("{theirs}, {LIBRARY}"),
    }
}

/// Asks a server what it has spent its time on.
///
/// # Errors
/// When it does not answer in time.
pub fn statements(psql: Psql<'_>) -> Result<Counting, DatabaseError> {
    let printed = psql.run_soon("postgres", &question())?;
    counting(&printed).ok_or_else(|| DatabaseError::Program {
        program: "psql",
        output: format!(
            "not statements: {}",
            printed.chars().take(200).collect::<String>()
        ),
    })
}

fn question() -> String {
    let line = |text: &str, most: u32| {
        format!("regexp_replace(left(coalesce({text}, ''), {most}), '[[:cntrl:]]', ' ', 'g')")
    };
    let us = |ms: &str| format!("({ms} * 1000)::bigint");
    let columns = [
        line("rolname::text", 64),
        line("datname::text", 64),
        "calls".to_owned(),
        us("total_exec_time"),
        us("mean_exec_time"),
        us("max_exec_time"),
        "rows".to_owned(),
        "shared_blks_hit".to_owned(),
        "shared_blks_read".to_owned(),
        line("query", QUERY_MAX),
    ];
    // Somebody may have made it for himself, in a schema of his choice.
    format!(
        "SELECT string_to_array(regexp_replace(current_setting('shared_preload_libraries'), '[\" ]|[^,]*/', '', 'g'), ',') \
           @> ARRAY['{LIBRARY}'] AS is_loaded,\n\
         EXISTS (SELECT FROM pg_available_extensions WHERE name = '{LIBRARY}') AS is_there \\gset\n\
         \\echo :is_loaded :is_there\n\
         \\if :is_loaded\n\\if :is_there\n\
         BEGIN;\n\
         SET LOCAL client_min_messages = error;\n\
         CREATE SCHEMA IF NOT EXISTS stoa;\n\
         CREATE EXTENSION IF NOT EXISTS {LIBRARY} SCHEMA stoa;\n\
         SELECT nspname AS place FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = '{LIBRARY}' \\gset\n\
         SELECT (extract(epoch FROM stats_reset) * 1000)::bigint FROM :\"place\".{LIBRARY}_info;\n\
         SELECT concat_ws(chr(31), {}) FROM :\"place\".{LIBRARY} LEFT JOIN pg_roles r ON r.oid = userid LEFT JOIN pg_database d ON d.oid = dbid \
           ORDER BY total_exec_time DESC, queryid LIMIT {MOST};\n\
         ROLLBACK;\n\
         \\endif\n\\endif\n",
        columns.join(", ")
    )
}

fn counting(printed: &str) -> Option<Counting> {
    let mut lines = printed.lines();
    match lines.next()? {
        "t t" => {}
        "f t" => return Some(Counting::NotLoaded),
        "t f" | "f f" => return Some(Counting::NoLibrary),
        _other => return None,
    }
    let since = Timestamp::from_ms(lines.next()?.parse().ok()?);
    let statements = lines
        .map(|line| statement(&fields(line)))
        .collect::<Option<_>>()?;
    Some(Counting::Counted(Statements { since, statements }))
}

fn statement(fields: &[&str]) -> Option<Statement> {
    let [user, database, calls, total, mean, max, rows, hit, read, query] = fields else {
        return None;
    };
    Some(Statement {
        user: (*user).to_owned(),
        database: (*database).to_owned(),
        calls: calls.parse().ok()?,
        total_us: total.parse().ok()?,
        mean_us: mean.parse().ok()?,
        max_us: max.parse().ok()?,
        rows: rows.parse().ok()?,
        blocks_hit: hit.parse().ok()?,
        blocks_read: read.parse().ok()?,
        query: query.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_has_loaded_stays() {
        for (file, expected) in [
            ("", "pg_stat_statements"),
            ("# shared_preload_libraries = 'x'\n", "pg_stat_statements"),
            ("shared_preload_libraries = ''\n", "pg_stat_statements"),
            (
                "work_mem = '4MB'\nshared_preload_libraries = 'pg_cron'\n",
                "pg_cron, pg_stat_statements",
            ),
            (
                "shared_preload_libraries = 'a'\nshared_preload_libraries = '\"b c\", d'\n",
                "\"b c\", d, pg_stat_statements",
            ),
            ("shared_preload_libraries = 'it''s'\n", "it's, pg_stat_statements"),
            (
                "shared_preload_libraries = 'x, \"$libdir/pg_stat_statements\"'\n",
                "x, \"$libdir/pg_stat_statements\"",
            ),
            ("shared_preload_libraries = 'a\u{0}'\n", "pg_stat_statements"),
        ] {
            assert_eq!(beside(file), expected, "{file:?}");
        }
    }

    #[test]
    fn a_line_is_a_statement() {
        let line =
            "app_owner\u{1f}app\u{1f}3\u{1f}4200\u{1f}1400\u{1f}2000\u{1f}7\u{1f}12\u{1f}1\u{1f}SELECT  $1";
        let expected = Statement {
            user: "app_owner".to_owned(),
            database: "app".to_owned(),
            calls: 3,
            total_us: 4200,
            mean_us: 1400,
            max_us: 2000,
            rows: 7,
            blocks_hit: 12,
            blocks_read: 1,
            query: "SELECT $1".to_owned(),
        };
        for (printed, found) in [
            ("f t\n", Some(Counting::NotLoaded)),
            ("f f\n", Some(Counting::NoLibrary)),
            ("t f\n", Some(Counting::NoLibrary)),
            ("", None),
            ("t t\n", None),
            ("t t\n7\nx\n", None),
            (
                &format!("t t\n7\n{line}\n"),
                Some(Counting::Counted(Statements {
                    since: Timestamp::from_ms(7),
                    statements: vec![expected],
                })),
            ),
        ] {
            assert_eq!(counting(printed), found, "{printed:?}");
        }
    }
}
