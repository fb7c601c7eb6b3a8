//! Sending a request to an instance and passing on its answer.
//!
//! Lives here: reaching an instance (holding the request while there is none), the HTTP/1 exchange, what may be repeated.
//! Does not live here: which instance (`pick`), the places of requests that are held (`held`), connections to instances
//! (`upstream`), moving bodies (`relay`).
//! Invariant: a request is sent again only when no byte of an answer was seen and either it is idempotent or no byte of it
//! left us; never once part of a streamed body is gone. After every wait the choice is among the instances of the table in
//! force, not of the one that was served before.
//!
//! ```text
//! reach --> send --> answer's head --> body --> record --> keep both connections
//!   ^         | silence, repeatable |  101 --> tunnel
//!   '---------'---------------------'
//! ```

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::admit::too_large;
use crate::answer::{Answer, Asked};
use crate::buffer::Buffer;
use crate::clock::Watch;
use crate::h1::body::Decoder;
use crate::held::{CONTINUE, Held, is_waiting};
use crate::inspect::Refusal;
use crate::pick::{Lease, LocalService};
use crate::relay::{Broken, Framing, Relay};
use crate::request::{Connection, Flow, refuse};
use crate::rewrite::{reply_head, upgrade_head};
use crate::stream::{Stream, WriteError, write_all};
use crate::tunnel;
use crate::upstream::{self, NoAnswer, Sure, ToHead, Upstream};
use crate::worker::Worker;

/// While every instance refuses connections, they are asked again this often until the holding time is over.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Whether the client of a held request is still there is asked this often: each one that left has a place that another
/// could have.
const ASK_FOR_CLIENT: Duration = Duration::from_secs(1);

/// Repetitions of one request, besides those for stale connections.
const REPEATS_MAX: u32 = 2;

/// An admitted request.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) service: Rc<LocalService>,
    pub(crate) asked: Asked,
    pub(crate) is_idempotent: bool,
    pub(crate) is_upgrade: bool,
    pub(crate) expects_continue: bool,
    /// What is still to be received of the body.
    pub(crate) body: Decoder,
    /// All of it leaves with the head, so that it can be sent again. Never true once a body flows: what was received of that
    /// is gone, however much is left.
    pub(crate) is_whole: bool,
    pub(crate) started: Instant,
}

/// What was tried for one request.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    pub(crate) passed_over: Vec<SocketAddr>,
    pub(crate) fresh_only: bool,
    pub(crate) repeats: u32,
}

