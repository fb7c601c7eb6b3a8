//! Who notices what can happen to a backup: a drill of Stoa, `pgbackrest verify`, and `pg_dump` of what a restore brings back.
//!
//! Each fault of `journeys::damage` is done to three backups: a database of Stoa's; the repository of pgBackRest; and a plain
//! base of the same cluster with its archive. To notice is: the drill fails; `verify` reports an error or fails; the server
//! does not start from what was restored, or `pg_dump` of it fails. What is told is what was seen, fault by fault.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use journeys::damage::{self, COLD, FAULTS, FILES, Fault, LAST, Places, SEGMENT, SEGMENTS, failed, last};
use journeys::{Stoa, holds};

use super::Rounds;
use super::backrest::{self, Backrest};
use super::cluster::{BINARIES, Cluster, as_postgres, folder, own};

/// Enough to show that all three still say what they find.
const SHORT: [&str; 3] = [
    "a segment in the middle is missing",
    "a bit of a heap page",
    "an empty base",
];
const KEY: &str = "PGBACKREST_REPO2_CIPHER_PASS";
const HEAD: &str = "| what happened to the backup | drill | `pgbackrest verify` | `pg_dump` of what is restored |\n|---|---|---|---|\n";

/// What one of them said.
enum Seen {
    Caught(String),
    Missed,
    /// It has no such thing.
    Nothing,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Caught(how) => write!(f, "caught: {how}"),
            Self::Missed => f.write_str("**missed**"),
            Self::Nothing => f.write_str("-"),
        }
    }
}

/// A row for each fault.
pub fn run(rounds: Rounds) -> Result<String> {
    let stoa = Stoa::start("bench-drill")?;
    damage::prepare(&stoa)?;
    stoa.cli(&["db", "create", "other"])?.ok()?;
    damage::with_base(&stoa, "other")?;
    let peers = Peers::prepare(stoa.root())?;

    let mut text = HEAD.to_owned();
    let mut row = |what: &str, seen: [String; 3]| {
        let [drill, verify, dump] = seen;
        println!("   {what}: {drill} | {verify} | {dump}");
        let _infallible = writeln!(text, "| {what} | {drill} | {verify} | {dump} |");
    };
    let whole = [
        ours(&stoa, &["db", "drill", "main"])?,
        peers.verify()?,
        peers.dump()?,
    ];
    // Who cries without a reason catches nothing.
    for seen in &whole {
        ensure!(
            matches!(seen, Seen::Missed),
            "nothing happened, and one of them says {seen}"
        );
    }
    row("nothing", whole.map(|_| "passes".into()));
    let places = [Places::of(&stoa, "other")?, peers.repository()?, peers.plain()?];
    for Fault { what, happen, .. } in &FAULTS {
        if rounds.noise_counts && !SHORT.contains(what) {
            continue;
        }
        let mut seen = Vec::new();
        for (at, who) in places.iter().zip(0..) {
            let undo = happen(at).with_context(|| format!("could not do: {what}"))?;
            let found = match who {
                0 => ours(&stoa, &["db", "drill", "main"]),
                1 => peers.verify(),
                _ => peers.dump(),
            };
            undo().with_context(|| format!("could not undo: {what}"))?;
            seen.push(found?);
        }
        let seen: Result<[Seen; 3], _> = seen.try_into();
        let seen = seen.ok().context("three of them")?;
        row(what, seen.map(|seen| seen.to_string()));
    }
    if !rounds.noise_counts {
        row(
            "sealed with another key",
            [another_key(&stoa)?, peers.another_key()?, Seen::Nothing].map(|seen| seen.to_string()),
        );
    }
    peers.source.stop("immediate")?;
    stoa.finish()?;
    Ok(text)
}

fn ours(stoa: &Stoa, words: &[&str]) -> Result<Seen> {
    let said = stoa.cli(words)?;
    let drill = last(stoa)?;
    match drill["state"].as_str() {
        Some("failed") => Ok(Seen::Caught(failed(&drill).join(", "))),
        Some("passed") => said.ok().map(|_| Seen::Missed),
        Some(_) | None => anyhow::bail!("the drill was not done: {drill:#}"),
    }
}

