//! Faults around databases, by their numbers: no room, a file system that may only be read, a store that is older than the
//! world. Acknowledged rows stay, what fails says why and leaves nothing, and it goes on by itself when the fault is over.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use journeys::{Answer, ENVIRONMENT, Fleet, Stoa, Tiny, forget_boot, holds, power_off};
use serde_json::{Value, json};

/// A disk of its own for the data directory, on which the pool can share blocks.
struct Disk {
    place: PathBuf,
    point: PathBuf,
}

impl Disk {
    fn mount(name: &str, bytes: u64) -> Result<Self> {
        Self::of(&["mkfs.xfs", "-q", "-m", "reflink=1"], name, bytes)
    }

    fn of(make: &[&str], name: &str, bytes: u64) -> Result<Self> {
        let place = std::env::temp_dir().join(format!("stoa-{name}-disk-{}", std::process::id()));
        let (image, point) = (place.join("disk.img"), place.join("disk"));
        fs::create_dir_all(&point)?;
        File::create(&image)?.set_len(bytes)?;
        let disk = Self { place, point };
        let [program, arguments @ ..] = make else {
            bail!("no program");
        };
        run(Command::new(program).args(arguments).arg(&image))?;
        disk.attach()?;
        for folder in [&disk.place, &disk.point] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
        }
        Ok(disk)
    }

    fn attach(&self) -> Result<()> {
        let image = self.place.join("disk.img");
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(image)
            .arg(&self.point))
    }

    /// The kernel found something wrong with it: from now on it may only be read.
    fn fail(&self) -> Result<()> {
        run(Command::new("mount")
            .args(["-o", "remount,abort"])
            .arg(&self.point))
    }

    /// As a person does who was called.
    fn mend(&self) -> Result<()> {
        run(Command::new("umount").arg(&self.point))?;
        let image = self.place.join("disk.img");
        let checked = Command::new("e2fsck").args(["-f", "-y"]).arg(image).output()?;
        // 1: something was mended.
        ensure!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
        self.attach()
    }

    /// A Stoa whose data directory is on it.
    fn stoa(&self, name: &str) -> Result<Stoa> {
        let mut stoa = Stoa::prepare(name)?;
        let data = self.point.join("data");
        stoa.place_data(data.to_str().context("a path")?);
        stoa.up()?;
        stoa.sign_in()?;
        Ok(stoa)
    }

    /// Leaves so much free.
    fn fill(&self, name: &str, free: u64) -> Result<PathBuf> {
        let about = Command::new("df")
            .args(["--output=avail", "-B1"])
            .arg(&self.point)
            .output()?;
        let text = String::from_utf8_lossy(&about.stdout).into_owned();
        let there: u64 = text.lines().last().context("no line")?.trim().parse()?;
        let filler = self.point.join(name);
        let length = there.saturating_sub(free).to_string();
        run(Command::new("fallocate").args(["-l", &length]).arg(&filler))?;
        Ok(filler)
    }

    /// Leaves no inode free.
    fn fill_inodes(&self, name: &str) -> Result<PathBuf> {
        let filler = self.point.join(name);
        fs::create_dir(&filler)?;
        for number in 0..INODES {
            match File::create(filler.join(number.to_string())) {
                Ok(_empty) => {}
                Err(cause) if cause.kind() == ErrorKind::StorageFull => return Ok(filler),
                Err(cause) => return Err(cause.into()),
            }
        }
        bail!("there is no end of inodes")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("--lazy").arg(&self.point).status();
        drop(fs::remove_dir_all(&self.place));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let answer = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&answer.stderr);
    ensure!(answer.status.success(), "{command:?}: {said}");
    Ok(())
}

fn ask(stoa: &Stoa, database: &str, sql: &str) -> Result<Answer> {
    let words = [
        "db",
        "connect",
        "--no-terminal",
        database,
        "--",
        "-v",
        "ON_ERROR_STOP=1",
        "-qAtc",
        sql,
    ];
    stoa.cli(&words)
}

fn query(stoa: &Stoa, database: &str, sql: &str) -> Result<String> {
    Ok(ask(stoa, database, sql)?.ok()?.stdout.trim().to_owned())
}

fn info(stoa: &Stoa, database: &str) -> Result<Value> {
    stoa.cli(&["db", "info", database, "--json"])?.ok()?.json()
}

