//! Apps outlive the platform: `kill -9` of control, edge and warden in any order.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use journeys::http::{self, Connection};
use journeys::process::Process;
use journeys::{Application, PATIENCE, Stoa, holds, until};

struct World {
    stoa: Stoa,
    app: Application,
    workloads: BTreeSet<Process>,
}

/// A Stoa with two instances of the probe.
fn world(name: &str) -> Result<World> {
    let stoa = Stoa::start(name)?;
    let app = Application::copy("probe", stoa.root())?;
    app.replace("stoa.toml", "port = 8080", "port = 8080\nscale = 2")?;
    stoa.deploy(&app)?.ok()?;
    let workloads = workloads(&stoa)?;
    Ok(World { stoa, app, workloads })
}

/// The processes of its two instances; those of an earlier release may still be finishing.
fn workloads(stoa: &Stoa) -> Result<BTreeSet<Process>> {
    until("two workloads", PATIENCE, || {
        let found: BTreeSet<Process> = stoa.members("python3 server.py").into_iter().collect();
        Ok(Some(found).filter(|found| found.len() == 2))
    })
}

impl World {
    fn serves(&self) -> Result<()> {
        let response = self.stoa.get(&self.app.host(), "/")?;
        ensure!(
            response.status == 200,
            "status {}: {}",
            response.status,
            response.text()
        );
        Ok(())
    }

    fn workloads_live(&self) -> Result<()> {
        for workload in &self.workloads {
            ensure!(workload.is_alive(), "a workload lost its process: {workload:?}");
        }
        Ok(())
    }

    /// Nothing runs twice: as many instances as before, by what Stoa says and by what is there.
    fn nothing_twice(&self) -> Result<()> {
        holds("two ready instances", || {
            let instances = self.stoa.instances("probe")?;
            let ready = instances
                .iter()
                .filter(|instance| instance["condition"] == "ready")
                .count();
            Ok(ready == 2)
        })?;
        ensure!(self.stoa.keepers().len() >= 2, "keepers are gone");
        self.workloads_live()
    }
}

#[test]
fn control_and_edge_are_back_and_workloads_keep_their_processes() -> Result<()> {
    let world = world("kill-parts")?;
    for role in ["control", "edge", "edge", "control"] {
        let before = world.stoa.part(role)?;
        before.signal(libc::SIGKILL)?;
        if role == "control" {
            // The edge never needs control to serve.
            world.serves()?;
        }
        until("its successor", PATIENCE, || {
            Ok(world
                .stoa
                .part(role)
                .ok()
                .filter(|now| now.pid != before.pid)
                .map(|_| ()))
        })?;
        holds("requests to be served again", || world.serves().map(|()| true))?;
        world.workloads_live()?;
    }
    holds("the API to answer", || Ok(world.stoa.cli(&["status"])?.code == 0))?;
    world.nothing_twice()?;
    // Everything goes on: a deploy works, and the killed parts lost nothing of what was acknowledged.
    world
        .app
        .replace("stoa.toml", "VERSION = \"1\"", "VERSION = \"2\"")?;
    world.stoa.deploy(&world.app)?.ok()?.says("v2")?;
    ensure!(
        world.stoa.get(&world.app.host(), "/")?.text() == "2",
        "v2 does not serve"
    );
    world.stoa.finish()
}

