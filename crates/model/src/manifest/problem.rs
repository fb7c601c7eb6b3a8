//! What is wrong with a manifest, and where.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// One thing wrong with a manifest. All of them are told at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The key, for example `services.web.port`; empty for the file as a whole.
    pub path: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to write instead, when that is known.
    pub suggestion: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        self.suggestion
            .as_ref()
            .map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

/// Nobody reads more at once, and a hostile file must not make us write a book.
const PROBLEMS_MAX: usize = 100;

/// Collects problems while a manifest is read. Shared by every cursor into the text, hence the cell.
pub(super) struct Report<'t> {
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            problems: RefCell::default(),
        }
    }

    pub(super) fn add(&self, path: &str, at: &Range<usize>, message: String, suggestion: Option<String>) {
        if self.problems.borrow().len() >= PROBLEMS_MAX {
            return;
        }
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.problems.borrow_mut().push(Problem {
            path: path.to_owned(),
            line: count(before.matches('\n').count() + 1),
            column: count(before[line_start..].chars().count() + 1),
            message,
            suggestion,
        });
    }

    /// How many there are, for [`Report::place_new`].
    pub(super) fn mark(&self) -> usize {
        self.problems.borrow().len()
    }

    /// Says of the problems since `mark` that they are those of `place`; what was known before is told once.
    pub(super) fn place_new(&self, mark: usize, place: &str) {
        let mut problems = self.problems.borrow_mut();
        let fresh = problems.split_off(mark);
        for mut problem in fresh {
            if problems.contains(&problem) {
                continue;
            }
            problem.path = if problem.path.is_empty() {
                place.to_owned()
            } else {
                format!("{place}.{}", problem.path)
            };
            problems.push(problem);
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// The problems in the order of the text.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by(|a, b| (a.line, a.column, &a.path).cmp(&(b.line, b.column, &b.path)));
        // A key that is read for its type and again for a check is wrong once.
        problems.dedup();
        problems
    }
}
