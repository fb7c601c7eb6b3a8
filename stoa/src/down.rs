//! `stoa down`: ends Stoa and everything it runs. Data stays.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cli::DownArgs;
use host::Host;
use rustix::process::{Pid, Signal};
use warden::{Lock, LockError, Taker};

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
    // Held to the end: a `stoa up` that comes meanwhile must not start what is being ended.
    let _lock = end_warden(&places, ENDS_WITHIN)?;
    end_edges(&places);
    let mark = places
        .mark()
        .map_err(|cause| Failure::new(chain(&cause), "check the data directory"))?;
    let options = host::Options {
        data_dir: places.data.clone(),
        mark,
        toolchains: Vec::new(),
        // Whatever the newest is, this goes above it: it holds the lock of the data directory.
        epoch: 0,
        zones: places.zones(),
        doors: places.doors(),
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

/// Asks the warden to stop, waits for its lock and takes it.
fn end_warden(places: &Places, within: Duration) -> Result<Lock, Failure> {
    let until = Instant::now() + within;
    let mut is_asked = false;
    loop {
        let cause = match Lock::take(&places.data, Taker::Command) {
            Ok(lock) => return Ok(lock),
            Err(cause) => cause,
        };
        // A command (stoa doctor) ends by itself, and may be in the middle of a repair.
        let warden = match &cause {
            LockError::Held {
                pid: Some(pid),
                taker: Taker::Warden,
                ..
            } => i32::try_from(*pid).ok().and_then(Pid::from_raw),
            LockError::Held { .. } | LockError::File { .. } => None,
        };
        if let (Some(pid), false) = (warden, is_asked) {
            is_asked = rustix::process::kill_process(pid, Signal::TERM).is_ok();
        }
        if Instant::now() >= until {
            return Err(Failure::new(chain(&cause), "end that process, then: stoa down"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Edges that outlived their warden serve nobody any more.
fn end_edges(places: &Places) {
    let socket: &Path = &places.edge_socket();
    for edge in edge::control::living(socket) {
        if let Some(pid) = i32::try_from(edge.pid()).ok().and_then(Pid::from_raw) {
            // One that is gone by now needs no signal.
            let _gone = rustix::process::kill_process(pid, Signal::TERM);
        }
    }
    let until = Instant::now() + ENDS_WITHIN;
    while !edge::control::living(socket).is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(name: &str) -> Places {
        let data = std::env::temp_dir().join(format!("stoa-down-{name}-{}", std::process::id()));
        Places::make(&data).unwrap()
    }

    #[test]
    fn nobody_can_start_while_down_is_at_work() {
        let places = places("locked");
        let _lock = end_warden(&places, Duration::ZERO).ok().unwrap();
        let refused = Lock::take(&places.data, Taker::Warden).unwrap_err();
        assert!(
            refused.next().contains("a command is at work"),
            "{}",
            refused.next()
        );
        std::fs::remove_dir_all(&places.data).unwrap();
    }

    /// Were it signalled, this process would end.
    #[test]
    fn a_command_that_holds_the_lock_is_waited_for_and_not_ended() {
        let places = places("doctor");
        let doctor = Lock::take(&places.data, Taker::Command).unwrap();
        assert!(end_warden(&places, Duration::from_millis(300)).is_err());
        drop(doctor);
        end_warden(&places, Duration::ZERO).ok().unwrap();
        std::fs::remove_dir_all(&places.data).unwrap();
    }
}
