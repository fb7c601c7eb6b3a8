//! One request, from head to answer: route, authenticate, authorise, body, act.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use api::endpoint::{Method, Need};
use api::{Endpoint, endpoints as e};
use control::authorize::{self, Reach};
use http::header::{ACCEPT, IF_MATCH, USER_AGENT};
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use model::RequestId;

use crate::answer::{self, Outgoing, Reply};
use crate::call::{Call, check_query};
use crate::listen::Peer;
use crate::metrics::Metrics;
use crate::planted::{self, Defect};
use crate::rate::{Standing, Who};
use crate::refusal::Refusal;
use crate::route::{self, Found, Handler};
use crate::{Shared, body, credential, dry_run, exec, idempotency, upload};

/// Answers one request, whatever happens.
pub(crate) async fn serve(shared: Arc<Shared>, peer: Peer, request: Request<Incoming>) -> Response<Outgoing> {
    let id = RequestId::fresh().to_string();
    let began = Instant::now();
    let method = request.method().clone();
    let mut name = "none";
    let standing = Arc::default();
    let mut response = match phases(&shared, peer, request, &mut name, &standing).await {
        Ok(response) => response,
        Err(refusal) => {
            if let Some(inner) = refusal.inner() {
                tracing::error!(request = %id, endpoint = name, cause = inner, "a request failed inside");
            }
            answer::refused(&refusal, &id)
        }
    };
    answer::seal(&mut response, &id, standing.get());
    let status = response.status().as_u16();
    shared.metrics.count(name, status);
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    // Never the query or the body: they may hold what is nobody's business.
    tracing::debug!(request = %id, %method, endpoint = name, status, ms, "answered");
    response
}

async fn phases(
    shared: &Arc<Shared>,
    peer: Peer,
    mut request: Request<Incoming>,
    name: &mut &'static str,
    standing: &Arc<OnceLock<Standing>>,
) -> Result<Response<Outgoing>, Refusal> {
    let found = match route::find(request.method(), request.uri().path()) {
        Ok(found) => found,
        Err(refusal) => {
            charge(shared, stranger(peer, name).as_ref(), standing)?;
            return Err(refusal);
        }
    };
    *name = found.endpoint.id;
    let upgrade = match found.handler {
        Handler::Exec(_) => Some(hyper::upgrade::on(&mut request)),
        Handler::Act(_) | Handler::Upload => None,
    };
    let (head, incoming) = request.into_parts();
    let handler = found.handler;
    let mut call = {
        let (shared, headers, standing) = (Arc::clone(shared), head.headers.clone(), Arc::clone(standing));
        let query = head.uri.query().unwrap_or_default().to_owned();
        blocking(&Arc::clone(&shared), move || {
            admit(shared, peer, found, &headers, &query, &standing)
        })
        .await?
    };
    if let Handler::Upload = handler {
        refuse_bad_query(&call)?;
        return Ok(upload::receive(call, &head.headers, incoming)
            .await?
            .into_response());
    }
    let bytes = body::read(
        call.endpoint,
        body::limit(call.actor.as_ref()),
        &head.headers,
        incoming,
    )
    .await?;
    match (handler, upgrade) {
        (Handler::Act(act), _) => {
            let key = idempotency::key(call.endpoint, &head.headers)?;
            let reply = blocking(shared, move || {
                check(&mut call, &bytes)?;
                match call.is_dry() {
                    true if call.endpoint.foretells => act(&call),
                    true => dry_run::of(|| act(&call).map(|reply| reply.status())),
                    false => idempotency::once(&call, key.as_deref(), &bytes, act),
                }
            });
            Ok(reply.await?.into_response())
        }
        (Handler::Exec(begin), Some(_)) if call.is_dry() => {
            let reply = blocking(shared, move || {
                check(&mut call, &bytes)?;
                dry_run::of(|| begin(&call).map(|_| 101))
            });
            Ok(reply.await?.into_response())
        }
        (Handler::Exec(begin), Some(upgrade)) => {
            if !exec::is_asked_for(&head.headers) {
                return Err(Refusal::no_upgrade());
            }
            let permit = exec::permit(shared, call.endpoint)?;
            let (streams, call) = blocking(shared, move || {
                check(&mut call, &bytes)?;
                let streams = begin(&call)?;
                let streams = streams.ok_or_else(|| Refusal::internal("an exec that was only rehearsed"))?;
                Ok((streams, call))
            })
            .await?;
            let may_go_on = move || call.still_counts().and_then(|()| gate(&call));
            Ok(exec::hand_over(
                streams,
                upgrade,
                permit,
                Box::new(may_go_on),
                exec::IDLE_MAX,
            ))
        }
        (Handler::Exec(_), None) | (Handler::Upload, _) => {
            Err(Refusal::internal("a handler without its connection"))
        }
    }
}

