//! What a branch is a copy of, and what is made of it: the cluster that a drill left, the backup at a time; masked data is
//! nowhere in it, a schema has no rows, and neither is seen before it is done.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use journeys::{ENVIRONMENT, PATIENCE, Stoa, holds, until};
use serde_json::{Value, json};

/// What nobody may find in a masked copy.
const SECRET: &str = "ada.lovelace.of.marylebone@analytical.example";
const MASK: &str = "UPDATE people SET email = 'person' || id || '@example.org', note = NULL;
SELECT lo_unlink(oid) FROM pg_largeobject_metadata;
";

fn query(stoa: &Stoa, database: &str, sql: &str) -> Result<String> {
    let words = ["db", "connect", "--no-terminal", database, "--", "-qAtc", sql];
    Ok(stoa.cli(&words)?.ok()?.stdout.trim().to_owned())
}

fn info(stoa: &Stoa, database: &str) -> Result<Value> {
    stoa.cli(&["db", "info", database, "--json"])?.ok()?.json()
}

fn gone(stoa: &Stoa, database: &str) -> Result<()> {
    let words = ["db", "destroy", database, "--confirm", database];
    stoa.cli(&words)?.ok().map(drop)
}

/// The server's clock, to the millisecond, after what it has committed so far.
fn moment(stoa: &Stoa) -> Result<String> {
    let sql = r#"SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"#;
    query(stoa, "main", sql)
}

/// A table with what must not be seen, in an index, in a value that is stored apart, in statistics and in older versions of
/// rows; with what only a schema has.
const FILL: &str = "CREATE TABLE people (id bigserial PRIMARY KEY, email text, note text);
CREATE INDEX people_email ON people (email);
INSERT INTO people (email, note) SELECT CASE WHEN n % 3 = 0 THEN 'SECRET' ELSE n || '@example.org' END,
  CASE WHEN n % 500 = 0 THEN repeat(md5(n::text), 400) || 'SECRET' END FROM generate_series(1, 3000) n;
UPDATE people SET email = email || '' WHERE id <= 100;
CREATE MATERIALIZED VIEW domains AS SELECT split_part(email, '@', 2) AS domain, count(*) FROM people GROUP BY 1;
CREATE TABLE orders (id bigserial PRIMARY KEY, person bigint REFERENCES people);
INSERT INTO orders (person) SELECT id FROM people;
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not emptied''; END';
CREATE TRIGGER keep BEFORE TRUNCATE ON orders EXECUTE FUNCTION keep();
SELECT lo_from_bytea(0, 'SECRET');
ANALYZE;";

fn prepare(name: &str) -> Result<Stoa> {
    let stoa = Stoa::start(name)?;
    stoa.cli(&["db", "create", "main"])?.ok()?;
    query(&stoa, "main", &FILL.replace("SECRET", SECRET))?;
    Ok(stoa)
}

/// From here on there is something to restore.
fn with_base(stoa: &Stoa) -> Result<()> {
    holds("a base with its log", || {
        let found = stoa.cli(&["db", "backups", "main", "--json"])?.ok()?.json()?;
        Ok(found["receiving"] == true && found["windows"].as_array().is_some_and(|all| !all.is_empty()))
    })
}

fn counts(stoa: &Stoa, database: &str) -> Result<String> {
    query(
        stoa,
        database,
        "SELECT (SELECT count(*) FROM people) || ' ' || (SELECT count(*) FROM orders)",
    )
}

/// The folder of a database's volume, on the pool's own file system or in a pool file.
fn cluster(stoa: &Stoa, database: &str) -> Result<PathBuf> {
    let id = info(stoa, database)?["id"].as_str().context("no id")?.to_owned();
    let volume = format!("db-{}", id.trim_start_matches("db_").to_ascii_lowercase());
    let pool = stoa.data_dir().join("volumes");
    let places = [pool.join("volumes"), pool.join("mnt/volumes")];
    let found = places
        .iter()
        .map(|place| place.join(&volume).join("pgdata"))
        .find(|place| place.exists());
    found.with_context(|| format!("no cluster in {volume}"))
}

/// The files below a folder that hold a text.
fn holding(folder: &Path, text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.append(&mut holding(&path, text)?);
        } else if fs::read(&path)?
            .windows(text.len())
            .any(|bytes| bytes == text.as_bytes())
        {
            found.push(path);
        }
    }
    Ok(found)
}

fn statistics_hold(stoa: &Stoa, database: &str) -> Result<bool> {
    let sql = "SELECT count(*) FROM pg_stats WHERE most_common_vals::text LIKE '%analytical.example%' \
               OR histogram_bounds::text LIKE '%analytical.example%'";
    Ok(query(stoa, database, sql)? != "0")
}

