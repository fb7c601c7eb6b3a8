//! Everything the container will see of the host, prepared in a private mount namespace.
//!
//! Lives here: idmapped trees, the overlay, secrets, synthesised files, all on one tmpfs at `/mnt`.
//! Does not live here: mounts inside the container (`oci`, done by libcontainer).
//! Invariant: nothing is mounted in the host's namespace; nothing of secrets or environment touches a disk; on-disk
//! owners of layers, writable directory and volumes are container ids; a directory of the host's own is not mapped, or root
//! inside could read what only root may read there.
//!
//! The overlay is mounted with file system ids `uid_base` (all capabilities kept): its credentials are those of the
//! mounter, and host root has no place in the upper directory's id map, so as host root it could not even make its work
//! directory.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use keeper::spec::{ContainerSpec, ID_RANGE, Owner, Secret, SmallFile};
use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    move_mount, open_tree, unmount,
};
use rustix::thread::UnshareFlags;

use crate::failure::{Failure, Stage};
use crate::sys;

/// Our tmpfs. Exists on every Debian; what the operator keeps there is opened before we cover it.
pub const STAGE_DIR: &str = "/mnt";
/// The merged root file system.
pub const ROOT: &str = "/mnt/root";
/// The OCI bundle.
pub const BUNDLE: &str = "/mnt/bundle";
/// libcontainer's state.
pub const STATE: &str = "/mnt/state";
/// The secrets' own tmpfs.
pub const SECRETS: &str = "/mnt/secrets";
/// Synthesised files: `0`, `1`, ...
pub const FILES: &str = "/mnt/files";
/// Volumes: `v0`, `v1`, ...
const VOLUME: &str = "/mnt/v";
/// For config.json and small files: far more than they take, far less than could hurt.
const STAGE_BYTES: u64 = 16 << 20;
/// All secrets of one instance together.
const SECRETS_BYTES: u64 = 4 << 20;

/// Where volume `index` is.
pub fn volume(index: usize) -> PathBuf {
    PathBuf::from(format!("{VOLUME}{index}"))
}

/// Trees of the host, opened by path before anything is covered.
pub struct Trees {
    layers: Vec<OwnedFd>,
    writable: OwnedFd,
    volumes: Vec<(OwnedFd, bool)>,
}

/// Leaves the host's mount namespace.
pub fn isolate() -> Result<(), Failure> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    sys::unshare(UnshareFlags::NEWNS)
        .and_then(|()| Ok(mount_change("/", flags)?))
        .map_err(Failure::with(Stage::Container, "private mount namespace"))
}

/// Opens all trees, with the ids of those that are the instance's own mapped to its range.
pub fn open(spec: &ContainerSpec) -> Result<Trees, Failure> {
    let userns = sys::user_namespace(spec.uid_base, ID_RANGE)
        .map_err(Failure::with(Stage::Container, "user namespace"))?;
    let userns = userns.as_fd();
    if spec.layers.is_empty() {
        return Err(Failure::new(Stage::Layers, "no layers given"));
    }
    let layer = |path: &PathBuf| tree(path, Some(userns), true, Stage::Layers);
    let layers = spec.layers.iter().map(layer).collect::<Result<Vec<_>, _>>()?;
    for part in ["upper", "work"] {
        let dir = spec.writable.join(part);
        fs::create_dir_all(&dir).map_err(Failure::with(Stage::Layers, dir.display().to_string()))?;
    }
    let upper = spec.writable.join("upper");
    fs::set_permissions(&upper, Permissions::from_mode(0o755))
        .map_err(Failure::with(Stage::Layers, upper.display().to_string()))?;
    let writable = tree(&spec.writable, Some(userns), false, Stage::Layers)?;
    let one = |m: &keeper::spec::Mount| {
        let userns = match m.owner {
            Owner::Instance => Some(userns),
            Owner::Host => None,
        };
        Ok((
            tree(&m.source, userns, m.read_only, Stage::Volumes)?,
            is_dir(&m.source),
        ))
    };
    let volumes = spec.mounts.iter().map(one).collect::<Result<Vec<_>, Failure>>()?;
    Ok(Trees {
        layers,
        writable,
        volumes,
    })
}

fn is_dir(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_dir())
}

fn tree(
    path: &Path,
    userns: Option<BorrowedFd<'_>>,
    read_only: bool,
    stage: Stage,
) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags).map_err(Failure::with(stage, path.display().to_string()))?;
    sys::set_mount(tree.as_fd(), userns, read_only).map_err(Failure::with(
        stage,
        format!(
            "{}: this file system cannot show other owners (idmapped mount)",
            path.display()
        ),
    ))?;
    Ok(tree)
}

/// Hides the host's control groups, so that libcontainer leaves them alone: limits are ours (see `create`).
pub fn hide_cgroups() -> Result<(), Failure> {
    let point = "/sys/fs/cgroup";
    let hide = || -> io::Result<()> {
        unmount(point, UnmountFlags::DETACH)?;
        Ok(mount("tmpfs", point, "tmpfs", MountFlags::RDONLY, c"size=4k")?)
    };
    hide().map_err(Failure::with(
        Stage::Limits,
        "hiding control groups from the helper",
    ))
}

