//! What is left out of a fleet, to see what a failure needs: the same seed throws the same dice, but some have no effect.
//!
//! Lives here: what can be left out, and leaving out as much as a failure bears.
//! Does not live here: living through a fleet.

use std::collections::BTreeSet;

use crate::fleet::{self, Broken};

/// What can be left out, the largest first.
const PARTS: [&str; 9] = [
    "shop",
    "api",
    "blog",
    "interruptions",
    "engine",
    "edge",
    "accidents",
    "blindness",
    "deaths",
];

/// Parts that do not happen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Without(BTreeSet<String>);

impl Without {
    /// As people write it: parts, with commas between them.
    pub fn parse(text: &str) -> Self {
        let parts: BTreeSet<String> = text
            .split(',')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        for part in &parts {
            assert!(PARTS.contains(&part.as_str()), "{part} is none of {PARTS:?}");
        }
        Self(parts)
    }

    /// Whether a part happens.
    pub fn has(&self, part: &str) -> bool {
        !self.0.contains(part)
    }

    pub fn text(&self) -> String {
        self.0.iter().cloned().collect::<Vec<_>>().join(",")
    }
}

/// A failure without its numbers: the same rule, broken in the same way.
fn kind(broken: &Broken) -> String {
    let mut text = broken.why.clone();
    for part in &PARTS[..3] {
        text = text.replace(part, "app");
    }
    text.chars()
        .filter(|letter| !letter.is_ascii_digit())
        .take(60)
        .collect()
}

/// The same failure with as little as possible around it.
pub fn shorten(seed: u64, mut without: Without, mut broken: Broken) -> (Without, Broken) {
    let wanted = kind(&broken);
    for part in PARTS {
        let mut less = without.clone();
        if !less.0.insert(part.to_owned()) {
            continue;
        }
        if let Err(other) = fleet::live(seed, &less)
            && kind(&other) == wanted
        {
            (without, broken) = (less, other);
        }
    }
    (without, broken)
}
