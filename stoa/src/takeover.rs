//! The warden's end of `stoa server upgrade`: what is asked of it, whether a new part works, how it goes.
//!
//! Lives here: the request and the progress in `run/upgrade`, the questions to a new edge and a new control.
//! Does not live here: the steps (`warden`), what is checked before (`upgrade`).
//! Invariant: files that only root reaches, so nobody else can have this process become something.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use warden::{Ask, Event, Upgrades};

use crate::places::Places;

/// A new part that does no work for so long does not work. A control with 200 instances adopts them in seconds.
const WORKS_WITHIN: Duration = Duration::from_secs(60);
/// For one question to it.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// The binary to go over to, as raw bytes of its path.
pub(crate) fn request(places: &Places) -> PathBuf {
    places.upgrade().join("request")
}

/// One JSON object a line: `{"at": "going"|"done"|"refused", "says": "..."}`.
pub(crate) fn progress(places: &Places) -> PathBuf {
    places.upgrade().join("progress")
}

pub(crate) fn upgrades(places: &Places) -> Upgrades {
    // What the old edge serves; the new one must serve no less before it counts as healthy.
    let generation = Rc::new(Cell::new(0));
    let (asked, noted) = (places.clone(), Rc::clone(&generation));
    let asker = places.clone();
    Upgrades {
        wanted: Box::new(move || {
            let wanted = take_request(&asked)?;
            noted.set(edge_status(&asked).map_or(0, |status| status.generation));
            Some(wanted)
        }),
        is_healthy: Box::new(move |ask| is_healthy(&asker, ask, generation.get())),
        healthy_within: WORKS_WITHIN,
    }
}

fn take_request(places: &Places) -> Option<PathBuf> {
    let path = request(places);
    let bytes = fs::read(&path).ok()?;
    // Taken once: a second signal asks for nothing.
    fs::remove_file(&path).ok()?;
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

fn is_healthy(places: &Places, ask: Ask<'_>, generation: u64) -> bool {
    if ask.child == "edge" {
        let serves = |status: edge::control::Status| {
            status.pid == ask.pid && !status.is_draining && status.generation >= generation
        };
        edge_status(places).is_some_and(serves)
    } else {
        // Nobody else can answer: there is one control at a time.
        is_ready(places).unwrap_or(false)
    }
}

fn edge_status(places: &Places) -> Option<edge::control::Status> {
    edge::control::Client::connect(&places.edge_socket())
        .ok()?
        .status()
        .ok()
}

/// Whether the API says that it is ready, on the socket that people use.
fn is_ready(places: &Places) -> io::Result<bool> {
    let text = fs::read_to_string(places.listeners())?;
    let listeners: serde_json::Value = serde_json::from_str(&text)?;
    let address: Option<SocketAddr> = listeners["api"].as_str().and_then(|text| text.parse().ok());
    let address = address.ok_or(io::ErrorKind::InvalidData)?;
    let mut stream = TcpStream::connect_timeout(&address, ANSWERS_WITHIN)?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    stream.set_write_timeout(Some(ANSWERS_WITHIN))?;
    write!(
        stream,
        "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer == *b"HTTP/1.1 200")
}

/// Tells whoever asked for an upgrade how it goes.
pub(crate) fn tell(places: &Places, event: &Event) {
    let at = match event {
        Event::Upgrading { .. } | Event::Replaced { .. } => "going",
        Event::Upgraded => "done",
        Event::NotUpgraded { .. } => "refused",
        Event::Listening { .. }
        | Event::Started { .. }
        | Event::NotStarted { .. }
        | Event::Died { .. }
        | Event::Stopping { .. }
        | Event::Stopped { .. }
        | Event::Killed { .. } => return,
    };
    let says = match event {
        Event::NotUpgraded { why } => why.clone(),
        other => other.to_string(),
    };
    let line = format!("{}\n", serde_json::json!({ "at": at, "says": says }));
    let file = fs::OpenOptions::new().append(true).open(progress(places));
    if let Err(cause) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        tracing::warn!(%cause, "could not tell how the upgrade goes");
    }
}
