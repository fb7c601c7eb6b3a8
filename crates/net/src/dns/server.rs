//! The DNS server: sockets on every gateway, in a thread of its own.
//!
//! Lives here: binding, receiving, sending, limits, and following the zones file.
//! Does not live here: what is answered (`answer`), names (`zones`), asking others (`upstream`).
//! Invariants: two servers may listen at once, for the next one must be there before this one goes, and what this one has
//! received it answers; a question from outside its network's subnet gets silence (N63); every wait has an end; a zones file
//! that cannot be read changes nothing.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::answer::{Transport, Verdict, decide};
use super::upstream::Upstream;
use super::zones::{self, Index, Zones};
use crate::NetError;
use crate::follow::{changed, watch};

const PORT: u16 = 53;
/// The discard port, from which no question comes.
const NOBODY: u16 = 9;
/// Questions of one network that may wait for others at a time: one network must not use up everybody's.
const FORWARDS_PER_NETWORK: usize = 64;
const CONNECTIONS_PER_NETWORK: usize = 64;
/// Of one connection: until its next question came whole, and how many it may ask.
const TCP_PATIENCE: Duration = Duration::from_secs(5);
const QUESTIONS_PER_CONNECTION: usize = 100;
const LARGEST_QUESTION: usize = 4096;
const BACKLOG: i32 = 64;
/// Catches what notification missed, addresses that were taken, and a changed resolv.conf.
const TICK: Duration = Duration::from_secs(1);

/// Where the server listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Gateways it answers on.
    pub serving: BTreeSet<Ipv4Addr>,
    /// Gateways it could not take, and why; it tries again.
    pub failing: BTreeMap<Ipv4Addr, String>,
}

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    status: Arc<Mutex<Status>>,
}

impl Server {
    /// Serve the zones of this file, present or not, asking the resolvers of /etc/resolv.conf for other names. Listens
    /// in the network namespace of the caller.
    pub fn start(zones_file: PathBuf) -> Result<Self, NetError> {
        Self::start_with(zones_file, PathBuf::from("/etc/resolv.conf"))
    }

    /// The same with another list of resolvers.
    pub fn start_with(zones_file: PathBuf, resolv_conf: PathBuf) -> Result<Self, NetError> {
        let failed = |what: &'static str| NetError::kernel::<io::Error>(what);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed("start the DNS server"))?;
        let status = Arc::new(Mutex::new(Status::default()));
        let (stop, stopped) = oneshot::channel();
        let shown = Arc::clone(&status);
        let thread = std::thread::Builder::new()
            .name("stoa-dns".into())
            .spawn(move || {
                let site = Rc::new(Site::new(zones_file, resolv_conf, shown));
                runtime.block_on(LocalSet::new().run_until(site.serve(stopped)));
            })
            .map_err(failed("start the DNS thread"))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            status,
        })
    }

    /// Where it listens at this moment.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Dropping the sender is the signal.
        self.stop = None;
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Everything the tasks of the one thread share.
struct Site {
    zones_file: PathBuf,
    upstream: Upstream,
    zones: RefCell<Option<Zones>>,
    gates: RefCell<BTreeMap<Ipv4Addr, Gate>>,
    turn: Cell<usize>,
    status: Arc<Mutex<Status>>,
}

/// One gateway being served.
struct Gate {
    index: Rc<RefCell<Rc<Index>>>,
    udp: Rc<UdpSocket>,
    desk: Desk,
    tasks: [AbortHandle; 2],
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// What a question needs besides itself.
#[derive(Clone)]
struct Desk {
    index: Rc<RefCell<Rc<Index>>>,
    forwards: Rc<Semaphore>,
    site: Rc<Site>,
}

impl Site {
    fn new(zones_file: PathBuf, resolv_conf: PathBuf, status: Arc<Mutex<Status>>) -> Self {
        Self {
            zones_file,
            upstream: Upstream::new(resolv_conf),
            zones: RefCell::new(None),
            gates: RefCell::default(),
            turn: Cell::new(0),
            status,
        }
    }

