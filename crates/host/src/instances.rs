//! Instances: from a workload to a container on a network, and back to what is seen of it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use engine::{EngineError, Exec, ExecStreams, Observed, Phase, Usage, Workload};
use image::Root;
use model::{Exit, InstanceId, Timestamp};
use runtime::{
    Container, ContainerSpec, ExecSpec, Limits, LogSpec, Mount, Owner, Secret, SmallFile, State, Stdio, Tier,
    TtySize,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::line::{self, Line};
use crate::{Host, error, users};

/// Size of a log segment: small enough to delete one by one, large enough to be few.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Log bytes of one instance.
const LOG_BYTES: u64 = 64 << 20;
/// Log bytes of all instances of a service together, over all releases.
const LOG_DIR_BYTES: u64 = 256 << 20;
/// More output than this a second is dropped and counted: a flood must not fill the disk's bandwidth.
const LOG_RATE: u64 = 8 << 20;
/// Open files; what servers with many connections expect.
const OPEN_FILES: u64 = 16_384;
/// Shared memory, counted against the memory limit.
const SHM_BYTES: u64 = 64 << 20;
/// Where private ranges of user ids begin: above everything a distribution gives out.
const FIRST_ID: u32 = 1_000_000;
/// What programs expect to find themselves by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What an exec waits for at most at a time; it is asked again for ever.
const EXEC_LOOK: Duration = Duration::from_secs(60);

/// The name of an instance on this machine: an id without the underscore, which control groups' and host names lack.
pub(crate) fn name_of(id: InstanceId) -> String {
    id.to_string().replace('_', "-")
}

pub(crate) fn id_of(name: &str) -> Option<InstanceId> {
    name.replacen('-', "_", 1).parse().ok()
}

pub(crate) fn uid_base(range: u32) -> u32 {
    FIRST_ID + range * runtime::ID_RANGE
}

pub(crate) fn ensure(host: &Host, workload: &Workload) -> Result<Ipv4Addr, EngineError> {
    let name = name_of(workload.id);
    let there = host
        .runtime
        .get(&name)
        .map_err(error::host("look for the instance"))?;
    if let Some(there) = there {
        let attached = host.networks.attachment_of(&name).map(|place| place.ip);
        match (&there.state, attached.or(line::alone(workload))) {
            (State::Running { .. }, Some(address)) => {
                watch(host, workload.id, &there, address, workload.probe.as_ref());
                return Ok(address);
            }
            // The keeper of a starter that died is at it: starting again waits for what comes of that. An address given
            // out before would make its absence from `observe` look like a loss.
            (State::Starting, Some(_)) => {}
            // It has ended: that is for `observe` to tell.
            (State::Exited(_), Some(address)) => return Ok(address),
            // A start that was cut off, or the network of a former boot: nothing of it can be used.
            (State::Running { .. } | State::Starting | State::Exited(_), None) | (State::Lost, _) => {
                remove(host, workload.id)?;
            }
        }
    }
    match start(host, workload, &name) {
        Ok(address) => Ok(address),
        Err(cause) => {
            if let Err(left) = remove(host, workload.id) {
                tracing::warn!(instance = %workload.id, cause = %left, "what a failed start left could not be removed");
            }
            Err(cause)
        }
    }
}

fn start(host: &Host, workload: &Workload, name: &str) -> Result<Ipv4Addr, EngineError> {
    let digest = workload.image.as_str();
    let id = host.images.resolve(digest).map_err(error::image(digest))?;
    let root = host.images.root(id).map_err(error::image(digest))?;
    let line = line::connect(host, workload, name)?;
    let address = line.address;
    let spec = specify(host, workload, name, &root, line)?;
    write_probe(host, name, workload.probe.as_ref())?;
    match host.runtime.start(&spec) {
        // An earlier start that has ended already is for `observe` to tell.
        Ok(_) | Err(runtime::Error::Ended { .. }) => {}
        Err(cause @ runtime::Error::Start { .. }) => {
            return Err(EngineError::NotStarted {
                id: workload.id,
                why: error::chain(&cause),
            });
        }
        Err(cause) => return Err(error::host("start the instance")(cause)),
    }
    if let Ok(Some(there)) = host.runtime.get(name) {
        watch(host, workload.id, &there, address, workload.probe.as_ref());
    }
    Ok(address)
}

fn specify(
    host: &Host,
    workload: &Workload,
    name: &str,
    root: &Root,
    line: Line,
) -> Result<ContainerSpec, EngineError> {
    let config = &root.config;
    let (user, home) = users::resolve(&root.layers, workload.user.as_deref().unwrap_or(&config.user))?;
    let argv = if workload.command.is_empty() {
        config.entrypoint.iter().chain(&config.cmd).cloned().collect()
    } else {
        workload.command.clone()
    };
    if argv.is_empty() {
        return Err(EngineError::NotStarted {
            id: workload.id,
            why: "neither the service nor its image says what to run".to_owned(),
        });
    }
    let mut env: BTreeMap<String, String> = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
    env.extend(home.map(|home| ("HOME".to_owned(), home)));
    env.extend(
        config
            .env
            .iter()
            .filter_map(|line| line.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned())),
    );
    env.extend(
        workload
            .env
            .iter()
            .map(|(key, value)| (key.to_string(), value.clone())),
    );
    let writable = writable_of(host, name);
    let mut parents = DirBuilder::new();
    parents
        .recursive(true)
        .mode(0o711)
        .create(&writable)
        .map_err(error::host("make the writable layer"))?;
    let mut mounts: Vec<Mount> = root
        .binds
        .iter()
        .map(|bind| Mount {
            source: bind.source.clone(),
            target: bind.target.clone(),
            read_only: true,
            owner: Owner::Host,
        })
        .collect();
    for volume in &workload.volumes {
        let source = host
            .pool
            .path(&volume.volume)
            .map_err(error::volume(&volume.volume))?;
        give_to(&source, &user)?;
        mounts.push(Mount {
            source,
            target: PathBuf::from(&volume.target),
            read_only: false,
            owner: Owner::Instance,
        });
    }
    let hosts = format!(
        "127.0.0.1 localhost\n::1 localhost\n{} {}\n",
        line.address, workload.hostname
    );
    let file = |path: &str, text: String| SmallFile {
        path: PathBuf::from(path),
        contents: text.into_bytes(),
        mode: 0o644,
    };
    let log_dir = host.options.data_dir.join("logs").join(&workload.log_key);
    fs::create_dir_all(&log_dir).map_err(error::host("make the log's directory"))?;
    crate::logs::prune(&log_dir, LOG_DIR_BYTES, |name| {
        !matches!(host.runtime.get(name), Ok(None))
    });
    Ok(ContainerSpec {
        id: name.to_owned(),
        hostname: workload.hostname.clone(),
        layers: root.layers.clone(),
        writable,
        argv,
        env: env.into_iter().collect(),
        cwd: PathBuf::from(
            workload
                .workdir
                .clone()
                .unwrap_or_else(|| match config.working_dir.as_str() {
                    "" => "/".to_owned(),
                    dir => dir.to_owned(),
                }),
        ),
        user,
        uid_base: uid_base(workload.uid_range),
        limits: limits(workload.resources),
        netns: line.netns,
        mounts,
        secrets: workload
            .secrets
            .iter()
            .map(|secret| Secret {
                name: secret.name.clone(),
                bytes: secret.content.clone(),
                mode: 0o400,
            })
            .collect(),
        files: vec![
            file("/etc/hosts", hosts),
            file("/etc/resolv.conf", line.resolv),
            file("/etc/hostname", format!("{}\n", workload.hostname)),
        ],
        stop_signal: workload.stop_signal,
        log: LogSpec {
            dir: log_dir,
            segment_bytes: SEGMENT_BYTES,
            max_bytes: LOG_BYTES,
            label: format!("{}.{name}", workload.log_label),
            rate_bytes_per_s: LOG_RATE,
        },
        init: true,
        tier: Tier::Standard,
        nofile: OPEN_FILES,
        shm_bytes: SHM_BYTES,
        tmp_bytes: None,
    })
}