/// Everything that is in memory is in the files then.
fn checkpoint(stoa: &Stoa, database: &str) -> Result<()> {
    let words = ["db", "connect", "--no-terminal", database, "--", "-qAt"];
    let words = [&words[..], &["-c", "SET ROLE NONE", "-c", "CHECKPOINT"]].concat();
    stoa.cli(&words)?.ok().map(drop)
}

fn is_masked(stoa: &Stoa, database: &str) -> Result<()> {
    checkpoint(stoa, database)?;
    let found = holding(&cluster(stoa, database)?, SECRET)?;
    ensure!(found.is_empty(), "{database}: it is still in {found:?}");
    ensure!(
        !statistics_hold(stoa, database)?,
        "{database}: it is still in the statistics"
    );
    let wrong = query(
        stoa,
        database,
        "SELECT count(*) FROM people WHERE email <> 'person' || id || '@example.org' OR note IS NOT NULL",
    )?;
    ensure!(wrong == "0", "{database}: {wrong} rows are as they were");
    let kept = query(stoa, database, "SELECT string_agg(domain, ' ') FROM domains")?;
    ensure!(
        kept == "example.org",
        "{database}: a materialised view has {kept}"
    );
    let login = stoa.cli(&["db", "url", database])?.ok()?.stdout;
    ensure!(
        login != stoa.cli(&["db", "url", "main"])?.ok()?.stdout,
        "the same login"
    );
    Ok(())
}

/// Volumes that drills left.
fn drilled(stoa: &Stoa) -> Result<usize> {
    let pool = stoa.data_dir().join("volumes");
    let places = [pool.join("volumes"), pool.join("mnt/volumes")];
    let entries = places
        .iter()
        .filter_map(|place| fs::read_dir(place).ok())
        .flatten();
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<Result<_>>()?;
    Ok(names.iter().filter(|name| name.starts_with("drilled-")).count())
}

#[test]
fn what_a_drill_left_is_branched_without_the_database() -> Result<()> {
    let stoa = prepare("branch-drilled")?;
    let from_drill = |name: &str| stoa.cli(&["db", "branch", "main", "--as", name, "--from", "drilled"]);
    from_drill("early")?
        .exits(6)?
        .says("no drill of main")?
        .says("stoa db drill main")?;
    let at = moment(&stoa)?;
    let kept = stoa.cli(&["db", "backups", "main", "--json"])?.ok()?.json()?;
    ensure!(kept["drilled_at"].is_null(), "{kept:#}");
    stoa.cli(&["db", "drill", "main"])?.ok()?;
    stoa.cli(&["db", "backups", "main"])?
        .ok()?
        .says("--from drilled")?;
    query(&stoa, "main", "INSERT INTO people (email) VALUES ('later')")?;
    query(&stoa, "main", "DELETE FROM orders")?;

    let begun = Instant::now();
    from_drill("try")?.ok()?.says("the data of main as of")?;
    println!("branch of what a drill left: {} ms", begun.elapsed().as_millis());
    ensure!(counts(&stoa, "try")? == "3000 3000", "{}", counts(&stoa, "try")?);
    let row = info(&stoa, "try")?;
    ensure!(
        row["branch_of"]["from"]["kind"] == "drilled"
            && row["branch_of"]["at"].as_str() >= Some(at.as_str())
            && row["durable"] == false,
        "{row:#}"
    );
    stoa.cli(&["db", "info", "try"])?
        .ok()?
        .says("out of its last drill")?;
    // Two clusters with one number could be taken for one another.
    let number = "SELECT system_identifier FROM pg_control_system()";
    from_drill("again")?.ok()?;
    ensure!(
        query(&stoa, "try", number)? != query(&stoa, "again", number)?,
        "the same identifier"
    );
    query(&stoa, "try", "DELETE FROM orders; DELETE FROM people")?;
    ensure!(counts(&stoa, "again")? == "3000 3000", "a branch changed another");
    gone(&stoa, "again")?;
    from_drill("main")?.exits(6)?;
    let of_branch = ["db", "branch", "try", "--as", "deeper", "--from", "drilled"];
    stoa.cli(&of_branch)?.exits(6)?.says("is a branch")?;
    let both = [
        "db", "branch", "main", "--as", "both", "--from", "live", "--at", &at,
    ];
    stoa.cli(&both)?.exits(2)?;

    // The next drill puts its own in the place of it, and a reset takes that. The parent need not answer.
    stoa.cli(&["db", "drill", "main"])?.ok()?;
    ensure!(drilled(&stoa)? == 1, "{} are kept", drilled(&stoa)?);
    stoa.cli(&["db", "reset", "try", "--confirm", "try"])?
        .ok()?
        .says("again; its logins are the same")?;
    ensure!(counts(&stoa, "try")? == "3001 0", "{}", counts(&stoa, "try")?);
    stoa.finish()
}

