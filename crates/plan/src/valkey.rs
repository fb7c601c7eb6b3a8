//! Logs of Valkeys: when one is rewritten, what of the rewritten ones is kept, and from which one a moment is restored.
//!
//! A rewrite ends what a log can be replayed to, so the log as it was is kept beside before that:
//!
//! ```text
//! kept 1 [from ...... until] kept 2 [from ...... until] its own [since ...... now]
//! ```

use model::{Bytes, KeptLog, Millis, Timestamp, Valkey};

/// How far back is kept, as long as there is room for it: as for the backup of a PostgreSQL.
pub const KEEP: Millis = Millis::seconds(7 * 24 * 3600);
/// Kept logs of one: each is a volume, and anybody may ask for another.
const KEPT_MOST: usize = 200;
/// What a log may always grow by before it is rewritten: below that a rewrite saves nothing worth its work.
const GROWTH_LEAST: Bytes = Bytes::mi(64);

/// Sizes of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// What the last rewrite left, or what it began with.
    pub base: Bytes,
    /// What was written since.
    pub grown: Bytes,
}

/// Whether a log is to be rewritten: it grew by as much again as it began with; or it takes a third of the volume's budget,
/// and a rewrite would make room.
#[must_use]
pub fn is_rewrite_due(size: Size, budget: Bytes) -> bool {
    let (base, grown) = (size.base.get(), size.grown.get());
    if grown < GROWTH_LEAST.get().min(budget.get() / 8) {
        return false;
    }
    grown >= base || base.saturating_add(grown) >= budget.get() / 3 && grown >= base / 4
}

/// How many of the kept logs are to go, the oldest first: what is too old, and what is more than the budget of the volume holds
/// once more.
#[must_use]
pub fn surplus(kept: &[KeptLog], budget: Bytes, now: Timestamp) -> usize {
    let old = kept.iter().take_while(|log| now.since(log.until) > KEEP).count();
    let old = old.max(kept.len().saturating_sub(KEPT_MOST));
    let mut held: u64 = kept[old..].iter().map(|log| log.bytes.get()).sum();
    let mut gone = old;
    while held > budget.get() && gone < kept.len() {
        held -= kept[gone].bytes.get();
        gone += 1;
    }
    gone
}

/// Where the log lies that reaches a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In its own volume.
    Own,
    /// In that of the kept log with this number.
    Kept {
        /// Which.
        number: u64,
    },
}

/// Where the log lies that has what was written before a moment; nothing when none reaches it.
#[must_use]
pub fn place(valkey: &Valkey, at: Timestamp, now: Timestamp) -> Option<Place> {
    if at > now {
        return None;
    }
    if valkey.since? <= at {
        return Some(Place::Own);
    }
    let reaches = |log: &&KeptLog| log.from <= at && at <= log.until;
    let found = valkey.kept.iter().find(reaches)?;
    Some(Place::Kept { number: found.number })
}

/// The earliest moment that can be restored; nothing when none can.
#[must_use]
pub fn earliest(valkey: &Valkey) -> Option<Timestamp> {
    let kept = valkey.kept.first().map(|log| log.from);
    kept.or(valkey.since)
}

#[cfg(test)]
mod tests {
    use model::ValkeyPlan;

    use super::*;

    fn log(number: u64, from: u64, until: u64, mi: u64) -> KeptLog {
        KeptLog {
            number,
            from: Timestamp::from_ms(from),
            until: Timestamp::from_ms(until),
            bytes: Bytes::mi(mi),
        }
    }

    #[test]
    fn a_log_is_rewritten_when_it_doubled_or_takes_too_much() {
        let due = |base, grown, budget| {
            let size = Size {
                base: Bytes::mi(base),
                grown: Bytes::mi(grown),
            };
            is_rewrite_due(size, Bytes::mi(budget))
        };
        for (base, grown, budget, expected) in [
            (0, 63, 10_240, false),
            (0, 64, 10_240, true),
            (200, 199, 10_240, false),
            (200, 200, 10_240, true),
            (3000, 749, 10_240, false),
            (3000, 750, 10_240, true),
            (0, 15, 128, false),
            (0, 16, 128, true),
        ] {
            assert_eq!(due(base, grown, budget), expected, "{base} {grown} {budget}");
        }
    }

    #[test]
    fn the_oldest_goes_first_and_only_as_much_as_must() {
        let day = 24 * 3600 * 1000;
        let kept = [
            log(1, 0, day, 60),
            log(2, day, 2 * day, 60),
            log(3, 2 * day, 3 * day, 60),
        ];
        let gone = |budget, days: u64| surplus(&kept, Bytes::mi(budget), Timestamp::from_ms(days * day));
        assert_eq!(gone(1000, 8), 0);
        assert_eq!(gone(1000, 9), 1);
        assert_eq!(gone(150, 3), 1);
        assert_eq!(gone(10, 3), 3);
        assert_eq!(gone(1000, 30), 3);
        let many: Vec<KeptLog> = (0..205)
            .map(|number| log(number, number, number + 1, 0))
            .collect();
        assert_eq!(surplus(&many, Bytes::mi(1), Timestamp::from_ms(300)), 5);
    }

    #[test]
    fn each_moment_has_one_place() {
        let mut valkey = Valkey::new(ValkeyPlan::Durable);
        let now = Timestamp::from_ms(9000);
        let found = |valkey: &Valkey, at| place(valkey, Timestamp::from_ms(at), now);
        assert_eq!(found(&valkey, 5000), None, "it has no log");
        valkey.since = Some(Timestamp::from_ms(5000));
        assert_eq!(
            (found(&valkey, 4999), found(&valkey, 5000)),
            (None, Some(Place::Own))
        );
        valkey.kept = vec![log(4, 1000, 3000, 1), log(7, 3000, 5000, 1)];
        for (at, expected) in [
            (999, None),
            (1000, Some(Place::Kept { number: 4 })),
            (3000, Some(Place::Kept { number: 4 })),
            (3001, Some(Place::Kept { number: 7 })),
            (4999, Some(Place::Kept { number: 7 })),
            (5000, Some(Place::Own)),
            (9000, Some(Place::Own)),
            (9001, None),
        ] {
            assert_eq!(found(&valkey, at), expected, "{at}");
        }
        assert_eq!(earliest(&valkey), Some(Timestamp::from_ms(1000)));
    }
}