pub(crate) fn limits(resources: model::Resources) -> Limits {
    Limits {
        memory_bytes: resources.memory.get(),
        cpu_millis: u64::from(resources.cpu.get()),
        cpu_weight: 100,
        pids: u64::from(resources.pids),
    }
}

/// A fresh volume belongs to whoever uses it first.
fn give_to(volume: &PathBuf, user: &runtime::User) -> Result<(), EngineError> {
    let is_empty = fs::read_dir(volume)
        .map_err(error::host("read the volume"))?
        .next()
        .is_none();
    if is_empty {
        std::os::unix::fs::chown(volume, Some(user.uid), Some(user.gid))
            .map_err(error::host("give the volume"))?;
    }
    Ok(())
}

/// How to probe an instance, kept beside it so that an adopted one is probed again.
fn write_probe(host: &Host, name: &str, probe: Option<&engine::Probe>) -> Result<(), EngineError> {
    let path = writable_of(host, name).join("probe.json");
    let Some(probe) = probe else { return Ok(()) };
    let text =
        serde_json::json!({ "port": probe.port, "health": probe.health, "speaks": probe.speaks }).to_string();
    fs::write(path, text).map_err(error::host("write the probe"))
}

fn read_probe(host: &Host, name: &str) -> Option<engine::Probe> {
    let path = writable_of(host, name).join("probe.json");
    let value: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let port = u16::try_from(value.get("port")?.as_u64()?).ok()?;
    let health = serde_json::from_value(value.get("health")?.clone()).ok()?;
    // Written by a build before this, it says nothing.
    let speaks = value.get("speaks").cloned();
    let speaks = speaks
        .map_or(Ok(engine::Speaks::Tcp), serde_json::from_value)
        .ok()?;
    Some(engine::Probe { port, health, speaks })
}

