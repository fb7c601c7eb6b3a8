//! `plan` and `learn` decide and do nothing else: no clock, no randomness, no process, no thread, no file, no network.
//!
//! Lives here: the words such a use needs. Does not live here: `clippy.toml`, which bans calls everywhere.

use anyhow::Result;
use toml::Table;

use super::source::{is_test, product_lines};
use super::{Finding, Verdict};
use crate::repository::Repository;

const PURE: &[&str] = &["crates/plan/", "crates/learn/"];
const WORDS: &[&str] = &[
    "SystemTime",
    "Instant::now",
    "std::time::Instant",
    "Timestamp::now",
    "std::process",
    "Command::new",
    "std::thread",
    "thread::spawn",
    "std::fs",
    "fs::",
    "File::open",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os::unix::net",
    "TcpStream",
    "UdpSocket",
    "UnixStream",
    "std::env",
    "rand::",
    "getrandom",
    "async fn",
    ".await",
    "tokio",
    "static mut",
    "Mutex",
    "println!",
    "eprintln!",
];
/// What a pure crate may depend on.
const DEPENDENCIES: &[&str] = &["model", "serde", "thiserror"];

pub fn check(repository: &Repository) -> Result<Verdict> {
    let (mut findings, mut files) = (Vec::new(), 0);
    for path in repository
        .files()
        .filter(|path| PURE.iter().any(|room| path.starts_with(room)))
    {
        if path.ends_with("/Cargo.toml") {
            let manifest: Table = repository.read(path)?.parse()?;
            let dependencies = manifest.get("dependencies").and_then(|table| table.as_table());
            for name in dependencies.into_iter().flat_map(Table::keys) {
                if !DEPENDENCIES.contains(&name.as_str()) {
                    findings.push(Finding::at(
                        path,
                        format!("a pure crate does not depend on {name}"),
                    ));
                }
            }
        }
        if !path.ends_with(".rs") || is_test(repository, path)? {
            continue;
        }
        files += 1;
        let text = repository.read(path)?;
        for (index, line) in product_lines(&text) {
            for word in WORDS.iter().filter(|word| line.contains(**word)) {
                let message = format!("`{word}` in a pure crate; facts and the time come in as arguments");
                findings.push(Finding::line(path, index, message));
            }
        }
    }
    Ok(Verdict::new(format!("{files} sources"), findings))
}

#[cfg(test)]
mod tests {
    use super::super::planted::findings;
    use super::check;

    #[test]
    fn impure_words_are_found_outside_tests_only() {
        for (text, expected) in [
            ("use model::Timestamp;\nfn decide(now: Timestamp) {}", 0),
            ("let now = std::time::SystemTime::now();", 1),
            ("std::thread::spawn(|| {});", 2),
            ("std::fs::read(path)", 2),
            ("use std::net::Ipv4Addr;", 0),
            (
                "#[cfg(test)]\nmod tests {\n    fn t() { std::thread::yield_now(); }\n}",
                0,
            ),
        ] {
            assert_eq!(
                findings(check, &[("crates/plan/src/lib.rs", text)]).len(),
                expected,
                "{text}"
            );
            assert!(findings(check, &[("crates/host/src/lib.rs", text)]).is_empty());
        }
    }

    #[test]
    fn impure_dependencies_are_found() {
        let manifest = "[dependencies]\nmodel.workspace = true\ntokio.workspace = true\n[dev-dependencies]\nrand = \"1\"\n";
        assert_eq!(findings(check, &[("crates/plan/Cargo.toml", manifest)]).len(), 1);
    }
}
