//! Completion scripts judged by the shells they are for, man pages by groff.

use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use clap_complete::Shell;

fn script(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut cli::Cli::command(), "stoa", &mut text);
    String::from_utf8(text).expect("text")
}

/// What a shell prints that reads these lines after the completion script.
fn ask(shell: Shell, lines: &str) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let completion = dir.path().join("_stoa");
    std::fs::write(&completion, script(shell)).expect("written");
    let file = dir.path().join("asks");
    let lines = lines.replace("COMPLETION", &completion.display().to_string());
    std::fs::write(&file, lines).expect("written");
    let said = Command::new(shell.to_string())
        .arg(&file)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir.path())
        .output()
        .unwrap_or_else(|cause| panic!("{shell} runs (cargo xtask packages): {cause}"));
    let talk = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && talk.is_empty(), "{shell}: {talk}");
    let text = String::from_utf8_lossy(&said.stdout);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes() {
    let complete = |words: &str, at: usize| {
        let mut last = words.rsplit(' ');
        let (current, before) = (last.next().unwrap_or_default(), last.next().unwrap_or_default());
        ask(
            Shell::Bash,
            &format!(
                "source COMPLETION\nCOMP_WORDS=({words})\nCOMP_CWORD={at}\n_stoa stoa \"{current}\" \"{before}\"\n\
                 printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
            ),
        )
    };
    assert_eq!(complete("stoa depl", 1), ["deploy"]);
    assert_eq!(complete("stoa db bra", 2), ["branch"]);
    assert_eq!(complete("stoa deploy --pl", 2), ["--plan"]);
    assert_eq!(complete("stoa ps --color ", 3), ["auto", "always", "never"]);
}

#[test]
fn fish_completes() {
    let complete = |line: &str| {
        let said = ask(
            Shell::Fish,
            &format!("source COMPLETION\ncomplete -C \"{line}\"\n"),
        );
        let words = said.iter().filter_map(|line| line.split('\t').next());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("stoa depl"), ["deploy"]);
    assert_eq!(complete("stoa db bra"), ["branch"]);
    assert_eq!(complete("stoa deploy --pl"), ["--plan"]);
}

#[test]
fn zsh_loads_the_function() {
    let said = ask(
        Shell::Zsh,
        "autoload -Uz compinit\ncompinit -u -D\nsource COMPLETION\nwhence -w _stoa\nprint -r -- ${_comps[stoa]}\n",
    );
    assert_eq!(said, ["_stoa: function", "_stoa"]);
}

/// Every command has a page, and groff finds nothing to say about one.
#[test]
fn groff_reads_every_page() {
    let dir = tempfile::tempdir().expect("a directory");
    let arguments = ["stoa", "man", "--dir"].map(std::ffi::OsString::from);
    let arguments = arguments.into_iter().chain([dir.path().into()]);
    let parsed = cli::parse(arguments).expect("good arguments");
    let cli::Command::Remote(command) = &parsed.command else {
        panic!("man is a command of the cli")
    };
    assert_eq!(
        cli::run(&parsed.globals, command),
        std::process::ExitCode::SUCCESS
    );
    let mut names: Vec<String> = std::fs::read_dir(dir.path())
        .expect("a directory")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    let mut tree = cli::Cli::command();
    tree.build();
    let mut expected = Vec::new();
    collect(&tree, &mut expected);
    expected.sort();
    assert_eq!(names, expected);
    for name in &names {
        let (text, talk) = read(&dir.path().join(name));
        assert!(talk.is_empty(), "{name}: {talk}");
        assert!(text.contains("SYNOPSIS"), "{name}: {text}");
    }
    // The control: it finds a macro that does not exist.
    let broken = dir.path().join("broken.1");
    std::fs::write(&broken, ".TH x 1\n.XYZ\n").expect("written");
    assert!(!read(&broken).1.is_empty());
}

fn collect(command: &clap::Command, into: &mut Vec<String>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    into.push(format!("{name}.1"));
    for below in command.get_subcommands() {
        collect(below, into);
    }
}

/// The page as a terminal shows it, and what groff has to say about it.
fn read(page: &Path) -> (String, String) {
    let said = Command::new("groff")
        .args(["-man", "-Tutf8", "-ww", "-P-cbou"])
        .arg(page)
        .output()
        .expect("groff runs (cargo xtask packages)");
    let plain = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (plain(&said.stdout), plain(&said.stderr))
}
