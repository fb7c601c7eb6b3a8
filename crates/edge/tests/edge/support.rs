//! Backends that behave as told, an edge in front of them, and plain-socket clients.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use edge::control::Client;
use edge::table::{Policy, Route, Service, Table, Target, VERSION};
use edge::{Listener, Options, Running, Scheme};

/// Generous: the machine is shared, and no test measures time.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn wait_for<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = fact() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A door that keeps requests to `/gate...` waiting until it is opened.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
    pub waiting: AtomicU64,
}

impl Gate {
    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let open = self.open.lock().unwrap();
        drop(
            self.changed
                .wait_timeout_while(open, PATIENCE, |open| !*open)
                .unwrap(),
        );
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An instance. Answers by path; unknown paths echo the request as it arrived.
pub struct Backend {
    pub addr: SocketAddr,
    pub name: String,
    pub gate: Arc<Gate>,
    /// Every request head it saw.
    pub seen: Arc<Mutex<Vec<String>>>,
    pub connections: Arc<AtomicU64>,
    /// Of these, still open.
    pub open: Arc<AtomicU64>,
    closed: Arc<AtomicBool>,
}

impl Backend {
    pub fn start(name: &str) -> Backend {
        Backend::on(name, TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub fn on(name: &str, listener: TcpListener) -> Backend {
        let backend = Backend {
            addr: listener.local_addr().unwrap(),
            name: name.to_owned(),
            gate: Arc::default(),
            seen: Arc::default(),
            connections: Arc::default(),
            open: Arc::default(),
            closed: Arc::default(),
        };
        let (closed, connections, open) = (
            backend.closed.clone(),
            backend.connections.clone(),
            backend.open.clone(),
        );
        let parts = (name.to_owned(), backend.gate.clone(), backend.seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if closed.load(Ordering::SeqCst) {
                    return;
                }
                connections.fetch_add(1, Ordering::SeqCst);
                open.fetch_add(1, Ordering::SeqCst);
                let ((name, gate, seen), open) = (parts.clone(), open.clone());
                std::thread::spawn(move || {
                    let stream = stream.unwrap();
                    // A client that goes away ends its thread.
                    drop(converse(&stream, &name, &gate, &seen));
                    drop(stream);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        backend
    }

    pub fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.addr));
    }
}

/// Listens, but answers no attempt to connect: its queue is full, and further ones are dropped unheard.
pub struct Deaf {
    pub address: SocketAddr,
    _queue: (TcpListener, Vec<TcpStream>),
}

impl Deaf {
    pub fn new() -> Deaf {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let full = Duration::from_millis(500);
        let queued = std::iter::from_fn(|| TcpStream::connect_timeout(&address, full).ok()).collect();
        Deaf {
            address,
            _queue: (listener, queued),
        }
    }
}

fn converse(stream: &TcpStream, name: &str, gate: &Gate, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    let mut answered = 0;
    loop {
        let Some(head) = read_head(&mut reader)? else {
            return Ok(());
        };
        seen.lock().unwrap().push(head.clone());
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let field = |name: &str| field(&head, name);
        match path.split('?').next().unwrap() {
            "/silent" => return Ok(()),
            // Takes the request whole and dies over it.
            "/swallow" => {
                read_body(&mut reader, &head)?;
                return Ok(());
            }
            // Dies when told to, as a killed process does: with a reset, whatever is unread.
            "/reset" => {
                gate.pass();
                return Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?);
            }
            // Closes the second time it is asked on one connection: a keep-alive race.
            "/once" if answered > 0 => return Ok(()),
            "/ws" if field("upgrade").is_some() => {
                out.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")?;
                let mut block = [0; 4096];
                loop {
                    let n = reader.read(&mut block)?;
                    if n == 0 {
                        return Ok(());
                    }
                    out.write_all(&block[..n])?;
                }
            }
            "/garbage" => out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")?,
            "/endless-head" => {
                out.write_all(b"HTTP/1.1 200 OK
")?;
                loop {
                    out.write_all(b"X-More: and more and more and more\r\n")?;
                }
            }
            "/short" => {
                out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")?;
                return Ok(());
            }
            "/until-close" => {
                out.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")?;
                return Ok(());
            }
            "/hop" => out.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Secret, keep-alive\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nX-Public: 2\r\n\r\nok",
            )?,
            "/trailers" => out.write_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Grpc-Status\r\n\r\n5;ext=1\r\nhello\r\n0\r\nGrpc-Status: 7\r\nContent-Length: 5\r\n\r\n",
            )?,
            "/hint" => out.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?,
            "/stream" => {
                out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n")?;
                gate.pass();
                out.write_all(b"5\r\nlast\n\r\n0\r\n\r\n")?;
            }
            "/early" => {
                out.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n")?;
                // Lets the client have the answer before the connection is reset under it.
                gate.pass();
                return Ok(());
            }
            "/big" => {
                let n: usize = path.split_once('=').unwrap().1.parse().unwrap();
                write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {n}\r\n\r\n")?;
                out.write_all(&vec![b'x'; n])?;
            }
            "/no-content" => out.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?,
            "/status" => {
                let status = path.split_once('=').unwrap().1;
                write!(out, "HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n")?;
            }
            other => {
                if other.starts_with("/gate") {
                    gate.pass();
                }
                let body = read_body(&mut reader, &head)?;
                let text = format!("{name}\n{head}{body}");
                if head.starts_with("HEAD ") {
                    write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len())?;
                } else {
                    write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
                }
            }
        }
        answered += 1;
    }
}

