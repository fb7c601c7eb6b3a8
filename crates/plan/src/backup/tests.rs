use model::ImageDigest;

use super::*;

const MINUTE: u64 = 60_000;

fn at(minute: u64) -> Timestamp {
    Timestamp::from_ms(minute * MINUTE)
}

fn segment(number: u64) -> Segment {
    Segment { timeline: 1, number }
}

/// A closed segment for each number, written in the minute of that number.
fn stretch(number: u64, numbers: impl IntoIterator<Item = u64>) -> Stretch {
    let file = |number| WalFile {
        segment: segment(number),
        is_open: false,
        bytes: SEGMENT_BYTES,
        written: at(number),
    };
    Stretch {
        number,
        files: numbers.into_iter().map(file).collect(),
        complete: None,
    }
}

/// A base of that minute, which ends in the segment of the same number.
fn base(number: u64, stretch: u64, minute: u64) -> Base {
    Base {
        number,
        stretch,
        at: at(minute),
        lsn: Lsn::new(minute * SEGMENT_BYTES + 100),
        last: segment(minute),
        version: "15".to_owned(),
        manifest: None,
        image: format!("sha256:{}", "0".repeat(64))
            .parse::<ImageDigest>()
            .expect("a digest"),
    }
}

fn numbers(runs: &[Run]) -> Vec<(u64, u64)> {
    runs.iter()
        .map(|run| (run.first.number, run.last.number))
        .collect()
}

#[test]
fn a_missing_or_short_segment_ends_a_run_and_is_a_gap() {
    assert_eq!(numbers(&runs(&[stretch(1, 3..=9)])), [(3, 9)]);
    let holed = stretch(1, [3, 4, 5, 7, 8]);
    let found = runs(&[holed]);
    assert_eq!(numbers(&found), [(3, 5), (7, 8)]);
    let gap = Gap {
        after: segment(5),
        before: segment(7),
        since: at(5),
    };
    assert_eq!(gaps(&found), [gap]);
    let mut short = stretch(1, 3..=6);
    short.files[1].bytes = 0;
    assert_eq!(numbers(&runs(&[short])), [(3, 3), (5, 6)]);
}

#[test]
fn only_the_newest_segment_may_be_open() {
    let mut two = stretch(1, 3..=6);
    two.files[3].is_open = true;
    assert_eq!(numbers(&runs(&[two.clone()])), [(3, 6)]);
    two.files[1].is_open = true;
    assert_eq!(numbers(&runs(&[two])), [(3, 3), (5, 6)]);
    // Closed, with a rest of the time before.
    let mut rest = stretch(1, [3, 4, 4, 5]);
    rest.files[1].is_open = true;
    assert_eq!(numbers(&runs(&[rest])), [(3, 5)]);
}

#[test]
fn stretches_that_overlap_have_no_gap_between_them_but_are_not_one_run() {
    let found = runs(&[stretch(2, 6..=8), stretch(1, 3..=6)]);
    assert_eq!(numbers(&found), [(3, 6), (6, 8)]);
    assert!(gaps(&found).is_empty());
    assert_eq!(gaps(&runs(&[stretch(1, 3..=6), stretch(2, 9..=9)])).len(), 1);
    // The segment that was being received has no end in the first; the second must have it whole.
    let mut open = stretch(1, 3..=6);
    open.files[3].is_open = true;
    assert_eq!(gaps(&runs(&[open.clone(), stretch(2, 7..=9)])).len(), 1);
    assert!(gaps(&runs(&[open, stretch(2, 6..=9)])).is_empty());
}

