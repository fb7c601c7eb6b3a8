//! A manifest on its way: what every importer needs to put into one.
//!
//! Lives here: variables and secrets, names, limits within what a manifest allows. Does not live here: any form's keys.
//! Invariant: what [`Draft::finish`] gives is a manifest that its own parser accepts.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use model::manifest::{Declared, Expose, Manifest};
use model::spec::STOP_GRACE;
use model::{Bytes, CpuMillis, EnvKey, Health, Millis, Name, Resources, Route};

use crate::procfile;
use crate::remark::{At, Report};

/// Environment and arguments share 2 MB in the kernel; the manifest's own bound for one value.
const VALUE_MAX: usize = 64 << 10;
const SCALE_MAX: u16 = 100;

pub(crate) struct Draft<'r> {
    pub(crate) manifest: Manifest,
    pub(crate) report: &'r Report,
    /// Where each variable stood.
    places: BTreeMap<EnvKey, (At, String)>,
    /// Values of secrets as far as the file has them: only to see whether they differ.
    sealed: BTreeMap<EnvKey, String>,
}

/// What became of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is in `[env]`.
    Plain,
    /// It is a secret: whoever it is meant for lists it.
    Secret(EnvKey),
    /// It was left out, with a remark.
    Not,
}

/// A service about which nothing is known.
pub(crate) fn bare_service() -> Declared {
    Declared {
        command: None,
        image: None,
        port: None,
        count: 1,
        resources: Resources::default(),
        health: Health::default(),
        routes: None,
        expose: Expose::Public,
        uses: BTreeSet::new(),
        secrets: BTreeSet::new(),
        stop_grace: STOP_GRACE,
    }
}

impl<'r> Draft<'r> {
    pub(crate) fn new(app: Name, report: &'r Report) -> Self {
        Self {
            manifest: Manifest::named(app),
            report,
            places: BTreeMap::new(),
            sealed: BTreeMap::new(),
        }
    }

    /// Puts a variable into `[env]`, or says that it is a secret; `None` stands for a value that is not in the file.
    pub(crate) fn variable(&mut self, at: At, path: &str, key: &str, value: Option<&str>) -> Kept {
        let Some(value) = value else {
            let message = format!("its value is not in the file; set it: stoa secrets set {key}");
            return self
                .secret(at, path, key, None, message)
                .map_or(Kept::Not, Kept::Secret);
        };
        if looks_secret(key, value) {
            let message =
                format!("looks like a secret, so its value is left out; set it: stoa secrets set {key}");
            return self
                .secret(at, path, key, Some(value), message)
                .map_or(Kept::Not, Kept::Secret);
        }
        let Some(name) = self.key(at, path, key) else {
            return Kept::Not;
        };
        if value.contains('\0') || value.len() > VALUE_MAX {
            self.report.unsupported(
                at,
                path,
                format!(
                    "a variable holds at most {} KiB and no NUL: it is left out",
                    VALUE_MAX >> 10
                ),
            );
            return Kept::Not;
        }
        if let Some(other) = self.manifest.env.get(&name)
            && other != value
        {
            let message = format!(
                "another service has {key} with another value, and [env] is one for all of them: it is left out; \
                 make them two apps, or set it in the command"
            );
            self.report.unsupported(at, path, message);
            return Kept::Not;
        }
        self.manifest.env.insert(name, value.to_owned());
        Kept::Plain
    }

    /// A variable whose value the file does not give, or must not.
    pub(crate) fn secret(
        &mut self,
        at: At,
        path: &str,
        key: &str,
        value: Option<&str>,
        message: String,
    ) -> Option<EnvKey> {
        let name = self.key(at, path, key)?;
        self.report.changed(at, path, message);
        if let Some(value) = value {
            let first = self
                .sealed
                .entry(name.clone())
                .or_insert_with(|| value.to_owned());
            if first != value {
                let message = format!(
                    "{key} has another value elsewhere in the file, and a secret is one for all services of an app: give it \
                     another name, or make them two apps"
                );
                self.report.unsupported(at, path, message);
            }
        }
        Some(name)
    }

