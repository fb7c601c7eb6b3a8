//! What `runtime` and a keeper say to each other.
//!
//! Lives here: requests, replies and their versions.
//! Does not live here: bytes and descriptors (`wire`).
//! Invariant: kinds and tags are never reused. Each message carries the sender's version; a keeper answers a request it
//! does not know with [`Reply::Unsupported`] and the versions it speaks, so a new `runtime` can fall back.
//!
//! Start (over the socket a keeper is born with): `Start` + descriptors (task, helper) -> `Started` | `Failed`.
//! Later (over `keeper.sock`, peers with our own user id only): one request, one reply; `Exec` keeps its connection:
//! `Started`, then `Ended`. Closing it before kills the process.

use std::path::PathBuf;

use crate::cgroup::Group;
use crate::wire::Frame;

/// The version this build speaks.
pub const VERSION: u16 = 1;
/// The oldest version this build still understands.
pub const OLDEST: u16 = 1;

/// Stage of a refusal that means: somebody newer owns the instances; nothing was touched.
pub const FENCED: &str = "fenced";

/// Stage of a failed start that means: the instance has a keeper already; nothing was touched.
pub const ANOTHER_KEEPER: &str = "another-keeper";

/// What a keeper has to know; everything else stays with the helper, so that a keeper never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The instance.
    pub id: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Its control group, made and limited already.
    pub group: Group,
    /// The keepers' control group.
    pub keepers: Group,
    /// Host owner of the output pipes, so that the program can reopen `/dev/stdout`.
    pub owner: (u32, u32),
    /// First host id.
    pub uid_base: u32,
    /// Network namespace, for the record.
    pub netns: Option<PathBuf>,
    /// Log directory.
    pub log_dir: PathBuf,
    /// Log label.
    pub log_label: String,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// Sum of segments.
    pub max_bytes: u64,
    /// Cap per second, 0 for none.
    pub rate_bytes_per_s: u64,
    /// The signal that asks to end.
    pub stop_signal: i32,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The first message to a new keeper.
    Start(Box<Start>),
    /// Are you there?
    Ping,
    /// Send a signal to process 1 (or its only child, when a reaper is in front).
    Signal(i32),
    /// Ask to end; kill everything after `grace_ms`.
    Stop {
        /// Instead of the configured signal.
        signal: Option<i32>,
        /// Time until the kill.
        grace_ms: u64,
    },
    /// Kill everything now.
    Kill,
    /// Run a helper that enters the instance. Descriptors: task, helper, stdin, stdout, stderr.
    Exec,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done, or under way.
    Ok,
    /// A process runs. For an exec with a terminal its master side comes along.
    Started {
        /// As the host counts.
        pid: u32,
        /// Its kernel start time.
        pid_start: u64,
    },
    /// It did not start.
    Failed {
        /// Which step: see `runtime::Stage`.
        stage: String,
        /// Why.
        reason: String,
    },
    /// An exec ended.
    Ended {
        /// Exit code; 128 + signal.
        code: i32,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// The keeper does not know this request.
    Unsupported {
        /// Oldest version it speaks.
        oldest: u16,
        /// Newest.
        newest: u16,
    },
}

mod kind {
    pub const START: u16 = 1;
    pub const PING: u16 = 2;
    pub const SIGNAL: u16 = 3;
    pub const STOP: u16 = 4;
    pub const KILL: u16 = 5;
    pub const EXEC: u16 = 6;
    pub const OK: u16 = 100;
    pub const STARTED: u16 = 101;
    pub const FAILED: u16 = 102;
    pub const ENDED: u16 = 103;
    pub const UNSUPPORTED: u16 = 104;
}

mod tag {
    pub const ID: u16 = 1;
    pub const DIR: u16 = 2;
    pub const GROUP: u16 = 3;
    pub const KEEPERS: u16 = 4;
    pub const OWNER_UID: u16 = 5;
    pub const OWNER_GID: u16 = 6;
    pub const UID_BASE: u16 = 7;
    pub const NETNS: u16 = 8;
    pub const LOG_DIR: u16 = 9;
    pub const LOG_LABEL: u16 = 10;
    pub const SEGMENT_BYTES: u16 = 11;
    pub const MAX_BYTES: u16 = 12;
    pub const RATE: u16 = 13;
    pub const SIGNAL: u16 = 14;
    pub const GRACE_MS: u16 = 15;
    pub const PID: u16 = 16;
    pub const PID_START: u16 = 17;
    pub const STAGE: u16 = 18;
    pub const REASON: u16 = 19;
    pub const CODE: u16 = 20;
    pub const OLDEST: u16 = 21;
    pub const NEWEST: u16 = 22;
    pub const EPOCH: u16 = 23;
}

