//! The instance's standard output and error: two pipes into the log.
//!
//! Lives here: making the pipes and draining them.
//! Does not live here: lines, segments and gaps (`keeper::log`).
//! Invariant: a pipe is emptied whenever it is readable, whatever the disk does, so the program is not held up for long.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keeper::log::{Settings, Stream, Writer};
use keeper::message::Start;
use rustix::fs::{Gid, Uid};
use rustix::pipe::PipeFlags;

use crate::sys;

/// What a program may write ahead of us: the most an ordinary kernel grants.
const PIPE_BYTES: i32 = 1 << 20;
/// Large enough for the C library to map it: pages nobody wrote to cost nothing.
const CHUNK_BYTES: usize = 128 * 1024;
/// More than this of the chunk is given back once the burst is over.
const KEPT_BYTES: usize = 8 * 1024;
/// Chunks taken in a row before others get their turn.
const CHUNKS_IN_A_ROW: usize = 16;

/// The reading ends and the log behind them.
pub struct Output {
    pipes: [Option<OwnedFd>; 2],
    writer: Writer,
    chunk: Vec<u8>,
    /// Most that a read has put into it.
    touched: usize,
}

impl Output {
    /// Makes the pipes; returns the ends for the program too.
    pub fn open(start: &Start) -> io::Result<(Output, OwnedFd, OwnedFd)> {
        let (out, out_end) = pipe(start.owner)?;
        let (err, err_end) = pipe(start.owner)?;
        let writer = Writer::open(Settings {
            dir: start.log_dir.clone(),
            label: start.log_label.clone(),
            segment_bytes: start.segment_bytes,
            max_bytes: start.max_bytes,
            rate_bytes_per_s: start.rate_bytes_per_s,
        });
        Ok((
            Output {
                pipes: [Some(out), Some(err)],
                writer,
                chunk: vec![0; CHUNK_BYTES],
                touched: 0,
            },
            out_end,
            err_end,
        ))
    }

    /// The descriptors to wait for.
    pub fn descriptors(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [
            self.pipes[0].as_ref().map(AsFd::as_fd),
            self.pipes[1].as_ref().map(AsFd::as_fd),
        ]
    }

    /// Takes what is there.
    pub fn drain(&mut self) {
        let mut most = 0;
        for (index, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            for _ in 0..CHUNKS_IN_A_ROW {
                let Some(pipe) = &self.pipes[index] else { break };
                match rustix::io::read(pipe, &mut self.chunk[..]) {
                    Ok(0) => self.pipes[index] = None,
                    Ok(count) => {
                        most = most.max(count);
                        self.writer.push(stream, &self.chunk[..count], now_us());
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
        self.writer.flush();
        self.touched = self.touched.max(most);
        if self.touched > KEPT_BYTES && most <= KEPT_BYTES {
            self.chunk = vec![0; CHUNK_BYTES];
            self.touched = 0;
        }
    }

    /// When to call [`Output::release`] although nothing arrives.
    pub fn patience(&self) -> Option<Duration> {
        self.writer.holds_back().then_some(Duration::from_secs(1))
    }

    /// Shows an unfinished line.
    pub fn release(&mut self) {
        self.writer.release();
    }

    /// Whether every writer has gone.
    pub fn is_closed(&self) -> bool {
        self.pipes.iter().all(Option::is_none)
    }

    /// Writes the rest; returns the bytes lost over its life.
    pub fn finish(&mut self) -> u64 {
        self.writer.finish()
    }
}

fn pipe(owner: (u32, u32)) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    sys::widen_pipe(read.as_fd(), PIPE_BYTES);
    // Only our end: the program expects a blocking one.
    rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::NONBLOCK)?;
    // Programs reopen /dev/stdout; that asks for permission on the pipe itself.
    rustix::fs::fchown(&write, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
    Ok((read, write))
}

/// Microseconds since 1970.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
