//! An edge as its own process, for tests: `edge-test-process DIR NAME:FD...`. Not shipped.
#![allow(clippy::unwrap_used)] // A test: a panic is its way to say that the world is not as assumed.
#![allow(unsafe_code)]

use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use edge::planted::Safeguard;
use edge::{Listener, Options, Scheme};

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap());
    let listeners = args.map(|arg| {
        let (name, fd) = arg.split_once(':').unwrap();
        // SAFETY: the test passed us this descriptor for us alone.
        let socket = unsafe { OwnedFd::from_raw_fd(fd.parse().unwrap()) };
        let scheme = if name.starts_with("https") {
            Scheme::Https
        } else {
            Scheme::Http
        };
        Listener {
            name: name.to_owned(),
            socket: TcpListener::from(socket),
            scheme,
        }
    });
    let mut options = Options::new(listeners.collect(), dir.join("edge.sock"), dir.join("edge"));
    options.threads = Some(2);
    options.policy.target_nets = vec!["127.0.0.0/8".parse().unwrap()];
    if let Ok(ms) = std::env::var("STALLED_MS") {
        options.timeouts.stalled = Duration::from_millis(ms.parse().unwrap());
    }
    if let Ok(name) = std::env::var("WITHOUT") {
        edge::planted::switch_off(Safeguard::named(&name).unwrap());
    }
    edge::run(options).unwrap();
}
