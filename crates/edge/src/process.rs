//! The edge as a process: start, run, watch, end.
//!
//! Lives here: starting the threads, taking over from an edge that runs, signals, exit.
//! Does not live here: what a thread does (`worker`), noticing that one does not (`watchdog`).
//! Invariant: the last good table is served before anybody speaks to us; the edge before us stops accepting only once we
//! are about to; a stalled thread ends the process, because the warden can replace a process but nobody can replace a thread.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::certs::{Authority, CertificateError, Given};
use crate::control::client::Client;
use crate::control::protocol::DrainLimits;
use crate::control::{place, server};
use crate::disk::{self, LastGood};
use crate::hub::{Handle, Hub, end_if_silent, prepare};
use crate::listen::{Tls, accept};
use crate::options::{Limits, Options, Scheme, Timeouts};
use crate::table::RouteTable;
use crate::tls::{Resolver, config};
use crate::watchdog::Watchdog;
use crate::worker::{Published, Worker};

/// How often the process looks after itself.
pub(crate) const LOOK: Duration = Duration::from_millis(250);

/// Descriptors not meant for connections.
const DESCRIPTORS_KEPT: u64 = 128;

/// Why the edge could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its state directory.
    #[error("could not use the edge's state at {}", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// Its control socket.
    #[error("could not open the edge's control socket {}", path.display())]
    Control {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The local certificate authority.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The TLS library.
    #[error("could not set up TLS")]
    Tls(#[source] rustls::Error),
    /// Threads or sockets.
    #[error("could not start serving")]
    Threads(#[source] io::Error),
}

impl Error {
    /// What the operator can do.
    pub fn next(&self) -> String {
        match self {
            Self::State { path, .. } => {
                format!("make {} writable for the edge, with free space", path.display())
            }
            Self::Control { path, .. } => format!(
                "check that the directory of {} exists and is ours",
                path.display()
            ),
            Self::Certificates(_) => {
                "remove the edge's certificates directory to have a new authority made".to_owned()
            }
            Self::Tls(_) | Self::Threads(_) => {
                "check the limits of the process (ulimit -n, -u) and start again".to_owned()
            }
        }
    }
}

/// A serving edge. Dropping it does not stop it; [`Running::stop`] does.
pub struct Running {
    hub: Arc<Hub>,
    threads: Vec<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
    control_socket: PathBuf,
    state_dir: PathBuf,
    timeouts: Timeouts,
}

/// Serves until a signal, or until replaced and drained.
pub fn run(options: Options) -> Result<(), Error> {
    let running = start(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Threads)?;
    runtime.block_on(running.watch())?;
    running.stop();
    Ok(())
}

/// Starts serving and returns; for tests and tools. Signals are the caller's.
pub fn start(options: Options) -> Result<Running, Error> {
    let Options {
        listeners,
        control_socket,
        state_dir,
        threads,
        policy,
        timeouts,
        limits,
    } = options;
    let state = |cause| Error::State {
        path: state_dir.clone(),
        cause,
    };
    disk::private_dir(&state_dir).map_err(state)?;
    let resolver = Resolver::new(Authority::open(&state_dir)?);
    let tls = Tls {
        config: config(resolver.clone()).map_err(Error::Tls)?,
        resolver: resolver.clone(),
    };
    let table = match disk::load_table(&state_dir, &policy).map_err(state)? {
        LastGood::Table(table) => table,
        LastGood::None => RouteTable::empty(),
        LastGood::Refused(problems) => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            tracing::error!(
                problems = problems.join("; "),
                "the kept route table is unusable and was set aside"
            );
            RouteTable::empty()
        }
    };
    let (published, chosen) = prepare(table, &Given::default());
    resolver.publish(chosen);
    let count = threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
        .max(1);
    let connections_max = limits
        .connections
        .unwrap_or_else(connections_for_descriptors)
        .div_ceil(count)
        .max(1);
    let crew = Crew {
        published: published.clone(),
        timeouts: timeouts.clone(),
        limits,
        connections_max,
        count,
    };
    let mut handles = Vec::with_capacity(count);
    let mut joins = Vec::with_capacity(count);
    let (ready, all_ready) = std::sync::mpsc::channel();
    for n in 0..count {
        let sockets: io::Result<Vec<_>> = listeners
            .iter()
            .map(|l| Ok((l.socket.try_clone()?, l.scheme)))
            .collect();
        let (handle, join) = crew.spawn(n, sockets.map_err(Error::Threads)?, tls.clone(), ready.clone())?;
        handles.push(handle);
        joins.push(join);
    }
    for _ in 0..count {
        let died = || Error::Threads(io::Error::other("a serving thread did not start"));
        all_ready
            .recv_timeout(Duration::from_secs(10))
            .map_err(|_| died())?
            .map_err(Error::Threads)?;
    }
    let sockets = listeners
        .into_iter()
        .map(|l| (l.name, OwnedFd::from(l.socket)))
        .collect();
    let hub = Arc::new(Hub::new(
        handles,
        policy,
        state_dir.clone(),
        resolver,
        sockets,
        published,
    ));
    let listener = take_over(&control_socket, &hub).map_err(|cause| Error::Control {
        path: control_socket.clone(),
        cause,
    })?;
    let stalled = |stalled| Error::Threads(io::Error::other(stalled));
    if let Some(kept) = kept_meanwhile(&state_dir, &hub) {
        hub.catch_up(kept).map_err(stalled)?;
    }
    hub.accept();
    let serving = hub.clone();
    let control = std::thread::Builder::new()
        .name("edge-control".to_owned())
        .spawn(move || server::serve(&listener, &serving))
        .map_err(Error::Threads)?;
    Ok(Running {
        hub,
        threads: joins,
        control: Some(control),
        control_socket,
        state_dir,
        timeouts,
    })
}

/// Takes the control socket's name, and has every edge that lives drain: all threads are ready to accept.
fn take_over(path: &Path, hub: &Hub) -> io::Result<UnixListener> {
    let turn = place::turn(path)?;
    let living = place::living(path);
    let listener = place::take(path, &turn)?;
    let drains = |mut client: Client| match client.drain(DrainLimits::default()) {
        Ok(()) => Some(client),
        Err(cause) => {
            tracing::warn!(%cause, pid = client.pid(), "an edge before this one does not drain");
            end_if_silent(&client, &cause);
            None
        }
    };
    hub.follow(living.into_iter().filter_map(drains).collect());
    Ok(listener)
}

/// What the edge before this one acknowledged after we had read what it kept.
fn kept_meanwhile(state_dir: &Path, hub: &Hub) -> Option<RouteTable> {
    match disk::load_table(state_dir, hub.policy()) {
        Ok(LastGood::Table(table)) => Some(table),
        Ok(LastGood::None) => None,
        Ok(LastGood::Refused(_)) | Err(_) => {
            tracing::warn!("the kept route table cannot be read again; the one read before is served");
            None
        }
    }
}

/// Each request may need two descriptors: the client's and the instance's.
fn connections_for_descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    usize::try_from(current.unwrap_or(1 << 20).saturating_sub(DESCRIPTORS_KEPT) / 2).unwrap_or(usize::MAX)
}

