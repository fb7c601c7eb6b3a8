//! One service of a compose file.

use std::collections::BTreeSet;

use model::manifest::Declared;
use model::{EnvKey, Name};

use super::{Role, Roles, keys, published};
use crate::draft::{Draft, bare_service};
use crate::keys::{Found, find, walk};
use crate::remark::{At, Report};
use crate::tree::{Node, Value};

pub(super) struct Reading<'d, 'r, 't> {
    pub(super) draft: &'d mut Draft<'r>,
    pub(super) roles: &'t Roles,
    pub(super) path: &'t str,
    pub(super) name: &'t Name,
    pub(super) node: &'t Node,
    /// Whom it uses, by the names of the file.
    pub(super) uses: BTreeSet<String>,
    pub(super) published: Vec<published::Candidate>,
}

impl<'r, 't> Reading<'_, 'r, 't> {
    pub(super) fn read(&mut self) -> Declared {
        walk(self.report(), self.path, self.node, keys::FORM, keys::SERVICE);
        let mut service = bare_service();
        self.image(&mut service);
        self.command(&mut service);
        self.ports(&mut service);
        self.environment(&mut service);
        self.env_file();
        self.secrets(&mut service);
        self.depends();
        self.links();
        self.limits(&mut service);
        self.health(&mut service);
        self.volumes();
        self.restart();
        self.small();
        service
    }

    pub(super) fn report(&self) -> &'r Report {
        self.draft.report
    }

    pub(super) fn find(&self, key: &str) -> Option<Found<'t>> {
        find(self.path, self.node, key)
    }

    /// Values that come as one text or as a list of texts.
    pub(super) fn texts(&self, found: &Found<'t>) -> Vec<(At, String, &'t str)> {
        let one = |node: &'t Node, path: String| match node.text() {
            Some(text) => Some((node.at, path, text)),
            None => {
                let message = format!("must be a text, but is {}; it is left out", node.kind());
                self.report().unsupported(node.at, &path, message);
                None
            }
        };
        match &found.node.value {
            Value::Null => Vec::new(),
            Value::List(nodes) => nodes
                .iter()
                .enumerate()
                .filter_map(|(index, node)| one(node, format!("{}[{index}]", found.path)))
                .collect(),
            Value::Text(_) | Value::Map(_) => one(found.node, found.path.clone()).into_iter().collect(),
        }
    }

    fn image(&mut self, service: &mut Declared) {
        let build = self.find("build");
        if let Some(found) = self.find("image") {
            if build.is_some() {
                let message = "the image is built from the source; its name is Stoa's";
                self.report().ignored(found.at, &found.path, message);
            } else if let Some(text) = found.text(self.report()) {
                if !found.node.unset.is_empty() {
                    let message = format!(
                        "{} has no value: put it into .env beside the file and try again, or complete the image",
                        found.node.unset.join(", ")
                    );
                    self.report().unsupported(found.at, &found.path, message);
                }
                if model::manifest::is_image_reference(text) {
                    service.image = Some(text.to_owned());
                } else {
                    self.draft
                        .not_understood(found.at, &found.path, text, "an image reference");
                }
            }
        } else if build.is_none() {
            let message = "it has neither an image nor a build: it runs the app's image";
            self.report().changed(self.node.at, self.path, message);
        }
        if let Some(found) = build {
            self.build(&found);
        }
    }

    fn build(&mut self, found: &Found<'t>) {
        let (at, path, context) = match &found.node.value {
            Value::Map(_) => {
                walk(self.report(), &found.path, found.node, keys::FORM, keys::BUILD);
                match find(&found.path, found.node, "context") {
                    Some(context) => (context.at, context.path.clone(), context.node.text()),
                    None => (found.at, found.path.clone(), None),
                }
            }
            Value::Text(text) => (found.at, found.path.clone(), Some(text.as_str())),
            Value::Null | Value::List(_) => (found.at, found.path.clone(), None),
        };
        let message = match context {
            None | Some("." | "./") => {
                "the directory is built by detection or [build]; a Dockerfile is not read yet".to_owned()
            }
            Some(other) => format!(
                "an app is built from one directory, by detection or [build]; deploy {other:?}, or make it an app of its own"
            ),
        };
        self.report().unsupported(at, &path, message);
    }

    /// `entrypoint` and `command`: one list of words here, which stands for both.
    fn command(&mut self, service: &mut Declared) {
        let entrypoint = self.words("entrypoint");
        let command = self.words("command");
        match (entrypoint, command) {
            (Some(mut words), more) => {
                words.extend(more.unwrap_or_default());
                service.command = Some(words);
            }
            (None, Some(words)) => {
                if service.image.is_some()
                    && let Some(found) = self.find("command")
                {
                    let message = "this is the whole command here: if the image has an ENTRYPOINT, write it before these words";
                    self.report().changed(found.at, &found.path, message);
                }
                service.command = Some(words);
            }
            (None, None) => {}
        }
        if let Some(words) = &service.command
            && let Err(error) = model::manifest::command::check(words)
        {
            self.report().unsupported(
                self.node.at,
                self.path,
                format!("its command: {error}: it is left out"),
            );
            service.command = None;
        }
    }

    fn words(&self, key: &str) -> Option<Vec<String>> {
        let found = self.find(key)?;
        match &found.node.value {
            Value::Null => None,
            // What compose has replaced by now is literal: a dollar sign stays one.
            Value::Text(line) => self.draft.line(found.at, &found.path, &literal_line(line)),
            Value::List(_) | Value::Map(_) => Some(
                self.texts(&found)
                    .into_iter()
                    .map(|(_, _, word)| word.replace('$', "$$"))
                    .collect(),
            )
            .filter(|words: &Vec<String>| !words.is_empty()),
        }
    }

    fn secrets(&mut self, service: &mut Declared) {
        let Some(found) = self.find("secrets") else { return };
        for (index, node) in found.node.list().unwrap_or_default().iter().enumerate() {
            let path = format!("{}[{index}]", found.path);
            let source = node.text().or_else(|| node.get("source").and_then(Node::text));
            let key = source.map(|text| {
                let fit = |c: char| {
                    if c.is_ascii_alphanumeric() {
                        c.to_ascii_uppercase()
                    } else {
                        '_'
                    }
                };
                text.chars().map(fit).collect::<String>()
            });
            match key.and_then(|key| key.parse::<EnvKey>().ok()) {
                Some(key) if !EnvKey::is_set_by_stoa(key.as_str()) => {
                    let message = format!(
                        "is the variable {key} here, not a file in /run/secrets; set it: stoa secrets set {key}"
                    );
                    self.report().unsupported(node.at, &path, message);
                    service.secrets.insert(key);
                }
                Some(_) | None => {
                    let message = "makes no name of a variable: it is left out";
                    self.report().unsupported(node.at, &path, message);
                }
            }
        }
    }

    fn depends(&mut self) {
        let Some(found) = self.find("depends_on") else {
            return;
        };
        let mut named: Vec<(At, String, &'t str)> = match found.node.map() {
            Some(entries) => entries
                .iter()
                .map(|entry| {
                    (
                        entry.at,
                        format!("{}.{}", found.path, entry.key),
                        entry.key.as_str(),
                    )
                })
                .collect(),
            None => self.texts(&found),
        };
        named.dedup_by(|a, b| a.2 == b.2);
        for (at, path, other) in named {
            self.depend(at, &path, other);
        }
    }

    fn depend(&mut self, at: At, path: &str, other: &str) {
        match self.roles.get(other) {
            Some(Role::Service(_) | Role::Database(_)) => {
                let message =
                    "uses; nothing waits for another to start, and what is not ready gets no requests";
                self.report().ignored(at, path, message);
                self.uses.insert(other.to_owned());
            }
            Some(Role::Job(_)) => {
                self.report()
                    .ignored(at, path, "the job runs before the release in any case");
            }
            Some(Role::None) => {
                let message = format!("{other} is left out, so it has to do without");
                self.report().unsupported(at, path, message);
            }
            None => self
                .report()
                .unsupported(at, path, format!("there is no service {other}")),
        }
    }

    fn links(&mut self) {
        let Some(found) = self.find("links") else { return };
        for (at, path, text) in self.texts(&found) {
            let (other, alias) = text.split_once(':').unwrap_or((text, text));
            if alias != other {
                let message = format!("{other} is reached by its own name, not as {alias}");
                self.report().unsupported(at, &path, message);
            }
            self.depend(at, &path, other);
        }
    }

    fn volumes(&mut self) {
        let Some(found) = self.find("volumes") else { return };
        for (index, node) in found.node.list().unwrap_or_default().iter().enumerate() {
            let path = format!("{}[{index}]", found.path);
            let target = node.text().or_else(|| node.get("target").and_then(Node::text));
            let target = target.unwrap_or("it");
            let parts: Vec<&str> = target.split(':').collect();
            let place = match parts.as_slice() {
                [_, place, ..] => place,
                [place] => place,
                [] => "it",
            };
            if ["/etc/localtime", "/etc/timezone"].contains(&place) {
                let message = "an instance has UTC; set TZ in [env] where the program obeys it";
                self.report().ignored(node.at, &path, message);
                continue;
            }
            let is_bind = parts.len() > 1 && parts[0].starts_with(['.', '/', '~'])
                || node.get("type").and_then(Node::text) == Some("bind");
            let message = if is_bind {
                format!(
                    "nothing of the host is handed to an instance, and what is written to {place} ends with it: put what it \
                     needs there into the image"
                )
            } else {
                format!(
                    "volumes are not supported by this version: what is written to {place} ends with the instance"
                )
            };
            self.report().unsupported(node.at, &path, message);
        }
    }

    fn restart(&mut self) {
        let Some(found) = self.find("restart") else { return };
        let text = found.node.text().unwrap_or_default();
        let is_job = matches!(self.roles.get(self.own_key()), Some(Role::Job(_)));
        match text.split(':').next().unwrap_or_default() {
            _ if is_job => self
                .report()
                .ignored(found.at, &found.path, "a job runs once for each release"),
            "always" | "unless-stopped" => {
                let message = "what should run is started again, with growing pauses";
                self.report().ignored(found.at, &found.path, message);
            }
            _ => {
                let message =
                    "a service is always started again; what runs to an end is a job: [jobs], or stoa run";
                self.report().unsupported(found.at, &found.path, message);
            }
        }
    }

    fn own_key(&self) -> &str {
        self.path.strip_prefix("services.").unwrap_or(self.path)
    }

    fn env_file(&mut self) {
        let Some(found) = self.find("env_file") else {
            return;
        };
        let message = "the file is not read: stoa init --from FILE in a directory of its own shows what it gives for [env] and secrets";
        self.report().unsupported(found.at, &found.path, message);
    }

    /// Keys whose value decides whether something is lost.
    fn small(&mut self) {
        if let Some(found) = self.find("networks") {
            let message = "every environment has one private network; a service reaches what it uses";
            self.report().ignored(found.at, &found.path, message);
            for entry in found.node.map().unwrap_or_default() {
                let path = format!("{}.{}", found.path, entry.key);
                for below in entry.node.map().unwrap_or_default() {
                    let message = "addresses are given by Stoa, names are those of services";
                    self.report()
                        .unsupported(below.at, &format!("{path}.{}", below.key), message);
                }
            }
        }
        if let Some(found) = self.find("security_opt") {
            for (at, path, option) in self.texts(&found) {
                if option.starts_with("no-new-privileges") && !option.ends_with("false") {
                    self.report().ignored(at, &path, "holds for everybody");
                } else {
                    let message = "isolation is the same for everybody";
                    self.report().unsupported(at, &path, message);
                }
            }
        }
        if let Some(found) = self.find("profiles") {
            self.report()
                .ignored(found.at, &found.path, "an empty list: the service always runs");
        }
    }
}

/// The line with its dollar signs doubled, but for those in single quotes, which are literal by themselves.
fn literal_line(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let (mut single, mut double, mut escaped) = (false, false, false);
    for letter in line.chars() {
        text.push(letter);
        match letter {
            _ if escaped => escaped = false,
            '\\' if !single => escaped = true,
            '\'' if !double => single = !single,
            '"' if !single => double = !double,
            '$' if !single => text.push('$'),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::literal_line;

    #[test]
    fn dollars_of_a_line_stay_dollars() {
        for (line, words) in [
            ("a $X", vec!["a", "$$X"]),
            ("a '$X' \"$X\" \\$X", vec!["a", "$$X", "$$X", "$$X"]),
            ("a \"it's $X\"", vec!["a", "it's $$X"]),
        ] {
            let split = model::manifest::command::split(&literal_line(line)).expect(line);
            assert_eq!(split, words, "{line}");
        }
    }
}
