//! Builds the two programs that `runtime` embeds, statically linked.
//!
//! Lives here: the nested cargo call.
//! Does not live here: how the programs are used (`src/programs.rs`).
//! Invariant: its own target directory below the workspace's, shared by dev, check, clippy and tests, so the programs are
//! built once; and cargo's lock on ours, which we are called under, is never taken again.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

struct Program {
    name: &'static str,
    features: &'static str,
    /// Changes to the `keeper` profile.
    profile: &'static [(&'static str, &'static str)],
}

/// Many keepers run at once, so link-time optimisation is worth its time for that small program. The helper lives for
/// milliseconds; optimising its hundred crates as a whole would take minutes for nothing.
const PROGRAMS: [Program; 2] = [
    Program {
        name: "stoa-keeper",
        features: "",
        profile: &[],
    },
    Program {
        name: "stoa-create",
        features: "create",
        profile: &[
            ("CARGO_PROFILE_KEEPER_LTO", "off"),
            ("CARGO_PROFILE_KEEPER_CODEGEN_UNITS", "16"),
        ],
    },
];

fn main() {
    let manifest = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let keeper = manifest.join("../keeper");
    for part in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", keeper.join(part).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(var("OUT_DIR"));
    let target_dir = target_directory(&out).join("keeper");
    for program in &PROGRAMS {
        build(&keeper, &target_dir, program);
    }
    for Program { name: program, .. } in PROGRAMS {
        let built = target_dir.join(TARGET).join("keeper").join(program);
        if let Err(error) = std::fs::copy(&built, out.join(program)) {
            panic!("cannot copy {}: {error}", built.display());
        }
    }
}

fn build(keeper: &Path, target_dir: &Path, program: &Program) {
    let mut cargo = Command::new(var("CARGO"));
    cargo
        .args(["build", "--quiet", "--profile", "keeper", "--target", TARGET])
        .args(["--bin", program.name, "--features", program.features])
        .arg("--manifest-path")
        .arg(keeper.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target_dir);
    // What the outer cargo set for this crate must not reach the inner one: it would rebuild all with other flags, or
    // under clippy's compiler wrapper.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let ours = [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_HTTP_CAINFO",
            "CARGO_BUILD_JOBS",
        ]
        .contains(&&*text);
        if (text.starts_with("CARGO") || text.starts_with("RUSTC") || text.starts_with("RUSTFLAGS")) && !ours
        {
            cargo.env_remove(&name);
        }
    }
    // With an explicit target these hold for the programs, not for build scripts and macros.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    cargo.envs(program.profile.iter().copied());
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("building {} failed: {status}", program.name),
        Err(error) => panic!("cargo could not be started to build {}: {error}", program.name),
    }
}

/// `TARGET/PROFILE/build/PACKAGE-HASH/out` -> `TARGET`, also with a target triple in between.
fn target_directory(out: &Path) -> PathBuf {
    let profile = out
        .ancestors()
        .find(|dir| dir.file_name().is_some_and(|name| name == "build"))
        .and_then(Path::parent);
    let Some(root) = profile.and_then(Path::parent) else {
        panic!("unexpected OUT_DIR {}", out.display())
    };
    let triple = var("TARGET");
    match root.parent() {
        Some(parent) if root.file_name().is_some_and(|name| *name == *triple) => parent.to_owned(),
        Some(_) | None => root.to_owned(),
    }
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