#[test]
fn the_backup_is_branched_as_of_a_time() -> Result<()> {
    let stoa = prepare("branch-at")?;
    with_base(&stoa)?;
    query(&stoa, "main", "INSERT INTO people (email) VALUES ('before')")?;
    let at = moment(&stoa)?;
    query(&stoa, "main", "DELETE FROM orders; DELETE FROM people")?;

    let words = ["db", "branch", "main", "--as", "then", "--at", &at, "--ttl", "7d"];
    stoa.cli(&words)?.ok()?.says(&format!("as of {at}"))?;
    ensure!(
        counts(&stoa, "then")? == "3001 3000",
        "{}",
        counts(&stoa, "then")?
    );
    let row = info(&stoa, "then")?;
    ensure!(
        row["branch_of"]["from"] == json!({"kind": "backup", "at": at}) && row["expires_at"].is_string(),
        "{row:#}"
    );
    query(&stoa, "then", "DELETE FROM orders")?;
    stoa.cli(&["db", "reset", "then", "--confirm", "then"])?.ok()?;
    ensure!(counts(&stoa, "then")? == "3001 3000", "not the same time again");
    // Outside of what is kept, with what is kept.
    for outside in ["2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"] {
        stoa.cli(&["db", "branch", "main", "--as", "never", "--at", outside])?
            .exits(1)?
            .says("from/at")?
            .says("can be restored to: from ")?;
    }
    stoa.cli(&["db", "branch", "main", "--as", "never", "--at", "yesterday"])?
        .exits(2)?;
    stoa.cli(&["db", "branch", "then", "--as", "deeper", "--at", &at])?
        .exits(6)?
        .says("is a branch")?;
    stoa.finish()
}

#[test]
fn what_was_masked_is_nowhere() -> Result<()> {
    let stoa = prepare("branch-mask")?;
    let script = stoa.root().join("mask.sql");
    fs::write(&script, MASK)?;
    let script = script.to_string_lossy().into_owned();
    // The search finds what is there.
    stoa.cli(&["db", "branch", "main", "--as", "plain"])?.ok()?;
    ensure!(
        !holding(&cluster(&stoa, "plain")?, SECRET)?.is_empty(),
        "not planted"
    );
    ensure!(statistics_hold(&stoa, "plain")?, "not in the statistics");
    gone(&stoa, "plain")?;

    let words = ["db", "branch", "main", "--as", "masked", "--mask", &script];
    stoa.cli(&words)?.ok()?.says("the masked data of main")?;
    is_masked(&stoa, "masked")?;
    ensure!(counts(&stoa, "masked")? == "3000 3000", "rows are missing");
    stoa.cli(&["db", "info", "masked"])?.ok()?.says(", masked")?;
    // Again at each reset.
    stoa.cli(&["db", "reset", "masked", "--confirm", "masked"])?
        .ok()?;
    is_masked(&stoa, "masked")?;
    with_base(&stoa)?;
    let at = moment(&stoa)?;
    stoa.cli(&["db", "drill", "main"])?.ok()?;
    for (name, source) in [("of-drill", ["--from", "drilled"]), ("of-backup", ["--at", &at])] {
        let words = ["db", "branch", "main", "--as", name, "--mask", "-"];
        let words = [&words[..], &source[..]].concat();
        stoa.cli_in(stoa.root(), &words, MASK.as_bytes())?.ok()?;
        is_masked(&stoa, name)?;
        gone(&stoa, name)?;
    }

    // A column that is dropped, what is selected, and a session's own table when the copy is taken.
    let drops = format!(
        "ALTER TABLE people DROP COLUMN email CASCADE, DROP COLUMN note; SELECT * FROM orders; {}",
        &MASK[MASK.find("SELECT").context("no end")?..]
    );
    let words = ["db", "branch", "main", "--as", "dropped", "--mask", "-"];
    stoa.cli_in(stoa.root(), &words, drops.as_bytes())?.ok()?;
    checkpoint(&stoa, "dropped")?;
    let found = holding(&cluster(&stoa, "dropped")?, SECRET)?;
    ensure!(found.is_empty(), "dropped: it is still in {found:?}");
    gone(&stoa, "dropped")?;

    // A script that fails leaves nothing, and shows no value.
    let wrong = [
        ("SELECT nonsense;", "nonsense"),
        ("UPDATE people SET id = 1;", "23505"),
        ("UPDATE people SET email = 'x'; SELECT 1/0;", "22012"),
        ("SELECT email::int FROM people WHERE id % 3 = 0;", "22P02"),
        (
            "DO $$ BEGIN RAISE EXCEPTION '%', (SELECT email FROM people WHERE id = 3); END $$;",
            "P0001",
        ),
    ];
    for (sql, said) in wrong {
        let words = ["db", "branch", "main", "--as", "wrong", "--mask", "-"];
        let failed = stoa
            .cli_in(stoa.root(), &words, sql.as_bytes())?
            .exits(1)?
            .says("the mask script failed")?
            .says(said)?
            .has_next_step()?;
        ensure!(!failed.stderr.contains(SECRET), "{}", failed.stderr);
        ensure!(
            !info(&stoa, "wrong")?.to_string().contains(SECRET),
            "the row shows it"
        );
        ensure!(info(&stoa, "wrong")?["state"] == "failed", "it is there");
        gone(&stoa, "wrong")?;
    }
    let words = ["db", "branch", "main", "--as", "wrong", "--mask", "-"];
    stoa.cli_in(stoa.root(), &words, b" \n")?
        .exits(1)?
        .says("empty")?;
    stoa.cli(&["db", "branch", "main", "--as", "wrong", "--mask", "/nowhere.sql"])?
        .says("/nowhere.sql")?
        .has_next_step()?;
    ensure!(
        query(
            &stoa,
            "main",
            &format!("SELECT count(*) FROM people WHERE email = '{SECRET}'")
        )? == "1000",
        "the database itself was masked"
    );
    stoa.finish()
}

