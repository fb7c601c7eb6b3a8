//! The peer: one etcd on this machine, spoken to by its own protocol (gRPC over HTTP/2), one connection a client.
//!
//! Invariant: it keeps its defaults, so each acknowledged put is synced to the disk; nothing of it stays.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::Request;
use tokio::runtime::Runtime;

use super::{Amount, Speed, at, each, sorted, together};
use crate::{PATIENCE, until};

/// Puts on their way at once while it is filled.
const FILLERS: usize = 64;
/// What a release of ours has in the store, about.
const VALUE_BYTES: usize = 600;

/// Fields of a `WatchResponse`: that it tells of a watch that was made, and what it saw.
const CREATED: u64 = 3;
const EVENTS: u64 = 11;

/// A running one.
#[derive(Debug)]
pub struct Etcd {
    place: PathBuf,
    child: Child,
    port: u16,
    apps: usize,
}

impl Etcd {
    /// Starts one below a directory and fills it.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(root: &Path, apps: usize, releases: usize) -> Result<Self> {
        let place = root.join(format!("stoa-bench-etcd-{}", std::process::id()));
        fs::create_dir_all(&place)?;
        // Ports that nobody has now; it cannot be asked to choose.
        let free = || -> Result<u16> { Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port()) };
        let (port, peers) = (free()?, free()?);
        let (client, peer) = (
            format!("http://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{peers}"),
        );
        let log = fs::File::create(place.join("log"))?;
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(place.join("data"))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("could not start etcd")?;
        let etcd = Self {
            place,
            child,
            port,
            apps,
        };
        let mut client = until("etcd to answer", PATIENCE, || Ok(etcd.client().ok()))
            .with_context(|| fs::read_to_string(etcd.place.join("log")).unwrap_or_default())?;
        until("etcd to take a write", PATIENCE, || {
            Ok(client.put(b"/first", b"1").ok())
        })?;
        let value = vec![b'x'; VALUE_BYTES];
        let names = (0..apps).map(app_key);
        let names = names.chain((0..releases).map(|number| format!("/releases/{number:06}")));
        client.fill(&names.collect::<Vec<_>>(), &value)?;
        println!("   etcd: {apps} apps, {releases} releases");
        Ok(etcd)
    }

    fn client(&self) -> Result<Client> {
        Client::connect(self.port)
    }

    /// One measurement of each kind.
    ///
    /// # Errors
    /// When a call fails.
    pub fn measure(&self, amount: Amount) -> Result<Speed> {
        let (write, write_p99) = together(amount.writes, |writer| {
            let mut client = self.client()?;
            let mut took = Vec::with_capacity(amount.writes);
            for number in 0..amount.writes {
                let began = Instant::now();
                client.configure((writer * 7919 + number * 31) % self.apps, number)?;
                took.push(began.elapsed());
            }
            Ok(took)
        })?;
        let mut client = self.client()?;
        let reads = each(amount.reads, |number| {
            let key = app_key(number * 37 % self.apps);
            client.range(&range(key.as_bytes(), b"", 1))
        })?;
        let pages = each(amount.pages, |_| client.range(&range(b"/apps/", b"/apps0", 100)))?;
        let watched = client.watched(amount.watched, self.apps)?;
        Ok(Speed {
            write,
            write_p99,
            read_p99: at(&reads, 0.99),
            page: at(&pages, 0.5),
            watch: at(&watched, 0.5),
        })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        let _gone = fs::remove_dir_all(&self.place);
    }
}

fn app_key(number: usize) -> String {
    format!("/apps/app-{number:05}")
}

/// One connection, on a thread's own runtime.
struct Client {
    runtime: Runtime,
    send: SendRequest<Bytes>,
}

impl Client {
    fn connect(port: u16) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let send = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            let (send, connection) = h2::client::handshake(stream).await?;
            tokio::spawn(async move { drop(connection.await) });
            Ok::<_, anyhow::Error>(send)
        })?;
        Ok(Self { runtime, send })
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let send = self.send.clone();
        self.runtime
            .block_on(call(send, "/etcdserverpb.KV/Put", put(key, value)))
    }

    /// What `configure` of ours changes: one key.
    fn configure(&mut self, app: usize, number: usize) -> Result<()> {
        self.put(app_key(app).as_bytes(), format!("{number:0>600}").as_bytes())
    }

    fn range(&mut self, message: &[u8]) -> Result<()> {
        let send = self.send.clone();
        self.runtime
            .block_on(call(send, "/etcdserverpb.KV/Range", message.to_vec()))
    }

    fn fill(&mut self, keys: &[String], value: &[u8]) -> Result<()> {
        let send = self.send.clone();
        self.runtime.block_on(async {
            for part in keys.chunks(FILLERS) {
                let calls: Vec<_> = part
                    .iter()
                    .map(|key| {
                        tokio::spawn(call(
                            send.clone(),
                            "/etcdserverpb.KV/Put",
                            put(key.as_bytes(), value),
                        ))
                    })
                    .collect();
                for one in calls {
                    one.await??;
                }
            }
            Ok(())
        })
    }

    /// Writes, and waits for the watch to tell of each.
    fn watched(&mut self, count: usize, apps: usize) -> Result<Vec<f64>> {
        let send = self.send.clone();
        self.runtime.block_on(async {
            let (mut asks, mut told) = open(send.clone(), "/etcdserverpb.Watch/Watch").await?;
            // create_request { key, range_end }
            let created = [field(1, b"/apps/"), field(2, b"/apps0")].concat();
            asks.send_data(frame(&field(1, &created)), false)?;
            let mut rest = BytesMut::new();
            while !has_field(&next(&mut told, &mut rest).await?, CREATED) {}
            let mut took = Vec::new();
            for number in 0..count {
                let message = put(
                    app_key(number % apps).as_bytes(),
                    format!("{number:0>600}").as_bytes(),
                );
                let began = Instant::now();
                // The event may come before the answer of the put: whoever waits for one must hear the other.
                let write = tokio::spawn(call(send.clone(), "/etcdserverpb.KV/Put", message));
                // It also answers what opened the stream, when it likes.
                while !has_field(&next(&mut told, &mut rest).await?, EVENTS) {}
                took.push(began.elapsed());
                write.await??;
            }
            Ok(sorted(took))
        })
    }
}

