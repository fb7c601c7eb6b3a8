//! Readiness: one small thread an instance asks it again and again whether it is fit for traffic.
//!
//! Invariant: before the first success only a success is news; after it, `failures` failures in a row are.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{Probe, Speaks};
use model::InstanceId;

use crate::watch::Bump;

/// In the first moments an instance is asked that often: what starts fast shall serve at once.
const EAGER_EVERY: Duration = Duration::from_millis(1);
const EAGER_FOR: Duration = Duration::from_millis(100);
/// In the first second still often: servers that load something take about that long.
const SOON_EVERY: Duration = Duration::from_millis(5);
const SOON_FOR: Duration = Duration::from_secs(1);
/// After that, until the first success.
const STARTING_EVERY: Duration = Duration::from_millis(25);
/// Enough of an answer to see its status.
const HEAD_BYTES: usize = 512;

type Answers = Arc<Mutex<BTreeMap<InstanceId, Result<(), String>>>>;

/// The probes of this process. They are started again for what is adopted.
pub(crate) struct Probes {
    answers: Answers,
    stops: Mutex<BTreeMap<InstanceId, Arc<AtomicBool>>>,
    bump: Bump,
}

impl Probes {
    pub(crate) fn new(bump: Bump) -> Self {
        Self {
            answers: Answers::default(),
            stops: Mutex::default(),
            bump,
        }
    }

    /// What the probe of an instance says; `None` when it has none.
    pub(crate) fn answer(&self, id: InstanceId) -> Option<Result<(), String>> {
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    /// Asks from now on, unless it is asked already.
    pub(crate) fn start(&self, id: InstanceId, address: Ipv4Addr, probe: &Probe) {
        let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        if stops.contains_key(&id) {
            return;
        }
        let stop = Arc::new(AtomicBool::new(false));
        stops.insert(id, Arc::clone(&stop));
        drop(stops);
        let first = Err("not asked yet".to_owned());
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, first);
        let asker = Asker {
            id,
            target: SocketAddr::from((address, probe.port)),
            probe: probe.clone(),
            answers: Arc::clone(&self.answers),
            bump: self.bump.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("probe".to_owned())
            .stack_size(64 * 1024);
        if let Err(cause) = thread.spawn(move || asker.run(&stop)) {
            tracing::error!(%cause, "could not start a probe; the instance counts as not ready");
        }
    }

    /// Asks no more.
    pub(crate) fn stop(&self, id: InstanceId) {
        if let Some(stop) = self
            .stops
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id)
        {
            stop.store(true, Ordering::Relaxed);
        }
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
    }
}

struct Asker {
    id: InstanceId,
    target: SocketAddr,
    probe: Probe,
    answers: Answers,
    bump: Bump,
}

impl Asker {
    fn run(&self, stop: &AtomicBool) {
        let born = Instant::now();
        let mut failures = 0;
        let mut is_ready = false;
        while !stop.load(Ordering::Relaxed) {
            match ask(self.target, &self.probe) {
                Ok(()) => {
                    failures = 0;
                    if !is_ready {
                        is_ready = true;
                        self.say(Ok(()));
                    }
                }
                Err(why) => {
                    failures += 1;
                    if is_ready && failures >= self.probe.health.failures {
                        is_ready = false;
                        self.say(Err(why));
                    } else if !is_ready {
                        self.keep(why);
                    }
                }
            }
            let pause = match () {
                () if is_ready => self.probe.health.interval.as_duration(),
                () if born.elapsed() < EAGER_FOR => EAGER_EVERY,
                () if born.elapsed() < SOON_FOR => SOON_EVERY,
                () => STARTING_EVERY,
            };
            self.pause(pause, stop);
        }
    }

