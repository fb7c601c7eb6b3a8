//! How an app is moved from one release to the next.
//!
//! Lives here: the strategies, and what makes one impossible.
//! Does not live here: how the manifest spells them (`manifest`), what follows from them (`plan`).
//! Invariant: a [`Strategy`] that exists can be carried out; each has only the settings that mean something to it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::units::Millis;

/// The way to a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "strategy", rename_all = "snake_case")]
pub enum Strategy {
    /// Instances are replaced a few at a time; both releases answer for a while.
    Rolling {
        /// Its bounds; none means the usual ones, which never go below the count.
        surge: Option<Surge>,
    },
    /// A full new set starts beside the old one; all requests switch at once.
    BlueGreen,
    /// A growing share of the requests tries the release; what served stays whole until the end.
    Canary {
        /// The shares it gets one after another.
        steps: Steps,
    },
    /// Everything of the old release ends before anything of the new one starts. Nobody answers in between.
    Recreate,
}

impl Default for Strategy {
    fn default() -> Self {
        Self::Rolling { surge: None }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rolling { surge: None } => f.write_str("rolling"),
            Self::Rolling { surge: Some(surge) } => {
                write!(f, "rolling ({} over, {} under)", surge.over, surge.under)
            }
            Self::BlueGreen => f.write_str("blue-green"),
            Self::Canary { steps } => {
                f.write_str("canary (")?;
                for step in steps.each() {
                    write!(f, "{} for {}, ", step.share, step.hold)?;
                }
                f.write_str("then all)")
            }
            Self::Recreate => f.write_str("recreate"),
        }
    }
}

/// How far a rolling movement may exceed and fall below the wanted number of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SurgeForm", into = "SurgeForm")]
pub struct Surge {
    over: u16,
    under: u16,
}

/// A movement that may neither exceed nor fall below the count could never make a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("over and under are both 0: the rollout could never make a step")]
pub struct Stuck;

impl Surge {
    /// Bounds of a movement.
    ///
    /// # Errors
    /// When neither may exceed nor fall below the count: such a movement could never make a step.
    pub fn new(over: u16, under: u16) -> Result<Self, Stuck> {
        if over > 0 || under > 0 {
            Ok(Self { over, under })
        } else {
            Err(Stuck)
        }
    }

    /// How many more than wanted may run.
    #[must_use]
    pub fn over(self) -> u16 {
        self.over
    }

    /// How many fewer than wanted may be ready.
    #[must_use]
    pub fn under(self) -> u16 {
        self.under
    }
}

#[derive(Serialize, Deserialize)]
struct SurgeForm {
    over: u16,
    under: u16,
}

impl TryFrom<SurgeForm> for Surge {
    type Error = Stuck;
    fn try_from(form: SurgeForm) -> Result<Self, Stuck> {
        Self::new(form.over, form.under)
    }
}

impl From<Surge> for SurgeForm {
    fn from(surge: Surge) -> Self {
        Self {
            over: surge.over,
            under: surge.under,
        }
    }
}

/// A part of all requests, from 1 to 99 of a hundred: nothing and everything are no trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Share(u8);

impl Share {
    /// That many of a hundred.
    ///
    /// # Errors
    /// [`Unsteady::Share`] for 0 and for 100 and more.
    pub fn new(percent: u8) -> Result<Self, Unsteady> {
        if (1..100).contains(&percent) {
            Ok(Self(percent))
        } else {
            Err(Unsteady::Share { percent })
        }
    }

