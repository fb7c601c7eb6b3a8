//! Processor time of the proxy per request: small answers, 64 connections kept alive, saturated.
//!
//! All three proxies stand before the same instance, run on the same one core, and write no access log; load and
//! instance have the other core. What counts is user and system time of the proxy's processes over the requests
//! answered: not affected by how fast the load generator is.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use journeys::process::{self, Process};
use journeys::{Application, ENVIRONMENT, PATIENCE, Stoa, http, until};

use super::{Figure, Pairs, Rounds, noise};

const GOAL: f64 = 1.1;
const SECONDS: &str = "4";
const CONNECTIONS: &str = "64";
const PROXY_CORE: &str = "0";
const OTHER_CORE: &str = "1";
const HOST: &str = "backend.localhost";
/// Processor time is told in ticks of this length.
const TICKS_PER_SECOND: f64 = 100.0;

pub fn run(rounds: Rounds) -> Result<Vec<Figure>> {
    let stoa = Stoa::start("bench-edge")?;
    let app = Application::copy("backend", stoa.root())?;
    stoa.deploy(&app)?.ok()?;
    let backend = address(&stoa)?;
    pin(&backend_processes()?, OTHER_CORE)?;
    let edge = stoa.part("edge")?;
    pin(std::slice::from_ref(&edge), PROXY_CORE)?;
    let nginx = Proxy::nginx(stoa.root(), backend)?;
    let haproxy = Proxy::haproxy(stoa.root(), backend)?;
    let (mut to_nginx, mut to_haproxy) = (Pairs::default(), Pairs::default());
    noise::quiet_rounds(
        rounds,
        |_| {
            let ours = cost(stoa.listeners().http, std::slice::from_ref(&edge))?;
            let nginx = cost(nginx.address, &nginx.processes())?;
            let haproxy = cost(haproxy.address, &haproxy.processes())?;
            Ok((ours, nginx, haproxy))
        },
        |(ours, nginx, haproxy): (f64, f64, f64)| {
            to_nginx.add(ours, nginx);
            to_haproxy.add(ours, haproxy);
        },
    )?;
    drop((nginx, haproxy));
    stoa.finish()?;
    let figure = |peer: &str, pairs| Figure {
        what: "processor time per request".into(),
        peer: peer.into(),
        unit: "us",
        pairs,
        goal: GOAL,
    };
    Ok(vec![figure("nginx", to_nginx), figure("HAProxy", to_haproxy)])
}

/// Where the instance itself listens, which the host can reach.
fn address(stoa: &Stoa) -> Result<SocketAddr> {
    let instances = stoa
        .api()?
        .get(&format!("{ENVIRONMENT}/apps/backend/instances"))?;
    let text = instances["items"][0]["address"]
        .as_str()
        .context("the instance has no address")?;
    let ip: Ipv4Addr = text.parse()?;
    Ok(SocketAddr::from((ip, 8080)))
}

fn backend_processes() -> Result<Vec<Process>> {
    let found: Vec<_> = process::all()
        .into_iter()
        .filter(|p| p.line.contains("backend.conf"))
        .collect();
    let masters: Vec<i32> = found.iter().map(|process| process.pid).collect();
    let workers = masters.iter().flat_map(|pid| process::children(*pid));
    let all: Vec<_> = found.iter().cloned().chain(workers).collect();
    ensure!(!all.is_empty(), "the backend does not run");
    Ok(all)
}

fn pin(processes: &[Process], core: &str) -> Result<()> {
    for process in processes {
        let pid = process.pid.to_string();
        let answer = Command::new("taskset")
            .args(["--all-tasks", "--cpu-list", "--pid", core, &pid])
            .output()?;
        ensure!(
            answer.status.success(),
            "taskset: {}",
            String::from_utf8_lossy(&answer.stderr)
        );
    }
    Ok(())
}