/// While the warden lives its sockets do: connections made while there is no edge wait, none is refused.
#[test]
fn a_dead_edge_refuses_no_connection() -> Result<()> {
    let world = world("kill-edge")?;
    let address = world.stoa.listeners().http;
    let host = world.app.host();
    let edge = world.stoa.part("edge")?;
    let clients: Vec<_> = (0..8_u64)
        .map(|number| {
            let host = host.clone();
            thread::spawn(move || -> Result<(u32, Duration)> {
                let (mut answered, mut longest) = (0, Duration::ZERO);
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_secs(4) {
                    let asked = Instant::now();
                    // Refused fails here; a connection the old edge had taken may end unanswered and is asked again.
                    let mut connection = Connection::open(address).context("refused")?;
                    match connection.get(&host, "/") {
                        Ok(response) => ensure!(
                            response.status == 200,
                            "status {}: {}",
                            response.status,
                            response.text()
                        ),
                        Err(_) => continue,
                    }
                    answered += 1;
                    longest = longest.max(asked.elapsed());
                    thread::sleep(Duration::from_millis(5 + number));
                }
                Ok((answered, longest))
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    edge.signal(libc::SIGKILL)?;
    for client in clients {
        let (answered, longest) = client.join().expect("a client does not panic")?;
        println!("{answered} answered, longest wait {} ms", longest.as_millis());
        ensure!(answered > 10, "a client got only {answered} answers");
    }
    // Back within a second. The best of a few: a busy machine delays some, a wait of ours would delay all.
    let mut back = Vec::new();
    for _ in 0..4 {
        let edge = world.stoa.part("edge")?;
        let killed = Instant::now();
        edge.signal(libc::SIGKILL)?;
        // A connection that the dying one still took ends unanswered.
        holds("an answer", || {
            Ok(http::get(address, &host, "/").is_ok_and(|r| r.status == 200))
        })?;
        back.push(killed.elapsed());
        until("its successor", PATIENCE, || {
            Ok(world
                .stoa
                .part("edge")
                .ok()
                .filter(|now| now.pid != edge.pid)
                .map(|_| ()))
        })?;
    }
    println!("answers again after {back:?}");
    ensure!(
        back.iter().min() <= Some(&Duration::from_secs(1)),
        "the edge is back only after {back:?}"
    );
    world.workloads_live()?;
    world.stoa.finish()
}

#[test]
fn after_the_warden_stoa_up_finds_everything() -> Result<()> {
    let mut world = world("kill-warden")?;
    world
        .stoa
        .cli_in(world.app.folder(), &["env", "set", "KEPT=yes"], b"")?
        .ok()?;
    let before: BTreeSet<String> = releases(&world.stoa)?;
    // `env set` made a release, hence other processes.
    world.workloads = workloads(&world.stoa)?;
    for order in [
        ["control", "edge", "warden"],
        ["warden", "edge", "control"],
        ["edge", "warden", "control"],
    ] {
        for role in order {
            let victim = if role == "warden" {
                world.stoa.warden().ok()
            } else {
                world.stoa.part(role).ok()
            };
            // A part may have ended with its parent already.
            if let Some(victim) = victim {
                let _gone = victim.signal(libc::SIGKILL);
            }
        }
        world.stoa.wait_end()?;
        world.workloads_live()?;
        world.stoa.up()?;
        holds("requests to be served again", || world.serves().map(|()| true))?;
        world.nothing_twice()?;
        ensure!(
            releases(&world.stoa)? == before,
            "releases differ after {order:?}"
        );
    }
    world.stoa.finish()
}

fn releases(stoa: &Stoa) -> Result<BTreeSet<String>> {
    let items = stoa
        .cli(&["releases", "--app", "probe", "--json"])?
        .ok()?
        .items()?;
    Ok(items
        .iter()
        .map(|item| format!("{} {} {}", item["name"], item["state"], item["serving"]))
        .collect())
}

#[test]
fn ctrl_c_leaves_workloads_and_says_so() -> Result<()> {
    let mut world = world("ctrl-c")?;
    world.stoa.interrupt()?;
    world.workloads_live()?;
    ensure!(
        world.stoa.log().contains("stoa down"),
        "the exit does not say how to end the workloads"
    );
    ensure!(
        http::get(world.stoa.listeners().http, "probe.localhost", "/").is_err(),
        "somebody still listens"
    );
    // What a power cut or a removal that was cut short can leave keeps nobody from starting.
    let damaged = world.stoa.data_dir().join("instances/ins-damaged");
    let left = world.stoa.data_dir().join("writable/ins-left");
    for dir in [&damaged, &left] {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(damaged.join("record"), "")?;
    world.stoa.up()?;
    holds("requests to be served again", || world.serves().map(|()| true))?;
    world.nothing_twice()?;
    ensure!(!left.exists(), "what was left of an instance stays");
    world.stoa.finish()
}

#[test]
fn a_second_stoa_up_names_the_first() -> Result<()> {
    let stoa = Stoa::start("second-up")?;
    let pid = stoa.warden()?.pid.to_string();
    let data_dir = stoa.data_dir();
    let ports = [
        "--api",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--https",
        "127.0.0.1:0",
    ];
    let mut arguments = vec!["up", "--data-dir", data_dir.to_str().context("a path")?];
    arguments.extend(ports);
    let answer = stoa.cli(&arguments)?;
    ensure!(answer.code != 0, "a second one started");
    answer.says(&pid)?;
    stoa.finish()
}
