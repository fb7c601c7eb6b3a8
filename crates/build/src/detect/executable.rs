//! Executables that were built elsewhere.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::error::BuildError;

/// Machine numbers of ELF headers, for a message that helps.
const MACHINES: [(u16, &str); 5] = [
    (3, "x86 (32 bit)"),
    (40, "arm (32 bit)"),
    (62, "x86_64"),
    (183, "aarch64"),
    (243, "riscv64"),
];

/// The ELF executables of a directory, libraries apart.
pub(super) fn look(dir: &Path) -> Result<Vec<String>, BuildError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(BuildError::disk(dir))? {
        let entry = entry.map_err(BuildError::disk(dir))?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if is_file && !name.contains(".so") && machine(&entry.path()).is_some() {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// A file by name that is meant to be run: executable by its permissions or its content.
pub(super) fn named(dir: &Path, name: &str) -> Result<Option<String>, BuildError> {
    let path = dir.join(name);
    let Ok(facts) = path.symlink_metadata() else {
        return Ok(None);
    };
    if !facts.is_file() {
        return Ok(None);
    }
    if machine(&path).is_some() {
        fits(dir, name)?;
        return Ok(Some(name.to_owned()));
    }
    Ok((facts.permissions().mode() & 0o111 != 0).then(|| name.to_owned()))
}

/// Whether this machine can run it, if it is a program for a machine.
pub(super) fn fits(dir: &Path, file: &str) -> Result<(), BuildError> {
    let number = machine(&dir.join(file));
    let name = |number: u16| {
        MACHINES
            .iter()
            .find(|(known, _)| *known == number)
            .map(|(_, name)| *name)
    };
    let host = std::env::consts::ARCH;
    match number {
        Some(number) if name(number).is_some_and(|name| name != host) => Err(BuildError::Machine {
            file: file.to_owned(),
            machine: name(number).unwrap_or_default().to_owned(),
            host,
        }),
        Some(_) | None => Ok(()),
    }
}

/// The machine that an ELF program (not a library's object file) is for.
fn machine(path: &Path) -> Option<u16> {
    let mut head = [0; 20];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    let word = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let is_program = head.starts_with(b"\x7fELF") && matches!(word(16), 2 | 3);
    is_program.then(|| word(18))
}
