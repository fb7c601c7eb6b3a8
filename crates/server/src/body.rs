//! Reading a JSON body: bounded in bytes and time.

use std::time::Duration;

use api::{Body, Endpoint};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use model::Actor;
use serde_json::Value;

use crate::json;
use crate::planted::{self, Defect};
use crate::refusal::Refusal;
use crate::request::parse_pairs;

/// A manifest has at most 256 KiB and grows when it is escaped; secrets are smaller.
const JSON_MAX: usize = 1 << 20;
/// The same of who shows no credential: an address, a name, a password, an invitation.
const JSON_MAX_OF_ANYBODY: usize = 16 << 10;
/// Long enough for a bad line, short enough that nobody holds us.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What browsers send a form as.
const FORM: &str = "application/x-www-form-urlencoded";

/// The most bytes that the body of a request may have.
pub(crate) fn limit(actor: Option<&Actor>) -> usize {
    actor.map_or(JSON_MAX_OF_ANYBODY, |_| JSON_MAX)
}

/// The bytes of a JSON body of at most `limit`; empty when the endpoint takes none.
pub(crate) async fn read(
    endpoint: &Endpoint,
    limit: usize,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Vec<u8>, Refusal> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limit as u64) {
        return Err(Refusal::too_large(limit as u64));
    }
    let bytes = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect())
        .await
        .map_err(|_| Refusal::too_slow())?
        .map_err(|why| {
            if why.is::<LengthLimitError>() {
                Refusal::too_large(limit as u64)
            } else {
                Refusal::bad_request("the body broke off")
            }
        })?
        .to_bytes();
    match endpoint.body {
        Body::None if bytes.is_empty() => Ok(Vec::new()),
        Body::None => Err(Refusal::bad_request("this endpoint takes no body")),
        Body::OptionalJson(_) if bytes.is_empty() => Ok(Vec::new()),
        Body::Json(_) | Body::OptionalJson(_) | Body::Form(_) => {
            let (wanted, refused): (_, fn() -> Refusal) = match endpoint.body {
                Body::Form(_) => (FORM, Refusal::not_a_form),
                _json => ("application/json", Refusal::not_json),
            };
            let media_type = headers
                .get(CONTENT_TYPE)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default();
            let media_type = media_type.split(';').next().unwrap_or_default().trim();
            if media_type.eq_ignore_ascii_case(wanted) {
                Ok(bytes.to_vec())
            } else {
                Err(refused())
            }
        }
        Body::Archive => Ok(Vec::new()),
    }
}

/// The body as JSON that fits the endpoint's schema.
pub(crate) fn check(endpoint: &Endpoint, bytes: &[u8]) -> Result<Value, Refusal> {
    if bytes.is_empty() && !matches!(endpoint.body, Body::Json(_) | Body::Form(_)) {
        return Ok(Value::Null);
    }
    let mut value = match endpoint.body {
        Body::Form(_) => form(bytes)?,
        _json => {
            let read = match planted::is(Defect::TakesTwins) {
                true => serde_json::from_slice(bytes),
                false => json::read(bytes),
            };
            read.map_err(|why| Refusal::bad_request(format!("the body is not JSON: {why}")))?
        }
    };
    let errors = api::validate::body(endpoint, &mut value);
    if planted::is(Defect::TakesAnyMember)
        && let Some(members) = value.as_object_mut()
    {
        let named = |error: &api::FieldError| error.pointer.trim_start_matches('/').to_owned();
        members.retain(|member, _| !errors.iter().any(|error| named(error) == *member));
        return Ok(value);
    }
    if errors.is_empty() {
        Ok(value)
    } else {
        Err(Refusal::invalid(errors))
    }
}

/// The fields of a form, each a text.
fn form(bytes: &[u8]) -> Result<Value, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::bad_request("the form is not UTF-8"))?;
    let mut fields = serde_json::Map::new();
    for (name, value) in parse_pairs(text, "form")? {
        if fields.insert(name, Value::String(value)).is_some() {
            return Err(Refusal::bad_request("a field of the form is given twice"));
        }
    }
    Ok(Value::Object(fields))
}
