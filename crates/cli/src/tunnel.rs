//! `stoa db tunnel`: a port of this machine that leads to a database.
//!
//! ```text
//! accept -> thread: local socket --read--> thread --(channel)--> session of the API
//!                   local socket <--write------------------------ the same
//! ```
//! Invariant: each connection is a session of its own, with a client and threads of its own: one that does not go on
//! holds up no other, and when either end of it closes, both do.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use client::{Client, Input, Output, Place};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

use crate::failure::{Code, Failure};
use crate::output::{self, say};
use crate::session::Session;
use crate::terminal;

/// How often Ctrl-C is looked at.
const GLANCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
/// Pieces read ahead of the network: a slow one slows the program at this end down.
const AHEAD: usize = 4;
/// After an accept that failed for want of something, for example descriptors.
const BREATH: Duration = Duration::from_millis(200);

/// What the url shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Url {
    /// All but the password.
    Bare,
    /// The password, too.
    WithPassword,
}

/// Listens until Ctrl-C, and carries each connection to the database.
pub(crate) fn tunnel(session: &Session, name: &str, port: u16, url: Url) -> Result<u8, Failure> {
    let (client, place) = (&session.client, &session.place);
    // What stands in the way is told now, rather than to the first connection.
    client.database_tunnel_rehearse(place, name)?;
    let variables = client.database_credentials(place, name)?.variables;
    let listener = listen(port)?;
    let address = listener
        .local_addr()
        .map_err(|cause| Failure::local("could not listen", &cause))?;
    let of = |key: &str| variables.get(key).map(String::as_str).unwrap_or_default();
    let (login, talk) = match url {
        Url::Bare => (
            of("PGUSER").to_owned(),
            "it is open until Ctrl-C; the password: stoa db url, or --url here",
        ),
        Url::WithPassword => (
            format!("{}:{}", of("PGUSER"), of("PGPASSWORD")),
            "it is open until Ctrl-C",
        ),
    };
    let url = format!("postgresql://{login}@{address}/{}", of("PGDATABASE"));
    if session.json {
        output::json_line(&json!({"address": address.to_string(), "port": address.port(), "url": url}))?;
    } else {
        output::data(&format!("{address}\n{url}\n"))?;
        say(talk);
    }
    terminal::catch_interrupt();
    serve(client, place, name, &listener)
}

fn listen(port: u16) -> Result<TcpListener, Failure> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // Whoever is asked for a connection may have gone again: accepting must not wait for the next.
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|cause| match cause.kind() {
        ErrorKind::AddrInUse => Failure::new(
            Code::Conflict,
            format!("the port {port} of this machine is taken"),
            "name another with --port, or leave it out: any free one is taken then",
        ),
        ErrorKind::PermissionDenied => Failure::new(
            Code::Failed,
            format!("the port {port} of this machine is not for everybody"),
            "name one from 1024 on with --port, or leave it out",
        ),
        _other => Failure::local(format!("could not listen on {address}"), &cause),
    })
}

fn serve(client: &Client, place: &Place, name: &str, listener: &TcpListener) -> Result<u8, Failure> {
    loop {
        if terminal::is_interrupted() {
            return Ok(Code::Interrupted as u8);
        }
        // An interrupted wait is as good as one that is over.
        let _ = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&GLANCE));
        let local = match listener.accept() {
            Ok((local, _)) => local,
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => continue,
            Err(cause) => {
                say(&format!("a connection could not be taken: {cause}"));
                std::thread::sleep(BREATH);
                continue;
            }
        };
        let client = match client.another() {
            Ok(client) => client,
            Err(cause) => {
                say(&format!("a connection could not be taken: {cause}"));
                std::thread::sleep(BREATH);
                continue;
            }
        };
        let (place, name) = (place.clone(), name.to_owned());
        let carrier = std::thread::Builder::new().spawn(move || {
            let carried = carry(&client, &place, &name, &local);
            // Both threads that hold it see its end; one that is over already needs none.
            let _ = local.shutdown(Shutdown::Both);
            if let Err(failure) = carried {
                say(&format!("a connection ended: {}", failure.message));
                say(&format!("next: {}", failure.next));
            }
        });
        if let Err(cause) = carrier {
            say(&format!("a connection could not be taken: {cause}"));
            std::thread::sleep(BREATH);
        }
    }
}

/// One connection, from its beginning to the end of either side.
fn carry(client: &Client, place: &Place, name: &str, local: &TcpStream) -> Result<(), Failure> {
    let broken = |cause: std::io::Error| Failure::local("could not use the connection", &cause);
    local.set_nonblocking(false).map_err(broken)?;
    local.set_nodelay(true).map_err(broken)?;
    let session = client.database_tunnel(place, name)?;
    let (sender, receiver) = mpsc::sync_channel(AHEAD);
    let from = local.try_clone().map_err(broken)?;
    std::thread::spawn(move || read(from, &sender));
    let mut to = local;
    let carried = session.carry(receiver, |output| match output {
        Output::Stdout(bytes) | Output::Stderr(bytes) => to.write_all(bytes),
    });
    match carried {
        Ok(_) | Err(client::Error::Local { .. }) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

/// What the program at this end says, until it says nothing more.
fn read(mut from: TcpStream, sender: &mpsc::SyncSender<Input>) {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let next = match from.read(&mut buffer) {
            Ok(0) => Input::End,
            Ok(count) => Input::Bytes(buffer[..count].to_vec()),
            Err(cause) if cause.kind() == ErrorKind::Interrupted => continue,
            Err(_) => Input::End,
        };
        let is_end = matches!(next, Input::End);
        if sender.send(next).is_err() || is_end {
            return;
        }
    }
}
