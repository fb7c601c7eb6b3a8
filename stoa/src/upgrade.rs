//! `stoa server upgrade`: has the running Stoa of this machine become another binary.
//!
//! Lives here: everything that is checked before, asking the warden, following it.
//! Does not live here: the steps themselves and the way back (`warden`), the warden's end (`takeover`).
//! Invariant: until the warden is asked nothing of the running Stoa has changed; the store is tried on a copy.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use cli::UpgradeArgs;
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use store::Store;
use warden::{Lock, LockError, Taker};

use crate::about::About;
use crate::places::Places;
use crate::{Failure, chain, print, takeover};

/// For a binary to say what it is.
const SAYS_WITHIN: Duration = Duration::from_secs(20);
/// For a binary to migrate a copy of the store.
const MIGRATES_WITHIN: Duration = Duration::from_secs(600);
/// For the warden: each new part has a minute, and so has each old one when it comes back.
const HAPPENS_WITHIN: Duration = Duration::from_secs(360);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What a binary may say of itself.
const WORDS_MAX: u64 = 64 << 10;

pub(crate) fn run(args: &UpgradeArgs, json: bool) -> Result<ExitCode, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            "stoa server upgrade needs root, as stoa up does",
            "run it as root: sudo stoa server upgrade --to BINARY",
        ));
    }
    let places = Places::find(&args.data_dir).map_err(|cause| {
        Failure::new(
            format!("there is no Stoa in {}: {cause}", args.data_dir.display()),
            "name its data directory: stoa server upgrade --to BINARY --data-dir DIR",
        )
    })?;
    let warden = running_warden(&places)?;
    let binary = program(&args.to)?;
    let _only_one = alone(&places)?;
    let about = examine(&binary)?;
    eprintln!("{} is Stoa {}", binary.display(), about.version);
    try_store(&places, &binary)?;
    eprintln!("it opens a copy of the store");
    ask(&places, warden, &binary)?;
    follow(&places, warden)?;
    if json {
        let told = json!({
            "state": "upgraded",
            "version": about.version,
            "binary": binary,
            "process": warden.as_raw_nonzero().get(),
        });
        print(&format!("{told}\n"))?;
    } else {
        print(&format!(
            "Stoa {} runs from {}.\n",
            about.version,
            binary.display()
        ))?;
        eprintln!(
            "next: install it where your service starts it from, so that it is started at the next boot too"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The process that runs Stoa there.
fn running_warden(places: &Places) -> Result<Pid, Failure> {
    let cause = match Lock::take(&places.data, Taker::Command) {
        Ok(_free) => {
            return Err(Failure::new(
                format!(
                    "no Stoa runs on {}, so there is nothing to take over",
                    places.data.display()
                ),
                "start the new binary itself: BINARY up",
            ));
        }
        Err(cause) => cause,
    };
    let pid = match &cause {
        LockError::Held {
            pid: Some(pid),
            taker: Taker::Warden,
            ..
        } => i32::try_from(*pid).ok().and_then(Pid::from_raw),
        LockError::Held { .. } | LockError::File { .. } => None,
    };
    pid.ok_or_else(|| Failure::new(chain(&cause), cause.next()))
}

fn program(path: &Path) -> Result<PathBuf, Failure> {
    let refuse = |why: String| {
        Failure::new(
            why,
            "give the path of a binary of Stoa: stoa server upgrade --to BINARY",
        )
    };
    let found = path
        .canonicalize()
        .map_err(|cause| refuse(format!("there is no {}: {cause}", path.display())))?;
    let meta = fs::metadata(&found).map_err(|cause| refuse(format!("{}: {cause}", found.display())))?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return Err(refuse(format!("{} is not an executable file", found.display())));
    }
    Ok(found)
}

/// Two upgrades at a time would follow each other's progress.
fn alone(places: &Places) -> Result<File, Failure> {
    let failed = |cause: std::io::Error| {
        let message = format!("could not use {}: {cause}", places.upgrade().display());
        Failure::new(message, "check the data directory: stoa doctor")
    };
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(places.upgrade())
        .map_err(failed)?;
    let file = File::create(places.upgrade().join("lock")).map_err(failed)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Failure::new(
            "another upgrade of this Stoa is under way",
            "wait for it: stoa status",
        )
    })?;
    Ok(file)
}

/// Runs the binary: is it a Stoa, and one that can take over?
fn examine(binary: &Path) -> Result<About, Failure> {
    let said = bounded(Command::new(binary).arg("__about"), SAYS_WITHIN);
    let said = said.map_err(|cause| {
        Failure::new(
            format!("{} does not run: {cause}", binary.display()),
            "was it built for this machine? try: BINARY --version",
        )
    })?;
    let about = About::read(&String::from_utf8_lossy(&said.stdout)).filter(|_| said.status.success());
    let about = about.ok_or_else(|| {
        Failure::new(
            format!(
                "{} is not a Stoa that can take over ({})",
                binary.display(),
                said.status
            ),
            "give another one: stoa server upgrade --to BINARY",
        )
    })?;
    if about.takeover != About::ours().takeover {
        let message = format!(
            "{} (Stoa {}) hands over by rule {}, this one by rule {}",
            binary.display(),
            about.version,
            about.takeover,
            About::ours().takeover
        );
        let next = "stop this one with SIGTERM (applications go on), then start the new binary: BINARY up";
        return Err(Failure::new(message, next));
    }
    Ok(about)
}