    async fn serve(self: Rc<Self>, mut stopped: oneshot::Receiver<()>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = watch(&self.zones_file).ok();
        loop {
            self.reload();
            tokio::select! {
                _ = &mut stopped => break,
                _ = tick.tick() => {
                    if watch.is_none() {
                        watch = self::watch(&self.zones_file).ok();
                    }
                }
                () = changed(watch.as_ref()) => {}
            }
        }
        // The gates hold tasks that hold us.
        let gates = std::mem::take(&mut *self.gates.borrow_mut());
        for (gateway, gate) in &gates {
            gate.answer_what_waits(*gateway);
        }
    }

    /// Take over a new zones file, and try again what could not be bound.
    fn reload(self: &Rc<Self>) {
        match zones::read(&self.zones_file) {
            Ok(Some(new)) if self.zones.borrow().as_ref() != Some(&new) => {
                self.zones.replace(Some(new));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the zones file cannot be read; the last good one stays"),
        }
        let zones = self.zones.borrow().clone().unwrap_or_default();
        let wanted: Vec<Ipv4Addr> = zones.networks.iter().map(|z| z.gateway).collect();
        self.upstream.refresh(&wanted);
        let mut gates = self.gates.borrow_mut();
        gates.retain(|gateway, _| wanted.contains(gateway));
        let mut failing = BTreeMap::new();
        for zone in &zones.networks {
            let index = Rc::new(Index::of(zone));
            if let Some(gate) = gates.get(&zone.gateway) {
                gate.index.replace(index);
                continue;
            }
            match self.open(zone.gateway, index) {
                Ok(gate) => drop(gates.insert(zone.gateway, gate)),
                Err(error) => drop(failing.insert(zone.gateway, error.to_string())),
            }
        }
        let now = Status {
            serving: gates.keys().copied().collect(),
            failing,
        };
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.failing != now.failing && !now.failing.is_empty() {
            tracing::warn!(failing = ?now.failing, "discovery DNS cannot listen everywhere; trying again");
        }
        *status = now;
    }

    fn open(self: &Rc<Self>, gateway: Ipv4Addr, index: Rc<Index>) -> io::Result<Gate> {
        let udp = Rc::new(UdpSocket::from_std(bind(gateway, SocketType::DGRAM)?.into())?);
        let tcp = bind(gateway, SocketType::STREAM)?;
        rustix::net::listen(&tcp, BACKLOG)?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let index = Rc::new(RefCell::new(index));
        let forwards = Rc::new(Semaphore::new(FORWARDS_PER_NETWORK));
        let desk = Desk {
            index: Rc::clone(&index),
            forwards,
            site: Rc::clone(self),
        };
        let tasks = [
            spawn_local(by_udp(Rc::clone(&udp), desk.clone())).abort_handle(),
            spawn_local(by_tcp(tcp, desk.clone())).abort_handle(),
        ];
        Ok(Gate {
            index,
            udp,
            desk,
            tasks,
        })
    }
}

impl Gate {
    /// The kernel shares questions out between servers and gives none of them to another one later. A socket with a peer
    /// gets no new ones; those it has are answered. What needs another resolver is asked again by whoever asked.
    fn answer_what_waits(&self, gateway: Ipv4Addr) {
        // Where that fails, the address is gone and nobody asks.
        let _unasked = rustix::net::connect(&self.udp, &SocketAddrV4::new(gateway, NOBODY));
        let mut buffer = vec![0; LARGEST_QUESTION];
        while let Ok((length, Some(asker))) = self.receive(&mut buffer) {
            let query = buffer.get(..length).filter(|_| self.desk.is_welcome(asker.ip()));
            let verdict = query.map(|query| self.desk.decide(query, Transport::Udp));
            if let Some(Verdict::Answer(answer)) = verdict {
                // An asker that is gone needs no answer.
                let _gone = rustix::net::sendto(&self.udp, &answer, SendFlags::DONTWAIT, &asker);
            }
        }
    }

