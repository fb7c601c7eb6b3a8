//! The Debian packages that building, testing and measuring Stoa need, in one list.
//!
//! Lives here: the list, and installing what is missing. Does not live here: what Stoa itself needs of a host
//! (`stoa doctor` tells that).

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::step::Step;

/// Name and reason.
const PACKAGES: &[(&str, &str)] = &[
    ("btrfs-progs", "storage pool tests"),
    ("build-essential", "linking Rust; compiling SQLite, zstd and ring"),
    (
        "busybox-static",
        "what runs in the instances of the runtime's tests",
    ),
    ("ca-certificates", "builds that fetch packages"),
    ("curl", "the first request in the documents"),
    ("docker-compose", "judge of what stoa export --compose writes"),
    ("docker-registry", "a real registry to pull from, on loopback"),
    (
        "docker.io",
        "peer of the benches: dockerd, containerd and its shim",
    ),
    ("etcd-server", "peer of the api bench"),
    ("fish", "judge of its completion script"),
    ("git", "the repository itself"),
    ("groff-base", "judge of the man pages"),
    ("haproxy", "peer of the edge bench"),
    ("iproute2", "journeys look at networks from outside"),
    ("mmdebstrap", "Debian base images"),
    ("nftables", "private networks"),
    ("nginx-light", "peer of the edge bench"),
    ("nodejs", "Node applications on the host image"),
    ("npm", "Node applications on the host image"),
    ("pgbackrest", "peer of the restore and drill benches"),
    (
        "postgresql-15",
        "managed PostgreSQL, and the peer of the db bench",
    ),
    ("procps", "journeys look at processes from outside"),
    (
        "python3-jsonschema",
        "the JSON Schema of stoa.toml, judged by a validator that is not ours",
    ),
    ("python3-venv", "Python applications on the host image"),
    ("skopeo", "pushing test images into the registry"),
    ("strace", "proof that a seccomp filter is in force"),
    ("wrk", "load of the edge bench"),
    ("xfsprogs", "storage pools that can clone"),
    ("zsh", "judge of its completion script"),
];

/// Installs what is missing; says nothing long when nothing is.
///
/// # Errors
/// When apt fails, or something is missing and we are not root.
pub fn install() -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        println!("packages: all {} are installed", PACKAGES.len());
        return Ok(());
    }
    println!("packages: {} to install: {}", missing.len(), missing.join(" "));
    let root = Command::new("id")
        .arg("-u")
        .output()
        .context("could not run id")?
        .stdout
        == b"0\n";
    if !root {
        bail!(
            "installing packages needs root; run: apt-get install {}",
            missing.join(" ")
        );
    }
    Step::new("apt-update", "apt-get").args(["update", "-q"]).run()?;
    // Services of packages must not start here: the benches and tests start what they need themselves.
    let policy = NoServices::put()?;
    let outcome = Step::new("apt-install", "apt-get")
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .args(missing.iter().copied())
        .env("DEBIAN_FRONTEND", "noninteractive")
        .run();
    drop(policy);
    outcome.map(|_| ())
}

fn missing() -> Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    for (name, _reason) in PACKAGES {
        let answer = Command::new("dpkg-query")
            .args(["--show", "--showformat=${db:Status-Status}", name])
            .output()
            .context("could not run dpkg-query; the commands of this repository expect Debian")?;
        if answer.stdout != b"installed" && !provided(name) {
            missing.push(*name);
        }
    }
    Ok(missing)
}

/// Node is often installed from elsewhere than Debian; what counts is that it answers.
fn provided(name: &str) -> bool {
    let program = match name {
        "nodejs" => "node",
        "npm" => "npm",
        _ => return false,
    };
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|answer| answer.status.success())
}

/// While it lives, `invoke-rc.d` starts nothing. Removed on drop; an existing policy of the host is left alone.
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn put() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        if std::path::Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        std::fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .with_context(|| format!("could not write {POLICY}"))?;
        std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _gone = std::fs::remove_file(POLICY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_each_has_a_reason() {
        assert!(PACKAGES.is_sorted_by_key(|(name, _)| *name));
        assert!(PACKAGES.iter().all(|(_, reason)| !reason.is_empty()));
    }
}
