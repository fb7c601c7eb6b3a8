//! `stoa __control`: API, store, reconcilers. May die at any time; the warden starts it again and it adopts what runs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use control::reconcile::Reconciler;
use control::{Control, Parts, Settings};
use host::Host;
use store::{MasterKey, Now, SecretError, Store, StoreError};

use crate::edge_link::Link;
use crate::logging::{self, Format};
use crate::places::Places;
use crate::{Failure, chain};

pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode, Failure> {
    logging::start(Format::of_environment());
    // A warden of before `--api-rate` gives one fewer.
    let [data, domain, http_port, rest @ ..] = arguments else {
        return Err(Failure::lasting("control is started by stoa up", "stoa up"));
    };
    let failed = |cause: &dyn std::error::Error| {
        Failure::new(chain(cause), "read the message above; see: stoa doctor")
    };
    warden::die_with_parent().map_err(|cause| failed(&cause))?;
    let places = Places::find(Path::new(data)).map_err(|cause| failed(&cause))?;
    let sockets = warden::inherited_fds().map_err(|cause| failed(&cause))?;
    let api = sockets
        .into_iter()
        .find(|(name, _)| name == "api")
        .map(|(_, socket)| TcpListener::from(socket));
    let Some(api) = api else {
        return Err(Failure::lasting("control got no socket for the API", "stoa up"));
    };

    let store = open_store(&places)?;
    let mark = places.mark().map_err(|cause| failed(&cause))?;
    let host = Host::open(host::Options {
        data_dir: places.data.clone(),
        mark,
        toolchains: toolchains(),
        epoch: store.epoch(),
        zones: places.zones(),
        doors: places.doors(),
    })
    .map_err(|cause| Failure::new(chain(&cause), cause.next()))?;
    let mut settings = Settings::new(places.data.clone());
    settings.domain = domain.to_string_lossy().into_owned();
    settings.http_port = http_port.to_string_lossy().parse().unwrap_or(80);
    let control = Arc::new(Control::new(Parts::new(
        Arc::new(store),
        Arc::new(host),
        Arc::new(Link::new(places.edge_socket(), places.certificates())),
        settings,
    )));
    let refused = |cause: control::ControlError| Failure::new(chain(&cause), cause.next());
    control::places::found(&control).map_err(refused)?;
    control::images::adopt(&control).map_err(refused)?;
    welcome(&control, &api).map_err(refused)?;
    let rate = rest.first().and_then(|rate| rate.to_str()?.parse().ok());
    let about = server::About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        listeners: listeners(&places),
        requests_per_minute: rate.unwrap_or(server::REQUESTS_PER_MINUTE),
    };
    serve(&control, api, about, &places)
}

fn open_store(places: &Places) -> Result<Store, Failure> {
    let path = places.store();
    let failed =
        |cause: std::io::Error| Failure::new(cause.to_string(), "check the data directory: stoa doctor");
    for dir in [path.parent(), places.master_key().parent()]
        .into_iter()
        .flatten()
    {
        std::fs::create_dir_all(dir).map_err(failed)?;
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(failed)?;
    }
    let key = MasterKey::load_or_create(&places.master_key(), &path).map_err(|cause| {
        let lasts = matches!(
            cause,
            SecretError::KeyMissing { .. }
                | SecretError::KeyExposed { .. }
                | SecretError::KeyUnreadable { .. }
        );
        failure(lasts, chain(&cause), cause.next())
    })?;
    let now = Now::at(model::Timestamp::now().as_ms());
    let opened = match Store::open(&path, &key, now) {
        // The upgrade that migrated it was taken back, and never got as far as to serve.
        Err(StoreError::NewerSchema { found, .. })
            if std::env::var_os(warden::ROLLED_BACK_VARIABLE).is_some() =>
        {
            tracing::warn!(schema = found, "the store goes back to before the upgrade");
            Store::undo_migration(&path).and_then(|()| Store::open(&path, &key, now))
        }
        opened => opened,
    };
    opened.map_err(|cause| unopened(&cause))
}

