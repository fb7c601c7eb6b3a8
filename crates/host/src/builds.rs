//! Build steps: a bounded instance over an image; what it leaves becomes a layer.
//!
//! Invariant: a step runs as any instance does (own user range, seccomp, limits, network), never with more.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::{BuildStep, EngineError, LineSink, StepOutput};
use image::{CommitOptions, ImageConfig, ImageId, Root};
use model::{Exit, InstanceId};
use net::{Neighbours, NetworkRules};
use runtime::logs::{Query, Reader};
use runtime::{ContainerSpec, Limits, LogSpec, Mount, Owner, SmallFile, Tier};

use crate::{Host, error, images, instances, users};

/// The network of all builds: apart from every environment's.
const NETWORK: &str = "builds";
/// What distinguishes a step's instance from an app's.
const PREFIX: &str = "build-";
/// Builds yield to what serves: a tenth of the usual weight.
const WEIGHT: u64 = 10;
/// Log of one step on disk; what a step prints beyond is dropped with a count.
const LOG_BYTES: u64 = 32 << 20;
/// Private ranges of user ids for builds lie above those of instances (60,000 of them).
const FIRST_RANGE: u32 = 60_100;
const RANGES: u64 = 1_000;
/// What the runtime puts over the image and must not become part of it.
const NOT_PART: [&str; 9] = [
    "etc/hosts",
    "etc/resolv.conf",
    "etc/hostname",
    "run/secrets",
    "proc",
    "sys",
    "dev",
    "tmp",
    "root/.cache",
];

fn home(host: &Host) -> PathBuf {
    host.options.data_dir.join("steps")
}

/// Removes what steps of a former process left: their work begins again with the operation.
pub(crate) fn sweep(host: &Host) {
    for container in host.runtime.list().unwrap_or_default() {
        if container.id.starts_with(PREFIX) {
            drop(host.runtime.remove(&container.id));
            drop(host.networks.detach(&container.id));
        }
    }
    if let Ok(entries) = fs::read_dir(home(host)) {
        for entry in entries.flatten() {
            drop(image::remove_tree(&entry.path()));
        }
    }
}

pub(crate) fn step(host: &Host, step: &BuildStep, lines: LineSink<'_>) -> Result<StepOutput, EngineError> {
    let failed = error::host("build");
    let base: ImageId = step
        .base
        .as_str()
        .parse()
        .map_err(error::host("read the base's digest"))?;
    if let Some(key) = &step.key
        && let Some(known) = host.images.cache_get(key).map_err(&failed)?
        && host.images.root(known).is_ok()
    {
        return Ok(StepOutput {
            image: images::digest(known)?,
            cached: true,
        });
    }
    // A step may take longer than the house-keeping's interval, and its base be larger than what unused images may take.
    let _hold = host.images.hold(base).map_err(error::image(step.base.as_str()))?;
    let id = InstanceId::fresh();
    let name = format!("{PREFIX}{}", id.short(20));
    let dir = home(host).join(&name);
    let result = run(host, step, base, &name, &dir, lines);
    drop(host.runtime.remove(&name));
    drop(host.networks.detach(&name));
    let image = result.and_then(|()| commit(host, step, base, &dir.join("layer/upper")));
    if dir.exists()
        && let Err(cause) = image::remove_tree(&dir)
    {
        tracing::warn!(
            cause = error::chain(&cause),
            "a build step's directory could not be removed"
        );
    }
    let image = image?;
    if let Some(key) = &step.key {
        host.images.cache_put(key, image).map_err(&failed)?;
    }
    Ok(StepOutput {
        image: images::digest(image)?,
        cached: false,
    })
}

fn run(
    host: &Host,
    step: &BuildStep,
    base: ImageId,
    name: &str,
    dir: &Path,
    lines: LineSink<'_>,
) -> Result<(), EngineError> {
    let root = host.images.root(base).map_err(error::image(step.base.as_str()))?;
    let (user, _) = users::resolve(&root.layers, &step.user)?;
    let upper = dir.join("layer/upper");
    let mut parents = DirBuilder::new();
    parents
        .recursive(true)
        .mode(0o755)
        .create(&upper)
        .map_err(error::host("make the step's directory"))?;
    for input in &step.inputs {
        let target = upper.join(input.to.trim_start_matches('/'));
        copy(&input.from, &target, &user).map_err(error::host("copy the source into the build"))?;
    }
    if step.command.is_empty() {
        return Ok(());
    }
    let spec = specify(host, step, &root, name, dir, user)?;
    host.runtime.start(&spec).map_err(|cause| EngineError::Step {
        step: step.name.clone(),
        why: error::chain(&cause),
    })?;
    follow(host, step, name, dir, lines)
}

