//! The rules a machine can hold, each a function from the working tree to findings.
//!
//! Lives here: the list of rules, and what a finding is. Does not live here: any one rule.
//! Invariant: each rule is proven on a planted violation beside it.

mod arrows;
mod documents;
mod errors;
mod hostile;
mod lockfile;
mod purity;
mod sizes;
mod source;
mod words;

use std::fmt;

use anyhow::{Result, bail};

use crate::repository::Repository;

/// A violation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    place: String,
    message: String,
}

impl Finding {
    fn at(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            message: message.into(),
        }
    }
    fn line(path: &str, index: usize, message: impl Into<String>) -> Self {
        Self::at(format!("{path}:{}", index + 1), message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// What a rule looked at, and what it found.
pub struct Verdict {
    looked_at: String,
    findings: Vec<Finding>,
}

impl Verdict {
    fn new(looked_at: impl Into<String>, findings: Vec<Finding>) -> Self {
        Self {
            looked_at: looked_at.into(),
            findings,
        }
    }
}

type Rule = fn(&Repository) -> Result<Verdict>;

const RULES: &[(&str, Rule)] = &[
    ("arrows", arrows::check),
    ("documents", documents::check),
    ("no shell", source::no_shell),
    ("plan is pure", purity::check),
    ("no loose ends", words::check),
    ("one SQLite", lockfile::one_sqlite),
    ("lean tree", lockfile::lean_tree),
    ("sizes", sizes::check),
    ("error pages", errors::check),
    ("hostile inputs", hostile::check),
];

/// Applies all rules to this tree.
///
/// # Errors
/// When there is a finding.
pub fn run() -> Result<()> {
    let repository = Repository::here()?;
    let mut findings = 0;
    for (name, rule) in RULES {
        let verdict = rule(&repository)?;
        let word = if verdict.findings.is_empty() {
            "ok"
        } else {
            "FAILED"
        };
        println!("check {name}: {word} ({})", verdict.looked_at);
        for finding in &verdict.findings {
            println!("    {finding}");
        }
        findings += verdict.findings.len();
    }
    if findings > 0 {
        bail!("{findings} findings; the rules and their reasons: CONTRIBUTING.md");
    }
    Ok(())
}

#[cfg(test)]
mod planted {
    //! Small trees with a violation in them.

    use std::fs;
    use std::path::PathBuf;

    use super::{Repository, Rule};

    pub struct Tree(PathBuf);

    impl Drop for Tree {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    /// A tree with these files.
    pub fn tree(files: &[(&str, &str)]) -> Tree {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("xtask-check-{}-{number}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a file has a folder")).expect("folder");
            fs::write(path, text).expect("file");
        }
        Tree(root)
    }

    /// Findings of a rule on a tree with these files, as text.
    pub fn findings(rule: Rule, files: &[(&str, &str)]) -> Vec<String> {
        let tree = tree(files);
        let repository = Repository::open(&tree.0).expect("a tree");
        let verdict = rule(&repository).expect("a verdict");
        verdict.findings.iter().map(ToString::to_string).collect()
    }
}
