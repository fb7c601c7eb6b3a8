//! Backups elsewhere: a database comes back on an empty Stoa from the target and its key alone; what was done to the target
//! is found and named; a target that goes away and comes back loses nothing.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use journeys::process::Process;
use journeys::{Answer, PATIENCE, Stoa, holds, repository, until};
use serde_json::Value;

fn query(stoa: &Stoa, database: &str, sql: &str) -> Result<String> {
    let words = ["db", "connect", "--no-terminal", database, "--", "-Atc", sql];
    Ok(stoa.cli(&words)?.ok()?.stdout.trim().to_owned())
}

fn switch(stoa: &Stoa) -> Result<()> {
    let sql = "SELECT pg_switch_wal()";
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
    stoa.cli(&words)?.ok().map(drop)
}

fn notes(stoa: &Stoa, database: &str) -> Result<String> {
    query(
        stoa,
        database,
        "SELECT string_agg(note, ',' ORDER BY id) FROM notes",
    )
}

fn write(stoa: &Stoa, note: &str) -> Result<()> {
    query(
        stoa,
        "main",
        &format!("INSERT INTO notes (note) VALUES ('{note}')"),
    )
    .map(drop)
}

fn with_database(stoa: &Stoa) -> Result<()> {
    stoa.cli(&["db", "create", "main"])?.ok()?;
    query(
        stoa,
        "main",
        "CREATE TABLE notes (id bigserial PRIMARY KEY, note text UNIQUE)",
    )?;
    write(stoa, "one")
}

/// `stoa server ...`, as root on the host, with something on standard input.
fn server(stoa: &Stoa, words: &[&str], input: &str) -> Result<Answer> {
    let data = stoa.data_dir().to_string_lossy().into_owned();
    let all = [&["server"], words, &["--data-dir", &data]].concat();
    stoa.cli_in(stoa.root(), &all, input.as_bytes())
}

fn elsewhere(stoa: &Stoa) -> Result<Value> {
    let mut found = stoa.cli(&["db", "backups", "main", "--json"])?.ok()?.json()?;
    Ok(found["elsewhere"].take())
}

/// Waits until everything that was committed by now, and a base, is on the target; how long that took.
fn uploaded(stoa: &Stoa) -> Result<Duration> {
    let begun = Instant::now();
    let now = query(
        stoa,
        "main",
        r#"SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"#,
    )?;
    holds("the backup on the target", || {
        let found = elsewhere(stoa)?;
        let until = found["until"].as_str().unwrap_or_default();
        Ok(until >= now.as_str() && found["base_at"].is_string())
    })?;
    Ok(begun.elapsed())
}

fn kept(stoa: &Stoa) -> Result<Value> {
    stoa.cli(&["db", "backups", "--target", "--json"])?.ok()?.json()
}