fn specify(
    host: &Host,
    step: &BuildStep,
    root: &Root,
    name: &str,
    dir: &Path,
    user: runtime::User,
) -> Result<ContainerSpec, EngineError> {
    let mut files = vec![SmallFile {
        path: PathBuf::from("/etc/hosts"),
        contents: b"127.0.0.1 localhost\n::1 localhost\n".to_vec(),
        mode: 0o644,
    }];
    let mut netns = None;
    if step.network {
        // Several builds run at a time, of tenants that must not meet.
        let rules = NetworkRules {
            neighbours: Neighbours::Apart,
            ..NetworkRules::default()
        };
        let network = host
            .networks
            .ensure_network(NETWORK, &rules)
            .map_err(error::host("make the builds' network"))?;
        crate::names::cover(host, NETWORK)?;
        let place = host
            .networks
            .attach(NETWORK, name, None)
            .map_err(error::host("attach the build"))?;
        netns = Some(place.netns_path);
        files.push(SmallFile {
            path: PathBuf::from("/etc/resolv.conf"),
            contents: format!("nameserver {}\n", network.gateway).into_bytes(),
            mode: 0o644,
        });
    }
    for (source, target) in &step.host_files {
        let contents = fs::read(source).map_err(error::host("read a configuration file for the build"))?;
        files.push(SmallFile {
            path: PathBuf::from(target),
            contents,
            mode: 0o644,
        });
    }
    let mut env: Vec<(String, String)> = root
        .config
        .env
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    env.extend(step.env.iter().map(|(key, value)| (key.clone(), value.clone())));
    let mounts = root.binds.iter().map(|bind| Mount {
        source: bind.source.clone(),
        target: bind.target.clone(),
        read_only: true,
        owner: Owner::Host,
    });
    let log = dir.join("log");
    fs::create_dir_all(&log).map_err(error::host("make the step's log"))?;
    let number = u32::from_ne_bytes(*name.as_bytes().last_chunk::<4>().unwrap_or(&[0; 4]));
    let range = FIRST_RANGE + u32::try_from(u64::from(number) % RANGES).unwrap_or_default();
    Ok(ContainerSpec {
        id: name.to_owned(),
        hostname: "build".to_owned(),
        layers: root.layers.clone(),
        writable: dir.join("layer"),
        argv: step.command.clone(),
        env,
        cwd: PathBuf::from(&step.workdir),
        user,
        uid_base: instances::uid_base(range),
        limits: Limits {
            cpu_weight: WEIGHT,
            ..instances::limits(step.resources)
        },
        netns,
        mounts: mounts.collect(),
        secrets: Vec::new(),
        files,
        stop_signal: 15,
        log: LogSpec {
            dir: log,
            segment_bytes: LOG_BYTES / 4,
            max_bytes: LOG_BYTES,
            label: "step".to_owned(),
            rate_bytes_per_s: 0,
        },
        init: true,
        tier: Tier::Standard,
        nofile: 16_384,
        shm_bytes: 64 << 20,
        tmp_bytes: None,
    })
}

/// Hands the step's lines on as they come, until it ends or its time is over.
fn follow(
    host: &Host,
    step: &BuildStep,
    name: &str,
    dir: &Path,
    lines: LineSink<'_>,
) -> Result<(), EngineError> {
    let ended = |why: String| EngineError::Step {
        step: step.name.clone(),
        why,
    };
    let until = Instant::now() + step.timeout.as_duration();
    let mut reader =
        Reader::open(&dir.join("log"), Query::default()).map_err(error::host("read the step's log"))?;
    let mut drain = || -> Result<(), EngineError> {
        loop {
            let records = reader.read(1000).map_err(error::host("read the step's log"))?;
            if records.is_empty() {
                return Ok(());
            }
            for record in records {
                lines(&String::from_utf8_lossy(&record.text));
            }
        }
    };
    loop {
        let exit = host
            .runtime
            .wait_exit(name, Duration::from_millis(200))
            .map_err(error::host("wait for the step"))?;
        drain()?;
        match exit.as_ref().map(instances::exit_of) {
            Some(Exit::Code { code: 0 }) => return Ok(()),
            Some(Exit::OutOfMemory) => {
                return Err(ended(format!(
                    "it needs more memory than the {} a build may use",
                    step.resources.memory
                )));
            }
            Some(exit) => return Err(ended(format!("it {}", exit.describe()))),
            None if Instant::now() >= until => {
                return Err(ended(format!("it took longer than {}", step.timeout)));
            }
            None => {}
        }
    }
}

fn commit(host: &Host, step: &BuildStep, base: ImageId, upper: &Path) -> Result<ImageId, EngineError> {
    let failed = error::host("keep what the build made");
    let mut config: ImageConfig = host
        .images
        .image_config(base)
        .map_err(error::image(step.base.as_str()))?;
    if let Some(command) = &step.config.command {
        config.entrypoint = Vec::new();
        config.cmd.clone_from(command);
    }
    if let Some(workdir) = &step.config.workdir {
        config.working_dir.clone_from(workdir);
    }
    if let Some(user) = &step.config.user {
        config.user.clone_from(user);
    }
    for (key, value) in &step.config.env {
        config
            .env
            .retain(|line| line.split_once('=').is_none_or(|(known, _)| known != key));
        config.env.push(format!("{key}={value}"));
    }
    let options = CommitOptions {
        exclude: NOT_PART.iter().map(PathBuf::from).collect(),
        ..CommitOptions::default()
    };
    host.images
        .commit_layer(Some(base), upper, config, &options)
        .map_err(failed)
}

/// Copies a directory or file for `user`; links are copied as links.
fn copy(from: &Path, to: &Path, user: &runtime::User) -> std::io::Result<()> {
    let own = |path: &Path| std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid));
    let meta = fs::symlink_metadata(from)?;
    if let Some(parent) = to.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    if meta.is_dir() {
        if !to.is_dir() {
            fs::create_dir(to)?;
        }
        fs::set_permissions(to, meta.permissions())?;
        own(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()), user)?;
        }
        return Ok(());
    }
    if meta.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
    } else if meta.is_file() {
        fs::copy(from, to)?;
    }
    own(to)
}
