//! Asking the host's resolvers for names of others.
//!
//! Lives here: reading /etc/resolv.conf, passing a question on and its answer back.
//! Does not live here: which questions are passed on (`answer`).
//! Invariants: an asker waits a bounded time and gets an answer or a failure (F31); an answer counts only when it
//! comes from the resolver asked, with the number and the question that were sent.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::Transport;

/// Each resolver gets this long; two rounds over at most two stay within the 5 s after which askers ask again.
const PATIENCE: Duration = Duration::from_millis(1200);
const ROUNDS: usize = 2;
const RESOLVERS_MOST: usize = 2;
const PORT: u16 = 53;
const HEADER: usize = 12;
const LARGEST: usize = 65535;

/// The host's resolvers.
#[derive(Debug)]
pub(super) struct Upstream {
    path: PathBuf,
    changed: Cell<Option<SystemTime>>,
    resolvers: RefCell<Vec<SocketAddr>>,
    /// The one that answered last: a dead first resolver must not cost every question its patience.
    preferred: Cell<usize>,
}

impl Upstream {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            changed: Cell::new(None),
            resolvers: RefCell::default(),
            preferred: Cell::new(0),
        }
    }

    /// Read the file again if it changed. `ours`: addresses we serve ourselves, which would be asked in a circle.
    pub(super) fn refresh(&self, ours: &[Ipv4Addr]) {
        let changed = fs::metadata(&self.path).and_then(|m| m.modified()).ok();
        if changed.is_some() && changed == self.changed.get() {
            return;
        }
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let mut found = resolvers(&text);
        found.retain(|r| !ours.iter().any(|ip| r.ip() == IpAddr::V4(*ip)));
        found.truncate(RESOLVERS_MOST);
        self.changed.set(changed);
        self.preferred.set(0);
        self.resolvers.replace(found);
    }

    /// The answer of the first resolver that has one.
    pub(super) async fn ask(&self, query: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
        let resolvers = self.resolvers.borrow().clone();
        let first = self.preferred.get();
        for attempt in 0..ROUNDS * resolvers.len() {
            let place = (first + attempt) % resolvers.len();
            let asked = async {
                match transport {
                    Transport::Udp => ask_by_udp(resolvers[place], query).await,
                    Transport::Tcp => ask_by_tcp(resolvers[place], query).await,
                }
            };
            if let Ok(Ok(answer)) = timeout(PATIENCE, asked).await {
                self.preferred.set(place);
                return Ok(answer);
            }
        }
        Err(io::Error::from(io::ErrorKind::TimedOut))
    }
}

/// The `nameserver` lines.
fn resolvers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, PORT))
        .collect()
}

async fn ask_by_udp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A socket of its own for each question: its random port is half of what a forger would have to guess.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    let sent = renumbered(query)?;
    socket.send(&sent).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = buffer
            .get(..length)
            .and_then(|answer| matching(answer, &sent, query))
        {
            return Ok(answer);
        }
    }
}

async fn ask_by_tcp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let sent = renumbered(query)?;
    let length = u16::try_from(sent.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[length.to_be_bytes().as_slice(), &sent].concat())
        .await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    matching(&answer, &sent, query).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The same question under a number of our own.
fn renumbered(query: &[u8]) -> io::Result<Vec<u8>> {
    let mut sent = query.to_vec();
    let number = sent.get_mut(..2).ok_or(io::ErrorKind::InvalidInput)?;
    getrandom::fill(number).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(sent)
}

/// The answer under the asker's number, if it is one to what was sent.
fn matching(answer: &[u8], sent: &[u8], query: &[u8]) -> Option<Vec<u8>> {
    let is_answer = answer.len() >= HEADER && answer[..2] == sent[..2] && answer[2] & 0x80 != 0;
    let question = question(sent)?;
    // A resolver that could not read the question may leave it out; anything else must repeat it.
    let repeats = answer
        .get(HEADER..HEADER + question.len())
        .is_some_and(|a| a.eq_ignore_ascii_case(question));
    if !is_answer || !(repeats || answer.get(4..6) == Some(&[0, 0])) {
        return None;
    }
    let mut answer = answer.to_vec();
    answer[..2].copy_from_slice(query.get(..2)?);
    Some(answer)
}

/// The bytes of the one question: its name, type and class.
fn question(query: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER;
    loop {
        match *query.get(at)? {
            0 => return query.get(HEADER..at + 5),
            length if length < 64 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_resolvers() {
        let text = "# nameserver 9.9.9.9\nsearch x\nnameserver 10.0.0.1\n nameserver\tfd00::1 # c\nnameserver x\nnameserver10.0.0.2\n";
        let found: Vec<String> = resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[fd00::1]:53"]);
    }

    #[test]
    fn our_own_addresses_are_not_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 10.80.0.1\nnameserver 10.0.0.1\n").unwrap();
        let upstream = Upstream::new(path);
        upstream.refresh(&["10.80.0.1".parse().unwrap()]);
        assert_eq!(*upstream.resolvers.borrow(), ["10.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn only_the_answer_to_what_was_sent_counts() {
        let query = [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1][..], b"a\0\0\x01\0\x01"].concat();
        let mut sent = query.clone();
        sent[..2].copy_from_slice(&[9, 9]);
        let mut answer = sent.clone();
        answer[2] |= 0x80;
        assert_eq!(matching(&answer, &sent, &query).unwrap()[..2], [0, 1]);
        for (at, to) in [(0, 8), (2, 1), (13, b'b'), (16, 28)] {
            let mut wrong = answer.clone();
            wrong[at] = to;
            assert_eq!(matching(&wrong, &sent, &query), None, "{at}");
        }
        assert_eq!(matching(&answer[..5], &sent, &query), None);
    }
}
