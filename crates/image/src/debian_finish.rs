//! What an extracted Debian root lacks to work: the things maintainer scripts would have done.
//!
//! Lives here: users, library cache, certificates, alternatives, compiled Python, what a root need not carry.
//! Does not live here: fetching and extracting packages (`debian`).
//! Invariant: nothing of the host's own configuration gets in, except certificates its operator added.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::error::Result;
use crate::progress::Progress;
use crate::tool;
use crate::tree::Tree;

/// Reading some thousand small files on a loaded machine.
const STEP_LIMIT: Duration = Duration::from_secs(300);
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
/// Users whose packages make them in a script: name, id, home, package's sign.
const USERS: [(&str, u32, &str, &str); 4] = [
    ("postgres", 101, "var/lib/postgresql", "usr/lib/postgresql"),
    ("redis", 102, "var/lib/redis", "usr/bin/redis-server"),
    ("valkey", 103, "var/lib/valkey", "usr/bin/valkey-check-rdb"),
    ("app", 1000, "home/app", ""),
];
/// Links that `update-alternatives` would have made.
const ALTERNATIVES: [(&str, &str); 4] = [
    ("usr/bin/awk", "usr/bin/mawk"),
    ("usr/bin/which", "usr/bin/which.debianutils"),
    ("usr/bin/pager", "usr/bin/more"),
    ("usr/bin/js", "usr/bin/node"),
];

/// Certificates the operator added to this host: in its bundle, but not from Debian's package.
pub(crate) fn certificates_only_here() -> Vec<u8> {
    let bundle = std::fs::read_to_string(Path::new("/").join(BUNDLE)).unwrap_or_default();
    let mut packaged = BTreeSet::new();
    let directory = Path::new("/usr/share/ca-certificates/mozilla");
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        packaged.extend(certificates(&text).map(str::to_owned));
    }
    if packaged.is_empty() {
        return Vec::new();
    }
    let added = certificates(&bundle).filter(|certificate| !packaged.contains(*certificate));
    added
        .map(|certificate| format!("{certificate}\n"))
        .collect::<String>()
        .into_bytes()
}

fn certificates(text: &str) -> impl Iterator<Item = &str> {
    const END: &str = "-----END CERTIFICATE-----";
    text.split_inclusive(END).filter_map(|part| {
        let start = part.find("-----BEGIN CERTIFICATE-----")?;
        part.ends_with(END).then(|| &part[start..])
    })
}

/// Makes a fresh root complete, and smaller.
pub(crate) fn finish(
    tree: &Tree,
    is_extract: bool,
    sources: &[String],
    own_certificates: &[u8],
    progress: &dyn Fn(Progress),
) -> Result<()> {
    for (directory, mode) in [
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("root", 0o700),
        ("run", 0o755),
        ("home", 0o755),
    ] {
        tree.directory(directory, Some(mode))?;
    }
    for directory in ["proc", "sys", "dev", "etc", "usr/local/bin", "opt", "srv", "mnt"] {
        tree.directory(directory, None)?;
    }
    tree.empty("dev")?;
    tree.write("etc/hosts", 0o644, b"127.0.0.1 localhost\n::1 localhost\n")?;
    tree.write("etc/resolv.conf", 0o644, b"")?;
    tree.write("etc/hostname", 0o644, b"localhost\n")?;
    for unwanted in [
        "var/lib/apt/lists",
        "var/cache/apt",
        "var/log",
        "usr/share/info",
        "run",
    ] {
        tree.empty(unwanted)?;
    }
    tree.remove("etc/apt/apt.conf.d/99mmdebstrap")?;
    if is_extract {
        users(tree)?;
        names(tree)?;
        alternatives(tree)?;
        slim(tree)?;
    } else {
        let clean: Vec<String> = sources
            .iter()
            .map(|line| crate::apt::without_credentials(line))
            .collect();
        tree.empty("etc/apt/sources.list.d")?;
        tree.write(
            "etc/apt/sources.list",
            0o644,
            format!("{}\n", clean.join("\n")).as_bytes(),
        )?;
    }
    trust(tree, own_certificates)?;
    let mut ldconfig = tool::command("ldconfig");
    ldconfig.arg("-r").arg(tree.path());
    tool::run("ldconfig", ldconfig, STEP_LIMIT, progress)?;
    tree.remove("var/cache/ldconfig")?;
    compile_python(tree, progress)
}

