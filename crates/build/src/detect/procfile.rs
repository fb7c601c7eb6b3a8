//! `Procfile`: `NAME: COMMAND` lines. `release:` runs before a release gets traffic.

use std::collections::BTreeMap;
use std::path::Path;

use model::Name;
use model::manifest::command;

use crate::error::BuildError;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Procfile {
    pub(super) commands: BTreeMap<Name, Vec<String>>,
    pub(super) release: Option<Vec<String>>,
}

pub(super) fn read(dir: &Path) -> Result<Option<Procfile>, BuildError> {
    super::text(dir, "Procfile")?.map(|text| parse(&text)).transpose()
}

pub(super) fn parse(text: &str) -> Result<Procfile, BuildError> {
    let mut procfile = Procfile {
        commands: BTreeMap::new(),
        release: None,
    };
    for (at, line) in text.lines().enumerate() {
        let refuse = |why: String| BuildError::Procfile { line: at + 1, why };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, command)) = line.split_once(':') else {
            return Err(refuse("there is no \":\" between name and command".to_owned()));
        };
        // Other platforms allow capitals and underscores; ours is a DNS label.
        let name = name.trim().to_ascii_lowercase().replace('_', "-");
        let words = command::split(command).map_err(|error| refuse(error.to_string()))?;
        if name == "release" {
            if procfile.release.replace(words).is_some() {
                return Err(refuse("release is there twice".to_owned()));
            }
            continue;
        }
        let name: Name = name
            .parse()
            .map_err(|error: model::NameError| refuse(error.to_string()))?;
        let twice = format!("{name} is there twice");
        if procfile.commands.insert(name, words).is_some() {
            return Err(refuse(twice));
        }
    }
    if procfile.commands.is_empty() && procfile.release.is_none() {
        return Err(BuildError::Procfile {
            line: 1,
            why: "it names no process".to_owned(),
        });
    }
    Ok(procfile)
}
