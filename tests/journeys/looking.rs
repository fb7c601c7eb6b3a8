//! From another machine to a database: through a tunnel with a program there, and what its server does now.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use journeys::process::Process;
use journeys::{Stoa, holds};
use serde_json::{Value, json};

/// A client of PostgreSQL that needs nothing on this host but Python: it signs in at the address of its first argument, and
/// answers each line of its input, a query, with a line. `!half` says that it sends nothing more, and waits for the end.
const CLIENT: &str = r#"
import base64, hashlib, hmac, os, socket, struct, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
database = sys.argv[2] if len(sys.argv) > 2 else url.path[1:]
sock = socket.create_connection((url.hostname, url.port))
stream = sock.makefile("rb")
def send(kind, payload):
    sock.sendall(kind + struct.pack("!i", len(payload) + 4) + payload)
def receive():
    kind = stream.read(1)
    if not kind:
        return "end", b""
    payload = stream.read(struct.unpack("!i", stream.read(4))[0] - 4)
    if kind == b"E":
        print(payload.split(b"\0M")[1].split(b"\0")[0].decode(), flush=True)
        sys.exit(1)
    return kind.decode(), payload
send(b"", struct.pack("!i", 196608) + b"user\0%s\0database\0%s\0\0" % (url.username.encode(), database.encode()))
receive()
nonce = base64.b64encode(os.urandom(18)).decode()
bare = "n=,r=" + nonce
first = ("n,," + bare).encode()
send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
server = receive()[1][4:].decode()
told = dict(part.split("=", 1) for part in server.split(","))
salted = hashlib.pbkdf2_hmac("sha256", url.password.encode(), base64.b64decode(told["s"]), int(told["i"]))
mac = lambda key, text: hmac.new(key, text, hashlib.sha256).digest()
key = mac(salted, b"Client Key")
final = "c=biws,r=" + told["r"]
signature = mac(hashlib.sha256(key).digest(), ",".join([bare, server, final]).encode())
proof = bytes(a ^ b for a, b in zip(key, signature))
send(b"p", (final + ",p=" + base64.b64encode(proof).decode()).encode())
while receive()[0] != "Z":
    pass
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "!half":
        sock.shutdown(socket.SHUT_WR)
        print(receive()[0], flush=True)
        continue
    send(b"Q", line.strip().encode() + b"\0")
    rows = []
    while True:
        kind, payload = receive()
        if kind == "D":
            size = struct.unpack("!i", payload[2:6])[0]
            rows.append(payload[6:6 + size].decode())
        if kind in ("Z", "end"):
            break
    print(" ".join(rows) if kind == "Z" else "end", flush=True)
"#;

/// A client under way.
struct Program {
    child: Child,
    input: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Program {
    /// Starts it, and returns what it says first.
    fn begin(arguments: &[&str]) -> Result<(Self, String)> {
        let mut child = Command::new("python3")
            .args(["-c", CLIENT])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut program = Self {
            input: child.stdin.take().context("piped")?,
            answers: BufReader::new(child.stdout.take().context("piped")?),
            child,
        };
        let said = program.answer()?;
        Ok((program, said))
    }

    fn signed_in(url: &str) -> Result<Self> {
        let (program, said) = Self::begin(&[url])?;
        ensure!(said == "ready", "it said {said:?}");
        Ok(program)
    }

    fn send(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.input, "{line}")?)
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        self.send(line)?;
        self.answer()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `stoa db tunnel` under way.
struct Tunnel {
    child: Child,
    talk: std::process::ChildStderr,
    said: Value,
}

impl Tunnel {
    fn open(stoa: &Stoa, arguments: &[&str]) -> Result<Self> {
        let words = [&["db", "tunnel", "main", "--json"], arguments].concat();
        let mut child = stoa
            .person(&words)
            .env("STOA_API", stoa.api_url())
            .env("STOA_TOKEN", stoa.api()?.token())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let talk = child.stderr.take().context("piped")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        let said = serde_json::from_str(&line).with_context(|| format!("it said {line:?}"))?;
        Ok(Self { child, talk, said })
    }

    fn url(&self) -> Result<&str> {
        self.said["url"].as_str().context("no url")
    }

    fn port(&self) -> Result<u16> {
        let port = self.said["port"].as_u64().context("no port")?;
        Ok(u16::try_from(port)?)
    }

