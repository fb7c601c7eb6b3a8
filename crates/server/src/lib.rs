//! The API's door: decode, authorise, call one use case, encode.
//!
//! Lives here: listening, the order of a request, HTTP statuses, streams. Does not live here: what the endpoints are
//! (`api`), what they do (`control`).
//! Invariant: every endpoint of `api::endpoints::ALL` has exactly one handler, and each request goes through the same
//! phases in the same order: route, authenticate, authorise, body, act.

mod answer;
mod apps;
mod body;
mod call;
mod credential;
mod databases;
mod device;
mod device_page;
mod drills;
mod dry_run;
mod elsewhere;
mod exec;
mod html;
mod idempotency;
mod images;
mod installation;
mod json;
mod listen;
mod logs;
mod looking;
mod members;
mod metrics;
mod oidc;
mod operations;
mod pages;
mod people;
mod places;
#[doc(hidden)]
pub mod planted;
mod rate;
mod refusal;
mod releases;
mod request;
mod route;
mod sessions;
mod stream;
mod upload;
mod valkey;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use api::REQUESTS_PER_MINUTE;
pub use listen::{Running, start};

/// What the door needs to know besides control.
pub struct About {
    /// Version of Stoa.
    pub version: String,
    /// Addresses by name, for people: `api`, `http`, `https`.
    pub listeners: BTreeMap<String, String>,
    /// Requests that one credential may send in a minute; 0: as many as it likes.
    pub requests_per_minute: u32,
}

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) control: Arc<control::Control>,
    pub(crate) about: About,
    pub(crate) metrics: metrics::Metrics,
    pub(crate) limits: listen::Limits,
    pub(crate) rates: Arc<rate::Rates>,
    pub(crate) changes: stream::Changes,
}