/// Microseconds of processor time for one request.
fn cost(address: SocketAddr, proxies: &[Process]) -> Result<f64> {
    let used = || {
        proxies
            .iter()
            .map(|process| process::ticks(process.pid))
            .sum::<u64>()
    };
    load(address, "1")?;
    let before = used();
    let requests = load(address, SECONDS)?;
    #[allow(clippy::cast_precision_loss, reason = "ticks of one round are small")]
    let seconds = (used() - before) as f64 / TICKS_PER_SECOND;
    Ok(seconds * 1e6 / requests)
}

/// Requests answered; anything but success is an error.
fn load(address: SocketAddr, seconds: &str) -> Result<f64> {
    let url = format!("http://{address}/");
    let answer = Command::new("taskset")
        .args([
            "--cpu-list",
            OTHER_CORE,
            "wrk",
            "--threads",
            "1",
            "--connections",
            CONNECTIONS,
        ])
        .args(["--duration", seconds, "--header", &format!("Host: {HOST}"), &url])
        .output()
        .context("could not run wrk")?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    if !answer.status.success() || text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!("load on {address} had failures:\n{text}");
    }
    let line = text
        .lines()
        .find(|line| line.contains(" requests in "))
        .context("wrk tells no requests")?;
    line.split_whitespace()
        .next()
        .unwrap_or_default()
        .parse()
        .context("wrk tells no number")
}

/// A peer before the same instance.
struct Proxy {
    address: SocketAddr,
    child: Child,
}

impl Proxy {
    fn nginx(root: &Path, backend: SocketAddr) -> Result<Self> {
        let (folder, address) = place(root, "nginx")?;
        let text = format!(
            "daemon off; worker_processes 1; pid {0}/pid; error_log {0}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;\n\
             uwsgi_temp_path {0}/u; scgi_temp_path {0}/s; keepalive_requests 100000000;\n\
             upstream backend {{ server {backend}; keepalive 64; keepalive_requests 100000000; }}\n\
             server {{ listen {address}; location / {{ proxy_pass http://backend; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
             proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; }} }} }}\n",
            folder.display()
        );
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, text)?;
        Self::start(
            address,
            Command::new("nginx")
                .arg("-p")
                .arg(&folder)
                .arg("-c")
                .arg(&configuration),
            &folder,
        )
    }

    fn haproxy(root: &Path, backend: SocketAddr) -> Result<Self> {
        let (folder, address) = place(root, "haproxy")?;
        let text = format!(
            "global\n  nbthread 1\n  maxconn 1024\ndefaults\n  mode http\n  option forwardfor\n  http-reuse always\n\
             \x20 timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             frontend f\n  bind {address}\n  http-request set-header X-Forwarded-Proto http\n  default_backend b\n\
             backend b\n  server s {backend}\n"
        );
        let configuration = folder.join("haproxy.cfg");
        fs::write(&configuration, text)?;
        Self::start(
            address,
            Command::new("haproxy").arg("-db").arg("-f").arg(&configuration),
            &folder,
        )
    }

    fn start(address: SocketAddr, command: &mut Command, folder: &Path) -> Result<Self> {
        let log = fs::File::create(folder.join("output"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let proxy = Self { address, child };
        until("a peer to answer", PATIENCE, || {
            Ok(http::get(address, HOST, "/")
                .ok()
                .filter(|response| response.status == 200))
        })
        .with_context(|| fs::read_to_string(folder.join("output")).unwrap_or_default())?;
        pin(&proxy.processes(), PROXY_CORE)?;
        Ok(proxy)
    }

    fn processes(&self) -> Vec<Process> {
        let pid = self.child.id().cast_signed();
        Process::of(pid)
            .into_iter()
            .chain(process::children(pid))
            .collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for process in self.processes() {
            let _gone = process.signal(15);
        }
        let _reaped = self.child.wait();
    }
}

fn place(root: &Path, name: &str) -> Result<(PathBuf, SocketAddr)> {
    let folder = root.join(name);
    fs::create_dir_all(&folder)?;
    let address = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    Ok((folder, address))
}