    /// As Ctrl-C does: its exit code, and what it said meanwhile.
    fn end(mut self) -> Result<(Option<i32>, String)> {
        let pid = i32::try_from(self.child.id())?;
        Process::of(pid).context("it has ended")?.signal(libc::SIGINT)?;
        let mut said = String::new();
        self.talk.read_to_string(&mut said)?;
        Ok((self.child.wait()?.code(), said))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn query(stoa: &Stoa, sql: &str) -> Result<String> {
    let answer = stoa
        .cli(&["db", "connect", "--no-terminal", "main", "--", "-qAtc", sql])?
        .ok()?;
    Ok(answer.stdout.trim().to_owned())
}

/// Nobody but us is signed in.
fn is_left(stoa: &Stoa) -> Result<()> {
    const OTHERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'app%'";
    holds("the sessions to be over", || Ok(query(stoa, OTHERS)? == "0"))
}

fn threads(stoa: &Stoa) -> Result<usize> {
    let pid = stoa.part("control")?.pid;
    Ok(std::fs::read_dir(format!("/proc/{pid}/task"))?.count())
}

/// Has one session of a login end the other one of it.
const END_THE_OTHER: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = session_user AND pid <> pg_backend_pid()";

#[test]
fn a_program_here_speaks_with_a_database_there() -> Result<()> {
    let stoa = Stoa::start("tunnel")?;
    stoa.cli(&["db", "create", "main"])?.ok()?;

    let tunnel = Tunnel::open(&stoa, &["--url"])?;
    let url = tunnel.url()?.to_owned();
    let address = tunnel.said["address"].as_str().context("no address")?;
    ensure!(
        address.starts_with("127.0.0.1:") && url.contains(address),
        "{}",
        tunnel.said
    );

    // Two at once, each a session of its own; one that waits holds up no other.
    let mut first = Program::signed_in(&url)?;
    let mut second = Program::signed_in(&url)?;
    first.send("SELECT pg_advisory_lock(1), pg_sleep(600)")?;
    ensure!(second.ask("SELECT 41 + 1")? == "42");
    sleeper_is_shown(&stoa)?;
    let ours = second.ask("SELECT count(*) FROM pg_stat_activity WHERE usename = session_user")?;
    ensure!(ours == "2", "{ours} sessions");
    // Much in one answer, and much in one question.
    let long = second.ask("SELECT repeat('x', 3000000)")?;
    ensure!(long.len() == 3_000_000, "{} letters came", long.len());
    ensure!(second.ask(&format!("SELECT length('{long}')"))? == "3000000");

    settings_say_where_they_come_from(&stoa, &mut second)?;
    statements_are_counted(&stoa, &mut second)?;
    what_the_server_printed_is_shown(&stoa, &mut second)?;

    // The server ends one: its program sees that.
    second.ask("SET ROLE NONE")?;
    ensure!(second.ask(END_THE_OTHER)? == "t", "it was not ended");
    ensure!(
        first.answer()?.contains("terminating connection"),
        "the first went on"
    );
    // Who sends nothing more still hears the end.
    ensure!(second.ask("!half")? == "end");
    drop((first, second));
    is_left(&stoa)?;

    // Nobody gets further than with a password anywhere.
    let login = url.split(['/', ':', '@']).nth(3).context("no login")?;
    let strange = url.replace(&format!("//{login}:"), "//postgres:");
    let wrong = url.replace(&password(&url)?, "0");
    for (arguments, refused) in [
        (&[strange.as_str()][..], "pg_hba"),
        (&[&wrong], "password authentication failed"),
        (&[&url, "nowhere"], "does not exist"),
    ] {
        let (_, said) = Program::begin(arguments)?;
        ensure!(said.contains(refused), "{arguments:?}: {said}");
    }

    // What a connection took is given back.
    let before = threads(&stoa)?;
    for _ in 0..40 {
        ensure!(Program::signed_in(&url)?.ask("SELECT 1")? == "1");
    }
    is_left(&stoa)?;
    holds("the threads to end", || Ok(threads(&stoa)? <= before + 8))?;

    // Ctrl-C ends it with what is under way, and frees the port.
    let port = tunnel.port()?;
    let mut last = Program::signed_in(&url)?;
    let (code, said) = tunnel.end()?;
    ensure!(code == Some(130), "it ended with {code:?}: {said}");
    ensure!(last.ask("SELECT 1").map_or(true, |said| said != "1"));
    is_left(&stoa)?;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("the port is not free")?;
    stoa.cli(&["db", "tunnel", "main", "--port", &port.to_string()])?
        .exits(6)?
        .says("taken")?
        .has_next_step()?;
    drop(taken);

    // The password is shown to who asks for it only.
    let tunnel = Tunnel::open(&stoa, &["--port", &port.to_string()])?;
    ensure!(tunnel.port()? == port, "another port");
    ensure!(!tunnel.said.to_string().contains(&password(&url)?));
    stoa.cli(&["db", "destroy", "main", "--confirm", "main"])?.ok()?;
    drop(Command::new("python3").args(["-c", CLIENT, &url]).output()?);
    let (code, said) = tunnel.end()?;
    ensure!(code == Some(130) && said.contains("main"), "{code:?}: {said}");
    let audit = stoa.cli(&["audit", "ls"])?.ok()?;
    ensure!(audit.stdout.contains("database.tunnel"), "{}", audit.stdout);
    stoa.finish()
}

/// What the first program does is shown first, to people and to programs.
fn sleeper_is_shown(stoa: &Stoa) -> Result<()> {
    let shown = || stoa.cli(&["db", "top", "main", "--json"])?.ok()?.json();
    holds("the sleeping query to be shown", || {
        let shown = shown()?;
        let first = &shown["sessions"][0];
        let is_asleep = first["wait"] == "Timeout: PgSleep" && first["state"] == "active";
        let is_one_of_two = shown["count"].as_u64() >= Some(2);
        Ok(is_asleep
            && is_one_of_two
            && first["query"]
                .as_str()
                .is_some_and(|q| q.contains("pg_sleep(600)")))
    })?;
    stoa.cli(&["db", "top", "main"])?.ok()?.says("PgSleep")?;
    Ok(())
}

fn spent(stoa: &Stoa, database: &str) -> Result<Vec<Value>> {
    let words = ["db", "top", database, "--statements", "--json"];
    let told = stoa.cli(&words)?.ok()?.json()?;
    ensure!(told["since"].is_string(), "{told:#}");
    Ok(told["statements"].as_array().context("no statements")?.clone())
}

/// Runs a statement as the superuser.
fn above(stoa: &Stoa, database: &str, sql: &str) -> Result<()> {
    let words = ["db", "connect", "--no-terminal", database, "--", "-qc"];
    let all = [&words[..], &["SET ROLE NONE", "-c", sql]].concat();
    stoa.cli(&all)?.ok().map(drop)
}

/// Those that differ in their values are one, no password is among them, and nothing of it goes into a copy.
fn statements_are_counted(stoa: &Stoa, program: &mut Program) -> Result<()> {
    for value in 1..=3 {
        ensure!(program.ask(&format!("SELECT {value} AS counted_here"))? == value.to_string());
    }
    above(stoa, "main", "CREATE ROLE somebody PASSWORD 'said_to_nobody'")?;
    let told = spent(stoa, "main")?;
    let is_ours = |one: &&Value| {
        let query = one["query"].as_str();
        query.is_some_and(|query| query.contains("counted_here"))
    };
    let ours = told.iter().find(is_ours).context("it is not told")?;
    ensure!(
        ours["query"] == "SELECT $1 AS counted_here"
            && ours["calls"] == 3
            && ours["rows"] == 3
            && ours["user"] == "app_owner"
            && ours["database"] == "app",
        "{ours:#}"
    );
    ensure!(told.len() <= 50 && !format!("{told:?}").contains("said_to_nobody"));
    stoa.cli(&["db", "top", "main", "--statements"])?
        .ok()?
        .says("DATABASE/USER")?
        .says("counted since")?;
    // Nothing of it is left in the server.
    let extension = "SELECT count(*) FROM pg_extension WHERE extname = 'pg_stat_statements'";
    ensure!(query(stoa, extension)? == "0");
    // What somebody has it load stays, and so do the counters when it is started anew.
    stoa.cli(&["db", "create", "other"])?.ok()?;
    above(
        stoa,
        "other",
        "ALTER SYSTEM SET shared_preload_libraries = 'auto_explain'",
    )?;
    spent(stoa, "other")?;
    stoa.cli(&["db", "restart", "other", "--confirm", "other"])?
        .ok()?;
    let settings = stoa.cli(&["db", "settings", "other", "--json"])?.ok()?.json()?;
    let expected = json!({"name": "shared_preload_libraries", "value": "auto_explain, pg_stat_statements",
        "source": {"kind": "platform"}, "pending_restart": false});
    ensure!(
        settings["settings"]
            .as_array()
            .is_some_and(|all| all.contains(&expected)),
        "{settings:#}"
    );
    spent(stoa, "other")?;
    stoa.cli(&["db", "destroy", "other", "--confirm", "other"])?
        .ok()?;

    stoa.cli(&["db", "branch", "main", "--as", "copy"])?.ok()?;
    ensure!(!spent(stoa, "copy")?.iter().any(|one| is_ours(&one)));
    stoa.cli(&["db", "destroy", "copy", "--confirm", "copy"])?.ok()?;
    Ok(())
}

/// `stoa db logs --follow` under way.
struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An error with its statement, and what comes while somebody looks.
fn what_the_server_printed_is_shown(stoa: &Stoa, program: &mut Program) -> Result<()> {
    let child = stoa
        .person(&["db", "logs", "main", "--follow", "--tail", "1"])
        .env("STOA_API", stoa.api_url())
        .env("STOA_TOKEN", stoa.api()?.token())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut following = Following(child);
    let mut lines = BufReader::new(following.0.stdout.take().context("piped")?).lines();
    lines.next().context("it shows no line")??;
    stoa.cli(&[
        "db",
        "connect",
        "main",
        "--no-terminal",
        "--",
        "-c",
        "SELECT 1 / 0",
    ])?
    .exits(1)?;
    let is_it =
        |line: &std::io::Result<String>| line.as_ref().is_ok_and(|line| line.contains("division by zero"));
    lines.find(is_it).context("it was not followed")??;
    ensure!(program.ask("SELECT 2")? == "2");
    let told = stoa.cli(&["db", "logs", "main", "--tail", "50"])?.ok()?;
    ensure!(
        told.stdout.contains(" main postgres-15 | ") && told.stdout.contains("STATEMENT:  SELECT 1 / 0"),
        "{}",
        told.stdout
    );
    let one = stoa
        .cli(&["db", "logs", "main", "--json", "--grep", "STATEMENT", "-n", "1"])?
        .ok()?
        .json()?;
    ensure!(one["source"] == "main" && one["stream"] == "stderr", "{one:#}");
    Ok(())
}

/// The platform's, those of files and those of sessions.
fn settings_say_where_they_come_from(stoa: &Stoa, program: &mut Program) -> Result<()> {
    let said = program.ask("ALTER DATABASE app SET statement_timeout = '1h'")?;
    ensure!(said.is_empty(), "it was not set: {said}");
    let mut words = vec!["db", "connect", "--no-terminal", "main", "--", "-q"];
    for statement in [
        "SET ROLE NONE",
        "ALTER SYSTEM SET deadlock_timeout = '2s'",
        "SELECT pg_reload_conf()",
    ] {
        words.extend(["-c", statement]);
    }
    stoa.cli(&words)?.ok()?;
    let shown = || stoa.cli(&["db", "settings", "main", "--json"])?.ok()?.json();
    let is_told = |shown: &Value, expected: &Value| {
        let settings = shown["settings"].as_array();
        settings.is_some_and(|all| all.contains(expected))
    };
    let by_memory = json!({"name": "shared_buffers", "value": "64MB", "default": "128MB",
        "source": {"kind": "memory"}, "pending_restart": false});
    let in_database = json!({"name": "statement_timeout", "value": "1h",
        "source": {"kind": "sessions", "database": "app"}, "pending_restart": false});
    let in_file = json!({"name": "deadlock_timeout", "value": "2s", "default": "1s",
        "source": {"kind": "file", "file": "postgresql.auto.conf"}, "pending_restart": false});
    holds("the settings to be told", || {
        let shown = shown()?;
        Ok([&by_memory, &in_database, &in_file]
            .iter()
            .all(|one| is_told(&shown, one)))
    })
    .with_context(|| format!("{:#}", shown().unwrap_or_default()))?;
    stoa.cli(&["db", "settings", "main"])?
        .ok()?
        .says("platform, by memory")?;
    Ok(())
}

fn password(url: &str) -> Result<String> {
    let login = url.split('@').next().context("no login")?;
    Ok(login.rsplit(':').next().context("no password")?.to_owned())
}