fn watch(host: &Host, id: InstanceId, there: &Container, address: Ipv4Addr, probe: Option<&engine::Probe>) {
    if let Some(keeper) = there.record.as_ref().and_then(runtime::keeper_process) {
        host.watch.add(&there.id, keeper);
    }
    if let Some(probe) = probe {
        host.probes.start(id, address, probe);
    }
    host.watch.bump().ring();
}

impl Host {
    /// Watches and probes what a former process of ours started.
    pub(crate) fn adopt(&self) -> Result<(), EngineError> {
        for there in self.runtime.list().map_err(error::host("list the instances"))? {
            let (Some(id), State::Running { .. }) = (id_of(&there.id), &there.state) else {
                continue;
            };
            if let Some(place) = self.networks.attachment_of(&there.id) {
                let probe = read_probe(self, &there.id);
                watch(self, id, &there, place.ip, probe.as_ref());
            }
        }
        Ok(())
    }
}

/// Probes an instance that got running between our start and now: its starter was a former process of ours.
fn resume(host: &Host, id: InstanceId, there: &Container) {
    if let Some(probe) = read_probe(host, &there.id)
        && let Some(place) = host.networks.attachment_of(&there.id)
    {
        watch(host, id, there, place.ip, Some(&probe));
    }
}

pub(crate) fn stop(host: &Host, id: InstanceId, grace: Duration) -> Result<(), EngineError> {
    match host.runtime.stop(&name_of(id), grace) {
        Ok(()) => Ok(()),
        Err(runtime::Error::NotFound { .. } | runtime::Error::Ended { .. } | runtime::Error::Lost { .. }) => {
            Err(EngineError::NotRunning(id))
        }
        Err(cause) => Err(error::host("stop the instance")(cause)),
    }
}

pub(crate) fn remove(host: &Host, id: InstanceId) -> Result<(), EngineError> {
    let name = name_of(id);
    host.probes.stop(id);
    host.runtime
        .remove(&name)
        .map_err(error::host("remove the instance"))?;
    host.networks
        .detach(&name)
        .map_err(error::host("detach from the network"))?;
    let writable = writable_of(host, &name);
    if writable.exists() {
        image::remove_tree(&writable).map_err(error::host("remove the writable layer"))?;
    }
    Ok(())
}

pub(crate) fn observe(host: &Host) -> Result<Vec<Observed>, EngineError> {
    let mut seen = Vec::new();
    for there in host.runtime.list().map_err(error::host("list the instances"))? {
        let Some(id) = id_of(&there.id) else { continue };
        let phase = match &there.state {
            // Its starter is at work, or will find it cut off.
            State::Starting => continue,
            State::Running { started_at_ms, .. } => Phase::Running {
                since: Timestamp::from_ms(*started_at_ms),
                ready: host.probes.answer(id).or_else(|| {
                    resume(host, id, &there);
                    None
                }),
            },
            State::Exited(exit) => {
                host.probes.stop(id);
                Phase::Exited {
                    at: Timestamp::from_ms(exit.at_ms),
                    exit: crate::room::exit_of(host, &there.id, exit),
                }
            }
            State::Lost => {
                host.probes.stop(id);
                Phase::Exited {
                    at: Timestamp::now(),
                    exit: Exit::Lost,
                }
            }
        };
        let address = host.networks.attachment_of(&there.id).map(|place| place.ip);
        seen.push(Observed { id, address, phase });
    }
    Ok(seen)
}

/// Where an instance writes, and what is noted beside that.
pub(crate) fn writable_of(host: &Host, name: &str) -> PathBuf {
    host.options.data_dir.join("writable").join(name)
}

pub(crate) fn exit_of(exit: &runtime::Exit) -> Exit {
    match (exit.oom, exit.signal) {
        (true, _) => Exit::OutOfMemory,
        (false, Some(signal)) => Exit::Signal { signal },
        (false, None) => Exit::Code { code: exit.code },
    }
}

pub(crate) fn usage(host: &Host, id: InstanceId) -> Result<Usage, EngineError> {
    let usage = host
        .runtime
        .stats(&name_of(id))
        .map_err(error::host("measure the instance"))?;
    Ok(Usage {
        memory_bytes: usage.memory_bytes,
        cpu_us: usage.cpu_ns / 1000,
        pids: usage.pids,
    })
}

