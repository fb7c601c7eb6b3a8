//! The copy elsewhere is proven: a drill restores it from the target alone, and a look at all that is there names each damage.
//! Neither is held up by a target that hangs, and neither leaves anything behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use journeys::damage::{another_key, last, object, objects};
use journeys::{Answer, ENVIRONMENT, PATIENCE, Stoa, holds, until};
use serde_json::{Value, json};

fn sql(stoa: &Stoa, sql: &str) -> Result<String> {
    let words = [
        "db",
        "connect",
        "--no-terminal",
        "main",
        "--",
        "-qAt",
        "-c",
        "SET ROLE NONE",
        "-c",
        sql,
    ];
    Ok(stoa.cli(&words)?.ok()?.stdout.trim().to_owned())
}

/// `stoa server ...`, as root on the host.
fn server(stoa: &Stoa, words: &[&str]) -> Result<Answer> {
    let data = stoa.data_dir().to_string_lossy().into_owned();
    stoa.cli(&[&["server"], words, &["--data-dir", &data]].concat())
}

fn drill(stoa: &Stoa) -> Result<Answer> {
    stoa.cli(&["db", "drill", "main", "--from-target"])
}

fn info(stoa: &Stoa) -> Result<Value> {
    stoa.cli(&["db", "info", "main", "--json"])?.ok()?.json()
}

/// A database with some data, whose backup is on a target: a base, and log over some closed segments.
fn with_backup(stoa: &Stoa, place: &Path) -> Result<()> {
    stoa.cli(&["db", "create", "main"])?.ok()?;
    drill(stoa)?.exits(3)?.says("backup target")?.has_next_step()?;
    let path = place.to_string_lossy().into_owned();
    server(stoa, &["backup-target", "set", "--directory", &path])?.ok()?;
    let bulk = "CREATE TABLE notes AS SELECT n, md5(n::text) || md5((n * 7)::text) AS note FROM generate_series(1, 20000) n";
    sql(stoa, bulk)?;
    holds("a base on the target", || {
        let found = stoa.cli(&["db", "backups", "main", "--json"])?.ok()?.json()?;
        Ok(found["elsewhere"]["base_at"].is_string())
    })?;
    for round in 0..3 {
        sql(stoa, &format!("INSERT INTO notes VALUES ({round}, 'more')"))?;
        sql(stoa, "SELECT pg_switch_wal()")?;
    }
    holds("closed segments on the target", || Ok(closed(place)?.len() >= 3))
}

fn is_in(path: &Path, folder: &str) -> bool {
    path.iter().any(|part| part == folder)
}

fn closed(place: &Path) -> Result<Vec<PathBuf>> {
    let mut all = objects(place)?;
    all.retain(|path| is_in(path, "wal") && path.extension().is_none());
    Ok(all)
}

fn parts(place: &Path) -> Result<Vec<PathBuf>> {
    let mut all = objects(place)?;
    all.retain(|path| is_in(path, "base") && !path.ends_with("manifest"));
    Ok(all)
}

fn name(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_default()
}

/// What drills left.
fn makings(stoa: &Stoa) -> Result<Vec<String>> {
    let pool = stoa.data_dir().join("volumes");
    // On its own file system, or in a pool file.
    let places = [pool.join("volumes"), pool.join("mnt/volumes")];
    let entries = places
        .iter()
        .filter_map(|place| fs::read_dir(place).ok())
        .flatten();
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Result<Vec<String>> = names.collect();
    Ok(names?
        .into_iter()
        .filter(|name| name.starts_with("making-"))
        .collect())
}

fn has_step(stoa: &Stoa, operation: &str, step: &str) -> Result<()> {
    until(step, PATIENCE, || {
        let now = stoa.api()?.get(&format!("/v1/operations/{operation}"))?;
        let is_there = now["step"].as_str().is_some_and(|now| now.contains(step));
        Ok((is_there || now["state"] == "succeeded").then_some(()))
    })
}

