//! `cargo xtask fuzz NAME`: libFuzzer looks for a text that breaks a reader.
//!
//! Lives here: building and asking libFuzzer. Does not live here: the targets (`fuzz/src`), the short trial of the same
//! targets without libFuzzer (`fuzz/tests`).
//! Invariant: what is found is a file, kept and named; the committed texts are never changed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::repository;
use crate::step::Step;

const SECONDS: u64 = 600;
/// Longer texts only repeat what shorter ones show.
const LENGTH_MAX: u32 = 16 << 10;
/// A text that takes longer is a finding: the readers answer in milliseconds.
const ONE_TEXT_S: u32 = 10;

/// Runs one target, or all one after another.
///
/// # Errors
/// When cargo-fuzz is missing, the name is unknown, or something is found.
pub fn run(words: &[&str]) -> Result<()> {
    let (name, seconds) = match words {
        [name] => (*name, SECONDS),
        [name, "--seconds", seconds] => (
            *name,
            seconds
                .parse()
                .ok()
                .with_context(|| format!("--seconds {seconds} is not a number"))?,
        ),
        [] | [..] => bail!("which target? all, {}", targets()?.join(", ")),
    };
    let known = targets()?;
    let chosen: Vec<&String> = known
        .iter()
        .filter(|known| name == "all" || *known == name)
        .collect();
    ensure!(
        !chosen.is_empty(),
        "there is no target {name}; there are all, {}",
        known.join(", ")
    );
    let there = Command::new("cargo").args(["fuzz", "--version"]).output();
    ensure!(
        there.is_ok_and(|said| said.status.success()),
        "cargo-fuzz is missing; next: cargo install cargo-fuzz --locked"
    );
    for target in chosen {
        one(target, seconds)?;
    }
    Ok(())
}

/// The folders of the committed texts; a test sees that each has a target.
fn targets() -> Result<Vec<String>> {
    let folder = repository::root().join("fuzz/corpus");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("could not read {}", folder.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn one(target: &str, seconds: u64) -> Result<()> {
    let texts = repository::root().join("fuzz/corpus").join(target);
    let work = repository::target().join("fuzz").join(target);
    let found = work.join("found");
    let kept = work.join("corpus");
    // Short, since the path of a socket has a bound.
    let temporary = std::env::temp_dir().join(format!("stoa-fuzz-{}", std::process::id()));
    for folder in [&found, &kept, &temporary] {
        fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }
    let run = |step: Step| {
        step
            // The one toolchain is stable; what cargo-fuzz asks for is not.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("STOA_FUZZ", target)
            // libFuzzer ends without a word to the program, which may have a server in a directory of its own.
            .env("TMPDIR", &temporary)
            .env("CARGO_TARGET_DIR", repository::target().join("fuzz/build"))
    };
    // Safe code is looked at for panics, time and memory; the sanitizers would find what its compiler excludes.
    let common = [
        "--fuzz-dir",
        "fuzz/libfuzzer",
        "--sanitizer",
        "none",
        "--debug-assertions",
        "target",
    ];
    run(Step::cargo("fuzz-build").args(["fuzz", "build"]).args(common)).run()?;
    let done = run(Step::cargo(&format!("fuzz-{target}"))
        .args(["fuzz", "run"])
        .args(common))
    .limit(Duration::from_secs(seconds + 600))
    .args([Path::new(&kept), &texts])
    .args(["--"])
    .args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={LENGTH_MAX}"),
        format!("-timeout={ONE_TEXT_S}"),
        "-rss_limit_mb=1024".to_owned(),
        "-print_final_stats=1".to_owned(),
        format!("-artifact_prefix={}/", found.display()),
    ])
    .run()
    .with_context(|| format!("{target} broke; the text is in {}", found.display()));
    fs::remove_dir_all(&temporary).with_context(|| format!("could not remove {}", temporary.display()))?;
    let done = done?;
    let executed = stat(&done.output, "number_of_executed_units").context("libFuzzer gave no sum")?;
    let slowest = stat(&done.output, "slowest_unit_time_sec").unwrap_or_default();
    println!("{target}: {executed} texts in {seconds} s, none broke it; the slowest took {slowest} s");
    Ok(())
}

/// A number of libFuzzer's last words.
fn stat(output: &str, name: &str) -> Option<u64> {
    let line = output
        .lines()
        .find(|line| line.starts_with(&format!("stat::{name}:")))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{stat, targets};

    #[test]
    fn the_sum_of_libfuzzer_is_read() {
        let said = "Done 9 runs\nstat::number_of_executed_units: 123\nstat::slowest_unit_time_sec:    0\n";
        assert_eq!(stat(said, "number_of_executed_units"), Some(123));
        assert_eq!(stat(said, "slowest_unit_time_sec"), Some(0));
        assert_eq!(stat(said, "new_units_added"), None);
    }

    #[test]
    fn targets_are_those_of_the_corpus() {
        let names = targets().expect("a corpus");
        assert!(names.iter().any(|name| name == "manifest") && names.is_sorted());
    }
}