    /// Long pauses are cut, so that a stop is noticed.
    fn pause(&self, span: Duration, stop: &AtomicBool) {
        let until = Instant::now() + span;
        while !stop.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(250)));
        }
    }

    fn say(&self, answer: Result<(), String>) {
        self.put(answer);
        self.bump.ring();
    }

    fn keep(&self, why: String) {
        self.put(Err(why));
    }

    /// Only while it is still asked for: a stopped probe must not bring its row back.
    fn put(&self, answer: Result<(), String>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = answers.get_mut(&self.id) {
            *row = answer;
        }
    }
}

/// One question.
fn ask(target: SocketAddr, probe: &Probe) -> Result<(), String> {
    let limit = probe.health.timeout.as_duration().max(Duration::from_millis(1));
    let until = Instant::now() + limit;
    let mut stream = TcpStream::connect_timeout(&target, limit)
        .map_err(|cause| format!("port {} does not answer: {}", probe.port, plain(&cause)))?;
    match probe.speaks {
        Speaks::Postgres => return ask_postgres(&mut stream, probe.port, limit),
        Speaks::Valkey => return ask_valkey(&mut stream, probe.port, limit),
        Speaks::Tcp => {}
    }
    let Some(path) = &probe.health.path else {
        return Ok(());
    };
    let failed = |cause: std::io::Error| format!("{path} on port {} failed: {}", probe.port, plain(&cause));
    let left = || {
        until
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1))
    };
    stream.set_write_timeout(Some(left())).map_err(failed)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: stoa-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let mut buffer = [0_u8; HEAD_BYTES];
    loop {
        stream.set_read_timeout(Some(left())).map_err(failed)?;
        let read = stream.read(&mut buffer).map_err(failed)?;
        head.extend_from_slice(&buffer[..read]);
        if let Some(status) = status(&head) {
            return match status {
                200..=399 => Ok(()),
                other => Err(format!("{path} on port {} answered {other}", probe.port)),
            };
        }
        if read == 0 || head.len() >= HEAD_BYTES || left() <= Duration::from_millis(1) {
            return Err(format!(
                "{path} on port {} did not answer in HTTP in time",
                probe.port
            ));
        }
    }
}

/// Begins a session that goes no further: the server either asks who we are, or says that it takes nobody yet.
fn ask_postgres(stream: &mut TcpStream, port: u16, limit: Duration) -> Result<(), String> {
    /// Length, version 3.0, then names and values.
    const START: &[u8] = b"\0\0\0\x2b\0\x03\0\0user\0stoa-probe\0database\0postgres\0\0";
    /// `cannot_connect_now`: starting up, recovering or shutting down.
    const NOT_NOW: &[u8] = b"C57P03\0";
    let failed = |cause: std::io::Error| format!("port {port} failed: {}", plain(&cause));
    stream.set_write_timeout(Some(limit)).map_err(failed)?;
    stream.set_read_timeout(Some(limit)).map_err(failed)?;
    stream.write_all(START).map_err(failed)?;
    let mut answer = [0_u8; HEAD_BYTES];
    let read = stream.read(&mut answer).map_err(failed)?;
    let answer = &answer[..read];
    let is_not_now = answer.windows(NOT_NOW.len()).any(|part| part == NOT_NOW);
    match answer.first() {
        Some(b'E') if is_not_now => Err("it takes no sessions yet".to_owned()),
        // Any other refusal is about who asks, so it would take others.
        Some(b'R' | b'E') => Ok(()),
        Some(_) | None => Err(format!("port {port} does not speak PostgreSQL")),
    }
}

