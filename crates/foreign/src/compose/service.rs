//! One service of a compose file.

use std::borrow::Cow;
use std::collections::BTreeSet;

use model::manifest::Declared;
use model::{EnvKey, Name};

use super::{Role, Roles, keys, published};
use crate::draft::{Draft, bare_service, holds_secret};
use crate::keys::{Found, Support, find, join, walk};
use crate::remark::{At, Report};
use crate::tree::{Node, Part, Value};

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
        self.mention_substitutions();
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

    /// Says whose values stand in a text that is taken over.
    pub(super) fn mention_given(&self, path: &str, node: &Node) {
        let given = node.given();
        if !given.is_empty() {
            let message = format!("holds the value that {} has in .env now", given.join(", "));
            self.report().changed(node.at, path, message);
        }
    }

    /// What .env gave, or did not give, to a key that is taken over; variables, commands and images say it themselves.
    fn mention_substitutions(&self) {
        const THEMSELVES: [&str; 7] = [
            "build",
            "command",
            "entrypoint",
            "env_file",
            "environment",
            "image",
            "volumes",
        ];
        let taken = |key: &str| {
            let row = keys::SERVICE.iter().find(|row| row.key == key);
            row.is_some_and(|row| row.support == Support::Taken) && !THEMSELVES.contains(&key)
        };
        let entries = self.node.map().unwrap_or_default();
        for entry in entries.iter().filter(|entry| taken(&entry.key)) {
            self.mention_parts(&join(self.path, &entry.key), &entry.node);
        }
    }

    fn mention_parts(&self, path: &str, node: &Node) {
        let (unset, secret) = (node.unset(), node.secret());
        if !unset.is_empty() {
            let message = format!(
                "{} has no value, so nothing stands in its place: put it into .env beside the file and try again",
                unset.join(", ")
            );
            self.report().unsupported(node.at, path, message);
        }
        if !secret.is_empty() {
            let message = format!(
                "{} of .env looks like a secret, so its value is left out here",
                secret.join(", ")
            );
            self.report().unsupported(node.at, path, message);
        }
        self.mention_given(path, node);
        for (index, below) in node.list().unwrap_or_default().iter().enumerate() {
            self.mention_parts(&format!("{path}[{index}]"), below);
        }
        for below in node.map().unwrap_or_default() {
            self.mention_parts(&join(path, &below.key), &below.node);
        }
    }

    /// Values that come as one text or as a list of texts.
    pub(super) fn texts(&self, found: &Found<'t>) -> Vec<(At, String, &'t str)> {
        let leaves = self.leaves(found).into_iter();
        leaves
            .filter_map(|(path, node)| Some((node.at, path, node.text()?)))
            .collect()
    }

    /// The same as nodes.
    fn leaves(&self, found: &Found<'t>) -> Vec<(String, &'t Node)> {
        let one = |node: &'t Node, path: String| match node.text() {
            Some(_) => Some((path, node)),
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
                let missing: Vec<&str> = [found.node.unset(), found.node.secret()].concat();
                if !missing.is_empty() {
                    let message = format!(
                        "{} has no value, or one that looks like a secret: put it into .env beside the file and try again, or \
                         complete the image",
                        missing.join(", ")
                    );
                    self.report().unsupported(found.at, &found.path, message);
                }
                self.mention_given(&found.path, found.node);
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
        let entrypoint = self.words("entrypoint", service);
        let command = self.words("command", service);
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

    /// The words of one of the two. Compose has replaced what it replaces, so a dollar sign is literal by now, but for
    /// what may not be written out: it stays a name.
    fn words(&mut self, key: &str, service: &mut Declared) -> Option<Vec<String>> {
        let found = self.find(key)?;
        let is_line = found.node.text().is_some();
        let leaves = self.leaves(&found);
        let whole: Vec<String> = leaves
            .iter()
            .filter_map(|(_, node)| node.whole().map(Cow::into_owned))
            .collect();
        let has_secret = if is_line {
            holds_secret(whole.iter().flat_map(|line| line.split_whitespace()))
        } else {
            holds_secret(whole.iter().map(String::as_str))
        };
        let Some(mark) = Mark::not_in(&whole) else {
            let message = "holds letters that nobody writes: it is left out";
            self.report().unsupported(found.at, &found.path, message);
            return None;
        };
        let mut names = Vec::new();
        let mut words = Vec::new();
        for (path, node) in leaves {
            let text = self.marked(&path, node, has_secret, mark, &mut names, service);
            if is_line {
                words = self.draft.line(found.at, &found.path, &literal_line(&text))?;
            } else {
                words.push(text.replace('$', "$$"));
            }
        }
        for word in &mut words {
            *word = mark.replaced(word, &names);
        }
        self.draft.mention_words(found.at, &found.path, &words);
        (!words.is_empty()).then_some(words)
    }

    /// The text with marks instead of what becomes the name of a variable.
    fn marked(
        &mut self,
        path: &str,
        node: &Node,
        has_secret: bool,
        mark: Mark,
        names: &mut Vec<String>,
        service: &mut Declared,
    ) -> String {
        if node.parts.is_empty() {
            return node.text().unwrap_or_default().to_owned();
        }
        let mut text = String::new();
        for part in &node.parts {
            let name = match part {
                Part::Text(literal) => {
                    text.push_str(literal);
                    continue;
                }
                Part::Given { name, value } if !has_secret => {
                    text.push_str(value);
                    let message = format!("holds the value that {name} has in .env now");
                    self.report().changed(node.at, path, message);
                    continue;
                }
                Part::Given { name, value } | Part::Secret { name, value } => {
                    let message = format!(
                        "the value of {name} looks like a secret, so it is left out; set it: stoa secrets set {name}"
                    );
                    let key = self.draft.secret(node.at, path, name, Some(value), message);
                    service.secrets.extend(key);
                    name
                }
                Part::Unset { name } => {
                    let message = format!(
                        "{name} has no value, so the name stands there instead: put it into .env beside the file and try again, \
                         or give it one: stoa env set {name}=VALUE"
                    );
                    self.report().unsupported(node.at, path, message);
                    name
                }
            };
            text.push_str(&mark.around(names.len()));
            names.push(name.clone());
        }
        text
    }

    fn secrets(&mut self, service: &mut Declared) {
        let Some(found) = self.find("secrets") else { return };
        for (path, node) in found.items(self.report()) {
            if node.map().is_some() {
                walk(self.report(), &path, node, keys::FORM, keys::SECRET);
            }
            let source = node.text().or_else(|| node.get("source").and_then(Node::text));
            let source = source.unwrap_or_default();
            // The file there is called like the secret unless somebody says otherwise.
            let file = node.get("target").and_then(Node::text).unwrap_or(source);
            let file = file.strip_prefix("/run/secrets/").unwrap_or(file);
            let fit = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
            let name: String = source.chars().map(fit).collect();
            if name.parse::<EnvKey>().is_err() {
                let message = "makes no name of a secret: it is left out";
                self.report().unsupported(node.at, &path, message);
                continue;
            }
            let message = format!(
                "is the file /run/secrets/{name} and the variable {name}; set it: stoa secrets set {name}"
            );
            if file != name {
                let message =
                    format!("there the file is called {file}, and here {name}: change what reads it");
                self.report().unsupported(node.at, &path, message);
            }
            let key = self.draft.secret(node.at, &path, &name, None, message);
            service.secrets.extend(key);
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
                    let path = join(&found.path, &entry.key);
                    walk(self.report(), &path, &entry.node, keys::FORM, keys::DEPENDENCY);
                    (entry.at, path, entry.key.as_str())
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
        for (path, node) in found.items(self.report()) {
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

/// A letter that stands around the number of a name, in texts that do not have it.
#[derive(Clone, Copy)]
struct Mark(char);

impl Mark {
    fn not_in(texts: &[String]) -> Option<Self> {
        // Letters for private use: nobody can mean anything by one in a command.
        let mut letters = '\u{e000}'..='\u{f8ff}';
        letters
            .find(|letter| !texts.iter().any(|text| text.contains(*letter)))
            .map(Self)
    }

    fn around(self, number: usize) -> String {
        format!("{0}{number}{0}", self.0)
    }

    fn replaced(self, word: &str, names: &[String]) -> String {
        let pieces = word.split(self.0).enumerate();
        let told = pieces.map(|(index, piece)| match piece.parse::<usize>() {
            Ok(number) if index % 2 == 1 => names
                .get(number)
                .map_or_else(String::new, |name| format!("${{{name}}}")),
            Ok(_) | Err(_) => piece.to_owned(),
        });
        told.collect()
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
