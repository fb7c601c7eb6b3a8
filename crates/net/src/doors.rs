//! Doors: addresses of the host that stand for servers which sleep when nobody uses them.
//!
//! Lives here: taking connections at a door, waiting until its server runs, joining the two, and telling when a door was
//! last used.
//! Does not live here: which doors there are and what is behind them (the zones file), waking and stopping servers
//! (`control`).
//! Invariants: a connection is joined to one server for its whole life, byte by byte, and nothing of it is read; a door is
//! told to be used when somebody knocks, before anything else, and again and again while a connection is open; of two that
//! keep the same doors only the one that began last takes further connections; every wait has an end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::{AsyncWriteExt as _, Interest, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::dns::Door;
use crate::dns::zones::{self, Zones};
use crate::firewall::LISTENS_AT;
use crate::follow::{self, changed};
use crate::{NetError, Subnet};

/// Connections that one door holds at a time: one that is knocked at without end must not use up everybody's.
const CONNECTIONS_PER_DOOR: usize = 256;
/// Connections of all doors, of the descriptors that this process may have: each needs two.
const SHARE_OF_DESCRIPTORS: u64 = 32;
const CONNECTIONS: std::ops::RangeInclusive<u64> = 32..=2048;
const BACKLOG: i32 = 128;
/// How long somebody who knocked waits for the server.
const WAKES_WITHIN: Duration = Duration::from_secs(60);
/// How long a server that is said to run may take to take a connection.
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);
/// A server that refuses is tried again after that.
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// While a connection is open its door is told to be used that often.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Who knocks at a door that leads somewhere is not told of more often: nobody needs to be woken. It is less than any time
/// after which a server falls asleep.
const TELL_AWAKE: Duration = Duration::from_millis(900);
/// The same of one that leads nowhere.
const TELL_ASLEEP: Duration = Duration::from_millis(50);
/// Who waits is looked after that often: he may have gone.
const STILL_THERE: Duration = Duration::from_millis(250);
/// Catches what notification missed, and addresses that were taken.
const TICK: Duration = Duration::from_secs(1);
/// A peer that is silent for so long is asked whether it is still there, that often, so many times.
const SILENT: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 3);

/// Keeps the doors of the zones file; stops when dropped, and with it every connection ends.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Keeps the doors of this zones file, present or not. When a door was last used, the file of its key in `used` tells by
    /// the time of its last change. Listens in the network namespace of the caller.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(zones_file: PathBuf, used: PathBuf) -> Result<Self, NetError> {
        let failed = |what: &'static str| NetError::kernel::<io::Error>(what);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed("start the doors"))?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("stoa-doors".into())
            .spawn(move || {
                let house = House {
                    newest: zones_file.with_file_name("doors.newest"),
                    me: me(),
                    zones_file,
                    used: Rc::new(used),
                    zones: None,
                    open: BTreeMap::new(),
                    connections: Arc::new(Semaphore::new(most())),
                    is_newest: true,
                };
                runtime.block_on(LocalSet::new().run_until(house.keep(stopped)));
            })
            .map_err(failed("start the thread of the doors"))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Dropping the sender is the signal.
        self.stop = None;
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Tells servers apart, of this process and of others.
fn me() -> String {
    static STARTED: AtomicU64 = AtomicU64::new(0);
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    format!(
        "{} {} {number}",
        std::process::id(),
        began.unwrap_or_default().as_nanos()
    )
}

fn most() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let share = limit.unwrap_or(u64::MAX) / SHARE_OF_DESCRIPTORS;
    let most = share.clamp(*CONNECTIONS.start(), *CONNECTIONS.end());
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// All doors.
struct House {
    /// Who began last writes his name there.
    newest: PathBuf,
    me: String,
    zones_file: PathBuf,
    used: Rc<PathBuf>,
    zones: Option<Zones>,
    open: BTreeMap<SocketAddrV4, Kept>,
    connections: Arc<Semaphore>,
    is_newest: bool,
}

