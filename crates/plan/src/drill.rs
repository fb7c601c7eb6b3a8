//! When the backup of a database is to be proven by a drill, and whether it counts as proven.
//!
//! Lives here: when a drill is due, what protects a database, how many rows a table may have, how much room a drill needs.
//! Does not live here: restoring and looking (`databases`), storing (`control`).
//! Invariants: only a drill that passed protects, and only for a while; one that failed since ends that at once; one that
//! could not be done tells nothing.

use model::{Bytes, Drill, DrillState, Millis, Timestamp};

use crate::storage::POOL_RESERVE;

/// For how long a passed drill proves something: drills are daily, and one may be missed.
pub const WINDOW: Millis = Millis::seconds(2 * 24 * 3600);
/// Between two drills of a database.
pub const EVERY: Millis = Millis::seconds(24 * 3600);
/// After one that failed or could not be done: what was in its way may be gone, but each costs a whole restore.
const AGAIN: Millis = Millis::seconds(6 * 3600);
/// From a database's first base to its first drill: what is being set up has other things to do.
const FIRST_AFTER: Millis = Millis::seconds(600);
/// Drills that are remembered of each database.
pub const REMEMBERED: usize = 30;

/// Whether the backup of a database was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protection {
    /// It was.
    Protected {
        /// When.
        at: Timestamp,
    },
    /// It was not.
    Unprotected {
        /// Why, in a few words.
        why: String,
    },
}

/// Whether the drills of a database, oldest first, prove its backup.
#[must_use]
pub fn protection(drills: &[Drill], now: Timestamp) -> Protection {
    let unprotected = |why: String| Protection::Unprotected { why };
    let judged = drills.iter().rev().find_map(|drill| match &drill.state {
        DrillState::Passed { at } => Some((*at, drill, true)),
        DrillState::Failed { at } => Some((*at, drill, false)),
        DrillState::Running | DrillState::Undone { .. } => None,
    });
    // What kept later ones from being done.
    let undone = drills.iter().rev().find_map(|drill| match &drill.state {
        DrillState::Undone { why, .. } => Some(why.as_str()),
        DrillState::Passed { .. } | DrillState::Failed { .. } | DrillState::Running => None,
    });
    let but = |undone: Option<&str>| {
        undone
            .map(|why| format!("; the last was not done: {why}"))
            .unwrap_or_default()
    };
    match judged {
        None => unprotected(format!("no drill yet{}", but(undone))),
        Some((at, drill, false)) => {
            let check = drill.failed_check().map_or("its", |check| check.kind.as_str());
            unprotected(format!("the drill of {at} failed at the check {check}"))
        }
        Some((at, _, true)) if at.plus(WINDOW) <= now => {
            unprotected(format!("no drill has passed since {at}{}", but(undone)))
        }
        Some((at, _, true)) => Protection::Protected { at },
    }
}

/// Whether a drill is due: `base` tells of the newest base when it can be restored from, and its number.
#[must_use]
pub fn is_due(drills: &[Drill], base: Option<(Timestamp, u64)>, now: Timestamp) -> bool {
    let Some((taken, number)) = base else {
        // Where nothing can be restored, a failed drill says so once a day; before the first base there is nothing to say.
        return drills
            .last()
            .is_some_and(|last| last.state != DrillState::Running && last.asked_at.plus(EVERY) <= now);
    };
    let Some(last) = drills.last() else {
        return taken.plus(FIRST_AFTER) <= now;
    };
    match &last.state {
        DrillState::Running => false,
        DrillState::Passed { .. } => last.asked_at.plus(EVERY) <= now,
        // Another base may be what was wanting: than the one it was of, or than those it could begin from none of.
        DrillState::Failed { .. } => {
            let is_another = match last.base {
                Some(drilled) => drilled != number,
                None => taken > last.asked_at,
            };
            is_another || last.asked_at.plus(AGAIN) <= now
        }
        DrillState::Undone { .. } => last.asked_at.plus(AGAIN) <= now,
    }
}

