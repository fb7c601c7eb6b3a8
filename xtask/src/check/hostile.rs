//! `docs/hostile.md`: each number of the list of hostile inputs has a row, and each test that a row names exists.
//!
//! A row is `| Nn | what | test | control |`; a test is `` `file`: `name` ``, a row without one says `missing: why`.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Finding, Verdict};
use crate::repository::Repository;

const DOCUMENT: &str = "docs/hostile.md";
/// The numbers that the document answers for.
const NUMBERS: [std::ops::RangeInclusive<u32>; 3] = [1..=15, 32..=50, 74..=80];

pub fn check(repository: &Repository) -> Result<Verdict> {
    if !repository.files().any(|path| path == DOCUMENT) {
        return Ok(Verdict::new(
            "no document",
            vec![Finding::at(DOCUMENT, "is missing")],
        ));
    }
    let text = repository.read(DOCUMENT)?;
    let mut wanted: BTreeSet<u32> = NUMBERS.into_iter().flatten().collect();
    let (mut findings, mut tests) = (Vec::new(), 0);
    for (index, line) in text.lines().enumerate() {
        let mut find = |message: String| findings.push(Finding::line(DOCUMENT, index, message));
        let Some(rest) = line.strip_prefix("| N") else {
            continue;
        };
        let cells: Vec<&str> = rest.split('|').map(str::trim).collect();
        let [number, what, test, control, ..] = cells[..] else {
            find("a row has four cells".to_owned());
            continue;
        };
        match number.parse() {
            Ok(number) if wanted.remove(&number) => {}
            _ => find(format!(
                "N{number} is no number of the list, or has a row already"
            )),
        }
        if what.is_empty() {
            find(format!("N{number} does not say what it is"));
        }
        if test.starts_with("missing: ") {
            continue;
        }
        if control.is_empty() {
            find(format!("N{number} has no control"));
        }
        let named: Vec<&str> = test.split('`').skip(1).step_by(2).collect();
        if named.len() < 2 {
            find(format!("N{number} names no test"));
        }
        let mut file: Option<String> = None;
        for name in named {
            if name.contains('/') {
                file = repository
                    .files()
                    .any(|path| path == name)
                    .then(|| name.to_owned());
                if file.is_none() {
                    find(format!("{name} is not there"));
                }
                continue;
            }
            tests += 1;
            if let Some(file) = &file
                && !repository.read(file)?.contains(&format!("fn {name}("))
            {
                find(format!("{file} has no {name}"));
            }
        }
    }
    findings.extend(
        wanted
            .into_iter()
            .map(|number| Finding::at(DOCUMENT, format!("N{number} has no row"))),
    );
    Ok(Verdict::new(format!("{tests} tests"), findings))
}

#[cfg(test)]
mod tests {
    use super::super::planted::findings;
    use super::{DOCUMENT, NUMBERS, check};

    fn rows(of_first: &str) -> String {
        let rows = NUMBERS.into_iter().flatten().skip(1);
        let rows: String = rows
            .map(|number| format!("| N{number} | x | missing: none yet | |\n"))
            .collect();
        format!("# Hostile\n{of_first}\n{rows}")
    }

    #[test]
    fn a_row_without_its_test_is_found() {
        let test = ("tests/a.rs", "#[test]\nfn good() {}\n");
        let look = |row: &str| findings(check, &[test, (DOCUMENT, &rows(row))]);
        assert!(look("| N1 | x | `tests/a.rs`: `good` | without it, good fails |").is_empty());
        for (row, found) in [
            (
                "| N1 | x | `tests/a.rs`: `gone` | y |",
                "docs/hostile.md:2: tests/a.rs has no gone",
            ),
            (
                "| N1 | x | `tests/b.rs`: `good` | y |",
                "docs/hostile.md:2: tests/b.rs is not there",
            ),
            (
                "| N1 | x | `tests/a.rs`: `good` | |",
                "docs/hostile.md:2: N1 has no control",
            ),
            ("| N1 | x | none | y |", "docs/hostile.md:2: N1 names no test"),
            ("", "docs/hostile.md: N1 has no row"),
        ] {
            assert_eq!(look(row), [found], "{row}");
        }
        let twice = "| N1 | x | missing: y | |\n| N1 | x | missing: y | |";
        assert_eq!(
            look(twice),
            ["docs/hostile.md:3: N1 is no number of the list, or has a row already"]
        );
    }
}
