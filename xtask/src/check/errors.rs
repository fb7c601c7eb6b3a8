//! Every public error code has a page `docs/errors/CODE.md`, and every page a code.
//!
//! Codes are plain texts in the two rooms that speak to callers: `code: "..."` where a failure is made, and the arms of
//! `fn code` in an error's `match`.

use std::collections::BTreeSet;

use anyhow::Result;

use super::source::product_lines;
use super::{Finding, Verdict};
use crate::repository::Repository;

/// Where codes come from.
const ROOMS: [&str; 2] = ["crates/control/src/", "crates/server/src/"];
const PAGES: &str = "docs/errors/";

pub fn check(repository: &Repository) -> Result<Verdict> {
    let pages: BTreeSet<String> = repository
        .files()
        .filter_map(|path| path.strip_prefix(PAGES)?.strip_suffix(".md"))
        .filter(|name| *name != "README")
        .map(str::to_owned)
        .collect();
    let mut said = BTreeSet::new();
    let mut codes = BTreeSet::new();
    for path in repository
        .sources()
        .filter(|path| ROOMS.iter().any(|room| path.starts_with(room)))
    {
        let text = repository.read(path)?;
        let mut in_code = false;
        for (_, line) in product_lines(&text) {
            said.extend(literals(line).map(str::to_owned));
            if line.contains("fn code(") {
                in_code = true;
            } else if in_code && line == "    }" {
                in_code = false;
            }
            if in_code || line.trim_start().starts_with("code: \"") {
                codes.extend(literals(line).map(str::to_owned));
            }
        }
    }
    let missing = codes
        .difference(&pages)
        .map(|code| Finding::at(format!("{PAGES}{code}.md"), "is missing"));
    let stale = pages
        .difference(&said)
        .map(|code| Finding::at(format!("{PAGES}{code}.md"), "no such code any more"));
    let findings = missing.chain(stale).collect();
    Ok(Verdict::new(format!("{} codes", pages.len()), findings))
}

/// Texts in quotes that have the form of a code.
fn literals(line: &str) -> impl Iterator<Item = &str> {
    line.split('"')
        .skip(1)
        .step_by(2)
        .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
}

#[cfg(test)]
mod tests {
    use super::super::planted::findings;
    use super::check;

    const SOURCE: &str = "impl E {\n    pub fn code(&self) -> &'static str {\n        match self {\n            Self::A => \"not_found\",\n        }\n    }\n}\nfn f() { g(\"canceled\") }\n";

    #[test]
    fn missing_and_stale_pages_are_found() {
        let source = ("crates/control/src/error.rs", SOURCE);
        let page = ("docs/errors/not_found.md", "# not_found");
        let said = ("docs/errors/canceled.md", "# canceled");
        assert!(findings(check, &[source, page, said, ("docs/errors/README.md", "")]).is_empty());
        assert_eq!(
            findings(check, &[source, said]),
            ["docs/errors/not_found.md: is missing"]
        );
        let stale = findings(check, &[source, page, ("docs/errors/old.md", "")]);
        assert_eq!(stale, ["docs/errors/old.md: no such code any more"]);
    }

    #[test]
    fn a_code_where_a_failure_is_made_needs_a_page() {
        let source = ("crates/server/src/x.rs", "    code: \"busy\".to_owned(),\n");
        assert_eq!(findings(check, &[source]), ["docs/errors/busy.md: is missing"]);
    }
}