/// What all serving threads have in common.
struct Crew {
    published: Arc<Published>,
    timeouts: Timeouts,
    limits: Limits,
    connections_max: usize,
    count: usize,
}

impl Crew {
    fn spawn(
        &self,
        n: usize,
        sockets: Vec<(TcpListener, Scheme)>,
        tls: Tls,
        ready: std::sync::mpsc::Sender<io::Result<()>>,
    ) -> Result<(Handle, JoinHandle<()>), Error> {
        let Crew {
            published,
            timeouts,
            limits,
            connections_max,
            count,
        } = self;
        let (published, timeouts, limits) = (published.clone(), timeouts.clone(), limits.clone());
        let (connections_max, count) = (*connections_max, *count);
        let (messages, inbox) = tokio::sync::mpsc::unbounded_channel();
        let (heartbeat, tid) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicI32::new(0)));
        let handle = Handle {
            messages,
            heartbeat: heartbeat.clone(),
            tid: tid.clone(),
        };
        let body = move || {
            tid.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(cause) => {
                    let _starter_gone = ready.send(Err(cause));
                    return;
                }
            };
            let local = LocalSet::new();
            local.block_on(&runtime, async move {
                let worker = Worker::new(published, timeouts, limits, connections_max, count);
                for (socket, scheme) in sockets {
                    let (worker, tls) = (worker.clone(), tls.clone());
                    let accepting = async move {
                        socket.set_nonblocking(true)?;
                        accept(worker, socket, scheme, tls).await
                    };
                    tokio::task::spawn_local(async move {
                        if let Err(cause) = accepting.await {
                            tracing::error!(error = %cause, "a listening socket cannot be used");
                        }
                    });
                }
                let _starter_gone = ready.send(Ok(()));
                worker.obey(inbox, &heartbeat).await;
            });
        };
        let spawned = std::thread::Builder::new().name(format!("edge-{n}")).spawn(body);
        Ok((handle, spawned.map_err(Error::Threads)?))
    }
}

impl Running {
    /// The process this edge runs in is told to stop: no new connections, idle ones end, requests have until the limit.
    pub fn stop(mut self) {
        self.hub.stop(Duration::ZERO);
        self.hub.close();
        // Wakes the accepting thread, if the socket is still ours.
        let _woken = UnixStream::connect(&self.control_socket);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
        place::leave(&self.control_socket);
        // Not joined: when another edge has taken the socket's name, nothing can wake it; it holds nothing.
        drop(self.control.take());
    }

    /// Looks after the process until it should end.
    async fn watch(&self) -> Result<(), Error> {
        let mut term = signal(SignalKind::terminate()).map_err(Error::Threads)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Threads)?;
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut watchdog = Watchdog::new(self.hub.pulses(), self.timeouts.stalled, self.state_dir.clone());
        loop {
            tokio::select! {
                _ = term.recv() => self.hub.stop(self.timeouts.stop),
                _ = interrupt.recv() => self.hub.stop(self.timeouts.stop),
                _ = looks.tick() => {
                    watchdog.look();
                    if self.hub.is_drained() {
                        return Ok(());
                    }
                }
            }
        }
    }
}
