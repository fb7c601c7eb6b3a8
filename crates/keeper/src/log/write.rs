//! The writing end of a log: lines in, segments out.
//!
//! Lives here: splitting into lines, numbering, the ring of segments, what is dropped and how that is told.
//! Does not live here: where bytes come from and what time it is (arguments).
//! Invariant: nothing here fails the caller. What cannot be kept (full disk, slow disk, over the rate) is counted and
//! told by a gap record in its place.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Kind, MAX_LINE_BYTES, Stream, encode, header, segment_path, segments};

/// What waits in memory for a disk that fails or is slow; beyond it output is dropped, so that programs go on.
const WAITING_BYTES: usize = 64 * 1024;
/// A program that speaks after a silence is heard although a flood before it has filled that.
const AFTER_SILENCE_BYTES: usize = 16 * 1024;
const MOST_WAITING_BYTES: usize = 256 * 1024;
/// A write that takes longer marks the disk as slow; it is left alone for as long again.
const SLOW_WRITE: Duration = Duration::from_millis(200);
/// After a failed write, the next try; a full disk is not asked thousands of times a second.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Where and how much.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the segments; made when missing.
    pub dir: PathBuf,
    /// Part of the segments' names.
    pub label: String,
    /// A segment is closed at this size.
    pub segment_bytes: u64,
    /// The oldest are deleted beyond this sum.
    pub max_bytes: u64,
    /// More per second is dropped; 0 for no cap.
    pub rate_bytes_per_s: u64,
}

/// Appends to the segments of one label.
#[derive(Debug)]
pub struct Writer {
    settings: Settings,
    file: Option<File>,
    /// Number and size of our segments, the current one last.
    ring: VecDeque<(u64, u64)>,
    next_segment: u64,
    sequence: u64,
    last_time_us: u64,
    partial: [Vec<u8>; 2],
    pending: Vec<u8>,
    waiting_limit: usize,
    lost: Lost,
    lost_in_all: u64,
    rests_until: Option<Instant>,
    rest_reason: &'static str,
    budget: u64,
    budget_at: Instant,
}

#[derive(Debug, Default)]
struct Lost {
    lines: u64,
    bytes: u64,
    reason: &'static str,
}

impl Writer {
    /// Goes on after the newest segment of this label. A directory that cannot be used shows as gaps, not as an error.
    pub fn open(settings: Settings) -> Writer {
        let _ = fs::create_dir_all(&settings.dir);
        let ring: VecDeque<(u64, u64)> = segments(&settings.dir)
            .unwrap_or_default()
            .into_iter()
            .filter(|segment| segment.label == settings.label)
            .map(|segment| (segment.number, segment.bytes))
            .collect();
        Writer {
            next_segment: ring.back().map_or(1, |(number, _)| number + 1),
            ring,
            file: None,
            sequence: 0,
            last_time_us: 0,
            partial: [Vec::new(), Vec::new()],
            pending: Vec::new(),
            waiting_limit: WAITING_BYTES,
            lost: Lost::default(),
            lost_in_all: 0,
            rests_until: None,
            rest_reason: "",
            budget: settings.rate_bytes_per_s.saturating_mul(2),
            budget_at: Instant::now(),
            settings,
        }
    }

