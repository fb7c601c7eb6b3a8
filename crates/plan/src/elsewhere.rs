//! What of a database's backup is to be put on the target elsewhere.
//!
//! Lives here: which base and which log. Does not live here: what may go there again (`backup::upkeep`), putting it.
//! Invariants: log goes there only when a base there, or one about to be put there, needs it; a base that can be gone on
//! from is never waited for when there is none.

use model::{Base, Millis, Segment, Timestamp};

use crate::backup::{Stretch, run_of, runs};

/// How much older than the newest here the newest base there may be. Less than a day: bases are taken once a day, and not
/// to the second.
const BASE_EVERY: Millis = Millis::seconds(20 * 3600);

/// A segment of a stretch.
pub type Place = (u64, Segment);

/// What is to be put there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Number of a base.
    pub base: Option<u64>,
    /// Closed segments, in order.
    pub closed: Vec<Place>,
    /// The one that is received now.
    pub open: Option<Place>,
}

/// What is there, or here.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// Bases.
    pub bases: &'a [Base],
    /// Log.
    pub stretches: &'a [Stretch],
}

/// What of `here` is to be put `there`.
#[must_use]
pub fn wanted(here: Held<'_>, there: Held<'_>) -> Wanted {
    let of_use = runs(here.stretches);
    let newest = here.bases.iter().filter(|base| run_of(base, &of_use).is_some());
    let newest = newest.max_by_key(|base| (base.at, base.number));
    let base = newest.filter(|base| is_base_wanted(base, here, there));
    let needed = |stretch: u64| {
        let all = there.bases.iter().chain(base);
        all.filter(|base| base.stretch == stretch)
            .map(|base| base.last.number)
            .min()
    };
    let mut wanted = Wanted {
        base: base.map(|base| base.number),
        ..Wanted::default()
    };
    for stretch in here.stretches {
        let Some(first) = needed(stretch.number) else {
            continue;
        };
        let known: Vec<Segment> = there
            .stretches
            .iter()
            .filter(|there| there.number == stretch.number)
            .flat_map(|there| there.files.iter().filter(|file| !file.is_open))
            .map(|file| file.segment)
            .collect();
        let closed = stretch.files.iter().filter(|file| {
            !file.is_open
                && file.bytes == model::backup::SEGMENT_BYTES
                && file.segment.number >= first
                && !known.contains(&file.segment)
        });
        wanted
            .closed
            .extend(closed.map(|file| (stretch.number, file.segment)));
        let open = stretch
            .files
            .iter()
            .filter(|file| file.is_open && file.segment.number >= first);
        let open = open
            .max_by_key(|file| file.segment)
            .map(|file| (stretch.number, file.segment));
        wanted.open = open.or(wanted.open);
    }
    wanted.closed.sort_unstable();
    wanted
}

/// The newest base there is as good as none when the log that goes on from it, once all of it is there, does not reach the
/// end.
fn is_base_wanted(newest: &Base, here: Held<'_>, there: Held<'_>) -> bool {
    let mut together: Vec<Stretch> = there.stretches.to_vec();
    for stretch in here.stretches {
        match together.iter_mut().find(|other| other.number == stretch.number) {
            Some(other) => other.files.extend(stretch.files.iter().copied()),
            None => together.push(stretch.clone()),
        }
    }
    let all = runs(&together);
    let goes_on = |base: &&Base| run_of(base, &all).is_some_and(|run| all.last() == Some(run));
    let best = there.bases.iter().filter(goes_on).map(|base| base.at).max();
    // Behind a gap nothing is as good as a base that lies there, too.
    let is_behind = run_of(newest, &all).is_some_and(|run| all.last() == Some(run));
    match best {
        None => is_behind || there.bases.is_empty(),
        Some(at) => at.plus(BASE_EVERY) <= newest.at,
    }
}

/// Since when something that should be there is not; nothing when all is.
#[must_use]
pub fn behind(wanted: &Wanted, here: Held<'_>, open_seen: Option<Timestamp>) -> Option<Timestamp> {
    let written = |(number, segment): &Place, is_open: bool| {
        let stretch = here.stretches.iter().find(|stretch| stretch.number == *number)?;
        let mut files = stretch.files.iter();
        let file = files.find(|file| file.segment == *segment && file.is_open == is_open)?;
        Some(file.written)
    };
    let closed = wanted
        .closed
        .iter()
        .filter_map(|place| written(place, false))
        .min();
    let open = wanted.open.as_ref().and_then(|place| written(place, true));
    let open = open.filter(|written| open_seen.is_none_or(|seen| *written > seen));
    closed.into_iter().chain(open).min()
}

