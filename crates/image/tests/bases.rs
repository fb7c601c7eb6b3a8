//! Bases that really work: made here, entered by chroot, asked to do what they are for.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use image::{DebianBase, Images, Root, Toolchain};

/// Lays the layers over one another in a plain directory: what overlay would show.
fn merged(root: &Root, into: &Path) {
    for layer in &root.layers {
        let status = Command::new("cp")
            .arg("-a")
            .arg(layer.join("."))
            .arg(into)
            .status()
            .unwrap();
        assert!(status.success());
    }
}

fn in_root(root: &Path, program: &[&str]) -> String {
    let output = Command::new("/usr/sbin/chroot")
        .arg(root)
        .args(program)
        .env_clear()
        .env("LANG", "C.UTF-8")
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program:?}: {said}");
    said
}

fn size_of(path: &Path) -> u64 {
    let output = Command::new("du").args(["-sk"]).arg(path).output().unwrap();
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

/// Makes a base and hands its root over; prints what it took.
fn with_base(packages: &[&str], check: impl Fn(&Path)) {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let spec = DebianBase::extract("12", packages);
    let begun = Instant::now();
    let id = images
        .create_debian_base(&spec, &|_| {})
        .unwrap_or_else(|cause| panic!("{cause}"));
    let took = begun.elapsed();
    let begun = Instant::now();
    assert_eq!(images.create_debian_base(&spec, &|_| {}).unwrap(), id);
    let cached = begun.elapsed();
    let root = images.root(id).unwrap();
    let stored = images.inspect(id).unwrap().summary.stored_bytes >> 20;
    println!(
        "{packages:?}: {took:?}, cached {cached:?}, {} MiB unpacked, {stored} MiB stored",
        size_of(&root.layers[0])
    );
    let place = home.path().join("root");
    std::fs::create_dir(&place).unwrap();
    merged(&root, &place);
    assert!(in_root(&place, &["/bin/sh", "-c", "id -un && getent passwd app"]).contains("root"));
    assert!(!place.join("etc/apt").exists());
    let bundle = std::fs::read_to_string(place.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    assert!(bundle.matches("BEGIN CERTIFICATE").count() > 100);
    check(&place);
}

#[test]
fn a_python_base_has_tls_a_database_and_compiled_modules() {
    with_base(&["python3", "python3-venv"], |root| {
        let script = "import ssl, sqlite3, zoneinfo, pwd; print(len(ssl.create_default_context().get_ca_certs()), sqlite3.connect(':memory:').execute('select 42').fetchone()[0], zoneinfo.ZoneInfo('Europe/Paris').key, pwd.getpwuid(1000).pw_name)";
        let said = in_root(root, &["python3", "-c", script]);
        let words: Vec<&str> = said.split_whitespace().collect();
        assert!(words[0].parse::<u32>().unwrap() > 100, "{said}");
        assert_eq!(&words[1..], ["42", "Europe/Paris", "app"]);
        let said = in_root(root, &["python3", "-c", "import json; print(json.__cached__)"]);
        assert!(root.join(said.trim().trim_start_matches('/')).exists(), "{said}");
        in_root(root, &["python3", "-m", "venv", "/tmp/venv"]);
        in_root(root, &["/tmp/venv/bin/pip", "--version"]);
    });
}

#[test]
fn a_node_base_runs_npm() {
    with_base(&["nodejs", "npm"], |root| {
        in_root(
            root,
            &[
                "node",
                "-e",
                "require('crypto'); require('https'); console.log(process.version)",
            ],
        );
        std::fs::create_dir(root.join("work")).unwrap();
        std::fs::write(
            root.join("work/package.json"),
            r#"{"name":"x","scripts":{"hello":"node -p 40+2"}}"#,
        )
        .unwrap();
        assert!(in_root(root, &["npm", "--prefix", "/work", "run", "hello"]).contains("42"));
    });
}

#[test]
fn a_postgresql_base_makes_and_starts_a_cluster() {
    with_base(&["postgresql-15"], |root| {
        let as_postgres = |program: &[&str]| {
            let output = Command::new("/usr/sbin/chroot")
                .arg("--userspec=postgres:postgres")
                .arg(root)
                .args(program)
                .env_clear()
                .env("PATH", "/usr/lib/postgresql/15/bin:/usr/bin:/bin")
                .env("LANG", "C.UTF-8")
                .output()
                .unwrap();
            let said = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(output.status.success(), "{said}");
            said
        };
        // Shared memory and random numbers need devices; a chroot has none of its own.
        std::fs::create_dir(root.join("dev/shm")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        std::fs::set_permissions(root.join("dev/shm"), mode).unwrap();
        let device = |name: &str, minor| {
            let place = root.join("dev").join(name);
            let (kind, mode) = (
                rustix::fs::FileType::CharacterDevice,
                rustix::fs::Mode::from(0o666),
            );
            rustix::fs::mknodat(rustix::fs::CWD, &place, kind, mode, rustix::fs::makedev(1, minor)).unwrap();
            std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        };
        device("null", 3);
        device("urandom", 9);
        as_postgres(&[
            "initdb",
            "-D",
            "/var/lib/postgresql/data",
            "--locale=C.UTF-8",
            "-E",
            "UTF8",
        ]);
        let time = as_postgres(&[
            "postgres",
            "-D",
            "/var/lib/postgresql/data",
            "-C",
            "timezone",
            "-c",
            "timezone=Europe/Paris",
        ]);
        assert!(time.contains("Europe/Paris"), "{time}");
    });
}

#[test]
fn a_wrong_package_says_so_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let spec = DebianBase::extract("12", &["no-such-package-anywhere"]);
    let failure = images.create_debian_base(&spec, &|_| {}).unwrap_err();
    assert!(
        failure.to_string().contains("no-such-package-anywhere"),
        "{failure}"
    );
    assert!(!failure.next().is_empty());
    assert_eq!(
        std::fs::read_dir(home.path().join("store/tmp")).unwrap().count(),
        0
    );
    assert!(images.list().is_empty());
}

#[test]
fn the_host_image_shows_usr_and_named_toolchains_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let toolchain = home.path().join("rust");
    std::fs::create_dir(&toolchain).unwrap();
    let toolchains = [Toolchain {
        name: "rust".into(),
        path: toolchain.clone(),
    }];
    let id = images.host_image(&toolchains).unwrap();
    assert_eq!(images.host_image(&toolchains).unwrap(), id);
    let plain = images.host_image(&[]).unwrap();
    assert_ne!(plain, id);
    assert_eq!(images.resolve("host").unwrap(), plain);
    let root = images.root(id).unwrap();
    let binds: Vec<_> = root
        .binds
        .iter()
        .map(|bind| (bind.source.as_path(), bind.target.to_str().unwrap()))
        .collect();
    assert_eq!(
        binds,
        [
            (Path::new("/usr"), "/usr"),
            (toolchain.as_path(), "/opt/toolchains/rust")
        ]
    );
    let base = &root.layers[0];
    println!("host base: {} MiB", size_of(base));
    assert!(
        base.join("bin").is_symlink()
            && base.join("lib").is_symlink()
            && base.join("etc/ld.so.cache").exists()
    );
    let passwd = std::fs::read_to_string(base.join("etc/passwd")).unwrap();
    assert!(passwd.lines().count() < 8);
    for secret in [
        "etc/shadow",
        "etc/ssl/private",
        "etc/ssh",
        "root/.ssh",
        "home/root",
    ] {
        assert!(!base.join(secret).exists(), "{secret}");
    }
    assert!(
        images
            .host_image(&[Toolchain {
                name: "all".into(),
                path: "/".into()
            }])
            .is_err()
    );
    assert!(
        images
            .host_image(&[Toolchain {
                name: "../x".into(),
                path: toolchain
            }])
            .is_err()
    );
    // A child keeps the binds; an import of the same content elsewhere gets none.
    let upper = home.path().join("upper");
    std::fs::create_dir(&upper).unwrap();
    std::fs::write(upper.join("app"), "x").unwrap();
    let child = images
        .commit_layer(
            Some(id),
            &upper,
            image::ImageConfig::default(),
            &image::CommitOptions::default(),
        )
        .unwrap();
    assert_eq!(images.root(child).unwrap().binds, root.binds);
    let archive = home.path().join("out.tar");
    images.export_oci(child, &archive).unwrap();
    let others = Images::open(&home.path().join("other")).unwrap();
    let copy = others
        .import_archive(image::Archive::Path(&archive), "copy", &|_| {})
        .unwrap();
    assert!(others.root(copy).unwrap().binds.is_empty());
}