    /// Takes output as it was read. Call [`Writer::flush`] after a batch.
    pub fn push(&mut self, stream: Stream, bytes: &[u8], time_us: u64) {
        if let Some(reason) = self.refuses(bytes.len() as u64) {
            self.drop_bytes(bytes, reason);
            return;
        }
        self.last_time_us = time_us.max(self.last_time_us);
        self.tell_gap();
        let time_us = self.last_time_us;
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            self.end_line(stream, &rest[..end], time_us);
            rest = &rest[end + 1..];
        }
        self.hold(stream, rest, time_us);
        if self.pending.len() >= WAITING_BYTES {
            self.flush();
        }
    }

    /// Whether something waits to be shown; see [`Writer::release`].
    pub fn holds_back(&self) -> bool {
        self.lost.bytes > 0
            || !self.pending.is_empty()
            || self.partial.iter().any(|partial| !partial.is_empty())
    }

    /// For after a silence. Writes unfinished lines as pieces: a prompt without a line break should be seen. Tells of a
    /// gap, too.
    pub fn release(&mut self) {
        self.show_held(Kind::Piece);
        self.tell_gap();
        self.flush();
        if !self.pending.is_empty() {
            self.waiting_limit = (self.pending.len() + AFTER_SILENCE_BYTES).min(MOST_WAITING_BYTES);
        }
    }

    /// Writes what has gathered.
    pub fn flush(&mut self) {
        if self.pending.is_empty() || self.rests_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        self.rests_until = None;
        let begun = Instant::now();
        match self.write_out() {
            Ok(()) => {
                let took = begun.elapsed();
                if took > SLOW_WRITE {
                    self.rest("slow disk", took);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => self.rest("disk full", RETRY_AFTER),
            Err(_) => self.rest("write failed", RETRY_AFTER),
        }
    }

    /// The program has ended: unfinished lines count as lines. Returns how many bytes were lost over its life.
    pub fn finish(&mut self) -> u64 {
        self.tell_gap();
        self.show_held(Kind::Line);
        // One last honest try, whatever happened before.
        self.rests_until = None;
        self.flush();
        if let Some(file) = &self.file {
            let _ = file.sync_data();
        }
        self.lost_in_all + self.pending.len() as u64
    }

    fn held(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.partial[0],
            Stream::Stderr => &mut self.partial[1],
        }
    }

    fn end_line(&mut self, stream: Stream, tail: &[u8], time_us: u64) {
        if self.held(stream).is_empty() && tail.len() <= MAX_LINE_BYTES {
            self.record(time_us, &Kind::Line(stream), tail);
            return;
        }
        self.hold(stream, tail, time_us);
        let line = std::mem::take(self.held(stream));
        self.record(time_us, &Kind::Line(stream), &line);
    }

    fn hold(&mut self, stream: Stream, bytes: &[u8], time_us: u64) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let held = self.held(stream);
            if held.len() == MAX_LINE_BYTES {
                let piece = std::mem::take(held);
                self.record(time_us, &Kind::Piece(stream), &piece);
                continue;
            }
            let take = rest.len().min(MAX_LINE_BYTES - held.len());
            held.extend_from_slice(&rest[..take]);
            rest = &rest[take..];
        }
    }

    fn record(&mut self, time_us: u64, kind: &Kind, text: &[u8]) {
        self.sequence += 1;
        encode(&mut self.pending, time_us, self.sequence, kind, text);
    }

    fn refuses(&mut self, bytes: u64) -> Option<&'static str> {
        if self.rests_until.is_some() && self.pending.len() >= self.waiting_limit {
            return Some(self.rest_reason);
        }
        let rate = self.settings.rate_bytes_per_s;
        if rate == 0 {
            return None;
        }
        let elapsed_us = u64::try_from(self.budget_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        let earned = elapsed_us.saturating_mul(rate) / 1_000_000;
        if earned > 0 {
            self.budget = self.budget.saturating_add(earned).min(rate.saturating_mul(2));
            self.budget_at = Instant::now();
        }
        if self.budget < bytes {
            return Some("over the rate limit");
        }
        self.budget -= bytes;
        None
    }

    fn rest(&mut self, reason: &'static str, span: Duration) {
        self.rests_until = Some(Instant::now() + span);
        self.rest_reason = reason;
    }

    fn drop_bytes(&mut self, bytes: &[u8], reason: &'static str) {
        self.lost.lines += bytes.iter().filter(|b| **b == b'\n').count() as u64;
        self.lost.bytes += bytes.len() as u64;
        self.lost_in_all += bytes.len() as u64;
        self.lost.reason = reason;
    }

    fn show_held(&mut self, kind: fn(Stream) -> Kind) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let held = std::mem::take(self.held(stream));
            if !held.is_empty() {
                self.record(self.last_time_us, &kind(stream), &held);
            }
        }
    }

    fn tell_gap(&mut self) {
        if self.lost.bytes > 0 {
            // What came before a gap must not be joined with what comes after it.
            self.show_held(Kind::Piece);
            let Lost { lines, bytes, reason } = std::mem::take(&mut self.lost);
            self.record(self.last_time_us, &Kind::Gap { lines, bytes }, reason.as_bytes());
        }
    }

    fn write_out(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let mut done = 0;
        let mut result = Ok(());
        while done < pending.len() {
            // By whole records: what a nearly full disk still takes, it gets.
            let rest = &pending[done..];
            let most = &rest[..rest.len().min(WAITING_BYTES)];
            let end = most
                .iter()
                .rposition(|b| *b == b'\n')
                .map_or(rest.len(), |at| at + 1);
            result = self.rotate_when_due().and_then(|()| self.append(&rest[..end]));
            if result.is_err() {
                break;
            }
            done += end;
        }
        self.pending = pending;
        self.pending.drain(..done);
        if result.is_ok() {
            // A flood must not leave its largest buffer behind for ever.
            self.pending.shrink_to(MAX_LINE_BYTES);
            self.waiting_limit = WAITING_BYTES;
        }
        result
    }

    fn rotate_when_due(&mut self) -> io::Result<()> {
        let full = self
            .ring
            .back()
            .is_some_and(|(_, size)| *size >= self.settings.segment_bytes);
        // Written to after somebody deleted it, nobody would ever read it.
        let is_deleted = self
            .file
            .as_ref()
            .is_some_and(|file| file.metadata().is_ok_and(|meta| meta.nlink() == 0));
        if is_deleted {
            self.ring.pop_back();
        }
        if self.file.is_none() || full || is_deleted {
            self.rotate()
        } else {
            Ok(())
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (Some(file), Some((_, size))) = (self.file.as_mut(), self.ring.back_mut()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if let Err(error) = file.write_all(bytes) {
            // Half a batch may have arrived: cut back to the last whole record.
            let _ = file.set_len(*size);
            return Err(error);
        }
        *size += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.take() {
            let _ = file.sync_data();
        }
        let path = segment_path(&self.settings.dir, &self.settings.label, self.next_segment);
        let mut file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        let header = header(&self.settings.label);
        if let Err(error) = file.write_all(header.as_bytes()) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.ring.push_back((self.next_segment, header.len() as u64));
        self.next_segment += 1;
        self.file = Some(file);
        while self.ring.len() > 1
            && self.ring.iter().map(|(_, size)| size).sum::<u64>() > self.settings.max_bytes
        {
            if let Some((oldest, _)) = self.ring.pop_front() {
                let _ = fs::remove_file(segment_path(&self.settings.dir, &self.settings.label, oldest));
            }
        }
        Ok(())
    }
}
