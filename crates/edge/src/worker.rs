//! One serving thread.
//!
//! Lives here: everything a thread owns (routes, instances, counters, clock, spare buffers), and the messages it obeys.
//! Does not live here: connections (`listen`, `request`, `h2`), the doors to control (`control`).
//! Invariant: nothing here is shared. A new table arrives as a message and is acknowledged once this thread serves it, so
//! the path of a request takes no lock and touches no shared counter.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, Semaphore};

use crate::buffer::Stock;
use crate::clock::{Clock, IDLE_TICK, TICK};
use crate::options::{Limits, Timeouts};
use crate::pick::{Budget, Choice, LocalService, Random, Target};
use crate::record::{Metrics, Series, TargetMetrics};
use crate::route::Index;
use crate::table::RouteTable;
use crate::tls::Identity;
use crate::upstream;

/// Idle connections to instances are looked at this often, and closed when unused for that long.
const SWEEP_MS: u64 = 5_000;
const IDLE_UPSTREAM_MS: u64 = 30_000;

/// Series of services and releases that are gone are remembered up to this many, so that their last counts can be read.
const SERIES_MAX: usize = 8_192;

/// A table as all threads share it.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) table: RouteTable,
    pub(crate) index: Arc<Index>,
}

/// What a thread is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Serve this table from now on.
    Serve(Arc<Published>, mpsc::Sender<()>),
    /// How much is in flight to these targets?
    InFlight(Arc<HashSet<String>>, mpsc::Sender<Loads>),
    /// What was counted?
    Metrics(mpsc::Sender<Metrics>),
    /// How much is open?
    Open(mpsc::Sender<Open>),
    /// Accept connections from now on.
    Accept,
    /// Accept nothing any more; end connections as below.
    Drain(Ending),
}

/// How connections of a draining edge end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Somebody else accepts: idle ones may still send a request (closing under it would lose it), which is answered last.
    AfterNextAnswer,
    /// Nobody accepts any more: idle ones are closed now.
    Now,
}

/// Requests and upgraded connections in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Load {
    /// Requests whose answer is not through.
    pub requests: u64,
    /// Upgraded connections (WebSockets).
    pub upgrades: u64,
}

/// By target.
pub(crate) type Loads = HashMap<String, Load>;

/// Client connections, and how many of them are upgraded.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Open {
    pub(crate) connections: u64,
    pub(crate) upgrades: u64,
}

impl Load {
    pub(crate) fn add(&mut self, other: Load) {
        self.requests += other.requests;
        self.upgrades += other.upgrades;
    }
}

/// Where a connection comes from.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Fields that tell the instance about the client, the same for every request.
    pub(crate) fields: Box<[u8]>,
    /// `for=...;proto=...;host=` of the Forwarded field.
    pub(crate) forwarded: Box<[u8]>,
    pub(crate) default_port: u16,
    pub(crate) tls: Option<Identity>,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, tls: Option<Identity>) -> Peer {
        let ip = address.ip().to_canonical();
        let (proto, default_port) = if tls.is_some() {
            ("https", 443)
        } else {
            ("http", 80)
        };
        let node = if ip.is_ipv6() {
            format!("\"[{ip}]\"")
        } else {
            ip.to_string()
        };
        Peer {
            fields: format!("x-forwarded-for: {ip}\r\nx-real-ip: {ip}\r\nx-forwarded-proto: {proto}\r\n")
                .into_bytes()
                .into(),
            forwarded: format!("forwarded: for={node};proto={proto};host=")
                .into_bytes()
                .into(),
            default_port,
            tls,
        }
    }
}

/// A table as one thread serves it.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) published: Arc<Published>,
    pub(crate) services: Vec<Rc<LocalService>>,
    by_id: HashMap<Box<str>, usize>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) clock: Rc<Clock>,
    pub(crate) stock: Stock,
    pub(crate) random: Random,
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    /// Connections this thread may have.
    pub(crate) connections_max: usize,
    pub(crate) connections: Cell<usize>,
    /// Before that, the edge whose place this one takes may still be told a newer table.
    pub(crate) is_open: Cell<bool>,
    /// Told when accepting begins, when a connection ends, and when draining begins.
    pub(crate) room: Notify,
    /// Told when a new table is served.
    pub(crate) changed: Notify,
    /// Told when draining begins.
    pub(crate) drain: Notify,
    pub(crate) draining: Cell<Option<Ending>>,
    local: RefCell<Rc<Local>>,
    targets: RefCell<HashMap<TargetKey, Rc<Target>>>,
    series: RefCell<HashMap<SeriesKey, Named>>,
    services: RefCell<HashMap<Box<str>, Standing>>,
    threads: usize,
}

/// Id and address: an id with another address is another instance.
type TargetKey = (Box<str>, SocketAddr);