/// Runs what blocks on a thread that may. A panic there costs this request only.
pub(crate) async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    guarded(&shared.metrics, work).await
}

async fn guarded<T: Send + 'static>(
    metrics: &Metrics,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(cause) => {
            metrics.count_panic();
            Err(Refusal::internal(format!("a panic: {cause}")))
        }
    }
}

/// Authenticates, then authorises for what the path names, before anything of the request's content counts.
fn admit(
    shared: Arc<Shared>,
    peer: Peer,
    found: Found,
    headers: &HeaderMap,
    query: &str,
    standing: &OnceLock<Standing>,
) -> Result<Call, Refusal> {
    // Where none is needed nobody looks at it: a broken one keeps nobody from signing in or from reading.
    let credential = match found.endpoint.need {
        Need::Nothing => None,
        Need::Credential | Need::Right(_) | Need::Installation(_) => credential::shown(headers)?,
    };
    let asks = match found.endpoint.need {
        Need::Nothing => {
            credential::refuse_sign_in_from_elsewhere(found.endpoint.method, headers)?;
            Ok(None)
        }
        Need::Credential | Need::Right(_) | Need::Installation(_) => {
            credential::refuse_cross_site(found.endpoint.method, credential.as_ref(), headers)?;
            credential::authenticate(&shared, peer, credential.as_ref()).map(Some)
        }
    };
    let who = match &asks {
        Ok(Some(actor)) => Who::of(actor),
        Ok(None) if is_free(found.endpoint) => None,
        Ok(None) => stranger(peer, found.endpoint.id),
        Err(_) if matches!(peer, Peer::Root { .. }) => None,
        Err(_) => Some(Who::Refused(credential::source(peer))),
    };
    charge(&shared, who.as_ref(), standing)?;
    let actor = asks?;
    let call = Call {
        shared,
        endpoint: found.endpoint,
        actor,
        credential,
        peer,
        state: credential::state(headers),
        browser: credential::browser(headers),
        source: credential::source(peer),
        agent: header(headers, &USER_AGENT).unwrap_or_default().to_owned(),
        parameters: found.parameters,
        query: parse_pairs(query, "query")?,
        body: serde_json::Value::Null,
        wants_page: header(headers, &ACCEPT).is_some_and(|accept| accept.contains("text/html")),
        wants_events: header(headers, &ACCEPT).is_some_and(|accept| accept.contains("text/event-stream")),
        last_event_id: headers
            .get("last-event-id")
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned),
        expected: None,
        digest: None,
    };
    if !planted::is(Defect::ForgetsTheGate) {
        gate(&call).inspect_err(|refusal| record(&call, refusal))?;
    }
    let tag = match call.endpoint.is_conditional {
        true => if_match(headers)?,
        false => None,
    };
    let (expected, digest) = match call.endpoint.is_by_digest {
        true => (None, tag.map(|tag| digest(&tag)).transpose()?),
        false => (tag.map(|tag| generation(&tag)).transpose()?, None),
    };
    Ok(Call {
        expected,
        digest,
        ..call
    })
}

/// What must answer whoever asks, however often others do: whether we are well, and the ways in. Passwords are counted by
/// account and source (`people::Throttle`); an invitation or claim that is not there costs a look.
fn is_free(endpoint: &Endpoint) -> bool {
    [
        &e::HEALTH,
        &e::READINESS,
        &e::SESSION_CREATE,
        &e::DEVICE_PAGE_SIGN_IN,
        &e::INVITATION_ACCEPT,
        &e::CLAIM,
    ]
    .iter()
    .any(|free| free.id == endpoint.id)
}

/// Whose bucket a request without a credential takes from; nothing for root on the host, who must always get in.
fn stranger(peer: Peer, at: &'static str) -> Option<Who> {
    match peer {
        Peer::Root { .. } => None,
        Peer::Anybody { .. } | Peer::LocalUser => Some(Who::Anybody(at, credential::source(peer))),
    }
}

