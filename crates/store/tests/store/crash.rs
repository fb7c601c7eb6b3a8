//! `kill -9` at random: every acknowledged write is there afterwards, and nothing is half there.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{App, Dice, Place, app, at};
use serde_json::json;
use store::{AuditEntry, AuditVerdict, ReadTx, Store, StoreError};

const TRIALS: u64 = 20;
const WRITERS: u64 = 3;

/// What the child does to one id: a row, a number and an audit record in one transaction.
fn insert(store: &Store, id: &str) -> Result<u64, StoreError> {
    store.write(at(1), |tx| {
        tx.audit_begin(&AuditEntry {
            actor: "child".into(),
            action: "insert".into(),
            object: id.into(),
            decision: "allowed".into(),
            detail: json!({}),
        })?;
        let number = tx.next_number("n")?;
        tx.insert(&App {
            image: "x".repeat(300),
            ..app(id, "p", id)
        })?;
        Ok(number)
    })
}

/// Not a test: the process that is killed. It says `ack ID` after each acknowledged write.
#[test]
#[ignore = "run by the crash tests in a process of its own"]
fn child() {
    let Ok(dir) = std::env::var("STORE_CRASH_DIR") else {
        return;
    };
    let store =
        Store::open(&std::path::Path::new(&dir).join("stoa.db"), &crate::key(), at(1)).expect("opens");
    let say = |line: String| {
        std::io::stderr()
            .write_all(line.as_bytes())
            .expect("the parent listens");
    };
    let epoch = store.epoch();
    let next = AtomicU64::new(0);
    let until: u64 =
        std::env::var("STORE_CRASH_UNTIL").map_or(u64::MAX, |text| text.parse().expect("a number"));
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= until {
                        break;
                    }
                    match insert(&store, &format!("{epoch}-{n}")) {
                        Ok(_) => say(format!("ack {epoch}-{n}\n")),
                        Err(failure) => say(format!("refused {epoch}-{n} {failure}\n")),
                    }
                }
            });
        }
    });
    say("end\n".into());
}

fn spawn(place: &Place, around: &[&str], until: u64) -> Child {
    let exe = std::env::current_exe().expect("this program");
    let mut words: Vec<std::ffi::OsString> = around.iter().map(Into::into).collect();
    words.push(exe.into());
    words.extend(["--exact", "crash::child", "--ignored", "--nocapture"].map(Into::into));
    Command::new(&words[0])
        .args(&words[1..])
        .env("STORE_CRASH_DIR", place.db().parent().expect("a directory"))
        .env("STORE_CRASH_UNTIL", until.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the child starts")
}

/// Everything acknowledged is there, every table agrees with every other, and it still takes writes.
fn check(place: &Place, acks: &mut BTreeSet<String>, may_be_more: u64) {
    let store = place.open();
    let rows = store.read(|tx| tx.list::<App>("p")).unwrap();
    let rows: BTreeSet<String> = rows.into_iter().map(|row| row.row.id).collect();
    let lost: Vec<_> = acks.difference(&rows).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let extra = rows.len() - acks.len();
    assert!(extra as u64 <= may_be_more, "{extra} rows nobody was told of");
    assert!(store.read(ReadTx::verify).unwrap().bad.is_empty());
    let audit = store.read(|tx| tx.audit_verify(None)).unwrap();
    assert_eq!(
        audit,
        AuditVerdict::Whole {
            records: rows.len() as u64
        }
    );
    let id = format!("check-{}", rows.len());
    assert_eq!(
        insert(&store, &id).unwrap(),
        rows.len() as u64 + 1,
        "a number was lost or given twice"
    );
    acks.insert(id);
}

#[test]
fn every_acknowledged_write_survives_kill_9() {
    let place = Place::new();
    let seed = u64::from(std::process::id());
    let mut dice = Dice(seed);
    let mut acks = BTreeSet::new();
    for trial in 0..TRIALS {
        let mut child = spawn(&place, &[], u64::MAX);
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut wanted = dice.below(150);
        // One trial in four is killed while opening, before anything is acknowledged.
        if trial % 4 == 3 {
            wanted = 0;
        }
        while wanted > 0 {
            let line = lines.next().expect("the child goes on").expect("text");
            if let Some(id) = line.strip_prefix("ack ") {
                acks.insert(id.to_owned());
                wanted -= 1;
            }
        }
        child.kill().expect("the child is there to be killed");
        child.wait().expect("the child ends");
        // What it acknowledged before it died is still in the pipe; a line cut short was not said.
        acks.extend(
            lines
                .map_while(Result::ok)
                .filter_map(|line| line.strip_prefix("ack ").map(str::to_owned)),
        );
        println!("seed {seed} trial {trial}: {} acknowledged", acks.len());
        check(&place, &mut acks, (trial + 1) * WRITERS);
    }
}

#[test]
fn a_failed_sync_is_not_acknowledged_and_the_next_write_works() {
    if Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        println!("SKIPPED: strace is not installed");
        return;
    }
    for (call, first) in [
        ("fsync,fdatasync", 12),
        ("fsync,fdatasync", 20),
        ("pwrite64", 60),
        ("pwrite64", 95),
    ] {
        let place = Place::new();
        drop(place.open());
        let traced = format!("trace={call}");
        let inject = format!("inject={call}:error=EIO:when={first}..{}", first + 2);
        let around = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &traced,
            "-e",
            &inject,
        ];
        let child = spawn(&place, &around, 200);
        let output = child.wait_with_output().expect("the child ends");
        let text = String::from_utf8_lossy(&output.stderr);
        let named = |word: &str| -> BTreeSet<String> {
            let of = |line: &str| line.strip_prefix(word)?.split(' ').next().map(str::to_owned);
            text.lines().filter_map(of).collect()
        };
        let (mut acks, refusals) = (named("ack "), named("refused "));
        println!(
            "{call} from {first}: {} acknowledged, {} refused",
            acks.len(),
            refusals.len()
        );
        assert!(
            text.lines().any(|line| line == "end"),
            "the child did not end by itself:\n{text}"
        );
        assert!(!refusals.is_empty(), "the fault was never hit:\n{text}");
        assert!(
            text.lines()
                .rev()
                .skip(1)
                .take(5)
                .any(|line| line.starts_with("ack ")),
            "did not recover:\n{text}"
        );
        check(&place, &mut acks, refusals.len() as u64);
    }
}

