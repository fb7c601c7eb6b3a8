//! Moving a body from one connection to the other.
//!
//! Lives here: the loop that decodes, re-frames and writes, one direction at a time.
//! Does not live here: which framing applies (`forward`).
//! Invariant: nothing is read while something waits to be written: back-pressure reaches the sender by itself, and one
//! direction never holds more than one buffer. Every progress re-arms the deadline.

use std::io;

use crate::buffer::{Buffer, LARGE_BYTES, SMALL_BYTES, Stock};
use crate::clock::Watch;
use crate::h1::body::{Decoder, Step, trailers};
use crate::stream::{Stream, WriteError, read, write_moving};

/// How the body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// As it is: a length was declared, or it ends with the connection.
    Raw,
    /// In chunks of our own making.
    Chunked,
}

/// Why a body did not arrive whole.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The sender failed or fell silent.
    Source(io::Error),
    /// The sender ended before the body did.
    Short,
    /// The sender's chunks are not chunks.
    Framing,
    /// More than is allowed.
    TooLarge,
    /// The receiver failed.
    Sink,
    /// The receiver took nothing for too long.
    Stalled,
}

impl From<WriteError> for Broken {
    fn from(error: WriteError) -> Broken {
        match error.cause.kind() {
            io::ErrorKind::TimedOut => Broken::Stalled,
            _ => Broken::Sink,
        }
    }
}

/// One body on its way.
pub(crate) struct Relay<'a> {
    pub(crate) watch: &'a Watch,
    pub(crate) stock: &'a Stock,
    pub(crate) source: &'a Stream,
    pub(crate) buffer: &'a mut Buffer,
    pub(crate) decoder: &'a mut Decoder,
    pub(crate) sink: &'a Stream,
    /// May hold the message's head, which then leaves together with the first bytes of the body.
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) framing: Framing,
    /// Silence allowed, either side.
    pub(crate) idle_ms: u64,
    /// Bytes allowed.
    pub(crate) limit: u64,
    /// Content moved so far.
    pub(crate) moved: u64,
}

impl Relay<'_> {
    pub(crate) async fn run(&mut self) -> Result<(), Broken> {
        loop {
            let done = self.drain_buffer().await?;
            if !self.out.is_empty() {
                self.flush().await?;
            }
            if done {
                return Ok(());
            }
            self.stock.supply(self.buffer);
            // A full buffer means that the sender has more: larger reads from now on.
            if self.buffer.is_empty()
                && self.moved >= SMALL_BYTES as u64
                && self.buffer.capacity() < LARGE_BYTES
            {
                self.stock.enlarge(self.buffer);
            }
            self.watch.arm_ms(self.idle_ms);
            match read(self.source, self.watch, self.buffer).await {
                Ok(0) if *self.decoder == Decoder::UntilClose => *self.decoder = self.end_of_source(),
                Ok(0) => return Err(Broken::Short),
                Ok(_) => {}
                Err(cause) => return Err(Broken::Source(cause)),
            }
        }
    }

    /// A body that ended with its connection is over; what is left to do is our own last chunk.
    fn end_of_source(&mut self) -> Decoder {
        if self.framing == Framing::Chunked {
            self.out.extend_from_slice(b"0\r\n\r\n");
        }
        Decoder::nothing()
    }

    /// Turns everything received into output; true when the body is over.
    async fn drain_buffer(&mut self) -> Result<bool, Broken> {
        loop {
            match self
                .decoder
                .step(self.buffer.filled())
                .map_err(|_| Broken::Framing)?
            {
                Step::Data(n) => {
                    self.moved += n as u64;
                    if self.moved > self.limit {
                        return Err(Broken::TooLarge);
                    }
                    self.content(n).await?;
                }
                Step::Framing(n) => self.buffer.consume(n),
                Step::Trailers(n) => {
                    if self.framing == Framing::Chunked {
                        end_chunks(self.out, &self.buffer.filled()[..n])?;
                    }
                    self.buffer.consume(n);
                }
                Step::NeedMore => return Ok(false),
                Step::Done => return Ok(true),
            }
        }
    }

    async fn content(&mut self, n: usize) -> Result<(), Broken> {
        if self.framing == Framing::Chunked {
            begin_chunk(self.out, n);
            self.out.extend_from_slice(&self.buffer.filled()[..n]);
            self.out.extend_from_slice(b"\r\n");
        } else if n <= SMALL_BYTES {
            // Copied, to leave in one piece with the head.
            self.out.extend_from_slice(&self.buffer.filled()[..n]);
        } else {
            if !self.out.is_empty() {
                self.flush().await?;
            }
            write_moving(self.sink, self.watch, &self.buffer.filled()[..n], self.idle_ms).await?;
        }
        self.buffer.consume(n);
        if self.out.len() >= LARGE_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        let written = write_moving(self.sink, self.watch, self.out, self.idle_ms).await;
        // Part of a body is never left where a message's head goes.
        self.out.clear();
        Ok(written?)
    }
}

/// The line before a chunk.
pub(crate) fn begin_chunk(out: &mut Vec<u8>, size: usize) {
    use std::io::Write;
    // Writing to a Vec cannot fail.
    let _written = write!(out, "{size:x}\r\n");
}

/// The last chunk and the trailers that may be passed on.
fn end_chunks(out: &mut Vec<u8>, block: &[u8]) -> Result<(), Broken> {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers(block).map_err(|_| Broken::Framing)? {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}
