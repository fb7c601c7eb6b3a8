//! The networks of one Stoa on this machine: the face of this crate.
//!
//! Lives here: what a caller may ask, in which order state and kernel change, and who waits for whom.
//! Does not live here: making links, namespaces and rules real (`world`).
//! Invariants: state is written before the kernel is changed and removed only after, so a crash leaves either nothing
//! or something the next `open` or `reapply` finishes; two calls for one instance never overlap.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::background::{Busy, Reaper};
use crate::firewall::{Generation, Zone};
use crate::state::{
    AttachmentRecord, AttachmentTable, Mark, NetworkRecord, NetworkRules, NetworkTable, StateFiles,
};
use crate::subnet::{mac_of, mac_text};
use crate::world::World;
use crate::{NetError, Subnet};

/// How the networks of one Stoa are set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where state and namespaces are kept; made if absent.
    pub state_dir: PathBuf,
    /// Part of every name made on the host.
    pub mark: Mark,
    /// Where subnets are taken from, e.g. 10.80.0.0/12.
    pub pool: Subnet,
    /// The size of each network; 24 holds 253 instances.
    pub network_prefix: u8,
}

impl Options {
    /// The usual ones: networks of /24 from 10.80.0.0/12.
    pub fn new(state_dir: impl Into<PathBuf>, mark: Mark) -> Self {
        let usual = Subnet::containing(Ipv4Addr::new(10, 80, 0, 0), 12);
        let pool = usual.expect("12 is a valid prefix length");
        Self {
            state_dir: state_dir.into(),
            mark,
            pool,
            network_prefix: 24,
        }
    }
}

/// One environment's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The caller's name for it: the environment's id.
    pub key: String,
    /// Its bridge on the host.
    pub bridge: String,
    /// Its addresses.
    pub subnet: Subnet,
    /// The host's address in it; DNS answers there.
    pub gateway: Ipv4Addr,
    /// What its instances may reach.
    pub rules: NetworkRules,
}

/// One instance's place in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Whose it is.
    pub instance: String,
    /// Key of the network.
    pub network: String,
    /// The network namespace, mounted; open it or bind it, never unmount it.
    pub netns_path: PathBuf,
    /// The instance's address.
    pub ip: Ipv4Addr,
    /// Length of the network part.
    pub prefix: u8,
    /// Where its default route and its DNS go.
    pub gateway: Ipv4Addr,
    /// Hardware address of its `eth0`.
    pub mac: String,
    /// The host's end of its link.
    pub host_if: String,
}

/// What exists, and what bears our mark without being known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// The networks.
    pub networks: Vec<Network>,
    /// The attachments.
    pub attachments: Vec<Attachment>,
    /// Names of links and namespaces with our mark that no record names; the next `reapply` removes them.
    pub strays: Vec<String>,
}

/// Something `reapply` found missing and made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repaired {
    /// A network's bridge.
    Bridge {
        /// Key of the network.
        network: String,
    },
    /// Our firewall tables were gone or may have been changed.
    Firewall,
    /// An instance's link, or its place on the bridge.
    Link {
        /// The instance.
        instance: String,
    },
    /// An instance's namespace: a new, empty one; what ran in the old one has to be started again.
    Namespace {
        /// The instance.
        instance: String,
    },
    /// Something with our mark that no record named was removed.
    Stray {
        /// Its name.
        name: String,
    },
}

/// The networks of one Stoa. Share it by reference; every call may come from any thread.
#[derive(Debug)]
pub struct Networks {
    world: Arc<World>,
    files: StateFiles,
    tables: Mutex<Tables>,
    firewall: Mutex<Option<Generation>>,
    /// Held while a bridge is made.
    bridges: Mutex<()>,
    busy: Busy,
    reaper: Reaper,
    _lock: Lock,
}

#[derive(Debug)]
struct Tables {
    networks: NetworkTable,
    attachments: AttachmentTable,
}

impl Networks {
    /// Read what is remembered and remove what bears our mark but is not. Makes nothing: call `reapply` for that.
    pub fn open(options: Options) -> Result<Self, NetError> {
        let largest = options.pool.prefix().max(8)..=29;
        if !largest.contains(&options.network_prefix) {
            return Err(NetError::PoolTooSmall {
                pool: options.pool.to_string(),
                prefix: options.network_prefix,
            });
        }
        let file = |what| {
            move |path: &Path, cause| NetError::File {
                what,
                path: path.into(),
                cause,
            }
        };
        let namespaces = options.state_dir.join("netns");
        fs::create_dir_all(&namespaces).map_err(|e| file("make")(&namespaces, e))?;
        let lock = lock(&options.state_dir)?;
        let files = StateFiles::within(&options.state_dir);
        let (networks, attachments) = files.load()?;
        let world = Arc::new(World::new(options, namespaces));
        let networks = Self {
            reaper: Reaper::start(Arc::clone(&world)),
            world,
            files,
            tables: Mutex::new(Tables {
                networks,
                attachments,
            }),
            firewall: Mutex::new(None),
            bridges: Mutex::new(()),
            busy: Busy::default(),
            _lock: lock,
        };
        networks.sweep()?;
        Ok(networks)
    }