/// Files of the target whose path contains a text.
fn objects(folder: &Path, text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.append(&mut objects(&path, text)?);
        } else if path.to_string_lossy().contains(text) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn a_database_comes_back_on_an_empty_stoa() -> Result<()> {
    let place = tempfile_in("elsewhere")?;
    let path = place.0.to_string_lossy().into_owned();
    let first = Stoa::start("elsewhere-one")?;
    with_database(&first)?;
    server(&first, &["backup-target", "view"], "")?
        .exits(3)?
        .has_next_step()?;
    server(&first, &["backup-target", "set", "--directory", "/nowhere"], "")?
        .exits(1)?
        .says("/nowhere")?
        .has_next_step()?;
    let key = server(&first, &["backup-target", "set", "--directory", &path], "")?.ok()?;
    let key = key.stdout.trim().to_owned();
    ensure!(key.starts_with("stoa-backup-key:"), "no key: {key}");

    // It is shown once, and until somebody proves to have it, that is told.
    server(&first, &["backup-target", "view"], "")?
        .ok()?
        .says("NOT ESCROWED")?;
    let wrong = key.replacen('0', "1", 1);
    server(&first, &["backup-key", "check"], &wrong)?
        .exits(1)?
        .has_next_step()?;
    server(&first, &["backup-key", "check"], &key)?
        .ok()?
        .says("kept elsewhere")?;

    write(&first, "two")?;
    switch(&first)?;
    write(&first, "three")?;
    uploaded(&first)?;
    write(&first, "four")?;
    let took = uploaded(&first)?;
    println!(
        "RPO: what was committed was on the target {:.1} s later",
        took.as_secs_f64()
    );
    ensure!(took < Duration::from_secs(60), "the last row took {took:?}");
    let told = elsewhere(&first)?;
    ensure!(
        told["stale"] == false && told["key_escrowed"] == true,
        "not well: {told:#}"
    );
    for object in objects(&place.0, "")? {
        let text = fs::read(&object)?;
        let is_clear = ["notes", "four"]
            .iter()
            .any(|word| text.windows(word.len()).any(|w| w == word.as_bytes()));
        ensure!(!is_clear, "{} is not sealed", object.display());
    }
    let before = objects(&place.0, "")?;
    server(&first, &["backup-target", "remove", "--confirm", "another"], "")?.exits(2)?;
    first.finish()?;

    let second = Stoa::start("elsewhere-two")?;
    let file = second.root().join("backup.key");
    let file_name = file.to_string_lossy().into_owned();
    let set = [
        "backup-target",
        "set",
        "--directory",
        &path,
        "--key-file",
        &file_name,
    ];
    fs::write(
        &file,
        "stoa-backup-key:0707070707070707070707070707070707070707070707070707070707070707:04dea595",
    )?;
    server(&second, &set, "")?
        .exits(1)?
        .says("428ef498cd619056")?
        .says("opens nothing there")?
        .has_next_step()?;
    fs::write(&file, &key)?;
    server(&second, &set, "")?.ok()?;
    second
        .cli(&["db", "backups", "--target"])?
        .ok()?
        .says("main of default/default/production")?
        .says("restorable")?;
    let listed = kept(&second)?;
    ensure!(
        listed[0]["own"] == false && listed[0]["problems"] == serde_json::json!([]),
        "{listed:#}"
    );

    damage_is_found(&second, &place.0)?;

    let begun = Instant::now();
    let restore = [
        "db",
        "restore",
        "main",
        "--from-target",
        "--as",
        "back",
        "--latest",
    ];
    second
        .cli(&restore)?
        .ok()?
        .says("with the data of main as of the latest")?;
    println!(
        "RTO: restored from the target in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    ensure!(
        notes(&second, "back")? == "one,two,three,four",
        "other rows: {}",
        notes(&second, "back")?
    );
    second
        .cli(&[
            "db",
            "restore",
            "nothing",
            "--from-target",
            "--as",
            "never",
            "--latest",
        ])?
        .exits(6)?
        .says("no database")?
        .has_next_step()?;
    let early = ["--at", "2020-01-01T00:00:00Z"];
    second
        .cli(
            &[
                &["db", "restore", "main", "--from-target", "--as", "never"][..],
                &early,
            ]
            .concat(),
        )?
        .exits(1)?
        .says("lies outside")?;
    ensure!(
        before.iter().all(|object| object.exists()),
        "an object of the other server is gone"
    );
    // The other server's objects are as they were; its own come beside them.
    let before = objects(&place.0, listed[0]["backup_server"].as_str().unwrap_or_default())?;
    query(&second, "back", "INSERT INTO notes (note) VALUES ('after')")?;
    holds("a backup of its own", || {
        let all = kept(&second)?;
        let own = all
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["own"] == true);
        Ok(own.is_some_and(|own| {
            own["windows"]
                .as_array()
                .is_some_and(|windows| !windows.is_empty())
        }))
    })?;
    ensure!(
        objects(&place.0, listed[0]["backup_server"].as_str().unwrap_or_default())? == before,
        "another server's objects were touched"
    );
    let view = server(&second, &["backup-target", "view", "--json"], "")?
        .ok()?
        .json()?;
    let fingerprint = view["key_fingerprint"].as_str().context("no fingerprint")?;
    server(
        &second,
        &["backup-target", "remove", "--confirm", fingerprint],
        "",
    )?
    .ok()?;
    server(&second, &["backup-target", "view"], "")?.exits(3)?;
    ensure!(
        before.iter().all(|object| object.exists()),
        "removing the target removed what is there"
    );
    second.finish()
}

