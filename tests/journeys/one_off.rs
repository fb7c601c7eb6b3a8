//! `stoa run`: a command of its own beside an app, whose lines and exit code are the command's.

use anyhow::{Result, ensure};
use journeys::{Application, Stoa};

/// Writes what could be taken for our own talk, and ends with a code of its own.
const TELLING: &str = "\
import os, sys
print('failed: not ours')
print('app', os.environ['STOA_APP'])
sys.exit(int(sys.argv[1]))";
/// More lines than an operation's log takes.
const LONG: &str = "\
for number in range(10_050): print('line', number)";

#[test]
fn a_command_of_its_own_gives_its_lines_and_its_exit_code() -> Result<()> {
    let stoa = Stoa::start("one-off")?;
    let app = Application::copy("probe", stoa.root())?;
    let run = |arguments: &[&str]| {
        let mut all = vec!["run", "-a", app.name(), "--", "python3", "-c"];
        all.extend(arguments);
        stoa.cli(&all)
    };
    stoa.cli(&["apps", "create", app.name()])?.ok()?;
    run(&[TELLING, "0"])?
        .exits(6)?
        .says("no release that serves")?
        .has_next_step()?;
    stoa.deploy(&app)?.ok()?;

    let told = format!("failed: not ours\napp {}\n", app.name());
    let done = run(&[TELLING, "0"])?.ok()?;
    ensure!(done.stdout == told, "{:?}", done.stdout);
    let failed = run(&[TELLING, "42"])?.exits(42)?;
    ensure!(failed.stdout == told, "{:?}", failed.stdout);
    failed.says("ended with exit code 42")?.has_next_step()?;
    stoa.cli(&["run", "-a", app.name(), "--", "no-such-program"])?
        .exits(1)?
        .has_next_step()?;

    let long = run(&[LONG])?.ok()?.says("stoa logs run")?;
    let lines: Vec<&str> = long.stdout.lines().collect();
    ensure!(
        lines.len() == 10_000 && lines[0] == "line 0" && lines[9_999] == "line 9999",
        "{} lines, from {:?} to {:?}",
        lines.len(),
        lines.first(),
        lines.last()
    );
    stoa.cli(&["logs", "-a", app.name(), "run", "--tail", "1"])?
        .ok()?
        .says("line 10049")?;
    stoa.finish()
}
