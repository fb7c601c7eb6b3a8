//! What a database can be restored to, what of its backup may go, and when it wants another base.
//!
//! Lives here: runs and gaps of the archived log, windows of restore, the base to begin from, retention.
//! Does not live here: reading the archive, copying, replaying (`databases`), storing (`control`).
//! Invariants: what is promised can be restored from a base that is kept and log without a hole; the last base of use is
//! never given up.
//!
//! ```text
//! stretch 1: [seg seg seg] .. [seg seg]     a missing segment ends a run
//! stretch 2:                      [seg seg part]   the server had dropped what was not received: a gap between stretches
//! bases:      ^              ^     ^          a base is of use when its last segment lies in a run of its stretch
//! ```

use model::backup::SEGMENT_BYTES;
use model::{Base, Bytes, Lsn, Millis, Segment, Target, Timestamp};

/// One file of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalFile {
    /// Which segment.
    pub segment: Segment,
    /// It is still being received.
    pub is_open: bool,
    /// Its size.
    pub bytes: u64,
    /// When something was written to it last.
    pub written: Timestamp,
}

/// What was received without a break as far as the receiver knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Its number.
    pub number: u64,
    /// Its files, in any order.
    pub files: Vec<WalFile>,
    /// Everything that was committed by then, and lies before that place, is in it.
    pub complete: Option<(Timestamp, Lsn)>,
}

/// Log without a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Its stretch.
    pub stretch: u64,
    /// Its first segment.
    pub first: Segment,
    /// Its last segment.
    pub last: Segment,
    /// That one was not received to its end.
    pub is_open: bool,
    /// What lies before that place is in it.
    pub end: Lsn,
    /// What was committed by then is in it.
    pub until: Timestamp,
    /// It ends its stretch, and how far it is complete was asked of the server: not only guessed from its files.
    pub is_proven: bool,
}

/// The runs of an archive, in order.
#[must_use]
pub fn runs(stretches: &[Stretch]) -> Vec<Run> {
    let mut ordered: Vec<&Stretch> = stretches.iter().collect();
    ordered.sort_by_key(|stretch| stretch.number);
    ordered.into_iter().flat_map(of_stretch).collect()
}

fn of_stretch(stretch: &Stretch) -> Vec<Run> {
    // A segment of another size was cut short: what is in it cannot be told, so it counts as missing.
    let mut files: Vec<&WalFile> = stretch
        .files
        .iter()
        .filter(|file| file.is_open || file.bytes == SEGMENT_BYTES)
        .collect();
    // What is closed counts more than what is left of its time as an open one.
    files.sort_by_key(|file| (file.segment, file.is_open));
    files.dedup_by_key(|file| file.segment);
    let newest = files.last().map(|file| file.segment);
    files.retain(|file| !file.is_open || Some(file.segment) == newest);
    let mut runs: Vec<Run> = Vec::new();
    for file in files {
        match runs.last_mut() {
            Some(run) if follows(run.last, file.segment) => {
                run.last = file.segment;
                run.is_open = file.is_open;
                run.end = file.segment.end();
                run.until = file.written;
            }
            Some(_) | None => runs.push(Run {
                stretch: stretch.number,
                first: file.segment,
                last: file.segment,
                is_open: file.is_open,
                end: file.segment.end(),
                until: file.written,
                is_proven: false,
            }),
        }
    }
    if let (Some(run), Some((until, end))) = (runs.last_mut(), stretch.complete)
        && run.last.number >= end.segment_before()
    {
        (run.until, run.end, run.is_proven) = (until, end, true);
    }
    runs
}

fn follows(one: Segment, next: Segment) -> bool {
    one.timeline == next.timeline && one.number + 1 == next.number
}

/// What is missing between two runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last segment before it.
    pub after: Segment,
    /// The first segment after it.
    pub before: Segment,
    /// Nothing that was committed by then is missing.
    pub since: Timestamp,
}

/// The gaps between the runs of an archive, oldest first.
#[must_use]
pub fn gaps(runs: &[Run]) -> Vec<Gap> {
    let pairs = runs.windows(2).filter_map(|pair| match pair {
        [one, next] => Some((one, next)),
        _ => None,
    });
    pairs
        .filter(|(one, next)| is_missing_between(one, next))
        .map(|(one, next)| Gap {
            after: one.last,
            before: next.first,
            since: one.until,
        })
        .collect()
}

/// A stretch may begin where the one before it ended, or before that; what was not received to its end must be in it whole.
fn is_missing_between(one: &Run, next: &Run) -> bool {
    let expected = one.last.number + u64::from(!one.is_open);
    one.last.timeline != next.first.timeline || next.first.number > expected
}

/// A span that can be restored to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// From this moment.
    pub from: Timestamp,
    /// Until that one.
    pub until: Timestamp,
    /// From this place in the log.
    pub from_lsn: Lsn,
    /// Until that one.
    pub until_lsn: Lsn,
}

/// The run that goes on from a base, if what it needs of it is there.
#[must_use]
pub fn run_of<'a>(base: &Base, runs: &'a [Run]) -> Option<&'a Run> {
    runs.iter().find(|run| {
        run.stretch == base.stretch
            && run.first.timeline == base.last.timeline
            && (run.first.number..=run.last.number).contains(&base.last.number)
            && run.end >= base.lsn
    })
}

