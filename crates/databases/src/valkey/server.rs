//! A Valkey as a workload: command, settings, limits.

use std::collections::BTreeMap;

use engine::{Probe, VolumeMount, Workload};
use model::spec::Health;
use model::{Bytes, Database, ImageDigest, Instance, Millis, ValkeyPlan};

use super::{DATA, PORT, RUNS_AS, USERS, VOLUME_TARGET};

/// SIGTERM: it writes what it has to its log and ends.
const ORDERLY_END: i32 = 15;

/// The running server of a database.
#[must_use]
pub fn workload(
    database: &Database,
    plan: ValkeyPlan,
    version: &str,
    image: &ImageDigest,
    instance: &Instance,
    volume: &str,
) -> Workload {
    let mut command = vec!["valkey-server".to_owned()];
    for (name, value) in settings(plan, database.resources.memory) {
        command.push(format!("--{name}"));
        command.push(value);
    }
    Workload {
        id: instance.id,
        hostname: format!("{}-{}", database.name, instance.id.short(6)),
        network: database.environment.to_string(),
        image: image.clone(),
        command,
        user: Some(RUNS_AS.to_owned()),
        workdir: Some("/".to_owned()),
        env: BTreeMap::new(),
        secrets: Vec::new(),
        resources: database.resources,
        uid_range: instance.uid_range,
        volumes: vec![VolumeMount {
            volume: volume.to_owned(),
            target: VOLUME_TARGET.to_owned(),
        }],
        search_domain: "db.internal".to_owned(),
        log_key: database.id.to_string(),
        log_label: format!("valkey-{version}"),
        probe: Some(Probe {
            speaks: engine::Speaks::Valkey,
            port: PORT,
            // Reading a large log may take long, and it is progress, not failure.
            health: Health {
                grace: Millis::seconds(600),
                interval: Millis::seconds(5),
                ..Health::default()
            },
        }),
        stop_signal: ORDERLY_END,
    }
}

/// Everything the server is told, as options of its command line: there is no file that could be rewritten.
#[must_use]
pub fn settings(plan: ValkeyPlan, memory: Bytes) -> Vec<(&'static str, String)> {
    let directory = format!("{VOLUME_TARGET}/{DATA}");
    let mut all = vec![
        ("port", PORT.to_string()),
        ("bind", "0.0.0.0".to_owned()),
        ("protected-mode", "no".to_owned()),
        ("aclfile", format!("{directory}/{USERS}")),
        ("dir", directory),
        // What RESTORE is given is looked at before it is believed.
        ("sanitize-dump-payload", "yes".to_owned()),
        // No snapshots by the way: what is kept, the log keeps.
        ("save", String::new()),
        ("maxmemory", most_memory(plan, memory).get().to_string()),
    ];
    let rest: &[(&str, &str)] = match plan {
        ValkeyPlan::Cache => &[("appendonly", "no"), ("maxmemory-policy", "allkeys-lru")],
        ValkeyPlan::Durable => &[
            ("appendonly", "yes"),
            ("appendfsync", "everysec"),
            ("aof-timestamp-enabled", "yes"),
            // A rewrite ends what can be restored: it is the platform's to begin, and what it replaces stays until that is kept.
            ("auto-aof-rewrite-percentage", "0"),
            ("aof-disable-auto-gc", "yes"),
            ("maxmemory-policy", "noeviction"),
        ],
    };
    all.extend(rest.iter().map(|(name, value)| (*name, (*value).to_owned())));
    all
}

/// How much of the memory limit may be data. The rest is connections, buffers and fragments; with a log also the pages that are
/// written to while a second process rewrites it.
pub(super) fn most_memory(plan: ValkeyPlan, memory: Bytes) -> Bytes {
    let percent = match plan {
        ValkeyPlan::Cache => 75,
        ValkeyPlan::Durable => 55,
    };
    Bytes::new(memory.get() / 100 * percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_fit_the_memory_and_the_plan() {
        for (plan, mi, most, appends, policy) in [
            (ValkeyPlan::Cache, 64, "50331600", "no", "allkeys-lru"),
            (ValkeyPlan::Cache, 1024, "805306350", "no", "allkeys-lru"),
            (ValkeyPlan::Durable, 256, "147639470", "yes", "noeviction"),
        ] {
            let all = settings(plan, Bytes::mi(mi));
            let of = |name: &str| {
                let found = all.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.clone()).unwrap_or_default()
            };
            assert_eq!(
                (
                    of("maxmemory").as_str(),
                    of("appendonly").as_str(),
                    of("maxmemory-policy").as_str()
                ),
                (most, appends, policy)
            );
        }
    }
}