/// A connection to an instance, with the request counted on it. Holds the request while no instance can be reached and its
/// client waits. A stream of HTTP/2 has no `client` of its own: it is dropped when that gives it up.
pub(crate) async fn reach(
    worker: &Worker,
    watch: &Watch,
    client: Option<&Stream>,
    exchange: &mut Exchange,
    tries: &mut Tries,
) -> Result<(Lease, Upstream), Answer> {
    let (mut held, mut turn, mut had_turn) = (None, None, false);
    // The first choice is made in the turn in which the service was looked up.
    if tries.fresh_only {
        look_up(worker, exchange)?;
    }
    loop {
        // A body that still has to come would keep the others waiting for its client.
        if held.is_some() && !had_turn && exchange.is_whole && !exchange.service.choices.is_empty() {
            let turns = exchange.service.turns.clone();
            // Whoever waits for the turn too long, because the answers to others take their time, goes as well.
            let took = tokio::time::timeout(worker.timeouts.turn, turns.acquire_owned()).await;
            (turn, had_turn) = (took.ok().and_then(Result::ok), true);
            look_up(worker, exchange)?;
        }
        let mut out_of_connections = false;
        while let Some(lease) =
            exchange
                .service
                .pick(worker.clock.now_ms(), &tries.passed_over, &worker.random)
        {
            if let Some(upstream) = idle(worker, &lease, exchange, tries) {
                *lease.turn.borrow_mut() = turn;
                return Ok((lease, upstream));
            }
            watch.arm(worker.timeouts.connect);
            match upstream::connect(lease.target.addr, watch).await {
                Ok(upstream) => {
                    lease.target.accepted();
                    *lease.turn.borrow_mut() = turn;
                    return Ok((lease, upstream));
                }
                Err(cause) if upstream::blames_instance(&cause) => {
                    lease.target.refused(worker.clock.now_ms());
                    lease.series.refused();
                    tries.passed_over.push(lease.target.addr);
                    look_up(worker, exchange)?;
                }
                Err(cause) => {
                    // Ours: no descriptor, no port. Waiting for one is all that can be done.
                    tracing::warn!(target = %lease.target.addr, error = %cause, "cannot open connections");
                    out_of_connections = true;
                    break;
                }
            }
        }
        // None is ready, or all were tried: wait for a new table or a new chance, as long as the service allows.
        let service = exchange.service.clone();
        let left = Duration::from_millis(service.service.hold_ms).saturating_sub(exchange.started.elapsed());
        let all_refused = !service.choices.is_empty();
        // Whoever has a place keeps it.
        let is_full = held.is_none() && service.held.get() >= worker.limits.held;
        if left.is_zero() || is_full {
            return Err(unavailable(if out_of_connections {
                "the server is out of connections"
            } else if all_refused {
                "no instance of this application accepts connections"
            } else {
                "no instance of this application is ready"
            }));
        }
        held.get_or_insert_with(|| Held::new(&service.held));
        let look = if all_refused { ASK_AGAIN } else { ASK_FOR_CLIENT };
        // Either way the next step is to look again.
        let _changed_or_not = tokio::time::timeout(left.min(look), worker.changed.notified()).await;
        if let Some(client) = client
            && !is_waiting(worker, watch, client, exchange).await
        {
            return Err(Answer::close(CLIENT_LEFT));
        }
        tries.passed_over.clear();
        look_up(worker, exchange)?;
    }
}

/// Goes on with the service as the table in force has it: whoever left that table is about to be stopped.
fn look_up(worker: &Worker, exchange: &mut Exchange) -> Result<(), Answer> {
    let current = worker.service(&exchange.service.service.id);
    exchange.service = current.ok_or_else(|| unavailable("this application was just removed"))?;
    Ok(())
}

/// An idle connection that is good enough for this request.
fn idle(worker: &Worker, lease: &Lease, exchange: &Exchange, tries: &Tries) -> Option<Upstream> {
    // A body that is still arriving cannot be sent twice: never risk a connection that may be closing.
    if tries.fresh_only || !exchange.is_whole {
        return None;
    }
    let sure = if exchange.is_idempotent {
        Sure::Hearsay
    } else {
        Sure::Asking
    };
    upstream::take(&lease.target, sure, worker.clock.now_ms())
}

/// Nobody reads it; the status, which others use for this too, tells it apart in the metrics.
const CLIENT_LEFT: Refusal = Refusal {
    status: 499,
    what: "the client left before an instance was ready",
};

pub(crate) fn unavailable(what: &'static str) -> Answer {
    Answer {
        retry_after_s: Some(2),
        ..Answer::keep(503, what)
    }
}

/// How an exchange with one instance ended.
enum Outcome {
    /// The answer went through.
    Through {
        status: u16,
        keep_client: bool,
        keep_upstream: bool,
    },
    /// 101: from here on both sides speak something else.
    Upgraded,
    /// There is no answer; `sent` tells whether any byte of the request left us.
    None { why: NoAnswer, sent: bool },
    /// The client's request is at fault.
    Fault(Refusal),
    /// The answer had begun and broke off, or the client is gone.
    Cut(Side),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Instance,
}

