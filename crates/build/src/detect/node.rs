//! Node: `package.json`.

use std::path::Path;

use model::manifest::command;
use serde_json::Value;

use crate::error::BuildError;

/// A package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// There is something to install.
    pub(crate) has_dependencies: bool,
    /// `package-lock.json` or `npm-shrinkwrap.json`: exactly that is installed.
    pub(crate) has_lock: bool,
    /// Installing reads more of the source than the package files.
    pub(crate) needs_source: bool,
    /// It has `scripts.build`.
    pub(crate) has_build: bool,
    /// Where a known tool's build leaves a site.
    pub(crate) output: Option<String>,
    /// How it is started.
    pub(crate) start: Option<Vec<String>>,
}

const FILE: &str = "package.json";

/// Tools whose result is a directory of files, and its name.
const SITES: [(&str, &str); 6] = [
    ("react-scripts", "build"),
    ("@11ty/eleventy", "_site"),
    ("astro", "dist"),
    ("parcel", "dist"),
    ("vite", "dist"),
    ("vitepress", ".vitepress/dist"),
];

/// Scripts that npm runs while it installs; they may read anything.
const INSTALL_SCRIPTS: [&str; 4] = ["preinstall", "install", "postinstall", "prepare"];

pub(super) fn look(dir: &Path) -> Result<Option<Node>, BuildError> {
    let Some(text) = super::text(dir, FILE)? else {
        return Ok(None);
    };
    let package: Value = serde_json::from_str(&text)
        .map_err(|error| BuildError::file(FILE, error.to_string(), "check it: npm pkg get name"))?;
    let script = |name: &str| {
        package["scripts"][name]
            .as_str()
            .filter(|script| !script.trim().is_empty())
    };
    let dependencies = |kind: &str| package[kind].as_object().into_iter().flatten();
    let all = || {
        ["dependencies", "devDependencies", "optionalDependencies"]
            .into_iter()
            .flat_map(dependencies)
    };
    let is_local = |version: &Value| {
        let version = version.as_str().unwrap_or_default();
        ["file:", "link:", "workspace:", "./", "../"]
            .iter()
            .any(|prefix| version.starts_with(prefix))
    };
    let has_build = script("build").is_some();
    let output = SITES
        .iter()
        .find(|(tool, _)| has_build && all().any(|(name, _)| name == tool));
    Ok(Some(Node {
        has_dependencies: all().next().is_some() || package.get("workspaces").is_some(),
        has_lock: super::has(dir, "package-lock.json") || super::has(dir, "npm-shrinkwrap.json"),
        needs_source: package.get("workspaces").is_some()
            || all().any(|(_, version)| is_local(version))
            || INSTALL_SCRIPTS.iter().any(|name| script(name).is_some()),
        has_build,
        output: output.map(|(_, directory)| (*directory).to_owned()),
        start: start(dir, script("start"), package["main"].as_str()),
    }))
}

/// A start script that needs no shell is run directly: npm in between would only keep signals from the program.
fn start(dir: &Path, script: Option<&str>, main: Option<&str>) -> Option<Vec<String>> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    if let Some(script) = script {
        let is_plain =
            !script.contains("npm_") && !script.starts_with("npm ") && !script.starts_with("yarn ");
        return match command::split(script) {
            Ok(split) if is_plain => Some(split),
            Ok(_) | Err(_) => Some(words(&["npm", "start"])),
        };
    }
    let is_here = |file: &&str| !file.contains("..") && super::has(dir, file);
    main.into_iter()
        .chain(["server.js", "index.js", "app.js", "server.mjs", "index.mjs"])
        .find(is_here)
        .map(|file| words(&["node", file]))
}
