//! `stoa man`: the man pages, made of the same tree as the help.

use std::io::Write as _;
use std::path::Path;

use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::args::{Cli, ManArgs};
use crate::failure::{Code, Failure};
use crate::output::{self, say};

pub(crate) fn man(as_json: bool, args: &ManArgs) -> Result<u8, Failure> {
    let mut root = tree();
    if let Some(dir) = &args.dir {
        return install(as_json, &root, dir);
    }
    let mut command = &mut root;
    for word in &args.command {
        command = command.find_subcommand_mut(word).ok_or_else(|| {
            Failure::new(
                Code::NotFound,
                format!("there is no command {}", args.command.join(" ")),
                "see all of them: stoa --help",
            )
        })?;
    }
    let page = page(command)?;
    if as_json {
        output::json(&serde_json::json!({"name": file_name(command), "page": page}))?;
    } else {
        output::data(&page)?;
    }
    Ok(0)
}

/// All commands, each knowing its whole name.
pub(crate) fn tree() -> clap::Command {
    let mut root = Cli::command();
    root.build();
    root
}

/// `stoa-db-create.1`.
fn file_name(command: &clap::Command) -> String {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    format!("{name}.1")
}

pub(crate) fn page(command: &clap::Command) -> Result<String, Failure> {
    let mut page = Vec::new();
    Man::new(command.clone())
        .manual("Stoa")
        .render(&mut page)
        .map_err(|cause| Failure::local("could not write the page", &cause))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// A command and all below it, with their pages.
pub(crate) fn pages(command: &clap::Command) -> Result<Vec<(String, String)>, Failure> {
    let mut all = vec![(file_name(command), page(command)?)];
    for below in command.get_subcommands() {
        all.extend(pages(below)?);
    }
    Ok(all)
}

fn install(as_json: bool, root: &clap::Command, dir: &Path) -> Result<u8, Failure> {
    let refused =
        |cause: std::io::Error| Failure::local(format!("could not write into {}", dir.display()), &cause);
    std::fs::create_dir_all(dir).map_err(refused)?;
    let mut written = Vec::new();
    for (name, page) in pages(root)? {
        let path = dir.join(&name);
        std::fs::File::create(&path)
            .and_then(|mut file| file.write_all(page.as_bytes()))
            .map_err(refused)?;
        written.push(path.display().to_string());
    }
    if as_json {
        output::json(&serde_json::json!({"items": written}))?;
    } else {
        let list: String = written.iter().map(|path| format!("{path}\n")).collect();
        output::data(&list)?;
    }
    say(&format!(
        "wrote {} pages; next: man -l {}/stoa.1",
        written.len(),
        dir.display()
    ));
    Ok(0)
}