/// The same for the copy on the target elsewhere, of the drills of that copy: each base that is whole there is drilled.
#[must_use]
pub fn is_target_due(drills: &[Drill], base: Option<(Timestamp, u64)>, now: Timestamp) -> bool {
    let Some(last) = drills.last() else {
        return base.is_some_and(|(taken, _)| taken.plus(FIRST_AFTER) <= now);
    };
    let is_after = |pause: Millis| last.asked_at.plus(pause) <= now;
    // One whose base was never come to has told nothing of any.
    let is_newer = base.is_some_and(|(_, number)| last.base.is_some_and(|drilled| drilled < number))
        && is_after(FIRST_AFTER);
    match &last.state {
        DrillState::Running => false,
        DrillState::Passed { .. } => is_newer || is_after(EVERY),
        DrillState::Failed { .. } => is_newer || is_after(AGAIN),
        DrillState::Undone { .. } => is_after(AGAIN),
    }
}

/// What must be free in the pool for a drill: twice the log that is replayed, for each page it changes is written anew, and
/// the base itself where the pool cannot share blocks.
#[must_use]
pub fn room(log: Bytes, base: Option<Bytes>) -> Bytes {
    let reserve = POOL_RESERVE.get().saturating_mul(2);
    let base = base.map_or(0, Bytes::get);
    Bytes::new(
        reserve
            .saturating_add(log.get().saturating_mul(2))
            .saturating_add(base),
    )
}

/// Whether a table that has so many rows is what the server told of: about as many as it keeps track of, or as it counted when
/// it looked at the table last. What it keeps track of begins anew when it crashes or is upgraded: of a table that it never
/// looked at there may be more.
#[must_use]
pub fn is_in_band(rows: u64, tracked: u64, counted: Option<u64>) -> bool {
    /// Below that, an estimate may be wrong by itself.
    const FEW: u64 = 100;
    let is_enough = |estimate: u64| rows >= (estimate / 2).saturating_sub(FEW);
    let fits = |estimate: u64| is_enough(estimate) && rows <= estimate.saturating_mul(2).saturating_add(FEW);
    match counted {
        Some(counted) => fits(tracked) || fits(counted),
        None => is_enough(tracked),
    }
}

#[cfg(test)]
mod tests {
    use model::drill::{Check, CheckKind, Outcome};
    use model::{DatabaseId, DrillId, OperationId};

    use super::*;