/// An ext4 of our own on a loop device, so that its power can be cut.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new() -> Option<Self> {
        let disk = Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
        };
        std::fs::create_dir(disk.dir.path().join("disk")).expect("a mount point");
        let image = disk.dir.path().join("image");
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(64 << 20))
            .expect("an image");
        let image = image.to_str().expect("a plain name").to_owned();
        let able = run(&["mkfs.ext4", "-q", &image]) && run(&["xfs_io", "-V"]) && disk.mount();
        able.then_some(disk)
    }

    fn point(&self) -> String {
        self.dir
            .path()
            .join("disk")
            .to_str()
            .expect("a plain name")
            .to_owned()
    }

    fn mount(&self) -> bool {
        let image = self.dir.path().join("image");
        run(&[
            "mount",
            "-o",
            "loop",
            image.to_str().expect("a plain name"),
            &self.point(),
        ])
    }

    /// Whatever was not synced is gone: the journal is not flushed.
    fn cut_power(&self) -> bool {
        run(&["xfs_io", "-x", "-c", "shutdown", &self.point()])
    }

    fn unmount(&self) -> bool {
        run(&["umount", &self.point()])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn run(words: &[&str]) -> bool {
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn every_acknowledged_write_survives_a_power_cut() {
    let Some(disk) = Disk::new() else {
        println!("SKIPPED: needs root, loop devices, mkfs.ext4 and xfs_io");
        return;
    };
    let place = Place::at(disk.point().into());
    let mut dice = Dice(u64::from(std::process::id()));
    let mut acks = BTreeSet::new();
    for trial in 0..8 {
        let mut child = spawn(&place, &[], u64::MAX);
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .expect("a pid");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        for _ in 0..1 + dice.below(200) {
            let line = lines.next().expect("the child goes on").expect("text");
            acks.extend(line.strip_prefix("ack ").map(str::to_owned));
        }
        // Stopped first, and seen to be: a sync under way while the file system goes away would report success.
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("the child is there");
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED).expect("it stops");
        assert!(disk.cut_power(), "the power is cut");
        child.kill().expect("the child is there to be killed");
        child.wait().expect("the child ends");
        acks.extend(
            lines
                .map_while(Result::ok)
                .filter_map(|line| line.strip_prefix("ack ").map(str::to_owned)),
        );
        assert!(disk.unmount() && disk.mount(), "the power comes back");
        println!("trial {trial}: {} acknowledged", acks.len());
        check(&place, &mut acks, (trial + 1) * WRITERS);
    }
}
