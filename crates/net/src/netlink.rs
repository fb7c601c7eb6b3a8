//! A synchronous netlink socket.
//!
//! Lives here: sending batches of requests, matching acknowledgements, walking dumps.
//! Does not live here: which messages make a network (`links`).
//! Invariant: a socket speaks for the network namespace it was opened in, whatever thread uses it later.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

/// The kernel answers in microseconds; a whole second only passes when it holds its own lock that long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Above the 32 KiB the kernel uses for one part of a dump.
const BUFFER_BYTES: usize = 64 * 1024;
const HEADER_BYTES: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A socket bound to one network namespace.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// One request of a batch: what it is for, its message, and the flags besides REQUEST and ACK.
pub(crate) struct Request {
    pub what: String,
    pub message: RouteNetlinkMessage,
    pub flags: u16,
}

/// One message of an answer: what follows its header.
pub(crate) struct Answer {
    pub body: Vec<u8>,
}

impl Answer {
    /// The attribute of this number, behind a fixed part of `fixed` bytes.
    ///
    /// Read by hand and not through the typed messages: those refuse a whole dump over one attribute a newer kernel
    /// lays out differently, and we need only names, indexes and prefixes.
    pub(crate) fn attribute(&self, fixed: usize, number: u16) -> Option<Vec<u8>> {
        NlasIterator::new(self.body.get(fixed..)?)
            .map_while(Result::ok)
            .find(|nla| nla.kind() == number)
            .map(|nla| nla.value().to_vec())
    }

    /// A 32-bit number of the fixed part.
    pub(crate) fn fixed_u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.body.get(at..at + 4)?.try_into().ok()?))
    }
}

impl Socket {
    /// A routing socket in the namespace of the calling thread.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// A netfilter socket in the namespace of the calling thread.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    /// No protocol means NETLINK_ROUTE, which is number 0.
    fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        rustix::net::bind(&fd, &netlink::SocketAddrNetlink::new(0, 0))?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Send all requests in one datagram. The answers stand in the order of the requests: the kernel performs each,
    /// whatever became of the one before.
    pub(crate) fn perform(&mut self, requests: &[Request]) -> io::Result<Vec<io::Result<()>>> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            append(&mut datagram, request, self.sequence);
        }
        self.send(&datagram)?;
        let mut outcomes: Vec<Option<io::Result<()>>> = requests.iter().map(|_| None).collect();
        while outcomes.iter().any(Option::is_none) {
            self.receive(|sequence, kind, body| {
                let place = sequence.wrapping_sub(first) as usize;
                if kind == ERROR
                    && let Some(slot) = outcomes.get_mut(place)
                {
                    *slot = Some(outcome(body));
                }
                Ok(())
            })?;
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// All objects a dump lists.
    pub(crate) fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<Answer>> {
        self.sequence = self.sequence.wrapping_add(1);
        let wanted = self.sequence;
        let mut datagram = Vec::new();
        let request = Request {
            what: String::new(),
            message,
            flags: NLM_F_DUMP,
        };
        append(&mut datagram, &request, wanted);
        self.send(&datagram)?;
        let mut found = Vec::new();
        let mut done = false;
        while !done {
            self.receive(|sequence, kind, body| {
                if sequence != wanted {
                    return Ok(());
                }
                match kind {
                    DONE => done = true,
                    ERROR => return outcome(body),
                    _ => found.push(Answer { body: body.to_vec() }),
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// One object, or nothing when the kernel knows none such.
    pub(crate) fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<Answer>> {
        let request = Request {
            what: String::new(),
            message,
            flags: 0,
        };
        let mut datagram = Vec::new();
        self.sequence = self.sequence.wrapping_add(1);
        append(&mut datagram, &request, self.sequence);
        self.ask(&datagram)
    }

    /// A message of any subsystem, already laid out behind its header; its answer, if the kernel knows the object.
    pub(crate) fn get_raw(&mut self, kind: u16, body: &[u8]) -> io::Result<Option<Answer>> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = HEADER_BYTES + body.len();
        let mut datagram = Vec::with_capacity(length);
        datagram.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        datagram.extend(kind.to_ne_bytes());
        datagram.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        datagram.extend(self.sequence.to_ne_bytes());
        datagram.extend([0; 4]);
        datagram.extend(body);
        self.ask(&datagram)
    }

    fn ask(&mut self, datagram: &[u8]) -> io::Result<Option<Answer>> {
        let wanted = self.sequence;
        self.send(datagram)?;
        let mut found = None;
        let mut result = None;
        while result.is_none() {
            self.receive(|sequence, kind, body| {
                if sequence == wanted {
                    match kind {
                        ERROR => result = Some(outcome(body)),
                        DONE => result = Some(Ok(())),
                        _ => found = Some(Answer { body: body.to_vec() }),
                    }
                }
                Ok(())
            })?;
        }
        match result {
            Some(Err(e)) if e.raw_os_error().is_some_and(is_absent) => Ok(None),
            Some(Err(e)) => Err(e),
            Some(Ok(())) | None => Ok(found),
        }
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.fd, datagram, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    /// Receive one datagram and show each of its messages.
    fn receive(&self, mut each: impl FnMut(u32, u16, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let length = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.fd, buffer.as_mut_slice(), RecvFlags::empty()).map(|(_, length)| length)
        })?;
        let mut rest = buffer.get(..length).ok_or_else(truncated)?;
        while rest.len() >= HEADER_BYTES {
            let size = u32_at(rest, 0)? as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let sequence = u32_at(rest, 8)?;
            each(
                sequence,
                kind,
                rest.get(HEADER_BYTES..size).ok_or_else(truncated)?,
            )?;
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

fn append(datagram: &mut Vec<u8>, request: &Request, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | request.flags;
    if request.flags & NLM_F_DUMP != NLM_F_DUMP {
        header.flags |= NLM_F_ACK;
    }
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request.message.clone()));
    message.finalize();
    let start = datagram.len();
    datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut datagram[start..]);
}

fn outcome(body: &[u8]) -> io::Result<()> {
    match i32::from_ne_bytes(u32_at(body, 0)?.to_ne_bytes()) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let four = bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .ok_or_else(truncated)?;
    Ok(u32::from_ne_bytes(four))
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a netlink answer was cut short")
}

/// "No such device", "no such file": the object is not there.
pub(crate) fn is_absent(errno: i32) -> bool {
    [
        rustix::io::Errno::NODEV,
        rustix::io::Errno::NOENT,
        rustix::io::Errno::NXIO,
    ]
    .iter()
    .any(|e| e.raw_os_error() == errno)
}