    /// The network of this key, made or repaired, with these rules in force.
    pub fn ensure_network(&self, key: &str, rules: &NetworkRules) -> Result<Network, NetError> {
        check_name("network", key)?;
        let (record, is_changed) = {
            let mut tables = self.tables();
            let before = tables.networks.networks.get(key).cloned();
            let routed = if before.is_none() {
                self.world.routed()?
            } else {
                Vec::new()
            };
            let options = &self.world.options;
            let mut wanted = tables.networks.clone();
            wanted.ensure(key, rules, options.pool, options.network_prefix, &routed)?;
            let record = wanted.networks.get(key).cloned().ok_or_else(|| unknown(key))?;
            let is_changed = before.as_ref() != Some(&record);
            if is_changed {
                self.files.save_networks(&wanted)?;
                tables.networks = wanted;
            }
            (record, is_changed)
        };
        self.protect(is_changed)?;
        self.ensure_bridge(key)?;
        Ok(self.network(key, &record))
    }

    /// Has a network the doors of exactly these, each with the port it is knocked at: addresses of the host that stand for
    /// what may not run just now. Who has one keeps its address; when the network is full, who is new gets none. Answers who
    /// has which.
    pub fn ensure_doors(
        &self,
        key: &str,
        wanted: &BTreeMap<String, u16>,
    ) -> Result<BTreeMap<String, Ipv4Addr>, NetError> {
        let (record, is_changed) = {
            let mut tables = self.tables();
            let known = tables.networks.networks.get(key).cloned();
            let before = known.ok_or_else(|| unknown(key))?;
            let held = tables.attachments.attachments.values().map(|a| a.ip).collect();
            let mut record = before.clone();
            record.set_doors(wanted, &held);
            let is_changed = record != before;
            if is_changed {
                let mut all = tables.networks.clone();
                all.networks.insert(key.into(), record.clone());
                self.files.save_networks(&all)?;
                tables.networks = all;
            }
            (record, is_changed)
        };
        if is_changed {
            // Whatever fails, the firewall is made again by the next `reapply` at the latest, and the bridge with it.
            let protected = self.protect(true);
            self.ensure_bridge(key)?;
            protected?;
        }
        Ok(record
            .doors
            .into_iter()
            .map(|(whose, door)| (whose, door.ip))
            .collect())
    }

    /// Make or repair a network's bridge as it is remembered now. One at a time: who made it by an older record would take
    /// addresses away.
    fn ensure_bridge(&self, key: &str) -> Result<(), NetError> {
        let _alone = self.bridges.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.tables().networks.networks.get(key).cloned();
        match record {
            Some(record) => self.world.ensure_bridge(&record, self.world.mtu()?).map(drop),
            None => Ok(()),
        }
    }

    /// A namespace for this instance in that network, ready to be entered. `ip`: a wanted address, else one is chosen.
    /// A second call answers the same, having repaired what was missing.
    pub fn attach(
        &self,
        network: &str,
        instance: &str,
        ip: Option<Ipv4Addr>,
    ) -> Result<Attachment, NetError> {
        check_instance(instance)?;
        let _alone = self.busy.enter(instance);
        let (home, record, is_new) = {
            let mut tables = self.tables();
            let home = tables
                .networks
                .networks
                .get(network)
                .cloned()
                .ok_or_else(|| unknown(network))?;
            let is_new = !tables.attachments.attachments.contains_key(instance);
            let record = tables.attachments.ensure(network, &home, instance, ip)?;
            if is_new && let Err(e) = self.files.save_attachments(&tables.attachments) {
                tables.attachments.attachments.remove(instance);
                return Err(e);
            }
            (home, record, is_new)
        };
        let made = self
            .protect(false)
            .and_then(|()| self.world.ensure_attachment(&home, instance, &record));
        if let Err(e) = made {
            if is_new {
                self.take_down(instance, &record, &home)?;
            }
            return Err(e);
        }
        Ok(self.attachment(instance, &record, &home))
    }

