//! One instance seen from the host: its keeper, its programs, its link, its namespace.
//!
//! Lives here: finding them by the instance's id. Does not live here: harming them (the journeys do).
//! Invariant: what is found belongs to the Stoa that was asked about, and to no other.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::Stoa;
use crate::process::{self, Process};

/// The place of an instance on the host.
#[derive(Debug, Clone)]
pub struct Instance {
    name: String,
    mark: String,
    data: PathBuf,
}

impl Instance {
    /// By its id, as the API names it.
    ///
    /// # Errors
    /// When the Stoa has no mark yet.
    pub fn of(stoa: &Stoa, id: &str) -> Result<Self> {
        Ok(Self {
            name: id.replace('_', "-"),
            mark: stoa.marks().pop().context("no mark")?,
            data: stoa.data_dir(),
        })
    }

    /// Its name on the host.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory with the keeper's records.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.data.join("instances").join(&self.name)
    }

    /// Where its network namespace is mounted.
    #[must_use]
    pub fn namespace(&self) -> PathBuf {
        self.data.join("networks/netns").join(&self.name)
    }

    /// The keeper, while it lives.
    ///
    /// # Errors
    /// When there is none.
    pub fn keeper(&self) -> Result<Process> {
        let record = fs::read_to_string(self.folder().join("record")).context("no record of a keeper")?;
        let pid = record.lines().find_map(|line| line.strip_prefix("keeper_pid "));
        let pid = pid.context("a record without its keeper")?.trim().parse()?;
        let found = Process::of(pid).with_context(|| format!("the keeper {pid} is gone"))?;
        anyhow::ensure!(
            found.line.starts_with("stoa-keeper"),
            "{pid} is no keeper: {}",
            found.line
        );
        Ok(found)
    }

    /// Its processes, without the init that watches over them.
    #[must_use]
    pub fn programs(&self) -> Vec<Process> {
        let group = format!("/stoa-{}/{}", self.mark, self.name);
        let mut found = process::all();
        found.retain(|process| process.cgroups().lines().any(|line| line.ends_with(&group)));
        found.retain(|process| !process.line.starts_with("stoa-init") && !process.line.is_empty());
        found
    }

    /// The host's end of its link.
    ///
    /// # Errors
    /// When it has none.
    pub fn link(&self) -> Result<String> {
        let text = fs::read_to_string(self.data.join("networks/attachments.json"))?;
        let attachments: Value = serde_json::from_str(&text)?;
        let number = attachments["attachments"][&self.name]["number"]
            .as_u64()
            .with_context(|| format!("no attachment of {}", self.name))?;
        Ok(format!("sv{}-{}", self.mark, base36(number)))
    }
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u32::try_from(number % 36).unwrap_or_default();
        digits.extend(char::from_digit(digit, 36));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}
