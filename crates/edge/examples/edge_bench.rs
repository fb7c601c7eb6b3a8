//! A stand-alone edge with a fixed table, to be measured beside other proxies.
//!
//! `edge_bench LISTEN TARGET[,TARGET...] [--threads N] [--routes N] [--tls] [--dir DIR]`
//!
//! Every host `hN.example` (N below the number of routes) and `localhost` lead to the targets. Prints `ready PID` when it
//! serves, and runs until SIGTERM.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use edge::table::{Route, Service, Table, Target, VERSION};
use edge::{Listener, Options, Scheme};

struct Wanted {
    listen: SocketAddr,
    targets: Vec<SocketAddr>,
    threads: usize,
    routes: usize,
    scheme: Scheme,
    dir: PathBuf,
}

fn main() -> Result<()> {
    let wanted = read_arguments()?;
    std::fs::create_dir_all(&wanted.dir)?;
    // The table is found where an edge finds its last good one.
    let state_dir = wanted.dir.join("state");
    std::fs::create_dir_all(&state_dir)?;
    std::fs::write(
        state_dir.join("routes.json"),
        serde_json::to_vec(&table(&wanted))?,
    )?;
    let socket =
        TcpListener::bind(wanted.listen).with_context(|| format!("cannot listen on {}", wanted.listen))?;
    let listener = Listener {
        name: "bench".to_owned(),
        socket,
        scheme: wanted.scheme,
    };
    let mut options = Options::new(vec![listener], wanted.dir.join("edge.sock"), state_dir);
    options.threads = Some(wanted.threads);
    options.policy.target_nets = vec!["0.0.0.0/0".parse()?, "::/0".parse()?];
    println!("ready {}", std::process::id());
    edge::run(options)?;
    Ok(())
}

fn read_arguments() -> Result<Wanted> {
    let mut args = std::env::args().skip(1);
    let usage = "edge_bench LISTEN TARGET[,TARGET...] [--threads N] [--routes N] [--tls] [--dir DIR]";
    let mut wanted = Wanted {
        listen: args.next().context(usage)?.parse()?,
        targets: args
            .next()
            .context(usage)?
            .split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()?,
        threads: 1,
        routes: 1000,
        scheme: Scheme::Http,
        dir: std::env::temp_dir().join(format!("edge-bench-{}", std::process::id())),
    };
    while let Some(option) = args.next() {
        let mut value = || args.next().with_context(|| format!("{option} needs a value"));
        match option.as_str() {
            "--threads" => wanted.threads = value()?.parse()?,
            "--routes" => wanted.routes = value()?.parse()?,
            "--dir" => wanted.dir = value()?.into(),
            "--tls" => wanted.scheme = Scheme::Https,
            other => bail!("{other} is not known; {usage}"),
        }
    }
    Ok(wanted)
}

fn table(wanted: &Wanted) -> Table {
    let route = |host: String| Route {
        host,
        path_prefix: "/".to_owned(),
        strip: false,
        service: "bench".to_owned(),
    };
    let target = |(n, addr): (usize, &SocketAddr)| Target {
        id: format!("t{n}"),
        addr: *addr,
        weight: 100,
        draining: false,
        release: None,
    };
    let hosts = (1..wanted.routes).map(|n| format!("h{n}.example"));
    Table {
        version: VERSION,
        generation: 1,
        routes: hosts.chain(["localhost".to_owned()]).map(route).collect(),
        services: vec![Service {
            id: "bench".to_owned(),
            app: "bench".to_owned(),
            release: "v1".to_owned(),
            targets: wanted.targets.iter().enumerate().map(target).collect(),
            hold_ms: 10_000,
            request_timeout_ms: 60_000,
            idle_timeout_ms: 60_000,
            max_body_bytes: None,
            upgrade_drain_ms: 60_000,
        }],
        certificates: Vec::new(),
    }
}