#[cfg(test)]
mod tests {
    use model::Lsn;
    use model::backup::SEGMENT_BYTES;

    use super::*;
    use crate::backup::WalFile;

    const HOUR: u64 = 3600 * 1000;

    fn segment(number: u64) -> Segment {
        Segment { timeline: 1, number }
    }

    fn stretch(number: u64, closed: std::ops::RangeInclusive<u64>, open: Option<u64>) -> Stretch {
        let file = |number: u64, is_open| WalFile {
            segment: segment(number),
            is_open,
            bytes: SEGMENT_BYTES,
            written: Timestamp::from_ms(number * HOUR),
        };
        let files = closed.map(|number| file(number, false));
        Stretch {
            number,
            files: files.chain(open.map(|number| file(number, true))).collect(),
            complete: None,
        }
    }

    fn base(number: u64, stretch: u64, last: u64) -> Base {
        Base {
            number,
            stretch,
            at: Timestamp::from_ms(last * HOUR),
            lsn: Lsn::new(last * SEGMENT_BYTES + 40),
            last: segment(last),
            version: "15".to_owned(),
            image: format!("sha256:{}", "0".repeat(64)).parse().expect("a digest"),
            manifest: None,
        }
    }

    fn check(
        here: (&[Base], &[Stretch]),
        there: (&[Base], &[Stretch]),
        expected: (Option<u64>, &[u64], Option<u64>),
    ) {
        let held = |(bases, stretches)| Held { bases, stretches };
        let found = wanted(held(here), held(there));
        let closed: Vec<u64> = found.closed.iter().map(|(_, segment)| segment.number).collect();
        let open = found.open.map(|(_, segment)| segment.number);
        assert_eq!((found.base, closed.as_slice(), open), expected);
    }

    #[test]
    fn first_a_base_and_the_log_after_it_then_what_is_missing() {
        let here_log = [stretch(1, 1..=5, Some(6))];
        let bases = [base(1, 1, 1), base(2, 1, 4)];
        // Nothing is there yet: the newest base, and what it needs.
        check((&bases, &here_log), (&[], &[]), (Some(2), &[4, 5], Some(6)));
        // It is there: only what is not.
        let there_log = [stretch(1, 4..=4, Some(5))];
        check(
            (&bases, &here_log),
            (&bases[1..], &there_log),
            (None, &[5], Some(6)),
        );
        // Without a base here nothing is of use there.
        check((&[], &here_log), (&[], &[]), (None, &[], None));
    }

    #[test]
    fn a_day_later_or_behind_a_gap_another_base_goes_there() {
        let log = [stretch(1, 1..=40, Some(41))];
        let (old, new) = (base(1, 1, 1), base(2, 1, 30));
        let there = [stretch(1, 1..=39, None)];
        check(
            (&[old.clone(), new], &log),
            (std::slice::from_ref(&old), &there),
            (Some(2), &[40], Some(41)),
        );
        let soon = base(2, 1, 10);
        check(
            (&[old.clone(), soon], &log),
            (std::slice::from_ref(&old), &there),
            (None, &[40], Some(41)),
        );
        // Another stretch: what is there does not reach the end.
        let both = [stretch(1, 1..=5, None), stretch(2, 9..=9, Some(10))];
        let behind = base(2, 2, 9);
        let there = [stretch(1, 1..=5, None)];
        check(
            (&[old.clone(), behind], &both),
            (std::slice::from_ref(&old), &there),
            (Some(2), &[9], Some(10)),
        );
        // A segment is neither there nor here any more.
        let holed = [stretch(1, 4..=6, Some(7))];
        let there = [stretch(1, 1..=2, None)];
        let again = base(2, 1, 5);
        check(
            (&[again], &holed),
            (&[old], &there),
            (Some(2), &[4, 5, 6], Some(7)),
        );
    }

    #[test]
    fn what_is_not_there_tells_since_when() {
        let log = [stretch(1, 1..=5, Some(6))];
        let bases = [base(1, 1, 1)];
        let here = Held {
            bases: &bases,
            stretches: &log,
        };
        let there = [stretch(1, 1..=3, None)];
        let found = wanted(
            here,
            Held {
                bases: &bases,
                stretches: &there,
            },
        );
        let at = |hours: u64| Some(Timestamp::from_ms(hours * HOUR));
        assert_eq!(behind(&found, here, None), at(4));
        let open = Wanted {
            closed: Vec::new(),
            ..found
        };
        assert_eq!(behind(&open, here, at(5)), at(6));
        assert_eq!(behind(&open, here, at(6)), None);
    }
}