pub(crate) fn exec(host: &Host, id: InstanceId, exec: &Exec) -> Result<ExecStreams, EngineError> {
    let name = name_of(id);
    let refuse = |cause: runtime::Error| match cause {
        runtime::Error::NotFound { .. } | runtime::Error::Ended { .. } | runtime::Error::Lost { .. } => {
            EngineError::NotRunning(id)
        }
        runtime::Error::Exec {
            ref program,
            ref reason,
            ..
        } => EngineError::NotExecuted {
            program: program.clone(),
            why: reason.clone(),
            next_step: cause.next(),
        },
        other => EngineError::NotStarted {
            id,
            why: error::chain(&other),
        },
    };
    let (environment, layers) = surroundings(host, &name, id)?;
    let (user, home) = match &exec.user {
        Some(user) => users::resolve(&layers, user)?,
        None => (environment.user, None),
    };
    let mut env = environment.env;
    env.extend(home.map(|home| ("HOME".to_owned(), home)));
    env.extend(exec.env.iter().cloned());
    let spec = ExecSpec {
        argv: exec.argv.clone(),
        env: env.into_iter().collect(),
        cwd: exec.workdir.clone().map_or(environment.cwd, PathBuf::from),
        user,
        tty: exec.terminal.map(|(rows, cols)| TtySize { rows, cols }),
    };
    let (streams, theirs): (Option<(OwnedFd, OwnedFd, OwnedFd)>, Option<Stdio>) = if spec.tty.is_some() {
        (None, None)
    } else {
        let pipe =
            || pipe_with(PipeFlags::CLOEXEC).map_err(|e| error::host("make pipes")(std::io::Error::from(e)));
        let ((their_in, our_in), (our_out, their_out), (our_err, their_err)) = (pipe()?, pipe()?, pipe()?);
        let theirs = Stdio {
            stdin: their_in,
            stdout: their_out,
            stderr: their_err,
        };
        (Some((our_in, our_out, our_err)), Some(theirs))
    };
    let mut session = host.runtime.exec(&name, &spec, theirs).map_err(refuse)?;
    let (stdin, stdout, stderr) = match (streams, session.terminal()) {
        (Some((stdin, stdout, stderr)), _) => (stdin, stdout, Some(stderr)),
        (None, Some(terminal)) => {
            let copy = |file: &File| {
                file.try_clone()
                    .map(OwnedFd::from)
                    .map_err(error::host("copy the terminal"))
            };
            (copy(terminal)?, copy(terminal)?, None)
        }
        (None, None) => {
            return Err(EngineError::NotStarted {
                id,
                why: "it got no terminal".to_owned(),
            });
        }
    };
    let hold = session.hold().map_err(error::host("hold the session"))?;
    let wait = move || {
        loop {
            match session.wait(EXEC_LOOK) {
                Ok(Some(exit)) => return Ok(exit.code),
                Ok(None) => {}
                Err(cause) => {
                    return Err(EngineError::NotStarted {
                        id,
                        why: error::chain(&cause),
                    });
                }
            }
        }
    };
    Ok(ExecStreams {
        stdin,
        stdout,
        stderr,
        wait: Box::new(wait),
        hold: Box::new(hold),
    })
}

/// What a further program finds around it: as the instance's own first program.
struct Surroundings {
    env: BTreeMap<String, String>,
    cwd: PathBuf,
    user: runtime::User,
}

fn surroundings(
    host: &Host,
    name: &str,
    id: InstanceId,
) -> Result<(Surroundings, Vec<PathBuf>), EngineError> {
    let there = host
        .runtime
        .get(name)
        .map_err(error::host("look for the instance"))?;
    let Some(Container {
        state: State::Running { pid, .. },
        record: Some(record),
        ..
    }) = there
    else {
        return Err(EngineError::NotRunning(id));
    };
    // Its program is a child of the reaper; what that program sees is what people expect to see too.
    let pid = first_child(pid).unwrap_or(pid);
    let environ = fs::read(format!("/proc/{pid}/environ")).map_err(error::host("read its environment"))?;
    let env = environ
        .split(|byte| *byte == 0)
        .filter_map(|entry| {
            String::from_utf8_lossy(entry)
                .split_once('=')
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
        })
        .collect();
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_else(|_| PathBuf::from("/"));
    let user = owner(pid, record.uid_base).unwrap_or_default();
    Ok((
        Surroundings { env, cwd, user },
        vec![PathBuf::from(format!("/proc/{pid}/root"))],
    ))
}

fn first_child(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn owner(pid: u32, base: u32) -> Option<runtime::User> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace()
            .next()?
            .parse::<u32>()
            .ok()?
            .checked_sub(base)
    };
    Some(runtime::User {
        uid: field("Uid:")?,
        gid: field("Gid:")?,
        groups: Vec::new(),
    })
}
