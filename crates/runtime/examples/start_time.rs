//! How long a start takes, and what a keeper weighs: `cargo run -p stoa-runtime --example start_time [COUNT]`.
//!
//! Lives here: a quick look by hand. The figures people quote come from `cargo xtask bench`, which runs peers beside.

use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use runtime::{ContainerSpec, Limits, LogSpec, Runtime, State, Tier, User};

fn main() -> Result<(), Box<dyn Error>> {
    let count = std::env::args()
        .nth(1)
        .map_or(Ok(20), |text| text.parse::<usize>())?;
    let dir = std::env::temp_dir().join(format!("stoa-start-time-{}", std::process::id()));
    let layer = dir.join("layer");
    fs::create_dir_all(layer.join("bin"))?;
    fs::copy("/bin/busybox", layer.join("bin/busybox"))?;
    symlink("busybox", layer.join("bin/sleep"))?;
    let runtime = Runtime::open(&dir.join("instances"), "starttime", 1)?;
    let mut times = Vec::new();
    for number in 0..count {
        let spec = spec(&dir, &format!("i{number}"));
        let begun = Instant::now();
        runtime.start(&spec)?;
        times.push(begun.elapsed());
        // One after another with a pause: back to back, later starts profit from the grace period of earlier ones.
        std::thread::sleep(Duration::from_millis(100));
    }
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!(
        "start() to exec: min {:.1} ms, median {:.1} ms, p95 {:.1} ms ({count} starts)",
        at(0),
        at(50),
        at(95)
    );
    weigh(&runtime)?;
    for container in runtime.list()? {
        runtime.remove(&container.id)?;
    }
    runtime.tidy();
    fs::remove_dir_all(&dir)?;
    Ok(())
}

fn weigh(runtime: &Runtime) -> Result<(), Box<dyn Error>> {
    let (mut private, mut pss, mut keepers) = (0, 0, 0);
    for container in runtime.list()? {
        let (State::Running { .. }, Some(record)) = (container.state, container.record) else {
            continue;
        };
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", record.keeper_pid))?;
        let field = |name: &str| -> u64 {
            let line = rollup
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default();
            line.split_whitespace()
                .nth(1)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        };
        private += field("Private_Dirty:");
        pss += field("Pss:");
        keepers += 1;
    }
    let average = |sum: u64| sum.checked_div(keepers).unwrap_or(0);
    println!(
        "per keeper: {} kB private dirty, {} kB PSS ({keepers} keepers)",
        average(private),
        average(pss)
    );
    Ok(())
}

fn spec(dir: &Path, id: &str) -> ContainerSpec {
    ContainerSpec {
        id: id.to_owned(),
        hostname: id.to_owned(),
        layers: vec![dir.join("layer")],
        writable: dir.join(format!("writable-{id}")),
        argv: vec!["/bin/sleep".to_owned(), "1000".to_owned()],
        env: Vec::new(),
        cwd: "/".into(),
        user: User::default(),
        uid_base: 1_800_000_000,
        limits: Limits {
            memory_bytes: 64 << 20,
            cpu_millis: 1000,
            cpu_weight: 100,
            pids: 64,
        },
        netns: None,
        mounts: Vec::new(),
        secrets: Vec::new(),
        files: Vec::new(),
        stop_signal: 15,
        log: LogSpec {
            dir: dir.join("log"),
            segment_bytes: 1 << 20,
            max_bytes: 4 << 20,
            label: id.to_owned(),
            rate_bytes_per_s: 0,
        },
        init: true,
        tier: Tier::Standard,
        nofile: 1024,
        shm_bytes: 1 << 20,
        tmp_bytes: None,
    }
}