/// Service and release.
type SeriesKey = (Box<str>, Box<str>);

/// A series and its app's name.
#[derive(Debug, Clone)]
struct Named {
    app: Box<str>,
    series: Rc<Series>,
}

/// What of a service outlives a table.
#[derive(Debug, Clone)]
struct Standing {
    held: Rc<Cell<usize>>,
    turns: Arc<Semaphore>,
    budget: Rc<Budget>,
}

impl Worker {
    pub(crate) fn new(
        published: Arc<Published>,
        timeouts: Timeouts,
        limits: Limits,
        connections_max: usize,
        threads: usize,
    ) -> Rc<Worker> {
        let mut seed = [0u8; 8];
        // Without randomness balancing is merely predictable.
        let _predictable = getrandom::fill(&mut seed);
        let empty = Published {
            table: RouteTable::empty(),
            index: Arc::default(),
        };
        let local = Local {
            published: Arc::new(empty),
            services: Vec::new(),
            by_id: HashMap::new(),
        };
        let worker = Rc::new(Worker {
            clock: Clock::new(),
            stock: Stock::default(),
            random: Random::new(u64::from_ne_bytes(seed)),
            timeouts,
            limits,
            connections_max,
            connections: Cell::new(0),
            is_open: Cell::new(false),
            room: Notify::new(),
            changed: Notify::new(),
            drain: Notify::new(),
            draining: Cell::new(None),
            local: RefCell::new(Rc::new(local)),
            targets: RefCell::default(),
            series: RefCell::default(),
            services: RefCell::default(),
            threads,
        });
        worker.serve(published);
        worker
    }

    /// The table served now.
    pub(crate) fn local(&self) -> Rc<Local> {
        self.local.borrow().clone()
    }

    /// The service of that id in the table served now.
    pub(crate) fn service(&self, id: &str) -> Option<Rc<LocalService>> {
        let local = self.local.borrow();
        local.by_id.get(id).map(|&n| local.services[n].clone())
    }

    /// Obeys messages and keeps time, for as long as the process lives.
    pub(crate) async fn obey(&self, mut messages: UnboundedReceiver<Message>, heartbeat: &AtomicU64) {
        let (mut due, mut sweep_at_ms) = (tokio::time::Instant::now(), 0);
        loop {
            tokio::select! {
                biased;
                message = messages.recv() => match message {
                    Some(message) => self.handle(message),
                    None => return,
                },
                () = tokio::time::sleep_until(due) => {
                    // With nobody there, nothing can expire: an idle edge hardly wakes the machine.
                    due = tokio::time::Instant::now() + if self.connections.get() > 0 { TICK } else { IDLE_TICK };
                    self.clock.tick();
                    heartbeat.fetch_add(1, Ordering::Relaxed);
                    let now_ms = self.clock.now_ms();
                    if now_ms >= sweep_at_ms {
                        sweep_at_ms = now_ms + SWEEP_MS;
                        self.sweep();
                    }
                }
            }
        }
    }

    fn handle(&self, message: Message) {
        // A sender that is gone has given up waiting; there is nobody to tell.
        match message {
            Message::Serve(published, done) => {
                self.serve(published);
                let _gone = done.send(());
            }
            Message::InFlight(ids, done) => {
                let _gone = done.send(self.load(&ids));
            }
            Message::Metrics(done) => {
                let _gone = done.send(self.metrics());
            }
            Message::Open(done) => {
                let upgrades = self.targets.borrow().values().map(|t| t.upgrades.get()).sum();
                let _gone = done.send(Open {
                    connections: self.connections.get() as u64,
                    upgrades,
                });
            }
            Message::Accept => {
                self.is_open.set(true);
                self.room.notify_waiters();
            }
            Message::Drain(ending) => {
                self.draining.set(Some(ending));
                if ending == Ending::Now {
                    self.clock.end_idle();
                }
                self.room.notify_waiters();
                self.drain.notify_waiters();
            }
        }
    }

    /// Serves a table from here on. Requests in flight keep what they chose; everything chosen later comes from it.
    fn serve(&self, published: Arc<Published>) {
        self.clock.refresh();
        let now_ms = self.clock.now_ms();
        let mut active: HashSet<TargetKey> = HashSet::new();
        let mut limits_of_leaving = HashMap::new();
        let mut by_id = HashMap::new();
        let mut services = Vec::with_capacity(published.table.table().services.len());
        for service in &published.table.table().services {
            by_id.insert(service.id.as_str().into(), services.len());
            let mut choices = Vec::with_capacity(service.targets.len());
            for target in &service.targets {
                let key = (target.id.as_str().into(), target.addr);
                if target.draining {
                    limits_of_leaving.insert(key, service.upgrade_drain_ms);
                    continue;
                }
                let release = target.release.as_ref().unwrap_or(&service.release);
                let series = self.series(&service.id, release, &service.app);
                choices.push(Choice {
                    target: self.target(&key),
                    series,
                    weight: u64::from(target.weight),
                });
                active.insert(key);
            }
            let series = self.series(&service.id, &service.release, &service.app);
            let Standing { held, turns, budget } = self.standing(&service.id);
            services.push(Rc::new(LocalService::new(
                service.clone(),
                choices,
                series,
                held,
                turns,
                budget,
            )));
        }
        self.retire(&active, &limits_of_leaving, now_ms);
        *self.local.borrow_mut() = Rc::new(Local {
            published,
            services,
            by_id,
        });
        self.forget();
        self.changed.notify_waiters();
    }

