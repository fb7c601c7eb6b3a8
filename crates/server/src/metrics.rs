//! What the door counts: requests by endpoint and kind of answer, and panics.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use control::databases::{Protection, Watched};
use model::{Drill, DrillState};

/// Counters since the start.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    panics: AtomicU64,
}

impl Metrics {
    pub(crate) fn count(&self, endpoint: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((endpoint, status)).or_default() += 1;
    }

    pub(crate) fn count_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// In the text form of Prometheus. Endpoints and statuses are few, so the number of series is bounded.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from(
            "# HELP stoa_api_requests_total Requests answered.\n# TYPE stoa_api_requests_total counter\n",
        );
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((endpoint, status), count) in requests.iter() {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "stoa_api_requests_total{{endpoint=\"{endpoint}\",status=\"{status}\"}} {count}"
            );
        }
        let panics = self.panics.load(Ordering::Relaxed);
        let _ = write!(
            text,
            "# HELP stoa_api_panics_total Requests that ended in a panic: defects.\n# TYPE stoa_api_panics_total counter\nstoa_api_panics_total {panics}\n"
        );
        text
    }
}

/// What the edge counted, by app, service and release, in the text form of Prometheus.
pub(crate) fn requests(all: &[control::routes::Requests]) -> String {
    type Count = fn(&control::routes::Requests) -> u64;
    let mut text = String::from(
        "# HELP stoa_edge_requests_total Requests of apps, by kind of answer.\n# TYPE stoa_edge_requests_total counter\n",
    );
    for one in all {
        for (kind, count) in (1..).zip(one.statuses) {
            let labels = labels(one);
            let _ = writeln!(
                text,
                "stoa_edge_requests_total{{{labels},status=\"{kind}xx\"}} {count}"
            );
        }
    }
    let counters: [(&str, &str, Count); 3] = [
        (
            "stoa_edge_own_answers_total",
            "Requests answered by the edge itself.",
            |one| one.answered_by_edge,
        ),
        ("stoa_edge_cut_total", "Answers that broke off.", |one| one.cut),
        (
            "stoa_edge_retries_total",
            "Requests sent to an instance a second time.",
            |one| one.retries,
        ),
    ];
    for (name, help, count) in counters {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
        for one in all {
            let _ = writeln!(text, "{name}{{{}}} {}", labels(one), count(one));
        }
    }
    text
}

/// Names are checked where they come in, so none needs escaping.
fn labels(one: &control::routes::Requests) -> String {
    let service = one.service.rsplit('/').next().unwrap_or_default();
    format!(
        "app=\"{}\",service=\"{service}\",release=\"{}\"",
        one.app, one.release
    )
}

fn is_protected(protection: Option<&Protection>) -> Option<String> {
    let is_it = matches!(protection?, Protection::Protected { .. });
    Some(u8::from(is_it).to_string())
}

fn passed_at(drill: Option<&Drill>) -> Option<String> {
    match drill?.state {
        DrillState::Passed { at } => Some((at.as_ms() / 1000).to_string()),
        DrillState::Running | DrillState::Failed { .. } | DrillState::Undone { .. } => None,
    }
}

fn rto(drill: Option<&Drill>) -> Option<String> {
    let rto = drill?.rto?.as_ms();
    Some(format!("{}.{:03}", rto / 1000, rto % 1000))
}

/// Databases and whether their backup was proven, in the text form of Prometheus.
pub(crate) fn databases(all: &[Watched]) -> String {
    type Value = fn(&Watched) -> Option<String>;
    let gauges: [(&str, &str, Value); 11] = [
        ("stoa_database_up", "Whether its server answers.", |one| {
            Some(u8::from(one.is_ready).to_string())
        }),
        (
            "stoa_database_protected",
            "Whether a drill proved its backup within the last two days, and none failed since. Branches have none.",
            |one| is_protected(one.proof.local.as_ref()),
        ),
        (
            "stoa_database_drill_passed_timestamp_seconds",
            "When a drill passed last.",
            |one| passed_at(one.passed.as_ref()),
        ),
        (
            "stoa_database_drill_rto_seconds",
            "From the beginning of the restore to the first answer, in the last drill that passed.",
            |one| rto(one.passed.as_ref()),
        ),
        (
            "stoa_database_target_protected",
            "The same as stoa_database_protected, of the copy on the backup target.",
            |one| is_protected(one.proof.target.as_ref()),
        ),
        (
            "stoa_database_target_drill_passed_timestamp_seconds",
            "When a drill of that copy passed last.",
            |one| passed_at(one.passed_target.as_ref()),
        ),
        (
            "stoa_database_target_drill_rto_seconds",
            "From the beginning of the fetch to the first answer, in the last drill of that copy that passed.",
            |one| rto(one.passed_target.as_ref()),
        ),
        (
            "stoa_database_backup_behind",
            "Whether log that should have been received was not. Branches have no backup.",
            |one| Some(u8::from(one.is_behind?).to_string()),
        ),
        (
            "stoa_database_unreceived_bytes",
            "Log that was written and not received, at the last look.",
            |one| Some(one.unreceived?.bytes.get().to_string()),
        ),
        (
            "stoa_database_unreceived_seconds",
            "For how long something that was written has not been received.",
            |one| {
                let since = one.unreceived?.since;
                let age = since.map_or(0, |since| model::Timestamp::now().since(since).as_ms() / 1000);
                Some(age.to_string())
            },
        ),
        (
            "stoa_database_sync_effective",
            "Whether commits wait until they are received, where the level is sync.",
            |one| match one.commits? {
                (model::Level::Stream, _) => None,
                (model::Level::Sync, commits) => {
                    Some(u8::from(matches!(commits, model::Commits::Held { .. })).to_string())
                }
            },
        ),
    ];
    let mut text = String::new();
    for (name, help, value) in gauges {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for one in all {
            if let Some(value) = value(one) {
                let _ = writeln!(
                    text,
                    "{name}{{database=\"{}\",id=\"{}\"}} {value}",
                    one.name, one.id
                );
            }
        }
    }
    text
}