#[test]
fn a_schema_has_no_rows() -> Result<()> {
    let stoa = prepare("branch-schema")?;
    stoa.cli(&["db", "branch", "main", "--as", "schema", "--schema-only"])?
        .ok()?
        .says("without their rows")?;
    ensure!(counts(&stoa, "schema")? == "0 0", "{}", counts(&stoa, "schema")?);
    checkpoint(&stoa, "schema")?;
    let found = holding(&cluster(&stoa, "schema")?, SECRET)?;
    ensure!(found.is_empty(), "it is still in {found:?}");
    ensure!(
        !statistics_hold(&stoa, "schema")?,
        "it is still in the statistics"
    );
    let sql = "SELECT (SELECT relispopulated FROM pg_class WHERE oid = 'domains'::regclass) || ' ' \
               || (SELECT count(*) FROM pg_largeobject_metadata) || ' ' || nextval('people_id_seq')";
    ensure!(
        query(&stoa, "schema", sql)? == "false 0 1",
        "{}",
        query(&stoa, "schema", sql)?
    );
    ensure!(
        info(&stoa, "schema")?["branch_of"]["schema_only"] == true,
        "not said"
    );
    // Rows that only a script makes.
    let words = [
        "db",
        "branch",
        "main",
        "--as",
        "seeded",
        "--schema-only",
        "--mask",
        "-",
    ];
    let seed = b"INSERT INTO people (email) VALUES ('seed');";
    stoa.cli_in(stoa.root(), &words, seed)?.ok()?;
    ensure!(counts(&stoa, "seeded")? == "1 0", "{}", counts(&stoa, "seeded")?);
    ensure!(
        counts(&stoa, "main")? == "3000 3000",
        "the database itself was emptied"
    );
    stoa.finish()
}

/// Control dies while a copy is made, at whatever point: nobody ever sees it unmasked.
#[test]
fn a_kill_of_control_shows_nothing_unmasked() -> Result<()> {
    let stoa = prepare("branch-mask-kill")?;
    let api = stoa.api()?;
    for (step, kills) in [("recovering the copy", 2), ("starting the server", 1)] {
        let body = json!({"name": "masked", "mask": MASK});
        let path = format!("{ENVIRONMENT}/databases/main/branches");
        let operation = api.begin("POST", &path, Some(&body))?;
        for _kill in 0..kills {
            until("the step before the kill", PATIENCE, || {
                let now = stoa.api()?.get(&format!("/v1/operations/{operation}"))?;
                let is_over = matches!(now["state"].as_str(), Some("succeeded" | "failed"));
                Ok((now["step"] == step || is_over).then_some(()))
            })?;
            stoa.part("control")?.signal(libc::SIGKILL)?;
            until("the API again", PATIENCE, || Ok(stoa.api().ok()))?;
        }
        let settled = stoa.api()?.settled(&operation)?;
        ensure!(settled["state"] == "succeeded", "{step}: {settled:#}");
        is_masked(&stoa, "masked")?;
        gone(&stoa, "masked")?;
    }
    stoa.finish()
}
