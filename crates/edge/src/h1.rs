//! HTTP/1 on the wire.
//!
//! Lives here: finding and tokenising heads (`head`), decoding bodies (`body`).
//! Does not live here: what a message means to us (`request`, `forward`), reading and writing (`stream`).
//! Invariant: pure; bytes in, facts out. Nothing that was received is passed on unparsed: heads and chunks are written anew.

pub(crate) mod body;
pub(crate) mod head;