    /// Give up the instance's namespace and address; nothing to do when it has none. What still runs in the namespace
    /// loses its link; the kernel's slow part happens in the background.
    pub fn detach(&self, instance: &str) -> Result<(), NetError> {
        check_instance(instance)?;
        let _alone = self.busy.enter(instance);
        let known = {
            let tables = self.tables();
            let record = tables.attachments.attachments.get(instance).cloned();
            record.and_then(|r| {
                tables
                    .networks
                    .networks
                    .get(&r.network)
                    .cloned()
                    .map(|home| (r, home))
            })
        };
        match known {
            Some((record, home)) => self.take_down(instance, &record, &home),
            None => self.world.release_namespace(instance),
        }
    }

    /// Wait until all background teardown asked for so far is done.
    pub fn settle(&self) {
        self.reaper.settle();
    }

    /// The network of this key, if there is one.
    pub fn find(&self, key: &str) -> Option<Network> {
        self.tables()
            .networks
            .networks
            .get(key)
            .map(|record| self.network(key, record))
    }

    /// The attachment of this instance, if it has one.
    pub fn attachment_of(&self, instance: &str) -> Option<Attachment> {
        let tables = self.tables();
        let record = tables.attachments.attachments.get(instance)?;
        let home = tables.networks.networks.get(&record.network)?;
        Some(self.attachment(instance, record, home))
    }

    /// Everything that is remembered, and everything on the host that bears our mark without being remembered.
    pub fn list(&self) -> Result<Inventory, NetError> {
        let tables = self.tables();
        let networks = tables
            .networks
            .networks
            .iter()
            .map(|(key, r)| self.network(key, r))
            .collect();
        let attachments = tables
            .attachments
            .attachments
            .iter()
            .filter_map(|(instance, record)| {
                let home = tables.networks.networks.get(&record.network)?;
                Some(self.attachment(instance, record, home))
            });
        Ok(Inventory {
            networks,
            attachments: attachments.collect(),
            strays: self.world.strays(&tables.networks, &tables.attachments)?,
        })
    }

    /// Compare the host with what is remembered and make again what is missing: after a reboot, a flushed firewall
    /// (F50), or anything removed by hand (F47). Cheap when nothing is amiss: call it periodically.
    pub fn reapply(&self) -> Result<Vec<Repaired>, NetError> {
        let mut repaired = Vec::new();
        // Each time: legacy iptables rules are not counted in the generation.
        self.world.pass_foreign_firewalls();
        if self.is_firewall_doubtful() {
            self.protect(true)?;
            repaired.push(Repaired::Firewall);
        }
        let networks = self.tables().networks.clone();
        for (key, record) in &networks.networks {
            if !self.world.is_bridge_present(record)? {
                repaired.push(Repaired::Bridge { network: key.clone() });
            }
            self.ensure_bridge(key)?;
        }
        let instances: Vec<String> = self.tables().attachments.attachments.keys().cloned().collect();
        for instance in instances {
            let _alone = self.busy.enter(&instance);
            // Read again: it may have been detached while we waited.
            let Some(record) = self.tables().attachments.attachments.get(&instance).cloned() else {
                continue;
            };
            let Some(home) = networks.networks.get(&record.network) else {
                continue;
            };
            if let Some(what) = self.world.repair_attachment(home, &instance, &record)? {
                repaired.push(what);
            }
        }
        repaired.extend(self.sweep()?);
        Ok(repaired)
    }

    /// Remove a network without instances; nothing to do when there is none.
    pub fn destroy_network(&self, key: &str) -> Result<(), NetError> {
        let mut tables = self.tables();
        let Some(record) = tables.networks.networks.get(key).cloned() else {
            return Ok(());
        };
        match tables.attachments.count_in(key) {
            0 => {}
            instances => {
                return Err(NetError::NetworkInUse {
                    key: key.into(),
                    instances,
                });
            }
        }
        self.world.delete_bridge(&record)?;
        let mut wanted = tables.networks.clone();
        wanted.networks.remove(key);
        self.files.save_networks(&wanted)?;
        tables.networks = wanted;
        tables.attachments.last_place.remove(key);
        drop(tables);
        self.protect(true)
    }

    /// Remove everything that bears our mark, remembered or not.
    pub fn destroy_all(&self) -> Result<(), NetError> {
        let instances: Vec<String> = self.tables().attachments.attachments.keys().cloned().collect();
        for instance in instances {
            self.detach(&instance)?;
        }
        self.settle();
        let mut tables = self.tables();
        for record in tables.networks.networks.values() {
            self.world.delete_bridge(record)?;
        }
        tables.networks = NetworkTable::default();
        self.files.save_networks(&tables.networks)?;
        for name in self.world.strays(&tables.networks, &tables.attachments)? {
            self.world.remove_stray(&name)?;
        }
        let mut generation = self.firewall.lock().unwrap_or_else(PoisonError::into_inner);
        *generation = None;
        self.world.remove_firewall()
    }

