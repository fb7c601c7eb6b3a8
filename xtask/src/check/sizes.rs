//! A file over 600 lines asks for a reason. The list of exceptions may only shrink.

use std::collections::BTreeMap;

use anyhow::Result;

use super::source::{is_test, test_modules};
use super::{Finding, Verdict};
use crate::repository::Repository;

/// Lines of product code; tests are apart.
const LIMIT: usize = 600;
const EXCEPTIONS: &str = "xtask/oversize.txt";

pub fn check(repository: &Repository) -> Result<Verdict> {
    let list = if repository.has(EXCEPTIONS) {
        repository.read(EXCEPTIONS)?
    } else {
        String::new()
    };
    let mut findings = Vec::new();
    let mut allowed: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, line) in list
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with('#'))
    {
        match line.split_once(' ').map(|(path, lines)| (path, lines.parse())) {
            Some((path, Ok(lines))) => drop(allowed.insert(path, lines)),
            Some((_, Err(_))) | None => findings.push(Finding::line(EXCEPTIONS, index, "write: path lines")),
        }
    }
    let mut longest = 0;
    for path in repository.sources() {
        if is_test(repository, path)? {
            continue;
        }
        let lines = test_modules(&repository.read(path)?);
        longest = longest.max(lines);
        let message = match allowed.remove(path) {
            None if lines > LIMIT => format!("{lines} lines, over {LIMIT}: split it by noun"),
            Some(most) if lines > most => {
                format!("grew from {most} to {lines} lines; exceptions only shrink")
            }
            Some(_) if lines <= LIMIT => format!("fits now: strike it from {EXCEPTIONS}"),
            Some(most) if lines < most => format!("shrank to {lines} lines: write that into {EXCEPTIONS}"),
            None | Some(_) => continue,
        };
        findings.push(Finding::at(path, message));
    }
    for path in allowed.keys() {
        findings.push(Finding::at(EXCEPTIONS, format!("{path} does not exist")));
    }
    Ok(Verdict::new(format!("longest source {longest} lines"), findings))
}

#[cfg(test)]
mod tests {
    use super::super::planted::findings;
    use super::{LIMIT, check};

    #[test]
    fn long_files_are_found_and_exceptions_only_shrink() {
        let of = |lines: usize| "x\n".repeat(lines);
        let path = "crates/a/src/lib.rs";
        for (lines, exceptions, expected) in [
            (LIMIT, "", 0),
            (LIMIT + 1, "", 1),
            (LIMIT + 1, "crates/a/src/lib.rs 601\n", 0),
            (LIMIT + 2, "crates/a/src/lib.rs 601\n", 1),
            (LIMIT + 1, "crates/a/src/lib.rs 602\n", 1),
            (LIMIT, "crates/a/src/lib.rs 602\n", 1),
            (LIMIT, "crates/gone.rs 700\n", 1),
        ] {
            let found = findings(check, &[(path, &of(lines)), ("xtask/oversize.txt", exceptions)]);
            assert_eq!(found.len(), expected, "{lines} {exceptions:?}: {found:?}");
        }
    }
}