/// Only what no time can change ends Stoa: a full disk or a lack of descriptors passes, and the edge serves meanwhile.
fn unopened(cause: &StoreError) -> Failure {
    let lasts = matches!(
        cause,
        StoreError::WrongKey { .. }
            | StoreError::NewerSchema { .. }
            | StoreError::Foreign { .. }
            | StoreError::OldSqlite { .. }
    );
    failure(lasts, chain(cause), cause.next())
}

fn failure(lasts: bool, message: String, next: String) -> Failure {
    if lasts {
        Failure::lasting(message, next)
    } else {
        Failure::new(message, next)
    }
}

/// Toolchains outside `/usr` that root of this machine uses: a Rust installation by rustup, without its owner's files.
fn toolchains() -> Vec<(String, PathBuf)> {
    let answer = Command::new("rustc").args(["--print", "sysroot"]).output();
    let root = answer.ok().filter(|answer| answer.status.success());
    let root = root.map(|answer| PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim()));
    let outside = root.filter(|root| root.is_dir() && !root.starts_with("/usr"));
    outside
        .map(|root| ("rust".to_owned(), root))
        .into_iter()
        .collect()
}

/// Tells whoever started Stoa how to get in.
fn welcome(control: &Control, api: &TcpListener) -> Result<(), control::ControlError> {
    let address = api
        .local_addr()
        .map_or_else(|_| "127.0.0.1:7070".to_owned(), |address| address.to_string());
    let url = format!("http://{address}");
    match (control::people::offer_claim(control)?, Format::of_environment()) {
        (token, Format::Json) => {
            let login = token.map(|token| format!("stoa login --api {url} --claim {token}"));
            eprintln!(
                "{}",
                serde_json::json!({ "message": "Stoa answers", "api": url, "login": login })
            );
        }
        (Some(token), Format::Text) => {
            eprintln!("\nThis Stoa has no owner yet. Within 15 minutes:\n");
            eprintln!("  stoa login --api {url} --claim {token}\n");
        }
        (None, Format::Text) => eprintln!("\nStoa answers at {url}\n"),
    }
    Ok(())
}

/// Reconciles and serves until it is ended. Ending it at any point is safe, so no signal is caught.
fn serve(
    control: &Arc<Control>,
    api: TcpListener,
    about: server::About,
    places: &Places,
) -> Result<ExitCode, Failure> {
    let failed =
        |cause: &dyn std::error::Error| Failure::new(chain(cause), "read the message above; then: stoa up");
    let reconciler = Reconciler::new(Arc::clone(control));
    std::thread::Builder::new()
        .name("reconcile".to_owned())
        .spawn(move || {
            reconciler.run(&AtomicBool::new(false));
            // Without reconcilers nothing acknowledged would happen: the warden shall start us again.
            std::process::exit(1);
        })
        .map_err(|cause| failed(&cause))?;
    let socket = places.control_socket();
    match std::fs::remove_file(&socket) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(failed(&cause)),
        Ok(()) | Err(_) => {}
    }
    let local = UnixListener::bind(&socket).map_err(|cause| failed(&cause))?;
    let running = server::start(api, local, Arc::clone(control), about).map_err(|cause| failed(&cause))?;
    running.join();
    Err(Failure::new("the API ended", "see the log above"))
}

/// Where the warden listens, for people.
fn listeners(places: &Places) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(places.listeners()).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let address = |name: &str| {
        let found = &value[name];
        let first = found
            .as_str()
            .or_else(|| found.get(0).and_then(serde_json::Value::as_str))?;
        Some((name.to_owned(), first.to_owned()))
    };
    ["api", "http", "https"].into_iter().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_may_open_later_does_not_end_stoa() {
        let path = PathBuf::from("stoa.db");
        let doing = "opening".to_owned();
        let cause = store::IoCause::System(Arc::new(std::io::ErrorKind::StorageFull.into()));
        let passing = [
            StoreError::Busy { waited_ms: 1 },
            StoreError::Full { doing: doing.clone() },
            StoreError::Io { doing, cause },
        ];
        for cause in passing {
            assert_eq!(unopened(&cause).code, 1, "{cause}");
        }
        let found = StoreError::NewerSchema {
            path,
            found: 2,
            known: 1,
        };
        assert_eq!(i32::from(unopened(&found).code), warden::NO_RESTART);
    }
}
