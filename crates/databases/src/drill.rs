//! A drill: a base and its log become a cluster in a throw-away instance without a network, and that is looked at.
//!
//! Lives here: the restore of a drill, and each look at what it became.
//! Does not live here: whether the archive and the files of the base are whole (`plan`, `manifest`), what a database is worth
//! after it (`plan`), rows (`control`).
//! Invariants: one check that fails keeps no other from being done; what is wrong with us, not with the backup, is an error
//! and no finding. What is left is a stopped cluster without logins of the former one and with an identifier of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use engine::{Engine, Exec, LineSink};
use model::drill::{Check, CheckKind, Expected, Outcome};
use model::{ImageDigest, Millis, Reached, Resources, Shape, Target};

use crate::branch::{FirstStart, first_start};
use crate::cluster::{self, SOCKETS, USER};
use crate::psql::{self, Psql};
use crate::restore::{REPLAYS_WITHIN, reached};
use crate::template::Place;
use crate::{DatabaseError, canary};

/// What is done.
pub struct Rehearsal<'a> {
    /// The image of the base.
    pub image: &'a ImageDigest,
    /// Its major version.
    pub version: &'a str,
    /// The volume that holds a clone of the base, supplied with log.
    pub volume: &'a str,
    /// Limits of the instance.
    pub resources: Resources,
    /// What must be there.
    pub expected: &'a Expected,
    /// When the part of the restore that is done here began, and what the part before it took.
    pub begun: (Instant, Duration),
    /// Whether to go on.
    pub is_wanted: &'a dyn Fn() -> bool,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Where the replay got.
    pub reached: Option<Reached>,
    /// From the beginning of the restore to the first answer.
    pub rto: Option<Millis>,
    /// What was looked at, in order.
    pub checks: Vec<Check>,
    /// Tables that could be read.
    pub counted: Vec<Counted>,
}

/// A table and its rows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    /// Its database.
    pub database: String,
    /// Schema and name.
    pub table: String,
    /// How many rows were read.
    pub rows: u64,
}

/// Does it. The instance is on no network.
///
/// # Errors
/// When it could not be done, for a reason that tells nothing about the backup, or was given up.
pub fn drill(
    engine: &dyn Engine,
    mut place: Place,
    rehearsal: &Rehearsal<'_>,
    lines: LineSink<'_>,
) -> Result<Findings, DatabaseError> {
    place.network.clear();
    let start = FirstStart {
        place: &place,
        image: rehearsal.image,
        version: rehearsal.version,
        volume: rehearsal.volume,
        resources: rehearsal.resources,
        command: cluster::replaying(rehearsal.version, rehearsal.resources, Target::Latest),
        hostname: "drill",
        within: REPLAYS_WITHIN,
        is_wanted: rehearsal.is_wanted,
        shape: &Shape::default(),
    };
    let mut findings = None;
    let done = first_start(engine, &start, lines, |psql| {
        findings = Some(look(psql, rehearsal, lines)?);
        Ok(())
    });
    let mut findings = findings.unwrap_or_default();
    let cause = match done {
        Ok(()) => return Ok(findings),
        Err(cause) => cause,
    };
    if let DatabaseError::Engine(_) = &cause {
        return Err(cause);
    }
    if !(rehearsal.is_wanted)() {
        return Err(cause);
    }
    findings.checks.push(Check {
        kind: CheckKind::Start,
        outcome: Outcome::Failed,
        said: cause.to_string(),
        took: spent(rehearsal.begun),
    });
    Ok(findings)
}

fn spent((since, before): (Instant, Duration)) -> Millis {
    millis(since.elapsed() + before)
}

