//! Why a request was not done: the one place that chooses HTTP statuses.
//!
//! Invariant: what went wrong inside is logged with its causes and never told; the caller gets the request's id.

use api::{FieldError, Problem};
use control::{ControlError, OidcError, StoreError};

/// Why a request was not done.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: u16,
    code: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    next_step: String,
    /// Headers that belong to this status.
    header: Option<(&'static str, String)>,
    /// For the log only.
    inner: Option<String>,
}

impl Refusal {
    fn new(status: u16, code: &'static str, detail: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            next_step: next_step.into(),
            header: None,
            inner: None,
        }))
    }

    pub(crate) fn no_such_path() -> Self {
        Self::new(
            404,
            "not_found",
            "there is nothing at this path",
            "see what there is: stoa api GET /openapi.json",
        )
    }

    pub(crate) fn method_not_allowed(allowed: &str) -> Self {
        let mut refusal = Self::new(
            405,
            "method_not_allowed",
            format!("this path takes {allowed}"),
            "see what there is: stoa api GET /openapi.json",
        );
        refusal.0.header = Some(("allow", allowed.to_owned()));
        refusal
    }

    pub(crate) fn sign_in() -> Self {
        ControlError::SignIn.into()
    }

    pub(crate) fn cross_site() -> Self {
        Self::new(
            403,
            "cross_site",
            "a change with a session must come from this site's own pages",
            "use the console of this installation, or an access token",
        )
    }

    /// The request itself is broken, before its content counts.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(
            400,
            "bad_request",
            detail,
            "see how it is called: stoa api GET /openapi.json",
        )
    }

    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match &errors[..] {
            [one] if one.pointer.is_empty() => format!("the request {}", one.message),
            [one] => format!("{}: {}", one.pointer.trim_start_matches('/'), one.message),
            several => format!("the request has {} mistakes", several.len()),
        };
        let mut refusal = Self::new(
            422,
            "invalid",
            detail,
            "mend the values named above and try again",
        );
        refusal.0.errors = errors;
        refusal
    }

    pub(crate) fn field(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError {
            pointer: pointer.into(),
            message: message.into(),
        }])
    }

    pub(crate) fn not_json() -> Self {
        Self::new(
            415,
            "unsupported_media",
            "the body must be JSON",
            "send it with Content-Type: application/json",
        )
    }

    pub(crate) fn not_a_form() -> Self {
        Self::new(
            415,
            "unsupported_media",
            "the body must be a form",
            "send it with Content-Type: application/x-www-form-urlencoded",
        )
    }

    pub(crate) fn too_large(limit: u64) -> Self {
        let limit = model::Bytes::new(limit);
        Self::new(
            413,
            "too_large",
            format!("the body is larger than {limit}"),
            "send less; large sources go to uploads",
        )
    }

    pub(crate) fn too_slow() -> Self {
        Self::new(
            408,
            "too_slow",
            "the body did not arrive in time",
            "send it again",
        )
    }

    pub(crate) fn busy(what: &str) -> Self {
        let mut refusal = Self::new(
            503,
            "busy",
            format!("too many {what} at once"),
            "try again in a few seconds",
        );
        refusal.0.header = Some(("retry-after", "5".to_owned()));
        refusal
    }

    /// A credential asked too often.
    pub(crate) fn too_often(wait_s: u64) -> Self {
        let mut refusal = Self::new(
            429,
            "rate_limited",
            "too many requests with this credential, or without one, in the last minute",
            format!(
                "wait {wait_s} s, then send it again; watch /v1/events instead of asking again and again"
            ),
        );
        refusal.0.header = Some(("retry-after", wait_s.to_string()));
        refusal
    }

    /// A user keeps too many event streams open.
    pub(crate) fn too_many_streams(most: u32) -> Self {
        let mut refusal = Self::new(
            429,
            "rate_limited",
            format!("you have {most} event streams open already, with all your tokens and sessions"),
            "close those that nobody reads, then open it again",
        );
        refusal.0.header = Some(("retry-after", "5".to_owned()));
        refusal
    }

    pub(crate) fn not_ready() -> Self {
        Self::new(
            503,
            "not_ready",
            "the store can not be read",
            "see why: stoa doctor",
        )
    }

    pub(crate) fn no_upgrade() -> Self {
        let mut refusal = Self::new(
            426,
            "upgrade_required",
            "this endpoint carries a stream of frames",
            "use it through: stoa exec, stoa db connect",
        );
        refusal.0.header = Some(("upgrade", api::exec::PROTOCOL.to_owned()));
        refusal
    }

    pub(crate) fn key_reused() -> Self {
        Self::new(
            422,
            "key_reused",
            "this Idempotency-Key belongs to another request",
            "use a fresh key for another request",
        )
    }

    pub(crate) fn key_running() -> Self {
        let mut refusal = Self::new(
            409,
            "key_running",
            "the first request with this Idempotency-Key is still being done",
            "send it again in a second",
        );
        refusal.0.header = Some(("retry-after", "1".to_owned()));
        refusal
    }

    pub(crate) fn key_done() -> Self {
        Self::new(
            409,
            "key_done",
            "the first request with this Idempotency-Key was carried out, but its answer is not known (any more)",
            "send it again in a second; if that says the same, see what it did: stoa op ls, stoa status",
        )
    }

    /// A defect of ours.
    pub(crate) fn internal(inner: impl Into<String>) -> Self {
        let mut refusal = Self::new(
            500,
            "internal",
            "something broke inside Stoa; nothing of this request was kept",
            "look for the request's id in the server's log",
        );
        refusal.0.inner = Some(inner.into());
        refusal
    }

    pub(crate) fn status(&self) -> u16 {
        self.0.status
    }
    pub(crate) fn code(&self) -> &'static str {
        self.0.code
    }
    pub(crate) fn header(&self) -> Option<&(&'static str, String)> {
        self.0.header.as_ref()
    }
    pub(crate) fn inner(&self) -> Option<&str> {
        self.0.inner.as_deref()
    }

    /// As on the wire.
    pub(crate) fn problem(&self, request_id: &str) -> Problem {
        Problem {
            kind: format!("urn:stoa:error:{}", self.0.code),
            title: title(self.0.status).to_owned(),
            status: self.0.status,
            detail: self.0.detail.clone(),
            code: self.0.code.to_owned(),
            request_id: request_id.to_owned(),
            errors: self.0.errors.clone(),
            next_step: self.0.next_step.clone(),
        }
    }
}