fn with_base(stoa: &Stoa) -> Result<()> {
    holds("a base with its log", || {
        let found = stoa.cli(&["db", "backups", "main", "--json"])?.ok()?.json()?;
        Ok(found["receiving"] == true && found["windows"].as_array().is_some_and(|all| !all.is_empty()))
    })
}

fn names(stoa: &Stoa) -> Result<Vec<String>> {
    let all = stoa.cli(&["db", "ls", "--json"])?.ok()?.json()?;
    let all = all.as_array().context("no list")?.iter();
    Ok(all
        .filter(|one| one["state"] != "destroyed")
        .filter_map(|one| one["name"].as_str().map(str::to_owned))
        .collect())
}

/// Names in the pool that something unfinished has.
fn unfinished(stoa: &Stoa) -> Vec<String> {
    let names = |place: &Path| -> Vec<String> {
        let all = fs::read_dir(place).into_iter().flatten().flatten();
        all.map(|one| one.file_name().to_string_lossy().into_owned())
            .collect()
    };
    let pool = stoa.data_dir().join("volumes");
    let all = [pool.join("volumes"), pool.join("mnt/volumes")];
    let mut found: Vec<String> = all.iter().flat_map(|place| names(place)).collect();
    found.retain(|name| name.starts_with("making-"));
    found
}

const GIB: u64 = 1 << 30;
/// How a command ends whose request was refused for what there is now.
const REFUSED: i32 = 6;
/// Of a file system that has few: enough for the images, a database, its base and another copy of it.
const INODES: u64 = 65_536;

#[test]
fn f13_a_disk_that_may_only_be_read_is_told_and_what_was_acknowledged_comes_back() -> Result<()> {
    let disk = Disk::of(&["mkfs.ext4", "-q", "-F"], "faults-read-only", 4 * GIB)?;
    let mut stoa = disk.stoa("faults-read-only")?;
    Fleet::new(&stoa)?.deploy("plain", &Tiny::version(1))?;
    stoa.cli(&["db", "create", "main"])?.ok()?;
    let rows = "CREATE TABLE kept AS SELECT generate_series(1, 5000) AS n";
    query(&stoa, "main", rows)?;
    with_base(&stoa)?;
    disk.fail()?;
    holds("it to be told", || {
        Ok(stoa.cli(&["status"])?.stdout.contains("READ ONLY since"))
    })?;
    for _ in 0..50 {
        let answer = stoa.get("plain.localhost", "/")?;
        ensure!(answer.status == 200 && answer.text() == "1", "{answer:?}");
    }
    stoa.cli(&["db", "branch", "main", "--as", "never"])?
        .exits(1)?
        .says("the disk of the data directory cannot be written")?
        .says("dmesg")?;

    power_off(&mut stoa)?;
    disk.mend()?;
    forget_boot(&stoa.data_dir())?;
    stoa.up()?;
    holds("every row", || {
        let counted = ask(&stoa, "main", "SELECT count(*) FROM kept")?;
        Ok(counted.code == 0 && counted.stdout.trim() == "5000")
    })?;
    holds("the app", || {
        Ok(stoa
            .get("plain.localhost", "/")
            .is_ok_and(|answer| answer.status == 200))
    })?;
    query(&stoa, "main", "INSERT INTO kept VALUES (0)")?;
    let told = stoa.cli(&["status"])?.ok()?.stdout;
    ensure!(!told.contains("READ ONLY"), "{told}");
    ensure!(names(&stoa)? == ["main"], "left: {:?}", names(&stoa)?);
    stoa.finish()
}

