//! Messages as bytes, and bytes with descriptors over a unix socket.
//!
//! Lives here: the tag-length-value frame and the one place that sends and receives descriptors.
//! Does not live here: what the tags mean (`message`).
//! Invariant: a reader skips tags it does not know, so fields can be added without a new version; descriptors arrive
//! close-on-exec.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

const MAGIC: [u8; 4] = *b"STK\x01";
const HEADER: usize = 10;
/// A message is one packet; more is never needed.
const MAX_BYTES: usize = 64 * 1024;
/// Most descriptors in one message.
const MAX_FDS: usize = 8;

/// A frame: the sender's version, a kind, and tagged fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Version of the protocol the sender speaks.
    pub version: u16,
    /// What it is.
    pub kind: u16,
    fields: Vec<(u16, Vec<u8>)>,
}

impl Frame {
    /// An empty frame.
    pub fn new(version: u16, kind: u16) -> Frame {
        Frame {
            version,
            kind,
            fields: Vec::new(),
        }
    }

    /// Adds bytes.
    pub fn bytes(mut self, tag: u16, value: &[u8]) -> Frame {
        self.fields.push((tag, value.to_vec()));
        self
    }

    /// Adds text.
    pub fn text(self, tag: u16, value: &str) -> Frame {
        self.bytes(tag, value.as_bytes())
    }

    /// Adds a number.
    pub fn number(self, tag: u16, value: u64) -> Frame {
        self.bytes(tag, &value.to_le_bytes())
    }

    /// The bytes of a field.
    pub fn get(&self, tag: u16) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|(t, _)| *t == tag)
            .map(|(_, value)| value.as_slice())
    }

    /// A field as text.
    pub fn get_text(&self, tag: u16) -> Option<String> {
        String::from_utf8(self.get(tag)?.to_vec()).ok()
    }

    /// A field as a number.
    pub fn get_number(&self, tag: u16) -> Option<u64> {
        Some(u64::from_le_bytes(self.get(tag)?.try_into().ok()?))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.kind.to_le_bytes());
        out.extend(u16::try_from(self.fields.len()).unwrap_or(u16::MAX).to_le_bytes());
        for (tag, value) in &self.fields {
            out.extend(tag.to_le_bytes());
            out.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend(value);
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Frame> {
        let header = bytes.get(..HEADER)?;
        if header[..4] != MAGIC {
            return None;
        }
        let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let mut frame = Frame::new(short(4), short(6));
        let mut rest = &bytes[HEADER..];
        for _ in 0..short(8) {
            let head = rest.get(..6)?;
            let tag = u16::from_le_bytes([head[0], head[1]]);
            let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
            let value = rest.get(6..6 + length)?;
            frame.fields.push((tag, value.to_vec()));
            rest = &rest[6 + length..];
        }
        Some(frame)
    }
}

/// Sends a frame with descriptors over a packet socket.
pub fn send(socket: impl AsFd, frame: &Frame, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = frame.encode();
    if bytes.len() > MAX_BYTES || fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too large"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors",
        ));
    }
    let sent = retry(|| {
        rustix::net::sendmsg(
            &socket,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Receives one frame. `None` when the other side has gone.
pub fn receive(socket: impl AsFd) -> io::Result<Option<(Frame, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // Ask for the size first: an idle keeper must not keep 64 KB dirty for the sake of the rare large message.
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
    let mut first = [0u8; 1];
    let (_, size) = retry(|| rustix::net::recv(&socket, &mut first[..], peek))?;
    if size == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0u8; size.min(MAX_BYTES)];
    let received = retry(|| {
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let frame = Frame::decode(&bytes[..received.bytes.min(bytes.len())]);
    match frame {
        Some(frame) => Ok(Some((frame, fds))),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "not a keeper message")),
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_descriptors_arrive_whole() {
        let (a, b) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let frame = Frame::new(3, 7).text(1, "x").number(2, 9).bytes(900, &[0; 1000]);
        send(&a, &frame, &[a.as_fd(), b.as_fd()]).unwrap();
        let (read, fds) = receive(&b).unwrap().unwrap();
        assert_eq!(read, frame);
        assert_eq!(fds.len(), 2);
        assert_eq!(
            (
                read.get_text(1).unwrap().as_str(),
                read.get_number(2),
                read.get(5)
            ),
            ("x", Some(9), None)
        );
        drop((a, fds));
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn cut_and_foreign_bytes_are_refused() {
        let whole = Frame::new(1, 2).text(1, "hello").encode();
        for end in 0..whole.len() {
            assert_eq!(Frame::decode(&whole[..end]), None);
        }
        assert_eq!(Frame::decode(b"GET / HTTP/1.1\r\n\r\n"), None);
    }
}