    /// Declares what the Procfile beside the file says, or the one service that every source is. What is declared already
    /// stays as it is, and gets its command from there.
    pub(crate) fn run_processes(&mut self, procfile: Option<&str>) {
        let beside = procfile.and_then(|text| procfile::beside(text, &self.manifest.app, self.report));
        if let Some(beside) = beside {
            for (name, found) in beside.services {
                let service = self.manifest.services.entry(name).or_insert_with(bare_service);
                service.command = service.command.take().or(found.command);
            }
            for (name, job) in beside.jobs {
                self.manifest.jobs.entry(name).or_insert(job);
            }
        }
        if self.manifest.services.is_empty()
            && let Ok(web) = "web".parse::<Name>()
        {
            self.manifest.services.insert(web, bare_service());
        }
    }

    fn key(&mut self, at: At, path: &str, key: &str) -> Option<EnvKey> {
        let Ok(name) = key.parse::<EnvKey>() else {
            let message = "is not the name of a variable here (letters, digits and _): it is left out";
            self.report.unsupported(at, path, message);
            return None;
        };
        if EnvKey::is_set_by_stoa(key) {
            let message = "is set by Stoa for each service: PORT is what it listens on";
            self.report.changed(at, path, message);
            return None;
        }
        self.places.insert(name.clone(), (at, path.to_owned()));
        Some(name)
    }

    /// A name for a service, job or database, made from what another platform allows.
    pub(crate) fn name(&self, at: At, path: &str, text: &str) -> Option<Name> {
        let Some(name) = fitting(text) else {
            let message = format!(
                "{text:?} makes no name here: it is left out; begin with a letter a-z, then a-z, 0-9 and -"
            );
            self.report.unsupported(at, path, message);
            return None;
        };
        if name.as_str() != text {
            let message = format!("is called {name} here; what names it as a host must be changed, too");
            self.report.changed(at, path, message);
        }
        Some(name)
    }

    /// A value within what a manifest allows; the nearest that is allowed otherwise.
    pub(crate) fn within<T>(&self, at: At, path: &str, value: T, range: RangeInclusive<T>) -> T
    where
        T: Ord + Copy + std::fmt::Display,
    {
        let kept = value.clamp(*range.start(), *range.end());
        if kept != value {
            let message = format!("{value} is beyond what is allowed here: it becomes {kept}");
            self.report.changed(at, path, message);
        }
        kept
    }

    pub(crate) fn scale(&self, at: At, path: &str, text: &str) -> Option<u16> {
        let count = u16::try_from(self.whole(at, path, text)?).unwrap_or(u16::MAX);
        Some(self.within(at, path, count, 1..=SCALE_MAX))
    }

    pub(crate) fn whole(&self, at: At, path: &str, text: &str) -> Option<u64> {
        let number = text.parse().ok();
        if number.is_none() {
            self.not_understood(at, path, text, "a whole number");
        }
        number
    }

    pub(crate) fn cpu(&self, at: At, path: &str, text: &str) -> Option<CpuMillis> {
        let cpu = text
            .parse::<f64>()
            .ok()
            .and_then(|share| CpuMillis::from_processors(share).ok());
        if cpu.is_none() {
            self.not_understood(at, path, text, "a number of processors from 0.01 to 1024");
        }
        cpu
    }

    pub(crate) fn memory(&self, at: At, path: &str, text: &str) -> Option<Bytes> {
        let Some(bytes) = bytes(text) else {
            self.not_understood(at, path, text, "a size");
            return None;
        };
        Some(self.within(at, path, bytes, Bytes::mi(4)..=Bytes::mi(1 << 20)))
    }

    pub(crate) fn pids(&self, at: At, path: &str, text: &str) -> Option<u32> {
        let count = u32::try_from(self.whole(at, path, text)?).unwrap_or(u32::MAX);
        Some(self.within(at, path, count, 8..=32_768))
    }

    pub(crate) fn time(
        &self,
        at: At,
        path: &str,
        text: &str,
        range: RangeInclusive<Millis>,
    ) -> Option<Millis> {
        let Some(span) = span(text) else {
            self.not_understood(at, path, text, "a span of time");
            return None;
        };
        Some(self.within(at, path, span, range))
    }