/// Each is done to the target, found, named, and undone.
fn damage_is_found(stoa: &Stoa, place: &Path) -> Result<()> {
    let segments = objects(place, "/wal/")?;
    let parts: Vec<PathBuf> = objects(place, "/base/")?
        .into_iter()
        .filter(|path| !path.ends_with("manifest"))
        .collect();
    let (Some(segment), Some(part)) = (segments.first(), parts.last()) else {
        anyhow::bail!("nothing is there: {segments:?} {parts:?}")
    };
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let restore = [
        "db",
        "restore",
        "main",
        "--from-target",
        "--as",
        "never",
        "--latest",
    ];
    let refused = |object: &Path, what: &str| -> Result<()> {
        let answer = stoa.cli(&restore)?;
        ensure!(answer.code != 0, "{what} was restored");
        answer.says(&name(object)).with_context(|| what.to_owned())?;
        stoa.cli(&["db", "destroy", "never", "--confirm", "never"])?
            .ok()
            .map(drop)
    };
    // By name and size it shows in the list.
    let whole = fs::read(part)?;
    fs::write(part, &whole[..whole.len() - 1])?;
    stoa.cli(&["db", "backups", "--target"])?
        .ok()?
        .says("DAMAGED")?
        .says(&name(part))?;
    fs::remove_file(part)?;
    stoa.cli(&["db", "backups", "--target"])?
        .ok()?
        .says("is not there")?
        .says(&name(part))?;
    // What is in it shows when it is opened.
    let mut altered = whole.clone();
    altered[whole.len() / 2] ^= 1;
    fs::write(part, &altered)?;
    refused(part, "an altered part")?;
    fs::write(part, &whole)?;
    let (one, other) = (fs::read(segment)?, fs::read(&segments[1])?);
    // Cut or filled up to the same size, so that only its name gives it away.
    let mut swapped = other;
    swapped.resize(one.len(), 0);
    fs::write(segment, &swapped)?;
    refused(segment, "another segment in its place")?;
    fs::write(segment, &one)?;
    Ok(())
}

/// A directory that goes away with the journey.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn tempfile_in(name: &str) -> Result<Folder> {
    let path = std::env::temp_dir().join(format!("stoa-target-{name}-{}", std::process::id()));
    fs::create_dir_all(&path)?;
    Ok(Folder(path))
}

const ACCESS: &str = "AKIAJOURNEY";
const SECRET: &str = "a-secret-of-the-journey";

/// A real S3 server, over a directory of its own.
struct Server {
    child: Child,
    folder: Folder,
    address: SocketAddr,
}

impl Server {
    fn start() -> Result<Self> {
        let folder = tempfile_in("s3")?;
        fs::create_dir_all(folder.0.join("backup"))?;
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let child = Self::spawn(&folder.0, address)?;
        Ok(Self {
            child,
            folder,
            address,
        })
    }

    fn spawn(folder: &Path, address: SocketAddr) -> Result<Child> {
        let program = repository().join("target/s3s-fs/bin/s3s-fs");
        let child = Command::new(&program)
            .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--access-key", ACCESS, "--secret-key", SECRET])
            .arg(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{}: install it: cargo xtask packages", program.display()))?;
        until("the S3 server", PATIENCE, || Ok(TcpStream::connect(address).ok()))?;
        Ok(child)
    }

    fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let process = Process::of(i32::try_from(self.child.id())?).context("the S3 server is gone")?;
        process.signal(signal)
    }