/// One door that is kept.
struct Kept {
    place: Rc<Place>,
    target: watch::Sender<Option<SocketAddrV4>>,
    listening: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// What the connections of a door share.
struct Place {
    key: String,
    subnet: Subnet,
    used: Rc<PathBuf>,
    connections: Cell<usize>,
    told: RefCell<Option<Instant>>,
}

impl Place {
    /// Tells that somebody knocked or went.
    fn tell_of(&self, target: &watch::Receiver<Option<SocketAddrV4>>) {
        let pause = if target.borrow().is_some() {
            TELL_AWAKE
        } else {
            TELL_ASLEEP
        };
        if self.told.borrow().is_none_or(|at| at.elapsed() >= pause) {
            self.tell();
        }
    }

    /// Tells that the door is used now.
    fn tell(&self) {
        self.told.replace(Some(Instant::now()));
        if let Err(error) = tell(&self.used.join(&self.key)) {
            tracing::warn!(%error, door = %self.key, "nobody could be told that a door is used");
        }
    }

    /// The same while somebody is inside, every now and then.
    fn tell_again(&self) {
        let is_due = self.told.borrow().is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if self.connections.get() > 0 && is_due {
            self.tell();
        }
    }
}

/// Tells that the door of this file is used now.
///
/// # Errors
/// When the file cannot be written.
pub fn tell(file: &std::path::Path) -> io::Result<()> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(file)?
        .set_modified(SystemTime::now())
}

impl House {
    async fn keep(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = follow::watch(&self.zones_file).ok();
        if let Err(error) = std::fs::write(&self.newest, &self.me) {
            tracing::warn!(%error, "whoever kept the doors before is not told to leave them");
        }
        loop {
            self.reload();
            tokio::select! {
                _ = &mut stopped => return,
                _ = tick.tick() => {
                    if watch.is_none() {
                        watch = follow::watch(&self.zones_file).ok();
                    }
                    self.open.values().for_each(|kept| kept.place.tell_again());
                    self.give_way();
                }
                () = changed(watch.as_ref()) => {}
            }
        }
    }

    /// Takes no further connections when somebody else keeps the doors by now. Those that are open go on.
    fn give_way(&mut self) {
        let is_mine = std::fs::read_to_string(&self.newest).is_ok_and(|newest| newest == self.me);
        if self.is_newest && !is_mine {
            self.is_newest = false;
            self.open.values().for_each(|kept| kept.listening.abort());
        }
    }

    /// Takes over a new zones file, and tries again what could not be bound.
    fn reload(&mut self) {
        match zones::read(&self.zones_file) {
            Ok(Some(new)) if self.zones.as_ref() != Some(&new) => self.zones = Some(new),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the zones file cannot be read; the doors stay as they were");
            }
        }
        let networks = self.zones.iter().flat_map(|zones| &zones.networks);
        let wanted: BTreeMap<SocketAddrV4, (Subnet, Door)> = networks
            .flat_map(|zone| zone.doors.iter().map(|door| (zone.subnet, door.clone())))
            .map(|(subnet, door)| (SocketAddrV4::new(door.ip, door.port), (subnet, door)))
            .collect();
        self.open
            .retain(|at, kept| wanted.get(at).is_some_and(|(_, door)| door.key == kept.place.key));
        for (at, (subnet, door)) in wanted {
            if let Some(kept) = self.open.get(&at) {
                kept.target.send_if_modified(|target| {
                    let is_new = *target != door.target;
                    *target = door.target;
                    is_new
                });
                continue;
            }
            if !self.is_newest {
                continue;
            }
            match self.open(at, subnet, &door) {
                Ok(kept) => drop(self.open.insert(at, kept)),
                Err(error) => tracing::warn!(%error, %at, "a door cannot be opened; trying again"),
            }
        }
    }

    fn open(&self, at: SocketAddrV4, subnet: Subnet, door: &Door) -> io::Result<Kept> {
        let listener = TcpListener::from_std(bind(*at.ip())?.into())?;
        let place = Rc::new(Place {
            key: door.key.clone(),
            subnet,
            used: Rc::clone(&self.used),
            connections: Cell::new(0),
            told: RefCell::new(None),
        });
        let (target, targets) = watch::channel(door.target);
        let connections = [
            Arc::clone(&self.connections),
            Arc::new(Semaphore::new(CONNECTIONS_PER_DOOR)),
        ];
        let listening =
            spawn_local(receive(listener, Rc::clone(&place), targets, connections)).abort_handle();
        Ok(Kept {
            place,
            target,
            listening,
        })
    }
}

