//! The reading end of a log: segments in, records out, merged by time.
//!
//! Lives here: cursors over the segments of each label, following, since and tail.
//! Does not live here: who may read what.
//! Invariant: a reader goes by segment number and offset, so rotation never makes it lose or repeat a record; what the
//! ring deleted before it was read is told as a gap.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::{Kind, Position, Record, Segment, decode, segment_path, segments};

const CHUNK_BYTES: usize = 64 * 1024;
/// A segment last written longer than this before a moment has no record from after it. Clocks of files are coarse, and
/// may be put back.
const CLOCK_SLACK_US: u64 = 60_000_000;

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only these labels; empty for all in the directory.
    pub labels: BTreeSet<String>,
    /// Only records at or after this time.
    pub since_us: u64,
    /// Begin with the last N records.
    pub tail: Option<usize>,
    /// Go on after these places (from [`Record::after`]).
    pub after: BTreeMap<String, Position>,
}

/// Reads the segments of a directory. Call [`Reader::read`] until it returns nothing, [`Reader::wait`], and again.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    query: Query,
    cursors: BTreeMap<String, Cursor>,
    watch: Option<OwnedFd>,
}

#[derive(Debug)]
struct Cursor {
    label: Arc<str>,
    segment: u64,
    file: Option<File>,
    /// Offset in the segment of the first byte of `raw`.
    offset: u64,
    raw: Vec<u8>,
    last_time_us: u64,
    ready: VecDeque<Record>,
}

impl Reader {
    /// Opens a directory, which may be empty or absent yet.
    pub fn open(dir: &Path, query: Query) -> io::Result<Reader> {
        let mut reader = Reader {
            dir: dir.to_owned(),
            query,
            cursors: BTreeMap::new(),
            watch: None,
        };
        reader.discover()?;
        if let Some(tail) = reader.query.tail {
            reader.skip_to_tail(tail)?;
        }
        Ok(reader)
    }

    /// The next records, at most about `limit`, merged by time over all labels. Empty: nothing new for now.
    pub fn read(&mut self, limit: usize) -> io::Result<Vec<Record>> {
        self.discover()?;
        let mut out = Vec::new();
        while out.len() < limit {
            for cursor in self.cursors.values_mut() {
                if cursor.ready.is_empty() {
                    cursor.fill(&self.dir)?;
                }
            }
            let first = self.cursors.values_mut().filter(|c| !c.ready.is_empty());
            let Some(cursor) = first.min_by_key(|c| c.ready.front().map(|r| r.time_us)) else {
                break;
            };
            if let Some(record) = cursor.ready.pop_front()
                && record.time_us >= self.query.since_us
            {
                out.push(record);
            }
        }
        Ok(out)
    }

    /// Waits until something may have been written, at most `within`.
    pub fn wait(&mut self, within: Duration) -> io::Result<()> {
        if self.watch.is_none() {
            // From now on nothing is missed; what came before the watch is found by the next read.
            self.watch = self.start_watch();
            if self.watch.is_some() {
                return Ok(());
            }
        }
        let Some(watch) = &self.watch else {
            std::thread::sleep(within.min(Duration::from_millis(50)));
            return Ok(());
        };
        let timeout = Timespec {
            tv_sec: within.as_secs().cast_signed(),
            tv_nsec: within.subsec_nanos().into(),
        };
        let ready = match rustix::event::poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        if ready > 0 {
            let mut events = [0u8; 4096];
            while rustix::io::read(watch, &mut events[..]).is_ok_and(|n| n == events.len()) {}
        }
        Ok(())
    }

    fn start_watch(&self) -> Option<OwnedFd> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        inotify::add_watch(&watch, &self.dir, WatchFlags::MODIFY | WatchFlags::CREATE).ok()?;
        Some(watch)
    }

    fn discover(&mut self) -> io::Result<()> {
        let since_us = self.query.since_us;
        for own in segments(&self.dir)?.chunk_by(|a, b| a.label == b.label) {
            let Some(newest) = own.last() else { continue };
            let label = &newest.label;
            let is_wanted = self.query.labels.is_empty() || self.query.labels.contains(label);
            if !is_wanted || self.cursors.contains_key(label) {
                continue;
            }
            let at = match self.query.after.get(label) {
                Some(after) => *after,
                // Nothing new enough so far; it is looked at again when something was written.
                None if newest.written_us.saturating_add(CLOCK_SLACK_US) < since_us => continue,
                None => position_before(&self.dir, own, since_us),
            };
            self.cursors.insert(label.clone(), Cursor::new(label, at));
        }
        Ok(())
    }

    fn skip_to_tail(&mut self, tail: usize) -> io::Result<()> {
        let mut kept: VecDeque<Record> = VecDeque::new();
        loop {
            let batch = self.read(4096)?;
            if batch.is_empty() {
                break;
            }
            kept.extend(batch);
            let surplus = kept.len().saturating_sub(tail);
            kept.drain(..surplus);
        }
        // Hand them back to their cursors, which stand at the end now.
        for record in kept.into_iter().rev() {
            if let Some(cursor) = self.cursors.get_mut(record.label.as_ref()) {
                cursor.ready.push_front(record);
            }
        }
        Ok(())
    }
}

