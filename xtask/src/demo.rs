//! From a bare machine to a page that read and wrote its database.
//!
//! Lives here: the order, ports that are free, starting Stoa so that it outlives us. Does not live here: anything
//! that a user would not do by hand; each verb is the CLI's.
//! Invariant: a second run finds what the first left and ends the same way.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use journeys::http::Connection;
use journeys::process::Process;
use journeys::{Listeners, PATIENCE, http, until};

use crate::{packages, repository};

/// Not below the target directory: instances must be able to traverse the path, and `cargo clean` must not reach
/// into a storage pool in use.
const PLACE: &str = "/var/lib/stoa-demo";
const APP: &str = "guestbook";
const HOST: &str = "guestbook.localhost";

/// Install, build, start, deploy, read and write, and say what to try next.
///
/// # Errors
/// When a step fails; it has said why.
pub fn run() -> Result<()> {
    heading(1, "Debian packages");
    packages::install()?;
    heading(2, "build (some minutes the first time)");
    build()?;
    heading(3, "start Stoa");
    let demo = Demo::open()?;
    let listeners = demo.start()?;
    heading(4, "sign in with the claim token");
    demo.sign_in(&listeners)?;
    heading(5, "deploy examples/guestbook with its database");
    let folder = repository::root().join("examples").join(APP);
    demo.stoa(&listeners, &["deploy", &folder.to_string_lossy()])?;
    heading(6, "write an entry and read it back, through the edge");
    let entry = write_and_read(listeners.http)?;
    demo.tell(&listeners, &entry);
    Ok(())
}

