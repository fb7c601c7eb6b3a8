//! How long to wait before something that failed is tried again.

use model::Millis;

/// Longer waits help nobody: what recovers is noticed late, and one start a minute is no load.
pub const LONGEST: Millis = Millis::seconds(60);

/// The wait before life number `attempt` of a place, counted from the end of the life before: nothing for the first
/// two (a single crash costs no time), then 1 s, 2 s, 4 s ... [`LONGEST`].
#[must_use]
pub fn delay(attempt: u32) -> Millis {
    let Some(exponent) = attempt.checked_sub(2) else {
        return Millis::new(0);
    };
    let seconds = 1_u64.checked_shl(exponent).unwrap_or(u64::MAX);
    Millis::seconds(seconds.min(LONGEST.as_ms() / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_is_capped() {
        let seconds: Vec<u64> = (0..10).map(|attempt| delay(attempt).as_ms() / 1000).collect();
        assert_eq!(seconds, [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!((delay(66), delay(u32::MAX)), (LONGEST, LONGEST));
    }
}
