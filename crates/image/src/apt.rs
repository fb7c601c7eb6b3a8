//! How apt is set up on this host: where Debian packages come from.
//!
//! Lives here: reading the host's sources and network settings, as text.
//! Does not live here: making a base from them (`debian`).
//! Invariant: only Debian's own archives (component `main`, suite of the release) are taken over; a third party's source
//! on the host does not end up in anybody's image.

use std::path::Path;

use crate::error::{Doing, Result};

/// One archive and suite.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    options: Vec<(String, String)>,
    uri: String,
    suite: String,
    components: Vec<String>,
}

/// Settings of apt that a base needs too: proxies, certificates, how strict about dates.
const SETTINGS: [&str; 6] = [
    "proxy",
    "cainfo",
    "verify-",
    "check-valid-until",
    "check-date",
    "retries",
];

/// One-line sources for a release, from those of the host; those of another release have the code name exchanged.
/// Empty when the host has none: mmdebstrap then knows its own default.
pub(crate) fn sources_for(release: &str) -> Result<Vec<String>> {
    let own = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .unwrap_or(release)
        .trim_matches('"');
    let mut sources = Vec::new();
    for path in source_files(Path::new("/etc/apt"))? {
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let is_stanzas = path.extension().is_some_and(|extension| extension == "sources");
        sources.extend(if is_stanzas {
            stanzas(&text)
        } else {
            one_lines(&text)
        });
    }
    Ok(lines_for(&sources, own, release))
}

fn lines_for(sources: &[Source], own: &str, release: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for source in sources
        .iter()
        .filter(|source| source.components.iter().any(|part| part == "main"))
    {
        let rest = source
            .suite
            .strip_prefix(own)
            .or_else(|| source.suite.strip_prefix(release));
        let Some(kind @ ("" | "-updates" | "-security")) = rest else {
            continue;
        };
        let options: Vec<String> = source
            .options
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let options = if options.is_empty() {
            String::new()
        } else {
            format!("[{}] ", options.join(" "))
        };
        let line = format!("deb {options}{} {release}{kind} main", source.uri);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

fn source_files(apt: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = vec![apt.join("sources.list")];
    let parts = apt.join("sources.list.d");
    if parts.is_dir() {
        for entry in std::fs::read_dir(&parts).doing("read", &parts)? {
            let path = entry.doing("read", &parts)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "list" || extension == "sources")
            {
                files.push(path);
            }
        }
    }
    files[1..].sort();
    Ok(files)
}

/// `deb [options] URI SUITE COMPONENT...`
fn one_lines(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line
            .strip_prefix("deb")
            .filter(|rest| rest.starts_with([' ', '\t']))
        else {
            continue;
        };
        let rest = rest.trim();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            let options = options
                .split_whitespace()
                .filter_map(|pair| pair.split_once('='))
                .filter(|(key, _)| is_kept(key));
            let options = options
                .map(|(key, value)| (key.to_lowercase(), value.to_owned()))
                .collect();
            sources.push(Source {
                options,
                uri,
                suite,
                components: words.collect(),
            });
        }
    }
    sources
}

/// Blocks of `Field: value` lines.
fn stanzas(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for block in text.split(|line| line.trim().is_empty()) {
        let field = |name: &str| {
            block.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let words = |name: &str| -> Vec<String> {
            field(name)
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        };
        if field("Enabled").is_some_and(|enabled| enabled == "no")
            || !words("Types").iter().any(|kind| kind == "deb")
        {
            continue;
        }
        let options: Vec<(String, String)> = ["Signed-By", "Trusted"]
            .iter()
            // A key written into the file itself cannot be an option on a line; the default keys then decide.
            .filter_map(|name| {
                Some((
                    name.to_lowercase(),
                    field(name).filter(|value| !value.is_empty() && !value.contains(' '))?,
                ))
            })
            .collect();
        for uri in words("URIs") {
            for suite in words("Suites") {
                let (options, uri, components) = (options.clone(), uri.clone(), words("Components"));
                sources.push(Source {
                    options,
                    uri,
                    suite,
                    components,
                });
            }
        }
    }
    sources
}

fn is_kept(option: &str) -> bool {
    option.eq_ignore_ascii_case("signed-by") || option.eq_ignore_ascii_case("trusted")
}

/// The lines of `apt-config dump` that a base's apt needs to reach its archives as the host does.
pub(crate) fn settings(dump: &str) -> Vec<String> {
    let is_needed = |line: &&str| {
        let name = line.split_whitespace().next().unwrap_or_default().to_lowercase();
        name.starts_with("acquire::")
            && SETTINGS.iter().any(|setting| name.contains(setting))
            && !line.ends_with("\"\";")
    };
    dump.lines().filter(is_needed).map(str::to_owned).collect()
}

/// A source without the name and password some mirrors need: images are shown and exported.
pub(crate) fn without_credentials(line: &str) -> String {
    let words = line.split(' ').map(|word| match word.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.split('/').next().unwrap_or_default();
            match authority.rfind('@') {
                Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
                None => word.to_owned(),
            }
        }
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_third_parties_left_out() {
        let old = "# deb http://old.example/debian bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main contrib # note\n\
            deb-src http://m.example/debian bookworm main\n\
            deb http://m.example/security bookworm-security main\n\
            deb http://m.example/debian bookworm-backports main\n\
            deb https://third.example/linux bookworm stable\n";
        let new = "Types: deb deb-src\nURIs: http://a.example http://b.example\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k2.gpg\n\n\
            Enabled: no\nTypes: deb\nURIs: http://c.example\nSuites: bookworm\nComponents: main\n";
        let sources: Vec<Source> = one_lines(old).into_iter().chain(stanzas(new)).collect();
        assert_eq!(
            lines_for(&sources, "bookworm", "bookworm"),
            [
                "deb [signed-by=/k.gpg] http://m.example/debian bookworm main",
                "deb http://m.example/security bookworm-security main",
                "deb [signed-by=/k2.gpg] http://a.example bookworm main",
                "deb [signed-by=/k2.gpg] http://a.example bookworm-updates main",
                "deb [signed-by=/k2.gpg] http://b.example bookworm main",
                "deb [signed-by=/k2.gpg] http://b.example bookworm-updates main",
            ]
        );
        assert_eq!(
            lines_for(&sources, "bookworm", "trixie")[1],
            "deb http://m.example/security trixie-security main"
        );
    }

    #[test]
    fn settings_are_those_of_the_network_only() {
        let dump = "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://p.example:1\";\nAcquire::https::Proxy \"\";\n\
            Acquire::Languages \"none\";\nAcquire::Check-Date \"false\";\nDPkg::Post-Invoke:: \"rm -f x\";\n";
        assert_eq!(
            settings(dump),
            [
                "Acquire::http::Proxy \"http://p.example:1\";",
                "Acquire::Check-Date \"false\";"
            ]
        );
    }

    #[test]
    fn credentials_do_not_reach_the_image() {
        assert_eq!(
            without_credentials("deb https://u:p@m.example/d@b x main"),
            "deb https://m.example/d@b x main"
        );
        assert_eq!(
            without_credentials("deb http://m.example/d x main"),
            "deb http://m.example/d x main"
        );
    }
}