    pub(crate) fn not_understood(&self, at: At, path: &str, text: &str, wanted: &str) {
        let shown: String = text.chars().take(60).collect();
        let message = format!("{shown:?} is not {wanted}: it is left out");
        self.report.unsupported(at, path, message);
    }

    /// A command written as one line.
    pub(crate) fn line(&self, at: At, path: &str, line: &str) -> Option<Vec<String>> {
        match model::manifest::command::split(line) {
            Ok(words) => Some(words),
            Err(error) => {
                self.report
                    .unsupported(at, path, format!("{error}: it is left out"));
                None
            }
        }
    }

    /// The app's own host leads to this service, which has a port; all others with a port are private.
    pub(crate) fn publish(&mut self, chosen: Option<&Name>) {
        // One of that name has a port by convention, and the host by default.
        const WEB: &str = "web";
        let services = &mut self.manifest.services;
        let has_port = |(name, service): (&Name, &Declared)| service.port.is_some() || name.as_str() == WEB;
        let with_port = services.iter().filter(|each| has_port(*each)).count();
        for (name, service) in services {
            if Some(name) == chosen {
                let is_default = with_port == 1 || name.as_str() == WEB;
                service.routes = (!is_default && service.port.is_some()).then(|| {
                    vec![Route {
                        host: None,
                        path: "/".to_owned(),
                    }]
                });
            } else if service.port.is_some() || chosen.is_some() && name.as_str() == WEB {
                service.expose = Expose::Private;
            }
        }
    }

    /// Says so when a command holds what looks like a secret: there it can not be left out.
    pub(crate) fn mention_words(&self, at: At, path: &str, words: &[String]) {
        if holds_secret(words.iter().map(String::as_str)) {
            let message = "holds what looks like a secret, and it stands in the file as it is: take it out, and let the program \
                           read a secret (stoa secrets set KEY) as a variable or from /run/secrets";
            self.report.changed(at, path, message);
        }
    }

    /// The manifest, once its own parser has read it; otherwise what that says.
    pub(crate) fn finish(mut self) -> Option<Manifest> {
        self.settle_secrets();
        self.settle_databases();
        self.mention_secrets_in_commands();
        let text = self.manifest.to_toml();
        match Manifest::parse(&text) {
            Ok(manifest) => Some(manifest),
            Err(problems) => {
                for problem in problems {
                    let message = format!("{problem}: no stoa.toml comes of this");
                    self.report.unsupported(At::new(1, 1), &problem.path, message);
                }
                None
            }
        }
    }

    /// What is a secret for one service and plain for another is a secret for all.
    fn settle_secrets(&mut self) {
        let services = self.manifest.services.values();
        let jobs = self.manifest.jobs.values();
        let all: BTreeSet<EnvKey> = services
            .flat_map(|service| service.secrets.iter())
            .chain(jobs.flat_map(|job| job.secrets.iter()))
            .cloned()
            .collect();
        for key in all {
            if self.manifest.env.remove(&key).is_some() {
                if let Some((at, path)) = self.places.get(&key) {
                    let message = format!(
                        "{key} looks like a secret in one place and not in another: it is one for all services; set it: stoa secrets \
                         set {key}"
                    );
                    self.report.changed(*at, path, message);
                }
                for service in self.manifest.services.values_mut() {
                    service.secrets.insert(key.clone());
                }
                for job in self.manifest.jobs.values_mut() {
                    job.secrets.insert(key.clone());
                }
            }
        }
    }

