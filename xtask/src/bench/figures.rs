//! Samples in pairs, and what is told about them.

use std::fmt::Write as _;

/// Samples of ours and of the peer, taken in the same rounds.
#[derive(Debug, Default, Clone)]
pub struct Pairs {
    ours: Vec<f64>,
    peer: Vec<f64>,
}

/// One row of a report.
#[derive(Debug)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// The peer.
    pub peer: String,
    /// Of both.
    pub unit: &'static str,
    /// The samples.
    pub pairs: Pairs,
    /// The ratio to reach.
    pub goal: f64,
}

impl Pairs {
    /// Adds one round.
    pub fn add(&mut self, ours: f64, peer: f64) {
        self.ours.push(ours);
        self.peer.push(peer);
    }

    /// Ratio of each round, smallest first.
    fn ratios(&self) -> Vec<f64> {
        let mut ratios: Vec<f64> = self
            .ours
            .iter()
            .zip(&self.peer)
            .map(|(ours, peer)| ours / peer)
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    /// So many.
    pub fn rounds(&self) -> usize {
        self.ours.len()
    }

    /// Whether every ratio is a number above zero.
    pub fn are_numbers(&self) -> bool {
        self.ratios()
            .iter()
            .all(|ratio| ratio.is_finite() && *ratio > 0.0)
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// The report as a table: median of the ratios of the rounds, with the smallest and largest.
pub fn table(figures: &[Figure]) -> String {
    let mut text =
        "| what | Stoa | peer | ratio (smallest-largest of n rounds) | goal |\n|---|---|---|---|---|\n"
            .to_owned();
    for figure in figures {
        let ratios = figure.pairs.ratios();
        let (least, most) = (
            ratios.first().copied().unwrap_or(f64::NAN),
            ratios.last().copied().unwrap_or(f64::NAN),
        );
        let ratio = median(&ratios);
        let met = if ratio <= figure.goal {
            "reached"
        } else {
            "**missed**"
        };
        let _infallible = writeln!(
            text,
            "| {} | {:.4} {unit} | {}: {:.4} {unit} | {ratio:.3} ({least:.3}-{most:.3}, n={}) | <= {:.3}: {met} |",
            figure.what,
            median(&figure.pairs.ours),
            figure.peer,
            median(&figure.pairs.peer),
            figure.pairs.rounds(),
            figure.goal,
            unit = figure.unit,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Figure, Pairs, median, table};

    #[test]
    fn the_ratio_is_the_median_of_paired_rounds() {
        let mut pairs = Pairs::default();
        for (ours, peer) in [(1.0, 4.0), (2.0, 4.0), (10.0, 20.0)] {
            pairs.add(ours, peer);
        }
        let text = table(&[Figure {
            what: "x".into(),
            peer: "p".into(),
            unit: "ms",
            pairs,
            goal: 0.5,
        }]);
        assert!(
            text.contains("| 0.500 (0.250-0.500, n=3) | <= 0.500: reached |"),
            "{text}"
        );
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < 1e-9);
    }
}
