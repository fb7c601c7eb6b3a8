//! A cluster as a workload: command, settings, limits.

use std::collections::BTreeMap;

use engine::{Probe, VolumeMount, Workload};
use model::spec::Health;
use model::{Bytes, Database, EnvKey, ImageDigest, Instance, Millis, Resources, Target};

/// Where a database's volume is inside its instance; the cluster is one level below, because PostgreSQL wants its
/// directory for itself.
pub const VOLUME_TARGET: &str = "/var/lib/postgresql/data";
pub(crate) const PGDATA: &str = "/var/lib/postgresql/data/pgdata";
/// Sockets lie on the instance's private /tmp: /run/postgresql needs a directory that packages make.
pub(crate) const SOCKETS: &str = "/tmp";
/// The user that Debian's packages make; the servers refuse to run as root.
pub const USER: &str = "postgres";
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

/// The running server of a database. It loads the libraries that [`crate::preload`] names.
#[must_use]
pub fn workload(
    database: &Database,
    version: &str,
    image: &ImageDigest,
    instance: &Instance,
    volume: &str,
    preload: Option<String>,
) -> Workload {
    let mut all = settings(database.resources);
    if let Some(libraries) = preload {
        all.push(("shared_preload_libraries", libraries));
        // What is no query may hold a password: CREATE ROLE, ALTER SUBSCRIPTION.
        all.push(("pg_stat_statements.track_utility", "off".to_owned()));
    }
    all.push(("max_wal_size", wal_most(database.size)));
    if database.origin.is_some() {
        all.extend(of_a_branch());
    } else {
        all.push(("max_slot_wal_keep_size", wal_kept(database.size)));
    }
    // What was upgraded is the same cluster, with all it had.
    if database
        .restored
        .as_ref()
        .is_some_and(|from| from.upgraded.is_none())
    {
        // Its own commits may be held for its own receiver; what the former one had was taken from it (`branch`).
        all.extend(of_a_copy().filter(|(name, _)| *name != HOLDS_COMMITS));
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

/// What has commits wait for a receiver.
const HOLDS_COMMITS: &str = "synchronous_standby_names";
/// What may stand in the configuration of the former cluster and must not count in a copy: the command line is stronger
/// than any file.
const NOT_OF_THE_COPY: [(&str, &str); 8] = [
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("archive_library", ""),
    ("restore_command", ""),
    (HOLDS_COMMITS, ""),
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

fn of_a_copy() -> impl Iterator<Item = (&'static str, String)> {
    NOT_OF_THE_COPY
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
}

fn of_a_branch() -> impl Iterator<Item = (&'static str, String)> {
    of_a_copy().chain(
        NOT_DURABLE
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned())),
    )
}

/// Segments made ahead are empty ones: what is masked later must not lie in an old one under a new name.
fn no_old_log() -> (&'static str, String) {
    ("wal_recycle", "off".to_owned())
}

/// The server of a copy at its first start: nobody reaches it but over its private socket.
pub(crate) fn alone(version: &str, resources: Resources) -> Vec<String> {
    let mut all = settings(resources);
    all.extend(of_a_branch());
    all.push(no_old_log());
    all.push(("listen_addresses", String::new()));
    server(version, all)
}

/// The ways to say where a replay ends.
const RECOVERY_TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_name",
    "recovery_target_xid",
    "recovery_target_time",
    "recovery_target_lsn",
];