#[test]
fn a_drill_proves_what_is_on_the_target() -> Result<()> {
    let place = Folder::of("proof")?;
    let mut stoa = Stoa::start("elsewhere-proof")?;
    with_backup(&stoa, &place.0)?;
    stoa.cli(&["db", "backups", "main"])?
        .ok()?
        .says("UNPROTECTED: no drill yet")?
        .says("stoa db drill main --from-target")?;

    drill(&stoa)?.ok()?.says("brings it back")?.says(&place.text())?;
    let drilled = last(&stoa)?;
    println!(
        "drill from the target: rto {} ms, {} bytes, {} rows",
        drilled["rto_ms"], drilled["bytes"], drilled["rows"]
    );
    let checks = drilled["checks"].as_array().context("no checks")?;
    let results: Vec<String> = checks
        .iter()
        .map(|check| format!("{}={}", check["check"], check["result"]).replace('"', ""))
        .collect();
    let expected = [
        "log", "manifest", "objects", "start", "place", "canary", "amcheck", "read", "rows",
    ];
    ensure!(
        results == expected.map(|check| format!("{check}=passed")),
        "{drilled:#}"
    );
    ensure!(
        drilled["copy"] == "target"
            && drilled["place"] == place.text()
            && drilled["rto_ms"].as_u64() > Some(0)
            && drilled["rows"].as_u64() >= Some(20_003),
        "{drilled:#}"
    );
    // The one copy says nothing of the other.
    let shown = info(&stoa)?;
    ensure!(
        shown["target_protection"]["state"] == "protected" && shown["protection"]["state"] == "unprotected",
        "{shown:#}"
    );
    let backups = stoa.cli(&["db", "backups", "main", "--json"])?.ok()?.json()?;
    ensure!(
        backups["elsewhere"]["protection"] == shown["target_protection"],
        "{backups:#}"
    );
    stoa.cli(&["status"])?
        .ok()?
        .says("ELSEWHERE")?
        .says("UNPROTECTED: no drill yet")?;
    let id = shown["id"].as_str().context("no id")?;
    let of = format!("{{database=\"main\",id=\"{id}\"}}");
    stoa.cli(&["api", "GET", "/metrics"])?
        .ok()?
        .says(&format!("stoa_database_target_protected{of} 1"))?
        .says(&format!("stoa_database_protected{of} 0"))?
        .says(&format!("stoa_database_target_drill_rto_seconds{of} "))?;
    stoa.cli(&["db", "backups", "main", "--target"])?
        .ok()?
        .says("main of default/default/production")?;
    stoa.cli(&["db", "backups", id, "--target"])?
        .ok()?
        .says("restorable")?;
    stoa.cli(&["db", "backups", "nothing", "--target"])?
        .exits(3)?
        .has_next_step()?;
    server(&stoa, &["backup-target", "verify"])?
        .ok()?
        .says("is as it was put there")?
        .says("restorable from")?;

    // Killed in the middle, it is done again from the beginning.
    let path = format!("{ENVIRONMENT}/databases/main/drills");
    let body = json!({"copy": "target"});
    for step in ["fetching", "replaying"] {
        let operation = stoa.api()?.begin("POST", &path, Some(&body))?;
        has_step(&stoa, &operation, step)?;
        stoa.part("control")?.signal(libc::SIGKILL)?;
        let settled = stoa.api()?.settled(&operation)?;
        ensure!(settled["state"] == "succeeded", "{step}: {settled:#}");
        ensure!(last(&stoa)?["state"] == "passed", "{step}: {:#}", last(&stoa)?);
    }
    ensure!(makings(&stoa)?.is_empty(), "{:?}", makings(&stoa)?);
    one_that_hangs(&mut stoa, &place)?;
    stoa.finish()
}

/// A pipe that nobody writes to: who reads the object waits for ever, as on a share whose server is gone.
fn one_that_hangs(stoa: &mut Stoa, place: &Folder) -> Result<()> {
    let path = format!("{ENVIRONMENT}/databases/main/drills");
    let body = json!({"copy": "target"});
    let part = parts(&place.0)?.pop().context("no part of a base")?;
    let aside = part.with_extension("aside");
    fs::rename(&part, &aside)?;
    let made = Command::new("mkfifo").arg(&part).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    let operation = stoa.api()?.begin("POST", &path, Some(&body))?;
    has_step(stoa, &operation, "fetching base")?;
    sleep(Duration::from_secs(1));
    let again = stoa.api()?.call("POST", &path, Some(&body))?;
    ensure!(again.status == 409, "two at once: {}", again.body);
    let begun = Instant::now();
    stoa.interrupt()?;
    let took = begun.elapsed();
    println!("end while the target hangs: {:.1} s", took.as_secs_f64());
    ensure!(took < Duration::from_secs(10), "the end took {took:?}");
    stoa.up()?;
    has_step(stoa, &operation, "fetching base")?;
    // What is written meanwhile gets there all the same.
    let before = closed(&place.0)?.len();
    sql(stoa, "INSERT INTO notes VALUES (9, 'while it hung')")?;
    sql(stoa, "SELECT pg_switch_wal()")?;
    holds("the log on the target", || Ok(closed(&place.0)?.len() > before))?;
    stoa.cli(&["op", "cancel", &operation])?;
    let settled = stoa.api()?.settled(&operation)?;
    ensure!(settled["state"] == "canceled", "{settled:#}");
    ensure!(last(stoa)?["state"] == "undone", "{:#}", last(stoa)?);
    let state = info(stoa)?;
    ensure!(state["target_protection"]["state"] == "protected", "{state:#}");
    holds("nothing of it is left", || Ok(makings(stoa)?.is_empty()))?;
    fs::rename(&aside, &part)?;
    drill(stoa)?.ok().map(drop)
}