#[test]
fn f10_f11_without_room_everything_fails_cleanly_and_goes_on_when_there_is_some() -> Result<()> {
    let disk = Disk::mount("faults-room", 4 * GIB)?;
    let stoa = disk.stoa("faults-room")?;
    stoa.cli(&["db", "create", "main", "--size", "1Gi"])?.ok()?;
    query(
        &stoa,
        "main",
        "CREATE TABLE kept AS SELECT n, repeat(md5(n::text), 30) AS text FROM generate_series(1, 50000) n",
    )?;
    with_base(&stoa)?;
    let before = names(&stoa)?;
    let filler = disk.fill("filler", 450 << 20)?;
    holds("it may only be read", || {
        Ok(info(&stoa, "main")?["storage_full"] == "pool")
    })?;
    for (words, code) in [
        (&["db", "create", "other"][..], REFUSED),
        (&["db", "branch", "main", "--as", "branch"], REFUSED),
        (&["db", "backup", "main"], REFUSED),
        (&["db", "drill", "main"], 1),
    ] {
        stoa.cli(words)?
            .exits(code)?
            .says("the storage pool has")?
            .says("make room on the server's disk")?;
        // Refused before anything was made: there is nothing to end.
        ensure!(names(&stoa)? == before, "{words:?} left {:?}", names(&stoa)?);
    }
    let rehearsal = format!("{ENVIRONMENT}/databases?dry_run=true");
    let reply = stoa
        .api()?
        .call("POST", &rehearsal, Some(&json!({"name": "other"})))?;
    let said = reply.body.to_string();
    ensure!(
        reply.status == 409 && said.contains("the storage pool has"),
        "{} {said}",
        reply.status
    );
    ensure!(unfinished(&stoa).is_empty(), "left: {:?}", unfinished(&stoa));
    stoa.cli(&["db", "ls"])?.ok()?.says("full, read only")?;
    ensure!(
        query(&stoa, "main", "SELECT count(*) FROM kept")? == "50000",
        "rows are missing"
    );
    let refused = ask(&stoa, "main", "INSERT INTO kept VALUES (0, '')")?;
    ensure!(
        refused.stderr.contains("read-only transaction"),
        "{}",
        refused.stderr
    );
    // What may be needed just now may take what is kept for those that run, but not all of it.
    let restore = ["db", "restore", "main", "--as", "restored", "--latest"];
    stoa.cli(&restore)?.ok()?;
    ensure!(
        query(&stoa, "restored", "SELECT count(*) FROM kept")? == "50000",
        "rows are missing"
    );
    stoa.cli(&["db", "destroy", "restored", "--confirm", "restored"])?
        .ok()?;
    let more = disk.fill("more", 100 << 20)?;
    stoa.cli(&restore)?.exits(REFUSED)?.says("the storage pool has")?;
    ensure!(names(&stoa)? == before, "something is left: {:?}", names(&stoa)?);
    // A server that dies meanwhile comes back with everything.
    for server in stoa.members("postgres -D") {
        server.signal(libc::SIGKILL)?;
    }
    holds("the server again", || {
        Ok(ask(&stoa, "main", "SELECT 1")?.code == 0)
    })?;
    ensure!(
        query(&stoa, "main", "SELECT count(*) FROM kept")? == "50000",
        "rows are missing"
    );

    fs::remove_file(filler)?;
    fs::remove_file(more)?;
    holds("it takes rows again", || {
        Ok(ask(&stoa, "main", "INSERT INTO kept VALUES (0, '')")?.code == 0)
    })?;
    stoa.cli(&["db", "branch", "main", "--as", "after"])?.ok()?;
    stoa.cli(&["db", "drill", "main"])?.ok()?;
    stoa.finish()
}