/// `/etc/passwd` and `/etc/group` from Debian's masters, with the users of the packages that are there.
fn users(tree: &Tree) -> Result<()> {
    let mut passwd = String::from_utf8_lossy(
        &tree
            .read("usr/share/base-passwd/passwd.master")?
            .unwrap_or_default(),
    )
    .replace(":/bin/bash", ":/bin/sh");
    let mut group = String::from_utf8_lossy(
        &tree
            .read("usr/share/base-passwd/group.master")?
            .unwrap_or_default(),
    )
    .into_owned();
    for (name, id, home, sign) in USERS {
        if sign.is_empty() || tree.has(sign) {
            passwd.push_str(&format!("{name}:x:{id}:{id}::/{home}:/bin/sh\n"));
            group.push_str(&format!("{name}:x:{id}:\n"));
            tree.directory(home, Some(0o755))?;
            tree.own(home, id)?;
        }
    }
    tree.write("etc/passwd", 0o644, passwd.as_bytes())?;
    tree.write("etc/group", 0o644, group.as_bytes())
}

/// How names are looked up, the zone, and links other packages' scripts would have made.
fn names(tree: &Tree) -> Result<()> {
    let lookup = tree.read("usr/share/libc-bin/nsswitch.conf")?;
    let lookup = lookup
        .unwrap_or_else(|| b"passwd: files\ngroup: files\nhosts: files dns\nservices: files\n".to_vec());
    tree.write("etc/nsswitch.conf", 0o644, &lookup)?;
    tree.link("etc/localtime", "/usr/share/zoneinfo/Etc/UTC")?;
    tree.write("etc/timezone", 0o644, b"Etc/UTC\n")?;
    tree.link("etc/mtab", "/proc/mounts")?;
    for (link, target) in [("var/run", "/run"), ("var/lock", "/run/lock")] {
        tree.link(link, target)?;
    }
    Ok(())
}

fn alternatives(tree: &Tree) -> Result<()> {
    for (link, target) in ALTERNATIVES {
        if tree.has(target) && !tree.has(link) {
            tree.link(link, &format!("/{target}"))?;
        }
    }
    Ok(())
}

/// Manuals, translations and apt's own files; licences stay.
fn slim(tree: &Tree) -> Result<()> {
    for unwanted in [
        "etc/apt",
        "usr/share/man",
        "usr/share/locale",
        "usr/share/lintian",
        "boot",
        "media",
    ] {
        tree.remove(unwanted)?;
    }
    for package in tree.names("usr/share/doc")? {
        for file in tree.names(&format!("usr/share/doc/{package}"))? {
            if file != "copyright" {
                tree.remove(&format!("usr/share/doc/{package}/{file}"))?;
            }
        }
    }
    Ok(())
}

/// One bundle of all certificates, and the name OpenSSL looks for by default.
fn trust(tree: &Tree, own_certificates: &[u8]) -> Result<()> {
    const PACKAGED: &str = "usr/share/ca-certificates/mozilla";
    let mut bundle = Vec::new();
    for name in tree.names(PACKAGED)? {
        bundle.extend(tree.read(&format!("{PACKAGED}/{name}"))?.unwrap_or_default());
        bundle.push(b'\n');
    }
    if bundle.is_empty() {
        return Ok(());
    }
    bundle.extend(own_certificates);
    tree.write(BUNDLE, 0o644, &bundle)?;
    tree.link("usr/lib/ssl/cert.pem", &format!("/{BUNDLE}"))?;
    if !tree.has("usr/lib/ssl/certs") {
        tree.link("usr/lib/ssl/certs", "/etc/ssl/certs")?;
    }
    Ok(())
}

/// Compiled modules beside the sources: else every start of every Python program compiles them anew.
fn compile_python(tree: &Tree, progress: &dyn Fn(Progress)) -> Result<()> {
    if !tree.has("usr/bin/python3") {
        return Ok(());
    }
    let versions = tree
        .names("usr/lib")?
        .into_iter()
        .filter(|name| name.starts_with("python3"));
    let mut compile = tool::command("chroot");
    compile
        .arg(tree.path())
        .args(["/usr/bin/python3", "-I", "-m", "compileall", "-q", "-q"]);
    // The content decides, not the time: times change when a layer is packed.
    compile.args([
        "--invalidation-mode",
        "unchecked-hash",
        "-x",
        "/(test|tests|lib2to3)/",
    ]);
    compile.args(versions.map(|name| format!("/usr/lib/{name}")));
    match tool::run("chroot", compile, STEP_LIMIT, progress) {
        // A module for another version of Python somewhere in a package does not compile, and need not.
        Err(crate::error::ImageError::Tool { .. }) | Ok(()) => Ok(()),
        Err(other) => Err(other),
    }
}
