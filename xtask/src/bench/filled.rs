//! The table that benches of copies fill their databases with: as many rows as a number of gigabytes takes.

use super::Rounds;

/// With their index they take about 1 GB.
const ROWS_A_GIGABYTE: u64 = 7_500_000;
/// Enough to show that both sides are measured.
const ROWS_SHORT: u64 = 200_000;

/// How many it has.
pub(super) const COUNT: &str = "SELECT count(*) FROM filled";
/// Else it is done by itself, at some time or other.
pub(super) const TIDY: &str = "VACUUM (FREEZE, ANALYZE) filled";

/// How much a bench copies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filled {
    pub(super) rows: u64,
    /// None when it is only to show that the bench works.
    gigabytes: Option<u64>,
}

impl Filled {
    /// What was asked for, or as many gigabytes as are usual.
    pub(super) fn of(rounds: Rounds, usual: u64) -> Self {
        if rounds.noise_counts {
            return Self {
                rows: ROWS_SHORT,
                gigabytes: None,
            };
        }
        let gigabytes = rounds.gigabytes.unwrap_or(usual);
        Self {
            rows: gigabytes * ROWS_A_GIGABYTE,
            gigabytes: Some(gigabytes),
        }
    }

    /// So many times as much.
    pub(super) fn times(self, factor: u64) -> Self {
        Self {
            rows: self.rows * factor,
            gigabytes: self.gigabytes.map(|gigabytes| gigabytes * factor),
        }
    }

    /// For a report: "3 GB".
    pub(super) fn size(self) -> String {
        self.gigabytes.map_or_else(
            || format!("{} rows", self.rows),
            |gigabytes| format!("{gigabytes} GB"),
        )
    }

    /// Makes the table, without its index.
    pub(super) fn table(self) -> String {
        format!(
            "CREATE TABLE filled AS SELECT id, repeat('x', 84) AS filler FROM generate_series(1, {}) id",
            self.rows
        )
    }
}

/// Makes its index.
pub(super) const INDEX: &str = "ALTER TABLE filled ADD PRIMARY KEY (id)";
