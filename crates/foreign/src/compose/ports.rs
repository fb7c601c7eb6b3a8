//! `ports` and `expose`: which port a service has, and whether the public may reach it.

use std::net::IpAddr;

use model::manifest::Declared;

use super::keys;
use super::published::Candidate;
use super::service::Reading;
use crate::keys::walk;
use crate::remark::At;
use crate::tree::Node;

/// What an image of this name listens on when the file does not say.
const WELL_KNOWN: [(&str, u16); 12] = [
    ("elasticsearch", 9200),
    ("mariadb", 3306),
    ("memcached", 11_211),
    ("minio", 9000),
    ("mongo", 27_017),
    ("mysql", 3306),
    ("nats", 4222),
    ("nginx", 80),
    ("opensearch", 9200),
    ("rabbitmq", 5672),
    ("redis", 6379),
    ("valkey", 6379),
];

/// One port of the instance.
struct Port {
    at: At,
    path: String,
    number: u16,
    reach: Reach,
}

/// Who reaches a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Anybody,
    /// Only the host itself: `127.0.0.1:8080:80`.
    Host,
}

impl Reading<'_, '_, '_> {
    pub(super) fn ports(&mut self, service: &mut Declared) {
        let all = self.published_ports();
        let (published, of_host): (Vec<Port>, Vec<Port>) =
            all.into_iter().partition(|port| port.reach == Reach::Anybody);
        for port in &of_host {
            let message = "only the host itself reaches it there: no port of the host is opened, and here it is private";
            self.report().changed(port.at, &port.path, message);
        }
        let exposed = self.exposed();
        let mut chosen: Option<u16> = None;
        for port in published.iter().chain(&of_host).chain(&exposed) {
            match chosen {
                None => chosen = Some(port.number),
                Some(first) if first != port.number => {
                    let message = format!(
                        "a service has one port, and that is {first}: port {} is not reached",
                        port.number
                    );
                    self.report().unsupported(port.at, &port.path, message);
                }
                Some(_) => {}
            }
        }
        if let Some(first) = published.into_iter().next() {
            self.published.push(Candidate {
                service: self.name.clone(),
                at: first.at,
                path: first.path,
                port: first.number,
            });
        }
        if chosen.is_none()
            && let Some((image, port)) = service.image.as_deref().and_then(well_known)
        {
            let message = format!("port {port} is what {image} usually listens on");
            self.report().changed(self.node.at, self.path, message);
            chosen = Some(port);
        }
        service.port = chosen;
    }

    fn published_ports(&self) -> Vec<Port> {
        let Some(found) = self.find("ports") else {
            return Vec::new();
        };
        let items = found.items(self.report()).into_iter();
        items.filter_map(|(path, node)| self.port(node, path)).collect()
    }

    fn exposed(&self) -> Vec<Port> {
        let Some(found) = self.find("expose") else {
            return Vec::new();
        };
        let texts = self.texts(&found);
        texts
            .into_iter()
            .filter_map(|(at, path, text)| self.number(at, path, text, Reach::Anybody))
            .collect()
    }

    /// `[[ADDRESS:]HOST:]PORT[/PROTOCOL]`, or a table with `target`.
    fn port(&self, node: &Node, path: String) -> Option<Port> {
        if node.map().is_some() {
            walk(self.report(), &path, node, keys::FORM, keys::PORT);
            let protocol = node.get("protocol").and_then(Node::text);
            if protocol.is_some_and(|protocol| protocol != "tcp") {
                self.no_udp(node.at, &path);
                return None;
            }
            let target = node.get("target").and_then(Node::text).unwrap_or_default();
            let host = node.get("host_ip").and_then(Node::text).unwrap_or_default();
            return self.number(node.at, path, target, reach(host));
        }
        let text = node.text().unwrap_or_default();
        let (outside, inside) = text.rsplit_once(':').unwrap_or(("", text));
        let host = outside.rsplit_once(':').map_or("", |(host, _)| host);
        self.number(node.at, path, inside, reach(host))
    }

    fn no_udp(&self, at: At, path: &str) {
        let message = "only TCP reaches an instance: it is left out";
        self.report().unsupported(at, path, message);
    }

    fn number(&self, at: At, path: String, text: &str, reach: Reach) -> Option<Port> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        if protocol != "tcp" {
            self.no_udp(at, &path);
            return None;
        }
        match number.parse::<u16>() {
            Ok(number) if number > 0 => Some(Port {
                at,
                path,
                number,
                reach,
            }),
            Ok(_) | Err(_) => {
                self.draft
                    .not_understood(at, &path, text, "one port (a service has one, no range)");
                None
            }
        }
    }
}

/// By the address of the host that a port is opened at.
fn reach(host: &str) -> Reach {
    let host = host.trim_matches(['[', ']']);
    let is_local = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    if is_local { Reach::Host } else { Reach::Anybody }
}

/// The last part of an image's name without its tag, and its usual port.
fn well_known(image: &str) -> Option<(&'static str, u16)> {
    let name = image.rsplit('/').next()?;
    let name = name.split([':', '@']).next()?;
    WELL_KNOWN.iter().find(|(known, _)| *known == name).copied()
}
