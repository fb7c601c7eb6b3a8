//! One request as its handler sees it: who, on what, with which values.

use std::sync::Arc;
use std::time::Duration;

use api::endpoint::QueryKind;
use api::{Endpoint, FieldError};
use control::people::Source;
use control::{Control, EnvPath};
use model::{Actor, EnvKey, Millis, Name, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Shared;
use crate::credential::{self, Credential, still_counts};
use crate::listen::Peer;
use crate::refusal::Refusal;

/// One request as its handler sees it.
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    pub(crate) endpoint: &'static Endpoint,
    pub(crate) actor: Option<Actor>,
    /// What was shown, to look at it again while a stream is open.
    pub(crate) credential: Option<Credential>,
    pub(crate) peer: Peer,
    /// What the browser is signed in by, also where none needs to be.
    pub(crate) browser: Option<Credential>,
    /// By what a browser that comes back from an identity provider is known.
    pub(crate) state: Option<String>,
    /// Where the request comes from, for counting wrong guesses.
    pub(crate) source: Source,
    /// What the client says it is.
    pub(crate) agent: String,
    pub(crate) parameters: Vec<(&'static str, String)>,
    pub(crate) query: Vec<(String, String)>,
    /// The body: checked against the endpoint's schema. Null when there is none.
    pub(crate) body: Value,
    pub(crate) wants_events: bool,
    /// Whether `Accept` asks for a page: a person looks at it.
    pub(crate) wants_page: bool,
    pub(crate) last_event_id: Option<String>,
    /// The generation that `If-Match` demands.
    pub(crate) expected: Option<u64>,
    /// The digest that it demands.
    pub(crate) digest: Option<String>,
}

impl Call {
    pub(crate) fn control(&self) -> &Control {
        &self.shared.control
    }

    /// Who is signed in with the browser, if anybody is.
    pub(crate) fn browser(&self) -> Result<Option<Actor>, Refusal> {
        let Some(shown) = &self.browser else {
            return Ok(None);
        };
        match credential::authenticate(&self.shared, self.peer, Some(shown)) {
            Ok(actor) => Ok(Some(actor)),
            Err(refusal) if refusal.status() == 401 => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    pub(crate) fn actor(&self) -> Result<&Actor, Refusal> {
        self.actor.as_ref().ok_or_else(Refusal::sign_in)
    }

    /// Refuses what was shown if it does not count any more: for what goes on after the answer has begun.
    pub(crate) fn still_counts(&self) -> Result<(), Refusal> {
        still_counts(&self.shared, self.peer, self.credential.as_ref())
    }

    /// The same, for longer than the call lives.
    pub(crate) fn glance(&self) -> Arc<dyn Fn() -> Result<(), Refusal> + Send + Sync> {
        let (shared, peer, credential) = (Arc::clone(&self.shared), self.peer, self.credential.clone());
        Arc::new(move || still_counts(&shared, peer, credential.as_ref()))
    }

    /// A parameter of the path. The endpoint list names them, so a missing one is a defect.
    pub(crate) fn parameter(&self, name: &str) -> Result<&str, Refusal> {
        let found = self.parameters.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| Refusal::internal(format!("{} has no parameter {name}", self.endpoint.id)))
    }

    /// The environment of the path.
    pub(crate) fn place(&self) -> Result<EnvPath, Refusal> {
        Ok(EnvPath {
            org: self.parameter("org")?.to_owned(),
            project: self.parameter("project")?.to_owned(),
            environment: self.parameter("environment")?.to_owned(),
        })
    }

    /// The body as its type. It fits the schema; what a schema can not say (a name, a variable) is said here.
    pub(crate) fn body<T: DeserializeOwned + Default>(&self) -> Result<T, Refusal> {
        if self.body.is_null() {
            Ok(T::default())
        } else {
            self.needed_body()
        }
    }

    /// The same for endpoints that must have one.
    pub(crate) fn needed_body<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        T::deserialize(&self.body).map_err(|why| Refusal::field("", why.to_string()))
    }

    /// A parameter of the query.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.query(name)?.parse().ok()
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.query(name) == Some("true")
    }

    /// Whether nothing may come of it.
    pub(crate) fn is_dry(&self) -> bool {
        self.endpoint.is_mutation() && self.is_set("dry_run")
    }

    pub(crate) fn duration(&self, name: &str) -> Option<Duration> {
        self.query(name)?.parse::<Millis>().ok().map(Millis::as_duration)
    }
}

