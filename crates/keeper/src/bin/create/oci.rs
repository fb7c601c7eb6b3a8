//! The OCI runtime configuration of an instance.
//!
//! Lives here: one function from our specification to `config.json`.
//! Does not live here: what libcontainer makes of it.
//! Invariant: no network and no cgroup section: the helper is in the right network namespace already, and limits are
//! ours. Capabilities come from `confine`.

use std::path::Path;

use keeper::spec::{ContainerSpec, ID_RANGE, Tier};
use serde_json::{Value, json};

use crate::{confine, mounts};

/// Gone or empty inside: host facts and switches that no program needs.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kpagecount",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
];
/// Readable, never writable.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The configuration. `own_cgroup`: whether we are in the instance's group already, so that a cgroup namespace makes sense.
pub fn config(spec: &ContainerSpec, own_cgroup: bool) -> Value {
    let capabilities = confine::capability_names();
    let mapping = json!([{ "containerID": 0, "hostID": spec.uid_base, "size": ID_RANGE }]);
    let mut namespaces = vec!["user", "pid", "ipc", "uts", "mount"];
    if own_cgroup {
        namespaces.push("cgroup");
    }
    let namespaces: Vec<Value> = namespaces.iter().map(|kind| json!({ "type": kind })).collect();
    json!({
        "ociVersion": "1.0.2",
        "hostname": spec.hostname,
        "root": { "path": mounts::ROOT, "readonly": spec.tier == Tier::Hardened },
        "process": {
            "terminal": false,
            "user": { "uid": spec.user.uid, "gid": spec.user.gid, "additionalGids": spec.user.groups },
            "args": spec.argv,
            "env": environment(spec),
            "cwd": spec.cwd,
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
                "inheritable": [],
                "ambient": [],
            },
        },
        "mounts": all_mounts(spec),
        "linux": {
            "uidMappings": mapping,
            "gidMappings": mapping,
            "namespaces": namespaces,
            "cgroupsPath": "/stoa",
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    })
}

fn environment(spec: &ContainerSpec) -> Vec<String> {
    let mut env: Vec<String> = spec
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if !spec.env.iter().any(|(name, _)| name == "PATH") {
        env.push(format!("PATH={}", confine::DEFAULT_PATH));
    }
    env
}

fn all_mounts(spec: &ContainerSpec) -> Vec<Value> {
    let tmpfs = |target: &str, options: &[&str]| json!({ "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options });
    let shm = format!("size={}", spec.shm_bytes);
    let mut list = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        tmpfs("/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        json!({
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        }),
        tmpfs("/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
        json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] }),
        // sysfs belongs to the network namespace's owner, which is not this container: an empty directory instead.
        tmpfs(
            "/sys",
            &["nosuid", "noexec", "nodev", "ro", "mode=755", "size=4k"],
        ),
    ];
    if let Some(bytes) = spec.tmp_bytes {
        list.push(tmpfs(
            "/tmp",
            &["nosuid", "nodev", "mode=1777", &format!("size={bytes}")],
        ));
    }
    let bind = |source: &Path, target: &Path, options: &[&str]| json!({ "destination": target, "type": "bind", "source": source, "options": options });
    for (index, volume) in spec.mounts.iter().enumerate() {
        let access = if volume.read_only { "ro" } else { "rw" };
        list.push(bind(
            &mounts::volume(index),
            &volume.target,
            &["bind", "nosuid", "nodev", access],
        ));
    }
    for (index, file) in spec.files.iter().enumerate() {
        let source = Path::new(mounts::FILES).join(index.to_string());
        list.push(bind(&source, &file.path, &["bind", "nosuid", "nodev", "rw"]));
    }
    if !spec.secrets.is_empty() {
        let options = ["bind", "nosuid", "nodev", "noexec", "ro"];
        list.push(bind(
            Path::new(mounts::SECRETS),
            Path::new("/run/secrets"),
            &options,
        ));
    }
    list
}