fn signed(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

fn get_signed(frame: &Frame, tag: u16) -> Option<i32> {
    Some(u32::try_from(frame.get_number(tag)?).ok()?.cast_signed())
}

fn get_small(frame: &Frame, tag: u16) -> Option<u32> {
    u32::try_from(frame.get_number(tag)?).ok()
}

/// Answers an order of somebody who is no longer the owner of the instances below `root`.
pub fn refusal(root: &std::path::Path, frame: &Frame) -> Option<Reply> {
    let newest = crate::fence::newer_than(root, frame.get_number(tag::EPOCH))?;
    Some(Reply::Failed {
        stage: FENCED.to_owned(),
        reason: format!("epoch {newest} has begun"),
    })
}

impl Request {
    /// As a frame, in the name of an epoch: see `fence`.
    pub fn to_frame_of(&self, epoch: u64) -> Frame {
        self.to_frame().number(tag::EPOCH, epoch)
    }

    /// As a frame.
    pub fn to_frame(&self) -> Frame {
        match self {
            Request::Start(start) => start.to_frame(),
            Request::Ping => Frame::new(VERSION, kind::PING),
            Request::Signal(signal) => Frame::new(VERSION, kind::SIGNAL).number(tag::SIGNAL, signed(*signal)),
            Request::Stop { signal, grace_ms } => {
                let frame = Frame::new(VERSION, kind::STOP).number(tag::GRACE_MS, *grace_ms);
                match signal {
                    Some(signal) => frame.number(tag::SIGNAL, signed(*signal)),
                    None => frame,
                }
            }
            Request::Kill => Frame::new(VERSION, kind::KILL),
            Request::Exec => Frame::new(VERSION, kind::EXEC),
        }
    }

    /// From a frame; `None` when this build does not know it.
    pub fn from_frame(frame: &Frame) -> Option<Request> {
        if frame.version < OLDEST {
            return None;
        }
        match frame.kind {
            kind::START => Some(Request::Start(Box::new(Start::from_frame(frame)?))),
            kind::PING => Some(Request::Ping),
            kind::SIGNAL => Some(Request::Signal(get_signed(frame, tag::SIGNAL)?)),
            kind::STOP => Some(Request::Stop {
                signal: get_signed(frame, tag::SIGNAL),
                grace_ms: frame.get_number(tag::GRACE_MS)?,
            }),
            kind::KILL => Some(Request::Kill),
            kind::EXEC => Some(Request::Exec),
            _ => None,
        }
    }
}

impl Start {
    fn to_frame(&self) -> Frame {
        let frame = Frame::new(VERSION, kind::START)
            .text(tag::ID, &self.id)
            .text(tag::DIR, &self.dir.to_string_lossy())
            .text(tag::GROUP, &self.group.to_text())
            .text(tag::KEEPERS, &self.keepers.to_text())
            .number(tag::OWNER_UID, u64::from(self.owner.0))
            .number(tag::OWNER_GID, u64::from(self.owner.1))
            .number(tag::UID_BASE, u64::from(self.uid_base))
            .text(tag::LOG_DIR, &self.log_dir.to_string_lossy())
            .text(tag::LOG_LABEL, &self.log_label)
            .number(tag::SEGMENT_BYTES, self.segment_bytes)
            .number(tag::MAX_BYTES, self.max_bytes)
            .number(tag::RATE, self.rate_bytes_per_s)
            .number(tag::SIGNAL, signed(self.stop_signal));
        match &self.netns {
            Some(netns) => frame.text(tag::NETNS, &netns.to_string_lossy()),
            None => frame,
        }
    }

    fn from_frame(frame: &Frame) -> Option<Start> {
        Some(Start {
            id: frame.get_text(tag::ID)?,
            dir: frame.get_text(tag::DIR)?.into(),
            group: Group::from_text(&frame.get_text(tag::GROUP)?),
            keepers: Group::from_text(&frame.get_text(tag::KEEPERS)?),
            owner: (
                get_small(frame, tag::OWNER_UID)?,
                get_small(frame, tag::OWNER_GID)?,
            ),
            uid_base: get_small(frame, tag::UID_BASE)?,
            netns: frame.get_text(tag::NETNS).map(PathBuf::from),
            log_dir: frame.get_text(tag::LOG_DIR)?.into(),
            log_label: frame.get_text(tag::LOG_LABEL)?,
            segment_bytes: frame.get_number(tag::SEGMENT_BYTES)?,
            max_bytes: frame.get_number(tag::MAX_BYTES)?,
            rate_bytes_per_s: frame.get_number(tag::RATE)?,
            stop_signal: get_signed(frame, tag::SIGNAL)?,
        })
    }
}

impl Reply {
    /// As a frame.
    pub fn to_frame(&self) -> Frame {
        match self {
            Reply::Ok => Frame::new(VERSION, kind::OK),
            Reply::Started { pid, pid_start } => Frame::new(VERSION, kind::STARTED)
                .number(tag::PID, u64::from(*pid))
                .number(tag::PID_START, *pid_start),
            Reply::Failed { stage, reason } => Frame::new(VERSION, kind::FAILED)
                .text(tag::STAGE, stage)
                .text(tag::REASON, reason),
            Reply::Ended { code, signal } => {
                let frame = Frame::new(VERSION, kind::ENDED).number(tag::CODE, signed(*code));
                match signal {
                    Some(signal) => frame.number(tag::SIGNAL, signed(*signal)),
                    None => frame,
                }
            }
            Reply::Unsupported { oldest, newest } => Frame::new(VERSION, kind::UNSUPPORTED)
                .number(tag::OLDEST, u64::from(*oldest))
                .number(tag::NEWEST, u64::from(*newest)),
        }
    }

    /// From a frame; `None` when this build does not know it.
    pub fn from_frame(frame: &Frame) -> Option<Reply> {
        match frame.kind {
            kind::OK => Some(Reply::Ok),
            kind::STARTED => Some(Reply::Started {
                pid: get_small(frame, tag::PID)?,
                pid_start: frame.get_number(tag::PID_START)?,
            }),
            kind::FAILED => Some(Reply::Failed {
                stage: frame.get_text(tag::STAGE)?,
                reason: frame.get_text(tag::REASON)?,
            }),
            kind::ENDED => Some(Reply::Ended {
                code: get_signed(frame, tag::CODE)?,
                signal: get_signed(frame, tag::SIGNAL),
            }),
            kind::UNSUPPORTED => Some(Reply::Unsupported {
                oldest: u16::try_from(frame.get_number(tag::OLDEST)?).ok()?,
                newest: u16::try_from(frame.get_number(tag::NEWEST)?).ok()?,
            }),
            _ => None,
        }
    }
}

/// Why no further process could be started in an instance. Its `pids` limit shows as EAGAIN (cgroups(7)).
pub fn fork_failure(cause: &std::io::Error) -> String {
    match cause.kind() {
        std::io::ErrorKind::WouldBlock => "it has as many processes as its pids limit allows".to_owned(),
        _ => format!("fork: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_its_frame() {
        let start = Start {
            id: "a".into(),
            dir: "/d".into(),
            group: Group::from_text("v2=/sys/fs/cgroup/stoa-x/a"),
            keepers: Group::from_text(""),
            owner: (1, 2),
            uid_base: 3,
            netns: Some("/n".into()),
            log_dir: "/l".into(),
            log_label: "b".into(),
            segment_bytes: 4,
            max_bytes: 5,
            rate_bytes_per_s: 6,
            stop_signal: 15,
        };
        let requests = [
            Request::Start(Box::new(start)),
            Request::Ping,
            Request::Signal(-1),
            Request::Stop {
                signal: None,
                grace_ms: 7,
            },
            Request::Stop {
                signal: Some(2),
                grace_ms: 0,
            },
            Request::Kill,
            Request::Exec,
        ];
        for request in requests {
            assert_eq!(Request::from_frame(&request.to_frame()), Some(request));
        }
        let replies = [
            Reply::Ok,
            Reply::Started { pid: 1, pid_start: 2 },
            Reply::Failed {
                stage: "root".into(),
                reason: "no".into(),
            },
            Reply::Ended {
                code: -1,
                signal: Some(9),
            },
            Reply::Unsupported { oldest: 1, newest: 2 },
        ];
        for reply in replies {
            assert_eq!(Reply::from_frame(&reply.to_frame()), Some(reply));
        }
        let order = Request::Kill.to_frame_of(3);
        assert_eq!(Request::from_frame(&order), Some(Request::Kill));
        assert_eq!(order.get_number(tag::EPOCH), Some(3));
        assert_eq!(Request::from_frame(&Frame::new(VERSION, 999)), None);
        assert_eq!(Request::from_frame(&Frame::new(0, kind::PING)), None);
    }
}
