//! How often somebody may guess a password.
//!
//! Lives here: counting wrong guesses by account and by source, and for how long the next one is refused.
//! Does not live here: what a right guess is (`password`), sessions (`sessions`).
//! Invariant: what one source does to an account never keeps another source out that has signed in to it before, nor any
//! session or token; and what one source does keeps only that source out.
//!
//! It is kept in memory: a restart forgets it, which costs an attacker more than us.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{Email, Millis};

use crate::planted::{self, Defect};

/// Where somebody is, as far as one attacker can be told from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(String);

impl Source {
    /// From the network. Whoever has an IPv6 address has 2^64 of them.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_string()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self(format!("{a:x}:{b:x}:{c:x}:{d:x}::/64"))
            }
        }
    }

    /// From the host itself, over control's own socket.
    #[must_use]
    pub fn host() -> Self {
        Self("host".to_owned())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Wrong guesses that cost nothing: of one source for one account, of one source for all accounts, and for one account of
/// all sources that were never seen with it.
const FREE: [u32; 3] = [5, 30, 100];
/// The first refusal; each further guess doubles it.
const FIRST: Millis = Millis::seconds(2);
/// The longest refusal of one source, and of all strangers to an account.
const LONGEST: [Millis; 3] = [Millis::seconds(300), Millis::seconds(300), Millis::seconds(60)];
/// What was guessed longer ago does not count.
const FORGOTTEN: Millis = Millis::seconds(15 * 60);
/// Most that is remembered: beyond it the oldest goes. A few MiB.
const REMEMBERED: usize = 20_000;

/// Counts guesses.
#[derive(Default)]
pub struct Throttle(Mutex<BTreeMap<Key, Guesses>>);

/// What is counted together: of an account, a source, or both.
type Key = (Option<Email>, Option<Source>);

#[derive(Clone, Copy)]
struct Guesses {
    wrong: u32,
    last_ms: u64,
}

/// A guess that may be made. It counts as wrong until it turns out to be right: many at once are no way around.
pub(super) struct Guess {
    keys: Vec<Key>,
}

impl Throttle {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Guesses>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A guess of the password of an account, or how long to wait before the next one. A familiar source has signed in to
    /// it before.
    pub(super) fn begin(
        &self,
        account: &Email,
        source: &Source,
        is_familiar: bool,
        now_ms: u64,
    ) -> Result<Guess, Millis> {
        let mut all = self.lock();
        let mut keys: Vec<(Key, usize)> = vec![
            ((Some(account.clone()), Some(source.clone())), 0),
            ((None, Some(source.clone())), 1),
        ];
        if !is_familiar || planted::is(Defect::LocksOwnersOut) {
            keys.push(((Some(account.clone()), None), 2));
        }
        if !planted::is(Defect::NeverSlowsDown) {
            let wait = keys.iter().filter_map(|(key, kind)| {
                let guesses = all.get(key)?;
                let since = now_ms.saturating_sub(guesses.last_ms);
                let wait = pause(guesses.wrong, FREE[*kind], LONGEST[*kind]);
                (since < FORGOTTEN.as_ms()).then(|| wait.as_ms().saturating_sub(since))
            });
            if let Some(wait) = wait.max().filter(|wait| *wait > 0) {
                return Err(Millis::new(wait));
            }
        }
        if all.len() >= REMEMBERED {
            forget(&mut all, now_ms);
        }
        for (key, _) in &keys {
            let guesses = all.entry(key.clone()).or_insert(Guesses {
                wrong: 0,
                last_ms: now_ms,
            });
            if now_ms.saturating_sub(guesses.last_ms) >= FORGOTTEN.as_ms() {
                guesses.wrong = 0;
            }
            guesses.wrong = guesses.wrong.saturating_add(1);
            guesses.last_ms = now_ms;
        }
        Ok(Guess {
            keys: keys.into_iter().map(|(key, _)| key).collect(),
        })
    }

    /// Forgets everything, as a restart does; for tests.
    #[cfg(debug_assertions)]
    pub fn forget_all(&self) {
        self.lock().clear();
    }

    /// A wrong guess by somebody whom the account does not know; for tests.
    #[cfg(debug_assertions)]
    pub fn count_wrong(&self, account: &Email, source: &Source, now_ms: u64) {
        drop(self.begin(account, source, false, now_ms));
    }

    /// It was never compared. What was guessed before still counts, of the same source too: else keeping us busy would be a
    /// way to guess without end.
    pub(super) fn withdraw(&self, guess: &Guess) {
        let mut all = self.lock();
        for key in &guess.keys {
            if let Some(guesses) = all.get_mut(key) {
                guesses.wrong = guesses.wrong.saturating_sub(1);
            }
        }
    }

    /// It was right. What others guessed still counts.
    pub(super) fn forgive(&self, guess: &Guess) {
        let mut all = self.lock();
        for key in &guess.keys {
            let is_own = matches!(key, (Some(_), Some(_)));
            if let Some(guesses) = all.get_mut(key) {
                guesses.wrong = if is_own {
                    0
                } else {
                    guesses.wrong.saturating_sub(1)
                };
            }
        }
    }
}

fn pause(wrong: u32, free: u32, longest: Millis) -> Millis {
    if wrong < free {
        return Millis::new(0);
    }
    let doubled = FIRST.as_ms().saturating_mul(1 << (wrong - free).min(16));
    Millis::new(doubled.min(longest.as_ms()))
}

/// Makes room: what does not count any more, and then the oldest tenth.
fn forget(all: &mut BTreeMap<Key, Guesses>, now_ms: u64) {
    all.retain(|_, guesses| now_ms.saturating_sub(guesses.last_ms) < FORGOTTEN.as_ms());
    if all.len() < REMEMBERED {
        return;
    }
    let mut ages: Vec<u64> = all.values().map(|guesses| guesses.last_ms).collect();
    ages.sort_unstable();
    let oldest = ages[ages.len() / 10];
    all.retain(|_, guesses| guesses.last_ms > oldest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::of(IpAddr::from([192, 0, 2, last]))
    }

    fn email() -> Email {
        "ada@example.org".parse().expect("an address")
    }

    #[test]
    fn guesses_cost_more_and_more_and_only_their_source() {
        let throttle = Throttle::default();
        for _ in 0..5 {
            assert!(throttle.begin(&email(), &source(1), false, 0).is_ok());
        }
        let wait = |now| throttle.begin(&email(), &source(1), false, now).err();
        assert_eq!(wait(0), Some(Millis::seconds(2)));
        assert_eq!(
            wait(1000),
            Some(Millis::seconds(1)),
            "asking again does not count"
        );
        assert_eq!(wait(2000), None);
        assert_eq!(wait(2000), Some(Millis::seconds(4)));
        assert!(
            throttle.begin(&email(), &source(2), false, 2000).is_ok(),
            "another source"
        );
        let other: Email = "eve@example.org".parse().expect("an address");
        assert!(
            throttle.begin(&other, &source(1), false, 2000).is_ok(),
            "another account"
        );
        assert_eq!(wait(2000 + FORGOTTEN.as_ms()), None, "forgotten");
    }

    #[test]
    fn many_sources_slow_strangers_down_but_not_the_owner() {
        let throttle = Throttle::default();
        for last in 0..100 {
            assert!(throttle.begin(&email(), &source(last), false, 0).is_ok());
        }
        assert!(
            throttle.begin(&email(), &source(200), false, 0).is_err(),
            "a stranger"
        );
        let guess = throttle
            .begin(&email(), &source(201), true, 0)
            .expect("the owner");
        throttle.forgive(&guess);
        assert!(throttle.begin(&email(), &source(201), true, 0).is_ok());
    }

    #[test]
    fn what_was_never_compared_forgives_nothing() {
        let throttle = Throttle::default();
        let begin = || throttle.begin(&email(), &source(1), false, 0);
        for _ in 0..4 {
            begin().expect("free");
        }
        for _ in 0..10 {
            throttle.withdraw(&begin().expect("one is left"));
        }
        begin().expect("the last");
        assert!(begin().is_err(), "the four before still count");
    }

    #[test]
    fn many_accounts_do_not_help_one_source() {
        let throttle = Throttle::default();
        let mut refused = 0;
        for number in 0..40 {
            let account: Email = format!("u{number}@example.org").parse().expect("an address");
            refused += usize::from(throttle.begin(&account, &source(1), false, 0).is_err());
        }
        assert_eq!(refused, 10);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let throttle = Throttle::default();
        for number in 0..30_000_u32 {
            let address = IpAddr::from(number.to_be_bytes());
            drop(throttle.begin(&email(), &Source::of(address), true, u64::from(number)));
        }
        assert!(throttle.lock().len() <= REMEMBERED + 2);
    }
}