    /// Words of a command show in every list of processes, so Stoa puts no secrets into them.
    fn mention_secrets_in_commands(&self) {
        let services = self.manifest.services.iter().filter_map(|(name, service)| {
            let words = service.command.as_ref()?;
            Some((format!("services.{name}.command"), words, &service.secrets))
        });
        let jobs = self.manifest.jobs.iter();
        let jobs = jobs.map(|(name, job)| (format!("jobs.{name}.command"), &job.command, &job.secrets));
        for (path, words, secrets) in services.chain(jobs) {
            let named = RefCell::new(BTreeSet::new());
            let _words = model::manifest::command::expand(words, |name| {
                named.borrow_mut().insert(name.to_owned());
                None
            });
            for key in secrets.iter().filter(|key| named.borrow().contains(key.as_str())) {
                let at = self.places.get(key).map_or(At::new(1, 1), |(at, _)| *at);
                let message = format!(
                    "names the secret {key}, but a command shows in lists of processes and gets no secrets: let the program read \
                     the variable {key}, or the file /run/secrets/{key}"
                );
                self.report.unsupported(at, &path, message);
            }
        }
    }

    /// Stoa sets what leads to a database, so nothing else may.
    fn settle_databases(&mut self) {
        if self.manifest.databases.is_empty() {
            return;
        }
        let leads = |key: &EnvKey| EnvKey::leads_to_database(key.as_str());
        for (key, (at, path)) in self.places.iter().filter(|(key, _)| leads(key)) {
            let message = format!("{key} is set by Stoa for the database: it is left out");
            self.report.changed(*at, path, message);
        }
        self.manifest.env.retain(|key, _| !leads(key));
        for service in self.manifest.services.values_mut() {
            service.secrets.retain(|key| !leads(key));
        }
        for job in self.manifest.jobs.values_mut() {
            job.secrets.retain(|key| !leads(key));
        }
    }
}

/// A name made of a text: capitals become small, `_` and the like hyphens.
#[must_use]
pub fn fitting(text: &str) -> Option<Name> {
    let small: String = text
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_lowercase() || c.is_ascii_digit() => c,
            _ => '-',
        })
        .collect();
    let begun = small.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let short: String = begun.chars().take(39).collect();
    short.trim_end_matches('-').parse().ok()
}

/// Words that name what must not stand in a file.
const SECRET: [&str; 11] = [
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "APIKEY",
    "API_KEY",
    "PRIVATE_KEY",
    "ACCESS_KEY",
    "ENCRYPTION_KEY",
    "CREDENTIAL",
];
const SECRET_ENDS: [&str; 5] = ["_KEY", "_PASS", "_PWD", "_PW", "_AUTH"];
/// What says so about a secret, but is none.
const PLAIN_ENDS: [&str; 5] = ["_FILE", "_PATH", "_TTL", "_EXPIRY", "_ENABLED"];

/// Whether a variable looks like a secret, by its name or because its value is an address with a password in it.
pub(crate) fn looks_secret(key: &str, value: &str) -> bool {
    let key = key.to_ascii_uppercase();
    let is_switch = matches!(value, "" | "true" | "false" | "yes" | "no" | "on" | "off");
    if is_switch || PLAIN_ENDS.iter().any(|end| key.ends_with(end)) {
        return false;
    }
    SECRET.iter().any(|word| key.contains(word))
        || SECRET_ENDS.iter().any(|end| key.ends_with(end))
        || password_in(value).is_some()
}

/// `scheme://user:password@host`.
fn password_in(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    (!password.is_empty()).then_some(password)
}

/// Whether words of a command hold a secret: `--api-key=VALUE`, `--password VALUE`, an address with a password. What is
/// read from a variable or a file is none.
pub(crate) fn holds_secret<'w>(words: impl IntoIterator<Item = &'w str>) -> bool {
    let is_read = |value: &str| value.starts_with('/') || value.starts_with('$') && !value.starts_with("$$");
    let of_option = |name: &str, value: &str| {
        let name = name.trim_start_matches('-').replace(['-', '.'], "_");
        !is_read(value) && password_in(value).is_none() && looks_secret(&name, value)
    };
    let mut option = "";
    for word in words {
        let is_value_of_option = !word.starts_with('-') && of_option(option, word);
        let has_value = word
            .split_once('=')
            .is_some_and(|(name, value)| of_option(name, value));
        if is_value_of_option || has_value || password_in(word).is_some_and(|password| !is_read(password)) {
            return true;
        }
        let is_option = word.starts_with('-') && !word.contains('=');
        option = if is_option { word } else { "" };
    }
    false
}