    /// Instances that left the table, or are draining in it, lose their idle connections and get a limit for upgraded ones.
    fn retire(&self, active: &HashSet<TargetKey>, limits: &HashMap<TargetKey, u64>, now_ms: u64) {
        let before = self.local.borrow();
        let of_service: HashMap<&str, u64> = before
            .services
            .iter()
            .flat_map(|s| {
                s.choices
                    .iter()
                    .map(|c| (&*c.target.id, s.service.upgrade_drain_ms))
            })
            .collect();
        for (key, target) in self.targets.borrow().iter() {
            if active.contains(key) {
                target.upgrades_end_ms.set(0);
            } else if target.upgrades_end_ms.get() == 0 {
                let limit = limits
                    .get(key)
                    .or_else(|| of_service.get(&*key.0))
                    .copied()
                    .unwrap_or_default();
                target.upgrades_end_ms.set(now_ms.saturating_add(limit).max(1));
                target.idle.borrow_mut().clear();
            }
        }
    }

    /// Drops what no table names and nothing uses.
    fn forget(&self) {
        let local = self.local();
        let named: HashSet<(&str, SocketAddr)> = local
            .services
            .iter()
            .flat_map(|s| s.service.targets.iter().map(|t| (t.id.as_str(), t.addr)))
            .collect();
        self.targets
            .borrow_mut()
            .retain(|(id, addr), t| t.is_busy() || named.contains(&(&**id, *addr)));
        self.services
            .borrow_mut()
            .retain(|id, s| s.held.get() > 0 || local.by_id.contains_key(id));
        let mut series = self.series.borrow_mut();
        if series.len() > SERIES_MAX {
            series.retain(|_, named| Rc::strong_count(&named.series) > 1);
        }
    }

    fn target(&self, key: &TargetKey) -> Rc<Target> {
        let mut targets = self.targets.borrow_mut();
        targets
            .entry(key.clone())
            .or_insert_with(|| Target::new(&key.0, key.1))
            .clone()
    }

    fn series(&self, service: &str, release: &str, app: &str) -> Rc<Series> {
        let mut all = self.series.borrow_mut();
        let named = all
            .entry((service.into(), release.into()))
            .or_insert_with(|| Named {
                app: app.into(),
                series: Rc::default(),
            });
        named.series.clone()
    }

    fn standing(&self, service: &str) -> Standing {
        let mut all = self.services.borrow_mut();
        let new = || Standing {
            held: Rc::default(),
            turns: Arc::new(Semaphore::new(self.limits.turns)),
            budget: Rc::new(Budget::new(self.threads)),
        };
        all.entry(service.into()).or_insert_with(new).clone()
    }

    fn sweep(&self) {
        let since_ms = self.clock.now_ms().saturating_sub(IDLE_UPSTREAM_MS);
        self.targets
            .borrow()
            .values()
            .for_each(|target| upstream::sweep(target, since_ms));
        self.forget();
    }

    fn load(&self, ids: &HashSet<String>) -> Loads {
        let mut loads = Loads::new();
        for target in self.targets.borrow().values().filter(|t| ids.contains(&*t.id)) {
            let load = Load {
                requests: target.requests.get(),
                upgrades: target.upgrades.get(),
            };
            loads.entry(target.id.to_string()).or_default().add(load);
        }
        loads
    }

    fn metrics(&self) -> Metrics {
        let standing = self.services.borrow();
        let mut told = HashSet::new();
        let (series, targets) = (self.series.borrow(), self.targets.borrow());
        let services = series.iter().map(|((service, release), named)| {
            let mut sum = named.series.sum(service, &named.app, release);
            // Once per service, however many releases it has.
            if told.insert(service.clone()) {
                sum.held = standing.get(service).map_or(0, |s| s.held.get() as u64);
            }
            sum
        });
        let services = services.collect();
        let targets = targets.values().map(|target| TargetMetrics {
            target: target.id.to_string(),
            requests: target.total.get(),
            failed: target.failed.get(),
            in_flight: target.requests.get(),
            upgrades: target.upgrades.get(),
        });
        Metrics {
            services,
            targets: targets.collect(),
        }
    }
}
