//! May this request pass?
//!
//! Lives here: the checks between knowing the service and choosing an instance.
//! Does not live here: whether the request is well formed (`inspect`), where it goes (`route`).
//! Invariant: refusing costs the instances nothing.

use crate::answer::Answer;
use crate::h1::body::Decoder;
use crate::inspect::{Refusal, Request};
use crate::table::Service;
use crate::worker::Peer;

/// The reason to refuse, if there is one.
pub(crate) fn admit(request: &Request<'_>, service: &Service, peer: &Peer) -> Result<(), Answer> {
    // A connection made for one host must not be used for another's (N56), unless its certificate covers both.
    if let Some(identity) = &peer.tls
        && !identity.covers(&request.host)
    {
        return Err(Answer::keep(421, "this connection was made for another host"));
    }
    if let (Some(limit), Decoder::Length(length)) = (service.max_body_bytes, &request.body)
        && *length > limit
    {
        return Err(too_large());
    }
    Ok(())
}

/// The body is, or grew, over the service's limit.
pub(crate) fn too_large() -> Answer {
    Answer::close(Refusal {
        status: 413,
        what: "the request body is larger than this service accepts",
    })
}
