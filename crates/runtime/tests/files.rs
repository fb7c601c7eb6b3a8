//! What an instance sees of files, and whose they are on disk.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use common::Bed;
use runtime::{ContainerSpec, Mount, Owner, Secret, SmallFile, User};

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let meta = fs::symlink_metadata(path.as_ref()).unwrap();
    (meta.uid(), meta.gid())
}

#[test]
fn owners_on_disk_are_container_ids() {
    let bed = Bed::new("owners");
    let volume = bed.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("given"), "x").unwrap();
    std::os::unix::fs::chown(volume.join("given"), Some(1000), Some(1000)).unwrap();
    let script = "stat -c '%u %g' /data/given /bin /home/app; echo r > /data/root; echo u > /data/user; chown 1000:1000 /data/user; \
                  echo w > /written; chown 33 /bin/busybox; rm /etc/group; mkdir -p /home/app/sub; chown app /home/app/sub";
    let mounts = vec![Mount {
        source: volume.clone(),
        target: "/data".into(),
        read_only: false,
        owner: Owner::Instance,
    }];
    let spec = ContainerSpec {
        mounts,
        ..bed.spec("a", script)
    };
    let (exit, lines) = bed.run(&spec);
    assert_eq!(
        (exit.code, lines),
        (0, ["1000 1000", "0 0", "1000 1000"].map(str::to_owned).to_vec())
    );
    assert_eq!(
        (owner(volume.join("root")), owner(volume.join("user"))),
        ((0, 0), (1000, 1000))
    );
    let upper = spec.writable.join("upper");
    assert_eq!(
        (owner(upper.join("written")), owner(upper.join("home/app/sub"))),
        ((0, 0), (1000, 0))
    );
    assert_eq!(owner(upper.join("bin/busybox")).0, 33);
    // The layer is untouched.
    assert_eq!(owner(bed.path("layer/bin/busybox")), (0, 0));
    assert!(bed.path("layer/etc/group").exists() && !bed.path("layer/written").exists());
    // The same writable directory goes on in the next life.
    let again = ContainerSpec {
        writable: spec.writable.clone(),
        ..bed.spec("b", "cat /written; ls /etc")
    };
    assert_eq!(bed.run(&again).1, ["w", "passwd"]);
}

