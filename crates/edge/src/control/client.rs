//! Asking an edge.
//!
//! Lives here: the blocking client for control, for the next edge, and for the warden's caller.
//! Does not live here: the words (`protocol`).
//! Invariant: every call has a limit; after an error the connection is not used again.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::control::protocol::{Ack, DrainLimits, Envelope, Idle, Order, Reply, Status, VERSION};
use crate::record::Metrics;
use crate::table::{Problem, Table};
use crate::worker::Load;

/// A publication waits for every thread and for the disk; anything longer is a fault.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sockets of one edge.
pub(crate) const SOCKETS_MAX: usize = 32;

/// Why the edge did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("no edge answers on {}", path.display())]
    Absent {
        /// The control socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The conversation broke off.
    #[error("the edge broke off")]
    Broken(#[source] io::Error),
    /// The table is refused; the one before is served on.
    #[error("the edge refuses the table: {}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused {
        /// Every reason.
        problems: Vec<Problem>,
    },
    /// The edge says why it could not.
    #[error("the edge could not: {what}")]
    Failed {
        /// Its words.
        what: String,
    },
}

impl ClientError {
    /// What the caller can do.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Absent { .. } => {
                "the warden restarts the edge within a second; if it stays away, read its log"
            }
            Self::Broken(_) => "connect again and ask for its status",
            Self::Refused { .. } => "correct the table and publish it with a new generation",
            Self::Failed { .. } => {
                "ask for its status, then publish again with a generation above the one it serves"
            }
        }
    }
}

/// A connection to an edge.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the edge behind a control socket.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(path).map_err(|cause| ClientError::Absent {
            path: path.to_owned(),
            cause,
        })?;
        Ok(Client {
            stream: BufReader::new(stream),
        })
    }

    /// The process of the edge, as the kernel knows it; 0 when it does not say.
    pub fn pid(&self) -> u32 {
        let peer = rustix::net::sockopt::socket_peercred(self.stream.get_ref());
        peer.map_or(0, |peer| peer.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Has every thread serve the table; returns when all do.
    pub fn publish(&mut self, table: &Table) -> Result<Ack, ClientError> {
        let bytes = serde_json::to_vec(table).map_err(|e| ClientError::Broken(e.into()))?;
        self.publish_document(&bytes)
    }

    /// As [`Client::publish`], for a document that is already written.
    pub fn publish_document(&mut self, document: &[u8]) -> Result<Ack, ClientError> {
        self.say(Order::Publish {
            bytes: document.len() as u64,
        })?;
        self.stream
            .get_mut()
            .write_all(document)
            .map_err(ClientError::Broken)?;
        match self.hear(PATIENCE)? {
            Reply::Published(ack) => Ok(ack),
            Reply::Refused { problems } => Err(ClientError::Refused { problems }),
            other => Err(unexpected(other)),
        }
    }

    /// What is in flight to the targets.
    pub fn in_flight(&mut self, targets: &[&str]) -> Result<HashMap<String, Load>, ClientError> {
        self.say(Order::InFlight {
            targets: owned(targets),
        })?;
        match self.hear(PATIENCE)? {
            Reply::InFlight(loads) => Ok(loads),
            other => Err(unexpected(other)),
        }
    }

    /// Waits until no request is in flight to the targets (they must have been drained by a table before).
    pub fn wait_idle(&mut self, targets: &[&str], limit: Duration) -> Result<Idle, ClientError> {
        let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.say(Order::WaitIdle {
            targets: owned(targets),
            timeout_ms,
        })?;
        match self.hear(limit.saturating_add(PATIENCE))? {
            Reply::Idle(idle) => Ok(idle),
            other => Err(unexpected(other)),
        }
    }

    /// All counters since the edge started.
    pub fn metrics(&mut self) -> Result<Metrics, ClientError> {
        self.say(Order::Metrics)?;
        match self.hear(PATIENCE)? {
            Reply::Metrics(metrics) => Ok(metrics),
            other => Err(unexpected(other)),
        }
    }

    /// How the edge is.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.say(Order::Status)?;
        match self.hear(PATIENCE)? {
            Reply::Status(status) => Ok(status),
            other => Err(unexpected(other)),
        }
    }

    /// The edge's listening sockets, by name. It keeps accepting until it is told to drain: a new edge does that by itself
    /// once it accepts.
    pub fn handover(&mut self) -> Result<Vec<(String, OwnedFd)>, ClientError> {
        self.say(Order::Handover)?;
        let (line, sockets) = self.hear_with_sockets().map_err(ClientError::Broken)?;
        match serde_json::from_slice(&line).map_err(|e| ClientError::Broken(e.into()))? {
            Reply::Sockets(names) if names.len() == sockets.len() => {
                Ok(names.into_iter().zip(sockets).collect())
            }
            other => Err(unexpected(other)),
        }
    }

    /// Has the edge stop accepting and exit when its connections have ended. From here on it obeys this client only, as the
    /// one of its successor.
    pub fn drain(&mut self, limits: DrainLimits) -> Result<(), ClientError> {
        self.say(Order::Drain(limits))?;
        match self.hear(PATIENCE)? {
            Reply::Draining => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn say(&mut self, order: Order) -> Result<(), ClientError> {
        let stream = self.stream.get_mut();
        let mut line =
            serde_json::to_vec(&Envelope { v: VERSION, order }).map_err(|e| ClientError::Broken(e.into()))?;
        line.push(b'\n');
        stream
            .set_write_timeout(Some(PATIENCE))
            .and_then(|()| stream.write_all(&line))
            .map_err(ClientError::Broken)
    }

    fn hear(&mut self, limit: Duration) -> Result<Reply, ClientError> {
        let mut line = Vec::new();
        let heard = self
            .stream
            .get_ref()
            .set_read_timeout(Some(limit))
            .and_then(|()| self.stream.read_until(b'\n', &mut line))
            .map_err(ClientError::Broken)?;
        if heard == 0 {
            return Err(ClientError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(|e| ClientError::Broken(e.into()))
    }

    /// A line with descriptors on its first byte.
    fn hear_with_sockets(&mut self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        self.stream.get_ref().set_read_timeout(Some(PATIENCE))?;
        let mut bytes = [0u8; 4096];
        let mut space = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            self.stream.get_ref(),
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let mut sockets = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                sockets.extend(passed);
            }
        }
        let mut line = bytes[..received.bytes].to_vec();
        if !line.ends_with(b"\n") {
            self.stream.read_until(b'\n', &mut line)?;
        }
        Ok((line, sockets))
    }
}

fn owned(targets: &[&str]) -> Vec<String> {
    targets.iter().map(|t| (*t).to_owned()).collect()
}

fn unexpected(reply: Reply) -> ClientError {
    match reply {
        Reply::Failed { what } => ClientError::Failed { what },
        other => ClientError::Failed {
            what: format!("it answered something else: {other:?}"),
        },
    }
}
