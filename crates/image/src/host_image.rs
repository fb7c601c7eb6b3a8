//! The `host` image: the toolchains of this machine, and nothing else of it.
//!
//! Lives here: the synthesised base, and which directories of the host are mounted over it.
//! Does not live here: mounting (`runtime`).
//! Invariant: of the host only `/usr` and directories its operator names are visible, read-only. `/etc`, `/home`, `/root`
//! and `/var` of the host are not; of `/etc` a fixed list of world-readable files is copied.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::commit::StoredLayer;
use crate::digest::ImageId;
use crate::error::{Doing, ImageError, Result};
use crate::layers::set_open_mode;
use crate::names::{Bind, Origin, check_name};
use crate::oci::ImageConfig;
use crate::pack::{Shape, Times};
use crate::store::Images;
use crate::tree::Tree;

/// The name of the image.
const NAME: &str = "host";
/// Where an operator's toolchains appear.
const TOOLCHAINS: &str = "opt/toolchains";
/// Configuration that toolchains read: how libraries are found, names of services and types, TLS, Java.
const FILES: [&str; 9] = [
    "etc/ld.so.cache",
    "etc/ld.so.conf",
    "etc/services",
    "etc/protocols",
    "etc/mime.types",
    "etc/debian_version",
    "etc/ssl/openssl.cnf",
    "etc/ssl/certs/ca-certificates.crt",
    "etc/inputrc",
];
/// Directories of which the plain files and links are taken, not what lies deeper.
const DIRECTORIES: [&str; 4] = [
    "etc/alternatives",
    "etc/ld.so.conf.d",
    "etc/ssl/certs",
    "etc/python3.11",
];
/// Certificates and links are small; anything larger in those directories is not what we look for.
const FILE_LIMIT: u64 = 1 << 20;

/// A directory outside `/usr` that the operator wants to be seen, such as a Rust installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// Appears at `/opt/toolchains/NAME`.
    pub name: String,
    /// Directory on the host.
    pub path: PathBuf,
}

impl Images {
    /// The image of this host's toolchains; the same host gives the same image.
    pub fn host_image(&self, toolchains: &[Toolchain]) -> Result<ImageId> {
        let _alone = self.store.alone_with(NAME.into());
        let place = self.store.temporary_directory()?;
        set_open_mode(&place.path)?;
        let tree = Tree::open(&place.path)?;
        synthesise(&tree)?;
        let mut binds = vec![Bind {
            source: "/usr".into(),
            target: "/usr".into(),
        }];
        for toolchain in toolchains {
            binds.push(toolchain_bind(&tree, toolchain)?);
        }
        // One time for all: the same content is the same image, however often it is made.
        let shape = Shape {
            times: Times::Set(0),
            ..Shape::default()
        };
        let layer = self.store.layer_from_tree(&place.path, &shape)?;
        let config = ImageConfig {
            env: vec![
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
                "LANG=C.UTF-8".into(),
            ],
            cmd: vec!["/bin/sh".into()],
            ..ImageConfig::default()
        };
        let notes = BTreeMap::from([("toolchains".to_owned(), "the /usr of this host".to_owned())]);
        let id = self.store.compose(
            None,
            layer.iter().map(StoredLayer::parts),
            config,
            Origin::Host,
            binds,
            notes,
        )?;
        self.tag(NAME, id)?;
        Ok(id)
    }
}

fn toolchain_bind(tree: &Tree, toolchain: &Toolchain) -> Result<Bind> {
    check_name(&toolchain.name)?;
    let refuse = |why: &str| {
        Err(ImageError::refused(
            format!("toolchain {:?}", toolchain.name),
            why,
        ))
    };
    if toolchain.name.contains(['/', ':', '@']) {
        return refuse("its name is one word");
    }
    let source = fs::canonicalize(&toolchain.path).doing("find", &toolchain.path)?;
    if !source.is_dir() || source.components().count() < 2 {
        return refuse("it is no directory below /");
    }
    let target = format!("{TOOLCHAINS}/{}", toolchain.name);
    tree.directory(&target, None)?;
    Ok(Bind {
        source,
        target: Path::new("/").join(target),
    })
}

fn synthesise(tree: &Tree) -> Result<()> {
    for (path, mode) in [
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("root", 0o700),
        ("home/app", 0o755),
    ] {
        tree.directory(path, Some(mode))?;
    }
    tree.own("home/app", 1000)?;
    for path in [
        "usr",
        "proc",
        "sys",
        "dev",
        "run",
        "opt",
        "srv",
        "mnt",
        "etc",
        "var/lib",
        "var/cache",
        "var/log",
    ] {
        tree.directory(path, None)?;
    }
    tree.link("var/run", "/run")?;
    for link in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        // As the host has them: links into /usr, or not at all.
        if let Ok(target) = fs::read_link(Path::new("/").join(link)) {
            tree.link(link, &target.to_string_lossy())?;
        }
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\n\
        daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
        www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
        app:x:1000:1000::/home/app:/bin/sh\n\
        nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
    let group =
        "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nusers:x:100:\napp:x:1000:\nnogroup:x:65534:\n";
    let files = [
        ("etc/passwd", passwd),
        ("etc/group", group),
        (
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
        ),
        ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        ("etc/hostname", "localhost\n"),
        ("etc/resolv.conf", ""),
        ("etc/timezone", "Etc/UTC\n"),
    ];
    for (path, content) in files {
        tree.write(path, 0o644, content.as_bytes())?;
    }
    tree.link("etc/localtime", "/usr/share/zoneinfo/Etc/UTC")?;
    tree.link("etc/os-release", "../usr/lib/os-release")?;
    tree.link("etc/mtab", "/proc/mounts")?;
    for file in FILES {
        tree.copy_in(&Path::new("/").join(file), file, 0o644)?;
    }
    for directory in DIRECTORIES {
        copy_flat(tree, directory)?;
    }
    Ok(())
}

/// The links and small world-readable files of a directory of the host.
fn copy_flat(tree: &Tree, directory: &str) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let from = Path::new("/").join(directory);
    let Ok(entries) = fs::read_dir(&from) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry.doing("read", &from)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let target = format!("{directory}/{name}");
        let found = fs::symlink_metadata(entry.path()).doing("read", entry.path())?;
        if found.is_symlink() {
            let link = fs::read_link(entry.path()).doing("read", entry.path())?;
            tree.link(&target, &link.to_string_lossy())?;
        } else if found.is_file() && found.len() <= FILE_LIMIT && found.mode() & 0o004 != 0 {
            tree.copy_in(&entry.path(), &target, 0o644)?;
        }
    }
    Ok(())
}