/// What can be restored to, oldest first: one window for each run with a base in it.
#[must_use]
pub fn windows(bases: &[Base], runs: &[Run]) -> Vec<Window> {
    let of_run = |run: &Run| {
        let mine = bases.iter().filter(|base| run_of(base, runs) == Some(run));
        let first = mine.min_by_key(|base| base.at)?;
        Some(Window {
            from: first.at,
            // A base that is younger than what the files tell of their times.
            until: run.until.max(first.at),
            from_lsn: first.lsn,
            until_lsn: run.end,
        })
    };
    runs.iter().filter_map(of_run).collect()
}

/// Where a restore begins and what it goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way<'a> {
    /// The base.
    pub base: &'a Base,
    /// The log after it.
    pub run: &'a Run,
}

/// The shortest way to a target; nothing when it lies outside of every window.
#[must_use]
pub fn way<'a>(bases: &'a [Base], runs: &'a [Run], target: Target) -> Option<Way<'a>> {
    let fits = |base: &&'a Base| {
        let run = run_of(base, runs)?;
        let reaches = match target {
            // Only what nothing is missing behind is the latest.
            Target::Latest => runs.last() == Some(run),
            Target::Time { at } => base.at <= at && at <= run.until.max(base.at),
            Target::Lsn { lsn } => base.lsn <= lsn && lsn <= run.end,
        };
        reaches.then_some(run)
    };
    let newest = bases
        .iter()
        .filter_map(|base| fits(&base).map(|run| Way { base, run }));
    newest.max_by_key(|way| (way.base.at, way.base.number))
}

/// How much of a backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How far back a restore may reach.
    pub keep: Millis,
    /// How old the newest base may get: it bounds how long a replay takes.
    pub every: Millis,
    /// What the archived log may hold.
    pub budget: Bytes,
    /// The pool has hardly room for anybody: the backup gives way first.
    pub is_short: bool,
}

/// A week back, a base a day.
pub const KEEP: Millis = Millis::seconds(7 * 24 * 3600);
/// See [`Policy::every`].
pub const EVERY: Millis = Millis::seconds(24 * 3600);

/// What is to become of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Upkeep {
    /// Numbers of bases that no promise needs.
    pub bases: Vec<u64>,
    /// Segments of the log, by stretch, that no kept base needs.
    pub segments: Vec<(u64, Segment)>,
    /// Stretches that no kept base needs at all.
    pub stretches: Vec<u64>,
    /// Why another base is wanted.
    pub wants_base: Option<Why>,
}

/// Why another base is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is none from which what is received now can be replayed.
    None,
    /// The newest is old.
    Old,
    /// Much was written since the newest: a replay would take long, and the log before it could go.
    Much,
}

/// What may go, and whether another base is wanted. `current` is the stretch that is received now.
#[must_use]
pub fn upkeep(bases: &[Base], stretches: &[Stretch], current: u64, policy: Policy, now: Timestamp) -> Upkeep {
    let runs = runs(stretches);
    let mut kept: Vec<&Base> = bases.iter().collect();
    kept.sort_by_key(|base| (base.at, base.number));
    let is_of_use = |base: &&&Base| run_of(base, &runs).is_some();
    let mut upkeep = Upkeep::default();
    // Whatever may be asked for from now on is at or after the end of what is kept: the newest base before that serves it.
    let anchor = kept
        .iter()
        .filter(is_of_use)
        .filter(|base| base.at.plus(policy.keep) <= now)
        .max_by_key(|base| base.at)
        .map(|base| base.at);
    let (gone, mut kept): (Vec<&Base>, Vec<&Base>) = kept
        .into_iter()
        .partition(|base| anchor.is_some_and(|anchor| base.at < anchor));
    upkeep.bases.extend(gone.iter().map(|base| base.number));
    while policy.is_short || held(&kept, stretches) > policy.budget.get() {
        // Only in favour of a younger one: the last of use stays, whatever it costs.
        if kept.len() < 2 || !kept[1..].iter().any(|base| is_of_use(&base)) {
            break;
        }
        upkeep.bases.push(kept.remove(0).number);
    }
    for stretch in stretches {
        let needed = kept
            .iter()
            .filter(|base| base.stretch == stretch.number)
            .map(|base| base.last.number)
            .min();
        match needed {
            Some(needed) => {
                let free = stretch.files.iter().filter(|file| file.segment.number < needed);
                upkeep
                    .segments
                    .extend(free.map(|file| (stretch.number, file.segment)));
            }
            None if stretch.number < current => upkeep.stretches.push(stretch.number),
            None => {}
        }
    }
    if !policy.is_short {
        // Behind a gap nothing can be restored before there is a base there.
        let goes_on = |base: &&&Base| {
            let run = run_of(base, &runs);
            run.is_some() && run == runs.last()
        };
        let newest = kept
            .iter()
            .filter(goes_on)
            .filter(|base| base.stretch == current)
            .max_by_key(|base| base.at)
            .copied();
        let much = policy.budget.get() / 4;
        upkeep.wants_base = match newest {
            None => Some(Why::None),
            Some(base) if base.at.plus(policy.every) <= now => Some(Why::Old),
            Some(base) if held(&[base], stretches) > much => Some(Why::Much),
            Some(_) => None,
        };
    }
    upkeep
}

/// Bytes of log that these bases need.
fn held(bases: &[&Base], stretches: &[Stretch]) -> u64 {
    let of_stretch = |stretch: &Stretch| {
        let first = bases
            .iter()
            .filter(|base| base.stretch == stretch.number)
            .map(|base| base.last.number)
            .min();
        let needed = stretch
            .files
            .iter()
            .filter(|file| first.is_some_and(|first| file.segment.number >= first));
        needed.map(|file| file.bytes).sum::<u64>()
    };
    stretches.iter().map(of_stretch).sum()
}

#[cfg(test)]
mod tests;