/// Signs in as who may only ask, and asks: whoever is not signed in is refused whether it loads or not.
fn ask_valkey(stream: &mut TcpStream, port: u16, limit: Duration) -> Result<(), String> {
    const ASK: &[u8] = b"AUTH probe probe\r\nPING\r\nQUIT\r\n";
    let failed = |cause: std::io::Error| format!("port {port} failed: {}", plain(&cause));
    stream.set_write_timeout(Some(limit)).map_err(failed)?;
    stream.set_read_timeout(Some(limit)).map_err(failed)?;
    stream.write_all(ASK).map_err(failed)?;
    let mut answer = Vec::new();
    // It ends the connection after the last answer.
    stream
        .take(HEAD_BYTES as u64)
        .read_to_end(&mut answer)
        .map_err(failed)?;
    let mut lines = answer.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    match (lines.next(), lines.next()) {
        (Some(b"+OK"), Some(b"+PONG")) => Ok(()),
        (_, Some(refused)) if refused.starts_with(b"-LOADING") => Err("it still reads its log".to_owned()),
        (Some(first), _) if first.starts_with(b"+") || first.starts_with(b"-") => {
            let said = if first.starts_with(b"-") {
                first
            } else {
                b"no PONG"
            };
            Err(format!("it refuses: {}", String::from_utf8_lossy(said)))
        }
        _other => Err(format!("port {port} does not speak Valkey")),
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    let mut parts = text.split(' ');
    if !parts.next()?.starts_with("HTTP/1.") {
        return None;
    }
    let code = parts.next()?.trim();
    (code.len() == 3).then(|| code.parse().ok()).flatten()
}

fn plain(cause: &std::io::Error) -> String {
    match cause.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => "it took too long".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use model::spec::Health;

    use super::*;

    fn probe(path: Option<&str>, port: u16) -> Probe {
        Probe {
            port,
            health: Health {
                path: path.map(str::to_owned),
                ..Health::default()
            },
            speaks: Speaks::Tcp,
        }
    }

    fn serve(answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = [0_u8; 1024];
            drop(stream.read(&mut request));
            drop(stream.write_all(answer.as_bytes()));
        });
        (address, served)
    }

    #[test]
    fn statuses_decide() {
        for (answer, fit) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.0 302 Found\r\n\r\n", true),
            ("HTTP/1.1 500 No\r\n\r\n", false),
            ("HTTP/1.1 404 No\r\n\r\n", false),
            ("SSH-2.0-x\r\n", false),
            ("", false),
        ] {
            let (address, served) = serve(answer);
            assert_eq!(
                ask(address, &probe(Some("/healthz"), address.port())).is_ok(),
                fit,
                "{answer:?}"
            );
            served.join().expect("served");
        }
    }

    #[test]
    fn a_database_is_fit_when_it_takes_sessions() {
        for (answer, fit) in [
            ("R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0", true),
            ("E\0\0\0\x20SFATAL\0C28000\0Mno entry\0\0", true),
            (
                "E\0\0\0\x20SFATAL\0C57P03\0Mthe database system is starting up\0\0",
                false,
            ),
            ("HTTP/1.1 400 No\r\n\r\n", false),
            ("", false),
        ] {
            let (address, served) = serve(answer);
            let probe = Probe {
                speaks: Speaks::Postgres,
                ..probe(None, address.port())
            };
            assert_eq!(ask(address, &probe).is_ok(), fit, "{answer:?}");
            served.join().expect("served");
        }
    }

    #[test]
    fn a_valkey_is_fit_when_it_takes_commands() {
        for (answer, fit) in [
            ("+OK\r\n+PONG\r\n+OK\r\n", true),
            (
                "+OK\r\n-LOADING Valkey is loading the dataset in memory\r\n+OK\r\n",
                false,
            ),
            (
                "-WRONGPASS invalid username-password pair\r\n-NOAUTH Authentication required.\r\n",
                false,
            ),
            ("HTTP/1.1 400 No\r\n\r\n", false),
            ("", false),
        ] {
            let (address, served) = serve(answer);
            let probe = Probe {
                speaks: Speaks::Valkey,
                ..probe(None, address.port())
            };
            assert_eq!(ask(address, &probe).is_ok(), fit, "{answer:?}");
            served.join().expect("served");
        }
    }

    #[test]
    fn without_a_path_a_connection_is_enough_and_none_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        assert_eq!(ask(address, &probe(None, address.port())), Ok(()));
        drop(listener);
        let why = ask(address, &probe(None, address.port())).expect_err("nobody listens");
        assert!(why.contains("connection refused"), "{why}");
    }
}
