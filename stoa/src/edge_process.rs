//! `stoa __edge`: the process that answers requests from outside, names on the private networks, and the doors of what may sleep.
//!
//! All of it must go on when control is dead, which is why names and doors are answered here and not there.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use edge::{Listener, Options, Scheme};

use crate::places::Places;
use crate::{Failure, chain, logging};

pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode, Failure> {
    logging::start(logging::Format::of_environment());
    let [data, threads] = arguments else {
        return Err(Failure::lasting("the edge is started by stoa up", "stoa up"));
    };
    let failed =
        |cause: &dyn std::error::Error| Failure::new(chain(cause), "read the message above; then: stoa up");
    let places = Places::find(Path::new(data)).map_err(|cause| failed(&cause))?;
    let sockets = warden::inherited_fds().map_err(|cause| failed(&cause))?;
    let listeners = sockets
        .into_iter()
        .map(|(name, socket)| Listener {
            scheme: if name.starts_with("https") {
                Scheme::Https
            } else {
                Scheme::Http
            },
            socket: TcpListener::from(socket),
            name,
        })
        .collect();
    let mut options = Options::new(listeners, places.edge_socket(), places.edge_state());
    options.threads = threads.to_str().and_then(|threads| threads.parse().ok());
    let _names = net::dns::Server::start(places.zones()).map_err(|cause| failed(&cause))?;
    std::fs::create_dir_all(places.doors()).map_err(|cause| failed(&cause))?;
    let _doors = net::doors::Server::start(places.zones(), places.doors()).map_err(|cause| failed(&cause))?;
    edge::run(options).map_err(|cause| failed(&cause))?;
    Ok(ExitCode::SUCCESS)
}
