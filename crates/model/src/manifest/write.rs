//! The manifest that `stoa init` writes: short and commented.
//!
//! Lives here: the spelling of a manifest, without what is a default.
//! Does not live here: an editor of manifests; comments and overlays of somebody's file would be lost.
//! Invariant: reading the text gives the manifest back.

use std::fmt::Write as _;

use super::{Declared, Expose, Manifest, SCHEMA};
use crate::name::{EnvKey, Name};
use crate::spec::{Health, Resources, Route, STOP_GRACE};
use crate::strategy::{Step, Strategy};
use crate::valkey::EngineWish;

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
            write_service(service, &mut text);
        }
        for (name, job) in &self.jobs {
            let _ = writeln!(text, "\n[jobs.{name}]");
            let _ = writeln!(text, "command = {}", words(&job.command));
            let _ = writeln!(text, "on      = \"release\"   # before a release gets traffic");
            write_limits(&job.resources, &mut text);
            write_list("uses", job.uses.iter().map(Name::as_str), &mut text);
            write_list("secrets", job.secrets.iter().map(EnvKey::as_str), &mut text);
            if job.timeout != super::part::JOB_TIMEOUT {
                let _ = writeln!(text, "timeout = \"{}\"", job.timeout);
            }
        }
        if !self.databases.is_empty() {
            let _ = writeln!(text, "\n[databases]");
        }
        for (name, wish) in &self.databases {
            let level = wish.backup_level.map(|level| level.to_string());
            let sizes = [("size", wish.size), ("memory", wish.memory)];
            let sizes = sizes.map(|(key, size)| (key, size.map(|size| size.to_string())));
            let plan = match wish.engine {
                EngineWish::Postgres => None,
                EngineWish::Valkey(plan) => Some(plan.to_string()),
            };
            let rest: String = [("plan", plan), ("version", wish.version.clone())]
                .into_iter()
                .chain(sizes)
                .chain([("backup_level", level)])
                .filter_map(|(key, value)| Some(format!(", {key} = {}", quoted(&value?))))
                .collect();
            let pooled = wish
                .pooled
                .map_or_else(String::new, |pooled| format!(", pooled = {pooled}"));
            let _ = writeln!(
                text,
                "{name} = {{ engine = {}{rest}{pooled} }}",
                quoted(wish.engine.as_str())
            );
        }
        self.write_rollout(&mut text);
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

    fn write_rollout(&self, text: &mut String) {
        let settings = match &self.rollout {
            Strategy::Rolling { surge: None } => return,
            Strategy::Rolling { surge: Some(surge) } => format!(
                "surge    = {{ over = {}, under = {} }}\n",
                surge.over(),
                surge.under()
            ),
            Strategy::BlueGreen => "strategy = \"blue-green\"\n".to_owned(),
            Strategy::Recreate => "strategy = \"recreate\"\n".to_owned(),
            Strategy::Canary { steps } => {
                let step = |step: &Step| format!("\"{}%:{}\"", step.share.percent(), step.hold);
                let steps: Vec<String> = steps.each().iter().map(step).collect();
                format!("strategy = \"canary\"\nsteps    = [{}]\n", steps.join(", "))
            }
        };
        let _ = write!(text, "\n[rollout]\n{settings}");
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

fn write_service(service: &Declared, text: &mut String) {
    if service.count != 1 {
        let scale = match service.count {
            0 => "{ min = 0, max = 0 }".to_owned(),
            count => count.to_string(),
        };
        let _ = writeln!(text, "scale   = {scale}");
    }
    write_limits(&service.resources, text);
    let usual = Health::default();
    let health = &service.health;
    let path = health.path.as_ref().map(|path| ("path", quoted(path)));
    let times = [
        ("grace", health.grace, usual.grace),
        ("interval", health.interval, usual.interval),
        ("timeout", health.timeout, usual.timeout),
    ];
    let times = times
        .into_iter()
        .filter(|(_, time, usual)| time != usual)
        .map(|(key, time, _)| (key, format!("\"{time}\"")));
    let failures = (health.failures != usual.failures).then(|| ("failures", health.failures.to_string()));
    write_table("health ", path.into_iter().chain(times).chain(failures), text);
    if let Some(routes) = &service.routes {
        let route = |route: &Route| match &route.host {
            Some(host) => format!("{{ host = {}, path = {} }}", quoted(host), quoted(&route.path)),
            None => format!("{{ path = {} }}", quoted(&route.path)),
        };
        let routes: Vec<String> = routes.iter().map(route).collect();
        let _ = writeln!(text, "routes  = [{}]", routes.join(", "));
    }
    if service.expose == Expose::Private {
        let _ = writeln!(text, "expose  = \"private\"");
    }
    write_list("uses", service.uses.iter().map(Name::as_str), text);
    write_list("secrets", service.secrets.iter().map(EnvKey::as_str), text);
    if service.stop_grace != STOP_GRACE {
        let _ = writeln!(text, "stop_grace = \"{}\"", service.stop_grace);
    }
}

fn write_limits(resources: &Resources, text: &mut String) {
    let usual = Resources::default();
    let cpu =
        (resources.cpu != usual.cpu).then(|| ("cpu", (f64::from(resources.cpu.get()) / 1000.0).to_string()));
    let memory = (resources.memory != usual.memory).then(|| ("memory", format!("\"{}\"", resources.memory)));
    let pids = (resources.pids != usual.pids).then(|| ("pids", resources.pids.to_string()));
    let disk = (resources.disk != usual.disk).then(|| ("disk", format!("\"{}\"", resources.disk)));
    let all = cpu.into_iter().chain(memory).chain(pids).chain(disk);
    write_table("resources", all, text);
}

fn write_table<'k>(key: &str, entries: impl Iterator<Item = (&'k str, String)>, text: &mut String) {
    let entries: Vec<String> = entries.map(|(key, value)| format!("{key} = {value}")).collect();
    if !entries.is_empty() {
        let _ = writeln!(text, "{key} = {{ {} }}", entries.join(", "));
    }
}

fn write_list<'v>(key: &str, values: impl Iterator<Item = &'v str>, text: &mut String) {
    let values: Vec<String> = values.map(quoted).collect();
    if !values.is_empty() {
        let _ = writeln!(text, "{key:<7} = [{}]", values.join(", "));
    }
}

fn words(command: &[String]) -> String {
    let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(", "))
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
