//! What the door counts: requests by endpoint and kind of answer, and panics.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

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