/// Forwards one request; its head for the instance is in `out`.
pub(crate) async fn forward(connection: &mut Connection, mut exchange: Exchange, out: &mut Vec<u8>) -> Flow {
    absorb(&mut connection.buffer, &mut exchange, out);
    exchange.service.budget.deposit();
    let worker = connection.worker.clone();
    let mut tries = Tries::default();
    loop {
        let reached = reach(
            &worker,
            &connection.watch,
            Some(&connection.io),
            &mut exchange,
            &mut tries,
        )
        .await;
        let (lease, mut upstream) = match reached {
            Ok(reached) => reached,
            Err(answer) => return give_up(connection, &exchange, answer).await,
        };
        let outcome = converse(connection, &mut exchange, &mut upstream, &lease, out).await;
        match outcome {
            Outcome::Through {
                status,
                keep_client,
                keep_upstream,
            } => {
                record(&lease, status, exchange.started);
                if keep_upstream {
                    upstream::keep(
                        &lease.target,
                        upstream,
                        &worker.stock,
                        worker.clock.now_ms(),
                        worker.limits.idle_upstreams,
                    );
                }
                return if keep_client { Flow::Next } else { Flow::Linger };
            }
            Outcome::Upgraded => {
                lease.upgrade();
                record(&lease, 101, exchange.started);
                tunnel::run(connection, upstream, &lease).await;
                return Flow::Drop;
            }
            Outcome::None { why, sent } => {
                if may_repeat(&worker, &exchange, &mut tries, upstream.reused, why, sent) {
                    lease.series.retried();
                    tries.fresh_only = true;
                    if !upstream.reused {
                        tries.passed_over.push(lease.target.addr);
                    }
                    continue;
                }
                lease.target.failed.set(lease.target.failed.get() + 1);
                return give_up(connection, &exchange, no_answer(why)).await;
            }
            Outcome::Fault(refusal) => return give_up(connection, &exchange, Answer::close(refusal)).await,
            Outcome::Cut(side) => {
                lease.series.cut();
                if side == Side::Instance {
                    lease.target.failed.set(lease.target.failed.get() + 1);
                }
                return Flow::Drop;
            }
        }
    }
}

fn record(lease: &Lease, status: u16, started: Instant) {
    if status >= 500 {
        lease.target.failed.set(lease.target.failed.get() + 1);
    }
    lease.series.answered(
        status,
        u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
    );
}

/// A body that is here whole leaves with the head, in one piece, and can be sent again.
fn absorb(buffer: &mut Buffer, exchange: &mut Exchange, out: &mut Vec<u8>) {
    let Decoder::Length(length) = exchange.body else {
        return;
    };
    let here = usize::try_from(length)
        .ok()
        .filter(|&n| n > 0 && n <= buffer.filled().len());
    if let Some(n) = here {
        out.extend_from_slice(&buffer.filled()[..n]);
        buffer.consume(n);
        exchange.body = Decoder::nothing();
        exchange.is_whole = true;
        exchange.expects_continue = false;
        exchange.service.series.moved_in(length);
    }
}

pub(crate) fn may_repeat(
    worker: &Worker,
    exchange: &Exchange,
    tries: &mut Tries,
    reused: bool,
    why: NoAnswer,
    sent: bool,
) -> bool {
    let harmless = exchange.is_whole && (exchange.is_idempotent || !sent);
    if why != NoAnswer::Silence || !harmless {
        return false;
    }
    if reused {
        // It was closed while idle: no fault of the instance, and the next connection is a new one.
        return true;
    }
    tries.repeats += 1;
    tries.repeats <= REPEATS_MAX && exchange.service.budget.withdraw(worker.clock.now_ms())
}

pub(crate) fn no_answer(why: NoAnswer) -> Answer {
    match why {
        NoAnswer::Silence => Answer::keep(502, "the application ended the connection without an answer"),
        NoAnswer::TooLate => Answer::keep(504, "the application did not answer in time"),
        NoAnswer::Garbage => Answer::keep(502, "the application's answer is malformed"),
    }
}

