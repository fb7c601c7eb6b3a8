//! What a request is answered with, as bytes.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION,
    REFERRER_POLICY, SET_COOKIE, X_FRAME_OPTIONS,
};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use serde::Serialize;

use crate::rate::Standing;
use crate::refusal::Refusal;
use crate::stream::Events;

pub(crate) type Outgoing = UnsyncBoxBody<Bytes, Infallible>;

/// How a request succeeded.
pub(crate) enum Reply {
    /// JSON.
    Json {
        status: u16,
        body: Vec<u8>,
        /// What the thing is now: its generation, or its digest.
        etag: Option<String>,
        /// Where to look next.
        location: Option<String>,
        /// What a browser is to keep.
        cookie: Option<String>,
    },
    /// 204.
    Empty,
    /// 303: a browser goes on elsewhere.
    Redirect {
        /// Where to.
        location: String,
        /// What it is to keep.
        cookies: Vec<String>,
    },
    /// 204, and what a browser kept is not good any more.
    Gone {
        /// What makes it forget.
        cookie: String,
    },
    /// A page for people with forms of ours.
    Forms {
        /// What it is answered with.
        status: u16,
        /// The HTML.
        body: String,
        /// What the browser is to keep.
        cookies: Vec<String>,
    },
    /// Anything else that is whole: text, a document.
    Whole { media_type: &'static str, body: Vec<u8> },
    /// An event stream.
    Events(Events),
}

impl Reply {
    pub(crate) fn json(status: u16, body: &impl Serialize) -> Result<Self, Refusal> {
        let body = serde_json::to_vec(body).map_err(|why| Refusal::internal(why.to_string()))?;
        Ok(Self::Json {
            status,
            body,
            etag: None,
            location: None,
            cookie: None,
        })
    }

    pub(crate) fn ok(body: &impl Serialize) -> Result<Self, Refusal> {
        Self::json(200, body)
    }

    pub(crate) fn tagged(status: u16, body: &impl Serialize, generation: u64) -> Result<Self, Refusal> {
        Self::tagged_as(status, body, generation.to_string())
    }

    /// What is told apart by something else than a generation.
    pub(crate) fn tagged_as(status: u16, body: &impl Serialize, tag: String) -> Result<Self, Refusal> {
        let mut reply = Self::json(status, body)?;
        if let Self::Json { etag, .. } = &mut reply {
            *etag = Some(tag);
        }
        Ok(reply)
    }

    pub(crate) fn with_cookie(mut self, text: String) -> Self {
        if let Self::Json { cookie, .. } = &mut self {
            *cookie = Some(text);
        }
        self
    }

    pub(crate) fn accepted(operation: &model::Operation) -> Result<Self, Refusal> {
        let mut reply = Self::json(202, &crate::operations::wire(operation))?;
        if let Self::Json { location, .. } = &mut reply {
            *location = Some(operation_at(&operation.id.to_string()));
        }
        Ok(reply)
    }

    /// Of another media type than plain JSON.
    pub(crate) fn typed(body: &impl Serialize, media_type: &'static str) -> Result<Self, Refusal> {
        let body = serde_json::to_vec(body).map_err(|why| Refusal::internal(why.to_string()))?;
        Ok(Self::Whole { media_type, body })
    }

    /// The HTTP status it has.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Json { status, .. } | Self::Forms { status, .. } => *status,
            Self::Empty | Self::Gone { .. } => 204,
            Self::Redirect { .. } => 303,
            Self::Whole { .. } | Self::Events(_) => 200,
        }
    }

    pub(crate) fn into_response(self) -> Response<Outgoing> {
        match self {
            Self::Json {
                status,
                body,
                etag,
                location,
                cookie,
            } => {
                let mut response = whole(status, "application/json", body);
                if let Some(etag) = etag {
                    insert(&mut response, ETAG, &format!("\"{etag}\""));
                }
                if let Some(location) = location {
                    insert(&mut response, LOCATION, &location);
                }
                if let Some(cookie) = cookie {
                    insert(&mut response, SET_COOKIE, &cookie);
                }
                response
            }
            Self::Empty => {
                let mut response = Response::new(Full::new(Bytes::new()).boxed_unsync());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response
            }
            Self::Redirect { location, cookies } => {
                let mut response = Self::Empty.into_response();
                *response.status_mut() = StatusCode::SEE_OTHER;
                insert(&mut response, LOCATION, &location);
                keep(&mut response, &cookies);
                response
            }
            Self::Whole { media_type, body } => whole(200, media_type, body),
            Self::Forms {
                status,
                body,
                cookies,
            } => {
                let mut response = whole(status, "text/html; charset=utf-8", body.into_bytes());
                insert(&mut response, CONTENT_SECURITY_POLICY, FORMS_POLICY);
                // Its address holds a code.
                insert(&mut response, REFERRER_POLICY, "no-referrer");
                keep(&mut response, &cookies);
                response
            }
            Self::Gone { cookie } => {
                let mut response = Self::Empty.into_response();
                insert(&mut response, SET_COOKIE, &cookie);
                response
            }
            Self::Events(events) => {
                let mut response = Response::new(events.into_body());
                insert(&mut response, CONTENT_TYPE, "text/event-stream");
                response
            }
        }
    }
}

/// The address of an operation.
pub(crate) fn operation_at(id: &str) -> String {
    api::endpoints::OPERATION_VIEW.at(&[id])
}

/// The answer to a request that was not done.
pub(crate) fn refused(refusal: &Refusal, request_id: &str) -> Response<Outgoing> {
    let body = serde_json::to_vec(&refusal.problem(request_id)).unwrap_or_default();
    let mut response = whole(refusal.status(), api::problem::PROBLEM_MEDIA_TYPE, body);
    if let Some((name, value)) = refusal.header() {
        insert(&mut response, HeaderName::from_static(name), value);
    }
    response
}

/// A browser that is made to show an answer may load our style for it, and do nothing else with it.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The same of a page whose forms come back to us.
const FORMS_POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What every answer says.
pub(crate) fn seal(response: &mut Response<Outgoing>, request_id: &str, standing: Option<&Standing>) {
    for (name, value) in standing.iter().flat_map(|standing| standing.headers()) {
        insert(response, HeaderName::from_static(name), &value);
    }
    insert(response, HeaderName::from_static("x-request-id"), request_id);
    if !response.headers().contains_key(CONTENT_SECURITY_POLICY) {
        insert(response, CONTENT_SECURITY_POLICY, POLICY);
    }
    insert(response, CACHE_CONTROL, "no-store");
    insert(
        response,
        HeaderName::from_static("x-content-type-options"),
        "nosniff",
    );
    insert(response, X_FRAME_OPTIONS, "DENY");
}

fn whole(status: u16, media_type: &str, body: Vec<u8>) -> Response<Outgoing> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    insert(&mut response, CONTENT_TYPE, media_type);
    response
}

/// Gives a browser cookies: ours, base64 and fixed texts.
fn keep(response: &mut Response<Outgoing>, cookies: &[String]) {
    let cookies = cookies.iter().filter_map(|text| HeaderValue::from_str(text).ok());
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}

pub(crate) fn insert(response: &mut Response<Outgoing>, name: HeaderName, value: &str) {
    // Values are ours: ids, numbers, fixed texts.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
