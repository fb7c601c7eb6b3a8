//! What happened, in words without random ids: the same seed gives the same text, and so the same hash.

use std::collections::VecDeque;

/// Lines that are remembered, and those that a failing seed shows.
const KEPT: usize = 600;
const SHOWN: usize = 80;

#[derive(Default)]
pub struct Trace {
    /// Lines of the look under way. Workers write beside it, so their order means nothing.
    open: Vec<String>,
    last: VecDeque<String>,
    hash: u64,
}

impl Trace {
    pub fn note(&mut self, line: String) {
        self.open.push(line);
    }

    /// Ends a look.
    pub fn close(&mut self, now: u64) {
        self.open.sort();
        for line in self.open.drain(..) {
            let line = format!("{:>9}.{:03}  {line}", now / 1000, now % 1000);
            for byte in line.bytes() {
                self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
            }
            if self.last.len() == KEPT {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines that are not about something else.
    pub fn tail(&self, is_about: impl Fn(&str) -> bool) -> String {
        let mut lines: Vec<&str> = self.last.iter().map(String::as_str).collect();
        lines.retain(|line| is_about(line));
        lines.split_off(lines.len().saturating_sub(SHOWN)).join("\n")
    }
}