/// The instance did not take the request's head. It may have answered before; but that answer is nothing to rely on.
pub(crate) fn unread(error: &WriteError) -> NoAnswer {
    match error.cause.kind() {
        io::ErrorKind::TimedOut => NoAnswer::TooLate,
        _ => NoAnswer::Silence,
    }
}

/// Answers in the instance's stead, and closes when part of the request may be unread.
async fn give_up(connection: &Connection, exchange: &Exchange, answer: Answer) -> Flow {
    exchange.service.series.answered_by_edge(answer.refusal.status);
    let answer = match exchange.is_whole {
        true => answer,
        false => Answer {
            retry_after_s: answer.retry_after_s,
            ..Answer::close(answer.refusal)
        },
    };
    refuse(connection, &answer, &exchange.asked).await
}

/// The exchange with one instance.
async fn converse(
    connection: &mut Connection,
    exchange: &mut Exchange,
    upstream: &mut Upstream,
    lease: &Lease,
    out: &mut Vec<u8>,
) -> Outcome {
    let service = exchange.service.clone();
    let limits = &service.service;
    connection.watch.arm_ms(limits.request_timeout_ms);
    let io = upstream.io.clone();
    if let Err(error) = write_all(&io, &connection.watch, out).await {
        return Outcome::None {
            why: unread(&error),
            sent: error.written > 0,
        };
    }
    let Connection {
        worker,
        io: client,
        buffer,
        watch,
        ..
    } = connection;
    let begun = Cell::new(false);
    let sent_whole = Cell::new(exchange.is_whole);
    let answering = Answering {
        worker,
        client,
        watch,
        asked: &exchange.asked,
        lease,
        begun: &begun,
        sent_whole: &sent_whole,
    };
    if exchange.is_whole {
        return answering
            .run(upstream, exchange.is_upgrade, limits.idle_timeout_ms)
            .await;
    }
    if exchange.expects_continue && buffer.is_empty() && write_all(client, watch, CONTINUE).await.is_err() {
        return Outcome::Cut(Side::Client);
    }
    out.clear();
    let framing = if matches!(exchange.body, Decoder::Chunked(_)) {
        Framing::Chunked
    } else {
        Framing::Raw
    };
    let mut relay = Relay {
        watch,
        stock: &worker.stock,
        source: client,
        buffer,
        decoder: &mut exchange.body,
        sink: &io,
        out,
        framing,
        idle_ms: limits.idle_timeout_ms,
        limit: limits.max_body_bytes.unwrap_or(u64::MAX),
        moved: 0,
    };
    let outcome = {
        let sending = async {
            let sent = relay.run().await;
            sent_whole.set(sent.is_ok());
            if !begun.get() {
                watch.arm_ms(limits.request_timeout_ms);
            }
            sent
        };
        both(
            sending,
            answering.run(upstream, false, limits.idle_timeout_ms),
            &begun,
        )
        .await
    };
    lease.series.moved_in(relay.moved);
    outcome
}

/// Runs both directions until the answer is through.
async fn both(
    sending: impl Future<Output = Result<(), Broken>>,
    answering: impl Future<Output = Outcome>,
    begun: &Cell<bool>,
) -> Outcome {
    let (mut sending, mut answering) = (pin!(sending), pin!(answering));
    let mut sent = false;
    poll_fn(|cx| {
        if !sent && let Poll::Ready(result) = sending.as_mut().poll(cx) {
            match result {
                // A sink that failed: the instance does not want the rest. Its answer may be on the way and says why.
                Ok(()) | Err(Broken::Sink) => sent = true,
                Err(Broken::Stalled) if begun.get() => return Poll::Ready(Outcome::Cut(Side::Instance)),
                Err(_) if begun.get() => return Poll::Ready(Outcome::Cut(Side::Client)),
                Err(broken) => return Poll::Ready(fault(&broken)),
            }
        }
        answering.as_mut().poll(cx)
    })
    .await
}

