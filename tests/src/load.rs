//! Constant load from several kinds of clients; each failure is kept with its reason.
//!
//! Lives here: the clients and their tallies. Does not live here: what is done to Stoa meanwhile.
//! Invariant: nothing is retried, so nothing is hidden.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::WebSocket;
use crate::http::{self, Connection};

/// Between requests of one client: constant load, not saturation.
const PACE: Duration = Duration::from_millis(20);
/// How long one WebSocket stays open; shorter than the bound a draining instance has.
const SOCKET_LIFE: Duration = Duration::from_secs(4);
/// How long one slow answer takes.
const SLOW_MS: u64 = 2500;

/// What one client saw.
#[derive(Debug, Default)]
pub struct Tally {
    /// Which client.
    pub client: String,
    /// Requests that were answered as they should be.
    pub answered: u64,
    /// Every failure.
    pub failures: Vec<String>,
    /// Connections that ended although they might have lived on.
    pub cuts: u64,
    /// Different bodies seen, for example release names.
    pub bodies: BTreeSet<String>,
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

/// One round of a client.
type Client = fn(&Target, &mut Tally) -> Result<()>;

#[derive(Debug, Clone)]
struct Target {
    address: SocketAddr,
    host: String,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Begins: two keep-alive clients, two with a new connection each time, one WebSocket, one slow answer.
    /// The application is `tests/apps/probe`.
    #[must_use]
    pub fn start(address: SocketAddr, host: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let target = Target {
            address,
            host: host.to_owned(),
            stop: Arc::clone(&stop),
        };
        let kinds: [(&str, Client); 6] = [
            ("keep-alive 1", keep_alive),
            ("keep-alive 2", keep_alive),
            ("new connections 1", new_connection),
            ("new connections 2", new_connection),
            ("WebSocket", web_socket),
            ("slow answer", slow_answer),
        ];
        let clients = kinds.map(|(name, client)| {
            let target = target.clone();
            thread::spawn(move || client_life(name, client, &target))
        });
        Self {
            stop,
            clients: clients.into(),
        }
    }

    /// Ends it; each client finishes the request it is in.
    #[must_use]
    pub fn stop(mut self) -> Vec<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let clients = std::mem::take(&mut self.clients);
        clients
            .into_iter()
            .map(|client| client.join().expect("a client does not panic"))
            .collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Target {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

fn client_life(name: &str, client: Client, target: &Target) -> Tally {
    let mut tally = Tally {
        client: name.to_owned(),
        ..Tally::default()
    };
    while target.goes_on() {
        if let Err(error) = client(target, &mut tally) {
            tally.failures.push(format!("{error:#}"));
        }
        thread::sleep(PACE);
    }
    tally
}

fn keep_alive(target: &Target, tally: &mut Tally) -> Result<()> {
    let mut connection = Connection::open(target.address)?;
    while target.goes_on() && connection.is_open() {
        let response = connection.get(&target.host, "/")?;
        ensure!(
            response.status == 200,
            "status {}: {}",
            response.status,
            response.text()
        );
        tally.answered += 1;
        tally.bodies.insert(response.text());
        if !connection.is_open() {
            tally.cuts += 1;
        }
        thread::sleep(PACE);
    }
    Ok(())
}

fn new_connection(target: &Target, tally: &mut Tally) -> Result<()> {
    let response = http::get(target.address, &target.host, "/")?;
    ensure!(
        response.status == 200,
        "status {}: {}",
        response.status,
        response.text()
    );
    tally.answered += 1;
    tally.bodies.insert(response.text());
    Ok(())
}

fn web_socket(target: &Target, tally: &mut Tally) -> Result<()> {
    let mut socket = WebSocket::open(target.address, &target.host, "/echo")?;
    let begin = Instant::now();
    while begin.elapsed() < SOCKET_LIFE && target.goes_on() {
        socket.echo("still there?")?;
        tally.answered += 1;
        thread::sleep(PACE * 5);
    }
    socket.close()
}

fn slow_answer(target: &Target, tally: &mut Tally) -> Result<()> {
    let response = http::get(target.address, &target.host, &format!("/slow?ms={SLOW_MS}"))?;
    ensure!(response.status == 200, "status {}", response.status);
    ensure!(
        response.text().ends_with("end\n"),
        "the slow answer is cut: {:?}",
        response.text()
    );
    tally.answered += 1;
    Ok(())
}
