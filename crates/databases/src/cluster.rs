//! A cluster as a workload: command, settings, limits.

use std::collections::BTreeMap;

use engine::{Probe, VolumeMount, Workload};
use model::spec::Health;
use model::{Bytes, Database, EnvKey, ImageDigest, Instance, Millis, Resources};

/// Where a database's volume is inside its instance; the cluster is one level below, because PostgreSQL wants its
/// directory for itself.
pub const VOLUME_TARGET: &str = "/var/lib/postgresql/data";
pub(crate) const PGDATA: &str = "/var/lib/postgresql/data/pgdata";
/// Sockets lie on the instance's private /tmp: /run/postgresql needs a directory that packages make.
pub(crate) const SOCKETS: &str = "/tmp";
/// The user that Debian's packages make; the servers refuse to run as root.
pub(crate) const USER: &str = "postgres";
/// SIGINT is PostgreSQL's fast shutdown: sessions end, a checkpoint is written.
const FAST_SHUTDOWN: i32 = 2;

pub(crate) fn program(version: &str, name: &str) -> String {
    format!("/usr/lib/postgresql/{version}/bin/{name}")
}

/// The programs of this version first: what Debian has under the same names elsewhere only looks for them, in Perl.
pub(crate) fn surroundings(version: &str) -> BTreeMap<EnvKey, String> {
    let path = format!("/usr/lib/postgresql/{version}/bin:/usr/local/bin:/usr/bin:/bin");
    let key = "PATH".parse::<EnvKey>().ok();
    key.map(|key| (key, path)).into_iter().collect()
}

/// The running server of a database.
#[must_use]
pub fn workload(
    database: &Database,
    version: &str,
    image: &ImageDigest,
    instance: &Instance,
    volume: &str,
) -> Workload {
    let mut all = settings(database.resources);
    all.push(("max_wal_size", wal_most(database.size)));
    if database.origin.is_some() {
        all.extend(of_a_branch());
    }
    let command = server(version, all);
    Workload {
        id: instance.id,
        hostname: format!("{}-{}", database.name, instance.id.short(6)),
        network: database.environment.to_string(),
        image: image.clone(),
        command,
        user: Some(USER.to_owned()),
        workdir: Some("/".to_owned()),
        env: surroundings(version),
        secrets: Vec::new(),
        resources: database.resources,
        uid_range: instance.uid_range,
        volumes: vec![VolumeMount {
            volume: volume.to_owned(),
            target: VOLUME_TARGET.to_owned(),
        }],
        search_domain: "db.internal".to_owned(),
        log_key: database.id.to_string(),
        log_label: format!("postgres-{version}"),
        probe: Some(Probe {
            speaks: engine::Speaks::Postgres,
            port: crate::PORT,
            // Crash recovery may take long, and it is progress, not failure.
            health: Health {
                grace: Millis::seconds(600),
                interval: Millis::seconds(5),
                ..Health::default()
            },
        }),
        stop_signal: FAST_SHUTDOWN,
    }
}

/// What may stand in the configuration of the former cluster and must not count in a copy: the command line is stronger
/// than any file.
const NOT_OF_THE_COPY: [(&str, &str); 8] = [
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("archive_library", ""),
    ("restore_command", ""),
    ("synchronous_standby_names", ""),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("max_logical_replication_workers", "0"),
];
/// Pays only on what may be lost: a power cut can leave it beyond repair.
const NOT_DURABLE: [(&str, &str); 3] = [
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
];

fn of_a_branch() -> impl Iterator<Item = (&'static str, String)> {
    let all = NOT_OF_THE_COPY.iter().chain(&NOT_DURABLE);
    all.map(|(name, value)| (*name, (*value).to_owned()))
}

/// The server of a copy at its first start: nobody reaches it but over its private socket.
pub(crate) fn alone(version: &str, resources: Resources) -> Vec<String> {
    let mut all = settings(resources);
    all.extend(of_a_branch());
    all.push(("listen_addresses", String::new()));
    server(version, all)
}

fn server(version: &str, settings: Vec<(&str, String)>) -> Vec<String> {
    let mut command = vec![program(version, "postgres"), "-D".to_owned(), PGDATA.to_owned()];
    for (name, value) in settings {
        command.push("-c".to_owned());
        command.push(format!("{name}={value}"));
    }
    command
}

/// The write-ahead log lives in the volume too: a quarter of it at most, and no less than the server wants.
fn wal_most(size: Bytes) -> String {
    /// Two segments of the usual size.
    const LEAST_MI: u64 = 32;
    /// More only makes recovery longer.
    const MOST_MI: u64 = 512;
    format!("{}MB", ((size.get() >> 20) / 4).clamp(LEAST_MI, MOST_MI))
}

/// Settings derived from the instance's memory limit.
#[must_use]
pub fn settings(resources: Resources) -> Vec<(&'static str, String)> {
    let mi = resources.memory.get() >> 20;
    // A quarter for the shared cache is PostgreSQL's own advice; the rest is sessions and the page cache.
    let shared = (mi / 4).max(16);
    // About 10 MiB a session at work, within what a small application asks for.
    let connections = (mi / 10).clamp(20, 200);
    vec![
        ("listen_addresses", "*".to_owned()),
        ("unix_socket_directories", SOCKETS.to_owned()),
        ("shared_buffers", format!("{shared}MB")),
        ("max_connections", connections.to_string()),
        (
            "work_mem",
            format!("{}kB", (mi * 1024 / 4 / connections).clamp(1024, 65_536)),
        ),
        ("maintenance_work_mem", format!("{}MB", (mi / 8).clamp(16, 1024))),
        ("max_wal_size", "512MB".to_owned()),
        ("password_encryption", "scram-sha-256".to_owned()),
        // The keeper collects standard error; a second collector would only hide lines.
        ("logging_collector", "off".to_owned()),
        ("log_destination", "stderr".to_owned()),
        ("log_line_prefix", "[%p] %u@%d ".to_owned()),
        // What backup needs must not cost a restart later.
        ("wal_level", "replica".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use model::{Bytes, Resources};

    #[test]
    fn the_log_leaves_room_for_data() {
        for (mi, most) in [(128, "32MB"), (1024, "256MB"), (10_240, "512MB")] {
            assert_eq!(super::wal_most(Bytes::mi(mi)), most);
        }
    }

    #[test]
    fn settings_fit_the_memory() {
        for (mi, shared, connections) in [(64, "16MB", "20"), (256, "64MB", "25"), (4096, "1024MB", "200")] {
            let settings = super::settings(Resources {
                memory: Bytes::mi(mi),
                ..Resources::default()
            });
            let of = |name| {
                settings
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| value.as_str())
            };
            assert_eq!(
                (of("shared_buffers"), of("max_connections")),
                (Some(shared), Some(connections))
            );
        }
    }
}
