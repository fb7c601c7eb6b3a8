//! The same request sent twice with one `Idempotency-Key` has one effect and one answer.
//!
//! Lives here: what a request's fingerprint covers, and replaying. Does not live here: keeping the answers (`store`).
//! Invariant: only success is kept; a request that failed had no effect and may be sent again with its key. One that had
//! its effect keeps the key, also when its answer was lost.

use api::{Endpoint, Method};
use http::HeaderMap;
use sha2::{Digest as _, Sha256};

use crate::answer::{Reply, operation_at};
use crate::call::Call;
use crate::refusal::Refusal;
use crate::request::Act;
use control::{Begun, idempotency};

const KEY_MAX: usize = 200;

/// The key of a request, where the endpoint heeds one.
pub(crate) fn key(endpoint: &Endpoint, headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    if endpoint.method != Method::Post || !api::document::is_repeatable(endpoint) {
        return Ok(None);
    }
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > KEY_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::bad_request(
            "Idempotency-Key must be 1 to 200 visible ASCII characters",
        ));
    }
    Ok(Some(text.to_owned()))
}

/// Acts, or answers as before.
pub(crate) fn once(call: &Call, key: Option<&str>, body: &[u8], act: Act) -> Result<Reply, Refusal> {
    let (Some(key), Some(actor)) = (key, &call.actor) else {
        return act(call);
    };
    let actor = actor.describe();
    let fingerprint = fingerprint(call, body);
    match idempotency::begin(call.control(), &actor, key, &fingerprint)? {
        Begun::Fresh => {}
        Begun::Replay { status, answer } => return Ok(replay(status, answer.expose())),
        Begun::Mismatch => return Err(Refusal::key_reused()),
        Begun::InProgress => return Err(Refusal::key_running()),
        Begun::Done => return Err(Refusal::key_done()),
    }
    // Given back also when `act` panics.
    let mut claim = Claim {
        call,
        actor: &actor,
        key,
        is_kept: false,
    };
    let reply = control::with_key(&actor, key, || act(call))?;
    if let Reply::Json { status, body, .. } = &reply {
        idempotency::finish(call.control(), &actor, key, *status, body)?;
        claim.is_kept = true;
    }
    Ok(reply)
}

struct Claim<'c> {
    call: &'c Call,
    actor: &'c str,
    key: &'c str,
    is_kept: bool,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(cause) = idempotency::abandon(self.call.control(), self.actor, self.key) {
            tracing::warn!(%cause, "an idempotency key could not be given back; it is free after a restart");
        }
    }
}

/// Method, path with its parameters, and body.
fn fingerprint(call: &Call, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(call.endpoint.id.as_bytes());
    for (_, value) in &call.parameters {
        hash.update((value.len() as u64).to_be_bytes());
        hash.update(value.as_bytes());
    }
    hash.update(body);
    hash.finalize().into()
}

/// Headers follow from the body: an operation's address, a thing's generation.
fn replay(status: u16, body: &[u8]) -> Reply {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let location = if status == 202 {
        value["id"].as_str().map(operation_at)
    } else {
        None
    };
    Reply::Json {
        status,
        body: body.to_vec(),
        etag: value["generation"]
            .as_u64()
            .map(|generation| generation.to_string()),
        location,
        cookie: None,
    }
}