/// `512m`, `1.5gb`, `1073741824`, `512Mi`.
fn bytes(text: &str) -> Option<Bytes> {
    if let Ok(exact) = text.parse::<Bytes>() {
        return Some(exact);
    }
    let small = text.trim().to_ascii_lowercase();
    let digits = small
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(small.len());
    let (number, unit) = small.split_at(digits);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    let exact = number * f64::from(1_u32 << (shift / 2)) * f64::from(1_u32 << (shift - shift / 2));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded just before"
    )]
    (0.0..=9.0e15).contains(&exact).then(|| Bytes::new(exact as u64))
}

/// `1m30s`, `90s`, `1.5h`, `500ms`, and a plain number of seconds.
pub(crate) fn span(text: &str) -> Option<Millis> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    if let Ok(seconds) = rest.parse::<u32>() {
        return Some(Millis::seconds(u64::from(seconds)));
    }
    let mut ms = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        let letters = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        ms += number
            * match &tail[..letters] {
                "us" | "µs" => 0.001,
                "ms" => 1.0,
                "s" => 1000.0,
                "m" => 60_000.0,
                "h" => 3_600_000.0,
                "d" => 86_400_000.0,
                _ => return None,
            };
        rest = &tail[letters..];
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded just before"
    )]
    (0.0..=9.0e15)
        .contains(&ms)
        .then(|| Millis::new(ms.round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_of_others_are_read() {
        for (text, expected) in [
            ("512m", Some(512 << 20)),
            ("1.5gb", Some(3 << 29)),
            ("64k", Some(64 << 10)),
            ("1073741824", Some(1 << 30)),
            ("512Mi", Some(512 << 20)),
            ("much", None),
            ("", None),
            ("-1g", None),
            ("1e9999", None),
        ] {
            assert_eq!(bytes(text).map(Bytes::get), expected, "{text}");
        }
        for (text, expected) in [
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("500ms", Some(500)),
            ("10", Some(10_000)),
            ("1s junk", None),
            ("s", None),
            ("", None),
            ("99999999999999999h", None),
        ] {
            assert_eq!(span(text).map(Millis::as_ms), expected, "{text}");
        }
    }

    #[test]
    fn secrets_are_known_by_name_and_by_value() {
        for (key, value, secret) in [
            ("DB_PASSWORD", "x", true),
            ("STRIPE_KEY", "sk", true),
            ("ADMIN_TOKEN", "x", true),
            ("REDIS_URL", "redis://:pw@cache:6379", true),
            ("SITE", "https://user@example.org/", false),
            ("SITE", "https://example.org/a:b@c", false),
            ("DB_PASSWORD_FILE", "/run/secrets/x", false),
            ("ALLOW_EMPTY_PASSWORD", "yes", false),
            ("KEYBOARD", "de", false),
            ("LOG_LEVEL", "info", false),
        ] {
            assert_eq!(looks_secret(key, value), secret, "{key}={value}");
        }
    }

    #[test]
    fn secrets_in_commands_are_seen() {
        for (line, holds) in [
            ("serve --api-key=abc", true),
            ("serve --api-key abc", true),
            ("redis-server --requirepass-token x", true),
            ("serve --db postgres://u:p@db/x", true),
            ("serve API_TOKEN=x", true),
            ("serve --api-key=$API_KEY --token ${T}", false),
            ("serve --db=postgres://u:$PW@db/x", false),
            ("serve --api-key --verbose", false),
            ("serve --token-file x --ssl-key /etc/x.pem", false),
            ("serve --level=info http://x/y", false),
            ("", false),
        ] {
            assert_eq!(holds_secret(line.split(' ')), holds, "{line}");
        }
    }

    #[test]
    fn names_of_others_fit_or_are_refused() {
        for (text, name) in [
            ("web", Some("web")),
            ("Uptime_Kuma.1", Some("uptime-kuma-1")),
            ("1web", Some("web")),
            ("_", None),
            ("ü", None),
        ] {
            assert_eq!(fitting(text).map(|n| n.to_string()).as_deref(), name, "{text}");
        }
    }
}