/// Has the binary migrate and open a copy of the store.
fn try_store(places: &Places, binary: &Path) -> Result<(), Failure> {
    let dir = places.upgrade().join("store");
    let unmade = |cause: std::io::Error| {
        let message = format!("the store could not be copied for a trial: {cause}");
        Failure::new(
            message,
            "free some room on the data directory's disk, then upgrade again",
        )
    };
    // Of a trial that was cut off.
    match fs::remove_dir_all(&dir) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(unmade(cause)),
        Ok(()) | Err(_) => {}
    }
    fs::DirBuilder::new().mode(0o700).create(&dir).map_err(unmade)?;
    let copy = dir.join("stoa.db");
    let tried = Store::copy(&places.store(), &copy)
        .map_err(|cause| Failure::new(chain(&cause), cause.next()))
        .and_then(|()| {
            let mut command = Command::new(binary);
            command.arg("__check-store").arg(&copy).arg(places.master_key());
            bounded(&mut command, MIGRATES_WITHIN).map_err(|cause| {
                Failure::new(
                    format!("the new binary could not try a copy of the store: {cause}"),
                    "nothing has changed; give another binary",
                )
            })
        });
    let removed = fs::remove_dir_all(&dir);
    let tried = tried?;
    removed.map_err(unmade)?;
    if tried.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&tried.stderr);
    let said = said
        .lines()
        .find_map(|line| line.strip_prefix("error: "))
        .unwrap_or("it did not say why");
    Err(Failure::new(
        format!("the new binary cannot use this store ({}): {said}", tried.status),
        "nothing has changed; give a binary that is not older than the one that runs",
    ))
}

/// Runs a command to its end or kills it.
fn bounded(command: &mut Command, limit: Duration) -> std::io::Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    // Read meanwhile: a full pipe would keep it from ending.
    let reader = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // What came before a failure is what there is.
            let _read = pipe.map(|pipe| pipe.take(WORDS_MAX).read_to_end(&mut text));
            text
        })
    };
    let out = reader(out.map(|pipe| Box::new(pipe) as _));
    let err = reader(err.map(|pipe| Box::new(pipe) as _));
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(std::io::Error::other(format!(
                "no answer within {} s",
                limit.as_secs()
            )));
        }
        std::thread::sleep(LOOK_AGAIN);
    };
    Ok(Output {
        status,
        stdout: out.join().unwrap_or_default(),
        stderr: err.join().unwrap_or_default(),
    })
}

fn ask(places: &Places, warden: Pid, binary: &Path) -> Result<(), Failure> {
    let asked = File::create(takeover::progress(places))
        .and_then(|_empty| {
            crate::places::write_durably(&takeover::request(places), binary.as_os_str().as_bytes())
        })
        .and_then(|()| Ok(rustix::process::kill_process(warden, Signal::USR2)?));
    asked.map_err(|cause| {
        Failure::new(
            format!("the running Stoa could not be asked: {cause}"),
            "see whether it runs: stoa status",
        )
    })
}

/// Shows how it goes until the end.
fn follow(places: &Places, warden: Pid) -> Result<(), Failure> {
    let deadline = Instant::now() + HAPPENS_WITHIN;
    let mut shown = 0;
    loop {
        // Before the progress is read: what the process said last is then in it.
        let program = format!("/proc/{}/exe", warden.as_raw_nonzero());
        let is_there = fs::read_link(program).is_ok();
        let text = fs::read_to_string(takeover::progress(places)).unwrap_or_default();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        for line in whole.lines().skip(shown) {
            shown += 1;
            let step: Value = serde_json::from_str(line).unwrap_or_default();
            let says = step["says"].as_str().unwrap_or_default();
            match step["at"].as_str() {
                Some("done") => return Ok(()),
                Some("refused") => {
                    return Err(Failure::new(
                        format!("{says}; the old binary goes on"),
                        "read the log of stoa up, mend it, then upgrade again",
                    ));
                }
                Some(_) | None => eprintln!("{says}"),
            }
        }
        if !is_there {
            return Err(Failure::new(
                "Stoa ended during the upgrade; applications and the edge go on",
                "start it again: stoa up",
            ));
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(
                format!("no end of the upgrade within {} s", HAPPENS_WITHIN.as_secs()),
                "read the log of stoa up, and see: stoa status",
            ));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