/// The text up to and including the empty line; `None` at the end of the connection.
pub fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

pub fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The decoded body; trailers are appended as they came.
pub fn read_body(reader: &mut impl BufRead, head: &str) -> std::io::Result<String> {
    let mut body = Vec::new();
    if field(head, "transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let size = usize::from_str_radix(line.trim_end(), 16)
                .unwrap_or_else(|_| panic!("not a canonical chunk size: {line:?}"));
            if size == 0 {
                break;
            }
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk[..size]);
        }
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            body.extend_from_slice(line.as_bytes());
            line.clear();
        }
    } else if let Some(length) = field(head, "content-length") {
        body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut body)?;
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// A client's connection.
pub struct Wire {
    pub reader: BufReader<TcpStream>,
}

impl Wire {
    pub fn to(addr: SocketAddr) -> Wire {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire {
            reader: BufReader::new(stream),
        }
    }

    pub fn send(&mut self, text: &str) {
        self.reader.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Head and body of one answer.
    pub fn answer(&mut self) -> (String, String) {
        self.answer_to("GET")
    }

    pub fn answer_to(&mut self, method: &str) -> (String, String) {
        let head = read_head(&mut self.reader)
            .unwrap()
            .expect("the connection ended without an answer");
        let bodiless = method == "HEAD" || [" 204 ", " 304 ", " 101 "].iter().any(|s| head.contains(s));
        let body = if bodiless {
            String::new()
        } else {
            read_body(&mut self.reader, &head).unwrap()
        };
        (head, body)
    }

    pub fn get(&mut self, host: &str, path: &str) -> (String, String) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        self.answer()
    }

    /// Everything until the end of the connection.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        // A reset after the last answer is an end as well.
        let _end = self.reader.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

pub fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// An edge in this process.
pub struct Edge {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub dir: tempfile::TempDir,
    running: Option<Running>,
}

pub fn policy() -> Policy {
    Policy {
        target_nets: vec!["127.0.0.0/8".parse().unwrap()],
        ..Policy::default()
    }
}

impl Edge {
    pub fn start() -> Edge {
        Edge::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Options)) -> Edge {
        let dir = tempfile::tempdir().unwrap();
        let (http, https) = (
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        );
        let addresses = (http.local_addr().unwrap(), https.local_addr().unwrap());
        let listeners = vec![
            Listener {
                name: "http0".to_owned(),
                socket: http,
                scheme: Scheme::Http,
            },
            Listener {
                name: "https0".to_owned(),
                socket: https,
                scheme: Scheme::Https,
            },
        ];
        let mut options = Options::new(listeners, dir.path().join("edge.sock"), dir.path().join("state"));
        options.threads = Some(2);
        options.policy = policy();
        change(&mut options);
        let running = edge::start(options).unwrap();
        Edge {
            http: addresses.0,
            https: addresses.1,
            dir,
            running: Some(running),
        }
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.dir.path().join("edge.sock")).unwrap()
    }

    pub fn publish(&self, table: &Table) {
        let ack = self.client().publish(table).unwrap();
        assert_eq!((ack.generation, ack.persisted), (table.generation, true));
    }

    pub fn wire(&self) -> Wire {
        Wire::to(self.http)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.running.take().unwrap().stop();
    }
}

/// A table with one service per entry, answering `HOST/`, in front of backends.
pub fn table(generation: u64, services: &[(&str, &[&Backend])]) -> Table {
    Table {
        version: VERSION,
        generation,
        routes: services.iter().map(|(host, _)| route(host, "/", host)).collect(),
        services: services
            .iter()
            .map(|(host, backends)| service(host, backends))
            .collect(),
        certificates: Vec::new(),
    }
}

pub fn route(host: &str, path_prefix: &str, service: &str) -> Route {
    Route {
        host: host.to_owned(),
        path_prefix: path_prefix.to_owned(),
        strip: false,
        service: service.to_owned(),
    }
}

pub fn service(id: &str, backends: &[&Backend]) -> Service {
    Service {
        id: id.to_owned(),
        app: "app".to_owned(),
        release: "v1".to_owned(),
        targets: backends.iter().map(|b| target(&b.name, b.addr)).collect(),
        hold_ms: 10_000,
        request_timeout_ms: 60_000,
        idle_timeout_ms: 60_000,
        max_body_bytes: None,
        upgrade_drain_ms: 60_000,
    }
}

pub fn target(id: &str, addr: SocketAddr) -> Target {
    Target {
        id: id.to_owned(),
        addr,
        weight: 100,
        draining: false,
        release: None,
    }
}

/// What is counted, by service (with one release).
pub fn metrics(edge: &Edge) -> HashMap<String, edge::ServiceMetrics> {
    edge.client()
        .metrics()
        .unwrap()
        .services
        .into_iter()
        .map(|m| (m.service.clone(), m))
        .collect()
}