/// What the status is called.
fn title(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Problem")
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        let code = error.code();
        let status = match &error {
            ControlError::SignIn => 401,
            ControlError::NotFound { .. } => 404,
            ControlError::Denied { .. } => 403,
            ControlError::Taken { .. } | ControlError::State { .. } => 409,
            ControlError::Stale { .. } | ControlError::Replaced { .. } => 412,
            ControlError::Invalid(problems) => {
                let errors = problems.iter().map(|p| FieldError {
                    pointer: p.at.clone(),
                    message: p.message.clone(),
                });
                return Self::invalid(errors.collect());
            }
            ControlError::Store(StoreError::Compacted { .. }) => {
                return Self::new(
                    410,
                    "compacted",
                    "the changes since then are no longer kept",
                    error.next(),
                );
            }
            ControlError::Store(StoreError::Io { .. }) => {
                let why =
                    "the disk of the data directory cannot be written: nothing of this request was kept";
                let mut refusal = Self::new(503, "disk", why, error.next());
                refusal.0.inner = Some(with_causes(&error));
                return refusal;
            }
            ControlError::Guessed { .. } | ControlError::Crowded { .. } => 429,
            ControlError::Busy { .. } => 503,
            ControlError::Device(_) => 400,
            ControlError::Provider(OidcError::Unusable { .. }) => 422,
            ControlError::Provider(OidcError::Unreachable { .. }) => 502,
            ControlError::Provider(OidcError::Refused { .. } | OidcError::NotBelieved { .. }) => 401,
            ControlError::NotLinked => 403,
            ControlError::Build { .. } => 422,
            ControlError::Store(_) | ControlError::Engine(_) | ControlError::File { .. } => match code {
                "no_room" => 507,
                "not_running" => 409,
                "image" | "source" | "not_executed" => 422,
                "unsupported" => 501,
                _ => {
                    let mut refusal = Self::internal(with_causes(&error));
                    refusal.0.next_step = error.next();
                    return refusal;
                }
            },
        };
        let mut refusal = Self::new(status, code, error.to_string(), error.next());
        if status == 401 {
            refusal.0.header = Some(("www-authenticate", "Bearer realm=\"stoa\"".to_owned()));
        }
        match &error {
            ControlError::Guessed { wait } | ControlError::Crowded { wait, .. } => {
                refusal.0.header = Some(("retry-after", wait.as_ms().div_ceil(1000).to_string()));
            }
            ControlError::Busy { .. } => refusal.0.header = Some(("retry-after", "5".to_owned())),
            _other => {}
        }
        if status >= 500 && !matches!(error, ControlError::Busy { .. }) {
            refusal.0.inner = Some(with_causes(&error));
        }
        refusal
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code that leaves the server has a page that says what to do.
    #[test]
    fn every_code_has_a_page() {
        let codes = [
            "not_found",
            "method_not_allowed",
            "sign_in",
            "cross_site",
            "too_many_attempts",
            "too_many_waiting",
            "identity_provider",
            "not_linked",
            "authorization_pending",
            "slow_down",
            "expired_token",
            "access_denied",
            "bad_request",
            "invalid",
            "unsupported_media",
            "too_large",
            "too_slow",
            "busy",
            "rate_limited",
            "not_ready",
            "upgrade_required",
            "key_reused",
            "key_running",
            "key_done",
            "internal",
            "compacted",
            "denied",
            "name_taken",
            "state",
            "stale",
            "no_room",
            "not_running",
            "not_executed",
            "image",
            "source",
            "unsupported",
            "release_rejected",
            "build_failed",
            "run_failed",
            "canceled",
            "deadline",
            "defect",
            "engine",
            "store",
            "disk",
            "file",
        ];
        for code in codes {
            let path = format!("{}/../../docs/errors/{code}.md", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                text.starts_with(&format!("# {code}\n")),
                "docs/errors/{code}.md is missing or has another title"
            );
        }
    }

    #[test]
    fn inner_details_stay_inside() {
        let refusal = Refusal::internal("password in a path");
        assert!(
            !serde_json::to_string(&refusal.problem("req_1"))
                .expect("JSON")
                .contains("password")
        );
    }
}
