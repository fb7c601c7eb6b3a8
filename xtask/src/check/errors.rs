//! Every public error code has a page `docs/errors/CODE.md`, and every page a code.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Finding, Verdict};
use crate::repository::Repository;

/// The committed document of the API; its problem schema lists the codes.
const DOCUMENT: &str = "openapi/v1.json";
const PAGES: &str = "docs/errors/";

pub fn check(repository: &Repository) -> Result<Verdict> {
    let pages: BTreeSet<String> = repository
        .files()
        .filter_map(|path| path.strip_prefix(PAGES)?.strip_suffix(".md"))
        .filter(|name| *name != "README")
        .map(str::to_owned)
        .collect();
    if !repository.has(DOCUMENT) {
        return Ok(Verdict::new(format!("no {DOCUMENT} yet"), Vec::new()));
    }
    let document: serde_json::Value = serde_json::from_str(&repository.read(DOCUMENT)?)?;
    let codes = codes(&document);
    let missing = codes
        .difference(&pages)
        .map(|code| Finding::at(format!("{PAGES}{code}.md"), "is missing"));
    let stale = pages
        .difference(&codes)
        .map(|code| Finding::at(format!("{PAGES}{code}.md"), "no such code any more"));
    let findings = missing.chain(stale).collect();
    Ok(Verdict::new(format!("{} codes", codes.len()), findings))
}

/// Values of `code` in the schema `Problem`, directly or through a named schema.
fn codes(document: &serde_json::Value) -> BTreeSet<String> {
    let schemas = &document["components"]["schemas"];
    let code = &schemas["Problem"]["properties"]["code"];
    let named = code["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
        .map(|name| &schemas[name]);
    let values = named.unwrap_or(code)["enum"].as_array();
    values
        .into_iter()
        .flatten()
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::planted::findings;
    use super::{DOCUMENT, check};

    const API: &str = r##"{"components":{"schemas":{
        "Problem":{"properties":{"code":{"$ref":"#/components/schemas/ProblemCode"}}},
        "ProblemCode":{"enum":["not_found"]}}}}"##;

    #[test]
    fn missing_and_stale_pages_are_found() {
        let page = ("docs/errors/not_found.md", "# not_found");
        assert!(findings(check, &[(DOCUMENT, API), page, ("docs/errors/README.md", "")]).is_empty());
        assert_eq!(
            findings(check, &[(DOCUMENT, API)]),
            ["docs/errors/not_found.md: is missing"]
        );
        assert_eq!(
            findings(check, &[(DOCUMENT, API), page, ("docs/errors/old.md", "")]).len(),
            1
        );
    }
}
