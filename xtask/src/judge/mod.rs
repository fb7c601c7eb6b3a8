//! What strangers' tools say about the API's document and about what is exported: no error, no warning.
//!
//! Lives here: which judges there are and how they are asked. Does not live here: how they get onto this machine
//! (`tools`), our own conventions (`openapi/spectral.yaml`), what may never change (`crates/api/tests/contract`).
//! Invariant: a judge that cannot be asked is a failure, never an acquittal.

pub mod tools;

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::repository;
use crate::step::Step;

const DOCUMENT: &str = "openapi/v1.json";

/// Asks all of them.
///
/// # Errors
/// When one has something to say, or cannot be asked.
pub fn run() -> Result<()> {
    let tools = tools::install()?;
    Step::new("judge-validator", tools.python("openapi-spec-validator"))
        .args([DOCUMENT])
        .run()?;
    redocly(&tools)?;
    spectral(&tools)?;
    kubernetes(&tools)
}

/// What `stoa export --kubernetes` writes, by the schemas of Kubernetes itself; a test keeps the file true.
fn kubernetes(tools: &tools::Tools) -> Result<()> {
    const EXPORTED: &str = "crates/foreign/tests/export/kubernetes.yaml";
    /// Every object but the two databases, which an operator defines.
    const OBJECTS: usize = 8;
    let ask = |file: &std::ffi::OsStr| {
        Command::new(tools.python("kubernetes-validate"))
            .current_dir(repository::root())
            .arg("--strict")
            .arg(file)
            .output()
            .context("could not start kubernetes-validate")
    };
    let said = ask(EXPORTED.as_ref())?;
    let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
    let passed = text.matches(" passed for resource ").count();
    ensure!(
        said.status.success() && passed == OBJECTS,
        "kubernetes-validate: {passed} of {OBJECTS} objects passed in {EXPORTED}:\n{text}"
    );
    // The judge must be able to find something.
    let good = std::fs::read_to_string(repository::root().join(EXPORTED))?;
    let planted = repository::target().join("judges/planted.yaml");
    std::fs::write(&planted, good.replacen("replicas:", "replica:", 1))
        .context("could not write the planted objects")?;
    ensure!(
        !ask(planted.as_os_str())?.status.success(),
        "kubernetes-validate did not find a misspelt key"
    );
    Ok(())
}

/// With an older Node redocly dies of a function that is missing, and does not say why.
fn need_node() -> Result<()> {
    let said = Command::new("node").arg("--version").output();
    let said = said.context("there is no node; next: cargo xtask packages")?;
    let text = String::from_utf8_lossy(&said.stdout);
    ensure!(
        node(&text).is_some_and(is_enough),
        "redocly needs Node 20.19 or a later 20, or 22.12 and newer, and this one says {:?} (Debian 12 has 18); next: install one, \
         for example npm install --global n && n 22",
        text.trim()
    );
    Ok(())
}

/// What the manifest of the pinned redocly asks for (`engines`).
fn is_enough(version: (u32, u32)) -> bool {
    matches!(version, (20, 19..)) || version >= (22, 12)
}

/// `v20.19.2`.
fn node(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.trim().strip_prefix('v')?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// It counts what an ignore file hides as well: the two `exec` operations, which answer 101 and nothing else.
fn redocly(tools: &tools::Tools) -> Result<()> {
    need_node()?;
    let said = Step::new("judge-redocly", tools.node("redocly"))
        .args([
            "lint",
            "--config",
            "openapi/redocly.yaml",
            "--format",
            "json",
            DOCUMENT,
        ])
        .env("REDOCLY_TELEMETRY", "off")
        .env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true")
        .run()?;
    let totals = totals(&said.output).context("redocly gave no totals")?;
    ensure!(
        totals == (0, 0),
        "redocly: {} errors, {} warnings in {DOCUMENT}:\n{}",
        totals.0,
        totals.1,
        said.output
    );
    Ok(())
}

fn spectral(tools: &tools::Tools) -> Result<()> {
    Step::new("judge-spectral", tools.node("spectral"))
        .args([
            "lint",
            "--ruleset",
            "openapi/spectral.yaml",
            "--fail-severity",
            "hint",
            DOCUMENT,
        ])
        .run()?;
    // The judge must be able to find something: a document with a planted fault of ours and one of OpenAPI's.
    let folder = repository::target().join("judges");
    let planted = folder.join("planted.json");
    std::fs::write(&planted, planted_document()?).context("could not write the planted document")?;
    let said = Command::new(tools.node("spectral"))
        .current_dir(repository::root())
        .args(["lint", "--ruleset", "openapi/spectral.yaml"])
        .arg(&planted)
        .output()
        .context("could not start spectral")?;
    let text = String::from_utf8_lossy(&said.stdout);
    for rule in ["stoa-operation-id", "stoa-errors", "operation-description"] {
        ensure!(
            !said.status.success() && text.contains(rule),
            "spectral did not name the planted fault {rule}:\n{text}"
        );
    }
    Ok(())
}

/// The document with faults: an operation without description, with a name of its own kind and without errors.
fn planted_document() -> Result<String> {
    let text = std::fs::read_to_string(repository::root().join(DOCUMENT))?;
    let mut document: Value = serde_json::from_str(&text)?;
    let operation = &mut document["paths"]["/v1/whoami"]["get"];
    operation["operationId"] = Value::from("WhoAmI");
    operation
        .as_object_mut()
        .context("no /v1/whoami to plant into")?
        .remove("description");
    operation["responses"]
        .as_object_mut()
        .context("no responses to plant into")?
        .remove("4XX");
    Ok(document.to_string())
}

/// Errors and warnings in redocly's JSON, which stands among its talk.
fn totals(output: &str) -> Option<(u64, u64)> {
    let json = &output[output.find("{\n")?..=output.rfind('}')?];
    let value: Value = serde_json::from_str(json).ok()?;
    let totals = &value["totals"];
    Some((totals["errors"].as_u64()?, totals["warnings"].as_u64()?))
}

#[cfg(test)]
mod tests {
    use super::{is_enough, node, totals};

    #[test]
    fn an_old_node_is_seen() {
        for (said, enough) in [
            ("v20.19.0\n", true),
            ("v22.12.0", true),
            ("v24.1.0", true),
            ("v22.1.0", false),
            ("v21.7.0", false),
            ("v20.18.3", false),
            ("v18.19.0\n", false),
            ("", false),
            ("node", false),
        ] {
            assert_eq!(node(said).is_some_and(is_enough), enough, "{said:?}");
        }
    }

    #[test]
    fn totals_are_read_among_talk() {
        let said = "Warning: {old} node\n{\n  \"totals\": {\"errors\": 2, \"warnings\": 1, \"ignored\": 2}\n}\nbye\n";
        assert_eq!(totals(said), Some((2, 1)));
        assert_eq!(totals("could not read the file"), None);
    }
}