/// Puts everything in place below [`STAGE_DIR`].
pub fn arrange(spec: &ContainerSpec, trees: &Trees) -> Result<(), Failure> {
    stage_tmpfs(spec).map_err(Failure::with(Stage::Container, "private tmpfs"))?;
    let count = trees.layers.len();
    for (index, layer) in trees.layers.iter().enumerate() {
        place(layer, &format!("/mnt/l{index}"), true)
            .map_err(Failure::with(Stage::Layers, "placing a layer"))?;
    }
    place(&trees.writable, "/mnt/w", true)
        .map_err(Failure::with(Stage::Layers, "placing the writable directory"))?;
    overlay(spec, count).map_err(|error| {
        let first = spec
            .layers
            .first()
            .map(|l| l.display().to_string())
            .unwrap_or_default();
        Failure::new(
            Stage::Layers,
            format!(
                "overlay of {count} layers ({first}, ...) on {}: {error}",
                spec.writable.display()
            ),
        )
    })?;
    for (index, (tree, directory)) in trees.volumes.iter().enumerate() {
        let point = volume(index);
        place(tree, &point.to_string_lossy(), *directory)
            .map_err(Failure::with(Stage::Volumes, "placing a volume"))?;
    }
    write_secrets(spec).map_err(Failure::with(Stage::Files, "secrets"))?;
    for (index, file) in spec.files.iter().enumerate() {
        write_file(index, file, spec.uid_base)
            .map_err(Failure::with(Stage::Files, file.path.display().to_string()))?;
    }
    Ok(())
}

fn stage_tmpfs(spec: &ContainerSpec) -> io::Result<()> {
    let sizes: usize = spec.files.iter().map(|f| f.contents.len()).sum();
    let options = format!("mode=755,size={}", STAGE_BYTES + sizes as u64);
    mount(
        "stoa",
        STAGE_DIR,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(&*cstring(&options)?),
    )?;
    for dir in [ROOT, BUNDLE, STATE, SECRETS, FILES] {
        fs::create_dir(dir)?;
        // Crossed by the container's root before it pivots; our umask is strict.
        fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn place(tree: &OwnedFd, point: &str, directory: bool) -> io::Result<()> {
    if directory {
        fs::create_dir(point)?;
    } else {
        File::create(point)?;
    }
    Ok(move_mount(
        tree,
        "",
        CWD,
        point,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

fn overlay(spec: &ContainerSpec, layers: usize) -> io::Result<()> {
    // Relative names keep the option string within its page for hundreds of layers.
    std::env::set_current_dir(STAGE_DIR)?;
    let lower: Vec<String> = (0..layers).rev().map(|index| format!("l{index}")).collect();
    let options = cstring(&format!(
        "lowerdir={},upperdir=w/upper,workdir=w/work",
        lower.join(":")
    ))?;
    let mounted = sys::with_fs_ids(spec.uid_base, || {
        Ok(mount(
            "overlay",
            ROOT,
            "overlay",
            MountFlags::NODEV,
            Some(&*options),
        )?)
    });
    std::env::set_current_dir("/")?;
    mounted
}

fn write_secrets(spec: &ContainerSpec) -> io::Result<()> {
    let plain = format!("mode=755,size={SECRETS_BYTES}");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // `noswap` (6.4): without it a secret could reach a swap device.
    let best = cstring(&format!("{plain},noswap"))?;
    if mount("secrets", SECRETS, "tmpfs", flags, Some(&*best)).is_err() {
        mount("secrets", SECRETS, "tmpfs", flags, Some(&*cstring(&plain)?))?;
    }
    let (root, user) = (
        spec.uid_base,
        (spec.uid_base + spec.user.uid, spec.uid_base + spec.user.gid),
    );
    std::os::unix::fs::chown(SECRETS, Some(root), Some(root))?;
    spec.secrets
        .iter()
        .try_for_each(|secret| write_secret(secret, user))
}

fn write_secret(secret: &Secret, owner: (u32, u32)) -> io::Result<()> {
    if secret.name.is_empty() || secret.name.contains('/') || secret.name.starts_with('.') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a secret's name is a plain file name",
        ));
    }
    write(
        &Path::new(SECRETS).join(&secret.name),
        &secret.bytes,
        secret.mode,
        owner,
    )
}

fn write_file(index: usize, file: &SmallFile, owner: u32) -> io::Result<()> {
    write(
        &Path::new(FILES).join(index.to_string()),
        &file.contents,
        file.mode,
        (owner, owner),
    )
}

fn write(path: &Path, contents: &[u8], mode: u32, owner: (u32, u32)) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(contents)?;
    fchown(&file, Some(owner.0), Some(owner.1))?;
    file.set_permissions(Permissions::from_mode(mode & 0o777))
}

fn cstring(text: &str) -> io::Result<std::ffi::CString> {
    Ok(std::ffi::CString::new(text)?)
}
