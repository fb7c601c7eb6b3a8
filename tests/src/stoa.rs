//! One real Stoa: its own data directory, ports the kernel chose, its CLI with its own configuration.
//!
//! Lives here: starting, asking, killing and restarting it. Does not live here: what is expected of it (the journeys).
//! Invariant: when it goes away, nothing of it is left, or [`Stoa::finish`] says what.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::http::{self, Response};
use crate::process::Process;
use crate::{Answer, Api, Application, PATIENCE, census, process, until};

/// A running Stoa.
#[derive(Debug)]
pub struct Stoa {
    root: PathBuf,
    data: PathBuf,
    up: Option<Child>,
    listeners: Listeners,
    api: Option<Api>,
    extra: Vec<String>,
}

/// Where it listens.
#[derive(Debug, Clone)]
pub struct Listeners {
    /// The API.
    pub api: SocketAddr,
    /// Plain HTTP of the edge.
    pub http: SocketAddr,
    /// TLS of the edge.
    pub https: SocketAddr,
}

impl Stoa {
    /// Makes every Stoa of this process run that program. The first choice stays.
    pub fn use_binary(path: &Path) {
        let _first = CHOSEN.set(path.to_owned());
    }

    /// Starts one in a fresh directory and signs in.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(name: &str) -> Result<Self> {
        let mut stoa = Self::prepare(name)?;
        stoa.up()?;
        stoa.sign_in()?;
        Ok(stoa)
    }

    /// A fresh directory, nothing started.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn prepare(name: &str) -> Result<Self> {
        // Not below the target directory: instances must be able to traverse the path, and socket names are short.
        let root = std::env::temp_dir().join(format!("stoa-{name}-{}", std::process::id()));
        fs::create_dir_all(root.join("config"))
            .with_context(|| format!("could not make {}", root.display()))?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o711))?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let listeners = Listeners {
            api: nowhere,
            http: nowhere,
            https: nowhere,
        };
        Ok(Self {
            data: root.join("data"),
            root,
            up: None,
            listeners,
            api: None,
            extra: Vec::new(),
        })
    }

    /// Another data directory inside its root, to be called before the first start.
    pub fn place_data(&mut self, inside: &str) {
        self.data = self.root.join(inside);
    }

    /// Further arguments for `stoa up`, from the next start on.
    pub fn up_with(&mut self, arguments: &[&str]) {
        self.extra = arguments.iter().map(|text| (*text).to_owned()).collect();
    }

    /// `stoa up`, until it listens. The ports of an earlier start are asked for again.
    ///
    /// # Errors
    /// When it ends or does not listen in time; its output is in the message.
    pub fn up(&mut self) -> Result<()> {
        let _stale = fs::remove_file(self.listeners_file());
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.command();
        command
            .args(["up", "--data-dir"])
            .arg(self.data_dir())
            .args(["--domain", "localhost"])
            .args(["--api", &self.listeners.api.to_string()])
            .args(["--http", &self.listeners.http.to_string()])
            .args(["--https", &self.listeners.https.to_string()])
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        self.up = Some(
            command
                .spawn()
                .with_context(|| format!("could not start {}", binary().display()))?,
        );
        let listeners = until("stoa up to listen", PATIENCE, || {
            if let Some(status) = self.up.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                bail!("stoa up ended with {status}:\n{}", self.log());
            }
            if !self.listeners_file().exists() {
                return Ok(None);
            }
            let listeners = Listeners::of(&self.data_dir())?;
            let ready = http::get(listeners.api, "localhost", "/readyz")?;
            Ok((ready.status == 200).then_some(listeners))
        })
        .with_context(|| format!("stoa up said:\n{}", self.log()))?;
        self.listeners = listeners;
        Ok(())
    }

    /// The claim token, as root on the host reads it.
    ///
    /// # Errors
    /// When there is none.
    pub fn claim_token(&self) -> Result<String> {
        let path = self.data_dir().join("run/claim-token");
        until("a claim token", PATIENCE, || {
            Ok(fs::read_to_string(&path).ok().map(|text| text.trim().to_owned()))
        })
    }

    /// Trades the claim token for an access token, which the CLI gets too.
    ///
    /// # Errors
    /// When it is refused.
    pub fn sign_in(&mut self) -> Result<()> {
        self.api = Some(Api::claim(self.listeners.api, &self.claim_token()?)?);
        Ok(())
    }

    /// The API with the owner's token.
    ///
    /// # Errors
    /// Before [`Stoa::sign_in`].
    pub fn api(&self) -> Result<Api> {
        Ok(self
            .api
            .as_ref()
            .context("nobody has signed in")?
            .at(self.listeners.api))
    }

    /// Runs a verb of the CLI.
    ///
    /// # Errors
    /// When the program cannot be run; an exit code is an answer.
    pub fn cli(&self, arguments: &[&str]) -> Result<Answer> {
        self.cli_in(&self.root, arguments, b"")
    }

    /// Runs a verb in a directory, with something on standard input.
    ///
    /// # Errors
    /// As [`Stoa::cli`].
    pub fn cli_in(&self, folder: &Path, arguments: &[&str], input: &[u8]) -> Result<Answer> {
        let mut command = self.command();
        command
            .current_dir(folder)
            .args(arguments)
            .env("STOA_API", self.api_url());
        if let Some(api) = &self.api {
            command.env("STOA_TOKEN", api.token());
        }
        answer(command, arguments, input)
    }

    /// Runs a verb as a person does: with the context that `stoa login` made, and nothing in the environment.
    ///
    /// # Errors
    /// As [`Stoa::cli`].
    pub fn cli_of_person(&self, arguments: &[&str]) -> Result<Answer> {
        self.person_types(arguments, b"")
    }

    /// The same with something on standard input.
    ///
    /// # Errors
    /// As [`Stoa::cli`].
    pub fn person_types(&self, arguments: &[&str], input: &[u8]) -> Result<Answer> {
        answer(self.person(arguments), arguments, input)
    }

    /// The same, to be started by the caller.
    #[must_use]
    pub fn person(&self, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command.current_dir(&self.root).args(arguments);
        command
    }

    /// `stoa deploy` of a directory.
    ///
    /// # Errors
    /// As [`Stoa::cli`].
    pub fn deploy(&self, application: &Application) -> Result<Answer> {
        self.cli_in(application.folder(), &["deploy"], b"")
    }

    /// `GET` through the edge.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn get(&self, host: &str, path: &str) -> Result<Response> {
        http::get(self.listeners.http, host, path)
    }

    /// Where it listens.
    #[must_use]
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// The API's address as a URL.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}", self.listeners.api)
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data.clone()
    }

    /// A directory for what a journey needs.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What `stoa up` printed so far, over all starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The warden: the process that was started.
    ///
    /// # Errors
    /// When it does not run.
    pub fn warden(&self) -> Result<Process> {
        let pid = self.up.as_ref().context("stoa up was not started")?.id();
        Process::of(pid.cast_signed()).context("stoa up has ended")
    }

    /// A child of the warden by its first argument, `edge` or `control`.
    ///
    /// # Errors
    /// When there is none, or are several.
    pub fn part(&self, role: &str) -> Result<Process> {
        let mut found = process::children(self.warden()?.pid);
        let word = format!("__{role}");
        found.retain(|process| process.line.split(' ').any(|argument| argument == word));
        ensure!(
            found.len() == 1,
            "{} processes are `{role}`: {found:?}",
            found.len()
        );
        found.pop().context("no such part")
    }

    /// The keepers of its instances.
    #[must_use]
    pub fn keepers(&self) -> Vec<Process> {
        let marks = self.marks();
        let mut found = process::all();
        found.retain(|process| process.line.starts_with("stoa-keeper"));
        found.retain(|process| {
            marks
                .iter()
                .any(|mark| process.cgroups().contains(&format!("stoa-{mark}/")))
        });
        found
    }

    /// Names of the instances, builds included, that have a directory on the host.
    #[must_use]
    pub fn instance_folders(&self) -> std::collections::BTreeSet<String> {
        let entries = fs::read_dir(self.data_dir().join("instances")).into_iter();
        let folders = entries.flatten().flatten().filter(|entry| entry.path().is_dir());
        folders
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Processes inside its instances whose command line contains a text; not the init that watches over each.
    #[must_use]
    pub fn members(&self, text: &str) -> Vec<Process> {
        let marks = self.marks();
        let mut found = process::all();
        found.retain(|process| process.line.contains(text) && !process.line.starts_with("stoa-init"));
        found.retain(|process| {
            marks
                .iter()
                .any(|mark| process.cgroups().contains(&format!("stoa-{mark}/")))
        });
        found
    }

    /// Ends `stoa up` as Ctrl-C does; workloads stay.
    ///
    /// # Errors
    /// When it does not end.
    pub fn interrupt(&mut self) -> Result<()> {
        self.warden()?.signal(libc::SIGINT)?;
        self.wait_end()
    }

    /// Waits until the process that was started is gone and reaped.
    ///
    /// # Errors
    /// When it stays.
    pub fn wait_end(&mut self) -> Result<()> {
        let mut child = self.up.take().context("stoa up was not started")?;
        until("stoa up to end", PATIENCE, || Ok(child.try_wait()?)).map(|_| ())
    }

    /// Instances as the API lists them.
    ///
    /// # Errors
    /// When the CLI fails.
    pub fn instances(&self, app: &str) -> Result<Vec<Value>> {
        self.cli(&["ps", "--app", app, "--json"])?.ok()?.items()
    }

    /// `stoa down`, then looks whether anything is left.
    ///
    /// # Errors
    /// When something is, with the list.
    pub fn finish(mut self) -> Result<()> {
        let marks = self.marks();
        let dir = self.data_dir();
        self.down()?;
        let left = until("nothing to be left behind", Duration::from_secs(30), || {
            let left = census::take(&dir, &marks);
            if left.is_empty() {
                Ok(Some(left))
            } else {
                bail!("still there: {left:#?}")
            }
        });
        left.map(|_| ())
    }

    /// Marks that its names on the host carry.
    #[must_use]
    pub fn marks(&self) -> Vec<String> {
        let text = fs::read_to_string(self.data_dir().join("mark")).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Everything of it that is on the host now.
    #[must_use]
    pub fn census(&self) -> std::collections::BTreeSet<String> {
        census::take(&self.data_dir(), &self.marks())
    }

    fn down(&mut self) -> Result<()> {
        if self.up.is_none() {
            return Ok(());
        }
        let data_dir = self.data_dir();
        self.cli(&["down", "--data-dir", &data_dir.to_string_lossy()])?
            .ok()?;
        self.wait_end()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary());
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("STOA_") {
                command.env_remove(key);
            }
        }
        command
            .env("STOA_CONFIG_DIR", self.root.join("config"))
            .env("NO_COLOR", "1");
        command
    }

    fn listeners_file(&self) -> PathBuf {
        self.data_dir().join("run/listeners.json")
    }

    fn log_path(&self) -> PathBuf {
        self.root.join("up.log")
    }
}

