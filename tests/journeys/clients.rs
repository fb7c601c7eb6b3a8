//! Strangers' generators make clients of `openapi/v1.json`, and those deploy, watch, roll back and read logs.
//!
//! Lives here: generating, compiling and running them against a real Stoa. Does not live here: what they do
//! (`tests/clients`), the generators' pins (`xtask/judges`).
//! Invariant: nothing of a client is written by hand but its journey; a generator that leaves something out fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use journeys::{Application, Stoa, repository};

/// Where `cargo xtask judge` installs strangers' programs: below the target directory that this test is in.
fn tools() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test
        .ancestors()
        .nth(3)
        .context("a test lives in a target directory")?;
    let tools = target.join("judges");
    ensure!(
        tools.join("python/installed").exists() && tools.join("node/installed").exists(),
        "the generators are not installed in {}; do it once: cargo xtask judge",
        tools.display()
    );
    Ok(tools)
}

/// A command that has to succeed; what it said is in the error.
fn done(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("could not run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// Two sources of one application that tell which they are.
fn archives(stoa: &Stoa) -> Result<[PathBuf; 2]> {
    let app = Application::copy("probe", stoa.root())?;
    let pack = |version: &str| -> Result<PathBuf> {
        app.write(
            "stoa.toml",
            &fs::read_to_string(app.folder().join("stoa.toml"))?.replace("\"1\"", version),
        )?;
        let archive = stoa.root().join(format!("{}.tar", version.trim_matches('"')));
        let mut tar = Command::new("tar");
        done(
            tar.arg("--create")
                .arg("--file")
                .arg(&archive)
                .arg("--directory")
                .arg(app.folder())
                .arg("."),
        )?;
        Ok(archive)
    };
    Ok([pack("\"1\"")?, pack("\"2\"")?])
}

/// Runs a journey and looks from outside at what it left: the first version serves again.
fn journey(stoa: &Stoa, program: &Path, script: &Path, variables: &[(&str, &Path)]) -> Result<()> {
    let output = done(
        Command::new(program)
            .arg(script)
            .args(archives(stoa)?)
            .envs(variables.iter().copied())
            .env("STOA_URL", stoa.api_url())
            .env("STOA_TOKEN", stoa.api()?.token()),
    )?;
    ensure!(
        String::from_utf8_lossy(&output.stdout).contains("done"),
        "{output:?}"
    );
    ensure!(stoa.get("probe.localhost", "/")?.text() == "1");
    Ok(())
}

#[test]
fn a_generated_python_client_deploys_watches_rolls_back_and_reads_logs() -> Result<()> {
    let (tools, sources) = (tools()?, repository().join("tests/clients/python"));
    let stoa = Stoa::start("client-python")?;
    let (bin, library) = (tools.join("python/bin"), stoa.root().join("python"));
    fs::create_dir_all(&library)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    // It formats what it makes with ruff, which it looks for in the path.
    let path = std::env::join_paths(std::iter::once(bin.clone()).chain(std::env::split_paths(&path)))?;
    let output = done(
        Command::new(bin.join("openapi-python-client"))
            .args(["generate", "--meta", "none", "--fail-on-warning", "--path"])
            .arg(repository().join("openapi/v1.json"))
            .arg("--config")
            .arg(sources.join("generator.yml"))
            .arg("--output-path")
            .arg(library.join("stoa_api"))
            .env("PATH", path),
    )?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        !said.contains("WARNING"),
        "the generator left something out:\n{said}"
    );
    journey(
        &stoa,
        &bin.join("python"),
        &sources.join("journey.py"),
        &[("PYTHONPATH", &library)],
    )?;
    stoa.finish()
}

#[test]
fn a_generated_typescript_client_deploys_watches_rolls_back_and_reads_logs() -> Result<()> {
    let (tools, sources) = (tools()?, repository().join("tests/clients/typescript"));
    let stoa = Stoa::start("client-typescript")?;
    let (modules, folder) = (tools.join("node/node_modules"), stoa.root().join("typescript"));
    fs::create_dir_all(&folder)?;
    for file in ["journey.ts", "package.json", "tsconfig.json"] {
        fs::copy(sources.join(file), folder.join(file))?;
    }
    std::os::unix::fs::symlink(&modules, folder.join("node_modules"))?;
    let document = repository().join("openapi/v1.json");
    let mut types = Command::new(modules.join(".bin/openapi-typescript"));
    done(types.arg(document).arg("--output").arg(folder.join("stoa.ts")))?;
    done(
        Command::new(modules.join(".bin/tsc"))
            .arg("--project")
            .arg(&folder),
    )?;
    journey(&stoa, Path::new("node"), &folder.join("out/journey.js"), &[])?;
    stoa.finish()
}
