//! Answering control.
//!
//! Lives here: the socket, who may speak, turning orders into messages to all threads and their answers into one.
//! Does not live here: the life of the process (`process`).
//! Invariant: plain threads, none of them serving requests; a speaker that misbehaves loses its connection, nothing else.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::control::client::SOCKETS_MAX;
use crate::control::protocol::{Envelope, Idle, Order, Reply, VERSION};
use crate::hub::{Hub, REPLACED, Speaker};
use crate::table::Problem;

/// Speakers at once: control, a person, the next edge.
const SPEAKERS_MAX: usize = 32;

/// A line is short; tables follow their line.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// A speaker that does not finish its sentence.
const SENTENCE: Duration = Duration::from_secs(30);

/// While waiting for targets to become idle.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A document so large that it is not even skipped.
const SKIPPED_MAX: u64 = 1 << 30;

/// Answers speakers for as long as the process lives.
pub(crate) fn serve(listener: &UnixListener, hub: &Arc<Hub>) {
    let speakers = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if hub.is_closed() {
            return;
        }
        let Ok(stream) = stream else {
            std::thread::sleep(LOOK_AGAIN);
            continue;
        };
        if !may_speak(&stream) || speakers.load(Ordering::Relaxed) >= SPEAKERS_MAX {
            continue;
        }
        let (hub, counted) = (hub.clone(), speakers.clone());
        speakers.fetch_add(1, Ordering::Relaxed);
        let spawned = std::thread::Builder::new()
            .name("edge-control".to_owned())
            .spawn(move || {
                // However it ended, the speaker knows.
                let _ended = converse(stream, &hub);
                counted.fetch_sub(1, Ordering::Relaxed);
            });
        if spawned.is_err() {
            speakers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Root, or whoever runs the edge.
fn may_speak(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

fn converse(stream: UnixStream, hub: &Hub) -> io::Result<()> {
    stream.set_write_timeout(Some(SENTENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    let mut speaker = Speaker::Anybody;
    loop {
        // Between sentences a speaker may be silent for ever; within one it may not.
        writer.set_read_timeout(None)?;
        if reader.fill_buf()?.is_empty() {
            return Ok(());
        }
        writer.set_read_timeout(Some(SENTENCE))?;
        let mut line = Vec::new();
        (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return say(&mut writer, &failed("the line is too long"));
        }
        let order = match serde_json::from_slice::<Envelope>(&line) {
            Ok(Envelope { v: VERSION, order }) => order,
            Ok(Envelope { v, .. }) => {
                return say(&mut writer, &failed(&format!("version {v} is not spoken here")));
            }
            Err(cause) => return say(&mut writer, &failed(&format!("not understood: {cause}"))),
        };
        match order {
            Order::Publish { bytes } => {
                let reply = publish(&mut reader, bytes, hub, speaker)?;
                say(&mut writer, &reply)?;
            }
            Order::Handover => hand_over(&mut writer, hub)?,
            Order::Drain(limits) => {
                hub.drain(limits);
                speaker = Speaker::Successor;
                say(&mut writer, &Reply::Draining)?;
            }
            other => say(&mut writer, &answer(other, hub, speaker))?,
        }
    }
}

fn say(writer: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    writer.write_all(&line)
}

fn failed(what: &str) -> Reply {
    Reply::Failed {
        what: what.to_owned(),
    }
}

/// Reads the document and has it served.
fn publish(reader: &mut BufReader<UnixStream>, bytes: u64, hub: &Hub, speaker: Speaker) -> io::Result<Reply> {
    if bytes > hub.policy().bytes_max as u64 {
        if bytes > SKIPPED_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        io::copy(&mut reader.take(bytes), &mut io::sink())?;
        let what = format!("{bytes} bytes, at most {} are taken", hub.policy().bytes_max);
        return Ok(Reply::Refused {
            problems: vec![Problem {
                at: "table".to_owned(),
                what,
            }],
        });
    }
    let mut document = Vec::new();
    reader.take(bytes).read_to_end(&mut document)?;
    if (document.len() as u64) < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(hub.publish(&document, speaker))
}

fn answer(order: Order, hub: &Hub, speaker: Speaker) -> Reply {
    match order {
        Order::Publish { .. } | Order::Handover | Order::Drain(_) => {
            failed("this order is answered elsewhere")
        }
        // It knows of its own requests only: whoever asks for all of them must ask the one that took its place.
        Order::InFlight { .. } | Order::WaitIdle { .. } if hub.is_deaf_to(speaker) => failed(REPLACED),
        Order::InFlight { targets } => match hub.in_flight(targets) {
            Ok(loads) => Reply::InFlight(loads),
            Err(slow) => failed(&slow.to_string()),
        },
        Order::WaitIdle { targets, timeout_ms } => {
            wait_idle(hub, &targets, Duration::from_millis(timeout_ms))
        }
        Order::Metrics => hub
            .metrics()
            .map_or_else(|slow| failed(&slow.to_string()), Reply::Metrics),
        Order::Status => hub
            .status()
            .map_or_else(|slow| failed(&slow.to_string()), Reply::Status),
    }
}

fn wait_idle(hub: &Hub, targets: &[String], limit: Duration) -> Reply {
    let begun = Instant::now();
    loop {
        let loads = match hub.in_flight(targets.to_vec()) {
            Ok(loads) => loads,
            Err(slow) => return failed(&slow.to_string()),
        };
        let is_idle = loads.values().all(|load| load.requests == 0);
        if is_idle || begun.elapsed() >= limit {
            return Reply::Idle(Idle { is_idle, loads });
        }
        std::thread::sleep(LOOK_AGAIN.min(limit.saturating_sub(begun.elapsed())));
    }
}

/// The names as a line, the descriptors with its first byte.
fn hand_over(writer: &mut UnixStream, hub: &Hub) -> io::Result<()> {
    let sockets = hub.sockets()?;
    if sockets.len() > SOCKETS_MAX {
        return say(writer, &failed("there are too many sockets to pass"));
    }
    let names = sockets.iter().map(|(name, _)| name.clone()).collect();
    let mut line = serde_json::to_vec(&Reply::Sockets(names))?;
    line.push(b'\n');
    let descriptors: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    let mut space = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let sent = rustix::net::sendmsg(
        &*writer,
        &[IoSlice::new(&line)],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    writer.write_all(&line[sent..])
}
