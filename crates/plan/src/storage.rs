//! Whether what takes space still has some, and when to look again.
//!
//! Lives here: when a database may only be read for want of space and when it may be written again, when an instance
//! wrote too much, how often all that is looked at.
//! Does not live here: measuring, and doing something about it (`control`).
//! Invariants: between full and free again lies a gap, so that what is on the edge does not go back and forth; what could
//! not be measured changes nothing; how often one is measured does not depend on how long another takes.

use model::{Bytes, Millis, StorageFull};

/// What must stay free in the pool: a server that cannot write its log ends, so that all of them stop before. They are told
/// to in the time in which half of this could be written ([`LOOK_SOONEST`] at [`FASTEST_PER_S`]); the other half is for
/// what they write while they are being told.
pub const POOL_RESERVE: Bytes = Bytes::mi(512);

/// Once it was short, the pool must have so much.
const POOL_AGAIN: Bytes = Bytes::mi(768);

/// What servers write in a second at most. One on two processors wrote 260 MB/s, its log included, onto a disk that took
/// 1700 MB/s.
const FASTEST_PER_S: Bytes = Bytes::mi(1024);

/// Between two looks at the pool while there is plenty.
const LOOK_LATEST: Millis = Millis::seconds(5);
/// And while there is little.
const LOOK_SOONEST: Millis = Millis::new(250);

/// All measuring together takes at most this part of one processor...
const SHARE_OF_ALL: u64 = 10;
/// ...and what is measured alone this one.
const SHARE_OF_ONE: u64 = 50;
/// What takes long is measured no more seldom than this, whatever it costs: it must not buy itself time to write by being
/// hard to measure.
const MEASURE_LATEST: Millis = Millis::seconds(30);

/// A database is free again below this share of what made it full.
const FREE_AGAIN_PERCENT: u64 = 90;

/// What is known of a database's space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What its volume holds, when that could be measured.
    pub used: Option<Bytes>,
    /// What it may hold.
    pub budget: Bytes,
    /// What the pool can still give, what it may grow by included, when that could be measured.
    pub pool_free: Option<Bytes>,
}

/// Whether a database is full, and of what; `now` is what it was until now.
#[must_use]
pub fn database(space: Space, now: Option<StorageFull>) -> Option<StorageFull> {
    let is_short = |of| now == Some(of);
    let budget = match is_short(StorageFull::Budget) {
        true => share(space.budget),
        false => space.budget,
    };
    let reserve = match is_short(StorageFull::Pool) {
        true => POOL_AGAIN,
        false => POOL_RESERVE,
    };
    let is_beyond = match space.used {
        Some(used) => used >= budget,
        None => is_short(StorageFull::Budget),
    };
    let is_little = match space.pool_free {
        Some(free) => free < reserve,
        None => is_short(StorageFull::Pool),
    };
    if is_beyond {
        Some(StorageFull::Budget)
    } else if is_little {
        Some(StorageFull::Pool)
    } else {
        None
    }
}

fn share(budget: Bytes) -> Bytes {
    Bytes::new(budget.get() / 100 * FREE_AGAIN_PERCENT)
}

/// Whether an instance wrote more into its own root file system than it may.
#[must_use]
pub fn is_beyond(written: Bytes, limit: Bytes) -> bool {
    written > limit
}

/// How long until the pool is to be looked at again: before its reserve could be reached, as far as looking can see to that.
/// One that cannot be measured is no better known for being asked more often.
#[must_use]
pub fn next_look(pool_free: Option<Bytes>) -> Millis {
    let Some(free) = pool_free else {
        return LOOK_LATEST;
    };
    let spare = free.get().saturating_sub(POOL_RESERVE.get());
    let until_reserve_ms = spare / (FASTEST_PER_S.get() / 1000);
    Millis::new(until_reserve_ms).clamp(LOOK_SOONEST, LOOK_LATEST)
}

/// How long until something is to be measured again that took so long; `count` is how many are measured, itself included.
#[must_use]
pub fn next_measure(took: Millis, count: usize) -> Millis {
    let rest = (SHARE_OF_ALL.saturating_mul(count as u64)).max(SHARE_OF_ONE);
    Millis::new(took.as_ms().saturating_mul(rest)).clamp(LOOK_LATEST, MEASURE_LATEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_BUDGET: Option<StorageFull> = Some(StorageFull::Budget);
    const OF_POOL: Option<StorageFull> = Some(StorageFull::Pool);

    fn check(used: Option<u64>, pool: Option<u64>, before: Option<StorageFull>, after: Option<StorageFull>) {
        let space = Space {
            used: used.map(Bytes::mi),
            budget: Bytes::mi(1000),
            pool_free: pool.map(Bytes::mi),
        };
        assert_eq!(database(space, before), after, "{used:?} {pool:?} {before:?}");
    }

    #[test]
    fn what_is_full_is_free_again_only_with_a_gap() {
        for (used, pool, before, after) in [
            (0, 9000, None, None),
            (999, 9000, None, None),
            (1000, 9000, None, OF_BUDGET),
            (5000, 9000, None, OF_BUDGET),
            (950, 9000, OF_BUDGET, OF_BUDGET),
            (900, 9000, OF_BUDGET, OF_BUDGET),
            (899, 9000, OF_BUDGET, None),
            (10, 511, None, OF_POOL),
            (10, 512, None, None),
            (10, 767, OF_POOL, OF_POOL),
            (10, 768, OF_POOL, None),
            (1000, 768, OF_POOL, OF_BUDGET),
            (10, 400, OF_BUDGET, OF_POOL),
        ] {
            check(Some(used), Some(pool), before, after);
        }
    }

    #[test]
    fn what_could_not_be_measured_changes_nothing() {
        for (used, pool, before, after) in [
            (None, None, None, None),
            (None, None, OF_BUDGET, OF_BUDGET),
            (None, None, OF_POOL, OF_POOL),
            (None, Some(9000), OF_BUDGET, OF_BUDGET),
            (None, Some(9000), OF_POOL, None),
            (None, Some(10), None, OF_POOL),
            (Some(10), None, OF_BUDGET, None),
            (Some(1000), None, None, OF_BUDGET),
            (Some(10), None, OF_POOL, OF_POOL),
        ] {
            check(used, pool, before, after);
        }
    }

    #[test]
    fn no_server_is_fast_enough_to_write_the_reserve_between_two_looks() {
        let per_ms = FASTEST_PER_S.get() / 1000;
        for free in (POOL_RESERVE.get()..Bytes::mi(9000).get()).step_by(7 << 20) {
            let wait = next_look(Some(Bytes::new(free)));
            let left = free - wait.as_ms() * per_ms;
            assert!(left >= POOL_RESERVE.get() / 2, "{free}: {wait:?}");
        }
        assert_eq!(next_look(Some(Bytes::mi(1 << 20))), LOOK_LATEST);
        assert_eq!(next_look(Some(Bytes::mi(0))), LOOK_SOONEST);
        assert_eq!(next_look(None), LOOK_LATEST);
    }

    #[test]
    fn measuring_takes_a_small_part_of_the_time_and_one_does_not_hold_up_another() {
        let ms = Millis::new;
        for (took, count, expected) in [
            (ms(0), 1, ms(5000)),
            (ms(100), 1, ms(5000)),
            (ms(200), 1, ms(10_000)),
            (ms(100), 20, ms(20_000)),
            (ms(3000), 1, ms(30_000)),
            (ms(u64::MAX), usize::MAX, ms(30_000)),
        ] {
            assert_eq!(next_measure(took, count), expected, "{took:?} {count}");
        }
    }
}
