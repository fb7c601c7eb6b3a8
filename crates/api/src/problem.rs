//! Errors on the wire: RFC 9457 problems with a stable code and the next step.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of a problem.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The kind of problem as a URN, `urn:stoa:error:CODE`; its page is `docs/errors/CODE.md`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in a few words.
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 100, maximum = 599)]
    pub status: u16,
    /// What happened this time, for people. Never parse it.
    pub detail: String,
    /// A stable code for programs, for example `not_found`.
    pub code: String,
    /// The id of the request, also in the `X-Request-Id` header and in the server's log.
    pub request_id: String,
    /// What is wrong with which field, all at once; empty when no field is to blame.
    #[serde(default)]
    pub errors: Vec<FieldError>,
    /// One command or link that leads on; may be empty.
    #[serde(default)]
    pub next_step: String,
}

/// What is wrong with one field of the body or one query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON Pointer into the body, or `?name` for a query parameter.
    pub pointer: String,
    /// What is wrong, for people.
    pub message: String,
}