/// Everything wrong with the query. What an endpoint does not know is refused, so that a token in an address, or a
/// misspelt filter, is never silently passed over.
pub(crate) fn check_query(endpoint: &Endpoint, query: &[(String, String)]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // Providers add what they like (RFC 6749, 4.1.2), and their codes may be long.
    let is_callback = endpoint.id == api::endpoints::OIDC_FINISH.id;
    for (index, (name, value)) in query.iter().enumerate() {
        let mut refuse = |message: String| {
            errors.push(FieldError {
                pointer: format!("?{name}"),
                message,
            });
        };
        let Some(known) = endpoint.queries().find(|known| known.name == name) else {
            if is_callback {
                continue;
            }
            refuse(match name.as_str() {
                "token" | "access_token" | "api_key" => {
                    "a credential never belongs into an address; send it as Authorization: Bearer".to_owned()
                }
                _ => "is not known here".to_owned(),
            });
            continue;
        };
        if query[..index].iter().any(|(earlier, _)| earlier == name) {
            refuse("is given twice".to_owned());
        }
        match known.kind {
            QueryKind::Text if is_callback => {}
            QueryKind::Text | QueryKind::Form(_) if value.chars().count() > 1000 => {
                refuse("is too long".to_owned());
            }
            QueryKind::Text | QueryKind::Form(_) => {}
            QueryKind::Integer(least, most) => {
                if !value
                    .parse::<u64>()
                    .is_ok_and(|number| (least..=most).contains(&number))
                {
                    refuse(format!("must be a whole number from {least} to {most}"));
                }
            }
            QueryKind::Boolean if value == "true" || value == "false" => {}
            QueryKind::Boolean => refuse("must be true or false".to_owned()),
            QueryKind::Duration => {
                if let Err(why) = value.parse::<Millis>() {
                    refuse(why.to_string());
                }
            }
        }
    }
    errors
}

/// A name from the body.
pub(crate) fn name(text: &str, at: &str) -> Result<Name, Refusal> {
    text.parse()
        .map_err(|why: model::NameError| Refusal::field(at, why.to_string()))
}

/// A variable's name from the body or path.
pub(crate) fn key(text: &str, at: &str) -> Result<EnvKey, Refusal> {
    text.parse()
        .map_err(|why: model::NameError| Refusal::field(at, why.to_string()))
}

/// A moment: RFC 3339, or a span before now.
pub(crate) fn moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    let span = text.parse::<Millis>().ok()?;
    Some(Timestamp::from_ms(now.as_ms().saturating_sub(span.as_ms())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::endpoints as e;

    #[test]
    fn queries_are_checked() {
        for (endpoint, query, wrong) in [
            (&e::APP_LIST, &[("limit", "500")][..], &[][..]),
            (&e::APP_LIST, &[("limit", "501")], &["?limit"]),
            (&e::APP_LIST, &[("limit", "0"), ("x", "1")], &["?limit", "?x"]),
            (&e::APP_LIST, &[("limit", "1"), ("limit", "2")], &["?limit"]),
            (&e::APP_LIST, &[("token", "stoa_pat_x")], &["?token"]),
            (
                &e::APP_LOGS,
                &[("follow", "yes"), ("tail", "-1")],
                &["?follow", "?tail"],
            ),
            (&e::OPERATION_VIEW, &[("wait", "30")], &["?wait"]),
            (
                &e::OIDC_FINISH,
                &[("session_state", "x"), ("code", "a"), ("code", "b")],
                &["?code"],
            ),
        ] {
            let query: Vec<(String, String)> = query
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect();
            let found: Vec<String> = check_query(endpoint, &query)
                .into_iter()
                .map(|e| e.pointer)
                .collect();
            assert_eq!(found, wrong, "{query:?}");
        }
    }

    #[test]
    fn moments_are_times_or_spans() {
        let now = Timestamp::from_ms(10_000_000);
        assert_eq!(moment("1h", now), Some(Timestamp::from_ms(6_400_000)));
        assert_eq!(
            moment("1970-01-01T00:00:01Z", now),
            Some(Timestamp::from_ms(1000))
        );
        assert_eq!(moment("yesterday", now), None);
    }
}