    /// Of a hundred.
    #[must_use]
    pub fn percent(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Share {
    type Error = Unsteady;
    fn try_from(percent: u8) -> Result<Self, Unsteady> {
        Self::new(percent)
    }
}

impl From<Share> for u8 {
    fn from(share: Share) -> Self {
        share.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// One step of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What the new release gets.
    pub share: Share,
    /// For how long, before the next step.
    pub hold: Millis,
}

/// The steps of a canary before it gets everything: at least one, each with more than the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Step>", into = "Vec<Step>")]
pub struct Steps(Vec<Step>);

/// More steps than this are no trial but a slow deploy.
pub const STEPS_MAX: usize = 20;

/// Why steps are no canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsteady {
    /// There is nothing to try.
    #[error("a canary needs at least one step below 100%")]
    None,
    /// Nobody looks at so many.
    #[error("{count} steps are more than {STEPS_MAX}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// Not a share.
    #[error("{percent}% is not a share from 1% to 99%")]
    Share {
        /// As given.
        percent: u8,
    },
    /// A step that gives no more than the one before.
    #[error("{share} comes after {before}: each step must give more than the one before")]
    NotRising {
        /// The step's number, from 0.
        index: usize,
        /// Its share.
        share: Share,
        /// The share of the one before.
        before: Share,
    },
}

impl Steps {
    /// Steps in their order; the move to everything follows the last one by itself.
    ///
    /// # Errors
    /// When there is none, there are too many, or a share does not rise.
    pub fn new(steps: Vec<Step>) -> Result<Self, Unsteady> {
        if steps.is_empty() {
            return Err(Unsteady::None);
        }
        if steps.len() > STEPS_MAX {
            return Err(Unsteady::TooMany { count: steps.len() });
        }
        let falls = |pair: &[Step]| pair[0].share >= pair[1].share;
        match steps.windows(2).position(falls) {
            None => Ok(Self(steps)),
            Some(at) => Err(Unsteady::NotRising {
                index: at + 1,
                share: steps[at + 1].share,
                before: steps[at].share,
            }),
        }
    }

    /// Each, in order.
    #[must_use]
    pub fn each(&self) -> &[Step] {
        &self.0
    }

    /// What all of them hold together: a deadline must leave room for it.
    #[must_use]
    pub fn hold(&self) -> Millis {
        let sum = |sum: u64, step: &Step| sum.saturating_add(step.hold.as_ms());
        Millis::new(self.0.iter().fold(0, sum))
    }
}

impl TryFrom<Vec<Step>> for Steps {
    type Error = Unsteady;
    fn try_from(steps: Vec<Step>) -> Result<Self, Unsteady> {
        Self::new(steps)
    }
}

impl From<Steps> for Vec<Step> {
    fn from(steps: Steps) -> Self {
        steps.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(shares: &[u8]) -> Result<Steps, Unsteady> {
        let step = |percent: &u8| {
            Share::new(*percent).map(|share| Step {
                share,
                hold: Millis::seconds(60),
            })
        };
        Steps::new(shares.iter().map(step).collect::<Result<_, _>>()?)
    }

    #[test]
    fn impossible_ones_are_refused() {
        assert_eq!(Surge::new(0, 0), Err(Stuck));
        assert_eq!(steps(&[]), Err(Unsteady::None));
        assert_eq!(steps(&[0]), Err(Unsteady::Share { percent: 0 }));
        assert_eq!(steps(&[5, 100]), Err(Unsteady::Share { percent: 100 }));
        for falling in [&[5, 5][..], &[5, 50, 20]] {
            assert!(
                matches!(steps(falling), Err(Unsteady::NotRising { index, .. }) if index + 1 == falling.len())
            );
        }
        let many: Vec<u8> = (1..=21).collect();
        assert_eq!(steps(&many), Err(Unsteady::TooMany { count: 21 }));
        assert_eq!(steps(&[5, 50]).expect("rising").hold(), Millis::seconds(120));
    }

    /// What a store holds was written by us, but a strategy that could not be made must not come back from it either.
    #[test]
    fn rows_are_checked_too() {
        for strategy in [
            Strategy::default(),
            Strategy::Rolling {
                surge: Surge::new(0, 1).ok(),
            },
            Strategy::BlueGreen,
            Strategy::Canary {
                steps: steps(&[5, 50]).expect("rising"),
            },
            Strategy::Recreate,
        ] {
            let text = serde_json::to_string(&strategy).expect("writes");
            assert_eq!(serde_json::from_str::<Strategy>(&text).expect(&text), strategy);
        }
        for text in [
            r#"{"strategy":"rolling","surge":{"over":0,"under":0}}"#,
            r#"{"strategy":"canary","steps":[]}"#,
            r#"{"strategy":"canary","steps":[{"share":50,"hold":1},{"share":50,"hold":1}]}"#,
        ] {
            assert!(serde_json::from_str::<Strategy>(text).is_err(), "{text}");
        }
    }
}