/// Counts the request; too many are refused before anything of them is done.
fn charge(shared: &Shared, who: Option<&Who>, standing: &OnceLock<Standing>) -> Result<(), Refusal> {
    let Some(who) = who else { return Ok(()) };
    let (now, verdict) = shared.rates.take(who, Instant::now());
    // Charged once for each request, so this is the first and only word.
    let _said = now.map(|now| standing.set(now));
    verdict
}

fn check(call: &mut Call, bytes: &[u8]) -> Result<(), Refusal> {
    refuse_bad_query(call)?;
    call.body = body::check(call.endpoint, bytes)?;
    Ok(())
}

fn refuse_bad_query(call: &Call) -> Result<(), Refusal> {
    let errors = check_query(call.endpoint, &call.query);
    if errors.is_empty() || planted::is(Defect::TakesAnyQuery) {
        Ok(())
    } else {
        Err(Refusal::invalid(errors))
    }
}

/// The right the endpoint needs, for the place its path names. The use case asks again, for the thing itself.
fn gate(call: &Call) -> Result<(), Refusal> {
    let (action, reach) = match call.endpoint.need {
        Need::Nothing | Need::Credential => return Ok(()),
        Need::Right(action) => (action, Reach::Named),
        Need::Installation(action) => (action, Reach::Installation),
    };
    let named = |wanted| {
        let mut all = call.parameters.iter();
        all.find(|(name, _)| *name == wanted)
            .map(|(_, value)| value.as_str())
    };
    let named = authorize::Named {
        org: named("org"),
        project: named("project"),
        environment: named("environment"),
        app: named("app"),
        database: named("database"),
    };
    Ok(authorize::admit(
        call.control(),
        call.actor()?,
        action,
        reach,
        &named,
    )?)
}

/// A refusal of the gate never became a use case, which would have recorded it. A question about what is not there is
/// no attempt at anything; a change of it is.
fn record(call: &Call, refusal: &Refusal) {
    let is_attempt = match refusal.status() {
        403 => true,
        404 => call.endpoint.method != Method::Get,
        _other => false,
    };
    if let (true, Some(actor)) = (is_attempt, &call.actor) {
        let names: Vec<&str> = call.parameters.iter().map(|(_, name)| name.as_str()).collect();
        let action = call.endpoint.id.replace('_', ".");
        control::audit::refused(call.control(), actor, &action, &names.join("/"), refusal.code());
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &http::HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// What a strong `ETag` says; `*` demands only that the thing is there, which is so anyway.
fn if_match(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let tag = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    tag.map(|tag| Some(tag.to_owned())).ok_or_else(no_tag)
}

fn generation(tag: &str) -> Result<u64, Refusal> {
    tag.parse().map_err(|_| no_tag())
}

fn digest(tag: &str) -> Result<String, Refusal> {
    let digest: model::ImageDigest = tag.parse().map_err(|_| no_tag())?;
    Ok(digest.to_string())
}

fn no_tag() -> Refusal {
    Refusal::bad_request("If-Match must be an ETag as it was given, for example \"7\"")
}

/// Names and values, as in a query and as in a form.
pub(crate) fn parse_pairs(text: &str, what: &str) -> Result<Vec<(String, String)>, Refusal> {
    let decode = |text: &str| {
        route::decode(&text.replace('+', " "))
            .ok_or_else(|| Refusal::bad_request(format!("the {what} is not escaped well")))
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

/// What does an endpoint, for [`idempotency`].
pub(crate) type Act = fn(&Call) -> Result<Reply, Refusal>;

#[cfg(test)]
mod tests {
    use super::*;

    /// N80: a panic is a 500 of that request, counted as a defect; its text stays inside.
    #[tokio::test]
    async fn a_panic_costs_one_request() {
        let metrics = crate::metrics::Metrics::default();
        let refusal = guarded(&metrics, || -> Result<(), Refusal> { panic!("with a secret") })
            .await
            .expect_err("a panic");
        assert_eq!(refusal.status(), 500);
        assert!(
            !serde_json::to_string(&refusal.problem("req_1"))
                .expect("JSON")
                .contains("secret")
        );
        assert!(metrics.text().contains("stoa_api_panics_total 1"));
    }
}
