//! Accepting connections.
//!
//! Lives here: the accept loops of a thread, its connection limit, choosing the protocol of a connection.
//! Does not live here: binding (the warden does), serving (`request`, `h2`).
//! Invariant: without descriptors or room the loop pauses; it never spins, and it recovers by itself (F22).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;

use crate::buffer::Buffer;
use crate::h2;
use crate::options::Scheme;
use crate::request::{Connection, Ended, serve};
use crate::stream::{Io, Stream};
use crate::tls::{self, Resolver};
use crate::worker::{Peer, Worker};

/// After a failure to accept that is ours (no descriptors, no memory).
const PAUSE: Duration = Duration::from_millis(100);

/// What TLS listeners need.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) resolver: Arc<Resolver>,
}

/// Accepts from when it is told to until draining begins.
pub(crate) async fn accept(
    worker: Rc<Worker>,
    listener: TcpListener,
    scheme: Scheme,
    tls: Tls,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let has_room = || worker.is_open.get() && worker.connections.get() < worker.connections_max;
        while !has_room() && worker.draining.get().is_none() {
            worker.room.notified().await;
        }
        if worker.draining.get().is_some() {
            return Ok(());
        }
        let accepted = tokio::select! {
            biased;
            () = worker.drain.notified() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let guard = Counted::new(&worker);
                let (worker, tls) = (worker.clone(), (scheme == Scheme::Https).then(|| tls.clone()));
                tokio::task::spawn_local(async move {
                    converse(worker, stream, address, tls).await;
                    drop(guard);
                });
                // One at a time, so that the other threads get their share of a burst.
                tokio::task::yield_now().await;
            }
            Err(cause) if is_the_clients_fault(&cause) => {}
            Err(cause) => {
                tracing::warn!(error = %cause, "cannot accept connections; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_the_clients_fault(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Counts a connection while it lives.
struct Counted(Rc<Worker>);

impl Counted {
    fn new(worker: &Rc<Worker>) -> Counted {
        if worker.connections.replace(worker.connections.get() + 1) == 0 {
            // After a quiet time the coarse clock may be behind.
            worker.clock.refresh();
        }
        Counted(worker.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.room.notify_one();
    }
}

/// One connection from handshake to end.
async fn converse(worker: Rc<Worker>, stream: TcpStream, address: SocketAddr, tls: Option<Tls>) {
    // A socket that cannot be told so is about to fail anyway.
    let _slower = stream.set_nodelay(true);
    let watch = worker.clock.watch();
    let (io, identity, is_http2) = match tls {
        None => (Io::Plain(stream), None, false),
        Some(Tls { config, resolver }) => {
            watch.arm(worker.timeouts.handshake);
            // Boxed, like all that follows: an idle plain connection must not carry the state of a handshake.
            match Box::pin(tls::accept(config, &resolver, stream, &watch)).await {
                Ok(secured) => (Io::Tls(secured.stream), Some(secured.identity), secured.is_http2),
                // Scanners and impatient clients: not worth a line each.
                Err(_) => return,
            }
        }
    };
    let peer = Peer::new(address, identity);
    let connection = Connection {
        worker: worker.clone(),
        io: Stream::new(io),
        buffer: Buffer::default(),
        watch,
        peer,
    };
    let ended = if is_http2 {
        Ended::IsHttp2(connection)
    } else {
        Box::pin(serve(connection)).await
    };
    if let Ended::IsHttp2(connection) = ended {
        Box::pin(h2::serve(connection)).await;
    }
}