#[test]
fn a_window_reaches_from_its_first_base_to_the_end_of_its_run() {
    let mut one = stretch(1, 3..=9);
    one.complete = Some((at(30), Lsn::new(9 * SEGMENT_BYTES + 7)));
    let (bases, runs) = ([base(1, 1, 4), base(2, 1, 6)], runs(&[one]));
    let found = windows(&bases, &runs);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].from, found[0].until), (at(4), at(30)));
    assert_eq!(found[0].until_lsn, Lsn::new(9 * SEGMENT_BYTES + 7));
    assert!(runs[0].is_proven);
    let way = |target| way(&bases, &runs, target).map(|way| way.base.number);
    for (target, expected) in [
        (Target::Time { at: at(3) }, None),
        (Target::Time { at: at(4) }, Some(1)),
        (Target::Time { at: at(5) }, Some(1)),
        (Target::Time { at: at(6) }, Some(2)),
        (Target::Time { at: at(30) }, Some(2)),
        (Target::Time { at: at(31) }, None),
        (Target::Latest, Some(2)),
        (Target::Lsn { lsn: bases[0].lsn }, Some(1)),
        (
            Target::Lsn {
                lsn: Lsn::new(4 * SEGMENT_BYTES),
            },
            None,
        ),
        (
            Target::Lsn {
                lsn: Lsn::new(9 * SEGMENT_BYTES + 8),
            },
            None,
        ),
    ] {
        assert_eq!(way(target), expected, "{target}");
    }
}

#[test]
fn what_was_said_to_be_complete_does_not_count_when_the_files_are_gone() {
    let mut one = stretch(1, 3..=5);
    one.complete = Some((at(30), Lsn::new(9 * SEGMENT_BYTES)));
    let found = runs(&[one]);
    assert_eq!((found[0].until, found[0].is_proven), (at(5), false));
}

#[test]
fn behind_a_gap_nothing_is_restored_from_before_it() {
    let (bases, runs) = ([base(1, 1, 3)], runs(&[stretch(1, [3, 4, 6, 7])]));
    assert_eq!(way(&bases, &runs, Target::Latest), None);
    assert_eq!(way(&bases, &runs, Target::Time { at: at(6) }), None);
    assert!(way(&bases, &runs, Target::Time { at: at(4) }).is_some());
}

fn policy(keep: u64, every: u64, segments: u64) -> Policy {
    Policy {
        keep: Millis::new(keep * MINUTE),
        every: Millis::new(every * MINUTE),
        budget: Bytes::new(segments * SEGMENT_BYTES),
        is_short: false,
    }
}

#[test]
fn retention_keeps_the_base_that_the_oldest_promise_begins_from() {
    let bases = [base(1, 1, 10), base(2, 1, 20), base(3, 1, 30), base(4, 1, 40)];
    let stretches = [stretch(1, 10..=45)];
    // Promised from minute 25 on: the base of minute 20 serves it.
    let found = upkeep(&bases, &stretches, 1, policy(20, 10, 1000), at(45));
    assert_eq!(found.bases, [1]);
    let free: Vec<u64> = found.segments.iter().map(|(_, segment)| segment.number).collect();
    assert_eq!(free, (10..20).collect::<Vec<_>>());
    assert_eq!(found.wants_base, None);
}

#[test]
fn a_base_that_nothing_goes_on_from_does_not_replace_another() {
    // The segment that base 2 needs is missing.
    let bases = [base(1, 1, 10), base(2, 1, 20), base(3, 1, 40)];
    let stretches = [stretch(1, (10..20).chain(21..=45))];
    let found = upkeep(&bases, &stretches, 1, policy(20, 10, 1000), at(45));
    assert_eq!(found.bases, Vec::<u64>::new());
}

#[test]
fn behind_a_gap_a_base_is_wanted_at_once() {
    let (bases, whole) = ([base(1, 1, 40)], [stretch(1, 40..=45)]);
    let wanted = |bases: &[Base], stretches: &[Stretch]| {
        upkeep(bases, stretches, 1, policy(1000, 1000, 1000), at(46)).wants_base
    };
    assert_eq!(wanted(&bases, &whole), None);
    let holed = [stretch(1, [40, 41, 43, 44])];
    assert_eq!(wanted(&bases, &holed), Some(Why::None));
    assert_eq!(wanted(&[base(1, 1, 40), base(2, 1, 44)], &holed), None);
}