impl Cursor {
    fn new(label: &str, at: Position) -> Cursor {
        let label = Arc::from(label);
        Cursor {
            label,
            segment: at.segment,
            file: None,
            offset: at.offset,
            raw: Vec::new(),
            last_time_us: 0,
            ready: VecDeque::new(),
        }
    }

    /// Parses more records into `ready`, over segment ends, until there is one or the end is reached.
    fn fill(&mut self, dir: &Path) -> io::Result<()> {
        loop {
            if self.file.is_none() && !self.open(dir)? {
                return Ok(());
            }
            if self.read_chunk()? > 0 {
                self.parse();
                if !self.ready.is_empty() {
                    return Ok(());
                }
                continue;
            }
            // At the end. A later segment exists only after the writer was done with this one, so look for it first and
            // read once more before moving on.
            let Some(next) = self.later(dir)? else {
                return Ok(());
            };
            if self.read_chunk()? > 0 {
                self.parse();
                if !self.ready.is_empty() {
                    return Ok(());
                }
                continue;
            }
            if next > self.segment + 1 {
                self.tell_gap(next);
            }
            self.go_to(next);
        }
    }

    fn go_to(&mut self, segment: u64) {
        self.segment = segment;
        self.offset = 0;
        self.raw.clear();
        self.file = None;
    }

    fn tell_gap(&mut self, next: u64) {
        let after = Position {
            segment: next,
            offset: 0,
        };
        let text = b"deleted before it was read".to_vec();
        let kind = Kind::Gap { lines: 0, bytes: 0 };
        // Known only to lie after what was read before.
        let time_us = self.last_time_us;
        self.ready.push_back(Record {
            label: self.label.clone(),
            time_us,
            sequence: 0,
            kind,
            text,
            after,
        });
    }

    fn later(&self, dir: &Path) -> io::Result<Option<u64>> {
        let mut all = segments(dir)?.into_iter();
        let later = all.find(|segment| *segment.label == *self.label && segment.number > self.segment);
        Ok(later.map(|segment| segment.number))
    }

    fn open(&mut self, dir: &Path) -> io::Result<bool> {
        match File::open(segment_path(dir, &self.label, self.segment)) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(self.offset))?;
                self.file = Some(file);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.later(dir)? {
                Some(next) => {
                    self.tell_gap(next);
                    self.go_to(next);
                    self.open(dir)
                }
                None => Ok(false),
            },
            Err(error) => Err(error),
        }
    }

    fn read_chunk(&mut self) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return Ok(0) };
        let begin = self.raw.len();
        self.raw.resize(begin + CHUNK_BYTES, 0);
        let count = file.read(&mut self.raw[begin..]);
        self.raw.truncate(begin + count.as_ref().copied().unwrap_or(0));
        count
    }

    fn parse(&mut self) {
        let mut begin = 0;
        while let Some(length) = self.raw[begin..].iter().position(|b| *b == b'\n') {
            let line = &self.raw[begin..begin + length];
            begin += length + 1;
            let after = Position {
                segment: self.segment,
                offset: self.offset + begin as u64,
            };
            // Neither the header nor a torn line is a record.
            if let Some((time_us, sequence, kind, text)) = decode(line) {
                let (label, text) = (self.label.clone(), text.to_vec());
                self.last_time_us = time_us;
                self.ready.push_back(Record {
                    label,
                    time_us,
                    sequence,
                    kind,
                    text,
                    after,
                });
            }
        }
        self.raw.drain(..begin);
        self.offset += begin as u64;
    }
}

/// A place of one label before its first record at or after `since_us`, near to it: times never go back within a label,
/// so nothing that lies before has to be read. What cannot be read is a reason to begin earlier, never later.
fn position_before(dir: &Path, own: &[Segment], since_us: u64) -> Position {
    let is_older = |segment: &Segment| {
        let file = File::open(segment_path(dir, &segment.label, segment.number)).ok();
        file.and_then(|file| record_from(&file, 0))
            .is_some_and(|(_, time_us)| time_us < since_us)
    };
    let begun_before = own.partition_point(is_older);
    let Some(segment) = begun_before.checked_sub(1).and_then(|last| own.get(last)) else {
        return own.first().map_or(Position::default(), |first| Position {
            segment: first.number,
            offset: 0,
        });
    };
    let (mut offset, mut end) = (0, segment.bytes);
    if let Ok(file) = File::open(segment_path(dir, &segment.label, segment.number)) {
        while end.saturating_sub(offset) > CHUNK_BYTES as u64 {
            let middle = offset.midpoint(end);
            match record_from(&file, middle) {
                Some((at, time_us)) if at < end && time_us < since_us => offset = at,
                Some(_) | None => end = middle,
            }
        }
    }
    Position {
        segment: segment.number,
        offset,
    }
}

/// The first whole record that begins after the line at `offset`: where, and its time.
fn record_from(file: &File, offset: u64) -> Option<(u64, u64)> {
    let mut bytes = vec![0; CHUNK_BYTES];
    let count = file.read_at(&mut bytes, offset).ok()?;
    let bytes = bytes.get(..count)?;
    let mut begin = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    while let Some(length) = bytes[begin..].iter().position(|byte| *byte == b'\n') {
        if let Some((time_us, ..)) = decode(&bytes[begin..begin + length]) {
            return Some((offset + begin as u64, time_us));
        }
        begin += length + 1;
    }
    None
}