    fn again(&mut self) -> Result<()> {
        self.child = Self::spawn(&self.folder.0, self.address)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn an_s3_server_that_dies_and_comes_back_has_everything() -> Result<()> {
    let mut s3 = Server::start()?;
    let endpoint = format!("http://{}", s3.address);
    let set = [
        "backup-target",
        "set",
        "--s3",
        &endpoint,
        "--bucket",
        "backup",
        "--prefix",
        "stoa/one",
        "--access-key",
        ACCESS,
    ];
    let mut first = Stoa::start("elsewhere-s3")?;
    with_database(&first)?;
    server(&first, &set, "not-the-secret")?
        .exits(6)?
        .has_next_step()?;
    let key = server(&first, &set, SECRET)?.ok()?.stdout.trim().to_owned();
    // Killed while the base and log are on their way.
    let bulk = "INSERT INTO notes (note) SELECT md5(n::text) || repeat(md5((n * 7)::text), 40) FROM generate_series(1, 40000) n";
    query(&first, "main", bulk)?;
    let parts = s3.folder.0.join("backup/stoa/one");
    until("an upload under way", PATIENCE, || {
        Ok((parts.exists() && !objects(&parts, "/wal/")?.is_empty()).then_some(()))
    })?;
    s3.kill()?;
    write(&first, "while it was away")?;
    switch(&first)?;
    holds("the failure to be told", || {
        Ok(elsewhere(&first)?["upload_error"].is_string())
    })?;
    first
        .cli(&["db", "backups", "main"])?
        .ok()?
        .says("the last try failed")?
        .says("received as it is written")?;
    // A target that does not answer says nothing of what is on it.
    first
        .cli(&["db", "drill", "main", "--from-target"])?
        .exits(1)?
        .says(&endpoint)?
        .has_next_step()?;
    let drilled = first
        .cli(&["db", "drills", "main", "last", "--json"])?
        .ok()?
        .json()?;
    ensure!(
        drilled["state"] == "undone" && drilled["why"].as_str().is_some_and(|why| why.contains(&endpoint)),
        "{drilled:#}"
    );
    server(&first, &["backup-target", "verify"], "")?
        .exits(1)?
        .says(&endpoint)?;
    s3.again()?;
    // Control is killed while it puts what waited there.
    for _kill in 0..3 {
        std::thread::sleep(Duration::from_secs(1));
        first.part("control")?.signal(libc::SIGKILL)?;
        until("control to come back", PATIENCE, || Ok(elsewhere(&first).ok()))?;
    }
    uploaded(&first)?;
    holds("the error to go", || {
        Ok(elsewhere(&first)?["upload_error"].is_null())
    })?;
    // One that hangs does not keep Stoa from its end.
    s3.signal(libc::SIGSTOP)?;
    write(&first, "while it hung")?;
    switch(&first)?;
    std::thread::sleep(Duration::from_secs(5));
    let begun = Instant::now();
    let ended = first.interrupt();
    s3.signal(libc::SIGCONT)?;
    ended?;
    let took = begun.elapsed();
    println!("end while the S3 server hangs: {:.1} s", took.as_secs_f64());
    ensure!(took < Duration::from_secs(10), "the end took {took:?}");
    first.up()?;
    write(&first, "last")?;
    let took = uploaded(&first)?;
    println!(
        "RPO: what was committed was in the bucket {:.1} s later",
        took.as_secs_f64()
    );
    first
        .cli(&["db", "drill", "main", "--from-target"])?
        .ok()?
        .says("brings it back")?;
    server(&first, &["backup-target", "verify"], "")?
        .ok()?
        .says("is as it was put there")?;
    let expected = query(
        &first,
        "main",
        "SELECT count(*) || md5(string_agg(note, ',' ORDER BY id)) FROM notes",
    )?;
    let listed = kept(&first)?;
    ensure!(
        listed[0]["problems"] == serde_json::json!([]) && listed[0]["gaps"] == serde_json::json!([]),
        "{listed:#}"
    );
    first.finish()?;

    let second = Stoa::start("elsewhere-s3-two")?;
    let file = second.root().join("backup.key");
    fs::write(&file, &key)?;
    let file = file.to_string_lossy().into_owned();
    let with_key = [&set[..], &["--key-file", &file]].concat();
    server(&second, &with_key, SECRET)?.ok()?;
    second
        .cli(&[
            "db",
            "restore",
            "main",
            "--from-target",
            "--as",
            "back",
            "--latest",
        ])?
        .ok()?;
    let found = query(
        &second,
        "back",
        "SELECT count(*) || md5(string_agg(note, ',' ORDER BY id)) FROM notes",
    )?;
    ensure!(found == expected, "{found} instead of {expected}");
    second.finish()
}