/// One call to its end; the answer must be there and good.
async fn call(send: SendRequest<Bytes>, path: &str, message: Vec<u8>) -> Result<()> {
    let mut send = send.ready().await?;
    let (answer, mut body) = send.send_request(request(path)?, false)?;
    body.send_data(frame(&message), true)?;
    let mut told = answer.await?.into_body();
    let mut bytes = 0;
    while let Some(part) = told.data().await {
        let part = part?;
        bytes += part.len();
        told.flow_control().release_capacity(part.len())?;
    }
    let trailers = told.trailers().await?.context("no trailers")?;
    let status = trailers.get("grpc-status").map(|value| value.as_bytes().to_vec());
    ensure!(
        status.as_deref() == Some(b"0") && bytes >= 5,
        "{path}: {trailers:?}"
    );
    Ok(())
}

async fn open(send: SendRequest<Bytes>, path: &str) -> Result<(SendStream<Bytes>, RecvStream)> {
    let mut send = send.ready().await?;
    let (answer, body) = send.send_request(request(path)?, false)?;
    // The server answers with the first message: it must be asked for something before.
    let body_of = async move { Ok::<_, anyhow::Error>(answer.await?.into_body()) };
    let task = tokio::spawn(body_of);
    let mut body = body;
    // An empty create request would watch nothing; a progress request is answered by nobody, and opens the stream.
    body.send_data(frame(&field(3, b"")), false)?;
    Ok((body, task.await??))
}

/// Waits for one message of a stream.
async fn next(told: &mut RecvStream, rest: &mut BytesMut) -> Result<BytesMut> {
    loop {
        if let [_, a, b, c, d, ..] = rest[..] {
            let length = usize::try_from(u32::from_be_bytes([a, b, c, d]))? + 5;
            if rest.len() >= length {
                return Ok(rest.split_to(length).split_off(5));
            }
        }
        let Some(part) = told.data().await else {
            bail!("the watch ended");
        };
        let part = part?;
        told.flow_control().release_capacity(part.len())?;
        rest.extend_from_slice(&part);
    }
}

fn request(path: &str) -> Result<Request<()>> {
    Ok(Request::post(format!("http://etcd{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?)
}

/// A gRPC message: not compressed, its length, itself.
fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}

/// A field of bytes as protobuf writes it.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    varint(value.len(), &mut bytes);
    bytes.extend_from_slice(value);
    bytes
}

/// Whether a message has a field, or may have one: what cannot be read is taken for everything.
fn has_field(message: &[u8], wanted: u64) -> bool {
    let mut rest = message;
    while let Some(key) = read_varint(&mut rest) {
        if key >> 3 == wanted {
            return true;
        }
        let skipped = match key & 7 {
            0 => read_varint(&mut rest).map(|_| 0),
            1 => Some(8),
            2 => read_varint(&mut rest).and_then(|length| usize::try_from(length).ok()),
            _ => None,
        };
        match skipped.and_then(|skipped| rest.get(skipped..)) {
            Some(after) => rest = after,
            None => return true,
        }
    }
    false
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn varint(mut value: usize, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    into.push(value.to_le_bytes()[0]);
}

fn put(key: &[u8], value: &[u8]) -> Vec<u8> {
    [field(1, key), field(2, value)].concat()
}

/// Keys from one to another (none: only that one), at most so many.
fn range(key: &[u8], end: &[u8], limit: usize) -> Vec<u8> {
    let mut message = field(1, key);
    if !end.is_empty() {
        message.extend(field(2, end));
    }
    message.push(3 << 3);
    varint(limit, &mut message);
    message
}

#[cfg(test)]
mod tests {
    use super::{CREATED, EVENTS, field, has_field, varint};

    #[test]
    fn what_a_watch_says_is_told_apart() {
        let header = field(1, b"\x08\x01");
        let mut created = header.clone();
        created.push(3 << 3);
        varint(1, &mut created);
        let events = [header.clone(), field(11, b"event")].concat();
        for (message, is_created, has_events) in [
            (&header, false, false),
            (&created, true, false),
            (&events, false, true),
        ] {
            assert_eq!(has_field(message, CREATED), is_created, "{message:?}");
            assert_eq!(has_field(message, EVENTS), has_events, "{message:?}");
        }
        assert!(has_field(&events[..events.len() - 1], 99), "one that is cut off");
    }
}