#[test]
fn f12_without_inodes_what_is_new_is_refused_and_what_runs_goes_on() -> Result<()> {
    let count = INODES.to_string();
    let make = ["mkfs.ext4", "-q", "-F", "-N", &count];
    let disk = Disk::of(&make, "faults-inodes", 4 * GIB)?;
    // A pool that has a volume stays where that is: this one copies, on a file system that makes no inodes.
    fs::create_dir_all(disk.point.join("data/volumes/volumes/earlier"))?;
    let stoa = disk.stoa("faults-inodes")?;
    Fleet::new(&stoa)?.deploy("plain", &Tiny::version(1))?;
    stoa.cli(&["db", "create", "main", "--size", "1Gi"])?.ok()?;
    query(
        &stoa,
        "main",
        "CREATE TABLE kept AS SELECT generate_series(1, 5000) AS n",
    )?;
    with_base(&stoa)?;
    let before = names(&stoa)?;
    let filler = disk.fill_inodes("many")?;
    for words in [
        &["db", "create", "other"][..],
        &["db", "branch", "main", "--as", "branch"],
        &["db", "restore", "main", "--as", "restored", "--latest"],
        &["db", "backup", "main"],
    ] {
        stoa.cli(words)?
            .exits(REFUSED)?
            .says("inodes free, and")?
            .says("df -i")?;
        ensure!(names(&stoa)? == before, "{words:?} left {:?}", names(&stoa)?);
    }
    // It has no room either, or finds that the receiver could make no file for the log: both are true.
    stoa.cli(&["db", "drill", "main"])?.exits(1)?;
    ensure!(unfinished(&stoa).is_empty(), "left: {:?}", unfinished(&stoa));
    // What is there is read and written on, also the store.
    for number in 1..=20 {
        query(&stoa, "main", &format!("INSERT INTO kept VALUES (-{number})"))?;
    }
    ensure!(
        query(&stoa, "main", "SELECT count(*) FROM kept")? == "5020",
        "rows are missing"
    );
    stoa.cli(&["status"])?.ok()?.says("plain")?;
    stoa.cli(&["environments", "create", "later"])?.ok()?;
    stoa.cli(&["environments", "ls"])?.ok()?.says("later")?;
    for _ in 0..50 {
        let answer = stoa.get("plain.localhost", "/")?;
        ensure!(answer.status == 200 && answer.text() == "1", "{answer:?}");
    }
    // A server that dies meanwhile comes back at the latest when there are inodes again.
    for server in stoa.members("postgres -D") {
        server.signal(libc::SIGKILL)?;
    }

    fs::remove_dir_all(filler)?;
    holds("every row, and new ones", || {
        Ok(ask(&stoa, "main", "INSERT INTO kept VALUES (0)")?.code == 0)
    })?;
    ensure!(
        query(&stoa, "main", "SELECT count(*) FROM kept")? == "5021",
        "rows are missing"
    );
    stoa.cli(&["db", "branch", "main", "--as", "after"])?.ok()?;
    ensure!(
        query(&stoa, "after", "SELECT count(*) FROM kept")? == "5021",
        "rows are missing in the branch"
    );
    holds("a drill that passes, with all of the log", || {
        Ok(stoa.cli(&["db", "drill", "main"])?.code == 0)
    })?;
    stoa.finish()
}

#[test]
fn f20_a_store_older_than_the_world_ends_no_data() -> Result<()> {
    let mut stoa = Stoa::start("faults-store")?;
    stoa.cli(&["db", "create", "main"])?.ok()?;
    query(
        &stoa,
        "main",
        "CREATE TABLE kept AS SELECT generate_series(1, 100) AS n",
    )?;
    stoa.interrupt()?;
    let (data, copy) = (stoa.data_dir(), stoa.root().join("copy"));
    run(Command::new("cp").arg("-a").arg(data.join("store")).arg(&copy))?;
    stoa.up()?;
    stoa.cli(&["db", "create", "late"])?.ok()?;
    query(
        &stoa,
        "late",
        "CREATE TABLE kept AS SELECT generate_series(1, 100) AS n",
    )?;
    let id = info(&stoa, "late")?["id"].as_str().context("no id")?.to_owned();
    stoa.interrupt()?;
    fs::remove_dir_all(data.join("store"))?;
    run(Command::new("cp").arg("-a").arg(&copy).arg(data.join("store")))?;
    stoa.up()?;
    holds("main serves", || Ok(ask(&stoa, "main", "SELECT 1")?.code == 0))?;
    ensure!(
        query(&stoa, "main", "SELECT count(*) FROM kept")? == "100",
        "rows are missing"
    );
    ensure!(names(&stoa)? == ["main"], "it knows of {:?}", names(&stoa)?);
    // What it does not know is ended, and its data stays.
    holds("only main's server runs", || {
        Ok(stoa.members("postgres -D").len() == 1)
    })?;
    let volume = format!("db-{}", id.trim_start_matches("db_").to_ascii_lowercase());
    let pool = stoa.data_dir().join("volumes");
    let places = [
        pool.join("volumes").join(&volume),
        pool.join("mnt/volumes").join(&volume),
    ];
    let cluster = places
        .iter()
        .map(|place| place.join("pgdata"))
        .find(|place| place.exists());
    let cluster = cluster.context("the data of what is not known is gone")?;
    ensure!(cluster.join("PG_VERSION").exists(), "its data is gone");
    // Everything goes on.
    stoa.cli(&["db", "branch", "main", "--as", "after"])?.ok()?;
    query(&stoa, "main", "INSERT INTO kept VALUES (0)")?;
    ensure!(cluster.join("PG_VERSION").exists(), "its data is gone");
    stoa.finish()
}
