//! Which service answers the public: compose opens ports of the host, Stoa routes hosts and paths.

use model::Name;

use crate::draft::Draft;
use crate::remark::At;

/// A service with a published port.
pub(super) struct Candidate {
    pub(super) service: Name,
    pub(super) at: At,
    pub(super) path: String,
    pub(super) port: u16,
}

/// Ports that speak something else than HTTP, by everybody's convention.
const NOT_HTTP: [u16; 14] = [
    21, 22, 25, 53, 465, 587, 993, 1883, 3306, 5432, 5672, 6379, 11_211, 27_017,
];

/// The first of them that speaks HTTP gets the app's own host; `web` before all others.
pub(super) fn settle(draft: &mut Draft<'_>, candidates: &[Candidate]) {
    let speaks_http = |candidate: &&Candidate| !NOT_HTTP.contains(&candidate.port);
    let chosen = candidates
        .iter()
        .filter(speaks_http)
        .find(|candidate| candidate.service.as_str() == "web")
        .or_else(|| candidates.iter().find(speaks_http))
        .map(|candidate| candidate.service.clone());
    draft.publish(chosen.as_ref());
    for candidate in candidates {
        let (at, path) = (candidate.at, candidate.path.as_str());
        if Some(&candidate.service) == chosen.as_ref() {
            draft.report.changed(
                at,
                path,
                format!(
                    "no port of the host is opened: {} answers at APP.DOMAIN",
                    candidate.service
                ),
            );
        } else if !speaks_http(&candidate) {
            let message = format!(
                "port {} does not speak HTTP, and no port of the host is opened: it is private, for services that use it",
                candidate.port
            );
            draft.report.unsupported(at, path, message);
        } else {
            let message = format!(
                "no port of the host is opened: it is private until you give it a host instead of expose, for example \
                 routes = [{{ host = \"{}.example.org\" }}]",
                candidate.service
            );
            draft.report.changed(at, path, message);
        }
    }
}