    /// Not through the runtime, which may not have heard yet that something came.
    fn receive(&self, buffer: &mut [u8]) -> rustix::io::Result<(usize, Option<SocketAddr>)> {
        let (_, length, asker) = rustix::net::recvfrom(&self.udp, buffer, RecvFlags::DONTWAIT)?;
        Ok((length, asker.and_then(|asker| SocketAddr::try_from(asker).ok())))
    }
}

impl Desk {
    fn decide(&self, query: &[u8], transport: Transport) -> Verdict {
        let turn = self.site.turn.get().wrapping_add(1);
        self.site.turn.set(turn);
        decide(query, &self.index.borrow(), transport, turn)
    }

    fn is_welcome(&self, asker: IpAddr) -> bool {
        match asker {
            IpAddr::V4(ip) => self.index.borrow().subnet.contains(ip),
            IpAddr::V6(_) => false,
        }
    }

    /// The others' answer, or the failure when too many wait already or nobody answers.
    async fn forward(&self, query: &[u8], transport: Transport, failure: Vec<u8>) -> Vec<u8> {
        let Ok(_permit) = self.forwards.try_acquire() else {
            return failure;
        };
        self.site.upstream.ask(query, transport).await.unwrap_or(failure)
    }
}

async fn by_udp(socket: Rc<UdpSocket>, desk: Desk) {
    let mut buffer = vec![0; LARGEST_QUESTION];
    loop {
        // An error is the refusal of an earlier answer by somebody who left.
        let Ok((length, asker)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Some(query) = buffer.get(..length).filter(|_| desk.is_welcome(asker.ip())) else {
            continue;
        };
        match desk.decide(query, Transport::Udp) {
            Verdict::Answer(answer) => send(&socket, &answer, asker).await,
            Verdict::Silence => {}
            Verdict::Forward { failure } => {
                let (socket, desk, query) = (Rc::clone(&socket), desk.clone(), query.to_vec());
                spawn_local(async move {
                    let answer = desk.forward(&query, Transport::Udp, failure).await;
                    send(&socket, &answer, asker).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], asker: SocketAddr) {
    if let Err(error) = socket.send_to(answer, asker).await {
        tracing::debug!(%error, %asker, "an answer could not be sent");
    }
}

async fn by_tcp(listener: TcpListener, desk: Desk) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_PER_NETWORK));
    loop {
        // Never closed, so this is only ever a wait.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, asker)) if desk.is_welcome(asker.ip()) => {
                let desk = desk.clone();
                spawn_local(async move {
                    // However it ends, it ends.
                    let _ended = converse(stream, &desk).await;
                    drop(permit);
                });
            }
            Ok(_) => {}
            // Out of descriptors: wait, do not spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(mut stream: TcpStream, desk: &Desk) -> io::Result<()> {
    for _ in 0..QUESTIONS_PER_CONNECTION {
        let read = async {
            let length = usize::from(stream.read_u16().await?);
            if length > LARGEST_QUESTION {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            let mut query = vec![0; length];
            stream.read_exact(&mut query).await?;
            Ok(query)
        };
        let query = timeout(TCP_PATIENCE, read).await??;
        let answer = match desk.decide(&query, Transport::Tcp) {
            Verdict::Answer(answer) => answer,
            Verdict::Forward { failure } => desk.forward(&query, Transport::Tcp, failure).await,
            Verdict::Silence => return Ok(()),
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let message = [length.to_be_bytes().as_slice(), &answer].concat();
        timeout(TCP_PATIENCE, stream.write_all(&message)).await??;
    }
    Ok(())
}

/// A socket on the gateway's port, whether or not the address exists yet.
fn bind(gateway: Ipv4Addr, kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Only processes of the same user may share it.
    sockopt::set_socket_reuseport(&socket, true)?;
    sockopt::set_ip_freebind(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(gateway, PORT))?;
    Ok(socket)
}
