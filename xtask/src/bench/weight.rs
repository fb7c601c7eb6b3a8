//! What is taken before any application: resident memory of the processes that always run, and private memory of
//! the one that each instance adds.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use journeys::process::Process;
use journeys::{ENVIRONMENT, PATIENCE, Stoa, until};
use serde_json::json;

use super::dockerd::Dockerd;
use super::{Figure, Pairs, Rounds, deploy, noise};

const INSTANCES: usize = 5;
const IDLE_GOAL: f64 = 0.5;
const KEEPER_GOAL: f64 = 1.0 / 15.0;
/// Both sides get this long to finish what starting leaves to do; memory is not measured sooner.
const SETTLE: Duration = Duration::from_secs(5);

pub fn run(rounds: Rounds) -> Result<Vec<Figure>> {
    let (mut idle, mut helper) = (Pairs::default(), Pairs::default());
    noise::quiet_rounds(
        rounds,
        |_| measure(),
        |(ours, peer): (Sample, Sample)| {
            idle.add(ours.idle_mib, peer.idle_mib);
            helper.add(ours.helper_kib, peer.helper_kib);
        },
    )?;
    let figure = |what: &str, peer: &str, unit, pairs, goal| Figure {
        what: what.into(),
        peer: peer.into(),
        unit,
        pairs,
        goal,
    };
    Ok(vec![
        figure(
            "idle control plane, RSS",
            "dockerd + containerd",
            "MiB",
            idle,
            IDLE_GOAL,
        ),
        figure(
            "private memory per instance",
            "containerd-shim",
            "KiB",
            helper,
            KEEPER_GOAL,
        ),
    ])
}

struct Sample {
    idle_mib: f64,
    helper_kib: f64,
}

fn measure() -> Result<(Sample, Sample)> {
    let docker = Dockerd::start()?;
    let mut stoa = Stoa::start("bench-weight")?;
    thread::sleep(SETTLE);
    let daemons = docker.daemons()?;
    let ours = vec![stoa.warden()?, stoa.part("edge")?, stoa.part("control")?];
    let (idle, peer_idle) = (resident_mib(&ours), resident_mib(&daemons));

    docker.import(&deploy::root_archive()?, "bench")?;
    deploy::prepare(&mut stoa, &docker)?;
    let scale = json!({ "services": { "web": INSTANCES } });
    stoa.api()?
        .done("PUT", &format!("{ENVIRONMENT}/apps/bench/scale"), Some(&scale))?;
    for _ in 0..INSTANCES {
        docker.run(&["run", "--detach", "--env", "PORT=8080", "bench", "/bin/rust-api"])?;
    }
    let shims = until("the shims", PATIENCE, || {
        Ok(Some(docker.shims()).filter(|found| found.len() == INSTANCES))
    })?;
    let keepers = stoa.keepers();
    ensure!(
        keepers.len() == INSTANCES,
        "{} keepers for {INSTANCES} instances: {keepers:?}",
        keepers.len()
    );
    thread::sleep(SETTLE);
    let sample = Sample {
        idle_mib: idle,
        helper_kib: private_kib(&keepers),
    };
    let peer = Sample {
        idle_mib: peer_idle,
        helper_kib: private_kib(&shims),
    };
    drop(docker);
    stoa.finish()?;
    Ok((sample, peer))
}

#[allow(clippy::cast_precision_loss, reason = "memory sizes are far below 2^52")]
fn resident_mib(processes: &[Process]) -> f64 {
    processes.iter().map(Process::resident_bytes).sum::<u64>() as f64 / f64::from(1 << 20)
}

/// Mean of what each has for itself.
#[allow(clippy::cast_precision_loss, reason = "memory sizes are far below 2^52")]
fn private_kib(processes: &[Process]) -> f64 {
    let sum: u64 = processes.iter().map(Process::private_dirty_bytes).sum();
    sum as f64 / processes.len().max(1) as f64 / 1024.0
}