async fn receive(
    listener: TcpListener,
    place: Rc<Place>,
    targets: watch::Receiver<Option<SocketAddrV4>>,
    [all, mine]: [Arc<Semaphore>; 2],
) {
    loop {
        // Never closed, so these are only ever waits.
        let (Ok(one), Ok(other)) = (
            Arc::clone(&mine).acquire_owned().await,
            Arc::clone(&all).acquire_owned().await,
        ) else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) if is_of(place.subnet, peer.ip()) => {
                let (place, targets) = (Rc::clone(&place), targets.clone());
                spawn_local(async move {
                    place.connections.set(place.connections.get() + 1);
                    if let Err(error) = join(stream, &place, targets.clone()).await {
                        tracing::debug!(%error, door = %place.key, "a connection ended");
                    }
                    place.connections.set(place.connections.get() - 1);
                    // Its time without anybody begins now.
                    place.tell_of(&targets);
                    drop((one, other));
                });
            }
            Ok(_) => {}
            // Out of descriptors: wait, do not spin.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

fn is_of(subnet: Subnet, peer: IpAddr) -> bool {
    match peer {
        IpAddr::V4(ip) => subnet.contains(ip),
        IpAddr::V6(_) => false,
    }
}

/// Joins a connection to the server, once that takes it.
async fn join(
    mut stream: TcpStream,
    place: &Place,
    mut targets: watch::Receiver<Option<SocketAddrV4>>,
) -> io::Result<()> {
    place.tell_of(&targets);
    let mut server = tokio::select! {
        server = timeout(WAKES_WITHIN, reach(&mut targets)) => {
            server.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
        }
        () = leaves(&stream) => return Ok(()),
    };
    // Who is gone without a word keeps no server awake.
    for end in [&stream, &server] {
        end.set_nodelay(true)?;
        let (silent, every, times) = SILENT;
        sockopt::set_socket_keepalive(end, true)?;
        sockopt::set_tcp_keepidle(end, silent)?;
        sockopt::set_tcp_keepintvl(end, every)?;
        sockopt::set_tcp_keepcnt(end, times)?;
    }
    let (mut from_client, mut to_client) = stream.split();
    let (mut from_server, mut to_server) = server.split();
    let asks = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let answers = copy(&mut from_server, &mut to_client);
    tokio::pin!(answers);
    // What the server ended is over, whether or not the client has noticed: it keeps nobody awake.
    tokio::select! {
        ended = &mut answers => return ended.map(drop),
        asked = asks => asked?,
    }
    answers.await.map(drop)
}

/// The server, as soon as one takes the connection. One that is about to end refuses: then there will be another.
async fn reach(targets: &mut watch::Receiver<Option<SocketAddrV4>>) -> io::Result<TcpStream> {
    loop {
        let target = targets.wait_for(Option::is_some).await;
        // The door was taken away.
        let Ok(target) = target.map(|target| *target) else {
            return Err(io::ErrorKind::ConnectionReset.into());
        };
        if let Some(target) = target
            && let Ok(Ok(server)) = timeout(CONNECTS_WITHIN, TcpStream::connect(target)).await
        {
            return Ok(server);
        }
        sleep(TRY_AGAIN).await;
    }
}

/// Returns when the client has gone: what he said before is still there to be read.
async fn leaves(stream: &TcpStream) {
    loop {
        sleep(STILL_THERE).await;
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// A socket at a door, whether or not its address exists yet.
fn bind(ip: Ipv4Addr) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // While one edge takes over from another both listen.
    sockopt::set_socket_reuseport(&socket, true)?;
    sockopt::set_ip_freebind(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(ip, LISTENS_AT))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}
