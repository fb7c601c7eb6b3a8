//! Matching: which service answers a host and path.
//!
//! Lives here: the index over a table's routes, and the order in which matches win.
//! Does not live here: readings of a path (`path`), instances (`pick`).
//! Invariant: the host decides first (exact, then the most specific wildcard), then the longest path prefix on whole
//! segments. A host that has routes never falls back to a wildcard: a path it does not route is its own 404.

use std::collections::HashMap;

use crate::path::{Readings, readings};
use crate::table::{Route, Table};

/// Where requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match<'i> {
    /// Position of the service in the table.
    pub(crate) service: usize,
    /// The prefix the instance must not see.
    pub(crate) strip: Option<&'i str>,
}

/// Why nothing answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoute {
    /// No route names the host.
    Host,
    /// The host is known, the path below it is not.
    Path,
    /// Router and backend could read the path differently.
    Ambiguous,
}

/// The routes of one table, ready to be asked.
#[derive(Debug, Default)]
pub(crate) struct Index {
    exact: HashMap<Box<str>, Prefixes>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Prefixes>,
}

/// Longest first.
type Prefixes = Vec<Entry>;

#[derive(Debug)]
struct Entry {
    /// Without the final slash: the root is empty.
    prefix: Box<str>,
    strip: bool,
    service: usize,
}

impl Index {
    pub(crate) fn new(table: &Table) -> Index {
        let positions: HashMap<&str, usize> = table
            .services
            .iter()
            .enumerate()
            .map(|(n, s)| (s.id.as_str(), n))
            .collect();
        let mut index = Index::default();
        for Route {
            host,
            path_prefix,
            strip,
            service,
        } in &table.routes
        {
            let Some(&service) = positions.get(service.as_str()) else {
                continue;
            };
            let prefix = path_prefix.trim_end_matches('/').into();
            let hosts = match host.strip_prefix("*.") {
                Some(suffix) => index.wildcard.entry(suffix.into()),
                None => index.exact.entry(host.as_str().into()),
            };
            hosts.or_default().push(Entry {
                prefix,
                strip: *strip,
                service,
            });
        }
        for prefixes in index.exact.values_mut().chain(index.wildcard.values_mut()) {
            prefixes.sort_by_key(|e| std::cmp::Reverse(e.prefix.len()));
        }
        index
    }

    /// Whether any route names the host (canonical: lower case, no port, no final dot).
    pub(crate) fn knows(&self, host: &str) -> bool {
        self.prefixes(host).is_some()
    }

    /// The service for a canonical host and a raw path (without query).
    pub(crate) fn find(&self, host: &str, path: &str) -> Result<Match<'_>, NoRoute> {
        let prefixes = self.prefixes(host).ok_or(NoRoute::Host)?;
        let found = longest(prefixes, path);
        match readings(path).map_err(|_| NoRoute::Ambiguous)? {
            Readings::Plain => {}
            Readings::Also(other) => {
                let same = |a: &Entry, b: &Entry| std::ptr::eq(a, b);
                match (found, longest(prefixes, &other)) {
                    (Some(raw), Some(decoded)) if same(raw, decoded) => {}
                    (None, None) => {}
                    (Some(_) | None, Some(_) | None) => return Err(NoRoute::Ambiguous),
                }
            }
        }
        let entry = found.ok_or(NoRoute::Path)?;
        let strip = (entry.strip && !entry.prefix.is_empty()).then_some(&*entry.prefix);
        Ok(Match {
            service: entry.service,
            strip,
        })
    }

    fn prefixes(&self, host: &str) -> Option<&Prefixes> {
        if let Some(found) = self.exact.get(host) {
            return Some(found);
        }
        if self.wildcard.is_empty() {
            return None;
        }
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(found) = self.wildcard.get(parent) {
                return Some(found);
            }
            rest = parent;
        }
        None
    }
}

fn longest<'i>(prefixes: &'i Prefixes, path: &str) -> Option<&'i Entry> {
    prefixes.iter().find(|entry| {
        path.strip_prefix(&*entry.prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Policy, RouteTable};

    fn index() -> Index {
        let document = r#"{"version":1,"generation":1,
            "services":[{"id":"web","app":"a","release":"v1"},{"id":"api","app":"a","release":"v1"},
                        {"id":"any","app":"b","release":"v1"},{"id":"deep","app":"c","release":"v1"}],
            "routes":[{"host":"a.example","service":"web"},
                      {"host":"a.example","path_prefix":"/api","strip":true,"service":"api"},
                      {"host":"a.example","path_prefix":"/api/v2/","service":"deep"},
                      {"host":"only.example","path_prefix":"/x","service":"api"},
                      {"host":"*.example","service":"any"},
                      {"host":"*.b.example","service":"deep"}]}"#
            .replace("*.example", "*.sub.example");
        Index::new(
            RouteTable::parse(document.as_bytes(), &Policy::default())
                .unwrap()
                .table(),
        )
    }

    fn check(host: &str, path: &str, expected: Result<(usize, Option<&str>), NoRoute>) {
        let index = index();
        let found = index.find(host, path).map(|m| (m.service, m.strip));
        assert_eq!(found, expected, "{host}{path}");
    }

    #[test]
    fn the_host_decides_then_the_longest_prefix() {
        check("a.example", "/", Ok((0, None)));
        check("a.example", "/apifoo", Ok((0, None)));
        check("a.example", "/api", Ok((1, Some("/api"))));
        check("a.example", "/api/x", Ok((1, Some("/api"))));
        check("a.example", "/api/v2", Ok((3, None)));
        check("a.example", "/api/v2/x", Ok((3, None)));
        check("a.example", "/api/v22", Ok((1, Some("/api"))));
        check("x.sub.example", "/", Ok((2, None)));
        check("y.x.sub.example", "/", Ok((2, None)));
        check("y.b.example", "/", Ok((3, None)));
        check("sub.example", "/", Err(NoRoute::Host));
        check("b.example", "/", Err(NoRoute::Host));
        check("", "/", Err(NoRoute::Host));
        check("only.example", "/x", Ok((1, None)));
        check("only.example", "/", Err(NoRoute::Path));
    }

    #[test]
    fn a_path_that_reads_two_ways_meets_one_route_or_none() {
        check("a.example", "/api/../x", Err(NoRoute::Ambiguous));
        check("a.example", "/%61pi/x", Err(NoRoute::Ambiguous));
        check("a.example", "//api/x", Err(NoRoute::Ambiguous));
        check("a.example", "/api%2fx", Err(NoRoute::Ambiguous));
        check("a.example", "/api%252fx", Err(NoRoute::Ambiguous));
        check("a.example", "/api/@scope%2fname", Ok((1, Some("/api"))));
        check("a.example", "/x//y", Ok((0, None)));
    }
}
