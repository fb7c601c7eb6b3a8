//! `deploy`, `scale`, limits, times and `healthcheck` of a service.

use model::manifest::Declared;
use model::{Millis, Resources};

use super::keys;
use super::service::Reading;
use crate::keys::{Found, find, join, walk};
use crate::tree::{Node, Value};

/// What a manifest allows.
const GRACE: (Millis, Millis) = (Millis::seconds(1), Millis::seconds(1800));
const INTERVAL: (Millis, Millis) = (Millis::new(100), Millis::seconds(300));
const TIMEOUT: (Millis, Millis) = (Millis::new(50), Millis::seconds(60));
const STOP: (Millis, Millis) = (Millis::new(0), Millis::seconds(600));

/// The places of one limit, in the order in which they hold.
struct Limit<'t>(Option<Found<'t>>);

impl<'t> Reading<'_, '_, 't> {
    pub(super) fn limits(&mut self, service: &mut Declared) {
        let mut limits = None;
        let mut replicas = None;
        if let Some(deploy) = self.find("deploy") {
            walk(self.report(), &deploy.path, deploy.node, keys::FORM, keys::DEPLOY);
            replicas = find(&deploy.path, deploy.node, "replicas");
            if let Some(resources) = find(&deploy.path, deploy.node, "resources") {
                walk(
                    self.report(),
                    &resources.path,
                    resources.node,
                    keys::FORM,
                    keys::RESOURCES,
                );
                limits = find(&resources.path, resources.node, "limits");
                if let Some(reserved) = find(&resources.path, resources.node, "reservations") {
                    walk(
                        self.report(),
                        &reserved.path,
                        reserved.node,
                        keys::FORM,
                        keys::RESERVATIONS,
                    );
                }
            }
        }
        if let Some(limits) = &limits {
            walk(self.report(), &limits.path, limits.node, keys::FORM, keys::LIMITS);
        }
        let within = |key| {
            limits
                .as_ref()
                .and_then(|limits| find(&limits.path, limits.node, key))
        };
        let cpu = Limit(within("cpus").or_else(|| self.find("cpus")));
        let memory = Limit(within("memory").or_else(|| self.find("mem_limit")));
        let pids = Limit(within("pids").or_else(|| self.find("pids_limit")));
        self.resources(&cpu, &memory, &pids, &mut service.resources);
        if let Some(found) = replicas.or_else(|| self.find("scale"))
            && let Some(text) = found.text(self.report())
            && let Some(count) = self.draft.scale(found.at, &found.path, text)
        {
            service.count = count;
        }
        if let Some(found) = self.find("stop_grace_period")
            && let Some(text) = found.text(self.report())
            && let Some(time) = self.draft.time(found.at, &found.path, text, STOP.0..=STOP.1)
        {
            service.stop_grace = time;
        }
    }

    fn resources(&self, cpu: &Limit<'t>, memory: &Limit<'t>, pids: &Limit<'t>, into: &mut Resources) {
        let text = |limit: &Limit<'t>| {
            let found = limit.0.as_ref()?;
            Some((found.at, found.path.clone(), found.text(self.report())?))
        };
        if let Some((at, path, text)) = text(cpu)
            && let Some(share) = self.draft.cpu(at, &path, text)
        {
            into.cpu = share;
        }
        if let Some((at, path, text)) = text(memory)
            && let Some(bytes) = self.draft.memory(at, &path, text)
        {
            into.memory = bytes;
        }
        if let Some((at, path, text)) = text(pids)
            && let Some(count) = self.draft.pids(at, &path, text)
        {
            into.pids = count;
        }
    }

    pub(super) fn health(&mut self, service: &mut Declared) {
        let Some(found) = self.find("healthcheck") else {
            return;
        };
        walk(
            self.report(),
            &found.path,
            found.node,
            keys::FORM,
            keys::HEALTHCHECK,
        );
        let get = |key: &str| find(&found.path, found.node, key);
        if let Some(start) = get("start_interval") {
            self.report()
                .ignored(start.at, &start.path, "checks have one interval");
        }
        if found.node.get("disable").is_some_and(Node::is_true) {
            let message = "an accepted connection on the port counts as ready";
            self.report()
                .changed(found.at, &join(&found.path, "disable"), message);
            return;
        }
        if service.port.is_none() {
            let message = "there is nothing to check without a port: it counts as ready when it runs";
            self.report().unsupported(found.at, &found.path, message);
            return;
        }
        self.test(get("test"), service);
        let health = &mut service.health;
        for (key, range, into) in [
            ("interval", INTERVAL, &mut health.interval),
            ("timeout", TIMEOUT, &mut health.timeout),
            ("start_period", GRACE, &mut health.grace),
        ] {
            if let Some(found) = get(key)
                && let Some(text) = found.text(self.draft.report)
                && let Some(time) = self.draft.time(found.at, &found.path, text, range.0..=range.1)
            {
                *into = time;
            }
        }
        if let Some(found) = get("retries")
            && let Some(text) = found.text(self.draft.report)
            && let Some(count) = self.draft.whole(found.at, &found.path, text)
        {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            service.health.failures = self.draft.within(found.at, &found.path, count, 1..=100);
        }
    }

    /// A command that asks an address of its own becomes a path; others are not run.
    fn test(&self, found: Option<Found<'t>>, service: &mut Declared) {
        let Some(found) = found else { return };
        let words = match &found.node.value {
            Value::Null => String::new(),
            Value::Text(_) | Value::List(_) | Value::Map(_) => {
                let words = self.texts(&found).into_iter().map(|(_, _, word)| word);
                words.collect::<Vec<_>>().join(" ")
            }
        };
        if words.trim() == "NONE" {
            let message = "an accepted connection on the port counts as ready";
            self.report().changed(found.at, &found.path, message);
            return;
        }
        match asked(&words) {
            Some((port, path)) if Some(port) == service.port => {
                let message = format!("{path} is asked for over HTTP; the command is not run");
                self.report().changed(found.at, &found.path, message);
                service.health.path = Some(path);
            }
            Some(_) | None => {
                let message = "commands are not run as checks: an accepted connection on the port counts as ready; \
                               where the program answers HTTP, write health = { path = \"/\" }";
                self.report().unsupported(found.at, &found.path, message);
            }
        }
    }
}

/// Port and path of the first address of the instance itself in a command.
fn asked(command: &str) -> Option<(u16, String)> {
    let at = command.find("http://")?;
    let address = &command[at + "http://".len()..];
    let end = address
        .find(|c: char| c.is_whitespace() || "'\"|;)`<>".contains(c))
        .unwrap_or(address.len());
    let address = &address[..end];
    let (authority, path) = address
        .find('/')
        .map_or((address, "/"), |slash| address.split_at(slash));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, 80),
    };
    let is_itself = ["localhost", "127.0.0.1", "0.0.0.0", "[::1]"].contains(&host);
    (is_itself && model::manifest::is_health_path(path)).then(|| (port, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::asked;

    #[test]
    fn addresses_of_checks_are_found() {
        for (command, expected) in [
            ("CMD curl -f http://localhost:3000/up", Some((3000, "/up"))),
            ("CMD-SHELL wget -q http://127.0.0.1/ || exit 1", Some((80, "/"))),
            ("curl \"http://localhost:80\"", Some((80, "/"))),
            ("curl http://example.org/", None),
            ("pg_isready", None),
            ("curl http://localhost:x/", None),
        ] {
            let found = asked(command);
            let found = found.as_ref().map(|(port, path)| (*port, path.as_str()));
            assert_eq!(found, expected, "{command}");
        }
    }
}
