//! Requests that wait for an instance: the place of each, and whether its client waits, too.
//!
//! Does not live here: what they wait for and how long (`forward`).

use std::cell::Cell;
use std::rc::Rc;

use crate::clock::Watch;
use crate::forward::Exchange;
use crate::stream::{Presence, Stream, presence, write_all};
use crate::worker::Worker;

/// What may be sent before an answer.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Waits among those that are held for a service.
pub(crate) struct Held(Rc<Cell<usize>>);

impl Held {
    pub(crate) fn new(count: &Rc<Cell<usize>>) -> Held {
        count.set(count.get() + 1);
        Held(count.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Whether the client of a held request still waits for the answer. One that sends nothing more looks the same whether it
/// only closed its sending half or left; but a system whose program left answers what is sent to it with a reset, which the
/// next look finds. What may be sent before an answer is `100 Continue`, which every client of HTTP/1.1 passes over; one of
/// HTTP/1.0 knows nothing of the kind and is waited for.
pub(crate) async fn is_waiting(worker: &Worker, watch: &Watch, client: &Stream, exchange: &Exchange) -> bool {
    match presence(client) {
        Presence::There => true,
        Presence::Gone => false,
        Presence::Silent if exchange.asked.is_http10 => true,
        Presence::Silent => {
            watch.arm(worker.timeouts.connect);
            write_all(client, watch, CONTINUE).await.is_ok()
        }
    }
}