/// The copy elsewhere is the sealed one.
fn another_key(stoa: &Stoa) -> Result<Seen> {
    let place = stoa.root().join("target");
    fs::create_dir(&place)?;
    let (data, to) = (
        stoa.data_dir().to_string_lossy().into_owned(),
        place.to_string_lossy().into_owned(),
    );
    stoa.cli(&[
        "server",
        "backup-target",
        "set",
        "--directory",
        &to,
        "--data-dir",
        &data,
    ])?
    .ok()?;
    holds("a base on the target", || {
        let found = stoa.cli(&["db", "backups", "main", "--json"])?.ok()?.json()?;
        Ok(found["elsewhere"]["base_at"].is_string())
    })?;
    let words = ["db", "drill", "main", "--from-target"];
    let whole = ours(stoa, &words)?;
    ensure!(
        matches!(whole, Seen::Missed),
        "nothing happened to the target, and its drill says {whole}"
    );
    damage::another_key(&place)?;
    ours(stoa, &words)
}

/// Two backups of one cluster, with the same table as ours; and one of another cluster beside each.
struct Peers {
    place: PathBuf,
    source: Cluster,
    backrest: Backrest,
    other: Backrest,
    files: [String; 2],
}

impl Peers {
    fn prepare(root: &Path) -> Result<Self> {
        let place = root.join("peers");
        for name in ["", "plain", "plain/archive"] {
            folder(&place.join(name))?;
        }
        let other = Cluster::init(&place.join("other"))?;
        let others = Backrest::prepare(
            &place.join("other-backrest"),
            &other,
            &Self::sealed(&place.join("other-sealed"))?,
        )?;
        let source = Cluster::init(&place.join("source"))?;
        let backrest = Backrest::prepare(&place.join("backrest"), &source, "compress-type=none")?;
        backrest.archive_also(&source, &place.join("plain/archive"))?;
        for (cluster, backrest, base) in [
            (&other, &others, "plain/other"),
            (&source, &backrest, "plain/base"),
        ] {
            cluster.start(&[])?;
            backrest.run(&["stanza-create"])?;
            if base == "plain/base" {
                for text in COLD {
                    cluster.sql("postgres", text)?;
                }
            }
            cluster.step(
                "pg_basebackup",
                &[
                    "--checkpoint=fast",
                    "--username=postgres",
                    "--wal-method=none",
                    "--host",
                    &cluster.place().display().to_string(),
                    "--pgdata",
                    &place.join(base).display().to_string(),
                ],
            )?;
            backrest.run(&["backup", "--type=full", "--repo=1"])?;
        }
        others.run(&["backup", "--type=full", "--repo=2"])?;
        other.stop("fast")?;
        for _ in 0..SEGMENTS {
            for text in SEGMENT {
                source.sql("postgres", text)?;
            }
        }
        source.sql("postgres", LAST)?;
        backrest::archived(&source)?;
        Ok(Self {
            files: [
                source.sql("postgres", FILES[0])?,
                source.sql("postgres", FILES[1])?,
            ],
            place,
            source,
            backrest,
            other: others,
        })
    }

    /// Files as they are, so that a fault hits the same byte in each; and a second repository, sealed.
    fn sealed(place: &Path) -> Result<String> {
        folder(place)?;
        Ok(format!(
            "compress-type=none\nrepo2-path={}\nrepo2-cipher-type=aes-256-cbc\nrepo2-cipher-pass=the-right-one",
            place.display()
        ))
    }

    fn repository(&self) -> Result<Places> {
        let base = newest_backup(&self.backrest.repository())?;
        self.places(
            "pg_data",
            "backup.manifest",
            base,
            newest_backup(&self.other.repository())?,
            segments(&self.backrest.repository().join("archive"))?,
        )
    }

    fn plain(&self) -> Result<Places> {
        self.places(
            "",
            "backup_manifest",
            self.place.join("plain/base"),
            self.place.join("plain/other"),
            segments(&self.place.join("plain/archive"))?,
        )
    }

