//! No loose ends: what is not finished is an issue, not a note in the source.

use anyhow::Result;

use super::{Finding, Verdict};
use crate::repository::Repository;

/// Written in halves so that this file does not contain them.
const WORDS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
];

pub fn check(repository: &Repository) -> Result<Verdict> {
    let (mut findings, mut files) = (Vec::new(), 0);
    let kinds = [".rs", ".toml", ".py", ".html", ".sql"];
    for path in repository
        .files()
        .filter(|path| kinds.iter().any(|kind| path.ends_with(kind)))
    {
        files += 1;
        let text = repository.read(path)?;
        for (index, line) in text.lines().enumerate() {
            for word in WORDS.iter().filter(|word| line.contains(**word)) {
                findings.push(Finding::line(
                    path,
                    index,
                    format!("{word}: finish it, or make it an issue"),
                ));
            }
        }
    }
    Ok(Verdict::new(format!("{files} files"), findings))
}

#[cfg(test)]
mod tests {
    use super::super::planted::findings;
    use super::{WORDS, check};

    #[test]
    fn loose_ends_are_found() {
        for word in WORDS {
            let text = format!("fn a() {{}} // {word} later");
            assert_eq!(
                findings(check, &[("crates/a/src/lib.rs", &text)]).len(),
                1,
                "{word}"
            );
        }
        assert!(findings(check, &[("crates/a/src/lib.rs", "fn a() {}")]).is_empty());
    }
}
