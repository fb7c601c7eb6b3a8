//! What a verb of the CLI answered.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// Exit code and both outputs of one run of `stoa`.
#[derive(Debug)]
pub struct Answer {
    /// The command line, for messages.
    pub line: String,
    /// The exit code; 128 + n for signal n.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Talk.
    pub stderr: String,
}

impl Answer {
    /// Insists on exit code 0.
    ///
    /// # Errors
    /// When it was another, with all that was said.
    pub fn ok(self) -> Result<Self> {
        self.exits(0)
    }

    /// Insists on an exit code.
    ///
    /// # Errors
    /// When it was another, with all that was said.
    pub fn exits(self, code: i32) -> Result<Self> {
        ensure!(
            self.code == code,
            "`{}` exited with {}, expected {code}\n--- stdout\n{}\n--- stderr\n{}",
            self.line,
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// Insists on a text in either output.
    ///
    /// # Errors
    /// When it is in neither.
    pub fn says(self, text: &str) -> Result<Self> {
        let said = self.stdout.contains(text) || self.stderr.contains(text);
        ensure!(
            said,
            "`{}` does not say {text:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.line,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// Insists that the output ends in a next step.
    ///
    /// # Errors
    /// When there is none.
    pub fn has_next_step(self) -> Result<Self> {
        let told = self
            .stderr
            .lines()
            .any(|line| line.trim_start().starts_with("next:"));
        if !told {
            bail!(
                "`{}` failed without a next step\n--- stderr\n{}",
                self.line,
                self.stderr
            );
        }
        Ok(self)
    }

    /// The output as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("`{}` did not print JSON: {}", self.line, self.stdout))
    }

    /// The items of a list printed as JSON.
    ///
    /// # Errors
    /// When it is no list.
    pub fn items(&self) -> Result<Vec<Value>> {
        let list = self.json()?;
        list.as_array()
            .cloned()
            .with_context(|| format!("`{}` printed no list: {list}", self.line))
    }

    /// The lines of data.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.stdout.lines()
    }
}
