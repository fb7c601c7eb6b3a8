//! The documents stay true: ARCHITECTURE.md names every crate, and no document names a path that is gone.
//!
//! Lives here: which words of a document are paths. Does not live here: whether the sentence around them is true.

use anyhow::Result;

use super::{Finding, Verdict};
use crate::repository::Repository;

const ARCHITECTURE: &str = "ARCHITECTURE.md";
/// Documents that speak about this tree.
const DOCUMENTS: &[&str] = &[
    ARCHITECTURE,
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/access.md",
    "docs/benchmarks.md",
    "docs/compose.md",
    "docs/proof.md",
];
/// A backticked word that begins so is a path of this tree.
const ROOTS: &[&str] = &[
    "crates/",
    "stoa/",
    "tests/",
    "xtask/",
    "docs/",
    "examples/",
    "fuzz/",
    "openapi/",
    ".ci/",
    ".cargo/",
    ".config/",
];

pub fn check(repository: &Repository) -> Result<Verdict> {
    let architecture = repository.read(ARCHITECTURE)?;
    let mut findings = Vec::new();
    for (folder, name) in repository.crates() {
        let named =
            words(&architecture).any(|(_, word)| word == name || word.starts_with(&format!("{folder}/")));
        if !named {
            findings.push(Finding::at(
                ARCHITECTURE,
                format!("does not name the crate `{name}`"),
            ));
        }
    }
    let mut paths = 0;
    for document in DOCUMENTS.iter().filter(|path| repository.has(path)) {
        let text = repository.read(document)?;
        for (index, word) in words(&text) {
            // `path:42` points at a line; only the file is checked.
            let path = word.split(':').next().unwrap_or(word);
            if ROOTS.iter().any(|root| path.starts_with(root)) && !path.contains(['*', '<', ' ']) {
                paths += 1;
                if !repository.has(path) && !is_placeholder(path) {
                    findings.push(Finding::line(document, index, format!("`{path}` does not exist")));
                }
            }
        }
    }
    Ok(Verdict::new(
        format!("{} documents, {paths} paths", DOCUMENTS.len()),
        findings,
    ))
}

/// `docs/errors/CODE.md` stands for many files.
fn is_placeholder(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.split('.').next().unwrap_or(name);
    stem.len() > 1
        && stem
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'N')
}

/// Words between backticks with their line, and targets of links.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().flat_map(|(index, line)| {
        let ticked = line.split('`').skip(1).step_by(2);
        let linked = line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next());
        ticked.chain(linked).map(move |word| (index, word))
    })
}

#[cfg(test)]
mod tests {
    use super::super::planted::findings;
    use super::check;

    const CRATE: (&str, &str) = ("crates/edge/Cargo.toml", "");

    #[test]
    fn paths_in_the_documents_for_operators_and_of_fuzz_are_looked_for() {
        let architecture = ("ARCHITECTURE.md", "the `edge`");
        for document in ["docs/access.md", "docs/proof.md", "docs/compose.md"] {
            let found = findings(check, &[CRATE, architecture, (document, "see `fuzz/gone.rs`")]);
            assert!(
                found.iter().any(|line| line.contains("fuzz/gone.rs")),
                "{document}: {found:?}"
            );
        }
    }

    #[test]
    fn a_missing_crate_and_a_vanished_path_are_found() {
        for (text, expected) in [
            ("the `edge` serves", 0),
            (
                "[route](crates/edge/Cargo.toml#x) and `crates/edge/Cargo.toml:3`",
                0,
            ),
            ("the edge serves, not ticked", 1),
            ("the `edge`: `crates/edge/src/gone.rs`", 1),
            ("the `edge` ([gone](docs/gone.md))", 1),
            (
                "the `edge`: `docs/errors/CODE.md`, `docs/decisions/NNNN-TITLE.md`",
                0,
            ),
            ("the `edge`: `stoa deploy`, `a/b`", 0),
        ] {
            let found = findings(check, &[CRATE, ("ARCHITECTURE.md", text)]);
            assert_eq!(found.len(), expected, "{text}: {found:?}");
        }
    }
}
