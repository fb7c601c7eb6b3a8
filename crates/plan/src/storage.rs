//! Whether what takes space still has some.
//!
//! Lives here: when a database may only be read for want of space and when it may be written again, and when an instance
//! wrote too much. Does not live here: measuring, and doing something about it (`control`).
//! Invariant: between full and free again lies a gap, so that what is on the edge does not go back and forth.

use model::{Bytes, StorageFull};

/// What must stay free in the pool: a server that cannot write its log ends, so that all of them stop before.
pub const POOL_RESERVE: Bytes = Bytes::mi(256);

/// A database is free again below this share of what made it full.
const FREE_AGAIN_PERCENT: u64 = 90;

/// What is known of a database's space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What its volume holds.
    pub used: Bytes,
    /// What it may hold.
    pub budget: Bytes,
    /// What the pool can still give, what it may grow by included.
    pub pool_free: Bytes,
}

/// Whether a database is full, and of what; `now` is what it was until now.
#[must_use]
pub fn database(space: Space, now: Option<StorageFull>) -> Option<StorageFull> {
    let (budget, reserve) = match now {
        Some(StorageFull::Budget) => (share(space.budget), POOL_RESERVE),
        Some(StorageFull::Pool) => (space.budget, Bytes::new(POOL_RESERVE.get() * 2)),
        None => (space.budget, POOL_RESERVE),
    };
    if space.used >= budget {
        Some(StorageFull::Budget)
    } else if space.pool_free < reserve {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_full_is_free_again_only_with_a_gap() {
        let budget = Bytes::mi(1000);
        let space = |used, pool| Space {
            used: Bytes::mi(used),
            budget,
            pool_free: Bytes::mi(pool),
        };
        let (of_budget, of_pool) = (Some(StorageFull::Budget), Some(StorageFull::Pool));
        for (used, pool, before, after) in [
            (0, 9000, None, None),
            (999, 9000, None, None),
            (1000, 9000, None, of_budget),
            (5000, 9000, None, of_budget),
            (950, 9000, of_budget, of_budget),
            (900, 9000, of_budget, of_budget),
            (899, 9000, of_budget, None),
            (10, 255, None, of_pool),
            (10, 256, None, None),
            (10, 511, of_pool, of_pool),
            (10, 512, of_pool, None),
            (1000, 512, of_pool, of_budget),
            (10, 200, of_budget, of_pool),
        ] {
            assert_eq!(
                database(space(used, pool), before),
                after,
                "{used} {pool} {before:?}"
            );
        }
    }
}
