//! `stoa down`: ends Stoa and everything it runs. Data stays.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cli::DownArgs;
use host::Host;
use rustix::process::{Pid, Signal};

use crate::places::Places;
use crate::{Failure, chain, print};

/// How long the processes of Stoa may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &DownArgs, json: bool) -> Result<ExitCode, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            "stoa down needs root, as stoa up does",
            "run it as root: sudo stoa down",
        ));
    }
    let places = Places::find(&args.data_dir).map_err(|cause| {
        Failure::new(
            format!("there is no Stoa in {}: {cause}", args.data_dir.display()),
            "name its data directory: stoa down --data-dir DIR",
        )
    })?;
    end_warden(&places)?;
    end_edge(&places);
    let mark = places
        .mark()
        .map_err(|cause| Failure::new(chain(&cause), "check the data directory"))?;
    let options = host::Options {
        data_dir: places.data.clone(),
        mark,
        toolchains: Vec::new(),
        zones: places.zones(),
    };
    let ended = Host::open(options).and_then(Host::destroy);
    ended.map_err(|cause| Failure::new(chain(&cause), "run stoa down again; it goes on where it stopped"))?;
    if json {
        let state = serde_json::json!({ "state": "down", "data_dir": places.data });
        print(&format!("{state}\n"))?;
    } else {
        let data = places.data.display();
        print(&format!(
            "Stoa is down; nothing of it runs. Its data is kept in {data}.\n"
        ))?;
        eprintln!("next: stoa up --data-dir {}", places.data.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the warden to stop and waits until its lock is free.
fn end_warden(places: &Places) -> Result<(), Failure> {
    let until = Instant::now() + ENDS_WITHIN;
    let mut is_asked = false;
    loop {
        match warden::Lock::take(&places.data) {
            Ok(_free) => return Ok(()),
            Err(cause) => {
                let pid = std::fs::read_to_string(places.data.join("lock")).ok();
                let pid = pid
                    .and_then(|text| text.trim().parse().ok())
                    .and_then(Pid::from_raw);
                if let (Some(pid), false) = (pid, is_asked) {
                    is_asked = rustix::process::kill_process(pid, Signal::TERM).is_ok();
                }
                if Instant::now() >= until {
                    return Err(Failure::new(chain(&cause), "end that process, then: stoa down"));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// An edge that outlived its warden serves nobody any more.
fn end_edge(places: &Places) {
    let socket: &Path = &places.edge_socket();
    let Ok(mut client) = edge::control::Client::connect(socket) else {
        return;
    };
    let Ok(status) = client.status() else { return };
    let Some(pid) = i32::try_from(status.pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    if rustix::process::kill_process(pid, Signal::TERM).is_err() {
        return;
    }
    let until = Instant::now() + ENDS_WITHIN;
    while edge::control::Client::connect(socket).is_ok() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
}