/// The host's own directories: the owner shows as nobody and root inside reads no more than any user of the host. As
/// the instance's own, the same directory lies open: the control.
#[test]
fn root_inside_does_not_read_what_only_the_hosts_root_may() {
    let bed = Bed::new("foreign");
    let host = bed.path("host");
    fs::create_dir_all(host.join("closed")).unwrap();
    for (file, mode) in [
        ("open.conf", 0o644),
        ("secret.conf", 0o600),
        ("closed/inner", 0o644),
    ] {
        fs::write(host.join(file), file).unwrap();
        fs::set_permissions(host.join(file), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(&host, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(host.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let script = "id -u; for f in open.conf secret.conf closed/inner; do cat /host/$f 2>/dev/null || echo -n no; echo; done; stat -c %u /host";
    for (id, owner, expected) in [
        ("a", Owner::Host, ["0", "open.conf", "no", "no", "65534"]),
        (
            "b",
            Owner::Instance,
            ["0", "open.conf", "secret.conf", "closed/inner", "0"],
        ),
    ] {
        let mount = Mount {
            source: host.clone(),
            target: "/host".into(),
            read_only: true,
            owner,
        };
        let spec = ContainerSpec {
            mounts: vec![mount],
            ..bed.spec(id, script)
        };
        let (exit, lines) = bed.run(&spec);
        assert_eq!(
            (exit.code, lines),
            (0, expected.map(str::to_owned).to_vec()),
            "{owner:?}"
        );
    }
}

#[test]
fn layers_stack_and_volumes_obey_read_only() {
    let bed = Bed::new("layers");
    for (layer, text) in [("l1", "one"), ("l2", "two")] {
        fs::create_dir_all(bed.path(layer).join("etc")).unwrap();
        fs::write(bed.path(layer).join("etc/which"), text).unwrap();
        fs::write(bed.path(layer).join("etc").join(layer), text).unwrap();
    }
    fs::write(bed.path("single"), "file\n").unwrap();
    fs::create_dir(bed.path("ro")).unwrap();
    let mount = |source: PathBuf, target: &str, read_only| Mount {
        source,
        target: target.into(),
        read_only,
        owner: Owner::Instance,
    };
    let spec = ContainerSpec {
        layers: vec![bed.path("layer"), bed.path("l1"), bed.path("l2")],
        mounts: vec![
            mount(bed.path("ro"), "/deep/er/ro", true),
            mount(bed.path("single"), "/etc/single", true),
        ],
        ..bed.spec(
            "a",
            "cat /etc/which; echo; ls /etc; cat /etc/single; echo x > /deep/er/ro/x; echo x > /etc/single",
        )
    };
    let (exit, lines) = bed.run(&spec);
    assert_eq!(
        lines[..6],
        ["two", "group", "l1", "l2", "passwd", "single"].map(str::to_owned),
        "{lines:?}"
    );
    assert_eq!(
        lines.iter().filter(|l| l.contains("Read-only")).count(),
        2,
        "{lines:?}"
    );
    assert_eq!(exit.code, 1);
}

#[test]
fn synthesised_files_appear_without_touching_the_image() {
    let bed = Bed::new("synth");
    let file = |path: &str, text: &str| SmallFile {
        path: path.into(),
        contents: text.into(),
        mode: 0o644,
    };
    let spec = ContainerSpec {
        files: vec![file("/etc/hosts", "127.0.0.1 localhost\n"), file("/etc/passwd", "root:x:0:0::/:\n")],
        ..bed.spec("a", "cat /etc/hosts /etc/passwd; stat -c '%u %a' /etc/hosts; echo more >> /etc/hosts && wc -l < /etc/hosts")
    };
    let (_, lines) = bed.run(&spec);
    assert_eq!(lines, ["127.0.0.1 localhost", "root:x:0:0::/:", "0 644", "2"]);
    assert!(!bed.path("layer/etc/hosts").exists());
    assert!(
        fs::read_to_string(bed.path("layer/etc/passwd"))
            .unwrap()
            .contains("app")
    );
}

#[test]
fn secrets_and_environment_never_touch_a_disk() {
    let bed = Bed::new("secrets");
    let secret = format!("tulip-{}-needle", std::process::id());
    let mut spec = bed.spec("a", "cat /run/secrets/key; stat -c '%u %a' /run/secrets/key; echo x > /run/secrets/new; echo up; sleep 1000");
    spec.user = User {
        uid: 1000,
        gid: 1000,
        groups: vec![],
    };
    spec.secrets = vec![Secret {
        name: "key".to_owned(),
        bytes: secret.clone().into_bytes(),
        mode: 0o400,
    }];
    spec.env.push(("TOKEN".to_owned(), secret.clone()));
    let shown = format!("{spec:?}");
    assert!(
        !shown.contains("tulip") && !shown.contains("116, 117") && shown.contains("TOKEN"),
        "{shown}"
    );
    bed.runtime.start(&spec).unwrap();
    bed.wait_line("a", "up");
    let lines = bed.lines("a");
    assert!(
        lines[0].starts_with(&secret) && lines.iter().any(|l| l.contains("1000 400")),
        "{lines:?}"
    );
    assert!(lines.iter().any(|l| l.contains("Read-only")), "{lines:?}");
    fs::remove_dir_all(bed.path("log")).unwrap();
    let found = files_containing(bed.dir.path(), secret.as_bytes());
    assert!(found.is_empty(), "{found:?}");
    // The control: the search finds what is there.
    fs::write(bed.path("control"), &secret).unwrap();
    assert_eq!(files_containing(bed.dir.path(), secret.as_bytes()).len(), 1);
    fs::remove_file(bed.path("control")).unwrap();
    // The host sees no mount of it, and a stranger's name is refused.
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains("secrets tmpfs")
    );
    let mut bad = bed.spec("b", "true");
    bad.secrets = vec![Secret {
        name: "../x".to_owned(),
        bytes: vec![],
        mode: 0o400,
    }];
    assert!(bed.runtime.start(&bad).is_err());
}

fn files_containing(dir: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_containing(&entry.path(), needle));
        } else if kind.is_file()
            && fs::read(entry.path())
                .unwrap()
                .windows(needle.len())
                .any(|w| w == needle)
        {
            found.push(entry.path());
        }
    }
    found
}

/// N67 in the small: a layer whose mount targets are symlinks pointing outside.
#[test]
fn mount_targets_that_are_links_stay_inside() {
    let bed = Bed::new("links");
    let outside = bed.path("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, bed.path("layer/data")).unwrap();
    symlink(
        "../../../../../../..".to_owned() + outside.to_str().unwrap(),
        bed.path("layer/up"),
    )
    .unwrap();
    fs::create_dir(bed.path("volume")).unwrap();
    let mount = |target: &str| Mount {
        source: bed.path("volume"),
        target: target.into(),
        read_only: false,
        owner: Owner::Instance,
    };
    let file = SmallFile {
        path: "/data/hosts".into(),
        contents: b"x".to_vec(),
        mode: 0o644,
    };
    let script = "echo a > /data/one; echo b > /up/two; ls /data /up";
    for (id, target) in [
        ("a", "/data"),
        ("b", "/up"),
        ("c", "/data/deeper"),
        ("d", "/up/deeper"),
    ] {
        let spec = ContainerSpec {
            mounts: vec![mount(target)],
            files: vec![file.clone()],
            ..bed.spec(id, script)
        };
        // Inside the container such a link leads to nowhere or to a directory of the container: either is fine.
        if bed.runtime.start(&spec).is_ok() {
            bed.wait(id);
        }
        bed.runtime.remove(id).unwrap();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{target}");
    }
}
