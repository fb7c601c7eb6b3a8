//! A connection to the server's port, as streams.
//!
//! Invariant: when what holds it is dropped, the connection is over for both ends, and whoever waits for its end is told.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use engine::{EngineError, ExecStreams};
use rustix::event::{PollFd, PollFlags, poll};

/// On one host a server that lives answers in a millisecond; a busy one may let its queue fill for a moment.
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);

/// Connects to a server by its address. Who speaks there signs in as over any network.
///
/// # Errors
/// When it takes no connection in time.
pub fn connect(address: Ipv4Addr) -> io::Result<ExecStreams> {
    let server = SocketAddr::from((address, crate::PORT));
    let stream = TcpStream::connect_timeout(&server, CONNECTS_WITHIN)?;
    // What is carried comes in pieces of its own already.
    stream.set_nodelay(true)?;
    streams(stream)
}

fn streams(stream: TcpStream) -> io::Result<ExecStreams> {
    let (input, output, watched) = (stream.try_clone()?, stream.try_clone()?, stream.try_clone()?);
    Ok(ExecStreams {
        stdin: input.into(),
        stdout: output.into(),
        stderr: None,
        wait: Box::new(move || ended(&watched)),
        hold: Box::new(Hold(stream)),
    })
}

struct Hold(TcpStream);

impl Drop for Hold {
    fn drop(&mut self) {
        // Closing one of several descriptors would end nothing. What is over already needs no end.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Waits until the server sends nothing more: it closed, was reset, or we ended it.
fn ended(stream: &TcpStream) -> Result<i32, EngineError> {
    loop {
        match poll(&mut [PollFd::new(stream, PollFlags::RDHUP)], None) {
            Ok(_) => return Ok(0),
            Err(rustix::io::Errno::INTR) => {}
            Err(cause) => {
                return Err(EngineError::Host {
                    what: "watch a connection to a database".to_owned(),
                    why: cause.to_string(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::*;

    fn pair() -> (ExecStreams, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let ours = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (theirs, _) = listener.accept().expect("accepted");
        (streams(ours).expect("streams"), theirs)
    }

    #[test]
    fn bytes_pass_both_ways_and_the_end_of_the_server_is_told_after_them() {
        let (streams, mut server) = pair();
        File::from(streams.stdin).write_all(b"hello").expect("sent");
        let mut heard = [0; 5];
        server.read_exact(&mut heard).expect("heard");
        assert_eq!(&heard, b"hello");
        server.write_all(b"last words").expect("said");
        drop(server);
        assert_eq!((streams.wait)().expect("ended"), 0);
        let mut said = String::new();
        File::from(streams.stdout)
            .read_to_string(&mut said)
            .expect("read");
        assert_eq!(said, "last words");
    }

    #[test]
    fn what_is_no_longer_held_is_over_for_everybody() {
        let (streams, mut server) = pair();
        let (told, is_told) = mpsc::channel();
        let wait = streams.wait;
        std::thread::spawn(move || told.send(wait().is_ok()));
        drop(streams.hold);
        let limit = Duration::from_secs(10);
        assert_eq!(is_told.recv_timeout(limit), Ok(true));
        assert_eq!(server.read(&mut [0; 1]).expect("the end"), 0);
        assert_eq!(File::from(streams.stdout).read(&mut [0; 1]).expect("the end"), 0);
    }
}
