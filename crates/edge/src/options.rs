//! What the edge is started with.
//!
//! Lives here: options and their defaults, with the reason for each limit.
//! Does not live here: anything that changes while it runs (`table`).
//! Invariant: every limit is on by default; nothing a client does may wait, grow or repeat without bound.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use crate::table::Policy;

/// A listening socket, bound by somebody else.
///
/// All threads accept from the one socket. A set of SO_REUSEPORT sockets would spread connections more evenly, but each
/// has its own queue: handing over all but one, or a thread that dies, resets the connections waiting in the rest
/// (63 resets against 0 in our trial).
#[derive(Debug)]
pub struct Listener {
    /// Its name, by which it is handed over (`http0`).
    pub name: String,
    /// The socket.
    pub socket: TcpListener,
    /// What is spoken on it.
    pub scheme: Scheme,
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP/1.1, or HTTP/2 with prior knowledge.
    Http,
    /// TLS, then HTTP/1.1 or HTTP/2 as negotiated.
    Https,
}

/// What [`crate::run`] needs.
#[derive(Debug)]
pub struct Options {
    /// Where requests come in.
    pub listeners: Vec<Listener>,
    /// The unix socket for control.
    pub control_socket: PathBuf,
    /// Holds the last good table and the local certificate authority.
    pub state_dir: PathBuf,
    /// Threads that serve, each on its own; `None`: one per core.
    pub threads: Option<usize>,
    /// What a table may contain.
    pub policy: Policy,
    /// How long clients may take.
    pub timeouts: Timeouts,
    /// How much clients may ask for.
    pub limits: Limits,
}

impl Options {
    /// Defaults for everything but the places.
    pub fn new(listeners: Vec<Listener>, control_socket: PathBuf, state_dir: PathBuf) -> Options {
        Options {
            listeners,
            control_socket,
            state_dir,
            threads: None,
            policy: Policy::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
        }
    }
}

/// How long clients may take. A service's own limits (instance answer, body) are in the table.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// From the connection, or the first byte of a request, to the end of its head (slow headers).
    pub head: Duration,
    /// Between two requests of one connection.
    pub keep_alive: Duration,
    /// A TLS handshake.
    pub handshake: Duration,
    /// One attempt to connect to an instance.
    pub connect: Duration,
    /// An upgraded connection on which nothing moves.
    pub upgrade_idle: Duration,
    /// Until a held request goes on although others that were held are still without an answer.
    pub turn: Duration,
    /// After SIGTERM: for requests in flight.
    pub stop: Duration,
    /// A thread that has not moved for this long ends the process; the warden starts a new one.
    pub stalled: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            head: Duration::from_secs(15),
            keep_alive: Duration::from_secs(75),
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(2),
            upgrade_idle: Duration::from_secs(3600),
            turn: Duration::from_secs(3),
            stop: Duration::from_secs(10),
            stalled: Duration::from_secs(5),
        }
    }
}

/// How much clients may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's head, at most 60 KiB.
    pub head_bytes: usize,
    /// Client connections; `None`: what the descriptor limit leaves (each may need one more toward an instance).
    pub connections: Option<usize>,
    /// Requests that wait for an instance, per service and thread.
    pub held: usize,
    /// Of these, how many are sent at once when there is an instance again, per service and thread: a program that has just
    /// started is not to get all that waited for it in one instant.
    pub turns: usize,
    /// HTTP/2 streams open at once on one connection.
    pub streams: u32,
    /// Idle connections kept to one instance, per thread.
    pub idle_upstreams: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes: 32 << 10,
            connections: None,
            held: 1000,
            turns: 32,
            streams: 128,
            idle_upstreams: 128,
        }
    }
}
