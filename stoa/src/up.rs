//! `stoa up`: checks what cannot work, then becomes the warden.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use cli::UpArgs;
use warden::{Bound, Child, Event, ExitReason, Replaced, Wanted};

use crate::places::{Places, write_durably};
use crate::{Failure, chain, logging, takeover};

/// Where apps answer when nobody says otherwise: the usual ports, or those a second server would take.
const HTTP: [u16; 2] = [80, 8080];
const HTTPS: [u16; 2] = [443, 8443];

pub(crate) fn run(args: &UpArgs, as_json: bool) -> Result<ExitCode, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            "stoa up needs root: it makes namespaces, networks and mounts for the instances it isolates",
            "run it as root: sudo stoa up",
        ));
    }
    let format = if as_json {
        logging::Format::Json
    } else {
        logging::Format::of_environment()
    };
    logging::start(format);
    let places = Places::make(&args.data_dir).map_err(|cause| {
        Failure::new(
            format!(
                "could not make the data directory {}: {cause}",
                args.data_dir.display()
            ),
            "choose another one: stoa up --data-dir DIR",
        )
    })?;
    if warden::is_rehearsal() || !warden::is_takeover() {
        crate::doctor::refuse_what_cannot_work(&places)?;
    }
    if warden::is_rehearsal() {
        return Ok(ExitCode::SUCCESS);
    }
    let adopted = places.clone();
    let (described, told) = (places.clone(), places.clone());
    let (domain, threads, rate) = (args.domain.clone(), args.threads, args.api_rate);
    let options = warden::Options {
        data_dir: places.data.clone(),
        sockets: vec![
            Wanted {
                name: "api".to_owned(),
                candidates: vec![args.api_listen()],
            },
            Wanted {
                name: "http".to_owned(),
                candidates: candidates(args.http, HTTP),
            },
            Wanted {
                name: "https".to_owned(),
                candidates: candidates(args.https, HTTPS),
            },
        ],
        adopt: Box::new(move || adopt(&adopted.edge_socket())),
        children: Box::new(move |bound| children(&described, bound, &domain, threads, rate, format)),
        upgrades: takeover::upgrades(&places),
        report: Box::new(move |event| {
            report(event);
            takeover::tell(&told, event);
        }),
    };
    match warden::run(options) {
        Ok(ExitReason::Signal(_)) => {
            let stopped =
                "Stoa has stopped. What it runs goes on running, but nobody answers for it or restarts it.";
            let next = format!(
                "stoa up (go on), or stoa down --data-dir {} (end everything)",
                places.data.display()
            );
            match format {
                logging::Format::Json => {
                    eprintln!("{}", serde_json::json!({ "message": stopped, "next_step": next }));
                }
                logging::Format::Text => eprintln!("\n{stopped}\nnext: {next}"),
            }
            Ok(ExitCode::SUCCESS)
        }
        Ok(ExitReason::Unrecoverable { child }) => Err(Failure::new(
            format!("{child} cannot work; its message is above"),
            "mend that, then: stoa up",
        )),
        Err(cause) => Err(Failure::new(chain(&cause), cause.next())),
    }
}

fn candidates(chosen: Option<SocketAddr>, usual: [u16; 2]) -> Vec<SocketAddr> {
    match chosen {
        Some(address) => vec![address],
        None => usual
            .iter()
            .map(|port| SocketAddr::from(([0, 0, 0, 0], *port)))
            .collect(),
    }
}

/// The sockets of an edge that outlived its warden.
fn adopt(socket: &Path) -> Option<Vec<(String, std::os::fd::OwnedFd)>> {
    edge::control::Client::connect(socket).ok()?.handover().ok()
}

/// What control allocates at once from this size on, in bytes, has a mapping of its own and is given back whole. Left to itself,
/// glibc raises the size when the first is given back: the 19 MiB that hashing a password takes then stayed in the arena
/// of each thread that ever hashed one (10 MB before, 184 MB after twelve sign-ins).
const MAPPED_ALONE: u32 = 1 << 20;
/// Its threads come and go, up to hundreds; by itself glibc keeps eight arenas for each processor, none of them full.
const ARENAS: u32 = 2;

fn children(
    places: &Places,
    bound: &[Bound],
    domain: &str,
    threads: Option<usize>,
    rate: u32,
    format: logging::Format,
) -> Vec<Child> {
    let address = |name: &str| bound.iter().find(|one| one.name == name).map(|one| one.address);
    let http_port = address("http").map_or(80, |address| address.port());
    let listeners = serde_json::json!({
        "api": address("api"),
        "http": address("http").into_iter().collect::<Vec<_>>(),
        "https": address("https").into_iter().collect::<Vec<_>>(),
    });
    if let Err(cause) = write_durably(&places.listeners(), listeners.to_string().as_bytes()) {
        tracing::warn!(%cause, "could not write down where Stoa listens");
    }
    let data = places.data.to_string_lossy().into_owned();
    let threads = threads.map(|threads| threads.to_string()).unwrap_or_default();
    let mut edge = Child::of_this_binary("edge", &["__edge", &data, &threads]);
    edge.sockets = vec!["http".to_owned(), "https".to_owned()];
    edge.replaced = Replaced::WhileItServes;
    let (http_port, rate) = (http_port.to_string(), rate.to_string());
    let mut control = Child::of_this_binary("control", &["__control", &data, domain, &http_port, &rate]);
    control.sockets = vec!["api".to_owned()];
    control
        .env
        .push(("MALLOC_MMAP_THRESHOLD_".into(), MAPPED_ALONE.to_string().into()));
    control
        .env
        .push(("MALLOC_ARENA_MAX".into(), ARENAS.to_string().into()));
    for child in [&mut edge, &mut control] {
        child.env.push((logging::FORMAT.into(), format.as_str().into()));
    }
    vec![edge, control]
}

fn report(event: &Event) {
    match event {
        Event::Died { .. } | Event::NotStarted { .. } | Event::Killed { .. } | Event::NotUpgraded { .. } => {
            tracing::warn!("{event}");
        }
        Event::Listening { .. }
        | Event::Started { .. }
        | Event::Upgrading { .. }
        | Event::Replaced { .. }
        | Event::Upgraded
        | Event::Stopping { .. }
        | Event::Stopped { .. } => tracing::info!("{event}"),
    }
}
