//! Small writes as fast as the platform acknowledges them, and what was acknowledged.
//!
//! Lives here: writers of env, secrets and tokens, each with keys of its own, and the comparison after the cut.
//! Does not live here: what takes longer than a call (`Operation`).
//! Invariant: a write is noted as under way before it is sent and as acknowledged as soon as the answer is read.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::super::outcome::{Found, Wrong};
use crate::{Api, ENVIRONMENT};

/// The app that gets env and secrets; it has no release, so nothing follows from them.
pub(super) const LEDGER: &str = "ledger";
/// So many tokens of a writer live at once; each further one ends the oldest.
const TOKENS: usize = 3;

/// How many writes were acknowledged.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) env: u64,
    pub(super) secrets: u64,
    pub(super) tokens: u64,
    pub(super) revocations: u64,
    pub(super) unknown: u64,
}

/// One writer's book.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    writer: usize,
    env: Line,
    secret: Line,
    /// Text and id of those that must work.
    tokens: Vec<(String, String)>,
    /// Of those that must not.
    revoked: BTreeSet<String>,
    /// Asked to be revoked, unanswered.
    doubtful: Option<(String, String)>,
    pub(super) counts: Counts,
}

/// A value that grows by one with each write.
#[derive(Debug, Default)]
struct Line {
    acknowledged: u64,
    is_under_way: bool,
}

impl Line {
    /// Whether that may be there; what is there counts from now on.
    fn take(&mut self, there: u64) -> bool {
        let may = there == self.acknowledged || (self.is_under_way && there == self.acknowledged + 1);
        self.acknowledged = there;
        self.is_under_way = false;
        may
    }
}

impl Ledger {
    pub(super) fn new(writer: usize) -> Self {
        Self {
            writer,
            ..Self::default()
        }
    }

    /// Writes until a call fails, which is when the power has gone, or until it is told to end.
    pub(super) fn write(&mut self, api: &Api, go_on: impl Fn() -> bool) {
        while go_on() {
            if self.round(api).is_err() {
                self.counts.unknown += 1;
                return;
            }
        }
    }

    fn round(&mut self, api: &Api) -> Result<()> {
        let app = format!("{ENVIRONMENT}/apps/{LEDGER}");
        let key = self.key();
        let next = self.env.acknowledged + 1;
        self.env.is_under_way = true;
        let body = json!({ "set": { &key: next.to_string() } });
        send(api, "PATCH", &format!("{app}/env"), Some(&body))?;
        self.env = Line {
            acknowledged: next,
            is_under_way: false,
        };
        self.counts.env += 1;

        let next = self.secret.acknowledged + 1;
        self.secret.is_under_way = true;
        let body = json!({ "value": next.to_string() });
        send(api, "PUT", &format!("{app}/secrets/{key}"), Some(&body))?;
        self.secret = Line {
            acknowledged: next,
            is_under_way: false,
        };
        self.counts.secrets += 1;

        let body = json!({ "name": key, "role": "viewer" });
        let made = send(api, "POST", "/v1/tokens", Some(&body))?;
        let text = made["token"].as_str().context("a token without a text")?;
        let id = made["about"]["id"].as_str().context("a token without an id")?;
        self.tokens.push((text.to_owned(), id.to_owned()));
        self.counts.tokens += 1;

        if self.tokens.len() > TOKENS {
            let (text, id) = self.tokens.remove(0);
            self.doubtful = Some((text.clone(), id.clone()));
            send(api, "DELETE", &format!("/v1/tokens/{id}"), None)?;
            self.doubtful = None;
            self.revoked.insert(text);
            self.counts.revocations += 1;
        }
        Ok(())
    }

    /// Compares with what is there after the cut, and goes on from that.
    pub(super) fn compare(&mut self, api: &Api, found: &mut Found) -> Result<()> {
        let app = format!("{ENVIRONMENT}/apps/{LEDGER}");
        let key = self.key();
        let env = api.get(&format!("{app}/env"))?["env"][&key].clone();
        let there = env.as_str().map_or(Ok(0), str::parse::<u64>)?;
        let expected = format!("env {key}: {:?} expected, {there} there", self.env);
        if !self.env.take(there) {
            found.push((Wrong::Lost, expected));
        }
        let secrets = api.get(&format!("{app}/secrets?limit=60"))?;
        let mine = secrets["items"].as_array().into_iter().flatten();
        let version = mine
            .filter(|secret| secret["key"] == key.as_str())
            .find_map(|secret| secret["version"].as_u64())
            .unwrap_or(0);
        let expected = format!(
            "secret {key}: {:?} expected, version {version} there",
            self.secret
        );
        if !self.secret.take(version) {
            found.push((Wrong::Lost, expected));
        }
        let works = |text: &str| -> Result<bool> {
            let reply = api.with_token(text).call("GET", "/v1/whoami", None)?;
            ensure!(
                matches!(reply.status, 200 | 401),
                "whoami was answered {}",
                reply.status
            );
            Ok(reply.status == 200)
        };
        for (text, id) in &self.tokens {
            if !works(text)? {
                found.push((
                    Wrong::Lost,
                    format!("token {id} of {key} was given and is not known"),
                ));
            }
        }
        for text in &self.revoked {
            if works(text)? {
                found.push((Wrong::Lost, format!("a token of {key} was revoked and works")));
            }
        }
        // A revoked one is looked at once: the cut it could get lost in is over.
        self.revoked.clear();
        if let Some((text, id)) = self.doubtful.take()
            && works(&text)?
        {
            self.tokens.push((text, id));
        }
        Ok(())
    }

    fn key(&self) -> String {
        format!("WRITER_{}", self.writer)
    }
}

/// A call that must succeed.
fn send(api: &Api, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let reply = api.call(method, path, body)?;
    ensure!(
        reply.status < 300,
        "{method} {path} answered {}: {}",
        reply.status,
        reply.body
    );
    Ok(reply.body)
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.env += other.env;
        self.secrets += other.secrets;
        self.tokens += other.tokens;
        self.revocations += other.revocations;
        self.unknown += other.unknown;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} env, {} secrets, {} tokens, {} revocations acknowledged, {} without an answer",
            self.env, self.secrets, self.tokens, self.revocations, self.unknown
        )
    }
}