    const DAY: u64 = 24 * 3_600_000;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(10 * DAY + ms)
    }

    fn drill(asked: u64, base: u64, state: DrillState) -> Drill {
        let outcome = match &state {
            DrillState::Failed { .. } => Outcome::Failed,
            _ => Outcome::Passed,
        };
        Drill {
            id: DrillId::fresh(),
            database: DatabaseId::fresh(),
            operation: OperationId::fresh(),
            copy: model::DrilledCopy::Local,
            asked_at: at(asked),
            expected: None,
            base: Some(base),
            reached: None,
            rto: None,
            size: None,
            tables: 0,
            rows: 0,
            checks: vec![Check {
                kind: CheckKind::Amcheck,
                outcome,
                said: String::new(),
                took: Millis::new(1),
            }],
            state,
        }
    }

    fn passed(ms: u64) -> Drill {
        drill(ms, 1, DrillState::Passed { at: at(ms) })
    }

    fn failed(ms: u64) -> Drill {
        drill(ms, 1, DrillState::Failed { at: at(ms) })
    }

    fn undone(ms: u64) -> Drill {
        let why = "no room".to_owned();
        drill(ms, 1, DrillState::Undone { at: at(ms), why })
    }

    #[test]
    fn only_a_drill_that_passed_not_long_ago_and_is_the_last_verdict_protects() {
        let why = |drills: &[Drill], now| match protection(drills, at(now)) {
            Protection::Protected { .. } => None,
            Protection::Unprotected { why } => Some(why),
        };
        assert_eq!(why(&[], 0).as_deref(), Some("no drill yet"));
        assert_eq!(
            why(&[drill(0, 1, DrillState::Running)], 1).as_deref(),
            Some("no drill yet")
        );
        assert_eq!(why(&[passed(0)], 2 * DAY - 1), None);
        assert!(
            why(&[passed(0)], 2 * DAY)
                .expect("unprotected")
                .contains("no drill has passed since")
        );
        assert!(
            why(&[passed(0), undone(DAY)], 2 * DAY)
                .expect("unprotected")
                .contains("no room")
        );
        // What could not be done takes nothing away, and gives nothing.
        assert_eq!(
            why(&[passed(0), undone(1), drill(2, 1, DrillState::Running)], 3),
            None
        );
        assert!(why(&[undone(0)], 1).expect("unprotected").contains("no room"));
        assert!(
            why(&[passed(0), failed(1), undone(2)], 3)
                .expect("unprotected")
                .contains("amcheck")
        );
        assert_eq!(why(&[failed(0), passed(1)], 2), None);
    }

    #[test]
    fn drills_are_daily_and_what_failed_is_tried_again() {
        let base = |number| Some((at(0), number));
        let without_base = |asked| Drill {
            base: None,
            ..failed(asked)
        };
        for (drills, base, now, expected) in [
            (vec![], None, DAY, false),
            (vec![], base(1), 599_999, false),
            (vec![], base(1), 600_000, true),
            (vec![passed(0)], base(2), DAY - 1, false),
            (vec![passed(0)], base(1), DAY, true),
            (vec![drill(0, 1, DrillState::Running)], base(2), 9 * DAY, false),
            (vec![failed(0)], base(1), 6 * 3_600_000 - 1, false),
            (vec![failed(0)], base(1), 6 * 3_600_000, true),
            (vec![failed(0)], base(2), 1, true),
            (vec![without_base(1)], base(2), 60_001, false),
            (vec![without_base(1)], base(2), 6 * 3_600_000 + 1, true),
            (vec![without_base(1)], Some((at(2), 2)), 3, true),
            (vec![undone(0)], base(2), 1, false),
            (vec![undone(0)], base(1), 6 * 3_600_000, true),
            (vec![failed(0)], None, DAY - 1, false),
            (vec![failed(0)], None, DAY, true),
        ] {
            assert_eq!(
                is_due(&drills, base, at(now)),
                expected,
                "{drills:?} {base:?} {now}"
            );
        }
    }

    #[test]
    fn the_copy_elsewhere_is_drilled_after_each_base_there_and_daily() {
        let base = |number| Some((at(0), number));
        let never_came_to_one = Drill {
            base: None,
            ..failed(0)
        };
        let hour = 3_600_000;
        for (drills, base, now, expected) in [
            (vec![], None, 9 * DAY, false),
            (vec![], base(1), 599_999, false),
            (vec![], base(1), 600_000, true),
            (vec![passed(0)], base(1), DAY - 1, false),
            (vec![passed(0)], base(1), DAY, true),
            (vec![passed(0)], None, DAY, true),
            // Another base is there as a whole.
            (vec![passed(0)], base(2), 600_000, true),
            (vec![passed(0)], base(2), 599_999, false),
            (vec![failed(0)], base(2), 600_000, true),
            (vec![failed(0)], base(1), 6 * hour - 1, false),
            (vec![failed(0)], base(1), 6 * hour, true),
            (vec![never_came_to_one.clone()], base(2), 6 * hour - 1, false),
            (vec![never_came_to_one], base(2), 6 * hour, true),
            // It did not answer.
            (vec![undone(0)], base(2), 6 * hour - 1, false),
            (vec![undone(0)], None, 6 * hour, true),
            (vec![drill(0, 1, DrillState::Running)], base(2), 9 * DAY, false),
        ] {
            assert_eq!(
                is_target_due(&drills, base, at(now)),
                expected,
                "{drills:?} {base:?} {now}"
            );
        }
    }

    #[test]
    fn rows_are_about_as_many_as_one_of_the_estimates() {
        for (rows, tracked, counted, expected) in [
            (0, 100, None, true),
            (0, 1000, None, false),
            (400, 1000, None, true),
            (399, 1000, None, false),
            // Never looked at: what was there before the server lost track is not in its number.
            (17_325, 2268, None, true),
            (2100, 1000, Some(1000), true),
            (2101, 1000, Some(1000), false),
            (399, 1000, Some(300), true),
            (1000, 0, Some(1000), true),
            (1000, 0, Some(0), false),
        ] {
            let fits = is_in_band(rows, tracked, counted);
            assert_eq!(fits, expected, "{rows} {tracked} {counted:?}");
        }
    }

    #[test]
    fn a_pool_that_copies_needs_room_for_the_base() {
        let mi = |mi| Bytes::mi(mi);
        assert_eq!(room(mi(16), None), mi(1024 + 32));
        assert_eq!(room(mi(16), Some(mi(100))), mi(1024 + 132));
    }
}