/// Ends the demo's Stoa and removes everything it made.
///
/// # Errors
/// When it does not end.
pub fn stop() -> Result<()> {
    let place = Path::new(PLACE);
    if !place.exists() {
        println!("there is no demo here");
        return Ok(());
    }
    let demo = Demo::open()?;
    let status = demo
        .command()
        .arg("down")
        .arg("--data-dir")
        .arg(demo.data())
        .status()?;
    ensure!(status.success(), "stoa down failed; the demo is still in {PLACE}");
    if let Some(process) = demo.process() {
        until("stoa up to end", PATIENCE, || {
            Ok((!process.is_alive()).then_some(()))
        })?;
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(
        !mounts.contains(PLACE),
        "something is still mounted below {PLACE}; it was not removed"
    );
    fs::remove_dir_all(place).with_context(|| format!("could not remove {PLACE}"))?;
    println!("the demo is gone");
    Ok(())
}

fn heading(number: u32, what: &str) {
    println!("\n[{number}/6] {what}");
}

fn build() -> Result<()> {
    // Cargo shows its own progress, so it has the terminal.
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(repository::root())
        .args(["build", "--package", "stoa"])
        .status()
        .context("could not run cargo")?;
    ensure!(status.success(), "the build failed");
    Ok(())
}

struct Demo {
    place: PathBuf,
    binary: PathBuf,
}

impl Demo {
    fn open() -> Result<Self> {
        let place = PathBuf::from(PLACE);
        fs::create_dir_all(place.join("config"))
            .with_context(|| format!("could not make {PLACE}; run the demo as root, as Stoa itself must"))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o711))?;
        Ok(Self {
            place,
            binary: repository::target().join("debug/stoa"),
        })
    }

    fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    fn log(&self) -> PathBuf {
        self.place.join("up.log")
    }

    /// The `stoa up` of an earlier run, if it still lives.
    fn process(&self) -> Option<Process> {
        let text = fs::read_to_string(self.place.join("up.pid")).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let process = Process::of(pid.parse().ok()?)?;
        (process.started.to_string() == started).then_some(process)
    }

    /// Finds a Stoa of an earlier run, or starts one. One that runs an older build is replaced; its apps live on.
    fn start(&self) -> Result<Listeners> {
        if let Some(process) = self.process() {
            let exe = fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap_or_default();
            if exe == self.binary
                && let Ok(listeners) = self.ready()
            {
                println!("it runs already (pid {})", process.pid);
                return Ok(listeners);
            }
            println!(
                "replacing the one that runs (pid {}); its apps keep running",
                process.pid
            );
            process.signal(2)?;
            until("the old stoa up to end", PATIENCE, || {
                Ok((!process.is_alive()).then_some(()))
            })?;
        }
        let before = self.listeners().ok();
        let port =
            |usual: u16, before: Option<SocketAddr>| free(before.map_or(usual, |address| address.port()));
        let api = port(7070, before.as_ref().map(|listeners| listeners.api))?;
        let http = port(8080, before.as_ref().map(|listeners| listeners.http))?;
        let https = port(8443, before.as_ref().map(|listeners| listeners.https))?;
        let _stale = fs::remove_file(self.data().join("run/listeners.json"));
        let log = File::create(self.log())?;
        let mut child = self
            .command()
            .arg("up")
            .arg("--data-dir")
            .arg(self.data())
            .args(["--api", &format!("127.0.0.1:{api}")])
            .args(["--http", &format!("127.0.0.1:{http}")])
            .args(["--https", &format!("127.0.0.1:{https}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("could not start stoa up")?;
        let process = Process::of(child.id().cast_signed()).context("stoa up ended at once")?;
        fs::write(
            self.place.join("up.pid"),
            format!("{} {}\n", process.pid, process.started),
        )?;
        until("stoa up to listen", PATIENCE, || {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "stoa up ended with {status}:\n{}",
                    fs::read_to_string(self.log())?
                );
            }
            Ok(self.ready().ok())
        })
        .with_context(|| format!("see {}", self.log().display()))
    }

    fn listeners(&self) -> Result<Listeners> {
        Listeners::of(&self.data())
    }

    fn ready(&self) -> Result<Listeners> {
        let listeners = self.listeners()?;
        let answer = http::get(listeners.api, "localhost", "/readyz")?;
        ensure!(answer.status == 200, "it is not ready");
        Ok(listeners)
    }

    /// By the claim token of the first start; later the context is there, and root may always come in locally.
    fn sign_in(&self, listeners: &Listeners) -> Result<()> {
        let known = self.asking(listeners).arg("whoami").output()?;
        if known.status.success() {
            print!("{}", String::from_utf8_lossy(&known.stdout));
            return Ok(());
        }
        match fs::read_to_string(self.data().join("run/claim-token")) {
            Ok(token) => self.stoa(listeners, &["login", "--claim", token.trim()]),
            Err(_claimed) => {
                let data = self.data();
                self.stoa(
                    listeners,
                    &["login", "--local", "--data-dir", &data.to_string_lossy()],
                )
            }
        }
    }

    /// A verb of the CLI, with the terminal.
    fn stoa(&self, listeners: &Listeners, arguments: &[&str]) -> Result<()> {
        let shown: Vec<&str> = arguments
            .iter()
            .map(|text| if text.contains("claim_") { "..." } else { text })
            .collect();
        println!("$ stoa {}", shown.join(" "));
        let status = self
            .asking(listeners)
            .args(arguments)
            .status()
            .context("could not run stoa")?;
        ensure!(
            status.success(),
            "stoa {}: it failed",
            arguments.first().unwrap_or(&"")
        );
        Ok(())
    }

    fn asking(&self, listeners: &Listeners) -> Command {
        let mut command = self.command();
        command.env("STOA_API", format!("http://{}", listeners.api));
        command
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("STOA_CONFIG_DIR", self.place.join("config"));
        command
    }

    fn tell(&self, listeners: &Listeners, entry: &str) {
        let port = listeners.http.port();
        println!(
            "
The guestbook took {entry:?} and showed it again. It is at

    http://{HOST}:{port}/        (or: curl -H 'Host: {HOST}' http://{http}/)

Try next, in this directory:

    export STOA_CONFIG_DIR={config} PATH={bin}:$PATH
    stoa status
    stoa logs --app {APP}
    stoa env set --app {APP} TITLE=\"Our guests\"     a new release, no failed request
    stoa releases --app {APP} && stoa rollback --app {APP}
    stoa db connect main
    stoa scale --app {APP} web=2
    stoa deploy examples/static && curl http://static.localhost:{port}/

Stoa goes on running. Its log: {log}
Stop it and remove everything: cargo xtask demo stop",
            http = listeners.http,
            config = self.place.join("config").display(),
            bin = self.binary.parent().unwrap_or(Path::new("")).display(),
            log = self.log().display(),
        );
    }
}

/// The usual port when nobody has it, else one that the kernel finds.
fn free(usual: u16) -> Result<u16> {
    if TcpListener::bind(("127.0.0.1", usual)).is_ok() {
        return Ok(usual);
    }
    let other = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    println!("port {usual} is taken, using {other}");
    Ok(other)
}

fn write_and_read(edge: SocketAddr) -> Result<String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let entry = format!("hello from the demo at {seconds}");
    let mut connection = Connection::open(edge)?;
    let page = connection.get(HOST, "/")?;
    ensure!(
        page.status == 200,
        "the page answered {}: {}",
        page.status,
        page.text()
    );
    let form = format!("name=demo&message={}", entry.replace(' ', "+"));
    let answer = connection.post_form(HOST, "/entries", &form)?;
    ensure!(
        answer.status == 303,
        "writing answered {}: {}",
        answer.status,
        answer.text()
    );
    let page = connection.get(HOST, "/")?;
    ensure!(page.text().contains(&entry), "the entry is not on the page");
    println!("wrote and read back {entry:?}");
    Ok(entry)
}