    fn places(
        &self,
        cluster: &str,
        list: &str,
        base: PathBuf,
        other: PathBuf,
        mut segments: Vec<PathBuf>,
    ) -> Result<Places> {
        let cluster = match cluster {
            "" => base.clone(),
            below => base.join(below),
        };
        let [heap, index] = &self.files;
        Ok(Places {
            heap: cluster.join(heap),
            index: cluster.join(index),
            list: base.join(list),
            open: segments.pop().context("nothing is archived")?,
            closed: segments,
            aside: self.place.join("aside"),
            other,
            cluster,
            base,
        })
    }

    fn verify(&self) -> Result<Seen> {
        verdict(self.backrest.ask(&["verify", "--output=text"])?)
    }

    /// The peer's own sealed repository is whole, and is then opened with another key.
    fn another_key(&self) -> Result<Seen> {
        let words = ["verify", "--output=text", "--repo=2"];
        let whole = verdict(self.other.ask(&words)?)?;
        ensure!(
            matches!(whole, Seen::Missed),
            "nothing happened, and the peer says {whole}"
        );
        verdict(self.other.ask_with(&words, &[(KEY, "another-one")])?)
    }

    /// Restores the plain base with its archive, starts it and dumps everything.
    fn dump(&self) -> Result<Seen> {
        let place = self.place.join("restored");
        let copy = Cluster::prepare(&place)?;
        let from = self.place.join("plain/base");
        let data = place.join("data");
        if !from.exists() {
            // What is restored of an empty base is empty.
            folder(&data)?;
        } else {
            let copied = Command::new("cp")
                .arg("--archive")
                .arg(&from)
                .arg(&data)
                .status()?;
            ensure!(copied.success(), "cp: {copied}");
        }
        fs::write(data.join("recovery.signal"), "")?;
        own(&data.join("recovery.signal"))?;
        let seen = self.dump_of(&copy);
        if data.join("postmaster.pid").exists() {
            copy.stop("immediate")?;
        }
        drop(copy);
        fs::remove_dir_all(&place)?;
        seen
    }

    fn dump_of(&self, copy: &Cluster) -> Result<Seen> {
        if copy.place().join("data/postgresql.conf").exists() {
            let archive = self.place.join("plain/archive");
            copy.configure(&format!("restore_command = 'cp {}/%f %p'\n", archive.display()))?;
        }
        if copy.start(&["archive_mode=off"]).is_err() {
            return Ok(Seen::Caught("no start".into()));
        }
        holds("the end of the replay", || {
            Ok(copy
                .sql("postgres", "SELECT pg_is_in_recovery()")
                .is_ok_and(|answer| answer == "f"))
        })?;
        let dumped = as_postgres(&format!("{BINARIES}/pg_dump"))
            .args(["--username=postgres", "--file=/dev/null", "--host"])
            .arg(copy.place())
            .arg("postgres")
            .output()?;
        Ok(match dumped.status.success() {
            true => Seen::Missed,
            false => Seen::Caught("`pg_dump` fails".into()),
        })
    }
}

/// It fails, says that something is wrong, or warns.
fn verdict(said: std::process::Output) -> Result<Seen> {
    let text = String::from_utf8(said.stdout)? + &String::from_utf8(said.stderr)?;
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    Ok(match said.status.success() {
        false => Seen::Caught("it fails".into()),
        true if has(&["status: error", "ERROR:"]) => Seen::Caught("said, exit code 0".into()),
        true if has(&["WARN:"]) => Seen::Caught("warned, exit code 0".into()),
        true => Seen::Missed,
    })
}

fn newest_backup(repository: &Path) -> Result<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(repository.join("backup/main"))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("backup.manifest").exists() && !path.ends_with("latest"))
        .collect();
    all.sort();
    all.pop().context("no backup")
}

/// Archived segments below a directory, oldest first.
fn segments(archive: &Path) -> Result<Vec<PathBuf>> {
    let mut all = damage::objects(archive)?;
    all.retain(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let (segment, rest) = name.split_at_checked(24).unwrap_or_default();
        // With their checksum behind them, or alone; a list of what a backup needs ends in `.backup`.
        segment.bytes().all(|byte| byte.is_ascii_hexdigit())
            && !segment.is_empty()
            && (rest.is_empty() || rest.starts_with('-'))
    });
    Ok(all)
}
