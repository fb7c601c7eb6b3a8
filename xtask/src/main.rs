//! The commands of the repository: `cargo xtask demo|test|check|judge|fuzz|bench|soak`.
//!
//! Lives here: reading the arguments. Does not live here: anything the product needs at run time.

mod bench;
mod check;
mod demo;
mod fuzz;
mod judge;
mod packages;
mod repository;
mod s3;
mod soak;
mod step;
mod test;

use std::process::ExitCode;

const FIRST: &str = "\
cargo xtask demo                 install, build, start Stoa on loopback and deploy the guestbook with its database
cargo xtask demo stop            stop it and remove everything it made
cargo xtask test                 everything CI runs
cargo xtask check                the rules of the house: crate arrows, forbidden calls, sizes, true documents
cargo xtask judge                what strangers' tools say about openapi/v1.json and what is exported
cargo xtask fuzz NAME|all [--seconds N]
                                 libFuzzer looks for a text that breaks a reader (fuzz/src)
cargo xtask bench NAME [--rounds N] [--gigabytes N] [--write] [--short]
                                 deploy | weight | db | branch | restore | drill | pool | edge | api | back | all: measure
                                 Stoa beside its peers, print ratios; --short as `test` does, on little data
";

const LAST: &str = "\
cargo xtask packages             install the Debian packages the above need
";

fn usage() -> String {
    format!("{FIRST}{}{LAST}", soak::usage())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["demo"] => demo::run(),
        ["demo", "stop"] => demo::stop(),
        ["test"] => test::run(),
        ["check"] => check::run(),
        ["judge"] => judge::run(),
        ["fuzz", rest @ ..] => fuzz::run(rest),
        ["bench", rest @ ..] => bench::run(rest),
        ["soak", rest @ ..] => soak::run(rest),
        ["packages"] => packages::install().and_then(|()| s3::install()),
        ["help" | "--help" | "-h"] => {
            print!("{}", usage());
            return ExitCode::SUCCESS;
        }
        [] | [..] => {
            eprint!("{}", usage());
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