pub(crate) fn millis(duration: Duration) -> Millis {
    Millis::new(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn look(psql: Psql<'_>, rehearsal: &Rehearsal<'_>, lines: LineSink<'_>) -> Result<Findings, DatabaseError> {
    let rto = spent(rehearsal.begun);
    let reached = reached(psql)?;
    let expected = rehearsal.expected;
    let mut findings = Findings {
        reached: Some(reached),
        rto: Some(rto),
        ..Findings::default()
    };
    let mut note = |check: Check| {
        lines(&format!("{}: {}", check.kind.as_str(), check.said));
        findings.checks.push(check);
    };
    note(Check {
        kind: CheckKind::Start,
        outcome: Outcome::Passed,
        said: format!("it answers {} ms after the restore began", rto.as_ms()),
        took: rto,
    });
    note(timed(CheckKind::Place, || {
        let said = format!("replayed up to {}, expected {}", reached.lsn, expected.lsn);
        Ok((judged(reached.lsn >= expected.lsn), said))
    }));
    note(timed(CheckKind::Canary, || canary_of(psql, expected)));
    note(timed(CheckKind::Amcheck, || amcheck(psql, rehearsal.version)));
    let mut counted = Vec::new();
    note(timed(CheckKind::Read, || read(psql, &mut counted)));
    findings.counted = counted;
    Ok(findings)
}

fn judged(is_right: bool) -> Outcome {
    match is_right {
        true => Outcome::Passed,
        false => Outcome::Failed,
    }
}

/// What cannot be asked of a server that answers is a failure of what it became.
pub(crate) fn timed(
    kind: CheckKind,
    check: impl FnOnce() -> Result<(Outcome, String), DatabaseError>,
) -> Check {
    let begun = Instant::now();
    let (outcome, said) = check().unwrap_or_else(|cause| (Outcome::Failed, cause.to_string()));
    Check {
        kind,
        outcome,
        said,
        took: millis(begun.elapsed()),
    }
}

fn canary_of(psql: Psql<'_>, expected: &Expected) -> Result<(Outcome, String), DatabaseError> {
    let Some(must) = expected.canary else {
        let said = "the server did not answer when the drill began: nobody knows the newest canary";
        return Ok((Outcome::LeftOut, said.to_owned()));
    };
    Ok(match canary::read(psql)? {
        Some(is) => (judged(is >= must), format!("number {is}, expected {must}")),
        None => (Outcome::Failed, format!("none, expected {must}")),
    })
}

fn databases(psql: Psql<'_>) -> Result<Vec<String>, DatabaseError> {
    let printed = psql.run(
        "postgres",
        "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1;\n",
    )?;
    Ok(printed.lines().map(str::to_owned).collect())
}

/// Tables, and indexes against their tables. What it needs is put into each database and taken out again.
pub(crate) fn amcheck(psql: Psql<'_>, version: &str) -> Result<(Outcome, String), DatabaseError> {
    let is_there = "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck';\n";
    if psql.run("postgres", is_there)?.trim() == "0" {
        let said = "the image has no amcheck, so that indexes were not compared with their tables";
        return Ok((Outcome::LeftOut, said.to_owned()));
    }
    let mut guests = Vec::new();
    let all = databases(psql)?;
    for database in &all {
        let has = "SELECT count(*) FROM pg_extension WHERE extname = 'amcheck';\n";
        if psql.run(&psql::named(database), has)?.trim() == "0" {
            guests.push(database);
        }
    }
    let program = cluster::program(version, "pg_amcheck");
    let argv = [
        program.as_str(),
        "--host",
        SOCKETS,
        "--username",
        USER,
        "--all",
        "--heapallindexed",
        "--install-missing",
        "--no-password",
    ];
    let exec = Exec {
        argv: argv.map(str::to_owned).to_vec(),
        env: vec![(
            "PGOPTIONS".to_owned(),
            "-c default_transaction_read_only=off".to_owned(),
        )],
        user: Some(USER.to_owned()),
        workdir: Some("/".to_owned()),
        terminal: None,
    };
    let said = psql::hear("pg_amcheck", psql.engine.exec(psql.instance, &exec)?, "", None)?;
    for database in guests {
        psql.run(&psql::named(database), "DROP EXTENSION IF EXISTS amcheck;\n")?;
    }
    if said.code == 0 {
        return Ok((Outcome::Passed, format!("{} databases are sound", all.len())));
    }
    // What is damaged stands in what it prints, what it could not do in its complaint.
    let text = format!("{}{}", said.printed, said.complaint);
    Ok((Outcome::Failed, brief(&text)))
}

/// The first lines, as one.
fn brief(text: &str) -> String {
    /// Enough for the first damage.
    const LINES: usize = 4;
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let rest = match lines.len().saturating_sub(LINES) {
        0 => String::new(),
        rest => format!(" (and {rest} lines more)"),
    };
    let first = lines.get(..lines.len().min(LINES)).unwrap_or_default();
    format!("{}{rest}", first.join(" "))
}

/// Reads every row of every table, values that are stored apart included, and counts them. One that cannot be read keeps no
/// other from being read.
const READ: &str = r"CREATE TEMP TABLE stoa_read (place text, rows bigint, fault text);
DO $stoa$ DECLARE t record; counted bigint; BEGIN
FOR t IN SELECT format('%I.%I', n.nspname, c.relname) AS place
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND (c.relkind = 'r' OR c.relispopulated)
  ORDER BY 1 LOOP
  BEGIN
    EXECUTE format('COPY (SELECT * FROM ONLY %s) TO ''/dev/null''', t.place);
    GET DIAGNOSTICS counted = ROW_COUNT;
    INSERT INTO stoa_read VALUES (t.place, counted, NULL);
  EXCEPTION WHEN OTHERS THEN
    INSERT INTO stoa_read VALUES (t.place, NULL, SQLERRM);
  END;
END LOOP; END $stoa$;
SELECT coalesce(rows::text, 'x') || ' ' || translate(place || coalesce(': ' || fault, ''), E'\n\r', '  ') FROM stoa_read;
";

fn read(psql: Psql<'_>, counted: &mut Vec<Counted>) -> Result<(Outcome, String), DatabaseError> {
    let mut faults = Vec::new();
    for database in databases(psql)? {
        let printed = psql.run(&psql::named(&database), READ)?;
        for line in printed.lines() {
            let Some((rows, table)) = line.split_once(' ') else {
                continue;
            };
            match rows.parse() {
                Ok(rows) => counted.push(Counted {
                    database: database.clone(),
                    table: table.to_owned(),
                    rows,
                }),
                Err(_) => faults.push(format!("{database}: {table}")),
            }
        }
    }
    if faults.is_empty() {
        let rows: u64 = counted.iter().map(|one| one.rows).sum();
        return Ok((
            Outcome::Passed,
            format!("{} tables with {rows} rows", counted.len()),
        ));
    }
    Ok((Outcome::Failed, brief(&faults.join("\n"))))
}

/// How many rows each table has, by database and table, by what the server says: as it keeps track of them, and as it counted
/// them when it looked at the table last.
pub type Estimates = BTreeMap<(String, String), (u64, Option<u64>)>;

/// Asks a server for that.
///
/// # Errors
/// When it does not answer soon.
pub fn estimates(psql: Psql<'_>) -> Result<Estimates, DatabaseError> {
    let sql = "SET search_path = pg_catalog;\n\
               SELECT s.n_live_tup, c.reltuples::bigint, translate(format('%I.%I', s.schemaname, s.relname), E'\\n\\r', '  ')\n\
               FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid;\n";
    let mut all = Estimates::new();
    for database in databases(psql)? {
        let printed = psql.run_soon(&psql::named(&database), sql)?;
        let found = printed.lines().filter_map(parse_estimate);
        all.extend(found.map(|(table, rows)| ((database.clone(), table), rows)));
    }
    Ok(all)
}

fn parse_estimate(line: &str) -> Option<(String, (u64, Option<u64>))> {
    let mut fields = line.splitn(3, '|');
    let tracked: u64 = fields.next()?.parse().ok()?;
    // Below 0: never counted.
    let counted: Option<u64> = fields.next()?.parse().ok();
    Some((fields.next()?.to_owned(), (tracked, counted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_understood_or_left_out() {
        for (line, expected) in [
            ("5|-1|public.a", Some(("public.a", (5, None)))),
            ("0|7|public.\"a|b\"", Some(("public.\"a|b\"", (0, Some(7))))),
            ("x|7|public.a", None),
            ("", None),
        ] {
            let expected = expected.map(|(table, rows)| (table.to_owned(), rows));
            assert_eq!(parse_estimate(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_long_is_told_briefly() {
        assert_eq!(brief("a\n\n  b\n"), "a b");
        assert_eq!(brief("a\nb\nc\nd\ne\nf"), "a b c d (and 2 lines more)");
    }
}