/// A damage to what is on the target: does it, and returns what must be named.
type Damage = fn(&Path) -> Result<String>;

fn flip(path: &Path) -> Result<String> {
    let mut text = fs::read(path)?;
    let middle = text.len() / 2;
    text[middle] ^= 1;
    fs::write(path, text)?;
    Ok(name(path))
}

fn swap(one: &Path, other: &Path) -> Result<String> {
    let (first, second) = (fs::read(one)?, fs::read(other)?);
    fs::write(one, second)?;
    fs::write(other, first)?;
    Ok(name(one))
}

fn remove(path: &Path) -> Result<String> {
    fs::remove_file(path)?;
    Ok(name(path))
}

const DAMAGES: [(&str, Damage); 10] = [
    ("an altered part", |at| flip(&parts(at)?[0])),
    ("a part that is gone", |at| remove(&parts(at)?[0])),
    ("two parts in each other's place", |at| {
        let all = parts(at)?;
        swap(&all[0], &all[1])
    }),
    ("a manifest that is gone", |at| remove(&object(at, "manifest")?)),
    ("an altered segment", |at| flip(&closed(at)?[1])),
    ("a segment that is gone", |at| remove(&closed(at)?[1])),
    ("two segments in each other's place", |at| {
        let all = closed(at)?;
        swap(&all[0], &all[1])
    }),
    ("an altered catalogue", |at| flip(&object(at, "catalogue")?)),
    ("a mark that is gone", |at| remove(&object(at, "server")?)),
    ("another key", another_key),
];

/// All that is on a target but the copy of what is received now, which is replaced all the time.
fn content(place: &Path) -> Result<BTreeMap<PathBuf, (Vec<u8>, SystemTime)>> {
    let all = objects(place)?
        .into_iter()
        .filter(|path| path.extension().is_none());
    all.map(|path| {
        let of = (fs::read(&path)?, fs::metadata(&path)?.modified()?);
        Ok((path, of))
    })
    .collect()
}

/// The catalogue is written at least each half minute: what is done to it is seen only until then.
fn fresh_catalogue(place: &Path) -> Result<()> {
    let path = object(place, "catalogue")?;
    until("the catalogue to be written", PATIENCE, || {
        let written = fs::metadata(&path)?.modified()?;
        let age = SystemTime::now().duration_since(written).unwrap_or_default();
        Ok((age < Duration::from_secs(8)).then_some(()))
    })
}

#[test]
fn each_damage_there_is_named() -> Result<()> {
    let place = Folder::of("damage")?;
    let stoa = Stoa::start("elsewhere-damage")?;
    with_backup(&stoa, &place.0)?;
    ensure!(parts(&place.0)?.len() >= 2, "a base of one part");
    drill(&stoa)?.ok()?;
    for (what, damage) in DAMAGES {
        if what.contains("catalogue") {
            fresh_catalogue(&place.0)?;
        }
        let before = content(&place.0)?;
        let named = damage(&place.0).with_context(|| format!("could not do: {what}"))?;
        let damaged = content(&place.0)?;
        let (drilled, verified) = (drill(&stoa), server(&stoa, &["backup-target", "verify"]));
        for (path, (text, written)) in before {
            let done = damaged.get(&path).map(|(text, _)| text);
            // Written anew by now, it is whole.
            if done != Some(&text) && fs::read(&path).ok().as_ref() == done {
                fs::write(&path, text)?;
                fs::File::options()
                    .write(true)
                    .open(&path)?
                    .set_modified(written)?;
            }
        }
        let found = last(&stoa)?;
        println!("{what}: {}", found["checks"]);
        ensure!(
            found["state"] == "failed" && found["failed_check"] == "objects",
            "{what} was not caught: {found:#}"
        );
        drilled?
            .exits(1)?
            .says(&named)?
            .says("is unprotected there")?
            .has_next_step()?;
        let code = verified.as_ref().map_or(0, |answer| answer.code);
        ensure!(code != 0, "{what} was verified");
        verified?.says(&named)?.has_next_step()?;
        let state = info(&stoa)?["target_protection"].clone();
        ensure!(
            state["state"] == "unprotected"
                && state["why"].as_str().is_some_and(|why| why.contains("objects")),
            "{what}: {state}"
        );
        ensure!(makings(&stoa)?.is_empty(), "{what}: {:?}", makings(&stoa)?);
    }
    // Nothing was wrong but what was done to it.
    drill(&stoa)?.ok()?;
    server(&stoa, &["backup-target", "verify"])?
        .ok()?
        .says("is as it was put there")?;
    stoa.cli(&["db", "drills", "main"])?
        .ok()?
        .says("FAILED at objects")?
        .says("target")?;
    stoa.finish()
}

/// A directory that goes away with the journey.
struct Folder(PathBuf);

impl Folder {
    fn of(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("stoa-target-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn text(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}
