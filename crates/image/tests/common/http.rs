//! A small HTTP server that does what it is told, honest or not; and a registry program.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// An answer as it goes.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What Content-Length says, when it lies.
    pub length: Option<usize>,
    /// Bytes of the body after which the connection is cut.
    pub cut_after: Option<usize>,
}

pub fn reply(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply {
        status,
        headers: Vec::new(),
        body: body.into(),
        length: None,
        cut_after: None,
    }
}

impl Reply {
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.headers.push((key.into(), value.into()));
        self
    }
}

/// Listens until dropped; remembers what it was asked.
pub struct Server {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<Vec<Request>>>,
    over: Arc<AtomicBool>,
}

impl Server {
    pub fn start(at: &str, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((at, 0)).unwrap();
        let (address, asked, over) = (
            listener.local_addr().unwrap(),
            Arc::default(),
            Arc::new(AtomicBool::new(false)),
        );
        let (answer, log, stop) = (Arc::new(answer), Arc::clone(&asked), Arc::clone(&over));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                std::thread::spawn(move || serve(stream.unwrap(), &*answer, &log));
            }
        });
        Self { address, asked, over }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _wake = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, answer: &dyn Fn(&Request) -> Reply, log: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        // Not text: somebody speaks TLS. Real servers say so in the clear.
        let _ = (&stream).write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
        return;
    }
    if line.is_empty() {
        return;
    }
    let mut words = line.split_whitespace();
    let mut request = Request {
        method: words.next().unwrap_or_default().into(),
        path: words.next().unwrap_or_default().into(),
        headers: Vec::new(),
    };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((key, value)) = line.trim().split_once(':') {
            request.headers.push((key.into(), value.trim().into()));
        }
    }
    log.lock().unwrap().push(request.clone());
    let reply = answer(&request);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (key, value) in &reply.headers {
        head.push_str(&format!("{key}: {value}\r\n"));
    }
    head.push_str(&format!(
        "Content-Length: {}\r\n\r\n",
        reply.length.unwrap_or(reply.body.len())
    ));
    let body = &reply.body[..reply.cut_after.unwrap_or(reply.body.len()).min(reply.body.len())];
    let mut stream = stream;
    // The other side may have hung up already, which is its right.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body))
        .and_then(|()| stream.flush());
}

/// Debian's `docker-registry`, on a port of its own choosing.
pub struct RegistryProgram {
    pub address: String,
    child: Child,
    _home: tempfile::TempDir,
}

impl RegistryProgram {
    /// `extra` goes below the `http`, `storage` and `log` sections, such as an `auth` section.
    pub fn start(extra: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("config.yml");
        let storage = home.path().join("storage");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{}",
            storage.display(),
            extra.replace("HOME", &home.path().display().to_string()),
        );
        std::fs::write(&config, text).unwrap();
        if extra.contains("htpasswd") {
            // User `me`, password `secret`, as `htpasswd -B` writes it.
            std::fs::write(home.path().join("htpasswd"), HTPASSWD).unwrap();
        }
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed");
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).unwrap() > 0, "the registry ended");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.trim_end().split('"').next().unwrap().to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self {
            address,
            child,
            _home: home,
        }
    }
}

/// bcrypt of `secret`.
const HTPASSWD: &str = "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

impl Drop for RegistryProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Passes connections on to a server, cutting the first `cuts` answers that are longer than `after` bytes.
pub struct Relay {
    pub address: SocketAddr,
    pub cut: Arc<Mutex<u32>>,
    over: Arc<AtomicBool>,
}

impl Relay {
    pub fn start(to: &str, cuts: u32, after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, over, cut) = (
            listener.local_addr().unwrap(),
            Arc::new(AtomicBool::new(false)),
            Arc::new(Mutex::new(0)),
        );
        let (to, stop, count) = (to.to_owned(), Arc::clone(&over), Arc::clone(&cut));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (to, count) = (to.clone(), Arc::clone(&count));
                std::thread::spawn(move || {
                    let client = client.unwrap();
                    let server = TcpStream::connect(to).unwrap();
                    let (mut up, mut into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                    std::thread::spawn(move || std::io::copy(&mut up, &mut into));
                    let mut down = server;
                    let passed = std::io::copy(&mut (&mut down).take(after), &mut &client).unwrap_or(0);
                    let is_cut = passed == after && {
                        let mut count = count.lock().unwrap();
                        let is_left = *count < cuts;
                        *count += u32::from(is_left);
                        is_left
                    };
                    if !is_cut {
                        let _ = std::io::copy(&mut down, &mut &client);
                    }
                    let _ = client.shutdown(std::net::Shutdown::Both);
                    let _ = down.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Self { address, cut, over }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _wake = TcpStream::connect(self.address);
    }
}
