//! What one Stoa has on the host: taken from outside, so that what it forgot is seen.
//!
//! Lives here: looking. Does not live here: removing (`stoa down` must do that).
//! Invariant: only what bears the data directory's path or mark counts, so that other Stoas are no noise.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process;

/// Everything that bears a Stoa's path or one of its marks, as lines of text.
#[must_use]
pub fn take(data_dir: &Path, marks: &[String]) -> BTreeSet<String> {
    let path = data_dir.to_string_lossy().into_owned();
    let marked = |text: &str| text.contains(&path) || marks.iter().any(|mark| bears(text, mark));
    let mut found = BTreeSet::new();
    let mut add = |kind: &str, items: Vec<String>| {
        found.extend(
            items
                .into_iter()
                .filter(|item| marked(item))
                .map(|item| format!("{kind}: {item}")),
        );
    };
    let bearing = process::bearing(&path)
        .into_iter()
        .map(|process| (process, path.clone()));
    let inside = process::all()
        .into_iter()
        .map(|process| (process.cgroups().replace('\n', " "), process));
    let inside = inside.map(|(groups, process)| (process, groups));
    let processes = bearing.chain(inside);
    add(
        "process",
        processes
            .map(|(process, why)| format!("{} {} [{why}]", process.pid, process.line))
            .collect(),
    );
    add(
        "mount",
        lines(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()),
    );
    add("link", names("/sys/class/net"));
    add("network namespace", names("/run/netns"));
    add("loop device", loops());
    add("nftables table", lines(&output("nft", &["list", "tables"])));
    add("cgroup", cgroups());
    found
}

/// Whether a name carries a mark as a whole part: `st` + mark + `-`, `stoa_` + mark, `stoa-` + mark.
fn bears(text: &str, mark: &str) -> bool {
    [
        format!("st{mark}-"),
        format!("sv{mark}-"),
        format!("stoa_{mark}"),
        format!("stoa-{mark}"),
    ]
    .iter()
    .any(|form| text.contains(form.as_str()))
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn loops() -> Vec<String> {
    let backing = |name: &String| fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok();
    names("/sys/block")
        .iter()
        .filter_map(|name| Some(format!("{name} {}", backing(name)?.trim())))
        .collect()
}

fn cgroups() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path().to_string_lossy().into_owned());
                folders.push(entry.path());
            }
        }
    }
    found
}

fn output(program: &str, arguments: &[&str]) -> String {
    let answer = Command::new(program).args(arguments).output();
    answer
        .map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned())
        .unwrap_or_default()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}