/// The server of a base while it replays the log up to a target: alone, and durable, for what it becomes is kept.
pub(crate) fn replaying(version: &str, resources: Resources, target: Target) -> Vec<String> {
    let mut all = settings(resources);
    all.extend(of_a_copy().filter(|(name, _)| *name != "restore_command"));
    all.push(no_old_log());
    all.push(("listen_addresses", String::new()));
    // Nobody reads before the end, and the former server may have had room for more sessions.
    all.push(("hot_standby", "off".to_owned()));
    // The log lies where the server looks anyway; without a command it does not begin.
    all.push(("restore_command", "/bin/false".to_owned()));
    // A base goes on in its own history: what else bears the name of a later one is not of it.
    all.push(("recovery_target_timeline", "current".to_owned()));
    all.push(("recovery_target_action", "promote".to_owned()));
    let (aim, at, inclusive) = match target {
        Target::Latest => (None, String::new(), "on"),
        // The server reads its command line before it knows any name of a zone, `Z` included.
        Target::Time { at } => {
            let at = at.to_string().replace('T', " ").replace('Z', "+00");
            (Some("recovery_target_time"), at, "on")
        }
        // A place lies between two records, and what begins there is after it.
        Target::Lsn { lsn } => (Some("recovery_target_lsn"), lsn.to_string(), "off"),
    };
    all.push(("recovery_target_inclusive", inclusive.to_owned()));
    // Files of the former cluster may aim elsewhere. The one aim comes last: the server takes what follows for a second.
    let others = RECOVERY_TARGETS.iter().filter(|name| Some(**name) != aim);
    all.extend(others.map(|name| (*name, String::new())));
    all.extend(aim.map(|name| (name, at)));
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

/// How much of the log is kept for an archive that does not receive: beyond that the backup gets a gap rather than the
/// database a full disk.
pub(crate) fn wal_kept(size: Bytes) -> String {
    format!("{}MB", wal_kept_mi(size))
}

/// The same in MiB.
pub(crate) fn wal_kept_mi(size: Bytes) -> u64 {
    /// A receiver that starts anew gets that far behind at once.
    const LEAST_MI: u64 = 64;
    /// Hours of a busy server.
    const MOST_MI: u64 = 16 * 1024;
    ((size.get() >> 20) / 4).clamp(LEAST_MI, MOST_MI)
}

/// What follows from the memory limit.
pub(crate) const BY_MEMORY: [&str; 4] = [
    "shared_buffers",
    "max_connections",
    "work_mem",
    "maintenance_work_mem",
];
/// What follows from the budget of the volume.
pub(crate) const BY_SIZE: [&str; 2] = ["max_wal_size", "max_slot_wal_keep_size"];

/// How many sessions a server has room for: about 10 MiB one at work, within what a small application asks for.
pub(crate) fn connections(resources: Resources) -> u32 {
    u32::try_from(resources.memory.get() >> 20).map_or(200, |mi| (mi / 10).clamp(20, 200))
}

/// Settings derived from the instance's memory limit.
#[must_use]
pub fn settings(resources: Resources) -> Vec<(&'static str, String)> {
    let mi = resources.memory.get() >> 20;
    // A quarter for the shared cache is PostgreSQL's own advice; the rest is sessions and the page cache.
    let shared = (mi / 4).max(16);
    let connections = u64::from(connections(resources));
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
    use model::{Bytes, Resources, Target, Timestamp};

    #[test]
    fn the_log_leaves_room_for_data() {
        for (mi, most) in [(128, "32MB"), (1024, "256MB"), (10_240, "512MB")] {
            assert_eq!(super::wal_most(Bytes::mi(mi)), most);
        }
    }

    #[test]
    fn a_replay_has_one_aim_and_it_comes_last() {
        let lsn = "0/3000060".parse().expect("a place");
        let aims = |target| -> Vec<String> {
            let all = super::replaying("15", Resources::default(), target);
            let ours = all.into_iter().filter(|word| word.starts_with("recovery_target"));
            ours.filter(|word| !word.contains("_timeline") && !word.contains("_action"))
                .collect()
        };
        let at = Timestamp::from_ms(1_795_376_400_123);
        for (target, last, inclusive) in [
            (
                Target::Time { at },
                "recovery_target_time=2026-11-22 19:40:00.123+00",
                "on",
            ),
            (Target::Lsn { lsn }, "recovery_target_lsn=0/3000060", "off"),
        ] {
            let aims = aims(target);
            assert_eq!(
                aims.first(),
                Some(&format!("recovery_target_inclusive={inclusive}"))
            );
            assert_eq!(aims.last().map(String::as_str), Some(last));
            assert_eq!(aims[1..].iter().filter(|word| !word.ends_with('=')).count(), 1);
        }
        assert!(aims(Target::Latest)[1..].iter().all(|word| word.ends_with('=')));
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