impl Listeners {
    /// What `stoa up` wrote down for a data directory.
    ///
    /// # Errors
    /// When it has not, yet.
    pub fn of(data_dir: &Path) -> Result<Self> {
        let path = data_dir.join("run/listeners.json");
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        Self::read(&serde_json::from_str(&text)?)
    }

    fn read(value: &Value) -> Result<Self> {
        let address = |key: &str| -> Result<SocketAddr> {
            let value = &value[key];
            let text = value.as_str().or_else(|| value[0].as_str());
            text.with_context(|| format!("listeners.json has no {key}"))?
                .parse()
                .context("no address")
        };
        Ok(Self {
            api: address("api")?,
            http: address("http")?,
            https: address("https")?,
        })
    }
}

impl Drop for Stoa {
    /// After a failed journey too, nothing may stay: other journeys run on this machine.
    fn drop(&mut self) {
        let _polite = self.down();
        if let Some(mut child) = self.up.take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
        for process in process::bearing(&self.data_dir().to_string_lossy()) {
            let _gone = process.signal(libc::SIGKILL);
        }
        if std::thread::panicking() || std::env::var_os("STOA_KEEP").is_some() {
            eprintln!("--- stoa up ({})\n{}", self.root.display(), tail(&self.log()));
        }
        if std::env::var_os("STOA_KEEP").is_none() {
            unmount_below(&self.root);
            let _gone = fs::remove_dir_all(&self.root);
        }
    }
}

