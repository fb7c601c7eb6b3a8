//! The manifest that `stoa init` writes: short and commented.
//!
//! Lives here: the spelling of what `init` finds out (name, commands, ports, databases).
//! Does not live here: an editor of manifests; limits, timings and rollouts are the writer's to add.
//! Invariant: reading the text gives the manifest back, as far as `init` fills one.

use std::fmt::Write as _;

use super::{Manifest, SCHEMA};

impl Manifest {
    /// The text of the file for what `stoa init` found.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = format!(
            "schema = {SCHEMA}\napp    = {}   # its name: answers at {}.DOMAIN\n",
            quoted(self.app.as_str()),
            self.app
        );
        self.write_build(&mut text);
        self.write_env(&mut text);
        for (name, service) in &self.services {
            let _ = writeln!(text, "\n[services.{name}]");
            if let Some(command) = &service.command {
                let _ = writeln!(
                    text,
                    "command = {}   # no shell; $PORT is replaced",
                    words(command)
                );
            }
            if let Some(image) = &service.image {
                let _ = writeln!(text, "image   = {}", quoted(image));
            }
            if let Some(port) = service.port {
                let _ = writeln!(text, "port    = {port}   # given to it as PORT");
            }
            if let Some(path) = &service.health.path {
                let _ = writeln!(text, "health  = {{ path = {} }}", quoted(path));
            }
            if !service.uses.is_empty() {
                let uses: Vec<String> = service.uses.iter().map(|name| quoted(name.as_str())).collect();
                let _ = writeln!(text, "uses    = [{}]", uses.join(", "));
            }
        }
        for (name, job) in &self.jobs {
            let _ = writeln!(text, "\n[jobs.{name}]");
            let _ = writeln!(text, "command = {}", words(&job.command));
            let _ = writeln!(text, "on      = \"release\"   # before a release gets traffic");
        }
        if !self.databases.is_empty() {
            let _ = writeln!(text, "\n[databases]");
        }
        for (name, wish) in &self.databases {
            let version = wish
                .version
                .as_ref()
                .map(|version| format!(", version = {}", quoted(version)));
            let version = version.unwrap_or_default();
            let _ = writeln!(text, "{name} = {{ engine = \"postgres\"{version} }}");
        }
        text
    }

    fn write_build(&self, text: &mut String) {
        let build = &self.build;
        if *build == super::Build::default() {
            return;
        }
        let _ = writeln!(text, "\n[build]");
        if let Some(base) = &build.base {
            let _ = writeln!(text, "base     = {}", quoted(base));
        }
        if !build.packages.is_empty() {
            let packages: Vec<String> = build.packages.iter().map(|package| quoted(package)).collect();
            let _ = writeln!(text, "packages = [{}]", packages.join(", "));
        }
        match build.commands.as_slice() {
            [] => {}
            [one] => {
                let _ = writeln!(text, "command  = {}", words(one));
            }
            several => {
                let lists: Vec<String> = several.iter().map(|command| words(command)).collect();
                let _ = writeln!(text, "command  = [{}]", lists.join(", "));
            }
        }
        if let Some(start) = &build.start {
            let _ = writeln!(text, "start    = {}", words(start));
        }
        if let Some(output) = &build.output {
            let _ = writeln!(text, "output   = {}   # served as a static site", quoted(output));
        }
    }

    fn write_env(&self, text: &mut String) {
        if self.env.is_empty() {
            return;
        }
        let _ = writeln!(text, "\n[env]");
        for (key, value) in &self.env {
            let _ = writeln!(text, "{key} = {}", quoted(value));
        }
    }
}

fn words(command: &[String]) -> String {
    let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(", "))
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