/// What a body that did not go through is answered with, when no answer has begun.
fn fault(broken: &Broken) -> Outcome {
    match broken {
        Broken::Framing => Outcome::Fault(Refusal {
            status: 400,
            what: "the body's chunks are malformed",
        }),
        Broken::TooLarge => Outcome::Fault(too_large().refusal),
        Broken::Stalled => Outcome::None {
            why: NoAnswer::TooLate,
            sent: true,
        },
        Broken::Source(cause) if cause.kind() == io::ErrorKind::TimedOut => Outcome::Fault(Refusal {
            status: 408,
            what: "the request body did not arrive in time",
        }),
        Broken::Source(_) | Broken::Short | Broken::Sink => Outcome::Cut(Side::Client),
    }
}

/// The way back.
struct Answering<'a> {
    worker: &'a Worker,
    client: &'a Stream,
    watch: &'a Watch,
    asked: &'a Asked,
    lease: &'a Lease,
    /// An answer has begun: nothing else can be said to the client any more.
    begun: &'a Cell<bool>,
    /// The request went out whole.
    sent_whole: &'a Cell<bool>,
}

impl Answering<'_> {
    async fn run(&self, upstream: &mut Upstream, is_upgrade: bool, idle_ms: u64) -> Outcome {
        let mut out = self.worker.stock.text();
        let outcome = self.pass_on(upstream, is_upgrade, idle_ms, &mut out).await;
        self.worker.stock.keep_text(out);
        outcome
    }

    async fn pass_on(
        &self,
        upstream: &mut Upstream,
        is_upgrade: bool,
        idle_ms: u64,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let asked = self.asked;
        let to_head = if asked.is_head { ToHead::Yes } else { ToHead::No };
        let head = upstream::reply(upstream, self.watch, &self.worker.stock, to_head, |reply| {
            // After an early answer, the rest of the request cannot be told from the next one; after a refused upgrade the
            // client may already have sent bytes of the new protocol: they are not requests.
            let may_keep = self.worker.draining.get().is_none() && self.sent_whole.get() && !is_upgrade;
            if reply.status == 101 {
                upgrade_head(out, reply);
                return (101, Decoder::nothing(), false, None);
            }
            let onward = reply_head(out, reply, asked, may_keep);
            (reply.status, reply.body.clone(), reply.persistent, Some(onward))
        });
        let (status, mut body, persistent, onward) = match head.await {
            Ok(head) => head,
            Err(why) => return Outcome::None { why, sent: true },
        };
        drop(self.lease.turn.take());
        let Some(onward) = onward else {
            if !is_upgrade {
                return Outcome::None {
                    why: NoAnswer::Garbage,
                    sent: true,
                };
            }
            self.begun.set(true);
            return match write_all(self.client, self.watch, out).await {
                Ok(()) => Outcome::Upgraded,
                Err(_) => Outcome::Cut(Side::Client),
            };
        };
        self.begun.set(true);
        let mut relay = Relay {
            watch: self.watch,
            stock: &self.worker.stock,
            source: &upstream.io,
            buffer: &mut upstream.buffer,
            decoder: &mut body,
            sink: self.client,
            out,
            framing: onward.framing,
            idle_ms,
            limit: u64::MAX,
            moved: 0,
        };
        let passed = relay.run().await;
        self.lease.series.moved_out(relay.moved);
        match passed {
            Ok(()) => Outcome::Through {
                status,
                keep_client: onward.keep_client,
                keep_upstream: persistent && self.sent_whole.get(),
            },
            Err(Broken::Sink | Broken::Stalled) => Outcome::Cut(Side::Client),
            Err(Broken::Source(_) | Broken::Short | Broken::Framing | Broken::TooLarge) => {
                Outcome::Cut(Side::Instance)
            }
        }
    }
}