#[test]
fn beyond_its_budget_the_oldest_goes_but_never_the_last_of_use() {
    let bases = [base(1, 1, 10), base(2, 1, 20)];
    let stretches = [stretch(1, 10..=45)];
    let found = upkeep(&bases, &stretches, 1, policy(1000, 1000, 30), at(45));
    assert_eq!((found.bases, found.wants_base), (vec![1], Some(Why::Much)));
    let found = upkeep(&bases, &stretches, 1, policy(1000, 1000, 3), at(45));
    assert_eq!(found.bases, [1]);
    // The younger one is of no use: nothing of its stretch is there.
    let bases = [base(1, 1, 10), base(2, 2, 20)];
    let found = upkeep(&bases, &stretches, 2, policy(1000, 1000, 3), at(45));
    assert_eq!(
        (found.bases, found.stretches),
        (Vec::<u64>::new(), Vec::<u64>::new())
    );
    assert_eq!(found.wants_base, Some(Why::None));
}

#[test]
fn when_the_pool_is_short_only_the_newest_stays_and_none_is_taken() {
    let bases = [base(1, 1, 10), base(2, 1, 20), base(3, 1, 30)];
    let short = Policy {
        is_short: true,
        ..policy(1000, 1, 1000)
    };
    let found = upkeep(&bases, &[stretch(1, 10..=45)], 1, short, at(45));
    assert_eq!((found.bases, found.wants_base), (vec![1, 2], None));
}

#[test]
fn an_old_stretch_goes_with_its_last_base() {
    let bases = [base(1, 1, 10), base(2, 2, 30)];
    let stretches = [stretch(1, 10..=20), stretch(2, 30..=60)];
    let found = upkeep(&bases, &stretches, 2, policy(40, 1000, 1000), at(60));
    assert_eq!((found.bases, found.stretches), (vec![], vec![]));
    let found = upkeep(&bases, &stretches, 2, policy(30, 1000, 1000), at(60));
    assert_eq!((found.bases, found.stretches), (vec![1], vec![1]));
}

/// Whatever was written, lost and received again: after the upkeep everything that was promised and could be restored
/// before it still can.
#[test]
fn no_upkeep_takes_away_what_is_promised() {
    let mut state = 0x5eed_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut removed = 0;
    for _ in 0..2000 {
        let (mut stretches, mut bases) = (Vec::new(), Vec::new());
        let (mut minute, mut number) = (1, 0);
        let stretch_count = 1 + random(3);
        for which in 1..=stretch_count {
            let length = 1 + random(30);
            let all: Vec<u64> = (minute..minute + length).filter(|_| random(15) > 0).collect();
            for here in minute..minute + length {
                if random(6) == 0 {
                    number += 1;
                    bases.push(base(number, which, here));
                }
            }
            stretches.push(stretch(which, all));
            minute += length + random(3);
        }
        let keep = random(40);
        let policy = policy(keep, 5, 10_000);
        let now = at(minute);
        let found = upkeep(&bases, &stretches, stretch_count, policy, now);
        let kept: Vec<Base> = bases
            .iter()
            .filter(|base| !found.bases.contains(&base.number))
            .cloned()
            .collect();
        let left: Vec<Stretch> = stretches
            .iter()
            .filter(|stretch| !found.stretches.contains(&stretch.number))
            .map(|stretch| Stretch {
                files: stretch
                    .files
                    .iter()
                    .filter(|file| !found.segments.contains(&(stretch.number, file.segment)))
                    .copied()
                    .collect(),
                ..stretch.clone()
            })
            .collect();
        removed += found.bases.len() + found.segments.len();
        let (before, after) = (runs(&stretches), runs(&left));
        for promised in minute.saturating_sub(keep)..=minute {
            let target = Target::Time { at: at(promised) };
            let was = way(&bases, &before, target).is_some();
            let is = way(&kept, &after, target).is_some();
            assert!(
                !was || is,
                "minute {promised} of {minute}, {keep} kept: {found:?}"
            );
        }
        let was = way(&bases, &before, Target::Latest).is_some();
        assert!(
            !was || way(&kept, &after, Target::Latest).is_some(),
            "the latest: {found:?}"
        );
    }
    assert!(removed > 1000, "nothing was removed: the test shows nothing");
}
