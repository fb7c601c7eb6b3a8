//! `environment` of a service: variables, secrets, and whom they name.

use std::borrow::Cow;

use model::EnvKey;
use model::manifest::Declared;

use super::Role;
use super::service::Reading;
use crate::draft::{Kept, looks_secret};
use crate::remark::At;
use crate::tree::{Node, Value};

/// One variable; no value stands for one that comes from the shell.
struct Variable<'t> {
    at: At,
    path: String,
    key: String,
    /// With the values of secrets.
    value: Option<String>,
    /// Of what it was put together.
    node: &'t Node,
}

impl<'t> Reading<'_, '_, 't> {
    pub(super) fn environment(&mut self, service: &mut Declared) {
        for variable in self.variables() {
            self.variable(&variable, service);
        }
        self.mentions_in_command(service);
    }

    fn variables(&self) -> Vec<Variable<'t>> {
        let Some(found) = self.find("environment") else {
            return Vec::new();
        };
        match &found.node.value {
            Value::Map(entries) => entries
                .iter()
                .filter_map(|entry| {
                    let path = format!("{}.{}", found.path, entry.key);
                    if matches!(entry.node.value, Value::List(_) | Value::Map(_)) {
                        let message = format!("must be a text, but is {}; it is left out", entry.node.kind());
                        self.report().unsupported(entry.at, &path, message);
                        return None;
                    }
                    Some(Variable {
                        at: entry.at,
                        path,
                        key: entry.key.clone(),
                        value: entry.node.whole().map(Cow::into_owned),
                        node: &entry.node,
                    })
                })
                .collect(),
            Value::List(nodes) => nodes
                .iter()
                .filter_map(|node| self.pair(&found.path, node))
                .collect(),
            Value::Null => Vec::new(),
            Value::Text(_) => {
                let message = "must be a table or a list; it is left out";
                self.report().unsupported(found.at, &found.path, message);
                Vec::new()
            }
        }
    }

    /// `KEY=VALUE`, or `KEY` alone.
    fn pair(&self, path: &str, node: &'t Node) -> Option<Variable<'t>> {
        let Some(text) = node.whole() else {
            let message = format!("must be a text, but is {}; it is left out", node.kind());
            self.report().unsupported(node.at, path, message);
            return None;
        };
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (text.into_owned(), None),
        };
        // A value in the place of the name would be told in every message about it.
        let open = node.text().unwrap_or_default();
        if open.split_once('=').map_or(open, |(key, _)| key) != key {
            let message = "a secret stands where the name of a variable should; it is left out";
            self.report().unsupported(node.at, path, message);
            return None;
        }
        Some(Variable {
            at: node.at,
            path: format!("{path}.{key}"),
            key,
            value,
            node,
        })
    }

    fn variable(&mut self, variable: &Variable<'t>, service: &mut Declared) {
        let Variable {
            at, path, key, node, ..
        } = variable;
        let value = variable.value.as_deref();
        let named: Vec<&String> = self
            .roles
            .keys()
            .filter(|other| value.is_some_and(|value| names_host(value, other)))
            .collect();
        for other in &named {
            self.uses.insert((*other).clone());
        }
        if let Some(other) = named.iter().find(|other| self.is_set_by_stoa(key, other)) {
            let message = format!("Stoa sets it for whoever uses {other}");
            self.report().ignored(*at, path, message);
            return;
        }
        let database = named
            .iter()
            .find(|other| matches!(self.roles.get(**other), Some(Role::Database(_))));
        if let Some(database) = database {
            let message = format!(
                "leads to the database {database}, whose address and login are Stoa's: it is left out; give the program \
                 what Stoa sets: DATABASE_URL, PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE"
            );
            self.report().unsupported(*at, path, message);
            return;
        }
        if key == "PORT"
            && let Some(port) = value
                .and_then(|value| value.parse().ok())
                .filter(|port| *port > 0)
        {
            service.port.get_or_insert(port);
        }
        let unset = node.unset();
        if !unset.is_empty() {
            // A value that is not all there must be completed by somebody, and only a secret is asked for.
            let message = format!(
                "{} has no value: put it into .env beside the file and try again, or set the whole: stoa secrets set {key}",
                unset.join(", ")
            );
            let key = self.draft.secret(*at, path, key, None, message);
            service.secrets.extend(key);
            return;
        }
        let hidden = node.secret();
        if !hidden.is_empty() && !value.is_some_and(|value| looks_secret(key, value)) {
            let message = format!(
                "holds {} of .env, which looks like a secret, so the value is left out; set it: stoa secrets set {key}",
                hidden.join(", ")
            );
            let key = self.draft.secret(*at, path, key, value, message);
            service.secrets.extend(key);
            return;
        }
        match self.draft.variable(*at, path, key, value) {
            Kept::Secret(key) => {
                service.secrets.insert(key);
            }
            Kept::Plain => self.mention_given(path, node),
            Kept::Not => {}
        }
    }

    /// Whether a variable is one of those that whoever uses `other` gets from Stoa.
    fn is_set_by_stoa(&self, key: &str, other: &str) -> bool {
        let (name, is_database) = match self.roles.get(other) {
            Some(Role::Database(name)) => (name, true),
            Some(Role::Service(name)) => (name, false),
            Some(Role::Job(_) | Role::None) | None => return false,
        };
        let prefix = name.as_str().to_ascii_uppercase().replace('-', "_");
        key.strip_suffix("_URL") == Some(&prefix) || is_database && EnvKey::leads_to_database(key)
    }

    /// `--db=redis:6379` names a service as well as a variable does.
    fn mentions_in_command(&mut self, service: &Declared) {
        let words = service.command.iter().flatten();
        let named: Vec<String> = words
            .flat_map(|word| {
                let value = word.split_once('=').map_or(word.as_str(), |(_, value)| value);
                self.roles.keys().filter(move |other| names_host(value, other))
            })
            .cloned()
            .collect();
        self.uses.extend(named);
    }
}

/// Whether a value names a host: alone, before a port, or within an address.
fn names_host(value: &str, host: &str) -> bool {
    value.split(',').map(str::trim).any(|part| {
        let rest = part.split_once("://").map_or(part, |(_, rest)| rest);
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        let is_address = part.contains("://") || place.contains(':') || part == host;
        is_address && place.split(':').next() == Some(host)
    })
}

#[cfg(test)]
mod tests {
    use super::names_host;

    #[test]
    fn hosts_are_found_in_values() {
        for (value, named) in [
            ("db", true),
            ("db:5432", true),
            ("postgres://u:p@db:5432/x", true),
            ("postgres://db/x", true),
            ("http://other/db", false),
            ("database", false),
            ("a,db:1", true),
            ("db/x", false),
            ("", false),
        ] {
            assert_eq!(names_host(value, "db"), named, "{value}");
        }
    }
}
