//! No shell: programs are started with an argument list, never through `sh -c`.
//!
//! Lives here: what a shell spawn looks like, and which lines of a file are product code (other rules ask too).
//! Does not live here: proof that user text is harmless; this only keeps the door shut.

use anyhow::Result;

use super::{Finding, Verdict};
use crate::repository::Repository;

/// Written so that this file does not contain what it looks for.
const SHELLS: &[&str] = &[
    "sh",
    "bash",
    "dash",
    "ash",
    "zsh",
    "/bin/sh",
    "/bin/bash",
    "/usr/bin/sh",
    "/usr/bin/bash",
];

pub fn no_shell(repository: &Repository) -> Result<Verdict> {
    let (mut findings, mut files) = (Vec::new(), 0);
    for path in repository.sources() {
        files += 1;
        let text = repository.read(path)?;
        for (index, line) in text.lines().enumerate() {
            if spawns_shell(line, is_test(repository, path)?) {
                let message = "starts a shell; give the program and its arguments as a list";
                findings.push(Finding::line(path, index, message));
            }
        }
    }
    Ok(Verdict::new(format!("{files} sources"), findings))
}

fn spawns_shell(line: &str, in_test: bool) -> bool {
    SHELLS.iter().any(|shell| {
        let quoted = format!("\"{shell}\"");
        let Some(at) = line.find(&quoted) else {
            return false;
        };
        let before = line[..at].trim_end();
        let after = &line[at + quoted.len()..];
        before.ends_with("Command::new(") || (after.contains("\"-c\"") && !in_test)
    })
}

/// Whether a file is a test as a whole: below a `tests` or `journeys` folder, or a module its parent has for tests only.
/// A test may describe a workload that is a shell *inside* an instance, as a user would.
pub fn is_test(repository: &Repository, path: &str) -> Result<bool> {
    if path
        .split('/')
        .any(|part| part == "journeys" || part == "tests" || part == "tests.rs")
    {
        return Ok(true);
    }
    let Some((folder, name)) = path.rsplit_once('/') else {
        return Ok(false);
    };
    let declared = format!("#[cfg(test)]\nmod {};", name.trim_end_matches(".rs"));
    for parent in [
        format!("{folder}.rs"),
        format!("{folder}/mod.rs"),
        format!("{folder}/lib.rs"),
    ] {
        if repository.has(&parent) && repository.read(&parent)?.contains(&declared) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Lines that are product code: without comments, and without the test modules at the end.
pub fn product_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = test_modules(text);
    text.lines()
        .enumerate()
        .take(end)
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Index of the line where the tests at the end of the file begin.
pub fn test_modules(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let begins = |index: &usize| {
        let module = |line: &&str| {
            line.starts_with("mod ") || line.starts_with("pub mod ") || line.starts_with("pub(")
        };
        lines[*index].starts_with("#[cfg(test)]") && lines.get(index + 1).is_some_and(module)
    };
    (0..lines.len())
        .find(|index| begins(index) && !lines[index + 1].ends_with(';'))
        .unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::super::planted::findings;
    use super::{no_shell, product_lines};

    #[test]
    fn shell_spawns_are_found() {
        let new = concat!("Command::", "new");
        for (line, expected) in [
            (format!("{new}(\"sh\")"), 1),
            (format!("{new}(\"/bin/bash\").arg(x)"), 1),
            (format!("vec![\"sh\", {:?}, text]", "-c"), 1),
            (format!("{new}(\"psql\").args([{:?}, sql])", "-c"), 0),
            ("shell(\"sh\")".to_owned(), 0),
        ] {
            assert_eq!(
                findings(no_shell, &[("crates/a/src/lib.rs", &line)]).len(),
                expected,
                "{line}"
            );
        }
    }

    #[test]
    fn a_test_may_describe_a_shell_inside_an_instance_but_not_spawn_one() {
        let described = format!("[\"sh\", {:?}, probe]", "-c");
        let spawned = format!("{}(\"sh\")", concat!("Command::", "new"));
        let parent = ("crates/a/src/lib.rs", "#[cfg(test)]\nmod probes;\n");
        for path in ["crates/a/tests/x.rs", "crates/a/src/probes.rs"] {
            assert!(findings(no_shell, &[parent, (path, &described)]).is_empty());
            assert_eq!(findings(no_shell, &[parent, (path, &spawned)]).len(), 1);
        }
    }

    #[test]
    fn tests_and_comments_are_not_product_code() {
        let text = "//! top\nfn a() {}\n#[cfg(test)]\nmod sim;\n// why\n#[cfg(test)]\nmod tests {\n}\n";
        let lines: Vec<usize> = product_lines(text).map(|(index, _)| index).collect();
        assert_eq!(lines, [1, 2, 3]);
    }
}