    /// Records first: from here on nobody may rely on the instance's address. A crash now leaves strays, which the
    /// next `open` removes.
    fn take_down(
        &self,
        instance: &str,
        record: &AttachmentRecord,
        home: &NetworkRecord,
    ) -> Result<(), NetError> {
        {
            let mut tables = self.tables();
            tables.attachments.attachments.remove(instance);
            self.files.save_attachments(&tables.attachments)?;
        }
        self.world.forget_neighbour(home, record)?;
        self.world.release_namespace(instance)?;
        self.reaper.delete_port(record.number);
        Ok(())
    }

    /// Put the firewall in force: always when the networks changed, else only when our tables are missing.
    fn protect(&self, is_changed: bool) -> Result<(), NetError> {
        let mut generation = self.firewall.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_changed && (self.world.generation() == *generation && generation.is_some()) {
            return Ok(());
        }
        if !is_changed && self.world.is_firewall_present() {
            return Ok(());
        }
        if generation.is_none() {
            // Before ours: the nft-backed iptables changes the generation too.
            self.world.pass_foreign_firewalls();
        }
        let zones = self.zones();
        // In doubt until it is in force.
        *generation = None;
        *generation = self.world.apply_firewall(&zones)?;
        Ok(())
    }

    /// Has anybody changed any rule since we last set ours?
    fn is_firewall_doubtful(&self) -> bool {
        let generation = self.firewall.lock().unwrap_or_else(PoisonError::into_inner);
        generation.is_none() || self.world.generation() != *generation
    }

    fn zones(&self) -> Vec<Zone> {
        let tables = self.tables();
        let zone = |record: &NetworkRecord| Zone {
            bridge: self.world.bridge_name(record),
            subnet: record.subnet,
            gateway: record.gateway(),
            doors: record.doors.values().map(|door| (door.ip, door.port)).collect(),
            rules: record.rules.clone(),
        };
        tables.networks.networks.values().map(zone).collect()
    }

    fn sweep(&self) -> Result<Vec<Repaired>, NetError> {
        self.settle();
        let tables = self.tables();
        let mut removed = Vec::new();
        for name in self.world.strays(&tables.networks, &tables.attachments)? {
            self.world.remove_stray(&name)?;
            removed.push(Repaired::Stray { name });
        }
        Ok(removed)
    }

    fn network(&self, key: &str, record: &NetworkRecord) -> Network {
        Network {
            key: key.into(),
            bridge: self.world.bridge_name(record),
            subnet: record.subnet,
            gateway: record.gateway(),
            rules: record.rules.clone(),
        }
    }

    fn attachment(&self, instance: &str, record: &AttachmentRecord, home: &NetworkRecord) -> Attachment {
        Attachment {
            instance: instance.into(),
            network: record.network.clone(),
            netns_path: self.world.namespace_path(instance),
            ip: record.ip,
            prefix: home.subnet.prefix(),
            gateway: home.gateway(),
            mac: mac_text(mac_of(record.ip)),
            host_if: self.world.port_name(record.number),
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // A panic elsewhere cannot leave the tables half changed: they are changed by single assignments.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names go into JSON only; the bound is against mistakes.
fn check_name(what: &'static str, value: &str) -> Result<(), NetError> {
    let fits = (1..=128).contains(&value.len()) && !value.chars().any(char::is_control);
    if fits {
        Ok(())
    } else {
        Err(NetError::BadName {
            what,
            value: value.into(),
        })
    }
}

/// Instance ids name a file.
fn check_instance(value: &str) -> Result<(), NetError> {
    let fits = (1..=128).contains(&value.len())
        && !value.starts_with('.')
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if fits {
        Ok(())
    } else {
        Err(NetError::BadName {
            what: "instance",
            value: value.into(),
        })
    }
}

fn unknown(key: &str) -> NetError {
    NetError::UnknownNetwork { key: key.into() }
}

/// Held while the networks are open.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone is not enough: a process being forked at this moment holds a copy until its exec.
        let _closed_anyway = self.0.unlock();
    }
}

fn lock(dir: &Path) -> Result<Lock, NetError> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|cause| NetError::File {
        what: "make",
        path,
        cause,
    })?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(_) => Err(NetError::Locked { dir: dir.into() }),
    }
}