/// Runs a command to its end.
fn answer(mut command: Command, arguments: &[&str], input: &[u8]) -> Result<Answer> {
    let stdin = if input.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("could not start {}", binary().display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input) {
            // A verb that reads nothing may have ended by now.
            Err(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    let output = child.wait_with_output()?;
    let signal = output.status.signal().map(|signal| 128 + signal);
    Ok(Answer {
        line: format!("stoa {}", arguments.join(" ")),
        code: output.status.code().or(signal).unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The end of a long log.
fn tail(text: &str) -> String {
    const SHOWN: usize = 80;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

/// A directory with a mount in it must not be removed recursively.
fn unmount_below(root: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut points: Vec<&str> = points
        .filter(|point| Path::new(point).starts_with(root))
        .collect();
    points.reverse();
    for point in points {
        let _gone = Command::new("umount").args(["--lazy", point]).status();
    }
}

static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

impl Stoa {
    /// The program under test.
    #[must_use]
    pub fn binary() -> PathBuf {
        binary()
    }
}

/// The program under test: chosen by the caller, else `STOA_BIN`, else what cargo built beside this test.
fn binary() -> PathBuf {
    if let Some(path) = CHOSEN.get() {
        return path.clone();
    }
    if let Some(path) = std::env::var_os("STOA_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap_or_default();
    let folder = test.parent().map(|folder| {
        if folder.ends_with("deps") {
            folder.join("..")
        } else {
            folder.into()
        }
    });
    folder.unwrap_or_default().join("stoa")
}
