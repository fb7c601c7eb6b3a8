//! Docker as a peer: a daemon of our own beside any other, on its own data directory, socket and bridge.
//!
//! Invariant: nothing of it stays. Its packet filter is off, so that it changes no rule of the host (which also
//! makes it faster than at its defaults: the comparison leans its way).

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use journeys::process::{self, Process};
use journeys::{PATIENCE, until};

const BRIDGE: &str = "stoabench0";
/// Taken from the range for benchmarks (RFC 2544), which nobody routes.
const GATEWAY: &str = "198.18.77.1/24";

/// A running daemon.
pub struct Dockerd {
    root: PathBuf,
    daemon: Child,
}

impl Dockerd {
    /// Starts one.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start() -> Result<Self> {
        let root = std::env::temp_dir().join(format!("stoa-bench-docker-{}", std::process::id()));
        fs::create_dir_all(&root)?;
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["address", "add", GATEWAY, "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        let log = fs::File::create(root.join("log"))?;
        let daemon = Command::new("dockerd")
            .args(["--iptables=false", "--ip6tables=false", "--bridge", BRIDGE])
            .arg("--data-root")
            .arg(root.join("data"))
            .arg("--exec-root")
            .arg(root.join("exec"))
            .arg("--pidfile")
            .arg(root.join("pid"))
            .args(["--host", &format!("unix://{}", root.join("socket").display())])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("could not start dockerd")?;
        let docker = Self { root, daemon };
        until("dockerd to answer", PATIENCE, || {
            Ok(docker.run(&["version"]).ok())
        })?;
        Ok(docker)
    }

    /// Runs the client; its output.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let answer = self
            .command()
            .args(arguments)
            .output()
            .context("could not run docker")?;
        if !answer.status.success() {
            bail!(
                "docker {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&answer.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    }

    /// Imports a root file system as an image.
    ///
    /// # Errors
    /// When it fails.
    pub fn import(&self, archive: &Path, name: &str) -> Result<()> {
        self.run(&["import", &archive.to_string_lossy(), name])
            .map(|_| ())
    }

    /// The address the next container on the bridge gets when no other runs.
    pub fn first_address() -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 77, 2)
    }

    /// dockerd and containerd.
    ///
    /// # Errors
    /// When one is missing.
    pub fn daemons(&self) -> Result<Vec<Process>> {
        let pid = self.daemon.id().cast_signed();
        let dockerd = Process::of(pid).context("dockerd has ended")?;
        let mut found = vec![dockerd];
        found.extend(
            process::children(pid)
                .into_iter()
                .filter(|child| child.line.contains("containerd")),
        );
        if found.len() < 2 {
            bail!("containerd is not a child of dockerd: {found:?}");
        }
        Ok(found)
    }

    /// One shim for each container.
    pub fn shims(&self) -> Vec<Process> {
        let exec = self.root.join("exec").to_string_lossy().into_owned();
        process::all()
            .into_iter()
            .filter(|process| process.line.contains("containerd-shim") && process.line.contains(&exec))
            .collect()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.env(
            "DOCKER_HOST",
            format!("unix://{}", self.root.join("socket").display()),
        );
        command
            .env("DOCKER_CONFIG", self.root.join("client"))
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let containers = self.run(&["ps", "--all", "--quiet"]).unwrap_or_default();
        for id in containers.lines() {
            let _gone = self.run(&["rm", "--force", id]);
        }
        if let Some(daemon) = Process::of(self.daemon.id().cast_signed()) {
            let _polite = daemon.signal(15);
        }
        let _reaped = self.daemon.wait();
        for process in process::bearing(&self.root.to_string_lossy()) {
            let _gone = process.signal(9);
        }
        let _gone = ip(&["link", "delete", BRIDGE]);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let root = self.root.to_string_lossy();
        for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if point.starts_with(&*root) {
                let _gone = Command::new("umount").args(["--lazy", point]).status();
            }
        }
        let _gone = fs::remove_dir_all(&self.root);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let answer = Command::new("ip")
        .args(arguments)
        .output()
        .context("could not run ip")?;
    if !answer.status.success() {
        bail!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&answer.stderr).trim()
        );
    }
    Ok(())
}
