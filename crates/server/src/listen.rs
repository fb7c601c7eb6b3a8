//! Listening: TCP for tokens, a unix socket for root on the host.
//!
//! Invariant: a connection costs bounded memory and time before it has sent a whole head, and the number of
//! connections is bounded for each kind of peer, so that a stranger can neither exhaust control nor shut its owner out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use control::Control;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};

use crate::metrics::Metrics;
use crate::rate::Rates;
use crate::stream::Changes;
use crate::{About, Shared, request};

/// Connections at once over TCP. A console opens a few, a CLI one.
const TCP_CONNECTIONS: usize = 512;
/// The same on our socket for root, who must get in however many others there are.
const ROOT_CONNECTIONS: usize = 256;
/// The same for other users of the host.
const LOCAL_CONNECTIONS: usize = 64;
/// A head arrives within this time, or the connection ends; also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Threads for use cases, which block on disk and on waiting.
const BLOCKING_THREADS: usize = 96;
/// How long requests under way may take when we are told to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How much of what is expensive may happen at once. Beyond it: 503 with `Retry-After`, or an answer at once.
pub(crate) struct Limits {
    /// Event streams.
    pub(crate) streams: Arc<Semaphore>,
    /// Those of root on the host, who must get his however many others there are.
    pub(crate) root_streams: Arc<Semaphore>,
    /// Programs run through `exec`: four threads each.
    pub(crate) sessions: Arc<Semaphore>,
    /// Connections through tunnels: three threads each. Apart from `sessions`: the pool of one tool must not keep others
    /// from a shell.
    pub(crate) tunnels: Arc<Semaphore>,
    /// Requests that wait for an operation: a thread each.
    pub(crate) waits: Semaphore,
    /// Uploads: disk and a thread each.
    pub(crate) uploads: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: Arc::new(Semaphore::new(256)),
            root_streams: Arc::new(Semaphore::new(64)),
            sessions: Arc::new(Semaphore::new(32)),
            tunnels: Arc::new(Semaphore::new(64)),
            waits: Semaphore::new(32),
            uploads: Arc::new(Semaphore::new(8)),
        }
    }
}

/// Who is at the other end, as far as the connection itself tells.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer {
    /// Somebody over TCP: must show a credential.
    Anybody {
        /// Address of the other end.
        from: std::net::IpAddr,
    },
    /// Root on the host.
    Root {
        /// Process that connected.
        pid: i32,
    },
    /// Another user of the host on our socket: must show a token too.
    LocalUser,
}

/// A door that is open.
pub struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    /// Stops listening, lets requests finish for a moment, and returns when all is over.
    pub fn stop(mut self) {
        self.end();
    }

    /// Returns when the door is closed; it closes by itself only when its thread dies.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }

    fn end(&mut self) {
        // The thread may have ended by itself: then there is nobody to tell.
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Opens the door on listening sockets, on a thread of its own.
///
/// # Errors
/// When the system gives no event loop or refuses a socket.
pub fn start(
    tcp: std::net::TcpListener,
    local: std::os::unix::net::UnixListener,
    control: Arc<Control>,
    about: About,
) -> io::Result<Running> {
    let shared = Arc::new(Shared {
        changes: Changes::of(&control),
        control,
        rates: Arc::new(Rates::new(about.requests_per_minute)),
        about,
        metrics: Metrics::default(),
        limits: Limits::default(),
    });
    tcp.set_nonblocking(true)?;
    local.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(10))
        .build()?;
    let (stop, stopped) = oneshot::channel();
    let (tcp, local) = {
        let _inside = runtime.enter();
        (
            tokio::net::TcpListener::from_std(tcp)?,
            tokio::net::UnixListener::from_std(local)?,
        )
    };
    let thread = std::thread::Builder::new()
        .name("api".to_owned())
        .spawn(move || {
            runtime.block_on(accept(&tcp, &local, shared, stopped));
            runtime.shutdown_timeout(STOP_GRACE);
        })?;
    Ok(Running {
        stop: Some(stop),
        thread: Some(thread),
    })
}

async fn accept(
    tcp: &tokio::net::TcpListener,
    local: &tokio::net::UnixListener,
    shared: Arc<Shared>,
    mut stopped: oneshot::Receiver<()>,
) {
    let [anybody, root, local_users] =
        [TCP_CONNECTIONS, ROOT_CONNECTIONS, LOCAL_CONNECTIONS].map(|most| Arc::new(Semaphore::new(most)));
    loop {
        let accepted = tokio::select! {
            _ = &mut stopped => return,
            accepted = tcp.accept() => accepted.map(|(stream, from)| {
                // Small answers must not wait for an acknowledgement; without it they are only later.
                drop(stream.set_nodelay(true));
                (Connected::Tcp(stream), Peer::Anybody { from: from.ip() })
            }),
            accepted = local.accept() => accepted.map(|(stream, _)| {
                let peer = peer_of(&stream);
                (Connected::Local(stream), peer)
            }),
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                // Out of descriptors, say: it passes when connections end.
                tracing::warn!(%cause, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connections = match peer {
            Peer::Anybody { .. } => &anybody,
            Peer::Root { .. } => &root,
            Peer::LocalUser => &local_users,
        };
        let Ok(permit) = Arc::clone(connections).try_acquire_owned() else {
            tracing::warn!(?peer, "too many connections: one was closed");
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            match stream {
                Connected::Tcp(stream) => carry(stream, peer, shared).await,
                Connected::Local(stream) => carry(stream, peer, shared).await,
            }
            drop(permit);
        });
    }
}

enum Connected {
    Tcp(tokio::net::TcpStream),
    Local(tokio::net::UnixStream),
}

fn peer_of(stream: &tokio::net::UnixStream) -> Peer {
    match stream.peer_cred() {
        Ok(who) if who.uid() == 0 => Peer::Root {
            pid: who.pid().unwrap_or_default(),
        },
        Ok(_) | Err(_) => Peer::LocalUser,
    }
}

async fn carry(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    shared: Arc<Shared>,
) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, std::convert::Infallible>(request::serve(shared, peer, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(cause) = served {
        // Broken heads and vanished clients: the client's business, not an error of ours.
        tracing::debug!(%cause, "a connection ended early");
    }
}
